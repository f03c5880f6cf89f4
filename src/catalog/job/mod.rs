//! Jobs: crawls that run, or ran.

mod control;
mod delete;

use bytes::Bytes;
use uuid::Uuid;

pub(super) use control::set;
pub(super) use delete::{COST_INDEX, delete};

use super::fields::{Kind, Presence, Reader, RowProblem, Shown, key_id, key_text, read_name, read_row};
use super::plan::{page_of, read_one, read_rows};
use super::{CatalogTable, Plan, fields, ids, policy, policy_document, time};
use crate::change::{Document, Key, Row, Table, Timestamp};
use crate::proto::request::Command;
use crate::proto::{Job, JobEvent, JobRunState, ResponseListJobs, ResponseListScheduleJobs, response};
use crate::proto::{Policy, RequestGetJob, RequestListJobs, RequestListScheduleJobs};
use crate::store::{Condition, Direction, Index, Part, Query, RangeQuery, RangeStart};
use crate::view::{KeyRule, Secret, SecretKind};

const STARTED_AT: Index = Index { name: "started_at", members: &["started_at"] };
const SCHEDULE: Index = Index { name: "schedule", members: &["schedule_id", "started_at"] };

pub(super) const TABLE: CatalogTable = CatalogTable {
    name: "job",
    primary_key: "id",
    indexes: &[STARTED_AT, SCHEDULE],
    keys: KeyRule::Uuid,
    secrets: &[
        Secret { path: &["policy", "proxy_rules", "*", "proxy_url"], kind: SecretKind::UrlCredentials },
        Secret { path: &["policy", "captcha_solver", "api_key"], kind: SecretKind::Whole },
        // No secret, but nobody's business either: what the crawler needs to go on, and megabytes of it.
        Secret { path: &[OLD_URLS], kind: SecretKind::Whole },
    ],
    omitted: &[OLD_URLS],
    subscribes: |command| match command {
        Command::SubscribeJobList(request) => Some(request.options.clone()),
        _ => None,
    },
    event_number: 109,
    name_event,
    row_message: |key, document| fields::message(show(key, document)),
    check,
};

const OLD_URLS: &str = "old_urls";

fn table() -> Table {
    TABLE.table()
}

pub(super) fn missing(id: Uuid) -> String {
    format!("No job exists with ID={id}")
}

/// Newest first, whatever is asked for.
pub(super) fn list(request: &RequestListJobs) -> Result<Plan, String> {
    let (offset, limit) = page_of(request.page)?;
    let start = match request.started_after.as_deref().filter(|text| !text.is_empty()) {
        None => RangeStart::First,
        Some(text) => RangeStart::At(time::parse("started_after", text)?),
    };
    let schedule_id = ids::optional("schedule_id", request.schedule_id.as_deref())?;
    let (index, prefix) = match schedule_id {
        None => (&STARTED_AT, Vec::new()),
        Some(id) => (&SCHEDULE, vec![id.to_string().into()]),
    };
    let tag = request.tag.clone().filter(|tag| !tag.is_empty());
    let condition = tag.map_or(Condition::Always, |tag| Condition::Contains("tags", tag));
    let part = Part::Page { offset, limit };
    let range = RangeQuery { table: table(), index, prefix, start, direction: Direction::Descending, condition, part };
    let body = |jobs, total| response::Body::ListJobs(ResponseListJobs { jobs, total });
    Ok(read_rows(Query::Range(range), show_listed, body))
}

/// The jobs that a schedule has started, newest first: a user interface takes the first one for the latest.
pub(super) fn list_of_schedule(request: &RequestListScheduleJobs) -> Result<Plan, String> {
    let id = ids::required("schedule_id", &request.schedule_id)?;
    let (offset, limit) = page_of(request.page)?;
    let range = RangeQuery {
        table: table(),
        index: &SCHEDULE,
        prefix: vec![id.to_string().into()],
        start: RangeStart::First,
        direction: Direction::Descending,
        condition: Condition::Always,
        part: Part::Page { offset, limit },
    };
    let body = |jobs, total| response::Body::ListScheduleJobs(ResponseListScheduleJobs { jobs, total });
    Ok(read_rows(Query::Range(range), show_listed, body))
}

pub(super) fn get(request: &RequestGetJob) -> Result<Plan, String> {
    let id = ids::required("job_id", &request.job_id)?;
    Ok(read_one(table(), ids::key(id), missing(id), show_whole, response::Body::Job))
}

fn name_event(key: &Key, document: &Document) -> Shown<Bytes> {
    let event = |name| {
        let job_id = key_id(key).ok().map(|id| Bytes::copy_from_slice(id.as_bytes()));
        JobEvent { job_id, name, ..Default::default() }
    };
    fields::message(read_name(document, "name").map(|shown| shown.map(event)))
}

fn show_listed(row: &Row) -> Result<Shown<Job>, RowProblem> {
    show(&row.key, &row.document)
}

/// The name of a job, by its row.
pub fn name(document: &Document) -> Option<String> {
    read_name(document, "name").ok().and_then(|shown| shown.value)
}

/// When a job ended, by its row; `None` where it has not.
pub fn completed_at(document: &Document) -> Option<Timestamp> {
    let members = document.members()?;
    let completed_at = members.get("completed_at").and_then(time::milliseconds)?;
    Some(Timestamp(completed_at.max(0.0) as u64))
}

/// The job as lists and events have it: without its policy.
pub fn show(key: &Key, document: &Document) -> Result<Shown<Job>, RowProblem> {
    let id = key_id(key)?;
    read_row(document, |members| read(id, members))
}

fn show_whole(row: &Row) -> Result<Shown<Job>, RowProblem> {
    let id = key_id(&row.key)?;
    read_row(&row.document, |members| Job { policy: read_policy(members), ..read(id, members) })
}

/// The policy as it was when the job began; a job may have been made without one.
fn read_policy(members: &mut Reader<'_, '_>) -> Option<Policy> {
    let mut policy = members.nullable_object("policy")?;
    let policy_id = policy.required("id", fields::uuid);
    let summary = Policy { policy_id, ..policy::read_summary(&mut policy) };
    let mut read = policy_document::read(summary, &mut policy);
    // The crawler has put the whole solver in the place of its id.
    if let Some(mut solver) = policy.nullable_object("captcha_solver") {
        read.captcha_solver_id = solver.required("id", fields::uuid);
    }
    Some(read)
}

fn read(id: Uuid, members: &mut Reader<'_, '_>) -> Job {
    Job {
        job_id: Bytes::copy_from_slice(id.as_bytes()),
        seeds: members.texts("seeds", Presence::Required),
        policy: None,
        name: members.required("name", fields::text),
        tags: members.texts("tags", Presence::Nullable),
        run_state: members.required(
            "run_state",
            fields::named(state_number, "must be pending, running, paused, cancelled or completed"),
        ),
        started_at: Some(members.required("started_at", time::text).unwrap_or_else(|| time::UNKNOWN.to_owned())),
        completed_at: members.nullable("completed_at", time::text),
        item_count: members.required("item_count", fields::int32),
        http_success_count: members.required("http_success_count", fields::int32),
        http_error_count: members.required("http_error_count", fields::int32),
        exception_count: members.required("exception_count", fields::int32),
        http_status_counts: members.required("http_status_counts", counts).unwrap_or_default(),
    }
}

/// Rows name states in lower case.
fn state_number(name: &str) -> Option<i32> {
    let state = match name {
        "cancelled" => JobRunState::Cancelled,
        "completed" => JobRunState::Completed,
        "paused" => JobRunState::Paused,
        "pending" => JobRunState::Pending,
        "running" => JobRunState::Running,
        _ => return None,
    };
    Some(state.into())
}

/// Whether a job is over, by its row.
pub(super) fn is_finished(document: &Document) -> bool {
    let state = read_name(document, "run_state").ok().and_then(|shown| shown.value);
    state.is_some_and(|state| FINISHED.contains(&state.as_str()))
}

const FINISHED: &[&str] = &["cancelled", "completed"];

/// Numbers by numbers, which JSON has as text.
fn counts(value: &serde_json::Value) -> Kind<std::collections::HashMap<i32, i32>> {
    const EXPECTED: &str = "must be an object of whole numbers";
    let members = value.as_object().ok_or(EXPECTED)?;
    let count = |(status, count): (&String, &serde_json::Value)| {
        Ok((status.parse().map_err(|_| EXPECTED)?, fields::int32(count).map_err(|_| EXPECTED)?))
    };
    members.iter().map(count).collect()
}

fn check(document: &Document) -> Result<Key, String> {
    let shown = read_row(document, |members| {
        let key = members.required("id", key_text);
        read(Uuid::nil(), members);
        read_policy(members);
        key
    });
    fields::checked(shown)
}

#[cfg(test)]
mod tests;
