//! Rows by their keys.

use serde_json::{Value, json};
use starfeed::change::{Key, Table};
use starfeed::store::{Query, QueryResult};

use super::{document, ids, members};
use crate::queried::Queried;

fn ask(queried: &Queried, table: &str, keys: Vec<Key>, bytes: usize) -> QueryResult {
    queried.source.query(Query::Rows { table: Table::new(table), keys, bytes })
}

#[test]
fn rows_come_in_the_order_of_their_keys_without_those_that_are_missing() {
    let Some(queried) = Queried::open() else { return };
    for id in ["a", "b", "c", "d", "e", "f", "g"] {
        queried.put("policy", &json!({"id": id}));
    }
    let keys = |names: &str| names.split(' ').map(Key::text).collect::<Vec<_>>();
    let result = ask(&queried, "policy", keys("g nope a f no b b c"), 1 << 20);
    assert_eq!((ids(&result).as_str(), result.is_complete), ("g a f b b c", true));
    let result = ask(&queried, "policy", keys("no nope"), 1 << 20);
    assert_eq!((ids(&result).as_str(), result.is_complete), ("", true));
    assert!(ask(&queried, "policy", Vec::new(), 1 << 20).is_complete);
}

#[test]
fn rows_end_with_the_one_that_is_too_much() {
    let Some(queried) = Queried::open() else { return };
    for at in 0..20 {
        queried.put("response_body", &json!({"id": format!("{at:02}"), "body": "x".repeat(1000)}));
    }
    let keys: Vec<Key> = (0..20).map(|at| Key::text(&format!("{at:02}"))).collect();
    let result = ask(&queried, "response_body", keys.clone(), 2500);
    assert_eq!((ids(&result).as_str(), result.is_complete), ("00 01 02", false));
    let result = ask(&queried, "response_body", keys.clone(), 1);
    assert_eq!((ids(&result).as_str(), result.is_complete), ("00", false), "one at least");
    let result = ask(&queried, "response_body", keys[..1].to_vec(), 1);
    assert!(result.is_complete, "none is left");
    let result = ask(&queried, "response_body", keys, 1 << 20);
    assert_eq!((result.rows.len(), result.is_complete), (20, true));
}

#[test]
fn keys_may_be_binary_or_numbers() {
    let Some(queried) = Queried::open() else { return };
    let binary = |data: &str| json!({"$reql_type$": "BINARY", "data": data});
    queried.put("rate_limit", &json!({"token": binary("AQID"), "name": "a"}));
    queried.put("rate_limit", &json!({"token": binary(""), "name": "b"}));
    queried.put("response_body", &json!({"id": binary("/////w=="), "body": binary("AAAA")}));
    queried.put("response_body", &json!({"id": binary(&"QUFB".repeat(30)), "body": binary("AAAB")}));
    queried.put("response", &json!({"sequence": 7, "job_id": "j"}));
    let names =
        |result: QueryResult| -> Vec<Value> { result.rows.iter().map(|row| members(row)["name"].clone()).collect() };
    let tokens = vec![Key::binary(b""), Key::binary(&[1, 2, 3]), Key::binary(&[1])];
    assert_eq!(names(ask(&queried, "rate_limit", tokens.clone(), 1 << 20)), ["b", "a"]);
    let body = ask(&queried, "response_body", vec![Key::binary(&[255; 4])], 1 << 20);
    assert_eq!(members(&body.rows[0])["body"], binary("AAAA"));
    assert_eq!(body.rows[0].key, Key::binary(&[255; 4]));
    let body = ask(&queried, "response_body", vec![Key::binary(b"AAA".repeat(30).as_slice())], 1 << 20);
    assert_eq!(members(&body.rows[0])["body"], binary("AAAB"), "a key that the database breaks into lines");
    assert_eq!(body.rows[0].key, Key::binary(b"AAA".repeat(30).as_slice()));
    let result = ask(&queried, "response", vec![Key::number(7.0), Key::number(7.5)], 1 << 20);
    assert_eq!(result.rows.len(), 1);
    let listed = queried.source.query(super::list("rate_limit", starfeed::store::Order::Member("name"), 0, 10));
    assert_eq!(names(listed), ["a", "b"]);
    let table = || Table::new("rate_limit");
    let patch = document(&json!({"delay": 2.5}));
    let update = starfeed::store::Mutation::update(table(), tokens[1].clone(), patch, "missing".to_owned());
    queried.source.write(vec![update]).expect("it is written").expect("it is there");
    let row = queried.source.query(Query::Get { table: table(), key: tokens[1].clone() });
    assert_eq!(members(&row.rows[0])["delay"], 2.5);
}
