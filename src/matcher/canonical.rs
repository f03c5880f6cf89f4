//! The one form of a filter among those that trivially mean the same.
//!
//! Every step keeps the meaning for every document, also where a condition has none because a member is missing or of
//! another type. `&&`, `||` and `!` are those of Kleene's logic of three values, in which they are associative,
//! commutative and idempotent and De Morgan's laws hold. A comparison has no meaning for the same documents as its
//! opposite, since numbers that are no numbers exist neither in JSON nor in filters.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::expression::{Comparison, Expression, Literal, Path};
use super::parser::{ROOT, is_reserved};

/// `&&` or `||`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Group {
    And,
    Or,
}

/// The canonical form: negations stand only before conditions that have no opposite, groups have sorted, different
/// members of another kind, a member that may equal some values is one `in`, numbers are whole where they can be.
pub(super) fn normalize(expression: Expression) -> Expression {
    signed(expression, false)
}

/// The canonical form of `expression` or of its negation. Goes as deep as the parser did.
fn signed(expression: Expression, is_negated: bool) -> Expression {
    match expression {
        Expression::Always(value) => Expression::Always(value != is_negated),
        Expression::Not(inner) => signed(*inner, !is_negated),
        Expression::And(members) => group(if is_negated { Group::Or } else { Group::And }, members, is_negated),
        Expression::Or(members) => group(if is_negated { Group::And } else { Group::Or }, members, is_negated),
        Expression::Compare(path, comparison, value) => {
            let comparison = if is_negated { comparison.opposite() } else { comparison };
            Expression::Compare(path, comparison, literal(value))
        }
        Expression::In(path, literals) => one_of(path, literals, is_negated),
        Expression::Holds(path, value) => negated_if(is_negated, Expression::Holds(path, literal(value))),
        leaf @ (Expression::Has(_) | Expression::Flag(_) | Expression::Text(..)) => negated_if(is_negated, leaf),
    }
}

fn group(kind: Group, members: Vec<Expression>, is_negated: bool) -> Expression {
    let mut flat = Vec::new();
    for member in members {
        match (kind, signed(member, is_negated)) {
            (Group::And, Expression::And(inner)) | (Group::Or, Expression::Or(inner)) => flat.extend(inner),
            (_, Expression::Always(value)) if value == (kind == Group::And) => {}
            (_, Expression::Always(value)) => return Expression::Always(value),
            (_, other) => flat.push(other),
        }
    }
    let mut members = merge_values(kind, flat);
    members.sort_by_cached_key(|member| write(member).text);
    members.dedup();
    match members.len() {
        0 => Expression::Always(kind == Group::And),
        1 => members.remove(0),
        _ if kind == Group::And => Expression::And(members),
        _ => Expression::Or(members),
    }
}

/// Joins `a == 1 || a in [2, 3]` to `a in [1, 2, 3]`, and `a != 1 && a != 2` to `!(a in [1, 2])`.
fn merge_values(kind: Group, members: Vec<Expression>) -> Vec<Expression> {
    let is_negated = kind == Group::And;
    let mut values: BTreeMap<Path, Vec<Literal>> = BTreeMap::new();
    let mut others = Vec::new();
    for member in members {
        match (kind, member) {
            (Group::Or, Expression::Compare(path, Comparison::Equal, value))
            | (Group::And, Expression::Compare(path, Comparison::NotEqual, value)) => {
                values.entry(path).or_default().push(value);
            }
            (Group::Or, Expression::In(path, list)) => values.entry(path).or_default().extend(list),
            (Group::And, Expression::Not(inner)) => match *inner {
                Expression::In(path, list) => values.entry(path).or_default().extend(list),
                other => others.push(negated_if(true, other)),
            },
            (_, other) => others.push(other),
        }
    }
    others.extend(values.into_iter().map(|(path, list)| one_of(path, list, is_negated)));
    others
}

/// `path in literals` or its negation.
fn one_of(path: Path, literals: Vec<Literal>, is_negated: bool) -> Expression {
    let mut literals: Vec<Literal> = literals.into_iter().map(literal).collect();
    literals.sort_by(order);
    literals.dedup();
    if literals.len() != 1 {
        return negated_if(is_negated, Expression::In(path, literals));
    }
    let comparison = if is_negated { Comparison::NotEqual } else { Comparison::Equal };
    Expression::Compare(path, comparison, literals.remove(0))
}

fn negated_if(is_negated: bool, expression: Expression) -> Expression {
    if is_negated { Expression::Not(Box::new(expression)) } else { expression }
}

/// A double that is a whole number of 64 bits is one: all comparisons are by value.
fn literal(literal: Literal) -> Literal {
    match literal {
        Literal::Double(number) => whole(number).map_or(Literal::Double(number), Literal::Int),
        other => other,
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the number is whole and in range, so it is converted exactly")]
fn whole(number: f64) -> Option<i64> {
    const BOUND: f64 = 9_223_372_036_854_775_808.0;
    (number.trunc() == number && (-BOUND..BOUND).contains(&number)).then_some(number as i64)
}

/// Some order of literals; equal means equal.
fn order(left: &Literal, right: &Literal) -> std::cmp::Ordering {
    fn rank(literal: &Literal) -> u8 {
        match literal {
            Literal::Bool(_) => 0,
            Literal::Int(_) => 1,
            Literal::Double(_) => 2,
            Literal::Text(_) => 3,
        }
    }
    match (left, right) {
        (Literal::Bool(left), Literal::Bool(right)) => left.cmp(right),
        (Literal::Int(left), Literal::Int(right)) => left.cmp(right),
        (Literal::Double(left), Literal::Double(right)) => left.total_cmp(right),
        (Literal::Text(left), Literal::Text(right)) => left.cmp(right),
        _ => rank(left).cmp(&rank(right)),
    }
}

/// An expression as text.
pub(super) struct Written {
    pub(super) text: String,
    /// Parentheses and negations inside of each other, as the parser counts them.
    pub(super) depth: usize,
}

/// Writes `expression`, which is in canonical form.
pub(super) fn write(expression: &Expression) -> Written {
    let mut writer = Writer { text: String::new(), depth: 0, depth_max: 0 };
    writer.expression(expression);
    Written { text: writer.text, depth: writer.depth_max }
}

struct Writer {
    text: String,
    depth: usize,
    depth_max: usize,
}

impl Writer {
    fn push(&mut self, text: &str) {
        self.text.push_str(text);
    }

    fn deeper(&mut self, open: &str, inner: &Expression, close: &str) {
        self.depth += open.len();
        self.depth_max = self.depth_max.max(self.depth);
        self.push(open);
        self.expression(inner);
        self.push(close);
        self.depth -= open.len();
    }

    fn expression(&mut self, expression: &Expression) {
        match expression {
            Expression::Always(value) => self.literal(&Literal::Bool(*value)),
            Expression::Has(path) => {
                self.push("has(");
                self.path(path);
                self.push(")");
            }
            Expression::Flag(path) => self.path(path),
            Expression::Compare(path, comparison, literal) => {
                self.path(path);
                self.push(" ");
                self.push(comparison.symbol());
                self.push(" ");
                self.literal(literal);
            }
            Expression::In(path, literals) => {
                self.path(path);
                self.push(" in [");
                self.separated(", ", literals, Self::literal);
                self.push("]");
            }
            Expression::Holds(path, literal) => {
                self.literal(literal);
                self.push(" in ");
                self.path(path);
            }
            Expression::Text(path, test, text) => {
                self.path(path);
                self.push(".");
                self.push(test.name());
                self.push("(");
                self.quoted(text);
                self.push(")");
            }
            Expression::Not(inner) => match **inner {
                Expression::Has(_) | Expression::Flag(_) | Expression::Text(..) => self.deeper("!", inner, ""),
                _ => self.deeper("!(", inner, ")"),
            },
            Expression::And(members) => self.separated(" && ", members, |writer, member| match member {
                Expression::Or(_) => writer.deeper("(", member, ")"),
                _ => writer.expression(member),
            }),
            Expression::Or(members) => self.separated(" || ", members, Self::expression),
        }
    }

    fn separated<T>(&mut self, separator: &str, items: &[T], write: impl Fn(&mut Self, &T)) {
        for (at, item) in items.iter().enumerate() {
            if at > 0 {
                self.push(separator);
            }
            write(self, item);
        }
    }

    fn path(&mut self, Path(names): &Path) {
        for (at, name) in names.iter().enumerate() {
            let is_plain = is_identifier(name) && !is_reserved(name);
            if at == 0 && (!is_plain || name == ROOT) {
                self.push(ROOT);
            }
            if is_plain {
                self.push(if at > 0 || name == ROOT { "." } else { "" });
                self.push(name);
            } else {
                self.push("[");
                self.quoted(name);
                self.push("]");
            }
        }
    }

    fn literal(&mut self, literal: &Literal) {
        match literal {
            Literal::Bool(value) => self.push(if *value { "true" } else { "false" }),
            Literal::Int(number) => self.push(&number.to_string()),
            // This form has a point or an exponent, and as many digits as it takes to read the same number again.
            Literal::Double(number) => self.push(&format!("{number:?}")),
            Literal::Text(text) => self.quoted(text),
        }
    }

    fn quoted(&mut self, text: &str) {
        self.push("\"");
        for character in text.chars() {
            match character {
                '"' => self.push("\\\""),
                '\\' => self.push("\\\\"),
                '\n' => self.push("\\n"),
                '\r' => self.push("\\r"),
                '\t' => self.push("\\t"),
                control if u32::from(control) < 0x20 || control == '\u{7f}' => {
                    write!(self.text, "\\x{:02x}", u32::from(control)).expect("a String takes all that is written");
                }
                other => self.text.push(other),
            }
        }
        self.push("\"");
    }
}

fn is_identifier(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && name.bytes().next().is_some_and(|byte| !byte.is_ascii_digit())
}

#[cfg(test)]
mod tests;
