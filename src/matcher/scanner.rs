//! A way through JSON text that copies nothing. The text is what this program has written, so what is only skipped is
//! not checked; damaged text ends the way, and never in a panic or a loop.

/// A part of a text that is shorter than 4 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: u32,
    pub(super) end: u32,
}

impl Span {
    fn new(start: usize, end: usize) -> Self {
        let at = |at| u32::try_from(at).expect("the scanner takes texts shorter than 4 GiB");
        Self { start: at(start), end: at(end) }
    }

    pub(super) fn of(self, text: &[u8]) -> &[u8] {
        &text[self.start as usize..self.end as usize]
    }
}

/// A value as it stands in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Raw {
    Null,
    Bool(bool),
    Number(Span),
    Text(Quoted),
    /// With its brackets.
    List(Span),
    /// With its braces.
    Object(Span),
}

/// What stands between two quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Quoted {
    pub(super) span: Span,
    pub(super) is_escaped: bool,
}

/// The place that has been reached. Every step is `None` where the text is not JSON.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scanner<'t> {
    text: &'t [u8],
    at: usize,
}

impl<'t> Scanner<'t> {
    /// At the start of `text`; `None` where it is 4 GiB or more.
    pub(super) fn new(text: &'t [u8]) -> Option<Self> {
        u32::try_from(text.len()).ok()?;
        Some(Self { text, at: 0 })
    }

    pub(super) fn at(&self) -> u32 {
        Span::new(self.at, self.at).end
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.at == self.text.len()
    }

    /// The next byte that is no blank.
    #[inline]
    pub(super) fn peek(&mut self) -> Option<u8> {
        loop {
            let byte = *self.text.get(self.at)?;
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(byte);
            }
            self.at += 1;
        }
    }

    /// Past `byte`, which must come next.
    #[inline]
    pub(super) fn take(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    /// Past blanks.
    pub(super) fn blanks(&mut self) {
        let _ = self.peek();
    }

    /// Past a text and its quotes.
    #[inline]
    pub(super) fn quoted(&mut self) -> Option<Quoted> {
        self.take(b'"')?;
        let start = self.at;
        let mut is_escaped = false;
        loop {
            let special = special(&self.text[self.at..])?;
            self.at += special + 1;
            if self.text[self.at - 1] == b'"' {
                return Some(Quoted { span: Span::new(start, self.at - 1), is_escaped });
            }
            is_escaped = true;
            self.at += 1;
            if self.at > self.text.len() {
                return None;
            }
        }
    }

    /// Past a value of any kind.
    #[inline]
    pub(super) fn value(&mut self) -> Option<Raw> {
        match self.peek()? {
            b'"' => self.quoted().map(Raw::Text),
            b'{' => self.container().map(Raw::Object),
            b'[' => self.container().map(Raw::List),
            b't' => self.word(b"true").map(|()| Raw::Bool(true)),
            b'f' => self.word(b"false").map(|()| Raw::Bool(false)),
            b'n' => self.word(b"null").map(|()| Raw::Null),
            b'-' | b'0'..=b'9' => {
                let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'.' | b'-' | b'+' | b'e' | b'E');
                let start = self.at;
                let rest = &self.text[start..];
                self.at += rest.iter().position(|byte| !is_part(byte)).unwrap_or(rest.len());
                Some(Raw::Number(Span::new(start, self.at)))
            }
            _ => None,
        }
    }

    fn word(&mut self, word: &[u8]) -> Option<()> {
        self.text[self.at..].starts_with(word).then(|| self.at += word.len())
    }

    /// Past a list or an object, however deep.
    fn container(&mut self) -> Option<Span> {
        let start = self.at;
        let mut depth = 0_usize;
        loop {
            match *self.text.get(self.at)? {
                b'"' => {
                    self.quoted()?;
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                return Some(Span::new(start, self.at));
            }
        }
    }
}

/// Where the first quote or backslash is. Eight bytes are looked at together: most texts are short, but not that short.
#[inline]
fn special(text: &[u8]) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = ONES << 7;
    let mut at = 0;
    while let Some(chunk) = text.get(at..at + 8) {
        let word = u64::from_le_bytes(chunk.try_into().expect("eight bytes were taken"));
        // A byte that is zero borrows; those below the first one that does are told right.
        let zeros = |word: u64| word.wrapping_sub(ONES) & !word & HIGHS;
        let found = zeros(word ^ (ONES * b'"' as u64)) | zeros(word ^ (ONES * b'\\' as u64));
        if found != 0 {
            return Some(at + found.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    let rest = text[at..].iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
    Some(at + rest)
}

/// The bytes that the text between two quotes stands for; `None` among them where it is not JSON.
pub(super) fn unescape(quoted: &str) -> impl Iterator<Item = Option<char>> {
    let mut characters = quoted.chars();
    std::iter::from_fn(move || match characters.next()? {
        '\\' => Some(escape(&mut characters)),
        character => Some(Some(character)),
    })
}

fn escape(characters: &mut std::str::Chars<'_>) -> Option<char> {
    Some(match characters.next()? {
        character @ ('"' | '\\' | '/') => character,
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'u' => {
            let high = hexadecimal(characters)?;
            if !(0xd800..0xdc00).contains(&high) {
                return char::from_u32(high);
            }
            if characters.next()? != '\\' || characters.next()? != 'u' {
                return None;
            }
            let low = hexadecimal(characters)?.checked_sub(0xdc00).filter(|low| *low < 0x400)?;
            char::from_u32(0x1_0000 + ((high - 0xd800) << 10) + low)?
        }
        _ => return None,
    })
}

fn hexadecimal(characters: &mut std::str::Chars<'_>) -> Option<u32> {
    (0..4).try_fold(0, |value, _| Some(value << 4 | characters.next()?.to_digit(16)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unescaped(quoted: &str) -> Option<String> {
        unescape(quoted).collect()
    }

    #[test]
    fn a_value_ends_where_it_ends() {
        for value in ["null", "true", "-1.5e+3", r#""a\"b""#, r#"[1,"]",{}]"#, r#"{"a":{"}":[]}}"#, r#""\\""#] {
            let text = format!("{value},1");
            let mut scanner = Scanner::new(text.as_bytes()).expect("short");
            assert!(scanner.value().is_some(), "{value}");
            assert_eq!(scanner.at() as usize, value.len(), "{value}");
        }
        for broken in ["", "nul", "\"a", "\"a\\", "\"\\\"", "[", "{\"a", "]", "+", "[[[", "{\"\\"] {
            assert_eq!(Scanner::new(broken.as_bytes()).expect("short").value(), None, "{broken}");
        }
    }

    #[test]
    fn escapes_are_read_as_json_defines_them() {
        assert_eq!(unescaped(r#"a\"\\\/\b\f\n\r\té\u00e9\ud83d\ude00"#).as_deref(), Some("a\"\\/\u{8}\u{c}\n\r\téé😀"));
        for broken in [r"\", r"\x", r"\u12", r"\ud800", r"\ud800\n", r"\ud800\u0041", r"\udc00"] {
            assert_eq!(unescaped(broken), None, "{broken}");
        }
    }
}
