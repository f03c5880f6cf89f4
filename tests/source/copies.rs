//! The copy outlives the server: what it says of the database is made right again, and it is taken for nothing else.

use std::path::Path;
use std::time::Duration;

use starfeed::proto;

use super::program::Program;
use super::reader::{Reader, in_database};
use super::setup::{PASSWORD, Setup, TABLE, everything, options};
use crate::support::process::{ServerProcess, eventually};
use crate::support::raw::{RawClient, set_login};
use crate::support::reql::Options;
use crate::support::told::{list, told, until};

#[test]
fn a_token_from_before_a_restart_gets_exactly_the_differences() {
    let setup = Setup::new();
    for domain in ["a.example", "b.example", "c.example", "d.example"] {
        setup.put(domain, "1");
    }
    let mut server = setup.serve();
    let mut reader = Reader::live(&server);
    setup.put("d.example", "2");
    assert_eq!(reader.next(), "UPDATED d.example new=2 old=1");
    assert!(server.terminate().success());

    setup.put("a.example", "2");
    setup.delete("b.example");
    setup.put("e.example", "1");
    setup.put("passing.example", "1");
    setup.delete("passing.example");
    let server = setup.serve();
    let mut reader = reader.resumed(&server.address);
    let differences = [
        "ADDED e.example new=1 (resync)",
        "DELETED b.example old=1 (resync)",
        "UPDATED a.example new=2 old=1 (resync)",
    ];
    assert_eq!(reader.sorted_until("LIVE"), differences);
    reader.expect_quiet(&setup);
    assert_eq!(server.metric("starfeed_subscriptions_resumed_total"), 1.0);
    assert_eq!(server.metric("starfeed_subscriptions_reset_total"), 0.0);
}

#[test]
fn a_server_that_starts_without_its_database_serves_the_copy() {
    let mut setup = Setup::new();
    setup.put("a.example", "1");
    setup.put("b.example", "1");
    let mut server = setup.serve();
    Reader::live(&server);
    assert!(server.terminate().success());
    setup.database.stop();

    let server = setup.serve();
    let mut reader = Reader::new(&server.address);
    reader.until("READY");
    let expected = ["INITIALIZING", "STALE Source", "ADDED a.example new=1", "ADDED b.example new=1", "READY"];
    assert_eq!(reader.lines, expected);
    assert_eq!(reader.next(), "STALE Source", "where it would be live otherwise");
    let mut writer = RawClient::connect(&server.address);
    assert!(writer.refusal(set_login("c.example", "1")).contains("the database cannot be reached"));
    setup.delete("b.example");
    setup.put("c.example", "2");
    setup.database.start_again();
    assert_eq!(reader.sorted_until("LIVE"), ["ADDED c.example new=2 (resync)", "DELETED b.example old=1 (resync)"]);
    reader.expect_quiet(&setup);
}

#[test]
fn a_table_that_was_never_read_is_not_served_from_the_copy() {
    let mut setup = Setup::new();
    setup.put("a.example", "1");
    let mut server = setup.serve();
    assert!(server.terminate().success());
    setup.database.stop();
    let server = setup.serve();
    let mut reader = Reader::new(&server.address);
    assert_eq!([reader.next(), reader.next()], ["INITIALIZING", "STALE Source"]);
    setup.database.start_again();
    assert_eq!(reader.until("LIVE"), ["ADDED a.example new=1", "READY"]);
    reader.expect_quiet(&setup);
}

#[test]
fn a_data_directory_with_rows_of_its_own_is_not_replaced() {
    let setup = Setup::new();
    let mut own = ServerProcess::on_disk(Path::new(&setup.data_dir()));
    RawClient::connect(&own.address).request(set_login("own.example", "1"));
    own.terminate();
    let refused = setup.start(&[]).end();
    assert_eq!(refused.status, Some(78), "{refused:?}");
    assert!(refused.stderr.contains("rows of its own") && refused.stderr.contains("--data-dir"), "{}", refused.stderr);
    let own = ServerProcess::on_disk(Path::new(&setup.data_dir()));
    let rows = crate::support::crawled::rows(&mut RawClient::connect(&own.address), TABLE);
    assert_eq!(rows.len(), 1, "they are still there");
}

#[test]
fn a_copy_is_served_only_as_what_it_is() {
    let setup = Setup::new();
    setup.put("a.example", "1");
    let mut server = setup.serve();
    Reader::live(&server);
    assert!(server.terminate().success());
    let data_dir = setup.data_dir();
    let without = Program::start(&["serve", "--listen", "127.0.0.1:0", "--data-dir", &data_dir], &[]).end();
    assert_eq!(without.status, Some(78), "{without:?}");
    assert!(without.stderr.contains("is a copy of rethinkdb/starbelly"), "{}", without.stderr);
    assert!(without.stderr.contains("--source"), "{}", without.stderr);

    setup.database.create_database("another");
    let url = setup.url().replace("/starbelly", "/another");
    let password = [("STARFEED_SOURCE_PASSWORD", PASSWORD)];
    assert_eq!(Program::start(&["init", "--source", &url], &password).end().status, Some(0));
    let serve = ["serve", "--listen", "127.0.0.1:0", "--data-dir", &data_dir, "--source", &url];
    let other = Program::start(&serve, &password).end();
    assert_eq!(other.status, Some(78), "{other:?}");
    let expected = "is a copy of rethinkdb/starbelly, and not of rethinkdb/another";
    assert!(other.stderr.contains(expected), "{}", other.stderr);
    Reader::live(&setup.serve()).expect_quiet(&setup);
}

/// Which rows a subscriber gets, read to the end.
fn all_rows(server: &ServerProcess) -> Vec<proto::Event> {
    let mut client = RawClient::connect(&server.address);
    client.subscribe(list(TABLE, everything()));
    until(&mut client, "LIVE")
}

#[test]
fn a_server_that_was_killed_while_it_read_a_table_ends_up_with_an_equal_copy() {
    const ROWS: usize = 5000;
    let setup = Setup::with(Options { batch_rows: 50, ..options() });
    for row in 0..ROWS {
        setup.put(&format!("row{row:04}.example"), "1");
    }
    for (round, upto) in [500.0, 2500.0, 4500.0].into_iter().enumerate() {
        setup.database.set_faults(|faults| faults.delay = Duration::from_millis(10));
        let mut server = setup.serve();
        let mut client = RawClient::connect(&server.address);
        client.subscribe(list(TABLE, everything()));
        eventually("some rows are read", || server.metric("starfeed_source_rows_total") >= upto);
        assert!(server.metric("starfeed_source_rows_total") < ROWS as f64, "it is killed in the middle");
        server.kill();
        setup.database.heal();
        for row in (round..ROWS).step_by(100) {
            setup.delete(&format!("row{row:04}.example"));
        }
        for row in (round + 50..ROWS).step_by(100) {
            setup.put(&format!("row{row:04}.example"), &format!("{upto}"));
        }
    }
    let server = setup.serve();
    let events = all_rows(&server);
    let lines: Vec<String> = events.iter().filter(|event| event.state.is_none()).map(told).collect();
    let expected: Vec<String> =
        in_database(&setup).iter().map(|(domain, url)| format!("ADDED {domain} new={url}")).collect();
    assert_eq!(lines, expected);
    let mut reader = Reader::live(&server);
    reader.until_level(&setup);
    reader.expect_quiet(&setup);
}

#[test]
fn a_server_that_is_killed_while_it_follows_a_table_loses_and_repeats_nothing() {
    let setup = Setup::new();
    let mut server = setup.serve();
    let mut reader = Reader::live(&server);
    let mut version = 0;
    for _ in 0..5 {
        for _ in 0..50 {
            version += 1;
            setup.put(&format!("row{:02}.example", version % 20), &version.to_string());
            if version % 7 == 0 {
                setup.delete(&format!("row{:02}.example", version % 20));
            }
        }
        // Some of it has come.
        reader.next();
        server.kill();
        version += 1;
        setup.put("down.example", &version.to_string());
        server = setup.serve();
        reader = reader.resumed(&server.address);
        reader.until_level(&setup);
    }
    reader.expect_quiet(&setup);
    assert_eq!(server.metric("starfeed_subscriptions_reset_total"), 0.0);
}
