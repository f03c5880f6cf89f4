//! The load of this machine: one frame a second, the newest ones kept.

mod disks;
mod sampler;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use sampler::HostSampler;

use crate::clock::Clock;
use crate::{proto, task};

const PERIOD: Duration = Duration::from_secs(1);

/// Frames that are kept: as many as a client gets that does not say how many it wants.
const FRAMES_MAX: usize = 300;

/// The newest frames, numbered from 1.
#[derive(Debug)]
pub struct HostFigures {
    frames: Mutex<VecDeque<(u64, Arc<proto::ResourceFrame>)>>,
}

impl Default for HostFigures {
    fn default() -> Self {
        Self { frames: Mutex::new(VecDeque::with_capacity(FRAMES_MAX)) }
    }
}

impl HostFigures {
    /// Takes a frame every second, the first one after a second, until `shutdown`.
    pub fn start(tracker: &TaskTracker, shutdown: CancellationToken, clock: Clock) -> Arc<Self> {
        let figures = Arc::new(Self::default());
        task::spawn(tracker, take_frames(Arc::clone(&figures), shutdown, clock));
        figures
    }

    /// Adds the newest frame; the oldest one goes when there are too many.
    pub fn push(&self, frame: proto::ResourceFrame) {
        let mut frames = self.lock();
        let number = frames.back().map_or(0, |(number, _)| *number) + 1;
        if frames.len() == FRAMES_MAX {
            frames.pop_front();
        }
        frames.push_back((number, Arc::new(frame)));
    }

    /// The number of the newest frame, 0 before the first; and the newest frames, at most `count`, oldest first.
    pub fn newest(&self, count: usize) -> (u64, Vec<Arc<proto::ResourceFrame>>) {
        let frames = self.lock();
        let number = frames.back().map_or(0, |(number, _)| *number);
        let skipped = frames.len().saturating_sub(count);
        (number, frames.iter().skip(skipped).map(|(_, frame)| Arc::clone(frame)).collect())
    }

    /// The frames behind number `number` with theirs, oldest first. Those that are no longer kept are left out.
    pub fn after(&self, number: u64) -> Vec<(u64, Arc<proto::ResourceFrame>)> {
        let frames = self.lock();
        let first = frames.partition_point(|(other, _)| *other <= number);
        frames.range(first..).cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(u64, Arc<proto::ResourceFrame>)>> {
        self.frames.lock().expect("nobody panics with the frames in hand")
    }
}

async fn take_frames(figures: Arc<HostFigures>, shutdown: CancellationToken, clock: Clock) {
    let mut sampler = task::blocking(HostSampler::new).await;
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // It comes at once, and the load of a processor needs time to be seen.
    ticks.tick().await;
    loop {
        tokio::select! {
            // The end comes first. Nothing is lost with a tick.
            biased;
            () = shutdown.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let taking = move || {
            let frame = sampler.sample(clock.now());
            (sampler, frame)
        };
        let frame;
        (sampler, frame) = task::blocking(taking).await;
        figures.push(frame);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(number: i32) -> proto::ResourceFrame {
        proto::ResourceFrame { current_downloads: Some(number), ..Default::default() }
    }

    fn numbers(frames: &[Arc<proto::ResourceFrame>]) -> Vec<i32> {
        frames.iter().map(|frame| frame.current_downloads()).collect()
    }

    #[test]
    fn the_newest_frames_come_oldest_first() {
        let figures = HostFigures::default();
        assert_eq!(figures.newest(10).0, 0);
        assert!(figures.newest(10).1.is_empty());
        assert!(figures.after(0).is_empty());
        for number in 1..=3 {
            figures.push(frame(number));
        }
        assert_eq!(figures.newest(0).0, 3);
        assert!(figures.newest(0).1.is_empty());
        assert_eq!(numbers(&figures.newest(2).1), [2, 3]);
        assert_eq!(numbers(&figures.newest(usize::MAX).1), [1, 2, 3]);
    }

    #[test]
    fn only_so_many_are_kept_and_keep_their_numbers() {
        let figures = HostFigures::default();
        for number in 1..=FRAMES_MAX as i32 + 5 {
            figures.push(frame(number));
        }
        let newest = FRAMES_MAX as u64 + 5;
        assert_eq!(figures.newest(usize::MAX).1.len(), FRAMES_MAX);
        for (after, first) in [(0, 6), (5, 6), (6, 7), (newest - 1, newest)] {
            let frames = figures.after(after);
            assert_eq!(frames[0].0, first);
            assert_eq!(frames.len() as u64, newest + 1 - first);
            assert!(frames.iter().all(|(number, frame)| *number == frame.current_downloads() as u64));
        }
        assert!(figures.after(newest).is_empty());
        assert!(figures.after(u64::MAX).is_empty());
    }

    #[tokio::test]
    async fn frames_are_taken_until_the_end() {
        let (tracker, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let figures = HostFigures::start(&tracker, shutdown.clone(), Clock);
        let since = Clock.now();
        while figures.newest(0).0 < 2 {
            tokio::time::sleep(PERIOD / 10).await;
        }
        let (_, frames) = figures.newest(2);
        assert!(frames[0].timestamp() < frames[1].timestamp());
        assert!(frames[0].timestamp() > crate::catalog::time_text(since).as_str());
        tracker.close();
        shutdown.cancel();
        tracker.wait().await;
    }
}
