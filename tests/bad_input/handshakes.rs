//! Requests that are no handshake, or one of somebody who may not connect: each has a status and says what to do.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use crate::support::raw::{TIMEOUT, upgrade_request};
use crate::{Differences, Target, assert_works};

struct Case {
    name: &'static str,
    /// `ADDRESS` stands for the server's.
    request: Vec<u8>,
    status: &'static str,
    /// What is behind the head; of a page, how it begins.
    body: &'static str,
}

const NOT_HTTP: &str = "this is not an HTTP request";
const NO_UPGRADE: &str = "send Connection: Upgrade and Upgrade: websocket";
const NO_KEY: &str = "Sec-WebSocket-Key must be 16 bytes in base64";
const VERSION: &str = "WebSocket version 13 is spoken here";
const METHOD: &str = "only GET and HEAD are answered here";
const TOO_LARGE: &str = "the request head is too large";
const NOT_IN_TIME: &str = "the request head did not come in time";
const ONCE: &str = "Host and Origin may be given only once";
const HOST: &str = "this Host is not of this machine: ask for 127.0.0.1 or localhost, or start with --behind-proxy";
const ORIGIN: &str = "this Origin may not connect: list it in allowed_origins, or start with --behind-proxy";
const NO_PAGE: &str = "this is a WebSocket; the pages here are /healthz and /metrics";

fn case(name: &'static str, request: impl Into<Vec<u8>>, status: &'static str, body: &'static str) -> Case {
    Case { name, request: request.into(), status, body }
}

/// A good handshake in which one thing is another.
fn with(good: &str, other: &str) -> String {
    let request = upgrade_request("ADDRESS");
    assert!(request.contains(good), "{good}");
    request.replacen(good, other, 1)
}

/// A good handshake with one more header.
fn and(header: &str) -> String {
    with("\r\n\r\n", &format!("\r\n{header}\r\n\r\n"))
}

fn upgrades() -> Vec<Case> {
    let key = "dGhlIHNhbXBsZSBub25jZQ==";
    vec![
        case("a POST", with("GET", "POST"), "405", METHOD),
        case("a CONNECT", with("GET /ws/", "CONNECT 127.0.0.1:22"), "405", METHOD),
        case("an OPTIONS, as browsers ask", with("GET", "OPTIONS"), "405", METHOD),
        case("a HEAD", with("GET", "HEAD"), "400", "a WebSocket begins with a GET request of HTTP/1.1"),
        case("HTTP/1.0", with("HTTP/1.1", "HTTP/1.0"), "400", "a WebSocket begins with a GET request of HTTP/1.1"),
        case("HTTP/2.0", with("HTTP/1.1", "HTTP/2.0"), "400", NOT_HTTP),
        case("version 8", with("Version: 13", "Version: 8"), "426", VERSION),
        case("version 14", with("Version: 13", "Version: 14"), "426", VERSION),
        case("no version", with("Sec-WebSocket-Version: 13\r\n", ""), "426", VERSION),
        case("no Upgrade header", with("Upgrade: websocket\r\n", ""), "426", NO_UPGRADE),
        case("no Connection header", with("Connection: Upgrade\r\n", ""), "426", NO_UPGRADE),
        case("an upgrade to HTTP/2", with("Upgrade: websocket", "Upgrade: h2c"), "426", NO_UPGRADE),
        case("no key", with(&format!("Sec-WebSocket-Key: {key}\r\n"), ""), "400", NO_KEY),
        case("an empty key", with(key, ""), "400", NO_KEY),
        case("a short key", with(key, "c2hvcnQ="), "400", NO_KEY),
        case("a long key", with(key, "dGhlIHNhbXBsZSBub25jZSBpcyBsb25n"), "400", NO_KEY),
        case("a key that is not base64", with(key, "!!!!!!!!!!!!!!!!!!!!!!=="), "400", NO_KEY),
    ]
}

fn strangers() -> Vec<Case> {
    let host = |host: &str| with("Host: ADDRESS", &format!("Host: {host}"));
    vec![
        case("another Host", host("evil.example"), "403", HOST),
        case("a Host that begins like this machine", host("127.0.0.1.evil.example"), "403", HOST),
        case("a Host that ends like this machine", host("evil.example#@localhost"), "403", HOST),
        case("an empty Host", host(""), "403", HOST),
        case("the Host of another network", host("192.168.0.1:8000"), "403", HOST),
        case("two Hosts", and("Host: localhost"), "400", ONCE),
        case("a foreign Origin", and("Origin: https://evil.example"), "403", ORIGIN),
        case("the Origin null", and("Origin: null"), "403", ORIGIN),
        case("an empty Origin", and("Origin:"), "403", ORIGIN),
        case("an Origin that begins like this machine", and("Origin: http://localhost.evil.example"), "403", ORIGIN),
        case("an Origin with a name before it", and("Origin: http://localhost@evil.example"), "403", ORIGIN),
        case("an Origin that is a file", and("Origin: file://"), "403", ORIGIN),
        case("an Origin that is not ASCII", and("Origin: http://l\u{f6}calhost"), "403", ORIGIN),
        case(
            "an Origin that is not UTF-8",
            [&b"GET / HTTP/1.1\r\nHost: localhost\r\nOrigin: \xff\r\n\r\n"[..]].concat(),
            "403",
            ORIGIN,
        ),
        case("a Host that is not UTF-8", *b"GET / HTTP/1.1\r\nHost: \xff\r\n\r\n", "403", HOST),
        case("two Origins", and("Origin: http://localhost\r\nOrigin: http://localhost"), "400", ONCE),
        case(
            "a page of a foreign Origin",
            "GET /metrics HTTP/1.1\r\nHost: ADDRESS\r\nOrigin: https://evil.example\r\n\r\n",
            "403",
            ORIGIN,
        ),
        case("a page of another Host", "GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n", "403", HOST),
    ]
}

fn heads() -> Vec<Case> {
    let get = |rest: &str| format!("GET / HTTP/1.1\r\nHost: ADDRESS\r\n{rest}\r\n");
    vec![
        case("TLS", *b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello\r\n\r\n", "400", NOT_HTTP),
        case("a protobuf message", *b"\x08\x01\x9a\x02\x00\r\n\r\n", "400", NOT_HTTP),
        case("HTTP/2 with prior knowledge", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "400", NOT_HTTP),
        case("empty lines only", "\r\n\r\n\r\n\r\n", "400", NOT_HTTP),
        case("no path", "GET\r\n\r\n", "400", NOT_HTTP),
        case("a NUL in a header", get("X: a\0b\r\n"), "400", NOT_HTTP),
        case("a header without a colon", get("nonsense\r\n"), "400", NOT_HTTP),
        case("a header name with a blank", get("X Y: z\r\n"), "400", NOT_HTTP),
        case("a folded header", get("X: a\r\n b\r\n"), "400", NOT_HTTP),
        case("a large head", get(&format!("X: {}\r\n", "x".repeat(20_000))), "431", TOO_LARGE),
        case("a path of a mebibyte", format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(1 << 20)), "431", TOO_LARGE),
        case("headers without end", get(&"X: y\r\n".repeat(1 << 17)), "431", TOO_LARGE),
        case("a hundred headers", get(&"X: y\r\n".repeat(100)), "431", "the request has too many headers"),
        case("a head that does not end", "GET / HTTP/1.1\r\nHost: ADDRESS\r\nX: ", "408", NOT_IN_TIME),
        case("half a handshake", with("Sec-WebSocket-Version: 13\r\n", "").trim_end(), "408", NOT_IN_TIME),
        case("lines that end in a line feed only", "GET / HTTP/1.1\nHost: ADDRESS\n\n", "408", NOT_IN_TIME),
        case("one byte", "G", "408", NOT_IN_TIME),
        case("nothing", "", "408", NOT_IN_TIME),
    ]
}

fn pages() -> Vec<Case> {
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: ADDRESS\r\n\r\n");
    vec![
        case("a page that there is not", get("/favicon.ico"), "426", NO_PAGE),
        case("a path that climbs", get("/../../etc/passwd"), "426", NO_PAGE),
        case("an encoded path that climbs", get("/metrics/%2e%2e/%2e%2e/etc/passwd"), "426", NO_PAGE),
        case("a whole URL", get("http://evil.example/metrics"), "426", NO_PAGE),
        case("metrics in upper case", get("/METRICS"), "426", NO_PAGE),
        case("a page with a query", get("/healthz?token=secret"), "200", "ok"),
        case("a page, deleted", get("/metrics").replace("GET", "DELETE"), "405", METHOD),
        case("a page, posted to", get("/metrics").replace("GET", "POST"), "405", METHOD),
        case("the head of a page", get("/healthz").replace("GET", "HEAD"), "200", ""),
        case("two requests at once", [get("/healthz"), get("/metrics")].concat(), "200", "ok"),
        case(
            "a body that nobody wants",
            format!("POST / HTTP/1.1\r\nHost: ADDRESS\r\nContent-Length: 300000\r\n\r\n{}", "x".repeat(300_000)),
            "405",
            METHOD,
        ),
    ]
}

fn cases() -> Vec<Case> {
    [upgrades(), strangers(), heads(), pages()].into_iter().flatten().collect()
}

pub(crate) fn names() -> Vec<&'static str> {
    cases().iter().map(|case| case.name).collect()
}

/// Sends a request, and reads until the server ends the connection, which it has to do in order: a reset could overtake
/// the answer.
fn exchange(address: &str, request: &[u8]) -> std::io::Result<(String, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    // So the system takes little of what the server does not.
    rustix::net::sockopt::set_socket_send_buffer_size(&stream, 16 * 1024)?;
    stream.write_all(request)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    Ok((head.split(' ').nth(1).unwrap_or_default().to_owned(), body.trim_end().to_owned()))
}

#[test]
fn what_is_no_handshake_is_answered_with_what_to_do() {
    let target = Target::start(&[("handshake_seconds", "1")]);
    let address = &target.server.address;
    let mut differences = Differences::default();
    for Case { name, request, status, body } in cases() {
        let request = match String::from_utf8(request) {
            Ok(text) => text.replace("ADDRESS", address).into_bytes(),
            Err(bytes) => bytes.into_bytes(),
        };
        match exchange(address, &request) {
            Ok(answer) => differences.expect(name, answer, (status.to_owned(), body.to_owned())),
            Err(error) => differences.expect(name, error.to_string(), "an end in order".to_owned()),
        }
        assert_works(&mut target.connect(), name);
    }
    differences.assert_none();
    target.assert_unharmed();
}

#[test]
fn a_head_that_trickles_is_waited_for_no_longer_than_another() {
    let target = Target::start(&[("handshake_seconds", "1")]);
    let mut stream = TcpStream::connect(&target.server.address).expect("the server listens");
    stream.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout can be set");
    let mut answer = [0; 9];
    let began = Instant::now();
    while stream.read_exact(&mut answer).is_err() {
        assert!(began.elapsed() < TIMEOUT, "it is waited for");
        // Each byte comes well within the time, and all of them never.
        let _ = stream.write_all(b"G");
    }
    let mut rest = [0; 4];
    stream.read_exact(&mut rest).expect("the rest of the answer");
    assert_eq!(rest[..3], *b"408");
    drop(stream);
    target.assert_unharmed();
}

#[test]
fn a_peer_that_leaves_within_its_request_is_forgotten() {
    let target = Target::start(&[]);
    let request = upgrade_request(&target.server.address);
    for len in 0..request.len() {
        let mut stream = TcpStream::connect(&target.server.address).expect("the server listens");
        stream.write_all(&request.as_bytes()[..len]).expect("the server reads");
        if len % 2 == 0 {
            stream.shutdown(Shutdown::Write).expect("a connection");
            assert_eq!(stream.read(&mut [0; 9]).expect("an end in order"), 0, "after {len} bytes");
        }
    }
    target.assert_unharmed();
}
