//! The rows of a page of a snapshot: shared by everybody the page is for, and encoded once for each way to show them.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::{MessageKind, Piece};
use crate::change::Row;
use crate::store::{BlockRow, RowBlock, RowBlockBuilder};
use crate::summary::Summary;
use crate::view::{Secret, redacted};

/// Those pieces that an event of a row of a snapshot has: the first ones.
const ROW_PIECES: usize = 2;

/// Bytes of rows that are sent at a time: their messages fill one write to the socket, or two where there is little around each.
const PORTION_BYTES: usize = 16 * 1024;

/// What the message of a row has beside the row, at the least that is usual.
const MESSAGE_OVERHEAD: usize = 32;

/// Rows of a snapshot without what is secret in them. They are sent in portions.
pub struct SnapshotRows {
    block: RowBlock,
    portions: Vec<Portion>,
    /// Made for each row by whoever needs it first.
    pieces: [OnceLock<Box<[OnceLock<Bytes>]>>; ROW_PIECES],
    readers: AtomicUsize,
}

/// Rows that are sent together.
#[derive(Default)]
struct Portion {
    /// The first row behind it.
    end: usize,
    /// All rows of it.
    summary: Summary,
    messages: OnceLock<(RowsKind, KeptMessages)>,
}

/// What tells apart the messages that show the rows of a page to its readers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowsKind {
    /// How they show a row, and to which subscription.
    pub message: MessageKind,
    /// The number of the first event, if they are numbered.
    pub first_number: Option<u64>,
}

/// Messages as they go out, one behind the other.
#[derive(Clone)]
pub struct KeptMessages {
    /// What goes out.
    pub bytes: Bytes,
    /// How many messages there are.
    pub count: u64,
    /// The bytes of the messages without what the transport puts around them.
    pub payload_bytes: u64,
}

impl fmt::Debug for KeptMessages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeptMessages({}, {} bytes)", self.count, self.bytes.len())
    }
}

impl SnapshotRows {
    /// Shares the rows of `block`, in which nothing is secret.
    pub fn new(block: RowBlock) -> Arc<Self> {
        let mut portions = Vec::new();
        let (mut portion, mut bytes) = (Portion::default(), 0);
        for row in block.iter() {
            portion.end += 1;
            portion.summary.add_stored(row.key, row.version);
            bytes += row.key.len() + row.document.len() + MESSAGE_OVERHEAD;
            if bytes >= PORTION_BYTES || portion.end == block.len() {
                let end = portion.end;
                portions.push(std::mem::replace(&mut portion, Portion { end, ..Portion::default() }));
                bytes = 0;
            }
        }
        Arc::new(Self { block, portions, pieces: Default::default(), readers: AtomicUsize::new(0) })
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.block.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.block.is_empty()
    }

    /// The row at this place in the order; nothing in it is secret.
    pub fn get(&self, at: usize) -> BlockRow<'_> {
        self.block.get(at)
    }

    /// The bytes that the rows hold, without pieces and messages: each kind of them is hardly larger than the rows.
    pub(super) fn size(&self) -> usize {
        self.block.iter().map(|row| row.size()).sum()
    }

    /// The rows of the portion with this number, counted from 0; `None` behind the last one.
    pub fn portion(&self, number: usize) -> Option<Range<usize>> {
        let end = self.portions.get(number)?.end;
        let start = number.checked_sub(1).map_or(0, |before| self.portions[before].end);
        Some(start..end)
    }

    /// All rows of the portion with this number.
    pub fn summary(&self, number: usize) -> Summary {
        self.portions[number].summary
    }

    /// One more reader is sent them.
    pub fn opened(&self) {
        self.readers.fetch_add(1, Ordering::Relaxed);
    }

    /// The messages of this kind that show the portion with this number, if they were kept.
    pub fn messages(&self, number: usize, kind: RowsKind) -> Option<&KeptMessages> {
        self.portions[number].messages.get().filter(|(of, _)| *of == kind).map(|(_, messages)| messages)
    }

    /// Whether the messages that show the portion with this number are worth keeping: somebody else may need the same.
    pub fn wants_messages(&self, number: usize) -> bool {
        self.portions[number].messages.get().is_none() && self.readers.load(Ordering::Relaxed) > 1
    }

    /// Keeps the messages that show the portion with this number.
    pub fn keep_messages(&self, number: usize, kind: RowsKind, messages: KeptMessages) {
        // Where two were at it, those of the other are as good.
        let _ = self.portions[number].messages.set((kind, messages));
    }

    /// A piece of the encoding of the row at this place, made by `encode` for whoever needs it first. There are no old rows.
    pub fn piece(&self, at: usize, piece: Piece, encode: impl FnOnce(&Row) -> Bytes) -> &Bytes {
        let none = || (0..self.len()).map(|_| OnceLock::new()).collect();
        self.pieces[piece as usize].get_or_init(none)[at].get_or_init(|| encode(&self.block.shared(at)))
    }
}

impl fmt::Debug for SnapshotRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SnapshotRows({})", self.len())
    }
}

/// A row of a snapshot without what is secret in it, shared by everything that delivers it.
#[derive(Clone)]
pub struct SnapshotRow {
    rows: Arc<SnapshotRows>,
    at: usize,
}

impl SnapshotRow {
    /// Shares `row` by itself, without `secrets`.
    pub fn new(row: &Row, secrets: &[Secret]) -> Self {
        let document = redacted(&row.document, secrets);
        let mut block = RowBlockBuilder::default();
        block.push(BlockRow { key: row.key.as_bytes(), version: row.version, document: document.as_bytes() });
        Self { rows: SnapshotRows::new(block.build()), at: 0 }
    }

    /// The row at this place of `rows`.
    pub(crate) fn of(rows: &Arc<SnapshotRows>, at: usize) -> Self {
        Self { rows: Arc::clone(rows), at }
    }

    /// The row, in memory of its own; nothing in it is secret.
    pub fn row(&self) -> Row {
        self.rows.block.row(self.at)
    }

    /// It alone.
    pub(crate) fn summary(&self) -> Summary {
        let BlockRow { key, version, .. } = self.rows.get(self.at);
        let mut summary = Summary::default();
        summary.add_stored(key, version);
        summary
    }

    /// The rows that it is one of, and its place among them.
    pub fn place(&self) -> (&SnapshotRows, usize) {
        (&self.rows, self.at)
    }
}

impl fmt::Debug for SnapshotRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = self.row();
        write!(f, "SnapshotRow({} {})", row.version, row.key)
    }
}
