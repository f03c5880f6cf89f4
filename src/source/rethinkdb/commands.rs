//! Commands on the database: reads and writes as data become queries, and answers become rows and outcomes.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::reql::{Connection, Refusal, ReqlError, Term};
use super::rows;
use super::visibility::Became;
use crate::catalog::{StoredTable, stored_table};
use crate::change::{Document, Key, Row, Seq, Table};
use crate::row_problems::RowProblems;
use crate::source::SourceError;
use crate::store::{IfMissing, IfPresent, Mutation, Order, Outcome, PageBudget, Query, QueryResult, Unit, UnitResult};

/// A table that no command is about cannot be named in one.
fn stored(table: &Table) -> StoredTable {
    stored_table(table.name()).unwrap_or_else(|| panic!("a command is about {table}, which the catalog does not know"))
}

/// Reads what a command asks for.
pub(super) async fn query(
    connection: &Connection,
    query: &Query,
    bytes_max: usize,
    problems: &RowProblems,
) -> Result<QueryResult, ReqlError> {
    let table = stored(query.table());
    let reader = Reader { connection, table, problems };
    match query {
        Query::Get { key, .. } => {
            let row = connection.value(&Term::table(table.name).get(key)).await?;
            let rows: Vec<Row> = if row.get() == "null" { Vec::new() } else { reader.kept([row]) };
            Ok(QueryResult { total: rows.len(), rows, ..QueryResult::default() })
        }
        Query::List { order, offset, limit, .. } => {
            let index = match order {
                Order::Key => table.primary_key,
                Order::Member(member) => member,
            };
            let page = Term::table(table.name).order_by_index(index).page(*offset, *limit);
            let counted = Term::table(table.name).count();
            let (mut rows, total) = tokio::try_join!(connection.rows(&page, bytes_max), reader.number(&counted))?;
            if let Order::Member(member) = order {
                rows = reader.with_those_without(member, rows, total, (*offset, *limit), bytes_max).await?;
            }
            Ok(QueryResult { rows: reader.kept(rows), total, ..QueryResult::default() })
        }
        Query::After { after, budget, .. } => reader.page_after(after.as_ref(), *budget).await,
    }
}

struct Reader<'a> {
    connection: &'a Connection,
    table: StoredTable,
    problems: &'a RowProblems,
}

impl Reader<'_> {
    async fn number(&self, query: &Term) -> Result<usize, ReqlError> {
        let value = self.connection.value(query).await?;
        serde_json::from_str(value.get()).map_err(|_| ReqlError::protocol("a number was asked for"))
    }

    /// A page of all rows in the order of their keys, without an end where there may be more.
    async fn page_after(&self, after: Option<&Key>, budget: PageBudget) -> Result<QueryResult, ReqlError> {
        let table = Term::table(self.table.name);
        let rest = after.map_or(table.clone(), |key| table.after(key)).order_by_index(self.table.primary_key);
        let (rows, is_complete) = self.connection.first_rows(&rest, budget, |row| self.keep(row)).await?;
        Ok(QueryResult { rows, is_complete, ..QueryResult::default() })
    }

    /// Behind the rows of an index come those that have not what it holds, in the order of their keys: without them a list would
    /// hide rows that it counts.
    async fn with_those_without(
        &self,
        member: &str,
        mut rows: Vec<Box<RawValue>>,
        total: usize,
        (offset, limit): (usize, usize),
        bytes_max: usize,
    ) -> Result<Vec<Box<RawValue>>, ReqlError> {
        let missing = limit.min(total.saturating_sub(offset)).saturating_sub(rows.len());
        if missing == 0 {
            return Ok(rows);
        }
        let has = self.number(&Term::table(self.table.name).order_by_index(member).count()).await?;
        let rest = Term::table(self.table.name).order_by_index(self.table.primary_key).without_value(member);
        rows.extend(self.connection.rows(&rest.page(offset.saturating_sub(has), missing), bytes_max).await?);
        Ok(rows)
    }

    /// The rows that can be read; the others are reported.
    fn kept(&self, rows: impl IntoIterator<Item = Box<RawValue>>) -> Vec<Row> {
        rows.into_iter().filter_map(|row| self.keep(&row)).collect()
    }

    fn keep(&self, row: &RawValue) -> Option<Row> {
        match rows::read(&self.table, row) {
            Ok((key, document)) => Some(Row { key, version: Seq::ZERO, document }),
            Err(bad) => {
                self.problems.report(&self.table.table(), &bad.key_or_unknown(), &bad.problem);
                None
            }
        }
    }
}

/// What became of the rows of a unit.
pub(super) type Results = Vec<(Key, Became)>;

/// Rows that are written by one query of an import, and their bytes: one query holds up the others on its connection.
const BATCH_ROWS: usize = 200;
const BATCH_BYTES: usize = 1 << 20;

/// Writes `unit`. One row is one atomic step; several are not, but writing them again does no harm.
pub(super) async fn write(connection: &Connection, unit: &Unit) -> Result<(UnitResult, Results), SourceError> {
    let mut outcomes = Vec::with_capacity(unit.len());
    let mut results = Results::with_capacity(unit.len());
    while outcomes.len() < unit.len() {
        let written = outcomes.len();
        let batch = batch(&unit[written..]);
        let answer = match batch {
            [mutation] => write_row(connection, mutation).await,
            batch => write_batch(connection, batch).await,
        };
        match answer {
            Ok(Ok(rows)) => {
                for (key, became, outcome) in rows {
                    outcomes.push(outcome);
                    results.push((key, became));
                }
            }
            Ok(Err(refusal)) if written == 0 => return Ok((Err(refusal), results)),
            Ok(Err(refusal)) => {
                return Ok((Err(format!("{written} of {} rows were written: {refusal}", unit.len())), results));
            }
            Err(failure) => return Err(failure.after(written, unit.len())),
        }
    }
    Ok((Ok(outcomes), results))
}

/// The first mutations that go into one query: one, or several that write whole rows of one table.
fn batch(mutations: &[Mutation]) -> &[Mutation] {
    let first = &mutations[0];
    let mut bytes = 0;
    let together = mutations.iter().take(BATCH_ROWS).take_while(|mutation| {
        bytes += mutation.row_size();
        put(mutation).is_some() && mutation.table == first.table && bytes <= BATCH_BYTES
    });
    &mutations[..together.count().max(1)]
}

/// The row that `mutation` writes whatever is there.
fn put(mutation: &Mutation) -> Option<&Document> {
    match (&mutation.if_missing, &mutation.if_present) {
        (IfMissing::Insert(document), IfPresent::Replace(other)) if document == other => Some(document),
        _ => None,
    }
}

type RowResult = (Key, Became, Outcome);

/// Why not all rows of a query were written.
struct Failure {
    /// How many were, as far as that is known.
    written: usize,
    error: SourceError,
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Self {
        Self { written: 0, error }
    }
}

impl Failure {
    /// What it means for `rows` of which so many were written before.
    fn after(self, before: usize, rows: usize) -> SourceError {
        match before.saturating_add(self.written) {
            0 => self.error,
            written => SourceError::InPart { written, rows, error: Box::new(self.error) },
        }
    }
}

/// The answer to a write that may have been done is not what it should be.
fn unclear(what: &str) -> SourceError {
    SourceError::Unconfirmed(ReqlError::protocol(what))
}

async fn write_row(connection: &Connection, mutation: &Mutation) -> Result<Result<Vec<RowResult>, String>, Failure> {
    let Mutation { table, key, if_missing, if_present, .. } = mutation;
    let missing = match if_missing {
        IfMissing::Ignore => Term::nothing(),
        IfMissing::Insert(document) => Term::document(document),
        IfMissing::Refuse(text) => Term::error(text),
    };
    let present = match if_present {
        IfPresent::Merge(patch) => Term::merged_row(Term::document(patch)),
        IfPresent::Replace(document) => Term::document(document),
        IfPresent::Delete => Term::nothing(),
        IfPresent::Refuse(text) => Term::error(text),
    };
    let table = stored(table);
    let replace = Term::table(table.name).get(key).replace(Term::by_presence(missing, present));
    let answer = connection.value(&replace).await.map_err(write_error)?;
    let answer = Answer::read(&answer)?;
    if let Some(error) = answer.error() {
        let refusals = [
            if let IfMissing::Refuse(text) = if_missing { Some(text) } else { None },
            if let IfPresent::Refuse(text) = if_present { Some(text) } else { None },
        ];
        // The database repeats the text of a refusal; everything else is its own.
        return if refusals.into_iter().flatten().any(|text| *text == error) {
            Ok(Err(error))
        } else {
            Err(refused(error).into())
        };
    }
    let change = answer.changes.first().ok_or_else(|| unclear("a write without its row"))?;
    let (became, outcome) = change.read(&table);
    Ok(Ok(vec![(key.clone(), became, outcome)]))
}

async fn write_batch(connection: &Connection, batch: &[Mutation]) -> Result<Result<Vec<RowResult>, String>, Failure> {
    let table = stored(&batch[0].table);
    let documents = batch.iter().filter_map(put).map(Term::document).collect();
    let answer = connection.value(&Term::table(table.name).put_all(documents)).await.map_err(write_error)?;
    let answer = Answer::read(&answer)?;
    if let Some(error) = answer.error() {
        let written = [answer.inserted, answer.replaced, answer.unchanged].into_iter().fold(0, u64::saturating_add);
        return Err(Failure { written: usize::try_from(written).unwrap_or(usize::MAX), error: refused(error) });
    }
    let mut by_key: HashMap<Key, (Became, Outcome)> = HashMap::new();
    for change in &answer.changes {
        if let Some(key) = change.new_val.and_then(|row| rows::key_only(&table, row)) {
            by_key.insert(key, change.read(&table));
        }
    }
    let result = |mutation: &Mutation| {
        let (became, outcome) = by_key.remove(&mutation.key).ok_or_else(|| unclear("a write without its row"))?;
        Ok((mutation.key.clone(), became, outcome))
    };
    let rows: Result<Vec<RowResult>, SourceError> = batch.iter().map(result).collect();
    Ok(Ok(rows?))
}

fn refused(text: String) -> SourceError {
    SourceError::Database(ReqlError::Refused { kind: Refusal::Other, text })
}

/// What an error means for a write that was sent: where the connection ended, nobody knows whether it was done.
fn write_error(error: ReqlError) -> SourceError {
    match error {
        ReqlError::Lost(_)
        | ReqlError::Silent
        | ReqlError::Timeout(_)
        | ReqlError::Protocol(_)
        | ReqlError::Refused { kind: Refusal::Indeterminate, .. } => SourceError::Unconfirmed(error),
        other => SourceError::Database(other),
    }
}

/// What the database says of a write.
#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(default)]
    errors: u64,
    #[serde(default)]
    inserted: u64,
    #[serde(default)]
    replaced: u64,
    #[serde(default)]
    unchanged: u64,
    first_error: Option<String>,
    #[serde(borrow, default)]
    changes: Vec<RowChange<'a>>,
}

/// One row before and after.
#[derive(Deserialize)]
struct RowChange<'a> {
    #[serde(borrow)]
    old_val: Option<&'a RawValue>,
    #[serde(borrow)]
    new_val: Option<&'a RawValue>,
}

impl<'a> Answer<'a> {
    fn read(value: &'a RawValue) -> Result<Self, SourceError> {
        let answer = serde_json::from_str(value.get());
        answer.map_err(|_| unclear("a write was answered with something else"))
    }

    fn error(&self) -> Option<String> {
        (self.errors > 0).then(|| self.first_error.clone().unwrap_or_else(|| "it does not say why not".to_owned()))
    }
}

impl RowChange<'_> {
    fn read(&self, table: &StoredTable) -> (Became, Outcome) {
        let document =
            |row: Option<&RawValue>| row.and_then(|row| rows::read(table, row).ok()).map(|(_, document)| document);
        let (old, new) = (document(self.old_val), document(self.new_val));
        let outcome = match (&old, &new) {
            (None, Some(_)) => Outcome::Added,
            (Some(_), None) => Outcome::Deleted,
            (None, None) => Outcome::Unchanged,
            (Some(old), Some(new)) if old == new => Outcome::Unchanged,
            (Some(_), Some(_)) => Outcome::Updated,
        };
        (new, outcome)
    }
}
