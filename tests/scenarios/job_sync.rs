//! Following what a job downloads: tokens, what comes and when, and how it ends.

use serde_json::json;
use starfeed::proto::{self, JobRunState, request::Command};

use crate::backend;
use crate::support::crawled::{body, gzip, job, noise, put, response, success, uuid, with, without};
use crate::support::following::{item, next_synced, sync, sync_all, synced, token};
use crate::support::jobs::{delete_job, set_state, shown_item};
use crate::support::process::ServerProcess;
use crate::support::raw::{RawClient, login_event, set_login, subscribe_logins, unsubscribe};

/// A server that has job 0 in this state, somebody who writes as the crawler does, and a client.
fn with_job(run_state: &str) -> Option<(ServerProcess, RawClient, RawClient)> {
    let server = backend::server(&[])?;
    let mut crawler = RawClient::connect(&server.address);
    put(&mut crawler, "job", &[job(0, run_state)]);
    let client = RawClient::connect(&server.address);
    Some((server, crawler, client))
}

/// The crawler has downloaded these items of job 0.
fn download(crawler: &mut RawClient, sequences: &[u64]) {
    for &sequence in sequences {
        put(crawler, "response", &[response(sequence, 0)]);
    }
}

fn complete(crawler: &mut RawClient) {
    put(crawler, "job", &[job(0, "completed")]);
}

#[test]
fn an_item_comes_as_it_was_downloaded_with_its_token() {
    let Some((_server, mut crawler, mut client)) = with_job("running") else { return };
    let packed = gzip(b"<html>");
    put(&mut crawler, "response_body", &[body(1, &packed, true)]);
    put(&mut crawler, "response", &[success(0x11, 0, 1)]);
    let id = client.subscribe(sync(0, None));
    let expected = proto::CrawlResponse { body: Some(packed.into()), is_compressed: Some(true), ..shown_item(0x11, 0) };
    let got = item(client.event(), id);
    assert_eq!(got.item, expected);
    assert_eq!(got.token[..], [1, 0x11, 0, 0, 0, 0, 0, 0, 0]);
    // The number is the client's to keep, however large it is.
    download(&mut crawler, &[0x0102_0304_0506]);
    assert_eq!(item(client.event(), id).token[..], [1, 6, 5, 4, 3, 2, 1, 0, 0]);
}

#[test]
fn resuming_begins_behind_the_token() {
    let Some((_server, mut crawler, mut client)) = with_job("completed") else { return };
    download(&mut crawler, &[1, 3, 5]);
    client.subscribe(sync(0, None));
    let first = client.event();
    assert_eq!(synced(&first), "1");
    let token_of_first = item(first, 0).token;
    assert_eq!(next_synced(&mut client, 3), ["3", "5", "COMPLETE"]);
    client.subscribe(sync(0, Some(&token_of_first)));
    assert_eq!(next_synced(&mut client, 3), ["3", "5", "COMPLETE"]);
    // Numbers between and behind those of the items are as good, and an empty token is none.
    for (number, expected) in
        [(2, &["3", "5", "COMPLETE"][..]), (4, &["5", "COMPLETE"]), (5, &["COMPLETE"]), (u64::MAX, &["COMPLETE"])]
    {
        client.subscribe(sync(0, Some(&token(number))));
        assert_eq!(next_synced(&mut client, expected.len()), expected);
    }
    client.subscribe(sync(0, Some(&[])));
    assert_eq!(next_synced(&mut client, 4), ["1", "3", "5", "COMPLETE"]);
}

/// What follows the last item that was sent was passed over when it had the very next number.
#[test]
fn b14_no_item_is_skipped_in_a_live_sync() {
    let Some((_server, mut crawler, mut client)) = with_job("running") else { return };
    download(&mut crawler, &[1, 2, 3]);
    client.subscribe(sync(0, None));
    assert_eq!(next_synced(&mut client, 3), ["1", "2", "3"]);
    download(&mut crawler, &[4, 5]);
    assert_eq!(next_synced(&mut client, 2), ["4", "5"]);
    download(&mut crawler, &[6]);
    assert_eq!(next_synced(&mut client, 1), ["6"]);
    // Each one by itself, and those of other jobs between them.
    for sequence in 7..40 {
        let of = u8::from(sequence % 3 == 0);
        put(&mut crawler, "response", &[response(sequence, of)]);
        if of == 0 {
            assert_eq!(next_synced(&mut client, 1), [sequence.to_string()]);
        }
    }
    complete(&mut crawler);
    assert_eq!(next_synced(&mut client, 1), ["COMPLETE"]);
}

#[test]
fn an_item_that_is_written_again_does_not_come_again() {
    let Some((_server, mut crawler, mut client)) = with_job("running") else { return };
    download(&mut crawler, &[1, 2]);
    client.subscribe(sync(0, None));
    assert_eq!(next_synced(&mut client, 2), ["1", "2"]);
    put(&mut crawler, "response", &[with(response(1, 0), json!({"status_code": 404}))]);
    put(&mut crawler, "job", &[with(job(0, "running"), json!({"item_count": 2}))]);
    download(&mut crawler, &[3]);
    assert_eq!(next_synced(&mut client, 1), ["3"]);
}

#[test]
fn it_is_complete_when_the_job_has_ended_and_everything_was_sent() {
    for run_state in ["completed", "cancelled"] {
        let Some((_server, mut crawler, mut client)) = with_job(run_state) else { return };
        // At once, without items.
        client.subscribe(sync(0, None));
        assert_eq!(next_synced(&mut client, 1), ["COMPLETE"]);
        download(&mut crawler, &[1]);
        client.subscribe(sync(0, None));
        assert_eq!(next_synced(&mut client, 2), ["1", "COMPLETE"]);
    }
    for run_state in ["pending", "running", "paused"] {
        let Some((_server, mut crawler, mut client)) = with_job(run_state) else { return };
        client.subscribe(sync(0, None));
        // Whatever else happens to the job is no end of it.
        put(&mut crawler, "job", &[with(job(0, run_state), json!({"name": "Another"}))]);
        client.request(set_login("a.example", "A"));
        assert!(!client.has_events(), "{run_state}");
        download(&mut crawler, &[1]);
        assert_eq!(next_synced(&mut client, 1), ["1"]);
        // The last item and the end at the same time.
        download(&mut crawler, &[2]);
        complete(&mut crawler);
        assert_eq!(next_synced(&mut client, 2), ["2", "COMPLETE"]);
    }
}

#[test]
fn a_job_that_ends_by_a_command_ends_its_syncs() {
    let Some((_server, mut crawler, mut client)) = with_job("running") else { return };
    let mut others: Vec<RawClient> = (0..3).map(|_| RawClient::connect(&_server.address)).collect();
    for client in others.iter_mut().chain([&mut client]) {
        client.subscribe(sync(0, None));
        // A client follows it twice if it likes.
        client.subscribe(sync(0, None));
    }
    crawler.request(set_state(0, JobRunState::Cancelled));
    for client in others.iter_mut().chain([&mut client]) {
        assert_eq!(next_synced(client, 2), ["COMPLETE", "COMPLETE"]);
    }
}

#[test]
fn an_unknown_job_and_a_token_that_is_none_are_refused_and_use_up_no_id() {
    let Some((server, mut crawler, mut client)) = with_job("running") else { return };
    let unknown = format!("No job exists with ID={}", uuid(7));
    assert_eq!(client.refusal(sync(7, None)), unknown);
    assert_eq!(client.refusal(sync(7, Some(&token(1)))), unknown);
    let refused = "Invalid sync_token: send one that came with an item, or none";
    for length in (1..32).filter(|length| *length != 9) {
        assert_eq!(client.refusal(sync(0, Some(&vec![1; length]))), refused, "{length} bytes");
    }
    for first in [0, 2, 0x31, 255] {
        let bytes = [&[first], 5_u64.to_le_bytes().as_slice()].concat();
        assert_eq!(client.refusal(sync(0, Some(&bytes))), refused, "{first}");
    }
    for length in [0, 15, 17] {
        let request = proto::RequestSubscribeJobSync {
            job_id: vec![0; length].into(),
            ..proto::RequestSubscribeJobSync::default()
        };
        assert_eq!(client.refusal(Command::SubscribeJobSync(request)), "Invalid job_id: must be 16 bytes");
    }
    assert_eq!(server.metric("starfeed_subscriptions"), 0.0);
    assert_eq!(client.refusal(unsubscribe(0)), "Unknown subscription_id: 0");
    // It was not ended by any of this, and its first subscription has the first number.
    assert_eq!(client.subscribe(sync(0, None)), 0);
    download(&mut crawler, &[1]);
    assert_eq!(next_synced(&mut client, 1), ["1"]);
}

/// Upstream says then that the job was complete.
#[test]
fn b9_unsubscribing_sends_no_closing_event() {
    let Some((server, mut crawler, mut client)) = with_job("running") else { return };
    download(&mut crawler, &[1]);
    assert_eq!(client.subscribe(sync(0, None)), 0);
    assert_eq!(next_synced(&mut client, 1), ["1"]);
    client.request(unsubscribe(0));
    assert_eq!(client.refusal(unsubscribe(0)), "Unknown subscription_id: 0");
    assert_eq!(server.metric("starfeed_subscriptions"), 0.0);
    download(&mut crawler, &[2]);
    complete(&mut crawler);
    assert!(!client.has_events());
    // All that comes from here on is of the next one.
    assert_eq!(client.subscribe(sync(0, None)), 1);
    let events: Vec<proto::Event> = (0..3).map(|_| client.event()).collect();
    assert!(events.iter().all(|event| event.subscription_id == 1), "{events:?}");
    assert_eq!(events.iter().map(synced).collect::<Vec<_>>(), ["1", "2", "COMPLETE"]);
}

#[test]
fn one_that_is_complete_can_be_unsubscribed_once() {
    let Some((server, _crawler, mut client)) = with_job("completed") else { return };
    for id in 0..3 {
        assert_eq!(client.subscribe(sync(0, None)), id);
        assert_eq!(next_synced(&mut client, 1), ["COMPLETE"]);
    }
    assert_eq!(server.metric("starfeed_subscriptions"), 0.0, "it has ended, whether its client says so or not");
    for id in [1, 0, 2] {
        client.request(unsubscribe(id));
        assert_eq!(client.refusal(unsubscribe(id)), format!("Unknown subscription_id: {id}"));
    }
}

#[test]
fn a_job_that_is_deleted_while_it_is_synced_ends_that_with_an_error() {
    const ITEMS: u64 = 20;
    let Some(server) = backend::server(&[("send_buffer_bytes", "10000")]) else { return };
    let mut crawler = RawClient::connect(&server.address);
    put(&mut crawler, "job", &[job(0, "running")]);
    // So much that the client does not have it all before it reads.
    let mut random = fastrand::Rng::with_seed(7);
    for sequence in 1..=ITEMS {
        put(&mut crawler, "response_body", &[body(sequence, &noise(&mut random, 400_000), false)]);
        put(&mut crawler, "response", &[success(sequence, 0, sequence)]);
    }
    let mut client = RawClient::connect(&server.address);
    client.bound_receive_buffer(16 * 1024);
    client.be_patient();
    client.subscribe(subscribe_logins());
    let id = client.subscribe(sync(0, None));
    assert_eq!(synced(&client.event()), "1");
    crawler.request(set_state(0, JobRunState::Cancelled));
    crawler.request(delete_job(0));
    let mut before = 1;
    let end = loop {
        let event = client.event();
        assert_eq!(event.subscription_id, id);
        match synced(&event).parse::<u64>() {
            Ok(sequence) => assert_eq!(std::mem::replace(&mut before, sequence) + 1, sequence),
            Err(_) => break synced(&event),
        }
    };
    // Its items go before the job does: who looks in between sees a cancelled job without any more of them.
    assert!(["ERROR the job was deleted", "COMPLETE"].contains(&end.as_str()), "{end}");
    assert!(before < ITEMS, "everything was sent before");
    // It was one subscription of several.
    crawler.request(set_login("a.example", "A"));
    assert_eq!(login_event(&client.event()), "ADDED a.example");
    assert_eq!(client.refusal(sync(0, None)), format!("No job exists with ID={}", uuid(0)));
    client.request(unsubscribe(id));
    assert_eq!(client.refusal(unsubscribe(id)), format!("Unknown subscription_id: {id}"));
}

#[test]
fn two_jobs_and_a_list_on_one_connection_do_not_mix() {
    let Some((_server, mut crawler, mut client)) = with_job("running") else { return };
    put(&mut crawler, "job", &[job(1, "running")]);
    let logins = client.subscribe(subscribe_logins());
    let syncs = [0, 1].map(|number| client.subscribe(sync(number, None)));
    for sequence in 1..=30_u64 {
        put(&mut crawler, "response", &[response(sequence, u8::from(sequence % 2 == 1))]);
        crawler.request(set_login(&format!("{sequence}.example"), "A"));
    }
    put(&mut crawler, "job", &[job(1, "completed")]);
    let mut told = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..61 {
        let event = client.event();
        match event.subscription_id {
            id if id == logins => told[2].push(login_event(&event)),
            id => told[syncs.iter().position(|sync| *sync == id).expect("one of them")].push(synced(&event)),
        }
    }
    let numbers =
        |remainder| (1..=30).filter(move |number| number % 2 == remainder).map(|number: u64| number.to_string());
    assert_eq!(told[0], numbers(0).collect::<Vec<_>>());
    assert_eq!(told[1], numbers(1).chain(["COMPLETE".to_owned()]).collect::<Vec<_>>());
    assert_eq!(told[2], (1..=30).map(|number| format!("ADDED {number}.example")).collect::<Vec<_>>());
    // The other one goes on.
    download(&mut crawler, &[31]);
    assert_eq!(synced(&client.event()), "31");
}

#[test]
fn items_without_a_body_are_items() {
    let Some((server, mut crawler, mut client)) = with_job("completed") else { return };
    let exception = json!({"exception": "Traceback …", "is_success": false});
    let of_response = ["content_type", "status_code", "headers", "body_id", "canonical_url"];
    let rows = [
        success(1, 0, 9),
        with(response(2, 0), json!({"body_id": null, "content_type": null})),
        without(response(3, 0), &of_response),
        with(without(response(4, 0), &of_response), exception.clone()),
        // Nobody writes both; the exception is what happened.
        with(response(5, 0), exception),
        with(without(response(6, 0), &["canonical_url"]), json!({"url_can": "https://site.example/can"})),
    ];
    put(&mut crawler, "response", &rows);
    let id = client.subscribe(sync(0, None));
    let items: Vec<proto::CrawlResponse> = (0..rows.len()).map(|_| item(client.event(), id).item).collect();
    assert_eq!(synced(&client.event()), "COMPLETE");
    for (at, item) in items.iter().enumerate() {
        let is_exception = at == 3 || at == 4;
        assert_eq!(item.body, None, "{item:?}");
        assert_eq!(item.url(), format!("https://site.example/{}", at + 1));
        assert_eq!(item.exception.is_some(), is_exception);
        assert_eq!(item.is_success, Some(!is_exception));
        assert_eq!(item.is_compressed, (!is_exception).then_some(false));
        if is_exception || at == 2 {
            assert_eq!((item.content_type.as_ref(), item.status_code, item.headers.len()), (None, None, 0));
        } else {
            assert_eq!((item.status_code, item.headers.len()), (Some(200), 2));
        }
    }
    let canonical: Vec<&str> = items.iter().map(proto::CrawlResponse::url_can).collect();
    let of_row = |number| format!("https://site.example/{number}?canonical");
    assert_eq!(canonical, [&of_row(1), &of_row(2), "", "", &of_row(5), "https://site.example/can"]);
    assert_eq!(server.metric("starfeed_row_problems_total"), 0.0, "there is nothing wrong with any of them");
}

#[test]
fn bodies_are_unpacked_for_those_who_ask_for_it() {
    let Some((server, mut crawler, mut client)) = with_job("completed") else { return };
    let text = "starfeed ".repeat(1000).into_bytes();
    let not_gzip = b"\x1f\x8bthis is no gzip".to_vec();
    let cut = gzip(&text)[..20].to_vec();
    // More than a server takes apart for anybody: 80 MB.
    let bomb = gzip(&vec![0; 80_000_000]);
    let bodies =
        [(gzip(&text), true), (text.clone(), false), (not_gzip, true), (cut, true), (bomb, true), (Vec::new(), false)];
    for (number, (bytes, is_compressed)) in (1..).zip(&bodies) {
        put(&mut crawler, "response_body", &[body(number, bytes, *is_compressed)]);
        put(&mut crawler, "response", &[success(number, 0, number)]);
    }
    // One body may be that of many.
    put(&mut crawler, "response", &[success(7, 0, 1)]);

    let id = client.subscribe(sync(0, None));
    for (bytes, is_compressed) in bodies.iter().chain([&bodies[0]]) {
        let item = item(client.event(), id).item;
        assert_eq!((item.body(), item.is_compressed()), (&bytes[..], *is_compressed), "as it is stored");
    }
    assert_eq!(synced(&client.event()), "COMPLETE");
    assert_eq!(server.metric("starfeed_row_problems_total"), 0.0);

    let id = client.subscribe(sync_all(0, false));
    let unpacked = [Some(&text), Some(&text), None, None, None, Some(&Vec::new()), Some(&text)];
    for expected in unpacked {
        let item = item(client.event(), id).item;
        assert_eq!(item.body.as_deref(), expected.map(Vec::as_slice), "{}", item.url());
        assert_eq!(item.is_compressed, Some(false));
    }
    assert_eq!(synced(&client.event()), "COMPLETE");
    assert_eq!(server.metric("starfeed_row_problems_total"), 3.0);
}

#[test]
fn a_body_that_comes_later_is_not_waited_for() {
    let Some((_server, mut crawler, mut client)) = with_job("running") else { return };
    put(&mut crawler, "response", &[success(1, 0, 1)]);
    let id = client.subscribe(sync(0, None));
    assert_eq!(item(client.event(), id).item.body, None);
    put(&mut crawler, "response_body", &[body(1, b"x", false)]);
    put(&mut crawler, "response", &[success(2, 0, 1)]);
    assert_eq!(item(client.event(), id).item.body(), b"x");
}
