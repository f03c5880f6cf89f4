//! Rows and changes on the wire: golden bytes, their order, and what a client does right after it subscribed.

use prost::Message;
use starfeed::proto::{self, request::Command, response::Body};

use crate::backend;
use crate::support::raw::{
    BINARY, RawClient, delete_login, login_event, masked, set_login, subscribe_logins, unsubscribe,
};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

fn import_row(client: &mut RawClient, table: &str, row: &str) {
    let body = client.request(Command::ImportRows(proto::RequestImportRows {
        table: table.to_owned(),
        rows: vec![row.as_bytes().to_vec().into()],
        first_line: None,
        commit: Some(true),
    }));
    let Some(Body::ImportRows(response)) = body else { panic!("{body:?}") };
    assert!(response.errors.is_empty(), "{:?}", response.errors);
}

const POLICY: &str = r#"{"id":"00010203-0405-0607-0809-0a0b0c0d0e0f","name":"P1",
    "created_at":{"$reql_type$":"TIME","epoch_time":1546344000,"timezone":"+00:00"},
    "updated_at":{"$reql_type$":"TIME","epoch_time":1546344000,"timezone":"+00:00"},
    "authentication":{"enabled":false},"captcha_solver_id":null,
    "limits":{"max_cost":10,"max_duration":null,"max_items":null},
    "mime_type_rules":[{"save":true}],"proxy_rules":[],"robots_txt":{"usage":"OBEY"},
    "url_normalization":{"enabled":true,"strip_parameters":[]},
    "url_rules":[{"action":"ADD","amount":1}],"user_agents":[{"name":"Test"}]}"#;

#[test]
fn the_bytes_of_responses_and_events() {
    let Some(server) = backend::server(&[]) else { return };
    let mut writer = RawClient::connect(&server.address);
    import_row(&mut writer, "policy", POLICY);
    let mut client = RawClient::connect(&server.address);
    let subscribe = Command::SubscribePolicyList(proto::RequestSubscribePolicyList::default());
    client.send(&proto::Request { request_id: 1, command: Some(subscribe) }.encode_to_vec());
    assert_eq!(hex(&client.message()), "12 09 08 01 10 01 82 01 02 08 00");
    assert_eq!(
        hex(&client.message()),
        "0a 1c 08 00 42 18 08 01 12 10 00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f 1a 02 50 31"
    );
    client.send(&proto::Request { request_id: 2, command: Some(unsubscribe(0)) }.encode_to_vec());
    assert_eq!(hex(&client.message()), "12 04 08 02 10 01");
    client.send(b"");
    let answer = proto::ServerMessage::decode(client.message().as_slice()).expect("a ServerMessage");
    let Some(proto::server_message::MessageType::Response(response)) = answer.message_type else { panic!() };
    assert_eq!((response.request_id, response.is_success), (0, false));
    assert_eq!(response.error_message.as_deref(), Some("No command specified"));
}

#[test]
fn subscribe_and_unsubscribe_in_one_segment_both_succeed_and_leave_nothing() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    client.request(set_login("forum.example", "https://forum.example/login"));
    for round in 0..50 {
        let subscribe = proto::Request { request_id: 1, command: Some(subscribe_logins()) }.encode_to_vec();
        let end = proto::Request { request_id: 2, command: Some(unsubscribe(round)) }.encode_to_vec();
        client.write(&[masked(BINARY, &subscribe), masked(BINARY, &end)].concat());
        let first = client.response(1);
        assert_eq!(first.body, Some(Body::NewSubscription(proto::ResponseNewSubscription { subscription_id: round })));
        assert!(client.response(2).is_success);
    }
    assert_eq!(server.metric("starfeed_subscriptions"), 0.0);
    assert_eq!(client.refusal(unsubscribe(0)), "Unknown subscription_id: 0");
}

#[test]
fn the_rows_that_are_there_then_every_change_in_order() {
    let Some(server) = backend::server(&[]) else { return };
    let mut writer = RawClient::connect(&server.address);
    for domain in ["a.example", "b.example"] {
        writer.request(set_login(domain, "https://x.example/"));
    }
    let mut client = RawClient::connect(&server.address);
    assert_eq!(client.subscribe(subscribe_logins()), 0);
    let rows: Vec<String> = (0..2).map(|_| login_event(&client.event())).collect();
    assert_eq!(rows, ["ADDED a.example", "ADDED b.example"]);
    writer.request(set_login("c.example", "https://x.example/"));
    writer.request(set_login("a.example", "https://y.example/"));
    writer.request(delete_login("b.example"));
    let changes: Vec<String> = (0..3).map(|_| login_event(&client.event())).collect();
    assert_eq!(changes, ["ADDED c.example", "UPDATED a.example", "DELETED b.example"]);
}

#[test]
fn a_row_that_cannot_be_shown_harms_no_other() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    import_row(&mut client, "policy", POLICY);
    let subscribe = Command::SubscribePolicyList(proto::RequestSubscribePolicyList::default());
    client.subscribe(subscribe);
    client.event();
    // An update that changes nothing is no change, and a deleted row is seen once.
    import_row(&mut client, "policy", POLICY);
    let id: Vec<u8> = (0..16).collect();
    client.request(Command::DeletePolicy(proto::RequestDeletePolicy { policy_id: id.clone().into() }));
    let Some(proto::event::Body::PolicyEvent(event)) = client.event().body else { panic!() };
    assert_eq!((event.event_type().as_str_name(), event.policy_id()), ("DELETED", &id[..]));
    assert_eq!(event.name(), "P1");
}
