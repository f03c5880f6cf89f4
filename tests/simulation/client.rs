//! A connection: the session and the readers that it serves.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use starfeed::catalog::{self, Arrival};
use starfeed::change::{Seq, Timestamp};
use starfeed::feed::{CatchUp, Outbox};
use starfeed::proto::{self, request::Command, response::Body};
use starfeed::session::{Read, ReadResult, Session, Share, Step, Watch, Work, WriteTicket};
use starfeed::store::Unit;
use starfeed::subscription::Principal;
use starfeed::wire::{ClientMessage, Event, News, ServerMessage};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::jobs::{StatusReader, SyncReader};
use super::mouth::Conversation;
use super::reader::Reader;
use super::server::{Server, Truth};
use super::wish::Wish;

enum Asked {
    Subscribe(Box<Reader>),
    /// With the token of the reader; the wish may be for another view than the token is of.
    Resume {
        reader: Box<Reader>,
        wish: Wish,
        token: Option<bytes::Bytes>,
    },
    /// With a token that nobody made.
    Forge,
    Unsubscribe(i32),
    Write,
    Sync(SyncReader),
    Status,
}

/// A part of a table that the session watches.
struct Watched {
    subscription_id: i32,
    bell: watch::Receiver<bool>,
    until: CancellationToken,
}

pub(crate) struct Client {
    conversation: Conversation,
    may_have_more: bool,
    readers: BTreeMap<i32, Reader>,
    syncs: BTreeMap<i32, SyncReader>,
    statuses: BTreeMap<i32, StatusReader>,
    watched: Vec<Watched>,
    asked: BTreeMap<i32, Asked>,
    next_request: i32,
    next_subscription: i32,
    reads: VecDeque<Read>,
    /// Pages that others have read or are to read.
    shares: Vec<Share>,
    results: VecDeque<ReadResult>,
    pub(crate) writes: VecDeque<(WriteTicket, Unit)>,
    pub(crate) counts: BTreeMap<&'static str, u64>,
}

impl Client {
    /// One to which publishers speak themselves if it `is_direct`.
    pub(super) fn new(server: &Server, outbox_bytes: usize, is_direct: bool) -> Self {
        let session = |outlet| {
            let outbox = Outbox::new(outbox_bytes, Arc::clone(&server.waiting), outlet);
            Session::new(Arc::clone(&server.context), Principal::Anonymous, "simulated".to_owned(), outbox)
        };
        Self {
            conversation: Conversation::begin(is_direct, session),
            may_have_more: false,
            readers: BTreeMap::new(),
            syncs: BTreeMap::new(),
            statuses: BTreeMap::new(),
            watched: Vec::new(),
            asked: BTreeMap::new(),
            next_request: 0,
            next_subscription: 0,
            reads: VecDeque::new(),
            shares: Vec::new(),
            results: VecDeque::new(),
            writes: VecDeque::new(),
            counts: BTreeMap::new(),
        }
    }

    pub(crate) fn subscriptions(&self) -> Vec<i32> {
        self.readers.keys().chain(self.syncs.keys()).chain(self.statuses.keys()).copied().collect()
    }

    /// Those of them that follow a table.
    pub(crate) fn followers(&self) -> usize {
        self.readers.len() + self.statuses.len()
    }

    /// The newest change that it has seen.
    pub(crate) fn seen(&self) -> Seq {
        self.readers.values().map(|reader| reader.seen).max().unwrap_or_default()
    }

    pub(crate) fn subscribe(&mut self, wish: Wish) {
        let mut reader = Reader::new(wish);
        let (command, _) = reader.command(None);
        self.ask(command, Asked::Subscribe(Box::new(reader)));
    }

    /// Goes on where `reader` was; with another filter, if there is one.
    pub(crate) fn resume(&mut self, mut reader: Reader, other: Option<Wish>) {
        let (command, token) = reader.command(other.as_ref());
        let wish = other.unwrap_or_else(|| reader.wish.clone());
        self.ask(command, Asked::Resume { reader: Box::new(reader), wish, token });
    }

    /// Takes what a job downloads; behind what it has, if it has some.
    pub(crate) fn sync(&mut self, reader: SyncReader) {
        self.ask(reader.command(), Asked::Sync(reader));
    }

    pub(crate) fn follow_status(&mut self) {
        self.ask(StatusReader::command(), Asked::Status);
    }

    pub(crate) fn forge(&mut self, wish: &Wish, token: bytes::Bytes) {
        self.ask(wish.command(Some(token)), Asked::Forge);
    }

    pub(crate) fn unsubscribe(&mut self, subscription_id: i32) {
        let command = Command::Unsubscribe(proto::RequestUnsubscribe { subscription_id });
        self.ask(command, Asked::Unsubscribe(subscription_id));
    }

    pub(crate) fn delete_login(&mut self, domain: &str) {
        let command = Command::DeleteDomainLogin(proto::RequestDeleteDomainLogin { domain: Some(domain.to_owned()) });
        self.ask(command, Asked::Write);
    }

    fn ask(&mut self, command: Command, asked: Asked) {
        let request_id = self.next_request;
        self.next_request += 1;
        self.asked.insert(request_id, asked);
        let arrival = Arrival { now: Timestamp(0), fresh_id: uuid::Uuid::nil(), has_crawler: false };
        let message = ClientMessage { request_id, size: 10, command: Some(command) };
        self.conversation.tell(|session| session.receive(message, &arrival));
        self.may_have_more = true;
    }

    /// Lets its time pass.
    pub(crate) fn tick(&mut self, now_ms: u64) {
        self.may_have_more |= self.conversation.tick(now_ms);
    }

    /// Takes up to `count` messages, if it was told that there may be some; then begins what the session wants done.
    pub(crate) fn take(&mut self, count: usize, truth: Truth<'_>) -> bool {
        self.may_have_more |= self.conversation.is_woken();
        if !self.may_have_more {
            return false;
        }
        for _ in 0..count {
            match self.conversation.next_step() {
                Step::Send(message) => self.receive(message, truth),
                Step::Do(Work::Write { ticket, unit }) => self.writes.push_back((ticket, unit)),
                Step::Do(Work::Read(read)) => self.reads.push_back(read),
                Step::Do(Work::Share(share)) => {
                    let is_there = share.now().is_some();
                    self.count(if is_there {
                        "a page that another one has read"
                    } else {
                        "a page that another one reads"
                    });
                    self.shares.push(share);
                }
                Step::Do(Work::Watch(watch)) => self.watch(watch, truth),
                Step::Do(work @ Work::Ask { .. }) => panic!("nobody asks for {work:?}"),
                Step::Wait => {
                    self.may_have_more = false;
                    return true;
                }
            }
        }
        true
    }

    fn watch(&mut self, watch: Watch, truth: Truth<'_>) {
        let Watch { subscription_id, table, index, mut prefix, until } = watch;
        let secrets = catalog::stored_table(table.name()).expect("a table of the catalog").secrets;
        let bell = truth.feeds.bell(&table, secrets, index.members[0], prefix.remove(0));
        self.watched.push(Watched { subscription_id, bell, until });
    }

    /// Hears the bells that rang; says whether there were some.
    pub(crate) fn hear(&mut self) -> bool {
        self.watched.retain(|watched| !watched.until.is_cancelled());
        let mut has_heard = false;
        for Watched { subscription_id, bell, .. } in &mut self.watched {
            if bell.has_changed().expect("the feed is there") {
                bell.mark_unchanged();
                self.conversation.tell(|session| session.changed(*subscription_id));
                has_heard = true;
            }
        }
        self.may_have_more |= has_heard;
        has_heard
    }

    /// Takes, reads and hands over; says whether there was anything to do.
    pub(crate) fn go_on(&mut self, truth: Truth<'_>) -> bool {
        let heard = self.hear();
        let took = self.take(50, truth);
        let shared = self.take_shared();
        let read = self.read(truth);
        let delivered = self.deliver_read(truth);
        heard || took || shared || read || delivered
    }

    /// Takes what others have read; says whether there was some.
    fn take_shared(&mut self) -> bool {
        let before = self.results.len();
        let Self { shares, results, counts, .. } = self;
        shares.retain(|share| {
            let Some(result) = share.now() else { return true };
            if matches!(result, ReadResult::GivenUp { .. }) {
                *counts.entry("a page that was given up by who was to read it").or_default() += 1;
            }
            results.push_back(result);
            false
        });
        self.results.len() > before
    }

    /// Reads what the session asked for; the result is under way for a while.
    pub(crate) fn read(&mut self, truth: Truth<'_>) -> bool {
        self.take_shared();
        let Some(read) = self.reads.pop_front() else {
            return false;
        };
        self.results.push_back(read.run(truth.store));
        true
    }

    /// Hands the session what was read.
    pub(crate) fn deliver_read(&mut self, truth: Truth<'_>) -> bool {
        let Some(result) = self.results.pop_front() else {
            return false;
        };
        if let ReadResult::Page { subscription_id, result: Ok(CatchUp::Page(page)) } = &result
            && let Some(reader) = self.readers.get_mut(subscription_id)
        {
            reader.page_read(page, truth);
        }
        self.conversation.tell(|session| session.read(result));
        self.may_have_more = true;
        true
    }

    pub(crate) fn written(
        &mut self,
        ticket: WriteTicket,
        result: Result<starfeed::store::UnitResult, starfeed::store::StoreError>,
    ) {
        self.conversation.tell(|session| session.written(ticket, result.map_err(Into::into)));
        self.may_have_more = true;
    }

    fn receive(&mut self, message: ServerMessage, truth: Truth<'_>) {
        match message {
            ServerMessage::Response { request_id, result } => {
                let asked = self.asked.remove(&request_id).expect("each request is answered once");
                self.answered(asked, result, truth);
            }
            ServerMessage::Event { subscription_id, event } => self.take_event(subscription_id, event, truth),
            ServerMessage::Changes { subscription_id, changes } => {
                changes.events().for_each(|event| self.take_event(subscription_id, event, truth));
            }
            ServerMessage::Rows { subscription_id, rows } => {
                rows.events().for_each(|event| self.take_event(subscription_id, event, truth));
            }
        }
    }

    fn take_event(&mut self, subscription_id: i32, event: Event, truth: Truth<'_>) {
        let is_end = matches!(event.news, News::Closed { .. });
        if let Some(sync) = self.syncs.get_mut(&subscription_id) {
            if let Some(state) = sync.take(&event.news, truth) {
                self.count(state);
                self.syncs.remove(&subscription_id);
            }
            return;
        }
        if let Some(status) = self.statuses.get_mut(&subscription_id) {
            if status.take(&event.news) {
                self.count("job status ended because the log was trimmed");
                self.statuses.remove(&subscription_id);
            }
            return;
        }
        let reader =
            self.readers.get_mut(&subscription_id).expect("events come only between subscribe and unsubscribe");
        reader.take(subscription_id, event, truth);
        if is_end && let Some(reader) = self.readers.remove(&subscription_id) {
            self.keep_counts(&reader);
        }
    }

    fn count(&mut self, state: &'static str) {
        *self.counts.entry(state).or_default() += 1;
    }

    fn answered(&mut self, asked: Asked, result: Result<Option<Box<Body>>, String>, truth: Truth<'_>) {
        match (asked, result) {
            (Asked::Subscribe(reader), Ok(Some(body))) => {
                let subscription_id = self.subscribed(&body);
                self.readers.insert(subscription_id, *reader);
            }
            (Asked::Sync(reader), Ok(Some(body))) => {
                let subscription_id = self.subscribed(&body);
                self.count(if reader.is_begun() { "a resumed sync" } else { "a sync" });
                self.syncs.insert(subscription_id, reader);
            }
            (Asked::Sync(reader), Err(text)) => {
                reader.check_refused(&text, truth);
                self.count("a sync of a job that is not there");
            }
            (Asked::Status, Ok(Some(body))) => {
                let subscription_id = self.subscribed(&body);
                self.statuses.insert(subscription_id, StatusReader::default());
            }
            (Asked::Resume { mut reader, wish, token }, Ok(Some(body))) => {
                reader.resumed(&wish, token.as_ref(), truth);
                let subscription_id = self.subscribed(&body);
                self.readers.insert(subscription_id, *reader);
            }
            (Asked::Forge, Err(text)) => {
                assert!(text.starts_with("invalid_token: "), "{text}");
                self.count("a forged token");
            }
            (Asked::Unsubscribe(subscription_id), Ok(None)) => {
                self.syncs.remove(&subscription_id);
                self.statuses.remove(&subscription_id);
                if let Some(reader) = self.readers.remove(&subscription_id) {
                    self.keep_counts(&reader);
                    *self.counts.entry("an end before the snapshot was complete").or_default() +=
                        u64::from(reader.is_in_snapshot());
                }
            }
            (Asked::Unsubscribe(subscription_id), Err(text)) => {
                assert_eq!(text, format!("Unknown subscription_id: {subscription_id}"));
                assert!(!self.readers.contains_key(&subscription_id));
            }
            (Asked::Write, Ok(None)) => {}
            (Asked::Write, Err(_)) => self.count("a refused write"),
            (_, result) => panic!("an unexpected answer: {result:?}"),
        }
    }

    /// The number of a subscription that was made.
    fn subscribed(&mut self, body: &Body) -> i32 {
        let Body::NewSubscription(new) = body else { panic!("{body:?}") };
        assert_eq!(new.subscription_id, self.next_subscription, "ids count up");
        self.next_subscription += 1;
        new.subscription_id
    }

    fn keep_counts(&mut self, reader: &Reader) {
        for (state, count) in &reader.counts {
            *self.counts.entry(state).or_default() += count;
        }
    }

    /// The connection is gone; those who can go on elsewhere are returned.
    pub(crate) fn cut(mut self) -> Left {
        let mut readers = Vec::new();
        let mut syncs: Vec<SyncReader> = std::mem::take(&mut self.syncs).into_values().collect();
        for (_, mut reader) in std::mem::take(&mut self.readers) {
            self.keep_counts(&reader);
            reader.counts.clear();
            readers.push(reader);
        }
        for (state, count) in self.conversation.counts() {
            *self.counts.entry(state).or_default() += count;
        }
        // Those that asked to go on and have no answer yet go on elsewhere, too.
        for asked in std::mem::take(&mut self.asked).into_values() {
            match asked {
                Asked::Resume { reader, .. } => readers.push(*reader),
                Asked::Sync(reader) => syncs.push(reader),
                _ => {}
            }
        }
        readers.retain(|reader| reader.token().is_some());
        Left { readers, syncs, counts: self.counts }
    }

    /// When nothing more comes, it holds what is there.
    pub(crate) fn check_converged(&self, truth: Truth<'_>) {
        assert!(self.asked.is_empty(), "{} requests have no answer", self.asked.len());
        self.readers.values().for_each(|reader| reader.check_converged(truth.model));
        self.syncs.values().for_each(|reader| reader.check_converged(truth.model));
        self.statuses.values().for_each(|reader| reader.check_converged(truth.model));
    }
}

/// What is left of a connection.
pub(crate) struct Left {
    pub(crate) readers: Vec<Reader>,
    pub(crate) syncs: Vec<SyncReader>,
    pub(crate) counts: BTreeMap<&'static str, u64>,
}
