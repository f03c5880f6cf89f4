use prost::Message;
use serde_json::{Value, json};

use super::*;
use crate::catalog::table as catalog_table;
use crate::catalog::tests::{World, changed, document, time};
use crate::change::Seq;
use crate::proto;
use crate::proto::response::Body;

const ID: &str = "01010101-0101-0101-0101-010101010101";

fn message() -> Policy {
    Policy {
        name: Some("News".into()),
        // Read-only: what a client sends here does not count.
        created_at: Some("2001-01-01T00:00:00+00:00".into()),
        updated_at: Some("nonsense".into()),
        authentication: Some(proto::PolicyAuthentication { enabled: Some(true) }),
        limits: Some(proto::PolicyLimits { max_cost: Some(2.5), max_duration: Some(3600.0), max_items: Some(10) }),
        mime_type_rules: vec![
            proto::PolicyMimeTypeRule { pattern: Some("^text/".into()), r#match: Some(1), save: Some(true) },
            proto::PolicyMimeTypeRule { save: Some(false), ..Default::default() },
        ],
        proxy_rules: vec![
            proto::PolicyProxyRule {
                pattern: Some("\\.onion/".into()),
                r#match: Some(2),
                proxy_url: Some("socks5://user:secret@proxy.example:9050".into()),
            },
            proto::PolicyProxyRule::default(),
        ],
        robots_txt: Some(proto::PolicyRobotsTxt { usage: 3 }),
        url_rules: vec![
            proto::PolicyUrlRule {
                pattern: Some("^https?://({SEED_DOMAINS})/".into()),
                r#match: Some(1),
                action: Some(1),
                amount: Some(1.0),
            },
            proto::PolicyUrlRule { action: Some(2), amount: Some(0.25), ..Default::default() },
        ],
        user_agents: vec![proto::PolicyUserAgent { name: "Crawler/{VERSION}".into() }],
        url_normalization: Some(proto::PolicyUrlNormalization {
            enabled: Some(true),
            strip_parameters: vec!["sid".into()],
        }),
        captcha_solver_id: Some(Bytes::from_static(&[9; 16])),
        ..Policy::default()
    }
}

fn row() -> Value {
    json!({
        "id": ID,
        "name": "News",
        "created_at": time(1_546_344_000_123),
        "updated_at": time(1_546_344_000_123),
        "authentication": {"enabled": true},
        "captcha_solver_id": "09090909-0909-0909-0909-090909090909",
        "limits": {"max_cost": 2.5, "max_duration": 3600, "max_items": 10},
        "mime_type_rules": [{"pattern": "^text/", "match": "MATCHES", "save": true}, {"save": false}],
        "proxy_rules": [
            {"pattern": "\\.onion/", "match": "DOES_NOT_MATCH", "proxy_url": "socks5://user:secret@proxy.example:9050"},
            {},
        ],
        "robots_txt": {"usage": "IGNORE"},
        "url_normalization": {"enabled": true, "strip_parameters": ["sid"]},
        "url_rules": [
            {"pattern": "^https?://({SEED_DOMAINS})/", "match": "MATCHES", "action": "ADD", "amount": 1},
            {"action": "MULTIPLY", "amount": 0.25},
        ],
        "user_agents": [{"name": "Crawler/{VERSION}"}],
    })
}

fn set(world: &mut World, policy: Policy) -> Result<Option<Body>, String> {
    world.command(Command::SetPolicy(proto::RequestSetPolicy { policy }))
}

fn get(world: &mut World, id: u8) -> Policy {
    let policy_id = Bytes::from(vec![id; 16]);
    match world.command(Command::GetPolicy(RequestGetPolicy { policy_id })) {
        Ok(Some(Body::Policy(policy))) => policy,
        other => panic!("no policy but {other:?}"),
    }
}

fn shown(row: &Value) -> (Policy, Option<String>) {
    let row = Row { key: Key::text(ID), version: Seq::ZERO, document: document(row) };
    let shown = show_whole(&row).unwrap();
    (shown.value, shown.problem.map(|problem| problem.to_string()))
}

#[test]
fn a_new_policy_is_stored_in_the_shape_of_the_table() {
    let mut world = World::new();
    let new_policy = Body::NewPolicy(ResponseNewPolicy { policy_id: Bytes::from_static(&[1; 16]) });
    assert_eq!(set(&mut world, message()), Ok(Some(new_policy)));
    assert_eq!(world.row("policy", ID), Some(row()));
    assert_eq!((TABLE.check)(&document(&row())), Ok(Key::text(ID)));
    // And is shown as it was sent, with its id and times.
    let stamp = Some("2019-01-01T12:00:00.123000+00:00".to_owned());
    let policy_id = Some(Bytes::from_static(&[1; 16]));
    let expected = Policy { policy_id, created_at: stamp.clone(), updated_at: stamp, ..message() };
    assert_eq!(get(&mut world, 1), expected);
    assert_eq!(world.problems, [""; 0]);
}

#[test]
fn what_is_not_set_is_stored_as_such() {
    let mut world = World::new();
    let mut policy = Policy {
        authentication: None,
        limits: None,
        url_normalization: None,
        captcha_solver_id: Some(Bytes::new()),
        policy_id: Some(Bytes::new()),
        proxy_rules: Vec::new(),
        ..message()
    };
    policy.mime_type_rules[1].r#match = Some(77);
    set(&mut world, policy).unwrap();
    let row = world.row("policy", ID).unwrap();
    assert_eq!(row["authentication"], json!({"enabled": false}));
    assert_eq!(row["limits"], json!({"max_cost": null, "max_duration": null, "max_items": null}));
    assert_eq!(row["url_normalization"], json!({"strip_parameters": []}));
    assert_eq!(row["proxy_rules"], json!([]));
    assert_eq!(row["mime_type_rules"][1], json!({"save": false}));
    assert_eq!(row.get("captcha_solver_id"), Some(&Value::Null));
}

#[test]
fn an_update_replaces_what_it_says_and_keeps_the_rest() {
    let mut world = World::new();
    let mut stored = row();
    stored["robots_txt"] = json!({"usage": "OBEY", "read_sitemaps": true, "obey_crawl_delay": false});
    stored["of_the_crawler"] = json!([1]);
    stored["created_at"] = time(1000);
    world.insert("policy", ID, &stored);
    let policy = Policy {
        policy_id: Some(Bytes::from_static(&[1; 16])),
        name: Some("Old news".into()),
        limits: Some(proto::PolicyLimits { max_items: Some(5), ..Default::default() }),
        mime_type_rules: vec![proto::PolicyMimeTypeRule { save: Some(true), ..Default::default() }],
        proxy_rules: Vec::new(),
        url_normalization: None,
        captcha_solver_id: None,
        ..message()
    };
    assert_eq!(set(&mut world, policy), Ok(None));
    let mut expected = stored;
    expected["name"] = json!("Old news");
    expected["updated_at"] = time(1_546_344_000_123);
    expected["limits"] = json!({"max_cost": null, "max_duration": null, "max_items": 5});
    expected["mime_type_rules"] = json!([{"save": true}]);
    expected["proxy_rules"] = json!([]);
    expected["robots_txt"]["usage"] = json!("IGNORE");
    expected["url_normalization"] = json!({"enabled": true, "strip_parameters": []});
    expected["captcha_solver_id"] = Value::Null;
    assert_eq!(world.row("policy", ID), Some(expected));
}

#[test]
fn ids_are_checked() {
    let mut world = World::new();
    let bytes = |length: usize| Some(Bytes::from(vec![1; length]));
    let invalid = "Invalid policy_id: must be 16 bytes";
    assert_eq!(set(&mut world, Policy { policy_id: bytes(15), ..message() }).unwrap_err(), invalid);
    // Ids come before everything else.
    assert_eq!(set(&mut world, Policy { policy_id: bytes(15), ..Policy::default() }).unwrap_err(), invalid);
    let text = "Invalid captcha_solver_id: must be 16 bytes";
    assert_eq!(set(&mut world, Policy { captcha_solver_id: bytes(17), ..message() }).unwrap_err(), text);
    let unknown = format!("No policy exists with ID={ID}");
    assert_eq!(set(&mut world, Policy { policy_id: bytes(16), ..message() }).unwrap_err(), unknown);
    assert_eq!(world.row("policy", ID), None);
    for (length, expected) in [(0, Err(invalid)), (15, Err(invalid)), (16, Err(unknown.as_str()))] {
        let policy_id = Bytes::from(vec![1; length]);
        let result = world.command(Command::GetPolicy(RequestGetPolicy { policy_id: policy_id.clone() }));
        assert_eq!(result.as_ref().map_err(String::as_str), expected);
        let result = world.command(Command::DeletePolicy(RequestDeletePolicy { policy_id }));
        assert_eq!(result.is_ok(), length == 16, "a missing row may be deleted");
    }
    assert_eq!(set(&mut world, Policy::default()).unwrap_err(), "Policy name cannot be blank.");
}

#[test]
fn a_policy_is_deleted() {
    let mut world = World::new();
    world.insert("policy", ID, &row());
    let policy_id = Bytes::from_static(&[1; 16]);
    assert_eq!(world.command(Command::DeletePolicy(RequestDeletePolicy { policy_id })), Ok(None));
    assert_eq!(world.row("policy", ID), None);
}

#[test]
fn lists_are_sorted_by_name_and_short() {
    let mut world = World::new();
    for (name, id) in [("b", "1"), ("c", "2"), ("a", "3")] {
        let key = ID.replace('1', id);
        world.insert("policy", &key, &changed(&row(), "/name", Some(json!(name))));
    }
    world.insert("policy", "no id", &row());
    world.insert("policy", &ID.replace('1', "f"), &json!({"name": "d"}));
    let Ok(Some(Body::ListPolicies(list))) = world.command(Command::ListPolicies(Default::default())) else {
        panic!("no list")
    };
    assert_eq!(list.total, Some(5));
    let names: Vec<&str> = list.policies.iter().map(Policy::name).collect();
    assert_eq!(names, ["a", "b", "c", "d"]);
    let stamp = Some("2019-01-01T12:00:00.123000+00:00".to_owned());
    let first = Policy {
        policy_id: Some(Bytes::from_static(&[3; 16])),
        name: Some("a".into()),
        created_at: stamp.clone(),
        updated_at: stamp,
        ..Policy::default()
    };
    assert_eq!(list.policies[0], first);
    // Rows without an id do not harm the others, and rows without a time get one.
    assert_eq!(list.policies[3].created_at(), "1970-01-01T00:00:00+00:00");
    assert_eq!(
        world.problems,
        [
            "no id: the key is not a UUID".to_owned(),
            format!("{}: `created_at` is missing, `updated_at` is missing", ID.replace('1', "f")),
        ]
    );
}

#[test]
fn damaged_rows_are_shown_in_part() {
    let (policy, problem) = shown(&json!({}));
    assert!(problem.unwrap().starts_with("`name` is missing, `created_at` is missing, "));
    let expected = Policy {
        policy_id: Some(Bytes::from_static(&[1; 16])),
        created_at: Some(time::UNKNOWN.into()),
        updated_at: Some(time::UNKNOWN.into()),
        authentication: Some(Default::default()),
        limits: Some(Default::default()),
        robots_txt: Some(proto::PolicyRobotsTxt { usage: 1 }),
        url_normalization: Some(Default::default()),
        ..Policy::default()
    };
    assert_eq!(policy, expected);
}

type Expectation = fn(&Policy) -> bool;

#[test]
fn damaged_members_are_left_out() {
    let cases: [(&str, Value, &str, Expectation); _] = [
        ("/name", json!(5), "`name` must be text", |p| p.name.is_none()),
        ("/created_at", json!("now"), "`created_at` must be a time", |p| p.created_at() == time::UNKNOWN),
        ("/authentication/enabled", json!(1), "`authentication.enabled` must be true or false", |p| {
            p.authentication == Some(Default::default())
        }),
        ("/captcha_solver_id", json!("x"), "`captcha_solver_id` must be a UUID", |p| p.captcha_solver_id.is_none()),
        ("/limits", json!([]), "`limits` must be an object", |p| p.limits == Some(Default::default())),
        ("/limits/max_items", json!(2.5), "`limits.max_items` must be a whole number of 32 bits", |p| {
            p.limits.unwrap().max_items.is_none() && p.limits.unwrap().max_cost == Some(2.5)
        }),
        ("/limits/max_items", json!(3_000_000_000_u32), "`limits.max_items` must be a whole number of 32 bits", |p| {
            p.limits.unwrap().max_items.is_none()
        }),
        (
            "/mime_type_rules/0/match",
            json!("matches"),
            "`mime_type_rules[0].match` must be MATCHES or DOES_NOT_MATCH",
            |p| p.mime_type_rules[0].r#match.is_none() && p.mime_type_rules[0].save == Some(true),
        ),
        ("/proxy_rules/0/proxy_url", Value::Null, "`proxy_rules[0].proxy_url` must be text", |p| {
            p.proxy_rules[0].proxy_url.is_none() && p.proxy_rules.len() == 2
        }),
        ("/proxy_rules", json!({}), "`proxy_rules` must be a list", |p| p.proxy_rules.is_empty()),
        ("/robots_txt/usage", json!("obey"), "`robots_txt.usage` must be OBEY, INVERT or IGNORE", |p| {
            p.robots_txt.unwrap().usage == 1
        }),
        ("/robots_txt/read_sitemaps", json!(1), "`robots_txt.read_sitemaps` must be true or false", |p| {
            p.robots_txt.unwrap().usage == 3
        }),
        (
            "/url_normalization/strip_parameters",
            json!(["a", 1, "b"]),
            "`url_normalization.strip_parameters[1]` must be text",
            |p| p.url_normalization.as_ref().unwrap().strip_parameters == ["a", "b"],
        ),
        ("/url_rules/1/action", json!("SUBTRACT"), "`url_rules[1].action` must be ADD or MULTIPLY", |p| {
            p.url_rules[1].action.is_none() && p.url_rules[1].amount == Some(0.25)
        }),
        ("/url_rules", json!(["hunter2"]), "`url_rules[0]` must be an object", |p| p.url_rules.is_empty()),
        ("/user_agents/0/name", json!(7), "`user_agents[0].name` must be text", |p| p.user_agents[0].name.is_empty()),
    ];
    for (path, value, expected, is_as_expected) in cases {
        let row = changed(&row(), path, Some(value));
        let (policy, problem) = shown(&row);
        assert_eq!(problem.as_deref(), Some(expected));
        assert!(is_as_expected(&policy), "{path}: {policy:?}");
        // A row that is shown in part cannot be imported.
        assert_eq!((TABLE.check)(&document(&row)).unwrap_err(), expected);
    }
}

#[test]
fn optional_members_may_be_absent() {
    for path in [
        "/captcha_solver_id",
        "/limits/max_cost",
        "/limits/max_duration",
        "/limits/max_items",
        "/url_normalization/enabled",
        "/url_normalization/strip_parameters",
        "/mime_type_rules/0/pattern",
        "/proxy_rules/0/match",
        "/url_rules/0/amount",
    ] {
        let row = changed(&row(), path, None);
        assert_eq!(shown(&row).1, None, "{path}");
        assert_eq!((TABLE.check)(&document(&row)), Ok(Key::text(ID)), "{path}");
    }
    for path in ["/captcha_solver_id", "/limits/max_cost", "/limits/max_duration", "/limits/max_items"] {
        assert_eq!(shown(&changed(&row(), path, Some(Value::Null))).1, None, "{path}");
    }
    for member in row().as_object().unwrap().keys().filter(|member| *member != "captcha_solver_id") {
        let row = changed(&row(), &format!("/{member}"), None);
        assert_eq!((TABLE.check)(&document(&row)).unwrap_err(), format!("`{member}` is missing"));
    }
}

#[test]
fn an_imported_row_has_a_proper_id() {
    for id in [json!("x"), json!(1), json!(null), json!(ID.replace('-', "")), json!(ID.replace('1', "A"))] {
        let error = (TABLE.check)(&document(&changed(&row(), "/id", Some(id)))).unwrap_err();
        assert_eq!(error, "`id` must be a UUID in lower case with hyphens");
    }
}

#[test]
fn events_have_an_id_and_a_name() {
    let table = catalog_table("policy").unwrap();
    let key = Key::text(ID);
    let policy_id = Some(Bytes::from_static(&[1; 16]));
    let event = |name: Option<&str>| {
        let (policy_id, name) = (policy_id.clone(), name.map(str::to_owned));
        Bytes::from(PolicyEvent { policy_id, name, ..Default::default() }.encode_to_vec())
    };
    let shown = (table.name_event)(&key, &document(&json!({"name": "P1", "id": "another"})));
    assert_eq!(shown, Shown { value: event(Some("P1")), problem: None });
    let shown = (table.name_event)(&key, &document(&json!({})));
    assert_eq!(shown.problem.unwrap().to_string(), "`name` is missing");
    assert_eq!(shown.value, event(None));
}

#[test]
fn subscribers_see_no_credentials_of_proxies() {
    let table = catalog_table("policy").unwrap();
    let rules = json!([{"proxy_url": "socks5://user:hunter2@proxy.example:1080"}]);
    let row = document(&changed(&row(), "/proxy_rules", Some(rules)));
    let shown = (table.row_message)(&Key::text(ID), &crate::view::redacted(&row, table.secrets));
    let policy = Policy::decode(shown.value).unwrap();
    assert_eq!(policy.proxy_rules[0].proxy_url.as_deref(), Some("socks5://proxy.example:1080"));
}
