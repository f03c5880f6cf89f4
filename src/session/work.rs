//! What a session needs done that waits for the disk. Whoever runs the session runs it and hands the result back.

use std::sync::Arc;

use super::unknown_table;
use crate::catalog::{self, Role};
use crate::change::Table;
use crate::feed::{CatchUp, CatchUpBudget, Cursor, Replay, read_page};
use crate::matcher::{Filter, FilterLimits};
use crate::metrics::Metrics;
use crate::source::SourceError;
use crate::store::{Query, QueryResult, Store, StoreError, Unit, read};
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
    /// For a command: the source of the rows answers it.
    Query {
        /// What.
        query: Query,
        /// The bytes of rows that an answer may have.
        bytes_max: usize,
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
    Query(Result<QueryResult, SourceError>),
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
            let mirrored =
                || catalog::stored_tables().filter(|table| table.role == Role::Mirrored).map(|table| table.name);
            match read(store, |snapshot| snapshot.has_table(table)) {
                Ok(false) if !mirrored().any(|name| name == table.name()) => {
                    return Err(unknown_table(table.name(), mirrored()));
                }
                Ok(_) => {}
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

impl Read {
    /// Reads it. This waits for the disk.
    pub fn run(self, store: &Store) -> ReadResult {
        match self {
            Self::Query { query, bytes_max } => {
                let result = read(store, |snapshot| snapshot.query(&query, bytes_max));
                ReadResult::Query(result.map_err(SourceError::from))
            }
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
