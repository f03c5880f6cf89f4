//! `starfeed init`.

use std::io::Write;

use clap::Args;

use super::{EXIT_CONFIG, ExitWith};
use crate::config::{Config, ConfigSources};
use crate::source::rethinkdb;

/// Make the tables and indexes of a crawler in a RethinkDB, as far as they are missing
///
/// It needs a user who may do that; the server itself needs one who may read and write. What is there stays as it is. The password
/// comes from STARFEED_SOURCE_PASSWORD or --password-file.
#[derive(Args, Debug)]
pub(super) struct InitArgs {
    /// The database, `rethinkdb://USER@HOST:PORT/DATABASE`
    #[arg(long, value_name = "URL")]
    source: Option<String>,
    /// A file with the password of the user
    #[arg(long, value_name = "FILE")]
    password_file: Option<String>,
    /// A file with the certificate that signed the one of an encrypted database, in PEM
    #[arg(long, value_name = "FILE")]
    ca_file: Option<String>,
}

pub(super) async fn run(args: InitArgs) -> anyhow::Result<()> {
    let named =
        [("source", args.source), ("source_password_file", args.password_file), ("source_ca_file", args.ca_file)];
    let flags = named.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect();
    let sources = ConfigSources { file: None, environment: std::env::vars().collect(), flags };
    let config_error = |error: &dyn std::fmt::Display| ExitWith { status: EXIT_CONFIG, message: error.to_string() };
    let config = Config::load(&sources).map_err(|error| config_error(&error))?;
    let options = config.source().map_err(|error| config_error(&error))?;
    let options = options.ok_or_else(|| config_error(&"--source names no database"))?;
    let mut made = 0;
    rethinkdb::init(options, |what| {
        made += 1;
        // Whoever does not read it is no reason to stop.
        let _ = writeln!(std::io::stdout().lock(), "made {what}");
    })
    .await?;
    if made == 0 {
        let _ = writeln!(std::io::stdout().lock(), "everything was there");
    }
    Ok(())
}
