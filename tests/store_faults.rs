//! The store on a disk that fails: power losses at every kind of moment, errors at every single operation, a full disk.

mod store_faults {
    mod beside;
    mod flips;
    mod journal;
    pub(crate) mod model;
    mod power;
}
mod support;

use starfeed::change::{Document, Epoch, Key, Table, Timestamp};
use starfeed::store::{
    IfPresent, Index, Mutation, PageBudget, Retention, Store, StoreError, StoreOptions, StoreSecret, TableIndexes, Unit,
};
use store_faults::model::{Difference, Model};
use support::fault_disk::{Counters, Failure, FaultDisk, FaultError, Operation};

const ALL: Retention = Retention { bytes: u64::MAX, age_ms: u64::MAX };
const EPOCH: Epoch = Epoch(77);
/// So little that the journal is full after a few commits, and that some do not fit into it.
const JOURNAL_BYTES: u64 = 40 << 10;
/// Everything that was read stays in memory.
const LARGE_CACHE: StoreOptions = options(ALL, 1 << 20);
/// Some of what a read needs is in memory, and some is not.
const SMALL_CACHE: StoreOptions = options(ALL, 64 << 10);

const FAILURES: [Failure; 4] = [
    Failure::Once(FaultError::Io),
    Failure::OnceButDone(FaultError::Io),
    Failure::Once(FaultError::Full),
    Failure::OnceButDone(FaultError::Full),
];

#[test]
fn every_failed_change_of_the_disk_is_survived_without_a_restart() {
    let clean = Script::new(FaultDisk::new(), LARGE_CACHE).run();
    assert!(clean.set_lens > 1, "the script makes the file grow: {clean:?}");
    for failure in FAILURES {
        for nth in 0..clean.of(Operation::Change) {
            let disk = FaultDisk::new();
            disk.fail(Operation::Change, nth, failure.clone());
            Script::new(disk, LARGE_CACHE).run();
        }
    }
}

#[test]
fn every_failed_read_of_the_disk_is_survived_without_a_restart() {
    let clean = Script::new(FaultDisk::new(), SMALL_CACHE).run();
    for nth in 0..clean.reads {
        let disk = FaultDisk::new();
        disk.fail(Operation::Read, nth, Failure::Once(FaultError::Io));
        Script::new(disk, SMALL_CACHE).run();
    }
}

#[test]
fn changes_that_a_failed_commit_left_are_published_even_if_retention_keeps_nothing() {
    let keep_nothing = options(Retention { bytes: 0, age_ms: 0 }, LARGE_CACHE.cache_bytes);
    let clean = Script::new(FaultDisk::new(), keep_nothing.clone()).run();
    for failure in FAILURES {
        for nth in 0..clean.syncs {
            let disk = FaultDisk::new();
            disk.fail(Operation::Sync, nth, failure.clone());
            Script::new(disk, keep_nothing.clone()).run();
        }
    }
}

#[test]
fn a_sync_that_fails_once_and_then_lies_loses_nothing_that_was_acknowledged() {
    let clean = Script::new(FaultDisk::new(), LARGE_CACHE).run();
    for nth in 0..clean.syncs {
        for seed in 0..8 {
            let disk = FaultDisk::new();
            disk.fail(Operation::Sync, nth, Failure::SyncThatLoses(fastrand::Rng::with_seed(seed)));
            Script::new(disk, LARGE_CACHE).run();
        }
    }
}

#[test]
fn a_disk_that_fails_for_a_while_is_used_again_when_it_works() {
    for error in [FaultError::Io, FaultError::Full] {
        for operation in [Operation::Any, Operation::Write, Operation::Sync] {
            for nth in 0..40 {
                let disk = FaultDisk::new();
                let mut script = Script::new(disk.clone(), SMALL_CACHE);
                script.commit(&puts("a", 0..5, 100));
                disk.fail(operation, nth, Failure::ForEver(error));
                for number in 0..5 {
                    // Refused or not: the script compares what is acknowledged, and all that is published, with the store.
                    script.try_commit(&puts("a", number..number + 2, 101)).ok();
                }
                disk.heal();
                script.commit(&puts("b", 0..3, 102));
                script.finish();
            }
        }
    }
}

#[test]
fn a_snapshot_taken_before_a_failure_fails_or_shows_what_it_showed() {
    for failure in FAILURES {
        for nth in 0..20 {
            let disk = FaultDisk::new();
            let mut script = Script::new(disk.clone(), SMALL_CACHE);
            script.commit(&puts("a", 0..200, 1));
            let snapshot = script.store().snapshot().expect("the disk works");
            let read = || snapshot.rows_after(&table("a"), None, PageBudget { items: 500, bytes: usize::MAX });
            let before = read().expect("the disk works").rows;
            disk.fail(Operation::Change, nth, failure.clone());
            script.commit(&puts("a", 0..200, 2));
            match read() {
                Ok(page) => assert_eq!(page.rows, before),
                Err(error) => assert!(matches!(error, StoreError::Disk(_)), "{error}"),
            }
            script.finish();
        }
    }
}

#[test]
fn a_full_disk_refuses_writes_and_nothing_else() {
    for limit_kib in [0, 1032, 1100, 1500] {
        let disk = FaultDisk::new();
        let mut script = Script::new(disk.clone(), LARGE_CACHE);
        script.commit(&puts("a", 0..20, 1));
        disk.limit(Some(limit_kib * 1024));
        let mut refused = 0;
        for round in 0..40 {
            let before = script.store().position();
            match script.try_commit(&put_large("b", round % 4, 60_000 + round)) {
                Ok(()) => {}
                Err(StoreError::DiskFull) => {
                    refused += 1;
                    assert_eq!(script.store().position(), before, "a refused write leaves nothing");
                }
                Err(other) => panic!("a full disk is reported as {other:?}"),
            }
            script.check_rows(Reads::NeverFail);
        }
        assert!(refused > 10, "the disk was full with {limit_kib} KiB: {refused}");
        // It can also be opened while there is no space.
        script.reopen(Ending::Kill);
        script.check_rows(Reads::NeverFail);
        disk.limit(None);
        script.commit(&put_large("b", 9, 200_000));
        script.finish();
    }
}

/// A short fixed run that looks after itself: each commit that fails is tried once more, and what was published is
/// compared with what the log holds.
struct Script {
    disk: FaultDisk,
    options: StoreOptions,
    store: Option<Store>,
    published: Model,
    now: u64,
}

/// How the process of a store ends.
#[derive(Clone, Copy)]
enum Ending {
    Close,
    Kill,
    PowerLoss,
}

/// Whether a read may fail, once.
#[derive(Clone, Copy, PartialEq)]
enum Reads {
    NeverFail,
    FailOnce,
}

impl Script {
    fn new(disk: FaultDisk, options: StoreOptions) -> Self {
        Self { disk, options: indexed(options, INDEXES), store: None, published: Model::default(), now: 0 }
    }

    fn run(mut self) -> Counters {
        self.commit(&puts("a", 0..8, 1));
        self.check_rows(Reads::FailOnce);
        self.commit(&[puts("a", 0..2, 2), puts("b", 0..3, 2)].concat());
        self.commit(&put_large("b", 7, 500_000));
        self.check_rows(Reads::FailOnce);
        self.commit(&deletes("a", 1..4));
        self.commit(&puts("c", 0..6, 3));
        self.check_rows(Reads::FailOnce);
        self.commit(&[deletes("b", 0..1), puts("a", 1..3, 4)].concat());
        self.commit(&puts("a", 0..8, 5));
        self.reopen(Ending::Close);
        self.commit(&puts("b", 0..2, 6));
        let counters = self.disk.counters();
        self.finish();
        counters
    }

    fn store(&mut self) -> Store {
        if self.store.is_none() {
            let open = || Store::open(Box::new(self.disk.clone()), self.options.clone());
            let store = open().or_else(|_| open());
            self.store = Some(store.expect("the store opens when the disk works again"));
        }
        self.store.clone().expect("it was opened above")
    }

    /// Commits, at the second attempt if the first one fails.
    fn commit(&mut self, units: &[Unit]) {
        if self.try_commit(units).is_err() {
            self.try_commit(units).expect("the store recovers by itself");
        }
    }

    fn try_commit(&mut self, units: &[Unit]) -> Result<(), StoreError> {
        let store = self.store();
        self.now += 1;
        let before = store.position().seq;
        let committed = store.commit(Timestamp(self.now), units).inspect_err(|error| {
            if matches!(error, StoreError::DiskFull) {
                assert_eq!(store.position().seq, before, "it says that nothing was written");
            }
        })?;
        assert_eq!(committed.upto, store.position().seq);
        assert_eq!(committed.results.len(), units.len());
        assert!(committed.results.iter().all(Result::is_ok));
        if committed.must_settle && self.now.is_multiple_of(2) {
            // Where it cannot be done, the next commit has to do it.
            let _ = store.settle();
        }
        for change in committed.changes {
            self.published.publish(change);
        }
        assert_eq!(self.published.last(), committed.upto, "everything is published");
        let mut again = self.published.clone();
        again.apply(units, Timestamp(0));
        assert_eq!(again.rows, self.published.rows, "what was acknowledged is there");
        Ok(())
    }

    /// Compares the rows with what was published, which is all that is there once an empty commit has told of the rest.
    fn check_rows(&mut self, reads: Reads) {
        self.commit(&[]);
        let store = self.store();
        let result = match self.published.compare_rows(&store) {
            Err(Difference::Failed(error)) if reads == Reads::FailOnce => self
                .published
                .compare_rows(&store)
                .map_err(|second| Difference::Found(format!("a read failed: {error}, then: {second}"))),
            result => result,
        };
        result.unwrap_or_else(|difference| panic!("{difference}"));
    }

    fn reopen(&mut self, ending: Ending) {
        let store = self.store.take();
        match ending {
            Ending::Close => {}
            Ending::Kill => self.disk.kill(),
            Ending::PowerLoss => self.disk.crash(&mut fastrand::Rng::with_seed(self.now)),
        }
        drop(store);
    }

    /// Compares what was published with the log, now and after a power loss.
    fn finish(mut self) {
        self.commit(&[]);
        for _ in 0..2 {
            let store = self.store();
            if let Err(first) = self.published.compare(&store) {
                self.published.compare(&store).unwrap_or_else(|second| panic!("{first}, then: {second}"));
            }
            self.reopen(Ending::PowerLoss);
        }
    }
}

const fn options(retention: Retention, cache_bytes: usize) -> StoreOptions {
    StoreOptions {
        retention,
        cache_bytes,
        journal_bytes: JOURNAL_BYTES,
        fresh_epoch: EPOCH,
        fresh_secret: StoreSecret([7; 32]),
        indexes: Vec::new(),
    }
}

/// Of every table; most of what the tests write changes their order.
static INDEXES: &[Index] =
    &[Index { name: "value", members: &["value"] }, Index { name: "both", members: &["value", "pad"] }];

/// Whoever opens a store with others than before has all of them built anew.
static MORE_INDEXES: &[Index] = &[
    Index { name: "more", members: &["pad"] },
    Index { name: "value", members: &["value"] },
    Index { name: "both", members: &["value", "pad"] },
];

fn indexed(options: StoreOptions, indexes: &'static [Index]) -> StoreOptions {
    let indexes = tables().map(|table| TableIndexes { table, indexes }).into();
    StoreOptions { indexes, ..options }
}

fn tables() -> [Table; 3] {
    [Table::new("a"), Table::new("b"), Table::in_namespace("tenant", "c")]
}

fn table(name: &str) -> Table {
    tables().into_iter().find(|table| table.name() == name).expect("one of the tables")
}

fn key(number: usize) -> Key {
    Key::text(&format!("key {number}"))
}

fn document(members: &serde_json::Value) -> Document {
    Document::parse(members.to_string().as_bytes()).expect("an object")
}

fn puts(name: &str, keys: std::ops::Range<usize>, value: usize) -> Vec<Unit> {
    let put = |number| Mutation::put(table(name), key(number), document(&serde_json::json!({"value": value})));
    keys.map(|number| vec![put(number)]).collect()
}

fn deletes(name: &str, keys: std::ops::Range<usize>) -> Vec<Unit> {
    vec![keys.map(|number| Mutation::delete(table(name), key(number))).collect()]
}

fn put_large(name: &str, number: usize, bytes: usize) -> Vec<Unit> {
    let document = document(&serde_json::json!({"pad": "x".repeat(bytes)}));
    vec![vec![Mutation::put(table(name), key(number), document)]]
}

fn random_units(rng: &mut fastrand::Rng) -> Vec<Unit> {
    (0..rng.usize(0..5)).map(|_| (0..rng.usize(1..5)).map(|_| random_mutation(rng)).collect()).collect()
}

fn random_mutation(rng: &mut fastrand::Rng) -> Mutation {
    let table = rng.choice(tables()).expect("there are tables");
    let key = key(rng.usize(0..12));
    let pad = match rng.u8(0..40) {
        0 => 200_000,
        1..6 => 6_000,
        _ => rng.usize(0..100),
    };
    let row = document(&serde_json::json!({"value": rng.u8(0..4), "pad": "x".repeat(pad)}));
    let refuse = || "refused".to_owned();
    match rng.u8(0..10) {
        0..5 => Mutation::put(table, key, row),
        5..7 => Mutation::delete(table, key),
        7..9 => Mutation::update(table, key, document(&serde_json::json!({"value": rng.u8(0..4)})), refuse()),
        _ => Mutation { if_present: IfPresent::Refuse(refuse()), ..Mutation::put(table, key, row) },
    }
}
