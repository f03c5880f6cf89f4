//! What the journal makes of commits that the database does not have yet, and of files that do not belong together.

use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use redb::{ReadableDatabase, StorageBackend, TableDefinition};

use super::*;
use crate::change::Cause;
use crate::store::journal::{Header, Record};

const BLOCK: u64 = 4096;
/// Two headers come first.
const RECORDS_AT: u64 = 2 * BLOCK;

fn try_open(path: &Path, fresh_epoch: u128) -> Result<Store, StoreError> {
    let options = StoreOptions { fresh_epoch: Epoch(fresh_epoch), journal_bytes: 16 * BLOCK, ..options(EVERYTHING) };
    Store::open(Box::new(FileDisk::new(path)?), options)
}

fn open(path: &Path) -> Store {
    try_open(path, 1).expect("a store")
}

fn journal_of(path: &Path) -> PathBuf {
    path.with_extension("journal")
}

/// The files at `path` as a process leaves them that is killed now.
fn killed(path: &Path, name: &str) -> PathBuf {
    let copy = path.with_file_name(name);
    std::fs::copy(path, &copy).expect("a copy");
    std::fs::copy(journal_of(path), journal_of(&copy)).expect("a copy");
    copy
}

/// A store at `path` with one row that is in the database, and then `records` more that are in the journal.
fn written(path: &Path, records: i64) -> Store {
    let store = open(path);
    for number in 0..=records {
        write(&store, vec![put(policies(), &format!("{number:02}"), value(number))]);
        if number == 0 {
            store.checkpoint(Timestamp(1_000)).expect("the disk works");
        }
    }
    store
}

fn keys(store: &Store) -> usize {
    rows(store, &policies()).len()
}

fn meta_number(path: &Path, name: &str) -> Option<u64> {
    let database = redb::Database::open(path).expect("a database");
    let meta = database.begin_read().expect("a transaction").open_table(layout::META).expect("a table");
    let value = meta.get(name).expect("a read")?;
    Some(u64::from_le_bytes(value.value().try_into().expect("a number")))
}

/// The generation that records go into, and where they begin.
fn generation(path: &Path) -> (u64, u64) {
    let generation = meta_number(path, layout::META_SETTLED).expect("a journal was begun") + 1;
    (generation, RECORDS_AT + generation % 2 * 16 * BLOCK)
}

/// Puts a record of one put at a block of the journal.
fn forge(path: &Path, at: u64, epoch: Epoch, generation: u64, seq: u64, key: &str) {
    let mut record = Record::new(Timestamp(1_000));
    record.push(&Change {
        seq: Seq(seq),
        table: policies(),
        key: Key::text(key),
        old: None,
        old_version: Seq::ZERO,
        new: Some(value(9)),
        time: Timestamp(1_000),
        cause: Cause::Write,
    });
    record.seal(epoch, generation);
    let file = std::fs::File::options().write(true).open(journal_of(path)).expect("a journal");
    file.write_all_at(record.bytes(), at).expect("a write");
}

#[test]
fn a_killed_store_has_all_that_was_acknowledged() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("store.redb");
    let store = open(&path);
    for number in 0..60 {
        let content =
            if number % 7 == 6 { document(&format!(r#"{{"pad":"{}"}}"#, "x".repeat(90_000))) } else { value(number) };
        let mut unit = vec![put(policies(), &format!("{:02}", number % 9), content)];
        if number % 3 == 0 {
            unit.extend([
                put(schedules(), "a", value(number)),
                delete(schedules(), "a"),
                put(schedules(), "a", value(-1)),
            ]);
        }
        let load = Mutation { cause: Cause::Load, ..put(Table::new("loaded"), &number.to_string(), value(number)) };
        commit(&store, &[unit, vec![delete(policies(), &format!("{:02}", number % 5))], vec![load]]);
        let copy = open(&killed(&path, "copy.redb"));
        assert_eq!(copy.position(), store.position(), "after {number}");
        assert_eq!(copy.log_bytes(), store.log_bytes());
        for table in [policies(), schedules(), Table::new("loaded")] {
            assert_eq!(rows(&copy, &table), rows(&store, &table), "after {number}");
            let count = |store: &Store| store.snapshot().expect("a snapshot").count(&table).expect("a count");
            assert_eq!(count(&copy), count(&store));
            assert_eq!(log(&copy, &table, 0), log(&store, &table, 0), "after {number}");
        }
    }
    assert_eq!(std::fs::metadata(journal_of(&path)).expect("a journal").permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_commit_that_the_journal_has_no_room_for_is_durable_without_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("store.redb");
    let store = written(&path, 3);
    assert_eq!(store.journal_bytes(), 3 * BLOCK);
    write(&store, vec![put(policies(), "large", document(&format!(r#"{{"pad":"{}"}}"#, "x".repeat(200_000))))]);
    assert_eq!(store.journal_bytes(), 0);
    let copy = killed(&path, "copy.redb");
    let journal = std::fs::File::options().write(true).open(journal_of(&copy)).expect("a journal");
    journal.set_len(RECORDS_AT).expect("a shorter one");
    assert_eq!(keys(&open(&copy)), 5);
    for number in 0..40 {
        write(&store, vec![put(policies(), "small", value(number))]);
        assert!(store.journal_bytes() <= 2 * 16 * BLOCK);
    }
    assert_eq!(
        store.journal_bytes(),
        (40 - 16) * BLOCK,
        "the first sixteen are settled, the next ones are about to be"
    );
    store.settle().expect("the disk works");
    assert_eq!(store.journal_bytes(), (40 - 32) * BLOCK);
}

#[test]
fn a_store_that_is_left_alone_needs_no_journal_and_writes_to_it_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("store.redb");
    let store = written(&path, 3);
    store.checkpoint(Timestamp(1_000)).expect("the disk works");
    assert_eq!(store.journal_bytes(), 0);
    let copy = killed(&path, "copy.redb");
    assert_eq!(keys(&open(&copy)), 4);
    write(&store, vec![put(policies(), "more", value(1))]);
    assert_eq!(store.journal_bytes(), BLOCK);
    assert_eq!(keys(&open(&killed(&path, "other.redb"))), 5);
}

#[test]
fn a_stale_record_behind_the_newest_is_not_done_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("store.redb");
    let store = written(&path, 2);
    let (present, records_at) = generation(&killed(&path, "asked.redb"));
    let behind = records_at + 2 * BLOCK;
    let cases = [(store.epoch(), present, 4), (store.epoch(), present - 1, 3), (Epoch(2), present, 3)];
    for (epoch, generation, expected) in cases {
        let copy = killed(&path, "copy.redb");
        forge(&copy, behind, epoch, generation, 4, "stale");
        let copy = open(&copy);
        assert_eq!((keys(&copy), copy.epoch()), (expected, store.epoch()), "generation {generation}");
    }
}

#[test]
fn a_restored_database_goes_on_beside_the_journal_of_what_had_followed_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("store.redb");
    drop(written(&path, 0));
    let backup = std::fs::read(&path).expect("a store");
    let go_on = |name: &str, writes: i64| {
        let store = open(&path);
        (0..writes)
            .for_each(|number| drop(write(&store, vec![put(policies(), &format!("{name}{number}"), value(number))])));
        store
    };
    drop(go_on("before", 3));
    std::fs::write(&path, backup).expect("the backup is restored");
    let store = go_on("after", 2);
    let copy = open(&killed(&path, "copy.redb"));
    assert_eq!(contents(&copy, &policies()), contents(&store, &policies()));
    assert_eq!(copy.position(), store.position());
}

#[test]
fn a_record_that_is_not_whole_ends_the_journal_and_a_gap_ends_the_history() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("store.redb");
    let store = written(&path, 3);
    let (_, records_at) = generation(&killed(&path, "asked.redb"));
    for (number, expected) in [(0, None), (1, None), (2, Some(3))] {
        let copy = killed(&path, "copy.redb");
        let file = std::fs::File::options().write(true).open(journal_of(&copy)).expect("a journal");
        file.write_all_at(b"?", records_at + number * BLOCK + 60).expect("a write");
        let copy = try_open(&copy, 2).expect("it opens");
        match expected {
            Some(expected) => assert_eq!((keys(&copy), copy.epoch()), (expected, store.epoch())),
            None => {
                assert_eq!((keys(&copy), copy.epoch()), (1, Epoch(2)), "what was acknowledged is lost, and it says so")
            }
        }
    }
}

#[test]
fn what_is_lost_at_the_end_of_a_generation_is_noticed_by_the_next_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("store.redb");
    let store = written(&path, 0);
    // Sixteen have room in a generation.
    (1..=17).for_each(|number| drop(write(&store, vec![put(policies(), &format!("{number:02}"), value(number))])));
    let (number, records_at) = generation(&killed(&path, "asked.redb"));
    let next_at = RECORDS_AT + (number + 1) % 2 * 16 * BLOCK;
    for (damaged, expected) in [
        (vec![], Some(18)),
        (vec![next_at], Some(17)),
        (vec![next_at, records_at + 15 * BLOCK], None),
        (vec![records_at + 15 * BLOCK], None),
    ] {
        let copy = killed(&path, "copy.redb");
        let file = std::fs::File::options().write(true).open(journal_of(&copy)).expect("a journal");
        damaged.iter().for_each(|at| file.write_all_at(b"?", at + 60).expect("a write"));
        let copy = try_open(&copy, 2).expect("it opens");
        match expected {
            Some(expected) => assert_eq!((keys(&copy), copy.epoch()), (expected, store.epoch()), "{damaged:?}"),
            None => assert_eq!(copy.epoch(), Epoch(2), "{damaged:?}"),
        }
    }
}

#[test]
fn what_was_deleted_does_not_fill_the_memory_although_it_takes_no_room_in_the_journal() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(&directory.path().join("store.redb"));
    let large = document(&format!(r#"{{"pad":"{}"}}"#, "x".repeat(50_000)));
    for number in 0..32 {
        write(&store, vec![put(policies(), &format!("{number:02}"), large.clone())]);
    }
    store.checkpoint(Timestamp(1_000)).expect("the disk works");
    let must_settle = |number: &i32| commit(&store, &[vec![delete(policies(), &format!("{number:02}"))]]).must_settle;
    let deleted = (0..32).take_while(|number| !must_settle(number)).count();
    assert!((8..14).contains(&deleted), "{deleted}, and each takes one of sixteen blocks");
}

#[test]
fn without_its_journal_a_store_begins_another_history_unless_it_ended_in_good_order() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("store.redb");
    let store = written(&path, 3);
    let older = killed(&path, "older.redb");
    store.checkpoint(Timestamp(1_000)).expect("the disk works");
    write(&store, vec![put(policies(), "later", value(1))]);
    let lose: [fn(&Path, &Path); 3] = [
        |copy, _| std::fs::remove_file(journal_of(copy)).expect("a removal"),
        |copy, _| std::fs::write(journal_of(copy), b"a note of mine").expect("a write"),
        |copy, older| {
            std::fs::copy(journal_of(older), journal_of(copy)).expect("a copy");
        },
    ];
    for lose in lose {
        let copy = killed(&path, "copy.redb");
        lose(&copy, &older);
        assert!(matches!(try_open(&copy, 1), Err(StoreError::Damaged(_))), "a history that is no other one is refused");
        let opened = try_open(&copy, 2).expect("it opens");
        assert_eq!((opened.epoch(), keys(&opened)), (Epoch(2), 4));
        write(&opened, vec![put(policies(), "other", value(1))]);
        assert_eq!(opened.snapshot().expect("a snapshot").position(), opened.position());
        let again = open(&killed(&copy, "again.redb"));
        assert_eq!((again.epoch(), keys(&again)), (Epoch(2), 5), "the journal is of the new history");
    }
    drop(store);
    std::fs::remove_file(journal_of(&path)).expect("a removal");
    let store = try_open(&path, 2).expect("it opens");
    assert_eq!((store.epoch(), keys(&store)), (Epoch(1), 5));
}

#[test]
fn a_store_of_format_4_gets_a_journal_with_its_first_commit() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("store.redb");
    drop(written(&path, 3));
    let database = redb::Database::open(&path).expect("a database");
    let transaction = database.begin_write().expect("a transaction");
    {
        let mut meta = transaction.open_table(TableDefinition::<&str, &[u8]>::new("meta")).expect("a table");
        meta.insert("format", &4_u64.to_le_bytes()[..]).expect("an insert");
        meta.remove("settled").expect("a removal");
        meta.remove("journal_open").expect("a removal");
    }
    transaction.commit().expect("a commit");
    drop(database);
    std::fs::remove_file(journal_of(&path)).expect("a removal");
    let store = try_open(&path, 2).expect("it opens");
    assert_eq!((store.epoch(), store.position().seq, keys(&store)), (Epoch(1), Seq(4), 4));
    assert_eq!(meta_number(&killed(&path, "asked.redb"), "format"), Some(6));
    (0..2).for_each(|number| drop(write(&store, vec![put(policies(), "new", value(number))])));
    assert_eq!(store.journal_bytes(), 2 * BLOCK);
    assert_eq!(rows(&open(&killed(&path, "copy.redb")), &policies()), rows(&store, &policies()));
}

#[test]
fn a_killed_store_of_format_5_has_what_its_journal_has() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("store.redb");
    drop(written(&path, 0));
    for generation in [6, 7] {
        let copy = killed(&path, "copy.redb");
        let database = redb::Database::open(&copy).expect("a database");
        let transaction = database.begin_write().expect("a transaction");
        {
            let mut meta = transaction.open_table(layout::META).expect("a table");
            meta.remove(layout::META_SETTLED).expect("a removal");
            for (name, number) in [("format", 5), ("journal", generation), ("journal_open", 1_u64)] {
                meta.insert(name, &number.to_le_bytes()[..]).expect("an insert");
            }
        }
        transaction.commit().expect("a commit");
        drop(database);
        let header = Header { generation, follows: 0, records_at: 0, after: Seq::ZERO }.to_bytes(Epoch(1));
        std::fs::write(journal_of(&copy), vec![0; (RECORDS_AT + 16 * BLOCK) as usize]).expect("a journal");
        let file = std::fs::File::options().write(true).open(journal_of(&copy)).expect("a journal");
        file.write_all_at(&header, generation % 2 * BLOCK).expect("a write");
        forge(&copy, RECORDS_AT, Epoch(1), generation, 2, "second");
        forge(&copy, RECORDS_AT + BLOCK, Epoch(1), generation, 3, "third");
        for expected in 3..6 {
            let store = open(&copy);
            assert_eq!((store.epoch(), keys(&store)), (Epoch(1), expected), "generation {generation}");
            write(&store, vec![put(policies(), &format!("more{expected}"), value(1))]);
            let again = killed(&copy, "again.redb");
            drop(store);
            std::fs::rename(&again, &copy).expect("a name");
            std::fs::rename(journal_of(&again), journal_of(&copy)).expect("a name");
        }
    }
}

/// Looks at the store while a record is on its way to the disk.
type Look = Arc<Mutex<Option<Box<dyn Fn() + Send + Sync>>>>;

#[derive(Debug)]
struct WatchedDisk {
    files: FileDisk,
    look: Arc<Watched>,
}

struct Watched(Look);

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watched")
    }
}

impl Disk for WatchedDisk {
    fn open(&self) -> io::Result<Option<DiskFiles>> {
        let watched = |files: DiskFiles| {
            let journal = Box::new(WatchedJournal { journal: files.journal, look: Arc::clone(&self.look) });
            DiskFiles { journal, ..files }
        };
        Ok(self.files.open()?.map(watched))
    }
}

#[derive(Debug)]
struct WatchedJournal {
    journal: Box<dyn StorageBackend>,
    look: Arc<Watched>,
}

impl StorageBackend for WatchedJournal {
    fn len(&self) -> io::Result<u64> {
        self.journal.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.journal.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.journal.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        if let Some(look) = &*self.look.0.lock().unwrap_or_else(PoisonError::into_inner) {
            std::thread::scope(|scope| scope.spawn(look).join()).expect("it sees what it should");
        }
        self.journal.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.journal.write(offset, data)
    }
}

#[test]
fn no_reader_sees_what_is_not_yet_in_the_journal() {
    let directory = tempfile::tempdir().expect("a directory");
    let look = Arc::new(Watched(Look::default()));
    let files = FileDisk::new(&directory.path().join("store.redb")).expect("a disk");
    let store =
        Store::open(Box::new(WatchedDisk { files, look: Arc::clone(&look) }), options(EVERYTHING)).expect("a store");
    write(&store, vec![put(policies(), "a", value(0))]);
    let (reader, looks) = (store.clone(), Arc::new(AtomicU64::new(0)));
    let counted = Arc::clone(&looks);
    *look.0.lock().expect("nobody panicked") = Some(Box::new(move || {
        let before = reader.position().seq;
        assert_eq!(reader.snapshot().expect("a snapshot").position().seq, before);
        assert_eq!(rows(&reader, &policies())[0].version, before);
        counted.fetch_add(1, Ordering::Relaxed);
    }));
    for number in 1..=5 {
        write(&store, vec![put(policies(), "a", value(number))]);
        assert_eq!(store.snapshot().expect("a snapshot").position(), store.position());
    }
    assert_eq!(looks.load(Ordering::Relaxed), 5);
    look.0.lock().expect("nobody panicked").take();
}
