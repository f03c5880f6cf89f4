//! The load generator's one thread: all its connections, read from as they become ready.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;

use super::connection::{Address, Connection, Outgoing, Progress, READ_BUFFER_BYTES};
use super::frame::Opcode;
use super::pin;
use super::poller::Poller;

/// Nanoseconds since the beginning of an engine.
pub(super) type Nanos = u64;

/// Who takes what comes.
pub(super) trait Audience {
    /// Takes a message of connection `from`, which was read at `now`; says what to answer at once, if anything.
    fn hear(&mut self, from: usize, message: &[u8], now: Nanos) -> anyhow::Result<Option<Answer>>;

    /// Is called between two reads, and when a wait is over: what is due has not to wait until all that came is read.
    fn between(&mut self, _now: Nanos) -> anyhow::Result<()> {
        Ok(())
    }
}

/// What a message is answered with.
pub(super) type Answer = (&'static [u8], Opcode);

/// All connections.
#[derive(Debug)]
pub(super) struct Engine {
    poller: Poller,
    /// Nothing where the thread has a processor for itself: to wake somebody costs whoever sends, and here that is the server.
    wait_max: Duration,
    connections: Vec<Slot>,
    buffer: Vec<u8>,
    base: Instant,
    stop: Stop,
}

#[derive(Debug)]
struct Slot {
    connection: Connection,
    /// Not read from now.
    is_paused: bool,
}

/// Upgrades at a time.
const UPGRADES_MAX: usize = 64;
/// How long it takes at most until somebody notices that the run was given up.
const WAIT_MAX: Duration = Duration::from_millis(50);
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(30);

impl Engine {
    /// One without connections, which ends its work when `stop` says so.
    pub(super) fn new(stop: Stop) -> anyhow::Result<Self> {
        Ok(Self {
            poller: Poller::new()?,
            wait_max: if pin::has_own_processor() { Duration::ZERO } else { WAIT_MAX },
            connections: Vec::new(),
            buffer: vec![0; READ_BUFFER_BYTES],
            base: Instant::now(),
            stop,
        })
    }

    pub(super) fn now(&self) -> Nanos {
        u64::try_from(self.base.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Begins one more connection; returns its number. Messages may be sent at once.
    pub(super) fn begin(&mut self, address: &Address) -> anyhow::Result<usize> {
        let connection = Connection::begin(address)?;
        self.poller.add(connection.stream(), self.connections.len())?;
        self.connections.push(Slot { connection, is_paused: false });
        Ok(self.connections.len() - 1)
    }

    /// Ends connection `at` without a word, and begins another one in its place.
    pub(super) fn begin_again(&mut self, at: usize, address: &Address) -> anyhow::Result<()> {
        let connection = Connection::begin(address)?;
        self.poller.add(connection.stream(), at)?;
        self.connections[at] = Slot { connection, is_paused: false };
        Ok(())
    }

    /// Opens `count` connections. Each is sent the messages of `greeting` for its number.
    pub(super) fn open(
        &mut self,
        address: &Address,
        count: usize,
        audience: &mut impl Audience,
        greeting: impl Fn(usize, &mut dyn FnMut(&[u8], Opcode)),
    ) -> anyhow::Result<()> {
        let first = self.connections.len();
        let end = first + count;
        let mut opened = first;
        let mut deadline = Instant::now() + UPGRADE_TIMEOUT;
        while opened < end {
            while self.connections.len() < end.min(opened + UPGRADES_MAX) {
                let at = self.begin(address)?;
                let outgoing = &mut self.connections[at].connection;
                let mut result = Ok(());
                greeting(at, &mut |message, opcode| {
                    if result.is_ok() {
                        result = outgoing.send(message, opcode);
                    }
                });
                result?;
            }
            self.turn(WAIT_MAX, audience)?;
            while opened < self.connections.len() && self.connections[opened].connection.is_open() {
                opened += 1;
                deadline = Instant::now() + UPGRADE_TIMEOUT;
            }
            ensure!(Instant::now() < deadline, "no WebSocket to {}: no answer for 30 s", address.url());
        }
        Ok(())
    }

    pub(super) fn send(&mut self, at: usize, message: &[u8], opcode: Opcode) -> anyhow::Result<()> {
        self.connections[at].connection.send(message, opcode)
    }

    /// A way out of connection `at` of its own.
    pub(super) fn writer(&self, at: usize) -> Outgoing {
        self.connections[at].connection.writer()
    }

    /// Reads nothing more from connection `at`.
    pub(super) fn pause(&mut self, at: usize) {
        self.connections[at].is_paused = true;
    }

    /// Reads again from connection `at`.
    pub(super) fn resume(&mut self, at: usize, audience: &mut impl Audience) -> anyhow::Result<()> {
        self.connections[at].is_paused = false;
        // What became readable meanwhile was told then, and is not told again.
        self.read(at, false, audience)
    }

    /// Waits until something comes, but for `wait` at most, and takes all that is there.
    pub(super) fn turn(&mut self, wait: Duration, audience: &mut impl Audience) -> anyhow::Result<()> {
        self.stop.check()?;
        let count = self.poller.wait(wait.min(self.wait_max))?;
        if count == 0 {
            return audience.between(self.now());
        }
        for at in 0..count {
            let readiness = self.poller.readiness(at);
            if readiness.is_writable {
                self.connections[readiness.token].connection.flush()?;
            }
            if readiness.is_readable && !self.connections[readiness.token].is_paused {
                self.read(readiness.token, readiness.has_ended, audience)?;
            }
        }
        Ok(())
    }

    fn read(&mut self, from: usize, has_ended: bool, audience: &mut impl Audience) -> anyhow::Result<()> {
        let Self { connections, buffer, base, .. } = self;
        let connection = &mut connections[from].connection;
        let since = |base: &Instant| u64::try_from(base.elapsed().as_nanos()).unwrap_or(u64::MAX);
        loop {
            let mut now = 0;
            let mut answer = None;
            let progress = connection.read(buffer, |message| {
                if now == 0 {
                    now = since(base);
                }
                if let Some(next) = audience.hear(from, message, now)? {
                    answer = Some(next);
                }
                Ok(())
            })?;
            if let Some((message, opcode)) = answer {
                connection.send(message, opcode)?;
            }
            audience.between(if now == 0 { since(base) } else { now })?;
            // Of one that has ended everything is read, until the error that says why.
            if progress == Progress::Drained && !(has_ended && now > 0) {
                return Ok(());
            }
        }
    }
}

/// Whether a run was given up.
#[derive(Clone, Debug, Default)]
pub(super) struct Stop(Arc<AtomicBool>);

impl Stop {
    pub(super) fn check(&self) -> anyhow::Result<()> {
        ensure!(!self.0.load(Ordering::Relaxed), "the run was given up");
        Ok(())
    }

    /// Gives up whatever runs.
    pub(super) fn give_up(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
