//! One subscription to what a job downloads: it looks for items behind those that were sent, whenever something may have happened.
//!
//! Items may be large, so they are read only when there is room to send, and what was read is sent before more is read. A look at the
//! job comes before the look at its items: when the job was finished by then, there are no later ones.

use std::collections::VecDeque;
use std::sync::Arc;

use prost::Message;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::super::Watch;
use crate::catalog::{self, JobStanding, JobSyncPlan, Plan, SyncPage};
use crate::feed::{Counted, Waiting};
use crate::planted::PlantedBug;
use crate::proto::{SyncItem, event};
use crate::source::SourceError;
use crate::store::PageBudget;
use crate::subscription::Permit;
use crate::wire::{End, News};

/// Pause before the next look where the source could not be read.
const RETRY_MS: u64 = 1000;

/// Items of one look.
const ITEMS_MAX: usize = 64;

/// A look may bring so much even where nothing more may wait: the subscription must come on.
const BYTES_MIN: usize = 4 * 1024;

/// A subscription to what a job downloads.
#[derive(Debug)]
pub(super) struct JobSync {
    /// The next look.
    plan: JobSyncPlan,
    /// The number of the last item that was read; it was sent when no items are left.
    read: Option<f64>,
    items: VecDeque<SyncItem>,
    /// What is read or being read, counted among all that waits.
    counted: Option<Counted>,
    /// Watches that are yet to begin.
    unwatched: Vec<catalog::Watched>,
    until: CancellationToken,
    /// Something may have happened since the last look began.
    is_woken: bool,
    is_looking: bool,
    /// Look again then, because the source could not be read.
    retry_ms: Option<u64>,
    /// How it ends when the items are sent.
    end: Option<News>,
    _stop: DropGuard,
    _permit: Permit,
}

impl JobSync {
    pub(super) fn new(plan: JobSyncPlan, permit: Permit) -> Self {
        let until = CancellationToken::new();
        Self {
            plan,
            read: plan.after,
            items: VecDeque::new(),
            counted: None,
            unwatched: catalog::watched_by_sync(plan.job_id).into(),
            is_woken: true,
            is_looking: false,
            retry_ms: None,
            end: None,
            _stop: until.clone().drop_guard(),
            until,
            _permit: permit,
        }
    }

    /// Something may have happened.
    pub(super) fn wake(&mut self) {
        self.is_woken = true;
    }

    pub(super) fn tick(&mut self, now_ms: u64) {
        if self.retry_ms.take_if(|retry_ms| *retry_ms <= now_ms).is_some() {
            self.is_woken = true;
        }
    }

    pub(super) fn due_ms(&self) -> Option<u64> {
        self.retry_ms
    }

    pub(super) fn next_news(&mut self) -> Option<News> {
        let Some(item) = self.items.pop_front() else { return self.end.take() };
        if self.items.is_empty() {
            self.counted = None;
        }
        Some(News::Body(Some(Box::new(event::Body::SyncItem(item)))))
    }

    pub(super) fn next_watch(&mut self, subscription_id: i32) -> Option<Watch> {
        let catalog::Watched { table, index, prefix } = self.unwatched.pop()?;
        Some(Watch { subscription_id, table, index, prefix, until: self.until.clone() })
    }

    /// The look that it needs now, if it does.
    pub(super) fn next_look(&mut self, budget: PageBudget, waiting: &Arc<Waiting>) -> Option<Plan> {
        let may_look = self.is_woken && !self.is_looking && self.retry_ms.is_none();
        if !may_look || !self.items.is_empty() || self.end.is_some() {
            return None;
        }
        self.is_woken = false;
        self.is_looking = true;
        let bytes = budget.bytes.min(waiting.room().max(BYTES_MIN));
        self.counted = Some(Counted::new(bytes, waiting));
        Some(catalog::look(self.plan, PageBudget { items: budget.items.min(ITEMS_MAX), bytes }))
    }

    pub(super) fn page(&mut self, page: SyncPage, waiting: &Arc<Waiting>) {
        self.is_looking = false;
        if PlantedBug::WakeDuringALookIsForgotten.is_planted() {
            self.is_woken = false;
        }
        let SyncPage { items, reached, is_complete, job } = page;
        self.read = items.last().map(|(sequence, _)| *sequence as f64).or(self.read);
        // Rows that cannot be shown are passed by, but only to see what is behind them: one with a large number must not hide what comes.
        self.plan.after = if is_complete { self.read } else { reached.or(self.read) };
        self.items = items.into_iter().map(|(_, item)| item).collect();
        let bytes = self.items.iter().map(SyncItem::encoded_len).sum();
        self.counted = (!self.items.is_empty()).then(|| Counted::new(bytes, waiting));
        match job {
            _ if !is_complete && !PlantedBug::JobEndsBeforeItsItems.is_planted() => self.is_woken = true,
            JobStanding::Unfinished => {}
            JobStanding::Finished => self.end = Some(News::Closed { end: End::Complete, message: None }),
            JobStanding::Missing => {
                self.end = Some(News::Closed { end: End::Error, message: Some("the job was deleted".to_owned()) });
            }
        }
    }

    /// The source could not be read: it looks again, unless that would fail in the same way.
    pub(super) fn failed(&mut self, error: &SourceError, now_ms: u64) {
        self.is_looking = false;
        self.counted = None;
        if error.is_passing() {
            self.retry_ms = Some(now_ms.saturating_add(RETRY_MS));
        } else {
            self.end = Some(News::Closed { end: End::Error, message: Some(error.to_string()) });
        }
    }
}
