//! Views kept up to date over a connection that is made again whenever it is lost.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::ops::Index;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::{Applied, Client, ClientError, Counters, Divergence, Query, RowChange, Status, SubscriberBuilder, View};
use crate::backoff::{Backoff, Random};
use crate::proto::{self, request::Command, response, server_message::MessageType};

/// What begins the text of a refusal of a token that the server did not make.
const INVALID_TOKEN: &str = "invalid_token";
/// What may have arrived but was not looked at yet is looked at for so long before silence counts as silence.
const GRACE: Duration = Duration::from_secs(2);
/// Heartbeats begin with the answer to a subscription, which has to wait for requests before it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// A server that is back is found again so soon, at the latest.
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// To wake up once more costs nothing.
const LONG: Duration = Duration::from_secs(3600);

/// Subscriptions to a server that check what they are sent, and repair themselves.
///
/// It holds one entry per row, and reads nothing ahead: who does not ask for the next update makes the server wait.
#[derive(Debug)]
pub struct Subscriber {
    url: String,
    link: Link,
    subscriptions: Vec<Subscription>,
    /// What one message from the server came down to.
    updates: VecDeque<Update>,
    counters: Counters,
    backoff: Backoff,
    random: Random,
}

/// Which of the subscriptions of a subscriber, counted from 0 in the order in which they were asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionIndex(pub usize);

/// Something that happened.
#[derive(Debug)]
pub enum Update {
    /// A row of the subscription changed.
    Row(SubscriptionIndex, RowChange),
    /// The subscription stands differently.
    Status(SubscriptionIndex, Status),
    /// What the subscription brought cannot be right; it is made again.
    Diverged(SubscriptionIndex, Divergence),
    /// The server ended the subscription; it is made again.
    Closed {
        /// Which.
        subscription: SubscriptionIndex,
        /// Why.
        message: String,
        /// When it is made again.
        retry_in: Duration,
    },
    /// There is no connection, or still none.
    Disconnected {
        /// Why.
        error: ClientError,
        /// When the next attempt is made.
        retry_in: Duration,
    },
    /// There is a connection again; the subscriptions go on.
    Reconnected,
}

impl Subscriber {
    /// A subscriber to the server at `url`, for example `ws://127.0.0.1:8000/ws/`.
    pub fn builder(url: &str) -> SubscriberBuilder {
        SubscriberBuilder::new(url)
    }

    pub(super) fn new(url: String, queries: Vec<Query>, random: Random, client: Client) -> Self {
        let mut subscriber = Self {
            url,
            link: Link::up(client),
            subscriptions: queries.into_iter().map(Subscription::new).collect(),
            updates: VecDeque::new(),
            counters: Counters::default(),
            backoff: Backoff::up_to(BACKOFF_MAX),
            random,
        };
        subscriber.subscribe_due();
        subscriber
    }

    /// What happens next. Cancel-safe. It waits for as long as nothing happens, over lost connections too.
    ///
    /// Errors are for what no repetition helps: a subscription that the server refuses from the start.
    pub async fn next(&mut self) -> Result<Update, ClientError> {
        loop {
            if let Some(update) = self.updates.pop_front() {
                return Ok(update);
            }
            match &mut self.link {
                Link::Down { until } => {
                    sleep_until(*until).await;
                    self.link = Link::connecting(&self.url);
                }
                Link::Connecting(attempt) => match attempt.await {
                    Ok(client) => {
                        self.counters.reconnects += 1;
                        self.link = Link::up(client);
                        self.updates.push_back(Update::Reconnected);
                        self.subscribe_due();
                    }
                    Err(error) => self.lose(error, Duration::ZERO),
                },
                Link::Up(connection) => match connection.client.receive().now_or_never() {
                    Some(received) => self.take_received(received)?,
                    None => self.wait().await?,
                },
            }
        }
    }

    /// What subscription `index` holds.
    ///
    /// # Panics
    ///
    /// Panics when there is no such subscription.
    pub fn view(&self, index: SubscriptionIndex) -> &View {
        &self.subscriptions.index(index.0).view
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Waits for a message, or until a subscription is due or silent.
    async fn wait(&mut self) -> Result<(), ClientError> {
        self.subscribe_due();
        let now = Instant::now();
        let retry_at = self.subscriptions.iter().filter_map(Subscription::retry_at).min();
        let silent_at = self.subscriptions.iter().filter_map(Subscription::silent_at).min();
        let wake = [retry_at, silent_at].into_iter().flatten().min().unwrap_or(now + LONG);
        let Link::Up(connection) = &mut self.link else { return Ok(()) };
        let mut received = timeout_at(wake, connection.client.receive()).await.ok();
        if received.is_none() && silent_at.is_some_and(|silent_at| silent_at <= Instant::now()) {
            received = timeout(GRACE, connection.client.receive()).await.ok();
            if received.is_none() {
                self.counters.silences += 1;
                let error = ClientError::Closed("it is silent, though a heartbeat was due".to_owned());
                self.lose_connection(error);
            }
        }
        received.map_or(Ok(()), |received| self.take_received(received))
    }

    fn take_received(&mut self, received: Result<MessageType, ClientError>) -> Result<(), ClientError> {
        match received {
            Ok(MessageType::Event(event)) => self.take_event(event),
            Ok(MessageType::Response(response)) => self.take_response(response),
            Err(error) => {
                self.lose_connection(error);
                Ok(())
            }
        }
    }

    fn take_event(&mut self, event: proto::Event) -> Result<(), ClientError> {
        let Link::Up(connection) = &mut self.link else { return Ok(()) };
        let id = event.subscription_id;
        // Some may still come of a subscription that was given up.
        let Some(&index) = connection.open.get(&id) else { return Ok(()) };
        let subscription = &mut self.subscriptions[index.0];
        subscription.heard = Instant::now();
        match subscription.view.apply(event) {
            Ok(applied) => {
                subscription.was_numbered = true;
                self.take_applied(id, index, applied);
            }
            Err(Divergence::Unnumbered) if !subscription.was_numbered => {
                connection.open.remove(&id);
                subscription.standing = Standing::Refused;
                return Err(ClientError::TooOld);
            }
            Err(divergence) => self.repair(id, index, divergence),
        }
        Ok(())
    }

    fn take_applied(&mut self, id: i32, index: SubscriptionIndex, applied: Applied) {
        match applied {
            Applied::Nothing => {}
            Applied::Row(change) => self.updates.push_back(Update::Row(index, change)),
            Applied::Status(status) => {
                self.counters.resets += u64::from(matches!(status, Status::Reset { .. }));
                self.updates.push_back(Update::Status(index, status));
            }
            Applied::Ready(gone) => {
                self.updates.extend(gone.into_iter().map(|change| Update::Row(index, change)));
                self.updates.push_back(Update::Status(index, Status::Ready));
            }
            Applied::Closed(message) => {
                if let Link::Up(connection) = &mut self.link {
                    connection.open.remove(&id);
                }
                self.pause(index, message);
            }
        }
    }

    fn repair(&mut self, id: i32, index: SubscriptionIndex, divergence: Divergence) {
        let Link::Up(connection) = &mut self.link else { return };
        self.counters.count(&divergence);
        connection.open.remove(&id);
        let unsubscribe = Command::Unsubscribe(proto::RequestUnsubscribe { subscription_id: id });
        let unsubscribed = connection.client.queue(unsubscribe);
        let subscription = &mut self.subscriptions[index.0];
        // A repair that might not help is not repeated without a pause.
        let is_at_once = subscription.view.has_progressed() && !divergence.is_of_rows_held();
        let pause = if is_at_once { Duration::ZERO } else { subscription.next_pause(&mut self.random) };
        subscription.standing = Standing::Pausing { until: Instant::now() + pause };
        self.updates.push_back(Update::Diverged(index, divergence));
        match unsubscribed {
            Ok(_) => self.subscribe_due(),
            Err(error) => self.lose_connection(error),
        }
    }

    fn take_response(&mut self, response: proto::Response) -> Result<(), ClientError> {
        let Link::Up(connection) = &mut self.link else { return Ok(()) };
        // Nothing hangs on the answers to other requests.
        let Some(index) = connection.asked.remove(&response.request_id) else { return Ok(()) };
        let subscription = &mut self.subscriptions[index.0];
        subscription.heard = Instant::now();
        match response.body {
            Some(response::Body::NewSubscription(new)) if response.is_success => {
                connection.open.insert(new.subscription_id, index);
                subscription.standing = Standing::Open;
                subscription.was_accepted = true;
                return Ok(());
            }
            _ => {}
        }
        let text = response.error_message.unwrap_or_default();
        if text.starts_with(INVALID_TOKEN) && subscription.view.has_token() {
            self.counters.tokens_refused += 1;
            subscription.view.forget_token();
            subscription.standing = Standing::Pausing { until: subscription.heard };
            self.subscribe_due();
        } else if subscription.was_accepted {
            self.pause(index, text);
        } else {
            subscription.standing = Standing::Refused;
            return Err(ClientError::Refused(text));
        }
        Ok(())
    }

    fn pause(&mut self, index: SubscriptionIndex, message: String) {
        self.counters.closed += 1;
        let subscription = &mut self.subscriptions[index.0];
        let retry_in = subscription.next_pause(&mut self.random);
        subscription.standing = Standing::Pausing { until: Instant::now() + retry_in };
        self.updates.push_back(Update::Closed { subscription: index, message, retry_in });
    }

    /// Asks for every subscription whose pause is over.
    fn subscribe_due(&mut self) {
        let Link::Up(connection) = &mut self.link else { return };
        let now = Instant::now();
        for (index, subscription) in self.subscriptions.iter_mut().enumerate() {
            if subscription.retry_at().is_none_or(|retry_at| retry_at > now) {
                continue;
            }
            let request = subscription.view.subscribe();
            let counter =
                if subscription.view.has_token() { &mut self.counters.resumes } else { &mut self.counters.fresh };
            *counter += 1;
            subscription.heard = now;
            subscription.since = now;
            subscription.standing = Standing::Asked;
            match connection.client.queue(request) {
                Ok(request_id) => connection.asked.insert(request_id, SubscriptionIndex(index)),
                Err(error) => return self.lose_connection(error),
            };
        }
    }

    fn lose_connection(&mut self, error: ClientError) {
        let lasted = match &self.link {
            Link::Up(connection) => connection.since.elapsed(),
            Link::Connecting(_) | Link::Down { .. } => Duration::ZERO,
        };
        self.lose(error, lasted);
    }

    fn lose(&mut self, error: ClientError, lasted: Duration) {
        let retry_in = self.backoff.pause_after(lasted, &mut self.random);
        let until = Instant::now() + retry_in;
        self.link = Link::Down { until };
        for subscription in self.subscriptions.iter_mut().filter(|it| it.standing != Standing::Refused) {
            subscription.standing = Standing::Pausing { until };
        }
        self.updates.push_back(Update::Disconnected { error, retry_in });
    }
}

/// One of the subscriptions, over all connections.
#[derive(Debug)]
struct Subscription {
    view: View,
    standing: Standing,
    /// When the server last said anything about it, or was asked for it.
    heard: Instant,
    /// When the server was last asked for it.
    since: Instant,
    backoff: Backoff,
    /// The server has made it before: it will again.
    was_accepted: bool,
    was_numbered: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Pausing {
        until: Instant,
    },
    Asked,
    Open,
    /// It never was, and will not be asked for again.
    Refused,
}

impl Subscription {
    fn new(query: Query) -> Self {
        let now = Instant::now();
        Self {
            view: View::new(query),
            standing: Standing::Pausing { until: now },
            heard: now,
            since: now,
            backoff: Backoff::up_to(BACKOFF_MAX),
            was_accepted: false,
            was_numbered: false,
        }
    }

    fn next_pause(&mut self, random: &mut Random) -> Duration {
        self.backoff.pause_after(self.since.elapsed(), random)
    }

    fn retry_at(&self) -> Option<Instant> {
        match self.standing {
            Standing::Pausing { until } => Some(until),
            Standing::Asked | Standing::Open | Standing::Refused => None,
        }
    }

    /// When its silence says that the connection is dead: two heartbeats and a half.
    fn silent_at(&self) -> Option<Instant> {
        let silence_max = self.view.query().heartbeat() * 5 / 2;
        match self.standing {
            Standing::Open => Some(self.heard + silence_max),
            Standing::Asked => Some(self.heard + silence_max.max(ANSWER_TIMEOUT)),
            Standing::Pausing { .. } | Standing::Refused => None,
        }
    }
}

enum Link {
    Up(Box<Connection>),
    /// It is kept here, so that whoever waits for the next update may stop waiting meanwhile.
    Connecting(BoxFuture<'static, Result<Client, ClientError>>),
    Down {
        until: Instant,
    },
}

impl Link {
    fn up(client: Client) -> Self {
        let (asked, open) = (HashMap::new(), HashMap::new());
        Self::Up(Box::new(Connection { client, since: Instant::now(), asked, open }))
    }

    fn connecting(url: &str) -> Self {
        let url = url.to_owned();
        Self::Connecting(async move { Client::connect(&url).await }.boxed())
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Up(_) => "Up",
            Self::Connecting(_) => "Connecting",
            Self::Down { .. } => "Down",
        })
    }
}

/// What ends with one connection.
struct Connection {
    client: Client,
    since: Instant,
    /// By the number of the request.
    asked: HashMap<i32, SubscriptionIndex>,
    /// By the number that the server gave it.
    open: HashMap<i32, SubscriptionIndex>,
}
