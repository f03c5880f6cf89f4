//! A server as a process of its own, ended with the test that started it.

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
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
    /// All that it logs, at every level.
    log: tempfile::NamedTempFile,
}

/// What is secret in the rows and the configuration of tests, or how that begins: no log may have it.
const SECRETS: [&str; 3] = ["hunter2", "5ecret", "open-sesame-4711"];

/// The secret that is in `bytes`, as it is or as somebody may print its bytes.
pub(crate) fn secret_in(bytes: &[u8]) -> Option<&'static str> {
    let has = |text: &str| memchr::memmem::find(bytes, text.as_bytes()).is_some();
    let shows = |secret: &&str| {
        let in_decimal: Vec<String> = secret.bytes().map(|byte| byte.to_string()).collect();
        let in_hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
        has(secret) || has(&in_decimal.join(", ")) || has(&in_hex) || has(&in_hex.to_uppercase())
    };
    SECRETS.into_iter().find(shows)
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
}

impl Default for Start<'_> {
    /// On a free port, with its data in memory.
    fn default() -> Self {
        Self { listen: "127.0.0.1:0", data_dir: ":memory:", settings: &[], environment: &[], database: None }
    }
}

impl Start<'_> {
    fn command(&self) -> Command {
        let Self { listen, data_dir, settings, environment, database, .. } = self;
        let mut command = Command::new(env!("CARGO_BIN_EXE_starfeed"));
        command.args(["serve", "--listen", listen, "--log", "trace", "--data-dir", data_dir]);
        if database.is_some() || settings.iter().any(|(key, _)| *key == "source") {
            // Many databases share this machine, and one that has to wait for its turn is not silent. Tests of silence say how long.
            command.args(["--set", "source_silence_seconds=30"]);
        }
        for (key, value) in *settings {
            command.args(["--set", &format!("{key}={value}")]);
        }
        if let Some(database) = database {
            command.args(["--source", &database.url()]);
        }
        // No file or variable of whoever runs the tests has a say.
        command.env_clear().envs(environment.iter().copied()).current_dir(std::env::temp_dir());
        command
    }

    /// Starts a server and ends it at once after so long, whether it was up by then or not.
    pub(crate) fn and_kill_after(self, pause: Duration) {
        let mut child = self.command().stdout(Stdio::null()).spawn().expect("the server starts");
        std::thread::sleep(pause);
        child.kill().expect("it is our child");
        let status = child.wait().expect("it is our child");
        assert_eq!(status.signal(), Some(Signal::KILL.as_raw()), "it ended by itself: {status}");
    }
}

impl ServerProcess {
    /// Starts a server.
    pub(crate) fn start(start: Start<'_>) -> Self {
        let mut command = start.command();
        let Start { database, .. } = start;
        let log = tempfile::NamedTempFile::new().expect("a file");
        command.stderr(log.reopen().expect("the same file"));
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the server starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("stdout is piped");
        BufReader::new(stdout).read_line(&mut line).expect("the server says where it listens");
        let Some(address) = line.strip_prefix("listening on ") else {
            let (status, log) = (child.wait(), std::fs::read_to_string(log.path()));
            panic!("the server said {line:?}, then {status:?}: {log:?}");
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

    /// What it has logged that somebody should look at.
    pub(crate) fn log(&self) -> String {
        let lines = self.whole_log();
        lines.lines().filter(|line| !is_below_warning(line)).map(|line| format!("{line}\n")).collect()
    }

    /// All that it has logged.
    pub(crate) fn whole_log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log.path()).expect("a file")).into_owned()
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
        if std::thread::panicking() {
            eprintln!("{}", self.log());
            return;
        }
        let log = self.whole_log();
        assert_eq!(secret_in(log.as_bytes()), None, "the server has logged a secret: {log}");
    }
}

/// Whether a line of the log is of a level that is not shown by default to whoever runs the tests.
fn is_below_warning(line: &str) -> bool {
    let level = line.split_ascii_whitespace().nth(1);
    level.is_some_and(|level| ["TRACE", "DEBUG", "INFO"].contains(&level))
}

/// Waits until `condition` holds; fails after a long while.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "it never came true: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
