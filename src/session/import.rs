//! Rows that a client imports: checked and staged as they come, written all at once or not at all.

use std::collections::HashMap;

use crate::catalog::StoredTable;
use crate::change::{Document, Key};
use crate::proto;
use crate::store::{Mutation, Outcome, Unit};

/// Errors that one answer spells out; the rest are counted.
const REPORTED_MAX: usize = 100;

/// The import of one connection.
#[derive(Debug)]
pub(super) struct Import {
    table: StoredTable,
    unit: Unit,
    lines: HashMap<Key, i32>,
    bytes: usize,
    bytes_max: usize,
    row_bytes_max: usize,
    is_refused: bool,
}

impl Import {
    pub(super) fn new(table: StoredTable, bytes_max: usize, row_bytes_max: usize) -> Self {
        let (unit, lines) = (Unit::new(), HashMap::new());
        Self { table, unit, lines, bytes: 0, bytes_max, row_bytes_max, is_refused: false }
    }

    pub(super) fn table(&self) -> &StoredTable {
        &self.table
    }

    /// Checks and stages rows; returns those that were not accepted, the first of them at least.
    pub(super) fn stage(&mut self, rows: &[bytes::Bytes], first_line: i32) -> Vec<proto::ImportError> {
        let mut errors = Vec::new();
        let mut unreported = 0;
        for (line, row) in (i64::from(first_line)..).zip(rows) {
            let line = i32::try_from(line).unwrap_or(i32::MAX);
            if self.bytes > self.bytes_max {
                // Said once, when it happened; what was staged is gone already.
                break;
            }
            if let Err(message) = self.stage_row(row, line) {
                self.is_refused = true;
                if errors.len() < REPORTED_MAX {
                    errors.push(proto::ImportError { line: Some(line), message: Some(message) });
                } else {
                    unreported += 1;
                }
            }
        }
        if unreported > 0 {
            let message = format!("{unreported} more rows of the same request were not accepted");
            errors.push(proto::ImportError { line: None, message: Some(message) });
        }
        errors
    }

    fn stage_row(&mut self, row: &[u8], line: i32) -> Result<(), String> {
        let document = Document::parse(row)?;
        let key = (self.table.check)(&document)?;
        let mutation = Mutation::put(self.table.table(), key.clone(), document);
        if mutation.row_size() > self.row_bytes_max {
            return Err(row_too_big(self.row_bytes_max));
        }
        self.bytes += mutation.size();
        if self.bytes > self.bytes_max {
            self.unit = Unit::new();
            self.lines = HashMap::new();
            return Err(format!("here the import is larger than {} bytes: import the file in parts", self.bytes_max));
        }
        if let Some(other) = self.lines.insert(key, line) {
            return Err(format!("the same `{}` as in line {other}", self.table.primary_key));
        }
        self.unit.push(mutation);
        Ok(())
    }

    pub(super) fn staged(&self) -> i32 {
        i32::try_from(self.unit.len()).unwrap_or(i32::MAX)
    }

    /// What to write, unless a row was not accepted.
    pub(super) fn into_unit(self) -> Result<Unit, String> {
        if self.is_refused {
            return Err("nothing was written: some rows were not accepted".to_owned());
        }
        Ok(self.unit)
    }
}

/// Why a row is not written that is larger than it may be.
pub(super) fn row_too_big(bytes_max: usize) -> String {
    format!("the row is larger than {bytes_max} bytes: make it smaller, or raise row_bytes in the configuration")
}

pub(super) fn reply(outcomes: &[Outcome]) -> proto::response::Body {
    let count = |wanted| {
        let count = outcomes.iter().filter(|outcome| **outcome == wanted).count();
        Some(i32::try_from(count).unwrap_or(i32::MAX))
    };
    proto::response::Body::ImportRows(proto::ResponseImportRows {
        staged: Some(0),
        errors: Vec::new(),
        added: count(Outcome::Added),
        updated: count(Outcome::Updated),
        unchanged: count(Outcome::Unchanged),
    })
}
