//! How many rows a view has, and a digest of them that does not depend on their order: by it a client can tell whether it
//! holds what it should.

use crate::change::{Key, Seq};

/// The number of rows of a view, and the sum of their hashes.
///
/// It is kept up change by change. The hash finds accidents, not attacks: whoever could forge it already speaks for the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// How many rows.
    pub count: u64,
    /// The sum of [`row_hash`] over them, modulo 2^64.
    pub digest: u64,
}

impl Summary {
    /// With the row `key` as change `version` made it.
    pub fn add(&mut self, key: &Key, version: Seq) {
        self.add_stored(key.as_bytes(), version);
    }

    /// With the row whose key is kept as `key`, as change `version` made it.
    pub(crate) fn add_stored(&mut self, key: &[u8], version: Seq) {
        self.add_all(Self { count: 1, digest: stored_row_hash(key, version) });
    }

    /// With all the rows of `other` too.
    pub fn add_all(&mut self, other: Self) {
        self.count = self.count.wrapping_add(other.count);
        self.digest = self.digest.wrapping_add(other.digest);
    }

    /// Without the row `key` as change `version` made it.
    pub fn remove(&mut self, key: &Key, version: Seq) {
        self.count = self.count.wrapping_sub(1);
        self.digest = self.digest.wrapping_sub(row_hash(key, version));
    }
}

/// The hash of one row: FNV-1a over the version (8 bytes, least significant first) and the bytes of the key, then the
/// finalizer of MurmurHash3, without which sums of similar rows would be similar.
pub fn row_hash(key: &Key, version: Seq) -> u64 {
    stored_row_hash(key.as_bytes(), version)
}

fn stored_row_hash(key: &[u8], version: Seq) -> u64 {
    const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let with = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(PRIME);
    let mut hash = key.iter().fold(version.0.to_le_bytes().iter().fold(OFFSET_BASIS, with), with);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_does_not_matter_and_everything_else_does() {
        let rows = [(Key::text("a"), Seq(1)), (Key::text("b"), Seq(2)), (Key::text("a"), Seq(300))];
        let sum = |order: &[usize]| {
            let mut summary = Summary::default();
            order.iter().for_each(|&at| summary.add(&rows[at].0, rows[at].1));
            summary
        };
        assert_eq!(sum(&[0, 1]), sum(&[1, 0]));
        assert_ne!(sum(&[0, 1]), sum(&[2, 1]));
        let mut summary = sum(&[0, 1]);
        summary.remove(&rows[0].0, rows[0].1);
        assert_eq!(summary, sum(&[1]));
    }

    #[test]
    fn the_hash_is_the_one_that_clients_compute() {
        assert_eq!(row_hash(&Key::text("forum.example"), Seq(7)), 0xb4a6_73d9_4979_7a7d);
    }
}
