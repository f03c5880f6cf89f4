//! Many who stop reading beside some who read: they cost little, delay nobody, and hold what is there when they read again.

mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use prost::Message as _;
use starfeed::change::Key;
use starfeed::client::{Applied, Query, Status, View};
use starfeed::proto::{self, server_message::MessageType};
use support::process::{ServerProcess, eventually};
use support::raw::{BINARY, CLOSE, PING, PONG, RawClient, delete_login, masked, set_login};

const STALLED: usize = 200;
const HEALTHY: usize = 8;
const ROWS: u64 = 60;
/// For so long everybody else is served beside those who do not read.
const RUN: Duration = Duration::from_secs(8);
/// Those who want every change get all of them when they read again: not too many for a test.
const CHANGES_AT_A_TIME: u64 = 16;
const PAUSE: Duration = Duration::from_millis(10);
/// What one who does not read may cost the server.
const BYTES_EACH_MAX: u64 = 64 << 10;
/// So large that some hundred changes fill every buffer on the way.
const ROW_BYTES: usize = 1_000;
const TOO_SLOW: u16 = 4001;

/// Little is kept in memory for reasons that have nothing to do with who reads: growth shows.
const SETTINGS: &[(&str, &str)] = &[
    ("cache_bytes", "2000000"),
    ("window_bytes", "200000"),
    ("shared_bytes", "200000"),
    ("outbox_bytes", "65536"),
    ("page_bytes", "32768"),
    ("send_buffer_bytes", "16384"),
];

/// How a client follows the rows.
fn query(number: usize) -> Query {
    let query = Query::table("domain_login").with_documents().heartbeat_seconds(1);
    match number % 4 {
        0 => query,
        1 => query.coalesced(),
        2 => query.filter("login_url.startsWith('https://group1.')"),
        _ => query.with_old(),
    }
}

/// A client that checks what it is sent.
struct Follower {
    client: RawClient,
    view: View,
    resets: usize,
}

/// What came next.
#[derive(Debug, PartialEq)]
enum Came {
    /// Something that leaves open whether all is held.
    Part,
    /// The server has confirmed what is held, by count and digest.
    Confirmed,
    Closed(u16),
    /// The connection ended without a word.
    Ended,
}

impl Follower {
    fn live(address: &str, number: usize) -> Self {
        let (client, view) = (RawClient::connect(address), View::new(query(number)));
        // Its receive buffer stays as the system makes it: a segment of the loopback would not fit into a small one that is
        // nearly empty, and would come only when the system asks again, after up to two minutes.
        client.be_patient();
        let mut this = Self { client, view, resets: 0 };
        this.subscribe();
        while !this.view.is_live() {
            assert!(matches!(this.next(), Came::Part | Came::Confirmed));
        }
        this
    }

    fn subscribe(&mut self) {
        let command = self.view.subscribe();
        self.client.ask(command);
    }

    /// Goes on with its token on another connection.
    fn come_back(&mut self, address: &str) {
        self.client = RawClient::connect(address);
        self.client.be_patient();
        // Between coalesced changes there is no place to go on from.
        assert!(self.view.has_token() || *self.view.query() == query(1), "{:?}", self.view.query());
        self.subscribe();
    }

    fn next(&mut self) -> Came {
        let Some(frame) = self.client.frame() else { return Came::Ended };
        match frame.opcode {
            BINARY => {}
            PING => {
                // Whoever is let go just now takes no pong any more.
                self.client.try_write(&masked(PONG, &frame.payload));
                return Came::Part;
            }
            CLOSE => return Came::Closed(u16::from_be_bytes([frame.payload[0], frame.payload[1]])),
            opcode => panic!("an unexpected frame: {opcode}"),
        }
        let message = proto::ServerMessage::decode(frame.payload.as_slice()).expect("a ServerMessage");
        let event = match message.message_type.expect("one of its members") {
            MessageType::Response(response) => {
                assert!(response.is_success, "{:?}", response.error_message);
                return Came::Part;
            }
            MessageType::Event(event) => event,
        };
        match self.view.apply(event).expect("what is sent is right") {
            Applied::Status(Status::Live | Status::Verified) => Came::Confirmed,
            Applied::Status(Status::Reset { .. }) => {
                self.resets += 1;
                Came::Part
            }
            Applied::Closed(message) => panic!("{message}"),
            Applied::Nothing | Applied::Row(_) | Applied::Ready(_) | Applied::Status(_) => Came::Part,
        }
    }

    /// Reads until it holds everything up to `goal`, as the server confirms.
    fn read_upto(&mut self, goal: u64) {
        while !(self.next_of_connection() && self.view.is_live() && self.at() >= goal) {}
    }

    fn next_of_connection(&mut self) -> bool {
        match self.next() {
            Came::Part => false,
            Came::Confirmed => true,
            end => panic!("the connection has ended: {end:?}"),
        }
    }

    fn at(&self) -> u64 {
        self.view.position().map_or(0, |position| position.0)
    }

    fn rows(&self) -> BTreeMap<Key, Option<Vec<u8>>> {
        let document = |row: &starfeed::client::Row| row.document.as_ref().map(|row| row.as_bytes().to_vec());
        self.view.rows().map(|(key, row)| (key.clone(), document(row))).collect()
    }
}

fn url(group: u8, random: &mut fastrand::Rng) -> String {
    format!("https://group{group}.example/{}/{}", random.u64(..), "x".repeat(ROW_BYTES))
}

/// Changes rows, several at a time, until it is over; returns the newest change.
fn write(address: &str, is_over: &AtomicBool, changes: &AtomicU64) {
    let mut client = RawClient::connect(address);
    let mut random = fastrand::Rng::with_seed(1);
    while !is_over.load(Ordering::Relaxed) {
        let asked: Vec<i32> = (0..CHANGES_AT_A_TIME)
            .map(|_| {
                let row = format!("row{}.example", random.u64(0..ROWS));
                match random.u8(0..12) {
                    0 => client.ask(delete_login(&row)),
                    group => client.ask(set_login(&row, &url(group % 3, &mut random))),
                }
            })
            .collect();
        for request_id in asked {
            assert!(client.response(request_id).is_success);
        }
        changes.fetch_add(CHANGES_AT_A_TIME, Ordering::Relaxed);
        std::thread::sleep(PAUSE);
    }
}

/// Ends the writer also when the test has failed.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Ends the readers when the test has failed and there will be no goal: every position is one.
struct GivenUp<'a>(&'a AtomicU64);

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        let _ = self.0.compare_exchange(0, 1, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// The newest change, as a client that comes now is told.
fn newest(address: &str) -> u64 {
    Follower::live(address, 0).at()
}

/// What new clients are sent, by how they follow.
fn wanted(address: &str) -> Vec<BTreeMap<Key, Option<Vec<u8>>>> {
    (0..4).map(|kind| Follower::live(address, kind).rows()).collect()
}

impl Follower {
    fn assert_holds(&self, wanted: &[BTreeMap<Key, Option<Vec<u8>>>]) {
        let kind = (0..4).find(|kind| query(*kind) == *self.view.query()).expect("one of the kinds");
        assert_eq!(self.rows(), wanted[kind]);
    }
}

/// Lets each of `followers` read again, several at a time, and compares what they hold with what new clients are sent.
fn assert_exact(address: &str, followers: &mut [Follower], goal: u64) -> usize {
    let wanted = wanted(address);
    std::thread::scope(|scope| {
        for part in followers.chunks_mut(30) {
            scope.spawn(|| {
                for follower in part {
                    follower.read_upto(goal);
                    follower.assert_holds(&wanted);
                }
            });
        }
    });
    followers.iter().map(|follower| follower.resets).sum()
}

#[test]
fn those_who_do_not_read_cost_little_and_hold_everything_when_they_read_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let data_dir = directory.path().to_str().expect("a path in UTF-8");
    let start = support::process::Start { data_dir, settings: SETTINGS, ..Default::default() };
    let server = ServerProcess::start(start);
    let address = &server.address;
    let (is_over, changes, goal) = (&AtomicBool::new(false), &AtomicU64::new(0), &AtomicU64::new(0));
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| write(address, is_over, changes));
        let healthy: Vec<_> = (0..HEALTHY)
            .map(|number| {
                scope.spawn(move || {
                    let mut follower = Follower::live(address, number);
                    while goal.load(Ordering::Relaxed) == 0 || follower.at() < goal.load(Ordering::Relaxed) {
                        follower.next_of_connection();
                    }
                })
            })
            .collect();
        // What the store and the readers take by themselves is taken by then.
        let (ending, _given_up) = (Ending(is_over), GivenUp(goal));
        eventually("rows change", || changes.load(Ordering::Relaxed) > 2_000);
        let before = server.resident_bytes();
        let mut stalled: Vec<_> = (0..STALLED).map(|number| Follower::live(address, number)).collect();
        let (begin, first) = (Instant::now(), changes.load(Ordering::Relaxed));
        let mut most = 0;
        while begin.elapsed() < RUN {
            std::thread::sleep(Duration::from_millis(50));
            most = most.max(server.resident_bytes());
        }
        drop(ending);
        writer.join().expect("it ends");
        goal.store(newest(address), Ordering::Relaxed);
        for healthy in healthy {
            healthy.join().expect("it holds everything");
        }
        let each = most.saturating_sub(before) / STALLED as u64;
        let happened = changes.load(Ordering::Relaxed) - first;
        let resets = assert_exact(address, &mut stalled, goal.load(Ordering::Relaxed));
        println!(
            "{STALLED} clients did not read {happened} changes: {each} bytes each, {resets} began anew, all exact"
        );
        assert!(happened > 500, "they have missed something: {happened}");
        assert!(each <= BYTES_EACH_MAX, "{each} bytes each");
        assert_eq!(server.metric("starfeed_divergences_total"), 0.0);
    });
}

#[test]
fn those_who_are_let_go_come_back_with_their_token() {
    // Whoever does not read answers no ping: that must not be why they are let go.
    let limits = [("stall_seconds", "2"), ("ping_seconds", "600")];
    let server = ServerProcess::in_memory(&[&limits[..], SETTINGS].concat());
    let address = &server.address;
    let (is_over, changes) = (&AtomicBool::new(false), &AtomicU64::new(0));
    let mut stalled: Vec<_> = (0..40).map(|number| Follower::live(address, number)).collect();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| write(address, is_over, changes));
        let ending = Ending(is_over);
        // The writer and whoever asks are left.
        eventually("all are let go", || server.metric("starfeed_connections") <= 2.0);
        drop(ending);
        writer.join().expect("it ends");
    });
    let (goal, wanted) = (newest(address), wanted(address));
    let mut told = 0;
    for follower in &mut stalled {
        loop {
            match follower.next() {
                Came::Part | Came::Confirmed => {}
                Came::Closed(code) => {
                    assert_eq!(code, TOO_SLOW);
                    told += 1;
                    break;
                }
                // Where there is no room for a close frame, there is none.
                Came::Ended => break,
            }
        }
        follower.come_back(address);
        follower.read_upto(goal);
        follower.assert_holds(&wanted);
        assert_eq!(follower.resets, 0);
    }
    println!(
        "{} clients were let go, {told} of them were told why; all came back and hold what is there",
        stalled.len()
    );
}
