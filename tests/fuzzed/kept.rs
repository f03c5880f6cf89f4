//! What the store keeps, with any damage: it is read as what was written, or not at all.

use starfeed::change::{Cause, Change, Document, Key, Seq, Table, Timestamp};
use starfeed::store::{StoreError, doors};

use super::input::Input;

/// In front of everything that is kept.
const CHECKSUM_BYTES: usize = 4;

pub(crate) fn target(data: &[u8]) {
    let mut input = Input(data);
    let kind = input.byte();
    let place = (u32::from_be_bytes(input.array()), Seq(input.number()));
    match kind % 5 {
        0 => row(place, &mut input),
        1 => change(place, &mut input),
        2 => sealed(place, input.0),
        3 => anything(place, &mut input),
        _ => {
            let members = usize::from(input.byte() % 4);
            if let Some(key) = doors::key_in_index(input.0, members) {
                assert!(input.0.ends_with(key.as_bytes()));
            }
        }
    }
}

fn row((number, version): (u32, Seq), input: &mut Input<'_>) {
    let key = key(input);
    let document = document(input);
    let kept = doors::encode_row(number, &key, version, &document);
    let row = doors::decode_row(number, key.as_bytes(), &kept).expect("as it was written");
    assert_eq!((row.key, row.version, row.document), (key.clone(), version, document));
    if let Some(damaged) = damaged(&kept, input) {
        let result = doors::decode_row(number, key.as_bytes(), &damaged);
        assert!(matches!(result, Err(StoreError::Damaged(_))), "a damaged row was read");
    }
}

fn change((number, seq): (u32, Seq), input: &mut Input<'_>) {
    let table = Table::new("domain_login");
    let shape = input.byte();
    let change = Change {
        seq,
        table: table.clone(),
        key: key(input),
        old: (shape & 1 == 1).then(|| document(input)),
        old_version: Seq(input.number()),
        new: (shape & 3 != 1).then(|| document(input)),
        time: Timestamp(input.number()),
        cause: if shape & 4 == 0 { Cause::Write } else { Cause::Resync },
    };
    let kept = doors::encode_change(number, &change);
    assert_eq!(doors::decode_change(&table, number, seq, &kept).expect("as it was written"), change);
    if let Some(damaged) = damaged(&kept, input) {
        let result = doors::decode_change(&table, number, seq, &damaged);
        assert!(matches!(result, Err(StoreError::Damaged(_))), "a damaged change was read");
    }
}

/// Content that nobody would write, with the right checksum, as a store of another version might have.
fn sealed((number, seq): (u32, Seq), content: &[u8]) {
    let table = Table::new("domain_login");
    let kept = doors::sealed_change(number, seq, content);
    if let Ok(change) = doors::decode_change(&table, number, seq, &kept) {
        assert!(change.old.is_some() || change.new.is_some());
        let again = doors::encode_change(number, &change);
        assert_eq!(doors::decode_change(&table, number, seq, &again).expect("as it was written"), change);
    }
}

fn anything((number, seq): (u32, Seq), input: &mut Input<'_>) {
    let key = key(input);
    if let Ok(row) = doors::decode_row(number, key.as_bytes(), input.0) {
        assert_eq!(doors::encode_row(number, &key, row.version, &row.document), input.0);
    }
    let _ = doors::decode_change(&Table::new("domain_login"), number, seq, input.0);
}

fn key(input: &mut Input<'_>) -> Key {
    let len = usize::from(input.byte());
    Key::from_stored(input.bytes(len).to_vec())
}

/// Any bytes: what the store keeps is not read before somebody asks what is in it.
fn document(input: &mut Input<'_>) -> Document {
    let len = usize::from(input.byte());
    Document::from_stored(input.bytes(len).to_vec())
}

/// `kept` with damage to its checksum, or within 32 bits of what stands behind it: a checksum of 32 bits always notices that.
fn damaged(kept: &[u8], input: &mut Input<'_>) -> Option<Vec<u8>> {
    let mut damaged = kept.to_vec();
    let at = usize::from(u16::from_be_bytes(input.array())) % kept.len();
    let end = if at < CHECKSUM_BYTES { CHECKSUM_BYTES } else { kept.len() };
    for (byte, flipped) in damaged[at..end].iter_mut().zip(input.array::<4>()) {
        *byte ^= flipped;
    }
    (damaged != kept).then_some(damaged)
}
