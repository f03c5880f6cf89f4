//! `starfeed bench`: what a server delivers, what that costs it, and how late it comes.
//!
//! The server is another process, so that its use of the machine can be told from the load generator's. One row is changed
//! again and again; each change carries its number and the moment it was sent, so that every subscriber can tell whether
//! it got everything once and in order, and how late.

mod connection;
mod event;
mod frame;
mod load;
mod process;
mod report;
mod sequence;
mod stalled;
mod writer;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};

use self::connection::Address;
use self::load::{Pace, Plan, Run};
use self::process::{Interrupt, Probe, ScratchDirectory, ServerProcess};
use self::report::{Format, Report, Setting};
use self::sequence::Faults;

/// Measure what a server delivers, what that costs it, and how late it comes
///
/// Starts a server of its own for each store, subscribes many clients, changes a row again and again, and ends the server.
/// Every client has to get every change once and in order: otherwise the exit status is 1.
#[derive(Args, Debug)]
pub(super) struct BenchArgs {
    /// Clients that subscribe
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    subscribers: u32,
    /// Closed loop: changes at a time that not every client has yet; one row for each number
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1,32")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    in_flight: Vec<u32>,
    /// Open loop instead: changes per second, however late the clients get them; one row for each number
    #[arg(long, value_name = "N", value_delimiter = ',', conflicts_with = "in_flight")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Vec<u32>,
    /// Measure each row once more, beside clients that do not read meanwhile; then they read again, and have to hold what is there
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    stalled: u32,
    /// How long each row is measured, after a warm-up
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// Size of the message that each client gets for a change
    #[arg(long, value_name = "BYTES", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    payload: u32,
    /// Which stores to measure
    #[arg(long, value_enum, value_delimiter = ',', default_value = "disk,memory")]
    store: Vec<StoreKind>,
    /// Where to make the directory for the data, which is removed in the end [default: a temporary place on a disk]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// A config key of the server, for example `--set outbox_bytes=65536`; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Measure a running server instead: it gets one more policy for that time
    #[arg(long, value_name = "URL", conflicts_with_all = ["store", "dir", "set"])]
    url: Option<String>,
    /// The process of that server; without it its CPU time and memory are not known
    #[arg(long, value_name = "PID", requires = "url")]
    pid: Option<u32>,
    /// Print one JSON object per row instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum StoreKind {
    /// Durable: a change is on disk before anybody gets it
    Disk,
    /// Ends with the server
    Memory,
}

impl StoreKind {
    fn name(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Memory => "memory",
        }
    }
}

/// Runs the command, on a runtime of its own: the load comes from one thread.
pub(super) fn run(args: BenchArgs) -> anyhow::Result<()> {
    raise_descriptor_limit(u64::from(args.subscribers) + u64::from(args.stalled))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("the runtime cannot be started")?.block_on(bench(&args))
}

async fn bench(args: &BenchArgs) -> anyhow::Result<()> {
    let mut interrupt = Interrupt::listen()?;
    let plan = args.plan();
    let parent = args.dir.clone().unwrap_or_else(process::scratch_parent);
    let setting = Setting {
        subscribers: plan.subscribers,
        payload_bytes: plan.payload_bytes,
        duration: plan.duration,
        place: args.url.is_none().then(|| place(&parent)),
    };
    let format = if args.json { Format::Json } else { Format::Table };
    let report = Report::new(format, setting);
    let mut bench = Bench { plan, report, settings: args.settings(), faults: Faults::default() };
    match &args.url {
        Some(url) => {
            let address = Address::of_url(url)?;
            bench.measure("-", &address, args.pid.map(Probe::of).as_ref(), &mut interrupt).await?;
        }
        None => {
            for store in &args.store {
                bench.measure_own(*store, &parent, &mut interrupt).await?;
            }
        }
    }
    bench.report.end()?;
    let Faults { lost, repeated, out_of_order } = bench.faults;
    ensure!(
        bench.faults.are_none(),
        "the server broke its promise: {lost} events lost, {repeated} repeated, {out_of_order} out of order",
    );
    Ok(())
}

impl BenchArgs {
    fn plan(&self) -> Plan {
        let paces = if self.rate.is_empty() {
            self.in_flight.iter().copied().map(Pace::InFlight).collect()
        } else {
            self.rate.iter().copied().map(Pace::PerSecond).collect()
        };
        Plan {
            subscribers: self.subscribers as usize,
            payload_bytes: self.payload as usize,
            paces,
            duration: Duration::from_secs(u64::from(self.seconds)),
            stalled: self.stalled as usize,
        }
    }

    /// What a server is started with.
    fn settings(&self) -> Vec<String> {
        // Beside the subscribers there is the writer, and whoever looks.
        let connections = (self.subscribers.saturating_add(self.stalled).saturating_add(100)).max(10_000);
        let mut settings = vec![format!("connections={connections}")];
        if self.stalled > 0 {
            // Who does not read is let go after a while, and answers no ping; here that would be the end of what is measured.
            let seconds = 2 * u64::from(self.seconds) + 600;
            settings.extend(["stall_seconds", "ping_seconds"].map(|key| format!("{key}={seconds}")));
        }
        settings.extend(self.set.iter().cloned());
        settings
    }
}

struct Bench {
    plan: Plan,
    report: Report,
    settings: Vec<String>,
    faults: Faults,
}

impl Bench {
    /// Measures a server of its own.
    async fn measure_own(&mut self, store: StoreKind, parent: &Path, interrupt: &mut Interrupt) -> anyhow::Result<()> {
        let scratch = ScratchDirectory::create(parent)?;
        let data_dir = match store {
            StoreKind::Disk => scratch.path().join("data"),
            StoreKind::Memory => PathBuf::from(":memory:"),
        };
        let server = interrupt.or(ServerProcess::start(&data_dir, scratch.path(), &self.settings)).await?;
        let measured = match Address::of_url(server.url()) {
            Ok(address) => self.measure(store.name(), &address, Some(&Probe::of(server.pid())), interrupt).await,
            Err(error) => Err(error),
        };
        match (measured, server.stop().await) {
            (Ok(()), stopped) => stopped,
            // How the server ended may be why there is an error.
            (Err(error), Err(stopped)) => Err(error.context(stopped.to_string())),
            (Err(error), Ok(())) => Err(error),
        }
    }

    async fn measure(
        &mut self,
        store: &str,
        address: &Address,
        server: Option<&Probe>,
        interrupt: &mut Interrupt,
    ) -> anyhow::Result<()> {
        let Self { plan, report, faults, .. } = self;
        let take = |run: Run| {
            report.row(store, &run)?;
            faults.add(run.faults);
            Ok(())
        };
        load::run(address, plan, server, interrupt, take).await
    }
}

/// Says where the data is, and warns of a place that is no disk.
fn place(parent: &Path) -> String {
    match process::file_system(parent) {
        Some(kind) if process::is_memory(&kind) => format!("{} ({kind}: NOT durable)", parent.display()),
        Some(kind) => format!("{} ({kind})", parent.display()),
        None => parent.display().to_string(),
    }
}

/// Each subscriber takes a descriptor, and many systems give a process only 1,024 until it asks for what it may have.
fn raise_descriptor_limit(subscribers: u64) -> anyhow::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let needed = subscribers + 64;
    let limit = getrlimit(Resource::Nofile);
    if let Some(maximum) = limit.maximum {
        ensure!(
            maximum >= needed,
            "{subscribers} subscribers take {needed} file descriptors, and a process may have {maximum} here (ulimit -Hn)",
        );
    }
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).context("the number of file descriptors cannot be raised")
}
