//! Reads as data: what a command wants to see, whoever executes it.

use super::PageBudget;
use crate::change::{Key, Row, Seq, Table};

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
    /// A page of a table in the order of its keys, for who reads all of it.
    After {
        /// The table.
        table: Table,
        /// The last key of the page before.
        after: Option<Key>,
        /// How much.
        budget: PageBudget,
    },
}

impl Query {
    /// The table it reads.
    pub fn table(&self) -> &Table {
        match self {
            Self::Get { table, .. } | Self::List { table, .. } | Self::After { table, .. } => table,
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
    /// For [`Query::After`]: whether no row follows.
    pub is_complete: bool,
    /// For [`Query::After`]: the newest change that the page contains, where changes have numbers.
    pub position: Option<Seq>,
}
