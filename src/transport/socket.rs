//! The server's end of one WebSocket: frames, pings, limits, and the end with its code. It does not know what messages mean.
//!
//! The library reads and joins frames; what is sent goes by [`Outgoing`], so that not only the task that reads can send. While
//! the client takes no more, it is still read from: its pings are answered, and what it wants no more it can say.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Sink, Stream};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as WsError, Message, Utf8Bytes};
use uuid::Uuid;

use super::allowance::Allowance;
use super::counted::CountedStream;
use super::frame_writer::{FrameKind, Frames};
use super::frames::FrameMeter;
use super::outgoing::{Gone, Outgoing};
use crate::wire::CloseReason;

/// Bounds of a WebSocket.
#[derive(Clone, Copy, Debug)]
pub struct SocketLimits {
    /// Bytes of a message from the client.
    pub message_bytes: usize,
    /// Frames of a message from the client.
    pub message_fragments: u64,
    /// A message has to be complete so long after its first byte.
    pub message_timeout: Duration,
    /// Pings and pongs from the client in a second.
    pub pings_per_second: u64,
    /// A ping is sent this often; no sign of life for twice as long ends the connection.
    pub ping_interval: Duration,
    /// A client that takes nothing for so long, though there is something for it, is let go.
    pub stall_timeout: Duration,
    /// How long the client has to answer a close frame.
    pub close_timeout: Duration,
}

/// The library's own buffer for what is read. It is allocated for each connection, idle or not.
const READ_BUFFER_BYTES: usize = 128;

/// Pings whose answers may wait for a client that does not read; then it is not read from either.
const WAITING_PONGS_MAX: usize = 64;

/// A WebSocket whose other end is a client.
#[derive(Debug)]
pub struct ClientSocket {
    stream: WebSocketStream<CountedStream>,
    outgoing: Arc<Outgoing>,
    limits: SocketLimits,
    /// When to look for signs of life.
    watch: Interval,
    /// Pings answered since the client last took everything.
    waiting_pongs: usize,
    pings: Allowance,
    reading: Reading,
    heard_at: Instant,
    pinged_at: Instant,
}

/// Whether the client is read from, and since when it is or is not.
#[derive(Clone, Copy, Debug)]
enum Reading {
    Since(Instant),
    NotSince(Instant),
}

/// What a socket does next.
#[derive(Debug)]
pub enum FromSocket {
    /// The client has taken everything that it had not.
    Flushed,
    /// A binary message.
    Binary(Bytes),
    /// A text message.
    Text(Utf8Bytes),
    /// Nothing more, for this reason; `None` when the client has left, so that there is nobody to tell.
    End(Option<CloseReason>),
}

impl ClientSocket {
    /// Takes over `stream` behind the handshake; `already_read` came with it.
    pub async fn open(stream: TcpStream, already_read: Vec<u8>, limits: SocketLimits) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            // Answers to pings are kept by who sends, who bounds their number.
            .write_buffer_size(0)
            .max_write_buffer_size(usize::MAX)
            .max_message_size(Some(limits.message_bytes))
            .max_frame_size(Some(limits.message_bytes));
        let mut frames = FrameMeter::new(limits.message_fragments);
        frames.take(&already_read);
        let (reader, writer) = stream.into_split();
        let outgoing = Arc::new(Outgoing::new(writer));
        let stream = CountedStream::new(reader, Arc::clone(&outgoing), frames);
        let stream = WebSocketStream::from_partially_read(stream, already_read, Role::Server, Some(config)).await;
        let now = Instant::now();
        Self {
            stream,
            outgoing,
            limits,
            watch: watch_timer(&limits),
            waiting_pongs: 0,
            pings: Allowance::per_second(limits.pings_per_second, now),
            reading: Reading::Since(now),
            heard_at: now,
            pinged_at: now,
        }
    }

    /// The way to the client.
    pub fn outgoing(&self) -> &Arc<Outgoing> {
        &self.outgoing
    }

    /// What happens next; the client is read from only if `may_read`. Cancel-safe: it completes or has taken nothing.
    pub async fn next(&mut self, may_read: bool) -> FromSocket {
        poll_fn(|context| self.poll(context, may_read)).await
    }

    /// What has happened already, if something has.
    pub async fn next_now(&mut self, may_read: bool) -> Option<FromSocket> {
        poll_fn(|context| match self.poll(context, may_read) {
            Poll::Ready(event) => Poll::Ready(Some(event)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }

    /// Waits until the client has taken everything.
    pub async fn flush(&self) -> Result<(), Gone> {
        poll_fn(|context| self.outgoing.poll_flush(context)).await.map(|_| ())
    }

    /// Tells the client why the connection ends, and gives it a moment to hear that.
    pub async fn close(mut self, reason: CloseReason) {
        let _ = tokio::time::timeout(self.limits.close_timeout, self.close_handshake(reason)).await;
    }

    fn poll(&mut self, context: &mut Context<'_>, may_read: bool) -> Poll<FromSocket> {
        loop {
            if let Poll::Ready(flushed) = self.outgoing.poll_flush(context) {
                self.waiting_pongs = 0;
                match flushed {
                    Ok(true) => return Poll::Ready(FromSocket::Flushed),
                    Ok(false) => {}
                    Err(Gone) => return Poll::Ready(FromSocket::End(None)),
                }
            }
            let is_reading = may_read && self.waiting_pongs < WAITING_PONGS_MAX;
            self.note_reading(is_reading);
            if is_reading && let Poll::Ready(message) = Pin::new(&mut self.stream).poll_next(context) {
                let Some(message) = message else { return Poll::Ready(FromSocket::End(None)) };
                if matches!(message, Ok(Message::Ping(_))) {
                    // The library has its answer ready, and lets it go only now.
                    let _ = Pin::new(&mut self.stream).poll_flush(context);
                    self.waiting_pongs += 1;
                }
                match self.receive(message) {
                    Some(received) => return Poll::Ready(received),
                    None => continue,
                }
            }
            if self.watch.poll_tick(context).is_pending() {
                return Poll::Pending;
            }
            if let Some(reason) = self.check_alive(may_read) {
                return Poll::Ready(FromSocket::End(Some(reason)));
            }
        }
    }

    /// `None` for what is of no concern to anybody else.
    fn receive(&mut self, message: Result<Message, WsError>) -> Option<FromSocket> {
        self.heard_at = Instant::now();
        match message {
            Ok(Message::Binary(bytes)) => Some(FromSocket::Binary(bytes)),
            Ok(Message::Text(text)) => Some(FromSocket::Text(text)),
            Ok(Message::Ping(_) | Message::Pong(_)) if !self.pings.take(self.heard_at) => {
                Some(FromSocket::End(Some(CloseReason::TooManyPings)))
            }
            Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => None,
            Ok(Message::Close(_)) => Some(FromSocket::End(Some(CloseReason::Asked))),
            Err(_) if self.stream.get_ref().frames().is_exceeded() => {
                Some(FromSocket::End(Some(CloseReason::TooManyFragments)))
            }
            Err(error) => Some(FromSocket::End(protocol_reason(&error))),
        }
    }

    /// What a client sends while it is not read from comes late, and is not its fault.
    fn note_reading(&mut self, is_reading: bool) {
        match (self.reading, is_reading) {
            (Reading::Since(_), true) | (Reading::NotSince(_), false) => {}
            (Reading::Since(_), false) => self.reading = Reading::NotSince(Instant::now()),
            (Reading::NotSince(paused_at), true) => {
                let now = Instant::now();
                self.pings.grant(now.saturating_duration_since(paused_at));
                self.reading = Reading::Since(now);
            }
        }
    }

    /// Looks for signs of life, and asks for one when it is time.
    fn check_alive(&mut self, may_read: bool) -> Option<CloseReason> {
        let limits = self.limits;
        let began = self.stream.get_ref().frames().began();
        if let (Some(began), Reading::Since(reading)) = (began, self.reading)
            && began.max(reading).elapsed() >= limits.message_timeout
        {
            return Some(CloseReason::MessageTooSlow);
        }
        // The socket is full: the client may be alive and busy, and cannot see a ping before it has read the rest.
        if let Some(stalled) = self.outgoing.stalled_for() {
            return (stalled >= limits.stall_timeout).then_some(CloseReason::Stalled);
        }
        if self.pinged_at.elapsed() < limits.ping_interval {
            return None;
        }
        // No answer fits into a frame that is on its way; that has its own time.
        if self.heard_at.elapsed() >= 2 * limits.ping_interval && may_read && began.is_none() {
            return Some(CloseReason::Unresponsive);
        }
        self.pinged_at = Instant::now();
        // A failure shows when the socket is read next.
        let _ = self.send(FrameKind::Ping, &[]);
        None
    }

    fn send(&self, kind: FrameKind, payload: &[u8]) -> Result<(), Gone> {
        let mut frames = Frames::default();
        frames.put_frame(kind, |bytes| bytes.extend_from_slice(payload));
        self.outgoing.send(frames.bytes()).map(|_| ())
    }

    /// Sends the close frame, then reads on until the client has left: a socket closed with bytes unread would reset the
    /// connection, and the client would never see the frame.
    async fn close_handshake(&mut self, reason: CloseReason) {
        // The library's own answers, to pings or to a close frame, are due first; nothing may come behind the close frame. It
        // says that the connection is closed, where it is.
        let _ = poll_fn(|context| Pin::new(&mut self.stream).poll_flush(context)).await;
        if self.flush().await.is_err() {
            return;
        }
        if reason != CloseReason::Asked {
            let close = reason.close();
            let payload = [&close.code.to_be_bytes(), close.text.as_bytes()].concat();
            if self.send(FrameKind::Close, &payload).is_err() {
                return;
            }
        }
        if self.flush().await.is_err() {
            return;
        }
        poll_fn(|context| self.outgoing.poll_shutdown(context)).await;
        let stream = self.stream.get_mut().stream();
        let mut rest = [0; 1024];
        while let Ok(1..) = stream.read(&mut rest).await {}
    }
}

/// Ticks often enough for all limits. The first tick comes after a random part of the interval, so that pings to many
/// clients do not go out at once.
fn watch_timer(limits: &SocketLimits) -> Interval {
    let interval = limits.ping_interval.min(limits.stall_timeout).min(limits.message_timeout) / 2;
    let part = f64::from(Uuid::new_v4().as_fields().0) / f64::from(u32::MAX);
    let mut timer = tokio::time::interval_at(Instant::now() + interval.mul_f64(part), interval);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    timer
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
