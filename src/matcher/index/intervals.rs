//! Filters by a range that a value must be in.

use std::borrow::Borrow;
use std::cmp::Ordering;

use super::Posting;

/// What a node of a tree holds at most: a few lines of memory, read one behind the other.
const NODE_MAX: usize = 32;

/// Intervals, sorted by where they begin; every part of the tree knows how far its intervals reach. So a value finds those around
/// it without a look at the others, and where there are many, few places in memory are looked at.
#[derive(Debug)]
pub(super) struct Tree<K> {
    root: Node<K>,
    len: u32,
}

/// One interval, both ends included.
#[derive(Clone, Debug)]
pub(super) struct Interval<K> {
    pub(super) low: K,
    pub(super) high: K,
    pub(super) posting: Posting,
}

#[derive(Debug)]
enum Node<K> {
    Leaf(Vec<Interval<K>>),
    Inner(Vec<Branch<K>>),
}

#[derive(Debug)]
struct Branch<K> {
    /// The first interval below.
    first: Interval<K>,
    /// The highest `high` below.
    highest: K,
    below: Node<K>,
}

impl<K> Default for Tree<K> {
    fn default() -> Self {
        Self { root: Node::Leaf(Vec::new()), len: 0 }
    }
}

impl<K: Ord + Clone> Tree<K> {
    /// The number of intervals.
    pub(super) fn len(&self) -> u32 {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn insert(&mut self, interval: Interval<K>) {
        self.len += 1;
        if let Some(behind) = self.root.insert(interval) {
            let before = std::mem::replace(&mut self.root, Node::Inner(Vec::new()));
            self.root = Node::Inner(vec![Branch::of(before), Branch::of(behind)]);
        }
    }

    /// Removes an interval that was inserted.
    pub(super) fn remove(&mut self, interval: &Interval<K>) {
        self.len -= 1;
        self.root.remove(interval);
        while let Node::Inner(branches) = &mut self.root {
            match &mut branches[..] {
                [] => self.root = Node::Leaf(Vec::new()),
                [_] => self.root = branches.remove(0).below,
                [..] => break,
            }
        }
    }

    /// Calls `found` with every interval around `value`.
    #[inline]
    pub(super) fn visit<Q>(&self, value: &Q, found: &mut impl FnMut(&Interval<K>))
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        self.root.visit(value, found);
    }

    /// How many intervals are around `value`, counted up to `count_max`.
    pub(super) fn count<Q>(&self, value: &Q, count_max: usize) -> usize
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        self.root.count(value, count_max)
    }
}

impl<K: Ord> Interval<K> {
    fn order(&self, other: &Self) -> Ordering {
        let place = |interval: &Self| interval.posting.filter();
        self.low.cmp(&other.low).then_with(|| self.high.cmp(&other.high)).then_with(|| place(self).cmp(&place(other)))
    }
}

impl<K: Ord + Clone> Node<K> {
    fn len(&self) -> usize {
        match self {
            Self::Leaf(intervals) => intervals.len(),
            Self::Inner(branches) => branches.len(),
        }
    }

    /// Adds an interval; what has no room any more goes to a node behind this one.
    fn insert(&mut self, interval: Interval<K>) -> Option<Self> {
        match self {
            Self::Leaf(intervals) => {
                let at = intervals.partition_point(|other| other.order(&interval).is_le());
                intervals.insert(at, interval);
                upper_half(intervals).map(Self::Leaf)
            }
            Self::Inner(branches) => {
                let at = branch_for(branches, &interval);
                let behind = branches[at].below.insert(interval);
                branches[at].measure();
                if let Some(behind) = behind {
                    branches.insert(at + 1, Branch::of(behind));
                }
                upper_half(branches).map(Self::Inner)
            }
        }
    }

    fn remove(&mut self, interval: &Interval<K>) {
        match self {
            Self::Leaf(intervals) => {
                let at = intervals.binary_search_by(|other| other.order(interval));
                intervals.remove(at.expect("an interval that is removed was inserted"));
            }
            Self::Inner(branches) => {
                let at = branch_for(branches, interval);
                branches[at].below.remove(interval);
                if branches[at].below.len() == 0 {
                    branches.remove(at);
                } else {
                    branches[at].measure();
                    join_with_a_neighbour(branches, at);
                }
            }
        }
    }

    fn visit<Q>(&self, value: &Q, found: &mut impl FnMut(&Interval<K>))
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        match self {
            Self::Leaf(intervals) => around(intervals, value).for_each(found),
            Self::Inner(branches) => reaching(branches, value).for_each(|branch| branch.below.visit(value, found)),
        }
    }

    fn count<Q>(&self, value: &Q, count_max: usize) -> usize
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        match self {
            Self::Leaf(intervals) => around(intervals, value).take(count_max).count(),
            Self::Inner(branches) => {
                reaching(branches, value).fold(0, |count, branch| count + branch.below.count(value, count_max - count))
            }
        }
    }

    fn first(&self) -> &Interval<K> {
        match self {
            Self::Leaf(intervals) => intervals.first(),
            Self::Inner(branches) => branches.first().map(|branch| &branch.first),
        }
        .expect("a node below another one is not empty")
    }

    fn highest(&self) -> &K {
        match self {
            Self::Leaf(intervals) => intervals.iter().map(|interval| &interval.high).max(),
            Self::Inner(branches) => branches.iter().map(|branch| &branch.highest).max(),
        }
        .expect("a node below another one is not empty")
    }
}

impl<K: Ord + Clone> Branch<K> {
    fn of(below: Node<K>) -> Self {
        Self { first: below.first().clone(), highest: below.highest().clone(), below }
    }

    /// Something below has changed.
    fn measure(&mut self) {
        self.first = self.below.first().clone();
        self.highest = self.below.highest().clone();
    }
}

fn around<'t, K: Borrow<Q>, Q: Ord + ?Sized>(
    intervals: &'t [Interval<K>],
    value: &Q,
) -> impl Iterator<Item = &'t Interval<K>> {
    let begun = intervals.iter().take_while(|interval| interval.low.borrow() <= value);
    begun.filter(|interval| interval.high.borrow() >= value)
}

/// The branches that may have intervals around `value`.
fn reaching<'t, K: Borrow<Q>, Q: Ord + ?Sized>(
    branches: &'t [Branch<K>],
    value: &Q,
) -> impl Iterator<Item = &'t Branch<K>> {
    let begun = branches.iter().take_while(|branch| branch.first.low.borrow() <= value);
    begun.filter(|branch| branch.highest.borrow() >= value)
}

/// The branch that an interval belongs to.
fn branch_for<K: Ord>(branches: &[Branch<K>], interval: &Interval<K>) -> usize {
    branches.partition_point(|branch| branch.first.order(interval).is_le()).saturating_sub(1)
}

fn upper_half<T>(members: &mut Vec<T>) -> Option<Vec<T>> {
    (members.len() > NODE_MAX).then(|| members.split_off(members.len() / 2))
}

/// Where many have gone, those that are left move together.
fn join_with_a_neighbour<K: Ord + Clone>(branches: &mut Vec<Branch<K>>, at: usize) {
    let has_room = |first: usize| {
        branches.get(first..first + 2).is_some_and(|pair| pair[0].below.len() + pair[1].below.len() <= NODE_MAX / 2)
    };
    let Some(first) = [Some(at), at.checked_sub(1)].into_iter().flatten().find(|first| has_room(*first)) else {
        return;
    };
    let behind = branches.remove(first + 1).below;
    match (&mut branches[first].below, behind) {
        (Node::Leaf(intervals), Node::Leaf(more)) => intervals.extend(more),
        (Node::Inner(branches), Node::Inner(more)) => branches.extend(more),
        (Node::Leaf(_), Node::Inner(_)) | (Node::Inner(_), Node::Leaf(_)) => panic!("all leaves are equally deep"),
    }
    branches[first].measure();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matcher::index::signature::Guard;

    fn interval(low: u64, high: u64, filter: u32) -> Interval<u64> {
        Interval { low, high, posting: Posting::new(filter, false, Guard::NONE) }
    }

    fn found_by(tree: &Tree<u64>, value: u64) -> Vec<u32> {
        let mut found = Vec::new();
        tree.visit(&value, &mut |interval: &Interval<u64>| found.push(interval.posting.filter()));
        found.sort_unstable();
        found
    }

    /// The depth of a tree in which every node holds what it must.
    fn depth(node: &Node<u64>) -> usize {
        assert!(node.len() <= NODE_MAX);
        let Node::Inner(branches) = node else { return 1 };
        let depths: Vec<usize> = branches.iter().map(|branch| depth(&branch.below)).collect();
        assert!(depths.iter().all(|depth| *depth == depths[0]));
        for branch in branches {
            assert!(branch.first.order(branch.below.first()).is_eq() && branch.highest == *branch.below.highest());
        }
        1 + depths[0]
    }

    #[test]
    fn a_value_finds_the_intervals_around_it() {
        let mut rng = fastrand::Rng::with_seed(5);
        let mut tree = Tree::default();
        let mut expected: Vec<Interval<u64>> = Vec::new();
        let mut depth_max = 0;
        for round in 0..30_000_u32 {
            // Many come, then many go.
            let comes = if round / 5_000 % 2 == 0 { 4 } else { 1 };
            if rng.u32(..5) < comes || expected.is_empty() {
                let low = rng.u64(..500);
                let added = interval(low, low + rng.u64(..10), rng.u32(..2_000));
                tree.insert(added.clone());
                expected.push(added);
            } else {
                tree.remove(&expected.swap_remove(rng.usize(..expected.len())));
            }
            if round % 16 == 0 {
                let value = rng.u64(..520);
                let is_around = |interval: &&Interval<u64>| (interval.low..=interval.high).contains(&value);
                let mut filters: Vec<u32> = expected.iter().filter(is_around).map(|one| one.posting.filter()).collect();
                filters.sort_unstable();
                assert_eq!(found_by(&tree, value), filters);
                assert_eq!(tree.count(&value, 5), filters.len().min(5));
                assert_eq!(tree.len() as usize, expected.len());
                depth_max = depth_max.max(depth(&tree.root));
            }
        }
        assert_eq!(depth_max, 3);
        for one in expected {
            tree.remove(&one);
        }
        assert!(tree.is_empty() && matches!(&tree.root, Node::Leaf(intervals) if intervals.is_empty()));
    }

    #[test]
    fn many_equal_intervals_stay_shallow_and_leave_nothing() {
        let mut tree = Tree::default();
        for filter in 0..100_000 {
            tree.insert(interval(5, 5, filter));
        }
        assert!(depth(&tree.root) <= 5, "{}", depth(&tree.root));
        assert_eq!(found_by(&tree, 5).len(), 100_000);
        for filter in (0..100_000).filter(|filter| filter % 100 > 0) {
            tree.remove(&interval(5, 5, filter));
        }
        assert!(depth(&tree.root) <= 3, "{}", depth(&tree.root));
        assert_eq!(found_by(&tree, 5), (0..1_000).map(|filter| filter * 100).collect::<Vec<u32>>());
    }

    #[test]
    fn the_same_interval_may_be_there_twice() {
        let mut tree = Tree::default();
        for _ in 0..100 {
            tree.insert(interval(1, 2, 7));
        }
        for left in (0..100).rev() {
            tree.remove(&interval(1, 2, 7));
            assert_eq!(found_by(&tree, 1).len(), left);
        }
    }
}
