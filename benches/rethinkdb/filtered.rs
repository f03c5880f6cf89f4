//! A thousand clients that each follow one row by a filter, and writes that each match one of them: one changefeed per client,
//! starfeed over the same database, and starfeed with a store of its own. All of them keep a write on disk before it counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt, TryStreamExt};
use hdrhistogram::Histogram;
use prost::Message as _;
use reql::cmd::{Conflict, Durability, insert};
use serde_json::{Value, json};
use starfeed::proto::{self, request::Command, server_message::MessageType};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::database::{Database, cpu_seconds};
use crate::listeners::Listeners;
use crate::server::Server;

const FEEDS: usize = 1_000;
const TIME: Duration = Duration::from_secs(4);
const WRITERS_MAX: usize = 32;

/// How writes are made: so many writers, each of so many rows at a time. A writer goes on when all its rows were delivered.
const LOADS: [(usize, usize); 4] = [(1, 1), (32, 1), (4, 125), (8, 125)];

/// Rows that were written and not delivered yet.
struct World {
    /// When each row was written, in nanoseconds since `begin`; 0 where no delivery is awaited.
    written: Vec<AtomicU64>,
    /// How many writers take the rows in turn.
    writers: AtomicUsize,
    /// For each writer: how many deliveries it awaits, and who tells it that all have come.
    awaited: Vec<AtomicUsize>,
    all_came: Vec<Notify>,
    begin: Instant,
    /// Nanoseconds from writing to delivery.
    latencies: std::sync::Mutex<Histogram<u64>>,
}

impl World {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            written: (0..FEEDS).map(|_| AtomicU64::new(0)).collect(),
            writers: AtomicUsize::new(1),
            awaited: (0..WRITERS_MAX).map(|_| AtomicUsize::new(0)).collect(),
            all_came: (0..WRITERS_MAX).map(|_| Notify::new()).collect(),
            begin: Instant::now(),
            latencies: std::sync::Mutex::new(Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("good bounds")),
        })
    }

    fn now(&self) -> u64 {
        self.begin.elapsed().as_nanos() as u64
    }

    /// `writer` is about to write `rows`.
    fn begin(&self, writer: usize, rows: &[usize]) {
        self.awaited[writer].store(rows.len(), Ordering::Release);
        rows.iter().for_each(|&row| self.written[row].store(self.now(), Ordering::Release));
    }

    fn deliver(&self, row: usize) {
        let written = self.written[row].swap(0, Ordering::AcqRel);
        if written == 0 {
            return;
        }
        let latency = self.now().saturating_sub(written);
        self.latencies.lock().expect("nobody panicked").saturating_record(latency);
        let writer = row % self.writers.load(Ordering::Acquire);
        if self.awaited[writer].fetch_sub(1, Ordering::AcqRel) == 1 {
            self.all_came[writer].notify_one();
        }
    }

    /// Waits until `writer` has nothing to wait for, and says how many of `rows` did not come in time.
    async fn delivered(&self, writer: usize, rows: &[usize], patience: Duration) -> usize {
        if tokio::time::timeout(patience, self.all_came[writer].notified()).await.is_ok() {
            return 0;
        }
        rows.iter().filter(|row| self.written[**row].swap(0, Ordering::AcqRel) > 0).count()
    }
}

/// Whoever is measured.
enum Peer<'a> {
    Feeds(&'a Database, &'static str),
    Over(&'a Database, &'static str, Server),
    Embedded(Server),
}

/// What was measured.
struct Figures {
    writes: f64,
    p50_ms: f64,
    p99_ms: f64,
    lost: usize,
    cpu_us: [f64; 3],
}

pub(crate) async fn measure(database: &Database) {
    println!(
        "\n{FEEDS} clients, each with a filter of its own; each write matches one of them, and is on disk before it counts.\n"
    );
    println!(
        "| | writers × rows | writes/s | p50 ms | p99 ms | lost | µs of CPU each write: database | starfeed | the clients | writes/s × | p99 × |"
    );
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    let directory = tempfile::tempdir().expect("a directory");
    let data_dir = |name: &str| directory.path().join(name).to_str().expect("a path in UTF-8").to_owned();
    let mut base: Vec<Figures> = Vec::new();
    for what in ["one changefeed each, the `reql` crate", "starfeed over RethinkDB", "starfeed, embedded"] {
        let peer = match base.len() {
            0 => {
                database.create("filtered_feeds").await;
                Peer::Feeds(database, "filtered_feeds")
            }
            _ if what.ends_with("RethinkDB") => {
                database.create("filtered_source").await;
                Peer::Over(database, "filtered_source", Server::over(database, "filtered_source", &data_dir("source")))
            }
            _ => Peer::Embedded(Server::embedded(&data_dir("embedded"))),
        };
        let figures = run(database, &peer).await;
        for (at, (figures, (writers, rows))) in figures.iter().zip(LOADS).enumerate() {
            let Figures { writes, p50_ms, p99_ms, lost, cpu_us: [data, starfeed, clients] } = figures;
            let ratios = base.get(at).map_or((1.0, 1.0), |base| (writes / base.writes, p99_ms / base.p99_ms));
            println!(
                "| {what} | {writers} × {rows} | {writes:.0} | {p50_ms:.2} | {p99_ms:.2} | {lost} | {data:.0} | {starfeed:.0} | {clients:.0} | {:.1} | {:.2} |",
                ratios.0, ratios.1
            );
        }
        if base.is_empty() {
            base = figures;
        }
    }
}

async fn run(database: &Database, peer: &Peer<'_>) -> Vec<Figures> {
    let world = World::new();
    let mut feeds = JoinSet::new();
    let mut listeners = None;
    match peer {
        Peer::Feeds(database, name) => {
            for row in 0..FEEDS {
                let (session, world) = (session(database, name).await, Arc::clone(&world));
                feeds.spawn(async move { follow(session, row, &world).await });
            }
        }
        Peer::Over(_, _, server) | Peer::Embedded(server) => {
            let world = Arc::clone(&world);
            let deliver = move |row: usize| world.deliver(row);
            listeners = Some(Listeners::start(&server.address, (0..FEEDS).map(subscription), deliver));
        }
    }
    warm_up(peer, &world).await;
    let mut all = Vec::new();
    for (writers, rows) in LOADS {
        all.push(load(database, peer, &world, writers, rows).await);
    }
    feeds.shutdown().await;
    drop(listeners);
    all
}

/// Writes every row until its client has seen a change of it: a changefeed does not say since when it is open.
async fn warm_up(peer: &Peer<'_>, world: &World) {
    let mut writer = Writer::new(peer).await;
    for row in 0..FEEDS {
        loop {
            world.begin(0, &[row]);
            writer.write(&[row]).await;
            // If it does not come the feed was not open yet: once more.
            if world.delivered(0, &[row], Duration::from_secs(2)).await == 0 {
                break;
            }
        }
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
}

async fn load(database: &Database, peer: &Peer<'_>, world: &Arc<World>, writers: usize, rows: usize) -> Figures {
    world.latencies.lock().expect("nobody panicked").reset();
    world.writers.store(writers, Ordering::Release);
    let cpu = || {
        let starfeed = match peer {
            Peer::Feeds(..) => 0.0,
            Peer::Over(_, _, server) | Peer::Embedded(server) => server.cpu_seconds(),
        };
        [database.cpu_seconds(), starfeed, cpu_seconds(std::process::id())]
    };
    let mut prepared = Vec::new();
    for number in 0..writers {
        let own: Vec<usize> = (0..FEEDS).filter(|row| row % writers == number).collect();
        prepared.push((Writer::new(peer).await, own));
    }
    let (before, begin) = (cpu(), Instant::now());
    let mut working = JoinSet::new();
    for (number, (mut writer, own)) in prepared.into_iter().enumerate() {
        let world = Arc::clone(world);
        working.spawn(async move {
            let (mut count, mut lost) = (0, 0);
            for batch in own.chunks(rows).cycle().take_while(|_| begin.elapsed() < TIME) {
                world.begin(number, batch);
                writer.write(batch).await;
                lost += world.delivered(number, batch, Duration::from_secs(10)).await;
                count += batch.len();
            }
            (count, lost)
        });
    }
    let done = working.join_all().await;
    let took = begin.elapsed().as_secs_f64();
    let after = cpu();
    let count = done.iter().map(|(count, _)| count).sum::<usize>() as f64;
    let latencies = world.latencies.lock().expect("nobody panicked");
    Figures {
        writes: count / took,
        p50_ms: latencies.value_at_quantile(0.5) as f64 / 1e6,
        p99_ms: latencies.value_at_quantile(0.99) as f64 / 1e6,
        lost: done.iter().map(|(_, lost)| lost).sum(),
        cpu_us: std::array::from_fn(|at| (after[at] - before[at]) * 1e6 / count),
    }
}

async fn session(database: &Database, name: &'static str) -> reql::Session {
    let options = reql::cmd::connect::Options::new().host("127.0.0.1").port(database.port).db(name);
    reql::r.connect(options).await.expect("a session")
}

async fn follow(session: reql::Session, row: usize, world: &World) {
    let filter = reql::r.expr(json!({"login_url": url(row)}));
    let mut changes = reql::r.table("domain_login").filter(filter).changes(()).run::<_, Value>(&session);
    while changes.try_next().await.expect("a change").is_some() {
        world.deliver(row);
    }
}

type Socket = WebSocketStream<TcpStream>;

async fn socket(address: &str) -> Socket {
    let stream = TcpStream::connect(address).await.expect("a connection");
    stream.set_nodelay(true).expect("a socket");
    tokio_tungstenite::client_async(format!("ws://{address}/ws/"), stream).await.expect("a handshake").0
}

/// What the client of `row` asks for.
fn subscription(row: usize) -> proto::Request {
    let filter = Some(format!("login_url == '{}'", url(row)));
    let options = Some(proto::SubscribeOptions { filter, include_document: Some(true), ..Default::default() });
    let command = Command::SubscribeDomainLoginList(proto::RequestSubscribeDomainLoginList { options });
    proto::Request { request_id: 1, command: Some(command) }
}

fn url(row: usize) -> String {
    format!("https://{row}.example/")
}

/// Text of about 100 bytes, another one each time.
fn fresh_text() -> String {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    format!("{:0100}", NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// One connection that writes.
enum Writer {
    ReQl(reql::Session),
    Api(Box<Socket>),
}

impl Writer {
    async fn new(peer: &Peer<'_>) -> Self {
        match peer {
            Peer::Feeds(database, name) | Peer::Over(database, name, _) => Self::ReQl(session(database, name).await),
            Peer::Embedded(server) => Self::Api(Box::new(socket(&server.address).await)),
        }
    }

    /// Writes `rows` together, and waits until that is on disk.
    async fn write(&mut self, rows: &[usize]) {
        match self {
            Self::ReQl(session) => {
                let documents: Vec<Value> = rows.iter().map(|&row| document(row)).collect();
                let options = insert::Options::new().conflict(Conflict::Replace).durability(Durability::Hard);
                let query = reql::r.table("domain_login").insert(reql::r.args((documents, options)));
                let mut answer = query.run::<_, Value>(session);
                while answer.try_next().await.expect("a write").is_some() {}
            }
            Self::Api(socket) => {
                for &row in rows {
                    socket.feed(Message::binary(request(row).encode_to_vec())).await.expect("a request");
                }
                socket.flush().await.expect("a request");
                for _ in rows {
                    let Some(Ok(Message::Binary(bytes))) = socket.next().await else { panic!("an answer") };
                    match proto::ServerMessage::decode(bytes).expect("a message").message_type {
                        Some(MessageType::Response(response)) => assert!(response.is_success, "{response:?}"),
                        other => panic!("{other:?}"),
                    }
                }
            }
        }
    }
}

fn document(row: usize) -> Value {
    json!({"domain": format!("{row}.example"), "login_url": url(row), "login_test": fresh_text(), "users": []})
}

fn request(row: usize) -> proto::Request {
    let login = proto::DomainLogin {
        domain: Some(format!("{row}.example")),
        login_url: Some(url(row)),
        login_test: Some(fresh_text()),
        ..Default::default()
    };
    let command = Command::SetDomainLogin(proto::RequestSetDomainLogin { login: Some(login) });
    proto::Request { request_id: 1, command: Some(command) }
}
