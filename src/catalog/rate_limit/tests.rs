use prost::Message;
use serde_json::json;

use super::*;
use crate::catalog::tests::{World, changed, document};
use crate::proto;
use crate::proto::response::Body;

const DOMAIN: &str = "rate-limit.example";
/// BLAKE2b-128 of it, as the crawler computes it.
const TOKEN: Token = [0xc5, 0xd3, 0xc5, 0xda, 0xdb, 0x79, 0xab, 0xf4, 0x19, 0x7e, 0x8f, 0xde, 0xc3, 0xcd, 0xfe, 0x72];

fn row() -> Value {
    json!({"token": json::binary(&TOKEN), "name": "domain:rate-limit.example", "delay": 2})
}

fn set(world: &mut World, domain: Option<&str>, delay: Option<f32>) -> Result<(), String> {
    let request = RequestSetRateLimit { domain: domain.map(str::to_owned), delay };
    world.command(Command::SetRateLimit(request)).map(|body| assert_eq!(body, None))
}

fn list(world: &mut World) -> (Vec<RateLimit>, Option<i32>) {
    match world.command(Command::ListRateLimits(proto::RequestListRateLimits::default())) {
        Ok(Some(Body::ListRateLimits(list))) => (list.rate_limits, list.total),
        other => panic!("no list but {other:?}"),
    }
}

fn stored(world: &World, token: &Token) -> Option<Value> {
    world.row_at("rate_limit", &Key::binary(token))
}

#[test]
fn a_token_is_what_the_crawler_computes() {
    assert_eq!(token(DOMAIN), TOKEN);
    assert_eq!(token("a.example")[..4], [0xf4, 0x5e, 0xee, 0xb2]);
}

#[test]
fn a_limit_is_stored_in_the_shape_of_the_table() {
    let mut world = World::new();
    assert_eq!(set(&mut world, Some(DOMAIN), Some(2.0)), Ok(()));
    assert_eq!(stored(&world, &TOKEN), Some(row()));
    assert_eq!(
        row().to_string(),
        r#"{"delay":2,"name":"domain:rate-limit.example","token":{"$reql_type$":"BINARY","data":"xdPF2tt5q/QZfo/ew83+cg=="}}"#
    );
    assert_eq!((TABLE.check)(&document(&row())), Ok(Key::binary(&TOKEN)));
    assert_eq!(set(&mut world, None, Some(0.1)), Ok(()));
    let global = stored(&world, &GLOBAL).unwrap();
    assert_eq!(
        global.to_string(),
        r#"{"delay":0.10000000149011612,"name":"Global Rate Limit","token":{"$reql_type$":"BINARY","data":"AAAAAAAAAAAAAAAAAAAAAA=="}}"#
    );
    // The global one comes first: capital letters do.
    let expected = vec![
        RateLimit {
            name: Some("Global Rate Limit".into()),
            delay: Some(0.1),
            token: Some(Bytes::from_static(&[0; 16])),
            domain: None,
        },
        RateLimit {
            name: Some(format!("domain:{DOMAIN}")),
            delay: Some(2.0),
            token: Some(Bytes::copy_from_slice(&TOKEN)),
            domain: Some(DOMAIN.into()),
        },
    ];
    assert_eq!(list(&mut world), (expected, Some(2)));
    assert_eq!(world.problems, [""; 0]);
}

#[test]
fn a_limit_that_is_there_keeps_what_else_it_has() {
    let mut world = World::new();
    let fixture = json!({"token": json::binary(&GLOBAL), "name": "Global Limit", "delay": 5.0, "type": "global"});
    world.insert_at("rate_limit", Key::binary(&GLOBAL), &fixture);
    assert_eq!(list(&mut world).0[0].name(), "Global Limit");
    assert_eq!(set(&mut world, None, Some(7.5)), Ok(()));
    let expected = json!({"token": json::binary(&GLOBAL), "name": "Global Rate Limit", "delay": 7.5, "type": "global"});
    assert_eq!(stored(&world, &GLOBAL), Some(expected));
    world.insert_at("rate_limit", Key::binary(&TOKEN), &changed(&row(), "/of_the_crawler", Some(json!([1]))));
    assert_eq!(set(&mut world, Some(DOMAIN), Some(3.0)), Ok(()));
    let row = stored(&world, &TOKEN).unwrap();
    assert_eq!((&row["delay"], &row["of_the_crawler"]), (&json!(3), &json!([1])));
}

#[test]
fn no_wait_is_a_limit_and_no_delay_is_none() {
    let mut world = World::new();
    for domain in [Some(DOMAIN), None] {
        for delay in [0.0, -0.0] {
            assert_eq!(set(&mut world, domain, Some(delay)), Ok(()));
        }
    }
    assert_eq!(stored(&world, &TOKEN).unwrap()["delay"].to_string(), "0");
    assert_eq!(list(&mut world).0.iter().map(RateLimit::delay).collect::<Vec<_>>(), [0.0, 0.0]);
    for _ in 0..2 {
        assert_eq!(set(&mut world, Some(DOMAIN), None), Ok(()));
        assert_eq!(stored(&world, &TOKEN), None);
    }
    assert_eq!(set(&mut world, None, None).unwrap_err(), "Cannot delete the global rate limit.");
    assert!(stored(&world, &GLOBAL).is_some());
}

#[test]
fn what_is_no_limit_is_refused() {
    let mut world = World::new();
    for delay in [-1.0, -f32::MIN_POSITIVE, f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for domain in [Some(DOMAIN), None] {
            let error = set(&mut world, domain, Some(delay)).unwrap_err();
            assert_eq!(error, "Invalid delay: must be a number of seconds ≥0.");
        }
    }
    for domain in ["", "zürich.example", "a\0.example", &"a".repeat(254)] {
        for delay in [Some(1.0), None] {
            let error = set(&mut world, Some(domain), delay).unwrap_err();
            assert_eq!(error, "Invalid domain: must be 1 to 253 ASCII characters, without NUL");
        }
    }
    assert_eq!(list(&mut world), (Vec::new(), Some(0)));
    assert_eq!(set(&mut world, Some(&"a".repeat(253)), Some(f32::MAX)), Ok(()));
    assert_eq!(list(&mut world).0[0].delay(), f32::MAX);
}

#[test]
fn lists_suffer_no_bad_row() {
    let mut world = World::new();
    world.insert_at("rate_limit", Key::binary(&[1; 15]), &row());
    world.insert_at("rate_limit", Key::text("0123456789abcdef"), &row());
    for (byte, change) in [
        (2, ("/name", Some(json!("domain:a:domain:b")))),
        (3, ("/name", Some(json!("a domain:c")))),
        (4, ("/name", None)),
        (5, ("/delay", Some(json!(1e300)))),
        (6, ("/delay", Some(json!("2")))),
    ] {
        world.insert_at("rate_limit", Key::binary(&[byte; 16]), &changed(&row(), change.0, change.1));
    }
    let (limits, total) = list(&mut world);
    let shown = |limit: &RateLimit| (limit.token()[0], limit.domain.clone(), limit.delay);
    assert_eq!(
        limits.iter().map(shown).collect::<Vec<_>>(),
        [
            (3, None, Some(2.0)),
            (2, Some("a:domain:b".into()), Some(2.0)),
            (5, Some(DOMAIN.into()), None),
            (6, Some(DOMAIN.into()), None),
            (4, None, Some(2.0)),
        ]
    );
    assert_eq!(total, Some(7));
    let of = |byte: &str| byte.repeat(16);
    assert_eq!(
        world.problems,
        [
            format!("{}: the key is not a token of 16 bytes", "01".repeat(15)),
            format!("{}: `delay` must be a number of 32 bits", of("05")),
            format!("{}: `delay` must be a number", of("06")),
            "0123456789abcdef: the key is not a token of 16 bytes".to_owned(),
            format!("{}: `name` is missing", of("04")),
        ]
    );
}

#[test]
fn only_what_can_be_shown_may_be_stored() {
    let other = |bytes: &[u8]| Some(json::binary(bytes));
    for (path, value, expected) in [
        ("/token", None, "`token` is missing"),
        ("/token", other(&[1; 15]), "`token` must be binary, of 16 bytes"),
        ("/token", other(&[1; 17]), "`token` must be binary, of 16 bytes"),
        ("/token", Some(json!("0123456789abcdef")), "`token` must be binary, of 16 bytes"),
        ("/token", Some(json!(7)), "`token` must be binary, of 16 bytes"),
        ("/name", None, "`name` is missing"),
        ("/name", Some(json!(null)), "`name` must be text"),
        ("/delay", None, "`delay` is missing"),
        ("/delay", Some(json!(null)), "`delay` must be a number"),
    ] {
        assert_eq!((TABLE.check)(&document(&changed(&row(), path, value))).unwrap_err(), expected);
    }
    assert_eq!((TABLE.check)(&document(&changed(&row(), "/type", Some(json!(1))))), Ok(Key::binary(&TOKEN)));
}

#[test]
fn events_have_a_token_and_a_name() {
    let key = Key::binary(&TOKEN);
    let shown = (TABLE.name_event)(&key, &document(&row()));
    assert_eq!(shown.problem, None);
    let golden = [&[0x12, 16][..], &TOKEN, &[0x1a, 25], b"domain:rate-limit.example"].concat();
    assert_eq!(shown.value, golden);
    let event = RateLimitEvent {
        token: Some(Bytes::copy_from_slice(&TOKEN)),
        name: Some("domain:rate-limit.example".into()),
        ..Default::default()
    };
    assert_eq!(shown.value, event.encode_to_vec());
    let shown = (TABLE.name_event)(&key, &document(&json!({})));
    assert_eq!(shown.problem.unwrap().to_string(), "`name` is missing");
    let shown = (TABLE.row_message)(&key, &document(&row()));
    assert_eq!(shown.problem, None);
    let limit = RateLimit::decode(shown.value).unwrap();
    assert_eq!((limit.token(), limit.domain(), limit.delay()), (&TOKEN[..], DOMAIN, 2.0));
}
