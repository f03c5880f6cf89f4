//! The `starfeed` command.

use std::process::ExitCode;

use clap::Parser;
use starfeed::cli::{Cli, ExitWith};

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("starfeed: {error:#}");
            error.downcast_ref::<ExitWith>().map_or(ExitCode::FAILURE, |exit| ExitCode::from(exit.status))
        }
    }
}
