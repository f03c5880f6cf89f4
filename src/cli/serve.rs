//! `starfeed serve`.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::{EXIT_CONFIG, ExitWith};
use crate::config::{self, Config, ConfigSources, Limits};
use crate::server::{self, Server, StartError};
use crate::source::rethinkdb;

/// Run the server
///
/// It speaks WebSocket with protobuf messages on any path, and answers /healthz and /metrics on the same port. Ctrl-C or
/// SIGTERM ends it in order.
#[derive(Args, Debug)]
#[command(after_help = config_help())]
pub(super) struct ServeArgs {
    /// Where to listen; port 0 takes a free one [default: 127.0.0.1:8000]
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// Where to keep the data, or `:memory:` to keep none [default: ./starfeed-data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Serve the tables of this database, `rethinkdb://USER@HOST:PORT/DATABASE` [default: the embedded store]
    #[arg(long, value_name = "URL")]
    source: Option<String>,
    /// Pass on what only the crawler can do to its API, `ws://HOST:PORT/PATH` [default: none]
    #[arg(long, value_name = "URL")]
    crawler: Option<String>,
    /// A proxy in front does TLS and authentication: allow any address, Host and Origin
    #[arg(long)]
    behind_proxy: bool,
    /// A config file [default: starfeed.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What to log, for example `debug` or `starfeed::store=trace` [default: info]
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// Set any config key, for example `--set outbox_bytes=65536`; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("it looks like KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn config_help() -> String {
    let defaults = Limits::default().entries();
    let mut help = "Configuration: defaults < starfeed.toml < STARFEED_<KEY> in the environment < flags.\n\
        Keys: listen, data_dir, source, source_password_file, source_ca_file, crawler, behind_proxy, allowed_origins, log; and under [limits], in bytes and seconds:\n"
        .to_owned();
    for ((key, default), (_, description)) in defaults.iter().zip(Limits::DESCRIPTIONS) {
        help.push_str(&format!("  {key} = {default}\n     {description}\n"));
    }
    help
}

impl ServeArgs {
    fn sources(self) -> ConfigSources {
        let mut flags = self.set;
        let named = [
            ("listen", self.listen),
            ("data_dir", self.data_dir),
            ("source", self.source),
            ("crawler", self.crawler),
            ("log", self.log),
        ];
        flags.extend(named.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
        if self.behind_proxy {
            flags.push(("behind_proxy".to_owned(), "true".to_owned()));
        }
        ConfigSources { file: self.config, environment: std::env::vars().collect(), flags }
    }
}

pub(super) fn run(args: ServeArgs) -> anyhow::Result<()> {
    let config =
        Config::load(&args.sources()).map_err(|error| ExitWith { status: EXIT_CONFIG, message: error.to_string() })?;
    log_to_stderr(&config.log)?;
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        // Reads from the disk run on these; more than a few at a time only queue in the disk.
        .max_blocking_threads(config::size(config.limits.read_threads) + 1)
        .build()
        .context("the runtime cannot be started")?;
    runtime.block_on(serve(&config))?;
    // What is left is a connection that was cut, and it has nothing more to say.
    runtime.shutdown_background();
    Ok(())
}

async fn serve(config: &Config) -> anyhow::Result<()> {
    // The signals are listened for first: one that comes during the start ends the server too.
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be listened for")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be listened for")?;
    let listener = server::bind(config).await.map_err(start_error)?;
    let mut opening = std::pin::pin!(Server::open(config));
    let server = tokio::select! {
        // Waiting for a source may take for ever.
        biased;
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
        server = &mut opening => server.map_err(start_error)?,
    };
    let address = listener.local_addr().context("the listening address is unknown")?;
    // Programs that start a server read this line; one that does not read it is no reason to stop.
    let _ = writeln!(std::io::stdout().lock(), "listening on {address}");
    tracing::info!(%address, data_dir = config.data_dir, "starfeed {} is up", env!("CARGO_PKG_VERSION"));
    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    server.run(listener, shutdown).await;
    tracing::info!("goodbye");
    Ok(())
}

fn start_error(error: StartError) -> anyhow::Error {
    match error {
        StartError::Unprotected(_)
        | StartError::IsCopy { .. }
        | StartError::Config(_)
        | StartError::Source(rethinkdb::StartError::Options(_) | rethinkdb::StartError::Origin(_)) => {
            ExitWith { status: EXIT_CONFIG, message: error.to_string() }.into()
        }
        StartError::Listen { .. } | StartError::DataDir { .. } | StartError::Store { .. } | StartError::Source(_) => {
            error.into()
        }
    }
}

fn log_to_stderr(filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter).map_err(|error| ExitWith {
        status: EXIT_CONFIG,
        message: format!("configuration: log = {filter:?}: {error}"),
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    Ok(())
}

/// A socket is a descriptor, and many systems give a process only 1,024 until it asks for what it may have.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, current = ?limit.current, "the number of descriptors cannot be raised");
    }
}
