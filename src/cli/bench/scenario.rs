//! What can be measured, and how what came of it is told.

use anyhow::Context;
use clap::ValueEnum;

use super::fan_out::Plan;
use super::idle::{self, Rested};
use super::pace::Pace;
use super::reading::{self, Joined};
use super::report::{Figure, Report};
use super::sequence::Faults;
use super::subject::Subject;
use super::writes::{self, Written};
use super::{BenchArgs, filtered};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Scenario {
    /// Each change of a row goes to all who subscribe to its table
    FanOut,
    /// The same once more while 1 % of the clients a second subscribe anew, stop reading for a second, or reconnect with a token
    Churn,
    /// `--filters` subscriptions with filters over `--subscribers` connections, each change for ten of them
    Filtered,
    /// What connections and subscriptions cost in memory while nothing happens
    Idle,
    /// All clients subscribe at once to a table of `--rows` rows, beside one client alone
    Join,
    /// One client reads `--rows` rows, beside the bare peer that sends as many ready frames
    Snapshot,
    /// `--writers` clients write a row each, `--in-flight` at a time, and nobody subscribes
    Writes,
}

/// How often one client reads alone, so that the time it takes can be told.
const ALONE: usize = 10;

const OF_EVENTS: &str = "\
A change is in flight until it is acknowledged and every subscriber has read it; at a fixed rate it does not wait.
Latency: from sending the request for a change (at a fixed rate: from when it was due) until a subscriber has read its
event, over all subscribers. The load generator's own delays are in it.
CPU: user and system time, 100% is one core; generator is this process. µs CPU is the server's time per message delivered.
lost: changes that a subscriber never got, warm-up included; also none may come twice or out of order.
KB/sub: growth of the server's resident memory by the subscribers, for each of them.
";

const OF_MEMORY: &str = "\
Growth of the server's resident memory: by a connection, by one that also subscribes to a list, by each further
subscription, which has a filter of its own; and by as many again whose filters others have too, behind some of their kind.
";

const OF_READING: &str = "\
READY: a client was told that it has every row, and its own count agrees; no row came twice or out of order.
separate reads : this is the server's CPU time for one client alone, times the clients, by what they took together.
Pages are those of first rows: read from the store, and shared with others who read; - where the server does not count them.
";

const OF_WRITES: &str = "\
Each writer has a connection and a row of its own, and waits for acknowledgements when so many writes are in flight.
With the store on disk a write is acknowledged when it is durable. Latency: from sending it until that is read.
";

impl Scenario {
    /// Who takes part.
    pub(super) fn who(self, args: &BenchArgs) -> String {
        match self {
            Self::FanOut | Self::Churn => format!("{} subscribers", args.subscribers),
            Self::Filtered | Self::Idle => {
                format!("{} subscriptions with filters over {} connections", args.filters, args.subscribers)
            }
            Self::Join => format!("{} clients", args.subscribers),
            Self::Snapshot => "one client".to_owned(),
            Self::Writes => format!("{} writers", args.writers),
        }
    }

    /// What the rows mean.
    pub(super) fn footnote(self) -> &'static str {
        match self {
            Self::FanOut | Self::Churn | Self::Filtered => OF_EVENTS,
            Self::Idle => OF_MEMORY,
            Self::Join | Self::Snapshot => OF_READING,
            Self::Writes => OF_WRITES,
        }
    }

    /// What a server needs to be allowed for it, beyond its connections.
    pub(super) fn settings(self, args: &BenchArgs) -> Vec<String> {
        let mut settings = Vec::new();
        let mut set = |key: &str, value: u64| settings.push(format!("{key}={value}"));
        match self {
            Self::Filtered | Self::Idle => {
                let rounds = if self == Self::Idle { 3 } else { 1 };
                let filtered = u64::from(args.filters) * rounds;
                set("subscriptions_per_connection", (filtered.div_ceil(u64::from(args.subscribers)) + 8).max(128));
                set("subscriptions", (filtered + u64::from(args.subscribers) + 100).max(1_000_000));
                // An open loop does not wait for the server: requests queue here, not in the generator.
                set("requests_in_flight", 65_536);
                set("request_bytes", 64 << 20);
            }
            Self::Writes => {
                let deepest = args.in_flight.iter().copied().max().unwrap_or(1);
                set("requests_in_flight", u64::from(deepest).max(128));
            }
            Self::FanOut | Self::Churn | Self::Join | Self::Snapshot => {}
        }
        settings
    }

    /// Measures `subject`, and `bare` beside it where there is one, and tells what came of it.
    pub(super) async fn run(
        self,
        args: &BenchArgs,
        plan: &Plan,
        subject: &Subject,
        bare: Option<&Subject>,
        report: &mut Report,
        faults: &mut Faults,
    ) -> anyhow::Result<()> {
        match self {
            Self::FanOut | Self::Churn => Ok(()),
            Self::Filtered => {
                let paces: Vec<Pace> = args.paces();
                filtered::run(subject, plan, args.filters as usize, &paces, |run| {
                    faults.add(run.faults);
                    Ok(report.row(subject.peer, subject.store, &run)?)
                })
                .await
            }
            Self::Idle => {
                let rested = idle::run(subject, plan, args.filters as usize).await?;
                Ok(report.figures("idle", &of_rested(subject, &rested))?)
            }
            Self::Join => {
                reading::fill(subject.address.url(), args.rows as usize, plan.payload_bytes).await?;
                let mut alone = Vec::new();
                for _ in 0..ALONE {
                    alone.push(reading::join(subject, plan, 1, args.rows as usize).await?);
                }
                let alone = Joined::mean(alone).context("nobody read alone")?;
                report.figures("join", &of_joined(subject, &alone, None))?;
                let together = reading::join(subject, plan, plan.subscribers, args.rows as usize).await?;
                Ok(report.figures("join", &of_joined(subject, &together, Some(&alone)))?)
            }
            Self::Snapshot => {
                reading::fill(subject.address.url(), args.rows as usize, plan.payload_bytes).await?;
                for _ in 0..args.rounds {
                    snapshot(args, plan, subject, bare, report).await?;
                }
                Ok(())
            }
            Self::Writes => {
                writes::run(subject, plan, args.writers as usize, &args.in_flight, |written| {
                    Ok(report.figures("writes", &of_written(subject, &written))?)
                })
                .await
            }
        }
    }
}

/// Lets one client read the table, and a bare peer send it as many ready frames.
async fn snapshot(
    args: &BenchArgs,
    plan: &Plan,
    subject: &Subject,
    bare: Option<&Subject>,
    report: &mut Report,
) -> anyhow::Result<()> {
    let read = reading::join(subject, plan, 1, args.rows as usize).await?;
    report.figures("snapshot", &of_joined(subject, &read, None))?;
    let Some(bare) = bare else { return Ok(()) };
    let message_bytes = usize::try_from(read.bytes / read.rows.max(1))?;
    let limit = reading::repeat(bare, plan, 1, args.rows as usize, message_bytes).await?;
    report.figures("snapshot", &of_joined(bare, &limit, None))?;
    let rate = limit.all_ready.as_secs_f64() / read.all_ready.as_secs_f64();
    Ok(report.remark(&format!("  ^ {} : bare: {rate:.2} of the rows/s", subject.store))?)
}

fn ratio(figure: Option<f64>, of: Option<f64>) -> Option<f64> {
    figure.zip(of.filter(|of| *of > 0.0)).map(|(figure, of)| figure / of)
}

fn of_rested(subject: &Subject, rested: &Rested) -> [Figure; 7] {
    let bytes = |bytes: u64| Some(bytes as f64);
    [
        Figure::word("store", "store", subject.store),
        Figure::whole("connections", "connections", Some(rested.connections as f64)),
        Figure::whole(
            "bytes per bare connection",
            "bytes_per_bare_connection",
            bytes(rested.bytes_per_bare_connection()),
        ),
        Figure::whole("with one subscription", "bytes_per_connection", bytes(rested.bytes_per_connection())),
        Figure::whole("filters", "filters", Some(rested.filters as f64)),
        Figure::whole("bytes per filter", "bytes_per_filter", bytes(rested.bytes_per_filter())),
        Figure::whole("bytes per shared filter", "bytes_per_shared_filter", bytes(rested.bytes_per_shared_filter())),
    ]
}

fn cpu_micros_per_row(joined: &Joined) -> Option<f64> {
    let rows = joined.rows as f64 * joined.clients as f64;
    joined.used.server.map(|cpu| cpu.total().as_secs_f64() * 1e6 / rows)
}

/// `alone` is one client by itself, for the factor that many at once save.
fn of_joined(subject: &Subject, joined: &Joined, alone: Option<&Joined>) -> [Figure; 12] {
    let rows = joined.rows as f64 * joined.clients as f64;
    let cpu = |joined: &Joined| joined.used.server.map(|cpu| cpu.total().as_secs_f64());
    let separate = alone.and_then(cpu).map(|cpu| cpu * joined.clients as f64);
    let megabytes = |bytes: Option<u64>| bytes.map(|bytes| bytes as f64 / 1e6);
    [
        Figure::word("store", "store", subject.store),
        Figure::whole("clients", "clients", Some(joined.clients as f64)),
        Figure::whole("rows each", "rows", Some(joined.rows as f64)),
        Figure::exact("first READY s", "first_ready_seconds", Some(joined.first_ready.as_secs_f64())),
        Figure::exact("all READY s", "all_ready_seconds", Some(joined.all_ready.as_secs_f64())),
        Figure::whole("rows/s", "rows_per_second", Some(rows / joined.all_ready.as_secs_f64())),
        Figure::exact("server CPU s", "server_cpu_seconds", cpu(joined)),
        Figure::exact("µs CPU/row", "server_cpu_us_per_row", cpu_micros_per_row(joined)),
        Figure::exact("separate reads : this", "factor", ratio(separate, cpu(joined))),
        Figure::whole("pages read", "pages_read", joined.pages.map(|(read, _)| read as f64)),
        Figure::whole("pages shared", "pages_shared", joined.pages.map(|(_, shared)| shared as f64)),
        Figure::exact("peak RSS + MB", "peak_growth_megabytes", {
            megabytes(joined.peak_bytes.zip(joined.before_bytes).map(|(peak, before)| peak.saturating_sub(before)))
        }),
    ]
}

fn of_written(subject: &Subject, written: &Written) -> [Figure; 9] {
    let millis = |quantile: f64| Some(written.latency.value_at_quantile(quantile) as f64 / 1000.0);
    let per_second = written.acknowledged as f64 / written.used.elapsed.as_secs_f64();
    let cpu = written.used.server.map(|cpu| cpu.total().as_secs_f64());
    [
        Figure::word("store", "store", subject.store),
        Figure::whole("writers", "writers", Some(written.writers as f64)),
        Figure::whole("in flight each", "in_flight_each", Some(written.in_flight_each as f64)),
        Figure::whole("acknowledged/s", "acknowledged_per_second", Some(per_second)),
        Figure::exact("µs CPU/write", "server_cpu_us_per_write", {
            cpu.map(|cpu| cpu * 1e6 / written.acknowledged.max(1) as f64)
        }),
        Figure::exact("p50 ms", "p50_ms", millis(0.5)),
        Figure::exact("p99 ms", "p99_ms", millis(0.99)),
        Figure::exact("p99.9 ms", "p99.9_ms", millis(0.999)),
        Figure::exact("server cores", "server_cores", cpu.map(|cpu| cpu / written.used.elapsed.as_secs_f64())),
    ]
}
