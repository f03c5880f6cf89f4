//! The tables as the crawler's database has them: keys, indexes, and what of their rows goes no further.

use super::{CatalogTable, TABLES};
use crate::change::Table;
use crate::view::{Secret, SecretKind};

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
}

/// An index of a table.
#[derive(Clone, Copy, Debug)]
pub struct Index {
    /// Its name.
    pub name: &'static str,
    /// The members whose values it holds.
    pub members: &'static [&'static str],
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
        let Self { name, primary_key, indexes, secrets, omitted, .. } = *self;
        StoredTable { name, primary_key, indexes, secrets, omitted, role: Role::Mirrored }
    }
}

const fn over(name: &'static str, members: &'static [&'static str]) -> Index {
    Index { name, members }
}

const fn other(name: &'static str, role: Role, indexes: &'static [Index]) -> StoredTable {
    StoredTable { name, primary_key: "id", indexes, secrets: &[], omitted: &[], role }
}

/// The tables that have no events of their own.
const OTHERS: &[StoredTable] = &[
    StoredTable {
        secrets: &[Secret { path: &["api_key"], kind: SecretKind::Whole }],
        ..other("captcha_solver", Role::Mirrored, &[])
    },
    StoredTable { primary_key: "token", ..other("rate_limit", Role::Mirrored, &[over("name", &["name"])]) },
    StoredTable {
        secrets: &[
            Secret { path: &["policy", "proxy_rules", "*", "proxy_url"], kind: SecretKind::UrlCredentials },
            Secret { path: &["policy", "captcha_solver", "api_key"], kind: SecretKind::Whole },
        ],
        omitted: &["old_urls"],
        ..other(
            "job",
            Role::Mirrored,
            &[over("started_at", &["started_at"]), over("schedule", &["schedule_id", "started_at"])],
        )
    },
    StoredTable {
        primary_key: "sequence",
        ..other("response", Role::ReadThrough, &[over("job_sync", &["job_id", "sequence"])])
    },
    other("response_body", Role::ReadThrough, &[]),
    other("frontier", Role::Crawler, &[over("cost_index", &["job_id", "in_flight", "cost"])]),
    other("robots_txt", Role::Crawler, &[over("url", &["url"])]),
];

/// All tables of the crawler's database.
pub fn stored_tables() -> impl Iterator<Item = StoredTable> {
    TABLES.iter().map(CatalogTable::stored).chain(OTHERS.iter().copied())
}

/// The table of the crawler's database called `name`.
pub fn stored_table(name: &str) -> Option<StoredTable> {
    stored_tables().find(|table| table.name == name)
}
