//! A table of a database that is mirrored into the store: what its changefeed says, when it says nothing more, and what the copy
//! has to be then. Said without the code that is tested.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::value::RawValue;
use starfeed::catalog::stored_table;
use starfeed::change::{Document, Key, Table};
use starfeed::feed::{SourceDoubt, SourceState};
use starfeed::source::rethinkdb::{CopyState, Effect, FeedRow, Mirror};
use starfeed::store::{Mutation, PageBudget};

use super::world::{TURNS_MAX, World};

/// The table that a world mirrors, if it mirrors one.
pub(crate) const MIRRORED: &str = "schedule";

/// Rows as JSON, by key.
type DatabaseRows = BTreeMap<String, String>;

/// A changefeed as a database sends it: the rows that are there in any order, with changes in between, then changes.
struct Changefeed {
    /// Rows that were there, or came before their place was read, and that were not sent yet.
    unread: Vec<String>,
    /// What was sent and not read, with the table as it was then.
    sent: VecDeque<(String, DatabaseRows)>,
    is_ready: bool,
}

/// The database, its feed, and the copy that follows it.
pub(crate) struct Source {
    rows: DatabaseRows,
    feed: Option<Changefeed>,
    mirror: Mirror,
    /// Rows that went away while nobody followed.
    missed_deletions: BTreeSet<String>,
}

impl Source {
    pub(crate) fn new() -> Self {
        Self { rows: BTreeMap::new(), feed: None, mirror: mirror(true), missed_deletions: BTreeSet::new() }
    }

    /// Writes a row, or deletes it.
    pub(crate) fn write(&mut self, key: &str, row: Option<String>, rng: &mut fastrand::Rng) {
        let old = match &row {
            Some(row) => self.rows.insert(key.to_owned(), row.clone()),
            None => self.rows.remove(key),
        };
        if old == row {
            return;
        }
        let Some(feed) = &mut self.feed else {
            if row.is_none() {
                self.missed_deletions.insert(key.to_owned());
            }
            return;
        };
        let place = feed.unread.iter().position(|unread| unread == key);
        match (place, &old, &row) {
            // Its place was not read yet: the change is in what is read there.
            (Some(place), _, None) => drop(feed.unread.swap_remove(place)),
            (Some(_), ..) => {}
            (None, None, Some(_)) if !feed.is_ready && rng.bool() => feed.unread.push(key.to_owned()),
            (None, ..) => {
                let kind = match (&old, &row) {
                    (None, _) => "add",
                    (_, None) => "remove",
                    _ => "change",
                };
                let value = |row: &Option<String>| row.clone().unwrap_or_else(|| "null".to_owned());
                feed.say(
                    format!(r#"{{"type":"{kind}","old_val":{},"new_val":{}}}"#, value(&old), value(&row)),
                    &self.rows,
                );
            }
        }
    }

    /// The feed goes on reading the rows that are there.
    fn read_on(&mut self, rng: &mut fastrand::Rng) {
        let Some(feed) = self.feed.as_mut().filter(|feed| !feed.is_ready) else { return };
        for _ in 0..rng.usize(1..4) {
            if feed.unread.is_empty() {
                feed.is_ready = true;
                feed.say(r#"{"type":"state","state":"ready"}"#.to_owned(), &self.rows);
                return;
            }
            let key = feed.unread.swap_remove(rng.usize(0..feed.unread.len()));
            feed.say(format!(r#"{{"type":"initial","new_val":{}}}"#, self.rows[&key]), &self.rows);
        }
    }

    fn open(&mut self, is_empty: bool) {
        let mut feed =
            Changefeed { unread: self.rows.keys().cloned().collect(), sent: VecDeque::new(), is_ready: false };
        feed.say(r#"{"type":"state","state":"initializing"}"#.to_owned(), &self.rows);
        self.feed = Some(feed);
        self.mirror = mirror(is_empty);
    }
}

impl Changefeed {
    fn say(&mut self, row: String, rows: &DatabaseRows) {
        self.sent.push_back((row, rows.clone()));
    }
}

fn mirror(is_empty: bool) -> Mirror {
    // Rows that nobody can have seen are not in the log; here all are.
    let state = CopyState { is_empty, was_served: true };
    Mirror::new(stored_table(MIRRORED).expect("a table of the catalog"), state)
}

fn table() -> Table {
    Table::new(MIRRORED)
}

const EVERYTHING: PageBudget = PageBudget { items: usize::MAX, bytes: usize::MAX };

impl World {
    /// Something happens between the database and the copy.
    pub(super) fn source_step(&mut self) {
        let Some(source) = &mut self.source else { return };
        match self.rng.u8(0..20) {
            0 if source.feed.is_some() => {
                self.count("a connection to the source was lost");
                self.lose_source(SourceDoubt::Unreachable);
            }
            1 if source.feed.is_some() => {
                // What it could not send it throws away, all of it.
                let (feed, rows) = (source.feed.as_mut().expect("an open feed"), source.rows.clone());
                let skipped = feed.sent.len();
                feed.sent.clear();
                feed.say(
                    format!(r#"{{"error":"Changefeed cache over array size limit, skipped {skipped} elements."}}"#),
                    &rows,
                );
                self.count("a queue of the source overflowed");
            }
            2 if source.feed.is_some() && self.rng.u8(0..8) == 0 => {
                self.count("a table of the source was dropped");
                self.drop_table();
            }
            2..8 => source.read_on(&mut self.rng),
            _ => {
                let most = self.rng.usize(1..8);
                self.follow_source(most);
            }
        }
    }

    /// The table is gone with all that it had, and so is its feed; then there is an empty one of that name.
    fn drop_table(&mut self) {
        if let Some(source) = &mut self.source {
            source.missed_deletions.extend(std::mem::take(&mut source.rows).into_keys());
        }
        self.lose_source(SourceDoubt::Aborted);
    }

    /// The copy takes up to `most` rows of the feed; another feed is opened where there is none.
    fn follow_source(&mut self, most: usize) {
        let Some(source) = &mut self.source else { return };
        if source.feed.is_none() {
            let snapshot = self.server.store.snapshot();
            let Ok(count) = snapshot.and_then(|snapshot| snapshot.count(&table())) else { return };
            source.open(count == 0);
            self.count("a table was read from the source");
            return;
        }
        for _ in 0..most {
            let Some(source) = &mut self.source else { return };
            let Some((row, rows)) = source.feed.as_mut().and_then(|feed| feed.sent.pop_front()) else { return };
            let row = RawValue::from_string(row).expect("JSON");
            let row = FeedRow::read(&row);
            if !source.mirror.is_level() && matches!(row, FeedRow::Written(_) | FeedRow::Removed(_)) {
                self.counts
                    .entry("a change between the first rows of the source")
                    .and_modify(|count| *count += 1)
                    .or_insert(1);
            }
            match source.mirror.take(&row) {
                Effect::Nothing => {}
                Effect::Write(mutation) => self.copy(vec![mutation]),
                Effect::Bad { problem, .. } => panic!("a good row is called bad: {problem}"),
                Effect::Doubt { doubt, .. } => return self.lose_source(doubt),
                Effect::Ready(gone) => {
                    let Ok(rows) =
                        self.server.store.snapshot().and_then(|it| it.rows_after(&table(), None, EVERYTHING))
                    else {
                        return self.lose_source(SourceDoubt::Storage);
                    };
                    let deletes: Vec<Mutation> = rows.rows.iter().filter_map(|row| gone.delete(&row.key)).collect();
                    for mutation in &deletes {
                        let key = mutation.key.to_string();
                        if self.source.as_mut().is_some_and(|source| source.missed_deletions.remove(&key)) {
                            self.count("a row that was deleted while the source was away");
                        }
                    }
                    self.copy(deletes);
                }
            }
            let Some(source) = &self.source else { return };
            if source.feed.is_some() && source.mirror.is_level() {
                self.check_copy(&rows);
                // Subscribers are told behind what they are handed.
                self.publish();
                self.server.feeds.set_source(&table(), SourceState::Level);
            }
        }
    }

    /// Writes to the copy; where the disk fails, nobody knows what it holds.
    fn copy(&mut self, unit: Vec<Mutation>) {
        let crashes = self.crashes;
        match self.commit(&[unit]) {
            Ok(results) => assert!(results.iter().all(Result::is_ok), "the copy was refused"),
            Err(_) if crashes == self.crashes => self.lose_source(SourceDoubt::Storage),
            Err(_) => {}
        }
    }

    /// Nobody knows any more whether all changes of the source come.
    fn lose_source(&mut self, doubt: SourceDoubt) {
        if let Some(source) = &mut self.source {
            source.feed = None;
            self.publish();
            self.server.feeds.set_source(&table(), SourceState::InDoubt(doubt));
        }
    }

    /// The server is another one; it has to read everything again.
    pub(super) fn forget_source(&mut self) {
        if let Some(source) = &mut self.source {
            source.feed = None;
        }
    }

    /// A copy that is level holds what the database held when it said what was taken last.
    fn check_copy(&self, expected: &DatabaseRows) {
        let Ok(rows) = self.server.store.snapshot().and_then(|it| it.rows_after(&table(), None, EVERYTHING)) else {
            return;
        };
        let copy: BTreeMap<Key, Document> = rows.rows.into_iter().map(|row| (row.key, row.document)).collect();
        let document = |row: &String| Document::parse(row.as_bytes()).expect("an object");
        let expected = expected.iter().map(|(key, row)| (Key::text(key), document(row))).collect();
        assert_eq!(copy, expected, "the copy differs from the source");
    }

    /// The source is there and says everything.
    pub(super) fn settle_source(&mut self) {
        for _ in 0..TURNS_MAX {
            let Some(source) = &mut self.source else { return };
            let is_all_said = source.feed.as_ref().is_some_and(|feed| feed.is_ready && feed.sent.is_empty());
            if is_all_said && source.mirror.is_level() {
                let rows = source.rows.clone();
                return self.check_copy(&rows);
            }
            source.read_on(&mut self.rng);
            self.follow_source(usize::MAX);
        }
        panic!("the copy is never level");
    }

    /// Tables that come from nowhere else are always level; here a table is followed whether it has a feed yet or not.
    pub(super) fn tell_new_feeds(&mut self) {
        let is_level = |source: &Source| source.feed.is_some() && source.mirror.is_level();
        let is_copy_level = self.source.as_ref().is_none_or(is_level);
        if is_copy_level {
            self.publish();
        }
        for name in super::wish::TABLES.into_iter().chain([super::jobs::JOBS]) {
            if is_copy_level || name != MIRRORED {
                self.server.feeds.set_source(&Table::new(name), SourceState::Level);
            }
        }
    }
}
