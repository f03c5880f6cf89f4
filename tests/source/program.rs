//! `starfeed` as a program that may end by itself, with what it says.

use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::support::process::eventually;

/// Nothing that is tested takes so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running program. Its output goes into files, so that it never waits for a reader.
pub(crate) struct Program {
    child: Child,
    directory: TempDir,
}

/// One that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Program {
    pub(crate) fn start(args: &[&str], environment: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let file = |name: &str| File::create(directory.path().join(name)).expect("a file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_starfeed"));
        // No file or variable of whoever runs the tests has a say.
        command.args(args).env_clear().envs(environment.iter().copied()).current_dir(directory.path());
        let child = command.stdin(Stdio::null()).stdout(file("stdout")).stderr(file("stderr")).spawn();
        Self { child: child.expect("the program starts"), directory }
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.directory.path().join(name)).expect("the output is text")
    }

    pub(crate) fn stderr(&self) -> String {
        self.read("stderr")
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("it is our child").is_none()
    }

    /// Waits until a server says where it listens: `127.0.0.1:PORT`.
    pub(crate) fn address(&mut self) -> String {
        let mut address = None;
        eventually("the server listens", || {
            assert!(self.is_running(), "it has ended: {}", self.stderr());
            let stdout = self.read("stdout");
            let line = stdout.strip_prefix("listening on ").and_then(|rest| rest.strip_suffix('\n'));
            address = line.map(str::to_owned);
            address.is_some()
        });
        address.expect("it was just there")
    }

    /// Waits until it has said this on its standard error.
    pub(crate) fn until_said(&mut self, text: &str) {
        eventually(text, || {
            let is_running = self.is_running();
            let stderr = self.stderr();
            let is_said = stderr.contains(text);
            assert!(is_said || is_running, "it has ended without saying {text:?}: {stderr}");
            is_said
        });
    }

    pub(crate) fn terminate(self) -> Ended {
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("it is running");
        self.end()
    }

    /// Waits until it has ended.
    pub(crate) fn end(mut self) -> Ended {
        let deadline = Instant::now() + PATIENCE;
        while self.is_running() {
            assert!(Instant::now() < deadline, "the program does not end: {}", self.stderr());
            std::thread::sleep(Duration::from_millis(10));
        }
        let status = self.child.wait().expect("it is our child").code();
        Ended { status, stdout: self.read("stdout"), stderr: self.read("stderr") }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
