use serde_json::json;

use super::*;
use crate::catalog::stored_table;
use crate::catalog::tests::{changed, document, time};
use crate::json;

const JOB_ID: &str = "01010101-0101-0101-0101-010101010101";

fn response_row() -> Value {
    json!({
        "sequence": 7,
        "job_id": JOB_ID,
        "url": "https://a.example/",
        "canonical_url": "https://a.example",
        "started_at": time(1000),
        "completed_at": time(2000),
        "duration": 1.5,
        "cost": 1,
        "is_success": true,
        "content_type": "text/html",
        "status_code": 200,
        "headers": ["SERVER", "x"],
        "body_id": json::binary(&[2; 16]),
    })
}

fn frontier_row() -> Value {
    json!({"id": "f", "job_id": JOB_ID, "url": "https://a.example/", "cost": 0.5, "in_flight": false})
}

fn body_row() -> Value {
    json!({"id": json::binary(&[2; 32]), "body": json::binary(b"<html>"), "is_compressed": false})
}

fn check(table: &str, row: &Value) -> Result<Key, String> {
    (stored_table(table).unwrap().check)(&document(row))
}

#[test]
fn rows_of_the_crawler_may_be_stored() {
    assert_eq!(check("response", &response_row()), Ok(Key::number(7.0)));
    for (path, value) in [("/content_type", json!(null)), ("/body_id", json!(null)), ("/sequence", json!(7.0))] {
        assert_eq!(check("response", &changed(&response_row(), path, Some(value))), Ok(Key::number(7.0)));
    }
    let bare = json!({"sequence": 0, "job_id": JOB_ID, "url": "u", "exception": "Traceback", "of_a_fixture": [1]});
    assert_eq!(check("response", &bare), Ok(Key::number(0.0)));
    assert_eq!(check("response", &changed(&bare, "/sequence", Some(json!(-0.0)))), Ok(Key::number(0.0)));
    assert_eq!(check("response_body", &body_row()), Ok(Key::binary(&[2; 32])));
    assert_eq!(check("response_body", &changed(&body_row(), "/body", None)), Ok(Key::binary(&[2; 32])));
    assert_eq!(check("frontier", &frontier_row()), Ok(Key::text("f")));
    assert_eq!(check("robots_txt", &json!({"id": "r", "url": 7})), Ok(Key::text("r")));
}

#[test]
fn others_are_refused_without_repeating_them() {
    let secret = || json!({"hunter2": "hunter2"});
    let whole = "must be a whole number ≥0";
    let uuid = "must be a UUID in lower case with hyphens";
    let text_key = "must be text of at most 127 bytes, without NUL";
    let cases = [
        ("response", response_row(), "sequence", json!(-1), whole),
        ("response", response_row(), "sequence", json!(1.5), whole),
        ("response", response_row(), "sequence", json!(9_007_199_254_740_992_u64), whole),
        ("response", response_row(), "sequence", json!("7"), whole),
        ("response", response_row(), "job_id", json!(JOB_ID.replace('-', "")), uuid),
        ("response", response_row(), "url", secret(), "must be text"),
        ("response", response_row(), "canonical_url", secret(), "must be text"),
        ("response", response_row(), "url_can", secret(), "must be text"),
        ("response", response_row(), "content_type", secret(), "must be text"),
        ("response", response_row(), "exception", secret(), "must be text"),
        ("response", response_row(), "started_at", json!(1), "must be a time"),
        ("response", response_row(), "completed_at", json!("now"), "must be a time"),
        ("response", response_row(), "duration", json!("1"), "must be a number"),
        ("response", response_row(), "cost", secret(), "must be a number"),
        ("response", response_row(), "is_success", json!(1), "must be true or false"),
        ("response", response_row(), "status_code", json!("200"), "must be a whole number of 32 bits"),
        ("response", response_row(), "headers", json!(["A"]), "must be a list of names and values in turn"),
        ("response", response_row(), "headers", json!(["A", 1]), "must be a list of names and values in turn"),
        ("response", response_row(), "headers", secret(), "must be a list of names and values in turn"),
        ("response", response_row(), "body_id", json!("AA=="), "must be binary"),
        ("response_body", body_row(), "id", json!("AA=="), "must be binary"),
        ("response_body", body_row(), "id", json::binary(&[1; 128]), "must be binary, of at most 127 bytes"),
        ("response_body", body_row(), "body", secret(), "must be binary"),
        ("response_body", body_row(), "is_compressed", json!(null), "must be true or false"),
        ("frontier", frontier_row(), "id", json!(7), text_key),
        ("frontier", frontier_row(), "id", json!("a".repeat(128)), text_key),
        ("frontier", frontier_row(), "job_id", json!(7), uuid),
        ("frontier", frontier_row(), "url", json!(null), "must be text"),
        ("frontier", frontier_row(), "cost", json!("0"), "must be a number"),
        ("frontier", frontier_row(), "in_flight", json!(0), "must be true or false"),
        ("robots_txt", json!({}), "id", json!(["a"]), text_key),
    ];
    for (table, row, member, value, expected) in cases {
        let row = changed(&row, &format!("/{member}"), Some(value));
        assert_eq!(check(table, &row), Err(format!("`{member}` {expected}")), "{table}");
    }
    for (table, row, members) in [
        ("response", response_row(), &["sequence", "job_id", "url"][..]),
        ("response_body", body_row(), &["id", "is_compressed"]),
        ("frontier", frontier_row(), &["id", "job_id", "url", "cost", "in_flight"]),
        ("robots_txt", json!({"id": "r"}), &["id"]),
    ] {
        for member in row.as_object().unwrap().keys() {
            let is_missed = check(table, &changed(&row, &format!("/{member}"), None)).is_err();
            assert_eq!(is_missed, members.contains(&member.as_str()), "{table} {member}");
        }
    }
}
