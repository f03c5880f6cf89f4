//! What a job has downloaded.

use bytes::Bytes;
use serde_json::{Value, json};
use starfeed::json::binary;
use starfeed::proto::{CrawlResponse, RequestGetJobItems, request::Command};

use crate::backend;
use crate::support::crawled::{
    NOON, body, body_id, failed, gzip, id, put, refused, success, time, uuid, with, without,
};
use crate::support::jobs::{items, page, shown_item};
use crate::support::raw::RawClient;

fn of(job: u8) -> RequestGetJobItems {
    RequestGetJobItems { job_id: id(job), ..RequestGetJobItems::default() }
}

fn successes(job: u8) -> RequestGetJobItems {
    RequestGetJobItems { include_success: Some(true), ..of(job) }
}

/// The ends of their URLs, which are the numbers of the responses.
fn numbers(client: &mut RawClient, request: RequestGetJobItems) -> (Vec<u64>, i32) {
    let (items, total) = items(client, request);
    let number = |item: &CrawlResponse| item.url().rsplit('/').next().expect("a part").parse().expect("a number");
    (items.iter().map(number).collect(), total)
}

#[test]
fn items_are_those_of_the_kinds_that_are_asked_for_in_their_order() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    let rows = [
        success(100, 1, 1),
        refused(9, 1, 1),
        failed(10, 1),
        success(2, 1, 1),
        success(3, 2, 1),
        // It came in the end, whatever happened on the way.
        with(success(11, 1, 1), json!({"exception": "Traceback"})),
        without(refused(12, 1, 1), &["is_success"]),
        with(failed(13, 1), json!({"is_success": null})),
    ];
    put(&mut client, "response", &rows);
    for (success, error, exception, expected) in [
        (true, false, false, vec![2, 11, 100]),
        (false, true, false, vec![9, 12]),
        (false, false, true, vec![10, 13]),
        (true, true, false, vec![2, 9, 11, 12, 100]),
        (true, false, true, vec![2, 10, 11, 13, 100]),
        (false, true, true, vec![9, 10, 12, 13]),
        (true, true, true, vec![2, 9, 10, 11, 12, 13, 100]),
    ] {
        let flags = |job: u8| RequestGetJobItems {
            include_success: Some(success),
            include_error: Some(error),
            include_exception: Some(exception),
            ..of(job)
        };
        let total = i32::try_from(expected.len()).expect("few");
        let skipped: Vec<u64> = expected.iter().copied().skip(1).take(1).collect();
        assert_eq!(numbers(&mut client, flags(1)), (expected, total));
        assert_eq!(numbers(&mut client, RequestGetJobItems { page: page(1, 1), ..flags(1) }), (skipped, total));
        assert_eq!(numbers(&mut client, flags(7)), (vec![], 0), "a job that there is not has nothing");
    }
}

#[test]
fn items_come_in_pages() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    let rows: Vec<Value> = (1..=12).rev().map(|sequence| success(sequence, 1, 1)).collect();
    put(&mut client, "response", &rows);
    let mut at = |page| numbers(&mut client, RequestGetJobItems { page, ..successes(1) });
    assert_eq!(at(None), ((1..=10).collect(), 12));
    assert_eq!(at(page(10, 10)), (vec![11, 12], 12));
    assert_eq!(at(page(5, 3)), (vec![4, 5, 6, 7, 8], 12));
    assert_eq!(at(page(0, 0)), (vec![], 12));
    assert_eq!(at(page(5, 50)), (vec![], 12));
}

#[test]
fn what_is_wrong_with_a_question_for_items_is_said() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    let no_flag = "You must set at least one include_* flag to true.";
    let all_false = RequestGetJobItems {
        include_success: Some(false),
        include_error: Some(false),
        include_exception: Some(false),
        ..of(1)
    };
    for (request, text) in [
        (of(1), no_flag),
        (all_false, no_flag),
        (RequestGetJobItems { job_id: Bytes::new(), ..successes(1) }, "Invalid job_id: must be 16 bytes"),
        (RequestGetJobItems { page: page(-1, 0), ..successes(1) }, "Page limit must be ≥0."),
    ] {
        assert_eq!(client.refusal(Command::GetJobItems(request)), text);
    }
}

#[test]
fn a_body_comes_as_it_is_stored_or_opened() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    let text = b"much ado about nothing, much ado about nothing";
    let rows = [success(1, 1, 1), refused(2, 1, 2), success(3, 1, 1), success(4, 1, 3), success(5, 1, 4)];
    put(&mut client, "response", &rows);
    let bodies =
        [body(1, &gzip(text), true), body(2, b"not found", false), body(3, b"", false), body(4, b"no gzip", true)];
    put(&mut client, "response_body", &bodies);
    let both = RequestGetJobItems { include_error: Some(true), ..successes(1) };
    let with_body = |item: CrawlResponse, body: Option<&[u8]>, is_compressed| CrawlResponse {
        body: body.map(Bytes::copy_from_slice),
        is_compressed: Some(is_compressed),
        ..item
    };
    let refused =
        |sequence| CrawlResponse { is_success: Some(false), status_code: Some(404), ..shown_item(sequence, 1) };
    for compression_ok in [None, Some(true)] {
        let (found, _) = items(&mut client, RequestGetJobItems { compression_ok, ..both.clone() });
        let expected = [
            with_body(shown_item(1, 1), Some(&gzip(text)), true),
            with_body(refused(2), Some(b"not found"), false),
            with_body(shown_item(3, 1), Some(&gzip(text)), true),
            with_body(shown_item(4, 1), Some(b""), false),
            with_body(shown_item(5, 1), Some(b"no gzip"), true),
        ];
        assert_eq!(found, expected);
    }
    let (found, _) = items(&mut client, RequestGetJobItems { compression_ok: Some(false), ..both });
    let expected = [
        with_body(shown_item(1, 1), Some(text), false),
        with_body(refused(2), Some(b"not found"), false),
        with_body(shown_item(3, 1), Some(text), false),
        with_body(shown_item(4, 1), Some(b""), false),
        with_body(shown_item(5, 1), None, false),
    ];
    assert_eq!(found, expected);
    assert!(server.metric("starfeed_row_problems_total") >= 1.0, "what is not shown is reported");
}

#[test]
fn an_item_is_shown_with_what_there_is_of_it() {
    let Some(server) = backend::server(&[]) else { return };
    let mut client = RawClient::connect(&server.address);
    let other = json!("https://other.example/");
    let rows = [
        with(success(1, 1, 1), json!({"content_type": null})),
        without(success(2, 1, 1), &["content_type"]),
        with(success(3, 1, 1), json!({"body_id": null})),
        without(success(4, 1, 1), &["body_id"]),
        with(without(success(5, 1, 1), &["canonical_url"]), json!({"url_can": other.clone()})),
        with(success(6, 1, 1), json!({"url_can": other})),
        without(success(7, 1, 1), &["canonical_url"]),
        with(success(8, 1, 1), json!({"headers": []})),
        with(success(9, 1, 1), json!({"body_id": binary(&[1; 32])})),
        failed(10, 1),
    ];
    put(&mut client, "response", &rows);
    let exceptions = RequestGetJobItems { include_exception: Some(true), ..successes(1) };
    let (found, total) = items(&mut client, exceptions);
    let item = |sequence| shown_item(sequence, 1);
    let expected = vec![
        CrawlResponse { content_type: None, ..item(1) },
        CrawlResponse { content_type: None, ..item(2) },
        item(3),
        item(4),
        CrawlResponse { url_can: Some("https://other.example/".to_owned()), ..item(5) },
        item(6),
        CrawlResponse { url_can: None, ..item(7) },
        CrawlResponse { headers: vec![], ..item(8) },
        item(9),
        CrawlResponse {
            content_type: None,
            headers: vec![],
            status_code: None,
            is_compressed: None,
            is_success: Some(false),
            exception: Some("Traceback".to_owned()),
            ..item(10)
        },
    ];
    assert_eq!((found, total), (expected, 10));
}

#[test]
fn a_spoilt_item_harms_only_itself() {
    let rows = [
        ("response", with(success(1, 1, 1), json!({"headers": ["SERVER", "test", "odd"]}))),
        ("response", with(success(2, 1, 1), json!({"headers": {"SERVER": "test"}}))),
        ("response", json!({"sequence": 3, "job_id": uuid(1).to_string(), "is_success": true})),
        ("response", with(success(4, 1, 2), json!({"body_id": "text"}))),
        ("response", with(success(5, 1, 1), json!({"cost": "much", "duration": null}))),
        ("response", with(success(6, 1, 1), json!({"started_at": "noon", "completed_at": time(NOON)}))),
        ("response_body", json!({"id": body_id(1), "body": "text", "is_compressed": false})),
    ];
    let Some(server) = backend::server_with_rows(&rows) else { return };
    let mut client = RawClient::connect(&server.address);
    let (found, total) = items(&mut client, successes(1));
    assert_eq!((found.len(), total), (6, 6));
    assert_eq!((&found[0].headers, &found[1].headers), (&vec![], &vec![]));
    assert_eq!((found[2].url.as_deref(), found[2].started_at()), (None, "1970-01-01T00:00:00+00:00"));
    assert_eq!((found[3].body.clone(), found[3].status_code()), (None, 200));
    assert_eq!((found[4].cost, found[4].duration), (None, None));
    assert_eq!(found[5].started_at(), "1970-01-01T00:00:00+00:00");
    assert_eq!(found[5].completed_at(), "2019-01-01T12:00:00+00:00");
    assert!(server.metric("starfeed_row_problems_total") >= 5.0);
}
