//! The commands of policies, schedules and domain logins, over a real socket.

use prost::Message;
use serde_json::json;
use starfeed::proto::{self, request::Command, response::Body};

use crate::backend;
use crate::support::crawled::id_text;
use crate::support::jobs::page;
use crate::support::raw::{RawClient, delete_login};
use crate::support::settings::{delete_policy, get_policy, get_schedule, set_policy, set_schedule};

/// Makes one mistake.
type Spoil<T> = fn(&mut T);

fn policy(name: &str) -> proto::Policy {
    proto::Policy {
        name: Some(name.to_owned()),
        authentication: Some(proto::PolicyAuthentication { enabled: Some(true) }),
        limits: Some(proto::PolicyLimits { max_cost: Some(10.0), max_duration: None, max_items: Some(100) }),
        mime_type_rules: vec![
            proto::PolicyMimeTypeRule {
                pattern: Some("^text/".to_owned()),
                r#match: Some(proto::PatternMatch::Matches.into()),
                save: Some(true),
            },
            proto::PolicyMimeTypeRule { save: Some(false), ..Default::default() },
        ],
        // A user interface always ends this list with an empty rule.
        proxy_rules: vec![proto::PolicyProxyRule::default()],
        robots_txt: Some(proto::PolicyRobotsTxt { usage: proto::policy_robots_txt::Usage::Obey.into() }),
        url_normalization: Some(proto::PolicyUrlNormalization {
            enabled: Some(true),
            strip_parameters: vec!["sid".to_owned()],
        }),
        url_rules: vec![
            proto::PolicyUrlRule {
                pattern: Some("^https?://({SEED_DOMAINS})/".to_owned()),
                r#match: Some(proto::PatternMatch::Matches.into()),
                action: Some(proto::policy_url_rule::Action::Add.into()),
                amount: Some(1.0),
            },
            proto::PolicyUrlRule {
                action: Some(proto::policy_url_rule::Action::Multiply.into()),
                amount: Some(0.0),
                ..Default::default()
            },
        ],
        user_agents: vec![proto::PolicyUserAgent { name: "Crawler/{VERSION}".to_owned() }],
        ..Default::default()
    }
}

fn new_policy(client: &mut RawClient, name: &str) -> Vec<u8> {
    match client.request(set_policy(policy(name))) {
        Some(Body::NewPolicy(new)) => new.policy_id.to_vec(),
        body => panic!("{body:?}"),
    }
}

fn policy_of(client: &mut RawClient, id: &[u8]) -> proto::Policy {
    match client.request(get_policy(id)) {
        Some(Body::Policy(policy)) => policy,
        body => panic!("{body:?}"),
    }
}

fn policies(client: &mut RawClient, page: Option<proto::Page>) -> (Vec<String>, i32) {
    match client.request(Command::ListPolicies(proto::RequestListPolicies { page })) {
        Some(Body::ListPolicies(list)) => {
            let total = list.total();
            (list.policies.into_iter().map(|policy| policy.name.unwrap_or_default()).collect(), total)
        }
        body => panic!("{body:?}"),
    }
}

#[test]
fn a_policy_is_set_and_comes_back_as_it_was() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    let id = new_policy(&mut client, "News");
    assert_eq!(id.len(), 16);
    let got = policy_of(&mut client, &id);
    let mut expected = policy("News");
    expected.policy_id = Some(id.clone().into());
    expected.created_at.clone_from(&got.created_at);
    expected.updated_at.clone_from(&got.updated_at);
    assert_eq!(got, expected);
    assert!(got.created_at().ends_with("+00:00"), "{}", got.created_at());
    assert_eq!(got.created_at(), got.updated_at());

    // An update without a body: created_at stays, lists are replaced, what is not sent of limits is unset.
    let mut changed = policy("Newer");
    changed.policy_id = Some(id.clone().into());
    changed.limits = None;
    changed.user_agents = vec![proto::PolicyUserAgent { name: "Other".to_owned() }];
    assert_eq!(client.request(set_policy(changed)), None);
    let after = policy_of(&mut client, &id);
    assert_eq!(after.created_at, got.created_at);
    assert_eq!(after.name(), "Newer");
    assert_eq!(after.user_agents.len(), 1);
    assert_eq!(after.limits, Some(proto::PolicyLimits::default()));
    assert_eq!(policies(&mut client, None), (vec!["Newer".to_owned()], 1));
}

#[test]
fn an_unknown_policy_is_an_error_and_deleting_it_is_not() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    let id = [7; 16];
    let missing = format!("No policy exists with ID={}", id_text(&id));
    assert_eq!(client.refusal(get_policy(&id)), missing);
    let mut unknown = policy("X");
    unknown.policy_id = Some(id.to_vec().into());
    assert_eq!(client.refusal(set_policy(unknown)), missing);
    assert_eq!(client.request(delete_policy(&id)), None);
    assert_eq!(client.refusal(get_policy(&[1, 2, 3])), "Invalid policy_id: must be 16 bytes");
    assert_eq!(client.refusal(get_policy(&[])), "Invalid policy_id: must be 16 bytes");
}

#[test]
fn what_is_wrong_with_a_policy_is_said() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    let cases: Vec<(Spoil<proto::Policy>, &str)> = vec![
        (|policy| policy.name = Some("  ".to_owned()), "Policy name cannot be blank."),
        (
            |policy| policy.limits = Some(proto::PolicyLimits { max_duration: Some(-1.0), ..Default::default() }),
            "Max duration must be ≥0.",
        ),
        (
            |policy| policy.limits = Some(proto::PolicyLimits { max_items: Some(-1), ..Default::default() }),
            "Max items must be ≥0.",
        ),
        (|policy| policy.mime_type_rules.clear(), "At least one MIME type rule is required."),
        (|policy| policy.mime_type_rules[0].pattern = None, "Pattern is required in MIME type rule #1."),
        (
            |policy| policy.mime_type_rules[0].pattern = Some("(".to_owned()),
            "Invalid regular expression in MIME type rule #1.",
        ),
        (
            |policy| policy.mime_type_rules[1].pattern = Some("x".to_owned()),
            "Pattern is not allowed in last MIME type rule.",
        ),
        (|policy| policy.robots_txt = None, "Robots.txt usage is required."),
        (|policy| policy.url_rules.clear(), "At least one URL rule is required."),
        (|policy| policy.url_rules[0].amount = None, "Amount is required in URL rule #1."),
        (
            |policy| policy.url_rules[0].pattern = Some("\\d{4}".to_owned()),
            "Invalid regular expression in URL rule #1.",
        ),
        (|policy| policy.url_rules[1].action = None, "Action is required in last URL rule."),
        (|policy| policy.user_agents.clear(), "At least one user agent is required."),
        (|policy| policy.user_agents[0].name.clear(), "Name is required in User agent #1."),
    ];
    for (spoil, text) in cases {
        let mut spoiled = policy("P");
        spoil(&mut spoiled);
        assert_eq!(client.refusal(set_policy(spoiled)), text);
    }
    assert_eq!(policies(&mut client, None), (vec![], 0), "a refused policy was stored");
    // The crawler's regular expressions know what automata do not.
    let mut clever = policy("P");
    clever.url_rules[0].pattern = Some("^(?!https://)(a)\\1".to_owned());
    client.request(set_policy(clever));
}

#[test]
fn lists_are_ordered_and_paged() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    let mut names: Vec<String> = (0..12).map(|number| format!("P{:02}", (number * 7) % 12)).collect();
    for name in &names {
        new_policy(&mut client, name);
    }
    names.sort();
    assert_eq!(policies(&mut client, None), (names[..10].to_vec(), 12));
    assert_eq!(policies(&mut client, page(5, 10)), (names[10..].to_vec(), 12));
    assert_eq!(policies(&mut client, page(0, 0)), (vec![], 12));
    assert_eq!(policies(&mut client, page(5, 50)), (vec![], 12));
    let negative = Command::ListPolicies(proto::RequestListPolicies { page: page(-1, 0) });
    assert_eq!(client.refusal(negative), "Page limit must be ≥0.");
    let negative = Command::ListPolicies(proto::RequestListPolicies { page: page(1, -1) });
    assert_eq!(client.refusal(negative), "Page offset must be ≥0.");
}

fn schedule(policy_id: &[u8]) -> proto::Schedule {
    proto::Schedule {
        enabled: Some(true),
        time_unit: Some(proto::ScheduleTimeUnit::Days.into()),
        num_units: Some(2),
        timing: Some(proto::ScheduleTiming::RegularInterval.into()),
        schedule_name: Some("Nightly".to_owned()),
        job_name: Some("Nightly #{COUNT} {DATE} {TIME}".to_owned()),
        seeds: vec!["https://news.example/".to_owned()],
        policy_id: Some(policy_id.to_vec().into()),
        tags: vec!["news".to_owned()],
        ..Default::default()
    }
}

fn schedule_of(client: &mut RawClient, id: &[u8]) -> proto::Schedule {
    match client.request(get_schedule(id)) {
        Some(Body::Schedule(schedule)) => schedule,
        body => panic!("{body:?}"),
    }
}

#[test]
fn a_schedule_keeps_its_job_count_when_it_is_saved() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    let mut new = schedule(&[9; 16]);
    new.job_count = Some(3);
    let Some(Body::NewSchedule(created)) = client.request(set_schedule(new)) else { panic!() };
    let id = created.schedule_id.to_vec();
    let first = schedule_of(&mut client, &id);
    assert_eq!((first.job_count(), first.num_units(), first.schedule_name()), (3, 2, "Nightly"));
    let mut saved = schedule(&[9; 16]);
    saved.schedule_id = Some(id.clone().into());
    saved.enabled = Some(false);
    assert_eq!(client.request(set_schedule(saved)), None);
    let second = schedule_of(&mut client, &id);
    assert_eq!((second.job_count(), second.enabled()), (3, false));
    assert_eq!(second.created_at, first.created_at);
}

#[test]
fn an_unknown_schedule_is_an_error() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    let id = [5; 16];
    let missing = format!("No schedule exists with ID={}", id_text(&id));
    assert_eq!(client.refusal(get_schedule(&id)), missing);
    let mut unknown = schedule(&[9; 16]);
    unknown.schedule_id = Some(id.to_vec().into());
    assert_eq!(client.refusal(set_schedule(unknown)), missing);
    let delete = proto::RequestDeleteSchedule { schedule_id: id.to_vec().into() };
    assert_eq!(client.request(Command::DeleteSchedule(delete)), None);
}

#[test]
fn what_is_wrong_with_a_schedule_is_said() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    let cases: Vec<(Spoil<proto::Schedule>, &str)> = vec![
        (|schedule| schedule.seeds.clear(), "Crawl schedule must have at least one seed URL."),
        (|schedule| schedule.num_units = None, "Time units must be positive"),
        (
            |schedule| schedule.job_name = Some("{WEEK}".to_owned()),
            "Invalid variable in job name: COUNT, DATE, & TIME are allowed.",
        ),
        (|schedule| schedule.job_name = Some("{COUNT".to_owned()), "Invalid job name"),
        (|schedule| schedule.policy_id = None, "Invalid policy_id: must be 16 bytes"),
    ];
    for (spoil, text) in cases {
        let mut spoiled = schedule(&[9; 16]);
        spoil(&mut spoiled);
        assert_eq!(client.refusal(set_schedule(spoiled)), text);
    }
}

fn set_login(login: proto::DomainLogin) -> Command {
    Command::SetDomainLogin(proto::RequestSetDomainLogin { login: Some(login) })
}

fn login_of(client: &mut RawClient, domain: &str) -> proto::DomainLogin {
    match client.request(Command::GetDomainLogin(proto::RequestGetDomainLogin { domain: domain.to_owned() })) {
        Some(Body::DomainLogin(login)) => login,
        body => panic!("{body:?}"),
    }
}

#[test]
fn a_login_is_changed_only_where_it_is_sent() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(client.refusal(set_login(proto::DomainLogin::default())), "domain is required.");
    let bare = proto::DomainLogin { domain: text("a.example"), ..Default::default() };
    assert_eq!(client.refusal(set_login(bare.clone())), "login_url is required to create a domain login.");
    let user = proto::DomainLoginUser { username: text("ann"), password: text("hunter2"), working: None };
    let full = proto::DomainLogin {
        login_url: text("https://a.example/login"),
        login_test: text("Log out"),
        users: vec![user],
        ..bare.clone()
    };
    assert_eq!(client.request(set_login(full.clone())), None);
    let got = login_of(&mut client, "a.example");
    assert_eq!(got.users[0].password(), "hunter2");
    assert!(!got.users[0].working());

    // A part: the users stay.
    client.request(set_login(proto::DomainLogin { login_url: text("https://a.example/in"), ..bare.clone() }));
    let got = login_of(&mut client, "a.example");
    assert_eq!((got.login_url(), got.login_test(), got.users.len()), ("https://a.example/in", "Log out", 1));
    // The whole, as a user interface saves it: no users means none.
    client.request(set_login(proto::DomainLogin { users: vec![], ..full }));
    assert_eq!(login_of(&mut client, "a.example").users, []);

    client.request(delete_login("a.example"));
    client.request(delete_login("a.example"));
    let missing = Command::GetDomainLogin(proto::RequestGetDomainLogin { domain: "a.example".to_owned() });
    assert_eq!(client.refusal(missing), "No domain credentials found for domain=a.example");
}

fn import(client: &mut RawClient, table: &str, rows: &[&str], commit: bool) -> proto::ResponseImportRows {
    let rows = rows.iter().map(|row| row.as_bytes().to_vec().into()).collect();
    let request = proto::RequestImportRows { table: table.to_owned(), rows, first_line: Some(7), commit: Some(commit) };
    match client.request(Command::ImportRows(request)) {
        Some(Body::ImportRows(response)) => response,
        body => panic!("{body:?}"),
    }
}

#[test]
fn an_import_is_written_as_a_whole_or_not_at_all() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    let good = r#"{"domain":"a.example","login_url":"https://a.example/","users":[]}"#;
    let bad = [good, "[1]", r#"{"login_url":"https://b.example/","users":[]}"#, good];
    let staged = import(&mut client, "domain_login", &bad, false);
    let lines: Vec<Option<i32>> = staged.errors.iter().map(|error| error.line).collect();
    assert_eq!(lines, [Some(8), Some(9), Some(10)], "{:?}", staged.errors);
    let commit = proto::RequestImportRows {
        table: "domain_login".to_owned(),
        rows: vec![],
        first_line: None,
        commit: Some(true),
    };
    let text = client.refusal(Command::ImportRows(commit));
    assert!(text.starts_with("nothing was written"), "{text}");
    // The import is over: another one begins.
    let written = import(&mut client, "domain_login", &[good], true);
    assert_eq!((written.added(), written.updated(), written.unchanged()), (1, 0, 0));
    let again = import(&mut client, "domain_login", &[good], true);
    assert_eq!((again.added(), again.updated(), again.unchanged()), (0, 0, 1));
    let unknown = proto::RequestImportRows { table: "nonsense".to_owned(), ..Default::default() };
    let text = client.refusal(Command::ImportRows(unknown));
    assert!(text.contains("policy, schedule, domain_login"), "{text}");
}

#[test]
fn a_spoilt_row_harms_only_itself() {
    // Rows that no command and no import would write, as a crawler of another age may have left them.
    let rows = [
        ("policy", json!({"id": "not-a-uuid", "name": "Bad"})),
        ("policy", json!({"id": "11111111-1111-1111-1111-111111111111", "limits": "none", "created_at": 7})),
        ("schedule", json!({"id": "22222222-2222-2222-2222-222222222222", "schedule_name": "S", "num_units": -1})),
    ];
    let Some(server) = backend::server_with_rows(&rows) else { return };
    let mut client = RawClient::connect(&server.address);
    let id = new_policy(&mut client, "Good");
    let Some(Body::ListPolicies(list)) =
        client.request(Command::ListPolicies(proto::RequestListPolicies { page: page(10, 0) }))
    else {
        panic!()
    };
    // The one whose id is no UUID cannot be shown; the one without a name can.
    assert_eq!((list.policies.len(), list.total()), (2, 3));
    assert!(list.policies.iter().all(|policy| !policy.created_at().is_empty()));
    let Some(Body::ListSchedules(list)) =
        client.request(Command::ListSchedules(proto::RequestListSchedules { page: None }))
    else {
        panic!()
    };
    assert_eq!(list.schedules.len(), 1, "a schedule without seeds is shown all the same");
    let subscribe = Command::SubscribePolicyList(proto::RequestSubscribePolicyList::default());
    client.subscribe(subscribe);
    let mut ids: Vec<Vec<u8>> = (0..2)
        .map(|_| match client.event().body {
            Some(proto::event::Body::PolicyEvent(event)) => event.policy_id().to_vec(),
            body => panic!("{body:?}"),
        })
        .collect();
    ids.sort();
    let mut expected = vec![vec![0x11; 16], id];
    expected.sort();
    assert_eq!(ids, expected);
    assert!(server.metric("starfeed_row_problems_total") >= 1.0);
}

#[test]
fn writes_in_flight_are_seen_by_the_list_behind_them() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    for round in 0..20 {
        let mut bytes = Vec::new();
        for number in 0..5 {
            let login = proto::DomainLogin {
                domain: Some(format!("{round}-{number}.example")),
                login_url: Some("https://x.example/".to_owned()),
                ..Default::default()
            };
            let request = proto::Request { request_id: 1, command: Some(set_login(login)) };
            bytes.extend(crate::support::raw::masked(crate::support::raw::BINARY, &request.encode_to_vec()));
        }
        let list = Command::ListDomainLogins(proto::RequestListDomainLogins { page: page(0, 0) });
        let request = proto::Request { request_id: 2, command: Some(list) };
        bytes.extend(crate::support::raw::masked(crate::support::raw::BINARY, &request.encode_to_vec()));
        client.write(&bytes);
        for _ in 0..5 {
            assert!(client.response(1).is_success);
        }
        let Some(Body::ListDomainLogins(list)) = client.response(2).body else { panic!() };
        assert_eq!(list.total(), (round + 1) * 5);
    }
}
