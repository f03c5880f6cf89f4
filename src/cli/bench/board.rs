//! What has come so far, and what is due: one writer whose every change all subscribers of its table have to get.

use std::time::Duration;

use anyhow::{Context, ensure};
use hdrhistogram::Histogram;
use prost::Message as _;

use super::connection::Outgoing;
use super::engine::{Answer, Audience, Nanos};
use super::event::{self, RowEvent};
use super::frame::Opcode;
use super::pace::{Drive, Pace};
use super::sequence::{Arrival, Completion, Faults, SequenceCheck};
use super::wire::{self, Heard, Wire};
use crate::proto::{self, request::Command};

/// When nothing has come for so long, what is still missing is lost.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
const LATENCY_MICROS_MAX: u64 = 3_600_000_000;
/// Requests that are due at the same time go out together, up to this size.
const BATCH_BYTES: usize = 64 * 1024;

/// An empty histogram of latencies in microseconds.
pub(super) fn latencies() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, LATENCY_MICROS_MAX, 3)?)
}

/// Everything that the generator knows. Changes are numbered over all tables, which take turns: change `n` is change `n / M`
/// of table `n % M`, and that is the number it carries.
#[derive(Debug)]
pub(super) struct Board {
    wire: Wire,
    tables: usize,
    payload_bytes: usize,
    pub(super) subscribers: Vec<Listener>,
    completions: Vec<Completion>,
    /// When each change was sent, or should have been.
    sent: Vec<Nanos>,
    drive: Drive,
    writer: Option<Outgoing>,
    request: Vec<u8>,
    subscribed: usize,
    /// Earlier changes are warm-up and do not count.
    first_counted: u64,
    pub(super) delivered: u64,
    last_arrival: Nanos,
    pub(super) latency: Histogram<u64>,
}

/// One subscriber.
#[derive(Debug, Default)]
pub(super) struct Listener {
    check: SequenceCheck,
    /// It comes and goes: what it gets is checked, but nobody waits for it, and its latencies are its own.
    restless: Option<Box<Restless>>,
}

/// What a subscriber that comes and goes knows.
#[derive(Debug, Default)]
struct Restless {
    /// Where it can go on.
    token: Vec<u8>,
    subscription: u64,
    /// It has asked, and has no answer.
    is_busy: bool,
    /// It subscribes anew: the first event says where.
    begins_anew: bool,
}

impl Board {
    /// A board for `subscribers`, the last connections of which come and go where `restless` says how many.
    pub(super) fn new(
        wire: Wire,
        tables: usize,
        payload_bytes: usize,
        subscribers: usize,
        restless: usize,
    ) -> anyhow::Result<Self> {
        let listeners = (0..subscribers).map(|at| Listener {
            check: SequenceCheck::default(),
            restless: (at >= subscribers - restless).then(Box::default),
        });
        let completions = (0..tables).map(|table| {
            let steady = (table..subscribers - restless).step_by(tables).count();
            // The writer is one of everybody, where changes are accepted.
            let everybody = u32::try_from(steady + usize::from(wire.accepts())).unwrap_or(u32::MAX);
            let mut completion = Completion::new(everybody);
            if wire.has_first_row() {
                // The row was created before anybody listened.
                completion.reached(0..1);
            }
            completion
        });
        Ok(Self {
            tables,
            payload_bytes,
            subscribers: listeners.collect(),
            completions: completions.collect(),
            sent: vec![0; if wire.has_first_row() { tables } else { 0 }],
            drive: Drive::Rest,
            writer: None,
            request: Vec::new(),
            subscribed: 0,
            first_counted: 0,
            delivered: 0,
            last_arrival: 0,
            latency: latencies()?,
            wire,
        })
    }

    /// Changes are written through `writer` from now on.
    pub(super) fn write_through(&mut self, writer: Outgoing) {
        self.writer = Some(writer);
    }

    /// What connection `at` says first.
    pub(super) fn greet(&self, at: usize, say: &mut dyn FnMut(&[u8], Opcode)) {
        let is_restless = self.subscribers.get(at).is_some_and(|subscriber| subscriber.restless.is_some());
        if is_restless {
            say(&self.wire.subscribe_with_tokens(at % self.tables, None), Opcode::Binary);
        } else {
            self.wire.greet(self.table_of(at), say);
        }
    }

    /// The table that connection `at` subscribes to; `None` for the writer.
    fn table_of(&self, at: usize) -> Option<usize> {
        (at < self.subscribers.len()).then_some(at % self.tables)
    }

    /// Whether every subscription has begun.
    pub(super) fn is_ready(&self) -> bool {
        let first_rows = if self.wire.has_first_row() { self.tables as u64 } else { 0 };
        self.subscribed >= self.subscribers.len() && self.completed() >= first_rows
    }

    /// The number of the next change.
    pub(super) fn next(&self) -> u64 {
        self.sent.len() as u64
    }

    /// How many changes everybody has.
    pub(super) fn completed(&self) -> u64 {
        self.completions.iter().map(Completion::completed).sum()
    }

    /// Writes at `pace` from `now` on.
    pub(super) fn begin(&mut self, pace: Pace, now: Nanos, duration: Duration) {
        self.drive = Drive::new(pace, now, duration);
        self.last_arrival = now;
    }

    /// Counts from here on.
    pub(super) fn begin_counting(&mut self) {
        self.first_counted = self.next();
        self.delivered = 0;
        self.latency.reset();
    }

    /// How long there is nothing to do but to listen.
    pub(super) fn wait(&self, now: Nanos) -> Duration {
        self.drive.wait(now, self.next() - self.completed())
    }

    /// Whether all is written, and everybody has it, those that come and go too.
    pub(super) fn is_done(&self, now: Nanos) -> bool {
        self.drive.is_over(now) && self.completed() == self.next() && self.are_restless_level()
    }

    fn are_restless_level(&self) -> bool {
        let first =
            self.subscribers.iter().rposition(|subscriber| subscriber.restless.is_none()).map_or(0, |at| at + 1);
        let mut restless = self.subscribers.iter().enumerate().skip(first);
        restless.all(|(at, subscriber)| {
            let numbers = numbers_of_table(at % self.tables, self.tables, self.next());
            subscriber.check.next() >= numbers && subscriber.restless.as_ref().is_none_or(|restless| !restless.is_busy)
        })
    }

    /// Whether restless subscriber `at` waits for an answer.
    pub(super) fn is_busy(&self, at: usize) -> bool {
        self.subscribers[at].restless.as_ref().is_some_and(|restless| restless.is_busy)
    }

    /// The requests by which restless subscriber `at` ends its subscription and begins another one.
    pub(super) fn subscribe_anew(&mut self, at: usize) -> Vec<Vec<u8>> {
        let table = at % self.tables;
        let Some(restless) = &mut self.subscribers[at].restless else { return Vec::new() };
        restless.is_busy = true;
        restless.begins_anew = true;
        let subscription_id = i32::try_from(restless.subscription).unwrap_or_default();
        let unsubscribe = proto::RequestUnsubscribe { subscription_id };
        let request = proto::Request { request_id: 1, command: Some(Command::Unsubscribe(unsubscribe)) };
        vec![request.encode_to_vec(), self.wire.subscribe_with_tokens(table, None)]
    }

    /// The request by which restless subscriber `at` goes on, on a new connection, where it was.
    pub(super) fn go_on(&mut self, at: usize) -> Vec<u8> {
        let table = at % self.tables;
        let Some(restless) = &mut self.subscribers[at].restless else { return Vec::new() };
        restless.is_busy = true;
        let token = (!restless.token.is_empty()).then(|| restless.token.clone());
        self.wire.subscribe_with_tokens(table, token)
    }

    /// A restless subscriber hears `message`.
    fn hear_restless(&mut self, at: usize, message: &[u8], now: Nanos) -> anyhow::Result<()> {
        let table = at % self.tables;
        let Some(restless) = self.subscribers[at].restless.as_mut() else { return Ok(()) };
        let Some(event) = RowEvent::of_message(message) else {
            if let Some(subscription) = wire::new_subscription(message)? {
                // The first one of all is not yet one of those that come and go.
                self.subscribed += usize::from(!restless.is_busy);
                restless.is_busy = false;
                restless.subscription = subscription;
            }
            return Ok(());
        };
        if !self.wire.is_row(table, event.id) {
            return Ok(());
        }
        let number = event::number_of(event.name).context("somebody else changes the row that is measured")?;
        ensure!(
            restless.is_busy || event.subscription_id == restless.subscription,
            "an event came of a subscription that had ended",
        );
        restless.token.clear();
        restless.token.extend_from_slice(event.token.context("an event came without a token")?);
        if restless.begins_anew && event.subscription_id == restless.subscription && !restless.is_busy {
            restless.begins_anew = false;
            self.subscribers[at].check.begin_at(number);
        }
        self.arrived(at, number, now)
    }

    /// Whether nothing comes any more.
    pub(super) fn is_silent(&self, now: Nanos) -> bool {
        now.saturating_sub(self.last_arrival.max(self.drive.end())) > PATIENCE.as_nanos() as u64
    }

    /// When the last change is due.
    pub(super) fn end(&self) -> Nanos {
        self.drive.end()
    }

    /// Waits for nothing more.
    pub(super) fn give_up(&mut self) {
        self.drive = Drive::Rest;
    }

    /// What went wrong until now; begins to look for more.
    pub(super) fn faults(&mut self) -> Faults {
        let (next, tables) = (self.next(), self.tables);
        let mut faults = Faults::default();
        for (at, subscriber) in self.subscribers.iter_mut().enumerate() {
            faults.add(subscriber.check.finish(numbers_of_table(at % tables, tables, next)));
        }
        faults
    }

    fn arrived(&mut self, at: usize, number: u64, now: Nanos) -> anyhow::Result<()> {
        self.last_arrival = now;
        let table = at % self.tables;
        let change = number * self.tables as u64 + table as u64;
        let sent = usize::try_from(change).ok().and_then(|change| self.sent.get(change).copied());
        ensure!(sent.is_some(), "a subscriber was sent change {number}, which there is not yet");
        let subscriber = &mut self.subscribers[at];
        let arrival = subscriber.check.arrived(number);
        if arrival != Arrival::Repeated && change >= self.first_counted {
            self.delivered += 1;
            if subscriber.restless.is_none() {
                self.latency.saturating_record(now.saturating_sub(sent.unwrap_or(now)) / 1000);
            }
        }
        if let Arrival::Next(passed) = arrival
            && subscriber.restless.is_none()
        {
            self.completions[table].reached(passed);
        }
        Ok(())
    }

    /// Puts what is due into the writer's queue, and sends it.
    fn write(&mut self, now: Nanos) -> anyhow::Result<()> {
        let Some(mut writer) = self.writer.take() else { return Ok(()) };
        while writer.waiting_bytes() < BATCH_BYTES
            && let Some(sent) = self.drive.take_due(now, self.next() - self.completed())
        {
            let (table, number) = (self.sent.len() % self.tables, (self.sent.len() / self.tables) as u64);
            self.request.clear();
            let request_id = i32::try_from(self.sent.len())?;
            let opcode = self.wire.publish(table, number, request_id, self.payload_bytes, &mut self.request)?;
            writer.put(&self.request, opcode);
            self.sent.push(sent);
        }
        if !writer.is_empty() {
            writer.flush()?;
        }
        self.writer = Some(writer);
        Ok(())
    }
}

/// How many of the changes below `end` are of `table`.
fn numbers_of_table(table: usize, tables: usize, end: u64) -> u64 {
    (end + tables as u64 - 1 - table as u64) / tables as u64
}

impl Audience for Board {
    fn hear(&mut self, from: usize, message: &[u8], now: Nanos) -> anyhow::Result<Option<Answer>> {
        if self.subscribers.get(from).is_some_and(|subscriber| subscriber.restless.is_some()) {
            return self.hear_restless(from, message, now).map(|()| None);
        }
        let table = self.table_of(from);
        let mut heard = None;
        let mut more = Vec::new();
        let answer = self.wire.hear(from, table, message, |what| {
            // Most messages say one thing, and take no memory.
            match heard {
                None => heard = Some(what),
                Some(_) => more.push(what),
            }
            Ok(())
        })?;
        for what in heard.into_iter().chain(more) {
            match what {
                Heard::Change(number) if table.is_some() => self.arrived(from, number, now)?,
                Heard::Change(_) => {}
                Heard::Subscribed => self.subscribed += 1,
                Heard::Accepted(change) if table.is_none() => {
                    self.last_arrival = now;
                    let number = change / self.tables as u64;
                    let table = usize::try_from(change % self.tables as u64)?;
                    self.completions[table].reached(number..number + 1);
                }
                Heard::Accepted(_) => {}
            }
        }
        Ok(answer)
    }

    fn between(&mut self, now: Nanos) -> anyhow::Result<()> {
        if self.drive.is_due(now, self.next() - self.completed())
            || self.writer.as_ref().is_some_and(|writer| !writer.is_empty())
        {
            self.write(now)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_dealt_out_to_the_tables() {
        for tables in 1..5 {
            for end in 0..20 {
                for table in 0..tables {
                    let counted = (0..end).filter(|change| change % tables as u64 == table as u64).count() as u64;
                    assert_eq!(numbers_of_table(table, tables, end), counted, "{table} of {tables} below {end}");
                }
            }
        }
    }

    fn board(subscribers: usize) -> Board {
        Board::new(Wire::Centrifugo, 1, 20, subscribers, 0).expect("a board")
    }

    fn hear(board: &mut Board, from: usize, number: u64) {
        let text = format!("{{\"push\":{{\"pub\":{{\"data\":\"b-{number:010}\"}}}}}}");
        board.hear(from, text.as_bytes(), 5_000).expect("it is understood");
    }

    #[test]
    fn a_planted_loss_is_noticed() {
        let mut board = board(2);
        board.sent = vec![1_000; 4];
        for number in 0..4 {
            hear(&mut board, 0, number);
            // The other one misses number 2.
            if number != 2 {
                hear(&mut board, 1, number);
            }
        }
        assert_eq!(board.completed(), 4, "it is passed, not waited for");
        assert_eq!(board.delivered, 7);
        assert_eq!(board.faults(), Faults { lost: 1, ..Faults::default() });
        assert_eq!(board.latency.max(), 4);
    }

    #[test]
    fn what_was_never_sent_is_no_change() {
        let mut board = board(1);
        let text = b"{\"push\":{\"pub\":{\"data\":\"b-0000000003\"}}}";
        assert!(board.hear(0, text, 5).is_err());
    }
}
