//! `starfeed watch`.

mod event;
mod live;
mod screen;
mod view;

use std::convert::Infallible;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use futures_util::FutureExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, timeout_at};

use event::{Notice, RowEvent, WatchedTable, json_line};
use live::LiveScreen;
use view::View;

use super::server_url::ServerUrl;
use super::text::printable;
use crate::client::{ClientError, Query, Status, Subscriber, SubscriberBuilder, SubscriptionIndex, Update};

/// Watch tables live
///
/// Subscribes to the tables and shows their rows and every change: green is added, yellow updated, red deleted. Rows that
/// just changed come first where the screen is too small for all. Ctrl-C ends it.
///
/// With --json, or when standard output is no terminal, each change is one line of JSON instead. The rows that are there
/// at the start come as ADDED.
///
/// What comes is checked: each event has a number, and every ten seconds the server says how many rows there are, and
/// which. A lost connection is made again after at most 10 seconds, and what happened meanwhile follows: no row is shown
/// twice, none is missed.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  starfeed watch                            all tables, on the screen
  starfeed watch job                        jobs: their states and counts
  starfeed watch policy schedule --for 60   two of them, for a minute
  starfeed watch policy --json --count 10   the first ten events as JSON
  starfeed watch schedule --filter enabled  only rows for which this holds
  starfeed watch | jq -r 'select(.type == \"DELETED\") | .name'

Lines of JSON:
  {\"table\":\"policy\",\"type\":\"ADDED\",\"key\":\"f3ebf024-…\",\"name\":\"Broad crawl\"}
    `type` is ADDED, UPDATED or DELETED. `key` is the id of the row, the token
    of a rate limit in hexadecimal digits, or the domain of a domain login,
    whose `name` is null. With --documents there is a `document`: the row,
    without secrets; for DELETED as it was before.
  {\"type\":\"DISCONNECTED\",\"message\":\"…\"}
  {\"type\":\"RECONNECTED\"}
    The connection was lost, and is there again: the changes of the time
    between follow, deletions too. Keep what you have.
  {\"table\":\"policy\",\"type\":\"STALE\",\"message\":\"…\"}
  {\"table\":\"policy\",\"type\":\"LIVE\"}
    What you have of the table may be old, and no longer is.")]
pub(super) struct WatchArgs {
    /// The tables to watch [default: all of them]
    #[arg(value_name = "TABLE")]
    tables: Vec<WatchedTable>,
    /// Write each event as one line of JSON, also to a terminal
    #[arg(long)]
    json: bool,
    /// End after so many seconds, for example `60` or `0.5`
    #[arg(long = "for", value_name = "SECONDS", value_parser = seconds)]
    duration: Option<Duration>,
    /// End after so many events of rows (ADDED, UPDATED, DELETED), initial rows included
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Only rows for which this holds; a row that begins to match is ADDED, one that ceases to is DELETED
    #[arg(long, value_name = "EXPR")]
    filter: Option<String>,
    /// Put the rows into the lines of JSON, as `document`
    #[arg(long)]
    documents: bool,
    #[command(flatten)]
    server: ServerUrl,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().map_err(|_| "it is no number".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

impl WatchArgs {
    fn tables(&self) -> Vec<WatchedTable> {
        let is_wanted = |table: &WatchedTable| self.tables.is_empty() || self.tables.contains(table);
        WatchedTable::ALL.into_iter().filter(is_wanted).collect()
    }

    fn queries(&self, tables: &[WatchedTable]) -> Vec<Query> {
        let filtered = |query: Query| match &self.filter {
            Some(filter) => query.filter(filter),
            None => query,
        };
        tables.iter().map(|table| filtered(table.query(self.documents))).collect()
    }
}

pub(super) async fn run(args: WatchArgs) -> anyhow::Result<()> {
    let started = Instant::now();
    let tables = args.tables();
    let is_live = !args.json && std::io::stdout().is_terminal();
    let output = if is_live {
        Output::Live(LiveScreen::new(View::new(printable(&args.server.get()), &tables)))
    } else {
        Output::Json(String::new())
    };
    let mut watch = Watch {
        queries: args.queries(&tables),
        server: args.server,
        tables: tables.into_iter().map(|table| (table, false)).collect(),
        with_documents: args.documents,
        is_connected: true,
        output,
        deadline: args.duration.and_then(|duration| started.checked_add(duration)),
        events_left: args.count,
    };
    if !is_live {
        // The signals keep their default effect: they end it even while nobody reads its output.
        return watch.run().await.into_result();
    }
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be listened for")?;
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be listened for")?;
    tokio::select! {
        // A signal is looked for first: a flood of events must not keep a user in.
        biased;
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
        stop = watch.run() => stop.into_result(),
    }
}

/// Why a watch ends.
#[derive(Debug)]
enum Stop {
    /// It has shown what it was to show, or nobody looks any more.
    Done,
    Failed(anyhow::Error),
}

impl Stop {
    fn into_result(self) -> anyhow::Result<()> {
        match self {
            Self::Done => Ok(()),
            Self::Failed(error) => Err(error),
        }
    }
}

impl From<std::io::Error> for Stop {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::Done,
            _ => Self::Failed(anyhow::Error::new(error).context("the events cannot be written")),
        }
    }
}

/// After as many events that came at once, they are written.
const BATCH_EVENTS_MAX: usize = 1000;
const BATCH_BYTES_MAX: usize = 64 * 1024;
/// To wake up once more costs nothing.
const LONG: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Watch {
    server: ServerUrl,
    queries: Vec<Query>,
    /// In the order of the subscriptions, each with whether it was said to be stale.
    tables: Vec<(WatchedTable, bool)>,
    with_documents: bool,
    is_connected: bool,
    output: Output,
    deadline: Option<Instant>,
    events_left: Option<u64>,
}

impl Watch {
    async fn run(&mut self) -> Stop {
        let mut subscriber = match self.connect().await {
            Ok(subscriber) => subscriber,
            Err(error) => return Stop::Failed(error.into()),
        };
        let Err(stop) = self.follow(&mut subscriber).await;
        stop
    }

    async fn connect(&mut self) -> Result<Subscriber, ClientError> {
        let builder = Subscriber::builder(&self.server.get());
        let builder = std::mem::take(&mut self.queries).into_iter().fold(builder, SubscriberBuilder::subscribe);
        let Some(deadline) = self.deadline else { return builder.connect().await };
        timeout_at(deadline, builder.connect()).await.unwrap_or_else(|_| {
            let error = std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer within the time of --for");
            Err(ClientError::Connect { address: self.server.get(), error })
        })
    }

    /// Shows what comes until something ends it.
    async fn follow(&mut self, subscriber: &mut Subscriber) -> Result<Infallible, Stop> {
        self.show(&Notice::Connected { is_again: false })?;
        loop {
            let mut next = timeout_at(self.wake(), subscriber.next()).await.ok();
            let mut updates = 0;
            while let Some(update) = next {
                let update = update.map_err(|error| Stop::Failed(error.into()))?;
                if let Some(notice) = self.notice(update) {
                    self.show(&notice)?;
                }
                updates += 1;
                next = if updates < BATCH_EVENTS_MAX { subscriber.next().now_or_never() } else { None };
            }
            self.flush()?;
        }
    }

    /// What `update` is to people and programs, if anything.
    fn notice(&mut self, update: Update) -> Option<Notice> {
        match update {
            Update::Row(SubscriptionIndex(at), change) => {
                let mut event = RowEvent::new(self.tables[at].0, change);
                // Jobs come with theirs, whether it was asked for or not.
                event.document = event.document.filter(|_| self.with_documents);
                Some(Notice::Row(event))
            }
            Update::Status(index, Status::Live) => self.standing(index, None),
            Update::Status(_, Status::Initializing | Status::Ready | Status::Verified) => None,
            Update::Status(index, Status::Stale(message)) => self.standing(index, Some(message)),
            Update::Status(index, Status::Reset { message, .. }) => {
                self.standing(index, Some(format!("the rows come anew: {message}")))
            }
            Update::Diverged(index, divergence) => {
                self.standing(index, Some(format!("{divergence}; subscribing again")))
            }
            Update::Closed { subscription, message, .. } => {
                self.standing(subscription, Some(format!("closed by the server: {message}; subscribing again")))
            }
            Update::Disconnected { error, retry_in } => {
                let is_still = !std::mem::replace(&mut self.is_connected, false);
                Some(Notice::Lost { error: error.to_string(), retry_in, is_still })
            }
            Update::Reconnected => {
                self.is_connected = true;
                Some(Notice::Connected { is_again: true })
            }
        }
    }

    fn standing(&mut self, index: SubscriptionIndex, why: Option<String>) -> Option<Notice> {
        let (table, is_stale) = &mut self.tables[index.0];
        let was_stale = std::mem::replace(is_stale, why.is_some());
        (was_stale || *is_stale).then_some(Notice::Stale { table: *table, why })
    }

    fn show(&mut self, notice: &Notice) -> Result<(), Stop> {
        self.output.show(notice, Instant::now())?;
        if let (Notice::Row(_), Some(left)) = (notice, &mut self.events_left) {
            *left -= 1;
            if *left == 0 {
                self.output.flush(Instant::now())?;
                return Err(Stop::Done);
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Stop> {
        let now = Instant::now();
        self.output.flush(now)?;
        if self.deadline.is_some_and(|deadline| deadline <= now) { Err(Stop::Done) } else { Ok(()) }
    }

    fn wake(&self) -> Instant {
        let wake = [self.output.due(), self.deadline].into_iter().flatten().min();
        wake.unwrap_or_else(|| Instant::now() + LONG)
    }
}

/// Where events go.
#[derive(Debug)]
enum Output {
    Live(LiveScreen),
    /// Lines that are not written yet.
    Json(String),
}

impl Output {
    fn show(&mut self, notice: &Notice, now: Instant) -> std::io::Result<()> {
        let lines = match self {
            Self::Live(screen) => {
                screen.apply(notice, now);
                return Ok(());
            }
            Self::Json(lines) => lines,
        };
        match notice {
            Notice::Lost { error, retry_in, .. } => {
                eprintln!("starfeed: {}; trying again in {:.1} s", printable(error), retry_in.as_secs_f32());
            }
            Notice::Connected { is_again: true } => eprintln!("starfeed: connected again"),
            Notice::Connected { is_again: false } | Notice::Row(_) | Notice::Stale { .. } => {}
        }
        lines.extend(json_line(notice));
        if lines.len() < BATCH_BYTES_MAX { Ok(()) } else { self.flush(now) }
    }

    /// When it wants to be flushed, whatever happens.
    fn due(&self) -> Option<Instant> {
        match self {
            Self::Live(screen) => Some(screen.due()),
            Self::Json(_) => None,
        }
    }

    fn flush(&mut self, now: Instant) -> std::io::Result<()> {
        match self {
            Self::Live(screen) => screen.draw(now),
            Self::Json(lines) if lines.is_empty() => Ok(()),
            Self::Json(lines) => {
                let mut stdout = std::io::stdout().lock();
                stdout.write_all(lines.as_bytes())?;
                lines.clear();
                stdout.flush()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        args: WatchArgs,
    }

    fn parse(args: &[&str]) -> Result<WatchArgs, String> {
        let args = std::iter::once("watch").chain(args.iter().copied());
        Command::try_parse_from(args).map(|command| command.args).map_err(|error| error.to_string())
    }

    #[test]
    fn tables_are_named_or_all() {
        let tables = |args: &[&str]| parse(args).expect("known tables").tables();
        assert_eq!(tables(&[]), WatchedTable::ALL);
        let expected = [WatchedTable::Policy, WatchedTable::DomainLogin];
        assert_eq!(tables(&["domain_login", "policy", "policy"]), expected);
        let error = parse(&["policies"]).expect_err("no such table");
        assert!(
            error.contains("[possible values: job, policy, schedule, domain_login, captcha_solver, rate_limit]"),
            "{error}"
        );
    }

    #[test]
    fn it_ends_after_what_can_be_counted() {
        let args = parse(&["--for", "0.5", "--count", "3"]).expect("valid");
        assert_eq!((args.duration, args.count), (Some(Duration::from_millis(500)), Some(3)));
        for args in [["--for", "-1"], ["--for", "soon"], ["--for", "NaN"], ["--count", "0"]] {
            assert!(parse(&args).is_err(), "{args:?}");
        }
    }
}
