//! Subscriptions that follow no table: what a job downloads, and what the server does.

mod job_sync;
mod tasks;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use job_sync::JobSync;
use tasks::Tasks;

use super::{Read, Reader, SessionContext, Work};
use crate::catalog::{Answer, JobSyncPlan, Plan, Reply};
use crate::feed::Waiting;
use crate::source::SourceError;
use crate::store::{PageBudget, QueryResult};
use crate::subscription::{Listing, Permit};
use crate::wire::{Event, News, ServerMessage};

/// Subscriptions that have ended and that their client may still end; of more than that the oldest are forgotten.
const FINISHED_MAX: usize = 1024;

/// The subscriptions of a session that follow no table.
#[derive(Debug)]
pub(super) struct Streams {
    waiting: Arc<Waiting>,
    listing: Arc<Listing>,
    syncs: BTreeMap<i32, JobSync>,
    tasks: BTreeMap<i32, Tasks>,
    /// The one that had its turn last: the next ones come first.
    last: i32,
    /// Items come before trees this time.
    is_turn_of_items: bool,
    /// The look that is under way, and its next step if that is not being done.
    look: Option<Look>,
    finished: BTreeSet<i32>,
    now_ms: u64,
}

/// One look at what a job has downloaded.
struct Look {
    subscription_id: i32,
    step: Option<Box<Plan>>,
    /// Makes the answer of what is being read.
    answer: Option<Box<dyn FnOnce(QueryResult) -> Answer + Send>>,
}

impl fmt::Debug for Look {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Look({})", self.subscription_id)
    }
}

impl Streams {
    pub(super) fn new(waiting: Arc<Waiting>, listing: Arc<Listing>) -> Self {
        Self {
            waiting,
            listing,
            syncs: BTreeMap::new(),
            tasks: BTreeMap::new(),
            last: -1,
            is_turn_of_items: false,
            look: None,
            finished: BTreeSet::new(),
            now_ms: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.syncs.len() + self.tasks.len()
    }

    pub(super) fn add_sync(&mut self, subscription_id: i32, plan: JobSyncPlan, permit: Permit) {
        self.syncs.insert(subscription_id, JobSync::new(plan, permit));
    }

    pub(super) fn add_tasks(&mut self, subscription_id: i32, period_ms: u64, permit: Permit) {
        self.tasks.insert(subscription_id, Tasks::new(period_ms, self.now_ms, permit));
    }

    /// Ends a subscription; says whether there was one, be it one that has ended by itself.
    pub(super) fn remove(&mut self, subscription_id: i32) -> bool {
        self.listing.remove(subscription_id);
        self.syncs.remove(&subscription_id).is_some()
            || self.tasks.remove(&subscription_id).is_some()
            || self.finished.remove(&subscription_id)
    }

    pub(super) fn tick(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        self.syncs.values_mut().for_each(|sync| sync.tick(now_ms));
    }

    /// When it wants to be told the time, in milliseconds of the session's clock.
    pub(super) fn due_ms(&self) -> Option<u64> {
        let tasks = self.tasks.values().map(Tasks::due_ms);
        tasks.chain(self.syncs.values().filter_map(JobSync::due_ms)).min()
    }

    /// Something may have happened to what a subscription watches.
    pub(super) fn changed(&mut self, subscription_id: i32) {
        if let Some(sync) = self.syncs.get_mut(&subscription_id) {
            sync.wake();
        }
    }

    /// The next event, if there is one now.
    pub(super) fn next_event(&mut self, context: &SessionContext) -> Option<ServerMessage> {
        // For a client that is slow, a tree is due again before it has taken the one before.
        if self.is_turn_of_items {
            self.next_item().or_else(|| self.next_tree(context))
        } else {
            self.next_tree(context).or_else(|| self.next_item())
        }
    }

    /// The tree that is due for the longest time.
    fn next_tree(&mut self, context: &SessionContext) -> Option<ServerMessage> {
        let (&subscription_id, tasks) = self.tasks.iter_mut().min_by_key(|(_, tasks)| tasks.due_ms())?;
        let body = tasks.next_event(self.now_ms, context)?;
        self.is_turn_of_items = true;
        Some(message(subscription_id, News::Body(Some(body))))
    }

    fn next_item(&mut self) -> Option<ServerMessage> {
        let (subscription_id, news) = self.in_turn(|_, sync| sync.next_news())?;
        self.is_turn_of_items = false;
        if matches!(news, News::Closed { .. }) {
            self.end(subscription_id);
        }
        Some(message(subscription_id, news))
    }

    /// What the first subscription that has something has, and which that is; each has its turn.
    fn in_turn<T>(&mut self, mut ask: impl FnMut(i32, &mut JobSync) -> Option<T>) -> Option<(i32, T)> {
        let (later, earlier) = ((Bound::Excluded(self.last), Bound::Unbounded), ..=self.last);
        let ids: Vec<i32> = self.syncs.range(later).chain(self.syncs.range(earlier)).map(|(&id, _)| id).collect();
        let found = ids.into_iter().find_map(|id| Some((id, ask(id, self.syncs.get_mut(&id)?)?)))?;
        self.last = found.0;
        Some(found)
    }

    fn end(&mut self, subscription_id: i32) {
        self.syncs.remove(&subscription_id);
        self.listing.remove(subscription_id);
        self.finished.insert(subscription_id);
        if self.finished.len() > FINISHED_MAX {
            self.finished.pop_first();
        }
    }

    /// What is to be done for the subscriptions now.
    pub(super) fn next_work(&mut self, budget: PageBudget, bytes_max: usize) -> Option<Work> {
        if let Some((_, watch)) = self.in_turn(|id, sync| sync.next_watch(id)) {
            return Some(Work::Watch(watch));
        }
        if self.look.is_none() {
            let waiting = Arc::clone(&self.waiting);
            let (subscription_id, plan) = self.in_turn(|_, sync| sync.next_look(budget, &waiting))?;
            self.look = Some(Look { subscription_id, step: Some(Box::new(plan)), answer: None });
        }
        self.next_step(bytes_max)
    }

    fn next_step(&mut self, bytes_max: usize) -> Option<Work> {
        let look = self.look.as_mut()?;
        let reader = Reader::Stream(look.subscription_id);
        Some(Work::Read(match *look.step.take()? {
            Plan::Read { query, answer } => {
                look.answer = Some(answer);
                Read::Query { reader, query, bytes_max }
            }
            Plan::Compute(work) => Read::Compute { reader, work },
            step => panic!("a look does no more than read: {step:?}"),
        }))
    }

    /// What was read for a look.
    pub(super) fn read(&mut self, result: Result<QueryResult, SourceError>, context: &SessionContext) {
        let answer = self.look.as_mut().and_then(|look| look.answer.take()).expect("a look reads one thing at a time");
        match result {
            Ok(result) => self.computed(answer(result), context),
            Err(error) => self.failed(&error),
        }
    }

    /// What was worked out for a look.
    pub(super) fn computed(&mut self, answer: Answer, context: &SessionContext) {
        let look = self.look.as_mut().expect("a look is under way");
        match context.reported(answer) {
            Ok(Reply::Go(_)) if !self.syncs.contains_key(&look.subscription_id) => self.look = None,
            Ok(Reply::Go(step)) => look.step = Some(step),
            Ok(Reply::Page(page)) => {
                let subscription_id = look.subscription_id;
                self.look = None;
                if let Some(sync) = self.syncs.get_mut(&subscription_id) {
                    sync.page(page, &self.waiting);
                }
            }
            Ok(Reply::Body(_)) => panic!("a look ends with a page"),
            Err(text) => panic!("a look refuses nothing: {text}"),
        }
    }

    /// The source could not be read.
    fn failed(&mut self, error: &SourceError) {
        let Some(Look { subscription_id, .. }) = self.look.take() else { return };
        tracing::debug!(subscription_id, %error, "items cannot be read");
        if let Some(sync) = self.syncs.get_mut(&subscription_id) {
            sync.failed(error, self.now_ms);
        }
    }
}

fn message(subscription_id: i32, news: News) -> ServerMessage {
    ServerMessage::Event { subscription_id, event: Event { news, token: None, number: None } }
}
