//! When the copy of a table holds a write that the database has acknowledged.
//!
//! The write of a row is watched for before it is sent. The changes of one row come in the order in which the database made them; so once
//! the row was written here as the answer says that it was left there, everything up to that write is here.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::change::{Document, Key, Table};
use crate::store::{IfPresent, Mutation, Store, read};
use crate::task;

/// What a row became: `None` where it is gone.
pub(super) type Became = Option<Document>;

/// Contents of one row that are remembered for a watcher; a row that changes more often meanwhile is looked up.
const REMEMBERED_MAX: usize = 64;

/// Who waits for rows of one table.
pub(super) struct Visibility {
    table: Table,
    store: Store,
    watchers: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// A feed of the table is open, so that what was written comes.
    is_followed: bool,
    watched: HashMap<Key, Vec<Arc<Watched>>>,
}

struct Watched {
    seen: Mutex<Seen>,
    news: Notify,
}

#[derive(Default)]
struct Seen {
    became: Vec<Became>,
    /// What was not remembered may be in the store.
    is_to_be_looked_up: bool,
    is_given_up: bool,
}

/// Watches one row; made before the write is sent.
pub(super) struct Watch {
    key: Key,
    watched: Arc<Watched>,
    visibility: Arc<Visibility>,
}

impl Visibility {
    pub(super) fn new(table: Table, store: Store) -> Arc<Self> {
        Arc::new(Self { table, store, watchers: AtomicUsize::new(0), state: Mutex::default() })
    }

    /// Watches the row of `key`.
    pub(super) fn watch(self: &Arc<Self>, key: &Key) -> Watch {
        let watched = Arc::new(Watched { seen: Mutex::default(), news: Notify::new() });
        let mut state = self.lock();
        state.watched.entry(key.clone()).or_default().push(Arc::clone(&watched));
        self.watchers.fetch_add(1, Ordering::Release);
        Watch { key: key.clone(), watched, visibility: Arc::clone(self) }
    }

    /// What `mutations` will have made of the rows that are watched, if any are.
    pub(super) fn about(&self, mutations: &[Mutation]) -> Vec<(Key, Became)> {
        if self.watchers.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        let state = self.lock();
        let watched = mutations.iter().filter(|mutation| state.watched.contains_key(&mutation.key));
        let became = |mutation: &Mutation| match &mutation.if_present {
            IfPresent::Replace(document) => Some(document.clone()),
            IfPresent::Merge(_) | IfPresent::Delete | IfPresent::Refuse(_) | IfPresent::When(..) => None,
        };
        watched.map(|mutation| (mutation.key.clone(), became(mutation))).collect()
    }

    /// These are in the store now, and published.
    pub(super) fn applied(&self, rows: Vec<(Key, Became)>) {
        let state = self.lock();
        for (key, became) in rows {
            for watched in state.watched.get(&key).into_iter().flatten() {
                let mut seen = watched.lock();
                if seen.became.len() < REMEMBERED_MAX {
                    seen.became.push(became.clone());
                } else {
                    seen.is_to_be_looked_up = true;
                }
                drop(seen);
                watched.news.notify_one();
            }
        }
    }

    /// A feed of the table is being opened: what is written from now on comes.
    pub(super) fn follow(&self) {
        self.lock().is_followed = true;
    }

    /// The store holds what the database held a moment ago: what is watched may be there without having been written.
    pub(super) fn is_level(&self) {
        self.for_all(|seen| seen.is_to_be_looked_up = true);
    }

    /// The feed is gone; nobody can tell when something comes.
    pub(super) fn unfollow(&self) {
        self.lock().is_followed = false;
        self.for_all(|seen| seen.is_given_up = true);
    }

    fn for_all(&self, work: impl Fn(&mut Seen)) {
        for watched in self.lock().watched.values().flatten() {
            work(&mut watched.lock());
            watched.news.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn holds(&self, key: &Key, became: &Became) -> bool {
        let (store, table, key) = (self.store.clone(), self.table.clone(), key.clone());
        let row = task::blocking(move || read(&store, |snapshot| snapshot.row(&table, &key))).await;
        row.is_ok_and(|row| row.map(|row| row.document) == *became)
    }
}

impl Watched {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch {
    /// Waits until the row was written here as `became`, for `patience` at most; not where no feed would bring it.
    pub(super) async fn until(self, became: Became, patience: Duration) {
        if !self.expects_news() || self.visibility.holds(&self.key, &became).await {
            // Nothing brings it; or the database did not have to change anything.
            return;
        }
        let wait = async {
            loop {
                let (is_here, is_to_be_looked_up) = {
                    let mut seen = self.watched.lock();
                    let is_here = seen.is_given_up || seen.became.contains(&became);
                    (is_here, std::mem::take(&mut seen.is_to_be_looked_up))
                };
                if is_here || is_to_be_looked_up && self.visibility.holds(&self.key, &became).await {
                    return;
                }
                self.watched.news.notified().await;
            }
        };
        if tokio::time::timeout(patience, wait).await.is_err() {
            let table = &self.visibility.table;
            tracing::warn!(%table, key = %self.key, "an acknowledged write was not seen in the changefeed in time");
        }
    }

    /// Whether a feed would bring what was written.
    fn expects_news(&self) -> bool {
        let state = self.visibility.lock();
        // A feed that went before counts no more: the one that is open now has read the table, or is about to.
        self.watched.lock().is_given_up = false;
        state.is_followed
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut state = self.visibility.lock();
        self.visibility.watchers.fetch_sub(1, Ordering::Release);
        if let Some(watched) = state.watched.get_mut(&self.key) {
            watched.retain(|other| !Arc::ptr_eq(other, &self.watched));
            if watched.is_empty() {
                state.watched.remove(&self.key);
            }
        }
    }
}

impl fmt::Debug for Visibility {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Visibility({} watchers)", self.watchers.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Epoch, Timestamp};
    use crate::store::{MemoryDisk, Retention, StoreOptions, StoreSecret};

    /// Far more than anything here takes.
    const PATIENCE: Duration = Duration::from_secs(3600);

    fn policies() -> Arc<Visibility> {
        let options = StoreOptions {
            retention: Retention { bytes: 1 << 20, age_ms: u64::MAX },
            cache_bytes: 1 << 20,
            journal_bytes: 1 << 20,
            fresh_epoch: Epoch(1),
            fresh_secret: StoreSecret([7; 32]),
            indexes: Vec::new(),
        };
        let store = Store::open(Box::new(MemoryDisk), options).expect("a store in memory");
        Visibility::new(Table::new("policy"), store)
    }

    fn document(name: &str) -> Document {
        Document::parse(format!(r#"{{"name":"{name}"}}"#).as_bytes()).expect("an object")
    }

    fn put(name: &str) -> Mutation {
        Mutation::put(Table::new("policy"), Key::text("k"), document(name))
    }

    /// What a feed brings is written, as the copy does it.
    fn bring(visibility: &Visibility, mutation: Mutation) {
        let rows = visibility.about(std::slice::from_ref(&mutation));
        visibility.store.commit(Timestamp(0), &[vec![mutation]]).expect("the disk works");
        visibility.applied(rows);
    }

    async fn is_waiting(waiting: &mut std::pin::Pin<Box<impl Future<Output = ()>>>) -> bool {
        // Long enough for a lookup in the store, which is all that it may be busy with.
        tokio::time::timeout(Duration::from_millis(100), waiting).await.is_err()
    }

    #[tokio::test]
    async fn a_write_is_waited_for_until_it_is_here() {
        let visibility = policies();
        visibility.follow();
        let watch = visibility.watch(&Key::text("k"));
        let mut waiting = Box::pin(watch.until(Some(document("b")), PATIENCE));
        assert!(is_waiting(&mut waiting).await);
        bring(&visibility, put("a"));
        assert!(is_waiting(&mut waiting).await, "that is an older one");
        bring(&visibility, put("b"));
        bring(&visibility, put("c"));
        waiting.await;
        assert!(visibility.lock().watched.is_empty(), "nothing is left");
    }

    #[tokio::test]
    async fn a_write_that_no_feed_brings_is_not_waited_for() {
        let visibility = policies();
        visibility.watch(&Key::text("k")).until(Some(document("a")), PATIENCE).await;
        visibility.follow();
        let waiting = visibility.watch(&Key::text("k")).until(Some(document("a")), PATIENCE);
        visibility.unfollow();
        waiting.await;
    }

    #[tokio::test]
    async fn a_feed_that_was_opened_anew_before_the_answer_is_waited_for() {
        let visibility = policies();
        visibility.follow();
        let watch = visibility.watch(&Key::text("k"));
        visibility.unfollow();
        visibility.follow();
        visibility.is_level();
        let mut waiting = Box::pin(watch.until(Some(document("a")), PATIENCE));
        assert!(is_waiting(&mut waiting).await, "the feed that is open now brings it");
        bring(&visibility, put("a"));
        waiting.await;
    }

    #[tokio::test]
    async fn a_deletion_and_what_was_there_already_are_seen() {
        let visibility = policies();
        visibility.follow();
        bring(&visibility, put("a"));
        visibility.watch(&Key::text("k")).until(Some(document("a")), PATIENCE).await;
        let mut waiting = Box::pin(visibility.watch(&Key::text("k")).until(None, PATIENCE));
        assert!(is_waiting(&mut waiting).await);
        bring(&visibility, Mutation::delete(Table::new("policy"), Key::text("k")));
        waiting.await;
    }
}
