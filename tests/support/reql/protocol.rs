//! Questions and answers of the ReQL protocol, as bytes.

use serde_json::{Map, Value};

/// What every connection begins with: protocol V1_0.
pub(crate) const MAGIC: u32 = 0x34c2_bdc3;

pub(crate) const START: u64 = 1;
pub(crate) const CONTINUE: u64 = 2;
pub(crate) const STOP: u64 = 3;
pub(crate) const NOREPLY_WAIT: u64 = 4;
pub(crate) const SERVER_INFO: u64 = 5;

/// Kinds of answers.
pub(crate) const ATOM: u8 = 1;
pub(crate) const SEQUENCE: u8 = 2;
pub(crate) const PARTIAL: u8 = 3;
pub(crate) const WAIT_COMPLETE: u8 = 4;
pub(crate) const SERVER_INFO_ANSWER: u8 = 5;
pub(crate) const CLIENT_ERROR: u8 = 16;
pub(crate) const COMPILE_ERROR: u8 = 17;
pub(crate) const RUNTIME_ERROR: u8 = 18;

/// Kinds of runtime errors.
pub(crate) const QUERY_LOGIC: u32 = 3_000_000;
pub(crate) const NON_EXISTENCE: u32 = 3_100_000;
pub(crate) const OP_FAILED: u32 = 4_100_000;
pub(crate) const USER: u32 = 5_000_000;
pub(crate) const PERMISSION: u32 = 6_000_000;

const HEADER_BYTES: usize = 12;

/// A question: the client's token and what it asks.
pub(super) struct Question {
    pub(super) token: u64,
    pub(super) kind: u64,
    pub(super) term: Value,
    pub(super) options: Map<String, Value>,
}

/// The first whole question in `heard`, which is taken out; an error has the token and what is wrong.
pub(super) fn take_question(heard: &mut Vec<u8>) -> Option<Result<Question, (u64, ReqlError)>> {
    let token = u64::from_le_bytes(*heard.first_chunk()?);
    let length = u32::from_le_bytes(*heard.get(8..)?.first_chunk()?) as usize;
    let text = heard.get(HEADER_BYTES..HEADER_BYTES + length)?;
    let question = parse(token, text).map_err(|error| (token, error));
    heard.drain(..HEADER_BYTES + length);
    Some(question)
}

fn parse(token: u64, text: &[u8]) -> Result<Question, ReqlError> {
    let wrong = |what: &str| ReqlError::client(format!("Client is buggy ({what})."));
    let parsed = serde_json::from_slice(text).map_err(|error| wrong(&error.to_string()))?;
    let Value::Array(parts) = parsed else { return Err(wrong("a query is an array")) };
    let mut parts = parts.into_iter();
    let kind = parts.next().as_ref().and_then(Value::as_u64).ok_or_else(|| wrong("a query has a type"))?;
    let term = parts.next().unwrap_or_default();
    let options = match parts.next() {
        Some(Value::Object(options)) => options,
        _ => Map::new(),
    };
    Ok(Question { token, kind, term, options })
}

/// An answer. Its elements are JSON text, so that they can be what no value can hold.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    kind: u8,
    error: Option<u32>,
    elements: Vec<String>,
    notes: Vec<u8>,
}

impl Answer {
    pub(super) fn new(kind: u8, elements: Vec<String>) -> Self {
        Self { kind, error: None, elements, notes: Vec::new() }
    }

    pub(super) fn with_notes(self, notes: Vec<u8>) -> Self {
        Self { notes, ..self }
    }

    /// The answer's text: its type comes first, as the real server writes it.
    fn text(&self) -> String {
        let error = self.error.map(|error| format!(r#""e":{error},"#)).unwrap_or_default();
        let elements = self.elements.join(",");
        let rest = match self.kind {
            SEQUENCE | PARTIAL => format!(r#","n":{:?}"#, self.notes),
            CLIENT_ERROR | COMPILE_ERROR | RUNTIME_ERROR => r#","b":[]"#.to_owned(),
            _ => String::new(),
        };
        format!(r#"{{"t":{},{error}"r":[{elements}]{rest}}}"#, self.kind)
    }

    pub(super) fn frame(&self, token: u64) -> Vec<u8> {
        frame(token, self.text().as_bytes())
    }
}

impl From<ReqlError> for Answer {
    fn from(error: ReqlError) -> Self {
        let text = Value::from(error.text).to_string();
        Self { kind: error.answer, error: error.kind, elements: vec![text], notes: Vec::new() }
    }
}

pub(super) fn frame(token: u64, text: &[u8]) -> Vec<u8> {
    let length = u32::try_from(text.len()).expect("an answer is short");
    [&header(token, length), text].concat()
}

pub(super) fn header(token: u64, length: u32) -> Vec<u8> {
    [&token.to_le_bytes()[..], &length.to_le_bytes()].concat()
}

/// Why a query fails.
#[derive(Clone, Debug)]
pub(super) struct ReqlError {
    answer: u8,
    /// Only runtime errors have one.
    pub(super) kind: Option<u32>,
    pub(super) text: String,
}

impl ReqlError {
    pub(super) fn runtime(kind: u32, text: impl Into<String>) -> Self {
        Self { answer: RUNTIME_ERROR, kind: Some(kind), text: text.into() }
    }

    pub(super) fn logic(text: impl Into<String>) -> Self {
        Self::runtime(QUERY_LOGIC, text)
    }

    pub(super) fn failed(text: impl Into<String>) -> Self {
        Self::runtime(OP_FAILED, text)
    }

    pub(super) fn compile(text: impl Into<String>) -> Self {
        Self { answer: COMPILE_ERROR, kind: None, text: text.into() }
    }

    pub(super) fn client(text: impl Into<String>) -> Self {
        Self { answer: CLIENT_ERROR, kind: None, text: text.into() }
    }
}
