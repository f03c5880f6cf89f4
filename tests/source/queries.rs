//! Queries as the database sees them, and what goes wrong with them: only the scripted database can tell.

use serde_json::json;
use starfeed::change::{Key, Table};
use starfeed::store::Mutation;

use super::queried::Queried;
use crate::support::process::eventually;
use crate::support::reql::fault::{Ending, Poison};

fn open() -> Queried {
    Queried::open().expect("it is always there")
}

fn deletes(table: &str, rows: usize) -> Vec<Mutation> {
    (0..rows).map(|at| Mutation::delete(Table::new(table), Key::text(&format!("{at:03}")))).collect()
}

#[test]
fn many_rows_are_deleted_by_few_queries() {
    let queried = open();
    (0..450).for_each(|at| queried.put("frontier", &json!({"id": format!("{at:03}")})));
    queried.setup.database.forget_queries();
    queried.source.write(deletes("frontier", 450)).expect("it is written").expect("nothing is refused");
    let queries = queried.setup.database.queries();
    assert_eq!(queries.iter().filter(|query| query.contains("[54,")).count(), 3, "200 at a time");
    assert_eq!(queried.rows("frontier").len(), 0);
}

#[test]
fn a_deletion_that_is_done_in_part_says_how_much() {
    let queried = open();
    (0..250).for_each(|at| queried.put("frontier", &json!({"id": format!("{at:03}")})));
    queried.setup.database.set_faults(|faults| faults.unavailable_key = Some("230".into()));
    let text = queried.source.write(deletes("frontier", 250)).expect_err("one is not available");
    assert!(text.contains("249 of 250 rows were written"), "{text}");
    assert_eq!(queried.rows("frontier").len(), 1);
    queried.setup.database.heal();
    queried.source.write(deletes("frontier", 250)).expect("it is written").expect("nothing is refused");
    assert_eq!(queried.rows("frontier").len(), 0);
}

#[test]
fn a_change_elsewhere_wakes_nobody() {
    let queried = open();
    let mut changes = queried.source.changes("response", "job_sync", vec!["j".into()]);
    queried.source.next(&mut changes);
    let mut others = queried.source.changes("response", "job_sync", vec!["k".into()]);
    queried.source.next(&mut others);
    queried.put("response", &json!({"sequence": 1, "job_id": "k"}));
    // Its feed was opened later, and is heard of later.
    queried.source.next(&mut others);
    assert!(!queried.source.has_next(&mut changes));
}

#[test]
fn watchers_of_one_part_have_one_feed_and_those_of_none_have_none() {
    let queried = open();
    let of = |job: &str| queried.source.changes("response", "job_sync", vec![job.into()]);
    let mut watchers: Vec<_> = ["j", "j", "j", "k", "k"].into_iter().map(of).collect();
    watchers.iter_mut().for_each(|watcher| queried.source.next(watcher));
    assert_eq!(queried.setup.open_feeds(), ["response", "response"]);
    watchers.truncate(1);
    eventually("nobody waits for the other job", || queried.setup.open_feeds() == ["response"]);
    drop(watchers);
    eventually("nobody waits", || queried.setup.open_feeds().is_empty());
    let mut again = of("j");
    queried.source.next(&mut again);
    assert_eq!(queried.setup.open_feeds(), ["response"]);
}

#[test]
fn those_who_come_and_go_leave_nothing_behind() {
    let queried = open();
    for _ in 0..500 {
        drop(queried.source.changes("response", "job_sync", vec!["j".into()]));
    }
    let mut last = queried.source.changes("response", "job_sync", vec!["j".into()]);
    queried.source.next(&mut last);
    eventually("there is one feed", || queried.setup.open_feeds() == ["response"]);
    queried.put("response", &json!({"sequence": 1, "job_id": "j"}));
    queried.source.next(&mut last);
    drop(last);
    eventually("there is none", || queried.setup.open_feeds().is_empty());
}

#[test]
fn a_feed_that_ends_wakes_and_wakes_again_when_there_is_another() {
    let queried = open();
    let mut changes = queried.source.changes("response", "job_sync", vec!["j".into()]);
    queried.source.next(&mut changes);
    for ending in [Some(Ending::Close), Some(Ending::Reset), None] {
        queried.setup.database.set_faults(|faults| faults.feeds_to_refuse = 3);
        match ending {
            Some(ending) => queried.setup.database.cut(ending),
            None => queried.setup.database.abort_feeds("response"),
        }
        queried.source.next(&mut changes);
        // What is written meanwhile is seen by who reads after the next one.
        queried.source.next(&mut changes);
        eventually("there is a feed", || queried.setup.open_feeds() == ["response"]);
        while queried.source.has_next(&mut changes) {}
        queried.put("response", &json!({"sequence": 1, "job_id": "j", "ending": format!("{ending:?}")}));
        queried.source.next(&mut changes);
    }
}

#[test]
fn whoever_waits_is_woken_from_time_to_time_while_there_is_no_feed() {
    let queried = open();
    queried.setup.database.set_faults(|faults| faults.feeds_to_refuse = usize::MAX);
    let mut changes = queried.source.changes("response", "job_sync", vec!["j".into()]);
    assert!(!queried.source.has_next(&mut changes));
    queried.source.next(&mut changes);
    queried.source.next(&mut changes);
    assert_eq!(queried.setup.open_feeds(), [""; 0]);
    queried.setup.database.heal();
    eventually("there is a feed", || queried.setup.open_feeds() == ["response"]);
}

#[test]
fn what_a_feed_says_wakes_whatever_it_is() {
    let queried = open();
    let mut changes = queried.source.changes("response", "job_sync", vec!["j".into()]);
    queried.source.next(&mut changes);
    queried.setup.database.overflow("response", 7);
    queried.source.next(&mut changes);
    queried.setup.database.poison("response", &Poison::NotAnObject(json!(7)));
    queried.source.next(&mut changes);
    assert_eq!(queried.setup.open_feeds(), ["response"]);
}
