//! Filters made into programs, and one filter by itself.

use foldhash::fast::FixedState;

use super::code::{Code, Jump, Reader, Step, Test, write_scalar};
use super::expression::{Comparison, Expression, Literal, TextTest};
use super::fields::Fields;
use super::paths::{Paths, ROOT};
use super::pattern::{Pattern, Patterns};
use super::scalar::Scalar;
use crate::change::Document;

/// One filter, ready to be asked about documents, one by one.
#[derive(Debug)]
pub(super) struct Program {
    code: Code,
    paths: Paths,
}

impl Program {
    /// The program of `expression`, whose patterns are `patterns`.
    pub(super) fn compile(expression: &Expression, patterns: &Patterns) -> Self {
        let mut paths = Paths::new(FixedState::default());
        let code = compile(expression, patterns, &mut paths);
        Self { code, paths }
    }

    /// Whether `document` passes. One that is no JSON object does not, whatever the filter says.
    pub(super) fn matches(&self, document: &Document) -> bool {
        Fields::default().read(&self.paths, document).is_some_and(|row| self.code.is_true_of(&row))
    }
}

/// The code of `expression`, whose paths are acquired; [`release`] lets them go.
pub(super) fn compile(expression: &Expression, patterns: &Patterns, paths: &mut Paths) -> Code {
    let mut assembler =
        Assembler { reversed: Vec::new(), step: Vec::new(), known: patterns, patterns: Vec::new(), paths };
    assembler.condition(expression, false, Target::FromEnd(0), Target::Reject);
    assembler.reversed.reverse();
    Code::new(&assembler.reversed, assembler.patterns)
}

/// Lets go of the paths of `code`.
pub(super) fn release(code: &Code, paths: &mut Paths) {
    let mut reader = Reader { bytes: code.bytes() };
    while let Some(step) = reader.step() {
        if step.field != ROOT {
            paths.release(step.field);
        }
    }
}

/// Where an outcome leads.
#[derive(Clone, Copy, PartialEq)]
enum Target {
    Reject,
    /// So many bytes before the end; the end itself means a match.
    FromEnd(usize),
}

/// Writes the last step first: jumps only go ahead, so where they lead is known by then.
struct Assembler<'p> {
    reversed: Vec<u8>,
    step: Vec<u8>,
    known: &'p Patterns,
    patterns: Vec<Pattern>,
    paths: &'p mut Paths,
}

impl Assembler<'_> {
    /// One of the two outcomes leads to what is written already: the next step.
    fn condition(&mut self, expression: &Expression, is_negated: bool, if_true: Target, if_false: Target) {
        let parts = match expression {
            Expression::Not(inner) => return self.condition(inner, !is_negated, if_true, if_false),
            Expression::And(parts) | Expression::Or(parts) => parts,
            _ => return self.test(expression, !is_negated, if_true, if_false),
        };
        // A negated `&&` is an `||` of what is negated.
        let needs_all = matches!(expression, Expression::And(_)) != is_negated;
        let mut parts: Vec<&Expression> = parts.iter().collect();
        if parts.is_empty() {
            return self.step(ROOT, Test::Constant(needs_all), if_true, if_false);
        }
        // Order does not matter to the outcome; what is cheap may save what is not.
        parts.sort_by_cached_key(|part| cost(part));
        for (at, part) in parts.into_iter().rev().enumerate() {
            let next = Target::FromEnd(self.reversed.len());
            match (at, needs_all) {
                (0, _) => self.condition(part, is_negated, if_true, if_false),
                (_, true) => self.condition(part, is_negated, next, if_false),
                (_, false) => self.condition(part, is_negated, if_true, next),
            }
        }
    }

    fn test(&mut self, expression: &Expression, expected: bool, if_true: Target, if_false: Target) {
        match expression {
            Expression::Always(value) => self.step(ROOT, Test::Constant(*value == expected), if_true, if_false),
            Expression::Has(path) => {
                let field = self.paths.acquire(path);
                let parent = self.paths.parent(field);
                self.step(field, Test::Has { parent, expected }, if_true, if_false);
            }
            Expression::Flag(path) => {
                let field = self.paths.acquire(path);
                self.step(field, Test::Compare(Comparison::Equal, Scalar::Bool(expected)), if_true, if_false);
            }
            Expression::Compare(path, comparison, literal) => {
                let field = self.paths.acquire(path);
                let comparison = if expected { *comparison } else { comparison.opposite() };
                self.step(field, Test::Compare(comparison, Scalar::of(literal)), if_true, if_false);
            }
            Expression::In(path, literals) => {
                let field = self.paths.acquire(path);
                let mut bytes = Vec::new();
                for literal in literals {
                    write_scalar(&mut bytes, Scalar::of(literal));
                }
                self.step(field, Test::In { literals: &bytes, expected }, if_true, if_false);
            }
            Expression::Holds(path, literal) => {
                let field = self.paths.acquire(path);
                self.step(field, Test::Holds { element: Scalar::of(literal), expected }, if_true, if_false);
            }
            Expression::Text(path, TextTest::Matches, pattern) => {
                let field = self.paths.acquire(path);
                let at = u32::try_from(self.patterns.len()).expect("a filter has few patterns");
                self.patterns.push(self.known.get(pattern).expect("the parser read the patterns of a filter").clone());
                self.step(field, Test::Matches { pattern: at, expected }, if_true, if_false);
            }
            Expression::Text(path, test, pattern) => {
                let field = self.paths.acquire(path);
                let test = Test::Text { test: *test, pattern: pattern.as_bytes(), expected };
                self.step(field, test, if_true, if_false);
            }
            Expression::Not(_) | Expression::And(_) | Expression::Or(_) => panic!("what has parts is no test"),
        }
    }

    fn step(&mut self, field: u32, test: Test<'_>, if_true: Target, if_false: Target) {
        let next = self.reversed.len();
        let jumps_if = if_true != Target::FromEnd(next);
        let jump = match if jumps_if { if_true } else { if_false } {
            Target::Reject => Jump::Reject,
            Target::FromEnd(end) => Jump::Skip(u32::try_from(next - end).expect("a filter is short")),
        };
        assert!(jump != Jump::Skip(0), "both outcomes of a test lead to the next step");
        self.step.clear();
        Step { field, test, jumps_if, jump }.write(&mut self.step);
        self.reversed.extend(self.step.iter().rev());
    }
}

/// What asking once costs, about, in units of one simple comparison.
pub(super) fn cost(expression: &Expression) -> u32 {
    match expression {
        Expression::Always(_) | Expression::Has(_) | Expression::Flag(_) => 1,
        Expression::Compare(_, _, literal) => 1 + text_cost(literal),
        Expression::In(_, literals) => 1 + literals.len() as u32 / 4,
        Expression::Holds(..) => 10,
        Expression::Text(_, TextTest::StartsWith | TextTest::EndsWith, _) => 1,
        Expression::Text(_, TextTest::Contains, _) => 4,
        Expression::Text(_, TextTest::Matches, _) => 50,
        Expression::Not(inner) => cost(inner),
        Expression::And(parts) | Expression::Or(parts) => parts.iter().map(cost).sum(),
    }
}

fn text_cost(literal: &Literal) -> u32 {
    match literal {
        Literal::Text(text) => text.len() as u32 / 64,
        Literal::Bool(_) | Literal::Int(_) | Literal::Double(_) => 0,
    }
}
