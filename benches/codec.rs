//! What bytes of the wire cost: reading a request, and writing an event for one more subscriber, by itself and out of the
//! pieces that its change keeps for all of them: `cargo bench --bench codec`.

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use prost::Message;
use serde_json::json;
use starfeed::catalog::{self, Form};
use starfeed::change::{Cause, Change, ChangeKind, Document, Key, Seq, Table, Timestamp};
use starfeed::feed::{Content, Published, SeenChange, SnapshotRows};
use starfeed::proto::{self, request::Command, server_message::MessageType};
use starfeed::row_problems::RowProblems;
use starfeed::store::{BlockRow, RowBlockBuilder};
use starfeed::transport::frame_writer::Frames;
use starfeed::wire::protobuf::{decode, encode};
use starfeed::wire::{Event, InitialRows, Messages, News, ServerMessage, Shape};

const TABLE: &str = "domain_login";

fn request(command: Command) -> Bytes {
    proto::Request { request_id: 7, command: Some(command) }.encode_to_vec().into()
}

fn requests(criterion: &mut Criterion) {
    let login = proto::DomainLogin {
        domain: Some("forum.example".to_owned()),
        login_url: Some("https://forum.example/login".to_owned()),
        login_test: Some("x".repeat(120)),
        ..Default::default()
    };
    let requests = [
        ("subscribe", Command::SubscribeDomainLoginList(proto::RequestSubscribeDomainLoginList::default())),
        ("write", Command::SetDomainLogin(proto::RequestSetDomainLogin { login: Some(login) })),
    ];
    let mut group = criterion.benchmark_group("read a request");
    for (name, command) in requests {
        let bytes = request(command);
        assert!(decode(bytes.clone()).expect("a request").command.is_some());
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(name, |bencher| bencher.iter(|| decode(black_box(bytes.clone()))));
    }
}

fn change() -> Change {
    let document = |number: u32| {
        let row = json!({
            "domain": "forum.example",
            "login_url": format!("https://forum.example/{number}"),
            "login_test": "x".repeat(80),
            "users": [],
        });
        Document::parse(row.to_string().as_bytes()).expect("an object")
    };
    Change {
        seq: Seq(2),
        table: Table::new(TABLE),
        key: Key::text("forum.example"),
        old: Some(document(1)),
        old_version: Seq(1),
        new: Some(document(2)),
        time: Timestamp(0),
        cause: Cause::Write,
    }
}

/// The event of `change` for one subscriber.
fn event(change: &Arc<Published>, shape: Shape, token: Option<&Bytes>) -> ServerMessage {
    let content = Content::Change(SeenChange::Replayed(Arc::clone(change), ChangeKind::Updated));
    let event = Event { news: News::Row { shape, content }, token: token.cloned(), number: None };
    ServerMessage::Event { subscription_id: 300, event }
}

/// As a connection does it: into a buffer that it has already.
fn framed(message: ServerMessage, problems: &RowProblems, frames: &mut Frames) -> usize {
    frames.clear(usize::MAX);
    encode(message, problems, frames);
    frames.bytes().len()
}

fn events(criterion: &mut Criterion) {
    let problems = RowProblems::default();
    let token = Bytes::from(vec![7; 64]);
    let cases =
        [("key and name", false, None), ("with its row", true, None), ("with its row and a token", true, Some(&token))];
    let mut group = criterion.benchmark_group("write an event");
    group.throughput(Throughput::Elements(1));
    let table = catalog::table(TABLE).expect("a table");
    for (name, include_document, token) in cases {
        let shape = Shape { form: Form::List(table), include_document, include_old: false };
        group.bench_function(format!("{name}, for the first subscriber"), |bencher| {
            let first = || event(&Published::new(change(), &[]), shape, token);
            bencher.iter_batched(
                first,
                |event| framed(event, &problems, &mut Frames::default()),
                BatchSize::SmallInput,
            );
        });
        let shared = Published::new(change(), &[]);
        let mut messages: Vec<Vec<u8>> = Vec::new();
        encode(event(&shared, shape, token), &problems, &mut messages);
        let bytes = messages.remove(0);
        let mut frames = Frames::default();
        group.bench_function(format!("{name}, for one more"), |bencher| {
            bencher.iter(|| framed(event(black_box(&shared), shape, token), &problems, &mut frames));
        });
        // What it would cost to encode the whole message for each.
        let message = proto::ServerMessage::decode(&bytes[..]).expect("a message");
        assert!(matches!(message.message_type, Some(MessageType::Event(_))));
        assert_eq!(message.encoded_len(), bytes.len());
        group.bench_function(format!("{name}, as a whole"), |bencher| {
            bencher.iter(|| {
                frames.clear(usize::MAX);
                frames.put(|out| black_box(&message).encode_raw(out));
                frames.bytes().len()
            });
        });
    }
}

const PAGE_ROWS: usize = 400;

/// A page of rows as a subscription to any table is sent them.
fn page() -> Arc<SnapshotRows> {
    let mut block = RowBlockBuilder::default();
    let change = change();
    let document = change.new.as_ref().map_or(&[][..], Document::as_bytes);
    for number in 0..PAGE_ROWS {
        let key = Key::text(&format!("d{number:08}.example"));
        block.push(BlockRow { key: key.as_bytes(), version: Seq(1_000_000), document });
    }
    SnapshotRows::new(block.build())
}

/// All rows of a page for one subscriber.
fn send(rows: &Arc<SnapshotRows>, first_number: u64, problems: &RowProblems, frames: &mut Frames) -> u64 {
    let shape = Shape { form: Form::Json(None), include_document: true, include_old: false };
    let mut count = 0;
    for portion in (0..).take_while(|portion| rows.portion(*portion).is_some()) {
        frames.clear(usize::MAX);
        let first_number = Some(first_number + count);
        let initial = InitialRows { shape, rows: Arc::clone(rows), portions: portion..portion + 1, first_number };
        encode(ServerMessage::Rows { subscription_id: 0, rows: initial }, problems, frames);
        count += frames.count();
    }
    count
}

fn rows(criterion: &mut Criterion) {
    let (problems, mut frames) = (RowProblems::default(), Frames::default());
    let mut group = criterion.benchmark_group("write the rows of a page");
    group.throughput(Throughput::Elements(PAGE_ROWS as u64));
    let of_one = page();
    of_one.opened();
    group.bench_function("for the only reader", |bencher| {
        bencher.iter(|| assert_eq!(send(black_box(&of_one), 2, &problems, &mut frames), PAGE_ROWS as u64));
    });
    let of_many = page();
    (0..2).for_each(|_| of_many.opened());
    group.bench_function("for one more of those who read the same", |bencher| {
        bencher.iter(|| assert_eq!(send(black_box(&of_many), 2, &problems, &mut frames), PAGE_ROWS as u64));
    });
}

criterion_group! {
    name = codec;
    config = Criterion::default().without_plots().sample_size(50);
    targets = requests, events, rows
}
criterion_main!(codec);
