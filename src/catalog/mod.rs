//! The Starbelly tables: stored documents to messages and back, and every command as data.
//!
//! Nothing here reads a clock, draws a random number or touches a store: [`plan()`] says what a command comes down to, and
//! whoever executes the [`Plan`] hands the rows back to it.

mod captcha_solver;
mod command;
mod crawler_rows;
#[cfg(feature = "test-doors")]
pub mod doors;
mod domain_login;
mod fields;
mod ids;
mod job;
mod plan;
mod policy;
mod policy_document;
mod policy_rules;
mod python_format;
mod python_regex;
mod rate_limit;
mod response;
mod schedule;
mod stored;
mod stream;
mod time;

use bytes::Bytes;

use crate::change::{Document, Key, Table};
use crate::proto;
use crate::store::Index;
use crate::view::{KeyRule, Secret};

pub use command::plan;
pub use fields::{RowProblem, Shown};
pub use job::{completed_at as job_completed_at, name as job_name, show as shown_job};
pub use plan::{Answer, Arrival, Form, Plan, Reply, RowReport, StreamPlan, SubscribePlan};
pub use response::{JobStanding, JobSyncPlan, SyncPage, Watched, look, watched_by_sync};
pub use stored::{Role, StoredTable, stored_table, stored_tables};
pub use time::time_text;

/// One streamed table: adding another one takes one entry like it in [`TABLES`].
#[derive(Debug)]
pub struct CatalogTable {
    /// Its name.
    pub name: &'static str,
    /// The member that holds the key of a row.
    pub primary_key: &'static str,
    /// The indexes that the database has of it.
    pub indexes: &'static [Index],
    /// Which keys its events can name; rows with others are not shown in them.
    pub keys: KeyRule,
    /// What nobody who subscribes may see of its rows.
    pub secrets: &'static [Secret],
    /// Members that are never served, and may be megabytes.
    pub omitted: &'static [&'static str],
    /// If a command subscribes to the list of this table: its options, if it has some.
    pub subscribes: fn(&proto::request::Command) -> Option<Option<proto::SubscribeOptions>>,
    /// The number of its events among the bodies of `Event`. They are all alike: 1 is the type, ADDED, UPDATED or DELETED; 4
    /// and 5 are the new and the old row.
    pub event_number: u32,
    /// The bytes of its event with key and name only, and without the type. The key is one that `keys` allows.
    pub name_event: fn(&Key, &Document) -> Shown<Bytes>,
    /// The bytes of the message that is a row, from a document without secrets. The key is one that `keys` allows.
    pub row_message: fn(&Key, &Document) -> Shown<Bytes>,
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
pub static TABLES: &[CatalogTable] =
    &[policy::TABLE, schedule::TABLE, domain_login::TABLE, captcha_solver::TABLE, rate_limit::TABLE, job::TABLE];

/// The streamed table called `name`.
pub fn table(name: &str) -> Option<&'static CatalogTable> {
    TABLES.iter().find(|table| table.name == name)
}

/// The streamed table whose list events have this number.
pub(crate) fn table_of_event(event_number: u32) -> Option<&'static CatalogTable> {
    TABLES.iter().find(|table| table.event_number == event_number)
}

#[cfg(test)]
mod tests;
