//! The subscriptions of a session: each is live, or behind and catching up. One path serves those that are new, those that
//! were cut off, and those whose client was too slow.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use super::Read;
use crate::catalog::CatalogTable;
use crate::change::Seq;
use crate::feed::{Advance, CatchUp, Cursor, Delivery, Outbox, PageItem, SubscriptionId};
use crate::store::{PageBudget, StoreError};
use crate::subscription::Subscription;
use crate::wire::{Event, ServerMessage};

/// Taken from the outbox at a time: enough for one write to the socket.
const TAKEN_BYTES: usize = 64 * 1024;

#[derive(Debug)]
struct Follower {
    subscription: Subscription,
    table: &'static CatalogTable,
    progress: Progress,
}

/// How far the client of a subscription is.
#[derive(Debug)]
enum Progress {
    /// It has what the cursor says and catches up.
    Behind(Cursor),
    /// It has everything up to here, and the feed hands over what follows.
    Live { after: Seq },
}

/// What a subscription that is behind is being sent.
#[derive(Debug)]
struct OpenPage {
    subscription_id: i32,
    items: VecDeque<PageItem>,
    cursor: Cursor,
}

/// The read that a subscription waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    Wanted(i32),
    Running,
}

/// The subscriptions of a session.
#[derive(Debug)]
pub(super) struct Followers {
    outbox: Arc<Outbox>,
    /// Boxed, because a node of the map has room for eleven.
    by_id: BTreeMap<i32, Box<Follower>>,
    ids: HashMap<SubscriptionId, i32>,
    /// Taken from the outbox, not yet sent.
    taken: VecDeque<Delivery>,
    /// Those that are behind, in turn; not the one whose page is open or read.
    behind: VecDeque<i32>,
    page: Option<OpenPage>,
    reading: Option<Reading>,
    /// Ended by the server; their clients are yet to be told.
    ended: VecDeque<(i32, String)>,
}

impl Followers {
    pub(super) fn new(outbox: Arc<Outbox>) -> Self {
        Self {
            outbox,
            by_id: BTreeMap::new(),
            ids: HashMap::new(),
            taken: VecDeque::new(),
            behind: VecDeque::new(),
            page: None,
            reading: None,
            ended: VecDeque::new(),
        }
    }

    pub(super) fn outbox(&self) -> &Arc<Outbox> {
        &self.outbox
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn add(&mut self, subscription_id: i32, subscription: Subscription, table: &'static CatalogTable) {
        self.ids.insert(subscription.id(), subscription_id);
        let progress = Progress::Behind(Cursor::Snapshot { sent: None });
        self.by_id.insert(subscription_id, Box::new(Follower { subscription, table, progress }));
        self.behind.push_back(subscription_id);
    }

    /// Ends a subscription; says whether there was one. What was taken for it already is not sent.
    pub(super) fn remove(&mut self, subscription_id: i32) -> bool {
        let Some(follower) = self.by_id.remove(&subscription_id) else {
            // One that has ended, and whose client does not know it yet, ends as the client wishes.
            let untold = self.ended.len();
            self.ended.retain(|(id, _)| *id != subscription_id);
            return self.ended.len() < untold;
        };
        self.ids.remove(&follower.subscription.id());
        self.behind.retain(|id| *id != subscription_id);
        self.page.take_if(|page| page.subscription_id == subscription_id);
        self.reading.take_if(|reading| *reading == Reading::Wanted(subscription_id));
        true
    }

    /// The next event, if there is one now: what the feed handed over first, so that those that are live stay live.
    pub(super) fn next_event(&mut self) -> Option<ServerMessage> {
        loop {
            if let Some((subscription_id, message)) = self.ended.pop_front() {
                let event = Event::Closed { message };
                return Some(ServerMessage::Event { subscription_id, event });
            }
            if let Some(message) = self.next_delivery() {
                return Some(message);
            }
            if let Some(message) = self.next_page_item() {
                return Some(message);
            }
            if !self.advance() {
                return None;
            }
        }
    }

    fn next_delivery(&mut self) -> Option<ServerMessage> {
        loop {
            if self.taken.is_empty() {
                self.outbox.take(TAKEN_BYTES, &mut self.taken);
            }
            match self.taken.pop_front()? {
                Delivery::Change { subscription, published } => {
                    let Some((subscription_id, follower)) = self.follower(subscription) else { continue };
                    let Progress::Live { after } = &mut follower.progress else {
                        panic!("a subscription that is behind was handed change {}", published.seq());
                    };
                    assert!(published.seq() > *after, "change {} was handed over after {after}", published.seq());
                    *after = published.seq();
                    let event = Event::Change { table: follower.table, published };
                    return Some(ServerMessage::Event { subscription_id, event });
                }
                Delivery::FellBehind { subscription, after } => {
                    let Some((subscription_id, follower)) = self.follower(subscription) else { continue };
                    follower.progress = Progress::Behind(Cursor::After(after));
                    self.behind.push_back(subscription_id);
                }
            }
        }
    }

    /// `None` for a subscription that has ended since.
    fn follower(&mut self, subscription: SubscriptionId) -> Option<(i32, &mut Follower)> {
        let subscription_id = *self.ids.get(&subscription)?;
        Some((subscription_id, self.by_id.get_mut(&subscription_id)?))
    }

    fn next_page_item(&mut self) -> Option<ServerMessage> {
        let page = self.page.as_mut()?;
        let subscription_id = page.subscription_id;
        let follower = self.by_id.get_mut(&subscription_id).expect("the page of an ended subscription is dropped");
        let Some(item) = page.items.pop_front() else {
            follower.progress = Progress::Behind(page.cursor.clone());
            self.behind.push_back(subscription_id);
            self.page = None;
            return None;
        };
        let table = follower.table;
        let event = match item {
            PageItem::Row(row) => Event::Row { table, row },
            PageItem::Change(published) => Event::Change { table, published },
        };
        Some(ServerMessage::Event { subscription_id, event })
    }

    /// Brings the next subscription that is behind closer to being live; says whether there may be something to send now.
    fn advance(&mut self) -> bool {
        if self.page.is_some() {
            return true;
        }
        if self.reading.is_some() {
            return false;
        }
        let Some(subscription_id) = self.behind.pop_front() else {
            return false;
        };
        let follower = self.by_id.get_mut(&subscription_id).expect("an ended subscription is not behind");
        let Progress::Behind(cursor) = &follower.progress else {
            panic!("a live subscription is in the queue of those that are behind");
        };
        let Cursor::After(after) = *cursor else {
            self.reading = Some(Reading::Wanted(subscription_id));
            return false;
        };
        match follower.subscription.advance(after, TAKEN_BYTES) {
            Advance::Live => {
                follower.progress = Progress::Live { after };
            }
            Advance::Replay(changes) => {
                let after = changes.last().map_or(after, |last| last.seq());
                self.page = Some(OpenPage {
                    subscription_id,
                    items: changes.into_iter().map(PageItem::Change).collect(),
                    cursor: Cursor::After(after),
                });
            }
            Advance::ReadLog => {
                self.reading = Some(Reading::Wanted(subscription_id));
                return false;
            }
        }
        true
    }

    /// The page that a subscription needs now; its result comes back by [`Followers::page`].
    pub(super) fn next_read(&mut self, budget: PageBudget) -> Option<Read> {
        let Some(Reading::Wanted(subscription_id)) = self.reading else {
            return None;
        };
        self.reading = Some(Reading::Running);
        let follower = self.by_id.get(&subscription_id).expect("the read of an ended subscription is not wanted");
        let Progress::Behind(cursor) = &follower.progress else {
            panic!("a live subscription wants to read");
        };
        Some(Read::Page {
            subscription_id,
            table: follower.subscription.table().clone(),
            cursor: cursor.clone(),
            budget,
        })
    }

    pub(super) fn page(&mut self, subscription_id: i32, result: Result<CatchUp, StoreError>) {
        assert_eq!(self.reading.take(), Some(Reading::Running), "a page was read that nobody asked for");
        if !self.by_id.contains_key(&subscription_id) {
            return;
        }
        match result {
            Ok(CatchUp::Page(page)) => {
                self.page = Some(OpenPage { subscription_id, items: page.items.into(), cursor: page.cursor });
            }
            Ok(CatchUp::Trimmed) => {
                let text = "the client is further behind than changes are kept; subscribe again for all rows";
                self.end(subscription_id, text.to_owned());
            }
            Err(error) => self.end(subscription_id, error.to_string()),
        }
    }

    fn end(&mut self, subscription_id: i32, message: String) {
        self.remove(subscription_id);
        self.ended.push_back((subscription_id, message));
    }
}
