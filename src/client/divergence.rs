//! What shows that a client does not hold what it should.

use crate::change::{Key, Seq};
use crate::summary::Summary;

/// Why what was sent cannot be all there was, or cannot be right. The view it comes from is as good as before: the event
/// was not applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Divergence {
    /// Events were lost on the way.
    #[error("event {got} came where {expected} was due")]
    Missing {
        /// The number that was due.
        expected: u64,
        /// The number that came.
        got: u64,
    },
    /// An event came twice, or late.
    #[error("event {got} came again where {expected} was due")]
    Repeated {
        /// The number that was due.
        expected: u64,
        /// The number that came.
        got: u64,
    },
    /// An event has no number.
    #[error("an event came without its number")]
    Unnumbered,
    /// A change came after a newer one.
    #[error("change {got} came after change {last}")]
    VersionBack {
        /// The newest change so far.
        last: Seq,
        /// The change that came.
        got: Seq,
    },
    /// A row was changed that is not held.
    #[error("the row {0} changed, but it is not held")]
    UnknownRow(Key),
    /// A row was added that is held.
    #[error("the row {0} was added, but it is held")]
    DuplicateRow(Key),
    /// There are too many rows, or too few.
    #[error("{} rows are held where there should be {expected}", held.count)]
    WrongCount {
        /// What the server says.
        expected: u64,
        /// What is held.
        held: Summary,
    },
    /// They are other rows.
    #[error("the digest of the {} rows that are held is {:016x} where it should be {expected:016x}", held.count, held.digest)]
    WrongDigest {
        /// What the server says.
        expected: u64,
        /// What is held.
        held: Summary,
    },
    /// An event cannot be what it says.
    #[error("an event makes no sense: {0}")]
    Undecodable(&'static str),
    /// An event does not belong where it came.
    #[error("an event came out of place: {0}")]
    OutOfPlace(&'static str),
}

impl Divergence {
    /// Whether the rows themselves are wrong, so that no token helps: it would bring only what comes after them.
    pub fn is_of_rows_held(&self) -> bool {
        matches!(self, Self::WrongCount { .. } | Self::WrongDigest { .. })
    }
}
