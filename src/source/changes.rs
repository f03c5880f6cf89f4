//! Waking up those who read a part of a table again whenever something may have changed in it.

use tokio::sync::watch;

use crate::planted::PlantedBug;

/// Tells when something in a part of an index may have changed.
///
/// Whoever waits, reads, waits again, and so on, misses nothing, and reads once at least for any number of changes.
#[derive(Debug)]
pub struct Changes {
    is_open: watch::Receiver<bool>,
}

impl Changes {
    /// Whoever holds the other end sends whether changes are noticed, and sends it again whenever there are some.
    pub(crate) fn of(mut is_open: watch::Receiver<bool>) -> Self {
        if *is_open.borrow() && !PlantedBug::BellsBeginSilent.is_planted() {
            is_open.mark_changed();
        }
        Self { is_open }
    }

    /// Waits until something may have changed since the last time; the first time, until changes are noticed.
    ///
    /// While they cannot be noticed it ends every few seconds. Cancel-safe.
    pub async fn next(&mut self) {
        if self.is_open.changed().await.is_err() {
            // The source has ended, and with it whatever could change.
            std::future::pending::<()>().await;
        }
    }
}
