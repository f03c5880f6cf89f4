//! Deleting a job with all that is only its own: it may be more than goes into one write.

use serde_json::Value;
use uuid::Uuid;

use super::{FINISHED, is_finished, missing, table};
use crate::catalog::plan::{Answer, Reply};
use crate::catalog::{Plan, ids, response};
use crate::change::{Cause, Table};
use crate::proto::RequestDeleteJob;
use crate::store::{
    Condition, Direction, Guard, IfMissing, IfPresent, Index, Mutation, PageBudget, Part, Query, QueryResult,
    RangeQuery, RangeStart,
};

const NOT_FINISHED: &str = "Can only delete cancelled or completed jobs.";

/// Rows that are deleted in one write.
const PAGE: PageBudget = PageBudget { items: 500, bytes: 1 << 20 };

/// What the crawler has found and not yet downloaded, by job.
pub(in crate::catalog) const COST_INDEX: Index =
    Index { name: "cost_index", members: &["job_id", "in_flight", "cost"] };

/// Deletes the responses of a job, what is left of its frontier, and in the end the job: what fails in the middle can be done again.
/// Bodies of responses stay, because jobs share them.
pub(in crate::catalog) fn delete(request: &RequestDeleteJob) -> Result<Plan, String> {
    let id = ids::required("job_id", &request.job_id)?;
    let answer = move |result: QueryResult| match result.rows.first() {
        None => Answer::error(missing(id)),
        Some(row) if !is_finished(&row.document) => Answer::error(NOT_FINISHED),
        Some(_) => {
            let frontier = empty_frontier(id, Reply::go(delete_row(id)));
            let responses = delete_all(Table::new(response::NAME), &response::JOB_SYNC, id, Reply::go(frontier));
            Answer::reply(Reply::go(responses))
        }
    };
    Ok(Plan::Read { query: Query::Get { table: table(), key: ids::key(id) }, answer: Box::new(answer) })
}

/// Deletes what the crawler has yet to download for a job.
pub(super) fn empty_frontier(job_id: Uuid, then: Reply) -> Plan {
    delete_all(Table::new("frontier"), &COST_INDEX, job_id, then)
}

/// The job may have been resumed meanwhile.
fn delete_row(id: Uuid) -> Plan {
    let guard = Guard { member: "run_state", values: FINISHED, refusal: NOT_FINISHED.to_owned() };
    let mutation = Mutation {
        table: table(),
        key: ids::key(id),
        if_missing: IfMissing::Ignore,
        if_present: IfPresent::When(guard, Box::new(IfPresent::Delete)),
        cause: Cause::Write,
    };
    Plan::Write { mutations: vec![mutation], reply: Reply::DONE }
}

/// Deletes all rows of a job, a page at a time, which `index` has by its id.
fn delete_all(table: Table, index: &'static Index, job_id: Uuid, then: Reply) -> Plan {
    let range = RangeQuery {
        table: table.clone(),
        index,
        prefix: vec![Value::from(job_id.to_string())],
        start: RangeStart::First,
        direction: Direction::Ascending,
        condition: Condition::Always,
        part: Part::First(PAGE),
    };
    let answer = move |result: QueryResult| {
        if result.rows.is_empty() {
            return Answer::reply(then);
        }
        let reply = if result.is_complete { then } else { Reply::go(delete_all(table.clone(), index, job_id, then)) };
        let mutations = result.rows.into_iter().map(|row| Mutation::delete(table.clone(), row.key)).collect();
        Answer::reply(Reply::go(Plan::Write { mutations, reply }))
    };
    Plan::Read { query: Query::Range(range), answer: Box::new(answer) }
}
