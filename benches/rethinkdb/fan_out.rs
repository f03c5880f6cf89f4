//! A thousand subscribers of starfeed beside a thousand changefeeds: the same changes, written by the same client.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt, TryStreamExt};
use prost::Message as _;
use reql::cmd::{Conflict, Durability, insert};
use serde_json::{Value, json};
use starfeed::proto::{self, request, server_message::MessageType};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

use crate::database::{Database, cpu_seconds};
use crate::server::Server;

const DATABASE: &str = "fan_out";
const SUBSCRIBERS: usize = 1_000;
/// Changes that are written at a time; the next ones are when every subscriber has these.
const IN_FLIGHT: [usize; 2] = [1, 32];
const ROUNDS: usize = 20;

/// What was received, by all subscribers together.
#[derive(Default)]
struct Received {
    count: AtomicUsize,
    wanted: AtomicUsize,
    reached: Notify,
}

impl Received {
    fn add(&self, events: usize) {
        let count = self.count.fetch_add(events, Ordering::AcqRel) + events;
        if count >= self.wanted.load(Ordering::Acquire) {
            self.reached.notify_one();
        }
    }

    async fn until(&self, wanted: usize) {
        self.wanted.store(wanted, Ordering::Release);
        while self.count.load(Ordering::Acquire) < wanted {
            self.reached.notified().await;
        }
    }
}

pub(crate) async fn measure(database: &Database) {
    database.create(DATABASE).await;
    println!(
        "\n{SUBSCRIBERS} subscribers to one table; each round changes so many rows and ends when everyone has all changes.\n"
    );
    println!(
        "| | in flight | delivered/s | round p50 ms | round max ms | lost | s of CPU: database | starfeed | the clients |"
    );
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    let mut tasks = JoinSet::new();
    let received = Arc::new(Received::default());
    for _ in 0..SUBSCRIBERS {
        let (session, received) = (session(database).await, Arc::clone(&received));
        tasks.spawn(async move { follow(session, &received).await });
    }
    rounds("one changefeed each, the `reql` crate", database, &received, None).await;
    tasks.shutdown().await;
    let server = Server::over(database, DATABASE, ":memory:");
    let received = Arc::new(Received::default());
    let (ready, mut subscribed) = mpsc::channel(SUBSCRIBERS);
    for _ in 0..SUBSCRIBERS {
        let (address, received, ready) = (server.address.clone(), Arc::clone(&received), ready.clone());
        tasks.spawn(async move { subscribe(&address, &received, ready).await });
    }
    for _ in 0..SUBSCRIBERS {
        subscribed.recv().await.expect("a subscriber");
    }
    rounds("starfeed", database, &received, Some(&server)).await;
    tasks.shutdown().await;
}

async fn session(database: &Database) -> reql::Session {
    let options = reql::cmd::connect::Options::new().host("127.0.0.1").port(database.port).db(DATABASE);
    reql::r.connect(options).await.expect("a session")
}

async fn follow(session: reql::Session, received: &Received) {
    let mut changes = reql::r.table("domain_login").changes(()).run::<_, Value>(&session);
    while changes.try_next().await.expect("a change").is_some() {
        received.add(1);
    }
}

async fn subscribe(address: &str, received: &Received, ready: mpsc::Sender<()>) {
    let stream = tokio::net::TcpStream::connect(address).await.expect("a connection");
    let (mut socket, _) =
        tokio_tungstenite::client_async(format!("ws://{address}/ws/"), stream).await.expect("a handshake");
    let command = request::Command::SubscribeDomainLoginList(proto::RequestSubscribeDomainLoginList::default());
    let request = proto::Request { request_id: 1, command: Some(command) };
    socket.send(Message::binary(request.encode_to_vec())).await.expect("a request");
    while let Some(Ok(message)) = socket.next().await {
        let Message::Binary(bytes) = message else { continue };
        match proto::ServerMessage::decode(bytes).expect("a message").message_type {
            Some(MessageType::Event(_)) => received.add(1),
            _ => ready.send(()).await.expect("somebody waits"),
        }
    }
}

async fn rounds(what: &str, database: &Database, received: &Received, server: Option<&Server>) {
    let in_flight_max = IN_FLIGHT.into_iter().max().unwrap_or(1);
    let mut writers = Vec::new();
    for _ in 0..in_flight_max {
        writers.push(session(database).await);
    }
    // Rows are there from the start, and everyone has had them. Feeds that open later than that miss nothing that is counted.
    warm_up(&writers, received).await;
    for in_flight in IN_FLIGHT {
        let cpu = || {
            let own = cpu_seconds(std::process::id());
            [database.cpu_seconds(), server.map_or(0.0, Server::cpu_seconds), own]
        };
        let (before, base, began) = (cpu(), received.count.load(Ordering::Acquire), Instant::now());
        let mut times = Vec::new();
        for round in 1..=ROUNDS {
            let round_began = Instant::now();
            let writes = writers[..in_flight].iter().enumerate().map(|(row, session)| write(session, row));
            let all = received.until(base + round * in_flight * SUBSCRIBERS);
            tokio::join!(futures_util::future::join_all(writes), all);
            times.push(round_began.elapsed());
        }
        let took = began.elapsed();
        let lost = base + ROUNDS * in_flight * SUBSCRIBERS - received.count.load(Ordering::Acquire);
        times.sort_unstable();
        let [data, starfeed, clients] = std::array::from_fn(|at| cpu()[at] - before[at]);
        let delivered = (ROUNDS * in_flight * SUBSCRIBERS) as f64 / took.as_secs_f64();
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        println!(
            "| {what} | {in_flight} | {delivered:.0} | {:.1} | {:.1} | {lost} | {data:.2} | {starfeed:.2} | {clients:.2} |",
            ms(times[ROUNDS / 2]),
            ms(times[ROUNDS - 1]),
        );
    }
}

/// Changes one row until everyone sees a change, then waits until nothing more comes.
async fn warm_up(writers: &[reql::Session], received: &Received) {
    for (row, writer) in writers.iter().enumerate() {
        write(writer, row).await;
    }
    let mut quiet = 0;
    let mut last = 0;
    while quiet < 10 || last < SUBSCRIBERS {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = received.count.load(Ordering::Acquire);
        quiet = if now == last { quiet + 1 } else { 0 };
        if quiet == 10 && now < SUBSCRIBERS {
            write(&writers[0], 0).await;
        }
        last = now;
    }
}

async fn write(session: &reql::Session, row: usize) {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let row = json!({
        "domain": format!("{row}.example"),
        "login_url": format!("https://{row}.example/{number}"),
        "login_test": "x".repeat(80),
        "users": [],
    });
    let options = insert::Options::new().conflict(Conflict::Replace).durability(Durability::Soft);
    let mut answer = reql::r.table("domain_login").insert(reql::r.args((row, options))).run::<_, Value>(session);
    while answer.try_next().await.expect("a write").is_some() {}
}
