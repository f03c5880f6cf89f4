//! The protobuf wire: a `Request` per message from the client, a `ServerMessage` per message to it.

mod event;
mod start;

use bytes::Bytes;
use prost::Message;

use super::{ClientMessage, LiveChanges, MessageHeader, Messages, RowsToCome, ServerMessage};
use crate::feed::{MessageKind, ShowRows, ViewChanges};
use crate::proto;
use crate::row_problems::RowProblems;

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

/// Writes what is for a client to `out`; `problems` learns of rows that can be shown only in part.
pub fn encode(message: ServerMessage, problems: &RowProblems, out: &mut impl Messages) {
    match message {
        ServerMessage::Response { request_id, result } => out.put(|out| response(request_id, result, out)),
        ServerMessage::Event { subscription_id, event } => {
            out.put(|out| event::encode(subscription_id, event, problems, out));
        }
        ServerMessage::Changes { subscription_id, changes } => {
            event::encode_changes(subscription_id, &changes, problems, out);
        }
        ServerMessage::Rows { subscription_id, rows } => event::encode_rows(subscription_id, &rows, problems, out),
    }
}

/// The same for `changes` as messages of this kind, which are all that their subscriber gets of them.
pub fn encode_plain(kind: MessageKind, changes: ViewChanges, problems: &RowProblems, out: &mut impl Messages) {
    let (subscription_id, changes) = LiveChanges::plain(kind, changes);
    event::encode_changes(subscription_id, &changes, problems, out);
}

/// How `to_come` is sent by a transport that puts `header` before each message.
pub fn shown(to_come: RowsToCome, header: MessageHeader) -> impl ShowRows {
    event::RowMessages { to_come, header }
}

fn response(request_id: i32, result: Result<Option<Box<proto::response::Body>>, String>, out: &mut Vec<u8>) {
    let is_success = result.is_ok();
    let (body, error_message) = match result {
        Ok(body) => (body.map(|body| *body), None),
        Err(text) => (None, Some(text)),
    };
    let response = proto::Response { request_id, is_success, error_message, body };
    let message = proto::ServerMessage { message_type: Some(proto::server_message::MessageType::Response(response)) };
    message.encode_raw(out);
}

#[cfg(test)]
mod tests {
    use super::*;

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
