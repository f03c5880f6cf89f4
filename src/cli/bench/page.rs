//! What a server says of itself on its page of metrics.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::board::PATIENCE;
use super::subject::Subject;

const LIVE: &str = "starfeed_subscriptions_live";
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
const LIVE_TIMEOUT: Duration = Duration::from_secs(120);

/// Waits until `count` subscriptions are live: until then each has to read what changes by itself.
pub(super) fn wait_until_live(subject: &Subject, count: u64) -> anyhow::Result<()> {
    let begin = Instant::now();
    while live(&read(subject.address.authority())?) < count {
        ensure!(begin.elapsed() < LIVE_TIMEOUT, "not all subscriptions are live after {} s", LIVE_TIMEOUT.as_secs());
        std::thread::sleep(LOOK_INTERVAL);
    }
    Ok(())
}

/// The page.
pub(super) fn read(authority: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(authority)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("GET /metrics HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("/metrics cannot be read")?;
    Ok(answer)
}

/// The value of a counter, which may be written with `_total` behind its name.
pub(super) fn counter(metrics: &str, name: &str) -> Option<u64> {
    metrics.lines().find_map(|line| {
        let rest = line.strip_prefix(name)?;
        rest.strip_prefix("_total").unwrap_or(rest).strip_prefix(' ')?.trim().parse().ok()
    })
}

/// A histogram of seconds, as the page has it: the bounds of its buckets, and how many are below each.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Buckets(Vec<(f64, u64)>);

impl Buckets {
    /// The histogram `name`, if the page has it.
    pub(super) fn read(metrics: &str, name: &str) -> Option<Self> {
        let bucket = |line: &str| {
            let (bound, count) = line.strip_prefix(name)?.strip_prefix("_bucket{le=\"")?.split_once("\"} ")?;
            Some((bound.replace("+Inf", "inf").parse().ok()?, count.trim().parse().ok()?))
        };
        let buckets: Vec<_> = metrics.lines().filter_map(bucket).collect();
        (!buckets.is_empty()).then_some(Self(buckets))
    }

    /// What came since `before`.
    pub(super) fn since(&self, before: &Self) -> Self {
        let both = self.0.iter().zip(&before.0);
        Self(both.map(|(&(bound, count), &(_, earlier))| (bound, count.saturating_sub(earlier))).collect())
    }

    /// The seconds that so large a share of them stays within, evenly spread in each bucket; `None` without any.
    pub(super) fn quantile(&self, share: f64) -> Option<f64> {
        let all = self.0.last().map(|&(_, count)| count as f64).filter(|&all| all > 0.0)?;
        let mut below = (0.0, 0.0);
        for (bound, count) in self.0.iter().map(|&(bound, count)| (bound, count as f64)) {
            if count >= all * share {
                return Some(below.0 + (bound - below.0) * (all * share - below.1) / (count - below.1).max(1.0));
            }
            below = (bound, count);
        }
        None
    }
}

/// The subscriptions that are live, of all tables.
fn live(metrics: &str) -> u64 {
    let labelled = metrics.lines().filter_map(|line| line.strip_prefix(LIVE)?.strip_prefix('{')?.split_once("} "));
    labelled.filter_map(|(_, value)| value.trim().parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_is_read_and_has_quantiles() {
        let page = |ten: u64, all: u64| {
            format!(
                "a_bucket{{le=\"0.001\"}} {ten}\na_bucket{{le=\"0.003\"}} {all}\na_bucket{{le=\"+Inf\"}} {all}\na_count {all}\n"
            )
        };
        let read = |text: &str| Buckets::read(text, "a").expect("it is there");
        let since = read(&page(60, 110)).since(&read(&page(10, 10)));
        assert_eq!(since, Buckets(vec![(0.001, 50), (0.003, 100), (f64::INFINITY, 100)]));
        assert!((since.quantile(0.25).expect("some") - 0.0005).abs() < 1e-9);
        assert!((since.quantile(0.75).expect("some") - 0.002).abs() < 1e-9);
        assert_eq!(read(&page(1, 1)).since(&read(&page(1, 1))).quantile(0.5), None);
        assert_eq!(Buckets::read("b_bucket{le=\"1\"} 1\n", "a"), None);
    }

    #[test]
    fn a_counter_is_found_among_others() {
        let metrics = "HTTP/1.1 200 OK\r\n\r\n# TYPE starfeed_snapshot_pages_read counter\nstarfeed_snapshot_pages_read_total 12\n\
                       starfeed_snapshot_pages_read_seconds 5\nstarfeed_snapshot_pages_shared 3\n";
        assert_eq!(counter(metrics, "starfeed_snapshot_pages_read"), Some(12));
        assert_eq!(counter(metrics, "starfeed_snapshot_pages_shared"), Some(3));
        assert_eq!(counter("", "starfeed_snapshot_pages_read"), None);
    }

    #[test]
    fn the_live_ones_of_all_tables_count() {
        let metrics = "# TYPE starfeed_subscriptions_live gauge\nstarfeed_subscriptions_live{table=\"policy\"} 7\nstarfeed_subscriptions_live{table=\"schedule\"} 5\nstarfeed_subscriptions 99\n";
        assert_eq!(live(metrics), 12);
    }
}
