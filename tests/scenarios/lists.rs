//! Every list in pages: seven rows, five at a time.

use serde_json::{Value, json};
use starfeed::json::binary;
use starfeed::proto::{self, request::Command, response::Body};

use crate::backend;
use crate::support::crawled::{NOON, id, job_since, policy, put, schedule, solver, success, uuid, with};
use crate::support::jobs::{list_schedule_jobs, page};
use crate::support::raw::RawClient;

/// A request for a page of five.
type Ask = fn(proto::Page) -> Command;

/// What tells the rows of a list from each other, in their order, and the total.
fn names(body: Option<Body>) -> (Vec<String>, Option<i32>) {
    fn all<T>(rows: &[T], name: impl Fn(&T) -> &str) -> Vec<String> {
        rows.iter().map(|row| name(row).to_owned()).collect()
    }
    match body.expect("a list") {
        Body::ListPolicies(list) => (all(&list.policies, |row| row.name()), list.total),
        Body::ListSchedules(list) => (all(&list.schedules, |row| row.schedule_name()), list.total),
        Body::ListDomainLogins(list) => (all(&list.logins, |row| row.domain()), list.total),
        Body::ListCaptchaSolvers(list) => (all(&list.solvers, |row| row.name()), list.total),
        Body::ListRateLimits(list) => (all(&list.rate_limits, |row| row.domain()), list.total),
        Body::ListJobs(list) => (all(&list.jobs, |row| row.name()), list.total),
        Body::ListScheduleJobs(list) => (all(&list.jobs, |row| row.name()), list.total),
        Body::ListItems(list) => (all(&list.items, |row| row.url()), list.total),
        body => panic!("{body:?}"),
    }
}

/// The row called `name` of each table; it is the one with this number, too.
fn rows(number: u8, name: &str) -> [(&'static str, Value); 7] {
    let login = json!({"domain": name, "login_url": "https://login.example/", "users": []});
    let limit = json!({"token": binary(&[number; 16]), "name": format!("domain:{name}"), "delay": 1});
    let started_at = NOON - f64::from(name.as_bytes()[0]);
    let of_schedule = json!({"name": name, "schedule_id": uuid(5).to_string()});
    let item = with(success(u64::from(name.as_bytes()[0]), 1, 1), json!({"url": name}));
    [
        ("policy", policy(number, name)),
        ("schedule", schedule(number, name, 7)),
        ("domain_login", login),
        ("captcha_solver", solver(number, name)),
        ("rate_limit", limit),
        ("job", with(job_since(number, "completed", started_at), of_schedule)),
        ("response", item),
    ]
}

#[test]
fn seven_rows_are_a_page_of_five_and_one_of_two() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    // Neither in the order of their keys nor in the one in which they are written.
    for (number, name) in (1..).zip(["d", "a", "g", "c", "f", "b", "e"]) {
        for (table, row) in rows(number, name) {
            put(&mut client, table, &[row]);
        }
    }
    let lists: [Ask; 8] = [
        |page| Command::ListPolicies(proto::RequestListPolicies { page: Some(page) }),
        |page| Command::ListSchedules(proto::RequestListSchedules { page: Some(page) }),
        |page| Command::ListDomainLogins(proto::RequestListDomainLogins { page: Some(page) }),
        |page| Command::ListCaptchaSolvers(proto::RequestListCaptchaSolvers { page: Some(page) }),
        |page| Command::ListRateLimits(proto::RequestListRateLimits { page: Some(page) }),
        |page| Command::ListJobs(proto::RequestListJobs { page: Some(page), ..Default::default() }),
        |page| list_schedule_jobs(id(5), Some(page)),
        |page| {
            Command::GetJobItems(proto::RequestGetJobItems {
                job_id: id(1),
                include_success: Some(true),
                page: Some(page),
                ..Default::default()
            })
        },
    ];
    for list in lists {
        let mut at = |limit, offset| names(client.request(list(page(limit, offset).expect("a page"))));
        let (first, second) = (at(5, 0), at(5, 5));
        assert_eq!((first.0.join(""), first.1), ("abcde".to_owned(), Some(7)));
        assert_eq!((second.0.join(""), second.1), ("fg".to_owned(), Some(7)));
        assert_eq!(at(5, 10), (vec![], Some(7)));
        assert_eq!(at(0, 0), (vec![], Some(7)));
        assert_eq!(at(100, 0).0.join(""), "abcdefg");
        assert_eq!(client.refusal(list(page(-1, 0).expect("a page"))), "Page limit must be ≥0.");
        assert_eq!(client.refusal(list(page(1, -1).expect("a page"))), "Page offset must be ≥0.");
    }
}
