//! What a client subscribes to, and what it has to see then: said without the code that is tested.

use starfeed::change::{Key, Seq};
use starfeed::client::{Query, Source};
use starfeed::matcher::{Expression, Filter, FilterLimits};
use starfeed::proto::{self, SubscribeOptions, request::Command};

use super::model::{Model, Rows};
use crate::support::filter_reference::evaluate;

pub(crate) const TABLES: [&str; 3] = ["policy", "schedule", "domain_login"];

/// Over the members that rows of the simulation have: `v` (0 to 999), `kind` (a, b or c), and sometimes `on`.
const FILTERS: [&str; 9] = [
    "kind == \"a\"",
    "kind == \"a\" && v < 500",
    "v >= 200 && v < 700",
    "kind in [\"a\", \"b\"] && v > 300",
    "on",
    "has(on) && !on || v > 900",
    "!(kind == \"c\")",
    "kind.startsWith(\"b\") || kind == \"c\" && v <= 100",
    "nothing > 1",
];

/// What a client subscribes to.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) table: &'static str,
    /// As JSON, instead of events of a list.
    is_json: bool,
    filter: Option<(&'static str, Expression)>,
    /// It sends none of what follows.
    pub(crate) is_plain: bool,
    pub(crate) states: bool,
    pub(crate) tokens: bool,
    pub(crate) coalesce: bool,
    heartbeat_seconds: Option<i32>,
    /// It uses the client library.
    pub(crate) is_library: bool,
}

impl Wish {
    pub(crate) fn random(rng: &mut fastrand::Rng) -> Self {
        let table = TABLES[rng.usize(0..TABLES.len())];
        let is_plain = rng.u8(0..4) == 0;
        let states = !is_plain && rng.bool();
        let mut wish = Self {
            table,
            is_json: rng.u8(0..3) == 0,
            filter: None,
            is_plain,
            states,
            tokens: !is_plain && rng.u8(0..4) > 0,
            coalesce: !is_plain && rng.u8(0..3) == 0,
            heartbeat_seconds: (states && rng.bool()).then_some(1),
            is_library: false,
        };
        if !is_plain && rng.u8(0..3) == 0 {
            // What the library asks for.
            (wish.is_library, wish.states, wish.tokens, wish.heartbeat_seconds) = (true, true, true, Some(1));
        }
        if !is_plain && rng.bool() {
            wish.filter_by(FILTERS[rng.usize(0..FILTERS.len())]);
        }
        wish
    }

    fn filter_by(&mut self, text: &'static str) {
        let filter = Filter::parse(text, &FilterLimits::default()).expect("a filter");
        self.filter = Some((text, filter.expression().clone()));
    }

    /// Another filter on the same table.
    pub(crate) fn refiltered(&self, rng: &mut fastrand::Rng) -> Self {
        let mut other = self.clone();
        let choices: Vec<&'static str> =
            FILTERS.into_iter().filter(|text| self.filter.as_ref().is_none_or(|(known, _)| known != text)).collect();
        other.filter_by(choices[rng.usize(0..choices.len())]);
        other
    }

    pub(crate) fn command(&self, resume_token: Option<bytes::Bytes>) -> Command {
        let options = (!self.is_plain).then(|| SubscribeOptions {
            states: Some(self.states),
            tokens: Some(self.tokens),
            coalesce: Some(self.coalesce),
            heartbeat_seconds: self.heartbeat_seconds,
            filter: self.filter.as_ref().map(|(text, _)| (*text).to_owned()),
            resume_token,
            ..Default::default()
        });
        if self.is_json {
            return Command::SubscribeTable(proto::RequestSubscribeTable { table: self.table.to_owned(), options });
        }
        match self.table {
            "policy" => Command::SubscribePolicyList(proto::RequestSubscribePolicyList { options }),
            "schedule" => Command::SubscribeScheduleList(proto::RequestSubscribeScheduleList { options }),
            _ => Command::SubscribeDomainLoginList(proto::RequestSubscribeDomainLoginList { options }),
        }
    }

    /// The same for the client library.
    pub(crate) fn query(&self) -> Query {
        let source = match self.table {
            _ if self.is_json => Source::Table(self.table.to_owned()),
            "policy" => Source::Policies,
            "schedule" => Source::Schedules,
            _ => Source::DomainLogins,
        };
        let mut query = Query::new(source).with_documents().heartbeat_seconds(1);
        if let Some((text, _)) = &self.filter {
            query = query.filter(text);
        }
        if self.coalesce { query.coalesced() } else { query }
    }

    /// What it has to see of the table as it was after change `seq`.
    pub(crate) fn view_at(&self, model: &Model, seq: Seq) -> Rows {
        let mut rows = model.at(self.table, seq);
        rows.retain(|key, (_, document)| {
            self.can_name(key)
                && self.filter.as_ref().is_none_or(|(_, expression)| {
                    let members = document.members().expect("an object");
                    evaluate(expression, &serde_json::Value::Object(members)) == Some(true)
                })
        });
        rows
    }

    fn can_name(&self, key: &Key) -> bool {
        // Lists of policies and schedules name rows by UUIDs, and all keys but one are such.
        self.is_json || self.table == "domain_login" || key.as_text().is_some_and(|text| text.len() == 36)
    }
}
