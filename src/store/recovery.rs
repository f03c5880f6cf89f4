//! Opening a store: a new one, a known one, and the same one again after a fault.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};

use prost::Message;
use redb::{Builder, Database, ReadableDatabase, ReadableTable, StorageBackend, TableHandle};

use super::disk::OpenedDisk;
use super::layout::{
    self, FORMAT_VERSION, INDEX_ENTRIES, LOG, LOG_ORDER, META, META_EPOCH, META_FORMAT, META_LAST_SEQ, META_LOG_BYTES,
    META_SECRET, ROWS, TABLE_NUMBERS, TABLES, TableRecord,
};
use super::tables::Tables;
use super::{Disk, Store, StoreError, StoreOptions, StoreSecret, TableIndexes, WriteState, index, transaction};
use crate::change::{Change, Epoch, Seq};
use crate::planted::PlantedBug;

/// A store that is open.
pub(super) struct Opened {
    pub(super) database: Database,
    failed: Arc<AtomicBool>,
}

impl Opened {
    /// Whether the disk failed since: redb then answers from its cache as long as it can, and refuses everything else.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }
}

/// What is on disk.
pub(super) struct Loaded {
    pub(super) epoch: Epoch,
    pub(super) secret: StoreSecret,
    pub(super) last_seq: Seq,
    pub(super) log_bytes: u64,
    pub(super) tables: Tables,
}

pub(super) fn open(disk: &dyn Disk, options: &StoreOptions) -> Result<(Opened, Loaded), StoreError> {
    let backend = disk.open().map_err(|error| StoreError::Open(error.to_string()))?;
    discard_unfinished_creation(backend.as_ref()).map_err(|error| open_error(redb::Error::Io(error)))?;
    let failed = Arc::new(AtomicBool::new(false));
    let database = Builder::new()
        .set_cache_size(options.cache_bytes)
        .create_with_backend(OpenedDisk::new(backend, Arc::clone(&failed)))
        .map_err(|error| open_error(error.into()))?;
    if is_new(&database)? {
        create(&database, options)?;
    }
    upgrade(&database, options)?;
    let mut loaded = load(&database)?;
    build_indexes(&database, &options.indexes, &mut loaded.tables)?;
    Ok((Opened { database, failed }, loaded))
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
    let transaction = transaction::begin(database)?;
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
/// secret; formats 2 and 3 are read as they are.
fn upgrade(database: &Database, options: &StoreOptions) -> Result<(), StoreError> {
    let read = database.begin_read()?;
    let meta = read.open_table(META)?;
    let format = Tables::format(&meta)?;
    if !matches!(format, Some(1..FORMAT_VERSION)) {
        return Ok(());
    }
    let last_seq = Tables::position(&meta)?.seq;
    let transaction = transaction::begin(database)?;
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

fn load(database: &Database) -> Result<Loaded, StoreError> {
    let transaction = database.begin_read()?;
    let meta = transaction.open_table(META)?;
    match Tables::format(&meta)? {
        Some(FORMAT_VERSION) => {}
        Some(found) => {
            return Err(StoreError::NewerFormat { found, supported: FORMAT_VERSION });
        }
        None => return Err(StoreError::Damaged("it has no format version".to_owned())),
    }
    let position = Tables::position(&meta)?;
    let mut tables = Tables::default();
    for entry in transaction.open_table(TABLES)?.iter()? {
        let (number, record) = entry?;
        tables.add(number.value(), Tables::decode_record(record.value())?);
    }
    Ok(Loaded {
        epoch: position.epoch,
        secret: Tables::secret(&meta)?,
        last_seq: position.seq,
        log_bytes: Tables::log_bytes(&meta)?,
        tables,
    })
}

/// Builds the `wanted` indexes where others are there: all of a table if one of them is not as it should be.
fn build_indexes(database: &Database, wanted: &[TableIndexes], tables: &mut Tables) -> Result<(), StoreError> {
    let mut stale: Vec<(u32, &mut TableRecord)> = Vec::new();
    for (number, record) in tables.records_mut() {
        let indexes = index::records_of(&record.path, wanted);
        if record.indexes != indexes {
            record.indexes = indexes;
            stale.push((number, record));
        }
    }
    if stale.is_empty() {
        return Ok(());
    }
    let transaction = transaction::begin(database)?;
    for (number, record) in stale {
        index::rebuild(&transaction, number, &record.indexes)?;
        transaction.open_table(TABLES)?.insert(number, record.encode_to_vec().as_slice())?;
        tracing::info!(table = record.path, indexes = record.indexes.len(), rows = record.rows, "indexes were built");
    }
    transaction.commit()?;
    Ok(())
}

impl Store {
    /// Opens the store again after a fault: redb refuses all work after an I/O error, and what is on disk decides what is true.
    pub(super) fn reopen(&self, state: &mut WriteState) -> Result<(), StoreError> {
        let mut slot = self.shared.database.write().unwrap_or_else(PoisonError::into_inner);
        // The old one goes first: there must never be two that write to the same disk.
        drop(slot.take());
        let (opened, loaded) = open(self.shared.disk.as_ref(), &self.shared.options)?;
        if loaded.epoch != self.shared.epoch || loaded.last_seq < state.last_seq {
            return Err(StoreError::Damaged(format!(
                "after a fault it ends at change {} where {} was confirmed; restart starfeed",
                loaded.last_seq, state.last_seq
            )));
        }
        if !PlantedBug::RecoveredChangesForgotten.is_planted() {
            state.recovered.extend(changes_between(&opened.database, &loaded.tables, state.last_seq, loaded.last_seq)?);
        }
        state.last_seq = loaded.last_seq;
        state.log_bytes = loaded.log_bytes;
        state.tables = loaded.tables;
        state.failed = false;
        *slot = Some(opened);
        self.note_figures(state);
        tracing::debug!(last_seq = %state.last_seq, "the store was opened again after a fault");
        Ok(())
    }
}

fn changes_between(database: &Database, tables: &Tables, after: Seq, upto: Seq) -> Result<Vec<Change>, StoreError> {
    let transaction = database.begin_read()?;
    let order = transaction.open_table(LOG_ORDER)?;
    let log = transaction.open_table(LOG)?;
    let mut changes = Vec::new();
    for entry in order.range(after.0 + 1..=upto.0)? {
        let (seq, place) = entry?;
        let number = place.value().0;
        let record = log
            .get((number, seq.value()))?
            .ok_or_else(|| StoreError::Damaged(format!("change {} is in the order but not in the log", seq.value())))?;
        changes.push(layout::decode_change(&tables.table(number)?, number, Seq(seq.value()), record.value())?);
    }
    Ok(changes)
}
