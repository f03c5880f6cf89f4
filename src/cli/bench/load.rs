//! The load: one writer that changes one row, many subscribers that all have to get every change. All in one thread, but
//! for the writer of an open loop, which has to be in time whatever the others do.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use futures_util::stream::{self, FuturesUnordered, StreamExt, TryStreamExt};
use hdrhistogram::Histogram;
use prost::Message as _;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::connection::{Address, Connection, READ_BUFFER_BYTES};
use super::event::{self, PolicyEvent, Stamp};
use super::process::{Interrupt, Probe};
use super::sequence::{Arrival, Completion, Faults, SequenceCheck};
use super::stalled::{self, StalledClients};
use super::writer::{OpenLoop, Writer};
use crate::client::Client;
use crate::proto;

/// How changes follow each other.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pace {
    /// At most so many changes that not everybody has.
    InFlight(u32),
    /// So many changes a second, whatever happens to them.
    PerSecond(u32),
}

/// What to do to a server.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) subscribers: usize,
    /// Bytes of the message that a subscriber gets for a change.
    pub(super) payload_bytes: usize,
    pub(super) paces: Vec<Pace>,
    /// How long each pace is measured.
    pub(super) duration: Duration,
    /// Clients that do not read, beside which each pace is measured again.
    pub(super) stalled: usize,
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
    pub(super) server_cpu: Option<Duration>,
    pub(super) generator_cpu: Duration,
    /// In microseconds.
    pub(super) latency: Histogram<u64>,
    pub(super) faults: Faults,
    pub(super) memory: Option<Memory>,
    /// What came of clients that did not read meanwhile, if there were any.
    pub(super) stalled: Option<stalled::Outcome>,
}

/// Resident bytes of the server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory {
    pub(super) before_subscribers: u64,
    pub(super) with_subscribers: u64,
    pub(super) after_run: u64,
}

/// Handshakes at a time.
const HANDSHAKES_MAX: usize = 64;
/// When nothing has come for so long, what is still missing is lost.
const PATIENCE: Duration = Duration::from_secs(10);
const WARM_UP_MAX: Duration = Duration::from_secs(1);
/// So long everybody is served until those that do not read have filled every buffer on the way.
const STALLING: Duration = Duration::from_secs(20);
const LATENCY_MICROS_MAX: u64 = 3_600_000_000;

/// Runs `plan` against the server at `address`; `server` tells its use of the machine. Each run is handed to `report`.
pub(super) async fn run(
    address: &Address,
    plan: &Plan,
    server: Option<&Probe>,
    interrupt: &mut Interrupt,
    report: impl FnMut(Run) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let name_bytes = event::name_bytes(plan.payload_bytes)?;
    let policy_id = interrupt.or(create_policy(address, name_bytes)).await?;
    let result = interrupt.or(run_on_policy(address, plan, server, policy_id.clone(), name_bytes, report)).await;
    // The server may be somebody's own: nothing is left behind there, also after an error, which then is the news.
    let deleted = timeout(PATIENCE, delete_policy(address, policy_id)).await;
    result.and(deleted.unwrap_or_else(|_| Err(anyhow!("the policy that was measured cannot be deleted"))))
}

async fn create_policy(address: &Address, name_bytes: usize) -> anyhow::Result<Vec<u8>> {
    let mut client = Client::connect(address.url()).await?;
    let policy = event::policy(None, Stamp { seq: 0, sent_nanos: 0 }.name(name_bytes));
    let command = proto::request::Command::SetPolicy(proto::RequestSetPolicy { policy });
    let body = client.request(command).await?;
    client.close().await;
    match body {
        Some(proto::response::Body::NewPolicy(policy)) => Ok(policy.policy_id.to_vec()),
        _ => bail!("the server did not say which policy it created"),
    }
}

async fn delete_policy(address: &Address, policy_id: Vec<u8>) -> anyhow::Result<()> {
    let mut client = Client::connect(address.url()).await?;
    let command = proto::request::Command::DeletePolicy(proto::RequestDeletePolicy { policy_id: policy_id.into() });
    client.request(command).await?;
    client.close().await;
    Ok(())
}

async fn run_on_policy(
    address: &Address,
    plan: &Plan,
    server: Option<&Probe>,
    policy_id: Vec<u8>,
    name_bytes: usize,
    report: impl FnMut(Run) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let before_subscribers = server.map(Probe::resident_bytes).transpose()?;
    let writing = Connection::open(address).await?;
    let reading = subscribe_all(address, plan.subscribers).await?;
    let base = Instant::now();
    let writer = Writer::new(writing.outgoing(), policy_id.clone(), name_bytes, base);
    let shared = Shared::new(plan.subscribers, policy_id, base)?;
    let listening: FuturesUnordered<_> = (reading.into_iter().enumerate())
        .map(|(at, connection)| (Listener::Subscriber(at), connection))
        .chain([(Listener::Writer, writing)])
        .map(|(listener, connection)| shared.listen(listener, connection))
        .collect();
    let mut listening = std::pin::pin!(listening);
    let script =
        Script { shared: &shared, plan, address, server, before_subscribers, writer: Some(writer), next_seq: 1 };
    // The script is polled first: a request that is due does not wait until all that has come is read. Listening ends
    // only with an error.
    tokio::select! {
        biased;
        result = script.run(report) => result,
        Some(error) = listening.next() => Err(error),
    }
}

async fn subscribe_all(address: &Address, subscribers: usize) -> anyhow::Result<Vec<Connection>> {
    let command = proto::request::Command::SubscribePolicyList(proto::RequestSubscribePolicyList::default());
    let request = proto::Request { request_id: 0, command: Some(command) }.encode_to_vec();
    let request = &request;
    let opening = (0..subscribers).map(|_| async move {
        let mut connection = Connection::open(address).await?;
        connection.send(request).await?;
        anyhow::Ok(connection)
    });
    stream::iter(opening).buffer_unordered(HANDSHAKES_MAX).try_collect().await
}

/// Who listens on a connection.
#[derive(Clone, Copy, Debug)]
enum Listener {
    Subscriber(usize),
    Writer,
}

/// What the script and all who listen share.
struct Shared {
    board: RefCell<Board>,
    buffer: RefCell<Vec<u8>>,
    /// Everybody has one change more.
    completed: Notify,
    /// Nothing has come for too long: what is missing is lost, and waiting for more is in vain.
    has_given_up: Cell<bool>,
    base: Instant,
}

/// What has come so far.
struct Board {
    policy_id: Vec<u8>,
    checks: Vec<SequenceCheck>,
    completion: Completion,
    /// Earlier changes are warm-up and do not count.
    first_counted: u64,
    delivered: u64,
    last_arrival: Duration,
    latency: Histogram<u64>,
}

impl Shared {
    fn new(subscribers: usize, policy_id: Vec<u8>, base: Instant) -> anyhow::Result<Self> {
        // The writer is one of everybody: its response belongs to the change.
        let everybody = u32::try_from(subscribers + 1).context("there are too many subscribers")?;
        let mut completion = Completion::new(everybody);
        // The row was created before anybody listened.
        completion.reached(0..1);
        let board = Board {
            policy_id,
            checks: std::iter::repeat_with(SequenceCheck::default).take(subscribers).collect(),
            completion,
            first_counted: 0,
            delivered: 0,
            last_arrival: Duration::ZERO,
            latency: Histogram::new_with_bounds(1, LATENCY_MICROS_MAX, 3)?,
        };
        Ok(Self {
            board: RefCell::new(board),
            buffer: RefCell::new(vec![0; READ_BUFFER_BYTES]),
            completed: Notify::new(),
            has_given_up: Cell::new(false),
            base,
        })
    }

    /// Takes what comes on `connection`, until that goes wrong.
    async fn listen(&self, listener: Listener, mut connection: Connection) -> anyhow::Error {
        loop {
            let read = std::future::poll_fn(|context| {
                let mut board = self.board.borrow_mut();
                connection.poll_messages(context, &mut self.buffer.borrow_mut(), |message, now| {
                    if board.take(listener, message, now.duration_since(self.base))? {
                        self.completed.notify_one();
                    }
                    Ok(())
                })
            });
            if let Err(error) = read.await {
                return error;
            }
        }
    }

    fn completed(&self) -> u64 {
        self.board.borrow().completion.completed()
    }

    /// Waits until everybody has all changes below `end`. `false` when that does not happen any more.
    async fn wait_for(&self, end: u64) -> bool {
        let begin = self.base.elapsed();
        while self.completed() < end {
            let deadline = self.board.borrow().last_arrival.max(begin) + PATIENCE;
            let left = deadline.saturating_sub(self.base.elapsed());
            if left.is_zero() {
                self.has_given_up.set(true);
            }
            if self.has_given_up.get() {
                return false;
            }
            // Whether it was in time or not, the conditions above tell.
            let _ = timeout(left, self.completed.notified()).await;
        }
        true
    }
}

impl Board {
    /// Takes a message. Says whether everybody has one more change now.
    fn take(&mut self, listener: Listener, message: &[u8], now: Duration) -> anyhow::Result<bool> {
        match (listener, PolicyEvent::of_message(message)) {
            (Listener::Subscriber(at), Some(event)) if event.policy_id == self.policy_id => {
                let stamp = Stamp::of_name(event.name).context("somebody else changes the policy that is measured")?;
                Ok(self.arrived(at, stamp, now))
            }
            // Somebody else's policy.
            (Listener::Subscriber(_), Some(_)) => Ok(false),
            (listener, _) => match (listener, response(message)?) {
                (Listener::Writer, Some(request_id)) => {
                    let seq = u64::try_from(request_id).context("the server answered what was not asked")?;
                    self.last_arrival = now;
                    Ok(self.completion.reached(seq..seq + 1))
                }
                _ => Ok(false),
            },
        }
    }

    fn arrived(&mut self, at: usize, stamp: Stamp, now: Duration) -> bool {
        self.last_arrival = now;
        let arrival = self.checks[at].arrived(stamp.seq);
        if arrival != Arrival::Repeated && stamp.seq >= self.first_counted {
            self.delivered += 1;
            let nanos = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX).saturating_sub(stamp.sent_nanos);
            self.latency.saturating_record(nanos / 1000);
        }
        match arrival {
            Arrival::Next(passed) => self.completion.reached(passed),
            Arrival::Late | Arrival::Repeated => false,
        }
    }

    fn begin_counting(&mut self, first: u64) {
        self.first_counted = first;
        self.delivered = 0;
        self.latency.reset();
    }

    fn faults(&mut self, end: u64) -> Faults {
        let mut faults = Faults::default();
        for check in &mut self.checks {
            faults.add(check.finish(end));
        }
        faults
    }
}

/// The request that `message` answers; `None` when it is an event. A refusal and an end of a subscription are errors.
fn response(message: &[u8]) -> anyhow::Result<Option<i32>> {
    use proto::server_message::MessageType;
    match proto::ServerMessage::decode(message)?.message_type {
        Some(MessageType::Response(response)) if response.is_success => Ok(Some(response.request_id)),
        Some(MessageType::Response(response)) => {
            Err(anyhow!("the server refused a request: {}", response.error_message.unwrap_or_default()))
        }
        Some(MessageType::Event(proto::Event { body: Some(proto::event::Body::SubscriptionClosed(end)), .. })) => {
            Err(anyhow!("the server ended a subscription: {}", end.message.unwrap_or_default()))
        }
        Some(MessageType::Event(_)) | None => Ok(None),
    }
}

/// What is done, one after the other.
struct Script<'a> {
    shared: &'a Shared,
    plan: &'a Plan,
    address: &'a Address,
    server: Option<&'a Probe>,
    before_subscribers: Option<u64>,
    /// Away while an open loop has it.
    writer: Option<Writer>,
    next_seq: u64,
}

/// How much of the machine was used so far.
struct Usage {
    at: Instant,
    server: Option<Duration>,
    generator: Duration,
}

impl Usage {
    fn read(server: Option<&Probe>) -> anyhow::Result<Self> {
        Ok(Self {
            server: server.map(Probe::cpu_time).transpose()?,
            generator: Probe::of_this_process().cpu_time()?,
            at: Instant::now(),
        })
    }
}

impl Script<'_> {
    async fn run(mut self, mut report: impl FnMut(Run) -> anyhow::Result<()>) -> anyhow::Result<()> {
        ensure!(self.shared.wait_for(1).await, "not every subscription has begun");
        let with_subscribers = self.resident_bytes()?;
        for pace in &self.plan.paces {
            let mut run = self.measure(*pace).await?;
            run.memory = self.memory(with_subscribers)?;
            let is_complete = run.faults.lost == 0;
            let p99 = run.latency.value_at_quantile(0.99);
            report(run)?;
            if !is_complete {
                // Another run would wait for the same changes in vain.
                return Ok(());
            }
            if self.plan.stalled > 0 {
                let mut run = self.measure_beside_stalled(*pace, p99).await?;
                run.memory = self.memory(with_subscribers)?;
                report(run)?;
            }
        }
        Ok(())
    }

    fn memory(&self, with_subscribers: Option<u64>) -> anyhow::Result<Option<Memory>> {
        let after_run = self.resident_bytes()?;
        let memory = self.before_subscribers.zip(with_subscribers).zip(after_run);
        Ok(memory.map(|((before_subscribers, with_subscribers), after_run)| Memory {
            before_subscribers,
            with_subscribers,
            after_run,
        }))
    }

    fn resident_bytes(&self) -> anyhow::Result<Option<u64>> {
        self.server.map(Probe::resident_bytes).transpose()
    }

    /// The same once more, with clients that do not read; `p99_alone` is in microseconds.
    async fn measure_beside_stalled(&mut self, pace: Pace, p99_alone: u64) -> anyhow::Result<Run> {
        let before = self.resident_bytes()?;
        let stalled = StalledClients::subscribe(self.address, self.plan.stalled).await?;
        // Until their sockets are full they do not stall, and cost what everybody costs.
        self.write(pace, STALLING.min(self.plan.duration)).await?;
        let mut run = self.measure(pace).await?;
        let grown = self.resident_bytes()?.zip(before).map(|(after, before)| after.saturating_sub(before));
        let (exact, began_anew) = stalled.read_again(self.address).await?;
        run.stalled = Some(stalled::Outcome {
            clients: self.plan.stalled,
            bytes_each: grown.map(|bytes| bytes / self.plan.stalled as u64),
            p99_ratio: run.latency.value_at_quantile(0.99) as f64 / p99_alone.max(1) as f64,
            exact,
            began_anew,
        });
        Ok(run)
    }

    async fn measure(&mut self, pace: Pace) -> anyhow::Result<Run> {
        self.shared.has_given_up.set(false);
        self.write(pace, WARM_UP_MAX.min(self.plan.duration / 4)).await?;
        let first = self.next_seq;
        self.shared.board.borrow_mut().begin_counting(first);
        let before = Usage::read(self.server)?;
        self.write(pace, self.plan.duration).await?;
        let after = Usage::read(self.server)?;
        let mut board = self.shared.board.borrow_mut();
        let faults = board.faults(self.next_seq);
        let everybody_has = board.completion.completed();
        ensure!(
            faults.lost > 0 || everybody_has == self.next_seq,
            "the server left {} requests without a response",
            self.next_seq - everybody_has,
        );
        Ok(Run {
            pace,
            subscribers: self.plan.subscribers,
            elapsed: after.at - before.at,
            changes: self.next_seq - first,
            delivered: board.delivered,
            server_cpu: after.server.zip(before.server).map(|(after, before)| after.saturating_sub(before)),
            generator_cpu: after.generator.saturating_sub(before.generator),
            latency: board.latency.clone(),
            faults,
            memory: None,
            stalled: None,
        })
    }

    /// Writes at `pace`, then waits until everybody has everything or nothing comes any more.
    async fn write(&mut self, pace: Pace, duration: Duration) -> anyhow::Result<()> {
        // Without an answer to what was sent before there is nothing to measure.
        if !self.shared.has_given_up.get() {
            match pace {
                Pace::InFlight(changes) => self.closed_loop(u64::from(changes), duration).await?,
                Pace::PerSecond(changes) => self.open_loop(changes, duration).await?,
            }
            self.shared.wait_for(self.next_seq).await;
        }
        Ok(())
    }

    async fn closed_loop(&mut self, in_flight_max: u64, duration: Duration) -> anyhow::Result<()> {
        let writer = self.writer.as_mut().context("the writer is away")?;
        let begin = Instant::now();
        while begin.elapsed() < duration {
            let completed = self.shared.completed();
            while self.next_seq < completed + in_flight_max {
                writer.put(self.next_seq, Instant::now())?;
                self.next_seq += 1;
            }
            writer.send().await?;
            if !self.shared.wait_for(completed + 1).await {
                break;
            }
        }
        Ok(())
    }

    async fn open_loop(&mut self, per_second: u32, duration: Duration) -> anyhow::Result<()> {
        let writer = self.writer.take().context("the writer is away")?;
        let open_loop = OpenLoop {
            first: self.next_seq,
            changes: (duration.as_secs_f64() * f64::from(per_second)).ceil() as u64,
            interval: Duration::from_secs(1) / per_second,
            patience: PATIENCE,
            duration,
        };
        self.writer = Some(open_loop.run(writer).await?);
        self.next_seq += open_loop.changes;
        Ok(())
    }
}
