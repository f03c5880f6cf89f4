//! A server without sockets, its clients, its disk, and what happens to them, by chance from a seed.

use std::collections::{BTreeMap, VecDeque};

use starfeed::change::{Change, Document, Epoch, Key, Seq, Table, Timestamp};
use starfeed::store::{
    IfMissing, IfPresent, Mutation, PageBudget, Retention, Store, StoreError, StoreOptions, StoreSecret, Unit,
};
use starfeed::token::{Place, Token};

use super::client::{Client, Left};
use super::faults::Ending;
use super::jobs::{Crawler, SyncReader};
use super::model::Model;
use super::reader::Reader;
use super::server::{Figures, Server, Truth, indexes};
use super::source::{MIRRORED, Source};
use super::wish::{TABLES, Wish};
use crate::support::fault_disk::FaultDisk;

const KEYS: u8 = 8;
/// Steps of a schedule.
const STEPS: usize = 2_000;
/// A connection's clock runs so much faster than the store's: heartbeats are seconds apart.
const TICKS: u64 = 20;
const CLIENTS_MAX: usize = 4;
/// Whoever has something to do for so many turns will never be done.
pub(super) const TURNS_MAX: usize = 5_000;

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Write,
    WriteToSource,
    Crawl,
    Publish,
    TellFeeds,
    Source,
    Connect,
    Cut,
    Subscribe,
    Sync,
    FollowStatus,
    Unsubscribe,
    Resume,
    AskForWrite,
    DoWrite,
    Take,
    GoOn,
    Hear,
    Read,
    DeliverRead,
    CrawlDuringARead,
    DiskFault,
    FillDisk,
    FreeDisk,
    SettleStore,
    LosePower,
    Kill,
    LoseStore,
    SetClock,
    CalmDown,
}

/// How often each happens, compared with the others. Schedules differ in that, too.
const ACTIONS: [(Action, u32); 30] = [
    (Action::Write, 350),
    (Action::WriteToSource, 350),
    (Action::Crawl, 80),
    (Action::Publish, 1_500),
    (Action::TellFeeds, 500),
    (Action::Source, 1_500),
    (Action::Connect, 200),
    (Action::Cut, 80),
    (Action::Subscribe, 500),
    (Action::Sync, 80),
    (Action::FollowStatus, 30),
    (Action::Unsubscribe, 120),
    (Action::Resume, 300),
    (Action::AskForWrite, 120),
    (Action::DoWrite, 150),
    (Action::Take, 6_000),
    (Action::GoOn, 500),
    (Action::Hear, 600),
    (Action::Read, 1_800),
    (Action::DeliverRead, 1_800),
    (Action::CrawlDuringARead, 150),
    (Action::DiskFault, 40),
    (Action::FillDisk, 4),
    (Action::FreeDisk, 30),
    (Action::SettleStore, 200),
    (Action::LosePower, 8),
    (Action::Kill, 4),
    (Action::LoseStore, 2),
    (Action::SetClock, 6),
    (Action::CalmDown, 10),
];

pub(crate) struct World {
    pub(super) rng: fastrand::Rng,
    pub(super) disk: FaultDisk,
    pub(super) options: StoreOptions,
    pub(super) figures: Figures,
    pub(super) server: Server,
    outbox_bytes: usize,
    /// How often each action happens here, added up.
    weights: [u32; ACTIONS.len()],
    pub(super) clients: Vec<Client>,
    /// Commits that are on disk, and that the feeds have yet to be told of.
    pub(super) unpublished: VecDeque<(Vec<Change>, Seq)>,
    /// Readers whose connection is gone, and who will go on.
    parked: Vec<Reader>,
    parked_syncs: Vec<SyncReader>,
    pub(super) model: Model,
    /// Where one table comes from, if not from the writers here.
    pub(super) source: Option<Source>,
    pub(super) crawler: Crawler,
    /// The newest change that a writer was told of.
    pub(super) acknowledged: Seq,
    /// How often everything in memory was lost.
    pub(super) crashes: u64,
    /// What the clock on the wall says.
    pub(super) clock_ms: u64,
    /// The time of connections, which nobody can set.
    pub(super) tick_ms: u64,
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
        "a crash with commits in the journal",
        "a commit above what settles",
        "a settled store",
        "a store that could not be settled",
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
        "a table of the source was dropped",
        "a killed process",
        "a full disk",
        "a commit that found the disk full",
        "a clock that jumped",
        "a calm",
        "a publisher spoke to a client itself",
        "a publisher passed changes on to a client",
        "a sync",
        "a resumed sync",
        "a sync of a job that is not there",
        "a sync reached the end of its job",
        "a sync lost its job",
        "a job was finished",
        "a job was deleted",
        "job status ended because the log was trimmed",
        "a page that another one has read",
        "a page that another one reads",
    ];

    /// Runs one schedule to its end; panics where the promise is broken. Returns what it came through.
    pub(crate) fn run(seed: u64, mut tell: impl FnMut(&dyn std::fmt::Debug)) -> BTreeMap<&'static str, u64> {
        let mut world = Self::new(seed);
        for _ in 0..STEPS {
            let action = world.choose();
            tell(&action);
            world.act(action);
        }
        tell(&"settle");
        world.settle();
        world.counts
    }

    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let disk = FaultDisk::new();
        let options = StoreOptions {
            retention: Retention { bytes: rng.u64(500..20_000), age_ms: rng.u64(50..2_000) },
            cache_bytes: 1 << 20,
            journal_bytes: rng.u64(1..20) * 4096,
            fresh_epoch: Epoch(1),
            fresh_secret: StoreSecret([7; 32]),
            indexes: indexes(),
        };
        let figures = Figures {
            window_bytes: rng.usize(200..3_000),
            page: PageBudget { items: rng.usize(1..6), bytes: rng.usize(200..4_000) },
            shared_bytes: rng.usize(0..20_000),
            shared_ms: rng.u64(1..2_000),
            waiting_bytes: if rng.u8(0..4) == 0 { rng.usize(200..2_000) } else { 1 << 30 },
        };
        let store = Store::open(Box::new(disk.clone()), options.clone()).expect("a new store");
        Self {
            server: Server::new(store, figures),
            outbox_bytes: rng.usize(200..2_000),
            weights: weights(&mut rng),
            source: rng.bool().then(Source::new),
            rng,
            disk,
            options,
            figures,
            clients: Vec::new(),
            unpublished: VecDeque::new(),
            parked: Vec::new(),
            parked_syncs: Vec::new(),
            model: Model::default(),
            crawler: Crawler::default(),
            acknowledged: Seq::ZERO,
            crashes: 0,
            clock_ms: 10 * 24 * 60 * 60 * 1000,
            tick_ms: 0,
            counts: BTreeMap::new(),
        }
    }

    pub(super) fn count(&mut self, state: &'static str) {
        *self.counts.entry(state).or_default() += 1;
    }

    fn choose(&mut self) -> Action {
        let all = self.weights[ACTIONS.len() - 1];
        let at = self.rng.u32(0..all);
        ACTIONS[self.weights.partition_point(|upto| *upto <= at)].0
    }

    fn act(&mut self, action: Action) {
        let passed_ms = self.rng.u64(0..4);
        self.clock_ms += passed_ms;
        self.tick_ms += passed_ms * TICKS;
        match action {
            Action::Write => self.write(),
            Action::WriteToSource => self.write_to_source(),
            Action::Crawl => self.crawl(),
            Action::Publish => self.publish(),
            Action::TellFeeds => self.tell_new_feeds(),
            Action::Source => self.source_step(),
            Action::Connect if self.clients.len() < CLIENTS_MAX => {
                let is_direct = self.rng.bool();
                self.clients.push(Client::new(&self.server, self.outbox_bytes, is_direct));
            }
            Action::Connect => {}
            Action::Cut => self.cut(),
            Action::Subscribe => self.subscribe(),
            Action::Sync => self.sync(),
            Action::FollowStatus => self.with_client(|client, _| client.follow_status()),
            Action::Unsubscribe => self.unsubscribe(),
            Action::Resume => self.resume(),
            Action::AskForWrite => {
                let domain = key(self.rng.u8(0..KEYS)).to_string();
                self.with_client(|client, _| client.delete_login(&domain));
            }
            Action::DoWrite => self.client_writes(),
            Action::Take => {
                let count = if self.rng.bool() { self.rng.usize(1..6) } else { 40 };
                self.with_client(|client, world| {
                    client.tick(world.tick_ms);
                    client.take(count, world.truth());
                });
            }
            Action::GoOn => self.with_client(|client, world| {
                let comes_to_rest = (0..TURNS_MAX).any(|_| !client.go_on(world.truth()));
                assert!(comes_to_rest, "a client is never done");
            }),
            Action::Hear => self.with_client(|client, _| {
                client.hear();
            }),
            Action::Read => self.with_client(|client, world| {
                client.read(world.truth());
            }),
            Action::DeliverRead => self.with_client(|client, world| {
                client.deliver_read(world.truth());
            }),
            Action::CrawlDuringARead => self.with_client(|client, world| {
                let (has_read, crashes) = (client.read(world.truth()), world.crashes);
                world.crawl();
                world.publish();
                // A crash has cut it off.
                if has_read && crashes == world.crashes {
                    client.hear();
                    client.deliver_read(world.truth());
                }
            }),
            Action::DiskFault => self.disk_fault(),
            Action::FillDisk => self.fill_disk(),
            Action::FreeDisk => self.free_disk(),
            Action::SettleStore => self.settle_store(),
            Action::LosePower => self.crash(Ending::PowerLoss),
            Action::Kill => self.crash(Ending::Kill),
            Action::LoseStore => self.lose_store(),
            Action::SetClock => self.set_clock(),
            Action::CalmDown => self.calm_down(),
        }
    }

    fn write(&mut self) {
        // A burst now and then: more than the outboxes of slow readers hold.
        let commits = if self.rng.u8(0..8) == 0 { 6 } else { 1 };
        for _ in 0..commits {
            let units = self.units();
            // A refusal by the disk is counted there.
            let _ = self.commit(&units);
        }
    }

    fn cut(&mut self) {
        if self.clients.is_empty() {
            return;
        }
        let index = self.rng.usize(0..self.clients.len());
        let client = self.clients.swap_remove(index);
        self.leave(client);
        self.count("a client was cut");
    }

    fn subscribe(&mut self) {
        let wish = Wish::random(&mut self.rng);
        let twice = self.rng.u8(0..8) == 0;
        self.with_client(|client, _| {
            client.subscribe(wish.clone());
            if twice {
                client.subscribe(wish);
            }
        });
    }

    /// Somebody begins to take what a job downloads, or goes on.
    fn sync(&mut self) {
        if self.clients.is_empty() {
            return;
        }
        let parked = self.parked_syncs.pop();
        let job = self.any_job();
        self.with_client(|client, _| client.sync(parked.unwrap_or_else(|| SyncReader::new(job))));
    }

    fn with_client(&mut self, work: impl FnOnce(&mut Client, &mut Self)) {
        if self.clients.is_empty() {
            return;
        }
        let index = self.rng.usize(0..self.clients.len());
        let mut client = self.clients.swap_remove(index);
        let crashes = self.crashes;
        work(&mut client, self);
        if crashes == self.crashes {
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
        let token = Token {
            epoch: Epoch(0),
            scope: starfeed::view::Scope([0; 16]),
            place: Place::At(Seq::ZERO),
            summary: starfeed::summary::Summary::default(),
        };
        let sealed = self.server.seal.seal(&token);
        sealed[1..9].try_into().expect("eight bytes")
    }

    pub(super) fn truth(&self) -> Truth<'_> {
        let Server { store, feeds, seal, .. } = &self.server;
        Truth { model: &self.model, store, feeds, seal }
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
        match self.server.store.commit(Timestamp(self.clock_ms), units) {
            Ok(committed) => {
                if committed.must_settle {
                    self.count("a commit above what settles");
                }
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
                    self.crash(Ending::PowerLoss);
                } else {
                    if matches!(error, StoreError::DiskFull) {
                        self.count("a commit that found the disk full");
                    }
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

    fn client_writes(&mut self) {
        self.with_client(|client, world| {
            let Some((ticket, unit)) = client.writes.pop_front() else { return };
            let result = world.commit(&[unit]).map(|mut results| results.remove(0));
            client.written(ticket, result);
        });
    }

    pub(super) fn leave(&mut self, client: Client) {
        let Left { readers, syncs, counts } = client.cut();
        for (state, count) in counts {
            *self.counts.entry(state).or_default() += count;
        }
        self.parked.extend(readers);
        self.parked_syncs.extend(syncs);
    }

    pub(super) fn count_fell_behind(&mut self) {
        assert_eq!(self.server.context.metrics.divergences.get(), 0, "a view differs from what was sent");
        let fell_behind = self.server.context.metrics.fell_behind.get();
        *self.counts.entry("a subscription fell behind").or_default() += fell_behind;
    }
}

/// How often each action happens in one schedule, added up: some never, some much more often than in others.
fn weights(rng: &mut fastrand::Rng) -> [u32; ACTIONS.len()] {
    let mut sum = 0;
    ACTIONS.map(|(action, weight)| {
        let is_needed = matches!(
            action,
            Action::Publish | Action::TellFeeds | Action::Source | Action::Connect | Action::Subscribe | Action::Take
        ) || matches!(action, Action::Read | Action::DeliverRead | Action::GoOn);
        let often = match rng.u8(0..8) {
            0 if !is_needed => 0,
            1 => weight * 3,
            2 => weight / 2,
            _ => weight,
        };
        sum += often;
        sum
    })
}

/// All are UUIDs but the first.
fn key(number: u8) -> Key {
    match number {
        0 => Key::text("key0"),
        _ => Key::text(&format!("00000000-0000-4000-8000-{number:012}")),
    }
}
