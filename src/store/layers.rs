//! The layers of a store: what is in the database, and above it what was committed since. The upper one counts.

use std::iter::Peekable;

use bytes::Bytes;
use redb::{AccessGuard, Database, ReadOnlyTable, ReadableDatabase};

use super::StoreError;
use super::layout::{self, INDEX_ENTRIES, LOG, LOG_ORDER, ROWS};
use super::memtable::NewestRow;
use super::query::Direction;
use super::row_block::BlockRow;
use crate::change::Key;

/// The tables of the database, as it was last written.
pub(super) struct Base {
    pub(super) rows: ReadOnlyTable<(u32, &'static [u8]), &'static [u8]>,
    pub(super) log: ReadOnlyTable<(u32, u64), &'static [u8]>,
    pub(super) order: ReadOnlyTable<u64, (u32, u32, u64)>,
    pub(super) entries: ReadOnlyTable<(u32, u32, &'static [u8]), u32>,
}

impl Base {
    /// As `database` is now.
    pub(super) fn of(database: &Database) -> Result<Self, StoreError> {
        let transaction = database.begin_read()?;
        Ok(Self {
            rows: transaction.open_table(ROWS)?,
            log: transaction.open_table(LOG)?,
            order: transaction.open_table(LOG_ORDER)?,
            entries: transaction.open_table(INDEX_ENTRIES)?,
        })
    }
}

/// Something that stands at a place of an order.
pub(super) trait Placed {
    /// The place: no two of one layer have the same.
    fn place(&self) -> &[u8];
}

/// A row in one of the layers.
pub(super) enum LayerRow<'a> {
    /// In memory; it may say that the row is gone.
    Newest(&'a Key, &'a NewestRow),
    /// In the database.
    Stored(AccessGuard<'a, (u32, &'static [u8])>, AccessGuard<'a, &'static [u8]>),
}

/// Memory comes in lines of so many bytes, and the rest of a long row comes by itself.
const LINE_BYTES: usize = 64;
const ASKED_FOR_LINES: usize = 8;

/// A row as it is read: it may be gone.
pub(super) trait ReadRow {
    /// Reads a little of it, so that the rest is near when it is needed.
    fn ask_for_memory(&self) -> u8;

    /// The row, which is one of the table `number`; `None` where it is gone.
    fn row(&self, number: u32) -> Result<Option<BlockRow<'_>>, StoreError>;
}

impl ReadRow for (&Key, &NewestRow) {
    #[inline]
    fn ask_for_memory(&self) -> u8 {
        let lines = |bytes: &[u8]| bytes.chunks(LINE_BYTES).take(ASKED_FOR_LINES).fold(0, |all, line| all ^ line[0]);
        newest(self.0, self.1).map_or(0, |row| lines(row.key) ^ lines(row.document))
    }

    #[inline]
    fn row(&self, _: u32) -> Result<Option<BlockRow<'_>>, StoreError> {
        Ok(newest(self.0, self.1))
    }
}

#[inline]
fn newest<'a>(key: &'a Key, row: &'a NewestRow) -> Option<BlockRow<'a>> {
    let (version, document) = row.as_ref()?;
    Some(BlockRow { key: key.as_bytes(), version: *version, document: document.as_bytes() })
}

impl ReadRow for LayerRow<'_> {
    fn ask_for_memory(&self) -> u8 {
        match self {
            Self::Newest(key, row) => (*key, *row).ask_for_memory(),
            Self::Stored(..) => 0,
        }
    }

    fn row(&self, number: u32) -> Result<Option<BlockRow<'_>>, StoreError> {
        match self {
            Self::Newest(key, row) => Ok(newest(key, row)),
            Self::Stored(place, value) => {
                let (_, key) = place.value();
                let (version, document) = layout::checked_row(number, key, value.value())?;
                Ok(Some(BlockRow { key, version, document }))
            }
        }
    }
}

impl<R: ReadRow> ReadRow for Result<R, StoreError> {
    fn ask_for_memory(&self) -> u8 {
        self.as_ref().map_or(0, R::ask_for_memory)
    }

    fn row(&self, number: u32) -> Result<Option<BlockRow<'_>>, StoreError> {
        self.as_ref().map_err(StoreError::clone)?.row(number)
    }
}

impl Placed for LayerRow<'_> {
    fn place(&self) -> &[u8] {
        match self {
            Self::Newest(key, _) => key.as_bytes(),
            Self::Stored(place, _) => place.value().1,
        }
    }
}

/// An entry of an index in one of the layers.
pub(super) enum LayerEntry<'a> {
    /// In memory; it may say that the entry is gone.
    Newest(&'a Bytes, bool),
    /// In the database, with its checksum.
    Stored(AccessGuard<'a, (u32, u32, &'static [u8])>, AccessGuard<'a, u32>),
}

impl LayerEntry<'_> {
    /// Whether the entry is there.
    pub(super) fn is_there(&self) -> bool {
        !matches!(self, Self::Newest(_, false))
    }
}

impl Placed for LayerEntry<'_> {
    fn place(&self) -> &[u8] {
        match self {
            Self::Newest(place, _) => place,
            Self::Stored(place, _) => place.value().2,
        }
    }
}

/// Two layers as one, in the direction that both have.
pub(super) struct Merged<U: Iterator, L: Iterator> {
    upper: Peekable<U>,
    lower: Peekable<L>,
    direction: Direction,
}

impl<T, U, L> Merged<U, L>
where
    U: Iterator<Item = Result<T, StoreError>>,
    L: Iterator<Item = Result<T, StoreError>>,
{
    pub(super) fn new(upper: U, lower: L, direction: Direction) -> Self {
        Self { upper: upper.peekable(), lower: lower.peekable(), direction }
    }
}

impl<T, U, L> Iterator for Merged<U, L>
where
    T: Placed,
    U: Iterator<Item = Result<T, StoreError>>,
    L: Iterator<Item = Result<T, StoreError>>,
{
    type Item = Result<T, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (Some(Ok(upper)), Some(Ok(lower))) = (self.upper.peek(), self.lower.peek()) else {
            // One of them has ended, or cannot be read.
            return match self.upper.peek() {
                Some(Ok(_)) if self.lower.peek().is_some() => self.lower.next(),
                Some(_) => self.upper.next(),
                None => self.lower.next(),
            };
        };
        let order = upper.place().cmp(lower.place());
        let order = if self.direction == Direction::Descending { order.reverse() } else { order };
        if order.is_eq() {
            self.lower.next();
        }
        if order.is_le() { self.upper.next() } else { self.lower.next() }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    impl Placed for (Vec<u8>, u8) {
        fn place(&self) -> &[u8] {
            &self.0
        }
    }

    #[test]
    fn the_upper_of_two_layers_counts_in_both_directions() {
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..1_000 {
            let mut layer = |of: u8| -> BTreeMap<Vec<u8>, u8> {
                (0..rng.usize(0..8)).map(|_| (vec![rng.u8(0..12); rng.usize(1..3)], of)).collect()
            };
            let (lower, upper) = (layer(1), layer(2));
            let mut both = lower.clone();
            both.extend(upper.clone());
            let both: Vec<_> = both.into_iter().collect();
            let up = || upper.clone().into_iter().map(Ok);
            let low = || lower.clone().into_iter().map(Ok);
            let merged = Merged::new(up(), low(), Direction::Ascending);
            assert_eq!(merged.collect::<Result<Vec<_>, StoreError>>().expect("no error"), both);
            let merged = Merged::new(up().rev(), low().rev(), Direction::Descending);
            let backwards: Vec<_> = both.into_iter().rev().collect();
            assert_eq!(merged.collect::<Result<Vec<_>, StoreError>>().expect("no error"), backwards);
        }
    }

    #[test]
    fn an_error_of_either_layer_is_passed_on() {
        let row = |place: u8| Ok((vec![place], place));
        let error = || Err(StoreError::Stopped);
        let merged = Merged::new([row(1), error()].into_iter(), [row(2), row(3)].into_iter(), Direction::Ascending);
        assert!(merged.collect::<Result<Vec<_>, _>>().is_err());
        let merged = Merged::new([row(1), row(4)].into_iter(), [row(2), error()].into_iter(), Direction::Ascending);
        assert!(merged.collect::<Result<Vec<_>, _>>().is_err());
    }
}
