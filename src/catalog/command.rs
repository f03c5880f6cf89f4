//! Which table answers a command.

use super::plan::{Arrival, Form, Plan, SubscribePlan};
use super::{TABLES, domain_login, policy, schedule, table};
use crate::change::Table;
use crate::proto;
use crate::proto::request::Command;

/// What `command` comes down to; the error is the text for the client.
pub fn plan(command: Command, arrival: &Arrival) -> Result<Plan, String> {
    for entry in TABLES {
        if let Some(options) = (entry.subscribes)(&command) {
            return Ok(Plan::Subscribe(SubscribePlan { table: entry.table(), form: Form::List(entry), options }));
        }
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
        Command::SubscribeTable(request) => return subscribe_table(request),
        Command::DescribeFilter(request) => return Ok(Plan::DescribeFilter(request.filter)),
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
