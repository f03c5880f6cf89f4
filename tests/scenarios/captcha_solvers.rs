//! CAPTCHA solvers: their commands and their events.

use prost::Message;
use serde_json::json;
use starfeed::proto::captcha_solver::SolverType;
use starfeed::proto::{self, SubscribeOptions, event, request::Command, response::Body};

use crate::backend;
use crate::support::crawled::{id_text, put, rows};
use crate::support::jobs::page;
use crate::support::raw::{RawClient, unsubscribe};
use crate::support::settings::{delete_solver, get_solver, set_solver};
use crate::support::told::{
    SECRET, documents, hex, lines, list, next, next_told, policy, solver as stored_solver, states, table, told,
    until_live, with_filter,
};

const SOLVER_ID: &str = "00010203-0405-4607-8809-0a0b0c0d0e0f";
const MISSING: &str = "No CAPTCHA solver found for that ID";

fn antigate() -> proto::CaptchaSolverAntigate {
    proto::CaptchaSolverAntigate {
        service_url: Some("https://solver.example/".to_owned()),
        api_key: Some(SECRET.to_owned()),
        require_phrase: Some(false),
        case_sensitive: Some(true),
        characters: Some(proto::CaptchaSolverAntigateCharacters::NumbersOnly.into()),
        require_math: Some(false),
        min_length: Some(4),
        max_length: Some(6),
    }
}

fn solver(name: &str) -> proto::CaptchaSolver {
    proto::CaptchaSolver {
        name: Some(name.to_owned()),
        solver_type: Some(SolverType::Antigate(antigate())),
        ..proto::CaptchaSolver::default()
    }
}

fn new_solver(client: &mut RawClient, name: &str) -> Vec<u8> {
    match client.request(set_solver(solver(name))) {
        Some(Body::NewSolver(new)) => new.solver_id.to_vec(),
        body => panic!("{body:?}"),
    }
}

fn solver_of(client: &mut RawClient, id: &[u8]) -> proto::CaptchaSolver {
    match client.request(get_solver(id)) {
        Some(Body::Solver(solver)) => solver,
        body => panic!("{body:?}"),
    }
}

fn solvers(client: &mut RawClient, page: Option<proto::Page>) -> (Vec<proto::CaptchaSolver>, i32) {
    match client.request(Command::ListCaptchaSolvers(proto::RequestListCaptchaSolvers { page })) {
        Some(Body::ListCaptchaSolvers(list)) => {
            let total = list.total();
            (list.solvers, total)
        }
        body => panic!("{body:?}"),
    }
}

#[test]
fn a_solver_is_set_and_comes_back_as_it_was() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    let id = new_solver(&mut client, "Digits");
    let other = new_solver(&mut client, "Other");
    let got = solver_of(&mut client, &id);
    let mut expected = solver("Digits");
    expected.solver_id = Some(id.clone().into());
    expected.created_at.clone_from(&got.created_at);
    expected.updated_at.clone_from(&got.updated_at);
    assert_eq!(got, expected);
    assert!(got.created_at().ends_with("+00:00"), "{}", got.created_at());
    assert_eq!(got.created_at(), got.updated_at());
    let stored = rows(&mut client, "captcha_solver");
    let stored = stored.iter().find(|row| row["name"] == "Digits").expect("it is stored");
    assert_eq!((&stored["type"], &stored["characters"]), (&json!("antigate"), &json!("NUMBERS_ONLY")));

    // An update has no body, is of this row only, and takes away what is not sent.
    let mut changed = solver("Letters");
    changed.solver_id = Some(id.clone().into());
    let settings = proto::CaptchaSolverAntigate {
        characters: Some(proto::CaptchaSolverAntigateCharacters::AlphaOnly.into()),
        min_length: None,
        max_length: None,
        ..antigate()
    };
    changed.solver_type = Some(SolverType::Antigate(settings));
    assert_eq!(client.request(set_solver(changed.clone())), None);
    let after = solver_of(&mut client, &id);
    assert_eq!(after.created_at, got.created_at);
    assert_eq!((after.name(), &after.solver_type), ("Letters", &changed.solver_type));
    assert_eq!(solver_of(&mut client, &other).name(), "Other");
    assert_eq!(solvers(&mut client, None).0.len(), 2);
}

#[test]
fn what_is_wrong_with_a_solver_is_said() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    let unnamed = proto::CaptchaSolver { name: Some(" \t".to_owned()), ..solver("") };
    assert_eq!(client.refusal(set_solver(unnamed)), "Name is required.");
    assert_eq!(client.refusal(set_solver(proto::CaptchaSolver::default())), "Name is required.");
    let untyped = proto::CaptchaSolver { solver_type: None, ..solver("S") };
    assert_eq!(client.refusal(set_solver(untyped)), "Unknown CAPTCHA solver type (None)");
    let unknown = proto::CaptchaSolver { solver_id: Some(vec![7; 16].into()), ..solver("S") };
    assert_eq!(client.refusal(set_solver(unknown)), MISSING);
    assert_eq!(client.refusal(get_solver(&[7; 16])), MISSING);
    for id in [&[][..], &[1, 2, 3]] {
        assert_eq!(client.refusal(get_solver(id)), "Invalid solver_id: must be 16 bytes");
        assert_eq!(client.refusal(delete_solver(id)), "Invalid solver_id: must be 16 bytes");
    }
    let odd = proto::CaptchaSolver { solver_id: Some(vec![7; 3].into()), ..solver("S") };
    assert_eq!(client.refusal(set_solver(odd)), "Invalid solver_id: must be 16 bytes");
    assert_eq!(solvers(&mut client, None), (vec![], 0), "a refused solver was stored");
    assert_eq!(client.request(delete_solver(&[7; 16])), None);
}

#[test]
fn lists_are_ordered_and_paged() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    let mut names: Vec<String> = (0..7).map(|number| format!("S{}", (number * 3) % 7)).collect();
    for name in &names {
        new_solver(&mut client, name);
    }
    names.sort();
    let mut named = |page| {
        let (solvers, total) = solvers(&mut client, page);
        (solvers.into_iter().map(|solver| solver.name.unwrap_or_default()).collect::<Vec<_>>(), total)
    };
    assert_eq!(named(None), (names.clone(), 7));
    assert_eq!(named(page(5, 0)), (names[..5].to_vec(), 7));
    assert_eq!(named(page(5, 5)), (names[5..].to_vec(), 7));
    assert_eq!(named(page(0, 0)), (vec![], 7));
    let negative = Command::ListCaptchaSolvers(proto::RequestListCaptchaSolvers { page: page(-1, 0) });
    assert_eq!(client.refusal(negative), "Page limit must be ≥0.");
}

#[test]
fn a_solver_that_a_policy_uses_is_not_deleted() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    let id = new_solver(&mut client, "Digits");
    let unused = new_solver(&mut client, "Unused");
    let mut user = policy("P");
    user["captcha_solver_id"] = json!(id_text(&id));
    put(&mut client, "policy", &[user]);
    let in_use = "Cannot delete CAPTCHA solver because it is being used by a policy.";
    assert_eq!(client.refusal(delete_solver(&id)), in_use);
    assert_eq!(solver_of(&mut client, &id).name(), "Digits");
    assert_eq!(client.request(delete_solver(&unused)), None);
    assert_eq!(client.refusal(get_solver(&unused)), MISSING);
    // Requests behind it wait for its steps, and see what it did.
    put(&mut client, "policy", &[policy("P")]);
    let asked = client.ask(delete_solver(&id));
    let behind = client.ask(get_solver(&id));
    assert!(client.response(asked).is_success);
    assert_eq!(client.response(behind).error_message.as_deref(), Some(MISSING));
    assert_eq!(solvers(&mut client, None), (vec![], 0));
}

#[test]
fn subscribers_learn_what_happens_to_solvers() {
    let Some(server) = backend::server(&[]) else { return };
    let mut writer = RawClient::connect(&server.address);
    put(&mut writer, "captcha_solver", &[stored_solver(SOLVER_ID, "S1")]);
    let mut plain = RawClient::connect(&server.address);
    let subscribe = list("captcha_solver", SubscribeOptions::default());
    plain.send(&proto::Request { request_id: 1, command: Some(subscribe) }.encode_to_vec());
    assert_eq!(hex(&plain.message()), "1209080110018201020800");
    assert_eq!(hex(&plain.message()), "0a1d0800da061808011210000102030405460788090a0b0c0d0e0f1a025331");
    let mut full = RawClient::connect(&server.address);
    full.subscribe(list("captcha_solver", documents()));
    full.subscribe(table("captcha_solver", documents()));
    let mut first = next_told(&mut full, 2);
    first.sort();
    assert_eq!(first, [format!("ADDED {SOLVER_ID} (S1) new=S1"), format!("ADDED {SOLVER_ID} new=S1")]);
    until_live(&server, 3);

    let id = uuid::Uuid::parse_str(SOLVER_ID).expect("a UUID");
    let changed = proto::CaptchaSolver { solver_id: Some(id.as_bytes().to_vec().into()), ..solver("S2") };
    writer.request(set_solver(changed));
    writer.request(delete_solver(id.as_bytes()));
    let expected = [format!("UPDATED {SOLVER_ID} (S2)"), format!("DELETED {SOLVER_ID} (S2)")];
    assert_eq!(next_told(&mut plain, 2), expected);
    let mut events = next(&mut full, 4);
    for event in &events {
        assert!(
            !event.encode_to_vec().windows(SECRET.len()).any(|bytes| bytes == SECRET.as_bytes()),
            "{}",
            told(event)
        );
    }
    events.sort_by_key(|event| event.subscription_id);
    let told = lines(&events);
    assert_eq!(told[0], format!("UPDATED {SOLVER_ID} (S2) new=S2 old=S1"));
    assert_eq!(told[1], format!("DELETED {SOLVER_ID} (S2) old=S2"));
    assert_eq!(told[2], format!("UPDATED {SOLVER_ID} new=S2 old=S1"));
    assert_eq!(told[3], format!("DELETED {SOLVER_ID} old=S2"));
    // All but the API key is there.
    let Some(event::Body::CaptchaSolverEvent(event)) = &events[0].body else { panic!("{:?}", events[0]) };
    let expected = proto::CaptchaSolverAntigate { api_key: None, ..antigate() };
    let shown = event.solver.as_ref().and_then(|solver| solver.solver_type.clone());
    assert_eq!(shown, Some(SolverType::Antigate(expected)));
    assert_eq!(server.metric("starfeed_row_problems_total"), 0.0, "a row without its API key is no problem");
    plain.request(unsubscribe(0));
}

#[test]
fn nobody_can_guess_an_api_key_by_a_filter() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    put(&mut client, "captcha_solver", &[stored_solver(SOLVER_ID, "S1")]);
    for form in [list, table] {
        client.subscribe(form("captcha_solver", with_filter(&format!("api_key == '{SECRET}'"), states())));
        assert_eq!(next_told(&mut client, 3), ["INITIALIZING", "READY", "LIVE"]);
    }
}

#[test]
fn a_spoilt_solver_harms_only_itself() {
    let mut unreadable = stored_solver("22222222-2222-4222-8222-222222222222", "Odd");
    unreadable["type"] = json!("deathbycaptcha");
    let stored = [
        ("captcha_solver", stored_solver("not-a-uuid", "Bad")),
        ("captcha_solver", unreadable),
        ("captcha_solver", stored_solver(SOLVER_ID, "Good")),
        // Policies that are none, and use none.
        ("policy", json!({"id": "not-a-uuid", "captcha_solver_id": [SOLVER_ID]})),
        ("policy", json!({"id": "11111111-1111-4111-8111-111111111111", "captcha_solver_id": 7})),
    ];
    let Some(server) = backend::server_with_rows(&stored) else { return };
    let mut client = RawClient::connect(&server.address);
    for _ in 0..2 {
        let (shown, total) = solvers(&mut client, None);
        let names: Vec<&str> = shown.iter().map(proto::CaptchaSolver::name).collect();
        assert_eq!((names, total), (vec!["Good", "Odd"], 3));
        assert!(shown[0].solver_type.is_some() && shown[1].solver_type.is_none());
        client.subscribe(list("captcha_solver", states()));
        let told = next_told(&mut client, 5);
        assert_eq!(told[0], "INITIALIZING");
        assert!(told[1].ends_with("(Good)") && told[2].ends_with("(Odd)"), "{told:?}");
        assert_eq!(told[3..], ["READY", "LIVE"]);
    }
    let log = server.log();
    for (key, problem) in
        [("not-a-uuid", "the key is not a UUID"), ("22222222-2222-4222-8222-222222222222", "`type` must be antigate")]
    {
        let lines = log.lines().filter(|line| line.contains("captcha_solver") && line.contains(key));
        assert_eq!(lines.filter(|line| line.contains(problem)).count(), 1, "{log}");
    }
    assert!(!log.contains(SECRET), "{log}");
    let id = uuid::Uuid::parse_str(SOLVER_ID).expect("a UUID");
    assert_eq!(client.request(delete_solver(id.as_bytes())), None);
    assert_eq!(solvers(&mut client, None).1, 2);
}
