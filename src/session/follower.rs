//! One subscription of a session: what its client asked for, how far it has come, and what it holds there.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::collector::Collector;
use crate::change::Seq;
use crate::feed::{
    Attachment, CatchUpBudget, Content, Cursor, MessageKind, PageItem, PageRequest, RowsKind, SeenChange, SnapshotRows,
    SourceDoubt, Standing, ViewChanges,
};
use crate::roster::Numbered;
use crate::store::{PageBudget, Store};
use crate::subscription;
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
    /// It catches up.
    Behind(Box<CatchingUp>),
    /// It has everything up to here, and the feed hands over what follows.
    Live { after: Seq },
}

/// What is known of a subscription only until it is live.
#[derive(Debug)]
pub(super) struct CatchingUp {
    /// Its client has what this says, and gets what follows.
    pub(super) cursor: Cursor,
    /// Not before its table is read from the source.
    pub(super) waits_for_source: bool,
    /// Where the client is with what it was sent; `None` between changes that make sense only together.
    place: Option<Cursor>,
    /// The change that the first page of a snapshot has to contain.
    at_least: Seq,
    /// The newest change of the store when the client asked: READY waits for it, unless the feed has yet to publish it.
    asked_at: Seq,
    /// All rows were sent, and the client is yet to be told.
    owes_ready: bool,
}

impl CatchingUp {
    fn from(place: Cursor) -> Box<Self> {
        let (at_least, asked_at) = (Seq::ZERO, Seq::ZERO);
        Box::new(Self {
            cursor: place.clone(),
            waits_for_source: false,
            place: Some(place),
            at_least,
            asked_at,
            owes_ready: false,
        })
    }
}

/// A subscription of a session. There are very many, and most rest: what only some need is apart.
#[derive(Debug)]
pub(super) struct Follower {
    pub(super) attachment: Attachment,
    /// The messages that its changes are.
    kind: MessageKind,
    pub(super) progress: Progress,
    /// What the client holds there.
    summary: Summary,
    extras: Option<Box<Extras>>,
    /// Its client knows what a reset is.
    pub(super) knows_resets: bool,
    coalesce: bool,
    /// The summary was counted here from the first row on, and does not go on from what a token says.
    is_counted: bool,
}

const _: () = assert!(size_of::<Follower>() <= 80);

impl Numbered for Follower {
    type Number = i32;

    fn number(&self) -> i32 {
        self.attachment.number()
    }
}

/// What those need who get more than changes as they are.
#[derive(Debug, Default)]
struct Extras {
    /// What its tokens are for, if it gets some.
    tokens: Option<Scope>,
    states: Option<States>,
    /// Makes its events, if they are not those of rows.
    collector: Option<Box<dyn Collector>>,
}

/// What those need whose clients are told how they stand.
#[derive(Debug)]
struct States {
    /// The number of the last event.
    number: u64,
    heartbeat: Option<Heartbeat>,
    /// What its client was last told of the source.
    told: Option<SourceDoubt>,
}

/// Times are in milliseconds of the session's clock.
#[derive(Debug)]
struct Heartbeat {
    interval_ms: u64,
    /// When the next one is due.
    due_ms: u64,
    /// One is on its way through the outbox, or waits to be sent.
    waits: bool,
}

/// What seals the tokens of a session.
#[derive(Clone, Debug)]
pub(super) struct Sealing {
    pub(super) seal: TokenSeal,
    pub(super) store: Store,
}

impl Follower {
    /// A subscription that goes on at `place`, where its client holds `summary`; its tokens are for `scope`, if it gets some.
    pub(super) fn new(
        attachment: Attachment,
        wishes: Wishes,
        scope: Option<Scope>,
        place: Cursor,
        summary: Summary,
        now_ms: u64,
    ) -> Self {
        let heartbeat = wishes.heartbeat_ms.map(|interval_ms| {
            let due_ms = now_ms.saturating_add(interval_ms);
            Heartbeat { interval_ms, due_ms, waits: false }
        });
        let states = wishes.states.then_some(States { number: 0, heartbeat, told: None });
        let has_extras = scope.is_some() || states.is_some();
        Self {
            kind: wishes.shape.message_kind(attachment.number()),
            attachment,
            is_counted: place == Cursor::Snapshot { sent: None },
            progress: Progress::Behind(CatchingUp::from(place)),
            summary,
            extras: has_extras.then(|| Box::new(Extras { tokens: scope, states, collector: None })),
            knows_resets: wishes.knows_resets,
            coalesce: wishes.coalesce,
        }
    }

    /// The same, whose events are made by `collector`.
    pub(super) fn with_collector(mut self, collector: Box<dyn Collector>) -> Self {
        self.extras.get_or_insert_default().collector = Some(collector);
        self
    }

    /// Its client has asked when the store was at `asked_at`, and knows of all changes up to `known`.
    pub(super) fn begin(&mut self, asked_at: Seq, known: Seq) {
        let catching_up = self.catching_up().expect("a subscription begins behind");
        (catching_up.asked_at, catching_up.at_least) = (asked_at, known);
    }

    pub(super) fn catching_up(&mut self) -> Option<&mut CatchingUp> {
        match &mut self.progress {
            Progress::Behind(catching_up) => Some(catching_up),
            Progress::Live { .. } => None,
        }
    }

    /// Where its client is with what it was sent, if it can be said.
    fn place(&self) -> Option<Cursor> {
        match &self.progress {
            Progress::Behind(catching_up) => catching_up.place.clone(),
            Progress::Live { after } => Some(Cursor::After(*after)),
        }
    }

    fn set_place(&mut self, place: Option<Cursor>) {
        self.catching_up().expect("only what is behind gets pages").place = place;
    }

    fn states(&self) -> Option<&States> {
        self.extras.as_ref()?.states.as_ref()
    }

    fn states_mut(&mut self) -> Option<&mut States> {
        self.extras.as_mut()?.states.as_mut()
    }

    /// Whether its client is told how it stands.
    pub(super) fn tells_states(&self) -> bool {
        self.states().is_some()
    }

    pub(super) fn collector(&mut self) -> Option<&mut Box<dyn Collector>> {
        self.extras.as_mut()?.collector.as_mut()
    }

    /// Whether its events are not those of rows.
    pub(super) fn collects(&self) -> bool {
        self.extras.as_ref().is_some_and(|extras| extras.collector.is_some())
    }

    /// When its collector has something to say.
    pub(super) fn collected_due_ms(&self) -> Option<u64> {
        self.extras.as_ref()?.collector.as_ref()?.due_ms()
    }

    fn scope(&self) -> Option<Scope> {
        self.extras.as_ref()?.tokens
    }

    fn shape(&self) -> Shape {
        Shape::of_kind(self.kind).0
    }

    fn heartbeat(&mut self) -> Option<&mut Heartbeat> {
        self.states_mut()?.heartbeat.as_mut()
    }

    /// Whether its client gets heartbeats.
    pub(super) fn has_heartbeats(&self) -> bool {
        self.heartbeat_due_ms().is_some()
    }

    /// When the next heartbeat is due.
    pub(super) fn heartbeat_due_ms(&self) -> Option<u64> {
        Some(self.states()?.heartbeat.as_ref()?.due_ms)
    }

    /// Whether a heartbeat is to be begun now. A client that has not taken the last one gets no second one.
    pub(super) fn begins_heartbeat(&mut self, now_ms: u64) -> bool {
        let Some(heartbeat) = self.heartbeat().filter(|heartbeat| heartbeat.due_ms <= now_ms) else { return false };
        heartbeat.due_ms = now_ms.saturating_add(heartbeat.interval_ms);
        !std::mem::replace(&mut heartbeat.waits, true)
    }

    /// Whether its client is told of this doubt, which is not what it was told last.
    pub(super) fn is_news(&mut self, doubt: SourceDoubt) -> bool {
        self.states_mut().is_some_and(|states| states.told.replace(doubt) != Some(doubt))
    }

    /// Whether its client was told of a doubt last, which is forgotten.
    pub(super) fn forget_doubt(&mut self) -> bool {
        self.states_mut().is_some_and(|states| states.told.take().is_some())
    }

    /// The number of the next event, which so many are, if they are numbered.
    fn take_numbers(&mut self, count: u64) -> Option<u64> {
        let states = self.states_mut()?;
        let first = states.number + 1;
        states.number += count;
        Some(first)
    }

    /// How far it is, for whoever watches.
    pub(super) fn listed(&self) -> subscription::Progress {
        match &self.progress {
            Progress::Live { .. } => subscription::Progress::Live,
            Progress::Behind(catching_up) => match catching_up.cursor {
                Cursor::After(after) => subscription::Progress::Behind(after),
                Cursor::Snapshot { .. } => subscription::Progress::Snapshot,
            },
        }
    }

    /// What its client holds counts no more: it begins with all rows.
    pub(super) fn start_anew(&mut self) {
        self.progress = Progress::Behind(CatchingUp::from(Cursor::Snapshot { sent: None }));
        self.summary = Summary::default();
        self.is_counted = true;
    }

    /// Where it is, and what its client holds there, if it is behind `after`.
    pub(super) fn standing(&self, after: Seq) -> Standing {
        Standing { after, summary: self.summary, is_counted: self.is_counted }
    }

    /// It holds its view at `after`, which is `summary`, and is behind.
    pub(super) fn fall_behind(&mut self, after: Seq, summary: Summary) {
        self.progress = Progress::Behind(CatchingUp::from(Cursor::After(after)));
        self.summary = summary;
    }

    /// The kind of the messages that are all it gets of changes, if that is so. Then it need not know of them, either.
    pub(super) fn plain(&self) -> Option<MessageKind> {
        self.extras.is_none().then_some(self.kind)
    }

    /// A page has ended at `cursor`. Says whether its client holds all rows with it, as they were when it asked.
    pub(super) fn end_page(&mut self, cursor: Cursor) -> bool {
        let catching_up = self.catching_up().expect("only what is behind gets pages");
        let was_in_snapshot = matches!(catching_up.cursor, Cursor::Snapshot { .. });
        catching_up.owes_ready |= was_in_snapshot && matches!(cursor, Cursor::After(_));
        // The snapshot may have begun before, with somebody else.
        let holds_all = matches!(cursor, Cursor::After(after) if after >= catching_up.asked_at);
        catching_up.place = Some(cursor.clone());
        catching_up.cursor = cursor;
        holds_all && self.take_ready()
    }

    /// Says whether it holds all rows now, and has not been told so yet.
    pub(super) fn take_ready(&mut self) -> bool {
        let is_ready = self.catching_up().is_some_and(|catching_up| std::mem::take(&mut catching_up.owes_ready));
        if let Some(collector) = self.collector().filter(|_| is_ready) {
            collector.ready();
        }
        is_ready
    }

    /// It was handed everything up to `at`, and its view there is `summary`.
    pub(super) fn reach(&mut self, at: Seq, summary: Summary) {
        self.progress = Progress::Live { after: at };
        self.summary = summary;
    }

    pub(super) fn budget(&self, page: PageBudget) -> CatchUpBudget {
        CatchUpBudget { page, coalesce: self.coalesce }
    }

    /// What it needs when it has come up to `cursor`, or to where it is.
    pub(super) fn page_request(&self, cursor: Option<Cursor>, page: PageBudget) -> PageRequest {
        let Progress::Behind(catching_up) = &self.progress else {
            panic!("a live subscription wants to read");
        };
        // Who joins a snapshot of others does not come to depend on the log by that.
        let at_least = catching_up.at_least.max(self.attachment.reaches_back_to());
        let cursor = cursor.unwrap_or_else(|| catching_up.cursor.clone());
        PageRequest { view: self.attachment.view(), cursor, budget: self.budget(page), at_least }
    }

    /// Whether it is sent many rows of a page at once: nothing comes between them, and none is a place to go on from.
    fn takes_portions(&self) -> bool {
        self.scope().is_none() && !self.collects()
    }

    /// How it is sent rows, if it takes portions of them.
    pub(super) fn rows_kind(&self) -> Option<RowsKind> {
        self.takes_portions().then(|| RowsKind { message: self.kind, first_number: self.next_number() })
    }

    /// How it will be sent the rows of a page that begins behind so many events more, where they can be put together before.
    pub(super) fn rows_to_come(&self, events: usize) -> Option<RowsToCome> {
        let (shape, subscription_id) = Shape::of_kind(self.kind);
        let first_number = self.next_number().map(|number| number + events as u64);
        let can_be = self.takes_portions() && RowsToCome::can_be_laid_out(shape);
        can_be.then_some(RowsToCome { subscription_id, shape, first_number })
    }

    /// The number of the next event, if they are numbered.
    fn next_number(&self) -> Option<u64> {
        self.states().map(|states| states.number + 1)
    }

    /// The rows of some portions of a page.
    pub(super) fn portions(&mut self, rows: &Arc<SnapshotRows>, portions: Range<usize>) -> InitialRows {
        self.summary.add_all(rows.summary(portions.clone()));
        self.set_place(Some(Cursor::Snapshot { sent: None }));
        let mut rows = InitialRows { shape: self.shape(), rows: Arc::clone(rows), portions, first_number: None };
        rows.first_number = self.take_numbers(rows.range().len() as u64);
        rows
    }

    /// The event for an item of a page, unless it is only collected.
    pub(super) fn page_event(&mut self, item: PageItem, sealing: &Sealing) -> Option<Event> {
        match &item.content {
            Content::Row(row) => self.summary.add_all(row.summary()),
            Content::Change(change) => change.published().apply(change.kind(), &mut self.summary),
        }
        // Only a token names a place in the middle of a snapshot.
        let place = if self.scope().is_some() || !item.is_in_snapshot() {
            item.cursor()
        } else {
            Some(Cursor::Snapshot { sent: None })
        };
        self.set_place(place);
        let content = item.content;
        if let Some(collector) = self.collector() {
            match &content {
                Content::Row(row) => collector.row(&row.row()),
                Content::Change(change) => collector.change(change),
            }
            return None;
        }
        let token = self.token(sealing);
        Some(self.event(News::Row { shape: self.shape(), content }, token))
    }

    /// The events for changes that the feed handed over, unless they are only collected.
    pub(super) fn live_events(&mut self, changes: ViewChanges, sealing: &Sealing) -> Option<LiveChanges> {
        let Progress::Live { mut after } = self.progress else {
            panic!("a subscription that is behind was handed changes");
        };
        let scope = self.scope();
        for change in changes.left() {
            let seq = change.published().seq();
            assert!(seq > after, "change {seq} was handed over after {after}");
            after = seq;
            if let Some(scope) = scope {
                change.seal(|| sealing.sealed(scope, Place::At(seq), change.summary()));
            }
        }
        let last = changes.left().last()?;
        self.reach(after, last.summary());
        if let Some(collector) = self.collector() {
            changes.for_each(|change| collector.change(&SeenChange::Live(change)));
            return None;
        }
        let first_number = self.take_numbers(changes.left().len() as u64);
        Some(LiveChanges { shape: self.shape(), changes, with_tokens: scope.is_some(), first_number })
    }

    /// The event that says how the subscription stands.
    pub(super) fn state_event(&mut self, kind: StateKind, sealing: &Sealing) -> Event {
        if kind == StateKind::Heartbeat
            && let Some(heartbeat) = self.heartbeat()
        {
            heartbeat.waits = false;
        }
        let holds = match self.place() {
            Some(Cursor::After(seq)) => Some((seq, self.summary)),
            Some(Cursor::Snapshot { .. }) | None => None,
        };
        let token = self.token(sealing);
        self.event(News::State(State { kind, epoch: sealing.store.epoch(), holds }), token)
    }

    fn event(&mut self, news: News, token: Option<Bytes>) -> Event {
        Event { news, token, number: self.take_numbers(1) }
    }

    /// The token with which the client goes on from where it is; `None` where nobody could.
    fn token(&self, sealing: &Sealing) -> Option<Bytes> {
        let scope = self.scope()?;
        // Who went on from there would not be told any more that it has all rows.
        if let Progress::Behind(catching_up) = &self.progress
            && catching_up.owes_ready
            && self.tells_states()
        {
            return None;
        }
        let place = match self.place()? {
            Cursor::After(seq) => Place::At(seq),
            Cursor::Snapshot { sent: Some((key, at)) } => Place::UpTo(key, at),
            Cursor::Snapshot { sent: None } => return None,
        };
        Some(sealing.sealed(scope, place, self.summary))
    }
}

impl Sealing {
    fn sealed(&self, scope: Scope, place: Place, summary: Summary) -> Bytes {
        self.seal.seal(&Token { epoch: self.store.epoch(), scope, place, summary })
    }
}
