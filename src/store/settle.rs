//! How commits get into the database: many at a time, in one durable transaction, while others go on.
//!
//! A commit lasts by its record in the journal ([`super::journal`]), and is in memory. When a generation of the journal is full,
//! what is in memory is *settling*: it is written to the database, and what is committed meanwhile goes above it and into the next
//! generation. Once the database has it, that is what readers find beneath, and the space of the older generation is free.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLockReadGuard, RwLockWriteGuard};

use prost::Message;
use redb::{CursorError, Database, Durability, ReadableTable, WriteTransaction};

use super::journal::Journal;
use super::layers::Base;
use super::layout::{
    self, INDEX_ENTRIES, LOG, LOG_ORDER, META, META_JOURNAL_OPEN, META_LAST_SEQ, META_LOG_BYTES, META_SETTLED, ROWS,
    TABLE_NUMBERS, TABLES,
};
use super::memtable::{Memtable, TablePart};
use super::recovery::Opened;
use super::tables::Tables;
use super::{Retention, Shared, Snapshot, Store, StoreError, WriteState};
use crate::change::{Change, Seq, Timestamp};
use crate::planted::PlantedBug;

/// Removed from the log at a time, beside as many as were added: retention must not make it long.
const TRIMMED_AT_ONCE: usize = 4096;

/// A transaction whose commit is durable.
pub(super) fn begin(database: &Database) -> Result<WriteTransaction, StoreError> {
    let mut transaction = database.begin_write()?;
    set_durability(&mut transaction, Durability::Immediate)?;
    // Two phases and a recorded allocator: a crash at any instant loses no commit, and opening takes no scan of the file.
    transaction.set_quick_repair(true);
    Ok(transaction)
}

fn set_durability(transaction: &mut WriteTransaction, durability: Durability) -> Result<(), StoreError> {
    transaction.set_durability(durability).map_err(|error| StoreError::Disk(error.to_string()))
}

/// What a database is to say of its journal.
#[derive(Clone, Copy, Debug)]
pub(super) struct JournalMark {
    /// The newest generation that it has all of.
    pub(super) settled: u64,
    /// Whether the journal may have what it has not.
    pub(super) is_open: bool,
}

impl JournalMark {
    fn write(self, transaction: &WriteTransaction) -> Result<(), StoreError> {
        let mut meta = transaction.open_table(META)?;
        meta.insert(META_SETTLED, self.settled.to_le_bytes().as_slice())?;
        meta.insert(META_JOURNAL_OPEN, u64::from(self.is_open).to_le_bytes().as_slice())?;
        Ok(())
    }
}

/// What is on its way into the database.
pub(super) struct Settling {
    pub(super) memtable: Memtable,
    tables: Tables,
    last_seq: Seq,
    log_bytes: u64,
    /// When the newest of it was committed: by this, retention decides what is too old.
    time: Timestamp,
    /// What the database says of its journal from then on, if that is something else.
    mark: Option<JournalMark>,
    /// The changes behind this stay in the log: if this fails and is on disk all the same, the log is what tells so.
    confirmed: Seq,
    /// Bytes of its records in the journal.
    pub(super) journal_bytes: u64,
}

/// What became of it.
struct Settled {
    base: Base,
    trimmed: Trimmed,
}

/// What retention took out of the log.
#[derive(Default)]
struct Trimmed {
    /// The newest change of each table that is gone.
    upto: BTreeMap<u32, u64>,
    bytes: u64,
    /// There may be more.
    is_partial: bool,
}

impl Snapshot {
    /// Has what is above the database be what settles; there is nothing that settles already.
    fn freeze(&mut self, time: Timestamp, mark: Option<JournalMark>, confirmed: Seq, journal_bytes: u64) {
        assert!(self.settling.is_none(), "something settles already");
        self.settling = Some(Arc::new(Settling {
            memtable: std::mem::take(&mut self.newest),
            tables: self.tables.clone(),
            last_seq: self.position.seq,
            log_bytes: self.log_bytes,
            time,
            mark,
            confirmed,
            journal_bytes,
        }));
    }

    /// The database has what was settling.
    fn adopt(&mut self, settled: Settled) -> Result<(), StoreError> {
        let Settled { base, trimmed } = settled;
        (self.base, self.settling) = (Some(Arc::new(base)), None);
        self.log_bytes = self.log_bytes.saturating_sub(trimmed.bytes);
        for (number, seq) in trimmed.upto {
            let record = self.tables.record_mut(number)?;
            record.trimmed_to = record.trimmed_to.max(seq);
        }
        Ok(())
    }

    /// Takes the oldest changes out of a log that is in memory, a bounded number at a time, but none behind `confirmed`; says
    /// whether it took any.
    pub(super) fn trim(
        &mut self,
        now: Timestamp,
        retention: Retention,
        confirmed: Seq,
        at_once: usize,
    ) -> Result<bool, StoreError> {
        let mut trimmed = false;
        for _ in 0..at_once {
            let Some((number, oldest)) = self.newest.oldest() else { break };
            let (seq, time, bytes) = (oldest.change.seq, oldest.change.time, oldest.bytes);
            if !retention.removes(self.log_bytes, time, now) || seq > confirmed {
                break;
            }
            self.newest.forget_oldest();
            self.log_bytes = self.log_bytes.saturating_sub(u64::from(bytes));
            let record = self.tables.record_mut(number)?;
            record.trimmed_to = record.trimmed_to.max(seq.0);
            trimmed = true;
        }
        Ok(trimmed)
    }
}

impl Retention {
    /// Whether a change of `time` goes, which is the oldest of so many bytes.
    fn removes(&self, log_bytes: u64, time: Timestamp, now: Timestamp) -> bool {
        log_bytes > self.bytes || time.0 < now.0.saturating_sub(self.age_ms)
    }
}

impl Settling {
    /// Writes it into the database, and takes what retention no longer keeps out of its log.
    fn write(&self, transaction: WriteTransaction, retention: Retention) -> Result<Trimmed, StoreError> {
        let mut tables = self.tables.clone();
        let trimmed = {
            let mut rows = transaction.open_table(ROWS)?;
            let mut entries = transaction.open_table(INDEX_ENTRIES)?;
            let mut log = Log { log: transaction.open_table(LOG)?, order: transaction.open_table(LOG_ORDER)? };
            for (number, part) in self.memtable.tables() {
                write_rows(&mut rows, number, part)?;
                write_entries(&mut entries, number, part)?;
                log.append(number, part)?;
            }
            log.append_order(&self.memtable)?;
            log.trim(self, retention)?
        };
        for (&number, &seq) in &trimmed.upto {
            let record = tables.record_mut(number)?;
            record.trimmed_to = record.trimmed_to.max(seq);
        }
        let touched = self.memtable.tables().map(|(number, _)| number).chain(trimmed.upto.keys().copied());
        {
            let (mut records, mut numbers) = (transaction.open_table(TABLES)?, transaction.open_table(TABLE_NUMBERS)?);
            for number in touched {
                let record = tables.record(number)?;
                numbers.insert(record.path.as_str(), number)?;
                records.insert(number, record.encode_to_vec().as_slice())?;
            }
            let mut meta = transaction.open_table(META)?;
            meta.insert(META_LAST_SEQ, self.last_seq.0.to_le_bytes().as_slice())?;
            let log_bytes = self.log_bytes.saturating_sub(trimmed.bytes);
            meta.insert(META_LOG_BYTES, log_bytes.to_le_bytes().as_slice())?;
        }
        if let Some(mark) = self.mark {
            mark.write(&transaction)?;
        }
        transaction.commit()?;
        Ok(trimmed)
    }
}

fn write_rows(
    rows: &mut redb::Table<'_, (u32, &'static [u8]), &'static [u8]>,
    number: u32,
    part: &TablePart,
) -> Result<(), StoreError> {
    for (key, row) in part.rows_after(None) {
        let place = (number, key.as_bytes());
        match row {
            Some((version, document)) => {
                rows.insert(place, layout::encode_row(number, key, *version, document).as_slice())?
            }
            None => rows.remove(place)?,
        };
    }
    Ok(())
}

fn write_entries(
    entries: &mut redb::Table<'_, (u32, u32, &'static [u8]), u32>,
    number: u32,
    part: &TablePart,
) -> Result<(), StoreError> {
    for (index, entry, is_there) in part.all_entries() {
        let place = (number, index, entry.as_ref());
        if is_there {
            entries.insert(place, layout::entry_checksum(number, index, entry))?;
        } else {
            entries.remove(place)?;
        }
    }
    Ok(())
}

/// The log in the database.
struct Log<'a> {
    log: redb::Table<'a, (u32, u64), &'static [u8]>,
    order: redb::Table<'a, u64, (u32, u32, u64)>,
}

impl Log<'_> {
    /// Puts the changes of a table behind those that are there. A cursor fills one page after the other, where an insertion
    /// would look for its place from the root.
    fn append(&mut self, number: u32, part: &TablePart) -> Result<(), StoreError> {
        let mut log = self.log.upper_bound_mut(Bound::Included((number, u64::MAX)))?;
        for logged in part.log_after(Seq::ZERO) {
            let value = layout::encode_change(number, &logged.change);
            log.insert_before((number, logged.change.seq.0), value.as_slice()).map_err(not_behind)?;
        }
        log.close()?;
        Ok(())
    }

    fn append_order(&mut self, memtable: &Memtable) -> Result<(), StoreError> {
        let mut order = self.order.upper_bound_mut(Bound::<u64>::Unbounded)?;
        for (number, logged) in memtable.log_after(Seq::ZERO) {
            let Change { seq, time, .. } = &*logged.change;
            order.insert_before(seq.0, (number, logged.bytes, time.0)).map_err(not_behind)?;
        }
        order.close()?;
        Ok(())
    }

    /// Removes the oldest changes until the log is as retention wants it, a bounded number at a time.
    fn trim(&mut self, settling: &Settling, retention: Retention) -> Result<Trimmed, StoreError> {
        let mut trimmed = Trimmed::default();
        let at_once = TRIMMED_AT_ONCE + settling.memtable.log_entries();
        // Where large changes came for small ones, more have to go.
        let bytes_at_once = settling.memtable.bytes().saturating_mul(2);
        let mut count = 0;
        while count < at_once || trimmed.bytes < bytes_at_once {
            count += 1;
            let Some((seq, number, bytes, time_ms)) = self.order.first()?.map(|(seq, place)| {
                let (number, bytes, time_ms) = place.value();
                (seq.value(), number, bytes, time_ms)
            }) else {
                return Ok(trimmed);
            };
            let log_bytes = settling.log_bytes.saturating_sub(trimmed.bytes);
            if !retention.removes(log_bytes, Timestamp(time_ms), settling.time) || seq > settling.confirmed.0 {
                return Ok(trimmed);
            }
            self.order.remove(seq)?;
            self.log.remove((number, seq))?;
            trimmed.bytes += u64::from(bytes);
            trimmed.upto.insert(number, seq);
        }
        trimmed.is_partial = true;
        Ok(trimmed)
    }
}

fn not_behind(error: CursorError) -> StoreError {
    match error {
        CursorError::Storage(error) => error.into(),
        other => StoreError::Damaged(format!("the log has changes from beyond its end: {other}")),
    }
}

impl Opened {
    pub(super) fn present(&self) -> RwLockReadGuard<'_, Snapshot> {
        self.present.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn present_mut(&self) -> RwLockWriteGuard<'_, Snapshot> {
        self.present.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has readers see `present` from now on. What they saw goes when nobody has to wait for that.
    pub(super) fn replace_present(&self, present: Snapshot) {
        let before = std::mem::replace(&mut *self.present_mut(), present);
        drop(before);
    }

    /// Writes what is settling into the database, if anything is; says whether retention has more to remove. Once that failed, it
    /// fails in the same way.
    pub(super) fn settle(&self, retention: Retention) -> Result<bool, StoreError> {
        let mut failure = self.settling_failure.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = &*failure {
            return Err(error.clone());
        }
        self.settle_alone(retention).inspect_err(|error| *failure = Some(error.clone()))
    }

    fn settle_alone(&self, retention: Retention) -> Result<bool, StoreError> {
        let Some(database) = &self.database else { return Ok(false) };
        // Only now: whoever was here before may have done it.
        let Some(settling) = self.present().settling.clone() else { return Ok(false) };
        let mut transaction = begin(database)?;
        if PlantedBug::SettledInMemory.is_planted() {
            transaction.set_quick_repair(false);
            set_durability(&mut transaction, Durability::None)?;
        }
        let trimmed = settling.write(transaction, retention)?;
        let is_partial = trimmed.is_partial;
        let settled = Settled { base: Base::of(database)?, trimmed };
        // What it was settled from is kept until nobody has to wait for it to go.
        let _base = self.present().base.clone();
        self.present_mut().adopt(settled)?;
        Ok(is_partial)
    }

    /// Makes room in the journal: from here on, records go into a generation that has none yet.
    pub(super) fn begin_generation(
        &self,
        journal: &mut Journal,
        now: Timestamp,
        retention: Retention,
    ) -> Result<(), StoreError> {
        let Some(database) = &self.database else { return Ok(()) };
        self.settle(retention)?;
        if !journal.is_begun() {
            self.begin_journal(database, journal, now, retention)?;
        } else {
            let journal_bytes = journal.bytes();
            let settled = journal.announce(self.present().position.seq)?;
            let mut present = self.present_mut();
            let confirmed = present.position.seq;
            present.freeze(now, Some(JournalMark { settled, is_open: true }), confirmed, journal_bytes);
            journal.begin();
        }
        Ok(())
    }

    /// Begins the first generation of this opening, once the database has all that is in those of earlier ones.
    fn begin_journal(
        &self,
        database: &Database,
        journal: &mut Journal,
        now: Timestamp,
        retention: Retention,
    ) -> Result<(), StoreError> {
        self.settle_left(journal, now, retention)?;
        let settled = journal.announce(self.present().position.seq)?;
        let transaction = begin(database)?;
        JournalMark { settled, is_open: true }.write(&transaction)?;
        transaction.commit()?;
        journal.begin();
        Ok(())
    }

    /// Has the database get what earlier openings left in the journal, which it then needs no more.
    pub(super) fn settle_left(
        &self,
        journal: &mut Journal,
        now: Timestamp,
        retention: Retention,
    ) -> Result<(), StoreError> {
        if let Some(settled) = journal.left_open()? {
            let mark = JournalMark { settled, is_open: false };
            self.settle_all(Some(mark), journal.bytes(), now, retention)?;
            journal.settled(settled);
        }
        Ok(())
    }

    /// Has the database get everything that is above it; says whether retention has more to remove.
    fn settle_all(
        &self,
        mark: Option<JournalMark>,
        journal_bytes: u64,
        now: Timestamp,
        retention: Retention,
    ) -> Result<bool, StoreError> {
        self.settle(retention)?;
        {
            let mut present = self.present_mut();
            let confirmed = present.position.seq;
            present.freeze(now, mark, confirmed, journal_bytes);
        }
        self.settle(retention)
    }

    /// Makes `changes` last without a record of theirs: the database gets them, and everything before them.
    pub(super) fn settle_with(
        &self,
        journal: &mut Journal,
        ahead: impl FnOnce(&mut Snapshot) -> Result<(), StoreError>,
        now: Timestamp,
        retention: Retention,
    ) -> Result<(), StoreError> {
        let Some(database) = &self.database else { return Ok(()) };
        self.settle(retention)?;
        let mut present = self.present().clone();
        let confirmed = present.position.seq;
        ahead(&mut present)?;
        let settled = journal.announce(confirmed)?;
        present.freeze(now, Some(JournalMark { settled, is_open: true }), confirmed, 0);
        if let Some(settling) = present.settling.clone() {
            let trimmed = settling.write(begin(database)?, retention)?;
            present.adopt(Settled { base: Base::of(database)?, trimmed })?;
        }
        journal.begin();
        // Not before: what a reader has seen must never be gone.
        self.replace_present(present);
        Ok(())
    }

    /// Whether retention would remove something from the log in the database.
    fn has_to_trim(&self, now: Timestamp, retention: Retention) -> Result<bool, StoreError> {
        let present = self.present();
        let Some(base) = &present.base else { return Ok(false) };
        let oldest = base.order.first()?.map(|(_, place)| Timestamp(place.value().2));
        Ok(oldest.is_some_and(|time| retention.removes(present.log_bytes, time, now)))
    }
}

impl Store {
    /// Writes what is settling into the database, if anything is. Commits go on meanwhile.
    pub fn settle(&self) -> Result<(), StoreError> {
        let slot = self.shared.database.read().unwrap_or_else(PoisonError::into_inner);
        let Some(opened) = slot.as_ref() else { return Ok(()) };
        let result = opened.settle(self.shared.options.retention);
        if result.is_err() {
            opened.fail();
        }
        self.note_figures_of(opened);
        result.map(drop)
    }

    /// Has the database get everything that the journal has, if it has anything, and the log be as retention wants it at `now`;
    /// says whether there is more to remove.
    pub(super) fn checkpoint(&self, now: Timestamp) -> Result<bool, StoreError> {
        let mut state = self.lock_state();
        if self.must_reopen(&state) {
            self.reopen(&mut state)?;
        }
        let result = self.checkpoint_as(&mut state, now);
        state.failed |= result.is_err();
        self.note_figures(&state);
        result
    }

    fn checkpoint_as(&self, state: &mut WriteState, now: Timestamp) -> Result<bool, StoreError> {
        let slot = self.shared.database.read().unwrap_or_else(PoisonError::into_inner);
        let (Some(opened), Some(journal)) = (&*slot, &mut state.journal) else { return Ok(false) };
        let retention = self.shared.options.retention;
        if !opened.present().newest.is_empty() {
            opened.begin_generation(journal, now, retention)?;
        }
        let has_more = opened.settle(retention)?;
        if !has_more && !opened.has_to_trim(now, retention)? {
            return Ok(false);
        }
        opened.settle_all(None, 0, now, retention)
    }
}

impl Drop for Shared {
    /// A store that ends in good order does not need its journal: a copy of its database alone is whole.
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let opened = self.database.get_mut().unwrap_or_else(PoisonError::into_inner);
        let (Some(journal), Some(opened)) = (&state.journal, opened) else { return };
        if state.failed || opened.has_failed() {
            return;
        }
        if let Err(error) = close(opened, journal, self.options.retention) {
            tracing::warn!(%error, "the store could not be closed; it takes its newest changes from the journal when it opens");
        }
    }
}

fn close(opened: &Opened, journal: &Journal, retention: Retention) -> Result<(), StoreError> {
    let Some(settled) = journal.newest_open()? else { return Ok(()) };
    // Too old is nothing here: the next who opens it decides that.
    opened.settle_all(Some(JournalMark { settled, is_open: false }), 0, Timestamp(0), retention)?;
    Ok(())
}
