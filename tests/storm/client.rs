//! A client of the storm: a socket, the rows that its events make, and no patience.

use std::cell::Cell;
use std::collections::HashMap;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use memchr::memmem;
use prost::Message as _;
use starfeed::change::{Key, Seq};
use starfeed::proto::{
    self, event::Body, server_message::MessageType, subscription_state::Kind, table_event::EventType,
};
use starfeed::summary::Summary;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::wish::{SECRET, Wish};
use crate::support::raw::{BINARY, PING, PONG, masked, upgrade_request};

/// Between two attempts to reach a server that is not there.
const RETRY: Duration = Duration::from_millis(50);

/// What all clients share with who directs them.
#[derive(Debug)]
pub(crate) struct Storm {
    pub(crate) address: String,
    /// Counts how often everybody was cut off.
    pub(crate) cuts: watch::Sender<u32>,
    /// Clients that became live since the last cut.
    pub(crate) live: Cell<u32>,
    /// Events of rows that were applied.
    pub(crate) events: Cell<u64>,
    /// Clients end when a heartbeat says that they hold everything up to here.
    pub(crate) goal: Cell<Option<u64>>,
    /// Nobody comes back while it is set.
    pub(crate) is_out: Cell<bool>,
}

/// What is held of a row.
#[derive(Debug)]
pub(crate) struct Held {
    version: Seq,
    /// What its wish shows of it.
    pub(crate) content: String,
}

/// One client.
#[derive(Debug)]
pub(crate) struct StormClient {
    pub(crate) wish: Wish,
    pub(crate) rows: HashMap<Key, Held>,
    summary: Summary,
    token: Option<Bytes>,
    /// Events behind the token that make sense only together with those that follow.
    waiting: Vec<proto::Event>,
    /// Everything up to this change is held: nothing up to it may come again.
    at: u64,
    /// The number of the last event.
    number: u64,
    was_ready: bool,
    is_live: bool,
}

impl StormClient {
    pub(crate) fn new(wish: Wish) -> Self {
        Self {
            wish,
            rows: HashMap::new(),
            summary: Summary::default(),
            token: None,
            waiting: Vec::new(),
            at: 0,
            number: 0,
            was_ready: false,
            is_live: false,
        }
    }

    /// Follows until the goal is reached, over every cut and every end of the server.
    pub(crate) async fn run(mut self, storm: &Storm) -> Self {
        let mut cuts = storm.cuts.subscribe();
        loop {
            cuts.borrow_and_update();
            while storm.is_out.get() {
                tokio::time::sleep(RETRY).await;
            }
            match Connection::open(storm, self.wish, self.token.clone()).await {
                Ok(connection) => {
                    if self.follow(storm, connection, &mut cuts).await {
                        return self;
                    }
                }
                Err(_) => tokio::time::sleep(RETRY).await,
            }
            self.is_live = false;
            self.waiting.clear();
            self.number = 0;
        }
    }

    /// Whether the goal was reached; otherwise the connection has ended.
    async fn follow(&mut self, storm: &Storm, mut connection: Connection, cuts: &mut watch::Receiver<u32>) -> bool {
        loop {
            while let Some(frame) = connection.take_frame().await {
                assert!(memmem::find(&frame, SECRET.as_bytes()).is_none(), "{:?} was shown a secret", self.wish);
                let message = proto::ServerMessage::decode(frame).expect("a ServerMessage");
                let is_done = match message.message_type.expect("one of its members") {
                    MessageType::Event(event) => self.take(event, storm),
                    MessageType::Response(response) => {
                        assert!(response.is_success, "{:?}", response.error_message);
                        false
                    }
                };
                if is_done {
                    return true;
                }
            }
            tokio::select! {
                // A cut is a cut, whatever has arrived.
                biased;
                _ = cuts.changed() => return false,
                is_on = connection.read() => if !is_on { return false },
            }
        }
    }

    /// Says whether the goal was reached.
    fn take(&mut self, mut event: proto::Event, storm: &Storm) -> bool {
        self.number += 1;
        assert_eq!(event.number, Some(self.number), "{:?} lost an event", self.wish);
        let kind = event.state.as_ref().map(proto::SubscriptionState::kind);
        let Some(token) = event.token.take() else {
            match kind {
                None => self.waiting.push(event),
                Some(kind) => assert!(matches!(kind, Kind::Initializing | Kind::Heartbeat), "{kind:?} without a token"),
            }
            return false;
        };
        // Most of what was read is not to be kept with it.
        self.token = Some(Bytes::copy_from_slice(&token));
        for event in std::mem::take(&mut self.waiting) {
            self.apply(event);
        }
        storm.events.set(storm.events.get() + u64::from(event.state.is_none()));
        self.apply(event);
        if kind == Some(Kind::Live) && !std::mem::replace(&mut self.is_live, true) {
            storm.live.set(storm.live.get() + 1);
        }
        kind == Some(Kind::Heartbeat) && self.is_live && storm.goal.get().is_some_and(|goal| self.at >= goal)
    }

    fn apply(&mut self, event: proto::Event) {
        if let Some(state) = &event.state {
            self.check(state);
            return;
        }
        let wish = self.wish;
        let version = event.version.expect("rows have versions");
        if event.initial() {
            assert!(!self.was_ready, "{wish:?} began anew");
        } else {
            assert!(version > self.at, "{wish:?} is at {} and was sent change {version} again", self.at);
            self.at = version;
        }
        let RowEvent { kind, key, content, old } = RowEvent::new(event.body.expect("a row"));
        let held = self.rows.remove(&key);
        if let Some(held) = &held {
            self.summary.remove(&key, held.version);
        }
        assert_eq!(held.is_some(), kind != EventType::Added, "{wish:?}: {key} was {kind:?} at {version}");
        if let (Wish::Documents, Some(held)) = (wish, &held) {
            assert_eq!(old.as_ref(), Some(&held.content), "the old row is the one that is held");
        }
        if kind != EventType::Deleted {
            self.summary.add(&key, Seq(version));
            self.rows.insert(key, Held { version: Seq(version), content });
        }
    }

    /// What the server says that is held has to be.
    fn check(&mut self, state: &proto::SubscriptionState) {
        let (wish, kind) = (self.wish, state.kind());
        assert_ne!(kind, Kind::Reset, "{wish:?}: {:?} {}", state.reason(), state.message());
        self.was_ready |= kind == Kind::Ready;
        let Some(position) = state.position else {
            assert!(!self.was_ready, "{wish:?}: {kind:?} does not say where");
            return;
        };
        assert!(position >= self.at, "{wish:?} is at {}, and {kind:?} at {position}", self.at);
        self.at = position;
        let said = Summary { count: state.count(), digest: state.digest() };
        assert_eq!(self.summary, said, "{wish:?} at {position}, {kind:?}");
    }
}

/// What an event says of a row.
struct RowEvent {
    kind: EventType,
    key: Key,
    content: String,
    old: Option<String>,
}

impl RowEvent {
    fn new(body: Body) -> Self {
        let (kind, key, content, old) = match body {
            Body::DomainLoginEvent(event) => {
                let content = event.login.map(|login| login.login_test().to_owned());
                (event.event_type, Key::text(&event.domain.expect("a domain")), content, None)
            }
            Body::PolicyEvent(event) => {
                let id = uuid::Uuid::from_slice(event.policy_id()).expect("a UUID");
                (event.event_type, Key::text(&id.to_string()), event.name, None)
            }
            Body::TableEvent(event) => match event.key.and_then(|key| key.value) {
                Some(proto::table_key::Value::Text(key)) => {
                    (event.event_type, Key::text(&key), event.document, event.old_document)
                }
                key => panic!("{key:?}"),
            },
            body => panic!("{body:?}"),
        };
        let kind = kind.and_then(|kind| EventType::try_from(kind).ok()).expect("the types are numbered alike");
        Self { kind, key, content: content.unwrap_or_default(), old }
    }
}

/// A connection that sends one request.
struct Connection {
    stream: TcpStream,
    read: BytesMut,
}

impl Connection {
    async fn open(storm: &Storm, wish: Wish, token: Option<Bytes>) -> std::io::Result<Self> {
        let mut stream = TcpStream::connect(&storm.address).await?;
        let mut bytes = upgrade_request(&storm.address).into_bytes();
        let request = proto::Request { request_id: 1, command: Some(wish.subscribe(token)) };
        bytes.extend(masked(BINARY, &request.encode_to_vec()));
        stream.write_all(&bytes).await?;
        let mut connection = Self { stream, read: BytesMut::new() };
        let head = loop {
            if let Some(end) = memmem::find(&connection.read, b"\r\n\r\n") {
                break connection.read.split_to(end + 4);
            }
            if !connection.read().await {
                return Err(std::io::ErrorKind::ConnectionReset.into());
            }
        };
        assert!(head.starts_with(b"HTTP/1.1 101 "), "{head:?}");
        Ok(connection)
    }

    /// Whether there was more. Cancel-safe.
    async fn read(&mut self) -> bool {
        self.read.reserve(4096);
        matches!(self.stream.read_buf(&mut self.read).await, Ok(1..))
    }

    /// The next message of what was read; answers pings on the way.
    async fn take_frame(&mut self) -> Option<Bytes> {
        loop {
            let (&first, &second) = (self.read.first()?, self.read.get(1)?);
            let (len, header) = match second {
                126 => (usize::from(u16::from_be_bytes(*self.read.get(2..)?.first_chunk()?)), 4),
                len @ 0..126 => (usize::from(len), 2),
                len => panic!("nothing of the storm is so long: {len}"),
            };
            if self.read.len() < header + len {
                return None;
            }
            self.read.advance(header);
            let payload = self.read.split_to(len).freeze();
            match first & 0x0f {
                BINARY => return Some(payload),
                // Whoever is not there shows when it is read from.
                PING => drop(self.stream.write_all(&masked(PONG, &payload)).await),
                opcode => panic!("an unexpected frame: {opcode}"),
            }
        }
    }
}
