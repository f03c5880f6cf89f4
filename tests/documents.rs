//! What the documents show is what happens: the frames of STREAMING_API.md and the commands of README.md.

mod support;

use std::path::Path;
use std::process::{Command, Stdio};

use support::process::ServerProcess;
use support::raw::RawClient;

fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The lines of the code blocks of one language.
fn blocks(document: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}");
    let mut lines = Vec::new();
    let mut is_inside = false;
    for line in document.lines() {
        match (is_inside, line) {
            (false, line) if line == fence => is_inside = true,
            (true, "```") => is_inside = false,
            (true, line) => lines.push(line.to_owned()),
            (false, _) => {}
        }
    }
    lines
}

fn bytes(line: &str) -> Vec<u8> {
    let (_, rest) = line.split_at(1);
    let hex = rest.split('#').next().unwrap_or_default();
    hex.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).expect("two hexadecimal digits")).collect()
}

#[test]
fn the_frames_of_the_streaming_api_are_what_the_server_says() {
    let lines = blocks(&document("STREAMING_API.md"), "frames");
    assert!(lines.len() > 15, "only {} frames", lines.len());
    let server = ServerProcess::in_memory(&[]);
    let mut client = RawClient::connect(&server.address);
    let mut lines = lines.iter().peekable();
    while let Some(line) = lines.next() {
        assert!(line.starts_with('>'), "{line}");
        client.send(&bytes(line));
        // A response and the event of its write come in either order.
        let mut expected = Vec::new();
        while let Some(answer) = lines.next_if(|line| line.starts_with('<')) {
            expected.push(bytes(answer));
        }
        let mut received: Vec<Vec<u8>> = expected.iter().map(|_| client.message()).collect();
        expected.sort();
        received.sort();
        assert_eq!(received, expected, "{line}");
    }
}

/// Runs a line of the README in a shell, with the built command in the place of `cargo run`, against `url`.
fn run(line: &str, url: &str) -> String {
    let built = env!("CARGO_BIN_EXE_starfeed");
    let line = line.replace("cargo run --release -- ", &format!("{built} "));
    let output = Command::new("sh")
        .args(["-ec", &line])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("STARFEED_URL", url)
        .stdin(Stdio::null())
        .output()
        .expect("a shell");
    assert!(output.status.success(), "{line}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_commands_of_the_readme_work() {
    let lines: Vec<String> = blocks(&document("README.md"), "sh");
    let commands: Vec<&String> = lines.iter().filter(|line| line.contains("cargo run --release -- ")).collect();
    let (serve, rest): (Vec<&String>, Vec<&String>) = commands.into_iter().partition(|line| line.contains("-- serve"));
    assert_eq!(serve, ["cargo run --release -- serve"], "one line starts the server");
    let server = ServerProcess::in_memory(&[]);
    let mut imports = 0;
    let mut watched = String::new();
    for line in rest {
        if line.contains("-- bench") {
            continue;
        }
        // What would go on for ever stops by itself here.
        let line = if line.ends_with("-- watch") { format!("{line} --json --for 4") } else { line.clone() };
        imports += usize::from(line.contains("-- import"));
        let stdout = run(&line, &server.url());
        if line.contains("-- watch") {
            watched.push_str(&stdout);
        }
    }
    assert!(imports >= 3, "the README loads the sample rows");
    for table in ["policy", "schedule", "domain_login"] {
        let rows = document(&format!("examples/rows/{table}.ndjson")).lines().count();
        let shown = watched.lines().filter(|line| line.contains(&format!("\"table\":\"{table}\"")));
        assert_eq!(shown.filter(|line| line.contains("\"ADDED\"")).count(), rows, "{table}");
    }
}
