//! The task that keeps the copy of one table: it follows the table's changefeed while somebody subscribes to it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesOrdered;
use serde_json::value::RawValue;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::attached::Attached;
use super::mirror::{CopyState, Gone, Mirror};
use super::reql::{Connection, Cursor, Link, Page, Refusal, ReqlError, Term};
use super::visibility::Visibility;
use crate::backoff::{Backoff, Random};
use crate::catalog::StoredTable;
use crate::change::{Key, Table};
use crate::feed::{Feeds, SourceDoubt, SourceState};
use crate::metrics::Metrics;
use crate::source::progress::Progress;
use crate::store::{Mutation, PageBudget, Snapshot, Store, StoreError, Unit, WriteHandle, read};
use crate::task;

/// Keeps the copy of one table.
pub(super) struct Follow {
    pub(super) stored: StoredTable,
    pub(super) table: Table,
    pub(super) link: Arc<Link>,
    pub(super) store: Store,
    pub(super) writer: WriteHandle,
    pub(super) feeds: Arc<Feeds>,
    /// The table has got its first subscriber, or lost its last one.
    pub(super) demand: Arc<Notify>,
    pub(super) visibility: Arc<Visibility>,
    pub(super) attached: Arc<Attached>,
    pub(super) progress: Progress,
    pub(super) metrics: Arc<Metrics>,
    /// The rows that the database may keep for a feed that is not read from.
    pub(super) queue_rows: u64,
    /// A feed that nobody needs any more is kept for so long.
    pub(super) linger: Duration,
}

/// Why a feed was given up.
struct Doubt {
    doubt: SourceDoubt,
    text: String,
}

impl From<ReqlError> for Doubt {
    fn from(error: ReqlError) -> Self {
        let doubt = match &error {
            ReqlError::Unreachable(_) | ReqlError::Lost(_) | ReqlError::Stopped => SourceDoubt::Unreachable,
            ReqlError::Silent | ReqlError::Timeout(_) => SourceDoubt::Silent,
            ReqlError::Protocol(_) | ReqlError::AnswerTooBig(_) => SourceDoubt::Protocol,
            ReqlError::Login(_) | ReqlError::Refused { kind: Refusal::Permission, .. } => SourceDoubt::Refused,
            ReqlError::Refused { .. } => SourceDoubt::Aborted,
        };
        Self { doubt, text: error.to_string() }
    }
}

impl From<StoreError> for Doubt {
    fn from(error: StoreError) -> Self {
        Self { doubt: SourceDoubt::Storage, text: error.to_string() }
    }
}

/// Commits of one table that may be on their way to the disk; more is not read from the feed.
const COMMITS_MAX: usize = 4;

/// Deletions of rows that are gone that are written at a time.
const GONE_ROWS: usize = 1000;

/// A database that is back is found again so soon, at the latest.
const BACKOFF_MAX: Duration = Duration::from_secs(2);

impl Follow {
    /// Follows the table, whenever somebody subscribes to it, for ever.
    pub(super) async fn run(self) {
        let mut random = Random::fresh();
        loop {
            self.until_demanded().await;
            let mut backoff = Backoff::up_to(BACKOFF_MAX);
            let mut idle: BoxFuture<'_, ()> = Box::pin(self.until_idle());
            let mut told = None;
            loop {
                let began = Instant::now();
                let doubt = tokio::select! {
                    // Both may be given up at any time: the feed is read again from its beginning.
                    biased;
                    () = &mut idle => break,
                    doubt = self.follow(&mut told) => doubt,
                };
                self.doubt(&doubt, &mut told);
                tokio::select! {
                    biased;
                    () = &mut idle => break,
                    () = tokio::time::sleep(backoff.pause_after(began.elapsed(), &mut random)) => {}
                }
            }
            tracing::debug!(table = %self.table, "nobody subscribes to the table any more");
        }
    }

    async fn until_demanded(&self) {
        while self.feeds.subscribers(&self.table) == 0 {
            self.demand.notified().await;
        }
    }

    /// Waits until nobody has subscribed to the table for a while. From then on, whoever does waits until it is read again.
    async fn until_idle(&self) {
        loop {
            while self.feeds.subscribers(&self.table) > 0 {
                self.demand.notified().await;
            }
            tokio::select! {
                biased;
                () = self.demand.notified() => {}
                () = tokio::time::sleep(self.linger) => if self.feeds.rest(&self.table) {
                    return;
                },
            }
        }
    }

    /// Tells everyone that the copy may be old, and logs why if that was not the last that was logged.
    fn doubt(&self, doubt: &Doubt, told: &mut Option<SourceDoubt>) {
        let Doubt { doubt, text } = doubt;
        self.metrics.source_doubts.get_or_create(&vec![("reason", doubt.label().to_owned())]).inc();
        if told.replace(*doubt) == Some(*doubt) {
            tracing::debug!(table = %self.table, reason = text, "the table still cannot be followed");
        } else {
            tracing::warn!(table = %self.table, reason = text, "the table cannot be followed; what is served may be old");
        }
        let doubt = *doubt;
        let state = if self.progress.is_loaded(&self.table) {
            SourceState::InDoubt(doubt)
        } else {
            SourceState::Unread { doubt: Some(doubt) }
        };
        self.feeds.set_source(&self.table, state);
    }

    /// Follows the table until there is a reason to doubt that nothing is missing.
    async fn follow(&self, told: &mut Option<SourceDoubt>) -> Doubt {
        match self.attach(told).await {
            Ok(never) => match never {},
            Err(doubt) => doubt,
        }
    }

    async fn attach(&self, told: &mut Option<SourceDoubt>) -> Result<std::convert::Infallible, Doubt> {
        let connection = self.link.connection().await?;
        let following = Following::new(self);
        let query = Term::table(self.stored.name).without(self.stored.omitted).changes(self.queue_rows);
        let mut cursor = connection.start(&query);
        self.until_written().await?;
        let is_empty = self.read(|snapshot, table| Ok(snapshot.count(table)? == 0)).await?;
        let state = CopyState { is_empty, was_served: self.progress.is_loaded(&self.table) };
        let mut copy = Copy { follow: self, mirror: Mirror::new(self.stored, state), commits: FuturesOrdered::new() };
        let began = Instant::now();
        loop {
            tokio::select! {
                biased;
                Some(result) = copy.commits.next(), if !copy.commits.is_empty() => result?,
                page = next_page(&connection, &mut cursor, copy.mirror.is_level()), if copy.commits.len() < COMMITS_MAX => {
                    let ended = || ReqlError::protocol("a changefeed has ended");
                    if copy.take(&page?.ok_or_else(ended)?).await? {
                        following.is_level();
                        self.is_level(told, began);
                    }
                }
            }
        }
    }

    fn is_level(&self, told: &mut Option<SourceDoubt>, began: Instant) {
        self.feeds.set_source(&self.table, SourceState::Level);
        let ms = began.elapsed().as_millis();
        if told.take().is_some() {
            tracing::info!(table = %self.table, ms, "the table is followed again, and what had changed is caught up with");
        } else {
            tracing::debug!(table = %self.table, ms, "the table is followed");
        }
    }

    /// Waits until what an earlier feed has handed in is on disk: it must not come behind what is read next.
    async fn until_written(&self) -> Result<(), StoreError> {
        let written = self.writer.submit(Unit::new())?;
        written.await.unwrap_or(Err(StoreError::Stopped)).map(drop)
    }

    /// Reads the store.
    async fn read<T: Send + 'static>(
        &self,
        work: impl Fn(&Snapshot, &Table) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (store, table) = (self.store.clone(), self.table.clone());
        task::blocking(move || read(&store, |snapshot| work(snapshot, &table))).await
    }
}

/// The next rows of a feed. Nothing happens in a table for ever; but as long as it is being read, there is something to say.
async fn next_page(connection: &Connection, cursor: &mut Cursor, is_level: bool) -> Result<Option<Page>, ReqlError> {
    if is_level { cursor.next().await } else { connection.next_in_time(cursor).await }
}

/// As long as it lives, a feed of the table is open.
struct Following<'a> {
    follow: &'a Follow,
}

impl<'a> Following<'a> {
    fn new(follow: &'a Follow) -> Self {
        follow.visibility.follow();
        follow.attached.add();
        Self { follow }
    }

    fn is_level(&self) {
        self.follow.visibility.is_level();
    }
}

impl Drop for Following<'_> {
    fn drop(&mut self) {
        self.follow.visibility.unfollow();
        self.follow.attached.remove();
    }
}

/// The copy while it follows one feed, and what of it is on its way to the disk.
struct Copy<'a> {
    follow: &'a Follow,
    mirror: Mirror,
    commits: FuturesOrdered<BoxFuture<'a, Result<(), Doubt>>>,
}

impl Copy<'_> {
    /// Takes rows of the feed; says whether the copy has become level with them.
    async fn take(&mut self, page: &Page) -> Result<bool, Doubt> {
        let rows = page.rows().map_err(Doubt::from)?;
        let mut rows: VecDeque<&RawValue> = rows.into();
        let mut has_become_level = false;
        while let Some(gone) = self.take_until_ready(&mut rows)? {
            self.finish(gone).await?;
            has_become_level = true;
        }
        Ok(has_become_level)
    }

    /// Takes rows until the feed has sent all that there are, or there are no more of them.
    fn take_until_ready(&mut self, rows: &mut VecDeque<&RawValue>) -> Result<Option<Gone>, Doubt> {
        let Follow { metrics, table, .. } = self.follow;
        let before = rows.len();
        let mut unit = Unit::new();
        let report = |key: &Key, problem: &str| metrics.row_problems.report(table, key, &problem);
        let gone = self.mirror.take_until_ready(rows, &mut unit, report);
        metrics.source_rows.inc_by((before - rows.len()) as u64);
        let gone = gone.map_err(|(doubt, text)| Doubt { doubt, text })?;
        self.submit(unit)?;
        Ok(gone)
    }

    fn submit(&mut self, unit: Unit) -> Result<(), Doubt> {
        if unit.is_empty() {
            return Ok(());
        }
        let visibility = Arc::clone(&self.follow.visibility);
        let rows = visibility.about(&unit);
        let result = self.follow.writer.submit(unit)?;
        self.commits.push_back(Box::pin(async move {
            let written = result.await.unwrap_or(Err(StoreError::Stopped))?;
            assert!(written.is_ok(), "the copy of a table was refused: {written:?}");
            visibility.applied(rows);
            Ok(())
        }));
        Ok(())
    }

    /// Waits until everything is on disk, and deletes what is gone.
    async fn finish(&mut self, gone: Gone) -> Result<(), Doubt> {
        self.until_committed().await?;
        if gone.is_possible() {
            let gone = Arc::new(gone);
            let mut after = None;
            loop {
                let (page_gone, from) = (Arc::clone(&gone), after.take());
                let budget = PageBudget { items: GONE_ROWS, bytes: usize::MAX };
                let (deletes, last) = self
                    .follow
                    .read(move |snapshot, table| {
                        let page = snapshot.rows_after(table, from.as_ref(), budget)?;
                        let deletes: Vec<Mutation> =
                            page.rows.iter().filter_map(|row| page_gone.delete(&row.key)).collect();
                        Ok((deletes, page.rows.last().map(|row| row.key.clone()).filter(|_| !page.complete)))
                    })
                    .await?;
                self.submit(deletes)?;
                self.until_committed().await?;
                if last.is_none() {
                    break;
                }
                after = last;
            }
        }
        let Follow { progress, table, .. } = self.follow;
        if !progress.is_loaded(table) {
            self.submit(vec![Progress::mark(table)])?;
            self.until_committed().await?;
            progress.marked(table);
        }
        Ok(())
    }

    async fn until_committed(&mut self) -> Result<(), Doubt> {
        while let Some(result) = self.commits.next().await {
            result?;
        }
        Ok(())
    }
}
