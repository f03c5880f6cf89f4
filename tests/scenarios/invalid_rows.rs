//! Rows that no command and no import would write, in every table: they harm only themselves, and it is said which they are.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use starfeed::change::Key;
use starfeed::json::binary;
use starfeed::proto::{self, SubscribeOptions, event::Body, request::Command, response};

use crate::backend;
use crate::support::crawled::{body, body_id, id, job, put, response, success, time, uuid, with};
use crate::support::following::{
    item, job_status, next_frame, next_jobs, next_synced, resource_monitor, sync, sync_all, synced, token,
};
use crate::support::jobs::{items, list_jobs, page};
use crate::support::process::ServerProcess;
use crate::support::raw::{RawClient, unsubscribe};
use crate::support::settings::{delete_policy, get_policy, get_schedule, get_solver};
use crate::support::told::{SECRET, documents, list, policy, schedule, solver, table};

const LISTS: [&str; 6] = ["policy", "schedule", "domain_login", "captcha_solver", "rate_limit", "job"];

/// The id of a spoilt row.
fn spoilt_id(number: u128) -> uuid::Uuid {
    uuid::Uuid::from_u128(0x5901_1700_0000_4000_8000_0000_0000_0000 + number)
}

/// A row of a table that can be shown, and has `number` for a key.
fn good(table: &str, number: u8) -> Value {
    let id = uuid(number).to_string();
    match table {
        "policy" if number == 0 => policy("Good"),
        "policy" => with(policy("Good"), json!({"id": id})),
        "schedule" if number == 0 => schedule("Good"),
        "schedule" => with(schedule("Good"), json!({"id": id})),
        "domain_login" => json!({
            "domain": format!("good{number}.example"), "login_url": "https://good.example/", "login_test": null,
            "users": [{"username": "bob", "password": SECRET, "working": true}],
        }),
        "captcha_solver" => solver(&id, "Solver"),
        "rate_limit" => json!({"token": binary(&[number; 16]), "name": "domain:good.example", "delay": 0.5}),
        "job" => job(number, "running"),
        _ => panic!("there is no list of {table}"),
    }
}

/// Rows that can be shown in part, by keys that events can name.
fn partly(table: &str) -> Vec<Value> {
    let id = |number| spoilt_id(number).to_string();
    // Too large, and no number at all.
    let (huge, no_number) = (json!(1e300), json!("NaN"));
    let proxy = json!({"proxy_url": format!("socks5://bob:{SECRET}@proxy.example:1080")});
    match table {
        "policy" => vec![
            json!({"id": id(1)}),
            json!({
                "id": id(2), "name": 17, "created_at": "NaN", "updated_at": {"epoch_time": 1}, "authentication": [],
                "captcha_solver_id": no_number, "limits": "none", "mime_type_rules": [null, 1, {"match": "MAYBE"}],
                "proxy_rules": proxy, "robots_txt": {"usage": "SOMETIMES"}, "url_normalization": null,
                "url_rules": [{"amount": no_number, "action": "DIVIDE"}], "user_agents": [{"name": null}, "x"],
            }),
            with(
                policy("Huge"),
                json!({"id": id(3), "limits": {"max_cost": huge, "max_items": huge, "max_duration": -1}}),
            ),
        ],
        "schedule" => vec![
            json!({"id": id(1)}),
            json!({
                "id": id(2), "schedule_name": null, "enabled": "yes", "created_at": 1, "updated_at": no_number,
                "time_unit": "CENTURIES", "num_units": huge, "timing": 1, "job_name": [], "job_count": -1.5, "seeds": "x",
                "tags": [1, "t"], "policy_id": "nobody",
            }),
        ],
        "domain_login" => vec![
            json!({"domain": "bare.example"}),
            json!({"domain": "wrong.example", "login_url": 7, "login_test": [], "users": "nobody"}),
            json!({"domain": "users.example", "login_url": "x", "users": [1, {"password": 5}, {"username": "u"}]}),
        ],
        "captcha_solver" => vec![
            json!({"id": id(1)}),
            with(solver(&id(2), "Solver"), json!({"type": "telepathy", "name": null})),
            with(
                solver(&id(3), "Solver"),
                json!({"characters": "RUNES", "min_length": huge, "api_key": 5, "require_math": "NaN"}),
            ),
        ],
        "rate_limit" => vec![
            json!({"token": binary(&[101; 16])}),
            json!({"token": binary(&[102; 16]), "name": 5, "delay": no_number}),
            json!({"token": binary(&[103; 16]), "name": "domain:huge.example", "delay": huge}),
        ],
        "job" => vec![
            json!({"id": id(1), "run_state": "running"}),
            json!({
                "id": id(2), "name": null, "seeds": {}, "tags": [7], "run_state": "exploded", "started_at": no_number,
                "completed_at": "never", "item_count": huge, "http_success_count": 1.5, "http_error_count": no_number,
                "exception_count": null, "http_status_counts": {"many": 1}, "schedule_id": 4, "policy": {"proxy_rules": proxy},
            }),
            with(job(3, "completed"), json!({"id": id(3), "completed_at": time(4e9), "item_count": huge})),
        ],
        _ => panic!("there is no list of {table}"),
    }
}

/// Rows that can be shown in lists of all rows only, by keys that no event of a list can name.
fn unnamed(table: &str) -> Vec<Value> {
    let upper = spoilt_id(10).to_string().to_uppercase();
    match table {
        "domain_login" => vec![json!({"domain": 5, "login_url": "x", "users": []})],
        "rate_limit" => vec![
            json!({"token": binary(&[7; 15]), "name": "domain:short.example", "delay": 1}),
            json!({"token": "text", "name": "domain:text.example", "delay": 1}),
        ],
        table => vec![
            with(good(table, 9), json!({"id": "not-a-uuid"})),
            with(good(table, 9), json!({"id": upper})),
            with(good(table, 9), json!({"id": 7.5})),
        ],
    }
}

fn key(table: &str, row: &Value) -> Key {
    let table = starfeed::catalog::stored_table(table).expect("a table of a crawler");
    Key::of_value(&row[table.primary_key]).expect("a key")
}

/// A key as messages have it.
fn named_by(table: &str, row: &Value) -> Vec<u8> {
    let key = key(table, row);
    match (table, key.as_text()) {
        ("domain_login", Some(domain)) => domain.as_bytes().to_vec(),
        (_, Some(id)) => uuid::Uuid::parse_str(id).expect("a UUID").as_bytes().to_vec(),
        (_, None) => key.as_binary().expect("a token").to_vec(),
    }
}

/// The keys that a list of `table` has to show: of a good row, and of those that can be shown in part.
fn shown(table: &str) -> BTreeSet<Vec<u8>> {
    partly(table).iter().chain([&good(table, 0)]).map(|row| named_by(table, row)).collect()
}

/// Responses and bodies of job 0, of which each second one is good.
fn spoilt_items() -> Vec<(&'static str, Value)> {
    let bare = |sequence: Value| json!({"sequence": sequence, "job_id": uuid(0).to_string()});
    let wrong = json!({
        "url": 5, "canonical_url": [], "started_at": "NaN", "completed_at": null, "duration": "NaN", "cost": [],
        "is_success": "yes", "content_type": 7, "status_code": 1e300, "headers": ["A"], "body_id": "text",
    });
    let of_body = |sequence, number| success(sequence, 0, number);
    let mut rows = vec![
        ("response", bare(json!(2))),
        ("response", with(response(4, 0), wrong)),
        ("response", of_body(6, 1)),
        ("response", of_body(8, 2)),
        ("response", of_body(10, 3)),
        ("response", of_body(12, 4)),
        ("response", with(response(14, 0), json!({"exception": 5, "headers": [1, 2]}))),
        // No token can say these numbers.
        ("response", bare(json!(1.5))),
        ("response", bare(json!(-0.5))),
        ("response", bare(json!(1e300))),
        ("response", bare(json!("NaN"))),
        ("response", bare(binary(b"x"))),
        // Of no job that there can be.
        ("response", with(response(16, 0), json!({"job_id": 5}))),
        ("response", json!({"sequence": 18})),
        ("response_body", json!({"id": body_id(1)})),
        ("response_body", json!({"id": body_id(2), "body": 7, "is_compressed": "yes"})),
        ("response_body", body(3, b"no gzip", true)),
        ("response_body", json!({"id": "text", "body": null})),
    ];
    rows.extend((0..=7).map(|number| ("response", of_body(2 * number + 1, 9))));
    rows.push(("response_body", body(9, b"good", false)));
    // More than one look reads: nothing behind them is given up.
    rows.extend((1..=200).map(|number| ("response", bare(json!(-number)))));
    rows
}

/// A server that has all of these rows.
fn server() -> Option<ServerProcess> {
    let mut rows = spoilt_items();
    for table in LISTS {
        rows.push((table, good(table, 0)));
        rows.extend(partly(table).into_iter().chain(unnamed(table)).map(|row| (table, row)));
    }
    backend::server_with_rows(&rows)
}

fn listed(client: &mut RawClient, table: &str) -> (Vec<Option<bytes::Bytes>>, i32) {
    let page = page(100, 0);
    let command = match table {
        "policy" => Command::ListPolicies(proto::RequestListPolicies { page }),
        "schedule" => Command::ListSchedules(proto::RequestListSchedules { page }),
        "domain_login" => Command::ListDomainLogins(proto::RequestListDomainLogins { page }),
        "captcha_solver" => Command::ListCaptchaSolvers(proto::RequestListCaptchaSolvers { page }),
        "rate_limit" => Command::ListRateLimits(proto::RequestListRateLimits { page }),
        "job" => list_jobs(proto::RequestListJobs { page, ..proto::RequestListJobs::default() }),
        _ => panic!("there is no list of {table}"),
    };
    match client.request(command).expect("a list") {
        response::Body::ListPolicies(list) => {
            (list.policies.iter().map(|row| row.policy_id.clone()).collect(), list.total())
        }
        response::Body::ListSchedules(list) => {
            (list.schedules.iter().map(|row| row.schedule_id.clone()).collect(), list.total())
        }
        response::Body::ListDomainLogins(list) => {
            let domain = |row: &proto::DomainLogin| row.domain.clone().map(bytes::Bytes::from);
            (list.logins.iter().map(domain).collect(), list.total())
        }
        response::Body::ListCaptchaSolvers(list) => {
            (list.solvers.iter().map(|row| row.solver_id.clone()).collect(), list.total())
        }
        response::Body::ListRateLimits(list) => {
            (list.rate_limits.iter().map(|row| row.token.clone()).collect(), list.total())
        }
        response::Body::ListJobs(list) => {
            (list.jobs.iter().map(|row| Some(row.job_id.clone())).collect(), list.total())
        }
        body => panic!("{body:?}"),
    }
}

#[test]
fn lists_have_every_row_that_can_be_shown() {
    let Some(server) = server() else { return };
    let mut client = RawClient::connect(&server.address);
    for table in LISTS {
        let (keys, total) = listed(&mut client, table);
        let keys: Vec<Vec<u8>> = keys.into_iter().map(|key| key.expect("a key").to_vec()).collect();
        assert_eq!(keys.iter().cloned().collect::<BTreeSet<_>>(), shown(table), "{table}");
        assert_eq!(keys.len(), shown(table).len(), "{table}: each once");
        assert_eq!(total as usize, shown(table).len() + unnamed(table).len(), "{table}");
    }
    // What user interfaces cannot do without is always there.
    let page = page(100, 0);
    let jobs = list_jobs(proto::RequestListJobs { page, ..proto::RequestListJobs::default() });
    let Some(response::Body::ListJobs(jobs)) = client.request(jobs) else { panic!("no jobs") };
    assert!(jobs.jobs.iter().all(|job| !job.started_at().is_empty()));
}

#[test]
fn a_spoilt_row_can_be_asked_for() {
    let Some(server) = server() else { return };
    let mut client = RawClient::connect(&server.address);
    for number in [1, 2, 3] {
        let id = bytes::Bytes::copy_from_slice(spoilt_id(number).as_bytes());
        let Some(response::Body::Policy(policy)) = client.request(get_policy(&id)) else { panic!("no policy") };
        assert_eq!((policy.policy_id(), policy.created_at().is_empty()), (&id[..], false));
        let get = Command::GetJob(proto::RequestGetJob { job_id: id.clone() });
        let Some(response::Body::Job(job)) = client.request(get) else { panic!("no job") };
        assert_eq!((job.job_id, job.started_at.is_some()), (id.clone(), true));
        let Some(response::Body::Solver(solver)) = client.request(get_solver(&id)) else { panic!("no solver") };
        assert_eq!(solver.solver_id(), &id[..]);
    }
    for number in [1, 2] {
        let schedule_id = bytes::Bytes::copy_from_slice(spoilt_id(number).as_bytes());
        let Some(response::Body::Schedule(schedule)) = client.request(get_schedule(&schedule_id)) else {
            panic!("no schedule")
        };
        assert_eq!((schedule.schedule_id(), schedule.num_units), (&schedule_id[..], None));
    }
    for domain in ["bare.example", "wrong.example", "users.example"] {
        let get = Command::GetDomainLogin(proto::RequestGetDomainLogin { domain: domain.to_owned() });
        let Some(response::Body::DomainLogin(login)) = client.request(get) else { panic!("no login") };
        assert_eq!(login.domain(), domain);
    }
    // And it can be deleted.
    let deleted = spoilt_id(2);
    client.request(delete_policy(deleted.as_bytes()));
    assert_eq!(client.refusal(get_policy(deleted.as_bytes())), format!("No policy exists with ID={deleted}"));
}

/// The key and the type of an event of a list.
fn told(event: &proto::Event) -> (Vec<u8>, &'static str) {
    match event.body.as_ref().expect("a row") {
        Body::PolicyEvent(event) => (event.policy_id().to_vec(), event.event_type().as_str_name()),
        Body::ScheduleEvent(event) => (event.schedule_id().to_vec(), event.event_type().as_str_name()),
        Body::DomainLoginEvent(event) => (event.domain().as_bytes().to_vec(), event.event_type().as_str_name()),
        Body::CaptchaSolverEvent(event) => (event.solver_id().to_vec(), event.event_type().as_str_name()),
        Body::RateLimitEvent(event) => (event.token().to_vec(), event.event_type().as_str_name()),
        Body::JobEvent(event) => (event.job_id().to_vec(), event.event_type().as_str_name()),
        body => panic!("{body:?}"),
    }
}

#[test]
fn list_subscriptions_have_every_row_that_can_be_named_and_go_on() {
    for options in [SubscribeOptions::default(), documents()] {
        let Some(server) = server() else { return };
        let mut writer = RawClient::connect(&server.address);
        for table in LISTS {
            let mut client = RawClient::connect(&server.address);
            client.subscribe(list(table, options.clone()));
            let events: Vec<_> = (0..shown(table).len()).map(|_| told(&client.event())).collect();
            let expected: Vec<_> = shown(table).into_iter().map(|key| (key, "ADDED")).collect();
            assert_eq!(events.iter().cloned().collect::<BTreeSet<_>>(), expected.into_iter().collect(), "{table}");
            // It goes on: nothing else comes before what is new.
            let next = good(table, 20);
            put(&mut writer, table, std::slice::from_ref(&next));
            assert_eq!(told(&client.event()), (named_by(table, &next), "ADDED"), "{table}");
        }
    }
}

#[test]
fn a_table_subscription_has_every_row() {
    let Some(server) = server() else { return };
    for name in LISTS {
        let mut client = RawClient::connect(&server.address);
        client.subscribe(table(name, documents()));
        let mut keys = Vec::new();
        for _ in 0..shown(name).len() + unnamed(name).len() {
            let Some(Body::TableEvent(event)) = client.event().body else { panic!("a row was expected") };
            assert!(!event.document().contains(SECRET), "{}", event.document());
            let row: Value = serde_json::from_str(event.document()).expect("JSON");
            keys.push(key(name, &row));
        }
        let all = partly(name).into_iter().chain(unnamed(name)).chain([good(name, 0)]);
        assert_eq!(
            keys.iter().collect::<BTreeSet<_>>(),
            all.map(|row| key(name, &row)).collect::<Vec<_>>().iter().collect()
        );
        // It goes on.
        put(&mut RawClient::connect(&server.address), name, &[good(name, 20)]);
        let Some(Body::TableEvent(event)) = client.event().body else { panic!("a row was expected") };
        assert_eq!(event.event_type().as_str_name(), "ADDED");
    }
}

#[test]
fn job_status_and_the_monitor_tell_of_the_jobs_that_can_be_named() {
    let Some(server) = server() else { return };
    let mut client = RawClient::connect(&server.address);
    let status = client.subscribe(job_status(0.05));
    let jobs = next_jobs(&mut client, status);
    let ids: BTreeSet<Vec<u8>> = jobs.iter().map(|job| job.job_id.to_vec()).collect();
    assert_eq!((ids, jobs.len()), (shown("job"), shown("job").len()));
    put(&mut RawClient::connect(&server.address), "job", &[job(20, "paused")]);
    assert_eq!(next_jobs(&mut client, status)[0].job_id, id(20));

    let mut client = RawClient::connect(&server.address);
    let monitor = client.subscribe(resource_monitor(Some(0)));
    let frame = next_frame(&mut client, monitor);
    let running: BTreeSet<_> = frame.jobs.iter().map(|job| job.job_id().to_vec()).collect();
    assert_eq!(running, [uuid(0), spoilt_id(1)].map(|id| id.as_bytes().to_vec()).into());
}

#[test]
fn a_spoilt_response_harms_only_itself() {
    let Some(server) = server() else { return };
    let mut client = RawClient::connect(&server.address);
    for compression_ok in [true, false] {
        let id = client.subscribe(sync_all(0, compression_ok));
        for sequence in 1..=15 {
            let got = item(client.event(), id);
            assert_eq!(got.token[..], token(sequence));
            if sequence % 2 == 1 {
                assert_eq!(got.item.body(), b"good", "{sequence}");
            } else if sequence != 10 || !compression_ok {
                assert!(got.item.body().is_empty(), "{sequence}");
            }
        }
    }
    // It goes on, and it ends.
    let mut crawler = RawClient::connect(&server.address);
    put(&mut crawler, "response", &[response(101, 0)]);
    for _ in 0..2 {
        assert_eq!(synced(&client.event()), "101");
    }
    client.subscribe(sync(0, Some(&token(14))));
    assert_eq!(next_synced(&mut client, 2), ["15", "101"]);
    put(&mut crawler, "job", &[job(0, "completed")]);
    assert_eq!(next_synced(&mut client, 3), ["COMPLETE"; 3]);

    let request = proto::RequestGetJobItems {
        job_id: id(0),
        include_success: Some(true),
        include_error: Some(true),
        include_exception: Some(true),
        compression_ok: Some(false),
        page: page(500, 0),
    };
    let (found, _) = items(&mut client, request);
    let good = found.iter().filter(|item| item.body() == b"good").count();
    assert_eq!(good, 8, "of {} items", found.len());
}

#[test]
fn each_spoilt_row_is_counted_and_logged_once_and_no_secret_with_it() {
    let Some(server) = server() else { return };
    let mut client = RawClient::connect(&server.address);
    let look = |client: &mut RawClient| {
        for table in LISTS {
            listed(client, table);
            let id = client.subscribe(list(table, documents()));
            let events = shown(table).len();
            (0..events).for_each(|_| drop(client.event()));
            client.request(unsubscribe(id));
        }
        let id = client.subscribe(sync_all(0, false));
        (0..15).for_each(|_| drop(client.event()));
        client.request(unsubscribe(id));
    };
    look(&mut client);
    let counted = server.metric("starfeed_row_problems_total");
    let spoilt: usize = LISTS.into_iter().map(|table| partly(table).len() + unnamed(table).len()).sum();
    assert!(counted >= spoilt as f64, "{counted} of {spoilt}");
    look(&mut client);
    assert!(server.metric("starfeed_row_problems_total") > counted, "each time is counted");
    let log = server.log();
    assert!(!log.contains(SECRET), "{log}");
    // What a line says, without its time.
    let lines: Vec<&str> = log.lines().filter_map(|line| Some(line.split_once(" WARN ")?.1)).collect();
    let told: BTreeSet<&str> = lines.iter().copied().collect();
    assert_eq!(told.len(), lines.len(), "something is said twice: {log}");
    for table in LISTS {
        for row in partly(table).iter().chain(&unnamed(table)) {
            let line = format!("table={table} key={} problem=", key(table, row));
            let why = told.iter().find_map(|said| said.split_once(&line));
            assert!(why.is_some_and(|(_, why)| !why.trim().is_empty()), "{line}\n{log}");
        }
    }
    // The tenth has a body that is not what it says, which is found by who has it unpacked.
    for sequence in [2, 4, 10, 14] {
        let line = format!("table=response key={sequence} problem=");
        assert!(told.iter().any(|said| said.contains(&line)), "{line}\n{log}");
    }
    let line = format!("table=response_body key={} problem=", key("response_body", &json!({"id": body_id(2)})));
    assert!(told.iter().any(|said| said.contains(&line)), "{line}\n{log}");
}
