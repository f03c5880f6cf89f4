//! One feed per table that has subscribers: it takes each committed change once and hands it to every one of them.
//!
//! A subscriber is *live* when the feed hands it changes as they come; before that, and whenever its outbox overflows, it
//! is *behind* and catches up by itself ([`read_page`]), from the snapshot, the log and at last the feed's own
//! window of recent changes. [`Feed::advance`] is the one door from behind to live.

mod catch_up;
mod outbox;
mod published;
mod window;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use catch_up::{CatchUp, Cursor, Page, PageItem, read_page};
use outbox::Pushed;
pub use outbox::{Delivery, Outbox, Outlet};
use prometheus_client::metrics::counter::Counter;
pub use published::{EncodingSlot, Published};
use window::Window;

use crate::change::{Change, Seq, Table};
use crate::planted::PlantedBug;
use crate::store::CommitObserver;

/// A subscription, unique in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionId(pub u64);

/// What a subscriber that is behind does next.
#[derive(Clone, Debug)]
pub enum Advance {
    /// It is level with the feed, which hands it everything from now on.
    Live,
    /// It gets these changes and is still behind.
    Replay(Vec<Arc<Published>>),
    /// What it needs has left the window: read it from the log.
    ReadLog,
}

/// The live changes of one table.
pub struct Feed {
    table: Table,
    state: Mutex<FeedState>,
    fell_behind: Counter,
}

struct FeedState {
    window: Window,
    live: BTreeMap<SubscriptionId, Live>,
}

struct Live {
    outbox: Arc<Outbox>,
    /// The last change the subscriber has; only later ones are handed over.
    after: Seq,
}

impl Feed {
    fn new(table: Table, head: Seq, window_bytes: usize, fell_behind: Counter) -> Self {
        Self {
            table,
            state: Mutex::new(FeedState { window: Window::new(head, window_bytes), live: BTreeMap::new() }),
            fell_behind,
        }
    }

    /// The table.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// The subscribers that are live.
    pub fn live_subscribers(&self) -> usize {
        self.lock().live.len()
    }

    /// Hands `batch`, the next changes of the table, to every live subscriber.
    fn publish(&self, batch: &[Arc<Published>]) {
        let mut state = self.lock();
        for published in batch {
            state.window.push(Arc::clone(published));
        }
        let head = state.window.head();
        state.live.retain(|&subscription, live| match live.outbox.push(subscription, live.after, batch) {
            Pushed::All => {
                live.after = live.after.max(head);
                true
            }
            // It is behind now and comes back through `advance`.
            Pushed::Overflowed => {
                self.fell_behind.inc();
                false
            }
        });
    }

    /// Brings a subscriber that has everything up to `after` closer to being live; at most `bytes_max` of changes at a time.
    pub fn advance(&self, subscription: SubscriptionId, after: Seq, outbox: &Arc<Outbox>, bytes_max: usize) -> Advance {
        let mut state = self.lock();
        if after >= state.window.head() || PlantedBug::LiveBeforeCaughtUp.is_planted() {
            let outbox = Arc::clone(outbox);
            state.live.insert(subscription, Live { outbox, after });
            return Advance::Live;
        }
        match state.window.changes_after(after, bytes_max) {
            Some(changes) => Advance::Replay(changes),
            None => Advance::ReadLog,
        }
    }

    fn detach(&self, subscription: SubscriptionId) {
        self.lock().live.remove(&subscription);
    }

    fn lock(&self) -> MutexGuard<'_, FeedState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Feed({:?})", self.table)
    }
}

/// All feeds: a table has one for as long as it has subscribers.
#[derive(Debug)]
pub struct Feeds {
    state: Mutex<FeedsState>,
    window_bytes: usize,
    fell_behind: Counter,
}

#[derive(Debug)]
struct FeedsState {
    feeds: HashMap<Table, SharedFeed>,
    /// Everything up to here was published; a new feed begins here.
    published: Seq,
}

#[derive(Debug)]
struct SharedFeed {
    feed: Arc<Feed>,
    users: usize,
}

impl Feeds {
    /// No feeds yet; everything up to `published` counts as published. Each feed keeps `window_bytes` of recent changes.
    /// `fell_behind` counts the subscriptions whose outbox overflowed.
    pub fn new(published: Seq, window_bytes: usize, fell_behind: Counter) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(FeedsState { feeds: HashMap::new(), published }), window_bytes, fell_behind })
    }

    /// Takes a share in the feed of `table`; the guard gives it back.
    pub fn attach(self: &Arc<Self>, table: &Table, subscription: SubscriptionId) -> Attachment {
        let mut state = self.lock();
        let published = state.published;
        let shared = state.feeds.entry(table.clone()).or_insert_with(|| SharedFeed {
            feed: Arc::new(Feed::new(table.clone(), published, self.window_bytes, self.fell_behind.clone())),
            users: 0,
        });
        shared.users += 1;
        Attachment { feeds: Arc::clone(self), feed: Arc::clone(&shared.feed), subscription }
    }

    /// Publishes `changes`, which are on disk; `upto` is the newest position.
    pub fn publish(&self, changes: Vec<Change>, upto: Seq) {
        let mut batches: Vec<(Arc<Feed>, Vec<Arc<Published>>)> = Vec::new();
        let mut state = self.lock();
        // Feeds that are made from here on begin behind these changes; those that exist get them below.
        state.published = state.published.max(upto);
        for change in changes {
            let Some(shared) = state.feeds.get(&change.table) else { continue };
            match batches.iter_mut().find(|(feed, _)| feed.table == change.table) {
                Some((_, batch)) => batch.push(Published::new(change)),
                None => batches.push((Arc::clone(&shared.feed), vec![Published::new(change)])),
            }
        }
        drop(state);
        for (feed, batch) in batches {
            feed.publish(&batch);
        }
    }

    /// The tables that have subscribers, and how many of those are live.
    pub fn live(&self) -> Vec<(Table, usize)> {
        let feeds: Vec<Arc<Feed>> = self.lock().feeds.values().map(|shared| Arc::clone(&shared.feed)).collect();
        feeds.iter().map(|feed| (feed.table.clone(), feed.live_subscribers())).collect()
    }

    fn give_back(&self, table: &Table) {
        let mut state = self.lock();
        let shared = state.feeds.get_mut(table).expect("a feed stays as long as it has users");
        shared.users -= 1;
        if shared.users == 0 {
            state.feeds.remove(table);
        }
    }

    fn lock(&self) -> MutexGuard<'_, FeedsState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CommitObserver for Arc<Feeds> {
    fn committed(&mut self, changes: Vec<Change>, upto: Seq) {
        self.publish(changes, upto);
    }
}

/// A subscription's share in a feed. Dropping it ends the delivery.
#[derive(Debug)]
pub struct Attachment {
    feeds: Arc<Feeds>,
    feed: Arc<Feed>,
    subscription: SubscriptionId,
}

impl Attachment {
    /// The feed.
    pub fn feed(&self) -> &Feed {
        &self.feed
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        if PlantedBug::DroppedSubscriptionStaysAttached.is_planted() {
            return;
        }
        self.feed.detach(self.subscription);
        self.feeds.give_back(self.feed.table());
    }
}
