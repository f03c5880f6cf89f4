//! What the crawler has downloaded: responses, and the bodies that they share.

mod body;
mod sync;

use std::collections::HashSet;

use serde_json::Value;

pub(super) use sync::subscribe;
pub use sync::{JobStanding, JobSyncPlan, SyncPage, Watched, look, watched_by_sync};

use self::body::{Bodies, Compression, OPENED_BYTES_MAX, StoredBody, Unopened};
use super::fields::{Kind, Reader, RowProblem, Shown, binary, boolean, finite, int32, read_row, text, uuid};
use super::plan::{Answer, Reply, RowReport, ShownRows, page_of, show_rows};
use super::{Plan, ids, time};
use crate::change::{Key, KeyValue, Row, Table};
use crate::proto::{CrawlResponse, Header, RequestGetJobItems, ResponseListItems, response};
use crate::store::{Condition, Direction, Index, Part, Query, QueryResult, RangeQuery, RangeStart};

pub(super) const NAME: &str = "response";
pub(super) const JOB_SYNC: Index = Index { name: "job_sync", members: &["job_id", "sequence"] };

fn table() -> Table {
    Table::new(NAME)
}

/// A page of what a job has downloaded, in the order in which it was.
pub(super) fn list_of_job(request: &RequestGetJobItems) -> Result<Plan, String> {
    let job_id = ids::required("job_id", &request.job_id)?;
    let (offset, limit) = page_of(request.page)?;
    let range = RangeQuery {
        table: table(),
        index: &JOB_SYNC,
        prefix: vec![job_id.to_string().into()],
        start: RangeStart::First,
        direction: Direction::Ascending,
        condition: wanted(request)?,
        part: Part::Page { offset, limit },
    };
    let compression = Compression::of(request.compression_ok());
    let answer = move |result: QueryResult| {
        let total = i32::try_from(result.total).unwrap_or(i32::MAX);
        let found = Found::read(result.rows);
        let finish = move |found: Found, bodies: Bodies| {
            let asked = found.responses.len();
            let Items { items, problems } = found.with(&bodies, compression, OPENED_BYTES_MAX);
            if items.len() < asked || bodies.is_cut() || are_too_large(&items) {
                return Answer::error("The answer would be too large: ask for fewer items at a time.")
                    .with_problems(problems);
            }
            let items = items.into_iter().map(|(_, item)| item).collect();
            let body = response::Body::ListItems(ResponseListItems { items, total: Some(total) });
            Answer::body(body).with_problems(problems)
        };
        Answer::reply(found.with_bodies(usize::MAX, finish))
    };
    Ok(Plan::Read { query: Query::Range(range), answer: Box::new(answer) })
}

/// Whether there is no room for all of these together. A body is stored once and sent with each item that has it.
fn are_too_large(items: &[(u64, CrawlResponse)]) -> bool {
    let bytes: u64 = items.iter().map(|(_, item)| item.body().len() as u64).sum();
    items.len() > 1 && bytes > OPENED_BYTES_MAX
}

/// Which items a request wants: those of any of the kinds that it names.
fn wanted(request: &RequestGetJobItems) -> Result<Condition, String> {
    let success = || Condition::IsTrue("is_success");
    let exception = || Condition::Has("exception");
    let not = |condition| Condition::Not(Box::new(condition));
    let kinds = [
        (request.include_success(), success()),
        (request.include_error(), not(Condition::Any(vec![success(), exception()]))),
        (request.include_exception(), Condition::All(vec![not(success()), exception()])),
    ];
    let wanted: Vec<Condition> =
        kinds.into_iter().filter_map(|(is_wanted, condition)| is_wanted.then_some(condition)).collect();
    if wanted.is_empty() {
        return Err("You must set at least one include_* flag to true.".to_owned());
    }
    Ok(Condition::Any(wanted))
}

/// A response without its body.
struct Response {
    /// Its number among all responses, if it is one that tokens can say.
    sequence: Option<u64>,
    item: CrawlResponse,
    body_id: Option<Key>,
    key: Key,
}

/// Responses that were read, and rows that could not be shown.
struct Found {
    responses: Vec<Response>,
    problems: Vec<RowReport>,
}

/// Items that are ready, and what there is to report of their rows.
struct Items {
    items: Vec<(u64, CrawlResponse)>,
    problems: Vec<RowReport>,
}

impl Found {
    fn read(rows: Vec<Row>) -> Self {
        let ShownRows { values, problems } = show_rows(&table(), rows, show);
        Self { responses: values, problems }
    }

    /// Reads the bodies of all, `bytes` of them at most, and gives them to `finish` where the processor may be busy for a while.
    fn with_bodies(self, bytes: usize, finish: impl FnOnce(Self, Bodies) -> Answer + Send + 'static) -> Reply {
        let mut known = HashSet::new();
        let body_ids = self.responses.iter().filter_map(|response| response.body_id.as_ref());
        let keys: Vec<Key> = body_ids.filter(|key| known.insert(*key)).cloned().collect();
        if keys.is_empty() {
            return Reply::go(Plan::Compute(Box::new(move || finish(self, Bodies::none()))));
        }
        let query = Query::Rows { table: body::table(), keys: keys.clone(), bytes };
        let answer = move |result: QueryResult| {
            let compute = move || {
                let (bodies, problems) = Bodies::read(keys, result);
                let Answer { reply, problems: others } = finish(self, bodies);
                Answer { reply, problems: problems.into_iter().chain(others).collect() }
            };
            Answer::reply(Reply::go(Plan::Compute(Box::new(compute))))
        };
        Reply::go(Plan::Read { query, answer: Box::new(answer) })
    }

    /// The items as a client gets them: as many as have room. One has room whatever comes of it; with others, there are at most
    /// `opened` bytes of bodies that were unpacked.
    fn with(self, bodies: &Bodies, compression: Compression, opened: u64) -> Items {
        let Self { responses, problems } = self;
        let mut items = Items { items: Vec::with_capacity(responses.len()), problems };
        let mut room = OPENED_BYTES_MAX;
        for Response { sequence, mut item, body_id, key } in responses {
            if item.exception.is_none() {
                item.is_compressed = Some(false);
                match body_id.and_then(|id| bodies.get(&id)).map(|stored| stored.open(compression, &mut room)) {
                    None => {}
                    Some(Ok(StoredBody { bytes, is_compressed })) => {
                        item.body = Some(bytes);
                        item.is_compressed = Some(is_compressed);
                    }
                    Some(Err(Unopened::NoRoom)) if !items.items.is_empty() => break,
                    Some(Err(why)) => {
                        let problem = RowProblem::new(why.text());
                        items.problems.push(RowReport { table: table(), key, problem });
                    }
                }
            }
            if items.items.is_empty() {
                room = opened.saturating_sub(OPENED_BYTES_MAX - room);
            }
            items.items.push((sequence.unwrap_or_default(), item));
        }
        items
    }
}

fn show(row: &Row) -> Result<Shown<Response>, RowProblem> {
    let sequence = sequence(&row.key);
    read_row(&row.document, |members| {
        let item = read(members);
        let body_id = members.nullable("body_id", binary).map(|id| Key::binary(&id));
        Response { sequence, item, body_id, key: row.key.clone() }
    })
}

/// The number that a key is.
fn number(key: &Key) -> Option<f64> {
    match key.value() {
        KeyValue::Number(number) => Some(number),
        KeyValue::Text(_) | KeyValue::Binary(_) => None,
    }
}

/// The same, if it is one that the crawler counts with, and that a token can say.
fn sequence(key: &Key) -> Option<u64> {
    const END: f64 = 18_446_744_073_709_551_616.0;
    let number = number(key).filter(|number| (0.0..END).contains(number) && number.fract() == 0.0)?;
    Some(number as u64)
}

fn read(members: &mut Reader<'_, '_>) -> CrawlResponse {
    let item = CrawlResponse {
        job_id: members.required("job_id", uuid),
        url: members.required("url", text),
        // The crawler writes one name, and others that fill its tables the other.
        url_can: members.nullable("canonical_url", text).or_else(|| members.nullable("url_can", text)),
        started_at: Some(members.required("started_at", time::text).unwrap_or_else(|| time::UNKNOWN.to_owned())),
        completed_at: Some(members.required("completed_at", time::text).unwrap_or_else(|| time::UNKNOWN.to_owned())),
        cost: members.required("cost", finite),
        duration: members.nullable("duration", finite),
        is_success: Some(members.required("is_success", boolean).unwrap_or(false)),
        exception: members.nullable("exception", text),
        ..CrawlResponse::default()
    };
    if item.exception.is_some() {
        return item;
    }
    CrawlResponse {
        content_type: members.nullable("content_type", text),
        status_code: members.nullable("status_code", int32),
        headers: members.nullable("headers", headers).unwrap_or_default(),
        ..item
    }
}

/// Names and values in turn.
pub(super) fn headers(value: &Value) -> Kind<Vec<Header>> {
    const EXPECTED: &str = "must be a list of names and values in turn";
    let texts: Vec<&str> =
        value.as_array().and_then(|list| list.iter().map(Value::as_str).collect()).ok_or(EXPECTED)?;
    if !texts.len().is_multiple_of(2) {
        return Err(EXPECTED);
    }
    let header = |pair: &[&str]| Header { key: Some(pair[0].to_owned()), value: Some(pair[1].to_owned()) };
    Ok(texts.chunks_exact(2).map(header).collect())
}

#[cfg(test)]
mod tests;
