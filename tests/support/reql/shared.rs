//! The world, for the server's thread and the test's.

use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

use super::world::World;

pub(super) struct Shared {
    world: Mutex<World>,
    changes: watch::Sender<u64>,
}

impl Shared {
    pub(super) fn new(world: World) -> Self {
        Self { world: Mutex::new(world), changes: watch::Sender::new(0) }
    }

    /// Looks, or changes what no other connection waits for.
    pub(super) fn look<T>(&self, look: impl FnOnce(&mut World) -> T) -> T {
        // A test that fails while it looks has its own message; the others go on.
        look(&mut self.world.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the world, and wakes every connection.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        let result = self.look(change);
        self.changes.send_modify(|version| *version += 1);
        result
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}
