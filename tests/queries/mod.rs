//! What commands read from a database and write to it, below the API: the same over the scripted database and over a real one.

mod changes;
mod lists;
mod ranges;
mod rows;
mod writes;

use serde_json::{Value, json};
use starfeed::change::{Document, Row, Table};
use starfeed::store::{Condition, Direction, PageBudget, Part, Query, QueryResult, RangeQuery, RangeStart};

use crate::support::opened::{BYTES_MAX, index};

/// As a row has it.
fn time(seconds: u32) -> Value {
    json!({"$reql_type$": "TIME", "epoch_time": seconds, "timezone": "+00:00"})
}

fn document(value: &Value) -> Document {
    Document::parse(value.to_string().as_bytes()).expect("an object")
}

fn members(row: &Row) -> Value {
    serde_json::from_slice(row.document.as_bytes()).expect("JSON")
}

/// The members `id` of the rows of an answer, with spaces between them.
fn ids(result: &QueryResult) -> String {
    let ids: Vec<String> =
        result.rows.iter().map(|row| members(row)["id"].as_str().expect("text").to_owned()).collect();
    ids.join(" ")
}

const ALL: Part = Part::Page { offset: 0, limit: 1000 };

/// The most that fits into an answer.
const FIRST: Part = Part::First(PageBudget { items: 1000, bytes: BYTES_MAX });

/// All rows of an index, the greatest first.
fn all_of(table: &str, name: &str) -> RangeQuery {
    RangeQuery {
        table: Table::new(table),
        index: index(table, name),
        prefix: Vec::new(),
        start: RangeStart::First,
        direction: Direction::Descending,
        condition: Condition::Always,
        part: ALL,
    }
}

fn list(table: &str, order: starfeed::store::Order, offset: usize, limit: usize) -> Query {
    Query::List { table: Table::new(table), order, offset, limit }
}
