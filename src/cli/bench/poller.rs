//! Waiting for many sockets at once, in one thread: epoll, each change of a socket told once.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

/// Sockets, each under a number.
pub(super) struct Poller {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
}

impl std::fmt::Debug for Poller {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Poller").field("epoll", &self.epoll).finish_non_exhaustive()
    }
}

/// What is new of a socket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Readiness {
    pub(super) token: usize,
    /// There is something to read, or it has ended.
    pub(super) is_readable: bool,
    /// It takes bytes.
    pub(super) is_writable: bool,
    /// The other side has ended it, or it is broken: reading tells which, once all that came before is read.
    pub(super) has_ended: bool,
}

/// How many sockets are told of at a time.
const EVENTS_MAX: usize = 1024;

impl Poller {
    /// One without sockets.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?, events: Vec::with_capacity(EVENTS_MAX) })
    }

    /// Tells of `socket` as `token` from now on, until it is closed. What a caller was told of, it has to read until a
    /// read brings less than it has room for, and to write until a write is refused.
    pub(super) fn add(&self, socket: impl AsFd, token: usize) -> io::Result<()> {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        Ok(epoll::add(&self.epoll, socket, epoll::EventData::new_u64(token as u64), flags)?)
    }

    /// Waits, but for `wait` at most; then [`Poller::readiness`] has what came. How many there are is returned.
    pub(super) fn wait(&mut self, wait: Duration) -> io::Result<usize> {
        let wait = Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(wait.subsec_nanos()),
        };
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(self.events.len()),
            Err(error) => Err(error.into()),
        }
    }

    /// Number `at` of what the last wait brought.
    pub(super) fn readiness(&self, at: usize) -> Readiness {
        let event = self.events[at];
        let flags = event.flags;
        let has_ended = flags.intersects(epoll::EventFlags::RDHUP | epoll::EventFlags::HUP | epoll::EventFlags::ERR);
        Readiness {
            token: usize::try_from(event.data.u64()).expect("tokens were usize"),
            is_readable: has_ended || flags.contains(epoll::EventFlags::IN),
            is_writable: flags.contains(epoll::EventFlags::OUT),
            has_ended,
        }
    }
}
