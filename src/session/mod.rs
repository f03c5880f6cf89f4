//! One client's conversation: requests in, responses and events out. No sockets, no clock, no tasks.
//!
//! Whoever runs a session feeds it with [`Session::receive`], [`Session::written`] and [`Session::read`], and does what
//! [`Session::next_step`] says, for as long as there is room to send. Requests take effect in the order in which they came; only writes may overlap with writes.

mod collector;
mod follower;
mod followers;
mod import;
mod requests;
mod streams;
mod subscribe;
mod work;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use follower::Sealing;
use followers::Followers;
use import::Import;
use requests::{PendingRead, PendingWrite, Request};
use streams::Streams;
pub use work::{AskTicket, Question, Read, ReadResult, Reader, Share, Watch, Work, WriteTicket};

use crate::catalog::{self, Arrival, Plan, StoredTable};
use crate::change::Seq;
use crate::feed::{Outbox, Pages, PagesLimits, ShowRows};
use crate::host::HostFigures;
use crate::matcher::FilterLimits;
use crate::metrics::Metrics;
use crate::proto;
use crate::source::SourceError;
use crate::store::{PageBudget, Store, UnitResult};
use crate::subscription::{Listing, Principal, SubscriptionManager};
use crate::token::TokenSeal;
use crate::wire::{ClientMessage, MessageHeader, ServerMessage};

/// Bounds of a session.
#[derive(Clone, Copy, Debug)]
pub struct SessionLimits {
    /// Requests that may wait or run; the client is not read from while there are as many.
    pub requests: usize,
    /// Bytes of requests that may wait or run; the client is not read from while there are more.
    pub request_bytes: usize,
    /// Bytes of one row that a client may write.
    pub row_bytes: usize,
    /// Bytes of rows in the answer to one request.
    pub answer_bytes: usize,
    /// Bytes of rows that an import may stage.
    pub import_bytes: usize,
    /// What a page for a subscription that is behind may hold.
    pub page: PageBudget,
    /// Bounds of what is kept for others who are behind.
    pub pages: PagesLimits,
    /// Bounds of filters.
    pub filters: FilterLimits,
}

/// How the writes of one client follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writes {
    /// They are handed in without waiting for each other, and take effect in that order.
    Overlap,
    /// Each is handed in when the one before it is done.
    OneAtATime,
}

/// What all sessions share.
#[derive(Debug)]
pub struct SessionContext {
    /// Grants subscriptions.
    pub subscriptions: Arc<SubscriptionManager>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Bounds.
    pub limits: SessionLimits,
    /// Pages for those who are behind.
    pub pages: Arc<Pages>,
    writes: Writes,
    sealing: Arc<Sealing>,
    host: Arc<HostFigures>,
}

impl SessionContext {
    /// The newest position of the store.
    fn position(&self) -> Seq {
        self.sealing.store.position().seq
    }

    /// For sessions with clients of `store`.
    pub fn new(
        store: &Store,
        subscriptions: Arc<SubscriptionManager>,
        metrics: Arc<Metrics>,
        limits: SessionLimits,
        writes: Writes,
        host: Arc<HostFigures>,
    ) -> Arc<Self> {
        let sealing = Arc::new(Sealing { seal: TokenSeal::new(store.secret()), store: store.clone() });
        let pages = Pages::new(limits.pages, Arc::clone(&metrics));
        Arc::new(Self { subscriptions, metrics, limits, pages, writes, sealing, host })
    }
}

/// One client's conversation.
#[derive(Debug)]
pub struct Session {
    context: Arc<SessionContext>,
    principal: Principal,
    followers: Followers,
    streams: Streams,
    listing: Arc<Listing>,
    /// Whether streams are asked for the next event first: where both kinds of subscriptions have some, they take turns.
    streams_first: bool,
    next_subscription_id: i32,
    /// Not begun yet, in the order in which they came.
    waiting: VecDeque<Request>,
    /// Bytes on the wire of the requests that wait or are being written.
    unfinished_bytes: usize,
    writing: BTreeMap<WriteTicket, PendingWrite>,
    /// How many of them are steps of requests that go on behind them.
    steps_writing: usize,
    /// Writes that the store does not hold yet, answered or not.
    invisible: BTreeSet<WriteTicket>,
    next_ticket: u64,
    reading: Option<PendingRead>,
    /// The next step of the request that is being carried out, if it has several; nothing else begins before its last one has.
    step: Option<(i32, Box<Plan>)>,
    /// What the crawler was asked, for these requests.
    asking: BTreeMap<AskTicket, i32>,
    import: Option<Import>,
    replies: VecDeque<ServerMessage>,
    /// The newest time it was told, in milliseconds from a beginning that is the same for all sessions.
    now_ms: u64,
}

/// What a session wants done.
#[derive(Debug)]
pub enum Step {
    /// Send this.
    Send(ServerMessage),
    /// Do this, and hand the result back.
    Do(Work),
    /// Nothing, until something is handed to it or its outbox is ready.
    Wait,
}

type Body = Option<Box<proto::response::Body>>;

impl Session {
    /// A conversation with `principal` at the address `peer`, whose events wait in `outbox`.
    pub fn new(context: Arc<SessionContext>, principal: Principal, peer: String, outbox: Arc<Outbox>) -> Self {
        let listing = context.subscriptions.directory().list(peer, &outbox);
        let streams = Streams::new(Arc::clone(outbox.waiting()), Arc::clone(&listing));
        let (sealing, metrics) = (Arc::clone(&context.sealing), Arc::clone(&context.metrics));
        let pages = Arc::clone(&context.pages);
        Self {
            followers: Followers::new(outbox, sealing, metrics, Arc::clone(&listing), pages),
            streams,
            listing,
            streams_first: true,
            context,
            principal,
            next_subscription_id: 0,
            waiting: VecDeque::new(),
            unfinished_bytes: 0,
            writing: BTreeMap::new(),
            steps_writing: 0,
            invisible: BTreeSet::new(),
            next_ticket: 0,
            reading: None,
            step: None,
            asking: BTreeMap::new(),
            import: None,
            replies: VecDeque::new(),
            now_ms: 0,
        }
    }

    /// Tells it the time, in milliseconds from a beginning that is the same for all sessions; it may have something to send then.
    pub fn tick(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        self.followers.tick(now_ms);
        self.streams.tick(now_ms);
    }

    /// When it wants to be told the time.
    pub fn due_ms(&self) -> Option<u64> {
        self.followers.due_ms().into_iter().chain(self.streams.due_ms()).min()
    }

    /// Takes a request. Its effect and its response come later, in turn.
    pub fn receive(&mut self, message: ClientMessage, arrival: &Arrival) {
        let plan = match message.command {
            None => Err("No command specified".to_owned()),
            Some(command) => catalog::plan(command, arrival),
        };
        let size = message.size;
        self.unfinished_bytes += size;
        self.waiting.push_back(Request { request_id: message.request_id, size, plan });
    }

    /// Whether it takes no more requests for now: read no more from the client until it does.
    pub fn is_saturated(&self) -> bool {
        let limits = &self.context.limits;
        let unanswered = self.waiting.len() + self.writing.len() + self.asking.len() + self.replies.len();
        unanswered >= limits.requests || self.unfinished_bytes > limits.request_bytes
    }

    /// Whether it has something to do beside telling of changes of tables: requests, or what is followed otherwise.
    pub fn has_more_than_tables(&self) -> bool {
        !self.waiting.is_empty() || !self.replies.is_empty() || self.streams.len() > 0
    }

    /// What to do next. Ask when there is room to send: what is read is read to be sent.
    pub fn next_step(&mut self) -> Step {
        loop {
            self.begin_what_needs_no_work();
            if let Some(message) = pop_front_if(&mut self.replies, |_| true) {
                return Step::Send(message);
            }
            // Before the events: a client that is too slow for them is never without, and its requests have their turn too.
            if let Some(work) = self.next_request_work() {
                return Step::Do(work);
            }
            // Unless a request was refused instead, which has its answer now.
            if self.replies.is_empty() {
                break;
            }
        }
        let SessionLimits { page, answer_bytes, .. } = self.context.limits;
        if let Some(read) = self.followers.next_page_ahead(page) {
            return Step::Do(Work::Read(read));
        }
        if let Some(message) = self.next_event() {
            return Step::Send(message);
        }
        if let Some(work) = self.followers.next_read(page) {
            return Step::Do(work);
        }
        self.streams.next_work(page, answer_bytes).map_or(Step::Wait, Step::Do)
    }

    fn next_event(&mut self) -> Option<ServerMessage> {
        let Self { followers, streams, context, streams_first, .. } = self;
        *streams_first = !*streams_first;
        if *streams_first {
            streams.next_event(context).or_else(|| followers.next_event())
        } else {
            followers.next_event().or_else(|| streams.next_event(context))
        }
    }

    /// Something may have happened to what a [`Work::Watch`] watches.
    pub fn changed(&mut self, subscription_id: i32) {
        self.streams.changed(subscription_id);
    }

    /// The result of a [`Work::Write`]. Responses keep the order of the requests, whichever result comes first.
    pub fn written(&mut self, ticket: WriteTicket, result: Result<UnitResult, SourceError>) {
        let pending = self.writing.get_mut(&ticket).expect("a write ends once");
        pending.result = Some(result);
        self.followers.wrote();
        self.respond_to_writes();
    }

    /// Announces that the store will hold what a [`Work::Write`] wrote only later, before its result is handed over: until
    /// [`Session::visible`], nothing begins that reads the store.
    pub fn expect_visible(&mut self, ticket: WriteTicket) {
        self.invisible.insert(ticket);
    }

    /// The store holds what was written.
    pub fn visible(&mut self, ticket: WriteTicket) {
        self.invisible.remove(&ticket);
        self.followers.wrote();
    }

    /// The result of a [`Work::Read`] or [`Work::Share`].
    pub fn read(&mut self, result: ReadResult) {
        match result {
            ReadResult::Page { subscription_id, result } => self.followers.page(subscription_id, result),
            ReadResult::GivenUp { subscription_id } => self.followers.page_given_up(subscription_id),
            ReadResult::Ahead => {}
            ReadResult::Query(Reader::Request, result) => self.answered(result),
            ReadResult::Query(Reader::Stream(_), result) => self.streams.read(result, &self.context),
            ReadResult::Computed(Reader::Request, answer) => self.computed(answer),
            ReadResult::Computed(Reader::Stream(_), answer) => self.streams.computed(answer, &self.context),
            ReadResult::Answer(result) => self.answered_question(result),
        }
    }

    /// Does `read` for a transport that puts `header` before each message, if that waits for nothing and takes less than a
    /// millisecond; otherwise returns it.
    pub fn read_at_once(&mut self, read: Read, header: MessageHeader) -> Option<Read> {
        let Read::Page { subscription_id, page, to_come } = read else { return Some(read) };
        let shown = work::shown(to_come, Some(header));
        match page.read_at_once(&self.context.sealing.store, shown.as_ref().map(|shown| shown as &dyn ShowRows)) {
            Ok(result) => self.read(ReadResult::Page { subscription_id, result }),
            Err(page) => return Some(Read::Page { subscription_id, page, to_come }),
        }
        None
    }

    /// The result of a [`Work::Ask`].
    pub fn asked(&mut self, ticket: AskTicket, result: Result<Option<Box<proto::response::Body>>, String>) {
        let request_id = self.asking.remove(&ticket).expect("the crawler answers once");
        self.respond(request_id, result);
    }
}

/// The first of a queue, if it is wanted. The queue is mostly empty, and then keeps no memory.
fn pop_front_if<T>(queue: &mut VecDeque<T>, is_wanted: impl FnOnce(&mut T) -> bool) -> Option<T> {
    let first = queue.pop_front_if(is_wanted);
    if first.is_some() && queue.is_empty() {
        *queue = VecDeque::new();
    }
    first
}

fn boxed(body: proto::response::Body) -> Body {
    Some(Box::new(body))
}

fn known_table(name: &str) -> Result<StoredTable, String> {
    catalog::stored_table(name).ok_or_else(|| unknown_table(name, catalog::stored_tables().map(|table| table.name)))
}

fn unknown_table(name: &str, known: impl Iterator<Item = &'static str>) -> String {
    let known: Vec<&str> = known.collect();
    format!("there is no table {name:?} here; the tables are {}", known.join(", "))
}

#[cfg(test)]
pub(crate) mod tests;
