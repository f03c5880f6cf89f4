//! State events, heartbeats, numbers, and what a slow client is spared.

use starfeed::change::{Key, Seq};
use starfeed::proto::subscription_state::Kind;
use starfeed::proto::{self, SubscribeOptions};
use starfeed::summary::Summary;

use crate::backend;
use crate::support::crawled::put;
use crate::support::process::eventually;
use crate::support::raw::{RawClient, set_login};
use crate::support::told::{
    documents, lines, list, login, next, next_told, policy, states, table, told, until, until_live, with_filter,
};

/// The rows that `events` leave, as count and digest.
fn summary(events: &[proto::Event]) -> Summary {
    let mut rows = std::collections::BTreeMap::new();
    for event in events.iter().filter(|event| event.state.is_none()) {
        let line = told(event);
        let (kind, domain) = line.split_once(' ').expect("two words");
        let domain = domain.split(' ').next().unwrap_or_default().to_owned();
        match kind {
            "DELETED" => rows.remove(&domain),
            _ => rows.insert(domain, event.version()),
        };
    }
    let mut summary = Summary::default();
    rows.iter().for_each(|(domain, version)| summary.add(&Key::text(domain), Seq(*version)));
    summary
}

fn said(event: &proto::Event) -> Summary {
    let state = event.state.as_ref().expect("a state");
    Summary { count: state.count.expect("a count"), digest: state.digest.expect("a digest") }
}

#[test]
fn states_come_in_order_and_every_event_has_its_number() {
    let Some(server) = backend::server(&[]) else { return };
    let mut writer = RawClient::connect(&server.address);
    let mut early = RawClient::connect(&server.address);
    early.subscribe(list("domain_login", states()));
    let mut events = next(&mut early, 3);
    assert_eq!(lines(&events), ["INITIALIZING", "READY", "LIVE"], "of an empty table");
    writer.request(set_login("b.example", "A"));
    writer.request(set_login("a.example", "A"));
    events.extend(next(&mut early, 2));
    assert_eq!(lines(&events)[3..], ["ADDED b.example", "ADDED a.example"]);
    assert!(events[3..].iter().all(|event| event.initial == Some(false)), "they are news");

    let mut late = RawClient::connect(&server.address);
    late.subscribe(table("domain_login", states()));
    let late_events = next(&mut late, 5);
    assert_eq!(lines(&late_events), ["INITIALIZING", "ADDED a.example", "ADDED b.example", "READY", "LIVE"]);
    assert!(late_events[1..3].iter().all(|event| event.initial == Some(true)), "they were there");
    assert_eq!(late_events[1].version, events[4].version);
    assert_eq!(late_events[2].version, events[3].version);

    for events in [&events, &late_events] {
        let numbers: Vec<u64> = events.iter().map(proto::Event::number).collect();
        assert_eq!(numbers, [1, 2, 3, 4, 5]);
        let epochs = events.iter().filter_map(|event| event.state.as_ref()).map(|state| state.epoch().len());
        assert!(epochs.into_iter().all(|len| len == 16));
        let initializing = events[0].state.as_ref().expect("a state");
        assert_eq!((initializing.position, initializing.count, initializing.digest), (None, None, None));
        assert_eq!((&events[0].token, events[0].initial, events[0].version), (&None, None, None));
        assert!(events[1..].iter().all(|event| event.token.is_some()), "one can go on behind each of the others");
    }
    for at in [3, 4] {
        assert_eq!(said(&late_events[at]), summary(&late_events));
        assert_eq!(late_events[at].state.as_ref().expect("a state").position, events[4].version);
    }
}

#[test]
fn nothing_comes_that_was_not_asked_for() {
    let Some(server) = backend::server(&[]) else { return };
    let mut writer = RawClient::connect(&server.address);
    writer.request(set_login("a.example", "A"));
    let [tokens, only_states] = [states(), states()];
    for (options, has_tokens, has_states) in [
        (SubscribeOptions::default(), false, false),
        (SubscribeOptions { states: None, ..tokens }, true, false),
        (SubscribeOptions { tokens: None, ..only_states }, false, true),
    ] {
        let mut client = RawClient::connect(&server.address);
        client.subscribe(list("domain_login", options));
        let events = next(&mut client, if has_states { 4 } else { 1 });
        for event in &events {
            assert!(event.token.is_none() || has_tokens, "{event:?}");
            assert_eq!(event.number.is_some(), has_states, "{event:?}");
            assert_eq!(event.initial.is_some() || event.state.is_some(), has_states, "{event:?}");
        }
        assert_eq!(events.iter().any(|event| event.token.is_some()), has_tokens);
    }
}

#[test]
fn a_heartbeat_says_what_is_held() {
    let Some(server) = backend::server(&[]) else { return };
    let mut writer = RawClient::connect(&server.address);
    let heartbeat = |filter: &str| {
        let options = SubscribeOptions { heartbeat_seconds: Some(1), ..states() };
        list("domain_login", with_filter(filter, options))
    };
    // An empty filter is none; one that never matches has heartbeats all the same.
    let mut clients = ["", "login_url == 'B'", "false"].map(|filter| {
        let mut client = RawClient::connect(&server.address);
        client.subscribe(heartbeat(filter));
        (client, filter)
    });
    until_live(&server, 3);
    for (domain, url) in
        [("a.example", "A"), ("b.example", "B"), ("c.example", "B"), ("a.example", "B"), ("b.example", "A")]
    {
        writer.request(login(domain, url));
    }
    // Changes of another table move the position, too.
    let mut watcher = RawClient::connect(&server.address);
    watcher.subscribe(table("policy", states()));
    until(&mut watcher, "LIVE");
    put(&mut writer, "policy", &[policy("A")]);
    let newest = watcher.event().version();
    for (client, filter) in &mut clients {
        let mut events = Vec::new();
        let last = loop {
            let event = client.event();
            let at =
                event.state.as_ref().filter(|state| state.kind() == Kind::Heartbeat).and_then(|state| state.position);
            events.push(event.clone());
            if at.is_some_and(|at| at >= newest) {
                break event;
            }
        };
        assert_eq!(said(&last), summary(&events), "{filter}");
        let count = match *filter {
            "" => 3,
            "false" => 0,
            _ => 2,
        };
        assert_eq!(said(&last).count, count, "{filter}");
        assert!(last.token.is_some(), "one can go on behind it");
        let numbers = events.iter().map(proto::Event::number);
        assert!(numbers.eq(1..=events.len() as u64), "{filter}");
    }
}

/// One row that changes faster than anybody reads, and the row of another table that shows the end.
#[test]
fn a_client_that_coalesces_gets_the_newest_state_only() {
    const CHANGES: usize = backend::MANY_CHANGES;
    let Some(server) =
        backend::server(&[("outbox_bytes", "20000"), ("window_bytes", "100000"), ("send_buffer_bytes", "10000")])
    else {
        return;
    };
    let mut writer = RawClient::connect(&server.address);
    let mut coalescing = RawClient::connect(&server.address);
    coalescing.bound_receive_buffer(4 * 1024);
    coalescing.be_patient();
    coalescing.subscribe(table(
        "domain_login",
        SubscribeOptions { coalesce: Some(true), tokens: Some(true), states: Some(true), ..documents() },
    ));
    until_live(&server, 1);
    for round in 0..CHANGES / 100 {
        let asked: Vec<i32> =
            (0..100).map(|at| writer.ask(login("hot.example", &(100 * round + at).to_string()))).collect();
        for request_id in asked {
            assert!(writer.response(request_id).is_success);
        }
    }
    writer.request(login("last.example", "end"));
    eventually("it fell behind", || server.metric("starfeed_subscriptions_fell_behind_total") >= 1.0);
    let mut events = until(&mut coalescing, "ADDED last.example new=end");
    events.extend(until(&mut coalescing, "LIVE"));
    let rows: Vec<String> = lines(&events).into_iter().filter(|line| line.contains("hot.example")).collect();
    assert!(rows.len() < CHANGES / 4, "{} events", rows.len());
    assert!(
        rows.last().is_some_and(|line| line.starts_with(&format!("UPDATED hot.example new={} old=", CHANGES - 1))),
        "{:?}",
        rows.last()
    );
    // Each goes on where the one before ended: nothing lies between.
    for (one, next) in rows.iter().zip(&rows[1..]) {
        let new = one.split(' ').find_map(|word| word.strip_prefix("new=")).expect("a new row");
        let old = next.split(' ').find_map(|word| word.strip_prefix("old=")).expect("an old row");
        assert_eq!(new, old, "{one}, then {next}");
    }
    assert!(lines(&events).contains(&"STALE Slow".to_owned()));
    assert_eq!(said(events.last().expect("LIVE")), summary(&events));
    assert!(server.metric("starfeed_changes_coalesced_total") >= (CHANGES - rows.len()) as f64);
    assert!(server.metric("starfeed_subscriptions_fell_behind_total") >= 1.0);
    // Live again, it gets every change.
    for version in ["X", "Y"] {
        writer.request(login("hot.example", version));
    }
    assert_eq!(
        next_told(&mut coalescing, 2),
        [format!("UPDATED hot.example new=X old={}", CHANGES - 1), "UPDATED hot.example new=Y old=X".to_owned()]
    );
    eventually("nothing waits any more", || server.metric("starfeed_waiting_bytes") == 0.0);
}
