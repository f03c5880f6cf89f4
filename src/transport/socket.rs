//! The server's end of one WebSocket: frames, pings, limits, and the end with its code. It does not know what messages mean.
//!
//! What is sent is gathered, written in one go and flushed once. While the client takes no more, it is still read from: its
//! pings are answered, and what it wants no more it can say.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Sink, SinkExt, Stream};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as WsError, Message, Utf8Bytes};
use uuid::Uuid;

use super::allowance::Allowance;
use super::counted::CountedStream;
use super::frames::FrameMeter;
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

/// Read from the socket in one go. It is allocated for each connection, idle or not.
const READ_BYTES: usize = 1024;

/// Pings whose answers may wait for a client that does not read; then it is not read from either.
const WAITING_PONGS_MAX: usize = 64;

/// A WebSocket whose other end is a client.
#[derive(Debug)]
pub struct ClientSocket {
    stream: WebSocketStream<CountedStream>,
    limits: SocketLimits,
    /// When to look for signs of life.
    watch: Interval,
    /// Messages were gathered, and the socket has not taken all of them.
    is_unflushed: bool,
    /// Pings answered since the socket last took everything.
    waiting_pongs: usize,
    pings: Allowance,
    reading: Reading,
    heard_at: Instant,
    pinged_at: Instant,
    /// What the socket had taken when it was last seen to take something, and when that was.
    progress: (u64, Instant),
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
    /// Everything that was sent was taken.
    Flushed,
    /// A binary message.
    Binary(Bytes),
    /// A text message.
    Text(Utf8Bytes),
    /// Nothing more, for this reason; `None` when the client has left, so that there is nobody to tell.
    End(Option<CloseReason>),
}

/// The client is gone.
#[derive(Clone, Copy, Debug)]
pub struct Gone;

impl ClientSocket {
    /// Takes over `stream` behind the handshake; `already_read` came with it.
    pub async fn open(stream: TcpStream, already_read: Vec<u8>, limits: SocketLimits) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BYTES)
            // Whoever sends bounds what is gathered.
            .write_buffer_size(usize::MAX / 2)
            .max_write_buffer_size(usize::MAX)
            .max_message_size(Some(limits.message_bytes))
            .max_frame_size(Some(limits.message_bytes));
        let mut frames = FrameMeter::new(limits.message_fragments);
        frames.take(&already_read);
        let stream = CountedStream::new(stream, frames);
        let stream = WebSocketStream::from_partially_read(stream, already_read, Role::Server, Some(config)).await;
        let now = Instant::now();
        Self {
            stream,
            limits,
            watch: watch_timer(&limits),
            is_unflushed: false,
            waiting_pongs: 0,
            pings: Allowance::per_second(limits.pings_per_second, now),
            reading: Reading::Since(now),
            heard_at: now,
            pinged_at: now,
            progress: (0, now),
        }
    }

    /// Whether the client has not taken all that was sent.
    pub fn is_unflushed(&self) -> bool {
        self.is_unflushed
    }

    /// Puts a message to what goes out with the next write. Send no more than fits into one while it is not flushed.
    pub fn send(&mut self, message: Message) -> Result<(), Gone> {
        self.expect_progress();
        Pin::new(&mut self.stream).start_send(message).map_err(|_| Gone)
    }

    /// What happens next; the client is read from only if `may_read`. Cancel-safe: it completes or has taken nothing.
    pub async fn next(&mut self, may_read: bool) -> FromSocket {
        std::future::poll_fn(|context| self.poll(context, may_read)).await
    }

    /// Waits until the client has taken everything.
    pub async fn flush(&mut self) -> Result<(), Gone> {
        self.stream.flush().await.map_err(|_| Gone)
    }

    /// Tells the client why the connection ends, and gives it a moment to hear that.
    pub async fn close(mut self, reason: CloseReason) {
        let _ = tokio::time::timeout(self.limits.close_timeout, self.close_handshake(reason)).await;
    }

    fn poll(&mut self, context: &mut Context<'_>, may_read: bool) -> Poll<FromSocket> {
        loop {
            if self.is_unflushed
                && let Poll::Ready(result) = Pin::new(&mut self.stream).poll_flush(context)
            {
                self.is_unflushed = false;
                self.waiting_pongs = 0;
                return Poll::Ready(if result.is_ok() { FromSocket::Flushed } else { FromSocket::End(None) });
            }
            let is_reading = may_read && self.waiting_pongs < WAITING_PONGS_MAX;
            self.note_reading(is_reading);
            if is_reading && let Poll::Ready(message) = Pin::new(&mut self.stream).poll_next(context) {
                let Some(message) = message else { return Poll::Ready(FromSocket::End(None)) };
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
            // The library has its answer to a ping ready; it goes out with the next flush.
            Ok(Message::Ping(_)) => {
                self.expect_progress();
                self.waiting_pongs += 1;
                None
            }
            Ok(Message::Pong(_) | Message::Frame(_)) => None,
            Ok(Message::Close(_)) => Some(FromSocket::End(Some(CloseReason::Asked))),
            Err(_) if self.stream.get_ref().frames().is_exceeded() => {
                Some(FromSocket::End(Some(CloseReason::TooManyFragments)))
            }
            Err(error) => Some(FromSocket::End(protocol_reason(&error))),
        }
    }

    /// From now on there is something for the client; how long it takes nothing of it counts from here.
    fn expect_progress(&mut self) {
        if !self.is_unflushed {
            self.is_unflushed = true;
            self.progress = (self.stream.get_ref().written(), Instant::now());
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
        if self.is_unflushed {
            // The socket is full: the client may be alive and busy, and cannot see a ping before it has read the rest.
            let written = self.stream.get_ref().written();
            if written > self.progress.0 {
                self.progress = (written, Instant::now());
            }
            return (self.progress.1.elapsed() >= limits.stall_timeout).then_some(CloseReason::Stalled);
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
        let _ = self.send(Message::Ping(Bytes::new()));
        None
    }

    /// Sends the close frame, then reads on until the client has left: a socket closed with bytes unread would reset the
    /// connection, and the client would never see the frame.
    async fn close_handshake(&mut self, reason: CloseReason) {
        // Answers to pings that wait are due before the close frame; nothing may come behind it.
        if self.flush().await.is_err() {
            return;
        }
        if reason != CloseReason::Asked {
            let close = reason.close();
            let frame = CloseFrame { code: CloseCode::from(close.code), reason: close.text.into() };
            if self.send(Message::Close(Some(frame))).is_err() {
                return;
            }
        }
        if self.flush().await.is_err() {
            return;
        }
        let stream = self.stream.get_mut().stream();
        let _ = tokio::io::AsyncWriteExt::shutdown(stream).await;
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
