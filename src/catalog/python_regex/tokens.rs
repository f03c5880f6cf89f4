//! Characters, and pairs of a backslash and a character.

use super::{Parsed, Stop};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    Plain(char),
    /// What follows a backslash.
    Escaped(char),
}

pub(super) struct Tokens<'p> {
    pattern: &'p [char],
    position: usize,
}

impl<'p> Tokens<'p> {
    pub(super) fn new(pattern: &'p [char]) -> Self {
        Self { pattern, position: 0 }
    }

    /// The next token, which stays; `None` at the end. A backslash that ends the pattern is an error.
    pub(super) fn peek(&self) -> Parsed<Option<Token>> {
        match self.pattern.get(self.position..) {
            None | Some([]) => Ok(None),
            Some(['\\', escaped, ..]) => Ok(Some(Token::Escaped(*escaped))),
            Some(['\\']) => Err(Stop::Invalid),
            Some([character, ..]) => Ok(Some(Token::Plain(*character))),
        }
    }

    /// Takes the next token; `None` at the end.
    pub(super) fn next(&mut self) -> Parsed<Option<Token>> {
        let token = self.peek()?;
        self.position += match token {
            None => 0,
            Some(Token::Plain(_)) => 1,
            Some(Token::Escaped(_)) => 2,
        };
        Ok(token)
    }

    /// Takes the next token, which must be there.
    pub(super) fn expect_any(&mut self) -> Parsed<Token> {
        self.next()?.ok_or(Stop::Invalid)
    }

    /// Takes the next token if it is `character`.
    pub(super) fn take_if(&mut self, character: char) -> Parsed<bool> {
        let is_next = self.peek()? == Some(Token::Plain(character));
        if is_next {
            self.position += 1;
        }
        Ok(is_next)
    }

    /// Takes `character`, which must be next.
    pub(super) fn expect(&mut self, character: char) -> Parsed<()> {
        if self.take_if(character)? { Ok(()) } else { Err(Stop::Invalid) }
    }

    /// Takes a digit of base `radix`.
    pub(super) fn take_digit(&mut self, radix: u32) -> Parsed<Option<u32>> {
        let Some(Token::Plain(character)) = self.peek()? else { return Ok(None) };
        let digit = character.to_digit(radix);
        self.position += usize::from(digit.is_some());
        Ok(digit)
    }

    /// Takes a decimal number, if there is one.
    pub(super) fn take_digits(&mut self) -> Parsed<Option<u64>> {
        let mut number = None;
        while let Some(digit) = self.take_digit(10)? {
            number = Some(number.unwrap_or(0_u64).saturating_mul(10).saturating_add(u64::from(digit)));
        }
        Ok(number)
    }

    /// Takes all up to `end`, and `end`. There must be something between, and no escape.
    pub(super) fn take_until(&mut self, end: char) -> Parsed<String> {
        let mut text = String::new();
        loop {
            match self.expect_any()? {
                Token::Plain(character) if character == end => break,
                Token::Plain(character) => text.push(character),
                Token::Escaped(_) => return Err(Stop::Invalid),
            }
        }
        if text.is_empty() { Err(Stop::Invalid) } else { Ok(text) }
    }

    pub(super) fn position(&self) -> usize {
        self.position
    }

    pub(super) fn go_back_to(&mut self, position: usize) {
        self.position = position;
    }
}
