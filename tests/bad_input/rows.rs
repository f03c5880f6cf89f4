//! Rows that nobody can keep: each is refused by its number with what is wrong, and nothing of the import is written.

use std::io::Write;
use std::process::{Command as Process, Stdio};

use bytes::Bytes;
use serde_json::json;
use starfeed::proto::{self, request::Command, response::Body};

use crate::support::crawled::{policy, with, without};
use crate::support::process::ServerProcess;
use crate::support::raw::{RawClient, set_login, subscribe_logins};
use crate::{Differences, Target, answer, assert_works};

const ROW_BYTES: [(&str, &str); 1] = [("row_bytes", "262144")];

struct Case {
    name: &'static str,
    table: &'static str,
    row: Vec<u8>,
    /// `None` where it is taken.
    error: Option<&'static str>,
}

fn case(name: &'static str, table: &'static str, row: impl Into<Vec<u8>>, error: &'static str) -> Case {
    Case { name, table, row: row.into(), error: Some(error) }
}

fn texts() -> Vec<Case> {
    vec![
        case("a row of no bytes", "domain_login", "", "the JSON text ends too early (line 1, column 0)"),
        case("a row of blanks", "domain_login", "   ", "the JSON text ends too early (line 1, column 3)"),
        case("a row that is null", "domain_login", "null", "a row must be a JSON object"),
        case("a row that is a list", "domain_login", "[]", "a row must be a JSON object"),
        case("a row that is a number", "domain_login", "17", "a row must be a JSON object"),
        case(
            "half a row",
            "domain_login",
            r#"{"domain": "a.example""#,
            "the JSON text ends too early (line 1, column 22)",
        ),
        case(
            "two rows in one",
            "domain_login",
            r#"{"domain": "a.example"}{"domain": "b.example"}"#,
            "not valid JSON (line 1, column 24)",
        ),
        case("a comma too many", "domain_login", r#"{"domain": "a.example",}"#, "not valid JSON (line 1, column 24)"),
        case("single quotes", "domain_login", "{'domain': 'a.example'}", "not valid JSON (line 1, column 2)"),
        case("a comment", "domain_login", r#"{"domain": "a.example" /* x */}"#, "not valid JSON (line 1, column 24)"),
    ]
}

fn values() -> Vec<Case> {
    let nested =
        |levels: usize| format!("{{\"domain\":\"a.example\",\"x\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
    vec![
        case(
            "a number that is none",
            "domain_login",
            r#"{"domain": "a.example", "x": NaN}"#,
            "not valid JSON (line 1, column 30)",
        ),
        case(
            "a number of a hundred thousand digits",
            "domain_login",
            format!("{{\"domain\": \"a.example\", \"x\": {}}}", "9".repeat(100_000)),
            "not valid JSON (line 1, column 100029)",
        ),
        case(
            "a huge exponent",
            "domain_login",
            r#"{"domain": "a.example", "x": 1e999}"#,
            "not valid JSON (line 1, column 34)",
        ),
        case(
            "half a surrogate, in JSON",
            "domain_login",
            r#"{"domain": "\ud800"}"#,
            "not valid JSON (line 1, column 19)",
        ),
        case(
            "an escape that there is not, in JSON",
            "domain_login",
            r#"{"domain": "\q"}"#,
            "not valid JSON (line 1, column 14)",
        ),
        case("a line feed in a text", "domain_login", "{\"domain\": \"a\nb\"}", "not valid JSON (line 2, column 0)"),
        case("UTF-16", "domain_login", b"\xff\xfe{\0}\0".to_vec(), "not valid JSON (line 1, column 1)"),
        case(
            "a byte order mark",
            "domain_login",
            "\u{feff}{\"domain\": \"a.example\"}",
            "not valid JSON (line 1, column 1)",
        ),
        case(
            "bytes that are not UTF-8",
            "domain_login",
            b"{\"domain\": \"\xff\"}".to_vec(),
            "not valid JSON (line 1, column 13)",
        ),
        case("a hundred thousand brackets", "domain_login", "[".repeat(100_000), "not valid JSON (line 1, column 128)"),
        case(
            "a hundred thousand lists in a row",
            "domain_login",
            nested(100_000),
            "not valid JSON (line 1, column 153)",
        ),
        case("128 lists in a row", "domain_login", nested(128), "not valid JSON (line 1, column 153)"),
        case(
            "the same member twice, of which the last counts",
            "domain_login",
            r#"{"domain": "a.example", "login_url": "x", "users": [], "domain": ""}"#,
            "`domain` must be text of 1 to 127 bytes, without NUL",
        ),
    ]
}

fn row(row: serde_json::Value) -> Vec<u8> {
    row.to_string().into_bytes()
}

fn good() -> serde_json::Value {
    policy(1, "Good")
}

fn keys() -> Vec<Case> {
    vec![
        case("a row without its key", "policy", row(without(good(), &["id"])), "`id` is missing"),
        case(
            "a key that is null",
            "policy",
            row(with(good(), json!({"id": null}))),
            "`id` must be a UUID in lower case with hyphens",
        ),
        case(
            "a key that is a number",
            "policy",
            row(with(good(), json!({"id": 7}))),
            "`id` must be a UUID in lower case with hyphens",
        ),
        case(
            "a key that is no UUID",
            "policy",
            row(with(good(), json!({"id": "../../etc/passwd"}))),
            "`id` must be a UUID in lower case with hyphens",
        ),
        case(
            "a UUID in upper case",
            "policy",
            row(with(good(), json!({"id": "5A5A5A5A-5A5A-4A5A-9A5A-5A5A5A5A5A5A"}))),
            "`id` must be a UUID in lower case with hyphens",
        ),
        case(
            "a UUID in braces",
            "policy",
            row(with(good(), json!({"id": "{5a5a5a5a-5a5a-4a5a-9a5a-5a5a5a5a5a5a}"}))),
            "`id` must be a UUID in lower case with hyphens",
        ),
        case(
            "a UUID without hyphens",
            "policy",
            row(with(good(), json!({"id": "5a".repeat(16)}))),
            "`id` must be a UUID in lower case with hyphens",
        ),
    ]
}

fn members() -> Vec<Case> {
    vec![
        case("a name that is a number", "policy", row(with(good(), json!({"name": 17}))), "`name` must be text"),
        case(
            "a time that is a text",
            "policy",
            row(with(good(), json!({"created_at": "2019-01-01"}))),
            "`created_at` must be a time",
        ),
        case(
            "a number of items with a fraction",
            "policy",
            row(with(good(), json!({"limits": {"max_items": 0.5}}))),
            "`limits.max_items` must be a whole number of 32 bits",
        ),
        case(
            "a number of items of 40 bits",
            "policy",
            row(with(good(), json!({"limits": {"max_items": 1_u64 << 40}}))),
            "`limits.max_items` must be a whole number of 32 bits",
        ),
        case(
            "an enum that is a number",
            "policy",
            row(with(good(), json!({"robots_txt": {"usage": 1}}))),
            "`robots_txt.usage` must be OBEY, INVERT or IGNORE",
        ),
        case(
            "an enum in lower case",
            "policy",
            row(with(good(), json!({"robots_txt": {"usage": "obey"}}))),
            "`robots_txt.usage` must be OBEY, INVERT or IGNORE",
        ),
        case(
            "an enum that there is not",
            "policy",
            row(with(good(), json!({"robots_txt": {"usage": "SOMETIMES"}}))),
            "`robots_txt.usage` must be OBEY, INVERT or IGNORE",
        ),
        case(
            "rules that are an object",
            "policy",
            row(with(good(), json!({"url_rules": {}}))),
            "`url_rules` must be a list",
        ),
    ]
}

fn logins_and_sizes() -> Vec<Case> {
    let members: serde_json::Map<_, _> = (0..60_000).map(|at| (format!("m{at}"), json!(at))).collect();
    vec![
        case(
            "a domain of 128 bytes",
            "domain_login",
            row(json!({"domain": "x".repeat(128), "login_url": "x", "users": []})),
            "`domain` must be text of 1 to 127 bytes, without NUL",
        ),
        case(
            "a domain with a NUL",
            "domain_login",
            row(json!({"domain": "a\0b", "login_url": "x", "users": []})),
            "`domain` must be text of 1 to 127 bytes, without NUL",
        ),
        case(
            "a password that is an object",
            "domain_login",
            row(json!({"domain": "a.example", "login_url": "x", "users": [{"password": {"a": "hunter2"}}]})),
            "`users[0].username` is missing, `users[0].password` must be text",
        ),
        case(
            "a row of 300,000 bytes",
            "policy",
            row(with(good(), json!({"x": "y".repeat(300_000)}))),
            "the row is larger than 262144 bytes: make it smaller, or raise row_bytes in the configuration",
        ),
        case(
            "a row of 60,000 members",
            "policy",
            row(with(good(), json!(members))),
            "the row is larger than 262144 bytes: make it smaller, or raise row_bytes in the configuration",
        ),
    ]
}

fn cases() -> Vec<Case> {
    [texts(), values(), keys(), members(), logins_and_sizes()].into_iter().flatten().collect()
}

struct Request {
    name: &'static str,
    command: Command,
    answer: Result<(), &'static str>,
}

fn import(table: &str, rows: &[&[u8]], commit: bool) -> Command {
    let rows = rows.iter().map(|row| Bytes::copy_from_slice(row)).collect();
    Command::ImportRows(proto::RequestImportRows {
        table: table.to_owned(),
        rows,
        first_line: None,
        commit: Some(commit),
    })
}

const NO_TABLE: &str = "there is no table \"passwords\" here; the tables are policy, schedule, domain_login, captcha_solver, rate_limit, job, response, response_body, frontier, robots_txt";

/// On one connection, one behind the other.
fn requests() -> Vec<Request> {
    let good = br#"{"domain": "a.example", "login_url": "x", "users": []}"#;
    let request = |name, command, answer| Request { name, command, answer };
    vec![
        request("an import to what there is not", import("passwords", &[b"{}"], false), Err(NO_TABLE)),
        request("a commit of nothing to what there is not", import("passwords", &[], true), Err(NO_TABLE)),
        request(
            "an import to a name that is none",
            import("../x", &[b"{}"], true),
            Err(
                "there is no table \"../x\" here; the tables are policy, schedule, domain_login, captcha_solver, rate_limit, job, response, response_body, frontier, robots_txt",
            ),
        ),
        request(
            "a command that writes a row of 300,000 bytes",
            set_login("a.example", &"x".repeat(300_000)),
            Err("the row is larger than 262144 bytes: make it smaller, or raise row_bytes in the configuration"),
        ),
        request("a good row", import("domain_login", &[good], false), Ok(())),
        request(
            "rows of another table within an import",
            import("policy", &[b"{}"], false),
            Err("an import of domain_login has begun on this connection: commit it first"),
        ),
        request(
            "a commit of another table",
            import("policy", &[], true),
            Err("an import of domain_login has begun on this connection: commit it first"),
        ),
        request(
            "the same row twice, and a commit",
            import("domain_login", &[good], true),
            Err("nothing was written: some rows were not accepted"),
        ),
        request(
            "a row that is none, and a commit",
            import("domain_login", &[b"{}"], true),
            Err("nothing was written: some rows were not accepted"),
        ),
    ]
}

pub(crate) fn names() -> Vec<&'static str> {
    let requests = requests();
    let lines = LINES.iter().map(|(name, ..)| *name);
    cases().iter().map(|case| case.name).chain(requests.iter().map(|request| request.name)).chain(lines).collect()
}

/// Nothing was written to any table.
fn assert_empty(server: &ServerProcess) {
    for table in ["policy", "domain_login"] {
        let after = None;
        let request = proto::RequestExportRows { table: table.to_owned(), after, limit: None };
        match RawClient::connect(&server.address).request(Command::ExportRows(request)) {
            Some(Body::ExportRows(page)) => assert_eq!(page.rows.len(), 0, "{table}"),
            body => panic!("{body:?}"),
        }
    }
}

#[test]
fn a_row_that_nobody_can_keep_is_refused_with_the_reason() {
    let target = Target::start(&ROW_BYTES);
    let mut differences = Differences::default();
    for Case { name, table, row, error } in cases() {
        // Each has its own: a connection has one import at a time.
        let mut client = target.connect();
        let Some(Body::ImportRows(report)) = client.request(import(table, &[&row], false)) else {
            panic!("{name}: no report")
        };
        let errors: Vec<&str> = report.errors.iter().map(|error| error.message()).collect();
        differences.expect(name, errors.as_slice(), error.as_slice());
        let committed = answer(&mut client, import(table, &[], true));
        differences.expect(name, committed.is_ok(), error.is_none());
        assert_works(&mut client, name);
        assert!(errors.iter().all(|error| !error.contains("hunter2")), "{name}: a secret is repeated");
    }
    differences.assert_none();
    assert_empty(&target.server);
    target.assert_unharmed();
}

#[test]
fn an_import_in_disorder_is_refused_and_writes_nothing() {
    let target = Target::start(&ROW_BYTES);
    let mut client = target.connect();
    let mut differences = Differences::default();
    for Request { name, command, answer: expected } in requests() {
        differences.expect(name, answer(&mut client, command), expected.map_err(str::to_owned));
        assert_works(&mut client, name);
    }
    differences.assert_none();
    assert_empty(&target.server);
    drop(client);
    target.assert_unharmed();
}

/// Files for the command line: name, what is repeated, how often, and how the errors end.
const LINES: &[(&str, &str, usize, &str)] = &[
    (
        "a line of 30 MB without an end",
        "{\"domain\": \"",
        2_500_000,
        "stdin:1: the line has 30000000 bytes, more than the 921600 that a row may have",
    ),
    (
        "a file of brackets",
        "[",
        1_000_000,
        "stdin:1: the line has 1000000 bytes, more than the 921600 that a row may have",
    ),
    (
        "a file of NULs",
        "\0",
        1_000_000,
        "stdin:1: the line has 1000000 bytes, more than the 921600 that a row may have",
    ),
    ("a million lines that are no rows", "x\n", 1_000_000, "stdin:1: not valid JSON (column 1)"),
    ("a file of one line of good rows", "{\"domain\": \"a.example\"} ", 20, "stdin:1: not valid JSON (column 25)"),
];

#[test]
fn a_file_that_nobody_can_import_is_refused_by_its_lines() {
    let target = Target::start(&[]);
    let mut differences = Differences::default();
    for &(name, piece, times, error) in LINES {
        let mut child = Process::new(env!("CARGO_BIN_EXE_starfeed"))
            .args(["import", "domain_login", "-", "--url", &target.server.url()])
            .env_clear()
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the command starts");
        child.stdin.take().expect("stdin is piped").write_all(piece.repeat(times).as_bytes()).expect("it reads");
        let output = child.wait_with_output().expect("the command ends");
        let stderr = String::from_utf8_lossy(&output.stderr);
        differences.expect(name, output.status.code(), Some(1));
        let first = stderr.lines().next().unwrap_or_default();
        differences.expect(name, first, error);
        let last = stderr.lines().last().unwrap_or_default();
        differences.expect(name, last.starts_with("starfeed: nothing was written: "), true);
        assert_eq!(target.connect().subscribe(subscribe_logins()), 0);
    }
    differences.assert_none();
    assert_empty(&target.server);
    target.assert_unharmed();
}
