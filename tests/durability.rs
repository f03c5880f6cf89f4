//! A server that is killed while it writes.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use starfeed::proto::{self, request::Command, response::Body};
use support::process::ServerProcess;
use support::raw::{RawClient, login_event, set_login, subscribe_logins};

const ROUNDS: u64 = 10;

/// What the store holds: the number of the newest write of each row.
fn stored(server: &ServerProcess) -> BTreeMap<String, u64> {
    let mut client = RawClient::connect(&server.address);
    let mut rows = BTreeMap::new();
    let mut after = None;
    loop {
        let export = proto::RequestExportRows { table: "domain_login".to_owned(), after, limit: Some(100) };
        let Some(Body::ExportRows(page)) = client.request(Command::ExportRows(export)) else { panic!() };
        for row in &page.rows {
            let row: serde_json::Value = serde_json::from_slice(row).expect("a JSON document");
            let url = row["login_url"].as_str().expect("a URL");
            let number = url.rsplit('/').next().expect("a number").parse().expect("a number");
            rows.insert(row["domain"].as_str().expect("a domain").to_owned(), number);
        }
        after = page.next;
        if after.is_none() {
            return rows;
        }
    }
}

/// Writes rows until the server is gone, many at a time; returns the newest confirmed write of each row.
fn write_until_it_ends(address: &str, round: u64) -> BTreeMap<String, u64> {
    let mut client = RawClient::connect(address);
    let mut confirmed = BTreeMap::new();
    let mut asked = BTreeMap::new();
    for number in 0.. {
        let domain = format!("row{}.example", number % 40);
        let number = round * 1_000_000 + number;
        let request_id = client.next_request_id();
        let command = set_login(&domain, &format!("https://x.example/{number}"));
        if !client.try_ask(command) {
            break;
        }
        asked.insert(request_id, (domain, number));
        while asked.len() > 32 {
            let Some(request_id) = client.try_response() else { return confirmed };
            let (domain, number) = asked.remove(&request_id).expect("an answer to what was asked");
            confirmed.insert(domain, number);
        }
    }
    confirmed
}

/// Reads events until the server is gone; returns how many came for each row.
fn read_until_it_ends(address: &str) -> BTreeMap<String, u64> {
    let mut client = RawClient::connect(address);
    client.subscribe(subscribe_logins());
    let mut seen = BTreeMap::new();
    while let Some(event) = client.try_event() {
        let text = login_event(&event);
        let (_, domain) = text.split_once(' ').expect("two words");
        *seen.entry(domain.to_owned()).or_insert(0) += 1;
    }
    seen
}

#[test]
fn what_was_confirmed_survives_kill_and_nobody_saw_what_is_not_there() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut confirmed: BTreeMap<String, u64> = BTreeMap::new();
    let mut confirmed_writes = 0;
    for round in 0..ROUNDS {
        let mut server = ServerProcess::on_disk(directory.path());
        let before = stored(&server);
        for (domain, number) in &confirmed {
            assert!(
                before.get(domain) >= Some(number),
                "{domain}: {number} was confirmed, {:?} is there",
                before.get(domain)
            );
        }
        let address = server.address.clone();
        let (written, seen) = std::thread::scope(|scope| {
            let writer = scope.spawn(|| write_until_it_ends(&address, round + 1));
            let reader = scope.spawn(|| read_until_it_ends(&address));
            // Not at the same moment of a commit each time.
            std::thread::sleep(std::time::Duration::from_millis(150 + 37 * round));
            server.kill();
            (writer.join().expect("it ends"), reader.join().expect("it ends"))
        });
        confirmed_writes += written.len();
        confirmed.extend(written);
        let mut server = ServerProcess::on_disk(directory.path());
        let after = stored(&server);
        let there: BTreeSet<&String> = after.keys().collect();
        for domain in seen.keys() {
            assert!(there.contains(domain), "an event of {domain} was seen, and it is not there");
        }
        // Each row is written in turn, so a row seen n times by now has at least its nth write in the store.
        for (domain, events) in &seen {
            let first = u64::from(before.contains_key(domain));
            if *events > first {
                let nth = events - first - 1;
                let row: u64 = domain.trim_start_matches("row").trim_end_matches(".example").parse().expect("a number");
                let least = (round + 1) * 1_000_000 + nth * 40 + row;
                assert!(after[domain] >= least, "{domain}: event {events} was seen, the store has {}", after[domain]);
            }
        }
        assert_eq!(server.terminate().code(), Some(0));
    }
    assert!(confirmed_writes > 40, "only {confirmed_writes} rows were written at all");
}

#[test]
fn a_graceful_stop_answers_every_write_that_stays() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut answered = 0;
    for round in 0..10_u64 {
        let mut server = ServerProcess::on_disk(directory.path());
        let mut client = RawClient::connect(&server.address);
        let asked: Vec<i32> = (0..200)
            .map(|row| {
                let request_id = client.next_request_id();
                assert!(client.try_ask(set_login(&format!("{round}-{row}.example"), "https://x.example/1")));
                request_id
            })
            .collect();
        std::thread::sleep(std::time::Duration::from_millis(round));
        std::thread::scope(|scope| {
            let ended = scope.spawn(|| server.terminate());
            // In order, as far as the server came; then the close frame.
            let came = asked.iter().take_while(|request_id| client.answered_before_close(**request_id)).count();
            answered += came;
            client.shut_down_sending();
            assert_eq!(ended.join().expect("it ends").code(), Some(0));
        });
        let server = ServerProcess::on_disk(directory.path());
        assert_eq!(stored(&server).len(), answered, "what is there was answered, and what was answered is there");
    }
    assert!(answered > 0, "no write was ever answered");
}
