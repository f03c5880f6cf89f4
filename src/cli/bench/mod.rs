//! `starfeed bench`: what a server delivers, what that costs it, and how late it comes.
//!
//! The server is another process, so that its use of the machine can be told from the load generator's, which is one thread.
//! Rows are changed again and again; each change carries its number, so that every subscriber can tell whether it got
//! everything once and in order. When it was sent the generator knows by the number.

mod attended;
mod bare;
mod board;
mod churn;
mod connection;
mod engine;
mod event;
mod fan_out;
mod filtered;
mod filters;
mod frame;
mod idle;
mod pace;
mod page;
mod pin;
mod poller;
mod process;
mod ratio;
mod reading;
mod report;
mod scenario;
mod sequence;
mod stalled;
mod subject;
mod table;
mod usage;
mod wire;
mod writes;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;

use self::fan_out::{Plan, Run, Session};
use self::pace::Pace;
use self::pin::Cores;
use self::process::Interrupt;
use self::ratio::Ratio;
use self::report::{Format, Report, Setting};
use self::scenario::Scenario;
use self::sequence::Faults;
use self::subject::{PeerKind, StoreKind, Subject};
use self::wire::Speaks;

/// Measure what a server delivers, what that costs it, and how late it comes
///
/// Starts a server of its own for each store, subscribes many clients, changes a row again and again, and ends the server.
/// Every client has to get every change once and in order: otherwise the exit status is 1.
#[derive(Args, Debug)]
pub(super) struct BenchArgs {
    /// What to measure
    #[arg(long, value_enum, default_value = "fan-out")]
    scenario: Scenario,
    /// Clients that subscribe
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    subscribers: u32,
    /// Tables that subscribers and changes are dealt out to
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=3))]
    tables: u8,
    /// Subscriptions with filters, in the scenarios `filtered` and `idle`
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    filters: u32,
    /// Rows to read, in the scenarios `join` and `snapshot`
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    rows: u32,
    /// Clients that write, in the scenario `writes`
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    writers: u32,
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
    /// What to measure by turns; beside `bare`, the others' rows are divided by its
    #[arg(long, value_enum, value_delimiter = ',', default_value = "starfeed")]
    peer: Vec<PeerKind>,
    /// How often each row is measured, in the scenarios `fan-out`, `churn` and `snapshot`; of the first two the medians of the ratios are printed
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Give server and load generator a processor each
    #[arg(long)]
    pin: bool,
    /// Where to make the directory for the data, which is removed in the end [default: a temporary place on a disk]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// A config key of the server, for example `--set outbox_bytes=65536`; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Measure a running server instead: it gets one more row for that time
    #[arg(long, value_name = "URL", conflicts_with_all = ["store", "dir", "set", "peer"])]
    url: Option<String>,
    /// The process of that server; without it its CPU time and memory are not known
    #[arg(long, value_name = "PID", requires = "url")]
    pid: Option<u32>,
    /// What that server speaks
    #[arg(long, value_enum, default_value = "starfeed", requires = "url")]
    speaks: Speaks,
    /// Be the bare peer
    #[arg(long, hide = true)]
    be_bare: bool,
    /// Print one JSON object per row instead of a table
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) fn run(args: BenchArgs) -> anyhow::Result<()> {
    if args.be_bare {
        return bare::run();
    }
    let sessions = if args.url.is_some() { 1 } else { args.peer.len().max(1) };
    raise_descriptor_limit(u64::from(args.subscribers.max(args.writers)) * sessions as u64 + u64::from(args.stalled))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("the runtime cannot be started")?.block_on(bench(&args))
}

async fn bench(args: &BenchArgs) -> anyhow::Result<()> {
    let mut interrupt = Interrupt::listen()?;
    let cores = args.pin.then(Cores::choose).transpose()?;
    let plan = args.plan(cores);
    let parent = args.dir.clone().unwrap_or_else(process::scratch_parent);
    let setting = Setting {
        who: args.scenario.who(args),
        tables: plan.tables,
        payload_bytes: plan.payload_bytes,
        duration: plan.duration,
        place: args.url.is_none().then(|| place(&parent)),
        cores,
    };
    let format = if args.json { Format::Json } else { Format::Table };
    let mut bench = Bench {
        plan,
        report: Report::new(format, setting),
        settings: args.settings(),
        faults: Faults::default(),
        paces: args.paces(),
        rounds: args.rounds,
    };
    match &args.url {
        Some(url) => {
            let leaves_nothing = matches!(args.scenario, Scenario::FanOut | Scenario::Churn);
            ensure!(leaves_nothing, "at an address only fan-out and churn are measured: the others leave rows behind");
            let subject = Subject::at_url(url, args.pid)?;
            bench.measure(args, vec![subject], args.speaks, &mut interrupt).await?;
        }
        None => bench.measure_own(args, &parent, &mut interrupt).await?,
    }
    bench.report.end(args.scenario.footnote())?;
    let Faults { lost, repeated, out_of_order } = bench.faults;
    ensure!(
        bench.faults.are_none(),
        "the server broke its promise: {lost} events lost, {repeated} repeated, {out_of_order} out of order",
    );
    Ok(())
}

impl BenchArgs {
    fn paces(&self) -> Vec<Pace> {
        if self.rate.is_empty() {
            self.in_flight.iter().copied().map(Pace::InFlight).collect()
        } else {
            self.rate.iter().copied().map(Pace::PerSecond).collect()
        }
    }

    fn plan(&self, cores: Option<Cores>) -> Plan {
        Plan {
            subscribers: self.subscribers as usize,
            tables: usize::from(self.tables),
            payload_bytes: self.payload as usize,
            duration: Duration::from_secs(u64::from(self.seconds)),
            stalled: self.stalled as usize,
            has_churn: self.scenario == Scenario::Churn,
            cores,
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
        settings.extend(self.scenario.settings(self));
        settings.extend(self.set.iter().cloned());
        settings
    }
}

struct Bench {
    plan: Plan,
    report: Report,
    settings: Vec<String>,
    faults: Faults,
    paces: Vec<Pace>,
    rounds: u32,
}

impl Bench {
    /// Measures servers of its own: the peers of one store by turns, one store behind the other.
    async fn measure_own(&mut self, args: &BenchArgs, parent: &Path, interrupt: &mut Interrupt) -> anyhow::Result<()> {
        let only_bare = args.peer.iter().all(|peer| *peer == PeerKind::Bare);
        let stores = if only_bare { &args.store[..1] } else { &args.store[..] };
        for store in stores {
            let mut subjects = Vec::new();
            for peer in &args.peer {
                let started = match peer {
                    PeerKind::Starfeed => {
                        interrupt.or(Subject::start(*store, parent, &self.settings, self.plan.cores)).await
                    }
                    PeerKind::Bare => interrupt.or(Subject::start_bare(self.plan.cores)).await,
                };
                match started {
                    Ok(subject) => subjects.push(subject),
                    Err(error) => return stop_all(subjects, Err(error)).await,
                }
            }
            self.measure(args, subjects, Speaks::Starfeed, interrupt).await?;
        }
        Ok(())
    }

    /// Measures `subjects`, and ends them.
    async fn measure(
        &mut self,
        args: &BenchArgs,
        subjects: Vec<Subject>,
        speaks: Speaks,
        interrupt: &mut Interrupt,
    ) -> anyhow::Result<()> {
        if matches!(args.scenario, Scenario::FanOut | Scenario::Churn) {
            return self.measure_by_turns(subjects, speaks, interrupt).await;
        }
        let bare = subjects.iter().find(|subject| subject.is_bare());
        let mut result = Ok(());
        for subject in subjects.iter().filter(|subject| !subject.is_bare()) {
            let Self { plan, report, faults, .. } = self;
            if result.is_ok() {
                result = interrupt.or(args.scenario.run(args, plan, subject, bare, report, faults)).await;
            }
        }
        stop_all(subjects, result).await
    }

    /// Measures `subjects` by turns, pace by pace, and ends them.
    async fn measure_by_turns(
        &mut self,
        subjects: Vec<Subject>,
        speaks: Speaks,
        interrupt: &mut Interrupt,
    ) -> anyhow::Result<()> {
        let mut sessions = Vec::new();
        let mut subjects = subjects.into_iter();
        let mut result = Ok(());
        for subject in subjects.by_ref() {
            match Session::open(subject, speaks, &self.plan, interrupt).await {
                Ok(session) => sessions.push(session),
                Err((subject, error)) => {
                    result = subject.stop(Err(error)).await;
                    break;
                }
            }
        }
        result = stop_all(subjects.collect(), result).await;
        if result.is_ok() {
            result = interrupt.or(self.measure_sessions(&sessions)).await;
        }
        for session in sessions {
            result = session.close(result).await;
        }
        result
    }

    async fn measure_sessions(&mut self, sessions: &[Session]) -> anyhow::Result<()> {
        let mut ratios = vec![Vec::new(); sessions.len() * self.paces.len()];
        for _ in 0..self.rounds {
            for (which, pace) in self.paces.clone().into_iter().enumerate() {
                let mut runs = Vec::new();
                for session in sessions {
                    let run = session.measure(pace).await?;
                    let is_complete = self.take(session, &run)?;
                    if !is_complete {
                        // Another run would wait for the same changes in vain.
                        return Ok(());
                    }
                    if self.plan.stalled > 0 && !session.subject.is_bare() {
                        let p99 = run.latency.value_at_quantile(0.99);
                        self.take(session, &session.measure_beside_stalled(pace, p99).await?)?;
                    }
                    if self.plan.has_churn && !session.subject.is_bare() {
                        let p99 = run.latency.value_at_quantile(0.99);
                        self.take(session, &session.measure_with_churn(pace, p99).await?)?;
                    }
                    runs.push(run);
                }
                for (at, ratio) in ratios_of(sessions, &runs) {
                    self.report.ratio(sessions[at].subject.store, pace, &ratio)?;
                    ratios[which * sessions.len() + at].push(ratio);
                }
            }
        }
        for (which, pace) in self.paces.iter().enumerate() {
            for (at, session) in sessions.iter().enumerate() {
                let all = &ratios[which * sessions.len() + at];
                if all.len() > 1 {
                    self.report.median(session.subject.store, *pace, all.len(), &Ratio::median(all))?;
                }
            }
        }
        Ok(())
    }

    /// Reports a run; says whether nothing was lost.
    fn take(&mut self, session: &Session, run: &Run) -> anyhow::Result<bool> {
        self.report.row(session.subject.peer, session.subject.store, run)?;
        self.faults.add(run.faults);
        Ok(run.faults.lost == 0)
    }
}

/// The ratio of each run to that of the bare peer, if there is one, with the number of its session.
fn ratios_of(sessions: &[Session], runs: &[Run]) -> Vec<(usize, Ratio)> {
    let Some(bare) = sessions.iter().position(|session| session.subject.is_bare()) else { return Vec::new() };
    let others = (0..sessions.len()).filter(|at| *at != bare);
    others.map(|at| (at, Ratio::of(&runs[at], &runs[bare]))).collect()
}

async fn stop_all(subjects: Vec<Subject>, mut result: anyhow::Result<()>) -> anyhow::Result<()> {
    for subject in subjects {
        result = subject.stop(result).await;
    }
    result
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
