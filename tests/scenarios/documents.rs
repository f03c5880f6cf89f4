//! Rows in events: new and old ones, as messages and as JSON, and without what is secret.

use prost::Message as _;
use serde_json::{Value, json};
use starfeed::proto::{self, SubscribeOptions, event::Body, request::Command, response, server_message::MessageType};

use crate::backend;
use crate::support::crawled::{put, rows};
use crate::support::raw::{RawClient, delete_login, set_login, subscribe_logins};
use crate::support::told::{
    POLICY_ID, SCHEDULE_ID, SECRET, documents, list, login, next, next_told, policy, schedule, states, table, told,
    until_live, with_filter,
};

/// Adds, updates and deletes one row of each table; what the deletion is.
fn change_everything(client: &mut RawClient) {
    let id = |text: &str| uuid::Uuid::parse_str(text).expect("a UUID").as_bytes().to_vec().into();
    for version in ["A", "B"] {
        put(client, "policy", &[policy(version)]);
        put(client, "schedule", &[schedule(version)]);
        client.request(login("forum.example", version));
    }
    client.request(Command::DeletePolicy(proto::RequestDeletePolicy { policy_id: id(POLICY_ID) }));
    client.request(Command::DeleteSchedule(proto::RequestDeleteSchedule { schedule_id: id(SCHEDULE_ID) }));
    client.request(delete_login("forum.example"));
}

#[test]
fn events_bring_the_rows_that_were_asked_for() {
    let Some(server) = backend::server(&[]) else { return };
    let mut writer = RawClient::connect(&server.address);
    let new_only = SubscribeOptions { include_document: Some(true), ..SubscribeOptions::default() };
    let old_only = SubscribeOptions { include_old: Some(true), ..SubscribeOptions::default() };
    let mut clients = Vec::new();
    for (name, key, is_named) in
        [("policy", POLICY_ID, true), ("schedule", SCHEDULE_ID, true), ("domain_login", "forum.example", false)]
    {
        for (options, is_new, is_old) in [
            (SubscribeOptions::default(), false, false),
            (new_only.clone(), true, false),
            (old_only.clone(), false, true),
            (documents(), true, true),
        ] {
            let named = |version: &str| if is_named { format!(" ({version})") } else { String::new() };
            let new = |version: &str| if is_new { format!(" new={version}") } else { String::new() };
            let old = |version: &str| if is_old { format!(" old={version}") } else { String::new() };
            let as_list = [
                format!("ADDED {key}{}{}", named("A"), new("A")),
                format!("UPDATED {key}{}{}{}", named("B"), new("B"), old("A")),
                format!("DELETED {key}{}{}", named("B"), old("B")),
            ];
            let as_table = [
                format!("ADDED {key}{}", new("A")),
                format!("UPDATED {key}{}{}", new("B"), old("A")),
                format!("DELETED {key}{}", old("B")),
            ];
            for (command, expected) in
                [(list(name, options.clone()), as_list), (table(name, options.clone()), as_table)]
            {
                let mut client = RawClient::connect(&server.address);
                client.subscribe(command);
                clients.push((client, expected));
            }
        }
    }
    until_live(&server, 24);
    change_everything(&mut writer);
    for (client, expected) in &mut clients {
        assert_eq!(&next_told(client, 3), expected);
    }
}

/// What the event shows of a row that was added.
fn shown(event: &proto::Event) -> (Option<Vec<u8>>, Option<Value>) {
    match event.body.as_ref().expect("a row") {
        Body::PolicyEvent(event) => (event.policy.as_ref().map(|row| row.encode_to_vec()), None),
        Body::ScheduleEvent(event) => (event.schedule.as_ref().map(|row| row.encode_to_vec()), None),
        Body::DomainLoginEvent(event) => (event.login.as_ref().map(|row| row.encode_to_vec()), None),
        Body::TableEvent(event) => {
            (None, event.document.as_ref().map(|text| serde_json::from_str(text).expect("JSON")))
        }
        body => panic!("{body:?}"),
    }
}

#[test]
fn a_document_is_the_row_without_its_secrets() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    put(&mut client, "policy", &[policy("A")]);
    put(&mut client, "schedule", &[schedule("A")]);
    client.request(login("forum.example", "A"));
    let id = |text: &str| uuid::Uuid::parse_str(text).expect("a UUID").as_bytes().to_vec().into();
    let get = Command::GetPolicy(proto::RequestGetPolicy { policy_id: id(POLICY_ID) });
    let Some(response::Body::Policy(mut whole_policy)) = client.request(get) else { panic!("no policy") };
    assert!(whole_policy.proxy_rules[0].proxy_url().contains(SECRET), "who asks for a row gets all of it");
    whole_policy.proxy_rules[0].proxy_url = Some("socks5://proxy.example:1080".to_owned());
    let get = Command::GetSchedule(proto::RequestGetSchedule { schedule_id: id(SCHEDULE_ID) });
    let Some(response::Body::Schedule(whole_schedule)) = client.request(get) else { panic!("no schedule") };
    let get = Command::GetDomainLogin(proto::RequestGetDomainLogin { domain: "forum.example".to_owned() });
    let Some(response::Body::DomainLogin(mut whole_login)) = client.request(get) else { panic!("no login") };
    assert_eq!(whole_login.users[0].password(), SECRET, "who asks for a row gets all of it");
    whole_login.users[0].password = None;
    let mut stored = ["policy", "schedule", "domain_login"].map(|table| rows(&mut client, table).remove(0));
    stored[0]["proxy_rules"][0]["proxy_url"] = json!("socks5://proxy.example:1080");
    stored[2]["users"][0].as_object_mut().expect("a user").remove("password");
    let messages = [whole_policy.encode_to_vec(), whole_schedule.encode_to_vec(), whole_login.encode_to_vec()];
    for ((name, message), document) in ["policy", "schedule", "domain_login"].into_iter().zip(messages).zip(stored) {
        client.subscribe(list(name, documents()));
        assert_eq!(shown(&client.event()), (Some(message), None), "{name}");
        client.subscribe(table(name, documents()));
        assert_eq!(shown(&client.event()), (None, Some(document)), "{name}");
    }
}

#[test]
fn no_event_has_a_secret() {
    let Some(server) = backend::server(&[]) else { return };
    let mut writer = RawClient::connect(&server.address);
    put(&mut writer, "policy", &[policy("0")]);
    writer.request(login("forum.example", "0"));
    let mut clients = Vec::new();
    for options in [documents(), SubscribeOptions { tokens: Some(true), states: Some(true), ..documents() }] {
        for name in ["policy", "domain_login"] {
            for command in [list(name, options.clone()), table(name, options.clone())] {
                let mut client = RawClient::connect(&server.address);
                client.ask(command);
                clients.push(client);
            }
        }
    }
    until_live(&server, 8);
    change_everything(&mut writer);
    for client in &mut clients {
        let mut rows = 0;
        // The response, and the row that is there; then it is updated twice and deleted.
        while rows < 4 {
            let message = client.message();
            let text = String::from_utf8_lossy(&message);
            assert!(!text.contains(SECRET), "{text}");
            rows += usize::from(text.contains("forum.example") || text.contains("socks5://proxy.example:1080"));
        }
    }
}

#[test]
fn a_filter_cannot_see_a_secret() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    let logins = [
        format!("'{SECRET}' in users"),
        format!("users.password == '{SECRET}'"),
        "has(users.password)".to_owned(),
        format!("users.contains('{SECRET}')"),
        format!("password == '{SECRET}'"),
    ];
    let policies = [
        format!("'socks5://bob:{SECRET}@proxy.example:1080' in proxy_rules"),
        format!("proxy_rules.proxy_url.contains('{SECRET}')"),
        format!("proxy_rules.contains('{SECRET}')"),
    ];
    let logins = logins.iter().map(|filter| ("domain_login", filter));
    for (name, filter) in logins.chain(policies.iter().map(|filter| ("policy", filter))) {
        client.subscribe(list(name, with_filter(filter, documents())));
        client.subscribe(table(name, with_filter(filter, documents())));
    }
    // It sees the rest: those that are live are told what the others are not.
    client.subscribe(table("domain_login", with_filter("has(users)", documents())));
    client.subscribe(table("policy", with_filter("has(proxy_rules)", documents())));
    until_live(&server, 18);
    let mut writer = RawClient::connect(&server.address);
    change_everything(&mut writer);
    let events = next(&mut client, 6);
    let told: Vec<String> = events.iter().map(told).collect();
    let count = |word: &str| told.iter().filter(|line| line.contains(word)).count();
    assert_eq!((count("forum.example"), count(POLICY_ID)), (3, 3), "{told:?}");
    let mut late = RawClient::connect(&server.address);
    writer.request(login("forum.example", "C"));
    late.subscribe(table("domain_login", with_filter(&format!("'{SECRET}' in users"), states())));
    assert_eq!(next_told(&mut late, 3), ["INITIALIZING", "READY", "LIVE"], "nor does one that reads the rows");
}

#[test]
fn a_row_is_shown_only_while_it_matches() {
    let Some(server) = backend::server(&[]) else { return };
    let mut writer = RawClient::connect(&server.address);
    let filter = "login_url == 'in' || login_url == 'inside'";
    let mut clients = [
        list("domain_login", with_filter(filter, documents())),
        table("domain_login", with_filter(filter, documents())),
    ]
    .map(|command| {
        let mut client = RawClient::connect(&server.address);
        client.subscribe(command);
        client
    });
    until_live(&server, 2);
    for url in ["out", "in", "inside", "outside", "out", "in"] {
        writer.request(login("a.example", url));
    }
    writer.request(delete_login("a.example"));
    // One that comes and goes outside is never seen.
    writer.request(login("b.example", "out"));
    writer.request(delete_login("b.example"));
    writer.request(login("c.example", "in"));
    for client in &mut clients {
        let expected = [
            "ADDED a.example new=in",
            "UPDATED a.example new=inside old=in",
            "DELETED a.example old=inside",
            "ADDED a.example new=in",
            "DELETED a.example old=in",
            "ADDED c.example new=in",
        ];
        assert_eq!(next_told(client, 6), expected);
    }
}

/// The events of one subscription, byte for byte as they were before there were options.
#[test]
fn a_client_without_options_gets_what_it_always_got() {
    let Some(server) = backend::server(&[]) else { return };
    let mut writer = RawClient::connect(&server.address);
    writer.request(set_login("forum.example", "https://forum.example/login"));
    let mut client = RawClient::connect(&server.address);
    let everything = SubscribeOptions {
        heartbeat_seconds: Some(1),
        coalesce: Some(true),
        ..with_filter("has(domain)", SubscribeOptions { states: Some(true), tokens: Some(true), ..documents() })
    };
    client.send(&proto::Request { request_id: 1, command: Some(subscribe_logins()) }.encode_to_vec());
    client.send(
        &proto::Request { request_id: 2, command: Some(list("domain_login", everything.clone())) }.encode_to_vec(),
    );
    client.send(&proto::Request { request_id: 3, command: Some(table("domain_login", everything)) }.encode_to_vec());
    // Each has the header of an event of subscription 0, the header of a login event, its type, and the domain.
    let expected = |kind: u8| [&b"\x0a\x15\x08\x00\x52\x11\x08"[..], &[kind], b"\x12\x0dforum.example"].concat();
    until_live(&server, 3);
    writer.request(set_login("forum.example", "https://forum.example/"));
    writer.request(delete_login("forum.example"));
    let mut plain = Vec::new();
    let mut others = Vec::new();
    while plain.len() < 3 || others.len() < 6 {
        let message = client.message();
        let decoded = proto::ServerMessage::decode(message.as_slice()).expect("a ServerMessage");
        match decoded.message_type.expect("one of its members") {
            MessageType::Event(event) if event.subscription_id == 0 => plain.push(message),
            MessageType::Event(event) if event.state.is_none() => others.push(told(&event)),
            MessageType::Event(_) | MessageType::Response(_) => {}
        }
    }
    assert_eq!(plain, [expected(1), expected(2), expected(3)]);
    let (old, new) = ("https://forum.example/login", "https://forum.example/");
    others.sort();
    let seen = [
        format!("ADDED forum.example new={old}"),
        format!("DELETED forum.example old={new}"),
        format!("UPDATED forum.example new={new} old={old}"),
    ];
    assert_eq!(others, seen.into_iter().flat_map(|line| [line.clone(), line]).collect::<Vec<_>>());
}
