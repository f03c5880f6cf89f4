//! Bytes that are no WebSocket, or not as this server speaks it: the connection ends with the code that says so.

use crate::support::raw::{BINARY, CLOSE, PING, PONG, RawClient, TEXT, frame_with, masked};
use crate::{Differences, Target, assert_works, end};

const CONTINUATION: u8 = 0;
/// The first bit of a header: the last frame of a message.
const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;

struct Case {
    name: &'static str,
    bytes: Vec<u8>,
    code: u16,
}

fn case(name: &'static str, bytes: impl Into<Vec<u8>>, code: u16) -> Case {
    Case { name, bytes: bytes.into(), code }
}

/// The header of a frame that claims to have so many bytes, and what there is of them.
fn claim(first: u8, len: u64) -> Vec<u8> {
    [&[first, MASKED | 127][..], &len.to_be_bytes(), &[1, 2, 3, 4], &[0; 100]].concat()
}

fn close_with(code: u16, reason: &[u8]) -> Vec<u8> {
    masked(CLOSE, &[&code.to_be_bytes(), reason].concat())
}

fn shapes() -> Vec<Case> {
    let binary = FINAL | BINARY;
    vec![
        case("an unmasked frame", frame_with(binary, 0, b""), 1002),
        case("an unmasked ping", frame_with(FINAL | PING, 0, b""), 1002),
        case("an unmasked close frame", frame_with(FINAL | CLOSE, 0, &1000_u16.to_be_bytes()), 1002),
        case("reserved bit 1, which says compressed", frame_with(binary | 0x40, MASKED, b"x"), 1002),
        case("reserved bit 2", frame_with(binary | 0x20, MASKED, b""), 1002),
        case("reserved bit 3", frame_with(binary | 0x10, MASKED, b""), 1002),
        case("all reserved bits of a ping", frame_with(FINAL | PING | 0x70, MASKED, b""), 1002),
        case("a reserved bit of a close frame", frame_with(FINAL | CLOSE | 0x40, MASKED, b""), 1002),
        case(
            "a reserved bit in a continuation",
            [frame_with(BINARY, MASKED, b"a"), frame_with(FINAL | 0x40, MASKED, b"b")].concat(),
            1002,
        ),
        case("data opcode 3", masked(3, b""), 1002),
        case("data opcode 7", masked(7, b"x"), 1002),
        case("control opcode 11", masked(11, b""), 1002),
        case("control opcode 15", masked(15, b"x"), 1002),
        case("a ping of 126 bytes", masked(PING, &[0; 126]), 1002),
        case("a pong of 126 bytes", masked(PONG, &[0; 126]), 1002),
        case("a close frame of 126 bytes", close_with(1000, &[b'x'; 124]), 1002),
        // Too long for a ping, and for anything else.
        case("a ping that claims 2^32 bytes", claim(FINAL | PING, 1 << 32), 1009),
        case("a ping of 1,000 bytes", masked(PING, &[0; 1000]), 1002),
        case("a ping, and an unmasked frame", [masked(PING, b"x"), frame_with(binary, 0, b"")].concat(), 1002),
        case("a fragmented ping", frame_with(PING, MASKED, b""), 1002),
        case("a fragmented pong", frame_with(PONG, MASKED, b""), 1002),
        case("a fragmented close frame", frame_with(CLOSE, MASKED, &1000_u16.to_be_bytes()), 1002),
        case("a continuation of nothing", masked(CONTINUATION, b"x"), 1002),
        case(
            "a continuation of a message that was complete",
            [frame_with(BINARY, MASKED, &[8]), masked(CONTINUATION, &[1]), masked(CONTINUATION, b"x")].concat(),
            1002,
        ),
        case("a message inside another", [frame_with(BINARY, MASKED, b"a"), masked(BINARY, b"b")].concat(), 1002),
        case("HTTP where frames are expected", *b"GET / HTTP/1.1\r\n\r\n", 1002),
        case("only zeros", [0; 4096], 1002),
        case("only ones", [0xff; 4096], 1002),
    ]
}

fn closes() -> Vec<Case> {
    vec![
        case("a close frame of one byte", masked(CLOSE, &[3]), 1002),
        case("close code 0", close_with(0, b""), 1002),
        case("close code 999", close_with(999, b"too low"), 1002),
        case("close code 1004", close_with(1004, b""), 1002),
        case("close code 1005", close_with(1005, b""), 1002),
        case("close code 1006", close_with(1006, b""), 1002),
        case("close code 1015", close_with(1015, b""), 1002),
        case("close code 1016", close_with(1016, b""), 1002),
        case("close code 2999", close_with(2999, b""), 1002),
        case("close code 5000", close_with(5000, b""), 1002),
        case("close code 65535", close_with(65535, b""), 1002),
        case("a close reason that is not UTF-8", close_with(1000, &[0xff, 0xfe]), 1007),
        // No errors: such ends are answered as they were asked for.
        case("close code 4999", close_with(4999, b""), 4999),
        case("a ping before a close frame", [masked(PING, b"x"), close_with(1000, b"")].concat(), 1000),
        case("frames behind a close frame", [close_with(1000, b""), masked(TEXT, b"x")].concat(), 1000),
    ]
}

fn contents() -> Vec<Case> {
    let big = vec![0; (1 << 20) + 1];
    let text = "Zeitungen – am Morgen".as_bytes();
    vec![
        case("a text frame", masked(TEXT, b"hello"), 1003),
        case("an empty text frame", masked(TEXT, b""), 1003),
        case("a JSON request", masked(TEXT, br#"{"request_id": 1}"#), 1003),
        case("text that is not UTF-8", masked(TEXT, &[0xff, 0xfe]), 1007),
        case("text with a surrogate", masked(TEXT, &[0xed, 0xa0, 0x80]), 1007),
        case("text beyond Unicode", masked(TEXT, &[0xf4, 0x90, 0x80, 0x80]), 1007),
        case("text that ends within a character", masked(TEXT, &text[..11]), 1007),
        case(
            "text whose second fragment is not UTF-8",
            [frame_with(TEXT, MASKED, text), masked(CONTINUATION, &[0xc0, 0xaf])].concat(),
            1007,
        ),
        case("a message of one byte too much", masked(BINARY, &big), 1009),
        case("a text of one byte too much", masked(TEXT, &big), 1009),
        case(
            "fragments of one byte too much together",
            [frame_with(BINARY, MASKED, &big[..1 << 19]), frame_with(FINAL, MASKED, &big[..=1 << 19])].concat(),
            1009,
        ),
        case("a frame that claims 2^31 bytes", claim(FINAL | BINARY, 1 << 31), 1009),
        case("a frame that claims 2^40 bytes", claim(FINAL | BINARY, 1 << 40), 1009),
        case("a frame that claims 2^64 - 1 bytes", claim(FINAL | BINARY, u64::MAX), 1009),
        case(
            "a fragment behind others that claims 2^63 bytes",
            [frame_with(BINARY, MASKED, &[0; 100]), claim(FINAL, 1 << 63)].concat(),
            1009,
        ),
    ]
}

fn cases() -> Vec<Case> {
    [shapes(), closes(), contents()].into_iter().flatten().collect()
}

pub(crate) fn names() -> Vec<&'static str> {
    cases().iter().map(|case| case.name).collect()
}

#[test]
fn what_breaks_the_protocol_ends_with_its_code() {
    let target = Target::start(&[]);
    let mut bystander = target.connect();
    let mut differences = Differences::default();
    for Case { name, bytes, code } in cases() {
        let mut client = RawClient::connect(&target.server.address);
        client.try_write(&bytes);
        differences.expect(name, end(&mut client), Some(code));
        assert_works(&mut bystander, name);
        assert_works(&mut target.connect(), name);
    }
    differences.assert_none();
    drop(bystander);
    target.assert_unharmed();
}
