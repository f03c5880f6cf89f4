//! The stream that the WebSocket library has: it reads from the client and follows the frames that come; what the library
//! writes, which is answers to pings, goes the way of everything else.
//!
//! The library keeps a buffer for each connection. So that this may be small, and reading still quick, bytes are read into
//! one that the connections of a thread share, and only what the library does not take at once is kept.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::tcp::OwnedReadHalf;

use super::frames::FrameMeter;
use super::outgoing::Outgoing;

/// Read from a client in one go.
const READ_BYTES: usize = 16 * 1024;

thread_local! {
    static READ: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What is read from a client, the frames in it, and the way back.
#[derive(Debug)]
pub(super) struct CountedStream {
    stream: OwnedReadHalf,
    /// Read, and not taken by the library, from `taken` on.
    rest: Vec<u8>,
    taken: usize,
    outgoing: Arc<Outgoing>,
    frames: FrameMeter,
}

impl CountedStream {
    pub(super) fn new(stream: OwnedReadHalf, outgoing: Arc<Outgoing>, frames: FrameMeter) -> Self {
        Self { stream, rest: Vec::new(), taken: 0, outgoing, frames }
    }

    /// The frames that were read so far.
    pub(super) fn frames(&self) -> &FrameMeter {
        &self.frames
    }

    /// The stream itself, to read what is no matter any more.
    pub(super) fn stream(&mut self) -> &mut OwnedReadHalf {
        &mut self.stream
    }
}

impl CountedStream {
    /// Reads what there is; what has no room in `buf` is kept.
    fn poll_fill(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        READ.with_borrow_mut(|bytes| {
            bytes.resize(READ_BYTES, 0);
            let mut read = ReadBuf::new(bytes);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
            let (now, later) = read.filled().split_at(read.filled().len().min(buf.remaining()));
            buf.put_slice(now);
            self.rest = later.to_vec();
            self.taken = 0;
            Poll::Ready(Ok(()))
        })
    }

    fn take_from_rest(&mut self, buf: &mut ReadBuf<'_>) {
        let rest = &self.rest[self.taken..];
        let count = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..count]);
        self.taken += count;
        if self.taken == self.rest.len() {
            self.rest = Vec::new();
            self.taken = 0;
        }
    }
}

impl AsyncRead for CountedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // Only here: what was read before may end the connection for a better reason.
        if self.frames.is_exceeded() {
            return Poll::Ready(Err(io::Error::other("a message in too many fragments")));
        }
        let before = buf.filled().len();
        if self.rest.is_empty() {
            ready!(self.poll_fill(cx, buf))?;
        } else {
            self.take_from_rest(buf);
        }
        self.frames.take(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for CountedStream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        // Taken as a whole: nobody's frame gets into the middle of another one.
        Poll::Ready(self.outgoing.send(buf).map(|_| buf.len()).map_err(gone))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outgoing.poll_shutdown(cx).map(Ok)
    }
}
