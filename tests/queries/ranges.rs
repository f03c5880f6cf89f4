//! Parts of an index: order, bounds, conditions, pages.

use serde_json::{Value, json};
use starfeed::store::{Condition, Direction, PageBudget, Part, Query, QueryResult, RangeQuery, RangeStart};

use super::{ALL, FIRST, all_of, ids, members, time};
use crate::queried::Queried;

fn job(id: &str, schedule: &str, started_at: &Value) -> Value {
    json!({"id": id, "schedule_id": schedule, "started_at": started_at})
}

/// Jobs of two schedules, and some that are spoilt.
fn with_jobs() -> Option<Queried> {
    let queried = Queried::open()?;
    for (id, schedule, seconds) in [("a", "s", 10), ("b", "s", 20), ("c", "s", 20), ("d", "s", 30), ("e", "t", 15)] {
        queried.put("job", &job(id, schedule, &time(seconds)));
    }
    for (id, started_at) in [("w", Value::Null), ("x", json!({"at": 1})), ("y", json!([1, null])), ("z", json!(["z"]))]
    {
        queried.put("job", &job(id, "s", &started_at));
    }
    queried.put("job", &json!({"id": "v"}));
    Some(queried)
}

fn ask(queried: &Queried, query: RangeQuery) -> QueryResult {
    queried.source.query(Query::Range(query))
}

fn of_schedule(start: RangeStart, direction: Direction) -> RangeQuery {
    RangeQuery { prefix: vec!["s".into()], start, direction, ..all_of("job", "schedule") }
}

#[test]
fn rows_come_in_the_order_of_an_index_and_in_that_of_their_keys_where_that_is_the_same() {
    let Some(queried) = with_jobs() else { return };
    let ascending = RangeQuery { direction: Direction::Ascending, ..all_of("job", "started_at") };
    let result = ask(&queried, ascending.clone());
    assert_eq!((ids(&result).as_str(), result.total), ("a e b c d", 5), "only those that the index has");
    let descending = RangeQuery { start: RangeStart::At(time(0)), ..all_of("job", "started_at") };
    let result = ask(&queried, descending);
    assert_eq!((ids(&result).as_str(), result.total), ("d c b e a", 5));
    let result = ask(&queried, of_schedule(RangeStart::First, Direction::Descending));
    assert_eq!((ids(&result).as_str(), result.total), ("d c b a", 4), "those of one schedule that have begun");
    let other = RangeQuery { prefix: vec!["t".into()], ..ascending };
    let other = RangeQuery { index: all_of("job", "schedule").index, ..other };
    assert_eq!(ids(&ask(&queried, other)), "e");
}

#[test]
fn a_range_begins_at_a_value_or_after_it() {
    let Some(queried) = with_jobs() else { return };
    for (direction, at, after) in [(Direction::Ascending, "b c d", "d"), (Direction::Descending, "d c b", "d")] {
        assert_eq!(ids(&ask(&queried, of_schedule(RangeStart::At(time(20)), direction))), at);
        assert_eq!(ids(&ask(&queried, of_schedule(RangeStart::After(time(20)), direction))), after);
    }
    let after = |seconds: u32| RangeQuery { start: RangeStart::After(time(seconds)), ..all_of("job", "started_at") };
    assert_eq!(ids(&ask(&queried, after(15))), "d c b");
    let result = ask(&queried, after(30));
    assert_eq!((ids(&result).as_str(), result.total), ("", 0));
}

#[test]
fn after_a_value_come_none_that_have_it_whatever_follows_in_the_index() {
    let Some(queried) = Queried::open() else { return };
    for (id, job, in_flight, cost) in
        [("a", "j", 0, 1), ("b", "j", 1, 5), ("c", "j", 1, 7), ("d", "j", 2, 0), ("e", "k", 1, 1)]
    {
        queried.put("frontier", &json!({"id": id, "job_id": job, "in_flight": in_flight, "cost": cost}));
    }
    let of = |prefix: &[Value], start: RangeStart| {
        let query = RangeQuery {
            prefix: prefix.to_vec(),
            start,
            direction: Direction::Ascending,
            ..all_of("frontier", "cost_index")
        };
        ids(&ask(&queried, query))
    };
    let job = Value::from("j");
    assert_eq!(of(std::slice::from_ref(&job), RangeStart::First), "a b c d");
    assert_eq!(of(std::slice::from_ref(&job), RangeStart::At(1.into())), "b c d");
    assert_eq!(of(std::slice::from_ref(&job), RangeStart::After(1.into())), "d");
    assert_eq!(of(&[job.clone(), 1.into()], RangeStart::First), "b c");
    assert_eq!(of(&[job.clone(), 1.into()], RangeStart::After(5.into())), "c");
    assert_eq!(of(&[job, 1.into(), 5.into()], RangeStart::First), "b", "the whole value");
    assert_eq!(of(&[], RangeStart::After("j".into())), "e");
}

#[test]
fn what_is_true_or_false_is_in_an_index_too() {
    let Some(queried) = Queried::open() else { return };
    for (id, in_flight) in [("a", false), ("b", true), ("c", false)] {
        let row = json!({"id": id, "job_id": "j", "in_flight": in_flight, "cost": 1.5});
        queried.put("frontier", &row);
    }
    let query = RangeQuery {
        prefix: vec!["j".into()],
        direction: Direction::Ascending,
        part: FIRST,
        ..all_of("frontier", "cost_index")
    };
    let result = ask(&queried, query);
    assert_eq!((ids(&result).as_str(), result.is_complete), ("a c b", true));
}

#[test]
fn an_index_of_one_member_has_all_rows_of_one_value() {
    let Some(queried) = Queried::open() else { return };
    for (id, url) in [("a", "x"), ("b", "x"), ("c", "xx"), ("d", "w")] {
        queried.put("robots_txt", &json!({"id": id, "url": url}));
    }
    let query = RangeQuery { prefix: vec!["x".into()], direction: Direction::Ascending, ..all_of("robots_txt", "url") };
    let result = ask(&queried, query);
    assert_eq!((ids(&result).as_str(), result.total), ("a b", 2));
}

#[test]
fn rows_that_the_index_leaves_out_come_behind_in_pages_and_are_counted() {
    let Some(queried) = with_jobs() else { return };
    let result = ask(&queried, all_of("job", "started_at"));
    assert_eq!((ids(&result).as_str(), result.total), ("d c b e a z y x w v", 10));
    let mut pages = Vec::new();
    for offset in (0..12).step_by(3) {
        let page = ask(&queried, RangeQuery { part: Part::Page { offset, limit: 3 }, ..all_of("job", "started_at") });
        assert_eq!(page.total, 10);
        pages.push(ids(&page));
    }
    assert_eq!(pages, ["d c b", "e a z", "y x w", "v"]);
    let nothing = ask(&queried, RangeQuery { part: Part::Page { offset: 0, limit: 0 }, ..all_of("job", "started_at") });
    assert_eq!((nothing.rows.len(), nothing.total), (0, 10));
    let first = ask(&queried, RangeQuery { part: FIRST, ..all_of("job", "started_at") });
    assert_eq!((ids(&first).as_str(), first.is_complete), ("d c b e a z y x w v", true));
    let has_schedule = Condition::Has("schedule_id");
    let result = ask(&queried, RangeQuery { condition: has_schedule, ..all_of("job", "started_at") });
    assert_eq!((ids(&result).as_str(), result.total), ("d c b e a z y x w", 9), "only those that are wanted");
}

#[test]
fn the_first_rows_are_as_many_as_fit() {
    let Some(queried) = Queried::open() else { return };
    let jobs = 40;
    for at in 0..jobs {
        queried.put("job", &json!({"id": format!("{at:02}"), "started_at": time(at), "name": "x".repeat(1000)}));
    }
    let first = |items, bytes| {
        let part = Part::First(PageBudget { items, bytes });
        ask(&queried, RangeQuery { part, direction: Direction::Ascending, ..all_of("job", "started_at") })
    };
    let result = first(3, 1 << 20);
    assert_eq!((ids(&result).as_str(), result.is_complete), ("00 01 02", false));
    let result = first(jobs as usize, 1 << 20);
    assert_eq!((result.rows.len(), result.is_complete), (40, true));
    let result = first(jobs as usize, 10_000);
    assert!(!result.is_complete && (8..=10).contains(&result.rows.len()), "{} rows", result.rows.len());
    assert_eq!(first(10, 1).rows.len(), 1, "one at least");
}

/// Whatever a member can be.
fn spoilt_rows() -> Vec<Value> {
    let values = [
        json!(null),
        json!(true),
        json!(false),
        json!(0),
        json!(""),
        json!("news"),
        json!([]),
        json!(["news"]),
        json!(["sports", null, 7, ["news"], {"a": 1}]),
        json!(["sports", "news"]),
        json!({}),
        json!({"news": true}),
        time(7),
        json!({"$reql_type$": "BINARY", "data": "bmV3cw=="}),
    ];
    let row = |(at, value): (usize, &Value)| json!({"id": format!("{at:02}"), "started_at": time(7), "tags": value});
    let mut rows: Vec<Value> = values.iter().enumerate().map(row).collect();
    rows.push(json!({"id": "zz", "started_at": time(7)}));
    rows
}

#[test]
fn a_condition_holds_for_the_rows_that_it_says_whatever_is_in_them() {
    let Some(queried) = Queried::open() else { return };
    let rows = spoilt_rows();
    rows.iter().for_each(|row| queried.put("job", row));
    let contains = || Condition::Contains("tags", "news".to_owned());
    let (is_true, has) = (Condition::IsTrue("tags"), Condition::Has("tags"));
    let not = |condition: &Condition| Condition::Not(Box::new(condition.clone()));
    let conditions = [
        Condition::Always,
        not(&Condition::Always),
        contains(),
        not(&contains()),
        is_true.clone(),
        not(&is_true),
        has.clone(),
        not(&has),
        Condition::All(Vec::new()),
        Condition::Any(Vec::new()),
        Condition::All(vec![has.clone(), not(&contains())]),
        Condition::Any(vec![is_true.clone(), contains()]),
        Condition::Any(vec![not(&has), Condition::All(vec![not(&is_true), contains()])]),
        Condition::Contains("nothing", "news".to_owned()),
        Condition::Contains("id", "news".to_owned()),
    ];
    for condition in conditions {
        let expected: Vec<&str> = rows
            .iter()
            .filter(|row| condition.holds(row.as_object().expect("a row")))
            .map(|row| row["id"].as_str().expect("text"))
            .collect();
        for part in [ALL, FIRST] {
            let query = RangeQuery {
                condition: condition.clone(),
                direction: Direction::Ascending,
                part,
                ..all_of("job", "started_at")
            };
            let result = ask(&queried, query);
            assert_eq!(ids(&result), expected.join(" "), "{condition:?}");
            if matches!(part, Part::Page { .. }) {
                assert_eq!(result.total, expected.len(), "{condition:?}");
            }
        }
    }
}

#[test]
fn what_is_never_served_is_not_read() {
    let Some(queried) = Queried::open() else { return };
    let old_urls = json!({"$reql_type$": "BINARY", "data": "AAAA".repeat(100_000)});
    queried.put("job", &json!({"id": "a", "started_at": time(1), "old_urls": old_urls}));
    queried.put("job", &json!({"id": "b", "old_urls": old_urls}));
    let table = || starfeed::change::Table::new("job");
    let key = || starfeed::change::Key::text("a");
    let queries = [
        Query::Range(all_of("job", "started_at")),
        Query::Range(RangeQuery { part: FIRST, ..all_of("job", "started_at") }),
        super::list("job", starfeed::store::Order::Key, 0, 10),
        super::list("job", starfeed::store::Order::Member("started_at"), 0, 10),
        Query::Get { table: table(), key: key() },
        Query::Rows { table: table(), keys: vec![key()], bytes: 1000 },
    ];
    for query in queries {
        // With it, two rows would not be allowed.
        let result = queried.source.query_within(query.clone(), 1000).expect("it is small");
        assert!(!result.rows.is_empty());
        assert!(result.rows.iter().all(|row| members(row).get("old_urls").is_none()), "{query:?}");
    }
    let budget = PageBudget { items: 10, bytes: 1 << 30 };
    let all = queried.source.query(Query::After { table: table(), after: None, budget });
    // The database breaks bytes into lines.
    let data =
        |row: &Value| row["old_urls"]["data"].as_str().map(|data| data.split_ascii_whitespace().collect::<String>());
    let has_all = |row: &starfeed::change::Row| data(&members(row)).as_deref() == old_urls["data"].as_str();
    assert!(all.rows.len() == 2 && all.rows.iter().all(has_all), "who exports a table has all of it");
}
