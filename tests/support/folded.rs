//! What an application has that folds up the changes a subscriber brings.

use std::collections::BTreeMap;
use std::time::Duration;

use starfeed::change::Key;
use starfeed::client::{Row, Status, Subscriber, SubscriptionIndex, Update};
use tokio::time::timeout;

/// Nothing that is tested takes so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// A subscriber, and for each of its subscriptions the rows of its changes.
pub(crate) struct Folded {
    pub(crate) subscriber: Subscriber,
    pub(crate) tables: Vec<BTreeMap<Key, Row>>,
    /// One word and a key for each change of the first subscription: `Added a`.
    pub(crate) news: Vec<String>,
}

impl Folded {
    pub(crate) fn new(subscriber: Subscriber, tables: usize) -> Self {
        Self { subscriber, tables: vec![BTreeMap::new(); tables], news: Vec::new() }
    }

    /// The next update, folded up; what was there before has to be what is known.
    pub(crate) async fn next(&mut self) -> Update {
        let update = timeout(PATIENCE, self.subscriber.next()).await.expect("something happens");
        let update = update.expect("it goes on");
        self.fold(&update);
        update
    }

    pub(crate) fn fold(&mut self, update: &Update) {
        let Update::Row(index, change) = update else { return };
        let table = &mut self.tables[index.0];
        let old = match &change.new {
            Some(new) => table.insert(change.key.clone(), new.clone()),
            None => table.remove(&change.key),
        };
        assert_eq!(old, change.old, "{}", change.key);
        if index.0 == 0 {
            self.news.push(format!("{:?} {}", change.kind, change.key));
        }
    }

    /// Goes on until `wanted` has happened.
    pub(crate) async fn until(&mut self, wanted: impl Fn(&Update) -> bool) {
        while !wanted(&self.next().await) {}
    }

    /// Goes on until the first subscription has this status.
    pub(crate) async fn until_status(&mut self, wanted: Status) {
        self.until(|update| matches!(update, Update::Status(SubscriptionIndex(0), status) if *status == wanted)).await;
    }

    /// What came since the last call.
    pub(crate) fn take_news(&mut self) -> Vec<String> {
        std::mem::take(&mut self.news)
    }

    /// The keys and versions of the rows folded up, which are those of the view.
    pub(crate) fn rows(&self, index: usize) -> BTreeMap<String, u64> {
        let view = self.subscriber.view(SubscriptionIndex(index));
        let held: BTreeMap<Key, Row> = view.rows().map(|(key, row)| (key.clone(), row.clone())).collect();
        assert_eq!(self.tables[index], held, "changes folded up are the view");
        held.into_iter().map(|(key, row)| (key.to_string(), row.version.0)).collect()
    }
}
