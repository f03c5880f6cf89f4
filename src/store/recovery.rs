//! Opening a store: a new one, a known one, and the same one again after a fault.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use prost::Message;
use redb::{Builder, Database, ReadableDatabase, ReadableTable, StorageBackend, TableHandle};

use super::disk::OpenedDisk;
use super::durability::{self, Lasting};
use super::journal::{Found, Journal};
use super::layout::{
    self, FORMAT_VERSION, INDEX_ENTRIES, LOG, LOG_ORDER, META, META_EPOCH, META_FORMAT, META_JOURNAL_OPEN,
    META_LAST_SEQ, META_LOG_BYTES, META_SECRET, ROWS, TABLE_NUMBERS, TABLES, TableRecord,
};
use super::overlay::Overlay;
use super::tables::Tables;
use super::{
    Disk, Snapshot, Store, StoreError, StoreOptions, StoreSecret, TableIndexes, WriteState, index, transaction,
};
use crate::change::{Change, Epoch, Seq};
use crate::planted::PlantedBug;

/// A store that is open.
pub(super) struct Opened {
    /// What readers see of a database that is ahead of what is durable: it as the last confirmed commit left it. It goes
    /// before the database does.
    confirmed: Option<RwLock<Snapshot>>,
    pub(super) database: Database,
    /// The disk has no room for what the journal has: that is there for readers, and nothing can be committed.
    pub(super) is_full: bool,
    failed: Arc<AtomicBool>,
}

impl Opened {
    /// What is there to stay.
    pub(super) fn snapshot(&self) -> Result<Snapshot, StoreError> {
        match &self.confirmed {
            Some(confirmed) => Ok(confirmed.read().unwrap_or_else(PoisonError::into_inner).share()),
            None => Snapshot::new(self.database.begin_read()?),
        }
    }

    /// Lets readers see all that was committed. As long as they do, the space of what the next commit replaces is not used
    /// again: until then at most, and for those who still read what was before.
    pub(super) fn confirm(&self) -> Result<(), StoreError> {
        if let Some(confirmed) = &self.confirmed {
            let snapshot = Snapshot::new(self.database.begin_read()?)?;
            *confirmed.write().unwrap_or_else(PoisonError::into_inner) = snapshot;
        }
        Ok(())
    }

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
    /// The generation of the journal, and whether it may have what the database has not.
    journal: (u64, bool),
    pub(super) tables: Tables,
    pub(super) lasting: Lasting,
    /// Commits that are only in the memory of the database: what the journal had is one.
    pub(super) unsettled: u32,
}

pub(super) fn open(disk: &dyn Disk, options: &StoreOptions) -> Result<(Opened, Loaded), StoreError> {
    let mut is_full = false;
    match open_on(disk, options, &mut is_full) {
        Err(StoreError::DiskFull) if is_full => {
            tracing::warn!(
                "the disk has no room for what the journal of the store has: until it has, writes are refused"
            );
            open_on(disk, options, &mut is_full)
        }
        result => result,
    }
}

/// Opens the store as it is, or in memory where the disk `is_full`; it is found to be so where the journal needs more room.
fn open_on(disk: &dyn Disk, options: &StoreOptions, is_full: &mut bool) -> Result<(Opened, Loaded), StoreError> {
    let to_open = |error: io::Error| StoreError::Open(error.to_string());
    let mut backend = disk.open().map_err(to_open)?;
    if *is_full {
        backend = Box::new(Overlay::new(backend).map_err(to_open)?);
    }
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
    let mut loaded = load(&database, disk.is_lasting())?;
    if let Some(backend) = disk.open_journal().map_err(to_open)? {
        let journal = Journal::new(backend, loaded.journal, loaded.epoch, options.journal_bytes);
        use_journal(&database, journal, &mut loaded, options).inspect_err(|_| *is_full = true)?;
    }
    build_indexes(&database, &options.indexes, &mut loaded.tables)?;
    let confirmed = match loaded.lasting {
        Lasting::Journal(_) => Some(RwLock::new(Snapshot::new(database.begin_read()?)?)),
        Lasting::InMemory | Lasting::EachCommit => None,
    };
    Ok((Opened { confirmed, database, is_full: *is_full, failed }, loaded))
}

/// Does again what the journal has and the database has not.
fn use_journal(
    database: &Database,
    mut journal: Journal,
    loaded: &mut Loaded,
    options: &StoreOptions,
) -> Result<(), StoreError> {
    if journal.is_open() {
        match journal.find(loaded.last_seq)? {
            Found::Records(records) if records.is_empty() => {}
            Found::Records(records) => {
                transaction::redo(database, loaded, &options.indexes, &records)?;
                loaded.unsettled = 1;
                tracing::info!(commits = records.len(), last_seq = %loaded.last_seq, "commits were taken from the journal");
            }
            Found::Lost(why) => {
                begin_another_history(database, loaded, options.fresh_epoch, why)?;
                journal.close(loaded.epoch);
            }
        }
    }
    loaded.lasting = Lasting::Journal(journal);
    Ok(())
}

/// What was acknowledged last may be lost: no position of before may be taken for one of what comes now.
fn begin_another_history(database: &Database, loaded: &mut Loaded, epoch: Epoch, why: &str) -> Result<(), StoreError> {
    if epoch == loaded.epoch {
        return Err(StoreError::Damaged(format!(
            "its newest changes are lost from its journal ({why}); restart starfeed"
        )));
    }
    tracing::error!(
        last_seq = %loaded.last_seq,
        "the journal of the store is not the one that belongs to it ({why}): its newest changes may be lost, and every \
         client begins anew"
    );
    let transaction = durability::begin(database)?;
    {
        let mut meta = transaction.open_table(META)?;
        meta.insert(META_EPOCH, epoch.0.to_le_bytes().as_slice())?;
        meta.insert(META_JOURNAL_OPEN, 0_u64.to_le_bytes().as_slice())?;
    }
    transaction.commit()?;
    loaded.epoch = epoch;
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
    let transaction = durability::begin(database)?;
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
/// secret; formats 2, 3 and 4 are read as they are.
fn upgrade(database: &Database, options: &StoreOptions) -> Result<(), StoreError> {
    let read = database.begin_read()?;
    let meta = read.open_table(META)?;
    let format = Tables::format(&meta)?;
    if !matches!(format, Some(1..FORMAT_VERSION)) {
        return Ok(());
    }
    let last_seq = Tables::position(&meta)?.seq;
    let transaction = durability::begin(database)?;
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

fn load(database: &Database, is_lasting: bool) -> Result<Loaded, StoreError> {
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
        journal: Tables::journal(&meta)?,
        tables,
        lasting: if is_lasting { Lasting::EachCommit } else { Lasting::InMemory },
        unsettled: 0,
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
    let transaction = durability::begin(database)?;
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
        state.lasting = loaded.lasting;
        state.unsettled = loaded.unsettled;
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
