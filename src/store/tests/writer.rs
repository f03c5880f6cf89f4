use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::*;
use crate::clock::Clock;

/// Far longer than anything here takes; a test that would hang fails instead.
const PATIENCE: Duration = Duration::from_secs(30);

const LIMITS: WriterLimits = WriterLimits { queue_bytes: 1 << 20, commit_bytes: 1 << 20 };

struct Observer<F>(F);

impl<F: FnMut(Vec<Change>, Seq) + Send> CommitObserver for Observer<F> {
    fn committed(&mut self, changes: Vec<Change>, upto: Seq) {
        (self.0)(changes, upto);
    }
}

/// A writer whose observer waits in each commit until the test lets it go on.
struct Held {
    store: Store,
    writer: Writer,
    handle: WriteHandle,
    commits: mpsc::Receiver<Vec<Change>>,
    go_on: mpsc::Sender<()>,
}

impl Held {
    fn start(limits: WriterLimits) -> Self {
        let store = in_memory();
        let (tell, commits) = mpsc::channel();
        let (go_on, may_go_on) = mpsc::channel();
        let observer = Observer(move |changes, _| {
            tell.send(changes).expect("the test listens");
            may_go_on.recv_timeout(PATIENCE).expect("the test lets it go on");
        });
        let (writer, handle) = Writer::start(store.clone(), Clock, limits, observer);
        Self { store, writer, handle, commits, go_on }
    }

    /// Waits for the next commit and lets it go on; returns the keys it changed.
    fn next_commit(&self) -> Vec<String> {
        let keys = self.hold_commit();
        self.go_on.send(()).expect("the writer waits");
        keys
    }

    /// Ends the writer, which has nothing left to commit.
    fn end(self) -> Store {
        drop(self.handle);
        self.writer.join();
        self.store
    }

    /// Waits for the next commit and leaves it waiting.
    fn hold_commit(&self) -> Vec<String> {
        let changes = self.commits.recv_timeout(PATIENCE).expect("a commit");
        changes.iter().map(|change| change.key.to_string()).collect()
    }
}

fn wait<T>(receiver: oneshot::Receiver<T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime
        .block_on(async { tokio::time::timeout(PATIENCE, receiver).await })
        .expect("a reply in time")
        .expect("a reply")
}

fn put_key(key: &str) -> Unit {
    vec![put(policies(), key, value(1))]
}

#[test]
fn what_waits_is_committed_together_in_the_order_it_was_handed_in() {
    let held = Held::start(LIMITS);
    let mut replies = vec![held.handle.submit(put_key("first")).expect("room")];
    assert_eq!(held.hold_commit(), ["first"]);
    for number in 10..30 {
        replies.push(held.handle.submit(put_key(&number.to_string())).expect("room"));
    }
    let refused = held.handle.submit(vec![update(policies(), "nobody", value(1))]).expect("room");
    let last = held.handle.submit(vec![delete(policies(), "first"), delete(policies(), "10")]).expect("room");
    held.go_on.send(()).expect("the writer waits");
    let mut expected: Vec<_> = (10..30).map(|number| number.to_string()).collect();
    expected.extend(["first".to_owned(), "10".to_owned()]);
    assert_eq!(held.next_commit(), expected);
    for reply in replies {
        assert_eq!(wait(reply).expect("the disk works"), Ok(vec![Outcome::Added]));
    }
    assert_eq!(wait(refused).expect("the disk works"), Err("nobody is missing".to_owned()));
    assert_eq!(wait(last).expect("the disk works"), Ok(vec![Outcome::Deleted; 2]));
    let status = held.handle.status();
    assert_eq!(status.commits.load(Ordering::Relaxed), 2);
    assert_eq!(status.changes.load(Ordering::Relaxed), 23);
    assert_eq!(status.failures.load(Ordering::Relaxed), 0);
    assert_eq!(status.queued_bytes.load(Ordering::Relaxed), 0);
    held.end();
}

#[test]
fn a_commit_takes_no_more_than_its_bytes_but_at_least_one_unit() {
    let held = Held::start(WriterLimits { commit_bytes: 1, ..LIMITS });
    let replies = ["a", "b", "c"].map(|key| held.handle.submit(put_key(key)).expect("room"));
    for key in ["a", "b", "c"] {
        assert_eq!(held.next_commit(), [key]);
    }
    for reply in replies {
        wait(reply).expect("the disk works").expect("nothing to refuse");
    }
    held.end();
}

#[test]
fn the_observer_learns_of_a_commit_before_its_writer_and_after_the_disk() {
    let held = Held::start(LIMITS);
    for key in ["a", "b"] {
        let mut reply = held.handle.submit(put_key(key)).expect("room");
        assert_eq!(held.hold_commit(), [key]);
        assert!(matches!(reply.try_recv(), Err(oneshot::error::TryRecvError::Empty)));
        let found = held.store.snapshot().expect("a snapshot").row(&policies(), &Key::text(key)).expect("a read");
        assert!(found.is_some(), "it is in the store");
        held.go_on.send(()).expect("the writer waits");
        wait(reply).expect("the disk works").expect("nothing to refuse");
    }
    held.end();
}

#[test]
fn the_observer_is_not_told_of_commits_that_changed_nothing() {
    let held = Held::start(LIMITS);
    let nothing = held.handle.submit(vec![delete(policies(), "nobody")]).expect("room");
    assert_eq!(wait(nothing).expect("the disk works"), Ok(vec![Outcome::Unchanged]));
    let something = held.handle.submit(put_key("a")).expect("room");
    assert_eq!(held.next_commit(), ["a"]);
    wait(something).expect("the disk works").expect("nothing to refuse");
    held.end();
}

#[test]
fn too_much_that_waits_is_refused_until_there_is_room() {
    let held = Held::start(WriterLimits { queue_bytes: 2_000, ..LIMITS });
    let first = held.handle.submit(put_key("first")).expect("room");
    assert_eq!(held.hold_commit(), ["first"]);
    let mut accepted = Vec::new();
    let error = loop {
        match held.handle.submit(put_key(&accepted.len().to_string())) {
            Ok(reply) => accepted.push(reply),
            Err(error) => break error,
        }
        assert!(accepted.len() < 100, "the queue has no bound");
    };
    assert!(matches!(error, StoreError::Overloaded), "{error}");
    assert!(!accepted.is_empty());
    assert!(held.handle.status().queued_bytes.load(Ordering::Relaxed) <= 2_000);
    assert!(held.handle.submit(put_key("x")).is_err(), "it stays full");
    held.go_on.send(()).expect("the writer waits");
    assert_eq!(held.next_commit().len(), accepted.len());
    for reply in accepted.into_iter().chain([first]) {
        wait(reply).expect("the disk works").expect("nothing to refuse");
    }
    // A unit larger than the queue passes alone.
    let large = document(&format!(r#"{{"pad":"{}"}}"#, "x".repeat(10_000)));
    let reply = held.handle.submit(vec![put(policies(), "large", large)]).expect("nothing else waits");
    assert_eq!(held.next_commit(), ["large"]);
    wait(reply).expect("the disk works").expect("nothing to refuse");
    held.end();
}

#[test]
fn what_is_handed_in_at_once_gets_its_results_in_groups_and_in_order() {
    let held = Held::start(WriterLimits { commit_bytes: 4_000, queue_bytes: 40_000 });
    let units = 150;
    let unit = |at: usize| match at {
        3 | 149 => vec![update(policies(), "nobody", value(1))],
        100 => vec![put(policies(), "large", document(&format!(r#"{{"pad":"{}"}}"#, "x".repeat(100_000))))],
        _ => put_key(&at.to_string()),
    };
    let groups = held.handle.submit_all((0..units).map(unit).collect());
    assert_eq!(groups.iter().map(|group| group.units).collect::<Vec<_>>(), [64, 36, 1, 49]);
    // Its results do not come before the last of them is there.
    let mut groups = groups.into_iter();
    let SubmittedGroup { mut results, .. } = groups.next().expect("four groups");
    let mut committed = held.hold_commit();
    assert!((1..64).contains(&committed.len()), "a group is larger than a commit here");
    assert!(matches!(results.try_recv(), Err(oneshot::error::TryRecvError::Empty)));
    held.go_on.send(()).expect("the writer waits");
    while committed.len() < units - 3 {
        committed.extend(held.next_commit());
    }
    let results: Vec<_> = [results].into_iter().chain(groups.map(|group| group.results)).flat_map(wait).collect();
    assert_eq!(results.len(), units);
    for (at, result) in results.into_iter().enumerate() {
        match at {
            3 | 149 => assert_eq!(result.expect("the disk works"), Err("nobody is missing".to_owned())),
            100 => assert!(matches!(result, Err(StoreError::Overloaded)), "it is larger than the queue"),
            _ => assert_eq!(result.expect("the disk works"), Ok(vec![Outcome::Added]), "{at}"),
        }
    }
    assert!(held.handle.submit_all(Vec::new()).is_empty());
    assert_eq!(held.handle.status().queued_bytes.load(Ordering::Relaxed), 0);
    held.end();
}

#[test]
fn units_that_do_nothing_count_against_the_queue_too() {
    let held = Held::start(WriterLimits { queue_bytes: 2_000, ..LIMITS });
    let _first = held.handle.submit(put_key("first")).expect("room");
    held.hold_commit();
    let accepted = (0..1_000).take_while(|_| held.handle.submit(Unit::new()).is_ok()).count();
    assert!(accepted < 1_000);
    held.go_on.send(()).expect("the writer waits");
    held.end();
}

#[test]
fn the_writer_ends_when_all_that_was_handed_in_is_committed() {
    let store = in_memory();
    let mut published = Vec::new();
    let (tell, told) = mpsc::channel();
    let observer = Observer(move |changes, upto| tell.send((changes, upto)).expect("the test listens"));
    let (writer, handle) = Writer::start(store.clone(), Clock, LIMITS, observer);
    let replies: Vec<_> = (0..200)
        .map(|number| {
            // Whoever hands something in may be gone before it is committed.
            handle.clone().submit(put_key(&number.to_string())).expect("room")
        })
        .collect();
    drop(handle);
    writer.join();
    for mut reply in replies {
        assert_eq!(reply.try_recv().expect("a reply").expect("the disk works"), Ok(vec![Outcome::Added]));
    }
    for (changes, upto) in told {
        published.extend(changes);
        assert_eq!(published.last().map(|change| change.seq), Some(upto));
    }
    assert_eq!(seqs(&published), (1..=200).collect::<Vec<_>>());
    assert_eq!(rows(&store, &policies()).len(), 200);
}

#[test]
fn a_write_stands_although_nobody_waits_for_its_reply() {
    let held = Held::start(LIMITS);
    drop(held.handle.submit(put_key("a")).expect("room"));
    assert_eq!(held.next_commit(), ["a"]);
    assert_eq!(rows(&held.end(), &policies()).len(), 1);
}
