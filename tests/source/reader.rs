//! A client that folds up what it is sent, and believes nothing of it.

use std::collections::BTreeMap;

use bytes::Bytes;
use starfeed::change::{Key, Seq};
use starfeed::proto::subscription_state::Kind;
use starfeed::proto::{self, SubscribeOptions};
use starfeed::summary::Summary;

use super::setup::{Setup, TABLE, everything};
use crate::support::process::ServerProcess;
use crate::support::raw::{RawClient, subscribe_logins};
use crate::support::told::{list, told, with_token};

/// A row as its events show it: the change that made it so, and where one logs in.
type Row = (u64, String);

/// A subscription to the logins, with everything that it can be told.
pub(crate) struct Reader {
    pub(crate) client: RawClient,
    rows: BTreeMap<String, Row>,
    number: u64,
    /// Behind each event that has one: the token, and how many lines there were.
    pub(crate) tokens: Vec<(Bytes, usize)>,
    pub(crate) lines: Vec<String>,
    is_live: bool,
}

impl Reader {
    /// Subscribes, and reads until it is live.
    pub(crate) fn live(server: &ServerProcess) -> Self {
        let mut reader = Self::new(&server.address);
        reader.until("LIVE");
        reader
    }

    pub(crate) fn new(address: &str) -> Self {
        Self::with(address, everything(), BTreeMap::new())
    }

    /// Goes on where this one was, on another connection.
    pub(crate) fn resumed(self, address: &str) -> Self {
        let (token, _) = self.tokens.last().expect("a token").clone();
        Self::with(address, with_token(token, everything()), self.rows)
    }

    fn with(address: &str, options: SubscribeOptions, rows: BTreeMap<String, Row>) -> Self {
        let mut client = RawClient::connect(address);
        client.subscribe(list(TABLE, options));
        Self { client, rows, number: 0, tokens: Vec::new(), lines: Vec::new(), is_live: false }
    }

    /// The next event in a line: `UPDATED a.example new=B old=A`, and `(resync)` behind it, or `STALE Source`.
    pub(crate) fn next(&mut self) -> String {
        let event = self.client.event();
        self.number += 1;
        assert_eq!(event.number, Some(self.number), "after {:?}", self.lines);
        let mut line = told(&event);
        match &event.state {
            Some(state) => self.check(state, &line),
            None => self.fold(&event, &line),
        }
        if event.resync() {
            line.push_str(" (resync)");
        }
        self.lines.push(line.clone());
        if let Some(token) = event.token {
            self.tokens.push((token, self.lines.len()));
        }
        line
    }

    fn check(&mut self, state: &proto::SubscriptionState, line: &str) {
        self.is_live = match state.kind() {
            Kind::Live => true,
            Kind::Heartbeat => self.is_live,
            _ => false,
        };
        let mut summary = Summary::default();
        self.rows.iter().for_each(|(domain, (version, _))| summary.add(&Key::text(domain), Seq(*version)));
        if let (Some(count), Some(digest)) = (state.count, state.digest) {
            assert_eq!((count, digest), (summary.count, summary.digest), "{line} after {:?}", self.lines);
        }
    }

    fn fold(&mut self, event: &proto::Event, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let word = |name: &str| words.iter().find_map(|word| word.strip_prefix(name)).map(str::to_owned);
        let held = self.rows.remove(words[1]);
        match words[0] {
            "ADDED" => assert_eq!(held, None, "{line} after {:?}", self.lines),
            _ => assert_eq!(held.map(|(_, url)| url), word("old="), "{line} after {:?}", self.lines),
        }
        if words[0] != "DELETED" {
            let url = word("new=").expect("a row");
            self.rows.insert(words[1].to_owned(), (event.version(), url));
        }
    }

    /// Reads up to the first event that is told so; returns those before it.
    pub(crate) fn until(&mut self, last: &str) -> Vec<String> {
        let from = self.lines.len();
        while self.next() != last {}
        self.lines[from..self.lines.len() - 1].to_vec()
    }

    /// The same, in the order of the alphabet: a table is read in any order.
    pub(crate) fn sorted_until(&mut self, last: &str) -> Vec<String> {
        let mut lines = self.until(last);
        lines.sort();
        lines
    }

    fn holds(&self) -> BTreeMap<String, String> {
        self.rows.iter().map(|(domain, (_, url))| (domain.clone(), url.clone())).collect()
    }

    /// Reads until it is live and holds what the database has.
    pub(crate) fn until_level(&mut self, setup: &Setup) {
        while !(self.is_live && self.holds() == in_database(setup)) {
            self.next();
        }
    }

    /// Nothing is on its way: what happens now comes next.
    pub(crate) fn expect_quiet(&mut self, setup: &Setup) {
        setup.put("sentinel.example", "!");
        assert_eq!(self.next(), "ADDED sentinel.example new=!");
        setup.delete("sentinel.example");
        assert_eq!(self.next(), "DELETED sentinel.example old=!");
        assert_eq!(self.holds(), in_database(setup));
    }
}

/// The logins that the database has.
pub(crate) fn in_database(setup: &Setup) -> BTreeMap<String, String> {
    let rows = setup.database.rows(TABLE).into_iter();
    rows.map(|(domain, row)| (domain, row["login_url"].as_str().unwrap_or_default().to_owned())).collect()
}

/// A subscription without options, as older clients have.
pub(crate) struct PlainReader {
    pub(crate) client: RawClient,
}

impl PlainReader {
    pub(crate) fn new(server: &ServerProcess) -> Self {
        let mut client = RawClient::connect(&server.address);
        client.subscribe(subscribe_logins());
        Self { client }
    }

    pub(crate) fn next(&mut self) -> String {
        let event = self.client.event();
        assert!(event.state.is_none() && event.token.is_none() && event.number.is_none(), "{event:?}");
        told(&event)
    }

    pub(crate) fn sorted(&mut self, count: usize) -> Vec<String> {
        let mut lines: Vec<String> = (0..count).map(|_| self.next()).collect();
        lines.sort();
        lines
    }
}
