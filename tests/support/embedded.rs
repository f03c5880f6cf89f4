//! The same as [`super::rethinkdb`] for tests whose rows are in the embedded store, which is always there.

use std::path::Path;

use serde_json::Value;
use starfeed::catalog::stored_table;
use starfeed::change::{Document, Epoch, Key, Table, Timestamp};
use starfeed::store::{FileDisk, Mutation, Retention, Store, StoreOptions, StoreSecret};

use super::process::{ServerProcess, Start};

/// So many that they fill every buffer on the way.
pub(crate) const MANY_CHANGES: usize = 16_000;

/// What a long job downloads.
pub(crate) const MANY_ITEMS: usize = 10_000;

/// So many rows of one import become visible in their order.
pub(crate) const ROWS_IN_ORDER_MAX: usize = 60;

/// A starfeed with these settings and without rows, its data in memory.
pub(crate) fn server(settings: &[(&str, &str)]) -> Option<ServerProcess> {
    Some(ServerProcess::in_memory(settings))
}

/// The same with variables in its environment instead.
pub(crate) fn server_with_environment(environment: &[(&str, &str)]) -> Option<ServerProcess> {
    Some(ServerProcess::start(Start { environment, ..Start::default() }))
}

/// The same with its data in a directory.
pub(crate) fn server_on_disk(data_dir: &Path) -> Option<ServerProcess> {
    Some(ServerProcess::on_disk(data_dir))
}

/// One in the place of another that has ended: same data.
pub(crate) fn server_again(_ended: &mut ServerProcess, data_dir: &Path) -> ServerProcess {
    ServerProcess::on_disk(data_dir)
}

/// One whose store has these rows, which no command would write, and whose log is kept.
pub(crate) fn server_with_rows(rows: &[(&str, Value)]) -> Option<ServerProcess> {
    let directory = tempfile::tempdir().expect("a directory");
    let options = StoreOptions {
        retention: Retention { bytes: 1 << 20, age_ms: 1 << 40 },
        cache_bytes: 1 << 20,
        journal_bytes: 1 << 20,
        fresh_epoch: Epoch(1),
        fresh_secret: StoreSecret([7; 32]),
        indexes: Vec::new(),
    };
    let disk = FileDisk::new(&directory.path().join("store.redb")).expect("a new file");
    let store = Store::open(Box::new(disk), options).expect("a new store");
    let put = |(table, row): &(&str, Value)| {
        let document = Document::parse(row.to_string().as_bytes()).expect("an object");
        let primary_key = stored_table(table).expect("a table of the crawler").primary_key;
        let key = Key::of_value(&row[primary_key]).expect("text, a number or binary");
        vec![Mutation::put(Table::new(table), key, document)]
    };
    store.commit(Timestamp(0), &rows.iter().map(put).collect::<Vec<_>>()).expect("the disk works");
    drop(store);
    let data_dir = directory.path().to_str().expect("a path in UTF-8");
    let mut server = ServerProcess::start(Start { data_dir, ..Start::default() });
    server.directory = Some(directory);
    Some(server)
}
