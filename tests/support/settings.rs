//! Commands about what a crawler is told: policies, CAPTCHA solvers, rate limits.

use starfeed::proto::{self, request::Command};

pub(crate) fn get_policy(policy_id: &[u8]) -> Command {
    Command::GetPolicy(proto::RequestGetPolicy { policy_id: policy_id.to_vec().into() })
}

pub(crate) fn set_policy(policy: proto::Policy) -> Command {
    Command::SetPolicy(proto::RequestSetPolicy { policy })
}

pub(crate) fn delete_policy(policy_id: &[u8]) -> Command {
    Command::DeletePolicy(proto::RequestDeletePolicy { policy_id: policy_id.to_vec().into() })
}

pub(crate) fn get_schedule(schedule_id: &[u8]) -> Command {
    Command::GetSchedule(proto::RequestGetSchedule { schedule_id: schedule_id.to_vec().into() })
}

pub(crate) fn set_schedule(schedule: proto::Schedule) -> Command {
    Command::SetSchedule(proto::RequestSetSchedule { schedule: Some(schedule) })
}

pub(crate) fn get_solver(solver_id: &[u8]) -> Command {
    Command::GetCaptchaSolver(proto::RequestGetCaptchaSolver { solver_id: solver_id.to_vec().into() })
}

pub(crate) fn set_solver(solver: proto::CaptchaSolver) -> Command {
    Command::SetCaptchaSolver(proto::RequestSetCaptchaSolver { solver: Some(solver) })
}

pub(crate) fn delete_solver(solver_id: &[u8]) -> Command {
    Command::DeleteCaptchaSolver(proto::RequestDeleteCaptchaSolver { solver_id: Some(solver_id.to_vec().into()) })
}

/// Without a domain it is the global limit; without a delay it is deleted.
pub(crate) fn set_rate_limit(domain: Option<&str>, delay: Option<f32>) -> Command {
    Command::SetRateLimit(proto::RequestSetRateLimit { domain: domain.map(str::to_owned), delay })
}
