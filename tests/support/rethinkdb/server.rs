//! A RethinkDB: one that was given, a process of our own, or a container.

use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use reql::Command;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::ask::{ask, asked, session};
use super::guarded::Guarded;
use super::skipped;

/// A RethinkDB.
pub(crate) struct Rethinkdb {
    pub(crate) host: String,
    pub(crate) port: u16,
    kind: Kind,
}

enum Kind {
    /// Somebody else's.
    Given,
    /// Of our own.
    Process(Process),
}

/// A server of our own; one that is no container can be killed and started again.
struct Process {
    directory: PathBuf,
    command: Vec<String>,
    /// The name of the container that the command runs; none if it is empty.
    container: String,
    starts: u32,
    running: Option<Guarded>,
}

const IMAGE: &str = "rethinkdb:2.4";

/// Nothing that is tested takes so long to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// A port that nobody has, and that the system gives to nobody who connects: so it can be used again after a restart.
pub(crate) fn free_port() -> u16 {
    loop {
        let port = fastrand::u16(10_000..32_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn succeeds(program: &str, args: &[&str]) -> bool {
    let mut command = std::process::Command::new(program);
    let status = command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

impl Rethinkdb {
    /// The one that tests share which do not end it.
    pub(super) fn shared() -> Option<Self> {
        match std::env::var("STARFEED_TEST_RETHINKDB") {
            Ok(address) => {
                let (host, port) = address.rsplit_once(':').expect("STARFEED_TEST_RETHINKDB is host:port");
                let port = port.parse().expect("STARFEED_TEST_RETHINKDB is host:port");
                Some(Self { host: host.to_owned(), port, kind: Kind::Given })
            }
            Err(_) => Self::process(&[]).or_else(Self::container).or_else(|| {
                skipped(
                    "there is no RethinkDB: set STARFEED_TEST_RETHINKDB=host:port, install `rethinkdb`, or start a Docker daemon",
                );
                None
            }),
        }
    }

    /// One that can be ended, with these options.
    pub(crate) fn of_our_own(options: &[&str]) -> Option<Self> {
        Self::process(options).or_else(|| {
            skipped("there is no `rethinkdb` on the PATH: nothing is tested where the database itself is ended, or set up otherwise");
            None
        })
    }

    fn process(options: &[&str]) -> Option<Self> {
        if !succeeds("rethinkdb", &["--version"]) {
            return None;
        }
        let (directory, port) = (tempfile::tempdir().expect("a directory").keep(), free_port());
        let (data, driver_port, cluster_port) = (directory.join("data"), port.to_string(), free_port().to_string());
        let fixed = ["rethinkdb", "--bind", "127.0.0.1", "--no-http-admin", "--no-update-check", "--io-threads", "8"];
        let sized =
            ["--cores", "2", "--cache-size", "256", "--driver-port", &driver_port, "--cluster-port", &cluster_port];
        let placed = ["--directory", data.to_str().expect("a path in UTF-8")];
        let command = [&fixed[..], &sized, &placed, options].concat().into_iter().map(str::to_owned).collect();
        Some(Self::started(port, Process { directory, command, container: String::new(), starts: 0, running: None }))
    }

    fn container() -> Option<Self> {
        if !succeeds("docker", &["info"]) {
            return None;
        }
        let (directory, port) = (tempfile::tempdir().expect("a directory").keep(), free_port());
        let container = format!("starfeed-test-{}-{port}", std::process::id());
        let publish = format!("127.0.0.1:{port}:28015");
        let command = ["docker", "run", "--rm", "--name", &container, "-p", &publish, IMAGE];
        let command = command.map(str::to_owned).to_vec();
        Some(Self::started(port, Process { directory, command, container, starts: 0, running: None }))
    }

    fn started(port: u16, process: Process) -> Self {
        let mut server = Self { host: "127.0.0.1".to_owned(), port, kind: Kind::Process(process) };
        server.start();
        server
    }

    /// Starts it, on the same port and with the same data as before.
    pub(crate) fn start(&mut self) {
        let Kind::Process(process) = &mut self.kind else { panic!("it is not ours") };
        process.starts += 1;
        let log = process.directory.join(format!("log-{}", process.starts));
        process.running = Some(Guarded::start(&process.command, &log, &process.directory, &process.container));
        let deadline = Instant::now() + PATIENCE;
        loop {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            if said.contains("Server ready") && TcpStream::connect((self.host.as_str(), self.port)).is_ok() {
                return;
            }
            assert!(Instant::now() < deadline, "RethinkDB does not start:\n{said}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends it at once, as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        let Kind::Process(process) = &mut self.kind else { panic!("it is not ours") };
        process.running.take().expect("it is running").kill();
    }

    /// Lets it stand still, or go on.
    pub(crate) fn signal(&self, signal: Signal) {
        let Kind::Process(Process { running: Some(running), .. }) = &self.kind else { panic!("it is not ours") };
        let pid = i32::try_from(running.pid).ok().and_then(Pid::from_raw).expect("a process");
        kill_process(pid, signal).expect("it is running");
    }

    /// Whether it goes on after the tests.
    pub(super) fn is_given(&self) -> bool {
        matches!(self.kind, Kind::Given)
    }

    /// The URL of a database in it.
    pub(crate) fn url(&self, user: &str, database: &str) -> String {
        format!("rethinkdb://{user}@{}:{}/{database}", self.host, self.port)
    }

    /// What it answers to `admin`.
    pub(crate) fn ask(&self, command: Command) -> Vec<Value> {
        self.try_ask(command).unwrap_or_else(|error| panic!("RethinkDB refuses: {error}"))
    }

    pub(crate) fn try_ask(&self, command: Command) -> Result<Vec<Value>, String> {
        asked(async { ask(&session(&self.host, self.port).await?, command).await })
    }
}
