//! What the documents show is what happens: the frames of STREAMING_API.md and the commands of README.md.

mod support;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use support::process::ServerProcess;
use support::raw::RawClient;
use support::simulator::Simulator;

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

/// The bytes of a frame; `None` for one that is different each time.
fn pattern(line: &str) -> Vec<Option<u8>> {
    let (_, rest) = line.split_at(1);
    let hex = rest.split('#').next().unwrap_or_default();
    let byte = |text| (text != "??").then(|| u8::from_str_radix(text, 16).expect("two hexadecimal digits"));
    hex.split_whitespace().map(byte).collect()
}

fn is_like(received: &[u8], pattern: &[Option<u8>]) -> bool {
    let is_equal = |(byte, wanted): (&u8, &Option<u8>)| wanted.is_none_or(|wanted| wanted == *byte);
    received.len() == pattern.len() && received.iter().zip(pattern).all(is_equal)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x} ")).collect()
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
        let request: Option<Vec<u8>> = pattern(line).into_iter().collect();
        client.send(&request.expect("a request is the same each time"));
        // A response and the event of its write come in either order.
        let mut expected = Vec::new();
        while let Some(answer) = lines.next_if(|line| line.starts_with('<')) {
            expected.push(pattern(answer));
        }
        for _ in 0..expected.len() {
            let received = client.message();
            let found = expected.iter().position(|pattern| is_like(&received, pattern));
            let found = found.unwrap_or_else(|| panic!("{line}\nis answered by\n< {}", hex(&received)));
            expected.remove(found);
        }
    }
}

#[test]
fn the_python_of_the_streaming_api_runs() {
    let lines = blocks(&document("STREAMING_API.md"), "python");
    assert!(lines.iter().filter(|line| line.starts_with("assert ")).count() >= 2, "it checks itself");
    match Command::new("python3").args(["-c", &lines.join("\n")]).output() {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
        Err(_) => {
            // Written past the capture of test output: a skipped test must not look like one that passed.
            let _ = writeln!(std::io::stderr(), "SKIPPED: there is no python3 to run what STREAMING_API.md shows");
        }
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
    let simulator = "cargo run --release --example crawl_simulator";
    assert!(lines.iter().any(|line| line == simulator), "one line starts the simulator");
    let server = ServerProcess::in_memory(&[]);
    let _simulator = Simulator::start(&server.url(), &[]);
    let mut ran = [false, false];
    for line in rest {
        if line.contains("-- bench") {
            continue;
        }
        if line.contains("-- import") {
            run(line, &server.url());
            ran[0] = true;
        } else {
            // What would go on for ever stops by itself here.
            assert!(line.ends_with("-- watch job schedule"), "{line}");
            let watched = run(&format!("{line} --json --count 150"), &server.url());
            let has = |text: &str| watched.lines().any(|line| line.contains(text));
            assert!(has("\"table\":\"job\",\"type\":\"UPDATED\""), "{watched}");
            assert!(has("\"name\":\"Zeitungen am Morgen\""), "{watched}");
            ran[1] = true;
        }
    }
    assert_eq!(ran, [true, true], "the README writes rows, and watches them");
}

#[test]
fn the_containers_say_what_the_program_understands() {
    let help = |command: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_starfeed")).args([command, "--help"]).output().expect("it runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let known = help("serve") + &help("init");
    let files = document("deploy/compose.yml") + &document("deploy/Dockerfile");
    let words = files.split(|character: char| character.is_whitespace() || "[],\"'`".contains(character));
    let of_others =
        ["--bind", "--no-update-check", "--release", "--locked", "--bin", "--system", "--home-dir", "--from"];
    let flags: Vec<&str> =
        words.filter(|word| word.starts_with("--") && !of_others.iter().any(|other| word.starts_with(other))).collect();
    assert!(flags.len() >= 8, "{flags:?}");
    for flag in flags {
        assert!(known.contains(&format!("{flag} ")) || known.contains(&format!("{flag}\n")), "there is no flag {flag}");
    }
}
