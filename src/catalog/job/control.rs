//! Starting and stopping jobs, and what can be changed of them.

use bytes::Bytes;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{missing, table};
use crate::catalog::plan::{Answer, Reply, inserted};
use crate::catalog::{Arrival, Plan, ids, policy, time};
use crate::change::{Cause, Document, Key, Table};
use crate::proto::request::Command;
use crate::proto::{JobRunState, RequestSetJob, ResponseNewJob, response};
use crate::store::{Guard, IfMissing, IfPresent, Mutation, Query, QueryResult};

/// States from which a job can be cancelled.
const UNFINISHED: &[&str] = &["pending", "running", "paused"];

const CONTROL_UNAVAILABLE: &str = "Job control is not available on this server: jobs are paused and resumed by a crawler; name its address when you start starfeed (--crawler ws://HOST:PORT/)";

/// Makes a job, cancels one, or changes its name and tags. What only a crawler can do is asked of it, where there is one.
pub(in crate::catalog) fn set(request: RequestSetJob, arrival: &Arrival) -> Result<Plan, String> {
    let Some(id) = ids::optional("job_id", request.job_id.as_deref())? else {
        return create(request, arrival);
    };
    let run_state = request.run_state.and_then(|number| JobRunState::try_from(number).ok());
    match run_state {
        None => Ok(change(&request, id)),
        Some(JobRunState::Cancelled) => Ok(cancel(id, arrival)),
        Some(JobRunState::Running | JobRunState::Paused) if arrival.has_crawler => {
            Ok(Plan::Ask(Box::new(Command::SetJob(request))))
        }
        Some(JobRunState::Running | JobRunState::Paused) => Err(CONTROL_UNAVAILABLE.to_owned()),
        Some(state @ (JobRunState::Pending | JobRunState::Completed | JobRunState::Deleted)) => {
            Err(format!("Not allowed to set job run state: {}", i32::from(state)))
        }
    }
}

/// Changes the tags, the name, or both. A message cannot say whether its list of tags is absent or empty: one with a name and no tags
/// is about the name, and one with a state that is not known here is about that.
fn change(request: &RequestSetJob, id: Uuid) -> Plan {
    let mut patch = Map::new();
    if let Some(name) = request.name.as_deref().map(str::trim).filter(|name| !name.is_empty()) {
        patch.insert("name".to_owned(), name.into());
    }
    let tags = stripped(&request.tags);
    if !tags.is_empty() || (request.name.is_none() && request.run_state.is_none()) {
        patch.insert("tags".to_owned(), tags.into());
    }
    let patch = Document::from_object(patch);
    Plan::Write { mutations: vec![Mutation::update(table(), ids::key(id), patch, missing(id))], reply: Reply::DONE }
}

fn cancel(id: Uuid, arrival: &Arrival) -> Plan {
    let now = arrival.now;
    let answer = move |result: QueryResult| {
        let Some(row) = result.rows.into_iter().next() else {
            return Answer::error(missing(id));
        };
        let job = row.document.members().unwrap_or_default();
        if job.get("run_state").and_then(Value::as_str) == Some("cancelled") {
            // What is left of its work where that has failed in the middle.
            return Answer::reply(Reply::go(super::delete::empty_frontier(id, Reply::DONE)));
        }
        let started_at = job.get("started_at").and_then(time::milliseconds);
        let duration = started_at.map(|started_at| (now.0 as f64 - started_at) / 1000.0);
        let patch = json!({"run_state": "cancelled", "completed_at": time::stored(now), "duration": duration});
        let guard = Guard {
            member: "run_state",
            values: UNFINISHED,
            refusal: "The job has ended already: it cannot be cancelled.".to_owned(),
        };
        let mutation = Mutation {
            table: table(),
            key: ids::key(id),
            if_missing: IfMissing::Refuse(missing(id)),
            if_present: IfPresent::When(guard, Box::new(IfPresent::Merge(Document::from_object(members(patch))))),
            cause: Cause::Write,
        };
        let emptied = super::delete::empty_frontier(id, Reply::DONE);
        Answer::reply(Reply::go(Plan::Write { mutations: vec![mutation], reply: Reply::go(emptied) }))
    };
    Plan::Read { query: Query::Get { table: table(), key: ids::key(id) }, answer: Box::new(answer) }
}

/// Each seed becomes a row, and all are written at once: a message has room for so many short ones that the writer would be busy for
/// a minute. Of seeds of usual length a message has no room for more than these.
const SEEDS_MAX: usize = 25_000;

/// A job that is about to be made.
struct NewJob {
    name: String,
    seeds: Vec<String>,
    tags: Vec<String>,
    arrival: Arrival,
}

fn create(request: RequestSetJob, arrival: &Arrival) -> Result<Plan, String> {
    let policy_id = ids::optional("policy_id", request.policy_id.as_deref())?.ok_or("\"policy_id\" is required")?;
    let seeds = stripped(&request.seeds);
    let Some(first) = seeds.first() else {
        return Err("\"seeds\" is required".to_owned());
    };
    let name = match request.name().trim() {
        "" => default_name(first, seeds.len())?,
        name => name.to_owned(),
    };
    if arrival.has_crawler {
        return Ok(Plan::Ask(Box::new(Command::SetJob(request))));
    }
    if seeds.len() > SEEDS_MAX {
        return Err(format!("A job has {SEEDS_MAX} seeds at most: make several jobs."));
    }
    let job = NewJob { name, tags: stripped(&request.tags), seeds, arrival: *arrival };
    let answer = move |result: QueryResult| match result.rows.into_iter().next() {
        None => Answer::error(policy::missing(policy_id)),
        Some(row) => Answer::reply(job.with_policy(row.document.members().unwrap_or_default())),
    };
    let query = Query::Get { table: Table::new(policy::TABLE.name), key: ids::key(policy_id) };
    Ok(Plan::Read { query, answer: Box::new(answer) })
}

impl NewJob {
    /// The crawler wants the whole solver in the place of its id.
    fn with_policy(self, mut policy: Map<String, Value>) -> Reply {
        let solver_id = match policy.remove("captcha_solver_id") {
            Some(Value::String(id)) => id,
            _ => return Reply::go(self.written(policy)),
        };
        let answer = move |result: QueryResult| match result.rows.into_iter().next() {
            None => Answer::error("The CAPTCHA solver of the policy does not exist: choose another one there."),
            Some(row) => {
                policy.insert("captcha_solver".to_owned(), Value::Object(row.document.members().unwrap_or_default()));
                Answer::reply(Reply::go(self.written(policy)))
            }
        };
        let query = Query::Get { table: Table::new("captcha_solver"), key: Key::text(&solver_id) };
        Reply::go(Plan::Read { query, answer: Box::new(answer) })
    }

    /// What is to be downloaded first, then the job: whoever sees the job finds its work.
    fn written(self, policy: Map<String, Value>) -> Plan {
        let Self { name, seeds, tags, arrival } = self;
        let id = arrival.fresh_id;
        let mut mutations: Vec<Mutation> =
            (1..).zip(&seeds).map(|(number, url)| frontier_row(id, number, url)).collect();
        let job = json!({
            "name": name,
            "seeds": seeds,
            "tags": tags,
            "run_state": "pending",
            "started_at": time::stored(arrival.now),
            "completed_at": null,
            "duration": null,
            "item_count": 0,
            "http_success_count": 0,
            "http_error_count": 0,
            "exception_count": 0,
            "http_status_counts": {},
            "policy": policy,
        });
        mutations.push(inserted(table(), id, "job", members(job)));
        let job_id = Bytes::copy_from_slice(id.as_bytes());
        Plan::Write { mutations, reply: Reply::of(response::Body::NewJob(ResponseNewJob { job_id })) }
    }
}

/// The ids of a job's first rows are its own, counted on: that is as random as it is.
fn frontier_row(job_id: Uuid, number: u128, url: &str) -> Mutation {
    let id = Uuid::from_u128(job_id.as_u128().wrapping_add(number));
    let row = json!({"id": id.to_string(), "job_id": job_id.to_string(), "url": url, "cost": 0, "in_flight": false});
    // Whatever is there: so a database takes many of them in one step.
    let key = ids::key(id);
    Mutation::put(Table::new("frontier"), key, Document::from_object(members(row)))
}

/// The members of an object that is written down.
fn members(row: Value) -> Map<String, Value> {
    let Value::Object(row) = row else { panic!("an object was written down") };
    row
}

/// A job without a name is called by the host of its first seed.
fn default_name(first_seed: &str, seeds: usize) -> Result<String, String> {
    let host = host(first_seed).ok_or("\"name\" is required: the first seed has no host to call the job by")?;
    Ok(match seeds {
        1 => host,
        // As the crawler writes it.
        more => format!("{host}& {} more", more - 1),
    })
}

/// The host of a URL, in lower case.
fn host(url: &str) -> Option<String> {
    let (_, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let address = authority.rsplit('@').next()?;
    let host = match address.strip_prefix('[') {
        Some(address) => address.split(']').next()?,
        None => address.split(':').next()?,
    };
    (!host.is_empty()).then(|| host.to_lowercase())
}

fn stripped(texts: &[String]) -> Vec<String> {
    texts.iter().map(|text| text.trim()).filter(|text| !text.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_has_so_many_seeds_and_not_more() {
        let arrival = Arrival { now: crate::change::Timestamp(0), fresh_id: Uuid::nil(), has_crawler: false };
        let created = |seeds, arrival| {
            let policy_id = Some(vec![1; 16].into());
            let seeds = vec!["http://a.example/".to_owned(); seeds];
            set(RequestSetJob { policy_id, seeds, ..RequestSetJob::default() }, &arrival)
        };
        assert!(matches!(created(SEEDS_MAX, arrival), Ok(Plan::Read { .. })));
        assert_eq!(created(SEEDS_MAX + 1, arrival).unwrap_err(), "A job has 25000 seeds at most: make several jobs.");
        // A crawler knows for itself what it can take.
        let arrival = Arrival { has_crawler: true, ..arrival };
        assert!(matches!(created(SEEDS_MAX + 1, arrival), Ok(Plan::Ask(_))));
    }

    #[test]
    fn a_job_without_a_name_is_called_by_its_first_host() {
        assert_eq!(default_name("https://News.Example/a", 1).as_deref(), Ok("news.example"));
        assert_eq!(default_name("https://news.example", 3).as_deref(), Ok("news.example& 2 more"));
        for (url, expected) in [
            ("http://user:p@ss@host.example:8080/x", Some("host.example")),
            ("http://[::1]:80/", Some("::1")),
            ("http://host?q", Some("host")),
            ("news.example/a", None),
            ("http:///a", None),
            ("", None),
        ] {
            assert_eq!(host(url).as_deref(), expected, "{url}");
        }
    }
}
