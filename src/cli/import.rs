//! `starfeed import`.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use clap::Args;
use serde_json::{Map, Value, error::Category};

use super::progress::Progress;
use super::server_url::ServerUrl;
use super::text::{counted, printable};
use crate::client::{Client, ClientError};
use crate::proto::{self, request::Command, response::Body};

/// Import rows from a file of JSON documents
///
/// Each line of the file is one row: a JSON object in the stored shape of its table, as `starfeed export` writes it. A row
/// whose key is in the table already is replaced; rows that are not in the file stay. Blank lines are skipped.
///
/// Everything is written in one transaction, or nothing: if any line has an error, all errors are printed as
/// FILE:LINE: MESSAGE, nothing is written, and the exit status is 1. Subscribers of the table see each row that is new or
/// different. Importing the same file again changes nothing.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  starfeed import policy examples/rows/policy.ndjson
  starfeed export schedule | starfeed import schedule - --url ws://127.0.0.1:9000/ws/

Limits: 900 KiB for a line, 1 GiB for the file, and for all rows of an import
what the server takes (limits.import_bytes, 64 MiB by default).")]
pub(super) struct ImportArgs {
    /// The table to write to, for example `policy`
    table: String,
    /// The file, one JSON document per line; `-` reads standard input
    file: PathBuf,
    #[command(flatten)]
    server: ServerUrl,
}

const FILE_BYTES_MAX: usize = 1 << 30;
/// With what goes around it, it fits into a message to the server (1 MiB).
const LINE_BYTES_MAX: usize = 900 * 1024;
const BATCH_BYTES_MAX: usize = 256 * 1024;
const BATCH_ROWS_MAX: usize = 500;
const ERRORS_SHOWN_MAX: usize = 100;

pub(super) async fn run(args: ImportArgs) -> anyhow::Result<()> {
    let name = if is_stdin(&args.file) { "stdin".to_owned() } else { args.file.display().to_string() };
    let content = read(&args.file).with_context(|| format!("{name} cannot be read"))?;
    ensure!(content.len() <= FILE_BYTES_MAX, "{name} is larger than 1 GiB: import it in parts");
    let CheckedFile { rows, mut errors } = check(&content);
    let total = rows.len() + errors.count;
    let staged = stage(&args, &rows, &mut errors).await;
    for line in errors.report(&name) {
        eprintln!("{line}");
    }
    match staged {
        Err(error) => bail!("nothing was written: {error}"),
        Ok(_) if errors.count > 0 => {
            let total = counted(total as u64, "row");
            bail!("nothing was written: {} of {total} cannot be imported", errors.count)
        }
        Ok(client) => {
            let counts = commit(client, &args.table).await?;
            eprintln!("{}", summary(&args.table, total, &counts));
            Ok(())
        }
    }
}

fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

/// The whole file, or the start of one that is too large.
fn read(path: &Path) -> std::io::Result<Bytes> {
    let mut content = Vec::new();
    let bytes_max = FILE_BYTES_MAX as u64 + 1;
    if is_stdin(path) {
        std::io::stdin().lock().take(bytes_max).read_to_end(&mut content)?;
    } else {
        std::fs::File::open(path)?.take(bytes_max).read_to_end(&mut content)?;
    }
    Ok(content.into())
}

/// Sends all rows to the server, which checks them. They are written only on [`commit`], and dropped with the connection.
async fn stage(args: &ImportArgs, rows: &[Row], errors: &mut LineErrors) -> Result<Client, ClientError> {
    let mut client = args.server.connect().await?;
    let mut progress = Progress::new();
    let mut sent = 0;
    for batch in batches(rows) {
        sent += batch.rows.len();
        let request = proto::RequestImportRows {
            table: args.table.clone(),
            rows: batch.rows,
            first_line: Some(batch.first_line),
            commit: None,
        };
        let Some(Body::ImportRows(reply)) = client.request(Command::ImportRows(request)).await? else {
            return Err(ClientError::Undecodable);
        };
        for error in &reply.errors {
            errors.add(error.line(), error.message());
        }
        progress.show(|| {
            let percent = sent * 100 / rows.len();
            format!("{}: {sent} of {} sent ({percent} %)", args.table, counted(rows.len() as u64, "row"))
        });
    }
    Ok(client)
}

async fn commit(mut client: Client, table: &str) -> anyhow::Result<proto::ResponseImportRows> {
    let request = proto::RequestImportRows { table: table.to_owned(), commit: Some(true), ..Default::default() };
    let error = match client.request(Command::ImportRows(request)).await {
        Ok(Some(Body::ImportRows(counts))) => {
            client.close().await;
            return Ok(counts);
        }
        Err(ClientError::Refused(text)) => bail!("the import was refused: {text}"),
        Ok(_) => ClientError::Undecodable,
        Err(error) => error,
    };
    bail!(
        "it is unknown whether the rows were written, because the server did not confirm it: {error}. Import the file \
         again: that is safe, and rows that are there already count as unchanged"
    )
}

fn summary(table: &str, rows: usize, counts: &proto::ResponseImportRows) -> String {
    format!(
        "{table}: {}: {} added, {} updated, {} unchanged",
        counted(rows as u64, "row"),
        counts.added(),
        counts.updated(),
        counts.unchanged()
    )
}

/// A line that is a row, as far as that can be told here.
#[derive(Debug, PartialEq)]
struct Row {
    line: i32,
    document: Bytes,
}

#[derive(Debug, PartialEq)]
struct CheckedFile {
    rows: Vec<Row>,
    errors: LineErrors,
}

/// Splits `content` into lines and checks each; the server checks the rest.
fn check(content: &Bytes) -> CheckedFile {
    let mut rows = Vec::new();
    let mut errors = LineErrors::default();
    let content = content.slice(if content.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 }..);
    for (line, text) in (1..).zip(content.split(|byte| *byte == b'\n')) {
        let text = text.trim_ascii();
        if text.is_empty() {
            continue;
        }
        match check_line(text) {
            Ok(()) => rows.push(Row { line, document: content.slice_ref(text) }),
            Err(message) => errors.add(line, &message),
        }
    }
    CheckedFile { rows, errors }
}

/// What is wrong with `text`, without repeating it: it may hold passwords.
fn check_line(text: &[u8]) -> Result<(), String> {
    if text.len() > LINE_BYTES_MAX {
        return Err(format!("the line has {} bytes, more than the {LINE_BYTES_MAX} that a row may have", text.len()));
    }
    match serde_json::from_slice::<Map<String, Value>>(text) {
        Ok(_) => Ok(()),
        Err(error) => Err(match error.classify() {
            Category::Data => "a row must be a JSON object".to_owned(),
            Category::Eof => format!("the JSON text ends too early (column {})", error.column()),
            Category::Io | Category::Syntax => format!("not valid JSON (column {})", error.column()),
        }),
    }
}

/// Rows of consecutive lines, which is how the server numbers them.
#[derive(Debug, PartialEq)]
struct Batch {
    first_line: i32,
    rows: Vec<Bytes>,
}

fn batches(rows: &[Row]) -> impl Iterator<Item = Batch> {
    let mut rest = rows;
    std::iter::from_fn(move || {
        let first = rest.first()?;
        let mut bytes = 0;
        let len = (first.line..)
            .zip(rest)
            .take(BATCH_ROWS_MAX)
            .take_while(|(line, row)| {
                let is_first = bytes == 0;
                bytes += row.document.len();
                row.line == *line && (is_first || bytes <= BATCH_BYTES_MAX)
            })
            .count();
        let (batch, others) = rest.split_at(len);
        rest = others;
        Some(Batch { first_line: first.line, rows: batch.iter().map(|row| row.document.clone()).collect() })
    })
}

/// What is made of a file, for tests.
#[cfg(feature = "test-doors")]
pub(super) fn imported_file(content: &Bytes) -> super::doors::ImportedFile {
    let CheckedFile { rows, errors } = check(content);
    super::doors::ImportedFile {
        batches: batches(&rows).map(|batch| (batch.first_line, batch.rows)).collect(),
        rows: rows.into_iter().map(|row| (row.line, row.document)).collect(),
        errors: errors.count,
    }
}

/// What is wrong with which line: how often, and the first of them.
#[derive(Debug, Default, PartialEq)]
struct LineErrors {
    count: usize,
    shown: BTreeSet<(i32, String)>,
}

impl LineErrors {
    fn add(&mut self, line: i32, message: &str) {
        self.count += 1;
        self.shown.insert((line, printable(message)));
        if self.shown.len() > ERRORS_SHOWN_MAX {
            self.shown.pop_last();
        }
    }

    fn report(&self, name: &str) -> Vec<String> {
        let mut lines: Vec<String> =
            self.shown.iter().map(|(line, message)| format!("{name}:{line}: {message}")).collect();
        let hidden = self.count - self.shown.len();
        if hidden > 0 {
            lines.push(format!("… and {hidden} more"));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(lines: &[(i32, usize)]) -> Vec<Row> {
        lines.iter().map(|(line, len)| Row { line: *line, document: vec![b'x'; *len].into() }).collect()
    }

    fn lines(rows: &[Row]) -> Vec<(i32, usize)> {
        batches(rows).map(|batch| (batch.first_line, batch.rows.len())).collect()
    }

    #[test]
    fn every_line_is_a_row_or_blank_or_an_error() {
        let content =
            "\u{feff}{\"id\": 1}\r\n\n  \t\n{\"id\": 2}\n[1]\n{\"password\": \"hunter2\", }\n{\"id\":\n\"x\"\n {} ";
        let checked = check(&Bytes::from_static(content.as_bytes()));
        let row = |line, document: &'static [u8]| Row { line, document: Bytes::from_static(document) };
        assert_eq!(checked.rows, [row(1, b"{\"id\": 1}"), row(4, b"{\"id\": 2}"), row(9, b"{}")]);
        assert_eq!(
            checked.errors.report("a.ndjson"),
            [
                "a.ndjson:5: a row must be a JSON object",
                "a.ndjson:6: not valid JSON (column 25)",
                "a.ndjson:7: the JSON text ends too early (column 6)",
                "a.ndjson:8: a row must be a JSON object",
            ]
        );
    }

    #[test]
    fn an_empty_file_has_no_rows() {
        for content in ["", "\n", "\n\n \n"] {
            let checked = check(&Bytes::from_static(content.as_bytes()));
            assert_eq!(checked, CheckedFile { rows: vec![], errors: LineErrors::default() });
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_named() {
        let object = |len: usize| format!("{{\"a\":\"{}\"}}", "x".repeat(len - 8));
        let content = format!("{}\n{}\n", object(LINE_BYTES_MAX), object(LINE_BYTES_MAX + 1));
        let checked = check(&content.into_bytes().into());
        assert_eq!(checked.rows.len(), 1);
        assert_eq!(
            checked.errors.report("a"),
            ["a:2: the line has 921601 bytes, more than the 921600 that a row may have"]
        );
    }

    #[test]
    fn a_batch_holds_consecutive_lines_only() {
        assert_eq!(lines(&rows(&[])), []);
        assert_eq!(lines(&rows(&[(1, 9), (2, 9), (4, 9), (5, 9), (6, 9), (9, 9)])), [(1, 2), (4, 3), (9, 1)]);
    }

    #[test]
    fn a_batch_is_bounded_in_rows_and_bytes() {
        let many: Vec<(i32, usize)> = (1..=1001).map(|line| (line, 9)).collect();
        assert_eq!(lines(&rows(&many)), [(1, 500), (501, 500), (1001, 1)]);
        let half = BATCH_BYTES_MAX / 2;
        let large = [(1, half), (2, half), (3, 1), (4, LINE_BYTES_MAX), (5, LINE_BYTES_MAX), (6, 1)];
        assert_eq!(lines(&rows(&large)), [(1, 2), (3, 1), (4, 1), (5, 1), (6, 1)]);
    }

    #[test]
    fn errors_are_sorted_and_the_first_hundred_shown() {
        let mut errors = LineErrors::default();
        for line in (1..=150).rev() {
            errors.add(line, "no `id`\u{1b}[2J");
        }
        let report = errors.report("stdin");
        assert_eq!(report.len(), 101);
        assert_eq!(report[0], "stdin:1: no `id`");
        assert_eq!(report[99], "stdin:100: no `id`");
        assert_eq!(report[100], "… and 50 more");
    }

    #[test]
    fn the_summary_counts() {
        let counts =
            proto::ResponseImportRows { added: Some(30), updated: Some(4), unchanged: Some(2), ..Default::default() };
        assert_eq!(summary("policy", 36, &counts), "policy: 36 rows: 30 added, 4 updated, 2 unchanged");
    }
}
