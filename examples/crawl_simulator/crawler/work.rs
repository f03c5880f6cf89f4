//! What a crawler does: it takes up jobs, downloads, starts what schedules want, and tidies up.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use starfeed::change::Key;
use starfeed::clock::Clock;
use starfeed::proto::request::Command;
use starfeed::proto::response::Body;
use starfeed::proto::{JobRunState, RequestDeleteJob, RequestSetJob};
use tokio::time::Instant;
use uuid::Uuid;

use super::{CROWD, Crawler, Failure, POLICIES, SCHEDULES, TAG, document};
use crate::job::Job;
use crate::row::{Row, number, text, texts, time};
use crate::sample::{IDEAS, Idea, ScheduledJob};
use crate::schedule::{Course, job_name};

impl Crawler {
    /// Lets jobs run that wait for a crawler: pending ones, whoever has made them, and at first also those that an earlier
    /// run has left.
    pub(super) async fn take_up(&mut self) -> Result<(), Failure> {
        let has_resumed = std::mem::replace(&mut self.has_resumed, true);
        let waits = |state: &str| state == "pending" || (state == "running" && !has_resumed);
        let is_free = |id: &String| !self.jobs.contains_key(id) && !self.unplayable.contains(id);
        let ids: BTreeSet<String> =
            self.seen.iter().filter(|(id, seen)| waits(&seen.state) && is_free(id)).map(|(id, _)| id.clone()).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let rows = self.server.read("job", |row| ids.contains(text(row, "id"))).await?;
        let mut frontier = self.server.read("frontier", |row| ids.contains(text(row, "job_id"))).await?;
        // What happened until here is known, and what happens from here on comes to a job that is known.
        self.drain()?;
        for row in rows {
            let id = text(&row, "id").to_owned();
            if !self.seen.get(&id).is_some_and(|seen| waits(&seen.state)) {
                continue;
            }
            let (own, others) = frontier.into_iter().partition(|row| text(row, "job_id") == id);
            frontier = others;
            let mut job = Job::begin(row, own, std::mem::take(&mut self.spare), &mut self.random);
            if let Err(refusal) = self.server.put("job", [job.row.clone()]).await {
                println!("{:?} cannot run: {refusal}", job.name());
                self.let_go(&id);
                self.unplayable.insert(id);
                continue;
            }
            println!("{:?} runs", job.name());
            job.is_changed = false;
            self.jobs.insert(id, job);
        }
        Ok(())
    }

    /// Makes a job as a user would, where there are too few.
    pub(super) async fn start_jobs(&mut self) -> Result<(), Failure> {
        let is_own =
            |job: &&Job| !job.row.contains_key("schedule_id") && texts(&job.row, "tags").iter().any(|it| it == TAG);
        let own = self.jobs.values().filter(is_own).count() + self.asked.len();
        let mut policies: Vec<Uuid> =
            self.subscriber.view(POLICIES).rows().filter_map(|(key, _)| Uuid::try_parse(key.as_text()?).ok()).collect();
        policies.sort_unstable();
        // No two jobs at a time crawl the same, as long as there are other ideas.
        let is_taken = |idea: &&Idea| self.jobs.values().any(|job| texts(&job.row, "seeds") == idea.seeds);
        let (taken, free): (Vec<&Idea>, Vec<&Idea>) = IDEAS.iter().partition(is_taken);
        let ideas = if free.is_empty() { taken } else { free };
        if own >= self.arguments.jobs || policies.is_empty() {
            return Ok(());
        }
        let policy = policies[self.random.usize(..policies.len())];
        let idea = ideas[self.random.usize(..ideas.len())];
        let request = RequestSetJob {
            policy_id: Some(Bytes::copy_from_slice(policy.as_bytes())),
            seeds: idea.seeds.iter().map(|seed| (*seed).to_owned()).collect(),
            name: Some(idea.name.to_owned()),
            tags: vec![idea.tag.to_owned(), TAG.to_owned()],
            ..Default::default()
        };
        match self.server.ask(Command::SetJob(request)).await {
            Ok(Some(Body::NewJob(job))) => self.asked.extend(Uuid::from_slice(&job.job_id).map(|id| id.to_string())),
            Ok(_) => {}
            // The policy may be gone by now.
            Err(refusal) => println!("no new job: {refusal}"),
        }
        Ok(())
    }

    /// Starts a job of a schedule, if one is due.
    pub(super) async fn follow_schedules(&mut self) -> Result<(), Failure> {
        let now = Instant::now();
        let view = self.subscriber.view(SCHEDULES);
        self.courses.retain(|id, _| view.get(&Key::text(id)).is_some());
        let mut due = Vec::new();
        let mut schedules: Vec<Row> = view.rows().filter_map(|(_, row)| document(Some(row))).collect();
        schedules.sort_by(|a, b| text(a, "id").cmp(text(b, "id")));
        for schedule in schedules {
            let course = self.courses.entry(text(&schedule, "id").to_owned());
            let course = course.or_insert_with(|| Course::begin(now, &mut self.random));
            if course.is_due(&schedule, self.arguments.speed, now) {
                due.push(schedule);
            }
        }
        let running = self.jobs.values().filter(|job| job.is_running()).count();
        if due.is_empty() || running >= CROWD * self.arguments.jobs.max(1) {
            return Ok(());
        }
        let schedule = due.swap_remove(self.random.usize(..due.len()));
        self.start_scheduled(&schedule).await
    }

    async fn start_scheduled(&mut self, schedule: &Row) -> Result<(), Failure> {
        let id = text(schedule, "id");
        let now = Clock.now();
        let policy = self.server.read_one("policy", text(schedule, "policy_id")).await?;
        let Some(policy) = policy else {
            println!("{:?} has no policy any more", text(schedule, "schedule_name"));
            self.courses.insert(id.to_owned(), Course::begin(Instant::now(), &mut self.random));
            return Ok(());
        };
        let solver = match text(&policy, "captcha_solver_id") {
            "" => None,
            solver_id => self.server.read_one("captcha_solver", solver_id).await?,
        };
        let name = job_name(text(schedule, "job_name"), number(schedule, "job_count") + 1, now);
        let job = ScheduledJob::new(schedule, &name, policy, solver, time(now));
        if let Some(course) = self.courses.get_mut(id) {
            course.started(job.id.clone(), Instant::now());
        }
        self.server.put("frontier", job.frontier).await?;
        self.server.put("job", [job.row]).await?;
        self.totals.scheduled += 1;
        println!("{:?} starts {name:?}", text(schedule, "schedule_name"));
        self.drain()?;
        if let Some(mut schedule) = document(self.subscriber.view(SCHEDULES).get(&Key::text(id))) {
            let count = number(&schedule, "job_count") + 1;
            schedule.insert("job_count".to_owned(), count.into());
            self.server.put("schedule", [schedule]).await?;
        }
        Ok(())
    }

    /// Does the downloads that are due. Whoever sees a number sees what it counts: bodies are written first, jobs last.
    pub(super) async fn download(&mut self) -> Result<(), Failure> {
        let mut running: Vec<String> =
            self.jobs.values().filter(|job| job.is_running()).map(|job| job.id.clone()).collect();
        if running.is_empty() {
            self.due = 0.0;
        }
        let now = Clock.now();
        let (mut bodies, mut responses) = (Vec::new(), Vec::new());
        let mut frontier: BTreeMap<String, Row> = BTreeMap::new();
        while self.due >= 1.0 && !running.is_empty() {
            let at = self.random.usize(..running.len());
            let job = self.jobs.get_mut(&running[at]).expect("a job that runs is known");
            let step = job.step(&mut self.random, now);
            if let Some(download) = step.download {
                let (response, body) = download.rows(&job.id, self.next_sequence, now);
                self.next_sequence += 1;
                self.totals.downloads += 1;
                self.due -= 1.0;
                responses.push(response);
                if let Some(body) = body.filter(|body| self.bodies.insert(body.id)) {
                    bodies.push(body.row);
                }
            }
            frontier.extend(step.frontier.into_iter().map(|row| (text(&row, "id").to_owned(), row)));
            if !job.is_running() {
                running.swap_remove(at);
            }
        }
        self.server.put("response_body", bodies).await?;
        self.server.put("response", responses).await?;
        self.server.put("frontier", frontier.into_values()).await?;
        self.write_jobs().await
    }

    /// Writes the jobs that are different from what is in the database.
    async fn write_jobs(&mut self) -> Result<(), Failure> {
        // What somebody has just cancelled is not written over.
        self.drain()?;
        let changed = |job: &&mut Job| job.is_changed;
        let mut rows = Vec::new();
        let mut cancelled = Vec::new();
        for job in self.jobs.values_mut().filter(changed) {
            job.is_changed = false;
            rows.push(job.row.clone());
            if job.state() == "cancelled" {
                cancelled.push(job.id.clone());
            }
        }
        self.server.put("job", rows).await?;
        // Nothing of this program is under way that would let it run again.
        cancelled.iter().for_each(|id| self.let_go(id));
        Ok(())
    }

    /// Writes what others have changed just before this program wrote over it.
    pub(super) async fn repair(&mut self) -> Result<(), Failure> {
        self.server.put("schedule", std::mem::take(&mut self.overwritten)).await?;
        for id in std::mem::take(&mut self.again_deleted) {
            let Some(job_id) = id_bytes(&id) else { continue };
            let run_state = Some(JobRunState::Cancelled.into());
            let cancel = RequestSetJob { job_id: Some(job_id.clone()), run_state, ..Default::default() };
            // It may be cancelled already, or gone: both are as wanted.
            let _ = self.server.ask(Command::SetJob(cancel)).await;
            let _ = self.server.ask(Command::DeleteJob(RequestDeleteJob { job_id })).await;
        }
        Ok(())
    }

    /// Deletes the oldest finished job of this program, if it has too many.
    pub(super) async fn delete_old(&mut self) -> Result<(), Failure> {
        let old = |(id, seen): &(&String, &super::Seen)| {
            seen.is_simulated && seen.is_finished() && !self.jobs.contains_key(*id)
        };
        let finished: Vec<_> = self.seen.iter().filter(old).collect();
        if finished.len() <= self.arguments.keep {
            return Ok(());
        }
        let oldest = finished.iter().min_by(|(_, a), (_, b)| a.completed_at.total_cmp(&b.completed_at));
        if let Some(job_id) = oldest.and_then(|(id, _)| id_bytes(id)) {
            // Somebody else may have deleted it just now.
            let _ = self.server.ask(Command::DeleteJob(RequestDeleteJob { job_id })).await;
        }
        Ok(())
    }
}

fn id_bytes(id: &str) -> Option<Bytes> {
    Uuid::try_parse(id).ok().map(|id| Bytes::copy_from_slice(id.as_bytes()))
}
