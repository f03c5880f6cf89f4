//! The pages about jobs: dashboard, start, results.

use prost::Message as _;
use serde_json::json;
use starfeed::proto::{self, JobRunState, RequestSetJob, request::Command, response::Body};

use super::{Browser, assert_time, list_policies, loaded, policies};
use crate::backend;
use crate::support::crawled::{
    NOON, ago, body, failed, frontier, gzip, id, job, job_since, policy, put, refused, rows, solver, success, with,
    without,
};
use crate::support::following::job_status;
use crate::support::jobs::{delete_job, deleted_job, get_job, list_jobs, numbers, page, set_job, set_state, shown_job};
use crate::support::raw::{RawClient, unsubscribe};
use crate::support::settings::get_solver;

#[test]
fn the_first_bytes_on_every_connection_are_as_they_always_were() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    client.send(&proto::Request { request_id: 0, command: Some(job_status(1.0)) }.encode_to_vec());
    assert_eq!(client.message(), [0x12, 0x09, 0x08, 0x00, 0x10, 0x01, 0x82, 0x01, 0x02, 0x08, 0x00]);
    // No jobs: an event without a body.
    assert_eq!(client.message(), [0x0a, 0x02, 0x08, 0x00]);
    // The second subscription has the next number, and its end is no more than a success.
    client.send(&proto::Request { request_id: 1, command: Some(job_status(1.0)) }.encode_to_vec());
    assert_eq!(client.message(), [0x12, 0x09, 0x08, 0x01, 0x10, 0x01, 0x82, 0x01, 0x02, 0x08, 0x01]);
    assert_eq!(client.message(), [0x0a, 0x02, 0x08, 0x01]);
    client.send(&proto::Request { request_id: 2, command: Some(unsubscribe(1)) }.encode_to_vec());
    assert_eq!(client.message(), [0x12, 0x04, 0x08, 0x02, 0x10, 0x01]);
}

#[test]
fn the_dashboard_has_the_jobs_of_the_day_and_of_others_that_go_on() {
    let Some(server) = backend::server(&[]) else { return };
    let recently = ago(7200.0);
    let rows = [
        job(1, "running"),
        job_since(2, "completed", recently),
        job(3, "cancelled"),
        job_since(4, "paused", NOON + 0.5),
        job(5, "pending"),
    ];
    put(&mut RawClient::connect(&server.address), "job", &rows);
    let (_, jobs) = loaded(&server, |browser| {
        let mut jobs = browser.jobs();
        jobs.sort_by(|one, other| one.job_id.cmp(&other.job_id));
        jobs
    });
    for job in &jobs {
        assert_time(job.started_at());
        job.completed_at.as_deref().into_iter().for_each(assert_time);
    }
    let expected = vec![
        shown_job(1, JobRunState::Running, "2019-01-01T12:00:00+00:00"),
        proto::Job {
            started_at: jobs[1].started_at.clone(),
            completed_at: jobs[1].completed_at.clone(),
            ..shown_job(2, JobRunState::Completed, "")
        },
        shown_job(4, JobRunState::Paused, "2019-01-01T12:00:00.500000+00:00"),
        shown_job(5, JobRunState::Pending, "2019-01-01T12:00:00+00:00"),
    ];
    assert!(jobs[1].completed_at.is_some(), "it has ended");
    assert_eq!(jobs, expected);
}

#[test]
fn the_dashboard_follows_what_changes() {
    let Some(server) = backend::server(&[]) else { return };
    let mut crawler = RawClient::connect(&server.address);
    let recently = ago(3600.0);
    put(&mut crawler, "job", &[job(1, "running"), job(2, "running"), job_since(3, "completed", recently)]);
    let mut browser = Browser::open(&server);
    assert_eq!(browser.jobs().len(), 3);
    // What is the crawler's own is no news.
    put(&mut crawler, "job", &[with(job(2, "running"), json!({"old_urls": "other"}))]);
    let changes = json!({"item_count": 7, "http_success_count": 4, "http_status_counts": {"200": 4}});
    put(&mut crawler, "job", &[with(job(1, "running"), changes)]);
    put(&mut crawler, "job", &[job(4, "pending")]);
    browser.tell(delete_job(3));
    let mut news = Vec::new();
    // They come together, unless this machine was slow.
    while news.len() < 3 {
        news.extend(browser.jobs());
    }
    news.sort_by(|one, other| one.job_id.cmp(&other.job_id));
    let expected = vec![
        proto::Job {
            item_count: Some(7),
            http_success_count: Some(4),
            http_status_counts: [(200, 4)].into(),
            ..shown_job(1, JobRunState::Running, "2019-01-01T12:00:00+00:00")
        },
        deleted_job(3),
        shown_job(4, JobRunState::Pending, "2019-01-01T12:00:00+00:00"),
    ];
    assert_eq!(news, expected);
}

#[test]
fn the_dashboard_cancels_a_job_and_says_what_is_needed_for_the_rest() {
    let Some(server) = backend::server(&[]) else { return };
    let mut crawler = RawClient::connect(&server.address);
    put(&mut crawler, "job", &[job(1, "running")]);
    put(&mut crawler, "frontier", &[frontier(1, 1)]);
    let mut browser = Browser::open(&server);
    assert_eq!(browser.jobs().len(), 1);
    for state in [JobRunState::Running, JobRunState::Paused] {
        let text = browser.client.refusal(set_state(1, state));
        assert!(
            text.starts_with("Job control is not available on this server: ") && text.contains("--crawler"),
            "{text}"
        );
    }
    browser.tell(set_state(1, JobRunState::Cancelled));
    let mut news = browser.jobs();
    assert_eq!(news.len(), 1);
    let completed_at = news[0].completed_at.take();
    assert_time(completed_at.as_deref().expect("it has ended"));
    assert_eq!(news[0], shown_job(1, JobRunState::Cancelled, "2019-01-01T12:00:00+00:00"));
    let again = Browser::open(&server).jobs();
    assert_eq!(again, [proto::Job { completed_at, ..news.remove(0) }]);
}

#[test]
fn the_start_page_starts_a_crawl_that_the_dashboard_shows() {
    let Some(server) = backend::server(&[]) else { return };
    put(&mut RawClient::connect(&server.address), "policy", &[policy(7, "News"), policy(8, "Also")]);
    let (mut browser, choices) = loaded(&server, |browser| policies(browser.ask(list_policies(100))));
    let names: Vec<&str> = choices.iter().map(|policy| policy.name()).collect();
    assert_eq!(names, ["Also", "News"]);
    assert_eq!(browser.jobs(), []);
    let start = |name: &str, seed: &str| {
        set_job(RequestSetJob {
            run_state: Some(JobRunState::Running.into()),
            policy_id: choices[1].policy_id.clone(),
            seeds: vec![seed.to_owned()],
            name: Some(name.to_owned()),
            tags: vec!["a".to_owned(), "b".to_owned()],
            ..RequestSetJob::default()
        })
    };
    assert_eq!(browser.client.refusal(start("", "")), "\"seeds\" is required");
    let Body::NewJob(new) = browser.ask(start("", "https://news.example/front")) else { panic!() };
    assert_eq!(new.job_id.len(), 16);
    let mut news = browser.jobs();
    assert_eq!(news.len(), 1);
    let started_at = news[0].started_at.take().expect("it has begun");
    assert_time(&started_at);
    let expected = proto::Job {
        job_id: new.job_id,
        seeds: vec!["https://news.example/front".to_owned()],
        name: Some("news.example".to_owned()),
        tags: vec!["a".to_owned(), "b".to_owned()],
        run_state: Some(JobRunState::Pending.into()),
        item_count: Some(0),
        http_success_count: Some(0),
        http_error_count: Some(0),
        exception_count: Some(0),
        ..proto::Job::default()
    };
    assert_eq!(news[0], expected);
    let listed = browser.ask(results(0));
    let Body::ListJobs(list) = listed else { panic!("{listed:?}") };
    assert_eq!(list.jobs, [proto::Job { started_at: Some(started_at), ..expected }]);
}

fn results(offset: i32) -> Command {
    list_jobs(proto::RequestListJobs { page: page(10, offset), ..Default::default() })
}

#[test]
fn the_results_are_listed_in_pages_and_deleted_one_by_one() {
    let Some(server) = backend::server(&[]) else { return };
    let rows: Vec<_> = (1..=12).map(|number| job_since(number, "completed", NOON + f64::from(number))).collect();
    put(&mut RawClient::connect(&server.address), "job", &rows);
    let (mut browser, first) = loaded(&server, |browser| {
        let Body::ListJobs(list) = browser.ask(results(0)) else { panic!() };
        list
    });
    for job in &first.jobs {
        assert_time(job.started_at());
        assert_time(job.completed_at());
        assert!(!job.name().is_empty() && job.policy.is_none());
        assert!([job.item_count(), job.http_success_count(), job.http_error_count()].iter().all(|count| *count > 0));
    }
    assert_eq!(numbers(Some(Body::ListJobs(first))), ((3..=12).rev().collect(), 12));
    assert_eq!(numbers(Some(browser.ask(results(10)))), (vec![2, 1], 12));
    browser.tell(delete_job(2));
    assert_eq!(numbers(Some(browser.ask(results(10)))), (vec![1], 11));
    assert_eq!(browser.client.refusal(delete_job(2)), "No job exists with ID=02020202-0202-0202-0202-020202020202");
}

#[test]
fn a_result_is_shown_with_its_policy_and_keeps_the_tags_that_are_saved() {
    let Some(server) = backend::server(&[]) else { return };
    let mut writer = RawClient::connect(&server.address);
    let mut then = without(policy(7, "Then"), &["captcha_solver_id"]);
    then["captcha_solver"] = solver(8, "Solver");
    put(&mut writer, "job", &[with(job(1, "completed"), json!({"policy": then}))]);
    put(&mut writer, "captcha_solver", &[solver(8, "Solver")]);
    let load = |browser: &mut Browser| {
        let Body::Job(job) = browser.ask(get_job(1)) else { panic!() };
        job
    };
    let (mut browser, job) = loaded(&server, load);
    assert_time(job.started_at());
    assert_time(job.completed_at());
    for tags in [vec!["one".to_owned(), "two".to_owned()], vec![]] {
        browser.tell(set_job(RequestSetJob { job_id: Some(id(1)), tags: tags.clone(), ..RequestSetJob::default() }));
        assert_eq!(load(&mut browser), proto::Job { tags: tags.clone(), ..job.clone() });
        assert_eq!(load(&mut Browser::open(&server)), proto::Job { tags, ..job.clone() });
    }
    // The tab of the policy.
    let policy = load(&mut browser).policy.expect("the policy of then");
    assert_eq!(policy.name(), "Then");
    assert_time(policy.created_at());
    assert_time(policy.updated_at());
    assert!(policy.limits.is_some() && policy.robots_txt.is_some() && policy.url_normalization.is_some());
    let Body::Solver(solver) = browser.ask(get_solver(policy.captcha_solver_id())) else { panic!() };
    assert_eq!(solver.name(), "Solver");
    assert_time(solver.created_at());
}

#[test]
fn the_items_of_a_result_are_shown_by_kind() {
    let Some(server) = backend::server(&[]) else { return };
    let mut writer = RawClient::connect(&server.address);
    put(&mut writer, "job", &[job(1, "completed")]);
    let mut responses: Vec<_> = (1..=11).map(|sequence| success(sequence, 1, 1)).collect();
    responses.extend([refused(12, 1, 2), failed(13, 1)]);
    put(&mut writer, "response", &responses);
    put(&mut writer, "response_body", &[body(1, &gzip(b"found"), true), body(2, &gzip(b"not found"), true)]);
    assert_eq!(rows(&mut writer, "response").len(), 13);
    let wish = proto::RequestGetJobItems { job_id: id(1), page: page(10, 0), ..Default::default() };
    let open = Some(false);
    let successes = proto::RequestGetJobItems { include_success: Some(true), compression_ok: open, ..wish.clone() };
    let errors = proto::RequestGetJobItems { include_error: Some(true), compression_ok: open, ..wish.clone() };
    let exceptions = proto::RequestGetJobItems { include_exception: Some(true), ..wish };
    let last = proto::RequestGetJobItems { page: page(10, 10), ..successes.clone() };
    for (request, count, total) in [(successes, 10, 11), (errors, 1, 1), (exceptions, 1, 1), (last, 1, 11)] {
        let (_, list) = loaded(&server, |browser| {
            let both = browser.ask_both(get_job(1), Command::GetJobItems(request.clone()));
            let [Body::Job(job), Body::ListItems(list)] = both else { panic!("{both:?}") };
            assert_eq!(job.name(), "Job 1");
            list
        });
        assert_eq!((list.items.len(), list.total), (count, Some(total)));
        for item in &list.items {
            assert_time(item.started_at());
            assert_time(item.completed_at());
            assert!(item.url().starts_with("https://site.example/"));
            assert!(!item.is_compressed());
            let shown = (item.is_success(), item.status_code(), item.body(), item.exception());
            let expected = match () {
                () if request.include_exception() => (false, 0, &b""[..], "Traceback"),
                () if request.include_error() => (false, 404, &b"not found"[..], ""),
                () => (true, 200, &b"found"[..], ""),
            };
            assert_eq!(shown, expected);
        }
    }
}
