//! How many changes a matcher takes with very many filters, beside asking every filter, and beside the `cel` crate:
//! `cargo bench --bench matcher`, or with some sizes only: `cargo bench --bench matcher -- 1000 100000`.

#![expect(clippy::print_stdout, reason = "this is a program that prints a table")]

use std::alloc::System;
use std::sync::Arc;
use std::time::Duration;

use cap::Cap;
use fastrand::Rng;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Map, Value, json};
use starfeed::change::Document;
use starfeed::matcher::{Filter, FilterLimits, Match, Matcher, Scratch};

#[global_allocator]
static ALLOCATED: Cap<System> = Cap::new(System, usize::MAX);

const SIZES: [usize; 4] = [1_000, 10_000, 100_000, 1_000_000];
/// Asking every filter is not worth the wait beyond.
const ONE_BY_ONE_MAX: usize = 100_000;
/// How long each figure is measured.
const MEASURED: Duration = Duration::from_secs(1);
const CHANGES: usize = 20_000;
/// Filters that come and go while the others stay.
const CHURN: usize = 10_000;
const PRICES: u64 = 100_000_000;

const STATES: [&str; 5] = ["waiting", "running", "paused", "failed", "done"];
const KINDS: [&str; 4] = ["render", "encode", "upload", "index"];
const REGIONS: [&str; 4] = ["eu-west", "eu-north", "us-east", "ap-south"];
const PRIORITIES: usize = 5;
/// The different filters that one owner has.
const PER_OWNER: usize = STATES.len() + KINDS.len() + REGIONS.len() + PRIORITIES;

fn main() {
    // `cargo bench` adds `--bench`, and `cargo test --benches` runs this without it: then a glance must do.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut sizes: Vec<usize> = arguments.iter().filter_map(|argument| argument.parse().ok()).collect();
    if sizes.is_empty() {
        sizes = if arguments.iter().any(|argument| argument == "--bench") { SIZES.to_vec() } else { vec![SIZES[0]] };
    }
    println!("one core; every change is an update, with the row before and after; times are CPU time");
    println!("filters: 90 % `owner == … && … == …`, 10 % `price >= … && price < …`; \"-\" is not measured");
    println!();
    println!(
        "{:>9} {:>8} {:>10} {:>11} {:>12} {:>12} {:>8} {:>9} {:>9}",
        "filters", "matches", "µs/change", "changes/s", "asking all", "cel", "bytes", "insert", "in + out"
    );
    println!(
        "{:>9} {:>8} {:>10} {:>11} {:>12} {:>12} {:>8} {:>9} {:>9}",
        "", "/change", "", "", "µs/change", "µs/change", "/filter", "µs", "µs"
    );
    for size in sizes {
        measure(size);
    }
    println!();
    let (compile, row) = alone();
    println!("one filter by itself: {:.2} µs to read its text, {:.2} µs for a row", compile * 1e6, row * 1e6);
}

/// Seconds to make a filter of its text, and for that filter to judge one row.
fn alone() -> (f64, f64) {
    let world = World { size: SIZES[0] };
    let rng = &mut Rng::with_seed(4);
    let changes: Vec<(Document, Document)> = (0..CHANGES).map(|_| world.change(rng)).collect();
    let texts: Vec<String> = (0..world.size).map(|number| world.filter(number, rng)).collect();
    let mut filters = Vec::with_capacity(texts.len());
    let read = timed(|| filters.extend(texts.iter().map(|text| parsed(text))));
    let mut filters = filters.iter().cycle();
    let row = repeat(&changes, |(old, _)| {
        let filter = filters.next().expect("there are filters");
        std::hint::black_box(filter.matches(old));
    });
    (read / texts.len() as f64, row)
}

fn measure(size: usize) {
    let world = World { size };
    let rng = &mut Rng::with_seed(1);
    let changes: Vec<(Document, Document)> = (0..CHANGES).map(|_| world.change(rng)).collect();
    let mut matcher = Matcher::new(rng.u64(..));
    let filled = fill(&mut matcher, &world);
    let mut scratch = Scratch::default();
    let mut found = Vec::new();
    check(&matcher, &changes, &mut scratch, &mut found);

    let mut matches = 0;
    let mut count = 0_usize;
    let per_change = repeat(&changes, |(old, new)| {
        matcher.matches(Some(old), Some(new), &mut scratch, &mut found);
        matches += found.len();
        count += 1;
    });
    let asking_all = (size <= ONE_BY_ONE_MAX).then(|| {
        repeat(&changes, |(old, new)| matcher.matches_by_asking_all(Some(old), Some(new), &mut scratch, &mut found))
    });
    let churn = churn(&mut matcher, &world);
    drop(matcher);
    let cel = (size <= ONE_BY_ONE_MAX).then(|| cel(&world, &changes));
    let micros = |time: Option<f64>| time.map_or("-".to_owned(), |time| format!("{:.1}", time * 1e6));
    println!(
        "{size:>9} {:>8.1} {:>10.2} {:>11.0} {:>12} {:>12} {:>8.0} {:>9.2} {:>9.2}",
        matches as f64 / count as f64,
        per_change * 1e6,
        1.0 / per_change,
        micros(asking_all),
        micros(cel),
        filled.bytes,
        filled.time * 1e6,
        churn * 1e6,
    );
}

struct Filled {
    /// Memory for each filter beyond its text.
    bytes: f64,
    /// Seconds for each filter.
    time: f64,
}

fn fill(matcher: &mut Matcher, world: &World) -> Filled {
    let before = ALLOCATED.allocated();
    let mut texts = 0;
    let mut time = 0.0;
    let rng = &mut Rng::with_seed(2);
    // Not all at once: by themselves they need more memory than in the matcher.
    let mut numbers = (0..world.size).peekable();
    while numbers.peek().is_some() {
        let filters: Vec<Filter> =
            numbers.by_ref().take(CHURN).map(|number| parsed(&world.filter(number, rng))).collect();
        texts += filters.iter().map(|filter| filter.canonical().len() + 2 * size_of::<usize>()).sum::<usize>();
        time += timed(|| filters.iter().for_each(|filter| _ = matcher.insert(filter)));
    }
    assert_eq!(matcher.len(), world.size, "no two filters are the same");
    let count = world.size as f64;
    Filled { bytes: (ALLOCATED.allocated() - before - texts) as f64 / count, time: time / count }
}

/// Seconds for one filter to come, and to go again.
fn churn(matcher: &mut Matcher, world: &World) -> f64 {
    let rng = &mut Rng::with_seed(3);
    let filters: Vec<Filter> = (0..CHURN).map(|number| parsed(&world.filter(world.size + number, rng))).collect();
    let mut ids = Vec::with_capacity(CHURN);
    let time = timed(|| {
        ids.extend(filters.iter().map(|filter| matcher.insert(filter)));
        for id in ids.drain(..) {
            matcher.remove(id);
        }
    });
    assert_eq!(matcher.len(), world.size);
    time / CHURN as f64
}

/// What is measured must also be right.
fn check(matcher: &Matcher, changes: &[(Document, Document)], scratch: &mut Scratch, found: &mut Vec<Match>) {
    let mut expected = Vec::new();
    for (old, new) in &changes[..3] {
        matcher.matches(Some(old), Some(new), scratch, found);
        matcher.matches_by_asking_all(Some(old), Some(new), scratch, &mut expected);
        assert_eq!(*found, expected, "the index finds what asking every filter finds");
    }
}

/// Seconds for one change, with the `cel` crate: documents are converted once, and then every filter is asked.
fn cel(world: &World, changes: &[(Document, Document)]) -> f64 {
    let rng = &mut Rng::with_seed(2);
    let env = Arc::new(cel::Env::stdlib());
    let programs: Vec<cel::Program> = (0..world.size)
        .map(|number| cel::Program::compile(&world.filter(number, rng)).expect("a filter is CEL"))
        .collect();
    repeat(changes, |(old, new)| {
        for document in [old, new] {
            let mut context = cel::Context::with_env(env.clone());
            for (name, value) in document.members().expect("an object") {
                context.add_variable_from_value(name, cel_value(value));
            }
            let is_true = |program: &&cel::Program| program.execute(&context) == Ok(cel::Value::Bool(true));
            std::hint::black_box(programs.iter().filter(is_true).count());
        }
    })
}

fn cel_value(value: Value) -> cel::Value {
    match value {
        Value::Bool(value) => value.into(),
        Value::Number(number) => match number.as_i64() {
            Some(number) => number.into(),
            None => number.as_f64().expect("a number").into(),
        },
        Value::String(text) => text.into(),
        // No filter here asks for others.
        Value::Null | Value::Array(_) | Value::Object(_) => cel::Value::Null,
    }
}

/// The filters and the changes of one size.
struct World {
    size: usize,
}

impl World {
    fn ranges(&self) -> usize {
        self.size / 10
    }

    fn owners(&self) -> usize {
        (self.size - self.ranges()).div_ceil(PER_OWNER)
    }

    /// The filter `number`, unlike all others; from `size` on one that is not among them.
    fn filter(&self, number: usize, rng: &mut Rng) -> String {
        if number % 10 == 9 {
            // A price is in two of the ranges.
            let width = 2 * PRICES as usize / self.ranges().max(1);
            let low = rng.u64(..PRICES) as i64;
            let high = low + rng.usize(width / 2..width + width / 2) as i64;
            format!("price >= {low} && price < {high}")
        } else {
            let number = number - number / 10;
            let owner = owner(number / PER_OWNER);
            format!("owner == \"{owner}\" && {}", one_of_an_owner(number % PER_OWNER))
        }
    }

    fn change(&self, rng: &mut Rng) -> (Document, Document) {
        let mut row: Map<String, Value> = Map::new();
        let id = format!("job-{:012}", rng.u64(..1 << 40));
        for (name, value) in [
            ("id", json!(id)),
            ("kind", json!(rng.choice(KINDS))),
            ("owner", json!(owner(rng.usize(..self.owners())))),
            ("price", json!(rng.u64(..PRICES))),
            ("priority", json!(rng.usize(..PRIORITIES))),
            ("region", json!(rng.choice(REGIONS))),
            ("state", json!(rng.choice(STATES))),
            ("tags", json!(["nightly", "gpu"])),
            ("title", json!("Frames 1 to 250 of the opening scene")),
            ("updated", json!(1_763_000_000_000_u64 + rng.u64(..1 << 32))),
        ] {
            row.insert(name.to_owned(), value);
        }
        let old = Document::from_object(row.clone());
        row.insert("state".to_owned(), json!(rng.choice(STATES)));
        row.insert("priority".to_owned(), json!(rng.usize(..PRIORITIES)));
        row.insert("price".to_owned(), json!(rng.u64(..PRICES)));
        row.insert("updated".to_owned(), json!(1_763_000_000_000_u64 + rng.u64(..1 << 32)));
        (old, Document::from_object(row))
    }
}

fn owner(number: usize) -> String {
    format!("u{number}")
}

fn parsed(text: &str) -> Filter {
    Filter::parse(text, &FilterLimits::default()).expect("a filter")
}

fn one_of_an_owner(number: usize) -> String {
    let mut rest = number;
    for (name, values) in [("state", &STATES[..]), ("kind", &KINDS), ("region", &REGIONS)] {
        if let Some(value) = values.get(rest) {
            return format!("{name} == \"{value}\"");
        }
        rest -= values.len();
    }
    format!("priority == {rest}")
}

/// Seconds for one call, over many, each with the next of `changes`.
fn repeat(changes: &[(Document, Document)], mut call: impl FnMut(&(Document, Document))) -> f64 {
    let mut changes = changes.iter().cycle();
    let mut next = || call(changes.next().expect("there are changes"));
    // A first look, which also warms up, says how many calls to measure.
    let once = timed(&mut next).max(1e-9);
    let count = ((MEASURED.as_secs_f64() / once) as usize).clamp(3, CHANGES);
    let mut total = 0;
    let mut seconds = 0.0;
    while seconds < MEASURED.as_secs_f64() {
        seconds += timed(|| (0..count).for_each(|_| next()));
        total += count;
    }
    seconds / total as f64
}

/// The CPU time, in seconds, that `work` takes.
fn timed(work: impl FnOnce()) -> f64 {
    let start = clock_gettime(ClockId::ProcessCPUTime);
    work();
    let end = clock_gettime(ClockId::ProcessCPUTime);
    (end.tv_sec - start.tv_sec) as f64 + (end.tv_nsec - start.tv_nsec) as f64 * 1e-9
}
