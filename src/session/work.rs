//! What a session needs done that waits for the disk. Whoever runs the session runs it and hands the result back.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::unknown_table;
use crate::catalog::{self, Answer, Role};
use crate::change::Table;
use crate::feed::{CatchUp, PageResult, Replay, SharedPage, SharedResult, ShowRows, UnreadPage};
use crate::matcher::{Filter, FilterLimits};
use crate::metrics::Metrics;
use crate::proto;
use crate::source::SourceError;
use crate::store::{Index, Query, QueryResult, Store, Unit, read};
use crate::wire::{MessageHeader, RowsToCome, protobuf};

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
    /// Take this as soon as it is there; hand the result to [`Session::read`](super::Session::read).
    Share(Share),
    /// Have the crawler carry out this; hand the result to [`Session::asked`](super::Session::asked).
    Ask {
        /// Which question it is, for the result.
        ticket: AskTicket,
        /// What to ask.
        command: Box<proto::request::Command>,
    },
    /// Watch this.
    Watch(Watch),
}

/// A page that another subscription has read, or reads.
#[derive(Debug)]
pub struct Share {
    /// Which subscription needs it, by its number on the connection.
    pub(super) subscription_id: i32,
    pub(super) page: SharedPage,
}

impl Share {
    /// What came of it, if that is known already.
    pub fn now(&self) -> Option<ReadResult> {
        self.page.now().map(|result| self.result(result))
    }

    /// Waits until it is known.
    pub async fn wait(self) -> ReadResult {
        let result = self.page.clone().wait().await;
        self.result(result)
    }

    fn result(&self, result: SharedResult) -> ReadResult {
        let subscription_id = self.subscription_id;
        match result {
            SharedResult::Read(result) => ReadResult::Page { subscription_id, result },
            SharedResult::GivenUp => ReadResult::GivenUp { subscription_id },
        }
    }
}

/// A part of a table to watch: whenever something may have happened to it, tell [`Session::changed`](super::Session::changed).
#[derive(Debug)]
pub struct Watch {
    /// For which subscription, by its number on the connection.
    pub subscription_id: i32,
    /// The table.
    pub table: Table,
    /// The index that has the part.
    pub index: &'static Index,
    /// The values of its first members that the rows have.
    pub prefix: Vec<Value>,
    /// Cancelled when nobody wants to know any more.
    pub until: CancellationToken,
}

/// Names a question to the crawler until its answer is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AskTicket(pub(super) u64);

/// For whom something is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// The request that is being carried out.
    Request,
    /// A subscription that is not one to a table, by its number on the connection.
    Stream(i32),
}

/// Names a write of a session until its result is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WriteTicket(pub(super) u64);

/// Something to read from the store.
pub enum Read {
    /// For a command: the source of the rows answers it.
    Query {
        /// For whom.
        reader: Reader,
        /// What.
        query: Query,
        /// The bytes of rows that an answer may have.
        bytes_max: usize,
    },
    /// A page for a subscription that is behind, and for others that need the same.
    Page {
        /// The subscription, by its number on the connection.
        subscription_id: i32,
        /// Which.
        page: UnreadPage,
        /// How it will be sent its rows, if they can be put together so while they are read.
        to_come: Option<RowsToCome>,
    },
    /// A page that a subscription will need next, and how it will be sent its rows.
    PageAhead(UnreadPage, Option<RowsToCome>),
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
    /// Something to work out of what was read.
    Compute {
        /// For whom.
        reader: Reader,
        /// How.
        work: Box<dyn FnOnce() -> Answer + Send>,
    },
}

impl fmt::Debug for Read {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Query { query, .. } => f.debug_tuple("Query").field(query).finish(),
            Self::Page { subscription_id, .. } => f.debug_tuple("Page").field(subscription_id).finish(),
            Self::PageAhead(page, _) => f.debug_tuple("PageAhead").field(page).finish(),
            Self::Replay { subscription_id, .. } => f.debug_tuple("Replay").field(subscription_id).finish(),
            Self::Question(_) => f.write_str("Question"),
            Self::Compute { reader, .. } => f.debug_tuple("Compute").field(reader).finish(),
        }
    }
}

/// What was read.
#[derive(Debug)]
pub enum ReadResult {
    /// For [`Read::Query`].
    Query(Reader, Result<QueryResult, SourceError>),
    /// For [`Read::Compute`].
    Computed(Reader, Answer),
    /// For [`Read::Page`], [`Read::Replay`] and [`Work::Share`].
    Page {
        /// The subscription it is for.
        subscription_id: i32,
        /// The page.
        result: PageResult,
    },
    /// For [`Work::Share`]: whoever was to read it does not.
    GivenUp {
        /// The subscription it was for.
        subscription_id: i32,
    },
    /// For [`Read::PageAhead`]: it is kept for whoever needs it.
    Ahead,
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
        self.run_shown(store, None)
    }

    /// The same for a transport that puts `header` before each message.
    pub fn run_shown(self, store: &Store, header: Option<MessageHeader>) -> ReadResult {
        match self {
            Self::Query { reader, query, bytes_max } => {
                let result = read(store, |snapshot| snapshot.query(&query, bytes_max));
                ReadResult::Query(reader, result.map_err(SourceError::from))
            }
            Self::Compute { reader, work } => ReadResult::Computed(reader, work()),
            Self::Replay { subscription_id, replay, metrics } => {
                ReadResult::Page { subscription_id, result: Ok(CatchUp::Page(replay.page(&metrics))) }
            }
            Self::Question(question) => ReadResult::Answer(question.answer(store)),
            Self::Page { subscription_id, page, to_come } => {
                let shown = shown(to_come, header);
                let result = page.read_shown(store, shown.as_ref().map(|shown| shown as &dyn ShowRows));
                ReadResult::Page { subscription_id, result }
            }
            Self::PageAhead(page, to_come) => {
                let shown = shown(to_come, header);
                // A fault shows again where somebody needs it.
                let _ = page.read_shown(store, shown.as_ref().map(|shown| shown as &dyn ShowRows));
                ReadResult::Ahead
            }
        }
    }
}

/// How `to_come` is shown, if it can be and there is a transport.
pub(super) fn shown(to_come: Option<RowsToCome>, header: Option<MessageHeader>) -> Option<impl ShowRows> {
    to_come.zip(header).map(|(to_come, header)| protobuf::shown(to_come, header))
}
