//! Reads as data: what a command wants to see, whoever executes it.

use crate::change::{Key, Row, Table};

/// What a command wants to see.
#[derive(Clone, Debug)]
pub enum Query {
    /// One row.
    Get {
        /// Its table.
        table: Table,
        /// Its key.
        key: Key,
    },
    /// A page of a table.
    List {
        /// The table.
        table: Table,
        /// The order of the whole list, before the page is cut.
        order: Order,
        /// Rows to leave out at the start.
        offset: usize,
        /// Rows to return at most.
        limit: usize,
    },
}

impl Query {
    /// The table it reads.
    pub fn table(&self) -> &Table {
        match self {
            Self::Get { table, .. } | Self::List { table, .. } => table,
        }
    }
}

/// The order of a list.
#[derive(Clone, Copy, Debug)]
pub enum Order {
    /// By primary key.
    Key,
    /// By a text member, then by primary key; rows without it come last.
    Member(&'static str),
}

/// The answer to a [`Query`].
#[derive(Clone, Debug, Default)]
pub struct QueryResult {
    /// The rows asked for, in order.
    pub rows: Vec<Row>,
    /// The rows of the whole list, the page aside.
    pub total: usize,
}
