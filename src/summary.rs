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

    /// With all of `rows`: their keys as they are kept, and the changes that made them what they are.
    pub(crate) fn add_all_stored<'a>(&mut self, mut rows: impl ExactSizeIterator<Item = (&'a [u8], Seq)>) {
        self.count = self.count.wrapping_add(rows.len() as u64);
        while rows.len() >= AT_A_TIME {
            let next = std::array::from_fn(|_| rows.next().unwrap_or_default());
            stored_row_hashes(next).into_iter().for_each(|hash| self.digest = self.digest.wrapping_add(hash));
        }
        rows.for_each(|(key, version)| self.digest = self.digest.wrapping_add(stored_row_hash(key, version)));
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

/// So many rows are hashed together: each step of one waits for the step before it, and not for the others.
const AT_A_TIME: usize = 4;

fn stored_row_hashes(rows: [(&[u8], Seq); AT_A_TIME]) -> [u64; AT_A_TIME] {
    let keys = rows.map(|(key, _)| key);
    let all = keys.iter().map(|key| key.len()).min().unwrap_or_default();
    let [first, second, third, fourth] = keys.map(|key| &key[..all]);
    let mut hashes = rows.map(|(_, version)| of_version(version));
    for at in 0..all {
        hashes[0] = with_byte(hashes[0], first[at]);
        hashes[1] = with_byte(hashes[1], second[at]);
        hashes[2] = with_byte(hashes[2], third[at]);
        hashes[3] = with_byte(hashes[3], fourth[at]);
    }
    for (hash, key) in hashes.iter_mut().zip(keys) {
        *hash = finished(key[all..].iter().fold(*hash, |hash, byte| with_byte(hash, *byte)));
    }
    hashes
}

fn stored_row_hash(key: &[u8], version: Seq) -> u64 {
    finished(key.iter().fold(of_version(version), |hash, byte| with_byte(hash, *byte)))
}

const PRIME: u64 = 0x0000_0100_0000_01b3;

fn with_byte(hash: u64, byte: u8) -> u64 {
    (hash ^ u64::from(byte)).wrapping_mul(PRIME)
}

/// [`PRIME`] to the power of as many zeros as a version ends with.
const ZEROS: [u64; 9] = {
    let mut powers = [1_u64; 9];
    let mut zeros = 1;
    while zeros < powers.len() {
        powers[zeros] = powers[zeros - 1].wrapping_mul(PRIME);
        zeros += 1;
    }
    powers
};

fn of_version(version: Seq) -> u64 {
    const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    let zeros = version.0.leading_zeros() as usize / 8;
    let bytes = version.0.to_le_bytes();
    bytes[..8 - zeros].iter().fold(OFFSET_BASIS, |hash, byte| with_byte(hash, *byte)).wrapping_mul(ZEROS[zeros])
}

fn finished(mut hash: u64) -> u64 {
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
    fn rows_in_one_go_count_as_one_by_one() {
        let mut random = fastrand::Rng::with_seed(1);
        for count in 0..20 {
            let row = |_| {
                let key: Vec<u8> = (0..random.usize(0..12)).map(|_| random.u8(..)).collect();
                (key, Seq(random.u64(..) >> random.u32(0..64)))
            };
            let rows: Vec<_> = (0..count).map(row).collect();
            let (mut at_once, mut one_by_one) = (Summary::default(), Summary::default());
            at_once.add_all_stored(rows.iter().map(|(key, version)| (&key[..], *version)));
            rows.iter().for_each(|(key, version)| one_by_one.add_stored(key, *version));
            assert_eq!(at_once, one_by_one);
        }
    }

    #[test]
    fn the_hash_is_the_one_that_clients_compute() {
        assert_eq!(row_hash(&Key::text(""), Seq(0)), finished(with_byte(0xa8c7_f832_281a_39c5, b'3')));
        assert_eq!(row_hash(&Key::text("forum.example"), Seq(7)), 0xb4a6_73d9_4979_7a7d);
    }
}
