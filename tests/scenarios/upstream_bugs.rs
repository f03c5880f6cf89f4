//! What goes wrong in the server that this one replaces, by the numbers that the bugs have in its contract; none may go wrong here.
//!
//! | number | what it is | where it is tested |
//! |---|---|---|
//! | B1 | no policy can be saved | `commands::a_policy_is_set_and_comes_back_as_it_was` |
//! | B2 | a client that vanishes ends the server | here, and `clients::a_thousand_busy_clients_that_vanish_leave_nothing_behind` |
//! | B3 | one bad subscription ends the connection | here |
//! | B4 | a schedule that is not found is a success | `commands::an_unknown_schedule_is_an_error` |
//! | B5 | a schedule that has jobs cannot be saved | here |
//! | B6 | saving a schedule resets its count of jobs | `commands::a_schedule_keeps_its_job_count_when_it_is_saved` |
//! | B7 | the oldest job of a schedule comes first | here |
//! | B8 | one spoilt row breaks a list | `invalid_rows`, `commands::a_spoilt_row_harms_only_itself` |
//! | B9 | unsubscribing says that the job is complete | `job_sync::b9_unsubscribing_sends_no_closing_event` |
//! | B10 | a delay of 0 deletes a rate limit | here |
//! | B11 | deleting a job of yesterday is an error | here |
//! | B12 | jobs that grow old are told to be deleted | `job_status::b12_jobs_that_ended_long_ago_are_neither_shown_nor_deleted` |
//! | B13 | a job sync becomes a hot loop | `session::tests::a_sync_looks_again_when_it_is_told_to_and_no_sooner` |
//! | B14 | a live job sync skips items | `job_sync::b14_no_item_is_skipped_in_a_live_sync`, `job_items` |
//! | B15 | nobody learns that the database is gone | `tests/source/interruptions.rs`, `tests/database/faults.rs` |
//! | B16 | what a changefeed skips ends the connection | `tests/source/interruptions.rs`, `tests/database/held_back.rs` |
//! | B17 | changefeeds leak | `tests/database/feeds.rs`, `tests/database/wake_ups.rs` |
//! | B18 | each subscription has a changefeed of its own | `tests/database/feeds.rs`, `queries::changes` |
//! | B19 | who unsubscribes at once is subscribed for ever | `rows::subscribe_and_unsubscribe_in_one_segment_…`, and here |
//! | B20 | events say too little | `documents`, `states`, `resuming` |
//! | B21 | what a subscription has held is never let go | here |
//! | B22 | the cause of an error is not said | `commands::what_is_wrong_with_a_policy_is_said` and its like |
//! | B23 | intervals and histories are not checked | `job_status::b23_…`, `monitors::a_history_and_a_period_…` |
//! | B24 | a login that is saved in part loses its users | `commands::a_login_is_changed_only_where_it_is_sent` |
//! | B25 | nothing bounds or checks a connection | `tests/websocket.rs`, `clients` |
//! | B26 | items lack their canonical URL | `job_sync::an_item_comes_as_it_was_downloaded_with_its_token` |
//! | B27 | responses that lack something break a list | here, and `job_sync::items_without_a_body_are_items` |
//! | B28 | its packages do not fit each other | does not apply: they are those of a Python program |
//! | B29 | updating what is not there is a success | `commands::an_unknown_policy_is_an_error_…`, `…schedule_is_an_error` |
//! | B30 | there is no example of a subscription | `tests/documents.rs` runs those of the documents |

use prost::Message as _;
use serde_json::{Value, json};
use starfeed::proto::{self, JobRunState, event::Body, request::Command, response};

use crate::backend;
use crate::support::crawled::{
    NOON, body, body_id, gzip, id, import, job, job_since, put, response, rows, success, uuid, with, without,
};
use crate::support::following::{job_status, next_synced, resource_monitor, sync, synced, task_monitor};
use crate::support::jobs::{delete_job, items, list_schedule_jobs, numbers, set_state};
use crate::support::process::eventually;
use crate::support::raw::{BINARY, RawClient, login_event, masked, set_login, subscribe_logins, unsubscribe};
use crate::support::settings::{get_schedule, set_rate_limit, set_schedule};
use crate::support::told::{SCHEDULE_ID, list, schedule, table};

/// Ten subscriptions, of every kind that there is.
fn ten_subscriptions() -> [Command; 10] {
    let plain = proto::SubscribeOptions::default;
    [
        list("policy", plain()),
        list("schedule", plain()),
        list("domain_login", plain()),
        list("job", plain()),
        job_status(0.05),
        sync(0, None),
        sync(1, None),
        resource_monitor(None),
        task_monitor(0.05),
        subscribe_logins(),
    ]
}

#[test]
fn b2_clients_that_vanish_with_ten_busy_subscriptions_leave_the_server_alive() {
    const ROUNDS: u64 = 150;
    let Some(mut server) = backend::server(&[]) else { return };
    let mut crawler = RawClient::connect(&server.address);
    put(&mut crawler, "job", &[job(0, "running"), job(1, "completed")]);
    put(&mut crawler, "response_body", &[body(1, &vec![7; 100_000], false)]);
    let mut witness = RawClient::connect(&server.address);
    witness.subscribe(sync(0, None));
    for round in 1..=ROUNDS {
        let mut client = RawClient::connect(&server.address);
        for command in ten_subscriptions() {
            client.ask(command);
        }
        // Events of all of them are under way when it goes.
        let of = u8::from(round % 2 == 1);
        let asked = [
            crawler.ask(set_login("a.example", &format!("https://a.example/{round}"))),
            crawler.ask(import("response", &[success(round, of, 1)])),
            crawler.ask(import("job", &[with(job(0, "running"), json!({"item_count": round}))])),
        ];
        for _ in 0..round % 12 {
            client.frame();
        }
        client.reset();
        for request_id in asked {
            assert!(crawler.response(request_id).is_success);
        }
    }
    assert!(server.is_alive());
    // Who stayed has everything.
    let even = (1..=ROUNDS).filter(|round| round % 2 == 0).map(|round| round.to_string()).collect::<Vec<_>>();
    assert_eq!(next_synced(&mut witness, even.len()), even);
    eventually("all that vanished are gone", || server.metric("starfeed_subscriptions") == 1.0);
    eventually("what waited for them is gone, too", || server.metric("starfeed_waiting_bytes") == 0.0);
}

#[test]
fn b3_a_subscription_that_is_refused_or_ends_harms_no_other() {
    let Some(server) = backend::server(&[]) else { return };
    let mut crawler = RawClient::connect(&server.address);
    put(&mut crawler, "job", &[job(0, "completed"), job(1, "running")]);
    let mut client = RawClient::connect(&server.address);
    let logins = client.subscribe(subscribe_logins());
    let running = client.subscribe(sync(1, None));
    for bad in [
        sync(7, None),
        sync(0, Some(&[1, 2])),
        job_status(-1.0),
        resource_monitor(Some(-1)),
        task_monitor(0.0),
        table("nonsense", proto::SubscribeOptions::default()),
    ] {
        client.refusal(bad);
    }
    let ended = client.subscribe(sync(0, None));
    let event = client.event();
    assert_eq!((event.subscription_id, synced(&event).as_str()), (ended, "COMPLETE"));
    // All the others, on the same connection, go on.
    crawler.request(set_login("a.example", "A"));
    let event = client.event();
    assert_eq!((event.subscription_id, login_event(&event).as_str()), (logins, "ADDED a.example"));
    put(&mut crawler, "response", &[response(1, 1)]);
    let event = client.event();
    assert_eq!((event.subscription_id, synced(&event).as_str()), (running, "1"));
    assert_eq!(server.metric("starfeed_subscriptions"), 2.0);
}

/// A job that the schedule has started, so many seconds after the first one.
fn scheduled(number: u8, seconds: u32) -> Value {
    with(job_since(number, "completed", NOON + f64::from(seconds)), json!({"schedule_id": SCHEDULE_ID}))
}

#[test]
fn b5_a_schedule_that_has_jobs_can_be_saved() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    put(&mut client, "schedule", &[schedule("Nightly")]);
    put(&mut client, "job", &[scheduled(0, 0)]);
    let schedule_id = uuid::Uuid::parse_str(SCHEDULE_ID).expect("a UUID");
    let get = || get_schedule(schedule_id.as_bytes());
    let Some(response::Body::Schedule(mut saved)) = client.request(get()) else { panic!("no schedule") };
    saved.schedule_name = Some("Weekly".to_owned());
    assert_eq!(client.request(set_schedule(saved)), None);
    let Some(response::Body::Schedule(saved)) = client.request(get()) else { panic!("no schedule") };
    assert_eq!((saved.schedule_name(), saved.job_count()), ("Weekly", 1));
}

#[test]
fn b7_the_newest_job_of_a_schedule_comes_first() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    put(&mut client, "job", &[scheduled(0, 5), scheduled(1, 20), scheduled(2, 10), job(3, "running")]);
    let schedule_id = uuid::Uuid::parse_str(SCHEDULE_ID).expect("a UUID").as_bytes().to_vec();
    assert_eq!(numbers(client.request(list_schedule_jobs(schedule_id, None))), (vec![1, 2, 0], 3));
}

fn rate_limits(client: &mut RawClient) -> Vec<(String, f32)> {
    match client.request(Command::ListRateLimits(proto::RequestListRateLimits::default())) {
        Some(response::Body::ListRateLimits(list)) => {
            list.rate_limits.iter().map(|limit| (limit.name().to_owned(), limit.delay())).collect()
        }
        body => panic!("{body:?}"),
    }
}

#[test]
fn b10_a_delay_of_zero_is_a_rate_limit() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    client.request(set_rate_limit(None, Some(5.0)));
    client.request(set_rate_limit(Some("a.example"), Some(1.5)));
    client.request(set_rate_limit(None, Some(0.0)));
    client.request(set_rate_limit(Some("a.example"), Some(0.0)));
    let zero = [("Global Rate Limit".to_owned(), 0.0), ("domain:a.example".to_owned(), 0.0)];
    assert_eq!(rate_limits(&mut client), zero);
    // Only one of a domain can be deleted, by no delay at all.
    assert_eq!(client.refusal(set_rate_limit(None, None)), "Cannot delete the global rate limit.");
    client.request(set_rate_limit(Some("a.example"), None));
    assert_eq!(rate_limits(&mut client), zero[..1]);
}

#[test]
fn b11_a_job_of_long_ago_can_be_deleted() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    put(&mut client, "job", &[job(0, "completed")]);
    put(&mut client, "response", &[response(1, 0), response(2, 1)]);
    assert_eq!(client.request(delete_job(0)), None);
    assert_eq!(client.refusal(delete_job(0)), format!("No job exists with ID={}", uuid(0)));
    // Its items went with it, and nobody else's.
    let left = rows(&mut client, "response");
    assert_eq!(left.iter().map(|row| &row["sequence"]).collect::<Vec<_>>(), [2]);
}

#[test]
fn b19_who_subscribes_and_unsubscribes_in_one_segment_has_no_subscription() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    put(&mut client, "job", &[job(0, "running")]);
    put(&mut client, "response", &[response(1, 0)]);
    let mut next = 0;
    for round in 0..30 {
        for command in [sync(0, None), job_status(0.05), resource_monitor(None), task_monitor(0.05)] {
            let request = |request_id, command| {
                masked(BINARY, &proto::Request { request_id, command: Some(command) }.encode_to_vec())
            };
            client.write(&[request(1, command), request(2, unsubscribe(next))].concat());
            let response = client.response(1);
            let id = proto::ResponseNewSubscription { subscription_id: next };
            assert_eq!(response.body, Some(response::Body::NewSubscription(id)), "round {round}");
            assert!(client.response(2).is_success, "round {round}");
            next += 1;
        }
    }
    assert_eq!(server.metric("starfeed_subscriptions"), 0.0);
}

#[test]
fn b21_what_a_subscription_held_is_let_go_with_it() {
    const ROUNDS: u64 = 300;
    let Some(server) = backend::server(&[]) else { return };
    let mut crawler = RawClient::connect(&server.address);
    put(&mut crawler, "job", &[job(0, "running"), job(1, "running")]);
    let round = |crawler: &mut RawClient, number: u64| {
        let mut client = RawClient::connect(&server.address);
        let ids = ten_subscriptions().map(|command| client.subscribe(command));
        put(crawler, "job", &[with(job(0, "running"), json!({"item_count": number}))]);
        ids.into_iter().for_each(|id| drop(client.request(unsubscribe(id))));
    };
    (0..30).for_each(|number| round(&mut crawler, number));
    let (memory, descriptors) = (server.resident_bytes(), server.descriptors());
    (30..30 + ROUNDS).for_each(|number| round(&mut crawler, number));
    assert_eq!(server.metric("starfeed_subscriptions"), 0.0);
    eventually("descriptors are as before", || server.descriptors() <= descriptors + 2);
    let grown = server.resident_bytes().saturating_sub(memory);
    // The log has a few hundred changes more.
    assert!(grown < 6 << 20, "{} subscriptions left {grown} bytes behind", 10 * ROUNDS);
}

#[test]
fn b27_responses_that_lack_something_are_items_all_the_same() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    put(&mut client, "job", &[job(0, "running")]);
    put(&mut client, "response_body", &[body(1, &gzip(b"text"), true)]);
    let rows = [
        with(response(1, 0), json!({"content_type": null, "body_id": body_id(1)})),
        success(2, 0, 9),
        without(response(3, 0), &["content_type", "headers", "body_id", "status_code", "canonical_url"]),
        with(response(4, 0), json!({"is_success": false, "status_code": 500})),
        with(response(5, 0), json!({"is_success": false, "exception": "Traceback"})),
    ];
    put(&mut client, "response", &rows);
    let of = |success, error, exception| proto::RequestGetJobItems {
        job_id: id(0),
        include_success: Some(success),
        include_error: Some(error),
        include_exception: Some(exception),
        compression_ok: Some(false),
        ..proto::RequestGetJobItems::default()
    };
    let (found, total) = items(&mut client, of(true, true, true));
    let urls: Vec<&str> = found.iter().map(proto::CrawlResponse::url).collect();
    assert_eq!(urls, [1, 2, 3, 4, 5].map(|number| format!("https://site.example/{number}")));
    assert_eq!((total, found[0].body(), found[0].is_compressed), (5, &b"text"[..], Some(false)));
    assert!(found[1..].iter().all(|item| item.body.is_none()));
    for (request, expected) in [(of(true, false, false), 3), (of(false, true, false), 1), (of(false, false, true), 1)] {
        let (found, total) = items(&mut client, request);
        assert_eq!((found.len(), total), (expected, expected as i32));
    }
    assert_eq!(server.metric("starfeed_row_problems_total"), 0.0, "there is nothing wrong with any of them");
    // The same by a sync.
    client.subscribe(sync(0, None));
    assert_eq!(next_synced(&mut client, 5), ["1", "2", "3", "4", "5"]);
    client.request(set_state(0, JobRunState::Cancelled));
    assert!(matches!(client.event().body, Some(Body::SubscriptionClosed(_))));
}
