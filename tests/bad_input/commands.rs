//! Commands that cannot be carried out: ids that are none, numbers that no enum has, values out of range. Each is answered
//! with what is wrong, and the connection goes on.

use bytes::Bytes;
use starfeed::proto::{self, request::Command};

use crate::support::jobs::{page, set_job};
use crate::support::raw::{BINARY, masked, set_login, unsubscribe};
use crate::support::settings::{
    delete_policy, get_policy, get_schedule, get_solver, set_policy, set_rate_limit, set_schedule, set_solver,
};
use crate::{Differences, Target, answer, assert_works};

struct Case {
    name: &'static str,
    command: Command,
    answer: Result<(), String>,
}

fn refused(name: &'static str, command: Command, text: &str) -> Case {
    Case { name, command, answer: Err(text.to_owned()) }
}

fn taken(name: &'static str, command: Command) -> Case {
    Case { name, command, answer: Ok(()) }
}

/// Of no row.
const NOBODY: [u8; 16] = [0x5a; 16];

fn ids() -> Vec<Case> {
    vec![
        refused("a policy id of no bytes", get_policy(&[]), "Invalid policy_id: must be 16 bytes"),
        refused("a policy id of 15 bytes", get_policy(&[1; 15]), "Invalid policy_id: must be 16 bytes"),
        refused("a policy id of 17 bytes", get_policy(&[1; 17]), "Invalid policy_id: must be 16 bytes"),
        refused(
            "a policy id as text",
            get_policy(b"5a5a5a5a-5a5a-5a5a-5a5a-5a5a5a5a5a5a"),
            "Invalid policy_id: must be 16 bytes",
        ),
        refused(
            "a policy id of a mebibyte less a little",
            get_policy(&vec![0xff; 1_040_000]),
            "Invalid policy_id: must be 16 bytes",
        ),
        refused(
            "a policy that there is not",
            get_policy(&NOBODY),
            "No policy exists with ID=5a5a5a5a-5a5a-5a5a-5a5a-5a5a5a5a5a5a",
        ),
        refused("the nil UUID", get_policy(&[0; 16]), "No policy exists with ID=00000000-0000-0000-0000-000000000000"),
        refused("a policy id of one byte, deleted", delete_policy(&[1]), "Invalid policy_id: must be 16 bytes"),
        refused("a schedule id of two bytes", get_schedule(&[1, 2]), "Invalid schedule_id: must be 16 bytes"),
        refused("a solver id of three bytes", get_solver(&[1, 2, 3]), "Invalid solver_id: must be 16 bytes"),
    ]
}

fn job_ids() -> Vec<Case> {
    let job = |job_id: &[u8]| Command::GetJob(proto::RequestGetJob { job_id: job_id.to_vec().into() });
    let delete_job = |job_id: &[u8]| Command::DeleteJob(proto::RequestDeleteJob { job_id: job_id.to_vec().into() });
    let of_schedule =
        |schedule_id: Option<Bytes>| Command::ListJobs(proto::RequestListJobs { schedule_id, ..Default::default() });
    let sync = |job_id: &[u8], sync_token: &[u8]| {
        let (job_id, sync_token) = (job_id.to_vec().into(), Some(sync_token.to_vec().into()));
        Command::SubscribeJobSync(proto::RequestSubscribeJobSync { job_id, sync_token, compression_ok: None })
    };
    let items = |job_id: &[u8]| {
        let (job_id, include_success) = (job_id.to_vec().into(), Some(true));
        Command::GetJobItems(proto::RequestGetJobItems { job_id, include_success, ..Default::default() })
    };
    vec![
        refused("a job id of no bytes", job(&[]), "Invalid job_id: must be 16 bytes"),
        refused("a job that there is not", job(&NOBODY), "No job exists with ID=5a5a5a5a-5a5a-5a5a-5a5a-5a5a5a5a5a5a"),
        refused(
            "a job that there is not, deleted",
            delete_job(&NOBODY),
            "No job exists with ID=5a5a5a5a-5a5a-5a5a-5a5a-5a5a5a5a5a5a",
        ),
        refused("items of a job id of nine bytes", items(&[9; 9]), "Invalid job_id: must be 16 bytes"),
        refused("a job id of five bytes, synced", sync(&[5; 5], &[]), "Invalid job_id: must be 16 bytes"),
        refused(
            "a job that there is not, synced",
            sync(&NOBODY, &[]),
            "No job exists with ID=5a5a5a5a-5a5a-5a5a-5a5a-5a5a5a5a5a5a",
        ),
        refused(
            "a sync token that is none",
            sync(&NOBODY, b"let me in"),
            "Invalid sync_token: send one that came with an item, or none",
        ),
        refused(
            "jobs of a schedule id of one byte",
            of_schedule(Some(Bytes::from_static(&[1]))),
            "Invalid schedule_id: must be 16 bytes",
        ),
    ]
}

fn domains_and_subscriptions() -> Vec<Case> {
    let login = |domain: &str| Command::GetDomainLogin(proto::RequestGetDomainLogin { domain: domain.to_owned() });
    vec![
        refused("a login of no domain", login(""), "No domain credentials found for domain="),
        refused(
            "a login with a NUL",
            login("forum.example\0.evil.example"),
            "No domain credentials found for domain=forum.example\0.evil.example",
        ),
        refused(
            "a domain of 10 KB",
            login(&"x".repeat(10_000)),
            &format!("No domain credentials found for domain={}", "x".repeat(10_000)),
        ),
        refused(
            "a login of a domain of 128 bytes",
            set_login(&"x".repeat(128), "A"),
            "Invalid domain: must be at most 127 bytes, without NUL",
        ),
        refused("an unsubscription of what there is not", unsubscribe(0), "Unknown subscription_id: 0"),
        refused("an unsubscription of a negative number", unsubscribe(-1), "Unknown subscription_id: -1"),
        refused(
            "an unsubscription of the lowest number",
            unsubscribe(i32::MIN),
            "Unknown subscription_id: -2147483648",
        ),
    ]
}

fn good_policy() -> proto::Policy {
    proto::Policy {
        name: Some("Good".to_owned()),
        mime_type_rules: vec![proto::PolicyMimeTypeRule { save: Some(true), ..Default::default() }],
        robots_txt: Some(proto::PolicyRobotsTxt { usage: 1 }),
        url_rules: vec![proto::PolicyUrlRule { action: Some(1), amount: Some(1.0), ..Default::default() }],
        user_agents: vec![proto::PolicyUserAgent { name: "Test".to_owned() }],
        ..Default::default()
    }
}

fn policy(change: impl FnOnce(&mut proto::Policy)) -> Command {
    let mut policy = good_policy();
    change(&mut policy);
    set_policy(policy)
}

fn schedule(change: impl FnOnce(&mut proto::Schedule)) -> Command {
    let mut schedule = proto::Schedule {
        policy_id: Some(Bytes::from_static(&NOBODY)),
        schedule_name: Some("Good".to_owned()),
        seeds: vec!["https://forum.example/".to_owned()],
        time_unit: Some(1),
        num_units: Some(1),
        timing: Some(1),
        ..Default::default()
    };
    change(&mut schedule);
    set_schedule(schedule)
}

fn solver(change: impl FnOnce(&mut proto::CaptchaSolver)) -> Command {
    let antigate =
        proto::CaptchaSolverAntigate { service_url: Some("https://x.example/".to_owned()), ..Default::default() };
    let mut solver = proto::CaptchaSolver {
        name: Some("Good".to_owned()),
        solver_type: Some(proto::captcha_solver::SolverType::Antigate(antigate)),
        ..Default::default()
    };
    change(&mut solver);
    set_solver(solver)
}

fn policies() -> Vec<Case> {
    vec![
        refused("an empty policy", set_policy(proto::Policy::default()), "Policy name cannot be blank."),
        refused(
            "a policy name of blanks",
            policy(|policy| policy.name = Some(" \t ".to_owned())),
            "Policy name cannot be blank.",
        ),
        refused(
            "a policy id of three bytes, set",
            policy(|policy| policy.policy_id = Some(Bytes::from_static(b"abc"))),
            "Invalid policy_id: must be 16 bytes",
        ),
        refused(
            "a policy that there is not, set",
            policy(|policy| policy.policy_id = Some(Bytes::from_static(&NOBODY))),
            "No policy exists with ID=5a5a5a5a-5a5a-5a5a-5a5a-5a5a5a5a5a5a",
        ),
        refused(
            "a usage of robots.txt that there is not",
            policy(|policy| policy.robots_txt = Some(proto::PolicyRobotsTxt { usage: 99 })),
            "Robots.txt usage is required.",
        ),
        refused(
            "a match that there is not",
            policy(|policy| {
                policy.mime_type_rules.insert(
                    0,
                    proto::PolicyMimeTypeRule { pattern: Some("x".to_owned()), r#match: Some(-7), save: Some(true) },
                );
            }),
            "Match selector is required in MIME type rule #1.",
        ),
        refused(
            "an action that there is not",
            policy(|policy| policy.url_rules[0].action = Some(i32::MAX)),
            "Action is required in last URL rule.",
        ),
    ]
}

fn numbers_and_patterns_of_policies() -> Vec<Case> {
    let limits = |max_cost, max_duration, max_items| {
        Some(proto::PolicyLimits {
            max_cost: Some(max_cost),
            max_duration: Some(max_duration),
            max_items: Some(max_items),
        })
    };
    let rule = |pattern: &str| proto::PolicyUrlRule {
        pattern: Some(pattern.to_owned()),
        r#match: Some(1),
        action: Some(1),
        amount: Some(1.0),
    };
    vec![
        refused(
            "a cost that is no number",
            policy(|policy| policy.limits = limits(f64::NAN, 0.0, 0)),
            "Max cost must be a finite number.",
        ),
        refused(
            "an infinite duration",
            policy(|policy| policy.limits = limits(0.0, f64::INFINITY, 0)),
            "Max duration must be a finite number.",
        ),
        refused(
            "a negative number of items",
            policy(|policy| policy.limits = limits(0.0, 0.0, -1)),
            "Max items must be ≥0.",
        ),
        refused(
            "an amount that is no number",
            policy(|policy| policy.url_rules[0].amount = Some(f64::NAN)),
            "Amount must be a finite number in last URL rule.",
        ),
        refused(
            "a pattern that is none",
            policy(|policy| policy.url_rules.insert(0, rule("("))),
            "Invalid regular expression in URL rule #1.",
        ),
        refused(
            "a pattern of 10,000 parentheses",
            policy(|policy| policy.url_rules.insert(0, rule(&"(".repeat(10_000)))),
            "Invalid regular expression in URL rule #1.",
        ),
        refused(
            "a pattern that repeats a repetition",
            policy(|policy| policy.url_rules.insert(0, rule("a**"))),
            "Invalid regular expression in URL rule #1.",
        ),
        refused(
            "a solver id of no bytes, of a policy",
            policy(|policy| policy.captcha_solver_id = Some(Bytes::from_static(b"x"))),
            "Invalid captcha_solver_id: must be 16 bytes",
        ),
    ]
}

fn schedules() -> Vec<Case> {
    vec![
        refused(
            "an empty schedule",
            schedule(|schedule| *schedule = proto::Schedule::default()),
            "Invalid policy_id: must be 16 bytes",
        ),
        refused(
            "a schedule without seeds",
            schedule(|schedule| schedule.seeds.clear()),
            "Crawl schedule must have at least one seed URL.",
        ),
        refused(
            "a schedule every -1 minutes",
            schedule(|schedule| schedule.num_units = Some(-1)),
            "Time units must be positive",
        ),
        taken(
            "a schedule every 2^31 - 1 years",
            schedule(|schedule| {
                (schedule.num_units, schedule.time_unit) = (Some(i32::MAX), Some(6));
            }),
        ),
        // Enum numbers that there are not read as absent.
        taken("a time unit that there is not", schedule(|schedule| schedule.time_unit = Some(7))),
        taken("a timing that there is not", schedule(|schedule| schedule.timing = Some(0))),
        refused(
            "a schedule that there is not, set",
            schedule(|schedule| schedule.schedule_id = Some(Bytes::from_static(&NOBODY))),
            "No schedule exists with ID=5a5a5a5a-5a5a-5a5a-5a5a-5a5a5a5a5a5a",
        ),
    ]
}

fn solvers() -> Vec<Case> {
    vec![
        refused("an empty solver", set_solver(proto::CaptchaSolver::default()), "Name is required."),
        refused(
            "a solver of no kind",
            solver(|solver| solver.solver_type = None),
            "Unknown CAPTCHA solver type (None)",
        ),
        refused(
            "a solver id of 16 characters as text of 32",
            solver(|solver| solver.solver_id = Some("5a".repeat(16).into())),
            "Invalid solver_id: must be 16 bytes",
        ),
    ]
}

fn rate_limits() -> Vec<Case> {
    vec![
        refused(
            "a delay below 0",
            set_rate_limit(Some("forum.example"), Some(-1.0)),
            "Invalid delay: must be a number of seconds ≥0.",
        ),
        refused(
            "a delay that is no number",
            set_rate_limit(Some("forum.example"), Some(f32::NAN)),
            "Invalid delay: must be a number of seconds ≥0.",
        ),
        refused(
            "an infinite delay",
            set_rate_limit(None, Some(f32::INFINITY)),
            "Invalid delay: must be a number of seconds ≥0.",
        ),
        refused(
            "a limit of no domain",
            set_rate_limit(Some(""), Some(1.0)),
            "Invalid domain: must be 1 to 253 ASCII characters, without NUL",
        ),
        refused(
            "a limit of a domain with a NUL",
            set_rate_limit(Some("a\0b"), Some(1.0)),
            "Invalid domain: must be 1 to 253 ASCII characters, without NUL",
        ),
        refused(
            "a limit of a domain of 10 KB",
            set_rate_limit(Some(&"x".repeat(10_000)), Some(1.0)),
            "Invalid domain: must be 1 to 253 ASCII characters, without NUL",
        ),
        refused(
            "the limit of all domains, deleted",
            set_rate_limit(None, None),
            "Cannot delete the global rate limit.",
        ),
    ]
}

fn lists() -> Vec<Case> {
    let policies = |limit, offset| Command::ListPolicies(proto::RequestListPolicies { page: page(limit, offset) });
    let after = |started_after: &str| {
        Command::ListJobs(proto::RequestListJobs {
            started_after: Some(started_after.to_owned()),
            ..Default::default()
        })
    };
    vec![
        refused("a limit below 0", policies(-1, 0), "Page limit must be ≥0."),
        refused("an offset below 0", policies(1, i32::MIN), "Page offset must be ≥0."),
        taken("the largest page", policies(i32::MAX, i32::MAX)),
        taken("a page of nothing", policies(0, 0)),
        refused(
            "a time that is none",
            after("yesterday"),
            "Invalid started_after: must be a time, like 2019-01-01T12:00:00+00:00",
        ),
        refused(
            "a day that there is not",
            after("2019-02-30T12:00:00+00:00"),
            "Invalid started_after: must be a time, like 2019-01-01T12:00:00+00:00",
        ),
        refused(
            "a time with a NUL",
            after("2019-01-01T12:00:00\0+00:00"),
            "Invalid started_after: must be a time, like 2019-01-01T12:00:00+00:00",
        ),
        taken("an empty time, which is none", after("")),
    ]
}

fn jobs() -> Vec<Case> {
    let (policy_id, seeds) = (Some(Bytes::from_static(&NOBODY)), vec!["https://forum.example/".to_owned()]);
    let run_state = |run_state| {
        let job_id = Some(Bytes::from_static(&NOBODY));
        set_job(proto::RequestSetJob { job_id, run_state: Some(run_state), ..Default::default() })
    };
    let many = vec!["https://forum.example/".to_owned(); 25_001];
    vec![
        refused(
            "a job without seeds",
            set_job(proto::RequestSetJob { policy_id: policy_id.clone(), ..Default::default() }),
            "\"seeds\" is required",
        ),
        refused(
            "a job without a policy",
            set_job(proto::RequestSetJob { seeds: seeds.clone(), ..Default::default() }),
            "\"policy_id\" is required",
        ),
        refused(
            "a job with a policy that there is not",
            set_job(proto::RequestSetJob { seeds, policy_id: policy_id.clone(), ..Default::default() }),
            "No policy exists with ID=5a5a5a5a-5a5a-5a5a-5a5a-5a5a5a5a5a5a",
        ),
        refused(
            "a job of 25,001 seeds",
            set_job(proto::RequestSetJob { seeds: many, policy_id, ..Default::default() }),
            "A job has 25000 seeds at most: make several jobs.",
        ),
        refused("a state that a job cannot be put into", run_state(2), "Not allowed to set job run state: 2"),
        refused(
            "the state of a job that there is not",
            run_state(1),
            "No job exists with ID=5a5a5a5a-5a5a-5a5a-5a5a-5a5a5a5a5a5a",
        ),
        refused(
            "a state that there is not",
            run_state(77),
            "No job exists with ID=5a5a5a5a-5a5a-5a5a-5a5a-5a5a5a5a5a5a",
        ),
        refused(
            "a profile of a server that has none",
            Command::PerformanceProfile(Default::default()),
            "There is no profile of this server; a crawler has one: name its address when you start starfeed (--crawler ws://HOST:PORT/)",
        ),
    ]
}

fn streams() -> Vec<Case> {
    let job_status = |min_interval| {
        Command::SubscribeJobStatus(proto::RequestSubscribeJobStatus { min_interval: Some(min_interval) })
    };
    let tasks = |period| Command::SubscribeTaskMonitor(proto::RequestSubscribeTaskMonitor { period: Some(period) });
    let history = Some(-1);
    vec![
        refused("jobs every 0 seconds", job_status(0.0), "min_interval must be 0.05 to 3600 seconds."),
        refused("jobs every -1 seconds", job_status(-1.0), "min_interval must be 0.05 to 3600 seconds."),
        refused("jobs every no number of seconds", job_status(f64::NAN), "min_interval must be 0.05 to 3600 seconds."),
        refused("tasks every year", tasks(31_536_000.0), "period must be 0.05 to 3600 seconds."),
        refused(
            "a history of -1 frames",
            Command::SubscribeResourceMonitor(proto::RequestSubscribeResourceMonitor { history }),
            "history must be ≥0.",
        ),
    ]
}

fn cases() -> Vec<Case> {
    let tables = [
        ids(),
        job_ids(),
        domains_and_subscriptions(),
        policies(),
        numbers_and_patterns_of_policies(),
        schedules(),
        solvers(),
        rate_limits(),
        lists(),
        jobs(),
        streams(),
    ];
    tables.into_iter().flatten().collect()
}

pub(crate) fn names() -> Vec<&'static str> {
    cases().iter().map(|case| case.name).collect()
}

#[test]
fn what_cannot_be_done_is_said_and_the_connection_goes_on() {
    let target = Target::start(&[]);
    let mut client = target.connect();
    let mut differences = Differences::default();
    for Case { name, command, answer: expected } in cases() {
        differences.expect(name, answer(&mut client, command), expected);
        assert_works(&mut client, name);
    }
    differences.assert_none();
    drop(client);
    target.assert_unharmed();
}

#[test]
fn the_same_all_at_once_is_answered_in_order() {
    let target = Target::start(&[]);
    let mut client = target.connect();
    let mut expected = Vec::new();
    for _ in 0..20 {
        for Case { command, answer, .. } in lists().into_iter().chain(jobs()).chain(streams()) {
            expected.push((client.ask(command), answer));
        }
    }
    client.write(&masked(BINARY, b""));
    for (request_id, expected) in expected {
        let response = client.response(request_id);
        assert_eq!(response.error_message.map_or(Ok(()), Err), expected);
    }
    assert_eq!(client.response(0).error_message.as_deref(), Some("No command specified"));
    drop(client);
    target.assert_unharmed();
}
