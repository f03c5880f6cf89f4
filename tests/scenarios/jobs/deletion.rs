//! Deleting a job with all that is only its own.

use serde_json::{Value, json};
use starfeed::proto::{self, request::Command};

use crate::backend;
use crate::support::crawled::{body, failed, frontier, job, jobs_of, put, rows, success, uuid, with};
use crate::support::jobs::{delete_job, get_job};
use crate::support::raw::RawClient;

#[test]
fn a_job_goes_with_its_responses_and_its_work_but_not_with_bodies() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    for (number, state) in [(1, "completed"), (2, "cancelled")] {
        put(&mut client, "job", &[job(number, state), job(5, "completed")]);
        put(&mut client, "response", &[success(1, number, 1), failed(2, number), success(3, 5, 1)]);
        put(&mut client, "response_body", &[body(1, b"shared", false)]);
        put(&mut client, "frontier", &[frontier(1, number), frontier(2, number), frontier(3, 5)]);
        assert_eq!(client.request(delete_job(number)), None);
        assert_eq!(client.refusal(get_job(number)), format!("No job exists with ID={}", uuid(number)));
        assert_eq!(rows(&mut client, "job"), [job(5, "completed")]);
        assert_eq!(rows(&mut client, "response"), [success(3, 5, 1)]);
        assert_eq!(rows(&mut client, "response_body"), [body(1, b"shared", false)]);
        assert_eq!(rows(&mut client, "frontier"), [frontier(3, 5)]);
        assert_eq!(client.refusal(delete_job(number)), format!("No job exists with ID={}", uuid(number)));
    }
}

#[test]
fn a_job_that_has_not_ended_stays() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    for state in ["running", "paused", "pending"] {
        put(&mut client, "job", &[job(1, state)]);
        put(&mut client, "response", &[success(1, 1, 1)]);
        assert_eq!(client.refusal(delete_job(1)), "Can only delete cancelled or completed jobs.");
        assert_eq!(rows(&mut client, "job"), [job(1, state)]);
        assert_eq!(rows(&mut client, "response").len(), 1);
    }
    let wrong = Command::DeleteJob(proto::RequestDeleteJob { job_id: vec![1; 3].into() });
    assert_eq!(client.refusal(wrong), "Invalid job_id: must be 16 bytes");
}

#[test]
fn a_job_may_have_thousands_of_responses() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    put(&mut client, "job", &[job(1, "completed"), job(2, "completed")]);
    let responses: Vec<Value> =
        (1..=2500).map(|sequence| failed(sequence, if sequence % 50 == 0 { 2 } else { 1 })).collect();
    put(&mut client, "response", &responses);
    let work = |number: u16| with(frontier(0, 1), json!({"id": format!("{number:04}")}));
    let work: Vec<Value> = (0..1200).map(work).collect();
    put(&mut client, "frontier", &work);
    assert_eq!(client.request(delete_job(1)), None);
    assert_eq!(jobs_of(&mut client, "response"), vec![uuid(2).to_string(); 50]);
    assert_eq!(jobs_of(&mut client, "frontier"), [] as [String; 0]);
    assert_eq!(rows(&mut client, "job"), [job(2, "completed")]);
}
