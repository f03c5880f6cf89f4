//! The crawl simulator, run as a program: what a client of the server sees of it.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use starfeed::client::Client;
use starfeed::proto::request::Command;
use starfeed::proto::response::Body;
use starfeed::proto::{
    CrawlResponse, Job, JobRunState, Page, RequestGetJob, RequestGetJobItems, RequestGetSchedule, RequestImportRows,
    RequestListJobs, RequestListPolicies, RequestListScheduleJobs, RequestSetJob, RequestSetSchedule, Schedule,
    ScheduleTimeUnit, ScheduleTiming,
};
use support::process::ServerProcess;
use support::simulator::Simulator;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

const POLICIES: &str = include_str!("../examples/rows/policy.ndjson");
const ALL: Option<Page> = Some(Page { limit: Some(1000), offset: None });

/// A client of a server that a simulator works on.
struct User(Client);

impl User {
    async fn of(server: &ServerProcess) -> Self {
        Self(Client::connect(&server.url()).await.expect("the server listens"))
    }

    async fn ask(&mut self, command: Command) -> Option<Body> {
        self.0.request(command).await.expect("it is done")
    }

    /// Jobs, newest first.
    async fn jobs(&mut self) -> Vec<Job> {
        match self.ask(Command::ListJobs(RequestListJobs { page: ALL, ..Default::default() })).await {
            Some(Body::ListJobs(list)) => list.jobs,
            other => panic!("{other:?}"),
        }
    }

    async fn job(&mut self, job_id: &Bytes) -> Job {
        match self.ask(Command::GetJob(RequestGetJob { job_id: job_id.clone() })).await {
            Some(Body::Job(job)) => job,
            other => panic!("{other:?}"),
        }
    }

    /// Everything a job has downloaded, with bodies that are not compressed.
    async fn items(&mut self, job_id: &Bytes) -> Vec<CrawlResponse> {
        let request = RequestGetJobItems {
            job_id: job_id.clone(),
            include_success: Some(true),
            include_error: Some(true),
            include_exception: Some(true),
            compression_ok: Some(false),
            page: ALL,
        };
        match self.ask(Command::GetJobItems(request)).await {
            Some(Body::ListItems(list)) => list.items,
            other => panic!("{other:?}"),
        }
    }

    async fn start_job(&mut self, name: &str) -> Bytes {
        let page = Some(Page { limit: Some(1), offset: None });
        let policy_id = self
            .until("there is a policy", async |user| {
                match user.ask(Command::ListPolicies(RequestListPolicies { page })).await {
                    Some(Body::ListPolicies(list)) => list.policies.into_iter().next()?.policy_id,
                    other => panic!("{other:?}"),
                }
            })
            .await;
        let seeds = vec!["https://start.example/".to_owned()];
        let request =
            RequestSetJob { policy_id: Some(policy_id), seeds, name: Some(name.to_owned()), ..Default::default() };
        match self.ask(Command::SetJob(request)).await {
            Some(Body::NewJob(new)) => new.job_id,
            other => panic!("{other:?}"),
        }
    }

    async fn cancel(&mut self, job_id: &Bytes) {
        let run_state = Some(JobRunState::Cancelled.into());
        let request = RequestSetJob { job_id: Some(job_id.clone()), run_state, ..Default::default() };
        self.ask(Command::SetJob(request)).await;
    }

    async fn import(&mut self, table: &str, rows: &[&str]) {
        let rows = rows.iter().map(|row| Bytes::copy_from_slice(row.as_bytes())).collect();
        let import = RequestImportRows { table: table.to_owned(), rows, first_line: None, commit: Some(true) };
        self.ask(Command::ImportRows(import)).await;
    }

    /// Asks again until there is an answer; fails after a long while.
    async fn until<T>(&mut self, what: &str, mut ask: impl AsyncFnMut(&mut Self) -> Option<T>) -> T {
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            if let Some(answer) = ask(self).await {
                return answer;
            }
            assert!(Instant::now() < deadline, "it never came true: {what}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn until_completed(&mut self, job_id: &Bytes) -> Job {
        self.until("the job is completed", async |user| Some(user.job(job_id).await).filter(is_completed)).await
    }
}

fn is_completed(job: &Job) -> bool {
    job.run_state() == JobRunState::Completed
}

#[tokio::test]
async fn jobs_appear_go_on_and_are_completed() {
    let server = ServerProcess::in_memory(&[]);
    let mut simulator = Simulator::start(&server.url(), &["--jobs", "2", "--rate", "60", "--seed", "1"]);
    let mut user = User::of(&server).await;
    let mut counts: BTreeMap<Bytes, BTreeSet<i32>> = BTreeMap::new();
    let job = user
        .until("a job that was seen to go on is completed", async |user| {
            let jobs = user.jobs().await;
            for job in &jobs {
                counts.entry(job.job_id.clone()).or_default().insert(job.item_count());
            }
            jobs.into_iter().find(|job| is_completed(job) && counts[&job.job_id].len() > 3)
        })
        .await;
    assert!(job.completed_at.is_some() && job.tags.iter().any(|tag| tag == "simulated"));
    assert_eq!(job.item_count(), job.http_success_count() + job.http_error_count() + job.exception_count());
    let responses: i32 = job.http_status_counts.values().sum();
    assert_eq!(responses, job.http_success_count() + job.http_error_count());

    let items = user.items(&job.job_id).await;
    assert_eq!(items.len(), usize::try_from(job.item_count()).expect("a count"));
    for item in &items {
        assert_eq!(item.exception.is_none(), item.body.is_some(), "{:?}", item.url);
        let body = item.body.as_deref().unwrap_or_default();
        assert_eq!(item.is_success(), [&b"<!DOCTYPE"[..], b"<?xml"].iter().any(|start| body.starts_with(start)));
    }
    assert!(simulator.is_running());
}

#[tokio::test]
async fn what_users_start_runs_and_what_they_cancel_stays_cancelled() {
    let server = ServerProcess::in_memory(&[]);
    let mut simulator = Simulator::start(&server.url(), &["--jobs", "0", "--rate", "80", "--speed", "0.001"]);
    let mut user = User::of(&server).await;
    let mut cancelled = Vec::new();
    for items in 0..8 {
        let job_id = user.start_job("To be cancelled").await;
        user.until("it has got so far", async |user| (user.job(&job_id).await.item_count() >= items).then_some(()))
            .await;
        user.cancel(&job_id).await;
        cancelled.push(job_id);
    }
    // A simulator that finishes a later job has done with what was under way for those.
    let job_id = user.start_job("To be finished").await;
    let job = user.until_completed(&job_id).await;
    assert!(job.item_count() > 0);
    for job_id in cancelled {
        let job = user.job(&job_id).await;
        assert_eq!(job.run_state(), JobRunState::Cancelled, "after {} items", job.item_count());
        assert!(job.completed_at.is_some());
        assert_eq!(user.items(&job_id).await.len(), usize::try_from(job.item_count()).expect("a count"));
    }
    assert!(simulator.is_running());
}

#[tokio::test]
async fn schedules_start_jobs_and_count_them() {
    let server = ServerProcess::in_memory(&[]);
    let mut user = User::of(&server).await;
    let policy = POLICIES.lines().next().expect("a policy");
    user.import("policy", &[policy]).await;
    let policy_id: serde_json::Value = serde_json::from_str(policy).expect("JSON");
    let policy_id = Uuid::try_parse(policy_id["id"].as_str().expect("an id")).expect("a UUID");
    let schedule = Schedule {
        enabled: Some(true),
        time_unit: Some(ScheduleTimeUnit::Hours.into()),
        num_units: Some(1),
        timing: Some(ScheduleTiming::AfterPreviousJobFinished.into()),
        schedule_name: Some("Every hour".to_owned()),
        job_name: Some("Hour {COUNT} {{{TIME}}}".to_owned()),
        seeds: vec!["https://clock.example/".to_owned()],
        policy_id: Some(Bytes::copy_from_slice(policy_id.as_bytes())),
        ..Default::default()
    };
    let set = RequestSetSchedule { schedule: Some(schedule) };
    let Some(Body::NewSchedule(new)) = user.ask(Command::SetSchedule(set)).await else { panic!("it is made") };
    let schedule_id = new.schedule_id;

    let _simulator = Simulator::start(&server.url(), &["--jobs", "0", "--rate", "200", "--speed", "1000000"]);
    let get = Command::GetSchedule(RequestGetSchedule { schedule_id: schedule_id.clone() });
    let count = user
        .until("it has started three jobs", async |user| match user.ask(get.clone()).await {
            Some(Body::Schedule(schedule)) => Some(schedule.job_count()).filter(|count| *count >= 3),
            other => panic!("{other:?}"),
        })
        .await;
    let list = Command::ListScheduleJobs(RequestListScheduleJobs { schedule_id, page: ALL });
    let Some(Body::ListScheduleJobs(list)) = user.ask(list).await else { panic!("they are listed") };
    assert!(list.jobs.len() >= usize::try_from(count).expect("a count"));
    for (number, job) in (1..).zip(list.jobs.iter().rev()) {
        let time = job.name().strip_prefix(&format!("Hour {number} {{")).and_then(|rest| rest.strip_suffix('}'));
        assert!(time.is_some_and(|time| time.parse::<u64>().is_ok()), "{:?}", job.name());
    }
}

#[tokio::test]
async fn it_goes_on_when_the_server_is_started_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut server = ServerProcess::on_disk(directory.path());
    let mut simulator = Simulator::start(&server.url(), &["--jobs", "0", "--rate", "60", "--speed", "0.001"]);
    let mut user = User::of(&server).await;
    let job_id = user.start_job("Before and after").await;
    user.until("it runs", async |user| (user.job(&job_id).await.item_count() > 1).then_some(())).await;
    server.terminate();
    let server = ServerProcess::on_disk_at(&server.address, directory.path());
    let mut user = User::of(&server).await;
    let job = user.until_completed(&job_id).await;
    assert_eq!(user.items(&job_id).await.len(), usize::try_from(job.item_count()).expect("a count"));
    let later = user.start_job("After").await;
    user.until_completed(&later).await;
    assert!(simulator.is_running());
}

#[tokio::test]
async fn old_jobs_are_deleted_but_not_those_of_others() {
    let server = ServerProcess::in_memory(&[]);
    let args = ["--jobs", "3", "--rate", "400", "--keep", "2", "--speed", "0.001"];
    let _simulator = Simulator::start(&server.url(), &args);
    let mut user = User::of(&server).await;
    let own = user.start_job("Of a user").await;
    let mut seen: BTreeSet<Bytes> = BTreeSet::new();
    user.until("jobs are gone", async |user| {
        let jobs = user.jobs().await;
        seen.extend(jobs.iter().map(|job| job.job_id.clone()));
        (seen.len() >= jobs.len() + 3).then_some(())
    })
    .await;
    user.until_completed(&own).await;
}
