//! Too much, too often, or too slowly: whoever does it meets a limit, and everybody else is served meanwhile.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use starfeed::proto::{self, request::Command, response::Body};

use crate::support::process::eventually;
use crate::support::raw::{
    BINARY, CLOSE, Frame, PING, PONG, RawClient, TEXT, TIMEOUT, frame_with, http, masked, subscribe_logins,
    unsubscribe, upgrade_request,
};
use crate::{Differences, Target, assert_works, end};

const CONTINUATION: u8 = 0;
const MASKED: u8 = 0x80;

/// Bytes that are sent again and again until the connection ends, how long to wait between them, and the code it ends with.
struct Flood {
    name: &'static str,
    first: Vec<u8>,
    again: Vec<u8>,
    pause: Duration,
    code: u16,
    /// The reason in the metrics.
    reason: &'static str,
}

fn flood(name: &'static str, first: Vec<u8>, again: Vec<u8>, code: u16, reason: &'static str) -> Flood {
    Flood { name, first, again, pause: Duration::ZERO, code, reason }
}

/// Messages and fragments have to be complete after so long: soon, but not before a flood is noticed on a busy machine.
const LIMITS: [(&str, &str); 1] = [("message_seconds", "4")];

fn floods() -> Vec<Flood> {
    let begun = |opcode| frame_with(opcode, MASKED, b"x");
    let more = |bytes: usize| frame_with(CONTINUATION, MASKED, &vec![0; bytes]);
    let slowly = |flood: Flood| Flood { pause: Duration::from_millis(100), ..flood };
    let (fragments, slow, pings) = ("too_many_fragments", "message_too_slow", "too_many_pings");
    vec![
        flood("pings without end", Vec::new(), masked(PING, b"are you there").repeat(10), 1008, pings),
        flood("pongs that nobody asked for", Vec::new(), masked(PONG, b"").repeat(10), 1008, pings),
        flood("pings within a message", begun(BINARY), masked(PING, b"").repeat(10), 1008, pings),
        flood("fragments without end", begun(BINARY), more(10), 1008, fragments),
        flood("empty fragments without end", begun(BINARY), more(0).repeat(10), 1008, fragments),
        flood("fragments of text without end", begun(TEXT), more(1), 1008, fragments),
        flood("large fragments without end", begun(BINARY), more(10_000), 1009, "too_big"),
        slowly(flood("fragments one by one", begun(BINARY), more(10), 1008, slow)),
        slowly(flood("a frame byte by byte", vec![0x82, 0xfe, 0xff, 0xff], vec![0], 1008, slow)),
        slowly(flood("a message that is begun and no more", begun(BINARY), Vec::new(), 1008, slow)),
        slowly(flood("half a header and no more", vec![0x82], Vec::new(), 1008, slow)),
        slowly(flood("a ping byte by byte", vec![0x89, 0xfd], vec![0], 1008, slow)),
    ]
}

/// What the other tests here are about.
const OTHERS: &[&str] = &[
    "as many pings as are allowed",
    "as many fragments as are allowed",
    "a connection too many",
    "half a handshake on each connection",
    "a subscription too many",
    "subscriptions and unsubscriptions without end",
    "bad requests without end",
    "a connection that asks for nothing",
    "an import of more than is allowed",
    "connections that are reset within a message",
    "a close frame that is never followed by an end",
];

pub(crate) fn names() -> Vec<&'static str> {
    floods().iter().map(|flood| flood.name).chain(OTHERS.iter().copied()).collect()
}

#[test]
fn whoever_does_not_stop_is_stopped() {
    let target = Target::start(&LIMITS);
    let mut bystander = target.connect();
    let mut differences = Differences::default();
    for Flood { name, first, again, pause, code, reason } in floods() {
        let metric = format!("starfeed_connections_closed_total{{reason=\"{reason}\"}}");
        let before = target.server.metric(&metric);
        let mut client = target.connect();
        client.give_up_writing_after(Duration::from_secs(5));
        client.try_write(&first);
        let deadline = Instant::now() + TIMEOUT;
        while target.server.metric(&metric) == before && Instant::now() < deadline {
            for _ in 0..if pause.is_zero() { 100 } else { 1 } {
                client.try_write(&again);
            }
            std::thread::sleep(pause);
        }
        differences.expect(name, target.server.metric(&metric) - before, 1.0);
        differences.expect(name, end(&mut client), Some(code));
        assert_works(&mut bystander, name);
        assert_works(&mut target.connect(), name);
    }
    differences.assert_none();
    drop(bystander);
    target.assert_unharmed();
}

#[test]
fn as_many_as_are_allowed_are_answered() {
    let target = Target::start(&[("message_fragments", "10")]);
    let mut client = target.connect();
    client.write(&masked(PING, b"x").repeat(100));
    for _ in 0..100 {
        assert_eq!(client.frame(), Some(Frame { opcode: PONG, payload: b"x".to_vec() }));
    }
    for _ in 0..5 {
        client = target.connect();
        // Pongs are no fragments.
        let between = [frame_with(CONTINUATION, MASKED, b""), masked(PONG, b"")].concat();
        client.write(&[frame_with(BINARY, MASKED, &[0x08]), between.repeat(8), masked(CONTINUATION, &[0x01])].concat());
        assert_eq!(client.response(1).error_message.as_deref(), Some("No command specified"));
    }
    client.write(&[frame_with(BINARY, MASKED, b""), frame_with(CONTINUATION, MASKED, b"").repeat(10)].concat());
    // It is noticed with what comes behind it, whatever that is.
    client.try_write(&masked(PONG, b""));
    assert_eq!(end(&mut client), Some(1008));
    target.assert_unharmed();
}

#[test]
fn more_connections_than_allowed_are_refused_until_one_ends() {
    let target = Target::start(&[("connections", "20"), ("handshake_seconds", "2")]);
    let address = target.server.address.clone();
    let mut clients: Vec<RawClient> = (0..20).map(|_| target.connect()).collect();
    for _ in 0..100 {
        let (line, body) = http(&address, &upgrade_request(&address));
        assert_eq!(line, "HTTP/1.1 503 Service Unavailable");
        assert_eq!(body, "there are as many connections as are allowed; try again later\n");
    }
    for client in &mut clients {
        assert_works(client, "a connection too many");
    }
    clients.pop().expect("twenty").reset();
    eventually("there is room again", || RawClient::try_connect(&address).is_ok());
    drop(clients);
    eventually("they are gone", || target.server.metric("starfeed_connections") == 1.0);
    // Those who say nothing take the room of others only until they should have said something.
    let mut silent: Vec<TcpStream> = (0..100)
        .map(|at| {
            let mut stream = TcpStream::connect(&address).expect("the server listens");
            stream.set_read_timeout(Some(TIMEOUT)).expect("a timeout can be set");
            stream.write_all(&upgrade_request(&address).as_bytes()[..at]).expect("the server reads");
            stream
        })
        .collect();
    eventually("they have lost it", || RawClient::try_connect(&address).is_ok());
    for stream in &mut silent {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an end in order");
        assert!(answer.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{answer}");
    }
    drop(silent);
    target.assert_unharmed();
}

#[test]
fn a_connection_has_so_many_subscriptions_and_can_have_others() {
    let target = Target::start(&[]);
    let mut client = target.connect();
    for id in 0..128 {
        assert_eq!(client.subscribe(subscribe_logins()), id);
    }
    for _ in 0..1000 {
        client.ask(subscribe_logins());
    }
    for request_id in 129..1129 {
        let text = client.response(request_id).error_message.expect("a refusal");
        assert!(text.starts_with("limit_exceeded: this connection has 128 subscriptions"), "{text}");
    }
    assert_eq!(target.server.metric("starfeed_subscriptions"), 128.0);
    // Another one has its own.
    let mut other = target.connect();
    for id in 0..2000 {
        other.ask(subscribe_logins());
        other.ask(unsubscribe(id));
        if id % 50 == 49 {
            for request_id in 2 * id - 97..=2 * id + 2 {
                assert!(other.response(request_id).is_success);
            }
        }
    }
    client.request(unsubscribe(17));
    assert_eq!(client.subscribe(subscribe_logins()), 128);
    drop((client, other));
    target.assert_unharmed();
}

#[test]
fn bad_requests_are_answered_one_by_one_and_nobody_waits_for_them() {
    let target = Target::start(&[]);
    let mut bystander = target.connect();
    let mut client = target.connect();
    // More than may wait: it is read from as fast as it takes the answers.
    let requests: u32 = 20_000;
    let address = target.server.address.clone();
    std::thread::scope(|scope| {
        let flooded = scope.spawn(|| {
            let batch = masked(BINARY, &[0x08, 0x07, 0xea, 0x04, 0x00]).repeat(100);
            for _ in 0..requests / 100 {
                client.write(&batch);
                for _ in 0..100 {
                    assert_eq!(client.response(7).error_message.as_deref(), Some("No command specified"));
                }
            }
            assert_works(&mut client, "bad requests without end");
        });
        while !flooded.is_finished() {
            assert_works(&mut bystander, "a bad request of another");
            assert_works(&mut RawClient::connect(&address), "a bad request of another");
        }
    });
    drop((client, bystander));
    target.assert_unharmed();
}

#[test]
fn a_connection_that_asks_for_nothing_is_kept_while_it_is_alive() {
    let target = Target::start(&[("ping_seconds", "1")]);
    let mut silent = target.connect();
    assert_eq!(silent.frame().map(|frame| frame.opcode), Some(PING));
    // Who answers stays, for longer than the other one has.
    let mut lively = target.connect();
    assert_eq!(end(&mut silent), Some(4000));
    for _ in 0..4 {
        let ping = lively.frame().expect("it is kept");
        assert_eq!(ping.opcode, PING);
        lively.write(&masked(PONG, &ping.payload));
    }
    assert_works(&mut lively, "silence");
    drop((silent, lively));
    target.assert_unharmed();
}

#[test]
fn an_import_of_more_than_is_allowed_is_refused_once_and_forgotten() {
    let target = Target::start(&[("import_bytes", "5000000")]);
    let mut client = target.connect();
    let mut errors = Vec::new();
    for part in 0..100 {
        let row = |at: i32| {
            let domain = format!("{part}-{at}.example");
            format!(r#"{{"domain": "{domain}", "login_url": "{}", "users": []}}"#, "x".repeat(10_000)).into()
        };
        let rows = (0..50).map(row).collect();
        let request = proto::RequestImportRows {
            table: "domain_login".to_owned(),
            rows,
            first_line: Some(part * 50 + 1),
            commit: None,
        };
        match client.request(Command::ImportRows(request)) {
            Some(Body::ImportRows(report)) => errors.extend(report.errors),
            body => panic!("{body:?}"),
        }
    }
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert_eq!(errors[0].message(), "here the import is larger than 5000000 bytes: import the file in parts");
    let commit =
        proto::RequestImportRows { table: "domain_login".to_owned(), commit: Some(true), ..Default::default() };
    assert_eq!(client.refusal(Command::ImportRows(commit)), "nothing was written: some rows were not accepted");
    assert_eq!(target.server.metric("starfeed_store_changes"), 0.0);
    drop(client);
    target.assert_unharmed();
}

#[test]
fn whoever_vanishes_in_the_middle_leaves_nothing_behind() {
    let target = Target::start(&[]);
    let request = masked(BINARY, &[0x08, 0x01, 0x9a, 0x02, 0x00]);
    for len in 0..200 {
        let mut client = target.connect();
        client.subscribe(subscribe_logins());
        client.write(&request[..len % request.len()]);
        if len % 2 == 0 {
            client.reset();
        } else {
            client.shut_down_sending();
            assert_eq!(client.frame(), None);
        }
    }
    // Each has said goodbye, and stays.
    let waiting: Vec<RawClient> = (0..50)
        .map(|_| {
            let mut client = target.connect();
            client.subscribe(subscribe_logins());
            client.write(&masked(CLOSE, &1000_u16.to_be_bytes()));
            assert_eq!(end(&mut client), Some(1000));
            client
        })
        .collect();
    eventually("they are let go", || target.server.metric("starfeed_connections") == 1.0);
    drop(waiting);
    target.assert_unharmed();
}
