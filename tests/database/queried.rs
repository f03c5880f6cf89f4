//! A real database behind a source in the process of the test.

use serde_json::Value;

use crate::support::opened::OpenSource;
use crate::support::rethinkdb::database::Database;

/// A database and its source.
pub(crate) struct Queried {
    pub(crate) source: OpenSource,
    pub(crate) database: Database,
}

impl Queried {
    /// One without rows; `None` where there is no RethinkDB.
    pub(crate) fn open() -> Option<Self> {
        let database = Database::lease()?;
        Some(Self { source: OpenSource::new(&database.url(), ""), database })
    }

    pub(crate) fn put(&self, table: &str, row: &Value) {
        self.database.put(table, row);
    }

    pub(crate) fn rows(&self, table: &str) -> Vec<Value> {
        self.database.rows(table)
    }
}
