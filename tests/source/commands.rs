//! Commands run on the database, and a subscription of the same client sees what they wrote.

use std::time::Duration;

use serde_json::{Value, json};
use starfeed::proto::{self, request::Command, response::Body};

use super::reader::{PlainReader, Reader};
use super::setup::{Setup, TABLE, everything, options};
use crate::support::process::{ServerProcess, eventually};
use crate::support::raw::{RawClient, delete_login, set_login, subscribe_logins, unsubscribe};
use crate::support::reql::Options;
use crate::support::reql::fault::{Aim, Ending, Faults, Spoil};
use crate::support::told::{told, until};

const FEED_DELAY: Duration = Duration::from_millis(300);

fn list_all() -> Command {
    let page = Some(proto::Page { limit: Some(1000), offset: None });
    Command::ListDomainLogins(proto::RequestListDomainLogins { page })
}

fn domains(body: Option<Body>) -> Vec<String> {
    match body {
        Some(Body::ListDomainLogins(list)) => list.logins.iter().map(|login| login.domain().to_owned()).collect(),
        body => panic!("{body:?}"),
    }
}

/// A server whose feeds come late, with one that is level.
fn with_late_feed(setup: &Setup) -> (ServerProcess, PlainReader) {
    let server = setup.serve();
    // The connection for commands is there; the next one is that of the feeds.
    setup.database.set_faults_of_next_connection(Faults { delay: FEED_DELAY, ..Faults::default() });
    setup.put("first.example", "1");
    let mut reader = PlainReader::new(&server);
    assert_eq!(reader.next(), "ADDED first.example");
    (server, reader)
}

/// Writes and subscribes without waiting, and finds what was written among the rows that are there.
fn writes_are_read(address: &str, client_number: usize, rounds: usize) {
    let mut client = RawClient::connect(address);
    for round in 0..rounds {
        let domain = format!("own{client_number}-{round}.example");
        let url = format!("{round}");
        let asked = [
            client.ask(set_login(&domain, "before")),
            client.ask(set_login(&domain, &url)),
            client.ask(delete_login(&format!("own{client_number}-{}.example", round.wrapping_sub(1)))),
            client.ask(crate::support::told::list(TABLE, everything())),
            client.ask(list_all()),
        ];
        let [.., subscribed, listed] = asked.map(|request_id| client.response(request_id));
        assert!(domains(listed.body).contains(&domain), "{domain} is not in the list");
        let Some(Body::NewSubscription(subscription)) = subscribed.body else { panic!("{subscribed:?}") };
        let events = until(&mut client, "READY");
        let own = format!("own{client_number}-");
        let rows: Vec<String> =
            events.iter().filter(|event| event.initial() && told(event).contains(&own)).map(told).collect();
        assert_eq!(rows, [format!("ADDED {domain} new={url}")], "round {round}");
        let asked = client.ask(unsubscribe(subscription.subscription_id));
        assert!(client.response(asked).is_success);
        while client.has_events() {
            client.event();
        }
    }
}

#[test]
fn a_client_sees_its_own_writes_however_late_the_feed_is() {
    const CLIENTS: usize = 10;
    const ROUNDS: usize = 20;
    let setup = Setup::with(Options { batch_rows: 200, ..options() });
    let (server, _reader) = with_late_feed(&setup);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let address = server.address.clone();
            starfeed::task::spawn_thread("client", move || writes_are_read(&address, number, ROUNDS))
        })
        .collect();
    for client in clients {
        client.join().expect("it saw its writes");
    }
    assert_eq!(server.metric("starfeed_source_doubts_total"), 0.0);
}

#[test]
fn others_need_not_wait_for_a_write() {
    let setup = Setup::new();
    let (server, mut reader) = with_late_feed(&setup);
    let mut writer = RawClient::connect(&server.address);
    writer.request(set_login("new.example", "1"));
    assert_eq!(domains(writer.request(list_all())), ["first.example", "new.example"], "it is in the database");
    assert_eq!(reader.next(), "ADDED new.example");
}

#[test]
fn a_write_that_nobody_answered_is_not_confirmed_and_comes_all_the_same() {
    let setup = Setup::new();
    let faults = Faults { writes_to_leave_unanswered: 1, ..Faults::default() };
    // The first connection is the one for commands.
    setup.database.set_faults_of_next_connection(faults);
    let server = setup.serve();
    let mut reader = Reader::live(&server);
    let mut writer = RawClient::connect(&server.address);
    let text = writer.refusal(set_login("a.example", "1"));
    assert!(text.contains("the write is not confirmed; check the row before you write it again"), "{text}");
    assert_eq!(reader.next(), "ADDED a.example new=1");
    writer.request(set_login("a.example", "2"));
    assert_eq!(reader.next(), "UPDATED a.example new=2 old=1");
    reader.expect_quiet(&setup);
}

#[test]
fn a_write_that_never_left_is_said_not_to_have_been_done() {
    let mut setup = Setup::new();
    let server = setup.serve();
    let mut reader = Reader::live(&server);
    setup.database.stop();
    assert_eq!(reader.next(), "STALE Source");
    let mut writer = RawClient::connect(&server.address);
    let text = writer.refusal(set_login("a.example", "1"));
    assert!(text.contains("the database cannot be reached") && !text.contains("not confirmed"), "{text}");
    setup.database.start_again();
    reader.until("LIVE");
    eventually("the database is found", || {
        let asked = writer.ask(set_login("a.example", "2"));
        writer.response(asked).is_success
    });
    assert_eq!(reader.next(), "ADDED a.example new=2");
    reader.expect_quiet(&setup);
}

#[test]
fn what_the_database_refuses_is_said_in_its_words() {
    let setup = Setup::new();
    let server = setup.serve();
    let mut reader = Reader::live(&server);
    setup.database.set_faults(|faults| faults.refuses_writes = true);
    let mut writer = RawClient::connect(&server.address);
    for command in [set_login("a.example", "1"), delete_login("a.example")] {
        let text = writer.refusal(command);
        assert!(text.contains("User `star` does not have the required `write` permission"), "{text}");
        assert!(!text.contains("not confirmed"), "{text}");
    }
    assert_eq!(domains(writer.request(list_all())), [""; 0]);
    setup.database.heal();
    writer.request(set_login("a.example", "2"));
    assert_eq!(reader.next(), "ADDED a.example new=2");
    reader.expect_quiet(&setup);
}

#[test]
fn writes_of_one_client_take_effect_in_order() {
    const WRITES: usize = 100;
    let setup = Setup::new();
    let server = setup.serve();
    let mut reader = Reader::live(&server);
    let mut writer = RawClient::connect(&server.address);
    let asked: Vec<i32> = (0..WRITES).map(|at| writer.ask(set_login("a.example", &at.to_string()))).collect();
    for request_id in asked {
        assert!(writer.response(request_id).is_success);
    }
    assert_eq!(reader.next(), "ADDED a.example new=0");
    for at in 1..WRITES {
        assert_eq!(reader.next(), format!("UPDATED a.example new={at} old={}", at - 1));
    }
    reader.expect_quiet(&setup);
}

/// The database carries out the queries of one connection side by side, so one must not overtake another on its way.
#[test]
fn a_write_waits_for_the_answer_to_the_one_before() {
    let setup = Setup::new();
    let faults = Faults { delay: Duration::from_millis(500), ..Faults::default() };
    setup.database.set_faults_of_next_connection(faults);
    let server = setup.serve();
    let mut writer = RawClient::connect(&server.address);
    let mut other = RawClient::connect(&server.address);
    setup.database.forget_queries();
    let asked = ["1", "2"].map(|url| writer.ask(set_login("a.example", url)));
    eventually("the first is written", || setup.database.row(TABLE, "a.example").is_some());
    let listed = other.ask(list_all());
    let count = |part: &str| setup.database.queries().iter().filter(|query| query.contains(part)).count();
    eventually("others are asked meanwhile", || count(r#""index":"domain""#) == 1);
    assert_eq!(count("[55,"), 1, "the second was sent before the first was answered");
    for request_id in asked {
        assert!(writer.response(request_id).is_success);
    }
    assert!(other.response(listed).is_success);
    assert_eq!(setup.database.row(TABLE, "a.example").expect("a row")["login_url"], "2");
}

#[test]
fn a_write_behind_one_that_fails_is_done_all_the_same() {
    let setup = Setup::new();
    let faults = Faults { writes_to_leave_unanswered: 1, ..Faults::default() };
    setup.database.set_faults_of_next_connection(faults);
    let server = setup.serve();
    let mut writer = RawClient::connect(&server.address);
    let asked = [writer.ask(set_login("a.example", "1")), writer.ask(set_login("a.example", "2"))];
    let responses = asked.map(|request_id| writer.response(request_id));
    assert!(!responses[0].is_success);
    assert!(responses[1].is_success, "{responses:?}");
    assert_eq!(setup.database.row(TABLE, "a.example").expect("a row")["login_url"], "2");
}

fn row(at: usize) -> Value {
    json!({"domain": format!("row{at:03}.example"), "login_url": "1", "login_test": null, "users": []})
}

/// Writes so many rows at once.
fn import(rows: usize) -> Command {
    Command::ImportRows(proto::RequestImportRows {
        table: TABLE.to_owned(),
        rows: (0..rows).map(|at| row(at).to_string().into_bytes().into()).collect(),
        first_line: None,
        commit: Some(true),
    })
}

#[test]
fn imports_are_written_to_the_database_and_exports_read_from_it() {
    const ROWS: usize = 450;
    let setup = Setup::with(Options { batch_rows: 100, ..options() });
    let server = setup.serve();
    let mut reader = Reader::live(&server);
    let mut client = RawClient::connect(&server.address);
    let row =
        |at: usize| json!({"domain": format!("row{at:03}.example"), "login_url": "1", "login_test": null, "users": []});
    match client.request(import(ROWS)) {
        Some(Body::ImportRows(done)) => assert_eq!((done.added, done.updated), (Some(450), Some(0)), "{done:?}"),
        body => panic!("{body:?}"),
    }
    reader.until_level(&setup);
    let mut after = None;
    let mut exported = Vec::new();
    loop {
        let request = proto::RequestExportRows { table: TABLE.to_owned(), after, limit: Some(70) };
        let Some(Body::ExportRows(page)) = client.request(Command::ExportRows(request)) else { panic!("no page") };
        exported.extend(page.rows.iter().map(|row| serde_json::from_slice::<serde_json::Value>(row).expect("JSON")));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(exported, (0..ROWS).map(row).collect::<Vec<_>>());
    reader.expect_quiet(&setup);
}

#[test]
fn an_import_that_is_written_in_part_says_how_much() {
    let setup = Setup::new();
    let server = setup.serve();
    let mut reader = Reader::live(&server);
    let mut client = RawClient::connect(&server.address);
    setup.database.set_faults(|faults| faults.unavailable_key = Some("row230.example".into()));
    let text = client.refusal(import(250));
    assert!(text.contains("249 of 250 rows were written"), "{text}");
    assert!(text.contains("primary replica for shard") && text.contains("does no harm"), "{text}");
    setup.database.heal();
    match client.request(import(250)) {
        Some(Body::ImportRows(done)) => assert_eq!((done.added, done.unchanged), (Some(1), Some(249)), "{done:?}"),
        body => panic!("{body:?}"),
    }
    reader.until_level(&setup);
    reader.expect_quiet(&setup);

    setup.database.set_faults(|faults| faults.unavailable_key = Some("row000.example".into()));
    let text = client.refusal(delete_login("row000.example"));
    assert!(text.contains("primary replica for shard") && !text.contains("not confirmed"), "{text}");
}

#[test]
fn an_answer_to_a_write_that_makes_no_sense_leaves_it_unconfirmed() {
    let setup = Setup::new();
    let answers = [
        r#"{"t":1,"r":[{}]}"#,
        r#"{"t":1,"r":[{"errors":0,"changes":[]}]}"#,
        r#"{"t":1,"r":[7]}"#,
        r#"{"t":1,"r":[]}"#,
        r#"{"t":2,"r":[1,2]}"#,
        r#"{"t":99,"r":[]}"#,
        "hunter2",
    ];
    // The first connection is the one for commands, which says nothing else before.
    let server = setup.serve();
    let mut client = RawClient::connect(&server.address);
    for text in answers {
        let spoil = (Aim::Queries, Spoil::Text(text.to_owned()));
        setup.database.set_faults(|faults| faults.spoils.push_back(spoil));
        let refused = client.refusal(set_login("a.example", text));
        assert!(refused.contains("the write is not confirmed"), "{text}: {refused}");
        assert!(!refused.contains("hunter2"), "{refused}");
    }
    client.request(set_login("a.example", "!"));
    assert_eq!(setup.database.row(TABLE, "a.example").expect("a row")["login_url"], "!");
}

#[test]
fn an_answer_to_a_question_that_makes_no_sense_is_an_error() {
    let setup = Setup::new();
    setup.put("a.example", "1");
    let server = setup.serve();
    let mut client = RawClient::connect(&server.address);
    let get = || Command::GetDomainLogin(proto::RequestGetDomainLogin { domain: "a.example".to_owned() });
    for text in ["hunter2", "{}", r#"{"t":1,"r":[]}"#, r#"{"t":1,"r":[1,2]}"#, r#"{"t":2,"r":{}}"#, r#"{"t":18,"r":7}"#]
    {
        setup.database.set_faults(|faults| faults.spoils.push_back((Aim::Queries, Spoil::Text(text.to_owned()))));
        let refused = client.refusal(get());
        assert!(refused.contains("the answer of the database is not understood"), "{text}: {refused}");
        assert!(!refused.contains("hunter2"), "{refused}");
    }
    let half = (Aim::Queries, Spoil::Half);
    setup.database.set_faults(|faults| faults.spoils.push_back(half));
    assert!(client.refusal(get()).contains("the connection to the database was lost"));
    client.request(get());
}

#[test]
fn a_command_that_the_database_never_answers_is_an_error() {
    let setup = Setup::new();
    setup.put("a.example", "1");
    let server = setup.serve_with(&[("source_query_seconds", "1")]);
    let mut client = RawClient::connect(&server.address);
    let lose_an_answer = || setup.database.set_faults(|faults| faults.spoils.push_back((Aim::Queries, Spoil::Nothing)));
    let get = || Command::GetDomainLogin(proto::RequestGetDomainLogin { domain: "a.example".to_owned() });
    lose_an_answer();
    assert!(client.refusal(get()).contains("the database did not answer within 1 s"));
    client.request(get());
    lose_an_answer();
    let text = client.refusal(set_login("a.example", "2"));
    assert!(text.contains("did not answer within 1 s") && text.contains("not confirmed"), "{text}");
    client.request(get());
}

#[test]
fn a_write_under_way_is_answered_before_the_server_ends() {
    let setup = Setup::new();
    setup.database.set_faults_of_next_connection(Faults { delay: Duration::from_millis(500), ..Faults::default() });
    let mut server = setup.serve();
    let mut client = RawClient::connect(&server.address);
    let asked = client.ask(set_login("a.example", "1"));
    eventually("it is written", || setup.database.row(TABLE, "a.example").is_some());
    let ended = server.terminate();
    assert!(client.answered_before_close(asked));
    assert!(ended.success());
}

#[test]
fn commands_go_on_when_the_connection_is_made_anew() {
    let setup = Setup::new();
    setup.put("a.example", "1");
    let server = setup.serve();
    let mut client = RawClient::connect(&server.address);
    for ending in [Ending::Close, Ending::Reset] {
        assert_eq!(domains(client.request(list_all())), ["a.example"]);
        setup.database.cut(ending);
        eventually("the cut is noticed", || setup.database.connections() == 0);
        // The request may be on its way when the cut is noticed; the one after it is answered.
        let first = client.ask(list_all());
        let _ = client.response(first);
    }
    assert_eq!(domains(client.request(list_all())), ["a.example"]);
    client.subscribe(subscribe_logins());
}
