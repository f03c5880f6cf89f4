//! How jobs get on: what has changed of them, at most so often.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use super::{Collector, EventBody};
use crate::catalog;
use crate::change::{ChangeKind, Document, Key, Row, Table, Timestamp};
use crate::feed::SeenChange;
use crate::metrics::Metrics;
use crate::planted::PlantedBug;
use crate::proto::{Job, JobList, JobRunState, event};
use crate::view::key_id;

/// What is collected goes out before its time when it is as large as this.
const COLLECTED_BYTES: usize = 64 * 1024;

/// Collects jobs that are not finished, or were not when `since` was; a job that is older by then never appears, and one that becomes
/// so does not disappear.
#[derive(Debug)]
pub(in crate::session) struct JobStatus {
    interval_ms: u64,
    since: Timestamp,
    metrics: Arc<Metrics>,
    collected: BTreeMap<Key, Collected>,
    bytes: usize,
    /// All jobs that are there were collected: the first event can go.
    is_ready: bool,
    /// When the next event may go; `None` before the first one.
    due_ms: Option<u64>,
}

#[derive(Debug)]
struct Collected {
    job: Job,
    /// The client does not know it yet.
    is_new: bool,
}

impl JobStatus {
    pub(in crate::session) fn new(interval_ms: u64, since: Timestamp, metrics: Arc<Metrics>) -> Self {
        Self { interval_ms, since, metrics, collected: BTreeMap::new(), bytes: 0, is_ready: false, due_ms: None }
    }

    /// Whether it is a job that the client is told of.
    fn is_current(&self, document: &Document) -> bool {
        catalog::job_completed_at(document).is_none_or(|completed_at| completed_at >= self.since)
    }

    fn shown(&self, key: &Key, document: &Document) -> Option<Job> {
        let table = || Table::new("job");
        match catalog::shown_job(key, document) {
            Ok(shown) => {
                if let Some(problem) = &shown.problem {
                    self.metrics.row_problems.report(&table(), key, problem);
                }
                Some(shown.value)
            }
            Err(problem) => {
                self.metrics.row_problems.report(&table(), key, &problem);
                None
            }
        }
    }

    fn put(&mut self, key: Key, job: Job, is_new: bool) {
        self.bytes += job.encoded_len();
        let before = self.collected.insert(key.clone(), Collected { job, is_new });
        if let (Some(before), Some(now)) = (before, self.collected.get_mut(&key)) {
            self.bytes -= before.job.encoded_len();
            now.is_new = before.is_new;
        }
    }

    fn forget(&mut self, key: &Key) -> Option<Collected> {
        let collected = self.collected.remove(key)?;
        self.bytes -= collected.job.encoded_len();
        Some(collected)
    }

    fn is_full(&self) -> bool {
        self.bytes >= COLLECTED_BYTES
    }
}

impl Collector for JobStatus {
    fn row(&mut self, row: &Row) {
        if self.is_current(&row.document)
            && let Some(job) = self.shown(&row.key, &row.document)
        {
            self.put(row.key.clone(), job, true);
        }
    }

    fn change(&mut self, change: &SeenChange) {
        let kind = change.kind();
        let change = change.published().change();
        let key = &change.key;
        if kind == ChangeKind::Deleted {
            let was_known = change.old.as_ref().is_some_and(|old| self.is_current(old));
            let is_unsent = self.forget(key).is_some_and(|collected| collected.is_new);
            if was_known
                && !PlantedBug::StatusForgetsDeletions.is_planted()
                && !is_unsent
                && let Ok(id) = key_id(key)
            {
                let job_id = Bytes::copy_from_slice(id.as_bytes());
                let job = Job { job_id, run_state: Some(JobRunState::Deleted.into()), ..Job::default() };
                self.put(key.clone(), job, false);
            }
            return;
        }
        let Some(document) = change.new.as_ref().filter(|new| self.is_current(new)) else { return };
        let Some(job) = self.shown(key, document) else { return };
        // What nobody sees of a job may change often.
        let old = change.old.as_ref().filter(|_| kind == ChangeKind::Updated);
        let is_same = old.is_some_and(|old| {
            catalog::shown_job(key, old).is_ok_and(|shown| shown.value == job) && self.is_current(old)
        });
        if !is_same || self.collected.contains_key(key) {
            self.put(key.clone(), job, kind == ChangeKind::Added);
        }
    }

    fn ready(&mut self) {
        self.is_ready = true;
    }

    fn next_event(&mut self, now_ms: u64) -> Option<EventBody> {
        let is_time = match self.due_ms {
            None => self.is_ready,
            Some(due_ms) => now_ms >= due_ms && !self.collected.is_empty(),
        };
        if !is_time && !self.is_full() {
            return None;
        }
        self.due_ms = Some(now_ms.saturating_add(self.interval_ms));
        self.bytes = 0;
        let jobs: Vec<Job> = std::mem::take(&mut self.collected).into_values().map(|collected| collected.job).collect();
        // An event without jobs has no body at all: clients know it so.
        Some((!jobs.is_empty()).then(|| Box::new(event::Body::JobList(JobList { jobs }))))
    }

    fn due_ms(&self) -> Option<u64> {
        self.due_ms.filter(|_| !self.collected.is_empty())
    }
}

#[cfg(test)]
mod tests;
