//! One subscription, as its client sees it, over all connections: the rows it holds, held against the model after every
//! message.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;
use starfeed::change::{ChangeKind, Epoch, Key, Seq};
use starfeed::client::{Applied, RowChange, Status, View};
use starfeed::feed::{Content, Cursor, Page};
use starfeed::proto::{self, request::Command};
use starfeed::row_problems::RowProblems;
use starfeed::store::{ChangePage, PageBudget};
use starfeed::summary::Summary;
use starfeed::token::Place;
use starfeed::wire::{self, Event, News, ResetReason, ServerMessage, State, StateKind};

use super::model::{Model, ModelRow, Rows};
use super::server::Truth;
use super::wish::Wish;

pub(crate) struct Reader {
    pub(crate) wish: Wish,
    rows: Rows,
    /// All rows were sent once, and what follows are changes.
    is_following: bool,
    /// It was told READY, or has gone on from behind that.
    is_told_all: bool,
    /// The newest change that it has seen since it follows.
    after: Seq,
    /// Of the page that was read last, so many items are still to be seen, and then it is where the cursor says.
    page: Option<(usize, Cursor)>,
    held: Option<Held>,
    /// What it has to be told first.
    expected_reset: Option<ResetReason>,
    number: u64,
    /// What it was last told is that its rows may be old.
    is_told_old: bool,
    library: Option<Library>,
    /// The newest change it has seen in this history.
    pub(crate) seen: Seq,
    pub(crate) counts: BTreeMap<&'static str, u64>,
}

/// The client library, and an application that sees only the changes it reports.
struct Library {
    view: View,
    application: BTreeMap<Key, Seq>,
    /// All rows have come since the last time that they came anew.
    is_complete: bool,
    /// The library has just said that it holds what it should.
    is_right: bool,
}

impl Library {
    fn new(wish: &Wish) -> Self {
        Self { view: View::new(wish.query()), application: BTreeMap::new(), is_complete: false, is_right: false }
    }

    /// Takes the event as it comes over the wire.
    fn take(&mut self, subscription_id: i32, event: Event) {
        let message = ServerMessage::Event { subscription_id, event };
        let mut messages: Vec<Vec<u8>> = Vec::new();
        wire::protobuf::encode(message, &RowProblems::default(), &mut messages);
        let message =
            proto::ServerMessage::decode(&messages.remove(0)[..]).expect("what the server writes can be read");
        let Some(proto::server_message::MessageType::Event(event)) = message.message_type else {
            panic!("an event was written as something else");
        };
        let applied = self.view.apply(event).unwrap_or_else(|divergence| panic!("the library noticed: {divergence}"));
        self.is_right = matches!(applied, Applied::Ready(_) | Applied::Status(Status::Live | Status::Verified));
        match &applied {
            Applied::Ready(_) => self.is_complete = true,
            Applied::Status(Status::Initializing | Status::Reset { .. }) => self.is_complete = false,
            _ => {}
        }
        match applied {
            Applied::Row(change) => self.fold(change),
            Applied::Ready(gone) => gone.into_iter().for_each(|change| self.fold(change)),
            Applied::Nothing | Applied::Status(_) | Applied::Closed(_) => {}
        }
    }

    fn fold(&mut self, change: RowChange) {
        let had = match &change.new {
            Some(row) => self.application.insert(change.key.clone(), row.version).is_some(),
            None => self.application.remove(&change.key).is_some(),
        };
        assert_eq!(had, change.kind != ChangeKind::Added, "the library reports {:?} of {}", change.kind, change.key);
    }

    /// It holds `rows`, and so does the application.
    fn check(&self, rows: &Rows) {
        let expected: BTreeMap<&Key, Seq> = rows.iter().map(|(key, (version, _))| (key, *version)).collect();
        let held: BTreeMap<&Key, Seq> = self.view.rows().map(|(key, row)| (key, row.version)).collect();
        assert_eq!(held, expected, "in the library");
        let keys: Vec<&Key> = self.application.keys().collect();
        assert_eq!(keys, expected.into_keys().collect::<Vec<_>>(), "in the application");
        for (key, row) in self.view.rows() {
            if let Some(document) = &row.document {
                assert_eq!(document, &rows[key].1, "the document of {key} in the library");
            }
        }
    }
}

/// The newest token of a reader.
#[derive(Clone)]
struct Held {
    token: Bytes,
    place: Place,
    /// What it held with it.
    rows: Rows,
    /// In which history.
    epoch: Epoch,
    /// Of which view.
    wish: Wish,
}

impl Reader {
    pub(crate) fn new(wish: Wish) -> Self {
        let library = wish.is_library.then(|| Library::new(&wish));
        Self {
            wish,
            library,
            rows: Rows::new(),
            is_following: false,
            is_told_all: false,
            after: Seq::ZERO,
            page: None,
            held: None,
            expected_reset: None,
            number: 0,
            is_told_old: false,
            seen: Seq::ZERO,
            counts: BTreeMap::new(),
        }
    }

    pub(crate) fn token(&self) -> Option<Bytes> {
        self.held.as_ref().map(|held| held.token.clone())
    }

    pub(crate) fn is_in_snapshot(&self) -> bool {
        !self.is_following
    }

    /// The request that subscribes: behind the last token, if there is one; and the token that it uses.
    pub(crate) fn command(&mut self, other: Option<&Wish>) -> (Command, Option<Bytes>) {
        match (&mut self.library, other) {
            (Some(library), None) => {
                let options = library.view.subscribe_options();
                let token = options.resume_token.clone();
                (library.view.query().command(options), token)
            }
            (_, other) => {
                let token = self.token();
                (other.unwrap_or(&self.wish).command(token.clone()), token)
            }
        }
    }

    fn count(&mut self, state: &'static str) {
        *self.counts.entry(state).or_default() += 1;
    }

    /// Its subscription was made again, with the token that [`Reader::command`] returned.
    pub(crate) fn resumed(&mut self, wish: &Wish, used: Option<&Bytes>, truth: Truth<'_>) {
        self.wish = wish.clone();
        (self.page, self.number, self.is_told_old) = (None, 0, false);
        let Some(Held { token, rows, epoch, wish: held_wish, .. }) =
            self.held.clone().filter(|held| Some(&held.token) == used)
        else {
            assert!(used.is_none(), "a token that is not the last one");
            self.count("a subscription made again without a token");
            (self.rows, self.is_following, self.after, self.held) = (Rows::new(), false, Seq::ZERO, None);
            // The history may be another one by now.
            self.seen = Seq::ZERO;
            return;
        };
        self.expected_reset = match truth.seal.open(&token) {
            Err(_) => Some(ResetReason::Server),
            Ok(_) if epoch != truth.store.epoch() => Some(ResetReason::Epoch),
            Ok(_) if !held_wish.is_same_view(wish) => Some(ResetReason::View),
            Ok(opened) => {
                self.count("a resumed subscription");
                match opened.place {
                    Place::At(seq) => (self.is_following, self.is_told_all, self.after) = (true, true, seq),
                    Place::UpTo(_, seq) => {
                        (self.is_following, self.after) = (false, seq);
                        self.count("a snapshot resumed in the middle");
                    }
                }
                None
            }
        };
        // What came behind the token makes sense only together with what was lost.
        self.rows = rows;
        if self.expected_reset.is_some() {
            self.seen = Seq::ZERO;
        }
    }

    /// A page was read for it.
    pub(crate) fn page_read(&mut self, page: &Page, truth: Truth<'_>) {
        assert!(self.page.is_none(), "a page was read before the last one was sent");
        self.count(if self.is_following { "a page of the log" } else { "a page of a snapshot" });
        if matches!(page.cursor, Cursor::Snapshot { .. }) {
            self.count("a snapshot in several pages");
        }
        self.page = Some((page.len(), page.cursor.clone()));
        self.items_seen(0, truth);
    }

    pub(crate) fn take(&mut self, subscription_id: i32, event: Event, truth: Truth<'_>) {
        self.number += 1;
        let for_library = self.library.is_some().then(|| event.clone());
        if self.wish.states {
            // The last word comes when the numbers are gone with the subscription.
            assert!(
                event.number.is_none_or(|number| number == self.number),
                "event {:?} is number {}",
                event.number,
                self.number
            );
        }
        let is_row = matches!(event.news, News::Row { .. });
        if let Some(reason) = self.expected_reset.take() {
            assert!(
                matches!(&event.news, News::State(state) if state.kind == StateKind::Reset(reason)),
                "{reason:?} was expected, not {:?}",
                event.news
            );
        }
        match event.news {
            News::Row { content, .. } => self.take_row(content, truth),
            News::State(state) => self.take_state(&state, truth),
            News::Closed { message, .. } => self.take_end(&message.expect("no end here is a good one"), truth),
            News::Body(_) => panic!("subscriptions to tables bring rows and states"),
        }
        if let (Some(library), Some(event)) = (&mut self.library, for_library) {
            library.take(subscription_id, event);
            let is_exact = self.is_following && library.is_complete && (!self.wish.coalesce || library.is_right);
            if is_exact {
                library.check(&self.rows);
            }
        }
        if let Some(token) = event.token {
            assert!(self.wish.tokens, "a token that nobody asked for");
            self.take_token(&token, is_row, truth);
        } else if self.wish.tokens && is_row {
            // Nobody can go on from between the rows and READY.
            assert!(self.wish.coalesce || (self.wish.states && !self.is_told_all), "an event without a token");
            self.count("a change without a token");
        }
    }

    fn take_row(&mut self, content: Content, truth: Truth<'_>) {
        match content {
            Content::Row(row) => {
                let row = row.row();
                self.seen = self.seen.max(row.version);
                assert!(!self.is_following, "a row after the snapshot");
                let before = self.rows.insert(row.key.clone(), (row.version, row.document));
                assert!(before.is_none(), "row {} came twice", row.key);
                self.items_seen(1, truth);
            }
            Content::Change(seen) => {
                let (change, kind) = (seen.published().change(), seen.kind());
                self.seen = self.seen.max(change.seq);
                let had = match kind {
                    ChangeKind::Added | ChangeKind::Updated => {
                        let document = change.new.clone().expect("a row that is there");
                        self.rows.insert(change.key.clone(), (change.seq, document)).is_some()
                    }
                    ChangeKind::Deleted => self.rows.remove(&change.key).is_some(),
                };
                assert_eq!(had, kind != ChangeKind::Added, "change {} {kind:?}", change.seq);
                if kind == ChangeKind::Deleted && change.new.is_some() {
                    self.count("a row left the filter");
                }
                if self.is_following {
                    assert!(change.seq > self.after, "change {} came after {}", change.seq, self.after);
                    self.after = change.seq;
                    if !self.wish.coalesce {
                        self.check(change.seq, "a change", truth);
                    }
                }
                self.items_seen(1, truth);
            }
        }
    }

    fn take_state(&mut self, state: &State, truth: Truth<'_>) {
        assert_eq!(state.epoch, truth.store.epoch(), "a state of another history");
        match state.kind {
            StateKind::Reset(reason) => {
                if reason == ResetReason::Retention {
                    self.check_trimmed(truth);
                }
                self.count("a reset");
                (self.rows, self.is_following, self.after, self.page) = (Rows::new(), false, Seq::ZERO, None);
            }
            StateKind::Ready | StateKind::Live => {
                self.is_told_all = true;
                assert!(state.holds.is_some(), "{:?} without a position", state.kind);
                self.is_told_old &= state.kind != StateKind::Live;
            }
            StateKind::InDoubt(_) => {
                self.is_told_old = true;
                self.count("a client was told that rows may be old");
            }
            StateKind::Slow => self.count("a client was told that it is slow"),
            StateKind::Heartbeat => self.count("a heartbeat"),
            StateKind::Initializing => self.is_told_all = false,
        }
        if state.kind != StateKind::Heartbeat || !self.wish.is_plain {
            assert!(self.wish.states || matches!(state.kind, StateKind::Reset(_)), "{:?} for nobody", state.kind);
        }
        if let Some((seq, summary)) = state.holds {
            self.check(seq, "a state", truth);
            assert_eq!(summary, self.summary(), "in {:?} at {seq}", state.kind);
            self.after = self.after.max(seq);
        }
    }

    fn take_token(&mut self, token: &Bytes, is_row: bool, truth: Truth<'_>) {
        let opened = truth.seal.open(token).expect("a token of this server");
        assert_eq!(opened.epoch, truth.store.epoch(), "a token of another history");
        match &opened.place {
            Place::At(seq) => {
                self.check(*seq, "a token", truth);
                if is_row && let Some(last) = self.last_exact(truth) {
                    assert!(*seq > last, "token {seq} after {last}");
                }
            }
            Place::UpTo(key, seq) => self.check_up_to(key, *seq, "a token in the snapshot", truth),
        }
        assert_eq!(opened.summary, self.summary(), "in a token");
        let (place, epoch) = (opened.place, opened.epoch);
        self.held = Some(Held { token: token.clone(), place, rows: self.rows.clone(), epoch, wish: self.wish.clone() });
    }

    /// The change that its last token names, if it does and is of this history.
    fn last_exact(&self, truth: Truth<'_>) -> Option<Seq> {
        match self.held.as_ref()? {
            Held { place: Place::At(seq), epoch, .. } if *epoch == truth.store.epoch() && self.is_following => {
                Some(*seq)
            }
            Held { .. } => None,
        }
    }

    fn take_end(&mut self, message: &str, truth: Truth<'_>) {
        assert!(!self.wish.states && !self.wish.tokens, "a subscription that knows resets was ended: {message}");
        self.count("a subscription ended because the log was trimmed");
        self.check_trimmed(truth);
    }

    /// So many more items of a page were seen; at its end the client holds exactly what the cursor says.
    fn items_seen(&mut self, count: usize, truth: Truth<'_>) {
        let Some((left, _)) = &mut self.page else { return };
        *left -= count;
        let Some((_, cursor)) = self.page.take_if(|(left, _)| *left == 0) else { return };
        match cursor {
            Cursor::Snapshot { sent } => {
                let (last_key, position) = sent.expect("a page was sent");
                self.check_up_to(&last_key, position, "a page", truth);
                self.after = position;
            }
            Cursor::After(position) => {
                self.check(position, "a page", truth);
                (self.is_following, self.after) = (true, position.max(self.after));
            }
        }
    }

    /// It holds exactly its view as it was after change `seq`.
    fn check(&self, seq: Seq, what: &str, truth: Truth<'_>) {
        let expected = self.wish.view_at(truth.model, seq);
        assert_same(&self.rows, expected, || format!("with {what} at {seq}, for {:?}", self.wish));
    }

    /// It holds exactly that part of its view, as it was after change `seq`, whose keys are `key` and those before it.
    fn check_up_to(&self, key: &Key, seq: Seq, what: &str, truth: Truth<'_>) {
        let expected = self.wish.view_at(truth.model, seq).filter(|row| row.key <= *key);
        assert_same(&self.rows, expected, || format!("with {what} at {seq} up to {key}, for {:?}", self.wish));
    }

    fn summary(&self) -> Summary {
        let mut summary = Summary::default();
        self.rows.iter().for_each(|(key, (version, _))| summary.add(key, *version));
        summary
    }

    /// Only a reader that has really missed something may be told to start anew.
    fn check_trimmed(&self, truth: Truth<'_>) {
        let snapshot = truth.store.snapshot().expect("the disk works");
        let budget = PageBudget { items: 1, bytes: 1 };
        let page = snapshot.changes_after(&starfeed::change::Table::new(self.wish.table), self.after, budget);
        assert!(matches!(page, Ok(ChangePage::Trimmed)), "no need to start anew after {}", self.after);
    }

    /// When nothing more comes, it holds what is there.
    pub(crate) fn check_converged(&self, model: &Model) {
        assert!(self.is_following, "a snapshot of {} never ended", self.wish.table);
        assert!(!self.is_told_old, "nobody said that {} is live again", self.wish.table);
        let expected = self.wish.view_at(model, model.last());
        assert_same(&self.rows, expected, || format!("in the end, for {:?}", self.wish));
        if let Some(library) = &self.library {
            library.check(&self.rows);
        }
    }
}

fn assert_same<'a>(held: &Rows, expected: impl Iterator<Item = &'a ModelRow>, what: impl FnOnce() -> String) {
    let mut held = held.iter().map(|(key, (version, document))| (key, *version, document));
    for row in expected {
        let wanted = Some((&row.key, row.version, &row.document));
        let next = held.next();
        if next != wanted {
            panic!("{next:?} is held and {wanted:?} is wanted {}", what());
        }
    }
    if let Some(next) = held.next() {
        panic!("{next:?} is held and nothing is wanted {}", what());
    }
}
