//! A WebSocket connection: one loop that owns the socket and the session.
//!
//! What waits is written in one go and flushed once. While the socket takes no more, nothing more is taken from the
//! session, but the client is still read from: it can unsubscribe, and its pings are answered.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::WakeTask;
use super::counted::CountedStream;
use crate::catalog::Arrival;
use crate::clock::Clock;
use crate::crawler::Crawler;
use crate::feed::{Outbox, Waiting};
use crate::proto;
use crate::session::{AskTicket, Read, ReadResult, Session, SessionContext, Step, Watch, Work, WriteTicket};
use crate::source::{Changes, Source, Written};
use crate::store::Store;
use crate::subscription::Principal;
use crate::task;
use crate::wire::{self, CloseReason, ServerMessage};

/// Bounds of a WebSocket connection.
#[derive(Clone, Copy, Debug)]
pub struct WebSocketLimits {
    /// Bytes of a message from the client.
    pub message_bytes: usize,
    /// Bytes of changes that wait for the connection; a subscription that does not fit falls behind.
    pub outbox_bytes: usize,
    /// A ping is sent this often; no sign of life for twice as long ends the connection.
    pub ping_interval: Duration,
    /// A client that takes nothing for so long, though there is something for it, is let go.
    pub stall_timeout: Duration,
    /// How long the client has to answer a close frame.
    pub close_timeout: Duration,
}

/// What all connections share.
#[derive(Debug)]
pub struct ConnectionContext {
    /// For the sessions.
    pub session: Arc<SessionContext>,
    /// What waits for all of them.
    pub waiting: Arc<Waiting>,
    /// Where they read.
    pub store: Store,
    /// Who carries out their commands.
    pub source: Arc<dyn Source>,
    /// What time it is.
    pub clock: Clock,
    /// Who is asked what only a crawler can do.
    pub crawler: Option<Arc<Crawler>>,
    /// Bounds.
    pub limits: WebSocketLimits,
    /// The server stops.
    pub shutdown: CancellationToken,
}

/// Written to the socket in one go; more waits in the outbox, where it is bounded and counted.
const WRITE_BYTES: usize = 64 * 1024;

/// Read from the socket in one go. It is allocated for each connection, idle or not.
const READ_BYTES: usize = 1024;

type Socket = WebSocketStream<CountedStream>;

/// Pings whose answers may wait for a client that does not read; then it is not read from either.
const WAITING_PONGS_MAX: usize = 64;

/// Serves one client until it leaves, misbehaves, or the server stops. `already_read` came behind the handshake.
pub async fn serve(stream: TcpStream, already_read: Vec<u8>, context: Arc<ConnectionContext>) {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BYTES)
        // The loop flushes; until then everything is gathered.
        .write_buffer_size(usize::MAX / 2)
        .max_write_buffer_size(usize::MAX)
        .max_message_size(Some(context.limits.message_bytes))
        .max_frame_size(Some(context.limits.message_bytes));
    let peer = stream.peer_addr().map_or_else(|_| "an address unknown".to_owned(), |address| address.to_string());
    let socket =
        WebSocketStream::from_partially_read(CountedStream::new(stream), already_read, Role::Server, Some(config))
            .await;
    let wake = WakeTask::new();
    let outbox = Outbox::new(context.limits.outbox_bytes, Arc::clone(&context.waiting), Arc::clone(&wake) as _);
    let session = Session::new(Arc::clone(&context.session), Principal::Anonymous, peer, outbox);
    let now = Instant::now();
    let mut connection = Connection {
        socket,
        session,
        running: FuturesUnordered::new(),
        unanswered: 0,
        wake,
        is_unflushed: false,
        waiting_pongs: 0,
        heard_at: now,
        pinged_at: now,
        progress: (0, now),
        began: now,
        context,
    };
    let Some(reason) = connection.run().await else {
        return;
    };
    connection.context.session.metrics.closed.get_or_create(&vec![("reason", reason.label().to_owned())]).inc();
    if reason == CloseReason::ShuttingDown {
        let timeout = connection.context.limits.close_timeout;
        // A client that takes nothing is not waited for; then there is nobody to answer.
        let _ = tokio::time::timeout(timeout, connection.answer_what_was_begun()).await;
    }
    connection.close(reason).await;
}

struct Connection {
    socket: Socket,
    session: Session,
    running: FuturesUnordered<Pin<Box<dyn Future<Output = Done> + Send>>>,
    /// What of it somebody waits for; the rest only holds other requests up.
    unanswered: usize,
    wake: Arc<WakeTask>,
    /// Messages were gathered, and the socket has not taken all of them.
    is_unflushed: bool,
    /// Pings answered since the socket last took everything.
    waiting_pongs: usize,
    heard_at: Instant,
    pinged_at: Instant,
    /// What the socket had taken when it was last seen to take something, and when that was.
    progress: (u64, Instant),
    /// The session's clock counts from here.
    began: Instant,
    context: Arc<ConnectionContext>,
}

enum Done {
    Written(WriteTicket, Written),
    Visible(WriteTicket),
    Read(ReadResult),
    Asked(AskTicket, Result<Option<Box<proto::response::Body>>, String>),
    /// What is watched may have changed; `None` where nobody watches it any more.
    Changed(Option<Watched>),
}

/// A part of a table that a session watches.
struct Watched {
    subscription_id: i32,
    changes: Changes,
    until: CancellationToken,
}

impl Watched {
    async fn next(mut self) -> Done {
        tokio::select! {
            // Whether anybody wants to know comes first. What is dropped with the other branch is dropped for good.
            biased;
            () = self.until.cancelled() => Done::Changed(None),
            () = self.changes.next() => Done::Changed(Some(self)),
        }
    }
}

enum FromSocket {
    Flushed(Result<(), WsError>),
    Message(Option<Result<Message, WsError>>),
}

impl Connection {
    /// Runs until the end; `None` when the client has left, so that there is nobody to tell a reason.
    async fn run(&mut self) -> Option<CloseReason> {
        let mut watch = watch_timer(&self.context.limits);
        // Waited for by one future for the whole connection: each new one would take a lock that all connections share.
        let mut shutdown = pin!(self.context.shutdown.clone().cancelled_owned());
        let wake = Arc::clone(&self.wake);
        loop {
            self.session.tick(millis(self.began.elapsed()));
            if self.gather().is_err() {
                return None;
            }
            let due = self.session.due_ms().map(|due_ms| self.began + Duration::from_millis(due_ms));
            let may_read = !self.session.is_saturated() && self.waiting_pongs < WAITING_PONGS_MAX;
            // Cancel-safe: each branch either completes or has taken nothing. What ends the connection comes first, then
            // results, which free the client to ask for more; the socket is polled once per turn, not once per event.
            tokio::select! {
                biased;
                () = &mut shutdown => return Some(CloseReason::ShuttingDown),
                Some(done) = self.running.next(), if !self.running.is_empty() => self.finish(done),
                () = wake.woken(), if !self.is_unflushed => {}
                event = from_socket(&mut self.socket, self.is_unflushed, may_read) => match event {
                    FromSocket::Flushed(Ok(())) => {
                        self.is_unflushed = false;
                        self.waiting_pongs = 0;
                    }
                    FromSocket::Flushed(Err(_)) | FromSocket::Message(None) => return None,
                    FromSocket::Message(Some(message)) => {
                        self.heard_at = Instant::now();
                        if let Err(end) = self.receive(message) {
                            return end;
                        }
                    }
                },
                () = until(due), if !self.is_unflushed => {}
                _ = watch.tick() => {
                    if let Some(reason) = self.check_alive() {
                        return Some(reason);
                    }
                }
            }
        }
    }

    /// Takes from the session what fits into one write, and begins the work it asks for.
    fn gather(&mut self) -> Result<(), WsError> {
        if self.is_unflushed {
            return Ok(());
        }
        let mut bytes = 0;
        let mut messages = 0;
        while bytes < WRITE_BYTES {
            let message = match self.session.next_step() {
                Step::Send(message) => message,
                Step::Do(work) => {
                    self.begin(work);
                    continue;
                }
                Step::Wait => break,
            };
            bytes += self.send(message)?;
            messages += 1;
        }
        let metrics = &self.context.session.metrics;
        metrics.messages_sent.inc_by(messages);
        metrics.bytes_sent.inc_by(bytes as u64);
        Ok(())
    }

    /// Puts a message to what goes out with the next write; returns its bytes.
    fn send(&mut self, message: ServerMessage) -> Result<usize, WsError> {
        let encoded = wire::protobuf::encode(message, &self.context.session.metrics.row_problems);
        let bytes = encoded.len();
        self.feed(Message::Binary(encoded))?;
        Ok(bytes)
    }

    fn feed(&mut self, message: Message) -> Result<(), WsError> {
        self.expect_progress();
        Pin::new(&mut self.socket).start_send(message)
    }

    /// From now on there is something for the client; how long it takes nothing of it counts from here.
    fn expect_progress(&mut self) {
        if !self.is_unflushed {
            self.is_unflushed = true;
            self.progress = (self.socket.get_ref().written(), Instant::now());
        }
    }

    fn begin(&mut self, work: Work) {
        self.unanswered += usize::from(!matches!(work, Work::Watch(_)));
        match work {
            Work::Write { ticket, unit } => {
                let written = self.context.source.write(unit);
                self.running.push(Box::pin(async move { Done::Written(ticket, written.await) }));
            }
            Work::Read(Read::Query { reader, query, bytes_max }) => {
                let rows = self.context.source.query(query, bytes_max);
                self.running.push(Box::pin(async move { Done::Read(ReadResult::Query(reader, rows.await)) }));
            }
            Work::Ask { ticket, command } => {
                let crawler = self.context.crawler.as_ref().expect("without a crawler nothing is asked of it");
                let answer = crawler.ask(*command);
                self.running.push(Box::pin(async move { Done::Asked(ticket, answer.await) }));
            }
            Work::Watch(Watch { subscription_id, table, index, prefix, until }) => {
                let changes = self.context.source.changes(&table, index, prefix);
                self.running.push(Box::pin(Watched { subscription_id, changes, until }.next()));
            }
            Work::Read(read) => {
                let store = self.context.store.clone();
                self.running.push(Box::pin(async move { Done::Read(task::blocking(move || read.run(&store)).await) }));
            }
        }
    }

    fn finish(&mut self, done: Done) {
        self.unanswered -= usize::from(!matches!(done, Done::Visible(_) | Done::Changed(_)));
        match done {
            Done::Written(ticket, Written { result, visible }) => {
                if let Some(visible) = visible {
                    self.session.expect_visible(ticket);
                    self.running.push(Box::pin(async move {
                        visible.await;
                        Done::Visible(ticket)
                    }));
                }
                self.session.written(ticket, result);
            }
            Done::Visible(ticket) => self.session.visible(ticket),
            Done::Read(result) => self.session.read(result),
            Done::Asked(ticket, result) => self.session.asked(ticket, result),
            Done::Changed(None) => {}
            Done::Changed(Some(watched)) => {
                self.session.changed(watched.subscription_id);
                self.running.push(Box::pin(watched.next()));
            }
        }
    }

    /// `Err` ends the connection, with the reason to tell if there still is somebody to tell.
    fn receive(&mut self, message: Result<Message, WsError>) -> Result<(), Option<CloseReason>> {
        match message {
            Ok(Message::Binary(bytes)) => {
                self.context.session.metrics.requests.inc();
                let message = wire::protobuf::decode(bytes).map_err(|_| Some(CloseReason::Undecodable))?;
                let arrival = Arrival {
                    now: self.context.clock.now(),
                    fresh_id: Uuid::new_v4(),
                    has_crawler: self.context.crawler.is_some(),
                };
                self.session.receive(message, &arrival);
                Ok(())
            }
            Ok(Message::Text(_)) => Err(Some(CloseReason::WrongFrameType)),
            // The library has its answer to a ping ready; it goes out with the next flush.
            Ok(Message::Ping(_)) => {
                self.expect_progress();
                self.waiting_pongs += 1;
                Ok(())
            }
            Ok(Message::Pong(_) | Message::Frame(_)) => Ok(()),
            Ok(Message::Close(_)) => Err(Some(CloseReason::Asked)),
            Err(error) => Err(protocol_reason(&error)),
        }
    }

    /// Looks for signs of life, and asks for one when it is time.
    fn check_alive(&mut self) -> Option<CloseReason> {
        let limits = &self.context.limits;
        if self.is_unflushed {
            // The socket is full: the client may be alive and busy, and cannot see a ping before it has read the rest.
            let written = self.socket.get_ref().written();
            if written > self.progress.0 {
                self.progress = (written, Instant::now());
            }
            return (self.progress.1.elapsed() >= limits.stall_timeout).then_some(CloseReason::Stalled);
        }
        if self.pinged_at.elapsed() < limits.ping_interval {
            return None;
        }
        if self.heard_at.elapsed() >= 2 * limits.ping_interval && !self.session.is_saturated() {
            return Some(CloseReason::Unresponsive);
        }
        self.pinged_at = Instant::now();
        // A failure shows when the socket is read next.
        let _ = self.feed(Message::Ping(Bytes::new()));
        None
    }

    /// Answers what was begun, so that a client knows of each write that stays; what only waits is not begun any more.
    async fn answer_what_was_begun(&mut self) -> Result<(), WsError> {
        while self.unanswered > 0
            && let Some(done) = self.running.next().await
        {
            self.finish(done);
        }
        self.socket.flush().await?;
        let mut bytes = 0;
        while bytes < WRITE_BYTES
            && let Step::Send(message) = self.session.next_step()
        {
            bytes += self.send(message)?;
        }
        Ok(())
    }

    /// Tells the client why the connection ends, and gives it a moment to hear that.
    async fn close(mut self, reason: CloseReason) {
        // Subscriptions end first: nobody hands over changes to a connection that ends.
        drop(self.session);
        let timeout = self.context.limits.close_timeout;
        let _ = tokio::time::timeout(timeout, close_handshake(&mut self.socket, reason)).await;
    }
}

/// Ticks often enough for both limits. The first tick comes after a random part of the interval, so that pings to many
/// clients do not go out at once.
fn watch_timer(limits: &WebSocketLimits) -> Interval {
    let interval = limits.ping_interval.min(limits.stall_timeout) / 2;
    let part = f64::from(Uuid::new_v4().as_fields().0) / f64::from(u32::MAX);
    let mut timer = tokio::time::interval_at(Instant::now() + interval.mul_f64(part), interval);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    timer
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// What the socket does next: takes the rest of what was gathered, or brings a message.
async fn from_socket(socket: &mut Socket, is_unflushed: bool, may_read: bool) -> FromSocket {
    std::future::poll_fn(|context| poll_socket(socket, context, is_unflushed, may_read)).await
}

fn poll_socket(socket: &mut Socket, context: &mut Context<'_>, is_unflushed: bool, may_read: bool) -> Poll<FromSocket> {
    if is_unflushed && let Poll::Ready(result) = Pin::new(&mut *socket).poll_flush(context) {
        return Poll::Ready(FromSocket::Flushed(result));
    }
    if may_read {
        return Pin::new(socket).poll_next(context).map(FromSocket::Message);
    }
    Poll::Pending
}

fn protocol_reason(error: &WsError) -> Option<CloseReason> {
    use tokio_tungstenite::tungstenite::error::ProtocolError;
    match error {
        WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
        WsError::Protocol(_) => Some(CloseReason::Protocol),
        WsError::Capacity(_) => Some(CloseReason::TooBig),
        WsError::Utf8(_) => Some(CloseReason::Undecodable),
        _ => None,
    }
}

/// Sends the close frame, then reads on until the client has left: a socket closed with bytes unread would reset the
/// connection, and the client would never see the frame.
async fn close_handshake(socket: &mut Socket, reason: CloseReason) {
    if reason != CloseReason::Asked {
        let close = reason.close();
        let frame = CloseFrame { code: CloseCode::from(close.code), reason: close.text.into() };
        if Pin::new(&mut *socket).start_send(Message::Close(Some(frame))).is_err() {
            return;
        }
    }
    if socket.flush().await.is_err() {
        return;
    }
    let stream = socket.get_mut();
    let _ = tokio::io::AsyncWriteExt::shutdown(stream).await;
    let mut rest = [0; 1024];
    while let Ok(1..) = stream.read(&mut rest).await {}
}
