//! How the rows of a table stand to those of the source that they come from, and who waits for that to change.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::{Outbox, SubscriptionId};
use crate::change::{Seq, Table};
use crate::planted::PlantedBug;

/// How the rows of a table stand to those of the source that they come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceState {
    /// Nobody knows yet: who subscribes waits.
    Unread {
        /// Why that takes longer than it should.
        doubt: Option<SourceDoubt>,
    },
    /// They are those of the source, but for what is on its way.
    Level,
    /// They are what the source had some time ago.
    InDoubt(SourceDoubt),
}

impl SourceState {
    /// What clients are to be told of it.
    pub fn doubt(self) -> Option<SourceDoubt> {
        match self {
            Self::Unread { doubt } => doubt,
            Self::Level => None,
            Self::InDoubt(doubt) => Some(doubt),
        }
    }
}

/// Why rows may differ from those of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SourceDoubt {
    /// There is no connection to it.
    Unreachable,
    /// Nothing was heard from it for too long.
    Silent,
    /// It has ended the feed, as when a table moves to another server or is dropped.
    Aborted,
    /// It has thrown changes away.
    Overflow,
    /// What it said is not understood.
    Protocol,
    /// It does not allow to read the table.
    Refused,
    /// What it said cannot be stored here.
    Storage,
}

impl SourceDoubt {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Unreachable, Self::Silent, Self::Aborted, Self::Overflow, Self::Protocol, Self::Refused, Self::Storage];

    /// What it says to the client.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Unreachable => "the database cannot be reached; what you hold is what it had before, LIVE follows",
            Self::Silent => "the database does not answer; what you hold is what it had before, LIVE follows",
            Self::Aborted => "the database has ended the changefeed; the table is read again, LIVE follows",
            Self::Overflow => "the database has dropped changes; the table is read again, LIVE follows",
            Self::Protocol => "the database was not understood; the table is read again, LIVE follows",
            Self::Refused => "the database does not allow to read the table; what you hold is what it had before",
            Self::Storage => "changes cannot be stored on this server; what you hold is older than the database",
        }
    }

    /// Its name in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Silent => "silent",
            Self::Aborted => "aborted",
            Self::Overflow => "overflow",
            Self::Protocol => "protocol",
            Self::Refused => "refused",
            Self::Storage => "storage",
        }
    }
}

/// Learns which tables have subscribers: only those are followed in the source.
pub trait Demand: fmt::Debug + Send + Sync {
    /// `table` has got its first subscriber, or lost its last one. It must neither wait nor call back.
    fn changed(&self, table: &Table);
}

/// Where a feed stands to its source.
pub(super) struct FeedSource {
    pub(super) state: SourceState,
    pub(super) subscribers: usize,
    /// The newest change when the table was last read from its source: whoever came before that saw something older.
    pub(super) read_at: Seq,
    waiting: BTreeMap<SubscriptionId, Arc<Outbox>>,
}

impl FeedSource {
    pub(super) fn new(state: SourceState) -> Self {
        Self { state, subscribers: 0, read_at: Seq::ZERO, waiting: BTreeMap::new() }
    }

    /// Has the subscription told when the state is another one, if it has to wait for that.
    pub(super) fn enter(&mut self, subscription: SubscriptionId, outbox: &Arc<Outbox>) -> SourceState {
        if matches!(self.state, SourceState::Unread { .. }) {
            self.waiting.insert(subscription, Arc::clone(outbox));
        }
        self.state
    }

    /// Sets the state, when the newest change is `published`, and tells those that wait; returns whether it was another one.
    pub(super) fn set(&mut self, state: SourceState, published: Seq) -> bool {
        if self.state == state {
            return false;
        }
        if matches!(self.state, SourceState::Unread { .. }) {
            self.read_at = published;
        }
        self.state = state;
        for (subscription, outbox) in &self.waiting {
            if PlantedBug::WaitingSubscribersAreForgotten.is_planted() {
                break;
            }
            outbox.tell_source(*subscription, state);
        }
        if !matches!(state, SourceState::Unread { .. }) {
            self.waiting.clear();
        }
        true
    }

    pub(super) fn leave(&mut self, subscription: SubscriptionId) {
        self.subscribers -= 1;
        self.waiting.remove(&subscription);
    }
}
