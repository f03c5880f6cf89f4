//! What a change carries: its number, in the name of the row that is changed.

use anyhow::{Context, ensure};
use prost::Message as _;

use super::table::Table;
use crate::proto;

const PREFIX: &[u8] = b"b-";
const NUMBER_DIGITS: usize = 10;
/// `b-<number>`, without what fills it up.
const STAMP_BYTES: usize = PREFIX.len() + NUMBER_DIGITS;

/// A name of `length` bytes that says the number of a change.
pub(super) fn name(number: u64, length: usize) -> String {
    let mut name = format!("b-{number:0NUMBER_DIGITS$}");
    name.extend(std::iter::repeat_n('-', length.saturating_sub(name.len())));
    name
}

/// The number that `name` says.
pub(super) fn number_of(name: &[u8]) -> Option<u64> {
    let digits = name.strip_prefix(PREFIX)?.get(..NUMBER_DIGITS)?;
    digits.iter().try_fold(0_u64, |number, digit| {
        let digit = digit.wrapping_sub(b'0');
        (digit <= 9).then_some(number * 10 + u64::from(digit))
    })
}

/// An event as a server sends it to a plain subscription that has `subscription_id`.
pub(super) fn message(table: Table, subscription_id: i32, id: &[u8], name: String) -> Vec<u8> {
    let body = Some(table.updated(id, name));
    let event = proto::Event { subscription_id, body, ..Default::default() };
    let message = proto::server_message::MessageType::Event(event);
    proto::ServerMessage { message_type: Some(message) }.encode_to_vec()
}

/// How long a name has to be for a message of `payload_bytes` to each subscriber of any of `tables`.
pub(super) fn name_bytes(payload_bytes: usize, tables: &[Table]) -> anyhow::Result<usize> {
    let message_bytes = |name_bytes| {
        let of_table = |table: &Table| message(*table, 0, &[0; 16], "-".repeat(name_bytes)).len();
        tables.iter().map(of_table).max().unwrap_or_default()
    };
    let bytes_min = message_bytes(STAMP_BYTES);
    ensure!(payload_bytes >= bytes_min, "--payload must be at least {bytes_min}");
    // The lengths inside grow with the name, so some sizes cannot be met: then the next smaller one counts.
    let shortest = STAMP_BYTES.max(payload_bytes.saturating_sub(100));
    let longest = (shortest..=payload_bytes).rev().find(|name_bytes| message_bytes(*name_bytes) <= payload_bytes);
    longest.context("no name fits")
}

/// An event about a row, read without decoding the rest.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RowEvent<'a> {
    pub(super) subscription_id: u64,
    /// As in `EventType`: 1 for added, 2 for updated, 3 for deleted.
    pub(super) event_type: u64,
    pub(super) id: &'a [u8],
    pub(super) name: &'a [u8],
    /// Where one can go on behind it.
    pub(super) token: Option<&'a [u8]>,
}

const EVENT: u64 = 1;
const EVENT_SUBSCRIPTION_ID: u64 = 1;
const EVENT_TOKEN: u64 = 100;
const POLICY_EVENT: u64 = 8;
const SCHEDULE_EVENT: u64 = 9;
const CAPTCHA_SOLVER_EVENT: u64 = 107;

impl<'a> RowEvent<'a> {
    /// The event about a row that `message`, a `ServerMessage`, consists of; `None` when it is anything else.
    pub(super) fn of_message(mut message: &'a [u8]) -> Option<Self> {
        let (EVENT, Value::Bytes(mut event)) = take_field(&mut message)? else { return None };
        let mut is_about_row = false;
        let mut this = Self { subscription_id: 0, event_type: 0, id: b"", name: b"", token: None };
        while let Some((field, value)) = take_field(&mut event) {
            match (field, value) {
                (EVENT_SUBSCRIPTION_ID, Value::Number(number)) => this.subscription_id = number,
                (EVENT_TOKEN, Value::Bytes(token)) => this.token = Some(token),
                (POLICY_EVENT | SCHEDULE_EVENT | CAPTCHA_SOLVER_EVENT, Value::Bytes(mut body)) => {
                    is_about_row = true;
                    while let Some((field, value)) = take_field(&mut body) {
                        match (field, value) {
                            (1, Value::Number(number)) => this.event_type = number,
                            (2, Value::Bytes(id)) => this.id = id,
                            (3, Value::Bytes(name)) => {
                                this.name = name;
                                break;
                            }
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        is_about_row.then_some(this)
    }
}

/// An event of a subscription to a table with states, read without decoding the rest.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Step<'a> {
    pub(super) number: u64,
    pub(super) what: TableStep,
    /// The message with the key of the row, where it is about one.
    pub(super) key: &'a [u8],
}

/// What such an event says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TableStep {
    Row,
    Ready { count: u64 },
    Reset,
    Other,
}

const EVENT_STATE: u64 = 102;
const EVENT_TABLE_EVENT: u64 = 103;
const EVENT_NUMBER: u64 = 105;
const TABLE_EVENT_KEY: u64 = 2;
const STATE_KIND: u64 = 1;
const STATE_COUNT: u64 = 6;

impl<'a> Step<'a> {
    /// The event that `message`, a `ServerMessage`, consists of; `None` when it is a response.
    pub(super) fn of_message(mut message: &'a [u8]) -> Option<Self> {
        let (EVENT, Value::Bytes(mut event)) = take_field(&mut message)? else { return None };
        let mut this = Self { number: 0, what: TableStep::Other, key: b"" };
        while let Some((field, value)) = take_field(&mut event) {
            match (field, value) {
                (EVENT_NUMBER, Value::Number(number)) => this.number = number,
                (EVENT_STATE, Value::Bytes(state)) => this.what = state_of(state),
                (EVENT_TABLE_EVENT, Value::Bytes(mut body)) => {
                    this.what = TableStep::Row;
                    while let Some((field, value)) = take_field(&mut body) {
                        if let (TABLE_EVENT_KEY, Value::Bytes(key)) = (field, value) {
                            this.key = key;
                            break;
                        }
                    }
                }
                _ => {}
            }
        }
        Some(this)
    }
}

fn state_of(mut state: &[u8]) -> TableStep {
    let (mut kind, mut count) = (0, 0);
    while let Some((field, value)) = take_field(&mut state) {
        match (field, value) {
            (STATE_KIND, Value::Number(number)) => kind = number,
            (STATE_COUNT, Value::Number(number)) => count = number,
            _ => {}
        }
    }
    match kind {
        2 => TableStep::Ready { count },
        5 => TableStep::Reset,
        _ => TableStep::Other,
    }
}

/// The value of a field.
#[derive(Clone, Copy, Debug)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Of no interest here.
    Fixed,
}

/// The number and the value of the first field.
fn take_field<'a>(message: &mut &'a [u8]) -> Option<(u64, Value<'a>)> {
    let key = take_varint(message)?;
    let value = match key & 7 {
        0 => Value::Number(take_varint(message)?),
        1 => {
            take_bytes(message, 8)?;
            Value::Fixed
        }
        2 => {
            let length = take_varint(message)?;
            Value::Bytes(take_bytes(message, length)?)
        }
        5 => {
            take_bytes(message, 4)?;
            Value::Fixed
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
    if let [byte @ 0..0x80, rest @ ..] = *message {
        *message = rest;
        return Some(u64::from(*byte));
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_survives_the_way_through_a_message() {
        for table in Table::ALL {
            for number in [0, 1, 9_999_999_999] {
                for subscription_id in [0, 127, 128, i32::MAX] {
                    let bytes = message(table, subscription_id, &[7; 16], name(number, 150));
                    let event = RowEvent::of_message(&bytes).expect("an event about a row");
                    assert_eq!(event.subscription_id, subscription_id as u64);
                    assert_eq!((event.event_type, event.id), (2, &[7; 16][..]));
                    assert_eq!(event.name.len(), 150);
                    assert_eq!((number_of(event.name), event.token), (Some(number), None));
                }
            }
        }
    }

    #[test]
    fn a_token_is_found_behind_the_row() {
        let body = Some(Table::Policies.updated(&[7; 16], "x".to_owned()));
        let event = proto::Event { body, token: Some(vec![9; 70].into()), number: Some(3), ..Default::default() };
        let message = proto::server_message::MessageType::Event(event);
        let bytes = proto::ServerMessage { message_type: Some(message) }.encode_to_vec();
        let event = RowEvent::of_message(&bytes).expect("an event about a row");
        assert_eq!((event.name, event.token), (&b"x"[..], Some(&[9; 70][..])));
    }

    #[test]
    fn what_is_no_event_about_a_row_is_told_apart() {
        let response = proto::Response { request_id: 1, is_success: true, ..Default::default() };
        let response = proto::server_message::MessageType::Response(response);
        let response = proto::ServerMessage { message_type: Some(response) }.encode_to_vec();
        assert_eq!(RowEvent::of_message(&response), None);
        assert_eq!(RowEvent::of_message(b""), None);
        let whole = message(Table::Policies, 3, &[7; 16], "x".to_owned());
        for end in 0..whole.len() {
            assert_eq!(RowEvent::of_message(&whole[..end]), None);
        }
    }

    #[test]
    fn other_names_have_no_number() {
        for name in ["", "b-", "Deep crawl", "b-00000000x1", "b-000000001", "c-0000000001"] {
            assert_eq!(number_of(name.as_bytes()), None, "{name}");
        }
    }

    #[test]
    fn the_payload_is_as_long_as_asked_for() {
        let length_with = |table, name_bytes| message(table, 0, &[0; 16], "x".repeat(name_bytes)).len();
        for payload_bytes in [44, 61, 100, 126, 140, 200, 1000, 20_000] {
            let name_bytes = name_bytes(payload_bytes, &[Table::Policies]).expect("long enough");
            let length = length_with(Table::Policies, name_bytes);
            assert!(length <= payload_bytes && length + 3 >= payload_bytes, "{length} for {payload_bytes}");
        }
        assert_eq!(length_with(Table::Policies, name_bytes(200, &[Table::Policies]).expect("long enough")), 200);
        assert_eq!(length_with(Table::CaptchaSolvers, name_bytes(200, &Table::ALL).expect("long enough")), 200);
        assert!(name_bytes(20, &Table::ALL).is_err());
    }
}
