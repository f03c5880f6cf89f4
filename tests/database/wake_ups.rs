//! Wake-ups by a real database: its own list of jobs says which feeds there are, and it is killed.

use reql::r;
use serde_json::{Value, json};

use crate::support::opened::OpenSource;
use crate::support::process::eventually;
use crate::support::rethinkdb::ask::members;
use crate::support::rethinkdb::database::init;
use crate::support::rethinkdb::server::Rethinkdb;

const DATABASE: &str = "crawler";

fn start() -> Option<(Rethinkdb, OpenSource)> {
    let rethinkdb = Rethinkdb::of_our_own(&[])?;
    let url = rethinkdb.url("admin", DATABASE);
    init(&url);
    let source = OpenSource::new(&url, "");
    Some((rethinkdb, source))
}

fn insert(rethinkdb: &Rethinkdb, sequence: u32, job: &str) {
    let row = json!({"sequence": sequence, "job_id": job, "headers": ["x", "y"]});
    rethinkdb.ask(r.db(DATABASE).table("response").insert(row));
}

/// How many changefeeds of the table of responses are open.
fn feeds(rethinkdb: &Rethinkdb) -> usize {
    let is_one = |job: &Value| {
        let query = job["info"]["query"].as_str().unwrap_or_default();
        query.contains(".changes(") && query.contains("r.table(\"response\")")
    };
    members(rethinkdb.ask(r.db("rethinkdb").table("jobs"))).iter().filter(|job| is_one(job)).count()
}

#[test]
fn watchers_that_are_gone_leave_no_feed_behind() {
    let Some((rethinkdb, source)) = start() else { return };
    let of = |job: usize| source.changes("response", "job_sync", vec![format!("job{job}").into()]);
    let mut watchers: Vec<_> = (0..20).map(|number| of(number % 5)).collect();
    watchers.iter_mut().for_each(|watcher| source.next(watcher));
    assert_eq!(feeds(&rethinkdb), 5);
    watchers.truncate(2);
    eventually("two are left", || feeds(&rethinkdb) == 2);
    drop(watchers);
    eventually("none is left", || feeds(&rethinkdb) == 0);
    for number in 0..1000 {
        drop(of(number));
    }
    let mut last = of(7);
    source.next(&mut last);
    eventually("one is left", || feeds(&rethinkdb) == 1);
    insert(&rethinkdb, 1, "job7");
    source.next(&mut last);
    drop(last);
    eventually("none is left", || feeds(&rethinkdb) == 0);
}

#[test]
fn a_database_that_is_killed_and_started_again_wakes_and_is_watched_again() {
    let Some((mut rethinkdb, source)) = start() else { return };
    let mut changes = source.changes("response", "job_sync", vec!["j".into()]);
    source.next(&mut changes);
    rethinkdb.kill();
    source.next(&mut changes);
    // While it is away, and when it is back.
    source.next(&mut changes);
    rethinkdb.start();
    eventually("there is a feed again", || feeds(&rethinkdb) == 1);
    while source.has_next(&mut changes) {}
    insert(&rethinkdb, 1, "j");
    source.next(&mut changes);
}
