//! starfeed as a process.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use crate::database::{Database, cpu_seconds};

/// A running starfeed.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: String,
}

impl Server {
    /// One that serves what `database` calls `name`; with a store in `data_dir`, or `:memory:`.
    pub(crate) fn over(database: &Database, name: &str, data_dir: &str) -> Self {
        Self::start(data_dir, &["--source", &database.url(name)])
    }

    /// One with a store of its own in `data_dir`.
    pub(crate) fn embedded(data_dir: &str) -> Self {
        Self::start(data_dir, &[])
    }

    fn start(data_dir: &str, more: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_starfeed"))
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir", data_dir, "--log", "warn"])
            .args(more)
            .stdout(Stdio::piped())
            .spawn()
            .expect("starfeed starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("stdout is piped");
        BufReader::new(stdout).read_line(&mut line).expect("it says where it listens");
        let address = line.trim().strip_prefix("listening on ").expect("it listens");
        Self { address: address.to_owned(), child }
    }

    /// Processor time that it has taken, in seconds.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        cpu_seconds(self.child.id())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
