//! A server without sockets, its clients, its disk, and what happens to them, by chance from a seed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use starfeed::change::{Change, Document, Epoch, Key, Seq, Table, Timestamp};
use starfeed::feed::{Demand, FeedLimits, Feeds, Waiting};
use starfeed::matcher::FilterLimits;
use starfeed::metrics::Metrics;
use starfeed::session::{SessionContext, SessionLimits, Writes};
use starfeed::store::{
    ChangePage, IfMissing, IfPresent, Mutation, PageBudget, Retention, Store, StoreError, StoreOptions, StoreSecret,
    Unit,
};
use starfeed::subscription::{SubscriptionLimits, SubscriptionManager};

use super::client::Client;
use super::model::Model;
use super::reader::{Reader, Truth};
use super::source::{MIRRORED, Source};
use super::wish::{TABLES, Wish};
use crate::support::fault_disk::{Failure, FaultDisk, FaultError, Operation};

const KEYS: u8 = 8;
const STEPS: usize = 250;
/// A connection's clock runs so much faster than the store's: heartbeats are seconds apart.
const TICKS: u64 = 20;

pub(super) struct Server {
    pub(super) store: Store,
    pub(super) feeds: Arc<Feeds>,
    context: Arc<SessionContext>,
    waiting: Arc<Waiting>,
}

pub(crate) struct World {
    pub(super) rng: fastrand::Rng,
    disk: FaultDisk,
    options: StoreOptions,
    outbox_bytes: usize,
    figures: Figures,
    pub(super) server: Server,
    clients: Vec<Client>,
    /// Commits that are on disk, and that the feeds have yet to be told of.
    unpublished: VecDeque<(Vec<Change>, Seq)>,
    /// Readers whose connection is gone, and who will go on.
    parked: Vec<Reader>,
    model: Model,
    /// Where one table comes from, if not from the writers here.
    pub(super) source: Option<Source>,
    /// The newest change that a writer was told of.
    acknowledged: Seq,
    pub(super) power_losses: u64,
    now: u64,
    pub(super) counts: BTreeMap<&'static str, u64>,
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
        "a resumed subscription",
        "a snapshot resumed in the middle",
        "a row left the filter",
        "a change without a token",
        "a reset",
        "a heartbeat",
        "a client was told that it is slow",
        "a forged token",
        "a resume with another filter",
        "a lost store",
        "a commit that is published later",
        "a connection to the source was lost",
        "a queue of the source overflowed",
        "a table was read from the source",
        "a change between the first rows of the source",
        "a row that was deleted while the source was away",
        "a client was told that rows may be old",
    ];

    /// Runs one schedule to its end; panics where the promise is broken. Returns what it came through.
    pub(crate) fn run(seed: u64) -> BTreeMap<&'static str, u64> {
        let mut rng = fastrand::Rng::with_seed(seed);
        let disk = FaultDisk::new();
        let options = StoreOptions {
            retention: Retention { bytes: rng.u64(500..20_000), age_ms: rng.u64(50..2_000) },
            cache_bytes: 1 << 20,
            fresh_epoch: Epoch(1),
            fresh_secret: StoreSecret([7; 32]),
            indexes: Vec::new(),
        };
        let figures = Figures {
            window_bytes: rng.usize(200..3_000),
            page: PageBudget { items: rng.usize(1..6), bytes: rng.usize(200..4_000) },
            waiting_bytes: if rng.u8(0..4) == 0 { rng.usize(200..2_000) } else { 1 << 30 },
        };
        let store = Store::open(Box::new(disk.clone()), options.clone()).expect("a new store");
        let source = rng.bool().then(Source::new);
        let mut world = Self {
            server: Server::new(store, figures),
            outbox_bytes: rng.usize(200..2_000),
            rng,
            disk,
            options,
            figures,
            clients: Vec::new(),
            unpublished: VecDeque::new(),
            parked: Vec::new(),
            model: Model::default(),
            source,
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

    pub(super) fn count(&mut self, state: &'static str) {
        *self.counts.entry(state).or_default() += 1;
    }

    fn step(&mut self) {
        self.now += self.rng.u64(0..20);
        if self.rng.bool() {
            self.publish();
        }
        self.source_step();
        if self.rng.bool() {
            self.tell_new_feeds();
        }
        match self.rng.u8(0..100) {
            0..28 => {
                // A burst now and then: more than the outboxes of slow readers hold.
                let commits = if self.rng.u8(0..6) == 0 { 8 } else { 1 };
                for _ in 0..commits {
                    self.write_to_source();
                    let units = self.units();
                    // A refusal by the disk is counted there.
                    let _ = self.commit(&units);
                }
            }
            28..31 if self.clients.len() < 4 => {
                self.clients.push(Client::new(&self.server.context, self.outbox_bytes, &self.server.waiting));
            }
            31..37 => {
                let wish = Wish::random(&mut self.rng);
                let twice = self.rng.u8(0..8) == 0;
                self.with_client(|client, _| {
                    client.subscribe(wish.clone());
                    if twice {
                        client.subscribe(wish);
                    }
                });
            }
            37..39 => self.unsubscribe(),
            39..42 => self.resume(),
            42..70 => {
                let count = if self.rng.bool() { self.rng.usize(1..6) } else { 40 };
                self.with_client(|client, world| {
                    client.tick(world.now * TICKS);
                    client.take(count, world.truth());
                });
            }
            70..75 => self.with_client(|client, world| while client.go_on(world.truth()) {}),
            75..83 => self.with_client(|client, world| {
                client.read(world.truth());
            }),
            83..91 => self.with_client(|client, world| {
                client.deliver_read(world.truth());
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
            98 if self.rng.u8(0..16) == 0 => self.lose_store(),
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

    /// A reader whose connection is gone goes on on another one; or somebody tries what nobody may.
    fn resume(&mut self) {
        if self.clients.is_empty() || self.parked.is_empty() {
            return;
        }
        let reader = self.parked.swap_remove(self.rng.usize(0..self.parked.len()));
        match self.rng.u8(0..10) {
            0 => {
                // Whatever bit is changed behind the name of the key, it is noticed.
                let mut token = reader.token().expect("parked readers have tokens").to_vec();
                let bit = self.rng.usize(9 * 8..token.len() * 8);
                token[bit / 8] ^= 1 << (bit % 8);
                let is_of_this_server = token[1..9] == self.key_id();
                let wish = reader.wish.clone();
                if is_of_this_server {
                    self.with_client(|client, _| client.forge(&wish, token.into()));
                }
                self.parked.push(reader);
            }
            1 if !reader.wish.is_library => {
                let other = reader.wish.refiltered(&mut self.rng);
                self.count("a resume with another filter");
                self.with_client(|client, _| client.resume(reader, Some(other)));
            }
            _ => self.with_client(|client, _| client.resume(reader, None)),
        }
    }

    /// How tokens of this server name the key that they are sealed with.
    fn key_id(&self) -> [u8; 8] {
        let token = starfeed::token::Token {
            epoch: Epoch(0),
            scope: starfeed::view::Scope([0; 16]),
            place: starfeed::token::Place::At(Seq::ZERO),
            summary: starfeed::summary::Summary::default(),
        };
        let sealed = starfeed::token::TokenSeal::new(self.server.store.secret()).seal(&token);
        sealed[1..9].try_into().expect("eight bytes")
    }

    fn truth(&self) -> Truth<'_> {
        Truth { model: &self.model, store: &self.server.store }
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

    /// Somebody else writes to the database.
    fn write_to_source(&mut self) {
        let key = key(self.rng.u8(0..KEYS)).to_string();
        let row = (self.rng.u8(0..4) > 0).then(|| self.row(&format!(r#""id":"{key}","#)));
        if let Some(source) = &mut self.source {
            source.write(&key, row, &mut self.rng);
        }
    }

    fn mutation(&mut self) -> Mutation {
        // What is mirrored is written by nobody else.
        let tables: Vec<&str> =
            TABLES.into_iter().filter(|table| self.source.is_none() || *table != MIRRORED).collect();
        let table = Table::new(tables[self.rng.usize(0..tables.len())]);
        let key = key(self.rng.u8(0..KEYS));
        let document = Document::parse(self.row("").as_bytes()).expect("an object");
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

    /// A row as JSON; `id` is its first member, if it has one.
    fn row(&mut self, id: &str) -> String {
        let on = ["", r#","on":true"#, r#","on":false"#][self.rng.usize(0..3)];
        let kind = ["a", "b", "c"][self.rng.usize(0..3)];
        let pad = "x".repeat(self.rng.usize(0..200));
        format!(r#"{{{id}"kind":"{kind}","v":{},"pad":"{pad}"{on}}}"#, self.rng.u32(0..1000))
    }

    pub(super) fn commit(&mut self, units: &[Unit]) -> Result<Vec<starfeed::store::UnitResult>, StoreError> {
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
                self.unpublished.push_back((committed.changes, committed.upto));
                if self.rng.u8(0..3) > 0 {
                    self.publish();
                } else {
                    self.count("a commit that is published later");
                }
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

    /// Tells the feeds of what is on disk, in order.
    pub(super) fn publish(&mut self) {
        for (changes, upto) in std::mem::take(&mut self.unpublished) {
            self.server.feeds.publish(changes, upto);
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
            let rows = rows.into_iter().map(|row| (row.key, (row.version, row.document))).collect();
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
        self.unpublished.clear();
        self.count_fell_behind();
        let seen = self.clients.iter().map(Client::seen).max().unwrap_or_default();
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
                    self.server = Server::new(store, self.figures);
                    break;
                }
                Err(error) => {
                    assert!(self.disk.is_off(), "the store cannot be opened: {error}");
                    self.count("a power loss during recovery");
                }
            }
        }
        self.forget_source();
        let position = self.server.store.position();
        assert_eq!(position.epoch, self.options.fresh_epoch, "another history");
        assert!(position.seq >= self.acknowledged, "acknowledged changes are lost");
        assert!(position.seq >= seen, "a client has seen a change that is not in the store");
        self.learn_what_is_on_disk();
        self.acknowledged = position.seq;
    }

    /// The disk is gone, and a new one begins another history, sometimes with the secret that an operator has kept.
    fn lose_store(&mut self) {
        self.count("a lost store");
        self.power_losses += 1;
        self.unpublished.clear();
        self.count_fell_behind();
        for client in std::mem::take(&mut self.clients) {
            self.leave(client);
        }
        self.disk = FaultDisk::new();
        self.options.fresh_epoch = Epoch(self.options.fresh_epoch.0 + 1);
        if self.rng.bool() {
            self.options.fresh_secret.0[0] ^= 1;
        }
        let store = Store::open(Box::new(self.disk.clone()), self.options.clone()).expect("a new store");
        self.server = Server::new(store, self.figures);
        self.model = Model::default();
        self.forget_source();
        self.acknowledged = Seq::ZERO;
    }

    fn leave(&mut self, client: Client) {
        let (readers, counts) = client.cut();
        for (state, count) in counts {
            *self.counts.entry(state).or_default() += count;
        }
        self.parked.extend(readers);
    }

    fn count_fell_behind(&mut self) {
        assert_eq!(self.server.context.metrics.divergences.get(), 0, "a view differs from what was sent");
        let fell_behind = self.server.context.metrics.fell_behind.get();
        *self.counts.entry("a subscription fell behind").or_default() += fell_behind;
    }

    /// Faults stop, and everyone reads until nothing comes: then every client holds what is there, and nothing leaks.
    fn settle(&mut self) {
        self.disk.heal();
        // Changes that a fault left unpublished come with the next commit.
        while self.commit(&[]).is_err() {}
        self.publish();
        self.settle_source();
        for _ in 0..100_000 {
            self.tell_new_feeds();
            let mut is_busy = false;
            for mut client in std::mem::take(&mut self.clients) {
                is_busy |= client.go_on(self.truth());
                while let Some((ticket, unit)) = client.writes.pop_front() {
                    let result = self.commit(&[unit]).map(|mut results| results.remove(0));
                    self.publish();
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
            client.check_converged(self.truth());
        }
        let live: usize = self.server.feeds.figures().iter().map(|figures| figures.live).sum();
        let subscribed: usize = self.clients.iter().map(|client| client.subscriptions().len()).sum();
        assert_eq!(live, subscribed, "who is level is live");
        for client in std::mem::take(&mut self.clients) {
            self.leave(client);
        }
        self.count_fell_behind();
        assert_eq!(self.server.waiting.bytes(), 0, "what waited for nobody is still counted");
        assert_eq!(self.server.context.subscriptions.count(), 0, "subscriptions are left");
        let figures = self.server.feeds.figures();
        assert!(figures.iter().all(|feed| (feed.live, feed.filters) == (0, 0)), "somebody is left: {figures:?}");
    }
}

/// Tables are followed here whether anybody subscribes to them or not.
#[derive(Debug)]
struct NoDemand;

impl Demand for NoDemand {
    fn changed(&self, _: &Table) {}
}

/// How small the parts of a server are.
#[derive(Clone, Copy)]
struct Figures {
    window_bytes: usize,
    page: PageBudget,
    waiting_bytes: usize,
}

impl Server {
    fn new(store: Store, figures: Figures) -> Self {
        let metrics = Arc::new(Metrics::default());
        let limits = FeedLimits {
            window_bytes: figures.window_bytes,
            table_filter_cost: 1_000_000,
            pattern_bytes: 1 << 20,
            hash_seed: 1,
        };
        let feeds = Feeds::of_source(store.position().seq, limits, Arc::clone(&metrics), Arc::new(NoDemand));
        let limits = SubscriptionLimits { per_connection: 128, total: 1_000 };
        let subscriptions = SubscriptionManager::new(Arc::clone(&feeds), limits);
        let limits = SessionLimits {
            requests: 64,
            request_bytes: 1 << 20,
            row_bytes: 1 << 20,
            answer_bytes: 1 << 20,
            import_bytes: 1 << 20,
            page: figures.page,
            filters: FilterLimits::default(),
        };
        let context = SessionContext::new(&store, subscriptions, metrics, limits, Writes::Overlap, Arc::default());
        Self { store, feeds, context, waiting: Waiting::new(figures.waiting_bytes) }
    }
}

/// All are UUIDs but the first.
fn key(number: u8) -> Key {
    match number {
        0 => Key::text("key0"),
        _ => Key::text(&format!("00000000-0000-4000-8000-{number:012}")),
    }
}
