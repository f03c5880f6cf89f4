use std::collections::{BTreeMap, VecDeque};

use serde_json::value::RawValue;

use super::*;
use crate::catalog::stored_table;
use crate::change::Document;
use crate::store::{IfMissing, IfPresent};

/// A copy that takes rows of feeds, and what it holds.
struct Fixture {
    mirror: Mirror,
    rows: BTreeMap<Key, Document>,
    written: Vec<(String, Cause)>,
}

impl Fixture {
    fn new(rows: &[(&str, i32)]) -> Self {
        let rows: BTreeMap<Key, Document> =
            rows.iter().map(|(key, value)| (Key::text(key), document(key, *value))).collect();
        Self { mirror: mirror(rows.is_empty()), rows, written: Vec::new() }
    }

    /// Another feed is opened.
    fn reopen(&mut self) {
        self.mirror = mirror(self.rows.is_empty());
    }

    fn take(&mut self, text: &str) -> Option<SourceDoubt> {
        let row = RawValue::from_string(text.to_owned()).expect("JSON");
        match self.mirror.take(&FeedRow::read(&row)) {
            Effect::Write(mutation) => self.write(mutation),
            Effect::Bad { delete, .. } => delete.into_iter().for_each(|mutation| self.write(mutation)),
            Effect::Nothing => {}
            Effect::Ready(gone) => {
                let deletes: Vec<Mutation> = self.rows.keys().filter_map(|key| gone.delete(key)).collect();
                deletes.into_iter().for_each(|mutation| self.write(mutation));
            }
            Effect::Doubt { doubt, .. } => return Some(doubt),
        }
        None
    }

    fn write(&mut self, Mutation { key, if_missing, if_present, cause, .. }: Mutation) {
        let before = self.rows.clone();
        match (if_missing, if_present) {
            (IfMissing::Insert(document), IfPresent::Replace(_)) => drop(self.rows.insert(key.clone(), document)),
            (IfMissing::Ignore, IfPresent::Delete) => drop(self.rows.remove(&key)),
            other => panic!("{other:?}"),
        }
        if before != self.rows {
            self.written.push((key.to_string(), cause));
        }
    }

    fn holds(&self) -> Vec<(String, i64)> {
        let value = |document: &Document| document.members().expect("an object")["v"].as_i64().expect("a number");
        self.rows.iter().map(|(key, document)| (key.to_string(), value(document))).collect()
    }
}

fn mirror(is_empty: bool) -> Mirror {
    Mirror::new(stored_table("policy").expect("a table"), CopyState { is_empty, was_served: true })
}

fn document(key: &str, value: i32) -> Document {
    Document::parse(json(key, value).as_bytes()).expect("an object")
}

fn json(key: &str, value: i32) -> String {
    format!(r#"{{"id":"{key}","v":{value}}}"#)
}

const INITIALIZING: &str = r#"{"type":"state","state":"initializing"}"#;
const READY: &str = r#"{"type":"state","state":"ready"}"#;

fn initial(key: &str, value: i32) -> String {
    format!(r#"{{"type":"initial","new_val":{}}}"#, json(key, value))
}

fn change(key: &str, value: i32) -> String {
    format!(r#"{{"type":"change","old_val":{},"new_val":{}}}"#, json(key, 0), json(key, value))
}

fn remove(key: &str) -> String {
    format!(r#"{{"type":"remove","old_val":{},"new_val":null}}"#, json(key, 0))
}

fn take_all(fixture: &mut Fixture, rows: &[String]) {
    for row in rows {
        assert_eq!(fixture.take(row), None, "{row}");
    }
}

#[test]
fn only_what_differs_is_written_and_what_is_gone_is_deleted() {
    let mut fixture = Fixture::new(&[("a", 1), ("b", 1), ("c", 1)]);
    let rows = [INITIALIZING.to_owned(), initial("c", 1), initial("b", 2), initial("d", 1), READY.to_owned()];
    take_all(&mut fixture, &rows);
    assert!(fixture.mirror.is_level());
    assert_eq!(fixture.holds(), [("b".to_owned(), 2), ("c".to_owned(), 1), ("d".to_owned(), 1)]);
    let written: Vec<(&str, Cause)> = fixture.written.iter().map(|(key, cause)| (key.as_str(), *cause)).collect();
    assert_eq!(written, [("b", Cause::Resync), ("d", Cause::Resync), ("a", Cause::Resync)]);
    take_all(&mut fixture, &[change("c", 5), change("c", 5), remove("b"), remove("nobody knows it")]);
    assert_eq!(fixture.written[3..], [("c".to_owned(), Cause::Write), ("b".to_owned(), Cause::Write)]);
}

#[test]
fn changes_between_the_first_rows_count() {
    let mut fixture = Fixture::new(&[("a", 1), ("b", 1)]);
    let rows = [
        INITIALIZING.to_owned(),
        initial("a", 1),
        change("a", 2),
        initial("b", 1),
        remove("b"),
        change("e", 7),
        READY.to_owned(),
    ];
    take_all(&mut fixture, &rows);
    assert_eq!(fixture.holds(), [("a".to_owned(), 2), ("e".to_owned(), 7)]);
}

#[test]
fn a_row_that_will_be_sent_again_is_not_deleted_before_that() {
    let mut fixture = Fixture::new(&[("a", 1)]);
    let uninitial = format!(r#"{{"type":"uninitial","old_val":{}}}"#, json("a", 1));
    take_all(&mut fixture, &[INITIALIZING.to_owned(), initial("a", 1), uninitial]);
    assert_eq!(fixture.holds(), [("a".to_owned(), 1)]);
    take_all(&mut fixture, &[READY.to_owned()]);
    assert_eq!(fixture.holds(), [], "it was not sent again: it is gone");
}

#[test]
fn an_error_at_any_time_is_a_gap() {
    let overflow = r#"{"error":"Changefeed cache over array size limit, skipped 3 elements."}"#;
    for before in [vec![], vec![INITIALIZING], vec![INITIALIZING, READY]] {
        let mut fixture = Fixture::new(&[]);
        before.iter().for_each(|row| assert_eq!(fixture.take(row), None));
        assert_eq!(fixture.take(overflow), Some(SourceDoubt::Overflow));
    }
}

#[test]
fn an_order_that_makes_no_sense_is_not_trusted() {
    for rows in [vec![READY], vec![INITIALIZING, INITIALIZING], vec![INITIALIZING, READY, READY]] {
        let mut fixture = Fixture::new(&[]);
        let doubts: Vec<Option<SourceDoubt>> = rows.iter().map(|row| fixture.take(row)).collect();
        assert_eq!(doubts.last(), Some(&Some(SourceDoubt::Protocol)), "{rows:?}");
    }
    let mut fixture = Fixture::new(&[]);
    assert_eq!(fixture.take(&change("a", 1)), Some(SourceDoubt::Protocol));
    assert_eq!(fixture.take(&initial("a", 1)), Some(SourceDoubt::Protocol));
}

#[test]
fn a_bad_row_harms_only_itself() {
    let mut fixture = Fixture::new(&[("a", 1), ("deep", 1)]);
    let deep = format!(r#"{{"id":"deep","v":{}{}}}"#, "[".repeat(20_000), "]".repeat(20_000));
    let bad = [
        format!(r#"{{"type":"initial","new_val":{deep}}}"#),
        r#"{"type":"initial","new_val":{"v":1}}"#.to_owned(),
        r#"{"type":"initial","new_val":{"id":[1],"v":1}}"#.to_owned(),
        r#"{"type":"initial","new_val":7}"#.to_owned(),
    ];
    take_all(&mut fixture, &[INITIALIZING.to_owned(), initial("a", 1)]);
    take_all(&mut fixture, &bad);
    take_all(&mut fixture, &[READY.to_owned(), change("b", 3)]);
    assert_eq!(fixture.holds(), [("a".to_owned(), 1), ("b".to_owned(), 3)]);
}

#[test]
fn reading_again_and_again_writes_nothing_new() {
    let mut fixture = Fixture::new(&[]);
    for _ in 0..3 {
        fixture.reopen();
        take_all(&mut fixture, &[INITIALIZING.to_owned(), initial("a", 1), initial("b", 1), READY.to_owned()]);
    }
    assert_eq!(fixture.written.len(), 2);
}

#[test]
fn what_nobody_has_seen_is_loaded_and_not_logged() {
    let mut fixture = Fixture::new(&[("half", 1)]);
    let state = CopyState { is_empty: false, was_served: false };
    fixture.mirror = Mirror::new(stored_table("policy").expect("a table"), state);
    take_all(&mut fixture, &[INITIALIZING.to_owned(), initial("a", 1), change("a", 2), READY.to_owned()]);
    assert_eq!(fixture.holds(), [("a".to_owned(), 2)]);
    let causes: Vec<Cause> = fixture.written.iter().map(|(_, cause)| *cause).collect();
    assert_eq!(causes, [Cause::Load, Cause::Write, Cause::Resync]);
}

#[test]
fn what_stands_behind_the_last_of_the_first_rows_is_taken_too() {
    let texts = [INITIALIZING.to_owned(), initial("a", 1), READY.to_owned(), change("b", 1), change("c", 1)];
    let raw: Vec<Box<RawValue>> = texts.into_iter().map(|text| RawValue::from_string(text).expect("JSON")).collect();
    let mut rows: VecDeque<&RawValue> = raw.iter().map(AsRef::as_ref).collect();
    let mut mirror = mirror(false);
    let mut written = |mirror: &mut Mirror| {
        let mut unit = Unit::new();
        let gone = mirror.take_until_ready(&mut rows, &mut unit, |key, problem| panic!("{key}: {problem}"));
        (gone.expect("no doubt").is_some(), unit.iter().map(|mutation| mutation.key.to_string()).collect::<Vec<_>>())
    };
    assert_eq!(written(&mut mirror), (true, vec!["a".to_owned()]));
    assert_eq!(written(&mut mirror), (false, vec!["b".to_owned(), "c".to_owned()]));
}
