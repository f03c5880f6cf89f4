//! Events: a few bytes that differ between subscribers, around pieces that they share.

use bytes::Bytes;
use prost::Message;
use prost::encoding::{encoded_len_varint, key_len};

use super::start::Start;
use crate::catalog::{CatalogTable, Form, Shown};
use crate::change::{Cause, Change, ChangeKind, Document, Key, KeyValue, Seq};
use crate::feed::{Content, Piece, Published, RowsKind, ShowRows, SnapshotRows};
use crate::proto::{self, subscription_state};
use crate::row_problems::RowProblems;
use crate::store::BlockRow;
use crate::wire::{
    End, Event, InitialRows, LiveChanges, MessageHeader, Messages, News, ResetReason, RowsToCome, Shape, State,
    StateKind, TABLE_EVENT,
};

const SERVER_MESSAGE_EVENT: u32 = 1;
const EVENT_SUBSCRIPTION_ID: u32 = 1;
const EVENT_TOKEN: u32 = 100;
const EVENT_INITIAL: u32 = 101;
const EVENT_VERSION: u32 = 104;
const EVENT_NUMBER: u32 = 105;
const EVENT_RESYNC: u32 = 106;
const BODY_EVENT_TYPE: u32 = 1;
const LIST_EVENT_NEW: u32 = 4;
const LIST_EVENT_OLD: u32 = 5;
const TABLE_EVENT_KEY: u32 = 2;
const TABLE_EVENT_NEW: u32 = 3;
const TABLE_EVENT_OLD: u32 = 4;
const TABLE_KEY_TEXT: u32 = 1;
const TABLE_KEY_NUMBER: u32 = 2;
const TABLE_KEY_BINARY: u32 = 3;

/// Writes one event to the end of `out`.
pub(super) fn encode(subscription_id: i32, event: Event, problems: &RowProblems, out: &mut Vec<u8>) {
    let Event { news, token, number } = event;
    let envelope = |token, number| proto::Event { subscription_id, token, number, ..Default::default() };
    match news {
        News::Row { shape, content } => {
            let shown = Source::of(&content, problems);
            encode_row(subscription_id, shape, &shown, token.as_ref(), number, out);
        }
        News::State(state) => {
            let event = proto::Event { state: Some(state_message(&state)), ..envelope(token, number) };
            message(&Envelope::Other(event), None, out);
        }
        News::Body(body) => {
            let event = proto::Event { body: body.map(|body| *body), ..envelope(token, number) };
            message(&Envelope::Other(event), None, out);
        }
        News::Closed { end, message: text } => {
            let reason = match end {
                End::Complete => proto::subscription_closed::Reason::Complete,
                End::Error => proto::subscription_closed::Reason::Error,
            };
            let closed = proto::SubscriptionClosed { reason: reason.into(), message: text };
            let body = Some(proto::event::Body::SubscriptionClosed(closed));
            message(&Envelope::Other(proto::Event { body, ..envelope(token, number) }), None, out);
        }
    }
}

/// Writes one event for each of `changes`.
pub(super) fn encode_changes(
    subscription_id: i32,
    changes: &LiveChanges,
    problems: &RowProblems,
    out: &mut impl Messages,
) {
    let LiveChanges { shape, changes, with_tokens, first_number } = changes;
    let plain = (changes.has_many_subscribers() && !with_tokens && first_number.is_none())
        .then(|| shape.message_kind(subscription_id));
    for (change, at) in changes.left().iter().zip(0..) {
        let shown = Source { content: Shows::Change(change.published(), change.kind()), problems };
        let token = change.token().filter(|_| *with_tokens);
        let number = first_number.map(|first| first + at);
        let encode = |out: &mut Vec<u8>| encode_row(subscription_id, *shape, &shown, token, number, out);
        let kept = plain.and_then(|kind| {
            change.message(kind, || {
                let mut message = Vec::new();
                encode(&mut message);
                message.into()
            })
        });
        match kept {
            Some(message) => out.put(|out| out.extend_from_slice(message)),
            None => out.put(encode),
        }
    }
}

/// Writes one event for each of `rows`, or the messages that another reader of the same has had.
pub(super) fn encode_rows(
    subscription_id: i32,
    initial: &InitialRows,
    problems: &RowProblems,
    out: &mut impl Messages,
) {
    let InitialRows { shape, rows, portions, first_number } = initial;
    let kind = RowsKind { message: shape.message_kind(subscription_id), first_number: *first_number };
    if let Some(messages) = rows.messages(portions, kind) {
        return out.put_kept(&messages);
    }
    if !rows.wants_messages(portions) {
        return encode_each(subscription_id, initial, problems, out);
    }
    if let Some(messages) = out.put_to_keep(|out| encode_each(subscription_id, initial, problems, out)) {
        rows.keep_messages(portions, kind, messages);
    }
}

/// Rows to come as they go out: each with a header of the transport.
pub(super) struct RowMessages {
    pub(super) to_come: RowsToCome,
    pub(super) header: MessageHeader,
}

impl ShowRows for RowMessages {
    fn kind(&self) -> RowsKind {
        let RowsToCome { subscription_id, shape, first_number } = self.to_come;
        RowsKind { message: shape.message_kind(subscription_id), first_number }
    }

    fn put(&self, row: BlockRow<'_>, number: Option<u64>, bytes: &mut Vec<u8>) -> usize {
        let numbered =
            number.map(|number| Numbered { number, is_initial: true, version: row.version, is_resync: false });
        let envelope = Envelope::Row { subscription_id: self.to_come.subscription_id, token: None, numbered };
        let body = Body {
            number: TABLE_EVENT,
            kind: ChangeKind::Added,
            fields: match KeyValue::plain_text_of_stored(row.key) {
                Some(text) => Fields::Text(text),
                None => Fields::Key(KeyValue::of_stored(row.key)),
            },
            rows: [Some((TABLE_EVENT_NEW, row.document)), None],
        };
        message_behind(Some(self.header), &envelope, Some(&body), bytes)
    }
}

fn encode_each(subscription_id: i32, initial: &InitialRows, problems: &RowProblems, out: &mut impl Messages) {
    let InitialRows { shape, rows, first_number, .. } = initial;
    for (row, at) in initial.range().zip(0..) {
        let shown = Source { content: Shows::Row(rows, row), problems };
        let number = first_number.map(|first| first + at);
        out.put(|out| encode_row(subscription_id, *shape, &shown, None, number, out));
    }
}

fn encode_row(
    subscription_id: i32,
    shape: Shape,
    shown: &Source<'_, '_>,
    token: Option<&Bytes>,
    number: Option<u64>,
    out: &mut Vec<u8>,
) {
    let numbered = number.map(|number| {
        let (is_initial, version, cause) = match shown.content {
            Shows::Row(rows, at) => (true, rows.get(at).version, Cause::Write),
            Shows::Change(published, _) => (false, published.seq(), published.change().cause),
        };
        Numbered { number, is_initial, version, is_resync: cause == Cause::Resync }
    });
    let envelope = Envelope::Row { subscription_id, token, numbered };
    message(&envelope, Some(&row_body(shape, shown)), out);
}

/// What is the subscriber's own in an event.
#[expect(clippy::large_enum_variant, reason = "it lives for one call")]
enum Envelope<'a> {
    /// Of a row.
    Row {
        subscription_id: i32,
        token: Option<&'a Bytes>,
        numbered: Option<Numbered>,
    },
    Other(proto::Event),
}

/// What those get who asked for states.
struct Numbered {
    number: u64,
    is_initial: bool,
    version: Seq,
    is_resync: bool,
}

impl Envelope<'_> {
    fn encoded_len(&self) -> usize {
        match self {
            Self::Row { subscription_id, token, numbered } => {
                let token_len =
                    |token: &&Bytes| key_len(EVENT_TOKEN) + encoded_len_varint(token.len() as u64) + token.len();
                key_len(EVENT_SUBSCRIPTION_ID)
                    + encoded_len_varint(id_varint(*subscription_id))
                    + token.as_ref().map_or(0, token_len)
                    + numbered.as_ref().map_or(0, Numbered::encoded_len)
            }
            Self::Other(event) => event.encoded_len(),
        }
    }

    /// Writes it behind `start`, which is to be put before what comes next.
    fn encode(&self, start: &mut Start, out: &mut Vec<u8>) {
        match self {
            Self::Row { subscription_id, token, numbered } => {
                start.number(EVENT_SUBSCRIPTION_ID, id_varint(*subscription_id));
                if let Some(token) = token {
                    start.length(EVENT_TOKEN, token.len());
                    start.put_before(token, out);
                }
                if let Some(Numbered { number, is_initial, version, is_resync }) = numbered {
                    start.number(EVENT_INITIAL, (*is_initial).into());
                    start.number(EVENT_VERSION, version.0);
                    start.number(EVENT_NUMBER, *number);
                    if *is_resync {
                        start.number(EVENT_RESYNC, true.into());
                    }
                }
            }
            Self::Other(event) => {
                start.finish(out);
                event.encode_raw(out);
            }
        }
    }
}

impl Numbered {
    fn encoded_len(&self) -> usize {
        let flag_len = key_len(EVENT_INITIAL) + 1;
        let numbers_len = encoded_len_varint(self.version.0) + encoded_len_varint(self.number);
        let resync_len = if self.is_resync { flag_len } else { 0 };
        flag_len + key_len(EVENT_VERSION) + key_len(EVENT_NUMBER) + numbers_len + resync_len
    }
}

/// protobuf writes an int32 as the varint of its sign extension to 64 bits.
fn id_varint(subscription_id: i32) -> u64 {
    i64::from(subscription_id).cast_unsigned()
}

/// Key and name in the body of an event of a row, as fields of it.
enum Fields<'a> {
    /// Kept for all who get it.
    Named(&'a [u8]),
    /// As events of any table have it: written each time, since a copy of it would be no less work.
    Key(KeyValue<'a>),
    /// The same of a text whose characters need not be looked at.
    Text(&'a [u8]),
}

impl Fields<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Named(bytes) => bytes.len(),
            Self::Key(key) => table_key_field_len(table_key_len(*key)),
            Self::Text(text) => table_key_field_len(table_key_bytes_len(text)),
        }
    }

    fn encode(&self, start: &mut Start, out: &mut Vec<u8>) {
        let key = match self {
            Self::Named(named) => return start.put_before(named, out),
            Self::Text(text) => {
                start.length(TABLE_EVENT_KEY, table_key_bytes_len(text));
                start.length(TABLE_KEY_TEXT, text.len());
                return start.put_before(text, out);
            }
            Self::Key(key) => *key,
        };
        start.length(TABLE_EVENT_KEY, table_key_len(key));
        let (number, value) = match key {
            KeyValue::Text(text) => (TABLE_KEY_TEXT, text.as_bytes()),
            KeyValue::Binary(binary) => (TABLE_KEY_BINARY, binary),
            KeyValue::Number(number) => return start.double(TABLE_KEY_NUMBER, number),
        };
        start.length(number, value.len());
        start.put_before(value, out);
    }
}

/// What a key takes as a `TableKey`.
fn table_key_len(key: KeyValue<'_>) -> usize {
    match key {
        KeyValue::Text(text) => table_key_bytes_len(text.as_bytes()),
        KeyValue::Binary(binary) => table_key_bytes_len(binary),
        KeyValue::Number(_) => key_len(TABLE_KEY_NUMBER) + size_of::<f64>(),
    }
}

/// The same of a text, or of bytes.
fn table_key_bytes_len(value: &[u8]) -> usize {
    key_len(TABLE_KEY_TEXT) + encoded_len_varint(value.len() as u64) + value.len()
}

/// What a `TableKey` of so many bytes takes as a field of an event.
fn table_key_field_len(len: usize) -> usize {
    key_len(TABLE_EVENT_KEY) + encoded_len_varint(len as u64) + len
}

/// The body of an event of a row, in the pieces that it is made of.
struct Body<'a> {
    /// Its number in `Event`.
    number: u32,
    kind: ChangeKind,
    /// Key and name, as fields of the body.
    fields: Fields<'a>,
    /// The new and the old row, with their numbers in the body.
    rows: [Option<(u32, &'a [u8])>; 2],
}

impl Body<'_> {
    fn encoded_len(&self) -> usize {
        let rows = self.rows.iter().flatten();
        let rows_len: usize =
            rows.map(|(number, row)| key_len(*number) + encoded_len_varint(row.len() as u64) + row.len()).sum();
        TYPE_BYTES + self.fields.len() + rows_len
    }

    fn encode(&self, start: &mut Start, out: &mut Vec<u8>) {
        start.number(
            BODY_EVENT_TYPE,
            match self.kind {
                ChangeKind::Added => 1,
                ChangeKind::Updated => 2,
                ChangeKind::Deleted => 3,
            },
        );
        self.fields.encode(start, out);
        for (number, row) in self.rows.iter().flatten() {
            start.length(*number, row.len());
            start.put_before(row, out);
        }
    }
}

/// What the type of a row event takes: its key, and a number below 128.
const TYPE_BYTES: usize = 2;

fn row_body<'a>(shape: Shape, source: &Source<'a, '_>) -> Body<'a> {
    let kind = source.kind();
    // A row that comes into a view has no old one there, whatever it was outside; and so the other way round.
    let shows_new = shape.include_document && kind != ChangeKind::Deleted;
    let shows_old = shape.include_old && kind != ChangeKind::Added;
    match shape.form {
        Form::List(table) => Body {
            number: table.event_number,
            kind,
            fields: Fields::Named(source.name(table, kind)),
            rows: [
                shows_new.then(|| (LIST_EVENT_NEW, source.row(table, Piece::NewRow))),
                shows_old.then(|| (LIST_EVENT_OLD, source.row(table, Piece::OldRow))),
            ],
        },
        Form::Json(_) => Body {
            number: TABLE_EVENT,
            kind,
            fields: Fields::Key(source.row_key()),
            rows: [
                shows_new.then(|| (TABLE_EVENT_NEW, source.document(Piece::NewRow))),
                shows_old.then(|| (TABLE_EVENT_OLD, source.document(Piece::OldRow))),
            ],
        },
    }
}

/// A row or a change that is shown.
#[derive(Clone, Copy)]
enum Shows<'a> {
    /// The row at this place.
    Row(&'a SnapshotRows, usize),
    Change(&'a Published, ChangeKind),
}

/// Where the pieces of an event come from: a change keeps them for the next subscriber.
struct Source<'a, 'p> {
    content: Shows<'a>,
    problems: &'p RowProblems,
}

impl<'a, 'p> Source<'a, 'p> {
    fn of(content: &'a Content, problems: &'p RowProblems) -> Self {
        let content = match content {
            Content::Row(row) => {
                let (rows, at) = row.place();
                Shows::Row(rows, at)
            }
            Content::Change(change) => Shows::Change(change.published(), change.kind()),
        };
        Self { content, problems }
    }

    fn kind(&self) -> ChangeKind {
        match self.content {
            Shows::Row(..) => ChangeKind::Added,
            Shows::Change(_, kind) => kind,
        }
    }

    fn name(&self, table: &'static CatalogTable, kind: ChangeKind) -> &'a [u8] {
        let piece = if kind == ChangeKind::Deleted { Piece::OldName } else { Piece::NewName };
        self.piece(piece, |key, document| self.shown(table, key, (table.name_event)(key, document)))
    }

    fn row(&self, table: &'static CatalogTable, piece: Piece) -> &'a [u8] {
        self.piece(piece, |key, document| self.shown(table, key, (table.row_message)(key, document)))
    }

    fn row_key(&self) -> KeyValue<'a> {
        match self.content {
            Shows::Row(rows, at) => KeyValue::of_stored(rows.get(at).key),
            Shows::Change(published, _) => published.change().key.value(),
        }
    }

    fn piece(&self, piece: Piece, encode: impl FnOnce(&Key, &Document) -> Bytes) -> &'a [u8] {
        match self.content {
            Shows::Row(rows, at) => rows.piece(at, piece, |row| encode(&row.key, &row.document)),
            Shows::Change(published, _) => {
                let encode = |change: &Change| encode(&change.key, document_of(change, piece));
                published.piece(piece, encode)
            }
        }
    }

    fn document(&self, piece: Piece) -> &'a [u8] {
        match self.content {
            Shows::Row(rows, at) => rows.get(at).document,
            Shows::Change(published, _) => document_of(published.change(), piece).as_bytes(),
        }
    }

    fn shown(&self, table: &CatalogTable, key: &Key, shown: Shown<Bytes>) -> Bytes {
        if let Some(problem) = &shown.problem {
            self.problems.report(&table.table(), key, problem);
        }
        shown.value
    }
}

/// The document that a piece shows.
fn document_of(change: &Change, piece: Piece) -> &Document {
    let document = match piece {
        Piece::NewName | Piece::NewRow => &change.new,
        Piece::OldName | Piece::OldRow => &change.old,
    };
    document.as_ref().expect("a view shows only rows that are there")
}

fn state_message(state: &State) -> proto::SubscriptionState {
    use subscription_state::{Kind, Reason};
    let (kind, reason, message) = match state.kind {
        StateKind::Initializing => (Kind::Initializing, None, None),
        StateKind::Ready => (Kind::Ready, None, None),
        StateKind::Live => (Kind::Live, None, None),
        StateKind::Heartbeat => (Kind::Heartbeat, None, None),
        StateKind::Slow => {
            let text = "rows change faster than you read; nothing is lost, it comes later";
            (Kind::Stale, Some(Reason::Slow), Some(text))
        }
        StateKind::InDoubt(doubt) => (Kind::Stale, Some(Reason::Source), Some(doubt.text())),
        StateKind::Reset(reason) => {
            let number = match reason {
                ResetReason::Retention => Reason::Retention,
                ResetReason::Epoch => Reason::Epoch,
                ResetReason::Future => Reason::Future,
                ResetReason::View => Reason::View,
                ResetReason::Server => Reason::Server,
            };
            (Kind::Reset, Some(number), Some(reason.text()))
        }
    };
    proto::SubscriptionState {
        kind: Some(kind.into()),
        reason: reason.map(Into::into),
        message: message.map(str::to_owned),
        epoch: Some(Bytes::copy_from_slice(&state.epoch.0.to_be_bytes())),
        position: state.holds.map(|(seq, _)| seq.0),
        count: state.holds.map(|(_, summary)| summary.count),
        digest: state.holds.map(|(_, summary)| summary.digest),
    }
}

/// Puts a message together from the envelope, which is the subscriber's own, and the shared body.
fn message(envelope: &Envelope<'_>, body: Option<&Body<'_>>, out: &mut Vec<u8>) {
    message_behind(None, envelope, body, out);
}

/// The same behind a header of the transport; returns the bytes of that.
fn message_behind(
    header: Option<MessageHeader>,
    envelope: &Envelope<'_>,
    body: Option<&Body<'_>>,
    out: &mut Vec<u8>,
) -> usize {
    let body_len = body.map_or(0, Body::encoded_len);
    let framed_len = body.map_or(0, |body| key_len(body.number) + encoded_len_varint(body_len as u64) + body_len);
    let event_len = envelope.encoded_len() + framed_len;
    let message_len = key_len(SERVER_MESSAGE_EVENT) + encoded_len_varint(event_len as u64) + event_len;
    let mut start = Start::new();
    if let Some(header) = header {
        start.header(header(message_len));
    }
    let header_len = start.len();
    out.reserve(header_len + message_len);
    start.length(SERVER_MESSAGE_EVENT, event_len);
    envelope.encode(&mut start, out);
    if let Some(body) = body {
        start.length(body.number, body_len);
        body.encode(&mut start, out);
    }
    start.finish(out);
    header_len
}

#[cfg(test)]
mod tests;
