//! What the client of one subscription holds, and everything that cannot be right about what it is sent.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use starfeed::change::{Key, Seq};
use starfeed::proto::{self, subscription_state::Kind, table_event::EventType};
use starfeed::summary::Summary;

use super::wish::{RowEvent, Shown, Wish};

/// What was noticed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Fault {
    /// Events are missing: their numbers say so.
    Gap { expected: u64, found: u64 },
    /// An event came again, or one that is not newer than what is held.
    Repeat(String),
    /// A row is changed or deleted that is not held: its first event was lost.
    NotHeld(Key),
    /// A row comes as new that is held: its deletion was lost, or it came twice.
    Held(Key),
    /// The row before is not the one that is held.
    WrongOld(Key),
    /// What the server says that is held is not.
    WrongSummary { said: Summary, held: Summary },
    /// A row that the database does not have.
    Ghost(Key),
    /// A row that the database has.
    Lost(Key),
    /// A row that the database has otherwise.
    Other(Key),
    /// What no server should say here.
    Nonsense(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// What is held of a row.
#[derive(Clone, Debug)]
struct Held {
    version: Option<u64>,
    shown: Shown,
}

/// What is held at one place.
#[derive(Clone, Default)]
struct Place {
    rows: BTreeMap<Key, Held>,
    /// Everything up to this change is held: nothing up to it may come again.
    at: u64,
    was_ready: bool,
}

/// The client of one subscription.
pub(crate) struct Checker {
    pub(crate) wish: Wish,
    now: Place,
    /// The last token, and what was held with it.
    token: Option<(Bytes, Place)>,
    number: u64,
    is_live: bool,
    /// Heartbeats that said what is held.
    pub(crate) verified: u64,
    pub(crate) counts: BTreeMap<&'static str, u64>,
}

impl Checker {
    pub(crate) fn new(wish: Wish) -> Self {
        Self {
            wish,
            now: Place::default(),
            token: None,
            number: 0,
            is_live: false,
            verified: 0,
            counts: BTreeMap::new(),
        }
    }

    /// It is subscribed to again: the token with which that goes on, if there is one.
    pub(crate) fn again(&mut self) -> Option<Bytes> {
        (self.number, self.is_live) = (0, false);
        // What came behind the token makes sense only together with what was lost.
        let (token, place) = self.token.clone().map_or((None, Place::default()), |(token, place)| (Some(token), place));
        self.now = place;
        self.count(if token.is_some() { "resumed" } else { "begun anew" });
        token
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub(crate) fn take(&mut self, event: proto::Event) -> Result<(), Fault> {
        if self.wish.states {
            self.number += 1;
            match event.number() {
                number if number < self.number => return Err(Fault::Repeat(format!("event {number}"))),
                number if number > self.number => return Err(Fault::Gap { expected: self.number, found: number }),
                _ => {}
            }
        }
        let token = event.token.clone();
        match (&event.state, event.body) {
            (Some(state), None) => self.take_state(state)?,
            (None, Some(body)) => {
                let row = RowEvent::read(self.wish.table, body).map_err(Fault::Nonsense)?;
                self.take_row(row, event.version, event.initial)?;
            }
            (state, body) => return Err(Fault::Nonsense(format!("{state:?} {body:?}"))),
        }
        if let Some(token) = token {
            if !self.wish.tokens {
                return Err(Fault::Nonsense("a token that nobody asked for".to_owned()));
            }
            // Most of what was read is not to be kept with it.
            self.token = Some((Bytes::copy_from_slice(&token), self.now.clone()));
        }
        Ok(())
    }

    fn take_row(&mut self, row: RowEvent, version: Option<u64>, initial: Option<bool>) -> Result<(), Fault> {
        let RowEvent { kind, key, new, old } = row;
        if self.wish.states != (version.is_some() && initial.is_some()) {
            return Err(Fault::Nonsense(format!("{key} has the version {version:?}, initial {initial:?}")));
        }
        if let (Some(version), Some(false)) = (version, initial) {
            if version <= self.now.at {
                return Err(Fault::Repeat(format!("change {version} of {key} after {}", self.now.at)));
            }
            self.now.at = version;
        }
        if initial == Some(true) && self.now.was_ready {
            return Err(Fault::Repeat(format!("the first rows, with {key}")));
        }
        let held = self.now.rows.remove(&key);
        match (&held, kind) {
            (Some(_), EventType::Added) => return Err(Fault::Held(key)),
            (None, EventType::Updated | EventType::Deleted) => return Err(Fault::NotHeld(key)),
            (Some(held), EventType::Updated | EventType::Deleted) if self.wish.with_old => {
                let is_other = |one: bool, other: bool| one && other;
                let stamps = is_other(old.stamp.is_some() && held.shown.stamp.is_some(), old.stamp != held.shown.stamp);
                let documents = is_other(
                    old.document.is_some() && held.shown.document.is_some(),
                    old.document != held.shown.document,
                );
                if stamps || documents {
                    return Err(Fault::WrongOld(key));
                }
            }
            (Some(_), EventType::Updated | EventType::Deleted) | (None, EventType::Added) => {}
        }
        match kind {
            EventType::Deleted => self.count("deleted"),
            EventType::Added | EventType::Updated => {
                self.count(if kind == EventType::Added { "added" } else { "updated" });
                self.now.rows.insert(key, Held { version, shown: new });
            }
        }
        Ok(())
    }

    fn take_state(&mut self, state: &proto::SubscriptionState) -> Result<(), Fault> {
        match state.kind() {
            Kind::Reset => return Err(Fault::Nonsense(format!("RESET {:?} {}", state.reason(), state.message()))),
            kind if !self.wish.states => return Err(Fault::Nonsense(format!("{kind:?} for nobody"))),
            Kind::Ready => self.now.was_ready = true,
            Kind::Live => self.is_live = true,
            Kind::Stale => {
                self.is_live = false;
                self.count("stale");
            }
            Kind::Initializing | Kind::Heartbeat => {}
        }
        let Some(position) = state.position else { return Ok(()) };
        if position < self.now.at {
            return Err(Fault::Repeat(format!("{:?} at {position} after {}", state.kind(), self.now.at)));
        }
        self.now.at = position;
        let mut held = Summary::default();
        self.now.rows.iter().for_each(|(key, row)| held.add(key, Seq(row.version.unwrap_or_default())));
        let said = Summary { count: state.count(), digest: state.digest() };
        if said != held {
            return Err(Fault::WrongSummary { said, held });
        }
        self.verified += u64::from(state.kind() == Kind::Heartbeat && self.is_live);
        Ok(())
    }

    /// The first thing that is otherwise than in the database.
    pub(crate) fn differs(&self, expected: &BTreeMap<Key, Shown>) -> Option<Fault> {
        let ghost = self.now.rows.keys().find(|key| !expected.contains_key(*key)).map(|key| Fault::Ghost(key.clone()));
        ghost.or_else(|| {
            expected.iter().find_map(|(key, shown)| match self.now.rows.get(key) {
                None => Some(Fault::Lost(key.clone())),
                Some(held) if held.shown != *shown => Some(Fault::Other(key.clone())),
                Some(_) => None,
            })
        })
    }
}

/// That the checker notices what it is there for: each case is a good sequence of events with one mistake.
mod tests {
    use starfeed::proto::event::Body;
    use starfeed::proto::{DomainLoginEvent, Event, SubscriptionState};

    use super::*;

    /// A server of one list that makes no mistakes.
    #[derive(Default)]
    struct Server {
        rows: BTreeMap<String, u64>,
        number: u64,
        seq: u64,
    }

    impl Server {
        fn summary(&self) -> Summary {
            let mut summary = Summary::default();
            self.rows.iter().for_each(|(key, seq)| summary.add(&Key::text(key), Seq(*seq)));
            summary
        }

        fn state(&mut self, kind: Kind) -> Event {
            self.number += 1;
            let holds = (kind != Kind::Initializing).then(|| self.summary());
            let state = SubscriptionState {
                kind: Some(kind.into()),
                position: holds.map(|_| self.seq),
                count: holds.map(|summary| summary.count),
                digest: holds.map(|summary| summary.digest),
                ..SubscriptionState::default()
            };
            let token = holds.map(|_| Bytes::from(self.seq.to_string()));
            Event { state: Some(state), number: Some(self.number), token, ..Event::default() }
        }

        fn row(&mut self, kind: EventType, domain: &str, initial: bool) -> Event {
            self.number += 1;
            self.seq += 1;
            match kind {
                EventType::Deleted => self.rows.remove(domain),
                EventType::Added | EventType::Updated => self.rows.insert(domain.to_owned(), self.seq),
            };
            let event = DomainLoginEvent {
                event_type: Some(kind.into()),
                domain: Some(domain.to_owned()),
                ..DomainLoginEvent::default()
            };
            Event {
                body: Some(Body::DomainLoginEvent(event)),
                number: Some(self.number),
                version: Some(self.seq),
                initial: Some(initial),
                token: Some(self.seq.to_string().into()),
                ..Event::default()
            }
        }

        fn put(&mut self, domain: &str) -> Event {
            let kind = if self.rows.contains_key(domain) { EventType::Updated } else { EventType::Added };
            self.row(kind, domain, false)
        }

        fn expected(&self) -> BTreeMap<Key, Shown> {
            self.rows.keys().map(|key| (Key::text(key), Shown::default())).collect()
        }

        /// A checker that is live, and holds `a` and `b`.
        fn live(&mut self) -> Checker {
            let mut checker = Checker::new(Wish::plain("domain_login"));
            let events = [
                self.state(Kind::Initializing),
                self.row(EventType::Added, "a", true),
                self.row(EventType::Added, "b", true),
                self.state(Kind::Ready),
                self.state(Kind::Live),
            ];
            events.into_iter().for_each(|event| checker.take(event).expect("all is well"));
            checker
        }
    }

    #[test]
    fn a_stream_without_mistakes_is_right() {
        let mut server = Server::default();
        let mut checker = server.live();
        for event in [server.put("a"), server.put("c"), server.row(EventType::Deleted, "b", false)] {
            checker.take(event).expect("all is well");
        }
        checker.take(server.state(Kind::Heartbeat)).expect("all is well");
        assert_eq!(checker.differs(&server.expected()), None);
        assert_eq!(checker.verified, 1);
    }

    #[test]
    fn a_lost_deletion_is_noticed() {
        // By its number; by the next heartbeat of a server that never sent it; by the row that comes again; and in the end.
        let mut server = Server::default();
        let mut checker = server.live();
        server.row(EventType::Deleted, "b", false);
        assert_eq!(checker.take(server.put("a")), Err(Fault::Gap { expected: 6, found: 7 }));

        let mut server = Server::default();
        let mut checker = server.live();
        server.row(EventType::Deleted, "b", false);
        server.number -= 1;
        assert_eq!(checker.differs(&server.expected()), Some(Fault::Ghost(Key::text("b"))));
        assert!(matches!(checker.take(server.state(Kind::Heartbeat)), Err(Fault::WrongSummary { .. })));

        let mut server = Server::default();
        let mut checker = server.live();
        server.row(EventType::Deleted, "b", false);
        server.number -= 1;
        assert_eq!(checker.take(server.put("b")), Err(Fault::Held(Key::text("b"))));
    }

    #[test]
    fn a_ghost_is_noticed() {
        // A row that is not there, deleted; one that the digest has not; and one that the table has not.
        let mut server = Server::default();
        let mut checker = server.live();
        assert_eq!(checker.take(server.row(EventType::Deleted, "x", false)), Err(Fault::NotHeld(Key::text("x"))));

        let mut server = Server::default();
        let mut checker = server.live();
        checker.take(server.put("ghost")).expect("nobody can tell yet");
        server.rows.remove("ghost");
        assert_eq!(checker.differs(&server.expected()), Some(Fault::Ghost(Key::text("ghost"))));
        assert!(matches!(checker.take(server.state(Kind::Heartbeat)), Err(Fault::WrongSummary { .. })));
    }

    #[test]
    fn a_repeat_is_noticed() {
        let mut server = Server::default();
        let mut checker = server.live();
        let event = server.put("a");
        checker.take(event.clone()).expect("the first time");
        assert_eq!(checker.take(event.clone()), Err(Fault::Repeat("event 6".to_owned())));

        // After a token, on a new connection with numbers of its own.
        let mut checker = server.live_again(event.clone());
        assert!(checker.again().is_some());
        let repeated = Event { number: Some(1), ..event };
        assert!(matches!(checker.take(repeated), Err(Fault::Repeat(_))));
    }

    impl Server {
        /// A checker that has taken everything, the last time `event`.
        fn live_again(&mut self, event: Event) -> Checker {
            let mut checker = Server::default().live();
            checker.take(event).expect("the first time");
            checker
        }
    }

    #[test]
    fn a_gap_is_noticed() {
        let mut server = Server::default();
        let mut checker = server.live();
        server.put("a");
        assert_eq!(checker.take(server.put("a")), Err(Fault::Gap { expected: 6, found: 7 }));
        // One that its server does not count, by the row that is lacking.
        let mut server = Server::default();
        let mut checker = server.live();
        server.put("c");
        server.number -= 1;
        assert_eq!(checker.differs(&server.expected()), Some(Fault::Lost(Key::text("c"))));
        assert_eq!(checker.take(server.put("c")), Err(Fault::NotHeld(Key::text("c"))));
    }

    #[test]
    fn a_row_that_is_not_the_one_of_the_table_is_noticed() {
        let mut server = Server::default();
        let checker = server.live();
        let mut expected = server.expected();
        let shown = Shown { stamp: Some("newer".to_owned()), document: None };
        expected.insert(Key::text("a"), shown);
        assert_eq!(checker.differs(&expected), Some(Fault::Other(Key::text("a"))));
    }

    #[test]
    fn what_came_behind_a_token_counts_no_more_when_it_is_used() {
        let mut server = Server::default();
        let mut checker = server.live();
        let without_token = Event { token: None, ..server.put("c") };
        checker.take(without_token).expect("all is well");
        checker.again();
        server.rows.remove("c");
        assert_eq!(checker.differs(&server.expected()), None, "`c` will come again");
    }
}
