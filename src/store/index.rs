//! Indexes: one entry for each row, in the order of the values that some of its members have.
//!
//! An entry is the values as bytes that sort like them, then the primary key. A value that an index does not hold, or that
//! is missing, sorts before all others; so every row of a table has an entry in each of its indexes.

use redb::{ReadableTable, WriteTransaction};
use serde_json::Value;

use super::layout::{self, INDEX_ENTRIES, IndexRecord, ROWS};
use super::{Index, RangeStart, StoreError, TableIndexes};
use crate::change::{Change, Document, Key};
use crate::json;
use crate::json::scanner::{Member, Members, NotAnObject};
use crate::planted::PlantedBug;

/// What a table called `path` remembers of its indexes among those of `all`.
pub(super) fn records_of(path: &str, all: &[TableIndexes]) -> Vec<IndexRecord> {
    let own = all.iter().find(|of| of.table.path() == path).map_or(&[][..], |of| of.indexes);
    own.iter().map(IndexRecord::of).collect()
}

impl IndexRecord {
    fn of(index: &Index) -> Self {
        let members = index.members.iter().map(|&member| member.to_owned()).collect();
        Self { name: index.name.to_owned(), members }
    }

    /// Whether it is `index`.
    pub(super) fn is(&self, index: &Index) -> bool {
        self.name == index.name && self.members == index.members
    }
}

/// Has `put` make the entries of a row what `change` made of the row: it gets the number of an index, a place in it, and whether an
/// entry is there now.
pub(super) fn follow(indexes: &[IndexRecord], change: &Change, mut put: impl FnMut(u32, Vec<u8>, bool)) {
    if indexes.is_empty() {
        return;
    }
    let old = change.old.as_ref().map(|document| Held::of(document, indexes));
    let new = change.new.as_ref().map(|document| Held::of(document, indexes));
    for (index, record) in (0..).zip(indexes) {
        if let (Some(old), Some(new)) = (&old, &new)
            && record.members.iter().all(|member| old.text(member) == new.text(member))
        {
            continue;
        }
        let old = old.as_ref().map(|held| entry(record, held, change.key.as_bytes()));
        let new = new.as_ref().map(|held| entry(record, held, change.key.as_bytes()));
        if old == new {
            continue;
        }
        if let Some(old) = old {
            put(index, old, false);
        }
        let is_forgotten = PlantedBug::IndexForgetsNewRows.is_planted() && change.old.is_none();
        if let Some(new) = new.filter(|_| !is_forgotten) {
            put(index, new, true);
        }
    }
}

/// Removes all entries of the table `number`, and makes those of `indexes` from its rows.
pub(super) fn rebuild(transaction: &WriteTransaction, number: u32, indexes: &[IndexRecord]) -> Result<(), StoreError> {
    const FIRST: &[u8] = &[];
    let mut entries = transaction.open_table(INDEX_ENTRIES)?;
    entries.retain_in((number, 0, FIRST)..(number + 1, 0, FIRST), |_, _| false)?;
    if indexes.is_empty() {
        return Ok(());
    }
    for row in transaction.open_table(ROWS)?.range((number, FIRST)..(number + 1, FIRST))? {
        let (place, value) = row?;
        let row = layout::decode_row(number, place.value().1, value.value())?;
        let held = Held::of(&row.document, indexes);
        for (index, record) in (0..).zip(indexes) {
            let entry = entry(record, &held, row.key.as_bytes());
            entries.insert((number, index, entry.as_slice()), layout::entry_checksum(number, index, &entry))?;
        }
    }
    Ok(())
}

/// The members of a document that some indexes hold, as they stand in its text.
struct Held<'d>(Vec<Member<'d>>);

impl<'d> Held<'d> {
    /// None where the document cannot be read, which only a damaged or foreign store has. What is behind them is not looked at.
    fn of(document: &'d Document, indexes: &[IndexRecord]) -> Self {
        let names = || indexes.iter().flat_map(|index| &index.members);
        let read = || {
            let mut held = Vec::new();
            for member in Members::of(document.as_bytes())? {
                let member = member?;
                if names().all(|name| member.is_behind(name)) {
                    break;
                }
                if names().any(|name| name.as_bytes() == member.name) {
                    held.push(member);
                }
            }
            Ok::<_, NotAnObject>(held)
        };
        Self(read().unwrap_or_default())
    }

    fn text(&self, member: &str) -> Option<&'d [u8]> {
        self.0.iter().rfind(|held| held.name == member.as_bytes()).map(|held| held.value)
    }
}

fn entry(index: &IndexRecord, held: &Held<'_>, key: &[u8]) -> Vec<u8> {
    let texts = index.members.iter().map(|member| held.text(member));
    let mut entry =
        Vec::with_capacity(texts.clone().map(|text| 9 + text.map_or(0, <[u8]>::len)).sum::<usize>() + key.len());
    for text in texts {
        let value = text.and_then(|text| json::read(text).ok()).unwrap_or_default();
        IndexValue::of(&value).write_to(&mut entry);
    }
    entry.extend_from_slice(key);
    entry
}

/// The key of the row that has `entry` in an index of as many members; `None` where it is damaged.
pub(super) fn key_of(entry: &[u8], members: usize) -> Option<Key> {
    let mut rest = entry;
    for _ in 0..members {
        let (&tag, value) = rest.split_first()?;
        rest = match tag {
            ABSENT => value,
            NUMBER | TIME => value.get(8..)?,
            TEXT => {
                // A zero byte of the text is followed by 255, and only its end by another one.
                let end = value.windows(2).position(|pair| pair == TEXT_END)?;
                &value[end + TEXT_END.len()..]
            }
            _ => return None,
        };
    }
    Some(Key::from_stored(rest.to_vec()))
}

/// A part of an index: the entries from the first place on, up to the other one, which is not part of it.
pub(super) type Span = (Vec<u8>, Vec<u8>);

/// The entries of rows that have the values of `prefix`, from `start` on; `None` where there can be none.
pub(super) fn span(index: &Index, prefix: &[Value], start: &RangeStart) -> Option<Span> {
    let values = prefix.len() + usize::from(!matches!(start, RangeStart::First));
    assert!(values <= index.members.len(), "a range has {values} values, the index {} has fewer", index.name);
    let mut place = Vec::new();
    for value in prefix {
        IndexValue::held(value)?.write_to(&mut place);
    }
    let end = after_all(&place);
    let begin = match start {
        RangeStart::First => place,
        RangeStart::At(value) => {
            IndexValue::held(value)?.write_to(&mut place);
            place
        }
        RangeStart::After(value) => {
            IndexValue::held(value)?.write_to(&mut place);
            if PlantedBug::RangeRepeatsWhereItStarts.is_planted() { place } else { after_all(&place) }
        }
    };
    Some((begin, end))
}

/// The entries whose first value is a text, and those whose first value is none, which come before.
pub(super) fn texts_and_others() -> (Span, Span) {
    ((vec![TEXT], after_all(&[TEXT])), (Vec::new(), vec![TEXT]))
}

/// The place behind everything that begins with `place`.
fn after_all(place: &[u8]) -> Vec<u8> {
    let kept = place.iter().rposition(|&byte| byte < u8::MAX).map_or(0, |last| last + 1);
    let mut place = place[..kept].to_vec();
    match place.last_mut() {
        Some(last) => *last += 1,
        // No entry begins with it, since each begins with the tag of a value.
        None => place.push(u8::MAX),
    }
    place
}

/// A value as an index holds it.
#[derive(Clone, PartialEq)]
enum IndexValue<'v> {
    /// There is none, or it is nothing that an index holds.
    Absent,
    Number(f64),
    /// Seconds since 1970.
    Time(f64),
    Text(&'v str),
}

const ABSENT: u8 = 0;
const NUMBER: u8 = 1;
const TIME: u8 = 2;
const TEXT: u8 = 3;
const TEXT_END: [u8; 2] = [0, 0];

impl<'v> IndexValue<'v> {
    fn of(value: &'v Value) -> Self {
        match value {
            Value::Null | Value::Bool(_) | Value::Array(_) => Self::Absent,
            Value::Number(number) => number.as_f64().map_or(Self::Absent, Self::Number),
            Value::String(text) => Self::Text(text),
            Value::Object(members) if members.get("$reql_type$").and_then(Value::as_str) == Some("TIME") => {
                members.get("epoch_time").and_then(Value::as_f64).map_or(Self::Absent, Self::Time)
            }
            Value::Object(_) => Self::Absent,
        }
    }

    /// What an index holds of `value`, if it holds such values.
    fn held(value: &'v Value) -> Option<Self> {
        Some(Self::of(value)).filter(|value| *value != Self::Absent)
    }

    fn write_to(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Absent => bytes.push(ABSENT),
            Self::Number(number) => {
                bytes.push(NUMBER);
                bytes.extend_from_slice(&ordered(*number));
            }
            Self::Time(seconds) => {
                bytes.push(TIME);
                bytes.extend_from_slice(&ordered(*seconds));
            }
            Self::Text(text) => {
                bytes.push(TEXT);
                for &byte in text.as_bytes() {
                    bytes.push(byte);
                    if byte == 0 {
                        bytes.push(u8::MAX);
                    }
                }
                bytes.extend_from_slice(&TEXT_END);
            }
        }
    }
}

/// Bytes that sort like the numbers.
fn ordered(number: f64) -> [u8; 8] {
    // There are two zeros, which are equal.
    let bits = (number + 0.0).to_bits();
    let ordered = if bits >> 63 == 1 { !bits } else { bits | (1 << 63) };
    ordered.to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(value: &Value) -> Vec<u8> {
        let mut bytes = Vec::new();
        IndexValue::of(value).write_to(&mut bytes);
        bytes
    }

    fn time(seconds: f64) -> Value {
        serde_json::json!({"$reql_type$": "TIME", "epoch_time": seconds, "timezone": "+00:00"})
    }

    #[test]
    fn values_sort_numbers_then_times_then_texts_behind_what_is_absent() {
        let sorted = [
            Value::Null,
            serde_json::json!(-1e300),
            serde_json::json!(-2),
            serde_json::json!(0),
            serde_json::json!(1.5),
            serde_json::json!(u64::MAX),
            time(-5.0),
            time(0.25),
            time(1e10),
            serde_json::json!(""),
            serde_json::json!("\0"),
            serde_json::json!("\0\0"),
            serde_json::json!("\0a"),
            serde_json::json!("\u{1}"),
            serde_json::json!("a"),
            serde_json::json!("a\0"),
            serde_json::json!("a\0b"),
            serde_json::json!("a\u{1}"),
            serde_json::json!("ab"),
            serde_json::json!("é"),
        ];
        let places: Vec<Vec<u8>> = sorted.iter().map(bytes).collect();
        assert!(places.windows(2).all(|pair| pair[0] < pair[1]), "{places:?}");
        // Whatever follows in the entry does not matter.
        for pair in places.windows(2) {
            assert!([pair[0].as_slice(), &[255, 255]].concat() < [pair[1].as_slice(), &[0]].concat(), "{pair:?}");
            assert!(pair[0] < after_all(&pair[0]) && after_all(&pair[0]) <= pair[1], "{pair:?}");
        }
    }

    #[test]
    fn what_no_index_holds_is_absent() {
        for value in [
            serde_json::json!(null),
            serde_json::json!(true),
            serde_json::json!([1, "a", [{}]]),
            serde_json::json!({}),
            serde_json::json!({"$reql_type$": "TIME"}),
            serde_json::json!({"$reql_type$": "TIME", "epoch_time": "1"}),
            serde_json::json!({"$reql_type$": "BINARY", "epoch_time": 1}),
            serde_json::json!({"epoch_time": 1, "other": {"$reql_type$": "TIME"}}),
        ] {
            assert_eq!(bytes(&value), [ABSENT], "{value}");
        }
        assert_eq!(bytes(&serde_json::json!(-0.0)), bytes(&serde_json::json!(0)));
    }

    #[test]
    fn only_the_members_of_the_indexes_are_looked_at_and_a_key_is_found_behind_them() {
        let index = IndexRecord::of(&Index { name: "i", members: &["a", "t", "missing", "n"] });
        let text = r#"{"a":"x\u0000y","b":{"a":1},"n":-1,"t":{"$reql_type$":"TIME","epoch_time":9}}"#;
        let document = Document::parse(text.as_bytes()).expect("an object");
        let held = Held::of(&document, std::slice::from_ref(&index));
        assert_eq!(held.0.iter().map(|member| member.name).collect::<Vec<_>>(), [b"a", b"n", b"t"]);
        for key in [Key::text(""), Key::text("\0\0"), Key::number(0.0), Key::binary(&[0, 255])] {
            let entry = entry(&index, &held, key.as_bytes());
            assert_eq!(key_of(&entry, 4), Some(key));
        }
    }

    #[test]
    fn a_damaged_entry_has_no_key() {
        let none: [&[u8]; 6] = [&[], &[NUMBER, 1, 2], &[TEXT, b'a'], &[TEXT, b'a', 0], &[TEXT, 0, 255], &[9]];
        for entry in none {
            assert_eq!(key_of(entry, 1), None, "{entry:?}");
        }
    }

    #[test]
    fn a_document_that_cannot_be_read_has_no_members() {
        let index = IndexRecord::of(&Index { name: "i", members: &["a"] });
        for text in [&b"{\"a\":1"[..], b"[1]", b"{\"a\":1}x", b"\xff"] {
            assert!(Held::of(&Document::from_stored(text.to_vec()), std::slice::from_ref(&index)).0.is_empty());
        }
    }
}
