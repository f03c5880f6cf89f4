//! What is measured: a server of this program, the bare peer, or whoever is at an address.

use std::path::{Path, PathBuf};

use clap::ValueEnum;

use super::connection::Address;
use super::pin::Cores;
use super::process::{Probe, ScratchDirectory, ServerProcess};

/// A peer that this program can start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum PeerKind {
    /// A server of this program
    Starfeed,
    /// The limit: one thread that writes ready frames, without protocol, rows or rules
    Bare,
}

/// Where a server of this program keeps its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum StoreKind {
    /// Durable: a change is on disk before anybody gets it
    Disk,
    /// Ends with the server
    Memory,
}

impl StoreKind {
    fn name(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Memory => "memory",
        }
    }
}

/// One of them, with its process if that was started here.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) peer: &'static str,
    /// Where its rows are, if it has any.
    pub(super) store: &'static str,
    pub(super) address: Address,
    pub(super) probe: Option<Probe>,
    process: Option<ServerProcess>,
    _scratch: Option<ScratchDirectory>,
}

impl Subject {
    /// Starts a server of this program, its directory in `parent`; `settings` are `KEY=VALUE`.
    pub(super) async fn start(
        store: StoreKind,
        parent: &Path,
        settings: &[String],
        cores: Option<Cores>,
    ) -> anyhow::Result<Self> {
        let scratch = ScratchDirectory::create(parent)?;
        let data_dir = match store {
            StoreKind::Disk => scratch.path().join("data"),
            StoreKind::Memory => PathBuf::from(":memory:"),
        };
        let process = ServerProcess::start(&data_dir, scratch.path(), settings, cores).await?;
        Ok(Self {
            peer: "starfeed",
            store: store.name(),
            address: Address::of_url(process.url())?,
            probe: Some(Probe::of(process.pid())),
            process: Some(process),
            _scratch: Some(scratch),
        })
    }

    /// Starts a bare peer.
    pub(super) async fn start_bare(cores: Option<Cores>) -> anyhow::Result<Self> {
        let process = ServerProcess::start_bare(cores).await?;
        Ok(Self {
            peer: "bare",
            store: "bare",
            address: Address::of_url(process.url())?,
            probe: Some(Probe::of(process.pid())),
            process: Some(process),
            _scratch: None,
        })
    }

    /// What is at `url`, and is process `pid` if that is known.
    pub(super) fn at_url(url: &str, pid: Option<u32>) -> anyhow::Result<Self> {
        Ok(Self {
            peer: "-",
            store: "-",
            address: Address::of_url(url)?,
            probe: pid.map(Probe::of),
            process: None,
            _scratch: None,
        })
    }

    pub(super) fn is_bare(&self) -> bool {
        self.peer == "bare"
    }

    /// Ends the process, if it was started here. `result` is what came of the measurement.
    pub(super) async fn stop<T>(self, result: anyhow::Result<T>) -> anyhow::Result<T> {
        let stopped = match self.process {
            Some(process) => process.stop().await,
            None => Ok(()),
        };
        match (result, stopped) {
            (Ok(value), stopped) => stopped.map(|()| value),
            // How the server ended may be why there is an error.
            (Err(error), Err(stopped)) => Err(error.context(stopped.to_string())),
            (Err(error), Ok(())) => Err(error),
        }
    }
}
