//! What a command comes down to: rows to read or write, a subscription, or a text that says why not; and how tables say it.

use std::fmt;

use serde_json::{Map, Value};
use uuid::Uuid;

use super::{CatalogTable, JobSyncPlan, RowProblem, Shown, SyncPage, ids};
use crate::change::{Cause, Document, Key, Row, Table, Timestamp};
use crate::proto;
use crate::proto::response::Body;
use crate::store::{IfMissing, IfPresent, Mutation, Order, Query, QueryResult};

/// When a command came, and the id that a row made by it gets.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// The time.
    pub now: Timestamp,
    /// An id that no row has.
    pub fresh_id: Uuid,
    /// Whether there is a crawler that can be asked.
    pub has_crawler: bool,
}

/// What a command comes down to.
pub enum Plan {
    /// Read rows and go on with them.
    Read {
        /// What to read.
        query: Query,
        /// Makes the answer of what was read.
        answer: Box<dyn FnOnce(QueryResult) -> Answer + Send>,
    },
    /// Write rows, all or none, and go on.
    Write {
        /// What to write.
        mutations: Vec<Mutation>,
        /// What follows where that was done.
        reply: Reply,
    },
    /// Work out an answer, which may take the processor for a while.
    Compute(Box<dyn FnOnce() -> Answer + Send>),
    /// Have the crawler carry out this command, and answer as it does.
    Ask(Box<proto::request::Command>),
    /// Subscribe to rows.
    Subscribe(SubscribePlan),
    /// Subscribe to something else.
    Stream(StreamPlan),
    /// Say how a filter would be carried out.
    DescribeFilter(String),
    /// End the subscription with this id.
    Unsubscribe(i32),
    /// Stage rows of an import, or commit it.
    ImportRows(proto::RequestImportRows),
    /// Read a page of a table as it is stored.
    ExportRows(proto::RequestExportRows),
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { query, .. } => f.debug_struct("Read").field("query", query).finish_non_exhaustive(),
            Self::Write { mutations, reply } => {
                f.debug_struct("Write").field("mutations", mutations).field("reply", reply).finish()
            }
            Self::Compute(_) => f.write_str("Compute"),
            Self::Ask(_) => f.write_str("Ask"),
            Self::Stream(plan) => plan.fmt(f),
            Self::Subscribe(plan) => f.debug_tuple("Subscribe").field(&plan.table).finish(),
            Self::DescribeFilter(_) => f.write_str("DescribeFilter"),
            Self::Unsubscribe(id) => f.debug_tuple("Unsubscribe").field(id).finish(),
            Self::ImportRows(request) => f.debug_tuple("ImportRows").field(request).finish(),
            Self::ExportRows(request) => f.debug_tuple("ExportRows").field(request).finish(),
        }
    }
}

/// A subscription that is asked for.
#[derive(Clone, Debug)]
pub struct SubscribePlan {
    /// The table.
    pub table: Table,
    /// How its rows are shown.
    pub form: Form,
    /// What is asked for beyond the plain events, if anything.
    pub options: Option<proto::SubscribeOptions>,
}

impl SubscribePlan {
    /// The text of its filter; empty where it has none.
    pub fn filter(&self) -> &str {
        self.options.as_ref().and_then(|options| options.filter.as_deref()).unwrap_or_default()
    }

    /// Whether something has to be looked up before it can begin: its table, or its filter.
    pub fn has_questions(&self) -> bool {
        self.form.table().is_none() || !self.filter().is_empty()
    }
}

/// A subscription that is not one to the rows of a table.
#[derive(Clone, Copy, Debug)]
pub enum StreamPlan {
    /// How jobs get on.
    JobStatus {
        /// Milliseconds between two events at least.
        interval_ms: u64,
        /// Jobs that ended before are left out.
        since: Timestamp,
    },
    /// What a job downloads.
    JobSync(JobSyncPlan),
    /// Figures of the machine.
    Resources {
        /// Past figures that come first, at most.
        history: usize,
    },
    /// What the server does.
    Tasks {
        /// Milliseconds between two events.
        period_ms: u64,
    },
}

/// How the rows of a table are shown in events.
#[derive(Clone, Copy, Debug)]
pub enum Form {
    /// As events of a list that is in the catalog.
    List(&'static CatalogTable),
    /// As JSON; the entry of the table if it is in the catalog.
    Json(Option<&'static CatalogTable>),
}

impl Form {
    /// The entry of the table, if it is in the catalog.
    pub fn table(self) -> Option<&'static CatalogTable> {
        match self {
            Self::List(table) => Some(table),
            Self::Json(table) => table,
        }
    }
}

/// What rows make of a question.
#[derive(Debug)]
pub struct Answer {
    /// What follows, or the text for the client.
    pub reply: Result<Reply, String>,
    /// Rows that were left out or shown in part.
    pub problems: Vec<RowReport>,
}

/// A row that was left out or shown in part.
#[derive(Debug)]
pub struct RowReport {
    /// Its table.
    pub table: Table,
    /// The row.
    pub key: Key,
    /// Why.
    pub problem: RowProblem,
}

/// What follows a step of a command.
#[derive(Debug)]
pub enum Reply {
    /// The end: success, with this body if it has one.
    Body(Option<Box<Body>>),
    /// The next step.
    Go(Box<Plan>),
    /// The end of a look at what a job downloads.
    Page(SyncPage),
}

impl Answer {
    /// Success, with this body.
    pub(super) fn body(body: Body) -> Self {
        Self::reply(Reply::of(body))
    }

    /// This follows.
    pub(super) fn reply(reply: Reply) -> Self {
        Self { reply: Ok(reply), problems: Vec::new() }
    }

    /// An error, with this text for the client.
    pub(super) fn error(text: impl Into<String>) -> Self {
        Self { reply: Err(text.into()), problems: Vec::new() }
    }

    /// The same, with rows to report.
    pub(super) fn with_problems(self, problems: Vec<RowReport>) -> Self {
        Self { problems, ..self }
    }
}

impl Reply {
    /// Success, with this body.
    pub(super) fn of(body: Body) -> Self {
        Self::Body(Some(Box::new(body)))
    }

    /// The next step.
    pub(super) fn go(plan: Plan) -> Self {
        Self::Go(Box::new(plan))
    }

    /// Success, without a body.
    pub(super) const DONE: Self = Self::Body(None);
}

/// Rows shown one by one: the ones that can be, and what there is to report.
pub(super) struct ShownRows<T> {
    pub(super) values: Vec<T>,
    pub(super) problems: Vec<RowReport>,
}

/// Shows `rows` of `table`; those that `show` cannot show are left out.
pub(super) fn show_rows<T>(
    table: &Table,
    rows: Vec<Row>,
    show: impl Fn(&Row) -> Result<Shown<T>, RowProblem>,
) -> ShownRows<T> {
    let mut shown = ShownRows { values: Vec::with_capacity(rows.len()), problems: Vec::new() };
    for row in rows {
        let problem = match show(&row) {
            Ok(row_shown) => {
                shown.values.push(row_shown.value);
                row_shown.problem
            }
            Err(problem) => Some(problem),
        };
        shown.problems.extend(problem.map(|problem| RowReport { table: table.clone(), key: row.key, problem }));
    }
    shown
}

/// The offset and the limit of `page`.
pub(super) fn page_of(page: Option<proto::Page>) -> Result<(usize, usize), String> {
    let page = page.unwrap_or_default();
    let limit = usize::try_from(page.limit()).map_err(|_| "Page limit must be ≥0.".to_owned())?;
    let offset = usize::try_from(page.offset()).map_err(|_| "Page offset must be ≥0.".to_owned())?;
    Ok((offset, limit))
}

/// Reads a page of `table`. Rows that `show` cannot show are left out; the others are given to `body`, with the total.
pub(super) fn read_list<T: 'static>(
    table: Table,
    order: Order,
    page: Option<proto::Page>,
    show: fn(&Row) -> Result<Shown<T>, RowProblem>,
    body: fn(Vec<T>, Option<i32>) -> Body,
) -> Result<Plan, String> {
    let (offset, limit) = page_of(page)?;
    Ok(read_rows(Query::List { table, order, offset, limit }, show, body))
}

/// Reads a list. Rows that `show` cannot show are left out; the others are given to `body`, with the total.
pub(super) fn read_rows<T: 'static>(
    query: Query,
    show: fn(&Row) -> Result<Shown<T>, RowProblem>,
    body: fn(Vec<T>, Option<i32>) -> Body,
) -> Plan {
    let table = query.table().clone();
    let answer = move |result: QueryResult| {
        let total = i32::try_from(result.total).unwrap_or(i32::MAX);
        let ShownRows { values, problems } = show_rows(&table, result.rows, show);
        Answer::body(body(values, Some(total))).with_problems(problems)
    };
    Plan::Read { query, answer: Box::new(answer) }
}

/// Reads one row; `missing` is the text for the client where there is none.
pub(super) fn read_one<T: 'static>(
    table: Table,
    key: Key,
    missing: String,
    show: fn(&Row) -> Result<Shown<T>, RowProblem>,
    body: fn(T) -> Body,
) -> Plan {
    let of = table.clone();
    let answer = move |result: QueryResult| {
        if result.rows.is_empty() {
            return Answer::error(missing);
        }
        let ShownRows { values, problems } = show_rows(&of, result.rows, show);
        let answer = match (values.into_iter().next(), problems.first()) {
            (Some(value), _) => Answer::body(body(value)),
            (None, Some(RowReport { problem, .. })) => Answer::error(format!("The row cannot be shown: {problem}.")),
            (None, None) => panic!("a row was neither shown nor reported"),
        };
        answer.with_problems(problems)
    };
    Plan::Read { query: Query::Get { table, key }, answer: Box::new(answer) }
}

/// Writes a row that is new, under an id that nobody has; `what` is the name for what it is.
pub(super) fn inserted(table: Table, id: Uuid, what: &str, mut members: Map<String, Value>) -> Mutation {
    members.insert("id".to_owned(), id.to_string().into());
    Mutation {
        table,
        key: ids::key(id),
        if_missing: IfMissing::Insert(Document::from_object(members)),
        if_present: IfPresent::Refuse(format!("The ID for the new {what} is taken. Try again.")),
        cause: Cause::Write,
    }
}

/// Writes one row.
pub(super) fn write(mutation: Mutation, reply: Option<Body>) -> Plan {
    Plan::Write { mutations: vec![mutation], reply: Reply::Body(reply.map(Box::new)) }
}
