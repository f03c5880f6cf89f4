//! Rows that a client imports: checked and staged as they come, written all at once or not at all.

use std::collections::HashMap;

use crate::catalog::CatalogTable;
use crate::change::{Document, Key};
use crate::proto;
use crate::store::{Mutation, Outcome, Unit};

/// The import of one connection.
#[derive(Debug)]
pub(super) struct Import {
    table: &'static CatalogTable,
    unit: Unit,
    lines: HashMap<Key, i32>,
    bytes: usize,
    bytes_max: usize,
    is_refused: bool,
}

impl Import {
    pub(super) fn new(table: &'static CatalogTable, bytes_max: usize) -> Self {
        Self { table, unit: Unit::new(), lines: HashMap::new(), bytes: 0, bytes_max, is_refused: false }
    }

    pub(super) fn table(&self) -> &'static CatalogTable {
        self.table
    }

    /// Checks and stages rows; returns those that were not accepted.
    pub(super) fn stage(&mut self, rows: &[bytes::Bytes], first_line: i32) -> Vec<proto::ImportError> {
        let mut errors = Vec::new();
        for (line, row) in (first_line..).zip(rows) {
            if let Err(message) = self.stage_row(row, line) {
                self.is_refused = true;
                errors.push(proto::ImportError { line: Some(line), message: Some(message) });
            }
        }
        errors
    }

    fn stage_row(&mut self, row: &[u8], line: i32) -> Result<(), String> {
        let document = Document::parse(row)?;
        let key = (self.table.check)(&document)?;
        if let Some(other) = self.lines.insert(key.clone(), line) {
            return Err(format!("the same `{}` as in line {other}", self.table.primary_key));
        }
        let mutation = Mutation::put(self.table.table(), key, document);
        self.bytes += mutation.size();
        if self.bytes > self.bytes_max {
            return Err(format!("the import is larger than {} bytes: import the file in parts", self.bytes_max));
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
