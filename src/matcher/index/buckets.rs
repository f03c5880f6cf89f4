//! Filters by a value that a document must hold.

use hashbrown::HashTable;

use super::Posting;

/// Which filters to ask where a document holds a value, by the key of the value.
///
/// Keys are 64 bits of a hash: two values may share one, so what is found is only worth asking.
#[derive(Debug, Default)]
pub(super) struct Buckets {
    table: HashTable<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    key: u64,
    postings: Postings,
}

/// Most values that tell documents apart lead to one filter.
#[derive(Debug)]
enum Postings {
    One(Posting),
    Many(Vec<Posting>),
}

impl Buckets {
    #[inline]
    pub(super) fn find(&self, key: u64) -> &[Posting] {
        match self.table.find(key, |bucket| bucket.key == key).map(|bucket| &bucket.postings) {
            Some(Postings::One(posting)) => std::slice::from_ref(posting),
            Some(Postings::Many(postings)) => postings,
            None => &[],
        }
    }

    /// Adds `posting` to those of `key`, and tells its place among them.
    pub(super) fn insert(&mut self, key: u64, posting: Posting) -> u32 {
        let Some(bucket) = self.table.find_mut(key, |bucket| bucket.key == key) else {
            let bucket = Bucket { key, postings: Postings::One(posting) };
            self.table.insert_unique(key, bucket, |bucket| bucket.key);
            return 0;
        };
        match &mut bucket.postings {
            Postings::One(first) => {
                bucket.postings = Postings::Many(vec![*first, posting]);
                1
            }
            Postings::Many(postings) => {
                postings.push(posting);
                u32::try_from(postings.len() - 1).expect("there are fewer than 2^32 filters")
            }
        }
    }

    /// Removes the posting at `place`; the one that takes its place is told, with the place that it had.
    pub(super) fn remove(&mut self, key: u64, place: u32) -> Option<(Posting, u32)> {
        let found = self.table.find_entry(key, |bucket| bucket.key == key);
        let mut entry = found.expect("what was inserted is there");
        let Postings::Many(postings) = &mut entry.get_mut().postings else {
            entry.remove();
            self.shrink();
            return None;
        };
        postings.swap_remove(place as usize);
        let moved = postings.get(place as usize).map(|posting| (*posting, postings.len() as u32));
        if let [last] = postings[..] {
            entry.get_mut().postings = Postings::One(last);
        } else if postings.len() < postings.capacity() / 4 {
            postings.shrink_to(postings.len() * 2);
        }
        moved
    }

    /// Gives memory back after many have gone; seldom enough to cost nothing on the whole.
    fn shrink(&mut self) {
        if self.table.len() < self.table.capacity() / 8 {
            self.table.shrink_to(self.table.len() * 2, |bucket| bucket.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matcher::index::signature::Guard;

    #[test]
    fn what_moves_is_told() {
        let mut buckets = Buckets::default();
        let postings = [0, 1, 2].map(|filter| Posting::new(filter, false, Guard::NONE));
        for (place, posting) in postings.iter().enumerate() {
            assert_eq!(buckets.insert(7, *posting), place as u32);
        }
        assert_eq!(buckets.remove(7, 0), Some((postings[2], 2)));
        assert_eq!(buckets.find(7), &[postings[2], postings[1]]);
        assert_eq!(buckets.remove(7, 1), None);
        assert_eq!(buckets.find(7), &[postings[2]]);
        assert_eq!(buckets.remove(7, 0), None);
        assert!(buckets.find(7).is_empty());
        assert!(buckets.find(8).is_empty());
    }

    #[test]
    fn memory_is_given_back() {
        let mut buckets = Buckets::default();
        for key in 0..10_000 {
            buckets.insert(key << 40, Posting::new(1, false, Guard::NONE));
        }
        for key in 0..10_000 {
            buckets.remove(key << 40, 0);
        }
        assert!(buckets.table.capacity() < 100, "{}", buckets.table.capacity());
    }
}
