//! What a subscription of the differential test asks for, and which rows of the database it should hold.

use bytes::Bytes;
use serde_json::Value;
use starfeed::change::Key;
use starfeed::client::{Query, Source};
use starfeed::proto::{self, SubscribeOptions, request::Command, table_key};

use super::rows::{self, SECRET, TABLES};

/// A filter, and whether a row as it is stored passes it.
#[derive(Clone, Copy)]
pub(crate) struct Filter {
    pub(crate) text: &'static str,
    passes: fn(&Value) -> bool,
}

const fn filter(text: &'static str, passes: fn(&Value) -> bool) -> Filter {
    Filter { text, passes }
}

fn text<'a>(row: &'a Value, member: &str) -> &'a str {
    row[member].as_str().unwrap_or_default()
}

const POLICY: &[Filter] = &[
    filter("limits.max_items >= 50", |row| row["limits"]["max_items"].as_f64().is_some_and(|items| items >= 50.0)),
    filter("name.startsWith('g3 ')", |row| text(row, "name").starts_with("g3 ")),
    filter("name.contains('7')", |row| text(row, "name").contains('7')),
];

const SCHEDULE: &[Filter] = &[
    filter("enabled", |row| row["enabled"] == Value::Bool(true)),
    filter("schedule_name.startsWith('g2 ') && num_units < 60", |row| {
        text(row, "schedule_name").starts_with("g2 ") && row["num_units"].as_f64().is_some_and(|units| units < 60.0)
    }),
];

const DOMAIN_LOGIN: &[Filter] = &[
    filter("login_url == 'https://g1.example/'", |row| text(row, "login_url") == "https://g1.example/"),
    filter("domain.startsWith('row1')", |row| text(row, "domain").starts_with("row1")),
    filter("login_url.contains('g4.')", |row| text(row, "login_url").contains("g4.")),
    filter("domain == 'row7.example'", |row| text(row, "domain") == "row7.example"),
];

const JOB: &[Filter] = &[
    filter("run_state == 'g1'", |row| text(row, "run_state") == "g1"),
    filter("item_count > 50", |row| row["item_count"].as_f64().is_some_and(|items| items > 50.0)),
    filter("has(old_urls)", |_| false),
];

fn filters(table: &str) -> &'static [Filter] {
    match table {
        "policy" => POLICY,
        "schedule" => SCHEDULE,
        "domain_login" => DOMAIN_LOGIN,
        "job" => JOB,
        _ => panic!("{table} has no rows here"),
    }
}

/// What is shown of a row.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Shown {
    /// What no other version of the row has.
    pub(crate) stamp: Option<String>,
    pub(crate) document: Option<Value>,
}

/// What one subscription asks for.
#[derive(Clone)]
pub(crate) struct Wish {
    pub(crate) table: &'static str,
    is_list: bool,
    filter: Option<Filter>,
    pub(crate) with_documents: bool,
    pub(crate) with_old: bool,
    pub(crate) states: bool,
    pub(crate) tokens: bool,
    pub(crate) coalesce: bool,
    heartbeat_seconds: Option<i32>,
}

impl std::fmt::Debug for Wish {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { table, is_list, with_documents, with_old, states, tokens, coalesce, .. } = self;
        let filter = self.filter.map(|filter| filter.text);
        write!(
            f,
            "{table} list={is_list} filter={filter:?} documents={with_documents} old={with_old} states={states} tokens={tokens} \
             coalesce={coalesce}"
        )
    }
}

impl Wish {
    pub(crate) fn random(random: &mut fastrand::Rng) -> Self {
        let table = TABLES[random.usize(..TABLES.len())];
        let choices = filters(table);
        let states = random.u8(0..4) > 0;
        Self {
            table,
            is_list: table != "job" && random.bool(),
            filter: random.bool().then(|| choices[random.usize(..choices.len())]),
            with_documents: random.bool(),
            with_old: random.bool(),
            states,
            tokens: random.u8(0..4) > 0,
            coalesce: random.u8(0..3) == 0,
            heartbeat_seconds: states.then(|| random.i32(1..=3)),
        }
    }

    /// One of a client whose application compares the row before with the one that it has.
    pub(crate) fn random_for_library(random: &mut fastrand::Rng) -> Self {
        let wish = Self::random(random);
        Self { with_old: wish.with_old && wish.with_documents, ..wish }
    }

    /// All rows of a list with states and tokens.
    pub(crate) fn plain(table: &'static str) -> Self {
        Self {
            table,
            is_list: true,
            filter: None,
            with_documents: false,
            with_old: false,
            states: true,
            tokens: true,
            coalesce: false,
            heartbeat_seconds: Some(1),
        }
    }

    pub(crate) fn has_heartbeats(&self) -> bool {
        self.heartbeat_seconds.is_some()
    }

    /// The request that begins it, or goes on behind `resume_token`.
    pub(crate) fn command(&self, resume_token: Option<Bytes>) -> Command {
        let flag = |is_set: bool| is_set.then_some(true);
        let options = Some(SubscribeOptions {
            include_document: flag(self.with_documents),
            include_old: flag(self.with_old),
            states: flag(self.states),
            filter: self.filter.map(|filter| filter.text.to_owned()),
            resume_token,
            heartbeat_seconds: self.heartbeat_seconds,
            tokens: flag(self.tokens),
            coalesce: flag(self.coalesce),
        });
        match (self.is_list, self.table) {
            (true, "policy") => Command::SubscribePolicyList(proto::RequestSubscribePolicyList { options }),
            (true, "schedule") => Command::SubscribeScheduleList(proto::RequestSubscribeScheduleList { options }),
            (true, _) => Command::SubscribeDomainLoginList(proto::RequestSubscribeDomainLoginList { options }),
            (false, table) => {
                Command::SubscribeTable(proto::RequestSubscribeTable { table: table.to_owned(), options })
            }
        }
    }

    /// The same for the client library, which always has states and tokens.
    pub(crate) fn query(&self) -> Query {
        let source = match (self.is_list, self.table) {
            (true, "policy") => Source::Policies,
            (true, "schedule") => Source::Schedules,
            (true, _) => Source::DomainLogins,
            (false, table) => Source::Table(table.to_owned()),
        };
        let mut query = Query::new(source).heartbeat_seconds(2);
        if let Some(filter) = self.filter {
            query = query.filter(filter.text);
        }
        if self.with_documents {
            query = query.with_documents();
        }
        if self.with_old {
            query = query.with_old();
        }
        if self.coalesce { query.coalesced() } else { query }
    }

    /// The key of this row and what is shown of it, if the subscription is to hold it.
    pub(crate) fn expects(&self, row: &Value) -> Option<(Key, Shown)> {
        let key = rows::key(self.table, row);
        let is_nameable =
            self.table == "domain_login" || key.as_text().is_some_and(|key| uuid::Uuid::parse_str(key).is_ok());
        if self.is_list && !is_nameable || self.filter.is_some_and(|filter| !(filter.passes)(row)) {
            return None;
        }
        let stamp = || Some(text(row, rows::stamp_member(self.table)).to_owned());
        let shown = match (self.is_list, self.with_documents) {
            (false, true) => Shown { stamp: stamp(), document: Some(rows::as_shown(self.table, row)) },
            (false, false) => Shown::default(),
            (true, with_documents) => {
                Shown { stamp: stamp().filter(|_| with_documents || self.table != "domain_login"), document: None }
            }
        };
        Some((key, shown))
    }
}

/// What an event says of a row.
pub(crate) struct RowEvent {
    pub(crate) kind: proto::table_event::EventType,
    pub(crate) key: Key,
    pub(crate) new: Shown,
    pub(crate) old: Shown,
}

impl RowEvent {
    /// The error says what no server should send.
    pub(crate) fn read(table: &str, body: proto::event::Body) -> Result<Self, String> {
        use proto::event::Body;
        let listed = |stamp: Option<String>| Shown { stamp, document: None };
        let id = |bytes: &[u8]| {
            uuid::Uuid::from_slice(bytes).map(|id| Key::text(&id.to_string())).map_err(|e| e.to_string())
        };
        let (kind, key, new, old) = match body {
            Body::PolicyEvent(event) => {
                let key = id(event.policy_id())?;
                let document = event.policy.as_ref().map(|policy| policy.name().to_owned());
                if document.is_some() && document != event.name {
                    return Err(format!("{event:?} names another policy than it shows"));
                }
                (event.event_type, key, listed(event.name), listed(event.old_policy.and_then(|policy| policy.name)))
            }
            Body::ScheduleEvent(event) => {
                let key = id(event.schedule_id())?;
                let old = event.old_schedule.and_then(|schedule| schedule.schedule_name);
                (event.event_type, key, listed(event.schedule_name), listed(old))
            }
            Body::DomainLoginEvent(event) => {
                let stamp = |login: Option<proto::DomainLogin>| listed(login.and_then(|login| login.login_test));
                let key = Key::text(event.domain.as_deref().ok_or("a login without a domain")?);
                (event.event_type, key, stamp(event.login), stamp(event.old_login))
            }
            Body::TableEvent(event) => {
                let key = match event.key.and_then(|key| key.value).ok_or("a row without a key")? {
                    table_key::Value::Text(text) => Key::text(&text),
                    table_key::Value::Number(number) => Key::number(number),
                    table_key::Value::Binary(bytes) => Key::binary(&bytes),
                };
                (event.event_type, key, document(table, event.document)?, document(table, event.old_document)?)
            }
            body => return Err(format!("{body:?}")),
        };
        let kind = kind.and_then(|kind| proto::table_event::EventType::try_from(kind).ok());
        Ok(Self { kind: kind.ok_or("an event without a type")?, key, new, old })
    }
}

fn document(table: &str, text_of: Option<String>) -> Result<Shown, String> {
    let Some(json) = text_of else { return Ok(Shown::default()) };
    if json.contains(SECRET) {
        return Err(format!("a secret was shown: {json}"));
    }
    let document: Value = serde_json::from_str(&json).map_err(|error| format!("{error}: {json}"))?;
    let stamp = Some(text(&document, rows::stamp_member(table)).to_owned());
    Ok(Shown { stamp, document: Some(rows::with_plain_numbers(document)) })
}
