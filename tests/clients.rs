//! Clients that vanish, clients that stall, and the server that has to bear them.

mod support;

use std::collections::BTreeMap;

use starfeed::proto;
use starfeed::proto::request::Command;
use support::process::{ServerProcess, eventually};
use support::raw::{RawClient, delete_login, login_event, set_login, subscribe_logins};

/// Applies events to what a client holds, and refuses what cannot follow.
#[derive(Default, Debug, PartialEq, Eq)]
struct Held(BTreeMap<String, u32>);

impl Held {
    fn apply(&mut self, event: &proto::Event) {
        let text = login_event(event);
        let (kind, domain) = text.split_once(' ').expect("two words");
        match (kind, self.0.get_mut(domain)) {
            ("ADDED", None) => {
                self.0.insert(domain.to_owned(), 0);
            }
            ("UPDATED", Some(updates)) => *updates += 1,
            ("DELETED", Some(_)) => {
                self.0.remove(domain);
            }
            (_, held) => panic!("{text} cannot follow: {held:?}"),
        }
    }
}

#[test]
fn a_thousand_busy_clients_that_vanish_leave_nothing_behind() {
    const ROUNDS: usize = 1000;
    const SUBSCRIPTIONS: usize = 10;
    let mut server = ServerProcess::in_memory(&[]);
    let mut writer = RawClient::connect(&server.address);
    for row in 0..20 {
        writer.request(set_login(&format!("row{row}.example"), "https://x.example/"));
    }
    let vanish = |server: &ServerProcess, writer: &mut RawClient, round: usize| {
        let mut client = RawClient::connect(&server.address);
        for _ in 0..SUBSCRIPTIONS {
            client.ask(subscribe_logins());
        }
        // Events are under way when it goes.
        writer.ask(set_login("row0.example", &format!("https://x.example/{round}")));
        if round.is_multiple_of(3) {
            client.frame();
        }
        client.reset();
    };
    for round in 0..ROUNDS / 10 {
        vanish(&server, &mut writer, round);
    }
    let settle = |server: &ServerProcess| {
        eventually("all that vanished are gone", || {
            server.metric("starfeed_subscriptions") == 0.0 && server.metric("starfeed_connections") <= 2.0
        });
    };
    settle(&server);
    let (memory, descriptors) = (server.resident_bytes(), server.descriptors());
    for round in 0..ROUNDS {
        vanish(&server, &mut writer, round);
    }
    settle(&server);
    assert!(server.is_alive());
    eventually("descriptors are as before", || server.descriptors() <= descriptors + 2);
    let grown = server.resident_bytes().saturating_sub(memory);
    // The changes themselves stay, in the log: 1,000 of them. A leaked connection alone would cost 10 KiB.
    assert!(grown < 8 << 20, "{ROUNDS} clients left {grown} bytes behind");
    assert_eq!(writer_is_served(&server), 20);
}

fn writer_is_served(server: &ServerProcess) -> usize {
    let mut client = RawClient::connect(&server.address);
    client.subscribe(subscribe_logins());
    (0..20).map(|_| client.event()).count()
}

/// As long as a domain may be, so that what is not read soon fills every buffer on the way.
fn long_domain(row: usize) -> String {
    format!("{row:04}.{}.example", "x".repeat(110))
}

#[test]
fn a_stalled_client_costs_the_others_nothing_and_is_exact_when_it_reads_again() {
    const HEALTHY: usize = 100;
    const CHANGES: usize = 16_000;
    const ROWS: usize = 50;
    let server = ServerProcess::in_memory(&[("window_bytes", "500000")]);
    let mut writer = RawClient::connect(&server.address);
    let mut stalled = RawClient::connect(&server.address);
    stalled.bound_receive_buffer(16 * 1024);
    stalled.subscribe(subscribe_logins());
    let mut healthy: Vec<(RawClient, Held)> = (0..HEALTHY)
        .map(|_| {
            let mut client = RawClient::connect(&server.address);
            client.subscribe(subscribe_logins());
            (client, Held::default())
        })
        .collect();
    let before = server.resident_bytes();
    let mut expected = Held::default();
    let mut events = 0;
    let mut expected_events = 0;
    while expected_events < CHANGES {
        // As many as the server takes at a time.
        let asked: Vec<i32> = (0..64).map(|at| writer.ask(command(expected_events + at, ROWS))).collect();
        expected_events += asked.len();
        for request_id in asked {
            let response = writer.response(request_id);
            assert!(response.is_success, "{:?}", response.error_message);
        }
        // The healthy ones have everything before the next changes are written: the stalled one holds up nobody.
        while events < expected_events {
            for (client, held) in &mut healthy {
                held.apply(&client.event());
            }
            events += 1;
        }
    }
    for at in 0..expected_events {
        expected.apply_command(at, ROWS);
    }
    for (_, held) in &healthy {
        assert_eq!(held, &expected);
    }
    assert!(server.metric("starfeed_subscriptions_fell_behind_total") >= 1.0, "it never was behind");
    // 2 MB of events went past the stalled client; the log keeps them once, with the row before and after. Its own part in memory is
    // an outbox, a page and the socket.
    let grown = server.resident_bytes().saturating_sub(before);
    println!("memory grew by {} KiB", grown / 1024);
    assert!(grown < 96 << 20, "the server grew by {grown} bytes");
    let mut held = Held::default();
    for _ in 0..expected_events {
        held.apply(&stalled.event());
    }
    assert_eq!(held, expected, "the stalled one is exact, to the last update");
    writer.request(set_login("last.example", "https://x.example/"));
    assert_eq!(login_event(&stalled.event()), "ADDED last.example");
}

#[test]
fn a_client_that_is_further_behind_than_the_log_is_told_so_and_can_begin_again() {
    let server = ServerProcess::in_memory(&[
        ("retention_bytes", "20000"),
        ("window_bytes", "20000"),
        ("outbox_bytes", "10000"),
        ("send_buffer_bytes", "10000"),
    ]);
    let mut writer = RawClient::connect(&server.address);
    let mut stalled = RawClient::connect(&server.address);
    stalled.bound_receive_buffer(4 * 1024);
    assert_eq!(stalled.subscribe(subscribe_logins()), 0);
    for round in 0..60 {
        let asked: Vec<i32> = (0..100).map(|at| writer.ask(command(100 * round + at, 50))).collect();
        for request_id in asked {
            assert!(writer.response(request_id).is_success);
        }
    }
    let mut held = Held::default();
    let closed = loop {
        let event = stalled.event();
        match event.body {
            Some(proto::event::Body::SubscriptionClosed(closed)) => break closed,
            _ => held.apply(&event),
        }
    };
    assert_eq!(closed.reason(), proto::subscription_closed::Reason::Error);
    assert!(closed.message().contains("subscribe again"), "{}", closed.message());
    assert_eq!(stalled.subscribe(subscribe_logins()), 1);
    let mut held = Held::default();
    let mut expected = Held::default();
    (0..6000).for_each(|at| expected.apply_command(at, 50));
    for _ in 0..expected.0.len() {
        held.apply(&stalled.event());
    }
    assert!(held.0.keys().eq(expected.0.keys()), "the rows that are there, and no other");
    writer.request(set_login("last.example", "https://x.example/"));
    assert_eq!(login_event(&stalled.event()), "ADDED last.example");
}

/// Each row is added, updated a few times, deleted, and added again.
fn command(at: usize, rows: usize) -> Command {
    let domain = long_domain(at % rows);
    if (at / rows) % 5 == 4 { delete_login(&domain) } else { set_login(&domain, &format!("https://x.example/{at}")) }
}

impl Held {
    fn apply_command(&mut self, at: usize, rows: usize) {
        let domain = long_domain(at % rows);
        if (at / rows) % 5 == 4 {
            self.0.remove(&domain);
        } else {
            self.0.entry(domain).and_modify(|updates| *updates += 1).or_insert(0);
        }
    }
}
