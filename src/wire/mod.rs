//! What clients and server say to each other, whatever the bytes look like; one sibling per wire format.

pub mod protobuf;

use std::sync::Arc;

use crate::catalog::CatalogTable;
use crate::change::Row;
use crate::feed::Published;
use crate::proto;

/// A request of a client.
#[derive(Debug)]
pub struct ClientMessage {
    /// The client's number for it, repeated in the response.
    pub request_id: i32,
    /// Its size on the wire, in bytes.
    pub size: usize,
    /// What it asks for; `None` where it names no command that is known here.
    pub command: Option<proto::request::Command>,
}

/// Something for a client.
#[derive(Debug)]
pub enum ServerMessage {
    /// The one answer to a request.
    Response {
        /// The client's number of the request.
        request_id: i32,
        /// The body of the response, if it has one; or the text of the error.
        result: Result<Option<Box<proto::response::Body>>, String>,
    },
    /// News of a subscription.
    Event {
        /// The subscription, by its number on this connection.
        subscription_id: i32,
        /// The news.
        event: Event,
    },
}

/// News of a subscription.
#[derive(Clone, Debug)]
pub enum Event {
    /// A row that is there.
    Row {
        /// The entry of its table.
        table: &'static CatalogTable,
        /// The row.
        row: Row,
    },
    /// A change.
    Change {
        /// The entry of its table.
        table: &'static CatalogTable,
        /// The change, shared with other subscribers.
        published: Arc<Published>,
    },
    /// The subscription has ended by itself; no other event follows.
    Closed {
        /// Why, for the client.
        message: String,
    },
}

/// Why the server ends a connection: all that a client ever sees of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// The client asked for it.
    Asked,
    /// The server stops.
    ShuttingDown,
    /// The bytes break the WebSocket protocol.
    Protocol,
    /// A text frame where binary frames are spoken.
    WrongFrameType,
    /// A message that cannot be decoded.
    Undecodable,
    /// A message larger than what is allowed.
    TooBig,
    /// No answer to pings.
    Unresponsive,
    /// Has not read for longer than what is allowed.
    Stalled,
}

/// What a client should do after an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Connect again, after a moment.
    Yes,
    /// The same would end in the same way.
    No,
}

/// One row of the table that maps a [`CloseReason`] to every wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Close {
    /// The WebSocket close code.
    pub code: u16,
    /// A short text: what happened and what to do.
    pub text: &'static str,
    /// Whether connecting again makes sense.
    pub retry: Retry,
}

impl CloseReason {
    /// All reasons, for the documentation and for metrics.
    pub const ALL: [Self; 8] = [
        Self::Asked,
        Self::ShuttingDown,
        Self::Protocol,
        Self::WrongFrameType,
        Self::Undecodable,
        Self::TooBig,
        Self::Unresponsive,
        Self::Stalled,
    ];

    /// How it is said.
    pub const fn close(self) -> Close {
        let (code, text, retry) = match self {
            Self::Asked => (1000, "goodbye", Retry::No),
            Self::ShuttingDown => (1001, "the server is shutting down; connect again in a moment", Retry::Yes),
            Self::Protocol => (1002, "WebSocket protocol error", Retry::No),
            Self::WrongFrameType => (1003, "send binary frames: each is one protobuf Request", Retry::No),
            Self::Undecodable => (1007, "undecodable: not a protobuf Request", Retry::No),
            Self::TooBig => (1009, "message too big", Retry::No),
            Self::Unresponsive => (4000, "no answer to pings", Retry::Yes),
            Self::Stalled => (4001, "too slow: nothing was read for too long; connect again", Retry::Yes),
        };
        Close { code, text, retry }
    }

    /// Its name in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::ShuttingDown => "shutting_down",
            Self::Protocol => "protocol",
            Self::WrongFrameType => "wrong_frame_type",
            Self::Undecodable => "undecodable",
            Self::TooBig => "too_big",
            Self::Unresponsive => "unresponsive",
            Self::Stalled => "stalled",
        }
    }
}
