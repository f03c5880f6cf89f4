//! What a subscriber has lived through.

use super::Divergence;

/// How often what happened, over all subscriptions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Divergences: events that were lost.
    pub missing: u64,
    /// Divergences: events that came twice, or late.
    pub repeated: u64,
    /// Divergences: versions that went back.
    pub versions: u64,
    /// Divergences: changes of rows that are not held, and additions of rows that are.
    pub rows: u64,
    /// Divergences: a count or digest that is not that of the rows held.
    pub summaries: u64,
    /// Divergences: events that make no sense, or not where they came.
    pub senseless: u64,
    /// Connections given up because a heartbeat did not come.
    pub silences: u64,
    /// Subscriptions that went on with a token.
    pub resumes: u64,
    /// Subscriptions that began without one, the first ones included.
    pub fresh: u64,
    /// Tokens that the server took for forged.
    pub tokens_refused: u64,
    /// RESETs by the server.
    pub resets: u64,
    /// Subscriptions that the server ended, or did not make again at once.
    pub closed: u64,
    /// Connections made after one was lost.
    pub reconnects: u64,
}

impl Counters {
    /// Divergences of all kinds.
    pub fn divergences(&self) -> u64 {
        self.missing + self.repeated + self.versions + self.rows + self.summaries + self.senseless
    }

    pub(super) fn count(&mut self, divergence: &Divergence) {
        let counter = match divergence {
            Divergence::Missing { .. } => &mut self.missing,
            Divergence::Repeated { .. } => &mut self.repeated,
            Divergence::VersionBack { .. } => &mut self.versions,
            Divergence::UnknownRow(_) | Divergence::DuplicateRow(_) => &mut self.rows,
            Divergence::WrongCount { .. } | Divergence::WrongDigest { .. } => &mut self.summaries,
            Divergence::Unnumbered | Divergence::Undecodable(_) | Divergence::OutOfPlace(_) => &mut self.senseless,
        };
        *counter += 1;
    }
}
