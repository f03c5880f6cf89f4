//! What a command comes down to: rows to read or write, a subscription, or a text that says why not.

use std::fmt;

use uuid::Uuid;

use super::{CatalogTable, RowProblem, Shown, TABLES, domain_login, policy, schedule};
use crate::change::{Key, Row, Table, Timestamp};
use crate::proto;
use crate::proto::request::Command;
use crate::proto::response::Body;
use crate::store::{Mutation, Order, Query, QueryResult};

/// When a command came, and the id that a row made by it gets.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// The time.
    pub now: Timestamp,
    /// An id that no row has.
    pub fresh_id: Uuid,
}

/// What a command comes down to.
#[expect(clippy::large_enum_variant, reason = "there is one for each command, and it is moved a few times at most")]
pub enum Plan {
    /// Read rows and answer with them.
    Read {
        /// What to read.
        query: Query,
        /// Makes the answer of what was read.
        answer: Box<dyn FnOnce(QueryResult) -> Answer + Send>,
    },
    /// Write rows, all or none, and answer.
    Write {
        /// What to write.
        mutations: Vec<Mutation>,
        /// The body of the answer, if it has one.
        reply: Option<Body>,
    },
    /// Subscribe to the list of a table.
    Subscribe(&'static CatalogTable),
    /// End the subscription with this id.
    Unsubscribe(i32),
    /// Stage rows of an import, or commit it.
    ImportRows(proto::RequestImportRows),
    /// Read a page of a table as it is stored.
    ExportRows(proto::RequestExportRows),
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { query, .. } => f.debug_struct("Read").field("query", query).finish_non_exhaustive(),
            Self::Write { mutations, reply } => {
                f.debug_struct("Write").field("mutations", mutations).field("reply", reply).finish()
            }
            Self::Subscribe(table) => f.debug_tuple("Subscribe").field(&table.name).finish(),
            Self::Unsubscribe(id) => f.debug_tuple("Unsubscribe").field(id).finish(),
            Self::ImportRows(request) => f.debug_tuple("ImportRows").field(request).finish(),
            Self::ExportRows(request) => f.debug_tuple("ExportRows").field(request).finish(),
        }
    }
}

/// What rows make of a question.
#[derive(Debug)]
pub struct Answer {
    /// The body of the answer, or the text for the client.
    pub body: Result<Body, String>,
    /// Rows that were left out or shown in part.
    pub problems: Vec<(Key, RowProblem)>,
}

/// What `command` comes down to; the error is the text for the client.
pub fn plan(command: Command, arrival: &Arrival) -> Result<Plan, String> {
    if let Some(table) = TABLES.iter().find(|table| (table.subscribes)(&command)) {
        return Ok(Plan::Subscribe(table));
    }
    let unavailable = match command {
        Command::ListPolicies(request) => return policy::list(&request),
        Command::GetPolicy(request) => return policy::get(&request),
        Command::SetPolicy(request) => return policy::set(&request.policy, arrival),
        Command::DeletePolicy(request) => return policy::delete(&request),
        Command::ListSchedules(request) => return schedule::list(&request),
        Command::GetSchedule(request) => return schedule::get(&request),
        Command::SetSchedule(request) => return schedule::set(&request.schedule.unwrap_or_default(), arrival),
        Command::DeleteSchedule(request) => return schedule::delete(&request),
        Command::ListDomainLogins(request) => return domain_login::list(&request),
        Command::GetDomainLogin(request) => return domain_login::get(request),
        Command::SetDomainLogin(request) => return domain_login::set(&request.login.unwrap_or_default()),
        Command::DeleteDomainLogin(request) => return domain_login::delete(&request),
        Command::Unsubscribe(request) => return Ok(Plan::Unsubscribe(request.subscription_id)),
        Command::ImportRows(request) => return Ok(Plan::ImportRows(request)),
        Command::ExportRows(request) => return Ok(Plan::ExportRows(request)),
        Command::SubscribePolicyList(_) => "subscribe_policy_list",
        Command::SubscribeScheduleList(_) => "subscribe_schedule_list",
        Command::SubscribeDomainLoginList(_) => "subscribe_domain_login_list",
        Command::DeleteCaptchaSolver(_) => "delete_captcha_solver",
        Command::DeleteJob(_) => "delete_job",
        Command::GetCaptchaSolver(_) => "get_captcha_solver",
        Command::GetJob(_) => "get_job",
        Command::GetJobItems(_) => "get_job_items",
        Command::ListCaptchaSolvers(_) => "list_captcha_solvers",
        Command::ListJobs(_) => "list_jobs",
        Command::ListRateLimits(_) => "list_rate_limits",
        Command::ListScheduleJobs(_) => "list_schedule_jobs",
        Command::PerformanceProfile(_) => "performance_profile",
        Command::SetCaptchaSolver(_) => "set_captcha_solver",
        Command::SetJob(_) => "set_job",
        Command::SetRateLimit(_) => "set_rate_limit",
        Command::SubscribeJobStatus(_) => "subscribe_job_status",
        Command::SubscribeJobSync(_) => "subscribe_job_sync",
        Command::SubscribeResourceMonitor(_) => "subscribe_resource_monitor",
        Command::SubscribeTaskMonitor(_) => "subscribe_task_monitor",
    };
    Err(format!("{unavailable} is not available on this server yet."))
}

/// Reads a page of `table`. Rows that `show` cannot show are left out; the others are given to `body`, with the total.
pub(super) fn read_list<T: 'static>(
    table: Table,
    order: Order,
    page: Option<proto::Page>,
    show: fn(&Row) -> Result<Shown<T>, RowProblem>,
    body: fn(Vec<T>, Option<i32>) -> Body,
) -> Result<Plan, String> {
    let page = page.unwrap_or_default();
    let limit = usize::try_from(page.limit()).map_err(|_| "Page limit must be ≥0.".to_owned())?;
    let offset = usize::try_from(page.offset()).map_err(|_| "Page offset must be ≥0.".to_owned())?;
    let answer = move |result: QueryResult| {
        let mut shown = Vec::with_capacity(result.rows.len());
        let mut problems = Vec::new();
        for row in result.rows {
            match show(&row) {
                Ok(row_shown) => {
                    shown.push(row_shown.value);
                    problems.extend(row_shown.problem.map(|problem| (row.key, problem)));
                }
                Err(problem) => problems.push((row.key, problem)),
            }
        }
        let total = i32::try_from(result.total).unwrap_or(i32::MAX);
        Answer { body: Ok(body(shown, Some(total))), problems }
    };
    Ok(Plan::Read { query: Query::List { table, order, offset, limit }, answer: Box::new(answer) })
}

/// Reads one row; `missing` is the text for the client where there is none.
pub(super) fn read_one<T: 'static>(
    table: Table,
    key: Key,
    missing: String,
    show: fn(&Row) -> Result<Shown<T>, RowProblem>,
    body: fn(T) -> Body,
) -> Plan {
    let answer = move |result: QueryResult| {
        let Some(row) = result.rows.into_iter().next() else {
            return Answer { body: Err(missing), problems: Vec::new() };
        };
        match show(&row) {
            Ok(shown) => Answer {
                body: Ok(body(shown.value)),
                problems: shown.problem.map(|problem| (row.key, problem)).into_iter().collect(),
            },
            Err(problem) => {
                Answer { body: Err(format!("The row cannot be shown: {problem}.")), problems: vec![(row.key, problem)] }
            }
        }
    };
    Plan::Read { query: Query::Get { table, key }, answer: Box::new(answer) }
}

/// Writes one row.
pub(super) fn write(mutation: Mutation, reply: Option<Body>) -> Plan {
    Plan::Write { mutations: vec![mutation], reply }
}
