//! Messages that are no requests, or odd ones: the connection ends, or goes on as if nothing had been.

use prost::Message;
use starfeed::proto;

use crate::support::raw::{BINARY, masked, unsubscribe};
use crate::{Differences, Target, assert_works, end};

#[derive(Debug, PartialEq)]
enum Answer {
    Closed(Option<u16>),
    /// To the request with this number.
    Refused(i32, String),
    Taken(i32),
}

struct Case {
    name: &'static str,
    payload: Vec<u8>,
    answer: Answer,
}

fn undecodable(name: &'static str, payload: impl Into<Vec<u8>>) -> Case {
    Case { name, payload: payload.into(), answer: Answer::Closed(Some(1007)) }
}

fn refused(name: &'static str, payload: impl Into<Vec<u8>>, request_id: i32, text: &str) -> Case {
    Case { name, payload: payload.into(), answer: Answer::Refused(request_id, text.to_owned()) }
}

fn taken(name: &'static str, payload: impl Into<Vec<u8>>, request_id: i32) -> Case {
    Case { name, payload: payload.into(), answer: Answer::Taken(request_id) }
}

const NO_COMMAND: &str = "No command specified";
/// Request 1.
const ONE: [u8; 2] = [0x08, 0x01];
/// list_domain_logins
const LIST: [u8; 2] = [0x52, 0x00];

fn bad() -> Vec<Case> {
    let nested = |levels: usize| [vec![0x0b; levels], vec![0x0c; levels]].concat();
    // In the command, where the message is known.
    let in_command = |inside: &[u8]| {
        let len = inside.len();
        let byte = |len: usize| u8::try_from(len).expect("short");
        [&ONE[..], &[0x52, 0x80 | byte(len & 0x7f), byte(len >> 7)], inside].concat()
    };
    vec![
        undecodable("a word", *b"foo"),
        undecodable("JSON", *br#"{"request_id": 1}"#),
        undecodable("a tag without a value", [0x08]),
        undecodable("a number that does not end", [0x08, 0xff, 0xff]),
        undecodable("a number of eleven bytes", [&[0x08][..], &[0xff; 10], &[0x01]].concat()),
        undecodable("a tag of eleven bytes", [0xff; 11]),
        undecodable("field 0", [0x00, 0x00]),
        undecodable("field 0 with a length", [0x02, 0x00]),
        undecodable("wire type 6", [0x0e, 0x00]),
        undecodable("wire type 7", [0x0f, 0x00]),
        undecodable("a request number that is a text", [0x0a, 0x01, 0x31]),
        undecodable("a command that is a number", [&ONE[..], &[0x50, 0x01]].concat()),
        undecodable("a command cut short", [&ONE[..], &[0x52, 0x05, 0x0a]].concat()),
        undecodable("a length prefix of 2^31", [0x7a, 0x80, 0x80, 0x80, 0x80, 0x08]),
        undecodable("a length prefix of 2^31 - 1 within a command", in_command(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0x07])),
        undecodable("a length prefix of 2^63", [&[0x7a][..], &[0x80; 9], &[0x01]].concat()),
        undecodable("an unknown field with a length of 2^31", [0xea, 0x04, 0x80, 0x80, 0x80, 0x80, 0x08]),
        undecodable("a text that is not UTF-8", [&ONE[..], &[0x12, 0x03, 0x0a, 0x01, 0xff]].concat()),
        undecodable("50,000 groups, nested", nested(50_000)),
        undecodable("50,000 groups that do not end", [0x0b].repeat(50_000)),
        undecodable("200 groups within a command", in_command(&nested(200))),
        undecodable("the end of a group that has not begun", [&ONE[..], &[0x0c]].concat()),
        undecodable("the end of another group", [&ONE[..], &[0xeb, 0x04, 0xf4, 0x04]].concat()),
        undecodable("something behind a good request", [&ONE[..], &LIST, b"x"].concat()),
        undecodable("a mebibyte of random bytes", noise(1 << 20)),
    ]
}

fn odd() -> Vec<Case> {
    let request = |request_id| proto::Request { request_id, command: Some(unsubscribe(7)) }.encode_to_vec();
    let padding = [&ONE[..], &[0xea, 0x04, 0x80, 0x80, 0x3f], &vec![b'x'; 0xfc000]].concat();
    vec![
        refused("an empty message", [], 0, NO_COMMAND),
        refused("a number and no command", ONE, 1, NO_COMMAND),
        refused("a command that nobody knows", [&ONE[..], &[0xea, 0x04, 0x00]].concat(), 1, NO_COMMAND),
        refused("a mebibyte that nobody asked for", padding, 1, NO_COMMAND),
        refused("a negative number", request(-1), -1, "Unknown subscription_id: 7"),
        refused("the lowest number", request(i32::MIN), i32::MIN, "Unknown subscription_id: 7"),
        refused("a number twice", [&[0x08, 0x05][..], &request(6)].concat(), 6, "Unknown subscription_id: 7"),
        refused(
            "a number of more than 32 bits",
            [0x08, 0x81, 0x80, 0x80, 0x80, 0x10, 0xba, 0x01, 0x02, 0x08, 0x07],
            1,
            "Unknown subscription_id: 7",
        ),
        refused(
            "two commands, the last of which counts",
            [&LIST[..], &request(3)].concat(),
            3,
            "Unknown subscription_id: 7",
        ),
        // As the crawler's own server has it: no number is 0.
        taken("a command without a number", LIST, 0),
        taken("an unknown number", [&ONE[..], &LIST, &[0xe8, 0x04, 0x01]].concat(), 1),
        taken("an unknown double", [&ONE[..], &LIST, &[0xe9, 0x04], &[0; 8]].concat(), 1),
        taken("an unknown text", [&ONE[..], &LIST, &[0xea, 0x04, 0x01, 0xff]].concat(), 1),
        taken("an unknown group", [&ONE[..], &LIST, &[0xeb, 0x04, 0xec, 0x04]].concat(), 1),
        taken("an unknown float", [&ONE[..], &LIST, &[0xed, 0x04], &[0; 4]].concat(), 1),
        taken("an unknown field within a command", [&ONE[..], &[0x52, 0x03, 0xe8, 0x04, 0x01]].concat(), 1),
    ]
}

/// Bytes without a pattern, the same each time; the first one is a tag that there is not.
fn noise(len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(7);
    std::iter::once(0x07).chain(std::iter::repeat_with(|| random.u8(..))).take(len).collect()
}

fn cases() -> Vec<Case> {
    bad().into_iter().chain(odd()).collect()
}

pub(crate) fn names() -> Vec<&'static str> {
    cases().iter().map(|case| case.name).collect()
}

#[test]
fn what_is_no_request_ends_the_connection_and_what_is_odd_does_not() {
    let target = Target::start(&[]);
    let mut bystander = target.connect();
    let mut differences = Differences::default();
    for Case { name, payload, answer } in cases() {
        let mut client = target.connect();
        client.try_write(&masked(BINARY, &payload));
        let answered = match answer {
            Answer::Closed(_) => Answer::Closed(end(&mut client)),
            Answer::Refused(..) | Answer::Taken(_) => {
                let response = client.next_response();
                client.number_from(1000);
                assert_works(&mut client, name);
                match response.error_message {
                    None => Answer::Taken(response.request_id),
                    Some(text) => Answer::Refused(response.request_id, text),
                }
            }
        };
        differences.expect(name, answered, answer);
        assert_works(&mut bystander, name);
    }
    differences.assert_none();
    drop(bystander);
    target.assert_unharmed();
}
