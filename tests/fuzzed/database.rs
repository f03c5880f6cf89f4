//! What a database says: frames however they are cut, answers, rows of changefeeds, and handshakes.

use std::collections::VecDeque;

use bytes::BytesMut;
use serde_json::value::RawValue;
use starfeed::catalog::{StoredTable, stored_table};
use starfeed::source::rethinkdb::reql::{Handshake, Password, Response, Step, frame};
use starfeed::source::rethinkdb::{CopyState, Effect, FeedRow, Mirror};

use super::input::Input;

const FRAME_BYTES_MAX: usize = 2048;
const NONCE: &str = "rOprNGfwEbeRWgbNEkqO";

pub(crate) fn target(data: &[u8]) {
    let mut input = Input(data);
    let kind = input.byte();
    let piece = usize::from(input.byte()) + 1;
    match kind % 3 {
        0 => frames(input.0, piece),
        1 => handshake(input.0, piece),
        _ => answer(input.0),
    }
}

fn frames(sent: &[u8], piece: usize) {
    let mut received = BytesMut::new();
    let mut taken = Vec::new();
    for piece in sent.chunks(piece) {
        received.extend_from_slice(piece);
        loop {
            match frame::decode(&mut received, FRAME_BYTES_MAX) {
                Ok(None) => break,
                Ok(Some((token, body))) => {
                    assert!(body.len() <= FRAME_BYTES_MAX);
                    let mut again = BytesMut::new();
                    frame::encode(token, &body, &mut again);
                    taken.extend_from_slice(&again);
                    answer(&body);
                }
                Err(_) => return,
            }
        }
    }
    taken.extend_from_slice(&received);
    assert_eq!(taken, sent, "a byte was lost or made up");
}

fn answer(body: &[u8]) {
    let (Ok(Response::Partial(page)) | Ok(Response::Last(page))) = Response::decode(body.to_vec().into()) else {
        return;
    };
    let Ok(rows) = page.rows() else { return };
    let tables = ["rate_limit", "domain_login"].map(|name| stored_table(name).expect("a table of the crawler"));
    for table in tables {
        mirror(table, rows.iter().copied().collect());
    }
}

/// Whatever a feed says, the copy is level only after it has said that all rows were sent.
fn mirror(table: StoredTable, rows: VecDeque<&RawValue>) {
    let mut mirror = Mirror::new(table, CopyState { is_empty: false, was_served: true });
    let mut is_ready = false;
    for row in rows {
        match mirror.take(&FeedRow::read(row)) {
            Effect::Ready(_) => is_ready = true,
            Effect::Doubt { .. } => return,
            Effect::Write(mutation) => assert_eq!(mutation.table, table.table()),
            Effect::Bad { problem, .. } => assert!(!problem.is_empty()),
            Effect::Nothing => {}
        }
        assert_eq!(mirror.is_level(), is_ready);
    }
}

fn handshake(sent: &[u8], piece: usize) {
    if has_many_iterations(sent) {
        return;
    }
    let (mut handshake, _) = Handshake::begin("user", &Password::new("pencil"), NONCE).expect("plain ASCII");
    let mut received = BytesMut::new();
    for piece in sent.chunks(piece) {
        received.extend_from_slice(piece);
        loop {
            match handshake.step(&mut received) {
                Ok(Step::Wait) => break,
                Ok(Step::Send(bytes)) => assert_eq!(bytes.last(), Some(&0)),
                Ok(Step::Done) => {
                    assert!(contains(sent, HONEST_PROOF), "a server without the password was let in");
                    return;
                }
                Err(_) => return,
            }
        }
    }
}

/// Only who knows the password can say it. There is one kept input whose challenge it belongs to, and nobody finds another one.
const HONEST_PROOF: &[u8] = b"v=XjTu3KBABgY/OKnhaQwxJb9Vbt2Fj1v+lPuMzeAcqSk=";

/// They are meant to take a while, and here nobody has the time.
fn has_many_iterations(sent: &[u8]) -> bool {
    sent.split(|byte| *byte == b',').any(|field| {
        let digits = field.iter().skip_while(|byte| !byte.is_ascii_digit()).take_while(|byte| byte.is_ascii_digit());
        field.starts_with(b"i=") && digits.count() > 2
    })
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}
