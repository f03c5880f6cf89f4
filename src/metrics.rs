//! What can be counted, for `/metrics`: typed handles without a global registry.

use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

type Labels = Vec<(&'static str, String)>;

/// All metrics of a server.
pub struct Metrics {
    registry: Registry,
    /// Connections that are open now, WebSocket or not.
    pub connections: Gauge,
    /// Connections accepted.
    pub connections_accepted: Counter,
    /// WebSocket connections that the server ended, by reason.
    pub closed: Family<Labels, Counter>,
    /// HTTP requests answered without an upgrade, by status.
    pub http_responses: Family<Labels, Counter>,
    /// Requests received.
    pub requests: Counter,
    /// Messages sent: responses and events.
    pub messages_sent: Counter,
    /// Their bytes.
    pub bytes_sent: Counter,
    /// Subscriptions now.
    pub subscriptions: Gauge,
    /// Subscriptions that the feeds hand changes to, by table; the others are behind.
    pub live_subscriptions: Family<Labels, Gauge>,
    /// How often a subscription did not fit into its outbox and fell behind.
    pub fell_behind: Counter,
    /// Rows that could not be shown, or only in part.
    pub row_problems: Gauge,
    /// The newest position of the store.
    pub store_position: Gauge<i64, AtomicI64>,
    /// Bytes of log entries kept.
    pub store_log_bytes: Gauge,
    /// Changes written.
    pub store_changes: Gauge,
    /// Commits.
    pub store_commits: Gauge,
    /// Commits that the disk refused.
    pub store_failures: Gauge,
    /// Bytes that wait to be written.
    pub store_queued_bytes: Gauge,
    /// The limits in force, by config key.
    pub limits: Family<Labels, Gauge<f64, AtomicU64>>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("starfeed");
        macro_rules! metric {
            ($name:literal, $help:literal) => {{
                let metric = Default::default();
                registry.register($name, $help, Clone::clone(&metric));
                metric
            }};
        }
        let connections: Gauge = metric!("connections", "Connections open now");
        let connections_accepted: Counter = metric!("connections_accepted", "Connections accepted");
        let closed: Family<Labels, Counter> =
            metric!("connections_closed", "WebSocket connections that the server ended, by reason");
        let http_responses: Family<Labels, Counter> =
            metric!("http_responses", "HTTP requests answered without an upgrade, by status");
        let requests: Counter = metric!("requests", "Requests received");
        let messages_sent: Counter = metric!("messages_sent", "Responses and events sent");
        let bytes_sent: Counter = metric!("bytes_sent", "Bytes of responses and events sent");
        let subscriptions: Gauge = metric!("subscriptions", "Subscriptions now");
        let live_subscriptions: Family<Labels, Gauge> =
            metric!("subscriptions_live", "Subscriptions that are level with their table, by table");
        let fell_behind: Counter =
            metric!("subscriptions_fell_behind", "Subscriptions that did not fit into their outbox and fell behind");
        let row_problems: Gauge = metric!("row_problems", "Times a row could not be shown, or only in part");
        let store_position: Gauge<i64, AtomicI64> = metric!("store_position", "Number of the newest change");
        let store_log_bytes: Gauge = metric!("store_log_bytes", "Bytes of the changes kept for readers that come back");
        let store_changes: Gauge = metric!("store_changes", "Changes written since the start");
        let store_commits: Gauge = metric!("store_commits", "Commits since the start");
        let store_failures: Gauge = metric!("store_failures", "Commits that the disk refused since the start");
        let store_queued_bytes: Gauge = metric!("store_queued_bytes", "Bytes that wait to be written");
        let limits: Family<Labels, Gauge<f64, AtomicU64>> = metric!("limit", "Limits in force, by config key");
        Self {
            registry,
            connections,
            connections_accepted,
            closed,
            http_responses,
            requests,
            messages_sent,
            bytes_sent,
            subscriptions,
            live_subscriptions,
            fell_behind,
            row_problems,
            store_position,
            store_log_bytes,
            store_changes,
            store_commits,
            store_failures,
            store_queued_bytes,
            limits,
        }
    }
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
