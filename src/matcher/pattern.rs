//! The regular expressions of `matches`.
//!
//! Each is made a complete deterministic automaton before its filter is accepted: going through a text takes one step per
//! byte then, whatever the pattern and the text. Engines that start from a smaller program fall back to following all of
//! it for every byte where a document is chosen to provoke it, which has taken thousands of nanoseconds per byte.
//! A pattern whose automaton would be large is refused.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use regex_automata::dfa::{Automaton, StartKind, dense};
use regex_automata::nfa::thompson::{self, WhichCaptures};
use regex_automata::util::syntax;
use regex_automata::{Input, MatchKind};

#[cfg(test)]
use super::expression::{Expression, TextTest};

/// The programs from which automata are made, of all patterns of a filter, in bytes: what bounds the time to read it.
const PROGRAM_BYTES_MAX: usize = 128 << 10;

/// The program of one pattern, in bytes.
const ONE_PROGRAM_BYTES_MAX: usize = 64 << 10;

/// The automata of all patterns of a filter, in bytes.
const AUTOMATON_BYTES_MAX: usize = 512 << 10;

/// What may be in use while one automaton is made, in bytes.
const WORK_BYTES_MAX: usize = 64 << 10;

/// Groups inside of groups.
const NEST_MAX: u32 = 24;

/// A pattern that `matches` does not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PatternError {
    /// It is no regular expression.
    Invalid,
    /// It, or all patterns together, are too large.
    TooLarge,
    /// It asks for the boundary of a word of any language, which no automaton of a bounded size can tell.
    WordBoundary,
}

/// A regular expression that goes through any text in time proportional to its length.
#[derive(Clone)]
pub(super) struct Pattern(Arc<dense::DFA<Vec<u32>>>);

impl Pattern {
    /// Whether `text` contains a match.
    pub(super) fn is_match(&self, text: &str) -> bool {
        self.0
            .try_search_fwd(&Input::new(text).earliest(true))
            .expect("an automaton gives up only at bytes or starts it was not made for, and it was made for all")
            .is_some()
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({} bytes)", self.0.memory_usage())
    }
}

/// The patterns of a filter by their text, bounded together.
#[derive(Clone, Debug, Default)]
pub(super) struct Patterns {
    patterns: BTreeMap<String, Pattern>,
    program_bytes: usize,
    automaton_bytes: usize,
}

impl Patterns {
    pub(super) fn automaton_bytes(&self) -> usize {
        self.automaton_bytes
    }

    pub(super) fn get(&self, pattern: &str) -> Option<&Pattern> {
        self.patterns.get(pattern)
    }

    /// Those of `expression`, which has only ones that are taken.
    #[cfg(test)]
    pub(super) fn of(expression: &Expression) -> Self {
        let mut patterns = Self::default();
        patterns.add_all(expression);
        patterns
    }

    #[cfg(test)]
    fn add_all(&mut self, expression: &Expression) {
        match expression {
            Expression::Text(_, TextTest::Matches, pattern) => self.add(pattern).expect("a pattern that is taken"),
            Expression::Not(inner) => self.add_all(inner),
            Expression::And(parts) | Expression::Or(parts) => parts.iter().for_each(|part| self.add_all(part)),
            _ => {}
        }
    }

    /// Makes the automaton of `pattern`, unless it is there.
    pub(super) fn add(&mut self, pattern: &str) -> Result<(), PatternError> {
        if self.patterns.contains_key(pattern) {
            return Ok(());
        }
        let program = thompson::Compiler::new()
            .syntax(syntax::Config::new().nest_limit(NEST_MAX))
            .configure(
                thompson::Config::new().nfa_size_limit(Some(ONE_PROGRAM_BYTES_MAX)).which_captures(WhichCaptures::None),
            )
            .build(pattern)
            .map_err(|error| match error.size_limit() {
                Some(_) => PatternError::TooLarge,
                None => PatternError::Invalid,
            })?;
        if program.look_set_any().contains_word_unicode() {
            return Err(PatternError::WordBoundary);
        }
        let automaton = dense::Builder::new()
            .configure(
                dense::Config::new()
                    .start_kind(StartKind::Unanchored)
                    .match_kind(MatchKind::All)
                    .determinize_size_limit(Some(WORK_BYTES_MAX))
                    .dfa_size_limit(Some(AUTOMATON_BYTES_MAX)),
            )
            .build_from_nfa(&program)
            .map_err(|_| PatternError::TooLarge)?;
        // The bounds of one pattern do not depend on those before it, so that the order of patterns makes no difference.
        self.program_bytes += program.memory_usage();
        self.automaton_bytes += automaton.memory_usage();
        if self.program_bytes > PROGRAM_BYTES_MAX || self.automaton_bytes > AUTOMATON_BYTES_MAX {
            return Err(PatternError::TooLarge);
        }
        self.patterns.insert(pattern.to_owned(), Pattern(Arc::new(automaton)));
        Ok(())
    }
}
