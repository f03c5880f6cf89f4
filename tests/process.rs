//! How the process starts, refuses to start, and measures itself.

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Output};

use support::process::ServerProcess;
use support::raw::{TIMEOUT, upgrade_request};

fn starfeed(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_starfeed"))
        .args(args)
        .env_clear()
        .current_dir(std::env::temp_dir())
        .output()
        .expect("the command runs")
}

fn refusal(args: &[&str]) -> (Option<i32>, String) {
    let output = starfeed(args);
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn an_address_that_others_reach_is_refused_without_a_proxy() {
    let args = ["serve", "--data-dir", ":memory:", "--listen"];
    for address in ["0.0.0.0:0", "[::]:0"] {
        let (status, text) = refusal(&[&args[..], &[address]].concat());
        assert_eq!(status, Some(78), "{text}");
        assert!(text.contains("--behind-proxy"), "{text}");
    }
    // Behind a proxy any Host and Origin may connect; the proxy has decided.
    let server = ServerProcess::in_memory(&[("behind_proxy", "true")]);
    let request = upgrade_request("ui.example").replace("\r\n\r\n", "\r\nOrigin: https://ui.example\r\n\r\n");
    let mut stream = TcpStream::connect(&server.address).expect("the server listens");
    stream.set_read_timeout(Some(TIMEOUT)).expect("a timeout can be set");
    stream.write_all(request.as_bytes()).expect("the server reads");
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).expect("the server answers");
    assert_eq!(&answer, b"HTTP/1.1 101");
}

#[test]
fn what_is_wrong_with_the_start_is_said() {
    let running = ServerProcess::in_memory(&[]);
    let (status, text) = refusal(&["serve", "--data-dir", ":memory:", "--listen", &running.address]);
    assert_eq!(status, Some(1));
    assert!(text.contains("cannot be listened on"), "{text}");

    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().to_str().expect("a path in UTF-8");
    let _first = ServerProcess::on_disk(directory.path());
    let (status, text) = refusal(&["serve", "--listen", "127.0.0.1:0", "--data-dir", path]);
    assert_eq!(status, Some(1));
    assert!(text.contains("another process uses it"), "{text}");

    let (status, text) = refusal(&["serve", "--set", "outbox_byte=1"]);
    assert_eq!(status, Some(78));
    assert!(text.contains("there is no config key outbox_byte"), "{text}");
    let (status, text) = refusal(&["serve", "--config", "not-there.toml"]);
    assert_eq!(status, Some(78));
    assert!(text.contains("not-there.toml"), "{text}");
    let (status, text) = refusal(&["serve", "--crawler", "ws://me:hunter2@127.0.0.1:8001/ws/"]);
    assert_eq!(status, Some(78));
    assert!(text.contains("crawler must not have a user") && !text.contains("hunter2"), "{text}");
}

#[test]
fn a_benchmark_delivers_everything_once_and_ends_its_server() {
    let args =
        ["bench", "--subscribers", "20", "--seconds", "1", "--in-flight", "1,8", "--store", "disk,memory", "--json"];
    let output = starfeed(&args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rows: Vec<serde_json::Value> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("a JSON object per row"))
        .collect();
    assert_eq!(rows.len(), 4);
    for row in rows {
        assert_eq!(row["lost"], 0, "{row}");
        assert!(row["delivered_per_second"].as_f64().is_some_and(|delivered| delivered > 0.0), "{row}");
    }
}
