use std::path::Path;

use redb::TableDefinition;

use super::*;

fn open(path: &Path, fresh_epoch: u128) -> Result<Store, StoreError> {
    let options =
        StoreOptions { fresh_epoch: Epoch(fresh_epoch), ..options(Retention { bytes: u64::MAX, age_ms: 1_000 }) };
    Store::open(Box::new(FileDisk::new(path)?), options)
}

/// The error of an attempt to open `path`.
fn refusal(path: &Path) -> StoreError {
    open(path, 1).expect_err("it is refused")
}

#[test]
fn a_reopened_store_has_everything_and_goes_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("store");
    let store = open(&path, 1).expect("a new store");
    store.commit(Timestamp(0), &[vec![put(schedules(), "old", value(1))]]).expect("the disk works");
    store
        .commit(Timestamp(5_000), &[vec![put(policies(), "a", value(1)), put(policies(), "b", value(1))]])
        .expect("ok");
    store.commit(Timestamp(5_000), &[vec![delete(policies(), "b")]]).expect("the disk works");
    store.checkpoint(Timestamp(5_000)).expect("the disk works");
    let before = (store.position(), store.log_bytes(), rows(&store, &policies()), log(&store, &policies(), 0));
    assert_eq!(log(&store, &schedules(), 0), None);
    drop(store);

    for _ in 0..2 {
        let store = open(&path, 2).expect("the same store");
        assert_eq!(
            (store.position(), store.log_bytes(), rows(&store, &policies()), log(&store, &policies(), 0)),
            before
        );
        assert_eq!(log(&store, &schedules(), 0), None, "what was trimmed stays known");
        assert_eq!(contents(&store, &schedules()), [("old".to_owned(), value(1))]);
        assert_eq!(store.snapshot().expect("a snapshot").count(&policies()).expect("a count"), 1);
    }

    let store = open(&path, 2).expect("the same store");
    let unit = vec![put(policies(), "c", value(1)), put(Table::new("new"), "c", value(1))];
    let committed = store.commit(Timestamp(5_000), &[unit]).expect("the disk works");
    assert_eq!(seqs(&committed.changes), [5, 6], "no recovered change comes first");
    assert_eq!(contents(&store, &Table::new("new")), [("c".to_owned(), value(1))]);
}

#[test]
fn a_new_store_has_the_fresh_epoch_and_keeps_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("store");
    let store = open(&path, 1).expect("a new store");
    assert_eq!(store.position(), Position { epoch: Epoch(1), seq: Seq::ZERO });
    drop(store);
    let store = open(&path, 2).expect("the same store");
    assert_eq!(store.epoch(), Epoch(1));
    assert_eq!(store.snapshot().expect("a snapshot").position().epoch, Epoch(1));
    drop(store);
    let other = open(&directory.path().join("other"), 3).expect("a new store");
    assert_eq!(other.epoch(), Epoch(3));
}

#[test]
fn a_newer_format_is_refused_with_what_to_do() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("store");
    drop(open(&path, 1).expect("a new store"));
    let newer = layout::FORMAT_VERSION + 1;
    let database = redb::Database::open(&path).expect("a database");
    let transaction = database.begin_write().expect("a transaction");
    let meta = TableDefinition::<&str, &[u8]>::new("meta");
    transaction.open_table(meta).expect("a table").insert("format", &newer.to_le_bytes()[..]).expect("an insert");
    transaction.commit().expect("a commit");
    drop(database);

    let error = refusal(&path);
    assert!(matches!(error, StoreError::NewerFormat { found, supported } if found == newer && supported < newer));
    let text = error.to_string();
    assert!(
        text.contains(&format!("format version {newer}")) && text.contains("use the starfeed that wrote it"),
        "{text}"
    );
}

#[test]
fn a_second_handle_on_the_same_file_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("store");
    let store = open(&path, 1).expect("a new store");
    write(&store, vec![put(policies(), "a", value(1))]);
    let error = refusal(&path);
    assert!(matches!(error, StoreError::Open(_)));
    let text = error.to_string();
    assert!(text.contains("another process uses it") && text.contains("store"), "{text}");
    write(&store, vec![put(policies(), "b", value(1))]);
    drop(store);
    assert_eq!(rows(&open(&path, 2).expect("it is free now"), &policies()).len(), 2);
}

#[test]
fn a_path_that_cannot_be_opened_is_named() {
    let directory = tempfile::tempdir().expect("a directory");
    for path in [directory.path().to_owned(), directory.path().join("missing/store")] {
        let text = refusal(&path).to_string();
        assert!(text.contains(&path.display().to_string()), "{text}");
    }
}

#[test]
fn a_file_that_is_no_store_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("file");
    let mut almost_empty = vec![0; 1 << 20];
    almost_empty[5_000] = 1;
    for content in [b"a note of mine".to_vec(), b"red".to_vec(), almost_empty] {
        std::fs::write(&path, &content).expect("a file");
        assert!(matches!(refusal(&path), StoreError::Open(_) | StoreError::Damaged(_)));
        assert!(std::fs::read(&path).expect("a file") == content, "it was changed");
    }
}

#[test]
fn a_store_that_lost_its_first_bytes_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("store");
    let store = open(&path, 1).expect("a new store");
    write(&store, vec![put(policies(), "a", value(1))]);
    drop(store);
    let mut content = std::fs::read(&path).expect("a file");
    content[..512].fill(0);
    std::fs::write(&path, &content).expect("a file");
    assert!(matches!(refusal(&path), StoreError::Open(_) | StoreError::Damaged(_)));
    assert!(std::fs::read(&path).expect("a file") == content, "it was changed");
}

#[test]
fn a_creation_that_was_cut_short_is_begun_anew() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("store");
    let mut half_marked = vec![0; 1 << 20];
    half_marked[..4].copy_from_slice(b"redb");
    half_marked[64..300].fill(9);
    for content in [Vec::new(), vec![0; 1 << 20], vec![0; 4_096], half_marked] {
        std::fs::write(&path, content).expect("a file");
        let store = open(&path, 1).expect("a new store");
        assert_eq!(store.position().seq, Seq::ZERO);
        write(&store, vec![put(policies(), "a", value(1))]);
        drop(store);
        assert_eq!(rows(&open(&path, 1).expect("the same store"), &policies()).len(), 1);
    }
}
