//! Writers that each wait for their acknowledgement.

use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use starfeed::change::{Change, Seq};
use starfeed::clock::Clock;
use starfeed::config::Limits;
use starfeed::store::{CommitObserver, FileDisk, Store, WriteHandle, Writer};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::rows;

/// What was measured, for one second or so.
#[derive(Clone, Copy)]
pub(crate) struct Figures {
    pub(crate) writes: f64,
    pub(crate) commits: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// Processor time of the thread that commits, for each commit.
    pub(crate) commit_cpu_us: f64,
}

/// A store on disk with its writer.
pub(crate) struct Bench {
    store: Store,
    handle: WriteHandle,
    thread: Writer,
    seen: Arc<Seen>,
    runtime: Runtime,
}

/// What the writer's thread has done.
#[derive(Default)]
struct Seen {
    commits: AtomicU64,
    changes: AtomicU64,
    cpu_ns: AtomicU64,
}

struct Observer(Arc<Seen>);

impl CommitObserver for Observer {
    fn committed(&mut self, changes: Vec<Change>, _: Seq) {
        self.0.commits.fetch_add(1, Ordering::Relaxed);
        self.0.changes.fetch_add(changes.len() as u64, Ordering::Relaxed);
        self.0.cpu_ns.store((rows::thread_cpu_seconds() * 1e9) as u64, Ordering::Relaxed);
    }
}

impl Bench {
    pub(crate) fn new(path: &Path) -> Self {
        let store = rows::open(Box::new(FileDisk::new(path).expect("a new file")));
        let all: Vec<_> = (0..rows::ROWS).map(|number| rows::write(number, 0)).collect();
        store.commit(Clock.now(), &all).expect("the disk works");
        let seen = Arc::new(Seen::default());
        let observer = Observer(Arc::clone(&seen));
        let (thread, handle) = Writer::start(store.clone(), Clock, Limits::default().writer(), observer);
        // One thread for all writers: the other core is the store's.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime");
        Self { store, handle, thread, seen, runtime }
    }

    /// Bytes that the log takes for one write.
    pub(crate) fn log_bytes_of_a_write(&self) -> usize {
        let begin = self.store.log_bytes();
        self.store.commit(Clock.now(), &[rows::write(0, usize::MAX / 2)]).expect("the disk works");
        usize::try_from(self.store.log_bytes() - begin).expect("a small entry")
    }

    pub(crate) fn run(&self, writers: usize, time: Duration) -> Figures {
        static VERSION: AtomicUsize = AtomicUsize::new(1);
        let latencies = Arc::new(Mutex::new(nanoseconds()));
        let figures = |it: &Seen| [&it.commits, &it.changes, &it.cpu_ns].map(|it| it.load(Ordering::Relaxed) as f64);
        // What is measured starts behind a first commit, which tells the time of the thread until then.
        self.runtime.block_on(async { acknowledged(&self.handle, rows::write(0, usize::MAX)).await });
        let (before, begin) = (figures(&self.seen), Instant::now());
        self.runtime.block_on(async {
            let mut tasks = JoinSet::new();
            for _ in 0..writers {
                let (handle, latencies) = (self.handle.clone(), Arc::clone(&latencies));
                tasks.spawn(async move {
                    let mut own = nanoseconds();
                    while begin.elapsed() < time {
                        let version = VERSION.fetch_add(1, Ordering::Relaxed);
                        let unit = rows::write(rows::scattered(version), version);
                        let submitted = Instant::now();
                        acknowledged(&handle, unit).await;
                        own.saturating_record(submitted.elapsed().as_nanos() as u64);
                    }
                    latencies.lock().expect("no writer panicked").add(own).expect("the same range");
                });
            }
            while let Some(result) = tasks.join_next().await {
                result.expect("a writer");
            }
        });
        let took = begin.elapsed().as_secs_f64();
        let after = figures(&self.seen);
        let [commits, changes, cpu_ns] = std::array::from_fn(|at| after[at] - before[at]);
        let latencies = latencies.lock().expect("no writer panicked");
        Figures {
            writes: changes / took,
            commits: commits / took,
            p50_us: latencies.value_at_quantile(0.5) as f64 / 1e3,
            p99_us: latencies.value_at_quantile(0.99) as f64 / 1e3,
            commit_cpu_us: cpu_ns / 1e3 / commits,
        }
    }

    pub(crate) fn end(self) {
        drop(self.handle);
        self.thread.join();
    }
}

/// Up to a minute.
fn nanoseconds() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("good bounds")
}

async fn acknowledged(handle: &WriteHandle, unit: starfeed::store::Unit) {
    let written = handle.submit(unit).expect("there is room").await.expect("an answer");
    written.expect("the disk works").expect("nothing refuses it");
}
