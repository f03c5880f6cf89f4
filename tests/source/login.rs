//! How a server gets into the database at its start, and what it says where it does not.

use std::time::Duration;

use super::program::Program;
use super::reader::Reader;
use super::setup::{PASSWORD, Setup, USER, options};
use crate::support::process::{ServerProcess, eventually};
use crate::support::reql::Options;
use crate::support::reql::fault::HandshakeFault;

/// The start fails with a text that has all of this, and names no password.
fn is_refused(setup: &Setup, password: &str, expected: &[&str]) {
    let ended = setup.start_with_password(password, &["--log", "trace"]).end();
    assert_eq!(ended.status, Some(1), "{ended:?}");
    for text in expected {
        assert!(ended.stderr.contains(text), "{text:?} is missing: {}", ended.stderr);
    }
    for output in [&ended.stdout, &ended.stderr] {
        assert!(!output.contains(password) && !output.contains(PASSWORD), "{output}");
    }
    assert!(!ended.stdout.contains("listening"), "{}", ended.stdout);
}

#[test]
fn the_handshake_may_come_in_pieces() {
    let setup = Setup::new();
    setup.put("a.example", "1");
    for piece_bytes in [1, 16, 60] {
        setup.database.set_faults(|faults| faults.handshake_piece_bytes = Some(piece_bytes));
        let server = setup.serve();
        let mut reader = Reader::live(&server);
        reader.expect_quiet(&setup);
    }
}

#[test]
fn a_wrong_password_is_refused_with_what_to_do() {
    let setup = Setup::new();
    let expected = ["refuses the login: Wrong password", "check the user of the source and its password"];
    is_refused(&setup, "another-password-0815", &expected);
}

#[test]
fn a_user_that_the_database_does_not_know_is_refused_with_what_to_do() {
    let setup = Setup::without_tables(Options { user: "somebody else".to_owned(), ..options() });
    is_refused(&setup, PASSWORD, &["refuses the login: Unknown user", "check the user of the source"]);
}

#[test]
fn the_password_of_a_login_that_succeeds_is_printed_nowhere() {
    let setup = Setup::new();
    let mut program = setup.start(&["--log", "trace"]);
    let address = program.address();
    let mut reader = Reader::new(&address);
    reader.until("LIVE");
    setup.database.cut(crate::support::reql::fault::Ending::Close);
    reader.until("STALE Source");
    reader.until("LIVE");
    drop(reader);
    let ended = program.terminate();
    assert!(ended.stderr.contains(USER), "it does log: {}", ended.stderr);
    assert!(!ended.stderr.contains(PASSWORD) && !ended.stdout.contains(PASSWORD), "{}", ended.stderr);
}

#[test]
fn a_server_that_cannot_prove_itself_is_refused() {
    for (fault, expected) in [
        (HandshakeFault::NoSignature, "has not proved that it knows the password"),
        (HandshakeFault::WrongSignature, "its proof that it knows the password is wrong"),
        (HandshakeFault::WrongNonce, "the challenge is not an answer to ours"),
    ] {
        let setup = Setup::new();
        setup.database.set_faults(|faults| faults.handshake = fault);
        is_refused(&setup, PASSWORD, &[expected]);
    }
}

#[test]
fn another_protocol_is_named() {
    let setup = Setup::new();
    setup.database.set_faults(|faults| faults.handshake = HandshakeFault::LaterProtocol);
    is_refused(&setup, PASSWORD, &["another version of the protocol"]);
    let text = "ERROR: Received an unsupported protocol version.";
    setup.database.set_faults(|faults| faults.handshake = HandshakeFault::Text(text.to_owned()));
    is_refused(&setup, PASSWORD, &[text, "is that a RethinkDB"]);
}

#[test]
fn a_database_that_does_not_let_anybody_in_yet_is_waited_for() {
    for fault in [HandshakeFault::End, HandshakeFault::EndBeforeLast, HandshakeFault::Silence] {
        let setup = Setup::new();
        setup.put("a.example", "1");
        setup.database.set_faults(|faults| faults.handshake = fault);
        let made = setup.database.connections_made();
        let mut program = setup.start(&["--log", "debug", "--set", "source_connect_seconds=1"]);
        program.until_said("the database cannot be asked; waiting for it");
        eventually("it tries again", || setup.database.connections_made() >= made + 3);
        assert!(program.is_running());
        setup.database.heal();
        let mut reader = Reader::new(&program.address());
        reader.until("LIVE");
        reader.expect_quiet(&setup);
    }
}

#[test]
fn a_database_that_is_not_there_yet_is_waited_for() {
    let mut setup = Setup::new();
    setup.database.stop();
    let mut program = setup.start(&[]);
    program.until_said("the database cannot be asked; waiting for it");
    setup.database.start_again();
    let mut reader = Reader::new(&program.address());
    reader.until("LIVE");
    reader.expect_quiet(&setup);
}

#[test]
fn a_server_that_waits_for_its_database_can_be_ended() {
    let mut setup = Setup::new();
    setup.database.stop();
    let mut program = setup.start(&[]);
    program.until_said("the database cannot be asked; waiting for it");
    let ended = program.terminate();
    assert_eq!(ended.status, Some(0), "{ended:?}");
}

#[test]
fn a_server_with_a_source_ends_in_order() {
    let setup = Setup::new();
    let mut program = setup.start(&[]);
    let mut reader = Reader::new(&program.address());
    reader.until("LIVE");
    let ended = program.terminate();
    assert_eq!(ended.status, Some(0), "{ended:?}");
    assert!(ended.stderr.contains("goodbye"), "{}", ended.stderr);
    assert!(!ended.stderr.contains("did not end in time"), "{}", ended.stderr);
    eventually("no connection is left", || setup.database.connections() == 0);
}

#[test]
fn a_login_that_is_refused_while_the_server_runs_is_tried_until_it_is_not() {
    let setup = Setup::new();
    setup.put("a.example", "1");
    let server = setup.serve();
    let mut reader = Reader::live(&server);
    setup.database.set_faults(|faults| faults.handshake = HandshakeFault::WrongPassword);
    setup.database.cut(crate::support::reql::fault::Ending::Reset);
    assert_eq!(reader.next(), "STALE Source");
    eventually("it was tried", || super::setup::doubts(&server, "refused") >= 2.0);
    setup.put("a.example", "2");
    setup.database.heal();
    assert_eq!(reader.until("LIVE").last().map(String::as_str), Some("UPDATED a.example new=2 old=1 (resync)"));
    reader.expect_quiet(&setup);
}

#[test]
fn a_password_in_a_flag_or_a_url_is_refused_before_anything_is_tried() {
    let setup = Setup::new();
    let before = setup.database.connections_made();
    let url = setup.url().replace(USER, &format!("{USER}:{PASSWORD}"));
    let data_dir = setup.data_dir();
    let serve = ["serve", "--listen", "127.0.0.1:0", "--data-dir", &data_dir, "--source"];
    let flag = format!("source_password={PASSWORD}");
    let own_url = setup.url();
    for more in [vec![url.as_str()], vec![own_url.as_str(), "--set", flag.as_str()]] {
        let ended = Program::start(&[&serve[..], &more].concat(), &[]).end();
        assert_eq!(ended.status, Some(78), "{ended:?}");
        assert!(ended.stderr.contains("STARFEED_SOURCE_PASSWORD"), "{}", ended.stderr);
        assert!(!ended.stderr.contains(PASSWORD), "{}", ended.stderr);
    }
    assert_eq!(setup.database.connections_made(), before);
}

#[test]
fn a_password_may_come_from_a_file() {
    let setup = Setup::new();
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("password");
    std::fs::write(&file, format!("{PASSWORD}\n")).expect("a file");
    let settings = [("source_password_file", file.to_str().expect("a path in UTF-8"))];
    let server = ServerProcess::of_source(&setup.url(), "", &setup.data_dir(), &settings);
    Reader::live(&server).expect_quiet(&setup);
}

#[test]
fn a_slow_handshake_is_no_failure() {
    let setup = Setup::new();
    setup.database.set_faults(|faults| faults.delay = Duration::from_millis(200));
    let server = setup.serve();
    Reader::live(&server).expect_quiet(&setup);
    assert_eq!(server.metric("starfeed_source_doubts_total"), 0.0);
}
