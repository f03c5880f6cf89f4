//! Clients that come and go while others are measured: they subscribe anew, stop reading for a second, or lose their
//! connection and go on with a token. They have to get everything too, but nobody waits for them.

use std::time::Duration;

use super::board::Board;
use super::connection::Address;
use super::engine::{Engine, Nanos};
use super::frame::Opcode;

/// What is done to restless clients, one after the other.
#[derive(Debug)]
pub(super) struct Churn {
    address: Address,
    /// The restless ones: the last of all subscribers.
    first: usize,
    end: usize,
    interval: Nanos,
    due: Nanos,
    next: u64,
    /// Who does not read, and until when.
    paused: Vec<(usize, Nanos)>,
    pub(super) done: Done,
}

/// How often each was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) resubscribed: u64,
    pub(super) stalled: u64,
    pub(super) reconnected: u64,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Outcome {
    pub(super) done: Done,
    /// The 99th percentile of the others' latencies, beside that without churn.
    pub(super) p99_ratio: f64,
}

const PAUSE: Nanos = 1_000_000_000;

/// How many of `subscribers` are restless: each has its turn about every ten seconds.
pub(super) fn restless(subscribers: usize) -> usize {
    (subscribers / 10).max(3).min(subscribers.saturating_sub(1))
}

impl Churn {
    /// One percent of `subscribers` clients a second, taken from the restless ones.
    pub(super) fn new(address: &Address, subscribers: usize, now: Nanos) -> Self {
        let interval = 100 * 1_000_000_000 / subscribers.max(1) as u64;
        Self {
            address: address.clone(),
            first: subscribers - restless(subscribers),
            end: subscribers,
            // Even of few clients some do something in a short run.
            interval: interval.min(250_000_000),
            due: now,
            next: 0,
            paused: Vec::new(),
            done: Done::default(),
        }
    }

    /// Does what is due.
    pub(super) fn step(&mut self, engine: &mut Engine, board: &mut Board, now: Nanos) -> anyhow::Result<()> {
        self.wake(engine, board, now)?;
        while self.due <= now {
            self.due += self.interval;
            let at = self.first + usize::try_from(self.next % (self.end - self.first) as u64)?;
            let round = self.next / (self.end - self.first) as u64;
            let kind = (self.next + round) % 3;
            self.next += 1;
            if board.is_busy(at) || self.paused.iter().any(|(paused, _)| *paused == at) {
                continue;
            }
            match kind {
                0 => {
                    for request in board.subscribe_anew(at) {
                        engine.send(at, &request, Opcode::Binary)?;
                    }
                    self.done.resubscribed += 1;
                }
                1 => {
                    engine.pause(at);
                    self.paused.push((at, now + PAUSE));
                    self.done.stalled += 1;
                }
                _ => {
                    engine.begin_again(at, &self.address)?;
                    engine.send(at, &board.go_on(at), Opcode::Binary)?;
                    self.done.reconnected += 1;
                }
            }
        }
        Ok(())
    }

    /// How long there is nothing to do.
    pub(super) fn wait(&self, now: Nanos) -> Duration {
        let woken = self.paused.iter().map(|(_, until)| *until).min().unwrap_or(Nanos::MAX);
        Duration::from_nanos(self.due.min(woken).saturating_sub(now))
    }

    /// Lets those read again whose time it is, or, with the end of time, all.
    pub(super) fn wake(&mut self, engine: &mut Engine, board: &mut Board, now: Nanos) -> anyhow::Result<()> {
        while let Some(which) = self.paused.iter().position(|(_, until)| *until <= now) {
            let (at, _) = self.paused.swap_remove(which);
            engine.resume(at, board)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_is_restless_and_never_all() {
        assert_eq!([2, 3, 20, 1000].map(restless), [1, 2, 3, 100]);
    }
}
