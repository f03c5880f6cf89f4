//! A socket that counts what it took, so that a client that reads slowly is told from one that does not read, and that
//! follows the frames that come.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::frames::FrameMeter;

/// A TCP stream, the bytes that were written to it, and the frames that are read from it.
#[derive(Debug)]
pub(super) struct CountedStream {
    stream: TcpStream,
    written: u64,
    frames: FrameMeter,
}

impl CountedStream {
    pub(super) fn new(stream: TcpStream, frames: FrameMeter) -> Self {
        Self { stream, written: 0, frames }
    }

    /// The frames that were read so far.
    pub(super) fn frames(&self) -> &FrameMeter {
        &self.frames
    }

    /// The stream itself, to read what is no matter any more.
    pub(super) fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Bytes that the system has taken so far.
    pub(super) fn written(&self) -> u64 {
        self.written
    }
}

impl AsyncRead for CountedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // Only here: what was read before may end the connection for a better reason.
        if self.frames.is_exceeded() {
            return Poll::Ready(Err(io::Error::other("a message in too many fragments")));
        }
        let Self { stream, frames, .. } = &mut *self;
        let before = buf.filled().len();
        ready!(Pin::new(stream).poll_read(cx, buf))?;
        frames.take(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for CountedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
        self.written += written as u64;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
