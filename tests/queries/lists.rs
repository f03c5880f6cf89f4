//! Lists of whole tables by a member, with an index and without.

use serde_json::{Value, json};
use starfeed::store::Order;

use super::{ids, list};
use crate::queried::Queried;

fn by_name(table: &str) {
    let Some(queried) = Queried::open() else { return };
    let names = [
        ("a", json!("two")),
        ("b", json!("one")),
        ("c", json!("")),
        ("d", json!("one")),
        ("e", Value::Null),
        ("f", json!({"x": 1})),
        ("g", json!([1, null])),
        ("h", json!(7)),
        ("i", json!(true)),
        ("j", super::time(1)),
        ("k", json!(["one"])),
        ("l", json!("Ünï")),
    ];
    for (id, name) in names {
        queried.put(table, &json!({"id": id, "name": name}));
    }
    queried.put(table, &json!({"id": "m"}));
    let page = |offset, limit| queried.source.query(list(table, Order::Member("name"), offset, limit));
    let all = page(0, 100);
    assert_eq!((ids(&all).as_str(), all.total), ("c b d a l e f g h i j k m", 13));
    let pages: Vec<String> = (0..15).step_by(4).map(|offset| ids(&page(offset, 4))).collect();
    assert_eq!(pages, ["c b d a", "l e f g", "h i j k", "m"]);
    let by_key = queried.source.query(list(table, Order::Key, 1, 3));
    assert_eq!((ids(&by_key).as_str(), by_key.total), ("b c d", 13));
}

#[test]
fn a_list_by_a_member_that_has_an_index_has_all_rows_whatever_is_in_them() {
    by_name("policy");
}

#[test]
fn a_list_by_a_member_that_has_no_index_has_all_rows_whatever_is_in_them() {
    by_name("captcha_solver");
}
