//! What publishers and connections do at the same time, in many orders: by chance, and so that few switches are at the worst
//! moments.

mod speaking;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use shuttle::future::block_on;
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::thread;
use shuttle::{Config, FailurePersistence, Runner};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::change::{Cause, Change, Document, Key, Seq, Table, Timestamp};
use crate::feed::sync::in_any_order;
use crate::feed::{
    Advance, Attachment, CatchUpBudget, Content, Delivery, Demand, FeedLimits, Feeds, Outbox, Outlet, PageItem,
    SourceState, Standing, SubscriptionId, Waiting,
};
use crate::matcher::{Filter, FilterLimits};
use crate::metrics::Metrics;
use crate::planted::PlantedBug;
use crate::source::Changes;
use crate::store::PageBudget;
use crate::summary::Summary;
use crate::view::{KeyRule, View};

/// Orders that are tried of each kind.
const SCHEDULES: usize = 5_000;

/// Switches at the worst moments.
const SWITCHES: usize = 3;

fn config() -> Config {
    let mut config = Config::new();
    config.failure_persistence = FailurePersistence::None;
    config
}

/// Runs `trial` in many orders, with a fault or none.
fn tried(bug: Option<PlantedBug>, trial: fn()) {
    tried_in(SCHEDULES, bug, trial);
}

fn tried_in(schedules: usize, bug: Option<PlantedBug>, trial: fn()) {
    PlantedBug::with(bug, || {
        in_any_order(|| {
            Runner::new(PctScheduler::new_from_seed(1, SWITCHES, schedules), config()).run(trial);
            Runner::new(RandomScheduler::new_from_seed(1, schedules), config()).run(trial);
        });
    });
}

/// Checks that `trial` finds `bug`, by one of these words.
fn finds(bug: PlantedBug, trial: fn(), words: &[&str]) {
    finds_in(SCHEDULES, bug, trial, words);
}

fn finds_in(schedules: usize, bug: PlantedBug, trial: fn(), words: &[&str]) {
    let panic = catch_unwind(AssertUnwindSafe(|| tried_in(schedules, Some(bug), trial))).expect_err("the bug is found");
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default();
    assert!(words.iter().any(|words| text.contains(words)), "something else was found: {text}");
}

const LOST_OR_REPEATED: &str = "a change was lost or came twice";

const MARK_BEFORE_CHANGES: &str = "a mark that says more than was handed over";

/// Somebody waits for what does not come.
const DEADLOCK: &str = "deadlock";

/// Changes that are published: each adds a row, so that the number of one is that of all before it, too.
const LAST: u64 = 4;

const TABLES: [&str; 2] = ["schedule", "policy"];

fn key(number: u64) -> Key {
    Key::text(&format!("row{number}"))
}

fn change(table: &str, number: u64) -> Change {
    Change {
        seq: Seq(number),
        table: Table::new(table),
        key: key(number),
        old: None,
        old_version: Seq::ZERO,
        new: Some(Document::parse(br#"{"a":1,"job":"x"}"#).expect("an object")),
        time: Timestamp(0),
        cause: Cause::Write,
    }
}

fn view(table: &str, filter: Option<&str>) -> Arc<View> {
    let filter = filter.map(|text| Arc::new(Filter::parse(text, &FilterLimits::default()).expect("a filter")));
    Arc::new(View { table: Table::new(table), secrets: &[], keys: KeyRule::Any, filter })
}

#[derive(Debug)]
struct NoDemand;

impl Demand for NoDemand {
    fn changed(&self, _: &Table) {}
}

/// A log whose changes are published as they are written.
struct Written {
    feeds: Arc<Feeds>,
    metrics: Arc<Metrics>,
    waiting: Arc<Waiting>,
    /// Everything up to here is on disk.
    stored: AtomicU64,
}

impl Written {
    fn new(window_bytes: usize) -> Arc<Self> {
        let metrics = Arc::new(Metrics::default());
        let limits =
            FeedLimits { window_bytes, table_filter_cost: 100, pattern_bytes: 1 << 20, direct_writes: 4, hash_seed: 1 };
        let feeds = Feeds::of_source(Seq::ZERO, limits, Arc::clone(&metrics), Arc::new(NoDemand));
        Arc::new(Self { feeds, metrics, waiting: Waiting::new(1 << 30), stored: AtomicU64::new(0) })
    }

    /// Writes changes in a few commits, each of which is published when it is on disk.
    fn write(&self, commits: &[&[u64]]) {
        for commit in commits {
            let upto = *commit.last().expect("a change");
            self.stored.store(upto, Ordering::SeqCst);
            thread::yield_now();
            self.feeds.publish(commit.iter().map(|number| change(TABLES[0], *number)).collect(), Seq(upto));
        }
    }

    fn stored(&self) -> u64 {
        self.stored.load(Ordering::SeqCst)
    }

    fn attach(&self, id: i32, filter: Option<&str>) -> Attachment {
        self.feeds.attach(&view(TABLES[0], filter), SubscriptionId::new(0, id)).expect("a cheap filter")
    }

    /// Nothing is left of those that have gone.
    fn check_end(&self) {
        assert_eq!(self.waiting.bytes(), 0, "something waits for nobody");
        assert_eq!(self.metrics.divergences.get(), 0, "a view was not what its subscribers were sent");
        for figures in self.feeds.figures() {
            assert_eq!((figures.live, figures.filters), (0, 0), "somebody is attached who is not there");
            assert_eq!(self.feeds.subscribers(&figures.table), 0);
        }
    }
}

/// Wakes a connection that sleeps.
#[derive(Default)]
struct WakeTask(Notify);

impl WakeTask {
    fn new() -> Arc<Self> {
        Arc::default()
    }

    async fn woken(&self) {
        self.0.notified().await;
    }
}

impl Outlet for WakeTask {
    fn wake(&self) {
        self.0.notify_one();
    }
}

fn spawn(work: impl FnOnce() + Send + 'static) -> thread::JoinHandle<()> {
    thread::spawn(work)
}

/// A connection with one subscription, and what its client holds.
struct Reader<'w> {
    written: &'w Written,
    wake: Arc<WakeTask>,
    outbox: Arc<Outbox>,
    attachment: Attachment,
    standing: Standing,
    is_live: bool,
    marked_at: Option<Seq>,
}

impl<'w> Reader<'w> {
    fn new(written: &'w Written, id: i32, filter: Option<&str>, outbox_bytes: usize) -> Self {
        let wake = WakeTask::new();
        let outbox = Outbox::new(outbox_bytes, Arc::clone(&written.waiting), Arc::clone(&wake) as _);
        let attachment = written.attach(id, filter);
        thread::yield_now();
        // The snapshot: everything that is on disk by now.
        let after = written.stored();
        let mut summary = Summary::default();
        (1..=after).for_each(|number| summary.add(&key(number), Seq(number)));
        let standing = Standing { after: Seq(after), summary, is_counted: true };
        Self { written, wake, outbox, attachment, standing, is_live: false, marked_at: None }
    }

    fn apply(&mut self, number: Seq) {
        assert_eq!(number, self.standing.after.next(), "{LOST_OR_REPEATED}");
        self.standing.after = number;
        self.standing.summary.add(&key(number.0), number);
    }

    fn catch_up(&mut self) {
        let budget = CatchUpBudget { page: PageBudget { items: 100, bytes: 300 }, coalesce: false };
        match self.attachment.advance(self.standing, &self.outbox, None, budget) {
            Advance::Live(_) => self.is_live = true,
            Advance::Replay(replay) => {
                for PageItem { content, .. } in replay.page(&self.written.metrics).items() {
                    let Content::Change(change) = content else { panic!("the window has changes only") };
                    self.apply(change.published().seq());
                }
            }
            Advance::ReadLog => {
                for number in self.standing.after.0 + 1..=self.written.stored() {
                    self.apply(Seq(number));
                }
            }
        }
    }

    /// Takes what waits; `false` if nothing does.
    fn take(&mut self) -> bool {
        let mut is_some = false;
        while let Some(delivery) = self.outbox.pop(usize::MAX) {
            is_some = true;
            match delivery {
                Delivery::Changes { changes, .. } => {
                    for change in changes {
                        self.apply(change.published().seq());
                        assert_eq!(change.summary(), self.standing.summary);
                    }
                }
                Delivery::FellBehind { after, summary, .. } => {
                    assert_eq!((after, summary), (self.standing.after, self.standing.summary));
                    self.is_live = false;
                }
                Delivery::Mark { at, summary, .. } => {
                    assert_eq!((at, summary), (self.standing.after, self.standing.summary), "{MARK_BEFORE_CHANGES}");
                }
                Delivery::Source { .. } => {}
            }
        }
        is_some
    }

    /// Reads until it has everything.
    fn run(&mut self) {
        while self.standing.after < Seq(LAST) {
            if !self.is_live {
                self.catch_up();
            } else if !self.take() {
                let is_marked = self.marked_at == Some(self.standing.after);
                // Where it is marked, something waits; where it cannot be, there is more to come.
                if !is_marked && self.attachment.mark() {
                    self.marked_at = Some(self.standing.after);
                } else {
                    block_on(self.wake.woken());
                }
            }
        }
    }
}

/// Two readers subscribe while changes are published; one has room for all of them, and the other for one at a time.
fn readers_beside_a_publisher(window_bytes: usize) {
    let written = Written::new(window_bytes);
    let readers = [(1, None, 1 << 20), (2, Some("a == 1"), 1)].map(|(id, filter, outbox_bytes)| {
        let written = Arc::clone(&written);
        spawn(move || Reader::new(&written, id, filter, outbox_bytes).run())
    });
    written.write(&[&[1], &[2, 3], &[LAST]]);
    for reader in readers {
        reader.join().expect("a reader that has read everything");
    }
    written.check_end();
}

#[test]
fn nothing_is_lost_or_repeated_between_behind_and_live() {
    tried(None, || readers_beside_a_publisher(1 << 20));
}

#[test]
fn nothing_is_lost_or_repeated_where_the_log_is_read() {
    tried(None, || readers_beside_a_publisher(1));
}

#[test]
fn a_live_position_that_is_taken_without_the_lock_is_found() {
    let words = [LOST_OR_REPEATED, MARK_BEFORE_CHANGES, DEADLOCK];
    finds(PlantedBug::LiveIsDecidedUnlocked, || readers_beside_a_publisher(1 << 20), &words);
}

/// The first one of a table comes when its feed may not be there yet, and the publisher has passed it by.
#[test]
fn a_feed_that_is_made_while_changes_are_published_has_all_of_them() {
    tried(None, || {
        let written = Written::new(1 << 20);
        let publisher = {
            let written = Arc::clone(&written);
            spawn(move || written.write(&[&[1, 2], &[3, LAST]]))
        };
        let mut reader = Reader::new(&written, 1, None, 1 << 20);
        reader.run();
        drop(reader);
        publisher.join().expect("a publisher that is done");
        written.check_end();
    });
}

/// One comes and goes, twice, by a filter that another one shares with it for a while.
fn one_who_leaves_beside_a_publisher() {
    let written = Written::new(1 << 20);
    let guest = {
        let written = Arc::clone(&written);
        spawn(move || {
            for id in [1, 2] {
                let mut reader = Reader::new(&written, id, Some("a == 1"), 1 << 20);
                while !reader.is_live {
                    reader.catch_up();
                }
                thread::yield_now();
                let Reader { outbox, attachment, .. } = reader;
                drop(attachment);
                while outbox.pop(usize::MAX).is_some() {}
                for _ in 0..3 {
                    thread::yield_now();
                    assert!(outbox.is_empty(), "something came for one who had left");
                }
            }
        })
    };
    let reader = {
        let written = Arc::clone(&written);
        spawn(move || Reader::new(&written, 3, Some("a == 1"), 1 << 20).run())
    };
    written.write(&[&[1], &[2], &[3, LAST]]);
    guest.join().expect("a guest who left");
    reader.join().expect("a reader that has read everything");
    written.check_end();
}

#[test]
fn who_has_left_gets_nothing_and_nobody_else_misses_anything() {
    tried(None, one_who_leaves_beside_a_publisher);
}

#[test]
fn one_who_stays_attached_after_leaving_is_found() {
    let words = ["something came for one who had left", "somebody is attached who is not there"];
    finds(PlantedBug::DroppedSubscriptionStaysAttached, one_who_leaves_beside_a_publisher, &words);
}

/// A connection that sleeps whenever nothing waits for it, whom two threads have something to tell.
fn a_connection_that_sleeps() {
    let written = Written::new(1 << 20);
    let source = {
        let written = Arc::clone(&written);
        let table = Table::new(TABLES[1]);
        let (wake, outbox) = outbox(&written);
        let changes = written.attach(1, None);
        let state = written.feeds.attach(&view(TABLES[1], None), SubscriptionId::new(0, 2)).expect("no filter");
        assert!(matches!(state.enter(&outbox), SourceState::Unread { .. }));
        let connection = Connection { wake, outbox, changes, state };
        let feeds = Arc::clone(&written.feeds);
        let connection = spawn(move || connection.run());
        let source = spawn(move || feeds.set_source(&table, SourceState::Level));
        [connection, source]
    };
    written.write(&[&[1], &[2], &[3, LAST]]);
    for thread in source {
        thread.join().expect("an end");
    }
    written.check_end();
}

fn outbox(written: &Written) -> (Arc<WakeTask>, Arc<Outbox>) {
    let wake = WakeTask::new();
    let outbox = Outbox::new(1 << 20, Arc::clone(&written.waiting), Arc::clone(&wake) as Arc<dyn Outlet>);
    (wake, outbox)
}

struct Connection {
    wake: Arc<WakeTask>,
    outbox: Arc<Outbox>,
    changes: Attachment,
    state: Attachment,
}

impl Connection {
    fn run(&self) {
        let budget = CatchUpBudget { page: PageBudget { items: 100, bytes: 1 << 20 }, coalesce: false };
        let (mut after, mut is_level, mut is_live) = (0, false, false);
        while after < LAST || !is_level {
            if !is_live {
                let mut summary = Summary::default();
                (1..=after).for_each(|number| summary.add(&key(number), Seq(number)));
                let standing = Standing { after: Seq(after), summary, is_counted: true };
                match self.changes.advance(standing, &self.outbox, None, budget) {
                    Advance::Live(_) => is_live = true,
                    Advance::Replay(replay) => after += replay.page(&Metrics::default()).len() as u64,
                    Advance::ReadLog => panic!("the window has all there is"),
                }
                continue;
            }
            if self.outbox.is_empty() {
                block_on(self.wake.woken());
            }
            while let Some(delivery) = self.outbox.pop(usize::MAX) {
                match delivery {
                    Delivery::Changes { changes, .. } => after += changes.count() as u64,
                    Delivery::Source { state, .. } => is_level = state == SourceState::Level,
                    other => panic!("{other:?} is for nobody here"),
                }
            }
        }
        assert_eq!(self.state.source(), SourceState::Level);
    }
}

#[test]
fn a_connection_is_woken_for_whatever_waits() {
    tried(None, a_connection_that_sleeps);
}

#[test]
fn a_connection_that_is_woken_too_early_is_found() {
    finds(PlantedBug::WakesBeforeThereIsSomething, a_connection_that_sleeps, &[DEADLOCK]);
}

/// Two read the rows for themselves, whenever a bell says that there may be something new.
fn readers_who_wait_for_a_bell() {
    let written = Written::new(1 << 20);
    let readers = [1, 2].map(|_| {
        let written = Arc::clone(&written);
        spawn(move || {
            // As those do who were there before: they have read, and want to know of what they have not.
            let mut read = written.stored();
            thread::yield_now();
            let bell = written.feeds.bell(&Table::new(TABLES[0]), &[], "job", "x".into());
            let mut changes = Changes::of(bell);
            while read < LAST {
                block_on(changes.next());
                read = written.stored();
            }
        })
    });
    written.write(&[&[1], &[2, 3], &[LAST]]);
    for reader in readers {
        reader.join().expect("a reader that has read everything");
    }
}

#[test]
fn a_bell_rings_for_whatever_was_not_read() {
    tried(None, readers_who_wait_for_a_bell);
}

#[test]
fn a_bell_that_begins_silent_is_found() {
    finds(PlantedBug::BellsBeginSilent, readers_who_wait_for_a_bell, &[DEADLOCK]);
}

#[test]
fn a_shutdown_ends_every_connection() {
    tried(None, || {
        let written = Written::new(1 << 20);
        let shutdown = CancellationToken::new();
        let connections = [1, 2].map(|id| {
            let (written, shutdown) = (Arc::clone(&written), shutdown.clone());
            spawn(move || {
                let mut reader = Reader::new(&written, id, None, 1 << 20);
                while !shutdown.is_cancelled() {
                    if !reader.is_live {
                        reader.catch_up();
                    } else if !reader.take() {
                        let wake = Arc::clone(&reader.wake);
                        // As the loop of a connection: no branch loses anything.
                        block_on(async {
                            tokio::select! {
                                biased;
                                () = shutdown.cancelled() => {}
                                () = wake.woken() => {}
                            }
                        });
                    }
                }
            })
        });
        let stopper = spawn(move || shutdown.cancel());
        written.write(&[&[1], &[2, 3], &[LAST]]);
        stopper.join().expect("an end");
        for connection in connections {
            connection.join().expect("an end");
        }
        written.check_end();
    });
}
