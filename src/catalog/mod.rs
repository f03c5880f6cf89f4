//! The Starbelly tables: stored documents to messages and back, and every command as data.
//!
//! Nothing here reads a clock, draws a random number or touches a store: [`plan()`] says what a command comes down to, and
//! whoever executes the [`Plan`] hands the rows back to it.

mod command;
mod domain_login;
mod fields;
mod ids;
mod plan;
mod policy;
mod policy_document;
mod policy_rules;
mod problems;
mod python_format;
mod python_regex;
mod schedule;
mod time;

use crate::change::{ChangeKind, Document, Key, Table};
use crate::proto;

pub use command::plan;
pub use fields::{RowProblem, Shown};
pub use plan::{Answer, Arrival, Plan};
pub use problems::RowProblems;

/// One streamed table: adding another one takes one entry like it in [`TABLES`].
#[derive(Debug)]
pub struct CatalogTable {
    /// Its name.
    pub name: &'static str,
    /// The member that holds the key of a row.
    pub primary_key: &'static str,
    /// Whether a command subscribes to the list of this table.
    pub subscribes: fn(&proto::request::Command) -> bool,
    /// The body of the event for a change of the row: what `key` and the document say, the old one of a deletion.
    ///
    /// The error says why the row cannot be shown at all.
    pub event: fn(ChangeKind, &Key, &Document) -> Result<Shown<proto::event::Body>, RowProblem>,
    /// The key of `document`, if it could be stored in this table as it is.
    ///
    /// Members that are not known do not matter. The error names a member and says what is expected of it; it never
    /// repeats a value, which may be a secret.
    pub check: fn(&Document) -> Result<Key, String>,
}

impl CatalogTable {
    /// The table in the namespace that clients see.
    pub fn table(&self) -> Table {
        Table::new(self.name)
    }
}

/// All streamed tables.
pub static TABLES: &[CatalogTable] = &[policy::TABLE, schedule::TABLE, domain_login::TABLE];

/// The streamed table called `name`.
pub fn table(name: &str) -> Option<&'static CatalogTable> {
    TABLES.iter().find(|table| table.name == name)
}

#[cfg(test)]
mod tests;
