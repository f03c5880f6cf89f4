//! Which of very many filters a change passes, without asking all of them.

mod buckets;
mod describe;
mod intervals;
mod lookup;
mod signature;
#[cfg(test)]
mod tests;

use std::fmt;
use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use self::buckets::Buckets;
pub use self::describe::Plan;
use self::intervals::{Interval, Tree};
pub use self::lookup::{Match, Scratch};
use self::signature::Guard;
use super::access::{ABOVE_TEXTS, Access, Entry, access, needed_value};
use super::code::Code;
use super::expression::{Expression, Path};
use super::filter;
use super::paths::{FieldId, Paths, ROOT};
use super::pattern::Patterns;
use super::program::{compile, release};
use super::scalar::Scalar;

/// The number of a filter in its [`Matcher`]; after a filter has gone, another one may get it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FilterId(pub u32);

/// All filters of one table, each once, however many use it.
pub struct Matcher {
    paths: Paths,
    fields: Vec<FieldIndex>,
    /// What a lookup needs of filters, apart from the rest of them.
    codes: Vec<Code>,
    filters: Vec<Filter>,
    free: Vec<u32>,
    by_text: HashTable<u32>,
    equal: Buckets,
    /// Those that are asked about every change.
    unindexed: Vec<Posting>,
    hashing: FixedState,
}

/// What a member of a document is looked up in.
#[derive(Debug, Default)]
struct FieldIndex {
    equal: u32,
    holds: u32,
    /// The filters whose guard is a value of this member.
    guards: u32,
    numbers: Tree<u64>,
    texts: Tree<Arc<[u8]>>,
}

struct Filter {
    text: Arc<str>,
    users: u32,
    /// The member that the guard is about; the root where there is none.
    guarded: FieldId,
    places: Places,
}

/// Where the postings of a filter are.
enum Places {
    One(Place),
    Other(Box<[Place]>),
}

#[derive(Clone, PartialEq)]
enum Place {
    Unindexed { at: u32 },
    Equal { field: FieldId, at: u32, key: u64 },
    Holds { field: FieldId, at: u32, key: u64 },
    Numbers { field: FieldId, low: u64, high: u64 },
    Texts { field: FieldId, ends: Box<[Arc<[u8]>; 2]> },
}

/// Intervals that are counted to find out what it costs to look up a value there; more are too many in any case.
const COUNTED_MAX: usize = 1024;

/// A filter that a lookup leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Posting {
    tagged: u32,
    guard: Guard,
}

impl Posting {
    const IS_ONE_OF_SEVERAL: u32 = 1 << 31;

    fn new(filter: u32, is_one_of_several: bool, guard: Guard) -> Self {
        assert!(filter < Self::IS_ONE_OF_SEVERAL, "there are too many filters");
        let tagged = if is_one_of_several { filter | Self::IS_ONE_OF_SEVERAL } else { filter };
        Self { tagged, guard }
    }

    fn filter(self) -> u32 {
        self.tagged & !Self::IS_ONE_OF_SEVERAL
    }

    /// Whether a change may lead to the filter more than once.
    fn is_one_of_several(self) -> bool {
        self.tagged & Self::IS_ONE_OF_SEVERAL != 0
    }
}

impl Matcher {
    /// One without filters. `seed` decides how values are hashed: clients choose the values and must not know it.
    pub fn new(seed: u64) -> Self {
        let hashing = FixedState::with_seed(seed);
        Self {
            paths: Paths::new(hashing.clone()),
            fields: Vec::new(),
            codes: Vec::new(),
            filters: Vec::new(),
            free: Vec::new(),
            by_text: HashTable::new(),
            equal: Buckets::default(),
            unindexed: Vec::new(),
            hashing,
        }
    }

    /// The number of filters: those with the same text are one.
    pub fn len(&self) -> usize {
        self.by_text.len()
    }

    /// Whether there is no filter.
    pub fn is_empty(&self) -> bool {
        self.by_text.is_empty()
    }

    /// The number of filters that are asked about every change.
    pub fn unindexed(&self) -> usize {
        self.unindexed.len()
    }

    /// Adds a user to `filter`.
    pub fn insert(&mut self, filter: &filter::Filter) -> FilterId {
        let read = filter.read();
        self.add(filter.shared_canonical(), &read.expression, &read.patterns)
    }

    fn add(&mut self, canonical: &Arc<str>, expression: &Expression, patterns: &Patterns) -> FilterId {
        let hash = self.hashing.hash_one(&**canonical);
        if let Some(id) = self.by_text.find(hash, |id| *self.filters[*id as usize].text == **canonical) {
            let id = *id;
            self.filters[id as usize].users += 1;
            return FilterId(id);
        }
        let code = compile(expression, patterns, &mut self.paths);
        self.fields.resize_with(self.paths.len().max(self.fields.len()), FieldIndex::default);
        let id = self.free.pop().unwrap_or(self.filters.len() as u32);
        let access = access(expression, &|entry| self.weight(entry));
        let (guarded, guard) = self.guard(expression, access.as_ref());
        self.fields[guarded as usize].guards += 1;
        let places = self.place(id, access, guard);
        let filter = Filter { text: canonical.clone(), users: 1, guarded, places };
        if (id as usize) < self.filters.len() {
            self.filters[id as usize] = filter;
            self.codes[id as usize] = code;
        } else {
            self.filters.push(filter);
            self.codes.push(code);
        }
        let Self { by_text, filters, hashing, .. } = self;
        by_text.insert_unique(hash, id, |id| hashing.hash_one(&*filters[*id as usize].text));
        FilterId(id)
    }

    /// Removes a user of a filter; without users it is gone.
    pub fn remove(&mut self, filter: FilterId) {
        let id = filter.0;
        let removed = &mut self.filters[id as usize];
        assert!(removed.users > 0, "a filter is removed as often as it was inserted");
        removed.users -= 1;
        if removed.users > 0 {
            return;
        }
        let hash = self.hashing.hash_one(&*removed.text);
        let entry = self.by_text.find_entry(hash, |other| *other == id).expect("a filter that has users is there");
        entry.remove();
        removed.text = Arc::default();
        self.fields[removed.guarded as usize].guards -= 1;
        let places = std::mem::replace(&mut removed.places, Places::Other(Box::default()));
        match places {
            Places::One(place) => self.clear(id, place, &mut []),
            Places::Other(mut places) => {
                for at in 0..places.len() {
                    let (place, rest) = places[at..].split_first_mut().expect("there is a place at every index");
                    self.clear(id, place.clone(), rest);
                }
            }
        }
        let code = std::mem::replace(&mut self.codes[id as usize], Code::new(&[], Vec::new()));
        release(&code, &mut self.paths);
        self.free.push(id);
    }

    /// What looking up `entry` costs: the number of filters that it leads to, about.
    fn weight(&self, entry: &Entry<'_>) -> u64 {
        let (Entry::Equal(path, _) | Entry::Holds(path, _) | Entry::Numbers(path, ..) | Entry::Texts(path, ..)) = entry;
        let field = self.paths.find(path);
        let index = field.and_then(|field| self.fields.get(field as usize));
        let bucket = |scalar: &Scalar<'_>, place: fn(FieldId) -> u64| {
            field.map_or(0, |field| self.equal.find(scalar.key(&self.hashing, place(field))).len() as u64)
        };
        match entry {
            Entry::Equal(_, scalar) => 1 + bucket(scalar, equal_place),
            Entry::Holds(_, scalar) => 2 + bucket(scalar, holds_place),
            // An open interval is around half of all values, and so are the others like it.
            Entry::Numbers(_, 0, _) | Entry::Numbers(_, _, u64::MAX) => {
                64 + index.map_or(0, |index| u64::from(index.numbers.len()) / 2)
            }
            Entry::Numbers(_, low, _) => 32 + index.map_or(0, |index| index.numbers.count(low, COUNTED_MAX)) as u64,
            Entry::Texts(_, low, high) if low.is_empty() || **high == *ABOVE_TEXTS => {
                64 + index.map_or(0, |index| u64::from(index.texts.len()) / 2)
            }
            Entry::Texts(_, low, _) => 48 + index.map_or(0, |index| index.texts.count(&**low, COUNTED_MAX)) as u64,
        }
    }

    /// A value that documents must hold besides what `access` looks up, and the member that holds it.
    fn guard(&self, expression: &Expression, access: Option<&Access<'_>>) -> (FieldId, Guard) {
        let Some(access) = access else { return (ROOT, Guard::NONE) };
        let needed = needed_value(expression, &|path, scalar| access.entries != [Entry::Equal(path, scalar)]);
        needed.map_or((ROOT, Guard::NONE), |(path, scalar)| {
            let field = self.field(path);
            (field, Guard::of(scalar.key(&self.hashing, equal_place(field))))
        })
    }

    fn place(&mut self, id: u32, access: Option<Access<'_>>, guard: Guard) -> Places {
        let Some(access) = access else {
            self.unindexed.push(Posting::new(id, false, guard));
            return Places::One(Place::Unindexed { at: self.unindexed.len() as u32 - 1 });
        };
        let is_one_of_several = access.entries.len() > 1;
        let posting = Posting::new(id, is_one_of_several, guard);
        let places: Vec<Place> = access.entries.iter().map(|entry| self.enter(posting, entry)).collect();
        match <[Place; 1]>::try_from(places) {
            Ok([place]) => Places::One(place),
            Err(places) => Places::Other(places.into()),
        }
    }

    fn enter(&mut self, posting: Posting, entry: &Entry<'_>) -> Place {
        match entry {
            Entry::Equal(path, scalar) => {
                let field = self.field(path);
                let key = scalar.key(&self.hashing, equal_place(field));
                self.fields[field as usize].equal += 1;
                Place::Equal { field, at: self.equal.insert(key, posting), key }
            }
            Entry::Holds(path, scalar) => {
                let field = self.field(path);
                let key = scalar.key(&self.hashing, holds_place(field));
                self.fields[field as usize].holds += 1;
                // A list may have an element twice.
                let posting = Posting::new(posting.filter(), true, posting.guard);
                Place::Holds { field, at: self.equal.insert(key, posting), key }
            }
            Entry::Numbers(path, low, high) => {
                let (field, low, high) = (self.field(path), *low, *high);
                self.fields[field as usize].numbers.insert(Interval { low, high, posting });
                Place::Numbers { field, low, high }
            }
            Entry::Texts(path, low, high) => {
                let (field, low, high) = (self.field(path), Arc::from(&**low), Arc::from(&**high));
                let ends = Box::new([Arc::clone(&low), Arc::clone(&high)]);
                self.fields[field as usize].texts.insert(Interval { low, high, posting });
                Place::Texts { field, ends }
            }
        }
    }

    fn field(&self, path: &Path) -> FieldId {
        self.paths.find(path).expect("the code of a filter has acquired its paths")
    }

    /// Clears a place of the filter `id`, which may move another one; `rest` are its places that are not cleared yet.
    fn clear(&mut self, id: u32, place: Place, rest: &mut [Place]) {
        let posting = Posting::new(id, false, Guard::NONE);
        let moved = match place {
            Place::Numbers { field, low, high } => {
                return self.fields[field as usize].numbers.remove(&Interval { low, high, posting });
            }
            Place::Texts { field, ends } => {
                let [low, high] = *ends;
                return self.fields[field as usize].texts.remove(&Interval { low, high, posting });
            }
            Place::Unindexed { at } => {
                self.unindexed.swap_remove(at as usize);
                self.unindexed.get(at as usize).map(|posting| (*posting, self.unindexed.len() as u32))
            }
            Place::Equal { field, at, key } => {
                self.fields[field as usize].equal -= 1;
                self.equal.remove(key, at)
            }
            Place::Holds { field, at, key } => {
                self.fields[field as usize].holds -= 1;
                self.equal.remove(key, at)
            }
        };
        let Some((posting, before)) = moved else { return };
        let moved = place.moved_to(before);
        let places = match &mut self.filters[posting.filter() as usize].places {
            _ if posting.filter() == id => rest,
            Places::One(place) => std::slice::from_mut(place),
            Places::Other(places) => places,
        };
        let known = places.iter_mut().find(|known| **known == moved).expect("a posting is at a place of its filter");
        *known = place;
    }
}

impl Place {
    /// The same bucket, at another place in it.
    fn moved_to(&self, at: u32) -> Self {
        match *self {
            Self::Unindexed { .. } => Self::Unindexed { at },
            Self::Equal { field, key, .. } => Self::Equal { field, at, key },
            Self::Holds { field, key, .. } => Self::Holds { field, at, key },
            Self::Numbers { .. } | Self::Texts { .. } => panic!("intervals do not move"),
        }
    }
}

/// What keys are made of where a member's value is looked up.
#[inline]
fn equal_place(field: FieldId) -> u64 {
    u64::from(field) << 1
}

/// What keys are made of where the elements of a member are looked up.
#[inline]
fn holds_place(field: FieldId) -> u64 {
    u64::from(field) << 1 | 1
}

impl fmt::Debug for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Matcher({} filters, {} unindexed)", self.len(), self.unindexed())
    }
}
