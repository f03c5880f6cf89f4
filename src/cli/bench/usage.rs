//! How much of the machine is used between two moments.

use std::ops::{Add, Div};
use std::time::{Duration, Instant};

use super::process::{CpuTime, Probe};

/// How much of the machine was used so far.
#[derive(Debug)]
pub(super) struct Usage {
    at: Instant,
    server: Option<CpuTime>,
    generator: CpuTime,
}

/// How much of it was used between two moments.
#[derive(Debug)]
pub(super) struct Used {
    pub(super) elapsed: Duration,
    pub(super) server: Option<CpuTime>,
    pub(super) generator: CpuTime,
}

impl Add for Used {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            elapsed: self.elapsed + other.elapsed,
            server: self.server.zip(other.server).map(|(one, other)| one + other),
            generator: self.generator + other.generator,
        }
    }
}

impl Div<u32> for Used {
    type Output = Self;

    fn div(self, count: u32) -> Self {
        Self {
            elapsed: self.elapsed / count,
            server: self.server.map(|cpu| cpu / count),
            generator: self.generator / count,
        }
    }
}

impl Usage {
    pub(super) fn read(server: Option<&Probe>) -> anyhow::Result<Self> {
        Ok(Self {
            server: server.map(Probe::cpu_time).transpose()?,
            generator: Probe::of_this_process().cpu_time()?,
            at: Instant::now(),
        })
    }

    pub(super) fn until(&self, after: &Self) -> Used {
        Used {
            elapsed: after.at - self.at,
            server: after.server.zip(self.server).map(|(after, before)| after.since(before)),
            generator: after.generator.since(self.generator),
        }
    }
}
