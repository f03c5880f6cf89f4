//! What the server does wrong, when a test asks for it.

use std::collections::VecDeque;
use std::time::Duration;

use serde_json::{Value, json};

/// How a connection misbehaves. The default is a server in good health.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    pub(crate) handshake: HandshakeFault,
    /// The handshake is sent in pieces of so many bytes.
    pub(crate) handshake_piece_bytes: Option<usize>,
    /// Answers are sent in pieces of so many bytes.
    pub(crate) answer_piece_bytes: Option<usize>,
    /// Half-open: bytes are taken, nothing is done with them, and nothing is sent. What was taken is dealt with
    /// when this ends.
    pub(crate) is_mute: bool,
    /// Every answer comes so much later; answers do not wait for each other.
    pub(crate) delay: Duration,
    /// Every write is refused, for want of permission.
    pub(crate) refuses_writes: bool,
    /// The row with this key cannot be written: its shard is not available.
    pub(crate) unavailable_key: Option<Value>,
    /// So many of the next feeds are refused, as after a resharding.
    pub(crate) feeds_to_refuse: usize,
    /// After each of the next so many writes the connection is cut: applied, not answered.
    pub(crate) writes_to_leave_unanswered: usize,
    /// The next answers, spoiled one after the other.
    pub(crate) spoils: VecDeque<(Aim, Spoil)>,
}

/// How a handshake goes wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum HandshakeFault {
    #[default]
    None,
    /// The server's last word proves a different password.
    WrongSignature,
    /// The server's last word proves nothing.
    NoSignature,
    /// The server's nonce does not begin with the client's.
    WrongNonce,
    /// The server speaks only a later protocol.
    LaterProtocol,
    /// Whatever the password is, it is wrong.
    WrongPassword,
    /// This text and a NUL, then the end.
    Text(String),
    /// The end, before the first word.
    End,
    /// The end, before the last word.
    EndBeforeLast,
    /// Nothing, ever.
    Silence,
}

/// Which answers are spoiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aim {
    Any,
    /// Answers of changefeeds.
    Feeds,
    /// All others.
    Queries,
}

/// How an answer is spoiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Spoil {
    /// A header with this length, and nothing after it.
    Length(u32),
    /// This text instead of the answer.
    Text(String),
    /// The answer, to another question.
    Token(u64),
    /// No answer.
    Nothing,
    /// The first half of the answer, then the end of the connection.
    Half,
}

/// How connections are cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Ending {
    #[default]
    Close,
    Reset,
}

/// An element that no healthy feed has.
#[derive(Clone, Debug)]
pub(crate) enum Poison {
    /// A row nested so deep.
    Deep(usize),
    /// A row that is this value, and not an object.
    NotAnObject(Value),
    /// A row without its primary key.
    NoKey,
    /// A row with such a primary key.
    KeyOf(Value),
    /// A change of a row that nobody knows.
    UnknownKey(Value),
    /// A row has moved out of what was read.
    Uninitial(Value),
    /// `{"error": …}`.
    Error(String),
    /// The last change once more.
    Again,
    /// This text.
    Text(String),
}

impl Poison {
    /// The element's text, where it depends on nothing but the name of the primary key.
    pub(super) fn text(&self, primary_key: &str) -> Option<String> {
        let added = |row: Value| json!({"new_val": row, "old_val": null, "type": "add"}).to_string();
        Some(match self {
            Self::Deep(levels) => deep_change(primary_key, *levels),
            Self::NotAnObject(value) => added(value.clone()),
            Self::NoKey => added(json!({"name": "a row without its key"})),
            Self::KeyOf(key) => added(json!({primary_key: key, "name": "a row with an odd key"})),
            Self::UnknownKey(key) => {
                let row = |version| json!({primary_key: key, "version": version});
                json!({"new_val": row(2), "old_val": row(1), "type": "change"}).to_string()
            }
            Self::Uninitial(row) => json!({"old_val": row, "type": "uninitial"}).to_string(),
            Self::Error(text) => json!({"error": text}).to_string(),
            Self::Text(text) => text.clone(),
            Self::Again => return None,
        })
    }
}

fn deep_change(primary_key: &str, levels: usize) -> String {
    let row = deep_row(primary_key, levels);
    format!(r#"{{"new_val":{row},"old_val":null,"type":"add"}}"#)
}

/// A row with arrays in arrays. It is text: a value that deep cannot even be dropped on a small stack.
pub(crate) fn deep_row(primary_key: &str, levels: usize) -> String {
    let key = Value::from(primary_key);
    format!(r#"{{{key}:"deep","nested":{}{}}}"#, "[".repeat(levels), "]".repeat(levels))
}
