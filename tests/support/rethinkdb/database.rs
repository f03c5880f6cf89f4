//! Databases with the tables of a crawler, lent to one test at a time: making the tables takes seconds, emptying them does not.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use reql::cmd::insert;
use reql::{Command, r};
use serde_json::Value;
use starfeed::catalog::stored_tables;

use super::ask::{ask, asked, members, session};
use super::server::Rethinkdb;
use super::shared;

/// The table of canaries, which is no table of a crawler.
const CANARIES: &str = "starfeed_canary";

/// Made, and lent to nobody.
static FREE: Mutex<Vec<String>> = Mutex::new(Vec::new());

static MADE: AtomicUsize = AtomicUsize::new(0);

/// A name that nobody else has.
fn new_name() -> String {
    format!("starfeed_test_{}_{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed))
}

/// A database in the shared RethinkDB that nobody else uses meanwhile.
pub(crate) struct Database {
    pub(crate) server: &'static Rethinkdb,
    pub(crate) name: String,
    /// Its tables are not as they should be.
    is_spoilt: bool,
}

impl Database {
    /// One whose tables have no rows; `None` where there is no RethinkDB.
    pub(crate) fn lease() -> Option<Self> {
        let server = shared()?;
        let free = FREE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let name = match free {
            Some(name) => {
                empty(server, &name);
                name
            }
            None => {
                let name = new_name();
                init(&server.url("admin", &name));
                name
            }
        };
        Some(Self { server, name, is_spoilt: false })
    }

    /// Its tables will not be as they should be: nobody gets it again.
    pub(crate) fn spoil(&mut self) {
        self.is_spoilt = true;
    }

    pub(crate) fn url(&self) -> String {
        self.server.url("admin", &self.name)
    }

    /// Its tables, for questions.
    pub(crate) fn table(&self, name: &str) -> Command {
        r.db(self.name.clone()).table(name.to_owned())
    }

    /// Writes a row over the one with its key.
    pub(crate) fn put(&self, table: &str, row: &Value) {
        let options = insert::Options::new().conflict(reql::cmd::Conflict::Replace);
        self.server.ask(self.table(table).insert(r.args((row, options))));
    }

    /// All rows of a table.
    pub(crate) fn rows(&self, table: &str) -> Vec<Value> {
        members(self.server.ask(self.table(table)))
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // One that goes on after the tests keeps nothing of them.
        if self.server.is_given() || self.is_spoilt {
            // It may have been dropped by the test.
            let _ = self.server.try_ask(r.db_drop(self.name.clone()));
        } else {
            FREE.lock().unwrap_or_else(PoisonError::into_inner).push(std::mem::take(&mut self.name));
        }
    }
}

/// Makes the tables of a crawler, as somebody who installs one would.
pub(crate) fn init(url: &str) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_starfeed"));
    let output = command.args(["init", "--source", url]).env_clear().output().expect("the command runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Deletes all rows.
fn empty(server: &Rethinkdb, database: &str) {
    let emptied = asked(async {
        let session = session(&server.host, server.port).await?;
        for table in stored_tables().map(|table| table.name).chain([CANARIES]) {
            ask(&session, r.db(database.to_owned()).table(table).delete(())).await?;
        }
        Ok::<(), String>(())
    });
    emptied.unwrap_or_else(|error| panic!("{database} cannot be emptied: {error}"));
}
