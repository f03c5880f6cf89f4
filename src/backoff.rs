//! How long to wait before the next attempt.

use std::time::Duration;

use uuid::Uuid;

/// Pauses whose bound doubles with each attempt that did not last, each drawn evenly from nothing to its bound: those
/// that lost the same server together do not come back together.
#[derive(Debug)]
pub(crate) struct Backoff {
    bound: Duration,
    max: Duration,
}

impl Backoff {
    const MIN: Duration = Duration::from_millis(100);

    /// Pauses of `max` at most; what lasts so long counts as a success.
    pub(crate) fn up_to(max: Duration) -> Self {
        Self { bound: Self::MIN, max }
    }

    /// The pause after something that `lasted` so long.
    pub(crate) fn pause_after(&mut self, lasted: Duration, random: &mut Random) -> Duration {
        if lasted >= self.max {
            self.bound = Self::MIN;
        }
        let pause = random.up_to(self.bound);
        self.bound = (self.bound * 2).min(self.max);
        pause
    }
}

/// A sequence of numbers that look random (SplitMix64): good enough for pauses, and the same again for the same seed.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// Another sequence each time.
    pub(crate) fn fresh() -> Self {
        Self(Uuid::new_v4().as_u64_pair().1)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn up_to(&mut self, bound: Duration) -> Duration {
        let micros = u64::try_from(bound.as_micros()).unwrap_or(u64::MAX - 1);
        Duration::from_micros(self.next() % (micros + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_grows_until_something_lasts() {
        let mut random = Random::seeded(7);
        let mut backoff = Backoff::up_to(Duration::from_secs(10));
        for bound in [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000] {
            assert_eq!(backoff.bound.as_millis(), bound);
            assert!(backoff.pause_after(Duration::from_secs(1), &mut random).as_millis() <= bound);
        }
        assert!(backoff.pause_after(Duration::from_secs(10), &mut random).as_millis() <= 100);
        assert_eq!(backoff.bound.as_millis(), 200);
    }

    #[test]
    fn pauses_fill_the_whole_range() {
        let mut random = Random::seeded(1);
        let pauses: Vec<u128> = (0..1000).map(|_| random.up_to(Duration::from_secs(1)).as_millis()).collect();
        for tenth in 0..10 {
            let share = pauses.iter().filter(|pause| **pause / 100 == tenth).count();
            assert!((50..200).contains(&share), "{share} of 1000 in one tenth");
        }
    }
}
