//! Secrets are in the replies that are meant to carry them, and nowhere else: no other reply, no event, no error, no log,
//! no page, no command's output.

mod secrets {
    pub(crate) mod commands;
    mod debug;
}
mod support;

use std::collections::BTreeSet;
use std::process::{Command as Program, Output, Stdio};
use std::time::{Duration, Instant};

use prost::Message as _;
use secrets::commands::{
    API_KEY, Asked, CHANGES, PROXY, ROWS, SOURCE_PASSWORD, all_commands, field_number, filters, invalid, reads,
    subscriptions,
};
use serde_json::json;
use starfeed::change::Epoch;
use starfeed::proto::{self, request::Command};
use starfeed::store::{FileDisk, Retention, Store, StoreOptions, StoreSecret};
use support::crawled::put;
use support::process::{ServerProcess, Start, eventually, secret_in};
use support::raw::{RawClient, subscribe_logins};
use support::reql::fault::Poison;
use support::reql::{Options, ReqlServer};

/// These give their client the row as it is stored, as the API of the crawler has it.
const MEANT: [&str; 7] = [
    "get_domain_login",
    "list_domain_logins",
    "get_captcha_solver",
    "list_captcha_solvers",
    "get_policy",
    "get_job",
    "export_rows",
];

/// A start that is refused is refused by then; one that waits for its database goes on waiting.
const PATIENCE: Duration = Duration::from_secs(3);

/// All that a server has said, but for what it was meant to say.
#[derive(Default)]
struct Heard {
    leaks: Vec<String>,
    /// The commands that were asked, by the numbers of their fields.
    asked: BTreeSet<u32>,
    /// Those of them whose replies had a secret, as they should.
    meant: BTreeSet<u32>,
    messages: usize,
}

impl Heard {
    fn take(&mut self, what: &str, bytes: &[u8]) {
        self.messages += 1;
        if let Some(secret) = secret_in(bytes) {
            let at = memchr::memmem::find(bytes, secret.as_bytes()).unwrap_or(0);
            let around = &bytes[at.saturating_sub(60)..bytes.len().min(at + 60)];
            self.leaks.push(format!("{what}: {secret}: {}", String::from_utf8_lossy(around)));
        }
    }

    fn take_output(&mut self, what: &str, output: &Output) {
        self.take(what, &output.stdout);
        self.take(what, &output.stderr);
    }

    fn ask(&mut self, client: &mut RawClient, Asked { name, command }: Asked) -> proto::Response {
        let number = field_number(&command);
        self.asked.insert(number);
        let request_id = client.ask(command);
        let response = client.response(request_id);
        let bytes = response.encode_to_vec();
        if MEANT.contains(&name) && response.is_success {
            self.meant.extend(secret_in(&bytes).map(|_| number));
        } else {
            self.take(name, &bytes);
        }
        self.take("a response, for people who debug", format!("{response:?} {response:#?}").as_bytes());
        self.take_events(client);
        response
    }

    fn take_events(&mut self, client: &mut RawClient) {
        while client.has_events() {
            let event = client.event();
            self.take("an event", &event.encode_to_vec());
            self.take("an event, for people who debug", format!("{event:?}").as_bytes());
        }
    }

    fn take_pages(&mut self, server: &ServerProcess) {
        for path in ["/metrics", "/healthz", "/", "/favicon.ico", "/ws/?password=x"] {
            let (status, body) = server.page(path);
            self.take(path, format!("{status}\n{body}").as_bytes());
        }
    }

    fn end(&self) {
        assert!(self.leaks.is_empty(), "{} leaks: {:#?}", self.leaks.len(), self.leaks);
    }
}

fn starfeed(args: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut program = Program::new(env!("CARGO_BIN_EXE_starfeed"));
    program.args(args).env_clear().envs(environment.iter().copied()).current_dir(std::env::temp_dir());
    program.output().expect("the command runs")
}

/// Everything that can be asked of a server, while somebody follows all that happens.
fn ask_everything(server: &ServerProcess, heard: &mut Heard) {
    let mut client = RawClient::connect(&server.address);
    for (table, rows) in ROWS.iter().map(|table| (*table, secrets::commands::rows(table))) {
        put(&mut client, table, &rows);
    }
    let mut follower = RawClient::connect(&server.address);
    for asked in subscriptions() {
        assert!(heard.ask(&mut follower, asked).is_success);
    }
    for command in CHANGES.iter().flat_map(|changes| changes()).chain(reads()).chain(filters()).chain(invalid()) {
        heard.ask(&mut client, command);
        heard.take_events(&mut follower);
    }
    // Monitors and looks at the database come by the clock.
    std::thread::sleep(Duration::from_millis(1500));
    let unsubscribe = Command::Unsubscribe(proto::RequestUnsubscribe { subscription_id: 0 });
    heard.ask(&mut follower, Asked { name: "unsubscribe", command: unsubscribe });
    heard.take_events(&mut client);
    // Bytes that make no sense end the connection with a reason.
    client.send(format!("{PROXY} {API_KEY}").as_bytes());
    heard.take("the end of a connection", client.closed().1.as_bytes());
    heard.take_pages(server);
}

fn use_command_line(server: &ServerProcess, heard: &mut Heard) {
    let url = server.url();
    let environment = [("STARFEED_URL", url.as_str()), ("RUST_LOG", "trace")];
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("rows.ndjson");
    for row in secrets::commands::invalid_rows() {
        std::fs::write(&file, format!("{row}\n")).expect("a file");
        let output = starfeed(&["import", "domain_login", file.to_str().expect("UTF-8")], &environment);
        assert!(!output.status.success(), "{row}");
        heard.take_output("import", &output);
    }
    let watched = starfeed(&["watch", "--json", "--documents", "--for", "3"], &environment);
    assert!(watched.status.success() && watched.stdout.len() > 500, "{watched:?}");
    heard.take_output("watch", &watched);
    let exported = starfeed(&["export", "domain_login"], &environment);
    assert!(secret_in(&exported.stdout).is_some(), "an export has all");
    heard.take("export", &exported.stderr);
}

#[test]
fn only_the_replies_that_are_meant_to_have_secrets_have_them() {
    let (directory, mut heard) = (tempfile::tempdir().expect("a directory"), Heard::default());
    let data_dir = directory.path().to_str().expect("a path in UTF-8");
    let mut server = ServerProcess::start(Start { data_dir, ..Start::default() });
    ask_everything(&server, &mut heard);
    use_command_line(&server, &mut heard);
    assert_eq!(server.terminate().code(), Some(0));
    heard.take("the log", server.whole_log().as_bytes());
    let sealing = sealing_key(data_dir);
    let log = server.whole_log();
    for form in [format!("{:?}", sealing.0), sealing.0.iter().map(|byte| format!("{byte:02x}")).collect::<String>()] {
        assert!(!log.contains(form.trim_matches(['[', ']'])), "the key that seals tokens is in the log");
    }
    heard.end();
    let all = all_commands();
    let missing: Vec<_> = all.iter().filter(|(number, _)| !heard.asked.contains(number)).collect();
    assert!(missing.is_empty(), "every command is asked: {missing:?}");
    assert_eq!(heard.meant.len(), MEANT.len(), "those that are meant to have secrets have them");
    println!("{} messages and texts of {} commands: no secret", heard.messages, all.len());
}

/// What the store seals tokens with.
fn sealing_key(data_dir: &str) -> StoreSecret {
    let options = StoreOptions {
        retention: Retention { bytes: 1 << 30, age_ms: 1 << 40 },
        cache_bytes: 1 << 20,
        journal_bytes: 1 << 20,
        fresh_epoch: Epoch(1),
        fresh_secret: StoreSecret([0; 32]),
        indexes: Vec::new(),
    };
    let disk = FileDisk::new(&std::path::Path::new(data_dir).join("store.redb")).expect("the store of the server");
    let secret = Store::open(Box::new(disk), options).expect("it ended in order").secret();
    assert!(secret != StoreSecret([0; 32]), "it is not a new store");
    secret
}

#[test]
fn secrets_of_a_database_stay_where_they_are() {
    let mut heard = Heard::default();
    let options = Options { user: "star".to_owned(), password: SOURCE_PASSWORD.to_owned(), ..Options::default() };
    let database = ReqlServer::start(options);
    let url = format!("rethinkdb://star@{}/starbelly", database.address());
    let made = starfeed(&["init", "--source", &url], &[("STARFEED_SOURCE_PASSWORD", SOURCE_PASSWORD)]);
    assert!(made.status.success(), "{made:?}");
    heard.take_output("init", &made);
    let mut server = ServerProcess::of_source(&url, SOURCE_PASSWORD, ":memory:", &[]);
    ask_everything(&server, &mut heard);
    // Rows and answers that make no sense, with secrets in them, to somebody who follows.
    let mut follower = RawClient::connect(&server.address);
    follower.subscribe(subscribe_logins());
    eventually("the table is followed", || server.metric("starfeed_source_level{table=\"domain_login\"}") == 1.0);
    let problems = || server.metric("starfeed_row_problems_total");
    let before = problems();
    assert!(database.poison("domain_login", &Poison::NotAnObject(json!([API_KEY, PROXY]))) > 0);
    eventually("the answer is no row", || problems() > before);
    database.put_spoiled("domain_login", &format!("{{\"domain\":false,\"users\":[{{\"password\":\"{API_KEY}\"}}]}}"));
    // The table is read again.
    database.overflow("domain_login", 1);
    eventually("the row is none", || problems() > before + 1.0);
    heard.take_pages(&server);
    assert_eq!(server.terminate().code(), Some(0));
    heard.take("the log", server.whole_log().as_bytes());
    heard.end();
}

#[test]
fn a_server_that_does_not_start_says_no_secret() {
    let mut heard = Heard::default();
    let database = ReqlServer::start(Options { password: "another".to_owned(), ..Options::default() });
    let source = format!("rethinkdb://admin@{}/starbelly", database.address());
    let with_password = format!("rethinkdb://admin:{SOURCE_PASSWORD}@127.0.0.1:1/starbelly");
    let crawler = format!("ws://me:{SOURCE_PASSWORD}@127.0.0.1:1/ws/");
    let config = tempfile::NamedTempFile::new().expect("a file");
    let config_path = config.path().to_str().expect("a path in UTF-8");
    std::fs::write(config_path, format!("source_password = \"{SOURCE_PASSWORD}\"\nlisten = 7\n")).expect("a file");
    let password = [("STARFEED_SOURCE_PASSWORD", SOURCE_PASSWORD)];
    let starts: [&[&str]; 4] =
        [&["--source", &source], &["--source", &with_password], &["--crawler", &crawler], &["--config", config_path]];
    for args in starts {
        let all = [&["serve", "--listen", "127.0.0.1:0", "--data-dir", ":memory:", "--log", "trace"], args].concat();
        let mut program = Program::new(env!("CARGO_BIN_EXE_starfeed"));
        program.args(&all).env_clear().envs(password).current_dir(std::env::temp_dir());
        let mut child = program.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the command runs");
        let deadline = Instant::now() + PATIENCE;
        while child.try_wait().expect("it is our child").is_none() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        // It may have ended by itself.
        let _ = child.kill();
        let output = child.wait_with_output().expect("it is our child");
        assert!(!output.status.success() && !output.stderr.is_empty(), "{args:?}");
        heard.take_output(args[0], &output);
    }
    heard.end();
}

#[test]
fn the_search_finds_what_it_looks_for() {
    let bytes = API_KEY.as_bytes();
    let forms = [API_KEY.to_owned(), format!("{bytes:?}"), json!({"api_key": API_KEY}).to_string()];
    for form in forms {
        assert!(secret_in(form.as_bytes()).is_some(), "{form}");
    }
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(secret_in(hex.as_bytes()).is_some());
    assert_eq!(secret_in(b"nothing of that kind: 5, ecret, hunter"), None);
}
