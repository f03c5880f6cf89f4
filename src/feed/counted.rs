//! Bytes that are held to be sent.

use std::sync::Arc;

use super::Waiting;

/// Bytes that are counted among all that waits, until this is dropped.
#[derive(Debug)]
pub struct Counted {
    bytes: usize,
    waiting: Arc<Waiting>,
}

impl Counted {
    /// Counts `bytes` from now on.
    pub fn new(bytes: usize, waiting: &Arc<Waiting>) -> Self {
        waiting.add(bytes);
        Self { bytes, waiting: Arc::clone(waiting) }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.waiting.remove(self.bytes);
    }
}
