//! Why the database did not do what it was asked.

/// Why the database did not do what it was asked. Everyone who waits for a connection is told the same when it ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReqlError {
    /// There is no connection to it.
    #[error("the database cannot be reached: {0}; try again in a moment")]
    Unreachable(String),
    /// It does not let this user in. Trying again does not help.
    #[error("the database refuses the login: {0}; check the user of the source and its password")]
    Login(String),
    /// What came is not what a RethinkDB says.
    #[error("the answer of the database is not understood: {0}; is that a RethinkDB 2.3 or newer?")]
    Protocol(String),
    /// The connection ended while something was asked for.
    #[error("the connection to the database was lost: {0}; try again in a moment")]
    Lost(String),
    /// Nothing was heard from it for too long.
    #[error("the database does not answer; try again in a moment")]
    Silent,
    /// One query took too long.
    #[error("the database did not answer within {0} s; try again in a moment")]
    Timeout(u64),
    /// It answered that it cannot.
    #[error("the database answers: {text}")]
    Refused {
        /// What kind of refusal it is.
        kind: Refusal,
        /// In its own words.
        text: String,
    },
    /// The rows of an answer would be larger than what is allowed.
    #[error("the answer would be larger than {0} bytes: ask for fewer rows at a time")]
    AnswerTooBig(usize),
    /// starfeed stops.
    #[error("the server is shutting down")]
    Stopped,
}

/// What kind of refusal an answer is, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The user may not do that.
    Permission,
    /// It cannot be done now: no primary replica, a table that moves, or that is not there.
    Unavailable,
    /// Whether it was done is not known.
    Indeterminate,
    /// Anything else.
    Other,
}

impl Refusal {
    /// Of an error of this type, as `ql2.proto` numbers them.
    pub(super) fn of(error_type: Option<u32>) -> Self {
        match error_type {
            Some(4_100_000) => Self::Unavailable,
            Some(4_200_000) => Self::Indeterminate,
            Some(6_000_000) => Self::Permission,
            _ => Self::Other,
        }
    }
}

impl ReqlError {
    /// An answer was not understood.
    pub(crate) fn protocol(what: impl Into<String>) -> Self {
        Self::Protocol(what.into())
    }

    /// Whether the same may succeed later, without anybody doing anything about it here.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Lost(_) | Self::Silent | Self::Timeout(_) => true,
            Self::Refused { kind, .. } => matches!(kind, Refusal::Unavailable | Refusal::Indeterminate),
            Self::Login(_) | Self::Protocol(_) | Self::AnswerTooBig(_) | Self::Stopped => false,
        }
    }
}
