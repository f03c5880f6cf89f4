//! The wire: golden bytes, handshakes, close codes, limits, over real sockets against a real process.

mod scenarios {
    mod rows;
}
mod support;

use std::io::{Read, Write};
use std::net::TcpStream;

use prost::Message;
use starfeed::proto;
use support::embedded as backend;
use support::process::{ServerProcess, eventually};
use support::raw::{
    BINARY, CLOSE, Frame, PING, PONG, RawClient, TEXT, TIMEOUT, frame_with, http, masked, subscribe_logins,
    unsubscribe, upgrade_request,
};

#[test]
fn unknown_commands_and_fields_harm_nobody() {
    let server = ServerProcess::in_memory(&[]);
    let mut client = RawClient::connect(&server.address);
    // Field 77 is no command that anyone knows.
    client.send(&[0x08, 0x05, 0xea, 0x04, 0x00]);
    let response = client.response(5);
    assert_eq!(response.error_message.as_deref(), Some("No command specified"));
    // Field 77 of a request that is known is passed over.
    client.send(&[0x08, 0x06, 0x52, 0x03, 0xe8, 0x04, 0x01]);
    assert_eq!(client.response(6).error_message, None);
    assert_eq!(client.subscribe(subscribe_logins()), 0);
}

#[test]
fn protocol_errors_are_closed_with_their_code() {
    let server = ServerProcess::in_memory(&[]);
    let big = vec![0; (1 << 20) + 1];
    let huge_claim = [vec![0x82, 0xff], (1_u64 << 40).to_be_bytes().to_vec(), vec![1, 2, 3, 4]].concat();
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        ("garbage", masked(BINARY, b"foo"), 1007),
        ("a truncated request", masked(BINARY, &[0x08]), 1007),
        ("deep nesting", masked(BINARY, &[0x0b].repeat(50_000)), 1007),
        ("a length of 2^31", masked(BINARY, &[0x7a, 0xff, 0xff, 0xff, 0xff, 0x07]), 1007),
        ("invalid UTF-8 in a string", masked(BINARY, &[0x08, 0x01, 0x12, 0x03, 0x0a, 0x01, 0xff]), 1007),
        ("a text frame", masked(TEXT, b"hello"), 1003),
        ("a text frame that is not UTF-8", masked(TEXT, &[0xff, 0xfe]), 1007),
        ("a large message", masked(BINARY, &big), 1009),
        ("a frame that claims to be huge", huge_claim, 1009),
        (
            "a large message in fragments",
            [frame_with(BINARY, 0x80, &big[..600_000]), frame_with(0x80, 0x80, &big[..600_000])].concat(),
            1009,
        ),
        ("an unmasked frame", frame_with(0x80 | BINARY, 0, b""), 1002),
        ("a reserved bit", frame_with(0xc0 | BINARY, 0x80, b""), 1002),
        ("an unknown data opcode", masked(3, b""), 1002),
        ("an unknown control opcode", masked(11, b""), 1002),
        ("a long ping", masked(PING, &[0; 126]), 1002),
        ("a fragmented ping", frame_with(PING, 0x80, b""), 1002),
        ("a continuation of nothing", masked(0, b"x"), 1002),
        ("a new message inside another", [frame_with(BINARY, 0x80, b"a"), masked(BINARY, b"b")].concat(), 1002),
        ("a close frame of one byte", masked(CLOSE, &[3]), 1002),
        ("a close frame with code 999", masked(CLOSE, &999_u16.to_be_bytes()), 1002),
        ("a close frame with code 1005", masked(CLOSE, &1005_u16.to_be_bytes()), 1002),
    ];
    for (what, bytes, code) in cases {
        let mut client = RawClient::connect(&server.address);
        client.try_write(&bytes);
        let (closed, reason) = client.closed();
        assert_eq!(closed, code, "{what}: {reason}");
        assert_eq!(client.frame(), None, "{what}: something came after the close frame");
    }
    // Whatever they did, the next one is served.
    let mut client = RawClient::connect(&server.address);
    assert_eq!(client.subscribe(subscribe_logins()), 0);
    eventually("their connections are gone", || server.metric("starfeed_connections") <= 2.0);
}

#[test]
fn a_close_frame_is_answered_with_its_code() {
    let server = ServerProcess::in_memory(&[]);
    for payload in [&[][..], &1000_u16.to_be_bytes(), &[0x03, 0xe9, b'b', b'y', b'e'], &3000_u16.to_be_bytes()] {
        let mut client = RawClient::connect(&server.address);
        client.write(&masked(CLOSE, payload));
        let answer = client.frame().expect("an answer");
        assert_eq!(answer.opcode, CLOSE);
        assert_eq!(answer.payload.get(..2), payload.get(..2));
        assert_eq!(client.frame(), None);
    }
}

#[test]
fn pings_are_answered_and_fragments_are_joined() {
    let server = ServerProcess::in_memory(&[]);
    let mut client = RawClient::connect(&server.address);
    client.write(&masked(PING, b"are you there"));
    assert_eq!(client.frame(), Some(Frame { opcode: PONG, payload: b"are you there".to_vec() }));
    let request = proto::Request { request_id: 9, command: Some(subscribe_logins()) }.encode_to_vec();
    let (front, back) = request.split_at(2);
    client.write(&frame_with(BINARY, 0x80, front));
    client.write(&masked(PING, b"in between"));
    assert_eq!(client.frame(), Some(Frame { opcode: PONG, payload: b"in between".to_vec() }));
    client.write(&masked(0, back));
    assert!(client.response(9).is_success);
}

#[test]
fn handshakes_that_are_none_are_answered() {
    let server = ServerProcess::in_memory(&[("handshake_seconds", "1"), ("head_bytes", "2000")]);
    let good = upgrade_request(&server.address);
    let cases = [
        (good.replace("GET", "POST"), "405"),
        (good.replace("Version: 13", "Version: 8"), "426"),
        (good.replace("Upgrade: websocket\r\n", ""), "426"),
        (good.replace("dGhlIHNhbXBsZSBub25jZQ==", "short"), "400"),
        (good.replace("HTTP/1.1", "HTTP/1.0"), "400"),
        (good.replace("\r\n\r\n", "\r\nOrigin: https://evil.example\r\n\r\n"), "403"),
        (good.replace(&server.address, "evil.example"), "403"),
        (format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(3000)), "431"),
        ("\x16\x03\x01 this is TLS\r\n\r\n".to_owned(), "400"),
        // Never finished.
        ("GET / HTTP/1.1\r\nHost: ".to_owned(), "408"),
        (String::new(), "408"),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), "426"),
        ("GET /healthz HTTP/1.1\r\n\r\n".to_owned(), "200"),
    ];
    for (request, status) in cases {
        let (line, _) = http(&server.address, &request);
        assert_eq!(line.split(' ').nth(1), Some(status), "{request}\n{line}");
    }
    assert_eq!(server.page("/healthz").1, "ok\n");
    let (_, metrics) = server.page("/metrics");
    assert!(metrics.contains("starfeed_limit{key=\"outbox_bytes\"} 262144"), "{metrics}");
    assert!(metrics.trim_end().ends_with("# EOF"));
}

#[test]
fn more_connections_than_allowed_are_refused_until_one_ends() {
    let server = ServerProcess::in_memory(&[("connections", "3")]);
    let mut clients: Vec<RawClient> = (0..3).map(|_| RawClient::connect(&server.address)).collect();
    let (line, body) = http(&server.address, &upgrade_request(&server.address));
    assert!(line.contains("503"), "{line}");
    assert!(body.contains("try again"), "{body}");
    clients.pop().expect("three").reset();
    let mut let_in = None;
    eventually("there is room again", || {
        let_in = RawClient::try_connect(&server.address).ok();
        let_in.is_some()
    });
    assert_eq!(let_in.expect("it was let in").subscribe(subscribe_logins()), 0);
}

#[test]
fn more_subscriptions_than_allowed_are_refused_until_one_ends() {
    let server = ServerProcess::in_memory(&[("subscriptions_per_connection", "2")]);
    let mut client = RawClient::connect(&server.address);
    assert_eq!(client.subscribe(subscribe_logins()), 0);
    assert_eq!(client.subscribe(subscribe_logins()), 1);
    let text = client.refusal(subscribe_logins());
    assert!(text.starts_with("limit_exceeded: this connection has 2 subscriptions"), "{text}");
    client.request(unsubscribe(0));
    assert_eq!(client.subscribe(subscribe_logins()), 2);
}

#[test]
fn who_does_not_answer_pings_is_let_go() {
    let server = ServerProcess::in_memory(&[("ping_seconds", "1")]);
    let mut silent = RawClient::connect(&server.address);
    assert_eq!(silent.frame().map(|frame| frame.opcode), Some(PING));
    assert_eq!(silent.closed().0, 4000);
    // Who answers stays, for longer than the other one had.
    let mut lively = RawClient::connect(&server.address);
    for _ in 0..4 {
        let ping = lively.frame().expect("it is kept");
        assert_eq!(ping.opcode, PING);
        lively.write(&masked(PONG, &ping.payload));
    }
    assert_eq!(lively.subscribe(subscribe_logins()), 0);
}

#[test]
fn a_shutdown_tells_clients_and_exits_with_zero() {
    let mut server = ServerProcess::in_memory(&[]);
    let mut client = RawClient::connect(&server.address);
    client.subscribe(subscribe_logins());
    // One that has connected and says nothing must not hold it up.
    let _guest = TcpStream::connect(&server.address).expect("the server listens");
    let ended = std::thread::scope(|scope| {
        let ended = scope.spawn(|| server.terminate());
        assert_eq!(client.closed().0, 1001);
        client.try_write(&masked(CLOSE, &1001_u16.to_be_bytes()));
        client.shut_down_sending();
        ended.join().expect("it ends")
    });
    assert_eq!(ended.code(), Some(0));
}

#[test]
fn a_request_behind_the_handshake_in_one_segment_is_answered() {
    let server = ServerProcess::in_memory(&[]);
    let mut stream = TcpStream::connect(&server.address).expect("the server listens");
    stream.set_read_timeout(Some(TIMEOUT)).expect("a timeout can be set");
    let mut bytes = upgrade_request(&server.address).into_bytes();
    bytes.extend(masked(BINARY, &proto::Request { request_id: 1, command: Some(subscribe_logins()) }.encode_to_vec()));
    stream.write_all(&bytes).expect("the server reads");
    let mut answer = Vec::new();
    let expected = [0x82, 0x0b, 0x12, 0x09, 0x08, 0x01, 0x10, 0x01, 0x82, 0x01, 0x02, 0x08, 0x00];
    let mut chunk = [0; 256];
    while !answer.ends_with(&expected) {
        let read = stream.read(&mut chunk).expect("an answer");
        assert_ne!(read, 0, "the connection ended");
        answer.extend_from_slice(&chunk[..read]);
    }
}
