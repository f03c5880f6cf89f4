//! Many who join at once, or fall behind together: they are sent the same, the store is read once, and each holds what is there.

mod support;

use std::collections::BTreeMap;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prost::Message as _;
use starfeed::change::Key;
use starfeed::client::{Applied, Query, Status, View};
use starfeed::proto::{self, request::Command, server_message::MessageType};
use support::process::{ServerProcess, eventually};
use support::raw::{BINARY, PING, PONG, RawClient, masked, set_login};

const CLIENTS: usize = 100;
const ROWS: usize = 1_000;
const ROWS_AT_A_TIME: usize = 250;
/// Twenty pages, and the last one is full.
const PAGE_ROWS: &str = "50";

fn domain(row: usize) -> String {
    format!("row{row:04}.example")
}

fn fill(address: &str) {
    let mut client = RawClient::connect(address);
    for rows in (0..ROWS).collect::<Vec<_>>().chunks(ROWS_AT_A_TIME) {
        let row = |row: &usize| format!(r#"{{"domain":"{}","login_url":"-","users":[]}}"#, domain(*row)).into_bytes();
        client.request(Command::ImportRows(proto::RequestImportRows {
            table: "domain_login".to_owned(),
            rows: rows.iter().map(|number| row(number).into()).collect(),
            first_line: None,
            commit: Some(true),
        }));
    }
}

/// Somebody who follows the logins, and checks what comes.
struct Follower {
    client: RawClient,
    view: View,
}

impl Follower {
    fn connect(address: &str, query: Query) -> Self {
        let client = RawClient::connect(address);
        client.be_patient();
        Self { client, view: View::new(query) }
    }

    fn subscribe(&mut self) {
        let command = self.view.subscribe();
        self.client.ask(command);
    }

    /// Reads until the server confirms that it holds everything up to `goal`.
    fn read_upto(&mut self, goal: u64) {
        loop {
            let frame = self.client.frame().expect("nobody is let go");
            let message = match frame.opcode {
                BINARY => proto::ServerMessage::decode(frame.payload.as_slice()).expect("a ServerMessage"),
                PING => {
                    self.client.try_write(&masked(PONG, &frame.payload));
                    continue;
                }
                opcode => panic!("an unexpected frame: {opcode}"),
            };
            let event = match message.message_type.expect("one of its members") {
                MessageType::Event(event) => event,
                MessageType::Response(response) => {
                    assert!(response.is_success, "{:?}", response.error_message);
                    continue;
                }
            };
            let applied = self.view.apply(event).expect("what is sent is right");
            let is_confirmed = matches!(applied, Applied::Status(Status::Live | Status::Verified));
            if is_confirmed && self.view.position().is_some_and(|position| position.0 >= goal) {
                return;
            }
        }
    }

    fn rows(&self) -> BTreeMap<Key, Vec<u8>> {
        let document = |row: &starfeed::client::Row| row.document.as_ref().expect("asked for").as_bytes().to_vec();
        self.view.rows().map(|(key, row)| (key.clone(), document(row))).collect()
    }
}

fn all() -> Query {
    Query::table("domain_login").with_documents().heartbeat_seconds(1)
}

/// The rows as the store has them, without what is secret, and the number of the newest change.
fn stored(address: &str) -> (BTreeMap<Key, Vec<u8>>, u64) {
    let mut client = RawClient::connect(address);
    let key = |row: &[u8]| {
        let row: serde_json::Value = serde_json::from_slice(row).expect("JSON");
        Key::text(row["domain"].as_str().expect("text"))
    };
    let (mut stored, mut after) = (BTreeMap::new(), None);
    loop {
        let export = proto::RequestExportRows { table: "domain_login".to_owned(), after, ..Default::default() };
        let Some(proto::response::Body::ExportRows(page)) = client.request(Command::ExportRows(export)) else {
            panic!("no rows")
        };
        stored.extend(page.rows.iter().map(|row| (key(row), row.to_vec())));
        let position = page.position();
        after = page.next;
        if after.is_none() {
            return (stored, position);
        }
    }
}

/// Ends the writer also when the test has failed.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn change_rows(address: &str, is_over: &AtomicBool) {
    let mut client = RawClient::connect(address);
    let mut random = fastrand::Rng::with_seed(1);
    while !is_over.load(Ordering::Relaxed) {
        for _ in 0..8 {
            client.request(set_login(&domain(random.usize(0..ROWS)), &format!("https://{}/", random.u64(..))));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Pages that were read for so many who join at once while rows change, and those that were there; all are exact.
fn pages_for(clients: usize) -> (f64, f64) {
    let server = ServerProcess::in_memory(&[("page_rows", PAGE_ROWS), ("shared_seconds", "600")]);
    let address = &server.address;
    fill(address);
    let (is_over, begin) = (&AtomicBool::new(false), &Barrier::new(clients));
    std::thread::scope(|scope| {
        let ending = Ending(is_over);
        let writer = scope.spawn(|| change_rows(address, is_over));
        let joining: Vec<_> = (0..clients)
            .map(|_| {
                scope.spawn(move || {
                    let mut follower = Follower::connect(address, all());
                    begin.wait();
                    follower.subscribe();
                    follower.read_upto(0);
                    follower
                })
            })
            .collect();
        let mut followers: Vec<Follower> =
            joining.into_iter().map(|follower| follower.join().expect("it is live")).collect();
        drop(ending);
        writer.join().expect("it ends");
        let (rows, goal) = stored(address);
        for follower in &mut followers {
            follower.read_upto(goal);
            assert!(follower.rows() == rows, "a client does not hold what is there");
        }
    });
    assert_eq!(server.metric("starfeed_divergences_total"), 0.0);
    (server.metric("starfeed_pages_read_total"), server.metric("starfeed_pages_shared_total"))
}

#[test]
fn the_store_is_read_once_for_all_who_join_at_once() {
    let (for_one, _) = pages_for(1);
    assert_eq!(for_one, 20.0);
    let (read, shared) = pages_for(CLIENTS);
    println!("{CLIENTS} clients joined: {read} pages were read, {shared} were there");
    assert_eq!(read, for_one);
    assert!(read + shared >= CLIENTS as f64 * for_one, "each was sent all pages");
}

#[test]
fn what_was_kept_for_those_who_join_is_given_back() {
    let server = ServerProcess::in_memory(&[("page_rows", PAGE_ROWS), ("shared_seconds", "1")]);
    fill(&server.address);
    let mut follower = Follower::connect(&server.address, all());
    follower.subscribe();
    follower.read_upto(0);
    assert!(server.metric("starfeed_pages_read_total") > 0.0);
    eventually("nothing is kept for others", || server.metric("starfeed_shared_bytes") == 0.0);
    eventually("nothing waits", || server.metric("starfeed_waiting_bytes") == 0.0);
}

/// Bytes of a change: the row before and after it.
const CHANGE_BYTES: usize = 2_400;
const MISSED: usize = 3_000;
const RANGE_BYTES: usize = 32_768;

/// Little fits on the way and into memory, so that all of it has to come from the log.
const STALLING: &[(&str, &str)] = &[
    ("window_bytes", "20000"),
    ("outbox_bytes", "20000"),
    ("send_buffer_bytes", "16384"),
    ("page_bytes", "32768"),
    ("shared_seconds", "600"),
];

/// How a client follows: not two of them begin at the same change, and some want each change.
fn stalling(number: usize) -> Query {
    match number % 3 {
        0 => all().coalesced(),
        1 => all().coalesced().filter("login_url.startsWith('https://1')"),
        _ => all().with_old(),
    }
}

#[test]
fn the_log_is_read_once_for_all_who_have_fallen_behind() {
    let server = ServerProcess::in_memory(STALLING);
    let address = &server.address;
    let write = |client: &mut RawClient, number: usize| {
        let url = format!("https://{}/{number}/{}", number / 7 % 10, "x".repeat(1_000));
        client.request(set_login(&domain(number % 40), &url));
    };
    let mut writer = RawClient::connect(address);
    (0..40).for_each(|number| write(&mut writer, number));
    let mut stalled: Vec<Follower> = (0..60)
        .map(|number| {
            write(&mut writer, number);
            let mut follower = Follower::connect(address, stalling(number));
            follower.subscribe();
            follower.read_upto(0);
            follower
        })
        .collect();
    (0..MISSED).for_each(|number| write(&mut writer, number));
    let (rows, goal) = stored(address);
    let begin = &Barrier::new(stalled.len());
    std::thread::scope(|scope| {
        for follower in &mut stalled {
            scope.spawn(move || {
                begin.wait();
                follower.read_upto(goal);
            });
        }
    });
    for (number, follower) in stalled.iter().enumerate() {
        let expected = rows.iter().filter(|(_, row)| number % 3 != 1 || begins_with_one(row));
        let expected: BTreeMap<Key, Vec<u8>> = expected.map(|(key, row)| (key.clone(), row.clone())).collect();
        assert!(follower.rows() == expected, "client {number} does not hold what is there");
    }
    let read = server.metric("starfeed_log_ranges_read_total");
    let shared = server.metric("starfeed_log_ranges_shared_total");
    let (pages, others) = (server.metric("starfeed_pages_read_total"), server.metric("starfeed_pages_shared_total"));
    println!("{read} ranges of the log were read, {shared} were there; {pages} pages were made, {others} were there");
    let once = (MISSED * CHANGE_BYTES).div_ceil(RANGE_BYTES);
    assert!(read <= (once + stalled.len()) as f64, "{read} ranges were read; the log has {once}");
    assert!(read > 0.8 * once as f64, "all of it had to be read: {read} of {once}");
    assert!(others > 5.0 * pages, "{pages} pages were made, {others} were there");
    assert_eq!(server.metric("starfeed_divergences_total"), 0.0);
}

/// Whether the address of a login does.
fn begins_with_one(row: &[u8]) -> bool {
    memchr::memmem::find(row, br#""login_url":"https://1"#).is_some()
}
