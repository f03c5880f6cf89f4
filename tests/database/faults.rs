//! What can go wrong between a real database and the server, each with what clients see of it.

use std::collections::BTreeMap;
use std::process::{Command, Output};

use reql::r;
use rustix::process::Signal;
use serde_json::{Value, json};
use starfeed::proto::{self, event::Body};

use crate::support::process::{ServerProcess, eventually};
use crate::support::proxy::Proxy;
use crate::support::raw::{RawClient, delete_login, set_login};
use crate::support::rethinkdb::database::init;
use crate::support::rethinkdb::server::Rethinkdb;
use crate::support::told::{documents, lines, list, next_told, states, told, until};

const DATABASE: &str = "crawler";

fn start(options: &[&str], settings: &[(&str, &str)]) -> Option<(Rethinkdb, ServerProcess)> {
    let rethinkdb = Rethinkdb::of_our_own(options)?;
    let url = rethinkdb.url("admin", DATABASE);
    init(&url);
    let server = ServerProcess::of_source(&url, "", ":memory:", settings);
    Some((rethinkdb, server))
}

fn logins() -> reql::Command {
    r.db(DATABASE).table("domain_login")
}

fn row(domain: &str, url: &str) -> Value {
    json!({"domain": domain, "login_url": url, "login_test": null, "users": []})
}

fn options() -> proto::SubscribeOptions {
    proto::SubscribeOptions { states: Some(true), tokens: Some(true), ..documents() }
}

fn live(server: &ServerProcess) -> RawClient {
    let mut client = RawClient::connect(&server.address);
    client.subscribe(list("domain_login", options()));
    until(&mut client, "LIVE");
    client
}

#[test]
fn a_queue_that_overflows_is_noticed_and_made_good() {
    let Some((rethinkdb, server)) = start(&[], &[("source_queue_rows", "10")]) else { return };
    let rows: Vec<Value> = (0..500).map(|number| row(&format!("{number:03}.example"), "0")).collect();
    rethinkdb.ask(logins().insert(rows));
    let mut client = live(&server);
    let mut number = 0;
    // One query changes all rows faster than a queue of ten is emptied.
    eventually("the queue overflows", || {
        number += 1;
        rethinkdb.ask(logins().update(json!({"login_url": number.to_string()})));
        server.metric("starfeed_source_doubts_total{reason=\"overflow\"}") >= 1.0
    });
    // What each row was last, by what the client was sent.
    let mut urls: BTreeMap<String, String> = BTreeMap::new();
    while urls.len() < 500 || urls.values().any(|url| *url != number.to_string()) {
        if let Some(Body::DomainLoginEvent(event)) = client.event().body {
            assert_eq!(event.event_type().as_str_name(), "UPDATED", "no row came or went");
            let (new, old) = (event.login.unwrap_or_default(), event.old_login.unwrap_or_default());
            let known = urls.insert(event.domain.unwrap_or_default(), new.login_url().to_owned());
            assert!(known.is_none_or(|known| known == old.login_url()), "each change goes on from the one before");
        }
    }
    rethinkdb.ask(logins().insert(row("last.example", "1")));
    assert!(lines(&until(&mut client, "ADDED last.example new=1")).iter().all(|line| !line.starts_with("RESET")));
}

#[test]
fn a_database_that_stands_still_is_told_and_caught_up_with() {
    let Some((rethinkdb, server)) = start(&[], &[("source_silence_seconds", "4")]) else { return };
    let mut client = live(&server);
    let mut plain = RawClient::connect(&server.address);
    plain.subscribe(list("domain_login", proto::SubscribeOptions::default()));
    rethinkdb.ask(logins().insert(row("a.example", "1")));
    assert_eq!(next_told(&mut client, 1), ["ADDED a.example new=1"]);
    rethinkdb.signal(Signal::STOP);
    assert_eq!(next_told(&mut client, 1), ["STALE Source"]);
    // Whoever comes now gets what there was, and is told so.
    let mut late = RawClient::connect(&server.address);
    late.subscribe(list("domain_login", options()));
    let seen = ["INITIALIZING", "STALE Source", "ADDED a.example new=1", "READY", "STALE Source"];
    assert_eq!(next_told(&mut late, 5), seen, "and again in the place of LIVE");
    let text = late.refusal(set_login("b.example", "1"));
    assert!(text.contains("the database"), "{text}");
    rethinkdb.signal(Signal::CONT);
    until(&mut client, "LIVE");
    until(&mut late, "LIVE");
    // The write that was not confirmed may have been done, or not: so it is deleted, and written again.
    late.request(delete_login("b.example"));
    late.request(set_login("c.example", "1"));
    until(&mut client, "ADDED c.example new=1");
    assert_eq!(next_told(&mut plain, 1), ["ADDED a.example"]);
}

#[test]
fn a_database_that_is_killed_and_comes_back_costs_nobody_anything() {
    let Some((mut rethinkdb, server)) = start(&[], &[]) else { return };
    let mut client = live(&server);
    client.request(set_login("a.example", "1"));
    until(&mut client, "ADDED a.example new=1");
    rethinkdb.kill();
    assert_eq!(next_told(&mut client, 1), ["STALE Source"]);
    let text = client.refusal(set_login("b.example", "1"));
    assert!(text.contains("cannot be reached") || text.contains("not confirmed"), "{text}");
    rethinkdb.start();
    until(&mut client, "LIVE");
    client.request(set_login("c.example", "1"));
    assert_eq!(told(&client.event()), "ADDED c.example new=1");
}

#[test]
fn a_table_that_is_dropped_and_made_again_is_followed_again() {
    let Some((rethinkdb, server)) = start(&[], &[]) else { return };
    let mut client = live(&server);
    rethinkdb.ask(logins().insert(vec![row("a.example", "1"), row("b.example", "1")]));
    next_told(&mut client, 2);
    rethinkdb.ask(r.db(DATABASE).table_drop("domain_login"));
    assert_eq!(next_told(&mut client, 1), ["STALE Source"]);
    let primary = reql::cmd::table_create::Options::new().primary_key("domain");
    rethinkdb.ask(r.db(DATABASE).table_create(r.args(("domain_login", primary))));
    let mut seen = lines(&until(&mut client, "LIVE"));
    seen.sort();
    assert_eq!(seen, ["DELETED a.example old=1", "DELETED b.example old=1", "LIVE"]);
    rethinkdb.ask(logins().insert(row("b.example", "2")));
    assert_eq!(next_told(&mut client, 1), ["ADDED b.example new=2"]);
}

#[test]
fn a_row_that_is_nested_too_deeply_harms_only_itself() {
    let Some((rethinkdb, server)) = start(&[], &[]) else { return };
    let mut client = live(&server);
    let deep = (0..1_000).fold(json!(1), |inner, _| json!([inner]));
    let mut bad = row("deep.example", "1");
    bad["users"] = deep;
    rethinkdb.ask(logins().insert(vec![row("a.example", "1")]));
    // The driver of the tests cannot write such a row either; the database makes it itself.
    rethinkdb.ask(logins().insert(r.json(r.expr(bad.to_string()))));
    rethinkdb.ask(logins().insert(vec![row("z.example", "1")]));
    assert_eq!(next_told(&mut client, 2), ["ADDED a.example new=1", "ADDED z.example new=1"]);
    assert!(server.metric("starfeed_row_problems_total") >= 1.0);
}

/// What `starfeed` says that cannot start.
fn refused(arguments: &[&str], password: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_starfeed"));
    command.args(arguments).env_clear().env("STARFEED_SOURCE_PASSWORD", password);
    command.output().expect("it runs")
}

#[test]
fn a_wrong_password_is_said_and_not_repeated() {
    let Some(rethinkdb) = Rethinkdb::of_our_own(&["--initial-password", "hunter2"]) else { return };
    let url = rethinkdb.url("admin", DATABASE);
    let made = refused(&["init", "--source", &url], "hunter2");
    assert!(made.status.success(), "{made:?}");
    let serve = ["serve", "--source", &url, "--data-dir", ":memory:", "--listen", "127.0.0.1:0", "--log", "trace"];
    let wrong = refused(&serve, "swordfish");
    let text = String::from_utf8_lossy(&wrong.stderr);
    assert!(!wrong.status.success());
    assert!(text.contains("Wrong password") && text.contains("check the user of the source"), "{text}");
    assert!(!text.contains("swordfish"), "{text}");
    let server = ServerProcess::of_source(&url, "hunter2", ":memory:", &[]);
    live(&server);
}

#[test]
fn it_does_not_matter_how_the_bytes_are_cut() {
    let Some(rethinkdb) = Rethinkdb::of_our_own(&[]) else { return };
    for piece in [1, 16, 60] {
        let proxy = Proxy::start(&rethinkdb.host, rethinkdb.port, piece);
        let url = format!("rethinkdb://admin@127.0.0.1:{}/{DATABASE}", proxy.port);
        init(&url);
        let server = ServerProcess::of_source(&url, "", ":memory:", &[]);
        let mut client = RawClient::connect(&server.address);
        client.subscribe(list("domain_login", states()));
        until(&mut client, "LIVE");
        client.request(set_login("a.example", "1"));
        until(&mut client, "ADDED a.example");
        client.request(delete_login("a.example"));
        until(&mut client, "DELETED a.example");
    }
}
