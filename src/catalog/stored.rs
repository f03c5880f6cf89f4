//! The tables as the crawler's database has them: keys, indexes, and what of their rows goes no further.

use super::{CatalogTable, TABLES, crawler_rows, job, response};
use crate::change::{Document, Key, Table};
use crate::store::Index;
use crate::view::Secret;

type Check = fn(&Document) -> Result<Key, String>;

/// A table of the crawler's database.
#[derive(Clone, Copy, Debug)]
pub struct StoredTable {
    /// Its name.
    pub name: &'static str,
    /// The member that holds the key of a row.
    pub primary_key: &'static str,
    /// Its indexes.
    pub indexes: &'static [Index],
    /// What nobody who subscribes may see of its rows.
    pub secrets: &'static [Secret],
    /// Members that are never served, and may be megabytes.
    pub omitted: &'static [&'static str],
    /// What the server does with it.
    pub role: Role,
    /// The key of a document, if it could be stored in this table as it is; see [`CatalogTable::check`].
    pub check: Check,
}

/// What the server does with a table of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It is mirrored while somebody subscribes to it.
    Mirrored,
    /// It is too large for that; what is asked for is read from the database.
    ReadThrough,
    /// Only the crawler uses it.
    Crawler,
}

impl StoredTable {
    /// The table in the namespace that clients see.
    pub fn table(&self) -> Table {
        Table::new(self.name)
    }
}

impl CatalogTable {
    /// The table as the database has it.
    pub fn stored(&self) -> StoredTable {
        let Self { name, primary_key, indexes, secrets, omitted, check, .. } = *self;
        StoredTable { name, primary_key, indexes, secrets, omitted, role: Role::Mirrored, check }
    }
}

const fn over(name: &'static str, members: &'static [&'static str]) -> Index {
    Index { name, members }
}

const fn other(name: &'static str, role: Role, indexes: &'static [Index], check: Check) -> StoredTable {
    StoredTable { name, primary_key: "id", indexes, secrets: &[], omitted: &[], role, check }
}

/// The tables that have no events of their own.
const OTHERS: &[StoredTable] = &[
    StoredTable {
        primary_key: "sequence",
        ..other(response::NAME, Role::ReadThrough, &[response::JOB_SYNC], crawler_rows::response)
    },
    other("response_body", Role::ReadThrough, &[], crawler_rows::response_body),
    other("frontier", Role::Crawler, &[job::COST_INDEX], crawler_rows::frontier),
    other("robots_txt", Role::Crawler, &[over("url", &["url"])], crawler_rows::robots_txt),
];

/// All tables of the crawler's database.
pub fn stored_tables() -> impl Iterator<Item = StoredTable> {
    TABLES.iter().map(CatalogTable::stored).chain(OTHERS.iter().copied())
}

/// The table of the crawler's database called `name`.
pub fn stored_table(name: &str) -> Option<StoredTable> {
    stored_tables().find(|table| table.name == name)
}
