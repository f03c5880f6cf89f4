//! Parts of indexes and conditions on rows, as the database reads them.
//!
//! Whatever a row is, no condition makes a query fail: what cannot be so of it is not so.

use std::ops::Bound;

use serde_json::Value;

use super::reql::Term;
use crate::store::{Condition, Index, RangeStart};

/// The types of what the crawler puts into an index, as the database names them: `in_flight` is true or false.
const INDEXED_TYPES: [&str; 4] = ["STRING", "NUMBER", "PTYPE<TIME>", "BOOL"];

/// The rows of a table whose first members in `index` are `prefix`, from `start` on in the one that follows them.
pub(super) fn part(table: &str, index: &Index, prefix: &[Value], start: &RangeStart) -> Term {
    let place = Place { index, prefix };
    let low = match start {
        _ if place.is_whole() => place.low(),
        RangeStart::First => place.low(),
        RangeStart::At(value) => Bound::Included(place.of(Term::datum(value.clone()), None)),
        RangeStart::After(value) => {
            // Where more members follow, all rows with this very value are passed by.
            let has_more = prefix.len() + 1 < index.members.len();
            Bound::Excluded(place.of(Term::datum(value.clone()), has_more.then(Term::greatest)))
        }
    };
    Term::table(table).between(index.name, low, place.high())
}

/// A place in an index, which has a plain value where it is over one member, and a list where it is over several.
struct Place<'a> {
    index: &'a Index,
    prefix: &'a [Value],
}

impl Place<'_> {
    fn is_whole(&self) -> bool {
        self.prefix.len() >= self.index.members.len()
    }

    fn low(&self) -> Bound<Term> {
        match self.prefix {
            [] => Bound::Unbounded,
            _ if self.is_whole() => Bound::Included(self.whole()),
            _ => Bound::Included(self.of(Term::least(), None)),
        }
    }

    fn high(&self) -> Bound<Term> {
        match self.prefix {
            [] => Bound::Unbounded,
            _ if self.is_whole() => Bound::Included(self.whole()),
            _ => Bound::Included(self.of(Term::greatest(), None)),
        }
    }

    fn whole(&self) -> Term {
        let mut values: Vec<Term> = self.prefix.iter().cloned().map(Term::datum).collect();
        if self.index.members.len() == 1 { values.remove(0) } else { Term::list(values) }
    }

    /// The prefix with `next` behind it, and `last` behind that.
    fn of(&self, next: Term, last: Option<Term>) -> Term {
        if self.index.members.len() == 1 {
            return next;
        }
        let prefix = self.prefix.iter().cloned().map(Term::datum);
        Term::list(prefix.chain([next]).chain(last).collect())
    }
}

/// Whether [`Term::row`] has these members as an index holds them.
pub(super) fn is_indexed(members: &[&str]) -> Term {
    let is_indexed = |member: &&str| Term::member_of_row(member).type_name().is_one_of(&INDEXED_TYPES);
    Term::all(members.iter().map(is_indexed).collect())
}

/// Whether `condition` holds for [`Term::row`].
pub(super) fn holds(condition: &Condition) -> Term {
    let each = |conditions: &[Condition]| conditions.iter().map(holds).collect();
    match condition {
        Condition::Always => Term::datum(true.into()),
        Condition::Contains(member, text) => Term::member_of_row(member).is_list_with(text),
        Condition::IsTrue(member) => Term::member_of_row(member).is(true.into()),
        Condition::Has(member) => Term::row_has(member),
        Condition::Not(other) => holds(other).negated(),
        Condition::All(conditions) => Term::all(each(conditions)),
        Condition::Any(conditions) => Term::any(each(conditions)),
    }
}
