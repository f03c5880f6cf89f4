//! Following what a job downloads: tokens, and one look at what is new.

use bytes::Bytes;
use serde_json::Value;
use uuid::Uuid;

use super::body::{Bodies, Compression};
use super::{Found, Items, JOB_SYNC, number, table};
use crate::catalog::plan::{Answer, Reply};
use crate::catalog::{Plan, StreamPlan, ids, job};
use crate::change::Table;
use crate::proto::{RequestSubscribeJobSync, SyncItem};
use crate::store::{Condition, Direction, Index, PageBudget, Part, Query, QueryResult, RangeQuery, RangeStart};

/// A subscription to what a job downloads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct JobSyncPlan {
    /// The job.
    pub job_id: Uuid,
    /// What has a number up to this was taken care of.
    pub after: Option<f64>,
    /// The client takes compressed bodies.
    pub compression_ok: bool,
}

/// What one look at the responses of a job has brought.
#[derive(Debug)]
pub struct SyncPage {
    /// The items, each with its number, in order.
    pub items: Vec<(u64, SyncItem)>,
    /// The number of the last response that was taken care of, shown or not: the next look begins behind it.
    pub reached: Option<f64>,
    /// No further item was there.
    pub is_complete: bool,
    /// How the job stood before the look.
    pub job: JobStanding,
}

/// How a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobStanding {
    /// There is no such job.
    Missing,
    /// More items may come.
    Unfinished,
    /// No more items come.
    Finished,
}

/// Subscribes to what a job downloads, if there is such a job.
pub(in crate::catalog) fn subscribe(request: &RequestSubscribeJobSync) -> Result<Plan, String> {
    let job_id = ids::required("job_id", &request.job_id)?;
    let after = request.sync_token.as_deref().filter(|token| !token.is_empty()).map(read_token).transpose()?;
    let after = after.map(|sequence| sequence as f64);
    let plan = JobSyncPlan { job_id, after, compression_ok: request.compression_ok() };
    let answer = move |result: QueryResult| match result.rows.first() {
        None => Answer::error(job::missing(job_id)),
        Some(_) => Answer::reply(Reply::go(Plan::Stream(StreamPlan::JobSync(plan)))),
    };
    Ok(Plan::Read { query: job_row(job_id), answer: Box::new(answer) })
}

/// A part of an index where something may happen that brings items.
#[derive(Clone, Debug)]
pub struct Watched {
    /// The table.
    pub table: Table,
    /// The index.
    pub index: &'static Index,
    /// The values of its first members that the rows have.
    pub prefix: Vec<Value>,
}

/// What has to be watched for the items of a job: its responses, and the job, which may end.
pub fn watched_by_sync(job_id: Uuid) -> [Watched; 2] {
    static JOB: Index = Index { name: job::TABLE.primary_key, members: &[job::TABLE.primary_key] };
    let prefix = vec![Value::from(job_id.to_string())];
    [
        Watched { table: table(), index: &JOB_SYNC, prefix: prefix.clone() },
        Watched { table: Table::new(job::TABLE.name), index: &JOB, prefix },
    ]
}

fn job_row(job_id: Uuid) -> Query {
    Query::Get { table: Table::new(job::TABLE.name), key: ids::key(job_id) }
}

/// A token is the number of the item that it came with, behind the number of this form.
const TOKEN_FORM: u8 = 1;

fn token(sequence: u64) -> Bytes {
    [&[TOKEN_FORM], sequence.to_le_bytes().as_slice()].concat().into()
}

fn read_token(token: &[u8]) -> Result<u64, String> {
    match token.split_first() {
        Some((&TOKEN_FORM, number)) if number.len() == 8 => {
            Ok(u64::from_le_bytes(number.try_into().expect("its length was checked")))
        }
        _ => Err("Invalid sync_token: send one that came with an item, or none".to_owned()),
    }
}

/// One look for items behind those that the client has: first how the job stands, so that nothing can come behind a look at a finished
/// job; then as many responses as `budget` allows, and of them as many as have room for their bodies.
pub fn look(plan: JobSyncPlan, budget: PageBudget) -> Plan {
    let answer = move |result: QueryResult| {
        let standing = match result.rows.first() {
            None => JobStanding::Missing,
            Some(row) if job::is_finished(&row.document) => JobStanding::Finished,
            Some(_) => JobStanding::Unfinished,
        };
        Answer::reply(Reply::go(read_items(plan, budget, standing)))
    };
    Plan::Read { query: job_row(plan.job_id), answer: Box::new(answer) }
}

fn read_items(plan: JobSyncPlan, budget: PageBudget, standing: JobStanding) -> Plan {
    let range = RangeQuery {
        table: table(),
        index: &JOB_SYNC,
        prefix: vec![plan.job_id.to_string().into()],
        // No token can say a number below, so nobody could go on behind it.
        start: plan.after.map_or(RangeStart::At(0.into()), |after| RangeStart::After(after.into())),
        direction: Direction::Ascending,
        condition: Condition::Always,
        part: Part::First(budget),
    };
    let answer = move |result: QueryResult| {
        let read = ReadRows {
            numbers: result.rows.iter().filter_map(|row| number(&row.key)).collect(),
            is_complete: result.is_complete,
        };
        let found = Found::read(result.rows);
        let finish = move |found: Found, bodies: Bodies| page(found, &bodies, (plan, budget), &read, standing);
        Answer::reply(found.with_bodies(budget.bytes, finish))
    };
    Plan::Read { query: Query::Range(range), answer: Box::new(answer) }
}

/// The responses that a look has read, whether they can be shown or not.
struct ReadRows {
    /// Their numbers, in order.
    numbers: Vec<f64>,
    /// No further one was there.
    is_complete: bool,
}

fn page(
    mut found: Found,
    bodies: &Bodies,
    (plan, budget): (JobSyncPlan, PageBudget),
    read: &ReadRows,
    standing: JobStanding,
) -> Answer {
    // One with a number that no token can say is passed by.
    found.responses.retain(|response| response.sequence.is_some());
    let sequences: Vec<u64> = found.responses.iter().filter_map(|response| response.sequence).collect();
    let has_room = |response: &super::Response| !response.body_id.as_ref().is_some_and(|id| bodies.is_unread(id));
    let fitting = found.responses.iter().take_while(|response| has_room(response)).count();
    found.responses.truncate(fitting);
    let Items { items, problems } = found.with(bodies, Compression::of(plan.compression_ok), budget.bytes as u64);
    let item = |(sequence, item)| (sequence, SyncItem { item, token: token(sequence) });
    let items: Vec<(u64, SyncItem)> = items.into_iter().map(item).collect();
    let left = sequences.get(items.len()).map(|sequence| *sequence as f64);
    let reached = read.numbers.iter().copied().rev().find(|number| left.is_none_or(|left| *number < left));
    // What has no number comes behind all that have one, and looking again would bring it again.
    let is_complete = (read.is_complete && left.is_none()) || reached.is_none();
    let page = SyncPage { items, reached, is_complete, job: standing };
    Answer::reply(Reply::Page(page)).with_problems(problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_as_existing_clients_keep_them() {
        assert_eq!(token(0x11)[..], [1, 0x11, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(read_token(&[1, 0x11, 0, 0, 0, 0, 0, 0, 0]), Ok(0x11));
        assert_eq!(read_token(&token(u64::MAX)), Ok(u64::MAX));
        for bytes in [&[2, 0, 0, 0, 0, 0, 0, 0, 0][..], &[1; 8], &[1; 10], &[1]] {
            assert!(read_token(bytes).is_err(), "{bytes:?}");
        }
    }
}
