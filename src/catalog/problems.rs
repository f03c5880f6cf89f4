//! Rows that cannot be shown, or only in part: each is counted, and logged once.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::{CatalogTable, RowProblem};
use crate::change::Key;

/// Remembered rows; beyond them a row may be logged again after the memory was cleared.
const REMEMBERED_MAX: usize = 4096;

/// Counts and logs the rows that cannot be shown, or only in part.
#[derive(Debug, Default)]
pub struct RowProblems {
    count: AtomicU64,
    logged: Mutex<HashSet<(&'static str, Key, String)>>,
}

impl RowProblems {
    /// `key` of `table` has this problem.
    pub fn report(&self, table: &'static CatalogTable, key: &Key, problem: &RowProblem) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.len() >= REMEMBERED_MAX {
            logged.clear();
        }
        if logged.insert((table.name, key.clone(), problem.to_string())) {
            tracing::warn!(table = table.name, %key, %problem, "a row cannot be shown as it should be");
        }
    }

    /// How often a row could not be shown, or only in part.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}
