//! RethinkDB as the source: its tables are mirrored into the store while somebody subscribes to them, and commands run on it.
//!
//! What it gives is weaker than what is promised here: a changefeed cannot be resumed, may drop what it could not send, and ends whenever
//! something happens to its table. So each table has one feed, without a filter, however many subscribe; after any doubt the table
//! is read again, and only what really differs from the copy becomes a change ([`Mirror`]).

mod attached;
mod canary;
mod commands;
mod follow;
mod mirror;
mod range;
mod reads;
pub mod reql;
mod rows;
mod schema;
mod visibility;
mod wake_ups;

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::Value;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use attached::Attached;
use canary::Canary;
use follow::Follow;
pub use mirror::{CopyState, Effect, Gone, Mirror};
use reql::{Address, Connection, ConnectionLimits, Link, LinkOptions, Password, ReqlError};
pub use rows::FeedRow;
pub use schema::SchemaError;
use visibility::Visibility;
use wake_ups::WakeUps;

use super::progress::{self, Origin, Progress};
use super::{Changes, Source, SourceError, Written};
use crate::backoff::{Backoff, Random};
use crate::catalog::{Role, stored_tables};
use crate::change::{Key, Table};
use crate::feed::{Demand, Feeds};
use crate::metrics::Metrics;
use crate::store::{Index, Mutation, Query, QueryResult, Store, StoreError, Unit, WriteHandle};
use crate::task;

/// Bounds of a source.
#[derive(Clone, Copy, Debug)]
pub struct RethinkDbLimits {
    /// How long a connection may take until its handshake is over.
    pub connect_timeout: Duration,
    /// How long one query may take.
    pub query_timeout: Duration,
    /// Nothing heard for so long, the connection is given up, and what is served is in doubt.
    pub silence: Duration,
    /// A changefeed that nobody needs any more is kept for so long.
    pub linger: Duration,
    /// A write that was acknowledged is waited for so long before a subscription of the same client begins without it.
    pub visible_timeout: Duration,
    /// Bytes of rows that are asked for before somebody takes them, for each query.
    pub lookahead_bytes: usize,
    /// Bytes of one answer of the database.
    pub frame_bytes: usize,
    /// Changes that the database keeps for a changefeed that is not read from.
    pub queue_rows: u64,
    /// Bytes of writes that may be on their way to the database; more are refused.
    pub write_bytes: usize,
}

/// Where the database is, and how to get in.
#[derive(Clone, Debug)]
pub struct RethinkDbOptions {
    /// Where it is.
    pub address: Address,
    /// The password of the user.
    pub password: Password,
    /// Whose signature the certificate of the server needs; for an encrypted connection.
    pub ca_file: Option<PathBuf>,
    /// Bounds.
    pub limits: RethinkDbLimits,
}

/// Why the source cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It is configured wrongly.
    #[error("{0}")]
    Options(String),
    /// It is not as it should be.
    #[error("{address}: {error}")]
    Schema {
        /// Where it is.
        address: Box<Address>,
        /// What is wrong.
        error: Box<SchemaError>,
    },
    /// The store holds something else.
    #[error("{0}")]
    Origin(String),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Which tables have subscribers, for those that follow them.
#[derive(Debug)]
pub struct Demands {
    changed: HashMap<Table, Arc<Notify>>,
}

impl Demands {
    /// For all tables that are mirrored.
    pub fn new() -> Arc<Self> {
        let mirrored = stored_tables().filter(|table| table.role == Role::Mirrored);
        Arc::new(Self { changed: mirrored.map(|table| (table.table(), Arc::default())).collect() })
    }
}

impl Demand for Demands {
    fn changed(&self, table: &Table) {
        if let Some(changed) = self.changed.get(table) {
            changed.notify_one();
        }
    }
}

/// What a source works with.
#[derive(Debug)]
pub struct Parts {
    /// Where its rows are mirrored to.
    pub store: Store,
    /// Writes them there.
    pub writer: WriteHandle,
    /// Who has to know of doubts.
    pub feeds: Arc<Feeds>,
    /// Which tables to follow.
    pub demands: Arc<Demands>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The tasks of the source are among these.
    pub tracker: TaskTracker,
    /// Ends them.
    pub shutdown: CancellationToken,
    /// The tasks of its connections, which end when nobody has the source any more.
    pub connections: TaskTracker,
}

/// RethinkDB as the source.
pub struct RethinkDb {
    commands: Arc<Link>,
    visibility: HashMap<Table, Arc<Visibility>>,
    wake_ups: WakeUps,
    limits: RethinkDbLimits,
    metrics: Arc<Metrics>,
    /// Bytes of writes that may still be sent.
    room: Arc<Semaphore>,
}

/// Between two attempts to reach a database that is not there at the start.
const START_PAUSE_MAX: Duration = Duration::from_secs(5);

impl RethinkDb {
    /// Checks the database and begins to follow it.
    ///
    /// A database that cannot be reached is waited for, unless the store has a copy of it that can be served meanwhile.
    pub async fn start(options: RethinkDbOptions, parts: Parts) -> Result<Self, StartError> {
        let RethinkDbOptions { limits, ref address, .. } = options;
        let address = address.clone();
        let link_options = link_options(options)?;
        let link = || Link::new(Arc::clone(&link_options), parts.connections.clone());
        let (commands, feeds_link) = (link(), link());
        let name = format!("rethinkdb/{}", address.database);
        let has_copy = is_copy_of(&name, &parts.store)?;
        let has_canaries = first_check(&commands, &address, has_copy).await?;
        if !has_copy {
            // Only now: a database that cannot be served leaves nothing behind.
            let written = parts.writer.submit(vec![progress::become_copy_of(&name)])?;
            let _ = written.await.unwrap_or(Err(StoreError::Stopped))?;
        }
        let progress = Progress::load(&parts.store)?;
        let attached = Arc::new(Attached::default());
        let mut visibility = HashMap::new();
        for stored in stored_tables().filter(|table| table.role == Role::Mirrored) {
            let table = stored.table();
            let visible = Visibility::new(table.clone(), parts.store.clone());
            visibility.insert(table.clone(), Arc::clone(&visible));
            let follow = Follow {
                stored,
                demand: Arc::clone(&parts.demands.changed[&table]),
                table,
                link: Arc::clone(&feeds_link),
                store: parts.store.clone(),
                writer: parts.writer.clone(),
                feeds: Arc::clone(&parts.feeds),
                visibility: visible,
                attached: Arc::clone(&attached),
                progress: progress.clone(),
                metrics: Arc::clone(&parts.metrics),
                queue_rows: limits.queue_rows,
                linger: limits.linger,
            };
            parts.spawn(follow.run());
        }
        let wake_ups =
            WakeUps::new(Arc::clone(&feeds_link), Arc::clone(&attached), parts.tracker.clone(), parts.shutdown.clone());
        let watch = Watch {
            link: feeds_link,
            attached,
            canary: Canary {
                server: Uuid::new_v4().to_string(),
                silence: limits.silence,
                metrics: Arc::clone(&parts.metrics),
            },
            has_canaries,
            address,
        };
        parts.spawn(watch.run());
        let room = Arc::new(Semaphore::new(limits.write_bytes.min(Semaphore::MAX_PERMITS)));
        Ok(Self { commands, visibility, wake_ups, limits, metrics: parts.metrics, room })
    }
}

impl Parts {
    /// Starts a task of the source, which ends with the server.
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let shutdown = self.shutdown.clone();
        task::spawn(&self.tracker, async move {
            shutdown.run_until_cancelled(work).await;
        });
    }
}

fn link_options(options: RethinkDbOptions) -> Result<Arc<LinkOptions>, StartError> {
    let RethinkDbOptions { address, password, ca_file, limits } = options;
    let tls = match (address.is_tls, ca_file) {
        (true, Some(file)) => Some(reql::tls(&file).map_err(StartError::Options)?),
        (true, None) => {
            let text = "an encrypted source needs source_ca_file: a file with the certificate that signed the one of the database";
            return Err(StartError::Options(text.to_owned()));
        }
        (false, Some(_)) => {
            let text = "source_ca_file is for an encrypted source: its URL begins with rethinkdbs://";
            return Err(StartError::Options(text.to_owned()));
        }
        (false, None) => None,
    };
    let limits = ConnectionLimits {
        connect: limits.connect_timeout,
        query: limits.query_timeout,
        silence: limits.silence,
        lookahead_bytes: limits.lookahead_bytes,
        frame_bytes: limits.frame_bytes,
    };
    Ok(Arc::new(LinkOptions { address, password, tls, limits }))
}

/// Whether `store` is a copy of the source `name` already. It must not be anything else.
fn is_copy_of(name: &str, store: &Store) -> Result<bool, StartError> {
    match progress::origin(store)? {
        Origin::CopyOf(other) if other == name => Ok(true),
        Origin::CopyOf(other) => Err(StartError::Origin(format!(
            "the data directory is a copy of {other}, and not of {name}: choose another one (--data-dir)"
        ))),
        Origin::Own => Err(StartError::Origin(
            "the data directory has rows of its own, which the database would replace: choose another one (--data-dir)"
                .to_owned(),
        )),
        Origin::New => Ok(false),
    }
}

/// Checks the database; waits for one that cannot be reached, unless there is a copy of it. Returns whether it has a table for
/// canaries; where that is not known, it is taken to have one.
async fn first_check(link: &Link, address: &Address, has_copy: bool) -> Result<bool, StartError> {
    let mut backoff = Backoff::up_to(START_PAUSE_MAX);
    let mut random = Random::fresh();
    loop {
        let checked = match link.connection().await {
            Ok(connection) => schema::check(&connection, &address.database).await,
            Err(error) => Err(error.into()),
        };
        match checked {
            Ok(has_canaries) => return Ok(has_canaries),
            Err(SchemaError::Database(error)) if error.is_passing() && has_copy => {
                tracing::warn!(%address, %error, "the database cannot be asked; the copy of it is served until it can");
                return Ok(true);
            }
            Err(SchemaError::Database(error)) if error.is_passing() => {
                tracing::warn!(%address, %error, "the database cannot be asked; waiting for it");
                tokio::time::sleep(backoff.pause_after(Duration::ZERO, &mut random)).await;
            }
            Err(error) => return Err(schema_error(address, error)),
        }
    }
}

/// Makes what the database lacks; tells `progress` of each.
pub async fn init(options: RethinkDbOptions, progress: impl FnMut(&str)) -> Result<(), StartError> {
    let address = options.address.clone();
    let tracker = TaskTracker::new();
    let link = Link::new(link_options(options)?, tracker.clone());
    let made = async {
        let connection = link.connection().await?;
        schema::create(&connection, &address.database, progress).await
    };
    let result = made.await;
    drop(link);
    tracker.close();
    tracker.wait().await;
    result.map_err(|error| schema_error(&address, error))
}

fn schema_error(address: &Address, error: SchemaError) -> StartError {
    StartError::Schema { address: Box::new(address.clone()), error: Box::new(error) }
}

/// Watches whether feeds still bring what happens, while there are some.
struct Watch {
    link: Arc<Link>,
    attached: Arc<Attached>,
    canary: Canary,
    has_canaries: bool,
    address: Address,
}

/// Before a canary is tried on a new connection.
const WATCH_PAUSE: Duration = Duration::from_secs(1);

impl Watch {
    async fn run(self) {
        if !self.has_canaries {
            let table = canary::TABLE;
            tracing::info!(address = %self.address, "there is no table {table} (starfeed init makes it): only the connection is watched");
            return;
        }
        let mut told = None;
        loop {
            self.attached.some().await;
            if let Ok(connection) = self.link.connection().await {
                tokio::select! {
                    biased;
                    () = self.attached.none() => {}
                    () = connection.ended() => {}
                    error = self.canary.watch(&connection) => self.give_up(&connection, error, &mut told),
                }
            }
            tokio::time::sleep(WATCH_PAUSE).await;
        }
    }

    /// Gives the connection up if it may be dead; logs why if that was not the last that was logged.
    fn give_up(&self, connection: &Connection, error: ReqlError, told: &mut Option<ReqlError>) {
        if matches!(error, ReqlError::Refused { .. }) {
            // The table of canaries is gone, or may not be written: nothing is known of the others.
            if told.as_ref() != Some(&error) {
                tracing::warn!(%error, "the canary cannot be sent; only the connection is watched until it can");
            }
        } else {
            tracing::warn!(%error, "a canary did not come back; the connection is given up");
            connection.give_up(&error);
        }
        *told = Some(error);
    }
}

impl Source for RethinkDb {
    fn write(&self, unit: Unit) -> BoxFuture<'static, Written> {
        let bytes = unit.iter().map(Mutation::size).sum::<usize>().min(self.limits.write_bytes.max(1));
        let permit = Arc::clone(&self.room).try_acquire_many_owned(u32::try_from(bytes).unwrap_or(u32::MAX));
        let Ok(permit) = permit else {
            let written = Written { result: Err(StoreError::Overloaded.into()), visible: None };
            return std::future::ready(written).boxed();
        };
        let link = Arc::clone(&self.commands);
        let watches: HashMap<_, _> = unit
            .iter()
            .filter_map(|mutation| {
                let watch = self.visibility.get(&mutation.table)?.watch(&mutation.key);
                Some(((mutation.table.clone(), mutation.key.clone()), watch))
            })
            .collect();
        let patience = self.limits.visible_timeout;
        async move {
            let _permit = permit;
            let written = async { commands::write(&link.connection().await?, &unit).await };
            match written.await {
                Err(error) => Written { result: Err(error), visible: None },
                Ok((result, rows)) => {
                    let visible = until_visible(watches, &unit, rows, patience);
                    Written { result: Ok(result), visible: Some(visible) }
                }
            }
        }
        .boxed()
    }

    fn query(&self, query: Query, bytes_max: usize) -> BoxFuture<'static, Result<QueryResult, SourceError>> {
        let (link, metrics) = (Arc::clone(&self.commands), Arc::clone(&self.metrics));
        async move {
            let connection = link.connection().await?;
            Ok(reads::query(&connection, &query, bytes_max, &metrics.row_problems).await?)
        }
        .boxed()
    }

    fn keeps_order(&self) -> bool {
        false
    }

    fn changes(&self, table: &Table, index: &'static Index, prefix: Vec<Value>) -> Changes {
        self.wake_ups.of(&commands::stored(table), index, &prefix)
    }
}

/// Waits until the store holds each row as the database left it.
fn until_visible(
    mut watches: HashMap<(Table, Key), visibility::Watch>,
    unit: &Unit,
    rows: commands::Results,
    patience: Duration,
) -> BoxFuture<'static, ()> {
    let waits: Vec<_> = unit
        .iter()
        .zip(rows)
        .filter_map(|(mutation, (key, became))| {
            let watch = watches.remove(&(mutation.table.clone(), key))?;
            Some(watch.until(became, patience))
        })
        .collect();
    futures_util::future::join_all(waits).map(drop).boxed()
}

impl fmt::Debug for RethinkDb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RethinkDb({:?})", self.commands)
    }
}
