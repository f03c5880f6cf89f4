//! Classes of characters: `[a-z_]`. Sets do not nest and brackets inside are just characters.

use super::escape::{ClassEscape, in_class};
use super::tokens::Token;
use super::{Item, Parsed, Parser, require};

impl Parser<'_> {
    /// Reads a class whose opening bracket was taken.
    pub(super) fn class(&mut self) -> Parsed<Item> {
        self.tokens.take_if('^')?;
        let mut is_first = true;
        loop {
            let token = self.tokens.expect_any()?;
            if token == Token::Plain(']') && !is_first {
                return Ok(Item::CHARACTER);
            }
            is_first = false;
            let from = self.class_member(token)?;
            if !self.tokens.take_if('-')? {
                continue;
            }
            let token = self.tokens.expect_any()?;
            if token == Token::Plain(']') {
                return Ok(Item::CHARACTER);
            }
            match (from, self.class_member(token)?) {
                (ClassEscape::Character(Some(from)), ClassEscape::Character(Some(to))) => require(from <= to)?,
                (ClassEscape::Character(_), ClassEscape::Character(_)) => {}
                (ClassEscape::Set, _) | (_, ClassEscape::Set) => require(false)?,
            }
        }
    }

    fn class_member(&mut self, token: Token) -> Parsed<ClassEscape> {
        match token {
            Token::Plain(character) => Ok(ClassEscape::Character(Some(u32::from(character)))),
            Token::Escaped(character) => in_class(&mut self.tokens, character),
        }
    }
}
