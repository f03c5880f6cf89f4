//! Filters: conditions on documents, in a subset of the Common Expression Language (CEL); and which of very many a change
//! passes.
//!
//! A text becomes an [`Expression`] in canonical form, and that a flat program. A [`Matcher`] holds the programs of a table and
//! an index over them, so that a change is tried only against those that it may pass.

mod access;
mod canonical;
mod code;
mod error;
mod expression;
mod fields;
mod filter;
mod index;
mod lexer;
mod parser;
mod paths;
mod pattern;
mod program;
mod scalar;

pub use error::FilterError;
pub use expression::{Comparison, Expression, Literal, Path, TextTest};
pub use filter::{Cost, Filter, FilterLimits};
pub use index::{FilterId, Match, Matcher, Plan, Scratch};
