//! Changefeeds of parts of tables that are not mirrored: they say that something has changed, and not what.
//!
//! Each part has one feed, however many wait for its changes, and a task that keeps it open as long as somebody does.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::attached::Attached;
use super::range;
use super::reql::{Link, ReqlError, Term};
use crate::backoff::{Backoff, Random};
use crate::catalog::StoredTable;
use crate::source::Changes;
use crate::store::{Index, RangeStart};
use crate::task;

/// While a feed is not open, those who wait are woken so often.
const BLIND_INTERVAL: Duration = Duration::from_secs(5);

/// A database that is back is found again so soon, at the latest.
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// The parts whose changes somebody waits for.
pub(super) struct WakeUps {
    link: Arc<Link>,
    attached: Arc<Attached>,
    open: Arc<Open>,
    tracker: TaskTracker,
    shutdown: CancellationToken,
}

/// Which part of which table; the values in front are JSON text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Part {
    table: &'static str,
    index: &'static str,
    prefix: String,
}

/// What tells each part's watchers that it has changed, or cannot be watched.
type Open = Mutex<HashMap<Part, watch::Sender<bool>>>;

fn lock(open: &Open) -> MutexGuard<'_, HashMap<Part, watch::Sender<bool>>> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

impl WakeUps {
    /// Watches over `link`; each feed is counted in `attached`.
    pub(super) fn new(
        link: Arc<Link>,
        attached: Arc<Attached>,
        tracker: TaskTracker,
        shutdown: CancellationToken,
    ) -> Self {
        Self { link, attached, open: Arc::default(), tracker, shutdown }
    }

    /// Tells of changes of the rows of `table` whose first members in `index` are `prefix`.
    pub(super) fn of(&self, table: &StoredTable, index: &'static Index, prefix: &[Value]) -> Changes {
        let part = Part { table: table.name, index: index.name, prefix: Value::from(prefix).to_string() };
        let mut open = lock(&self.open);
        if let Some(sender) = open.get(&part) {
            return Changes::of(sender.subscribe());
        }
        let sender = watch::Sender::new(false);
        let changes = Changes::of(sender.subscribe());
        open.insert(part.clone(), sender.clone());
        drop(open);
        let watched = Watched {
            query: range::part(table.name, index, prefix, &RangeStart::First).wake_ups(),
            part,
            sender,
            link: Arc::clone(&self.link),
            attached: Arc::clone(&self.attached),
            open: Arc::clone(&self.open),
        };
        let shutdown = self.shutdown.clone();
        task::spawn(&self.tracker, async move {
            shutdown.run_until_cancelled(watched.run()).await;
        });
        changes
    }
}

/// Watches one part.
struct Watched {
    query: Term,
    part: Part,
    sender: watch::Sender<bool>,
    link: Arc<Link>,
    attached: Arc<Attached>,
    open: Arc<Open>,
}

impl Watched {
    /// Watches until nobody waits any more.
    async fn run(self) {
        loop {
            tokio::select! {
                // All may be given up at any time: whoever comes meanwhile waits for a feed that is opened anew.
                biased;
                () = self.sender.closed() => {}
                never = self.follow() => match never {},
                never = self.wake_the_blind() => match never {},
            }
            let mut open = lock(&self.open);
            // Others come only under the lock.
            if self.sender.receiver_count() == 0 {
                open.remove(&self.part);
                return;
            }
            // The feed was given up: nobody is to be woken for that, but those who come now have to wait for the next one.
            self.sender.send_if_modified(|is_open| {
                *is_open = false;
                false
            });
        }
    }

    /// Opens a feed again and again.
    async fn follow(&self) -> Infallible {
        let (mut backoff, mut random) = (Backoff::up_to(BACKOFF_MAX), Random::fresh());
        let mut told = None;
        loop {
            let began = Instant::now();
            let error = match self.feed(&mut told).await {
                Ok(never) => match never {},
                Err(error) => error,
            };
            self.sender.send_if_modified(|is_open| std::mem::replace(is_open, false));
            self.tell(error, &mut told);
            tokio::time::sleep(backoff.pause_after(began.elapsed(), &mut random)).await;
        }
    }

    /// Passes on that something has changed until the feed ends; returns why it did.
    async fn feed(&self, told: &mut Option<ReqlError>) -> Result<Infallible, ReqlError> {
        let connection = self.link.connection().await?;
        let _attached = AttachedFeed::new(&self.attached);
        let mut cursor = connection.start(&self.query);
        let mut page = connection.next_in_time(&mut cursor).await?;
        *told = None;
        loop {
            page.ok_or_else(|| ReqlError::protocol("a changefeed has ended"))?;
            self.sender.send_replace(true);
            page = cursor.next().await?;
        }
    }

    /// Logs why there is no feed if that was not the last that was logged. That the database is away is said by others.
    fn tell(&self, error: ReqlError, told: &mut Option<ReqlError>) {
        let Part { table, index, .. } = &self.part;
        if error.is_passing() || told.as_ref() == Some(&error) {
            tracing::debug!(table, index, %error, "changes are not noticed");
        } else {
            tracing::warn!(table, index, %error, "changes are not noticed; what waits for them looks from time to time");
        }
        *told = Some(error);
    }

    async fn wake_the_blind(&self) -> Infallible {
        loop {
            tokio::time::sleep(BLIND_INTERVAL).await;
            self.sender.send_if_modified(|is_open| !*is_open);
        }
    }
}

/// As long as it lives, a feed is open.
struct AttachedFeed<'a>(&'a Attached);

impl<'a> AttachedFeed<'a> {
    fn new(attached: &'a Attached) -> Self {
        attached.add();
        Self(attached)
    }
}

impl Drop for AttachedFeed<'_> {
    fn drop(&mut self) {
        self.0.remove();
    }
}
