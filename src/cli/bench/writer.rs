//! The writer: it changes one row again and again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use prost::Message as _;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::connection::{Outgoing, send_all, try_send};
use super::event::{self, Stamp};
use super::frame::Masking;
use crate::proto;
use crate::task;

/// Makes the requests and sends them.
#[derive(Debug)]
pub(super) struct Writer {
    outgoing: Outgoing,
    policy_id: Vec<u8>,
    name_bytes: usize,
    base: Instant,
    masking: Masking,
    request: Vec<u8>,
    out: Vec<u8>,
}

impl Writer {
    /// Changes the policy `policy_id` through `outgoing`; times count from `base`.
    pub(super) fn new(outgoing: Outgoing, policy_id: Vec<u8>, name_bytes: usize, base: Instant) -> Self {
        let masking = Masking::new(Uuid::new_v4().as_fields().0);
        Self { outgoing, policy_id, name_bytes, base, masking, request: Vec::new(), out: Vec::new() }
    }

    /// Puts the request for change `seq`, which is sent or should be at `sent`, behind those that wait.
    pub(super) fn put(&mut self, seq: u64, sent: Instant) -> anyhow::Result<()> {
        let sent_nanos = u64::try_from(sent.duration_since(self.base).as_nanos())?;
        let policy = event::policy(Some(&self.policy_id), Stamp { seq, sent_nanos }.name(self.name_bytes));
        let command = proto::request::Command::SetPolicy(proto::RequestSetPolicy { policy });
        let request_id = i32::try_from(seq).context("there are no more request ids: measure for a shorter time")?;
        self.request.clear();
        proto::Request { request_id, command: Some(command) }.encode(&mut self.request)?;
        self.masking.message(&self.request, &mut self.out);
        Ok(())
    }

    /// Sends what waits.
    pub(super) async fn send(&mut self) -> anyhow::Result<()> {
        send_all(&self.outgoing, &mut self.out).await
    }
}

/// Changes at fixed moments, by a thread of their own: the thread that reads would often be late.
#[derive(Clone, Copy, Debug)]
pub(super) struct OpenLoop {
    pub(super) first: u64,
    pub(super) changes: u64,
    pub(super) interval: Duration,
    /// How long after the last moment it still tries to send what is left.
    pub(super) patience: Duration,
    /// How long it takes at least: the last moment is one interval earlier.
    pub(super) duration: Duration,
}

/// How long a socket that takes nothing is left alone.
const RETRY_INTERVAL: Duration = Duration::from_micros(100);
/// How long it takes at most until an abandoned thread notices that it is.
const SLEEP_MAX: Duration = Duration::from_millis(50);
/// Requests that are due at the same time go out together, up to this size.
const BATCH_BYTES: usize = 64 * 1024;

impl OpenLoop {
    /// Sends all changes, and returns the writer. An error when the server does not take them.
    pub(super) async fn run(self, writer: Writer) -> anyhow::Result<Writer> {
        let end = Instant::now() + self.duration;
        let (reply, finished) = oneshot::channel();
        let is_abandoned = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&is_abandoned);
        let thread = task::spawn_thread("bench-writer", move || {
            // Without a receiver the run was given up.
            let _ = reply.send(self.write(writer, &flag));
        });
        let _guard = Abandon { is_abandoned, thread: Some(thread) };
        let writer = finished.await.unwrap_or_else(|_| Err(anyhow!("the writer's thread has failed")))?;
        tokio::time::sleep_until(end.into()).await;
        Ok(writer)
    }

    fn write(self, mut writer: Writer, is_abandoned: &AtomicBool) -> anyhow::Result<Writer> {
        let begin = Instant::now();
        let deadline = begin + self.moment(self.changes) + self.patience;
        let mut put = 0;
        while put < self.changes || !writer.out.is_empty() {
            let now = Instant::now();
            ensure!(!is_abandoned.load(Ordering::Relaxed), "the run was given up");
            ensure!(
                now <= deadline,
                "only {put} of {} requests could be sent {} s after the last was due: the rate is beyond the server",
                self.changes,
                self.patience.as_secs(),
            );
            while put < self.changes && writer.out.len() < BATCH_BYTES && begin + self.moment(put) <= now {
                writer.put(self.first + put, begin + self.moment(put))?;
                put += 1;
            }
            if !try_send(&writer.outgoing, &mut writer.out)? {
                std::thread::sleep(RETRY_INTERVAL);
            } else if put < self.changes {
                let wait = (begin + self.moment(put)).saturating_duration_since(Instant::now());
                std::thread::sleep(wait.min(SLEEP_MAX));
            }
        }
        Ok(writer)
    }

    /// When a change is due, from the beginning.
    fn moment(&self, change: u64) -> Duration {
        let nanos = u128::from(change) * self.interval.as_nanos();
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// Tells the thread, when nobody waits for it any more, and waits for its end.
struct Abandon {
    is_abandoned: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Abandon {
    fn drop(&mut self) {
        self.is_abandoned.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // If it panicked, that was already reported as the missing answer.
            let _ = thread.join();
        }
    }
}
