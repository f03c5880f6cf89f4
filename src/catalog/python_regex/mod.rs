//! Whether a regular expression is one to Python's `re`: the crawler compiles the patterns of a policy, this server never
//! runs them.
//!
//! It reads the grammar of Python 3.9 with what later versions added (atomic groups, possessive repeats), since a pattern
//! that the crawler accepts must not be refused. Nothing is compiled, so the time grows with the length alone; other
//! engines know another language (other classes, escapes and braces) and can be made to build huge programs.
//!
//! A pattern is a list of alternatives, each a sequence of items. Of an item only this matters: whether it may be repeated,
//! and how many characters it matches, which must be certain inside of a lookbehind.

mod class;
mod escape;
mod group;
mod tokens;

use std::collections::HashMap;

use tokens::{Token, Tokens};

/// Groups inside of groups. Python gives up at a few hundred, where it depends on who calls.
const DEPTH_MAX: usize = 100;

/// Repeats beyond this are too large.
const REPEAT_MAX: u64 = u32::MAX as u64;

/// The pattern is not valid. Which error it is helps nobody: clients are told just this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Invalid;

/// Whether Python compiles `pattern`.
pub(super) fn check(pattern: &str) -> Result<(), Invalid> {
    let characters: Vec<char> = pattern.chars().collect();
    match Parser::new(&characters, false).pattern() {
        Err(Stop::StartAgainVerbose) => match Parser::new(&characters, true).pattern() {
            Ok(()) => Ok(()),
            Err(Stop::Invalid | Stop::StartAgainVerbose) => Err(Invalid),
        },
        Err(Stop::Invalid) => Err(Invalid),
        Ok(()) => Ok(()),
    }
}

/// Why reading ends early.
enum Stop {
    Invalid,
    /// A flag inside of the pattern says that blanks and comments in all of it have no meaning.
    StartAgainVerbose,
}

type Parsed<T> = Result<T, Stop>;

/// How many characters a part matches.
#[derive(Clone, Copy)]
struct Width {
    min: u64,
    max: u64,
}

impl Width {
    const ZERO: Self = Self { min: 0, max: 0 };
    const ONE: Self = Self { min: 1, max: 1 };

    fn then(self, other: Self) -> Self {
        Self { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }

    fn or(self, other: Self) -> Self {
        Self { min: self.min.min(other.min), max: self.max.max(other.max) }
    }

    fn times(self, repeat: Repeat) -> Self {
        let max = match repeat.max {
            Some(max) => self.max.saturating_mul(max),
            None if self.max == 0 => 0,
            None => u64::MAX,
        };
        Self { min: self.min.saturating_mul(repeat.min), max }
    }
}

/// What may be repeated, and what may not.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ItemKind {
    /// A place in the text, such as its start.
    Place,
    Repeated,
    Other,
}

/// One item of a sequence.
#[derive(Clone, Copy)]
struct Item {
    kind: ItemKind,
    width: Width,
}

impl Item {
    const CHARACTER: Self = Self { kind: ItemKind::Other, width: Width::ONE };
    const PLACE: Self = Self { kind: ItemKind::Place, width: Width::ZERO };

    fn of_width(width: Width) -> Self {
        Self { kind: ItemKind::Other, width }
    }
}

#[derive(Clone, Copy)]
struct Repeat {
    min: u64,
    /// `None`: any number.
    max: Option<u64>,
}

struct Parser<'p> {
    tokens: Tokens<'p>,
    depth: usize,
    /// Whether a flag for the whole pattern asks for verbose mode.
    is_verbose: bool,
    /// The width of each group so far, the whole pattern being the first; `None` while it is open.
    groups: Vec<Option<Width>>,
    names: HashMap<String, usize>,
    /// Inside of a lookbehind: the groups that were there before it.
    groups_before_lookbehind: Option<usize>,
    /// The highest group that a condition named; it may come later.
    highest_condition: usize,
    /// The flags `a` and `u`, which exclude each other.
    has_ascii_flag: bool,
    has_unicode_flag: bool,
}

impl<'p> Parser<'p> {
    fn new(pattern: &'p [char], is_verbose: bool) -> Self {
        Self {
            tokens: Tokens::new(pattern),
            depth: 0,
            is_verbose,
            groups: vec![None],
            names: HashMap::new(),
            groups_before_lookbehind: None,
            highest_condition: 0,
            has_ascii_flag: false,
            has_unicode_flag: false,
        }
    }

    fn pattern(mut self) -> Parsed<()> {
        self.alternatives(self.is_verbose)?;
        let is_balanced = self.tokens.next()?.is_none();
        let flags_agree = !(self.has_ascii_flag && self.has_unicode_flag);
        require(is_balanced && flags_agree && self.highest_condition < self.groups.len())
    }

    /// Reads alternatives up to the end, or to the `)` that it leaves.
    fn alternatives(&mut self, verbose: bool) -> Parsed<Width> {
        let mut width = self.sequence(verbose)?;
        while self.tokens.take_if('|')? {
            width = width.or(self.sequence(verbose)?);
        }
        Ok(width)
    }

    /// Reads one alternative.
    fn sequence(&mut self, verbose: bool) -> Parsed<Width> {
        require(self.depth < DEPTH_MAX)?;
        self.depth += 1;
        let mut width = Width::ZERO;
        let mut last: Option<Item> = None;
        while let Some(token) = self.tokens.peek()? {
            if matches!(token, Token::Plain('|' | ')')) {
                break;
            }
            self.tokens.next()?;
            if verbose && self.is_skipped(token)? {
                continue;
            }
            let item = match token {
                Token::Plain(sign @ ('?' | '*' | '+' | '{')) => {
                    if let Some(repeat) = self.repeat(sign)? {
                        last = Some(self.repeated(last, repeat)?);
                        continue;
                    }
                    Item::CHARACTER
                }
                Token::Plain('(') => match self.group(verbose)? {
                    Some(item) => item,
                    None => continue,
                },
                Token::Plain('[') => self.class()?,
                Token::Plain('^' | '$') => Item::PLACE,
                Token::Plain(_) => Item::CHARACTER,
                Token::Escaped(character) => self.escape(character)?,
            };
            width = width.then(last.replace(item).map_or(Width::ZERO, |item| item.width));
        }
        self.depth -= 1;
        Ok(width.then(last.map_or(Width::ZERO, |item| item.width)))
    }

    /// Whether verbose mode passes over `token`; a comment is taken whole.
    fn is_skipped(&mut self, token: Token) -> Parsed<bool> {
        match token {
            Token::Plain(' ' | '\t' | '\n' | '\r' | '\u{b}' | '\u{c}') => Ok(true),
            Token::Plain('#') => {
                while !matches!(self.tokens.next()?, None | Some(Token::Plain('\n'))) {}
                Ok(true)
            }
            Token::Plain(_) | Token::Escaped(_) => Ok(false),
        }
    }

    /// Reads how often something is repeated; `None` if a brace is just a brace.
    fn repeat(&mut self, sign: char) -> Parsed<Option<Repeat>> {
        let repeat = match sign {
            '?' => Repeat { min: 0, max: Some(1) },
            '*' => Repeat { min: 0, max: None },
            '+' => Repeat { min: 1, max: None },
            _ => return self.counted_repeat(),
        };
        Ok(Some(repeat))
    }

    fn counted_repeat(&mut self) -> Parsed<Option<Repeat>> {
        let start = self.tokens.position();
        let min = self.tokens.take_digits()?;
        let max = if self.tokens.take_if(',')? { self.tokens.take_digits()? } else { min };
        let is_empty = self.tokens.position() == start;
        if is_empty || !self.tokens.take_if('}')? {
            self.tokens.go_back_to(start);
            return Ok(None);
        }
        let (low, high) = (min.unwrap_or(0), max.unwrap_or(REPEAT_MAX - 1));
        require(low < REPEAT_MAX && high < REPEAT_MAX && low <= high)?;
        Ok(Some(Repeat { min: low, max }))
    }

    fn repeated(&mut self, item: Option<Item>, repeat: Repeat) -> Parsed<Item> {
        let item = item.filter(|item| item.kind == ItemKind::Other).ok_or(Stop::Invalid)?;
        // Lazy or possessive.
        let _ = self.tokens.take_if('?')? || self.tokens.take_if('+')?;
        Ok(Item { kind: ItemKind::Repeated, width: item.width.times(repeat) })
    }

    /// A reference to group `number`, which must be closed, and from inside of a lookbehind also be older than that.
    fn reference(&self, number: usize) -> Parsed<Width> {
        let width = self.groups.get(number).copied().flatten().ok_or(Stop::Invalid)?;
        require(self.groups_before_lookbehind.is_none_or(|before| number < before))?;
        Ok(width)
    }
}

fn require(condition: bool) -> Parsed<()> {
    if condition { Ok(()) } else { Err(Stop::Invalid) }
}

#[cfg(test)]
mod tests;
