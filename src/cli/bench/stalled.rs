//! Clients that subscribe, stop reading while others are measured, and read again: then they have to hold what is there.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use tokio::time::timeout;

use super::connection::Address;
use crate::change::Key;
use crate::client::{Applied, Client, Query, Row, Source, Status, View};
use crate::proto::server_message::MessageType;

/// Handshakes at a time, and clients that read again at a time.
const AT_A_TIME_MAX: usize = 64;
/// One of so many wants every change, however far it is behind; the others only the newest state of each row.
const ONE_OF_WANTS_ALL: usize = 100;
/// Who hears nothing for so long, heartbeats included, will hear nothing more. To a peer that had no room for minutes, a
/// system looks only once in a minute or two whether there is some again.
const PATIENCE: Duration = Duration::from_secs(240);
const HEARTBEAT_SECONDS: u32 = 5;

/// All of them.
#[derive(Debug)]
pub(super) struct StalledClients {
    clients: Vec<StalledClient>,
}

/// What came of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Outcome {
    pub(super) clients: usize,
    /// Growth of the server's memory by each of them, from before they came until they had read nothing for the whole run.
    pub(super) bytes_each: Option<u64>,
    /// The 99th percentile of the others' latencies, beside that without stalled clients.
    pub(super) p99_ratio: f64,
    /// They hold what is there, after they have read again.
    pub(super) exact: usize,
    /// They were so far behind that they had to begin anew, and were told so.
    pub(super) began_anew: usize,
}

impl StalledClients {
    /// Subscribes `count` clients and lets each come as far as it can.
    pub(super) async fn subscribe(address: &Address, count: usize) -> anyhow::Result<Self> {
        let opening = (0..count).map(|at| StalledClient::subscribe(address, at % ONE_OF_WANTS_ALL != 0));
        let clients = stream::iter(opening).buffer_unordered(AT_A_TIME_MAX).try_collect().await?;
        Ok(Self { clients })
    }

    /// Reads again, each until it holds what a new client is sent: how many do, and how many had to begin anew.
    pub(super) async fn read_again(self, address: &Address) -> anyhow::Result<(usize, usize)> {
        let fresh = StalledClient::subscribe(address, false).await?;
        let rows = &fresh.rows();
        let reading = self.clients.into_iter().map(|client| client.read_again(rows));
        let resets: Vec<usize> = stream::iter(reading).buffer_unordered(AT_A_TIME_MAX).try_collect().await?;
        Ok((resets.len(), resets.into_iter().filter(|resets| *resets > 0).count()))
    }
}

/// A client that checks what it is sent.
#[derive(Debug)]
struct StalledClient {
    client: Client,
    view: View,
    resets: usize,
}

impl StalledClient {
    async fn subscribe(address: &Address, is_coalesced: bool) -> anyhow::Result<Self> {
        let query = Query::new(Source::Policies).heartbeat_seconds(HEARTBEAT_SECONDS);
        let mut view = View::new(if is_coalesced { query.coalesced() } else { query });
        let mut client = Client::connect(address.url()).await?;
        client.send(view.subscribe()).await?;
        let mut this = Self { client, view, resets: 0 };
        while !this.view.is_live() {
            this.read().await?;
        }
        Ok(this)
    }

    async fn read_again(mut self, rows: &BTreeMap<Key, Row>) -> anyhow::Result<usize> {
        loop {
            let is_checked = self.read().await?;
            // Only what the server has confirmed by count and digest is compared; what it is late with is yet to come.
            if !(is_checked && self.view.is_live()) {
                continue;
            }
            if self.rows() == *rows {
                break;
            }
            let is_past = self.view.position() >= rows.values().map(|row| row.version).max();
            ensure!(!is_past, "a client that has read again does not hold what is there");
        }
        self.client.close().await;
        Ok(self.resets)
    }

    /// Takes the next message; says whether the server has confirmed by it what is held.
    async fn read(&mut self) -> anyhow::Result<bool> {
        let received = timeout(PATIENCE, self.client.receive()).await;
        let message = received.map_err(|_| anyhow!("a client that reads again hears nothing"))?;
        match message.context("a client that did not read was let go")? {
            MessageType::Response(response) => {
                ensure!(response.is_success, "the server refused: {}", response.error_message.unwrap_or_default());
                Ok(false)
            }
            MessageType::Event(event) => {
                let applied = self.view.apply(event);
                match applied
                    .map_err(|divergence| anyhow!("what a stalled client was sent is wrong: {divergence:?}"))?
                {
                    Applied::Status(Status::Live | Status::Verified) => Ok(true),
                    Applied::Status(Status::Reset { .. }) => {
                        self.resets += 1;
                        Ok(false)
                    }
                    Applied::Closed(message) => bail!("the server ended a subscription: {message}"),
                    Applied::Nothing | Applied::Row(_) | Applied::Ready(_) | Applied::Status(_) => Ok(false),
                }
            }
        }
    }

    fn rows(&self) -> BTreeMap<Key, Row> {
        self.view.rows().map(|(key, row)| (key.clone(), row.clone())).collect()
    }
}
