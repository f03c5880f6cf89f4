//! Bytes that a session holds to send them.

use std::sync::Arc;

use crate::feed::Waiting;

/// Bytes that are counted among all that waits, until this is dropped.
#[derive(Debug)]
pub(super) struct Counted {
    bytes: usize,
    waiting: Arc<Waiting>,
}

impl Counted {
    pub(super) fn new(bytes: usize, waiting: &Arc<Waiting>) -> Self {
        waiting.add(bytes);
        Self { bytes, waiting: Arc::clone(waiting) }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.waiting.remove(self.bytes);
    }
}
