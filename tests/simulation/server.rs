//! A server without sockets, as small as a schedule wants it.

use std::sync::Arc;

use starfeed::catalog;
use starfeed::change::Table;
use starfeed::feed::{Demand, FeedLimits, Feeds, PagesLimits, Waiting};
use starfeed::matcher::FilterLimits;
use starfeed::metrics::Metrics;
use starfeed::session::{SessionContext, SessionLimits, Writes};
use starfeed::store::{PageBudget, Store, TableIndexes};
use starfeed::subscription::{SubscriptionLimits, SubscriptionManager};
use starfeed::token::TokenSeal;

use super::model::Model;

/// What lives as long as the process.
pub(super) struct Server {
    pub(super) store: Store,
    pub(super) feeds: Arc<Feeds>,
    pub(super) context: Arc<SessionContext>,
    pub(super) waiting: Arc<Waiting>,
    pub(super) seal: TokenSeal,
}

/// How small the parts of a server are.
#[derive(Clone, Copy)]
pub(super) struct Figures {
    pub(super) window_bytes: usize,
    pub(super) page: PageBudget,
    pub(super) shared_bytes: usize,
    pub(super) shared_ms: u64,
    pub(super) waiting_bytes: usize,
}

/// What a message is held against.
#[derive(Clone, Copy)]
pub(crate) struct Truth<'a> {
    pub(crate) model: &'a Model,
    pub(crate) store: &'a Store,
    pub(crate) feeds: &'a Feeds,
    pub(crate) seal: &'a TokenSeal,
}

/// Tables are followed here whether anybody subscribes to them or not.
#[derive(Debug)]
struct NoDemand;

impl Demand for NoDemand {
    fn changed(&self, _: &Table) {}
}

/// What clients of the simulation read by index; the other tables have no use for theirs here.
pub(super) fn indexes() -> Vec<TableIndexes> {
    let of = |name| catalog::stored_table(name).expect("a table of the catalog");
    ["response", "job"].map(of).map(|table| TableIndexes { table: table.table(), indexes: table.indexes }).into()
}

impl Server {
    pub(super) fn new(store: Store, figures: Figures) -> Self {
        let metrics = Arc::new(Metrics::default());
        let limits = FeedLimits {
            window_bytes: figures.window_bytes,
            table_filter_cost: 1_000_000,
            pattern_bytes: 1 << 20,
            direct_writes: 4,
            hash_seed: 1,
        };
        let feeds = Feeds::of_source(store.position().seq, limits, Arc::clone(&metrics), Arc::new(NoDemand));
        let limits = SubscriptionLimits { per_connection: 128, total: 1_000 };
        let subscriptions = SubscriptionManager::new(Arc::clone(&feeds), limits);
        let limits = SessionLimits {
            requests: 64,
            request_bytes: 1 << 20,
            row_bytes: 1 << 20,
            answer_bytes: 1 << 20,
            import_bytes: 1 << 20,
            page: figures.page,
            pages: PagesLimits { bytes: figures.shared_bytes, kept_ms: figures.shared_ms, range: figures.page },
            filters: FilterLimits::default(),
        };
        let context = SessionContext::new(&store, subscriptions, metrics, limits, Writes::Overlap, Arc::default());
        let seal = TokenSeal::new(store.secret());
        Self { store, feeds, context, waiting: Waiting::new(figures.waiting_bytes), seal }
    }
}
