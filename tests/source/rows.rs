//! Rows that cannot be kept harm only themselves, and what a feed says twice or out of turn is no event.

use serde_json::{Value, json};

use super::reader::{PlainReader, Reader};
use super::setup::{Setup, TABLE, doubts};
use crate::support::crawled::rows;
use crate::support::process::ServerProcess;
use crate::support::raw::RawClient;
use crate::support::reql::fault::{Poison, deep_row};

fn problems(server: &ServerProcess) -> f64 {
    server.metric("starfeed_row_problems_total")
}

#[test]
fn rows_that_cannot_be_kept_harm_only_themselves() {
    let setup = Setup::new();
    setup.put("a.example", "1");
    setup.put("z.example", "1");
    let server = setup.serve();
    let mut reader = Reader::live(&server);
    let bad = [
        Poison::Deep(20_000),
        Poison::NotAnObject(json!(7)),
        Poison::NotAnObject(json!("hunter2")),
        Poison::NotAnObject(json!([1, 2])),
        Poison::NoKey,
        Poison::KeyOf(json!(true)),
        Poison::KeyOf(json!(["a", 1])),
        Poison::KeyOf(json!({"$reql_type$": "TIME", "epoch_time": 1, "timezone": "+00:00"})),
        Poison::KeyOf(json!({"$reql_type$": "BINARY", "data": "no base64!"})),
    ];
    for (at, poison) in bad.iter().enumerate() {
        assert_eq!(setup.database.poison(TABLE, poison), 1);
        let domain = format!("good{at}.example");
        setup.put(&domain, "1");
        assert_eq!(reader.next(), format!("ADDED {domain} new=1"), "after {poison:?}");
        assert_eq!(problems(&server), (at + 1) as f64, "{poison:?}");
    }
    reader.expect_quiet(&setup);
    assert_eq!(server.metric("starfeed_source_doubts_total"), 0.0);
}

#[test]
fn rows_that_cannot_be_kept_do_not_keep_a_table_from_being_read() {
    let setup = Setup::new();
    setup.put("a.example", "1");
    for row in [&deep_row("domain", 20_000), "7", "[]", "\"text\"", "{}", r#"{"domain":false}"#] {
        setup.database.put_spoiled(TABLE, row);
    }
    setup.put("z.example", "1");
    let server = setup.serve();
    let mut reader = Reader::live(&server);
    assert_eq!(reader.lines[1..3], ["ADDED a.example new=1", "ADDED z.example new=1"]);
    assert_eq!(problems(&server), 6.0);
    reader.expect_quiet(&setup);
}

#[test]
fn a_row_that_becomes_bad_is_gone_for_subscribers_until_it_is_good_again() {
    let setup = Setup::new();
    setup.put("a.example", "1");
    setup.put("b.example", "1");
    let server = setup.serve();
    let mut reader = Reader::live(&server);
    let mut plain = PlainReader::new(&server);
    plain.sorted(2);
    let deep = deep_row("domain", 20_000).replace("\"deep\"", "\"a.example\"");
    let change = format!(r#"{{"new_val":{deep},"old_val":{{"domain":"a.example"}},"type":"change"}}"#);
    setup.database.poison(TABLE, &Poison::Text(change));
    assert_eq!(reader.next(), "DELETED a.example old=1");
    assert_eq!(plain.next(), "DELETED a.example");
    assert_eq!(problems(&server), 1.0);
    setup.put("b.example", "2");
    assert_eq!(reader.next(), "UPDATED b.example new=2 old=1");
    setup.put("a.example", "3");
    assert_eq!(reader.next(), "ADDED a.example new=3");
    reader.expect_quiet(&setup);
}

#[test]
fn a_row_that_is_found_bad_when_the_table_is_read_again_is_gone() {
    let setup = Setup::new();
    setup.put("a.example", "1");
    setup.put("b.example", "1");
    let server = setup.serve();
    let mut reader = Reader::live(&server);
    setup.database.set_faults(|faults| faults.feeds_to_refuse = 2);
    setup.database.abort_feeds(TABLE);
    assert_eq!(reader.next(), "STALE Source");
    setup.delete("a.example");
    setup.database.put_spoiled(TABLE, &deep_row("domain", 20_000).replace("\"deep\"", "\"a.example\""));
    assert_eq!(reader.until("LIVE"), ["DELETED a.example old=1 (resync)"]);
    setup.database.remove_spoiled(TABLE);
    reader.expect_quiet(&setup);
}

#[test]
fn a_change_that_comes_twice_is_one_event() {
    let setup = Setup::new();
    setup.put("a.example", "1");
    let server = setup.serve();
    let mut reader = Reader::live(&server);
    setup.put("a.example", "2");
    assert_eq!(reader.next(), "UPDATED a.example new=2 old=1");
    for _ in 0..3 {
        assert_eq!(setup.database.poison(TABLE, &Poison::Again), 1);
    }
    setup.put("b.example", "1");
    assert_eq!(reader.next(), "ADDED b.example new=1");
    setup.delete("a.example");
    assert_eq!(reader.next(), "DELETED a.example old=2");
    assert_eq!(setup.database.poison(TABLE, &Poison::Again), 1);
    reader.expect_quiet(&setup);
    assert_eq!(server.metric("starfeed_source_doubts_total"), 0.0);
}

#[test]
fn a_change_of_a_row_that_nobody_knew_is_what_it_makes_of_it() {
    let setup = Setup::new();
    let server = setup.serve();
    let mut reader = Reader::live(&server);
    let element = |new: Value, old: Value, kind: &str| {
        Poison::Text(json!({"new_val": new, "old_val": old, "type": kind}).to_string())
    };
    let row = json!({"domain": "ghost.example", "login_url": "1"});
    setup.database.poison(TABLE, &element(Value::Null, row.clone(), "remove"));
    reader.expect_quiet(&setup);
    setup.database.poison(TABLE, &element(row.clone(), row.clone(), "change"));
    assert_eq!(reader.next(), "ADDED ghost.example new=1", "to a subscriber it is new, whatever it was before");
    setup.database.poison(TABLE, &element(row.clone(), Value::Null, "add"));
    setup.database.poison(TABLE, &element(Value::Null, row, "remove"));
    assert_eq!(reader.next(), "DELETED ghost.example old=1");
    reader.expect_quiet(&setup);
    assert_eq!(server.metric("starfeed_source_doubts_total"), 0.0);
}

#[test]
fn a_row_that_is_to_be_sent_again_is_no_event() {
    let setup = Setup::new();
    setup.put("a.example", "1");
    let server = setup.serve();
    let mut reader = Reader::live(&server);
    setup.database.poison(TABLE, &Poison::Uninitial(json!({"domain": "a.example", "login_url": "1"})));
    assert_eq!([reader.next(), reader.next()], ["STALE Source", "LIVE"], "the table is read again, and is the same");
    assert_eq!(doubts(&server, "protocol"), 1.0);
    reader.expect_quiet(&setup);
}

#[test]
fn a_row_of_a_database_may_be_larger_than_one_of_a_client() {
    let setup = Setup::new();
    let server = setup.serve();
    let mut reader = Reader::live(&server);
    setup.put("large.example", &"x".repeat(3 << 20));
    assert!(reader.next().starts_with("ADDED large.example new=xxx"));
    setup.put("large.example", "small");
    assert!(reader.next().starts_with("UPDATED large.example new=small old=xxx"));
    reader.expect_quiet(&setup);
}

#[test]
fn keys_may_be_odd_texts() {
    let setup = Setup::new();
    for domain in ["", "\u{0}", "Ünïcödé", "\u{10ffff}", &"k".repeat(127)] {
        setup.put(domain, "1");
    }
    let server = setup.serve();
    let mut client = RawClient::connect(&server.address);
    assert_eq!(rows(&mut client, TABLE).len(), 5, "as the database has them");
    client.subscribe(crate::support::told::table(TABLE, super::setup::everything()));
    let events = crate::support::told::until(&mut client, "LIVE");
    assert_eq!(events.iter().filter(|event| event.state.is_none()).count(), 5);
    assert_eq!(problems(&server), 0.0);
}
