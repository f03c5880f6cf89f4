//! Changes that do not get through in time: a connection that is half gone, and a database that has to throw away what nobody took.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use reql::cmd::{Conflict, Durability, insert, update};
use reql::r;
use rustix::process::Signal;
use serde_json::{Value, json};
use starfeed::proto::{self, SubscribeOptions, domain_login_event::EventType, event::Body};

use crate::support::process::{ServerProcess, eventually};
use crate::support::proxy::Proxy;
use crate::support::raw::RawClient;
use crate::support::rethinkdb::database::Database;
use crate::support::told::{documents, list, next_told, states, told, until};

/// As it comes.
const WHOLE: usize = usize::MAX;

fn row(number: usize, url: &str) -> Value {
    json!({"domain": format!("{number:06}.example"), "login_url": url, "login_test": null, "users": []})
}

/// Over the rows that are there, and not waiting for the disk.
fn soft() -> insert::Options {
    insert::Options::new().conflict(Conflict::Replace).durability(Durability::Soft)
}

fn options() -> SubscribeOptions {
    SubscribeOptions { states: Some(true), tokens: Some(true), ..documents() }
}

#[test]
fn a_connection_that_is_half_gone_is_noticed_and_made_anew() {
    let Some(database) = Database::lease() else { return };
    let proxy = Proxy::start(&database.server.host, database.server.port, WHOLE);
    let url = format!("rethinkdb://admin@127.0.0.1:{}/{}", proxy.port, database.name);
    let server = ServerProcess::of_source(&url, "", ":memory:", &[("source_silence_seconds", "1")]);
    let mut client = RawClient::connect(&server.address);
    client.subscribe(list("domain_login", options()));
    until(&mut client, "LIVE");
    database.put("domain_login", &row(1, "A"));
    assert_eq!(next_told(&mut client, 1), ["ADDED 000001.example new=A"]);
    let before = proxy.connections();
    proxy.swallow();
    database.put("domain_login", &row(1, "B"));
    database.put("domain_login", &row(2, "A"));
    assert_eq!(next_told(&mut client, 1), ["STALE Source"]);
    let mut seen: Vec<String> = until(&mut client, "LIVE").iter().map(told).collect();
    seen.sort();
    assert_eq!(seen, ["ADDED 000002.example new=A", "LIVE", "UPDATED 000001.example new=B old=A"]);
    assert!(proxy.connections() > before, "the way it went before is no way any more");
    assert!(server.metric("starfeed_source_doubts_total{reason=\"silent\"}") >= 1.0);
    database.put("domain_login", &row(2, "B"));
    assert_eq!(next_told(&mut client, 1), ["UPDATED 000002.example new=B old=A"]);
}

#[test]
fn changes_that_are_thrown_away_while_the_server_stands_still_are_made_good() {
    let Some(database) = Database::lease() else { return };
    let settings = [("source_queue_rows", "10")];
    let server = ServerProcess::of_source(&database.url(), "", ":memory:", &settings);
    let mut client = RawClient::connect(&server.address);
    client.subscribe(list("domain_login", options()));
    until(&mut client, "LIVE");
    server.signal(Signal::STOP);
    // The first of them is an answer to what the server had asked for; nobody asks for the others.
    for part in 0..20 {
        let rows: Vec<Value> = (0..100).map(|at| row(part * 50 + at, &part.to_string())).collect();
        database.server.ask(database.table("domain_login").insert(r.args((json!(rows), soft()))));
    }
    server.signal(Signal::CONT);
    let mut rows = BTreeMap::new();
    take(&mut rows, until(&mut client, "STALE Source"));
    take(&mut rows, until(&mut client, "LIVE"));
    assert_eq!(server.metric("starfeed_source_doubts_total{reason=\"overflow\"}"), 1.0);
    assert_eq!(rows, stored(&database));
    // Each change comes by itself again.
    database.put("domain_login", &row(0, "A"));
    database.put("domain_login", &row(0, "B"));
    assert_eq!(next_told(&mut client, 2), ["UPDATED 000000.example new=A old=0", "UPDATED 000000.example new=B old=A"]);
}

/// Takes what `events` bring.
fn take(rows: &mut BTreeMap<String, String>, events: Vec<proto::Event>) {
    for event in events {
        let Some(Body::DomainLoginEvent(event)) = event.body else { continue };
        let domain = event.domain().to_owned();
        match event.event_type() {
            EventType::Deleted => assert!(rows.remove(&domain).is_some(), "{domain} was not there"),
            kind => {
                let before = rows.insert(domain, event.login.unwrap_or_default().login_url().to_owned());
                assert_eq!(before.is_some(), kind == EventType::Updated);
            }
        }
    }
}

/// What the database has.
fn stored(database: &Database) -> BTreeMap<String, String> {
    let text = |row: &Value, member: &str| row[member].as_str().expect("text").to_owned();
    database.rows("domain_login").iter().map(|row| (text(row, "domain"), text(row, "login_url"))).collect()
}

/// The database says that a table was read only when each of its parts has sent a change that was not thrown away: it may never say so.
#[test]
fn changes_that_are_thrown_away_while_a_table_is_first_read_are_made_good() {
    const ROWS: usize = 20_000;
    let Some(database) = Database::lease() else { return };
    for part in 0..ROWS / 1000 {
        let rows: Vec<Value> = (0..1000).map(|at| row(part * 1000 + at, "0")).collect();
        database.server.ask(database.table("domain_login").insert(r.args((json!(rows), soft()))));
    }
    let settings = [("source_queue_rows", "10"), ("source_query_seconds", "2"), ("source_linger_seconds", "1")];
    let server = ServerProcess::of_source(&database.url(), "", ":memory:", &settings);
    let doubts = || server.metric("starfeed_source_doubts_total");
    let mut rounds = 0;
    while doubts() == 0.0 {
        rounds += 1;
        assert!(rounds < 50, "nothing was ever thrown away");
        let is_over = AtomicBool::new(false);
        let mut client = RawClient::connect(&server.address);
        let before = server.metric("starfeed_source_rows_total");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut number = 0;
                while !is_over.load(Ordering::Relaxed) {
                    number += 1;
                    let change = json!({"login_url": format!("{rounds} {number}")});
                    let options = update::Options::new().durability(Durability::Soft);
                    database.server.ask(database.table("domain_login").limit(3_000).update(r.args((change, options))));
                }
            });
            client.subscribe(list("domain_login", states()));
            client.event();
            eventually("the table is being read", || server.metric("starfeed_source_rows_total") > before + 5_000.0);
            is_over.store(true, Ordering::Relaxed);
        });
        until(&mut client, "LIVE");
        client.reset();
        eventually("nobody needs the table", || server.metric("starfeed_subscriptions") == 0.0);
    }
    let mut client = RawClient::connect(&server.address);
    client.subscribe(list("domain_login", options()));
    let mut rows = BTreeMap::new();
    take(&mut rows, until(&mut client, "LIVE"));
    assert_eq!(rows, stored(&database));
}

#[test]
fn rows_that_come_and_go_while_a_table_is_read_again_are_right() {
    const ROWS: usize = 30_000;
    const ROUNDS: usize = 4;
    // One a second.
    const HEARTBEATS: usize = 15;
    let Some(database) = Database::lease() else { return };
    for part in 0..ROWS / 1000 {
        let rows: Vec<Value> = (0..1000).map(|at| row(part * 1000 + at, "0")).collect();
        database.server.ask(database.table("domain_login").insert(r.args((json!(rows), soft()))));
    }
    let server = ServerProcess::of_source(&database.url(), "", ":memory:", &[("source_linger_seconds", "1")]);
    for round in 0..ROUNDS {
        let is_over = AtomicBool::new(false);
        let mut rows = BTreeMap::new();
        let mut client = RawClient::connect(&server.address);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut number = ROWS;
                while !is_over.load(Ordering::Relaxed) {
                    number += 1;
                    let new: Vec<Value> =
                        (0..50).map(|at| row((2 + round) * ROWS + number + at, &round.to_string())).collect();
                    database.server.ask(database.table("domain_login").insert(r.args((json!(new), soft()))));
                    let old = database.table("domain_login").get(row(number % ROWS, "")["domain"].clone());
                    database.server.ask(old.delete(()));
                }
            });
            client.subscribe(list("domain_login", SubscribeOptions { heartbeat_seconds: Some(1), ..options() }));
            take(&mut rows, until(&mut client, "LIVE"));
            is_over.store(true, Ordering::Relaxed);
        });
        // Changes of different rows come in any order: none of them is the last.
        let expected = stored(&database);
        for _ in 0..HEARTBEATS {
            if rows == expected {
                break;
            }
            take(&mut rows, until(&mut client, "HEARTBEAT"));
        }
        let is_other = |(domain, url): &(&String, &String)| expected.get(*domain) != Some(url);
        let wrong: Vec<_> = rows.iter().filter(is_other).collect();
        let lost: Vec<_> = expected.keys().filter(|domain| !rows.contains_key(*domain)).collect();
        assert!(wrong.is_empty() && lost.is_empty(), "after {round} more times: wrong {wrong:?}, lost {lost:?}");
        client.reset();
        eventually("the table is followed no more", || {
            server.metric("starfeed_source_level{table=\"domain_login\"}") == 0.0
        });
        // What happens while nobody looks shows when somebody looks again.
        database.put("domain_login", &row(500 + round, "unseen"));
    }
}
