//! What stands in round brackets: groups, lookarounds, conditions, flags, comments.

use super::tokens::Token;
use super::{Item, Parsed, Parser, Stop, Width, require};

/// The flags that a pattern may set in itself.
const FLAGS: &str = "aiLmsux";

impl Parser<'_> {
    /// Reads a group whose opening bracket was taken; `None` if it is no item: a comment, or flags for the whole pattern.
    pub(super) fn group(&mut self, verbose: bool) -> Parsed<Option<Item>> {
        if !self.tokens.take_if('?')? {
            return self.capturing(None, verbose).map(Some);
        }
        let sign = self.plain()?;
        match sign {
            'P' => self.named(verbose).map(Some),
            ':' | '>' => self.content(verbose).map(Some),
            '#' => {
                while self.tokens.expect_any()? != Token::Plain(')') {}
                Ok(None)
            }
            '=' | '!' => {
                self.content(verbose)?;
                Ok(Some(Item::of_width(Width::ZERO)))
            }
            '<' => self.lookbehind(verbose).map(Some),
            '(' => self.condition(verbose).map(Some),
            '-' => self.flags(sign, verbose),
            _ if FLAGS.contains(sign) => self.flags(sign, verbose),
            _ => Err(Stop::Invalid),
        }
    }

    /// `(?P<name>…)` or `(?P=name)`.
    fn named(&mut self, verbose: bool) -> Parsed<Item> {
        if self.tokens.take_if('=')? {
            let name = self.tokens.take_until(')')?;
            let number = *self.names.get(&name).ok_or(Stop::Invalid)?;
            return self.reference(number).map(Item::of_width);
        }
        self.tokens.expect('<')?;
        let name = self.tokens.take_until('>')?;
        require(is_identifier(&name))?;
        self.capturing(Some(name), verbose)
    }

    fn capturing(&mut self, name: Option<String>, verbose: bool) -> Parsed<Item> {
        let number = self.groups.len();
        self.groups.push(None);
        if let Some(name) = name {
            require(self.names.insert(name, number).is_none())?;
        }
        let item = self.content(verbose)?;
        self.groups[number] = Some(item.width);
        Ok(item)
    }

    /// The alternatives up to the closing bracket, and that.
    fn content(&mut self, verbose: bool) -> Parsed<Item> {
        let width = self.alternatives(verbose)?;
        self.tokens.expect(')')?;
        Ok(Item::of_width(width))
    }

    /// `(?<=…)` or `(?<!…)`: what it looks for must be of one width.
    fn lookbehind(&mut self, verbose: bool) -> Parsed<Item> {
        require(matches!(self.tokens.expect_any()?, Token::Plain('=' | '!')))?;
        let outer = self.groups_before_lookbehind;
        self.groups_before_lookbehind = outer.or(Some(self.groups.len()));
        let width = self.content(verbose)?.width;
        self.groups_before_lookbehind = outer;
        require(width.min == width.max && width.max <= u64::from(u32::MAX))?;
        Ok(Item::of_width(Width::ZERO))
    }

    /// `(?(1)yes|no)` or `(?(name)yes|no)`.
    fn condition(&mut self, verbose: bool) -> Parsed<Item> {
        let name = self.tokens.take_until(')')?;
        let number = if name.chars().all(|digit| digit.is_ascii_digit()) {
            let number = name.parse().ok().filter(|number| *number > 0).ok_or(Stop::Invalid)?;
            self.highest_condition = self.highest_condition.max(number);
            number
        } else {
            *self.names.get(&name).ok_or(Stop::Invalid)?
        };
        if self.groups_before_lookbehind.is_some() {
            self.reference(number)?;
        }
        let yes = self.sequence(verbose)?;
        let no = if self.tokens.take_if('|')? { self.sequence(verbose)? } else { Width::ZERO };
        self.tokens.expect(')')?;
        Ok(Item::of_width(Width { min: yes.min.min(no.min), max: yes.max.max(no.max) }))
    }

    /// `(?i)`, or `(?i-s:…)`.
    fn flags(&mut self, first: char, verbose: bool) -> Parsed<Option<Item>> {
        let mut on = Flags::default();
        let mut sign = first;
        while on.add(sign) {
            sign = self.plain()?;
        }
        require(!(on.has('L') || on.has('a') && on.has('u')))?;
        match sign {
            ')' => self.global_flags(on, verbose).map(|()| None),
            ':' => self.content(verbose || on.has('x')).map(Some),
            '-' => {
                let mut off = Flags::default();
                sign = self.plain()?;
                while off.add(sign) {
                    sign = self.plain()?;
                }
                let may_be_off = off.0 != 0 && off.0 & on.0 == 0 && !off.has('a') && !off.has('L') && !off.has('u');
                require(sign == ':' && may_be_off)?;
                self.content((verbose || on.has('x')) && !off.has('x')).map(Some)
            }
            _ => Err(Stop::Invalid),
        }
    }

    /// Flags for the whole pattern count wherever they stand, as they did before Python 3.11.
    fn global_flags(&mut self, flags: Flags, verbose: bool) -> Parsed<()> {
        self.has_ascii_flag |= flags.has('a');
        self.has_unicode_flag |= flags.has('u');
        self.is_verbose |= flags.has('x');
        if self.is_verbose && !verbose { Err(Stop::StartAgainVerbose) } else { Ok(()) }
    }

    fn plain(&mut self) -> Parsed<char> {
        match self.tokens.expect_any()? {
            Token::Plain(character) => Ok(character),
            Token::Escaped(_) => Err(Stop::Invalid),
        }
    }
}

/// A set of [`FLAGS`], one bit for each.
#[derive(Clone, Copy, Default)]
struct Flags(u8);

impl Flags {
    /// Whether `sign` is a flag, which is then in the set.
    fn add(&mut self, sign: char) -> bool {
        self.0 |= Self::bit(sign);
        Self::bit(sign) != 0
    }

    fn has(self, sign: char) -> bool {
        self.0 & Self::bit(sign) != 0
    }

    fn bit(sign: char) -> u8 {
        FLAGS.find(sign).map_or(0, |at| 1 << at)
    }
}

fn is_identifier(name: &str) -> bool {
    let is_start = |character: char| character.is_alphabetic() || character == '_';
    name.starts_with(is_start) && name.chars().all(|character| character.is_alphanumeric() || character == '_')
}
