//! What clients and server say to each other, whatever the bytes look like; one sibling per wire format.

pub mod protobuf;

use std::num::NonZeroU64;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::catalog::{self, Form};
use crate::change::{Epoch, Seq};
use crate::feed::{
    Content, KeptMessages, MessageKind, SeenChange, SnapshotRow, SnapshotRows, SourceDoubt, ViewChanges,
};
use crate::proto;
use crate::summary::Summary;

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
    /// Changes of a subscription as they happen, each of which is an event of its own.
    Changes {
        /// The subscription, by its number on this connection.
        subscription_id: i32,
        /// The changes.
        changes: LiveChanges,
    },
    /// Rows of a subscription that were there when it began, each of which is an event of its own.
    Rows {
        /// The subscription, by its number on this connection.
        subscription_id: i32,
        /// The rows.
        rows: InitialRows,
    },
}

/// Rows of a page that are sent together.
#[derive(Clone, Debug)]
pub struct InitialRows {
    /// How they are shown.
    pub shape: Shape,
    /// The rows of the page.
    pub rows: Arc<SnapshotRows>,
    /// Which portions of them.
    pub portions: Range<usize>,
    /// Which event of the subscription the first one is, if the client asked for states.
    pub first_number: Option<u64>,
}

impl InitialRows {
    /// Which rows of the page they are.
    pub fn range(&self) -> Range<usize> {
        self.rows.rows(&self.portions).expect("a page has the portions that are sent of it")
    }

    /// One by one.
    pub fn events(self) -> impl Iterator<Item = Event> {
        let Self { shape, ref rows, first_number, .. } = self;
        let rows = Arc::clone(rows);
        self.range().zip(0..).map(move |(row, at)| Event {
            token: None,
            number: first_number.map(|first| first + at),
            news: News::Row { shape, content: Content::Row(SnapshotRow::of(&rows, row)) },
        })
    }
}

/// How a subscription will be sent rows of a page that is yet to be read: each as its document stands.
#[derive(Clone, Copy, Debug)]
pub struct RowsToCome {
    /// The subscription, by its number on its connection.
    pub subscription_id: i32,
    /// How rows are shown.
    pub shape: Shape,
    /// Which event of the subscription the first one of the page is, if the client asked for states.
    pub first_number: Option<u64>,
}

/// What a transport puts before a message of so many bytes.
pub type MessageHeader = fn(usize) -> Header;

/// The bytes before a message.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    /// The first ones.
    pub bytes: [u8; HEADER_BYTES_MAX],
    /// How many.
    pub len: usize,
}

/// No transport puts more before a message.
pub const HEADER_BYTES_MAX: usize = 10;

impl RowsToCome {
    /// Whether messages of this shape end with the document of the row, as it stands.
    pub fn can_be_laid_out(shape: Shape) -> bool {
        matches!(shape.form, Form::Json(_)) && shape.include_document
    }
}

/// Changes that a feed has handed over together.
#[derive(Clone, Debug)]
pub struct LiveChanges {
    /// How they are shown.
    pub shape: Shape,
    /// What happened.
    pub changes: ViewChanges,
    /// With the token behind each.
    pub with_tokens: bool,
    /// Which event of the subscription the first one is, if the client asked for states.
    pub first_number: Option<u64>,
}

impl LiveChanges {
    /// `changes` as messages of this kind, which have nothing else that is their subscriber's own; and the subscription.
    pub fn plain(kind: MessageKind, changes: ViewChanges) -> (i32, Self) {
        let (shape, subscription_id) = Shape::of_kind(kind);
        (subscription_id, Self { shape, changes, with_tokens: false, first_number: None })
    }

    /// One by one.
    pub fn events(self) -> impl Iterator<Item = Event> {
        let Self { shape, changes, with_tokens, first_number } = self;
        changes.zip(0..).map(move |(change, at)| Event {
            token: change.token().filter(|_| with_tokens).cloned(),
            number: first_number.map(|first| first + at),
            news: News::Row { shape, content: Content::Change(SeenChange::Live(change)) },
        })
    }
}

/// Takes messages, one after the other.
pub trait Messages {
    /// Takes a message, whose bytes `write` appends to what it is given.
    fn put(&mut self, write: impl FnOnce(&mut Vec<u8>));

    /// Takes what `put` puts, and returns a copy of it for [`Messages::put_kept`], if it can be taken again.
    fn put_to_keep(&mut self, put: impl FnOnce(&mut Self)) -> Option<KeptMessages> {
        put(self);
        None
    }

    /// Takes what was kept.
    fn put_kept(&mut self, kept: &KeptMessages);
}

impl Messages for Vec<Vec<u8>> {
    fn put(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut message = Vec::new();
        write(&mut message);
        self.push(message);
    }

    fn put_kept(&mut self, kept: &KeptMessages) {
        panic!("{kept:?} were kept by somebody else");
    }
}

/// News of a subscription.
#[derive(Clone, Debug)]
pub struct Event {
    /// What happened.
    pub news: News,
    /// Where the client can go on behind it, if it asked for tokens and this is such a place.
    pub token: Option<Bytes>,
    /// Which event of the subscription this is, from 1, if the client asked for states.
    pub number: Option<u64>,
}

/// What happened in a subscription.
#[derive(Clone, Debug)]
pub enum News {
    /// A row is there, or changed.
    Row {
        /// How it is shown.
        shape: Shape,
        /// The row or the change.
        content: Content,
    },
    /// The subscription stands otherwise than before.
    State(State),
    /// Something else, which is no row; an event without a body says that there is nothing to say.
    Body(Option<Box<proto::event::Body>>),
    /// The subscription has ended by itself; no other event follows.
    Closed {
        /// How.
        end: End,
        /// Why, for the client, where it is no good end.
        message: Option<String>,
    },
}

/// How a subscription has ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// There is no more to come.
    Complete,
    /// It cannot go on.
    Error,
}

/// How rows are shown.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// As which messages.
    pub form: Form,
    /// With the new row.
    pub include_document: bool,
    /// With the old row.
    pub include_old: bool,
}

/// The number by which events of any table are told from those of a list.
pub(crate) const TABLE_EVENT: u32 = 103;

impl Shape {
    /// The kind of a message for this subscription that shows a change, and has nothing else that is its subscriber's own.
    pub fn message_kind(self, subscription_id: i32) -> MessageKind {
        let number = match self.form {
            Form::List(table) => table.event_number,
            Form::Json(_) => TABLE_EVENT,
        };
        let shown = (u64::from(number) << 2) | (u64::from(self.include_document) << 1) | u64::from(self.include_old);
        let kind = (shown << 32) | u64::from(subscription_id.cast_unsigned());
        MessageKind(NonZeroU64::new(kind).expect("no event has the number 0"))
    }

    /// What [`Shape::message_kind`] made `kind` of: the shape, and the subscription.
    pub(crate) fn of_kind(MessageKind(kind): MessageKind) -> (Self, i32) {
        let (shown, subscription_id) = (kind.get() >> 32, kind.get() as u32);
        // The encoding asks nothing of the table of a JSON event.
        let form = catalog::table_of_event((shown >> 2) as u32).map_or(Form::Json(None), Form::List);
        let shape = Self { form, include_document: shown & 2 != 0, include_old: shown & 1 != 0 };
        (shape, subscription_id.cast_signed())
    }
}

/// How a subscription stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// How.
    pub kind: StateKind,
    /// The history that the position counts in.
    pub epoch: Epoch,
    /// What the client holds, if it is the view at one position.
    pub holds: Option<(Seq, Summary)>,
}

/// How a subscription can stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateKind {
    /// The rows that are there follow.
    Initializing,
    /// They were all sent.
    Ready,
    /// What follows is sent as it happens.
    Live,
    /// The client reads more slowly than rows change.
    Slow,
    /// The rows may differ from those of the source.
    InDoubt(SourceDoubt),
    /// What the client holds counts no more.
    Reset(ResetReason),
    /// Nothing new.
    Heartbeat,
}

/// Why what a client holds counts no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResetReason {
    /// Some of the changes since are no longer kept.
    Retention,
    /// The token is of another history.
    Epoch,
    /// The token is newer than the data.
    Future,
    /// The token is of another view, or of somebody else.
    View,
    /// The token was made by another server.
    Server,
}

impl ResetReason {
    /// What it says to the client.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Retention => "some of the changes since are no longer kept; all rows follow",
            Self::Epoch => "the token is of another history of the data; all rows follow",
            Self::Future => "the token is newer than the data, as after a backup was restored; all rows follow",
            Self::View => "the token is of another table, filter or user; all rows follow",
            Self::Server => {
                "the token was made by another server, or by this one before it lost its data; all rows follow"
            }
        }
    }

    /// Its name in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Retention => "retention",
            Self::Epoch => "epoch",
            Self::Future => "future",
            Self::View => "view",
            Self::Server => "server",
        }
    }
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
    /// A message in more fragments than are allowed.
    TooManyFragments,
    /// A message that took longer to come than what is allowed.
    MessageTooSlow,
    /// Pings or pongs faster than what is allowed.
    TooManyPings,
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
    pub const ALL: [Self; 11] = [
        Self::Asked,
        Self::ShuttingDown,
        Self::Protocol,
        Self::WrongFrameType,
        Self::Undecodable,
        Self::TooManyFragments,
        Self::MessageTooSlow,
        Self::TooManyPings,
        Self::TooBig,
        Self::Unresponsive,
        Self::Stalled,
    ];

    /// How it is said.
    pub const fn close(self) -> Close {
        let (code, text, retry) = match self {
            Self::Asked => (1000, "your own close frame, sent back", Retry::No),
            Self::ShuttingDown => (1001, "the server is shutting down; connect again in a moment", Retry::Yes),
            Self::Protocol => (1002, "WebSocket protocol error", Retry::No),
            Self::WrongFrameType => (1003, "send binary frames: each is one protobuf Request", Retry::No),
            Self::Undecodable => (1007, "undecodable: not a protobuf Request", Retry::No),
            Self::TooManyFragments => (1008, "too many fragments: send a message in fewer frames", Retry::Yes),
            Self::MessageTooSlow => (1008, "too slow: a message was not complete in time; connect again", Retry::Yes),
            Self::TooManyPings => (1008, "too many pings: send fewer", Retry::Yes),
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
            Self::TooManyFragments => "too_many_fragments",
            Self::MessageTooSlow => "message_too_slow",
            Self::TooManyPings => "too_many_pings",
            Self::TooBig => "too_big",
            Self::Unresponsive => "unresponsive",
            Self::Stalled => "stalled",
        }
    }
}
