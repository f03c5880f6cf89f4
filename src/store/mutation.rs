//! Writes as data: what shall become of one row, decided when its turn comes.
//!
//! A mutation describes both cases, row missing and row present, so that whoever executes it (the embedded store, a
//! database behind a query language) can do so in one atomic step without calling back.

use serde_json::{Map, Value};

use crate::change::{Cause, Document, Key, Table};
use crate::json;

/// What shall become of one row.
#[derive(Clone, Debug)]
pub struct Mutation {
    /// The table of the row.
    pub table: Table,
    /// The row.
    pub key: Key,
    /// What to do when there is no such row.
    pub if_missing: IfMissing,
    /// What to do when there is one.
    pub if_present: IfPresent,
    /// Why; it goes into the log.
    pub cause: Cause,
}

/// What to do when the row is missing.
#[derive(Clone, Debug)]
pub enum IfMissing {
    /// Nothing, and call that success.
    Ignore,
    /// Write this row.
    Insert(Document),
    /// Fail with this text for the client.
    Refuse(String),
}

/// What to do when the row is there.
#[derive(Clone, Debug)]
pub enum IfPresent {
    /// Write the members of this document over it: objects are merged deeply, everything else is replaced.
    Merge(Document),
    /// Write this row instead.
    Replace(Document),
    /// Delete it.
    Delete,
    /// Fail with this text for the client.
    Refuse(String),
    /// Do the other, if the guard lets it.
    When(Guard, Box<IfPresent>),
}

/// What a row has to be like for a write to be done.
#[derive(Clone, Debug)]
pub struct Guard {
    /// The text member that is looked at.
    pub member: &'static str,
    /// It has to be one of these.
    pub values: &'static [&'static str],
    /// The text for the client where it is not.
    pub refusal: String,
}

impl IfPresent {
    /// The bytes of the document that it would write.
    fn document_size(&self) -> usize {
        match self {
            Self::Merge(document) | Self::Replace(document) => document.as_bytes().len(),
            Self::Delete | Self::Refuse(_) => 0,
            Self::When(_, then) => then.document_size(),
        }
    }

    /// What a row becomes that is `current`; `Err` carries the text for the client.
    fn apply(&self, current: &Document) -> Result<Option<Document>, String> {
        match self {
            Self::Merge(patch) => Ok(Some(merged(current, patch))),
            Self::Replace(document) => Ok(Some(document.clone())),
            Self::Delete => Ok(None),
            Self::Refuse(text) => Err(text.clone()),
            Self::When(guard, then) if guard.allows(current) => then.apply(current),
            Self::When(guard, _) => Err(guard.refusal.clone()),
        }
    }
}

impl Guard {
    fn allows(&self, current: &Document) -> bool {
        let members = current.members().unwrap_or_default();
        let value = members.get(self.member).and_then(Value::as_str);
        value.is_some_and(|value| self.values.contains(&value))
    }
}

impl Mutation {
    /// Deletes the row if it is there.
    pub fn delete(table: Table, key: Key) -> Self {
        Self { table, key, if_missing: IfMissing::Ignore, if_present: IfPresent::Delete, cause: Cause::Write }
    }

    /// Makes the row what `document` says, whatever was there.
    pub fn put(table: Table, key: Key, document: Document) -> Self {
        Self {
            table,
            key,
            if_missing: IfMissing::Insert(document.clone()),
            if_present: IfPresent::Replace(document),
            cause: Cause::Write,
        }
    }

    /// Writes `patch` over a row that must be there; `missing` is the text for the client when it is not.
    pub fn update(table: Table, key: Key, patch: Document, missing: String) -> Self {
        Self {
            table,
            key,
            if_missing: IfMissing::Refuse(missing),
            if_present: IfPresent::Merge(patch),
            cause: Cause::Write,
        }
    }

    /// The bytes it holds in memory, by which the write queue is bounded.
    pub fn size(&self) -> usize {
        self.key.as_bytes().len() + self.row_size() + std::mem::size_of::<Self>()
    }

    /// The bytes of the larger row that it would write.
    pub fn row_size(&self) -> usize {
        let missing = match &self.if_missing {
            IfMissing::Insert(document) => document.as_bytes().len(),
            IfMissing::Ignore | IfMissing::Refuse(_) => 0,
        };
        // Mostly they are the same document, shared.
        missing.max(self.if_present.document_size())
    }

    /// What the row becomes, given what it is; `Err` carries the text for the client.
    pub(super) fn apply(&self, current: Option<&Document>) -> Result<Option<Document>, String> {
        let Some(current) = current else {
            return match &self.if_missing {
                IfMissing::Ignore => Ok(None),
                IfMissing::Insert(document) => Ok(Some(document.clone())),
                IfMissing::Refuse(text) => Err(text.clone()),
            };
        };
        self.if_present.apply(current)
    }
}

/// What a mutation did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The row is new.
    Added,
    /// The row has another content.
    Updated,
    /// The row is gone.
    Deleted,
    /// The row is as it was; there is no change in the log.
    Unchanged,
}

fn merged(current: &Document, patch: &Document) -> Document {
    if let Some(text) = json::merged(current.as_bytes(), patch.as_bytes()) {
        return Document::from_stored(text);
    }
    let mut object = current.members().unwrap_or_default();
    merge_into(&mut object, patch.members().unwrap_or_default());
    Document::from_object(object)
}

fn merge_into(target: &mut Map<String, Value>, patch: Map<String, Value>) {
    for (name, value) in patch {
        match (target.get_mut(&name), value) {
            (Some(Value::Object(inner)), Value::Object(patch)) if !is_pseudo_type(inner) && !is_pseudo_type(&patch) => {
                merge_into(inner, patch);
            }
            (_, value) => {
                target.insert(name, value);
            }
        }
    }
}

/// RethinkDB writes times and binary data as objects that are one value, never to be merged member by member.
fn is_pseudo_type(object: &Map<String, Value>) -> bool {
    object.contains_key("$reql_type$")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(text: &str) -> Document {
        Document::parse(text.as_bytes()).expect("a valid document")
    }

    #[test]
    fn objects_merge_deeply_lists_and_pseudo_types_are_replaced() {
        let current = document(
            r#"{"id":"p","limits":{"max_cost":1,"max_items":2},"tags":[1,2],"at":{"$reql_type$":"TIME","epoch_time":1,"timezone":"+00:00"}}"#,
        );
        let patch = document(
            r#"{"limits":{"max_cost":null},"tags":[3],"at":{"$reql_type$":"TIME","epoch_time":2},"robots":{"usage":"OBEY"}}"#,
        );
        assert_eq!(
            merged(&current, &patch),
            document(
                r#"{"id":"p","limits":{"max_cost":null,"max_items":2},"tags":[3],"at":{"$reql_type$":"TIME","epoch_time":2},"robots":{"usage":"OBEY"}}"#
            )
        );
    }

    /// An object of some of a few names, which are often in both.
    fn any_object(rng: &mut fastrand::Rng, depth: usize) -> Value {
        let names = ["", "$reql_type$", "a", "a b", "b", "b\"c", "é", "z"];
        let names = names.into_iter().filter(|_| rng.u8(0..4) == 0).collect::<Vec<_>>();
        Value::Object(names.into_iter().map(|name| (name.to_owned(), any_value(rng, depth))).collect())
    }

    fn any_value(rng: &mut fastrand::Rng, depth: usize) -> Value {
        match rng.u8(0..if depth > 0 { 12 } else { 5 }) {
            0 => Value::Null,
            1 => Value::from(rng.bool()),
            2 => Value::from(rng.i64(-3..3)),
            3 => Value::from(rng.f64()),
            4 => Value::from(["", "}", "\\", "\"", "TIME", "\n", "é😀"][rng.usize(0..7)]),
            5 => (0..rng.usize(0..3)).map(|_| any_value(rng, depth - 1)).collect(),
            _ => any_object(rng, depth - 1),
        }
    }

    #[test]
    fn texts_are_merged_to_what_values_are() {
        let mut rng = fastrand::Rng::with_seed(8);
        let mut as_text = 0;
        for _ in 0..20_000 {
            let [current, patch] =
                [(); 2].map(|()| Document::parse(any_object(&mut rng, 3).to_string().as_bytes()).expect("an object"));
            let mut expected = current.members().expect("an object");
            merge_into(&mut expected, patch.members().expect("an object"));
            assert!(merged(&current, &patch) == Document::from_object(expected));
            as_text += usize::from(json::merged(current.as_bytes(), patch.as_bytes()).is_some());
        }
        assert!((1_000..19_000).contains(&as_text), "{as_text} of them as text");
    }

    #[test]
    fn what_is_not_in_order_is_merged_as_values() {
        let patch = document(r#"{"a":1}"#);
        for (current, expected) in [
            (r#"{"b":2,"a":0}"#, r#"{"a":1,"b":2}"#),
            (r#"{"\u0061":0,"b":2}"#, r#"{"a":1,"b":2}"#),
            (r#"{"a":0,"a":2}"#, r#"{"a":1}"#),
            (r#"{"b":2"#, r#"{"a":1}"#),
            ("[1]", r#"{"a":1}"#),
            ("{}", r#"{"a":1}"#),
        ] {
            let current = Document::from_stored(current.as_bytes().to_vec());
            assert_eq!(merged(&current, &patch), document(expected));
        }
    }
}
