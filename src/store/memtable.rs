//! What was committed since the database was last written: the newest rows, index entries and changes, in memory.
//!
//! Its maps are persistent: a copy shares what it has with the original, and costs as much as it changes afterwards.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use imbl::OrdMap;

use super::index;
use super::layout;
use crate::change::{Cause, Change, Document, Key, Seq};

/// A row as the last change left it; `None` where it is gone.
pub(super) type NewestRow = Option<(Seq, Document)>;

/// The newest of all tables.
#[derive(Clone, Default)]
pub(super) struct Memtable {
    tables: OrdMap<u32, TablePart>,
    /// The table of each change in the log, in the order of their positions.
    order: OrdMap<u64, u32>,
    /// Of the changes in the log.
    bytes: u64,
}

/// The newest of one table.
#[derive(Clone, Default)]
pub(super) struct TablePart {
    rows: OrdMap<Key, NewestRow>,
    /// By the number of the index: the entries that came, and those that went.
    entries: Vec<OrdMap<Bytes, bool>>,
    log: OrdMap<u64, Logged>,
}

/// A change in the log.
#[derive(Clone)]
pub(super) struct Logged {
    pub(super) change: Arc<Change>,
    /// As many as the log takes for it.
    pub(super) bytes: u32,
}

/// Whether something lies beneath a memtable, so that what is gone has to be remembered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Beneath {
    /// Nothing: it has all there is.
    Nothing,
    /// The database.
    Database,
}

impl TablePart {
    /// The rows whose key is behind `after`, or all of them, in order.
    pub(super) fn rows_after<'a>(
        &'a self,
        after: Option<&Key>,
    ) -> impl DoubleEndedIterator<Item = (&'a Key, &'a NewestRow)> + use<'a> {
        let start = after.map_or(Bound::Unbounded, |key| Bound::Excluded(key.as_bytes()));
        self.rows.range::<_, [u8]>((start, Bound::Unbounded))
    }

    /// The entries of an index from `begin` up to `end`, without that, and whether each is there.
    pub(super) fn entries<'a>(
        &'a self,
        index: u32,
        (begin, end): (&[u8], &[u8]),
    ) -> impl DoubleEndedIterator<Item = (&'a Bytes, bool)> + use<'a> {
        let of_index = self.entries.get(index as usize);
        let range = (Bound::Included(begin), Bound::Excluded(end));
        let entries = of_index.map(|entries| entries.range::<_, [u8]>(range));
        entries.into_iter().flatten().map(|(place, &is_there)| (place, is_there))
    }

    /// All entries by index, and whether each is there.
    pub(super) fn all_entries(&self) -> impl Iterator<Item = (u32, &Bytes, bool)> {
        let of_index = |(index, entries)| {
            let entries: &OrdMap<Bytes, bool> = entries;
            entries.iter().map(move |(place, &is_there)| (index, place, is_there))
        };
        (0..).zip(&self.entries).flat_map(of_index)
    }

    /// The changes of its log behind `after`, in order.
    pub(super) fn log_after(&self, after: Seq) -> impl Iterator<Item = &Logged> {
        self.log.range((Bound::Excluded(after.0), Bound::Unbounded)).map(|(_, logged)| logged)
    }

    fn put_entry(&mut self, index: u32, place: Vec<u8>, is_there: bool, beneath: Beneath) {
        let index = index as usize;
        if self.entries.len() <= index {
            self.entries.resize_with(index + 1, OrdMap::new);
        }
        if is_there || beneath == Beneath::Database {
            self.entries[index].insert(place.into(), is_there);
        } else {
            self.entries[index].remove(place.as_slice());
        }
    }
}

impl Memtable {
    /// Whether it has nothing to tell.
    pub(super) fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// What it has of the table `number`.
    pub(super) fn table(&self, number: u32) -> Option<&TablePart> {
        self.tables.get(&number)
    }

    /// The tables that it has something of, by number.
    pub(super) fn tables(&self) -> impl Iterator<Item = (u32, &TablePart)> {
        self.tables.iter().map(|(&number, part)| (number, part))
    }

    /// What it knows of a row: `None` where that is nothing.
    pub(super) fn row(&self, number: u32, key: &[u8]) -> Option<&NewestRow> {
        self.tables.get(&number)?.rows.get(key)
    }

    /// The bytes of the changes that came into its log.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many changes its log has.
    pub(super) fn log_entries(&self) -> usize {
        self.order.len()
    }

    /// The changes of all logs behind `after`, in order.
    pub(super) fn log_after(&self, after: Seq) -> impl Iterator<Item = (u32, &Logged)> {
        let following = self.order.range((Bound::Excluded(after.0), Bound::Unbounded));
        following.filter_map(|(seq, &number)| Some((number, self.tables.get(&number)?.log.get(seq)?)))
    }

    /// Makes `change` of the table `number` happen to its rows and to those entries in `indexes`, and puts it into the log if it
    /// belongs there. Returns the bytes that the log takes for it.
    pub(super) fn apply(
        &mut self,
        number: u32,
        indexes: &[layout::IndexRecord],
        change: &Change,
        beneath: Beneath,
    ) -> u32 {
        let part = self.tables.entry(number).or_default();
        match &change.new {
            Some(document) => {
                part.rows.insert(change.key.clone(), Some((change.seq, document.clone())));
            }
            None if beneath == Beneath::Database => {
                part.rows.insert(change.key.clone(), None);
            }
            None => {
                part.rows.remove(change.key.as_bytes());
            }
        }
        index::follow(indexes, change, |index, place, is_there| part.put_entry(index, place, is_there, beneath));
        if change.cause == Cause::Load {
            return 0;
        }
        let bytes = layout::change_bytes(change);
        part.log.insert(change.seq.0, Logged { change: Arc::new(change.clone()), bytes });
        self.order.insert(change.seq.0, number);
        self.bytes += u64::from(bytes);
        bytes
    }

    /// The oldest change of all logs.
    pub(super) fn oldest(&self) -> Option<(u32, &Logged)> {
        let &(seq, number) = self.order.get_min()?;
        Some((number, self.tables.get(&number)?.log.get(&seq)?))
    }

    /// Takes the oldest change out of the log.
    pub(super) fn forget_oldest(&mut self) {
        let Some(&(seq, number)) = self.order.get_min() else { return };
        self.order.remove(&seq);
        if let Some(part) = self.tables.get_mut(&number) {
            part.log.remove(&seq);
        }
    }
}
