//! How rows are written down.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use starfeed::change::Timestamp;

/// A row in its stored shape.
pub(crate) type Row = Map<String, Value>;

/// `value` as a row.
pub(crate) fn row(value: Value) -> Row {
    match value {
        Value::Object(row) => row,
        _ => panic!("a row is written down as an object"),
    }
}

/// A point in time.
pub(crate) fn time(at: Timestamp) -> Value {
    json!({"$reql_type$": "TIME", "epoch_time": at.0 as f64 / 1000.0, "timezone": "+00:00"})
}

/// The seconds since 1970 of a stored time.
pub(crate) fn seconds(time: &Value) -> Option<f64> {
    time.get("epoch_time")?.as_f64()
}

/// Bytes.
pub(crate) fn binary(bytes: &[u8]) -> Value {
    json!({"$reql_type$": "BINARY", "data": STANDARD.encode(bytes)})
}

/// The text of a member; empty where there is none.
pub(crate) fn text<'a>(row: &'a Row, member: &str) -> &'a str {
    row.get(member).and_then(Value::as_str).unwrap_or_default()
}

/// The number of a member; 0 where there is none.
pub(crate) fn number(row: &Row, member: &str) -> i64 {
    row.get(member).and_then(Value::as_i64).unwrap_or_default()
}

/// The texts of a member that is a list.
pub(crate) fn texts(row: &Row, member: &str) -> Vec<String> {
    let list = row.get(member).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}
