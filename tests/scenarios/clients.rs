//! Clients that vanish, clients that stall, and the server that has to bear them.

use std::collections::BTreeMap;
use std::time::Duration;

use starfeed::proto::{self, request::Command, response::Body};

use crate::backend;
use crate::support::process::{ServerProcess, eventually};
use crate::support::raw::{PING, RawClient, delete_login, login_event, masked, set_login, subscribe_logins};

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
    let Some(mut server) = backend::server(&[]) else { return };
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
    const CHANGES: usize = backend::MANY_CHANGES;
    const ROWS: usize = 50;
    let Some(server) = backend::server(&[
        ("window_bytes", "100000"),
        ("outbox_bytes", "100000"),
        ("send_buffer_bytes", "10000"),
        // It is not to be let go for not answering before its socket is full.
        ("ping_seconds", "3600"),
    ]) else {
        return;
    };
    let mut writer = RawClient::connect(&server.address);
    let mut stalled = RawClient::connect(&server.address);
    stalled.bound_receive_buffer(16 * 1024);
    stalled.be_patient();
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
    // As many events went past the stalled client; the log keeps them once, with the row before and after. Its own part in memory is
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
    let Some(server) = backend::server(&[
        ("retention_bytes", "20000"),
        ("window_bytes", "20000"),
        ("outbox_bytes", "10000"),
        ("send_buffer_bytes", "10000"),
    ]) else {
        return;
    };
    let mut writer = RawClient::connect(&server.address);
    let mut stalled = RawClient::connect(&server.address);
    stalled.bound_receive_buffer(4 * 1024);
    stalled.be_patient();
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

#[test]
fn a_client_that_pings_and_never_reads_costs_a_bounded_amount() {
    // As many pings as it likes: what is shown is what their answers cost.
    let Some(server) = backend::server(&[("send_buffer_bytes", "10000"), ("pings_per_second", "1000000000")]) else {
        return;
    };
    let mut client = RawClient::connect(&server.address);
    client.bound_receive_buffer(4 * 1024);
    client.give_up_writing_after(Duration::from_millis(500));
    let before = server.resident_bytes();
    let pings = masked(PING, &[7; 125]).repeat(1000);
    let mut sent = 0;
    while sent < 64 << 20 && client.try_write(&pings) {
        sent += pings.len();
    }
    let grown = server.resident_bytes().saturating_sub(before);
    assert!(grown < 8 << 20, "{sent} bytes of pings made the server grow by {grown}");
    // Whoever else is there is served.
    assert_eq!(RawClient::connect(&server.address).subscribe(subscribe_logins()), 0);
}

#[test]
fn a_slow_reader_is_not_taken_for_one_that_does_not_read() {
    let Some(server) =
        backend::server(&[("stall_seconds", "2"), ("ping_seconds", "1"), ("send_buffer_bytes", "10000")])
    else {
        return;
    };
    let mut writer = RawClient::connect(&server.address);
    let rows = 300;
    for row in 0..rows {
        writer.request(set_login(&format!("row{row}.example"), &format!("https://x.example/{}", "y".repeat(4000))));
    }
    let mut slow = RawClient::connect(&server.address);
    slow.bound_receive_buffer(4 * 1024);
    let page = Some(proto::Page { limit: Some(rows), offset: None });
    let request_id = slow.ask(Command::ListDomainLogins(proto::RequestListDomainLogins { page }));
    // 1.2 MB in 16 KiB pieces, so slowly that it takes longer than a client may take nothing.
    slow.pause_before_each_read(Duration::from_millis(60));
    assert!(slow.response(request_id).is_success);
    // One that takes nothing is let go.
    let mut stalled = RawClient::connect(&server.address);
    stalled.bound_receive_buffer(4 * 1024);
    stalled.ask(Command::ListDomainLogins(proto::RequestListDomainLogins { page }));
    eventually("it is let go", || server.metric("starfeed_connections_closed_total{reason=\"stalled\"}") == 1.0);
}

#[test]
fn what_a_client_sends_at_once_is_bounded() {
    let Some(server) = backend::server(&[("import_bytes", "1000000")]) else { return };
    let mut client = RawClient::connect(&server.address);
    let crowded = proto::DomainLogin {
        domain: Some("a.example".to_owned()),
        login_url: Some("https://a.example/".to_owned()),
        users: vec![proto::DomainLoginUser::default(); 400_000],
        ..Default::default()
    };
    let text = client.refusal(Command::SetDomainLogin(proto::RequestSetDomainLogin { login: Some(crowded) }));
    assert_eq!(text, "A domain login may have at most 1000 users.");

    let before = server.resident_bytes();
    let mut errors = 0;
    for message in 0..60 {
        let row =
            |row| format!(r#"{{"domain":"{message}-{row}.example","login_url":"https://x.example/","users":[]}}"#);
        let rows = (0..5000).map(|number| row(number).into_bytes().into()).collect();
        let table = "domain_login".to_owned();
        let import = proto::RequestImportRows { table, rows, first_line: Some(i32::MAX - 10), commit: None };
        match client.request(Command::ImportRows(import)) {
            Some(Body::ImportRows(response)) => errors += response.errors.len(),
            body => panic!("{body:?}"),
        }
    }
    assert_eq!(errors, 1, "the import is too large, and that is said once");
    let grown = server.resident_bytes().saturating_sub(before);
    assert!(grown < 32 << 20, "an import that was refused holds {grown} bytes");

    let rows = vec![bytes::Bytes::new(); 300_000];
    let import =
        proto::RequestImportRows { table: "domain_login".to_owned(), rows, first_line: None, commit: Some(true) };
    let text = client.refusal(Command::ImportRows(import));
    assert!(text.starts_with("nothing was written"), "{text}");
}
