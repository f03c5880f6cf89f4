//! A server without sockets, with some rows in its store.

use std::cell::RefCell;
use std::collections::HashSet;
use std::sync::Arc;

use starfeed::catalog::{stored_table, stored_tables};
use starfeed::change::{Document, Epoch, Key, Table, Timestamp};
use starfeed::feed::{FeedLimits, Feeds, PagesLimits, Waiting};
use starfeed::matcher::FilterLimits;
use starfeed::metrics::Metrics;
use starfeed::session::{SessionContext, SessionLimits, Writes};
use starfeed::store::{
    MemoryDisk, Mutation, PageBudget, Retention, Store, StoreOptions, StoreSecret, TableIndexes, Unit, UnitResult, read,
};
use starfeed::subscription::{SubscriptionLimits, SubscriptionManager};

/// Bytes of one row, and of rows in one answer, that clients are allowed.
pub(crate) const ROW_BYTES: usize = 4 * 1024;
pub(crate) const ANSWER_BYTES: usize = 8 * 1024;

/// Requests that may be unanswered.
pub(crate) const REQUESTS: usize = 8;

const ROWS: &[(&str, &str)] = &[
    ("captcha_solver", include_str!("../../examples/rows/captcha_solver.ndjson")),
    ("domain_login", include_str!("../../examples/rows/domain_login.ndjson")),
    ("job", include_str!("../../examples/rows/job.ndjson")),
    ("rate_limit", include_str!("../../examples/rows/rate_limit.ndjson")),
    ("schedule", include_str!("../../examples/rows/schedule.ndjson")),
];
const ROWS_PER_TABLE: usize = 3;

/// After so many runs that wrote, the rows are as they were.
const RUNS_UNTIL_RESTORED: u32 = 16;

pub(crate) struct Server {
    pub(crate) store: Store,
    pub(crate) feeds: Arc<Feeds>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) session: Arc<SessionContext>,
    pub(crate) waiting: Arc<Waiting>,
}

impl Server {
    /// Lends one to `work`, without subscribers. Its rows are those of [`ROWS`], but for what the last few runs wrote: to write
    /// them again costs more than most runs.
    pub(crate) fn with<T>(work: impl FnOnce(&Self) -> T) -> T {
        thread_local! {
            static STORE: RefCell<Option<(Store, u32)>> = const { RefCell::new(None) };
        }
        let (store, written) = STORE.take().unwrap_or_else(|| (filled_store(), 0));
        let position = store.position();
        let server = Self::of(store);
        let result = work(&server);
        assert_eq!(server.session.subscriptions.count(), 0, "a subscription outlived its connection");
        assert_eq!(server.waiting.bytes(), 0, "something waits for nobody");
        for (table, _) in ROWS {
            let table = stored_table(table).expect("a table of the crawler").table();
            assert_eq!(server.feeds.subscribers(&table), 0, "somebody is attached to {table} who is not there");
        }
        let store = server.store;
        let written = written + u32::from(store.position() != position);
        STORE.set(Some(if written < RUNS_UNTIL_RESTORED { (store, written) } else { (restored(store), 0) }));
        result
    }

    fn of(store: Store) -> Self {
        let metrics = Arc::new(Metrics::default());
        let limits = FeedLimits {
            window_bytes: 2 * 1024,
            table_filter_cost: 100_000,
            pattern_bytes: 1 << 20,
            direct_writes: 4,
            hash_seed: 1,
        };
        let feeds = Feeds::new(store.position().seq, limits, Arc::clone(&metrics));
        let subscriptions =
            SubscriptionManager::new(Arc::clone(&feeds), SubscriptionLimits { per_connection: 6, total: 100 });
        let limits = SessionLimits {
            requests: REQUESTS,
            request_bytes: 4 * 1024,
            row_bytes: ROW_BYTES,
            answer_bytes: ANSWER_BYTES,
            import_bytes: 4 * 1024,
            page: PageBudget { items: 3, bytes: 2 * 1024 },
            pages: PagesLimits { bytes: 1 << 20, kept_ms: 1000, range: PageBudget { items: 3, bytes: 2 * 1024 } },
            filters: FilterLimits { cost_max: 100_000, ..FilterLimits::default() },
        };
        let session =
            SessionContext::new(&store, subscriptions, Arc::clone(&metrics), limits, Writes::Overlap, Arc::default());
        Self { store, feeds, metrics, session, waiting: Waiting::new(1 << 20) }
    }

    /// Writes `unit`, and hands what it changed to the feeds.
    pub(crate) fn write(&self, unit: Unit) -> UnitResult {
        write(&self.store, &self.feeds, unit)
    }
}

pub(crate) fn write(store: &Store, feeds: &Feeds, unit: Unit) -> UnitResult {
    let committed = store.commit(Timestamp(1_000_000), &[unit]).expect("memory does not fail");
    feeds.publish(committed.changes, committed.upto);
    committed.results.into_iter().next().expect("a result for each unit")
}

fn filled_store() -> Store {
    let options = StoreOptions {
        retention: Retention { bytes: 16 * 1024, age_ms: 1 << 40 },
        cache_bytes: 1 << 20,
        journal_bytes: 1 << 20,
        fresh_epoch: Epoch(1),
        fresh_secret: StoreSecret([7; 32]),
        indexes: stored_tables().map(|table| TableIndexes { table: table.table(), indexes: table.indexes }).collect(),
    };
    let store = Store::open(Box::new(MemoryDisk), options).expect("memory does not fail");
    restored(store)
}

/// `store` with the rows of [`ROWS`], and no others.
fn restored(store: Store) -> Store {
    let row = |table: &str, line: &str| {
        let table = stored_table(table).expect("a table of the crawler");
        let document = Document::parse(line.as_bytes()).expect("one JSON object in a line");
        let key = (table.check)(&document).expect("a row of the table");
        Mutation::put(table.table(), key, document)
    };
    let rows = ROWS.iter().flat_map(|(table, lines)| lines.lines().take(ROWS_PER_TABLE).map(|line| row(table, line)));
    let mut unit: Unit = rows.collect();
    let kept: HashSet<(Table, Key)> = unit.iter().map(|put| (put.table.clone(), put.key.clone())).collect();
    let all = PageBudget { items: usize::MAX, bytes: usize::MAX };
    for table in stored_tables() {
        let table = table.table();
        let found = read(&store, |snapshot| snapshot.rows_after(&table, None, all)).expect("memory does not fail");
        let others = found.rows.into_iter().map(|row| (table.clone(), row.key)).filter(|row| !kept.contains(row));
        unit.extend(others.map(|(table, key)| Mutation::delete(table, key)));
    }
    store.commit(Timestamp(0), &[unit]).expect("memory does not fail");
    store
}
