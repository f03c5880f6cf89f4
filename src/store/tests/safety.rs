//! How much a commit does against a crash, and what becomes of many.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use redb::StorageBackend;
use redb::backends::InMemoryBackend;

use super::*;

/// A disk that counts how often each file has to be brought to stable storage.
#[derive(Clone, Debug, Default)]
struct CountedDisk {
    database: Arc<AtomicU64>,
    journal: Arc<AtomicU64>,
}

impl CountedDisk {
    /// How often the database was, and how often the journal.
    fn syncs(&self) -> (u64, u64) {
        (self.database.load(Ordering::Relaxed), self.journal.load(Ordering::Relaxed))
    }
}

impl Disk for CountedDisk {
    fn open(&self) -> io::Result<Option<DiskFiles>> {
        let counted = |syncs: &Arc<AtomicU64>| {
            Box::new(CountedBackend { memory: InMemoryBackend::new(), syncs: Arc::clone(syncs) })
        };
        Ok(Some(DiskFiles { database: counted(&self.database), journal: counted(&self.journal) }))
    }
}

#[derive(Debug)]
struct CountedBackend {
    memory: InMemoryBackend,
    syncs: Arc<AtomicU64>,
}

impl StorageBackend for CountedBackend {
    fn len(&self) -> io::Result<u64> {
        self.memory.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.memory.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.memory.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.memory.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.memory.write(offset, data)
    }
}

fn on(disk: &CountedDisk) -> Store {
    let options = StoreOptions { journal_bytes: 10 * 4096, ..options(EVERYTHING) };
    Store::open(Box::new(disk.clone()), options).expect("a new store")
}

fn put_number(store: &Store, number: i64) -> Committed {
    commit(store, &[vec![put(policies(), &format!("{:02}", number % 50), value(number))]])
}

#[test]
fn a_commit_waits_for_its_record_and_the_database_is_settled_beside() {
    let disk = CountedDisk::default();
    let store = on(&disk);
    put_number(&store, 0);
    let mut number = 1;
    for _ in 0..5 {
        let before = disk.syncs();
        while !put_number(&store, number).must_settle {
            number += 1;
        }
        number += 1;
        assert_eq!(disk.syncs().0, before.0, "no commit waited for the database");
        assert_eq!(disk.syncs().1 - before.1, 11, "ten records, and the header of the next generation");
        let seen = contents(&store, &policies());
        store.settle().expect("the disk works");
        assert_eq!(disk.syncs().0 - before.0, 2, "it is made stable in two phases");
        assert_eq!(contents(&store, &policies()), seen);
        store.settle().expect("nothing to do");
        assert_eq!(disk.syncs().0 - before.0, 2);
    }
}

#[test]
fn a_store_that_nobody_settles_settles_itself() {
    let disk = CountedDisk::default();
    let store = on(&disk);
    let before = disk.syncs().0;
    (0..100).for_each(|number| drop(put_number(&store, number)));
    assert!(disk.syncs().0 - before >= 2 * 8, "{}", disk.syncs().0 - before);
    assert!(store.journal_bytes() <= 2 * 10 * 4096, "{}", store.journal_bytes());
}

#[test]
fn readers_see_the_same_wherever_it_lies() {
    let disk = CountedDisk::default();
    let (on_disk, in_memory) = (on(&disk), in_memory());
    let mut rng = fastrand::Rng::with_seed(5);
    for number in 0..400 {
        let unit = match rng.u8(0..8) {
            0..5 => vec![put(policies(), &format!("{:02}", rng.u8(0..40)), value(number))],
            5 => vec![put(schedules(), "a", value(number)), delete(schedules(), "a")],
            _ => (0..rng.u8(1..9)).map(|key| delete(policies(), &format!("{key:02}"))).collect(),
        };
        let committed = commit(&on_disk, std::slice::from_ref(&unit));
        assert_eq!(committed.changes, commit(&in_memory, &[unit]).changes);
        if committed.must_settle && rng.bool() {
            on_disk.settle().expect("the disk works");
        }
        for table in [policies(), schedules()] {
            assert_eq!(rows(&on_disk, &table), rows(&in_memory, &table));
            let after = rng.u64(0..=committed.upto.0);
            assert_eq!(log(&on_disk, &table, after), log(&in_memory, &table, after));
            let count = |store: &Store| store.snapshot().expect("a snapshot").count(&table).expect("a count");
            assert_eq!(count(&on_disk), count(&in_memory));
        }
        let entries = |store: &Store| store.snapshot().expect("a snapshot").log_entries().expect("a count");
        assert_eq!((on_disk.log_bytes(), entries(&on_disk)), (in_memory.log_bytes(), entries(&in_memory)));
    }
}

#[test]
fn a_snapshot_stays_as_it_is_while_others_write_and_settle() {
    let disk = CountedDisk::default();
    let store = on(&disk);
    (0..30).for_each(|number| drop(put_number(&store, number)));
    let snapshot = store.snapshot().expect("a snapshot");
    let page = |snapshot: &Snapshot| snapshot.rows_after(&policies(), None, NO_LIMIT).expect("rows").rows;
    let (before, position) = (page(&snapshot), snapshot.position());
    for number in 30..90 {
        put_number(&store, number);
        store.settle().expect("the disk works");
        assert_eq!(page(&snapshot), before);
    }
    assert_eq!(snapshot.position(), position);
    assert_ne!(page(&store.snapshot().expect("a snapshot")), before);
}

#[test]
fn changes_of_several_tables_in_one_commit_are_each_in_their_log() {
    let store = in_memory();
    let unit = |number: i64| {
        let table = if number % 3 == 0 { policies() } else { schedules() };
        vec![put(table, &format!("row{number}"), value(number))]
    };
    for first in [0, 20] {
        commit(&store, &(first..first + 20).map(unit).collect::<Vec<_>>());
    }
    let of_policies: Vec<u64> = (1..=40).filter(|seq| (seq - 1) % 3 == 0).collect();
    let of_schedules: Vec<u64> = (1..=40).filter(|seq| (seq - 1) % 3 != 0).collect();
    assert_eq!(seqs(&log(&store, &policies(), 0).expect("all of them")), of_policies);
    assert_eq!(seqs(&log(&store, &schedules(), 0).expect("all of them")), of_schedules);
    assert_eq!(store.snapshot().expect("a snapshot").log_entries().expect("a count"), 40);
}
