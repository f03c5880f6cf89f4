//! How much a commit does against a crash, by where the bytes are kept.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use redb::StorageBackend;
use redb::backends::InMemoryBackend;

use super::*;

/// A disk that counts how often it has to bring everything to stable storage.
#[derive(Clone, Debug)]
struct CountedDisk {
    is_lasting: bool,
    syncs: Arc<AtomicU64>,
}

impl CountedDisk {
    fn new(is_lasting: bool) -> Self {
        Self { is_lasting, syncs: Arc::default() }
    }

    fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }
}

impl Disk for CountedDisk {
    fn open(&self) -> io::Result<Box<dyn StorageBackend>> {
        Ok(Box::new(CountedBackend { memory: InMemoryBackend::new(), syncs: Arc::clone(&self.syncs) }))
    }

    fn is_lasting(&self) -> bool {
        self.is_lasting
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
    Store::open(Box::new(disk.clone()), options(EVERYTHING)).expect("a new store")
}

#[test]
fn each_commit_on_a_disk_is_made_in_two_phases() {
    let disk = CountedDisk::new(true);
    let store = on(&disk);
    for number in 0..10 {
        let before = disk.syncs();
        write(&store, vec![put(policies(), "a", value(number))]);
        assert_eq!(disk.syncs() - before, 2, "commit {number}");
    }
}

#[test]
fn commits_in_memory_are_settled_once_in_a_while_and_nothing_is_lost() {
    const COMMITS: u64 = 5_000;
    let disk = CountedDisk::new(false);
    let store = on(&disk);
    let before = disk.syncs();
    for number in 0..COMMITS {
        write(&store, vec![put(policies(), &format!("row{}", number % 10), value(number.cast_signed()))]);
    }
    let settled = disk.syncs() - before;
    assert!((1..=COMMITS / 64).contains(&settled), "{settled}");
    let expected: Vec<_> = (0..10).map(|row| (format!("row{row}"), value(4_990 + row))).collect();
    assert_eq!(contents(&store, &policies()), expected);
    let changes = log(&store, &policies(), 0).expect("nothing was trimmed");
    assert_eq!(seqs(&changes), (1..=COMMITS).collect::<Vec<_>>());
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
