//! A way through JSON text that copies nothing. The text is what this program has written, so what is only skipped is
//! not checked; damaged text ends the way, and never in a panic or a loop.

/// A part of a text that is shorter than 4 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: u32,
    pub(crate) end: u32,
}

impl Span {
    fn new(start: usize, end: usize) -> Self {
        let at = |at| u32::try_from(at).expect("the scanner takes texts shorter than 4 GiB");
        Self { start: at(start), end: at(end) }
    }

    pub(crate) fn of(self, text: &[u8]) -> &[u8] {
        &text[self.start as usize..self.end as usize]
    }
}

/// A value as it stands in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Raw {
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
pub(crate) struct Quoted {
    pub(crate) span: Span,
    pub(crate) is_escaped: bool,
}

/// The place that has been reached. Every step is `None` where the text is not JSON.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scanner<'t> {
    text: &'t [u8],
    at: usize,
}

impl<'t> Scanner<'t> {
    /// At the start of `text`; `None` where it is 4 GiB or more.
    pub(crate) fn new(text: &'t [u8]) -> Option<Self> {
        u32::try_from(text.len()).ok()?;
        Some(Self { text, at: 0 })
    }

    pub(crate) fn at(&self) -> u32 {
        Span::new(self.at, self.at).end
    }

    pub(crate) fn is_at_end(&self) -> bool {
        self.at == self.text.len()
    }

    /// The next byte that is no blank.
    #[inline]
    pub(crate) fn peek(&mut self) -> Option<u8> {
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
    pub(crate) fn take(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    /// Past blanks.
    pub(crate) fn blanks(&mut self) {
        let _ = self.peek();
    }

    /// Past a text and its quotes.
    #[inline]
    pub(crate) fn quoted(&mut self) -> Option<Quoted> {
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
    pub(crate) fn value(&mut self) -> Option<Raw> {
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

/// A member of an object as it stands in the text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member<'t> {
    /// Without its quotes.
    pub(crate) name: &'t [u8],
    /// It stands for something else than it says.
    pub(crate) is_name_escaped: bool,
    pub(crate) value: &'t [u8],
}

impl Member<'_> {
    /// Whether no member of this `name` follows, if the members are in order.
    pub(crate) fn is_behind(&self, name: &str) -> bool {
        !self.is_name_escaped && self.name > name.as_bytes()
    }
}

/// The text is not that of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotAnObject;

/// The members of an object in the order of its text. Nothing follows an error.
#[derive(Clone, Debug)]
pub(crate) struct Members<'t> {
    scanner: Scanner<'t>,
    is_first: bool,
    is_over: bool,
}

impl<'t> Members<'t> {
    /// The members of the object that `text` is, and nothing else.
    pub(crate) fn of(text: &'t [u8]) -> Result<Self, NotAnObject> {
        let mut scanner = Scanner::new(text).ok_or(NotAnObject)?;
        scanner.take(b'{').ok_or(NotAnObject)?;
        Ok(Self { scanner, is_first: true, is_over: false })
    }

    /// `None` where the text is not JSON, and `Some(None)` at its end.
    fn step(&mut self) -> Option<Option<Member<'t>>> {
        if self.scanner.peek()? == b'}' {
            self.scanner.take(b'}')?;
            self.scanner.blanks();
            return self.scanner.is_at_end().then_some(None);
        }
        if !self.is_first {
            self.scanner.take(b',')?;
        }
        self.is_first = false;
        let name = self.scanner.quoted()?;
        self.scanner.take(b':')?;
        self.scanner.blanks();
        let start = self.scanner.at;
        self.scanner.value()?;
        let text = self.scanner.text;
        Some(Some(Member {
            name: name.span.of(text),
            is_name_escaped: name.is_escaped,
            value: &text[start..self.scanner.at],
        }))
    }
}

impl<'t> Iterator for Members<'t> {
    type Item = Result<Member<'t>, NotAnObject>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let step = self.step();
        self.is_over = !matches!(step, Some(Some(_)));
        step.ok_or(NotAnObject).transpose()
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
pub(crate) fn unescape(quoted: &str) -> impl Iterator<Item = Option<char>> {
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
    fn the_members_of_an_object_are_what_stands_there() {
        let members = |text: &str| -> Result<Vec<(String, bool, String)>, NotAnObject> {
            let owned = |text: &[u8]| String::from_utf8(text.to_vec()).expect("text");
            let members = Members::of(text.as_bytes())?;
            members.map(|member| member.map(|of| (owned(of.name), of.is_name_escaped, owned(of.value)))).collect()
        };
        let member = |name: &str, value: &str| (name.to_owned(), name.contains('\\'), value.to_owned());
        assert_eq!(members("{}"), Ok(Vec::new()));
        let text = r#" { "a" : [1, {"b": "}"}] ,"c\n":"\"", "":-1.50e3}"#;
        let expected = [member("a", r#"[1, {"b": "}"}]"#), member(r"c\n", r#""\"""#), member("", "-1.50e3")];
        assert_eq!(members(text), Ok(expected.to_vec()));
        let broken = ["", "[]", "{", r#"{"a"}"#, r#"{"a":}"#, r#"{"a":1,}"#, r#"{"a":1 "b":2}"#, "{}x", r#"{"a":1}}"#];
        for broken in broken {
            assert_eq!(members(broken), Err(NotAnObject), "{broken}");
        }
        let behind = |text: &'static str, name| {
            Members::of(text.as_bytes()).expect("an object").all(|of| of.is_ok_and(|of| of.is_behind(name)))
        };
        assert!(behind(r#"{"b":1}"#, "a") && !behind(r#"{"a":1}"#, "a") && !behind(r#"{"a\"z":1}"#, "aAb"));
        let mut broken = Members::of(br#"{"a":1,"#).expect("it begins well");
        assert!(broken.next().is_some_and(|member| member.is_ok()));
        assert!(broken.next().is_some_and(|member| member.is_err()) && broken.next().is_none());
    }

    #[test]
    fn escapes_are_read_as_json_defines_them() {
        assert_eq!(unescaped(r#"a\"\\\/\b\f\n\r\té\u00e9\ud83d\ude00"#).as_deref(), Some("a\"\\/\u{8}\u{c}\n\r\téé😀"));
        for broken in [r"\", r"\x", r"\u12", r"\ud800", r"\ud800\n", r"\ud800\u0041", r"\udc00"] {
            assert_eq!(unescaped(broken), None, "{broken}");
        }
    }
}
