//! One client's conversation: requests in, responses and events out. No sockets, no clock, no tasks.
//!
//! Whoever runs a session feeds it with [`Session::receive`], [`Session::written`] and [`Session::read`], and does what
//! [`Session::next_step`] says, for as long as there is room to send. Requests take effect in the order in which they came; only writes may overlap with writes.

mod follower;
mod followers;
mod import;
mod subscribe;
mod work;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use follower::Sealing;
use followers::Followers;
use import::Import;
pub use work::{Question, Read, ReadResult, Work, WriteTicket};

use crate::catalog::{self, Answer, Arrival, CatalogTable, Plan, SubscribePlan};
use crate::change::{Key, Table};
use crate::feed::Outbox;
use crate::matcher::{self, Filter, FilterLimits};
use crate::metrics::Metrics;
use crate::proto;
use crate::source::SourceError;
use crate::store::{Outcome, PageBudget, Query, QueryResult, Store, Unit, UnitResult};
use crate::subscription::{Principal, SubscriptionManager};
use crate::token::TokenSeal;
use crate::wire::{ClientMessage, ServerMessage};

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
    writes: Writes,
    sealing: Arc<Sealing>,
}

impl SessionContext {
    /// For sessions with clients of `store`.
    pub fn new(
        store: &Store,
        subscriptions: Arc<SubscriptionManager>,
        metrics: Arc<Metrics>,
        limits: SessionLimits,
        writes: Writes,
    ) -> Arc<Self> {
        let sealing = Arc::new(Sealing { seal: TokenSeal::new(store.secret()), store: store.clone() });
        Arc::new(Self { subscriptions, metrics, limits, writes, sealing })
    }
}

/// One client's conversation.
#[derive(Debug)]
pub struct Session {
    context: Arc<SessionContext>,
    principal: Principal,
    followers: Followers,
    next_subscription_id: i32,
    /// Not begun yet, in the order in which they came.
    waiting: VecDeque<Request>,
    /// Bytes on the wire of the requests that wait or are being written.
    unfinished_bytes: usize,
    writing: BTreeMap<WriteTicket, PendingWrite>,
    /// Writes that the store does not hold yet, answered or not.
    invisible: BTreeSet<WriteTicket>,
    next_ticket: u64,
    reading: Option<PendingRead>,
    import: Option<Import>,
    replies: VecDeque<ServerMessage>,
    /// The newest time it was told, in milliseconds from any beginning.
    now_ms: u64,
}

struct Request {
    request_id: i32,
    /// Its size on the wire, in bytes.
    size: usize,
    /// What it comes down to, or the text of its error.
    plan: Result<Plan, String>,
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Request({})", self.request_id)
    }
}

/// When a request may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// When everything before it is done.
    InOrder,
    /// The same, and the client has taken the answers before it: this answer may be large.
    InOrderAndSent,
    /// When no read before it runs; writes follow each other by themselves.
    BehindWrites,
}

impl Request {
    /// Whether it reads the store, and not the source that the store may be behind of.
    fn reads_store(&self) -> bool {
        matches!(self.plan, Ok(Plan::Subscribe(_)))
    }

    fn turn(&self) -> Turn {
        match &self.plan {
            Ok(Plan::Write { .. }) => Turn::BehindWrites,
            Ok(Plan::ImportRows(import)) if import.commit() => Turn::BehindWrites,
            Ok(Plan::Read { .. } | Plan::ExportRows(_)) => Turn::InOrderAndSent,
            Ok(Plan::Subscribe(plan)) if plan.has_questions() => Turn::InOrderAndSent,
            Ok(Plan::DescribeFilter(_)) => Turn::InOrderAndSent,
            Ok(Plan::Subscribe(_) | Plan::Unsubscribe(_) | Plan::ImportRows(_)) | Err(_) => Turn::InOrder,
        }
    }
}

#[derive(Debug)]
struct PendingWrite {
    request_id: i32,
    size: usize,
    reply: WriteReply,
    /// `None` until it is there.
    result: Option<Result<UnitResult, SourceError>>,
}

#[derive(Debug)]
enum WriteReply {
    Body(Body),
    Import,
}

struct PendingRead {
    request_id: i32,
    reply: ReadReply,
}

enum ReadReply {
    Answer { answer: Box<dyn FnOnce(QueryResult) -> Answer + Send>, table: Option<&'static CatalogTable> },
    Export,
    Subscribe(SubscribePlan),
    DescribeFilter,
}

impl std::fmt::Debug for PendingRead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PendingRead(request {})", self.request_id)
    }
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
    /// A conversation with `principal`, whose events wait in `outbox`.
    pub fn new(context: Arc<SessionContext>, principal: Principal, outbox: Arc<Outbox>) -> Self {
        Self {
            followers: Followers::new(outbox, Arc::clone(&context.sealing), Arc::clone(&context.metrics)),
            context,
            principal,
            next_subscription_id: 0,
            waiting: VecDeque::new(),
            unfinished_bytes: 0,
            writing: BTreeMap::new(),
            invisible: BTreeSet::new(),
            next_ticket: 0,
            reading: None,
            import: None,
            replies: VecDeque::new(),
            now_ms: 0,
        }
    }

    /// Tells it the time, in milliseconds from any beginning; it may have something to send then.
    pub fn tick(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        self.followers.tick(now_ms);
    }

    /// When it wants to be told the time.
    pub fn due_ms(&self) -> Option<u64> {
        self.followers.due_ms()
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
        self.waiting.len() + self.writing.len() + self.replies.len() >= limits.requests
            || self.unfinished_bytes > limits.request_bytes
    }

    /// What to do next. Ask when there is room to send: what is read is read to be sent.
    pub fn next_step(&mut self) -> Step {
        loop {
            self.begin_what_needs_no_work();
            if let Some(message) = self.replies.pop_front() {
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
        if let Some(message) = self.followers.next_event() {
            return Step::Send(message);
        }
        let page = self.followers.next_read(self.context.limits.page);
        page.map_or(Step::Wait, |read| Step::Do(Work::Read(read)))
    }

    /// The result of a [`Work::Write`]. Responses keep the order of the requests, whichever result comes first.
    pub fn written(&mut self, ticket: WriteTicket, result: Result<UnitResult, SourceError>) {
        let pending = self.writing.get_mut(&ticket).expect("a write ends once");
        pending.result = Some(result);
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
    }

    fn respond_to_writes(&mut self) {
        while let Some(first) = self.writing.first_entry()
            && first.get().result.is_some()
        {
            let PendingWrite { request_id, size, reply, result } = first.remove();
            self.unfinished_bytes -= size;
            let result = match result {
                Some(Ok(Ok(outcomes))) => Ok(write_body(reply, &outcomes)),
                Some(Ok(Err(refusal))) => Err(refusal),
                Some(Err(error)) => Err(error.to_string()),
                None => panic!("a write without a result has ended"),
            };
            self.respond(request_id, result);
        }
    }

    /// The result of a [`Work::Read`].
    pub fn read(&mut self, result: ReadResult) {
        match result {
            ReadResult::Page { subscription_id, result } => self.followers.page(subscription_id, result),
            ReadResult::Query(result) => self.answered(result),
            ReadResult::Answer(result) => self.answered_question(result),
        }
    }

    fn respond(&mut self, request_id: i32, result: Result<Body, String>) {
        self.replies.push_back(ServerMessage::Response { request_id, result });
    }

    /// Answers the next request if it does not wait for the disk. One at a time: answers that nobody takes must not pile up.
    fn begin_what_needs_no_work(&mut self) {
        let is_its_turn = self.writing.is_empty() && self.reading.is_none() && self.replies.is_empty();
        let sees_writes = self.invisible.is_empty();
        let request = self.waiting.pop_front_if(|request| {
            is_its_turn && request.turn() == Turn::InOrder && (sees_writes || !request.reads_store())
        });
        if let Some(Request { request_id, size, plan }) = request {
            self.unfinished_bytes -= size;
            let result = plan.and_then(|plan| self.do_at_once(plan));
            self.respond(request_id, result);
        }
    }

    fn do_at_once(&mut self, plan: Plan) -> Result<Body, String> {
        match plan {
            Plan::Subscribe(plan) => self.subscribe(&plan, None).map(boxed),
            Plan::Unsubscribe(subscription_id) if self.followers.remove(subscription_id) => Ok(None),
            Plan::Unsubscribe(subscription_id) => Err(format!("Unknown subscription_id: {subscription_id}")),
            Plan::ImportRows(request) => self.stage(&request).map(boxed),
            Plan::Read { .. } | Plan::Write { .. } | Plan::ExportRows(_) | Plan::DescribeFilter(_) => {
                panic!("a request that waits for the disk was begun as one that does not")
            }
        }
    }

    fn next_request_work(&mut self) -> Option<Work> {
        while self.reading.is_none() {
            let is_in_order = self.writing.is_empty();
            let is_sent = self.replies.is_empty();
            let sees_writes = self.invisible.is_empty();
            let may_write = is_in_order || self.context.writes == Writes::Overlap;
            let Request { request_id, size, plan } = self.waiting.pop_front_if(|request| match request.turn() {
                Turn::BehindWrites => may_write,
                Turn::InOrderAndSent => is_in_order && is_sent && (sees_writes || !request.reads_store()),
                Turn::InOrder => false,
            })?;
            match plan.and_then(|plan| self.begin(request_id, size, plan)) {
                Ok(work) => return Some(work),
                // Its answer waits for those of the writes before it.
                Err(text) => {
                    let result = Some(Ok(Err(text)));
                    self.add_write(PendingWrite { request_id, size, reply: WriteReply::Body(None), result });
                    self.respond_to_writes();
                }
            }
        }
        None
    }

    fn begin(&mut self, request_id: i32, size: usize, plan: Plan) -> Result<Work, String> {
        match plan {
            Plan::Read { query, answer } => {
                let table = catalog::table(query.table().name());
                self.unfinished_bytes -= size;
                self.reading = Some(PendingRead { request_id, reply: ReadReply::Answer { answer, table } });
                Ok(Work::Read(Read::Query { query, bytes_max: self.context.limits.answer_bytes }))
            }
            Plan::ExportRows(request) => {
                let read = self.export(request)?;
                self.unfinished_bytes -= size;
                self.reading = Some(PendingRead { request_id, reply: ReadReply::Export });
                Ok(Work::Read(read))
            }
            Plan::Write { mutations, reply } => {
                let row_bytes_max = self.context.limits.row_bytes;
                if mutations.iter().any(|mutation| mutation.row_size() > row_bytes_max) {
                    return Err(import::row_too_big(row_bytes_max));
                }
                let reply = WriteReply::Body(reply.map(Box::new));
                Ok(self.write(mutations, PendingWrite { request_id, size, reply, result: None }))
            }
            Plan::ImportRows(request) => {
                let staged = self.stage(&request);
                let unit = self.import.take().map_or_else(|| Ok(Unit::new()), Import::into_unit);
                staged?;
                Ok(self.write(unit?, PendingWrite { request_id, size, reply: WriteReply::Import, result: None }))
            }
            Plan::Subscribe(plan) => {
                let table = plan.form.table().is_none().then(|| plan.table.clone());
                let filter = plan.filter().to_owned();
                Ok(self.ask(request_id, size, ReadReply::Subscribe(plan), table, filter))
            }
            Plan::DescribeFilter(text) => Ok(self.ask(request_id, size, ReadReply::DescribeFilter, None, text)),
            Plan::Unsubscribe(_) => {
                panic!("a request that is answered at once was begun as one that waits for the disk")
            }
        }
    }

    fn write(&mut self, unit: Unit, pending: PendingWrite) -> Work {
        Work::Write { ticket: self.add_write(pending), unit }
    }

    fn add_write(&mut self, pending: PendingWrite) -> WriteTicket {
        let ticket = WriteTicket(self.next_ticket);
        self.next_ticket += 1;
        self.writing.insert(ticket, pending);
        ticket
    }

    fn stage(&mut self, request: &proto::RequestImportRows) -> Result<proto::response::Body, String> {
        let table = known_table(&request.table)?;
        let SessionLimits { import_bytes, row_bytes, .. } = self.context.limits;
        let import = self.import.get_or_insert_with(|| Import::new(table, import_bytes, row_bytes));
        if import.table().name != table.name {
            let text = format!("an import of {} has begun on this connection: commit it first", import.table().name);
            return Err(text);
        }
        let errors = import.stage(&request.rows, request.first_line());
        Ok(proto::response::Body::ImportRows(proto::ResponseImportRows {
            staged: Some(import.staged()),
            errors,
            ..Default::default()
        }))
    }

    fn export(&self, request: proto::RequestExportRows) -> Result<Read, String> {
        let limit = usize::try_from(request.limit()).ok().filter(|limit| *limit > 0);
        let table = known_table(&request.table)?.table();
        let after = request.after.map(Key::from_stored);
        let bytes = self.context.limits.page.bytes;
        let budget = PageBudget { items: limit.ok_or("limit must be positive")?, bytes };
        let query = Query::After { table, after, budget };
        Ok(Read::Query { query, bytes_max: self.context.limits.answer_bytes })
    }

    fn ask(&mut self, request_id: i32, size: usize, reply: ReadReply, table: Option<Table>, filter: String) -> Work {
        self.unfinished_bytes -= size;
        self.reading = Some(PendingRead { request_id, reply });
        Work::Read(Read::Question(Question { table, filter, limits: self.context.limits.filters }))
    }

    fn answered_question(&mut self, result: Result<Option<Arc<Filter>>, String>) {
        let pending = self.reading.take().expect("a read ends once");
        let result = result.and_then(|filter| match pending.reply {
            ReadReply::Subscribe(plan) => self.subscribe(&plan, filter),
            ReadReply::DescribeFilter => filter.map(|filter| self.described(&filter)).ok_or_else(|| {
                "invalid_filter at 0: the filter is empty; without one, a subscription has all rows".to_owned()
            }),
            ReadReply::Answer { .. } | ReadReply::Export => panic!("a question was answered for a read"),
        });
        self.respond(pending.request_id, result.map(boxed));
    }

    fn described(&self, filter: &Filter) -> proto::response::Body {
        let plan = matcher::Plan::of(filter.expression());
        proto::response::Body::DescribeFilter(proto::ResponseDescribeFilter {
            canonical: Some(filter.canonical().to_owned()),
            plan: plan.lines,
            is_indexed: Some(filter.is_indexed()),
            cost: Some(filter.cost().0),
            cost_max: Some(self.context.limits.filters.cost_max),
        })
    }

    fn answered(&mut self, result: Result<QueryResult, SourceError>) {
        let pending = self.reading.take().expect("a read ends once");
        let result = result.map_err(|error| error.to_string()).and_then(|result| match pending.reply {
            ReadReply::Export => Ok(boxed(exported(&result))),
            ReadReply::Answer { answer, table } => {
                let Answer { body, problems } = answer(result);
                if let Some(table) = table {
                    for (key, problem) in &problems {
                        self.context.metrics.row_problems.report(&table.table(), key, problem);
                    }
                }
                body.map(boxed)
            }
            ReadReply::Subscribe(_) | ReadReply::DescribeFilter => panic!("rows were read for a question"),
        });
        self.respond(pending.request_id, result);
    }
}

/// A page of an export.
fn exported(page: &QueryResult) -> proto::response::Body {
    let next = page.rows.last().filter(|_| !page.is_complete);
    proto::response::Body::ExportRows(proto::ResponseExportRows {
        rows: page.rows.iter().map(|row| row.document.to_bytes()).collect(),
        next: next.map(|row| bytes::Bytes::copy_from_slice(row.key.as_bytes())),
        position: page.position.map(|position| position.0),
    })
}

fn boxed(body: proto::response::Body) -> Body {
    Some(Box::new(body))
}

fn known_table(name: &str) -> Result<&'static CatalogTable, String> {
    catalog::table(name).ok_or_else(|| unknown_table(name, catalog::TABLES.iter().map(|table| table.name)))
}

fn unknown_table(name: &str, known: impl Iterator<Item = &'static str>) -> String {
    let known: Vec<&str> = known.collect();
    format!("there is no table {name:?} here; the tables are {}", known.join(", "))
}

fn write_body(reply: WriteReply, outcomes: &[Outcome]) -> Body {
    match reply {
        WriteReply::Body(body) => body,
        WriteReply::Import => boxed(import::reply(outcomes)),
    }
}

#[cfg(test)]
mod tests;
