//! Adapters between sockets and sessions. Nothing below here knows a socket.

mod allowance;
mod counted;
mod frames;
pub mod http;
pub mod socket;
pub mod websocket;

use std::sync::Arc;

use tokio::sync::Notify;

use crate::feed::Outlet;

/// Wakes the task of a connection when its outbox is no longer empty.
#[derive(Debug, Default)]
pub struct WakeTask(Notify);

impl WakeTask {
    /// A bell for one task.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Waits until it was rung since the last wait.
    pub async fn woken(&self) {
        self.0.notified().await;
    }
}

impl Outlet for WakeTask {
    fn ready(&self) {
        self.0.notify_one();
    }
}

#[cfg(test)]
mod concurrency;
