//! The scenario `writes`: writers without subscribers, each with its own row, each waiting for its acknowledgements.

use std::time::Duration;

use anyhow::{Context, ensure};
use hdrhistogram::Histogram;
use prost::Message as _;

use super::attended::{Attend, Attended};
use super::board::{PATIENCE, latencies};
use super::connection::{Address, Outgoing};
use super::engine::{Answer, Audience, Engine, Nanos, Stop};
use super::event;
use super::fan_out::Plan;
use super::frame::Opcode;
use super::process::Probe;
use super::subject::Subject;
use super::table::{self, Table};
use super::usage::{Usage, Used};
use super::wire::{self, Heard};
use crate::proto;

/// What came of one depth.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) writers: usize,
    pub(super) in_flight_each: u64,
    pub(super) acknowledged: u64,
    pub(super) used: Used,
    /// In microseconds.
    pub(super) latency: Histogram<u64>,
}

#[derive(Debug)]
struct Writer {
    outgoing: Outgoing,
    row: Vec<u8>,
    /// When each write that is not acknowledged yet was sent, by its number modulo how many there may be.
    sent: Vec<Nanos>,
    next: u64,
    acknowledged: u64,
}

#[derive(Debug)]
struct Writers {
    writers: Vec<Writer>,
    in_flight_each: u64,
    end: Nanos,
    name_bytes: usize,
    latency: Histogram<u64>,
    counted: u64,
    last_arrival: Nanos,
    request: Vec<u8>,
    /// Writers whose socket did not take everything.
    stuck: Vec<usize>,
}

impl Writers {
    /// Lets writer `at` write as much as it may.
    fn write(&mut self, at: usize, now: Nanos) -> anyhow::Result<()> {
        let writer = &mut self.writers[at];
        while now < self.end && writer.next - writer.acknowledged < self.in_flight_each {
            let command = Some(Table::Policies.set(Some(&writer.row), event::name(writer.next, self.name_bytes)));
            self.request.clear();
            proto::Request { request_id: i32::try_from(writer.next)?, command }.encode(&mut self.request)?;
            writer.outgoing.put(&self.request, Opcode::Binary);
            writer.sent[usize::try_from(writer.next % self.in_flight_each)?] = now;
            writer.next += 1;
        }
        if !writer.outgoing.is_empty() && !writer.outgoing.flush()? {
            self.stuck.push(at);
        }
        Ok(())
    }

    fn are_all_acknowledged(&self) -> bool {
        self.writers.iter().all(|writer| writer.acknowledged == writer.next)
    }
}

impl Audience for Writers {
    fn hear(&mut self, from: usize, message: &[u8], now: Nanos) -> anyhow::Result<Option<Answer>> {
        let Some(Heard::Accepted(number)) = wire::response(message)? else { return Ok(None) };
        let writer = &mut self.writers[from];
        ensure!(number == writer.acknowledged, "a write was acknowledged that is not the next one");
        let sent = writer.sent[usize::try_from(number % self.in_flight_each)?];
        writer.acknowledged += 1;
        self.counted += 1;
        self.last_arrival = now;
        self.latency.saturating_record(now.saturating_sub(sent) / 1000);
        self.write(from, now)?;
        Ok(None)
    }

    fn between(&mut self, now: Nanos) -> anyhow::Result<()> {
        for at in std::mem::take(&mut self.stuck) {
            self.write(at, now)?;
        }
        Ok(())
    }
}

/// Everybody with their connections.
#[derive(Debug)]
struct Load {
    engine: Engine,
    writers: Writers,
}

impl Attend for Load {
    fn attend(&mut self, wait: Duration) -> anyhow::Result<()> {
        self.engine.turn(wait, &mut self.writers)
    }
}

impl Load {
    fn connect(address: &Address, rows: Vec<Vec<u8>>, name_bytes: usize, stop: Stop) -> anyhow::Result<Self> {
        let mut engine = Engine::new(stop)?;
        let mut writers = Writers {
            writers: Vec::new(),
            in_flight_each: 0,
            end: 0,
            name_bytes,
            latency: latencies()?,
            counted: 0,
            last_arrival: 0,
            request: Vec::new(),
            stuck: Vec::new(),
        };
        engine.open(address, rows.len(), &mut writers, |_, _| {})?;
        let writer =
            |(at, row)| Writer { outgoing: engine.writer(at), row, sent: Vec::new(), next: 0, acknowledged: 0 };
        writers.writers = rows.into_iter().enumerate().map(writer).collect();
        Ok(Self { engine, writers })
    }

    fn write(&mut self, in_flight_each: u64, duration: Duration) -> anyhow::Result<()> {
        let begin = self.engine.now();
        self.writers.in_flight_each = in_flight_each;
        self.writers.end = begin + u64::try_from(duration.as_nanos())?;
        for at in 0..self.writers.writers.len() {
            self.writers.writers[at].sent = vec![0; usize::try_from(in_flight_each)?];
            self.writers.write(at, begin)?;
        }
        while self.engine.now() < self.writers.end || !self.writers.are_all_acknowledged() {
            self.engine.turn(Duration::from_millis(10), &mut self.writers)?;
            let silence = self.engine.now().saturating_sub(self.writers.last_arrival.max(begin));
            ensure!(silence < PATIENCE.as_nanos() as u64, "the server left writes without an answer");
        }
        Ok(())
    }

    fn measure(&mut self, in_flight_each: u64, duration: Duration, server: Option<&Probe>) -> anyhow::Result<Written> {
        self.write(in_flight_each, (duration / 4).min(Duration::from_secs(1)))?;
        self.writers.counted = 0;
        self.writers.latency.reset();
        let before = Usage::read(server)?;
        self.write(in_flight_each, duration)?;
        Ok(Written {
            writers: self.writers.writers.len(),
            in_flight_each,
            acknowledged: self.writers.counted,
            used: before.until(&Usage::read(server)?),
            latency: self.writers.latency.clone(),
        })
    }
}

/// Measures `writers` writers, each with so many writes in flight as `depths` says.
pub(super) async fn run(
    subject: &Subject,
    plan: &Plan,
    writers: usize,
    depths: &[u32],
    mut report: impl FnMut(Written) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let name_bytes = event::name_bytes(plan.payload_bytes, &[Table::Policies])?;
    let tables = vec![Table::Policies; writers];
    let rows = table::create_rows(subject.address.url(), &tables, name_bytes).await.context("no rows to write")?;
    let (address, core) = (subject.address.clone(), plan.cores.map(|cores| cores.generator));
    let load =
        Attended::start(Stop::default(), core, move |stop| Load::connect(&address, rows, name_bytes, stop)).await?;
    for depth in depths.iter().copied() {
        let (duration, probe) = (plan.duration, subject.probe.clone());
        report(load.run(move |load| load.measure(u64::from(depth), duration, probe.as_ref())).await?)?;
    }
    Ok(())
}
