//! Starting work: every task and thread has a name and an owner that joins it.

use std::future::Future;
use std::thread::JoinHandle;

use tokio_util::task::TaskTracker;

/// Starts `future` as a task of `tracker`; the owner of the tracker waits for it.
#[expect(clippy::disallowed_methods, reason = "this is the one place that starts tasks")]
pub fn spawn(tracker: &TaskTracker, future: impl Future<Output = ()> + Send + 'static) {
    tracker.spawn(future);
}

/// Runs `work`, which waits for the disk, beside the tasks; the runtime bounds how many run at once.
///
/// A panic of `work` is passed on.
#[expect(clippy::disallowed_methods, reason = "this is the one place that starts blocking work")]
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Starts a thread called `name`; whoever gets the handle joins it.
///
/// # Panics
///
/// Panics when the system has no thread left, which only happens at start-up.
#[expect(clippy::disallowed_methods, reason = "this is the one place that starts threads")]
pub fn spawn_thread(name: &str, work: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .unwrap_or_else(|error| panic!("the thread {name} cannot be started: {error}"))
}
