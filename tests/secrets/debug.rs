//! What types that hold secrets say when somebody prints them.

use std::fmt::Debug;

use bytes::Bytes;
use serde_json::json;
use starfeed::catalog::{Arrival, plan};
use starfeed::change::{Cause, Change, Document, Key, Row, Seq, Table, Timestamp};
use starfeed::client::RowChange;
use starfeed::config::{Config, ConfigSources};
use starfeed::proto::{self, server_message::MessageType};
use starfeed::store::{Mutation, StoreSecret};
use starfeed::token::TokenSeal;
use starfeed::wire::ClientMessage;

use super::commands::{API_KEY, CHANGES, LOGIN_PASSWORD, PROXY, SOURCE_PASSWORD, invalid};
use crate::support::process::secret_in;

fn assert_silent(value: &dyn Debug) {
    for text in [format!("{value:?}"), format!("{value:#?}")] {
        assert_eq!(secret_in(text.as_bytes()), None, "{text}");
    }
}

#[test]
#[should_panic(expected = "left: Some")]
fn what_prints_a_secret_is_found() {
    assert_silent(&Some(API_KEY));
}

fn document() -> Document {
    let users = json!([{"password": LOGIN_PASSWORD}]);
    let row = json!({"api_key": API_KEY, "users": users, "proxy_rules": [{"proxy_url": PROXY}]});
    Document::parse(row.to_string().as_bytes()).expect("an object")
}

fn key() -> Key {
    Key::text("a.example")
}

#[test]
fn rows_and_what_happens_to_them_are_printed_without_their_content() {
    let table = || Table::new("domain_login");
    let (old, new) = (Some(document()), Some(document()));
    assert_silent(&document());
    assert_silent(&Row { key: key(), version: Seq(1), document: document() });
    let (seq, old_version) = (Seq(2), Seq(1));
    let (time, cause) = (Timestamp(0), Cause::Write);
    assert_silent(&Change { seq, table: table(), key: key(), old, old_version, new, time, cause });
    assert_silent(&Mutation::put(table(), key(), document()));
    assert_silent(&Mutation::update(table(), key(), document(), String::new()));
    let held = || Some(starfeed::client::Row { version: Seq(1), name: None, document: Some(document()) });
    let kind = starfeed::change::ChangeKind::Updated;
    assert_silent(&RowChange { kind, key: key(), old: held(), new: held(), is_initial: false });
}

#[test]
fn messages_that_carry_secrets_are_printed_without_them() {
    let arrival = Arrival { now: Timestamp(0), fresh_id: uuid::Uuid::nil(), has_crawler: true };
    for asked in CHANGES.iter().flat_map(|changes| changes()).chain(invalid()) {
        let request = proto::Request { request_id: 1, command: Some(asked.command.clone()) };
        assert_silent(&request);
        assert_silent(&ClientMessage { request_id: 1, size: 1, command: Some(asked.command.clone()) });
        assert_silent(&plan(asked.command, &arrival));
    }
    let text = || Some(document_text());
    let body = proto::event::Body::TableEvent(proto::TableEvent {
        document: text(),
        old_document: text(),
        ..proto::TableEvent::default()
    });
    let event = proto::Event { subscription_id: 1, body: Some(body), ..proto::Event::default() };
    assert_silent(&proto::ServerMessage { message_type: Some(MessageType::Event(event)) });
    let rows = vec![Bytes::from(document_text())];
    assert_silent(&proto::ResponseExportRows { rows, ..proto::ResponseExportRows::default() });
}

fn document_text() -> String {
    String::from_utf8(document().as_bytes().to_vec()).expect("JSON is text")
}

#[test]
fn keys_and_passwords_of_the_server_are_not_printed() {
    let environment = vec![
        ("STARFEED_SOURCE".to_owned(), "rethinkdb://star@127.0.0.1:1/starbelly".to_owned()),
        ("STARFEED_SOURCE_PASSWORD".to_owned(), SOURCE_PASSWORD.to_owned()),
    ];
    let config = Config::load(&ConfigSources { environment, ..ConfigSources::default() }).expect("a configuration");
    assert_silent(&config);
    assert_silent(&config.source().expect("it can be used"));
    let key: [u8; 32] = *b"5ecret-5ecret-5ecret-5ecret-5ecr";
    assert_silent(&StoreSecret(key));
    assert_silent(&TokenSeal::new(StoreSecret(key)));
}
