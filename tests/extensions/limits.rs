//! What is refused, and with which words; and what a filter says of itself.

use starfeed::proto::{self, SubscribeOptions, request::Command, response};

use crate::backend;
use crate::support::raw::{RawClient, set_login, unsubscribe};
use crate::support::told::{documents, list, next_told, states, table, until_live, with_filter};

fn describe(client: &mut RawClient, filter: &str) -> proto::ResponseDescribeFilter {
    let request = proto::RequestDescribeFilter { filter: filter.to_owned() };
    match client.request(Command::DescribeFilter(request)) {
        Some(response::Body::DescribeFilter(described)) => described,
        body => panic!("{body:?}"),
    }
}

fn logins(filter: &str) -> Command {
    list("domain_login", with_filter(filter, SubscribeOptions::default()))
}

#[test]
fn a_text_that_is_no_filter_is_refused_with_the_place() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    for (text, position) in
        [("domain ==", 9), ("domain = 'a'", 7), ("a && (b || c", 12), ("'é' == '", 8), ("domain.matches('(')", 15)]
    {
        let refused = Command::DescribeFilter(proto::RequestDescribeFilter { filter: text.to_owned() });
        for command in [logins(text), table("domain_login", with_filter(text, documents())), refused] {
            let refusal = client.refusal(command);
            assert!(refusal.starts_with(&format!("invalid_filter at {position}: ")), "{text}: {refusal}");
        }
    }
    assert_eq!(server.metric("starfeed_subscriptions"), 0.0);
    assert_eq!(server.metric("starfeed_filters"), 0.0);
}

#[test]
fn a_filter_says_how_it_is_carried_out() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    let looked_up = describe(&mut client, "login_url=='A'  &&  domain != \"b\"");
    assert!(looked_up.is_indexed());
    assert_eq!(looked_up.plan, ["looked up by `login_url` (hash)", "tried on the changes found that way"]);
    let (cost, cost_max) = (looked_up.cost(), looked_up.cost_max());
    assert!((1..100).contains(&cost) && cost < cost_max, "{cost} of {cost_max}");
    // What it calls canonical is the same filter.
    let again = describe(&mut client, looked_up.canonical());
    assert_eq!(again, looked_up);
    let tried = describe(&mut client, "login_url.contains('A')");
    assert!(!tried.is_indexed() && tried.cost() > cost);
    assert_eq!(tried.plan, ["tried on every change: no part of it can be looked up"]);
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    let heartbeat = |seconds, options| SubscribeOptions { heartbeat_seconds: Some(seconds), ..options };
    for seconds in [0, -1, 3601, i32::MIN, i32::MAX] {
        let text = client.refusal(list("policy", heartbeat(seconds, states())));
        assert_eq!(text, "heartbeat_seconds must be 1 to 3600");
    }
    let text = client.refusal(table("policy", heartbeat(10, SubscribeOptions::default())));
    assert_eq!(text, "heartbeat_seconds needs states");
    for seconds in [1, 3600] {
        client.subscribe(list("policy", heartbeat(seconds, states())));
    }
    assert_eq!(server.metric("starfeed_subscriptions"), 2.0);
}

#[test]
fn a_table_that_is_not_there_is_refused_with_those_that_are() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    let text = client.refusal(table("polices", documents()));
    assert_eq!(
        text,
        "there is no table \"polices\" here; the tables are policy, schedule, domain_login, captcha_solver, rate_limit, job"
    );
    for name in ["", "a/b", "policy ", "..", &"x".repeat(65)] {
        let text = client.refusal(table(name, documents()));
        assert!(text.starts_with("invalid_name: "), "{name}: {text}");
    }
    // One that is there and has no rows is subscribed to.
    for name in ["policy", "schedule", "domain_login", "captcha_solver", "rate_limit", "job"] {
        client.subscribe(table(name, states()));
        assert_eq!(next_told(&mut client, 3), ["INITIALIZING", "READY", "LIVE"]);
    }
}

#[test]
fn the_environment_bounds_filters() {
    let variables = [
        ("STARFEED_FILTER_BYTES", "40"),
        ("STARFEED_FILTER_COST", "30000"),
        // Two of those below.
        ("STARFEED_TABLE_FILTER_COST", "40002"),
    ];
    let Some(server) = backend::server_with_environment(&variables) else { return };
    let mut client = RawClient::connect(&server.address);
    let text = client.refusal(logins(&format!("domain == '{}'", "x".repeat(40))));
    assert_eq!(text, "invalid_filter at 40: the filter is longer than 40 bytes; use a shorter one");
    let text = client.refusal(logins("a.contains('a') && b.contains('b')"));
    assert!(text.starts_with("invalid_filter at 0: the filter costs 4000"), "{text}");
    assert!(text.contains("the limit is 30000; use fewer or smaller matches, contains"), "{text}");
    assert_eq!(describe(&mut client, "domain == 'a'").cost_max(), 30_000);

    let dear = |letter: char| logins(&format!("domain.contains('{letter}')"));
    let ids = ['a', 'b'].map(|letter| client.subscribe(dear(letter)));
    let mut other = RawClient::connect(&server.address);
    let text = other.refusal(dear('c'));
    assert!(text.starts_with("limit_exceeded: with yours, the filters of this table"), "{text}");
    assert!(text.contains("describe_filter"), "{text}");
    // The same one again, one that an index finds, another table, and none at all are no more work.
    other.subscribe(dear('a'));
    other.subscribe(logins("domain == 'c'"));
    other.subscribe(list("policy", with_filter("name.contains('c')", SubscribeOptions::default())));
    other.subscribe(list("domain_login", SubscribeOptions::default()));
    assert_eq!(server.metric("starfeed_filters{table=\"domain_login\"}"), 3.0);
    assert_eq!(server.metric("starfeed_filters{table=\"policy\"}"), 1.0);
    // `a` still has a subscriber; `b` has none.
    for id in ids {
        client.request(unsubscribe(id));
    }
    other.subscribe(dear('c'));
    assert!(other.refusal(dear('d')).starts_with("limit_exceeded: "));
    assert_eq!(server.metric("starfeed_filters{table=\"domain_login\"}"), 3.0);
    until_live(&server, 5);
    client.request(set_login("ac.example", "A"));
    let mut told = next_told(&mut other, 3);
    told.sort();
    assert_eq!(told, ["ADDED ac.example", "ADDED ac.example", "ADDED ac.example"], "by `a`, by `c`, and by none");
}
