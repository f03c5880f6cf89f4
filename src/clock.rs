//! The wall clock, passed to whoever needs it: nothing below reads time by itself.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::change::Timestamp;

/// Tells the time of day.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock;

impl Clock {
    /// Now. A clock set before 1970 counts as 1970.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
    pub fn now(self) -> Timestamp {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX))
    }
}
