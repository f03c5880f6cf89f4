//! What a subscription that is behind reads from the store: a snapshot page by page, or the log.
//!
//! Each page is read from one [`Snapshot`], which is then let go. The pages of a long snapshot are
//! at different positions; so each brings, before its rows, what happened since the last page to the rows of earlier
//! pages. After each page a client holds exactly the rows of its view up to the page's last key, as of the page's position.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::log_ranges::{LogPart, LogRanges};
use super::pages::PageRequest;
use super::snapshot_rows::ShownInOrder;
use super::{Counted, Published, RowsKind, ShowRows, SnapshotRow, SnapshotRows, ViewChange, Waiting};
use crate::change::{Change, ChangeKind, Key, Seq};
use crate::metrics::Metrics;
use crate::planted::PlantedBug;
use crate::store::{BlockRow, PageBudget, RowBlock, RowBlockBuilder, Snapshot, StoreError};
use crate::view::{View, may_have_any, redacted};

/// How far a subscription that is behind has come.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cursor {
    /// In the snapshot.
    Snapshot {
        /// The last key sent, and the position at which the rows up to it are exact; `None` before the first page.
        sent: Option<(Key, Seq)>,
    },
    /// Behind the snapshot: everything up to here was sent.
    After(Seq),
}

impl Cursor {
    /// Everything up to here is in what was sent, of the rows that were.
    pub fn position(&self) -> Seq {
        match self {
            Self::Snapshot { sent: None } => Seq::ZERO,
            Self::Snapshot { sent: Some((_, at)) } => *at,
            Self::After(after) => *after,
        }
    }
}

/// What a page may hold, and what may be looked at to fill it.
#[derive(Clone, Copy, Debug)]
pub struct CatchUpBudget {
    /// What the page may hold.
    pub page: PageBudget,
    /// Only the newest change of each row is wanted.
    pub coalesce: bool,
}

/// Pages of rows or changes that are looked at to fill one: where a filter takes few of them, or newer changes take the
/// place of older ones.
const SCANNED_PAGES: usize = 16;

impl CatchUpBudget {
    /// Bytes of changes that may be looked at.
    pub(super) fn scanned_bytes(&self) -> usize {
        if self.coalesce { self.page.bytes.saturating_mul(SCANNED_PAGES) } else { self.page.bytes }
    }
}

/// What a page brings.
#[derive(Clone, Debug)]
pub struct PageItem {
    /// A row or a change.
    pub content: Content,
    reached: Reached,
}

/// How far a subscription has come with an item.
#[derive(Clone, Debug)]
enum Reached {
    /// Nobody could go on from there.
    Nowhere,
    /// Up to this row, whose key need not be kept twice.
    Row(Seq),
    Cursor(Cursor),
}

impl PageItem {
    /// How far the subscription has come with it; `None` where nobody could go on from there.
    pub fn cursor(&self) -> Option<Cursor> {
        match (&self.reached, &self.content) {
            (Reached::Cursor(cursor), _) => Some(cursor.clone()),
            (Reached::Row(at), Content::Row(row)) => Some(Cursor::Snapshot { sent: Some((row.key(), *at)) }),
            (Reached::Nowhere | Reached::Row(_), _) => None,
        }
    }

    /// Whether not all rows are there with it.
    pub fn is_in_snapshot(&self) -> bool {
        matches!(self.reached, Reached::Row(_) | Reached::Cursor(Cursor::Snapshot { .. }))
    }
}

/// A row or a change. Nothing in it is secret.
#[derive(Clone, Debug)]
pub enum Content {
    /// A row of the snapshot.
    Row(SnapshotRow),
    /// A change.
    Change(SeenChange),
}

/// A change, and what it does in a view.
#[derive(Clone, Debug)]
pub enum SeenChange {
    /// Read from the log or the window.
    Replayed(Arc<Published>, ChangeKind),
    /// Handed over by the feed.
    Live(Arc<ViewChange>),
}

impl SeenChange {
    /// The change.
    pub fn published(&self) -> &Arc<Published> {
        match self {
            Self::Replayed(published, _) => published,
            Self::Live(change) => change.published(),
        }
    }

    /// What it does in the view.
    pub fn kind(&self) -> ChangeKind {
        match self {
            Self::Replayed(_, kind) => *kind,
            Self::Live(change) => change.kind(),
        }
    }
}

/// A page for subscriptions that are behind: for one, or for all that stand at the same place.
#[derive(Debug)]
pub struct Page {
    changes: Vec<PageItem>,
    rows: Arc<SnapshotRows>,
    /// Where the rows are exact.
    position: Seq,
    /// Where the subscription is after it.
    pub cursor: Cursor,
    bytes: usize,
    held: Mutex<Weak<Counted>>,
}

impl Page {
    /// A page of changes.
    fn of_changes(changes: Vec<PageItem>, cursor: Cursor) -> Arc<Self> {
        Self::new(changes, (SnapshotRows::new(RowBlock::default()), Seq::ZERO), cursor)
    }

    /// A page of changes and, behind them, rows as they are at a position.
    fn new(changes: Vec<PageItem>, (rows, position): (Arc<SnapshotRows>, Seq), cursor: Cursor) -> Arc<Self> {
        let size = |item: &PageItem| match &item.content {
            Content::Row(row) => row.row().size(),
            Content::Change(change) => change.published().size(),
        };
        let bytes = changes.iter().map(size).sum::<usize>() + rows.size();
        Arc::new(Self { changes, rows, position, cursor, bytes, held: Mutex::default() })
    }

    /// How much there is to send: changes and rows.
    pub fn len(&self) -> usize {
        self.changes.len() + self.rows.len()
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many of those are changes: they come first.
    pub fn change_count(&self) -> usize {
        self.changes.len()
    }

    /// The rows, which come behind the changes.
    pub fn rows(&self) -> &Arc<SnapshotRows> {
        &self.rows
    }

    /// What is at this place in the order; `None` behind the last one.
    pub fn item(&self, at: usize) -> Option<PageItem> {
        let Some(at) = at.checked_sub(self.changes.len()) else {
            return Some(self.changes[at].clone());
        };
        let reached = if PlantedBug::TokenBeforeTheSnapshotEnds.is_planted() {
            Reached::Cursor(Cursor::After(self.position))
        } else {
            Reached::Row(self.position)
        };
        (at < self.rows.len()).then(|| PageItem { content: Content::Row(SnapshotRow::of(&self.rows, at)), reached })
    }

    /// All of it, in the order in which it is sent.
    pub fn items(&self) -> impl Iterator<Item = PageItem> {
        (0..self.len()).filter_map(|at| self.item(at))
    }

    /// The bytes that it holds.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The same, and what its readers leave to each other: messages, and the pieces of those that do not lie ready.
    pub(super) fn kept_bytes(&self) -> usize {
        let left_by_readers = if self.rows.is_laid_out() { 1 } else { 2 };
        self.bytes + left_by_readers * self.rows.size()
    }

    /// Counts its bytes as `waiting` for as long as anybody holds what this returns: once, however many do.
    pub fn hold(&self, waiting: &Arc<Waiting>) -> Arc<Counted> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.upgrade().unwrap_or_else(|| {
            let counted = Arc::new(Counted::new(self.bytes, waiting));
            *held = Arc::downgrade(&counted);
            counted
        })
    }
}

/// The next page, or why there is none.
#[derive(Clone, Debug)]
pub enum CatchUp {
    /// Go on with this.
    Page(Arc<Page>),
    /// Retention has removed changes that the subscription still needs.
    Trimmed,
}

/// How a page is read.
#[derive(Clone, Copy)]
pub(super) struct Reading<'a> {
    /// What others have read of the log.
    pub(super) log: &'a LogRanges,
    pub(super) metrics: &'a Metrics,
    /// How whoever asked is sent its rows.
    pub(super) shown: Option<&'a dyn ShowRows>,
    /// It must not take much time.
    pub(super) is_at_once: bool,
}

/// Reads the page of `request`. `None` where it has to be at once and its rows have to be looked through one by one.
pub(super) fn read_page(
    snapshot: &Snapshot,
    request: &PageRequest,
    reading: Reading<'_>,
) -> Result<Option<CatchUp>, StoreError> {
    let PageRequest { view, cursor, budget, .. } = request;
    let Reading { log, metrics, shown, is_at_once } = reading;
    let reader = Reader { snapshot, view, budget: *budget, log, metrics, shown, is_at_once };
    match cursor {
        Cursor::After(after) => reader.log_page(*after).map(Some),
        Cursor::Snapshot { sent: None } => reader.rows(None, Vec::new()),
        Cursor::Snapshot { sent: Some((last_key, at)) } => reader.later_rows(last_key, *at),
    }
}

/// Changes that were found in the log.
struct Found {
    changes: Vec<Arc<Published>>,
    /// The last change looked at; `None` where there are no more.
    reached: Option<Seq>,
}

struct Reader<'a> {
    snapshot: &'a Snapshot,
    view: &'a View,
    budget: CatchUpBudget,
    log: &'a LogRanges,
    metrics: &'a Metrics,
    shown: Option<&'a dyn ShowRows>,
    is_at_once: bool,
}

impl Reader<'_> {
    fn log_page(&self, after: Seq) -> Result<CatchUp, StoreError> {
        let after = if PlantedBug::LogReadSkipsOneChange.is_planted() { after.next() } else { after };
        let Some(Found { changes, reached }) = self.changes(after, |_| true)? else {
            return Ok(CatchUp::Trimmed);
        };
        // A complete read brings the subscription to the snapshot's position, even where the newest changes are of other tables.
        let reached = reached.unwrap_or_else(|| self.snapshot.position().seq.max(after));
        let (coalesce, end) = (self.budget.coalesce, Cursor::After(reached));
        let items = items_of(self.view, changes, coalesce, Cursor::After, &end, self.metrics);
        Ok(CatchUp::Page(Page::of_changes(items, end)))
    }

    fn later_rows(&self, last_key: &Key, at: Seq) -> Result<Option<CatchUp>, StoreError> {
        // What happened to later keys is left to their page.
        let is_sent = |key: &Key| key <= last_key && !PlantedBug::SnapshotIgnoresEarlierPages.is_planted();
        let Some(Found { changes, reached }) = self.changes(at, is_sent)? else {
            return Ok(Some(CatchUp::Trimmed));
        };
        let upto = |seq| Cursor::Snapshot { sent: Some((last_key.clone(), seq)) };
        let position = self.snapshot.position().seq;
        let end = upto(reached.unwrap_or(position));
        let items = items_of(self.view, changes, self.budget.coalesce, upto, &end, self.metrics);
        if reached.is_some() {
            return Ok(Some(CatchUp::Page(Page::of_changes(items, end))));
        }
        self.rows(Some((last_key, at)), items)
    }

    /// The changes after `after` to keys that are `wanted`, and the last one looked at unless those were all. `None` where
    /// retention has removed some of them.
    fn changes(&self, after: Seq, wanted: impl Fn(&Key) -> bool) -> Result<Option<Found>, StoreError> {
        let CatchUpBudget { page: budget, coalesce } = self.budget;
        let position = self.snapshot.position().seq;
        let mut found = Found { changes: Vec::new(), reached: Some(after) };
        let mut from = after;
        let (mut scanned, mut scanned_bytes) = (0, 0);
        loop {
            let part = self.log.after(self.snapshot, self.view, from, budget, self.metrics)?;
            let Some(LogPart { changes, reached }) = part else { return Ok(None) };
            from = reached;
            found.reached = (reached < position).then_some(reached);
            scanned += changes.len();
            scanned_bytes += changes.iter().map(|published| published.size()).sum::<usize>();
            found.changes.extend(changes.into_iter().filter(|published| wanted(&published.change().key)));
            if coalesce {
                // Before the filter looks at them: together, changes may bring a row into the view that none does alone.
                found.changes = coalesced(found.changes, self.metrics);
            } else {
                found
                    .changes
                    .retain(|published| self.view.kind(published.change(), &self.metrics.row_problems).is_some());
            }
            let bytes: usize = found.changes.iter().map(|published| published.size()).sum();
            // Whoever begins in the middle of a range ends where it ends, and goes on like all the others: a page that is half
            // full is not filled up.
            let (enough_bytes, enough) = if coalesce {
                (budget.bytes, budget.items)
            } else {
                (budget.bytes.div_ceil(2), budget.items.div_ceil(2))
            };
            let is_full = bytes >= enough_bytes || found.changes.len() >= enough;
            let has_scanned_enough = scanned >= budget.items.saturating_mul(SCANNED_PAGES)
                || scanned_bytes >= budget.bytes.saturating_mul(SCANNED_PAGES);
            if found.reached.is_none() || is_full || has_scanned_enough {
                return Ok(Some(found));
            }
        }
    }

    /// The rows that follow those that were `sent`, behind `changes`.
    fn rows(&self, sent: Option<(&Key, Seq)>, changes: Vec<PageItem>) -> Result<Option<CatchUp>, StoreError> {
        let position = self.snapshot.position().seq;
        let mut last_key = sent.map(|(last_key, _)| last_key.clone());
        let mut rows = SnapshotRows::new(RowBlock::default());
        for _ in 0..SCANNED_PAGES {
            let (block, laid_out, complete) = self.block(last_key.as_ref(), changes.len())?;
            let skipped = usize::from(last_key.is_some() && PlantedBug::SnapshotPageSkipsARow.is_planted());
            last_key = block.last_key().or(last_key);
            let Some(seen) = self.seen_of(block, laid_out, skipped) else { return Ok(None) };
            rows = seen;
            if complete || last_key.is_none() {
                let after = match sent {
                    Some((_, at)) if PlantedBug::SnapshotKeepsFirstPosition.is_planted() => at,
                    _ => position,
                };
                return Ok(Some(CatchUp::Page(Page::new(changes, (rows, position), Cursor::After(after)))));
            }
            if !rows.is_empty() || !changes.is_empty() {
                break;
            }
        }
        let sent = last_key.map(|key| (key, position));
        Ok(Some(CatchUp::Page(Page::new(changes, (rows, position), Cursor::Snapshot { sent }))))
    }

    /// The rows behind `last_key`, as messages of the kind that is returned, if they are; and whether those are the last ones.
    fn block(&self, last_key: Option<&Key>, changes: usize) -> Result<(RowBlock, Option<RowsKind>, bool), StoreError> {
        let (table, budget) = (&self.view.table, self.budget.page);
        let Some(shown) = self.shown.filter(|_| self.view.has_all_rows()) else {
            let (block, complete) = self.snapshot.block_after(table, last_key, budget)?;
            return Ok((block, None, complete));
        };
        let mut shown = ShownInOrder::behind(changes, shown);
        let kind = shown.kind();
        let (block, complete) = self.snapshot.block_laid_out(table, last_key, budget, &mut shown)?;
        Ok((block, Some(kind), complete))
    }

    /// What the view has of the rows of `block`, which are `laid_out`, behind the first `skipped` ones. `None` where that cannot be
    /// found out at once.
    fn seen_of(&self, block: RowBlock, laid_out: Option<RowsKind>, skipped: usize) -> Option<Arc<SnapshotRows>> {
        let view = self.view;
        let has_secrets = may_have_any(block.as_bytes(), view.secrets);
        if skipped == 0 && !has_secrets && view.has_all_rows() {
            return Some(SnapshotRows::laid_out_as(block, laid_out));
        }
        if self.is_at_once {
            return None;
        }
        let mut seen = RowBlockBuilder::default();
        for at in skipped..block.len() {
            let mut row = block.shared(at);
            if has_secrets {
                row.document = redacted(&row.document, view.secrets);
            }
            if view.contains(&row.key, &row.document, &self.metrics.row_problems) {
                let (key, document) = (row.key.as_bytes(), row.document.as_bytes());
                seen.push(BlockRow { key, version: row.version, document });
            }
        }
        Some(SnapshotRows::new(seen.build()))
    }
}

/// Changes from the window that make a page.
#[derive(Clone, Debug)]
pub struct Replay {
    view: Arc<View>,
    changes: Vec<Arc<Published>>,
    /// Where they lead.
    end: Seq,
    coalesce: bool,
}

impl Replay {
    pub(super) fn new(view: &Arc<View>, changes: Vec<Arc<Published>>, after: Seq, budget: CatchUpBudget) -> Self {
        let end = changes.last().map_or(after, |last| last.seq());
        Self { view: Arc::clone(view), changes, end, coalesce: budget.coalesce }
    }

    /// Whether a filter has to go through the changes, which takes its time.
    pub fn is_filtered(&self) -> bool {
        self.view.filter.is_some()
    }

    /// The page.
    pub fn page(self, metrics: &Metrics) -> Arc<Page> {
        let changes = if self.coalesce { coalesced(self.changes, metrics) } else { self.changes };
        let end = Cursor::After(self.end);
        Page::of_changes(items_of(&self.view, changes, self.coalesce, Cursor::After, &end, metrics), end)
    }
}

/// The items that `changes` make for `view`, in a page that leads to `end`.
fn items_of(
    view: &View,
    changes: Vec<Arc<Published>>,
    coalesce: bool,
    cursor_at: impl Fn(Seq) -> Cursor,
    end: &Cursor,
    metrics: &Metrics,
) -> Vec<PageItem> {
    let has_cursors = !coalesce || PlantedBug::CoalescedChangesHaveTokens.is_planted();
    let mut items: Vec<PageItem> = changes
        .into_iter()
        .filter_map(|published| {
            let kind = view.kind(published.change(), &metrics.row_problems)?;
            // Between coalesced changes a client holds what never was: some rows are newer than others.
            let reached = if has_cursors { Reached::Cursor(cursor_at(published.seq())) } else { Reached::Nowhere };
            Some(PageItem { content: Content::Change(SeenChange::Replayed(published, kind)), reached })
        })
        .collect();
    if let (true, Some(last)) = (coalesce, items.last_mut()) {
        last.reached = Reached::Cursor(end.clone());
    }
    items
}

/// The newest change of each row, each as if it had been the only one since the first. A row that came and went is left out.
fn coalesced(changes: Vec<Arc<Published>>, metrics: &Metrics) -> Vec<Arc<Published>> {
    let before = changes.len();
    let mut newest: HashMap<Key, usize> = HashMap::new();
    let mut slots: Vec<Option<Arc<Published>>> = Vec::with_capacity(before);
    for published in changes {
        let key = published.change().key.clone();
        let earlier = newest.insert(key.clone(), slots.len()).and_then(|at| slots[at].take());
        let published = match earlier {
            None => published,
            Some(earlier) if earlier.change().old.is_none() && published.change().new.is_none() => {
                newest.remove(&key);
                continue;
            }
            Some(earlier) => {
                let Change { old, old_version, .. } = earlier.change().clone();
                // Their secrets are gone already.
                Published::new(Change { old, old_version, ..published.change().clone() }, &[])
            }
        };
        slots.push(Some(published));
    }
    let kept: Vec<Arc<Published>> = slots.into_iter().flatten().collect();
    metrics.coalesced.inc_by((before - kept.len()) as u64);
    kept
}
