//! The protobuf wire: a `Request` per message from the client, a `ServerMessage` per message to it.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

use super::{ClientMessage, Event, ServerMessage};
use crate::catalog::{CatalogTable, RowProblems};
use crate::change::{ChangeKind, Document, Key};
use crate::feed::EncodingSlot;
use crate::proto;

/// A message that is no `Request`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a protobuf Request")]
pub struct Undecodable;

/// Reads one message of a client.
pub fn decode(bytes: Bytes) -> Result<ClientMessage, Undecodable> {
    let size = bytes.len();
    let request = proto::Request::decode(bytes).map_err(|_| Undecodable)?;
    Ok(ClientMessage { request_id: request.request_id, size, command: request.command })
}

/// Writes one message for a client; `None` where it is about a row that cannot be shown, which `problems` then learns of.
pub fn encode(message: ServerMessage, problems: &RowProblems) -> Option<Bytes> {
    match message {
        ServerMessage::Response { request_id, result } => Some(response(request_id, result)),
        ServerMessage::Event { subscription_id, event } => {
            let body = event_body(&event, problems)?;
            Some(event_message(subscription_id, &body))
        }
    }
}

fn response(request_id: i32, result: Result<Option<Box<proto::response::Body>>, String>) -> Bytes {
    let is_success = result.is_ok();
    let (body, error_message) = match result {
        Ok(body) => (body.map(|body| *body), None),
        Err(text) => (None, Some(text)),
    };
    let response = proto::Response { request_id, is_success, error_message, body };
    let message = proto::ServerMessage { message_type: Some(proto::server_message::MessageType::Response(response)) };
    message.encode_to_vec().into()
}

fn event_body(event: &Event, problems: &RowProblems) -> Option<Bytes> {
    match event {
        Event::Row { table, row } => list_event(table, ChangeKind::Added, &row.key, &row.document, problems),
        Event::Change { table, published } => published
            .encoded(EncodingSlot::ProtobufListEvent, |change| {
                list_event(table, change.kind(), &change.key, change.shown(), problems)
            })
            .cloned(),
        Event::Closed { message } => {
            let closed = proto::SubscriptionClosed {
                reason: proto::subscription_closed::Reason::Error.into(),
                message: Some(message.clone()),
            };
            Some(encoded_body(&proto::event::Body::SubscriptionClosed(closed)))
        }
    }
}

fn list_event(
    table: &'static CatalogTable,
    kind: ChangeKind,
    key: &Key,
    document: &Document,
    problems: &RowProblems,
) -> Option<Bytes> {
    match (table.event)(kind, key, document) {
        Ok(shown) => {
            if let Some(problem) = &shown.problem {
                problems.report(table, key, problem);
            }
            Some(encoded_body(&shown.value))
        }
        Err(problem) => {
            problems.report(table, key, &problem);
            None
        }
    }
}

fn encoded_body(body: &proto::event::Body) -> Bytes {
    let mut bytes = BytesMut::with_capacity(body.encoded_len());
    body.encode(&mut bytes);
    bytes.freeze()
}

const SERVER_MESSAGE_EVENT: u32 = 1;
const EVENT_SUBSCRIPTION_ID: u32 = 1;

/// The few bytes that differ between subscribers, before the body that they share.
fn event_message(subscription_id: i32, body: &[u8]) -> Bytes {
    // protobuf writes an int32 as the varint of its sign extension to 64 bits.
    let id = i64::from(subscription_id).cast_unsigned();
    let event_len = key_len(EVENT_SUBSCRIPTION_ID) + encoded_len_varint(id) + body.len();
    let mut bytes = BytesMut::with_capacity(key_len(SERVER_MESSAGE_EVENT) + 10 + event_len);
    encode_key(SERVER_MESSAGE_EVENT, WireType::LengthDelimited, &mut bytes);
    encode_varint(event_len as u64, &mut bytes);
    encode_key(EVENT_SUBSCRIPTION_ID, WireType::Varint, &mut bytes);
    encode_varint(id, &mut bytes);
    bytes.put_slice(body);
    bytes.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spliced_envelope_equals_the_encoded_message() {
        for subscription_id in [0, 1, 127, 128, i32::MAX, -1] {
            let body = proto::event::Body::PolicyEvent(proto::PolicyEvent {
                event_type: Some(proto::policy_event::EventType::Added.into()),
                policy_id: Some(Bytes::from_static(&[7; 16])),
                name: Some("P1".repeat(100)),
            });
            let message = proto::ServerMessage {
                message_type: Some(proto::server_message::MessageType::Event(proto::Event {
                    subscription_id,
                    body: Some(body.clone()),
                })),
            };
            assert_eq!(event_message(subscription_id, &encoded_body(&body)), message.encode_to_vec());
        }
    }

    #[test]
    fn hostile_bytes_are_undecodable() {
        let deep = [0x0b].repeat(50_000);
        for bytes in [b"foo".as_slice(), &[0x08], &[0xff; 11], &[0x12, 0xff, 0xff, 0xff, 0xff, 0x07], &deep] {
            assert_eq!(
                decode(Bytes::copy_from_slice(bytes)).err(),
                Some(Undecodable),
                "{:?}",
                &bytes[..bytes.len().min(8)]
            );
        }
    }

    #[test]
    fn an_empty_message_is_a_request_without_a_command() {
        let message = decode(Bytes::new()).expect("every field of it is absent");
        assert_eq!(message.request_id, 0);
        assert!(message.command.is_none());
    }
}
