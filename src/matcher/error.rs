//! Why a text is no filter.

use thiserror::Error;

/// A text is no filter, or one that would cost too much.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("invalid_filter at {position}: {message}")]
pub struct FilterError {
    /// Where in the text, in bytes; at most its length.
    pub position: usize,
    /// What is wrong and what to do. It repeats at most a few characters of the text.
    pub message: String,
}

impl FilterError {
    pub(super) fn new(position: usize, message: impl Into<String>) -> Self {
        Self { position, message: message.into() }
    }
}
