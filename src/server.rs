//! The server: it puts the parts together, accepts connections, and ends in order.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::catalog;
use crate::change::Epoch;
use crate::clock::Clock;
use crate::config::{self, Config, Limits};
use crate::feed::{FeedFigures, Feeds, SourceState, Waiting};
use crate::host::HostFigures;
use crate::metrics::Metrics;
use crate::session::{SessionContext, Writes};
use crate::source::rethinkdb::{self, Demands, Parts, RethinkDb};
use crate::source::{Embedded, Source, progress::Origin, progress::origin};
use crate::store::{
    Disk, FileDisk, MemoryDisk, Store, StoreError, StoreOptions, StoreSecret, TableIndexes, Writer, WriterStatus,
};
use crate::subscription::SubscriptionManager;
use crate::task;
use crate::transport::http::{self, Asked, HttpLimits, NoRequest, OriginPolicy, Refusal, Status};
use crate::transport::websocket::{self, ConnectionContext};

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It would be open to other machines.
    #[error(
        "{0} is open to other machines, and starfeed has no TLS or authentication of its own: listen on 127.0.0.1, or say --behind-proxy if a proxy in front does both"
    )]
    Unprotected(SocketAddr),
    /// The address is no address.
    #[error("{listen:?} cannot be listened on: {error}")]
    Listen {
        /// What was asked for.
        listen: String,
        /// What the system says.
        error: std::io::Error,
    },
    /// The directory of the store cannot be used.
    #[error("{path:?} cannot be used as the data directory: {error}")]
    DataDir {
        /// Which one.
        path: String,
        /// What the system says.
        error: std::io::Error,
    },
    /// The store cannot be opened.
    #[error("{data_dir}: {error}")]
    Store {
        /// Where it is.
        data_dir: String,
        /// Why.
        error: StoreError,
    },
    /// The store is a copy of a database, and no source was named.
    #[error("{data_dir} is a copy of {source_name}: name the source (--source), or choose another --data-dir")]
    IsCopy {
        /// Where it is.
        data_dir: String,
        /// Of what.
        source_name: String,
    },
    /// The source cannot be used.
    #[error(transparent)]
    Source(#[from] rethinkdb::StartError),
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] config::ConfigError),
}

/// A server that has its store and waits for connections.
#[derive(Debug)]
pub struct Server {
    connection: Arc<ConnectionContext>,
    writer: Writer,
    writer_status: Arc<WriterStatus>,
    tracker: TaskTracker,
    source_connections: TaskTracker,
    http: HttpLimits,
    origins: OriginPolicy,
    connections_max: usize,
    shutdown_timeout: Duration,
}

/// Binds the address of `config`; refuses one that other machines reach, unless a proxy in front protects it.
pub async fn bind(config: &Config) -> Result<TcpListener, StartError> {
    let listen_error = |error| StartError::Listen { listen: config.listen.clone(), error };
    let addresses = tokio::net::lookup_host(&config.listen).await.map_err(listen_error)?;
    let send_buffer_bytes = u32::try_from(config.limits.send_buffer_bytes).unwrap_or(u32::MAX);
    let mut last_error = std::io::Error::new(std::io::ErrorKind::NotFound, "it has no address");
    for address in addresses {
        if !address.ip().is_loopback() && !config.behind_proxy {
            return Err(StartError::Unprotected(address));
        }
        match listen(address, send_buffer_bytes) {
            Ok(listener) => return Ok(listener),
            Err(error) => last_error = error,
        }
    }
    Err(listen_error(last_error))
}

/// As many connections may wait to be accepted: all clients of a server that was restarted come at once.
const BACKLOG: u32 = 4096;

fn listen(address: SocketAddr, send_buffer_bytes: u32) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    // Accepted connections inherit it. Left alone, the system takes megabytes for a client that does not read.
    socket.set_send_buffer_size(send_buffer_bytes)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn open_disk(data_dir: &str) -> Result<Box<dyn Disk>, StartError> {
    if data_dir == ":memory:" {
        return Ok(Box::new(MemoryDisk));
    }
    let data_dir_error = |error| StartError::DataDir { path: data_dir.to_owned(), error };
    std::fs::create_dir_all(data_dir).map_err(data_dir_error)?;
    let disk = FileDisk::new(&Path::new(data_dir).join("store.redb"));
    Ok(Box::new(disk.map_err(|error| store_error(data_dir, error))?))
}

/// The indexes of all tables, as the crawler's database has them.
fn table_indexes() -> Vec<TableIndexes> {
    let of = |table: catalog::StoredTable| TableIndexes { table: table.table(), indexes: table.indexes };
    catalog::stored_tables().map(of).collect()
}

fn open_store(config: &Config, indexes: Vec<TableIndexes>) -> Result<Store, StartError> {
    let options = StoreOptions {
        retention: config.limits.retention(),
        cache_bytes: config::size(config.limits.cache_bytes),
        journal_bytes: config.limits.journal_bytes,
        fresh_epoch: Epoch(Uuid::new_v4().as_u128()),
        fresh_secret: fresh_secret(),
        indexes,
    };
    let disk = open_disk(&config.data_dir)?;
    Store::open(disk, options).map_err(|error| store_error(&config.data_dir, error))
}

fn show_limits(limits: &Limits, metrics: &Metrics) {
    for (key, value) in limits.entries() {
        #[expect(clippy::cast_precision_loss, reason = "a gauge holds no more")]
        metrics.limits.get_or_create(&vec![("key", key.to_owned())]).set(value as f64);
    }
}

fn store_error(data_dir: &str, error: StoreError) -> StartError {
    StartError::Store { data_dir: data_dir.to_owned(), error }
}

/// Without its source, nobody would know that what a copy has is old.
fn refuse_copy(store: &Store, data_dir: &str) -> Result<(), StartError> {
    match origin(store).map_err(|error| store_error(data_dir, error))? {
        Origin::CopyOf(source_name) => Err(StartError::IsCopy { data_dir: data_dir.to_owned(), source_name }),
        Origin::New | Origin::Own => Ok(()),
    }
}

/// Two random ids have 244 random bits, more than anybody can guess.
fn fresh_secret() -> StoreSecret {
    let mut secret = [0; 32];
    secret[..16].copy_from_slice(Uuid::new_v4().as_bytes());
    secret[16..].copy_from_slice(Uuid::new_v4().as_bytes());
    StoreSecret(secret)
}

impl Server {
    /// Opens the store, starts its writer, and begins to follow the source, if there is one.
    pub async fn open(config: &Config) -> Result<Self, StartError> {
        let limits = &config.limits;
        let source = config.source()?;
        let crawler = config.crawler()?.map(Arc::new);
        // Lists of a copy are read from the database, which has its own.
        let indexes = if source.is_some() { Vec::new() } else { table_indexes() };
        let store = open_store(config, indexes)?;
        let metrics = Arc::new(Metrics::default());
        let demands = source.is_some().then(Demands::new);
        let feeds = {
            let (published, limits) = (store.position().seq, limits.feeds(Uuid::new_v4().as_u64_pair().0));
            match &demands {
                None => Feeds::new(published, limits, Arc::clone(&metrics)),
                Some(demands) => Feeds::of_source(published, limits, Arc::clone(&metrics), Arc::clone(demands) as _),
            }
        };
        let clock = Clock;
        let (writer, handle) = Writer::start(store.clone(), clock, limits.writer(), Arc::clone(&feeds));
        let writer_status = handle.status();
        let shutdown = CancellationToken::new();
        let (tracker, source_connections) = (TaskTracker::new(), TaskTracker::new());
        let source: Arc<dyn Source> = match (source, demands) {
            (Some(options), Some(demands)) => {
                let parts = Parts {
                    store: store.clone(),
                    writer: handle,
                    feeds: Arc::clone(&feeds),
                    demands,
                    metrics: Arc::clone(&metrics),
                    tracker: tracker.clone(),
                    shutdown: shutdown.clone(),
                    connections: source_connections.clone(),
                };
                Arc::new(RethinkDb::start(options, parts).await?)
            }
            _ => {
                refuse_copy(&store, &config.data_dir)?;
                Arc::new(Embedded::new(store.clone(), handle, Arc::clone(&feeds)))
            }
        };
        let writes = if source.keeps_order() { Writes::Overlap } else { Writes::OneAtATime };
        show_limits(limits, &metrics);
        Ok(Self {
            connection: Arc::new(ConnectionContext {
                session: SessionContext::new(
                    &store,
                    SubscriptionManager::new(feeds, limits.subscriptions()),
                    metrics,
                    limits.session(),
                    writes,
                    HostFigures::start(&tracker, shutdown.clone(), clock),
                ),
                waiting: Waiting::new(config::size(limits.waiting_bytes)),
                store,
                source,
                clock,
                began: Instant::now(),
                crawler,
                limits: limits.websocket(),
                shutdown,
            }),
            writer,
            writer_status,
            tracker,
            source_connections,
            http: limits.http(),
            origins: config.origin_policy(),
            connections_max: config::size(limits.connections),
            shutdown_timeout: Duration::from_secs(limits.shutdown_seconds),
        })
    }

    /// Serves connections of `listener` until `shutdown`, then ends them, commits what was handed in, and returns.
    pub async fn run(self, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        let tracker = self.tracker;
        task::spawn(&tracker, forget_pages(Arc::clone(&self.connection)));
        let acceptor = Acceptor {
            permits: Arc::new(Semaphore::new(self.connections_max.min(Semaphore::MAX_PERMITS))),
            connection: Arc::clone(&self.connection),
            writer_status: self.writer_status,
            http: self.http,
            origins: Arc::new(self.origins),
        };
        tokio::select! {
            // Whether to stop is asked first: a flood of connections must not keep the server from it.
            biased;
            () = shutdown => {}
            () = acceptor.accept(&listener, &tracker) => {}
        }
        tracing::info!("shutting down");
        drop(listener);
        drop(acceptor);
        self.connection.shutdown.cancel();
        tracker.close();
        let deadline = Instant::now() + self.shutdown_timeout;
        if tokio::time::timeout_at(deadline, tracker.wait()).await.is_err() {
            tracing::warn!(connections = tracker.len(), "some connections did not end in time and are cut");
        }
        // The source is part of it, and its connections end with it: they were needed until the last write was answered.
        drop(self.connection);
        self.source_connections.close();
        if tokio::time::timeout_at(deadline, self.source_connections.wait()).await.is_err() {
            tracing::warn!("the connections to the source did not end in time and are cut");
        }
        let writer = self.writer;
        if tokio::time::timeout_at(deadline, task::blocking(move || writer.join())).await.is_err() {
            tracing::warn!("the disk did not take all writes in time; those that were not answered may be lost");
        }
    }
}

/// How often pages are looked through for those that nobody has used for a while.
const FORGET_PERIOD: Duration = Duration::from_secs(1);

/// Gives back the memory of pages that nobody needs any more, until the server stops: nobody else may come who would.
async fn forget_pages(connection: Arc<ConnectionContext>) {
    let mut ticks = interval(FORGET_PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            // The end comes first. Nothing is lost with a tick.
            biased;
            () = connection.shutdown.cancelled() => return,
            _ = ticks.tick() => {
                let now_ms = u64::try_from(connection.began.elapsed().as_millis()).unwrap_or(u64::MAX);
                connection.session.pages.tick(now_ms);
            }
        }
    }
}

struct Acceptor {
    permits: Arc<Semaphore>,
    connection: Arc<ConnectionContext>,
    writer_status: Arc<WriterStatus>,
    http: HttpLimits,
    origins: Arc<OriginPolicy>,
}

/// How long to wait when the system has no more descriptors: trying again at once would only burn time.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

impl Acceptor {
    async fn accept(&self, listener: &TcpListener, tracker: &TaskTracker) {
        let mut is_failing = false;
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    is_failing = false;
                    self.connection.session.metrics.connections_accepted.inc();
                    let guest = Guest {
                        permit: Arc::clone(&self.permits).try_acquire_owned().ok(),
                        connection: Arc::clone(&self.connection),
                        writer_status: Arc::clone(&self.writer_status),
                        http: self.http,
                        origins: Arc::clone(&self.origins),
                        tracker: tracker.clone(),
                    };
                    task::spawn(tracker, guest.welcome(stream));
                }
                Err(error) => {
                    if !is_failing {
                        tracing::error!(%error, "connections cannot be accepted; trying again until they can");
                        is_failing = true;
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// A connection that has not said yet what it wants.
struct Guest {
    /// `None` when there are as many connections as are allowed.
    permit: Option<OwnedSemaphorePermit>,
    connection: Arc<ConnectionContext>,
    writer_status: Arc<WriterStatus>,
    http: HttpLimits,
    origins: Arc<OriginPolicy>,
    tracker: TaskTracker,
}

/// Whoever is not let in has this long to send a request and read the answer.
const UNWELCOME_TIMEOUT: Duration = Duration::from_secs(1);

impl Guest {
    async fn welcome(self, mut stream: TcpStream) {
        let connections = self.connection.session.metrics.connections.clone();
        connections.inc();
        let shutdown = self.connection.shutdown.clone();
        let mut buffer = BytesMut::new();
        let asked = tokio::select! {
            // A guest that has said nothing yet is not waited for when the server stops.
            biased;
            () = shutdown.cancelled() => Err(NoRequest::Gone),
            asked = self.read_request(&mut stream, &mut buffer) => asked,
        };
        match asked {
            Err(NoRequest::Gone) => {}
            Err(NoRequest::Refused(refusal)) => self.refuse(stream, refusal).await,
            Ok(Asked::Page { path, with_body }) => self.page(stream, &path, with_body).await,
            Ok(Asked::Upgrade { accept }) => return self.upgrade(stream, &accept, buffer).await,
        }
        connections.dec();
    }

    async fn read_request(&self, stream: &mut TcpStream, buffer: &mut BytesMut) -> Result<Asked, NoRequest> {
        if self.permit.is_some() {
            return http::read_request(stream, buffer, &self.http, &self.origins).await;
        }
        let limits = HttpLimits { head_timeout: UNWELCOME_TIMEOUT, ..self.http };
        http::read_request(stream, buffer, &limits, &self.origins).await?;
        let text = "there are as many connections as are allowed; try again later";
        Err(NoRequest::Refused(Refusal { status: Status::Unavailable, text }))
    }

    async fn refuse(&self, mut stream: TcpStream, refusal: Refusal) {
        let body = format!("{}\n", refusal.text);
        self.respond(&mut stream, refusal.status, "text/plain; charset=utf-8", &body, true).await;
        // It may have sent more than what was read to refuse it.
        http::read_out(&mut stream, self.connection.limits.socket.close_timeout).await;
    }

    async fn page(&self, mut stream: TcpStream, path: &str, with_body: bool) {
        match path {
            "/healthz" => {
                let store = self.connection.store.clone();
                let (status, body) = match task::blocking(move || store.snapshot().map(drop)).await {
                    Ok(()) => (Status::Ok, "ok\n".to_owned()),
                    Err(error) => (Status::Unavailable, format!("{error}\n")),
                };
                self.respond(&mut stream, status, "text/plain; charset=utf-8", &body, with_body).await;
            }
            "/metrics" => {
                let body = self.metrics();
                let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                self.respond(&mut stream, Status::Ok, content_type, &body, with_body).await;
            }
            _ => {
                let text = "this is a WebSocket; the pages here are /healthz and /metrics";
                self.refuse(stream, Refusal { status: Status::UpgradeRequired, text }).await;
            }
        }
    }

    async fn respond(&self, stream: &mut TcpStream, status: Status, content_type: &str, body: &str, with_body: bool) {
        let labels = vec![("status", status.line()[..3].to_owned())];
        self.connection.session.metrics.http_responses.get_or_create(&labels).inc();
        // A peer that does not take the answer is let go like one that does.
        let answer = http::respond(stream, status, content_type, body, with_body);
        let _ = tokio::time::timeout(self.http.head_timeout, answer).await;
    }

    async fn upgrade(self, mut stream: TcpStream, accept: &str, already_read: BytesMut) {
        let is_upgraded = stream.set_nodelay(true).is_ok() && http::accept_upgrade(&mut stream, accept).await.is_ok();
        let Self { permit, connection, tracker, .. } = self;
        // A task of its own: what a handshake needs is not kept for as long as the connection stays.
        task::spawn(&tracker, async move {
            let connections = connection.session.metrics.connections.clone();
            if is_upgraded {
                let already_read = if already_read.is_empty() { Vec::new() } else { already_read.into() };
                websocket::serve(stream, already_read, connection).await;
            }
            connections.dec();
            drop(permit);
        });
    }

    fn metrics(&self) -> String {
        let ConnectionContext { session, store, waiting, .. } = self.connection.as_ref();
        let metrics = &session.metrics;
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let counted =
            |value: &std::sync::atomic::AtomicUsize| gauge(value.load(std::sync::atomic::Ordering::Relaxed) as u64);
        metrics.subscriptions.set(gauge(session.subscriptions.count() as u64));
        metrics.live_subscriptions.clear();
        metrics.filters.clear();
        metrics.source_level.clear();
        for FeedFigures { table, live, filters, source, .. } in session.subscriptions.feeds().figures() {
            let labels = vec![("table", table.name().to_owned())];
            metrics.live_subscriptions.get_or_create(&labels).set(gauge(live as u64));
            metrics.filters.get_or_create(&labels).set(gauge(filters as u64));
            if let Some(source) = source {
                metrics.source_level.get_or_create(&labels).set(i64::from(source == SourceState::Level));
            }
        }
        metrics.waiting_bytes.set(gauge(waiting.bytes() as u64));
        metrics.shared_bytes.set(gauge(session.pages.bytes() as u64));
        metrics.store_position.set(gauge(store.position().seq.0));
        metrics.store_log_bytes.set(gauge(store.log_bytes()));
        metrics.store_journal_bytes.set(gauge(store.journal_bytes()));
        let status = &self.writer_status;
        metrics.store_changes.set(counted(&status.changes));
        metrics.store_commits.set(counted(&status.commits));
        metrics.store_failures.set(counted(&status.failures));
        metrics.store_queued_bytes.set(counted(&status.queued_bytes));
        metrics.to_text()
    }
}
