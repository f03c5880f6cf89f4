//! Whether everybody got everything: once, and in order.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;

/// What one subscriber got of the changes, which are numbered without gaps.
#[derive(Debug, Default)]
pub(super) struct SequenceCheck {
    /// Everything below has come, or is missing.
    next: u64,
    missing: BTreeSet<u64>,
    repeated: u64,
    out_of_order: u64,
}

/// What went wrong. Zero throughout is what the server promises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Faults {
    /// Changes that a subscriber never got.
    pub(super) lost: u64,
    /// Changes that a subscriber got more often than once, once for each time too often.
    pub(super) repeated: u64,
    /// Changes that a subscriber got behind a later one.
    pub(super) out_of_order: u64,
}

impl Faults {
    pub(super) fn add(&mut self, other: Self) {
        self.lost += other.lost;
        self.repeated += other.repeated;
        self.out_of_order += other.out_of_order;
    }

    pub(super) fn are_none(self) -> bool {
        self == Self::default()
    }
}

/// What an arrival was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// The next one. The range begins earlier when changes before it are missing so far.
    Next(Range<u64>),
    /// One that was missing.
    Late,
    /// One that had come before.
    Repeated,
}

impl SequenceCheck {
    /// Change `seq` came.
    pub(super) fn arrived(&mut self, seq: u64) -> Arrival {
        if seq >= self.next {
            let passed = self.next..seq + 1;
            self.missing.extend(self.next..seq);
            self.next = seq + 1;
            Arrival::Next(passed)
        } else if self.missing.remove(&seq) {
            self.out_of_order += 1;
            Arrival::Late
        } else {
            self.repeated += 1;
            Arrival::Repeated
        }
    }

    /// The number that comes next when all is well.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Whoever is checked begins anew with change `seq`: nothing before it has to come any more.
    pub(super) fn begin_at(&mut self, seq: u64) {
        self.next = seq;
    }

    /// Ends the check of everything below `end` and begins a new one there.
    pub(super) fn finish(&mut self, end: u64) -> Faults {
        let never_reached = end.saturating_sub(self.next);
        let faults = Faults {
            lost: self.missing.len() as u64 + never_reached,
            repeated: self.repeated,
            out_of_order: self.out_of_order,
        };
        *self = Self { next: end.max(self.next), ..Self::default() };
        faults
    }
}

/// Which changes everybody has: all subscribers their events, and the writer its response.
#[derive(Debug)]
pub(super) struct Completion {
    /// Every change below is complete.
    completed: u64,
    /// How many have each change from there on.
    counts: VecDeque<u32>,
    everybody: u32,
}

impl Completion {
    pub(super) fn new(everybody: u32) -> Self {
        Self { completed: 0, counts: VecDeque::new(), everybody }
    }

    /// Every change below is complete.
    pub(super) fn completed(&self) -> u64 {
        self.completed
    }

    /// One more has the changes of `range`. Says whether that completed any.
    pub(super) fn reached(&mut self, range: Range<u64>) -> bool {
        for seq in range.start.max(self.completed)..range.end {
            let at = usize::try_from(seq - self.completed).expect("as many changes fit into memory");
            if at >= self.counts.len() {
                self.counts.resize(at + 1, 0);
            }
            self.counts[at] += 1;
        }
        let before = self.completed;
        while self.counts.front().is_some_and(|count| *count >= self.everybody) {
            self.counts.pop_front();
            self.completed += 1;
        }
        self.completed > before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(arrivals: &[u64], end: u64) -> Faults {
        let mut check = SequenceCheck::default();
        for seq in arrivals {
            check.arrived(*seq);
        }
        check.finish(end)
    }

    #[test]
    fn everything_once_and_in_order_is_no_fault() {
        assert!(faults(&[0, 1, 2, 3], 4).are_none());
        assert!(faults(&[], 0).are_none());
    }

    #[test]
    fn a_lost_change_is_found_wherever_it_is() {
        let one_lost = Faults { lost: 1, ..Faults::default() };
        assert_eq!(faults(&[1, 2, 3], 4), one_lost);
        assert_eq!(faults(&[0, 1, 3], 4), one_lost);
        assert_eq!(faults(&[0, 1, 2], 4), one_lost);
        assert_eq!(faults(&[], 4), Faults { lost: 4, ..Faults::default() });
    }

    #[test]
    fn a_repeated_change_is_found() {
        let one_repeated = Faults { repeated: 1, ..Faults::default() };
        assert_eq!(faults(&[0, 1, 1, 2], 3), one_repeated);
        assert_eq!(faults(&[0, 1, 2, 0], 3), one_repeated);
        assert_eq!(faults(&[0, 0, 0], 1), Faults { repeated: 2, ..Faults::default() });
        // A repetition does not make up for a loss.
        assert_eq!(faults(&[0, 1, 1, 3], 4), Faults { lost: 1, repeated: 1, out_of_order: 0 });
    }

    #[test]
    fn a_change_out_of_order_is_found_and_not_lost() {
        let one_late = Faults { out_of_order: 1, ..Faults::default() };
        assert_eq!(faults(&[0, 2, 1, 3], 4), one_late);
        assert_eq!(faults(&[1, 2, 3, 0], 4), one_late);
        assert_eq!(faults(&[0, 2, 1, 1], 3), Faults { lost: 0, repeated: 1, out_of_order: 1 });
    }

    #[test]
    fn the_next_check_begins_where_the_last_one_ended() {
        let mut check = SequenceCheck::default();
        check.arrived(0);
        assert_eq!(check.finish(3).lost, 2);
        assert_eq!(check.arrived(3), Arrival::Next(3..4));
        assert_eq!(check.arrived(5), Arrival::Next(4..6));
        assert_eq!(check.arrived(4), Arrival::Late);
        assert_eq!(check.arrived(4), Arrival::Repeated);
        assert_eq!(check.finish(6), Faults { lost: 0, repeated: 1, out_of_order: 1 });
    }

    #[test]
    fn who_begins_anew_owes_nothing_for_the_time_between() {
        let mut check = SequenceCheck::default();
        check.arrived(0);
        check.begin_at(5);
        assert_eq!(check.arrived(5), Arrival::Next(5..6));
        assert_eq!((check.next(), check.finish(6)), (6, Faults::default()));
    }

    #[test]
    fn a_change_is_complete_when_everybody_has_it() {
        let mut completion = Completion::new(3);
        assert!(!completion.reached(0..2));
        assert!(!completion.reached(0..1));
        assert_eq!(completion.completed(), 0);
        assert!(completion.reached(0..1));
        assert_eq!(completion.completed(), 1);
        assert!(!completion.reached(1..3));
        assert!(completion.reached(1..3));
        assert_eq!(completion.completed(), 2);
        assert!(completion.reached(2..3));
        assert_eq!(completion.completed(), 3);
    }
}
