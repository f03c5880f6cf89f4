//! What happened, where, and in which order: the words every other module speaks.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;

use crate::json;

/// The name of a table inside its namespace (a database, a tenant; `default` where nobody chose one).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Table {
    path: Arc<str>,
}

impl Table {
    /// The namespace of every table that was not given another one.
    pub const DEFAULT_NAMESPACE: &'static str = "default";

    /// The table `name` of the default namespace.
    pub fn new(name: &str) -> Self {
        Self::in_namespace(Self::DEFAULT_NAMESPACE, name)
    }

    /// The table `name` of `namespace`. Neither may contain a `/`; names come from the catalog or were checked on entry.
    pub fn in_namespace(namespace: &str, name: &str) -> Self {
        assert!(
            !namespace.contains('/') && !name.contains('/'),
            "a namespace or table name contains a '/': {namespace:?} {name:?}"
        );
        Self { path: format!("{namespace}/{name}").into() }
    }

    /// The table's name without its namespace, as clients know it.
    pub fn name(&self) -> &str {
        self.path.split_once('/').expect("every path has a namespace").1
    }

    /// `namespace/name`: the form the store keeps.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

const KEY_NUMBER: u8 = b'1';
const KEY_BINARY: u8 = b'2';
const KEY_TEXT: u8 = b'3';

/// The primary key of a row. Keys of one table compare as RethinkDB compares them: numbers, then binary, then text.
///
/// A tag byte goes before bytes that sort like the value, so that the store can range over keys it need not understand.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Bytes);

impl Key {
    /// A text key: most tables.
    pub fn text(value: &str) -> Self {
        Self::tagged(KEY_TEXT, value.as_bytes())
    }

    /// A binary key: `rate_limit.token`.
    pub fn binary(value: &[u8]) -> Self {
        Self::tagged(KEY_BINARY, value)
    }

    /// A numeric key: `response.sequence`.
    pub fn number(value: f64) -> Self {
        let bits = value.to_bits();
        let ordered = if bits >> 63 == 1 { !bits } else { bits | (1 << 63) };
        Self::tagged(KEY_NUMBER, &ordered.to_be_bytes())
    }

    /// The key that `value` is in a row; `None` for what is no key.
    pub fn of_value(value: &Value) -> Option<Self> {
        match value {
            Value::String(text) => Some(Self::text(text)),
            Value::Number(number) => number.as_f64().map(Self::number),
            Value::Object(_) => json::bytes(value).map(|bytes| Self::binary(&bytes)),
            Value::Null | Value::Bool(_) | Value::Array(_) => None,
        }
    }

    fn tagged(tag: u8, value: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(value.len() + 1);
        bytes.push(tag);
        bytes.extend_from_slice(value);
        Self(bytes.into())
    }

    /// The text of a text key.
    pub fn as_text(&self) -> Option<&str> {
        match self.0.split_first() {
            Some((&KEY_TEXT, text)) => std::str::from_utf8(text).ok(),
            _ => None,
        }
    }

    /// The bytes of a binary key.
    pub fn as_binary(&self) -> Option<&[u8]> {
        match self.0.split_first() {
            Some((&KEY_BINARY, bytes)) => Some(bytes),
            _ => None,
        }
    }

    /// What the key is; a damaged one reads as the bytes that it has.
    pub fn value(&self) -> KeyValue<'_> {
        KeyValue::of_stored(&self.0)
    }

    /// The bytes the store keeps; they sort like the keys.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The same bytes, shared.
    pub fn to_bytes(&self) -> Bytes {
        self.0.clone()
    }

    /// The key kept as `bytes`, as [`Key::as_bytes`] gave them.
    pub fn from_stored(bytes: impl Into<Bytes>) -> Self {
        Self(bytes.into())
    }
}

/// Keys compare as their bytes do, so that a map of keys can be asked with bytes.
impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

/// What a primary key is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum KeyValue<'a> {
    /// Text.
    Text(&'a str),
    /// A number.
    Number(f64),
    /// Bytes.
    Binary(&'a [u8]),
}

impl<'a> KeyValue<'a> {
    /// The text of the key that is kept as `bytes`, if it is ASCII: that is told sooner than what else it may be.
    pub(crate) fn plain_text_of_stored(bytes: &'a [u8]) -> Option<&'a [u8]> {
        let (&tag, text) = bytes.split_first()?;
        (tag == KEY_TEXT && text.is_ascii()).then_some(text)
    }

    /// What the key is that is kept as `bytes`; a damaged one reads as the bytes that it has.
    pub fn of_stored(bytes: &'a [u8]) -> Self {
        let read = match bytes.split_first() {
            Some((&KEY_TEXT, text)) => std::str::from_utf8(text).ok().map(KeyValue::Text),
            Some((&KEY_NUMBER, ordered)) => ordered.try_into().ok().map(|ordered| {
                let ordered = u64::from_be_bytes(ordered);
                let bits = if ordered >> 63 == 1 { ordered & !(1 << 63) } else { !ordered };
                KeyValue::Number(f64::from_bits(bits))
            }),
            Some((&KEY_BINARY, bytes)) => Some(KeyValue::Binary(bytes)),
            _ => None,
        };
        read.unwrap_or(KeyValue::Binary(bytes))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.value() {
            KeyValue::Text(text) => f.write_str(text),
            // All digits of a huge one help nobody.
            KeyValue::Number(number) if number.abs() >= 1e18 => write!(f, "{number:e}"),
            KeyValue::Number(number) => write!(f, "{number}"),
            KeyValue::Binary(bytes) => bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}")),
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

/// A row's content: one JSON object as text, its members in sorted order, so that equal documents are equal bytes.
///
/// `Debug` shows its size only: documents hold passwords and API keys.
#[derive(Clone, PartialEq, Eq)]
pub struct Document(Bytes);

impl Document {
    /// The document that says what `object` says.
    pub fn from_object(object: serde_json::Map<String, Value>) -> Self {
        Self(json::text(&Value::Object(object)))
    }

    /// Reads one JSON object. The error says what is wrong with the text, without repeating it.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let value = json::read(text).map_err(|error| json_error(&error))?;
        match value {
            Value::Object(object) => Ok(Self::from_object(object)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                Err("a row must be a JSON object".to_owned())
            }
        }
    }

    /// The document kept as `bytes`, as [`Document::as_bytes`] gave them.
    pub fn from_stored(bytes: impl Into<Bytes>) -> Self {
        Self(bytes.into())
    }

    /// The JSON text.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The same text, shared.
    pub fn to_bytes(&self) -> Bytes {
        self.0.clone()
    }

    /// The members of the object; `None` where stored bytes are no JSON object, which only a damaged or foreign store has.
    pub fn members(&self) -> Option<serde_json::Map<String, Value>> {
        match json::read(&self.0) {
            Ok(Value::Object(members)) => Some(members),
            _ => None,
        }
    }
}

impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Document({} bytes)", self.0.len())
    }
}

fn json_error(error: &serde_json::Error) -> String {
    let what = match error.classify() {
        serde_json::error::Category::Eof => "the JSON text ends too early",
        serde_json::error::Category::Io | serde_json::error::Category::Syntax | serde_json::error::Category::Data => {
            "not valid JSON"
        }
    };
    format!("{what} (line {}, column {})", error.line(), error.column())
}

/// The number of a change in its epoch; 0 stands before the first one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub u64);

impl Seq {
    /// Before the first change.
    pub const ZERO: Self = Self(0);

    /// The number that follows.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One unbroken history of a store: a new store is a new epoch, and so is one whose newest changes may be lost.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch(pub u128);

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Epoch({:032x})", self.0)
    }
}

/// A place in the history of a store; no two changes ever share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The history.
    pub epoch: Epoch,
    /// The place in it.
    pub seq: Seq,
}

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub u64);

/// What a change did to its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    /// The row was not there before.
    Added,
    /// The row has another content now.
    Updated,
    /// The row is gone.
    Deleted,
}

/// Why a change is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Somebody wrote the row.
    Write,
    /// The row turned out to be different in the source, and what happened to it in between is not known.
    Resync,
    /// The row was read from the source before anybody could ask for it: it has a number, and is not in the log.
    Load,
}

/// One numbered change of one row: an entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its place in the store's epoch.
    pub seq: Seq,
    /// The table of the row.
    pub table: Table,
    /// The row.
    pub key: Key,
    /// The row before; `None` where there was none.
    pub old: Option<Document>,
    /// The change that made the row before what it was; [`Seq::ZERO`] where there was none.
    pub old_version: Seq,
    /// The row after; `None` where it is gone. Never `None` together with `old`.
    pub new: Option<Document>,
    /// When the writer took it.
    pub time: Timestamp,
    /// Why it is here.
    pub cause: Cause,
}

impl Change {
    /// The bytes it holds in memory, by which queues are bounded.
    pub fn size(&self) -> usize {
        let document = |document: &Option<Document>| document.as_ref().map_or(0, |document| document.as_bytes().len());
        document(&self.old) + document(&self.new) + self.key.as_bytes().len() + CHANGE_OVERHEAD
    }
}

const CHANGE_OVERHEAD: usize = 160;

/// A row as the store holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its primary key.
    pub key: Key,
    /// The number of the change that made it what it is.
    pub version: Seq,
    /// Its content.
    pub document: Document,
}

impl Row {
    /// The bytes it holds in memory, by which pages are bounded.
    pub fn size(&self) -> usize {
        Self::size_of(self.key.as_bytes(), self.document.as_bytes())
    }

    /// The bytes that a row with this key and document holds in memory.
    pub(crate) fn size_of(key: &[u8], document: &[u8]) -> usize {
        key.len() + document.len() + CHANGE_OVERHEAD
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_numbers_then_binary_then_text() {
        let sorted = [
            Key::number(f64::NEG_INFINITY),
            Key::number(-2.5),
            Key::number(0.0),
            Key::number(3.0),
            Key::number(20.0),
            Key::binary(&[0]),
            Key::binary(&[0, 1]),
            Key::text(""),
            Key::text("a"),
            Key::text("aa"),
            Key::text("é"),
        ];
        assert!(sorted.is_sorted());
        assert!(sorted.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn keys_are_read_as_they_were_made() {
        assert_eq!(Key::text("é").value(), KeyValue::Text("é"));
        assert_eq!(Key::binary(&[0, 255]).value(), KeyValue::Binary(&[0, 255]));
        for number in [0.0, -0.0, 1.5, -2.5, f64::MAX, f64::MIN_POSITIVE, f64::NEG_INFINITY] {
            assert_eq!(Key::number(number).value(), KeyValue::Number(number));
        }
    }

    #[test]
    fn keys_are_named_as_one_looks_for_them() {
        let named = [Key::text("é"), Key::number(17.0), Key::number(-2.5), Key::number(1e300), Key::binary(&[0, 255])];
        assert_eq!(named.map(|key| key.to_string()), ["é", "17", "-2.5", "1e300", "00ff"]);
    }

    #[test]
    fn keys_in_rows_are_text_numbers_or_binary() {
        let key = |text: &str| Key::of_value(&json::read(text.as_bytes()).expect("JSON"));
        assert_eq!(key(r#""a""#), Some(Key::text("a")));
        assert_eq!(key("7"), Some(Key::number(7.0)));
        assert_eq!(key(r#"{"$reql_type$":"BINARY","data":"AQI="}"#), Some(Key::binary(&[1, 2])));
        let no_binary = [r#"{"$reql_type$":"BINARY","data":"A"}"#, r#"{"$reql_type$":"TIME","data":"AQI="}"#];
        for text in ["null", "true", r#"["a"]"#, "{}", r#"{"$reql_type$":"BINARY"}"#].iter().chain(&no_binary) {
            assert_eq!(key(text), None, "{text}");
        }
        assert_eq!(Key::binary(&[1, 2]).as_binary(), Some(&[1, 2][..]));
        assert_eq!(Key::text("a").as_binary(), None);
    }

    #[test]
    fn equal_documents_are_equal_bytes() {
        let one = Document::parse(br#"{"b": 1, "a": {"y": null, "x": [1, 2]}}"#);
        let other = Document::parse(br#" {"a":{"x":[1,2],"y":null},"b":1}"#);
        assert_eq!(one, other);
    }

    #[test]
    fn a_document_that_is_no_object_is_refused_without_repeating_it() {
        let error = Document::parse(br#"{"password": "hunter2", }"#).expect_err("a trailing comma");
        assert!(error.starts_with("not valid JSON (line 1"), "{error}");
        assert!(!error.contains("hunter2"));
        assert_eq!(Document::parse(b"[1]"), Err("a row must be a JSON object".to_owned()));
    }

    #[test]
    fn debug_output_never_shows_a_document() {
        let document = Document::parse(br#"{"password":"hunter2"}"#).expect("an object");
        assert!(!format!("{document:?}").contains("hunter2"));
    }
}
