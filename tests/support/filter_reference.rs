//! What a filter says of a document, said as plainly as possible: `None` where it has no meaning for the document.

use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::HashMap;

use regex::Regex;
use serde_json::{Number, Value};
use starfeed::matcher::{Comparison, Expression, Literal, Path, TextTest};

/// Whether `document` fulfils `expression`.
pub(crate) fn evaluate(expression: &Expression, document: &Value) -> Option<bool> {
    match expression {
        Expression::Always(value) => Some(*value),
        Expression::Has(Path(names)) => {
            let (last, parents) = names.split_last().expect("a path has a name");
            Some(find(parents, document)?.as_object()?.contains_key(last))
        }
        Expression::Flag(path) => find(&path.0, document)?.as_bool(),
        Expression::Compare(path, comparison, literal) => {
            let value = find(&path.0, document)?;
            match comparison {
                Comparison::Equal => Some(is_equal(value, literal)),
                Comparison::NotEqual => Some(!is_equal(value, literal)),
                Comparison::Less => Some(order(value, literal)?.is_lt()),
                Comparison::AtMost => Some(order(value, literal)?.is_le()),
                Comparison::Greater => Some(order(value, literal)?.is_gt()),
                Comparison::AtLeast => Some(order(value, literal)?.is_ge()),
            }
        }
        Expression::In(path, literals) => {
            let value = find(&path.0, document)?;
            Some(literals.iter().any(|literal| is_equal(value, literal)))
        }
        Expression::Holds(path, literal) => match (find(&path.0, document)?, literal) {
            (Value::Array(elements), _) => Some(elements.iter().any(|element| is_equal(element, literal))),
            (Value::Object(members), Literal::Text(name)) => Some(members.contains_key(name)),
            (Value::Object(_), Literal::Bool(_) | Literal::Int(_) | Literal::Double(_)) => Some(false),
            (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_), _) => None,
        },
        Expression::Text(path, test, text) => {
            let value = find(&path.0, document)?.as_str()?;
            Some(match test {
                TextTest::StartsWith => value.starts_with(text),
                TextTest::EndsWith => value.ends_with(text),
                TextTest::Contains => value.contains(text),
                TextTest::Matches => is_match(text, value),
            })
        }
        Expression::Not(inner) => evaluate(inner, document).map(|value| !value),
        Expression::And(members) => all(members, document),
        Expression::Or(members) => {
            let negated: Vec<Expression> =
                members.iter().map(|member| Expression::Not(Box::new(member.clone()))).collect();
            all(&negated, document).map(|value| !value)
        }
    }
}

/// False if one is false, whatever the others; else none if one has no meaning.
fn all(members: &[Expression], document: &Value) -> Option<bool> {
    let values: Vec<Option<bool>> = members.iter().map(|member| evaluate(member, document)).collect();
    if values.contains(&Some(false)) {
        return Some(false);
    }
    if values.contains(&None) { None } else { Some(true) }
}

fn find<'d>(names: &[String], document: &'d Value) -> Option<&'d Value> {
    names.iter().try_fold(document, |value, name| value.as_object()?.get(name))
}

fn is_equal(value: &Value, literal: &Literal) -> bool {
    order(value, literal) == Some(Ordering::Equal)
}

/// How a value compares with a literal of its type.
fn order(value: &Value, literal: &Literal) -> Option<Ordering> {
    match (value, literal) {
        (Value::Bool(value), Literal::Bool(literal)) => Some(value.cmp(literal)),
        (Value::String(value), Literal::Text(literal)) => Some(value.chars().cmp(literal.chars())),
        (Value::Number(value), Literal::Int(literal)) => Some(order_numbers(value, &Number::from(*literal))),
        (Value::Number(value), Literal::Double(literal)) => {
            Some(order_numbers(value, &Number::from_f64(*literal).expect("a literal is finite")))
        }
        _ => None,
    }
}

/// Compares the numbers themselves, not what is left of them when one is made the type of the other.
fn order_numbers(left: &Number, right: &Number) -> Ordering {
    let whole = |number: &Number| number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
    let double = |number: &Number| number.as_f64().expect("a number is a whole number or a double");
    match (whole(left), whole(right)) {
        (Some(left), Some(right)) => left.cmp(&right),
        (Some(left), None) => order_mixed(left, double(right)),
        (None, Some(right)) => order_mixed(right, double(left)).reverse(),
        (None, None) => double(left).partial_cmp(&double(right)).expect("JSON has no NaN"),
    }
}

fn order_mixed(whole: i128, double: f64) -> Ordering {
    // Doubles beyond 128 bits become the largest number of 128 bits, which no whole number in JSON reaches.
    let truncated = double.trunc();
    whole.cmp(&(truncated as i128)).then(truncated.partial_cmp(&double).expect("JSON has no NaN"))
}

fn is_match(pattern: &str, text: &str) -> bool {
    thread_local! {
        static PATTERNS: RefCell<HashMap<String, Regex>> = RefCell::default();
    }
    PATTERNS.with_borrow_mut(|patterns| {
        let pattern = patterns
            .entry(pattern.to_owned())
            .or_insert_with(|| Regex::new(pattern).expect("the filter was accepted with this pattern"));
        pattern.is_match(text)
    })
}
