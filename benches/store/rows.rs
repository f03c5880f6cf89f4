//! The rows that are written, and how a store for them is opened.

use rustix::time::{ClockId, clock_gettime};
use serde_json::json;
use starfeed::catalog::stored_tables;
use starfeed::change::{Document, Epoch, Key, Table};
use starfeed::config::Limits;
use starfeed::store::{Disk, Mutation, Store, StoreOptions, StoreSecret, TableIndexes, Unit};

/// Rows that are there from the start; each write changes one of them.
pub(crate) const ROWS: usize = 10_000;
/// It has an index, as most tables have.
const TABLE: &str = "policy";

pub(crate) fn open(disk: Box<dyn Disk>) -> Store {
    let limits = Limits::default();
    let options = StoreOptions {
        retention: limits.retention(),
        cache_bytes: 128 << 20,
        journal_bytes: 1 << 20,
        fresh_epoch: Epoch(1),
        fresh_secret: StoreSecret([7; 32]),
        indexes: stored_tables().map(|table| TableIndexes { table: table.table(), indexes: table.indexes }).collect(),
    };
    Store::open(disk, options).expect("a new store")
}

/// The write of row `number`, of about 200 bytes; each `version` is another one.
pub(crate) fn write(number: usize, version: usize) -> Unit {
    let id = key(number);
    let row = json!({
        "id": id,
        "name": format!("policy {number}"),
        "limits": {"max_cost": 10, "max_items": version},
        "created_at": {"$reql_type$": "TIME", "epoch_time": 1.5e9, "timezone": "+00:00"},
        "pad": "x".repeat(24),
    });
    let document = Document::parse(row.to_string().as_bytes()).expect("an object");
    vec![Mutation::put(Table::new(TABLE), Key::text(&id), document)]
}

/// The key of row `number`.
pub(crate) fn key(number: usize) -> String {
    format!("00000000-0000-4000-8000-{number:012}")
}

/// A row of `ROWS`, never the same twice in a row, and all of them in time.
pub(crate) fn scattered(number: usize) -> usize {
    number.wrapping_mul(7_919) % ROWS
}

/// Processor time of this thread, in seconds.
pub(crate) fn thread_cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
