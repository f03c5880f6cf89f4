//! A WebSocket of the load generator, without waiting. It costs the generator as little as can be, so that the server is what
//! is measured: all connections read into one buffer, and messages are looked at where they lie.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail, ensure};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use uuid::Uuid;

use super::frame::{self, Frame, Masking};

/// The buffer that all connections read into: room for the rest of a frame and for a good read behind it.
pub(super) const READ_BUFFER_BYTES: usize = 256 * 1024;
const _: () = assert!(READ_BUFFER_BYTES >= 2 * (frame::PAYLOAD_BYTES_MAX + frame::HEADER_BYTES_MAX));

const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Where the server is.
#[derive(Clone, Debug)]
pub(super) struct Address {
    url: String,
    authority: String,
    path: String,
}

impl Address {
    /// Takes `ws://HOST:PORT/PATH` apart.
    pub(super) fn of_url(url: &str) -> anyhow::Result<Self> {
        let parts = url.strip_prefix("ws://").map(|rest| rest.split_at(rest.find('/').unwrap_or(rest.len())));
        let (authority, path) = parts
            .filter(|(authority, _)| !authority.is_empty())
            .ok_or_else(|| anyhow!("{url:?} is no address of a server: it looks like ws://127.0.0.1:8000/ws/"))?;
        let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        Ok(Self {
            url: url.to_owned(),
            authority: if has_port { authority.to_owned() } else { format!("{authority}:80") },
            path: if path.is_empty() { "/".to_owned() } else { path.to_owned() },
        })
    }

    /// The whole of it.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Host and port, as in a URL.
    pub(super) fn authority(&self) -> &str {
        &self.authority
    }

    fn resolve(&self) -> anyhow::Result<SocketAddr> {
        let addresses = self.authority.to_socket_addrs().with_context(|| format!("{} is unknown", self.authority))?;
        addresses.into_iter().next().with_context(|| format!("{} has no address", self.authority))
    }
}

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    outgoing: Outgoing,
    /// What the answer to the upgrade has to contain; nothing once it did.
    accept_key: Option<String>,
    /// The part of a frame, or of the answer to the upgrade, that has come so far.
    partial: Vec<u8>,
}

/// What a read came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// There may be more to read.
    More,
    /// Everything that was there is read.
    Drained,
}

impl Connection {
    /// Connects, and asks for the upgrade to a WebSocket. Messages may be queued at once: they are sent when it is one.
    pub(super) fn begin(address: &Address) -> anyhow::Result<Self> {
        let connected = address.resolve().and_then(|at| Ok(TcpStream::connect(at)?));
        let stream = connected.with_context(|| format!("no WebSocket to {}", address.url))?;
        stream.set_nodelay(true)?;
        let seed = Uuid::new_v4();
        // 16 bytes in base 64 have 22 digits and two fillers; hexadecimal digits are also digits of base 64.
        let key = format!("{}AA==", &seed.simple().to_string()[..20]);
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n",
            address.path, address.authority,
        );
        (&stream).write_all(request.as_bytes())?;
        stream.set_nonblocking(true)?;
        Ok(Self {
            outgoing: Outgoing::new(Arc::new(stream), seed.as_fields().0),
            accept_key: Some(derive_accept_key(key.as_bytes())),
            partial: Vec::new(),
        })
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.outgoing.stream
    }

    /// Whether messages can go either way.
    pub(super) fn is_open(&self) -> bool {
        self.accept_key.is_none()
    }

    /// A way out of its own, for whoever writes much.
    pub(super) fn writer(&self) -> Outgoing {
        Outgoing::new(Arc::clone(&self.outgoing.stream), Uuid::new_v4().as_fields().0)
    }

    /// Sends a message, or as much of it as the socket takes now; the rest when it takes it.
    pub(super) fn send(&mut self, message: &[u8], opcode: frame::Opcode) -> anyhow::Result<()> {
        self.outgoing.put(message, opcode);
        self.flush()
    }

    /// Sends what waits, as much of it as the socket takes.
    pub(super) fn flush(&mut self) -> anyhow::Result<()> {
        if self.is_open() { self.outgoing.flush().map(|_| ()) } else { Ok(()) }
    }

    /// Reads once and hands each whole message to `take`. `buffer` is of no meaning in between.
    pub(super) fn read(
        &mut self,
        buffer: &mut [u8],
        mut take: impl FnMut(&[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<Progress> {
        let kept = self.partial.len();
        buffer[..kept].copy_from_slice(&self.partial);
        let read = match (&*self.outgoing.stream).read(&mut buffer[kept..]) {
            Ok(0) => bail!("the server ended a connection without saying why"),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Progress::Drained),
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(Progress::More),
            Err(error) => return Err(error).context("the server ended a connection"),
        };
        let bytes = &buffer[..kept + read];
        let mut at = 0;
        if let Some(accept_key) = &self.accept_key {
            ensure!(bytes.len() <= HEAD_BYTES_MAX, "the answer is no HTTP response");
            if let Some(head_bytes) = check_upgrade(bytes, accept_key)? {
                at = head_bytes;
                self.accept_key = None;
                self.outgoing.flush()?;
            }
        }
        if self.is_open() {
            at += self.take_frames(&bytes[at..], &mut take)?;
        }
        self.partial.clear();
        self.partial.extend_from_slice(&bytes[at..]);
        Ok(if kept + read == buffer.len() { Progress::More } else { Progress::Drained })
    }

    /// Hands over the whole messages at the start of `bytes`; returns how many bytes those are.
    fn take_frames(
        &mut self,
        bytes: &[u8],
        take: &mut impl FnMut(&[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<usize> {
        let mut at = 0;
        let mut ping = None;
        while let Some((frame, length)) = frame::parse(&bytes[at..])? {
            at += length;
            match frame {
                Frame::Message(message) => take(message)?,
                // Only the last ping needs an answer.
                Frame::Ping(payload) => ping = Some(payload),
                Frame::Pong => {}
                Frame::Close(payload) => return Err(closed(payload)),
            }
        }
        if let Some(payload) = ping {
            self.outgoing.put(payload, frame::Opcode::Pong);
            self.outgoing.flush()?;
        }
        Ok(at)
    }
}

/// The way out of a connection.
#[derive(Debug)]
pub(super) struct Outgoing {
    stream: Arc<TcpStream>,
    masking: Masking,
    waiting: Vec<u8>,
}

impl Outgoing {
    fn new(stream: Arc<TcpStream>, seed: u32) -> Self {
        Self { stream, masking: Masking::new(seed), waiting: Vec::new() }
    }

    /// Puts a message behind those that wait.
    pub(super) fn put(&mut self, message: &[u8], opcode: frame::Opcode) {
        self.masking.frame(opcode, message, &mut self.waiting);
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How much waits.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.waiting.len()
    }

    /// Sends what the socket takes now; says whether that was all.
    pub(super) fn flush(&mut self) -> anyhow::Result<bool> {
        let mut sent = 0;
        while sent < self.waiting.len() {
            match (&*self.stream).write(&self.waiting[sent..]) {
                Ok(bytes) => sent += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("the server ended a connection"),
            }
        }
        self.waiting.drain(..sent);
        if self.waiting.is_empty() && self.waiting.capacity() > READ_BUFFER_BYTES {
            self.waiting = Vec::new();
        }
        Ok(self.waiting.is_empty())
    }
}

/// The length of the head, once it is there; an error when it is anything but the agreement to speak WebSocket.
fn check_upgrade(received: &[u8], accept_key: &str) -> anyhow::Result<Option<usize>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head_bytes) = response.parse(received)? else { return Ok(None) };
    let code = response.code.unwrap_or_default();
    if code != 101 {
        bail!("the answer is {code} {}", response.reason.unwrap_or_default());
    }
    let mut headers = response.headers.iter();
    let accepted = headers.any(|header| {
        header.name.eq_ignore_ascii_case("sec-websocket-accept") && header.value == accept_key.as_bytes()
    });
    ensure!(accepted, "whoever answers does not speak WebSocket");
    Ok(Some(head_bytes))
}

fn closed(payload: &[u8]) -> anyhow::Error {
    match payload.split_first_chunk() {
        Some((code, text)) => {
            let code = u16::from_be_bytes(*code);
            anyhow!("the server ended a connection: {} ({code})", String::from_utf8_lossy(text))
        }
        None => anyhow!("the server ended a connection without a reason"),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn an_address_has_a_port_and_a_path() {
        let cases = [
            ("ws://127.0.0.1:8000/ws/", "127.0.0.1:8000", "/ws/"),
            ("ws://127.0.0.1:8000", "127.0.0.1:8000", "/"),
            ("ws://example.org/a/b", "example.org:80", "/a/b"),
            ("ws://[::1]:8000/", "[::1]:8000", "/"),
        ];
        for (url, authority, path) in cases {
            let address = Address::of_url(url).expect(url);
            assert_eq!((address.authority.as_str(), address.path.as_str()), (authority, path), "{url}");
        }
        for url in ["", "127.0.0.1:8000", "http://127.0.0.1:8000/", "ws://", "ws:///ws/"] {
            assert!(Address::of_url(url).is_err(), "{url}");
        }
    }

    #[test]
    fn only_the_right_answer_is_an_upgrade() {
        let good = b"HTTP/1.1 101 Switching Protocols\r\nsec-websocket-accept: KEY\r\n\r\n\x82\x01x";
        assert_eq!(check_upgrade(good, "KEY").expect("an upgrade"), Some(good.len() - 3));
        assert_eq!(check_upgrade(&good[..30], "KEY").expect("the beginning of one"), None);
        assert!(check_upgrade(good, "OTHER").is_err());
        let busy = check_upgrade(b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "KEY").expect_err("no upgrade");
        assert_eq!(busy.to_string(), "the answer is 503 Service Unavailable");
        assert!(check_upgrade(b"SSH-2.0-OpenSSH_9.2\r\n", "KEY").is_err());
    }

    /// A connection, and the server's side of it, which has agreed to the upgrade or, with `is_open` false, not yet.
    fn pair(is_open: bool) -> (Connection, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
        let (server, _) = listener.accept().expect("a connection");
        client.set_nonblocking(true).expect("a socket");
        server.set_read_timeout(Some(std::time::Duration::from_secs(10))).expect("a socket");
        let outgoing = Outgoing::new(Arc::new(client), 1);
        let accept_key = (!is_open).then(|| "KEY".to_owned());
        (Connection { outgoing, accept_key, partial: Vec::new() }, server)
    }

    fn read_until(connection: &mut Connection, count: usize) -> Vec<Vec<u8>> {
        let mut taken: Vec<Vec<u8>> = Vec::new();
        let mut buffer = vec![0; READ_BUFFER_BYTES];
        let begin = std::time::Instant::now();
        while taken.len() < count {
            let read = connection.read(&mut buffer, |message| {
                taken.push(message.to_vec());
                Ok(())
            });
            read.expect("whole frames");
            assert!(begin.elapsed() < std::time::Duration::from_secs(10), "only {} of {count} came", taken.len());
        }
        taken
    }

    fn unmasked_pong(server: &mut TcpStream) -> Vec<u8> {
        let mut pong = [0; 8];
        server.read_exact(&mut pong).expect("a pong");
        assert_eq!(pong[..2], [0x8a, 0x82]);
        pong[6..].iter().zip(&pong[2..6]).map(|(byte, key)| byte ^ key).collect()
    }

    #[test]
    fn frames_may_be_cut_anywhere() {
        let messages: [&[u8]; 4] = [b"one", &[7; 126], b"", b"last"];
        let mut bytes = vec![0x82, 3, b'o', b'n', b'e', 0x82, 126, 0, 126];
        bytes.extend_from_slice(&[7; 126]);
        bytes.extend_from_slice(b"\x89\x02hi\x82\x00\x82\x04last");
        let mut buffer = vec![0; READ_BUFFER_BYTES];
        for cut in 0..=bytes.len() {
            let (mut connection, mut server) = pair(true);
            let mut before = 0;
            if cut > 0 {
                server.write_all(&bytes[..cut]).expect("a write");
                // Until the first part has come, so that it is read by itself.
                while connection.partial.is_empty() && before == 0 {
                    connection
                        .read(&mut buffer, |_| {
                            before += 1;
                            Ok(())
                        })
                        .expect("part of a frame");
                }
            }
            server.write_all(&bytes[cut..]).expect("a write");
            let rest = read_until(&mut connection, messages.len() - before);
            assert_eq!(rest, messages[before..], "cut at {cut}");
            assert_eq!(unmasked_pong(&mut server), b"hi");
        }
    }

    #[test]
    fn what_is_sent_before_the_upgrade_waits_for_it() {
        let (mut connection, mut server) = pair(false);
        connection.send(b"hi", frame::Opcode::Pong).expect("it is queued");
        server.set_nonblocking(true).expect("a socket");
        assert_eq!(server.read(&mut [0; 8]).expect_err("nothing yet").kind(), ErrorKind::WouldBlock);
        server.set_nonblocking(false).expect("a socket");
        let head = b"HTTP/1.1 101 Switching Protocols\r\nsec-websocket-accept: KEY\r\n\r\n\x82\x05first";
        for byte in head {
            server.write_all(&[*byte]).expect("a write");
        }
        assert_eq!(read_until(&mut connection, 1), [b"first"]);
        assert_eq!(unmasked_pong(&mut server), b"hi");
    }

    #[test]
    fn an_end_is_an_error_that_says_why() {
        let (mut connection, mut server) = pair(true);
        server.write_all(b"\x88\x05\x03\xe9bye").expect("a write");
        let mut buffer = vec![0; READ_BUFFER_BYTES];
        let error = loop {
            match connection.read(&mut buffer, |_| Ok(())) {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(error.to_string(), "the server ended a connection: bye (1001)");
    }
}
