//! What a live view knows: the rows of each table, and what happened to them lately.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::event::{JobStanding, Notice, RowEvent, WatchedTable};
use crate::change::ChangeKind;
use crate::cli::text::printable;

/// How long a change stands out.
pub(super) const HIGHLIGHT: Duration = Duration::from_secs(10);
/// How long a row is shown after it was deleted.
const GHOST: Duration = Duration::from_secs(3);
const RATE_SECONDS: u64 = 10;
/// More changed rows than any screen shows.
const RECENT_MAX: usize = 1000;

/// Everything that is shown.
#[derive(Debug)]
pub(super) struct View {
    pub(super) url: String,
    pub(super) link: Link,
    pub(super) tables: Vec<TableView>,
}

/// How it stands with the server.
#[derive(Debug, PartialEq)]
pub(super) enum Link {
    Connected,
    Lost { error: String, retry_at: Instant },
}

impl View {
    pub(super) fn new(url: String, tables: &[WatchedTable]) -> Self {
        Self { url, link: Link::Connected, tables: tables.iter().map(|table| TableView::new(*table)).collect() }
    }

    pub(super) fn apply(&mut self, notice: &Notice, now: Instant) {
        match notice {
            Notice::Connected { .. } => self.link = Link::Connected,
            Notice::Lost { error, retry_in, .. } => {
                self.link = Link::Lost { error: printable(error), retry_at: now + *retry_in };
            }
            Notice::Stale { table, why } => self.table(*table, |view| view.stale = why.as_deref().map(printable)),
            Notice::Row(event) => self.table(event.table, |view| view.apply(event, now)),
        }
    }

    /// Forgets what is shown for a while only. Call it before the view is shown.
    pub(super) fn expire(&mut self, now: Instant) {
        self.tables.iter_mut().for_each(|table| table.expire(now));
    }

    fn table(&mut self, table: WatchedTable, change: impl FnOnce(&mut TableView)) {
        if let Some(view) = self.tables.iter_mut().find(|view| view.table == table) {
            change(view);
        }
    }
}

/// One table.
#[derive(Debug)]
pub(super) struct TableView {
    pub(super) table: WatchedTable,
    /// Changes seen since the start.
    pub(super) changes: u64,
    /// Why rows may be old, until they are not.
    pub(super) stale: Option<String>,
    rows: HashMap<String, RowView>,
    order: BTreeSet<Place>,
    ghosts: usize,
    /// Deletions, oldest first.
    deleted: VecDeque<(Instant, String)>,
    /// Changes that stand out, oldest first.
    recent: VecDeque<(Instant, String)>,
    rate: Rate,
}

/// Where a row stands: by name, then by key. Jobs that run come before those that are over.
type Place = (String, String);

#[derive(Debug)]
pub(super) struct RowView {
    pub(super) key: String,
    /// Logins have none.
    pub(super) name: Option<String>,
    /// How it stands with a job.
    pub(super) job: Option<JobStanding>,
    /// What happened to it last, and when.
    pub(super) change: Option<(ChangeKind, Instant)>,
    place: Place,
}

impl RowView {
    fn is_ghost(&self) -> bool {
        matches!(self.change, Some((ChangeKind::Deleted, _)))
    }
}

impl TableView {
    fn new(table: WatchedTable) -> Self {
        Self {
            table,
            changes: 0,
            stale: None,
            rows: HashMap::new(),
            order: BTreeSet::new(),
            ghosts: 0,
            deleted: VecDeque::new(),
            recent: VecDeque::new(),
            rate: Rate::default(),
        }
    }

    /// The rows there are; deleted ones that are still shown do not count.
    pub(super) fn rows(&self) -> usize {
        self.rows.len() - self.ghosts
    }

    /// The rows to show where there is room for all.
    pub(super) fn shown(&self) -> usize {
        self.rows.len()
    }

    /// Changes per second.
    pub(super) fn rate(&self, now: Instant) -> f64 {
        self.rate.per_second(now)
    }

    /// `count` rows in order: those that changed lately, then the first ones.
    pub(super) fn select(&self, count: usize, now: Instant) -> Vec<&RowView> {
        let is_recent = |changed: Instant| now.saturating_duration_since(changed) < HIGHLIGHT;
        let changed = self.recent.iter().rev().take_while(|(at, _)| is_recent(*at)).map(|(_, key)| key);
        let first = self.order.iter().map(|(_, key)| key);
        let mut keys = HashSet::new();
        let chosen = changed.chain(first).filter(|key| keys.insert(key.as_str()));
        let mut rows: Vec<&RowView> = chosen.filter_map(|key| self.rows.get(key)).take(count).collect();
        rows.sort_by(|a, b| a.place.cmp(&b.place));
        rows
    }

    fn apply(&mut self, event: &RowEvent, now: Instant) {
        let change = (!event.is_initial).then_some((event.kind, now));
        if !event.is_initial {
            self.changes += 1;
            self.rate.add(now);
            self.recent.push_back((now, event.key.clone()));
            if self.recent.len() > RECENT_MAX {
                self.recent.pop_front();
            }
        }
        self.remove(&event.key);
        let name = event.name.as_deref().map(printable);
        let key = printable(&event.key);
        let job = event.job.as_ref().map(|job| JobStanding { state: printable(&job.state), ..*job });
        let rank = job.as_ref().map_or("", |job| rank(&job.state));
        let place = (format!("{rank}{}", name.as_ref().unwrap_or(&key).to_lowercase()), event.key.clone());
        self.order.insert(place.clone());
        let row = RowView { key, name, job, change, place };
        if row.is_ghost() {
            self.ghosts += 1;
            self.deleted.push_back((now, event.key.clone()));
        }
        self.rows.insert(event.key.clone(), row);
    }

    fn remove(&mut self, key: &str) {
        if let Some(row) = self.rows.remove(key) {
            self.order.remove(&row.place);
            self.ghosts -= usize::from(row.is_ghost());
        }
    }

    fn expire(&mut self, now: Instant) {
        let is_over = |at: Instant, duration| now.saturating_duration_since(at) >= duration;
        while let Some((at, key)) = self.deleted.pop_front_if(|(at, _)| is_over(*at, GHOST)) {
            // It may be there again, and even deleted again.
            if self.rows.get(&key).is_some_and(|row| row.change == Some((ChangeKind::Deleted, at))) {
                self.remove(&key);
            }
        }
        while self.recent.pop_front_if(|(at, _)| is_over(*at, HIGHLIGHT)).is_some() {}
    }
}

/// What sorts jobs by what is to be expected of them.
fn rank(state: &str) -> &'static str {
    match state {
        "running" => "0",
        "pending" => "1",
        "paused" => "2",
        _ => "3",
    }
}

/// Changes in each of the last seconds.
#[derive(Debug, Default)]
struct Rate {
    start: Option<Instant>,
    seconds: VecDeque<(u64, u64)>,
}

impl Rate {
    fn add(&mut self, now: Instant) {
        let second = now.saturating_duration_since(*self.start.get_or_insert(now)).as_secs();
        match self.seconds.back_mut() {
            Some((last, count)) if *last == second => *count += 1,
            _ => self.seconds.push_back((second, 1)),
        }
        while self.seconds.pop_front_if(|(old, _)| *old + RATE_SECONDS <= second).is_some() {}
    }

    #[expect(clippy::cast_precision_loss, reason = "it is shown with one digit")]
    fn per_second(&self, now: Instant) -> f64 {
        let Some(start) = self.start else { return 0.0 };
        let second = now.saturating_duration_since(start).as_secs();
        let recent = self.seconds.iter().filter(|(old, _)| *old + RATE_SECONDS > second);
        recent.map(|(_, count)| *count).sum::<u64>() as f64 / RATE_SECONDS as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixture {
        start: Instant,
        view: TableView,
    }

    impl Fixture {
        fn new() -> Self {
            let start = Instant::now();
            Self { start, view: TableView::new(WatchedTable::Policy) }
        }

        fn at(&self, seconds: f64) -> Instant {
            self.start + Duration::from_secs_f64(seconds)
        }

        /// A row that was there at the start.
        fn initial(&mut self, key: &str, name: &str) {
            self.event(0.0, true, Added, key, name);
        }

        fn apply(&mut self, seconds: f64, kind: ChangeKind, key: &str, name: &str) {
            self.event(seconds, false, kind, key, name);
        }

        fn event(&mut self, seconds: f64, is_initial: bool, kind: ChangeKind, key: &str, name: &str) {
            let (key, name) = (key.to_owned(), Some(name.to_owned()));
            let event =
                RowEvent { table: WatchedTable::Policy, kind, is_initial, key, name, job: None, document: None };
            self.view.apply(&event, self.at(seconds));
        }

        fn select(&self, seconds: f64, count: usize) -> Vec<(&str, Option<ChangeKind>)> {
            let rows = self.view.select(count, self.at(seconds)).into_iter();
            rows.map(|row| (row.key.as_str(), row.change.map(|(kind, _)| kind))).collect()
        }
    }

    use ChangeKind::{Added, Deleted, Updated};

    #[test]
    fn the_first_rows_are_no_changes_and_stand_by_name() {
        let mut fixture = Fixture::new();
        for (key, name) in [("1", "beta"), ("2", "Alpha"), ("3", "alpha")] {
            fixture.initial(key, name);
        }
        assert_eq!(fixture.select(1.8, 9), [("2", None), ("3", None), ("1", None)]);
        assert_eq!((fixture.view.rows(), fixture.view.changes), (3, 0));
        fixture.apply(2.8, Added, "4", "gamma");
        assert_eq!(fixture.select(2.8, 9)[3], ("4", Some(Added)));
        assert_eq!((fixture.view.rows(), fixture.view.changes), (4, 1));
    }

    #[test]
    fn a_deleted_row_is_shown_for_a_while() {
        let mut fixture = Fixture::new();
        fixture.initial("1", "a");
        fixture.apply(5.0, Deleted, "1", "a");
        fixture.view.expire(fixture.at(7.9));
        assert_eq!(fixture.select(7.9, 9), [("1", Some(Deleted))]);
        assert_eq!((fixture.view.rows(), fixture.view.shown()), (0, 1));
        fixture.view.expire(fixture.at(8.0));
        assert_eq!(fixture.select(8.0, 9), []);
        assert_eq!((fixture.view.rows(), fixture.view.shown(), fixture.view.order.len()), (0, 0, 0));
    }

    #[test]
    fn a_row_that_is_back_stays() {
        let mut fixture = Fixture::new();
        fixture.initial("1", "a");
        fixture.apply(5.0, Deleted, "1", "a");
        fixture.apply(6.0, Added, "1", "a");
        fixture.apply(7.0, Deleted, "1", "a");
        fixture.view.expire(fixture.at(8.5));
        assert_eq!(fixture.select(8.5, 9), [("1", Some(Deleted))]);
        fixture.apply(9.0, Added, "1", "b");
        fixture.view.expire(fixture.at(99.0));
        assert_eq!(fixture.select(99.0, 9), [("1", Some(Added))]);
        assert_eq!((fixture.view.rows(), fixture.view.ghosts, fixture.view.order.len()), (1, 0, 1));
    }

    #[test]
    fn changed_rows_come_before_others_where_room_is_short() {
        let mut fixture = Fixture::new();
        for key in ["a", "b", "c", "d", "e"] {
            fixture.initial(key, key);
        }
        fixture.apply(5.0, Updated, "e", "e");
        fixture.apply(6.0, Updated, "d", "d");
        fixture.apply(7.0, Updated, "d", "d");
        assert_eq!(fixture.select(8.0, 1), [("d", Some(Updated))]);
        assert_eq!(fixture.select(8.0, 3), [("a", None), ("d", Some(Updated)), ("e", Some(Updated))]);
        assert_eq!(fixture.select(16.0, 2), [("a", None), ("d", Some(Updated))]);
        assert_eq!(fixture.select(17.0, 2), [("a", None), ("b", None)]);
        fixture.view.expire(fixture.at(17.0));
        assert_eq!(fixture.view.recent.len(), 0);
    }

    #[test]
    fn a_renamed_row_moves() {
        let mut fixture = Fixture::new();
        fixture.initial("1", "a");
        fixture.initial("2", "b");
        fixture.apply(0.5, Updated, "1", "c");
        assert_eq!(fixture.select(0.5, 9), [("2", None), ("1", Some(Updated))]);
        assert_eq!(fixture.view.changes, 1);
    }

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let start = Instant::now();
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        let mut rate = Rate::default();
        assert_eq!(rate.per_second(start), 0.0);
        (0..20).for_each(|_| rate.add(at(0.0)));
        (0..5).for_each(|_| rate.add(at(4.5)));
        assert_eq!(rate.per_second(at(5.0)), 2.5);
        assert_eq!(rate.per_second(at(10.0)), 0.5);
        assert_eq!(rate.per_second(at(14.0)), 0.0);
        rate.add(at(99.0));
        assert_eq!((rate.per_second(at(99.0)), rate.seconds.len()), (0.1, 1));
    }
}
