//! The one writer of a store: a thread that commits what was handed in, as much at a time as is waiting.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::{Store, StoreError, Unit, UnitResult};
use crate::change::{Change, Seq};
use crate::clock::Clock;

/// Learns what was committed, in order, after it is on disk and before whoever wrote it is told.
pub trait CommitObserver: Send {
    /// `changes` are on disk; `upto` is the newest position now. It runs on the writer's thread: no waiting here.
    fn committed(&mut self, changes: Vec<Change>, upto: Seq);
}

/// Bounds of the writer.
#[derive(Clone, Copy, Debug)]
pub struct WriterLimits {
    /// Bytes of mutations that may wait; more are refused.
    pub queue_bytes: usize,
    /// Bytes of mutations that go into one commit; the unit that goes beyond them is the last one in it.
    pub commit_bytes: usize,
}

/// How often the log is looked at for entries that are too old, if it is not anyway.
const RETENTION_INTERVAL: Duration = Duration::from_secs(10);

struct Job {
    unit: Unit,
    size: usize,
    reply: Reply,
}

/// Whoever waits for the result of a unit.
enum Reply {
    Alone(oneshot::Sender<Result<UnitResult, StoreError>>),
    /// It has this place in a group.
    InGroup(Arc<Group>, usize),
}

impl Reply {
    fn send(self, result: Result<UnitResult, StoreError>) {
        match self {
            // A receiver that is gone is a client that left: its write stands all the same.
            Self::Alone(sender) => drop(sender.send(result)),
            Self::InGroup(group, at) => group.put(at, result),
        }
    }
}

/// Units whose results are told together: to wake somebody for each costs more than to write it.
struct Group {
    state: Mutex<GroupState>,
}

struct GroupState {
    results: Vec<Option<Result<UnitResult, StoreError>>>,
    left: usize,
    told: Option<oneshot::Sender<Vec<Result<UnitResult, StoreError>>>>,
}

impl Group {
    fn new(units: usize) -> (Arc<Self>, SubmittedGroup) {
        let (told, results) = oneshot::channel();
        let state = GroupState { results: vec![None; units], left: units, told: Some(told) };
        (Arc::new(Self { state: Mutex::new(state) }), SubmittedGroup { units, results })
    }

    fn put(&self, at: usize, result: Result<UnitResult, StoreError>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.results[at] = Some(result);
        state.left -= 1;
        if state.left == 0
            && let Some(told) = state.told.take()
        {
            // As above, nobody may be waiting.
            let _ = told.send(state.results.drain(..).flatten().collect());
        }
    }
}

/// Resolves when a unit is on disk, or refused.
pub type Submitted = oneshot::Receiver<Result<UnitResult, StoreError>>;

/// Units that were handed in together.
#[derive(Debug)]
pub struct SubmittedGroup {
    /// How many.
    pub units: usize,
    /// Resolves to their results, in order, when each of them is on disk, or refused.
    pub results: oneshot::Receiver<Vec<Result<UnitResult, StoreError>>>,
}

impl SubmittedGroup {
    /// One unit, which nobody takes.
    fn refused(error: StoreError) -> Self {
        let (group, refused) = Group::new(1);
        group.put(0, Err(error));
        refused
    }
}

/// Makes `units` with their sizes a group, if there are any, whose `jobs` follow those before them.
fn grouped(units: &mut Vec<(Unit, usize)>, jobs: &mut Vec<Job>) -> Option<SubmittedGroup> {
    if units.is_empty() {
        return None;
    }
    let (group, submitted) = Group::new(units.len());
    let job = |(at, (unit, size))| Job { unit, size, reply: Reply::InGroup(Arc::clone(&group), at) };
    jobs.extend(units.drain(..).enumerate().map(job));
    Some(submitted)
}

/// Whoever hands in more at once gets the results of so many together.
const GROUP_UNITS_MAX: usize = 64;

/// Hands units to the writer; clones hand to the same one.
#[derive(Clone, Debug)]
pub struct WriteHandle {
    jobs: mpsc::Sender<Vec<Job>>,
    status: Arc<WriterStatus>,
    limits: WriterLimits,
}

/// What the writer is doing, for metrics.
#[derive(Debug, Default)]
pub struct WriterStatus {
    /// Bytes of mutations that wait.
    pub queued_bytes: AtomicUsize,
    /// Commits that wrote something.
    pub commits: AtomicUsize,
    /// Changes written.
    pub changes: AtomicUsize,
    /// Commits that the disk refused, and failures to write to the database what was committed.
    pub failures: AtomicUsize,
}

impl WriteHandle {
    /// Puts `unit` behind everything handed in before; the receiver resolves when it is on disk, or refused.
    pub fn submit(&self, unit: Unit) -> Result<Submitted, StoreError> {
        let size = self.admitted(&unit)?;
        let (reply, submitted) = oneshot::channel();
        self.jobs.send(vec![Job { unit, size, reply: Reply::Alone(reply) }]).map_err(|_| StoreError::Stopped)?;
        Ok(submitted)
    }

    /// The same for each of `units`, all at once: the writer does not begin with the first before it has the last. Where a receiver
    /// says that nothing comes, the writer is gone, and nobody knows what became of the group.
    pub fn submit_all(&self, units: Vec<Unit>) -> Vec<SubmittedGroup> {
        let (mut jobs, mut groups) = (Vec::with_capacity(units.len()), Vec::new());
        let mut together = Vec::new();
        for unit in units {
            match self.admitted(&unit) {
                Ok(size) => together.push((unit, size)),
                // It is refused already, and waits for no other.
                Err(error) => {
                    groups.extend(grouped(&mut together, &mut jobs));
                    groups.push(SubmittedGroup::refused(error));
                }
            }
            if together.len() == GROUP_UNITS_MAX {
                groups.extend(grouped(&mut together, &mut jobs));
            }
        }
        groups.extend(grouped(&mut together, &mut jobs));
        // Where the writer is gone, so are the replies, and the receivers tell.
        let _ = self.jobs.send(jobs);
        groups
    }

    /// The size of `unit`, if the queue has room for it.
    fn admitted(&self, unit: &Unit) -> Result<usize, StoreError> {
        let size = size_of::<Job>() + unit.iter().map(super::Mutation::size).sum::<usize>();
        let queued = self.status.queued_bytes.fetch_add(size, Ordering::Relaxed);
        // A unit larger than the whole queue may pass when nothing else waits.
        if queued > 0 && queued + size > self.limits.queue_bytes {
            self.status.queued_bytes.fetch_sub(size, Ordering::Relaxed);
            return Err(StoreError::Overloaded);
        }
        Ok(size)
    }

    /// What the writer is doing; it goes on without this handle.
    pub fn status(&self) -> Arc<WriterStatus> {
        Arc::clone(&self.status)
    }
}

/// The writer's thread. It ends when every [`WriteHandle`] is gone and what they handed in is committed.
#[derive(Debug)]
pub struct Writer {
    thread: JoinHandle<()>,
}

impl Writer {
    /// Starts the writer of `store`; `observer` learns of every commit.
    pub fn start(
        store: Store,
        clock: Clock,
        limits: WriterLimits,
        observer: impl CommitObserver + 'static,
    ) -> (Self, WriteHandle) {
        let (jobs, waiting) = mpsc::channel();
        let status = Arc::new(WriterStatus::default());
        let mut work = WriterLoop {
            settler: Settler::start(store.clone(), Arc::clone(&status)),
            store,
            clock,
            limits,
            observer,
            waiting,
            received: VecDeque::new(),
            status: Arc::clone(&status),
            full_until: None,
            refused: 0,
            retention_due: Instant::now() + RETENTION_INTERVAL,
        };
        let thread = crate::task::spawn_thread("store-writer", move || work.run());
        (Self { thread }, WriteHandle { jobs, status, limits })
    }

    /// Waits for the end of the thread: call it after the last [`WriteHandle`] is gone. A panic of the writer is passed on.
    pub fn join(self) {
        if let Err(panic) = self.thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
}

/// A thread that writes what is settling into the database, while the writer goes on.
struct Settler {
    wake: Option<mpsc::SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Settler {
    fn start(store: Store, status: Arc<WriterStatus>) -> Self {
        let (wake, woken) = mpsc::sync_channel(1);
        let thread = crate::task::spawn_thread("store-settler", move || {
            while woken.recv().is_ok() {
                if let Err(error) = store.settle() {
                    status.failures.fetch_add(1, Ordering::Relaxed);
                    tracing::error!(%error, "what is in the journal could not be written to the database");
                }
            }
        });
        Self { wake: Some(wake), thread: Some(thread) }
    }

    fn wake(&self) {
        if let Some(wake) = &self.wake {
            // It is full where the thread is about to look anyway.
            let _ = wake.try_send(());
        }
    }
}

impl Drop for Settler {
    fn drop(&mut self) {
        drop(self.wake.take());
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join)
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

struct WriterLoop<O> {
    settler: Settler,
    store: Store,
    clock: Clock,
    limits: WriterLimits,
    observer: O,
    waiting: mpsc::Receiver<Vec<Job>>,
    /// Received, and not committed yet.
    received: VecDeque<Job>,
    status: Arc<WriterStatus>,
    /// The disk was full a moment ago: until then writes are refused without trying it.
    full_until: Option<Instant>,
    /// Commits refused since one last succeeded.
    refused: u64,
    /// Until then nothing has to be done for what is too old.
    retention_due: Instant,
}

/// Each try on a full disk opens the store again, with readers waiting; so it is not tried for each write.
const FULL_DISK_PAUSE: Duration = Duration::from_millis(250);

impl<O: CommitObserver> WriterLoop<O> {
    fn run(&mut self) {
        loop {
            match self.waiting.recv_timeout(self.retention_due.saturating_duration_since(Instant::now())) {
                Ok(jobs) => self.commit_with_all_that_wait(jobs),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
            if self.retention_due <= Instant::now() {
                self.remove_what_is_too_old();
                self.retention_due = Instant::now() + RETENTION_INTERVAL;
            }
        }
    }

    /// Lets retention remove until there is nothing to remove, and has the journal begin anew.
    fn remove_what_is_too_old(&mut self) {
        loop {
            let removed = self.store.commit(self.clock.now(), &[]).and_then(|committed| {
                let trimmed = committed.trimmed;
                self.publish(committed.changes, committed.upto);
                Ok(self.store.checkpoint(self.clock.now())? || trimmed)
            });
            match removed {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    tracing::error!(%error, "the log cannot be trimmed, or what is in the journal cannot be settled");
                    return;
                }
            }
            if let Ok(jobs) = self.waiting.try_recv() {
                self.commit_with_all_that_wait(jobs);
            }
        }
    }

    fn commit_with_all_that_wait(&mut self, jobs: Vec<Job>) {
        self.received.extend(jobs);
        while !self.received.is_empty() {
            self.commit_next();
        }
    }

    /// Commits as much of what waits as goes into one commit.
    fn commit_next(&mut self) {
        let (mut units, mut replies) =
            (Vec::with_capacity(self.received.len()), Vec::with_capacity(self.received.len()));
        let mut bytes = 0;
        while let Some(job) = self.next_job() {
            bytes += job.size;
            self.status.queued_bytes.fetch_sub(job.size, Ordering::Relaxed);
            units.push(job.unit);
            replies.push(job.reply);
            if bytes >= self.limits.commit_bytes {
                break;
            }
        }
        self.commit(units, replies);
    }

    fn next_job(&mut self) -> Option<Job> {
        if self.received.is_empty() {
            self.received.extend(self.waiting.try_iter().flatten());
        }
        self.received.pop_front()
    }

    fn commit(&mut self, units: Vec<Unit>, replies: Vec<Reply>) {
        let result = if self.full_until.is_some_and(|until| Instant::now() < until) {
            Err(StoreError::DiskFull)
        } else {
            self.store.commit(self.clock.now(), &units)
        };
        match result {
            Ok(committed) => {
                self.succeeded();
                if committed.must_settle {
                    // With that, what is too old goes as well.
                    self.retention_due = Instant::now() + RETENTION_INTERVAL;
                    self.settler.wake();
                }
                self.publish(committed.changes, committed.upto);
                for (reply, result) in replies.into_iter().zip(committed.results) {
                    reply.send(Ok(result));
                }
            }
            Err(error) => {
                let error = self.failed(error);
                for reply in replies {
                    reply.send(Err(error.clone()));
                }
            }
        }
    }

    fn succeeded(&mut self) {
        self.full_until = None;
        if self.refused > 0 {
            tracing::info!(refused = self.refused, "writes work again");
            self.refused = 0;
        }
    }

    /// Returns the error for those who wanted to write.
    fn failed(&mut self, error: StoreError) -> StoreError {
        self.status.failures.fetch_add(1, Ordering::Relaxed);
        if self.refused == 0 {
            tracing::error!(%error, "a commit failed; writes are refused until one succeeds");
        }
        self.refused += 1;
        match error {
            StoreError::DiskFull => {
                let now = Instant::now();
                if self.full_until.is_none_or(|until| until <= now) {
                    self.full_until = Some(now + FULL_DISK_PAUSE);
                }
                StoreError::DiskFull
            }
            StoreError::Disk(text) => {
                // What is on disk all the same is visible to readers; nobody should wait for the next write to learn of it.
                if let Ok(committed) = self.store.commit(self.clock.now(), &[]) {
                    self.publish(committed.changes, committed.upto);
                }
                StoreError::Unconfirmed(text)
            }
            other => other,
        }
    }

    fn publish(&mut self, changes: Vec<Change>, upto: Seq) {
        if !changes.is_empty() {
            self.status.commits.fetch_add(1, Ordering::Relaxed);
            self.status.changes.fetch_add(changes.len(), Ordering::Relaxed);
            self.observer.committed(changes, upto);
        }
    }
}
