//! The rows of the differential test: what is written, and what is shown of it.

use serde_json::{Value, json};
use starfeed::change::Key;

/// The tables that change.
pub(crate) const TABLES: [&str; 4] = ["policy", "schedule", "domain_login", "job"];

/// In every row that has secrets, where no subscriber may see it.
pub(crate) const SECRET: &str = "hunter2";

/// Rows of each table that come, change and go.
pub(crate) const KEYS: u64 = 60;

/// Each write moves a row into one of so many groups, so that rows enter and leave filters all the time.
const GROUPS: u32 = 6;

/// The member that holds the key.
pub(crate) fn key_member(table: &str) -> &'static str {
    if table == "domain_login" { "domain" } else { "id" }
}

/// The member that is another one in each version of a row.
pub(crate) fn stamp_member(table: &str) -> &'static str {
    match table {
        "policy" | "job" => "name",
        "schedule" => "schedule_name",
        "domain_login" => "login_test",
        _ => panic!("{table} has no rows here"),
    }
}

/// The key of row `number`: mostly what a crawler would write.
pub(crate) fn key_value(table: &str, number: u64) -> Value {
    match (table, number) {
        ("domain_login", _) => format!("row{number}.example").into(),
        ("policy", 0) => "not-a-uuid".into(),
        ("job", 1..4) => (number as f64 / 2.0).into(),
        _ => format!("00000000-0000-4000-8000-{number:012x}").into(),
    }
}

/// A version of row `number`.
pub(crate) fn row(table: &str, number: u64, stamp: u64, random: &mut fastrand::Rng) -> Value {
    let key = key_value(table, number);
    let (group, amount) = (random.u32(..GROUPS), random.u32(0..100));
    let proxy = json!([{"proxy_url": format!("socks5://bob:{SECRET}@proxy.example:1080")}]);
    let time = json!({"$reql_type$": "TIME", "epoch_time": 1_546_344_000 + stamp, "timezone": "+00:00"});
    match table {
        "policy" => json!({
            "id": key, "name": format!("g{group} {stamp}"), "created_at": time, "updated_at": time,
            "authentication": {"enabled": false}, "captcha_solver_id": null,
            "limits": {"max_cost": 10.5, "max_duration": null, "max_items": amount},
            "mime_type_rules": [{"save": true}], "proxy_rules": proxy, "robots_txt": {"usage": "OBEY"},
            "url_normalization": {"enabled": true, "strip_parameters": []},
            "url_rules": [{"action": "ADD", "amount": 1}], "user_agents": [{"name": "Test"}],
        }),
        "schedule" => json!({
            "id": key, "schedule_name": format!("g{group} {stamp}"), "enabled": random.bool(), "created_at": time,
            "updated_at": time, "time_unit": "MINUTES", "num_units": amount, "timing": "REGULAR_INTERVAL",
            "job_name": "Job {COUNT}", "job_count": 1, "seeds": ["https://seed.example/"], "tags": ["news"],
            "policy_id": "00010203-0405-4607-8809-0a0b0c0d0e0f",
        }),
        "domain_login" => json!({
            "domain": key, "login_url": format!("https://g{group}.example/"), "login_test": format!("g{group} {stamp}"),
            "users": [{"username": "bob", "password": SECRET, "working": true}],
        }),
        "job" => json!({
            "id": key, "name": format!("g{group} {stamp}"), "run_state": format!("g{group}"), "item_count": amount,
            "schedule_id": "10111213-1415-4617-9819-1a1b1c1d1e1f", "started_at": time,
            "old_urls": {"$reql_type$": "BINARY", "data": "AQI="}, "policy": {"proxy_rules": proxy},
        }),
        _ => panic!("{table} has no rows here"),
    }
}

/// The key of a row.
pub(crate) fn key(table: &str, row: &Value) -> Key {
    match &row[key_member(table)] {
        Value::String(text) => Key::text(text),
        Value::Number(number) => Key::number(number.as_f64().expect("a double")),
        other => panic!("{other} is no key here"),
    }
}

/// A row without what is never shown.
pub(crate) fn as_shown(table: &str, row: &Value) -> Value {
    let mut row = row.clone();
    row.as_object_mut().expect("a row").remove("old_urls");
    let rules = if table == "job" { "/policy/proxy_rules" } else { "/proxy_rules" };
    for user in row.pointer_mut("/users").and_then(Value::as_array_mut).into_iter().flatten() {
        user.as_object_mut().expect("a user").remove("password");
    }
    for rule in row.pointer_mut(rules).and_then(Value::as_array_mut).into_iter().flatten() {
        rule["proxy_url"] = "socks5://proxy.example:1080".into();
    }
    with_plain_numbers(row)
}

/// All numbers as doubles: that is what they are in the database, however they are written.
pub(crate) fn with_plain_numbers(value: Value) -> Value {
    match value {
        Value::Number(number) => number.as_f64().map_or(Value::Null, Value::from),
        Value::Array(elements) => elements.into_iter().map(with_plain_numbers).collect(),
        Value::Object(members) => members.into_iter().map(|(name, value)| (name, with_plain_numbers(value))).collect(),
        other => other,
    }
}
