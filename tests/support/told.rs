//! Requests with options, and events as one line of text each.

use bytes::Bytes;
use serde_json::{Value, json};
use starfeed::proto::{self, SubscribeOptions, event::Body, request::Command, table_key};

use crate::support::crawled::{self, with};
use crate::support::process::{ServerProcess, eventually};
use crate::support::raw::RawClient;

/// In every row that has secrets, where no subscriber may see it.
pub(crate) const SECRET: &str = "hunter2";

pub(crate) const POLICY_ID: &str = "00010203-0405-4607-8809-0a0b0c0d0e0f";
pub(crate) const SCHEDULE_ID: &str = "10111213-1415-4617-9819-1a1b1c1d1e1f";

/// Subscribes to the list that shows the rows of `table`.
pub(crate) fn list(table: &str, options: SubscribeOptions) -> Command {
    let options = Some(options);
    match table {
        "policy" => Command::SubscribePolicyList(proto::RequestSubscribePolicyList { options }),
        "schedule" => Command::SubscribeScheduleList(proto::RequestSubscribeScheduleList { options }),
        "domain_login" => Command::SubscribeDomainLoginList(proto::RequestSubscribeDomainLoginList { options }),
        "captcha_solver" => Command::SubscribeCaptchaSolverList(proto::RequestSubscribeCaptchaSolverList { options }),
        "rate_limit" => Command::SubscribeRateLimitList(proto::RequestSubscribeRateLimitList { options }),
        "job" => Command::SubscribeJobList(proto::RequestSubscribeJobList { options }),
        _ => panic!("there is no list of {table}"),
    }
}

/// Subscribes to `table`.
pub(crate) fn table(table: &str, options: SubscribeOptions) -> Command {
    Command::SubscribeTable(proto::RequestSubscribeTable { table: table.to_owned(), options: Some(options) })
}

pub(crate) fn documents() -> SubscribeOptions {
    SubscribeOptions { include_document: Some(true), include_old: Some(true), ..SubscribeOptions::default() }
}

pub(crate) fn states() -> SubscribeOptions {
    SubscribeOptions { states: Some(true), tokens: Some(true), ..SubscribeOptions::default() }
}

pub(crate) fn with_filter(filter: &str, options: SubscribeOptions) -> SubscribeOptions {
    SubscribeOptions { filter: Some(filter.to_owned()), ..options }
}

pub(crate) fn with_token(token: Bytes, options: SubscribeOptions) -> SubscribeOptions {
    SubscribeOptions { resume_token: Some(token), ..options }
}

/// A login with an account.
pub(crate) fn login(domain: &str, login_url: &str) -> Command {
    let user = proto::DomainLoginUser {
        username: Some("bob".to_owned()),
        password: Some(SECRET.to_owned()),
        working: Some(true),
    };
    let login = proto::DomainLogin {
        domain: Some(domain.to_owned()),
        login_url: Some(login_url.to_owned()),
        login_test: Some("Log out".to_owned()),
        users: vec![user],
    };
    Command::SetDomainLogin(proto::RequestSetDomainLogin { login: Some(login) })
}

/// A policy with a proxy that wants a password.
pub(crate) fn policy(name: &str) -> Value {
    let proxy = json!({"proxy_url": format!("socks5://bob:{SECRET}@proxy.example:1080")});
    with(crawled::policy(0, name), json!({"id": POLICY_ID, "proxy_rules": [proxy]}))
}

pub(crate) fn schedule(name: &str) -> Value {
    with(crawled::schedule(0, name, 0), json!({"id": SCHEDULE_ID, "policy_id": POLICY_ID, "job_count": 1}))
}

/// A CAPTCHA solver with a key that nobody may see.
pub(crate) fn solver(id: &str, name: &str) -> Value {
    with(crawled::solver(0, name), json!({"id": id, "api_key": SECRET}))
}

/// Waits until so many subscriptions are live: what is written then is news to all of them.
pub(crate) fn until_live(server: &ServerProcess, subscriptions: u32) {
    eventually("all are live", || server.metric("starfeed_subscriptions_live") == f64::from(subscriptions));
}

/// What a row is called, or where one logs in.
fn mark(row: &Value) -> &str {
    let marks = ["login_url", "name", "schedule_name"];
    marks.iter().find_map(|mark| row[mark].as_str()).expect("a row that one can tell from others")
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn row_told(kind: &str, key: &str, name: Option<&str>, new: Option<&str>, old: Option<&str>) -> String {
    let name = name.map_or_else(String::new, |name| format!(" ({name})"));
    let new = new.map_or_else(String::new, |new| format!(" new={new}"));
    let old = old.map_or_else(String::new, |old| format!(" old={old}"));
    format!("{kind} {key}{name}{new}{old}")
}

/// What an event says, in a line: `UPDATED forum.example new=B old=A`, `READY`, `RESET View`.
pub(crate) fn told(event: &proto::Event) -> String {
    if let Some(state) = &event.state {
        let reason = state.reason.map_or_else(String::new, |_| format!(" {:?}", state.reason()));
        return format!("{}{reason}", state.kind().as_str_name());
    }
    match event.body.as_ref().expect("an event has a body or a state") {
        Body::PolicyEvent(event) => {
            let (new, old) =
                (event.policy.as_ref().map(|row| row.name()), event.old_policy.as_ref().map(|row| row.name()));
            let id = uuid::Uuid::from_slice(event.policy_id()).expect("a UUID").to_string();
            row_told(event.event_type().as_str_name(), &id, event.name.as_deref(), new, old)
        }
        Body::ScheduleEvent(event) => {
            let new = event.schedule.as_ref().map(|row| row.schedule_name());
            let old = event.old_schedule.as_ref().map(|row| row.schedule_name());
            let id = uuid::Uuid::from_slice(event.schedule_id()).expect("a UUID").to_string();
            row_told(event.event_type().as_str_name(), &id, event.schedule_name.as_deref(), new, old)
        }
        Body::DomainLoginEvent(event) => {
            let new = event.login.as_ref().map(|row| row.login_url());
            let old = event.old_login.as_ref().map(|row| row.login_url());
            row_told(event.event_type().as_str_name(), event.domain(), None, new, old)
        }
        Body::CaptchaSolverEvent(event) => {
            let new = event.solver.as_ref().map(|row| row.name());
            let old = event.old_solver.as_ref().map(|row| row.name());
            let id = uuid::Uuid::from_slice(event.solver_id()).expect("a UUID").to_string();
            row_told(event.event_type().as_str_name(), &id, event.name.as_deref(), new, old)
        }
        Body::RateLimitEvent(event) => {
            let delay = |row: &Option<proto::RateLimit>| row.as_ref().map(|row| row.delay().to_string());
            let (new, old) = (delay(&event.rate_limit), delay(&event.old_rate_limit));
            let kind = event.event_type().as_str_name();
            row_told(kind, &hex(event.token()), event.name.as_deref(), new.as_deref(), old.as_deref())
        }
        Body::TableEvent(event) => {
            let row = |text: &Option<String>| text.as_ref().map(|text| serde_json::from_str(text).expect("JSON"));
            let (new, old): (Option<Value>, Option<Value>) = (row(&event.document), row(&event.old_document));
            let key = match event.key.as_ref().and_then(|key| key.value.as_ref()) {
                Some(table_key::Value::Text(key)) => key.clone(),
                Some(table_key::Value::Binary(key)) => hex(key),
                Some(table_key::Value::Number(_)) | None => panic!("{event:?}"),
            };
            row_told(event.event_type().as_str_name(), &key, None, new.as_ref().map(mark), old.as_ref().map(mark))
        }
        Body::SubscriptionClosed(closed) => format!("CLOSED {}", closed.message()),
        body => panic!("{body:?}"),
    }
}

/// The next `count` events.
pub(crate) fn next(client: &mut RawClient, count: usize) -> Vec<proto::Event> {
    (0..count).map(|_| client.event()).collect()
}

/// The next `count` events, each in a line.
pub(crate) fn next_told(client: &mut RawClient, count: usize) -> Vec<String> {
    next(client, count).iter().map(told).collect()
}

/// Events up to the first that is told so; that one is the last.
pub(crate) fn until(client: &mut RawClient, last: &str) -> Vec<proto::Event> {
    let mut events = vec![client.event()];
    while events.last().is_none_or(|event| told(event) != last) {
        events.push(client.event());
    }
    events
}

pub(crate) fn lines(events: &[proto::Event]) -> Vec<String> {
    events.iter().map(told).collect()
}
