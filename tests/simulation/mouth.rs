//! What a session says: when its connection asks it, or at once when something is published and its connection sleeps.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use starfeed::feed::{Outbox, Outlet};
use starfeed::session::{Session, Step};
use starfeed::wire::{LiveChanges, ServerMessage};

/// So much goes to a client that reads nothing.
const SOCKET_STEPS: usize = 4;

/// Where publishers reach a session.
#[derive(Default)]
struct Mouth {
    /// Publishers let the session speak, as a server does; otherwise they wake its connection.
    is_direct: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    session: Option<Session>,
    /// Said to publishers, and not yet heard by the client.
    said: VecDeque<Step>,
    is_woken: bool,
    /// Its connection sleeps, because everything was said.
    rests: bool,
    said_to_publishers: u64,
    /// Of those, how often the session did not even know.
    passed_on: u64,
}

impl Mouth {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outlet for Mouth {
    fn wake(&self) {
        self.lock().is_woken = true;
    }

    fn deliver(&self, outbox: &Outbox) {
        let mut state = self.lock();
        state.is_woken = true;
        if !self.is_direct || !state.rests || state.said.len() >= SOCKET_STEPS {
            return;
        }
        let is_plain = outbox.take_plain(usize::MAX, |kind, changes| {
            let (subscription_id, changes) = LiveChanges::plain(kind, changes);
            state.said.push_back(Step::Send(ServerMessage::Changes { subscription_id, changes }));
        });
        if is_plain {
            state.passed_on += 1;
            return;
        }
        let State { session: Some(session), said, said_to_publishers, .. } = &mut *state else { return };
        loop {
            match session.next_step() {
                Step::Wait => break,
                step => said.push_back(step),
            }
        }
        *said_to_publishers += 1;
    }
}

/// A session, as long as its connection has it.
pub(super) struct Conversation(Arc<Mouth>);

impl Conversation {
    /// Begins with the session that `session` makes of its outlet.
    pub(super) fn begin(is_direct: bool, session: impl FnOnce(Arc<dyn Outlet>) -> Session) -> Self {
        let mouth = Arc::new(Mouth { is_direct, ..Mouth::default() });
        let session = session(Arc::clone(&mouth) as _);
        mouth.lock().session = Some(session);
        Self(mouth)
    }

    /// Tells the session something, on which it may have more to say.
    pub(super) fn tell<T>(&self, news: impl FnOnce(&mut Session) -> T) -> T {
        let mut state = self.0.lock();
        state.rests = false;
        news(state.session.as_mut().expect("it is there until the connection is gone"))
    }

    /// Lets its time pass; says whether something is due.
    pub(super) fn tick(&self, now_ms: u64) -> bool {
        let mut state = self.0.lock();
        let session = state.session.as_mut().expect("it is there until the connection is gone");
        let is_due = session.due_ms().is_some_and(|due_ms| due_ms <= now_ms);
        session.tick(now_ms);
        state.rests &= !is_due;
        is_due
    }

    /// Whether it was woken since it was last asked.
    pub(super) fn is_woken(&self) -> bool {
        std::mem::take(&mut self.0.lock().is_woken)
    }

    /// What comes next.
    pub(super) fn next_step(&self) -> Step {
        let mut state = self.0.lock();
        if let Some(step) = state.said.pop_front() {
            return step;
        }
        let step = state.session.as_mut().expect("it is there until the connection is gone").next_step();
        state.rests = matches!(step, Step::Wait);
        step
    }

    /// How many times a publisher was the one it spoke to, and how many times it was passed over.
    pub(super) fn counts(&self) -> [(&'static str, u64); 2] {
        let state = self.0.lock();
        [
            ("a publisher spoke to a client itself", state.said_to_publishers),
            ("a publisher passed changes on to a client", state.passed_on),
        ]
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        let session = self.0.lock().session.take();
        drop(session);
    }
}
