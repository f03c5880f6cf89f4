//! Commits, reads, and what writes to the database beside them, all at once on a disk that is full or fails now and then.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use starfeed::change::Timestamp;
use starfeed::store::{PageBudget, Store, StoreError, read};

use super::model::Model;
use crate::support::fault_disk::{FaultDisk, Operation};
use crate::{ALL, FAILURES, INDEXES, indexed, options, random_units, table};

const ROUNDS: u64 = 40;
const COMMITS: u64 = 150;

/// What may go wrong.
#[derive(Clone, Copy, PartialEq)]
enum Trouble {
    NoSpace,
    Failures,
}

impl Trouble {
    fn is_told_as(self, error: &StoreError) -> bool {
        match self {
            Self::NoSpace => matches!(error, StoreError::DiskFull),
            Self::Failures => !matches!(error, StoreError::Damaged(_)),
        }
    }

    fn happen(self, disk: &FaultDisk, rng: &mut fastrand::Rng) {
        match (self, rng.u8(0..24)) {
            (Self::NoSpace, 0) => disk.limit(Some(disk.len())),
            (Self::NoSpace, 1..3) => disk.limit(None),
            (Self::Failures, 0) => {
                let operation = [Operation::Any, Operation::Change, Operation::Sync][rng.usize(0..3)];
                disk.fail(operation, rng.u64(0..6), FAILURES[rng.usize(0..FAILURES.len())].clone());
            }
            _ => {}
        }
    }
}

/// Reads as long as others write. Rows and their count are of one moment.
fn look(store: &Store, trouble: Trouble) {
    let all = PageBudget { items: usize::MAX, bytes: usize::MAX };
    let looked = read(store, |snapshot| {
        let rows = snapshot.rows_after(&table("a"), None, all)?.rows.len();
        assert_eq!(rows as u64, snapshot.count(&table("a"))?);
        Ok(())
    });
    if let Err(error) = looked {
        assert!(trouble == Trouble::Failures && trouble.is_told_as(&error), "a read failed: {error:?}");
    }
}

/// Commits what is random, and takes in what is told of it; says how often that was refused.
fn write(store: &Store, disk: &FaultDisk, trouble: Trouble, rng: &mut fastrand::Rng, told: &mut Model) -> u64 {
    let mut refused = 0;
    for number in 0..COMMITS {
        trouble.happen(disk, rng);
        match store.commit(Timestamp(number), &random_units(rng)) {
            Ok(committed) => committed.changes.into_iter().for_each(|change| told.publish(change)),
            Err(error) => {
                assert!(trouble.is_told_as(&error), "{error:?}");
                refused += 1;
            }
        }
    }
    refused
}

#[test]
fn commits_reads_and_settling_beside_each_other_lose_nothing() {
    let (refused, settled, looked) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    for round in 0..ROUNDS {
        let trouble = if round % 2 == 0 { Trouble::NoSpace } else { Trouble::Failures };
        let (disk, mut told) = (FaultDisk::new(), Model::default());
        let store = Store::open(Box::new(disk.clone()), indexed(options(ALL, 1 << 20), INDEXES)).expect("a new store");
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    settled.fetch_add(u64::from(store.settle().is_ok()), Ordering::Relaxed);
                    std::thread::yield_now();
                }
            });
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    look(&store, trouble);
                    looked.fetch_add(1, Ordering::Relaxed);
                }
            });
            let mut rng = fastrand::Rng::with_seed(round);
            let times = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                write(&store, &disk, trouble, &mut rng, &mut told)
            }));
            is_over.store(true, Ordering::Relaxed);
            match times {
                Ok(times) => refused.fetch_add(times, Ordering::Relaxed),
                Err(panic) => std::panic::resume_unwind(panic),
            };
        });
        disk.limit(None);
        disk.heal();
        let committed = (0..5).find_map(|_| store.commit(Timestamp(COMMITS), &[]).ok());
        committed.expect("the disk works").changes.into_iter().for_each(|change| told.publish(change));
        told.compare(&store).unwrap_or_else(|difference| panic!("round {round}: {difference}"));
        drop(store);
        let again = Store::open(Box::new(disk), indexed(options(ALL, 1 << 20), INDEXES)).expect("the same store");
        told.compare(&again).unwrap_or_else(|difference| panic!("round {round}, opened again: {difference}"));
    }
    let [refused, settled, looked] = [refused, settled, looked].map(|count| count.load(Ordering::Relaxed));
    assert!(refused > 50 && settled > 500 && looked > 500, "{refused} refused, {settled} settled, {looked} looked");
}
