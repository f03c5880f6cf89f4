//! What a backslash and a character stand for.

use super::tokens::Tokens;
use super::{Item, Parsed, Parser, Stop, require};

/// What an escape in a class of characters stands for.
pub(super) enum ClassEscape {
    /// One character; `None` where only Python's table of names knows which.
    Character(Option<u32>),
    /// A set of characters, such as the digits.
    Set,
}

impl Parser<'_> {
    /// An escape outside of a class.
    pub(super) fn escape(&mut self, character: char) -> Parsed<Item> {
        match character {
            'A' | 'b' | 'B' | 'Z' => Ok(Item::PLACE),
            '0' => octal(&mut self.tokens, 0).map(|_| Item::CHARACTER),
            '1'..='9' => self.octal_or_reference(character),
            _ => in_class(&mut self.tokens, character).map(|_| Item::CHARACTER),
        }
    }

    /// Three octal digits are a character, anything else is the number of a group.
    fn octal_or_reference(&mut self, first: char) -> Parsed<Item> {
        let mut number = first.to_digit(10).ok_or(Stop::Invalid)?;
        if let Some(second) = self.tokens.take_digit(10)? {
            let are_octal = number < 8 && second < 8;
            if are_octal && let Some(third) = self.tokens.take_digit(8)? {
                require(number * 64 + second * 8 + third <= 0o377)?;
                return Ok(Item::CHARACTER);
            }
            number = number * 10 + second;
        }
        self.reference(number as usize).map(Item::of_width)
    }
}

/// An escape inside of a class.
pub(super) fn in_class(tokens: &mut Tokens<'_>, character: char) -> Parsed<ClassEscape> {
    let code = match character {
        'd' | 'D' | 's' | 'S' | 'w' | 'W' => return Ok(ClassEscape::Set),
        'a' => 0x07,
        'b' => 0x08,
        'f' => 0x0c,
        'n' => 0x0a,
        'r' => 0x0d,
        't' => 0x09,
        'v' => 0x0b,
        'x' => hexadecimal(tokens, 2)?,
        'u' => hexadecimal(tokens, 4)?,
        'U' => hexadecimal(tokens, 8)?,
        'N' => return name(tokens).map(|()| ClassEscape::Character(None)),
        '0'..='7' => octal(tokens, character.to_digit(8).ok_or(Stop::Invalid)?)?,
        _ if character.is_ascii_alphanumeric() => return Err(Stop::Invalid),
        _ => u32::from(character),
    };
    Ok(ClassEscape::Character(Some(code)))
}

fn hexadecimal(tokens: &mut Tokens<'_>, digits: usize) -> Parsed<u32> {
    let mut code = 0_u64;
    for _ in 0..digits {
        let digit = tokens.take_digit(16)?.ok_or(Stop::Invalid)?;
        code = code * 16 + u64::from(digit);
    }
    u32::try_from(code).ok().filter(|code| *code <= u32::from(char::MAX)).ok_or(Stop::Invalid)
}

/// Up to two more octal digits.
fn octal(tokens: &mut Tokens<'_>, first: u32) -> Parsed<u32> {
    let mut code = first;
    for _ in 0..2 {
        let Some(digit) = tokens.take_digit(8)? else { break };
        code = code * 8 + digit;
    }
    require(code <= 0o377)?;
    Ok(code)
}

/// A character by its name. Which names there are depends on the version of Python, so only their form is checked.
fn name(tokens: &mut Tokens<'_>) -> Parsed<()> {
    tokens.expect('{')?;
    let name = tokens.take_until('}')?;
    require(name.chars().all(|character| character.is_ascii_alphanumeric() || matches!(character, ' ' | '-')))
}
