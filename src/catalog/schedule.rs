//! Schedules: when to crawl.

use bytes::Bytes;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::fields::{Presence, Reader, RowProblem, Shown, key_id, key_text, named, read_name, read_row};
use super::plan::{inserted, read_list, read_one, write};
use super::python_format::{self, FormatError, Variable};
use super::{Arrival, CatalogTable, Plan, fields, ids, time};
use crate::change::{Document, Key, Row, Table};
use crate::proto::request::Command;
use crate::proto::{RequestDeleteSchedule, RequestGetSchedule, RequestListSchedules};
use crate::proto::{ResponseListSchedules, ResponseNewSchedule, Schedule, ScheduleEvent, response};
use crate::proto::{ScheduleTimeUnit, ScheduleTiming};
use crate::store::{Index, Mutation, Order};
use crate::view::KeyRule;

pub(super) const TABLE: CatalogTable = CatalogTable {
    name: "schedule",
    primary_key: "id",
    indexes: &[Index { name: "schedule_name", members: &["schedule_name"] }],
    keys: KeyRule::Uuid,
    secrets: &[],
    omitted: &[],
    subscribes: |command| match command {
        Command::SubscribeScheduleList(request) => Some(request.options.clone()),
        _ => None,
    },
    event_number: 9,
    name_event,
    row_message: |key, document| fields::message(show(key, document)),
    check,
};

fn table() -> Table {
    TABLE.table()
}

fn missing(id: Uuid) -> String {
    format!("No schedule exists with ID={id}")
}

pub(super) fn list(request: &RequestListSchedules) -> Result<Plan, String> {
    let body = |schedules, total| response::Body::ListSchedules(ResponseListSchedules { schedules, total });
    read_list(table(), Order::Member("schedule_name"), request.page, show_whole, body)
}

pub(super) fn get(request: &RequestGetSchedule) -> Result<Plan, String> {
    let id = ids::required("schedule_id", &request.schedule_id)?;
    Ok(read_one(table(), ids::key(id), missing(id), show_whole, response::Body::Schedule))
}

/// Inserts `schedule`, or writes it over the one it names. What is absent is written with its default, except for the number
/// of jobs: the crawler counts them, and saving a schedule must not make it start anew.
pub(super) fn set(schedule: &Schedule, arrival: &Arrival) -> Result<Plan, String> {
    let id = ids::optional("schedule_id", schedule.schedule_id.as_deref())?;
    let policy_id = ids::required("policy_id", schedule.policy_id.as_deref().unwrap_or_default())?;
    check_rules(schedule)?;
    let mut members = members(schedule, policy_id);
    let now = time::stored(arrival.now);
    members.insert("updated_at".to_owned(), now.clone());
    if let Some(id) = id {
        let patch = Document::from_object(members);
        return Ok(write(Mutation::update(table(), ids::key(id), patch, missing(id)), None));
    }
    members.insert("created_at".to_owned(), now);
    members.entry("job_count").or_insert(0.into());
    let mutation = inserted(table(), arrival.fresh_id, "schedule", members);
    let schedule_id = Bytes::copy_from_slice(arrival.fresh_id.as_bytes());
    Ok(write(mutation, Some(response::Body::NewSchedule(ResponseNewSchedule { schedule_id }))))
}

pub(super) fn delete(request: &RequestDeleteSchedule) -> Result<Plan, String> {
    let id = ids::required("schedule_id", &request.schedule_id)?;
    Ok(write(Mutation::delete(table(), ids::key(id)), None))
}

fn check_rules(schedule: &Schedule) -> Result<(), String> {
    if schedule.seeds.is_empty() {
        return Err("Crawl schedule must have at least one seed URL.".to_owned());
    }
    if schedule.num_units() <= 0 {
        return Err("Time units must be positive".to_owned());
    }
    // The date is written out; the time is in Unix seconds, of whatever day.
    let variables =
        [("COUNT", Variable::Integer(0)), ("TIME", Variable::Integer(406_696_440)), ("DATE", Variable::Text)];
    python_format::check(schedule.job_name(), &variables).map_err(|error| match error {
        FormatError::UnknownVariable => "Invalid variable in job name: COUNT, DATE, & TIME are allowed.".to_owned(),
        FormatError::Invalid => "Invalid job name".to_owned(),
    })
}

/// The members that a request sets. Enum numbers that there are not read as absent, as for any reader of this protocol.
fn members(schedule: &Schedule, policy_id: Uuid) -> Map<String, Value> {
    let mut members = Map::new();
    let mut set = |name: &str, value: Value| drop(members.insert(name.to_owned(), value));
    set("schedule_name", schedule.schedule_name().into());
    set("enabled", schedule.enabled().into());
    set("time_unit", schedule.time_unit().as_str_name().into());
    set("num_units", schedule.num_units().into());
    set("timing", schedule.timing().as_str_name().into());
    set("job_name", schedule.job_name().into());
    set("seeds", schedule.seeds.as_slice().into());
    set("tags", schedule.tags.as_slice().into());
    set("policy_id", policy_id.to_string().into());
    if let Some(count) = schedule.job_count {
        set("job_count", count.into());
    }
    members
}

fn name_event(key: &Key, document: &Document) -> Shown<Bytes> {
    let event = |schedule_name| {
        let schedule_id = key_id(key).ok().map(|id| Bytes::copy_from_slice(id.as_bytes()));
        ScheduleEvent { schedule_id, schedule_name, ..Default::default() }
    };
    fields::message(read_name(document, "schedule_name").map(|shown| shown.map(event)))
}

fn show_whole(row: &Row) -> Result<Shown<Schedule>, RowProblem> {
    show(&row.key, &row.document)
}

fn show(key: &Key, document: &Document) -> Result<Shown<Schedule>, RowProblem> {
    let id = key_id(key)?;
    read_row(document, |members| read(id, members))
}

fn read(id: Uuid, members: &mut Reader<'_, '_>) -> Schedule {
    let unit_of = |name: &str| ScheduleTimeUnit::from_str_name(name).map(i32::from);
    let timing_of = |name: &str| ScheduleTiming::from_str_name(name).map(i32::from);
    Schedule {
        schedule_id: Some(Bytes::copy_from_slice(id.as_bytes())),
        created_at: Some(members.required("created_at", time::text).unwrap_or_else(|| time::UNKNOWN.to_owned())),
        updated_at: Some(members.required("updated_at", time::text).unwrap_or_else(|| time::UNKNOWN.to_owned())),
        enabled: members.required("enabled", fields::boolean),
        time_unit: members
            .required("time_unit", named(unit_of, "must be MINUTES, HOURS, DAYS, WEEKS, MONTHS or YEARS")),
        num_units: members.required("num_units", fields::int32),
        timing: members.required("timing", named(timing_of, "must be AFTER_PREVIOUS_JOB_FINISHED or REGULAR_INTERVAL")),
        schedule_name: members.required("schedule_name", fields::text),
        job_name: members.required("job_name", fields::text),
        seeds: members.texts("seeds", Presence::Required),
        policy_id: members.required("policy_id", fields::uuid),
        tags: members.texts("tags", Presence::Required),
        job_count: members.required("job_count", fields::int32),
    }
}

fn check(document: &Document) -> Result<Key, String> {
    let shown = read_row(document, |members| {
        let key = members.required("id", key_text);
        read(Uuid::nil(), members);
        key
    });
    fields::checked(shown)
}

#[cfg(test)]
mod tests;
