//! How soon a server whose store is large serves again after `kill -9`: `cargo bench --bench recovery`.
//!
//! A store with a log of 1 GiB is made, then a server on it is killed while it writes, and started again: until it listens,
//! until a client that resumes is live, and until that client is told of the first change that was made since.

#![expect(clippy::print_stdout, reason = "this is a program that prints a table")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;
use starfeed::catalog::{stored_table, stored_tables};
use starfeed::change::{Document, Epoch, Key, Table};
use starfeed::clock::Clock;
use starfeed::proto::{self, request::Command, subscription_state::Kind};
use starfeed::store::{FileDisk, Mutation, Retention, Store, StoreOptions, StoreSecret, TableIndexes, Unit};
use support::process::{ServerProcess, Start};
use support::raw::{RawClient, set_login};
use support::told::{states, table, with_token};

/// Bytes of the log; the rows come on top.
const LOG_BYTES: u64 = 1 << 30;
const ROWS: usize = 150_000;
const ROW_BYTES: usize = 1_000;
const ROWS_OF_A_COMMIT: usize = 2_000;
const ROUNDS: u32 = 5;
const TABLE: &str = "domain_login";
/// The log is kept, whatever its size.
const SETTINGS: &[(&str, &str)] = &[("retention_bytes", "8000000000")];
/// Writes under way when the server is killed.
const IN_FLIGHT: usize = 64;

fn fill(path: &Path) {
    let options = StoreOptions {
        retention: Retention { bytes: u64::MAX, age_ms: u64::MAX },
        cache_bytes: 512 << 20,
        journal_bytes: 1 << 20,
        fresh_epoch: Epoch(1),
        fresh_secret: StoreSecret([7; 32]),
        // As the server has them: it does not have to build them.
        indexes: stored_tables().map(|table| TableIndexes { table: table.table(), indexes: table.indexes }).collect(),
    };
    let store = Store::open(Box::new(FileDisk::new(path).expect("a new file")), options).expect("a new store");
    let mut number = 0;
    while store.log_bytes() < LOG_BYTES {
        let units: Vec<Unit> = (0..ROWS_OF_A_COMMIT).map(|at| vec![row(number + at)]).collect();
        store.commit(Clock.now(), &units).expect("the disk works");
        number += ROWS_OF_A_COMMIT;
    }
    println!("{number} changes of {ROWS} rows, log of {} MiB", store.log_bytes() >> 20);
}

fn row(number: usize) -> Mutation {
    let domain = format!("row{}.example", number % ROWS);
    let test = format!("{number} {}", "x".repeat(ROW_BYTES));
    let row = json!({"domain": domain, "login_url": "https://x.example/", "login_test": test, "users": []});
    Mutation::put(Table::new(TABLE), Key::text(&domain), Document::parse(row.to_string().as_bytes()).expect("a row"))
}

/// Times since a server was started.
struct Recovery {
    listening: Duration,
    live: Duration,
    first_event: Duration,
}

fn start(data_dir: &Path) -> ServerProcess {
    let data_dir = data_dir.to_str().expect("a path in UTF-8");
    ServerProcess::start(Start { data_dir, settings: SETTINGS, ..Start::default() })
}

/// Subscribes behind `token` and reads until that is live: the token there.
fn live(client: &mut RawClient, token: Option<bytes::Bytes>) -> bytes::Bytes {
    let options = token.into_iter().fold(states(), |options, token| with_token(token, options));
    // One row of many: what the others take to be sent is another figure.
    let options = proto::SubscribeOptions { filter: Some("domain == 'probe.example'".to_owned()), ..options };
    client.subscribe(table(TABLE, options));
    loop {
        let event = client.event();
        let kind = event.state.as_ref().map(proto::SubscriptionState::kind);
        assert_ne!(kind, Some(Kind::Reset), "the token is good: {event:?}");
        if kind == Some(Kind::Live) {
            return event.token.expect("a token was asked for");
        }
    }
}

fn probe(round: u32) -> Command {
    set_login("probe.example", &format!("https://x.example/{round}"))
}

fn recover(data_dir: &Path, round: u32) -> Recovery {
    let mut server = start(data_dir);
    let mut client = RawClient::connect(&server.address);
    let token = live(&mut client, None);
    let mut writer = RawClient::connect(&server.address);
    for number in 0..IN_FLIGHT {
        writer.ask(set_login(&format!("row{number}.example"), &format!("https://x.example/{round}")));
    }
    writer.next_response();
    server.kill();
    let begin = Instant::now();
    let server = start(data_dir);
    let listening = begin.elapsed();
    let mut client = RawClient::connect(&server.address);
    client.be_patient();
    live(&mut client, Some(token));
    let live = begin.elapsed();
    RawClient::connect(&server.address).request(probe(round));
    assert!(client.event().state.is_none(), "the change of the row that is followed");
    Recovery { listening, live, first_event: begin.elapsed() }
}

fn main() {
    // `cargo test --benches` runs this too; the figures take minutes.
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("SKIPPED: `cargo bench --bench recovery` measures");
        return;
    }
    assert!(stored_table(TABLE).is_some());
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("store.redb");
    fill(&path);
    println!("the file has {} MiB\n", std::fs::metadata(&path).expect("the file").len() >> 20);
    println!("| round | listening after ms | resumed and live after ms | first event after ms |");
    println!("| ---: | ---: | ---: | ---: |");
    for round in 1..=ROUNDS {
        let Recovery { listening, live, first_event } = recover(directory.path(), round);
        let [listening, live, first_event] = [listening, live, first_event].map(|time| time.as_millis());
        println!("| {round} | {listening} | {live} | {first_event} |");
    }
}
