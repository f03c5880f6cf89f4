//! Text that others wrote, on a terminal: whoever wrote a row must not control the terminal of who looks at it.

/// Names are shown on one line; a longer text is cut.
const CHARS_MAX: usize = 2000;

/// `text` on one line and without what a terminal obeys: escape sequences, control characters, changes of direction.
pub(super) fn printable(text: &str) -> String {
    let end = text.char_indices().nth(CHARS_MAX).map_or(text.len(), |(at, _)| at);
    let mut rest = &text[..end];
    let mut printable = String::with_capacity(end);
    while let Some(char) = rest.chars().next() {
        rest = &rest[char.len_utf8()..];
        match char {
            '\u{1b}' => rest = after_escape(rest),
            '\u{9b}' => rest = after_control_sequence(rest),
            '\t' | '\n' | '\r' => printable.push(' '),
            char if is_obeyed(char) => {}
            char => printable.push(char),
        }
    }
    if end < text.len() {
        printable.push('…');
    }
    printable
}

/// The same JSON with what a terminal obeys written as `\u` escapes. In JSON such characters are only inside strings.
pub(super) fn inert_json(json: String) -> String {
    if !json.chars().any(is_obeyed_in_json) {
        return json;
    }
    let mut inert = String::with_capacity(json.len() + 16);
    for char in json.chars() {
        if is_obeyed_in_json(char) {
            for unit in char.encode_utf16(&mut [0; 2]) {
                inert.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            inert.push(char);
        }
    }
    inert
}

/// The columns that `text` takes on a terminal, as near as it can be told without asking the terminal.
pub(super) fn width(text: &str) -> usize {
    text.chars().map(char_width).sum()
}

/// As much of `text` as fits into `columns`; `…` ends a text that was cut.
pub(super) fn fit(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let Some(room) = columns.checked_sub(1) else { return String::new() };
    let mut used = 0;
    let mut fitted: String = text
        .chars()
        .take_while(|char| {
            used += char_width(*char);
            used <= room
        })
        .collect();
    fitted.push('…');
    fitted
}

/// `text` in exactly `columns`: cut or followed by spaces.
pub(super) fn cell(text: &str, columns: usize) -> String {
    let mut cell = fit(text, columns);
    cell.extend(std::iter::repeat_n(' ', columns.saturating_sub(width(&cell))));
    cell
}

/// `1 row`, `2 rows`.
pub(super) fn counted(count: u64, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// What follows an escape sequence whose ESC is already gone.
fn after_escape(rest: &str) -> &str {
    let Some(char) = rest.chars().next() else { return rest };
    let tail = &rest[char.len_utf8()..];
    match char {
        '[' => after_control_sequence(tail),
        // A string for the terminal: its title, its clipboard. One without an end hides nothing.
        ']' | 'P' | 'X' | '^' | '_' => ["\u{7}", "\u{1b}\\", "\u{9c}"]
            .iter()
            .filter_map(|end| tail.find(end).map(|at| at + end.len()))
            .min()
            .map_or(tail, |end| &tail[end..]),
        ' '..='/' => tail.strip_prefix(|char| matches!(char, '0'..='~')).unwrap_or(tail),
        '0'..='~' => tail,
        _ => rest,
    }
}

fn after_control_sequence(rest: &str) -> &str {
    let rest = rest.trim_start_matches(|char| matches!(char, ' '..='?'));
    rest.strip_prefix(|char| matches!(char, '@'..='~')).unwrap_or(rest)
}

fn is_obeyed_in_json(char: char) -> bool {
    // Line ends are there between JSON documents, and never inside one.
    char != '\n' && is_obeyed(char)
}

/// Control characters, and the invisible ones that change the direction or the meaning of what is around them.
fn is_obeyed(char: char) -> bool {
    char.is_control()
        || matches!(
            char,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

fn char_width(char: char) -> usize {
    match char {
        '\u{300}'..='\u{36f}'
        | '\u{1ab0}'..='\u{1aff}'
        | '\u{1dc0}'..='\u{1dff}'
        | '\u{20d0}'..='\u{20ff}'
        | '\u{fe00}'..='\u{fe0f}'
        | '\u{fe20}'..='\u{fe2f}' => 0,
        '\u{1100}'..='\u{115f}'
        | '\u{2e80}'..='\u{303e}'
        | '\u{3041}'..='\u{a4cf}'
        | '\u{ac00}'..='\u{d7a3}'
        | '\u{f900}'..='\u{faff}'
        | '\u{fe30}'..='\u{fe6f}'
        | '\u{ff00}'..='\u{ff60}'
        | '\u{ffe0}'..='\u{ffe6}'
        | '\u{1f300}'..='\u{1f64f}'
        | '\u{1f680}'..='\u{1f6ff}'
        | '\u{1f900}'..='\u{1faff}'
        | '\u{20000}'..='\u{3fffd}' => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_gets_nothing_to_obey() {
        let cases = [
            ("Deep crawl", "Deep crawl"),
            ("Zeitung – täglich 日本", "Zeitung – täglich 日本"),
            ("a\tb\r\nc", "a b  c"),
            ("\u{1b}[31;1mred\u{1b}[0m", "red"),
            ("\u{9b}2Jcleared", "cleared"),
            ("\u{1b}]0;title\u{7}name", "name"),
            ("\u{1b}]52;c;AAAA\u{1b}\\name", "name"),
            ("\u{1b}]0;no end", "0;no end"),
            ("\u{1b}Pq#0\u{9c}name", "name"),
            ("\u{1b}(Bname\u{1b}c", "name"),
            ("\u{1b}", ""),
            ("\u{1b}[", ""),
            ("\u{1b}[31", ""),
            ("\u{1b}\u{1b}[1mx", "x"),
            ("\u{1b}é", "é"),
            ("user\u{202e}gpj.exe\u{200d}\u{0}\u{7f}", "usergpj.exe"),
        ];
        for (text, expected) in cases {
            assert_eq!(printable(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_long_text_is_cut() {
        assert_eq!(printable(&"é".repeat(2000)), "é".repeat(2000));
        assert_eq!(printable(&"é".repeat(2001)), "é".repeat(2000) + "…");
    }

    #[test]
    fn json_keeps_its_meaning() {
        let json = "{\"name\":\"a\u{9b}2J\u{202e}b\u{e0041}é\"}".to_owned();
        let inert = inert_json(json.clone());
        assert_eq!(inert, "{\"name\":\"a\\u009b2J\\u202eb\\udb40\\udc41é\"}");
        let value = |json: &str| serde_json::from_str::<serde_json::Value>(json).expect("valid JSON");
        assert_eq!(value(&inert), value(&json));
        assert_eq!(inert_json("{}\n".to_owned()), "{}\n");
    }

    #[test]
    fn texts_are_cut_to_columns() {
        assert_eq!(fit("abc", 3), "abc");
        assert_eq!(fit("abcd", 3), "ab…");
        assert_eq!(fit("日本語", 6), "日本語");
        assert_eq!(fit("日本語", 5), "日本…");
        assert_eq!(fit("日本語", 4), "日…");
        assert_eq!(fit("e\u{301}tat", 4), "e\u{301}tat");
        assert_eq!(fit("ab", 1), "…");
        assert_eq!(fit("ab", 0), "");
        assert_eq!(cell("日本語", 4), "日… ");
        assert_eq!(cell("ab", 4), "ab  ");
        assert_eq!(counted(1, "row") + ", " + &counted(0, "row"), "1 row, 0 rows");
    }
}
