//! What filters ask of a document: read in one pass, the rest skipped.

use super::paths::{FieldId, Paths, ROOT};
use super::scalar::Scalar;
use crate::change::Document;
use crate::json::scanner::{Quoted, Raw, Scanner, Span, unescape};

/// A member's value, where it is in the document.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) enum Value {
    #[default]
    Absent,
    Null,
    Bool(bool),
    Int(i64),
    Large(u64),
    Double(f64),
    Text(Span),
    /// A text that has escapes, written out beside the document.
    Unescaped(Span),
    List(Span),
    Object(Span),
}

/// The members of one document that somebody asks for; used again for the next document.
#[derive(Debug, Default)]
pub(super) struct Fields {
    values: Vec<Value>,
    /// The places in `values` that are not absent.
    present: Vec<FieldId>,
    unescaped: String,
    name: String,
    /// The objects around the one that is read.
    around: Vec<FieldId>,
}

/// A document that was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row<'a> {
    values: &'a [Value],
    pub(super) present: &'a [FieldId],
    text: &'a [u8],
    unescaped: &'a [u8],
}

impl Fields {
    /// Reads what `paths` has; `None` where the document is no JSON object.
    ///
    /// Of members with one name, which only a damaged or foreign store has, the first one counts.
    pub(super) fn read<'a>(&'a mut self, paths: &Paths, document: &'a Document) -> Option<Row<'a>> {
        for field in self.present.drain(..) {
            self.values[field as usize] = Value::Absent;
        }
        self.unescaped.clear();
        self.around.clear();
        if self.values.len() < paths.len() {
            self.values.resize(paths.len(), Value::Absent);
        }
        let text = document.as_bytes();
        self.fill(paths, text)?;
        Some(Row { values: &self.values, present: &self.present, text, unescaped: self.unescaped.as_bytes() })
    }

    fn fill(&mut self, paths: &Paths, bytes: &[u8]) -> Option<()> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut scanner = Scanner::new(bytes)?;
        scanner.take(b'{')?;
        let mut object = ROOT;
        let mut is_first = true;
        self.set(ROOT, Value::Object(Span { start: 0, end: scanner.at() }));
        loop {
            if scanner.peek()? == b'}' {
                scanner.take(b'}')?;
                if let Value::Object(span) = &mut self.values[object as usize] {
                    span.end = scanner.at();
                }
                let Some(outer) = self.around.pop() else { break };
                object = outer;
                is_first = false;
                continue;
            }
            if !is_first {
                scanner.take(b',')?;
            }
            is_first = false;
            let name = scanner.quoted()?;
            scanner.take(b':')?;
            let field = match self.child(paths, object, text, name)? {
                Some(field) if self.values[field as usize] == Value::Absent => field,
                _ => {
                    scanner.value()?;
                    continue;
                }
            };
            if paths.has_children(field) && scanner.peek()? == b'{' {
                let start = scanner.at();
                scanner.take(b'{')?;
                self.set(field, Value::Object(Span { start, end: start }));
                self.around.push(object);
                object = field;
                is_first = true;
            } else {
                let value = self.value(text, scanner.value()?)?;
                self.set(field, value);
            }
        }
        scanner.blanks();
        scanner.is_at_end().then_some(())
    }

    #[inline]
    fn child(&mut self, paths: &Paths, object: FieldId, text: &str, name: Quoted) -> Option<Option<FieldId>> {
        if !name.is_escaped {
            return Some(paths.child(object, name.span.of(text.as_bytes())));
        }
        self.name.clear();
        for character in unescape(str_of(text, name.span)) {
            self.name.push(character?);
        }
        Some(paths.child(object, self.name.as_bytes()))
    }

    fn set(&mut self, field: FieldId, value: Value) {
        self.values[field as usize] = value;
        self.present.push(field);
    }

    fn value(&mut self, text: &str, raw: Raw) -> Option<Value> {
        Some(match raw {
            Raw::Null => Value::Null,
            Raw::Bool(value) => Value::Bool(value),
            Raw::Number(span) => match Scalar::number(str_of(text, span))? {
                Scalar::Int(value) => Value::Int(value),
                Scalar::Large(value) => Value::Large(value),
                Scalar::Double(value) => Value::Double(value),
                Scalar::Bool(_) | Scalar::Text(_) => return None,
            },
            Raw::Text(Quoted { span, is_escaped: false }) => Value::Text(span),
            Raw::Text(Quoted { span, is_escaped: true }) => {
                let start = u32::try_from(self.unescaped.len()).ok()?;
                for character in unescape(str_of(text, span)) {
                    self.unescaped.push(character?);
                }
                Value::Unescaped(Span { start, end: u32::try_from(self.unescaped.len()).ok()? })
            }
            Raw::List(span) => Value::List(span),
            Raw::Object(span) => Value::Object(span),
        })
    }
}

/// A span of a text. Spans begin and end at characters of one byte, so the text is never cut inside of one.
fn str_of(text: &str, span: Span) -> &str {
    &text[span.start as usize..span.end as usize]
}

impl<'a> Row<'a> {
    #[inline]
    pub(super) fn value(&self, field: FieldId) -> Value {
        self.values[field as usize]
    }

    #[inline]
    pub(super) fn scalar(&self, field: FieldId) -> Option<Scalar<'a>> {
        match self.value(field) {
            Value::Text(span) => Some(Scalar::Text(span.of(self.text))),
            Value::Unescaped(span) => Some(Scalar::Text(span.of(self.unescaped))),
            Value::Bool(value) => Some(Scalar::Bool(value)),
            Value::Int(value) => Some(Scalar::Int(value)),
            Value::Large(value) => Some(Scalar::Large(value)),
            Value::Double(value) => Some(Scalar::Double(value)),
            Value::Absent | Value::Null | Value::List(_) | Value::Object(_) => None,
        }
    }

    pub(super) fn text(&self, field: FieldId) -> Option<&'a [u8]> {
        match self.scalar(field)? {
            Scalar::Text(text) => Some(text),
            Scalar::Bool(_) | Scalar::Int(_) | Scalar::Large(_) | Scalar::Double(_) => None,
        }
    }

    /// Whether `field` holds the same in `other`.
    pub(super) fn is_same(&self, other: &Row<'_>, field: FieldId) -> bool {
        match (self.value(field), other.value(field)) {
            (Value::List(own), Value::List(others)) | (Value::Object(own), Value::Object(others)) => {
                own.of(self.text) == others.of(other.text)
            }
            (Value::Null, Value::Null) | (Value::Absent, Value::Absent) => true,
            _ => self.scalar(field).is_some_and(|scalar| other.scalar(field) == Some(scalar)),
        }
    }

    /// Calls `found` with what a text is asked to be `in`: the elements of the list, or the names of the members of the
    /// object, at `field`, until one call says that this is enough. `None` where there is neither, or a broken one.
    pub(super) fn elements(&self, field: FieldId, mut is_enough: impl FnMut(Scalar<'_>) -> bool) -> Option<()> {
        let (span, is_object) = match self.value(field) {
            Value::List(span) => (span, false),
            Value::Object(span) => (span, true),
            _ => return None,
        };
        let text = span.of(self.text);
        let mut scanner = Scanner::new(text)?;
        scanner.take(if is_object { b'{' } else { b'[' })?;
        let last = if is_object { b'}' } else { b']' };
        let mut unescaped = String::new();
        let mut is_first = true;
        while scanner.peek()? != last {
            if !is_first {
                scanner.take(b',')?;
            }
            is_first = false;
            let element = match is_object {
                true => Raw::Text(scanner.quoted()?),
                false => scanner.value()?,
            };
            if is_object {
                scanner.take(b':')?;
                scanner.value()?;
            }
            if element_of(text, element, &mut unescaped)?.is_some_and(&mut is_enough) {
                break;
            }
        }
        Some(())
    }
}

/// What is compared of an element; `Some(None)` where nothing equals it.
fn element_of<'a>(text: &'a [u8], raw: Raw, unescaped: &'a mut String) -> Option<Option<Scalar<'a>>> {
    let str_at = |span: Span| std::str::from_utf8(span.of(text)).ok();
    Some(match raw {
        Raw::Bool(value) => Some(Scalar::Bool(value)),
        Raw::Number(span) => Some(Scalar::number(str_at(span)?)?),
        Raw::Text(Quoted { span, is_escaped: false }) => Some(Scalar::Text(span.of(text))),
        Raw::Text(Quoted { span, is_escaped: true }) => {
            unescaped.clear();
            for character in unescape(str_at(span)?) {
                unescaped.push(character?);
            }
            Some(Scalar::Text(unescaped.as_bytes()))
        }
        Raw::Null | Raw::List(_) | Raw::Object(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use foldhash::fast::FixedState;

    use super::*;
    use crate::matcher::expression::Path;

    fn read(text: &[u8], path: &str) -> Option<String> {
        let mut paths = Paths::new(FixedState::with_seed(1));
        let field = paths.acquire(&Path(path.split('.').map(str::to_owned).collect()));
        let document = Document::from_stored(text.to_vec());
        let mut fields = Fields::default();
        let row = fields.read(&paths, &document)?;
        Some(match row.text(field) {
            Some(text) => String::from_utf8(text.to_vec()).expect("checked when it was read"),
            None => format!("{:?}", row.value(field)),
        })
    }

    #[test]
    fn what_is_asked_for_is_found() {
        let text = br#" { "a": {"b": {"c": "deep"}, "x": [1, "}"]} , "n\u0061me": "a\nb", "s": "\"", "z": 5.0 } "#;
        assert_eq!(read(text, "a.b.c").as_deref(), Some("deep"));
        assert_eq!(read(text, "name").as_deref(), Some("a\nb"));
        assert_eq!(read(text, "z").as_deref(), Some("Int(5)"));
        assert_eq!(read(text, "a.b.d").as_deref(), Some("Absent"));
        assert_eq!(read(text, "s.t").as_deref(), Some("Absent"));
        assert_eq!(read(br#"{"a":1,"a":2}"#, "a").as_deref(), Some("Int(1)"));
        assert_eq!(read(br#"{"a":{"b":1},"a":{"c":2}}"#, "a.c").as_deref(), Some("Absent"));
        assert_eq!(read(b"{}", "a").as_deref(), Some("Absent"));
    }

    #[test]
    fn a_damaged_document_has_no_fields() {
        let whole = br#"{"a":{"b":[1,{"x":"\u0061"}]},"c":-1.5e3,"d":"\\"}"#;
        assert!(read(whole, "a.b").is_some());
        for end in 0..whole.len() {
            assert_eq!(read(&whole[..end], "a.b"), None, "{end}");
        }
        let broken: [&[u8]; 10] = [
            b"[]",
            b"null",
            b"{\"a\":1}}",
            b"{\"a\":1,}",
            b"{,}",
            b"{\"a\" 1}",
            b"{\"a\":\"\xff\"}",
            b"{\"a\":\"\\ud800\"}",
            b"{\"a\":1-1}",
            b"{\"a\":-}",
        ];
        for text in broken {
            assert_eq!(read(text, "a"), None, "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn depth_costs_no_stack() {
        let open = |count: usize| format!("{{\"a\":{}", "[".repeat(count));
        assert_eq!(read(open(1_000_000).as_bytes(), "a"), None);
        let closed = format!("{}{}}}", open(1_000_000), "]".repeat(1_000_000));
        assert!(read(closed.as_bytes(), "a").is_some_and(|value| value.starts_with("List")));
        let objects = format!("{}{}", "{\"a\":".repeat(100_000), "}".repeat(100_000));
        assert!(read(objects.as_bytes(), "a.a.a").is_some_and(|value| value.starts_with("Object")));
    }
}
