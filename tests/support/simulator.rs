//! The crawl simulator as a process of its own, ended with the test that started it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

/// A running simulator.
pub(crate) struct Simulator(Child);

impl Simulator {
    /// One that works on the server at `url`.
    pub(crate) fn start(url: &str, args: &[&str]) -> Self {
        static PROGRAM: LazyLock<PathBuf> = LazyLock::new(built);
        let mut command = Command::new(&*PROGRAM);
        command.arg(url).args(args).env_clear().stdout(Stdio::null());
        Self(command.spawn().expect("the simulator starts"))
    }

    /// Whether it is still at work.
    pub(crate) fn is_running(&mut self) -> bool {
        self.0.try_wait().expect("it is our child").is_none()
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The example beside the program under test. Cargo builds it only with all tests, so it is asked for it here.
fn built() -> PathBuf {
    let directory = Path::new(env!("CARGO_BIN_EXE_starfeed")).parent().expect("a program is in a directory");
    let mut command = Command::new(env!("CARGO"));
    command.args(["build", "--locked", "--quiet", "--example", "crawl_simulator"]);
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    command.env("CARGO_TARGET_DIR", directory.parent().expect("a profile is in the target directory"));
    if directory.ends_with("release") {
        command.arg("--release");
    }
    assert!(command.status().expect("cargo runs").success(), "the example cannot be built");
    directory.join("examples/crawl_simulator")
}
