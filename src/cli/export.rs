//! `starfeed export`.

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use bytes::Bytes;
use clap::Args;

use super::progress::Progress;
use super::server_url::ServerUrl;
use super::text::{counted, inert_json};
use crate::client::{Client, ClientError};
use crate::proto::{self, request::Command, response::Body};

/// Export the rows of a table as JSON documents
///
/// Writes one JSON document per line, in key order: what `starfeed import` reads. Stored secrets (passwords, API keys) are
/// part of it.
///
/// The table is read in pages, and each page is exact. Where the server wrote anything between two pages, a note on
/// standard error says that the rows may not be of one moment.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  starfeed export policy > policy.ndjson
  starfeed export domain_login --output logins.ndjson
  starfeed export schedule | jq -r .schedule_name")]
pub(super) struct ExportArgs {
    /// The table to read, for example `policy`
    table: String,
    /// Write to this file instead of standard output
    ///
    /// It is written as FILE.part, readable for its owner only, and renamed when it is complete.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    server: ServerUrl,
}

const PAGE_ROWS_MAX: i32 = 500;

pub(super) async fn run(args: ExportArgs) -> anyhow::Result<()> {
    let mut pages = Pages::open(&args.table, &args.server).await?;
    let mut output = Output::open(args.output.as_deref())?;
    let mut progress = Progress::new();
    let mut rows = 0;
    let mut positions = Positions::default();
    while let Some(page) = pages.next().await.map_err(|error| ended_after(rows, error))? {
        match output.write(&lines(&page.rows)) {
            // Whoever reads this has enough.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            written => written.context("the rows cannot be written")?,
        }
        rows += page.rows.len() as u64;
        positions.add(page.position);
        if !matches!(output, Output::Terminal) {
            progress.show(|| format!("{}: {}", args.table, counted(rows, "row")));
        }
    }
    drop(progress);
    output.finish().context("the rows cannot be written")?;
    pages.client.close().await;
    eprintln!("{}: {}", args.table, counted(rows, "row"));
    if let Some(note) = positions.note() {
        eprintln!("{note}");
    }
    Ok(())
}

fn ended_after(rows: u64, error: anyhow::Error) -> anyhow::Error {
    if rows == 0 {
        error
    } else {
        error.context(format!("the export is incomplete, it ended after {}", counted(rows, "row")))
    }
}

/// The pages of a table. Each is asked for on its own, so a connection that ends between two of them ends nothing: a
/// reader that takes long over a page makes the server close it.
struct Pages<'a> {
    table: &'a str,
    server: &'a ServerUrl,
    client: Client,
    next: Next,
}

enum Next {
    First,
    After(Bytes),
    End,
}

impl<'a> Pages<'a> {
    async fn open(table: &'a str, server: &'a ServerUrl) -> Result<Self, ClientError> {
        Ok(Self { table, server, client: server.connect().await?, next: Next::First })
    }

    async fn next(&mut self) -> anyhow::Result<Option<proto::ResponseExportRows>> {
        let after = match &self.next {
            Next::First => None,
            Next::After(after) => Some(after.clone()),
            Next::End => return Ok(None),
        };
        let page = match self.request(after.clone()).await {
            Err(ClientError::Closed(_)) if after.is_some() => {
                self.client = self.server.connect().await?;
                self.request(after.clone()).await?
            }
            page => page?,
        };
        ensure!(page.next.is_none() || page.next != after, "the server sent a page that leads nowhere");
        self.next = page.next.clone().map_or(Next::End, Next::After);
        Ok(Some(page))
    }

    async fn request(&mut self, after: Option<Bytes>) -> Result<proto::ResponseExportRows, ClientError> {
        let request = proto::RequestExportRows { table: self.table.to_owned(), after, limit: Some(PAGE_ROWS_MAX) };
        match self.client.request(Command::ExportRows(request)).await? {
            Some(Body::ExportRows(page)) => Ok(page),
            _ => Err(ClientError::Undecodable),
        }
    }
}

fn lines(rows: &[Bytes]) -> Vec<u8> {
    let mut lines = Vec::with_capacity(rows.iter().map(|row| row.len() + 1).sum());
    for row in rows {
        lines.extend_from_slice(row);
        lines.push(b'\n');
    }
    lines
}

/// The positions of the pages: whether anything was written in between.
#[derive(Debug, Default)]
struct Positions {
    first: Option<u64>,
    last: Option<u64>,
    is_moved: bool,
    /// Pages that have none: they come from a database.
    unnumbered: u64,
}

impl Positions {
    fn add(&mut self, position: Option<u64>) {
        let Some(position) = position else {
            self.unnumbered += 1;
            return;
        };
        self.first.get_or_insert(position);
        let before = self.last.replace(position);
        self.is_moved |= before.is_some_and(|before| before != position);
    }

    fn note(&self) -> Option<String> {
        if self.unnumbered > 1 {
            let pages = self.unnumbered;
            return Some(format!(
                "note: the table was read in {pages} parts: if it changed meanwhile, the rows are not of one moment"
            ));
        }
        let (first, last) = (self.first?, self.last?);
        self.is_moved.then(|| {
            format!(
                "note: the table may have changed while it was exported (from position {first} to {last}): the rows may \
                 not be of one moment"
            )
        })
    }
}

enum Output {
    Stdout,
    /// Like [`Output::Stdout`], for eyes.
    Terminal,
    File(PartFile),
}

impl Output {
    fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        match path {
            Some(path) => {
                let file = PartFile::create(path).with_context(|| format!("{} cannot be written", path.display()))?;
                Ok(Self::File(file))
            }
            None if std::io::stdout().is_terminal() => Ok(Self::Terminal),
            None => Ok(Self::Stdout),
        }
    }

    fn write(&mut self, lines: &[u8]) -> std::io::Result<()> {
        let mut stdout = std::io::stdout().lock();
        match self {
            Self::Stdout => stdout.write_all(lines)?,
            Self::Terminal => stdout.write_all(inert_json(String::from_utf8_lossy(lines).into_owned()).as_bytes())?,
            Self::File(part) => return part.file.write_all(lines),
        }
        stdout.flush()
    }

    fn finish(self) -> std::io::Result<()> {
        match self {
            Self::Stdout | Self::Terminal => Ok(()),
            Self::File(part) => part.finish(),
        }
    }
}

/// A file that gets its name when it is complete, and is removed when it never is.
struct PartFile {
    file: File,
    part: PathBuf,
    target: PathBuf,
    is_finished: bool,
}

impl PartFile {
    fn create(path: &Path) -> std::io::Result<Self> {
        let target = match path.metadata() {
            Ok(metadata) if metadata.is_file() => path.canonicalize()?,
            // Renaming would replace the device, the pipe or the directory.
            Ok(_) => return Err(std::io::Error::other("it is no regular file; use `>` of your shell")),
            Err(_) => path.to_owned(),
        };
        let mut part = target.clone().into_os_string();
        part.push(".part");
        let part = PathBuf::from(part);
        match std::fs::remove_file(&part) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = File::options().write(true).create_new(true).mode(0o600).open(&part)?;
        Ok(Self { file, part, target, is_finished: false })
    }

    fn finish(mut self) -> std::io::Result<()> {
        self.file.sync_all()?;
        std::fs::rename(&self.part, &self.target)?;
        self.is_finished = true;
        Ok(())
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        if !self.is_finished {
            // What is left of it does no harm.
            let _ = std::fs::remove_file(&self.part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_is_a_line() {
        assert_eq!(lines(&[]), b"");
        assert_eq!(lines(&[Bytes::from_static(b"{}"), Bytes::from_static(b"{\"a\":1}")]), b"{}\n{\"a\":1}\n");
    }

    #[test]
    fn writes_between_pages_are_noted() {
        let note = |list: &[u64]| {
            let mut positions = Positions::default();
            list.iter().for_each(|position| positions.add(Some(*position)));
            positions.note()
        };
        assert_eq!(note(&[]), None);
        assert_eq!(note(&[7]), None);
        assert_eq!(note(&[7, 7, 7]), None);
        let expected = "note: the table may have changed while it was exported (from position 7 to 9): the rows may not \
                        be of one moment";
        assert_eq!(note(&[7, 8, 9]).as_deref(), Some(expected));
        assert!(note(&[7, 9, 7]).is_some());
        let mut unnumbered = Positions::default();
        unnumbered.add(None);
        assert_eq!(unnumbered.note(), None);
        unnumbered.add(None);
        assert!(unnumbered.note().is_some_and(|note| note.contains("in 2 parts")));
    }

    #[test]
    fn a_file_is_there_when_it_is_complete() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.ndjson");
        let part = directory.path().join("a.ndjson.part");
        std::fs::write(&path, "old").expect("an old export");
        std::fs::write(&part, "left over").expect("what an export left that was killed");
        let mut file = PartFile::create(&path).expect("a part");
        file.file.write_all(b"new").expect("room");
        assert_eq!(std::fs::read_to_string(&path).expect("still there"), "old");
        file.finish().expect("a file");
        assert_eq!(std::fs::read_to_string(&path).expect("there"), "new");
        assert!(!part.exists());
    }

    #[test]
    fn a_file_that_is_never_complete_leaves_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.ndjson");
        drop(PartFile::create(&path).expect("a part"));
        assert_eq!(std::fs::read_dir(directory.path()).expect("a directory").count(), 0);
    }

    #[test]
    fn only_regular_files_are_replaced() {
        let directory = tempfile::tempdir().expect("a directory");
        let device = Path::new("/dev/null");
        for path in [directory.path(), device] {
            assert!(PartFile::create(path).is_err(), "{path:?}");
        }
        let link = directory.path().join("link");
        let file = directory.path().join("file");
        std::fs::write(&file, "old").expect("a file");
        std::os::unix::fs::symlink(&file, &link).expect("a link");
        PartFile::create(&link).expect("a part").finish().expect("a file");
        assert!(link.is_symlink());
        assert_eq!(std::fs::read_to_string(&file).expect("replaced"), "");
    }
}
