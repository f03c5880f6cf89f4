//! A filter as a flat run of tests, each with a jump.
//!
//! A filter matches where it is true. Its negations are moved down to the tests, and what is left, `&&` and `||`, is
//! true or not by which of the tests are true: it no longer matters whether another one is false or an error. So a test
//! is a yes or no, and the whole is a walk: each test either goes on or jumps ahead.

use std::mem::size_of;

use super::expression::{Comparison, TextTest};
use super::fields::{Row, Value};
use super::paths::FieldId;
use super::pattern::Pattern;
use super::scalar::Scalar;

/// A compiled filter. Short ones have no memory of their own: the filters of a table stand side by side.
#[derive(Clone, Debug)]
#[repr(align(32))]
pub(super) enum Code {
    Short { length: u8, bytes: [u8; SHORT_BYTES] },
    Long(Box<LongCode>),
}

const SHORT_BYTES: usize = 30;
const _: () = assert!(size_of::<Code>() == 32);

#[derive(Clone, Debug)]
pub(super) struct LongCode {
    bytes: Box<[u8]>,
    patterns: Box<[Pattern]>,
}

/// One test of a value, and where to go on after it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step<'c> {
    pub(super) field: FieldId,
    pub(super) test: Test<'c>,
    /// The outcome that jumps; the other one goes on to the next step.
    pub(super) jumps_if: bool,
    pub(super) jump: Jump,
}

/// Where a jump goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Jump {
    /// The filter does not match.
    Reject,
    /// Over this many bytes of the steps that follow; at the end the filter matches. Never 0.
    Skip(u32),
}

/// What is asked of a value. A value that is not there passes none of them but `Constant`.
#[derive(Clone, Copy, Debug)]
pub(super) enum Test<'c> {
    Constant(bool),
    /// The object at `parent` has the field, or has it not.
    Has {
        parent: FieldId,
        expected: bool,
    },
    Compare(Comparison, Scalar<'c>),
    In {
        literals: &'c [u8],
        expected: bool,
    },
    Holds {
        element: Scalar<'c>,
        expected: bool,
    },
    Text {
        test: TextTest,
        pattern: &'c [u8],
        expected: bool,
    },
    Matches {
        pattern: u32,
        expected: bool,
    },
}

impl Code {
    pub(super) fn new(bytes: &[u8], patterns: Vec<Pattern>) -> Self {
        let mut short = [0; SHORT_BYTES];
        match short.get_mut(..bytes.len()) {
            Some(start) if patterns.is_empty() => {
                start.copy_from_slice(bytes);
                let length = u8::try_from(bytes.len()).expect("a short code is shorter than 256 bytes");
                Self::Short { length, bytes: short }
            }
            _ => Self::Long(Box::new(LongCode { bytes: bytes.into(), patterns: patterns.into() })),
        }
    }

    #[inline]
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Short { length, bytes } => &bytes[..usize::from(*length)],
            Self::Long(long) => &long.bytes,
        }
    }

    fn pattern(&self, at: u32) -> &Pattern {
        match self {
            Self::Short { .. } => panic!("a code with a pattern is a long one"),
            Self::Long(long) => &long.patterns[at as usize],
        }
    }

    /// Whether the filter is true of `row`.
    #[inline]
    pub(super) fn is_true_of(&self, row: &Row<'_>) -> bool {
        let mut reader = Reader { bytes: self.bytes() };
        while let Some(step) = reader.step() {
            if self.passes(&step, row) == step.jumps_if {
                match step.jump {
                    Jump::Reject => return false,
                    Jump::Skip(length) => reader.bytes = &reader.bytes[length as usize..],
                }
            }
        }
        true
    }

    #[inline]
    fn passes(&self, step: &Step<'_>, row: &Row<'_>) -> bool {
        let field = step.field;
        match step.test {
            Test::Constant(value) => value,
            Test::Compare(Comparison::Equal, literal) => row.scalar(field) == Some(literal),
            Test::Compare(Comparison::NotEqual, literal) => {
                row.value(field) != Value::Absent && row.scalar(field) != Some(literal)
            }
            Test::Compare(comparison, literal) => {
                let order = row.scalar(field).and_then(|value| value.order(literal));
                order.is_some_and(|order| match comparison {
                    Comparison::Less => order.is_lt(),
                    Comparison::AtMost => order.is_le(),
                    Comparison::Greater => order.is_gt(),
                    Comparison::AtLeast => order.is_ge(),
                    Comparison::Equal => order.is_eq(),
                    Comparison::NotEqual => order.is_ne(),
                })
            }
            Test::Has { parent, expected } => {
                matches!(row.value(parent), Value::Object(_)) && (row.value(field) != Value::Absent) == expected
            }
            Test::In { literals, expected } => {
                row.value(field) != Value::Absent
                    && row.scalar(field).is_some_and(|value| is_in(value, literals)) == expected
            }
            Test::Holds { element, expected } => {
                let mut holds = false;
                let is_whole = row.elements(field, |other| {
                    holds |= other == element;
                    holds
                });
                is_whole.is_some() && holds == expected
            }
            Test::Text { test, pattern, expected } => {
                row.text(field).is_some_and(|text| has(text, test, pattern) == expected)
            }
            Test::Matches { pattern, expected } => {
                let text = row.text(field).and_then(|text| std::str::from_utf8(text).ok());
                text.is_some_and(|text| self.pattern(pattern).is_match(text) == expected)
            }
        }
    }
}

fn has(text: &[u8], test: TextTest, pattern: &[u8]) -> bool {
    match test {
        TextTest::StartsWith => text.starts_with(pattern),
        TextTest::EndsWith => text.ends_with(pattern),
        TextTest::Contains => memchr::memmem::find(text, pattern).is_some(),
        TextTest::Matches => panic!("a regular expression has its own test"),
    }
}

fn is_in(value: Scalar<'_>, literals: &[u8]) -> bool {
    let mut reader = Reader { bytes: literals };
    while !reader.bytes.is_empty() {
        if reader.scalar() == value {
            return true;
        }
    }
    false
}

/// The steps of a code, read from its bytes.
#[derive(Debug)]
pub(super) struct Reader<'c> {
    pub(super) bytes: &'c [u8],
}

const CONSTANT: u8 = 0;
const HAS: u8 = 2;
const IN: u8 = 4;
const HOLDS: u8 = 6;
const MATCHES: u8 = 8;
const TEXT: u8 = 10;
const COMPARE: u8 = 16;
/// The bit of the first byte of a step that says which outcome jumps.
const JUMPS_IF: u8 = 0x80;

const TEXT_TESTS: [TextTest; 3] = [TextTest::StartsWith, TextTest::EndsWith, TextTest::Contains];
const COMPARISONS: [Comparison; 6] = [
    Comparison::Equal,
    Comparison::NotEqual,
    Comparison::Less,
    Comparison::AtMost,
    Comparison::Greater,
    Comparison::AtLeast,
];

const SCALAR_TEXT: u8 = 2;
const SCALAR_INT: u8 = 3;
const SCALAR_LARGE: u8 = 4;
const SCALAR_DOUBLE: u8 = 5;

impl<'c> Reader<'c> {
    #[inline]
    pub(super) fn step(&mut self) -> Option<Step<'c>> {
        if self.bytes.is_empty() {
            return None;
        }
        let first = self.byte();
        let jump = match self.number() {
            0 => Jump::Reject,
            length => Jump::Skip(length as u32),
        };
        let field = self.number() as u32;
        let kind = first & !JUMPS_IF;
        let expected = kind & 1 == 1;
        let test = match kind {
            COMPARE.. => Test::Compare(COMPARISONS[usize::from(kind - COMPARE)], self.scalar()),
            TEXT.. => {
                let test = TEXT_TESTS[usize::from((kind - TEXT) / 2)];
                Test::Text { test, pattern: self.run(), expected }
            }
            MATCHES.. => Test::Matches { pattern: self.number() as u32, expected },
            HOLDS.. => Test::Holds { element: self.scalar(), expected },
            IN.. => Test::In { literals: self.run(), expected },
            HAS.. => Test::Has { parent: self.number() as u32, expected },
            CONSTANT.. => Test::Constant(expected),
        };
        Some(Step { field, test, jumps_if: first & JUMPS_IF != 0, jump })
    }

    #[inline]
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.bytes.split_first().expect("a code ends with a whole step");
        self.bytes = rest;
        *first
    }

    #[inline]
    fn number(&mut self) -> u64 {
        let mut number = 0;
        let mut shift = 0;
        loop {
            let byte = self.byte();
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return number;
            }
            shift += 7;
        }
    }

    #[inline]
    fn take(&mut self, length: usize) -> &'c [u8] {
        let (run, rest) = self.bytes.split_at(length);
        self.bytes = rest;
        run
    }

    #[inline]
    fn run(&mut self) -> &'c [u8] {
        let length = self.number() as usize;
        self.take(length)
    }

    #[inline]
    fn scalar(&mut self) -> Scalar<'c> {
        match self.byte() {
            SCALAR_TEXT => Scalar::Text(self.run()),
            SCALAR_INT => {
                let folded = self.number();
                Scalar::Int((folded >> 1) as i64 ^ -((folded & 1) as i64))
            }
            SCALAR_LARGE => Scalar::Large(self.number()),
            SCALAR_DOUBLE => {
                let bytes = self.take(size_of::<u64>()).try_into().expect("eight bytes were taken");
                Scalar::Double(f64::from_bits(u64::from_le_bytes(bytes)))
            }
            truth => Scalar::Bool(truth == 1),
        }
    }
}

impl Step<'_> {
    /// Appends the bytes that [`Reader::step`] reads.
    pub(super) fn write(&self, bytes: &mut Vec<u8>) {
        let kind = match self.test {
            Test::Constant(expected) => CONSTANT + u8::from(expected),
            Test::Has { expected, .. } => HAS + u8::from(expected),
            Test::In { expected, .. } => IN + u8::from(expected),
            Test::Holds { expected, .. } => HOLDS + u8::from(expected),
            Test::Matches { expected, .. } => MATCHES + u8::from(expected),
            Test::Text { test, expected, .. } => TEXT + 2 * index_of(&TEXT_TESTS, test) + u8::from(expected),
            Test::Compare(comparison, _) => COMPARE + index_of(&COMPARISONS, comparison),
        };
        bytes.push(if self.jumps_if { kind | JUMPS_IF } else { kind });
        match self.jump {
            Jump::Reject => bytes.push(0),
            Jump::Skip(length) => write_number(bytes, length.into()),
        }
        write_number(bytes, self.field.into());
        match self.test {
            Test::Constant(_) => {}
            Test::Has { parent, .. } => write_number(bytes, parent.into()),
            Test::In { literals, .. } => write_run(bytes, literals),
            Test::Holds { element, .. } => write_scalar(bytes, element),
            Test::Matches { pattern, .. } => write_number(bytes, pattern.into()),
            Test::Text { pattern, .. } => write_run(bytes, pattern),
            Test::Compare(_, literal) => write_scalar(bytes, literal),
        }
    }
}

fn index_of<T: PartialEq>(all: &[T], one: T) -> u8 {
    let at = all.iter().position(|other| *other == one).expect("the list has every kind");
    u8::try_from(at).expect("the list is short")
}

fn write_number(bytes: &mut Vec<u8>, number: u64) {
    let mut rest = number;
    while rest >= 0x80 {
        bytes.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
}

fn write_run(bytes: &mut Vec<u8>, run: &[u8]) {
    write_number(bytes, run.len() as u64);
    bytes.extend_from_slice(run);
}

pub(super) fn write_scalar(bytes: &mut Vec<u8>, scalar: Scalar<'_>) {
    match scalar {
        Scalar::Bool(value) => bytes.push(value.into()),
        Scalar::Text(text) => {
            bytes.push(SCALAR_TEXT);
            write_run(bytes, text);
        }
        Scalar::Int(value) => {
            bytes.push(SCALAR_INT);
            write_number(bytes, (value << 1 ^ value >> 63) as u64);
        }
        Scalar::Large(value) => {
            bytes.push(SCALAR_LARGE);
            write_number(bytes, value);
        }
        Scalar::Double(value) => {
            bytes.push(SCALAR_DOUBLE);
            bytes.extend_from_slice(&value.to_bits().to_le_bytes());
        }
    }
}
