//! How a filter is carried out, in words.

use std::collections::BTreeMap;

use super::Matcher;
use crate::matcher::access::{Entry, access};
use crate::matcher::expression::{Expression, Path};

/// How changes find a filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Whether a change must hold a certain value to come to the filter at all. If not, it is asked about every change.
    pub is_indexed: bool,
    /// The plan for people to read, line by line.
    pub lines: Vec<String>,
}

impl Plan {
    /// The plan of `expression` in a table without other filters.
    pub fn of(expression: &Expression) -> Self {
        Matcher::new(0).describe(expression)
    }
}

impl Matcher {
    /// The plan of `expression` beside the filters that are there.
    pub fn describe(&self, expression: &Expression) -> Plan {
        let Some(access) = access(expression, &|entry| self.weight(entry)) else {
            let lines = vec!["tried on every change: no part of it can be looked up".to_owned()];
            return Plan { is_indexed: false, lines };
        };
        let mut lines = Vec::new();
        let mut ways: BTreeMap<(&Path, &str), usize> = BTreeMap::new();
        for entry in &access.entries {
            let way = match entry {
                Entry::Equal(path, _) => (*path, "hash"),
                Entry::Holds(path, _) => (*path, "hash of the elements"),
                Entry::Numbers(path, ..) => (*path, "range of numbers"),
                Entry::Texts(path, ..) => (*path, "range of texts"),
            };
            *ways.entry(way).or_default() += 1;
        }
        for ((path, way), count) in ways {
            let path = path.0.join(".");
            lines.push(match count {
                1 => format!("looked up by `{path}` ({way})"),
                _ => format!("looked up by `{path}` ({way}, {count} entries)"),
            });
        }
        lines.push(match access.entries.len() {
            0 => "never tried: it is never true".to_owned(),
            _ => "tried on the changes found that way".to_owned(),
        });
        Plan { is_indexed: true, lines }
    }
}
