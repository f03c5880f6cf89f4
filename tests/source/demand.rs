//! A table is followed while somebody subscribes to it, by one feed, and nothing of it is left behind.

use std::time::Duration;

use starfeed::proto::{self, request::Command};

use super::reader::{PlainReader, Reader};
use super::setup::{Setup, TABLE, doubts, everything, options};
use crate::support::process::{ServerProcess, eventually};
use crate::support::raw::{RawClient, subscribe_logins, unsubscribe};
use crate::support::reql::Options;
use crate::support::told::{table, until, until_live};

fn until_feeds(setup: &Setup, expected: &[&str]) {
    eventually("the feeds are those that are needed", || setup.open_feeds() == expected);
}

#[test]
fn there_is_one_feed_while_somebody_subscribes_and_none_otherwise() {
    let setup = Setup::new();
    setup.put("a.example", "1");
    setup.put("b.example", "1");
    let server = setup.serve_with(&[("source_linger_seconds", "1")]);
    assert_eq!(setup.database.open_feeds(), [""; 0], "nobody subscribes");
    let mut readers: Vec<Reader> = (0..50).map(|_| Reader::live(&server)).collect();
    assert_eq!(setup.open_feeds(), [TABLE]);
    let feeds_asked =
        setup.database.queries().iter().filter(|query| query.starts_with("[152,") && query.contains(TABLE)).count();
    assert_eq!(feeds_asked, 1, "one feed for all");
    setup.put("a.example", "2");
    for reader in &mut readers {
        assert_eq!(reader.next(), "UPDATED a.example new=2 old=1");
    }
    assert_eq!(server.metric("starfeed_source_level{table=\"domain_login\"}"), 1.0);
    assert_eq!(setup.database.connections(), 2);
    drop(readers);
    until_feeds(&setup, &[]);
    eventually("nor is there a canary", || setup.database.open_feeds().is_empty());
    let (_, metrics) = server.page("/metrics");
    assert!(!metrics.contains("starfeed_source_level{"), "a table that nobody follows is neither level nor in doubt");

    setup.put("a.example", "3");
    setup.delete("b.example");
    setup.put("c.example", "1");
    let mut reader = Reader::new(&server.address);
    reader.until("LIVE");
    assert_eq!(reader.lines, ["INITIALIZING", "ADDED a.example new=3", "ADDED c.example new=1", "READY", "LIVE"]);
    reader.expect_quiet(&setup);
    until_feeds(&setup, &[TABLE]);
    assert_eq!(server.metric("starfeed_source_doubts_total"), 0.0);
}

#[test]
fn a_feed_is_kept_for_those_that_come_back_soon() {
    let setup = Setup::new();
    setup.put("a.example", "1");
    let server = setup.serve();
    let mut client = RawClient::connect(&server.address);
    for _ in 0..20 {
        let subscription = client.subscribe(table(TABLE, everything()));
        until(&mut client, "LIVE");
        client.request(unsubscribe(subscription));
    }
    let feeds =
        setup.database.queries().iter().filter(|query| query.starts_with("[152,") && query.contains(TABLE)).count();
    assert_eq!(feeds, 1, "the table was read once");
    assert_eq!(setup.open_feeds(), [TABLE]);
}

#[test]
fn tables_are_followed_one_by_one() {
    let setup = Setup::new();
    let server = setup.serve_with(&[("source_linger_seconds", "1")]);
    let mut client = RawClient::connect(&server.address);
    let names = ["captcha_solver", "domain_login", "job", "policy", "rate_limit", "schedule"];
    let subscriptions: Vec<i32> = names.iter().map(|name| client.subscribe(table(name, everything()))).collect();
    until_live(&server, 6);
    assert_eq!(setup.open_feeds(), names);
    for subscription in &subscriptions[..3] {
        client.request(unsubscribe(*subscription));
    }
    until_feeds(&setup, &names[3..]);
    assert_eq!(setup.database.connections(), 2, "one for commands and one for all feeds");
}

fn list_logins() -> Command {
    let page = Some(proto::Page { limit: Some(100), offset: None });
    Command::ListDomainLogins(proto::RequestListDomainLogins { page })
}

/// Ends connections with a command under way on each.
fn cancel_commands(setup: &Setup, server: &ServerProcess, count: usize) {
    setup.database.forget_queries();
    let clients: Vec<RawClient> = (0..count)
        .map(|_| {
            let mut client = RawClient::connect(&server.address);
            client.ask(list_logins());
            client
        })
        .collect();
    let lists = |query: &&String| query.contains("\"index\":\"domain\"");
    eventually("all are under way", || setup.database.queries().iter().filter(lists).count() == count);
    assert!(setup.database.open_cursors() > 0, "none is done");
    clients.into_iter().for_each(RawClient::reset);
}

#[test]
fn nothing_is_left_of_two_thousand_subscriptions_and_five_hundred_cancelled_commands() {
    let setup = Setup::with(Options { batch_rows: 4, ..options() });
    for row in 0..40 {
        setup.put(&format!("row{row:02}.example"), "1");
    }
    let server = setup.serve_with(&[("source_linger_seconds", "1")]);
    let mut client = RawClient::connect(&server.address);
    client.request(list_logins());
    let cursors = setup.database.open_cursors();
    for round in 0..500 {
        let subscriptions: Vec<i32> = (0..4).map(|_| client.subscribe(subscribe_logins())).collect();
        for subscription in subscriptions {
            let asked = client.ask(unsubscribe(subscription));
            assert!(client.response(asked).is_success, "round {round}");
        }
    }
    setup.database.set_faults(|faults| faults.delay = Duration::from_millis(300));
    for _ in 0..10 {
        cancel_commands(&setup, &server, 50);
    }
    setup.database.heal();
    until_feeds(&setup, &[]);
    eventually("no cursor is left", || setup.database.open_cursors() == cursors);
    eventually("nobody is connected", || server.metric("starfeed_connections") <= 2.0);
    assert_eq!(setup.database.connections(), 2);
    assert_eq!(server.metric("starfeed_subscriptions"), 0.0);
    assert_eq!(setup.database.connections_made(), 3, "two, and the one of init");
    let mut reader = Reader::live(&server);
    reader.until_level(&setup);
    reader.expect_quiet(&setup);
    assert_eq!(doubts(&server, "unreachable"), 0.0);
}

#[test]
fn a_table_that_cannot_be_read_yet_keeps_its_subscribers_waiting() {
    let setup = Setup::new();
    setup.put("a.example", "1");
    setup.database.set_faults(|faults| faults.feeds_to_refuse = usize::MAX);
    let server = setup.serve();
    let mut reader = Reader::new(&server.address);
    assert_eq!([reader.next(), reader.next()], ["INITIALIZING", "STALE Source"]);
    // One that knows nothing of states waits, too, and does not get a table that looks empty.
    let mut plain = PlainReader::new(&server);
    eventually("it is tried again", || doubts(&server, "aborted") >= 3.0);
    setup.database.heal();
    assert_eq!(plain.next(), "ADDED a.example");
    assert_eq!(reader.until("LIVE"), ["ADDED a.example new=1", "READY"]);
    reader.expect_quiet(&setup);
}
