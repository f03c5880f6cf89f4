//! What the server does: connections, their subscriptions, feeds, as a tree of names.

use super::super::SessionContext;
use crate::change::Seq;
use crate::feed::{FeedFigures, SourceState};
use crate::proto::{TaskTree, event};
use crate::subscription::{Listing, Permit, Progress};

/// Connections, and subscriptions of each, that the tree names; it says how many more there are.
const CONNECTIONS_MAX: usize = 1000;
const SUBSCRIPTIONS_MAX: usize = 128;

/// Names in one tree; more would be a burden for who looks at it.
const NAMES_MAX: usize = 10_000;

/// A subscription to the tree.
#[derive(Debug)]
pub(super) struct Tasks {
    period_ms: u64,
    due_ms: u64,
    _permit: Permit,
}

impl Tasks {
    pub(super) fn new(period_ms: u64, now_ms: u64, permit: Permit) -> Self {
        Self { period_ms, due_ms: now_ms, _permit: permit }
    }

    pub(super) fn due_ms(&self) -> u64 {
        self.due_ms
    }

    pub(super) fn next_event(&mut self, now_ms: u64, context: &SessionContext) -> Option<Box<event::Body>> {
        if now_ms < self.due_ms {
            return None;
        }
        self.due_ms = now_ms.saturating_add(self.period_ms);
        Some(Box::new(event::Body::TaskTree(tree(context))))
    }
}

fn tree(context: &SessionContext) -> TaskTree {
    let position = context.position();
    branch("<Root>", vec![connections(context, position), feeds(context), store(context, position)])
}

fn connections(context: &SessionContext, position: Seq) -> TaskTree {
    let (listed, total) = context.subscriptions.directory().connections(CONNECTIONS_MAX);
    let mut room = NAMES_MAX.saturating_sub(listed.len());
    let mut branches: Vec<TaskTree> = listed.iter().map(|listing| connection(listing, position, &mut room)).collect();
    add_more(&mut branches, total.saturating_sub(listed.len()));
    branch(&format!("connections: {total}"), branches)
}

fn connection(listing: &Listing, position: Seq, room: &mut usize) -> TaskTree {
    let (subscriptions, total) = listing.subscriptions(SUBSCRIPTIONS_MAX.min(*room));
    *room -= subscriptions.len();
    let leaves = subscriptions.iter().map(|(id, subject, progress)| {
        leaf(format!("subscription {id}: {subject}, {}", standing(*progress, position)))
    });
    let mut leaves: Vec<TaskTree> = leaves.collect();
    add_more(&mut leaves, total.saturating_sub(subscriptions.len()));
    let name =
        format!("connection {} from {}, {} bytes wait", listing.number(), listing.peer(), listing.waiting_bytes());
    branch(&name, leaves)
}

fn standing(progress: Progress, position: Seq) -> String {
    match progress {
        Progress::Live => "live".to_owned(),
        Progress::Snapshot => "reading the rows that are there".to_owned(),
        Progress::Behind(after) => format!("at most {} changes behind", position.0.saturating_sub(after.0)),
    }
}

fn feeds(context: &SessionContext) -> TaskTree {
    let figures = context.subscriptions.feeds().figures();
    let name = format!("feeds: {}", figures.len());
    branch(&name, figures.into_iter().map(feed).collect())
}

fn feed(FeedFigures { table, live, filters, source, lag }: FeedFigures) -> TaskTree {
    let source = match source {
        Some(SourceState::Level) => "level",
        Some(SourceState::Unread { .. }) => "not read from the source yet",
        Some(SourceState::InDoubt(_)) => "not followed in the source",
        None => "nobody is subscribed",
    };
    leaf(format!("{table}: {live} live subscriptions, {filters} filters, {lag} changes to hand over, {source}"))
}

fn store(context: &SessionContext, position: Seq) -> TaskTree {
    let waiting = context.subscriptions.count();
    leaf(format!("store: at change {position}, {waiting} subscriptions"))
}

fn leaf(name: String) -> TaskTree {
    TaskTree { name: Some(name), subtasks: Vec::new() }
}

/// Children come in the order of their names.
fn branch(name: &str, mut subtasks: Vec<TaskTree>) -> TaskTree {
    subtasks.sort_by(|one, other| one.name.cmp(&other.name));
    TaskTree { name: Some(name.to_owned()), subtasks }
}

fn add_more(subtasks: &mut Vec<TaskTree>, more: usize) {
    if more > 0 {
        subtasks.push(leaf(format!("… and {more} more")));
    }
}
