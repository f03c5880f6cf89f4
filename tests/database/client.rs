//! Connections of the differential test, each with many subscriptions: made again whenever they are lost.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use prost::Message as _;
use starfeed::proto::{self, response::Body, server_message::MessageType};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

use super::checker::Checker;

/// Between two attempts to reach a server that is not there.
const RETRY: Duration = Duration::from_millis(50);

/// A server that was killed in the middle of a handshake may have left the socket to nobody.
const PATIENCE: Duration = Duration::from_secs(5);

/// A connection and its subscriptions.
pub(crate) struct Connection {
    pub(crate) address: String,
    pub(crate) checkers: Vec<RefCell<Checker>>,
    random: RefCell<fastrand::Rng>,
    /// It takes its time for each message, as long as others do too.
    is_slow: bool,
    /// Nobody cuts himself off any more, or takes his time.
    pub(crate) is_calm: Cell<bool>,
}

impl Connection {
    pub(crate) fn new(address: &str, checkers: Vec<Checker>, seed: u64, is_slow: bool) -> Self {
        Self {
            address: address.to_owned(),
            checkers: checkers.into_iter().map(RefCell::new).collect(),
            random: RefCell::new(fastrand::Rng::with_seed(seed)),
            is_slow,
            is_calm: Cell::new(false),
        }
    }

    /// Follows for ever; ends with what is wrong.
    pub(crate) async fn run(&self) -> Result<std::convert::Infallible, String> {
        loop {
            let connected = timeout(PATIENCE, self.connect()).await;
            if let Ok(Some(socket)) = connected {
                self.follow(socket).await?;
            }
            sleep(RETRY).await;
        }
    }

    async fn connect(&self) -> Option<WebSocketStream<TcpStream>> {
        let stream = TcpStream::connect(&self.address).await.ok()?;
        Some(client_async(format!("ws://{}/ws/", self.address), stream).await.ok()?.0)
    }

    /// Follows until the connection is lost.
    async fn follow(&self, mut socket: WebSocketStream<TcpStream>) -> Result<(), String> {
        for (request_id, checker) in (0..).zip(&self.checkers) {
            let command = {
                let mut checker = checker.borrow_mut();
                let token = checker.again();
                checker.wish.command(token)
            };
            let request = proto::Request { request_id, command: Some(command) };
            if socket.send(Message::binary(request.encode_to_vec())).await.is_err() {
                return Ok(());
            }
        }
        let mut ids = HashMap::new();
        while let Some(Ok(message)) = socket.next().await {
            if !matches!(message, Message::Binary(_)) {
                continue;
            }
            let message = proto::ServerMessage::decode(message.into_data()).map_err(|error| error.to_string())?;
            match message.message_type {
                Some(MessageType::Response(response)) => {
                    let request = usize::try_from(response.request_id).map_err(|error| error.to_string())?;
                    let Some(Body::NewSubscription(new)) = response.body else {
                        return Err(format!("{:?} was refused: {response:?}", self.checkers[request].borrow().wish));
                    };
                    ids.insert(new.subscription_id, request);
                }
                Some(MessageType::Event(event)) => {
                    let index = *ids.get(&event.subscription_id).ok_or("an event of nobody")?;
                    let mut checker = self.checkers[index].borrow_mut();
                    let taken = checker.take(event.clone());
                    taken.map_err(|fault| format!("{fault} in {:?}: {event:?}; {:?}", checker.wish, checker.counts))?;
                }
                None => return Err("an empty message".to_owned()),
            }
            if !self.is_calm.get() {
                if self.random.borrow_mut().u32(0..5_000) == 0 {
                    return Ok(());
                }
                if self.is_slow {
                    sleep(Duration::from_millis(1)).await;
                }
            }
        }
        Ok(())
    }
}
