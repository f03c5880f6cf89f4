//! A filter's tokens as a tree.
//!
//! It goes down into itself for parentheses only, and those are counted first: no text makes it use more than a small,
//! fixed part of the stack.

use super::error::FilterError;
use super::expression::{Comparison, Expression, Literal, Path, TextTest};
use super::lexer::{Lexer, Token, excerpt};
use super::pattern::{PatternError, Patterns};

/// Parentheses and negations inside of each other.
pub(super) const DEPTH_MAX: usize = 24;

/// Conditions, operators between conditions, and literals in lists.
pub(super) const NODES_MAX: usize = 256;

/// The name by which a filter may call the whole document.
pub(super) const ROOT: &str = "doc";

const SUPPORTED: &str = "supported are comparisons, in, has, startsWith, endsWith, contains, matches, !, && and ||";

/// What was read, before it is known whether it is a condition or one side of a comparison.
enum Operand {
    Path(Path),
    Literal(Literal),
    List(Vec<Literal>),
    Condition(Expression),
}

/// Reads all of `text`: the tree, and the patterns in it.
pub(super) fn parse(text: &str) -> Result<(Expression, Patterns), FilterError> {
    let mut lexer = Lexer::new(text);
    let (position, token) = lexer.next()?;
    let mut parser = Parser { lexer, token, position, depth: 0, nodes: 0, patterns: Patterns::default() };
    if parser.token == Token::End {
        return Err(FilterError::new(position, "the filter is empty; leave it away to get every document"));
    }
    let operand = parser.disjunction()?;
    let expression = parser.condition(operand)?;
    if parser.token != Token::End {
        return Err(parser.unexpected("an operator or the end"));
    }
    Ok((expression, parser.patterns))
}

struct Parser<'t> {
    lexer: Lexer<'t>,
    /// The next token.
    token: Token<'t>,
    /// Where the next token starts.
    position: usize,
    depth: usize,
    nodes: usize,
    patterns: Patterns,
}

/// An operand and where it starts.
type Placed = (usize, Operand);

impl<'t> Parser<'t> {
    fn advance(&mut self) -> Result<Token<'t>, FilterError> {
        let (position, token) = self.lexer.next()?;
        self.position = position;
        Ok(std::mem::replace(&mut self.token, token))
    }

    fn is_next(&self, symbol: &str) -> bool {
        matches!(self.token, Token::Symbol(next) if next == symbol)
    }

    fn take_if(&mut self, symbol: &str) -> Result<bool, FilterError> {
        let is_next = self.is_next(symbol);
        if is_next {
            self.advance()?;
        }
        Ok(is_next)
    }

    fn expect(&mut self, symbol: &str) -> Result<(), FilterError> {
        if self.take_if(symbol)? { Ok(()) } else { Err(self.unexpected(&format!("'{symbol}'"))) }
    }

    /// The next token is wrong: says what it is and what would be right.
    fn unexpected(&self, expected: &str) -> FilterError {
        let message = match &self.token {
            Token::Symbol("+" | "-" | "*" | "/" | "%") => format!("arithmetic is not supported; {SUPPORTED}"),
            Token::Symbol("?" | ":") => format!("'? :' is not supported; {SUPPORTED}"),
            Token::Symbol("{" | "}") => format!("maps are not supported; {SUPPORTED}"),
            Token::Symbol(symbol) => format!("expected {expected}, found '{symbol}'"),
            Token::Name(name) => format!("expected {expected}, found {}", excerpt(name)),
            Token::Whole(_) | Token::Double(_) => format!("expected {expected}, found a number"),
            Token::Text(_) => format!("expected {expected}, found a text"),
            Token::End => format!("expected {expected}, found the end"),
        };
        FilterError::new(self.position, message)
    }

    fn count_node(&mut self, position: usize) -> Result<(), FilterError> {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            let message =
                format!("more than {NODES_MAX} conditions, operators and list elements; use a shorter filter");
            return Err(FilterError::new(position, message));
        }
        Ok(())
    }

    fn go_deeper(&mut self, position: usize) -> Result<(), FilterError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(FilterError::new(position, too_deep()));
        }
        Ok(())
    }

    fn condition(&mut self, (position, operand): Placed) -> Result<Expression, FilterError> {
        let condition = match operand {
            Operand::Condition(condition) => return Ok(condition),
            Operand::Path(path) => Expression::Flag(path),
            Operand::Literal(Literal::Bool(value)) => Expression::Always(value),
            Operand::Literal(_) => {
                return Err(FilterError::new(position, "a value alone is no condition; compare a member with it"));
            }
            Operand::List(_) => {
                return Err(FilterError::new(position, "a list alone is no condition; write a in […]"));
            }
        };
        self.count_node(position)?;
        Ok(condition)
    }

    fn disjunction(&mut self) -> Result<Placed, FilterError> {
        self.operands("||", Self::conjunction, Expression::Or)
    }

    fn conjunction(&mut self) -> Result<Placed, FilterError> {
        self.operands("&&", Self::relation, Expression::And)
    }

    fn operands(
        &mut self,
        operator: &str,
        operand: impl Fn(&mut Self) -> Result<Placed, FilterError>,
        group: impl Fn(Vec<Expression>) -> Expression,
    ) -> Result<Placed, FilterError> {
        let first = operand(self)?;
        if !self.is_next(operator) {
            return Ok(first);
        }
        let start = first.0;
        let mut conditions = vec![self.condition(first)?];
        while self.is_next(operator) {
            self.count_node(self.position)?;
            self.advance()?;
            let next = operand(self)?;
            conditions.push(self.condition(next)?);
        }
        Ok((start, Operand::Condition(group(conditions))))
    }

    fn relation(&mut self) -> Result<Placed, FilterError> {
        let (start, left) = self.negation()?;
        let comparison = match self.token {
            Token::Symbol("==") => Some(Comparison::Equal),
            Token::Symbol("!=") => Some(Comparison::NotEqual),
            Token::Symbol("<") => Some(Comparison::Less),
            Token::Symbol("<=") => Some(Comparison::AtMost),
            Token::Symbol(">") => Some(Comparison::Greater),
            Token::Symbol(">=") => Some(Comparison::AtLeast),
            Token::Name("in") => None,
            _ => return Ok((start, left)),
        };
        self.count_node(start)?;
        self.advance()?;
        let (position, right) = self.negation()?;
        let condition = match comparison {
            Some(comparison) => compare(start, left, comparison, position, right)?,
            None => is_in(start, left, position, right)?,
        };
        if matches!(self.token, Token::Name("in") | Token::Symbol("==" | "!=" | "<" | "<=" | ">" | ">=")) {
            return Err(FilterError::new(self.position, "comparisons are not chained; join them with &&"));
        }
        Ok((start, Operand::Condition(condition)))
    }

    fn negation(&mut self) -> Result<Placed, FilterError> {
        let (start, depth) = (self.position, self.depth);
        let mut is_negated = false;
        while self.is_next("!") {
            self.go_deeper(self.position)?;
            self.advance()?;
            is_negated = !is_negated;
        }
        let (position, mut operand) = self.primary()?;
        if self.depth > depth {
            let condition = self.condition((position, operand))?;
            operand = Operand::Condition(if is_negated { Expression::Not(Box::new(condition)) } else { condition });
        }
        self.depth = depth;
        Ok((start, operand))
    }

    fn primary(&mut self) -> Result<Placed, FilterError> {
        let start = self.position;
        let operand = match self.token {
            Token::Symbol("(") => {
                self.go_deeper(start)?;
                self.advance()?;
                let (_, operand) = self.disjunction()?;
                self.expect(")")?;
                self.depth -= 1;
                operand
            }
            Token::Symbol("[") => Operand::List(self.list()?),
            Token::Name("true" | "false")
            | Token::Symbol("-")
            | Token::Whole(_)
            | Token::Double(_)
            | Token::Text(_) => Operand::Literal(self.literal()?),
            Token::Name(name) => self.named(name)?,
            Token::Symbol(_) | Token::End => return Err(self.unexpected("a condition")),
        };
        Ok((start, operand))
    }

    fn list(&mut self) -> Result<Vec<Literal>, FilterError> {
        self.expect("[")?;
        let mut literals = Vec::new();
        while !self.is_next("]") {
            self.count_node(self.position)?;
            literals.push(self.literal()?);
            if !self.take_if(",")? {
                break;
            }
        }
        self.expect("]")?;
        Ok(literals)
    }

    fn literal(&mut self) -> Result<Literal, FilterError> {
        let start = self.position;
        let is_negative = self.take_if("-")?;
        if is_negative && !matches!(self.token, Token::Whole(_) | Token::Double(_)) {
            return Err(FilterError::new(start, "'-' stands only before a number; arithmetic is not supported"));
        }
        let literal = match &self.token {
            Token::Whole(number) => {
                let number = i128::from(*number);
                let number = i64::try_from(if is_negative { -number } else { number });
                let message = "the number has more than 64 bits; write it as a double, such as 1e19";
                Literal::Int(number.map_err(|_| FilterError::new(start, message))?)
            }
            Token::Double(number) => Literal::Double(if is_negative { -number } else { *number }),
            Token::Text(text) => Literal::Text(text.clone()),
            Token::Name("true") => Literal::Bool(true),
            Token::Name("false") => Literal::Bool(false),
            Token::Name("null") => return Err(no_null(start)),
            Token::Name(_) | Token::Symbol(_) | Token::End => {
                return Err(self.unexpected("a number, a text, true or false"));
            }
        };
        self.advance()?;
        Ok(literal)
    }

    /// What starts with a name: a path, a test of one, or `has`.
    fn named(&mut self, name: &'t str) -> Result<Operand, FilterError> {
        let start = self.position;
        self.first_name(name)?;
        if !self.is_next("(") {
            return self.path_or_test(start, name);
        }
        if name != "has" {
            return Err(no_function(start, name));
        }
        self.count_node(start)?;
        self.advance()?;
        let inner = self.position;
        let Token::Name(name) = self.token else { return Err(self.unexpected("a path, as in has(a.b)")) };
        self.first_name(name)?;
        let Operand::Path(path) = self.path_or_test(inner, name)? else {
            return Err(FilterError::new(inner, "has takes a path, as in has(a.b)"));
        };
        self.expect(")")?;
        Ok(Operand::Condition(Expression::Has(path)))
    }

    /// Takes `name`, which is next and begins something.
    fn first_name(&mut self, name: &str) -> Result<(), FilterError> {
        if name == "null" {
            return Err(no_null(self.position));
        }
        if is_reserved(name) {
            let message = format!("{} is a reserved word; a member of that name is doc[\"…\"]", excerpt(name));
            return Err(FilterError::new(self.position, message));
        }
        self.advance()?;
        Ok(())
    }

    /// The rest of a path after its first name, and a test of its value if one follows.
    fn path_or_test(&mut self, start: usize, first: &str) -> Result<Operand, FilterError> {
        let mut names = if first == ROOT { Vec::new() } else { vec![first.to_owned()] };
        loop {
            if self.take_if("[")? {
                let Token::Text(name) = &mut self.token else {
                    let message =
                        "a name in quotes must follow, as in a[\"odd name\"]; lists are not indexed, use x in a";
                    return Err(FilterError::new(self.position, message));
                };
                names.push(std::mem::take(name));
                self.advance()?;
                self.expect("]")?;
            } else if self.take_if(".")? {
                let (position, token) = (self.position, self.token.clone());
                let Token::Name(name) = token else { return Err(self.unexpected("a name after the '.'")) };
                if is_keyword(name) {
                    let message = format!("{} is a keyword; write a[\"{name}\"]", excerpt(name));
                    return Err(FilterError::new(position, message));
                }
                self.advance()?;
                if self.is_next("(") {
                    return self.text_test(position, name, path(start, names)?);
                }
                names.push(name.to_owned());
            } else {
                return Ok(Operand::Path(path(start, names)?));
            }
        }
    }

    fn text_test(&mut self, position: usize, name: &str, path: Path) -> Result<Operand, FilterError> {
        let tests = [TextTest::StartsWith, TextTest::EndsWith, TextTest::Contains, TextTest::Matches];
        let Some(test) = tests.into_iter().find(|test| test.name() == name) else {
            return Err(no_function(position, name));
        };
        self.count_node(position)?;
        self.expect("(")?;
        let start = self.position;
        let Token::Text(text) = self.token.clone() else { return Err(self.unexpected("a text in quotes")) };
        self.advance()?;
        self.expect(")")?;
        if test == TextTest::Matches {
            self.patterns.add(&text).map_err(|error| no_pattern(start, error))?;
        }
        Ok(Operand::Condition(Expression::Text(path, test, text)))
    }
}

pub(super) fn too_deep() -> String {
    format!("more than {DEPTH_MAX} parentheses and negations inside of each other; use fewer")
}

fn no_null(position: usize) -> FilterError {
    FilterError::new(position, "null is no value to compare with; has(a.b) tells whether a member is there")
}

fn no_pattern(position: usize, error: PatternError) -> FilterError {
    let message = match error {
        PatternError::Invalid => "no valid regular expression; look-around and back-references do not exist",
        PatternError::TooLarge => {
            "the regular expressions are too large; repeat less, and use [a-z] or [0-9] for \\w or \\d"
        }
        PatternError::WordBoundary => "\\b and \\B must be those of ASCII; write (?-u:\\b)",
    };
    FilterError::new(position, message)
}

fn no_function(position: usize, name: &str) -> FilterError {
    FilterError::new(position, format!("no function {}; {SUPPORTED}", excerpt(name)))
}

fn path(position: usize, names: Vec<String>) -> Result<Path, FilterError> {
    if names.is_empty() {
        return Err(FilterError::new(position, "doc is the whole document; name a member of it, as in doc.a"));
    }
    Ok(Path(names))
}

fn compare(
    start: usize,
    left: Operand,
    comparison: Comparison,
    position: usize,
    right: Operand,
) -> Result<Expression, FilterError> {
    let flipped = match comparison {
        Comparison::Equal | Comparison::NotEqual => comparison,
        Comparison::Less => Comparison::Greater,
        Comparison::AtMost => Comparison::AtLeast,
        Comparison::Greater => Comparison::Less,
        Comparison::AtLeast => Comparison::AtMost,
    };
    match (left, right) {
        (Operand::Path(path), Operand::Literal(literal)) => Ok(Expression::Compare(path, comparison, literal)),
        (Operand::Literal(literal), Operand::Path(path)) => Ok(Expression::Compare(path, flipped, literal)),
        (Operand::Condition(_), _) => Err(FilterError::new(
            start,
            "a condition is not compared; put parentheses around the comparison: !(a == 1)",
        )),
        (_, Operand::Condition(_)) => Err(FilterError::new(position, "a condition is not compared; use && and ||")),
        (Operand::List(_), _) | (_, Operand::List(_)) => {
            Err(FilterError::new(start, "lists are not compared; write a in […]"))
        }
        (Operand::Path(_), Operand::Path(_)) => {
            Err(FilterError::new(position, "two members are not compared; one side is a number, text, true or false"))
        }
        (Operand::Literal(_), Operand::Literal(_)) => {
            Err(FilterError::new(start, "two values are not compared; one side is a member"))
        }
    }
}

fn is_in(start: usize, left: Operand, position: usize, right: Operand) -> Result<Expression, FilterError> {
    match (left, right) {
        (Operand::Path(path), Operand::List(literals)) => Ok(Expression::In(path, literals)),
        (Operand::Literal(literal), Operand::Path(path)) => Ok(Expression::Holds(path, literal)),
        (Operand::Condition(_), _) => {
            Err(FilterError::new(start, "a condition is not looked up; put parentheses around: !(a in […])"))
        }
        (Operand::Path(_), _) => Err(FilterError::new(position, "a list of values must follow, as in a in [1, 2]")),
        (Operand::List(_), _) => Err(FilterError::new(start, "a list is not looked up; write \"x\" in a or a in […]")),
        (Operand::Literal(_), _) => Err(FilterError::new(position, "a path must follow, as in \"x\" in a")),
    }
}

/// A word of CEL that is never a name.
pub(super) fn is_keyword(name: &str) -> bool {
    ["true", "false", "null", "in"].contains(&name)
}

/// A word that CEL keeps to itself: it is a name only after a dot.
pub(super) fn is_reserved(name: &str) -> bool {
    let words = [
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "let",
        "loop",
        "package",
        "namespace",
        "return",
        "var",
        "void",
        "while",
    ];
    is_keyword(name) || words.contains(&name)
}

#[cfg(test)]
mod tests;
