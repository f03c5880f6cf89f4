//! From a change to the filters that match it.

use std::hint::black_box;
use std::sync::Arc;

use super::intervals::Interval;
use super::signature::Signature;
use super::{FilterId, Matcher, Posting, equal_place, holds_place};
use crate::change::Document;
use crate::matcher::fields::{Fields, Row, Value};
use crate::matcher::paths::FieldId;

/// A filter that matches a row as it was, as it is, or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Match {
    /// The filter.
    pub filter: FilterId,
    /// Whether it matches the row before the change.
    pub old: bool,
    /// Whether it matches the row after the change.
    pub new: bool,
}

/// What a lookup needs and the next one uses again, of whichever [`Matcher`].
#[derive(Debug, Default)]
pub struct Scratch {
    old: Fields,
    new: Fields,
    old_keys: Vec<u64>,
    new_keys: Vec<u64>,
    hits: Hits,
}

/// Filters to ask, each once.
#[derive(Debug, Default)]
struct Hits {
    hits: Vec<Hit>,
    old: Signature,
    new: Signature,
    /// For the filters that several ways lead to: the last lookup that came across them.
    stamps: Vec<u32>,
    lookup: u32,
}

/// A filter to ask, and about which rows: where only the old row led to it, the new one cannot match.
#[derive(Clone, Copy, Debug)]
struct Hit {
    filter: u32,
    sides: Sides,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sides {
    old: bool,
    new: bool,
}

const OLD: Sides = Sides { old: true, new: false };
const NEW: Sides = Sides { old: false, new: true };
const BOTH: Sides = Sides { old: true, new: true };

/// The rows of a change, as they were read.
#[derive(Clone, Copy, Debug)]
struct Rows<'a> {
    old: Option<Row<'a>>,
    new: Option<Row<'a>>,
}

impl Matcher {
    /// Every filter that matches `old` or `new`, in the order of their numbers, in `found`, which is cleared first.
    pub fn matches(
        &self,
        old: Option<&Document>,
        new: Option<&Document>,
        scratch: &mut Scratch,
        found: &mut Vec<Match>,
    ) {
        found.clear();
        if self.is_empty() {
            return;
        }
        let Scratch { old: old_fields, new: new_fields, old_keys, new_keys, hits } = scratch;
        let old = old.and_then(|document| old_fields.read(&self.paths, document));
        let new = new.and_then(|document| new_fields.read(&self.paths, document));
        let old_signature = old.as_ref().map(|row| self.sign(row, old_keys)).unwrap_or_default();
        let new_signature = new.as_ref().map(|row| self.sign(row, new_keys)).unwrap_or_default();
        hits.start(old_signature, new_signature);
        for posting in &self.unindexed {
            hits.add(*posting, BOTH);
        }
        if let Some(row) = &old {
            self.look_up(row, old_keys, new.as_ref(), OLD, hits);
        }
        if let Some(row) = &new {
            self.look_up(row, new_keys, old.as_ref(), NEW, hits);
        }
        let rows = Rows { old, new };
        self.ask(&hits.hits, rows, found);
        found.sort_unstable_by_key(|found| found.filter);
    }

    /// The same as [`Matcher::matches`] without the index, by asking every filter: what tests and measurements compare
    /// with.
    pub fn matches_by_asking_all(
        &self,
        old: Option<&Document>,
        new: Option<&Document>,
        scratch: &mut Scratch,
        found: &mut Vec<Match>,
    ) {
        found.clear();
        let Scratch { old: old_fields, new: new_fields, hits, .. } = scratch;
        let old = old.and_then(|document| old_fields.read(&self.paths, document));
        let new = new.and_then(|document| new_fields.read(&self.paths, document));
        hits.start(Signature::default(), Signature::default());
        let live = self.filters.iter().zip(0..).filter(|(filter, _)| filter.users > 0);
        hits.hits.extend(live.map(|(_, filter)| Hit { filter, sides: BOTH }));
        self.ask(&hits.hits, Rows { old, new }, found);
    }

    fn ask(&self, hits: &[Hit], rows: Rows<'_>, found: &mut Vec<Match>) {
        // Of very many filters hardly any code is in the caches. A processor waits for all of them together no longer than for one.
        black_box(hits.iter().fold(0, |all, hit| all ^ self.codes[hit.filter as usize].bytes().len()));
        for hit in hits {
            let code = &self.codes[hit.filter as usize];
            let is_true_of = |row: Option<Row<'_>>| row.is_some_and(|row| code.is_true_of(&row));
            let old = hit.sides.old && is_true_of(rows.old);
            let new = hit.sides.new && is_true_of(rows.new);
            if old || new {
                found.push(Match { filter: FilterId(hit.filter), old, new });
            }
        }
    }

    /// Collects the key of each value of `row` that is looked up or guarded, in the order of its fields.
    fn sign(&self, row: &Row<'_>, keys: &mut Vec<u64>) -> Signature {
        let mut signature = Signature::default();
        keys.clear();
        for &field in row.present {
            let index = &self.fields[field as usize];
            let mut key = 0;
            if index.equal | index.guards > 0
                && let Some(scalar) = row.scalar(field)
            {
                key = scalar.key(&self.hashing, equal_place(field));
                signature.add(key);
            }
            keys.push(key);
        }
        signature
    }

    /// Collects the filters that `row`, which is on this `side`, leads to. What holds the same in `other` was, or is to
    /// be, looked up for both: with the old row.
    fn look_up(&self, row: &Row<'_>, keys: &[u64], other: Option<&Row<'_>>, side: Sides, hits: &mut Hits) {
        let is_equal = |(field, _): &(&FieldId, &u64)| self.fields[**field as usize].equal > 0;
        let buckets = row.present.iter().zip(keys).filter(is_equal).map(|(_, key)| self.equal.find(*key));
        // Asked for together, as above.
        black_box(buckets.fold(0, |all, postings| all ^ postings.last().map_or(0, |last| last.filter())));
        for (&field, &key) in row.present.iter().zip(keys) {
            let index = &self.fields[field as usize];
            if index.equal | index.holds | index.numbers.len() | index.texts.len() == 0 {
                continue;
            }
            let is_same = other.is_some_and(|other| row.is_same(other, field));
            if is_same && side == NEW {
                continue;
            }
            let sides = if is_same { BOTH } else { side };
            if index.equal > 0 && row.scalar(field).is_some() {
                for posting in self.equal.find(key) {
                    hits.add(*posting, sides);
                }
            }
            if index.holds > 0 {
                self.look_up_elements(row, field, hits);
            }
            if !index.numbers.is_empty()
                && let Some(rank) = row.scalar(field).and_then(|scalar| scalar.rank())
            {
                let others = other.and_then(|other| other.scalar(field)?.rank());
                index.numbers.visit(&rank, &mut |interval: &Interval<u64>| {
                    let has_other = others.is_some_and(|others| (interval.low..=interval.high).contains(&others));
                    hits.add_around(interval.posting, side, sides, has_other);
                });
            }
            if !index.texts.is_empty()
                && let Some(text) = row.text(field)
            {
                let others = other.and_then(|other| other.text(field));
                index.texts.visit(text, &mut |interval: &Interval<Arc<[u8]>>| {
                    let has_other = others.is_some_and(|others| *interval.low <= *others && *others <= *interval.high);
                    hits.add_around(interval.posting, side, sides, has_other);
                });
            }
        }
    }

    fn look_up_elements(&self, row: &Row<'_>, field: FieldId, hits: &mut Hits) {
        if !matches!(row.value(field), Value::List(_) | Value::Object(_)) {
            return;
        }
        let _ = row.elements(field, |element| {
            for posting in self.equal.find(element.key(&self.hashing, holds_place(field))) {
                hits.add(*posting, BOTH);
            }
            false
        });
    }
}

impl Hits {
    fn start(&mut self, old: Signature, new: Signature) {
        self.hits.clear();
        (self.old, self.new) = (old, new);
        self.lookup = self.lookup.wrapping_add(1);
        if self.lookup == 0 {
            self.stamps.fill(0);
            self.lookup = 1;
        }
    }

    #[inline]
    fn add(&mut self, posting: Posting, sides: Sides) {
        // Where several ways lead to it, another one may lead to it from the other row.
        let is_one_of_several = posting.is_one_of_several();
        let old = (sides.old || is_one_of_several) && self.old.passes(posting.guard);
        let new = (sides.new || is_one_of_several) && self.new.passes(posting.guard);
        if !(old || new) {
            return;
        }
        let filter = posting.filter();
        if is_one_of_several {
            if self.stamps.len() <= filter as usize {
                self.stamps.resize(filter as usize + 1, 0);
            }
            let stamp = &mut self.stamps[filter as usize];
            if *stamp == self.lookup {
                return;
            }
            *stamp = self.lookup;
        }
        self.hits.push(Hit { filter, sides: Sides { old, new } });
    }

    /// Adds a filter whose interval is around a value of the row on this `side`, and perhaps around the one of the
    /// other.
    #[inline]
    fn add_around(&mut self, posting: Posting, side: Sides, sides: Sides, has_other: bool) {
        if !has_other {
            self.add(posting, sides);
        } else if side == OLD {
            self.add(posting, BOTH);
        }
    }
}
