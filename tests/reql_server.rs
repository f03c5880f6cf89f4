//! The scripted ReQL server is what it claims to be: tried with a driver that others wrote, and with bare bytes.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use reql::cmd::{Conflict, Durability, ReturnChanges, changes, connect, insert, replace};
use reql::{Command, Session, func, r};
use serde_json::{Value, json};
use support::process::eventually;
use support::reql::client::RawReql;
use support::reql::fault::{Aim, Ending, Faults, HandshakeFault, Poison, Spoil, deep_row};
use support::reql::{Options, ReqlServer};

/// A server with the table `policy` of so many rows.
fn server_with(rows: usize) -> ReqlServer {
    let server = ReqlServer::start(Options::default());
    server.create_table("policy");
    for number in 0..rows {
        server.put("policy", row(number, 0));
    }
    server
}

fn key(number: usize) -> String {
    format!("row {number:03}")
}

fn row(number: usize, version: u64) -> Value {
    json!({"id": key(number), "version": version})
}

fn policy() -> Value {
    json!([15, ["policy"]])
}

/// A feed that tells everything.
fn feed(of: Value) -> Value {
    json!([152, [of], {"include_initial": true, "include_states": true, "include_types": true}])
}

fn bare_feed(of: Value) -> Value {
    json!([152, [of], {"include_types": true}])
}

// With the driver.

async fn connect(server: &ReqlServer, user: &str, password: &str) -> reql::Result<Session> {
    let options = connect::Options::new().host("127.0.0.1").port(server.address().port()).db("starbelly");
    soon(r.connect(options.user(user.to_owned()).password(password.to_owned()))).await
}

/// The driver itself waits for ever.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("it happens soon")
}

async fn ask(session: &Session, command: Command) -> reql::Result<Vec<Value>> {
    soon(command.run(session).try_collect()).await
}

#[tokio::test]
async fn a_driver_comes_in_by_its_password() {
    let account = Options { user: "crawler".to_owned(), password: "s3cret".to_owned(), ..Options::default() };
    let server = ReqlServer::start(Options { iterations: 4096, ..account });
    let session = connect(&server, "crawler", "s3cret").await.expect("the right password");
    assert_eq!(soon(session.server()).await.expect("an answer").name.as_deref(), Some("scripted"));
    let error = connect(&server, "crawler", "secret").await.expect_err("the wrong password");
    assert_eq!(error.to_string(), "client error; auth error; Wrong password");
    let error = connect(&server, "somebody", "s3cret").await.expect_err("a user that does not exist");
    assert_eq!(error.to_string(), "client error; auth error; Unknown user");
    assert_eq!((server.connections_made(), server.handshakes_passed(), server.pings()), (3, 1, 1));
}

#[tokio::test]
async fn a_driver_writes_and_reads() {
    let server = ReqlServer::start(Options::default());
    let session = connect(&server, "admin", "").await.expect("it comes in");
    ask(&session, r.db("starbelly").table_create("policy")).await.expect("a table");
    let policy = || r.table("policy");

    let both = json!([{"id": "a", "limits": {"max_cost": 1, "max_items": 2}}, {"id": "b"}]);
    let written = ask(&session, policy().insert(both)).await.expect("an answer");
    assert_eq!((&written[0]["inserted"], &written[0]["errors"]), (&json!(2), &json!(0)));
    let again = ask(&session, policy().insert(json!({"id": "a"}))).await.expect("an answer");
    let error = again[0]["first_error"].as_str().expect("an error");
    assert!(error.starts_with("Duplicate primary key `id`:\n"), "{error}");
    let options = insert::Options::new().conflict(Conflict::Update).durability(Durability::Soft);
    let merged = ask(&session, policy().insert(r.args((json!({"id": "a", "limits": {"max_cost": 5}}), options)))).await;
    assert_eq!(merged.expect("an answer")[0]["replaced"], 1);
    let got = ask(&session, policy().get("a")).await.expect("a row");
    assert_eq!(got, [json!({"id": "a", "limits": {"max_cost": 5, "max_items": 2}})]);
    assert_eq!(ask(&session, policy().get("c")).await.expect("no row"), [Value::Null]);

    let renamed = func!(|row| row.merge(r.expr(json!({"name": "B"}))));
    let options = replace::Options::new().return_changes(ReturnChanges::Always);
    let replaced = ask(&session, policy().get("b").replace(r.args((renamed, options)))).await.expect("an answer");
    assert_eq!(replaced[0]["replaced"], 1);
    assert_eq!(replaced[0]["changes"], json!([{"new_val": {"id": "b", "name": "B"}, "old_val": {"id": "b"}}]));
    let same = r.expr(json!({"id": "b", "name": "B"}));
    assert_eq!(ask(&session, policy().count(same)).await.expect("a number"), [json!(1)]);

    let deleted = ask(&session, policy().get("a").delete(())).await.expect("an answer");
    assert_eq!(deleted[0]["deleted"], 1);
    assert_eq!(server.rows("policy"), BTreeMap::from([("b".to_owned(), json!({"id": "b", "name": "B"}))]));
    let error = ask(&session, r.table("nothing")).await.expect_err("no such table");
    assert!(error.to_string().ends_with("Table `starbelly.nothing` does not exist."), "{error}");
    assert!(server.queries().contains(&r#"[16,[[15,["policy"]],"a"]]"#.to_owned()), "{:?}", server.queries());
}

#[tokio::test]
async fn a_driver_follows_a_feed() {
    let server = server_with(20);
    let session = connect(&server, "admin", "").await.expect("it comes in");
    let options = changes::Options::new().include_initial(true).include_states(true).include_types(true);
    let mut feed = Box::pin(r.table("policy").changes(options).run::<_, Value>(&session));
    let mut next = async || soon(feed.try_next()).await.expect("it goes on").expect("an element");
    assert_eq!(next().await, json!({"type": "state", "state": "initializing"}));
    let mut keys = BTreeSet::new();
    for _ in 0..20 {
        let element = next().await;
        assert_eq!(element["type"], "initial", "{element}");
        keys.insert(element["new_val"]["id"].as_str().expect("a key").to_owned());
    }
    assert_eq!(keys.len(), 20);
    assert_eq!(next().await, json!({"type": "state", "state": "ready"}));
    let writer = connect(&server, "admin", "").await.expect("it comes in");
    ask(&writer, r.table("policy").insert(json!({"id": "new"}))).await.expect("a write");
    assert_eq!(next().await, json!({"type": "add", "old_val": null, "new_val": {"id": "new"}}));
    ask(&writer, r.table("policy").get("new").delete(())).await.expect("a write");
    assert_eq!(next().await, json!({"type": "remove", "old_val": {"id": "new"}, "new_val": null}));
    assert_eq!(server.open_feeds(), ["policy"]);
    server.drop_table("policy");
    let error = soon(feed.try_next()).await.expect_err("the table is gone");
    assert_eq!(
        error.to_string(),
        "runtime error; availability error; operation failed; Changefeed aborted (unavailable)."
    );
}

// Feeds.

/// The elements of an answer that does not end the stream.
fn elements(answer: &Value) -> Vec<Value> {
    assert_eq!(answer["t"], 3, "{answer}");
    answer["r"].as_array().expect("an array").clone()
}

/// A feed that has said "ready".
fn ready_feed(client: &mut RawReql, of: Value) -> (u64, Vec<Value>) {
    let token = client.start(&feed(of));
    let mut all = elements(&client.answer_to(token));
    while all.last().is_none_or(|last| last["state"] != "ready") {
        all.extend(elements(&client.more(token)));
    }
    (token, all)
}

#[test]
fn the_first_rows_come_in_no_order_and_in_batches() {
    let server = server_with(30);
    let mut client = RawReql::connect(server.address());
    let token = client.start(&feed(policy()));
    let first = client.answer_to(token);
    assert_eq!(first["n"], json!([1, 5]));
    let first = elements(&first);
    assert_eq!(first[0], json!({"type": "state", "state": "initializing"}));
    assert_eq!(first.len(), 1 + 8);
    let mut rest = Vec::new();
    while rest.last().is_none_or(|last: &Value| last["state"] != "ready") {
        rest.extend(elements(&client.more(token)));
    }
    let rows = first[1..].iter().chain(&rest[..rest.len() - 1]);
    let keys: Vec<_> = rows.map(|element| element["new_val"]["id"].as_str().expect("a row").to_owned()).collect();
    assert!(first[1..].iter().all(|element| element.get("old_val").is_none()), "{first:?}");
    let sorted: BTreeSet<_> = keys.iter().cloned().collect();
    assert_eq!(sorted.len(), 30);
    assert!(!keys.iter().eq(&sorted), "in the order of the keys");
    client.ask_for_more(token);
    assert!(client.is_silent_for(Duration::from_millis(50)), "there was nothing to say");
    server.put("policy", row(0, 0));
    assert!(client.is_silent_for(Duration::from_millis(50)), "nothing has changed");
    server.put("policy", row(0, 1));
    let change = json!({"type": "change", "old_val": row(0, 0), "new_val": row(0, 1)});
    assert_eq!(elements(&client.answer_to(token)), [change]);
}

#[test]
fn changes_of_rows_that_were_read_come_between_and_others_do_not() {
    let server = server_with(30);
    let mut client = RawReql::connect(server.address());
    let token = client.start(&feed(policy()));
    let first = elements(&client.answer_to(token));
    let read: BTreeSet<_> = first[1..].iter().map(|element| element["new_val"]["id"].clone().to_string()).collect();
    for number in 0..30 {
        server.put("policy", row(number, 1));
    }
    let mut versions: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let mut is_ready = false;
    while !is_ready {
        for element in elements(&client.more(token)) {
            is_ready |= element["state"] == "ready";
            if !is_ready {
                versions.entry(element["new_val"]["id"].to_string()).or_default().push(element);
            }
        }
    }
    assert_eq!((versions.len(), read.len()), (30, 8));
    for (key, elements) in versions {
        let expected = if read.contains(&key) { "change" } else { "initial" };
        assert_eq!((elements.len(), &elements[0]["type"]), (1, &json!(expected)), "{key}");
        assert_eq!(elements[0]["new_val"]["version"], 1);
    }
    server.delete("policy", key(3));
    let removed = json!({"type": "remove", "old_val": row(3, 1), "new_val": null});
    assert_eq!(elements(&client.more(token)), [removed]);
}

#[test]
fn a_feed_without_members_hears_nothing_of_them() {
    let server = server_with(0);
    server.put("policy", json!({"id": "a", "name": "A", "secret": 1}));
    let mut client = RawReql::connect(server.address());
    let (token, all) = ready_feed(&mut client, json!([34, [policy(), "secret"]]));
    assert_eq!(all[1], json!({"type": "initial", "new_val": {"id": "a", "name": "A"}}));
    server.put("policy", json!({"id": "a", "name": "A", "secret": 2}));
    server.put("policy", json!({"id": "a", "name": "B", "secret": 2}));
    let change = json!({"type": "change", "old_val": {"id": "a", "name": "A"}, "new_val": {"id": "a", "name": "B"}});
    assert_eq!(elements(&client.more(token)), [change]);
}

#[test]
fn a_feed_of_one_row_hears_of_no_other() {
    let server = server_with(2);
    let mut client = RawReql::connect(server.address());
    let bare = client.start(&bare_feed(json!([16, [policy(), key(0)]])));
    let answer = client.answer_to(bare);
    assert_eq!((elements(&answer), &answer["n"]), (vec![], &json!([2])));
    let (_, all) = ready_feed(&mut client, json!([16, [policy(), "nothing"]]));
    assert_eq!(all[1], json!({"type": "initial", "new_val": null}));
    server.put("policy", row(1, 1));
    server.put("policy", row(0, 1));
    let change = json!({"type": "change", "old_val": row(0, 0), "new_val": row(0, 1)});
    assert_eq!(elements(&client.more(bare)), [change]);
}

#[test]
fn a_queue_that_is_too_long_is_thrown_away_and_the_feed_goes_on() {
    let server = server_with(0);
    let mut client = RawReql::connect(server.address());
    let token = client.start(&json!([152, [policy()], {"changefeed_queue_size": 3}]));
    assert_eq!(elements(&client.answer_to(token)), [] as [Value; 0]);
    for number in 0..5 {
        server.put("policy", row(number, 0));
    }
    let skipped =
        |count: usize| json!({"error": format!("Changefeed cache over array size limit, skipped {count} elements.")});
    assert_eq!(elements(&client.more(token)), [skipped(4)]);
    assert_eq!(elements(&client.more(token)), [json!({"old_val": null, "new_val": row(4, 0)})]);
    server.overflow("policy", 17);
    assert_eq!(elements(&client.more(token)), [skipped(17)]);
}

#[test]
fn an_overflow_while_the_table_is_read_shows_right_before_ready() {
    let server = server_with(20);
    let mut client = RawReql::connect(server.address());
    let token = client.start(&feed(policy()));
    let mut all = elements(&client.answer_to(token));
    server.overflow("policy", 9);
    while all.last().is_none_or(|last| last["state"] != "ready") {
        all.extend(elements(&client.more(token)));
    }
    assert_eq!(all.len(), 1 + 20 + 2);
    assert_eq!(all[21], json!({"error": "Changefeed cache over array size limit, skipped 9 elements."}));
}

#[test]
fn feeds_end_with_their_table_by_a_stop_and_with_their_connection() {
    let server = server_with(1);
    server.create_table("schedule");
    let mut client = RawReql::connect(server.address());
    let (dropped, _) = ready_feed(&mut client, json!([15, ["schedule"]]));
    let (stopped, _) = ready_feed(&mut client, policy());
    let (left, _) = ready_feed(&mut client, policy());
    assert_eq!(server.open_feeds(), ["policy", "policy", "schedule"]);

    client.ask_for_more(dropped);
    server.drop_table("schedule");
    let aborted = json!({"t": 18, "e": 4_100_000, "r": ["Changefeed aborted (unavailable)."], "b": []});
    assert_eq!(client.answer_to(dropped), aborted);
    let missing = client.query(&feed(json!([15, ["schedule"]])));
    assert_eq!(
        (&missing["e"], &missing["r"]),
        (&json!(4_100_000), &json!(["Table `starbelly.schedule` does not exist."]))
    );
    let stop = json!({"t": 2, "r": [], "n": []});
    client.ask_to_stop(stopped);
    assert_eq!(client.answer_to(stopped), stop);
    client.ask_to_stop(stopped);
    let unknown = client.answer_to(stopped);
    assert_eq!(
        (&unknown["t"], &unknown["r"][0]),
        (&json!(16), &json!(format!("Token {stopped} not in stream cache.")))
    );
    assert_eq!(server.open_feeds(), ["policy"]);
    client.ask_for_more(left);
    assert!(client.is_silent_for(Duration::from_millis(30)), "nothing has changed");
    client.ask_to_stop(left);
    assert_eq!(
        [client.answer_to(left), client.answer_to(left)],
        [stop.clone(), stop],
        "the waiting question, and the stop"
    );

    let _ = ready_feed(&mut client, policy());
    assert_eq!(server.open_feeds(), ["policy"]);
    drop(client);
    eventually("the feed is closed", || server.open_feeds().is_empty() && server.connections() == 0);
}

// Queries.

#[test]
fn plain_rows_come_in_batches() {
    let server = server_with(20);
    let mut client = RawReql::connect(server.address());
    let token = client.start(&policy());
    let mut rows = elements(&client.answer_to(token));
    assert_eq!((rows.len(), server.open_cursors()), (8, 1));
    rows.extend(elements(&client.more(token)));
    let last = client.more(token);
    assert_eq!((&last["t"], server.open_cursors()), (&json!(2), 0));
    rows.extend(last["r"].as_array().expect("an array").clone());
    assert_eq!(rows, (0..20).map(|number| row(number, 0)).collect::<Vec<_>>());
    assert_eq!(client.more(token)["t"], 16);
}

#[test]
fn rows_are_ordered_chosen_and_counted() {
    let server = server_with(0);
    server.create_index("policy", "rank");
    for (id, rank) in [("a", json!(3)), ("b", json!(1.5)), ("c", Value::Null), ("d", json!("x")), ("e", json!(1.0))] {
        server.put("policy", json!({"id": id, "rank": rank}));
    }
    server.put("policy", json!({"id": "f"}));
    let mut client = RawReql::connect(server.address());
    let mut ids = |term: Value| {
        let answer = client.query(&term);
        let rows = answer["r"].as_array().unwrap_or_else(|| panic!("{answer}")).clone();
        rows.iter().map(|row| row["id"].as_str().expect("a key").to_owned()).collect::<String>()
    };
    let by_rank = json!([41, [policy()], {"index": "rank"}]);
    assert_eq!(ids(by_rank.clone()), "ebad");
    assert_eq!(ids(json!([41, [policy()], {"index": [74, ["rank"]]}])), "dabe");
    assert_eq!(ids(json!([71, [[70, [by_rank, 1]], 2]])), "ba");
    assert_eq!(ids(json!([41, [[182, [policy(), "b", [181]]]], {"index": "id"}])), "bcdef");
    assert_eq!(ids(json!([182, [policy(), 1, 3], {"index": "rank", "right_bound": "closed"}])).len(), 3);
    let has_no_rank = json!([69, [[2, [1]], [23, [[32, [[10, [1]], "rank"]]]]]]);
    assert_eq!(client.value(&json!([43, [[39, [policy(), has_no_rank]]]])), 2);
    let is_three = json!([69, [[2, [1]], [17, [[170, [[10, [1]], "rank"]], 3]]]]);
    assert_eq!(client.value(&json!([43, [[39, [policy(), is_three]]]])), 1, "a row without the member is left out");
    assert_eq!(client.value(&json!([43, [[39, [policy(), is_three], {"default": true}]]])), 2);
    let missing = json!([170, [[16, [policy(), "f"]], "rank"]]);
    assert_eq!(client.query(&missing)["e"], 3_100_000);
    assert_eq!(client.value(&json!([92, [missing, "none"]])), "none");
    assert_eq!(client.value(&json!([51, [[170, [[16, [policy(), "e"]], "rank"]], "string"]])), "1");
    let info = client.value(&json!([79, [policy()]]));
    assert_eq!(
        (&info["primary_key"], &info["indexes"], &info["db"]["name"]),
        (&json!("id"), &json!(["rank"]), &json!("starbelly"))
    );
    let unknown = client.query(&json!([144, [policy()]]));
    assert_eq!((&unknown["t"], &unknown["r"][0]), (&json!(17), &json!("The scripted server does not know term 144.")));
}

#[test]
fn a_function_decides_what_a_row_becomes() {
    let server = server_with(1);
    let mut client = RawReql::connect(server.address());
    let mut replace = |key: &str, body: Value| {
        let function = json!([69, [[2, [7]], body]]);
        client
            .value(&json!([55, [[16, [policy(), key]], function], {"return_changes": "always", "durability": "soft"}]))
    };
    // Replaces version 0 only.
    let compare = |then: Value| {
        json!([65, [[17, [[92, [[170, [[10, [7]], "version"]], null]], 0]], then, [12, ["it has changed"]]]])
    };
    let first = replace(&key(0), compare(json!({"id": key(0), "version": 1, "tags": [2, ["x"]]})));
    assert_eq!((&first["replaced"], &first["changes"][0]["new_val"]["tags"]), (&json!(1), &json!(["x"])));
    let second = replace(&key(0), compare(json!({"id": key(0), "version": 2})));
    assert_eq!((&second["errors"], &second["first_error"]), (&json!(1), &json!("it has changed")));
    let change = &second["changes"][0];
    assert_eq!((&change["error"], &change["old_val"]), (&json!("it has changed"), &change["new_val"]));
    assert_eq!(replace(&key(0), json!([10, [7]]))["unchanged"], 1);
    let moved = replace(&key(0), json!({"id": "elsewhere"}));
    assert!(
        moved["first_error"].as_str().expect("an error").starts_with("Primary key `id` cannot be changed"),
        "{moved}"
    );
    assert_eq!(replace(&key(0), json!(null))["deleted"], 1);
    assert_eq!(replace(&key(0), json!(null))["skipped"], 1);
    assert_eq!(replace(&key(0), json!({"id": key(0)}))["inserted"], 1);
    assert_eq!(server.row("policy", key(0)), Some(json!({"id": key(0)})));
    let same = json!([65, [[17, [[10, [8]], null]], null, [10, [8]]]]);
    let mut change = |returns: Value, key: &str| {
        let function = json!([69, [[2, [8]], same.clone()]]);
        client.value(&json!([55, [[16, [policy(), key]], function], {"return_changes": returns}]))["changes"].clone()
    };
    assert_eq!(change(json!(true), &key(0)), json!([]), "only what has changed");
    assert_eq!(change(json!("always"), "nothing"), json!([{"new_val": null, "old_val": null}]));
    assert_eq!(change(json!(false), &key(0)), Value::Null);
}

// Faults.

#[test]
fn pieces_of_one_byte_are_the_same_conversation() {
    let server = server_with(2);
    server.set_faults(|faults| (faults.handshake_piece_bytes, faults.answer_piece_bytes) = (Some(1), Some(1)));
    let mut client = RawReql::connect(server.address());
    let reads = client.reads;
    assert!(reads > 10, "the handshake came in {reads} pieces");
    assert_eq!(client.value(&json!([43, [policy()]])), 2);
    assert!(client.reads > reads + 3, "the answer came in {} pieces", client.reads - reads);
}

#[test]
fn handshakes_go_wrong_as_asked() {
    let server = server_with(0);
    let next = |handshake: HandshakeFault| {
        server.set_faults_of_next_connection(Faults { handshake, ..Faults::default() });
        RawReql::try_connect(server.address(), "admin", "").err().unwrap_or_default()
    };
    let wrong_password = RawReql::try_connect(server.address(), "admin", "x").err().expect("a refusal");
    assert!(wrong_password.contains(r#""error_code":12"#), "{wrong_password}");
    assert_eq!(next(HandshakeFault::WrongPassword), wrong_password);
    assert!(next(HandshakeFault::WrongSignature).starts_with("a wrong signature: "));
    assert_eq!(next(HandshakeFault::NoSignature), r#"a wrong signature: {"success":true}"#);
    assert!(next(HandshakeFault::WrongNonce).starts_with("a nonce of its own: nobody's"));
    assert!(next(HandshakeFault::LaterProtocol).starts_with("a protocol of its own: "));
    assert_eq!(next(HandshakeFault::Text("ERROR: too busy".to_owned())), "ERROR: too busy");
    assert_eq!(next(HandshakeFault::End), "the end");
    assert_eq!(next(HandshakeFault::EndBeforeLast), "the end");
    assert_eq!(next(HandshakeFault::None), "");
    server.set_faults_of_next_connection(Faults { handshake: HandshakeFault::Silence, ..Faults::default() });
    assert!(RawReql::reach(server.address()).is_silent_for(Duration::from_millis(50)));
}

#[test]
fn a_mute_server_answers_when_it_is_back_and_a_slow_one_later() {
    let server = server_with(3);
    let mut client = RawReql::connect(server.address());
    server.set_faults(|faults| faults.is_mute = true);
    let token = client.start(&json!([54, [policy()]]));
    assert!(client.is_silent_for(Duration::from_millis(50)));
    assert_eq!(server.rows("policy").len(), 3, "nothing has reached it");
    server.heal();
    assert_eq!(client.answer_to(token)["r"][0]["deleted"], 3);

    server.set_faults(|faults| faults.delay = Duration::from_millis(60));
    let asked = Instant::now();
    let tokens = [client.start(&policy()), client.start(&policy()), client.start(&policy())];
    for token in tokens {
        client.answer_to(token);
    }
    assert!(asked.elapsed() >= Duration::from_millis(60));
}

#[test]
fn connections_are_cut_and_a_server_comes_back_with_its_rows() {
    let mut server = server_with(3);
    for ending in [Ending::Close, Ending::Reset] {
        let mut client = RawReql::connect(server.address());
        server.cut(ending);
        assert_eq!(client.frame(), None, "{ending:?}");
    }
    let mut client = RawReql::connect(server.address());
    let address = server.address();
    server.stop();
    assert_eq!(client.frame(), None);
    assert!(std::net::TcpStream::connect(address).is_err(), "nobody listens");
    assert_eq!(server.connections(), 0);
    server.start_again();
    assert_eq!(server.address(), address);
    assert_eq!(RawReql::connect(address).value(&json!([43, [policy()]])), 3);
}

#[test]
fn writes_are_refused_and_left_unanswered() {
    let server = server_with(0);
    let insert = json!([56, [policy(), {"id": "a"}]]);
    let mut client = RawReql::connect(server.address());
    server.set_faults(|faults| faults.refuses_writes = true);
    let refused = client.query(&insert);
    let text = "User `admin` does not have the required `write` permission.";
    assert_eq!((&refused["e"], &refused["r"][0]), (&json!(6_000_000), &json!(text)));
    assert_eq!(server.row("policy", "a"), None);
    server.heal();
    server.set_faults(|faults| faults.writes_to_leave_unanswered = 1);
    assert_eq!(client.value(&json!([43, [policy()]])), 0, "a read is answered");
    client.start(&insert);
    assert_eq!(client.frame(), None);
    assert_eq!(server.row("policy", "a"), Some(json!({"id": "a"})));
    assert_eq!(RawReql::connect(server.address()).value(&json!([54, [policy()]]))["deleted"], 1);
}

#[test]
fn feeds_are_refused_aborted_and_poisoned() {
    let server = server_with(1);
    let mut client = RawReql::connect(server.address());
    server.set_faults(|faults| faults.feeds_to_refuse = 2);
    for _ in 0..2 {
        let refused = client.query(&feed(policy()));
        assert_eq!(refused["e"], 4_100_000);
        assert_eq!(refused["r"][0], "cannot subscribe to table: primary replica not available");
    }
    server.put_spoiled("policy", &deep_row("id", 20_000));
    let token = client.start(&feed(policy()));
    let (_, _, text) = client.frame().expect("an answer");
    assert!(String::from_utf8_lossy(&text).contains(&"[".repeat(20_000)), "the row that no value can hold");
    server.put("policy", row(0, 1));
    let change = json!({"type": "change", "old_val": row(0, 0), "new_val": row(0, 1)});
    let add = |row: Value| json!({"type": "add", "old_val": null, "new_val": row});
    let cases = [
        (Poison::Again, change.clone()),
        (Poison::NotAnObject(json!(7)), add(json!(7))),
        (Poison::NoKey, add(json!({"name": "a row without its key"}))),
        (Poison::KeyOf(json!([1, true])), add(json!({"id": [1, true], "name": "a row with an odd key"}))),
        (Poison::Uninitial(row(0, 1)), json!({"type": "uninitial", "old_val": row(0, 1)})),
        (Poison::Error("wrong".to_owned()), json!({"error": "wrong"})),
        (Poison::Text("null".to_owned()), Value::Null),
    ];
    assert_eq!(elements(&client.more(token)), [change]);
    for (poison, expected) in cases {
        assert_eq!(server.poison("policy", &poison), 1);
        assert_eq!(elements(&client.more(token)), [expected]);
    }
    server.poison("policy", &Poison::UnknownKey(json!("nobody")));
    assert_eq!(elements(&client.more(token))[0]["old_val"]["id"], "nobody");
    server.poison("policy", &Poison::Deep(300));
    client.ask_for_more(token);
    let (_, _, text) = client.frame().expect("an answer");
    assert!(String::from_utf8_lossy(&text).contains(&"[".repeat(300)));
    server.abort_feeds("policy");
    assert_eq!(client.more(token)["e"], 4_100_000);
    assert_eq!(server.open_feeds(), [] as [&str; 0]);
}

#[test]
fn answers_are_spoiled() {
    let server = server_with(1);
    let mut client = RawReql::connect(server.address());
    let (token, _) = ready_feed(&mut client, policy());
    let count = json!([43, [policy()]]);
    server.set_faults(|faults| {
        faults.spoils.push_back((Aim::Feeds, Spoil::Text("garbage".to_owned())));
        faults.spoils.push_back((Aim::Queries, Spoil::Nothing));
        faults.spoils.push_back((Aim::Any, Spoil::Token(99)));
    });
    let unanswered = client.start(&count);
    assert!(client.is_silent_for(Duration::from_millis(30)), "{unanswered} was answered");
    client.start(&count);
    assert_eq!(client.answer().0, 99);
    server.put("policy", row(0, 1));
    client.ask_for_more(token);
    assert_eq!(client.frame(), Some((token, 7, b"garbage".to_vec())));
    assert_eq!(client.value(&count), 1, "all is well again");
    server.send_raw(b"\0\0\0\0\0\0\0\0\x02\0\0\0{}");
    assert_eq!(client.frame(), Some((0, 2, b"{}".to_vec())), "nobody has asked");
    server.set_faults(|faults| faults.spoils.push_back((Aim::Any, Spoil::Length(1 << 31))));
    let token = client.start(&count);
    assert_eq!(client.frame(), Some((token, 1 << 31, Vec::new())));
    let mut client = RawReql::connect(server.address());
    server.set_faults(|faults| faults.spoils.push_back((Aim::Any, Spoil::Half)));
    client.start(&count);
    assert_eq!(client.frame(), None, "half an answer");
}
