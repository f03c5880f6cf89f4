//! What can be counted, for `/metrics`: typed handles without a global registry.

use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::row_problems::RowProblems;

type Labels = Vec<(&'static str, String)>;

/// How long something takes, as a histogram in seconds.
#[derive(Clone, Debug)]
pub struct Durations(Histogram);

/// Seconds; finer where a delay begins to matter.
const DURATION_BOUNDS: [f64; 18] = [
    0.000_05, 0.000_1, 0.000_2, 0.000_3, 0.000_5, 0.000_7, 0.001, 0.001_5, 0.002, 0.003, 0.005, 0.007, 0.01, 0.02,
    0.05, 0.1, 0.5, 2.0,
];

impl Default for Durations {
    fn default() -> Self {
        Self(Histogram::new(DURATION_BOUNDS))
    }
}

impl Durations {
    /// Counts one that took so long.
    pub fn observe(&self, duration: Duration) {
        self.0.observe(duration.as_secs_f64());
    }
}

impl EncodeMetric for Durations {
    fn encode(&self, encoder: MetricEncoder<'_>) -> fmt::Result {
        self.0.encode(encoder)
    }

    fn metric_type(&self) -> MetricType {
        self.0.metric_type()
    }
}

macro_rules! metrics {
    ($($(#[doc = $help:literal])+ $field:ident: $kind:ty = $name:literal;)*) => {
        /// All metrics of a server.
        pub struct Metrics {
            registry: Registry,
            /// Rows that cannot be shown as they should be.
            pub row_problems: RowProblems,
            $($(#[doc = $help])+ pub $field: $kind,)*
        }

        impl Default for Metrics {
            fn default() -> Self {
                let mut registry = Registry::with_prefix("starfeed");
                $(
                    let $field = <$kind>::default();
                    let help = concat!($($help),+).trim();
                    registry.register($name, help.strip_suffix('.').unwrap_or(help), Clone::clone(&$field));
                )*
                let mut metrics = Self { registry, row_problems: RowProblems::default(), $($field,)* };
                metrics.row_problems = RowProblems::new(metrics.row_problem_count.clone());
                metrics
            }
        }
    };
}

metrics! {
    /// Connections that are open now, WebSocket or not.
    connections: Gauge = "connections";
    /// Connections accepted.
    connections_accepted: Counter = "connections_accepted";
    /// WebSocket connections that the server ended, by reason.
    closed: Family<Labels, Counter> = "connections_closed";
    /// HTTP requests answered without an upgrade, by status.
    http_responses: Family<Labels, Counter> = "http_responses";
    /// Requests received.
    requests: Counter = "requests";
    /// Messages sent: responses and events.
    messages_sent: Counter = "messages_sent";
    /// Their bytes.
    bytes_sent: Counter = "bytes_sent";
    /// Seconds from the commit of a change until it was written to the socket of a subscriber: of each write, the oldest in it.
    delivery_seconds: Durations = "delivery_seconds";
    /// Subscriptions now.
    subscriptions: Gauge = "subscriptions";
    /// Subscriptions that the feeds hand changes to, by table; the others are behind.
    live_subscriptions: Family<Labels, Gauge> = "subscriptions_live";
    /// Distinct filters that changes are matched against, by table.
    filters: Family<Labels, Gauge> = "filters";
    /// How often a subscription did not fit into its outbox and fell behind.
    fell_behind: Counter = "subscriptions_fell_behind";
    /// Subscriptions that went on from a token.
    resumed: Counter = "subscriptions_resumed";
    /// Subscriptions that were told to forget what they hold, by reason.
    resets: Family<Labels, Counter> = "subscriptions_reset";
    /// Changes that were not sent because a newer one of the same row was.
    coalesced: Counter = "changes_coalesced";
    /// How often a view was found to differ from what its subscribers were sent; it never should be.
    divergences: Counter = "divergences";
    /// Pages that were read, for subscriptions that are behind.
    pages_read: Counter = "pages_read";
    /// Pages that were there when a subscription needed them: read ahead, or for another one.
    pages_shared: Counter = "pages_shared";
    /// Ranges of the logs of tables that were read from the store.
    log_ranges_read: Counter = "log_ranges_read";
    /// Ranges of the logs of tables that were there when a subscription needed them.
    log_ranges_shared: Counter = "log_ranges_shared";
    /// Bytes of pages and ranges of logs that are kept for others who may need them.
    shared_bytes: Gauge = "shared_bytes";
    /// Bytes of changes and rows that wait for connections.
    waiting_bytes: Gauge = "waiting_bytes";
    /// Times a row could not be shown, or only in part.
    row_problem_count: Counter = "row_problems";
    /// The newest position of the store.
    store_position: Gauge<i64, AtomicI64> = "store_position";
    /// Bytes of log entries kept.
    store_log_bytes: Gauge = "store_log_bytes";
    /// Bytes of commits that are in the journal of the store, and not in their place yet.
    store_journal_bytes: Gauge = "store_journal_bytes";
    /// Changes written.
    store_changes: Gauge = "store_changes";
    /// Commits.
    store_commits: Gauge = "store_commits";
    /// Commits that the disk refused, and failures to write to the database what was committed.
    store_failures: Gauge = "store_failures";
    /// Bytes that wait to be written.
    store_queued_bytes: Gauge = "store_queued_bytes";
    /// Rows that changefeeds of the source have brought.
    source_rows: Counter = "source_rows";
    /// How often a table could not be followed in the source any more, by reason.
    source_doubts: Family<Labels, Counter> = "source_doubts";
    /// Whether the rows of a table are those of the source (1), or may be older (0), by table that has subscribers.
    source_level: Family<Labels, Gauge> = "source_level";
    /// Milliseconds that a row took to the source and back by a changefeed.
    source_lag_ms: Gauge = "source_lag_milliseconds";
    /// The limits in force, by config key.
    limits: Family<Labels, Gauge<f64, AtomicU64>> = "limit";
}

impl Metrics {
    /// All of them in the text format of OpenMetrics, which Prometheus reads.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string does not fail");
        text
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}
