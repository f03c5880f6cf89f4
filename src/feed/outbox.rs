//! What waits for one connection: bounded in bytes, and never dropped in silence.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use super::sync::{Mutex, MutexGuard};
use super::views::Live;
use super::{MessageKind, SourceState, SubscriptionId, ViewChange};
use crate::change::Seq;
use crate::planted::PlantedBug;
use crate::summary::Summary;

/// How an outbox reaches its connection.
pub trait Outlet: Send + Sync {
    /// Something waits in an outbox that was empty. Called under locks: it must neither wait nor call back.
    fn wake(&self);

    /// The same, called by a publisher under no lock: what waits in `outbox`, which is its own, may be taken and sent at once,
    /// by this thread, but it must not wait for anybody.
    fn deliver(&self, _outbox: &Outbox) {
        self.wake();
    }

    /// Reads a little of what [`Outlet::deliver`] needs, which is about to be called, so that it is in the caches then; what it
    /// returns says nothing.
    fn ask_for_memory(&self) -> usize {
        0
    }
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

    /// The bytes that there is room for of pages for those that are behind. They may take half of all: otherwise those that
    /// catch up would leave no room for those that are live, and make them fall behind as well.
    pub fn room_for_pages(&self) -> usize {
        (self.bytes_max / 2).saturating_sub(self.bytes())
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
const KEPT_CAPACITY: usize = 8;

/// One thing that waits for a connection.
#[derive(Clone, Debug)]
pub enum Delivery {
    /// Changes for a subscription.
    Changes {
        /// For whom.
        subscription: SubscriptionId,
        /// What.
        changes: ViewChanges,
        /// All that the subscriber gets of them is a message of this kind each, if that is all it gets.
        plain: Option<MessageKind>,
    },
    /// The subscription's changes after `after` did not fit: it is behind and has to catch up from there.
    FellBehind {
        /// Which one.
        subscription: SubscriptionId,
        /// It was handed everything of its view up to here.
        after: Seq,
        /// Its view there.
        summary: Summary,
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

/// To keep a message costs about as much as to put a few together from their pieces.
const MANY_SUBSCRIBERS: usize = if cfg!(test) { 1 } else { 8 };

/// What tells batches apart, for whoever made something of one and has another one before him.
static NEXT_BATCH: AtomicU64 = AtomicU64::new(0);

/// Changes of one view that were published together, or some of them in a row; shared by all subscribers of the view.
#[derive(Clone, Debug)]
pub struct ViewChanges {
    id: u64,
    batch: Batch,
    range: Range<usize>,
    /// Bytes of those in the range.
    bytes: usize,
    has_many_subscribers: bool,
}

/// Behind most filters there is one change at a time, which needs no list.
#[derive(Clone, Debug)]
enum Batch {
    One(Arc<ViewChange>),
    Several(Arc<[Arc<ViewChange>]>),
}

impl Batch {
    fn changes(&self) -> &[Arc<ViewChange>] {
        match self {
            Self::One(change) => std::slice::from_ref(change),
            Self::Several(changes) => changes,
        }
    }
}

impl ViewChanges {
    /// Takes all of `changes`, which are not none, and leaves their room.
    pub(crate) fn new(changes: &mut Vec<Arc<ViewChange>>, subscribers: usize) -> Self {
        let (range, bytes) = (0..changes.len(), changes.iter().map(|change| change.published().size()).sum());
        let id = NEXT_BATCH.fetch_add(1, Ordering::Relaxed);
        let last = changes.pop().expect("a batch has changes");
        let batch = if changes.is_empty() {
            Batch::One(last)
        } else {
            changes.push(last);
            Batch::Several(changes.drain(..).collect())
        };
        Self { id, batch, range, bytes, has_many_subscribers: subscribers >= MANY_SUBSCRIBERS }
    }

    /// Equal for equal changes, and for no others.
    pub fn identity(&self) -> (u64, usize, usize) {
        (self.id, self.range.start, self.range.end)
    }

    /// Whether it pays to keep whole messages for the next subscriber.
    pub fn has_many_subscribers(&self) -> bool {
        self.has_many_subscribers
    }

    /// Those that are left, oldest first.
    pub fn left(&self) -> &[Arc<ViewChange>] {
        &self.batch.changes()[self.range.clone()]
    }

    /// When the oldest of them was committed, if that was just before it was published.
    pub fn committed(&self) -> Option<Instant> {
        self.left().first().and_then(|first| first.published().committed())
    }

    /// The newest of them.
    pub(super) fn head(&self) -> Seq {
        self.left().last().map_or(Seq::ZERO, |last| last.published().seq())
    }

    /// Those that follow `after`.
    fn behind(&self, after: Seq) -> Self {
        if self.left().first().is_none_or(|first| first.published().seq() > after) {
            return self.clone();
        }
        let mut rest = self.clone();
        let passed = rest.left().partition_point(|change| change.published().seq() <= after);
        rest.split_off_front(passed);
        rest
    }

    /// Takes the first `count`.
    fn split_off_front(&mut self, count: usize) -> Self {
        let middle = self.range.start + count;
        let front = Self { batch: self.batch.clone(), range: self.range.start..middle, bytes: 0, ..*self };
        let bytes = front.left().iter().map(|change| change.published().size()).sum();
        self.range.start = middle;
        self.bytes -= bytes;
        Self { bytes, ..front }
    }

    /// How many from the first on are wanted for about `bytes_max` bytes: as many as begin before they are reached.
    fn begun_within(&self, bytes_max: usize) -> usize {
        let begins = self.left().iter().scan(0, |bytes, change| {
            let begin = *bytes;
            *bytes += change.published().size();
            Some(begin)
        });
        begins.take_while(|begin| *begin < bytes_max).count()
    }

    /// How many from the first on have room in `bytes_max` bytes.
    fn ended_within(&self, bytes_max: usize) -> usize {
        let ends = self.left().iter().scan(0, |bytes, change| {
            *bytes += change.published().size();
            Some(*bytes)
        });
        ends.take_while(|end| *end <= bytes_max).count()
    }
}

impl Iterator for ViewChanges {
    type Item = Arc<ViewChange>;

    fn next(&mut self) -> Option<Arc<ViewChange>> {
        let at = self.range.next()?;
        let change = Arc::clone(&self.batch.changes()[at]);
        self.bytes -= change.published().size();
        Some(change)
    }
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

/// What came of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pushed {
    /// Not all of it did fit; the connection is told that the subscription is behind.
    pub(super) is_overflowed: bool,
    /// Something waits where nothing did: the outbox has to be delivered.
    pub(super) is_first: bool,
}

impl Outbox {
    /// An empty outbox for at most `bytes_max` bytes of changes, fewer while little room is left for all together.
    pub fn new(bytes_max: usize, waiting: Arc<Waiting>, outlet: Arc<dyn Outlet>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), bytes_max, waiting, outlet })
    }

    /// Hands over those of `changes` that `live` does not have, as many as fit. Whoever does it sees to [`Outbox::deliver`].
    pub(super) fn push(&self, live: &Live, changes: &ViewChanges) -> Pushed {
        let subscription = live.subscription;
        if PlantedBug::WakesBeforeThereIsSomething.is_planted() {
            self.outlet.wake();
        }
        let mut changes = match PlantedBug::LiveRepeatsReplayedChanges.is_planted() {
            true => changes.clone(),
            false => changes.behind(live.after),
        };
        let mut state = self.lock();
        let was_empty = state.queue.is_empty();
        let room = self.bytes_max.saturating_sub(state.bytes).min(self.waiting.room());
        let mut is_overflowed = false;
        if changes.bytes <= room {
            state.put(subscription, changes, live.plain, &self.waiting);
        } else {
            // A change larger than the outbox still goes when nothing else waits.
            let fitting = changes.ended_within(room).max(usize::from(was_empty));
            let front = changes.split_off_front(fitting);
            let summary = front.left().last().map_or(live.summary, |last| last.summary());
            state.put(subscription, front, live.plain, &self.waiting);
            if let Some(next) = changes.left().first()
                && !PlantedBug::FullOutboxDropsSilently.is_planted()
            {
                is_overflowed = true;
                let skipped = u64::from(!PlantedBug::OverflowSkipsOneChange.is_planted());
                let after = Seq(next.published().seq().0 - skipped);
                state.queue.push_back(Delivery::FellBehind { subscription, after, summary });
            }
        }
        let is_first = was_empty && !state.queue.is_empty();
        Pushed { is_overflowed, is_first: is_first && !PlantedBug::WakesBeforeThereIsSomething.is_planted() }
    }

    /// Tells the connection that something waits where nothing did. Called under no lock: it may be sent at once.
    pub(super) fn deliver(&self) {
        self.outlet.deliver(self);
    }

    /// See [`Outlet::ask_for_memory`].
    pub(super) fn ask_for_memory(&self) -> usize {
        self.outlet.ask_for_memory()
    }

    /// The same as [`Outbox::deliver`], and nothing is sent by this thread.
    pub(super) fn wake(&self) {
        self.outlet.wake();
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
            self.outlet.wake();
        }
    }

    /// Takes what waits first: of changes as many as begin within `bytes_max`.
    pub fn pop(&self, bytes_max: usize) -> Option<Delivery> {
        let mut state = self.lock();
        let delivery = match state.queue.front_mut()? {
            Delivery::Changes { subscription, changes, plain } if changes.bytes > bytes_max => {
                let begun = changes.begun_within(bytes_max);
                let (subscription, plain) = (*subscription, *plain);
                (begun < changes.left().len()).then(|| Delivery::Changes {
                    subscription,
                    changes: changes.split_off_front(begun),
                    plain,
                })
            }
            _ => None,
        };
        let delivery = delivery.or_else(|| state.queue.pop_front())?;
        if let Delivery::Changes { changes, .. } = &delivery {
            state.took(changes.bytes, &self.waiting);
        }
        Some(delivery)
    }

    /// Takes what waits, if that is `bytes_max` bytes at most and nothing but changes of which a message each is all that the
    /// subscribers get; `take` learns of it, oldest first. `false`, and all is left, if it is anything else.
    pub fn take_plain(&self, bytes_max: usize, mut take: impl FnMut(MessageKind, ViewChanges)) -> bool {
        let mut state = self.lock();
        let is_plain = |delivery: &Delivery| matches!(delivery, Delivery::Changes { plain: Some(_), .. });
        if state.bytes > bytes_max || state.queue.is_empty() || !state.queue.iter().all(is_plain) {
            return false;
        }
        while let Some(Delivery::Changes { changes, plain: Some(kind), .. }) = state.queue.pop_front() {
            state.took(changes.bytes, &self.waiting);
            take(kind, changes);
        }
        true
    }

    /// What waits for all connections together.
    pub fn waiting(&self) -> &Arc<Waiting> {
        &self.waiting
    }

    /// The bytes of changes that may wait.
    pub(super) fn bytes_max(&self) -> usize {
        self.bytes_max
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

impl OutboxState {
    fn put(
        &mut self,
        subscription: SubscriptionId,
        changes: ViewChanges,
        plain: Option<MessageKind>,
        waiting: &Waiting,
    ) {
        if changes.left().is_empty() {
            return;
        }
        self.bytes += changes.bytes;
        waiting.add(changes.bytes);
        self.queue.push_back(Delivery::Changes { subscription, changes, plain });
    }

    fn took(&mut self, bytes: usize, waiting: &Waiting) {
        self.bytes -= bytes;
        waiting.remove(bytes);
        if self.queue.is_empty() && self.queue.capacity() > KEPT_CAPACITY {
            self.queue = VecDeque::new();
        }
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
