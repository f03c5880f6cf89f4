use super::*;
use crate::change::Cause;

#[test]
fn positions_increase_by_one_whatever_is_refused_or_changes_nothing() {
    let store = in_memory();
    let mut all = Vec::new();
    for round in 0..10 {
        let committed = commit(
            &store,
            &[
                vec![put(policies(), "a", value(round)), put(schedules(), "a", value(round / 3))],
                vec![put(policies(), "b", value(round)), update(policies(), "nobody", value(1))],
                vec![delete(policies(), "nobody")],
                vec![delete(policies(), "a"), put(policies(), "c", value(0))],
            ],
        );
        all.extend(committed.changes);
        assert_eq!(Some(committed.upto), all.last().map(|change| change.seq));
        assert_eq!(store.position(), Position { epoch: Epoch(5), seq: committed.upto });
        assert_eq!(store.snapshot().expect("a snapshot").position(), store.position());
    }
    assert_eq!(seqs(&all), (1..=all.len() as u64).collect::<Vec<_>>());
    assert_eq!(all.len(), 10 + 4 + 10 + 1);
}

#[test]
fn a_refused_unit_leaves_nothing_and_harms_no_other() {
    let store = in_memory();
    write(&store, vec![put(policies(), "old", value(1))]);
    let committed = commit(
        &store,
        &[
            vec![put(policies(), "before", value(1))],
            vec![
                put(policies(), "half", value(1)),
                delete(policies(), "old"),
                put(Table::new("never"), "x", value(1)),
                update(policies(), "gone", value(2)),
                put(policies(), "half", value(2)),
            ],
            vec![put(policies(), "after", value(1)), update(policies(), "before", value(2))],
        ],
    );
    assert_eq!(
        committed.results,
        [Ok(vec![Outcome::Added]), Err("gone is missing".to_owned()), Ok(vec![Outcome::Added, Outcome::Updated]),]
    );
    assert_eq!(seqs(&committed.changes), [2, 3, 4]);
    let found: Vec<_> = contents(&store, &policies()).into_iter().map(|(key, _)| key).collect();
    assert_eq!(found, ["after", "before", "old"]);
    assert_eq!(log(&store, &policies(), 1), Some(committed.changes));
    assert_eq!(log(&store, &Table::new("never"), 0), Some(Vec::new()));
}

#[test]
fn a_commit_in_which_everything_is_refused_or_the_same_writes_nothing() {
    let store = in_memory();
    write(&store, vec![put(policies(), "a", value(1))]);
    let log_bytes = store.log_bytes();
    let committed =
        commit(&store, &[vec![update(policies(), "b", value(1))], vec![put(policies(), "a", value(1))], vec![]]);
    assert!(committed.changes.is_empty());
    assert_eq!(committed.results, [Err("b is missing".to_owned()), Ok(vec![Outcome::Unchanged]), Ok(vec![])]);
    assert_eq!(committed.upto, Seq(1));
    assert_eq!(store.log_bytes(), log_bytes);
    assert!(commit(&store, &[]).results.is_empty());
}

#[test]
fn mutations_of_one_row_in_one_unit_build_on_each_other() {
    let store = in_memory();
    let committed = commit(
        &store,
        &[vec![
            put(policies(), "a", document(r#"{"value":1,"kept":true}"#)),
            update(policies(), "a", value(2)),
            update(policies(), "a", value(2)),
            delete(policies(), "a"),
            put(policies(), "a", value(3)),
        ]],
    );
    use Outcome::{Added, Deleted, Unchanged, Updated};
    assert_eq!(committed.results, [Ok(vec![Added, Updated, Unchanged, Deleted, Added])]);
    let steps: Vec<_> =
        committed.changes.iter().map(|change| (change.seq.0, change.old.clone(), change.new.clone())).collect();
    let first = Some(document(r#"{"value":1,"kept":true}"#));
    let second = Some(document(r#"{"value":2,"kept":true}"#));
    assert_eq!(
        steps,
        [(1, None, first.clone()), (2, first, second.clone()), (3, second, None), (4, None, Some(value(3)))]
    );
    assert_eq!(contents(&store, &policies()), [("a".to_owned(), value(3))]);
    assert_eq!(store.snapshot().expect("a snapshot").count(&policies()).expect("a count"), 1);
}

#[test]
fn units_of_one_commit_see_what_the_earlier_ones_did() {
    let store = in_memory();
    let only_once =
        |by: i64| Mutation { if_present: IfPresent::Refuse("taken".to_owned()), ..put(policies(), "name", value(by)) };
    let committed =
        commit(&store, &[vec![only_once(1)], vec![only_once(2)], vec![update(policies(), "name", value(3))]]);
    assert_eq!(committed.results, [Ok(vec![Outcome::Added]), Err("taken".to_owned()), Ok(vec![Outcome::Updated])]);
    assert_eq!(contents(&store, &policies()), [("name".to_owned(), value(3))]);
}

#[test]
fn each_case_of_a_mutation_has_its_outcome() {
    let store = in_memory();
    let case =
        |if_missing: IfMissing, if_present: IfPresent| Mutation { if_missing, if_present, ..delete(policies(), "a") };
    let refuse = || "no".to_owned();
    let mut results = Vec::new();
    for mutation in [
        case(IfMissing::Ignore, IfPresent::Delete),
        case(IfMissing::Refuse(refuse()), IfPresent::Delete),
        case(IfMissing::Insert(value(1)), IfPresent::Delete),
        case(IfMissing::Refuse(refuse()), IfPresent::Refuse(refuse())),
        case(IfMissing::Ignore, IfPresent::Merge(value(1))),
        case(IfMissing::Ignore, IfPresent::Merge(document(r#"{"more":1}"#))),
        case(IfMissing::Ignore, IfPresent::Replace(value(1))),
        case(IfMissing::Ignore, IfPresent::Replace(value(1))),
        case(IfMissing::Insert(value(1)), IfPresent::Delete),
    ] {
        results.extend(commit(&store, &[vec![mutation]]).results);
    }
    use Outcome::{Added, Deleted, Unchanged, Updated};
    let refused = Err(refuse());
    let done = |outcome| Ok(vec![outcome]);
    assert_eq!(
        results,
        [
            done(Unchanged),
            refused.clone(),
            done(Added),
            refused,
            done(Unchanged),
            done(Updated),
            done(Updated),
            done(Unchanged),
            done(Deleted),
        ]
    );
}

#[test]
fn a_change_says_what_happened_where_and_when() {
    let store = in_memory();
    write(&store, vec![put(policies(), "a", value(1))]);
    let unit = vec![put(Table::in_namespace("tenant", "policy"), "a", value(2)), put(policies(), "a", value(3))];
    let changes = store.commit(Timestamp(77), &[unit]).expect("the disk works").changes;
    let change = |seq, table, old, old_version, new| Change {
        seq: Seq(seq),
        table,
        key: Key::text("a"),
        old,
        old_version: Seq(old_version),
        new: Some(new),
        time: Timestamp(77),
        cause: crate::change::Cause::Write,
    };
    let expected = [
        change(2, Table::in_namespace("tenant", "policy"), None, 0, value(2)),
        change(3, policies(), Some(value(1)), 1, value(3)),
    ];
    assert_eq!(changes, expected);
    // The log tells the same as the commit did.
    assert_eq!(log(&store, &expected[0].table, 0).expect("a log"), expected[..1]);
    assert_eq!(log(&store, &policies(), 1).expect("a log"), expected[1..]);
}

#[test]
fn a_row_has_the_number_of_the_change_that_made_it_what_it_is() {
    let store = in_memory();
    write(&store, vec![put(policies(), "a", value(1)), put(policies(), "b", value(1))]);
    write(&store, vec![put(policies(), "a", value(1)), put(policies(), "b", value(2))]);
    let versions: Vec<_> = rows(&store, &policies()).iter().map(|row| row.version.0).collect();
    assert_eq!(versions, [1, 3]);
}

#[test]
fn rows_are_counted_per_table() {
    let store = in_memory();
    let counts = || {
        let snapshot = store.snapshot().expect("a snapshot");
        [policies(), schedules(), Table::new("other")].map(|table| snapshot.count(&table).expect("a count"))
    };
    assert_eq!(counts(), [0, 0, 0]);
    write(&store, (0..5).map(|number| put(policies(), &number.to_string(), value(1))).collect());
    write(&store, vec![put(schedules(), "a", value(1)), delete(policies(), "9")]);
    assert_eq!(counts(), [5, 1, 0]);
    write(&store, vec![delete(policies(), "0"), put(policies(), "1", value(2)), delete(policies(), "2")]);
    assert_eq!(counts(), [3, 1, 0]);
    write(&store, (0..5).map(|number| delete(policies(), &number.to_string())).collect());
    assert_eq!(counts(), [0, 1, 0]);
}

#[test]
fn what_is_loaded_has_numbers_and_is_not_in_the_log() {
    let store = in_memory();
    write(&store, vec![put(schedules(), "other", value(1))]);
    let load = |key: &str| Mutation { cause: Cause::Load, ..put(policies(), key, value(7)) };
    let committed = commit(&store, &[vec![load("a"), load("b")]]);
    assert_eq!((committed.changes.len(), committed.upto), (0, Seq(3)));
    assert_eq!(store.position().seq, Seq(3));
    let versions: Vec<Seq> = rows(&store, &policies()).into_iter().map(|row| row.version).collect();
    assert_eq!(versions, [Seq(2), Seq(3)]);
    assert_eq!(log(&store, &policies(), 0), None, "whoever was before it begins anew");
    assert_eq!(log(&store, &policies(), 3), Some(Vec::new()));
    assert_eq!(log(&store, &schedules(), 0).map(|changes| changes.len()), Some(1), "other tables are not concerned");
    let committed = commit(&store, &[vec![put(policies(), "a", value(8))]]);
    assert_eq!((committed.changes[0].seq, committed.changes[0].old_version), (Seq(4), Seq(2)));
    assert_eq!(store.snapshot().expect("a snapshot").count(&policies()).expect("a count"), 2);
    // The same again is no change at all.
    assert_eq!(commit(&store, &[vec![load("b")]]).upto, Seq(4));
}
