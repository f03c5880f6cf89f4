//! Reads as data: what a command wants to see, whoever executes it.

use serde_json::{Map, Value};

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
    /// A part of an index.
    Range(RangeQuery),
    /// Several rows, in the order of `keys`; those that are not there are left out.
    Rows {
        /// Their table.
        table: Table,
        /// Their keys.
        keys: Vec<Key>,
        /// Bytes of rows: with the one that reaches it, or what an answer may have, the answer ends, and is not complete if keys are left.
        bytes: usize,
    },
}

/// Rows in the order of an index.
#[derive(Clone, Debug)]
pub struct RangeQuery {
    /// The table.
    pub table: Table,
    /// The index.
    pub index: &'static Index,
    /// Values of the first members of the index, which the rows have.
    pub prefix: Vec<Value>,
    /// Where the rows begin in the values of the member that follows them in the index.
    pub start: RangeStart,
    /// In which direction.
    pub direction: Direction,
    /// Which of the rows are wanted.
    pub condition: Condition,
    /// How many of them.
    pub part: Part,
}

/// An index of a table: the rows that have all its members, as text, numbers or times, in the order of their values.
#[derive(Debug, PartialEq, Eq)]
pub struct Index {
    /// Its name.
    pub name: &'static str,
    /// The members whose values it holds.
    pub members: &'static [&'static str],
}

/// Where a range of an index begins.
#[derive(Clone, Debug)]
pub enum RangeStart {
    /// With the first row. Where `prefix` is empty and `direction` is [`Direction::Descending`], rows that the index leaves out come
    /// behind the others.
    First,
    /// With the rows that have this value, or a greater one.
    At(Value),
    /// With the rows that have a greater value.
    After(Value),
}

/// In which direction an index is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Smallest value first.
    Ascending,
    /// Greatest value first.
    Descending,
}

/// How many rows of a range are wanted.
#[derive(Clone, Copy, Debug)]
pub enum Part {
    /// A page, and the total of all.
    Page {
        /// Rows to leave out at the start.
        offset: usize,
        /// Rows to return at most.
        limit: usize,
    },
    /// As many of the first as this allows; the answer says whether those are all.
    First(PageBudget),
}

/// Something that holds for a row or not.
#[derive(Clone, Debug)]
pub enum Condition {
    /// It holds for all.
    Always,
    /// The member is the list that has this text among its elements.
    Contains(&'static str, String),
    /// The member is `true`.
    IsTrue(&'static str),
    /// The member is there, and not null.
    Has(&'static str),
    /// The other does not hold.
    Not(Box<Condition>),
    /// All of them hold.
    All(Vec<Condition>),
    /// One of them holds.
    Any(Vec<Condition>),
}

impl Condition {
    /// Whether it holds for a row with these members.
    pub fn holds(&self, members: &Map<String, Value>) -> bool {
        match self {
            Self::Always => true,
            Self::Contains(member, text) => members
                .get(*member)
                .and_then(Value::as_array)
                .is_some_and(|elements| elements.iter().any(|element| element.as_str() == Some(text))),
            Self::IsTrue(member) => members.get(*member) == Some(&Value::Bool(true)),
            Self::Has(member) => members.get(*member).is_some_and(|value| !value.is_null()),
            Self::Not(other) => !other.holds(members),
            Self::All(conditions) => conditions.iter().all(|condition| condition.holds(members)),
            Self::Any(conditions) => conditions.iter().any(|condition| condition.holds(members)),
        }
    }
}

impl Query {
    /// The table it reads.
    pub fn table(&self) -> &Table {
        match self {
            Self::Get { table, .. }
            | Self::List { table, .. }
            | Self::After { table, .. }
            | Self::Rows { table, .. } => table,
            Self::Range(range) => &range.table,
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
    /// For [`Query::After`], [`Query::Rows`] and [`Part::First`]: whether no row follows.
    pub is_complete: bool,
    /// For [`Query::After`]: the newest change that the page contains, where changes have numbers.
    pub position: Option<Seq>,
}
