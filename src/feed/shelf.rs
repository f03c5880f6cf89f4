//! Where things are kept that somebody else may need soon: for a short time after they were used last, and never more of them
//! than there is room for.

use std::collections::BTreeMap;
use std::ops::Bound;

/// Things by their keys. What was not used for a while goes, and when there is no more room, what was not used for longest.
#[derive(Debug)]
pub(super) struct Shelf<K, V> {
    things: BTreeMap<K, Thing<V>>,
    /// The keys in the order of their last use.
    by_use: BTreeMap<u64, K>,
    uses: u64,
    bytes: usize,
    bytes_max: usize,
    idle_ms: u64,
    now_ms: u64,
}

#[derive(Debug)]
struct Thing<V> {
    value: V,
    bytes: usize,
    /// Its place in the order of use.
    use_number: u64,
    used_ms: u64,
}

impl<K: Ord + Clone, V> Shelf<K, V> {
    pub(super) fn new(bytes_max: usize, idle_ms: u64) -> Self {
        Self { things: BTreeMap::new(), by_use: BTreeMap::new(), uses: 0, bytes: 0, bytes_max, idle_ms, now_ms: 0 }
    }

    /// The newest time that anybody has told.
    pub(super) fn now_ms(&self) -> u64 {
        self.now_ms
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.things.is_empty()
    }

    /// It is `now_ms`, or later if somebody else says so: what was not used for too long goes.
    pub(super) fn tick(&mut self, now_ms: u64) {
        self.now_ms = self.now_ms.max(now_ms);
        while let Some(oldest) = self.by_use.first_entry()
            && self.things[oldest.get()].used_ms.saturating_add(self.idle_ms) < self.now_ms
        {
            let key = oldest.get().clone();
            self.remove(&key);
        }
    }

    /// Keeps `value`, which takes `bytes`, in the place of what had the same key.
    pub(super) fn put(&mut self, key: K, value: V, bytes: usize) {
        self.remove(&key);
        self.uses += 1;
        self.by_use.insert(self.uses, key.clone());
        self.things.insert(key, Thing { value, bytes, use_number: self.uses, used_ms: self.now_ms });
        self.bytes += bytes;
        while self.bytes > self.bytes_max
            && let Some((_, oldest)) = self.by_use.first_key_value()
        {
            let oldest = oldest.clone();
            self.remove(&oldest);
        }
    }

    /// What has this key, used once more.
    pub(super) fn take_up(&mut self, key: &K) -> Option<&mut V> {
        let thing = self.things.get_mut(key)?;
        self.uses += 1;
        self.by_use.remove(&thing.use_number);
        self.by_use.insert(self.uses, key.clone());
        (thing.use_number, thing.used_ms) = (self.uses, self.now_ms);
        Some(&mut thing.value)
    }

    /// What has this key.
    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.things.get(key).map(|thing| &thing.value)
    }

    /// The last one that has this key or one before it.
    pub(super) fn last_upto(&self, key: &K) -> Option<(&K, &V)> {
        let (key, thing) = self.things.range(..=key).next_back()?;
        Some((key, &thing.value))
    }

    /// The first key behind this one.
    pub(super) fn first_behind(&self, key: &K) -> Option<&K> {
        self.things.range((Bound::Excluded(key), Bound::Unbounded)).next().map(|(key, _)| key)
    }

    pub(super) fn remove(&mut self, key: &K) {
        if let Some(thing) = self.things.remove(key) {
            self.by_use.remove(&thing.use_number);
            self.bytes -= thing.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_last_stays_longest() {
        let mut shelf = Shelf::new(30, 1_000);
        for key in 1..=3 {
            shelf.put(key, key, 10);
        }
        assert_eq!(shelf.take_up(&1), Some(&mut 1));
        shelf.put(4, 4, 10);
        assert_eq!((shelf.get(&2), shelf.bytes()), (None, 30));
        shelf.put(5, 5, 20);
        assert_eq!([1, 3, 4, 5].map(|key| shelf.get(&key).is_some()), [false, false, true, true]);
        shelf.put(6, 6, 31);
        assert_eq!((shelf.is_empty(), shelf.bytes()), (true, 0), "more than all the room is not kept");
    }

    #[test]
    fn what_nobody_uses_goes() {
        let mut shelf = Shelf::new(100, 1_000);
        shelf.tick(500);
        shelf.put('a', 1, 10);
        shelf.put('b', 2, 10);
        shelf.tick(1_400);
        assert!(shelf.take_up(&'a').is_some());
        shelf.tick(1_501);
        assert_eq!((shelf.get(&'a'), shelf.get(&'b')), (Some(&1), None));
        // Somebody whose clock is behind changes nothing.
        shelf.tick(0);
        assert_eq!((shelf.now_ms(), shelf.bytes()), (1_501, 10));
        shelf.tick(2_401);
        assert_eq!((shelf.is_empty(), shelf.bytes()), (true, 0));
    }

    #[test]
    fn what_has_the_same_key_is_replaced() {
        let mut shelf = Shelf::new(100, 1_000);
        shelf.put(3, 'x', 10);
        shelf.put(3, 'y', 20);
        shelf.put(7, 'z', 1);
        assert_eq!((shelf.get(&3), shelf.bytes()), (Some(&'y'), 21));
        assert_eq!(shelf.last_upto(&6), Some((&3, &'y')));
        assert_eq!((shelf.last_upto(&2), shelf.first_behind(&3), shelf.first_behind(&7)), (None, Some(&7), None));
        shelf.remove(&3);
        assert_eq!((shelf.get(&3), shelf.bytes()), (None, 1));
    }
}
