//! What the README shows of RethinkDB is what happens.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::rethinkdb::server::Rethinkdb;

/// Where the README has its database.
const URL: &str = "rethinkdb://admin@127.0.0.1:28015/starbelly";

/// The arguments of the command of the README that begins so, for a database elsewhere.
fn arguments(readme: &str, begins: &str, url: &str) -> Vec<String> {
    let at = readme.find(begins).unwrap_or_else(|| panic!("the README does not say {begins:?}"));
    let command = readme[at..].split(['\n', '`']).next().unwrap_or_default();
    assert!(command.contains(URL), "{command}");
    let (_, arguments) = command.split_once("starfeed ").or(command.split_once("-- ")).expect("a command of starfeed");
    arguments.replace(URL, url).split(' ').map(str::to_owned).collect()
}

#[test]
fn the_commands_of_the_readme_work() {
    let Some(rethinkdb) = Rethinkdb::of_our_own(&[]) else { return };
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).expect("the README");
    let url = rethinkdb.url("admin", "starbelly");
    let directory = tempfile::tempdir().expect("a directory");
    let starfeed = |arguments: &[String]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_starfeed"));
        command.args(arguments).env_clear().current_dir(directory.path()).stdout(Stdio::piped());
        command
    };
    let init = starfeed(&arguments(&readme, "starfeed init --source", &url)).output().expect("it runs");
    assert!(String::from_utf8_lossy(&init.stdout).contains("made the table policy\n"), "{init:?}");
    let mut serve = arguments(&readme, "cargo run --release -- serve --source", &url);
    serve.extend(["--listen", "127.0.0.1:0"].map(str::to_owned));
    let mut child = starfeed(&serve).spawn().expect("it runs");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("stdout is piped")).read_line(&mut line).expect("a line");
    let ended = child.kill().and_then(|()| child.wait());
    assert!(line.starts_with("listening on 127.0.0.1:"), "{line:?}, {ended:?}");
    assert!(directory.path().join("starfeed-mirror/store.redb").exists(), "its copy is where the README says");
}
