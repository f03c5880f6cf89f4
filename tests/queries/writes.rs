//! Writes that depend on the row, and deletions of many rows.

use serde_json::{Value, json};
use starfeed::change::{Cause, Document, Key, Table};
use starfeed::store::{Guard, IfMissing, IfPresent, Mutation, Outcome};

use super::document;
use crate::queried::Queried;

const REFUSAL: &str = "The job is \"over\": it cannot be paused.";

fn guard() -> Guard {
    Guard { member: "run_state", values: &["RUNNING", "PAUSED"], refusal: REFUSAL.to_owned() }
}

fn guarded(id: &str, then: IfPresent) -> Mutation {
    Mutation {
        table: Table::new("job"),
        key: Key::text(id),
        if_missing: IfMissing::Refuse("There is none.".to_owned()),
        if_present: IfPresent::When(guard(), Box::new(then)),
        cause: Cause::Write,
    }
}

fn merge(patch: &Value) -> IfPresent {
    IfPresent::Merge(document(patch))
}

fn job<'a>(rows: &'a [Value], id: &str) -> &'a Value {
    rows.iter().find(|row| row["id"] == id).expect("a row")
}

#[test]
fn a_guard_lets_a_row_be_written_that_is_as_it_has_to_be_and_no_other() {
    let Some(queried) = Queried::open() else { return };
    let states = [
        ("done", json!("COMPLETED")),
        ("null", Value::Null),
        ("number", json!(7)),
        ("object", json!({"a": 1})),
        ("list", json!(["RUNNING"])),
    ];
    for (id, state) in &states {
        queried.put("job", &json!({"id": id, "run_state": state}));
    }
    queried.put("job", &json!({"id": "none"}));
    queried.put("job", &json!({"id": "runs", "run_state": "RUNNING", "old_urls": "a", "limits": {"a": 1}}));
    let pause = || merge(&json!({"run_state": "PAUSED", "limits": {"b": 2}}));
    let write = |id: &str, then| queried.source.write(vec![guarded(id, then)]).expect("the database answers");
    assert_eq!(write("runs", pause()), Ok(vec![Outcome::Updated]));
    let expected = json!({"id": "runs", "run_state": "PAUSED", "old_urls": "a", "limits": {"a": 1, "b": 2}});
    assert_eq!(job(&queried.rows("job"), "runs"), &expected);
    assert_eq!(write("runs", pause()), Ok(vec![Outcome::Unchanged]));
    for id in states.iter().map(|(id, _)| *id).chain(["none"]) {
        assert_eq!(write(id, pause()), Err(REFUSAL.to_owned()), "{id}");
        assert_eq!(write(id, IfPresent::Delete), Err(REFUSAL.to_owned()), "{id}");
    }
    assert_eq!(write("missing", pause()), Err("There is none.".to_owned()));
    let inner =
        IfPresent::When(Guard { values: &["RUNNING"], refusal: "inner".to_owned(), ..guard() }, Box::new(pause()));
    assert_eq!(write("runs", inner), Err("inner".to_owned()));
    assert_eq!(write("runs", IfPresent::Refuse("no".to_owned())), Err("no".to_owned()));
    assert_eq!(write("runs", IfPresent::Delete), Ok(vec![Outcome::Deleted]));
    assert_eq!(queried.rows("job").len(), states.len() + 1);
}

#[test]
fn a_refusal_in_a_unit_says_what_was_written_before_it() {
    let Some(queried) = Queried::open() else { return };
    queried.put("job", &json!({"id": "done", "run_state": "COMPLETED"}));
    queried.put("job", &json!({"id": "runs", "run_state": "RUNNING"}));
    let unit = ["runs", "done"].map(|id| guarded(id, merge(&json!({"run_state": "PAUSED"})))).to_vec();
    let refused = queried.source.write(unit).expect("the database answers").expect_err("a job is over");
    assert_eq!(refused, format!("1 of 2 rows were written: {REFUSAL}"));
    assert_eq!(job(&queried.rows("job"), "runs")["run_state"], "PAUSED");
}

#[test]
fn rows_that_are_deleted_together_are_told_from_those_that_were_not_there() {
    const ROWS: usize = 450;
    let Some(queried) = Queried::open() else { return };
    let key = |at: usize| Key::text(&format!("{at:03}"));
    let table = || Table::new("frontier");
    let put = |at: usize| Mutation::put(table(), key(at), document(&json!({"id": format!("{at:03}"), "url": "x"})));
    let written = queried.source.write((0..ROWS).filter(|at| at % 3 != 0).map(put).collect());
    assert_eq!(written.expect("it is written"), Ok(vec![Outcome::Added; 300]));
    let mut unit: Vec<Mutation> = (0..ROWS).map(|at| Mutation::delete(table(), key(at))).collect();
    // Twice, and of another table, and in between something else.
    unit.push(Mutation::delete(table(), key(1)));
    unit.push(Mutation::delete(Table::new("policy"), key(1)));
    unit.push(put(7));
    unit.push(Mutation::delete(table(), key(7)));
    let outcomes = queried.source.write(unit).expect("it is written").expect("nothing is refused");
    let (many, others) = outcomes.split_at(ROWS);
    for (at, outcome) in many.iter().enumerate() {
        assert_eq!(*outcome, if at % 3 == 0 { Outcome::Unchanged } else { Outcome::Deleted }, "row {at}");
    }
    assert_eq!(others, [Outcome::Unchanged, Outcome::Unchanged, Outcome::Added, Outcome::Deleted]);
    assert_eq!(queried.rows("frontier"), Vec::<Value>::new());
}

#[test]
fn a_row_that_is_named_twice_is_deleted_once() {
    let Some(queried) = Queried::open() else { return };
    queried.put("policy", &json!({"id": "a"}));
    let unit = ["a", "a", "b"].map(|id| Mutation::delete(Table::new("policy"), Key::text(id))).to_vec();
    let outcomes = queried.source.write(unit).expect("it is written");
    assert_eq!(outcomes, Ok(vec![Outcome::Deleted, Outcome::Unchanged, Outcome::Unchanged]));
}

#[test]
fn rows_with_binary_keys_are_deleted_together() {
    let Some(queried) = Queried::open() else { return };
    let bodies: Vec<Key> = (0..5).map(|at| Key::binary(&[at; 32])).collect();
    let put = |key: &Key| {
        let starfeed::change::KeyValue::Binary(bytes) = key.value() else { panic!("{key:?}") };
        let data = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes);
        let row = json!({"id": {"$reql_type$": "BINARY", "data": data}, "body": "x".repeat(100_000)});
        Mutation::put(Table::new("response_body"), key.clone(), document(&row))
    };
    queried.source.write(bodies[..3].iter().map(put).collect()).expect("it is written").expect("nothing is refused");
    let unit = bodies.iter().map(|key| Mutation::delete(Table::new("response_body"), key.clone())).collect();
    let outcomes = queried.source.write(unit).expect("it is written").expect("nothing is refused");
    let expected = [Outcome::Deleted, Outcome::Deleted, Outcome::Deleted, Outcome::Unchanged, Outcome::Unchanged];
    assert_eq!(outcomes, expected);
    assert_eq!(queried.rows("response_body").len(), 0);
}

/// What is not there is nothing to be refused.
#[test]
fn one_row_is_deleted_or_was_not_there() {
    let Some(queried) = Queried::open() else { return };
    let row: Document = document(&json!({"id": "a", "old_urls": "x".repeat(100_000)}));
    queried
        .source
        .write(vec![Mutation::put(Table::new("job"), Key::text("a"), row)])
        .expect("it is written")
        .expect("put");
    for expected in [Outcome::Deleted, Outcome::Unchanged] {
        let unit = vec![Mutation::delete(Table::new("job"), Key::text("a"))];
        assert_eq!(queried.source.write(unit).expect("it is written"), Ok(vec![expected]));
    }
}
