//! A WebSocket connection: one loop that owns the socket and the session.
//!
//! What waits is written in one go and flushed once. While the socket takes no more, nothing more is taken from the
//! session, but the client is still read from: it can unsubscribe, and its pings are answered.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::WakeTask;
use super::socket::{ClientSocket, FromSocket, Gone, SocketLimits};
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
    /// Bounds of its socket.
    pub socket: SocketLimits,
    /// Bytes of changes that wait for the connection; a subscription that does not fit falls behind.
    pub outbox_bytes: usize,
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

/// Written to the socket in one go; more waits in the outbox, where it is bounded and counted, and shared with others. What a
/// connection once needed for that it keeps, so it is also what a client costs that does not read.
const WRITE_BYTES: usize = 16 * 1024;

/// Serves one client until it leaves, misbehaves, or the server stops. `already_read` came behind the handshake.
pub async fn serve(stream: TcpStream, already_read: Vec<u8>, context: Arc<ConnectionContext>) {
    let peer = stream.peer_addr().map_or_else(|_| "an address unknown".to_owned(), |address| address.to_string());
    let socket = ClientSocket::open(stream, already_read, context.limits.socket).await;
    let wake = WakeTask::new();
    let outbox = Outbox::new(context.limits.outbox_bytes, Arc::clone(&context.waiting), Arc::clone(&wake) as _);
    let session = Session::new(Arc::clone(&context.session), Principal::Anonymous, peer, outbox);
    let mut connection = Connection {
        socket,
        session,
        running: FuturesUnordered::new(),
        unanswered: 0,
        wake,
        began: Instant::now(),
        context,
    };
    let Some(reason) = connection.run().await else {
        return;
    };
    connection.context.session.metrics.closed.get_or_create(&vec![("reason", reason.label().to_owned())]).inc();
    if reason == CloseReason::ShuttingDown {
        let timeout = connection.context.limits.socket.close_timeout;
        // A client that takes nothing is not waited for; then there is nobody to answer.
        let _ = tokio::time::timeout(timeout, connection.answer_what_was_begun()).await;
    }
    let Connection { socket, session, .. } = connection;
    // Subscriptions end first: nobody hands over changes to a connection that ends.
    drop(session);
    socket.close(reason).await;
}

struct Connection {
    socket: ClientSocket,
    session: Session,
    running: FuturesUnordered<Pin<Box<dyn Future<Output = Done> + Send>>>,
    /// What of it somebody waits for; the rest only holds other requests up.
    unanswered: usize,
    wake: Arc<WakeTask>,
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

impl Connection {
    /// Runs until the end; `None` when the client has left, so that there is nobody to tell a reason.
    async fn run(&mut self) -> Option<CloseReason> {
        // Waited for by one future for the whole connection: each new one would take a lock that all connections share.
        let mut shutdown = pin!(self.context.shutdown.clone().cancelled_owned());
        let wake = Arc::clone(&self.wake);
        loop {
            self.session.tick(millis(self.began.elapsed()));
            if self.gather().is_err() {
                return None;
            }
            let due = self.session.due_ms().map(|due_ms| self.began + Duration::from_millis(due_ms));
            let may_read = !self.session.is_saturated();
            let is_unflushed = self.socket.is_unflushed();
            // Cancel-safe: each branch either completes or has taken nothing. What ends the connection comes first, then
            // results, which free the client to ask for more; the socket is polled once per turn, not once per event.
            tokio::select! {
                biased;
                () = &mut shutdown => return Some(CloseReason::ShuttingDown),
                Some(done) = self.running.next(), if !self.running.is_empty() => self.finish(done),
                () = wake.woken(), if !is_unflushed => {}
                event = self.socket.next(may_read) => match event {
                    FromSocket::Flushed => {}
                    FromSocket::Binary(bytes) => {
                        if let Err(reason) = self.receive(bytes) {
                            return Some(reason);
                        }
                    }
                    FromSocket::Text(_) => return Some(CloseReason::WrongFrameType),
                    FromSocket::End(reason) => return reason,
                },
                () = until(due), if !is_unflushed => {}
            }
        }
    }

    /// Takes from the session what fits into one write, and begins the work it asks for.
    fn gather(&mut self) -> Result<(), Gone> {
        if self.socket.is_unflushed() {
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
    fn send(&mut self, message: ServerMessage) -> Result<usize, Gone> {
        let encoded = wire::protobuf::encode(message, &self.context.session.metrics.row_problems);
        let bytes = encoded.len();
        self.socket.send(Message::Binary(encoded))?;
        Ok(bytes)
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

    /// Takes a message; `Err` ends the connection.
    fn receive(&mut self, bytes: Bytes) -> Result<(), CloseReason> {
        self.context.session.metrics.requests.inc();
        let message = wire::protobuf::decode(bytes).map_err(|_| CloseReason::Undecodable)?;
        let arrival = Arrival {
            now: self.context.clock.now(),
            fresh_id: Uuid::new_v4(),
            has_crawler: self.context.crawler.is_some(),
        };
        self.session.receive(message, &arrival);
        Ok(())
    }

    /// Answers what was begun, so that a client knows of each write that stays; what only waits is not begun any more.
    async fn answer_what_was_begun(&mut self) -> Result<(), Gone> {
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
