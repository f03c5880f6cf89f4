use std::sync::Arc;

use super::*;
use crate::catalog;
use crate::change::{Cause, Row, Seq, Timestamp};
use crate::feed::{KeptMessages, Published, SeenChange, SnapshotRow, SnapshotRows, ViewChange, ViewChanges};
use crate::proto::table_key;
use crate::store::{BlockRow, RowBlockBuilder};
use crate::summary::Summary;

const ID: &str = "01010101-0101-0101-0101-010101010101";

fn document(text: &str) -> Document {
    Document::parse(text.as_bytes()).expect("an object")
}

fn updated() -> Content {
    let change = Change {
        seq: Seq(9),
        table: crate::change::Table::new("policy"),
        key: Key::text(ID),
        old: Some(document(r#"{"name":"P0"}"#)),
        old_version: Seq(4),
        new: Some(document(r#"{"name":"P1"}"#)),
        time: Timestamp(0),
        cause: Cause::Write,
    };
    Content::Change(SeenChange::Replayed(Published::new(change, &[]), ChangeKind::Updated))
}

fn plain(form: Form, content: Content) -> Event {
    let shape = Shape { form, include_document: false, include_old: false };
    Event { news: News::Row { shape, content }, token: None, number: None }
}

fn written(subscription_id: i32, event: Event) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(subscription_id, event, &RowProblems::default(), &mut bytes);
    bytes
}

fn encoded(subscription_id: i32, event: &Event) -> proto::Event {
    match proto::ServerMessage::decode(&written(subscription_id, event.clone())[..]).expect("a message").message_type {
        Some(proto::server_message::MessageType::Event(event)) => event,
        _ => panic!("another message"),
    }
}

fn policies() -> Form {
    Form::List(catalog::table("policy").expect("in the catalog"))
}

#[test]
fn a_plain_event_is_spliced_as_it_is_encoded() {
    for subscription_id in [0, 1, 127, 128, i32::MAX, -1] {
        for content in [
            updated(),
            Content::Row(SnapshotRow::new(
                &Row { key: Key::text(ID), version: Seq(4), document: document(r#"{"name":"P1"}"#) },
                &[],
            )),
        ] {
            let event_type = match content {
                Content::Row(_) => proto::policy_event::EventType::Added,
                Content::Change(..) => proto::policy_event::EventType::Updated,
            };
            let body = proto::event::Body::PolicyEvent(proto::PolicyEvent {
                event_type: Some(event_type.into()),
                policy_id: Some(Bytes::from_static(&[1; 16])),
                name: Some("P1".to_owned()),
                ..Default::default()
            });
            let event = proto::Event { subscription_id, body: Some(body), ..Default::default() };
            let message = proto::ServerMessage { message_type: Some(proto::server_message::MessageType::Event(event)) };
            assert_eq!(written(subscription_id, plain(policies(), content)), message.encode_to_vec());
        }
    }
}

#[test]
fn what_was_asked_for_is_there() {
    let shape = Shape { form: policies(), include_document: true, include_old: true };
    let news = News::Row { shape, content: updated() };
    let event = encoded(3, &Event { news, token: Some(Bytes::from_static(b"t")), number: Some(5) });
    assert_eq!((event.subscription_id, event.number, event.version, event.initial), (3, Some(5), Some(9), Some(false)));
    assert_eq!(event.token, Some(Bytes::from_static(b"t")));
    let Some(proto::event::Body::PolicyEvent(event)) = event.body else { panic!("another event") };
    let name = |policy: Option<proto::Policy>| policy.and_then(|policy| policy.name);
    assert_eq!((name(event.policy), name(event.old_policy)), (Some("P1".to_owned()), Some("P0".to_owned())));
}

#[test]
fn any_table_is_shown_as_json() {
    let form = Form::Json(None);
    let Some(proto::event::Body::TableEvent(event)) = encoded(0, &plain(form, updated())).body else {
        panic!("another event")
    };
    assert_eq!((event.event_type, event.document, event.old_document), (Some(2), None, None));
    assert_eq!(event.key.and_then(|key| key.value), Some(table_key::Value::Text(ID.to_owned())));
    let shape = Shape { form, include_document: true, include_old: true };
    let left = match updated() {
        Content::Change(seen) => {
            Content::Change(SeenChange::Replayed(Arc::clone(seen.published()), ChangeKind::Deleted))
        }
        Content::Row(_) => panic!("a change"),
    };
    for (content, new, old) in
        [(updated(), Some(r#"{"name":"P1"}"#), Some(r#"{"name":"P0"}"#)), (left, None, Some(r#"{"name":"P0"}"#))]
    {
        let news = News::Row { shape, content };
        let event = encoded(0, &Event { news, token: None, number: None });
        let Some(proto::event::Body::TableEvent(event)) = event.body else { panic!("another event") };
        assert_eq!((event.document.as_deref(), event.old_document.as_deref()), (new, old));
    }
}

#[test]
fn keys_of_all_kinds_are_spliced_as_they_are_encoded() {
    for (key, value) in [
        (Key::text(""), table_key::Value::Text(String::new())),
        (Key::text(&"é".repeat(100)), table_key::Value::Text("é".repeat(100))),
        (Key::number(-2.5), table_key::Value::Number(-2.5)),
        (Key::binary(&[0, 255]), table_key::Value::Binary(Bytes::from_static(&[0, 255]))),
    ] {
        let row = Row { key, version: Seq(4), document: document("{}") };
        let event = encoded(7, &plain(Form::Json(None), Content::Row(SnapshotRow::new(&row, &[]))));
        let Some(proto::event::Body::TableEvent(event)) = event.body else { panic!("another event") };
        assert_eq!(event.key.and_then(|key| key.value), Some(value));
    }
}

#[test]
fn a_state_says_what_the_client_holds() {
    let state = State {
        kind: StateKind::Reset(ResetReason::Retention),
        epoch: crate::change::Epoch(1),
        holds: Some((Seq(7), crate::summary::Summary { count: 2, digest: u64::MAX })),
    };
    let event = encoded(0, &Event { news: News::State(state), token: None, number: Some(1) });
    assert_eq!(event.body, None);
    let state = event.state.expect("a state");
    assert_eq!(state.kind(), subscription_state::Kind::Reset);
    assert_eq!(state.reason(), subscription_state::Reason::Retention);
    assert_eq!((state.position, state.count, state.digest), (Some(7), Some(2), Some(u64::MAX)));
    assert_eq!(state.epoch.map(|epoch| epoch[15]), Some(1));
}

/// Changes that a feed hands over to somebody who has seen everything before `first`.
fn handed_over(first: u64, last: u64, subscribers: usize) -> ViewChanges {
    let change = |number: u64| Change {
        seq: Seq(number),
        table: crate::change::Table::new("policy"),
        key: Key::text(ID),
        old: Some(document(r#"{"name":"P0"}"#)),
        old_version: Seq(number - 1),
        new: Some(document(&format!(r#"{{"name":"P{number}"}}"#))),
        time: Timestamp(0),
        cause: if number.is_multiple_of(2) { Cause::Resync } else { Cause::Write },
    };
    let view = |number| ViewChange::new(Published::new(change(number), &[]), ChangeKind::Updated, Summary::default());
    ViewChanges::new(&mut (first..=last).map(view).collect(), subscribers)
}

#[test]
fn changes_in_one_go_are_the_same_bytes_as_one_by_one() {
    let forms = [policies(), Form::Json(catalog::table("policy"))];
    for (form, with_tokens, first_number) in
        [(0, false, None), (0, true, None), (0, true, Some(7)), (1, false, Some(1))]
    {
        let shape = Shape { form: forms[form], include_document: true, include_old: true };
        let changes = handed_over(3, 6, 1);
        if with_tokens {
            changes
                .left()
                .iter()
                .for_each(|change| change.seal(|| Bytes::from(change.published().seq().0.to_string())));
        }
        check_as_one_by_one(300, &LiveChanges { shape, changes, with_tokens, first_number });
    }
}

#[test]
fn plain_changes_are_the_bytes_that_their_subscription_would_get() {
    let lists = catalog::TABLES.iter().map(Form::List);
    for form in lists.chain([Form::Json(None), Form::Json(catalog::table("policy"))]) {
        for (include_document, include_old) in [(false, false), (true, false), (false, true), (true, true)] {
            for subscription_id in [0, 300, -1, i32::MAX] {
                let shape = Shape { form, include_document, include_old };
                let changes = handed_over(3, 6, 1);
                let live = LiveChanges { shape, changes: changes.clone(), with_tokens: false, first_number: None };
                let (mut expected, mut plain): (Vec<Vec<u8>>, Vec<Vec<u8>>) = (Vec::new(), Vec::new());
                encode_changes(subscription_id, &live, &RowProblems::default(), &mut expected);
                let kind = shape.message_kind(subscription_id);
                crate::wire::protobuf::encode_plain(kind, changes, &RowProblems::default(), &mut plain);
                assert_eq!(plain, expected, "{form:?} {include_document} {include_old} {subscription_id}");
            }
        }
    }
}

fn check_as_one_by_one(subscription_id: i32, changes: &LiveChanges) {
    let mut at_once: Vec<Vec<u8>> = Vec::new();
    encode_changes(subscription_id, changes, &RowProblems::default(), &mut at_once);
    let one_by_one: Vec<Vec<u8>> = changes.clone().events().map(|event| written(subscription_id, event)).collect();
    assert_eq!(at_once.len(), 4);
    assert_eq!(at_once, one_by_one);
}

#[test]
fn a_message_that_is_kept_is_for_those_who_get_the_same() {
    let shared = handed_over(3, 6, 1000);
    let forms = [policies(), Form::Json(catalog::table("policy"))];
    for subscription_id in [1, 1, 300, -1] {
        for (form, include_document, include_old) in
            [(0, false, false), (0, true, false), (0, false, true), (1, true, false), (1, false, false)]
        {
            let shape = Shape { form: forms[form], include_document, include_old };
            for first_number in [None, Some(5)] {
                let changes = shared.clone();
                check_as_one_by_one(subscription_id, &LiveChanges { shape, changes, with_tokens: false, first_number });
            }
        }
    }
}

/// The rows of a page, in more than one portion.
fn page_rows() -> Arc<SnapshotRows> {
    let mut block = RowBlockBuilder::default();
    for number in 0..200 {
        let document = format!(r#"{{"name":"P{number}{}"}}"#, "x".repeat(number));
        let key = Key::text(&format!("01010101-0101-0101-0101-{number:012}"));
        block.push(BlockRow { key: key.as_bytes(), version: Seq(1 << (number % 60)), document: document.as_bytes() });
    }
    let rows = SnapshotRows::new(block.build());
    assert!(rows.portion(2).is_some());
    rows
}

#[test]
fn rows_in_one_go_are_the_same_bytes_as_one_by_one() {
    for (form, include_document) in [(policies(), true), (policies(), false), (Form::Json(None), true)] {
        let shape = Shape { form, include_document, include_old: true };
        let rows = page_rows();
        let mut count = 0;
        for first_number in [None, Some(120)] {
            for portion in (0..).take_while(|portion| rows.portion(*portion).is_some()) {
                let initial =
                    InitialRows { shape, rows: Arc::clone(&rows), portions: portion..portion + 1, first_number };
                let mut at_once: Vec<Vec<u8>> = Vec::new();
                encode_rows(300, &initial, &RowProblems::default(), &mut at_once);
                let one_by_one: Vec<Vec<u8>> = initial.events().map(|event| written(300, event)).collect();
                assert_eq!(at_once, one_by_one);
                count += at_once.len();
            }
        }
        assert_eq!(count, 2 * rows.len());
    }
}

#[test]
fn what_a_row_brings_is_read_as_it_was_written() {
    let rows = page_rows();
    let shape = Shape { form: Form::Json(None), include_document: true, include_old: false };
    let initial = InitialRows { shape, rows: Arc::clone(&rows), portions: 0..1, first_number: Some(7) };
    for ((event, at), number) in initial.events().zip(0..).zip(7..) {
        let event = encoded(-1, &event);
        let Some(proto::event::Body::TableEvent(body)) = &event.body else { panic!("another event") };
        let row = rows.get(at);
        let key = body.key.as_ref().and_then(|key| key.value.clone());
        let KeyValue::Text(text) = KeyValue::of_stored(row.key) else { panic!("another key") };
        assert_eq!(key, Some(table_key::Value::Text(text.to_owned())));
        assert_eq!(body.document.as_ref().map(String::as_bytes), Some(row.document));
        let of_event = (event.subscription_id, event.initial, event.version, event.number, event.resync);
        assert_eq!(of_event, (-1, Some(true), Some(row.version.0), Some(number), None));
    }
}

/// Takes messages, and keeps them.
#[derive(Debug, Default, PartialEq)]
struct Tape {
    bytes: Vec<u8>,
    count: u64,
}

impl Messages for Tape {
    fn put(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.bytes);
        self.count += 1;
    }

    fn put_to_keep(&mut self, put: impl FnOnce(&mut Self)) -> Option<KeptMessages> {
        let mut kept = Self::default();
        put(&mut kept);
        let kept = KeptMessages { payload_bytes: kept.bytes.len() as u64, count: kept.count, bytes: kept.bytes.into() };
        self.put_kept(&kept);
        Some(kept)
    }

    fn put_kept(&mut self, kept: &KeptMessages) {
        self.bytes.extend_from_slice(&kept.bytes);
        self.count += kept.count;
    }
}

/// The messages of all rows for one more reader.
fn tape(rows: &Arc<SnapshotRows>, shape: Shape, (subscription_id, first_number): (i32, Option<u64>)) -> Tape {
    let mut tape = Tape::default();
    for portion in (0..).take_while(|portion| rows.portion(*portion).is_some()) {
        let first_number = first_number.map(|first| first + rows.portion(portion).expect("it is there").start as u64);
        let initial = InitialRows { shape, rows: Arc::clone(rows), portions: portion..portion + 1, first_number };
        encode_rows(subscription_id, &initial, &RowProblems::default(), &mut tape);
    }
    tape
}

#[test]
fn messages_of_rows_that_are_kept_are_for_those_who_get_the_same() {
    let shared = page_rows();
    let forms = [policies(), Form::Json(None)];
    for readers in 1..3 {
        shared.opened();
        for (form, include_document) in [(1, true), (1, false), (0, true), (0, false), (1, true)] {
            let shape = Shape { form: forms[form], include_document, include_old: false };
            for reader in [(1, Some(2)), (1, None), (1, Some(3)), (2, Some(2)), (1, Some(2))] {
                let (own, of_shared) = (tape(&page_rows(), shape, reader), tape(&shared, shape, reader));
                assert!(own == of_shared, "{readers} readers, {reader:?} {shape:?}");
            }
        }
        let shape = Shape { form: forms[1], include_document: true, include_old: false };
        let kind = RowsKind { message: shape.message_kind(1), first_number: Some(2) };
        assert_eq!(shared.messages(&(0..1), kind).is_some(), readers > 1, "they are kept from the second reader on");
    }
}

#[test]
fn no_two_kinds_of_messages_are_taken_for_each_other() {
    let forms = [policies(), Form::List(catalog::table("schedule").expect("in the catalog")), Form::Json(None)];
    let mut kinds = std::collections::HashSet::new();
    for subscription_id in [0, 1, -1, i32::MAX] {
        for (form, shown) in forms.iter().flat_map(|form| (0..4).map(move |shown| (form, shown))) {
            let shape = Shape { form: *form, include_document: shown & 1 == 1, include_old: shown & 2 == 2 };
            assert!(kinds.insert(shape.message_kind(subscription_id).0), "{subscription_id} {shape:?}");
        }
    }
}
