//! How a peer is spoken to: what subscribes, what publishes, and what a message of it says.

mod centrifugo;
mod nats;

use anyhow::{Context, anyhow};
use clap::ValueEnum;
use prost::Message as _;

use super::engine::Answer;
use super::event::{self, RowEvent};
use super::frame::Opcode;
use super::table::Table;
use crate::proto;

/// The language of a peer that is measured by its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Speaks {
    /// This program's own
    Starfeed,
    /// That of nats-server over WebSocket
    Nats,
    /// The JSON of Centrifugo; clients have to be allowed to publish
    Centrifugo,
}

/// One peer's language, with what is said in it.
#[derive(Debug)]
pub(super) enum Wire {
    Starfeed(Rows),
    Bare(Rows),
    Nats(nats::Nats),
    Centrifugo,
}

/// The rows that are changed, one for each table.
#[derive(Clone, Debug)]
pub(super) struct Rows {
    pub(super) tables: Vec<Table>,
    pub(super) ids: Vec<Vec<u8>>,
    pub(super) name_bytes: usize,
}

/// What a message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// Change `number` of what this connection subscribes to.
    Change(u64),
    /// The subscription has begun.
    Subscribed,
    /// The change that was sent with this request id is accepted.
    Accepted(u64),
}

/// How a bare peer is told what a connection is: the first byte of its messages; the second is the number of the table.
pub(super) const BARE_SUBSCRIBE: u8 = b's';
pub(super) const BARE_PUBLISH: u8 = b'p';
/// Four bytes of a number, most significant first, and a message that is sent back so many times.
pub(super) const BARE_REPEAT: u8 = b'r';

impl Wire {
    /// Whether changes are accepted one by one, and a change counts as in flight until it is.
    pub(super) fn accepts(&self) -> bool {
        matches!(self, Self::Starfeed(_))
    }

    /// Whether a subscriber is sent change 0, that a row was made.
    pub(super) fn has_first_row(&self) -> bool {
        matches!(self, Self::Starfeed(_))
    }

    /// What is said on a connection that is new, to subscribe to `table` or, without one, to publish.
    pub(super) fn greet(&self, table: Option<usize>, say: &mut dyn FnMut(&[u8], Opcode)) {
        match (self, table) {
            (Self::Starfeed(rows), Some(table)) => {
                let command = Some(rows.tables[table].subscribe(None));
                say(&proto::Request { request_id: 0, command }.encode_to_vec(), Opcode::Binary);
            }
            (Self::Bare(_), Some(table)) => say(&[BARE_SUBSCRIBE, table as u8], Opcode::Binary),
            (Self::Starfeed(_) | Self::Bare(_), None) => {}
            (Self::Nats(_), table) => nats::greet(table, say),
            (Self::Centrifugo, table) => centrifugo::greet(table, say),
        }
    }

    /// The request that subscribes to `table` and asks for tokens, or goes on behind `resume_token`.
    pub(super) fn subscribe_with_tokens(&self, table: usize, resume_token: Option<Vec<u8>>) -> Vec<u8> {
        let Self::Starfeed(rows) = self else { return Vec::new() };
        let options = proto::SubscribeOptions {
            tokens: Some(true),
            resume_token: resume_token.map(Into::into),
            ..Default::default()
        };
        let command = Some(rows.tables[table].subscribe(Some(options)));
        proto::Request { request_id: 0, command }.encode_to_vec()
    }

    /// Whether `id` is that of the row of `table` that is changed.
    pub(super) fn is_row(&self, table: usize, id: &[u8]) -> bool {
        match self {
            Self::Starfeed(rows) | Self::Bare(rows) => rows.ids[table] == id,
            Self::Nats(_) | Self::Centrifugo => false,
        }
    }

    /// Writes the message that publishes change `number` of `table` into `out`, which is empty.
    pub(super) fn publish(
        &self,
        table: usize,
        number: u64,
        request_id: i32,
        payload_bytes: usize,
        out: &mut Vec<u8>,
    ) -> anyhow::Result<Opcode> {
        match self {
            Self::Starfeed(rows) => {
                let name = event::name(number, rows.name_bytes);
                let command = Some(rows.tables[table].set(Some(&rows.ids[table]), name));
                proto::Request { request_id, command }.encode(out)?;
                Ok(Opcode::Binary)
            }
            Self::Bare(rows) => {
                let name = event::name(number, rows.name_bytes);
                out.extend_from_slice(&[BARE_PUBLISH, table as u8]);
                out.extend_from_slice(&event::message(rows.tables[table], 0, &rows.ids[table], name));
                Ok(Opcode::Binary)
            }
            Self::Nats(_) => Ok(nats::publish(table, &event::name(number, payload_bytes), out)),
            Self::Centrifugo => Ok(centrifugo::publish(table, &event::name(number, payload_bytes), request_id, out)),
        }
    }

    /// Hands to `take` what `message` says, which came on connection `from`, subscribed to `table` if to any; says what has
    /// to be answered.
    pub(super) fn hear(
        &mut self,
        from: usize,
        table: Option<usize>,
        message: &[u8],
        mut take: impl FnMut(Heard) -> anyhow::Result<()>,
    ) -> anyhow::Result<Option<Answer>> {
        match self {
            Self::Starfeed(rows) | Self::Bare(rows) => {
                let Some(event) = RowEvent::of_message(message) else {
                    return response(message).and_then(|heard| heard.map_or(Ok(()), take)).map(|()| None);
                };
                // Others are somebody else's.
                if table.is_some_and(|table| event.id == rows.ids[table]) {
                    let number = event::number_of(event.name);
                    take(Heard::Change(number.context("somebody else changes the row that is measured")?))?;
                }
                Ok(None)
            }
            Self::Nats(nats) => nats.hear(from, message, take),
            Self::Centrifugo => centrifugo::hear(message, take),
        }
    }
}

/// The subscription that `message` says has begun; `None` when it says anything else.
pub(super) fn new_subscription(message: &[u8]) -> anyhow::Result<Option<u64>> {
    use proto::response::Body;
    use proto::server_message::MessageType;
    if response(message)? != Some(Heard::Subscribed) {
        return Ok(None);
    }
    match proto::ServerMessage::decode(message)?.message_type {
        Some(MessageType::Response(proto::Response { body: Some(Body::NewSubscription(new)), .. })) => {
            Ok(Some(u64::try_from(new.subscription_id)?))
        }
        _ => Ok(None),
    }
}

/// What a message that is no event about a row says. A refusal and an end of a subscription are errors.
pub(super) fn response(message: &[u8]) -> anyhow::Result<Option<Heard>> {
    use proto::response::Body;
    use proto::server_message::MessageType;
    // So a bare peer says that a connection is subscribed: with what it was sent.
    if let [BARE_SUBSCRIBE, _] = message {
        return Ok(Some(Heard::Subscribed));
    }
    match proto::ServerMessage::decode(message)?.message_type {
        Some(MessageType::Response(response)) if response.is_success => match response.body {
            Some(Body::NewSubscription(_)) => Ok(Some(Heard::Subscribed)),
            _ => Ok(Some(Heard::Accepted(u64::try_from(response.request_id)?))),
        },
        Some(MessageType::Response(response)) => {
            Err(anyhow!("the server refused a request: {}", response.error_message.unwrap_or_default()))
        }
        Some(MessageType::Event(proto::Event { body: Some(proto::event::Body::SubscriptionClosed(end)), .. })) => {
            Err(anyhow!("the server ended a subscription: {}", end.message.unwrap_or_default()))
        }
        Some(MessageType::Event(_)) | None => Ok(None),
    }
}
