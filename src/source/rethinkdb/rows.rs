//! Rows of the database as this server keeps them, without I/O.

use std::collections::HashMap;
use std::fmt;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::catalog::StoredTable;
use crate::change::{Document, Key};
use crate::json;

/// A row that cannot be kept.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadRow {
    /// Which one, as far as that can be told.
    pub(super) key: Option<Key>,
    /// Why not; it repeats nothing of the row.
    pub(super) problem: &'static str,
}

impl BadRow {
    /// The key for a report.
    pub(super) fn key_or_unknown(&self) -> Key {
        self.key.clone().unwrap_or_else(|| Key::text("?"))
    }
}

/// Reads a row: its key, and the document without what is never served.
pub(super) fn read(table: &StoredTable, row: &RawValue) -> Result<(Key, Document), BadRow> {
    match json::read(row.get().as_bytes()) {
        Ok(Value::Object(mut members)) => {
            let key = members.get(table.primary_key).and_then(Key::of_value);
            let key =
                key.ok_or(BadRow { key: None, problem: "its key is missing, or of a type that is not served" })?;
            for omitted in table.omitted {
                members.remove(*omitted);
            }
            Ok((key, Document::from_object(members)))
        }
        Ok(_) => Err(BadRow { key: None, problem: "it is no object" }),
        Err(_) => Err(BadRow {
            key: key_only(table, row),
            problem: "it is nested too deeply, or has a number that cannot be kept",
        }),
    }
}

/// Reads the key of a row, whatever else is in it.
pub(super) fn key_only(table: &StoredTable, row: &RawValue) -> Option<Key> {
    // Members are not read before it is known that they are the key: they may be nested too deeply to be read.
    let members: HashMap<String, &RawValue> = serde_json::from_str(row.get()).ok()?;
    let key = json::read(members.get(table.primary_key)?.get().as_bytes()).ok()?;
    Key::of_value(&key)
}

/// What a changefeed says. `Debug` shows no row.
pub enum FeedRow<'a> {
    /// The rows that are there follow.
    Initializing,
    /// They were all sent.
    Ready,
    /// A row that is there.
    Initial(&'a RawValue),
    /// A row that was sent as being there will be sent again.
    Uninitial(&'a RawValue),
    /// A row was written.
    Written(&'a RawValue),
    /// A row is gone; it was this.
    Removed(&'a RawValue),
    /// Something that is no change: some are missing now.
    Error(String),
}

impl fmt::Debug for FeedRow<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Initializing => f.write_str("Initializing"),
            Self::Ready => f.write_str("Ready"),
            Self::Initial(_) => f.write_str("Initial(..)"),
            Self::Uninitial(_) => f.write_str("Uninitial(..)"),
            Self::Written(_) => f.write_str("Written(..)"),
            Self::Removed(_) => f.write_str("Removed(..)"),
            Self::Error(text) => write!(f, "Error({text})"),
        }
    }
}

impl<'a> FeedRow<'a> {
    /// Reads a row of a changefeed with states and types.
    pub fn read(row: &'a RawValue) -> Self {
        #[derive(Deserialize)]
        struct Members<'a> {
            #[serde(rename = "type")]
            kind: Option<String>,
            state: Option<String>,
            error: Option<String>,
            #[serde(borrow)]
            new_val: Option<&'a RawValue>,
            #[serde(borrow)]
            old_val: Option<&'a RawValue>,
        }
        let Ok(Members { kind, state, error, new_val, old_val }) = serde_json::from_str(row.get()) else {
            return Self::Error("a row that is no change".to_owned());
        };
        match (error, state.as_deref(), kind.as_deref(), new_val, old_val) {
            (Some(error), ..) => Self::Error(error),
            (None, Some("initializing"), ..) => Self::Initializing,
            (None, Some("ready"), ..) => Self::Ready,
            (None, None, Some("initial"), Some(row), _) => Self::Initial(row),
            (None, None, Some("uninitial"), _, Some(row)) => Self::Uninitial(row),
            (None, None, Some("add" | "change"), Some(row), _) => Self::Written(row),
            (None, None, Some("remove"), None, Some(row)) => Self::Removed(row),
            _ => Self::Error("a row of a kind that is not known".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::stored_table;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).expect("JSON")
    }

    #[test]
    fn a_row_is_kept_without_what_is_never_served() {
        let job = stored_table("job").expect("a table");
        let row = raw(
            r#"{"old_urls":{"$reql_type$":"BINARY","data":"AAAA"},"name":"x","id":"k","at":{"$reql_type$":"TIME","epoch_time":1.5,"timezone":"+00:00"}}"#,
        );
        let (key, document) = read(&job, &row).expect("a good row");
        assert_eq!(key, Key::text("k"));
        let expected = r#"{"at":{"$reql_type$":"TIME","epoch_time":1.5,"timezone":"+00:00"},"id":"k","name":"x"}"#;
        assert_eq!(document.as_bytes(), expected.as_bytes());
    }

    #[test]
    fn keys_are_text_numbers_or_binary() {
        let rate_limit = stored_table("rate_limit").expect("a table");
        let row = raw(r#"{"token":{"$reql_type$":"BINARY","data":"AQI="}}"#);
        assert_eq!(read(&rate_limit, &row).expect("a good row").0, Key::binary(&[1, 2]));
        let lines = format!("{}\\r\\n{}", "A".repeat(76), "AAAA");
        let row = raw(&format!(r#"{{"token":{{"$reql_type$":"BINARY","data":"{lines}"}}}}"#));
        assert_eq!(read(&rate_limit, &row).expect("a good row").0, Key::binary(&[0; 60]));
        let response = stored_table("response").expect("a table");
        assert_eq!(key_only(&response, &raw(r#"{"sequence":7}"#)), Some(Key::number(7.0)));
        let policy = stored_table("policy").expect("a table");
        for bad in [r#"{"id":true}"#, r#"{"id":["a"]}"#, r#"{"name":"x"}"#, "null", "7", "[]"] {
            assert_eq!(read(&policy, &raw(bad)).expect_err(bad).key, None);
        }
    }

    #[test]
    fn a_row_that_is_nested_too_deeply_is_known_by_its_key() {
        let policy = stored_table("policy").expect("a table");
        let row = raw(&format!(r#"{{"deep":{}{},"id":"k"}}"#, "[".repeat(20_000), "]".repeat(20_000)));
        let bad = read(&policy, &row).expect_err("too deep");
        assert_eq!(bad.key, Some(Key::text("k")));
    }

    #[test]
    fn what_a_feed_says_is_told_apart() {
        let kind = |text: &str| match FeedRow::read(&raw(text)) {
            FeedRow::Initializing => "initializing".to_owned(),
            FeedRow::Ready => "ready".to_owned(),
            FeedRow::Initial(row) => format!("initial {row}"),
            FeedRow::Uninitial(row) => format!("uninitial {row}"),
            FeedRow::Written(row) => format!("written {row}"),
            FeedRow::Removed(row) => format!("removed {row}"),
            FeedRow::Error(text) => format!("error {text}"),
        };
        for (text, expected) in [
            (r#"{"type":"state","state":"initializing"}"#, "initializing"),
            (r#"{"type":"state","state":"ready"}"#, "ready"),
            (r#"{"type":"initial","new_val":{"id":1}}"#, r#"initial {"id":1}"#),
            (r#"{"type":"uninitial","old_val":{"id":1}}"#, r#"uninitial {"id":1}"#),
            (r#"{"type":"add","new_val":{"id":1},"old_val":null}"#, r#"written {"id":1}"#),
            (r#"{"type":"change","new_val":{"id":1},"old_val":{"id":1}}"#, r#"written {"id":1}"#),
            (r#"{"type":"remove","new_val":null,"old_val":{"id":1}}"#, r#"removed {"id":1}"#),
            (
                r#"{"error":"Changefeed cache over array size limit, skipped 3 elements."}"#,
                "error Changefeed cache over array size limit, skipped 3 elements.",
            ),
            (r#"{"type":"new","new_val":{}}"#, "error a row of a kind that is not known"),
            ("7", "error a row that is no change"),
        ] {
            assert_eq!(kind(text), expected);
        }
    }
}
