//! Python format strings, as the crawler fills them in: `{NAME}`, `{NAME!r}`, `{NAME:>8}`, `{{` and `}}`.
//!
//! Only variables by name are of use to a crawler, so numbers, attributes and items (`{0}`, `{A.b}`, `{A[0]}`) are refused.

/// A field wider than this, or with more digits, is refused: a few characters must not stand for megabytes.
const FIELD_WIDTH_MAX: usize = 100;

/// Braces inside of braces: a format may hold fields of its own, but those may not.
const DEPTH_MAX: usize = 2;

/// Why a format string cannot be filled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FormatError {
    /// It names a variable that there is not.
    UnknownVariable,
    /// It is no format string, or formats a variable in a way that its type does not have.
    Invalid,
}

/// What a variable holds.
#[derive(Clone, Copy, Debug)]
pub(super) enum Variable {
    Text,
    /// A number such as this one: not all of them are also a character.
    Integer(u32),
}

/// The variables of a format string, by name.
pub(super) type Variables<'a> = [(&'a str, Variable)];

/// Whether `text` can be filled in. The first error counts, read from the left.
pub(super) fn check(text: &str, variables: &Variables<'_>) -> Result<(), FormatError> {
    walk(text, variables, DEPTH_MAX, &mut |_| ())
}

/// Fills in `text`; `name`, a text, is the only variable.
pub(super) fn expand(text: &str, name: &str, value: &str) -> Result<String, FormatError> {
    let mut expanded = String::with_capacity(text.len());
    walk(text, &[(name, Variable::Text)], DEPTH_MAX, &mut |piece| match piece {
        Piece::Literal(literal) => expanded.push_str(literal),
        Piece::Field { is_quoted, layout } => {
            let value = if is_quoted { format!("'{value}'") } else { value.to_owned() };
            layout.push_padded(&value, &mut expanded);
        }
    })?;
    Ok(expanded)
}

enum Piece<'a> {
    Literal(&'a str),
    Field { is_quoted: bool, layout: Layout },
}

fn walk(
    text: &str,
    variables: &Variables<'_>,
    depth: usize,
    sink: &mut dyn FnMut(Piece<'_>),
) -> Result<(), FormatError> {
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        let (literal, from_brace) = rest.split_at(at);
        sink(Piece::Literal(literal));
        let (brace, after) = from_brace.split_at(1);
        if let Some(after) = after.strip_prefix(brace) {
            sink(Piece::Literal(brace));
            rest = after;
        } else if brace == "{" {
            let (field, after) = Field::parse(after)?;
            sink(field.piece(variables, depth)?);
            rest = after;
        } else {
            return Err(FormatError::Invalid);
        }
    }
    sink(Piece::Literal(rest));
    Ok(())
}

/// What stands between two braces.
struct Field<'a> {
    name: &'a str,
    conversion: Option<char>,
    layout: &'a str,
}

impl<'a> Field<'a> {
    /// Reads a field whose opening brace was taken; returns it and what follows the closing one.
    fn parse(text: &'a str) -> Result<(Self, &'a str), FormatError> {
        let end = name_end(text)?;
        let (name, rest) = text.split_at(end);
        let (mut delimiter, mut rest) = rest.split_at(1);
        let mut conversion = None;
        if delimiter == "!" {
            let mut chars = rest.chars();
            conversion = Some(chars.next().ok_or(FormatError::Invalid)?);
            rest = chars.as_str();
            delimiter = if rest.starts_with('}') { "}" } else { ":" };
            rest = rest.strip_prefix(delimiter).ok_or(FormatError::Invalid)?;
        }
        if delimiter == "}" {
            return Ok((Self { name, conversion, layout: "" }, rest));
        }
        let mut open = 1_usize;
        for (at, brace) in rest.match_indices(['{', '}']) {
            open = if brace == "{" { open + 1 } else { open - 1 };
            if open == 0 {
                return Ok((Self { name, conversion, layout: &rest[..at] }, &rest[at + 1..]));
            }
        }
        Err(FormatError::Invalid)
    }

    fn piece(&self, variables: &Variables<'_>, depth: usize) -> Result<Piece<'a>, FormatError> {
        let variable = self.name.split(['.', '[']).next().unwrap_or_default();
        if variable.chars().all(|digit| digit.is_ascii_digit()) {
            return Err(FormatError::Invalid);
        }
        let known = variables.iter().find(|(name, _)| *name == variable);
        let (_, held) = known.ok_or(FormatError::UnknownVariable)?;
        if variable != self.name || !matches!(self.conversion, None | Some('s' | 'r' | 'a')) {
            return Err(FormatError::Invalid);
        }
        if self.layout.contains('{') {
            // Which layout comes out depends on the values, so none is safe; but an unknown variable is that first.
            if depth > 1 {
                walk(self.layout, variables, depth - 1, &mut |_| ())?;
            }
            return Err(FormatError::Invalid);
        }
        let layout = Layout::parse(self.layout)?;
        let fits = match held {
            Variable::Integer(number) if self.conversion.is_none() => layout.fits_integer(*number),
            Variable::Integer(_) | Variable::Text => layout.fits_text(),
        };
        let is_quoted = matches!(held, Variable::Text) && matches!(self.conversion, Some('r' | 'a'));
        fits.then_some(Piece::Field { is_quoted, layout }).ok_or(FormatError::Invalid)
    }
}

/// Where the name of a field ends: before `}`, `:` or `!`, of which those in square brackets do not count.
fn name_end(text: &str) -> Result<usize, FormatError> {
    let mut in_brackets = false;
    for (at, character) in text.char_indices() {
        match character {
            ']' => in_brackets = false,
            _ if in_brackets => {}
            '[' => in_brackets = true,
            '{' => return Err(FormatError::Invalid),
            '}' | ':' | '!' => return Ok(at),
            _ => {}
        }
    }
    Err(FormatError::Invalid)
}

/// How a value is laid out: `[[fill]align][sign][#][0][width][grouping][.precision][type]`.
#[derive(Default)]
struct Layout {
    fill: Option<char>,
    align: Option<char>,
    sign: Option<char>,
    is_alternate: bool,
    width: usize,
    grouping: Option<char>,
    precision: Option<usize>,
    kind: Option<char>,
}

impl Layout {
    fn parse(text: &str) -> Result<Self, FormatError> {
        let mut layout = Self::default();
        let mut rest = text;
        let mut chars = rest.chars();
        match (chars.next(), chars.next()) {
            (Some(fill), Some(align @ ('<' | '>' | '=' | '^'))) => {
                (layout.fill, layout.align) = (Some(fill), Some(align));
                rest = chars.as_str();
            }
            _ => layout.align = take(&mut rest, "<>=^"),
        }
        layout.sign = take(&mut rest, " +-");
        layout.is_alternate = take(&mut rest, "#").is_some();
        if layout.fill.is_none() && take(&mut rest, "0").is_some() {
            layout.fill = Some('0');
        }
        layout.width = take_number(&mut rest)?.unwrap_or_default();
        layout.grouping = take(&mut rest, ",_");
        if take(&mut rest, ".").is_some() {
            layout.precision = Some(take_number(&mut rest)?.ok_or(FormatError::Invalid)?);
        }
        let mut chars = rest.chars();
        layout.kind = chars.next();
        if !chars.as_str().is_empty() {
            return Err(FormatError::Invalid);
        }
        Ok(layout)
    }

    fn fits_text(&self) -> bool {
        let has_number_parts = self.sign.is_some() || self.is_alternate || self.grouping.is_some();
        !has_number_parts && self.align != Some('=') && matches!(self.kind, None | Some('s'))
    }

    fn fits_integer(&self, number: u32) -> bool {
        match self.kind {
            None | Some('d') => self.precision.is_none(),
            Some('b' | 'o' | 'x' | 'X') => self.precision.is_none() && self.grouping != Some(','),
            Some('n') => self.precision.is_none() && self.grouping.is_none(),
            Some('c') => {
                let has_number_parts = self.sign.is_some() || self.is_alternate || self.grouping.is_some();
                self.precision.is_none() && !has_number_parts && number <= u32::from(char::MAX)
            }
            Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%') => true,
            Some(_) => false,
        }
    }

    /// Writes a text as this says.
    fn push_padded(&self, text: &str, target: &mut String) {
        let shown: String = text.chars().take(self.precision.unwrap_or(usize::MAX)).collect();
        let padding = self.width.saturating_sub(shown.chars().count());
        let before = match self.align {
            Some('>') => padding,
            Some('^') => padding / 2,
            _ => 0,
        };
        let fill = self.fill.unwrap_or(' ');
        target.extend(std::iter::repeat_n(fill, before));
        target.push_str(&shown);
        target.extend(std::iter::repeat_n(fill, padding - before));
    }
}

/// Takes the next character off `rest` if it is one of `wanted`.
fn take(rest: &mut &str, wanted: &str) -> Option<char> {
    let mut chars = rest.chars();
    let character = chars.next().filter(|character| wanted.contains(*character))?;
    *rest = chars.as_str();
    Some(character)
}

/// Takes a number off `rest`, if there is one.
fn take_number(rest: &mut &str) -> Result<Option<usize>, FormatError> {
    let end = rest.find(|digit: char| !digit.is_ascii_digit()).unwrap_or(rest.len());
    let (digits, after) = rest.split_at(end);
    *rest = after;
    if digits.is_empty() {
        return Ok(None);
    }
    let number = digits.parse().ok().filter(|number| *number <= FIELD_WIDTH_MAX);
    number.map(Some).ok_or(FormatError::Invalid)
}

#[cfg(test)]
mod tests {
    use super::FormatError::{Invalid, UnknownVariable};
    use super::*;

    const VARIABLES: &Variables<'_> =
        &[("COUNT", Variable::Integer(1)), ("TIME", Variable::Integer(406_696_440)), ("DATE", Variable::Text)];

    #[test]
    fn format_strings_are_checked_as_python_does() {
        let cases: [(&str, Result<(), FormatError>); _] = [
            ("", Ok(())),
            ("crawl #{COUNT}", Ok(())),
            ("{DATE} {TIME} {COUNT}", Ok(())),
            ("{{COUNT}}", Ok(())),
            ("{{{COUNT}}}", Ok(())),
            ("{COUNT:}", Ok(())),
            ("{COUNT:03d}", Ok(())),
            ("{COUNT:>+8,}", Ok(())),
            ("{COUNT:*^10_x}", Ok(())),
            ("{COUNT:.2f}", Ok(())),
            ("{COUNT:c}", Ok(())),
            ("{COUNT!s:>8}", Ok(())),
            ("{DATE:.10}", Ok(())),
            ("{DATE!r}", Ok(())),
            ("{DATE:é<30s}", Ok(())),
            ("{FOO}", Err(UnknownVariable)),
            ("{count}", Err(UnknownVariable)),
            ("{COUNT }", Err(UnknownVariable)),
            ("{ }", Err(UnknownVariable)),
            ("{FOO.bar}", Err(UnknownVariable)),
            ("{FOO!x}", Err(UnknownVariable)),
            ("{COUNT:{FOO}}", Err(UnknownVariable)),
            ("{FOO} {", Err(UnknownVariable)),
            ("{ {FOO}", Err(Invalid)),
            ("} {FOO}", Err(Invalid)),
            ("{", Err(Invalid)),
            ("}", Err(Invalid)),
            ("{COUNT", Err(Invalid)),
            ("{COUNT}}", Err(Invalid)),
            ("{}", Err(Invalid)),
            ("{0}", Err(Invalid)),
            ("{12}", Err(Invalid)),
            ("{!r}", Err(Invalid)),
            ("{COUNT!}", Err(Invalid)),
            ("{COUNT!", Err(Invalid)),
            ("{COUNT!x}", Err(Invalid)),
            ("{COUNT!ss}", Err(Invalid)),
            ("{COUNT.real}", Err(Invalid)),
            ("{COUNT[}]}", Err(Invalid)),
            ("{COUNT[", Err(Invalid)),
            ("{COUNT:s}", Err(Invalid)),
            ("{COUNT:.2}", Err(Invalid)),
            ("{COUNT:,x}", Err(Invalid)),
            ("{COUNT:,_}", Err(Invalid)),
            ("{COUNT:.}", Err(Invalid)),
            ("{COUNT:dd}", Err(Invalid)),
            ("{COUNT!s:d}", Err(Invalid)),
            ("{TIME:c}", Err(Invalid)),
            ("{DATE:%Y}", Err(Invalid)),
            ("{DATE:=20}", Err(Invalid)),
            ("{DATE:+}", Err(Invalid)),
            ("{DATE:,}", Err(Invalid)),
            ("{COUNT:{COUNT}}", Err(Invalid)),
            ("{COUNT:{COUNT:{FOO}}}", Err(Invalid)),
            ("{COUNT:101}", Err(Invalid)),
            ("{COUNT:99999999999999999999999}", Err(Invalid)),
        ];
        for (text, expected) in cases {
            assert_eq!(check(text, VARIABLES), expected, "{text}");
        }
    }

    #[test]
    fn a_text_is_filled_in() {
        let cases = [
            ("a{X}b", "avalueb"),
            ("{{{X}}}", "{value}"),
            (r"\d{{4}}{X}", r"\d{4}value"),
            ("{X!r}", "'value'"),
            ("{X:>7}|{X:*<7}|{X:^8}|{X:.2}", "  value|value**| value  |va"),
            ("{X:08}", "value000"),
        ];
        for (text, expected) in cases {
            assert_eq!(expand(text, "X", "value").as_deref(), Ok(expected), "{text}");
        }
        assert_eq!(expand(r"\d{4}", "X", "value"), Err(Invalid));
        assert_eq!(expand("{Y}", "X", "value"), Err(UnknownVariable));
    }

    #[test]
    fn hostile_texts_cost_little() {
        for text in ["{".repeat(1 << 20), "{X:{".repeat(1 << 18), "{X[".repeat(1 << 18), "{X:100}".repeat(1 << 17)] {
            let _ = expand(&text, "X", "value").map(|expanded| assert!(expanded.len() <= text.len() * 15));
        }
    }
}
