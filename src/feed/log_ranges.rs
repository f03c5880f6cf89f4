//! Parts of the logs of tables that were read for somebody who is behind, and serve others who are about as far behind.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Published;
use super::shelf::Shelf;
use crate::change::{Seq, Table};
use crate::metrics::Metrics;
use crate::planted::PlantedBug;
use crate::store::{ChangePage, PageBudget, Snapshot, StoreError};
use crate::view::{Secret, View};

/// What a range costs beside its changes.
const RANGE_OVERHEAD: usize = 256;

/// Names a range: the table, what is secret in it, and the change behind which the range begins.
type RangeKey = (Table, &'static [Secret], Seq);

/// Changes of one table that follow each other: all of them from where it begins up to `upto`.
#[derive(Debug)]
struct LogRange {
    changes: Vec<Arc<Published>>,
    upto: Seq,
}

/// Changes that were found in the log: all of the table up to `reached`.
pub(super) struct LogPart {
    pub(super) changes: Vec<Arc<Published>>,
    pub(super) reached: Seq,
}

/// The ranges that are kept. Whoever is behind begins at any change, but ends where a range ends: so those who begin in the same region
/// soon read the same ranges.
#[derive(Debug)]
pub(super) struct LogRanges {
    kept: Mutex<Shelf<RangeKey, Arc<LogRange>>>,
    /// Held while a range of the table is read: who needs the same one waits for it.
    reading: Mutex<HashMap<Table, Arc<Mutex<()>>>>,
    /// What a range holds.
    budget: PageBudget,
}

impl LogRanges {
    pub(super) fn new(bytes_max: usize, idle_ms: u64, budget: PageBudget) -> Self {
        Self { kept: Mutex::new(Shelf::new(bytes_max, idle_ms)), reading: Mutex::default(), budget }
    }

    pub(super) fn bytes(&self) -> usize {
        locked(&self.kept).bytes()
    }

    pub(super) fn is_empty(&self) -> bool {
        locked(&self.kept).is_empty()
    }

    pub(super) fn tick(&self, now_ms: u64) {
        locked(&self.kept).tick(now_ms);
    }

    /// The changes of the table of `view` that follow `after`, as `snapshot` has them; `None` where retention has removed
    /// some. They are all up to the position of the snapshot if that is reached. This may wait for the disk.
    pub(super) fn after(
        &self,
        snapshot: &Snapshot,
        view: &View,
        after: Seq,
        budget: PageBudget,
        metrics: &Metrics,
    ) -> Result<Option<LogPart>, StoreError> {
        let position = snapshot.position().seq;
        if after >= position {
            return Ok(Some(LogPart { changes: Vec::new(), reached: after }));
        }
        let key = (view.table.clone(), view.secrets, after);
        let range = match self.find(&key) {
            Some(range) => range,
            None => {
                let gate = Arc::clone(locked(&self.reading).entry(view.table.clone()).or_default());
                let _reading = locked(&gate);
                match self.find(&key) {
                    Some(range) => range,
                    None => {
                        metrics.log_ranges_read.inc();
                        let Some(range) = self.read(snapshot, key)? else { return Ok(None) };
                        return Ok(Some(part_of(&range, after, position, budget)));
                    }
                }
            }
        };
        metrics.log_ranges_shared.inc();
        Ok(Some(part_of(&range, after, position, budget)))
    }

    /// A range that has what follows.
    fn find(&self, key: &RangeKey) -> Option<Arc<LogRange>> {
        let mut kept = locked(&self.kept);
        let (start, range) = kept.last_upto(key)?;
        let is_here = (&start.0, start.1) == (&key.0, key.1) && key.2 < range.upto;
        let (start, range) = is_here.then(|| (start.clone(), Arc::clone(range)))?;
        kept.take_up(&start);
        Some(range)
    }

    fn read(&self, snapshot: &Snapshot, key: RangeKey) -> Result<Option<Arc<LogRange>>, StoreError> {
        let (table, secrets, after) = &key;
        let (changes, complete) = match snapshot.changes_after(table, *after, self.budget)? {
            ChangePage::Trimmed => return Ok(None),
            ChangePage::Changes { changes, complete } => (changes, complete),
        };
        let last = changes.last().map_or(*after, |last| last.seq);
        let mut upto = if complete { snapshot.position().seq } else { last };
        let mut changes: Vec<Arc<Published>> =
            changes.into_iter().map(|change| Published::new(change, secrets)).collect();
        let mut kept = locked(&self.kept);
        // It ends where the next one begins, and from there on everybody goes the same way.
        if let Some((other, other_secrets, start)) = kept.first_behind(&key)
            && (other, *other_secrets) == (table, *secrets)
            && *start < upto
        {
            if !PlantedBug::LogRangeClaimsMoreThanItHas.is_planted() {
                upto = *start;
            }
            changes.truncate(changes.partition_point(|published| published.seq() <= *start));
        }
        let bytes: usize = changes.iter().map(|published| published.size()).sum();
        let range = Arc::new(LogRange { changes, upto });
        if !range.changes.is_empty() {
            kept.put(key, Arc::clone(&range), bytes + RANGE_OVERHEAD);
        }
        Ok(Some(range))
    }
}

/// What follows `after` in `range` up to `position`, as much as fits; at least one change where there is one.
fn part_of(range: &LogRange, after: Seq, position: Seq, mut budget: PageBudget) -> LogPart {
    let first = range.changes.partition_point(|published| published.seq() <= after);
    let end = range.changes.partition_point(|published| published.seq() <= position);
    let mut part = LogPart { changes: Vec::with_capacity(end - first), reached: range.upto.min(position) };
    for published in &range.changes[first..end] {
        if budget.items == 0 || budget.bytes == 0 {
            part.reached = part.changes.last().map_or(after, |last| last.seq());
            break;
        }
        part.changes.push(Arc::clone(published));
        budget.items -= 1;
        budget.bytes = budget.bytes.saturating_sub(published.size());
    }
    part
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
