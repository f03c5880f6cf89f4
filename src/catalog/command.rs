//! Which table answers a command.

use super::plan::{Arrival, Form, Plan, SubscribePlan};
use super::{TABLES, captcha_solver, domain_login, job, policy, rate_limit, response, schedule, stream, table};
use crate::change::Table;
use crate::proto;
use crate::proto::request::Command;

const PROFILE_UNAVAILABLE: &str = "There is no profile of this server; a crawler has one: name its address when you start starfeed (--crawler ws://HOST:PORT/)";

/// What `command` comes down to; the error is the text for the client.
pub fn plan(command: Command, arrival: &Arrival) -> Result<Plan, String> {
    for entry in TABLES {
        if let Some(options) = (entry.subscribes)(&command) {
            return Ok(Plan::Subscribe(SubscribePlan { table: entry.table(), form: Form::List(entry), options }));
        }
    }
    match command {
        Command::ListPolicies(request) => policy::list(&request),
        Command::GetPolicy(request) => policy::get(&request),
        Command::SetPolicy(request) => policy::set(&request.policy, arrival),
        Command::DeletePolicy(request) => policy::delete(&request),
        Command::ListSchedules(request) => schedule::list(&request),
        Command::GetSchedule(request) => schedule::get(&request),
        Command::SetSchedule(request) => schedule::set(&request.schedule.unwrap_or_default(), arrival),
        Command::DeleteSchedule(request) => schedule::delete(&request),
        Command::ListDomainLogins(request) => domain_login::list(&request),
        Command::GetDomainLogin(request) => domain_login::get(request),
        Command::SetDomainLogin(request) => domain_login::set(&request.login.unwrap_or_default()),
        Command::DeleteDomainLogin(request) => domain_login::delete(&request),
        Command::ListCaptchaSolvers(request) => captcha_solver::list(&request),
        Command::GetCaptchaSolver(request) => captcha_solver::get(&request),
        Command::SetCaptchaSolver(request) => captcha_solver::set(&request.solver.unwrap_or_default(), arrival),
        Command::DeleteCaptchaSolver(request) => captcha_solver::delete(&request),
        Command::ListRateLimits(request) => rate_limit::list(&request),
        Command::SetRateLimit(request) => rate_limit::set(&request),
        Command::ListJobs(request) => job::list(&request),
        Command::GetJob(request) => job::get(&request),
        Command::SetJob(request) => job::set(request, arrival),
        Command::DeleteJob(request) => job::delete(&request),
        Command::ListScheduleJobs(request) => job::list_of_schedule(&request),
        Command::GetJobItems(request) => response::list_of_job(&request),
        Command::SubscribeJobSync(request) => response::subscribe(&request),
        Command::SubscribeJobStatus(request) => stream::job_status(&request, arrival),
        Command::SubscribeResourceMonitor(request) => stream::resources(&request),
        Command::SubscribeTaskMonitor(request) => stream::tasks(&request),
        Command::PerformanceProfile(_) if arrival.has_crawler => Ok(Plan::Ask(Box::new(command))),
        Command::PerformanceProfile(_) => Err(PROFILE_UNAVAILABLE.to_owned()),
        Command::Unsubscribe(request) => Ok(Plan::Unsubscribe(request.subscription_id)),
        Command::ImportRows(request) => Ok(Plan::ImportRows(request)),
        Command::ExportRows(request) => Ok(Plan::ExportRows(request)),
        Command::SubscribeTable(request) => subscribe_table(request),
        Command::DescribeFilter(request) => Ok(Plan::DescribeFilter(request.filter)),
        Command::SubscribePolicyList(_)
        | Command::SubscribeScheduleList(_)
        | Command::SubscribeDomainLoginList(_)
        | Command::SubscribeCaptchaSolverList(_)
        | Command::SubscribeRateLimitList(_)
        | Command::SubscribeJobList(_) => panic!("the table of a list has an entry that subscribes to it"),
    }
}

fn subscribe_table(request: proto::RequestSubscribeTable) -> Result<Plan, String> {
    let is_name = |name: &str| {
        let is_allowed = |character: char| character.is_ascii_alphanumeric() || matches!(character, '_' | '-');
        (1..=TABLE_NAME_BYTES_MAX).contains(&name.len()) && name.chars().all(is_allowed)
    };
    if !is_name(&request.table) {
        return Err("invalid_name: a table is called by letters, digits, `_` and `-`, 64 at most".to_owned());
    }
    let form = Form::Json(table(&request.table));
    Ok(Plan::Subscribe(SubscribePlan { table: Table::new(&request.table), form, options: request.options }))
}

const TABLE_NAME_BYTES_MAX: usize = 64;
