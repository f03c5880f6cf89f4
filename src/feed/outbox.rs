//! What waits for one connection: bounded in bytes, and never dropped in silence.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Published, SubscriptionId};
use crate::change::Seq;
use crate::planted::PlantedBug;

/// How an outbox reaches its connection.
pub trait Outlet: Send + Sync {
    /// Something waits in an outbox that was empty. Called by publishers: it must neither wait nor call back.
    fn ready(&self);
}

/// Room for as many deliveries is kept by an empty queue; what a burst took beyond that is given back.
const KEPT_CAPACITY: usize = 128;

/// One thing that waits for a connection.
#[derive(Clone, Debug)]
pub enum Delivery {
    /// A change for a subscription.
    Change {
        /// For whom.
        subscription: SubscriptionId,
        /// What.
        published: Arc<Published>,
    },
    /// The subscription's changes after `after` did not fit: it is behind and has to catch up from there.
    FellBehind {
        /// Which one.
        subscription: SubscriptionId,
        /// The last change that it was handed.
        after: Seq,
    },
}

/// What waits for one connection, of all its subscriptions, in the order of publishing.
pub struct Outbox {
    state: Mutex<OutboxState>,
    bytes_max: usize,
    outlet: Arc<dyn Outlet>,
}

#[derive(Debug, Default)]
struct OutboxState {
    queue: VecDeque<Delivery>,
    bytes: usize,
}

/// Whether all of a batch was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    All,
    /// The rest did not fit; the connection was told that the subscription is behind.
    Overflowed,
}

impl Outbox {
    /// An empty outbox for at most `bytes_max` bytes of changes.
    pub fn new(bytes_max: usize, outlet: Arc<dyn Outlet>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), bytes_max, outlet })
    }

    /// Hands over the changes of `batch` that follow `after`, as many as fit.
    pub(super) fn push(&self, subscription: SubscriptionId, mut after: Seq, batch: &[Arc<Published>]) -> Pushed {
        let mut state = self.lock();
        let was_empty = state.queue.is_empty();
        let mut pushed = Pushed::All;
        for published in batch {
            if published.seq() <= after && !PlantedBug::LiveRepeatsReplayedChanges.is_planted() {
                continue;
            }
            let size = published.size();
            // A change larger than the outbox still goes when nothing else waits.
            if state.bytes + size > self.bytes_max && !state.queue.is_empty() {
                if PlantedBug::FullOutboxDropsSilently.is_planted() {
                    continue;
                }
                if PlantedBug::OverflowSkipsOneChange.is_planted() {
                    after = published.seq();
                }
                state.queue.push_back(Delivery::FellBehind { subscription, after });
                pushed = Pushed::Overflowed;
                break;
            }
            state.bytes += size;
            after = published.seq();
            state.queue.push_back(Delivery::Change { subscription, published: Arc::clone(published) });
        }
        let is_ready = was_empty && !state.queue.is_empty();
        drop(state);
        if is_ready {
            self.outlet.ready();
        }
        pushed
    }

    /// Takes what waits, up to about `bytes_max`, to the end of `taken`.
    pub fn take(&self, bytes_max: usize, taken: &mut VecDeque<Delivery>) {
        let mut state = self.lock();
        let mut bytes = 0;
        while bytes < bytes_max {
            let Some(delivery) = state.queue.pop_front() else { break };
            if let Delivery::Change { published, .. } = &delivery {
                bytes += published.size();
            }
            taken.push_back(delivery);
        }
        state.bytes -= bytes;
        if state.queue.is_empty() && state.queue.capacity() > KEPT_CAPACITY {
            state.queue = VecDeque::new();
        }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.lock().queue.is_empty()
    }

    /// The bytes that wait.
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    fn lock(&self) -> MutexGuard<'_, OutboxState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Outbox({} bytes)", self.bytes())
    }
}
