//! The feed of a table breaks, in every way that is known: whoever subscribes is told, and then gets exactly what differs.

use std::time::{Duration, Instant};

use serde_json::json;
use starfeed::proto::{self, request::Command};

use super::reader::{PlainReader, Reader};
use super::setup::{Setup, TABLE, doubts};
use crate::support::process::eventually;
use crate::support::raw::set_login;
use crate::support::reql::fault::{Aim, Ending, Poison, Spoil};

fn three_rows() -> Setup {
    let setup = Setup::new();
    for domain in ["a.example", "b.example", "c.example"] {
        setup.put(domain, "1");
    }
    setup
}

const THREE_ADDED: [&str; 3] = ["ADDED a.example", "ADDED b.example", "ADDED c.example"];

#[test]
fn what_happened_while_the_database_was_gone_comes_as_differences() {
    let mut setup = three_rows();
    let server = setup.serve();
    let mut reader = Reader::live(&server);
    let mut plain = PlainReader::new(&server);
    assert_eq!(plain.sorted(3), THREE_ADDED);

    let level = || server.metric("starfeed_source_level{table=\"domain_login\"}");
    assert_eq!(level(), 1.0);
    setup.database.stop();
    assert_eq!(reader.next(), "STALE Source");
    assert_eq!(level(), 0.0);
    setup.put("b.example", "2");
    setup.put("b.example", "3");
    setup.delete("c.example");
    setup.put("d.example", "1");
    setup.put("passing.example", "1");
    setup.delete("passing.example");
    setup.database.start_again();
    let differences = [
        "ADDED d.example new=1 (resync)",
        "DELETED c.example old=1 (resync)",
        "UPDATED b.example new=3 old=1 (resync)",
    ];
    assert_eq!(reader.sorted_until("LIVE"), differences);
    assert_eq!(level(), 1.0);
    reader.expect_quiet(&setup);

    assert_eq!(plain.sorted(3), ["ADDED d.example", "DELETED c.example", "UPDATED b.example"]);
    assert_eq!(plain.sorted(2), ["ADDED sentinel.example", "DELETED sentinel.example"]);
    assert!(doubts(&server, "unreachable") >= 1.0);
    assert_eq!(server.metric("starfeed_divergences_total"), 0.0);
    assert_eq!(server.metric("starfeed_connections_closed_total"), 0.0);
}

#[test]
fn tokens_from_before_and_during_an_outage_resume() {
    let mut setup = three_rows();
    let server = setup.serve();
    let mut reader = Reader::live(&server);
    setup.put("a.example", "2");
    assert_eq!(reader.next(), "UPDATED a.example new=2 old=1");
    setup.database.stop();
    assert_eq!(reader.next(), "STALE Source");
    setup.delete("b.example");
    setup.put("c.example", "2");
    setup.database.start_again();
    reader.until("LIVE");
    let is_row = |line: &&String| line.contains(".example");
    let first = reader.lines.iter().position(|line| line == "LIVE").expect("it was live");
    for (token, lines) in reader.tokens.iter().filter(|(_, lines)| *lines > first) {
        let mut again = crate::support::raw::RawClient::connect(&server.address);
        let options = crate::support::told::with_token(token.clone(), super::setup::everything());
        again.subscribe(crate::support::told::list(TABLE, options));
        let events = crate::support::told::until(&mut again, "LIVE");
        let resync = |event: &proto::Event| if event.resync() { " (resync)" } else { "" };
        let told: Vec<String> =
            events.iter().map(|event| format!("{}{}", crate::support::told::told(event), resync(event))).collect();
        let expected: Vec<&String> = reader.lines[*lines..].iter().filter(is_row).collect();
        assert_eq!(told.iter().filter(is_row).collect::<Vec<_>>(), expected, "behind {lines} events");
    }
    assert_eq!(server.metric("starfeed_subscriptions_reset_total"), 0.0);
}

#[test]
fn a_database_that_falls_silent_is_noticed_and_found_again() {
    let setup = three_rows();
    let server = setup.serve_with(&[("source_silence_seconds", "4")]);
    let mut reader = Reader::live(&server);
    let mut writer = crate::support::raw::RawClient::connect(&server.address);
    setup.database.set_faults(|faults| faults.is_mute = true);
    let began = Instant::now();
    let asked = writer.ask(Command::ListDomainLogins(proto::RequestListDomainLogins::default()));
    assert_eq!(reader.next(), "STALE Source");
    assert!(began.elapsed() < Duration::from_secs(10), "it took {:?}", began.elapsed());
    let text = writer.response(asked).error_message.expect("it cannot be answered");
    assert!(text.contains("the database does not answer; try again"), "{text}");
    assert!(doubts(&server, "silent") >= 1.0);

    setup.put("a.example", "2");
    setup.delete("b.example");
    setup.database.heal();
    let differences = ["DELETED b.example old=1 (resync)", "UPDATED a.example new=2 old=1 (resync)"];
    assert_eq!(reader.sorted_until("LIVE"), differences);
    reader.expect_quiet(&setup);
    writer.request(set_login("a.example", "3"));
    assert_eq!(reader.next(), "UPDATED a.example new=3 old=2");
}

#[test]
fn a_server_that_did_not_run_for_a_while_does_not_blame_the_database() {
    let setup = three_rows();
    // A canary under way at that moment would not have come back in time.
    setup.database.drop_table("starfeed_canary");
    let server = setup.serve_with(&[("source_silence_seconds", "1")]);
    let mut reader = Reader::live(&server);
    // There is nothing to wait for: what is tested is that time passes and nothing happens.
    server.pause_for(Duration::from_secs(3));
    reader.expect_quiet(&setup);
    assert_eq!(server.metric("starfeed_source_doubts_total"), 0.0);
}

/// Something goes wrong while changes are under way: it heals by itself, and nothing is lost, made up or repeated.
fn heals(reason: &str, fault: impl Fn(&Setup)) {
    let setup = three_rows();
    let server = setup.serve();
    let mut reader = Reader::live(&server);
    let mut plain = PlainReader::new(&server);
    plain.sorted(3);
    let from = reader.lines.len();
    setup.put("d.example", "1");
    assert_eq!(reader.next(), "ADDED d.example new=1");
    fault(&setup);
    setup.put("b.example", "2");
    setup.delete("c.example");
    setup.put("e.example", "1");
    setup.put("e.example", "2");
    reader.until("STALE Source");
    reader.until("LIVE");
    reader.until_level(&setup);
    reader.expect_quiet(&setup);
    assert!(doubts(&server, reason) >= 1.0, "{reason} is not counted");
    assert_eq!(server.metric("starfeed_divergences_total"), 0.0);
    let is_row = |line: &&String| line.contains(".example");
    for line in reader.lines[from..].iter().filter(is_row) {
        let words: Vec<&str> = line.split(' ').collect();
        assert_eq!(plain.next(), format!("{} {}", words[0], words[1]), "{:?}", &reader.lines[from..]);
    }
}

#[test]
fn a_connection_that_is_cut_is_made_anew() {
    for ending in [Ending::Close, Ending::Reset] {
        heals("unreachable", |setup| setup.database.cut(ending));
    }
}

#[test]
fn a_feed_that_is_aborted_is_opened_again() {
    heals("aborted", |setup| setup.database.abort_feeds(TABLE));
}

#[test]
fn a_feed_that_is_refused_is_tried_until_it_is_not() {
    heals("aborted", |setup| {
        setup.database.set_faults(|faults| faults.feeds_to_refuse = 3);
        setup.database.abort_feeds(TABLE);
    });
}

#[test]
fn changes_that_the_database_threw_away_are_read_again() {
    heals("overflow", |setup| setup.database.overflow(TABLE, 3));
}

#[test]
fn what_is_no_answer_ends_the_connection() {
    let garbage = ["", "hunter2{", "{\"t\":3}", "{\"t\":99,\"r\":[]}", "{\"t\":3,\"r\":7}", "\u{0}"];
    for text in garbage {
        heals("protocol", |setup| {
            setup.database.set_faults(|faults| faults.spoils.push_back((Aim::Feeds, Spoil::Text(text.to_owned()))));
        });
    }
}

#[test]
fn an_answer_that_is_too_long_ends_the_connection() {
    for length in [1 << 31, u32::MAX] {
        heals("protocol", |setup| {
            setup.database.set_faults(|faults| faults.spoils.push_back((Aim::Feeds, Spoil::Length(length))));
        });
    }
}

#[test]
fn an_answer_that_nobody_asked_for_ends_the_connection() {
    heals("protocol", |setup| {
        setup.database.set_faults(|faults| faults.spoils.push_back((Aim::Feeds, Spoil::Token(u64::MAX))));
    });
}

#[test]
fn a_feed_that_never_says_anything_is_opened_again() {
    let setup = three_rows();
    // Its answers would be lost instead.
    setup.database.drop_table("starfeed_canary");
    let server = setup.serve_with(&[("source_query_seconds", "1")]);
    setup.database.set_faults(|faults| faults.spoils.push_back((Aim::Feeds, Spoil::Nothing)));
    let mut reader = Reader::new(&server.address);
    assert_eq!([reader.next(), reader.next()], ["INITIALIZING", "STALE Source"]);
    reader.until("LIVE");
    assert_eq!(doubts(&server, "silent"), 1.0);
    reader.expect_quiet(&setup);
}

#[test]
fn half_an_answer_is_none() {
    heals("unreachable", |setup| {
        setup.database.set_faults(|faults| faults.spoils.push_back((Aim::Feeds, Spoil::Half)));
    });
}

#[test]
fn an_element_that_is_no_change_is_a_reason_to_read_the_table_again() {
    let elements = ["7", "null", "{}", r#"{"type":"new","new_val":{}}"#, r#"{"type":"add","new_val":null}"#];
    for text in elements {
        heals("overflow", |setup| {
            assert_eq!(setup.database.poison(TABLE, &Poison::Text(text.to_owned())), 1);
        });
    }
    heals("protocol", |setup| {
        let initial = json!({"type": "initial", "new_val": {"domain": "ghost.example"}}).to_string();
        setup.database.poison(TABLE, &Poison::Text(initial));
    });
}

#[test]
fn answers_may_come_in_pieces() {
    let setup = three_rows();
    for piece_bytes in [1, 7, 60] {
        setup.database.set_faults(|faults| faults.answer_piece_bytes = Some(piece_bytes));
        let server = setup.serve();
        let mut reader = Reader::live(&server);
        reader.until_level(&setup);
        reader.expect_quiet(&setup);
        assert_eq!(server.metric("starfeed_source_doubts_total"), 0.0);
    }
}

#[test]
fn a_table_that_was_dropped_and_made_again_is_another_one() {
    let setup = three_rows();
    let server = setup.serve();
    let mut reader = Reader::live(&server);
    let mut plain = PlainReader::new(&server);
    plain.sorted(3);
    setup.database.drop_table(TABLE);
    assert_eq!(reader.next(), "STALE Source");
    eventually("it was looked for", || doubts(&server, "aborted") >= 3.0);
    setup.database.create_table_with_key(TABLE, "domain");
    setup.put("a.example", "1");
    setup.put("b.example", "2");
    setup.put("z.example", "1");
    reader.until_level(&setup);
    reader.expect_quiet(&setup);
    let lines = reader.lines.iter().skip_while(|line| *line != "STALE Source");
    let rows: Vec<&String> = lines.filter(|line| line.contains("c.example") || line.contains("z.example")).collect();
    assert!(rows[0].starts_with("DELETED c.example") || rows[1].starts_with("DELETED c.example"), "{rows:?}");
    assert_eq!(rows.len(), 2, "{rows:?}");
    assert!(reader.lines.iter().all(|line| !line.starts_with("RESET")), "{:?}", reader.lines);
}
