//! The store at one position: rows and log as they were after one change, whatever is written meanwhile.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use redb::{ReadOnlyTable, ReadTransaction, ReadableTableMetadata};

use super::layout::{self, LOG, ROWS, TABLE_NUMBERS, TABLES, TableRecord};
use super::query::{Order, Query, QueryResult};
use super::row_block::{BlockRow, RowBlock, RowBlockBuilder};
use super::{Store, StoreError, Tables};
use crate::change::{Change, Document, Key, Position, Row, Seq, Table};
use crate::planted::PlantedBug;

/// How much one page may hold; a page has at least one item where there is one.
#[derive(Clone, Copy, Debug)]
pub struct PageBudget {
    /// Rows or changes.
    pub items: usize,
    /// Bytes of rows or changes.
    pub bytes: usize,
}

impl PageBudget {
    /// Takes one item away; says whether there is room for another.
    pub(super) fn spend(&mut self, bytes: usize) -> bool {
        self.items = self.items.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
        self.items > 0 && self.bytes > 0
    }
}

/// Rows in key order.
#[derive(Clone, Debug, Default)]
pub struct RowPage {
    /// The rows.
    pub rows: Vec<Row>,
    /// Whether no row follows.
    pub complete: bool,
}

/// Changes of one table in the order of their positions.
#[derive(Clone, Debug)]
pub enum ChangePage {
    /// The changes that follow the asked position.
    Changes {
        /// The changes.
        changes: Vec<Change>,
        /// Whether no further change of the table follows at this snapshot's position.
        complete: bool,
    },
    /// Retention has removed changes that follow the asked position.
    Trimmed,
}

/// How often a read is tried: after a fault the store is opened again, which ends the snapshots that are in use.
const ATTEMPTS: usize = 5;

/// Reads `store` as it is now, and again if a fault ends that. This waits for the disk.
pub fn read<T>(store: &Store, work: impl Fn(&Snapshot) -> Result<T, StoreError>) -> Result<T, StoreError> {
    let attempt = || store.snapshot().and_then(|snapshot| work(&snapshot));
    let mut result = attempt();
    for _ in 1..ATTEMPTS {
        if !matches!(result, Err(StoreError::Disk(_))) {
            break;
        }
        result = attempt();
    }
    result
}

/// The store at one position. Keep it for one page only: as long as it lives, the space of what it sees cannot be used again.
pub struct Snapshot {
    pub(super) transaction: Arc<ReadTransaction>,
    position: Position,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Snapshot({:?})", self.position)
    }
}

impl Snapshot {
    pub(super) fn new(transaction: ReadTransaction) -> Result<Self, StoreError> {
        let position = Tables::position(&transaction.open_table(layout::META)?)?;
        Ok(Self { transaction: Arc::new(transaction), position })
    }

    /// The same one for another reader.
    pub(super) fn share(&self) -> Self {
        Self { transaction: Arc::clone(&self.transaction), position: self.position }
    }

    /// The newest change that it contains.
    pub fn position(&self) -> Position {
        self.position
    }

    /// One row; `None` where there is none.
    pub fn row(&self, table: &Table, key: &Key) -> Result<Option<Row>, StoreError> {
        let Some(number) = self.number(table)? else {
            return Ok(None);
        };
        let rows = self.transaction.open_table(ROWS)?;
        rows.get((number, key.as_bytes()))?
            .map(|value| layout::decode_row(number, key.as_bytes(), value.value()))
            .transpose()
    }

    /// Whether something was ever written to the table.
    pub fn has_table(&self, table: &Table) -> Result<bool, StoreError> {
        Ok(self.number(table)?.is_some())
    }

    /// How many rows the table has.
    pub fn count(&self, table: &Table) -> Result<u64, StoreError> {
        Ok(self.record(table)?.map_or(0, |(_, record)| record.rows))
    }

    /// The rows whose key follows `after`, or the first ones, in key order.
    pub fn rows_after(&self, table: &Table, after: Option<&Key>, budget: PageBudget) -> Result<RowPage, StoreError> {
        let mut rows = Vec::new();
        let complete = self.each_row_after(table, after, budget, |BlockRow { key, version, document }| {
            let key = Key::from_stored(Bytes::copy_from_slice(key));
            rows.push(Row { key, version, document: Document::from_stored(Bytes::copy_from_slice(document)) });
        })?;
        Ok(RowPage { rows, complete })
    }

    /// The same rows in one piece of memory, and whether no row follows.
    pub fn block_after(
        &self,
        table: &Table,
        after: Option<&Key>,
        budget: PageBudget,
    ) -> Result<(RowBlock, bool), StoreError> {
        RowBlockBuilder::filled(|block| self.each_row_after(table, after, budget, |row| block.push(row)))
    }

    /// Hands the rows whose key follows `after` to `take`, as long as there is room for another; says whether no row follows.
    fn each_row_after(
        &self,
        table: &Table,
        after: Option<&Key>,
        mut budget: PageBudget,
        mut take: impl FnMut(BlockRow<'_>),
    ) -> Result<bool, StoreError> {
        let Some(number) = self.number(table)? else {
            return Ok(true);
        };
        let rows = self.transaction.open_table(ROWS)?;
        let mut room = true;
        for entry in range_after(&rows, number, after)? {
            let (key, value) = entry?;
            if !room {
                return Ok(false);
            }
            let key = key.value().1;
            let (version, document) = layout::checked_row(number, key, value.value())?;
            room = budget.spend(Row::size_of(key, document));
            take(BlockRow { key, version, document });
        }
        Ok(true)
    }

    /// The changes of `table` that follow `after`, oldest first.
    pub fn changes_after(&self, table: &Table, after: Seq, mut budget: PageBudget) -> Result<ChangePage, StoreError> {
        let mut changes = Vec::new();
        let Some((number, record)) = self.record(table)? else {
            return Ok(ChangePage::Changes { changes, complete: true });
        };
        if record.trimmed_to > after.0 && !PlantedBug::TrimmedLogLooksComplete.is_planted() {
            return Ok(ChangePage::Trimmed);
        }
        let log = self.transaction.open_table(LOG)?;
        let mut room = true;
        let following = (Bound::Excluded((number, after.0)), Bound::Included((number, u64::MAX)));
        for entry in log.range::<(u32, u64)>(following)? {
            let (place, value) = entry?;
            if !room {
                return Ok(ChangePage::Changes { changes, complete: false });
            }
            let change = layout::decode_change(table, number, Seq(place.value().1), value.value())?;
            room = budget.spend(change.size());
            changes.push(change);
        }
        Ok(ChangePage::Changes { changes, complete: true })
    }

    /// Answers a query. `bytes_max` bounds the rows of the answer.
    pub fn query(&self, query: &Query, bytes_max: usize) -> Result<QueryResult, StoreError> {
        match query {
            Query::Get { table, key } => {
                let rows: Vec<Row> = self.row(table, key)?.into_iter().collect();
                Ok(QueryResult { total: rows.len(), rows, ..QueryResult::default() })
            }
            Query::List { table, order, offset, limit } => {
                let total = usize::try_from(self.count(table)?).unwrap_or(usize::MAX);
                let mut answer = Answer::new(bytes_max);
                match order {
                    Order::Key => self.list_by_key(table, *offset, *limit, &mut answer)?,
                    Order::Member(member) => {
                        for key in self.keys_by_member(table, member, *offset, *limit)? {
                            let row = self.row(table, &key)?;
                            let vanished = || StoreError::Damaged(format!("row {key} of {table} vanished"));
                            answer.push(row.ok_or_else(vanished)?)?;
                        }
                    }
                }
                Ok(QueryResult { rows: answer.rows, total, ..QueryResult::default() })
            }
            Query::After { table, after, budget } => {
                let RowPage { rows, complete: is_complete } = self.rows_after(table, after.as_ref(), *budget)?;
                Ok(QueryResult { rows, is_complete, position: Some(self.position.seq), ..QueryResult::default() })
            }
            Query::Range(range) => self.range(range, bytes_max),
            Query::Rows { table, keys, bytes } => self.rows_of(table, keys, (*bytes).min(bytes_max)),
        }
    }

    fn list_by_key(&self, table: &Table, offset: usize, limit: usize, answer: &mut Answer) -> Result<(), StoreError> {
        let Some(number) = self.number(table)? else {
            return Ok(());
        };
        let rows = self.transaction.open_table(ROWS)?;
        for entry in range_after(&rows, number, None)?.skip(offset).take(limit) {
            let (key, value) = entry?;
            answer.push(layout::decode_row(number, key.value().1, value.value())?)?;
        }
        Ok(())
    }

    /// Reads the whole table once where no index has the order: tables that are listed so without one are small.
    fn keys_by_member(&self, table: &Table, member: &str, offset: usize, limit: usize) -> Result<Vec<Key>, StoreError> {
        let Some((number, record)) = self.record(table)? else {
            return Ok(Vec::new());
        };
        if let Some(keys) = self.keys_by_index((number, &record), member, offset, limit)? {
            return Ok(keys);
        }
        let rows = self.transaction.open_table(ROWS)?;
        let mut keys = Vec::new();
        for entry in range_after(&rows, number, None)? {
            let (key, value) = entry?;
            let row = layout::decode_row(number, key.value().1, value.value())?;
            let name = row.document.members().and_then(|mut members| match members.remove(member) {
                Some(serde_json::Value::String(name)) => Some(name),
                _ => None,
            });
            keys.push((name.is_none(), name, row.key));
        }
        keys.sort_unstable();
        Ok(keys.into_iter().skip(offset).take(limit).map(|(_, _, key)| key).collect())
    }

    /// How many changes the log holds, of all tables.
    pub fn log_entries(&self) -> Result<u64, StoreError> {
        Ok(self.transaction.open_table(layout::LOG_ORDER)?.len()?)
    }

    pub(super) fn number(&self, table: &Table) -> Result<Option<u32>, StoreError> {
        let numbers = self.transaction.open_table(TABLE_NUMBERS)?;
        Ok(numbers.get(table.path())?.map(|number| number.value()))
    }

    pub(super) fn record(&self, table: &Table) -> Result<Option<(u32, TableRecord)>, StoreError> {
        let Some(number) = self.number(table)? else {
            return Ok(None);
        };
        let tables = self.transaction.open_table(TABLES)?;
        let record =
            tables.get(number)?.ok_or_else(|| StoreError::Damaged(format!("table {} has no record", table.path())))?;
        Ok(Some((number, Tables::decode_record(record.value())?)))
    }
}

/// The rows of an answer, never more than allowed; but a single row is always allowed, or nobody could see it.
pub(super) struct Answer {
    pub(super) rows: Vec<Row>,
    bytes: usize,
    bytes_max: usize,
}

impl Answer {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { rows: Vec::new(), bytes: 0, bytes_max }
    }

    pub(super) fn push(&mut self, row: Row) -> Result<(), StoreError> {
        self.bytes += row.size();
        if self.bytes > self.bytes_max && !self.rows.is_empty() {
            return Err(StoreError::AnswerTooBig { bytes_max: self.bytes_max });
        }
        self.rows.push(row);
        Ok(())
    }
}

type RowRange<'a> = redb::Range<'a, (u32, &'static [u8]), &'static [u8]>;

fn range_after<'a>(
    rows: &'a ReadOnlyTable<(u32, &'static [u8]), &'static [u8]>,
    number: u32,
    after: Option<&Key>,
) -> Result<RowRange<'a>, StoreError> {
    let empty: &[u8] = &[];
    let start = match after {
        Some(key) => Bound::Excluded((number, key.as_bytes())),
        None => Bound::Included((number, empty)),
    };
    let end = match number.checked_add(1) {
        Some(next) => Bound::Excluded((next, empty)),
        None => Bound::Unbounded,
    };
    Ok(rows.range::<(u32, &[u8])>((start, end))?)
}
