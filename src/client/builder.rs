//! What a subscriber needs to know before it begins.

use super::{Client, ClientError, Query, Subscriber, SubscriptionIndex};
use crate::backoff::Random;

/// A subscriber to be: which server, and which subscriptions.
#[derive(Debug)]
pub struct SubscriberBuilder {
    url: String,
    queries: Vec<Query>,
    random: Random,
}

impl SubscriberBuilder {
    pub(super) fn new(url: &str) -> Self {
        Self { url: url.to_owned(), queries: Vec::new(), random: Random::fresh() }
    }

    /// With one more subscription; the first one is [`SubscriptionIndex`] 0.
    #[must_use]
    pub fn subscribe(mut self, query: Query) -> Self {
        self.queries.push(query);
        self
    }

    /// Draws its pauses from `seed`, so that a test can be repeated.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.random = Random::seeded(seed);
        self
    }

    /// The number that the next subscription will have.
    pub fn next_index(&self) -> SubscriptionIndex {
        SubscriptionIndex(self.queries.len())
    }

    /// Connects. Only this first attempt may fail: from then on lost connections are made again for ever.
    pub async fn connect(self) -> Result<Subscriber, ClientError> {
        let client = Client::connect(&self.url).await?;
        Ok(Subscriber::new(self.url, self.queries, self.random, client))
    }
}
