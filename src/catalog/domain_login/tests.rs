use prost::Message;
use serde_json::json;

use super::*;
use crate::catalog::tests::{World, changed, document};
use crate::proto;
use crate::proto::response::Body;

const DOMAIN: &str = "forum.example";

fn user(name: &str) -> DomainLoginUser {
    DomainLoginUser { username: Some(name.into()), password: Some("hunter2".into()), working: Some(true) }
}

fn login() -> DomainLogin {
    DomainLogin { domain: Some(DOMAIN.into()), ..DomainLogin::default() }
}

fn row() -> Value {
    json!({
        "domain": DOMAIN,
        "login_url": "https://forum.example/login",
        "login_test": "https://forum.example/me",
        "users": [{"username": "a", "password": "hunter2", "working": true}],
    })
}

fn set(world: &mut World, login: DomainLogin) -> Result<(), String> {
    let command = Command::SetDomainLogin(proto::RequestSetDomainLogin { login: Some(login) });
    world.command(command).map(|body| assert_eq!(body, None))
}

fn get(world: &mut World, domain: &str) -> Result<DomainLogin, String> {
    match world.command(Command::GetDomainLogin(RequestGetDomainLogin { domain: domain.into() }))? {
        Some(Body::DomainLogin(login)) => Ok(login),
        other => panic!("no login but {other:?}"),
    }
}

#[test]
fn a_new_login_is_stored_in_the_shape_of_the_table() {
    let mut world = World::new();
    let new = DomainLogin { login_url: Some("u".into()), ..login() };
    assert_eq!(set(&mut world, new), Ok(()));
    let stored = json!({"domain": DOMAIN, "login_url": "u", "login_test": null, "users": []});
    assert_eq!(world.row("domain_login", DOMAIN), Some(stored.clone()));
    assert_eq!((TABLE.check)(&document(&stored)), Ok(Key::text(DOMAIN)));
    let full = DomainLogin {
        domain: Some("b.example".into()),
        login_url: Some("u".into()),
        login_test: Some("t".into()),
        users: vec![user("a"), DomainLoginUser::default()],
    };
    assert_eq!(set(&mut world, full.clone()), Ok(()));
    let expected = DomainLogin {
        users: vec![
            user("a"),
            DomainLoginUser { username: Some(String::new()), password: Some(String::new()), working: Some(false) },
        ],
        ..full
    };
    assert_eq!(get(&mut world, "b.example"), Ok(expected));
}

#[test]
fn an_update_keeps_what_it_does_not_say() {
    let stored = row();
    let cases: [(DomainLogin, Value); _] = [
        // Nothing but the domain.
        (login(), stored.clone()),
        // One URL: the users stay.
        (DomainLogin { login_url: Some("u".into()), ..login() }, changed(&stored, "/login_url", Some(json!("u")))),
        // Users, no URL.
        (
            DomainLogin { users: vec![user("b")], ..login() },
            changed(&stored, "/users", Some(json!([{"username": "b", "password": "hunter2", "working": true}]))),
        ),
        // The whole login, without its last user and without a test.
        (
            DomainLogin { login_url: Some("u".into()), login_test: Some(String::new()), ..login() },
            json!({"domain": DOMAIN, "login_url": "u", "login_test": "", "users": []}),
        ),
    ];
    for (message, expected) in cases {
        let mut world = World::new();
        world.insert("domain_login", DOMAIN, &stored);
        assert_eq!(set(&mut world, message), Ok(()));
        assert_eq!(world.row("domain_login", DOMAIN), Some(expected));
    }
}

#[test]
fn what_is_required_is_asked_for() {
    let mut world = World::new();
    let nothing = Command::SetDomainLogin(proto::RequestSetDomainLogin { login: None });
    assert_eq!(world.command(nothing), Err("domain is required.".into()));
    assert_eq!(set(&mut world, DomainLogin::default()), Err("domain is required.".into()));
    assert_eq!(
        set(&mut world, DomainLogin { domain: Some(String::new()), ..login() }),
        Err("domain is required.".into())
    );
    assert_eq!(set(&mut world, login()), Err("login_url is required to create a domain login.".into()));
    let url = Some("u".to_owned());
    for domain in ["a".repeat(128), "a\0b".into()] {
        let login = DomainLogin { domain: Some(domain), login_url: url.clone(), ..login() };
        assert_eq!(set(&mut world, login), Err("Invalid domain: must be at most 127 bytes, without NUL".into()));
    }
    assert_eq!(set(&mut world, DomainLogin { domain: Some("a".repeat(127)), login_url: url, ..login() }), Ok(()));
    assert_eq!(get(&mut world, "x.example"), Err("No domain credentials found for domain=x.example".into()));
    assert_eq!(get(&mut world, ""), Err("No domain credentials found for domain=".into()));
    let delete = |domain: Option<&str>| {
        Command::DeleteDomainLogin(RequestDeleteDomainLogin { domain: domain.map(str::to_owned) })
    };
    assert_eq!(world.command(delete(None)), Err("domain is required.".into()));
    assert_eq!(world.command(delete(Some(DOMAIN))), Ok(None));
    world.insert("domain_login", DOMAIN, &row());
    assert_eq!(world.command(delete(Some(DOMAIN))), Ok(None));
    assert_eq!(world.row("domain_login", DOMAIN), None);
}

#[test]
fn lists_are_whole_and_sorted_by_domain() {
    let mut world = World::new();
    for domain in ["b.example", "a.example"] {
        world.insert("domain_login", domain, &row());
    }
    let Ok(Some(Body::ListDomainLogins(list))) = world.command(Command::ListDomainLogins(Default::default())) else {
        panic!("no list")
    };
    let expected = |domain: &str| DomainLogin {
        domain: Some(domain.into()),
        login_url: Some("https://forum.example/login".into()),
        login_test: Some("https://forum.example/me".into()),
        users: vec![user("a")],
    };
    assert_eq!(list.logins, [expected("a.example"), expected("b.example")]);
    assert_eq!(list.total, Some(2));
}

#[test]
fn rows_may_lack_a_test_and_whether_users_work() {
    let mut world = World::new();
    let user = json!({"username": "a", "password": "hunter2"});
    let stored = json!({"domain": DOMAIN, "login_url": "u", "users": [user]});
    assert_eq!((TABLE.check)(&document(&stored)), Ok(Key::text(DOMAIN)));
    world.insert("domain_login", DOMAIN, &stored);
    let login = get(&mut world, DOMAIN).unwrap();
    assert_eq!((login.login_test, login.users[0].working), (None, Some(false)));
    assert_eq!(world.problems, [""; 0]);
    world.insert("domain_login", DOMAIN, &changed(&stored, "/login_test", Some(Value::Null)));
    assert_eq!(get(&mut world, DOMAIN).unwrap().login_test, None);
    assert_eq!(world.problems, [""; 0]);
}

#[test]
fn damaged_rows_are_shown_in_part_without_their_secrets() {
    let mut world = World::new();
    let cases = [
        ("/login_url", None, "`login_url` is missing"),
        ("/login_url", Some(json!(["hunter2"])), "`login_url` must be text"),
        ("/login_test", Some(json!({"hunter2": 1})), "`login_test` must be text"),
        ("/users", None, "`users` is missing"),
        ("/users", Some(json!("hunter2")), "`users` must be a list"),
        ("/users", Some(json!(["hunter2"])), "`users[0]` must be an object"),
        ("/users", Some(json!([{"username": "hunter2"}])), "`users[0].password` is missing"),
        ("/users/0/working", Some(json!("hunter2")), "`users[0].working` must be true or false"),
        ("/users/0/password", Some(json!(42)), "`users[0].password` must be text"),
    ];
    for (path, value, expected) in cases {
        let row = changed(&row(), path, value);
        world.insert("domain_login", DOMAIN, &row);
        assert_eq!(get(&mut world, DOMAIN).unwrap().domain(), DOMAIN);
        assert_eq!(world.problems, [format!("{DOMAIN}: {expected}")]);
        assert_eq!((TABLE.check)(&document(&row)).unwrap_err(), expected);
    }
    for domain in [json!(null), json!(1), json!(""), json!("a".repeat(128)), json!("\0")] {
        let error = (TABLE.check)(&document(&changed(&row(), "/domain", Some(domain)))).unwrap_err();
        assert_eq!(error, "`domain` must be text of 1 to 127 bytes, without NUL");
    }
    assert_eq!((TABLE.check)(&document(&changed(&row(), "/domain", None))).unwrap_err(), "`domain` is missing");
}

#[test]
fn events_have_the_domain() {
    let shown = (TABLE.name_event)(&Key::text(DOMAIN), &document(&json!({})));
    let event = DomainLoginEvent { domain: Some(DOMAIN.into()), ..Default::default() };
    assert_eq!(shown, Shown { value: event.encode_to_vec().into(), problem: None });
}

#[test]
fn subscribers_see_no_password() {
    let redacted = crate::view::redacted(&document(&row()), TABLE.secrets);
    let shown = (TABLE.row_message)(&Key::text(DOMAIN), &redacted);
    assert_eq!(shown.problem, None);
    let login = DomainLogin::decode(shown.value).unwrap();
    assert!(!login.users.is_empty());
    assert!(login.users.iter().all(|user| user.password.is_none() && user.username.is_some()));
}
