//! Rows that were read together, in one piece of memory: a page has hundreds of them, and most are only sent on.

use std::cell::RefCell;
use std::fmt;

use bytes::Bytes;

use crate::change::{Document, Key, Row, Seq};

/// A row where it lies.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct BlockRow<'a> {
    /// Its primary key, as it is kept.
    pub key: &'a [u8],
    /// The number of the change that made it what it is.
    pub version: Seq,
    /// Its content.
    pub document: &'a [u8],
}

impl BlockRow<'_> {
    /// The bytes it holds in memory, by which pages are bounded.
    pub fn size(&self) -> usize {
        Row::size_of(self.key, self.document)
    }

    /// The same row in memory of its own.
    pub fn to_row(self) -> Row {
        let key = Key::from_stored(Bytes::copy_from_slice(self.key));
        Row { key, version: self.version, document: Document::from_stored(Bytes::copy_from_slice(self.document)) }
    }
}

impl fmt::Debug for BlockRow<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockRow({} bytes, {}, {} bytes)", self.key.len(), self.version, self.document.len())
    }
}

/// Rows in key order, in one piece of memory.
#[derive(Clone, Default)]
pub struct RowBlock {
    bytes: Bytes,
    places: Box<[RowPlace]>,
}

/// Where a row lies: its key, and behind it its document.
#[derive(Clone, Copy)]
struct RowPlace {
    key_at: usize,
    document_at: usize,
    end: usize,
    version: Seq,
}

impl RowBlock {
    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The row at this place in the order.
    ///
    /// # Panics
    ///
    /// Panics where there is none.
    pub fn get(&self, at: usize) -> BlockRow<'_> {
        let RowPlace { key_at, document_at, end, version } = self.places[at];
        BlockRow { key: &self.bytes[key_at..document_at], version, document: &self.bytes[document_at..end] }
    }

    /// All rows, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = BlockRow<'_>> {
        (0..self.len()).map(|at| self.get(at))
    }

    /// The row at this place, sharing the memory of all of them: let it go soon.
    ///
    /// # Panics
    ///
    /// Panics where there is none.
    pub fn shared(&self, at: usize) -> Row {
        let RowPlace { key_at, document_at, end, version } = self.places[at];
        let key = Key::from_stored(self.bytes.slice(key_at..document_at));
        Row { key, version, document: Document::from_stored(self.bytes.slice(document_at..end)) }
    }

    /// The row at this place, in memory of its own.
    ///
    /// # Panics
    ///
    /// Panics where there is none.
    pub fn row(&self, at: usize) -> Row {
        self.get(at).to_row()
    }

    /// The key of the last row.
    pub fn last_key(&self) -> Option<Key> {
        let RowPlace { key_at, document_at, .. } = *self.places.last()?;
        Some(Key::from_stored(Bytes::copy_from_slice(&self.bytes[key_at..document_at])))
    }

    /// The bytes of all rows, one behind the other.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for RowBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RowBlock({} rows, {} bytes)", self.len(), self.bytes.len())
    }
}

/// Takes rows one by one.
#[derive(Default)]
pub struct RowBlockBuilder {
    bytes: Vec<u8>,
    places: Vec<RowPlace>,
}

/// A thread keeps room for so many bytes of rows; what large rows took is given back.
const KEPT_BYTES: usize = 1 << 20;

thread_local! {
    /// Where rows are put before it is known how much room they take: memory that was used before need not be asked of the system.
    static ROOM: RefCell<RowBlockBuilder> = RefCell::default();
}

impl RowBlockBuilder {
    /// Lets `fill` put rows into it; what they return goes with them, if it is no error.
    pub(super) fn filled<T, E>(fill: impl FnOnce(&mut Self) -> Result<T, E>) -> Result<(RowBlock, T), E> {
        let mut room = ROOM.take();
        let result = fill(&mut room).map(|result| {
            let block = RowBlock { bytes: Bytes::copy_from_slice(&room.bytes), places: room.places.as_slice().into() };
            (block, result)
        });
        room.bytes.clear();
        room.places.clear();
        room.bytes.shrink_to(KEPT_BYTES);
        ROOM.set(room);
        result
    }

    /// Puts a row behind the others.
    pub fn push(&mut self, row: BlockRow<'_>) {
        let BlockRow { key, version, document } = row;
        let key_at = self.bytes.len();
        let document_at = key_at + key.len();
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(document);
        self.places.push(RowPlace { key_at, document_at, end: self.bytes.len(), version });
    }

    /// The rows.
    pub fn build(self) -> RowBlock {
        RowBlock { bytes: self.bytes.into(), places: self.places.into() }
    }
}

impl fmt::Debug for RowBlockBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RowBlockBuilder({} rows, {} bytes)", self.places.len(), self.bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_as_they_were_put() {
        let rows = [("a", 1, "{}"), ("", 2, ""), ("bc", 3, r#"{"a":1}"#)];
        let mut block = RowBlockBuilder::default();
        for (key, version, document) in rows {
            block.push(BlockRow { key: key.as_bytes(), version: Seq(version), document: document.as_bytes() });
        }
        let block = block.build();
        for (at, (key, version, document)) in rows.into_iter().enumerate() {
            let row = BlockRow { key: key.as_bytes(), version: Seq(version), document: document.as_bytes() };
            assert_eq!(block.get(at), row);
            for whole in [block.row(at), block.shared(at)] {
                assert_eq!((whole.key.as_bytes(), whole.version), (row.key, row.version));
                assert_eq!((whole.document.as_bytes(), whole.size()), (row.document, row.size()));
            }
        }
        assert_eq!((block.iter().len(), block.is_empty()), (3, false));
        assert_eq!(block.last_key(), Some(Key::from_stored(&b"bc"[..])));
        assert_eq!(RowBlock::default().last_key(), None);
    }
}
