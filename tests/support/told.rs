//! Requests with options, and events as one line of text each.

use bytes::Bytes;
use serde_json::{Value, json};
use starfeed::proto::{self, SubscribeOptions, event::Body, request::Command, response, table_key};

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

fn time() -> Value {
    json!({"$reql_type$": "TIME", "epoch_time": 1_546_344_000, "timezone": "+00:00"})
}

/// A policy with a proxy that wants a password.
pub(crate) fn policy(name: &str) -> Value {
    json!({
        "id": POLICY_ID, "name": name, "created_at": time(), "updated_at": time(),
        "authentication": {"enabled": false}, "captcha_solver_id": null,
        "limits": {"max_cost": 10, "max_duration": null, "max_items": null},
        "mime_type_rules": [{"save": true}],
        "proxy_rules": [{"proxy_url": format!("socks5://bob:{SECRET}@proxy.example:1080")}],
        "robots_txt": {"usage": "OBEY"}, "url_normalization": {"enabled": true, "strip_parameters": []},
        "url_rules": [{"action": "ADD", "amount": 1}], "user_agents": [{"name": "Test"}],
    })
}

pub(crate) fn schedule(name: &str) -> Value {
    json!({
        "id": SCHEDULE_ID, "schedule_name": name, "enabled": true, "created_at": time(), "updated_at": time(),
        "time_unit": "MINUTES", "num_units": 30, "timing": "REGULAR_INTERVAL", "job_name": "Job {COUNT}",
        "job_count": 1, "seeds": ["https://seed.example/"], "tags": ["news"], "policy_id": POLICY_ID,
    })
}

/// Writes a row as it is stored.
pub(crate) fn import(table: &str, row: &Value) -> Command {
    Command::ImportRows(proto::RequestImportRows {
        table: table.to_owned(),
        rows: vec![row.to_string().into_bytes().into()],
        first_line: None,
        commit: Some(true),
    })
}

/// The rows of a table, as they are stored.
pub(crate) fn exported(client: &mut RawClient, table: &str) -> Vec<Value> {
    let export = proto::RequestExportRows { table: table.to_owned(), ..Default::default() };
    match client.request(Command::ExportRows(export)) {
        Some(response::Body::ExportRows(page)) => {
            page.rows.iter().map(|row| serde_json::from_slice(row).expect("JSON")).collect()
        }
        body => panic!("{body:?}"),
    }
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
        Body::TableEvent(event) => {
            let row = |text: &Option<String>| text.as_ref().map(|text| serde_json::from_str(text).expect("JSON"));
            let (new, old): (Option<Value>, Option<Value>) = (row(&event.document), row(&event.old_document));
            let Some(table_key::Value::Text(key)) = event.key.as_ref().and_then(|key| key.value.as_ref()) else {
                panic!("{event:?}");
            };
            row_told(event.event_type().as_str_name(), key, None, new.as_ref().map(mark), old.as_ref().map(mark))
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
