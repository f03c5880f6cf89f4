//! One commit: mutations become rows and numbered log entries, and what retention no longer keeps goes.

use std::collections::{BTreeSet, HashMap};
use std::sync::PoisonError;

use prost::Message;
use redb::{Database, Durability, ReadableTable, WriteTransaction};

use super::layout::{
    self, INDEX_ENTRIES, LOG, LOG_ORDER, META, META_LAST_SEQ, META_LOG_BYTES, ROWS, TABLE_NUMBERS, TABLES, TableRecord,
};
use super::tables::Tables;
use super::{
    Committed, Mutation, Outcome, Retention, Store, StoreError, TableIndexes, Unit, UnitResult, WriteState, index,
};
use crate::change::{Cause, Change, Document, Key, Seq, Table, Timestamp};
use crate::planted::PlantedBug;

/// Removed from the log in one commit, beside as many as it adds: retention must not make a commit long.
const TRIMMED_PER_COMMIT: usize = 512;

pub(super) fn begin(database: &Database) -> Result<WriteTransaction, StoreError> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate).map_err(|error| StoreError::Disk(error.to_string()))?;
    // Two phases and a recorded allocator: a crash at any instant loses no commit, and opening takes no scan of the file.
    transaction.set_quick_repair(true);
    Ok(transaction)
}

impl Store {
    pub(super) fn write_transaction(
        &self,
        state: &mut WriteState,
        now: Timestamp,
        units: &[Unit],
    ) -> Result<Committed, StoreError> {
        let slot = self.shared.database.read().unwrap_or_else(PoisonError::into_inner);
        let opened = slot.as_ref().ok_or_else(|| StoreError::Disk("it cannot be read".to_owned()))?;
        let transaction = begin(&opened.database)?;
        // Worked on as a copy: what is in memory changes only once the disk has it.
        let mut work = Work {
            tables: state.tables.clone(),
            indexes: &self.shared.options.indexes,
            touched: BTreeSet::new(),
            last_seq: state.last_seq,
            log_bytes: state.log_bytes,
            changes: Vec::new(),
        };
        let results = work.apply(&transaction, now, units)?;
        let trimmed = work.trim(&transaction, now, self.shared.options.retention, state.last_seq)?;
        if work.last_seq == state.last_seq && !trimmed {
            transaction.abort()?;
        } else {
            work.finish(&transaction)?;
            let result = transaction.commit();
            if !PlantedBug::PublishedBeforeDurable.is_planted() {
                result?;
            }
        }
        state.tables = work.tables;
        state.last_seq = work.last_seq;
        state.log_bytes = work.log_bytes;
        let mut changes = std::mem::take(&mut state.recovered);
        changes.extend(work.changes);
        Ok(Committed { changes, results, upto: state.last_seq, trimmed })
    }
}

struct Work<'a> {
    tables: Tables,
    /// The indexes that new tables get.
    indexes: &'a [TableIndexes],
    touched: BTreeSet<u32>,
    last_seq: Seq,
    log_bytes: u64,
    changes: Vec<Change>,
}

type RowTable<'a> = redb::Table<'a, (u32, &'static [u8]), &'static [u8]>;

impl Work<'_> {
    fn apply(
        &mut self,
        transaction: &WriteTransaction,
        now: Timestamp,
        units: &[Unit],
    ) -> Result<Vec<UnitResult>, StoreError> {
        let mut rows = transaction.open_table(ROWS)?;
        let mut entries = transaction.open_table(INDEX_ENTRIES)?;
        let mut log = transaction.open_table(LOG)?;
        let mut order = transaction.open_table(LOG_ORDER)?;
        let mut results = Vec::with_capacity(units.len());
        for unit in units {
            let drafts = match self.draft(&rows, unit)? {
                Ok(drafts) => drafts,
                Err(refusal) => {
                    results.push(Err(refusal));
                    continue;
                }
            };
            results.push(Ok(drafts.iter().map(Draft::outcome).collect()));
            // The number that each draft of the unit got; those that change nothing get none, and nobody refers to them.
            let mut numbers = Vec::with_capacity(drafts.len());
            for draft in drafts {
                if draft.outcome() == Outcome::Unchanged {
                    numbers.push(Seq::ZERO);
                    continue;
                }
                let number = self.number(transaction, &draft.table)?;
                let change = self.numbered(draft, now, &numbers);
                numbers.push(change.seq);
                write_row(&mut rows, number, &change)?;
                index::follow(&mut entries, number, &self.tables.record(number)?.indexes, &change)?;
                if change.cause == Cause::Load {
                    self.count(number, &change, 0)?;
                    // Whoever needs what was before it has to begin anew.
                    self.tables.record_mut(number)?.trimmed_to = change.seq.0;
                    continue;
                }
                let value = layout::encode_change(number, &change);
                log.insert((number, change.seq.0), value.as_slice())?;
                let bytes = u32::try_from(value.len()).unwrap_or(u32::MAX);
                order.insert(change.seq.0, (number, bytes, now.0))?;
                self.count(number, &change, bytes)?;
                self.changes.push(change);
            }
        }
        Ok(results)
    }

    /// What `unit` would do, nothing of it written yet; the inner error is its refusal.
    fn draft(&self, rows: &RowTable<'_>, unit: &Unit) -> Result<Result<Vec<Draft>, String>, StoreError> {
        let mut drafts: Vec<Draft> = Vec::with_capacity(unit.len());
        let mut newest: HashMap<(&Table, &Key), (Option<Document>, Version)> = HashMap::new();
        for mutation in unit {
            let Mutation { table, key, .. } = mutation;
            let (old, old_version) = match newest.get(&(table, key)) {
                Some(current) => current.clone(),
                None => self.current(rows, table, key)?,
            };
            match mutation.apply(old.as_ref()) {
                Err(refusal) => return Ok(Err(refusal)),
                Ok(new) => {
                    let (table, key, cause) = (table.clone(), key.clone(), mutation.cause);
                    let draft = Draft { table, key, old, old_version, new, cause };
                    let is_change = draft.outcome() != Outcome::Unchanged;
                    let version = if is_change { Version::OfDraft(drafts.len()) } else { old_version };
                    newest.insert((&mutation.table, &mutation.key), (draft.new.clone(), version));
                    drafts.push(draft);
                }
            }
        }
        Ok(Ok(drafts))
    }

    fn current(
        &self,
        rows: &RowTable<'_>,
        table: &Table,
        key: &Key,
    ) -> Result<(Option<Document>, Version), StoreError> {
        let absent = (None, Version::Stored(Seq::ZERO));
        let Some(number) = self.tables.known_number(table) else {
            return Ok(absent);
        };
        let Some(value) = rows.get((number, key.as_bytes()))? else {
            return Ok(absent);
        };
        let row = layout::decode_row(number, key.as_bytes(), value.value())?;
        Ok((Some(row.document), Version::Stored(row.version)))
    }

    fn number(&mut self, transaction: &WriteTransaction, table: &Table) -> Result<u32, StoreError> {
        let (number, new) = self.tables.number(table, self.indexes);
        if new {
            transaction.open_table(TABLE_NUMBERS)?.insert(table.path(), number)?;
        }
        Ok(number)
    }

    fn numbered(&mut self, draft: Draft, now: Timestamp, earlier: &[Seq]) -> Change {
        self.last_seq = self.last_seq.next();
        let old_version = match draft.old_version {
            _ if draft.old.is_none() => Seq::ZERO,
            Version::Stored(seq) => seq,
            Version::OfDraft(at) => earlier[at],
        };
        Change {
            seq: self.last_seq,
            table: draft.table,
            key: draft.key,
            old: draft.old,
            old_version,
            new: draft.new,
            time: now,
            cause: draft.cause,
        }
    }

    fn count(&mut self, number: u32, change: &Change, bytes: u32) -> Result<(), StoreError> {
        self.touched.insert(number);
        self.log_bytes += u64::from(bytes);
        let record = self.tables.record_mut(number)?;
        match (&change.old, &change.new) {
            (None, Some(_)) => record.rows += 1,
            (Some(_), None) => record.rows -= 1,
            _ => {}
        }
        Ok(())
    }

    /// Removes the oldest changes until the log is as retention wants it, a bounded number at a time; says whether it removed any.
    fn trim(
        &mut self,
        transaction: &WriteTransaction,
        now: Timestamp,
        retention: Retention,
        confirmed: Seq,
    ) -> Result<bool, StoreError> {
        let mut order = transaction.open_table(LOG_ORDER)?;
        let mut log = transaction.open_table(LOG)?;
        let oldest_kept_ms = now.0.saturating_sub(retention.age_ms);
        let mut trimmed = false;
        for _ in 0..TRIMMED_PER_COMMIT + self.changes.len() {
            let Some((seq, number, bytes, time_ms)) = order.first()?.map(|(seq, place)| {
                let (number, bytes, time_ms) = place.value();
                (seq.value(), number, bytes, time_ms)
            }) else {
                break;
            };
            if self.log_bytes <= retention.bytes && time_ms >= oldest_kept_ms {
                break;
            }
            // A commit keeps what it adds: if it fails and is on disk all the same, the log is what tells so.
            if seq > confirmed.0 {
                break;
            }
            order.remove(seq)?;
            log.remove((number, seq))?;
            self.log_bytes = self.log_bytes.saturating_sub(u64::from(bytes));
            self.tables.record_mut(number)?.trimmed_to = seq;
            self.touched.insert(number);
            trimmed = true;
        }
        Ok(trimmed)
    }

    fn finish(&mut self, transaction: &WriteTransaction) -> Result<(), StoreError> {
        let mut tables = transaction.open_table(TABLES)?;
        for &number in &self.touched {
            let record: &TableRecord = self.tables.record_mut(number)?;
            tables.insert(number, record.encode_to_vec().as_slice())?;
        }
        let mut meta = transaction.open_table(META)?;
        meta.insert(META_LAST_SEQ, self.last_seq.0.to_le_bytes().as_slice())?;
        meta.insert(META_LOG_BYTES, self.log_bytes.to_le_bytes().as_slice())?;
        Ok(())
    }
}

struct Draft {
    table: Table,
    key: Key,
    old: Option<Document>,
    old_version: Version,
    new: Option<Document>,
    cause: Cause,
}

/// The change that made a row what it is.
#[derive(Clone, Copy)]
enum Version {
    /// One that is in the store.
    Stored(Seq),
    /// The draft with this index in the same unit, which has no number yet.
    OfDraft(usize),
}

impl Draft {
    fn outcome(&self) -> Outcome {
        match (&self.old, &self.new) {
            (None, Some(_)) => Outcome::Added,
            (Some(_), None) => Outcome::Deleted,
            (None, None) => Outcome::Unchanged,
            (Some(old), Some(new)) if old == new => Outcome::Unchanged,
            (Some(_), Some(_)) => Outcome::Updated,
        }
    }
}

fn write_row(rows: &mut RowTable<'_>, number: u32, change: &Change) -> Result<(), StoreError> {
    let place = (number, change.key.as_bytes());
    match &change.new {
        Some(document) => {
            rows.insert(place, layout::encode_row(number, &change.key, change.seq, document).as_slice())?
        }
        None => rows.remove(place)?,
    };
    Ok(())
}
