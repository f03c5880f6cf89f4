//! The HTTP that comes before a WebSocket: one request head, read with a limit and a deadline, and what to answer.

use std::net::IpAddr;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// Bounds of a request head.
#[derive(Clone, Copy, Debug)]
pub struct HttpLimits {
    /// The head has to be complete after this.
    pub head_timeout: Duration,
    /// Bytes of a head.
    pub head_bytes: usize,
}

/// Which pages of other sites may connect from a browser.
#[derive(Clone, Debug)]
pub enum OriginPolicy {
    /// Nobody but pages of this machine, and of the listed origins (`https://ui.example`).
    LoopbackAnd(Vec<String>),
    /// A proxy in front decides.
    TrustProxy,
}

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    /// To become a WebSocket; the key to accept it with.
    Upgrade {
        /// The value for `Sec-WebSocket-Accept`.
        accept: String,
    },
    /// A page.
    Page {
        /// Its path.
        path: String,
        /// Whether the body is wanted (GET) or only the head (HEAD).
        with_body: bool,
    },
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: Status,
    /// What to do, in one line.
    pub text: &'static str,
}

/// An HTTP status that is answered here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// 200
    Ok,
    /// 400
    BadRequest,
    /// 403
    Forbidden,
    /// 405
    MethodNotAllowed,
    /// 408
    RequestTimeout,
    /// 426
    UpgradeRequired,
    /// 431
    HeadTooLarge,
    /// 503
    Unavailable,
}

impl Status {
    /// The status line's number and text.
    pub const fn line(self) -> &'static str {
        match self {
            Self::Ok => "200 OK",
            Self::BadRequest => "400 Bad Request",
            Self::Forbidden => "403 Forbidden",
            Self::MethodNotAllowed => "405 Method Not Allowed",
            Self::RequestTimeout => "408 Request Timeout",
            Self::UpgradeRequired => "426 Upgrade Required",
            Self::HeadTooLarge => "431 Request Header Fields Too Large",
            Self::Unavailable => "503 Service Unavailable",
        }
    }

    const fn extra_headers(self) -> &'static str {
        match self {
            Self::UpgradeRequired => "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
            Self::MethodNotAllowed => "Allow: GET, HEAD\r\n",
            Self::Unavailable => "Retry-After: 5\r\n",
            Self::Ok | Self::BadRequest | Self::Forbidden | Self::RequestTimeout | Self::HeadTooLarge => "",
        }
    }
}

/// Why no request came.
#[derive(Debug, PartialEq, Eq)]
pub enum NoRequest {
    /// The peer left, or the socket failed.
    Gone,
    /// Answer with this.
    Refused(Refusal),
}

const HEADERS_MAX: usize = 64;

/// Reads one request head; what follows it stays in `buffer`.
pub async fn read_request(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
    limits: &HttpLimits,
    origins: &OriginPolicy,
) -> Result<Asked, NoRequest> {
    match tokio::time::timeout(limits.head_timeout, read_head(stream, buffer, limits.head_bytes)).await {
        Err(_) => Err(refused(Status::RequestTimeout, "the request head did not come in time")),
        Ok(Err(no_request)) => Err(no_request),
        Ok(Ok(head_len)) => {
            let asked = parse(&buffer[..head_len], origins);
            buffer.advance(head_len);
            asked.map_err(NoRequest::Refused)
        }
    }
}

async fn read_head(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
    head_bytes: usize,
) -> Result<usize, NoRequest> {
    let mut searched = 0_usize;
    loop {
        let from = searched.saturating_sub(3);
        if let Some(at) = buffer[from..].windows(4).position(|window| window == b"\r\n\r\n") {
            return Ok(from + at + 4);
        }
        searched = buffer.len();
        if buffer.len() >= head_bytes {
            return Err(refused(Status::HeadTooLarge, "the request head is too large"));
        }
        buffer.reserve(1024);
        match stream.read_buf(buffer).await {
            Ok(0) | Err(_) => return Err(NoRequest::Gone),
            Ok(_) => {}
        }
    }
}

fn refused(status: Status, text: &'static str) -> NoRequest {
    NoRequest::Refused(Refusal { status, text })
}

fn parse(head: &[u8], origins: &OriginPolicy) -> Result<Asked, Refusal> {
    let refusal = |status, text| Refusal { status, text };
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => {
            return Err(refusal(Status::HeadTooLarge, "the request has too many headers"));
        }
        Ok(httparse::Status::Partial) | Err(_) => {
            return Err(refusal(Status::BadRequest, "this is not an HTTP request"));
        }
    }
    let headers = Headers(request.headers);
    if ["host", "origin"].into_iter().any(|name| headers.count(name) > 1) {
        return Err(refusal(Status::BadRequest, "Host and Origin may be given only once"));
    }
    check_origin(&headers, origins)?;
    let with_body = match request.method {
        Some("GET") => true,
        Some("HEAD") => false,
        _ => return Err(refusal(Status::MethodNotAllowed, "only GET and HEAD are answered here")),
    };
    if !headers.has_token("connection", "upgrade") && !headers.has_token("upgrade", "websocket") {
        let path = request.path.unwrap_or("/").split('?').next().unwrap_or("/").to_owned();
        return Ok(Asked::Page { path, with_body });
    }
    if !with_body || request.version != Some(1) {
        return Err(refusal(Status::BadRequest, "a WebSocket begins with a GET request of HTTP/1.1"));
    }
    if !headers.has_token("connection", "upgrade") || !headers.has_token("upgrade", "websocket") {
        return Err(refusal(Status::UpgradeRequired, "send Connection: Upgrade and Upgrade: websocket"));
    }
    if headers.get("sec-websocket-version") != Some(b"13") {
        return Err(refusal(Status::UpgradeRequired, "WebSocket version 13 is spoken here"));
    }
    match headers.get("sec-websocket-key") {
        Some(key) if is_key(key) => Ok(Asked::Upgrade { accept: derive_accept_key(key) }),
        _ => Err(refusal(Status::BadRequest, "Sec-WebSocket-Key must be 16 bytes in base64")),
    }
}

/// Whether `key` is 16 bytes in base64.
fn is_key(key: &[u8]) -> bool {
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    key.strip_suffix(b"==").is_some_and(|digits| digits.len() == 22 && digits.iter().all(is_digit))
}

struct Headers<'a>(&'a [httparse::Header<'a>]);

impl Headers<'_> {
    fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value.trim_ascii())
    }

    fn count(&self, name: &str) -> usize {
        self.0.iter().filter(|header| header.name.eq_ignore_ascii_case(name)).count()
    }

    fn has_token(&self, name: &str, token: &str) -> bool {
        let named = self.0.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
        named
            .flat_map(|header| header.value.split(|byte| *byte == b','))
            .any(|value| value.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
    }
}

/// A browser lets any page open a WebSocket to any address, and DNS lets any name be this machine: so without a proxy in
/// front both the name asked for and the page asking have to be of this machine, or listed.
fn check_origin(headers: &Headers<'_>, origins: &OriginPolicy) -> Result<(), Refusal> {
    let OriginPolicy::LoopbackAnd(listed) = origins else {
        return Ok(());
    };
    // What cannot be read is not of this machine.
    let text = |name| headers.get(name).map(|value| std::str::from_utf8(value).unwrap_or_default());
    if text("host").is_some_and(|host| !is_loopback(host)) {
        return Err(Refusal {
            status: Status::Forbidden,
            text: "this Host is not of this machine: ask for 127.0.0.1 or localhost, or start with --behind-proxy",
        });
    }
    let Some(origin) = text("origin") else {
        return Ok(());
    };
    let authority = origin.split_once("://").map_or("", |(_, authority)| authority);
    if is_loopback(authority) || listed.iter().any(|listed| listed.eq_ignore_ascii_case(origin)) {
        return Ok(());
    }
    Err(Refusal {
        status: Status::Forbidden,
        text: "this Origin may not connect: list it in allowed_origins, or start with --behind-proxy",
    })
}

/// Whether `authority` (`host` or `host:port`) names this machine.
fn is_loopback(authority: &str) -> bool {
    let host = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, _)) => host,
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    };
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Accepts an upgrade.
pub async fn accept_upgrade(stream: &mut (impl AsyncWrite + Unpin), accept: &str) -> std::io::Result<()> {
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await
}

/// Answers with a text and ends the connection.
pub async fn respond(
    stream: &mut (impl AsyncWrite + Unpin),
    status: Status,
    content_type: &str,
    body: &str,
    with_body: bool,
) -> std::io::Result<()> {
    let head = format!(
        "HTTP/1.1 {}\r\n{}Content-Type: {content_type}\r\nContent-Length: {}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n",
        status.line(),
        status.extra_headers(),
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    if with_body {
        stream.write_all(body.as_bytes()).await?;
    }
    stream.shutdown().await
}

/// Reads on until the peer has left: a socket closed with bytes unread would reset the connection, and the peer might never
/// see the answer.
pub async fn read_out(stream: &mut (impl AsyncRead + Unpin), timeout: Duration) {
    let mut rest = [0; 1024];
    let _ = tokio::time::timeout(timeout, async { while let Ok(1..) = stream.read(&mut rest).await {} }).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    const UPGRADE: &str = "GET /ws/ HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

    fn asked(head: &str) -> Result<Asked, Refusal> {
        parse(format!("{head}\r\n").as_bytes(), &OriginPolicy::LoopbackAnd(vec!["https://ui.example".to_owned()]))
    }

    #[test]
    fn an_upgrade_is_accepted_on_any_path() {
        for path in ["/", "/ws/", "/anything?x=1"] {
            assert_eq!(
                asked(&UPGRADE.replace("/ws/", path)),
                Ok(Asked::Upgrade { accept: "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".to_owned() })
            );
        }
    }

    #[test]
    fn bad_handshakes_get_their_status() {
        let cases = [
            (UPGRADE.replace("GET", "POST"), Status::MethodNotAllowed),
            (UPGRADE.replace("HTTP/1.1", "HTTP/1.0"), Status::BadRequest),
            (UPGRADE.replace("Version: 13", "Version: 8"), Status::UpgradeRequired),
            (UPGRADE.replace("dGhlIHNhbXBsZSBub25jZQ==", "short"), Status::BadRequest),
            (UPGRADE.replace("keep-alive, Upgrade", "keep-alive"), Status::UpgradeRequired),
            (UPGRADE.replace("Upgrade: WebSocket", "Upgrade: h2c"), Status::UpgradeRequired),
            (UPGRADE.replace("127.0.0.1:8000", "evil.example"), Status::Forbidden),
            (format!("{UPGRADE}Origin: https://evil.example\r\n"), Status::Forbidden),
            (format!("{UPGRADE}Host: evil.example\r\n"), Status::BadRequest),
            ("nonsense\r\n".to_owned(), Status::BadRequest),
            (format!("GET / HTTP/1.1\r\n{}", "A: b\r\n".repeat(100)), Status::HeadTooLarge),
        ];
        for (head, status) in cases {
            assert_eq!(asked(&head).map_err(|refusal| refusal.status), Err(status), "{head}");
        }
    }

    #[test]
    fn pages_of_this_machine_and_listed_ones_may_connect() {
        for origin in ["http://localhost:3000", "http://127.0.0.1", "http://[::1]:80", "https://ui.example"] {
            assert!(asked(&format!("{UPGRADE}Origin: {origin}\r\n")).is_ok(), "{origin}");
        }
        assert!(asked(&UPGRADE.replace("127.0.0.1:8000", "[::1]:8000")).is_ok());
        assert!(asked(&format!("{UPGRADE}Origin: http://localhost.evil.example\r\n")).is_err());
        assert!(asked(&format!("{UPGRADE}Origin: null\r\n")).is_err());
    }
}
