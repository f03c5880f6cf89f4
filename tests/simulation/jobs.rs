//! A crawler that downloads for jobs, and two who follow it: one takes each download once, one keeps a list of the jobs.

use std::collections::BTreeMap;

use bytes::Bytes;
use starfeed::change::{Document, Key, Table};
use starfeed::proto::{self, JobRunState, event, request::Command};
use starfeed::store::{Mutation, Unit};
use starfeed::wire::{End, News};
use uuid::Uuid;

use super::model::{DOWNLOADS, Model};
use super::server::Truth;
use super::world::World;
use crate::support::crawled::{id, job, response, uuid, with};

pub(crate) const JOBS: &str = "job";

/// Jobs beside each other; the next one takes the place of one that is finished.
const JOBS_AT_ONCE: u8 = 2;

/// What the crawler knows of its jobs.
#[derive(Debug, Default)]
pub(super) struct Crawler {
    running: Vec<u8>,
    next_job: u8,
    next_download: u64,
}

/// The number of a job as rows have it.
fn job_text(number: u8) -> String {
    uuid(number).to_string()
}

fn job_key(number: u8) -> Key {
    Key::text(&job_text(number))
}

impl World {
    /// The crawler goes on: begins a job, downloads, finishes or deletes one.
    pub(super) fn crawl(&mut self) {
        if self.crawler.running.len() < usize::from(JOBS_AT_ONCE) && self.crawler.next_job < 200 {
            self.crawler.next_job += 1;
            let number = self.crawler.next_job;
            self.write_job(number, "running", vec![]);
            if self.model.row(JOBS, &job_key(number)).is_some() {
                self.crawler.running.push(number);
            }
            return;
        }
        let Some(&number) = self.rng.choice(&self.crawler.running) else { return };
        match self.rng.u8(0..24) {
            0 => self.write_job(number, "completed", vec![]),
            1 => drop(self.commit(&[vec![Mutation::delete(Table::new(JOBS), job_key(number))]])),
            2 | 3 => self.write_job(number, "running", vec![]),
            4..8 => {
                let downloads = self.downloads(number);
                self.write_job(number, "running", downloads);
            }
            // Often the counts come later, and what comes for all jobs at once is one commit.
            _ => {
                let units: Vec<Unit> =
                    self.crawler.running.clone().into_iter().map(|job| self.downloads(job)).collect();
                // A refusal by the disk is counted there.
                let _ = self.commit(&units);
            }
        }
        // Whatever the disk said: what counts is what is stored.
        if is_finished(&self.model, number) {
            self.count("a job was finished");
            self.crawler.running.retain(|running| *running != number);
        } else if self.model.row(JOBS, &job_key(number)).is_none() {
            self.count("a job was deleted");
            self.crawler.running.retain(|running| *running != number);
        }
    }

    /// As a crawler does, whatever becomes of them: a number is never used again.
    fn downloads(&mut self, job: u8) -> Unit {
        (0..self.rng.u64(1..4)).map(|_| self.download(job)).collect()
    }

    fn download(&mut self, job: u8) -> Mutation {
        self.crawler.next_download += 1;
        let sequence = self.crawler.next_download;
        let document = response(sequence, job).to_string();
        let key = Key::number(sequence as f64);
        Mutation::put(Table::new(DOWNLOADS), key, Document::parse(document.as_bytes()).expect("an object"))
    }

    /// Writes the row of a job as it is after `downloads`, together with them.
    fn write_job(&mut self, number: u8, run_state: &str, mut downloads: Unit) {
        let count = self.model.downloads(&job_text(number)).len() + downloads.len();
        let row = with(job(number, run_state), serde_json::json!({"item_count": count})).to_string();
        let row = Document::parse(row.as_bytes()).expect("an object");
        downloads.push(Mutation::put(Table::new(JOBS), job_key(number), row));
        // A refusal by the disk is counted there.
        let _ = self.commit(&[downloads]);
    }

    /// Another history has none of its jobs.
    pub(super) fn forget_jobs(&mut self) {
        self.crawler.running.clear();
    }

    /// A job that somebody may want to follow; sometimes one that is not there.
    pub(super) fn any_job(&mut self) -> u8 {
        self.rng.u8(0..=self.crawler.next_job)
    }
}

/// One who takes what a job downloads, over all connections.
#[derive(Debug)]
pub(crate) struct SyncReader {
    job: u8,
    received: usize,
    /// What it sends to go on.
    token: Option<Bytes>,
}

impl SyncReader {
    pub(crate) fn new(job: u8) -> Self {
        Self { job, received: 0, token: None }
    }

    pub(crate) fn command(&self) -> Command {
        Command::SubscribeJobSync(proto::RequestSubscribeJobSync {
            job_id: id(self.job),
            sync_token: self.token.clone(),
            compression_ok: None,
        })
    }

    /// Takes an event; says whether it was the last one, and what there is to count.
    pub(crate) fn take(&mut self, news: &News, truth: Truth<'_>) -> Option<&'static str> {
        let all = truth.model.downloads(&job_text(self.job));
        match news {
            News::Body(Some(body)) => {
                let event::Body::SyncItem(item) = body.as_ref() else { panic!("{body:?} in a sync") };
                let sequence = u64::from_le_bytes(item.token[1..].try_into().expect("eight bytes"));
                let next = all.get(self.received);
                assert_eq!(next, Some(&sequence), "item {} of job {}", self.received, self.job);
                let url = item.item.url.as_deref();
                assert_eq!(url, Some(format!("https://site.example/{sequence}").as_str()), "another item's content");
                self.received += 1;
                self.token = Some(item.token.clone());
                None
            }
            News::Closed { end: End::Complete, .. } => {
                assert_eq!(self.received, all.len(), "job {} ended before its last item", self.job);
                assert!(is_finished(truth.model, self.job), "job {} is not finished", self.job);
                Some("a sync reached the end of its job")
            }
            News::Closed { message, .. } => {
                assert_eq!(message.as_deref(), Some("the job was deleted"));
                assert!(truth.model.row(JOBS, &job_key(self.job)).is_none(), "job {} is there", self.job);
                Some("a sync lost its job")
            }
            news => panic!("{news:?} in a sync"),
        }
    }

    pub(crate) fn is_begun(&self) -> bool {
        self.token.is_some()
    }

    /// What it may be told instead of a subscription.
    pub(crate) fn check_refused(&self, text: &str, truth: Truth<'_>) {
        assert!(truth.model.row(JOBS, &job_key(self.job)).is_none(), "{text}, but job {} is there", self.job);
    }

    /// Nothing more comes and it was not ended: it has everything, and the job goes on.
    pub(crate) fn check_converged(&self, model: &Model) {
        assert_eq!(self.received, model.downloads(&job_text(self.job)).len(), "items of job {} are missing", self.job);
        assert!(!is_finished(model, self.job), "job {} is finished, and nobody said so", self.job);
    }
}

fn is_finished(model: &Model, job: u8) -> bool {
    model.row(JOBS, &job_key(job)).is_some_and(|row| member(&row.document, "run_state") == "completed")
}

fn member(document: &Document, name: &str) -> serde_json::Value {
    document.members().and_then(|mut members| members.remove(name)).unwrap_or_default()
}

/// One who keeps a list of the jobs by what job status tells.
#[derive(Debug, Default)]
pub(crate) struct StatusReader {
    jobs: BTreeMap<Bytes, proto::Job>,
}

impl StatusReader {
    pub(crate) fn command() -> Command {
        Command::SubscribeJobStatus(proto::RequestSubscribeJobStatus { min_interval: Some(0.05) })
    }

    /// Takes an event; says whether it was the last one.
    pub(crate) fn take(&mut self, news: &News) -> bool {
        let body = match news {
            News::Body(body) => body,
            News::Closed { message, .. } => {
                assert!(message.is_some(), "job status has no good end");
                return true;
            }
            news => panic!("{news:?} in job status"),
        };
        let Some(event::Body::JobList(list)) = body.as_deref() else {
            assert!(body.is_none(), "{body:?} in job status");
            return false;
        };
        for job in &list.jobs {
            if job.run_state() == JobRunState::Deleted {
                assert!(self.jobs.remove(&job.job_id).is_some(), "a job that nobody knew is gone");
                continue;
            }
            let before = self.jobs.insert(job.job_id.clone(), job.clone());
            let went_back = before.is_some_and(|before| before.item_count > job.item_count);
            assert!(!went_back, "a job has fewer items than before: {job:?}");
        }
        false
    }

    /// Nothing more comes: it knows what there is.
    pub(crate) fn check_converged(&self, model: &Model) {
        let known: BTreeMap<String, (i32, bool)> = self
            .jobs
            .values()
            .map(|job| {
                let id = Uuid::from_slice(&job.job_id).expect("an id").to_string();
                (id, (job.item_count(), job.run_state() == JobRunState::Completed))
            })
            .collect();
        let there: BTreeMap<String, (i32, bool)> = model
            .now(JOBS)
            .iter()
            .map(|row| {
                let count = member(&row.document, "item_count").as_i64().expect("a count");
                let is_completed = member(&row.document, "run_state") == "completed";
                (row.key.to_string(), (i32::try_from(count).expect("few"), is_completed))
            })
            .collect();
        assert_eq!(known, there, "the list of jobs");
    }
}
