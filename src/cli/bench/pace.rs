//! When the next change is to be written.

use std::time::Duration;

use super::engine::Nanos;

/// How changes follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// At most so many changes that not everybody has.
    InFlight(u32),
    /// So many changes a second, whatever happens to them.
    PerSecond(u32),
}

/// A pace, and how far it has come.
#[derive(Clone, Copy, Debug)]
pub(super) enum Drive {
    /// Nothing is written.
    Rest,
    Closed {
        in_flight_max: u64,
        end: Nanos,
    },
    Open {
        begin: Nanos,
        per_second: u64,
        taken: u64,
        changes: u64,
        end: Nanos,
    },
}

impl Drive {
    pub(super) fn new(pace: Pace, now: Nanos, duration: Duration) -> Self {
        let end = now.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
        match pace {
            Pace::InFlight(changes) => Self::Closed { in_flight_max: u64::from(changes), end },
            Pace::PerSecond(rate) => Self::Open {
                begin: now,
                per_second: u64::from(rate),
                taken: 0,
                changes: (duration.as_secs_f64() * f64::from(rate)).ceil() as u64,
                end,
            },
        }
    }

    /// When the last change is due.
    pub(super) fn end(&self) -> Nanos {
        match self {
            Self::Rest => 0,
            Self::Closed { end, .. } | Self::Open { end, .. } => *end,
        }
    }

    /// Whether a change is to be written, with `in_flight` of those before.
    pub(super) fn is_due(&self, now: Nanos, in_flight: u64) -> bool {
        match self {
            Self::Rest => false,
            Self::Closed { in_flight_max, end } => in_flight < *in_flight_max && now < *end,
            Self::Open { begin, per_second, taken, changes, .. } => {
                taken < changes && begin + moment(*taken, *per_second) <= now
            }
        }
    }

    /// If a change is to be written: the moment that its latency counts from.
    pub(super) fn take_due(&mut self, now: Nanos, in_flight: u64) -> Option<Nanos> {
        if !self.is_due(now, in_flight) {
            return None;
        }
        match self {
            Self::Rest => None,
            Self::Closed { .. } => Some(now),
            Self::Open { begin, per_second, taken, .. } => {
                let due = *begin + moment(*taken, *per_second);
                *taken += 1;
                Some(due)
            }
        }
    }

    /// Whether nothing more is to be written, ever.
    pub(super) fn is_over(&self, now: Nanos) -> bool {
        match self {
            Self::Rest => true,
            Self::Closed { end, .. } => now >= *end,
            Self::Open { taken, changes, end, .. } => taken == changes && now >= *end,
        }
    }

    /// How long it takes until a change is due, as far as that depends on time.
    pub(super) fn wait(&self, now: Nanos, in_flight: u64) -> Duration {
        if self.is_due(now, in_flight) {
            return Duration::ZERO;
        }
        match self {
            Self::Rest => Duration::MAX,
            Self::Closed { end, .. } => until(*end, now),
            Self::Open { begin, per_second, taken, changes, .. } if taken < changes => {
                until(begin + moment(*taken, *per_second), now)
            }
            Self::Open { end, .. } => until(*end, now),
        }
    }
}

/// What is over is not waited for, however long that takes.
fn until(moment: Nanos, now: Nanos) -> Duration {
    if moment > now { Duration::from_nanos(moment - now) } else { Duration::MAX }
}

/// When a change is due, from the beginning.
fn moment(change: u64, per_second: u64) -> Nanos {
    u64::try_from(u128::from(change) * 1_000_000_000 / u128::from(per_second)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_loop_waits_for_those_in_flight() {
        let mut drive = Drive::new(Pace::InFlight(2), 100, Duration::from_nanos(50));
        assert_eq!(drive.take_due(110, 0), Some(110));
        assert_eq!(drive.take_due(111, 1), Some(111));
        assert_eq!(drive.take_due(112, 2), None);
        assert!(!drive.is_over(149));
        assert_eq!(drive.take_due(150, 0), None);
        assert!(drive.is_over(150));
    }

    #[test]
    fn an_open_loop_does_not_wait_and_forgets_nothing() {
        let mut drive = Drive::new(Pace::PerSecond(4), 1_000, Duration::from_secs(1));
        assert_eq!(drive.wait(500, 0), Duration::from_nanos(500));
        assert_eq!(drive.take_due(1_000, 9_999), Some(1_000));
        assert_eq!(drive.take_due(1_001, 9_999), None);
        // Late: the three that were due meanwhile count from when they were.
        let late = 900_000_000;
        let due: Vec<_> = std::iter::from_fn(|| drive.take_due(late, 9_999)).collect();
        assert_eq!(due, [250_001_000, 500_001_000, 750_001_000]);
        assert!(!drive.is_over(late));
        assert!(drive.is_over(1_000_001_000));
    }
}
