//! What a subscription that is behind reads from the store: a snapshot page by page, or the log.
//!
//! Each page is read from one [`Snapshot`], which is then let go. The pages of a long snapshot are
//! at different positions; so each brings, before its rows, what happened since the last page to the rows of earlier
//! pages. After each page a client holds exactly the rows of its view up to the page's last key, as of the page's position.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Published, ViewChange};
use crate::change::{Change, ChangeKind, Key, Row, Seq};
use crate::metrics::Metrics;
use crate::planted::PlantedBug;
use crate::store::{ChangePage, PageBudget, Snapshot, StoreError};
use crate::view::{View, redacted};

/// How far a subscription that is behind has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cursor {
    /// In the snapshot.
    Snapshot {
        /// The last key sent, and the position at which the rows up to it are exact; `None` before the first page.
        sent: Option<(Key, Seq)>,
    },
    /// Behind the snapshot: everything up to here was sent.
    After(Seq),
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
    /// How far the subscription has come with it; `None` where nobody could go on from there.
    pub cursor: Option<Cursor>,
}

/// A row or a change. Nothing in it is secret.
#[derive(Clone, Debug)]
pub enum Content {
    /// A row of the snapshot.
    Row(Row),
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

/// A page for a subscription that is behind.
#[derive(Clone, Debug)]
pub struct Page {
    /// What to send, in order.
    pub items: Vec<PageItem>,
    /// Where the subscription is after it.
    pub cursor: Cursor,
}

/// The next page, or why there is none.
#[derive(Clone, Debug)]
pub enum CatchUp {
    /// Go on with this.
    Page(Page),
    /// Retention has removed changes that the subscription still needs.
    Trimmed,
}

/// Reads the page that follows `cursor`.
pub fn read_page(
    snapshot: &Snapshot,
    view: &View,
    cursor: &Cursor,
    budget: CatchUpBudget,
    metrics: &Metrics,
) -> Result<CatchUp, StoreError> {
    let reader = Reader { snapshot, view, budget, metrics };
    match cursor {
        Cursor::After(after) => reader.log_page(*after),
        Cursor::Snapshot { sent: None } => reader.rows(None, Vec::new()).map(CatchUp::Page),
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
    metrics: &'a Metrics,
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
        Ok(CatchUp::Page(page_of(self.view, changes, coalesce, Cursor::After, end, self.metrics)))
    }

    fn later_rows(&self, last_key: &Key, at: Seq) -> Result<CatchUp, StoreError> {
        // What happened to later keys is left to their page.
        let is_sent = |key: &Key| key <= last_key && !PlantedBug::SnapshotIgnoresEarlierPages.is_planted();
        let Some(Found { changes, reached }) = self.changes(at, is_sent)? else {
            return Ok(CatchUp::Trimmed);
        };
        let upto = |seq| Cursor::Snapshot { sent: Some((last_key.clone(), seq)) };
        let position = self.snapshot.position().seq;
        let end = upto(reached.unwrap_or(position));
        let page = page_of(self.view, changes, self.budget.coalesce, upto, end, self.metrics);
        if reached.is_some() {
            return Ok(CatchUp::Page(page));
        }
        let mut page = self.rows(Some(last_key), page.items)?;
        if let (true, Cursor::After(after)) = (PlantedBug::SnapshotKeepsFirstPosition.is_planted(), &mut page.cursor) {
            *after = at;
        }
        Ok(CatchUp::Page(page))
    }

    /// The changes after `after` to keys that are `wanted`, and the last one looked at unless those were all. `None` where
    /// retention has removed some of them.
    fn changes(&self, after: Seq, wanted: impl Fn(&Key) -> bool) -> Result<Option<Found>, StoreError> {
        let mut found = Found { changes: Vec::new(), reached: Some(after) };
        let mut from = after;
        for _ in 0..SCANNED_PAGES {
            let (changes, complete) = match self.snapshot.changes_after(&self.view.table, from, self.budget.page)? {
                ChangePage::Trimmed => return Ok(None),
                ChangePage::Changes { changes, complete } => (changes, complete),
            };
            from = changes.last().map_or(from, |last| last.seq);
            found.reached = (!complete).then_some(from);
            let changes = changes.into_iter().filter(|change| wanted(&change.key));
            found.changes.extend(changes.map(|change| Published::new(change, self.view.secrets)));
            if self.budget.coalesce {
                // Before the filter looks at them: together, changes may bring a row into the view that none does alone.
                found.changes = coalesced(found.changes, self.metrics);
            } else {
                found
                    .changes
                    .retain(|published| self.view.kind(published.change(), &self.metrics.row_problems).is_some());
            }
            let bytes: usize = found.changes.iter().map(|published| published.size()).sum();
            if complete || bytes >= self.budget.page.bytes || found.changes.len() >= self.budget.page.items {
                break;
            }
        }
        Ok(Some(found))
    }

    /// The rows that follow `last_key`, behind `items`.
    fn rows(&self, last_key: Option<&Key>, mut items: Vec<PageItem>) -> Result<Page, StoreError> {
        let position = self.snapshot.position().seq;
        let mut last_key = last_key.cloned();
        for _ in 0..SCANNED_PAGES {
            let page = self.snapshot.rows_after(&self.view.table, last_key.as_ref(), self.budget.page)?;
            let skipped = usize::from(last_key.is_some() && PlantedBug::SnapshotPageSkipsARow.is_planted());
            last_key = page.rows.last().map(|row| row.key.clone()).or(last_key);
            items.extend(page.rows.into_iter().skip(skipped).filter_map(|row| self.row_item(row, position)));
            if page.complete || last_key.is_none() {
                return Ok(Page { items, cursor: Cursor::After(position) });
            }
            if !items.is_empty() {
                break;
            }
        }
        let sent = last_key.map(|key| (key, position));
        Ok(Page { items, cursor: Cursor::Snapshot { sent } })
    }

    fn row_item(&self, mut row: Row, position: Seq) -> Option<PageItem> {
        row.document = redacted(&row.document, self.view.secrets);
        if !self.view.contains(&row.key, &row.document, &self.metrics.row_problems) {
            return None;
        }
        let cursor = if PlantedBug::TokenBeforeTheSnapshotEnds.is_planted() {
            Cursor::After(position)
        } else {
            Cursor::Snapshot { sent: Some((row.key.clone(), position)) }
        };
        Some(PageItem { content: Content::Row(row), cursor: Some(cursor) })
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
    pub fn page(self, metrics: &Metrics) -> Page {
        let changes = if self.coalesce { coalesced(self.changes, metrics) } else { self.changes };
        page_of(&self.view, changes, self.coalesce, Cursor::After, Cursor::After(self.end), metrics)
    }
}

/// The page that `changes` make for `view`.
fn page_of(
    view: &View,
    changes: Vec<Arc<Published>>,
    coalesce: bool,
    cursor_at: impl Fn(Seq) -> Cursor,
    end: Cursor,
    metrics: &Metrics,
) -> Page {
    let has_cursors = !coalesce || PlantedBug::CoalescedChangesHaveTokens.is_planted();
    let mut items: Vec<PageItem> = changes
        .into_iter()
        .filter_map(|published| {
            let kind = view.kind(published.change(), &metrics.row_problems)?;
            // Between coalesced changes a client holds what never was: some rows are newer than others.
            let cursor = has_cursors.then(|| cursor_at(published.seq()));
            Some(PageItem { content: Content::Change(SeenChange::Replayed(published, kind)), cursor })
        })
        .collect();
    if let (true, Some(last)) = (coalesce, items.last_mut()) {
        last.cursor = Some(end.clone());
    }
    Page { items, cursor: end }
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
