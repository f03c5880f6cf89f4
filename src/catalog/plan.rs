//! What a command comes down to: rows to read or write, a subscription, or a text that says why not; and how tables say it.

use std::fmt;

use uuid::Uuid;

use super::{CatalogTable, RowProblem, Shown};
use crate::change::{Key, Row, Table, Timestamp};
use crate::proto;
use crate::proto::response::Body;
use crate::store::{Mutation, Order, Query, QueryResult};

/// When a command came, and the id that a row made by it gets.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// The time.
    pub now: Timestamp,
    /// An id that no row has.
    pub fresh_id: Uuid,
}

/// What a command comes down to.
#[expect(clippy::large_enum_variant, reason = "there is one for each command, and it is moved a few times at most")]
pub enum Plan {
    /// Read rows and answer with them.
    Read {
        /// What to read.
        query: Query,
        /// Makes the answer of what was read.
        answer: Box<dyn FnOnce(QueryResult) -> Answer + Send>,
    },
    /// Write rows, all or none, and answer.
    Write {
        /// What to write.
        mutations: Vec<Mutation>,
        /// The body of the answer, if it has one.
        reply: Option<Body>,
    },
    /// Subscribe.
    Subscribe(SubscribePlan),
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
    /// The body of the answer, or the text for the client.
    pub body: Result<Body, String>,
    /// Rows that were left out or shown in part.
    pub problems: Vec<(Key, RowProblem)>,
}

/// Reads a page of `table`. Rows that `show` cannot show are left out; the others are given to `body`, with the total.
pub(super) fn read_list<T: 'static>(
    table: Table,
    order: Order,
    page: Option<proto::Page>,
    show: fn(&Row) -> Result<Shown<T>, RowProblem>,
    body: fn(Vec<T>, Option<i32>) -> Body,
) -> Result<Plan, String> {
    let page = page.unwrap_or_default();
    let limit = usize::try_from(page.limit()).map_err(|_| "Page limit must be ≥0.".to_owned())?;
    let offset = usize::try_from(page.offset()).map_err(|_| "Page offset must be ≥0.".to_owned())?;
    let answer = move |result: QueryResult| {
        let mut shown = Vec::with_capacity(result.rows.len());
        let mut problems = Vec::new();
        for row in result.rows {
            match show(&row) {
                Ok(row_shown) => {
                    shown.push(row_shown.value);
                    problems.extend(row_shown.problem.map(|problem| (row.key, problem)));
                }
                Err(problem) => problems.push((row.key, problem)),
            }
        }
        let total = i32::try_from(result.total).unwrap_or(i32::MAX);
        Answer { body: Ok(body(shown, Some(total))), problems }
    };
    Ok(Plan::Read { query: Query::List { table, order, offset, limit }, answer: Box::new(answer) })
}

/// Reads one row; `missing` is the text for the client where there is none.
pub(super) fn read_one<T: 'static>(
    table: Table,
    key: Key,
    missing: String,
    show: fn(&Row) -> Result<Shown<T>, RowProblem>,
    body: fn(T) -> Body,
) -> Plan {
    let answer = move |result: QueryResult| {
        let Some(row) = result.rows.into_iter().next() else {
            return Answer { body: Err(missing), problems: Vec::new() };
        };
        match show(&row) {
            Ok(shown) => Answer {
                body: Ok(body(shown.value)),
                problems: shown.problem.map(|problem| (row.key, problem)).into_iter().collect(),
            },
            Err(problem) => {
                Answer { body: Err(format!("The row cannot be shown: {problem}.")), problems: vec![(row.key, problem)] }
            }
        }
    };
    Plan::Read { query: Query::Get { table, key }, answer: Box::new(answer) }
}

/// Writes one row.
pub(super) fn write(mutation: Mutation, reply: Option<Body>) -> Plan {
    Plan::Write { mutations: vec![mutation], reply }
}
