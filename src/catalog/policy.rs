//! Policies: how to crawl.

use bytes::Bytes;
use uuid::Uuid;

use super::fields::{Reader, RowProblem, Shown, key_id, key_text, read_name, read_row};
use super::plan::{inserted, read_list, read_one, write};
use super::{Arrival, CatalogTable, Plan, fields, ids, policy_document, policy_rules, time};
use crate::change::{Document, Key, Row, Table};
use crate::proto::request::Command;
use crate::proto::{Policy, PolicyEvent, ResponseListPolicies, ResponseNewPolicy, response};
use crate::proto::{RequestDeletePolicy, RequestGetPolicy, RequestListPolicies};
use crate::store::{Index, Mutation, Order};
use crate::view::{KeyRule, Secret, SecretKind};

pub(super) const TABLE: CatalogTable = CatalogTable {
    name: "policy",
    primary_key: "id",
    indexes: &[Index { name: "name", members: &["name"] }],
    keys: KeyRule::Uuid,
    secrets: &[Secret { path: &["proxy_rules", "*", "proxy_url"], kind: SecretKind::UrlCredentials }],
    omitted: &[],
    subscribes: |command| match command {
        Command::SubscribePolicyList(request) => Some(request.options.clone()),
        _ => None,
    },
    event_number: 8,
    name_event,
    row_message: |key, document| fields::message(show(key, document)),
    check,
};

fn table() -> Table {
    TABLE.table()
}

pub(super) fn missing(id: Uuid) -> String {
    format!("No policy exists with ID={id}")
}

pub(super) fn list(request: &RequestListPolicies) -> Result<Plan, String> {
    let body = |policies, total| response::Body::ListPolicies(ResponseListPolicies { policies, total });
    read_list(table(), Order::Member("name"), request.page, show_summary, body)
}

pub(super) fn get(request: &RequestGetPolicy) -> Result<Plan, String> {
    let id = ids::required("policy_id", &request.policy_id)?;
    Ok(read_one(table(), ids::key(id), missing(id), show_whole, response::Body::Policy))
}

/// Inserts `policy`, or writes it over the one it names: lists are replaced, and so are limits, set or not; what a row has
/// beyond the messages stays.
pub(super) fn set(policy: &Policy, arrival: &Arrival) -> Result<Plan, String> {
    let id = ids::optional("policy_id", policy.policy_id.as_deref())?;
    let captcha_solver_id = ids::optional("captcha_solver_id", policy.captcha_solver_id.as_deref())?;
    policy_rules::check(policy)?;
    let mut members = policy_document::members(policy, captcha_solver_id);
    let now = time::stored(arrival.now);
    members.insert("updated_at".to_owned(), now.clone());
    if let Some(id) = id {
        let patch = Document::from_object(members);
        return Ok(write(Mutation::update(table(), ids::key(id), patch, missing(id)), None));
    }
    members.insert("created_at".to_owned(), now);
    let mutation = inserted(table(), arrival.fresh_id, "policy", members);
    let policy_id = Bytes::copy_from_slice(arrival.fresh_id.as_bytes());
    Ok(write(mutation, Some(response::Body::NewPolicy(ResponseNewPolicy { policy_id }))))
}

pub(super) fn delete(request: &RequestDeletePolicy) -> Result<Plan, String> {
    let id = ids::required("policy_id", &request.policy_id)?;
    Ok(write(Mutation::delete(table(), ids::key(id)), None))
}

fn name_event(key: &Key, document: &Document) -> Shown<Bytes> {
    let event = |name| {
        let policy_id = key_id(key).ok().map(|id| Bytes::copy_from_slice(id.as_bytes()));
        PolicyEvent { policy_id, name, ..Default::default() }
    };
    fields::message(read_name(document, "name").map(|shown| shown.map(event)))
}

fn show_whole(row: &Row) -> Result<Shown<Policy>, RowProblem> {
    show(&row.key, &row.document)
}

fn show(key: &Key, document: &Document) -> Result<Shown<Policy>, RowProblem> {
    let id = key_id(key)?;
    read_row(document, |members| {
        let summary = identified(id, read_summary(members));
        policy_document::read(summary, members)
    })
}

/// A policy as lists show it.
fn show_summary(row: &Row) -> Result<Shown<Policy>, RowProblem> {
    let id = key_id(&row.key)?;
    read_row(&row.document, |members| identified(id, read_summary(members)))
}

fn identified(id: Uuid, policy: Policy) -> Policy {
    Policy { policy_id: Some(Bytes::copy_from_slice(id.as_bytes())), ..policy }
}

pub(super) fn read_summary(members: &mut Reader<'_, '_>) -> Policy {
    Policy {
        name: members.required("name", fields::text),
        created_at: Some(members.required("created_at", time::text).unwrap_or_else(|| time::UNKNOWN.to_owned())),
        updated_at: Some(members.required("updated_at", time::text).unwrap_or_else(|| time::UNKNOWN.to_owned())),
        ..Policy::default()
    }
}

fn check(document: &Document) -> Result<Key, String> {
    let shown = read_row(document, |members| {
        let key = members.required("id", key_text);
        let summary = read_summary(members);
        policy_document::read(summary, members);
        key
    });
    fields::checked(shown)
}

#[cfg(test)]
mod tests;
