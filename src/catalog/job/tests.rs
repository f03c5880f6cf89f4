use serde_json::{Value, json};

use super::*;
use crate::catalog::tests::{World, changed, document, time};
use crate::proto;
use crate::proto::response::Body;

const ID: &str = "00000000-0000-4000-8000-0000000000aa";

fn row() -> Value {
    json!({
        "id": ID, "name": "J", "seeds": ["http://a.example/"], "tags": ["t"], "run_state": "running",
        "started_at": time(1_546_344_000_123), "completed_at": null, "duration": null, "item_count": 3, "http_success_count": 1,
        "http_error_count": 1, "exception_count": 1, "http_status_counts": {"200": 1, "404": 1},
        "policy": {
            "id": "00000000-0000-4000-8000-0000000000bb", "name": "P", "created_at": time(0), "updated_at": time(0),
            "authentication": {"enabled": false}, "limits": {"max_cost": null, "max_duration": null, "max_items": null},
            "mime_type_rules": [{"save": true}], "proxy_rules": [{"proxy_url": "http://user:hunter2@proxy.example"}],
            "robots_txt": {"usage": "OBEY"}, "url_normalization": {"strip_parameters": []},
            "url_rules": [{"action": "MULTIPLY", "amount": 1}], "user_agents": [{"name": "A"}],
            "captcha_solver": {"id": "00000000-0000-4000-8000-0000000000cc", "api_key": "hunter2"},
        },
    })
}

fn world(row: &Value) -> World {
    let world = World::new();
    world.insert("job", ID, row);
    world
}

fn get(world: &mut World) -> Job {
    let id = Uuid::parse_str(ID).unwrap();
    let command = Command::GetJob(RequestGetJob { job_id: id.as_bytes().to_vec().into() });
    match world.command(command) {
        Ok(Some(Body::Job(job))) => job,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_job_is_shown_with_the_policy_of_then() {
    let mut world = world(&row());
    let job = get(&mut world);
    assert_eq!(world.problems, [""; 0]);
    assert_eq!(job.run_state(), JobRunState::Running);
    assert_eq!(job.started_at(), "2019-01-01T12:00:00.123000+00:00");
    assert_eq!(job.completed_at, None);
    assert_eq!(job.http_status_counts, [(200, 1), (404, 1)].into());
    let policy = job.policy.unwrap();
    assert_eq!(policy.name(), "P");
    assert_eq!(policy.policy_id()[15], 0xbb);
    assert_eq!(policy.captcha_solver_id()[15], 0xcc);
    assert_eq!(policy.proxy_rules[0].proxy_url(), "http://user:hunter2@proxy.example");
}

#[test]
fn lists_and_events_have_no_policy_and_no_secret() {
    let mut world = world(&changed(&row(), "/old_urls", Some(json!("megabytes"))));
    let Ok(Some(Body::ListJobs(list))) = world.command(Command::ListJobs(RequestListJobs::default())) else {
        panic!("a list")
    };
    assert_eq!((list.jobs.len(), list.total()), (1, 1));
    assert_eq!(list.jobs[0].policy, None);
    let redacted = crate::view::redacted(&document(&row()), TABLE.secrets);
    assert!(!String::from_utf8_lossy(redacted.as_bytes()).contains("hunter2"));
    let shown = (TABLE.row_message)(&Key::text(ID), &redacted);
    assert_eq!(shown.problem, None);
    assert_eq!(<Job as prost::Message>::decode(shown.value).unwrap(), list.jobs[0]);
}

#[test]
fn what_cannot_be_shown_is_left_out_and_said() {
    let cases = [
        ("/name", None, "`name` is missing"),
        ("/run_state", Some(json!("RUNNING")), "`run_state` must be pending, running, paused, cancelled or completed"),
        ("/started_at", Some(json!("yesterday")), "`started_at` must be a time"),
        ("/item_count", Some(json!(1.5)), "`item_count` must be a whole number of 32 bits"),
        ("/http_status_counts", Some(json!({"OK": 1})), "`http_status_counts` must be an object of whole numbers"),
        ("/http_status_counts", Some(json!({"200": "1"})), "`http_status_counts` must be an object of whole numbers"),
        ("/seeds", Some(json!("http://a.example/")), "`seeds` must be a list"),
        ("/policy/captcha_solver/id", Some(json!(7)), "`policy.captcha_solver.id` must be a UUID"),
        ("/policy/id", None, "`policy.id` is missing"),
        ("/policy", Some(json!([])), "`policy` must be an object"),
    ];
    for (path, value, expected) in cases {
        let mut world = world(&changed(&row(), path, value));
        get(&mut world);
        assert_eq!(world.problems, [format!("{ID}: {expected}")]);
    }
    let mut world = world(&changed(&row(), "/policy", Some(Value::Null)));
    assert_eq!(get(&mut world).policy, None);
    assert_eq!(world.problems, [""; 0], "a job may be without a policy");
}

#[test]
fn a_row_may_be_imported_if_it_can_be_shown_whole() {
    assert_eq!(check(&document(&row())), Ok(Key::text(ID)));
    let text = check(&document(&changed(&row(), "/run_state", None))).unwrap_err();
    assert_eq!(text, "`run_state` is missing");
    let text = check(&document(&changed(&row(), "/id", Some(json!("A"))))).unwrap_err();
    assert_eq!(text, "`id` must be a UUID in lower case with hyphens");
}

#[test]
fn what_only_a_crawler_can_do_is_asked_of_it() {
    let mut world = world(&row());
    let id = Uuid::parse_str(ID).unwrap();
    let request = |state: JobRunState| {
        let job_id = Some(id.as_bytes().to_vec().into());
        Command::SetJob(proto::RequestSetJob { job_id, run_state: Some(state.into()), ..Default::default() })
    };
    for state in [JobRunState::Paused, JobRunState::Running] {
        let text = world.command(request(state)).unwrap_err();
        assert!(text.starts_with("Job control is not available on this server: "), "{text}");
    }
    let arrival = crate::catalog::Arrival { now: Timestamp(0), fresh_id: Uuid::nil(), has_crawler: true };
    for state in [JobRunState::Paused, JobRunState::Running] {
        assert!(
            matches!(crate::catalog::plan(request(state), &arrival), Ok(Plan::Ask(command)) if matches!(*command, Command::SetJob(_)))
        );
    }
    // What does not need one is done here all the same.
    assert!(matches!(crate::catalog::plan(request(JobRunState::Cancelled), &arrival), Ok(Plan::Read { .. })));
    for (state, number) in [(JobRunState::Completed, 2), (JobRunState::Pending, 4), (JobRunState::Deleted, 6)] {
        let text = crate::catalog::plan(request(state), &arrival).unwrap_err();
        assert_eq!(text, format!("Not allowed to set job run state: {number}"));
    }
}
