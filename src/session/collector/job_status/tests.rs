use serde_json::{Value, json};

use super::*;
use crate::change::{Cause, Change, Seq};
use crate::feed::Published;

const DAY_MS: u64 = 86_400_000;
const NOW_MS: u64 = 100 * DAY_MS;

struct World {
    status: JobStatus,
    rows: BTreeMap<Key, Document>,
    seq: u64,
}

fn key(number: u8) -> Key {
    Key::text(&format!("{number:02}000000-0000-4000-8000-000000000000"))
}

fn document(row: &Value) -> Document {
    Document::parse(row.to_string().as_bytes()).expect("an object")
}

fn time(ms: u64) -> Value {
    json!({"$reql_type$": "TIME", "epoch_time": ms / 1000, "timezone": "+00:00"})
}

fn running(items: i32) -> Value {
    json!({
        "name": "J", "seeds": ["http://a.example/"], "tags": [], "run_state": "running", "started_at": time(0), "completed_at": null,
        "item_count": items, "http_success_count": items, "http_error_count": 0, "exception_count": 0, "http_status_counts": {"200": items},
    })
}

fn ended(ms: u64) -> Value {
    let mut row = running(9);
    row["run_state"] = "completed".into();
    row["completed_at"] = time(ms);
    row
}

impl World {
    fn new() -> Self {
        let status = JobStatus::new(1000, Timestamp(NOW_MS - DAY_MS), Arc::default());
        Self { status, rows: BTreeMap::new(), seq: 0 }
    }

    fn there(&mut self, number: u8, row: &Value) {
        let document = document(row);
        self.status.row(&Row { key: key(number), version: Seq(0), document: document.clone() });
        self.rows.insert(key(number), document);
    }

    fn set(&mut self, number: u8, row: Option<&Value>) {
        self.seq += 1;
        let old = self.rows.remove(&key(number));
        let new = row.map(document);
        self.rows.extend(new.clone().map(|new| (key(number), new)));
        let kind = match (&old, &new) {
            (None, _) => ChangeKind::Added,
            (Some(_), Some(_)) => ChangeKind::Updated,
            (Some(_), None) => ChangeKind::Deleted,
        };
        let change = Change {
            seq: Seq(self.seq),
            table: Table::new("job"),
            key: key(number),
            old,
            old_version: Seq(0),
            new,
            time: Timestamp(0),
            cause: Cause::Write,
        };
        self.status.change(&SeenChange::Replayed(Published::new(change, &[]), kind));
    }

    /// The jobs of the event at `now_ms`, if there is one: the first byte of each id, its state and its items.
    fn event(&mut self, now_ms: u64) -> Option<Vec<(u8, JobRunState, i32)>> {
        let body = self.status.next_event(now_ms)?;
        let jobs = match body.map(|body| *body) {
            None => Vec::new(),
            Some(event::Body::JobList(JobList { jobs })) => jobs,
            Some(other) => panic!("{other:?}"),
        };
        let short = |job: &Job| (job.job_id[0], job.run_state(), job.item_count());
        Some(jobs.iter().map(short).collect())
    }
}

use JobRunState::{Completed, Deleted, Running};

#[test]
fn the_first_event_comes_when_all_jobs_are_known_and_later_ones_in_their_time() {
    let mut world = World::new();
    world.there(1, &running(1));
    assert_eq!(world.event(0), None, "there may be more");
    world.status.ready();
    assert_eq!(world.event(5), Some(vec![(0x01, Running, 1)]));
    assert_eq!(world.event(9999), None, "nothing has changed");
    world.set(1, Some(&running(2)));
    world.set(1, Some(&running(3)));
    assert_eq!(world.status.due_ms(), Some(1005));
    assert_eq!(world.event(1004), None);
    assert_eq!(world.event(1005), Some(vec![(0x01, Running, 3)]));
}

#[test]
fn without_jobs_the_first_event_comes_all_the_same() {
    let mut world = World::new();
    world.status.ready();
    assert_eq!(world.status.next_event(0), Some(None));
    assert_eq!(world.status.next_event(0), None);
}

#[test]
fn jobs_grow_old_without_being_deleted() {
    let mut world = World::new();
    world.there(1, &ended(NOW_MS - DAY_MS - 1000));
    world.there(2, &ended(NOW_MS - DAY_MS));
    world.status.ready();
    assert_eq!(world.event(0), Some(vec![(0x02, Completed, 9)]));
    // Nothing is said of the one that was never shown, whatever happens to it.
    world.set(1, Some(&json!({"run_state": "completed", "completed_at": time(0)})));
    world.set(1, None);
    assert_eq!(world.event(10_000), None);
    world.set(2, None);
    assert_eq!(world.event(10_000), Some(vec![(0x02, Deleted, -1)]));
}

#[test]
fn a_job_that_came_and_went_unseen_is_not_told_of() {
    let mut world = World::new();
    world.status.ready();
    world.event(0);
    world.set(1, Some(&running(1)));
    world.set(1, Some(&running(2)));
    world.set(1, None);
    assert_eq!(world.event(10_000), None);
    world.set(1, Some(&running(1)));
    assert_eq!(world.event(20_000), Some(vec![(0x01, Running, 1)]));
}

#[test]
fn a_job_that_is_made_anew_and_deleted_again_is_told_of() {
    let mut world = World::new();
    world.there(1, &running(1));
    world.status.ready();
    world.event(0);
    world.set(1, None);
    world.set(1, Some(&running(1)));
    world.set(1, None);
    assert_eq!(world.event(10_000), Some(vec![(0x01, Deleted, -1)]));
}

#[test]
fn what_nobody_sees_of_a_job_is_no_news() {
    let mut world = World::new();
    world.there(1, &running(1));
    world.status.ready();
    world.event(0);
    let mut row = running(1);
    row["duration"] = 7.into();
    world.set(1, Some(&row));
    assert_eq!(world.event(10_000), None);
}

#[test]
fn what_is_collected_is_bounded() {
    let mut world = World::new();
    world.status.ready();
    world.event(0);
    let mut row = running(1);
    row["name"] = "x".repeat(COLLECTED_BYTES / 2).into();
    world.set(1, Some(&row));
    assert_eq!(world.event(1), None);
    world.set(2, Some(&row));
    assert_eq!(world.event(1).map(|jobs| jobs.len()), Some(2), "too much to wait");
    assert_eq!(world.status.bytes, 0);
}
