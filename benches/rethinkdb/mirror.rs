//! What the mirror costs: reading a table and following its changes, beside a client that reads the same and does nothing with it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use serde_json::json;
use starfeed::catalog::stored_table;
use starfeed::change::{Document, Epoch, Table};
use starfeed::clock::Clock;
use starfeed::config::Limits;
use starfeed::feed::{Attachment, Feeds, SourceState, SubscriptionId};
use starfeed::metrics::Metrics;
use starfeed::source::rethinkdb::reql::{Connection, Cursor, Term};
use starfeed::source::rethinkdb::{Demands, FeedRow, Parts, RethinkDb};
use starfeed::store::{FileDisk, Store, StoreOptions, StoreSecret, Writer};
use starfeed::view::{KeyRule, View};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::database::Database;

const DATABASE: &str = "mirror";
const TABLE: &str = "policy";
const ROWS: u32 = 100_000;
const ROWS_PER_INSERT: u32 = 500;
const RUNS: usize = 3;
const QUEUE_ROWS: u64 = 10_000_000;

/// Rows and changes per second.
struct Figures {
    initial: f64,
    live: f64,
}

pub(crate) async fn measure(database: &Database) {
    database.create(DATABASE).await;
    fill(database).await;
    println!("\n{ROWS} rows of about 300 bytes are read, then each is changed by one query of another client.\n");
    println!("| | rows/s, read at first | changes/s, live |");
    println!("| --- | ---: | ---: |");
    let mut ratios = Vec::new();
    for _ in 0..RUNS {
        let bare = bare(database).await;
        let mirrored = mirrored(database).await;
        print("a client that only reads", &bare);
        print("the mirror, on disk", &mirrored);
        ratios.push((mirrored.initial / bare.initial, mirrored.live / bare.live));
    }
    for (run, (initial, live)) in ratios.iter().enumerate() {
        println!("\nrun {}: the mirror reads {initial:.2} and follows {live:.2} times as fast", run + 1);
    }
}

fn print(what: &str, figures: &Figures) {
    println!("| {what} | {:.0} | {:.0} |", figures.initial, figures.live);
}

fn per_second(began: Instant) -> f64 {
    f64::from(ROWS) / began.elapsed().as_secs_f64()
}

async fn fill(database: &Database) {
    let tracker = TaskTracker::new();
    let link = database.link(DATABASE, &tracker);
    let connection = link.connection().await.expect("a connection");
    for first in (0..ROWS).step_by(ROWS_PER_INSERT as usize) {
        let row = |number: u32| {
            let row = json!({
                "id": format!("00000000-0000-4000-8000-{number:012}"),
                "name": format!("policy {number}"),
                "n": 0,
                "created_at": {"$reql_type$": "TIME", "epoch_time": 1.5e9 + f64::from(number), "timezone": "+00:00"},
                "limits": {"max_cost": 10, "max_items": number},
                "pad": "x".repeat(120),
            });
            Term::document(&Document::parse(row.to_string().as_bytes()).expect("an object"))
        };
        let rows = (first..first + ROWS_PER_INSERT).map(row).collect();
        connection.value(&Term::table(TABLE).put_all(rows)).await.expect("rows are written");
    }
}

/// Changes every row, by one query.
async fn change_all(database: &Database, value: u64) {
    let options = reql::cmd::connect::Options::new().host("127.0.0.1").port(database.port).db(DATABASE);
    let session = reql::r.connect(options).await.expect("a session");
    let query = reql::r.table(TABLE).update(json!({"n": value}));
    let mut answer = query.run::<_, serde_json::Value>(&session);
    while answer.try_next().await.expect("an update").is_some() {}
}

fn fresh_value() -> u64 {
    starfeed::clock::Clock.now().0
}

async fn bare(database: &Database) -> Figures {
    let tracker = TaskTracker::new();
    let link = database.link(DATABASE, &tracker);
    let connection: Connection = link.connection().await.expect("a connection");
    let began = Instant::now();
    let mut cursor = connection.start(&Term::table(TABLE).changes(QUEUE_ROWS));
    let mut rows = read_until(&mut cursor, |row| matches!(row, FeedRow::Ready)).await;
    let initial = per_second(began);
    let began = Instant::now();
    let mut left = ROWS;
    let changes = read_until(&mut cursor, |row| {
        left -= u32::from(matches!(row, FeedRow::Written(_)));
        left == 0
    });
    rows += tokio::join!(change_all(database, fresh_value()), changes).1;
    assert!(rows > 2 * ROWS as usize);
    Figures { initial, live: per_second(began) }
}

/// Reads rows of a feed up to the one that is `last`; returns how many.
async fn read_until(cursor: &mut Cursor, mut last: impl FnMut(&FeedRow<'_>) -> bool) -> usize {
    let mut count = 0;
    while let Some(page) = cursor.next().await.expect("the feed goes on") {
        for row in page.rows().expect("rows") {
            count += 1;
            if last(&FeedRow::read(row)) {
                return count;
            }
        }
    }
    panic!("the feed has ended")
}

/// A server without clients, and somebody who wants the table.
struct Mirrored {
    store: Store,
    feeds: Arc<Feeds>,
    writer: Writer,
    shutdown: CancellationToken,
    tracker: TaskTracker,
    _directory: tempfile::TempDir,
}

impl Mirrored {
    async fn start(database: &Database) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let limits = Limits::default();
        let options = StoreOptions {
            retention: limits.retention(),
            cache_bytes: 128 << 20,
            journal_bytes: 1 << 20,
            fresh_epoch: Epoch(1),
            fresh_secret: StoreSecret([7; 32]),
            indexes: Vec::new(),
        };
        let disk = FileDisk::new(&directory.path().join("store.redb")).expect("a disk");
        let store = Store::open(Box::new(disk), options).expect("a store");
        let metrics = Arc::new(Metrics::default());
        let demands = Demands::new();
        let feeds =
            Feeds::of_source(store.position().seq, limits.feeds(1), Arc::clone(&metrics), Arc::clone(&demands) as _);
        let (writer, handle) = Writer::start(store.clone(), Clock, limits.writer(), Arc::clone(&feeds));
        let (tracker, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let parts = Parts {
            store: store.clone(),
            writer: handle,
            feeds: Arc::clone(&feeds),
            demands,
            metrics,
            tracker: tracker.clone(),
            shutdown: shutdown.clone(),
            connections: tracker.clone(),
        };
        RethinkDb::start(database.options(DATABASE), parts).await.expect("the database is as it should be");
        Self { store, feeds, writer, shutdown, tracker, _directory: directory }
    }

    fn subscribe(&self) -> Attachment {
        let secrets = stored_table(TABLE).expect("a table").secrets;
        let view = View { table: Table::new(TABLE), secrets, keys: KeyRule::Any, filter: None };
        self.feeds.attach(&Arc::new(view), SubscriptionId::new(0, 1)).expect("a subscription")
    }

    async fn end(self) {
        self.shutdown.cancel();
        self.tracker.close();
        self.tracker.wait().await;
        tokio::task::block_in_place(|| self.writer.join());
    }
}

async fn mirrored(database: &Database) -> Figures {
    let server = Mirrored::start(database).await;
    let began = Instant::now();
    let subscription = server.subscribe();
    until(|| subscription.source() == SourceState::Level).await;
    let initial = per_second(began);
    let upto = server.store.position().seq.0 + u64::from(ROWS);
    let began = Instant::now();
    let changed = until(|| server.store.position().seq.0 >= upto);
    tokio::join!(change_all(database, fresh_value()), changed);
    let live = per_second(began);
    drop(subscription);
    server.end().await;
    Figures { initial, live }
}

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
