//! A real RethinkDB for tests, and databases in it that tests have for themselves.
//!
//! It is the one of `STARFEED_TEST_RETHINKDB=host:port` (its user `admin` needs no password; only databases with names of our own are
//! made and removed), or `rethinkdb` from the PATH, or a container. Where there is none of these, tests are skipped, and say so.

pub(crate) mod ask;
pub(crate) mod database;
mod guarded;
pub(crate) mod server;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};

use database::Database;
use serde_json::Value;
use server::Rethinkdb;

use super::process::{ServerProcess, Start};

/// So many that they fill every buffer on the way, and not more: each waits for the disk, and for one client they do so one after the
/// other.
pub(crate) const MANY_CHANGES: usize = 3_000;

/// What a long job downloads: fewer than over the embedded store, for the same reason.
pub(crate) const MANY_ITEMS: usize = 2_000;

/// So many rows of one import become visible in their order: those of a larger one come in any.
pub(crate) const ROWS_IN_ORDER_MAX: usize = 1;

/// The server that the tests of this process share.
pub(crate) fn shared() -> Option<&'static Rethinkdb> {
    static SHARED: OnceLock<Option<Rethinkdb>> = OnceLock::new();
    SHARED.get_or_init(Rethinkdb::shared).as_ref()
}

/// Says, past the capture of test output, that something is not tested: that must not look like a test that passed.
pub(crate) fn skipped(why: &str) {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    if SAID.lock().unwrap_or_else(PoisonError::into_inner).insert(why.to_owned()) {
        let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
    }
}

/// A starfeed with these settings over a database without rows, its copy in memory.
pub(crate) fn server(settings: &[(&str, &str)]) -> Option<ServerProcess> {
    Some(ServerProcess::start(Start { settings, database: Some(Database::lease()?), ..Start::default() }))
}

/// The same with variables in its environment instead.
pub(crate) fn server_with_environment(environment: &[(&str, &str)]) -> Option<ServerProcess> {
    Some(ServerProcess::start(Start { environment, database: Some(Database::lease()?), ..Start::default() }))
}

/// The same with its copy in a directory.
pub(crate) fn server_on_disk(data_dir: &Path) -> Option<ServerProcess> {
    Some(on_disk_over(Database::lease()?, data_dir))
}

/// One in the place of another that has ended: same data, and the same database.
pub(crate) fn server_again(ended: &mut ServerProcess, data_dir: &Path) -> ServerProcess {
    on_disk_over(ended.database.take().expect("it had one"), data_dir)
}

fn on_disk_over(database: Database, data_dir: &Path) -> ServerProcess {
    let data_dir = data_dir.to_str().expect("a path in UTF-8");
    ServerProcess::start(Start { data_dir, database: Some(database), ..Start::default() })
}

/// One over a database that has these rows, which no command would write, and whose log is kept.
pub(crate) fn server_with_rows(rows: &[(&str, Value)]) -> Option<ServerProcess> {
    let database = Database::lease()?;
    rows.iter().for_each(|(table, row)| database.put(table, row));
    Some(ServerProcess::start(Start { database: Some(database), ..Start::default() }))
}
