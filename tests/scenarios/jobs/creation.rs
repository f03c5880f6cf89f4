//! Making a job: the rows that a crawler begins with.

use serde_json::{Value, json};
use starfeed::proto::{self, JobRunState, RequestSetJob, response::Body};

use crate::backend;
use crate::support::crawled::{id, id_text, now, policy, put, row, rows, solver, uuid, with, without};
use crate::support::jobs::set_job;
use crate::support::raw::RawClient;

fn request(seeds: &[&str]) -> RequestSetJob {
    RequestSetJob {
        policy_id: Some(id(7)),
        seeds: seeds.iter().map(|&seed| seed.to_owned()).collect(),
        ..RequestSetJob::default()
    }
}

/// Makes a job; its id as rows have it.
fn create(client: &mut RawClient, request: RequestSetJob) -> String {
    match client.request(set_job(request)) {
        Some(Body::NewJob(new)) => id_text(&new.job_id),
        body => panic!("{body:?}"),
    }
}

/// The members that differ from job to job, taken out.
fn taken(row: &mut Value, member: &str) -> Value {
    row.as_object_mut().expect("a row").remove(member).expect("the member is there")
}

#[test]
fn a_new_job_is_the_row_and_the_work_that_a_crawler_begins_with() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    put(&mut client, "policy", &[policy(7, "News")]);
    let before = now();
    let new = RequestSetJob {
        name: Some("  Front pages ".to_owned()),
        tags: vec![" news ".to_owned(), " ".to_owned(), "daily".to_owned()],
        // Whatever is asked for, a job begins pending.
        run_state: Some(JobRunState::Running.into()),
        ..request(&[" https://news.example/ ", "", "https://other.example/a?b=c"])
    };
    let job_id = create(&mut client, new);
    let mut written = rows(&mut client, "job");
    assert_eq!(written.len(), 1);
    let mut job = written.remove(0);
    let started_at = taken(&mut job, "started_at");
    assert_eq!((started_at["$reql_type$"].as_str(), started_at["timezone"].as_str()), (Some("TIME"), Some("+00:00")));
    assert!(started_at["epoch_time"].as_f64() >= Some(before), "{started_at} is before {before}");
    let expected = json!({
        "id": job_id, "name": "Front pages", "seeds": ["https://news.example/", "https://other.example/a?b=c"],
        "tags": ["news", "daily"], "run_state": "pending", "completed_at": null, "duration": null, "item_count": 0,
        "http_success_count": 0, "http_error_count": 0, "exception_count": 0, "http_status_counts": {},
        "policy": without(policy(7, "News"), &["captcha_solver_id"]),
    });
    assert_eq!(job, expected);
    let mut frontier = rows(&mut client, "frontier");
    frontier.sort_by_key(|row| row["url"].to_string());
    let mut ids: Vec<Value> = frontier.iter_mut().map(|row| taken(row, "id")).collect();
    let expected = ["https://news.example/", "https://other.example/a?b=c"]
        .map(|url| json!({"job_id": job_id, "url": url, "cost": 0, "in_flight": false}));
    assert_eq!(frontier, expected);
    ids.dedup();
    assert!(ids.len() == 2 && ids.iter().all(|id| uuid::Uuid::parse_str(id.as_str().expect("text")).is_ok()));
}

#[test]
fn a_job_without_a_name_is_called_by_its_first_host() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    put(&mut client, "policy", &[policy(7, "News")]);
    for (name, seeds, expected) in [
        (None, &["https://News.Example:8080/a"][..], "news.example"),
        (Some(""), &["https://news.example/a"], "news.example"),
        (Some("  "), &["https://a.example/", "https://b.example/"], "a.example& 1 more"),
        (None, &["https://a.example/", "https://b.example/", "https://c.example/"], "a.example& 2 more"),
        (Some("Mine"), &["https://a.example/", "https://b.example/"], "Mine"),
    ] {
        let job_id = create(&mut client, RequestSetJob { name: name.map(str::to_owned), ..request(seeds) });
        assert_eq!(row(&mut client, "job", &job_id)["name"], expected);
    }
}

#[test]
fn the_solver_of_the_policy_goes_into_the_job() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    put(&mut client, "policy", &[with(policy(7, "News"), json!({"captcha_solver_id": uuid(8).to_string()}))]);
    let no_solver = "The CAPTCHA solver of the policy does not exist: choose another one there.";
    assert_eq!(client.refusal(set_job(request(&["https://news.example/"]))), no_solver);
    assert_eq!(rows(&mut client, "job"), [] as [Value; 0]);
    put(&mut client, "captcha_solver", &[solver(8, "Solver"), solver(9, "Other")]);
    let job_id = create(&mut client, request(&["https://news.example/"]));
    let mut expected = without(policy(7, "News"), &["captcha_solver_id"]);
    expected["captcha_solver"] = solver(8, "Solver");
    assert_eq!(row(&mut client, "job", &job_id)["policy"], expected);
    // A later change of the policy is no change of the job.
    put(&mut client, "policy", &[policy(7, "Newer")]);
    let get = proto::request::Command::GetJob(proto::RequestGetJob {
        job_id: uuid::Uuid::parse_str(&job_id).expect("an id").as_bytes().to_vec().into(),
    });
    let Some(Body::Job(job)) = client.request(get) else { panic!() };
    let policy = job.policy.expect("its policy");
    assert_eq!((policy.name(), policy.captcha_solver_id()), ("News", &id(8)[..]));
}

#[test]
fn what_is_missing_for_a_job_is_said_and_nothing_is_written() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    put(&mut client, "policy", &[policy(7, "News")]);
    let seeds = ["https://news.example/"];
    for (spoilt, text) in [
        (RequestSetJob::default(), "\"policy_id\" is required"),
        (RequestSetJob { policy_id: None, ..request(&seeds) }, "\"policy_id\" is required"),
        (RequestSetJob { policy_id: Some(vec![].into()), ..request(&seeds) }, "\"policy_id\" is required"),
        (request(&[]), "\"seeds\" is required"),
        (request(&["", "  "]), "\"seeds\" is required"),
        (
            RequestSetJob { policy_id: Some(vec![1; 4].into()), ..request(&seeds) },
            "Invalid policy_id: must be 16 bytes",
        ),
        (RequestSetJob { job_id: Some(vec![1; 4].into()), ..request(&seeds) }, "Invalid job_id: must be 16 bytes"),
        (
            RequestSetJob { policy_id: Some(id(6)), ..request(&seeds) },
            "No policy exists with ID=06060606-0606-0606-0606-060606060606",
        ),
        (request(&["news"]), "\"name\" is required: the first seed has no host to call the job by"),
    ] {
        assert_eq!(client.refusal(set_job(spoilt.clone())), text, "{spoilt:?}");
    }
    assert_eq!(rows(&mut client, "job"), [] as [Value; 0]);
    assert_eq!(rows(&mut client, "frontier"), [] as [Value; 0]);
}
