//! One subscription of a session: what its client asked for, how far it has come, and what it holds there.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::collector::Collector;
use crate::change::Seq;
use crate::feed::{
    CatchUpBudget, Content, Cursor, MessageKind, PageItem, PageRequest, RowsKind, SeenChange, SnapshotRows,
    SourceDoubt, Standing, ViewChanges,
};
use crate::store::{PageBudget, Store};
use crate::subscription::{self, Subscription};
use crate::summary::Summary;
use crate::token::{Place, Token, TokenSeal};
use crate::view::Scope;
use crate::wire::{Event, InitialRows, LiveChanges, News, RowsToCome, Shape, State, StateKind};

/// What the client of a subscription asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wishes {
    pub(super) shape: Shape,
    /// It asked for states or tokens, so it knows what a reset is.
    pub(super) knows_resets: bool,
    pub(super) states: bool,
    pub(super) tokens: bool,
    pub(super) coalesce: bool,
    /// Milliseconds between heartbeats.
    pub(super) heartbeat_ms: Option<u64>,
}

/// How far the client of a subscription is.
#[derive(Debug)]
pub(super) enum Progress {
    /// It has what the cursor says, and waits until its table is read from the source.
    Waiting(Cursor),
    /// It has what the cursor says and catches up.
    Behind(Cursor),
    /// It has everything up to here, and the feed hands over what follows.
    Live { after: Seq },
}

/// A subscription of a session.
#[derive(Debug)]
pub(super) struct Follower {
    pub(super) subscription: Subscription,
    pub(super) wishes: Wishes,
    scope: Scope,
    pub(super) progress: Progress,
    /// Where the client is with what it was sent; `None` between changes that make sense only together.
    place: Option<Cursor>,
    /// What the client holds there.
    summary: Summary,
    /// That was counted here from the first row on, and does not go on from what a token says.
    is_counted: bool,
    /// The change that the first page of a snapshot has to contain.
    at_least: Seq,
    /// The newest change of the store when the client asked. With READY it holds everything up to there.
    asked_at: Seq,
    /// All rows were sent, and the client is yet to be told.
    owes_ready: bool,
    /// The number of the last event.
    number: u64,
    /// When the next heartbeat is due, in milliseconds of the session's clock.
    pub(super) heartbeat_due_ms: Option<u64>,
    /// One is on its way through the outbox, or waits to be sent.
    pub(super) heartbeat_waits: bool,
    /// What its client was last told of the source.
    pub(super) told: Option<SourceDoubt>,
    /// Makes its events, if they are not those of rows.
    pub(super) collector: Option<Box<dyn Collector>>,
}

/// What seals the tokens of a session.
#[derive(Clone, Debug)]
pub(super) struct Sealing {
    pub(super) seal: TokenSeal,
    pub(super) store: Store,
}

impl Follower {
    /// A subscription that goes on at `place`, where its client holds `summary`.
    pub(super) fn new(
        subscription: Subscription,
        wishes: Wishes,
        scope: Scope,
        place: Cursor,
        summary: Summary,
        now_ms: u64,
    ) -> Self {
        Self {
            subscription,
            wishes,
            scope,
            progress: Progress::Behind(place.clone()),
            is_counted: place == Cursor::Snapshot { sent: None },
            place: Some(place),
            summary,
            at_least: Seq::ZERO,
            asked_at: Seq::ZERO,
            owes_ready: false,
            number: 0,
            heartbeat_due_ms: wishes.heartbeat_ms.map(|interval_ms| now_ms.saturating_add(interval_ms)),
            heartbeat_waits: false,
            told: None,
            collector: None,
        }
    }

    /// The same, whose events are made by `collector`.
    pub(super) fn with_collector(self, collector: Box<dyn Collector>) -> Self {
        Self { collector: Some(collector), ..self }
    }

    /// Its client has asked when the store was at `asked_at`, and knows of all changes up to `known`.
    pub(super) fn begin(&mut self, asked_at: Seq, known: Seq) {
        (self.asked_at, self.at_least) = (asked_at, known);
    }

    /// How far it is, for whoever watches.
    pub(super) fn listed(&self) -> subscription::Progress {
        match &self.progress {
            Progress::Live { .. } => subscription::Progress::Live,
            Progress::Waiting(Cursor::After(after)) | Progress::Behind(Cursor::After(after)) => {
                subscription::Progress::Behind(*after)
            }
            Progress::Waiting(Cursor::Snapshot { .. }) | Progress::Behind(Cursor::Snapshot { .. }) => {
                subscription::Progress::Snapshot
            }
        }
    }

    /// What its client holds counts no more: it begins with all rows.
    pub(super) fn start_anew(&mut self) {
        self.owes_ready = false;
        let place = Cursor::Snapshot { sent: None };
        self.progress = Progress::Behind(place.clone());
        self.place = Some(place);
        self.summary = Summary::default();
        self.is_counted = true;
    }

    /// Where it is, and what its client holds there, if it is behind `after`.
    pub(super) fn standing(&self, after: Seq) -> Standing {
        Standing { after, summary: self.summary, is_counted: self.is_counted }
    }

    /// It holds its view at `after`, which is `summary`, and is behind.
    pub(super) fn fall_behind(&mut self, after: Seq, summary: Summary) {
        self.progress = Progress::Behind(Cursor::After(after));
        self.place = Some(Cursor::After(after));
        self.summary = summary;
    }

    /// The kind of the messages that are all it gets of changes, if that is so. Then it need not know of them, either.
    pub(super) fn plain(&self, subscription_id: i32) -> Option<MessageKind> {
        let Wishes { shape, states, tokens, heartbeat_ms, .. } = self.wishes;
        let is_plain = !states && !tokens && heartbeat_ms.is_none() && self.collector.is_none();
        is_plain.then(|| shape.message_kind(subscription_id))
    }

    /// A page has ended at `cursor`. Says whether its client holds all rows with it, as they were when it asked.
    pub(super) fn end_page(&mut self, cursor: Cursor) -> bool {
        let was_in_snapshot = matches!(self.progress, Progress::Behind(Cursor::Snapshot { .. }));
        let is_complete = was_in_snapshot && matches!(cursor, Cursor::After(_));
        self.place = Some(cursor.clone());
        self.progress = Progress::Behind(cursor);
        self.owes_ready |= is_complete;
        // The snapshot may have begun before, with somebody else.
        let holds_all = matches!(self.progress, Progress::Behind(Cursor::After(after)) if after >= self.asked_at);
        holds_all && self.take_ready()
    }

    /// Says whether it holds all rows now, and has not been told so yet.
    pub(super) fn take_ready(&mut self) -> bool {
        let is_ready = std::mem::take(&mut self.owes_ready);
        if let Some(collector) = self.collector.as_mut().filter(|_| is_ready) {
            collector.ready();
        }
        is_ready
    }

    /// It was handed everything up to `at`, and its view there is `summary`.
    pub(super) fn reach(&mut self, at: Seq, summary: Summary) {
        self.progress = Progress::Live { after: at };
        self.place = Some(Cursor::After(at));
        self.summary = summary;
    }

    pub(super) fn budget(&self, page: PageBudget) -> CatchUpBudget {
        CatchUpBudget { page, coalesce: self.wishes.coalesce }
    }

    /// What it needs when it has come up to `cursor`.
    pub(super) fn page_request(&self, cursor: Cursor, page: PageBudget) -> PageRequest {
        let (view, budget) = (Arc::clone(self.subscription.view()), self.budget(page));
        // Who joins a snapshot of others does not come to depend on the log by that.
        let at_least = self.at_least.max(self.subscription.reaches_back_to());
        PageRequest { view, cursor, budget, at_least }
    }

    /// Whether it is sent many rows of a page at once: nothing comes between them, and none is a place to go on from.
    fn takes_portions(&self) -> bool {
        !self.wishes.tokens && self.collector.is_none()
    }

    /// How it is sent rows, if it takes portions of them.
    pub(super) fn rows_kind(&self, subscription_id: i32) -> Option<RowsKind> {
        let message = self.wishes.shape.message_kind(subscription_id);
        self.takes_portions().then(|| RowsKind { message, first_number: self.next_number() })
    }

    /// How it will be sent the rows of a page that begins behind so many events more, where they can be put together before.
    pub(super) fn rows_to_come(&self, subscription_id: i32, events: usize) -> Option<RowsToCome> {
        let shape = self.wishes.shape;
        let first_number = self.next_number().map(|number| number + events as u64);
        let can_be = self.takes_portions() && RowsToCome::can_be_laid_out(shape);
        can_be.then_some(RowsToCome { subscription_id, shape, first_number })
    }

    fn next_number(&self) -> Option<u64> {
        self.wishes.states.then_some(self.number + 1)
    }

    /// The rows of some portions of a page.
    pub(super) fn portions(&mut self, rows: &Arc<SnapshotRows>, portions: Range<usize>) -> InitialRows {
        self.summary.add_all(rows.summary(portions.clone()));
        self.place = Some(Cursor::Snapshot { sent: None });
        let first_number = self.next_number();
        let rows = InitialRows { shape: self.wishes.shape, rows: Arc::clone(rows), portions, first_number };
        self.number += rows.range().len() as u64;
        rows
    }

    /// The event for an item of a page, unless it is only collected.
    pub(super) fn page_event(&mut self, item: PageItem, sealing: &Sealing) -> Option<Event> {
        match &item.content {
            Content::Row(row) => self.summary.add_all(row.summary()),
            Content::Change(change) => change.published().apply(change.kind(), &mut self.summary),
        }
        // Only a token names a place in the middle of a snapshot.
        self.place = if self.wishes.tokens || !item.is_in_snapshot() {
            item.cursor()
        } else {
            Some(Cursor::Snapshot { sent: None })
        };
        let content = item.content;
        if let Some(collector) = &mut self.collector {
            match &content {
                Content::Row(row) => collector.row(&row.row()),
                Content::Change(change) => collector.change(change),
            }
            return None;
        }
        let token = self.token(sealing);
        Some(self.event(News::Row { shape: self.wishes.shape, content }, token))
    }

    /// The events for changes that the feed handed over, unless they are only collected.
    pub(super) fn live_events(&mut self, changes: ViewChanges, sealing: &Sealing) -> Option<LiveChanges> {
        let Progress::Live { mut after } = self.progress else {
            panic!("a subscription that is behind was handed changes");
        };
        for change in changes.left() {
            let seq = change.published().seq();
            assert!(seq > after, "change {seq} was handed over after {after}");
            after = seq;
            if self.wishes.tokens {
                change.seal(|| self.sealed(sealing, Place::At(seq), change.summary()));
            }
        }
        let last = changes.left().last()?;
        self.reach(after, last.summary());
        if let Some(collector) = &mut self.collector {
            changes.for_each(|change| collector.change(&SeenChange::Live(change)));
            return None;
        }
        let first_number = self.wishes.states.then_some(self.number + 1);
        self.number += changes.left().len() as u64;
        Some(LiveChanges { shape: self.wishes.shape, changes, with_tokens: self.wishes.tokens, first_number })
    }

    /// The event that says how the subscription stands.
    pub(super) fn state_event(&mut self, kind: StateKind, sealing: &Sealing) -> Event {
        let holds = match self.place {
            Some(Cursor::After(seq)) => Some((seq, self.summary)),
            Some(Cursor::Snapshot { .. }) | None => None,
        };
        let token = self.token(sealing);
        self.event(News::State(State { kind, epoch: sealing.store.epoch(), holds }), token)
    }

    fn event(&mut self, news: News, token: Option<Bytes>) -> Event {
        self.number += 1;
        Event { news, token, number: self.wishes.states.then_some(self.number) }
    }

    /// None while its client is yet to be told that it has all rows: who went on from there would not be told any more.
    fn token(&self, sealing: &Sealing) -> Option<Bytes> {
        let waits_for_ready = self.owes_ready && self.wishes.states;
        if self.wishes.tokens && !waits_for_ready { self.sealed_place(sealing) } else { None }
    }

    /// The token with which the client goes on from where it is; `None` where nobody could.
    fn sealed_place(&self, sealing: &Sealing) -> Option<Bytes> {
        let place = match self.place.clone()? {
            Cursor::After(seq) => Place::At(seq),
            Cursor::Snapshot { sent: Some((key, at)) } => Place::UpTo(key, at),
            Cursor::Snapshot { sent: None } => return None,
        };
        Some(self.sealed(sealing, place, self.summary))
    }

    fn sealed(&self, sealing: &Sealing, place: Place, summary: Summary) -> Bytes {
        sealing.seal.seal(&Token { epoch: sealing.store.epoch(), scope: self.scope, place, summary })
    }
}
