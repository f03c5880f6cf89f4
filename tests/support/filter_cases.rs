//! Random filters and documents that have something to do with each other.

use fastrand::Rng;
use serde_json::{Map, Value, json};

/// Members of every object, and what they usually hold.
const MEMBERS: [(&str, Kind); 10] = [
    ("n", Kind::Number),
    ("count", Kind::Number),
    ("s", Kind::Text),
    ("name", Kind::Text),
    ("flag", Kind::Bool),
    ("list", Kind::List),
    ("m", Kind::Object),
    ("doc", Kind::Object),
    ("odd name", Kind::Number),
    ("in", Kind::Text),
];

const TEXTS: [&str; 14] =
    ["", "a", "b", "ab", "abc", "x\"y", "it's", "ü", "日本", "z\\", "line\nbreak", "Ab", "n", "\u{1}\t"];

/// What [`TEXTS`] are matched with.
const PATTERNS: [&str; 7] = ["^a", "b$", "[a-c]{2}", "(?i)AB", "^.$", "ü|b", "\\\\"];

/// Without a sign. No number here differs from its nearest double.
const NUMBERS: [&str; 15] =
    ["0", "1", "2", "3", "5", "5.0", "1.5", "2.5", "0x10", "1e3", ".5", "1000", "9007199254740992", "2.0", "1e300"];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Number,
    Text,
    Bool,
    List,
    Object,
}

/// A random document: an object with some of the members that filters name.
pub(crate) fn document(rng: &mut Rng) -> Value {
    object(rng, 0)
}

fn object(rng: &mut Rng, depth: usize) -> Value {
    let mut members = Map::new();
    for (name, kind) in MEMBERS {
        if rng.u8(..100) < 88 {
            let kind = if rng.u8(..100) < 92 { kind } else { MEMBERS[rng.usize(..MEMBERS.len())].1 };
            let value = if rng.u8(..100) < 3 { Value::Null } else { value(rng, kind, depth) };
            members.insert(name.to_owned(), value);
        }
    }
    Value::Object(members)
}

fn value(rng: &mut Rng, kind: Kind, depth: usize) -> Value {
    match kind {
        Kind::Number => match rng.u8(..4) {
            0 => json!(rng.i64(-2..6)),
            1 => json!(rng.i64(-4..12) as f64 / 2.0),
            _ => ["0", "1", "1000", "16", "5.0", "0.5", "1e300", "9007199254740992", "-1"][rng.usize(..9)]
                .parse::<serde_json::Number>()
                .expect("a number")
                .into(),
        },
        Kind::Text => json!(TEXTS[rng.usize(..TEXTS.len())]),
        Kind::Bool => json!(rng.bool()),
        Kind::List => (0..rng.usize(..5))
            .map(|_| {
                let kind = [Kind::Number, Kind::Text, Kind::Text, Kind::Bool][rng.usize(..4)];
                value(rng, kind, depth)
            })
            .collect(),
        Kind::Object if depth < 2 => object(rng, depth + 1),
        Kind::Object => json!({ "a": 1 }),
    }
}

/// A random filter, twice: as the server reads it, and as CEL does, where every path begins at the variable `doc`.
#[derive(Clone, Debug, Default)]
pub(crate) struct FilterText {
    pub(crate) ours: String,
    pub(crate) cel: String,
}

/// A random filter of at most 1024 bytes.
pub(crate) fn filter(rng: &mut Rng) -> FilterText {
    loop {
        let mut text = FilterText::default();
        text.condition(rng, 0);
        if text.ours.len() <= 1024 {
            return text;
        }
    }
}

impl FilterText {
    fn push(&mut self, text: &str) {
        self.ours.push_str(text);
        self.cel.push_str(text);
    }

    fn blank(&mut self, rng: &mut Rng) {
        self.push(["", " ", " ", " \t"][rng.usize(..4)]);
    }

    fn condition(&mut self, rng: &mut Rng, depth: usize) {
        match rng.u8(..100) {
            0..50 if depth < 3 => self.group(rng, depth),
            50..62 if depth < 3 => {
                self.push(["!(", "!(", "!!("][rng.usize(..3)]);
                self.condition(rng, depth + 1);
                self.push(")");
            }
            _ => self.leaf(rng),
        }
    }

    fn group(&mut self, rng: &mut Rng, depth: usize) {
        for at in 0..rng.usize(2..4) {
            if at > 0 {
                self.blank(rng);
                self.push(if rng.bool() { "&&" } else { "||" });
                self.blank(rng);
            }
            let is_enclosed = rng.bool();
            self.push(if is_enclosed { "(" } else { "" });
            self.condition(rng, depth + 1);
            self.push(if is_enclosed { ")" } else { "" });
        }
    }

    fn leaf(&mut self, rng: &mut Rng) {
        match rng.u8(..200) {
            0..90 => self.comparison(rng),
            90..120 => {
                let kind = [Kind::Number, Kind::Text][rng.usize(..2)];
                self.path(rng, kind);
                self.push(" in [");
                for at in 0..rng.usize(..4) {
                    self.push(if at > 0 { ", " } else { "" });
                    self.literal(rng, kind);
                }
                self.push("]");
            }
            120..140 => {
                let kind = [Kind::Number, Kind::Text, Kind::Text][rng.usize(..3)];
                self.literal(rng, kind);
                self.push(" in ");
                let kind = [Kind::List, Kind::List, Kind::List, Kind::Object][rng.usize(..4)];
                self.path(rng, kind);
            }
            140..155 => {
                self.push("has(");
                let kind = MEMBERS[rng.usize(..MEMBERS.len())].1;
                self.path(rng, kind);
                self.has_name(rng);
                self.push(")");
            }
            155..172 => self.path(rng, Kind::Bool),
            172..195 => self.text_test(rng),
            _ => self.push(if rng.bool() { "true" } else { "false" }),
        }
    }

    fn comparison(&mut self, rng: &mut Rng) {
        let kind = [Kind::Number, Kind::Number, Kind::Text, Kind::Bool][rng.usize(..4)];
        let operator = ["==", "!=", "<", "<=", ">", ">="][rng.usize(..6)];
        let is_flipped = rng.u8(..4) == 0;
        if is_flipped {
            self.literal(rng, kind);
        } else {
            self.path(rng, kind);
        }
        self.blank(rng);
        self.push(operator);
        self.blank(rng);
        if is_flipped {
            self.path(rng, kind);
        } else {
            self.literal(rng, kind);
        }
    }

    fn text_test(&mut self, rng: &mut Rng) {
        self.path(rng, Kind::Text);
        if rng.u8(..12) == 0 {
            self.push(".matches(r'");
            self.push(PATTERNS[rng.usize(..PATTERNS.len())]);
            self.push("')");
        } else {
            self.push([".startsWith(", ".endsWith(", ".contains("][rng.usize(..3)]);
            self.text(rng);
            self.push(")");
        }
    }

    /// A path to a member that usually holds a value of `kind`.
    fn path(&mut self, rng: &mut Rng, kind: Kind) {
        let parents = [0, 0, 0, 1, 1, 2][rng.usize(..6)];
        let mut is_first = true;
        for _ in 0..parents {
            let wanted = if rng.u8(..50) == 0 { Kind::Text } else { Kind::Object };
            self.name(rng, wanted, is_first);
            is_first = false;
        }
        self.name(rng, kind, is_first);
    }

    fn name(&mut self, rng: &mut Rng, kind: Kind, is_first: bool) {
        let names: Vec<&str> = MEMBERS.iter().filter(|member| member.1 == kind).map(|member| member.0).collect();
        let name = names[rng.usize(..names.len())];
        if is_first {
            self.cel.push_str("doc");
        }
        let is_odd = name.contains(' ') || name == "in";
        if is_odd || rng.u8(..8) == 0 {
            self.ours.push_str(if is_first { "doc" } else { "" });
            self.push(&format!("[\"{name}\"]"));
        } else if is_first && name != "doc" && rng.bool() {
            self.ours.push_str(name);
            self.cel.push_str(&format!(".{name}"));
        } else {
            self.ours.push_str(if is_first { "doc." } else { "." });
            self.ours.push_str(name);
            self.cel.push_str(&format!(".{name}"));
        }
    }

    /// CEL's `has` takes no name in brackets, so the last name of its path is an easy one.
    fn has_name(&mut self, rng: &mut Rng) {
        if self.cel.ends_with(']') || rng.u8(..4) == 0 {
            self.push([".n", ".list", ".nothing"][rng.usize(..3)]);
        }
    }

    fn literal(&mut self, rng: &mut Rng, kind: Kind) {
        let kind = if rng.u8(..100) < 94 { kind } else { MEMBERS[rng.usize(..MEMBERS.len())].1 };
        match kind {
            Kind::Number => {
                self.push(["", "", "", "-"][rng.usize(..4)]);
                self.push(NUMBERS[rng.usize(..NUMBERS.len())]);
            }
            Kind::Bool => self.push(if rng.bool() { "true" } else { "false" }),
            Kind::Text | Kind::List | Kind::Object => self.text(rng),
        }
    }

    fn text(&mut self, rng: &mut Rng) {
        let text = TEXTS[rng.usize(..TEXTS.len())];
        let quote = ['"', '\''][rng.usize(..2)];
        let mut quoted = String::from(quote);
        for character in text.chars() {
            match character {
                '\n' => quoted.push_str("\\n"),
                '\\' => quoted.push_str("\\\\"),
                'ü' if rng.bool() => quoted.push_str("\\u00fc"),
                'b' if rng.u8(..4) == 0 => quoted.push_str("\\x62"),
                'a' if rng.u8(..4) == 0 => quoted.push_str("\\141"),
                _ if character == quote => quoted.extend(['\\', quote]),
                _ => quoted.push(character),
            }
        }
        quoted.push(quote);
        self.push(&quoted);
    }
}
