//! Subscriptions that cannot be: options without sense, tables that there are not, tokens that nobody made or that are of
//! something else.

use bytes::Bytes;
use starfeed::proto::{self, SubscribeOptions, request::Command};

use crate::support::process::ServerProcess;
use crate::support::raw::{RawClient, set_login, unsubscribe};
use crate::support::told::{documents, list, next_told, states, table, told, with_filter, with_token};
use crate::{Differences, Target, answer, assert_works};

struct Case {
    name: &'static str,
    command: Command,
    text: &'static str,
}

fn case(name: &'static str, command: Command, text: &'static str) -> Case {
    Case { name, command, text }
}

const INVALID_NAME: &str = "invalid_name: a table is called by letters, digits, `_` and `-`, 64 at most";
const FORGED: &str = "invalid_token: it is not a token of this server, or not as it was sent; subscribe without one";

fn refusals() -> Vec<Case> {
    let named = |name: &str| table(name, documents());
    let heartbeat = |seconds| list("policy", SubscribeOptions { heartbeat_seconds: Some(seconds), ..states() });
    let silent = SubscribeOptions { heartbeat_seconds: Some(10), ..SubscribeOptions::default() };
    let export = |name: &str, limit| {
        Command::ExportRows(proto::RequestExportRows { table: name.to_owned(), after: None, limit: Some(limit) })
    };
    vec![
        case("a table without a name", named(""), INVALID_NAME),
        case("a table above", named("../default/policy"), INVALID_NAME),
        case("a table of another namespace", named("starfeed/origin"), INVALID_NAME),
        case("any table", named("*"), INVALID_NAME),
        case("all tables below", named("policy.>"), INVALID_NAME),
        case("all tables beside", named("#"), INVALID_NAME),
        case("a table with a NUL", named("policy\0"), INVALID_NAME),
        case("a table with a line feed", named("policy\n"), INVALID_NAME),
        case("a table in other letters", named("p\u{43e}licy"), INVALID_NAME),
        case("a table of 65 characters", named(&"x".repeat(65)), INVALID_NAME),
        case("a table of 10 KB", named(&"x".repeat(10_000)), INVALID_NAME),
        case(
            "a table that there is not",
            named("polices"),
            "there is no table \"polices\" here; the tables are policy, schedule, domain_login, captcha_solver, rate_limit, job",
        ),
        case(
            "a table in upper case",
            named("POLICY"),
            "there is no table \"POLICY\" here; the tables are policy, schedule, domain_login, captcha_solver, rate_limit, job",
        ),
        case("a heartbeat every 0 seconds", heartbeat(0), "heartbeat_seconds must be 1 to 3600"),
        case("a heartbeat every -1 seconds", heartbeat(-1), "heartbeat_seconds must be 1 to 3600"),
        case("a heartbeat every 2^31 - 1 seconds", heartbeat(i32::MAX), "heartbeat_seconds must be 1 to 3600"),
        case("a heartbeat without states", list("policy", silent), "heartbeat_seconds needs states"),
        case(
            "an export of what there is not",
            export("passwords", 1),
            "there is no table \"passwords\" here; the tables are policy, schedule, domain_login, captcha_solver, rate_limit, job, response, response_body, frontier, robots_txt",
        ),
        case("an export of 0 rows", export("policy", 0), "limit must be positive"),
        case("an export of -1 rows", export("policy", -1), "limit must be positive"),
    ]
}

/// A token that somebody made of a good one, or of nothing; always of the same subscription.
struct Forgery {
    name: &'static str,
    make: fn(&[u8]) -> Vec<u8>,
}

const FORGERIES: &[Forgery] = &[
    Forgery { name: "a token of no bytes", make: |_| Vec::new() },
    Forgery { name: "a token of one byte", make: |_| vec![1] },
    Forgery { name: "a token of zeros", make: |token| vec![0; token.len()] },
    Forgery { name: "a token of a mebibyte less a little", make: |token| token.repeat(1_000_000 / token.len()) },
    Forgery { name: "a token cut by a byte", make: |token| token[..token.len() - 1].to_vec() },
    Forgery { name: "half a token", make: |token| token[..token.len() / 2].to_vec() },
    Forgery { name: "a token and a byte more", make: |token| [token, &[0]].concat() },
    Forgery { name: "two tokens", make: |token| token.repeat(2) },
    Forgery { name: "a token of another format", make: |token| flipped(token, 0) },
    Forgery { name: "a token of another epoch", make: |token| flipped(token, 9) },
    Forgery { name: "a token of another scope", make: |token| flipped(token, 25) },
    Forgery { name: "a token of another position", make: |token| flipped(token, 48) },
    Forgery { name: "a token of another count", make: |token| flipped(token, 56) },
    Forgery { name: "a token of another digest", make: |token| flipped(token, 64) },
    Forgery { name: "a token with another seal", make: |token| flipped(token, token.len() - 1) },
    Forgery { name: "a token in base64", make: |_| b"AQIDBAUGBwgJCgsMDQ4PEA==".to_vec() },
    Forgery { name: "a token backwards", make: |token| token.iter().rev().copied().collect() },
];

fn flipped(token: &[u8], at: usize) -> Vec<u8> {
    let mut token = token.to_vec();
    token[at] ^= 1;
    token
}

/// A good token for something that it is not of: begun anew, and said why.
struct Elsewhere {
    name: &'static str,
    command: fn(Bytes) -> Command,
}

const ELSEWHERE: &[Elsewhere] = &[
    Elsewhere { name: "a token for another list", command: |token| list("policy", with_token(token, states())) },
    Elsewhere {
        name: "a token for the table of the list",
        command: |token| table("domain_login", with_token(token, states())),
    },
    Elsewhere {
        name: "a token for a filter",
        command: |token| list("domain_login", with_token(token, with_filter("domain == 'secret.example'", states()))),
    },
];

pub(crate) fn names() -> Vec<&'static str> {
    let tokens = FORGERIES.iter().map(|forgery| forgery.name).chain(ELSEWHERE.iter().map(|elsewhere| elsewhere.name));
    refusals().iter().map(|case| case.name).chain(tokens).collect()
}

#[test]
fn what_cannot_be_subscribed_to_is_said() {
    let target = Target::start(&[]);
    let mut client = target.connect();
    let mut differences = Differences::default();
    for Case { name, command, text } in refusals() {
        differences.expect(name, answer(&mut client, command), Err(text.to_owned()));
        assert_works(&mut client, name);
    }
    differences.assert_none();
    drop(client);
    target.assert_unharmed();
}

/// A subscription to two logins, and the token behind it.
fn token(server: &ServerProcess) -> Bytes {
    let mut client = RawClient::connect(&server.address);
    client.request(set_login("forum.example", "A"));
    client.request(set_login("news.example", "B"));
    client.subscribe(list("domain_login", states()));
    let mut token = Bytes::new();
    loop {
        let event = client.event();
        token = event.token.clone().unwrap_or(token);
        if told(&event) == "LIVE" {
            return token;
        }
    }
}

#[test]
fn a_token_that_nobody_made_is_refused() {
    let target = Target::start(&[]);
    let token = token(&target.server);
    let mut client = target.connect();
    let mut differences = Differences::default();
    for Forgery { name, make } in FORGERIES {
        let options = with_token(make(&token).into(), states());
        differences.expect(name, answer(&mut client, list("domain_login", options)), Err(FORGED.to_owned()));
        assert!(!client.has_events(), "{name}: something was told");
    }
    differences.assert_none();
    // The one that they were made of is good.
    client.subscribe(list("domain_login", with_token(token, states())));
    assert_eq!(next_told(&mut client, 1), ["LIVE"]);
    drop(client);
    target.assert_unharmed();
}

#[test]
fn a_token_of_something_else_begins_anew() {
    let target = Target::start(&[]);
    let token = token(&target.server);
    let mut client = target.connect();
    let mut differences = Differences::default();
    for Elsewhere { name, command } in ELSEWHERE {
        let id = client.subscribe(command(token.clone()));
        differences.expect(name, next_told(&mut client, 2), vec!["RESET View".to_owned(), "INITIALIZING".to_owned()]);
        client.request(unsubscribe(id));
        client = target.connect();
    }
    // And of another server: nobody can tell what it was.
    let other = Target::start(&[]);
    let mut stranger = other.connect();
    stranger.subscribe(list("domain_login", with_token(token, states())));
    differences.expect("a token of another server", next_told(&mut stranger, 1), vec!["RESET Server".to_owned()]);
    differences.assert_none();
    drop((client, stranger));
    target.assert_unharmed();
    other.assert_unharmed();
}
