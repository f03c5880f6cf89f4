use super::*;

fn open(retention: Retention) -> Store {
    Store::open(Box::new(MemoryDisk), options(retention)).expect("a store in memory")
}

/// Puts `key` to `value` at `time_ms`.
fn put_at(store: &Store, time_ms: u64, table: Table, key: &str, content: i64) {
    store.commit(Timestamp(time_ms), &[vec![put(table, key, value(content))]]).expect("the disk works");
}

fn trim_at(store: &Store, time_ms: u64) {
    let committed = store.commit(Timestamp(time_ms), &[]).expect("the disk works");
    assert!(committed.changes.is_empty(), "retention is no change");
}

#[test]
fn the_log_is_kept_within_its_bytes() {
    let store = open(Retention { bytes: 1_000, age_ms: u64::MAX });
    for round in 0..100 {
        put_at(&store, 1, policies(), "a", round);
        let entry = 100;
        assert!(store.log_bytes() <= 1_000 + entry, "{}", store.log_bytes());
    }
    trim_at(&store, 1);
    assert!(store.log_bytes() <= 1_000);
    assert_eq!(log(&store, &policies(), 0), None);

    // What is left is the newest part, without a gap.
    let entries = store.snapshot().expect("a snapshot").log_entries().expect("a count");
    assert!((5..50).contains(&entries), "{entries}");
    let left = log(&store, &policies(), 100 - entries).expect("the newest entries");
    assert_eq!(seqs(&left), (101 - entries..=100).collect::<Vec<_>>());
    assert_eq!(log(&store, &policies(), 100 - entries - 1), None);
    assert_eq!(contents(&store, &policies()), [("a".to_owned(), value(99))], "rows are not the log");
}

#[test]
fn old_changes_leave_the_log() {
    let store = open(Retention { bytes: u64::MAX, age_ms: 1_000 });
    for time in [100, 200, 1_000, 2_000] {
        put_at(&store, time, policies(), "a", i64::try_from(time).expect("small"));
    }
    // At 2000 everything before 1000 was too old.
    assert_eq!(seqs(&log(&store, &policies(), 2).expect("the newer ones")), [3, 4]);
    assert_eq!(log(&store, &policies(), 1), None);
    trim_at(&store, 2_000);
    assert!(log(&store, &policies(), 2).is_some(), "a change that is just old enough stays");
    trim_at(&store, 2_001);
    assert_eq!(log(&store, &policies(), 2), None);
    trim_at(&store, 10_000);
    assert_eq!(log(&store, &policies(), 3), None);
    assert_eq!(log(&store, &policies(), 4), Some(Vec::new()));
    assert_eq!(store.log_bytes(), 0);
    assert_eq!(store.position().seq, Seq(4));
    put_at(&store, 10_000, policies(), "a", 0);
    assert_eq!(seqs(&log(&store, &policies(), 4).expect("the log goes on")), [5]);
}

#[test]
fn a_table_that_lost_no_entries_is_not_trimmed() {
    let store = open(Retention { bytes: u64::MAX, age_ms: 1_000 });
    put_at(&store, 0, policies(), "a", 1);
    put_at(&store, 1_500, schedules(), "a", 1);
    put_at(&store, 1_600, policies(), "a", 2);
    trim_at(&store, 2_000);
    assert_eq!(log(&store, &policies(), 0), None);
    assert_eq!(seqs(&log(&store, &policies(), 1).expect("a log")), [3]);
    assert_eq!(seqs(&log(&store, &schedules(), 0).expect("a log")), [2]);
    assert_eq!(log(&store, &Table::new("unknown"), 0), Some(Vec::new()));
    trim_at(&store, 5_000);
    assert_eq!(log(&store, &schedules(), 0), None);
    // Trimmed away but for readers that had it all.
    assert_eq!(log(&store, &schedules(), 2), Some(Vec::new()));
    assert_eq!(log(&store, &policies(), 3), Some(Vec::new()));
    assert_eq!(log(&store, &policies(), 2), None);
}

#[test]
fn much_that_is_too_old_goes_in_several_commits() {
    let store = open(Retention { bytes: u64::MAX, age_ms: 1_000 });
    let unit: Unit = (0..1_500).map(|number| put(policies(), &number.to_string(), value(1))).collect();
    store.commit(Timestamp(0), &[unit]).expect("the disk works");
    let mut left = vec![1_500];
    while left.last() != Some(&0) && left.len() < 100 {
        trim_at(&store, 9_000);
        left.push(store.snapshot().expect("a snapshot").log_entries().expect("a count"));
    }
    assert!(left.windows(2).all(|pair| pair[0] > pair[1]), "{left:?}");
    assert!(left.len() > 2 && left.last() == Some(&0), "{left:?}");
    assert_eq!(store.log_bytes(), 0);
}

#[test]
fn what_was_loaded_behind_a_change_is_missed_by_whoever_is_before_it() {
    let store = open(Retention { bytes: u64::MAX, age_ms: 1_000 });
    put_at(&store, 0, policies(), "a", 1);
    let load = Mutation { cause: crate::change::Cause::Load, ..put(policies(), "b", value(1)) };
    store.commit(Timestamp(1), &[vec![load]]).expect("the disk works");
    trim_at(&store, 5_000);
    assert_eq!(log(&store, &policies(), 1), None, "the row that was loaded is no change in the log");
    assert_eq!(log(&store, &policies(), 2), Some(Vec::new()));
}

#[test]
fn a_commit_keeps_the_changes_that_it_makes() {
    let store = open(Retention { bytes: 0, age_ms: 0 });
    for round in 1..5 {
        put_at(&store, round, policies(), "a", 1 + i64::try_from(round).expect("small"));
        assert_eq!(seqs(&log(&store, &policies(), round - 1).expect("the newest change")), [round]);
    }
    trim_at(&store, 5);
    assert_eq!(store.log_bytes(), 0);
    assert_eq!(store.snapshot().expect("a snapshot").log_entries().expect("a count"), 0);
}
