//! The `starfeed` command.

use std::process::ExitCode;

use clap::Parser;
use starfeed::cli::{Cli, ExitWith};

// Most of what is allocated for a write is freed by another thread than the one that allocated it.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("starfeed: {error:#}");
            error.downcast_ref::<ExitWith>().map_or(ExitCode::FAILURE, |exit| ExitCode::from(exit.status))
        }
    }
}
