use std::io::Write;

use flate2::Compression as Level;
use flate2::write::GzEncoder;
use serde_json::json;
use uuid::Uuid;

use super::*;
use crate::catalog::tests::{World, changed, time};
use crate::json;
use crate::proto;
use crate::proto::request::Command;
use crate::proto::response::Body;
use crate::store::PageBudget;

const JOB: &str = "00000000-0000-4000-8000-0000000000aa";
const BODY: [u8; 16] = [7; 16];

fn job_id() -> Uuid {
    Uuid::parse_str(JOB).unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Level::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn body_row(id: &[u8], body: &[u8], is_compressed: bool) -> Value {
    json!({"id": json::binary(id), "body": json::binary(body), "is_compressed": is_compressed})
}

fn response_row(sequence: u64) -> Value {
    json!({
        "sequence": sequence, "job_id": JOB, "url": "http://a.example/", "canonical_url": "http://a.example",
        "started_at": time(1000), "completed_at": time(2000), "duration": 1, "cost": 2, "is_success": true,
        "content_type": "text/html", "status_code": 200, "headers": ["A", "1", "B", "2"], "body_id": json::binary(&BODY),
    })
}

/// A job with one response, and its body.
fn world(response: &Value) -> World {
    let world = World::new();
    world.insert("job", JOB, &json!({"id": JOB, "run_state": "running"}));
    world.insert_at("response_body", Key::binary(&BODY), &body_row(&BODY, &gzip(b"hello"), true));
    world.insert_at("response", Key::number(1.0), response);
    world
}

fn items(world: &mut World, compression_ok: bool) -> Result<Vec<CrawlResponse>, String> {
    let request = RequestGetJobItems {
        job_id: job_id().as_bytes().to_vec().into(),
        include_success: Some(true),
        include_error: Some(true),
        include_exception: Some(true),
        compression_ok: Some(compression_ok),
        page: Some(proto::Page { limit: Some(100), offset: None }),
    };
    match world.command(Command::GetJobItems(request))? {
        Some(Body::ListItems(list)) => Ok(list.items),
        other => panic!("{other:?}"),
    }
}

fn one(world: &mut World, compression_ok: bool) -> CrawlResponse {
    items(world, compression_ok).unwrap().remove(0)
}

#[test]
fn an_item_has_what_its_rows_have() {
    let mut world = world(&response_row(1));
    let item = one(&mut world, true);
    assert_eq!(item.body(), gzip(b"hello"));
    assert!(item.is_compressed());
    assert_eq!((item.url(), item.url_can()), ("http://a.example/", "http://a.example"));
    assert_eq!((item.cost(), item.duration(), item.status_code()), (2.0, 1.0, 200));
    assert_eq!(item.completed_at(), "1970-01-01T00:00:02+00:00");
    let headers: Vec<(&str, &str)> = item.headers.iter().map(|header| (header.key(), header.value())).collect();
    assert_eq!(headers, [("A", "1"), ("B", "2")]);
    let item = one(&mut world, false);
    assert_eq!(item.body(), &b"hello"[..]);
    assert!(!item.is_compressed());
    assert_eq!(world.problems, [""; 0]);
}

#[test]
fn an_exception_is_all_that_there_is_to_say() {
    let mut world = world(&changed(&response_row(1), "/exception", Some("Traceback".into())));
    let item = one(&mut world, true);
    assert_eq!(item.exception(), "Traceback");
    assert_eq!((item.body, item.is_compressed, item.content_type, item.status_code), (None, None, None, None));
    assert_eq!(item.headers, []);
}

#[test]
fn what_is_missing_of_an_item_is_left_out() {
    let cases = [
        ("/content_type", Some(Value::Null), None),
        ("/body_id", Some(Value::Null), None),
        ("/body_id", None, None),
        ("/body_id", Some(json::binary(&[8; 16])), None),
        ("/headers", Some(json!(["A"])), Some("`headers` must be a list of names and values in turn")),
        ("/headers", Some(json!(["A", 1])), Some("`headers` must be a list of names and values in turn")),
        ("/url", Some(json!(1)), Some("`url` must be text")),
        ("/started_at", None, Some("`started_at` is missing")),
        ("/body_id", Some(json!("x")), Some("`body_id` must be binary")),
    ];
    for (path, value, problem) in cases {
        let mut world = world(&changed(&response_row(1), path, value));
        let item = one(&mut world, true);
        assert_eq!(item.job_id()[15], 0xaa, "{path}");
        assert_eq!(item.body.is_none(), path == "/body_id", "{path}");
        if path == "/body_id" {
            assert_eq!(item.is_compressed, Some(false));
        }
        assert_eq!(world.problems.len(), usize::from(problem.is_some()), "{:?}", world.problems);
        assert!(problem.is_none_or(|problem| world.problems[0].ends_with(problem)), "{:?}", world.problems);
    }
    let mut world = world(&changed(&changed(&response_row(1), "/canonical_url", None), "/url_can", Some("c".into())));
    assert_eq!(one(&mut world, true).url_can(), "c");
}

#[test]
fn a_body_that_cannot_be_unpacked_is_left_out_and_said() {
    let mut world = world(&response_row(1));
    world.insert_at("response_body", Key::binary(&BODY), &body_row(&BODY, b"no gzip", true));
    let item = one(&mut world, false);
    assert_eq!((item.body, item.is_compressed), (None, Some(false)));
    assert!(world.problems[0].ends_with("the body is not valid gzip"), "{:?}", world.problems);
    assert_eq!(one(&mut world, true).body(), &b"no gzip"[..], "whoever takes it as it is gets it");
    // A few bytes that stand for more than anybody wants.
    let bomb = gzip(&vec![0; usize::try_from(OPENED_BYTES_MAX).unwrap() + 1]);
    world.insert_at("response_body", Key::binary(&BODY), &body_row(&BODY, &bomb, true));
    assert_eq!(one(&mut world, false).body, None);
    assert!(world.problems[0].contains("larger than"), "{:?}", world.problems);
}

#[test]
fn an_answer_that_would_be_too_large_is_refused() {
    let mut world = world(&response_row(1));
    let half = gzip(&vec![0; usize::try_from(OPENED_BYTES_MAX).unwrap() / 2 + 1]);
    world.insert_at("response_body", Key::binary(&BODY), &body_row(&BODY, &half, true));
    assert!(items(&mut world, false).is_ok());
    world.insert_at("response", Key::number(2.0), &response_row(2));
    assert_eq!(items(&mut world, false).unwrap_err(), "The answer would be too large: ask for fewer items at a time.");
    assert_eq!(items(&mut world, true).unwrap().len(), 2);
}

#[test]
fn a_body_counts_for_each_item_that_it_is_sent_with() {
    let mut world = world(&response_row(1));
    let third = vec![0; usize::try_from(OPENED_BYTES_MAX).unwrap() / 3];
    world.insert_at("response_body", Key::binary(&BODY), &body_row(&BODY, &third, false));
    (2..=3).for_each(|sequence| world.insert_at("response", Key::number(f64::from(sequence)), &response_row(1)));
    assert_eq!(items(&mut world, true).unwrap().len(), 3);
    world.insert_at("response", Key::number(4.0), &response_row(4));
    assert_eq!(items(&mut world, true).unwrap_err(), "The answer would be too large: ask for fewer items at a time.");
}

#[test]
fn unpacking_what_is_spoilt_takes_room_too() {
    let mut spoilt = gzip(&[0; 1000]);
    spoilt.truncate(spoilt.len() - 1);
    let body = StoredBody { bytes: spoilt.into(), is_compressed: true };
    let mut room = 1500;
    assert_eq!(body.open(Compression::None, &mut room).err(), Some(Unopened::NotGzip));
    assert_eq!(room, 500);
    assert_eq!(body.open(Compression::None, &mut room).err(), Some(Unopened::NoRoom));
}

#[test]
fn without_a_kind_there_are_no_items() {
    let request = RequestGetJobItems { job_id: job_id().as_bytes().to_vec().into(), ..Default::default() };
    let text = World::new().command(Command::GetJobItems(request)).unwrap_err();
    assert_eq!(text, "You must set at least one include_* flag to true.");
}

fn sequences(page: &SyncPage) -> Vec<u64> {
    page.items.iter().map(|(sequence, _)| *sequence).collect()
}

#[test]
fn a_look_takes_as_many_items_as_have_room() {
    let mut world = world(&response_row(1));
    let plan = JobSyncPlan { job_id: job_id(), after: None, compression_ok: true };
    for sequence in 2..=6 {
        // Each with a body of its own.
        let id = [u8::try_from(sequence).unwrap(); 16];
        world.insert_at("response_body", Key::binary(&id), &body_row(&id, &[0; 1000], false));
        let row = changed(&response_row(sequence), "/body_id", Some(json::binary(&id)));
        world.insert_at("response", Key::number(sequence as f64), &row);
    }
    let all = world.look(plan, PageBudget { items: 10, bytes: 1 << 20 });
    assert_eq!((sequences(&all), all.is_complete), (vec![1, 2, 3, 4, 5, 6], true));
    let some = world.look(plan, PageBudget { items: 4, bytes: 1 << 20 });
    assert_eq!((sequences(&some), some.is_complete), (vec![1, 2, 3, 4], false));
    let few = world.look(JobSyncPlan { after: Some(1.0), ..plan }, PageBudget { items: 10, bytes: 3000 });
    assert!(!few.is_complete);
    assert_eq!(sequences(&few), [2, 3], "what has no room for its body comes with the next look");
    let last = world.look(JobSyncPlan { after: Some(6.0), ..plan }, PageBudget { items: 10, bytes: 3000 });
    assert_eq!((sequences(&last), last.is_complete), (vec![], true));
    assert_eq!(last.job, JobStanding::Unfinished);
}

#[test]
fn rows_that_no_token_can_name_do_not_hold_up_a_look() {
    let mut world = world(&response_row(1));
    world.insert_at("response", Key::number(1.5), &changed(&response_row(1), "/sequence", Some(json!(1.5))));
    world.insert_at("response", Key::number(-3.0), &changed(&response_row(1), "/sequence", Some(json!(-3))));
    world.insert_at("response", Key::text("x"), &changed(&response_row(1), "/sequence", Some("x".into())));
    let plan = JobSyncPlan { job_id: job_id(), after: None, compression_ok: true };
    let page = world.look(plan, PageBudget { items: 10, bytes: 1 << 20 });
    assert_eq!((sequences(&page), page.is_complete), (vec![1], true));
    // Behind what no token can name there may be more.
    world.insert_at("response", Key::number(2.0), &response_row(2));
    let page = world.look(JobSyncPlan { after: Some(1.0), ..plan }, PageBudget { items: 1, bytes: 1 << 20 });
    assert_eq!((sequences(&page), page.reached, page.is_complete), (vec![], Some(1.5), false));
    let page = world.look(JobSyncPlan { after: page.reached, ..plan }, PageBudget { items: 1, bytes: 1 << 20 });
    assert_eq!((sequences(&page), page.reached, page.is_complete), (vec![2], Some(2.0), false));
    let page = world.look(JobSyncPlan { after: page.reached, ..plan }, PageBudget { items: 1, bytes: 1 << 20 });
    assert_eq!((sequences(&page), page.reached, page.is_complete), (vec![], None, true), "what has no number is last");
}

#[test]
fn a_look_says_how_the_job_stood() {
    let mut world = world(&response_row(1));
    let plan = JobSyncPlan { job_id: job_id(), after: None, compression_ok: true };
    let budget = PageBudget { items: 10, bytes: 1 << 20 };
    for (state, standing) in [
        ("pending", JobStanding::Unfinished),
        ("paused", JobStanding::Unfinished),
        ("completed", JobStanding::Finished),
        ("cancelled", JobStanding::Finished),
    ] {
        world.insert("job", JOB, &json!({"id": JOB, "run_state": state}));
        assert_eq!(world.look(plan, budget).job, standing, "{state}");
    }
    let missing = JobSyncPlan { job_id: Uuid::nil(), ..plan };
    assert_eq!(world.look(missing, budget).job, JobStanding::Missing);
}
