use std::path::Path;

use redb::TableDefinition;

use super::*;

fn open(path: &Path, secret: u8) -> Store {
    let options = StoreOptions { fresh_secret: StoreSecret([secret; 32]), ..options(EVERYTHING) };
    Store::open(Box::new(FileDisk::new(path).expect("a disk")), options).expect("a store")
}

/// Takes from the store at `path` what format 1 did not have.
fn make_format_1(path: &Path) {
    let database = redb::Database::open(path).expect("a database");
    let transaction = database.begin_write().expect("a transaction");
    {
        let mut meta = transaction.open_table(TableDefinition::<&str, &[u8]>::new("meta")).expect("a table");
        meta.insert("format", &1_u64.to_le_bytes()[..]).expect("an insert");
        meta.remove("secret").expect("a removal");
        transaction.delete_table(layout::INDEX_ENTRIES).expect("a removal");
    }
    transaction.commit().expect("a commit");
}

#[test]
fn a_store_of_format_1_keeps_its_rows_and_gets_a_secret_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("store");
    let store = open(&path, 1);
    for batch in 0..3 {
        write(&store, (0..50).map(|number| put(policies(), &format!("{number:05}"), value(batch))).collect());
    }
    let (position, before) = (store.position(), rows(&store, &policies()));
    drop(store);
    make_format_1(&path);
    let store = open(&path, 2);
    assert_eq!(store.secret(), StoreSecret([2; 32]));
    assert_eq!((store.position(), rows(&store, &policies())), (position, before));
    assert_eq!(log(&store, &policies(), position.seq.0 - 1), None, "a reader of before is told");
    assert_eq!(log(&store, &policies(), position.seq.0), Some(vec![]));
    assert_eq!(store.log_bytes(), 0);
    write(&store, vec![put(policies(), "00001", value(99))]);
    drop(store);
    let store = open(&path, 3);
    assert_eq!(store.secret(), StoreSecret([2; 32]));
    assert_eq!(log(&store, &policies(), position.seq.0).map(|changes| changes.len()), Some(1));
}
