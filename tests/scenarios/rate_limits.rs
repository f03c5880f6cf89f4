//! Rate limits: their commands and their events; and rows of the tables that only the crawler uses.

use prost::Message;
use serde_json::{Value, json};
use starfeed::json::binary;
use starfeed::proto::{self, SubscribeOptions, event, request::Command, response::Body};

use crate::backend;
use crate::support::crawled::{import, rows};
use crate::support::raw::RawClient;
use crate::support::settings::set_rate_limit;
use crate::support::told::{documents, hex, lines, list, next, next_told, states, table, until_live};

const DOMAIN: &str = "rate-limit.example";
/// BLAKE2b-128 of it.
const TOKEN: &str = "c5d3c5dadb79abf4197e8fdec3cdfe72";
const GLOBAL: &str = "00000000000000000000000000000000";

/// Name, token, delay and domain.
type Limit = (String, String, f32, Option<String>);

/// Each limit, and the total.
fn limits(client: &mut RawClient) -> (Vec<Limit>, i32) {
    match client.request(Command::ListRateLimits(proto::RequestListRateLimits::default())) {
        Some(Body::ListRateLimits(list)) => {
            let total = list.total();
            let limit =
                |limit: proto::RateLimit| (limit.name().to_owned(), hex(limit.token()), limit.delay(), limit.domain);
            (list.rate_limits.into_iter().map(limit).collect(), total)
        }
        body => panic!("{body:?}"),
    }
}

fn global(delay: f32) -> Limit {
    ("Global Rate Limit".to_owned(), GLOBAL.to_owned(), delay, None)
}

fn of_domain(delay: f32) -> Limit {
    (format!("domain:{DOMAIN}"), TOKEN.to_owned(), delay, Some(DOMAIN.to_owned()))
}

/// The token of all domains, as the crawler's database has it.
fn global_token() -> Value {
    binary(&[0; 16])
}

#[test]
fn limits_are_set_listed_and_deleted() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    assert_eq!(limits(&mut client), (vec![], 0));
    assert_eq!(client.request(set_rate_limit(Some(DOMAIN), Some(1.25))), None);
    assert_eq!(client.request(set_rate_limit(None, Some(5.0))), None);
    assert_eq!(limits(&mut client), (vec![global(5.0), of_domain(1.25)], 2));
    assert_eq!(client.request(set_rate_limit(Some(DOMAIN), Some(0.1))), None);
    assert_eq!(limits(&mut client), (vec![global(5.0), of_domain(0.1)], 2));
    let stored = rows(&mut client, "rate_limit");
    assert_eq!(
        stored[1],
        json!({
            "token": {"$reql_type$": "BINARY", "data": "xdPF2tt5q/QZfo/ew83+cg=="},
            "name": "domain:rate-limit.example", "delay": 0.100_000_001_490_116_12,
        })
    );
    // Twice: deleting what is not there succeeds.
    for _ in 0..2 {
        assert_eq!(client.request(set_rate_limit(Some(DOMAIN), None)), None);
        assert_eq!(limits(&mut client), (vec![global(5.0)], 1));
    }
}

#[test]
fn no_delay_at_all_is_a_limit_and_the_global_one_stays() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    for domain in [Some(DOMAIN), None] {
        client.request(set_rate_limit(domain, Some(3.0)));
        assert_eq!(client.request(set_rate_limit(domain, Some(0.0))), None);
    }
    assert_eq!(limits(&mut client), (vec![global(0.0), of_domain(0.0)], 2));
    assert_eq!(client.refusal(set_rate_limit(None, None)), "Cannot delete the global rate limit.");
    assert_eq!(limits(&mut client).1, 2);
}

#[test]
fn what_is_no_limit_is_refused() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    for delay in [-1.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let text = client.refusal(set_rate_limit(Some(DOMAIN), Some(delay)));
        assert_eq!(text, "Invalid delay: must be a number of seconds ≥0.");
    }
    for domain in ["", "zürich.example", "a\0b", &"a".repeat(254)] {
        let text = client.refusal(set_rate_limit(Some(domain), Some(1.0)));
        assert_eq!(text, "Invalid domain: must be 1 to 253 ASCII characters, without NUL");
    }
    assert_eq!(limits(&mut client), (vec![], 0));
}

#[test]
fn subscribers_learn_what_happens_to_limits() {
    let fixture = json!({"token": global_token(), "name": "Global Limit", "delay": 5, "type": "global"});
    let Some(server) = backend::server_with_rows(&[("rate_limit", fixture)]) else { return };
    let mut writer = RawClient::connect(&server.address);
    let mut plain = RawClient::connect(&server.address);
    let subscribe = list("rate_limit", SubscribeOptions::default());
    plain.send(&proto::Request { request_id: 1, command: Some(subscribe) }.encode_to_vec());
    let bytes = |message: Vec<u8>| hex(&message);
    assert_eq!(bytes(plain.message()), "1209080110018201020800");
    let name = hex(b"Global Limit");
    assert_eq!(bytes(plain.message()), format!("0a270800e2062208011210{GLOBAL}1a0c{name}"));
    let mut full = RawClient::connect(&server.address);
    full.subscribe(list("rate_limit", documents()));
    full.subscribe(table("rate_limit", documents()));
    let mut first = next_told(&mut full, 2);
    first.sort();
    let expected = [format!("ADDED {GLOBAL} (Global Limit) new=5"), format!("ADDED {GLOBAL} new=Global Limit")];
    assert_eq!(first, expected);
    until_live(&server, 3);

    writer.request(set_rate_limit(None, Some(2.5)));
    writer.request(set_rate_limit(Some(DOMAIN), Some(0.0)));
    writer.request(set_rate_limit(Some(DOMAIN), None));
    let name = format!("domain:{DOMAIN}");
    let expected = [
        format!("UPDATED {GLOBAL} (Global Rate Limit)"),
        format!("ADDED {TOKEN} ({name})"),
        format!("DELETED {TOKEN} ({name})"),
    ];
    assert_eq!(next_told(&mut plain, 3), expected);
    let mut events = next(&mut full, 6);
    events.sort_by_key(|event| event.subscription_id);
    let expected = [
        format!("UPDATED {GLOBAL} (Global Rate Limit) new=2.5 old=5"),
        format!("ADDED {TOKEN} ({name}) new=0"),
        format!("DELETED {TOKEN} ({name}) old=0"),
        format!("UPDATED {GLOBAL} new=Global Rate Limit old=Global Limit"),
        format!("ADDED {TOKEN} new={name}"),
        format!("DELETED {TOKEN} old={name}"),
    ];
    assert_eq!(lines(&events), expected);
    let Some(event::Body::RateLimitEvent(event)) = &events[1].body else { panic!("{:?}", events[1]) };
    assert_eq!(event.rate_limit.as_ref().map(proto::RateLimit::domain), Some(DOMAIN));
    // What else the row had is still there.
    assert_eq!(rows(&mut writer, "rate_limit")[0]["type"], "global");
}

#[test]
fn a_spoilt_limit_harms_only_itself() {
    let short = binary(&[1, 2, 3, 4]);
    let unnamed = binary(&[1; 16]);
    let rows = [
        ("rate_limit", json!({"token": short, "name": "domain:short.example", "delay": 1})),
        ("rate_limit", json!({"token": "0123456789abcdef", "name": "domain:text.example", "delay": 1})),
        ("rate_limit", json!({"token": 7, "name": "domain:number.example", "delay": 1})),
        ("rate_limit", json!({"token": unnamed, "name": "Odd", "delay": "soon"})),
        ("rate_limit", json!({"token": global_token(), "name": "Global Limit", "delay": 5})),
    ];
    let Some(server) = backend::server_with_rows(&rows) else { return };
    let mut client = RawClient::connect(&server.address);
    for _ in 0..2 {
        let (shown, total) = limits(&mut client);
        let names: Vec<&str> = shown.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!((names, total), (vec!["Global Limit", "Odd"], 5));
        client.subscribe(list("rate_limit", states()));
        let told = next_told(&mut client, 5);
        assert_eq!(told[0], "INITIALIZING");
        assert_eq!(told[1], format!("ADDED {GLOBAL} (Global Limit)"));
        assert_eq!(told[2], format!("ADDED {} (Odd)", "01".repeat(16)));
        assert_eq!(told[3..], ["READY", "LIVE"]);
    }
    let log = server.log();
    let reported = |key: &str, problem: &str| {
        let lines = log.lines().filter(|line| line.contains("rate_limit") && line.contains(&format!("key={key}")));
        lines.filter(|line| line.contains(problem)).count()
    };
    for key in ["01020304", "0123456789abcdef"] {
        assert_eq!(reported(key, "the key is not a token of 16 bytes"), 1, "{log}");
    }
    assert_eq!(reported(&"01".repeat(16), "`delay` must be a number"), 1, "{log}");
    // As JSON, all of them can be named.
    client.subscribe(table("rate_limit", SubscribeOptions::default()));
    assert_eq!((0..5).filter(|_| client.event().body.is_some()).count(), 5);
    // A spoilt one is repaired by writing it anew.
    client.request(set_rate_limit(None, Some(1.0)));
    assert_eq!(limits(&mut client).0[0], global(1.0));
}

#[test]
fn every_stored_table_takes_rows_and_gives_them_back() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    let job_id = "01010101-0101-4101-8101-010101010101";
    let id = binary(&[1, 2, 3]);
    let response = |sequence: u32| json!({"sequence": sequence, "job_id": job_id, "url": "https://a.example/"});
    let stored = [
        ("response", vec![response(2), response(10), response(300)]),
        ("response_body", vec![json!({"id": id, "body": id, "is_compressed": false})]),
        ("frontier", vec![json!({"id": "f", "job_id": job_id, "url": "u", "cost": 0.5, "in_flight": false})]),
        ("robots_txt", vec![json!({"id": "r", "url": "https://a.example/robots.txt", "file": "User-agent: *"})]),
        ("rate_limit", vec![json!({"token": global_token(), "name": "Global Limit", "delay": 5, "type": "global"})]),
    ];
    for (table, expected) in stored {
        for row in expected.iter().rev() {
            let Some(Body::ImportRows(imported)) = client.request(import(table, std::slice::from_ref(row))) else {
                panic!("no report")
            };
            assert_eq!((imported.errors, imported.added), (vec![], Some(1)), "{table}");
        }
        assert_eq!(rows(&mut client, table), expected);
        // A row that is no row of this table is not accepted.
        let spoilt = proto::RequestImportRows {
            table: table.to_owned(),
            rows: vec![b"{\"password\":\"hunter2\"}".to_vec().into()],
            ..Default::default()
        };
        let Some(Body::ImportRows(refused)) = client.request(Command::ImportRows(spoilt)) else { panic!("no report") };
        assert!(refused.errors[0].message().contains("is missing"), "{table}: {:?}", refused.errors);
        assert!(client.refusal(import(table, &[])).starts_with("nothing was written"));
    }
    let unknown = proto::RequestExportRows { table: "nonsense".to_owned(), ..Default::default() };
    assert_eq!(
        client.refusal(Command::ExportRows(unknown)),
        "there is no table \"nonsense\" here; the tables are policy, schedule, domain_login, captcha_solver, rate_limit, \
         job, response, response_body, frontier, robots_txt"
    );
}
