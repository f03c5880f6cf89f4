//! A load on a thread of its own, which answers the server's pings whenever it has nothing else to do.

use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::anyhow;
use tokio::sync::oneshot;

use super::engine::Stop;
use super::pin::Core;
use crate::task;

/// Something with connections.
pub(super) trait Attend {
    /// Takes what comes, for `wait` at most.
    fn attend(&mut self, wait: Duration) -> anyhow::Result<()>;
}

/// A load with its thread, which ends with this.
#[derive(Debug)]
pub(super) struct Attended<L> {
    work: Option<Sender<Work<L>>>,
    stop: Stop,
    failure: Arc<Mutex<Option<anyhow::Error>>>,
    thread: Option<JoinHandle<()>>,
}

type Work<L> = Box<dyn FnOnce(&mut L) + Send>;

/// How often it is looked for work.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

impl<L: Attend + 'static> Attended<L> {
    /// Starts the thread, on `core` where that is given, and makes the load there. `stop` ends what the load does.
    pub(super) async fn start(
        stop: Stop,
        core: Option<Core>,
        make: impl FnOnce(Stop) -> anyhow::Result<L> + Send + 'static,
    ) -> anyhow::Result<Self> {
        let (sender, receiver) = channel();
        let (reply, made) = oneshot::channel();
        let failure = Arc::new(Mutex::new(None));
        let (shared, thread_stop) = (Arc::clone(&failure), stop.clone());
        let thread = task::spawn_thread("bench-load", move || {
            let load = core.map_or(Ok(()), Core::pin_this_thread).and_then(|()| make(thread_stop));
            let attended = load.and_then(|mut load| {
                // Without a receiver the run was given up.
                let _ = reply.send(());
                attend(&mut load, &receiver)
            });
            if let Err(error) = attended {
                *shared.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            }
        });
        let this = Self { work: Some(sender), stop, failure, thread: Some(thread) };
        match made.await {
            Ok(()) => Ok(this),
            Err(_) => Err(this.failed()),
        }
    }

    fn failed(&self) -> anyhow::Error {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.take().unwrap_or_else(|| anyhow!("the load generator's thread has failed"))
    }

    /// Does `work` there.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut L) -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let (reply, result) = oneshot::channel();
        let work: Work<L> = Box::new(move |load| {
            // Without a receiver the run was given up.
            let _ = reply.send(work(load));
        });
        let is_sent = self.work.as_ref().is_some_and(|sender| sender.send(work).is_ok());
        match result.await {
            Ok(result) if is_sent => result,
            _ => Err(self.failed()),
        }
    }
}

/// Does what is asked for until nobody can ask any more.
fn attend<L: Attend>(load: &mut L, work: &Receiver<Work<L>>) -> anyhow::Result<()> {
    loop {
        match work.try_recv() {
            Ok(work) => work(load),
            Err(TryRecvError::Empty) => load.attend(LOOK_INTERVAL)?,
            Err(TryRecvError::Disconnected) => return Ok(()),
        }
    }
}

impl<L> Drop for Attended<L> {
    fn drop(&mut self) {
        self.stop.give_up();
        self.work = None;
        if let Some(thread) = self.thread.take() {
            // If it panicked, that was already reported as the missing answer.
            let _ = thread.join();
        }
    }
}
