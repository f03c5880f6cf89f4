//! Subscriptions that go on with a token, and those that cannot.

use std::collections::BTreeMap;

use bytes::Bytes;
use starfeed::proto::{self, SubscribeOptions};

use crate::backend;
use crate::support::process::ServerProcess;
use crate::support::raw::{RawClient, delete_login, set_login};
use crate::support::told::{
    documents, lines, list, login, next, next_told, states, table, told, until, with_filter, with_token,
};

pub(crate) fn token(event: &proto::Event) -> Bytes {
    event.token.clone().expect("a token")
}

/// The resets that the server counted for this reason.
fn resets(server: &ServerProcess, reason: &str) -> f64 {
    server.metric(&format!("starfeed_subscriptions_reset_total{{reason=\"{reason}\"}}"))
}

#[test]
fn a_live_subscription_goes_on_behind_each_of_its_events() {
    let Some(server) = backend::server(&[]) else { return };
    let mut writer = RawClient::connect(&server.address);
    let mut client = RawClient::connect(&server.address);
    let filter = "login_url != 'out'";
    client.subscribe(list("domain_login", with_filter(filter, states())));
    next(&mut client, 3);
    for (domain, url) in [("a.example", "A"), ("b.example", "A"), ("a.example", "B"), ("b.example", "out")] {
        writer.request(login(domain, url));
    }
    writer.request(delete_login("a.example"));
    let events = next(&mut client, 5);
    let expected =
        ["ADDED a.example", "ADDED b.example", "UPDATED a.example", "DELETED b.example", "DELETED a.example"];
    assert_eq!(lines(&events), expected);
    for behind in 0..5 {
        let mut client = RawClient::connect(&server.address);
        // Spaces make no other filter, and documents no other rows.
        let options =
            with_token(token(&events[behind]), with_filter("login_url!='out'", SubscribeOptions { ..states() }));
        client.subscribe(list("domain_login", options));
        let again = until(&mut client, "LIVE");
        let mut expected: Vec<&str> = expected[behind + 1..].to_vec();
        expected.push("LIVE");
        assert_eq!(lines(&again), expected, "behind event {behind}");
        let count = again.len() as u64;
        assert!(again.iter().map(proto::Event::number).eq(1..=count), "numbers begin anew");
        let versions: Vec<Option<u64>> = again[..again.len() - 1].iter().map(|event| event.version).collect();
        assert_eq!(versions, events[behind + 1..].iter().map(|event| event.version).collect::<Vec<_>>());
        let live = again.last().and_then(|event| event.state.clone()).expect("LIVE");
        assert_eq!((live.count, live.digest), (Some(0), Some(0)), "nothing is left");
        assert!(again[..again.len() - 1].iter().all(|event| event.initial == Some(false)));
    }
    assert_eq!(server.metric("starfeed_subscriptions_resumed_total"), 5.0);
    assert_eq!(server.metric("starfeed_subscriptions_reset_total"), 0.0);
}

/// Rows, by the events that brought them: domains and addresses.
fn apply(rows: &mut BTreeMap<String, String>, event: &proto::Event) {
    let line = told(event);
    let words: Vec<&str> = line.split(' ').collect();
    match (words[0], words.get(2).and_then(|word| word.strip_prefix("new="))) {
        ("ADDED", Some(url)) => assert_eq!(rows.insert(words[1].to_owned(), url.to_owned()), None, "{line}"),
        ("UPDATED", Some(url)) => assert!(rows.insert(words[1].to_owned(), url.to_owned()).is_some(), "{line}"),
        ("DELETED", None) => assert!(rows.remove(words[1]).is_some(), "{line}"),
        _ => panic!("{line}"),
    }
}

#[test]
fn a_snapshot_that_was_cut_goes_on_where_it_was() {
    const ROWS: usize = 30;
    let Some(server) = backend::server(&[("page_rows", "1")]) else { return };
    let mut writer = RawClient::connect(&server.address);
    for row in 0..ROWS {
        writer.request(set_login(&format!("row{row:02}.example"), "A"));
    }
    let options = || SubscribeOptions { include_document: Some(true), ..states() };
    for coalesce in [None, Some(true)] {
        let mut rows = BTreeMap::new();
        let mut token: Option<Bytes> = None;
        let mut initial = Vec::new();
        // Each connection lives for so many rows, more than change meanwhile.
        for life in 0.. {
            let mut client = RawClient::connect(&server.address);
            let options = SubscribeOptions { resume_token: token.clone(), coalesce, ..options() };
            client.subscribe(table("domain_login", options));
            let mut is_over = false;
            let mut count = 0;
            let mut behind_token = Vec::new();
            while count < 6 && !is_over {
                let event = client.event();
                count += usize::from(event.state.is_none());
                is_over = told(&event) == "LIVE";
                token = event.token.clone().or(token);
                let has_token = event.token.is_some();
                behind_token.push(event);
                // Without a token it makes sense only together with those that follow.
                if has_token {
                    for event in behind_token.drain(..).filter(|event| event.state.is_none()) {
                        apply(&mut rows, &event);
                        initial.extend(event.initial().then(|| told(&event)));
                    }
                }
            }
            client.reset();
            if is_over {
                break;
            }
            // Something happens behind it and before it.
            writer.request(set_login("row00.example", &format!("{life}{coalesce:?}")));
            writer.request(set_login(&format!("row{:02}.example", ROWS - 1), &format!("{life}{coalesce:?}")));
            writer.request(delete_login("row01.example"));
            writer.request(set_login("row01.example", &format!("{life}")));
            assert!(life < 100, "it never ends");
        }
        assert_eq!(initial.len(), ROWS, "each row that was there came once: {initial:?}");
        assert!(initial.is_sorted(), "in the order of their keys");
        let expected: BTreeMap<String, String> = crate::support::crawled::rows(&mut writer, "domain_login")
            .iter()
            .map(|row| {
                (row["domain"].as_str().expect("text").to_owned(), row["login_url"].as_str().expect("text").to_owned())
            })
            .collect();
        assert_eq!(rows, expected);
    }
    assert_eq!(server.metric("starfeed_subscriptions_reset_total"), 0.0);
}

#[test]
fn what_is_no_longer_kept_begins_anew() {
    let Some(server) = backend::server(&[("retention_bytes", "2000"), ("window_bytes", "2000")]) else { return };
    let mut writer = RawClient::connect(&server.address);
    writer.request(set_login("a.example", "A"));
    let mut client = RawClient::connect(&server.address);
    client.subscribe(list("domain_login", states()));
    let events = next(&mut client, 4);
    for version in 0..200 {
        writer.request(set_login("b.example", &version.to_string()));
    }
    let expected = ["RESET Retention", "INITIALIZING", "ADDED a.example", "ADDED b.example", "READY", "LIVE"];
    // In the middle of the rows, and behind them.
    for (at, first) in [(1, Some("INITIALIZING")), (2, None), (3, None)] {
        let mut client = RawClient::connect(&server.address);
        client.subscribe(list("domain_login", with_token(token(&events[at]), states())));
        if let Some(first) = first {
            assert_eq!(told(&client.event()), first);
        }
        let again = next(&mut client, 6);
        assert_eq!(lines(&again), expected);
        let reset = again[0].state.as_ref().expect("RESET");
        assert!(reset.message().contains("no longer kept"), "{}", reset.message());
        // One that did not ask for states is told so all the same.
        let mut client = RawClient::connect(&server.address);
        client.subscribe(list("domain_login", with_token(token(&events[at]), SubscribeOptions::default())));
        let again = next(&mut client, 3);
        assert_eq!(lines(&again), ["RESET Retention", "ADDED a.example", "ADDED b.example"]);
        assert!(again.iter().all(|event| event.number.is_none() && event.token.is_none()));
    }
    assert_eq!(resets(&server, "retention"), 6.0);
}

#[test]
fn a_token_of_another_view_or_server_begins_anew() {
    let (Some(server), Some(other)) = (backend::server(&[]), backend::server(&[])) else { return };
    let mut client = RawClient::connect(&server.address);
    for server in [&server, &other] {
        RawClient::connect(&server.address).request(set_login("a.example", "A"));
    }
    client.subscribe(list("domain_login", with_filter("has(domain)", states())));
    let events = until(&mut client, "LIVE");
    for event in &events[1..] {
        let options = || with_token(token(event), states());
        for command in [
            list("domain_login", with_filter("has(login_url)", options())),
            list("domain_login", options()),
            table("domain_login", with_filter("has(domain)", options())),
        ] {
            let mut client = RawClient::connect(&server.address);
            client.subscribe(command);
            let again = next_told(&mut client, 5);
            assert_eq!(again, ["RESET View", "INITIALIZING", "ADDED a.example", "READY", "LIVE"]);
        }
        let mut client = RawClient::connect(&server.address);
        client.subscribe(list("policy", with_filter("has(domain)", options())));
        assert_eq!(next_told(&mut client, 4), ["RESET View", "INITIALIZING", "READY", "LIVE"]);
        let mut client = RawClient::connect(&other.address);
        client.subscribe(list("domain_login", with_filter("has(domain)", options())));
        let again = next_told(&mut client, 5);
        assert_eq!(again, ["RESET Server", "INITIALIZING", "ADDED a.example", "READY", "LIVE"]);
    }
    assert_eq!((resets(&server, "view"), resets(&other, "server")), (12.0, 3.0));
    assert_eq!(server.metric("starfeed_subscriptions_resumed_total"), 0.0);
}

#[test]
fn a_changed_token_is_refused() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    client.request(set_login("a.example", "A"));
    client.subscribe(list("domain_login", states()));
    for event in &until(&mut client, "LIVE")[1..] {
        let good = token(event);
        let flipped = |at: usize| {
            let mut bytes = good.to_vec();
            bytes[at] ^= 1;
            bytes
        };
        let changed = [
            flipped(0),
            flipped(good.len() / 2),
            flipped(good.len() - 1),
            good[1..].to_vec(),
            [&good[..], b"x"].concat(),
        ];
        for bytes in changed.into_iter().chain([b"nonsense".to_vec(), Vec::new()]) {
            let text = client.refusal(list("domain_login", with_token(bytes.clone().into(), documents())));
            assert!(text.starts_with("invalid_token: "), "{bytes:?}: {text}");
        }
    }
    assert_eq!(server.metric("starfeed_subscriptions"), 1.0, "what is refused leaves nothing");
    assert_eq!(server.metric("starfeed_subscriptions_reset_total"), 0.0);
}
