//! A WebSocket of the load generator. It costs the generator as little as can be, so that the server is what is measured:
//! all connections read into one buffer, and messages are looked at where they lie.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail, ensure};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use uuid::Uuid;

use super::frame::{self, Frame, Masking};

/// The buffer that all connections read into: room for the rest of a frame and for a good read behind it.
pub(super) const READ_BUFFER_BYTES: usize = 256 * 1024;
const _: () = assert!(READ_BUFFER_BYTES >= 2 * (frame::PAYLOAD_BYTES_MAX + frame::HEADER_BYTES_MAX));

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
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
}

/// One connection's way in.
#[derive(Debug)]
pub(super) struct Connection {
    reader: OwnedReadHalf,
    writer: Arc<OwnedWriteHalf>,
    /// The part of a frame that has come so far.
    partial: Vec<u8>,
    masking: Masking,
    /// A pong that the socket has not taken yet.
    pong: Vec<u8>,
}

/// The way out of the same connection.
pub(super) type Outgoing = Arc<OwnedWriteHalf>;

impl Connection {
    /// Connects, and upgrades the connection to a WebSocket.
    pub(super) async fn open(address: &Address) -> anyhow::Result<Self> {
        let opened = tokio::time::timeout(HANDSHAKE_TIMEOUT, Self::upgrade(address)).await;
        opened
            .unwrap_or_else(|_| Err(anyhow!("no answer for {} s", HANDSHAKE_TIMEOUT.as_secs())))
            .with_context(|| format!("no WebSocket to {}", address.url))
    }

    async fn upgrade(address: &Address) -> anyhow::Result<Self> {
        let mut stream = TcpStream::connect(&address.authority).await?;
        stream.set_nodelay(true)?;
        let seed = Uuid::new_v4();
        // 16 bytes in base 64 have 22 digits and two fillers; hexadecimal digits are also digits of base 64.
        let key = format!("{}AA==", &seed.simple().to_string()[..20]);
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n",
            address.path, address.authority,
        );
        stream.write_all(request.as_bytes()).await?;
        let mut received = Vec::with_capacity(1024);
        let head_bytes = loop {
            let read = stream.read_buf(&mut received).await?;
            ensure!(read > 0 && received.len() <= HEAD_BYTES_MAX, "the answer is no HTTP response");
            if let Some(head_bytes) = check_upgrade(&received, &derive_accept_key(key.as_bytes()))? {
                break head_bytes;
            }
        };
        let (reader, writer) = stream.into_split();
        Ok(Self {
            reader,
            writer: Arc::new(writer),
            // What came behind the head belongs to the first frame.
            partial: received.split_off(head_bytes),
            masking: Masking::new(seed.as_fields().0),
            pong: Vec::new(),
        })
    }

    /// Sends a message and waits until the socket has taken it.
    pub(super) async fn send(&mut self, payload: &[u8]) -> anyhow::Result<()> {
        let mut out = Vec::with_capacity(payload.len() + 14);
        self.masking.message(payload, &mut out);
        send_all(&self.writer, &mut out).await
    }

    /// The way out, for whoever sends while this is read from.
    pub(super) fn outgoing(&self) -> Outgoing {
        Arc::clone(&self.writer)
    }

    /// Reads once and hands each whole message to `take`, with the time of the read. `buffer` is of no meaning in between.
    pub(super) fn poll_messages(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
        mut take: impl FnMut(&[u8], Instant) -> anyhow::Result<()>,
    ) -> Poll<anyhow::Result<()>> {
        let kept = self.partial.len();
        buffer[..kept].copy_from_slice(&self.partial);
        let mut space = ReadBuf::new(&mut buffer[kept..]);
        ready!(Pin::new(&mut self.reader).poll_read(context, &mut space))?;
        let read = space.filled().len();
        if read == 0 {
            return Poll::Ready(Err(anyhow!("the server ended a connection without saying why")));
        }
        let now = Instant::now();
        let bytes = &buffer[..kept + read];
        let mut at = 0;
        while let Some((frame, length)) = frame::parse(&bytes[at..])? {
            at += length;
            match frame {
                Frame::Message(message) => take(message, now)?,
                // Only the last ping needs an answer.
                Frame::Ping(payload) => {
                    self.pong.clear();
                    self.masking.pong(payload, &mut self.pong);
                }
                Frame::Pong => {}
                Frame::Close(payload) => return Poll::Ready(Err(closed(payload))),
            }
        }
        self.partial.clear();
        self.partial.extend_from_slice(&bytes[at..]);
        if !self.pong.is_empty() {
            try_send(&self.writer, &mut self.pong)?;
        }
        Poll::Ready(Ok(()))
    }
}

/// Sends all of `out`, which is empty then.
pub(super) async fn send_all(writer: &OwnedWriteHalf, out: &mut Vec<u8>) -> anyhow::Result<()> {
    while !try_send(writer, out)? {
        writer.writable().await?;
    }
    Ok(())
}

/// Sends what the socket takes of `out` now, and removes it; says whether that was all.
pub(super) fn try_send(writer: &OwnedWriteHalf, out: &mut Vec<u8>) -> anyhow::Result<bool> {
    while !out.is_empty() {
        match writer.try_write(out) {
            Ok(sent) => {
                out.drain(..sent);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error).context("the server ended a connection"),
        }
    }
    Ok(true)
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

    /// A server that sends `bytes` cut at every place; what comes out has to be the same.
    #[tokio::test]
    async fn frames_may_be_cut_anywhere() {
        let messages: [&[u8]; 4] = [b"one", &[7; 126], b"", b"last"];
        let mut bytes = vec![0x82, 3, b'o', b'n', b'e', 0x82, 126, 0, 126];
        bytes.extend_from_slice(&[7; 126]);
        bytes.extend_from_slice(b"\x89\x02hi\x82\x00\x82\x04last");
        for cut in 0..=bytes.len() {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("an address");
            let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
            let (mut server, _) = server.expect("a connection");
            let (reader, writer) = client.expect("a connection").into_split();
            let mut connection = Connection {
                reader,
                writer: Arc::new(writer),
                partial: bytes[..cut].to_vec(),
                masking: Masking::new(1),
                pong: Vec::new(),
            };
            // The connection has the first part already, as it may have from the handshake.
            server.write_all(&bytes[cut..]).await.expect("a write");
            if cut == bytes.len() {
                server.write_all(b"\x8a\x00").await.expect("a write");
            }
            let mut taken: Vec<Vec<u8>> = Vec::new();
            let mut buffer = vec![0; READ_BUFFER_BYTES];
            while taken.len() < messages.len() {
                let read = std::future::poll_fn(|context| {
                    connection.poll_messages(context, &mut buffer, |message, _| {
                        taken.push(message.to_vec());
                        Ok(())
                    })
                });
                read.await.expect("whole frames");
            }
            assert_eq!(taken, messages, "cut at {cut}");
            let mut pong = [0; 8];
            server.read_exact(&mut pong).await.expect("a pong");
            assert_eq!(pong[..2], [0x8a, 0x82]);
            let unmasked: Vec<u8> = pong[6..].iter().zip(&pong[2..6]).map(|(byte, key)| byte ^ key).collect();
            assert_eq!(unmasked, b"hi");
        }
    }
}
