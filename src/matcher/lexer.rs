//! A filter's text as tokens.

use super::error::FilterError;

/// How much of a filter's text an error may repeat, in characters.
const EXCERPT_MAX: usize = 20;

const SYMBOLS: [&str; 25] = [
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "!", "(", ")", "[", "]", "{", "}", ".", ",", "-", "+", "*", "/", "%",
    "?", ":", "=",
];

/// The smallest part of a filter that means something.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token<'t> {
    /// A name or a word of the language.
    Name(&'t str),
    /// A whole number without its sign.
    Whole(u64),
    /// Any other number without its sign; finite.
    Double(f64),
    /// A text, its escapes resolved.
    Text(String),
    /// An operator or a bracket.
    Symbol(&'static str),
    /// Nothing is left.
    End,
}

/// Reads tokens from left to right.
pub(super) struct Lexer<'t> {
    text: &'t str,
    position: usize,
}

impl<'t> Lexer<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, position: 0 }
    }

    /// The next token and where it starts.
    pub(super) fn next(&mut self) -> Result<(usize, Token<'t>), FilterError> {
        self.skip_blanks();
        let start = self.position;
        let Some(first) = self.rest().chars().next() else { return Ok((start, Token::End)) };
        let token = match first {
            '"' | '\'' => self.quoted(start, false)?,
            '0'..='9' => self.number()?,
            '.' if self.byte(1).is_some_and(|byte| byte.is_ascii_digit()) => self.number()?,
            'a'..='z' | 'A'..='Z' | '_' => self.word()?,
            _ => self.symbol(first)?,
        };
        Ok((start, token))
    }

    fn rest(&self) -> &'t str {
        &self.text[self.position..]
    }

    fn byte(&self, ahead: usize) -> Option<u8> {
        self.text.as_bytes().get(self.position + ahead).copied()
    }

    fn skip_blanks(&mut self) {
        loop {
            let rest = self.rest().trim_start_matches(['\t', ' ', '\r', '\n', '\u{c}']);
            let rest = match rest.strip_prefix("//") {
                Some(comment) => comment.find('\n').map_or("", |end| &comment[end..]),
                None => rest,
            };
            let position = self.text.len() - rest.len();
            if position == self.position {
                return;
            }
            self.position = position;
        }
    }

    fn take_while(&mut self, is_part: impl Fn(u8) -> bool) -> &'t str {
        let start = self.position;
        while self.byte(0).is_some_and(&is_part) {
            self.position += 1;
        }
        &self.text[start..self.position]
    }

    fn word(&mut self) -> Result<Token<'t>, FilterError> {
        let start = self.position;
        let word = self.take_while(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !matches!(self.byte(0), Some(b'"' | b'\'')) {
            return Ok(Token::Name(word));
        }
        match word {
            "r" | "R" => self.quoted(start, true),
            "b" | "B" | "br" | "bR" | "Br" | "BR" | "rb" | "rB" | "Rb" | "RB" => {
                Err(FilterError::new(start, "bytes are not supported; write a text without the b"))
            }
            _ => Ok(Token::Name(word)),
        }
    }

    fn symbol(&mut self, first: char) -> Result<Token<'t>, FilterError> {
        match SYMBOLS.into_iter().find(|symbol| self.rest().starts_with(symbol)) {
            Some("=") => Err(FilterError::new(self.position, "'=' means nothing; write '=='")),
            Some(symbol) => {
                self.position += symbol.len();
                Ok(Token::Symbol(symbol))
            }
            None => {
                let message = match first {
                    '&' | '|' => format!("'{first}' means nothing; write it twice"),
                    '`' => "names are not quoted with '`'; write a[\"odd name\"]".to_owned(),
                    _ => format!("{} means nothing outside of quotes", excerpt(first.encode_utf8(&mut [0; 4]))),
                };
                Err(FilterError::new(self.position, message))
            }
        }
    }

    fn number(&mut self) -> Result<Token<'t>, FilterError> {
        let start = self.position;
        let is_hex = self.rest().starts_with("0x") && self.byte(2).is_some_and(|byte| byte.is_ascii_hexdigit());
        let token = if is_hex {
            self.position += 2;
            let digits = self.take_while(|byte| byte.is_ascii_hexdigit());
            u64::from_str_radix(digits, 16).map(Token::Whole).map_err(|_| too_large(start))?
        } else {
            self.decimal(start)?
        };
        match self.byte(0) {
            Some(b'u' | b'U') => {
                Err(FilterError::new(self.position, "unsigned numbers are not supported; write it without the u"))
            }
            Some(byte) if byte.is_ascii_alphanumeric() || byte == b'_' => {
                Err(FilterError::new(self.position, "a number ends here; put a blank or an operator after it"))
            }
            _ => Ok(token),
        }
    }

    fn decimal(&mut self, start: usize) -> Result<Token<'t>, FilterError> {
        let is_digit = |byte: u8| byte.is_ascii_digit();
        self.take_while(is_digit);
        let mut is_whole = true;
        if self.byte(0) == Some(b'.') && self.byte(1).is_some_and(is_digit) {
            is_whole = false;
            self.position += 1;
            self.take_while(is_digit);
        }
        if matches!(self.byte(0), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(self.byte(1), Some(b'+' | b'-')));
            if self.byte(1 + sign).is_some_and(is_digit) {
                is_whole = false;
                self.position += 1 + sign;
                self.take_while(is_digit);
            }
        }
        let digits = &self.text[start..self.position];
        if is_whole {
            return digits.parse().map(Token::Whole).map_err(|_| too_large(start));
        }
        match digits.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Token::Double(number)),
            _ => Err(FilterError::new(start, "the number is too large for a double")),
        }
    }

    /// A text whose opening quote is next.
    fn quoted(&mut self, start: usize, is_raw: bool) -> Result<Token<'t>, FilterError> {
        let quote = char::from(self.byte(0).expect("the caller has seen a quote"));
        if self.rest().chars().take_while(|next| *next == quote).count() >= 3 {
            return Err(FilterError::new(start, "texts in triple quotes are not supported; use one quote and \\n"));
        }
        self.position += 1;
        let mut text = String::new();
        loop {
            let at = self.position;
            let next = self.rest().chars().next();
            self.position += next.map_or(0, char::len_utf8);
            match next {
                None | Some('\n' | '\r') => {
                    return Err(FilterError::new(start, "a text starts here and does not end on its line"));
                }
                Some(end) if end == quote => return Ok(Token::Text(text)),
                Some('\\') if !is_raw => text.push(self.escape(at)?),
                Some(plain) => text.push(plain),
            }
        }
    }

    /// The character that is written as an escape; the backslash at `start` has been read.
    fn escape(&mut self, start: usize) -> Result<char, FilterError> {
        let escaped = self.byte(0);
        let plain = match escaped {
            Some(b'a') => '\u{7}',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'v') => '\u{b}',
            Some(itself @ (b'"' | b'\'' | b'\\' | b'?' | b'`')) => char::from(itself),
            Some(b'x' | b'X') => return self.code_point(start, 1, 2, 16),
            Some(b'u') => return self.code_point(start, 1, 4, 16),
            Some(b'U') => return self.code_point(start, 1, 8, 16),
            Some(b'0'..=b'3') => return self.code_point(start, 0, 3, 8),
            _ => return Err(FilterError::new(start, "no such escape; write '\\\\' for a backslash, or use r\"…\"")),
        };
        self.position += 1;
        Ok(plain)
    }

    fn code_point(&mut self, start: usize, skip: usize, digits: usize, radix: u32) -> Result<char, FilterError> {
        let from = self.position + skip;
        let number = self.text.get(from..from + digits).filter(|text| !text.starts_with('+'));
        let point = number.and_then(|text| u32::from_str_radix(text, radix).ok()).and_then(char::from_u32);
        self.position = from + digits;
        point.ok_or_else(|| FilterError::new(start, format!("the escape needs {digits} digits that are a character")))
    }
}

fn too_large(position: usize) -> FilterError {
    FilterError::new(position, "the number has more than 64 bits; write it as a double, such as 1e19")
}

/// The beginning of `text`, in quotes and without control characters.
pub(super) fn excerpt(text: &str) -> String {
    let mut short: String =
        text.chars().take(EXCERPT_MAX).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(EXCERPT_MAX).is_some() {
        short.push('…');
    }
    format!("'{short}'")
}
