//! How many tables are followed: the canary is sent only while there are some.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// How many tables are followed.
#[derive(Debug, Default)]
pub(super) struct Attached {
    count: AtomicUsize,
    changed: Notify,
}

impl Attached {
    pub(super) fn add(&self) {
        self.count.fetch_add(1, Ordering::AcqRel);
        self.changed.notify_one();
    }

    pub(super) fn remove(&self) {
        self.count.fetch_sub(1, Ordering::AcqRel);
        self.changed.notify_one();
    }

    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Waits until some are.
    pub(super) async fn some(&self) {
        while self.count() == 0 {
            self.changed.notified().await;
        }
    }

    /// Waits until none is.
    pub(super) async fn none(&self) {
        while self.count() > 0 {
            self.changed.notified().await;
        }
    }
}
