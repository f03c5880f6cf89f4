//! What commands write: writes as data become queries, and answers become outcomes.

use std::collections::{BTreeSet, HashMap};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::reql::{Connection, Refusal, ReqlError, Term};
use super::rows;
use super::visibility::Became;
use crate::catalog::{StoredTable, stored_table};
use crate::change::{Document, Key, Table};
use crate::source::SourceError;
use crate::store::{IfMissing, IfPresent, Mutation, Outcome, Unit, UnitResult};

/// A table that no command is about cannot be named in one.
pub(super) fn stored(table: &Table) -> StoredTable {
    stored_table(table.name()).unwrap_or_else(|| panic!("a command is about {table}, which the catalog does not know"))
}

/// What became of the rows of a unit.
pub(super) type Results = Vec<(Key, Became)>;

/// Rows that are written by one query, and their bytes: one query holds up the others on its connection.
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
            [first, ..] if is_delete(first) => delete_batch(connection, batch).await,
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

/// The first mutations that go into one query: one, or several of one table that write whole rows, or delete them.
fn batch(mutations: &[Mutation]) -> &[Mutation] {
    let first = &mutations[0];
    let mut bytes = 0;
    let together = mutations.iter().take(BATCH_ROWS).take_while(|mutation| {
        bytes += mutation.row_size();
        let is_alike = if is_delete(first) { is_delete(mutation) } else { put(mutation).is_some() };
        is_alike && mutation.table == first.table && bytes <= BATCH_BYTES
    });
    &mutations[..together.count().max(1)]
}

/// Whether `mutation` deletes the row if it is there, and does nothing else.
fn is_delete(mutation: &Mutation) -> bool {
    matches!((&mutation.if_missing, &mutation.if_present), (IfMissing::Ignore, IfPresent::Delete))
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
    let table = stored(table);
    let becomes = Term::by_presence(missing, becomes(if_present));
    let replace = Term::table(table.name).get(key).replace(becomes);
    let replace = match (if_missing, unguarded(if_present)) {
        (IfMissing::Ignore | IfMissing::Refuse(_), IfPresent::Delete) => {
            replace.answered_with_old_key(table.primary_key)
        }
        _ => replace.answered_without(table.omitted),
    };
    let answer = connection.value(&replace).await.map_err(write_error)?;
    let answer = Answer::read(&answer)?;
    if let Some(error) = answer.error() {
        // The database repeats the text of a refusal; everything else is its own.
        return if refusals(mutation).contains(&error.as_str()) { Ok(Err(error)) } else { Err(refused(error).into()) };
    }
    let change = answer.changes.first().ok_or_else(|| unclear("a write without its row"))?;
    let (became, outcome) = change.read(&table);
    Ok(Ok(vec![(key.clone(), became, outcome)]))
}

/// What a row becomes that is there.
fn becomes(if_present: &IfPresent) -> Term {
    match if_present {
        IfPresent::Merge(patch) => Term::merged_row(Term::document(patch)),
        IfPresent::Replace(document) => Term::document(document),
        IfPresent::Delete => Term::nothing(),
        IfPresent::Refuse(text) => Term::error(text),
        IfPresent::When(guard, then) => {
            let is_allowed = Term::member_of_row(guard.member).is_one_of(guard.values);
            Term::branch(is_allowed, becomes(then), Term::error(&guard.refusal))
        }
    }
}

/// What is done where all guards let it.
fn unguarded(if_present: &IfPresent) -> &IfPresent {
    match if_present {
        IfPresent::When(_, then) => unguarded(then),
        other => other,
    }
}

/// The texts by which `mutation` itself may refuse.
fn refusals(mutation: &Mutation) -> Vec<&str> {
    let mut texts = Vec::new();
    if let IfMissing::Refuse(text) = &mutation.if_missing {
        texts.push(text.as_str());
    }
    let mut if_present = &mutation.if_present;
    while let IfPresent::When(guard, then) = if_present {
        texts.push(&guard.refusal);
        if_present = then;
    }
    if let IfPresent::Refuse(text) = if_present {
        texts.push(text);
    }
    texts
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

/// Deletes rows. Which of them were there is asked first, by their keys: a row may be megabytes, and its end would bring all of it.
async fn delete_batch(connection: &Connection, batch: &[Mutation]) -> Result<Result<Vec<RowResult>, String>, Failure> {
    let table = stored(&batch[0].table);
    // A row that is named twice would be told twice.
    let keys: BTreeSet<&Key> = batch.iter().map(|mutation| &mutation.key).collect();
    let rows = Term::table(table.name).get_all(keys);
    let query = Term::list(vec![rows.clone().only(table.primary_key).as_list(), rows.delete()]);
    let answer = connection.value(&query).await.map_err(write_error)?;
    let (there, answer): (Vec<&RawValue>, Answer<'_>) =
        serde_json::from_str(answer.get()).map_err(|_| unclear("a deletion was answered with something else"))?;
    if let Some(error) = answer.error() {
        let failed = usize::try_from(answer.errors).unwrap_or(usize::MAX);
        return Err(Failure { written: batch.len().saturating_sub(failed), error: refused(error) });
    }
    let mut there: BTreeSet<Key> = there.into_iter().filter_map(|row| rows::key_only(&table, row)).collect();
    let result = |mutation: &Mutation| {
        let outcome = if there.remove(&mutation.key) { Outcome::Deleted } else { Outcome::Unchanged };
        (mutation.key.clone(), None, outcome)
    };
    Ok(Ok(batch.iter().map(result).collect()))
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
