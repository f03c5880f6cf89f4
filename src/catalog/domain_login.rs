//! Domain logins: the accounts that the crawler may use on a site.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::fields::{Kind, Reader, RowProblem, Shown, boolean, checked, message, read_row, text};
use super::plan::{read_list, read_one, write};
use super::{CatalogTable, Plan, ids};
use crate::change::{Cause, Document, Key, Row, Table};
use crate::proto::request::Command;
use crate::proto::{DomainLogin, DomainLoginEvent, DomainLoginUser, ResponseListDomainLogins, response};
use crate::proto::{RequestDeleteDomainLogin, RequestGetDomainLogin, RequestListDomainLogins};
use crate::store::{IfMissing, IfPresent, Mutation, Order};
use crate::view::{KeyRule, Secret, SecretKind};

pub(super) const TABLE: CatalogTable = CatalogTable {
    name: "domain_login",
    primary_key: "domain",
    indexes: &[],
    keys: KeyRule::Text,
    secrets: &[Secret { path: &["users", "*", "password"], kind: SecretKind::Whole }],
    omitted: &[],
    subscribes: |command| match command {
        Command::SubscribeDomainLoginList(request) => Some(request.options.clone()),
        _ => None,
    },
    event_number: 10,
    name_event,
    row_message: |key, document| message(show(key, document, Passwords::Redacted)),
    check,
};

fn table() -> Table {
    TABLE.table()
}

/// More users than any site has for one crawler; an empty one is two bytes in a message and fifty in a row.
const USERS_MAX: usize = 1000;

const DOMAIN_REQUIRED: &str = "domain is required.";

pub(super) fn list(request: &RequestListDomainLogins) -> Result<Plan, String> {
    let body = |logins, total| response::Body::ListDomainLogins(ResponseListDomainLogins { logins, total });
    read_list(table(), Order::Key, request.page, show_whole, body)
}

pub(super) fn get(request: RequestGetDomainLogin) -> Result<Plan, String> {
    let key = Key::text(&request.domain);
    let missing = format!("No domain credentials found for domain={}", request.domain);
    Ok(read_one(table(), key, missing, show_whole, response::Body::DomainLogin))
}

/// Inserts `login`, or writes it over the one of its domain. URLs that are absent stay as they are.
///
/// A message cannot say whether its list of users is absent or empty. A client that changes just a URL sends neither users
/// nor `login_test`, and must not wipe the accounts; one that saves the whole login sends `login_test`, be it empty, and may
/// have removed the last user. So without users the stored ones stay, unless `login_test` is there.
pub(super) fn set(login: &DomainLogin) -> Result<Plan, String> {
    let domain = login.domain.as_deref().filter(|domain| !domain.is_empty()).ok_or(DOMAIN_REQUIRED)?;
    if !ids::is_key(domain) {
        return Err("Invalid domain: must be at most 127 bytes, without NUL".to_owned());
    }
    if login.users.len() > USERS_MAX {
        return Err(format!("A domain login may have at most {USERS_MAX} users."));
    }
    let mut patch = Map::new();
    let mut set = |name: &str, value: Value| drop(patch.insert(name.to_owned(), value));
    if let Some(url) = &login.login_url {
        set("login_url", url.as_str().into());
    }
    if let Some(url) = &login.login_test {
        set("login_test", url.as_str().into());
    }
    if !login.users.is_empty() || login.login_test.is_some() {
        set("users", login.users.iter().map(stored_user).collect());
    }
    let if_missing = match &login.login_url {
        None => IfMissing::Refuse("login_url is required to create a domain login.".to_owned()),
        Some(_) => {
            let mut members = patch.clone();
            members.insert("domain".to_owned(), domain.into());
            members.entry("login_test").or_insert(Value::Null);
            members.entry("users").or_insert(json!([]));
            IfMissing::Insert(Document::from_object(members))
        }
    };
    let if_present = IfPresent::Merge(Document::from_object(patch));
    Ok(write(Mutation { table: table(), key: Key::text(domain), if_missing, if_present, cause: Cause::Write }, None))
}

/// An empty domain is a key like others: a row that has it can be deleted, though none is made here.
pub(super) fn delete(request: &RequestDeleteDomainLogin) -> Result<Plan, String> {
    let domain = request.domain.as_deref().ok_or(DOMAIN_REQUIRED)?;
    Ok(write(Mutation::delete(table(), Key::text(domain)), None))
}

fn stored_user(user: &DomainLoginUser) -> Value {
    json!({"username": user.username(), "password": user.password(), "working": user.working()})
}

fn name_event(key: &Key, _: &Document) -> Shown<Bytes> {
    let event = DomainLoginEvent { domain: domain(key).ok(), ..Default::default() };
    message(Ok(Shown { value: event, problem: None }))
}

/// Whether the document that is read still has passwords.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Passwords {
    Kept,
    Redacted,
}

fn show(key: &Key, document: &Document, passwords: Passwords) -> Result<Shown<DomainLogin>, RowProblem> {
    let domain = domain(key)?;
    read_row(document, |members| DomainLogin { domain: Some(domain), ..read(members, passwords) })
}

fn show_whole(row: &Row) -> Result<Shown<DomainLogin>, RowProblem> {
    show(&row.key, &row.document, Passwords::Kept)
}

fn domain(key: &Key) -> Result<String, RowProblem> {
    key.as_text().map(str::to_owned).ok_or_else(|| RowProblem::new("the key is not text"))
}

fn read(members: &mut Reader<'_, '_>, passwords: Passwords) -> DomainLogin {
    DomainLogin {
        domain: None,
        login_url: members.required("login_url", text),
        login_test: members.nullable("login_test", text),
        users: members.objects("users", |user| DomainLoginUser {
            username: user.required("username", text),
            password: match passwords {
                Passwords::Kept => user.required("password", text),
                Passwords::Redacted => None,
            },
            // Rows that the crawler has not tried yet may lack it.
            working: Some(user.optional("working", boolean).unwrap_or(false)),
        }),
    }
}

fn check(document: &Document) -> Result<Key, String> {
    let shown = read_row(document, |members| {
        let domain = members.required("domain", domain_text);
        read(members, Passwords::Kept);
        domain
    });
    checked(shown)
}

fn domain_text(value: &Value) -> Kind<String> {
    let domain = value.as_str().filter(|domain| !domain.is_empty() && ids::is_key(domain));
    domain.map(str::to_owned).ok_or("must be text of 1 to 127 bytes, without NUL")
}

#[cfg(test)]
mod tests;
