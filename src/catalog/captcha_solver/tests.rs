use prost::Message;
use serde_json::json;

use super::*;
use crate::catalog::tests::{World, changed, document, time};
use crate::change::{Seq, Timestamp};
use crate::proto;
use crate::proto::response::Body;

const ID: &str = "01010101-0101-0101-0101-010101010101";
const POLICY_ID: &str = "09090909-0909-0909-0909-090909090909";

fn antigate() -> CaptchaSolverAntigate {
    CaptchaSolverAntigate {
        service_url: Some("https://solver.example/".into()),
        api_key: Some("hunter2".into()),
        require_phrase: Some(true),
        case_sensitive: Some(false),
        characters: Some(2),
        require_math: Some(false),
        min_length: Some(4),
        max_length: Some(6),
    }
}

fn message() -> CaptchaSolver {
    CaptchaSolver {
        name: Some("Digits".into()),
        solver_type: Some(SolverType::Antigate(antigate())),
        ..CaptchaSolver::default()
    }
}

fn row() -> Value {
    json!({
        "id": ID,
        "name": "Digits",
        "created_at": time(1_546_344_000_123),
        "updated_at": time(1_546_344_000_123),
        "type": "antigate",
        "service_url": "https://solver.example/",
        "api_key": "hunter2",
        "require_phrase": true,
        "case_sensitive": false,
        "characters": "NUMBERS_ONLY",
        "require_math": false,
        "min_length": 4,
        "max_length": 6,
    })
}

fn existing(antigate: CaptchaSolverAntigate) -> CaptchaSolver {
    let solver_id = Some(Bytes::from_static(&[1; 16]));
    CaptchaSolver { solver_id, solver_type: Some(SolverType::Antigate(antigate)), ..message() }
}

fn set(world: &mut World, solver: CaptchaSolver) -> Result<Option<Body>, String> {
    world.command(Command::SetCaptchaSolver(proto::RequestSetCaptchaSolver { solver: Some(solver) }))
}

fn get(world: &mut World) -> Result<CaptchaSolver, String> {
    let solver_id = Bytes::from_static(&[1; 16]);
    match world.command(Command::GetCaptchaSolver(RequestGetCaptchaSolver { solver_id }))? {
        Some(Body::Solver(solver)) => Ok(solver),
        other => panic!("no solver but {other:?}"),
    }
}

fn delete(world: &mut World) -> Result<Option<Body>, String> {
    let solver_id = Some(Bytes::from_static(&[1; 16]));
    world.command(Command::DeleteCaptchaSolver(RequestDeleteCaptchaSolver { solver_id }))
}

fn settings(solver: &CaptchaSolver) -> &CaptchaSolverAntigate {
    match &solver.solver_type {
        Some(SolverType::Antigate(antigate)) => antigate,
        None => panic!("it has no type"),
    }
}

#[test]
fn a_new_solver_is_stored_in_the_shape_of_the_table() {
    let mut world = World::new();
    let new_solver = Body::NewSolver(ResponseNewCaptchaSolver { solver_id: Bytes::from_static(&[1; 16]) });
    let solver = CaptchaSolver { solver_id: Some(Bytes::new()), ..message() };
    assert_eq!(set(&mut world, solver), Ok(Some(new_solver)));
    assert_eq!(world.row("captcha_solver", ID), Some(row()));
    assert_eq!((TABLE.check)(&document(&row())), Ok(Key::text(ID)));
    // And is shown as it was sent, API key included, with what the server knows.
    let stamp = Some("2019-01-01T12:00:00.123000+00:00".to_owned());
    let expected = CaptchaSolver { created_at: stamp.clone(), updated_at: stamp, ..existing(antigate()) };
    assert_eq!(get(&mut world), Ok(expected.clone()));
    let list = world.command(Command::ListCaptchaSolvers(Default::default()));
    let solvers = vec![expected];
    assert_eq!(list, Ok(Some(Body::ListCaptchaSolvers(ResponseListCaptchaSolvers { solvers, total: Some(1) }))));
    assert_eq!(world.problems, [""; 0]);
}

#[test]
fn what_is_absent_is_stored_with_its_default() {
    let mut world = World::new();
    let nothing = CaptchaSolverAntigate { characters: Some(77), ..CaptchaSolverAntigate::default() };
    let solver = CaptchaSolver { solver_type: Some(SolverType::Antigate(nothing)), ..message() };
    assert!(matches!(set(&mut world, solver), Ok(Some(Body::NewSolver(_)))));
    let mut expected = row();
    for name in ["min_length", "max_length"] {
        expected = changed(&expected, &format!("/{name}"), None);
    }
    expected["service_url"] = json!("");
    expected["api_key"] = json!("");
    expected["require_phrase"] = json!(false);
    expected["characters"] = json!("ALPHANUMERIC");
    assert_eq!(world.row("captcha_solver", ID), Some(expected.clone()));
    assert_eq!((TABLE.check)(&document(&expected)), Ok(Key::text(ID)));
    let shown = get(&mut world).unwrap();
    assert_eq!((settings(&shown).min_length, settings(&shown).max_length), (None, None));
    assert_eq!(world.problems, [""; 0]);
}

#[test]
fn an_update_is_of_one_row_and_takes_lengths_away() {
    let mut world = World::new();
    let other = "02020202-0202-0202-0202-020202020202";
    world.insert("captcha_solver", other, &changed(&row(), "/id", Some(json!(other))));
    let mut stored = row();
    stored["created_at"] = time(1000);
    stored["of_the_crawler"] = json!("x");
    world.insert("captcha_solver", ID, &stored);
    let changes = CaptchaSolverAntigate {
        api_key: Some("correct horse".into()),
        characters: Some(3),
        min_length: None,
        max_length: Some(8),
        ..antigate()
    };
    let solver = CaptchaSolver { name: Some("Letters".into()), ..existing(changes) };
    assert_eq!(set(&mut world, solver), Ok(None));
    let mut expected = stored;
    expected["updated_at"] = time(1_546_344_000_123);
    expected["name"] = json!("Letters");
    expected["api_key"] = json!("correct horse");
    expected["characters"] = json!("ALPHA_ONLY");
    expected["min_length"] = Value::Null;
    expected["max_length"] = json!(8);
    assert_eq!(world.row("captcha_solver", ID), Some(expected.clone()));
    assert_eq!(world.row("captcha_solver", other).unwrap()["name"], "Digits");
    let shown = get(&mut world).unwrap();
    assert_eq!((settings(&shown).min_length, settings(&shown).max_length), (None, Some(8)));
    assert_eq!(shown.created_at(), "1970-01-01T00:00:01+00:00");
    assert_eq!(world.problems, [""; 0]);
    assert_eq!((TABLE.check)(&document(&expected)), Ok(Key::text(ID)));
    // Who saves what an event showed has no API key to save.
    assert_eq!(set(&mut world, existing(CaptchaSolverAntigate { api_key: None, ..antigate() })), Ok(None));
    assert_eq!(world.row("captcha_solver", ID).unwrap()["api_key"], "correct horse");
    let emptied = CaptchaSolverAntigate { api_key: Some(String::new()), ..antigate() };
    assert_eq!(set(&mut world, existing(emptied)), Ok(None));
    assert_eq!(world.row("captcha_solver", ID).unwrap()["api_key"], "");
}

type Change = fn(&mut CaptchaSolver);

#[test]
fn broken_solvers_are_refused_in_order() {
    let mut world = World::new();
    let cases: [(Change, &str); _] = [
        (|s| s.solver_id = Some(Bytes::from_static(&[1; 3])), "Invalid solver_id: must be 16 bytes"),
        (|s| *s = CaptchaSolver::default(), "Name is required."),
        (|s| s.name = Some(" \t\u{a0}".into()), "Name is required."),
        (|s| s.solver_type = None, "Unknown CAPTCHA solver type (None)"),
        (|s| *s = existing(antigate()), "No CAPTCHA solver found for that ID"),
    ];
    for (change, expected) in cases {
        let mut solver = message();
        change(&mut solver);
        assert_eq!(set(&mut world, solver).unwrap_err(), expected);
    }
    let nothing = world.command(Command::SetCaptchaSolver(proto::RequestSetCaptchaSolver { solver: None }));
    assert_eq!(nothing.unwrap_err(), "Name is required.");
    assert_eq!(world.row("captcha_solver", ID), None);
}

#[test]
fn a_solver_is_found_and_deleted_by_id() {
    let mut world = World::new();
    let invalid = "Invalid solver_id: must be 16 bytes".to_owned();
    for length in [0, 15, 17] {
        let solver_id = Bytes::from(vec![1; length]);
        let get = Command::GetCaptchaSolver(RequestGetCaptchaSolver { solver_id: solver_id.clone() });
        assert_eq!(world.command(get), Err(invalid.clone()));
        let delete = Command::DeleteCaptchaSolver(RequestDeleteCaptchaSolver { solver_id: Some(solver_id) });
        assert_eq!(world.command(delete), Err(invalid.clone()));
    }
    assert_eq!(world.command(Command::DeleteCaptchaSolver(Default::default())), Err(invalid));
    assert_eq!(get(&mut world).unwrap_err(), "No CAPTCHA solver found for that ID");
    world.insert("captcha_solver", ID, &row());
    for _ in 0..2 {
        assert_eq!(delete(&mut world), Ok(None));
        assert_eq!(world.row("captcha_solver", ID), None);
    }
}

#[test]
fn a_solver_that_a_policy_uses_stays() {
    let in_use = Err("Cannot delete CAPTCHA solver because it is being used by a policy.".to_owned());
    let mut world = World::new();
    world.insert("captcha_solver", ID, &row());
    // Another solver, none, and policies that are none.
    for (key, policy) in [
        ("a", json!({"captcha_solver_id": POLICY_ID})),
        ("b", json!({"captcha_solver_id": null})),
        ("c", json!({"name": ID})),
        ("d", json!({"captcha_solver_id": [ID]})),
    ] {
        world.insert("policy", key, &policy);
    }
    for id in [ID.to_owned(), ID.replace('-', "")] {
        world.insert("policy", POLICY_ID, &json!({"id": POLICY_ID, "captcha_solver_id": id}));
        assert_eq!(delete(&mut world), in_use);
        assert!(world.row("captcha_solver", ID).is_some());
    }
    world.insert("policy", POLICY_ID, &json!({"id": POLICY_ID, "captcha_solver_id": null}));
    assert_eq!(delete(&mut world), Ok(None));
    assert_eq!(world.row("captcha_solver", ID), None);
}

#[test]
fn all_policies_are_looked_at_however_many_there_are() {
    for place in [0, POLICY_PAGE.items, 2 * POLICY_PAGE.items] {
        let mut world = World::new();
        world.insert("captcha_solver", ID, &row());
        for number in 0..=2 * POLICY_PAGE.items {
            let id = (number == place).then_some(ID);
            world.insert("policy", &format!("{number:05}"), &json!({"captcha_solver_id": id}));
        }
        assert!(delete(&mut world).unwrap_err().contains("used by a policy"), "{place}");
        world.insert("policy", &format!("{place:05}"), &json!({}));
        assert_eq!(delete(&mut world), Ok(None));
    }
}

#[test]
fn lists_are_sorted_by_name_and_suffer_no_bad_row() {
    let mut world = World::new();
    for (digit, change) in [
        ("2", ("/name", Some(json!("B")))),
        ("3", ("/name", None)),
        ("4", ("/name", Some(json!("A")))),
        ("5", ("/type", Some(json!("deathbycaptcha")))),
    ] {
        world.insert("captcha_solver", &ID.replace('1', digit), &changed(&row(), change.0, change.1));
    }
    world.insert("captcha_solver", "mine", &changed(&row(), "/name", Some(json!("0"))));
    let Ok(Some(Body::ListCaptchaSolvers(list))) = world.command(Command::ListCaptchaSolvers(Default::default()))
    else {
        panic!("no list")
    };
    let ids: Vec<u8> = list.solvers.iter().map(|solver| solver.solver_id()[0]).collect();
    assert_eq!(ids, [4, 2, 5, 3]);
    assert_eq!(list.total, Some(5));
    assert!(list.solvers[2].solver_type.is_none(), "what the members of another type mean is not known");
    assert_eq!(
        world.problems,
        [
            "mine: the key is not a UUID".to_owned(),
            format!("{}: `type` must be antigate", ID.replace('1', "5")),
            format!("{}: `name` is missing", ID.replace('1', "3")),
        ]
    );
}

#[test]
fn damaged_rows_are_shown_in_part_without_their_secrets() {
    let mut world = World::new();
    let cases = [
        ("/name", json!(["hunter2"]), "`name` must be text"),
        ("/created_at", json!(0), "`created_at` must be a time"),
        ("/service_url", json!(null), "`service_url` must be text"),
        ("/api_key", json!({"hunter2": 1}), "`api_key` must be text"),
        ("/require_phrase", json!("yes"), "`require_phrase` must be true or false"),
        ("/case_sensitive", json!(1), "`case_sensitive` must be true or false"),
        ("/characters", json!("NUMERIC_ONLY"), "`characters` must be ALPHANUMERIC, NUMBERS_ONLY or ALPHA_ONLY"),
        ("/require_math", json!([]), "`require_math` must be true or false"),
        ("/min_length", json!(1.5), "`min_length` must be a whole number of 32 bits"),
        ("/max_length", json!("6"), "`max_length` must be a whole number of 32 bits"),
    ];
    for (path, value, expected) in cases {
        let row = changed(&row(), path, Some(value));
        world.insert("captcha_solver", ID, &row);
        assert_eq!(get(&mut world).unwrap().solver_id()[..], [1; 16]);
        assert_eq!(world.problems, [format!("{ID}: {expected}")]);
        assert_eq!((TABLE.check)(&document(&row)).unwrap_err(), expected);
    }
    for member in row().as_object().unwrap().keys() {
        let checked = (TABLE.check)(&document(&changed(&row(), &format!("/{member}"), None)));
        match member.as_str() {
            "min_length" | "max_length" => assert_eq!(checked, Ok(Key::text(ID))),
            _ => assert_eq!(checked.unwrap_err(), format!("`{member}` is missing")),
        }
    }
    let upper = changed(&row(), "/id", Some(json!("ABABABAB-0101-0101-0101-010101010101")));
    assert_eq!((TABLE.check)(&document(&upper)).unwrap_err(), "`id` must be a UUID in lower case with hyphens");
}

#[test]
fn events_have_an_id_and_a_name() {
    let shown = (TABLE.name_event)(&Key::text(ID), &document(&row()));
    assert_eq!(shown.problem, None);
    let golden = [&[0x12, 16][..], &[1; 16], &[0x1a, 6], b"Digits"].concat();
    assert_eq!(shown.value, golden);
    let event = CaptchaSolverEvent {
        solver_id: Some(Bytes::from_static(&[1; 16])),
        name: Some("Digits".into()),
        ..Default::default()
    };
    assert_eq!(shown.value, event.encode_to_vec());
    let shown = (TABLE.name_event)(&Key::text(ID), &document(&json!({"name": 1})));
    assert_eq!(shown.problem.unwrap().to_string(), "`name` must be text");
}

#[test]
fn subscribers_see_no_api_key() {
    let redacted = crate::view::redacted(&document(&row()), TABLE.secrets);
    let shown = (TABLE.row_message)(&Key::text(ID), &redacted);
    assert_eq!(shown.problem, None);
    assert!(!shown.value.windows(7).any(|bytes| bytes == b"hunter2"));
    let solver = CaptchaSolver::decode(shown.value).unwrap();
    let expected = CaptchaSolverAntigate { api_key: None, ..antigate() };
    assert_eq!((solver.name(), settings(&solver)), ("Digits", &expected));
}

#[test]
fn no_plan_and_no_message_shows_an_api_key() {
    let arrival = Arrival { now: Timestamp(0), fresh_id: Uuid::nil(), has_crawler: false };
    for solver in [message(), existing(antigate())] {
        let command = Command::SetCaptchaSolver(proto::RequestSetCaptchaSolver { solver: Some(solver.clone()) });
        assert!(!format!("{command:?} {solver:?}").contains("hunter2"));
        assert!(!format!("{:?}", set_plan(&solver, &arrival)).contains("hunter2"));
    }
    let row = Row { key: Key::text(ID), version: Seq::ZERO, document: document(&row()) };
    assert!(!format!("{row:?} {:?}", show_whole(&row).unwrap()).contains("hunter2"));
}

fn set_plan(solver: &CaptchaSolver, arrival: &Arrival) -> Plan {
    super::set(solver, arrival).unwrap()
}
