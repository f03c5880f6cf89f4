//! A job that runs.

use std::collections::VecDeque;

use serde_json::{Value, json};
use starfeed::change::Timestamp;
use uuid::Uuid;

use super::page::{Download, Outcome, download, link, origin};
use super::row::{Row, number, row, seconds, text, time};

/// Pages that are known and not yet downloaded are never more than this.
const FRONTIER_MAX: usize = 12;

/// A job, and what it has yet to download.
pub(crate) struct Job {
    pub(crate) id: String,
    /// The row as it is to be; what is in the database may lack what was done since.
    pub(crate) row: Row,
    /// It has to be written.
    pub(crate) is_changed: bool,
    waiting: VecDeque<Place>,
    in_flight: Option<Place>,
    /// Rows of the frontier that stand for nothing any more. No command deletes one, so they are used again.
    pub(crate) spare: Vec<String>,
    /// Pages it will have found in the end.
    pages: i64,
    found: i64,
}

/// A row of the frontier.
#[derive(Clone)]
struct Place {
    id: String,
    url: String,
    cost: f64,
}

/// What was done.
#[derive(Default)]
pub(crate) struct Step {
    pub(crate) download: Option<Download>,
    /// Rows that the frontier has now.
    pub(crate) frontier: Vec<Row>,
}

impl Job {
    /// Takes up the job of this row, with what the frontier has of it, and `spare` rows.
    pub(crate) fn begin(mut row: Row, frontier: Vec<Row>, spare: Vec<String>, random: &mut fastrand::Rng) -> Self {
        let cost = |row: &Row| row.get("cost").and_then(Value::as_f64).unwrap_or_default();
        let mut waiting: VecDeque<Place> = frontier
            .into_iter()
            .map(|row| Place { id: text(&row, "id").to_owned(), url: text(&row, "url").to_owned(), cost: cost(&row) })
            .collect();
        if waiting.is_empty() {
            let seeds = super::row::texts(&row, "seeds").into_iter();
            waiting.extend(seeds.map(|url| Place { id: fresh_id(), url, cost: 0.0 }));
        }
        let limit = row.get("policy").and_then(|policy| policy.get("limits")?.get("max_items")?.as_f64());
        let pages = random.i64(25..90).min(limit.filter(|limit| *limit >= 1.0).map_or(i64::MAX, |limit| limit as i64));
        row.insert("run_state".to_owned(), "running".into());
        let found = number(&row, "item_count") + waiting.len() as i64;
        let id = text(&row, "id").to_owned();
        Self { id, row, is_changed: true, waiting, in_flight: None, spare, pages, found }
    }

    pub(crate) fn name(&self) -> &str {
        text(&self.row, "name")
    }

    pub(crate) fn state(&self) -> &str {
        text(&self.row, "run_state")
    }

    pub(crate) fn is_running(&self) -> bool {
        self.state() == "running"
    }

    /// Finishes one download and begins the next; a job with neither is completed.
    pub(crate) fn step(&mut self, random: &mut fastrand::Rng, now: Timestamp) -> Step {
        let mut step = Step::default();
        if let Some(place) = self.in_flight.take() {
            let done = download(place.url.clone(), place.cost, random);
            self.count(&done);
            self.spare.push(place.id.clone());
            self.find(&place, random, &mut step);
            step.download = Some(done);
        }
        match self.waiting.pop_front() {
            Some(place) => {
                step.frontier.push(place.row(&self.id, true));
                self.in_flight = Some(place);
            }
            None => self.complete(now),
        }
        step
    }

    /// The links of a page that was downloaded.
    fn find(&mut self, page: &Place, random: &mut fastrand::Rng, step: &mut Step) {
        // Who has nothing else to do finds something, until the end.
        let links = random.usize(usize::from(self.waiting.is_empty())..4);
        for _ in 0..links {
            if self.found >= self.pages || self.waiting.len() >= FRONTIER_MAX {
                return;
            }
            self.found += 1;
            let id = self.spare.pop().unwrap_or_else(fresh_id);
            let place = Place { id, url: link(origin(&page.url), random), cost: page.cost + 1.0 };
            step.frontier.push(place.row(&self.id, false));
            self.waiting.push_back(place);
        }
    }

    fn count(&mut self, done: &Download) {
        let mut more = |member: &str| {
            let count = number(&self.row, member) + 1;
            self.row.insert(member.to_owned(), count.into());
        };
        more("item_count");
        match done.outcome {
            Outcome::Exception(_) => more("exception_count"),
            Outcome::Response { status, is_success, .. } => {
                more(if is_success { "http_success_count" } else { "http_error_count" });
                let counts = self.row.entry("http_status_counts").or_insert_with(|| json!({}));
                let status = status.to_string();
                let count = counts.get(&status).and_then(Value::as_i64).unwrap_or_default();
                if let Value::Object(counts) = counts {
                    counts.insert(status, (count + 1).into());
                }
            }
        }
        self.is_changed = true;
    }

    fn complete(&mut self, now: Timestamp) {
        let started_at = self.row.get("started_at").and_then(seconds);
        let duration = started_at.map(|started_at| (now.0 as f64 / 1000.0 - started_at).max(0.0));
        self.row.insert("run_state".to_owned(), "completed".into());
        self.row.insert("completed_at".to_owned(), time(now));
        self.row.insert("duration".to_owned(), duration.into());
        self.is_changed = true;
    }

    /// Takes over what somebody else has written: `new` over `old`. What was written here meanwhile, and has the row as it was
    /// before, is put right by writing it again.
    pub(crate) fn adopt(&mut self, old: &Row, new: &Row) {
        if text(new, "run_state") == "cancelled" && self.state() != "cancelled" {
            self.take_members(new, &["run_state", "completed_at", "duration"]);
        }
        // Only this program counts, and makes jobs run: such a change is not somebody else's.
        let is_own = number(old, "item_count") != number(new, "item_count")
            || (text(new, "run_state") != "cancelled" && old.get("run_state") != new.get("run_state"));
        if !is_own && ["name", "tags"].iter().any(|member| old.get(*member) != new.get(*member)) {
            self.take_members(new, &["name", "tags"]);
        }
    }

    fn take_members(&mut self, from: &Row, members: &[&str]) {
        for member in members {
            self.row.insert((*member).to_owned(), from.get(*member).cloned().unwrap_or_default());
        }
        self.is_changed = true;
    }
}

impl Place {
    fn row(&self, job_id: &str, in_flight: bool) -> Row {
        let Self { id, url, cost } = self;
        row(json!({"id": id, "job_id": job_id, "url": url, "cost": cost, "in_flight": in_flight}))
    }
}

pub(crate) fn fresh_id() -> String {
    Uuid::new_v4().to_string()
}
