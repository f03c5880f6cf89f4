//! A server without sockets, its clients, its disk, and what happens to them, by chance from a seed.

use std::collections::BTreeMap;
use std::sync::Arc;

use starfeed::catalog::RowProblems;
use starfeed::change::{Document, Epoch, Key, Seq, Table, Timestamp};
use starfeed::feed::Feeds;
use starfeed::metrics::Metrics;
use starfeed::session::{SessionContext, SessionLimits};
use starfeed::store::{
    ChangePage, IfMissing, IfPresent, Mutation, PageBudget, Retention, Store, StoreError, StoreOptions, Unit,
};
use starfeed::subscription::{SubscriptionLimits, SubscriptionManager};

use super::client::Client;
use super::model::Model;
use crate::support::fault_disk::{Failure, FaultDisk, FaultError, Operation};

const TABLES: [&str; 3] = ["policy", "schedule", "domain_login"];
const KEYS: u8 = 8;
const STEPS: usize = 250;
const EPOCH: Epoch = Epoch(7);

struct Server {
    store: Store,
    feeds: Arc<Feeds>,
    context: Arc<SessionContext>,
}

pub(crate) struct World {
    rng: fastrand::Rng,
    disk: FaultDisk,
    options: StoreOptions,
    outbox_bytes: usize,
    window_bytes: usize,
    page: PageBudget,
    server: Server,
    clients: Vec<Client>,
    model: Model,
    /// The newest change that a writer was told of.
    acknowledged: Seq,
    power_losses: u64,
    now: u64,
    counts: BTreeMap<&'static str, u64>,
}

impl World {
    /// What the schedules together have to come through.
    pub(crate) const STATES: &[&'static str] = &[
        "a snapshot in several pages",
        "a page of the log",
        "a subscription ended because the log was trimmed",
        "an end before the snapshot was complete",
        "a subscription fell behind",
        "a refused unit",
        "a failed commit",
        "a failed commit that is on disk all the same",
        "a power loss",
        "a power loss during a commit",
        "a power loss during recovery",
        "a client was cut",
    ];

    /// Runs one schedule to its end; panics where the promise is broken. Returns what it came through.
    pub(crate) fn run(seed: u64) -> BTreeMap<&'static str, u64> {
        let mut rng = fastrand::Rng::with_seed(seed);
        let disk = FaultDisk::new();
        let options = StoreOptions {
            retention: Retention { bytes: rng.u64(500..20_000), age_ms: rng.u64(50..2_000) },
            cache_bytes: 1 << 20,
            fresh_epoch: EPOCH,
        };
        let window_bytes = rng.usize(200..3_000);
        let page = PageBudget { items: rng.usize(1..6), bytes: rng.usize(200..4_000) };
        let store = Store::open(Box::new(disk.clone()), options.clone()).expect("a new store");
        let mut world = Self {
            server: Server::new(store, window_bytes, page),
            outbox_bytes: rng.usize(200..2_000),
            rng,
            disk,
            options,
            window_bytes,
            page,
            clients: Vec::new(),
            model: Model::default(),
            acknowledged: Seq::ZERO,
            power_losses: 0,
            now: 0,
            counts: BTreeMap::new(),
        };
        for _ in 0..STEPS {
            world.step();
        }
        world.settle();
        world.counts
    }

    fn count(&mut self, state: &'static str) {
        *self.counts.entry(state).or_default() += 1;
    }

    fn step(&mut self) {
        self.now += self.rng.u64(0..20);
        match self.rng.u8(0..100) {
            0..28 => {
                // A burst now and then: more than the outboxes of slow readers hold.
                let commits = if self.rng.u8(0..6) == 0 { 8 } else { 1 };
                for _ in 0..commits {
                    let units = self.units();
                    // A refusal by the disk is counted there.
                    let _ = self.commit(&units);
                }
            }
            28..31 if self.clients.len() < 4 => {
                self.clients.push(Client::new(&self.server.context, self.outbox_bytes));
            }
            31..37 => {
                let table = TABLES[self.rng.usize(0..TABLES.len())];
                let twice = self.rng.u8(0..8) == 0;
                self.with_client(|client, _| {
                    client.subscribe(table);
                    if twice {
                        client.subscribe(table);
                    }
                });
            }
            37..40 => self.unsubscribe(),
            40..70 => {
                let count = if self.rng.bool() { self.rng.usize(1..6) } else { 40 };
                self.with_client(|client, world| {
                    client.take(count, &world.model, &world.server.store);
                });
            }
            70..75 => self.with_client(|client, world| while client.go_on(&world.model, &world.server.store) {}),
            75..83 => self.with_client(|client, world| {
                client.read(&world.server.store);
            }),
            83..91 => self.with_client(|client, world| {
                client.deliver_read(&world.model);
            }),
            91..94 => {
                let domain = key(self.rng.u8(0..KEYS)).to_string();
                self.with_client(|client, _| client.delete_login(&domain));
            }
            94..96 if !self.clients.is_empty() => {
                let index = self.rng.usize(0..self.clients.len());
                let client = self.clients.swap_remove(index);
                self.leave(client);
                self.count("a client was cut");
            }
            96 if self.rng.bool() => self.disk_fault(),
            97 if self.rng.u8(0..4) == 0 => self.lose_power(),
            _ => self.client_writes(),
        }
    }

    fn with_client(&mut self, work: impl FnOnce(&mut Client, &mut Self)) {
        if self.clients.is_empty() {
            return;
        }
        let index = self.rng.usize(0..self.clients.len());
        let mut client = self.clients.swap_remove(index);
        let losses = self.power_losses;
        work(&mut client, self);
        if losses == self.power_losses {
            self.clients.push(client);
        } else {
            self.leave(client);
        }
    }

    fn unsubscribe(&mut self) {
        let choice = self.rng.usize(0..16);
        self.with_client(|client, _| {
            let subscriptions = client.subscriptions();
            match subscriptions.get(choice % subscriptions.len().max(1)) {
                Some(subscription_id) if choice > 0 => client.unsubscribe(*subscription_id),
                _ => client.unsubscribe(999),
            }
        });
    }

    fn units(&mut self) -> Vec<Unit> {
        (0..self.rng.usize(1..4)).map(|_| (0..self.rng.usize(1..4)).map(|_| self.mutation()).collect()).collect()
    }

    fn mutation(&mut self) -> Mutation {
        let table = Table::new(TABLES[self.rng.usize(0..TABLES.len())]);
        let key = key(self.rng.u8(0..KEYS));
        let text = format!(r#"{{"v":{},"pad":"{}"}}"#, self.rng.u32(0..1000), "x".repeat(self.rng.usize(0..200)));
        let document = Document::parse(text.as_bytes()).expect("an object");
        match self.rng.u8(0..10) {
            0..5 => Mutation::put(table, key, document),
            5..7 => Mutation::delete(table, key),
            7..9 => Mutation::update(table, key, document, "there is no such row".to_owned()),
            _ => Mutation {
                if_missing: IfMissing::Ignore,
                if_present: IfPresent::Merge(document),
                ..Mutation::delete(table, key)
            },
        }
    }

    fn commit(&mut self, units: &[Unit]) -> Result<Vec<starfeed::store::UnitResult>, StoreError> {
        match self.server.store.commit(Timestamp(self.now), units) {
            Ok(committed) => {
                for change in &committed.changes {
                    self.model.take(change);
                }
                assert_eq!(committed.upto, self.model.last(), "the newest position is that of the newest change");
                self.acknowledged = committed.upto;
                for _ in committed.results.iter().filter(|result| result.is_err()) {
                    self.count("a refused unit");
                }
                self.server.feeds.publish(committed.changes, committed.upto);
                Ok(committed.results)
            }
            Err(error) => {
                self.count("a failed commit");
                if self.disk.is_off() {
                    self.count("a power loss during a commit");
                    self.lose_power();
                } else {
                    self.disk.heal();
                    assert!(!matches!(error, StoreError::Damaged(_)), "{error}");
                    if self.learn_what_is_on_disk() {
                        self.count("a failed commit that is on disk all the same");
                    }
                }
                Err(error)
            }
        }
    }

    /// After a fault the store says what became of the write; sessions may read it from now on. Says whether it is there.
    fn learn_what_is_on_disk(&mut self) -> bool {
        let snapshot = self.server.store.snapshot().expect("the disk works again");
        let before = self.model.last();
        assert!(snapshot.position().seq >= before, "acknowledged changes are lost");
        let budget = PageBudget { items: usize::MAX, bytes: usize::MAX };
        let mut changes = Vec::new();
        for table in TABLES {
            match snapshot.changes_after(&Table::new(table), before, budget).expect("the disk works again") {
                ChangePage::Changes { changes: found, .. } => changes.extend(found),
                ChangePage::Trimmed => panic!("changes were trimmed before they were published"),
            }
        }
        changes.sort_by_key(|change| change.seq);
        for change in &changes {
            self.model.take(change);
        }
        assert_eq!(self.model.last(), snapshot.position().seq, "the log ends where the store says");
        for table in TABLES {
            let rows = snapshot.rows_after(&Table::new(table), None, budget).expect("the disk works again").rows;
            let rows = rows.into_iter().map(|row| (row.key, row.document)).collect();
            assert_eq!(self.model.now(table), rows, "rows and log differ");
        }
        self.model.last() > before
    }

    fn client_writes(&mut self) {
        self.with_client(|client, world| {
            let Some((ticket, unit)) = client.writes.pop_front() else { return };
            let result = world.commit(&[unit]).map(|mut results| results.remove(0));
            client.written(ticket, result);
        });
    }

    fn disk_fault(&mut self) {
        let nth = self.rng.u64(0..4);
        let operation = if self.rng.bool() { Operation::Sync } else { Operation::Change };
        let error = if self.rng.bool() { FaultError::Io } else { FaultError::Full };
        let failure = match self.rng.u8(0..5) {
            0 => Failure::Once(error),
            1 => Failure::OnceButDone(error),
            2 => Failure::PowerOff,
            3 => Failure::PowerOffButDone,
            _ => Failure::SyncThatLoses(self.rng.fork()),
        };
        let operation = if matches!(failure, Failure::SyncThatLoses(_)) { Operation::Sync } else { operation };
        self.disk.fail(operation, nth, failure);
    }

    /// Everything in memory is gone, and some of what was not synced.
    fn lose_power(&mut self) {
        self.count("a power loss");
        self.power_losses += 1;
        self.count_fell_behind();
        let seen = self.clients.iter().map(|client| client.seen).max().unwrap_or_default();
        for client in std::mem::take(&mut self.clients) {
            self.leave(client);
        }
        self.disk.heal();
        loop {
            self.disk.crash(&mut self.rng);
            if self.rng.u8(0..4) == 0 {
                let nth = self.rng.u64(0..6);
                self.disk.fail(Operation::Change, nth, Failure::PowerOff);
            }
            match Store::open(Box::new(self.disk.clone()), self.options.clone()) {
                Ok(store) => {
                    self.disk.heal();
                    self.server = Server::new(store, self.window_bytes, self.page);
                    break;
                }
                Err(error) => {
                    assert!(self.disk.is_off(), "the store cannot be opened: {error}");
                    self.count("a power loss during recovery");
                }
            }
        }
        let position = self.server.store.position();
        assert_eq!(position.epoch, EPOCH, "another history");
        assert!(position.seq >= self.acknowledged, "acknowledged changes are lost");
        assert!(position.seq >= seen, "a client has seen a change that is not in the store");
        self.learn_what_is_on_disk();
        self.acknowledged = position.seq;
    }

    fn leave(&mut self, client: Client) {
        for (state, count) in client.counts {
            *self.counts.entry(state).or_default() += count;
        }
    }

    fn count_fell_behind(&mut self) {
        let fell_behind = self.server.context.metrics.fell_behind.get();
        *self.counts.entry("a subscription fell behind").or_default() += fell_behind;
    }

    /// Faults stop, and everyone reads until nothing comes: then every client holds what is there, and nothing leaks.
    fn settle(&mut self) {
        self.disk.heal();
        // Changes that a fault left unpublished come with the next commit.
        while self.commit(&[]).is_err() {}
        for _ in 0..100_000 {
            let mut is_busy = false;
            for mut client in std::mem::take(&mut self.clients) {
                is_busy |= client.go_on(&self.model, &self.server.store);
                while let Some((ticket, unit)) = client.writes.pop_front() {
                    let result = self.commit(&[unit]).map(|mut results| results.remove(0));
                    client.written(ticket, result);
                    is_busy = true;
                }
                self.clients.push(client);
            }
            if !is_busy {
                break;
            }
        }
        for client in &self.clients {
            client.check_converged(&self.model);
        }
        let live: usize = self.server.feeds.live().iter().map(|(_, live)| live).sum();
        let subscribed: usize = self.clients.iter().map(|client| client.subscriptions().len()).sum();
        assert_eq!(live, subscribed, "who is level is live");
        for client in std::mem::take(&mut self.clients) {
            self.leave(client);
        }
        self.count_fell_behind();
        assert_eq!(self.server.context.subscriptions.count(), 0, "subscriptions are left");
        assert!(self.server.feeds.live().is_empty(), "feeds are left");
    }
}

impl Server {
    fn new(store: Store, window_bytes: usize, page: PageBudget) -> Self {
        let metrics = Arc::new(Metrics::default());
        let feeds = Feeds::new(store.position().seq, window_bytes, metrics.fell_behind.clone());
        let limits = SubscriptionLimits { per_connection: 128, total: 1_000 };
        let context = Arc::new(SessionContext {
            subscriptions: SubscriptionManager::new(Arc::clone(&feeds), limits),
            problems: Arc::new(RowProblems::default()),
            metrics,
            limits: SessionLimits {
                requests: 64,
                request_bytes: 1 << 20,
                row_bytes: 1 << 20,
                answer_bytes: 1 << 20,
                import_bytes: 1 << 20,
                page,
            },
        });
        Self { store, feeds, context }
    }
}

fn key(number: u8) -> Key {
    Key::text(&format!("key{number}"))
}
