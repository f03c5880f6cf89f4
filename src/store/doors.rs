//! For tests that give the store any bytes: what it keeps of a row, a change and an index, written and read as it does.

use super::{StoreError, index, layout};
use crate::change::{Change, Document, Key, Row, Seq, Table};

/// What is kept of a row of the table `number`.
pub fn encode_row(number: u32, key: &Key, version: Seq, document: &Document) -> Vec<u8> {
    layout::encode_row(number, key, version, document)
}

/// Reads what [`encode_row`] wrote.
pub fn decode_row(number: u32, key: &[u8], value: &[u8]) -> Result<Row, StoreError> {
    layout::decode_row(number, key, value)
}

/// What is kept of a change in the table `number`.
pub fn encode_change(number: u32, change: &Change) -> Vec<u8> {
    layout::encode_change(number, change)
}

/// Reads what [`encode_change`] wrote.
pub fn decode_change(table: &Table, number: u32, seq: Seq, value: &[u8]) -> Result<Change, StoreError> {
    layout::decode_change(table, number, seq, value)
}

/// Any content in the place of a change, with the checksum that it needs there.
pub fn sealed_change(number: u32, seq: Seq, content: &[u8]) -> Vec<u8> {
    layout::sealed_change(number, seq, content)
}

/// The key in an entry of an index over so many `members`.
pub fn key_in_index(entry: &[u8], members: usize) -> Option<Key> {
    index::key_of(entry, members)
}
