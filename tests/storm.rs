//! Two thousand clients that lose their connections at the same moment, and come back together while rows go on changing.

mod storm {
    pub(crate) mod client;
    pub(crate) mod wish;
    pub(crate) mod writer;
}
mod support;

use std::cell::Cell;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;
use starfeed::change::Key;
use starfeed::proto::{self, request::Command, response::Body};
use starfeed::task;
use storm::client::{Storm, StormClient};
use storm::wish::Wish;
use storm::writer::{Writing, fill};
use support::process::ServerProcess;
use support::raw::RawClient;
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;

const CLIENTS: u32 = 2_000;

/// How often everybody is cut off.
const CUTS: u32 = 2;

/// Far less than a server keeps in memory for those who come back, and so much that it shows when it is read from the log
/// for each of them alone.
const CHANGES_OF_AN_OUTAGE: usize = 600;

/// Descriptors that a process needs beside those of the clients.
const OTHER_DESCRIPTORS: u64 = 200;

/// Nothing that is tested takes so long.
const PATIENCE: Duration = Duration::from_secs(120);

/// Only one storm at a time: a machine that has both is a test of the machine.
static ALONE: Mutex<()> = Mutex::const_new(());

/// Lets this process, and the server that it starts, have a descriptor for each client, as far as it may decide that.
fn allow_descriptors() {
    let needed = u64::from(CLIENTS) + OTHER_DESCRIPTORS;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < needed) {
        let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(needed), ..limit });
        raised.unwrap_or_else(|error| panic!("{needed} descriptors are needed, {limit:?} is allowed: {error}"));
    }
}

/// How everybody loses the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// The way is cut; the server stays.
    Way,
    /// The way is cut, and for a while nobody comes through.
    Outage,
    /// The server is killed and started again.
    Server,
}

/// Memory of the server, in bytes.
#[derive(Debug)]
struct Memory {
    /// With every client live, before the cut.
    steady: u64,
    /// The most, from the cut until every client is live again.
    peak: u64,
}

/// Ends the writer whatever happens: a test that has failed would wait for it.
struct WritesUntilDropped(Arc<Writing>);

impl Drop for WritesUntilDropped {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Relaxed);
    }
}

/// The server, and somebody who writes.
struct World<'a> {
    storm: &'a Storm,
    server: ServerProcess,
    directory: &'a Path,
    writing: Arc<Writing>,
}

impl World<'_> {
    async fn until(&self, what: &str, condition: impl Fn() -> bool) {
        let waiting = async {
            while !condition() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("it never came true: {what}; {:?}", self.storm));
    }

    async fn until_live(&self) {
        self.until("all are live", || self.storm.live.get() == CLIENTS).await;
    }

    /// Lets so many changes happen.
    async fn changes(&self, count: usize) {
        let changes = || self.writing.changes.load(Ordering::Relaxed);
        let wanted = changes() + count;
        self.until("rows change", || changes() >= wanted).await;
    }

    /// Cuts everybody off and waits until all are live again.
    #[expect(clippy::print_stdout, reason = "figures to read beside the ones that are asserted")]
    async fn cut(&mut self, cut: Cut) -> Memory {
        let steady = self.server.resident_bytes();
        let (start, events) = (Instant::now(), self.storm.events.get());
        let changes = self.writing.changes.load(Ordering::Relaxed);
        self.storm.live.set(0);
        self.server.forget_peak();
        match cut {
            Cut::Way | Cut::Outage => {
                self.storm.is_out.set(cut == Cut::Outage);
                self.storm.cuts.send_modify(|cuts| *cuts += 1);
                if cut == Cut::Outage {
                    self.changes(CHANGES_OF_AN_OUTAGE).await;
                    self.storm.is_out.set(false);
                }
            }
            Cut::Server => {
                self.server.kill();
                let (address, directory) = (self.server.address.clone(), self.directory.to_owned());
                self.server = task::blocking(move || ServerProcess::on_disk_at(&address, &directory)).await;
            }
        }
        self.until_live().await;
        let memory = Memory { steady, peak: self.server.peak_resident_bytes() };
        println!(
            "{cut:?}: {CLIENTS} clients were live again after {} ms, {} changes and {} events; \
             memory {} KiB, at most {} KiB",
            start.elapsed().as_millis(),
            self.writing.changes.load(Ordering::Relaxed) - changes,
            self.storm.events.get() - events,
            steady / 1024,
            memory.peak / 1024,
        );
        memory
    }

    async fn direct(mut self, cut: Cut) -> Self {
        self.until_live().await;
        self.changes(300).await;
        for _ in 0..CUTS {
            let Memory { steady, peak } = self.cut(cut).await;
            assert!(peak <= 2 * steady, "{peak} bytes at most, {steady} before");
            self.changes(300).await;
        }
        self.writing.is_over.store(true, Ordering::Relaxed);
        self
    }
}

/// The rows of a table, as they are stored, and the number of the newest change in them.
fn exported(address: &str, table: &str) -> (HashMap<Key, Value>, u64) {
    let mut client = RawClient::connect(address);
    let export = proto::RequestExportRows { table: table.to_owned(), limit: Some(1000), ..Default::default() };
    let Some(Body::ExportRows(page)) = client.request(Command::ExportRows(export)) else { panic!("no rows") };
    assert_eq!(page.next, None, "all rows fit into a page");
    let key = if table == "policy" { "id" } else { "domain" };
    let rows = page.rows.iter().map(|row| serde_json::from_slice(row).expect("JSON"));
    let rows = rows.map(|row: Value| (Key::text(row[key].as_str().expect("text")), row)).collect();
    (rows, page.position())
}

fn assert_exact(client: &StormClient, tables: &HashMap<&str, HashMap<Key, Value>>) {
    let wish = client.wish;
    let expected: HashMap<&Key, &Value> = tables[wish.table()].iter().filter(|(_, row)| wish.wants(row)).collect();
    assert_eq!(client.rows.len(), expected.len(), "{wish:?}");
    for (key, held) in &client.rows {
        let row = expected.get(key).unwrap_or_else(|| panic!("{wish:?} holds {key}"));
        assert!(wish.shows(&held.content, row), "{wish:?} {key}: {held:?} is not {row}");
    }
}

/// A storm from the first connection to the last comparison.
async fn storm(cut: Cut) {
    let _alone = ALONE.lock().await;
    allow_descriptors();
    let directory = tempfile::tempdir().expect("a directory");
    let server = ServerProcess::on_disk(directory.path());
    let storm = Storm {
        address: server.address.clone(),
        cuts: watch::Sender::new(0),
        live: Cell::new(0),
        events: Cell::new(0),
        goal: Cell::new(None),
        is_out: Cell::new(false),
    };
    let mut random = fastrand::Rng::with_seed(1);
    fill(&server.address, &mut random);
    let writing = Arc::new(Writing::default());
    let write = {
        let (writing, address) = (Arc::clone(&writing), server.address.clone());
        task::blocking(move || writing.run(&address, random))
    };
    let _ending = WritesUntilDropped(Arc::clone(&writing));
    let clients: FuturesUnordered<_> =
        (0..CLIENTS).map(|client| StormClient::new(Wish::of_client(client)).run(&storm)).collect();
    let script = async {
        let world = World { storm: &storm, server, directory: directory.path(), writing };
        let (directed, ()) = tokio::join!(world.direct(cut), write);
        let address = storm.address.clone();
        let exports =
            task::blocking(move || ["policy", "domain_login"].map(|table| (table, exported(&address, table))));
        let exports = exports.await;
        storm.goal.set(exports.iter().map(|(_, (_, position))| *position).max());
        (directed, exports)
    };
    let all = async { tokio::join!(script, clients.collect::<Vec<_>>()) };
    let ((world, exports), clients) = timeout(PATIENCE * 2, all).await.expect("it ends");
    let tables = exports.into_iter().map(|(table, (rows, _))| (table, rows)).collect();
    for client in &clients {
        assert_exact(client, &tables);
    }
    let resumes = match cut {
        Cut::Way | Cut::Outage => CUTS * CLIENTS,
        // This server has seen only the last one.
        Cut::Server => CLIENTS,
    };
    assert_eq!(world.server.metric("starfeed_subscriptions_resumed_total"), f64::from(resumes));
    assert_eq!(world.server.metric("starfeed_subscriptions_reset_total"), 0.0);
    assert_eq!(world.server.metric("starfeed_divergences_total"), 0.0);
}

#[tokio::test]
async fn all_clients_resume_when_every_connection_is_cut() {
    storm(Cut::Way).await;
}

#[tokio::test]
async fn all_clients_resume_after_an_outage() {
    storm(Cut::Outage).await;
}

#[tokio::test]
async fn all_clients_resume_when_the_server_was_killed() {
    storm(Cut::Server).await;
}
