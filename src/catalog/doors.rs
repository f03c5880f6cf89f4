//! For tests that give the tables any text: what is read here as Python reads it.

use super::python_format::{self, Variable};
use super::python_regex;

/// Whether Python compiles the pattern.
pub fn is_pattern(text: &str) -> bool {
    python_regex::check(text).is_ok()
}

/// Whether Python fills the text in, which may name the text `DATE` and the numbers `COUNT` and `TIME`.
pub fn is_format(text: &str) -> bool {
    let variables =
        [("DATE", Variable::Text), ("COUNT", Variable::Integer(1)), ("TIME", Variable::Integer(406_696_440))];
    python_format::check(text, &variables).is_ok()
}

/// The text filled in, which may name the text `DATE`; `None` where it is no format.
pub fn filled_in(text: &str, date: &str) -> Option<String> {
    python_format::expand(text, "DATE", date).ok()
}
