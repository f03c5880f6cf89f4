//! Rows to begin with, where there are none.

use serde_json::{Value, json};
use starfeed::proto::request::Command;
use starfeed::proto::response::Body;
use starfeed::proto::{
    CaptchaSolver, CaptchaSolverAntigate, CaptchaSolverAntigateCharacters, Page, RequestListCaptchaSolvers,
    RequestListDomainLogins, RequestListPolicies, RequestListRateLimits, RequestListSchedules, RequestSetCaptchaSolver,
    RequestSetRateLimit, captcha_solver::SolverType,
};
use uuid::Uuid;

use super::row::{Row, row, text};
use super::server::{Refusal, Server};

const POLICIES: &str = include_str!("../rows/policy.ndjson");
const SCHEDULES: &str = include_str!("../rows/schedule.ndjson");
const LOGINS: &str = include_str!("../rows/domain_login.ndjson");

/// Seconds between two requests: to any domain, and to some.
const RATE_LIMITS: [(Option<&str>, f32); 4] =
    [(None, 5.0), (Some("daily-courier.example"), 1.0), (Some("wire.example"), 0.5), (Some("courts.example"), 30.0)];

/// A job that somebody might start by hand.
pub(crate) struct Idea {
    pub(crate) name: &'static str,
    pub(crate) seeds: &'static [&'static str],
    pub(crate) tag: &'static str,
}

pub(crate) const IDEAS: [Idea; 8] = [
    Idea { name: "Harbour news", seeds: &["https://harbour-news.example/"], tag: "news" },
    Idea { name: "", seeds: &["https://forum.model-railway.example/"], tag: "forum" },
    Idea {
        name: "Two registers",
        seeds: &["https://register.gov.example/", "https://land.gov.example/"],
        tag: "registers",
    },
    Idea { name: "Museum catalogue", seeds: &["https://museum.example/catalogue/"], tag: "culture" },
    Idea { name: "", seeds: &["https://recipes.example/", "https://kitchen-science.example/"], tag: "blogs" },
    Idea { name: "Festival programme", seeds: &["https://festival.example/2026/"], tag: "culture" },
    Idea { name: "Press office", seeds: &["https://press.globex.example/en/"], tag: "press" },
    Idea { name: "Weather stations", seeds: &["https://weather.example/stations"], tag: "data" },
];

/// Fills the tables that are empty, so that a crawler has something to do.
pub(crate) async fn fill(server: &mut Server) -> Result<(), Refusal> {
    let page = Some(Page { limit: Some(0), offset: None });
    if is_empty(server, Command::ListPolicies(RequestListPolicies { page })).await? {
        let mut policies = rows(POLICIES);
        if let Some(policy) = policies.iter_mut().find(|policy| policy["authentication"]["enabled"] == true) {
            policy.insert("captcha_solver_id".to_owned(), solver(server).await?.into());
        }
        server.put("policy", policies).await?;
    }
    if is_empty(server, Command::ListDomainLogins(RequestListDomainLogins { page })).await? {
        server.put("domain_login", rows(LOGINS)).await?;
    }
    if is_empty(server, Command::ListRateLimits(RequestListRateLimits { page })).await? {
        for (domain, delay) in RATE_LIMITS {
            let limit = RequestSetRateLimit { domain: domain.map(str::to_owned), delay: Some(delay) };
            server.ask(Command::SetRateLimit(limit)).await?;
        }
    }
    if is_empty(server, Command::ListSchedules(RequestListSchedules { page })).await? {
        let known: Vec<Row> = server.read("policy", |_| true).await?;
        let mut schedules = rows(SCHEDULES);
        schedules.retain(|schedule| known.iter().any(|policy| policy["id"] == schedule["policy_id"]));
        server.put("schedule", schedules).await?;
    }
    Ok(())
}

async fn is_empty(server: &mut Server, list: Command) -> Result<bool, Refusal> {
    let total = match server.ask(list).await? {
        Some(Body::ListPolicies(list)) => list.total,
        Some(Body::ListDomainLogins(list)) => list.total,
        Some(Body::ListRateLimits(list)) => list.total,
        Some(Body::ListSchedules(list)) => list.total,
        _ => None,
    };
    Ok(total == Some(0))
}

/// The id of a CAPTCHA solver: one that is there, or a new one.
async fn solver(server: &mut Server) -> Result<String, Refusal> {
    let page = Some(Page { limit: Some(1), offset: None });
    let listed = server.ask(Command::ListCaptchaSolvers(RequestListCaptchaSolvers { page })).await?;
    let there = match listed {
        Some(Body::ListCaptchaSolvers(list)) => list.solvers.into_iter().next().and_then(|solver| solver.solver_id),
        _ => None,
    };
    let id = match there {
        Some(id) => Some(id),
        None => match server.ask(Command::SetCaptchaSolver(new_solver())).await? {
            Some(Body::NewSolver(solver)) => Some(solver.solver_id),
            _ => None,
        },
    };
    let id = id.and_then(|id| Uuid::from_slice(&id).ok());
    id.map(|id| id.to_string()).ok_or_else(|| Refusal("the new CAPTCHA solver has no ID".to_owned()))
}

fn new_solver() -> RequestSetCaptchaSolver {
    let antigate = CaptchaSolverAntigate {
        service_url: Some("https://captcha.example/".to_owned()),
        api_key: Some("not-a-key".to_owned()),
        require_phrase: Some(false),
        case_sensitive: Some(false),
        characters: Some(CaptchaSolverAntigateCharacters::Alphanumeric.into()),
        require_math: Some(false),
        ..Default::default()
    };
    let solver = CaptchaSolver {
        name: Some("Example solver".to_owned()),
        solver_type: Some(SolverType::Antigate(antigate)),
        ..Default::default()
    };
    RequestSetCaptchaSolver { solver: Some(solver) }
}

fn rows(lines: &str) -> Vec<Row> {
    lines.lines().map(|line| row(serde_json::from_str(line).expect("the sample rows are JSON"))).collect()
}

/// A job of a schedule, and what it begins with: as the server makes them for `set_job`, which knows of no schedule.
pub(crate) struct ScheduledJob {
    pub(crate) id: String,
    pub(crate) row: Row,
    pub(crate) frontier: Vec<Row>,
}

impl ScheduledJob {
    /// `policy` is the row; the whole `solver` stands in the place of its id.
    pub(crate) fn new(schedule: &Row, name: &str, mut policy: Row, solver: Option<Row>, started_at: Value) -> Self {
        let id = super::job::fresh_id();
        policy.remove("captcha_solver_id");
        if let Some(solver) = solver {
            policy.insert("captcha_solver".to_owned(), solver.into());
        }
        let seeds = super::row::texts(schedule, "seeds");
        let mut tags = super::row::texts(schedule, "tags");
        tags.push(super::crawler::TAG.to_owned());
        let place = |url: &String| {
            row(json!({"id": super::job::fresh_id(), "job_id": id, "url": url, "cost": 0, "in_flight": false}))
        };
        let frontier = seeds.iter().map(place).collect();
        let row = row(json!({
            "id": id,
            "schedule_id": text(schedule, "id"),
            "name": name,
            "seeds": seeds,
            "tags": tags,
            "run_state": "pending",
            "started_at": started_at,
            "completed_at": null,
            "duration": null,
            "item_count": 0,
            "http_success_count": 0,
            "http_error_count": 0,
            "exception_count": 0,
            "http_status_counts": {},
            "policy": policy,
        }));
        Self { id, row, frontier }
    }
}
