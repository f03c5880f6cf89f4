//! Rate limits: how long the crawler waits between two requests to a domain, or to any.

use blake2::digest::consts::U16;
use blake2::{Blake2b, Digest};
use bytes::Bytes;
use serde_json::{Map, Value};

use super::fields::{Kind, Reader, RowProblem, Shown, checked_key, read_name, read_row, stored_number};
use super::plan::{read_list, write};
use super::{CatalogTable, Plan, fields};
use crate::change::{Cause, Document, Key, Row, Table};
use crate::json;
use crate::proto::request::Command;
use crate::proto::{RateLimit, RateLimitEvent, RequestListRateLimits, RequestSetRateLimit};
use crate::proto::{ResponseListRateLimits, response};
use crate::store::{IfMissing, IfPresent, Index, Mutation, Order};
use crate::view::{KeyRule, key_token};

pub(super) const TABLE: CatalogTable = CatalogTable {
    name: "rate_limit",
    primary_key: "token",
    indexes: &[Index { name: "name", members: &["name"] }],
    keys: KeyRule::Token,
    secrets: &[],
    omitted: &[],
    subscribes: |command| match command {
        Command::SubscribeRateLimitList(request) => Some(request.options.clone()),
        _ => None,
    },
    event_number: 108,
    name_event,
    row_message: |key, document| fields::message(show(key, document)),
    check,
};

fn table() -> Table {
    TABLE.table()
}

/// What stands for a domain: the key of its limit.
type Token = [u8; 16];

/// Stands for all domains together.
const GLOBAL: Token = [0; 16];

/// More than any domain has.
const DOMAIN_BYTES_MAX: usize = 253;

/// Before the domain, in the name of its limit.
const PREFIX: &str = "domain:";

pub(super) fn list(request: &RequestListRateLimits) -> Result<Plan, String> {
    let body = |rate_limits, total| response::Body::ListRateLimits(ResponseListRateLimits { rate_limits, total });
    read_list(table(), Order::Member("name"), request.page, show_row, body)
}

/// Writes the limit of a domain, or the global one; without a delay, the limit of a domain is deleted.
pub(super) fn set(request: &RequestSetRateLimit) -> Result<Plan, String> {
    let domain = request.domain.as_deref();
    if let Some(domain) = domain {
        check_domain(domain)?;
    }
    let key = Key::binary(&domain.map_or(GLOBAL, token));
    let Some(delay) = request.delay else {
        return match domain {
            Some(_) => Ok(write(Mutation::delete(table(), key), None)),
            None => Err("Cannot delete the global rate limit.".to_owned()),
        };
    };
    let delay = Some(delay).filter(|delay| *delay >= 0.0).and_then(|delay| stored_number(delay.into()));
    let delay = delay.ok_or("Invalid delay: must be a number of seconds ≥0.")?;
    let mut members = Map::new();
    let name = domain.map_or_else(|| "Global Rate Limit".to_owned(), |domain| format!("{PREFIX}{domain}"));
    members.insert("name".to_owned(), name.into());
    members.insert("delay".to_owned(), delay);
    let patch = Document::from_object(members.clone());
    members.insert("token".to_owned(), json::binary(key.as_binary().unwrap_or_default()));
    let mutation = Mutation {
        table: table(),
        key,
        if_missing: IfMissing::Insert(Document::from_object(members)),
        if_present: IfPresent::Merge(patch),
        cause: Cause::Write,
    };
    Ok(write(mutation, None))
}

fn check_domain(domain: &str) -> Result<(), String> {
    let is_domain = (1..=DOMAIN_BYTES_MAX).contains(&domain.len()) && domain.is_ascii() && !domain.contains('\0');
    is_domain.then_some(()).ok_or_else(|| "Invalid domain: must be 1 to 253 ASCII characters, without NUL".to_owned())
}

/// What the crawler computes of a domain, too.
fn token(domain: &str) -> Token {
    Blake2b::<U16>::digest(domain).into()
}

fn name_event(key: &Key, document: &Document) -> Shown<Bytes> {
    let event = |name| {
        let token = key_token(key).ok().map(|token| Bytes::copy_from_slice(&token));
        RateLimitEvent { token, name, ..Default::default() }
    };
    fields::message(read_name(document, "name").map(|shown| shown.map(event)))
}

fn show(key: &Key, document: &Document) -> Result<Shown<RateLimit>, RowProblem> {
    let token = key_token(key).map_err(|what| RowProblem::new(format!("the key {what}")))?;
    let token = Some(Bytes::copy_from_slice(&token));
    read_row(document, |members| RateLimit { token, ..read(members) })
}

fn show_row(row: &Row) -> Result<Shown<RateLimit>, RowProblem> {
    show(&row.key, &row.document)
}

fn read(members: &mut Reader<'_, '_>) -> RateLimit {
    let name = members.required("name", fields::text);
    let domain = name.as_deref().and_then(|name| name.strip_prefix(PREFIX)).map(str::to_owned);
    RateLimit { name, delay: members.required("delay", seconds), token: None, domain }
}

/// A number that fits into a message.
fn seconds(value: &Value) -> Kind<f32> {
    let seconds = fields::finite(value)? as f32;
    if seconds.is_finite() { Ok(seconds) } else { Err("must be a number of 32 bits") }
}

fn check(document: &Document) -> Result<Key, String> {
    let shown = read_row(document, |members| {
        let key = members.required("token", |value| {
            let key = Key::of_value(value).filter(|key| key_token(key).is_ok());
            key.ok_or("must be binary, of 16 bytes")
        });
        read(members);
        key
    });
    checked_key(shown)
}

#[cfg(test)]
mod tests;
