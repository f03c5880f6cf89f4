//! Who is connected, and what they subscribe to: for whoever watches the server at work.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use uuid::Uuid;

use crate::change::Seq;
use crate::feed::Outbox;
use crate::roster::{Numbered, Roster};
use crate::view::View;

/// All connections.
#[derive(Debug, Default)]
pub struct Directory {
    state: Mutex<DirectoryState>,
}

#[derive(Debug, Default)]
struct DirectoryState {
    next: u64,
    connections: BTreeMap<u64, Weak<Listing>>,
}

/// One connection, as long as its session holds it.
pub struct Listing {
    number: u64,
    peer: String,
    outbox: Arc<Outbox>,
    subscriptions: Mutex<Subscriptions>,
    directory: Arc<Directory>,
}

#[derive(Debug, Default)]
struct Subscriptions {
    all: Roster<Listed>,
    /// Those that are not live.
    behind: Roster<Behind>,
}

#[derive(Debug)]
struct Listed {
    subscription_id: i32,
    subject: Subject,
}

// There is one for each subscription.
const _: () = assert!(size_of::<Listed>() <= 24);

impl Numbered for Listed {
    type Number = i32;

    fn number(&self) -> i32 {
        self.subscription_id
    }
}

#[derive(Debug)]
struct Behind {
    subscription_id: i32,
    progress: Progress,
}

impl Numbered for Behind {
    type Number = i32;

    fn number(&self) -> i32 {
        self.subscription_id
    }
}

/// What a subscription is to.
#[derive(Clone, Debug)]
pub enum Subject {
    /// Rows of a table.
    View(Arc<View>),
    /// What a job downloads.
    Job(Box<Uuid>),
    /// What the server does.
    Tasks,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // What others look for is their business, and their filters may be long.
            Self::View(view) if view.filter.is_some() => write!(f, "{} by a filter", view.table),
            Self::View(view) => write!(f, "{}", view.table),
            Self::Job(id) => write!(f, "items of job {id}"),
            Self::Tasks => f.write_str("tasks"),
        }
    }
}

/// How far a subscription is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It gets what happens as it happens.
    Live,
    /// It gets the rows that are there.
    Snapshot,
    /// It has everything up to here, and what follows is yet to be read for it.
    Behind(Seq),
}

impl Directory {
    pub(super) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Lists a connection from `peer`, whose changes wait in `outbox`, until the listing is dropped.
    pub fn list(self: &Arc<Self>, peer: String, outbox: &Arc<Outbox>) -> Arc<Listing> {
        let mut state = self.lock();
        let number = state.next;
        state.next += 1;
        let listing = Arc::new(Listing {
            number,
            peer,
            outbox: Arc::clone(outbox),
            subscriptions: Mutex::default(),
            directory: Arc::clone(self),
        });
        state.connections.insert(number, Arc::downgrade(&listing));
        listing
    }

    /// The connections, oldest first, `count` of them at most; and how many there are.
    pub fn connections(&self, count: usize) -> (Vec<Arc<Listing>>, usize) {
        let state = self.lock();
        let listed: Vec<Arc<Listing>> = state.connections.values().filter_map(Weak::upgrade).take(count).collect();
        let total = state.connections.len();
        // Here, because dropping the last handle of a listing takes this lock.
        drop(state);
        (listed, total)
    }

    fn lock(&self) -> MutexGuard<'_, DirectoryState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listing {
    /// Lists a subscription, by its number on the connection.
    pub fn add(&self, subscription_id: i32, subject: Subject, progress: Progress) {
        let mut subscriptions = self.lock();
        subscriptions.all.insert(Listed { subscription_id, subject });
        subscriptions.note(subscription_id, progress);
    }

    /// Notes how far a subscription is.
    pub fn note(&self, subscription_id: i32, progress: Progress) {
        self.lock().note(subscription_id, progress);
    }

    /// A subscription has ended.
    pub fn remove(&self, subscription_id: i32) {
        let mut subscriptions = self.lock();
        subscriptions.all.remove(subscription_id);
        subscriptions.behind.remove(subscription_id);
    }

    /// Which connection it is, counted from 0.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The address of the client.
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// The bytes that wait for it.
    pub fn waiting_bytes(&self) -> usize {
        self.outbox.bytes()
    }

    /// The subscriptions, `count` of them at most, by their numbers; and how many there are.
    pub fn subscriptions(&self, count: usize) -> (Vec<(i32, Subject, Progress)>, usize) {
        let subscriptions = self.lock();
        let listed = subscriptions.all.iter().take(count).map(|Listed { subscription_id, subject }| {
            let behind = subscriptions.behind.get(*subscription_id);
            (*subscription_id, subject.clone(), behind.map_or(Progress::Live, |behind| behind.progress))
        });
        (listed.collect(), subscriptions.all.len())
    }

    fn lock(&self) -> MutexGuard<'_, Subscriptions> {
        self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscriptions {
    fn note(&mut self, subscription_id: i32, progress: Progress) {
        match progress {
            Progress::Live => drop(self.behind.remove(subscription_id)),
            Progress::Snapshot | Progress::Behind(_) => self.behind.insert(Behind { subscription_id, progress }),
        }
    }
}

impl Drop for Listing {
    fn drop(&mut self) {
        self.directory.lock().connections.remove(&self.number);
    }
}

impl fmt::Debug for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Listing({} from {})", self.number, self.peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Table;
    use crate::matcher::{Filter, FilterLimits};
    use crate::view::KeyRule;

    #[test]
    fn nobody_sees_what_others_look_for() {
        let subject = |filter: Option<&str>| {
            let filter = filter.map(|text| Arc::new(Filter::parse(text, &FilterLimits::default()).expect("a filter")));
            let view = View { table: Table::new("domain_login"), secrets: &[], keys: KeyRule::Any, filter };
            Subject::View(Arc::new(view)).to_string()
        };
        assert_eq!(subject(None), "domain_login");
        assert_eq!(subject(Some(r#"domain == "hunter2.example""#)), "domain_login by a filter");
    }
}
