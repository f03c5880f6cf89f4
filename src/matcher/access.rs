//! How a filter is found by what a document holds, without asking it: the part of it that must be true and can be
//! looked up.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::expression::{Comparison, Expression, Literal, Path, TextTest};
use super::scalar::Scalar;

/// One way in which a document leads to a filter.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Entry<'e> {
    /// The member has this value.
    Equal(&'e Path, Scalar<'e>),
    /// The list has this element, or the object this member.
    Holds(&'e Path, Scalar<'e>),
    /// The rank of the number is between these, both included.
    Numbers(&'e Path, u64, u64),
    /// The text is between these, both included.
    Texts(&'e Path, Cow<'e, [u8]>, Cow<'e, [u8]>),
}

/// All ways that lead to a filter: it is true only of documents that one of them leads from.
#[derive(Clone, Debug, Default)]
pub(super) struct Access<'e> {
    pub(super) entries: Vec<Entry<'e>>,
    /// How many filters a change visits for it, about.
    pub(super) weight: u64,
}

/// More ways than this are not taken: the filter is asked about every change.
const ENTRIES_MAX: usize = 1024;

/// After every text: no UTF-8 text has this byte.
pub(super) const ABOVE_TEXTS: &[u8] = &[0xff];

/// The lightest access to `expression`, by what `weigh` says of entries; `None` where no part of it can be looked up.
pub(super) fn access<'e>(expression: &'e Expression, weigh: &dyn Fn(&Entry<'e>) -> u64) -> Option<Access<'e>> {
    part(expression, false, weigh).filter(|access| access.entries.len() <= ENTRIES_MAX)
}

fn part<'e>(e: &'e Expression, is_negated: bool, weigh: &dyn Fn(&Entry<'e>) -> u64) -> Option<Access<'e>> {
    let one = |entry| Some(Access::of(vec![entry], weigh));
    match (e, is_negated) {
        (Expression::Not(inner), _) => part(inner, !is_negated, weigh),
        (Expression::And(parts), false) | (Expression::Or(parts), true) => all(parts, is_negated, weigh),
        (Expression::Or(parts), false) | (Expression::And(parts), true) => any(parts, is_negated, weigh),
        // What is never true needs no way to it.
        (Expression::Always(value), _) => (*value == is_negated).then(Access::default),
        (Expression::Flag(path), _) => one(Entry::Equal(path, Scalar::Bool(!is_negated))),
        (Expression::In(path, literals), false) => {
            let entries = literals.iter().map(|literal| Entry::Equal(path, Scalar::of(literal)));
            Some(Access::of(entries.collect(), weigh))
        }
        (Expression::Holds(path, literal), false) => one(Entry::Holds(path, Scalar::of(literal))),
        (Expression::Compare(path, comparison, literal), _) => {
            let comparison = if is_negated { comparison.opposite() } else { *comparison };
            match comparison {
                Comparison::Equal => one(Entry::Equal(path, Scalar::of(literal))),
                Comparison::NotEqual => None,
                _ => Some(Range::of(e, is_negated)?.access(path, weigh)),
            }
        }
        (Expression::Text(path, ..), _) => Some(Range::of(e, is_negated)?.access(path, weigh)),
        (Expression::Has(_), _) | (Expression::In(..) | Expression::Holds(..), true) => None,
    }
}

/// One part is enough to look up: all of them must be true.
fn all<'e>(parts: &'e [Expression], is_negated: bool, weigh: &dyn Fn(&Entry<'e>) -> u64) -> Option<Access<'e>> {
    let mut ranges: BTreeMap<(&Path, bool), Range<'e>> = BTreeMap::new();
    let mut best: Option<Access<'e>> = None;
    let mut consider = |access: Access<'e>| {
        if best.as_ref().is_none_or(|best| access.weight < best.weight) {
            best = Some(access);
        }
    };
    for expression in parts {
        let range = Range::of(expression, is_negated).zip(path_of(expression));
        let Some((range, path)) = range else {
            if let Some(access) = part(expression, is_negated, weigh) {
                consider(access);
            }
            continue;
        };
        let is_text = matches!(range, Range::Texts(..));
        let known = ranges.entry((path, is_text)).or_insert_with(|| range.clone());
        known.narrow(range);
    }
    for ((path, _), range) in ranges {
        consider(range.access(path, weigh));
    }
    best
}

/// Every part needs its own way: any of them may be the true one.
fn any<'e>(parts: &'e [Expression], is_negated: bool, weigh: &dyn Fn(&Entry<'e>) -> u64) -> Option<Access<'e>> {
    let mut sum = Access::default();
    for expression in parts {
        let access = part(expression, is_negated, weigh)?;
        sum.weight += access.weight;
        sum.entries.extend(access.entries);
    }
    Some(sum)
}

/// A value that must be there for `expression` to be true, of those that `is_wanted` says yes to.
pub(super) fn needed_value<'e>(
    expression: &'e Expression,
    is_wanted: &dyn Fn(&'e Path, Scalar<'e>) -> bool,
) -> Option<(&'e Path, Scalar<'e>)> {
    let (path, scalar) = match expression {
        Expression::And(parts) => return parts.iter().find_map(|part| needed_value(part, is_wanted)),
        Expression::Compare(path, Comparison::Equal, literal) => (path, Scalar::of(literal)),
        Expression::Flag(path) => (path, Scalar::Bool(true)),
        _ => return None,
    };
    is_wanted(path, scalar).then_some((path, scalar))
}

fn path_of(expression: &Expression) -> Option<&Path> {
    match expression {
        Expression::Compare(path, ..) | Expression::Text(path, ..) => Some(path),
        Expression::Not(inner) => path_of(inner),
        _ => None,
    }
}

impl<'e> Access<'e> {
    fn of(entries: Vec<Entry<'e>>, weigh: &dyn Fn(&Entry<'e>) -> u64) -> Self {
        let weight = entries.iter().map(weigh).sum();
        Self { entries, weight }
    }
}

/// Where a value must be, both ends included. It may be wider than the filter says: what is found is asked anyway.
#[derive(Clone, Debug)]
enum Range<'e> {
    Numbers(u64, u64),
    Texts(Cow<'e, [u8]>, Cow<'e, [u8]>),
}

impl<'e> Range<'e> {
    /// The range that one comparison says; `None` where it says none.
    fn of(expression: &'e Expression, is_negated: bool) -> Option<Self> {
        match expression {
            Expression::Not(inner) => Self::of(inner, !is_negated),
            Expression::Compare(_, comparison, literal) => {
                let comparison = if is_negated { comparison.opposite() } else { *comparison };
                let is_upper = match comparison {
                    Comparison::Equal | Comparison::NotEqual => return None,
                    Comparison::Less | Comparison::AtMost => true,
                    Comparison::Greater | Comparison::AtLeast => false,
                };
                match literal {
                    // There are two truth values: not worth a lookup.
                    Literal::Bool(_) => None,
                    Literal::Text(text) if is_upper => Some(Self::Texts(Cow::default(), text.as_bytes().into())),
                    Literal::Text(text) => Some(Self::Texts(text.as_bytes().into(), ABOVE_TEXTS.into())),
                    Literal::Int(_) | Literal::Double(_) => {
                        let rank = Scalar::of(literal).rank()?;
                        Some(if is_upper { Self::Numbers(0, rank) } else { Self::Numbers(rank, u64::MAX) })
                    }
                }
            }
            Expression::Text(_, TextTest::StartsWith, prefix) if !is_negated => {
                let end = [prefix.as_bytes(), ABOVE_TEXTS].concat();
                Some(Self::Texts(prefix.as_bytes().into(), end.into()))
            }
            _ => None,
        }
    }

    fn narrow(&mut self, other: Self) {
        match (self, other) {
            (Self::Numbers(low, high), Self::Numbers(other_low, other_high)) => {
                *low = other_low.max(*low);
                *high = other_high.min(*high);
            }
            (Self::Texts(low, high), Self::Texts(other_low, other_high)) => {
                if other_low > *low {
                    *low = other_low;
                }
                if other_high < *high {
                    *high = other_high;
                }
            }
            (Self::Numbers(..), Self::Texts(..)) | (Self::Texts(..), Self::Numbers(..)) => {
                panic!("a range of numbers is not narrowed by one of texts")
            }
        }
    }

    /// The way into it; none where it is empty.
    fn access(self, path: &'e Path, weigh: &dyn Fn(&Entry<'e>) -> u64) -> Access<'e> {
        let entry = match self {
            Self::Numbers(low, high) if low <= high => Entry::Numbers(path, low, high),
            Self::Texts(low, high) if low <= high => Entry::Texts(path, low, high),
            Self::Numbers(..) | Self::Texts(..) => return Access::default(),
        };
        Access::of(vec![entry], weigh)
    }
}
