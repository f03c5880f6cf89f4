//! Subscriptions that are not to the rows of a table: what may be asked for.

use super::{Arrival, Plan, StreamPlan};
use crate::change::Timestamp;
use crate::proto::{RequestSubscribeJobStatus, RequestSubscribeResourceMonitor, RequestSubscribeTaskMonitor};

/// Jobs that ended longer ago are not told of.
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

pub(super) fn job_status(request: &RequestSubscribeJobStatus, arrival: &Arrival) -> Result<Plan, String> {
    let interval_ms = milliseconds("min_interval", request.min_interval())?;
    let since = Timestamp(arrival.now.0.saturating_sub(DAY_MS));
    Ok(Plan::Stream(StreamPlan::JobStatus { interval_ms, since }))
}

pub(super) fn resources(request: &RequestSubscribeResourceMonitor) -> Result<Plan, String> {
    let history = usize::try_from(request.history()).map_err(|_| "history must be ≥0.".to_owned())?;
    Ok(Plan::Stream(StreamPlan::Resources { history }))
}

pub(super) fn tasks(request: &RequestSubscribeTaskMonitor) -> Result<Plan, String> {
    let period_ms = milliseconds("period", request.period())?;
    Ok(Plan::Stream(StreamPlan::Tasks { period_ms }))
}

/// Seconds between two events: what is faster would only load server and client, what is slower looks like a failure.
const SECONDS: std::ops::RangeInclusive<f64> = 0.05..=3600.0;

fn milliseconds(field: &str, seconds: f64) -> Result<u64, String> {
    if !SECONDS.contains(&seconds) {
        return Err(format!("{field} must be {} to {} seconds.", SECONDS.start(), SECONDS.end()));
    }
    Ok((seconds * 1000.0).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_have_bounds() {
        assert_eq!(milliseconds("period", 0.05), Ok(50));
        assert_eq!(milliseconds("period", 1.0), Ok(1000));
        assert_eq!(milliseconds("period", 3600.0), Ok(3_600_000));
        for seconds in [0.0, -1.0, 0.049, 3600.1, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let text = "min_interval must be 0.05 to 3600 seconds.".to_owned();
            assert_eq!(milliseconds("min_interval", seconds), Err(text), "{seconds}");
        }
    }
}
