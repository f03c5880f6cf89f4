//! Where rows come from, and who carries out commands: the embedded store itself, or a database that is mirrored into it.
//!
//! Subscriptions know nothing of it: they read the store. A source carries out what commands ask for, and one that is not the
//! store itself also writes what happens in it into the store, and tells the feeds where that is in doubt.

mod changes;
mod embedded;
pub(crate) mod progress;
pub mod rethinkdb;

use std::fmt;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::Value;

pub use changes::Changes;
pub use embedded::Embedded;
use rethinkdb::reql::ReqlError;

use crate::change::Table;
use crate::store::{Index, Query, QueryResult, StoreError, Unit, UnitResult};

/// Why a source could not do what it was asked; the text is for the client.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SourceError {
    /// The store could not.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The database could not; nothing was written.
    #[error(transparent)]
    Database(#[from] ReqlError),
    /// The database may have written it.
    #[error("{0}: the write is not confirmed; check the row before you write it again")]
    Unconfirmed(ReqlError),
    /// The database wrote some of the rows.
    #[error("{written} of {rows} rows were written: {error}; writing all of them again does no harm")]
    InPart {
        /// How many were.
        written: usize,
        /// How many there are.
        rows: usize,
        /// Why not all.
        error: Box<SourceError>,
    },
}

impl SourceError {
    /// Whether the same may succeed later, without anybody doing anything about it here.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Store(StoreError::Damaged(_) | StoreError::AnswerTooBig { .. }) => false,
            Self::Store(_) => true,
            Self::Database(error) | Self::Unconfirmed(error) => error.is_passing(),
            Self::InPart { error, .. } => error.is_passing(),
        }
    }
}

/// What became of a write.
pub struct Written {
    /// What became of it.
    pub result: Result<UnitResult, SourceError>,
    /// Waits until the store holds it, where that is later: a subscription that begins then has it.
    pub visible: Option<BoxFuture<'static, ()>>,
}

impl fmt::Debug for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Written").field("result", &self.result).finish_non_exhaustive()
    }
}

/// Writes whose results come together.
pub struct WrittenGroup {
    /// How many.
    pub units: usize,
    /// What became of each, in order.
    pub results: BoxFuture<'static, Vec<Written>>,
}

impl fmt::Debug for WrittenGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WrittenGroup({} units)", self.units)
    }
}

/// Carries out commands.
pub trait Source: fmt::Debug + Send + Sync {
    /// Writes `unit`, all of it or nothing where the source can promise that.
    fn write(&self, unit: Unit) -> BoxFuture<'static, Written>;

    /// The same for each of `units`, in this order; where the source can, together.
    fn write_all(&self, units: Vec<Unit>) -> Vec<WrittenGroup> {
        let alone = |unit| WrittenGroup { units: 1, results: self.write(unit).map(|written| vec![written]).boxed() };
        units.into_iter().map(alone).collect()
    }

    /// Reads what a command asks for, at most `bytes_max` of rows.
    fn query(&self, query: Query, bytes_max: usize) -> BoxFuture<'static, Result<QueryResult, SourceError>>;

    /// Whether writes take effect in the order in which they are handed in, without waiting for each other.
    fn keeps_order(&self) -> bool;

    /// Tells of changes of the rows of `table` whose first members in `index` are `prefix`. Called from within a runtime.
    fn changes(&self, table: &Table, index: &'static Index, prefix: Vec<Value>) -> Changes;
}
