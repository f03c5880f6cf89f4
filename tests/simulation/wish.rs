//! What a client subscribes to, and what it has to see then: said without the code that is tested.

use std::sync::LazyLock;

use starfeed::change::{Document, Key, Seq};
use starfeed::client::{Query, Source};
use starfeed::matcher::{Expression, Filter, FilterLimits};
use starfeed::proto::{self, SubscribeOptions, request::Command};

use super::model::{Model, ModelRow};
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

static EXPRESSIONS: LazyLock<Vec<Expression>> = LazyLock::new(|| {
    let parse = |text| Filter::parse(text, &FilterLimits::default()).expect("a filter").expression();
    FILTERS.into_iter().map(parse).collect()
});

/// Which filters a row passes: bit `n` for filter `n`.
pub(crate) fn passed_filters(document: &Document) -> u16 {
    let members = serde_json::Value::Object(document.members().expect("an object"));
    let passes = |expression| u16::from(evaluate(expression, &members) == Some(true));
    EXPRESSIONS.iter().enumerate().map(|(number, expression)| passes(expression) << number).sum()
}

/// What a client subscribes to.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) table: &'static str,
    /// As JSON, instead of events of a list.
    is_json: bool,
    /// By its number.
    filter: Option<usize>,
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
            wish.filter = Some(rng.usize(0..FILTERS.len()));
        }
        wish
    }

    fn filter(&self) -> Option<&'static str> {
        self.filter.map(|number| FILTERS[number])
    }

    /// Whether it sees the same of a table.
    pub(crate) fn is_same_view(&self, other: &Self) -> bool {
        (self.table, self.is_json, self.filter) == (other.table, other.is_json, other.filter)
    }

    /// Another filter on the same table.
    pub(crate) fn refiltered(&self, rng: &mut fastrand::Rng) -> Self {
        let mut other = self.clone();
        let choices: Vec<usize> = (0..FILTERS.len()).filter(|number| self.filter != Some(*number)).collect();
        other.filter = rng.choice(choices);
        other
    }

    pub(crate) fn command(&self, resume_token: Option<bytes::Bytes>) -> Command {
        let options = (!self.is_plain).then(|| SubscribeOptions {
            states: Some(self.states),
            tokens: Some(self.tokens),
            coalesce: Some(self.coalesce),
            heartbeat_seconds: self.heartbeat_seconds,
            filter: self.filter().map(ToOwned::to_owned),
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
        if let Some(text) = self.filter() {
            query = query.filter(text);
        }
        if self.coalesce { query.coalesced() } else { query }
    }

    /// What it has to see of the table as it was after change `seq`, in the order of the keys.
    pub(crate) fn view_at<'a>(&self, model: &'a Model, seq: Seq) -> impl Iterator<Item = &'a ModelRow> {
        let passes = self.filter.map_or(0, |number| 1 << number);
        let names_any_key = self.is_json || self.table == "domain_login";
        let rows = model.at(self.table, seq).iter().map(AsRef::as_ref);
        rows.filter(move |row| row.passes & passes == passes && (names_any_key || is_uuid(&row.key)))
    }
}

/// Lists of policies and schedules name rows by UUIDs, and all keys but one are such.
fn is_uuid(key: &Key) -> bool {
    key.as_text().is_some_and(|text| text.len() == 36)
}
