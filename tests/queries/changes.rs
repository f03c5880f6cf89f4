//! Wake-ups for those who read a part of an index again.

use serde_json::{Value, json};

use crate::queried::Queried;

fn item(sequence: u32, job: &str) -> Value {
    json!({"sequence": sequence, "job_id": job})
}

#[test]
fn whoever_waits_is_woken_by_each_kind_of_change() {
    let Some(queried) = Queried::open() else { return };
    let mut changes = queried.source.changes("response", "job_sync", vec!["j".into()]);
    // It is open.
    queried.source.next(&mut changes);
    queried.put("response", &item(1, "j"));
    queried.source.next(&mut changes);
    queried.put("response", &json!({"sequence": 1, "job_id": "j", "url": "changed"}));
    queried.source.next(&mut changes);
    queried.put("response", &item(1, "other"));
    queried.source.next(&mut changes);
}

#[test]
fn whoever_comes_later_shares_the_feed_and_reads_at_once() {
    let Some(queried) = Queried::open() else { return };
    let mut first = queried.source.changes("rate_limit", "name", Vec::new());
    queried.source.next(&mut first);
    let mut second = queried.source.changes("rate_limit", "name", Vec::new());
    assert!(queried.source.has_next(&mut second), "the feed is open");
    assert!(!queried.source.has_next(&mut second), "and nothing has changed");
    queried.put("rate_limit", &json!({"token": "a", "name": "b"}));
    queried.source.next(&mut first);
    queried.source.next(&mut second);
    drop(first);
    queried.put("rate_limit", &json!({"token": "a", "name": "c"}));
    queried.source.next(&mut second);
}

#[test]
fn one_value_of_an_index_of_one_member_can_be_waited_for() {
    let Some(queried) = Queried::open() else { return };
    let mut changes = queried.source.changes("rate_limit", "name", vec!["b".into()]);
    queried.source.next(&mut changes);
    queried.put("rate_limit", &json!({"token": "a", "name": "b"}));
    queried.source.next(&mut changes);
}
