//! How fast somebody who is behind is served from the store: pages of rows and pages of the log, as the store reads them and
//! as a subscription gets them: `cargo bench --bench replay`.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use serde_json::json;
use starfeed::change::{Document, Epoch, Key, Seq, Table};
use starfeed::clock::Clock;
use starfeed::config::Limits;
use starfeed::feed::{Asked, CatchUp, CatchUpBudget, Cursor, PageRequest, Pages, PagesLimits};
use starfeed::matcher::{Filter, FilterLimits};
use starfeed::metrics::Metrics;
use starfeed::store::{ChangePage, FileDisk, Mutation, PageBudget, Snapshot, Store, StoreOptions, StoreSecret, Unit};
use starfeed::view::{KeyRule, View};

const TABLE: &str = "item";
const ROWS: usize = 50_000;
const ROWS_OF_A_COMMIT: usize = 1_000;

/// A store on disk: each row was written and then changed, so the log has twice as many changes as there are rows.
fn store(directory: &std::path::Path) -> Store {
    let options = StoreOptions {
        retention: Limits::default().retention(),
        cache_bytes: 128 << 20,
        journal_bytes: 1 << 20,
        fresh_epoch: Epoch(1),
        fresh_secret: StoreSecret([7; 32]),
        indexes: Vec::new(),
    };
    let disk = FileDisk::new(&directory.join("store.redb")).expect("a new file");
    let store = Store::open(Box::new(disk), options).expect("a new store");
    for version in 0..2 {
        for first in (0..ROWS).step_by(ROWS_OF_A_COMMIT) {
            let units: Vec<Unit> = (first..first + ROWS_OF_A_COMMIT).map(|number| vec![row(number, version)]).collect();
            store.commit(Clock.now(), &units).expect("the disk works");
        }
    }
    store
}

fn row(number: usize, version: u32) -> Mutation {
    let id = format!("row {number:08}");
    let row = json!({"id": id, "part": number % 10, "version": version, "pad": "x".repeat(140)});
    Mutation::put(Table::new(TABLE), Key::text(&id), Document::parse(row.to_string().as_bytes()).expect("an object"))
}

/// As many rows and bytes as a server reads at a time.
fn page() -> PageBudget {
    let Limits { page_rows, page_bytes, .. } = Limits::default();
    PageBudget { items: page_rows as usize, bytes: page_bytes as usize }
}

fn of_the_store(group: &mut BenchmarkGroup<'_, WallTime>, snapshot: &Snapshot) {
    let table = Table::new(TABLE);
    group.throughput(Throughput::Elements(ROWS as u64));
    group.bench_function("rows, as the store reads them", |bencher| {
        bencher.iter(|| {
            let (mut after, mut count) = (None, 0);
            loop {
                let page = snapshot.rows_after(&table, after.as_ref(), page()).expect("rows");
                count += page.rows.len();
                after = page.rows.last().map(|row| row.key.clone());
                if page.complete {
                    break;
                }
            }
            assert_eq!(count, ROWS);
        });
    });
    group.bench_function("rows in one piece of memory, as the store reads them", |bencher| {
        bencher.iter(|| {
            let (mut after, mut count) = (None, 0);
            loop {
                let (rows, complete) = snapshot.block_after(&table, after.as_ref(), page()).expect("rows");
                count += rows.len();
                after = rows.last_key();
                if complete {
                    break;
                }
            }
            assert_eq!(count, ROWS);
        });
    });
    group.throughput(Throughput::Elements(2 * ROWS as u64));
    group.bench_function("the log, as the store reads it", |bencher| {
        bencher.iter(|| {
            let (mut after, mut count) = (Seq::ZERO, 0);
            while let ChangePage::Changes { changes, complete } =
                snapshot.changes_after(&table, after, page()).expect("changes")
            {
                count += changes.len();
                after = changes.last().map_or(after, |change| change.seq);
                if complete {
                    break;
                }
            }
            assert_eq!(count, 2 * ROWS);
        });
    });
}

/// Reads what a subscription gets from `cursor` to the end of the store; returns how many rows and changes that is.
fn read_to_the_end(store: &Store, pages: &Arc<Pages>, view: &Arc<View>, mut cursor: Cursor) -> usize {
    let budget = CatchUpBudget { page: page(), coalesce: false };
    let upto = store.position().seq;
    let mut count = 0;
    let from_rows = matches!(cursor, Cursor::Snapshot { .. });
    loop {
        let request = PageRequest { view: Arc::clone(view), cursor, budget, at_least: Seq::ZERO };
        let Asked::Unread(page) = pages.ask(request, upto) else { panic!("nothing is kept") };
        let CatchUp::Page(page) = page.read(store).expect("a page") else { panic!("nothing was trimmed") };
        count += if from_rows { page.rows().len() } else { page.change_count() };
        cursor = page.cursor.clone();
        match cursor {
            Cursor::After(_) if from_rows => return black_box(count),
            Cursor::After(after) if after == upto => return black_box(count),
            _ => {}
        }
    }
}

fn of_a_subscription(group: &mut BenchmarkGroup<'_, WallTime>, store: &Store) {
    // So little is kept for others that each page is read.
    let limits = PagesLimits { bytes: 1, kept_ms: 0, range: page() };
    let pages = Pages::new(limits, Arc::new(Metrics::default()));
    let tenth = Filter::parse("part == 3", &FilterLimits::default()).expect("a filter");
    for (name, filter, share) in [("", None, 1), (", a filter takes a tenth", Some(tenth.into()), 10)] {
        let view = Arc::new(View { table: Table::new(TABLE), secrets: &[], keys: KeyRule::Any, filter });
        let read = |cursor, expected| {
            let count = read_to_the_end(store, &pages, &view, cursor);
            assert_eq!(count, expected / share);
        };
        group.throughput(Throughput::Elements(ROWS as u64));
        group.bench_function(format!("rows, as a subscription gets them{name}"), |bencher| {
            bencher.iter(|| read(Cursor::Snapshot { sent: None }, ROWS));
        });
        group.throughput(Throughput::Elements(2 * ROWS as u64));
        group.bench_function(format!("the log, as a subscription gets it{name}"), |bencher| {
            bencher.iter(|| read(Cursor::After(Seq::ZERO), 2 * ROWS));
        });
    }
}

fn replay(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a directory");
    let store = store(directory.path());
    let snapshot = store.snapshot().expect("a snapshot");
    let mut group = criterion.benchmark_group("replay");
    group.sample_size(10);
    of_the_store(&mut group, &snapshot);
    of_a_subscription(&mut group, &store);
}

criterion_group! {
    name = benches;
    config = Criterion::default().without_plots();
    targets = replay
}
criterion_main!(benches);
