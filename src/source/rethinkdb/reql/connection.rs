//! A connection to the database: many queries and changefeeds at a time on one socket, served by one task.
//!
//! Whoever lets go of a [`Cursor`] ends its query in the database too. The task ends when nobody has the connection any more, or
//! when it breaks; then everyone who waits is told the same.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::BytesMut;
use serde_json::value::RawValue;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::error::ReqlError;
use super::frame::{self, Token};
use super::response::{Page, Response};
use super::term::{self, Term};
use crate::store::PageBudget;

/// Bounds of connections.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// How long a connection may take until its handshake is over.
    pub connect: Duration,
    /// How long one query may take.
    pub query: Duration,
    /// Nothing heard for so long, the connection is given up.
    pub silence: Duration,
    /// Bytes of rows that are asked for before somebody takes them, for each query.
    pub lookahead_bytes: usize,
    /// Bytes of one answer.
    pub frame_bytes: usize,
}

/// After so much of the silence that is allowed, the database is asked for a sign of life.
const PROBES_PER_SILENCE: u32 = 4;

/// What carries the bytes.
pub(super) trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// A connection; clones are handles to the same one.
#[derive(Clone)]
pub struct Connection {
    handle: Arc<Handle>,
}

/// All that have the connection, its cursors too.
struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.end(&ReqlError::Stopped);
    }
}

struct Shared {
    state: Mutex<State>,
    /// There is something to send, or the connection has ended.
    wake: Notify,
    ended: Notify,
    database: String,
    limits: ConnectionLimits,
}

#[derive(Default)]
struct State {
    last_token: u64,
    outgoing: BytesMut,
    queries: HashMap<Token, Running>,
    end: Option<ReqlError>,
}

/// A query that somebody waits for.
#[derive(Default)]
struct Running {
    pages: VecDeque<Page>,
    bytes: usize,
    /// The database has more and waits to be asked.
    has_more: bool,
    is_over: bool,
    error: Option<ReqlError>,
    waker: Option<Waker>,
}

impl Running {
    fn finish(&mut self, error: Option<ReqlError>) {
        self.is_over = true;
        self.has_more = false;
        self.error = error;
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Connection {
    /// A connection on a socket whose handshake is over, and the work of its task. `received` came behind the handshake.
    pub(super) fn new(
        socket: Box<dyn Socket>,
        received: BytesMut,
        database: &str,
        limits: ConnectionLimits,
    ) -> (Self, impl Future<Output = ()> + Send + use<>) {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            wake: Notify::new(),
            ended: Notify::new(),
            database: database.to_owned(),
            limits,
        });
        let (reader, writer) = tokio::io::split(socket);
        let now = Instant::now();
        let task = Task {
            reader,
            writer,
            received,
            sending: BytesMut::new(),
            is_unflushed: false,
            heard_at: now,
            probed_at: now,
            shared: Arc::clone(&shared),
        };
        (Self { handle: Arc::new(Handle { shared }) }, task.run())
    }

    /// Starts a query.
    pub fn start(&self, query: &Term) -> Cursor {
        let shared = &self.handle.shared;
        let mut state = shared.lock();
        state.last_token += 1;
        let token = Token(state.last_token);
        let mut running = Running::default();
        match state.end.clone() {
            Some(error) => running.finish(Some(error)),
            None => frame::encode(token, &query.start(&shared.database), &mut state.outgoing),
        }
        state.queries.insert(token, running);
        drop(state);
        shared.wake.notify_one();
        Cursor { token, connection: self.clone() }
    }

    /// The one value that is the answer to a query.
    pub async fn value(&self, query: &Term) -> Result<Box<RawValue>, ReqlError> {
        let mut cursor = self.start(query);
        let page = self.in_time(cursor.next()).await?;
        let page = page.ok_or_else(|| ReqlError::protocol("an answer without a value"))?;
        let rows = page.rows()?;
        let [value] = rows[..] else {
            return Err(ReqlError::Protocol(format!("{} values where one was asked for", rows.len())));
        };
        Ok(value.to_owned())
    }

    /// All rows that a query answers with; at most `bytes_max` of them, unless it is one.
    pub async fn rows(&self, query: &Term, bytes_max: usize) -> Result<Vec<Box<RawValue>>, ReqlError> {
        let mut cursor = self.start(query);
        let mut rows = Vec::new();
        let mut bytes = 0;
        while let Some(page) = self.in_time(cursor.next()).await? {
            for row in page.rows()? {
                bytes += row.get().len();
                if bytes > bytes_max && !rows.is_empty() {
                    return Err(ReqlError::AnswerTooBig(bytes_max));
                }
                rows.push(row.to_owned());
            }
        }
        Ok(rows)
    }

    /// What `keep` makes of the first rows that a query answers with, as many as `budget` allows and one at least; and whether those
    /// were all. Rows that are not kept do not count: a page of them is not the end.
    pub async fn first_rows<T>(
        &self,
        query: &Term,
        mut budget: PageBudget,
        mut keep: impl FnMut(&RawValue) -> Option<T>,
    ) -> Result<(Vec<T>, bool), ReqlError> {
        let mut cursor = self.start(query);
        let mut rows = Vec::new();
        while let Some(page) = self.in_time(cursor.next()).await? {
            for row in page.rows()? {
                if budget.items == 0 || budget.bytes == 0 {
                    return Ok((rows, false));
                }
                if let Some(kept) = keep(row) {
                    budget.items -= 1;
                    budget.bytes = budget.bytes.saturating_sub(row.get().len());
                    rows.push(kept);
                }
            }
        }
        Ok((rows, true))
    }

    /// The next rows of `cursor`, which may not take longer than any query.
    pub async fn next_in_time(&self, cursor: &mut Cursor) -> Result<Option<Page>, ReqlError> {
        self.in_time(cursor.next()).await
    }

    async fn in_time<T>(&self, answer: impl Future<Output = Result<T, ReqlError>>) -> Result<T, ReqlError> {
        let limit = self.handle.shared.limits.query;
        tokio::time::timeout(limit, answer).await.unwrap_or(Err(ReqlError::Timeout(limit.as_secs())))
    }

    /// Gives the connection up: whoever waits for it is told `reason`.
    pub fn give_up(&self, reason: &ReqlError) {
        self.handle.shared.end(reason);
    }

    /// Whether it is of no more use.
    pub fn has_ended(&self) -> bool {
        self.handle.shared.lock().end.is_some()
    }

    /// Waits until it is of no more use.
    pub async fn ended(&self) {
        let ended = self.handle.shared.ended.notified();
        tokio::pin!(ended);
        ended.as_mut().enable();
        if !self.has_ended() {
            ended.await;
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({} queries)", self.handle.shared.lock().queries.len())
    }
}

/// The rows of one query, page by page. Dropping it ends the query.
#[derive(Debug)]
pub struct Cursor {
    token: Token,
    connection: Connection,
}

impl Cursor {
    /// The next rows; `None` at the end. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<Page>, ReqlError> {
        let shared = &self.connection.handle.shared;
        std::future::poll_fn(|context| {
            let mut state = shared.lock();
            let state = &mut *state;
            let running = state.queries.get_mut(&self.token).expect("a query stays as long as its cursor");
            if let Some(page) = running.pages.pop_front() {
                running.bytes -= page.size();
                if running.has_more && running.bytes < shared.limits.lookahead_bytes {
                    running.has_more = false;
                    frame::encode(self.token, term::CONTINUE, &mut state.outgoing);
                    shared.wake.notify_one();
                }
                return Poll::Ready(Ok(Some(page)));
            }
            if running.is_over {
                return Poll::Ready(running.error.take().map_or(Ok(None), Err));
            }
            running.waker = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        let shared = &self.connection.handle.shared;
        let mut state = shared.lock();
        let running = state.queries.remove(&self.token);
        if running.is_some_and(|running| !running.is_over) {
            // What still comes for this token is for nobody.
            frame::encode(self.token, term::STOP, &mut state.outgoing);
            drop(state);
            shared.wake.notify_one();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the connection, unless it has ended.
    fn end(&self, reason: &ReqlError) {
        let mut state = self.lock();
        if state.end.is_some() {
            return;
        }
        state.end = Some(reason.clone());
        for running in state.queries.values_mut() {
            if !running.is_over {
                running.finish(Some(reason.clone()));
            }
            running.wake();
        }
        drop(state);
        self.wake.notify_one();
        self.ended.notify_waiters();
    }

    /// Gives an answer to whoever waits for it; nobody may any more.
    fn deliver(&self, token: Token, response: Response) -> Result<(), ReqlError> {
        let mut state = self.lock();
        let state = &mut *state;
        if token.0 > state.last_token {
            // Whatever was to be answered has no answer now: a feed would wait for ever, and lose what was in this one.
            return Err(ReqlError::protocol("an answer to what nobody asked"));
        }
        let Some(running) = state.queries.get_mut(&token) else { return Ok(()) };
        if running.is_over || running.has_more {
            // Whoever sends without being asked could fill the memory.
            return Err(ReqlError::protocol("an answer to what was answered"));
        }
        match response {
            Response::Partial(page) => {
                running.bytes += page.size();
                running.pages.push_back(page);
                if running.bytes < self.limits.lookahead_bytes {
                    frame::encode(token, term::CONTINUE, &mut state.outgoing);
                } else {
                    running.has_more = true;
                }
            }
            Response::Last(page) => {
                running.bytes += page.size();
                running.pages.push_back(page);
                running.finish(None);
            }
            Response::Error(error) => running.finish(Some(error)),
        }
        running.wake();
        Ok(())
    }
}

/// Writes some of what is to be sent, or sees to it that what was written is on its way.
async fn send(
    writer: &mut WriteHalf<Box<dyn Socket>>,
    sending: &mut BytesMut,
    is_unflushed: &mut bool,
) -> std::io::Result<()> {
    if sending.is_empty() {
        writer.flush().await?;
        *is_unflushed = false;
    } else {
        writer.write_buf(sending).await?;
        *is_unflushed = true;
    }
    Ok(())
}

/// The one task of a connection.
struct Task {
    reader: ReadHalf<Box<dyn Socket>>,
    writer: WriteHalf<Box<dyn Socket>>,
    received: BytesMut,
    sending: BytesMut,
    is_unflushed: bool,
    heard_at: Instant,
    probed_at: Instant,
    shared: Arc<Shared>,
}

/// Room that a read from the socket has at least.
const READ_BYTES: usize = 64 * 1024;

impl Task {
    async fn run(mut self) {
        let reason = self.serve().await;
        self.shared.end(&reason);
        // The peer may be gone, or take nothing: an encrypted connection would say goodbye to it for ever.
        let _ = tokio::time::timeout(self.shared.limits.silence, self.writer.shutdown()).await;
    }

    /// Serves until the connection is of no more use; returns why.
    async fn serve(&mut self) -> ReqlError {
        loop {
            if let Err(reason) = self.deliver_what_came().and_then(|()| self.take_what_is_to_be_sent()) {
                return reason;
            }
            self.received.reserve(READ_BYTES);
            let (silence, probe) = (self.shared.limits.silence, self.shared.limits.silence / PROBES_PER_SILENCE);
            // Cancel-safe: each branch has either done its part or nothing. Writing comes first, because the database answers
            // what it was asked; it never has much to write.
            let result = tokio::select! {
                biased;
                sent = send(&mut self.writer, &mut self.sending, &mut self.is_unflushed),
                    if !self.sending.is_empty() || self.is_unflushed => sent,
                read = self.reader.read_buf(&mut self.received) => match read {
                    Ok(0) => return ReqlError::Lost("it was closed by the database".to_owned()),
                    Ok(_) => {
                        self.heard_at = Instant::now();
                        Ok(())
                    }
                    Err(error) => Err(error),
                },
                // Also while a peer takes nothing: the connection may have ended.
                () = self.shared.wake.notified() => Ok(()),
                () = tokio::time::sleep_until(self.heard_at.max(self.probed_at) + probe) => {
                    // Where nothing was asked since, it is this process that was not there, as on a machine that slept.
                    if self.probed_at > self.heard_at && self.heard_at.elapsed() >= silence {
                        return ReqlError::Silent;
                    }
                    self.probe();
                    Ok(())
                }
            };
            if let Err(error) = result {
                return ReqlError::Lost(error.to_string());
            }
        }
    }

    /// What is to be sent next, when the last was taken; why not, where the connection has ended.
    fn take_what_is_to_be_sent(&mut self) -> Result<(), ReqlError> {
        let mut state = self.shared.lock();
        if let Some(reason) = &state.end {
            return Err(reason.clone());
        }
        if self.sending.is_empty() {
            std::mem::swap(&mut self.sending, &mut state.outgoing);
        }
        Ok(())
    }

    /// Asks for a sign of life; any answer will do, and goes to nobody.
    fn probe(&mut self) {
        self.probed_at = Instant::now();
        let mut state = self.shared.lock();
        state.last_token += 1;
        let token = Token(state.last_token);
        let query = Term::datum(1.into()).start(&self.shared.database);
        frame::encode(token, &query, &mut state.outgoing);
        drop(state);
        self.shared.wake.notify_one();
    }

    fn deliver_what_came(&mut self) -> Result<(), ReqlError> {
        while let Some((token, body)) = frame::decode(&mut self.received, self.shared.limits.frame_bytes)? {
            self.shared.deliver(token, Response::decode(body)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
