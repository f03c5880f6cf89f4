//! Rows that were read together, in one piece of memory: a page has hundreds of them, and most are only sent on.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

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

/// Puts rows into a block, each behind the others: how those who read a block first are sent them.
pub trait RowLayout {
    /// Appends `row` to `bytes`, its document at the end; returns how many of the bytes that were appended are no part of a message.
    fn put(&mut self, row: BlockRow<'_>, bytes: &mut Vec<u8>) -> usize;
}

/// Their documents, and nothing in between.
pub(super) struct DocumentsOnly;

impl RowLayout for DocumentsOnly {
    fn put(&mut self, row: BlockRow<'_>, bytes: &mut Vec<u8>) -> usize {
        bytes.extend_from_slice(row.document);
        0
    }
}

/// Rows in key order, in one piece of memory.
#[derive(Clone, Default)]
pub struct RowBlock {
    room: Arc<Room>,
    /// Those of the room.
    bytes: Bytes,
    keys: Bytes,
}

/// Where a row ends: its key among the keys, its document among the bytes.
#[derive(Clone, Copy)]
struct RowPlace {
    version: Seq,
    key_end: u32,
    document_at: u32,
    end: u32,
    /// Of the bytes up to there, those that are no part of a message.
    around_bytes: u32,
}

impl RowBlock {
    fn new(memory: Memory) -> Self {
        let room = Arc::new(Room(memory));
        let bytes = Bytes::from_owner(BytesOf(Arc::clone(&room)));
        let keys = Bytes::from_owner(KeysOf(Arc::clone(&room)));
        Self { room, bytes, keys }
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.room.0.places.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.room.0.places.is_empty()
    }

    fn place(&self, at: usize) -> (Range<usize>, Range<usize>, Seq) {
        let RowPlace { version, key_end, document_at, end, .. } = self.room.0.places[at];
        let key_at = at.checked_sub(1).map_or(0, |before| self.room.0.places[before].key_end);
        (key_at as usize..key_end as usize, document_at as usize..end as usize, version)
    }

    /// The row at this place in the order.
    ///
    /// # Panics
    ///
    /// Panics where there is none.
    pub fn get(&self, at: usize) -> BlockRow<'_> {
        let (key, document, version) = self.place(at);
        BlockRow { key: &self.room.0.keys[key], version, document: &self.room.0.bytes[document] }
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
        let (key, document, version) = self.place(at);
        let key = Key::from_stored(self.keys.slice(key));
        Row { key, version, document: Document::from_stored(self.bytes.slice(document)) }
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
        let last = self.len().checked_sub(1)?;
        Some(Key::from_stored(Bytes::copy_from_slice(self.get(last).key)))
    }

    /// The bytes that its rows hold in memory, one by one.
    pub fn size(&self) -> usize {
        let Memory { keys, places, document_bytes, .. } = &self.room.0;
        keys.len() + document_bytes + places.len() * Row::size_of(&[], &[])
    }

    /// All documents, and what was put before them.
    pub fn as_bytes(&self) -> &[u8] {
        &self.room.0.bytes
    }

    /// What was put for the rows at these places, sharing the memory of all of them, and how much of it is no part of a message.
    pub fn laid_out(&self, rows: Range<usize>) -> (Bytes, usize) {
        let ((start, around_before), (end, around)) = (self.upto(rows.start), self.upto(rows.end));
        (self.bytes.slice(start..end), around - around_before)
    }

    /// How many bytes were put for the rows at these places.
    pub fn bytes_of(&self, rows: Range<usize>) -> usize {
        self.upto(rows.end).0 - self.upto(rows.start).0
    }

    /// The bytes before this row, and how many of them are no part of a message.
    fn upto(&self, row: usize) -> (usize, usize) {
        let place = row.checked_sub(1).map(|before| self.room.0.places[before]);
        place.map_or((0, 0), |place| (place.end as usize, place.around_bytes as usize))
    }
}

impl fmt::Debug for RowBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RowBlock({} rows, {} bytes)", self.len(), self.bytes.len())
    }
}

/// Memory for rows.
#[derive(Clone, Default)]
struct Memory {
    bytes: Vec<u8>,
    keys: Vec<u8>,
    places: Vec<RowPlace>,
    /// Of the bytes, those of documents.
    document_bytes: usize,
}

/// So much memory of blocks that are gone is kept for the next ones, each of so many bytes at most: what was used before need not
/// be asked of the system.
const MEMORIES_KEPT: usize = 4;
const KEPT_BYTES: usize = 1 << 20;

static MEMORIES: Mutex<Vec<Memory>> = Mutex::new(Vec::new());

impl Memory {
    fn take() -> Self {
        MEMORIES.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    fn give_back(mut self) {
        if self.bytes.capacity() == 0 || self.bytes.capacity() > KEPT_BYTES {
            return;
        }
        self.bytes.clear();
        self.keys.clear();
        self.places.clear();
        self.document_bytes = 0;
        let mut memories = MEMORIES.lock().unwrap_or_else(PoisonError::into_inner);
        if memories.len() < MEMORIES_KEPT {
            memories.push(self);
        }
    }

    /// Where much of it would be of no use, only as much as is needed.
    fn fitted(self) -> Self {
        if self.bytes.len() >= self.bytes.capacity() / 2 {
            return self;
        }
        let fitted = self.clone();
        self.give_back();
        fitted
    }
}

/// The memory of a block, for as long as anybody has something of it.
#[derive(Default)]
struct Room(Memory);

impl Drop for Room {
    fn drop(&mut self) {
        std::mem::take(&mut self.0).give_back();
    }
}

struct BytesOf(Arc<Room>);

impl AsRef<[u8]> for BytesOf {
    fn as_ref(&self) -> &[u8] {
        &self.0.0.bytes
    }
}

struct KeysOf(Arc<Room>);

impl AsRef<[u8]> for KeysOf {
    fn as_ref(&self) -> &[u8] {
        &self.0.0.keys
    }
}

/// Takes rows one by one.
#[derive(Default)]
pub struct RowBlockBuilder(Memory);

impl RowBlockBuilder {
    /// Lets `fill` put rows into it, of about so many bytes; what they return goes with them, if it is no error.
    pub(super) fn filled<T, E>(bytes: usize, fill: impl FnOnce(&mut Self) -> Result<T, E>) -> Result<(RowBlock, T), E> {
        let mut block = Self(Memory::take());
        block.0.bytes.reserve(bytes.min(KEPT_BYTES / 2));
        let result = fill(&mut block)?;
        Ok((RowBlock::new(block.0.fitted()), result))
    }

    /// Puts a row behind the others.
    pub fn push(&mut self, row: BlockRow<'_>) {
        self.put(row, &mut DocumentsOnly);
    }

    /// Puts a row behind the others, as `layout` does.
    pub(super) fn put(&mut self, row: BlockRow<'_>, layout: &mut (impl RowLayout + ?Sized)) {
        let Memory { bytes, keys, places, document_bytes } = &mut self.0;
        *document_bytes += row.document.len();
        keys.extend_from_slice(row.key);
        let around_before = places.last().map_or(0, |place| place.around_bytes);
        let around_bytes = around_before + place(layout.put(row, bytes));
        let end = bytes.len();
        places.push(RowPlace {
            version: row.version,
            key_end: place(keys.len()),
            document_at: place(end - row.document.len()),
            end: place(end),
            around_bytes,
        });
    }

    /// The rows.
    pub fn build(self) -> RowBlock {
        RowBlock::new(self.0)
    }
}

/// A place in a block.
fn place(at: usize) -> u32 {
    u32::try_from(at).expect("a block ends long before")
}

/// Bytes of rows that a block is made for; each may have an overhead, and the last one may be large.
pub(super) const BLOCK_BYTES_MAX: usize = 1 << 30;

impl fmt::Debug for RowBlockBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RowBlockBuilder({} rows, {} bytes)", self.0.places.len(), self.0.bytes.len())
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

    /// Puts a number of bytes before each document.
    struct Numbered(u8);

    impl RowLayout for Numbered {
        fn put(&mut self, row: BlockRow<'_>, bytes: &mut Vec<u8>) -> usize {
            self.0 += 1;
            bytes.extend(std::iter::repeat_n(self.0, self.0.into()));
            bytes.extend_from_slice(row.document);
            usize::from(self.0) - 1
        }
    }

    #[test]
    fn what_is_put_around_rows_lies_between_them() {
        let mut block = RowBlockBuilder::default();
        let mut layout = Numbered(0);
        for (key, document) in [("a", "one"), ("bc", ""), ("d", "three")] {
            let row = BlockRow { key: key.as_bytes(), version: Seq(1), document: document.as_bytes() };
            block.put(row, &mut layout);
        }
        let block = block.build();
        assert_eq!(block.as_bytes(), b"\x01one\x02\x02\x03\x03\x03three");
        let parts = [(0..1, 0, 4), (1..2, 4, 6), (0..3, 0, 14), (1..3, 4, 14), (2..2, 6, 6)];
        for ((rows, start, end), around) in parts.into_iter().zip([0, 1, 3, 3, 0]) {
            assert_eq!(block.laid_out(rows.clone()), (Bytes::copy_from_slice(&block.as_bytes()[start..end]), around));
            assert_eq!(block.bytes_of(rows), end - start);
        }
        let rows: Vec<_> = block.iter().map(|row| (row.key, row.document)).collect();
        assert_eq!(rows, [(&b"a"[..], &b"one"[..]), (b"bc", b""), (b"d", b"three")]);
        assert_eq!(block.size(), block.iter().map(|row| row.size()).sum::<usize>());
    }

    #[test]
    fn a_block_that_is_gone_leaves_nothing_in_the_next_one() {
        let row = |key: &'static str, document: &'static str| BlockRow {
            key: key.as_bytes(),
            version: Seq(1),
            document: document.as_bytes(),
        };
        let long = "x".repeat(1000);
        for _ in 0..2 * MEMORIES_KEPT {
            let (block, ()) = RowBlockBuilder::filled::<_, ()>(10, |block| {
                block.put(BlockRow { document: long.as_bytes(), ..row("a", "") }, &mut Numbered(0));
                Ok(())
            })
            .expect("rows");
            let kept = block.shared(0);
            drop(block);
            let (block, ()) = RowBlockBuilder::filled::<_, ()>(10, |block| {
                block.push(row("b", "{}"));
                Ok(())
            })
            .expect("a row");
            assert_eq!((block.len(), block.as_bytes(), block.size()), (1, &b"{}"[..], block.get(0).size()));
            assert_eq!(block.get(0), row("b", "{}"));
            assert_eq!(kept.document.as_bytes(), long.as_bytes(), "what somebody has is not used again");
        }
    }
}
