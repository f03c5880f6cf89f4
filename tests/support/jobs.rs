//! Commands about jobs, and what clients are shown of jobs and items as [`super::crawled`] writes them.

use starfeed::proto::{self, CrawlResponse, RequestGetJobItems, request::Command, response::Body};

use super::crawled::id;
use super::raw::RawClient;

pub(crate) fn page(limit: i32, offset: i32) -> Option<proto::Page> {
    Some(proto::Page { limit: Some(limit), offset: Some(offset) })
}

pub(crate) fn get_job(number: u8) -> Command {
    Command::GetJob(proto::RequestGetJob { job_id: id(number) })
}

/// The job with this number, with its policy.
pub(crate) fn whole_job(client: &mut RawClient, number: u8) -> proto::Job {
    match client.request(get_job(number)) {
        Some(Body::Job(job)) => job,
        body => panic!("{body:?}"),
    }
}

pub(crate) fn set_job(request: proto::RequestSetJob) -> Command {
    Command::SetJob(request)
}

pub(crate) fn set_state(number: u8, run_state: proto::JobRunState) -> Command {
    set_job(proto::RequestSetJob { job_id: Some(id(number)), run_state: Some(run_state.into()), ..Default::default() })
}

pub(crate) fn delete_job(number: u8) -> Command {
    Command::DeleteJob(proto::RequestDeleteJob { job_id: id(number) })
}

pub(crate) fn list_jobs(request: proto::RequestListJobs) -> Command {
    Command::ListJobs(request)
}

pub(crate) fn list_schedule_jobs(schedule_id: impl Into<bytes::Bytes>, page: Option<proto::Page>) -> Command {
    Command::ListScheduleJobs(proto::RequestListScheduleJobs { schedule_id: schedule_id.into(), page })
}

/// The jobs of a list, by number, and the total.
pub(crate) fn numbers(body: Option<Body>) -> (Vec<u8>, i32) {
    let (jobs, total) = match body {
        Some(Body::ListJobs(list)) => (list.jobs, list.total),
        Some(Body::ListScheduleJobs(list)) => (list.jobs, list.total),
        body => panic!("{body:?}"),
    };
    (jobs.iter().map(|job| job.job_id[0]).collect(), total.expect("a list has its total"))
}

/// The items of a list, and the total.
pub(crate) fn items(client: &mut RawClient, request: RequestGetJobItems) -> (Vec<CrawlResponse>, i32) {
    match client.request(Command::GetJobItems(request)) {
        Some(Body::ListItems(list)) => (list.items, list.total.expect("a list has its total")),
        body => panic!("{body:?}"),
    }
}

/// A job as lists and events show it, which has not ended.
pub(crate) fn shown_job(number: u8, run_state: proto::JobRunState, started_at: &str) -> proto::Job {
    proto::Job {
        job_id: id(number),
        seeds: vec!["https://seed.example/".to_owned()],
        policy: None,
        name: Some(format!("Job {number}")),
        tags: vec!["news".to_owned()],
        run_state: Some(run_state.into()),
        started_at: Some(started_at.to_owned()),
        completed_at: None,
        item_count: Some(6),
        http_success_count: Some(3),
        http_error_count: Some(2),
        exception_count: Some(1),
        http_status_counts: [(200, 3), (404, 2)].into(),
    }
}

/// What clients are shown of a job that is deleted.
pub(crate) fn deleted_job(number: u8) -> proto::Job {
    proto::Job { job_id: id(number), run_state: Some(proto::JobRunState::Deleted.into()), ..proto::Job::default() }
}

/// An item that worked, as lists and events show it, without its body.
pub(crate) fn shown_item(sequence: u64, job: u8) -> CrawlResponse {
    let text = |text: &str| Some(text.to_owned());
    let header = |key, value| proto::Header { key: text(key), value: text(value) };
    CrawlResponse {
        body: None,
        completed_at: text("2019-01-01T12:00:01+00:00"),
        content_type: text("text/plain"),
        cost: Some(1.0),
        duration: Some(0.877),
        exception: None,
        headers: vec![header("SERVER", "nginx"), header("X-NUMBER", &sequence.to_string())],
        is_compressed: Some(false),
        is_success: Some(true),
        job_id: Some(id(job)),
        started_at: text("2019-01-01T12:00:00.123000+00:00"),
        status_code: Some(200),
        url: Some(format!("https://site.example/{sequence}")),
        url_can: Some(format!("https://site.example/{sequence}?canonical")),
    }
}
