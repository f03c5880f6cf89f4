//! A server of one table in memory, which speaks as the real one does and makes mistakes when it is told to.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use prost::Message as _;
use starfeed::change::{Key, Seq};
use starfeed::proto::{self, event, request::Command, response, server_message::MessageType, subscription_state};
use starfeed::summary::Summary;
use subscription_state::{Kind, Reason};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, accept_async};

/// What becomes of an event on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Drop,
    Repeat,
    /// It comes after the one that follows it.
    Swap,
}

/// The server. It serves one connection after the other.
pub(crate) struct Feed {
    listener: TcpListener,
    state: RefCell<State>,
    changed: Notify,
    cut: Notify,
    /// It says nothing more on the present connection.
    pub(crate) is_mute: Cell<bool>,
    /// The text of the answer to the next subscription.
    pub(crate) refusal: RefCell<Option<String>>,
    /// Events have no numbers, as those of a server that does not know of them.
    pub(crate) is_old: Cell<bool>,
    /// What becomes of the next events.
    pub(crate) faults: RefCell<Vec<(u64, Fault)>>,
    /// The tokens of all subscriptions so far.
    pub(crate) tokens: RefCell<Vec<Option<Bytes>>>,
}

#[derive(Default)]
struct State {
    rows: BTreeMap<String, u64>,
    log: Vec<Change>,
    heartbeats: u64,
    closings: u64,
    epoch: u8,
}

#[derive(Clone)]
struct Change {
    kind: i32,
    key: String,
    /// The next subscribers get it, this one does not: a server that is wrong.
    is_kept_back: bool,
}

impl Feed {
    pub(crate) async fn listen() -> Self {
        Self {
            listener: TcpListener::bind("127.0.0.1:0").await.expect("a free port"),
            state: RefCell::default(),
            changed: Notify::new(),
            cut: Notify::new(),
            is_mute: Cell::new(false),
            refusal: RefCell::default(),
            is_old: Cell::new(false),
            faults: RefCell::default(),
            tokens: RefCell::default(),
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("ws://{}/ws/", self.listener.local_addr().expect("an address"))
    }

    pub(crate) fn put(&self, key: &str) {
        self.write(key, true, false);
    }

    pub(crate) fn delete(&self, key: &str) {
        self.write(key, false, false);
    }

    /// Writes a row and does not tell the present subscribers.
    pub(crate) fn put_in_silence(&self, key: &str) {
        self.write(key, true, true);
    }

    fn write(&self, key: &str, is_put: bool, is_kept_back: bool) {
        let mut state = self.state.borrow_mut();
        let version = state.log.len() as u64 + 1;
        let held = if is_put { state.rows.insert(key.to_owned(), version) } else { state.rows.remove(key) };
        let kind = match (held.is_some(), is_put) {
            (false, true) => 1,
            (true, true) => 2,
            (true, false) => 3,
            (false, false) => panic!("{key} is not there"),
        };
        state.log.push(Change { kind, key: key.to_owned(), is_kept_back });
        self.changed.notify_one();
    }

    pub(crate) fn heartbeat(&self) {
        self.state.borrow_mut().heartbeats += 1;
        self.changed.notify_one();
    }

    /// Ends all subscriptions.
    pub(crate) fn close_subscriptions(&self) {
        self.state.borrow_mut().closings += 1;
        self.changed.notify_one();
    }

    /// Forgets the past: tokens are of another epoch from now on.
    pub(crate) fn begin_epoch(&self) {
        self.state.borrow_mut().epoch += 1;
    }

    pub(crate) fn cut(&self) {
        self.cut.notify_one();
    }

    pub(crate) fn rows(&self) -> BTreeMap<String, u64> {
        self.state.borrow().rows.clone()
    }

    /// Serves for ever.
    pub(crate) async fn serve(&self) {
        loop {
            let (stream, _) = self.listener.accept().await.expect("a client");
            let Ok(socket) = accept_async(stream).await else { continue };
            tokio::select! {
                // A cut counts for the connection there is.
                biased;
                () = self.cut.notified() => {}
                () = Conversation { feed: self, socket, subscriptions: Vec::new(), next_id: 0, kept: None }.run() => {}
            }
            self.is_mute.set(false);
        }
    }
}

struct Subscription {
    id: i32,
    number: u64,
    /// It has everything up to this change.
    at: usize,
    heartbeats: u64,
    closings: u64,
    is_live: bool,
}

struct Conversation<'a> {
    feed: &'a Feed,
    socket: WebSocketStream<TcpStream>,
    subscriptions: Vec<Subscription>,
    next_id: i32,
    /// What is to come after the next event.
    kept: Option<proto::Event>,
}

impl Conversation<'_> {
    async fn run(mut self) {
        loop {
            tokio::select! {
                // Requests have their turn before events.
                biased;
                message = self.socket.next() => match message {
                    Some(Ok(Message::Binary(bytes))) => self.answer(proto::Request::decode(bytes).expect("a request")).await,
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return,
                },
                () = self.feed.changed.notified() => {}
            }
            for mut subscription in std::mem::take(&mut self.subscriptions) {
                if self.pump(&mut subscription).await {
                    self.subscriptions.push(subscription);
                }
            }
        }
    }

    async fn answer(&mut self, request: proto::Request) {
        let options = match request.command {
            Some(Command::SubscribeTable(subscribe)) => subscribe.options,
            Some(Command::SubscribeDomainLoginList(subscribe)) => subscribe.options,
            Some(Command::Unsubscribe(unsubscribe)) => {
                self.subscriptions.retain(|subscription| subscription.id != unsubscribe.subscription_id);
                return self.respond(request.request_id, Ok(None)).await;
            }
            other => panic!("{other:?}"),
        };
        let token = options.and_then(|options| options.resume_token);
        self.feed.tokens.borrow_mut().push(token.clone());
        let refusal = self.feed.refusal.borrow_mut().take();
        if let Some(text) = refusal {
            return self.respond(request.request_id, Err(text)).await;
        }
        let id = self.next_id;
        self.next_id += 1;
        let new = proto::ResponseNewSubscription { subscription_id: id };
        self.respond(request.request_id, Ok(Some(response::Body::NewSubscription(new)))).await;
        let (heartbeats, closings, epoch) = {
            let state = self.feed.state.borrow();
            (state.heartbeats, state.closings, state.epoch)
        };
        let mut subscription = Subscription { id, number: 0, at: 0, heartbeats, closings, is_live: false };
        let token = token.map(|token| String::from_utf8(token.to_vec()).expect("a token of this server"));
        match token.as_deref().map(|token| token.split_once('-').expect("both parts")) {
            Some((of, at)) if of == epoch.to_string() => subscription.at = at.parse().expect("a number"),
            Some(_) => {
                self.state(&mut subscription, Kind::Reset).await;
                self.snapshot(&mut subscription).await;
            }
            None => self.snapshot(&mut subscription).await,
        }
        self.subscriptions.push(subscription);
    }

    async fn respond(&mut self, request_id: i32, result: Result<Option<response::Body>, String>) {
        let (is_success, body, error_message) = match result {
            Ok(body) => (true, body, None),
            Err(text) => (false, None, Some(text)),
        };
        let response = proto::Response { request_id, is_success, error_message, body };
        self.send(MessageType::Response(response)).await;
    }

    async fn snapshot(&mut self, subscription: &mut Subscription) {
        self.state(subscription, Kind::Initializing).await;
        subscription.at = self.feed.state.borrow().log.len();
        for (key, version) in self.feed.rows() {
            self.row(subscription, 1, &key, version, true).await;
        }
        self.state(subscription, Kind::Ready).await;
    }

    /// Sends what is new; `false` when that was the end.
    async fn pump(&mut self, subscription: &mut Subscription) -> bool {
        loop {
            let (change, heartbeats, closings) = {
                let state = self.feed.state.borrow();
                (state.log.get(subscription.at).cloned(), state.heartbeats, state.closings)
            };
            if subscription.closings < closings {
                let message = Some("the table is gone".to_owned());
                let closed = event::Body::SubscriptionClosed(proto::SubscriptionClosed { reason: 2, message });
                let event = proto::Event { subscription_id: subscription.id, body: Some(closed), ..Default::default() };
                self.send(MessageType::Event(event)).await;
                return false;
            }
            if let Some(Change { kind, key, is_kept_back }) = change {
                subscription.at += 1;
                if !is_kept_back {
                    self.row(subscription, kind, &key, subscription.at as u64, false).await;
                }
            } else if !subscription.is_live {
                subscription.is_live = true;
                self.state(subscription, Kind::Live).await;
            } else if subscription.heartbeats < heartbeats {
                subscription.heartbeats += 1;
                self.state(subscription, Kind::Heartbeat).await;
            } else {
                return true;
            }
        }
    }

    async fn row(&mut self, subscription: &mut Subscription, kind: i32, key: &str, version: u64, initial: bool) {
        let login =
            proto::DomainLoginEvent { event_type: Some(kind), domain: Some(key.to_owned()), ..Default::default() };
        let event = proto::Event {
            body: Some(event::Body::DomainLoginEvent(login)),
            version: Some(version),
            initial: Some(initial),
            ..Default::default()
        };
        // In the middle of the first rows this server has no place to go on from.
        self.event(subscription, event, !initial).await;
    }

    async fn state(&mut self, subscription: &mut Subscription, kind: Kind) {
        let is_checked = matches!(kind, Kind::Ready | Kind::Live | Kind::Heartbeat);
        let mut summary = Summary::default();
        for (key, version) in self.feed.rows() {
            summary.add(&Key::text(&key), Seq(version));
        }
        let state = proto::SubscriptionState {
            kind: Some(kind.into()),
            reason: (kind == Kind::Reset).then(|| Reason::Epoch.into()),
            message: Some("said so".to_owned()),
            epoch: Some(vec![self.feed.state.borrow().epoch; 16].into()),
            position: is_checked.then_some(subscription.at as u64),
            count: is_checked.then_some(summary.count),
            digest: is_checked.then_some(summary.digest),
        };
        self.event(subscription, proto::Event { state: Some(state), ..Default::default() }, is_checked).await;
    }

    async fn event(&mut self, subscription: &mut Subscription, mut event: proto::Event, with_token: bool) {
        subscription.number += 1;
        event.subscription_id = subscription.id;
        event.number = (!self.feed.is_old.get()).then_some(subscription.number);
        if with_token {
            event.token = Some(format!("{}-{}", self.feed.state.borrow().epoch, subscription.at).into());
        }
        let fault = {
            let mut faults = self.feed.faults.borrow_mut();
            let due = faults.iter().position(|(left, _)| *left == 0);
            faults.iter_mut().for_each(|(left, _)| *left = left.saturating_sub(1));
            due.map(|due| faults.remove(due).1)
        };
        let kept = self.kept.take();
        match fault {
            Some(Fault::Drop) => {}
            Some(Fault::Repeat) => {
                self.send(MessageType::Event(event.clone())).await;
                self.send(MessageType::Event(event)).await;
            }
            Some(Fault::Swap) => self.kept = Some(event),
            None => self.send(MessageType::Event(event)).await,
        }
        if let Some(kept) = kept {
            self.send(MessageType::Event(kept)).await;
        }
    }

    async fn send(&mut self, message: MessageType) {
        if self.feed.is_mute.get() {
            return;
        }
        let message = proto::ServerMessage { message_type: Some(message) };
        // The client may be gone.
        let _ = self.socket.send(Message::binary(message.encode_to_vec())).await;
    }
}
