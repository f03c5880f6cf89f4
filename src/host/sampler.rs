//! What one frame says.

use sysinfo::{MemoryRefreshKind, Networks, System};

use super::disks::{DiskWatch, count};
use crate::catalog::time_text;
use crate::change::Timestamp;
use crate::proto;

/// Machines with many containers have an interface for each; so many are told of.
const NETWORKS_MAX: usize = 64;

/// Reads the figures of this machine.
#[derive(Debug)]
pub struct HostSampler {
    system: System,
    networks: Networks,
    disks: DiskWatch,
}

impl Default for HostSampler {
    fn default() -> Self {
        Self::new()
    }
}

impl HostSampler {
    /// Begins to watch. The load of the processors is that between two frames, of the first frame that since now.
    ///
    /// # Panics
    ///
    /// Panics when the system has no thread left for the disks.
    pub fn new() -> Self {
        let mut system = System::new();
        system.refresh_cpu_usage();
        Self { system, networks: Networks::new(), disks: DiskWatch::of_this_machine() }
    }

    /// Reads what the system says now; of the disks, what it last said, which is about a second old.
    pub fn sample(&mut self, now: Timestamp) -> proto::ResourceFrame {
        self.system.refresh_cpu_usage();
        self.system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
        self.networks.refresh(true);
        let cpus =
            self.system.cpus().iter().map(|cpu| proto::ResourceFrameCpu { usage: Some(percent(cpu.cpu_usage())) });
        let memory = proto::ResourceFrameMemory {
            used: Some(count(self.system.used_memory())),
            // Clients divide by it.
            total: Some(count(self.system.total_memory()).max(1)),
        };
        proto::ResourceFrame {
            timestamp: Some(time_text(now)),
            cpus: cpus.collect(),
            memory: Some(memory),
            disks: self.disks.newest(),
            networks: self.networks(),
            jobs: Vec::new(),
            current_downloads: Some(0),
            maximum_downloads: Some(0),
            rate_limiter: Some(0),
        }
    }

    fn networks(&self) -> Vec<proto::ResourceFrameNetwork> {
        let mut networks: Vec<_> = self
            .networks
            .iter()
            .map(|(name, totals)| proto::ResourceFrameNetwork {
                name: Some(name.clone()),
                sent: Some(count(totals.total_transmitted())),
                received: Some(count(totals.total_received())),
            })
            .collect();
        networks.sort_by(|a, b| a.name.cmp(&b.name));
        networks.truncate(NETWORKS_MAX);
        networks
    }
}

fn percent(usage: f32) -> f64 {
    // The counters of a virtual processor may jump.
    if usage.is_finite() { f64::from(usage).clamp(0.0, 100.0) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_of_this_machine_is_plausible() {
        let mut sampler = HostSampler::new();
        let frame = sampler.sample(Timestamp(1_546_344_000_123));
        assert_eq!(frame.timestamp(), "2019-01-01T12:00:00.123000+00:00");
        assert!(!frame.cpus.is_empty());
        assert!(frame.cpus.iter().all(|cpu| (0.0..=100.0).contains(&cpu.usage())), "{:?}", frame.cpus);
        let memory = frame.memory.expect("there is memory");
        assert!(memory.total() > 1 << 20 && (1..=memory.total()).contains(&memory.used()), "{memory:?}");
        assert!(!frame.networks.is_empty());
        assert!(frame.networks.is_sorted_by(|a, b| a.name() < b.name()), "{:?}", frame.networks);
        assert!(frame.networks.iter().all(|network| network.sent() >= 0 && network.received() >= 0));
        let counts = (frame.current_downloads, frame.maximum_downloads, frame.rate_limiter);
        assert_eq!((frame.jobs, counts), (Vec::new(), (Some(0), Some(0), Some(0))));
    }

    #[test]
    fn a_usage_is_a_percentage() {
        for (usage, expected) in [(12.5, 12.5), (-0.1, 0.0), (100.5, 100.0), (f32::NAN, 0.0), (f32::INFINITY, 0.0)] {
            assert_eq!(percent(usage), expected);
        }
    }
}
