//! One commit: mutations become numbered changes, which last before anybody sees them.

use std::collections::HashMap;
use std::sync::PoisonError;

use foldhash::fast::RandomState;

use super::journal::{JournaledChange, Record, RecordBytes};
use super::recovery::Opened;
use super::{
    Committed, Mutation, Outcome, Retention, Snapshot, Store, StoreError, TableIndexes, Unit, UnitResult, WriteState,
};
use crate::change::{Cause, Change, Document, Key, Seq, Table, Timestamp};
use crate::planted::PlantedBug;

/// Removed from the log of a store in memory in one commit, beside as many as it adds: retention must not make a commit long.
const TRIMMED_PER_COMMIT: usize = 512;

/// So many changes are made while readers wait; of more, in memory, a copy is made that has them. With a journal they are no
/// more than what has room in that.
const APPLIED_IN_PLACE: usize = 1024;

/// A record has no rows as they were, which memory has: so many times as large as a generation of the journal may be what is in
/// memory above the database.
const MEMORY_PER_JOURNAL_BYTE: u64 = 8;

impl Store {
    pub(super) fn write(
        &self,
        state: &mut WriteState,
        now: Timestamp,
        units: &[Unit],
    ) -> Result<Committed, StoreError> {
        let slot = self.shared.database.read().unwrap_or_else(PoisonError::into_inner);
        let opened = slot.as_ref().ok_or_else(|| StoreError::Disk("it cannot be read".to_owned()))?;
        let options = &self.shared.options;
        // A copy: nobody has to wait for a large unit. It is gone when the changes are made, or that would copy as well.
        let before = opened.present().clone();
        let work = Work::apply(&before, now, units)?;
        drop(before);
        if !work.changes.is_empty() {
            let commit = Commit { opened, now, changes: &work.changes, indexes: &options.indexes };
            commit.make(state, options.retention)?;
        }
        let mut trimmed = false;
        if state.journal.is_none() {
            let at_once = TRIMMED_PER_COMMIT + work.changes.len();
            trimmed = opened.present_mut().trim(now, options.retention, work.before, at_once)?;
        }
        let present = opened.present();
        let mut changes = std::mem::take(&mut state.recovered);
        changes.extend(work.changes.into_iter().filter(|change| change.cause != Cause::Load));
        Ok(Committed {
            changes,
            results: work.results,
            upto: present.position.seq,
            trimmed,
            must_settle: present.settling.is_some(),
        })
    }
}

/// Changes that are to be made.
struct Commit<'a> {
    opened: &'a Opened,
    now: Timestamp,
    changes: &'a [Change],
    indexes: &'a [TableIndexes],
}

impl Commit<'_> {
    /// Has them last, and then be seen.
    fn make(&self, state: &mut WriteState, retention: Retention) -> Result<(), StoreError> {
        if let Some(journal) = &mut state.journal {
            let mut record = Record::new(self.now);
            self.changes.iter().for_each(|change| record.push(change));
            let is_too_large = !journal.has_room_for(&record);
            if PlantedBug::CheckpointForgetsJournal.is_planted() && !is_too_large && !journal.takes(&record) {
                journal.forget();
            }
            let newest_bytes = self.opened.present().newest.bytes();
            let has_much = newest_bytes > journal.room().saturating_mul(MEMORY_PER_JOURNAL_BYTE);
            if !journal.is_begun() || has_much || (!is_too_large && !journal.takes(&record)) {
                self.opened.begin_generation(journal, self.now, retention)?;
            }
            if is_too_large {
                let ahead = |present: &mut Snapshot| present.apply(self.changes, self.indexes);
                return self.opened.settle_with(journal, ahead, self.now, retention);
            }
            let appended = journal.append(record);
            if !PlantedBug::PublishedBeforeDurable.is_planted() {
                appended?;
            }
        }
        // Not before: what a reader has seen must never be gone.
        if state.journal.is_none() && self.changes.len() > APPLIED_IN_PLACE {
            let mut ahead = self.opened.present().clone();
            ahead.apply(self.changes, self.indexes)?;
            self.opened.replace_present(ahead);
            return Ok(());
        }
        self.opened.present_mut().apply(self.changes, self.indexes)
    }
}

/// Makes the changes of `records` happen again: the rows are what they were when those were written.
pub(super) fn redo(
    present: &mut Snapshot,
    indexes: &[TableIndexes],
    records: &[RecordBytes],
) -> Result<(), StoreError> {
    for record in records {
        for JournaledChange { table, key, old_version, new, cause } in record.changes()? {
            let seq = present.position.seq.next();
            let (old, version) = current(present, &table, &key)?;
            if version != old_version {
                return Err(StoreError::Damaged(format!("change {seq} in its journal is one of another row")));
            }
            let change = Change { seq, table, key, old, old_version, new, time: record.time(), cause };
            present.apply(&[change], indexes)?;
        }
    }
    Ok(())
}

fn current(store: &Snapshot, table: &Table, key: &Key) -> Result<Present, StoreError> {
    let number = store.tables.known_number(table);
    let found = number.map(|number| store.document(number, key)).transpose()?.flatten();
    Ok(found.map_or((None, Seq::ZERO), |(version, document)| (Some(document), version)))
}

/// A row, if it is there, and the change that made it what it is.
type Present = (Option<Document>, Seq);

/// What units do, before any of it has happened.
struct Work<'a> {
    store: &'a Snapshot,
    now: Timestamp,
    /// The rows that those before have changed, and what they are then; not needed for a single mutation.
    pending: Option<HashMap<(&'a Table, &'a Key), Present, RandomState>>,
    last: Seq,
    changes: Vec<Change>,
}

/// What units have done.
struct Done {
    /// The newest change before them.
    before: Seq,
    changes: Vec<Change>,
    results: Vec<UnitResult>,
}

impl<'a> Work<'a> {
    /// Finds out what `units` change in `store`, one after the other.
    fn apply(store: &'a Snapshot, now: Timestamp, units: &'a [Unit]) -> Result<Done, StoreError> {
        let before = store.position.seq;
        let is_single = matches!(units, [unit] if unit.len() == 1);
        let pending = (!is_single).then(HashMap::default);
        let mut work = Self { store, now, pending, last: before, changes: Vec::with_capacity(units.len()) };
        let results = units.iter().map(|unit| work.unit(unit)).collect::<Result<Vec<_>, StoreError>>()?;
        Ok(Done { before, changes: work.changes, results })
    }

    /// The inner error is the refusal of the unit.
    fn unit(&mut self, unit: &'a Unit) -> Result<UnitResult, StoreError> {
        let drafts = match self.draft(unit)? {
            Ok(drafts) => drafts,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let outcomes = drafts.iter().map(Draft::outcome).collect();
        // The number that each draft of the unit got; those that change nothing get none, and nobody refers to them.
        let mut numbers = Vec::with_capacity(drafts.len());
        for (draft, mutation) in drafts.into_iter().zip(unit) {
            if draft.outcome() == Outcome::Unchanged {
                numbers.push(Seq::ZERO);
                continue;
            }
            let change = self.numbered(draft, mutation, &numbers);
            numbers.push(change.seq);
            if let Some(pending) = &mut self.pending {
                pending.insert((&mutation.table, &mutation.key), (change.new.clone(), change.seq));
            }
            self.changes.push(change);
        }
        Ok(Ok(outcomes))
    }

    /// What `unit` would do; the inner error is its refusal.
    fn draft(&self, unit: &'a Unit) -> Result<Result<Vec<Draft>, String>, StoreError> {
        let mut drafts: Vec<Draft> = Vec::with_capacity(unit.len());
        let mut newest: HashMap<(&Table, &Key), (Option<Document>, Version), RandomState> = HashMap::default();
        for mutation in unit {
            let Mutation { table, key, .. } = mutation;
            let (old, old_version) = match newest.get(&(table, key)) {
                Some(current) => current.clone(),
                None => self.current(table, key)?,
            };
            match mutation.apply(old.as_ref()) {
                Err(refusal) => return Ok(Err(refusal)),
                Ok(new) => {
                    let draft = Draft { old, old_version, new };
                    let is_change = draft.outcome() != Outcome::Unchanged;
                    let version = if is_change { Version::OfDraft(drafts.len()) } else { old_version };
                    if unit.len() > 1 {
                        newest.insert((table, key), (draft.new.clone(), version));
                    }
                    drafts.push(draft);
                }
            }
        }
        Ok(Ok(drafts))
    }

    fn current(&self, table: &'a Table, key: &'a Key) -> Result<(Option<Document>, Version), StoreError> {
        let pending = self.pending.as_ref().and_then(|pending| pending.get(&(table, key)));
        let (document, version) = match pending {
            Some(pending) => pending.clone(),
            None => current(self.store, table, key)?,
        };
        Ok((document, Version::Stored(version)))
    }

    fn numbered(&mut self, draft: Draft, mutation: &Mutation, earlier: &[Seq]) -> Change {
        self.last = self.last.next();
        let old_version = match draft.old_version {
            _ if draft.old.is_none() => Seq::ZERO,
            Version::Stored(seq) => seq,
            Version::OfDraft(at) => earlier[at],
        };
        Change {
            seq: self.last,
            table: mutation.table.clone(),
            key: mutation.key.clone(),
            old: draft.old,
            old_version,
            new: draft.new,
            time: self.now,
            cause: mutation.cause,
        }
    }
}

/// What becomes of one row.
struct Draft {
    old: Option<Document>,
    old_version: Version,
    new: Option<Document>,
}

/// The change that made a row what it is.
#[derive(Clone, Copy)]
enum Version {
    /// One of an earlier unit, or of the store.
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
