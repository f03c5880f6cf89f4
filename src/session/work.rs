//! What a session needs done that waits for the disk. Whoever runs the session runs it and hands the result back.

use std::sync::Arc;

use super::unknown_table;
use crate::change::{Key, Row, Seq, Table};
use crate::feed::{CatchUp, CatchUpBudget, Cursor, Replay, read_page};
use crate::matcher::{Filter, FilterLimits};
use crate::metrics::Metrics;
use crate::store::{PageBudget, Query, QueryResult, Snapshot, Store, StoreError, Unit};
use crate::view::View;

/// Something to do for a session.
#[derive(Debug)]
pub enum Work {
    /// Write this; hand the result to [`Session::written`](super::Session::written).
    Write {
        /// Which write it is, for the result.
        ticket: WriteTicket,
        /// What to write.
        unit: Unit,
    },
    /// Read this; hand the result to [`Session::read`](super::Session::read).
    Read(Read),
}

/// Names a write of a session until its result is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WriteTicket(pub(super) u64);

/// Something to read from the store.
#[derive(Debug)]
pub enum Read {
    /// For a command.
    Query {
        /// What.
        query: Query,
        /// The bytes of rows that an answer may have.
        bytes_max: usize,
    },
    /// A page of an export.
    Export {
        /// The table.
        table: Table,
        /// The last key of the page before.
        after: Option<Key>,
        /// How much.
        budget: PageBudget,
    },
    /// A page for a subscription that is behind.
    Page {
        /// The subscription, by its number on the connection.
        subscription_id: i32,
        /// What it sees.
        view: Arc<View>,
        /// How far it has come.
        cursor: Cursor,
        /// How much.
        budget: CatchUpBudget,
        /// What is counted.
        metrics: Arc<Metrics>,
    },
    /// A page for a subscription that is behind, of changes that are in memory: its filter has to go through them.
    Replay {
        /// The subscription, by its number on the connection.
        subscription_id: i32,
        /// The changes.
        replay: Replay,
        /// What is counted.
        metrics: Arc<Metrics>,
    },
    /// What a request needs to know before it is carried out.
    Question(Question),
}

/// What was read.
#[derive(Debug)]
pub enum ReadResult {
    /// For [`Read::Query`].
    Query(Result<QueryResult, StoreError>),
    /// For [`Read::Export`].
    Export(Result<ExportPage, StoreError>),
    /// For [`Read::Page`] and [`Read::Replay`].
    Page {
        /// The subscription it is for.
        subscription_id: i32,
        /// The page.
        result: Result<CatchUp, StoreError>,
    },
    /// For [`Read::Question`]; the error is the text for the client.
    Answer(Result<Option<Arc<Filter>>, String>),
}

/// What a request needs to know before it is carried out.
#[derive(Debug)]
pub struct Question {
    /// Whether something was ever written to this table.
    pub(super) table: Option<Table>,
    /// What filter this text is; none if it is empty. A hostile one may take milliseconds to read.
    pub(super) filter: String,
    pub(super) limits: FilterLimits,
}

impl Question {
    fn answer(&self, store: &Store) -> Result<Option<Arc<Filter>>, String> {
        if let Some(table) = &self.table {
            match read(store, |snapshot| snapshot.has_table(table)) {
                Ok(true) => {}
                Ok(false) => return Err(unknown_table(table.name())),
                Err(error) => return Err(error.to_string()),
            }
        }
        if self.filter.is_empty() {
            return Ok(None);
        }
        Filter::parse(&self.filter, &self.limits)
            .map(|filter| Some(Arc::new(filter)))
            .map_err(|error| error.to_string())
    }
}

/// A page of an export.
#[derive(Debug)]
pub struct ExportPage {
    pub(super) rows: Vec<Row>,
    pub(super) complete: bool,
    pub(super) position: Seq,
}

impl Read {
    /// Reads it. This waits for the disk.
    pub fn run(self, store: &Store) -> ReadResult {
        match self {
            Self::Query { query, bytes_max } => {
                ReadResult::Query(read(store, |snapshot| snapshot.query(&query, bytes_max)))
            }
            Self::Export { table, after, budget } => ReadResult::Export(read(store, |snapshot| {
                let page = snapshot.rows_after(&table, after.as_ref(), budget)?;
                Ok(ExportPage { rows: page.rows, complete: page.complete, position: snapshot.position().seq })
            })),
            Self::Replay { subscription_id, replay, metrics } => {
                ReadResult::Page { subscription_id, result: Ok(CatchUp::Page(replay.page(&metrics))) }
            }
            Self::Question(question) => ReadResult::Answer(question.answer(store)),
            Self::Page { subscription_id, view, cursor, budget, metrics } => {
                let result = read(store, |snapshot| read_page(snapshot, &view, &cursor, budget, &metrics));
                ReadResult::Page { subscription_id, result }
            }
        }
    }
}

/// How often a read is tried: after a fault the store is opened again, which ends the snapshots that are in use.
const ATTEMPTS: usize = 5;

fn read<T>(store: &Store, work: impl Fn(&Snapshot) -> Result<T, StoreError>) -> Result<T, StoreError> {
    let attempt = || store.snapshot().and_then(|snapshot| work(&snapshot));
    let mut result = attempt();
    for _ in 1..ATTEMPTS {
        if !matches!(result, Err(StoreError::Disk(_))) {
            break;
        }
        result = attempt();
    }
    result
}
