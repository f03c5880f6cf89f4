//! What goes out of one connection: written at once as far as the client takes it, and kept where it does not.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{SendFlags, send};
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::time::Instant;

/// The client is gone.
#[derive(Clone, Copy, Debug)]
pub struct Gone;

/// The writing half of a connection. Whoever has whole frames may send them, from any thread; what the client does not take
/// at once is flushed by the task of the connection.
#[derive(Debug)]
pub struct Outgoing(Mutex<OutgoingState>);

#[derive(Debug)]
struct OutgoingState {
    stream: OwnedWriteHalf,
    /// What the client has not taken, in order.
    unsent: VecDeque<Bytes>,
    /// When the client last took something, while there is something that it has not taken.
    progress_at: Instant,
}

impl Outgoing {
    pub(super) fn new(stream: OwnedWriteHalf) -> Self {
        Self(Mutex::new(OutgoingState { stream, unsent: VecDeque::new(), progress_at: Instant::now() }))
    }

    /// Sends whole frames behind what was not taken yet; says whether the client has taken all of it.
    pub fn send(&self, frames: &[u8]) -> Result<bool, Gone> {
        self.send_and_keep(frames, Bytes::copy_from_slice)
    }

    /// The same of frames that others are sent too: what is not taken at once need not be copied.
    pub fn send_shared(&self, frames: &Bytes) -> Result<bool, Gone> {
        self.send_and_keep(frames, |rest| frames.slice_ref(rest))
    }

    fn send_and_keep(&self, frames: &[u8], keep: impl FnOnce(&[u8]) -> Bytes) -> Result<bool, Gone> {
        let mut state = self.lock();
        let taken = if state.unsent.is_empty() { state.try_write(frames)? } else { 0 };
        if taken < frames.len() {
            if state.unsent.is_empty() {
                state.progress_at = Instant::now();
            }
            state.unsent.push_back(keep(&frames[taken..]));
        }
        Ok(state.unsent.is_empty())
    }

    /// Whether there is something that the client has not taken.
    pub fn is_unflushed(&self) -> bool {
        !self.lock().unsent.is_empty()
    }

    /// For how long the client has taken nothing, though there is something for it.
    pub(super) fn stalled_for(&self) -> Option<Duration> {
        let state = self.lock();
        (!state.unsent.is_empty()).then(|| state.progress_at.elapsed())
    }

    /// Ready when the client has taken everything; says whether there was something.
    pub(super) fn poll_flush(&self, context: &mut Context<'_>) -> Poll<Result<bool, Gone>> {
        let mut state = self.lock();
        let state = &mut *state;
        if state.unsent.is_empty() {
            return Poll::Ready(Ok(false));
        }
        while let Some(next) = state.unsent.front_mut() {
            let taken = ready!(Pin::new(&mut state.stream).poll_write(context, next));
            let taken = taken.ok().filter(|taken| *taken > 0).ok_or(Gone)?;
            next.advance(taken);
            if next.is_empty() {
                state.unsent.pop_front();
            }
            state.progress_at = Instant::now();
        }
        // Given back: most connections never have anything to keep.
        state.unsent = VecDeque::new();
        Poll::Ready(Ok(true))
    }

    /// Says that nothing more comes.
    pub(super) fn poll_shutdown(&self, context: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.lock().stream).poll_shutdown(context).map(|_| ())
    }

    fn lock(&self) -> MutexGuard<'_, OutgoingState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OutgoingState {
    /// The bytes that the client takes now. The socket itself is asked: what the runtime believes of it is another line of
    /// memory for each of very many connections, and it finds out by itself when the rest is flushed.
    fn try_write(&self, bytes: &[u8]) -> Result<usize, Gone> {
        let stream: &TcpStream = self.stream.as_ref();
        match retry_on_intr(|| send(stream, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)) {
            Ok(taken) => Ok(taken),
            Err(Errno::AGAIN) => Ok(0),
            Err(_) => Err(Gone),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn what_is_not_taken_at_once_is_taken_in_order() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("a connection");
        let (server, _) = listener.accept().await.expect("a connection");
        let (_reader, writer) = server.into_split();
        let outgoing = Outgoing::new(writer);
        let shared: Bytes = (0..64 << 10).map(|at: u32| (at % 251) as u8).collect();
        let (mut expected, mut sent) = (Vec::new(), 0);
        // More than the buffers of any socket.
        while !outgoing.is_unflushed() {
            sent += 1;
            assert!(sent < 10_000, "the client takes it without reading");
            let is_taken = outgoing.send_shared(&shared).expect("the client is there");
            expected.extend_from_slice(&shared);
            assert_eq!(is_taken, !outgoing.is_unflushed());
        }
        assert!(!outgoing.send(b"between").expect("the client is there"));
        assert!(!outgoing.send_shared(&shared.slice(7..)).expect("the client is there"));
        assert!(!outgoing.send(b"behind").expect("the client is there"));
        for part in [b"between", &shared[7..], b"behind"] {
            expected.extend_from_slice(part);
        }
        let mut taken = vec![0; expected.len()];
        let (mut client, flush) = (client, poll_fn(|context| outgoing.poll_flush(context)));
        let (read, flushed) = tokio::join!(client.read_exact(&mut taken), flush);
        assert_eq!((read.expect("all of it"), flushed.expect("the client is there")), (expected.len(), true));
        assert!(taken == expected && !outgoing.is_unflushed());
    }
}
