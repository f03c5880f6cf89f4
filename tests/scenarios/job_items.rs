//! Many items, and large ones: nothing is lost however often a client is cut off, and nobody pays for one who does not read.

use serde_json::Value;

use crate::backend;
use crate::support::crawled::{body, gzip, import, job, noise, put, response, success};
use crate::support::following::{item, next_synced, sequence, sync, sync_all, synced, token};
use crate::support::process::eventually;
use crate::support::raw::{RawClient, login_event, set_login, subscribe_logins};

/// The crawler: it counts its responses over all jobs, and some are of the job that is followed.
struct Crawler {
    client: RawClient,
    random: fastrand::Rng,
    next: u64,
    /// The numbers of the items of job 0, in order.
    written: Vec<u64>,
}

impl Crawler {
    /// Writes some rows, without waiting for that.
    fn write(&mut self, rows_max: usize) -> i32 {
        let mut rows: Vec<Value> = Vec::new();
        for _ in 0..self.random.usize(1..=rows_max) {
            let is_followed = self.random.u8(..4) > 0;
            rows.push(response(self.next, u8::from(!is_followed)));
            if is_followed {
                self.written.push(self.next);
            }
            self.next += 1;
        }
        self.client.ask(import("response", &rows))
    }
}

/// A client that keeps the token of what it has, mostly.
struct Follower {
    client: RawClient,
    subscription_id: i32,
    /// The numbers of the items that it has, without those that came twice.
    held: Vec<u64>,
    /// Where it begins when it is cut off.
    token: Option<Vec<u8>>,
    /// What it got last on this connection.
    last: Option<u64>,
}

impl Follower {
    fn connect(address: &str) -> Self {
        let mut follower =
            Self { client: RawClient::connect(address), subscription_id: 0, held: Vec::new(), token: None, last: None };
        follower.subscription_id = follower.client.subscribe(sync(0, None));
        follower
    }

    /// The next item has to be the one behind the last one that it got, or behind its token.
    fn take(&mut self, written: &[u64], keeps_token: bool) {
        let item = item(self.client.event(), self.subscription_id);
        let got = sequence(&item.token);
        assert_eq!(item.item.url(), format!("https://site.example/{got}"));
        let expected = self.last.or(self.token.as_deref().map(sequence));
        let at = expected.map_or(0, |after| written.partition_point(|sequence| *sequence <= after));
        assert_eq!(got, written[at], "behind {expected:?}");
        self.last = Some(got);
        if self.held.last().is_none_or(|last| *last < got) {
            self.held.push(got);
        }
        if keeps_token {
            self.token = Some(item.token.to_vec());
        }
    }

    /// Items that are there and that it has not got on this connection.
    fn missing(&self, written: &[u64]) -> usize {
        let after = self.last.or(self.token.as_deref().map(sequence));
        written.len() - after.map_or(0, |after| written.partition_point(|sequence| *sequence <= after))
    }

    /// Is cut off, with whatever is under way, and comes again with the token that it has kept.
    fn cut(&mut self, address: &str) {
        let cut_off = std::mem::replace(&mut self.client, RawClient::connect(address));
        cut_off.reset();
        self.last = None;
        self.subscription_id = self.client.subscribe(sync(0, self.token.as_deref()));
    }
}

#[test]
fn ten_thousand_items_while_the_client_is_killed() {
    const CUTS: usize = 100;
    const ITEMS: usize = backend::MANY_ITEMS;
    let Some(mut server) = backend::server(&[]) else { return };
    let mut random = fastrand::Rng::with_seed(7);
    let mut crawler = RawClient::connect(&server.address);
    put(&mut crawler, "job", &[job(0, "running"), job(1, "running")]);
    let mut crawler = Crawler { client: crawler, random: random.fork(), next: 1, written: Vec::new() };
    let mut follower = Follower::connect(&server.address);
    let (mut cuts, mut again) = (0, 0);
    while cuts < CUTS || crawler.written.len() < ITEMS {
        if crawler.written.len() < ITEMS {
            // Of these, some are on their way to the client while it is cut off.
            let asked: Vec<i32> = (0..random.usize(1..4)).map(|_| crawler.write(backend::ROWS_IN_ORDER_MAX)).collect();
            let may_take = follower.missing(&crawler.written);
            for _ in 0..random.usize(0..=may_take) {
                follower.take(&crawler.written, random.u8(..10) > 0);
            }
            for request_id in asked {
                let response = crawler.client.response(request_id);
                assert!(response.is_success, "{:?}", response.error_message);
            }
        }
        let share = (crawler.written.len() * CUTS).checked_div(ITEMS).unwrap_or(CUTS);
        if cuts < share.min(CUTS) || crawler.written.len() >= ITEMS {
            let held = follower.held.last().copied().unwrap_or_default();
            again += usize::from(held > follower.token.as_deref().map_or(0, sequence));
            follower.cut(&server.address);
            cuts += 1;
        }
    }
    put(&mut crawler.client, "job", &[job(0, "completed")]);
    while follower.missing(&crawler.written) > 0 {
        follower.take(&crawler.written, true);
    }
    assert_eq!(next_synced(&mut follower.client, 1), ["COMPLETE"]);
    assert_eq!(follower.held, crawler.written, "each item once, in order");
    assert!(follower.held.len() >= ITEMS && again > 0, "{again} cuts came before the token was kept");
    eventually("all that were cut off are gone", || {
        server.metric("starfeed_subscriptions") == 0.0 && server.metric("starfeed_waiting_bytes") == 0.0
    });
    assert!(server.is_alive());
    // Who comes last gets the same.
    let mut late = Follower::connect(&server.address);
    for _ in 0..crawler.written.len() {
        late.take(&crawler.written, false);
    }
    assert_eq!(next_synced(&mut late.client, 1), ["COMPLETE"]);
}

/// Less than what waits for one client; with most of it, the allocator keeps pieces of memory for each thread that has needed some.
const GROWN_MAX: u64 = 90 << 20;

#[test]
fn a_client_that_does_not_read_large_items_costs_a_bounded_amount() {
    const ITEMS: u64 = 200;
    const BYTES: usize = 500_000;
    let settings = [
        ("ping_seconds", "3600"),
        // What the store itself keeps in memory is not what is measured here.
        ("cache_bytes", "4000000"),
        ("retention_bytes", "1000000"),
        ("window_bytes", "100000"),
    ];
    let Some(server) = backend::server(&settings) else { return };
    let mut random = fastrand::Rng::with_seed(7);
    let mut crawler = RawClient::connect(&server.address);
    put(&mut crawler, "job", &[job(0, "running")]);
    let bodies: Vec<Vec<u8>> = (0..ITEMS).map(|_| noise(&mut random, BYTES)).collect();
    for (sequence, bytes) in (1..).zip(&bodies) {
        put(&mut crawler, "response_body", &[body(sequence, bytes, true)]);
        put(&mut crawler, "response", &[success(sequence, 0, sequence)]);
    }
    let before = server.resident_bytes();
    server.forget_peak();
    let mut stalled: Vec<RawClient> = (0..3)
        .map(|_| {
            let mut client = RawClient::connect(&server.address);
            client.bound_receive_buffer(16 * 1024);
            client.be_patient();
            client.subscribe(sync(0, None));
            client
        })
        .collect();
    // Who reads gets everything meanwhile, and changes of rows as well.
    let mut reader = RawClient::connect(&server.address);
    reader.subscribe(subscribe_logins());
    let id = reader.subscribe(sync(0, None));
    for (sequence, bytes) in (1..).zip(&bodies) {
        let item = item(reader.event(), id);
        assert_eq!(item.token[..], token(sequence));
        assert!(item.item.body() == *bytes, "item {sequence} has another body");
    }
    crawler.request(set_login("a.example", "A"));
    assert_eq!(login_event(&reader.event()), "ADDED a.example");
    let waiting = server.metric("starfeed_waiting_bytes");
    assert!(waiting < 4e6, "{waiting} bytes wait for three clients");
    let grown = server.peak_resident_bytes().saturating_sub(before);
    println!("memory grew by {} KiB", grown / 1024);
    assert!(grown < GROWN_MAX, "the server grew by {grown} bytes");
    // It ends when everything was sent, and not before.
    put(&mut crawler, "job", &[job(0, "completed")]);
    assert_eq!(synced(&reader.event()), "COMPLETE");
    let mut client = stalled.swap_remove(0);
    // It has become faster, too.
    client.bound_receive_buffer(1 << 20);
    for (sequence, bytes) in (1..).zip(&bodies) {
        let item = item(client.event(), 0);
        assert_eq!(item.token[..], token(sequence));
        assert!(item.item.body() == *bytes, "item {sequence} has another body");
    }
    assert_eq!(next_synced(&mut client, 1), ["COMPLETE"]);
    drop((client, reader, stalled));
    eventually("nothing waits any more", || server.metric("starfeed_waiting_bytes") == 0.0);
}

#[test]
fn a_client_that_does_not_read_unpacked_items_costs_a_bounded_amount() {
    const ITEMS: u64 = 100;
    let Some(server) = backend::server(&[("ping_seconds", "3600")]) else { return };
    let mut crawler = RawClient::connect(&server.address);
    put(&mut crawler, "job", &[job(0, "completed")]);
    // A few bytes in the store, and a megabyte for each client.
    let unpacked = |sequence: u64| vec![u8::try_from(sequence).expect("a small number"); 1 << 20];
    for sequence in 1..=ITEMS {
        put(&mut crawler, "response_body", &[body(sequence, &gzip(&unpacked(sequence)), true)]);
        put(&mut crawler, "response", &[success(sequence, 0, sequence)]);
    }
    let before = server.resident_bytes();
    server.forget_peak();
    let mut clients: Vec<RawClient> = (0..5)
        .map(|_| {
            let mut client = RawClient::connect(&server.address);
            client.bound_receive_buffer(16 * 1024);
            client.subscribe(sync_all(0, false));
            client
        })
        .collect();
    // The last one reads, and the others have had their turns by then.
    let mut reader = clients.pop().expect("there are five");
    reader.bound_receive_buffer(1 << 20);
    for sequence in 1..=ITEMS {
        let item = item(reader.event(), 0);
        assert_eq!(item.token[..], token(sequence));
        assert!(item.item.body() == unpacked(sequence), "item {sequence} has another body");
    }
    assert_eq!(next_synced(&mut reader, 1), ["COMPLETE"]);
    let grown = server.peak_resident_bytes().saturating_sub(before);
    println!("memory grew by {} KiB", grown / 1024);
    assert!(grown < GROWN_MAX, "the server grew by {grown} bytes");
}
