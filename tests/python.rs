//! A client in another language, with messages generated from `protobuf/starbelly.proto`.
//!
//! It needs a Python with the packages of `tests/python/requirements.txt`: the one named by `STARFEED_TEST_PYTHON`, or that
//! in `target/python`, which `.ci/run` makes.

mod support;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::process::ServerProcess;

fn python() -> Option<PathBuf> {
    let named = std::env::var_os("STARFEED_TEST_PYTHON").map(PathBuf::from);
    let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/python/bin/python");
    named.or_else(|| made.exists().then_some(made))
}

#[test]
fn a_python_client_sees_added_then_updated_and_deleted_in_order() {
    let Some(python) = python() else {
        // Written past the capture of test output: a skipped test must not look like one that passed.
        let text =
            "SKIPPED: no Python with the packages of tests/python/requirements.txt; .ci/run makes one in target/python";
        let _ = writeln!(std::io::stderr(), "{text}");
        return;
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let generated = tempfile::tempdir().expect("a directory");
    let status = Command::new(&python)
        .args(["-m", "grpc_tools.protoc", "-I"])
        .arg(root.join("protobuf"))
        .arg(format!("--python_out={}", generated.path().display()))
        .arg("starbelly.proto")
        .status()
        .expect("the Python runs");
    assert!(status.success(), "no module can be generated from protobuf/starbelly.proto");
    let server = ServerProcess::in_memory(&[]);
    let output = Command::new(&python)
        .arg(root.join("tests/python/starbelly_client.py"))
        .arg(server.url())
        .arg(generated.path())
        .output()
        .expect("the Python runs");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{stdout}");
    assert!(output.status.success(), "{stdout}\n{stderr}");
    assert_eq!(stdout.lines().last(), Some("ok"));
}
