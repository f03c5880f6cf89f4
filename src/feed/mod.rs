//! One feed per table that has had subscribers: it takes each committed change once and hands it to every one of them.
//!
//! A subscriber is *live* when the feed hands it changes as they come; before that, and whenever its outbox overflows, it
//! is *behind* and catches up page by page ([`Pages`]), from the snapshot, the log and at last the feed's own
//! window of recent changes. [`Attachment::advance`] is the one door from behind to live.

mod bells;
mod catch_up;
mod counted;
mod log_ranges;
mod outbox;
mod pages;
mod published;
mod shelf;
mod snapshot_rows;
mod source_state;
pub(crate) mod sync;
mod views;
mod window;

use std::collections::HashMap;
use std::fmt;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use bells::Bells;
pub use catch_up::{CatchUp, CatchUpBudget, Content, Cursor, Page, PageItem, Replay, SeenChange};
pub use counted::Counted;
pub use outbox::{Delivery, Outbox, Outlet, ViewChanges, Waiting};
pub use pages::{Asked, PageRequest, PageResult, Pages, PagesLimits, SharedPage, SharedResult, UnreadPage};
pub use published::{MessageKind, Piece, Published, ViewChange};
pub use snapshot_rows::{KeptMessages, RowsKind, ShowRows, SnapshotRow, SnapshotRows};
use source_state::FeedSource;
pub use source_state::{Demand, SourceDoubt, SourceState};
use sync::{Mutex, MutexGuard};
use views::{GoneLive, Live, ViewId, Views};
use window::Window;

use serde_json::Value;
use tokio::sync::watch;

use crate::change::{Change, Seq, Table};
use crate::metrics::Metrics;
use crate::planted::PlantedBug;
use crate::store::CommitObserver;
use crate::summary::Summary;
use crate::view::{Secret, View};

/// A subscription, unique in this process as long as it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionId {
    connection: u32,
    number: i32,
}

impl SubscriptionId {
    /// The one with this `number` on `connection`.
    pub fn new(connection: u32, number: i32) -> Self {
        Self { connection, number }
    }

    /// Its number on its connection, by which its client knows it.
    pub fn number(self) -> i32 {
        self.number
    }
}

/// What a subscriber that is behind does next.
#[derive(Clone, Debug)]
pub enum Advance {
    /// It is level with the feed, which hands it everything from now on. So stands the feed to its source.
    Live(SourceState),
    /// It gets these changes and is still behind.
    Replay(Replay),
    /// What it needs has left the window: read it from the log.
    ReadLog,
}

/// Bounds of feeds.
#[derive(Clone, Copy, Debug)]
pub struct FeedLimits {
    /// Bytes of recent changes that each feed keeps.
    pub window_bytes: usize,
    /// What it may cost to try one row against all the filters of a table that an index does not make cheap.
    pub table_filter_cost: u64,
    /// Bytes of the automata of the patterns in filters of one table.
    pub pattern_bytes: usize,
    /// Connections that a publisher delivers to by itself; the others are woken.
    pub direct_writes: usize,
    /// Decides how the values in filters are hashed; no client may know it.
    pub hash_seed: u64,
}

/// The live changes of one table.
pub struct Feed {
    table: Table,
    secrets: &'static [Secret],
    demand: Option<Arc<dyn Demand>>,
    state: Mutex<FeedState>,
    /// Everything up to here was handed over, by every feed.
    handed_over: Arc<AtomicU64>,
    metrics: Arc<Metrics>,
}

/// Changes that are matched and handed over at a time have so many bytes: those of different subscribers have a place in the
/// same write to a socket, and nobody has to wait for all of a large commit.
const PORTION_BYTES: usize = 256 * 1024;

/// Connections whose memory is asked for together: what is read of them stays in the caches until their turn.
const DELIVERED_TOGETHER: usize = 16;

struct FeedState {
    source: FeedSource,
    window: Window,
    views: Views,
    bells: Bells,
    /// The newest change that was handed over; the window may already have newer ones, which are being matched.
    handed: Seq,
}

impl Feed {
    /// Hands over `changes`, the next ones of the table, in portions that outboxes have room for. `deliver` is called between
    /// two of them, with the outboxes that were empty; those of the last one are left in `ready`.
    fn publish_in_portions(
        &self,
        mut changes: Vec<Change>,
        committed: Instant,
        ready: &mut Vec<Arc<Outbox>>,
        deliver: impl Fn(&mut Vec<Arc<Outbox>>),
    ) {
        loop {
            let room = self.lock().views.room_for_each();
            let rest = changes.split_off(fitting(&changes, room.unwrap_or(PORTION_BYTES).min(PORTION_BYTES)));
            self.publish(changes, committed, ready);
            if rest.is_empty() {
                return;
            }
            deliver(ready);
            changes = rest;
        }
    }

    /// Hands `changes`, the next ones of the table, to every live subscriber whose view they concern; puts the outboxes that
    /// were empty to `ready`.
    fn publish(&self, changes: Vec<Change>, committed: Instant, ready: &mut Vec<Arc<Outbox>>) {
        let published = |change| Published::committed_at(change, self.secrets, Some(committed));
        let batch: Vec<Arc<Published>> = changes.into_iter().map(published).collect();
        let mut state = self.lock();
        for published in &batch {
            state.window.push(Arc::clone(published));
        }
        let lent = state.views.lend();
        let bells = state.bells.lend();
        drop(state);
        if let Some(bells) = bells {
            bells.ring(&batch);
        }
        let lent = lent.map(|mut matching| (matching.run(&batch), matching));
        let matched = lent.as_ref().map_or(&[][..], |(matched, _)| matched);
        let mut state = self.lock();
        state.views.hand_over(&batch, matched, &self.metrics, ready);
        state.handed = state.window.head();
        // Only now: a filter that came meanwhile may get the number of one that went, and that has just been used.
        if let Some((_, matching)) = lent {
            state.views.give_back(matching);
        }
    }

    /// Brings a subscriber closer to being live.
    fn advance(
        &self,
        ids: (ViewId, SubscriptionId),
        standing: Standing,
        (outbox, plain): (&Arc<Outbox>, Option<MessageKind>),
        budget: CatchUpBudget,
    ) -> Advance {
        let after = standing.after;
        // Read before the lock is taken: what was handed over by then is in the views.
        let handed_over = Seq(self.handed_over.load(Ordering::Acquire));
        let mut state = self.lock();
        if after >= state.window.head() || PlantedBug::LiveBeforeCaughtUp.is_planted() {
            if PlantedBug::LiveIsDecidedUnlocked.is_planted() {
                drop(state);
                state = self.lock();
            }
            let live =
                Live { subscription: ids.1, outbox: Arc::clone(outbox), after, summary: standing.summary, plain };
            if state.views.go_live(ids.0, live, standing, handed_over) == GoneLive::Diverged {
                self.metrics.divergences.inc();
                tracing::error!(table = %self.table, %after, "a view differs from what its subscribers were sent");
            }
            return Advance::Live(state.source.state);
        }
        match state.window.changes_after(after, budget.scanned_bytes()) {
            Some(changes) => Advance::Replay(Replay::new(state.views.view(ids.0), changes, after, budget)),
            None => Advance::ReadLog,
        }
    }

    /// Tells a live subscriber, behind everything that waits for it, where it is then. `false` where that is not known now.
    fn mark(&self, ids: (ViewId, SubscriptionId)) -> bool {
        let handed_over = Seq(self.handed_over.load(Ordering::Acquire));
        let state = self.lock();
        let (Some(live), Some(summary)) = (state.views.live(ids.0, ids.1), state.views.summary(ids.0)) else {
            return false;
        };
        // It read from the store what this feed has yet to hand over: its own count is ahead of the view's.
        if live.after > state.handed.max(handed_over) {
            return false;
        }
        live.outbox.mark(ids.1, state.handed.max(handed_over), summary);
        true
    }

    fn demand_changed(&self) {
        if let Some(demand) = &self.demand {
            demand.changed(&self.table);
        }
    }

    /// Sets how the table stands to its source, and tells all who have to know, behind what waits for them.
    fn set_source(&self, source: SourceState, published: Seq) {
        let mut state = self.lock();
        if state.source.set(source, published) {
            state.views.for_each_live(|subscription, outbox| outbox.tell_source(subscription, source));
        }
    }

    fn lock(&self) -> MutexGuard<'_, FeedState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many of `changes` have room in `bytes_max` bytes; the first one goes in any case.
fn fitting(changes: &[Change], bytes_max: usize) -> usize {
    let ends = changes.iter().scan(0, |bytes, change| {
        *bytes += change.size();
        Some(*bytes)
    });
    ends.take_while(|end| *end <= bytes_max).count().max(1)
}

/// Where a subscriber is, and what it holds there.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    /// It has everything of its view up to here.
    pub after: Seq,
    /// The rows that it holds.
    pub summary: Summary,
    /// They were counted as they were sent, all of them; otherwise some are what a token said.
    pub is_counted: bool,
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Feed({:?})", self.table)
    }
}

/// All feeds: a table has one from its first subscriber on. It stays when the last one leaves: where all connections were
/// lost at once, all come back for the same recent changes.
#[derive(Debug)]
pub struct Feeds {
    state: Mutex<FeedsState>,
    limits: FeedLimits,
    handed_over: Arc<AtomicU64>,
    metrics: Arc<Metrics>,
    /// Set where rows come from a source that has to be followed.
    demand: Option<Arc<dyn Demand>>,
}

#[derive(Debug)]
struct FeedsState {
    feeds: HashMap<Table, Arc<Feed>>,
    /// Everything up to here was published; a new feed begins here.
    published: Seq,
}

/// Why a view cannot have its filter; the text is for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    /// The filters of the table that an index does not make cheap would cost too much.
    #[error(
        "limit_exceeded: with yours, the filters of this table that an index does not make cheap would cost more than {0}; compare a member with a value (describe_filter tells), and go without matches, contains and \"x\" in a"
    )]
    Cost(u64),
    /// The patterns of the filters of the table would take too much memory.
    #[error(
        "limit_exceeded: with yours, the patterns in filters of this table would take more than {0} bytes; use a simpler one, or startsWith, endsWith or contains"
    )]
    Patterns(usize),
}

impl Feeds {
    /// No feeds yet; everything up to `published` counts as published. The rows of the store are nobody else's.
    pub fn new(published: Seq, limits: FeedLimits, metrics: Arc<Metrics>) -> Arc<Self> {
        Self::of(published, limits, metrics, None)
    }

    /// The same, of rows that come from a source: it learns by `demand` which tables to follow, and says how each stands by
    /// [`Feeds::set_source`].
    pub fn of_source(published: Seq, limits: FeedLimits, metrics: Arc<Metrics>, demand: Arc<dyn Demand>) -> Arc<Self> {
        Self::of(published, limits, metrics, Some(demand))
    }

    fn of(published: Seq, limits: FeedLimits, metrics: Arc<Metrics>, demand: Option<Arc<dyn Demand>>) -> Arc<Self> {
        let state = Mutex::new(FeedsState { feeds: HashMap::new(), published });
        Arc::new(Self { state, limits, handed_over: Arc::new(AtomicU64::new(published.0)), metrics, demand })
    }

    /// Attaches `subscription` to the feed of the table of `view`; dropping the guard detaches it.
    pub fn attach(&self, view: &View, subscription: SubscriptionId) -> Result<Attachment, AttachError> {
        let feed = self.feed_for(&view.table, view.secrets);
        // The name of the table is kept once for all of its views.
        let view = View { table: feed.table.clone(), ..view.clone() };
        let mut state = feed.lock();
        let view_id = state.views.attach(view, &self.limits)?;
        state.source.subscribers += 1;
        let is_first = state.source.subscribers == 1;
        drop(state);
        if is_first {
            feed.demand_changed();
        }
        Ok(Attachment { feed, ids: (view_id, subscription) })
    }

    /// Tells of each change of a row of `table` whose `member` is `value`, before or after it; of those who ask for a table first, its
    /// `secrets` count. The receiver is told only of what comes after.
    pub fn bell(
        &self,
        table: &Table,
        secrets: &'static [Secret],
        member: &'static str,
        value: Value,
    ) -> watch::Receiver<bool> {
        self.feed_for(table, secrets).lock().bells.add(member, value)
    }

    fn feed_for(&self, table: &Table, secrets: &'static [Secret]) -> Arc<Feed> {
        let mut state = self.lock();
        let published = state.published;
        let feed = state.feeds.entry(table.clone()).or_insert_with(|| Arc::new(self.feed(table, secrets, published)));
        Arc::clone(feed)
    }

    fn feed(&self, table: &Table, secrets: &'static [Secret], published: Seq) -> Feed {
        Feed {
            table: table.clone(),
            secrets,
            demand: self.demand.clone(),
            state: Mutex::new(FeedState {
                source: FeedSource::new(match self.demand {
                    Some(_) => SourceState::Unread { doubt: None },
                    None => SourceState::Level,
                }),
                window: Window::new(published, self.limits.window_bytes),
                views: Views::new(self.limits.hash_seed),
                bells: Bells::default(),
                handed: published,
            }),
            handed_over: Arc::clone(&self.handed_over),
            metrics: Arc::clone(&self.metrics),
        }
    }

    /// Publishes `changes`, which were just committed; `upto` is the newest position.
    pub fn publish(&self, changes: Vec<Change>, upto: Seq) {
        let committed = Instant::now();
        let mut batches: Vec<(Arc<Feed>, Vec<Change>)> = Vec::new();
        let mut state = self.lock();
        // Feeds that are made from here on begin behind these changes; those that exist get them below.
        state.published = state.published.max(upto);
        for change in changes {
            let Some(feed) = state.feeds.get(&change.table) else { continue };
            match batches.iter_mut().find(|(feed, _)| feed.table == change.table) {
                Some((_, batch)) => batch.push(change),
                None => batches.push((Arc::clone(feed), vec![change])),
            }
        }
        drop(state);
        let mut ready = Vec::new();
        for (feed, batch) in batches {
            feed.publish_in_portions(batch, committed, &mut ready, |ready| self.deliver(ready));
        }
        self.handed_over.fetch_max(upto.0, Ordering::Release);
        self.deliver(&mut ready);
    }

    /// Delivers what waits in the outboxes. Called under no lock, since this thread may go the whole way to the sockets.
    fn deliver(&self, ready: &mut Vec<Arc<Outbox>>) {
        let direct = ready.len().min(self.limits.direct_writes);
        for outboxes in ready[..direct].chunks(DELIVERED_TOGETHER) {
            // Of very many connections nothing is in the caches. A processor waits for the memory of several no longer than for one.
            black_box(outboxes.iter().fold(0, |all, outbox| all ^ outbox.ask_for_memory()));
            outboxes.iter().for_each(|outbox| outbox.deliver());
        }
        ready[direct..].iter().for_each(|outbox| outbox.wake());
        ready.clear();
    }

    /// Sets how `table` stands to its source, and tells its subscribers, behind everything that was published before.
    pub fn set_source(&self, table: &Table, source: SourceState) {
        let published = self.lock().published;
        if let Some(feed) = self.feed_of(table) {
            feed.set_source(source, published);
        }
    }

    /// The subscribers of `table`, live or not.
    pub fn subscribers(&self, table: &Table) -> usize {
        self.feed_of(table).map_or(0, |feed| feed.lock().source.subscribers)
    }

    /// Whoever subscribes to `table` next has to wait until it is read from its source again; `false` where somebody is there.
    pub fn rest(&self, table: &Table) -> bool {
        let published = self.lock().published;
        let Some(feed) = self.feed_of(table) else { return true };
        let mut state = feed.lock();
        let is_idle = state.source.subscribers == 0;
        if is_idle {
            state.source.set(SourceState::Unread { doubt: None }, published);
        }
        is_idle
    }

    fn feed_of(&self, table: &Table) -> Option<Arc<Feed>> {
        self.lock().feeds.get(table).map(Arc::clone)
    }

    /// What there is to say of each table that has had subscribers.
    pub fn figures(&self) -> Vec<FeedFigures> {
        let feeds: Vec<Arc<Feed>> = self.lock().feeds.values().map(Arc::clone).collect();
        let figures = |feed: &Arc<Feed>| {
            let state = feed.lock();
            FeedFigures {
                table: feed.table.clone(),
                live: state.views.live_count(),
                filters: state.views.filter_count(),
                lag: state.window.head().0.saturating_sub(state.handed.0),
                source: (state.source.subscribers > 0).then_some(state.source.state),
            }
        };
        feeds.iter().map(figures).collect()
    }

    fn lock(&self) -> MutexGuard<'_, FeedsState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What there is to say of a table that has had subscribers.
#[derive(Clone, Debug)]
pub struct FeedFigures {
    /// The table.
    pub table: Table,
    /// The subscriptions that are live; the others are behind.
    pub live: usize,
    /// The distinct filters.
    pub filters: usize,
    /// How many positions what was handed over is behind what was published.
    pub lag: u64,
    /// How its rows stand to those of the source; `None` where nobody is subscribed, and so nobody follows it.
    pub source: Option<SourceState>,
}

impl CommitObserver for Arc<Feeds> {
    fn committed(&mut self, changes: Vec<Change>, upto: Seq) {
        self.publish(changes, upto);
    }
}

/// A subscription's place at a feed. Dropping it ends the delivery.
#[derive(Debug)]
pub struct Attachment {
    feed: Arc<Feed>,
    ids: (ViewId, SubscriptionId),
}

// There is one for each subscription.
const _: () = assert!(size_of::<Attachment>() <= 24);

impl Attachment {
    /// What the subscription sees.
    pub fn view(&self) -> Arc<View> {
        Arc::clone(self.feed.lock().views.view(self.ids.0))
    }

    /// The number of the subscription on its connection.
    pub fn number(&self) -> i32 {
        self.ids.1.number()
    }

    /// How the table stands to its source. Where that is not known yet, `outbox` is told when it is.
    pub fn enter(&self, outbox: &Arc<Outbox>) -> SourceState {
        self.feed.lock().source.enter(self.ids.1, outbox)
    }

    /// How the table stands to its source.
    pub fn source(&self) -> SourceState {
        self.feed.lock().source.state
    }

    /// Whoever has everything up to here, or more, finds the rest in memory, and has what was read of the source.
    pub fn reaches_back_to(&self) -> Seq {
        let state = self.feed.lock();
        state.window.after().max(state.source.read_at)
    }

    /// Brings it closer to being live. Once it is, changes go to `outbox`; if a message of one kind is all that the subscriber
    /// gets of a change, it is `plain`.
    pub fn advance(
        &self,
        standing: Standing,
        outbox: &Arc<Outbox>,
        plain: Option<MessageKind>,
        budget: CatchUpBudget,
    ) -> Advance {
        self.feed.advance(self.ids, standing, (outbox, plain), budget)
    }

    /// Has a [`Delivery::Mark`] put behind everything that waits; `false` where it is not live, or ahead of the others.
    pub fn mark(&self) -> bool {
        self.feed.mark(self.ids)
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        if PlantedBug::DroppedSubscriptionStaysAttached.is_planted() {
            return;
        }
        let mut state = self.feed.lock();
        state.views.detach(self.ids.0, self.ids.1);
        state.source.leave(self.ids.1);
        let was_last = state.source.subscribers == 0;
        drop(state);
        if was_last {
            self.feed.demand_changed();
        }
    }
}

#[cfg(test)]
mod tests;
