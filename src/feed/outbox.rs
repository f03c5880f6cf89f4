//! What waits for one connection: bounded in bytes, and never dropped in silence.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};

use super::sync::{Mutex, MutexGuard};
use super::{SourceState, SubscriptionId, ViewChange};
use crate::change::Seq;
use crate::planted::PlantedBug;
use crate::summary::Summary;

/// How an outbox reaches its connection.
pub trait Outlet: Send + Sync {
    /// Something waits in an outbox that was empty. Called by publishers: it must neither wait nor call back.
    fn ready(&self);
}

/// The bytes that wait for all connections together.
#[derive(Debug)]
pub struct Waiting {
    bytes: AtomicUsize,
    bytes_max: usize,
}

impl Waiting {
    /// Room for `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { bytes: AtomicUsize::new(0), bytes_max })
    }

    /// The bytes that wait.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The bytes that there still is room for.
    pub fn room(&self) -> usize {
        self.bytes_max.saturating_sub(self.bytes())
    }

    /// Counts bytes that wait from now on. They are counted where they cannot be refused, too.
    pub fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes that wait no more.
    pub fn remove(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
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
        change: Arc<ViewChange>,
    },
    /// The subscription's changes after `after` did not fit: it is behind and has to catch up from there.
    FellBehind {
        /// Which one.
        subscription: SubscriptionId,
        /// It was handed everything of its view up to here.
        after: Seq,
    },
    /// The subscription was handed everything up to `at`, as it had asked to be told.
    Mark {
        /// Which one.
        subscription: SubscriptionId,
        /// The place.
        at: Seq,
        /// Its view there.
        summary: Summary,
    },
    /// The table of the subscription stands otherwise to its source.
    Source {
        /// Which one.
        subscription: SubscriptionId,
        /// How.
        state: SourceState,
    },
}

/// What waits for one connection, of all its subscriptions, in the order of publishing.
pub struct Outbox {
    state: Mutex<OutboxState>,
    bytes_max: usize,
    waiting: Arc<Waiting>,
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
    /// An empty outbox for at most `bytes_max` bytes of changes, fewer while little room is left for all together.
    pub fn new(bytes_max: usize, waiting: Arc<Waiting>, outlet: Arc<dyn Outlet>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), bytes_max, waiting, outlet })
    }

    /// Hands over the changes of `batch` that follow `after`, as many as fit.
    pub(super) fn push(&self, subscription: SubscriptionId, after: Seq, batch: &[Arc<ViewChange>]) -> Pushed {
        if PlantedBug::WakesBeforeThereIsSomething.is_planted() {
            self.outlet.ready();
        }
        let mut state = self.lock();
        let was_empty = state.queue.is_empty();
        let before = state.bytes;
        let bytes_max = self.bytes_max.min(before.saturating_add(self.waiting.room()));
        let mut pushed = Pushed::All;
        for change in batch {
            let published = change.published();
            if published.seq() <= after && !PlantedBug::LiveRepeatsReplayedChanges.is_planted() {
                continue;
            }
            let size = published.size();
            // A change larger than the outbox still goes when nothing else waits.
            if state.bytes + size > bytes_max && !state.queue.is_empty() {
                if PlantedBug::FullOutboxDropsSilently.is_planted() {
                    continue;
                }
                let skipped = u64::from(!PlantedBug::OverflowSkipsOneChange.is_planted());
                let after = Seq(published.seq().0 - skipped);
                state.queue.push_back(Delivery::FellBehind { subscription, after });
                pushed = Pushed::Overflowed;
                break;
            }
            state.bytes += size;
            state.queue.push_back(Delivery::Change { subscription, change: Arc::clone(change) });
        }
        self.waiting.add(state.bytes - before);
        let is_ready = was_empty && !state.queue.is_empty();
        drop(state);
        if is_ready && !PlantedBug::WakesBeforeThereIsSomething.is_planted() {
            self.outlet.ready();
        }
        pushed
    }

    /// Behind everything that waits, says where the subscription is then. The connection is not told that something waits: it
    /// is the one that asks, and looks next.
    pub(super) fn mark(&self, subscription: SubscriptionId, at: Seq, summary: Summary) {
        let mark = Delivery::Mark { subscription, at, summary };
        let mut state = self.lock();
        if PlantedBug::MarkOvertakesChanges.is_planted() {
            state.queue.push_front(mark);
        } else {
            state.queue.push_back(mark);
        }
    }

    /// Behind everything that waits, says how the table of the subscription stands to its source then. Only the newest word of
    /// it is kept.
    pub(super) fn tell_source(&self, subscription: SubscriptionId, source: SourceState) {
        let mut state = self.lock();
        let is_older =
            |delivery: &Delivery| matches!(delivery, Delivery::Source { subscription: of, .. } if *of == subscription);
        state.queue.retain(|delivery| !is_older(delivery));
        let was_empty = state.queue.is_empty();
        state.queue.push_back(Delivery::Source { subscription, state: source });
        drop(state);
        if was_empty {
            self.outlet.ready();
        }
    }

    /// Takes what waits, up to about `bytes_max`, to the end of `taken`.
    pub fn take(&self, bytes_max: usize, taken: &mut VecDeque<Delivery>) {
        let mut state = self.lock();
        let mut bytes = 0;
        while bytes < bytes_max {
            let Some(delivery) = state.queue.pop_front() else { break };
            if let Delivery::Change { change, .. } = &delivery {
                bytes += change.published().size();
            }
            taken.push_back(delivery);
        }
        state.bytes -= bytes;
        if bytes > 0 {
            self.waiting.remove(bytes);
        }
        if state.queue.is_empty() && state.queue.capacity() > KEPT_CAPACITY {
            state.queue = VecDeque::new();
        }
    }

    /// What waits for all connections together.
    pub fn waiting(&self) -> &Arc<Waiting> {
        &self.waiting
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

impl Drop for Outbox {
    fn drop(&mut self) {
        self.waiting.remove(self.bytes());
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Outbox({} bytes)", self.bytes())
    }
}
