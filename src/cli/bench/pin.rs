//! Processors for server and load generator, so that neither gets what the other leaves.

use anyhow::{Context, ensure};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// One processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Core(usize);

/// Who has which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cores {
    pub(super) server: Core,
    pub(super) generator: Core,
}

impl Cores {
    /// The first two that this process may use.
    pub(super) fn choose() -> anyhow::Result<Self> {
        let allowed = sched_getaffinity(None).context("the processors are unknown")?;
        let mut cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).map(Core);
        let chosen = cores.next().zip(cores.next());
        ensure!(chosen.is_some(), "--pin takes two processors, and there is one");
        chosen.map(|(server, generator)| Self { server, generator }).context("there are no processors")
    }
}

/// Whether this thread runs on one processor only, which it has for itself then.
pub(super) fn has_own_processor() -> bool {
    sched_getaffinity(None).is_ok_and(|allowed| allowed.count() == 1)
}

impl Core {
    /// The number that the system gives it.
    pub(super) fn number(self) -> usize {
        self.0
    }

    /// From here on, this thread and what it starts run on this one only.
    pub(super) fn pin_this_thread(self) -> anyhow::Result<()> {
        let mut set = CpuSet::new();
        set.set(self.0);
        sched_setaffinity(None, &set).with_context(|| format!("processor {} cannot be chosen", self.0))
    }

    /// Does `work`, which starts a process, on this one.
    pub(super) fn lend<T>(self, work: impl FnOnce() -> T) -> anyhow::Result<T> {
        let before = sched_getaffinity(None).context("the processors are unknown")?;
        self.pin_this_thread()?;
        let result = work();
        sched_setaffinity(None, &before).context("the processors cannot be chosen again")?;
        Ok(result)
    }
}
