//! How often a client may do something: at a rate, with some in advance.

use std::time::Duration;

use tokio::time::Instant;

/// What is not used is saved up for so long.
const SAVED_MAX: Duration = Duration::from_secs(5);

/// Time is the currency: it is earned by waiting, and each use costs a share of a second.
#[derive(Debug)]
pub(super) struct Allowance {
    cost: Duration,
    saved: Duration,
    counted_at: Instant,
}

impl Allowance {
    /// Allows so many uses a second, and five seconds' worth of them at once.
    pub(super) fn per_second(uses: u64, now: Instant) -> Self {
        let cost = Duration::from_nanos(1_000_000_000 / uses.max(1));
        Self { cost, saved: SAVED_MAX, counted_at: now }
    }

    /// Uses it once, unless that is too often.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let earned = self.saved + now.saturating_duration_since(self.counted_at);
        self.counted_at = now;
        // What was granted beyond what may be saved stays.
        self.saved = earned.min(SAVED_MAX.max(self.saved));
        let left = self.saved.checked_sub(self.cost);
        self.saved = left.unwrap_or(self.saved);
        left.is_some()
    }

    /// Grants what `pause` would have earned: uses that come late because they were not looked at come all at once.
    pub(super) fn grant(&mut self, pause: Duration) {
        self.saved += pause;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uses(allowance: &mut Allowance, now: Instant) -> usize {
        (0..10_000).take_while(|_| allowance.take(now)).count()
    }

    #[test]
    fn a_rate_is_kept_with_some_in_advance() {
        let start = Instant::now();
        let mut allowance = Allowance::per_second(20, start);
        assert_eq!(uses(&mut allowance, start), 100);
        assert_eq!(uses(&mut allowance, start + Duration::from_secs(1)), 20);
        // No more is saved than what may be used at once.
        assert_eq!(uses(&mut allowance, start + Duration::from_secs(1000)), 100);
    }

    #[test]
    fn who_keeps_the_rate_may_go_on_for_ever() {
        let start = Instant::now();
        let mut allowance = Allowance::per_second(20, start);
        assert!((1..10_000).all(|at| allowance.take(start + at * Duration::from_millis(50))));
    }

    #[test]
    fn what_came_late_is_granted_on_top() {
        let start = Instant::now();
        let mut allowance = Allowance::per_second(20, start);
        allowance.grant(Duration::from_secs(10));
        assert_eq!(uses(&mut allowance, start + Duration::from_secs(10)), 300);
        assert_eq!(uses(&mut allowance, start + Duration::from_secs(30)), 100, "and only once");
    }
}
