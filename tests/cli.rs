//! The commands that are clients of a server, run as programs.

mod support;

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use prost::Message as _;
use serde_json::Value;
use starfeed::proto::{self, request::Command as Asked, response::Body, server_message::MessageType};
use starfeed::task;
use support::feed::Feed;
use support::process::{ServerProcess, eventually};
use support::raw::{RawClient, delete_login};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_tungstenite::{accept_async, tungstenite::Message};

const TIMEOUT: Duration = Duration::from_secs(30);
const TABLES: [&str; 5] = ["policy", "schedule", "domain_login", "captcha_solver", "rate_limit"];

/// A running command. Its output goes into files, so that it never waits for a reader.
struct Running {
    child: Child,
    directory: TempDir,
}

/// A command that has ended.
#[derive(Debug)]
struct Ended {
    status: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Running {
    fn start(url: &str, args: &[&str]) -> Self {
        Self::start_with(url, args, Stdio::null())
    }

    fn start_with(url: &str, args: &[&str], stdin: Stdio) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let file = |name: &str| File::create(directory.path().join(name)).expect("a file");
        let child = command(url, args)
            .stdin(stdin)
            .stdout(file("stdout"))
            .stderr(file("stderr"))
            .spawn()
            .expect("the command starts");
        Self { child, directory }
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.directory.path().join(name)).expect("the output is text")
    }

    /// The lines of its standard output that are complete.
    fn lines(&self) -> Vec<Value> {
        let stdout = self.read("stdout");
        stdout.split_inclusive('\n').filter(|line| line.ends_with('\n')).map(json).collect()
    }

    fn end(mut self) -> Ended {
        let status = wait(&mut self.child);
        Ended { status, stdout: self.read("stdout"), stderr: self.read("stderr") }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    /// Its standard output, where it was to succeed.
    fn output(self) -> String {
        assert_eq!(self.status, Some(0), "{self:?}");
        self.stdout
    }
}

fn command(url: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_starfeed"));
    command.env_clear().env("STARFEED_URL", url).args(args);
    command
}

fn wait(child: &mut Child) -> Option<i32> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        if let Some(status) = child.try_wait().expect("it is our child") {
            return status.code();
        }
        if Instant::now() >= deadline {
            // It would outlive the test.
            let _ = child.kill();
            let _ = child.wait();
            panic!("the command does not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn run(url: &str, args: &[&str]) -> Ended {
    Running::start(url, args).end()
}

fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
}

/// The documents in `text`; members in sorted order, so that equal documents are equal texts.
fn documents(text: &str) -> BTreeSet<String> {
    let documents: BTreeSet<String> = text.lines().map(|line| json(line).to_string()).collect();
    assert_eq!(documents.len(), text.lines().count(), "every document comes once");
    documents
}

fn example(table: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("examples/rows/{table}.ndjson"))
}

fn example_rows(table: &str) -> String {
    std::fs::read_to_string(example(table)).expect("the examples are there")
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

fn import_example(url: &str, table: &str) -> String {
    let ended = run(url, &["import", table, path(&example(table))]);
    assert_eq!(ended.status, Some(0), "{ended:?}");
    ended.stderr
}

#[test]
fn what_was_imported_is_exported() {
    // Small pages, so that an export has several.
    let server = ServerProcess::in_memory(&[("page_bytes", "4096")]);
    for table in TABLES {
        let url = server.url();
        let rows = example_rows(table);
        let count = rows.lines().count();

        let summary = import_example(&url, table);
        assert_eq!(summary, format!("{table}: {count} rows: {count} added, 0 updated, 0 unchanged\n"));
        let summary = import_example(&url, table);
        assert_eq!(summary, format!("{table}: {count} rows: 0 added, 0 updated, {count} unchanged\n"));

        let exported = run(&url, &["export", table]);
        assert_eq!(exported.stderr, format!("{table}: {count} rows\n"));
        let exported = exported.output();
        assert_eq!(documents(&exported), documents(&rows));

        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("rows.ndjson");
        assert_eq!(run(&url, &["export", table, "--output", path(&file)]).output(), "");
        assert_eq!(std::fs::read_to_string(&file).expect("a complete file"), exported);
        assert_eq!(std::fs::read_dir(directory.path()).expect("a directory").count(), 1);
    }
}

#[test]
fn an_export_can_be_imported_elsewhere_from_standard_input() {
    let server = ServerProcess::in_memory(&[]);
    let other = ServerProcess::in_memory(&[]);
    import_example(&server.url(), "schedule");
    let exported = Running::start(&server.url(), &["export", "schedule"]);
    eventually("the export ends", || exported.read("stderr").ends_with("rows\n"));
    let stdin = File::open(exported.directory.path().join("stdout")).expect("the export");
    // The flag wins over the environment.
    let args = ["import", "schedule", "-", "--url", &other.url()];
    let imported = Running::start_with(&server.url(), &args, stdin.into()).end();
    assert_eq!(imported.stderr, "schedule: 28 rows: 28 added, 0 updated, 0 unchanged\n");
    assert_eq!(documents(&run(&other.url(), &["export", "schedule"]).output()), documents(&exported.end().output()));
}

#[test]
fn an_import_with_errors_names_each_line_and_writes_nothing() {
    let server = ServerProcess::in_memory(&[]);
    let url = server.url();
    let rows = example_rows("policy");
    let [first, second, ..] = rows.lines().collect::<Vec<_>>()[..] else { panic!("there are examples") };
    let lines =
        [first, "", "{\"id\": ", "[1]", "{\"name\": \"no id\"}", second, first, "{\"password\": \"hunter2\", }"];
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("policy.ndjson");
    std::fs::write(&file, lines.join("\n")).expect("a file");

    let ended = run(&url, &["import", "policy", path(&file)]);
    assert_eq!(ended.status, Some(1), "{ended:?}");
    let report: Vec<&str> = ended.stderr.lines().collect();
    let message = |line: u32| {
        let start = format!("{}:{line}: ", file.display());
        report.iter().find_map(|text| text.strip_prefix(&start)).unwrap_or_else(|| panic!("line {line}: {report:#?}"))
    };
    assert_eq!(message(3), "the JSON text ends too early (column 6)");
    assert_eq!(message(4), "a row must be a JSON object");
    assert!(!message(5).is_empty());
    assert_eq!(message(7), "the same `id` as in line 1");
    assert_eq!(message(8), "not valid JSON (column 25)");
    assert_eq!(report.len(), 6);
    assert_eq!(report[5], "starfeed: nothing was written: 5 of 7 rows cannot be imported");
    assert!(!ended.stderr.contains("hunter2"));
    assert_eq!(run(&url, &["export", "policy"]).output(), "");
}

#[test]
fn an_empty_import_is_one() {
    let server = ServerProcess::in_memory(&[]);
    let ended = run(&server.url(), &["import", "policy", "/dev/null"]);
    assert_eq!(ended.stderr, "policy: 0 rows: 0 added, 0 updated, 0 unchanged\n");
    assert_eq!(ended.status, Some(0));
}

#[test]
fn an_unknown_table_is_said_to_be_unknown() {
    // A refusal waits for nothing: not for the next ping either, which would wake the connection.
    let server = ServerProcess::in_memory(&[("ping_seconds", "600")]);
    let rows = example("policy");
    for args in [&["import", "polices", path(&rows)][..], &["export", "polices"], &["watch", "polices"]] {
        let ended = run(&server.url(), args);
        assert_ne!(ended.status, Some(0), "{ended:?}");
        assert!(ended.stderr.contains("polices") && ended.stderr.contains("domain_login"), "{ended:?}");
        assert_eq!(ended.stdout, "");
    }
}

#[test]
fn without_a_server_it_says_how_to_start_one() {
    let unused = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("ws://{}/ws/", unused.local_addr().expect("an address"));
    drop(unused);
    let rows = example("policy");
    for args in [&["import", "policy", path(&rows)][..], &["export", "policy"], &["watch"]] {
        let ended = run(&url, args);
        assert_eq!(ended.status, Some(1), "{ended:?}");
        assert!(ended.stderr.contains("(start one with `starfeed serve`)"), "{ended:?}");
    }
}

#[test]
fn an_export_ends_quietly_when_nobody_reads_it() {
    let server = ServerProcess::in_memory(&[]);
    import_example(&server.url(), "policy");
    let directory = tempfile::tempdir().expect("a directory");
    let stderr = directory.path().join("stderr");
    let mut child = command(&server.url(), &["export", "policy"])
        .stdout(Stdio::piped())
        .stderr(File::create(&stderr).expect("a file"))
        .spawn()
        .expect("the command starts");
    drop(child.stdout.take());
    assert_eq!(wait(&mut child), Some(0));
    assert_eq!(std::fs::read_to_string(&stderr).expect("text"), "");
}

#[test]
fn a_watch_sees_every_row_and_then_a_change() {
    let server = ServerProcess::in_memory(&[]);
    let url = server.url();
    import_example(&url, "policy");
    import_example(&url, "schedule");
    let rows: Vec<Value> = example_rows("policy").lines().map(json).collect();
    let count = (rows.len() + 1).to_string();
    let watch = Running::start(&url, &["watch", "policy", "--count", &count]);
    eventually("all rows are there", || watch.lines().len() == rows.len());

    let mut changed = rows[0].clone();
    changed["name"] = "Changed \u{1b}[2J".into();
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("changed.ndjson");
    std::fs::write(&file, changed.to_string()).expect("a file");
    let imported = run(&url, &["import", "policy", path(&file)]);
    assert_eq!(imported.stderr, "policy: 1 row: 0 added, 1 updated, 0 unchanged\n");

    let ended = watch.end();
    assert_eq!(ended.stderr, "");
    let output = ended.output();
    let lines: Vec<&str> = output.lines().collect();
    let line = |kind: &str, row: &Value| {
        format!(r#"{{"table":"policy","type":"{kind}","key":{},"name":{}}}"#, row["id"], row["name"])
    };
    let (last, initial) = lines.split_last().expect("lines");
    let expected: BTreeSet<String> = rows.iter().map(|row| line("ADDED", row)).collect();
    assert_eq!(initial.iter().map(|line| (*line).to_owned()).collect::<BTreeSet<_>>(), expected);
    assert_eq!(*last, line("UPDATED", &changed));
}

#[test]
fn a_watch_ends_after_its_time() {
    let server = ServerProcess::in_memory(&[]);
    import_example(&server.url(), "domain_login");
    let output = run(&server.url(), &["watch", "--for", "1"]).output();
    let rows = example_rows("domain_login");
    let expected: BTreeSet<String> = rows
        .lines()
        .map(json)
        .map(|row| format!(r#"{{"table":"domain_login","type":"ADDED","key":{},"name":null}}"#, row["domain"]))
        .collect();
    assert_eq!(output.lines().map(str::to_owned).collect::<BTreeSet<_>>(), expected);
}

#[tokio::test]
async fn a_watch_connects_again() {
    let server = ServerProcess::in_memory(&[]);
    import_example(&server.url(), "domain_login");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("ws://{}/ws/", listener.local_addr().expect("an address"));
    let rows = example_rows("domain_login").lines().count();
    let cut = Notify::new();
    let address = server.address.clone();
    let domain = example_rows("domain_login").lines().map(json).next().expect("a row")["domain"].clone();
    let domain = domain.as_str().expect("text").to_owned();
    let script = async {
        let watch = Running::start(&url, &["watch", "domain_login", "--count", &(rows + 1).to_string()]);
        let deadline = Instant::now() + TIMEOUT;
        while watch.lines().len() < rows {
            assert!(Instant::now() < deadline, "the first rows come");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        cut.notify_one();
        while watch.lines().len() < rows + 2 {
            assert!(Instant::now() < deadline, "it is connected again");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // What it has it does not get again, only what happened since.
        let gone = task::blocking(move || {
            let mut client = RawClient::connect(&address);
            client.request(delete_login(&domain));
            watch.end()
        });
        let ended = gone.await;
        let lines: Vec<Value> = ended.stdout.lines().map(json).collect();
        assert_eq!(lines[rows]["type"], "DISCONNECTED");
        assert_eq!(lines[rows + 1], json(r#"{"type":"RECONNECTED"}"#));
        assert_eq!((&lines[rows + 2]["type"], lines.len()), (&json("\"DELETED\""), rows + 3));
        assert_eq!(ended.status, Some(0));
        assert!(ended.stderr.ends_with(" s\nstarfeed: connected again\n"), "{ended:?}");
    };
    tokio::select! {
        // The script decides; the relay never ends by itself.
        biased;
        () = script => {}
        () = relay(&listener, &server.address, &cut) => {}
    }
}

/// Passes bytes on between one client at a time and the server, until the connection is cut.
async fn relay(listener: &TcpListener, address: &str, cut: &Notify) {
    loop {
        let (mut client, _) = listener.accept().await.expect("a client");
        let mut server = TcpStream::connect(address).await.expect("the server listens");
        tokio::select! {
            // A cut counts for the connection there is.
            biased;
            () = cut.notified() => {}
            _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
        }
    }
}

#[tokio::test]
async fn an_import_that_loses_its_connection_says_what_that_means() {
    let rows = example("schedule");
    let args = ["import", "schedule", path(&rows)];
    let ended = run_with_script(&args, |_, _| None).await;
    assert_eq!(ended.status, Some(1));
    assert!(ended.stderr.starts_with("starfeed: nothing was written: the server ended the connection"), "{ended:?}");

    let staged = |_, asked| match asked {
        Asked::ImportRows(import) if !import.commit() => Some(vec![response(Body::ImportRows(Default::default()))]),
        _ => None,
    };
    let ended = run_with_script(&args, staged).await;
    assert_eq!(ended.status, Some(1));
    assert!(ended.stderr.starts_with("starfeed: it is unknown whether the rows were written"), "{ended:?}");
    assert!(ended.stderr.contains("Import the file again: that is safe"), "{ended:?}");
}

#[tokio::test]
async fn an_export_goes_on_after_a_lost_connection() {
    let page = |row: &'static [u8], next: Option<&'static [u8]>, position| {
        let page =
            proto::ResponseExportRows { rows: vec![row.into()], next: next.map(Into::into), position: Some(position) };
        Some(vec![response(Body::ExportRows(page))])
    };
    let script = move |connection, asked| match asked {
        Asked::ExportRows(export) => match (connection, export.after.as_deref()) {
            (0, None) => page(b"{\"id\":1}", Some(b"1"), 7),
            (1, Some(b"1")) => page(b"{\"id\":2}", None, 8),
            _ => None,
        },
        _ => None,
    };
    let ended = run_with_script(&["export", "policy"], script).await;
    assert_eq!(ended.status, Some(0), "{ended:?}");
    assert_eq!(ended.stdout, "{\"id\":1}\n{\"id\":2}\n");
    let note = "the table may have changed while it was exported (from position 7 to 8)";
    assert!(ended.stderr.contains(note), "{ended:?}");

    let ended = run_with_script(&["export", "policy"], move |connection, asked| match asked {
        Asked::ExportRows(export) if connection == 0 && export.after.is_none() => page(b"{}", Some(b"1"), 7),
        _ => None,
    });
    let ended = ended.await;
    assert_eq!((ended.status, ended.stdout.as_str()), (Some(1), "{}\n"));
    assert!(ended.stderr.starts_with("starfeed: the export is incomplete, it ended after 1 row: "), "{ended:?}");
}

#[tokio::test]
async fn a_closed_subscription_is_made_again() {
    let feed = Feed::listen().await;
    let url = feed.url();
    let script = async {
        feed.put("a");
        let watch = Running::start(&url, &["watch", "domain_login", "--count", "2"]);
        let deadline = Instant::now() + TIMEOUT;
        let wait_for = async |lines: usize| {
            while watch.lines().len() < lines {
                assert!(Instant::now() < deadline, "{:?}", watch.lines());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        wait_for(1).await;
        feed.close_subscriptions();
        wait_for(3).await;
        feed.delete("a");
        wait_for(4).await;
        let ended = task::blocking(|| watch.end()).await;
        let expected = [
            r#"{"table":"domain_login","type":"ADDED","key":"a","name":null}"#,
            r#"{"table":"domain_login","type":"STALE","message":"closed by the server: the table is gone; subscribing again"}"#,
            r#"{"table":"domain_login","type":"LIVE"}"#,
            r#"{"table":"domain_login","type":"DELETED","key":"a","name":null}"#,
        ];
        assert_eq!(ended.output().lines().collect::<Vec<_>>(), expected);
    };
    tokio::select! {
        // The script decides; the server never ends by itself.
        biased;
        () = script => {}
        () = feed.serve() => {}
    }
}

/// Runs a command against a server that answers as `script` says: which messages come for a request on which connection,
/// counted from 0. For `None` the connection is cut.
async fn run_with_script(args: &[&str], script: impl Fn(u32, Asked) -> Option<Vec<MessageType>>) -> Ended {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("ws://{}/ws/", listener.local_addr().expect("an address"));
    let running = Running::start(&url, args);
    let server = async {
        for connection in 0.. {
            let (stream, _) = listener.accept().await.expect("a client");
            let Ok(mut socket) = accept_async(stream).await else { continue };
            while let Some(Ok(Message::Binary(bytes))) = socket.next().await {
                let request = proto::Request::decode(bytes).expect("a request");
                let command = request.command.expect("a command");
                let Some(replies) = script(connection, command) else { break };
                for mut reply in replies {
                    if let MessageType::Response(response) = &mut reply {
                        response.request_id = request.request_id;
                    }
                    let message = proto::ServerMessage { message_type: Some(reply) };
                    // The command may have what it wants.
                    let _ = socket.send(Message::binary(message.encode_to_vec())).await;
                }
            }
        }
    };
    tokio::select! {
        // The command decides; the server never ends by itself.
        biased;
        ended = task::blocking(|| running.end()) => ended,
        () = server => unreachable!("it accepts for ever"),
    }
}

/// A response to the request at hand; whoever sends it fills in the id.
fn response(body: Body) -> MessageType {
    MessageType::Response(proto::Response { is_success: true, body: Some(body), ..Default::default() })
}
