//! A part of an index: which rows are in it.

use std::ops::Bound;

use serde_json::Value;

use super::term::{self, Term};
use super::values::{compare, type_name};

/// Rows that an index has between two values.
#[derive(Clone, Debug)]
pub(super) struct Range {
    pub(super) by: By,
    pub(super) low: Bound<Value>,
    pub(super) high: Bound<Value>,
}

/// What an index holds of a row.
#[derive(Clone, Debug)]
pub(super) enum By {
    Member(String),
    /// As a list.
    Members(Vec<String>),
}

impl By {
    /// What a function of an index holds, if it is a list of members.
    pub(super) fn of_function(function: &Value) -> Option<Self> {
        let body = Term::of(Term::of(function)?.arguments.get(1)?).filter(|body| body.number == term::MAKE_ARRAY)?;
        let member = |value: &Value| {
            let bracket = Term::of(value).filter(|term| term.number == term::BRACKET)?;
            bracket.arguments.get(1)?.as_str().map(str::to_owned)
        };
        body.arguments.iter().map(member).collect::<Option<_>>().map(Self::Members)
    }

    /// What the index holds of `row`; nothing if that is, or has in it, what no index can hold.
    pub(super) fn key(&self, row: &Value) -> Option<Value> {
        let key = match self {
            Self::Member(name) => row.get(name)?.clone(),
            Self::Members(names) => names.iter().map(|name| row.get(name).cloned()).collect::<Option<Value>>()?,
        };
        is_indexable(&key).then_some(key)
    }
}

fn is_indexable(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().all(is_indexable),
        _ => !["NULL", "OBJECT"].contains(&type_name(value).as_str()),
    }
}

impl Range {
    pub(super) fn has(&self, row: &Value) -> bool {
        let Some(key) = self.by.key(row) else { return false };
        let is_above = match &self.low {
            Bound::Unbounded => true,
            Bound::Included(low) => compare(low, &key).is_le(),
            Bound::Excluded(low) => compare(low, &key).is_lt(),
        };
        let is_below = match &self.high {
            Bound::Unbounded => true,
            Bound::Included(high) => compare(&key, high).is_le(),
            Bound::Excluded(high) => compare(&key, high).is_lt(),
        };
        is_above && is_below
    }
}
