//! What writers wrote, what readers were told and what the store says that happened: compared when all is over.

use std::collections::BTreeMap;
use std::fmt;

use starfeed::change::{Key, Seq};
use starfeed::summary::Summary;

/// Writes move rows from group to group, so that they enter and leave filters all the time.
pub(crate) const GROUPS: u64 = 4;

/// One row after a change of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    /// The number of the change.
    pub(crate) version: u64,
    pub(crate) row: u32,
    /// The number of the write that is in the row now; `None` if it is gone.
    pub(crate) write: Option<u64>,
}

/// What a writer asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) row: u32,
    pub(crate) write: Option<u64>,
    /// What was asked for in one transaction has the same number.
    pub(crate) unit: u64,
    pub(crate) is_confirmed: bool,
}

/// What a reader was told and took in.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Told {
    /// The row was there at the start.
    Initial(Change),
    Changed(Change),
    /// What is held is the view at this change.
    Holds(u64, Summary),
    /// All rows of the start were sent.
    Ready,
    /// A new connection goes on behind the token.
    Resumed,
}

/// What a reader was told from the beginning of a subscription on, over all connections that went on with it.
pub(crate) type Life = Vec<Told>;

/// What a reader wants to see.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    /// Only rows in this group.
    pub(crate) group: Option<u64>,
    /// Only the newest state of each row while the reader is behind.
    pub(crate) is_coalesced: bool,
}

/// How often the promise was broken, by how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Broken {
    /// Confirmed and not in the history, or in the history and never told.
    pub(crate) lost: usize,
    /// Told twice.
    pub(crate) duplicated: usize,
    /// At or before the token with which the reader went on, and told all the same.
    pub(crate) repeated: usize,
    /// Told, or in the history, and it never happened.
    pub(crate) ghost: usize,
    /// Held in an older state than it should be.
    pub(crate) stale: usize,
    /// Held though it is gone.
    pub(crate) resurrected: usize,
    /// Transactions of which only a part happened.
    pub(crate) torn: usize,
    /// Counts and digests that were not those of what was held.
    pub(crate) unequal: usize,
}

impl std::ops::AddAssign for Broken {
    fn add_assign(&mut self, other: Self) {
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.repeated += other.repeated;
        self.ghost += other.ghost;
        self.stale += other.stale;
        self.resurrected += other.resurrected;
        self.torn += other.torn;
        self.unequal += other.unequal;
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lost, duplicated, repeated, ghost, stale, resurrected, torn, unequal } = self;
        write!(
            f,
            "{lost} lost, {duplicated} duplicated, {repeated} repeated after a token, {ghost} ghosts, {stale} stale, \
             {resurrected} resurrected, {torn} torn, {unequal} with another digest"
        )
    }
}

/// Rows and the change and the write that made them what they are.
pub(crate) type Rows = BTreeMap<u32, (u64, u64)>;

fn take(rows: &mut Rows, change: Change) {
    match change.write {
        Some(write) => rows.insert(change.row, (change.version, write)),
        None => rows.remove(&change.row),
    };
}

pub(crate) fn domain(row: u32) -> String {
    format!("row{row}.example")
}

fn summary(rows: &Rows) -> Summary {
    let mut summary = Summary::default();
    for (row, (version, _)) in rows {
        summary.add(&Key::text(&domain(*row)), Seq(*version));
    }
    summary
}

/// The changes of the table that `wish` sees, as it sees them.
pub(crate) fn view_of(history: &[Change], wish: Wish) -> Vec<Change> {
    let is_in = |write: Option<u64>| write.filter(|write| wish.group.is_none_or(|group| write % GROUPS == group));
    let mut rows: BTreeMap<u32, u64> = BTreeMap::new();
    let mut seen = Vec::new();
    for change in history {
        let old = rows.get(&change.row).copied();
        match change.write {
            Some(write) => rows.insert(change.row, write),
            None => rows.remove(&change.row),
        };
        if is_in(old).is_some() || is_in(change.write).is_some() {
            seen.push(Change { write: is_in(change.write), ..*change });
        }
    }
    seen
}

/// Compares what is held with what should be.
pub(crate) fn compare_rows(held: &Rows, wanted: &Rows) -> Broken {
    let mut broken = Broken::default();
    for (row, of_held) in held {
        match wanted.get(row) {
            None => broken.resurrected += 1,
            Some(of_wanted) if of_held < of_wanted => broken.stale += 1,
            Some(of_wanted) if of_held > of_wanted => broken.ghost += 1,
            Some(_) => {}
        }
    }
    broken.lost += wanted.keys().filter(|row| !held.contains_key(row)).count();
    broken
}

/// The rows after all of `history`.
pub(crate) fn rows_of(history: &[Change]) -> Rows {
    let mut rows = Rows::new();
    history.iter().for_each(|change| take(&mut rows, *change));
    rows
}

/// Compares the history with what one writer asked for, who is the only one to write these rows, in this order.
pub(crate) fn check_writes(history: &[Change], asked: &[Asked]) -> Broken {
    let mut broken = Broken::default();
    let mut happened: BTreeMap<u32, std::collections::VecDeque<Option<u64>>> = BTreeMap::new();
    let is_own: std::collections::BTreeSet<u32> = asked.iter().map(|asked| asked.row).collect();
    for change in history.iter().filter(|change| is_own.contains(&change.row)) {
        happened.entry(change.row).or_default().push_back(change.write);
    }
    // Of each unit, how many of its writes happened and did not.
    let mut units: BTreeMap<u64, (usize, usize)> = BTreeMap::new();
    for Asked { row, write, unit, is_confirmed } in asked {
        let next = happened.get_mut(row).filter(|left| left.front() == Some(write));
        let unit = units.entry(*unit).or_default();
        match next {
            Some(left) => {
                left.pop_front();
                unit.0 += 1;
            }
            None => {
                unit.1 += 1;
                broken.lost += usize::from(*is_confirmed);
            }
        }
    }
    broken.ghost += happened.values().map(std::collections::VecDeque::len).sum::<usize>();
    broken.torn += units.values().filter(|(happened, not)| *happened > 0 && *not > 0).count();
    broken
}

/// How many writes without an answer happened, and how many did not.
pub(crate) fn unanswered(history: &[Change], asked: &[Asked]) -> (usize, usize) {
    let writes: std::collections::BTreeSet<u64> = history.iter().filter_map(|change| change.write).collect();
    let open = asked.iter().filter(|asked| !asked.is_confirmed).filter_map(|asked| asked.write);
    let (there, gone): (Vec<u64>, Vec<u64>) = open.partition(|write| writes.contains(write));
    (there.len(), gone.len())
}

/// Compares what a reader was told in a life with `view`, all that it could see up to `goal`; `is_last` if it should
/// have come that far.
pub(crate) fn check_life(view: &[Change], wish: Wish, life: &Life, goal: Option<u64>) -> Broken {
    let mut reading = Reading { view, wish, held: Rows::new(), at: 0, is_ready: false, is_resumed: false, next: 0 };
    let mut broken = Broken::default();
    for told in life {
        broken += reading.take(*told);
    }
    if let Some(goal) = goal {
        broken += reading.end(goal);
    }
    broken
}

/// A reader as it goes through what it was told.
struct Reading<'a> {
    view: &'a [Change],
    wish: Wish,
    held: Rows,
    /// The newest change that it was told of, or that what it holds contains.
    at: u64,
    is_ready: bool,
    /// Nothing but rows of the start has come since the connection was made.
    is_resumed: bool,
    /// The place in the view of what has to come next.
    next: usize,
}

impl Reading<'_> {
    fn take(&mut self, told: Told) -> Broken {
        let mut broken = Broken::default();
        match told {
            Told::Initial(change) => {
                broken.ghost += usize::from(!self.happened(change));
                let before = self.held.get(&change.row).copied();
                broken.duplicated += usize::from(before.is_some());
                take(&mut self.held, change);
            }
            Told::Changed(change) => broken += self.change(change),
            Told::Holds(position, said) => {
                // A state says again where one is, or that changes were passed that are not of this view.
                broken.stale += usize::from(position < self.at);
                self.at = self.at.max(position);
                broken.unequal += usize::from(summary(&self.held) != said);
                broken += self.catch_up_to(position);
                broken += compare_rows(&self.held, &rows_of(&self.view[..self.behind(position)]));
            }
            Told::Ready => {
                self.is_ready = true;
                self.next = self.behind(self.at);
            }
            Told::Resumed => self.is_resumed = true,
        }
        broken
    }

    fn change(&mut self, change: Change) -> Broken {
        let mut broken = Broken::default();
        if change.version <= self.at {
            let counter = if self.is_resumed { &mut broken.repeated } else { &mut broken.duplicated };
            *counter += 1;
            return broken;
        }
        if !self.happened(change) {
            broken.ghost += 1;
        }
        if self.is_ready {
            broken += self.catch_up_to(change.version - 1);
            self.next = self.behind(change.version);
        }
        self.at = change.version;
        self.is_resumed = false;
        take(&mut self.held, change);
        broken
    }

    /// Everything up to `version` has to be there by now, unless only the newest state of each row was wanted.
    fn catch_up_to(&mut self, version: u64) -> Broken {
        let upto = self.behind(version);
        let missed = if self.is_ready && !self.wish.is_coalesced { upto.saturating_sub(self.next) } else { 0 };
        self.next = self.next.max(upto);
        Broken { lost: missed, ..Broken::default() }
    }

    fn end(mut self, goal: u64) -> Broken {
        let mut broken = self.catch_up_to(goal);
        broken += compare_rows(&self.held, &rows_of(self.view));
        broken.lost += usize::from(!self.is_ready);
        broken
    }

    fn behind(&self, version: u64) -> usize {
        self.view.partition_point(|change| change.version <= version)
    }

    fn happened(&self, change: Change) -> bool {
        let place = self.view.binary_search_by_key(&change.version, |change| change.version);
        place.is_ok_and(|place| self.view[place] == change)
    }
}
