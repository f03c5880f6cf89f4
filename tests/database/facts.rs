//! What the server relies on, of a RethinkDB itself: asked by another driver.

use reql::cmd::{Conflict, ReturnChanges, insert, replace};
use reql::{func, r};
use serde_json::{Value, json};

use crate::support::rethinkdb::ask::members;
use crate::support::rethinkdb::database::Database;

#[test]
fn a_write_that_fails_by_itself_repeats_its_text_and_nothing_else() {
    const TEXT: &str = "No \u{fc}ser exists with \"ID\"=7: %s {}";
    let Some(database) = Database::lease() else { return };
    let options = replace::Options::new().return_changes(ReturnChanges::Always);
    let command = database.table("policy").get("x").replace(r.args((func!(|_row| r.error(r.expr(TEXT))), options)));
    let error = database.server.try_ask(command).expect_err("it fails");
    assert_eq!(error, TEXT);
    assert_eq!(database.rows("policy"), Vec::<Value>::new());
}

#[test]
fn rows_that_are_written_together_are_answered_in_their_order() {
    let Some(database) = Database::lease() else { return };
    let mut random = fastrand::Rng::with_seed(1);
    for round in 0..5 {
        let mut ids: Vec<String> = (0..200).map(|number| format!("{number:03}")).collect();
        random.shuffle(&mut ids);
        let rows: Vec<Value> = ids.iter().map(|id| json!({"id": id, "round": round})).collect();
        let options = insert::Options::new().conflict(Conflict::Replace).return_changes(ReturnChanges::Always);
        let answer = database.server.ask(database.table("policy").insert(r.args((json!(rows), options))));
        let changes = answer[0]["changes"].as_array().expect("changes");
        let answered: Vec<&str> = changes.iter().filter_map(|change| change["new_val"]["id"].as_str()).collect();
        assert_eq!(answered, ids, "round {round}");
        assert!(changes.iter().all(|change| change["old_val"].is_null() == (round == 0)), "with the row before");
    }
}

#[test]
fn rows_that_cannot_be_written_leave_the_others_written() {
    let Some(database) = Database::lease() else { return };
    let rows = json!([{"id": "a"}, {"id": "x".repeat(128)}, {"id": "b"}]);
    let options = insert::Options::new().return_changes(ReturnChanges::Always);
    let error =
        database.server.try_ask(database.table("policy").insert(r.args((rows, options)))).expect_err("too long");
    assert!(error.starts_with("Primary key too long (max 127 characters)"), "{error}");
    assert_eq!(database.rows("policy").len(), 2);
}

#[test]
fn a_table_says_how_it_was_made() {
    let Some(database) = Database::lease() else { return };
    let info = members(database.server.ask(database.table("job").info()));
    let [info] = &info[..] else { panic!("{info:?}") };
    assert_eq!((&info["type"], &info["name"], &info["primary_key"]), (&json!("TABLE"), &json!("job"), &json!("id")));
    assert_eq!(info["indexes"], json!(["schedule", "started_at"]));
    assert_eq!(info["db"]["name"], database.name.as_str());
}
