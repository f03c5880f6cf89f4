//! The tables that are changed, and how: each has one row, whose name is set again and again.

use anyhow::bail;

use super::event;
use crate::client::Client;
use crate::proto::{self, request::Command, response::Body};

/// A table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Table {
    Policies,
    Schedules,
    CaptchaSolvers,
}

impl Table {
    pub(super) const ALL: [Self; 3] = [Self::Policies, Self::Schedules, Self::CaptchaSolvers];

    /// The plain event of a row that was changed.
    pub(super) fn updated(self, id: &[u8], name: String) -> proto::event::Body {
        let (id, name) = (Some(id.to_vec().into()), Some(name));
        match self {
            Self::Policies => proto::event::Body::PolicyEvent(proto::PolicyEvent {
                event_type: Some(proto::policy_event::EventType::Updated.into()),
                policy_id: id,
                name,
                ..Default::default()
            }),
            Self::Schedules => proto::event::Body::ScheduleEvent(proto::ScheduleEvent {
                event_type: Some(proto::schedule_event::EventType::Updated.into()),
                schedule_id: id,
                schedule_name: name,
                ..Default::default()
            }),
            Self::CaptchaSolvers => proto::event::Body::CaptchaSolverEvent(proto::CaptchaSolverEvent {
                event_type: Some(proto::captcha_solver_event::EventType::Updated.into()),
                solver_id: id,
                name,
                ..Default::default()
            }),
        }
    }

    /// Subscribes to its list.
    pub(super) fn subscribe(self, options: Option<proto::SubscribeOptions>) -> Command {
        match self {
            Self::Policies => Command::SubscribePolicyList(proto::RequestSubscribePolicyList { options }),
            Self::Schedules => Command::SubscribeScheduleList(proto::RequestSubscribeScheduleList { options }),
            Self::CaptchaSolvers => {
                Command::SubscribeCaptchaSolverList(proto::RequestSubscribeCaptchaSolverList { options })
            }
        }
    }

    /// Sets the name of row `id`, or makes a row.
    pub(super) fn set(self, id: Option<&[u8]>, name: String) -> Command {
        match self {
            Self::Policies => Command::SetPolicy(proto::RequestSetPolicy { policy: policy(id, name) }),
            Self::Schedules => Command::SetSchedule(proto::RequestSetSchedule { schedule: Some(schedule(id, name)) }),
            Self::CaptchaSolvers => {
                Command::SetCaptchaSolver(proto::RequestSetCaptchaSolver { solver: Some(solver(id, name)) })
            }
        }
    }

    fn delete(self, id: Vec<u8>) -> Command {
        let id = id.into();
        match self {
            Self::Policies => Command::DeletePolicy(proto::RequestDeletePolicy { policy_id: id }),
            Self::Schedules => Command::DeleteSchedule(proto::RequestDeleteSchedule { schedule_id: id }),
            Self::CaptchaSolvers => {
                Command::DeleteCaptchaSolver(proto::RequestDeleteCaptchaSolver { solver_id: Some(id) })
            }
        }
    }
}

/// The id of a row that was made, if that is what `body` says.
pub(super) fn new_id(body: Option<Body>) -> Option<Vec<u8>> {
    match body {
        Some(Body::NewPolicy(new)) => Some(new.policy_id.to_vec()),
        Some(Body::NewSchedule(new)) => Some(new.schedule_id.to_vec()),
        Some(Body::NewSolver(new)) => Some(new.solver_id.to_vec()),
        _ => None,
    }
}

/// Makes one row in each of `tables`, with the number 0; returns their ids.
pub(super) async fn create_rows(url: &str, tables: &[Table], name_bytes: usize) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut client = Client::connect(url).await?;
    let mut ids = Vec::new();
    for table in tables {
        match new_id(client.request(table.set(None, event::name(0, name_bytes))).await?) {
            Some(id) => ids.push(id),
            None => bail!("the server did not say which row it created"),
        }
    }
    client.close().await;
    Ok(ids)
}

/// Deletes them again.
pub(super) async fn delete_rows(url: &str, tables: &[Table], ids: Vec<Vec<u8>>) -> anyhow::Result<()> {
    let mut client = Client::connect(url).await?;
    for (table, id) in tables.iter().zip(ids) {
        client.request(table.delete(id)).await?;
    }
    client.close().await;
    Ok(())
}

/// A policy that the server accepts, called `name`.
pub(super) fn policy(policy_id: Option<&[u8]>, name: String) -> proto::Policy {
    proto::Policy {
        policy_id: policy_id.map(|id| id.to_vec().into()),
        name: Some(name),
        mime_type_rules: vec![proto::PolicyMimeTypeRule { save: Some(true), ..Default::default() }],
        robots_txt: Some(proto::PolicyRobotsTxt { usage: proto::policy_robots_txt::Usage::Obey.into() }),
        url_rules: vec![proto::PolicyUrlRule {
            action: Some(proto::policy_url_rule::Action::Add.into()),
            amount: Some(1.0),
            ..Default::default()
        }],
        user_agents: vec![proto::PolicyUserAgent { name: USER_AGENT.to_owned() }],
        ..Default::default()
    }
}

const USER_AGENT: &str = "starfeed bench";

fn schedule(id: Option<&[u8]>, name: String) -> proto::Schedule {
    proto::Schedule {
        schedule_id: id.map(|id| id.to_vec().into()),
        schedule_name: Some(name),
        job_name: Some("job".to_owned()),
        enabled: Some(false),
        time_unit: Some(proto::ScheduleTimeUnit::Days.into()),
        num_units: Some(1),
        timing: Some(proto::ScheduleTiming::RegularInterval.into()),
        seeds: vec!["http://a.example".to_owned()],
        policy_id: Some(vec![1; 16].into()),
        ..Default::default()
    }
}

fn solver(id: Option<&[u8]>, name: String) -> proto::CaptchaSolver {
    use proto::captcha_solver::SolverType;
    let antigate = proto::CaptchaSolverAntigate {
        service_url: Some("http://a.example".to_owned()),
        api_key: Some("none".to_owned()),
        require_phrase: Some(false),
        case_sensitive: Some(false),
        characters: Some(proto::CaptchaSolverAntigateCharacters::Alphanumeric.into()),
        require_math: Some(false),
        ..Default::default()
    };
    proto::CaptchaSolver {
        solver_id: id.map(|id| id.to_vec().into()),
        name: Some(name),
        solver_type: Some(SolverType::Antigate(antigate)),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn the_policy_is_small_and_whole() {
        let policy = policy(Some(&[1; 16]), event::name(1, 30));
        assert!(policy.encoded_len() < 120, "{}", policy.encoded_len());
    }
}
