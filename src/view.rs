//! What a subscription sees of a table: which rows, and what of them.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::change::{Change, ChangeKind, Document, Key, Table};
use crate::matcher::Filter;
use crate::planted::PlantedBug;
use crate::row_problems::RowProblems;

/// Which keys a form of events can name; rows with others are not in its views.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyRule {
    /// All.
    Any,
    /// Text.
    Text,
    /// A UUID as text, in lower case and with hyphens.
    Uuid,
    /// 16 bytes.
    Token,
}

impl KeyRule {
    /// How many rules there are.
    pub const COUNT: usize = 4;

    /// Whether a row with `key` can be named.
    pub fn allows(self, key: &Key) -> bool {
        self.problem(key).is_none()
    }

    /// Why a row with `key` cannot be named, if it cannot. It goes after "the key".
    fn problem(self, key: &Key) -> Option<&'static str> {
        match self {
            Self::Any => None,
            Self::Text => key.as_text().is_none().then_some("is not text"),
            Self::Uuid => key_id(key).err(),
            Self::Token => key_token(key).err(),
        }
    }

    /// Whether a row of `table` with `key` can be named; `problems` learns of one that cannot.
    pub(crate) fn names(self, table: &Table, key: &Key, problems: &RowProblems) -> bool {
        let problem = self.problem(key);
        if let Some(problem) = problem {
            problems.report(table, key, &format_args!("the key {problem}"));
        }
        problem.is_none()
    }

    fn tag(self) -> u8 {
        match self {
            Self::Any => 0,
            Self::Text => 1,
            Self::Uuid => 2,
            Self::Token => 3,
        }
    }
}

/// The id that `key` stands for. The error goes after "the key".
pub(crate) fn key_id(key: &Key) -> Result<Uuid, &'static str> {
    key.as_text().map_or(Err("is not a UUID"), canonical_id)
}

/// The token that `key` is. The error goes after "the key".
pub(crate) fn key_token(key: &Key) -> Result<[u8; 16], &'static str> {
    key.as_binary().and_then(|bytes| bytes.try_into().ok()).ok_or("is not a token of 16 bytes")
}

/// The id written as `text`, in lower case and with hyphens: two spellings would be two rows for one id. The error goes after
/// the name of what holds it.
pub(crate) fn canonical_id(text: &str) -> Result<Uuid, &'static str> {
    let id = Uuid::parse_str(text).map_err(|_| "is not a UUID")?;
    let mut buffer = Uuid::encode_buffer();
    if *id.hyphenated().encode_lower(&mut buffer) != *text {
        return Err("is a UUID, but not in lower case with hyphens");
    }
    Ok(id)
}

/// Something in the rows of a table that no subscriber may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Secret {
    /// The names of members from the outermost; `*` is every element of a list.
    pub path: &'static [&'static str],
    /// What of it.
    pub kind: SecretKind,
}

/// What of a value is secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SecretKind {
    /// All of it: the member is left out.
    Whole,
    /// User and password in a URL.
    UrlCredentials,
}

/// `document` without `secrets`.
pub fn redacted(document: &Document, secrets: &[Secret]) -> Document {
    if !secrets.iter().any(|secret| may_have(document, secret)) {
        return document.clone();
    }
    let Some(members) = document.members() else {
        // Nobody can tell what such bytes hold.
        return Document::from_object(serde_json::Map::new());
    };
    let mut value = Value::Object(members);
    for secret in secrets {
        redact(&mut value, secret.path, secret.kind);
    }
    match value {
        Value::Object(members) => Document::from_object(members),
        _ => panic!("redaction replaced a whole document"),
    }
}

/// Whether one of `secrets` may be in any of the documents that lie one behind the other in `bytes`: one look at all of them.
pub(crate) fn may_have_any(bytes: &[u8], secrets: &[Secret]) -> bool {
    let is_there = |name: &&str| memchr::memmem::find(bytes, name.as_bytes()).is_some();
    secrets.iter().filter_map(|secret| secret.path.last()).any(is_there)
}

/// Whether the name of the innermost member stands in the text at all. Most rows have no secrets, and need not be read.
fn may_have(document: &Document, secret: &Secret) -> bool {
    // Names in canonical JSON stand as they are.
    secret.path.last().is_some_and(|name| memchr::memmem::find(document.as_bytes(), name.as_bytes()).is_some())
}

fn redact(value: &mut Value, path: &[&str], kind: SecretKind) {
    let Some((name, rest)) = path.split_first() else {
        match (kind, value) {
            (SecretKind::UrlCredentials, Value::String(url)) => *url = without_credentials(url),
            // No shape that a row should have: nobody can tell what it holds.
            (SecretKind::UrlCredentials, value @ (Value::Array(_) | Value::Object(_))) => *value = Value::Null,
            _ => {}
        }
        return;
    };
    match value {
        Value::Array(elements) if *name == "*" => elements.iter_mut().for_each(|element| redact(element, rest, kind)),
        // A list where none is expected may hold the same.
        Value::Array(elements) => elements.iter_mut().for_each(|element| redact(element, path, kind)),
        Value::Object(members) if *name == "*" => {
            members.values_mut().for_each(|member| redact(member, rest, kind));
            // One element where a list is expected.
            redact(value, rest, kind);
        }
        Value::Object(members) if rest.is_empty() && kind == SecretKind::Whole => drop(members.remove(*name)),
        Value::Object(members) => {
            if let Some(member) = members.get_mut(*name) {
                redact(member, rest, kind);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// `url` without what stands before the last `@` in it, but with its scheme. Where the authority ends does not matter: a
/// password may have signs that end one.
fn without_credentials(url: &str) -> String {
    let Some((credentials, address)) = url.rsplit_once('@') else { return url.to_owned() };
    let scheme = credentials.find("://").map_or("", |at| &credentials[..at + 3]);
    format!("{scheme}{address}")
}

/// Which rows of which table a subscription sees. Its documents are redacted before a view looks at them: whoever could
/// filter by a password could guess it.
#[derive(Clone)]
pub struct View {
    /// The table.
    pub table: Table,
    /// What nobody sees of its rows.
    pub secrets: &'static [Secret],
    /// Which keys can be named.
    pub keys: KeyRule,
    /// Which rows are wanted; all without one.
    pub filter: Option<Arc<Filter>>,
}

// There is one for each filter.
const _: () = assert!(size_of::<View>() <= 48);

impl View {
    /// Whether a row with `key` can be named; `problems` learns of one that cannot.
    pub fn names(&self, key: &Key, problems: &RowProblems) -> bool {
        self.keys.names(&self.table, key, problems)
    }

    /// Whether every row of the table is in the view.
    pub(crate) fn has_all_rows(&self) -> bool {
        self.keys == KeyRule::Any && self.filter.is_none()
    }

    /// Whether the row is in the view. `document` is redacted.
    pub fn contains(&self, key: &Key, document: &Document, problems: &RowProblems) -> bool {
        self.names(key, problems) && self.filter.as_ref().is_none_or(|filter| filter.matches(document))
    }

    /// What `change` does in the view; `None` for nothing. Its documents are redacted.
    pub fn kind(&self, change: &Change, problems: &RowProblems) -> Option<ChangeKind> {
        if !self.names(&change.key, problems) {
            return None;
        }
        let Some(filter) = &self.filter else {
            return kind_in_view(change.old.is_some(), change.new.is_some());
        };
        let holds = |document: &Option<Document>| document.as_ref().is_some_and(|document| filter.matches(document));
        kind_in_view(holds(&change.old), holds(&change.new))
    }

    /// Names the view and who sees it in tokens: a token is worth something only for the same.
    pub fn scope(&self, principal: &str) -> Scope {
        let mut hash = Sha256::new();
        let filter = self.filter.as_ref().map_or("", |filter| filter.canonical());
        for part in [self.table.path(), principal, filter] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.update([self.keys.tag()]);
        let mut scope = [0; 16];
        scope.copy_from_slice(&hash.finalize()[..16]);
        Scope(scope)
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let filter = self.filter.as_ref().map_or("", |filter| filter.canonical());
        write!(f, "View({:?} {:?} {filter:?})", self.table, self.keys)
    }
}

/// What a change does in a view that contained the row before it or not, and contains it after it or not.
pub fn kind_in_view(before: bool, after: bool) -> Option<ChangeKind> {
    match (before, after) {
        (false, true) => Some(ChangeKind::Added),
        (true, true) => Some(ChangeKind::Updated),
        (true, false) if PlantedBug::LeavingRowIsForgotten.is_planted() => None,
        (true, false) if PlantedBug::DeletionLooksLikeUpdate.is_planted() => Some(ChangeKind::Updated),
        (true, false) => Some(ChangeKind::Deleted),
        (false, false) => None,
    }
}

/// A view and who sees it, in 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope(pub [u8; 16]);

#[cfg(test)]
mod tests {
    use super::*;

    const SECRETS: &[Secret] = &[
        Secret { path: &["users", "*", "password"], kind: SecretKind::Whole },
        Secret { path: &["proxy", "url"], kind: SecretKind::UrlCredentials },
    ];

    fn shown(text: &str) -> String {
        let document = Document::parse(text.as_bytes()).expect("an object");
        String::from_utf8(redacted(&document, SECRETS).as_bytes().to_vec()).expect("JSON is UTF-8")
    }

    #[test]
    fn secrets_go_wherever_they_are_and_nothing_else() {
        let row = r#"{"password":1,"users":[{"name":"a","password":"p"},{"name":"b"},7]}"#;
        assert_eq!(shown(row), r#"{"password":1,"users":[{"name":"a"},{"name":"b"},7]}"#);
        // Shapes that no row should have.
        assert_eq!(shown(r#"{"users":{"x":{"password":"p"}}}"#), r#"{"users":{"x":{}}}"#);
        assert_eq!(shown(r#"{"users":[[{"password":"p"}]]}"#), r#"{"users":[[{}]]}"#);
        assert_eq!(shown(r#"{"users":{"password":"p"}}"#), r#"{"users":{}}"#);
        assert_eq!(shown(r#"{"users":"none"}"#), r#"{"users":"none"}"#);
        assert_eq!(shown(r#"{"proxy":{"url":["u:p@h"]}}"#), r#"{"proxy":{"url":null}}"#);
    }

    #[test]
    fn urls_lose_their_credentials() {
        for (url, expected) in [
            ("socks5://user:p%40ss@host:1080/a", "socks5://host:1080/a"),
            ("socks5://user:12#3@host:1080", "socks5://host:1080"),
            ("http://user:8/secret@host", "http://host"),
            ("http:/user:secret@host", "host"),
            ("http://user@name:secret@host", "http://host"),
            ("user:secret@host:80", "host:80"),
            // Nobody can tell this from a password.
            ("http://host/?to=a@b", "http://b"),
            ("", ""),
        ] {
            assert_eq!(without_credentials(url), expected, "{url}");
        }
    }

    #[test]
    fn bytes_that_are_no_object_show_nothing() {
        let spoilt = Document::from_stored(b"{\"password\": hunter2".to_vec());
        assert_eq!(redacted(&spoilt, SECRETS).as_bytes(), b"{}");
    }

    #[test]
    fn only_one_spelling_of_an_id_can_be_named() {
        let id = "0123abcd-1234-5678-1234-567812345678";
        assert!(KeyRule::Uuid.allows(&Key::text(id)));
        assert!(!KeyRule::Uuid.allows(&Key::text(&id.to_uppercase())));
        assert!(!KeyRule::Uuid.allows(&Key::text(&id.replace('-', ""))));
        assert!(!KeyRule::Uuid.allows(&Key::number(1.0)));
        assert!(!KeyRule::Text.allows(&Key::number(1.0)));
        assert!(KeyRule::Any.allows(&Key::number(1.0)));
    }

    #[test]
    fn only_sixteen_bytes_are_a_token() {
        let token = Key::binary(b"0123456789abcdef");
        assert!(KeyRule::Token.allows(&token));
        assert_eq!(key_token(&token), Ok(*b"0123456789abcdef"));
        // A damaged key reads as the bytes that it has.
        let damaged = Key::from_stored(b"30123456789\xff\xff\xff\xff\xff".to_vec());
        assert_eq!(damaged.as_bytes().len(), 16);
        for key in
            [Key::binary(&[1; 15]), Key::binary(&[1; 17]), Key::text("0123456789abcdef"), Key::number(1.0), damaged]
        {
            assert!(!KeyRule::Token.allows(&key), "{key}");
            assert_eq!(KeyRule::Token.problem(&key), Some("is not a token of 16 bytes"));
        }
        assert_eq!(KeyRule::Text.problem(&token), Some("is not text"));
        assert_eq!(KeyRule::Uuid.problem(&token), Some("is not a UUID"));
    }

    #[test]
    fn each_rule_has_a_place_and_a_name_of_its_own() {
        let rules = [KeyRule::Any, KeyRule::Text, KeyRule::Uuid, KeyRule::Token];
        assert_eq!(rules.len(), KeyRule::COUNT);
        assert!(rules.windows(2).all(|pair| (pair[0] as usize) < pair[1] as usize && pair[0].tag() < pair[1].tag()));
        assert!(rules.iter().all(|rule| (*rule as usize) < KeyRule::COUNT));
    }
}
