//! A client that holds the rows it was sent, and checks them against the model after every message.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use starfeed::catalog::Arrival;
use starfeed::change::{ChangeKind, Seq, Timestamp};
use starfeed::feed::{CatchUp, Cursor, Outbox, Outlet};
use starfeed::proto::{self, request::Command, response::Body};
use starfeed::session::{Read, ReadResult, Session, SessionContext, Step, Work, WriteTicket};
use starfeed::store::{ChangePage, PageBudget, Store, Unit};
use starfeed::subscription::Principal;
use starfeed::wire::{ClientMessage, Event, ServerMessage};

use super::model::{Model, Rows};

#[derive(Debug, Default)]
struct Flag(AtomicBool);

impl Outlet for Flag {
    fn ready(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[derive(Debug)]
enum Asked {
    Subscribe(&'static str),
    Unsubscribe(i32),
    Write,
}

/// How much of a table the client holds.
#[derive(Debug)]
enum Phase {
    /// Pages of the snapshot are under way: of the one that came last, so many items are still to be seen, and then the
    /// client is where the cursor says.
    Snapshot { cursor: Option<(usize, Cursor)>, at: Seq },
    /// It holds the table as it was after this change.
    Following(Seq),
}

#[derive(Debug)]
struct View {
    table: &'static str,
    rows: Rows,
    phase: Phase,
}

pub(crate) struct Client {
    session: Session,
    wake: Arc<Flag>,
    may_have_more: bool,
    views: BTreeMap<i32, View>,
    asked: BTreeMap<i32, Asked>,
    next_request: i32,
    next_subscription: i32,
    reads: VecDeque<Read>,
    results: VecDeque<ReadResult>,
    pub(crate) writes: VecDeque<(WriteTicket, Unit)>,
    /// The newest change it has seen.
    pub(crate) seen: Seq,
    pub(crate) counts: BTreeMap<&'static str, u64>,
}

impl Client {
    pub(crate) fn new(context: &Arc<SessionContext>, outbox_bytes: usize) -> Self {
        let wake = Arc::new(Flag::default());
        let outbox = Outbox::new(outbox_bytes, Arc::clone(&wake) as _);
        Self {
            session: Session::new(Arc::clone(context), Principal::Anonymous, outbox),
            wake,
            may_have_more: false,
            views: BTreeMap::new(),
            asked: BTreeMap::new(),
            next_request: 0,
            next_subscription: 0,
            reads: VecDeque::new(),
            results: VecDeque::new(),
            writes: VecDeque::new(),
            seen: Seq::ZERO,
            counts: BTreeMap::new(),
        }
    }

    pub(crate) fn subscriptions(&self) -> Vec<i32> {
        self.views.keys().copied().collect()
    }

    pub(crate) fn subscribe(&mut self, table: &'static str) {
        let command = match table {
            "policy" => Command::SubscribePolicyList(proto::RequestSubscribePolicyList {}),
            "schedule" => Command::SubscribeScheduleList(proto::RequestSubscribeScheduleList {}),
            _ => Command::SubscribeDomainLoginList(proto::RequestSubscribeDomainLoginList {}),
        };
        self.ask(command, Asked::Subscribe(table));
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
        let arrival = Arrival { now: Timestamp(0), fresh_id: uuid::Uuid::nil() };
        self.session.receive(ClientMessage { request_id, size: 10, command: Some(command) }, &arrival);
        self.may_have_more = true;
    }

    /// Takes up to `count` messages, if it was told that there may be some; then begins what the session wants done.
    pub(crate) fn take(&mut self, count: usize, model: &Model, store: &Store) -> bool {
        self.may_have_more |= self.wake.0.swap(false, Ordering::Relaxed);
        if !self.may_have_more {
            return false;
        }
        for _ in 0..count {
            match self.session.next_step() {
                Step::Send(message) => self.receive(message, model, store),
                Step::Do(Work::Write { ticket, unit }) => self.writes.push_back((ticket, unit)),
                Step::Do(Work::Read(read)) => self.reads.push_back(read),
                Step::Wait => {
                    self.may_have_more = false;
                    return true;
                }
            }
        }
        true
    }

    /// Takes, reads and hands over; says whether there was anything to do.
    pub(crate) fn go_on(&mut self, model: &Model, store: &Store) -> bool {
        let took = self.take(50, model, store);
        let read = self.read(store);
        let delivered = self.deliver_read(model);
        took || read || delivered
    }

    /// Reads what the session asked for; the result is under way for a while.
    pub(crate) fn read(&mut self, store: &Store) -> bool {
        let Some(read) = self.reads.pop_front() else {
            return false;
        };
        self.results.push_back(read.run(store));
        true
    }

    /// Hands the session what was read.
    pub(crate) fn deliver_read(&mut self, model: &Model) -> bool {
        let Some(result) = self.results.pop_front() else {
            return false;
        };
        if let ReadResult::Page { subscription_id, result: Ok(CatchUp::Page(page)) } = &result
            && let Some(view) = self.views.get_mut(subscription_id)
        {
            let Phase::Snapshot { cursor, .. } = &mut view.phase else {
                *self.counts.entry("a page of the log").or_default() += 1;
                self.session.read(result);
                self.may_have_more = true;
                return true;
            };
            assert!(cursor.is_none(), "a page was read before the last one was sent");
            *cursor = Some((page.items.len(), page.cursor.clone()));
            if matches!(page.cursor, Cursor::Snapshot { .. }) {
                *self.counts.entry("a snapshot in several pages").or_default() += 1;
            }
            Self::item_seen(view, 0, model);
        }
        self.session.read(result);
        self.may_have_more = true;
        true
    }

    pub(crate) fn written(
        &mut self,
        ticket: WriteTicket,
        result: Result<starfeed::store::UnitResult, starfeed::store::StoreError>,
    ) {
        self.session.written(ticket, result);
        self.may_have_more = true;
    }

    fn receive(&mut self, message: ServerMessage, model: &Model, store: &Store) {
        match message {
            ServerMessage::Response { request_id, result } => {
                let asked = self.asked.remove(&request_id).expect("each request is answered once");
                self.answered(&asked, result);
            }
            ServerMessage::Event { subscription_id, event } => {
                let view =
                    self.views.get_mut(&subscription_id).expect("events come only between subscribe and unsubscribe");
                match event {
                    Event::Closed { .. } => {
                        Self::check_closed(view, store);
                        self.views.remove(&subscription_id);
                        *self.counts.entry("a subscription ended because the log was trimmed").or_default() += 1;
                    }
                    Event::Row { row, .. } => {
                        self.seen = self.seen.max(row.version);
                        assert!(matches!(view.phase, Phase::Snapshot { .. }), "a row after the snapshot");
                        let before = view.rows.insert(row.key.clone(), row.document);
                        assert!(before.is_none(), "row {} came twice", row.key);
                        Self::item_seen(view, 1, model);
                    }
                    Event::Change { published, .. } => {
                        let change = published.change();
                        self.seen = self.seen.max(change.seq);
                        let shown = (change.key.clone(), change.shown().clone());
                        let had = match change.kind() {
                            ChangeKind::Added | ChangeKind::Updated => view.rows.insert(shown.0, shown.1).is_some(),
                            ChangeKind::Deleted => view.rows.remove(&shown.0).is_some(),
                        };
                        assert_eq!(
                            had,
                            change.kind() != ChangeKind::Added,
                            "change {} {:?}",
                            change.seq,
                            change.kind()
                        );
                        Self::change_seen(view, change.seq, model);
                    }
                }
            }
        }
    }

    fn answered(&mut self, asked: &Asked, result: Result<Option<Box<Body>>, String>) {
        match (asked, result) {
            (Asked::Subscribe(table), Ok(Some(body))) => {
                let Body::NewSubscription(new) = *body else { panic!("{body:?}") };
                assert_eq!(new.subscription_id, self.next_subscription, "ids count up");
                self.next_subscription += 1;
                let phase = Phase::Snapshot { cursor: None, at: Seq::ZERO };
                self.views.insert(new.subscription_id, View { table, rows: Rows::new(), phase });
            }
            (Asked::Unsubscribe(subscription_id), Ok(None)) => {
                if self.views.remove(subscription_id).is_some_and(|view| matches!(view.phase, Phase::Snapshot { .. })) {
                    *self.counts.entry("an end before the snapshot was complete").or_default() += 1;
                }
            }
            (Asked::Unsubscribe(subscription_id), Err(text)) => {
                assert_eq!(text, format!("Unknown subscription_id: {subscription_id}"));
                assert!(!self.views.contains_key(subscription_id));
            }
            (Asked::Write, Ok(None)) => {}
            (Asked::Write, Err(_)) => *self.counts.entry("a refused write").or_default() += 1,
            (asked, result) => panic!("{asked:?} was answered {result:?}"),
        }
    }

    /// `count` more items of a page of a snapshot were seen; at its end the client holds exactly what the cursor says.
    fn item_seen(view: &mut View, count: usize, model: &Model) {
        let Phase::Snapshot { cursor, at } = &mut view.phase else { return };
        let Some((left, reached)) = cursor.as_mut() else { panic!("an item of a page that was not read") };
        *left -= count;
        if *left > 0 {
            return;
        }
        match reached.clone() {
            Cursor::Snapshot { sent } => {
                let (last_key, position) = sent.expect("a page was sent");
                let expected: Rows =
                    model.at(view.table, position).into_iter().filter(|(key, _)| *key <= last_key).collect();
                assert_eq!(view.rows, expected, "after a page of {} at {position} up to {last_key}", view.table);
                *at = position;
                *cursor = None;
            }
            Cursor::After(position) => {
                assert_eq!(
                    view.rows,
                    model.at(view.table, position),
                    "after the snapshot of {} at {position}",
                    view.table
                );
                view.phase = Phase::Following(position);
            }
        }
    }

    fn change_seen(view: &mut View, seq: Seq, model: &Model) {
        match &mut view.phase {
            Phase::Snapshot { .. } => Self::item_seen(view, 1, model),
            Phase::Following(at) => {
                assert!(seq > *at, "change {seq} came after {at}");
                *at = seq;
                assert_eq!(view.rows, model.at(view.table, seq), "after change {seq} of {}", view.table);
            }
        }
    }

    /// Only a reader that has really missed something may be sent away.
    fn check_closed(view: &View, store: &Store) {
        let (Phase::Snapshot { at, .. } | Phase::Following(at)) = view.phase;
        let snapshot = store.snapshot().expect("the disk works");
        let budget = PageBudget { items: 1, bytes: 1 };
        let page = snapshot.changes_after(&starfeed::change::Table::new(view.table), at, budget);
        assert!(matches!(page, Ok(ChangePage::Trimmed)), "a subscription was ended without need at {at}");
    }

    /// When nothing more comes, it holds what is there.
    pub(crate) fn check_converged(&self, model: &Model) {
        assert!(self.asked.is_empty(), "requests without an answer: {:?}", self.asked);
        for view in self.views.values() {
            assert!(matches!(view.phase, Phase::Following(_)), "a snapshot of {} never ended", view.table);
            assert_eq!(view.rows, model.now(view.table), "in the end, {}", view.table);
        }
    }
}
