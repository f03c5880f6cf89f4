//! One commit: mutations become rows and numbered log entries, and what retention no longer keeps goes.

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::PoisonError;

use prost::Message;
use redb::{CursorError, Database, Durability, ReadableTable, WriteTransaction};

use super::durability;
use super::index::EntryTable;
use super::journal::{JournaledChange, Record, RecordBytes};
use super::layout::{
    self, INDEX_ENTRIES, LOG, LOG_ORDER, META, META_LAST_SEQ, META_LOG_BYTES, ROWS, TABLE_NUMBERS, TABLES,
};
use super::recovery::Loaded;
use super::tables::Tables;
use super::{
    Committed, Mutation, Outcome, Retention, Store, StoreError, TableIndexes, Unit, UnitResult, WriteState, index,
};
use crate::change::{Cause, Change, Document, Key, Seq, Table, Timestamp};
use crate::planted::PlantedBug;

/// Removed from the log in one commit, beside as many as it adds: retention must not make a commit long.
const TRIMMED_PER_COMMIT: usize = 512;

impl Store {
    pub(super) fn write_transaction(
        &self,
        state: &mut WriteState,
        now: Timestamp,
        units: &[Unit],
    ) -> Result<Committed, StoreError> {
        let slot = self.shared.database.read().unwrap_or_else(PoisonError::into_inner);
        let opened = slot.as_ref().ok_or_else(|| StoreError::Disk("it cannot be read".to_owned()))?;
        let transaction = opened.database.begin_write()?;
        // Worked on as a copy: what is in memory changes only once the disk has it.
        let mut work = Work {
            tables: state.tables.clone(),
            indexes: &self.shared.options.indexes,
            touched: BTreeSet::new(),
            last_seq: state.last_seq,
            log_bytes: state.log_bytes,
            changes: Vec::new(),
        };
        let mut record = Record::new(now);
        let (results, trimmed) = {
            let mut open = Open::new(&transaction)?;
            let results = work.apply(&mut open, now, units, &mut record)?;
            (results, work.trim(&mut open, now, self.shared.options.retention, state.last_seq)?)
        };
        if work.last_seq == state.last_seq && !trimmed {
            transaction.abort()?;
        } else {
            work.finish(&transaction)?;
            let result = state.lasting.commit(opened, &mut state.unsettled, transaction, record);
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

/// Does again what `records` say, in memory: the journal still has it.
pub(super) fn redo(
    database: &Database,
    loaded: &mut Loaded,
    indexes: &[TableIndexes],
    records: &[RecordBytes],
) -> Result<(), StoreError> {
    let mut transaction = database.begin_write()?;
    durability::set_durability(&mut transaction, Durability::None)?;
    let mut work = Work {
        tables: std::mem::take(&mut loaded.tables),
        indexes,
        touched: BTreeSet::new(),
        last_seq: loaded.last_seq,
        log_bytes: loaded.log_bytes,
        changes: Vec::new(),
    };
    {
        let mut open = Open::new(&transaction)?;
        records.iter().try_for_each(|record| work.redo(&mut open, record))?;
    }
    work.finish(&transaction)?;
    transaction.commit()?;
    (loaded.tables, loaded.last_seq, loaded.log_bytes) = (work.tables, work.last_seq, work.log_bytes);
    Ok(())
}

struct Work<'a> {
    tables: Tables,
    /// The indexes that new tables get.
    indexes: &'a [TableIndexes],
    /// Tables whose record is another one now.
    touched: BTreeSet<u32>,
    last_seq: Seq,
    log_bytes: u64,
    changes: Vec<Change>,
}

type RowTable<'a> = redb::Table<'a, (u32, &'static [u8]), &'static [u8]>;

/// What nearly every commit writes to; opening a table is half of what a change in it costs.
struct Open<'a> {
    transaction: &'a WriteTransaction,
    rows: RowTable<'a>,
    log: redb::Table<'a, (u32, u64), &'static [u8]>,
    order: redb::Table<'a, u64, (u32, u32, u64)>,
    /// Opened for the first change of a table that has indexes.
    entries: Option<EntryTable<'a>>,
}

impl<'a> Open<'a> {
    fn new(transaction: &'a WriteTransaction) -> Result<Self, StoreError> {
        Ok(Self {
            transaction,
            rows: transaction.open_table(ROWS)?,
            log: transaction.open_table(LOG)?,
            order: transaction.open_table(LOG_ORDER)?,
            entries: None,
        })
    }

    fn entries(&mut self) -> Result<&mut EntryTable<'a>, StoreError> {
        match &mut self.entries {
            Some(entries) => Ok(entries),
            closed @ None => Ok(closed.insert(self.transaction.open_table(INDEX_ENTRIES)?)),
        }
    }
}

impl Work<'_> {
    /// Makes what `units` want happen, and has `record` say so.
    fn apply(
        &mut self,
        open: &mut Open<'_>,
        now: Timestamp,
        units: &[Unit],
        record: &mut Record,
    ) -> Result<Vec<UnitResult>, StoreError> {
        let mut results = Vec::with_capacity(units.len());
        let mut entries = Vec::with_capacity(units.len());
        for unit in units {
            let drafts = match self.draft(&open.rows, unit)? {
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
                let change = self.numbered(draft, now, &numbers);
                numbers.push(change.seq);
                record.push(&change);
                entries.extend(self.enter(open, change)?);
            }
        }
        append(open, entries, now)?;
        Ok(results)
    }

    /// Makes `change` happen: what is left to do is its entry in the log, if it has one.
    fn enter(&mut self, open: &mut Open<'_>, change: Change) -> Result<Option<LogEntry>, StoreError> {
        let number = self.number(open.transaction, &change.table)?;
        write_row(&mut open.rows, number, &change)?;
        let indexes = &self.tables.record(number)?.indexes;
        if !indexes.is_empty() {
            index::follow(open.entries()?, number, indexes, &change)?;
        }
        if change.cause == Cause::Load {
            self.count(number, &change, 0)?;
            // Whoever needs what was before it has to begin anew.
            self.tables.record_mut(number)?.trimmed_to = change.seq.0;
            self.touched.insert(number);
            return Ok(None);
        }
        let entry = LogEntry { number, seq: change.seq, value: layout::encode_change(number, &change) };
        self.count(number, &change, entry.bytes())?;
        self.changes.push(change);
        Ok(Some(entry))
    }

    /// Makes the changes of a record happen again; the rows are what they were when it was written.
    fn redo(&mut self, open: &mut Open<'_>, record: &RecordBytes) -> Result<(), StoreError> {
        let mut entries = Vec::new();
        for JournaledChange { table, key, old_version, new, cause } in record.changes()? {
            let seq = self.last_seq.next();
            let (old, version) = self.current(&open.rows, &table, &key)?;
            if !matches!(version, Version::Stored(version) if version == old_version) {
                return Err(StoreError::Damaged(format!("change {seq} in its journal is one of another row")));
            }
            self.last_seq = seq;
            let change = Change { seq, table, key, old, old_version, new, time: record.time(), cause };
            entries.extend(self.enter(open, change)?);
        }
        append(open, entries, record.time())?;
        // They were told of when they were made, or are read from the log.
        self.changes.clear();
        Ok(())
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
                    if unit.len() > 1 {
                        newest.insert((&mutation.table, &mutation.key), (draft.new.clone(), version));
                    }
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
        let (version, document) = layout::decode_document(number, key.as_bytes(), value.value())?;
        Ok((Some(document), Version::Stored(version)))
    }

    fn number(&mut self, transaction: &WriteTransaction, table: &Table) -> Result<u32, StoreError> {
        let (number, new) = self.tables.number(table, self.indexes);
        if new {
            transaction.open_table(TABLE_NUMBERS)?.insert(table.path(), number)?;
            self.touched.insert(number);
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
        self.log_bytes += u64::from(bytes);
        match (&change.old, &change.new) {
            (None, Some(_)) => self.tables.record_mut(number)?.rows += 1,
            (Some(_), None) => self.tables.record_mut(number)?.rows -= 1,
            // The record of the table stays as it is.
            _ => return Ok(()),
        }
        self.touched.insert(number);
        Ok(())
    }

    /// Removes the oldest changes until the log is as retention wants it, a bounded number at a time; says whether it removed any.
    fn trim(
        &mut self,
        open: &mut Open<'_>,
        now: Timestamp,
        retention: Retention,
        confirmed: Seq,
    ) -> Result<bool, StoreError> {
        let oldest_kept_ms = now.0.saturating_sub(retention.age_ms);
        let mut trimmed = false;
        for _ in 0..TRIMMED_PER_COMMIT + self.changes.len() {
            let Some((seq, number, bytes, time_ms)) = open.order.first()?.map(|(seq, place)| {
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
            open.order.remove(seq)?;
            open.log.remove((number, seq))?;
            self.log_bytes = self.log_bytes.saturating_sub(u64::from(bytes));
            self.tables.record_mut(number)?.trimmed_to = seq;
            self.touched.insert(number);
            trimmed = true;
        }
        Ok(trimmed)
    }

    fn finish(&self, transaction: &WriteTransaction) -> Result<(), StoreError> {
        if !self.touched.is_empty() {
            let mut tables = transaction.open_table(TABLES)?;
            for &number in &self.touched {
                tables.insert(number, self.tables.record(number)?.encode_to_vec().as_slice())?;
            }
        }
        let mut meta = transaction.open_table(META)?;
        meta.insert(META_LAST_SEQ, self.last_seq.0.to_le_bytes().as_slice())?;
        meta.insert(META_LOG_BYTES, self.log_bytes.to_le_bytes().as_slice())?;
        Ok(())
    }
}

/// A change as the log keeps it.
struct LogEntry {
    number: u32,
    seq: Seq,
    value: Vec<u8>,
}

impl LogEntry {
    fn bytes(&self) -> u32 {
        u32::try_from(self.value.len()).unwrap_or(u32::MAX)
    }
}

/// Puts `entries`, which are in the order of their positions, behind all that are in the log. A cursor fills one page after
/// the other, where an insertion would look for its place from the root.
fn append(open: &mut Open<'_>, mut entries: Vec<LogEntry>, now: Timestamp) -> Result<(), StoreError> {
    let not_behind = |error: CursorError| match error {
        CursorError::Storage(error) => error.into(),
        other => StoreError::Damaged(format!("the log has changes from beyond its end: {other}")),
    };
    let mut order = open.order.upper_bound_mut(Bound::<u64>::Unbounded)?;
    for entry in &entries {
        order.insert_before(entry.seq.0, (entry.number, entry.bytes(), now.0)).map_err(not_behind)?;
    }
    order.close()?;
    // The sort keeps the order within a table.
    entries.sort_by_key(|entry| entry.number);
    for of_table in entries.chunk_by(|entry, next| entry.number == next.number) {
        let end = Bound::Included((of_table[0].number, u64::MAX));
        let mut log = open.log.upper_bound_mut(end)?;
        for entry in of_table {
            log.insert_before((entry.number, entry.seq.0), entry.value.as_slice()).map_err(not_behind)?;
        }
        log.close()?;
    }
    Ok(())
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
