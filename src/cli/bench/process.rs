//! Processes: the server that is measured, and what the system says about it.

use std::ops::{Add, Div};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;
use uuid::Uuid;

use super::pin::Cores;
use crate::cli::ExitWith;

const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Longer than a server takes that ends in order.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// Ctrl-C and SIGTERM: they give up what runs, so that what was begun can be ended.
#[derive(Debug)]
pub(super) struct Interrupt {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

/// What a shell expects of a program that Ctrl-C has ended.
const EXIT_INTERRUPTED: u8 = 130;

impl Interrupt {
    /// From here on the signals no longer end the process by themselves.
    pub(super) fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).context("SIGINT cannot be listened for")?,
            terminate: signal(SignalKind::terminate()).context("SIGTERM cannot be listened for")?,
        })
    }

    /// The result of `work`, or an error as soon as a signal comes.
    pub(super) async fn or<T>(&mut self, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        // A signal comes first: work that is always ready must not keep it out.
        tokio::select! {
            biased;
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            result = work => return result,
        }
        Err(ExitWith { status: EXIT_INTERRUPTED, message: "interrupted".to_owned() }.into())
    }
}

/// A server that this process has started, and that it ends.
#[derive(Debug)]
pub(super) struct ServerProcess {
    child: Child,
    pid: u32,
    url: String,
    /// If it has one, it ends when this is closed.
    stdin: Option<ChildStdin>,
    /// Kept open: a server whose standard output is gone is not the usual case.
    _stdout: BufReader<ChildStdout>,
}

impl ServerProcess {
    /// Starts `starfeed serve` with `data_dir`, in `directory`; `settings` are `KEY=VALUE`.
    pub(super) async fn start(
        data_dir: &Path,
        directory: &Path,
        settings: &[String],
        cores: Option<Cores>,
    ) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("the path of this program is unknown")?;
        let mut command = Command::new(program);
        command.args(["serve", "--listen", "127.0.0.1:0", "--log", "warn", "--data-dir"]).arg(data_dir);
        for setting in settings {
            command.arg("--set").arg(setting);
        }
        // Configuration that lies around must not change what is measured.
        command.current_dir(directory);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("STARFEED_") {
                command.env_remove(name);
            }
        }
        command.stdin(Stdio::null());
        Self::spawn(command, cores).await
    }

    /// Starts a bare peer, which ends with its standard input.
    pub(super) async fn start_bare(cores: Option<Cores>) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("the path of this program is unknown")?;
        let mut command = Command::new(program);
        command.args(["bench", "--be-bare"]).stdin(Stdio::piped());
        Self::spawn(command, cores).await
    }

    async fn spawn(mut command: Command, cores: Option<Cores>) -> anyhow::Result<Self> {
        command.stdout(Stdio::piped()).kill_on_drop(true);
        let spawned = match cores {
            Some(cores) => cores.server.lend(|| command.spawn())?,
            None => command.spawn(),
        };
        let mut child = spawned.context("the server cannot be started")?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().context("the server has no standard output")?;
        let mut stdout = BufReader::new(stdout);
        let mut line = String::new();
        let read = timeout(START_TIMEOUT, stdout.read_line(&mut line)).await;
        read.map_err(|_| anyhow!("the server has not said for {} s where it listens", START_TIMEOUT.as_secs()))??;
        let Some(address) = line.trim_end().strip_prefix("listening on ") else {
            // It is gone, or it is not what it should be; what it had to say is on standard error.
            child.start_kill()?;
            bail!("the server ended at its start: {}", child.wait().await?);
        };
        Ok(Self {
            pid: child.id().context("the server ended at its start")?,
            url: format!("ws://{address}/ws/"),
            child,
            stdin,
            _stdout: stdout,
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Ends it in order, or by force when it takes too long.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        // Without an id it has ended already, and the id may belong to somebody else.
        if self.stdin.take().is_none()
            && let Some(pid) = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw)
        {
            kill_process(pid, Signal::TERM).context("the server cannot be ended")?;
        }
        match timeout(STOP_TIMEOUT, self.child.wait()).await {
            Ok(status) => ended_well(status?),
            Err(_) => {
                self.child.kill().await?;
                bail!("the server did not end for {} s after SIGTERM", STOP_TIMEOUT.as_secs());
            }
        }
    }
}

fn ended_well(status: ExitStatus) -> anyhow::Result<()> {
    if status.success() { Ok(()) } else { Err(anyhow!("the server ended with {status}")) }
}

/// A directory that is gone, with all that is in it, when this is dropped.
#[derive(Debug)]
pub(super) struct ScratchDirectory {
    path: PathBuf,
}

impl ScratchDirectory {
    /// Makes one in `parent`.
    pub(super) fn create(parent: &Path) -> anyhow::Result<Self> {
        let path = parent.join(format!("starfeed-bench-{}", Uuid::new_v4().simple()));
        std::fs::create_dir(&path).with_context(|| format!("{}: no directory can be made there", parent.display()))?;
        let path = path.canonicalize()?;
        Ok(Self { path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ScratchDirectory {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            eprintln!("starfeed: {}: {error}", self.path.display());
        }
    }
}

/// A place for scratch directories that is on a disk, if there is one: a store in memory is quick without being durable.
pub(super) fn scratch_parent() -> PathBuf {
    let candidates = [std::env::temp_dir(), PathBuf::from("/var/tmp")];
    let on_disk =
        candidates.iter().find(|path| path.is_dir() && !file_system(path).is_some_and(|kind| is_memory(&kind)));
    on_disk.unwrap_or(&candidates[0]).clone()
}

/// Whether nothing of a file system of this kind outlives a power loss.
pub(super) fn is_memory(kind: &str) -> bool {
    matches!(kind, "tmpfs" | "ramfs")
}

/// The kind of file system that `path` is on, where the system tells.
pub(super) fn file_system(path: &Path) -> Option<String> {
    let path = path.canonicalize().ok()?;
    file_system_in(&std::fs::read_to_string("/proc/self/mounts").ok()?, &path)
}

fn file_system_in(mounts: &str, path: &Path) -> Option<String> {
    let mounted = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        Some((words.next()?, words.next()?))
    });
    // The longest mount point is the one that counts; among equals the last one hides those before it.
    let around = mounted.filter(|(point, _)| path.starts_with(point));
    around.max_by_key(|(point, _)| point.len()).map(|(_, kind)| kind.to_owned())
}

/// What the system says about a process.
#[derive(Clone, Debug)]
pub(super) struct Probe {
    directory: PathBuf,
}

/// The unit of times in `/proc`. It is 100 for every program on Linux, whatever the kernel's own clock does.
const TICKS_PER_SECOND: u64 = 100;

impl Probe {
    pub(super) fn of(pid: u32) -> Self {
        Self { directory: PathBuf::from(format!("/proc/{pid}")) }
    }

    pub(super) fn of_this_process() -> Self {
        Self { directory: PathBuf::from("/proc/self") }
    }

    /// The time it has spent on a processor so far.
    pub(super) fn cpu_time(&self) -> anyhow::Result<CpuTime> {
        let (user, system) = cpu_ticks(&self.read("stat")?).context("/proc/PID/stat has another form")?;
        let time = |ticks: u64| Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND);
        Ok(CpuTime { user: time(user), system: time(system) })
    }

    /// The most bytes of memory it has had in use since [`Probe::forget_peak`], or ever.
    pub(super) fn peak_bytes(&self) -> anyhow::Result<u64> {
        memory_bytes(&self.read("status")?, "VmHWM:").context("/proc/PID/status has another form")
    }

    /// What it had in use before counts no more.
    pub(super) fn forget_peak(&self) -> anyhow::Result<()> {
        let path = self.directory.join("clear_refs");
        std::fs::write(&path, "5").with_context(|| format!("{} cannot be written", path.display()))
    }

    /// The bytes of memory it has in use.
    pub(super) fn resident_bytes(&self) -> anyhow::Result<u64> {
        memory_bytes(&self.read("status")?, "VmRSS:").context("/proc/PID/status has another form")
    }

    fn read(&self, file: &str) -> anyhow::Result<String> {
        let path = self.directory.join(file);
        std::fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))
    }
}

/// Time on a processor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CpuTime {
    /// In the process's own code.
    pub(super) user: Duration,
    /// In the kernel, for it.
    pub(super) system: Duration,
}

impl CpuTime {
    pub(super) fn total(self) -> Duration {
        self.user + self.system
    }

    /// What was spent since `before`.
    pub(super) fn since(self, before: Self) -> Self {
        Self { user: self.user.saturating_sub(before.user), system: self.system.saturating_sub(before.system) }
    }
}

impl Add for CpuTime {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { user: self.user + other.user, system: self.system + other.system }
    }
}

impl Div<u32> for CpuTime {
    type Output = Self;

    fn div(self, count: u32) -> Self {
        Self { user: self.user / count, system: self.system / count }
    }
}

fn cpu_ticks(stat: &str) -> Option<(u64, u64)> {
    // The second field is a name in parentheses that may itself have spaces and parentheses.
    let (_, rest) = stat.rsplit_once(')')?;
    // `utime` and `stime` are the fields 14 and 15; `rest` begins with field 3.
    let mut times = rest.split_ascii_whitespace().skip(11).map(str::parse::<u64>);
    Some((times.next()?.ok()?, times.next()?.ok()?))
}

fn memory_bytes(status: &str, line: &str) -> Option<u64> {
    let value = status.lines().find_map(|text| text.strip_prefix(line))?;
    let kibibytes: u64 = value.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_process_may_be_anything() {
        let rest = "S 1 2 2 0 -1 4194560 100 0 0 0 150 25 7 8 20 0 9 0 12345 1000000 500";
        for name in ["starfeed", "tmux: server", "a) R 9 9 9", "((", "))", ""] {
            assert_eq!(cpu_ticks(&format!("4711 ({name}) {rest}\n")), Some((150, 25)), "{name}");
        }
        assert_eq!(cpu_ticks("4711 (cut) S 1 2 2 0"), None);
        assert_eq!(cpu_ticks(""), None);
    }

    #[test]
    fn the_resident_size_is_in_kibibytes() {
        let status = "Name:\tVmRSS: x\nVmHWM:\t  9 kB\nVmRSS:\t   1234 kB\n";
        assert_eq!(memory_bytes(status, "VmRSS:"), Some(1234 * 1024));
        assert_eq!(memory_bytes(status, "VmHWM:"), Some(9 * 1024));
        assert_eq!(memory_bytes("Name:\tkthreadd\n", "VmRSS:"), None);
    }

    #[test]
    fn this_process_can_be_probed() {
        let probe = Probe::of(std::process::id());
        assert!(probe.resident_bytes().expect("a size") > 100_000);
        assert!(probe.peak_bytes().expect("a size") > 100_000);
        assert!(probe.cpu_time().expect("a time").total() >= Duration::ZERO);
        assert!(Probe::of(u32::MAX).cpu_time().is_err());
    }

    #[test]
    fn the_innermost_file_system_counts() {
        let mounts = "/dev/vda / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/vdb /tmp/disk xfs rw 0 0\n";
        for (path, kind) in [("/home", "ext4"), ("/tmp/x", "tmpfs"), ("/tmp/disk/x", "xfs"), ("/tmpx", "ext4")] {
            assert_eq!(file_system_in(mounts, Path::new(path)).as_deref(), Some(kind), "{path}");
        }
    }

    #[test]
    fn a_scratch_directory_goes_with_all_that_is_in_it() {
        let scratch = ScratchDirectory::create(&std::env::temp_dir()).expect("a directory");
        let path = scratch.path().to_owned();
        std::fs::write(path.join("file"), b"x").expect("a file");
        drop(scratch);
        assert!(!path.exists());
    }
}
