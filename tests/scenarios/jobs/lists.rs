//! Which jobs there are, and how they are shown.

use serde_json::json;
use starfeed::proto::{self, JobRunState, RequestListJobs, request::Command, response::Body};

use crate::backend;
use crate::support::crawled::{NOON, id, job, job_since, policy, put, solver, time, uuid, with, without};
use crate::support::jobs::{get_job, list_jobs, list_schedule_jobs, numbers, page, shown_job, whole_job};
use crate::support::raw::RawClient;

/// Jobs of two schedules and of none, one minute after the other.
fn with_jobs(client: &mut RawClient) {
    let of = |schedule: u8, tags: &[&str]| json!({"schedule_id": uuid(schedule).to_string(), "tags": tags});
    let rows = [
        with(job_since(3, "running", NOON + 120.0), of(0xa, &["news"])),
        with(job(1, "completed"), of(0xa, &["news", "old"])),
        with(job_since(4, "paused", NOON + 180.5), of(0xb, &["newsletter"])),
        with(job_since(2, "cancelled", NOON + 60.0), json!({"tags": ["old"]})),
        with(job_since(5, "pending", NOON + 240.0), of(0xa, &[])),
    ];
    put(client, "job", &rows);
}

#[test]
fn a_job_is_listed_as_it_is_and_without_its_policy() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    let offset = json!({"$reql_type$": "TIME", "epoch_time": NOON as i64, "timezone": "-05:00"});
    let rows = [
        job(1, "completed"),
        job_since(2, "running", NOON + 0.123),
        with(job_since(3, "paused", NOON - 1.0), json!({"http_status_counts": {}, "started_at": offset})),
    ];
    put(&mut client, "job", &rows);
    let expected = vec![
        shown_job(2, JobRunState::Running, "2019-01-01T12:00:00.123000+00:00"),
        proto::Job {
            completed_at: Some("2019-01-01T12:01:00+00:00".to_owned()),
            ..shown_job(1, JobRunState::Completed, "2019-01-01T12:00:00+00:00")
        },
        proto::Job { http_status_counts: [].into(), ..shown_job(3, JobRunState::Paused, "2019-01-01T07:00:00-05:00") },
    ];
    let Some(Body::ListJobs(list)) = client.request(list_jobs(RequestListJobs::default())) else { panic!() };
    assert_eq!(list.total, Some(3));
    let mut listed = list.jobs;
    // Two began at once: their order is not said.
    listed.sort_by_key(|job| [2, 1, 3].iter().position(|number| *number == job.job_id[0]));
    assert_eq!(listed, expected);
}

#[test]
fn the_newest_jobs_come_first() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    let mut list = |page| numbers(client.request(list_jobs(RequestListJobs { page, ..RequestListJobs::default() })));
    assert_eq!(list(None), (vec![], 0));
    let mut writer = RawClient::connect(&server.address);
    with_jobs(&mut writer);
    assert_eq!(list(None), (vec![5, 4, 3, 2, 1], 5));
    assert_eq!(list(page(2, 0)), (vec![5, 4], 5));
    assert_eq!(list(page(2, 2)), (vec![3, 2], 5));
    assert_eq!(list(page(2, 4)), (vec![1], 5));
    assert_eq!(list(page(2, 6)), (vec![], 5));
    assert_eq!(list(page(0, 0)), (vec![], 5));
    let rows: Vec<_> = (6..13).map(|number| job_since(number, "running", NOON + 60.0 * f64::from(number))).collect();
    put(&mut writer, "job", &rows);
    assert_eq!(list(None), (vec![12, 11, 10, 9, 8, 7, 6, 5, 4, 3], 12), "ten are a page");
    for (page, text) in [(page(-1, 0), "Page limit must be ≥0."), (page(1, -1), "Page offset must be ≥0.")] {
        let request = RequestListJobs { page, ..RequestListJobs::default() };
        assert_eq!(writer.refusal(list_jobs(request)), text);
    }
}

#[test]
fn jobs_are_listed_from_a_time_on() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    with_jobs(&mut client);
    let after = |text: &str| RequestListJobs { started_after: Some(text.to_owned()), ..RequestListJobs::default() };
    for (text, expected) in [
        ("2019-01-01T12:02:00+00:00", vec![5, 4, 3]),
        ("2019-01-01T12:02:00.001+00:00", vec![5, 4]),
        ("2019-01-01T12:03:00.500000+00:00", vec![5, 4]),
        ("2019-01-01T14:02:00+02:00", vec![5, 4, 3]),
        ("2019-01-01T12:02:00Z", vec![5, 4, 3]),
        ("2019-01-01T12:02:00", vec![5, 4, 3]),
        ("2019-01-01T12:02:00.000", vec![5, 4, 3]),
        ("2019-01-01 12:02:00", vec![5, 4, 3]),
        ("2019-01-01", vec![5, 4, 3, 2, 1]),
        ("2019-01-02", vec![]),
        ("", vec![5, 4, 3, 2, 1]),
    ] {
        let total = i32::try_from(expected.len()).expect("few");
        assert_eq!(numbers(client.request(list_jobs(after(text)))), (expected, total), "{text}");
    }
    for text in ["yesterday", "2019-13-01T12:00:00+00:00", "1546344000", "2019-01-01T25:00:00", " "] {
        let refusal = client.refusal(list_jobs(after(text)));
        assert_eq!(refusal, "Invalid started_after: must be a time, like 2019-01-01T12:00:00+00:00", "{text}");
    }
}

#[test]
fn jobs_are_listed_by_tag_and_schedule_and_all_at_once() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    with_jobs(&mut client);
    let all = RequestListJobs::default();
    let tagged = |tag: &str| RequestListJobs { tag: Some(tag.to_owned()), ..all.clone() };
    let of = |schedule| RequestListJobs { schedule_id: Some(id(schedule)), ..all.clone() };
    let since = Some("2019-01-01T12:01:00+00:00".to_owned());
    for (request, expected) in [
        (tagged("news"), (vec![3, 1], 2)),
        (tagged("old"), (vec![2, 1], 2)),
        (tagged("new"), (vec![], 0)),
        (tagged(""), (vec![5, 4, 3, 2, 1], 5)),
        (of(0xa), (vec![5, 3, 1], 3)),
        (of(0xc), (vec![], 0)),
        (RequestListJobs { schedule_id: Some(vec![].into()), ..all.clone() }, (vec![5, 4, 3, 2, 1], 5)),
        (RequestListJobs { page: page(1, 1), ..of(0xa) }, (vec![3], 3)),
        (RequestListJobs { page: page(1, 1), ..tagged("news") }, (vec![1], 2)),
        (RequestListJobs { started_after: since.clone(), ..of(0xa) }, (vec![5, 3], 2)),
        (RequestListJobs { started_after: since.clone(), ..tagged("old") }, (vec![2], 1)),
        (RequestListJobs { schedule_id: Some(id(0xa)), ..tagged("news") }, (vec![3, 1], 2)),
        (RequestListJobs { schedule_id: Some(id(0xa)), started_after: since, ..tagged("news") }, (vec![3], 1)),
    ] {
        assert_eq!(numbers(client.request(list_jobs(request.clone()))), expected, "{request:?}");
    }
    let short = RequestListJobs { schedule_id: Some(vec![1; 15].into()), ..all };
    assert_eq!(client.refusal(list_jobs(short)), "Invalid schedule_id: must be 16 bytes");
}

#[test]
fn the_jobs_of_a_schedule_come_newest_first() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    with_jobs(&mut client);
    let of = |schedule_id: &[u8], page| list_schedule_jobs(schedule_id.to_vec(), page);
    assert_eq!(numbers(client.request(of(&id(0xa), None))), (vec![5, 3, 1], 3));
    assert_eq!(numbers(client.request(of(&id(0xa), page(2, 1)))), (vec![3, 1], 3));
    assert_eq!(numbers(client.request(of(&id(0xb), None))), (vec![4], 1));
    assert_eq!(numbers(client.request(of(&id(0xc), None))), (vec![], 0));
    let Some(Body::ListScheduleJobs(list)) = client.request(of(&id(0xb), None)) else { panic!() };
    let expected = proto::Job {
        tags: vec!["newsletter".to_owned()],
        ..shown_job(4, JobRunState::Paused, "2019-01-01T12:03:00.500000+00:00")
    };
    assert_eq!(list.jobs, [expected]);
    assert_eq!(client.refusal(of(&[], None)), "Invalid schedule_id: must be 16 bytes");
}

#[test]
fn jobs_that_nobody_can_order_come_last() {
    let rows = [
        ("job", without(job(1, "running"), &["started_at"])),
        ("job", job(2, "running")),
        ("job", with(job(3, "running"), json!({"started_at": null, "schedule_id": 7}))),
        ("job", job_since(4, "running", NOON + 1.0)),
    ];
    let Some(server) = backend::server_with_rows(&rows) else { return };
    let mut client = RawClient::connect(&server.address);
    let Some(Body::ListJobs(list)) = client.request(list_jobs(RequestListJobs::default())) else { panic!() };
    let started: Vec<(u8, &str)> = list.jobs.iter().map(|job| (job.job_id[0], job.started_at())).collect();
    let unknown = "1970-01-01T00:00:00+00:00";
    let expected = [(4, "2019-01-01T12:00:01+00:00"), (2, "2019-01-01T12:00:00+00:00"), (3, unknown), (1, unknown)];
    assert_eq!((started, list.total), (expected.to_vec(), Some(4)));
    let since = Some("1970-01-01T00:00:00+00:00".to_owned());
    let begun = list_jobs(RequestListJobs { started_after: since, ..RequestListJobs::default() });
    assert_eq!(numbers(client.request(begun)), (vec![4, 2], 2));
}

#[test]
fn a_job_has_the_policy_of_then() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    let mut then = without(policy(7, "Then"), &["captcha_solver_id"]);
    then["captcha_solver"] = solver(8, "Solver");
    then["robots_txt"] = json!({"usage": "INVERT", "read_sitemaps": true, "obey_crawl_delay": false});
    let rows = [
        with(job(1, "completed"), json!({"policy": then})),
        job(2, "running"),
        without(job(3, "running"), &["policy"]),
    ];
    put(&mut client, "job", &rows);
    put(&mut client, "policy", &[policy(7, "Now")]);
    let first = whole_job(&mut client, 1);
    let policy = first.policy.clone().expect("its policy");
    assert_eq!((policy.policy_id(), policy.name()), (&id(7)[..], "Then"));
    assert_eq!(policy.captcha_solver_id(), &id(8)[..]);
    assert_eq!(policy.created_at(), "2019-01-01T12:00:00+00:00");
    assert_eq!(policy.updated_at(), "2019-01-01T12:00:00.500000+00:00");
    assert_eq!(policy.robots_txt.map(|robots| robots.usage()), Some(proto::policy_robots_txt::Usage::Invert));
    assert_eq!(policy.limits.map(|limits| limits.max_cost()), Some(10.0));
    assert_eq!((policy.mime_type_rules.len(), policy.url_rules.len(), policy.user_agents.len()), (2, 1, 1));
    let expected = proto::Job {
        policy: first.policy.clone(),
        completed_at: Some("2019-01-01T12:01:00+00:00".to_owned()),
        ..shown_job(1, JobRunState::Completed, "2019-01-01T12:00:00+00:00")
    };
    assert_eq!(first, expected);
    let second = whole_job(&mut client, 2).policy.expect("its policy");
    assert_eq!((second.policy_id(), second.captcha_solver_id.clone()), (&id(0x99)[..], None));
    assert_eq!(whole_job(&mut client, 3).policy, None);
}

#[test]
fn a_job_that_is_not_there_is_an_error() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    let text = "No job exists with ID=01020304-0506-0708-090a-0b0c0d0e0f10";
    let bytes: Vec<u8> = (1..=16).collect();
    let get = |job_id: &[u8]| Command::GetJob(proto::RequestGetJob { job_id: job_id.to_vec().into() });
    assert_eq!(client.refusal(get(&bytes)), text);
    for wrong in [&[][..], &[1; 15], &[1; 17]] {
        assert_eq!(client.refusal(get(wrong)), "Invalid job_id: must be 16 bytes");
    }
}

#[test]
fn a_spoilt_job_harms_only_itself() {
    let rows = [
        ("job", json!({"id": uuid(1).to_string(), "started_at": time(NOON + 9.0), "run_state": "dreaming"})),
        ("job", with(job(2, "running"), json!({"id": "not-a-uuid"}))),
        ("job", with(job(3, "running"), json!({"http_status_counts": "none", "policy": 7}))),
    ];
    let Some(server) = backend::server_with_rows(&rows) else { return };
    let mut client = RawClient::connect(&server.address);
    // The one whose id is no UUID cannot be shown; it counts all the same.
    let Some(Body::ListJobs(list)) = client.request(list_jobs(RequestListJobs::default())) else { panic!() };
    let states: Vec<(u8, Option<i32>)> = list.jobs.iter().map(|job| (job.job_id[0], job.run_state)).collect();
    assert_eq!((states, list.total), (vec![(1, None), (3, Some(JobRunState::Running.into()))], Some(3)));
    assert_eq!(list.jobs[1].http_status_counts, [].into());
    let Some(Body::Job(third)) = client.request(get_job(3)) else { panic!() };
    assert_eq!((third.policy, third.item_count), (None, Some(6)));
    assert!(server.metric("starfeed_row_problems_total") >= 3.0);
}
