mod commits;
mod guards;
mod indexes;
mod journal;
mod opening;
mod reads;
mod retention;
mod safety;
mod upgrade;
mod writer;

use super::*;
use crate::change::{Document, Key, Row, Table};

const EVERYTHING: Retention = Retention { bytes: u64::MAX, age_ms: u64::MAX };
const NO_LIMIT: PageBudget = PageBudget { items: usize::MAX, bytes: usize::MAX };

pub(crate) fn options(retention: Retention) -> StoreOptions {
    StoreOptions {
        retention,
        cache_bytes: 1 << 20,
        journal_bytes: 1 << 20,
        fresh_epoch: Epoch(5),
        fresh_secret: StoreSecret([7; 32]),
        indexes: Vec::new(),
    }
}

fn in_memory() -> Store {
    Store::open(Box::new(MemoryDisk), options(EVERYTHING)).expect("a store in memory")
}

fn policies() -> Table {
    Table::new("policy")
}

fn schedules() -> Table {
    Table::new("schedule")
}

fn document(text: &str) -> Document {
    Document::parse(text.as_bytes()).expect("a valid document")
}

/// A document that says `value`.
fn value(value: i64) -> Document {
    document(&format!(r#"{{"value":{value}}}"#))
}

fn put(table: Table, key: &str, content: Document) -> Mutation {
    Mutation::put(table, Key::text(key), content)
}

fn delete(table: Table, key: &str) -> Mutation {
    Mutation::delete(table, Key::text(key))
}

/// An update of a row that must be there.
fn update(table: Table, key: &str, patch: Document) -> Mutation {
    Mutation::update(table, Key::text(key), patch, format!("{key} is missing"))
}

fn commit(store: &Store, units: &[Unit]) -> Committed {
    store.commit(Timestamp(1_000), units).expect("the disk works")
}

/// Commits one unit that nothing refuses.
fn write(store: &Store, unit: Unit) -> Vec<Outcome> {
    let mut results = commit(store, &[unit]).results;
    results.pop().expect("one result").expect("nothing to refuse")
}

fn rows(store: &Store, table: &Table) -> Vec<Row> {
    let page = store.snapshot().expect("a snapshot").rows_after(table, None, NO_LIMIT).expect("rows");
    assert!(page.complete);
    page.rows
}

/// Keys and contents of all rows.
fn contents(store: &Store, table: &Table) -> Vec<(String, Document)> {
    rows(store, table).into_iter().map(|row| (row.key.to_string(), row.document)).collect()
}

/// The log of `table` after `after`; `None` where it was trimmed.
fn log(store: &Store, table: &Table, after: u64) -> Option<Vec<Change>> {
    match store.snapshot().expect("a snapshot").changes_after(table, Seq(after), NO_LIMIT).expect("changes") {
        ChangePage::Changes { changes, complete } => {
            assert!(complete);
            Some(changes)
        }
        ChangePage::Trimmed => None,
    }
}

fn seqs(changes: &[Change]) -> Vec<u64> {
    changes.iter().map(|change| change.seq.0).collect()
}
