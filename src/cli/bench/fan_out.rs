//! The scenario `fan-out`: each change of a row goes to all who subscribe to its table.

use std::time::{Duration, Instant};

use anyhow::{anyhow, ensure};
use hdrhistogram::Histogram;
use tokio::time::timeout;

use super::attended::{Attend, Attended};
use super::board::{Board, PATIENCE};
use super::churn::{self, Churn};
use super::connection::Address;
use super::engine::{Engine, Nanos, Stop};
use super::event;
use super::pace::Pace;
use super::page::Buckets;
use super::pin::Cores;
use super::process::{CpuTime, Interrupt, Probe};
use super::sequence::Faults;
use super::stalled::{self, StalledClients};
use super::subject::Subject;
use super::table::{self, Table};
use super::usage::Usage;
use super::wire::{Rows, Speaks, Wire};

/// What to do to a server.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) subscribers: usize,
    pub(super) tables: usize,
    /// Bytes of the message that a subscriber gets for a change.
    pub(super) payload_bytes: usize,
    /// How long each pace is measured.
    pub(super) duration: Duration,
    /// Clients that do not read, beside which each pace is measured again.
    pub(super) stalled: usize,
    /// Whether each pace is measured again while some come and go.
    pub(super) has_churn: bool,
    pub(super) cores: Option<Cores>,
}

/// What came of one pace.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) pace: Pace,
    pub(super) subscribers: usize,
    /// From the first request until everybody had the last change.
    pub(super) elapsed: Duration,
    pub(super) changes: u64,
    pub(super) delivered: u64,
    pub(super) server_cpu: Option<CpuTime>,
    pub(super) generator_cpu: CpuTime,
    /// In microseconds.
    pub(super) latency: Histogram<u64>,
    pub(super) faults: Faults,
    pub(super) memory: Option<Memory>,
    /// What came of clients that did not read meanwhile, if there were any.
    pub(super) stalled: Option<stalled::Outcome>,
    /// What came of clients that came and went meanwhile, if there were any.
    pub(super) churn: Option<churn::Outcome>,
    /// From a commit until what it changed was written to a socket, as the server says.
    pub(super) until_sent: Option<Buckets>,
}

/// Resident bytes of the server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory {
    pub(super) before_subscribers: u64,
    pub(super) with_subscribers: u64,
    pub(super) after_run: u64,
}

const WARM_UP_MAX: Duration = Duration::from_secs(1);
/// So long everybody is served until those that do not read have filled every buffer on the way.
const STALLING: Duration = Duration::from_secs(20);

/// All connections to one server, and what they know.
#[derive(Debug)]
pub(super) struct Load {
    engine: Engine,
    board: Board,
    /// Nothing has come for too long: what is missing is lost, and waiting for more is in vain.
    has_given_up: bool,
    churn: Option<Churn>,
}

impl Attend for Load {
    fn attend(&mut self, wait: Duration) -> anyhow::Result<()> {
        self.engine.turn(wait, &mut self.board)
    }
}

impl Load {
    /// Connects everybody and waits until every subscription has begun.
    fn open(address: &Address, mut board: Board, stop: Stop) -> anyhow::Result<Self> {
        let mut engine = Engine::new(stop)?;
        let subscribers = board.subscribers.len();
        // The greetings are made before: the board listens while they are said.
        let greetings: Vec<_> = (0..=subscribers)
            .map(|at| {
                let mut messages = Vec::new();
                board.greet(at, &mut |message, opcode| messages.push((message.to_vec(), opcode)));
                messages
            })
            .collect();
        engine.open(address, subscribers + 1, &mut board, |at, say| {
            for (message, opcode) in &greetings[at] {
                say(message, *opcode);
            }
        })?;
        board.write_through(engine.writer(subscribers));
        let begin = Instant::now();
        while !board.is_ready() {
            ensure!(begin.elapsed() < 3 * PATIENCE, "not every subscription has begun");
            engine.turn(Duration::MAX, &mut board)?;
        }
        Ok(Self { engine, board, has_given_up: false, churn: None })
    }

    /// Writes at `pace`, then waits until everybody has everything or nothing comes any more.
    fn write(&mut self, pace: Pace, duration: Duration) -> anyhow::Result<()> {
        // Without an answer to what was sent before there is nothing to measure.
        if self.has_given_up {
            return Ok(());
        }
        self.board.begin(pace, self.engine.now(), duration);
        self.engine.turn(Duration::ZERO, &mut self.board)?;
        loop {
            let now = self.engine.now();
            if self.board.is_done(now) {
                break;
            }
            if self.board.is_silent(now) {
                self.has_given_up = true;
                break;
            }
            let mut wait = self.board.wait(now);
            if let Some(churn) = &mut self.churn {
                if now < self.board.end() {
                    churn.step(&mut self.engine, &mut self.board, now)?;
                    wait = wait.min(churn.wait(now));
                } else {
                    churn.wake(&mut self.engine, &mut self.board, Nanos::MAX)?;
                }
            }
            self.engine.turn(wait, &mut self.board)?;
        }
        self.board.give_up();
        Ok(())
    }

    /// The same as [`Load::measure`], while some come and go.
    fn measure_with_churn(
        &mut self,
        pace: Pace,
        duration: Duration,
        server: Option<&Probe>,
        address: &Address,
    ) -> anyhow::Result<(Run, churn::Done)> {
        let churn = Churn::new(address, self.board.subscribers.len(), self.engine.now());
        self.churn = Some(churn);
        let run = self.measure(pace, duration, server);
        let done = self.churn.take().map(|churn| churn.done).unwrap_or_default();
        Ok((run?, done))
    }

    fn measure(&mut self, pace: Pace, duration: Duration, server: Option<&Probe>) -> anyhow::Result<Run> {
        self.has_given_up = false;
        self.write(pace, WARM_UP_MAX.min(duration / 4))?;
        let first = self.board.next();
        self.board.begin_counting();
        let before = Usage::read(server)?;
        self.write(pace, duration)?;
        let used = before.until(&Usage::read(server)?);
        let faults = self.board.faults();
        let (next, everybody_has) = (self.board.next(), self.board.completed());
        ensure!(
            faults.lost > 0 || everybody_has == next,
            "the server left {} requests without a response",
            next - everybody_has,
        );
        Ok(Run {
            pace,
            subscribers: self.board.subscribers.len(),
            elapsed: used.elapsed,
            changes: next - first,
            delivered: self.board.delivered,
            server_cpu: used.server,
            generator_cpu: used.generator,
            latency: self.board.latency.clone(),
            faults,
            memory: None,
            stalled: None,
            churn: None,
            until_sent: None,
        })
    }
}

/// One server with everybody connected to it.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) subject: Subject,
    load: Attended<Load>,
    plan: Plan,
    /// The rows that were made for this, if any.
    rows: Option<Rows>,
    before_subscribers: Option<u64>,
    with_subscribers: Option<u64>,
}

impl Session {
    /// Makes the rows that are to be changed, and connects everybody. On an error the subject comes back, to be ended.
    pub(super) async fn open(
        subject: Subject,
        speaks: Speaks,
        plan: &Plan,
        interrupt: &mut Interrupt,
    ) -> Result<Self, (Subject, anyhow::Error)> {
        let tables = Table::ALL[..plan.tables].to_vec();
        let rows = match interrupt.or(make_rows(&subject, speaks, tables, plan.payload_bytes)).await {
            Ok(rows) => rows,
            Err(error) => return Err((subject, error)),
        };
        let wire = match speaks {
            _ if subject.is_bare() => Wire::Bare(rows.clone()),
            Speaks::Starfeed => Wire::Starfeed(rows.clone()),
            Speaks::Nats => Wire::Nats(Default::default()),
            Speaks::Centrifugo => Wire::Centrifugo,
        };
        let has_rows = matches!(wire, Wire::Starfeed(_));
        let opened = interrupt.or(connect(&subject, wire, plan)).await;
        let rows = has_rows.then_some(rows);
        match opened {
            Ok((load, before_subscribers, with_subscribers)) => {
                Ok(Self { subject, load, plan: plan.clone(), rows, before_subscribers, with_subscribers })
            }
            Err(error) => {
                let error = delete_rows(&subject.address, rows, Err::<(), _>(error)).await.err();
                Err((subject, error.unwrap_or_else(|| anyhow!("it cannot be measured"))))
            }
        }
    }

    /// Measures one pace.
    pub(super) async fn measure(&self, pace: Pace) -> anyhow::Result<Run> {
        let (duration, probe) = (self.plan.duration, self.subject.probe.clone());
        let mut run = self.load.run(move |load| load.measure(pace, duration, probe.as_ref())).await?;
        run.memory = self.memory()?;
        Ok(run)
    }

    /// The same once more, with clients that do not read; `p99_alone` is in microseconds.
    pub(super) async fn measure_beside_stalled(&self, pace: Pace, p99_alone: u64) -> anyhow::Result<Run> {
        let before = self.resident_bytes()?;
        let stalled = StalledClients::subscribe(&self.subject.address, self.plan.stalled).await?;
        // Until their sockets are full they do not stall, and cost what everybody costs.
        let filling = STALLING.min(self.plan.duration);
        self.load.run(move |load| load.write(pace, filling)).await?;
        let mut run = self.measure(pace).await?;
        let grown = self.resident_bytes()?.zip(before).map(|(after, before)| after.saturating_sub(before));
        let (exact, began_anew) = stalled.read_again(&self.subject.address).await?;
        run.stalled = Some(stalled::Outcome {
            clients: self.plan.stalled,
            bytes_each: grown.map(|bytes| bytes / self.plan.stalled as u64),
            p99_ratio: run.latency.value_at_quantile(0.99) as f64 / p99_alone.max(1) as f64,
            exact,
            began_anew,
        });
        Ok(run)
    }

    /// The same once more, while some come and go; `p99_alone` is in microseconds.
    pub(super) async fn measure_with_churn(&self, pace: Pace, p99_alone: u64) -> anyhow::Result<Run> {
        let (duration, probe) = (self.plan.duration, self.subject.probe.clone());
        let address = self.subject.address.clone();
        let measure = move |load: &mut Load| load.measure_with_churn(pace, duration, probe.as_ref(), &address);
        let (mut run, done) = self.load.run(measure).await?;
        run.memory = self.memory()?;
        let p99_ratio = run.latency.value_at_quantile(0.99) as f64 / p99_alone.max(1) as f64;
        run.churn = Some(churn::Outcome { done, p99_ratio });
        Ok(run)
    }

    /// Ends everything. `result` is what came of the measurement.
    pub(super) async fn close<T>(self, result: anyhow::Result<T>) -> anyhow::Result<T> {
        let Self { subject, load, rows, .. } = self;
        drop(load);
        // The server may be somebody's own: nothing is left behind there, also after an error, which then is the news.
        let result = delete_rows(&subject.address, rows, result).await;
        subject.stop(result).await
    }

    fn memory(&self) -> anyhow::Result<Option<Memory>> {
        let after_run = self.resident_bytes()?;
        let memory = self.before_subscribers.zip(self.with_subscribers).zip(after_run);
        Ok(memory.map(|((before_subscribers, with_subscribers), after_run)| Memory {
            before_subscribers,
            with_subscribers,
            after_run,
        }))
    }

    fn resident_bytes(&self) -> anyhow::Result<Option<u64>> {
        self.subject.probe.as_ref().map(Probe::resident_bytes).transpose()
    }
}

async fn make_rows(
    subject: &Subject,
    speaks: Speaks,
    tables: Vec<Table>,
    payload_bytes: usize,
) -> anyhow::Result<Rows> {
    let name_bytes = event::name_bytes(payload_bytes, &tables)?;
    let ids = if speaks == Speaks::Starfeed && !subject.is_bare() {
        table::create_rows(subject.address.url(), &tables, name_bytes).await?
    } else {
        vec![vec![7; 16]; tables.len()]
    };
    Ok(Rows { tables, ids, name_bytes })
}

async fn delete_rows<T>(address: &Address, rows: Option<Rows>, result: anyhow::Result<T>) -> anyhow::Result<T> {
    let Some(Rows { tables, ids, .. }) = rows else { return result };
    let deleted = timeout(PATIENCE, table::delete_rows(address.url(), &tables, ids)).await;
    let deleted = deleted.unwrap_or_else(|_| Err(anyhow!("the rows that were measured cannot be deleted")));
    result.and_then(|value| deleted.map(|()| value))
}

type Connected = (Attended<Load>, Option<u64>, Option<u64>);

async fn connect(subject: &Subject, wire: Wire, plan: &Plan) -> anyhow::Result<Connected> {
    let resident_bytes = || subject.probe.as_ref().map(Probe::resident_bytes).transpose();
    let before_subscribers = resident_bytes()?;
    let has_restless = plan.has_churn && matches!(wire, Wire::Starfeed(_));
    let restless = if has_restless { churn::restless(plan.subscribers) } else { 0 };
    let board = Board::new(wire, plan.tables, plan.payload_bytes, plan.subscribers, restless)?;
    let address = subject.address.clone();
    let core = plan.cores.map(|cores| cores.generator);
    let load = Attended::start(Stop::default(), core, move |stop| Load::open(&address, board, stop)).await?;
    Ok((load, before_subscribers, resident_bytes()?))
}
