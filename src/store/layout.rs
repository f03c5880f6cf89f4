//! How a store looks inside its file. Whoever changes it raises [`FORMAT_VERSION`] and reads what the older version wrote.

use bytes::Bytes;
use prost::Message;
use redb::TableDefinition;

use super::StoreError;
use crate::change::{Cause, Change, Document, Key, Row, Seq, Table, Timestamp};

/// The version of this layout; a store of a newer one is refused.
///
/// 1: the log had no versions of old rows, and there was no secret. 2: changes had no other cause than a write.
/// 3: there were no indexes, which a starfeed that does not know them would leave behind. 4: there was no journal, which one
/// that does not know it would pass over. 5: the journal had one generation at a time.
pub(super) const FORMAT_VERSION: u64 = 6;

/// `format`, `epoch`, `last_seq`, `log_bytes`, `settled`, `journal_open` as little-endian numbers, and the bytes of `secret`.
pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
pub(super) const META_FORMAT: &str = "format";
pub(super) const META_EPOCH: &str = "epoch";
pub(super) const META_SECRET: &str = "secret";
pub(super) const META_LAST_SEQ: &str = "last_seq";
pub(super) const META_LOG_BYTES: &str = "log_bytes";
/// The newest generation of the journal (`journal.rs`) that the database has all of; none before the first one.
pub(super) const META_SETTLED: &str = "settled";
/// Up to format 5, instead of that: the generation that the database may not have.
pub(super) const META_JOURNAL: &str = "journal";
/// 1 while the journal may have what the database has not; something else, or nothing, where it is not needed.
pub(super) const META_JOURNAL_OPEN: &str = "journal_open";

/// Table path to table number.
pub(super) const TABLE_NUMBERS: TableDefinition<'_, &str, u32> = TableDefinition::new("table_numbers");

/// Table number to [`TableRecord`].
pub(super) const TABLES: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("tables");

/// Table number and key to checksum (4 bytes), version (8 bytes, big-endian) and document.
pub(super) const ROWS: TableDefinition<'_, (u32, &[u8]), &[u8]> = TableDefinition::new("rows");

/// Table number and position to checksum (4 bytes) and [`LogRecord`]: one table's changes lie together, for replay.
pub(super) const LOG: TableDefinition<'_, (u32, u64), &[u8]> = TableDefinition::new("log");

/// Position to table number, size in bytes and time in milliseconds: all changes in order, for retention.
pub(super) const LOG_ORDER: TableDefinition<'_, u64, (u32, u32, u64)> = TableDefinition::new("log_order");

/// Table number, number of the index among those of its [`TableRecord`], and the row's place in it (`index.rs`) to a checksum.
pub(super) const INDEX_ENTRIES: TableDefinition<'_, (u32, u32, &[u8]), u32> = TableDefinition::new("index_entries");

/// What the store knows of one table.
#[derive(Clone, PartialEq, Message)]
pub(super) struct TableRecord {
    #[prost(string, tag = "1")]
    pub(super) path: String,
    /// How many rows it has.
    #[prost(uint64, tag = "2")]
    pub(super) rows: u64,
    /// Its newest change that retention took out of the log; a reader behind it has missed something.
    #[prost(uint64, tag = "3")]
    pub(super) trimmed_to: u64,
    /// The indexes that have an entry of each of its rows.
    #[prost(message, repeated, tag = "4")]
    pub(super) indexes: Vec<IndexRecord>,
}

/// An index that is built.
#[derive(Clone, PartialEq, Message)]
pub(super) struct IndexRecord {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, repeated, tag = "2")]
    pub(super) members: Vec<String>,
}

const CAUSE_WRITE: u32 = 0;
const CAUSE_RESYNC: u32 = 1;

/// One change as the log keeps it, beside the table and position in its key.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(super) struct LogRecord {
    /// 0: a row changed. Nothing else is written yet.
    #[prost(uint32, tag = "1")]
    kind: u32,
    #[prost(uint32, tag = "2")]
    cause: u32,
    #[prost(uint64, tag = "3")]
    time_ms: u64,
    #[prost(bytes = "bytes", tag = "4")]
    key: Bytes,
    #[prost(bytes = "bytes", optional, tag = "5")]
    old: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "6")]
    new: Option<Bytes>,
    #[prost(uint64, tag = "7")]
    old_version: u64,
}

impl LogRecord {
    fn of(change: &Change) -> Self {
        Self {
            kind: 0,
            cause: match change.cause {
                Cause::Write => CAUSE_WRITE,
                Cause::Resync => CAUSE_RESYNC,
                Cause::Load => panic!("a row that is loaded is not in the log"),
            },
            time_ms: change.time.0,
            key: change.key.to_bytes(),
            old: change.old.as_ref().map(Document::to_bytes),
            new: change.new.as_ref().map(Document::to_bytes),
            old_version: change.old_version.0,
        }
    }
}

/// The bytes of what [`encode_change`] makes of `change`.
pub(super) fn change_bytes(change: &Change) -> u32 {
    let bytes = CHECKSUM_BYTES + LogRecord::of(change).encoded_len();
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

pub(super) fn encode_change(number: u32, change: &Change) -> Vec<u8> {
    let record = LogRecord::of(change);
    let mut value = unsealed_value(record.encoded_len());
    // A vector grows as it must.
    record.encode(&mut value).unwrap_or_else(|error| panic!("a vector has no room: {error}"));
    seal(log_place(number, &change.seq.0.to_be_bytes()), value)
}

pub(super) fn decode_change(table: &Table, number: u32, seq: Seq, value: &[u8]) -> Result<Change, StoreError> {
    let damaged = |what: &str| StoreError::Damaged(format!("change {seq} of {}: {what}", table.path()));
    let content = unsealed(log_place(number, &seq.0.to_be_bytes()), value).ok_or_else(|| damaged(WRONG_CHECKSUM))?;
    let record = LogRecord::decode(Bytes::copy_from_slice(content)).map_err(|error| damaged(&error.to_string()))?;
    let cause = match (record.kind, record.cause) {
        (0, CAUSE_WRITE) => Cause::Write,
        (0, CAUSE_RESYNC) => Cause::Resync,
        _ => return Err(damaged("an entry of an unknown kind")),
    };
    if record.old.is_none() && record.new.is_none() {
        return Err(damaged("neither an old nor a new row"));
    }
    Ok(Change {
        seq,
        table: table.clone(),
        // A copy: whoever keeps the key must not keep both documents with it.
        key: Key::from_stored(Bytes::copy_from_slice(&record.key)),
        old: record.old.map(Document::from_stored),
        new: record.new.map(Document::from_stored),
        old_version: Seq(record.old_version),
        time: Timestamp(record.time_ms),
        cause,
    })
}

pub(super) fn encode_row(number: u32, key: &Key, version: Seq, document: &Document) -> Vec<u8> {
    let mut value = unsealed_value(8 + document.as_bytes().len());
    value.extend_from_slice(&version.0.to_be_bytes());
    value.extend_from_slice(document.as_bytes());
    seal(row_place(number, key.as_bytes()), value)
}

pub(super) fn decode_row(number: u32, key: &[u8], value: &[u8]) -> Result<Row, StoreError> {
    let (version, document) = decode_document(number, key, value)?;
    Ok(Row { key: Key::from_stored(Bytes::copy_from_slice(key)), version, document })
}

/// The version of a row and what it says, for whoever has the key.
pub(super) fn decode_document(number: u32, key: &[u8], value: &[u8]) -> Result<(Seq, Document), StoreError> {
    let (version, document) = checked_row(number, key, value)?;
    Ok((version, Document::from_stored(Bytes::copy_from_slice(document))))
}

/// The version of a row and its document, where they lie.
pub(super) fn checked_row<'a>(number: u32, key: &[u8], value: &'a [u8]) -> Result<(Seq, &'a [u8]), StoreError> {
    let damaged = || {
        let key = Key::from_stored(Bytes::copy_from_slice(key));
        StoreError::Damaged(format!("row {key} of table number {number}: {WRONG_CHECKSUM}"))
    };
    let content = unsealed(row_place(number, key), value).ok_or_else(damaged)?;
    let (version, document) = content.split_first_chunk::<8>().ok_or_else(damaged)?;
    Ok((Seq(u64::from_be_bytes(*version)), document))
}

/// What an index keeps beside the place of a row.
pub(super) fn entry_checksum(number: u32, index: u32, place: &[u8]) -> u32 {
    checksum(&[&number.to_be_bytes(), &index.to_be_bytes(), place])
}

/// Any content as if it were a [`LogRecord`].
#[cfg(feature = "test-doors")]
pub(super) fn sealed_change(number: u32, seq: Seq, content: &[u8]) -> Vec<u8> {
    let mut value = unsealed_value(content.len());
    value.extend_from_slice(content);
    seal(log_place(number, &seq.0.to_be_bytes()), value)
}

const WRONG_CHECKSUM: &str = "its checksum is wrong";

/// Where a value lies, in two parts.
type Place<'a> = ([u8; 4], &'a [u8]);

fn row_place(number: u32, key: &[u8]) -> Place<'_> {
    (number.to_be_bytes(), key)
}

fn log_place(number: u32, seq: &[u8; 8]) -> Place<'_> {
    (number.to_be_bytes(), seq)
}

/// Room for a checksum and for so much content, which has to follow.
fn unsealed_value(content_bytes: usize) -> Vec<u8> {
    let mut value = Vec::with_capacity(CHECKSUM_BYTES + content_bytes);
    value.extend_from_slice(&[0; CHECKSUM_BYTES]);
    value
}

const CHECKSUM_BYTES: usize = 4;

/// Puts a checksum of `value` and of its place before it: redb verifies its pages only after a crash, and a bit may flip any time.
fn seal((number, rest): Place<'_>, mut value: Vec<u8>) -> Vec<u8> {
    let (room, content) = value.split_at_mut(CHECKSUM_BYTES);
    room.copy_from_slice(&checksum(&[&number, rest, content]).to_be_bytes());
    value
}

fn unsealed<'a>((number, rest): Place<'_>, value: &'a [u8]) -> Option<&'a [u8]> {
    let (stored, content) = value.split_first_chunk::<CHECKSUM_BYTES>()?;
    (u32::from_be_bytes(*stored) == checksum(&[&number, rest, content])).then_some(content)
}

fn checksum(parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flipped_bit_anywhere_is_noticed() {
        let document = Document::parse(br#"{"domain":"a.example"}"#).expect("an object");
        let key = Key::text("a.example");
        let table = Table::new("domain_login");
        let change = Change {
            seq: Seq(7),
            table: table.clone(),
            key: key.clone(),
            old: None,
            old_version: Seq::ZERO,
            new: Some(document.clone()),
            time: Timestamp(1),
            cause: Cause::Write,
        };
        let row = encode_row(3, &key, Seq(7), &document);
        let entry = encode_change(3, &change);
        assert_eq!(decode_row(3, key.as_bytes(), &row).expect("whole").document, document);
        assert_eq!(decode_change(&table, 3, Seq(7), &entry).expect("whole"), change);
        for bit in 0..row.len() * 8 {
            let mut flipped = row.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(decode_row(3, key.as_bytes(), &flipped), Err(StoreError::Damaged(_))), "bit {bit}");
        }
        for bit in 0..entry.len() * 8 {
            let mut flipped = entry.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(decode_change(&table, 3, Seq(7), &flipped), Err(StoreError::Damaged(_))), "bit {bit}");
        }
    }

    #[test]
    fn a_value_in_another_place_is_noticed() {
        let document = Document::parse(b"{}").expect("an object");
        let row = encode_row(3, &Key::text("a"), Seq(7), &document);
        assert!(decode_row(4, Key::text("a").as_bytes(), &row).is_err());
        assert!(decode_row(3, Key::text("b").as_bytes(), &row).is_err());
    }
}
