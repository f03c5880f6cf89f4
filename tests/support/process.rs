//! A server as a process of its own, ended with the test that started it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::rethinkdb::database::Database;

/// A running `starfeed serve`.
pub(crate) struct ServerProcess {
    child: Child,
    /// `127.0.0.1:PORT`.
    pub(crate) address: String,
    /// What its rows are in, if that is not its own store; it is let go when the process has ended.
    pub(crate) database: Option<Database>,
    /// What it keeps its data in, if that goes with it.
    pub(crate) directory: Option<tempfile::TempDir>,
    log: Option<tempfile::NamedTempFile>,
}

/// How a server is started.
pub(crate) struct Start<'a> {
    pub(crate) listen: &'a str,
    pub(crate) data_dir: &'a str,
    /// Config keys.
    pub(crate) settings: &'a [(&'a str, &'a str)],
    pub(crate) environment: &'a [(&'a str, &'a str)],
    /// What it is to mirror.
    pub(crate) database: Option<Database>,
    /// Whether what it logs can be read with [`ServerProcess::log`].
    pub(crate) keeps_log: bool,
}

impl Default for Start<'_> {
    /// On a free port, with its data in memory.
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:0",
            data_dir: ":memory:",
            settings: &[],
            environment: &[],
            database: None,
            keeps_log: false,
        }
    }
}

impl ServerProcess {
    /// Starts a server.
    pub(crate) fn start(start: Start<'_>) -> Self {
        let Start { listen, data_dir, settings, environment, database, keeps_log } = start;
        let mut command = Command::new(env!("CARGO_BIN_EXE_starfeed"));
        command.args(["serve", "--listen", listen, "--log", "warn", "--data-dir", data_dir]);
        if database.is_some() || settings.iter().any(|(key, _)| *key == "source") {
            // Many databases share this machine, and one that has to wait for its turn is not silent. Tests of silence say how long.
            command.args(["--set", "source_silence_seconds=30"]);
        }
        for (key, value) in settings {
            command.args(["--set", &format!("{key}={value}")]);
        }
        if let Some(database) = &database {
            command.args(["--source", &database.url()]);
        }
        // No file or variable of whoever runs the tests has a say.
        command.env_clear().envs(environment.iter().copied()).current_dir(std::env::temp_dir());
        let log = keeps_log.then(|| tempfile::NamedTempFile::new().expect("a file"));
        if let Some(log) = &log {
            command.stderr(log.reopen().expect("the same file"));
        }
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the server starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("stdout is piped");
        BufReader::new(stdout).read_line(&mut line).expect("the server says where it listens");
        let Some(address) = line.strip_prefix("listening on ") else {
            panic!("the server said {line:?}, then {:?}", child.wait());
        };
        Self { address: address.trim().to_owned(), child, database, directory: None, log }
    }

    /// One in the place of another that has ended: same address, same data.
    pub(crate) fn on_disk_at(address: &str, data_dir: &Path) -> Self {
        Self::start(Start { listen: address, data_dir: text(data_dir), ..Start::default() })
    }

    /// One whose rows come from the database at `url`, which lets `password` in.
    pub(crate) fn of_source(url: &str, password: &str, data_dir: &str, settings: &[(&str, &str)]) -> Self {
        let settings: Vec<_> = [("source", url)].into_iter().chain(settings.iter().copied()).collect();
        let environment = &[("STARFEED_SOURCE_PASSWORD", password)];
        Self::start(Start { data_dir, settings: &settings, environment, ..Start::default() })
    }

    /// One that keeps its data in memory.
    pub(crate) fn in_memory(settings: &[(&str, &str)]) -> Self {
        Self::start(Start { settings, ..Start::default() })
    }

    /// One that keeps its data in a directory.
    pub(crate) fn on_disk(data_dir: &Path) -> Self {
        Self::start(Start { data_dir: text(data_dir), ..Start::default() })
    }

    /// `ws://…/ws/`
    pub(crate) fn url(&self) -> String {
        format!("ws://{}/ws/", self.address)
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// What it has logged, if that is kept.
    pub(crate) fn log(&self) -> String {
        let log = self.log.as_ref().expect("what it logs is kept");
        std::fs::read_to_string(log.path()).expect("a file of text")
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        kill_process(self.pid(), Signal::TERM).expect("it is running");
        self.wait()
    }

    /// Ends it at once.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it is running");
        self.wait();
    }

    /// Lets it stand still, or go on.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("it is running");
    }

    /// Stops it for so long, as a machine that sleeps does.
    pub(crate) fn pause_for(&self, pause: Duration) {
        self.signal(Signal::STOP);
        std::thread::sleep(pause);
        self.signal(Signal::CONT);
    }

    fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                return status;
            }
            assert!(Instant::now() < deadline, "the server does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Whether it is still running.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("it is our child").is_none()
    }

    /// Descriptors it has open.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("a running process").count()
    }

    /// Bytes of memory it has resident.
    pub(crate) fn resident_bytes(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// The most memory it had resident since it started, or since [`ServerProcess::forget_peak`].
    pub(crate) fn peak_resident_bytes(&self) -> u64 {
        self.memory("VmHWM:")
    }

    /// Begins to measure the peak anew.
    pub(crate) fn forget_peak(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5").expect("Linux resets the peak");
    }

    fn memory(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("a running process");
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("its memory");
        let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kilobytes * 1024
    }

    /// A page of its HTTP side: status line and body.
    pub(crate) fn page(&self, path: &str) -> (String, String) {
        super::raw::http(&self.address, &format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.address))
    }

    /// The value of a metric, 0 where it was never counted.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.page("/metrics");
        let values = text.lines().filter_map(|line| line.strip_prefix(name)?.rsplit_once(' '));
        values
            .filter(|(labels, _)| labels.is_empty() || labels.starts_with('{'))
            .filter_map(|(_, value)| value.parse::<f64>().ok())
            .sum()
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if self.log.is_some() && std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

/// Waits until `condition` holds; fails after a long while.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "it never came true: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
