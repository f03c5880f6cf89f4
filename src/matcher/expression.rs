//! What a filter says, as a tree: made by the parser, read by the program and by the index.
//!
//! A path is always on the left, a literal on the right; the parser turns `5 < age` into `age > 5`. Trees are bounded in
//! nodes and depth when they are parsed.

use std::fmt;

/// A condition on a document.
#[derive(Clone, Debug, PartialEq)]
pub enum Expression {
    /// `true` or `false`.
    Always(bool),
    /// `has(a.b)`: the member is there, whatever it holds.
    Has(Path),
    /// `a.b` by itself: a member that holds true or false.
    Flag(Path),
    /// `a.b == 5` and its like.
    Compare(Path, Comparison, Literal),
    /// `a.b in ["x", "y"]`.
    In(Path, Vec<Literal>),
    /// `"x" in a.b`: an element of a list, or the name of a member of an object.
    Holds(Path, Literal),
    /// `a.b.startsWith("x")` and its like.
    Text(Path, TextTest, String),
    /// `!x`
    Not(Box<Expression>),
    /// `x && y && …`; at least two.
    And(Vec<Expression>),
    /// `x || y || …`; at least two.
    Or(Vec<Expression>),
}

/// Where a value is in a document: the names of members, from the outermost; at least one. Lists are not indexed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Path(pub Vec<String>);

/// How a value is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Comparison {
    /// `==`
    Equal,
    /// `!=`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    AtMost,
    /// `>`
    Greater,
    /// `>=`
    AtLeast,
}

/// What is asked of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TextTest {
    /// `startsWith`
    StartsWith,
    /// `endsWith`
    EndsWith,
    /// `contains`
    Contains,
    /// `matches`: the text contains a match of the regular expression.
    Matches,
}

/// A value that a filter names.
#[derive(Clone, Debug, PartialEq)]
pub enum Literal {
    /// `true`, `false`
    Bool(bool),
    /// `5`: compares with whole numbers and with others by value.
    Int(i64),
    /// `5.5`; finite.
    Double(f64),
    /// `"text"`
    Text(String),
}

impl Comparison {
    /// What is true where this one is false: a comparison that is an error is neither.
    pub fn opposite(self) -> Self {
        match self {
            Self::Equal => Self::NotEqual,
            Self::NotEqual => Self::Equal,
            Self::Less => Self::AtLeast,
            Self::AtMost => Self::Greater,
            Self::Greater => Self::AtMost,
            Self::AtLeast => Self::Less,
        }
    }

    /// As it is written.
    pub fn symbol(self) -> &'static str {
        match self {
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::AtMost => "<=",
            Self::Greater => ">",
            Self::AtLeast => ">=",
        }
    }
}

impl TextTest {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::StartsWith => "startsWith",
            Self::EndsWith => "endsWith",
            Self::Contains => "contains",
            Self::Matches => "matches",
        }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.symbol())
    }
}
