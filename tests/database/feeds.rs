//! What the database has to do for subscribers, as it tells itself: one changefeed for a table, however many there are, and nothing when
//! they are gone.

use std::collections::BTreeMap;

use reql::r;
use serde_json::Value;
use starfeed::proto::{self, request::Command};

use crate::support::process::{ServerProcess, eventually};
use crate::support::raw::{RawClient, unsubscribe};
use crate::support::rethinkdb::ask::members;
use crate::support::rethinkdb::database::init;
use crate::support::rethinkdb::server::Rethinkdb;
use crate::support::told::{list, states, table, until};

const TABLES: [&str; 4] = ["policy", "schedule", "domain_login", "job"];

/// The canary has a feed of one row.
const CANARY: &str = "starfeed_canary";

/// The changefeeds that are open, by table.
fn feeds(rethinkdb: &Rethinkdb) -> BTreeMap<String, usize> {
    let mut feeds = BTreeMap::new();
    for job in members(rethinkdb.ask(r.db("rethinkdb").table("jobs"))) {
        let query = job["info"]["query"].as_str().unwrap_or_default();
        if let Some((_, rest)) = query.split_once("r.table(\"").filter(|_| query.contains(".changes(")) {
            let table = rest.split('"').next().unwrap_or_default();
            *feeds.entry(table.to_owned()).or_default() += 1;
        }
    }
    feeds
}

fn client_connections(rethinkdb: &Rethinkdb) -> i64 {
    let stats = members(rethinkdb.ask(r.db("rethinkdb").table("stats")));
    let cluster =
        stats.iter().find(|row| row["id"] == Value::from(vec!["cluster"])).expect("the figures of all servers");
    cluster["query_engine"]["client_connections"].as_i64().expect("a number")
}

/// A RethinkDB that nobody else asks anything, and a starfeed over it that soon closes feeds that nobody needs.
fn start() -> Option<(Rethinkdb, ServerProcess)> {
    let rethinkdb = Rethinkdb::of_our_own(&[])?;
    let url = rethinkdb.url("admin", "crawler");
    init(&url);
    let server = ServerProcess::of_source(&url, "", ":memory:", &[("source_linger_seconds", "1")]);
    Some((rethinkdb, server))
}

fn subscribe(client: &mut RawClient, number: usize) -> i32 {
    client.subscribe(match TABLES[number % TABLES.len()] {
        "job" => table("job", states()),
        name => list(name, states()),
    })
}

#[test]
fn a_thousand_subscribers_have_one_changefeed_for_each_table() {
    let Some((rethinkdb, server)) = start() else { return };
    assert_eq!(feeds(&rethinkdb), BTreeMap::new(), "nobody has asked for anything");
    let mut clients: Vec<RawClient> = (0..10).map(|_| RawClient::connect(&server.address)).collect();
    for client in &mut clients {
        for number in 0..100 {
            subscribe(client, number);
        }
    }
    // Each has gone live in the end.
    let names: Vec<String> = TABLES.iter().map(|name| (*name).to_owned()).chain([CANARY.to_owned()]).collect();
    eventually("every table is followed", || server.metric("starfeed_subscriptions_live") == 1000.0);
    eventually("each has one feed", || {
        let feeds = feeds(&rethinkdb);
        assert!(feeds.values().all(|count| *count == 1), "{feeds:?}");
        names.iter().all(|name| feeds.contains_key(name))
    });
    // Somebody stays.
    let mut last = clients.pop().expect("ten clients");
    drop(clients);
    eventually("the others are gone", || server.metric("starfeed_subscriptions") == 100.0);
    assert_eq!(feeds(&rethinkdb).get("policy"), Some(&1));
    (0..100).for_each(|id| drop(last.request(unsubscribe(id))));
    eventually("nothing is followed any more", || feeds(&rethinkdb).is_empty());
}

#[test]
fn ten_thousand_that_come_and_go_leave_nothing_behind() {
    let Some((rethinkdb, server)) = start() else { return };
    let mut client = RawClient::connect(&server.address);
    // The connections of the server are there from now on.
    subscribe(&mut client, 0);
    until(&mut client, "LIVE");
    client.request(unsubscribe(0));
    eventually("nothing is followed any more", || feeds(&rethinkdb).is_empty());
    let connections = client_connections(&rethinkdb);
    for number in 0..10_000 {
        let id = subscribe(&mut client, number);
        assert_eq!(client.request(unsubscribe(id)), None);
    }
    let list = Command::ListPolicies(proto::RequestListPolicies::default());
    assert!(client.request(list).is_some(), "commands are answered");
    eventually("nothing is followed any more", || feeds(&rethinkdb).is_empty());
    // A connection of the test itself may not be counted out yet.
    eventually("no connection is left over", || client_connections(&rethinkdb) <= connections);
    assert_eq!(server.metric("starfeed_subscriptions"), 0.0);
}
