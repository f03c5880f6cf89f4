//! A connection with its subscriptions, which says when it is lost.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::{Instant, timeout, timeout_at};

use super::event::{Notice, RowEvent, WatchedTable};
use crate::cli::server_url::ServerUrl;
use crate::client::{Client, ClientError};
use crate::proto::{self, event::Body, request::Command};

/// After this much silence the server is asked whether it is there.
const SILENCE_MAX: Duration = Duration::from_secs(30);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub(super) struct Connection {
    client: Client,
    subscriptions: HashMap<i32, WatchedTable>,
    /// For each subscription that the server closed, when it is made again.
    closed: Vec<(Instant, WatchedTable)>,
    lives: HashMap<WatchedTable, Life>,
    heard: Instant,
}

/// The subscriptions of one table, one after the other.
#[derive(Debug)]
struct Life {
    since: Instant,
    backoff: Backoff,
}

impl Connection {
    pub(super) async fn open(server: &ServerUrl, tables: &[WatchedTable]) -> Result<Self, ClientError> {
        let mut connection = Self {
            client: server.connect().await?,
            subscriptions: HashMap::new(),
            closed: Vec::new(),
            lives: HashMap::new(),
            heard: Instant::now(),
        };
        for table in tables {
            connection.subscribe(*table).await?;
        }
        Ok(connection)
    }

    /// What happens next; `None` when nothing did until `until`, or nothing worth a notice.
    pub(super) async fn next(&mut self, until: Instant) -> Result<Option<Notice>, ClientError> {
        let now = Instant::now();
        if let Some(at) = self.closed.iter().position(|(due, _)| *due <= now) {
            let (_, table) = self.closed.remove(at);
            self.subscribe(table).await?;
            return Ok(Some(Notice::Subscribed(table)));
        }
        let resubscribe = self.closed.iter().map(|(due, _)| *due).min();
        let wake = [resubscribe, Some(self.heard + SILENCE_MAX)].into_iter().flatten().fold(until, Instant::min);
        match timeout_at(wake, self.client.next_event()).await {
            Ok(event) => Ok(self.notice(event?)),
            Err(_) => self.probe().await.map(|()| None),
        }
    }

    /// What has happened already, as far as it is known without waiting. `None` where there is nothing more.
    pub(super) fn ready(&mut self) -> Option<Result<Option<Notice>, ClientError>> {
        let event = self.client.next_event().now_or_never()?;
        Some(event.map(|event| self.notice(event)))
    }

    async fn subscribe(&mut self, table: WatchedTable) -> Result<(), ClientError> {
        match timeout(ANSWER_TIMEOUT, self.client.request(table.subscribe())).await.unwrap_or_else(|_| silent())? {
            Some(proto::response::Body::NewSubscription(new)) => {
                self.heard = Instant::now();
                self.subscriptions.insert(new.subscription_id, table);
                let life = Life { since: self.heard, backoff: Backoff::default() };
                self.lives.entry(table).or_insert(life).since = self.heard;
                Ok(())
            }
            _ => Err(ClientError::Undecodable),
        }
    }

    /// A server that is gone without a word is noticed only by asking it something: here, to end what never was.
    async fn probe(&mut self) -> Result<(), ClientError> {
        if self.heard.elapsed() < SILENCE_MAX {
            return Ok(());
        }
        let nothing = Command::Unsubscribe(proto::RequestUnsubscribe { subscription_id: -1 });
        match timeout(ANSWER_TIMEOUT, self.client.request(nothing)).await.unwrap_or_else(|_| silent()) {
            Ok(_) | Err(ClientError::Refused(_)) => {
                self.heard = Instant::now();
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn notice(&mut self, event: proto::Event) -> Option<Notice> {
        self.heard = Instant::now();
        let table = *self.subscriptions.get(&event.subscription_id)?;
        match event.body? {
            Body::SubscriptionClosed(closed) => {
                self.subscriptions.remove(&event.subscription_id);
                let life = self.lives.get_mut(&table)?;
                let pause = life.backoff.pause_after(life.since.elapsed());
                self.closed.push((self.heard + pause, table));
                let reason = || closed.reason().as_str_name().to_owned();
                Some(Notice::Closed { table, message: closed.message.clone().unwrap_or_else(reason) })
            }
            body => RowEvent::from_body(body).map(Notice::Row),
        }
    }
}

fn silent<T>() -> Result<T, ClientError> {
    Err(ClientError::Closed(format!("it did not answer for {} s", ANSWER_TIMEOUT.as_secs())))
}

/// How long to wait before the next attempt: longer after each one that did not last.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
}

impl Backoff {
    const MIN: Duration = Duration::from_millis(500);
    const MAX: Duration = Duration::from_secs(10);

    /// The pause after something that `lasted` so long.
    pub(super) fn pause_after(&mut self, lasted: Duration) -> Duration {
        if lasted >= Self::MAX {
            self.next = Self::MIN;
        }
        let pause = self.next;
        self.next = (self.next * 2).min(Self::MAX);
        pause
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: Self::MIN }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_until_something_lasts() {
        let mut backoff = Backoff::default();
        let mut pauses = |lasted: &[u64]| -> Vec<u128> {
            lasted.iter().map(|lasted| backoff.pause_after(Duration::from_secs(*lasted)).as_millis()).collect()
        };
        assert_eq!(pauses(&[60, 0, 1, 2, 3, 0, 9]), [500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
        assert_eq!(pauses(&[10, 0]), [500, 1000]);
    }
}
