//! Requests: whose turn it is, the steps of each, and its one response.

use std::sync::Arc;

use super::import::{self, Import};
use super::{
    AskTicket, Body, Question, Read, Reader, Session, SessionContext, SessionLimits, Work, WriteTicket, Writes, boxed,
    known_table, pop_front_if,
};
use crate::catalog::{Answer, Plan, Reply, RowReport, SubscribePlan};
use crate::change::{Key, Table};
use crate::matcher::{self, Filter};
use crate::proto;
use crate::source::SourceError;
use crate::store::{PageBudget, Query, QueryResult, Unit, UnitResult};
use crate::wire::ServerMessage;

pub(super) struct Request {
    pub(super) request_id: i32,
    /// Its size on the wire, in bytes.
    pub(super) size: usize,
    /// What it comes down to, or the text of its error.
    pub(super) plan: Result<Plan, String>,
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

/// Whether a plan reads the store, and not the source that the store may be behind of.
fn reads_store(plan: &Plan) -> bool {
    matches!(plan, Plan::Subscribe(_) | Plan::Stream(_))
}

impl Request {
    /// Whether it reads the store, and not the source that the store may be behind of.
    fn reads_store(&self) -> bool {
        self.plan.as_ref().is_ok_and(reads_store)
    }

    fn turn(&self) -> Turn {
        match &self.plan {
            Ok(Plan::Write { .. }) => Turn::BehindWrites,
            Ok(Plan::Ask(_)) => Turn::InOrderAndSent,
            Ok(Plan::ImportRows(import)) if import.commit() => Turn::BehindWrites,
            Ok(Plan::Read { .. } | Plan::ExportRows(_) | Plan::Compute(_)) => Turn::InOrderAndSent,
            Ok(Plan::Subscribe(plan)) if plan.has_questions() => Turn::InOrderAndSent,
            Ok(Plan::DescribeFilter(_)) => Turn::InOrderAndSent,
            Ok(Plan::Subscribe(_) | Plan::Stream(_) | Plan::Unsubscribe(_) | Plan::ImportRows(_)) | Err(_) => {
                Turn::InOrder
            }
        }
    }
}

#[derive(Debug)]
pub(super) struct PendingWrite {
    request_id: i32,
    size: usize,
    reply: WriteReply,
    /// `None` until it is there.
    pub(super) result: Option<Result<UnitResult, SourceError>>,
}

#[derive(Debug)]
enum WriteReply {
    Then(Reply),
    Import,
}

impl PendingWrite {
    /// Whether it is a step of a request that goes on behind it.
    fn goes_on(&self) -> bool {
        matches!(self.reply, WriteReply::Then(Reply::Go(_)))
    }
}

pub(super) struct PendingRead {
    request_id: i32,
    reply: ReadReply,
}

enum ReadReply {
    Answer(Box<dyn FnOnce(QueryResult) -> Answer + Send>),
    Computed,
    Export,
    Subscribe(SubscribePlan),
    DescribeFilter,
}

impl std::fmt::Debug for PendingRead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PendingRead(request {})", self.request_id)
    }
}

impl SessionContext {
    /// Reports the rows that could not be shown; what follows.
    pub(super) fn reported(&self, Answer { reply, problems }: Answer) -> Result<Reply, String> {
        for RowReport { table, key, problem } in &problems {
            self.metrics.row_problems.report(table, key, problem);
        }
        reply
    }
}

impl Session {
    pub(super) fn respond_to_writes(&mut self) {
        while let Some(first) = self.writing.first_entry()
            && first.get().result.is_some()
        {
            let pending = first.remove();
            self.steps_writing -= usize::from(pending.goes_on());
            let PendingWrite { request_id, size, reply, result } = pending;
            self.unfinished_bytes -= size;
            let result = match result {
                Some(Ok(Ok(outcomes))) => Ok(match reply {
                    WriteReply::Then(reply) => reply,
                    WriteReply::Import => Reply::Body(boxed(import::reply(&outcomes))),
                }),
                Some(Ok(Err(refusal))) => Err(refusal),
                Some(Err(error)) => Err(error.to_string()),
                None => panic!("a write without a result has ended"),
            };
            self.go_on(request_id, result);
        }
    }

    /// Begins the next step of a request, or answers it.
    fn go_on(&mut self, request_id: i32, result: Result<Reply, String>) {
        match result {
            Ok(Reply::Go(plan)) => self.step = Some((request_id, plan)),
            Ok(Reply::Body(body)) => self.respond(request_id, Ok(body)),
            Ok(Reply::Page(_)) => panic!("only a subscription looks at what a job downloads"),
            Err(text) => self.respond(request_id, Err(text)),
        }
    }

    /// Whether a request of several steps is being carried out.
    fn has_steps(&self) -> bool {
        self.step.is_some() || self.steps_writing > 0
    }

    pub(super) fn respond(&mut self, request_id: i32, result: Result<Body, String>) {
        self.replies.push_back(ServerMessage::Response { request_id, result });
    }

    /// Answers the next request if it does not wait for the disk. One at a time: answers that nobody takes must not pile up.
    pub(super) fn begin_what_needs_no_work(&mut self) {
        let is_its_turn =
            self.writing.is_empty() && self.reading.is_none() && self.step.is_none() && self.replies.is_empty();
        let sees_writes = self.invisible.is_empty();
        let request = pop_front_if(&mut self.waiting, |request| {
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
            Plan::Unsubscribe(subscription_id) if self.end(subscription_id) => Ok(None),
            Plan::Unsubscribe(subscription_id) => Err(format!("Unknown subscription_id: {subscription_id}")),
            Plan::ImportRows(request) => self.stage(&request).map(boxed),
            Plan::Stream(plan) => self.subscribe_to(&plan).map(boxed),
            Plan::Read { .. }
            | Plan::Write { .. }
            | Plan::Compute(_)
            | Plan::Ask(_)
            | Plan::ExportRows(_)
            | Plan::DescribeFilter(_) => {
                panic!("a request that waits for the disk was begun as one that does not")
            }
        }
    }

    /// Ends a subscription; says whether there was one.
    fn end(&mut self, subscription_id: i32) -> bool {
        self.followers.remove(subscription_id) || self.streams.remove(subscription_id)
    }

    pub(super) fn next_request_work(&mut self) -> Option<Work> {
        if let Some(work) = self.next_step_work() {
            return Some(work);
        }
        while self.reading.is_none() && !self.has_steps() {
            let is_in_order = self.writing.is_empty();
            let is_sent = self.replies.is_empty();
            let sees_writes = self.invisible.is_empty();
            let may_write = is_in_order || self.context.writes == Writes::Overlap;
            let Request { request_id, size, plan } = pop_front_if(&mut self.waiting, |request| match request.turn() {
                Turn::BehindWrites => may_write,
                Turn::InOrderAndSent => is_in_order && is_sent && (sees_writes || !request.reads_store()),
                Turn::InOrder => false,
            })?;
            match plan.and_then(|plan| self.begin(request_id, size, plan)) {
                Ok(work) => return Some(work),
                // Its answer waits for those of the writes before it.
                Err(text) => {
                    let result = Some(Ok(Err(text)));
                    self.add_write(PendingWrite {
                        request_id,
                        size,
                        reply: WriteReply::Then(Reply::Body(None)),
                        result,
                    });
                    self.respond_to_writes();
                }
            }
        }
        None
    }

    fn next_step_work(&mut self) -> Option<Work> {
        let sees_writes = self.invisible.is_empty();
        let (request_id, plan) = self.step.take_if(|(_, plan)| sees_writes || !reads_store(plan))?;
        if let Plan::Stream(_) = *plan {
            let result = self.do_at_once(*plan);
            self.respond(request_id, result);
            return None;
        }
        match self.begin(request_id, 0, *plan) {
            Ok(work) => Some(work),
            Err(text) => {
                self.respond(request_id, Err(text));
                None
            }
        }
    }

    fn begin(&mut self, request_id: i32, size: usize, plan: Plan) -> Result<Work, String> {
        match plan {
            Plan::Read { query, answer } => {
                self.unfinished_bytes -= size;
                self.reading = Some(PendingRead { request_id, reply: ReadReply::Answer(answer) });
                let bytes_max = self.context.limits.answer_bytes;
                Ok(Work::Read(Read::Query { reader: Reader::Request, query, bytes_max }))
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
                let reply = WriteReply::Then(reply);
                Ok(self.write(mutations, PendingWrite { request_id, size, reply, result: None }))
            }
            Plan::ImportRows(request) => {
                // What cannot be staged because of its table leaves the import of another one as it is.
                self.stage(&request)?;
                let unit = self.import.take().map_or_else(|| Ok(Unit::new()), Import::into_unit)?;
                Ok(self.write(unit, PendingWrite { request_id, size, reply: WriteReply::Import, result: None }))
            }
            Plan::Subscribe(plan) => {
                let table = plan.form.table().is_none().then(|| plan.table.clone());
                let filter = plan.filter().to_owned();
                Ok(self.ask(request_id, size, ReadReply::Subscribe(plan), table, filter))
            }
            Plan::DescribeFilter(text) => Ok(self.ask(request_id, size, ReadReply::DescribeFilter, None, text)),
            Plan::Compute(work) => {
                self.unfinished_bytes -= size;
                self.reading = Some(PendingRead { request_id, reply: ReadReply::Computed });
                Ok(Work::Read(Read::Compute { reader: Reader::Request, work }))
            }
            Plan::Ask(command) => {
                self.unfinished_bytes -= size;
                let ticket = AskTicket(self.next_ticket);
                self.next_ticket += 1;
                self.asking.insert(ticket, request_id);
                Ok(Work::Ask { ticket, command })
            }
            Plan::Unsubscribe(_) | Plan::Stream(_) => {
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
        self.steps_writing += usize::from(pending.goes_on());
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
        Ok(Read::Query { reader: Reader::Request, query, bytes_max: self.context.limits.answer_bytes })
    }

    fn ask(&mut self, request_id: i32, size: usize, reply: ReadReply, table: Option<Table>, filter: String) -> Work {
        self.unfinished_bytes -= size;
        self.reading = Some(PendingRead { request_id, reply });
        Work::Read(Read::Question(Question { table, filter, limits: self.context.limits.filters }))
    }

    pub(super) fn answered_question(&mut self, result: Result<Option<Arc<Filter>>, String>) {
        let pending = self.reading.take().expect("a read ends once");
        let result = result.and_then(|filter| match pending.reply {
            ReadReply::Subscribe(plan) => self.subscribe(&plan, filter),
            ReadReply::DescribeFilter => filter.map(|filter| self.described(&filter)).ok_or_else(|| {
                "invalid_filter at 0: the filter is empty; without one, a subscription has all rows".to_owned()
            }),
            ReadReply::Answer(_) | ReadReply::Computed | ReadReply::Export => {
                panic!("a question was answered for a read")
            }
        });
        self.respond(pending.request_id, result.map(boxed));
    }

    fn described(&self, filter: &Filter) -> proto::response::Body {
        let plan = matcher::Plan::of(&filter.expression());
        proto::response::Body::DescribeFilter(proto::ResponseDescribeFilter {
            canonical: Some(filter.canonical().to_owned()),
            plan: plan.lines,
            is_indexed: Some(filter.is_indexed()),
            cost: Some(filter.cost().0),
            cost_max: Some(self.context.limits.filters.cost_max),
        })
    }

    pub(super) fn answered(&mut self, result: Result<QueryResult, SourceError>) {
        let PendingRead { request_id, reply } = self.reading.take().expect("a read ends once");
        let result = result.map_err(|error| error.to_string()).and_then(|result| match reply {
            ReadReply::Export => Ok(Reply::Body(boxed(exported(&result)))),
            ReadReply::Answer(answer) => self.context.reported(answer(result)),
            ReadReply::Subscribe(_) | ReadReply::DescribeFilter | ReadReply::Computed => {
                panic!("rows were read for what needs none")
            }
        });
        self.go_on(request_id, result);
    }

    pub(super) fn computed(&mut self, answer: Answer) {
        let PendingRead { request_id, .. } = self.reading.take().expect("an answer is worked out once");
        let result = self.context.reported(answer);
        self.go_on(request_id, result);
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
