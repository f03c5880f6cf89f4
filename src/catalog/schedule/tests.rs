use prost::Message;
use serde_json::json;

use super::*;
use crate::catalog::tests::{World, changed, document, time};
use crate::change::Seq;
use crate::proto;
use crate::proto::response::Body;

const ID: &str = "01010101-0101-0101-0101-010101010101";

fn message() -> Schedule {
    Schedule {
        enabled: Some(true),
        time_unit: Some(3),
        num_units: Some(2),
        timing: Some(2),
        schedule_name: Some("Every other day".into()),
        job_name: Some("News #{COUNT} of {DATE}".into()),
        seeds: vec!["https://news.example".into()],
        policy_id: Some(Bytes::from_static(&[9; 16])),
        tags: vec!["news".into()],
        ..Schedule::default()
    }
}

fn row() -> Value {
    json!({
        "id": ID,
        "schedule_name": "Every other day",
        "enabled": true,
        "created_at": time(1_546_344_000_123),
        "updated_at": time(1_546_344_000_123),
        "time_unit": "DAYS",
        "num_units": 2,
        "timing": "REGULAR_INTERVAL",
        "job_name": "News #{COUNT} of {DATE}",
        "job_count": 0,
        "seeds": ["https://news.example"],
        "tags": ["news"],
        "policy_id": "09090909-0909-0909-0909-090909090909",
    })
}

fn set(world: &mut World, schedule: Schedule) -> Result<Option<Body>, String> {
    world.command(Command::SetSchedule(proto::RequestSetSchedule { schedule: Some(schedule) }))
}

fn existing() -> Schedule {
    Schedule { schedule_id: Some(Bytes::from_static(&[1; 16])), ..message() }
}

#[test]
fn a_new_schedule_is_stored_in_the_shape_of_the_table() {
    let mut world = World::new();
    let new_schedule = Body::NewSchedule(ResponseNewSchedule { schedule_id: Bytes::from_static(&[1; 16]) });
    let schedule = Schedule { schedule_id: Some(Bytes::new()), ..message() };
    assert_eq!(set(&mut world, schedule), Ok(Some(new_schedule)));
    assert_eq!(world.row("schedule", ID), Some(row()));
    assert_eq!((TABLE.check)(&document(&row())), Ok(Key::text(ID)));
    // And is shown as it was sent, with what the server knows.
    let schedule_id = Bytes::from_static(&[1; 16]);
    let shown = world.command(Command::GetSchedule(RequestGetSchedule { schedule_id }));
    let stamp = Some("2019-01-01T12:00:00.123000+00:00".to_owned());
    let expected = Schedule { created_at: stamp.clone(), updated_at: stamp, job_count: Some(0), ..existing() };
    assert_eq!(shown, Ok(Some(Body::Schedule(expected.clone()))));
    let list = world.command(Command::ListSchedules(Default::default()));
    let schedules = vec![expected];
    assert_eq!(list, Ok(Some(Body::ListSchedules(ResponseListSchedules { schedules, total: Some(1) }))));
}

#[test]
fn an_update_keeps_the_number_of_jobs_unless_it_says_one() {
    let mut world = World::new();
    let mut stored = row();
    stored["job_count"] = json!(3);
    stored["created_at"] = time(1000);
    stored["of_the_crawler"] = json!("x");
    world.insert("schedule", ID, &stored);
    let schedule = Schedule {
        schedule_name: None,
        enabled: None,
        time_unit: Some(77),
        timing: None,
        job_name: None,
        tags: Vec::new(),
        ..existing()
    };
    assert_eq!(set(&mut world, schedule), Ok(None));
    let mut expected = stored;
    expected["updated_at"] = time(1_546_344_000_123);
    expected["schedule_name"] = json!("");
    expected["enabled"] = json!(false);
    expected["time_unit"] = json!("MINUTES");
    expected["timing"] = json!("AFTER_PREVIOUS_JOB_FINISHED");
    expected["job_name"] = json!("");
    expected["tags"] = json!([]);
    assert_eq!(world.row("schedule", ID), Some(expected));
    assert_eq!(set(&mut world, Schedule { job_count: Some(0), ..existing() }), Ok(None));
    assert_eq!(world.row("schedule", ID).unwrap()["job_count"], 0);
    assert_eq!(set(&mut world, Schedule { job_count: Some(8), ..message() }).map(|body| body.is_some()), Ok(true));
    assert_eq!(world.row("schedule", &ID.replace('1', "3")).unwrap()["job_count"], 8);
}

type Change = fn(&mut Schedule);

#[test]
fn broken_schedules_are_refused_in_order() {
    let mut world = World::new();
    let invalid_variable = "Invalid variable in job name: COUNT, DATE, & TIME are allowed.";
    let cases: [(Change, &str); _] = [
        (|s| s.schedule_id = Some(Bytes::from_static(&[1; 3])), "Invalid schedule_id: must be 16 bytes"),
        (|s| s.policy_id = None, "Invalid policy_id: must be 16 bytes"),
        (|s| s.policy_id = Some(Bytes::new()), "Invalid policy_id: must be 16 bytes"),
        (|s| *s = Schedule::default(), "Invalid policy_id: must be 16 bytes"),
        (
            |s| {
                s.seeds.clear();
                s.num_units = None;
            },
            "Crawl schedule must have at least one seed URL.",
        ),
        (
            |s| {
                s.num_units = None;
                s.job_name = Some("{".into());
            },
            "Time units must be positive",
        ),
        (|s| s.num_units = Some(0), "Time units must be positive"),
        (|s| s.num_units = Some(-1), "Time units must be positive"),
        (|s| s.job_name = Some("{NAME}".into()), invalid_variable),
        (|s| s.job_name = Some("{COUNT".into()), "Invalid job name"),
        (|s| s.job_name = Some("{0}".into()), "Invalid job name"),
        (|s| s.job_name = Some("{DATE:%Y}".into()), "Invalid job name"),
        (|s| s.schedule_id = existing().schedule_id, "No schedule exists with ID=01010101-0101-0101-0101-010101010101"),
    ];
    for (change, expected) in cases {
        let mut schedule = message();
        change(&mut schedule);
        assert_eq!(set(&mut world, schedule).unwrap_err(), expected);
    }
    let nothing = world.command(Command::SetSchedule(proto::RequestSetSchedule { schedule: None }));
    assert_eq!(nothing.unwrap_err(), "Invalid policy_id: must be 16 bytes");
    for name in ["", "{{x}}", "{COUNT:05d} {TIME} {DATE:.10}"] {
        let job_name = Some(name.to_owned());
        assert!(set(&mut world, Schedule { job_name, ..message() }).is_ok(), "{name}");
    }
}

#[test]
fn a_schedule_is_found_and_deleted_by_id() {
    let mut world = World::new();
    let invalid = "Invalid schedule_id: must be 16 bytes".to_owned();
    for length in [0, 15, 17] {
        let schedule_id = Bytes::from(vec![1; length]);
        let get = Command::GetSchedule(RequestGetSchedule { schedule_id: schedule_id.clone() });
        assert_eq!(world.command(get), Err(invalid.clone()));
        let delete = Command::DeleteSchedule(RequestDeleteSchedule { schedule_id });
        assert_eq!(world.command(delete), Err(invalid.clone()));
    }
    let schedule_id = Bytes::from_static(&[1; 16]);
    let get = Command::GetSchedule(RequestGetSchedule { schedule_id: schedule_id.clone() });
    assert_eq!(world.command(get), Err(format!("No schedule exists with ID={ID}")));
    world.insert("schedule", ID, &row());
    for _ in 0..2 {
        let delete = Command::DeleteSchedule(RequestDeleteSchedule { schedule_id: schedule_id.clone() });
        assert_eq!(world.command(delete), Ok(None));
        assert_eq!(world.row("schedule", ID), None);
    }
}

#[test]
fn lists_are_sorted_by_name_and_suffer_no_bad_row() {
    let mut world = World::new();
    // None of these would be accepted, all can be shown.
    for (digit, change) in [
        ("2", ("/num_units", Some(json!(-1)))),
        ("3", ("/job_name", Some(json!("{")))),
        ("4", ("/seeds", Some(json!([])))),
        ("5", ("/schedule_name", None)),
        ("6", ("/schedule_name", Some(json!("A")))),
    ] {
        world.insert("schedule", &ID.replace('1', digit), &changed(&row(), change.0, change.1));
    }
    world.insert("schedule", "nightly", &row());
    let Ok(Some(Body::ListSchedules(list))) = world.command(Command::ListSchedules(Default::default())) else {
        panic!("no list")
    };
    let ids: Vec<u8> = list.schedules.iter().map(|schedule| schedule.schedule_id()[0]).collect();
    assert_eq!(ids, [6, 2, 3, 4, 5]);
    assert_eq!(list.total, Some(6));
    assert_eq!(
        world.problems,
        ["nightly: the key is not a UUID".to_owned(), format!("{}: `schedule_name` is missing", ID.replace('1', "5"))]
    );
}

type Expectation = fn(&Schedule) -> bool;

#[test]
fn damaged_rows_are_shown_in_part() {
    let shown = |row: &Value| {
        let row = Row { key: Key::text(ID), version: Seq::ZERO, document: document(row) };
        let shown = show_whole(&row).unwrap();
        (shown.value, shown.problem.map(|problem| problem.to_string()))
    };
    let cases: [(&str, Value, &str, Expectation); _] = [
        ("/enabled", json!("yes"), "`enabled` must be true or false", |s| s.enabled.is_none()),
        ("/time_unit", json!("days"), "`time_unit` must be MINUTES, HOURS, DAYS, WEEKS, MONTHS or YEARS", |s| {
            s.time_unit.is_none()
        }),
        ("/timing", json!(1), "`timing` must be AFTER_PREVIOUS_JOB_FINISHED or REGULAR_INTERVAL", |s| {
            s.timing.is_none()
        }),
        ("/num_units", json!(1.5), "`num_units` must be a whole number of 32 bits", |s| s.num_units.is_none()),
        ("/job_count", json!(null), "`job_count` must be a whole number of 32 bits", |s| s.job_count.is_none()),
        ("/policy_id", json!(""), "`policy_id` must be a UUID", |s| s.policy_id.is_none()),
        ("/tags", json!(["a", null]), "`tags[1]` must be text", |s| s.tags == ["a"]),
        ("/updated_at", json!(0), "`updated_at` must be a time", |s| s.updated_at() == time::UNKNOWN),
    ];
    for (path, value, expected, is_as_expected) in cases {
        let row = changed(&row(), path, Some(value));
        let (schedule, problem) = shown(&row);
        assert_eq!(problem.as_deref(), Some(expected));
        assert!(is_as_expected(&schedule), "{path}: {schedule:?}");
        assert_eq!((TABLE.check)(&document(&row)).unwrap_err(), expected);
    }
    for member in row().as_object().unwrap().keys() {
        let row = changed(&row(), &format!("/{member}"), None);
        assert_eq!((TABLE.check)(&document(&row)).unwrap_err(), format!("`{member}` is missing"));
    }
    assert_eq!(shown(&changed(&row(), "/num_units", Some(json!(2.0)))).0.num_units, Some(2));
}

#[test]
fn events_have_an_id_and_a_name() {
    let shown = (TABLE.name_event)(&Key::text(ID), &document(&row()));
    let event = ScheduleEvent {
        schedule_id: Some(Bytes::from_static(&[1; 16])),
        schedule_name: Some("Every other day".into()),
        ..Default::default()
    };
    assert_eq!(shown, Shown { value: event.encode_to_vec().into(), problem: None });
    let shown = (TABLE.name_event)(&Key::text(ID), &document(&json!({"schedule_name": 1})));
    assert_eq!(shown.problem.unwrap().to_string(), "`schedule_name` must be text");
}
