//! How jobs get on: all of them at first, then what has changed, as a whole, and not too often.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use starfeed::proto::{self, JobRunState, request::Command};

use crate::backend;
use crate::support::crawled::{id, import, job, now, put, time, with};
use crate::support::following::{job_status, next_jobs};
use crate::support::jobs::{delete_job, deleted_job, set_state, shown_job};
use crate::support::process::{ServerProcess, eventually};
use crate::support::raw::{RawClient, unsubscribe};
use crate::support::told::until_live;

/// As often as it may be.
const SHORT: f64 = 0.05;

/// A server that has these jobs, somebody who writes as the crawler does, and a client.
fn with_jobs(jobs: &[Value]) -> Option<(ServerProcess, RawClient, RawClient)> {
    let server = backend::server(&[])?;
    let mut crawler = RawClient::connect(&server.address);
    put(&mut crawler, "job", jobs);
    let client = RawClient::connect(&server.address);
    Some((server, crawler, client))
}

/// A job with so many items.
fn counted(number: u8, items: i32) -> Value {
    let counts = json!({"item_count": items, "http_success_count": items, "http_status_counts": {"200": items}});
    with(job(number, "running"), counts)
}

/// What clients are told of job 0 with 3 items.
fn shown() -> proto::Job {
    proto::Job {
        item_count: Some(3),
        http_success_count: Some(3),
        http_status_counts: [(200, 3)].into(),
        ..shown_job(0, JobRunState::Running, "2019-01-01T12:00:00+00:00")
    }
}

#[test]
fn without_jobs_the_first_event_has_no_body() {
    let Some((_server, _crawler, mut client)) = with_jobs(&[]) else { return };
    client.subscribe(job_status(1.0));
    assert_eq!(client.message(), [0x0a, 2, 8, 0]);
    client.subscribe(job_status(1.0));
    assert_eq!(client.message(), [0x0a, 2, 8, 1]);
}

#[test]
fn the_first_event_has_all_jobs_as_a_whole_and_without_policies() {
    let running = counted(0, 3);
    assert!(running["policy"].is_object(), "there is one to leave out");
    let ended = with(job(1, "completed"), json!({"completed_at": time(now().floor())}));
    let Some(server) = backend::server_with_rows(&[("job", running), ("job", ended)]) else { return };
    let mut client = RawClient::connect(&server.address);
    // It comes at once, however long the interval is.
    let status = client.subscribe(job_status(3600.0));
    let jobs = next_jobs(&mut client, status);
    assert_eq!(jobs.len(), 2);
    assert_eq!(jobs[0], shown());
    assert_eq!(jobs[1].run_state(), JobRunState::Completed);
    assert!(jobs[1].completed_at().ends_with("+00:00"), "{}", jobs[1].completed_at());
}

#[test]
fn then_come_only_the_jobs_that_have_changed_as_a_whole() {
    let Some((server, mut crawler, mut client)) = with_jobs(&[counted(0, 1), counted(1, 1), counted(2, 1)]) else {
        return;
    };
    let status = client.subscribe(job_status(SHORT));
    assert_eq!(next_jobs(&mut client, status).len(), 3);
    until_live(&server, 1);
    put(&mut crawler, "job", &[counted(0, 3)]);
    assert_eq!(next_jobs(&mut client, status), [shown()]);
    // What nobody is shown is no news, and neither is what is as before.
    put(&mut crawler, "job", &[with(counted(0, 3), json!({"duration": 17}))]);
    put(&mut crawler, "job", &[counted(1, 1)]);
    put(&mut crawler, "job", &[counted(2, 2)]);
    let changed = next_jobs(&mut client, status);
    assert_eq!(changed.iter().map(|job| (&job.job_id[..], job.item_count())).collect::<Vec<_>>(), [(&id(2)[..], 2)]);
    // One that is new, and one that has ended.
    put(&mut crawler, "job", &[counted(3, 0)]);
    assert_eq!(next_jobs(&mut client, status)[0].job_id, id(3));
    let ended = json!({"run_state": "completed", "completed_at": time(now())});
    put(&mut crawler, "job", &[with(counted(0, 3), ended)]);
    let ended = next_jobs(&mut client, status);
    assert_eq!((ended.len(), ended[0].run_state(), ended[0].item_count()), (1, JobRunState::Completed, 3));
    assert!(ended[0].completed_at.is_some());
}

/// Merges events as clients do, and refuses one that says nothing new.
fn apply(held: &mut BTreeMap<Vec<u8>, proto::Job>, jobs: Vec<proto::Job>) {
    assert!(!jobs.is_empty());
    for job in jobs {
        let before = held.insert(job.job_id.to_vec(), job.clone());
        assert_ne!(before, Some(job), "it was told before");
    }
}

#[test]
fn many_changes_come_as_one_and_nothing_comes_twice() {
    const JOBS: u8 = 5;
    const ROUNDS: i32 = 60;
    let first: Vec<Value> = (0..JOBS).map(|number| counted(number, 0)).collect();
    let Some((server, mut crawler, mut client)) = with_jobs(&first) else { return };
    let status = client.subscribe(job_status(0.5));
    let mut held = BTreeMap::new();
    apply(&mut held, next_jobs(&mut client, status));
    until_live(&server, 1);
    let asked: Vec<i32> = (1..=ROUNDS)
        .map(|items| {
            let rows: Vec<Value> = (0..JOBS).map(|number| counted(number, items)).collect();
            crawler.ask(import("job", &rows))
        })
        .collect();
    for request_id in asked {
        assert!(crawler.response(request_id).is_success);
    }
    let mut events = 0;
    while held.values().any(|job| job.item_count() < ROUNDS) {
        apply(&mut held, next_jobs(&mut client, status));
        events += 1;
    }
    assert_eq!(held.len(), usize::from(JOBS));
    assert!(events < ROUNDS / 2, "{events} events for {ROUNDS} changes of each job");
    // There is no further event with the same: the next one has something new.
    put(&mut crawler, "job", &[counted(0, ROUNDS + 1)]);
    let last = next_jobs(&mut client, status);
    assert_eq!((last.len(), last[0].item_count()), (1, ROUNDS + 1));
}

#[test]
fn a_deleted_job_is_told_by_its_id() {
    let recently = json!({"completed_at": time(now() - 60.0)});
    let rows = [counted(0, 1), with(job(1, "completed"), recently)];
    let Some((_server, mut crawler, mut client)) = with_jobs(&rows) else { return };
    let status = client.subscribe(job_status(SHORT));
    assert_eq!(next_jobs(&mut client, status).len(), 2);
    crawler.request(delete_job(1));
    assert_eq!(next_jobs(&mut client, status), [deleted_job(1)]);
    crawler.request(set_state(0, JobRunState::Cancelled));
    let cancelled = next_jobs(&mut client, status);
    assert_eq!((cancelled[0].run_state(), cancelled[0].completed_at.is_some()), (JobRunState::Cancelled, true));
    crawler.request(delete_job(0));
    assert_eq!(next_jobs(&mut client, status), [deleted_job(0)]);
}

/// Upstream tells of jobs that become older than a day as if they were deleted.
#[test]
fn b12_jobs_that_ended_long_ago_are_neither_shown_nor_deleted() {
    const DAY: f64 = 86_400.0;
    let ended = |number, ago: f64| with(job(number, "completed"), json!({"completed_at": time(now() - ago)}));
    // One that was not finished, however old it is, is shown.
    let old = with(counted(3, 1), json!({"started_at": time(1_000_000_000.0)}));
    let began = now();
    let rows = [ended(0, DAY + 60.0), ended(1, DAY - 60.0), ended(2, DAY - 1.0), old];
    let Some((server, mut crawler, mut client)) = with_jobs(&rows) else { return };
    let status = client.subscribe(job_status(SHORT));
    let shown: Vec<_> = next_jobs(&mut client, status).into_iter().map(|job| job.job_id).collect();
    assert_eq!(shown, [1, 2, 3].map(id));
    until_live(&server, 1);
    eventually("one of them has ended more than a day ago", || now() > began + 1.5);
    put(&mut crawler, "job", &[counted(4, 1)]);
    let next = next_jobs(&mut client, status);
    assert_eq!(next.iter().map(|job| &job.job_id).collect::<Vec<_>>(), [&id(4)]);
    // What happens to one that was never shown is nobody's business.
    crawler.request(delete_job(0));
    crawler.request(delete_job(1));
    let next = next_jobs(&mut client, status);
    assert_eq!((next.len(), &next[0].job_id), (1, &id(1)));
}

#[test]
fn b23_an_interval_that_makes_no_sense_is_refused() {
    let Some((server, _crawler, mut client)) = with_jobs(&[]) else { return };
    for seconds in [0.0, -1.0, 0.049, 3600.5, 1e300, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        assert_eq!(client.refusal(job_status(seconds)), "min_interval must be 0.05 to 3600 seconds.", "{seconds}");
    }
    assert_eq!(server.metric("starfeed_subscriptions"), 0.0);
    // Without one it is a second.
    let default = Command::SubscribeJobStatus(proto::RequestSubscribeJobStatus::default());
    assert_eq!(client.subscribe(default), 0);
    assert_eq!(client.event().body, None);
}

#[test]
fn nothing_comes_after_unsubscribing() {
    let Some((server, mut crawler, mut client)) = with_jobs(&[counted(0, 1)]) else { return };
    let [one, other] = [(), ()].map(|()| client.subscribe(job_status(SHORT)));
    next_jobs(&mut client, one);
    next_jobs(&mut client, other);
    until_live(&server, 2);
    client.request(unsubscribe(one));
    assert_eq!(client.refusal(unsubscribe(one)), format!("Unknown subscription_id: {one}"));
    for items in 2..6 {
        put(&mut crawler, "job", &[counted(0, items)]);
        // The other one goes on, and is all there is.
        assert_eq!(next_jobs(&mut client, other)[0].item_count(), items);
    }
    client.request(unsubscribe(other));
    assert_eq!(server.metric("starfeed_subscriptions"), 0.0);
}
