//! A journal on a disk that is full, that wears out, or that loses a file.

use starfeed::change::{Epoch, Timestamp};
use starfeed::store::{Store, StoreError, StoreOptions, Unit};

use super::model::Model;
use crate::support::fault_disk::{DiskFile, FaultDisk};
use crate::{ALL, EPOCH, INDEXES, deletes, indexed, options, put_large, puts};

/// Whatever a test here commits has room in the journal.
fn with_large_journal() -> StoreOptions {
    indexed(StoreOptions { journal_bytes: 1 << 20, ..options(ALL, 1 << 20) }, INDEXES)
}

fn open(disk: &FaultDisk) -> Store {
    Store::open(Box::new(disk.clone()), with_large_journal())
        .unwrap_or_else(|error| panic!("it does not open: {error}"))
}

/// Small rows, rows of many sizes, and changes of them.
fn round(round: usize, rng: &mut fastrand::Rng) -> Vec<Unit> {
    match round % 4 {
        0 => puts("a", 0..200, round),
        1 => put_large("b", rng.usize(0..20), rng.usize(1..90_000)),
        2 => deletes("a", rng.usize(0..50)..rng.usize(50..150)),
        _ => [puts("c", 0..30, round), deletes("b", 0..3)].concat(),
    }
}

/// A killed store whose journal has nearly all of it.
fn filled(disk: &FaultDisk) -> Model {
    let (store, mut model, mut rng) = (open(disk), Model::default(), fastrand::Rng::with_seed(3));
    for number in 0..60 {
        let units = round(number, &mut rng);
        let committed = store.commit(Timestamp(number as u64), &units).expect("the disk works");
        model.acknowledge(&units, &committed);
    }
    assert!(store.journal_bytes() > 900_000, "{}", store.journal_bytes());
    disk.kill();
    model
}

#[test]
fn a_store_opens_on_a_full_disk_and_has_what_is_in_its_journal() {
    let mut in_journal = 0;
    for seed in 0..10 {
        let (disk, mut model, mut rng) = (FaultDisk::new(), Model::default(), fastrand::Rng::with_seed(seed));
        let mut store = open(&disk);
        let (mut number, mut refused) = (0, 0);
        while refused < 6 {
            let units = round(number, &mut rng);
            number += 1;
            match store.commit(Timestamp(number as u64), &units) {
                Ok(committed) => model.acknowledge(&units, &committed),
                Err(StoreError::DiskFull) => {
                    refused += 1;
                    in_journal += usize::from(store.journal_bytes() > 0);
                }
                Err(other) => panic!("a full disk is reported as {other:?}"),
            }
            if number == 10 {
                disk.limit(Some(0));
            }
            if refused % 2 == 1 || rng.u8(0..20) == 0 {
                in_journal += usize::from(store.journal_bytes() > 0);
                disk.kill();
                store = open(&disk);
                model.compare(&store).unwrap_or_else(|difference| panic!("seed {seed}: {difference}"));
            }
            assert!(number < 5_000, "the disk is never full");
        }
        disk.limit(None);
        let units = put_large("b", 50, 300_000);
        let committed = store.commit(Timestamp(100_000), &units).expect("there is space");
        model.acknowledge(&units, &committed);
        model.compare(&store).unwrap_or_else(|difference| panic!("seed {seed}: {difference}"));
    }
    assert!(in_journal > 5, "the journal had something only {in_journal} times");
}

#[test]
fn a_bit_that_changes_in_the_journal_changes_no_row_and_no_event() {
    let disk = FaultDisk::new();
    let model = filled(&disk);
    let mut random = fastrand::Rng::with_seed(1);
    let len = usize::try_from(disk.file_len(DiskFile::Journal)).expect("it is in memory");
    let (mut right, mut told, mut hidden) = (0, 0, 0);
    for _ in 0..150 {
        let worn = disk.copy();
        worn.flip(DiskFile::Journal, random.usize(0..len), 1 << random.u8(0..8));
        let options = StoreOptions { fresh_epoch: Epoch(78), ..with_large_journal() };
        let store = Store::open(Box::new(worn), options).expect("a journal keeps no store from opening");
        match (store.epoch(), model.compare(&store)) {
            (EPOCH, Ok(_)) => right += 1,
            (EPOCH, Err(_)) => hidden += 1,
            _ => told += 1,
        }
        assert!(model.contains_what_is_shown(&store).expect("the disk works") || store.epoch() != EPOCH);
    }
    println!("{right} right, {told} told, {hidden} hidden");
    // Of the newest record it cannot be known whether it ever was whole.
    assert!(right > 5 && told > 50 && hidden < 10, "{right} right, {told} told, {hidden} hidden");
}

#[test]
fn a_store_whose_journal_vanished_while_it_ran_says_so() {
    let disk = FaultDisk::new();
    drop(filled(&disk));
    disk.remove(DiskFile::Journal);
    let refused = Store::open(Box::new(disk.clone()), with_large_journal());
    assert!(matches!(&refused, Err(StoreError::Damaged(text)) if text.contains("journal")), "{refused:?}");
    let options = StoreOptions { fresh_epoch: Epoch(78), ..with_large_journal() };
    let store = Store::open(Box::new(disk), options).expect("it opens");
    assert_eq!(store.epoch(), Epoch(78));
}
