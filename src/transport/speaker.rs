//! What a connection says: its session, and the way to its client. Its own task does most of it; where there is nothing else
//! to do for the connection, whoever publishes a change takes it the whole way to the socket, and the task sleeps on.

use std::cell::RefCell;
use std::sync::{Arc, PoisonError, TryLockError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::frame_writer::{Frames, binary_header};
use super::outgoing::{Gone, Outgoing};
use crate::feed::sync::{Mutex, MutexGuard};
use crate::feed::{MessageKind, Outbox, Outlet, ViewChanges};
use crate::metrics::Metrics;
use crate::planted::PlantedBug;
use crate::session::{Session, Step, Work};
use crate::wire::{self, Messages, ServerMessage};

/// Written to the socket in one go; more waits in the outbox, where it is bounded and counted, and shared with others. It is
/// also what a client costs that does not read.
const WRITE_BYTES: usize = 16 * 1024;

/// A thread keeps room for so many bytes of frames; what a large message took is given back.
const KEPT_BYTES: usize = 4 * WRITE_BYTES;

thread_local! {
    /// One for each thread and not for each connection: most connections have nothing to say.
    static FRAMES: RefCell<Frames> = RefCell::default();
}

/// The way to a client, as far as who speaks has to know it.
pub(super) trait Way: Send + Sync {
    /// Sends whole frames behind what was not taken yet; says whether the client has taken all of it.
    fn send(&self, frames: &[u8]) -> Result<bool, Gone>;

    /// The same of frames that others are sent too.
    fn send_shared(&self, frames: &Bytes) -> Result<bool, Gone>;

    /// Whether there is something that the client has not taken.
    fn is_unflushed(&self) -> bool;
}

impl Way for Outgoing {
    fn send(&self, frames: &[u8]) -> Result<bool, Gone> {
        self.send(frames)
    }

    fn send_shared(&self, frames: &Bytes) -> Result<bool, Gone> {
        self.send_shared(frames)
    }

    fn is_unflushed(&self) -> bool {
        self.is_unflushed()
    }
}

/// Changes of which clients get a message each and no more go out without their sessions up to this size.
const PLAIN_BYTES: usize = 64 * 1024;

/// The frames that were last passed on as they are: the next connection mostly gets the same.
#[derive(Default)]
struct Plain {
    of: Option<(MessageKind, (u64, usize, usize))>,
    frames: Frames,
}

thread_local! {
    static PLAIN: RefCell<Plain> = RefCell::default();
}

impl Plain {
    /// Whether the frames of `changes` are here, or can be put together from messages that were kept.
    fn has(&self, kind: MessageKind, changes: &ViewChanges) -> bool {
        self.of == Some((kind, changes.identity()))
            || changes.left().iter().all(|change| change.kept_message(kind).is_some())
    }

    /// The frames of `changes`, whose messages were kept.
    fn frames(&mut self, kind: MessageKind, changes: &ViewChanges) -> &Frames {
        let of = Some((kind, changes.identity()));
        if self.of != of {
            self.of = of;
            self.frames.clear(KEPT_BYTES);
            for message in changes.left().iter().filter_map(|change| change.kept_message(kind)) {
                self.frames.put(|out| out.extend_from_slice(message));
            }
        }
        &self.frames
    }
}

/// One end of a conversation.
pub(super) struct Speaker {
    /// `None` before it begins and when it has ended.
    speaking: Mutex<Option<Speaking>>,
    wake: Notify,
    way: Arc<dyn Way>,
    metrics: Arc<Metrics>,
    /// The session's clock counts from here.
    began: Instant,
}

// In this order, so that whoever only passes something on touches little memory.
#[repr(C)]
struct Speaking {
    /// The task sleeps: everything was said.
    rest: Option<Rest>,
    /// What the session wants done, for the task.
    work: Vec<Work>,
    session: Session,
}

/// How long the task of a connection sleeps.
#[derive(Clone, Copy, Debug)]
struct Rest {
    /// Until then, in milliseconds of the session's clock, unless it is woken.
    due_ms: Option<u64>,
}

/// What the task of a connection does next.
pub(super) struct Turn {
    /// To begin.
    pub(super) work: Vec<Work>,
    /// When to come back, whatever happens.
    pub(super) due: Option<Instant>,
    /// Whether to read from the client.
    pub(super) may_read: bool,
    /// There is more to say than what goes out at a time, and the client takes it.
    pub(super) has_more: bool,
}

/// What was said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Everything,
    /// As much as goes out at a time.
    Part,
    /// What the client has not taken yet comes first.
    Nothing,
}

impl Speaker {
    /// Says nothing before [`Speaker::begin`]. The clock of its session counts from `began`, as those of all others.
    pub(super) fn new(way: Arc<dyn Way>, metrics: Arc<Metrics>, began: Instant) -> Arc<Self> {
        Arc::new(Self { speaking: Mutex::new(None), wake: Notify::new(), way, metrics, began })
    }

    /// Begins with `session`, which has this as its outlet; it ends when what is returned is dropped.
    pub(super) fn begin(self: &Arc<Self>, session: Session) -> Conversation {
        *self.lock() = Some(Speaking { session, work: Vec::new(), rest: None });
        Conversation(Arc::clone(self))
    }

    /// Waits until there is something for the task to do.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Speaking>> {
        self.speaking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Says what goes out at a time; `is_task` where it is the task of the connection that does.
    fn say(&self, speaking: &mut Speaking, is_task: bool) -> Result<Said, Gone> {
        if self.way.is_unflushed() {
            return Ok(Said::Nothing);
        }
        let mut frames = FRAMES.take();
        let mut committed = None;
        let said = loop {
            if frames.len() >= WRITE_BYTES {
                break Said::Part;
            }
            match speaking.session.next_step() {
                Step::Send(message) => {
                    if let ServerMessage::Changes { changes, .. } = &message {
                        committed = committed.or(changes.changes.committed());
                    }
                    wire::protobuf::encode(message, &self.metrics.row_problems, &mut frames);
                }
                Step::Do(Work::Share(share)) => match share.now() {
                    Some(result) => speaking.session.read(result),
                    None => speaking.work.push(Work::Share(share)),
                },
                // To wake another thread, and be woken by it, may take as long as to read.
                Step::Do(Work::Read(read)) if is_task => {
                    speaking.work.extend(speaking.session.read_at_once(read, binary_header).map(Work::Read));
                }
                Step::Do(work) => speaking.work.push(work),
                Step::Wait => break Said::Everything,
            }
        };
        let sent = self.send(&mut frames);
        self.metrics.messages_sent.inc_by(frames.count());
        self.metrics.bytes_sent.inc_by(frames.payload_bytes());
        frames.clear(KEPT_BYTES);
        FRAMES.set(frames);
        self.note_sent(committed);
        sent.map(|_| said)
    }

    /// Says whether the client has taken all of it.
    fn send(&self, frames: &mut Frames) -> Result<bool, Gone> {
        let shared = frames.take_shared();
        let sent = if frames.is_empty() { Ok(true) } else { self.way.send(frames.bytes()) };
        shared.map_or(sent, |shared| sent.and_then(|_| self.way.send_shared(&shared)))
    }

    /// Passes on what waits, if the task sleeps and a message for each change is all that there is to say: the session need not
    /// know of it. `false` if something else has to be done.
    fn pass_on(&self, speaking: &mut Speaking, outbox: &Outbox) -> bool {
        if speaking.rest.is_none() {
            return false;
        }
        let mut encoded = FRAMES.take();
        let encode = |(kind, changes): (MessageKind, ViewChanges), encoded: &mut Frames| {
            wire::protobuf::encode_plain(kind, changes, &self.metrics.row_problems, encoded);
        };
        let (mut last, mut committed) = (None, None);
        let is_plain = outbox.take_plain(PLAIN_BYTES, |kind, changes| {
            committed = committed.or(changes.committed());
            if let Some(before) = last.replace((kind, changes)) {
                encode(before, &mut encoded);
            }
        });
        let sent = last.map(|(kind, changes)| {
            let mut shared = PLAIN.take();
            let sent = if encoded.count() == 0 && shared.has(kind, &changes) {
                self.send_plain(shared.frames(kind, &changes))
            } else {
                encode((kind, changes), &mut encoded);
                self.send_plain(&encoded)
            };
            PLAIN.set(shared);
            sent
        });
        encoded.clear(KEPT_BYTES);
        FRAMES.set(encoded);
        self.note_sent(committed);
        if sent == Some(false) && !PlantedBug::UnsentIsLeftToNobody.is_planted() {
            speaking.rest = None;
            self.wake.notify_one();
        }
        is_plain
    }

    /// The oldest change in what was just written was `committed` then.
    fn note_sent(&self, committed: Option<std::time::Instant>) {
        if let Some(committed) = committed {
            self.metrics.delivery_seconds.observe(committed.elapsed());
        }
    }

    /// Says whether the client has taken all of it.
    fn send_plain(&self, frames: &Frames) -> bool {
        self.metrics.messages_sent.inc_by(frames.count());
        self.metrics.bytes_sent.inc_by(frames.payload_bytes());
        matches!(self.way.send(frames.bytes()), Ok(true))
    }

    /// Says what there is to say instead of the task, if that sleeps. `false` if the task has to be woken.
    fn say_for_task(&self, speaking: &mut Speaking) -> bool {
        let Some(rest) = speaking.rest.take() else {
            // It is on its way, or waits for the client: it looks by itself.
            return true;
        };
        if speaking.session.has_more_than_tables() {
            // It may take long, and whoever publishes has others to serve.
            return false;
        }
        if rest.due_ms.is_some() {
            speaking.session.tick(self.now_ms());
        }
        let is_all = matches!(self.say(speaking, false), Ok(Said::Everything))
            && speaking.work.is_empty()
            && (!self.way.is_unflushed() || PlantedBug::UnsentIsLeftToNobody.is_planted());
        let due_ms = speaking.session.due_ms();
        let sleeps_on = is_all && due_ms.is_none_or(|due_ms| rest.due_ms.is_some_and(|until_ms| until_ms <= due_ms));
        if sleeps_on {
            speaking.rest = Some(rest);
        }
        sleeps_on
    }
}

impl Outlet for Speaker {
    fn wake(&self) {
        self.wake.notify_one();
    }

    fn deliver(&self, outbox: &Outbox) {
        let is_done = match self.speaking.try_lock() {
            Ok(mut speaking) => {
                speaking.as_mut().is_none_or(|speaking| self.pass_on(speaking, outbox) || self.say_for_task(speaking))
            }
            // Whoever has it may have looked before there was something.
            Err(TryLockError::WouldBlock) => PlantedBug::BusyConnectionIsNotWoken.is_planted(),
            Err(TryLockError::Poisoned(_)) => true,
        };
        if !is_done {
            self.wake.notify_one();
        }
    }

    fn ask_for_memory(&self) -> usize {
        usize::from(self.speaking.is_poisoned()) ^ Arc::strong_count(&self.way)
    }
}

/// The session of a connection, for its task. Dropping it ends the session: nobody hands over changes any more.
pub(super) struct Conversation(Arc<Speaker>);

impl Conversation {
    /// Says what there is to say, and what to do next.
    pub(super) fn turn(&self) -> Result<Turn, Gone> {
        self.with(|speaker, speaking| {
            speaking.session.tick(speaker.now_ms());
            let said = speaker.say(speaking, true)?;
            let is_unflushed = speaker.way.is_unflushed();
            let due_ms = speaking.session.due_ms();
            let rests = said == Said::Everything && !is_unflushed;
            speaking.rest = rests.then_some(Rest { due_ms });
            Ok(Turn {
                work: std::mem::take(&mut speaking.work),
                due: due_ms.filter(|_| !is_unflushed).map(|due_ms| speaker.began + Duration::from_millis(due_ms)),
                may_read: !speaking.session.is_saturated(),
                has_more: said == Said::Part && !is_unflushed,
            })
        })
    }

    /// Tells the session something.
    pub(super) fn tell<T>(&self, news: impl FnOnce(&mut Session) -> T) -> T {
        self.with(|_, speaking| news(&mut speaking.session))
    }

    fn with<T>(&self, work: impl FnOnce(&Speaker, &mut Speaking) -> T) -> T {
        let Self(speaker) = self;
        let mut speaking = speaker.lock();
        work(speaker, speaking.as_mut().expect("a conversation has its session until it is dropped"))
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        // A publisher that has the way to this session in its hands finds nothing.
        let speaking = self.0.lock().take();
        drop(speaking);
    }
}
