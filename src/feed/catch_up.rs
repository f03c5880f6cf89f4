//! What a subscription that is behind reads from the store: a snapshot page by page, or the log.
//!
//! Each page is read from one [`Snapshot`], which is then let go. The pages of a long snapshot are
//! at different positions; so each brings, before its rows, what happened since the last page to the rows of earlier
//! pages. After each page a client holds exactly the rows up to the page's last key, as of the page's position.

use std::sync::Arc;

use super::Published;
use crate::change::{Key, Row, Seq, Table};
use crate::planted::PlantedBug;
use crate::store::{ChangePage, PageBudget, Snapshot, StoreError};

/// How far a subscription that is behind has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cursor {
    /// In the snapshot.
    Snapshot {
        /// The last key sent, and the position at which the rows up to it are exact; `None` before the first page.
        sent: Option<(Key, Seq)>,
    },
    /// Behind the snapshot: everything up to `after` was sent.
    After(Seq),
}

/// What a page brings.
#[derive(Clone, Debug)]
pub enum PageItem {
    /// A row of the snapshot.
    Row(Row),
    /// A change.
    Change(Arc<Published>),
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
    table: &Table,
    cursor: &Cursor,
    budget: PageBudget,
) -> Result<CatchUp, StoreError> {
    match cursor {
        Cursor::After(after) => log_page(snapshot, table, *after, budget),
        Cursor::Snapshot { sent: None } => snapshot_page(snapshot, table, None, Vec::new(), budget),
        Cursor::Snapshot { sent: Some((last_key, at)) } => later_snapshot_page(snapshot, table, last_key, *at, budget),
    }
}

fn log_page(snapshot: &Snapshot, table: &Table, after: Seq, budget: PageBudget) -> Result<CatchUp, StoreError> {
    let from = if PlantedBug::LogReadSkipsOneChange.is_planted() { after.next() } else { after };
    match snapshot.changes_after(table, from, budget)? {
        ChangePage::Trimmed => Ok(CatchUp::Trimmed),
        ChangePage::Changes { changes, complete } => {
            // A complete page brings the subscription to the snapshot's position, even where the newest changes are of other tables.
            let reached = match changes.last() {
                Some(last) if !complete => last.seq,
                _ => snapshot.position().seq.max(after),
            };
            let items = changes.into_iter().map(|change| PageItem::Change(Published::new(change))).collect();
            Ok(CatchUp::Page(Page { items, cursor: Cursor::After(reached) }))
        }
    }
}

fn later_snapshot_page(
    snapshot: &Snapshot,
    table: &Table,
    last_key: &Key,
    at: Seq,
    budget: PageBudget,
) -> Result<CatchUp, StoreError> {
    let (changes, complete) = match snapshot.changes_after(table, at, budget)? {
        ChangePage::Trimmed => return Ok(CatchUp::Trimmed),
        ChangePage::Changes { changes, complete } => (changes, complete),
    };
    let newest = changes.last().map(|change| change.seq);
    // What happened to later keys is left to their page.
    let items: Vec<PageItem> = changes
        .into_iter()
        .filter(|change| change.key <= *last_key && !PlantedBug::SnapshotIgnoresEarlierPages.is_planted())
        .map(|change| PageItem::Change(Published::new(change)))
        .collect();
    match newest {
        Some(newest) if !complete => {
            Ok(CatchUp::Page(Page { items, cursor: Cursor::Snapshot { sent: Some((last_key.clone(), newest)) } }))
        }
        _ => {
            let mut page = snapshot_page(snapshot, table, Some(last_key), items, budget)?;
            if let (true, CatchUp::Page(Page { cursor: Cursor::After(after), .. })) =
                (PlantedBug::SnapshotKeepsFirstPosition.is_planted(), &mut page)
            {
                *after = at;
            }
            Ok(page)
        }
    }
}

fn snapshot_page(
    snapshot: &Snapshot,
    table: &Table,
    last_key: Option<&Key>,
    mut items: Vec<PageItem>,
    budget: PageBudget,
) -> Result<CatchUp, StoreError> {
    let position = snapshot.position().seq;
    let page = snapshot.rows_after(table, last_key, budget)?;
    let cursor = match page.rows.last() {
        Some(row) if !page.complete => Cursor::Snapshot { sent: Some((row.key.clone(), position)) },
        _ => Cursor::After(position),
    };
    let skipped = usize::from(last_key.is_some() && PlantedBug::SnapshotPageSkipsARow.is_planted());
    items.extend(page.rows.into_iter().skip(skipped).map(PageItem::Row));
    Ok(CatchUp::Page(Page { items, cursor }))
}
