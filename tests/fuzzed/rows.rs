//! JSON texts as values, and as rows of any table: what is shown of a row can be decoded, and no secret is in it.

use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint};
use serde_json::Value;
use starfeed::catalog::TABLES;
use starfeed::change::{Document, Key};
use starfeed::{json, proto, view};

pub(crate) fn target(data: &[u8]) {
    let Some((table, text)) = data.split_first() else { return };
    let Ok(value) = json::read(text) else {
        assert!(Document::parse(text).is_err());
        return;
    };
    let written = value.to_string();
    assert_eq!(json::read(written.as_bytes()).expect("what was written is JSON"), value);
    if let Some(bytes) = json::bytes(&value) {
        assert_eq!(json::bytes(&json::binary(&bytes)), Some(bytes));
    }
    if let Some(key) = Key::of_value(&value) {
        let _ = (key.to_string(), key.value());
    }
    let Ok(document) = Document::parse(text) else {
        assert!(!value.is_object());
        return;
    };
    assert_eq!(document.members().map(Value::Object), Some(value));
    row(usize::from(*table), &document);
}

fn row(table: usize, document: &Document) {
    let table = &TABLES[table % TABLES.len()];
    let checked = (table.check)(document);
    let shown = view::redacted(document, table.secrets);
    assert_eq!(view::redacted(&shown, table.secrets), shown, "there was something left to hide");
    let key = checked.or_else(|_| {
        let members = document.members().expect("it was read as an object");
        members.get(table.primary_key).and_then(Key::of_value).ok_or_else(String::new)
    });
    let Ok(key) = key else { return };
    if !table.keys.allows(&key) {
        return;
    }
    let name = (table.name_event)(&key, &shown);
    let row = (table.row_message)(&key, &shown);
    // An event is put together of these bytes, which have to fit between the others.
    let mut body = vec![0x08, 1];
    body.extend_from_slice(&name.value);
    proto::Event::decode(&*event(table.event_number, &body)).expect("an event without a row");
    put_field(4, &row.value, &mut body);
    proto::Event::decode(&*event(table.event_number, &body)).expect("an event with a row");
}

/// An event of subscription 1 with this body.
fn event(number: u32, body: &[u8]) -> Vec<u8> {
    let mut event = vec![0x08, 1];
    put_field(number, body, &mut event);
    event
}

fn put_field(number: u32, content: &[u8], message: &mut Vec<u8>) {
    encode_key(number, WireType::LengthDelimited, message);
    encode_varint(content.len() as u64, message);
    message.extend_from_slice(content);
}
