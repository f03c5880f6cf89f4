//! What a store should hold, and a comparison with what it does hold.

use std::collections::BTreeMap;

use serde_json::Value;
use starfeed::change::{Cause, Change, Document, Key, Row, Seq, Table, Timestamp};
use starfeed::store::{
    ChangePage, Committed, Condition, Direction, IfMissing, IfPresent, Index, Mutation, PageBudget, Part, Query,
    RangeQuery, RangeStart, Snapshot, Store, StoreError, Unit,
};

use crate::{INDEXES, tables};

/// What the store should hold.
#[derive(Clone, Default)]
pub(crate) struct Model {
    pub(crate) rows: BTreeMap<(Table, Key), Document>,
    /// The number of the last change of each row, also of those that are gone.
    versions: BTreeMap<(Table, Key), Seq>,
    /// All changes there ever were, but for those that were forgotten.
    history: Vec<Change>,
    last: Seq,
    /// The newest change of each table that was forgotten.
    forgotten: BTreeMap<Table, Seq>,
}

/// How far back the log of each table reaches that has changes: behind this one of them.
pub(crate) type Trimmed = BTreeMap<Table, Seq>;

/// How a store is not as it should be.
#[derive(Debug)]
pub(crate) enum Difference {
    Failed(StoreError),
    Found(String),
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Failed(error) => write!(f, "a read failed: {error}"),
            Self::Found(what) => f.write_str(what),
        }
    }
}

impl From<StoreError> for Difference {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

impl Model {
    pub(crate) fn last(&self) -> Seq {
        self.last
    }

    fn remember(&mut self, changes: impl IntoIterator<Item = Change>) {
        for change in changes {
            self.last = change.seq;
            self.versions.insert((change.table.clone(), change.key.clone()), change.seq);
            self.history.push(change);
        }
    }

    /// Forgets the changes that the log will never have again, whatever happens.
    pub(crate) fn forget(&mut self, trimmed: Trimmed) {
        for (table, upto) in trimmed {
            let of_it = |change: &Change| change.table == table && change.seq <= upto;
            if self.history.iter().any(of_it) {
                self.history.retain(|change| !of_it(change));
                self.forgotten.insert(table, upto);
            }
        }
    }

    /// Takes in one change that follows all others.
    pub(crate) fn publish(&mut self, change: Change) {
        assert_eq!(change.seq, self.last().next(), "every change is published once, in order");
        let place = (change.table.clone(), change.key.clone());
        let old = match &change.new {
            Some(document) => self.rows.insert(place, document.clone()),
            None => self.rows.remove(&place),
        };
        assert_eq!(old, change.old, "change {} has another old row than the one before it left", change.seq);
        self.remember([change]);
    }

    /// Does what a store does with `units`.
    pub(crate) fn apply(&mut self, units: &[Unit], time: Timestamp) {
        for unit in units {
            let mut rows = self.rows.clone();
            let mut history: Vec<Change> = Vec::new();
            let done = unit.iter().all(|Mutation { table, key, if_missing, if_present, .. }| {
                let place = (table.clone(), key.clone());
                let old = rows.get(&place).cloned();
                let new = match (&old, if_missing, if_present) {
                    (None, IfMissing::Refuse(_), _) | (Some(_), _, IfPresent::Refuse(_)) => return false,
                    (None, IfMissing::Ignore, _) | (Some(_), _, IfPresent::Delete) => None,
                    (None, IfMissing::Insert(document), _) | (Some(_), _, IfPresent::Replace(document)) => {
                        Some(document.clone())
                    }
                    (Some(old), _, IfPresent::Merge(patch)) => Some(merged(old, patch)),
                    (Some(_), _, IfPresent::When(..)) => panic!("no test of faults writes with a guard"),
                };
                match &new {
                    Some(document) => rows.insert(place, document.clone()),
                    None => rows.remove(&place),
                };
                if old != new {
                    let seq = Seq(self.last().0 + history.len() as u64 + 1);
                    let (table, key) = (table.clone(), key.clone());
                    let in_unit = history.iter().rev().find(|change| change.table == table && change.key == key);
                    let before = self.versions.get(&(table.clone(), key.clone())).copied();
                    let before = in_unit.map(|change| change.seq).or(before);
                    let old_version = before.filter(|_| old.is_some()).unwrap_or(Seq::ZERO);
                    history.push(Change { seq, table, key, old, old_version, new, time, cause: Cause::Write });
                }
                true
            });
            if done {
                self.rows = rows;
                self.remember(history);
            }
        }
    }

    /// Does what a store did with `units`, and compares what it said.
    pub(crate) fn acknowledge(&mut self, units: &[Unit], committed: &Committed) {
        let before = self.history.len();
        let time = committed.changes.first().map_or(Timestamp(0), |change| change.time);
        self.apply(units, time);
        assert_eq!(committed.changes, self.history[before..]);
        assert_eq!(committed.upto, self.last());
    }

    /// Compares everything; says how far the log reaches back where that is not to the first change.
    pub(crate) fn compare(&self, store: &Store) -> Result<Trimmed, Difference> {
        self.compare_rows(store)?;
        let snapshot = store.snapshot()?;
        let mut entries = 0;
        let mut all_trimmed = self.forgotten.clone();
        if store.position().seq != self.last() || snapshot.position().seq != self.last() {
            let positions = (store.position().seq, snapshot.position().seq, self.last());
            return Err(Difference::Found(format!("the positions differ: {positions:?}")));
        }
        for table in tables() {
            let history: Vec<_> = self.history.iter().filter(|change| change.table == table).cloned().collect();
            let first = self.forgotten.get(&table).copied().unwrap_or(Seq::ZERO);
            let starts: Vec<Seq> = std::iter::once(first).chain(history.iter().map(|change| change.seq)).collect();
            // As far back as the log of this table reaches; at its end nothing can be missing.
            let Some((trimmed, log)) = whole_log(store, &table, &starts)? else {
                return Err(Difference::Found(format!("the log of {table} lacks its end")));
            };
            if log != history[trimmed..] {
                let after = starts[trimmed];
                return Err(Difference::Found(format!("the log of {table} differs after {after}: {log:?}")));
            }
            entries += log.len();
            if starts[trimmed] > Seq::ZERO {
                all_trimmed.insert(table, starts[trimmed]);
            }
        }
        if snapshot.log_entries()? != entries as u64 {
            return Err(Difference::Found(format!("{entries} changes are not all that the log holds")));
        }
        Ok(all_trimmed)
    }

    /// Whether all that `store` shows is so, even if it does not show all that is.
    pub(crate) fn contains_what_is_shown(&self, store: &Store) -> Result<bool, StoreError> {
        let all = PageBudget { items: usize::MAX, bytes: usize::MAX };
        for table in tables() {
            let rows = store.snapshot()?.rows_after(&table, None, all)?.rows;
            let is_row = |row: &Row| self.rows.get(&(table.clone(), row.key.clone())) == Some(&row.document);
            let log = log_after(store, &table, Seq::ZERO)?.unwrap_or_default();
            if !rows.iter().all(is_row) || !log.iter().all(|change| self.history.contains(change)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(crate) fn compare_rows(&self, store: &Store) -> Result<(), Difference> {
        for table in tables() {
            let snapshot = store.snapshot()?;
            let mut rows: Vec<Row> = Vec::new();
            loop {
                let after = rows.last().map(|row| row.key.clone());
                let page = snapshot.rows_after(&table, after.as_ref(), PageBudget { items: 7, bytes: 100_000 })?;
                rows.extend(page.rows);
                if page.complete {
                    break;
                }
            }
            let count = snapshot.count(&table)?;
            let found: Vec<_> = rows.iter().map(|row| (&row.key, &row.document)).collect();
            let wanted: Vec<_> =
                self.rows.iter().filter(|((of, _), _)| *of == table).map(|((_, key), row)| (key, row)).collect();
            if found != wanted || count != wanted.len() as u64 {
                return Err(Difference::Found(format!(
                    "the rows of {table} differ: {found:?}, counted {count}, wanted {wanted:?}"
                )));
            }
            for index in INDEXES {
                compare_index(&snapshot, &table, index, &wanted)?;
            }
            let versions = rows.iter().all(|row| {
                let made_by = self.versions.get(&(table.clone(), row.key.clone()));
                made_by.is_some_and(|version| *version == row.version)
            });
            if !versions && self.last() == snapshot.position().seq {
                return Err(Difference::Found(format!("a version in {table} is not that of the row's last change")));
            }
        }
        Ok(())
    }
}

/// Compares an index of `table` with `rows`, which are all that it has.
fn compare_index(
    snapshot: &Snapshot,
    table: &Table,
    index: &'static Index,
    rows: &[(&Key, &Document)],
) -> Result<(), Difference> {
    let query = RangeQuery {
        table: table.clone(),
        index,
        prefix: Vec::new(),
        start: RangeStart::First,
        direction: Direction::Ascending,
        condition: Condition::Always,
        // Not a page of all, whose total the table knows without its index.
        part: Part::First(PageBudget { items: usize::MAX, bytes: usize::MAX }),
    };
    let found: Vec<Key> =
        snapshot.query(&Query::Range(query), usize::MAX)?.rows.into_iter().map(|row| row.key).collect();
    let mut wanted: Vec<_> = rows.iter().map(|(key, document)| (values(document, index), (*key).clone())).collect();
    wanted.sort();
    let wanted: Vec<Key> = wanted.into_iter().map(|(_, key)| key).collect();
    if found != wanted {
        return Err(Difference::Found(format!("{index:?} of {table} differs: {found:?}, wanted {wanted:?}")));
    }
    Ok(())
}

/// What `index` holds of a document; the tests write whole numbers and texts.
fn values(document: &Document, index: &Index) -> Vec<(u8, u64, String)> {
    let members = document.members().expect("an object");
    let value = |member: &&str| match members.get(*member) {
        Some(Value::Number(number)) => (1, number.as_u64().expect("a whole number"), String::new()),
        Some(Value::String(text)) => (2, 0, text.clone()),
        _ => (0, 0, String::new()),
    };
    index.members.iter().map(value).collect()
}

/// The log of `table` after the first of `starts` that it reaches back to, and which one that is; `None` where it reaches
/// back to none of them.
fn whole_log(store: &Store, table: &Table, starts: &[Seq]) -> Result<Option<(usize, Vec<Change>)>, StoreError> {
    let (mut trimmed, mut end) = (0, starts.len());
    while trimmed < end {
        let middle = trimmed.midpoint(end);
        let nothing = PageBudget { items: 1, bytes: 1 };
        match store.snapshot()?.changes_after(table, starts[middle], nothing)? {
            ChangePage::Trimmed => trimmed = middle + 1,
            ChangePage::Changes { .. } => end = middle,
        }
    }
    match starts.get(trimmed) {
        Some(&after) => Ok(log_after(store, table, after)?.map(|log| (trimmed, log))),
        None => Ok(None),
    }
}

/// The log of `table` after `after`, page by page; `None` where it was trimmed.
pub(crate) fn log_after(store: &Store, table: &Table, after: Seq) -> Result<Option<Vec<Change>>, StoreError> {
    let snapshot = store.snapshot()?;
    let mut log: Vec<Change> = Vec::new();
    loop {
        let from = log.last().map_or(after, |change| change.seq);
        match snapshot.changes_after(table, from, PageBudget { items: 9, bytes: 100_000 })? {
            ChangePage::Trimmed => return Ok(None),
            ChangePage::Changes { changes, complete } => {
                log.extend(changes);
                if complete {
                    return Ok(Some(log));
                }
            }
        }
    }
}

fn merged(old: &Document, patch: &Document) -> Document {
    let mut members = old.members().expect("an object");
    members.extend(patch.members().expect("an object"));
    Document::from_object(members)
}
