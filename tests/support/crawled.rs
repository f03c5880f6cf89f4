//! Rows as a crawler writes them, put into the tables through the API. They are told from each other by small numbers.

use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use starfeed::json::binary;
use starfeed::proto::{self, request::Command, response::Body};
use uuid::Uuid;

use super::raw::RawClient;

/// 2019-01-01T12:00:00+00:00
pub(crate) const NOON: f64 = 1_546_344_000.0;

/// The id of the row with this number; the order of ids is that of numbers.
pub(crate) fn uuid(number: u8) -> Uuid {
    Uuid::from_bytes([number; 16])
}

/// The same as messages have it.
pub(crate) fn id(number: u8) -> Bytes {
    Bytes::copy_from_slice(uuid(number).as_bytes())
}

/// The id in a message as rows have it.
pub(crate) fn id_text(id: &[u8]) -> String {
    Uuid::from_slice(id).expect("16 bytes").to_string()
}

/// A time as rows have it.
pub(crate) fn time(seconds: f64) -> Value {
    let seconds = if seconds.fract() == 0.0 { json!(seconds as i64) } else { json!(seconds) };
    json!({"$reql_type$": "TIME", "epoch_time": seconds, "timezone": "+00:00"})
}

/// Seconds since 1970.
pub(crate) fn now() -> f64 {
    starfeed::clock::Clock.now().0 as f64 / 1000.0
}

/// A whole second, so many seconds ago.
pub(crate) fn ago(seconds: f64) -> f64 {
    now().floor() - seconds
}

/// The row with the members of `others`, in the place of its own.
pub(crate) fn with(mut row: Value, others: Value) -> Value {
    let Value::Object(others) = others else { panic!("{others} has no members") };
    row.as_object_mut().expect("a row").extend(others);
    row
}

/// The row without these members.
pub(crate) fn without(mut row: Value, members: &[&str]) -> Value {
    for member in members {
        row.as_object_mut().expect("a row").remove(*member).expect("it was there");
    }
    row
}

pub(crate) fn policy(number: u8, name: &str) -> Value {
    json!({
        "id": uuid(number).to_string(), "name": name, "created_at": time(NOON), "updated_at": time(NOON + 0.5),
        "authentication": {"enabled": false}, "captcha_solver_id": null,
        "limits": {"max_cost": 10, "max_duration": null, "max_items": null},
        "mime_type_rules": [{"pattern": "^text/", "match": "MATCHES", "save": true}, {"save": false}],
        "proxy_rules": [], "robots_txt": {"usage": "OBEY"},
        "url_normalization": {"enabled": true, "strip_parameters": ["sid"]},
        "url_rules": [{"action": "ADD", "amount": 1}], "user_agents": [{"name": "Test"}],
    })
}

pub(crate) fn solver(number: u8, name: &str) -> Value {
    json!({
        "id": uuid(number).to_string(), "name": name, "type": "antigate", "service_url": "https://solver.example/",
        "api_key": "key", "require_phrase": false, "case_sensitive": true, "characters": "NUMBERS_ONLY",
        "require_math": false, "created_at": time(NOON), "updated_at": time(NOON),
    })
}

pub(crate) fn schedule(number: u8, name: &str, policy: u8) -> Value {
    json!({
        "id": uuid(number).to_string(), "schedule_name": name, "enabled": true, "created_at": time(NOON),
        "updated_at": time(NOON), "time_unit": "DAYS", "num_units": 2, "timing": "REGULAR_INTERVAL",
        "job_name": "Nightly #{COUNT}", "job_count": 3, "seeds": ["https://seed.example/"], "tags": ["news"],
        "policy_id": uuid(policy).to_string(),
    })
}

/// A job that began at noon, and took a minute if it has ended.
pub(crate) fn job(number: u8, run_state: &str) -> Value {
    job_since(number, run_state, NOON)
}

/// The same with another beginning.
pub(crate) fn job_since(number: u8, run_state: &str, started_at: f64) -> Value {
    let is_finished = matches!(run_state, "completed" | "cancelled");
    json!({
        "id": uuid(number).to_string(), "name": format!("Job {number}"), "seeds": ["https://seed.example/"],
        "tags": ["news"], "run_state": run_state, "started_at": time(started_at),
        "completed_at": is_finished.then(|| time(started_at + 60.0)), "duration": is_finished.then_some(60),
        "item_count": 6, "http_success_count": 3, "http_error_count": 2, "exception_count": 1,
        "http_status_counts": {"200": 3, "404": 2}, "policy": without(policy(0x99, "Then"), &["captcha_solver_id"]),
        "old_urls": binary(b"not for anybody"),
    })
}

/// What the crawler downloaded for a job, as number `sequence` of all that it downloads; it has no body.
pub(crate) fn response(sequence: u64, job: u8) -> Value {
    json!({
        "sequence": sequence, "job_id": uuid(job).to_string(), "url": format!("https://site.example/{sequence}"),
        "canonical_url": format!("https://site.example/{sequence}?canonical"), "started_at": time(NOON + 0.123),
        "completed_at": time(NOON + 1.0), "duration": 0.877, "cost": 1, "is_success": true,
        "content_type": "text/plain", "status_code": 200,
        "headers": ["SERVER", "nginx", "X-NUMBER", sequence.to_string()], "body_id": null,
    })
}

/// The same with a body that [`body`] makes.
pub(crate) fn success(sequence: u64, job: u8, body: u64) -> Value {
    with(response(sequence, job), json!({"body_id": body_id(body)}))
}

/// One that a server refused.
pub(crate) fn refused(sequence: u64, job: u8, body: u64) -> Value {
    with(success(sequence, job, body), json!({"is_success": false, "status_code": 404}))
}

/// One that failed before there was an answer.
pub(crate) fn failed(sequence: u64, job: u8) -> Value {
    let row = without(response(sequence, job), &["content_type", "status_code", "headers", "body_id"]);
    with(row, json!({"is_success": false, "exception": "Traceback"}))
}

pub(crate) fn body_id(number: u64) -> Value {
    binary(&u128::from(number).to_be_bytes())
}

pub(crate) fn body(number: u64, bytes: &[u8], is_compressed: bool) -> Value {
    json!({"id": body_id(number), "body": binary(bytes), "is_compressed": is_compressed})
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).expect("memory takes it");
    encoder.finish().expect("memory takes it")
}

/// Bytes that do not get smaller.
pub(crate) fn noise(random: &mut fastrand::Rng, bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    random.fill(&mut noise);
    noise
}

pub(crate) fn frontier(number: u8, job: u8) -> Value {
    json!({
        "id": uuid(number).to_string(), "job_id": uuid(job).to_string(), "url": format!("https://seed.example/{number}"),
        "cost": 1.5, "in_flight": number.is_multiple_of(2),
    })
}

/// Rows as they are stored, written by one request together with those that were not committed before.
pub(crate) fn import(table: &str, rows: &[Value]) -> Command {
    part_of_import(table, rows, true)
}

fn part_of_import(table: &str, rows: &[Value], commit: bool) -> Command {
    Command::ImportRows(proto::RequestImportRows {
        table: table.to_owned(),
        rows: rows.iter().map(|row| row.to_string().into_bytes().into()).collect(),
        first_line: None,
        commit: Some(commit),
    })
}

/// Writes rows as they are stored, however many, all at once; all of them have to be accepted.
pub(crate) fn put(client: &mut RawClient, table: &str, rows: &[Value]) {
    let parts: Vec<&[Value]> = rows.chunks(500).collect();
    for (at, part) in parts.iter().enumerate() {
        match client.request(part_of_import(table, part, at + 1 == parts.len())) {
            Some(Body::ImportRows(imported)) => assert_eq!(imported.errors, []),
            body => panic!("{body:?}"),
        }
    }
}

/// All rows of a table, as they are stored.
pub(crate) fn rows(client: &mut RawClient, table: &str) -> Vec<Value> {
    let mut rows = Vec::new();
    let mut after = None;
    loop {
        let export = proto::RequestExportRows { table: table.to_owned(), after, ..Default::default() };
        let Some(Body::ExportRows(page)) = client.request(Command::ExportRows(export)) else { panic!("no rows") };
        rows.extend(page.rows.iter().map(|row| serde_json::from_slice::<Value>(row).expect("JSON")));
        after = page.next;
        if after.is_none() {
            return rows;
        }
    }
}

/// The row of a table whose `id` is this.
pub(crate) fn row(client: &mut RawClient, table: &str, id: &str) -> Value {
    rows(client, table).into_iter().find(|row| row["id"] == id).expect("the row is there")
}

/// The jobs whose rows a table has, in order; each as often as it has rows there.
pub(crate) fn jobs_of(client: &mut RawClient, table: &str) -> Vec<String> {
    let job = |row: &Value| row["job_id"].as_str().expect("text").to_owned();
    let mut jobs: Vec<String> = rows(client, table).iter().map(job).collect();
    jobs.sort();
    jobs
}
