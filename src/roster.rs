//! Things that have a number, in its order: one lies in the roster itself, few in a list, many in a map.

use std::collections::BTreeMap;

/// To go through a list is quicker than through a map, and it takes little more memory than what is in it; but in a long list,
/// each who comes or goes would move all the others.
const LISTED_MAX: usize = 1024;

/// What has a number.
pub(crate) trait Numbered {
    /// The kind of number.
    type Number: Copy + Ord;

    /// The number, which stays the same.
    fn number(&self) -> Self::Number;
}

/// Things in the order of their numbers. There are very many rosters, and most have one of them.
#[derive(Debug)]
pub(crate) enum Roster<T: Numbered> {
    One(Option<T>),
    Listed(Vec<T>),
    Mapped(BTreeMap<T::Number, T>),
}

impl<T: Numbered> Default for Roster<T> {
    fn default() -> Self {
        Self::One(None)
    }
}

impl<T: Numbered> Roster<T> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::One(one) => usize::from(one.is_some()),
            Self::Listed(list) => list.len(),
            Self::Mapped(map) => map.len(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts `one` in, in place of what had the same number.
    pub(crate) fn insert(&mut self, one: T) {
        match self {
            Self::One(none @ None) => *none = Some(one),
            Self::One(first @ Some(_)) => {
                *self = Self::Listed(first.take().into_iter().collect());
                self.insert(one);
            }
            Self::Listed(list) => match place(list, one.number()) {
                Ok(at) => list[at] = one,
                Err(_) if list.len() == LISTED_MAX => {
                    let all = std::mem::take(list).into_iter().chain([one]);
                    *self = Self::Mapped(all.map(|one| (one.number(), one)).collect());
                }
                Err(at) => {
                    // Left alone, a vector takes twice the room it had.
                    if list.len() == list.capacity() {
                        list.reserve_exact(1 + list.len() / 8);
                    }
                    list.insert(at, one);
                }
            },
            Self::Mapped(map) => {
                map.insert(one.number(), one);
            }
        }
    }

    pub(crate) fn remove(&mut self, number: T::Number) -> Option<T> {
        let removed = match self {
            Self::One(one) => one.take_if(|one| one.number() == number),
            Self::Listed(list) => place(list, number).ok().map(|at| list.remove(at)),
            Self::Mapped(map) => map.remove(&number),
        };
        self.give_back();
        removed
    }

    pub(crate) fn get(&self, number: T::Number) -> Option<&T> {
        match self {
            Self::One(one) => one.as_ref().filter(|one| one.number() == number),
            Self::Listed(list) => place(list, number).ok().map(|at| &list[at]),
            Self::Mapped(map) => map.get(&number),
        }
    }

    pub(crate) fn get_mut(&mut self, number: T::Number) -> Option<&mut T> {
        match self {
            Self::One(one) => one.as_mut().filter(|one| one.number() == number),
            Self::Listed(list) => place(list, number).ok().map(|at| &mut list[at]),
            Self::Mapped(map) => map.get_mut(&number),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        let (list, map) = match self {
            Self::One(one) => (one.as_slice(), None),
            Self::Listed(list) => (&list[..], None),
            Self::Mapped(map) => (&[][..], Some(map)),
        };
        list.iter().chain(map.into_iter().flat_map(BTreeMap::values))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        let (list, map) = match self {
            Self::One(one) => (one.as_mut_slice(), None),
            Self::Listed(list) => (&mut list[..], None),
            Self::Mapped(map) => (&mut [][..], Some(map)),
        };
        list.iter_mut().chain(map.into_iter().flat_map(BTreeMap::values_mut))
    }

    /// Lets those go for which `stays` says `false`.
    pub(crate) fn retain(&mut self, mut stays: impl FnMut(&mut T) -> bool) {
        match self {
            Self::One(one) => drop(one.take_if(|one| !stays(one))),
            Self::Listed(list) => list.retain_mut(stays),
            Self::Mapped(map) => map.retain(|_, one| stays(one)),
        }
        self.give_back();
    }

    fn give_back(&mut self) {
        if self.is_empty() {
            *self = Self::default();
        }
    }
}

fn place<T: Numbered>(list: &[T], number: T::Number) -> Result<usize, usize> {
    list.binary_search_by_key(&number, T::number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    struct Guest(u32, &'static str);

    impl Numbered for Guest {
        type Number = u32;

        fn number(&self) -> u32 {
            self.0
        }
    }

    fn numbers(roster: &Roster<Guest>) -> Vec<u32> {
        roster.iter().map(Guest::number).collect()
    }

    #[test]
    fn one_a_list_and_a_map_hold_the_same() {
        for count in [1, 2, 3, LISTED_MAX as u32, LISTED_MAX as u32 + 1, 3000] {
            let mut roster = Roster::default();
            assert!(roster.is_empty() && roster.get(0).is_none() && roster.remove(0).is_none());
            for number in (0..count).rev() {
                roster.insert(Guest(number, "came"));
            }
            roster.insert(Guest(count - 1, "came again"));
            assert_eq!(numbers(&roster), (0..count).collect::<Vec<_>>());
            assert_eq!(matches!(roster, Roster::Mapped(_)), count as usize > LISTED_MAX);
            assert_eq!(roster.get(count - 1), Some(&Guest(count - 1, "came again")));
            roster.iter_mut().for_each(|guest| guest.1 = "seen");
            assert_eq!(roster.get_mut(0).cloned(), Some(Guest(0, "seen")));
            assert!(roster.get(count).is_none() && roster.get_mut(count).is_none());
            assert_eq!((roster.remove(count), roster.remove(0)), (None, Some(Guest(0, "seen"))));
            roster.retain(|guest| guest.0 % 2 == 0);
            assert_eq!(numbers(&roster), (2..count).step_by(2).collect::<Vec<_>>());
            assert_eq!(roster.len(), numbers(&roster).len());
            roster.retain(|_| false);
            assert!(matches!(roster, Roster::One(None)), "who has left leaves no memory behind");
        }
    }

    #[test]
    fn a_list_has_little_more_room_than_it_needs() {
        let mut roster = Roster::default();
        for number in 0..LISTED_MAX as u32 {
            roster.insert(Guest(number, ""));
            let Roster::Listed(list) = &roster else { continue };
            assert!(list.capacity() <= list.len() + list.len() / 8 + 1, "{} for {}", list.capacity(), list.len());
        }
    }
}
