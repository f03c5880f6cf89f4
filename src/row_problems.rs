//! Rows that cannot be shown, or only in part: each is counted, and logged once.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use prometheus_client::metrics::counter::Counter;

use crate::change::{Key, Table};

/// Remembered rows; beyond them a row may be logged again after the memory was cleared.
const REMEMBERED_MAX: usize = 4096;

/// Counts and logs the rows that cannot be shown, or only in part.
#[derive(Clone, Debug, Default)]
pub struct RowProblems {
    count: Counter,
    logged: Arc<Mutex<HashSet<(Table, Key, String)>>>,
}

impl RowProblems {
    /// Counts with `count`.
    pub fn new(count: Counter) -> Self {
        Self { count, logged: Arc::default() }
    }

    /// `key` of `table` has this problem, which must not repeat what the row holds.
    pub fn report(&self, table: &Table, key: &Key, problem: &impl fmt::Display) {
        self.count.inc();
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.len() >= REMEMBERED_MAX {
            logged.clear();
        }
        // A copy: the key may share the memory of a whole page.
        let remembered = Key::from_stored(Bytes::copy_from_slice(key.as_bytes()));
        if logged.insert((table.clone(), remembered, problem.to_string())) {
            tracing::warn!(%table, %key, %problem, "a row cannot be shown as it should be");
        }
    }
}
