//! Rows by index, and rows by their keys.

use super::StoreError;
use super::index::{self, Span};
use super::layers::{LayerEntry, Merged, Placed};
use super::layout::{self, IndexRecord, TableRecord};
use super::memtable::Memtable;
use super::query::{Condition, Direction, Part, QueryResult, RangeQuery, RangeStart};
use super::snapshot::{Answer, PageBudget, Snapshot};
use crate::change::{Key, Row, Table};

impl Snapshot {
    /// Answers [`Query::Range`](super::Query::Range).
    pub(super) fn range(&self, query: &RangeQuery, bytes_max: usize) -> Result<QueryResult, StoreError> {
        let RangeQuery { table, index, prefix, start, direction, condition, part } = query;
        let nothing = QueryResult { is_complete: true, ..QueryResult::default() };
        let Some((number, record)) = self.record(table)? else {
            return Ok(nothing);
        };
        let reader = IndexReader::new(self, number, record, |own| own.is(index));
        let reader =
            reader.unwrap_or_else(|| panic!("the store has no index {index:?} of {table}, which is read by it"));
        let Some(span) = index::span(index, prefix, start) else {
            return Ok(nothing);
        };
        let range = Range { reader, span, direction: *direction, condition };
        match *part {
            Part::Page { offset, limit } => {
                let is_all = prefix.is_empty() && matches!(start, RangeStart::First) && range.takes_all();
                let known_total = is_all.then(|| usize::try_from(record.rows).unwrap_or(usize::MAX));
                range.page(offset, limit, known_total, Answer::new(bytes_max))
            }
            Part::First(budget) => range.first(PageBudget { bytes: budget.bytes.min(bytes_max), ..budget }),
        }
    }

    /// Answers [`Query::Rows`](super::Query::Rows).
    pub(super) fn rows_of(&self, table: &Table, keys: &[Key], bytes: usize) -> Result<QueryResult, StoreError> {
        let mut result = QueryResult { is_complete: true, ..QueryResult::default() };
        let Some(number) = self.tables.known_number(table) else {
            return Ok(result);
        };
        let mut budget = PageBudget { items: usize::MAX, bytes };
        for (at, key) in keys.iter().enumerate() {
            let Some(row) = self.row_of(number, key)? else { continue };
            let room = budget.spend(row.size());
            result.rows.push(row);
            if !room {
                result.is_complete = at + 1 == keys.len();
                break;
            }
        }
        result.total = result.rows.len();
        Ok(result)
    }

    /// A page of the keys of a table by its text `member`, if there is an index of that: rows without it come last.
    pub(super) fn keys_by_index(
        &self,
        (number, record): (u32, &TableRecord),
        member: &str,
        offset: usize,
        limit: usize,
    ) -> Result<Option<Vec<Key>>, StoreError> {
        let Some(reader) = IndexReader::new(self, number, record, |index| index.members == [member]) else {
            return Ok(None);
        };
        let (texts, others) = index::texts_and_others();
        let mut keys = Vec::new();
        let mut passed = 0;
        for entry in reader.entries(&texts, Direction::Ascending)? {
            let entry = entry?;
            if keys.len() >= limit {
                return Ok(Some(keys));
            }
            if passed >= offset {
                keys.push(reader.key(&entry)?);
            } else {
                passed += 1;
            }
        }
        // The others may have values of their own in the index, which do not matter here.
        let others = reader.entries(&others, Direction::Ascending)?;
        let mut others = others.map(|entry| reader.key(&entry?)).collect::<Result<Vec<_>, StoreError>>()?;
        others.sort_unstable();
        let missing = limit - keys.len();
        keys.extend(others.into_iter().skip(offset - passed).take(missing));
        Ok(Some(keys))
    }
}

/// Reads one index of one table.
struct IndexReader<'s> {
    snapshot: &'s Snapshot,
    number: u32,
    /// The number of the index in the record of the table.
    index: u32,
    record: &'s IndexRecord,
}

impl<'s> IndexReader<'s> {
    /// Of the first index that `is_wanted`, if the table has one.
    fn new(
        snapshot: &'s Snapshot,
        number: u32,
        record: &'s TableRecord,
        is_wanted: impl Fn(&IndexRecord) -> bool,
    ) -> Option<Self> {
        let (index, record) = (0..).zip(&record.indexes).find(|(_, index)| is_wanted(index))?;
        Some(Self { snapshot, number, index, record })
    }

    fn entries(
        &self,
        (begin, end): &Span,
        direction: Direction,
    ) -> Result<impl Iterator<Item = Result<LayerEntry<'s>, StoreError>> + use<'s>, StoreError> {
        let Self { snapshot, number, index, .. } = *self;
        let in_memory = |memtable: Option<&'s Memtable>| {
            let part = memtable.and_then(|memtable| memtable.table(number));
            let entries = part.map(|part| part.entries(index, (begin.as_slice(), end.as_slice())));
            let newest = |(place, is_there)| Ok(LayerEntry::Newest(place, is_there));
            in_direction(entries.into_iter().flatten().map(newest), direction)
        };
        let place = |place| (number, index, place);
        let range = || place(begin.as_slice())..place(end.as_slice());
        let stored = snapshot.base.as_deref().map(|base| base.entries.range(range())).transpose()?;
        let stored = stored.into_iter().flatten().map(|entry| {
            let (place, checksum) = entry?;
            Ok(LayerEntry::Stored(place, checksum))
        });
        let lower = Merged::new(in_memory(snapshot.settling_memtable()), in_direction(stored, direction), direction);
        let all = Merged::new(in_memory(Some(&snapshot.newest)), lower, direction);
        Ok(all.filter(|entry| entry.as_ref().map_or(true, LayerEntry::is_there)))
    }

    fn key(&self, entry: &LayerEntry<'_>) -> Result<Key, StoreError> {
        let key = index::key_of(entry.place(), self.record.members.len());
        let is_whole = match entry {
            LayerEntry::Newest(..) => true,
            LayerEntry::Stored(place, checksum) => {
                checksum.value() == layout::entry_checksum(self.number, self.index, place.value().2)
            }
        };
        key.filter(|_| is_whole).ok_or_else(|| self.damaged("an entry has a wrong checksum"))
    }

    fn row(&self, entry: &LayerEntry<'_>) -> Result<Row, StoreError> {
        let key = self.key(entry)?;
        let row = self.snapshot.row_of(self.number, &key)?;
        row.ok_or_else(|| self.damaged(&format!("it has the row {key}, which is not there")))
    }

    fn damaged(&self, what: &str) -> StoreError {
        StoreError::Damaged(format!("index {} of table number {}: {what}", self.record.name, self.number))
    }
}

fn in_direction<T>(mut items: impl DoubleEndedIterator<Item = T>, direction: Direction) -> impl Iterator<Item = T> {
    std::iter::from_fn(move || match direction {
        Direction::Ascending => items.next(),
        Direction::Descending => items.next_back(),
    })
}

/// The rows of a part of an index for which a condition holds.
struct Range<'a> {
    reader: IndexReader<'a>,
    span: Span,
    direction: Direction,
    condition: &'a Condition,
}

impl Range<'_> {
    fn takes_all(&self) -> bool {
        matches!(self.condition, Condition::Always)
    }

    fn takes(&self, row: &Row) -> bool {
        self.takes_all() || self.condition.holds(&row.document.members().unwrap_or_default())
    }

    /// Rows are read only where they are wanted, or the condition asks for it.
    fn page(
        &self,
        offset: usize,
        limit: usize,
        known_total: Option<usize>,
        mut answer: Answer,
    ) -> Result<QueryResult, StoreError> {
        let page = offset..offset.saturating_add(limit);
        let mut total = 0;
        for entry in self.reader.entries(&self.span, self.direction)? {
            let entry = entry?;
            if known_total.is_some() && total >= page.end {
                break;
            }
            if page.contains(&total) || !self.takes_all() {
                let row = self.reader.row(&entry)?;
                if !self.takes(&row) {
                    continue;
                }
                if page.contains(&total) {
                    answer.push(row)?;
                }
            }
            total += 1;
        }
        Ok(QueryResult { rows: answer.rows, total: known_total.unwrap_or(total), ..QueryResult::default() })
    }

    fn first(&self, mut budget: PageBudget) -> Result<QueryResult, StoreError> {
        let mut rows = Vec::new();
        let mut room = true;
        let mut is_complete = true;
        for entry in self.reader.entries(&self.span, self.direction)? {
            let entry = entry?;
            let row = self.reader.row(&entry)?;
            if !self.takes(&row) {
                continue;
            }
            if !room {
                is_complete = false;
                break;
            }
            room = budget.spend(row.size());
            rows.push(row);
        }
        Ok(QueryResult { total: rows.len(), rows, is_complete, ..QueryResult::default() })
    }
}
