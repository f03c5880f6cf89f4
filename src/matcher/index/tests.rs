//! The index against the plain meaning of filters, written down without regard to speed.

use std::cmp::Ordering;
use std::sync::Arc;

use fastrand::Rng;
use serde_json::{Map, Value, json};

use super::*;
use crate::change::Document;
use crate::matcher::expression::{Comparison, Literal, TextTest};
use crate::matcher::program::Program;

/// Three-valued: an error is `None`.
fn truth(expression: &Expression, document: &Map<String, Value>) -> Option<bool> {
    let kleene = |parts: &[Expression], dominant: bool| {
        let truths: Vec<_> = parts.iter().map(|part| truth(part, document)).collect();
        if truths.contains(&Some(dominant)) {
            return Some(dominant);
        }
        truths.iter().all(Option::is_some).then_some(!dominant)
    };
    match expression {
        Expression::Always(value) => Some(*value),
        Expression::Not(inner) => truth(inner, document).map(|truth| !truth),
        Expression::And(parts) => kleene(parts, false),
        Expression::Or(parts) => kleene(parts, true),
        Expression::Has(path) => {
            let (last, above) = path.0.split_last().expect("a path has a name");
            let object = above.iter().try_fold(document, |object, name| object.get(name)?.as_object())?;
            Some(object.contains_key(last))
        }
        Expression::Flag(path) => value_at(path, document)?.as_bool(),
        Expression::Compare(path, comparison, literal) => {
            let value = value_at(path, document)?;
            match comparison {
                Comparison::Equal => Some(order(value, literal) == Some(Ordering::Equal)),
                Comparison::NotEqual => Some(order(value, literal) != Some(Ordering::Equal)),
                Comparison::Less => Some(order(value, literal)?.is_lt()),
                Comparison::AtMost => Some(order(value, literal)?.is_le()),
                Comparison::Greater => Some(order(value, literal)?.is_gt()),
                Comparison::AtLeast => Some(order(value, literal)?.is_ge()),
            }
        }
        Expression::In(path, literals) => {
            let value = value_at(path, document)?;
            Some(literals.iter().any(|literal| order(value, literal) == Some(Ordering::Equal)))
        }
        Expression::Holds(path, literal) => match value_at(path, document)? {
            Value::Array(list) => Some(list.iter().any(|element| order(element, literal) == Some(Ordering::Equal))),
            Value::Object(object) => Some(matches!(literal, Literal::Text(name) if object.contains_key(name))),
            _ => None,
        },
        Expression::Text(path, test, pattern) => {
            let text = value_at(path, document)?.as_str()?;
            Some(match test {
                TextTest::StartsWith => text.starts_with(pattern),
                TextTest::EndsWith => text.ends_with(pattern),
                TextTest::Contains => text.contains(pattern),
                TextTest::Matches => regex::Regex::new(pattern).expect("a pattern").is_match(text),
            })
        }
    }
}

fn value_at<'d>(path: &Path, document: &'d Map<String, Value>) -> Option<&'d Value> {
    let (last, above) = path.0.split_last().expect("a path has a name");
    above.iter().try_fold(document, |object, name| object.get(name)?.as_object())?.get(last)
}

fn order(value: &Value, literal: &Literal) -> Option<Ordering> {
    match (value, literal) {
        (Value::Bool(value), Literal::Bool(literal)) => Some(value.cmp(literal)),
        (Value::String(value), Literal::Text(literal)) => Some(value.cmp(literal)),
        (Value::Number(value), Literal::Int(literal)) => match value.as_i128() {
            Some(value) => Some(value.cmp(&i128::from(*literal))),
            // The doubles of this test are small: no digit is lost.
            None => value.as_f64()?.partial_cmp(&(*literal as f64)),
        },
        (Value::Number(value), Literal::Double(literal)) => value.as_f64()?.partial_cmp(literal),
        _ => None,
    }
}

const TEXTS: [&str; 9] = ["", "a", "ab", "abc", "b", "é", "a\"b", "long enough not to be a short code", "\u{1f600}"];
const PATHS: [&str; 9] = ["a", "b", "b.c", "b.d", "b.d.e", "t", "s", "n", "q\"x"];

fn path(rng: &mut Rng) -> Path {
    Path(rng.choice(PATHS).expect("there are paths").split('.').map(str::to_owned).collect())
}

fn literal(rng: &mut Rng) -> Literal {
    match rng.u32(..10) {
        0 => Literal::Bool(rng.bool()),
        1..5 => Literal::Int(rng.i64(-2..8)),
        5 => Literal::Double(rng.i32(-4..16).into()),
        6 => Literal::Double(f64::from(rng.i32(-4..16)) / 2.0),
        _ => Literal::Text(rng.choice(TEXTS).expect("there are texts").to_owned()),
    }
}

fn comparison(rng: &mut Rng) -> Comparison {
    let all = [
        Comparison::Equal,
        Comparison::NotEqual,
        Comparison::Less,
        Comparison::AtMost,
        Comparison::Greater,
        Comparison::AtLeast,
    ];
    rng.choice(all).expect("there are comparisons")
}

fn expression(rng: &mut Rng, depth: u32) -> Expression {
    let parts = |rng: &mut Rng| (0..rng.u32(2..5)).map(|_| expression(rng, depth - 1)).collect();
    match rng.u32(..if depth > 0 { 20 } else { 12 }) {
        0 => Expression::Has(path(rng)),
        1 => Expression::Flag(path(rng)),
        2..7 => Expression::Compare(path(rng), comparison(rng), literal(rng)),
        7 => Expression::In(path(rng), (0..rng.u32(1..5)).map(|_| literal(rng)).collect()),
        8 => Expression::Holds(path(rng), literal(rng)),
        9 => {
            let path = path(rng);
            let (low, high) = (rng.i64(-2..5), rng.i64(0..8));
            let low = Expression::Compare(path.clone(), Comparison::AtLeast, Literal::Int(low));
            Expression::And(vec![low, Expression::Compare(path, Comparison::Less, Literal::Int(high))])
        }
        10 => {
            let tests = [TextTest::StartsWith, TextTest::EndsWith, TextTest::Contains, TextTest::Matches];
            let test = rng.choice(tests).expect("there are tests");
            Expression::Text(path(rng), test, rng.choice(TEXTS).expect("there are texts").to_owned())
        }
        11 => Expression::Always(rng.bool()),
        12..14 => Expression::Not(Box::new(expression(rng, depth - 1))),
        14..18 => Expression::And(parts(rng)),
        _ => Expression::Or(parts(rng)),
    }
}

fn value(rng: &mut Rng, depth: u32) -> Value {
    match rng.u32(..if depth > 0 { 14 } else { 9 }) {
        0 => Value::Null,
        1 => rng.bool().into(),
        2..4 => rng.i64(-2..8).into(),
        4 => (f64::from(rng.i32(-4..16)) / 2.0).into(),
        5 => rng.choice([json!(u64::MAX), json!(i64::MIN), json!(1e300), json!(-0.0)]).expect("there are numbers"),
        6..9 => rng.choice(TEXTS).expect("there are texts").into(),
        9..11 => (0..rng.u32(..4)).map(|_| value(rng, depth - 1)).collect(),
        _ => object(rng, depth - 1).into(),
    }
}

fn object(rng: &mut Rng, depth: u32) -> Map<String, Value> {
    let names = ["a", "ab", "b", "c", "d", "e", "t", "s", "n", "q\"x", "unasked"];
    let mut object = Map::new();
    for name in names {
        if rng.u32(..3) > 0 {
            object.insert(name.to_owned(), value(rng, depth));
        }
    }
    object
}

fn document(rng: &mut Rng) -> Option<Document> {
    (rng.u32(..8) > 0).then(|| Document::from_object(object(rng, 3)))
}

/// Sometimes only one member has changed.
fn next_document(rng: &mut Rng, old: Option<&Document>) -> Option<Document> {
    match old.and_then(Document::members) {
        Some(mut members) if rng.bool() => {
            members.insert(rng.choice(["a", "b", "n", "t"]).expect("there are names").to_owned(), value(rng, 2));
            Some(Document::from_object(members))
        }
        _ => document(rng),
    }
}

struct Live {
    id: FilterId,
    text: Arc<str>,
    expression: Expression,
    program: Program,
    users: u32,
}

fn insert(matcher: &mut Matcher, live: &mut Vec<Live>, rng: &mut Rng) {
    let expression = match rng.choice(&*live) {
        Some(same) if rng.u32(..4) == 0 => same.expression.clone(),
        _ => expression(rng, 3),
    };
    let text: Arc<str> = format!("{expression:?}").into();
    let id = matcher.add(&text, &expression, &Patterns::of(&expression));
    match live.iter_mut().find(|live| live.text == text) {
        Some(known) => {
            assert_eq!(known.id, id, "the same filter has the same number");
            known.users += 1;
        }
        None => {
            assert!(live.iter().all(|live| live.id != id), "a number is used once");
            let program = Program::compile(&expression, &Patterns::of(&expression));
            live.push(Live { id, text, expression, program, users: 1 });
        }
    }
}

fn remove(matcher: &mut Matcher, live: &mut Vec<Live>, rng: &mut Rng) {
    if live.is_empty() {
        return;
    }
    let at = rng.usize(..live.len());
    matcher.remove(live[at].id);
    live[at].users -= 1;
    if live[at].users == 0 {
        live.swap_remove(at);
    }
}

fn expected(live: &[Live], old: Option<&Document>, new: Option<&Document>) -> Vec<Match> {
    let is_true = |live: &Live, document: Option<&Document>| {
        let Some(document) = document else { return false };
        let members = document.members().expect("an object");
        let is_true = truth(&live.expression, &members) == Some(true);
        assert_eq!(live.program.matches(document), is_true, "{} of {members:?}", live.text);
        is_true
    };
    let matches = live.iter().map(|live| Match { filter: live.id, old: is_true(live, old), new: is_true(live, new) });
    let mut matches: Vec<_> = matches.filter(|found| found.old || found.new).collect();
    matches.sort_by_key(|found| found.filter);
    matches
}

#[test]
fn the_index_finds_what_is_true() {
    let mut scratch = Scratch::default();
    let mut found = Vec::new();
    let mut matches = 0;
    for seed in 0..30 {
        let rng = &mut Rng::with_seed(seed);
        let mut matcher = Matcher::new(seed);
        let mut live = Vec::new();
        let mut most = 0;
        for round in 0..150 {
            for _ in 0..rng.u32(..4) {
                insert(&mut matcher, &mut live, rng);
            }
            most = most.max(live.len());
            for _ in 0..rng.u32(..if round < 100 { 3 } else { 6 }) {
                remove(&mut matcher, &mut live, rng);
            }
            assert_eq!(matcher.len(), live.len());
            assert!(live.iter().all(|live| (live.id.0 as usize) < most), "numbers are used again");
            let old = document(rng);
            let new = next_document(rng, old.as_ref());
            matcher.matches(old.as_ref(), new.as_ref(), &mut scratch, &mut found);
            let expected = expected(&live, old.as_ref(), new.as_ref());
            assert_eq!(
                found,
                expected,
                "seed {seed}, {:?} -> {:?}",
                old.map(|d| d.to_bytes()),
                new.map(|d| d.to_bytes())
            );
            matcher.matches_by_asking_all(old.as_ref(), new.as_ref(), &mut scratch, &mut found);
            assert_eq!(found, expected, "seed {seed}, without the index");
            matches += found.len();
        }
        while !live.is_empty() {
            remove(&mut matcher, &mut live, rng);
        }
        assert!(matcher.is_empty() && matcher.unindexed() == 0);
        assert_eq!(matcher.paths.find(&Path(vec!["a".to_owned()])), None, "nobody asks for it any more");
    }
    assert!(matches > 5_000, "only {matches} matches: this shows little");
}

#[test]
fn damaged_documents_match_nothing_and_cost_nothing() {
    let mut matcher = Matcher::new(1);
    let rng = &mut Rng::with_seed(7);
    let mut live = Vec::new();
    for _ in 0..300 {
        insert(&mut matcher, &mut live, rng);
    }
    let mut scratch = Scratch::default();
    let mut found = Vec::new();
    let whole = Document::from_object(object(rng, 3)).as_bytes().to_vec();
    let mut documents: Vec<Vec<u8>> = (0..whole.len()).map(|end| whole[..end].to_vec()).collect();
    for _ in 0..2000 {
        let mut damaged = whole.clone();
        for _ in 0..rng.u32(1..4) {
            let at = rng.usize(..damaged.len());
            damaged[at] = rng.choice(*b"{}[]\",:\\ea0\xff").expect("there are bytes");
        }
        documents.push(damaged);
    }
    for text in
        ["{\"a\":1e999,\"n\":-1e999}", "{\"a\":1,\"a\":2}", "{\"a\":123456789012345678901234567890}", "{\"a\":1}x"]
    {
        documents.push(text.into());
    }
    documents.push(format!("{{\"a\":{}", "[{\"a\":".repeat(200_000)).into_bytes());
    documents.push(format!("{{\"b\":{}", "{\"d\":".repeat(200_000)).into_bytes());
    let mut intact = 0;
    for bytes in documents {
        let document = Document::from_stored(bytes);
        matcher.matches(Some(&document), None, &mut scratch, &mut found);
        let alone = live.iter().filter(|live| live.program.matches(&document));
        let mut alone: Vec<_> = alone.map(|live| live.id).collect();
        alone.sort();
        // Of damaged documents not every part is read by everyone, and so not every damage is seen.
        if Document::parse(document.as_bytes()).is_ok_and(|canonical| canonical == document) {
            assert_eq!(found.iter().map(|found| found.filter).collect::<Vec<_>>(), alone);
            intact += 1;
        }
        if !document.as_bytes().ends_with(b"}") {
            assert!(found.is_empty() && alone.is_empty());
        }
    }
    assert!(intact > 10, "{intact}");
}

fn equal(name: &str, value: &str) -> Expression {
    Expression::Compare(Path(vec![name.to_owned()]), Comparison::Equal, Literal::Text(value.to_owned()))
}

fn between(name: &str, low: i64, high: i64) -> Expression {
    let bound = |comparison, bound| Expression::Compare(Path(vec![name.to_owned()]), comparison, Literal::Int(bound));
    Expression::And(vec![bound(Comparison::AtLeast, low), bound(Comparison::Less, high)])
}

#[test]
fn what_tells_filters_apart_is_looked_up() {
    let mut matcher = Matcher::new(3);
    for owner in 0..1000 {
        let expression = Expression::And(vec![equal("status", "running"), equal("owner", &format!("u{owner}"))]);
        matcher.add(&format!("{expression:?}").into(), &expression, &Patterns::default());
    }
    assert!(matcher.weight(&Entry::Equal(&Path(vec!["status".to_owned()]), Scalar::Text(b"running"))) < 4);
    for low in 0..1000 {
        let expression = Expression::And(vec![equal("status", "waiting"), between("age", low, low + 1)]);
        matcher.add(&format!("{expression:?}").into(), &expression, &Patterns::default());
    }
    assert!(matcher.weight(&Entry::Equal(&Path(vec!["status".to_owned()]), Scalar::Text(b"waiting"))) < 50);
    assert_eq!(matcher.unindexed(), 0);
}

#[test]
fn ranges_that_all_overlap_tell_nothing_apart() {
    let mut matcher = Matcher::new(3);
    for number in 0..2000 {
        let place = equal("place", &format!("p{}", number % 20));
        let expression = Expression::And(vec![place, between("age", number % 100, 200 + number)]);
        matcher.add(&format!("{expression:?}").into(), &expression, &Patterns::default());
    }
    let ages = matcher.field(&Path(vec!["age".to_owned()]));
    let rank = Scalar::Int(150).rank().expect("a number");
    let around = matcher.fields[ages as usize].numbers.count(&rank, usize::MAX);
    assert!(around < 100, "a value is in {around} ranges");
    let place = Path(vec!["place".to_owned()]);
    assert!(matcher.weight(&Entry::Equal(&place, Scalar::Text(b"p0"))) < 120);
}

#[test]
fn a_plan_says_how_changes_find_a_filter() {
    let plan = Plan::of(&Expression::And(vec![equal("owner", "u1"), between("age", 3, 5)]));
    assert!(plan.is_indexed);
    assert_eq!(plan.lines[0], "looked up by `owner` (hash)");
    let plan = Plan::of(&Expression::Or(vec![equal("a", "x"), equal("a", "y"), between("age", 3, 5)]));
    assert_eq!(plan.lines[..2], ["looked up by `a` (hash, 2 entries)", "looked up by `age` (range of numbers)"]);
    let plan = Plan::of(&Expression::Not(Box::new(equal("a", "x"))));
    assert!(!plan.is_indexed);
    assert_eq!(plan.lines, ["tried on every change: no part of it can be looked up"]);
    let plan = Plan::of(&between("age", 5, 3));
    assert!(plan.is_indexed);
    assert_eq!(plan.lines, ["never tried: it is never true"]);
}
