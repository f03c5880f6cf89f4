//! Every command, with rows that have secrets wherever a row can have them.

use prost::Message as _;
use serde_json::{Value, json};
use starfeed::proto::{self, SubscribeOptions, request::Command};

use crate::support::crawled::{self, body, id, import, success, uuid, with, without};
use crate::support::following::{job_status, resource_monitor, sync, task_monitor};
use crate::support::jobs::{delete_job, get_job, list_jobs, list_schedule_jobs, page, set_job, set_state};
use crate::support::raw::delete_login;
use crate::support::settings::{
    delete_policy, delete_solver, get_policy, get_schedule, get_solver, set_policy, set_rate_limit, set_schedule,
    set_solver,
};
use crate::support::told::{documents, list, states, table, with_filter};

pub(crate) const LOGIN_PASSWORD: &str = "5ecret-login";
pub(crate) const API_KEY: &str = "5ecret-api-key";
pub(crate) const PROXY: &str = "socks5://5ecret-user:5ecret-proxy@proxy.example:1080";
pub(crate) const SOURCE_PASSWORD: &str = "5ecret-source";

pub(crate) const ROWS: [&str; 8] =
    ["policy", "schedule", "domain_login", "captcha_solver", "rate_limit", "job", "response", "response_body"];

/// A command, and what it is called.
pub(crate) struct Asked {
    pub(crate) name: &'static str,
    pub(crate) command: Command,
}

fn asked(name: &'static str, command: Command) -> Asked {
    Asked { name, command }
}

/// The numbers and names of all commands that there are.
pub(crate) fn all_commands() -> Vec<(u32, String)> {
    let proto = include_str!("../../protobuf/starbelly.proto");
    let (_, request) = proto.split_once("\nmessage Request {").expect("there are requests");
    let (_, commands) = request.split_once("oneof Command {").expect("they have commands");
    let (commands, _) = commands.split_once('}').expect("they end");
    let commands = commands.lines().filter_map(|line| {
        let (field, number) = line.trim().strip_suffix(';')?.split_once(" = ")?;
        Some((number.parse().expect("a number"), field.split_once(' ')?.1.to_owned()))
    });
    commands.collect()
}

/// The number of the field of a command.
pub(crate) fn field_number(command: &Command) -> u32 {
    let request = proto::Request { request_id: 0, command: Some(command.clone()) }.encode_to_vec();
    // The request's own number takes two bytes; then comes the key of the command.
    let mut key = &request[2..];
    u32::try_from(prost::encoding::decode_varint(&mut key).expect("a key") >> 3).expect("it is small")
}

fn policy(number: u8, name: &str) -> Value {
    with(crawled::policy(number, name), json!({"proxy_rules": [{"proxy_url": PROXY}], "captcha_solver_id": uuid(8)}))
}

fn login(domain: &str) -> Value {
    let user = json!({"username": "bob", "password": LOGIN_PASSWORD, "working": true});
    json!({"domain": domain, "login_url": "https://a.example/", "login_test": "Log out", "users": [user]})
}

fn solver(number: u8) -> Value {
    with(crawled::solver(number, "Solver"), json!({"api_key": API_KEY}))
}

/// A job has the policy, and the solver in it, as they were when it was made.
fn job(number: u8, state: &str) -> Value {
    let policy = with(policy(1, "News"), json!({"captcha_solver": solver(8)}));
    with(crawled::job(number, state), json!({"policy": without(policy, &["captcha_solver_id"])}))
}

/// Rows of a table as others have written them.
pub(crate) fn rows(table: &str) -> Vec<Value> {
    match table {
        "policy" => vec![policy(1, "News"), policy(2, "Other")],
        "schedule" => vec![crawled::schedule(5, "Nightly", 1)],
        "domain_login" => vec![login("a.example"), login("b.example")],
        "captcha_solver" => vec![solver(8), solver(9)],
        "rate_limit" => vec![],
        "job" => vec![job(3, "completed"), job(4, "running"), job(6, "completed")],
        "response" => vec![success(1, 3, 1)],
        "response_body" => vec![body(1, b"<html>", false)],
        _ => panic!("no test writes {table}"),
    }
}

fn filter(text: String) -> SubscribeOptions {
    with_filter(&text, SubscribeOptions { states: states().states, ..documents() })
}

/// All that can be followed, in every form.
pub(crate) fn subscriptions() -> Vec<Asked> {
    let everything = || SubscribeOptions { tokens: Some(true), states: Some(true), ..documents() };
    let mut all = vec![asked("subscribe_resource_monitor", resource_monitor(Some(1)))];
    for of in ["policy", "schedule", "domain_login", "captcha_solver", "rate_limit", "job"] {
        all.push(asked("list", list(of, SubscribeOptions::default())));
        all.push(asked("list", list(of, everything())));
        all.push(asked("table", table(of, everything())));
        all.push(asked("table", table(of, SubscribeOptions { coalesce: Some(true), ..everything() })));
    }
    all.push(asked("subscribe_job_status", job_status(0.05)));
    all.push(asked("subscribe_job_sync", sync(3, None)));
    all.push(asked("subscribe_task_monitor", task_monitor(0.1)));
    // Whoever guesses is not told by what matches.
    for (of, text) in [
        ("domain_login", format!("'{LOGIN_PASSWORD}' in users || users.password == '{LOGIN_PASSWORD}'")),
        ("captcha_solver", format!("api_key == '{API_KEY}'")),
        ("policy", format!("proxy_rules.proxy_url == '{PROXY}'")),
    ] {
        all.push(asked("filter", table(of, filter(text))));
    }
    all
}

fn user() -> proto::DomainLoginUser {
    let text = |text: &str| Some(text.to_owned());
    proto::DomainLoginUser { username: text("ann"), password: text(LOGIN_PASSWORD), working: None }
}

fn set_login(domain: Option<&str>, login_url: Option<&str>) -> Command {
    let text = |text: &str| text.to_owned();
    let (domain, login_url) = (domain.map(text), login_url.map(text));
    let login =
        proto::DomainLogin { domain, login_url, login_test: Some("Out".to_owned()), users: vec![user(), user()] };
    Command::SetDomainLogin(proto::RequestSetDomainLogin { login: Some(login) })
}

fn new_policy(name: &str, proxies: &[&str]) -> Command {
    let rule = |url: &&str| proto::PolicyProxyRule { proxy_url: Some((*url).to_owned()), ..Default::default() };
    set_policy(proto::Policy {
        name: Some(name.to_owned()),
        proxy_rules: proxies.iter().map(rule).collect(),
        mime_type_rules: vec![proto::PolicyMimeTypeRule { save: Some(true), ..Default::default() }],
        url_rules: vec![proto::PolicyUrlRule {
            action: Some(proto::policy_url_rule::Action::Add.into()),
            amount: Some(1.0),
            ..Default::default()
        }],
        user_agents: vec![proto::PolicyUserAgent { name: "Test".to_owned() }],
        ..Default::default()
    })
}

fn new_solver(name: Option<&str>) -> Command {
    let antigate = proto::CaptchaSolverAntigate {
        service_url: Some("https://solver.example/".to_owned()),
        api_key: Some(API_KEY.to_owned()),
        ..Default::default()
    };
    let solver_type = Some(proto::captcha_solver::SolverType::Antigate(antigate));
    set_solver(proto::CaptchaSolver { name: name.map(str::to_owned), solver_type, ..Default::default() })
}

/// Changes of every table.
pub(crate) const CHANGES: [fn() -> Vec<Asked>; 2] = [writes, deletions];

fn writes() -> Vec<Asked> {
    let job = proto::RequestSetJob {
        policy_id: Some(id(1)),
        seeds: vec!["https://seed.example/".to_owned()],
        ..Default::default()
    };
    let schedule = proto::Schedule { schedule_id: Some(id(5)), ..Default::default() };
    vec![
        asked("set_domain_login", set_login(Some("a.example"), Some("https://b.example/"))),
        asked("set_domain_login", set_login(Some("new.example"), Some("https://new.example/"))),
        asked("set_policy", new_policy("New", &[PROXY])),
        asked("set_captcha_solver", new_solver(Some("New"))),
        asked("set_rate_limit", set_rate_limit(Some("a.example"), Some(1.0))),
        asked("set_schedule", set_schedule(schedule)),
        asked("set_job", set_job(job)),
        asked("set_job", set_state(4, proto::JobRunState::Cancelled)),
        asked("set_job", set_state(4, proto::JobRunState::Running)),
        asked("import_rows", import("policy", &[policy(2, "Renamed")])),
        asked("import_rows", import("job", &[job_done()])),
    ]
}

fn job_done() -> Value {
    job(6, "cancelled")
}

fn deletions() -> Vec<Asked> {
    vec![
        asked("delete_domain_login", delete_login("b.example")),
        asked("delete_captcha_solver", delete_solver(&id(9))),
        asked("delete_captcha_solver", delete_solver(&id(8))),
        asked("delete_policy", delete_policy(&id(2))),
        asked("delete_job", delete_job(6)),
        asked("delete_schedule", Command::DeleteSchedule(proto::RequestDeleteSchedule { schedule_id: id(5) })),
        asked("set_rate_limit", set_rate_limit(Some("a.example"), None)),
    ]
}

/// Everything that can be read.
pub(crate) fn reads() -> Vec<Asked> {
    let get_login = |domain: &str| proto::RequestGetDomainLogin { domain: domain.to_owned() };
    let items = proto::RequestGetJobItems { job_id: id(3), include_success: Some(true), ..Default::default() };
    let export = |table: &str| {
        let request = proto::RequestExportRows { table: table.to_owned(), after: None, limit: None };
        asked("export_rows", Command::ExportRows(request))
    };
    vec![
        asked("get_domain_login", Command::GetDomainLogin(get_login("a.example"))),
        asked("get_domain_login", Command::GetDomainLogin(get_login("gone.example"))),
        asked("get_policy", get_policy(&id(1))),
        asked("get_captcha_solver", get_solver(&id(8))),
        asked("get_schedule", get_schedule(&id(5))),
        asked("get_job", get_job(3)),
        asked("get_job_items", Command::GetJobItems(items)),
        asked("list_jobs", list_jobs(proto::RequestListJobs::default())),
        asked("list_policies", Command::ListPolicies(proto::RequestListPolicies { page: page(100, 0) })),
        asked("list_schedules", Command::ListSchedules(proto::RequestListSchedules { page: page(100, 0) })),
        asked("list_schedule_jobs", list_schedule_jobs(id(5), page(100, 0))),
        asked("list_domain_logins", Command::ListDomainLogins(proto::RequestListDomainLogins { page: page(100, 0) })),
        asked("list_captcha_solvers", Command::ListCaptchaSolvers(proto::RequestListCaptchaSolvers { page: None })),
        asked("list_rate_limits", Command::ListRateLimits(proto::RequestListRateLimits { page: None })),
        asked("performance_profile", Command::PerformanceProfile(proto::RequestPerformanceProfile::default())),
        export("domain_login"),
        export("policy"),
        export("no such table"),
    ]
}

/// Filters, good and bad; what a client typed into one comes back only where it asks what that means.
pub(crate) fn filters() -> Vec<Asked> {
    let describe = |filter: &str| Command::DescribeFilter(proto::RequestDescribeFilter { filter: filter.to_owned() });
    let bad = [
        format!("api_key == '{API_KEY}"),
        format!("api_key = '{API_KEY}'"),
        format!("'{API_KEY}'"),
        format!("api_key.matches('{API_KEY}(')"),
        format!("size('{API_KEY}') > 1"),
        format!("api_key < '{API_KEY}' +"),
        format!("({}", "(".repeat(40)) + API_KEY,
    ];
    let bad = bad.iter().flat_map(|text| {
        let subscribe = table("captcha_solver", filter(text.clone()));
        [asked("describe_filter", describe(text)), asked("subscribe_table", subscribe)]
    });
    bad.chain([asked("describe_filter", describe("name == 'x'"))]).collect()
}

/// Rows that cannot be accepted.
pub(crate) fn invalid_rows() -> Vec<String> {
    let users = json!([{"password": LOGIN_PASSWORD}]);
    vec![
        format!("{{\"password\": \"{LOGIN_PASSWORD}\", }}"),
        format!("\"{LOGIN_PASSWORD}\""),
        format!("{{\"domain\": \"x\", \"users\": \"{LOGIN_PASSWORD}"),
        json!({"domain": null, "users": users}).to_string(),
        json!({"users": users, "password": LOGIN_PASSWORD}).to_string(),
        json!([LOGIN_PASSWORD]).to_string(),
    ]
}

/// What is refused, with secrets in it.
pub(crate) fn invalid() -> Vec<Asked> {
    let rows = |table: &str, rows: Vec<String>| {
        let rows = rows.into_iter().map(|row| row.into_bytes().into()).collect();
        let request = proto::RequestImportRows { table: table.to_owned(), rows, first_line: None, commit: Some(true) };
        asked("import_rows", Command::ImportRows(request))
    };
    let mut all = vec![
        asked("set_domain_login", set_login(None, Some("https://b.example/"))),
        asked("set_domain_login", set_login(Some(""), None)),
        asked("set_policy", new_policy("", &[PROXY])),
        asked("set_captcha_solver", new_solver(None)),
        asked("set_captcha_solver", new_solver(Some(""))),
        rows("domain_login", invalid_rows()),
        rows("captcha_solver", vec![json!({"id": 7, "api_key": API_KEY}).to_string(), format!("{{\"{API_KEY}\": 1,")]),
        rows("no such table", vec![json!({"api_key": API_KEY}).to_string()]),
    ];
    for proxy in
        [&PROXY[9..], "ftp://5ecret-user:5ecret-proxy@x", "socks5://5ecret-user:5ecret-proxy@", "://5ecret-proxy@"]
    {
        all.push(asked("set_policy", new_policy("Bad", &[PROXY, proxy])));
    }
    all
}
