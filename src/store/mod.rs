//! The embedded store: rows and a numbered log of their changes, written in one transaction.
//!
//! There is one writer ([`Writer`] runs it on a thread of its own) and any number of readers: a [`Snapshot`] sees the store
//! at one position. What [`Store::commit`] returned is on disk and stays there; what it refused was not written, and where
//! a fault leaves that open, the changes that turn out to be on disk come first with the next commit.

mod disk;
#[cfg(feature = "test-doors")]
pub mod doors;
mod index;
mod journal;
mod layers;
mod layout;
mod memtable;
mod mutation;
mod query;
mod range;
mod recovery;
mod row_block;
mod settle;
mod snapshot;
mod tables;
mod transaction;
mod writer;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

pub use disk::{Disk, DiskFiles, FileDisk, MemoryDisk};
use journal::Journal;
pub use mutation::{Guard, IfMissing, IfPresent, Mutation, Outcome};
pub use query::{Condition, Direction, Index, Order, Part, Query, QueryResult, RangeQuery, RangeStart};
use recovery::Opened;
pub use row_block::{BlockRow, RowBlock, RowBlockBuilder, RowLayout};
pub use snapshot::{ChangePage, PageBudget, RowPage, Snapshot, read};
pub use writer::{CommitObserver, Submitted, SubmittedGroup, WriteHandle, Writer, WriterLimits, WriterStatus};

use crate::change::{Change, Epoch, Position, Seq, Table, Timestamp};

/// Why the store could not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be opened; the text names it and says what to do.
    #[error("the store cannot be opened: {0}")]
    Open(String),
    /// The file was written by a newer starfeed.
    #[error(
        "the store has format version {found}, this starfeed reads up to {supported}: use the starfeed that wrote it, or a newer one"
    )]
    NewerFormat {
        /// Its format version.
        found: u64,
        /// The newest version known here.
        supported: u64,
    },
    /// What is on disk contradicts itself.
    #[error("the store is damaged: {0}")]
    Damaged(String),
    /// There is no space left; nothing was written.
    #[error("the disk is full: nothing was written; free some space and try again")]
    DiskFull,
    /// The disk failed.
    #[error("the disk failed: {0}; try again in a moment")]
    Disk(String),
    /// The disk failed during a write; whether that is there shows only later.
    #[error("the disk failed ({0}): the write is not confirmed; check the row before you write it again")]
    Unconfirmed(String),
    /// An answer would be larger than what is allowed.
    #[error("the answer would be larger than {bytes_max} bytes: ask for fewer rows at a time")]
    AnswerTooBig {
        /// The limit, in bytes.
        bytes_max: usize,
    },
    /// Too much is waiting to be written.
    #[error("too much is waiting to be written: try again in a moment")]
    Overloaded,
    /// The store is shutting down.
    #[error("the server is shutting down")]
    Stopped,
}

impl StoreError {
    fn from_redb(error: &redb::Error) -> Self {
        match error {
            redb::Error::Io(io) if is_disk_full(io) => Self::DiskFull,
            redb::Error::Corrupted(what) => Self::Damaged(what.clone()),
            other => Self::Disk(other.to_string()),
        }
    }
}

fn is_disk_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}

macro_rules! from_redb {
    ($($error:ty),*) => {$(
        impl From<$error> for StoreError {
            fn from(error: $error) -> Self {
                Self::from_redb(&error.into())
            }
        }
    )*};
}
impl From<std::io::Error> for StoreError {
    fn from(error: std::io::Error) -> Self {
        Self::from_redb(&redb::Error::Io(error))
    }
}

from_redb!(redb::StorageError, redb::TableError, redb::TransactionError, redb::CommitError, redb::DatabaseError);

/// How much of the log is kept for readers that come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Bytes of log entries.
    pub bytes: u64,
    /// Milliseconds; an older change is removed.
    pub age_ms: u64,
}

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// How much of the log is kept.
    pub retention: Retention,
    /// Memory for cached pages, in bytes.
    pub cache_bytes: usize,
    /// Bytes of commits that the journal may have before they are written to the database; it may have as many again meanwhile.
    pub journal_bytes: u64,
    /// The epoch of the store if it is a new one: random, so that no two stores share it.
    pub fresh_epoch: Epoch,
    /// The secret of the store if it is a new one: random, so that nobody can guess it.
    pub fresh_secret: StoreSecret,
    /// Which indexes the tables have; those of other tables have none. Where others are there, they are built first.
    pub indexes: Vec<TableIndexes>,
}

/// The indexes of a table.
#[derive(Clone, Debug)]
pub struct TableIndexes {
    /// The table.
    pub table: Table,
    /// Its indexes.
    pub indexes: &'static [Index],
}

/// What only this store knows, and keeps over restarts: tokens are sealed with it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct StoreSecret(pub [u8; 32]);

impl fmt::Debug for StoreSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoreSecret(..)")
    }
}

/// Several mutations that happen together or not at all.
pub type Unit = Vec<Mutation>;

/// What became of a [`Unit`]; the error is the text for whoever sent it.
pub type UnitResult = Result<Vec<Outcome>, String>;

/// What a commit wrote.
#[derive(Debug, Default)]
pub struct Committed {
    /// The changes in the order of their positions. They may start with some of an earlier commit that a fault left open.
    pub changes: Vec<Change>,
    /// What became of each unit.
    pub results: Vec<UnitResult>,
    /// The newest position now.
    pub upto: Seq,
    /// Retention removed changes of a store in memory, as many as one commit may; there may be more to remove.
    pub trimmed: bool,
    /// Something is on its way into the database: call [`Store::settle`], or a later commit has to wait for that.
    pub must_settle: bool,
}

/// The store; clones are handles to the same one.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    disk: Box<dyn Disk>,
    options: StoreOptions,
    is_in_memory: bool,
    /// `None` only while a fault has made the disk unreadable.
    database: RwLock<Option<Opened>>,
    state: Mutex<WriteState>,
    /// Figures of the state, for whoever must not wait for a commit.
    last_seq: AtomicU64,
    log_bytes: AtomicU64,
    journal_bytes: AtomicU64,
    settling_bytes: AtomicU64,
    epoch: Epoch,
    secret: StoreSecret,
}

/// What the one writer knows.
struct WriteState {
    /// None where all is in memory.
    journal: Option<Journal>,
    /// Changes that a failed commit left on disk all the same; they have to be published before anything newer.
    recovered: Vec<Change>,
    /// The last commit failed and the store was not yet opened again.
    failed: bool,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({:?})", self.shared.epoch)
    }
}

impl Store {
    /// Opens the store on `disk`, or makes a new one there.
    pub fn open(disk: Box<dyn Disk>, options: StoreOptions) -> Result<Self, StoreError> {
        let recovery::Loaded { opened, journal, secret } = recovery::open(disk.as_ref(), &options)?;
        let Snapshot { position, log_bytes, .. } = *opened.present();
        let is_in_memory = opened.present().base.is_none();
        let journal_bytes = journal.as_ref().map_or(0, Journal::bytes);
        Ok(Self {
            shared: Arc::new(Shared {
                disk,
                options,
                is_in_memory,
                database: RwLock::new(Some(opened)),
                state: Mutex::new(WriteState { journal, recovered: Vec::new(), failed: false }),
                last_seq: AtomicU64::new(position.seq.0),
                log_bytes: AtomicU64::new(log_bytes),
                journal_bytes: AtomicU64::new(journal_bytes),
                settling_bytes: AtomicU64::new(0),
                epoch: position.epoch,
                secret,
            }),
        })
    }

    /// The history that this store writes.
    pub fn epoch(&self) -> Epoch {
        self.shared.epoch
    }

    /// What only this store knows.
    pub fn secret(&self) -> StoreSecret {
        self.shared.secret
    }

    /// The store as it is now.
    pub fn snapshot(&self) -> Result<Snapshot, StoreError> {
        match self.try_snapshot() {
            Err(StoreError::Disk(_)) => {
                let mut state = self.lock_state();
                // Another reader may have opened it again meanwhile; to do so twice would end that one's snapshot.
                match self.try_snapshot() {
                    Err(StoreError::Disk(_)) => {
                        self.reopen(&mut state)?;
                        tracing::warn!("the disk failed; the store was opened again");
                        self.try_snapshot()
                    }
                    result => result,
                }
            }
            result => result,
        }
    }

    fn try_snapshot(&self) -> Result<Snapshot, StoreError> {
        let database = self.shared.database.read().unwrap_or_else(PoisonError::into_inner);
        let opened = database.as_ref().ok_or_else(|| StoreError::Disk("it cannot be read".to_owned()))?;
        if opened.has_failed() {
            return Err(StoreError::Disk("it failed before".to_owned()));
        }
        Ok(opened.present().clone())
    }

    /// Whether the database is of no more use.
    fn must_reopen(&self, state: &WriteState) -> bool {
        let database = self.shared.database.read().unwrap_or_else(PoisonError::into_inner);
        state.failed || database.as_ref().is_none_or(Opened::has_failed)
    }

    /// Whether all of it is in memory, so that nobody who reads it waits for a disk.
    pub fn is_in_memory(&self) -> bool {
        self.shared.is_in_memory
    }

    /// The newest position.
    pub fn position(&self) -> Position {
        Position { epoch: self.shared.epoch, seq: Seq(self.shared.last_seq.load(Ordering::Acquire)) }
    }

    /// Bytes of log entries kept.
    pub fn log_bytes(&self) -> u64 {
        self.shared.log_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of commits that a store which opened now would take from the journal.
    pub fn journal_bytes(&self) -> u64 {
        self.shared.journal_bytes.load(Ordering::Relaxed) + self.shared.settling_bytes.load(Ordering::Relaxed)
    }

    /// Applies `units` in order, in one transaction that is on disk when this returns, and removes what retention no longer keeps.
    ///
    /// A unit that is refused leaves nothing behind and harms no other. An error means that none of them was applied, or,
    /// for [`StoreError::Disk`], that this shows only later.
    pub fn commit(&self, now: Timestamp, units: &[Unit]) -> Result<Committed, StoreError> {
        let mut state = self.lock_state();
        if self.must_reopen(&state) {
            self.reopen(&mut state)?;
        }
        let result = match self.write(&mut state, now, units) {
            Ok(committed) => Ok(committed),
            Err(error) => {
                state.failed = true;
                let confirmed = self.position().seq;
                // Readers need the store now; if it cannot be opened yet, the next commit or snapshot tries again.
                if let Err(reopen_error) = self.reopen(&mut state) {
                    tracing::error!(%error, %reopen_error, "the store cannot be opened again after a failed write");
                }
                // A full disk promises that nothing was written, which is not so, or not known, if it showed in the last sync.
                let promised = matches!(error, StoreError::DiskFull);
                if promised && (state.failed || self.position().seq > confirmed) {
                    Err(StoreError::Disk("it is full".to_owned()))
                } else {
                    Err(error)
                }
            }
        };
        self.note_figures(&state);
        result
    }

    fn note_figures(&self, state: &WriteState) {
        self.shared.journal_bytes.store(state.journal.as_ref().map_or(0, Journal::bytes), Ordering::Relaxed);
        let slot = self.shared.database.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(opened) = &*slot {
            self.note_figures_of(opened);
        }
    }

    fn note_figures_of(&self, opened: &Opened) {
        let present = opened.present();
        let settling_bytes = present.settling.as_ref().map_or(0, |settling| settling.journal_bytes);
        self.shared.settling_bytes.store(settling_bytes, Ordering::Relaxed);
        self.shared.log_bytes.store(present.log_bytes, Ordering::Relaxed);
        self.shared.last_seq.store(present.position.seq.0, Ordering::Release);
    }

    fn lock_state(&self) -> MutexGuard<'_, WriteState> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(crate) mod tests;
