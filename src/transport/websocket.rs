//! A WebSocket connection: one loop that reads from the client, does what the session wants done, and says what the session
//! has to say, unless a publisher does that.
//!
//! What waits is written in one go. While the socket takes no more, nothing more is taken from the session, but the client is
//! still read from: it can unsubscribe, and its pings are answered.

use std::future::poll_fn;
use std::ops::ControlFlow;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::frame_writer::binary_header;
use super::outgoing::Gone;
use super::socket::{ClientSocket, FromSocket, SocketLimits};
use super::speaker::{Conversation, Speaker};
use crate::catalog::Arrival;
use crate::clock::Clock;
use crate::crawler::Crawler;
use crate::feed::{Outbox, Waiting};
use crate::proto;
use crate::session::{AskTicket, Read, ReadResult, Session, SessionContext, Watch, Work, WriteTicket};
use crate::source::{Changes, Source, Written, WrittenGroup};
use crate::store::Store;
use crate::subscription::Principal;
use crate::task;
use crate::wire::{self, CloseReason};

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
    /// The clock of all sessions counts from here.
    pub began: Instant,
    /// Who is asked what only a crawler can do.
    pub crawler: Option<Arc<Crawler>>,
    /// Bounds.
    pub limits: WebSocketLimits,
    /// The server stops.
    pub shutdown: CancellationToken,
}

/// Serves one client until it leaves, misbehaves, or the server stops. `already_read` came behind the handshake.
pub async fn serve(stream: TcpStream, already_read: Vec<u8>, context: Arc<ConnectionContext>) {
    // What is brief is boxed: a task has room for all that it may ever do at a time, and most connections only rest.
    let mut connection = Box::pin(Connection::open(stream, already_read, context)).await;
    if let Some(reason) = connection.run().await {
        Box::pin(connection.end(reason)).await;
    }
}

struct Connection {
    socket: ClientSocket,
    speaker: Arc<Speaker>,
    conversation: Conversation,
    running: FuturesUnordered<Pin<Box<dyn Future<Output = Done> + Send>>>,
    /// What of it somebody waits for; the rest only holds other requests up.
    unanswered: usize,
    context: Arc<ConnectionContext>,
}

enum Done {
    Written(Vec<WriteTicket>, Vec<Written>),
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
    async fn open(stream: TcpStream, already_read: Vec<u8>, context: Arc<ConnectionContext>) -> Self {
        let peer = stream.peer_addr().map_or_else(|_| "an address unknown".to_owned(), |address| address.to_string());
        let socket = ClientSocket::open(stream, already_read, context.limits.socket).await;
        let metrics = Arc::clone(&context.session.metrics);
        let speaker = Speaker::new(Arc::clone(socket.outgoing()) as _, metrics, context.began);
        let outbox = Outbox::new(context.limits.outbox_bytes, Arc::clone(&context.waiting), Arc::clone(&speaker) as _);
        let session = Session::new(Arc::clone(&context.session), Principal::Anonymous, peer, outbox);
        let conversation = speaker.begin(session);
        Self { socket, speaker, conversation, running: FuturesUnordered::new(), unanswered: 0, context }
    }

    /// Tells the client why the connection ends.
    async fn end(mut self, reason: CloseReason) {
        self.context.session.metrics.closed.get_or_create(&vec![("reason", reason.label().to_owned())]).inc();
        if reason == CloseReason::ShuttingDown {
            let timeout = self.context.limits.socket.close_timeout;
            // A client that takes nothing is not waited for; then there is nobody to answer.
            let _ = tokio::time::timeout(timeout, self.answer_what_was_begun()).await;
        }
        let Self { socket, conversation, .. } = self;
        // Subscriptions end first: nobody hands over changes to a connection that ends.
        drop(conversation);
        socket.close(reason).await;
    }

    /// Runs until the end; `None` when the client has left, so that there is nobody to tell a reason.
    async fn run(&mut self) -> Option<CloseReason> {
        // Waited for by one future for the whole connection: each new one would take a lock that all connections share.
        let mut shutdown = pin!(self.context.shutdown.clone().cancelled_owned());
        let speaker = Arc::clone(&self.speaker);
        loop {
            let Ok(turn) = self.conversation.turn() else { return None };
            self.begin_all(turn.work);
            // Cancel-safe: each branch either completes or has taken nothing. What ends the connection comes first, then
            // results, which free the client to ask for more; the socket is polled once per turn, not once per event.
            tokio::select! {
                biased;
                () = &mut shutdown => return Some(CloseReason::ShuttingDown),
                Some(done) = self.running.next(), if !self.running.is_empty() => self.finish_all(done).await,
                () = speaker.woken() => {}
                event = self.socket.next(turn.may_read) => {
                    if let ControlFlow::Break(reason) = self.take_all(event).await {
                        return reason;
                    }
                }
                () = until(turn.due) => {}
                // The others have their turn before it goes on.
                () = tokio::task::yield_now(), if turn.has_more => {}
            }
        }
    }

    /// Takes what came, and what came with it: what a client asks for at once is begun at once.
    async fn take_all(&mut self, first: FromSocket) -> ControlFlow<Option<CloseReason>> {
        let mut next = Some(first);
        while let Some(event) = next {
            match event {
                FromSocket::Flushed => {}
                FromSocket::Binary(bytes) => {
                    if let Err(reason) = self.receive(bytes) {
                        return ControlFlow::Break(Some(reason));
                    }
                }
                FromSocket::Text(_) => return ControlFlow::Break(Some(CloseReason::WrongFrameType)),
                FromSocket::End(reason) => return ControlFlow::Break(reason),
            }
            let may_read = self.conversation.tell(|session| !session.is_saturated());
            next = if may_read { self.socket.next_now(may_read).await } else { None };
        }
        ControlFlow::Continue(())
    }

    /// Takes a result, and those that are there already, so that what they bring goes out in one write.
    async fn finish_all(&mut self, first: Done) {
        let mut next = Some(first);
        while let Some(done) = next {
            self.finish(done);
            next = poll_fn(|context| match self.running.poll_next_unpin(context) {
                Poll::Ready(done) => Poll::Ready(done),
                Poll::Pending => Poll::Ready(None),
            })
            .await;
        }
    }

    /// Begins `works`; what is to be written goes to the store together.
    fn begin_all(&mut self, works: Vec<Work>) {
        let (mut tickets, mut units) = (Vec::new(), Vec::new());
        for work in works {
            match work {
                Work::Write { ticket, unit } => {
                    tickets.push(ticket);
                    units.push(unit);
                }
                other => self.begin(other),
            }
        }
        if units.is_empty() {
            return;
        }
        self.unanswered += units.len();
        let mut tickets = tickets.into_iter();
        for WrittenGroup { units, results } in self.context.source.write_all(units) {
            let tickets: Vec<WriteTicket> = tickets.by_ref().take(units).collect();
            self.running.push(Box::pin(async move { Done::Written(tickets, results.await) }));
        }
    }

    fn begin(&mut self, work: Work) {
        self.unanswered += usize::from(!matches!(work, Work::Watch(_)));
        match work {
            Work::Write { .. } => panic!("what is written is begun with all that is written with it"),
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
            Work::Share(share) => self.running.push(Box::pin(async move { Done::Read(share.wait().await) })),
            Work::Read(read) => {
                let store = self.context.store.clone();
                self.running.push(Box::pin(async move {
                    Done::Read(task::blocking(move || read.run_shown(&store, Some(binary_header))).await)
                }));
            }
        }
    }

    fn finish(&mut self, done: Done) {
        self.unanswered -= match &done {
            Done::Written(tickets, _) => tickets.len(),
            Done::Visible(_) | Done::Changed(_) => 0,
            Done::Read(_) | Done::Asked(..) => 1,
        };
        match done {
            Done::Written(tickets, results) => {
                for (ticket, Written { result, visible }) in tickets.into_iter().zip(results) {
                    if let Some(visible) = visible {
                        self.conversation.tell(|session| session.expect_visible(ticket));
                        self.running.push(Box::pin(async move {
                            visible.await;
                            Done::Visible(ticket)
                        }));
                    }
                    self.conversation.tell(|session| session.written(ticket, result));
                }
            }
            Done::Visible(ticket) => self.conversation.tell(|session| session.visible(ticket)),
            Done::Read(result) => self.conversation.tell(|session| session.read(result)),
            Done::Asked(ticket, result) => self.conversation.tell(|session| session.asked(ticket, result)),
            Done::Changed(None) => {}
            Done::Changed(Some(watched)) => {
                self.conversation.tell(|session| session.changed(watched.subscription_id));
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
        self.conversation.tell(|session| session.receive(message, &arrival));
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
        self.conversation.turn().map(|_| ())
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
