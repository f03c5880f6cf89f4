//! The scenario `idle`: what connections and subscriptions cost a server while nothing happens.

use std::time::Duration;

use anyhow::Context;

use super::attended::Attended;
use super::engine::Stop;
use super::fan_out::Plan;
use super::filtered::{Ledger, Load};
use super::filters::Filter;
use super::process::Probe;
use super::subject::Subject;

/// Resident bytes of the server, one state behind the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rested {
    pub(super) connections: usize,
    pub(super) filters: usize,
    pub(super) before: u64,
    pub(super) with_connections: u64,
    pub(super) with_subscriptions: u64,
    pub(super) with_filters: u64,
    pub(super) before_shared: u64,
    pub(super) with_shared: u64,
}

/// Filters that many subscribe with.
const SHARED: usize = 1_000;

/// Until what a server does behind an answer is done.
const REST: Duration = Duration::from_secs(2);

/// Connects `plan.subscribers` clients, subscribes each to a list, then all together to `filters` filters more,
/// and twice to as many again that others have too: the first time fills what the allocator has kept of what came before.
pub(super) async fn run(subject: &Subject, plan: &Plan, filters: usize) -> anyhow::Result<Rested> {
    let probe = subject.probe.as_ref().context("the memory of a server is known by its process: --pid")?;
    let rested = || async {
        tokio::time::sleep(REST).await;
        Probe::resident_bytes(probe)
    };
    let before = rested().await?;
    let ledger = Ledger::new(Filter::mix(filters), Vec::new(), plan.subscribers, 0)?;
    let (address, core) = (subject.address.clone(), plan.cores.map(|cores| cores.generator));
    let load = Attended::start(Stop::default(), core, move |stop| Load::connect(&address, ledger, stop)).await?;
    let with_connections = rested().await?;
    load.run(Load::subscribe_plainly).await?;
    let with_subscriptions = rested().await?;
    load.run(Load::subscribe).await?;
    let with_filters = rested().await?;
    load.run(move |load| load.subscribe_to_shared(SHARED.min(filters))).await?;
    let before_shared = rested().await?;
    load.run(move |load| load.subscribe_to_shared(SHARED.min(filters))).await?;
    let with_shared = rested().await?;
    Ok(Rested {
        connections: plan.subscribers,
        filters,
        before,
        with_connections,
        with_subscriptions,
        with_filters,
        before_shared,
        with_shared,
    })
}

impl Rested {
    /// Bytes for each connection with one subscription.
    pub(super) fn bytes_per_connection(&self) -> u64 {
        per(self.with_subscriptions.saturating_sub(self.before), self.connections)
    }

    /// Bytes for each connection that has subscribed to nothing.
    pub(super) fn bytes_per_bare_connection(&self) -> u64 {
        per(self.with_connections.saturating_sub(self.before), self.connections)
    }

    /// Bytes for each further subscription, with its filter.
    pub(super) fn bytes_per_filter(&self) -> u64 {
        per(self.with_filters.saturating_sub(self.with_subscriptions), self.filters)
    }

    /// Bytes for each further subscription with a filter that others have too.
    pub(super) fn bytes_per_shared_filter(&self) -> u64 {
        per(self.with_shared.saturating_sub(self.before_shared), self.filters)
    }
}

fn per(bytes: u64, count: usize) -> u64 {
    bytes.checked_div(count as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pays_for_what_it_added() {
        let rested = Rested {
            connections: 10,
            filters: 100,
            before: 1_000,
            with_connections: 3_000,
            with_subscriptions: 6_000,
            with_filters: 26_000,
            before_shared: 27_000,
            with_shared: 37_000,
        };
        assert_eq!(rested.bytes_per_bare_connection(), 200);
        assert_eq!(rested.bytes_per_connection(), 500);
        assert_eq!((rested.bytes_per_filter(), rested.bytes_per_shared_filter()), (200, 100));
        assert_eq!(Rested { filters: 0, ..rested }.bytes_per_filter(), 0);
    }
}
