//! The subscriptions of a session: each is live, or behind and catching up. One path serves those that are new, those that
//! were cut off, and those whose client was too slow.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use super::follower::{Follower, Progress, Sealing};
use super::{Read, Share, Work, pop_front_if};
use crate::change::Seq;
use crate::feed::{
    Advance, Asked, CatchUp, Counted, Cursor, Delivery, Outbox, Page, PageItem, PageResult, Pages, Replay, RowsKind,
    SourceState, SubscriptionId, Waiting,
};
use crate::metrics::Metrics;
use crate::roster::{Numbered, Roster};
use crate::store::PageBudget;
use crate::subscription::{self, Listing, Permit, Subject};
use crate::wire::{End, Event, News, ResetReason, ServerMessage, StateKind};

/// Changes of a subscription that are taken from the outbox at a time: enough for one write to the socket.
const TAKEN_BYTES: usize = 16 * 1024;

/// A page has so little where not much more may wait: subscriptions that are behind must come on.
const PAGE_BYTES_MIN: usize = 4 * 1024;

/// What a subscription that is behind is being sent.
#[derive(Debug)]
struct OpenPage {
    subscription_id: i32,
    page: Arc<Page>,
    /// How much of it was sent.
    sent: usize,
    /// The next portion of its rows.
    portion: usize,
    _counted: Arc<Counted>,
}

/// What a page has next.
enum OfPage {
    /// A change or a row.
    Item(PageItem),
    /// These portions of its rows.
    Portions(Range<usize>),
}

impl OpenPage {
    fn new(subscription_id: i32, page: Arc<Page>, waiting: &Arc<Waiting>) -> Self {
        page.rows().opened();
        Self { subscription_id, sent: 0, portion: 0, _counted: page.hold(waiting), page }
    }

    /// What comes next; rows in portions, if they are taken so, as messages of a kind.
    fn next(&mut self, kind: Option<RowsKind>) -> Option<OfPage> {
        if let Some(kind) = kind.filter(|_| self.sent >= self.page.change_count()) {
            let portions = self.page.rows().portions(self.portion, kind)?;
            self.sent += self.page.rows().rows(&portions)?.len();
            self.portion = portions.end;
            return Some(OfPage::Portions(portions));
        }
        let item = self.page.item(self.sent)?;
        self.sent += 1;
        Some(OfPage::Item(item))
    }

    /// Whether at least half of it was sent.
    fn is_behind_the_middle(&self) -> bool {
        self.sent >= self.page.len().div_ceil(2)
    }
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
    sealing: Arc<Sealing>,
    metrics: Arc<Metrics>,
    listing: Arc<Listing>,
    pages: Arc<Pages>,
    now_ms: u64,
    /// The newest change that the client knows of because it has made it.
    written: Seq,
    /// Subscriptions with a collector.
    collecting: BTreeSet<i32>,
    /// How many subscriptions have heartbeats.
    heartbeats: usize,
    /// Boxed, so that no list of them has room for one that is not there.
    by_id: Roster<Box<Follower>>,
    /// For all of them.
    permit: Option<Permit>,
    /// Those that are behind, in turn; not the one whose page is open or read.
    behind: VecDeque<i32>,
    page: Option<OpenPage>,
    reading: Option<Reading>,
    /// The changes of the page that is wanted, if they are in memory.
    replay: Option<Replay>,
    /// What the page that is being read for this client may hold.
    reserved: Option<Counted>,
    /// The page behind the open one is wanted soon.
    wants_next_page: bool,
    /// What clients are to be told before anything else.
    announced: VecDeque<(i32, StateKind)>,
    /// Ended by the server; their clients are yet to be told.
    ended: VecDeque<(i32, String)>,
}

impl Followers {
    pub(super) fn new(
        outbox: Arc<Outbox>,
        sealing: Arc<Sealing>,
        metrics: Arc<Metrics>,
        listing: Arc<Listing>,
        pages: Arc<Pages>,
    ) -> Self {
        Self {
            outbox,
            sealing,
            metrics,
            listing,
            pages,
            now_ms: 0,
            written: Seq::ZERO,
            collecting: BTreeSet::new(),
            heartbeats: 0,
            by_id: Roster::default(),
            permit: None,
            behind: VecDeque::new(),
            page: None,
            reading: None,
            replay: None,
            reserved: None,
            wants_next_page: false,
            announced: VecDeque::new(),
            ended: VecDeque::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Adds a subscription; `reset` says why its client cannot go on where it wished to.
    pub(super) fn add(&mut self, mut follower: Follower, permit: Permit, reset: Option<ResetReason>) {
        let subscription_id = follower.number();
        match &mut self.permit {
            Some(of_all) => of_all.join(permit),
            none @ None => *none = Some(permit),
        }
        self.heartbeats += usize::from(follower.has_heartbeats());
        if follower.collects() {
            self.collecting.insert(subscription_id);
        }
        let progress = follower.listed();
        self.listing.add(subscription_id, Subject::View(follower.attachment.view()), progress);
        follower.begin(self.sealing.store.position().seq, self.written);
        let is_initializing = progress == subscription::Progress::Snapshot;
        let source = follower.attachment.enter(&self.outbox);
        match (source, follower.catching_up()) {
            (SourceState::Unread { .. }, Some(catching_up)) => catching_up.waits_for_source = true,
            _ => self.behind.push_back(subscription_id),
        }
        self.by_id.insert(Box::new(follower));
        if let Some(reason) = reset {
            self.announce_reset(subscription_id, reason);
        } else if is_initializing {
            self.announce(subscription_id, StateKind::Initializing);
        }
        self.tell_doubt(subscription_id, source);
    }

    /// Ends a subscription; says whether there was one. What waits for it is not sent.
    pub(super) fn remove(&mut self, subscription_id: i32) -> bool {
        let Some(follower) = self.by_id.remove(subscription_id) else {
            // One that has ended, and whose client does not know it yet, ends as the client wishes.
            let untold = self.ended.len();
            self.ended.retain(|(id, _)| *id != subscription_id);
            return self.ended.len() < untold;
        };
        self.permit.as_mut().expect("whoever is here has a permit").give_back_one();
        self.listing.remove(subscription_id);
        self.collecting.remove(&subscription_id);
        self.heartbeats -= usize::from(follower.has_heartbeats());
        self.behind.retain(|id| *id != subscription_id);
        self.announced.retain(|(id, _)| *id != subscription_id);
        self.page.take_if(|page| page.subscription_id == subscription_id);
        if self.reading.take_if(|reading| *reading == Reading::Wanted(subscription_id)).is_some() {
            self.replay = None;
        }
        true
    }

    /// The client knows of a write that has just been done.
    pub(super) fn wrote(&mut self) {
        self.written = self.sealing.store.position().seq;
    }

    /// Begins the heartbeats that are due at `now_ms`.
    pub(super) fn tick(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        if self.heartbeats == 0 {
            return;
        }
        let mut untold = Vec::new();
        for follower in self.by_id.iter_mut() {
            if follower.begins_heartbeat(now_ms) && !follower.attachment.mark() {
                untold.push(follower.number());
            }
        }
        self.announced.extend(untold.into_iter().map(|subscription_id| (subscription_id, StateKind::Heartbeat)));
    }

    /// When the next heartbeat or collected event is due, in milliseconds of the session's clock.
    pub(super) fn due_ms(&self) -> Option<u64> {
        let collected = self.collecting.iter().filter_map(|id| self.by_id.get(*id)?.collected_due_ms()).min();
        if self.heartbeats == 0 {
            return collected;
        }
        self.by_id.iter().filter_map(|follower| follower.heartbeat_due_ms()).chain(collected).min()
    }

    /// The event of the first subscription whose collector has one.
    fn next_collected(&mut self) -> Option<(i32, Event)> {
        self.collecting.iter().find_map(|&subscription_id| {
            let collector = self.by_id.get_mut(subscription_id)?.collector()?;
            let body = collector.next_event(self.now_ms)?;
            Some((subscription_id, Event { news: News::Body(body), token: None, number: None }))
        })
    }

    /// The next event, if there is one now: what the feed handed over first, so that those that are live stay live.
    pub(super) fn next_event(&mut self) -> Option<ServerMessage> {
        loop {
            if let Some((subscription_id, message)) = self.ended.pop_front() {
                let news = News::Closed { end: End::Error, message: Some(message) };
                let event = Event { news, token: None, number: None };
                return Some(ServerMessage::Event { subscription_id, event });
            }
            let event = self.next_collected().or_else(|| self.next_announcement());
            let message = event.map(event_message).or_else(|| self.next_delivery());
            if let Some(message) = message.or_else(|| self.next_of_page()) {
                return Some(message);
            }
            if self.announced.is_empty() && !self.advance() {
                return None;
            }
        }
    }

    fn announce(&mut self, subscription_id: i32, kind: StateKind) {
        if self.by_id.get(subscription_id).is_some_and(|follower| follower.tells_states()) {
            self.announced.push_back((subscription_id, kind));
        }
    }

    /// Tells the client why its rows may differ from those of the source, unless it was told so last.
    fn tell_doubt(&mut self, subscription_id: i32, source: SourceState) {
        let Some(follower) = self.by_id.get_mut(subscription_id) else { return };
        if let Some(doubt) = source.doubt()
            && follower.is_news(doubt)
        {
            self.announce(subscription_id, StateKind::InDoubt(doubt));
        }
    }

    /// The table of a subscription stands otherwise to its source, now that everything before it was handed over.
    fn source_changed(&mut self, subscription_id: i32, source: SourceState) {
        let follower = self.by_id.get_mut(subscription_id).expect("only what is there is told of its source");
        match (&mut follower.progress, source) {
            (Progress::Behind(catching_up), SourceState::Level | SourceState::InDoubt(_)) => {
                // Where it is behind for another reason, it is told when it is live.
                if std::mem::take(&mut catching_up.waits_for_source) {
                    self.behind.push_back(subscription_id);
                }
            }
            (Progress::Live { .. }, SourceState::Level) => {
                if follower.forget_doubt() {
                    self.announce(subscription_id, StateKind::Live);
                }
            }
            (Progress::Behind(_) | Progress::Live { .. }, _) => {}
        }
        self.tell_doubt(subscription_id, source);
    }

    fn announce_reset(&mut self, subscription_id: i32, reason: ResetReason) {
        self.metrics.resets.get_or_create(&vec![("reason", reason.label().to_owned())]).inc();
        self.announced.push_back((subscription_id, StateKind::Reset(reason)));
        self.announce(subscription_id, StateKind::Initializing);
    }

    fn next_announcement(&mut self) -> Option<(i32, Event)> {
        let (subscription_id, kind) = self.announced.pop_front()?;
        let follower =
            self.by_id.get_mut(subscription_id).expect("the announcements of an ended subscription are dropped");
        Some((subscription_id, follower.state_event(kind, &self.sealing)))
    }

    /// Stops at what is to be announced first.
    fn next_delivery(&mut self) -> Option<ServerMessage> {
        loop {
            match self.outbox.pop(TAKEN_BYTES)? {
                Delivery::Changes { subscription, changes, .. } => {
                    let Some((subscription_id, follower)) = follower(&mut self.by_id, subscription) else {
                        continue;
                    };
                    if let Some(changes) = follower.live_events(changes, &self.sealing) {
                        return Some(ServerMessage::Changes { subscription_id, changes });
                    }
                }
                Delivery::FellBehind { subscription, after, summary } => {
                    let Some((subscription_id, follower)) = follower(&mut self.by_id, subscription) else {
                        continue;
                    };
                    follower.fall_behind(after, summary);
                    self.listing.note(subscription_id, follower.listed());
                    self.behind.push_back(subscription_id);
                    self.announce(subscription_id, StateKind::Slow);
                }
                Delivery::Mark { subscription, at, summary } => {
                    let Some((subscription_id, follower)) = follower(&mut self.by_id, subscription) else {
                        continue;
                    };
                    follower.reach(at, summary);
                    self.announce(subscription_id, StateKind::Heartbeat);
                }
                Delivery::Source { subscription, state } => {
                    if self.by_id.get(subscription.number()).is_some() {
                        self.source_changed(subscription.number(), state);
                    }
                }
            }
            if !self.announced.is_empty() {
                return None;
            }
        }
    }

    fn next_of_page(&mut self) -> Option<ServerMessage> {
        if !self.announced.is_empty() {
            return None;
        }
        let page = self.page.as_mut()?;
        let subscription_id = page.subscription_id;
        let follower = self.by_id.get_mut(subscription_id).expect("the page of an ended subscription is dropped");
        let was_behind_the_middle = page.is_behind_the_middle();
        if let Some(next) = page.next(follower.rows_kind()) {
            self.wants_next_page |= page.is_behind_the_middle() && !was_behind_the_middle;
            return match next {
                OfPage::Portions(portions) => {
                    let rows = follower.portions(page.page.rows(), portions);
                    Some(ServerMessage::Rows { subscription_id, rows })
                }
                OfPage::Item(item) => {
                    let event = follower.page_event(item, &self.sealing)?;
                    Some(ServerMessage::Event { subscription_id, event })
                }
            };
        }
        let is_ready = follower.end_page(page.page.cursor.clone());
        self.listing.note(subscription_id, follower.listed());
        let source = follower.attachment.source();
        self.behind.push_back(subscription_id);
        (self.page, self.wants_next_page) = (None, false);
        if is_ready {
            self.announce(subscription_id, StateKind::Ready);
        }
        self.tell_doubt(subscription_id, source);
        None
    }

    /// Brings the next subscription that is behind closer to being live; says whether there may be something to send now.
    fn advance(&mut self) -> bool {
        if self.page.is_some() {
            return true;
        }
        if self.reading.is_some() {
            return false;
        }
        let Some(subscription_id) = pop_front_if(&mut self.behind, |_| true) else {
            return false;
        };
        let follower = self.by_id.get_mut(subscription_id).expect("an ended subscription is not behind");
        let Progress::Behind(catching_up) = &follower.progress else {
            panic!("a live subscription is in the queue of those that are behind");
        };
        let Cursor::After(after) = catching_up.cursor else {
            self.reading = Some(Reading::Wanted(subscription_id));
            return false;
        };
        let budget = follower.budget(PageBudget { items: usize::MAX, bytes: TAKEN_BYTES });
        let (standing, plain) = (follower.standing(after), follower.plain());
        match follower.attachment.advance(standing, &self.outbox, plain, budget) {
            Advance::Live(source) => {
                let is_ready = follower.take_ready();
                follower.progress = Progress::Live { after };
                self.listing.note(subscription_id, subscription::Progress::Live);
                follower.forget_doubt();
                if is_ready {
                    self.announce(subscription_id, StateKind::Ready);
                }
                match source.doubt() {
                    Some(_) => self.tell_doubt(subscription_id, source),
                    None => self.announce(subscription_id, StateKind::Live),
                }
            }
            // No filter runs on the loop of a connection.
            Advance::Replay(replay) if replay.is_filtered() => {
                self.reading = Some(Reading::Wanted(subscription_id));
                self.replay = Some(replay);
                return false;
            }
            Advance::Replay(replay) => {
                let page = replay.page(&self.metrics);
                debug_assert_ne!(page.cursor, Cursor::After(after), "a page that brings nobody on, for ever");
                self.page = Some(OpenPage::new(subscription_id, page, self.outbox.waiting()));
            }
            Advance::ReadLog => {
                self.reading = Some(Reading::Wanted(subscription_id));
                return false;
            }
        }
        true
    }

    /// The page that a subscription needs now; its result comes back by [`Followers::page`].
    pub(super) fn next_read(&mut self, page: PageBudget) -> Option<Work> {
        let Some(Reading::Wanted(subscription_id)) = self.reading else {
            return None;
        };
        self.reading = Some(Reading::Running);
        if let Some(replay) = self.replay.take() {
            let metrics = Arc::clone(&self.metrics);
            return Some(Work::Read(Read::Replay { subscription_id, replay, metrics }));
        }
        let follower = self.by_id.get(subscription_id).expect("the read of an ended subscription is not wanted");
        Some(match self.ask(follower, None, page) {
            Asked::Shared(page) => {
                self.metrics.pages_shared.inc();
                Work::Share(Share { subscription_id, page })
            }
            Asked::Unread(page) => {
                self.reserved = Some(Counted::new(page.bytes(), self.outbox.waiting()));
                let to_come = follower.rows_to_come(0);
                Work::Read(Read::Page { subscription_id, page, to_come })
            }
        })
    }

    /// The page behind the one that is being sent: it is read meanwhile, if nobody has read it yet. It is for all who need it, and
    /// nobody holds it back for this client.
    pub(super) fn next_page_ahead(&mut self, budget: PageBudget) -> Option<Read> {
        if !std::mem::take(&mut self.wants_next_page) {
            return None;
        }
        let OpenPage { subscription_id, page, sent, .. } = self.page.as_ref()?;
        let cursor @ Cursor::Snapshot { .. } = &page.cursor else { return None };
        // It will be read when it is needed.
        if page.rows().is_laid_out() && self.sealing.store.is_in_memory() {
            return None;
        }
        let follower = self.by_id.get(*subscription_id)?;
        let to_come = follower.rows_to_come(page.len() - sent);
        match self.ask(follower, Some(cursor.clone()), budget) {
            Asked::Shared(_) => None,
            Asked::Unread(page) => Some(Read::PageAhead(page, to_come)),
        }
    }

    /// Only two sizes, full or small: pages that end where those of others end can be shared.
    fn ask(&self, follower: &Follower, cursor: Option<Cursor>, mut budget: PageBudget) -> Asked {
        self.pages.tick(self.now_ms);
        let waiting = self.outbox.waiting();
        let mut request = follower.page_request(cursor, budget);
        if waiting.room_for_pages() < budget.bytes {
            if let Some(shared) = self.pages.shared(&request) {
                return Asked::Shared(shared);
            }
            budget.bytes = budget.bytes.min(PAGE_BYTES_MIN);
            request.budget.page = budget;
        }
        self.pages.ask(request, self.sealing.store.position().seq)
    }

    /// The page that was being read is not: it is asked for again.
    pub(super) fn page_given_up(&mut self, subscription_id: i32) {
        assert_eq!(self.reading.take(), Some(Reading::Running), "a page was given up that nobody asked for");
        if self.by_id.get(subscription_id).is_some() {
            self.behind.push_front(subscription_id);
        }
    }

    pub(super) fn page(&mut self, subscription_id: i32, result: PageResult) {
        assert_eq!(self.reading.take(), Some(Reading::Running), "a page was read that nobody asked for");
        self.reserved = None;
        let Some(follower) = self.by_id.get_mut(subscription_id) else {
            return;
        };
        match result {
            Ok(CatchUp::Page(page)) => {
                self.page = Some(OpenPage::new(subscription_id, page, self.outbox.waiting()));
            }
            Ok(CatchUp::Trimmed) if follower.knows_resets => {
                follower.start_anew();
                follower.begin(self.sealing.store.position().seq, self.written);
                self.behind.push_back(subscription_id);
                self.announce_reset(subscription_id, ResetReason::Retention);
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

fn event_message((subscription_id, event): (i32, Event)) -> ServerMessage {
    ServerMessage::Event { subscription_id, event }
}

/// `None` for a subscription that has ended since; its number is not given again.
fn follower(by_id: &mut Roster<Box<Follower>>, subscription: SubscriptionId) -> Option<(i32, &mut Follower)> {
    let subscription_id = subscription.number();
    Some((subscription_id, by_id.get_mut(subscription_id)?))
}
