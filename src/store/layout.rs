//! How a store looks inside its file. Whoever changes it raises [`FORMAT_VERSION`] and reads what the older version wrote.

use bytes::Bytes;
use prost::Message;
use redb::TableDefinition;

use super::StoreError;
use crate::change::{Cause, Change, Document, Key, Row, Seq, Table, Timestamp};

/// The version of this layout; a store of a newer one is refused.
pub(super) const FORMAT_VERSION: u64 = 1;

/// `format`, `epoch`, `last_seq`, `log_bytes` as little-endian numbers.
pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
pub(super) const META_FORMAT: &str = "format";
pub(super) const META_EPOCH: &str = "epoch";
pub(super) const META_LAST_SEQ: &str = "last_seq";
pub(super) const META_LOG_BYTES: &str = "log_bytes";

/// Table path to table number.
pub(super) const TABLE_NUMBERS: TableDefinition<'_, &str, u32> = TableDefinition::new("table_numbers");

/// Table number to [`TableRecord`].
pub(super) const TABLES: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("tables");

/// Table number and key to version (8 bytes, big-endian) and document.
pub(super) const ROWS: TableDefinition<'_, (u32, &[u8]), &[u8]> = TableDefinition::new("rows");

/// Table number and position to [`LogRecord`]: one table's changes lie together, for replay.
pub(super) const LOG: TableDefinition<'_, (u32, u64), &[u8]> = TableDefinition::new("log");

/// Position to table number, size in bytes and time in milliseconds: all changes in order, for retention.
pub(super) const LOG_ORDER: TableDefinition<'_, u64, (u32, u32, u64)> = TableDefinition::new("log_order");

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
}

const CAUSE_WRITE: u32 = 0;

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
}

pub(super) fn encode_change(change: &Change) -> Vec<u8> {
    let Cause::Write = change.cause;
    LogRecord {
        kind: 0,
        cause: CAUSE_WRITE,
        time_ms: change.time.0,
        key: Bytes::copy_from_slice(change.key.as_bytes()),
        old: change.old.as_ref().map(Document::to_bytes),
        new: change.new.as_ref().map(Document::to_bytes),
    }
    .encode_to_vec()
}

pub(super) fn decode_change(table: &Table, seq: Seq, bytes: &[u8]) -> Result<Change, StoreError> {
    let damaged = |what: &str| StoreError::Damaged(format!("change {seq} of {}: {what}", table.path()));
    let record = LogRecord::decode(Bytes::copy_from_slice(bytes)).map_err(|error| damaged(&error.to_string()))?;
    if record.kind != 0 || record.cause != CAUSE_WRITE {
        return Err(damaged("an entry of an unknown kind"));
    }
    if record.old.is_none() && record.new.is_none() {
        return Err(damaged("neither an old nor a new row"));
    }
    Ok(Change {
        seq,
        table: table.clone(),
        key: Key::from_stored(record.key),
        old: record.old.map(Document::from_stored),
        new: record.new.map(Document::from_stored),
        time: Timestamp(record.time_ms),
        cause: Cause::Write,
    })
}

pub(super) fn encode_row(version: Seq, document: &Document) -> Vec<u8> {
    let mut value = Vec::with_capacity(8 + document.as_bytes().len());
    value.extend_from_slice(&version.0.to_be_bytes());
    value.extend_from_slice(document.as_bytes());
    value
}

pub(super) fn decode_row(key: &[u8], value: &[u8]) -> Result<Row, StoreError> {
    let (version, document) =
        value.split_first_chunk::<8>().ok_or_else(|| StoreError::Damaged("a row without a version".to_owned()))?;
    Ok(Row {
        key: Key::from_stored(Bytes::copy_from_slice(key)),
        version: Seq(u64::from_be_bytes(*version)),
        document: Document::from_stored(Bytes::copy_from_slice(document)),
    })
}
