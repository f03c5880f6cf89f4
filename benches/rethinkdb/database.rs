//! A RethinkDB of its own, in a temporary directory.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use starfeed::config::{Config, ConfigSources};
use starfeed::source::rethinkdb::reql::{ConnectionLimits, Link, LinkOptions};
use starfeed::source::rethinkdb::{self, RethinkDbOptions};
use tempfile::TempDir;
use tokio_util::task::TaskTracker;

/// A running RethinkDB.
pub(crate) struct Database {
    child: Child,
    pub(crate) port: u16,
    _directory: TempDir,
}

impl Database {
    /// Starts one; `None` where there is none on PATH.
    pub(crate) fn start() -> Option<Self> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let free = || TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a free port").port();
        let (port, cluster_port) = (free(), free());
        let mut child = Command::new("rethinkdb")
            .args(["--bind", "127.0.0.1", "--no-http-admin", "--no-update-check", "--cache-size", "512"])
            .args(["--driver-port", &port.to_string(), "--cluster-port", &cluster_port.to_string()])
            .arg("--directory")
            .arg(directory.path().join("data"))
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let is_ready = stdout.lines().map_while(Result::ok).any(|line| line.starts_with("Server ready"));
        assert!(is_ready, "the database has ended");
        Some(Self { child, port, _directory: directory })
    }

    pub(crate) fn url(&self, database: &str) -> String {
        format!("rethinkdb://127.0.0.1:{}/{database}", self.port)
    }

    pub(crate) fn options(&self, database: &str) -> RethinkDbOptions {
        let flags = vec![("source".to_owned(), self.url(database))];
        let config = Config::load(&ConfigSources { flags, ..ConfigSources::default() }).expect("a configuration");
        config.source().expect("a good source").expect("a source")
    }

    /// Makes a database with all tables.
    pub(crate) async fn create(&self, database: &str) {
        rethinkdb::init(self.options(database), |_| {}).await.expect("tables are made");
    }

    /// The client that the server has, without the server.
    pub(crate) fn link(&self, database: &str, tracker: &TaskTracker) -> Arc<Link> {
        let RethinkDbOptions { address, password, limits, .. } = self.options(database);
        let limits = ConnectionLimits {
            connect: limits.connect_timeout,
            query: Duration::from_secs(600),
            silence: limits.silence,
            lookahead_bytes: limits.lookahead_bytes,
            frame_bytes: limits.frame_bytes,
        };
        Link::new(Arc::new(LinkOptions { address, password, tls: None, limits }), tracker.clone())
    }

    /// Processor time that it has taken, in seconds.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        cpu_seconds(self.child.id())
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Processor time that a process has taken, in seconds.
pub(crate) fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or_default();
    // A hundred ticks a second, on every Linux there is.
    (ticks(11) + ticks(12)) / 100.0
}
