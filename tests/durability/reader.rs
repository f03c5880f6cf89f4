//! Somebody who follows the rows over every end of the server, and keeps a record of what it was told.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use starfeed::client::{Query, View};
use starfeed::proto::{
    self, event::Body, request::Command, subscription_state::Kind, table_event::EventType, table_key,
};
use starfeed::summary::Summary;

use super::history::{Change, Life, Told, Wish};
use crate::support::raw::RawClient;

const RETRY: Duration = Duration::from_millis(5);

/// How a reader behaves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manners {
    pub(crate) name: &'static str,
    pub(crate) wish: Wish,
    /// It leaves by itself after so many events, more or less.
    pub(crate) leaves_after: Option<u32>,
    /// It stops reading now and then.
    pub(crate) pauses: bool,
    /// It often begins anew, with nothing.
    pub(crate) forgets: bool,
    /// It does what the client library says.
    pub(crate) uses_library: bool,
}

impl Manners {
    pub(crate) const PLAIN: Self = Self {
        name: "plain",
        wish: Wish { group: None, is_coalesced: false },
        leaves_after: None,
        pauses: false,
        forgets: false,
        uses_library: false,
    };

    fn filter(self) -> Option<String> {
        self.wish.group.map(|group| format!("login_url.startsWith('https://group{group}.')"))
    }

    fn query(self) -> Query {
        let query = Query::table("domain_login").with_documents().heartbeat_seconds(1);
        let query = if self.wish.is_coalesced { query.coalesced() } else { query };
        self.filter().into_iter().fold(query, |query, filter| query.filter(&filter))
    }

    fn subscribe(self, resume_token: Option<Bytes>) -> Command {
        let options = proto::SubscribeOptions {
            include_document: Some(true),
            include_old: None,
            states: Some(true),
            filter: self.filter(),
            resume_token,
            heartbeat_seconds: Some(1),
            tokens: Some(true),
            coalesce: Some(self.wish.is_coalesced),
        };
        Command::SubscribeTable(proto::RequestSubscribeTable {
            table: "domain_login".to_owned(),
            options: Some(options),
        })
    }
}

/// What a reader has been told.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) lives: Vec<Life>,
    pub(crate) resumes: usize,
    /// Resumes in the middle of the first rows.
    pub(crate) resumes_of_snapshots: usize,
    pub(crate) events: usize,
    /// The server said that what it told before counts no more.
    pub(crate) resets: usize,
    /// The client library found something wrong.
    pub(crate) divergences: usize,
}

pub(crate) struct Reader<'a> {
    manners: Manners,
    /// It ends when it holds everything up to here; 0 while that is not known.
    goal: &'a AtomicU64,
    random: fastrand::Rng,
    record: Record,
    view: View,
    token: Option<Bytes>,
    /// Behind the token, and of use only with what follows.
    waiting: Vec<Told>,
    is_ready: bool,
    at: u64,
}

/// How a connection ended.
enum End {
    Goal,
    Lost,
}

impl<'a> Reader<'a> {
    /// In the place of a goal: there is none any more, because something has failed.
    pub(crate) const GIVEN_UP: u64 = u64::MAX;

    pub(crate) fn new(manners: Manners, goal: &'a AtomicU64, seed: u64) -> Self {
        Self {
            manners,
            goal,
            random: fastrand::Rng::with_seed(seed),
            record: Record { lives: vec![Life::new()], ..Record::default() },
            view: View::new(manners.query()),
            token: None,
            waiting: Vec::new(),
            is_ready: false,
            at: 0,
        }
    }

    /// One that goes on behind `token`.
    pub(crate) fn behind(self, token: Bytes) -> Self {
        Self { token: Some(token), is_ready: true, ..self }
    }

    /// Reads until it holds all there is.
    pub(crate) fn run(mut self, address: &str) -> (Manners, Record) {
        while self.goal.load(Ordering::Relaxed) != Self::GIVEN_UP {
            if self.manners.forgets && self.random.bool() {
                self.forget();
            }
            match RawClient::try_reach(address) {
                Ok(client) => {
                    let mut client = client.expect("whoever is there lets the reader in");
                    if let End::Goal = self.read(&mut client) {
                        return (self.manners, self.record);
                    }
                    // It hangs up with events on the way.
                    client.reset();
                }
                Err(_) => std::thread::sleep(RETRY),
            }
        }
        (self.manners, self.record)
    }

    fn forget(&mut self) {
        self.begin_life();
        self.token = None;
        self.view = View::new(self.manners.query());
    }

    fn begin_life(&mut self) {
        self.record.lives.push(Life::new());
        self.is_ready = false;
        self.at = 0;
    }

    fn tell(&mut self, told: Told) {
        self.record.lives.last_mut().expect("there is always one").push(told);
    }

    fn read(&mut self, client: &mut RawClient) -> End {
        self.waiting.clear();
        let (command, token) = match self.manners.uses_library {
            true => (self.view.subscribe(), self.view.has_token()),
            false => (self.manners.subscribe(self.token.clone()), self.token.is_some()),
        };
        if !client.try_ask(command) || client.try_response().is_none() {
            return End::Lost;
        }
        if token {
            self.record.resumes += 1;
            self.record.resumes_of_snapshots += usize::from(!self.is_ready);
            self.tell(Told::Resumed);
        } else if !self.record.lives.last().is_some_and(Life::is_empty) {
            self.begin_life();
        }
        while let Some(event) = client.try_event() {
            self.take(event);
            let goal = self.goal.load(Ordering::Relaxed);
            if goal > 0 && self.is_ready && self.at >= goal && self.waiting.is_empty() {
                return End::Goal;
            }
            if goal == Self::GIVEN_UP {
                return End::Lost;
            }
            if goal == 0 && self.manners.leaves_after.is_some_and(|events| self.random.u32(0..events) == 0) {
                return End::Lost;
            }
            if goal == 0 && self.manners.pauses && self.random.u8(..) == 0 {
                std::thread::sleep(Duration::from_millis(self.random.u64(20..150)));
            }
        }
        End::Lost
    }

    fn take(&mut self, event: proto::Event) {
        self.record.events += 1;
        if self.manners.uses_library && self.view.apply(event.clone()).is_err() {
            self.record.divergences += 1;
        }
        let kind = event.state.as_ref().map(proto::SubscriptionState::kind);
        if kind == Some(Kind::Reset) {
            self.record.resets += 1;
            self.begin_life();
        }
        let told = told(&event);
        let Some(token) = event.token else {
            // What a state says between two places counts for neither.
            self.waiting.extend(told.filter(|_| kind.is_none()));
            return;
        };
        self.token = Some(token);
        for told in std::mem::take(&mut self.waiting).into_iter().chain(told) {
            match told {
                Told::Changed(Change { version, .. }) | Told::Holds(version, _) => self.at = self.at.max(version),
                Told::Initial(_) | Told::Ready | Told::Resumed => {}
            }
            self.tell(told);
        }
        if kind == Some(Kind::Ready) && !self.is_ready {
            self.is_ready = true;
            self.tell(Told::Ready);
        }
    }
}

fn told(event: &proto::Event) -> Option<Told> {
    if let Some(state) = &event.state {
        let said = Summary { count: state.count(), digest: state.digest() };
        return state.position.map(|position| Told::Holds(position, said));
    }
    let change = change_of(event);
    Some(if event.initial() { Told::Initial(change) } else { Told::Changed(change) })
}

/// What an event of the table says.
pub(crate) fn change_of(event: &proto::Event) -> Change {
    let Some(Body::TableEvent(body)) = &event.body else { panic!("{event:?}") };
    let Some(table_key::Value::Text(domain)) = body.key.as_ref().and_then(|key| key.value.as_ref()) else {
        panic!("{event:?}")
    };
    let write = match body.event_type() {
        EventType::Deleted => None,
        EventType::Added | EventType::Updated => {
            let row: Value = serde_json::from_str(body.document()).expect("a document");
            Some(write_of(&row))
        }
    };
    Change { version: event.version(), row: row_of(domain), write }
}

/// The number of the write that is in a row.
pub(crate) fn write_of(row: &Value) -> u64 {
    let url = row["login_url"].as_str().expect("a URL");
    url.rsplit('/').next().expect("a number").parse().expect("a number")
}

pub(crate) fn row_of(domain: &str) -> u32 {
    domain.trim_start_matches("row").trim_end_matches(".example").parse().expect("a number")
}

/// A place in the history before which there is nothing, because the table is still empty.
pub(crate) fn token_of_nothing(address: &str) -> Bytes {
    let mut client = RawClient::connect(address);
    client.subscribe(Manners::PLAIN.subscribe(None));
    loop {
        let event = client.event();
        let state = event.state.expect("there are no rows");
        if state.kind() == Kind::Live {
            return event.token.expect("a token was asked for");
        }
    }
}
