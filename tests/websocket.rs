//! The wire as a good client sees it: golden bytes, the pages, pings, ends, over real sockets against a real process. What a
//! bad one sees is in `bad_input.rs`.

mod scenarios {
    mod rows;
}
mod support;

use std::io::{Read, Write};
use std::net::TcpStream;

use prost::Message;
use starfeed::proto;
use support::embedded as backend;
use support::process::ServerProcess;
use support::raw::{
    BINARY, CLOSE, Frame, PING, PONG, RawClient, TIMEOUT, frame_with, masked, subscribe_logins, upgrade_request,
};

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
fn the_pages_are_served() {
    let server = ServerProcess::in_memory(&[]);
    assert_eq!(server.page("/healthz"), ("HTTP/1.1 200 OK".to_owned(), "ok\n".to_owned()));
    let (_, metrics) = server.page("/metrics");
    assert!(metrics.contains("starfeed_limit{key=\"outbox_bytes\"} 262144"), "{metrics}");
    assert!(metrics.trim_end().ends_with("# EOF"));
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
