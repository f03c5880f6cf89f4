//! The pages of what a crawler is told: policies, schedules, credentials, rate limits, CAPTCHA solvers.

use serde_json::{Value, json};
use starfeed::json::binary;
use starfeed::proto::captcha_solver::SolverType;
use starfeed::proto::{self, request::Command, response::Body};

use super::{Browser, assert_time, list_policies, loaded, policies};
use crate::backend;
use crate::support::crawled::{
    NOON, id, id_text, job, job_since, policy, put, row, rows, schedule, solver, uuid, with,
};
use crate::support::jobs::{list_jobs, list_schedule_jobs, numbers, page};
use crate::support::raw::{RawClient, delete_login};
use crate::support::settings::{
    delete_policy, delete_solver, get_policy, get_schedule, get_solver, set_policy, set_rate_limit, set_schedule,
    set_solver,
};

fn policy_of(browser: &mut Browser, policy_id: &[u8]) -> proto::Policy {
    let Body::Policy(policy) = browser.ask(get_policy(policy_id)) else { panic!() };
    assert_time(policy.created_at());
    assert_time(policy.updated_at());
    policy
}

#[test]
fn a_policy_is_listed_duplicated_and_deleted() {
    let Some(server) = backend::server(&[]) else { return };
    put(&mut RawClient::connect(&server.address), "policy", &[policy(7, "News")]);
    let (mut browser, list) = loaded(&server, |browser| policies(browser.ask(list_policies(10))));
    assert_eq!(list.len(), 1);
    assert_eq!(list[0].created_at(), "2019-01-01T12:00:00+00:00");
    assert_eq!(list[0].updated_at(), "2019-01-01T12:00:00.500000+00:00");
    let original = policy_of(&mut browser, list[0].policy_id());
    let copy = proto::Policy { policy_id: None, name: Some("News (copy)".to_owned()), ..original.clone() };
    let Body::NewPolicy(new) = browser.ask(set_policy(copy.clone())) else { panic!() };
    let copied = policy_of(&mut browser, &new.policy_id);
    assert!(copied.created_at() > original.created_at(), "it is a new one");
    let expected = proto::Policy {
        policy_id: Some(new.policy_id.clone()),
        created_at: copied.created_at.clone(),
        updated_at: copied.updated_at.clone(),
        ..copy
    };
    assert_eq!(copied, expected);
    assert_eq!(policies(browser.ask(list_policies(10))).len(), 2);
    browser.tell(delete_policy(&new.policy_id));
    assert_eq!(policies(browser.ask(list_policies(10))), list);
    let text = browser.client.refusal(get_policy(&new.policy_id));
    assert_eq!(text, format!("No policy exists with ID={}", id_text(&new.policy_id)));
}

#[test]
fn a_policy_is_saved_as_its_page_sends_it() {
    let Some(server) = backend::server(&[]) else { return };
    let mut writer = RawClient::connect(&server.address);
    let before = with(policy(7, "News"), json!({"captcha_solver_id": uuid(8).to_string()}));
    put(&mut writer, "policy", &[before]);
    put(&mut writer, "captcha_solver", &[solver(9, "Zweiter"), solver(8, "Anna")]);
    let solvers = || Command::ListCaptchaSolvers(proto::RequestListCaptchaSolvers { page: page(100, 0) });
    let (mut browser, (loaded, names)) = loaded(&server, |browser| {
        let policy = policy_of(browser, &id(7));
        let Body::ListCaptchaSolvers(list) = browser.ask(solvers()) else { panic!() };
        assert_eq!(list.total, Some(2));
        (policy, list.solvers.into_iter().map(|solver| solver.name.expect("a name")).collect::<Vec<_>>())
    });
    assert_eq!(names, ["Anna", "Zweiter"]);
    assert_eq!(loaded.captcha_solver_id(), &id(8)[..]);
    let proxy = proto::PolicyProxyRule {
        pattern: Some("^https:".to_owned()),
        r#match: Some(proto::PatternMatch::DoesNotMatch.into()),
        proxy_url: Some("socks5://proxy.example:1080".to_owned()),
    };
    let saved = proto::Policy {
        created_at: None,
        updated_at: None,
        // The page always ends with an empty rule.
        proxy_rules: vec![proxy, proto::PolicyProxyRule::default()],
        captcha_solver_id: None,
        limits: Some(proto::PolicyLimits { max_items: Some(100), ..Default::default() }),
        ..loaded.clone()
    };
    browser.tell(set_policy(saved.clone()));
    let after = policy_of(&mut browser, &id(7));
    assert!(after.updated_at() > loaded.updated_at());
    let expected = proto::Policy { created_at: loaded.created_at, updated_at: after.updated_at.clone(), ..saved };
    assert_eq!(after, expected);
    assert_eq!(policy_of(&mut Browser::open(&server), &id(7)), expected);
    let stored = row(&mut writer, "policy", &uuid(7).to_string());
    assert_eq!(stored["captcha_solver_id"], Value::Null);
    assert_eq!(stored["limits"], json!({"max_cost": null, "max_duration": null, "max_items": 100}));
    assert_eq!(stored["proxy_rules"][1], json!({}));
    // What is wrong is said, and nothing is saved.
    let text = browser.client.refusal(set_policy(proto::Policy { name: Some(String::new()), ..expected.clone() }));
    assert_eq!(text, "Policy name cannot be blank.");
    assert_eq!(policy_of(&mut browser, &id(7)), expected);
}

fn schedule_of(body: Body) -> proto::Schedule {
    let Body::Schedule(schedule) = body else { panic!("{body:?}") };
    assert_time(schedule.created_at());
    assert_time(schedule.updated_at());
    schedule
}

/// A schedule with three jobs, and a job that is not of it.
fn with_schedule(writer: &mut RawClient) {
    put(writer, "policy", &[policy(7, "News")]);
    put(writer, "schedule", &[schedule(5, "Nightly", 7)]);
    let of_it = json!({"schedule_id": uuid(5).to_string()});
    let rows = [
        with(job(1, "completed"), of_it.clone()),
        with(job_since(3, "running", NOON + 120.0), of_it.clone()),
        with(job_since(2, "cancelled", NOON + 60.0), of_it),
        job_since(4, "running", NOON + 500.0),
    ];
    put(writer, "job", &rows);
}

#[test]
fn a_schedule_is_shown_with_its_latest_job_and_saved_without_its_count() {
    let Some(server) = backend::server(&[]) else { return };
    let mut writer = RawClient::connect(&server.address);
    with_schedule(&mut writer);
    let list = || Command::ListSchedules(proto::RequestListSchedules { page: page(10, 0) });
    let jobs = || list_schedule_jobs(id(5), None);
    let (mut browser, (shown, listed)) = loaded(&server, |browser| {
        let Body::ListSchedules(list) = browser.ask(list()) else { panic!() };
        assert_eq!(list.total, Some(1));
        let shown = schedule_of(browser.ask(get_schedule(&id(5))));
        assert_eq!(policies(browser.ask(list_policies(100))).len(), 1);
        let (numbers, total) = numbers(Some(browser.ask(jobs())));
        assert_eq!((numbers.as_slice(), total), (&[3, 2, 1][..], 3), "the first one is taken for the latest");
        (shown, list.schedules)
    });
    assert_eq!(listed, std::slice::from_ref(&shown));
    assert_eq!((shown.job_count(), shown.schedule_name(), shown.policy_id()), (3, "Nightly", &id(7)[..]));
    let saved = proto::Schedule {
        created_at: None,
        updated_at: None,
        job_count: None,
        schedule_name: Some("Weekly".to_owned()),
        time_unit: Some(proto::ScheduleTimeUnit::Weeks.into()),
        ..shown.clone()
    };
    browser.tell(set_schedule(saved.clone()));
    let after = schedule_of(browser.ask(get_schedule(&id(5))));
    assert!(after.updated_at() > shown.updated_at());
    let expected = proto::Schedule {
        created_at: shown.created_at,
        updated_at: after.updated_at.clone(),
        job_count: Some(3),
        ..saved.clone()
    };
    assert_eq!(after, expected);
    let new = proto::Schedule { schedule_id: None, ..saved };
    let Body::NewSchedule(new) = browser.ask(set_schedule(new)) else { panic!() };
    let created = row(&mut writer, "schedule", &id_text(&new.schedule_id));
    assert_eq!((created["job_count"].clone(), created["time_unit"].clone()), (json!(0), json!("WEEKS")));
    browser.tell(Command::DeleteSchedule(proto::RequestDeleteSchedule { schedule_id: new.schedule_id }));
    let Body::ListSchedules(list) = browser.ask(list()) else { panic!() };
    assert_eq!((list.schedules, list.total), (vec![expected], Some(1)));
}

#[test]
fn the_jobs_of_a_schedule_have_a_page() {
    let Some(server) = backend::server(&[]) else { return };
    with_schedule(&mut RawClient::connect(&server.address));
    loaded(&server, |browser| {
        let request = proto::RequestListJobs { page: page(10, 0), schedule_id: Some(id(5)), ..Default::default() };
        let [schedule, jobs] = browser.ask_both(get_schedule(&id(5)), list_jobs(request));
        assert_eq!(schedule_of(schedule).schedule_name(), "Nightly");
        assert_eq!(numbers(Some(jobs)), (vec![3, 2, 1], 3));
    });
    let mut browser = Browser::open(&server);
    let text = browser.client.refusal(get_schedule(&id(6)));
    assert_eq!(text, "No schedule exists with ID=06060606-0606-0606-0606-060606060606");
}

#[test]
fn credentials_are_made_and_saved() {
    let Some(server) = backend::server(&[]) else { return };
    let text = |text: &str| Some(text.to_owned());
    let set = |login: proto::DomainLogin| Command::SetDomainLogin(proto::RequestSetDomainLogin { login: Some(login) });
    let get = || Command::GetDomainLogin(proto::RequestGetDomainLogin { domain: "b.example".to_owned() });
    let list = |browser: &mut Browser| {
        let request = proto::RequestListDomainLogins { page: page(10, 0) };
        let Body::ListDomainLogins(list) = browser.ask(Command::ListDomainLogins(request)) else { panic!() };
        assert_eq!(list.total, Some(i32::try_from(list.logins.len()).expect("few")));
        list.logins
    };
    let mut browser = Browser::open(&server);
    assert_eq!(browser.client.refusal(get()), "No domain credentials found for domain=b.example");
    let new = |domain: &str| proto::DomainLogin {
        domain: text(domain),
        login_url: Some(format!("https://{domain}/login")),
        ..Default::default()
    };
    browser.tell(set(new("b.example")));
    browser.tell(set(new("a.example")));
    let Body::DomainLogin(mut login) = browser.ask(get()) else { panic!() };
    assert_eq!((login.domain(), login.login_url(), login.users.len()), ("b.example", "https://b.example/login", 0));
    login.users = vec![proto::DomainLoginUser { username: text("ann"), password: text("secret"), working: Some(true) }];
    login.login_test = text("");
    browser.tell(set(login.clone()));
    let (mut browser, logins) = loaded(&server, list);
    let domains: Vec<&str> = logins.iter().map(|login| login.domain()).collect();
    assert_eq!(domains, ["a.example", "b.example"]);
    let Body::DomainLogin(shown) = browser.ask(get()) else { panic!() };
    assert_eq!((&shown, shown.login_test()), (&logins[1], ""));
    assert_eq!(shown.users, login.users);
    browser.tell(delete_login("b.example"));
    assert_eq!(list(&mut browser), logins[..1]);
}

#[test]
fn rate_limits_are_set_and_deleted() {
    let Some(server) = backend::server(&[]) else { return };
    let mut writer = RawClient::connect(&server.address);
    let global = json!({
        "token": binary(&[0; 16]), "name": "Global Limit", "delay": 5, "type": "global",
    });
    put(&mut writer, "rate_limit", &[global]);
    let list = |browser: &mut Browser| {
        let request = proto::RequestListRateLimits { page: page(10, 0) };
        let Body::ListRateLimits(list) = browser.ask(Command::ListRateLimits(request)) else { panic!() };
        assert_eq!(list.total, Some(i32::try_from(list.rate_limits.len()).expect("few")));
        list.rate_limits
    };
    let limit = |token: &[u8], name: &str, delay, domain: Option<&str>| proto::RateLimit {
        name: Some(name.to_owned()),
        delay: Some(delay),
        token: Some(token.to_vec().into()),
        domain: domain.map(str::to_owned),
    };
    let (mut browser, limits) = loaded(&server, list);
    assert_eq!(limits, [limit(&[0; 16], "Global Limit", 5.0, None)]);
    browser.tell(set_rate_limit(Some("rate-limit.example"), Some(0.1)));
    browser.tell(set_rate_limit(None, Some(2.5)));
    let token = [0xc5, 0xd3, 0xc5, 0xda, 0xdb, 0x79, 0xab, 0xf4, 0x19, 0x7e, 0x8f, 0xde, 0xc3, 0xcd, 0xfe, 0x72];
    let expected = [
        limit(&[0; 16], "Global Rate Limit", 2.5, None),
        limit(&token, "domain:rate-limit.example", 0.1, Some("rate-limit.example")),
    ];
    let (mut browser, limits) = loaded(&server, list);
    assert_eq!(limits, expected);
    // What the crawler reads: the number as it is with twice the digits.
    let stored: Vec<Value> = rows(&mut writer, "rate_limit").iter().map(|row| row["delay"].clone()).collect();
    assert_eq!(stored, [json!(2.5), json!(f64::from(0.1_f32))]);
    // No delay is a delay, too.
    browser.tell(set_rate_limit(Some("rate-limit.example"), Some(0.0)));
    assert_eq!(list(&mut browser)[1], limit(&token, "domain:rate-limit.example", 0.0, Some("rate-limit.example")));
    assert_eq!(browser.client.refusal(set_rate_limit(None, None)), "Cannot delete the global rate limit.");
    browser.tell(set_rate_limit(Some("rate-limit.example"), None));
    browser.tell(set_rate_limit(Some("rate-limit.example"), None));
    assert_eq!(list(&mut browser), expected[..1]);
}

fn list_solvers(browser: &mut Browser) -> Vec<proto::CaptchaSolver> {
    let request = proto::RequestListCaptchaSolvers { page: page(10, 0) };
    let Body::ListCaptchaSolvers(list) = browser.ask(Command::ListCaptchaSolvers(request)) else { panic!() };
    assert_eq!(list.total, Some(i32::try_from(list.solvers.len()).expect("few")));
    list.solvers
}

#[test]
fn captcha_solvers_are_made_and_saved() {
    let Some(server) = backend::server(&[]) else { return };
    let mut writer = RawClient::connect(&server.address);
    let antigate = proto::CaptchaSolverAntigate {
        service_url: Some("https://solver.example/".to_owned()),
        api_key: Some("key".to_owned()),
        require_phrase: Some(false),
        case_sensitive: Some(true),
        characters: Some(proto::CaptchaSolverAntigateCharacters::NumbersOnly.into()),
        require_math: Some(true),
        min_length: Some(3),
        max_length: None,
    };
    let new = proto::CaptchaSolver {
        name: Some("Solver".to_owned()),
        solver_type: Some(SolverType::Antigate(antigate.clone())),
        ..Default::default()
    };
    let mut browser = Browser::open(&server);
    let nameless = proto::CaptchaSolver { name: None, ..new.clone() };
    assert_eq!(browser.client.refusal(set_solver(nameless)), "Name is required.");
    let untyped = proto::CaptchaSolver { solver_type: None, ..new.clone() };
    assert_eq!(browser.client.refusal(set_solver(untyped)), "Unknown CAPTCHA solver type (None)");
    let Body::NewSolver(created) = browser.ask(set_solver(new.clone())) else { panic!() };
    let (mut browser, shown) = loaded(&server, |browser| {
        let Body::Solver(solver) = browser.ask(get_solver(&created.solver_id)) else { panic!() };
        assert_eq!(list_solvers(browser), std::slice::from_ref(&solver));
        solver
    });
    assert_time(shown.created_at());
    assert_eq!(shown.created_at(), shown.updated_at());
    let expected = proto::CaptchaSolver {
        solver_id: Some(created.solver_id.clone()),
        created_at: shown.created_at.clone(),
        updated_at: shown.updated_at.clone(),
        ..new
    };
    assert_eq!(shown, expected);
    let stored = row(&mut writer, "captcha_solver", &id_text(&created.solver_id));
    assert_eq!((&stored["type"], &stored["characters"]), (&json!("antigate"), &json!("NUMBERS_ONLY")));
    assert_eq!((&stored["min_length"], stored.get("max_length")), (&json!(3), None));
    // Another one, which must not be touched by what is saved of the first.
    put(&mut writer, "captcha_solver", &[solver(9, "Other")]);
    let antigate = proto::CaptchaSolverAntigate { api_key: Some("other".to_owned()), min_length: None, ..antigate };
    let saved = proto::CaptchaSolver {
        name: Some("Renamed".to_owned()),
        solver_type: Some(SolverType::Antigate(antigate)),
        ..expected
    };
    browser.tell(set_solver(saved.clone()));
    let solvers = list_solvers(&mut browser);
    assert_eq!(solvers.iter().map(|solver| solver.name()).collect::<Vec<_>>(), ["Other", "Renamed"]);
    assert_eq!(solvers[1], proto::CaptchaSolver { updated_at: solvers[1].updated_at.clone(), ..saved });
    assert_eq!(row(&mut writer, "captcha_solver", &uuid(9).to_string()), solver(9, "Other"));
}

#[test]
fn a_captcha_solver_is_deleted_unless_a_policy_uses_it() {
    let Some(server) = backend::server(&[]) else { return };
    let mut writer = RawClient::connect(&server.address);
    put(&mut writer, "captcha_solver", &[solver(8, "Used"), solver(9, "Other")]);
    let user = with(policy(7, "News"), json!({"captcha_solver_id": uuid(8).to_string()}));
    put(&mut writer, "policy", &[user, policy(6, "Other")]);
    let delete = || delete_solver(&id(8));
    let (mut browser, solvers) = loaded(&server, list_solvers);
    assert_eq!(solvers.len(), 2);
    let text = browser.client.refusal(delete());
    assert_eq!(text, "Cannot delete CAPTCHA solver because it is being used by a policy.");
    assert_eq!(list_solvers(&mut browser), solvers);
    browser.tell(delete_policy(&id(7)));
    browser.tell(delete());
    browser.tell(delete());
    assert_eq!(browser.client.refusal(get_solver(&id(8))), "No CAPTCHA solver found for that ID");
    assert_eq!(list_solvers(&mut browser), solvers[..1]);
}
