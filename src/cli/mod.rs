//! The command line: `serve` runs the server, the other commands are clients of a running one.

#[cfg(target_os = "linux")]
mod bench;
#[cfg(feature = "test-doors")]
pub mod doors;
mod export;
mod import;
mod init;
mod progress;
mod serve;
mod server_url;
mod text;
mod watch;

use anyhow::Context;
use clap::{Parser, Subcommand};

/// Turns database tables into live subscriptions: every row, then every change, and nothing missed.
#[derive(Debug, Parser)]
#[command(name = "starfeed", version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = "\
Try it:
  starfeed serve                                        a server on 127.0.0.1:8000, its data in ./starfeed-data
  starfeed import policy examples/rows/policy.ndjson    in a second terminal: some rows
  starfeed watch policy                                 and a live view of them")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::ServeArgs),
    Init(init::InitArgs),
    Import(import::ImportArgs),
    Export(export::ExportArgs),
    Watch(watch::WatchArgs),
    #[cfg(target_os = "linux")]
    Bench(bench::BenchArgs),
}

impl Cli {
    /// Runs the command to its end.
    pub fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Serve(args) => serve::run(args),
            Command::Init(args) => client_runtime()?.block_on(init::run(args)),
            Command::Import(args) => client_runtime()?.block_on(import::run(args)),
            Command::Export(args) => client_runtime()?.block_on(export::run(args)),
            Command::Watch(args) => client_runtime()?.block_on(watch::run(args)),
            #[cfg(target_os = "linux")]
            Command::Bench(args) => bench::run(args),
        }
    }
}

/// One thread is enough for a client, and the load of a benchmark leaves the other processors to the server.
fn client_runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("the runtime cannot be started")
}

/// An error that ends the process with a status of its own.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ExitWith {
    /// The status, as in `sysexits.h`.
    pub status: u8,
    /// What to do, in one line.
    pub message: String,
}

/// A configuration that cannot be used.
pub const EXIT_CONFIG: u8 = 78;
