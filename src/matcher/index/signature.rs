//! A glance at a document that spares asking filters that need a value it does not hold.

/// What a document holds, with the values of the members that guards are about as two bits each of 256. Other values
/// may have the same bits: a signature tells for certain only what is not there.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Signature([u64; 4]);

/// A value that a filter needs; none of documents that lack it need be shown to the filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Guard {
    bits: [u8; 2],
    is_there: bool,
}

impl Guard {
    pub(super) const NONE: Self = Self { bits: [0; 2], is_there: false };

    /// The guard of the value with this key.
    pub(super) fn of(key: u64) -> Self {
        Self { bits: bits(key), is_there: true }
    }
}

impl Signature {
    /// Adds the value with this key.
    #[inline]
    pub(super) fn add(&mut self, key: u64) {
        for bit in bits(key) {
            self.0[usize::from(bit >> 6)] |= 1 << (bit & 63);
        }
    }

    /// Whether the document may hold what `guard` needs.
    #[inline]
    pub(super) fn passes(&self, guard: Guard) -> bool {
        let has = |bit: u8| self.0[usize::from(bit >> 6)] >> (bit & 63) & 1 == 1;
        !guard.is_there || has(guard.bits[0]) && has(guard.bits[1])
    }
}

#[inline]
fn bits(key: u64) -> [u8; 2] {
    [(key >> 24) as u8, (key >> 40) as u8]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_passes() {
        let mut signature = Signature::default();
        let keys = [0, u64::MAX, 0x0123_4567_89ab_cdef, 1 << 30];
        assert!(signature.passes(Guard::NONE));
        assert!(keys.iter().all(|key| !signature.passes(Guard::of(*key))));
        for key in keys {
            signature.add(key);
            assert!(signature.passes(Guard::of(key)));
        }
        assert!(!signature.passes(Guard::of(0x7777_7777_7777_7777)));
    }
}
