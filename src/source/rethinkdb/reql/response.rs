//! The answers of the database, without I/O: what kind they are, and their rows as raw JSON.
//!
//! Rows are not parsed here. A document may be nested deeper than a parser goes, and must not harm the others.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::error::{Refusal, ReqlError};

/// Rows of one answer. `Debug` shows their size only.
#[derive(Clone, PartialEq, Eq)]
pub struct Page {
    frame: Bytes,
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Page({} bytes)", self.frame.len())
    }
}

impl Page {
    /// The bytes it holds.
    pub fn size(&self) -> usize {
        self.frame.len()
    }

    /// The rows, as they came.
    pub fn rows(&self) -> Result<Vec<&RawValue>, ReqlError> {
        #[derive(Deserialize)]
        struct Rows<'a> {
            #[serde(borrow)]
            r: Vec<&'a RawValue>,
        }
        let rows: Rows<'_> = serde_json::from_slice(&self.frame).map_err(|error| not_json(&error))?;
        Ok(rows.r)
    }
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// Rows, and there are more for who asks.
    Partial(Page),
    /// Rows, or one value, and nothing follows.
    Last(Page),
    /// An error, and nothing follows.
    Error(ReqlError),
}

const SUCCESS_ATOM: u32 = 1;
const SUCCESS_SEQUENCE: u32 = 2;
const SUCCESS_PARTIAL: u32 = 3;
const CLIENT_ERROR: u32 = 16;
const COMPILE_ERROR: u32 = 17;
const RUNTIME_ERROR: u32 = 18;

/// Characters of an error of the database that are passed on.
const ERROR_CHARACTERS_MAX: usize = 500;

impl Response {
    /// Reads the body of a frame.
    pub fn decode(frame: Bytes) -> Result<Self, ReqlError> {
        #[derive(Deserialize)]
        struct Head {
            t: u32,
            e: Option<u32>,
            #[serde(rename = "r")]
            _rows: IgnoredAny,
        }
        #[derive(Deserialize)]
        struct Texts<'a> {
            #[serde(borrow, default)]
            r: Vec<Cow<'a, str>>,
        }
        let head: Head = serde_json::from_slice(&frame).map_err(|error| not_json(&error))?;
        match head.t {
            SUCCESS_PARTIAL => Ok(Self::Partial(Page { frame })),
            SUCCESS_ATOM | SUCCESS_SEQUENCE => Ok(Self::Last(Page { frame })),
            CLIENT_ERROR | COMPILE_ERROR | RUNTIME_ERROR => {
                let texts: Texts<'_> = serde_json::from_slice(&frame).map_err(|error| not_json(&error))?;
                let text: String = texts.r.join(" ").chars().take(ERROR_CHARACTERS_MAX).collect();
                Ok(Self::Error(ReqlError::Refused { kind: Refusal::of(head.e), text }))
            }
            other => Err(ReqlError::Protocol(format!("an answer of the type {other}"))),
        }
    }
}

fn not_json(error: &serde_json::Error) -> ReqlError {
    // The error of the parser may repeat a part of a row.
    ReqlError::Protocol(format!("no JSON as expected at column {}", error.column()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(text: &str) -> Result<Response, ReqlError> {
        Response::decode(Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn rows_come_as_they_are() {
        let Ok(Response::Partial(page)) = response(r#"{"t":3,"r":[{"a":1.50},2, null ],"n":[1]}"#) else {
            panic!("a part of a sequence");
        };
        let rows: Vec<&str> = page.rows().expect("JSON").iter().map(|row| row.get()).collect();
        assert_eq!(rows, [r#"{"a":1.50}"#, "2", "null"]);
        assert!(matches!(response(r#"{"t":1,"r":[1],"n":[]}"#), Ok(Response::Last(_))));
        assert!(matches!(response(r#"{"t":2,"r":[],"n":[]}"#), Ok(Response::Last(_))));
    }

    #[test]
    fn a_row_may_be_nested_as_deep_as_it_likes() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let Ok(Response::Last(page)) = response(&format!(r#"{{"t":2,"r":[{deep},7],"n":[]}}"#)) else {
            panic!("a sequence");
        };
        assert_eq!(page.rows().expect("JSON")[1].get(), "7");
    }

    #[test]
    fn errors_say_what_kind_they_are() {
        let text = r#"{"t":18,"e":4100000,"r":["Changefeed aborted (unavailable)."],"b":[]}"#;
        let Ok(Response::Error(error)) = response(text) else { panic!("an error") };
        assert!(matches!(&error, ReqlError::Refused { kind: Refusal::Unavailable, .. }), "{error:?}");
        assert!(error.is_passing());
        let text = r#"{"t":18,"e":6000000,"r":["User `x` does not have the required `read` permission."]}"#;
        let Ok(Response::Error(error)) = response(text) else { panic!("an error") };
        assert!(!error.is_passing());
    }

    #[test]
    fn what_is_no_answer_is_an_error_that_repeats_nothing() {
        for wrong in ["", "hunter2", r#"{"t":3}"#, r#"{"t":99,"r":[]}"#, r#"{"t":3,"r":["hunter2}"#, "\u{0}"] {
            let error = response(wrong).expect_err("no answer");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }
}
