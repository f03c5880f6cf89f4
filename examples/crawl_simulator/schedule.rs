//! When schedules start jobs, and what these are called.

use std::time::Duration;

use chrono::DateTime;
use starfeed::change::Timestamp;
use tokio::time::Instant;

use super::row::{Row, number, text};

/// Longer than anybody looks on.
const LONG: f64 = 1e8;

/// What is remembered of a schedule.
pub(crate) struct Course {
    /// What its time is counted from.
    since: Instant,
    /// How much of its time has to be over: the first time, a part of it, so that not all schedules begin together.
    part: f64,
    /// The job that it has started last.
    pub(crate) job_id: Option<String>,
}

impl Course {
    pub(crate) fn begin(now: Instant, random: &mut fastrand::Rng) -> Self {
        Self { since: now, part: random.f64(), job_id: None }
    }

    /// It has started this job.
    pub(crate) fn started(&mut self, job_id: String, now: Instant) {
        *self = Self { since: now, part: 1.0, job_id: Some(job_id) };
    }

    /// Its job is over.
    pub(crate) fn finished(&mut self, schedule: &Row, now: Instant) {
        self.job_id = None;
        if text(schedule, "timing") == "AFTER_PREVIOUS_JOB_FINISHED" {
            self.since = now;
        }
    }

    /// Whether a job is due. A schedule whose last job still runs waits for it.
    pub(crate) fn is_due(&self, schedule: &Row, speed: f64, now: Instant) -> bool {
        let is_enabled = schedule.get("enabled").and_then(serde_json::Value::as_bool).unwrap_or_default();
        let seconds = (interval_seconds(schedule) / speed * self.part).min(LONG);
        is_enabled && self.job_id.is_none() && now >= self.since + Duration::from_secs_f64(seconds)
    }
}

fn interval_seconds(schedule: &Row) -> f64 {
    const DAY: f64 = 86_400.0;
    let unit = match text(schedule, "time_unit") {
        "MINUTES" => 60.0,
        "HOURS" => 3600.0,
        "DAYS" => DAY,
        "WEEKS" => 7.0 * DAY,
        "MONTHS" => 30.0 * DAY,
        _ => 365.0 * DAY,
    };
    unit * number(schedule, "num_units").max(1) as f64
}

/// The name of the `count`th job of a schedule: its template with `{COUNT}`, `{DATE}` and `{TIME}` filled in. How a value is
/// to be laid out is not looked at.
pub(crate) fn job_name(template: &str, count: i64, now: Timestamp) -> String {
    let mut name = String::new();
    let mut rest = template;
    while let Some(at) = rest.find(['{', '}']) {
        name.push_str(&rest[..at]);
        let (brace, after) = rest[at..].split_at(1);
        rest = match (after.strip_prefix(brace), after.split_once('}')) {
            (Some(after), _) => {
                name.push_str(brace);
                after
            }
            (None, Some((field, after))) if brace == "{" => {
                name.push_str(&variable(field.split([':', '!']).next().unwrap_or_default(), count, now));
                after
            }
            (None, _) => after,
        };
    }
    name + rest
}

fn variable(name: &str, count: i64, now: Timestamp) -> String {
    let seconds = i64::try_from(now.0 / 1000).unwrap_or(i64::MAX);
    match name {
        "COUNT" => count.to_string(),
        "TIME" => seconds.to_string(),
        "DATE" => {
            let date = DateTime::from_timestamp(seconds, 0).unwrap_or_default();
            date.format("%Y-%m-%dT%H:%M:%S").to_string()
        }
        _ => String::new(),
    }
}
