//! Things that have a number, in its order: one lies in the roster itself, more in a list of short pieces.

/// A longer list is several pieces: it never moves as a whole to where there is more room, which would leave as much behind.
const PIECE_LEN: usize = 16;

/// Of so few pieces it counts what room they leave; the list of very many must not be copied for each that comes.
const FEW_PIECES: usize = 8;

/// What has a number.
pub(crate) trait Numbered {
    /// The kind of number.
    type Number: Copy + Ord;

    /// The number, which stays the same.
    fn number(&self) -> Self::Number;
}

/// Things in the order of their numbers. There are very many rosters, and most have one of them.
#[derive(Debug)]
pub(crate) enum Roster<T> {
    One(Option<T>),
    /// In pieces, none of which is empty.
    Many(Vec<Vec<T>>),
}

impl<T> Default for Roster<T> {
    fn default() -> Self {
        Self::One(None)
    }
}

impl<T: Numbered> Roster<T> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::One(one) => usize::from(one.is_some()),
            Self::Many(pieces) => pieces.iter().map(Vec::len).sum(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, Self::One(None))
    }

    /// Puts `one` in, in place of what had the same number.
    pub(crate) fn insert(&mut self, one: T) {
        match self {
            Self::One(none @ None) => *none = Some(one),
            Self::One(Some(first)) if first.number() == one.number() => *first = one,
            Self::One(first @ Some(_)) => {
                let mut piece: Vec<T> = first.take().into_iter().collect();
                insert(&mut piece, one);
                *self = Self::Many(vec![piece]);
            }
            Self::Many(pieces) => insert_into_pieces(pieces, one),
        }
    }

    pub(crate) fn remove(&mut self, number: T::Number) -> Option<T> {
        match self {
            Self::One(one) => one.take_if(|one| one.number() == number),
            Self::Many(pieces) => {
                let at = piece_of(pieces, number);
                let piece = &mut pieces[at];
                let removed = piece.remove(place(piece, number).ok()?);
                if piece.is_empty() {
                    pieces.remove(at);
                }
                self.give_back();
                Some(removed)
            }
        }
    }

    pub(crate) fn get(&self, number: T::Number) -> Option<&T> {
        match self {
            Self::One(one) => one.as_ref().filter(|one| one.number() == number),
            Self::Many(pieces) => {
                let piece = &pieces[piece_of(pieces, number)];
                Some(&piece[place(piece, number).ok()?])
            }
        }
    }

    pub(crate) fn get_mut(&mut self, number: T::Number) -> Option<&mut T> {
        match self {
            Self::One(one) => one.as_mut().filter(|one| one.number() == number),
            Self::Many(pieces) => {
                let at = piece_of(pieces, number);
                let piece = &mut pieces[at];
                let place = place(piece, number).ok()?;
                Some(&mut piece[place])
            }
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        let (one, pieces) = match self {
            Self::One(one) => (one.as_ref(), &[][..]),
            Self::Many(pieces) => (None, &pieces[..]),
        };
        one.into_iter().chain(pieces.iter().flatten())
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        let (one, pieces) = match self {
            Self::One(one) => (one.as_mut(), &mut [][..]),
            Self::Many(pieces) => (None, &mut pieces[..]),
        };
        one.into_iter().chain(pieces.iter_mut().flatten())
    }

    /// Lets those go for which `stays` says `false`.
    pub(crate) fn retain(&mut self, mut stays: impl FnMut(&mut T) -> bool) {
        match self {
            Self::One(one) => drop(one.take_if(|one| !stays(one))),
            Self::Many(pieces) => {
                pieces.retain_mut(|piece| {
                    piece.retain_mut(&mut stays);
                    !piece.is_empty()
                });
                self.give_back();
            }
        }
    }

    fn give_back(&mut self) {
        if matches!(self, Self::Many(pieces) if pieces.is_empty()) {
            *self = Self::default();
        }
    }
}

/// The piece that `number` is in, if it is there.
fn piece_of<T: Numbered>(pieces: &[Vec<T>], number: T::Number) -> usize {
    pieces.partition_point(|piece| piece[0].number() <= number).saturating_sub(1)
}

fn place<T: Numbered>(piece: &[T], number: T::Number) -> Result<usize, usize> {
    piece.binary_search_by_key(&number, T::number)
}

/// Puts `one` into a piece that has room for it, or has it already.
fn insert<T: Numbered>(piece: &mut Vec<T>, one: T) {
    match place(piece, one.number()) {
        Ok(at) => piece[at] = one,
        Err(at) => {
            // Left alone, a vector takes twice the room that it had.
            piece.reserve_exact(1);
            piece.insert(at, one);
        }
    }
}

fn insert_into_pieces<T: Numbered>(pieces: &mut Vec<Vec<T>>, one: T) {
    let at = piece_of(pieces, one.number());
    let piece = &mut pieces[at];
    let Err(place) = place(piece, one.number()) else {
        return insert(piece, one);
    };
    if piece.len() < PIECE_LEN {
        return insert(piece, one);
    }
    // Mostly whoever comes has the highest number so far: then the pieces stay full.
    let mut next = Vec::with_capacity(PIECE_LEN);
    if place == PIECE_LEN {
        next.push(one);
    } else {
        next.extend(piece.drain(PIECE_LEN / 2..));
        insert(if place <= PIECE_LEN / 2 { piece } else { &mut next }, one);
    }
    if pieces.len() < FEW_PIECES {
        pieces.reserve_exact(1);
    }
    pieces.insert(at + 1, next);
}

impl<T: Numbered> Numbered for Box<T> {
    type Number = T::Number;

    fn number(&self) -> T::Number {
        (**self).number()
    }
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

    /// Those up to `count`, in an order of their own.
    fn shuffled(count: u32) -> impl Iterator<Item = u32> {
        (0..count).map(move |at| at * 7919 % count)
    }

    #[test]
    fn whatever_the_order_in_which_they_come_all_are_found_in_that_of_their_numbers() {
        // None is a multiple of 7919, so that it does shuffle.
        for count in [1, 2, 3, 16, 17, 18, 33, 3000] {
            let orders: [Vec<u32>; 3] = [(0..count).collect(), (0..count).rev().collect(), shuffled(count).collect()];
            for order in orders {
                let mut roster = Roster::default();
                assert!(roster.is_empty() && roster.get(0).is_none() && roster.remove(0).is_none());
                for number in order {
                    roster.insert(Guest(number, "came"));
                }
                roster.insert(Guest(count - 1, "came again"));
                assert_eq!(numbers(&roster), (0..count).collect::<Vec<_>>());
                assert_eq!(roster.get(count - 1), Some(&Guest(count - 1, "came again")));
                roster.iter_mut().for_each(|guest| guest.1 = "seen");
                assert!((0..count).all(|number| roster.get_mut(number).cloned() == Some(Guest(number, "seen"))));
                assert!(roster.get(count).is_none() && roster.get_mut(count).is_none());
                assert_eq!((roster.remove(count), roster.remove(0)), (None, Some(Guest(0, "seen"))));
                roster.retain(|guest| guest.0 % 2 == 0);
                assert_eq!(numbers(&roster), (2..count).step_by(2).collect::<Vec<_>>());
                assert_eq!(roster.len(), numbers(&roster).len());
            }
        }
    }

    #[test]
    fn who_has_left_leaves_no_memory_behind() {
        let mut roster: Roster<Guest> = Roster::default();
        (0..100).for_each(|number| roster.insert(Guest(number, "")));
        assert!(shuffled(100).all(|number| roster.remove(number).is_some()));
        assert!(matches!(roster, Roster::One(None)), "one by one");
        (0..100).for_each(|number| roster.insert(Guest(number, "")));
        roster.retain(|_| false);
        assert!(matches!(roster, Roster::One(None)), "all at once");
    }

    #[test]
    fn those_who_come_in_order_fill_their_pieces() {
        let mut roster = Roster::default();
        for number in 0..100 {
            roster.insert(Guest(number, ""));
            let Roster::Many(pieces) = &roster else { continue };
            let room: usize = pieces.iter().map(Vec::capacity).sum();
            let len = roster.len();
            assert!(if len <= PIECE_LEN { room == len } else { room < len + PIECE_LEN }, "{room} for {len}");
        }
    }
}
