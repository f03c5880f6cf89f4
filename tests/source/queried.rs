//! The scripted database behind a source in the process of the test.

use serde_json::Value;

use super::setup::{PASSWORD, Setup};
use crate::support::opened::OpenSource;

/// A database and its source.
pub(crate) struct Queried {
    pub(crate) source: OpenSource,
    pub(crate) setup: Setup,
}

impl Queried {
    /// One without rows.
    pub(crate) fn open() -> Option<Self> {
        let setup = Setup::new();
        Some(Self { source: OpenSource::new(&setup.url(), PASSWORD), setup })
    }

    pub(crate) fn put(&self, table: &str, row: &Value) {
        self.setup.database.put(table, row.clone());
    }

    pub(crate) fn rows(&self, table: &str) -> Vec<Value> {
        self.setup.database.rows(table).into_values().collect()
    }
}
