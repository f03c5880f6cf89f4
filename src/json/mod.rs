//! JSON values, read as they stand.
//!
//! `serde_json` gives a meaning of its own to an object with a certain member, by which it passes raw text through. A row is not
//! written for it, and must be read as what it says. Binary data in a row are an object that is one value, as RethinkDB writes it.

mod merge;
pub(crate) mod scanner;

use std::cell::RefCell;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value, json};

pub use self::merge::merged;

/// Reads one JSON value.
pub fn read(text: &[u8]) -> Result<Value, serde_json::Error> {
    serde_json::from_slice(text).map(|Plain(value)| value)
}

thread_local! {
    /// Texts are written here, and grow only once.
    static WRITTEN: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What a thread keeps of the room for texts.
const KEPT_BYTES: usize = 16 * 1024;

/// The text of `value`, without blanks.
pub fn text(value: &Value) -> Bytes {
    // Into memory, and the names of members are texts.
    written(|text| {
        serde_json::to_writer(text, value).unwrap_or_else(|error| panic!("a JSON value has no text: {error}"))
    })
    .0
}

/// What `write` puts into an empty text, in as much memory as it needs, and what it returns.
fn written<T>(write: impl FnOnce(&mut Vec<u8>) -> T) -> (Bytes, T) {
    let mut written = WRITTEN.take();
    let result = write(&mut written);
    let text = Bytes::copy_from_slice(&written);
    written.clear();
    written.shrink_to(KEPT_BYTES);
    WRITTEN.set(written);
    (text, result)
}

/// The bytes that `value` stands for; `None` where it is something else.
pub fn bytes(value: &Value) -> Option<Vec<u8>> {
    let members = value.as_object().filter(|members| members.get("$reql_type$") == Some(&Value::from("BINARY")))?;
    let data = members.get("data")?.as_str()?.as_bytes();
    if memchr::memchr2(b'\r', b'\n', data).is_none() {
        return BASE64.decode(data).ok();
    }
    // RethinkDB breaks what is long into lines.
    let joined: Vec<u8> = data.iter().copied().filter(|byte| !matches!(byte, b'\r' | b'\n')).collect();
    BASE64.decode(joined).ok()
}

/// The value that stands for `bytes`.
pub fn binary(bytes: &[u8]) -> Value {
    json!({"$reql_type$": "BINARY", "data": BASE64.encode(bytes)})
}

struct Plain(Value);

impl<'de> Deserialize<'de> for Plain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PlainVisitor).map(Self)
    }
}

struct PlainVisitor;

impl<'de> Visitor<'de> for PlainVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Plain(element)) = elements.next_element()? {
            list.push(element);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some((name, Plain(value))) = members.next_entry::<String, Plain>()? {
            object.insert(name, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_by_everyone_else() {
        for text in [
            "null",
            "true",
            "-1",
            "18446744073709551615",
            "1.5e3",
            "\"a\\u00e9\"",
            "[1,[],{}]",
            r#"{"b":1,"a":{"c":null}}"#,
        ] {
            let expected: Value = serde_json::from_str(text).expect("JSON");
            assert_eq!(read(text.as_bytes()).expect("JSON"), expected, "{text}");
        }
        for text in ["", "[1,]", "1e999", "{\"a\":1}}", "nul"] {
            assert!(read(text.as_bytes()).is_err(), "{text}");
        }
    }

    /// A copy must not drift from its source, nor a file from what is imported of it.
    #[test]
    fn numbers_are_read_as_the_nearest_double_and_written_so_that_they_are_read_again() {
        let long = format!("{}0", "6".repeat(96));
        for (text, number) in [(&*long, 6.666_666_666_666_666_5e96), ("9007199254740993.5", 9_007_199_254_740_994.0)] {
            let value = read(text.as_bytes()).expect("a number");
            assert_eq!(value.as_f64(), Some(number), "{text}");
            assert_eq!(read(value.to_string().as_bytes()).expect("a number"), value, "{text}");
        }
    }

    #[test]
    fn binary_data_are_read_as_they_are_written() {
        let value = binary(&[0, 255]);
        assert_eq!(value.to_string(), r#"{"$reql_type$":"BINARY","data":"AP8="}"#);
        assert_eq!(bytes(&value), Some(vec![0, 255]));
        assert_eq!(bytes(&json!({"$reql_type$": "BINARY", "data": ""})), Some(Vec::new()));
        // Long ones come in lines.
        assert_eq!(bytes(&json!({"$reql_type$": "BINARY", "data": "AP\r\n8=\n"})), Some(vec![0, 255]));
        for other in [json!("AP8="), json!({"data": "AP8="}), json!({"$reql_type$": "BINARY", "data": "no base64!"})] {
            assert_eq!(bytes(&other), None);
        }
    }

    #[test]
    fn no_member_has_a_meaning_of_its_own() {
        let text = r#"{"$serde_json::private::RawValue":"[1]"}"#;
        assert_eq!(read(text.as_bytes()).expect("JSON").to_string(), text);
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        assert!(read(deep.as_bytes()).is_err(), "what is nested too deeply is refused");
    }
}
