//! Two hundred subscriptions with all kinds of options against a table that another driver writes, while database and server are killed
//! again and again: in the end every client holds what the database has, and on the way nothing came that could not be right.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::future::{join_all, try_join_all};
use reql::r;
use serde_json::Value;
use starfeed::change::{Document, Key};
use starfeed::client::{Subscriber, SubscriptionIndex, Update};
use starfeed::task;
use tokio::time::{sleep, timeout};

use super::checker::Checker;
use super::client::Connection;
use super::rows::{TABLES, with_plain_numbers};
use super::wish::{Shown, Wish};
use super::writer::Writer;
use crate::support::folded::Folded;
use crate::support::process::{ServerProcess, Start};
use crate::support::rethinkdb::ask::{ask, members, session};
use crate::support::rethinkdb::database::init;
use crate::support::rethinkdb::server::{Rethinkdb, free_port};

/// Connections that check everything, and their subscriptions.
const CONNECTIONS: u64 = 16;
const SUBSCRIPTIONS: usize = 10;

/// Connections of the client library, which checks by itself, and their subscriptions.
const SUBSCRIBERS: u64 = 4;
const QUERIES: usize = 10;

/// Mutations that are confirmed.
const MUTATIONS: usize = 5_000;

/// How often each is killed alone, and how often both are down.
const KILLS: usize = 16;
const KILLS_OF_BOTH: usize = 4;

/// Nothing that is tested takes so long.
const PATIENCE: Duration = Duration::from_secs(290);

/// When everybody has written, clients have so long to come to the same.
const SETTLING: Duration = Duration::from_secs(60);

const DATABASE: &str = "differential";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kill {
    Database,
    Server,
    Both,
}

fn seed() -> u64 {
    let given = std::env::var("STARFEED_TEST_SEED").ok();
    given.map_or_else(|| fastrand::u64(..), |seed| seed.parse().expect("STARFEED_TEST_SEED is a number"))
}

/// The database, and the server that mirrors it.
struct Machines {
    database: Rethinkdb,
    server: Option<ServerProcess>,
    listen: String,
    directory: tempfile::TempDir,
}

impl Machines {
    fn start(database: Rethinkdb) -> Self {
        init(&database.url("admin", DATABASE));
        let directory = tempfile::tempdir().expect("a directory");
        let listen = format!("127.0.0.1:{}", free_port());
        let mut machines = Self { database, server: None, listen, directory };
        machines.start_server();
        machines
    }

    fn start_server(&mut self) {
        let source = self.database.url("admin", DATABASE);
        // So little room that clients fall behind, and are brought up from the log.
        let settings = [("source", source.as_str()), ("outbox_bytes", "30000"), ("window_bytes", "200000")];
        let data_dir: &Path = self.directory.path();
        self.server = Some(ServerProcess::start(Start {
            listen: &self.listen,
            data_dir: data_dir.to_str().expect("a path in UTF-8"),
            settings: &settings,
            ..Start::default()
        }));
    }

    /// Kills, waits, and starts again; where both are down, in any order.
    fn kill(&mut self, kill: Kill, down: Duration, is_server_first: bool) {
        if kill != Kill::Server {
            self.database.kill();
        }
        if kill != Kill::Database {
            self.server = None;
        }
        std::thread::sleep(down);
        if kill == Kill::Server || kill == Kill::Both && is_server_first {
            self.start_server();
        }
        if kill != Kill::Server {
            self.database.start();
        }
        if kill == Kill::Both && !is_server_first {
            self.start_server();
        }
    }
}

/// What is killed, in which order, and after which of the mutations.
fn schedule(random: &mut fastrand::Rng) -> Vec<(Kill, usize)> {
    let counts = [(Kill::Database, KILLS), (Kill::Server, KILLS), (Kill::Both, KILLS_OF_BOTH)];
    let mut kills: Vec<Kill> = counts.into_iter().flat_map(|(kill, count)| vec![kill; count]).collect();
    random.shuffle(&mut kills);
    let mut moments: Vec<usize> = kills.iter().map(|_| random.usize(..MUTATIONS)).collect();
    moments.sort_unstable();
    kills.into_iter().zip(moments).collect()
}

/// What the tables have, for who asks; nothing while they change.
type Tables = RefCell<Option<BTreeMap<&'static str, Vec<Value>>>>;

fn expected(wish: &Wish, tables: &BTreeMap<&'static str, Vec<Value>>) -> BTreeMap<Key, Shown> {
    tables[wish.table].iter().filter_map(|row| wish.expects(row)).collect()
}

/// A connection of the client library, and an application that folds up what it reports.
struct Library {
    wishes: Vec<Wish>,
    url: String,
    seed: u64,
    /// It holds what the tables have.
    is_right: Cell<bool>,
    difference: RefCell<String>,
}

impl Library {
    fn new(url: &str, seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let wishes = (0..QUERIES).map(|_| Wish::random_for_library(&mut random)).collect();
        Self { wishes, url: url.to_owned(), seed, is_right: Cell::new(false), difference: RefCell::default() }
    }

    /// Follows for ever; ends with what is wrong.
    async fn run(&self, tables: &Tables) -> Result<Infallible, String> {
        let builder = Subscriber::builder(&self.url).seed(self.seed);
        let builder = self.wishes.iter().fold(builder, |builder, wish| builder.subscribe(wish.query()));
        let subscriber = builder.connect().await.map_err(|error| error.to_string())?;
        let mut folded = Folded::new(subscriber, self.wishes.len());
        loop {
            match folded.next().await {
                Update::Diverged(index, divergence) => {
                    return Err(format!("the library noticed {divergence} in {:?}", self.wishes[index.0]));
                }
                Update::Closed { message, .. } => return Err(format!("a subscription was ended: {message}")),
                Update::Row(..) | Update::Status(..) | Update::Disconnected { .. } | Update::Reconnected => {}
            }
            let counters = folded.subscriber.counters();
            if counters.resets > 0 || counters.tokens_refused > 0 {
                return Err(format!("{counters:?}"));
            }
            let difference = tables.borrow().as_ref().map(|tables| self.differs(&folded, tables));
            self.is_right.set(difference == Some(None));
            self.difference.replace(difference.flatten().unwrap_or_default());
        }
    }

    fn differs(&self, folded: &Folded, tables: &BTreeMap<&'static str, Vec<Value>>) -> Option<String> {
        self.wishes.iter().enumerate().find_map(|(index, wish)| {
            let expected = expected(wish, tables);
            let has_document = |shown: &Shown| shown.document.is_some();
            let held = folded.tables[index].iter().map(|(key, row)| {
                let document = row.document.as_ref().and_then(Document::members).map(Value::Object);
                (key, document.map(with_plain_numbers))
            });
            let held: BTreeMap<&Key, Option<Value>> = held.collect();
            let wanted =
                expected.iter().map(|(key, shown)| (key, shown.document.clone().filter(|_| has_document(shown))));
            let wanted: BTreeMap<&Key, Option<Value>> = wanted.collect();
            let is_live = folded.subscriber.view(SubscriptionIndex(index)).is_live();
            (held != wanted || !is_live).then(|| format!("{wish:?}, live {is_live}: {held:?} and not {wanted:?}"))
        })
    }
}

/// All that takes part.
struct World {
    seed: u64,
    port: u16,
    connections: Vec<Connection>,
    libraries: Vec<Library>,
    writers: Vec<Writer>,
    tables: Tables,
    checked: Cell<u32>,
}

impl World {
    fn new(seed: u64, machines: &Machines) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let connections = (0..CONNECTIONS).map(|number| {
            let checkers = (0..SUBSCRIPTIONS).map(|_| Checker::new(Wish::random(&mut random))).collect();
            Connection::new(&machines.listen, checkers, seed.wrapping_add(number), number % 8 == 0)
        });
        let connections = connections.collect();
        let url = format!("ws://{}/ws/", machines.listen);
        let port = machines.database.port;
        Self {
            seed,
            port,
            connections,
            libraries: (0..SUBSCRIBERS).map(|number| Library::new(&url, seed.wrapping_add(100 + number))).collect(),
            writers: (0..)
                .zip(TABLES)
                .map(|(n, table)| Writer::new(table, DATABASE, port, seed.wrapping_add(n)))
                .collect(),
            tables: RefCell::new(None),
            checked: Cell::new(0),
        }
    }

    fn confirmed(&self) -> usize {
        self.writers.iter().map(|writer| writer.confirmed.get()).sum()
    }

    /// Kills and starts, until all of the schedule is done.
    async fn interrupt(&self, mut machines: Machines) -> Machines {
        let mut random = fastrand::Rng::with_seed(self.seed ^ 1);
        for (kill, moment) in schedule(&mut random) {
            while self.confirmed() < moment {
                sleep(Duration::from_millis(2)).await;
            }
            // At any moment of what goes on then: some come while the last one is not over.
            sleep(Duration::from_millis(random.u64(..40))).await;
            let (down, is_server_first) = (Duration::from_millis(random.u64(..300)), random.bool());
            machines = task::blocking(move || {
                machines.kill(kill, down, is_server_first);
                machines
            })
            .await;
        }
        machines
    }

    async fn write(&self) {
        join_all(self.writers.iter().map(|writer| writer.write(MUTATIONS / TABLES.len()))).await;
    }

    /// Reads the tables, and waits until everybody has what they have.
    async fn settle(&self) -> Result<(), String> {
        // One that was started a moment ago may not have its tables yet.
        let tables = loop {
            match self.read().await {
                Ok(tables) => break tables,
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
        };
        self.tables.replace(Some(tables));
        let verified: Vec<Vec<u64>> = self.each(|checker| checker.verified);
        let started = Instant::now();
        while let Some(difference) = self.difference(&verified) {
            if started.elapsed() > SETTLING {
                return Err(difference);
            }
            sleep(Duration::from_millis(20)).await;
        }
        self.tables.replace(None);
        self.libraries.iter().for_each(|library| library.is_right.set(false));
        self.checked.set(self.checked.get() + 1);
        Ok(())
    }

    async fn read(&self) -> Result<BTreeMap<&'static str, Vec<Value>>, String> {
        let session = session("127.0.0.1", self.port).await?;
        let mut tables = BTreeMap::new();
        for table in TABLES {
            tables.insert(table, members(ask(&session, r.db(DATABASE).table(table)).await?));
        }
        Ok(tables)
    }

    fn each<T>(&self, ask: impl Fn(&Checker) -> T) -> Vec<Vec<T>> {
        let checkers = self.connections.iter().map(|connection| &connection.checkers);
        checkers.map(|checkers| checkers.iter().map(|checker| ask(&checker.borrow())).collect()).collect()
    }

    /// Who does not have what the tables have, or was not told so by a heartbeat since `verified`.
    fn difference(&self, verified: &[Vec<u64>]) -> Option<String> {
        let tables = self.tables.borrow();
        let tables = tables.as_ref().expect("they were read");
        for (connection, verified) in self.connections.iter().zip(verified) {
            for (checker, verified) in connection.checkers.iter().zip(verified) {
                let checker = checker.borrow();
                if let Some(fault) = checker.differs(&expected(&checker.wish, tables)) {
                    return Some(format!("{fault} in {:?}; {:?}", checker.wish, checker.counts));
                }
                if checker.wish.has_heartbeats() && checker.verified == *verified {
                    return Some(format!("no heartbeat says that {:?} is right", checker.wish));
                }
            }
        }
        let wrong = self.libraries.iter().find(|library| !library.is_right.get());
        wrong.map(|library| format!("the library: {}", library.difference.borrow()))
    }
}

async fn play(world: &World, machines: Machines) -> Result<Machines, String> {
    let script = async {
        let ((), machines) = tokio::join!(world.write(), world.interrupt(machines));
        world.connections.iter().for_each(|connection| connection.is_calm.set(true));
        world.settle().await?;
        // What comes after that comes, too.
        join_all(world.writers.iter().map(|writer| writer.write(20))).await;
        world.settle().await?;
        Ok(machines)
    };
    tokio::select! {
        biased;
        result = script => result,
        wrong = try_join_all(world.connections.iter().map(Connection::run)) => Err(wrong.expect_err("they follow for ever")),
        wrong = try_join_all(world.libraries.iter().map(|library| library.run(&world.tables))) => Err(wrong.expect_err("they follow for ever")),
    }
}

#[tokio::test]
async fn every_client_has_what_the_database_has_whatever_is_killed() {
    let Some(database) = Rethinkdb::of_our_own(&[]) else { return };
    let seed = seed();
    println!("STARFEED_TEST_SEED={seed}");
    let machines = task::blocking(|| Machines::start(database)).await;
    let world = World::new(seed, &machines);
    let started = Instant::now();
    let played = timeout(PATIENCE, play(&world, machines)).await.expect("it ends");
    let mut machines = played.unwrap_or_else(|wrong| panic!("STARFEED_TEST_SEED={seed}: {wrong}"));
    let server = machines.server.as_mut().expect("it runs");
    assert!(server.is_alive());
    assert_eq!(server.metric("starfeed_divergences"), 0.0);
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for checker in world.each(|checker| checker.counts.clone()).into_iter().flatten() {
        checker.into_iter().for_each(|(what, count)| *counts.entry(what).or_default() += count);
    }
    let failed: usize = world.writers.iter().map(|writer| writer.failed.get()).sum();
    println!("{} mutations, {failed} refused or lost, {:.1?}; {counts:?}", world.confirmed(), started.elapsed());
    assert_eq!(world.checked.get(), 2);
    assert!(world.confirmed() >= MUTATIONS);
    for what in ["resumed", "begun anew", "stale", "added", "updated", "deleted"] {
        assert!(counts.get(what).is_some_and(|count| *count > 100), "hardly any {what}: {counts:?}");
    }
}
