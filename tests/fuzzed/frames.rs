//! Any bytes behind the handshake of a WebSocket, to a connection as it serves clients: it ends, and what it sends are whole
//! messages, and at last the reason.

use std::future::ready;
use std::io::Write;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use serde_json::Value;
use starfeed::change::Table;
use starfeed::clock::Clock;
use starfeed::feed::Feeds;
use starfeed::proto;
use starfeed::source::{Changes, Embedded, Source, SourceError, Written};
use starfeed::store::{Index, Query, QueryResult, Store, Unit, Writer, WriterLimits, read};
use starfeed::transport::socket::SocketLimits;
use starfeed::transport::websocket::{ConnectionContext, WebSocketLimits, serve};
use starfeed::wire::CloseReason;
use tokio::io::AsyncReadExt;
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::server::{self, Server};

/// The first byte says how much of the rest came together with the handshake.
pub(crate) fn target(data: &[u8]) {
    thread_local! {
        static RUNTIME: Runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    }
    let Some((early, bytes)) = data.split_first() else { return };
    let (early, late) = bytes.split_at(usize::from(*early).min(bytes.len()));
    let sent = Server::with(|server| RUNTIME.with(|runtime| runtime.block_on(talk(server, early, late))));
    check_frames(&sent);
}

/// Sends `bytes` and nothing more; returns what came back until the end.
async fn talk(server: &Server, early: &[u8], late: &[u8]) -> Vec<u8> {
    let (mut client, served) = UnixStream::pair().expect("a pair of sockets");
    client.write_all(late).expect("an empty buffer takes a few bytes");
    client.shutdown(std::net::Shutdown::Write).expect("the other end is there");
    for socket in [&client, &served] {
        socket.set_nonblocking(true).expect("a socket");
    }
    // The connection knows sockets of another family, and uses nothing of it.
    let served = tokio::net::TcpStream::from_std(TcpStream::from(OwnedFd::from(served))).expect("a runtime with I/O");
    let mut client = tokio::net::UnixStream::from_std(client).expect("a runtime with I/O");
    let mut sent = Vec::new();
    let (_, received) = tokio::join!(serve(served, early.to_vec(), context(server)), client.read_to_end(&mut sent));
    // A connection that is reset has said all that it had to.
    let _ = received;
    sent
}

fn context(server: &Server) -> Arc<ConnectionContext> {
    let minute = Duration::from_secs(60);
    let socket = SocketLimits {
        message_bytes: 4 * 1024,
        // Few enough for a short input to have more.
        message_fragments: 4,
        message_timeout: minute,
        pings_per_second: 1,
        ping_interval: minute,
        stall_timeout: minute,
        close_timeout: minute,
    };
    Arc::new(ConnectionContext {
        session: Arc::clone(&server.session),
        waiting: Arc::clone(&server.waiting),
        store: server.store.clone(),
        source: Arc::new(Direct { store: server.store.clone(), feeds: Arc::clone(&server.feeds) }),
        clock: Clock,
        began: Instant::now(),
        crawler: None,
        limits: WebSocketLimits { socket, outbox_bytes: 1024 },
        shutdown: CancellationToken::new(),
    })
}

/// Writes at once, without a thread of its own.
#[derive(Debug)]
struct Direct {
    store: Store,
    feeds: Arc<Feeds>,
}

type Later<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl Source for Direct {
    fn write(&self, unit: Unit) -> Later<Written> {
        let result = server::write(&self.store, &self.feeds, unit);
        Box::pin(ready(Written { result: Ok(result), visible: None }))
    }

    fn query(&self, query: Query, bytes_max: usize) -> Later<Result<QueryResult, SourceError>> {
        let result = read(&self.store, |snapshot| snapshot.query(&query, bytes_max));
        Box::pin(ready(result.map_err(SourceError::from)))
    }

    fn keeps_order(&self) -> bool {
        true
    }

    fn changes(&self, table: &Table, index: &'static Index, prefix: Vec<Value>) -> Changes {
        let limits = WriterLimits { queue_bytes: 1, commit_bytes: 1 };
        let (_, unused) = Writer::start(self.store.clone(), Clock, limits, Arc::clone(&self.feeds));
        Embedded::new(self.store.clone(), unused, Arc::clone(&self.feeds)).changes(table, index, prefix)
    }
}

/// Unmasked frames, none of them in parts, and nothing behind a close frame.
fn check_frames(mut sent: &[u8]) {
    while let Some((&[head, len], rest)) = sent.split_first_chunk() {
        assert_eq!((head & 0x70, len & 0x80), (0, 0), "a frame that no server sends");
        assert_eq!(head & 0x80, 0x80, "a part of a message");
        let (len, rest) = match len {
            126 => rest.split_first_chunk().map(|(len, rest)| (u64::from(u16::from_be_bytes(*len)), rest)),
            127 => rest.split_first_chunk().map(|(len, rest)| (u64::from_be_bytes(*len), rest)),
            len => Some((u64::from(len), rest)),
        }
        .expect("a whole head");
        let (content, rest) = rest.split_at_checked(usize::try_from(len).expect("a length")).expect("a whole frame");
        match head & 0x0f {
            2 => {
                let message = proto::ServerMessage::decode(content).expect("what is sent can be decoded");
                assert!(message.message_type.is_some());
            }
            8 => {
                check_close(content);
                assert!(rest.is_empty(), "something behind the close frame");
            }
            9 | 10 => assert!(content.len() < 126),
            other => panic!("a frame of the kind {other}"),
        }
        sent = rest;
    }
    assert!(sent.is_empty(), "half a frame");
}

/// Either the answer to the client's own, or one of the reasons there are.
fn check_close(content: &[u8]) {
    let Some((code, text)) = content.split_first_chunk::<2>() else { return };
    let code = u16::from_be_bytes(*code);
    let text = std::str::from_utf8(text).expect("a reason in UTF-8");
    let known =
        CloseReason::ALL.iter().map(|reason| reason.close()).any(|close| close.code == code && close.text == text);
    // The library answers the client's own close frame by repeating it, text and all, unless nobody may send its code.
    let is_answer = (1000..5000).contains(&code);
    assert!(known || is_answer, "a close frame with {code} {text}");
}
