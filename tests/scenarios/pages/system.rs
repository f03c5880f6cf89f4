//! The page about the machine.

use starfeed::proto::{self, request::Command};

use super::{Browser, assert_time};
use crate::backend;
use crate::support::crawled::{job, put};
use crate::support::following::{self, assert_plausible, job_status, paths, resource_monitor, running, task_monitor};
use crate::support::raw::{RawClient, unsubscribe};

fn frame(browser: &mut Browser, subscription_id: i32) -> proto::ResourceFrame {
    following::frame(browser.event(subscription_id))
}

fn tree(browser: &mut Browser, subscription_id: i32) -> proto::TaskTree {
    following::tree(browser.event(subscription_id))
}

#[test]
fn the_page_shows_the_load_and_the_tasks_until_it_is_left() {
    let Some(server) = backend::server(&[]) else { return };
    let rows = [job(1, "running"), job(2, "paused")];
    put(&mut RawClient::connect(&server.address), "job", &rows);
    // A reload finds the same.
    for _ in 0..2 {
        let mut browser = Browser::open(&server);
        let (load, tasks) = (browser.subscribe(resource_monitor(Some(1))), browser.subscribe(task_monitor(5.0)));
        assert_eq!((load, tasks), (1, 2));
        let profile = proto::RequestPerformanceProfile {
            duration: Some(3.0),
            sort_by: Some("total_time".to_owned()),
            top_n: Some(20),
        };
        let text = browser.client.refusal(Command::PerformanceProfile(profile));
        assert!(text.starts_with("There is no profile of this server") && text.contains("--crawler"), "{text}");

        // Which comes first, nobody says.
        let mut other = Browser::open(&server);
        let of_other = other.subscribe(task_monitor(5.0));
        let root = tree(&mut other, of_other);
        assert_eq!(root.name(), "<Root>");
        let paths = paths(&root);
        assert!(paths.iter().any(|path| path.contains("subscription 1: ")), "{paths:#?}");

        let frame = frame(&mut browser, load);
        assert_time(frame.timestamp());
        assert_plausible(&frame);
        assert_eq!(frame.jobs, [running(1)]);

        for subscription in [load, tasks] {
            browser.tell(unsubscribe(subscription));
            let text = browser.client.refusal(unsubscribe(subscription));
            assert_eq!(text, format!("Unknown subscription_id: {subscription}"));
        }
    }
}

#[test]
fn the_past_comes_first_and_then_a_frame_each_second() {
    let Some(server) = backend::server(&[]) else { return };
    let mut browser = Browser::open(&server);
    let live = browser.subscribe(resource_monitor(Some(0)));
    let first = frame(&mut browser, live);
    let second = frame(&mut browser, live);
    assert!(first.timestamp() < second.timestamp());
    let all = browser.subscribe(resource_monitor(Some(300)));
    // What was there before it subscribed, in the order of time, and once.
    assert_eq!(frame(&mut browser, all).timestamp(), first.timestamp());
    assert_eq!(frame(&mut browser, all).timestamp(), second.timestamp());
    let newest = browser.subscribe(resource_monitor(Some(1)));
    assert!(frame(&mut browser, newest).timestamp() >= second.timestamp());
}

#[test]
fn the_tree_comes_at_once_and_again_after_each_period() {
    let Some(server) = backend::server(&[]) else { return };
    let mut browser = Browser::open(&server);
    let tasks = browser.subscribe(task_monitor(0.05));
    for _ in 0..3 {
        assert_eq!(tree(&mut browser, tasks).name(), "<Root>");
    }
}

#[test]
fn what_no_clock_can_do_is_refused_and_the_connection_goes_on() {
    let Some(server) = backend::server(&[]) else { return };
    let mut browser = Browser::open(&server);
    for (command, text) in [
        (job_status(0.0), "min_interval must be 0.05 to 3600 seconds."),
        (job_status(-1.0), "min_interval must be 0.05 to 3600 seconds."),
        (job_status(f64::NAN), "min_interval must be 0.05 to 3600 seconds."),
        (task_monitor(0.0), "period must be 0.05 to 3600 seconds."),
        (task_monitor(-1.0), "period must be 0.05 to 3600 seconds."),
        (resource_monitor(Some(-1)), "history must be ≥0."),
    ] {
        assert_eq!(browser.client.refusal(command), text);
    }
    // What was refused has no number.
    assert_eq!(browser.subscribe(task_monitor(5.0)), 1);
}
