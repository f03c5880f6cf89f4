//! Rows that are put together while they are read, as their first reader is sent them.

use super::*;
use crate::row_problems::RowProblems;
use crate::wire::protobuf::encode;
use crate::wire::{HEADER_BYTES_MAX, Header, Messages};

/// What a client is sent, behind a header for each message.
#[derive(Debug, Default, PartialEq)]
struct Tape {
    bytes: Vec<u8>,
    payload_bytes: u64,
    count: u64,
    /// How many messages it was given that lay ready.
    ready: u64,
}

fn header(payload_len: usize) -> Header {
    let mut bytes = [b'#'; HEADER_BYTES_MAX];
    bytes[1] = payload_len as u8;
    Header { bytes, len: 2 + payload_len % 3 }
}

impl Messages for Tape {
    fn put(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut message = Vec::new();
        write(&mut message);
        let Header { bytes, len } = header(message.len());
        self.bytes.extend_from_slice(&bytes[..len]);
        self.bytes.extend_from_slice(&message);
        self.payload_bytes += message.len() as u64;
        self.count += 1;
    }

    fn put_kept(&mut self, kept: &crate::feed::KeptMessages) {
        self.bytes.extend_from_slice(&kept.bytes);
        self.payload_bytes += kept.payload_bytes;
        self.count += kept.count;
        self.ready += kept.count;
    }
}

/// Keys and documents of all kinds and lengths, in the order of their keys.
fn rows() -> Vec<(Key, Document)> {
    let keys = (0..100).map(|number| Key::number(f64::from(number) - 50.0));
    let keys = keys.chain((0..100).map(|number| Key::binary(&vec![number; usize::from(number)])));
    let keys = keys.chain((0..100).map(|number| Key::text(&format!("{number:03}{}", "é".repeat(number)))));
    let mut rows: Vec<(Key, Document)> = keys
        .zip(0..)
        .map(|(key, number)| {
            let length = if number == 107 { 70_000 } else { number };
            let text = format!(r#"{{"a":"{}"}}"#, "x".repeat(length));
            (key, Document::parse(text.as_bytes()).expect("an object"))
        })
        .collect();
    rows.sort_by(|one, other| one.0.cmp(&other.0));
    rows
}

fn table() -> Table {
    Table::new("domain_login")
}

fn put(store: &Store, feeds: &Feeds, rows: &[(Key, Document)]) {
    let put = |(key, document): &(Key, Document)| Mutation::put(table(), key.clone(), document.clone());
    let committed = store.commit(Timestamp(0), &[rows.iter().map(put).collect()]).expect("memory does not fail");
    feeds.publish(committed.changes, committed.upto);
}

fn subscribe(options: SubscribeOptions) -> Command {
    let options = Some(SubscribeOptions { include_document: Some(true), ..options });
    Command::SubscribeTable(proto::RequestSubscribeTable { table: "domain_login".to_owned(), options })
}

fn world() -> (Store, Arc<SessionContext>, Arc<Feeds>) {
    let store = store();
    let (context, feeds) = context_with(&store, PageBudget { items: 70, bytes: 1 << 20 });
    put(&store, &feeds, &rows());
    (store, context, feeds)
}

/// How a session reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reads {
    /// Without knowing of headers.
    Plainly,
    /// As they will be sent.
    AsSent,
    /// The same, where the session is asked what to do next.
    AtOnce,
}

/// Runs what the session wants until it waits; what its client is sent. Behind the first page that is read, a row of it changes.
fn tape(session: &mut Session, store: &Store, feeds: &Feeds, reads: Reads) -> Tape {
    let (mut tape, mut has_changed) = (Tape::default(), false);
    loop {
        let read = match session.next_step() {
            Step::Wait => return tape,
            Step::Do(Work::Read(read)) => read,
            Step::Do(Work::Share(share)) => {
                session.read(share.now().expect("it was read"));
                continue;
            }
            Step::Do(other) => panic!("only rows are read: {other:?}"),
            Step::Send(message) => {
                encode(message, &RowProblems::default(), &mut tape);
                continue;
            }
        };
        let is_page = matches!(read, Read::Page { .. });
        match reads {
            Reads::Plainly => session.read(read.run(store)),
            Reads::AsSent => session.read(read.run_shown(store, Some(header))),
            Reads::AtOnce if is_page => assert!(session.read_at_once(read, header).is_none(), "all is in memory"),
            Reads::AtOnce => session.read(read.run(store)),
        }
        if is_page && !std::mem::replace(&mut has_changed, true) {
            let (key, _) = rows().swap_remove(1);
            put(store, feeds, &[(key, Document::parse(b"{}").expect("an object"))]);
        }
    }
}

#[test]
fn rows_that_are_put_together_while_they_are_read_are_the_same_bytes() {
    for states in [false, true] {
        let tape = |reads| {
            let (store, context, feeds) = world();
            let mut session = connect(&context, &Waiting::new(1 << 30));
            ask(&mut session, 1, 10, subscribe(SubscribeOptions { states: Some(states), ..Default::default() }));
            tape(&mut session, &store, &feeds, reads)
        };
        let plain = tape(Reads::Plainly);
        assert!(plain.count > 300 && plain.ready == 0, "{} messages", plain.count);
        for reads in [Reads::AsSent, Reads::AtOnce] {
            let sent = tape(reads);
            assert_eq!(sent.ready, 300, "each row is put together once");
            assert_eq!(Tape { ready: 0, ..sent }, plain, "{reads:?}, {states}");
        }
    }
}

#[test]
fn whoever_is_sent_the_same_rows_otherwise_has_them_put_together_again() {
    let (store, context, feeds) = world();
    let waiting = Waiting::new(1 << 30);
    let read = |subscriptions: i32, reads| {
        let mut session = connect(&context, &waiting);
        let mut tapes = Vec::new();
        for number in 0..subscriptions {
            ask(&mut session, number, 10, subscribe(SubscribeOptions { states: Some(true), ..Default::default() }));
            tapes.push(tape_of_quiet(&mut session, &store, reads));
        }
        (session, tapes)
    };
    // Whoever has it keeps the feed, and its window.
    let (_session, first) = read(1, Reads::AsSent);
    let pages_read = context.metrics.pages_read.get();
    let (_, again) = read(2, Reads::AsSent);
    assert_eq!(context.metrics.pages_read.get(), pages_read, "the pages are shared");
    assert_eq!(again[0], first[0], "who is sent the same has what lies ready");
    assert_eq!((first[0].ready, again[1].ready), (300, 0));
    context.pages.tick(1 << 40);
    let (_, expected) = read(2, Reads::Plainly);
    assert_eq!(again[1], expected[1]);
    drop(feeds);
}

#[test]
fn who_counts_otherwise_has_rows_with_its_own_numbers() {
    let (store, context, _feeds) = world();
    let waiting = Waiting::new(1 << 30);
    let options = SubscribeOptions { states: Some(true), heartbeat_seconds: Some(1), ..Default::default() };
    let read = |reads, before: u64| {
        let mut session = connect(&context, &waiting);
        ask(&mut session, 1, 10, subscribe(options.clone()));
        let mut tape = Tape::default();
        // Behind so many messages there is one more.
        while tape.count < before {
            step(&mut session, &store, reads, &mut tape);
        }
        session.tick(1000);
        while step(&mut session, &store, reads, &mut tape) {}
        (session, tape)
    };
    // A response, a state and the rows of a page.
    let first_page = 1 + 1 + 70;
    let (_first, before_the_rows) = read(Reads::AsSent, 1);
    let (_second, sent) = read(Reads::AsSent, first_page);
    assert_eq!((before_the_rows.count, sent.count), (305, 305));
    assert_eq!((before_the_rows.ready, sent.ready), (300, 300 - 70), "from the second page on they count the same");
    context.pages.tick(1 << 40);
    let (_third, expected) = read(Reads::Plainly, first_page);
    assert_eq!(Tape { ready: 0, ..sent }, expected);
}

fn tape_of_quiet(session: &mut Session, store: &Store, reads: Reads) -> Tape {
    let mut tape = Tape::default();
    while step(session, store, reads, &mut tape) {}
    tape
}

/// Does what the session wants next; `false` if that is nothing.
fn step(session: &mut Session, store: &Store, reads: Reads, tape: &mut Tape) -> bool {
    match session.next_step() {
        Step::Wait => return false,
        Step::Do(Work::Read(read)) if reads == Reads::AsSent => session.read(read.run_shown(store, Some(header))),
        Step::Do(Work::Read(read)) => session.read(read.run(store)),
        Step::Do(Work::Share(share)) => session.read(share.now().expect("it was read")),
        Step::Do(other) => panic!("only rows are read: {other:?}"),
        Step::Send(message) => encode(message, &RowProblems::default(), tape),
    }
    true
}

/// The first page that a subscription with a filter, or without, wants to read of `store`.
fn first_page(store: &Store, filter: Option<&str>) -> (Session, Read) {
    let (context, _feeds) = context_with(store, PageBudget { items: 70, bytes: 1 << 20 });
    let mut session = connect(&context, &Waiting::new(1 << 30));
    ask(&mut session, 1, 10, subscribe(SubscribeOptions { filter: filter.map(str::to_owned), ..Default::default() }));
    loop {
        match session.next_step() {
            Step::Send(_) => {}
            Step::Do(Work::Read(read @ Read::Page { .. })) => return (session, read),
            Step::Do(Work::Read(read)) => session.read(read.run(store)),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_takes_its_time_is_not_read_at_once() {
    let (store, _, feeds) = world();
    let (mut session, read) = first_page(&store, None);
    assert!(session.read_at_once(read, header).is_none(), "all is in memory");
    let (mut session, read) = first_page(&store, Some("a != \"y\""));
    assert!(session.read_at_once(read, header).is_some(), "no filter runs on the loop of a connection");

    let secret = Document::parse(br#"{"users":[{"password":"hunter2"}]}"#).expect("an object");
    put(&store, &feeds, &[(Key::number(-1000.0), secret)]);
    let (mut session, read) = first_page(&store, None);
    let read = session.read_at_once(read, header).expect("nor is anything taken out of rows");
    session.read(read.run_shown(&store, Some(header)));
    let sent = tape_of_quiet(&mut session, &store, Reads::Plainly);
    assert!(memchr::memmem::find(&sent.bytes, b"hunter2").is_none());
    assert_eq!(sent.ready, 0);

    let directory = tempfile::tempdir().expect("a directory");
    let on_disk = crate::store::FileDisk::new(&directory.path().join("store")).expect("a file of its own");
    let on_disk = Store::open(Box::new(on_disk), options(Retention { bytes: 1, age_ms: 1 })).expect("a store");
    let (mut session, read) = first_page(&on_disk, None);
    assert!(session.read_at_once(read, header).is_some(), "it may wait for the disk");
}
