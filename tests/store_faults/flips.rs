//! Bits that change on the disk by themselves: rows and changes carry checksums, so none is ever shown as what it is not.
//!
//! The tree that they are in has checksums too, but redb looks at them only after a crash. So a bit that changes there may
//! hide rows or changes; how often is counted.

use std::panic::{AssertUnwindSafe, catch_unwind};

use starfeed::change::Timestamp;
use starfeed::store::{Store, StoreOptions};

use super::model::{Difference, Model};
use crate::support::fault_disk::{DiskFile, FaultDisk};
use crate::{INDEXES, SMALL_CACHE, deletes, indexed, put_large, puts};

/// Disks on which a bit changes.
const FLIPS: usize = 1_000;

/// What a store does that finds its disk changed.
#[derive(Debug, Default)]
struct Outcomes {
    /// It shows what it should: most of the file holds nothing.
    right: usize,
    /// It does not open, or refuses to read what is damaged.
    refused: usize,
    /// It ends the process: redb found its own tree impossible.
    ended: usize,
    /// It shows less than there is.
    hidden: usize,
    /// It shows what is not so.
    wrong: usize,
}

fn options() -> StoreOptions {
    indexed(SMALL_CACHE, INDEXES)
}

fn filled() -> (FaultDisk, Model) {
    let (disk, mut model) = (FaultDisk::new(), Model::default());
    let store = Store::open(Box::new(disk.clone()), options()).expect("a new store");
    let units = [puts("a", 0..200, 1), puts("a", 50..150, 2), puts("b", 0..40, 1), put_large("b", 90, 30_000)];
    let units = units.into_iter().chain([deletes("a", 10..30), puts("c", 0..60, 7)]);
    for (at, units) in units.enumerate() {
        let committed = store.commit(Timestamp(at as u64), &units).expect("the disk works");
        model.acknowledge(&units, &committed);
    }
    (disk, model)
}

impl Outcomes {
    fn count(&mut self, disk: &FaultDisk, model: &Model) {
        let counter: fn(&mut Self) -> &mut usize = match catch_unwind(AssertUnwindSafe(|| outcome(disk, model))) {
            Ok(counter) => counter,
            Err(_) => |outcomes| &mut outcomes.ended,
        };
        *counter(self) += 1;
    }
}

/// What becomes of a store on `disk`, as what to count.
fn outcome(disk: &FaultDisk, model: &Model) -> fn(&mut Outcomes) -> &mut usize {
    let Ok(store) = Store::open(Box::new(disk.clone()), options()) else { return |outcomes| &mut outcomes.refused };
    match model.compare(&store) {
        Ok(_) => |outcomes| &mut outcomes.right,
        Err(Difference::Failed(_)) => |outcomes| &mut outcomes.refused,
        Err(Difference::Found(_)) => match model.contains_what_is_shown(&store) {
            Ok(true) => |outcomes| &mut outcomes.hidden,
            Ok(false) => |outcomes| &mut outcomes.wrong,
            Err(_) => |outcomes| &mut outcomes.refused,
        },
    }
}

#[test]
fn a_bit_that_changes_on_the_disk_changes_no_row_and_no_event() {
    let (disk, model) = filled();
    disk.kill();
    let mut outcomes = Outcomes::default();
    outcomes.count(&disk.copy(), &model);
    assert_eq!(outcomes.right, 1, "{outcomes:?}");
    let mut random = fastrand::Rng::with_seed(1);
    let len = usize::try_from(disk.file_len(DiskFile::Database)).expect("it is in memory");
    for _ in 0..FLIPS {
        let worn = disk.copy();
        worn.flip(DiskFile::Database, random.usize(0..len), 1 << random.u8(0..8));
        outcomes.count(&worn, &model);
    }
    println!("of {FLIPS} bits: {outcomes:?}");
    assert_eq!(outcomes.wrong, 0, "{outcomes:?}");
    assert!(outcomes.refused > FLIPS / 20 && outcomes.hidden < FLIPS / 50, "{outcomes:?}");
}
