//! What can be changed of a job that there is.

use serde_json::{Value, json};
use starfeed::proto::{JobRunState, RequestSetJob};

use crate::backend;
use crate::support::crawled::{ago, frontier, id, job, job_since, jobs_of, put, row, uuid, with};
use crate::support::jobs::{set_job, set_state};
use crate::support::raw::RawClient;

const MISSING: &str = "No job exists with ID=09090909-0909-0909-0909-090909090909";

fn stored(client: &mut RawClient, number: u8) -> Value {
    row(client, "job", &uuid(number).to_string())
}

#[test]
fn a_cancelled_job_has_ended_and_has_no_work_left() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    let started_at = ago(3600.0);
    for (number, state) in [(1, "running"), (2, "paused"), (3, "pending")] {
        let before = job_since(number, state, started_at);
        put(&mut client, "job", std::slice::from_ref(&before));
        put(&mut client, "frontier", &[frontier(0x10, number), frontier(0x11, number), frontier(0x12, 5)]);
        assert_eq!(client.request(set_state(number, JobRunState::Cancelled)), None);
        let after = stored(&mut client, number);
        let seconds = after["completed_at"]["epoch_time"].as_f64().expect("a time") - started_at;
        assert!((3600.0..4000.0).contains(&seconds), "{seconds}");
        let duration = after["duration"].as_f64().expect("a number");
        assert!((duration - seconds).abs() < 0.002, "{duration} is not {seconds}");
        let changed = json!({"run_state": "cancelled", "completed_at": after["completed_at"], "duration": duration});
        assert_eq!(after, with(before, changed), "nothing else is changed");
        assert_eq!(after["run_state"], "cancelled");
        assert_eq!(jobs_of(&mut client, "frontier"), [uuid(5).to_string()]);
        // Whoever asks twice gets what there is, and finishes what may have failed in the middle.
        put(&mut client, "frontier", &[frontier(0x10, number)]);
        assert_eq!(client.request(set_state(number, JobRunState::Cancelled)), None);
        assert_eq!(stored(&mut client, number), after);
        assert_eq!(jobs_of(&mut client, "frontier"), [uuid(5).to_string()]);
    }
}

#[test]
fn a_job_that_has_ended_is_not_cancelled() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    put(&mut client, "job", &[job(1, "completed")]);
    let text = "The job has ended already: it cannot be cancelled.";
    assert_eq!(client.refusal(set_state(1, JobRunState::Cancelled)), text);
    assert_eq!(stored(&mut client, 1), job(1, "completed"));
    assert_eq!(client.refusal(set_state(9, JobRunState::Cancelled)), MISSING);
}

#[test]
fn states_that_only_a_crawler_can_bring_about_are_refused() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    put(&mut client, "job", &[job(1, "running")]);
    let control = "Job control is not available on this server: jobs are paused and resumed by a crawler; name its address when you start starfeed (--crawler ws://HOST:PORT/)";
    for (state, text) in [
        (JobRunState::Running, control),
        (JobRunState::Paused, control),
        (JobRunState::Completed, "Not allowed to set job run state: 2"),
        (JobRunState::Pending, "Not allowed to set job run state: 4"),
        (JobRunState::Deleted, "Not allowed to set job run state: 6"),
    ] {
        for number in [1, 9] {
            assert_eq!(client.refusal(set_state(number, state)), text);
        }
    }
    assert_eq!(stored(&mut client, 1), job(1, "running"));
}

#[test]
fn tags_and_name_can_be_changed() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    put(&mut client, "job", &[job(1, "running")]);
    let request = |name: Option<&str>, tags: &[&str]| RequestSetJob {
        job_id: Some(id(1)),
        name: name.map(str::to_owned),
        tags: tags.iter().map(|&tag| tag.to_owned()).collect(),
        ..RequestSetJob::default()
    };
    for (request, name, tags) in [
        (request(None, &[" a ", "b", " "]), "Job 1", &["a", "b"][..]),
        (request(Some(" Mine "), &[]), "Mine", &["a", "b"]),
        (request(Some(""), &["c"]), "Mine", &["c"]),
        (request(Some("Yours"), &["d"]), "Yours", &["d"]),
        (request(None, &[]), "Yours", &[]),
        // No state that there is: as if none were sent.
        (RequestSetJob { run_state: Some(77), ..request(None, &["e"]) }, "Yours", &["e"]),
    ] {
        assert_eq!(client.request(set_job(request.clone())), None);
        let expected = with(job(1, "running"), json!({"name": name, "tags": tags}));
        assert_eq!(stored(&mut client, 1), expected, "{request:?}");
    }
    assert_eq!(client.refusal(set_job(RequestSetJob { job_id: Some(id(9)), ..request(None, &["a"]) })), MISSING);
}
