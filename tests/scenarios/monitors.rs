//! The load of the machine, and what the server does.

use std::collections::BTreeSet;

use starfeed::proto::{self, ResourceFrame, request::Command};

use crate::backend;
use crate::support::crawled::{job, put, uuid};
use crate::support::following::{
    assert_plausible, frame, job_status, next_frame, next_tree, paths, resource_monitor, running, sync, task_monitor,
};
use crate::support::raw::{RawClient, set_login, subscribe_logins, unsubscribe};
use crate::support::told::until_live;

#[test]
fn frames_of_the_past_come_first_then_those_of_now() {
    let Some(server) = backend::server(&[]) else { return };
    let mut first = RawClient::connect(&server.address);
    let id = first.subscribe(resource_monitor(None));
    let frames: Vec<ResourceFrame> = (0..3).map(|_| next_frame(&mut first, id)).collect();
    frames.iter().for_each(assert_plausible);
    let times: Vec<&str> = frames.iter().map(ResourceFrame::timestamp).collect();
    assert!(times.is_sorted_by(|one, other| one < other), "{times:?}");
    // Who comes later gets those that there were, and goes on with the same ones.
    let mut late = RawClient::connect(&server.address);
    let id_late = late.subscribe(resource_monitor(None));
    let history: Vec<ResourceFrame> = (0..4).map(|_| next_frame(&mut late, id_late)).collect();
    let times_late: Vec<&str> = history.iter().map(ResourceFrame::timestamp).collect();
    assert_eq!(times_late[..3], times);
    assert_eq!(next_frame(&mut first, id).timestamp(), times_late[3]);
    // As many as were asked for.
    let id_short = late.subscribe(resource_monitor(Some(2)));
    let shown: Vec<ResourceFrame> = std::iter::repeat_with(|| late.event())
        .filter(|event| event.subscription_id == id_short)
        .map(|event| frame(event.body))
        .take(3)
        .collect();
    let newest = next_frame(&mut first, id);
    assert!(shown[0].timestamp() >= times_late[2] && shown[0].timestamp() < newest.timestamp());
    assert!(shown.is_sorted_by(|one, other| one.timestamp() < other.timestamp()));
}

#[test]
fn without_a_history_only_what_is_new_comes() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    let watching = client.subscribe(resource_monitor(Some(0)));
    let first = next_frame(&mut client, watching);
    assert_plausible(&first);
    let mut other = RawClient::connect(&server.address);
    let id = other.subscribe(resource_monitor(Some(0)));
    let next = next_frame(&mut other, id);
    assert!(next.timestamp() > first.timestamp(), "{} after {}", next.timestamp(), first.timestamp());
}

#[test]
fn the_jobs_that_run_are_named() {
    let Some(server) = backend::server(&[]) else { return };
    let mut crawler = RawClient::connect(&server.address);
    let states = ["pending", "running", "paused", "cancelled", "completed"];
    let rows: Vec<_> = (0..).zip(states).map(|(number, state)| job(number, state)).collect();
    put(&mut crawler, "job", &rows);
    let mut client = RawClient::connect(&server.address);
    let id = client.subscribe(resource_monitor(Some(0)));
    let jobs = next_frame(&mut client, id).jobs;
    assert_eq!(jobs, [running(1)]);
    put(&mut crawler, "job", &[job(0, "running"), job(1, "completed")]);
    let mut told = next_frame(&mut client, id).jobs;
    while told == jobs {
        told = next_frame(&mut client, id).jobs;
    }
    if told.len() == 2 || told.is_empty() {
        // One of the two may be seen before the other.
        told = next_frame(&mut client, id).jobs;
    }
    assert_eq!(told, [running(0)]);
}

#[test]
fn a_history_and_a_period_that_make_no_sense_are_refused() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    for history in [-1, i32::MIN] {
        assert_eq!(client.refusal(resource_monitor(Some(history))), "history must be ≥0.");
    }
    for seconds in [0.0, -1.0, 0.049, 3601.0, f64::NAN, f64::INFINITY] {
        assert_eq!(client.refusal(task_monitor(seconds)), "period must be 0.05 to 3600 seconds.");
    }
    assert_eq!(server.metric("starfeed_subscriptions"), 0.0);
    client.subscribe(resource_monitor(Some(i32::MAX)));
    client.subscribe(task_monitor(3600.0));
    assert_eq!(server.metric("starfeed_subscriptions"), 2.0);
}

#[test]
fn the_tree_names_connections_with_their_subscriptions_and_comes_again() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    put(&mut client, "job", &[job(0, "running")]);
    client.request(set_login("a.example", "A"));
    let id = client.subscribe(task_monitor(0.05));
    let first = next_tree(&mut client, id);
    assert_eq!(first.name(), "<Root>");
    let first = paths(&first);
    assert!(first.iter().any(|name| name.ends_with("/subscription 0: tasks, live")), "{first:?}");
    let mut other = RawClient::connect(&server.address);
    other.subscribe(subscribe_logins());
    other.subscribe(sync(0, None));
    other.subscribe(job_status(1.0));
    other.event();
    other.event();
    until_live(&server, 2);
    // It comes again by itself, with what is there then.
    let shown = |names: &BTreeSet<String>| {
        let of_other = |what: &str| {
            names.iter().filter(|name| name.contains("/connection 1 from 127.0.0.1:") && name.ends_with(what)).count()
        };
        [
            of_other("/subscription 0: domain_login, live"),
            of_other(&format!("/subscription 1: items of job {}, live", uuid(0))),
            of_other("/subscription 2: job, live"),
        ]
    };
    let mut names = paths(&next_tree(&mut client, id));
    // What was made before is still on its way.
    for _ in 0..400 {
        if shown(&names) == [1, 1, 1] {
            break;
        }
        names = paths(&next_tree(&mut client, id));
    }
    assert_eq!(shown(&names), [1, 1, 1], "{names:#?}");
    assert!(names.iter().any(|name| name.contains("/connections: ")), "{names:#?}");
    assert!(
        names.iter().any(|name| name.contains("/feeds: ") && name.contains("/domain_login: 1 live ")),
        "{names:#?}"
    );
    assert!(names.iter().any(|name| name.contains("/store: ")), "{names:#?}");
    // Those that have ended are no longer in it.
    put(&mut client, "job", &[job(0, "completed")]);
    other.request(unsubscribe(0));
    for _ in 0..400 {
        if shown(&names) == [0, 0, 1] {
            break;
        }
        names = paths(&next_tree(&mut client, id));
    }
    assert_eq!(shown(&names), [0, 0, 1], "{names:#?}");
    client.request(unsubscribe(id));
    assert_eq!(client.refusal(unsubscribe(id)), format!("Unknown subscription_id: {id}"));
}

#[test]
fn the_tree_comes_at_once_however_long_the_period_is() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    let id = client.subscribe(task_monitor(3600.0));
    assert_eq!(next_tree(&mut client, id).name(), "<Root>");
    // Without one it is 3 seconds.
    let id = client.subscribe(Command::SubscribeTaskMonitor(proto::RequestSubscribeTaskMonitor::default()));
    assert_eq!(next_tree(&mut client, id).name(), "<Root>");
}
