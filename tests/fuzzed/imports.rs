//! Files of rows: each line is a row, blank or an error; what is no error is imported, all of it or nothing.

use std::sync::Arc;

use bytes::Bytes;
use starfeed::catalog::{Arrival, stored_table};
use starfeed::change::{Document, Timestamp};
use starfeed::cli::doors::{ImportedFile, imported_file};
use starfeed::feed::{Outbox, Outlet};
use starfeed::proto::{self, request::Command, response::Body};
use starfeed::session::{Session, Step, Work};
use starfeed::store::read;
use starfeed::subscription::Principal;
use starfeed::wire::{ClientMessage, ServerMessage};
use uuid::Uuid;

use super::server::Server;

const TABLES: [&str; 4] = ["domain_login", "rate_limit", "captcha_solver", "schedule"];

pub(crate) fn target(data: &[u8]) {
    let Some((table, file)) = data.split_first() else { return };
    let file = Bytes::copy_from_slice(file);
    let imported = imported_file(&file);
    check_lines(&file, &imported);
    if imported.rows.is_empty() {
        return;
    }
    let table = TABLES[usize::from(*table) % TABLES.len()];
    Server::with(|server| import(server, table, &imported));
}

/// No line is lost, and none is taken for another.
fn check_lines(file: &Bytes, imported: &ImportedFile) {
    let text = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file);
    let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).collect();
    let written = lines.iter().filter(|line| !line.is_empty()).count();
    assert_eq!(imported.rows.len() + imported.errors, written);
    for (line, row) in &imported.rows {
        assert_eq!(lines[usize::try_from(line - 1).expect("lines count from 1")], row);
    }
    let batches = imported.batches.iter().flat_map(|(first_line, rows)| (*first_line..).zip(rows.iter().cloned()));
    assert!(batches.eq(imported.rows.iter().cloned()), "the batches are not the rows");
}

struct Nobody;

impl Outlet for Nobody {
    fn wake(&self) {}
}

fn import(server: &Server, table: &str, imported: &ImportedFile) {
    let outbox = Outbox::new(1024, Arc::clone(&server.waiting), Arc::new(Nobody));
    let mut session = Session::new(Arc::clone(&server.session), Principal::Anonymous, String::new(), outbox);
    let before = count(server, table);
    let (mut staged, mut errors) = (0, 0);
    for (first_line, rows) in &imported.batches {
        let reply = request(server, &mut session, table, (*first_line, rows.clone()), false).expect("rows are staged");
        staged = reply.staged.unwrap_or_default();
        errors += reply.errors.len();
        for error in &reply.errors {
            let line = error.line.is_none_or(|line| imported.rows.iter().any(|(row, _)| *row == line));
            assert!(line && !error.message().is_empty(), "an error of a line that was not sent");
        }
    }
    let result = request(server, &mut session, table, (0, Vec::new()), true);
    match result {
        Ok(counts) => {
            assert_eq!(errors, 0, "rows were written although some were not accepted");
            let counted = counts.added() + counts.updated() + counts.unchanged();
            assert_eq!((counted, usize::try_from(staged)), (staged, Ok(imported.rows.len())));
            assert_eq!(count(server, table), before + u64::try_from(counts.added()).expect("a count"));
            check_rows(server, table, imported);
        }
        Err(_) => {
            assert!(errors > 0, "nothing was written, and no row was refused");
            assert_eq!(count(server, table), before);
        }
    }
}

/// What was imported is there, as it stands in the file.
fn check_rows(server: &Server, table: &str, imported: &ImportedFile) {
    let table = stored_table(table).expect("a table of the crawler");
    for (_, row) in &imported.rows {
        let document = Document::parse(row).expect("a row that was accepted");
        let key = (table.check)(&document).expect("a row that was accepted");
        let stored = read(&server.store, |snapshot| snapshot.row(&table.table(), &key)).expect("memory does not fail");
        assert_eq!(stored.map(|row| row.document), Some(document));
    }
}

fn count(server: &Server, table: &str) -> u64 {
    let table = stored_table(table).expect("a table of the crawler").table();
    read(&server.store, |snapshot| snapshot.count(&table)).expect("memory does not fail")
}

fn request(
    server: &Server,
    session: &mut Session,
    table: &str,
    (first_line, rows): (i32, Vec<Bytes>),
    is_commit: bool,
) -> Result<proto::ResponseImportRows, String> {
    let request = proto::RequestImportRows {
        table: table.to_owned(),
        rows,
        first_line: Some(first_line),
        commit: is_commit.then_some(true),
    };
    let arrival = Arrival { now: Timestamp(2_000_000), fresh_id: Uuid::nil(), has_crawler: false };
    session.receive(ClientMessage { request_id: 1, size: 1, command: Some(Command::ImportRows(request)) }, &arrival);
    loop {
        match session.next_step() {
            Step::Do(Work::Write { ticket, unit }) => {
                let result = server.write(unit);
                session.written(ticket, Ok(result));
            }
            Step::Do(Work::Read(read)) => session.read(read.run(&server.store)),
            Step::Send(ServerMessage::Response { result, .. }) => {
                return result.map(|body| match body.map(|body| *body) {
                    Some(Body::ImportRows(reply)) => reply,
                    other => panic!("an import is answered with {other:?}"),
                });
            }
            other => panic!("an import wants {other:?}"),
        }
    }
}
