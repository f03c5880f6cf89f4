//! The crawler: what it knows, and what others want of it. What it does is in [`work`].

mod work;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use futures_util::FutureExt;
use serde_json::Value;
use starfeed::change::Key;
use starfeed::client::{ClientError, Query, RowChange, Source, Subscriber, SubscriptionIndex, Update};
use tokio::time::{Instant, sleep_until};

use super::Arguments;
use super::job::Job;
use super::row::{Row, number, seconds, text, texts};
use super::sample;
use super::schedule::Course;
use super::server::Server;

/// Marks the jobs that this program has made, and may delete.
pub(crate) const TAG: &str = "simulated";

const JOBS: SubscriptionIndex = SubscriptionIndex(0);
const SCHEDULES: SubscriptionIndex = SubscriptionIndex(1);
const POLICIES: SubscriptionIndex = SubscriptionIndex(2);

/// How often it does what is due.
const TICK: Duration = Duration::from_millis(100);
/// How often it says what it has done.
const REPORT: Duration = Duration::from_secs(10);
/// Rows of the frontier that are kept in mind to be used again.
const SPARE_MAX: usize = 100;
/// Schedules wait while so many times the jobs run that are wanted.
const CROWD: usize = 2;

type Failure = Box<dyn std::error::Error>;

pub(crate) struct Crawler {
    arguments: Arguments,
    server: Server,
    subscriber: Subscriber,
    random: fastrand::Rng,
    /// The tables are filled, and the next number of a response is known; both have to be looked at again when the server is
    /// not the one of before.
    is_prepared: bool,
    /// Jobs that run without anybody who runs them were looked for.
    has_resumed: bool,
    /// By their ids. One stays until it is seen to be over.
    jobs: BTreeMap<String, Job>,
    /// All jobs, as they are in the database.
    seen: BTreeMap<String, Seen>,
    /// Jobs that were made, and not yet seen.
    asked: HashSet<String>,
    /// Jobs whose rows the server does not take back.
    unplayable: HashSet<String>,
    courses: HashMap<String, Course>,
    next_sequence: u64,
    /// Bodies that are in the database.
    bodies: HashSet<[u8; 16]>,
    /// Rows of the frontier that can be used again.
    spare: Vec<String>,
    /// Jobs that others have deleted while they were being written.
    deleted: HashSet<String>,
    again_deleted: Vec<String>,
    /// Schedules over whose change their count was written.
    overwritten: Vec<Row>,
    /// Downloads that are due: the part of one that is not yet.
    due: f64,
    ticked: Instant,
    reported: Instant,
    totals: Totals,
}

/// How a job stands in the database.
struct Seen {
    state: String,
    completed_at: f64,
    /// This program has made it, today or another day.
    is_simulated: bool,
}

#[derive(Clone, Copy, Default)]
struct Totals {
    downloads: u64,
    completed: u64,
    cancelled: u64,
    scheduled: u64,
}

impl Crawler {
    pub(crate) async fn connect(arguments: Arguments) -> Result<Self, ClientError> {
        let server = Server::connect(&arguments.url).await?;
        let subscriber = Subscriber::builder(&arguments.url)
            .subscribe(Query::table("job").with_documents())
            .subscribe(Query::table("schedule").with_documents())
            .subscribe(Query::new(Source::Policies))
            .connect()
            .await?;
        let now = Instant::now();
        let random = arguments.seed.map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed);
        Ok(Self {
            arguments,
            server,
            subscriber,
            random,
            is_prepared: false,
            has_resumed: false,
            jobs: BTreeMap::new(),
            seen: BTreeMap::new(),
            asked: HashSet::new(),
            unplayable: HashSet::new(),
            courses: HashMap::new(),
            next_sequence: 1,
            bodies: HashSet::new(),
            spare: Vec::new(),
            deleted: HashSet::new(),
            again_deleted: Vec::new(),
            overwritten: Vec::new(),
            due: 0.0,
            ticked: now,
            reported: now,
            totals: Totals::default(),
        })
    }

    /// Crawls until something cannot be helped.
    pub(crate) async fn run(&mut self) -> Failure {
        loop {
            if let Err(failure) = self.turn().await {
                return failure;
            }
        }
    }

    pub(crate) fn summary(&self) -> String {
        let Totals { downloads, completed, cancelled, scheduled } = self.totals;
        let running = self.jobs.values().filter(|job| job.is_running()).count();
        format!(
            "{running} jobs run; {downloads} downloads, {completed} jobs completed, {cancelled} cancelled, {scheduled} started \
             by schedules"
        )
    }

    async fn turn(&mut self) -> Result<(), Failure> {
        let due = self.ticked + TICK;
        tokio::select! {
            // What others want comes first.
            biased;
            update = self.subscriber.next() => {
                self.take(update?);
                return Ok(());
            }
            () = sleep_until(due) => {}
        }
        let now = Instant::now();
        let elapsed = now - std::mem::replace(&mut self.ticked, now);
        if [JOBS, SCHEDULES, POLICIES].iter().any(|index| !self.subscriber.view(*index).is_live()) {
            return Ok(());
        }
        if !self.is_prepared {
            self.prepare().await?;
            return Ok(());
        }
        self.take_up().await?;
        self.start_jobs().await?;
        self.follow_schedules().await?;
        // After a pause, what was due meanwhile is not made up for.
        self.due = (self.due + self.arguments.rate * elapsed.as_secs_f64()).min(self.arguments.rate.max(1.0));
        self.download().await?;
        self.repair().await?;
        self.delete_old().await?;
        if self.reported.elapsed() >= REPORT {
            self.reported = Instant::now();
            println!("{}", self.summary());
        }
        Ok(())
    }

    /// Takes what has come meanwhile.
    fn drain(&mut self) -> Result<(), ClientError> {
        while let Some(update) = self.subscriber.next().now_or_never() {
            self.take(update?);
        }
        Ok(())
    }

    fn take(&mut self, update: Update) {
        match update {
            Update::Row(JOBS, change) => self.take_job(&change),
            Update::Row(SCHEDULES, change) => self.take_schedule(&change),
            Update::Disconnected { error, retry_in } => {
                println!("{error}; next attempt in {:.1} s", retry_in.as_secs_f32());
            }
            Update::Reconnected => {
                println!("connected again");
                self.is_prepared = false;
                self.bodies.clear();
                self.asked.clear();
                self.courses.clear();
            }
            Update::Row(..) | Update::Status(..) | Update::Diverged(..) | Update::Closed { .. } => {}
        }
    }

    fn take_job(&mut self, change: &RowChange) {
        let Some(id) = change.key.as_text().map(str::to_owned) else { return };
        let (old, new) = (document(change.old.as_ref()), document(change.new.as_ref()));
        self.asked.remove(&id);
        let Some(new) = new else {
            self.seen.remove(&id);
            if let Some(job) = self.jobs.get(&id) {
                println!("{:?} was deleted", job.name());
                self.let_go(&id);
                self.deleted.insert(id);
            }
            return;
        };
        self.seen.insert(id.clone(), Seen::of(&new));
        match self.jobs.get_mut(&id) {
            Some(job) => {
                let was_cancelled = job.state() == "cancelled";
                job.adopt(&old.unwrap_or_default(), &new);
                if job.state() == "cancelled" && !was_cancelled {
                    println!("{:?} was cancelled", job.name());
                    self.totals.cancelled += 1;
                } else if !job.is_changed && job.state() == "completed" && text(&new, "run_state") == "completed" {
                    println!("{:?} is completed: {} items", job.name(), number(&new, "item_count"));
                    self.totals.completed += 1;
                    self.let_go(&id);
                }
            }
            // A write that was under way has brought it back.
            None if old.is_none() && self.deleted.remove(&id) => self.again_deleted.push(id),
            None => {}
        }
    }

    /// Only this program counts the jobs of a schedule, and changes nothing else of it: where something else is different
    /// now, somebody had changed it just before, and the count was written over that.
    fn take_schedule(&mut self, change: &RowChange) {
        let (Some(old), Some(new)) = (document(change.old.as_ref()), document(change.new.as_ref())) else { return };
        let is_own = number(&new, "job_count") == number(&old, "job_count") + 1;
        let mut restored = old;
        restored.insert("job_count".to_owned(), new["job_count"].clone());
        if is_own && restored != new {
            self.overwritten.push(restored);
        }
    }

    /// Has no more to do with a job.
    pub(crate) fn let_go(&mut self, job_id: &str) {
        if let Some(mut job) = self.jobs.remove(job_id) {
            self.spare.append(&mut job.spare);
            // What is left out goes with its job when that is deleted.
            self.spare.truncate(SPARE_MAX);
        }
        let course = self.courses.iter_mut().find(|(_, course)| course.job_id.as_deref() == Some(job_id));
        if let Some((schedule_id, course)) = course {
            let schedule = self.subscriber.view(SCHEDULES).get(&Key::text(schedule_id));
            course.finished(&document(schedule).unwrap_or_default(), Instant::now());
        }
    }

    async fn prepare(&mut self) -> Result<(), Failure> {
        sample::fill(&mut self.server).await?;
        let mut newest = 0;
        self.server
            .read("response", |row| {
                newest = newest.max(row.get("sequence").and_then(Value::as_u64).unwrap_or_default());
                false
            })
            .await?;
        self.next_sequence = self.next_sequence.max(newest + 1);
        self.is_prepared = true;
        Ok(())
    }
}

impl Seen {
    fn of(row: &Row) -> Self {
        Self {
            state: text(row, "run_state").to_owned(),
            completed_at: row.get("completed_at").and_then(seconds).unwrap_or_default(),
            is_simulated: texts(row, "tags").iter().any(|tag| tag == TAG),
        }
    }

    fn is_finished(&self) -> bool {
        matches!(self.state.as_str(), "completed" | "cancelled")
    }
}

/// What a subscription shows of a row: all but its secrets.
fn document(row: Option<&starfeed::client::Row>) -> Option<Row> {
    row?.document.as_ref()?.members()
}
