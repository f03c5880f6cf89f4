//! CAPTCHA solvers: services that the crawler may ask.

use bytes::Bytes;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::fields::{Reader, RowProblem, Shown, key_id, key_text, named, read_name, read_row};
use super::plan::{Reply, inserted, read_list, read_one, write};
use super::policy_rules::is_blank;
use super::{Answer, Arrival, CatalogTable, Plan, fields, ids, policy, time};
use crate::change::{Document, Key, Row, Table};
use crate::proto::captcha_solver::SolverType;
use crate::proto::request::Command;
use crate::proto::{CaptchaSolver, CaptchaSolverAntigate, CaptchaSolverAntigateCharacters, CaptchaSolverEvent};
use crate::proto::{RequestDeleteCaptchaSolver, RequestGetCaptchaSolver, RequestListCaptchaSolvers};
use crate::proto::{ResponseListCaptchaSolvers, ResponseNewCaptchaSolver, response};
use crate::store::{Mutation, Order, PageBudget, Query, QueryResult};
use crate::view::{KeyRule, Secret, SecretKind};

pub(super) const TABLE: CatalogTable = CatalogTable {
    name: "captcha_solver",
    primary_key: "id",
    indexes: &[],
    keys: KeyRule::Uuid,
    secrets: &[Secret { path: &["api_key"], kind: SecretKind::Whole }],
    omitted: &[],
    subscribes: |command| match command {
        Command::SubscribeCaptchaSolverList(request) => Some(request.options.clone()),
        _ => None,
    },
    event_number: 107,
    name_event,
    row_message: |key, document| fields::message(show(key, document, ApiKey::Redacted)),
    check,
};

fn table() -> Table {
    TABLE.table()
}

const MISSING: &str = "No CAPTCHA solver found for that ID";

/// The one type of solver that there is.
const ANTIGATE: &str = "antigate";

pub(super) fn list(request: &RequestListCaptchaSolvers) -> Result<Plan, String> {
    let body = |solvers, total| response::Body::ListCaptchaSolvers(ResponseListCaptchaSolvers { solvers, total });
    read_list(table(), Order::Member("name"), request.page, show_whole, body)
}

pub(super) fn get(request: &RequestGetCaptchaSolver) -> Result<Plan, String> {
    let id = ids::required("solver_id", &request.solver_id)?;
    Ok(read_one(table(), ids::key(id), MISSING.to_owned(), show_whole, response::Body::Solver))
}

/// Inserts `solver`, or writes it over the one it names. What is absent is written with its default, except for the API key:
/// events do not show it, and who saves what an event showed must not wipe it.
pub(super) fn set(solver: &CaptchaSolver, arrival: &Arrival) -> Result<Plan, String> {
    let id = ids::optional("solver_id", solver.solver_id.as_deref())?;
    if is_blank(&solver.name) {
        return Err("Name is required.".to_owned());
    }
    let Some(SolverType::Antigate(antigate)) = &solver.solver_type else {
        return Err("Unknown CAPTCHA solver type (None)".to_owned());
    };
    let mut members = members(antigate);
    let now = time::stored(arrival.now);
    members.insert("name".to_owned(), solver.name().into());
    members.insert("updated_at".to_owned(), now.clone());
    if let Some(id) = id {
        // A row that is written over keeps what the patch does not name.
        for length in ["min_length", "max_length"] {
            members.entry(length).or_insert(Value::Null);
        }
        let patch = Document::from_object(members);
        return Ok(write(Mutation::update(table(), ids::key(id), patch, MISSING.to_owned()), None));
    }
    members.entry("api_key").or_insert("".into());
    members.insert("created_at".to_owned(), now);
    let mutation = inserted(table(), arrival.fresh_id, "CAPTCHA solver", members);
    let solver_id = Bytes::copy_from_slice(arrival.fresh_id.as_bytes());
    Ok(write(mutation, Some(response::Body::NewSolver(ResponseNewCaptchaSolver { solver_id }))))
}

/// The members that the settings of a solver become.
fn members(antigate: &CaptchaSolverAntigate) -> Map<String, Value> {
    let mut members = Map::new();
    let mut set = |name: &str, value: Value| drop(members.insert(name.to_owned(), value));
    set("type", ANTIGATE.into());
    set("service_url", antigate.service_url().into());
    set("require_phrase", antigate.require_phrase().into());
    set("case_sensitive", antigate.case_sensitive().into());
    set("characters", antigate.characters().as_str_name().into());
    set("require_math", antigate.require_math().into());
    if let Some(api_key) = &antigate.api_key {
        set("api_key", api_key.as_str().into());
    }
    if let Some(length) = antigate.min_length {
        set("min_length", length.into());
    }
    if let Some(length) = antigate.max_length {
        set("max_length", length.into());
    }
    members
}

/// Deletes a solver that no policy uses. A policy that is written while the others are looked at is not seen.
pub(super) fn delete(request: &RequestDeleteCaptchaSolver) -> Result<Plan, String> {
    let id = ids::required("solver_id", request.solver_id.as_deref().unwrap_or_default())?;
    Ok(delete_if_unused(id, None))
}

/// Of the policies, so much is looked at in one step.
const POLICY_PAGE: PageBudget = PageBudget { items: 1000, bytes: 1 << 20 };

/// Looks at the policies that follow `after`, page by page, before it deletes the solver.
fn delete_if_unused(id: Uuid, after: Option<Key>) -> Plan {
    let query = Query::After { table: policy::TABLE.table(), after, budget: POLICY_PAGE };
    let answer = move |result: QueryResult| {
        if result.rows.iter().any(|policy| uses(&policy.document, id)) {
            return Answer::error("Cannot delete CAPTCHA solver because it is being used by a policy.");
        }
        let next = match result.rows.last() {
            Some(last) if !result.is_complete => delete_if_unused(id, Some(last.key.clone())),
            _ => write(Mutation::delete(table(), ids::key(id)), None),
        };
        Answer::reply(Reply::go(next))
    };
    Plan::Read { query, answer: Box::new(answer) }
}

fn uses(policy: &Document, solver_id: Uuid) -> bool {
    let named = read_name(policy, "captcha_solver_id").ok().and_then(|shown| shown.value);
    named.and_then(|text| Uuid::parse_str(&text).ok()) == Some(solver_id)
}

fn name_event(key: &Key, document: &Document) -> Shown<Bytes> {
    let event = |name| {
        let solver_id = key_id(key).ok().map(|id| Bytes::copy_from_slice(id.as_bytes()));
        CaptchaSolverEvent { solver_id, name, ..Default::default() }
    };
    fields::message(read_name(document, "name").map(|shown| shown.map(event)))
}

/// Whether the document that is read still has the API key.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ApiKey {
    Kept,
    Redacted,
}

fn show(key: &Key, document: &Document, api_key: ApiKey) -> Result<Shown<CaptchaSolver>, RowProblem> {
    let id = key_id(key)?;
    let solver_id = Some(Bytes::copy_from_slice(id.as_bytes()));
    read_row(document, |members| CaptchaSolver { solver_id, ..read(members, api_key) })
}

fn show_whole(row: &Row) -> Result<Shown<CaptchaSolver>, RowProblem> {
    show(&row.key, &row.document, ApiKey::Kept)
}

fn read(members: &mut Reader<'_, '_>, api_key: ApiKey) -> CaptchaSolver {
    CaptchaSolver {
        solver_id: None,
        name: members.required("name", fields::text),
        created_at: Some(members.required("created_at", time::text).unwrap_or_else(|| time::UNKNOWN.to_owned())),
        updated_at: Some(members.required("updated_at", time::text).unwrap_or_else(|| time::UNKNOWN.to_owned())),
        // Of another type, nobody knows what the members mean.
        solver_type: members
            .required("type", |value| if value == ANTIGATE { Ok(()) } else { Err("must be antigate") })
            .map(|()| SolverType::Antigate(read_antigate(members, api_key))),
    }
}

fn read_antigate(members: &mut Reader<'_, '_>, api_key: ApiKey) -> CaptchaSolverAntigate {
    let characters_of = |name: &str| CaptchaSolverAntigateCharacters::from_str_name(name).map(i32::from);
    CaptchaSolverAntigate {
        service_url: members.required("service_url", fields::text),
        api_key: match api_key {
            ApiKey::Kept => members.required("api_key", fields::text),
            ApiKey::Redacted => None,
        },
        require_phrase: members.required("require_phrase", fields::boolean),
        case_sensitive: members.required("case_sensitive", fields::boolean),
        characters: members
            .required("characters", named(characters_of, "must be ALPHANUMERIC, NUMBERS_ONLY or ALPHA_ONLY")),
        require_math: members.required("require_math", fields::boolean),
        min_length: members.nullable("min_length", fields::int32),
        max_length: members.nullable("max_length", fields::int32),
    }
}

fn check(document: &Document) -> Result<Key, String> {
    let shown = read_row(document, |members| {
        let key = members.required("id", key_text);
        read(members, ApiKey::Kept);
        key
    });
    fields::checked(shown)
}

#[cfg(test)]
mod tests;
