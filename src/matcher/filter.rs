//! A filter: read, checked, brought into its canonical form and priced.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::access::access;
use super::canonical;
use super::error::FilterError;
use super::expression::{Expression, Literal, Path, TextTest};
use super::parser::{self, DEPTH_MAX};
use super::pattern::Patterns;
use super::program::Program;
use crate::change::Document;

/// What a filter may be. The number of its conditions and how deep they are nested are bounded for all alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilterLimits {
    /// The longest text, in bytes.
    pub text_bytes: usize,
    /// The highest [`Cost`].
    pub cost_max: u64,
}

impl Default for FilterLimits {
    fn default() -> Self {
        Self { text_bytes: 1024, cost_max: 2_000_000 }
    }
}

impl FilterLimits {
    /// How many times as long as a filter's text its canonical form may be: `1e18` becomes nineteen digits, a control
    /// character four.
    const CANONICAL_GROWTH_MAX: usize = 5;

    /// Limits that the canonical form of every filter within these keeps.
    pub fn for_canonical(&self) -> Self {
        Self { text_bytes: self.text_bytes.saturating_mul(Self::CANONICAL_GROWTH_MAX), ..*self }
    }
}

/// An upper bound of what it costs to evaluate a filter once, whatever it holds for, on a document of 1 MiB.
///
/// The unit is a simple comparison, such as `a == 5`: about 100 ns, most of it for finding the member. So
///
/// - a condition costs one for each name of its path, `in` one more for each of its values, and every 64 bytes of a text
///   in it one more;
/// - what may have to go through all of the document costs more: `contains` [`SCAN`](Self::SCAN), `matches`
///   [`MATCH`](Self::MATCH), and `x in a` [`LOOK_UP`](Self::LOOK_UP).
///
/// Nothing counts on `&&` and `||` to end early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cost(pub u64);

impl Cost {
    /// Going through a text of 1 MiB.
    pub const SCAN: u64 = 20_000;

    /// Going through a text of 1 MiB with a regular expression.
    pub const MATCH: u64 = 40_000;

    /// Comparing all elements of a list of 1 MiB, half a million of them.
    pub const LOOK_UP: u64 = 120_000;

    fn of(expression: &Expression) -> u64 {
        let text = |text: &str| text.len() as u64 / 64;
        let literal = |literal: &Literal| match literal {
            Literal::Text(value) => text(value),
            Literal::Bool(_) | Literal::Int(_) | Literal::Double(_) => 0,
        };
        let path = |Path(names): &Path| names.iter().map(|name| 1 + text(name)).sum::<u64>();
        match expression {
            Expression::Always(_) => 1,
            Expression::Has(at) | Expression::Flag(at) => path(at),
            Expression::Compare(at, _, value) => path(at) + literal(value),
            Expression::In(at, values) => path(at) + values.iter().map(|value| 1 + literal(value)).sum::<u64>(),
            Expression::Holds(at, value) => path(at) + literal(value) + Self::LOOK_UP,
            Expression::Text(at, test, value) => {
                let more = match test {
                    TextTest::StartsWith | TextTest::EndsWith => 0,
                    TextTest::Contains => Self::SCAN,
                    TextTest::Matches => Self::MATCH,
                };
                path(at) + text(value) + more
            }
            Expression::Not(inner) => Self::of(inner),
            Expression::And(members) | Expression::Or(members) => members.iter().map(Self::of).sum(),
        }
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A condition on documents that a client has written.
///
/// ```
/// use starfeed::matcher::{Filter, FilterLimits};
///
/// let filter = Filter::parse("18 <= user.age && !(user.name == 'x')", &FilterLimits::default())?;
/// assert_eq!(filter.canonical(), r#"user.age >= 18 && user.name != "x""#);
/// # Ok::<(), starfeed::matcher::FilterError>(())
/// ```
#[derive(Debug)]
pub struct Filter {
    canonical: Arc<str>,
    is_indexed: bool,
    cost: Cost,
    pattern_bytes: u32,
    /// Read again from the text when somebody needs it: of very many filters only the texts are kept.
    read: Mutex<Option<Arc<ReadFilter>>>,
}

// There are very many.
const _: () = assert!(size_of::<Filter>() <= 48);

/// A filter as it was read.
#[derive(Debug)]
pub(super) struct ReadFilter {
    pub(super) expression: Expression,
    pub(super) patterns: Patterns,
    /// Made for the first document: where a table is empty there is none.
    program: OnceLock<Program>,
}

impl ReadFilter {
    fn new(expression: Expression, patterns: Patterns) -> Arc<Self> {
        Arc::new(Self { expression, patterns, program: OnceLock::new() })
    }

    fn matches(&self, document: &Document) -> bool {
        self.program.get_or_init(|| Program::compile(&self.expression, &self.patterns)).matches(document)
    }
}

impl Filter {
    /// Reads `text`, which must be a filter within `limits`.
    pub fn parse(text: &str, limits: &FilterLimits) -> Result<Self, FilterError> {
        if text.len() > limits.text_bytes {
            let position = text.floor_char_boundary(limits.text_bytes);
            let message = format!("the filter is longer than {} bytes; use a shorter one", limits.text_bytes);
            return Err(FilterError::new(position, message));
        }
        let (expression, patterns) = parser::parse(text)?;
        let expression = canonical::normalize(expression);
        let written = canonical::write(&expression);
        if written.depth > DEPTH_MAX {
            return Err(FilterError::new(0, parser::too_deep()));
        }
        let cost = Cost(Cost::of(&expression));
        if cost.0 > limits.cost_max {
            let message = format!(
                "the filter costs {cost} on a large document, the limit is {}; use fewer or smaller matches, contains \
                 and \"x\" in a",
                limits.cost_max
            );
            return Err(FilterError::new(0, message));
        }
        let is_indexed = access(&expression, &|_| 0).is_some();
        let pattern_bytes = u32::try_from(patterns.automaton_bytes()).expect("larger patterns are refused");
        let read = Mutex::new(Some(ReadFilter::new(expression, patterns)));
        Ok(Self { canonical: written.text.into(), is_indexed, cost, pattern_bytes, read })
    }

    /// One text for all filters that trivially mean the same: it says what [`Filter::expression`] says. It may be longer
    /// than the text that was read; [`FilterLimits::for_canonical`] allows for that where it is read again.
    pub fn canonical(&self) -> &str {
        &self.canonical
    }

    /// The same text, shared.
    pub fn shared_canonical(&self) -> &Arc<str> {
        &self.canonical
    }

    /// The canonical form as a tree.
    pub fn expression(&self) -> Expression {
        self.read().expression.clone()
    }

    /// Whether `document` passes. One that is no JSON object does not, whatever the filter says.
    pub fn matches(&self, document: &Document) -> bool {
        self.read().matches(document)
    }

    /// Nobody needs more than the text for a while: the rest is forgotten, unless it would be dear to read again.
    pub fn rest(&self) {
        if self.pattern_bytes == 0 {
            self.lock().take();
        }
    }

    pub(super) fn read(&self) -> Arc<ReadFilter> {
        let mut read = self.lock();
        let read = read.get_or_insert_with(|| {
            let (expression, patterns) = parser::parse(&self.canonical).expect("a canonical text is a filter");
            ReadFilter::new(canonical::normalize(expression), patterns)
        });
        Arc::clone(read)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<ReadFilter>>> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether changes find it by an index; otherwise each is tried against it.
    pub fn is_indexed(&self) -> bool {
        self.is_indexed
    }

    /// Whether an index finds the changes that matter to it, and trying it on one does not mean to go through all of a text or a
    /// list: many may look for the same value.
    pub fn is_cheap(&self) -> bool {
        self.is_indexed && self.cost.0 < Cost::SCAN
    }

    /// The bytes of the automata of its patterns.
    pub fn pattern_bytes(&self) -> usize {
        self.pattern_bytes as usize
    }

    /// What it costs at most.
    pub fn cost(&self) -> Cost {
        self.cost
    }
}

#[cfg(test)]
mod tests;
