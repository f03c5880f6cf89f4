use std::path::Path;

use redb::{ReadableDatabase, TableDefinition};
use serde_json::{Value, json};

use super::*;
use crate::change::Cause;

static BY_AT: Index = Index { name: "by_at", members: &["at"] };
static BY_GROUP_AND_AT: Index = Index { name: "by_group", members: &["group", "at"] };
static BY_GROUP: Index = Index { name: "by_group", members: &["group"] };
static BOTH: &[Index] =
    &[Index { name: "by_at", members: &["at"] }, Index { name: "by_group", members: &["group", "at"] }];
static ONLY_AT: &[Index] = &[Index { name: "by_at", members: &["at"] }];
static OTHER_MEMBERS: &[Index] = &[Index { name: "by_group", members: &["group"] }];

fn jobs() -> Table {
    Table::new("job")
}

fn with(indexes: &'static [Index]) -> StoreOptions {
    StoreOptions { indexes: vec![TableIndexes { table: jobs(), indexes }], ..options(EVERYTHING) }
}

fn indexed() -> Store {
    Store::open(Box::new(MemoryDisk), with(BOTH)).expect("a store in memory")
}

fn open(path: &Path, indexes: &'static [Index]) -> Store {
    Store::open(Box::new(FileDisk::new(path).expect("a disk")), with(indexes)).expect("a store")
}

fn put_value(key: &str, members: &Value) -> Mutation {
    put(jobs(), key, document(&members.to_string()))
}

fn time(seconds: f64) -> Value {
    json!({"$reql_type$": "TIME", "epoch_time": seconds, "timezone": "+00:00"})
}

fn all(index: &'static Index) -> RangeQuery {
    RangeQuery {
        table: jobs(),
        index,
        prefix: Vec::new(),
        start: RangeStart::First,
        direction: Direction::Ascending,
        condition: Condition::Always,
        part: Part::Page { offset: 0, limit: usize::MAX },
    }
}

fn ask(store: &Store, query: RangeQuery) -> QueryResult {
    store.snapshot().expect("a snapshot").query(&Query::Range(query), usize::MAX).expect("an answer")
}

fn keys_of(result: &QueryResult) -> Vec<String> {
    result.rows.iter().map(|row| row.key.to_string()).collect()
}

/// The keys of all rows that a whole query has, which are as many as it says.
fn keys(store: &Store, query: RangeQuery) -> Vec<String> {
    let result = ask(store, query);
    assert_eq!(result.total, result.rows.len());
    keys_of(&result)
}

/// How many entries the file at `path` has; nobody may have it open.
fn entries(path: &Path) -> Vec<Vec<u8>> {
    let database = redb::Database::open(path).expect("a database");
    let transaction = database.begin_read().expect("a transaction");
    let table = transaction.open_table(layout::INDEX_ENTRIES).expect("a table");
    table
        .range::<(u32, u32, &[u8])>(..)
        .expect("a range")
        .map(|entry| entry.expect("an entry").0.value().2.to_vec())
        .collect()
}

/// Changes the file at `path` behind the back of the store.
fn tamper(path: &Path, work: impl FnOnce(&redb::WriteTransaction)) {
    let database = redb::Database::open(path).expect("a database");
    let transaction = database.begin_write().expect("a transaction");
    work(&transaction);
    transaction.commit().expect("a commit");
}

fn remove_entries(path: &Path) {
    tamper(path, |transaction| {
        transaction.open_table(layout::INDEX_ENTRIES).expect("a table").retain(|_, _| false).expect("a removal");
    });
}

#[test]
fn rows_come_in_the_order_of_their_values_those_without_one_last_when_read_backwards() {
    let store = indexed();
    let sorted = [
        ("n1", json!(-7.5)),
        ("n2", json!(0)),
        ("n3", json!(12)),
        ("t1", time(-1.0)),
        ("t2", time(1.5)),
        ("s1", json!("")),
        ("s2", json!("a")),
        ("s3", json!("a\0")),
        ("s4", json!("ab")),
        ("s5", json!("ab")),
        ("s6", json!("é")),
    ];
    let without = [("w1", json!(null)), ("w2", json!(true)), ("w3", json!([1])), ("w4", json!({"at": 1}))];
    for (key, at) in sorted.iter().chain(&without).rev() {
        write(&store, vec![put_value(key, &json!({"at": at, "other": [key]}))]);
    }
    write(&store, vec![put_value("w0", &json!({}))]);
    // Other tables and indexes do not show.
    write(&store, vec![put(policies(), "p", document(r#"{"at":3}"#))]);
    let mut expected: Vec<&str> = vec!["w0", "w1", "w2", "w3", "w4"];
    expected.extend(sorted.iter().map(|(key, _)| key));
    assert_eq!(keys(&store, all(&BY_AT)), expected);
    expected.reverse();
    assert_eq!(keys(&store, RangeQuery { direction: Direction::Descending, ..all(&BY_AT) }), expected);
}

#[test]
fn a_range_begins_where_it_is_told_in_both_directions() {
    let store = indexed();
    for (key, at) in [("a", json!(1)), ("b", json!(2)), ("c", json!(2)), ("d", json!(3)), ("e", json!("x"))] {
        write(&store, vec![put_value(key, &json!({"at": at}))]);
    }
    write(&store, vec![put_value("none", &json!({}))]);
    let from = |start: RangeStart, direction| keys(&store, RangeQuery { start, direction, ..all(&BY_AT) }).concat();
    let both = |start: fn(Value) -> RangeStart, value: Value| {
        let up = from(start(value.clone()), Direction::Ascending);
        assert_eq!(up.chars().rev().collect::<String>(), from(start(value), Direction::Descending));
        up
    };
    assert_eq!(both(RangeStart::At, json!(2)), "bcde");
    assert_eq!(both(RangeStart::After, json!(2)), "de");
    assert_eq!(both(RangeStart::At, json!(2.5)), "de");
    assert_eq!(both(RangeStart::At, json!(-1e9)), "abcde");
    assert_eq!(both(RangeStart::At, time(0.0)), "e");
    assert_eq!(both(RangeStart::At, json!("x")), "e");
    assert_eq!(both(RangeStart::After, json!("x")), "");
    // No row can have what no index holds.
    assert_eq!(both(RangeStart::At, json!(null)), "");
    assert_eq!(both(RangeStart::After, json!(true)), "");
}

#[test]
fn a_prefix_leaves_the_rows_that_have_it() {
    let store = indexed();
    for (key, group, at) in [
        ("a", json!("g"), json!(3)),
        ("b", json!("g"), json!(1)),
        ("c", json!("g"), json!(null)),
        ("d", json!("g\0"), json!(2)),
        ("e", json!("ga"), json!(2)),
        ("f", json!(null), json!(2)),
        ("h", json!(7), json!(2)),
    ] {
        write(&store, vec![put_value(key, &json!({"group": group, "at": at}))]);
    }
    let of = |group: Value, start: RangeStart, direction: Direction| {
        keys(&store, RangeQuery { prefix: vec![group], start, direction, ..all(&BY_GROUP_AND_AT) }).concat()
    };
    use Direction::{Ascending, Descending};
    assert_eq!(of(json!("g"), RangeStart::First, Ascending), "cba");
    assert_eq!(of(json!("g"), RangeStart::First, Descending), "abc");
    assert_eq!(of(json!("g"), RangeStart::At(json!(1)), Descending), "ab");
    assert_eq!(of(json!("g"), RangeStart::After(json!(1)), Ascending), "a");
    assert_eq!(of(json!("g\0"), RangeStart::First, Ascending), "d");
    assert_eq!(of(json!(7.0), RangeStart::First, Ascending), "h");
    assert_eq!(of(json!(""), RangeStart::First, Ascending), "");
    assert_eq!(of(json!(null), RangeStart::First, Ascending), "");
    let whole = RangeQuery { prefix: vec![json!("g"), json!(3)], ..all(&BY_GROUP_AND_AT) };
    assert_eq!(keys(&store, whole), ["a"]);
}

#[test]
fn entries_follow_their_rows() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("store");
    let store = open(&path, BOTH);
    let order = |store: &Store| keys(store, all(&BY_AT)).concat();
    write(&store, (1..=4).map(|at| put_value(&at.to_string(), &json!({"at": at}))).collect());
    assert_eq!(order(&store), "1234");
    // Updated, the same in the index, deleted, made and moved within one unit.
    let patch = |at: &Value| document(&json!({"at": at}).to_string());
    write(&store, vec![update(jobs(), "1", patch(&json!(9)))]);
    write(&store, vec![update(jobs(), "2", document(r#"{"note":1}"#)), delete(jobs(), "3")]);
    write(
        &store,
        vec![put_value("5", &json!({})), update(jobs(), "5", patch(&json!(5))), update(jobs(), "5", patch(&json!(0)))],
    );
    write(&store, vec![put_value("6", &json!({"at": 6})), delete(jobs(), "6")]);
    assert_eq!(order(&store), "5241");
    // A unit that is refused moves nothing.
    commit(&store, &[vec![update(jobs(), "5", patch(&json!(99))), update(jobs(), "nobody", patch(&json!(1)))]]);
    assert_eq!(order(&store), "5241");
    // Rows that are loaded are in the index as others.
    commit(&store, &[vec![Mutation { cause: Cause::Load, ..put_value("7", &json!({"at": 3})) }]]);
    commit(&store, &[vec![Mutation { cause: Cause::Load, ..put_value("2", &json!({"at": 8})) }]]);
    commit(&store, &[vec![Mutation { cause: Cause::Load, ..delete(jobs(), "1") }]]);
    assert_eq!(order(&store), "5742");
    drop(store);
    assert_eq!(entries(&path).len(), 2 * 4, "nothing is left of what went");
    assert_eq!(order(&open(&path, BOTH)), "5742");
}

#[test]
fn a_table_without_indexes_has_no_entries() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("store");
    let store = open(&path, BOTH);
    write(&store, vec![put(policies(), "a", document(r#"{"at":1,"group":"g"}"#))]);
    drop(store);
    assert!(entries(&path).is_empty());
}

#[test]
fn a_store_of_format_3_gets_its_indexes() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("store");
    let store = open(&path, &[]);
    for at in 0..300 {
        write(&store, vec![put_value(&format!("{:03}", (at * 7) % 300), &json!({"at": at, "group": "g"}))]);
    }
    let before = (store.position(), rows(&store, &jobs()), log(&store, &jobs(), 0));
    drop(store);
    tamper(&path, |transaction| {
        let mut meta = transaction.open_table(TableDefinition::<&str, &[u8]>::new("meta")).expect("a table");
        meta.insert("format", &3_u64.to_le_bytes()[..]).expect("an insert");
        assert!(transaction.delete_table(layout::INDEX_ENTRIES).expect("a removal"), "there were no indexes then");
    });
    let store = open(&path, BOTH);
    assert_eq!((store.position(), rows(&store, &jobs()), log(&store, &jobs(), 0)), before);
    let expected: Vec<String> = (0..300).map(|at| format!("{:03}", (at * 7) % 300)).collect();
    assert_eq!(keys(&store, all(&BY_AT)), expected);
    assert_eq!(keys(&store, RangeQuery { prefix: vec![json!("g")], ..all(&BY_GROUP_AND_AT) }), expected);
    write(&store, vec![put_value("000", &json!({"at": 1_000}))]);
    drop(store);
    let store = open(&path, BOTH);
    assert_eq!(keys(&store, all(&BY_AT)).last().map(String::as_str), Some("000"));
}

#[test]
fn an_upgraded_store_without_indexes_can_be_written_to() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("store");
    drop(open(&path, &[]));
    tamper(&path, |transaction| {
        let mut meta = transaction.open_table(TableDefinition::<&str, &[u8]>::new("meta")).expect("a table");
        meta.insert("format", &3_u64.to_le_bytes()[..]).expect("an insert");
        transaction.delete_table(layout::INDEX_ENTRIES).expect("a removal");
    });
    let store = open(&path, BOTH);
    assert!(keys(&store, all(&BY_AT)).is_empty());
    write(&store, vec![put_value("a", &json!({}))]);
    assert_eq!(keys(&store, all(&BY_AT)), ["a"]);
}

#[test]
fn indexes_are_built_anew_when_others_are_asked_for_and_only_then() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("store");
    let store = open(&path, ONLY_AT);
    for (key, at, group) in [("a", 2, 1), ("b", 1, 2), ("c", 3, 1)] {
        write(&store, vec![put_value(key, &json!({"at": at, "group": group}))]);
    }
    write(&store, vec![put(policies(), "other", document(r#"{"at":1}"#))]);
    drop(store);
    assert_eq!(entries(&path).len(), 3);

    let store = open(&path, BOTH);
    assert_eq!(keys(&store, all(&BY_AT)), ["b", "a", "c"]);
    assert_eq!(keys(&store, all(&BY_GROUP_AND_AT)), ["a", "c", "b"]);
    drop(store);
    // The same name for other members.
    let store = open(&path, OTHER_MEMBERS);
    assert_eq!(keys(&store, all(&BY_GROUP)), ["a", "c", "b"]);
    write(&store, vec![put_value("a", &json!({"group": 9}))]);
    assert_eq!(keys(&store, all(&BY_GROUP)), ["c", "b", "a"]);
    drop(store);
    assert_eq!(entries(&path).len(), 3, "those of the indexes that went are gone");
    // Had it been built anew, the entries would be back.
    remove_entries(&path);
    drop(open(&path, OTHER_MEMBERS));
    assert_eq!(entries(&path).len(), 0);
    drop(open(&path, BOTH));
    assert_eq!(entries(&path).len(), 6);
    drop(open(&path, &[]));
    assert_eq!(entries(&path).len(), 0);
}

#[test]
fn what_an_index_says_falsely_is_noticed() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("store");
    let store = open(&path, ONLY_AT);
    write(&store, vec![put_value("a", &json!({"at": 1}))]);
    drop(store);
    let entry = entries(&path).pop().expect("one entry");
    let broken = |change: fn(&mut Vec<u8>), checksum: fn(&[u8]) -> u32| {
        remove_entries(&path);
        let mut entry = entry.clone();
        change(&mut entry);
        tamper(&path, |transaction| {
            let mut table = transaction.open_table(layout::INDEX_ENTRIES).expect("a table");
            table.insert((0, 0, entry.as_slice()), checksum(&entry)).expect("an insert");
        });
        let store = open(&path, ONLY_AT);
        store
            .snapshot()
            .expect("a snapshot")
            .query(&Query::Range(all(&BY_AT)), usize::MAX)
            .map(|result| result.rows.len())
    };
    let right = |entry: &[u8]| layout::entry_checksum(0, 0, entry);
    assert!(matches!(broken(|_| {}, right), Ok(1)));
    assert!(matches!(broken(|_| {}, |_| 0), Err(StoreError::Damaged(_))));
    assert!(matches!(broken(|entry| entry[1] ^= 1, |_| 0), Err(StoreError::Damaged(_))));
    assert!(matches!(broken(|entry| *entry = vec![9], right), Err(StoreError::Damaged(_))));
    let error = broken(|entry| entry.push(b'x'), right).expect_err("there is no such row");
    assert!(error.to_string().contains("by_at"), "{error}");
}

#[test]
#[should_panic(expected = "the store has no index")]
fn an_index_that_is_not_there_is_a_mistake_of_who_asks() {
    let store = indexed();
    write(&store, vec![put_value("a", &json!({}))]);
    ask(&store, all(&BY_GROUP));
}

#[test]
fn a_table_that_nobody_wrote_to_has_no_rows_in_any_order() {
    let store = indexed();
    let snapshot = store.snapshot().expect("a snapshot");
    let first = RangeQuery { part: Part::First(NO_LIMIT), ..all(&BY_AT) };
    let rows = Query::Rows { table: jobs(), keys: vec![Key::text("a")], bytes: 1 };
    for query in [Query::Range(first), rows] {
        let result = snapshot.query(&query, usize::MAX).expect("an answer");
        assert_eq!((result.rows.len(), result.total, result.is_complete), (0, 0, true));
    }
    assert_eq!(keys(&store, all(&BY_AT)), [""; 0]);
}

#[test]
fn a_page_is_bounded_in_bytes() {
    let store = indexed();
    for key in ["a", "b", "c"] {
        write(&store, vec![put_value(key, &json!({"at": 1}))]);
    }
    let size = rows(&store, &jobs())[0].size();
    let ask = |part: Part| {
        let query = Query::Range(RangeQuery { part, ..all(&BY_AT) });
        store.snapshot().expect("a snapshot").query(&query, 2 * size)
    };
    let page = |limit| ask(Part::Page { offset: 0, limit });
    assert_eq!(page(2).map(|result| (result.rows.len(), result.total)).expect("it fits"), (2, 3));
    let error = page(3).expect_err("it does not fit");
    assert!(matches!(error, StoreError::AnswerTooBig { bytes_max } if bytes_max == 2 * size), "{error}");
    // Whoever goes on from page to page gets a shorter one.
    let first = ask(Part::First(NO_LIMIT)).expect("it is cut");
    assert_eq!((first.rows.len(), first.is_complete), (2, false));
}

#[test]
fn the_first_rows_end_with_their_budget() {
    let store = indexed();
    for key in ["a", "b", "c", "d"] {
        write(&store, vec![put_value(key, &json!({"at": 1, "is_done": key != "b" && key != "d"}))]);
    }
    let size = rows(&store, &jobs())[0].size();
    let first = |items, bytes, condition| {
        let query = RangeQuery { part: Part::First(PageBudget { items, bytes }), condition, ..all(&BY_AT) };
        let result = ask(&store, query);
        (keys_of(&result).concat(), result.is_complete)
    };
    let found = |keys: &str, is_complete| (keys.to_owned(), is_complete);
    assert_eq!(first(2, usize::MAX, Condition::Always), found("ab", false));
    assert_eq!(first(4, usize::MAX, Condition::Always), found("abcd", true));
    assert_eq!(first(usize::MAX, size + 1, Condition::Always), found("ab", false));
    assert_eq!(first(0, 0, Condition::Always), found("a", false));
    assert_eq!(first(1, usize::MAX, Condition::IsTrue("is_done")), found("a", false));
    // The row that follows is not one that is wanted.
    assert_eq!(first(2, usize::MAX, Condition::IsTrue("is_done")), found("ac", true));
}

#[test]
fn rows_are_found_by_their_keys_in_that_order() {
    let store = indexed();
    for key in ["a", "b", "c"] {
        write(&store, vec![put_value(key, &json!({"at": 1}))]);
    }
    let size = rows(&store, &jobs())[0].size();
    let find_of = |keys: &[&str], bytes, bytes_max| {
        let query = Query::Rows { table: jobs(), keys: keys.iter().map(|key| Key::text(key)).collect(), bytes };
        let result = store.snapshot().expect("a snapshot").query(&query, bytes_max).expect("an answer");
        assert_eq!(result.total, result.rows.len());
        (keys_of(&result).concat(), result.is_complete)
    };
    let find = |keys: &[&str], bytes| find_of(keys, bytes, usize::MAX);
    let found = |keys: &str, is_complete| (keys.to_owned(), is_complete);
    assert_eq!(find(&["c", "x", "a", "c"], usize::MAX), found("cac", true));
    assert_eq!(find(&["c", "a", "b"], size + 1), found("ca", false));
    assert_eq!(find(&["c", "a", "b"], 0), found("c", false));
    assert_eq!(find(&["x", "b"], 0), found("b", true));
    assert_eq!(find(&[], 0), found("", true));
    assert_eq!(
        find_of(&["c", "a", "b"], usize::MAX, size + 1),
        found("ca", false),
        "no answer is larger than any may be"
    );
}

#[test]
fn a_list_by_a_member_is_the_same_with_an_index_and_without() {
    let (with_index, without) = (indexed(), in_memory());
    let mut rng = fastrand::Rng::with_seed(3);
    for number in 0..60 {
        let at = random_value(&mut rng);
        for store in [&with_index, &without] {
            write(store, vec![put_value(&format!("{:02}", (number * 7) % 60), &json!({"at": at}))]);
        }
    }
    for (offset, limit) in [(0, usize::MAX), (0, 7), (5, 30), (20, 20), (50, 20), (60, 1), (usize::MAX, 9), (3, 0)] {
        let [one, other] = [&with_index, &without].map(|store| {
            let query = Query::List { table: jobs(), order: Order::Member("at"), offset, limit };
            let result = store.snapshot().expect("a snapshot").query(&query, usize::MAX).expect("an answer");
            (keys_of(&result), result.total)
        });
        assert_eq!(one, other, "{limit} after {offset}");
    }
}

/// A value of few, of every kind.
fn random_value(rng: &mut fastrand::Rng) -> Value {
    match rng.u8(0..10) {
        0 => json!(null),
        1 => json!([rng.u8(..)]),
        2..5 => json!(rng.i8(-3..3)),
        5..7 => time(f64::from(rng.i8(-3..3)) / 2.0),
        _ => json!(*rng.choice(&["", "a", "a\0", "b", "ba", "\u{1}"]).expect("there are some")),
    }
}

/// Where a value stands, worked out without its bytes: its kind, its number, its text.
type Rank = (u8, i64, String);

fn rank(value: Option<&Value>) -> Rank {
    let half_units = |number: &Value| (number.as_f64().expect("a number") * 2.0) as i64;
    match value {
        Some(number @ Value::Number(_)) => (1, half_units(number), String::new()),
        Some(Value::Object(time)) => (2, half_units(&time["epoch_time"]), String::new()),
        Some(Value::String(text)) => (3, 0, text.clone()),
        _ => (0, 0, String::new()),
    }
}

/// The keys that `query` should find, in order.
fn expected(rows: &[Row], query: &RangeQuery) -> Vec<Key> {
    let mut found: Vec<(Vec<Rank>, Key)> = Vec::new();
    for row in rows {
        let members = row.document.members().expect("an object");
        let ranks: Vec<Rank> = query.index.members.iter().map(|member| rank(members.get(*member))).collect();
        let prefix: Vec<Rank> = query.prefix.iter().map(|value| rank(Some(value))).collect();
        let next = ranks.get(prefix.len());
        let is_behind = match &query.start {
            RangeStart::First => true,
            RangeStart::At(value) => *next.expect("a member") >= rank(Some(value)),
            RangeStart::After(value) => *next.expect("a member") > rank(Some(value)),
        };
        if ranks.starts_with(&prefix) && is_behind && query.condition.holds(&members) {
            found.push((ranks, row.key.clone()));
        }
    }
    found.sort();
    if query.direction == Direction::Descending {
        found.reverse();
    }
    found.into_iter().map(|(_, key)| key).collect()
}

fn random_query(rng: &mut fastrand::Rng) -> RangeQuery {
    let index = if rng.bool() { &BY_AT } else { &BY_GROUP_AND_AT };
    let mut held = || {
        let value = std::iter::repeat_with(|| random_value(rng)).find(|value| rank(Some(value)).0 > 0);
        value.expect("there is no end of them")
    };
    let (one, other) = (held(), held());
    let prefix = if rng.bool() { vec![one] } else { Vec::new() };
    let start = match rng.u8(0..3) {
        _ if prefix.len() == index.members.len() => RangeStart::First,
        0 => RangeStart::First,
        1 => RangeStart::At(other),
        _ => RangeStart::After(other),
    };
    let direction = if rng.bool() { Direction::Ascending } else { Direction::Descending };
    let contains = || Condition::Contains("tags", "x".to_owned());
    let condition = match rng.u8(0..5) {
        0 => contains(),
        1 => Condition::Not(Box::new(Condition::Any(vec![contains(), Condition::Has("note")]))),
        2 => Condition::All(vec![contains(), Condition::IsTrue("is_done")]),
        _ => Condition::Always,
    };
    RangeQuery { prefix, start, direction, condition, ..all(index) }
}

#[test]
fn pages_are_those_of_a_list_that_is_sorted_for_each_question() {
    let mut seen = [0; 3];
    for seed in 0..20 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let store = indexed();
        for _ in 0..rng.usize(0..150) {
            let key = rng.u8(0..60).to_string();
            let members = json!({
                "at": random_value(&mut rng), "group": random_value(&mut rng), "is_done": rng.bool(),
                "tags": if rng.bool() { json!(["x", "y"]) } else { json!(null) },
                "note": if rng.bool() { json!(1) } else { json!(null) },
            });
            write(&store, vec![if rng.u8(0..5) == 0 { delete(jobs(), &key) } else { put_value(&key, &members) }]);
        }
        let rows = rows(&store, &jobs());
        for _ in 0..60 {
            let query = random_query(&mut rng);
            let expected = expected(&rows, &query);
            let (offset, limit) = (rng.usize(0..12), rng.usize(0..12));
            let page = ask(&store, RangeQuery { part: Part::Page { offset, limit }, ..query.clone() });
            let found: Vec<Key> = page.rows.into_iter().map(|row| row.key).collect();
            let wanted: Vec<Key> = expected.iter().skip(offset).take(limit).cloned().collect();
            assert_eq!((found, page.total), (wanted, expected.len()), "seed {seed}: {query:?}, {limit} after {offset}");

            let items = rng.usize(1..12);
            let budget = PageBudget { items, bytes: usize::MAX };
            let first = ask(&store, RangeQuery { part: Part::First(budget), ..query.clone() });
            let found: Vec<Key> = first.rows.into_iter().map(|row| row.key).collect();
            let is_complete = expected.len() <= items;
            let wanted: Vec<Key> = expected.iter().take(items).cloned().collect();
            assert_eq!((found, first.is_complete), (wanted, is_complete), "seed {seed}: {query:?}, the first {items}");
            seen[expected.len().min(2)] += 1;
        }
    }
    assert!(seen.iter().all(|&times| times > 50), "queries without rows, with one and with several: {seen:?}");
}
