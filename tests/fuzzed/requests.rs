//! Requests as a client sends them, in any order, some of them read late: each that can be decoded is answered once, what is sent
//! can be decoded, and nothing is left when the client has gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use starfeed::catalog::Arrival;
use starfeed::change::{Document, Key, Table, Timestamp};
use starfeed::feed::{Outbox, Outlet};
use starfeed::proto::{self, response::Body, server_message::MessageType};
use starfeed::session::{Session, Step, Watch, Work};
use starfeed::store::Mutation;
use starfeed::subscription::Principal;
use starfeed::wire::{self, ServerMessage};
use uuid::Uuid;

use super::input::Input;
use super::server::{ANSWER_BYTES, ROW_BYTES, Server};

/// Steps after which a session has to wait for something new.
const STEPS_MAX: usize = 20_000;

/// More of them in one run would only make it slower.
const OPERATIONS_MAX: usize = 8;

/// So much larger a message may be than the rows in it.
const MESSAGE_BYTES_MAX: usize = 4 * (ANSWER_BYTES + ROW_BYTES);

/// Requests as the fields of one message hold them: a length, then so many bytes. Lengths from here on mean something else.
const OTHER: u8 = 0xf0;

pub(crate) fn target(data: &[u8]) {
    Server::with(|server| {
        let mut client = Client::new(server);
        let mut input = Input(data);
        for _ in 0..OPERATIONS_MAX {
            if input.is_empty() {
                break;
            }
            let op = input.byte();
            match op {
                ..OTHER => {
                    if !client.send(input.bytes(usize::from(op))) {
                        // The connection would be closed, with what was begun answered or not.
                        return;
                    }
                }
                OTHER => {
                    let len = usize::from(u16::from_be_bytes(input.array()));
                    if !client.send(input.bytes(len)) {
                        return;
                    }
                }
                0xf1 => client.run(usize::from(input.byte())),
                0xf2 => client.wait(u64::from(u16::from_be_bytes(input.array()))),
                0xf3 => client.others_write(input.byte(), input.byte()),
                _ => client.run(STEPS_MAX),
            }
        }
        client.run(STEPS_MAX);
        client.wait(60_000);
        client.run(STEPS_MAX);
        assert!(client.unanswered.is_empty(), "not answered: {:?}", client.unanswered);
    });
}

struct Nobody;

impl Outlet for Nobody {
    fn wake(&self) {}
}

struct Client<'s> {
    server: &'s Server,
    session: Session,
    unanswered: BTreeMap<i32, usize>,
    subscriptions: BTreeSet<i32>,
    watches: Vec<Watch>,
    now_ms: u64,
    requests: u128,
}

impl<'s> Client<'s> {
    fn new(server: &'s Server) -> Self {
        let outbox = Outbox::new(1024, Arc::clone(&server.waiting), Arc::new(Nobody));
        let session = Session::new(Arc::clone(&server.session), Principal::Anonymous, "peer".to_owned(), outbox);
        Self {
            server,
            session,
            unanswered: BTreeMap::new(),
            subscriptions: BTreeSet::new(),
            watches: Vec::new(),
            now_ms: 0,
            requests: 0,
        }
    }

    /// Sends a message; `false` where it cannot be decoded.
    fn send(&mut self, bytes: &[u8]) -> bool {
        if self.session.is_saturated() {
            self.run(STEPS_MAX);
            assert!(!self.session.is_saturated(), "a session that has nothing to do takes no request");
        }
        let Ok(message) = wire::protobuf::decode(Bytes::copy_from_slice(bytes)) else { return false };
        self.requests += 1;
        *self.unanswered.entry(message.request_id).or_default() += 1;
        let arrival = Arrival {
            now: Timestamp(2_000_000 + self.now_ms),
            fresh_id: Uuid::from_u128(self.requests),
            has_crawler: message.size % 2 == 0,
        };
        self.session.receive(message, &arrival);
        true
    }

    fn wait(&mut self, ms: u64) {
        self.now_ms += ms;
        self.session.tick(self.now_ms);
    }

    /// Somebody else writes a row or deletes it.
    fn others_write(&mut self, key: u8, value: u8) {
        let table = Table::new("domain_login");
        let key = Key::text(&format!("{}.example", key % 8));
        let mutation = match value {
            0 => Mutation::delete(table, key),
            _ => {
                let text = format!(r#"{{"domain":{key:?},"users":[],"n":{value}}}"#, key = key.to_string());
                Mutation::put(table, key, Document::parse(text.as_bytes()).expect("an object"))
            }
        };
        self.server.write(vec![mutation]).expect("nothing guards this row");
        self.something_changed();
    }

    /// Does what the session wants, at most so many steps.
    fn run(&mut self, steps: usize) {
        for _ in 0..steps {
            match self.session.next_step() {
                Step::Send(message) => self.check(message),
                Step::Do(work) => self.work(work),
                Step::Wait => return,
            }
        }
        assert!(steps < STEPS_MAX, "there is no end of what the session wants");
    }

    fn work(&mut self, work: Work) {
        match work {
            Work::Read(read) => self.session.read(read.run(&self.server.store)),
            Work::Share(share) => self.session.read(share.now().expect("what was asked for was read at once")),
            Work::Write { ticket, unit } => {
                let result = self.server.write(unit);
                self.session.written(ticket, Ok(result));
                self.something_changed();
            }
            Work::Ask { ticket, .. } => self.session.asked(ticket, Err("the crawler is busy".to_owned())),
            Work::Watch(watch) => self.watches.push(watch),
        }
    }

    fn something_changed(&mut self) {
        self.watches.retain(|watch| !watch.until.is_cancelled());
        self.watches.iter().for_each(|watch| self.session.changed(watch.subscription_id));
    }

    fn check(&mut self, message: ServerMessage) {
        let mut messages: Vec<Vec<u8>> = Vec::new();
        wire::protobuf::encode(message, &self.server.metrics.row_problems, &mut messages);
        messages.iter().for_each(|encoded| self.check_encoded(encoded));
    }

    fn check_encoded(&mut self, encoded: &[u8]) {
        assert!(encoded.len() <= MESSAGE_BYTES_MAX, "a message of {} bytes", encoded.len());
        let message = proto::ServerMessage::decode(encoded).expect("what is sent can be decoded");
        match message.message_type.expect("a response or an event") {
            MessageType::Response(response) => {
                let count = self.unanswered.get_mut(&response.request_id).expect("an answer to a request");
                *count -= 1;
                if *count == 0 {
                    self.unanswered.remove(&response.request_id);
                }
                assert_eq!(response.is_success, response.error_message.is_none());
                if let Some(Body::NewSubscription(new)) = response.body {
                    assert!(self.subscriptions.insert(new.subscription_id), "a subscription that there was before");
                }
            }
            MessageType::Event(event) => {
                assert!(self.subscriptions.contains(&event.subscription_id), "an event of a subscription unknown");
            }
        }
    }
}
