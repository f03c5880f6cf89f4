//! The bytes of one connection, with what goes wrong with bytes.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::fault::Faults;
use super::shared::Shared;
use super::world::ConnectionId;

/// After so many pieces the reader has seen enough of them one by one.
const PIECES_APART: usize = 40;

pub(super) struct Wire {
    pub(super) stream: TcpStream,
    pub(super) id: ConnectionId,
    pub(super) shared: Arc<Shared>,
    /// What was read and not dealt with yet.
    pub(super) heard: Vec<u8>,
    changed: watch::Receiver<u64>,
    outbox: VecDeque<(Instant, Vec<u8>)>,
}

impl Wire {
    pub(super) fn new(stream: TcpStream, id: ConnectionId, shared: Arc<Shared>) -> Self {
        let changed = shared.changes();
        Self { stream, id, shared, heard: Vec::new(), changed, outbox: VecDeque::new() }
    }

    pub(super) fn faults(&self) -> Faults {
        self.shared.look(|world| world.faults_of(self.id).clone())
    }

    /// Sends `bytes` when their time has come.
    pub(super) fn post(&mut self, bytes: Vec<u8>, delay: Duration) {
        self.outbox.push_back((Instant::now() + delay, bytes));
    }

    /// Sends what is due, in pieces of so many bytes.
    pub(super) async fn send_due(&mut self, piece_bytes: Option<usize>) -> io::Result<()> {
        while self.outbox.front().is_some_and(|(due, _)| *due <= Instant::now()) {
            let Some((_, bytes)) = self.outbox.pop_front() else { break };
            self.send(&bytes, piece_bytes).await?;
        }
        Ok(())
    }

    pub(super) async fn send(&mut self, bytes: &[u8], piece_bytes: Option<usize>) -> io::Result<()> {
        let piece_bytes = piece_bytes.unwrap_or(usize::MAX).clamp(1, bytes.len().max(1));
        for (at, piece) in bytes.chunks(piece_bytes).enumerate() {
            if (1..PIECES_APART).contains(&at) {
                sleep(Duration::from_millis(1)).await;
            }
            self.stream.write_all(piece).await?;
        }
        Ok(())
    }

    /// Waits for as long as the connection is mute.
    pub(super) async fn until_not_mute(&mut self) -> io::Result<()> {
        while self.faults().is_mute {
            self.until_something_happens(true).await?;
        }
        Ok(())
    }

    /// Waits until something was heard, something is due, or the world has changed.
    pub(super) async fn until_something_happens(&mut self, is_mute: bool) -> io::Result<()> {
        let due = self.outbox.front().map(|(due, _)| *due).filter(|_| !is_mute);
        let until_due = async {
            match due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        // Each branch can be dropped at any time without a loss; the order decides nothing.
        tokio::select! {
            biased;
            changed = self.changed.changed() => changed.map_err(|_| io::ErrorKind::UnexpectedEof.into()),
            () = until_due => Ok(()),
            read = self.stream.read_buf(&mut self.heard) => match read? {
                0 => Err(io::ErrorKind::UnexpectedEof.into()),
                _ => Ok(()),
            },
        }
    }

    /// The first so many bytes.
    pub(super) async fn take(&mut self, bytes: usize) -> io::Result<Vec<u8>> {
        while self.heard.len() < bytes {
            self.until_something_happens(true).await?;
        }
        self.until_not_mute().await?;
        Ok(self.heard.drain(..bytes).collect())
    }

    /// What comes before the next NUL.
    pub(super) async fn take_text(&mut self) -> io::Result<Vec<u8>> {
        let length = loop {
            match self.heard.iter().position(|byte| *byte == 0) {
                Some(length) => break length,
                None => self.until_something_happens(true).await?,
            }
        };
        let mut text = self.take(length + 1).await?;
        text.pop();
        Ok(text)
    }
}
