//! What a change carries: its number and the moment of its request, in the name of the one row that is changed.

use anyhow::{Context, ensure};
use prost::Message as _;

use crate::proto;

/// What the name of a change says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Changes are numbered from 0, which is the creation of the row.
    pub(super) seq: u64,
    /// When it was sent, or should have been, in nanoseconds since the beginning of this process's time.
    pub(super) sent_nanos: u64,
}

const PREFIX: &[u8] = b"b-";
const SEQ_DIGITS: usize = 10;
const NANOS_DIGITS: usize = 15;
/// `b-<seq>-<nanos>`, without what fills it up.
const STAMP_BYTES: usize = PREFIX.len() + SEQ_DIGITS + 1 + NANOS_DIGITS;

impl Stamp {
    /// The stamp as a name of `length` bytes.
    pub(super) fn name(self, length: usize) -> String {
        let mut name = format!("b-{:0SEQ_DIGITS$}-{:0NANOS_DIGITS$}", self.seq, self.sent_nanos);
        name.extend(std::iter::repeat_n('-', length.saturating_sub(name.len())));
        name
    }

    /// The stamp that `name` begins with.
    pub(super) fn of_name(name: &[u8]) -> Option<Self> {
        let rest = name.strip_prefix(PREFIX)?;
        let (seq, rest) = rest.split_at_checked(SEQ_DIGITS)?;
        let nanos = rest.strip_prefix(b"-")?.get(..NANOS_DIGITS)?;
        Some(Self { seq: decimal(seq)?, sent_nanos: decimal(nanos)? })
    }
}

fn decimal(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0_u64, |number, digit| {
        let digit = digit.wrapping_sub(b'0');
        (digit <= 9).then_some(number * 10 + u64::from(digit))
    })
}

/// How long a name has to be for a message of `payload_bytes` to each subscriber.
pub(super) fn name_bytes(payload_bytes: usize) -> anyhow::Result<usize> {
    let message_bytes = |name_bytes| {
        let event = proto::PolicyEvent {
            event_type: Some(proto::policy_event::EventType::Updated.into()),
            policy_id: Some(vec![0; 16].into()),
            name: Some("-".repeat(name_bytes)),
            ..Default::default()
        };
        let event = proto::Event { body: Some(proto::event::Body::PolicyEvent(event)), ..Default::default() };
        let message = proto::server_message::MessageType::Event(event);
        proto::ServerMessage { message_type: Some(message) }.encoded_len()
    };
    let bytes_min = message_bytes(STAMP_BYTES);
    ensure!(payload_bytes >= bytes_min, "--payload must be at least {bytes_min}");
    // The lengths inside grow with the name, so some sizes cannot be met: then the next smaller one counts.
    let longest = (STAMP_BYTES..=payload_bytes).rev().find(|name_bytes| message_bytes(*name_bytes) <= payload_bytes);
    longest.context("no name fits")
}

/// The policy that an event is about, read without decoding the rest.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PolicyEvent<'a> {
    pub(super) policy_id: &'a [u8],
    pub(super) name: &'a [u8],
}

const EVENT: u64 = 1;
const EVENT_POLICY_EVENT: u64 = 8;
const POLICY_EVENT_POLICY_ID: u64 = 2;
const POLICY_EVENT_NAME: u64 = 3;

impl<'a> PolicyEvent<'a> {
    /// The policy event that `message`, a `ServerMessage`, consists of; `None` when it is anything else.
    pub(super) fn of_message(mut message: &'a [u8]) -> Option<Self> {
        let (EVENT, Some(event)) = take_field(&mut message)? else { return None };
        let body = find_field(event, EVENT_POLICY_EVENT)?;
        let policy_id = find_field(body, POLICY_EVENT_POLICY_ID)?;
        let name = find_field(body, POLICY_EVENT_NAME)?;
        Some(Self { policy_id, name })
    }
}

fn find_field(mut message: &[u8], number: u64) -> Option<&[u8]> {
    while let Some((found, value)) = take_field(&mut message) {
        if found == number {
            return value;
        }
    }
    None
}

/// The number of the first field, and its value where that is bytes.
fn take_field<'a>(message: &mut &'a [u8]) -> Option<(u64, Option<&'a [u8]>)> {
    let key = take_varint(message)?;
    let value = match key & 7 {
        0 => {
            take_varint(message)?;
            None
        }
        1 => {
            take_bytes(message, 8)?;
            None
        }
        2 => {
            let length = take_varint(message)?;
            Some(take_bytes(message, length)?)
        }
        5 => {
            take_bytes(message, 4)?;
            None
        }
        _ => return None,
    };
    Some((key >> 3, value))
}

fn take_bytes<'a>(message: &mut &'a [u8], length: u64) -> Option<&'a [u8]> {
    let (bytes, rest) = message.split_at_checked(usize::try_from(length).ok()?)?;
    *message = rest;
    Some(bytes)
}

fn take_varint(message: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if *byte < 0x80 {
            return Some(number);
        }
    }
    None
}

/// A policy that the server accepts, called `name`.
pub(super) fn policy(policy_id: Option<&[u8]>, name: String) -> proto::Policy {
    proto::Policy {
        policy_id: policy_id.map(|id| id.to_vec().into()),
        name: Some(name),
        mime_type_rules: vec![proto::PolicyMimeTypeRule { save: Some(true), ..Default::default() }],
        robots_txt: Some(proto::PolicyRobotsTxt { usage: proto::policy_robots_txt::Usage::Obey.into() }),
        url_rules: vec![proto::PolicyUrlRule {
            action: Some(proto::policy_url_rule::Action::Add.into()),
            amount: Some(1.0),
            ..Default::default()
        }],
        user_agents: vec![proto::PolicyUserAgent { name: "starfeed bench".to_owned() }],
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(subscription_id: i32, name: String) -> proto::ServerMessage {
        let event = proto::PolicyEvent {
            event_type: Some(proto::policy_event::EventType::Updated.into()),
            policy_id: Some(vec![7; 16].into()),
            name: Some(name),
            ..Default::default()
        };
        let body = Some(proto::event::Body::PolicyEvent(event));
        let event = proto::Event { subscription_id, body, ..Default::default() };
        proto::ServerMessage { message_type: Some(proto::server_message::MessageType::Event(event)) }
    }

    #[test]
    fn a_stamp_survives_the_way_through_a_message() {
        for (seq, sent_nanos) in [(0, 0), (1, 42), (9_999_999_999, 999_999_999_999_999)] {
            for subscription_id in [0, 127, 128, i32::MAX] {
                let stamp = Stamp { seq, sent_nanos };
                let bytes = message(subscription_id, stamp.name(150)).encode_to_vec();
                let event = PolicyEvent::of_message(&bytes).expect("a policy event");
                assert_eq!(event.policy_id, [7; 16]);
                assert_eq!(event.name.len(), 150);
                assert_eq!(Stamp::of_name(event.name), Some(stamp));
            }
        }
    }

    #[test]
    fn what_is_no_policy_event_is_told_apart() {
        let response = proto::Response { request_id: 1, is_success: true, ..Default::default() };
        let response = proto::server_message::MessageType::Response(response);
        let response = proto::ServerMessage { message_type: Some(response) }.encode_to_vec();
        assert_eq!(PolicyEvent::of_message(&response), None);
        assert_eq!(PolicyEvent::of_message(b""), None);
        let whole = message(3, "x".to_owned()).encode_to_vec();
        for end in 0..whole.len() {
            assert_eq!(PolicyEvent::of_message(&whole[..end]), None);
        }
    }

    #[test]
    fn other_names_have_no_stamp() {
        for name in
            ["", "b-", "Deep crawl", "b-00000000x1-000000000000042", "b-0000000001_000000000000042", "b-0000000001-42"]
        {
            assert_eq!(Stamp::of_name(name.as_bytes()), None, "{name}");
        }
    }

    #[test]
    fn the_payload_is_as_long_as_asked_for() {
        for payload_bytes in [61, 100, 126, 140, 200, 1000, 20_000] {
            let name_bytes = name_bytes(payload_bytes).expect("long enough");
            let length = message(0, "x".repeat(name_bytes)).encoded_len();
            assert!(length <= payload_bytes && length + 3 >= payload_bytes, "{length} for {payload_bytes}");
        }
        assert_eq!(message(0, "x".repeat(name_bytes(200).expect("long enough"))).encoded_len(), 200);
        assert!(name_bytes(20).is_err());
    }

    #[test]
    fn the_policy_is_small_and_whole() {
        let policy = policy(Some(&[1; 16]), Stamp { seq: 1, sent_nanos: 2 }.name(30));
        assert!(policy.encoded_len() < 120, "{}", policy.encoded_len());
    }
}
