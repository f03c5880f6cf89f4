//! The rows of a page of a snapshot: shared by everybody the page is for, and encoded once for each way to show them.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::{MessageKind, Piece};
use crate::change::{Key, Row};
use crate::store::{BlockRow, RowBlock, RowBlockBuilder, RowLayout};
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
    /// Its bytes are the messages of this kind; of no kind where they are documents only.
    laid_out: Option<RowsKind>,
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

/// How whoever asks for a page is sent its rows. They are put together while they are read: then they go out as they lie.
pub trait ShowRows {
    /// What tells these messages apart; `first_number` is that of the first event of the page.
    fn kind(&self) -> RowsKind;

    /// Appends the message that shows `row`, with the document at its end, as it goes out; returns the bytes that the transport has
    /// put around it. The event has `number`, if they are numbered.
    fn put(&self, row: BlockRow<'_>, number: Option<u64>, bytes: &mut Vec<u8>) -> usize;
}

/// The rows of a page, shown one behind the other.
pub(super) struct ShownInOrder<'a> {
    shown: &'a dyn ShowRows,
    next_number: Option<u64>,
}

impl<'a> ShownInOrder<'a> {
    /// Those behind `changes` events of the page.
    pub(super) fn behind(changes: usize, shown: &'a dyn ShowRows) -> Self {
        Self { shown, next_number: shown.kind().first_number.map(|first| first + changes as u64) }
    }

    /// The kind of what it has to put now.
    pub(super) fn kind(&self) -> RowsKind {
        RowsKind { first_number: self.next_number, ..self.shown.kind() }
    }
}

impl RowLayout for ShownInOrder<'_> {
    fn put(&mut self, row: BlockRow<'_>, bytes: &mut Vec<u8>) -> usize {
        let around = self.shown.put(row, self.next_number, bytes);
        self.next_number = self.next_number.map(|number| number + 1);
        around
    }
}

/// Bytes of messages that are sent together where they lie ready.
const LAID_OUT_BYTES: usize = 128 * 1024;

impl SnapshotRows {
    /// Shares the rows of `block`, in which nothing is secret.
    pub fn new(block: RowBlock) -> Arc<Self> {
        Self::laid_out_as(block, None)
    }

    /// The same of a block whose bytes are messages of this kind.
    pub(super) fn laid_out_as(block: RowBlock, laid_out: Option<RowsKind>) -> Arc<Self> {
        let mut portions: Vec<Portion> = Vec::new();
        let (mut start, mut bytes) = (0, 0);
        for (row, end) in block.iter().zip(1..) {
            bytes += row.key.len() + row.document.len() + MESSAGE_OVERHEAD;
            if bytes >= PORTION_BYTES || end == block.len() {
                let mut portion = Portion { end, ..Portion::default() };
                let rows = start..end;
                portion.summary.add_all_stored(rows.map(|at| block.get(at)).map(|row| (row.key, row.version)));
                portions.push(portion);
                (start, bytes) = (end, 0);
            }
        }
        Arc::new(Self { block, portions, laid_out, pieces: Default::default(), readers: AtomicUsize::new(0) })
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
        self.block.size()
    }

    /// Whether they lie as somebody is sent them.
    pub fn is_laid_out(&self) -> bool {
        self.laid_out.is_some()
    }

    /// The portions from this one on, counted from 0, that whoever is sent messages of this `kind` is sent at a time; `None` behind
    /// the last one.
    pub fn portions(&self, first: usize, kind: RowsKind) -> Option<Range<usize>> {
        let start = self.portion(first)?.start;
        let mut portions = first..first + 1;
        if self.lies_as(kind, start) {
            while self.rows(&(first..portions.end + 1)).is_some_and(|rows| self.block.bytes_of(rows) <= LAID_OUT_BYTES)
            {
                portions.end += 1;
            }
        }
        Some(portions)
    }

    /// Whether the messages from this row on lie as `kind` shows them.
    fn lies_as(&self, kind: RowsKind, row: usize) -> bool {
        let numbered = |of: RowsKind| RowsKind { first_number: of.first_number.map(|first| first + row as u64), ..of };
        self.laid_out.map(numbered) == Some(kind)
    }

    /// The rows of the portion with this number; `None` behind the last one.
    pub fn portion(&self, number: usize) -> Option<Range<usize>> {
        self.rows(&(number..number + 1))
    }

    /// The rows of these portions; `None` where there are not so many.
    pub fn rows(&self, portions: &Range<usize>) -> Option<Range<usize>> {
        let end = self.portions.get(portions.end.checked_sub(1)?)?.end;
        let start = portions.start.checked_sub(1).map_or(0, |before| self.portions[before].end);
        Some(start..end)
    }

    /// All rows of these portions.
    pub fn summary(&self, portions: Range<usize>) -> Summary {
        let mut summary = Summary::default();
        self.portions[portions].iter().for_each(|portion| summary.add_all(portion.summary));
        summary
    }

    /// One more reader is sent them.
    pub fn opened(&self) {
        self.readers.fetch_add(1, Ordering::Relaxed);
    }

    /// The messages of this kind that show these portions, if they lie ready or were kept.
    pub fn messages(&self, portions: &Range<usize>, kind: RowsKind) -> Option<KeptMessages> {
        let rows = self.rows(portions)?;
        if self.lies_as(kind, rows.start) {
            let count = rows.len() as u64;
            let (bytes, around_bytes) = self.block.laid_out(rows);
            let payload_bytes = (bytes.len() - around_bytes) as u64;
            return Some(KeptMessages { bytes, count, payload_bytes });
        }
        let kept = self.portions[self.only(portions)?].messages.get();
        kept.filter(|(of, _)| *of == kind).map(|(_, messages)| messages.clone())
    }

    fn only(&self, portions: &Range<usize>) -> Option<usize> {
        (portions.len() == 1).then_some(portions.start)
    }

    /// Whether the messages that show these portions are worth keeping: somebody else may need the same.
    pub fn wants_messages(&self, portions: &Range<usize>) -> bool {
        let is_kept = |portion: usize| self.portions[portion].messages.get().is_some();
        self.only(portions).is_some_and(|portion| !is_kept(portion)) && self.readers.load(Ordering::Relaxed) > 1
    }

    /// Keeps the messages that show these portions, if it wants them.
    pub fn keep_messages(&self, portions: &Range<usize>, kind: RowsKind, messages: KeptMessages) {
        if let Some(portion) = self.only(portions) {
            // Where two were at it, those of the other are as good.
            let _ = self.portions[portion].messages.set((kind, messages));
        }
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

    /// Its key, in memory of its own.
    pub(crate) fn key(&self) -> Key {
        Key::from_stored(Bytes::copy_from_slice(self.rows.get(self.at).key))
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
