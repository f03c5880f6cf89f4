//! The store at one position: rows and log as they were after one change, whatever is written meanwhile.

use std::hint::black_box;
use std::ops::Bound;
use std::sync::Arc;

use redb::ReadableTableMetadata;

use super::layers::{Base, LayerRow, Merged, ReadRow};
use super::layout::{self, TableRecord};
use super::memtable::{Beneath, Memtable};
use super::query::{Direction, Order, Query, QueryResult};
use super::row_block::{BLOCK_BYTES_MAX, BlockRow, DocumentsOnly, RowBlock, RowBlockBuilder, RowLayout};
use super::settle::Settling;
use super::tables::Tables;
use super::{Store, StoreError, TableIndexes};
use crate::change::{Cause, Change, Document, Key, Position, Row, Seq, Table};
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

/// So many rows are looked at together.
const ROWS_AHEAD: usize = 16;

/// How often a read is tried: after a fault the store is opened again, which ends the snapshots that are in use, and may fail as well.
const ATTEMPTS: usize = 5;

/// Reads `store` as it is now, and again if a fault ends that. This waits for the disk.
pub fn read<T>(store: &Store, work: impl Fn(&Snapshot) -> Result<T, StoreError>) -> Result<T, StoreError> {
    let attempt = || store.snapshot().and_then(|snapshot| work(&snapshot));
    let mut result = attempt();
    for _ in 1..ATTEMPTS {
        if !matches!(result, Err(StoreError::Disk(_) | StoreError::DiskFull | StoreError::Open(_))) {
            break;
        }
        result = attempt();
    }
    result
}

/// The store at one position. Keep it for one page only: as long as it lives, the space of what it sees cannot be used again.
#[derive(Clone)]
pub struct Snapshot {
    /// What the database has; `None` where all is in memory.
    pub(super) base: Option<Arc<Base>>,
    /// Above it, what is on its way there.
    pub(super) settling: Option<Arc<Settling>>,
    /// Above both, what was committed since.
    pub(super) newest: Memtable,
    pub(super) tables: Tables,
    pub(super) position: Position,
    pub(super) log_bytes: u64,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Snapshot({:?})", self.position)
    }
}

impl Snapshot {
    /// The newest change that it contains.
    pub fn position(&self) -> Position {
        self.position
    }

    /// What is above the database, the newest first.
    fn memtables(&self) -> impl Iterator<Item = &Memtable> {
        [&self.newest].into_iter().chain(self.settling_memtable())
    }

    /// What is on its way to the database.
    pub(super) fn settling_memtable(&self) -> Option<&Memtable> {
        self.settling.as_deref().map(|settling| &settling.memtable)
    }

    /// What is above the database, the oldest first: in the order of the log.
    fn memtables_in_order(&self) -> impl Iterator<Item = &Memtable> {
        self.settling_memtable().into_iter().chain([&self.newest])
    }

    /// Makes `changes`, which follow it, happen.
    pub(super) fn apply(&mut self, changes: &[Change], indexes: &[TableIndexes]) -> Result<(), StoreError> {
        let beneath = if self.base.is_some() { Beneath::Database } else { Beneath::Nothing };
        for change in changes {
            let number = self.tables.number(&change.table, indexes);
            let record = self.tables.record_mut(number)?;
            match (&change.old, &change.new) {
                (None, Some(_)) => record.rows += 1,
                (Some(_), None) => record.rows -= 1,
                _ => {}
            }
            if change.cause == Cause::Load {
                // Whoever needs what was before it has to begin anew.
                record.trimmed_to = change.seq.0;
            }
            self.log_bytes += u64::from(self.newest.apply(number, &record.indexes, change, beneath));
            self.position.seq = change.seq;
        }
        Ok(())
    }

    /// One row; `None` where there is none.
    pub fn row(&self, table: &Table, key: &Key) -> Result<Option<Row>, StoreError> {
        let Some(number) = self.tables.known_number(table) else {
            return Ok(None);
        };
        self.row_of(number, key)
    }

    /// A row of the table `number`.
    pub(super) fn row_of(&self, number: u32, key: &Key) -> Result<Option<Row>, StoreError> {
        let found = self.document(number, key)?;
        Ok(found.map(|(version, document)| Row { key: key.clone(), version, document }))
    }

    /// The version of a row of the table `number`, and what it says.
    pub(super) fn document(&self, number: u32, key: &Key) -> Result<Option<(Seq, Document)>, StoreError> {
        if let Some(row) = self.memtables().find_map(|memtable| memtable.row(number, key.as_bytes())) {
            return Ok(row.clone());
        }
        let Some(base) = &self.base else {
            return Ok(None);
        };
        let value = base.rows.get((number, key.as_bytes()))?;
        value.map(|value| layout::decode_document(number, key.as_bytes(), value.value())).transpose()
    }

    /// The rows of the table `number` whose key is behind `after`, or all of them, in key order.
    fn layer_rows<'s>(
        &'s self,
        number: u32,
        after: Option<&Key>,
    ) -> Result<impl Iterator<Item = Result<LayerRow<'s>, StoreError>> + use<'s>, StoreError> {
        let in_memory = |memtable: Option<&'s Memtable>| {
            let rows = memtable.and_then(|memtable| memtable.table(number)).map(|part| part.rows_after(after));
            rows.into_iter().flatten().map(|(key, row)| Ok(LayerRow::Newest(key, row)))
        };
        let stored = self.base.as_deref().map(|base| range_after(base, number, after)).transpose()?;
        let stored = stored.into_iter().flatten().map(|entry| {
            let (place, value) = entry?;
            Ok(LayerRow::Stored(place, value))
        });
        let lower = Merged::new(in_memory(self.settling_memtable()), stored, Direction::Ascending);
        Ok(Merged::new(in_memory(Some(&self.newest)), lower, Direction::Ascending))
    }

    /// Whether something was ever written to the table.
    pub fn has_table(&self, table: &Table) -> Result<bool, StoreError> {
        Ok(self.tables.known_number(table).is_some())
    }

    /// How many rows the table has.
    pub fn count(&self, table: &Table) -> Result<u64, StoreError> {
        Ok(self.record(table)?.map_or(0, |(_, record)| record.rows))
    }

    /// The rows whose key follows `after`, or the first ones, in key order.
    pub fn rows_after(&self, table: &Table, after: Option<&Key>, budget: PageBudget) -> Result<RowPage, StoreError> {
        let mut rows = Vec::new();
        let complete = self.each_row_after(table, after, budget, |row| rows.push(row.to_row()))?;
        Ok(RowPage { rows, complete })
    }

    /// The same rows in one piece of memory, and whether no row follows.
    pub fn block_after(
        &self,
        table: &Table,
        after: Option<&Key>,
        budget: PageBudget,
    ) -> Result<(RowBlock, bool), StoreError> {
        self.block_laid_out(table, after, budget, &mut DocumentsOnly)
    }

    /// The same, put into the block by `layout`.
    pub fn block_laid_out(
        &self,
        table: &Table,
        after: Option<&Key>,
        PageBudget { items, bytes }: PageBudget,
        layout: &mut (impl RowLayout + ?Sized),
    ) -> Result<(RowBlock, bool), StoreError> {
        let bytes = bytes.min(BLOCK_BYTES_MAX);
        let budget = PageBudget { items, bytes };
        RowBlockBuilder::filled(bytes, |block| self.each_row_after(table, after, budget, |row| block.put(row, layout)))
    }

    /// Hands the rows whose key follows `after` to `take`, as long as there is room for another; says whether no row follows.
    fn each_row_after(
        &self,
        table: &Table,
        after: Option<&Key>,
        budget: PageBudget,
        take: impl FnMut(BlockRow<'_>),
    ) -> Result<bool, StoreError> {
        let Some(number) = self.tables.known_number(table) else {
            return Ok(true);
        };
        if self.base.is_some() {
            return each_row(number, self.layer_rows(number, after)?, budget, take);
        }
        let rows = self.newest.table(number).map(|part| part.rows_after(after));
        each_row(number, rows.into_iter().flatten(), budget, take)
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
        let mut room = true;
        if let Some(base) = &self.base {
            let following = (Bound::Excluded((number, after.0)), Bound::Included((number, u64::MAX)));
            for entry in base.log.range::<(u32, u64)>(following)? {
                let (place, value) = entry?;
                if !room {
                    return Ok(ChangePage::Changes { changes, complete: false });
                }
                let change = layout::decode_change(table, number, Seq(place.value().1), value.value())?;
                room = budget.spend(change.size());
                changes.push(change);
            }
        }
        let parts = self.memtables_in_order().filter_map(|memtable| memtable.table(number));
        for logged in parts.flat_map(|part| part.log_after(after)) {
            if !room {
                return Ok(ChangePage::Changes { changes, complete: false });
            }
            room = budget.spend(logged.change.size());
            changes.push(Change::clone(&logged.change));
        }
        Ok(ChangePage::Changes { changes, complete: true })
    }

    /// The changes of all tables behind `after`, in order.
    pub(super) fn all_changes_after(&self, after: Seq) -> Result<Vec<Change>, StoreError> {
        let mut changes = Vec::new();
        if let Some(base) = &self.base {
            for entry in base.order.range(after.0 + 1..)? {
                let (seq, place) = entry?;
                let (seq, number) = (seq.value(), place.value().0);
                let record = base.log.get((number, seq))?;
                let record = record
                    .ok_or_else(|| StoreError::Damaged(format!("change {seq} is in the order but not in the log")))?;
                changes.push(layout::decode_change(&self.tables.table(number)?, number, Seq(seq), record.value())?);
            }
        }
        let logged = self.memtables_in_order().flat_map(|memtable| memtable.log_after(after));
        changes.extend(logged.map(|(_, logged)| Change::clone(&logged.change)));
        Ok(changes)
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
        let Some(number) = self.tables.known_number(table) else {
            return Ok(());
        };
        let mut passed = 0;
        for entry in self.layer_rows(number, None)? {
            let Some(row) = entry.row(number)? else { continue };
            if passed >= offset.saturating_add(limit) {
                break;
            }
            if passed >= offset {
                answer.push(row.to_row())?;
            }
            passed += 1;
        }
        Ok(())
    }

    /// Reads the whole table once where no index has the order: tables that are listed so without one are small.
    fn keys_by_member(&self, table: &Table, member: &str, offset: usize, limit: usize) -> Result<Vec<Key>, StoreError> {
        let Some((number, record)) = self.record(table)? else {
            return Ok(Vec::new());
        };
        if let Some(keys) = self.keys_by_index((number, record), member, offset, limit)? {
            return Ok(keys);
        }
        let mut keys = Vec::new();
        for entry in self.layer_rows(number, None)? {
            let Some(row) = entry.row(number)?.map(|row| row.to_row()) else { continue };
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
        let stored = self.base.as_ref().map_or(Ok(0), |base| base.order.len())?;
        Ok(stored + self.memtables().map(|memtable| memtable.log_entries() as u64).sum::<u64>())
    }

    pub(super) fn record(&self, table: &Table) -> Result<Option<(u32, &TableRecord)>, StoreError> {
        let Some(number) = self.tables.known_number(table) else {
            return Ok(None);
        };
        Ok(Some((number, self.tables.record(number)?)))
    }
}

/// Hands rows of the table `number` to `take`, as long as there is room for another; says whether no row follows.
fn each_row<R: ReadRow>(
    number: u32,
    mut rows: impl Iterator<Item = R>,
    mut budget: PageBudget,
    mut take: impl FnMut(BlockRow<'_>),
) -> Result<bool, StoreError> {
    let mut room = true;
    let mut ahead = Vec::with_capacity(ROWS_AHEAD);
    loop {
        ahead.extend(rows.by_ref().take(ROWS_AHEAD.min(budget.items.saturating_add(1))));
        if ahead.is_empty() {
            return Ok(true);
        }
        // Rows lie all over the memory. A processor waits for all of these together no longer than for one.
        black_box(ahead.iter().fold(0, |all, row| all ^ row.ask_for_memory()));
        for read in ahead.drain(..) {
            let Some(row) = read.row(number)? else { continue };
            if !room {
                return Ok(false);
            }
            room = budget.spend(row.size());
            take(row);
        }
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

fn range_after<'a>(base: &'a Base, number: u32, after: Option<&Key>) -> Result<RowRange<'a>, StoreError> {
    let empty: &[u8] = &[];
    let start = match after {
        Some(key) => Bound::Excluded((number, key.as_bytes())),
        None => Bound::Included((number, empty)),
    };
    let end = match number.checked_add(1) {
        Some(next) => Bound::Excluded((next, empty)),
        None => Bound::Unbounded,
    };
    Ok(base.rows.range::<(u32, &[u8])>((start, end))?)
}
