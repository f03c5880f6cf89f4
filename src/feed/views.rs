//! The distinct views of a table: each filter is evaluated once, however many subscribe with it.

use std::hash::BuildHasher;
use std::hint::black_box;
use std::num::NonZeroU32;
use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use super::outbox::ViewChanges;
use super::{AttachError, FeedLimits, MessageKind, Outbox, Published, Standing, SubscriptionId, ViewChange};
use crate::change::{Change, ChangeKind, Seq};
use crate::matcher::{FilterId, Match, Matcher, Scratch};
use crate::metrics::Metrics;
use crate::roster::{Numbered, Roster};
use crate::row_problems::RowProblems;
use crate::summary::Summary;
use crate::view::{KeyRule, View, kind_in_view};

/// A view of a feed, for as long as it has subscribers; counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct ViewId(NonZeroU32);

impl ViewId {
    /// The one behind so many others.
    fn behind(count: usize) -> Self {
        let number = u32::try_from(count + 1).ok().and_then(NonZeroU32::new);
        Self(number.expect("a table has fewer than 2^32 views"))
    }

    fn slot(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// What tells views of one table apart.
fn key_of(view: &View) -> (KeyRule, Option<&str>) {
    (view.keys, view.filter.as_ref().map(|filter| filter.canonical()))
}

/// What filters demand of the server, beyond what an index makes cheap.
#[derive(Clone, Copy, Default)]
struct Demand {
    /// What it costs to try one row against those that an index does not make cheap.
    cost: u64,
    pattern_bytes: usize,
}

impl Demand {
    fn of(view: &View) -> Self {
        view.filter.as_ref().map_or_else(Self::default, |filter| Self {
            cost: if filter.is_cheap() { 0 } else { filter.cost().0 },
            pattern_bytes: filter.pattern_bytes(),
        })
    }

    fn add(&mut self, more: Self, limits: &FeedLimits) -> Result<(), AttachError> {
        let cost = self.cost + more.cost;
        if more.cost > 0 && cost > limits.table_filter_cost {
            return Err(AttachError::Cost(limits.table_filter_cost));
        }
        let pattern_bytes = self.pattern_bytes + more.pattern_bytes;
        if more.pattern_bytes > 0 && pattern_bytes > limits.pattern_bytes {
            return Err(AttachError::Patterns(limits.pattern_bytes));
        }
        *self = Self { cost, pattern_bytes };
        Ok(())
    }

    fn remove(&mut self, less: Self) {
        self.cost -= less.cost;
        self.pattern_bytes -= less.pattern_bytes;
    }
}

// What a change in the view needs comes first, to lie together.
#[repr(C)]
struct ViewState {
    /// The rows of the view at a position, once somebody has counted them.
    standing: Option<Standing>,
    live: Roster<Live>,
    keys: KeyRule,
    /// Another view by the same filter, under another rule of keys.
    next_of_filter: Option<ViewId>,
    filter: Option<FilterId>,
    subscriptions: u32,
    view: Arc<View>,
}

// There is one for each filter.
const _: () = assert!(size_of::<Option<ViewState>>() <= 120);

/// Which rows of a batch can be named under which rule: each is looked at once, however many views it is in.
struct Named<'a> {
    batch: &'a [Arc<Published>],
    problems: &'a RowProblems,
    known: Vec<[Option<bool>; KeyRule::COUNT]>,
}

impl<'a> Named<'a> {
    fn of(batch: &'a [Arc<Published>], problems: &'a RowProblems) -> Self {
        Self { batch, problems, known: vec![[None; KeyRule::COUNT]; batch.len()] }
    }

    /// The change at `at`, if its row can be named under `rule`.
    fn under(&mut self, rule: KeyRule, at: usize) -> Option<&'a Arc<Published>> {
        let published = &self.batch[at];
        let Change { table, key, .. } = published.change();
        let is_named = self.known[at][rule as usize].get_or_insert_with(|| rule.names(table, key, self.problems));
        is_named.then_some(published)
    }
}

/// A subscriber that is live.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) subscription: SubscriptionId,
    pub(super) outbox: Arc<Outbox>,
    /// The last change the subscriber has; only later ones are handed over.
    pub(super) after: Seq,
    /// The view there.
    pub(super) summary: Summary,
    /// A message of this kind is all that the subscriber gets of a change, if that is so.
    pub(super) plain: Option<MessageKind>,
}

// There is one for each subscription.
const _: () = assert!(size_of::<Live>() <= 48);

impl Numbered for Live {
    type Number = SubscriptionId;

    fn number(&self) -> SubscriptionId {
        self.subscription
    }
}

/// All views of a table.
pub(super) struct Views {
    slots: Vec<Option<ViewState>>,
    free: Vec<ViewId>,
    by_key: HashTable<ViewId>,
    hashing: FixedState,
    /// The views without a filter, which every change concerns.
    unfiltered: Vec<ViewId>,
    /// By the number of their filter: the first one, which leads to those under other rules of keys.
    by_filter: Vec<Option<ViewId>>,
    demand: Demand,
    /// Lent to the publisher while it matches: no filter runs under the lock.
    matching: Option<Box<Matching>>,
    /// What happened to the filters while it was lent.
    missed: Vec<Missed>,
}

enum Missed {
    Added(ViewId),
    Removed(FilterId),
}

/// The filters of a table, and room to match them.
pub(super) struct Matching {
    matcher: Matcher,
    scratch: Scratch,
    found: Vec<Match>,
}

/// What a change does in the view of a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Matched {
    filter: FilterId,
    /// Which change of the batch.
    at: usize,
    before: bool,
    after: bool,
}

impl Matching {
    /// What each change of `batch` does in the view of each filter.
    pub(super) fn run(&mut self, batch: &[Arc<Published>]) -> Vec<Matched> {
        let mut matched = Vec::new();
        for (at, published) in batch.iter().enumerate() {
            let Change { old, new, .. } = published.change();
            self.matcher.matches(old.as_ref(), new.as_ref(), &mut self.scratch, &mut self.found);
            matched.extend(self.found.iter().map(|found| {
                let Match { filter, old: before, new: after } = *found;
                Matched { filter, at, before, after }
            }));
        }
        matched.sort_unstable();
        matched
    }
}

impl Views {
    pub(super) fn new(seed: u64) -> Self {
        let matching = Matching { matcher: Matcher::new(seed), scratch: Scratch::default(), found: Vec::new() };
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            by_key: HashTable::new(),
            hashing: FixedState::with_seed(seed),
            unfiltered: Vec::new(),
            by_filter: Vec::new(),
            demand: Demand::default(),
            matching: Some(Box::new(matching)),
            missed: Vec::new(),
        }
    }

    /// Adds a subscription to `view`, or to the one that is like it.
    pub(super) fn attach(&mut self, view: View, limits: &FeedLimits) -> Result<ViewId, AttachError> {
        let hash = self.hashing.hash_one(key_of(&view));
        let is_it = |id: &ViewId| key_of(&self.state(*id).view) == key_of(&view);
        if let Some(&id) = self.by_key.find(hash, is_it) {
            self.state_mut(id).subscriptions += 1;
            return Ok(id);
        }
        self.demand.add(Demand::of(&view), limits)?;
        let has_filter = view.filter.is_some();
        let state = ViewState {
            keys: view.keys,
            view: Arc::new(view),
            next_of_filter: None,
            filter: None,
            subscriptions: 1,
            live: Roster::default(),
            standing: None,
        };
        let id = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            ViewId::behind(self.slots.len() - 1)
        });
        self.slots[id.slot()] = Some(state);
        let Self { by_key, hashing, slots, .. } = self;
        by_key.insert_unique(hash, id, |id| {
            let state = slots[id.slot()].as_ref().expect("a view that is found is there");
            hashing.hash_one(key_of(&state.view))
        });
        match (has_filter, &self.matching) {
            (false, _) => self.unfiltered.push(id),
            (true, Some(_)) => self.add_filter(id),
            (true, None) => self.missed.push(Missed::Added(id)),
        }
        Ok(id)
    }

    pub(super) fn detach(&mut self, id: ViewId, subscription: SubscriptionId) {
        let state = self.state_mut(id);
        state.live.remove(subscription);
        state.subscriptions -= 1;
        if state.subscriptions > 0 {
            return;
        }
        let state = self.slots[id.slot()].take().expect("a view stays as long as it has subscriptions");
        let hash = self.hashing.hash_one(key_of(&state.view));
        let entry = self.by_key.find_entry(hash, |other| *other == id).expect("a view is found by its key");
        entry.remove();
        self.free.push(id);
        self.unfiltered.retain(|other| *other != id);
        self.demand.remove(Demand::of(&state.view));
        match state.filter {
            Some(filter) => {
                self.unlink(filter, id, state.next_of_filter);
                self.remove_filter(filter);
            }
            // Added while the filters were lent, if it has one: then it is not among them yet.
            None => self.missed.retain(|missed| !matches!(missed, Missed::Added(added) if *added == id)),
        }
    }

    fn add_filter(&mut self, id: ViewId) {
        let Self { matching: Some(matching), slots, .. } = self else {
            panic!("a filter was added while the filters were lent");
        };
        let state = slots[id.slot()].as_mut().expect("a view that is attached is there");
        let filter = state.view.filter.as_ref().expect("a view without a filter is not matched");
        let filter_id = matching.matcher.insert(filter);
        state.filter = Some(filter_id);
        let at = filter_id.0 as usize;
        if self.by_filter.len() <= at {
            self.by_filter.resize(at + 1, None);
        }
        state.next_of_filter = self.by_filter[at].replace(id);
    }

    /// The view `id` of `filter` has gone, which led to `next`.
    fn unlink(&mut self, filter: FilterId, id: ViewId, next: Option<ViewId>) {
        let mut link = &mut self.by_filter[filter.0 as usize];
        while let Some(other) = link.filter(|other| *other != id) {
            let state = self.slots[other.slot()].as_mut().expect("a view that is linked is there");
            link = &mut state.next_of_filter;
        }
        *link = next;
    }

    fn remove_filter(&mut self, filter: FilterId) {
        match &mut self.matching {
            Some(matching) => matching.matcher.remove(filter),
            None => self.missed.push(Missed::Removed(filter)),
        }
    }

    /// The filters, to match a batch without the lock; `None` where there are none.
    pub(super) fn lend(&mut self) -> Option<Box<Matching>> {
        self.matching.take_if(|matching| !matching.matcher.is_empty())
    }

    pub(super) fn give_back(&mut self, matching: Box<Matching>) {
        assert!(self.matching.replace(matching).is_none(), "two publishers match at a time");
        for missed in std::mem::take(&mut self.missed) {
            match missed {
                Missed::Added(id) => self.add_filter(id),
                Missed::Removed(filter) => self.remove_filter(filter),
            }
        }
    }

    /// Hands `batch` to the subscribers of all views that it concerns; puts the outboxes that were empty to `ready`.
    pub(super) fn hand_over(
        &mut self,
        batch: &[Arc<Published>],
        matched: &[Matched],
        metrics: &Metrics,
        ready: &mut Vec<Arc<Outbox>>,
    ) {
        let mut room = Vec::new();
        let mut named = Named::of(batch, &metrics.row_problems);
        for at in 0..self.unfiltered.len() {
            let changes = batch.iter().enumerate().filter_map(|(at, published)| {
                let Change { old, new, .. } = published.change();
                Some((at, kind_in_view(old.is_some(), new.is_some())?))
            });
            self.state_mut(self.unfiltered[at]).hand_over(changes, &mut named, metrics, &mut room, ready);
        }
        self.ask_for_memory(matched);
        for of_filter in matched.chunk_by(|one, other| one.filter == other.filter) {
            // A view whose last subscriber left while it was matched is gone.
            let mut next = self.by_filter[of_filter[0].filter.0 as usize];
            while let Some(id) = next {
                let changes = of_filter
                    .iter()
                    .filter_map(|matched| Some((matched.at, kind_in_view(matched.before, matched.after)?)));
                let state = self.state_mut(id);
                state.hand_over(changes, &mut named, metrics, &mut room, ready);
                next = state.next_of_filter;
            }
        }
    }

    /// Reads a little of what handing over to each of `matched` needs. Of very many views hardly anything is in the caches, and a
    /// processor waits for the memory of all of them together no longer than for that of one, if nothing else stands in between.
    fn ask_for_memory(&self, matched: &[Matched]) {
        let views = || {
            let ids = matched.iter().filter_map(|matched| self.by_filter[matched.filter.0 as usize]);
            ids.map(|id| self.state(id))
        };
        let subscribers = || views().filter_map(|state| state.live.iter().next());
        black_box(views().fold(0, |all, state| all ^ state.live.len()));
        black_box(subscribers().fold(0, |all, live| all ^ live.after.0));
        black_box(subscribers().fold(0, |all, live| all ^ live.outbox.bytes_max()));
    }

    /// Makes the subscriber live, who stands where `standing` says. Everything up to `handed_over` was handed to the others of
    /// the view.
    pub(super) fn go_live(&mut self, id: ViewId, live: Live, standing: Standing, handed_over: Seq) -> GoneLive {
        let state = self.state_mut(id);
        state.live.insert(live);
        if let Some(filter) = &state.view.filter {
            filter.rest();
        }
        let Some(known) = state.standing else {
            state.standing = Some(standing);
            return GoneLive::AsExpected;
        };
        if known.after > standing.after {
            // Somebody has read from the store what is yet to be handed over; it is counted when it is.
            state.standing = Some(standing);
            return GoneLive::AsExpected;
        }
        if handed_over < standing.after || known.summary == standing.summary {
            return GoneLive::AsExpected;
        }
        // Whoever counted last is believed, but a token never against a count. The others are told at the next mark, and start
        // anew.
        if standing.is_counted || !known.is_counted {
            state.standing = Some(standing);
        }
        GoneLive::Diverged
    }

    /// What the subscriptions see.
    pub(super) fn view(&self, id: ViewId) -> &Arc<View> {
        &self.state(id).view
    }

    pub(super) fn live(&self, id: ViewId, subscription: SubscriptionId) -> Option<&Live> {
        self.state(id).live.get(subscription)
    }

    pub(super) fn summary(&self, id: ViewId) -> Option<Summary> {
        self.state(id).standing.map(|standing| standing.summary)
    }

    /// Does something for each subscriber that is live.
    pub(super) fn for_each_live(&self, mut work: impl FnMut(SubscriptionId, &Outbox)) {
        for state in self.slots.iter().flatten() {
            state.live.iter().for_each(|live| work(live.subscription, &live.outbox));
        }
    }

    /// The subscribers that are live.
    pub(super) fn live_count(&self) -> usize {
        self.slots.iter().flatten().map(|state| state.live.len()).sum()
    }

    /// The bytes that may wait now for each of those that get every change; `None` where nobody does.
    pub(super) fn room_for_each(&self) -> Option<usize> {
        let rosters = self.unfiltered.iter().map(|id| &self.state(*id).live);
        let count: usize = rosters.clone().map(Roster::len).sum();
        let waiting = rosters.flat_map(Roster::iter).map(|live| live.outbox.waiting()).next()?;
        Some(waiting.room() / count)
    }

    /// The distinct filters.
    pub(super) fn filter_count(&self) -> usize {
        self.by_key.len() - self.unfiltered.len()
    }

    fn state(&self, id: ViewId) -> &ViewState {
        self.slots[id.slot()].as_ref().expect("a view stays as long as it has subscriptions")
    }

    fn state_mut(&mut self, id: ViewId) -> &mut ViewState {
        self.slots[id.slot()].as_mut().expect("a view stays as long as it has subscriptions")
    }
}

/// Whether a subscriber that went live holds what the others of its view hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GoneLive {
    AsExpected,
    Diverged,
}

impl ViewState {
    /// `batch` is room for the changes, empty before and after.
    fn hand_over<'a>(
        &mut self,
        changes: impl Iterator<Item = (usize, ChangeKind)>,
        named: &mut Named<'a>,
        metrics: &Metrics,
        batch: &mut Vec<Arc<ViewChange>>,
        ready: &mut Vec<Arc<Outbox>>,
    ) {
        for (at, kind) in changes {
            let Some(published) = named.under(self.keys, at) else { continue };
            // Nobody has been live yet where there is none.
            let Some(standing) = &mut self.standing else { return };
            if published.seq() > standing.after {
                published.apply(kind, &mut standing.summary);
                standing.after = published.seq();
            }
            if !self.live.is_empty() {
                batch.push(ViewChange::new(Arc::clone(published), kind, standing.summary));
            }
        }
        if batch.is_empty() {
            return;
        }
        let Some(standing) = self.standing else { return };
        let changes = ViewChanges::new(batch, self.live.len());
        self.live.retain(|live| {
            let pushed = live.outbox.push(live, &changes);
            if pushed.is_first {
                ready.push(Arc::clone(&live.outbox));
            }
            if pushed.is_overflowed {
                // It is behind now and comes back by `Feed::advance`.
                metrics.fell_behind.inc();
            }
            if changes.head() > live.after {
                (live.after, live.summary) = (changes.head(), standing.summary);
            }
            !pushed.is_overflowed
        });
    }
}
