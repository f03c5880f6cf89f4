//! A publisher that takes changes to the socket itself, beside the task of the connection.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use prost::Message;
use shuttle::future::block_on;
use shuttle::sync::atomic::{AtomicBool, AtomicUsize};
use shuttle::sync::{Mutex, MutexGuard};
use shuttle::thread;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{DEADLOCK, LOST_OR_REPEATED, finds_in, tried_in};
use crate::change::{Document, Key, Table, Timestamp};
use crate::feed::{Feeds, Outbox, Outlet, Waiting};
use crate::metrics::Metrics;
use crate::planted::PlantedBug;
use crate::proto::{self, event::Body, request::Command, server_message::MessageType};
use crate::session::tests::{ask, context, store, subscribe};
use crate::session::{Session, Work};
use crate::store::{Mutation, Store};
use crate::subscription::Principal;
use crate::transport::outgoing::Gone;
use crate::transport::speaker::{Conversation, Speaker, Way};

/// Each order has a store of its own, which takes its time.
const SCHEDULES: usize = 700;

const ROWS: usize = 3;

/// A client that takes nothing at once, or everything.
#[derive(Default)]
struct Client {
    taken: Mutex<Vec<u8>>,
    unsent: Mutex<Vec<u8>>,
    sends: AtomicUsize,
    is_slow: bool,
    /// It has every row.
    complete: Notify,
}

impl Client {
    fn unsent(&self) -> MutexGuard<'_, Vec<u8>> {
        self.unsent.lock().expect("nobody panics with it")
    }

    fn taken(&self) -> MutexGuard<'_, Vec<u8>> {
        self.taken.lock().expect("nobody panics with it")
    }

    /// What the task of a connection does when the client takes something again; says whether there was something.
    fn flush(&self) -> bool {
        let unsent = std::mem::take(&mut *self.unsent());
        self.take(&unsent);
        !unsent.is_empty()
    }

    fn take(&self, frames: &[u8]) {
        self.taken().extend_from_slice(frames);
        if self.rows().len() >= ROWS {
            self.complete.notify_one();
        }
    }

    /// The rows that it was sent, in order.
    fn rows(&self) -> Vec<String> {
        let taken = self.taken();
        let mut bytes = &taken[..];
        let mut rows = Vec::new();
        while let [0x82, length, rest @ ..] = bytes {
            let (payload, rest) = rest.split_at(usize::from(*length));
            let message = proto::ServerMessage::decode(payload).expect("a message");
            if let Some(MessageType::Event(event)) = message.message_type
                && let Some(Body::DomainLoginEvent(event)) = event.body
            {
                rows.push(event.domain().to_owned());
            }
            bytes = rest;
        }
        rows
    }
}

impl Way for Client {
    fn send(&self, frames: &[u8]) -> Result<bool, Gone> {
        let takes = !self.is_slow || self.sends.fetch_add(1, Ordering::SeqCst).is_multiple_of(2);
        let mut unsent = self.unsent();
        if takes && unsent.is_empty() {
            self.take(frames);
        } else {
            unsent.extend_from_slice(frames);
        }
        Ok(unsent.is_empty())
    }

    fn send_shared(&self, frames: &Bytes) -> Result<bool, Gone> {
        self.send(frames)
    }

    fn is_unflushed(&self) -> bool {
        !self.unsent().is_empty()
    }
}

fn row(number: usize) -> String {
    format!("row{number}")
}

/// Writes the rows, each in a commit of its own, and publishes it.
fn write(store: &Store, feeds: &Feeds) {
    for number in 0..ROWS {
        let document = Document::parse(b"{}").expect("an object");
        let unit = vec![Mutation::put(Table::new("domain_login"), Key::text(&row(number)), document)];
        let committed = store.commit(Timestamp(0), &[unit]).expect("memory does not fail");
        feeds.publish(committed.changes, committed.upto);
        thread::yield_now();
    }
}

fn a_connection_beside_a_publisher(is_slow: bool) {
    let store = store();
    let (context, feeds) = context(&store);
    let client = Arc::new(Client { is_slow, ..Client::default() });
    let speaker = Speaker::new(Arc::clone(&client) as _, Arc::new(Metrics::default()), Instant::now());
    let outbox = Outbox::new(1 << 20, Waiting::new(1 << 30), Arc::clone(&speaker) as _);
    let mut session = Session::new(context, Principal::Anonymous, String::new(), outbox);
    ask(&mut session, 1, 10, subscribe());
    let is_over = Arc::new(AtomicBool::new(false));
    let connection = {
        let (conversation, store) = (speaker.begin(session), store.clone());
        let (client, speaker, is_over) = (Arc::clone(&client), Arc::clone(&speaker), Arc::clone(&is_over));
        thread::spawn(move || {
            while !is_over.load(Ordering::SeqCst) {
                run_task(&conversation, &speaker, &client, &store);
            }
        })
    };
    let publisher = {
        let (store, feeds) = (store.clone(), Arc::clone(&feeds));
        thread::spawn(move || write(&store, &feeds))
    };
    // The task may sleep all the while; nobody but those two may be needed.
    block_on(client.complete.notified());
    publisher.join().expect("a publisher that is done");
    is_over.store(true, Ordering::SeqCst);
    speaker.wake();
    connection.join().expect("a connection that is over");
    let expected: Vec<String> = (0..ROWS).map(row).collect();
    assert_eq!(client.rows(), expected, "{LOST_OR_REPEATED}");
    assert_eq!(feeds.subscribers(&Table::new("domain_login")), 0);
}

/// One turn of the task of a connection.
fn run_task(conversation: &Conversation, speaker: &Speaker, client: &Client, store: &Store) {
    let turn = conversation.turn().expect("the client is there");
    let is_working = !turn.work.is_empty();
    do_all(turn.work, conversation, store);
    if !is_working && !client.flush() && !turn.has_more {
        block_on(speaker.woken());
    }
}

fn do_all(work: Vec<Work>, conversation: &Conversation, store: &Store) {
    for work in work {
        let Work::Read(read) = work else { panic!("{work:?} is for nobody here") };
        let result = read.run(store);
        conversation.tell(|session| session.read(result));
    }
}

/// Whether the client was sent that this request has succeeded.
fn has_response(client: &Client, request_id: i32) -> bool {
    let message_type =
        Some(MessageType::Response(proto::Response { request_id, is_success: true, ..Default::default() }));
    let response = proto::ServerMessage { message_type }.encode_to_vec();
    client.taken().windows(response.len()).any(|taken| taken == response)
}

fn a_request_beside_a_publisher() {
    let store = store();
    let (context, feeds) = context(&store);
    let client = Arc::new(Client::default());
    let speaker = Speaker::new(Arc::clone(&client) as _, Arc::new(Metrics::default()), Instant::now());
    let outbox = Outbox::new(1 << 20, Waiting::new(1 << 30), Arc::clone(&speaker) as _);
    let mut session = Session::new(context, Principal::Anonymous, String::new(), outbox);
    let options = Some(proto::SubscribeOptions { states: Some(true), ..Default::default() });
    let subscribe = Command::SubscribeDomainLoginList(proto::RequestSubscribeDomainLoginList { options });
    ask(&mut session, 1, 10, subscribe);
    let conversation = speaker.begin(session);
    loop {
        let turn = conversation.turn().expect("the client is there");
        if turn.work.is_empty() {
            break;
        }
        do_all(turn.work, &conversation, &store);
    }
    // The task has read it, and has yet to have its turn.
    let unsubscribe = Command::Unsubscribe(proto::RequestUnsubscribe { subscription_id: 0 });
    conversation.tell(|session| ask(session, 2, 10, unsubscribe));
    write(&store, &feeds);
    assert!(!has_response(&client, 2), "a publisher has carried out a request");
    block_on(speaker.woken());
    conversation.turn().expect("the client is there");
    assert!(has_response(&client, 2), "the task was woken for nothing");
}

#[test]
fn a_publisher_leaves_requests_to_the_task() {
    tried_in(1, None, a_request_beside_a_publisher);
}

#[test]
fn whoever_sends_it_each_change_comes_once_and_in_order() {
    tried_in(SCHEDULES, None, || a_connection_beside_a_publisher(false));
}

#[test]
fn what_a_client_does_not_take_from_a_publisher_its_task_sends() {
    tried_in(SCHEDULES, None, || a_connection_beside_a_publisher(true));
}

#[test]
fn a_busy_connection_that_is_not_woken_is_found() {
    finds_in(SCHEDULES, PlantedBug::BusyConnectionIsNotWoken, || a_connection_beside_a_publisher(false), &[DEADLOCK]);
}

#[test]
fn what_is_left_to_nobody_is_found() {
    finds_in(SCHEDULES, PlantedBug::UnsentIsLeftToNobody, || a_connection_beside_a_publisher(true), &[DEADLOCK]);
}
