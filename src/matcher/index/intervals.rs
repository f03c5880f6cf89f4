//! Filters by a range that a value must be in.

use super::Posting;

/// No interval.
const NONE: u32 = u32::MAX;

/// Trees of intervals, which share their memory: each is sorted by where intervals begin, every part of it knows how
/// far its intervals reach, and chance keeps it balanced. So a value finds the intervals around it without a look at
/// the others.
#[derive(Debug)]
pub(super) struct Intervals<K> {
    nodes: Vec<Interval<K>>,
    free: Vec<u32>,
    seed: u64,
}

/// One interval, both ends included.
#[derive(Debug)]
pub(super) struct Interval<K> {
    pub(super) low: K,
    pub(super) high: K,
    /// The highest `high` of this and all below.
    highest: K,
    left: u32,
    right: u32,
    pub(super) posting: Posting,
}

/// One of the trees.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tree {
    root: u32,
    pub(super) len: u32,
}

impl Default for Tree {
    fn default() -> Self {
        Self { root: NONE, len: 0 }
    }
}

impl<K: Ord + Clone + Default> Intervals<K> {
    pub(super) fn new(seed: u64) -> Self {
        Self { nodes: Vec::new(), free: Vec::new(), seed }
    }

    /// Adds an interval to `tree`, and tells its place for [`Intervals::remove`]; a place never changes.
    pub(super) fn insert(&mut self, tree: &mut Tree, low: K, high: K, posting: Posting) -> u32 {
        let interval = Interval { low, highest: high.clone(), high, left: NONE, right: NONE, posting };
        let node = match self.free.pop() {
            Some(node) => {
                self.nodes[node as usize] = interval;
                node
            }
            None => {
                self.nodes.push(interval);
                u32::try_from(self.nodes.len() - 1).expect("fewer than 2^32 intervals fit into memory")
            }
        };
        tree.root = self.insert_below(tree.root, node);
        tree.len += 1;
        node
    }

    /// Removes the interval at `node` from `tree`.
    pub(super) fn remove(&mut self, tree: &mut Tree, node: u32) {
        tree.root = self.remove_below(tree.root, node);
        tree.len -= 1;
        let freed = &mut self.nodes[node as usize];
        (freed.low, freed.high, freed.highest) = (K::default(), K::default(), K::default());
        self.free.push(node);
        if tree.root == NONE && self.free.len() == self.nodes.len() {
            self.nodes = Vec::new();
            self.free = Vec::new();
        }
    }

    /// Calls `found` with every interval of `tree` around `value`. `todo` is empty before and after.
    #[inline]
    pub(super) fn visit<Q>(&self, tree: Tree, value: &Q, todo: &mut Vec<u32>, mut found: impl FnMut(&Interval<K>))
    where
        K: std::borrow::Borrow<Q>,
        Q: Ord + ?Sized,
    {
        todo.push(tree.root);
        while let Some(at) = todo.pop() {
            let mut at = at;
            while at != NONE {
                let node = &self.nodes[at as usize];
                if node.highest.borrow() < value {
                    break;
                }
                if node.low.borrow() <= value {
                    todo.push(node.right);
                    if node.high.borrow() >= value {
                        found(node);
                    }
                }
                at = node.left;
            }
        }
    }

    /// Chance, the same in every run.
    fn priority(&self, node: u32) -> u64 {
        let mut bits = self.seed ^ u64::from(node).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    fn is_before(&self, one: u32, other: u32) -> bool {
        let (a, b) = (&self.nodes[one as usize], &self.nodes[other as usize]);
        (&a.low, &a.high, one) < (&b.low, &b.high, other)
    }

    fn insert_below(&mut self, root: u32, node: u32) -> u32 {
        if root == NONE {
            return node;
        }
        if self.priority(node) > self.priority(root) {
            let (left, right) = self.split(root, node);
            return self.join(node, left, right);
        }
        let Interval { left, right, .. } = self.nodes[root as usize];
        if self.is_before(node, root) {
            let left = self.insert_below(left, node);
            self.join(root, left, right)
        } else {
            let right = self.insert_below(right, node);
            self.join(root, left, right)
        }
    }

    /// What is below `root`, in a part before `node` and a part after it.
    fn split(&mut self, root: u32, node: u32) -> (u32, u32) {
        if root == NONE {
            return (NONE, NONE);
        }
        let Interval { left, right, .. } = self.nodes[root as usize];
        if self.is_before(root, node) {
            let (before, after) = self.split(right, node);
            (self.join(root, left, before), after)
        } else {
            let (before, after) = self.split(left, node);
            (before, self.join(root, after, right))
        }
    }

    fn remove_below(&mut self, root: u32, node: u32) -> u32 {
        assert!(root != NONE, "an interval that is removed was inserted");
        let Interval { left, right, .. } = self.nodes[root as usize];
        if root == node {
            self.merge(left, right)
        } else if self.is_before(node, root) {
            let left = self.remove_below(left, node);
            self.join(root, left, right)
        } else {
            let right = self.remove_below(right, node);
            self.join(root, left, right)
        }
    }

    /// The tree of all in `left` and then all in `right`.
    fn merge(&mut self, left: u32, right: u32) -> u32 {
        if left == NONE || right == NONE {
            return if left == NONE { right } else { left };
        }
        if self.priority(left) > self.priority(right) {
            let Interval { left: before, right: inner, .. } = self.nodes[left as usize];
            let inner = self.merge(inner, right);
            self.join(left, before, inner)
        } else {
            let Interval { left: inner, right: after, .. } = self.nodes[right as usize];
            let inner = self.merge(left, inner);
            self.join(right, inner, after)
        }
    }

    /// `node` with these below it.
    fn join(&mut self, node: u32, left: u32, right: u32) -> u32 {
        let mut highest = self.nodes[node as usize].high.clone();
        for below in [left, right] {
            if below != NONE && self.nodes[below as usize].highest > highest {
                highest = self.nodes[below as usize].highest.clone();
            }
        }
        let joined = &mut self.nodes[node as usize];
        (joined.left, joined.right, joined.highest) = (left, right, highest);
        node
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matcher::index::signature::Guard;

    #[test]
    fn a_value_finds_the_intervals_around_it() {
        let mut rng = fastrand::Rng::with_seed(5);
        let mut intervals = Intervals::<u64>::new(1);
        let mut tree = Tree::default();
        let mut expected: Vec<(u32, u64, u64)> = Vec::new();
        for round in 0..4000_u32 {
            if rng.u32(..3) > 0 || expected.is_empty() {
                let low = rng.u64(..50);
                let high = low + rng.u64(..10);
                let node = intervals.insert(&mut tree, low, high, Posting::new(round, false, Guard::NONE));
                expected.push((node, low, high));
            } else {
                let (node, ..) = expected.swap_remove(rng.usize(..expected.len()));
                intervals.remove(&mut tree, node);
            }
            let value = rng.u64(..60);
            let mut count = 0;
            let mut todo = Vec::new();
            intervals.visit(tree, &value, &mut todo, |interval| {
                assert!(interval.low <= value && value <= interval.high);
                count += 1;
            });
            assert!(todo.is_empty());
            assert_eq!(count, expected.iter().filter(|(_, low, high)| (low..=high).contains(&&value)).count());
            assert_eq!(tree.len as usize, expected.len());
        }
        for (node, ..) in expected {
            intervals.remove(&mut tree, node);
        }
        assert!(intervals.nodes.is_empty());
    }

    #[test]
    fn many_equal_intervals_stay_shallow() {
        let mut intervals = Intervals::<u64>::new(1);
        let mut tree = Tree::default();
        for filter in 0..100_000 {
            intervals.insert(&mut tree, 5, 5, Posting::new(filter, false, Guard::NONE));
        }
        let depth = |mut at: u32, goes_left: bool| {
            let mut depth = 0;
            while at != NONE {
                let node = &intervals.nodes[at as usize];
                at = if goes_left { node.left } else { node.right };
                depth += 1;
            }
            depth
        };
        assert!(depth(tree.root, true) < 100 && depth(tree.root, false) < 100);
    }
}
