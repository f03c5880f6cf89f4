//! RethinkDB as the source in the process of the test, without a server in front of it.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use starfeed::catalog::stored_table;
use starfeed::change::{Epoch, Seq, Table};
use starfeed::clock::Clock;
use starfeed::config::{Config, ConfigSources};
use starfeed::feed::Feeds;
use starfeed::metrics::Metrics;
use starfeed::source::rethinkdb::{Demands, Parts, RethinkDb};
use starfeed::source::{Changes, Source};
use starfeed::store::{
    Index, MemoryDisk, Query, QueryResult, Retention, Store, StoreOptions, StoreSecret, Unit, UnitResult, Writer,
};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// More than any answer here has.
pub(crate) const BYTES_MAX: usize = 64 << 20;

/// A source, and what it works with.
pub(crate) struct OpenSource {
    runtime: Runtime,
    source: Option<RethinkDb>,
    writer: Option<Writer>,
    shutdown: CancellationToken,
    tracker: TaskTracker,
}

impl OpenSource {
    /// The one at `url`, which lets `password` in.
    pub(crate) fn new(url: &str, password: &str) -> Self {
        let environment = [("STARFEED_SOURCE", url), ("STARFEED_SOURCE_PASSWORD", password)];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let config = Config::load(&ConfigSources { environment, ..ConfigSources::default() }).expect("a configuration");
        let store = StoreOptions {
            retention: Retention { bytes: 1 << 20, age_ms: u64::MAX },
            cache_bytes: 1 << 20,
            journal_bytes: 1 << 20,
            fresh_epoch: Epoch(1),
            fresh_secret: StoreSecret([7; 32]),
            indexes: Vec::new(),
        };
        let store = Store::open(Box::new(MemoryDisk), store).expect("a store in memory");
        let (metrics, demands) = (Arc::new(Metrics::default()), Demands::new());
        let feeds =
            Feeds::of_source(Seq::ZERO, config.limits.feeds(1), Arc::clone(&metrics), Arc::clone(&demands) as _);
        let (writer, handle) = Writer::start(store.clone(), Clock, config.limits.writer(), Arc::clone(&feeds));
        let (shutdown, tracker) = (CancellationToken::new(), TaskTracker::new());
        let parts = Parts {
            store,
            writer: handle,
            feeds,
            demands,
            metrics,
            tracker: tracker.clone(),
            shutdown: shutdown.clone(),
            connections: tracker.clone(),
        };
        let runtime = Runtime::new().expect("a runtime");
        let options = config.source().expect("it can be used").expect("there is one");
        let source = runtime.block_on(RethinkDb::start(options, parts)).expect("a database of a crawler");
        Self { runtime, source: Some(source), writer: Some(writer), shutdown, tracker }
    }

    fn source(&self) -> &RethinkDb {
        self.source.as_ref().expect("it is open")
    }

    pub(crate) fn query(&self, query: Query) -> QueryResult {
        self.query_within(query, BYTES_MAX).unwrap_or_else(|error| panic!("it cannot be read: {error}"))
    }

    pub(crate) fn query_within(&self, query: Query, bytes_max: usize) -> Result<QueryResult, String> {
        self.runtime.block_on(self.source().query(query, bytes_max)).map_err(|error| error.to_string())
    }

    /// Writes `unit`; the inner error is its refusal.
    pub(crate) fn write(&self, unit: Unit) -> Result<UnitResult, String> {
        self.runtime.block_on(self.source().write(unit)).result.map_err(|error| error.to_string())
    }

    pub(crate) fn changes(&self, table: &str, index: &str, prefix: Vec<Value>) -> Changes {
        let _in_runtime = self.runtime.enter();
        self.source().changes(&Table::new(table), self::index(table, index), prefix)
    }

    /// Waits for the next change.
    pub(crate) fn next(&self, changes: &mut Changes) {
        let next = async { tokio::time::timeout(PATIENCE, changes.next()).await };
        self.runtime.block_on(next).expect("something has changed");
    }

    /// Whether there is a change that nobody has waited for.
    pub(crate) fn has_next(&self, changes: &mut Changes) -> bool {
        let poll_once = async { futures_util::FutureExt::now_or_never(changes.next()).is_some() };
        self.runtime.block_on(poll_once)
    }
}

impl Drop for OpenSource {
    fn drop(&mut self) {
        self.shutdown.cancel();
        self.source.take();
        self.tracker.close();
        let ended = async { tokio::time::timeout(PATIENCE, self.tracker.wait()).await };
        let ended = self.runtime.block_on(ended);
        if !std::thread::panicking() {
            ended.expect("its tasks end with it");
            self.writer.take().expect("it ends once").join();
        }
    }
}

/// An index of a table.
pub(crate) fn index(table: &str, name: &str) -> &'static Index {
    let table = stored_table(table).expect("a table of a crawler");
    table.indexes.iter().find(|index| index.name == name).expect("one of its indexes")
}
