//! Opening a store: a new one, a known one, and the same one again after a fault.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use prost::Message;
use redb::{Builder, Database, ReadableDatabase, ReadableTable, StorageBackend, TableHandle};

use super::disk::OpenedDisk;
use super::journal::{Found, Journal, JournalState};
use super::layers::Base;
use super::layout::{
    FORMAT_VERSION, INDEX_ENTRIES, LOG, LOG_ORDER, META, META_EPOCH, META_FORMAT, META_JOURNAL_OPEN, META_LAST_SEQ,
    META_LOG_BYTES, META_SECRET, ROWS, TABLE_NUMBERS, TABLES, TableRecord,
};
use super::memtable::Memtable;
use super::tables::Tables;
use super::{
    Disk, DiskFiles, Snapshot, Store, StoreError, StoreOptions, StoreSecret, TableIndexes, WriteState, index, settle,
    transaction,
};
use crate::change::{Epoch, Position, Seq, Timestamp};
use crate::planted::PlantedBug;

/// A store that is open.
pub(super) struct Opened {
    /// What readers see: everything that lasts. It goes before the database does.
    pub(super) present: RwLock<Snapshot>,
    /// None where all is in memory.
    pub(super) database: Option<Database>,
    /// Why what is settling could not be written to the database. Held by whoever writes it, until readers find it there.
    pub(super) settling_failure: Mutex<Option<StoreError>>,
    failed: Arc<AtomicBool>,
}

impl Opened {
    fn new(present: Snapshot, database: Option<Database>, failed: Arc<AtomicBool>) -> Self {
        Self { present: RwLock::new(present), database, settling_failure: Mutex::new(None), failed }
    }

    /// Whether the disk failed since: redb then answers from its cache as long as it can, and refuses everything else.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Has it be of no more use.
    pub(super) fn fail(&self) {
        self.failed.store(true, Ordering::Release);
    }
}

/// A store that was opened.
pub(super) struct Loaded {
    pub(super) opened: Opened,
    pub(super) journal: Option<Journal>,
    pub(super) secret: StoreSecret,
}

pub(super) fn open(disk: &dyn Disk, options: &StoreOptions) -> Result<Loaded, StoreError> {
    match disk.open().map_err(|error| StoreError::Open(error.to_string()))? {
        Some(files) => open_files(files, options),
        None => Ok(in_memory(options)),
    }
}

fn in_memory(options: &StoreOptions) -> Loaded {
    let present = Snapshot {
        base: None,
        settling: None,
        newest: Memtable::default(),
        tables: Tables::default(),
        position: Position { epoch: options.fresh_epoch, seq: Seq::ZERO },
        log_bytes: 0,
    };
    let opened = Opened::new(present, None, Arc::default());
    Loaded { opened, journal: None, secret: options.fresh_secret }
}

/// Nothing that was committed is written anywhere by this: a disk may have no room for it.
fn open_files(files: DiskFiles, options: &StoreOptions) -> Result<Loaded, StoreError> {
    discard_unfinished_creation(files.database.as_ref()).map_err(|error| open_error(redb::Error::Io(error)))?;
    let failed = Arc::new(AtomicBool::new(false));
    let database = Builder::new()
        .set_cache_size(options.cache_bytes)
        .create_with_backend(OpenedDisk::new(files.database, Arc::clone(&failed)))
        .map_err(|error| open_error(error.into()))?;
    if is_new(&database)? {
        create(&database, options)?;
    }
    upgrade(&database, options)?;
    let (mut present, secret, of_journal) = load(&database)?;
    let mut journal = Journal::new(files.journal, of_journal, present.position.epoch, options.journal_bytes);
    redo(&database, &mut journal, &mut present, options)?;
    let opened = Opened::new(present, Some(database), failed);
    build_indexes(&opened, &mut journal, options)?;
    Ok(Loaded { opened, journal: Some(journal), secret })
}

/// Does again what the journal has and the database has not.
fn redo(
    database: &Database,
    journal: &mut Journal,
    present: &mut Snapshot,
    options: &StoreOptions,
) -> Result<(), StoreError> {
    if !journal.is_open() {
        return Ok(());
    }
    match journal.find(present.position.seq)? {
        Found::Records(records) if records.is_empty() => {}
        Found::Records(records) => {
            transaction::redo(present, &options.indexes, &records)?;
            tracing::info!(commits = records.len(), last_seq = %present.position.seq, "commits were taken from the journal");
        }
        Found::Lost(why) => {
            begin_another_history(database, present, options.fresh_epoch, why)?;
            journal.close(present.position.epoch);
        }
    }
    Ok(())
}

/// What was acknowledged last may be lost: no position of before may be taken for one of what comes now.
fn begin_another_history(
    database: &Database,
    present: &mut Snapshot,
    epoch: Epoch,
    why: &str,
) -> Result<(), StoreError> {
    if epoch == present.position.epoch {
        return Err(StoreError::Damaged(format!(
            "its newest changes are lost from its journal ({why}); restart starfeed"
        )));
    }
    tracing::error!(
        last_seq = %present.position.seq,
        "the journal of the store is not the one that belongs to it ({why}): its newest changes may be lost, and every \
         client begins anew"
    );
    let transaction = settle::begin(database)?;
    {
        let mut meta = transaction.open_table(META)?;
        meta.insert(META_EPOCH, epoch.0.to_le_bytes().as_slice())?;
        meta.insert(META_JOURNAL_OPEN, 0_u64.to_le_bytes().as_slice())?;
    }
    transaction.commit()?;
    present.position.epoch = epoch;
    Ok(())
}

/// What marks a file as one of redb's; it writes this last.
const REDB_MAGIC: [u8; 9] = *b"redb\x1A\x0A\xA9\x0D\x0A";

/// Nothing but the header was written before the mark: these bytes at most.
const REDB_HEADER_BYTES: usize = 512;

/// A new file is not longer than this.
const REDB_NEW_FILE_BYTES_MAX: usize = 4 << 20;

/// Empties a file whose creation was cut short: redb takes its space first and marks it last, and refuses what has no mark.
///
/// There is nothing to lose in such a file: its mark is missing, in part at least, and all that follows the header is zero.
fn discard_unfinished_creation(backend: &dyn StorageBackend) -> io::Result<()> {
    let len = usize::try_from(backend.len()?).map_err(io::Error::other)?;
    if !(REDB_HEADER_BYTES..=REDB_NEW_FILE_BYTES_MAX).contains(&len) {
        return Ok(());
    }
    let mut mark = [0; REDB_MAGIC.len()];
    backend.read(0, &mut mark)?;
    let in_part = mark.iter().zip(REDB_MAGIC).all(|(&found, wanted)| found == 0 || found == wanted);
    if mark == REDB_MAGIC || !in_part {
        return Ok(());
    }
    let mut bytes = vec![0; len];
    backend.read(0, &mut bytes)?;
    if bytes.iter().skip(REDB_HEADER_BYTES).all(|&byte| byte == 0) {
        tracing::warn!("the creation of the store was cut short; it is made anew");
        backend.set_len(0)?;
    }
    Ok(())
}

fn open_error(error: redb::Error) -> StoreError {
    match StoreError::from_redb(&error) {
        StoreError::Disk(text) => StoreError::Open(text),
        other => other,
    }
}

fn is_new(database: &Database) -> Result<bool, StoreError> {
    let transaction = database.begin_read()?;
    let mut tables = transaction.list_tables()?;
    Ok(!tables.any(|table| table.name() == META.name()))
}

fn create(database: &Database, options: &StoreOptions) -> Result<(), StoreError> {
    let transaction = settle::begin(database)?;
    {
        let mut meta = transaction.open_table(META)?;
        meta.insert(META_FORMAT, FORMAT_VERSION.to_le_bytes().as_slice())?;
        meta.insert(META_EPOCH, options.fresh_epoch.0.to_le_bytes().as_slice())?;
        meta.insert(META_SECRET, options.fresh_secret.0.as_slice())?;
        meta.insert(META_LAST_SEQ, 0_u64.to_le_bytes().as_slice())?;
        transaction.open_table(TABLE_NUMBERS)?;
        transaction.open_table(TABLES)?;
        transaction.open_table(ROWS)?;
        transaction.open_table(LOG)?;
        transaction.open_table(LOG_ORDER)?;
        transaction.open_table(INDEX_ENTRIES)?;
    }
    transaction.commit()?;
    Ok(())
}

/// Brings a store of an older format to the present one. Of format 1 the log goes, which no client can ask for, and it gets a
/// secret; the others are read as they are.
fn upgrade(database: &Database, options: &StoreOptions) -> Result<(), StoreError> {
    let read = database.begin_read()?;
    let meta = read.open_table(META)?;
    let format = Tables::format(&meta)?;
    if !matches!(format, Some(1..FORMAT_VERSION)) {
        return Ok(());
    }
    let last_seq = Tables::position(&meta)?.seq;
    let transaction = settle::begin(database)?;
    if format == Some(1) {
        transaction.open_table(LOG)?.retain(|_, _| false)?;
        transaction.open_table(LOG_ORDER)?.retain(|_, _| false)?;
        let mut tables = transaction.open_table(TABLES)?;
        for entry in read.open_table(TABLES)?.iter()? {
            let (number, record) = entry?;
            let record = TableRecord { trimmed_to: last_seq.0, ..Tables::decode_record(record.value())? };
            tables.insert(number.value(), record.encode_to_vec().as_slice())?;
        }
        let mut meta = transaction.open_table(META)?;
        meta.insert(META_LOG_BYTES, 0_u64.to_le_bytes().as_slice())?;
        meta.insert(META_SECRET, options.fresh_secret.0.as_slice())?;
    }
    transaction.open_table(INDEX_ENTRIES)?;
    transaction.open_table(META)?.insert(META_FORMAT, FORMAT_VERSION.to_le_bytes().as_slice())?;
    transaction.commit()?;
    tracing::info!("the store was brought to format {FORMAT_VERSION}");
    Ok(())
}

/// What the database has, its secret, and what it says of its journal.
fn load(database: &Database) -> Result<(Snapshot, StoreSecret, JournalState), StoreError> {
    let transaction = database.begin_read()?;
    let meta = transaction.open_table(META)?;
    match Tables::format(&meta)? {
        Some(FORMAT_VERSION) => {}
        Some(found) => {
            return Err(StoreError::NewerFormat { found, supported: FORMAT_VERSION });
        }
        None => return Err(StoreError::Damaged("it has no format version".to_owned())),
    }
    let mut tables = Tables::default();
    for entry in transaction.open_table(TABLES)?.iter()? {
        let (number, record) = entry?;
        tables.add(number.value(), Tables::decode_record(record.value())?);
    }
    let present = Snapshot {
        base: Some(Arc::new(Base::of(database)?)),
        settling: None,
        newest: Memtable::default(),
        tables,
        position: Tables::position(&meta)?,
        log_bytes: Tables::log_bytes(&meta)?,
    };
    Ok((present, Tables::secret(&meta)?, Tables::journal(&meta)?))
}

/// The tables that do not have the `wanted` indexes, by number, with those that they should have.
fn stale_indexes(tables: &Tables, wanted: &[TableIndexes]) -> Vec<(u32, TableRecord)> {
    let stale = |(number, record): (u32, &TableRecord)| {
        let indexes = index::records_of(&record.path, wanted);
        (record.indexes != indexes).then(|| (number, TableRecord { indexes, ..record.clone() }))
    };
    tables.records().filter_map(stale).collect()
}

/// Builds the wanted indexes where others are there: all of a table if one of them is not as it should be.
fn build_indexes(opened: &Opened, journal: &mut Journal, options: &StoreOptions) -> Result<(), StoreError> {
    let Some(database) = &opened.database else { return Ok(()) };
    let stale = || stale_indexes(&opened.present().tables, &options.indexes);
    if stale().is_empty() {
        return Ok(());
    }
    // What the journal has, has entries in the indexes of before.
    opened.settle_left(journal, Timestamp(0), options.retention)?;
    let stale = stale();
    let transaction = settle::begin(database)?;
    for (number, record) in &stale {
        index::rebuild(&transaction, *number, &record.indexes)?;
        transaction.open_table(TABLES)?.insert(number, record.encode_to_vec().as_slice())?;
        tracing::info!(table = record.path, indexes = record.indexes.len(), rows = record.rows, "indexes were built");
    }
    transaction.commit()?;
    let mut present = opened.present_mut();
    present.base = Some(Arc::new(Base::of(database)?));
    stale.into_iter().try_for_each(|(number, record)| {
        *present.tables.record_mut(number)? = record;
        Ok(())
    })
}

impl Store {
    /// Opens the store again after a fault: redb refuses all work after an I/O error, and what is on disk decides what is true.
    pub(super) fn reopen(&self, state: &mut WriteState) -> Result<(), StoreError> {
        let mut slot = self.shared.database.write().unwrap_or_else(PoisonError::into_inner);
        // The old one goes first: there must never be two that write to the same disk.
        drop(slot.take());
        let Loaded { opened, journal, .. } = open(self.shared.disk.as_ref(), &self.shared.options)?;
        let confirmed = Seq(self.shared.last_seq.load(Ordering::Acquire));
        let position = opened.present().position;
        if position.epoch != self.shared.epoch || position.seq < confirmed {
            return Err(StoreError::Damaged(format!(
                "after a fault it ends at change {} where {confirmed} was confirmed; restart starfeed",
                position.seq
            )));
        }
        if !PlantedBug::RecoveredChangesForgotten.is_planted() {
            state.recovered.extend(opened.present().all_changes_after(confirmed)?);
        }
        state.journal = journal;
        state.failed = false;
        *slot = Some(opened);
        drop(slot);
        self.note_figures(state);
        tracing::debug!(last_seq = %position.seq, "the store was opened again after a fault");
        Ok(())
    }
}
