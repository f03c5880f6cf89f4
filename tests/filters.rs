//! Filters against another implementation of the same language, and against texts that nobody should write.

mod support;

use std::collections::HashMap;
use std::sync::Arc;

use cel::{Context, Env, Program};
use fastrand::Rng;
use serde_json::{Value, json};
use starfeed::change::Document;
use starfeed::matcher::{Filter, FilterLimits};
use support::{filter_cases, filter_reference};

/// Rounds, filters in each, documents in each: one million pairs.
const ROUNDS: u64 = 100;
const FILTERS: usize = 100;
const DOCUMENTS: usize = 100;

/// Whether the server says that the filter matches the document.
fn ours(filter: &Filter, document: &Document) -> bool {
    filter.matches(document)
}

fn stored(document: &Value) -> Document {
    Document::from_object(document.as_object().expect("an object").clone())
}

fn cel_value(value: &Value) -> cel::Value {
    match value {
        Value::Null => cel::Value::Null,
        Value::Bool(value) => cel::Value::Bool(*value),
        Value::String(value) => value.as_str().into(),
        Value::Array(elements) => elements.iter().map(cel_value).collect::<Vec<_>>().into(),
        Value::Object(members) => {
            members.iter().map(|(name, value)| (name.clone(), cel_value(value))).collect::<HashMap<_, _>>().into()
        }
        Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(number), _, _) => cel::Value::Int(number),
            (None, Some(number), _) => cel::Value::UInt(number),
            (None, None, number) => cel::Value::Float(number.expect("a number is a whole number or a double")),
        },
    }
}

fn cel_context(env: &Arc<Env>, document: &Value) -> Context<'static, 'static> {
    let mut context = Context::with_env(env.clone());
    context.add_variable_from_value("doc", cel_value(document));
    context
}

/// What CEL says: `None` for an error.
fn cel_outcome(program: &Program, context: &Context<'_, '_>) -> Option<bool> {
    match program.execute(context) {
        Ok(cel::Value::Bool(value)) => Some(value),
        Ok(_) | Err(_) => None,
    }
}

/// The canonical form is a filter again, and its own canonical form.
fn check_canonical(text: &str, filter: &Filter) {
    let limits = FilterLimits::default().for_canonical();
    let again = Filter::parse(filter.canonical(), &limits).unwrap_or_else(|error| panic!("{text:?}: {error}"));
    assert_eq!(again.canonical(), filter.canonical(), "{text:?}");
    assert_eq!(again.expression(), filter.expression(), "{text:?}");
    assert_eq!(again.cost(), filter.cost(), "{text:?}");
}

#[test]
fn a_million_filtered_documents_as_cel_sees_them() {
    let env = Arc::new(Env::stdlib());
    let mut outcomes = HashMap::from([(Some(true), 0), (Some(false), 0), (None, 0)]);
    for seed in 0..ROUNDS {
        let mut rng = Rng::with_seed(seed);
        let documents: Vec<Value> = (0..DOCUMENTS).map(|_| filter_cases::document(&mut rng)).collect();
        let stored: Vec<Document> = documents.iter().map(stored).collect();
        let contexts: Vec<Context> = documents.iter().map(|document| cel_context(&env, document)).collect();
        for _ in 0..FILTERS {
            let text = filter_cases::filter(&mut rng);
            let filter = Filter::parse(&text.ours, &FilterLimits::default())
                .unwrap_or_else(|error| panic!("seed {seed}: {}: {error}", text.ours));
            check_canonical(&text.ours, &filter);
            let program = env.compile(&text.cel).unwrap_or_else(|error| panic!("seed {seed}: {}: {error}", text.cel));
            for ((document, stored), context) in documents.iter().zip(&stored).zip(&contexts) {
                let expected = cel_outcome(&program, context);
                *outcomes.entry(expected).or_default() += 1;
                let found = filter_reference::evaluate(&filter.expression(), document);
                assert!(
                    found == expected && ours(&filter, stored) == (expected == Some(true)),
                    "seed {seed}: {found:?}, but CEL says {expected:?}\n{}\n{}\n{document}",
                    text.ours,
                    filter.canonical()
                );
            }
        }
    }
    let all: usize = outcomes.values().sum();
    assert_eq!(all, 1_000_000);
    for (outcome, count) in outcomes {
        assert!(count * 8 > all, "only {count} of {all} cases have the outcome {outcome:?}: they no longer test it");
    }
}

/// CEL as this crate has it makes a whole number a double before it compares it with one. This server compares the
/// numbers themselves, as the specification of the language says; the two differ only beyond 2^53.
#[test]
fn numbers_beyond_doubles_are_compared_exactly() {
    let env = Arc::new(Env::stdlib());
    let cases = [
        // filter, document, what is true, what that crate says
        ("doc.n == 9007199254740992.0", json!({"n": 9_007_199_254_740_992_i64}), true, true),
        ("doc.n == 9007199254740992.0", json!({"n": 9_007_199_254_740_993_i64}), false, true),
        ("doc.n > 9007199254740992.0", json!({"n": 9_007_199_254_740_993_i64}), true, false),
        ("doc.n == 9223372036854775807", json!({"n": 9_223_372_036_854_775_807.0}), false, true),
        ("doc.n > 9223372036854775807", json!({"n": 9_223_372_036_854_775_808_u64}), true, true),
        ("doc.n < 1e19", json!({"n": u64::MAX}), false, false),
        ("doc.n == 18446744073709551616.0", json!({"n": u64::MAX}), false, true),
        ("doc.n in [9007199254740992.0]", json!({"n": 9_007_199_254_740_993_i64}), false, true),
    ];
    for (text, document, truth, cel) in cases {
        let filter = Filter::parse(text, &FilterLimits::default()).expect(text);
        assert_eq!(ours(&filter, &stored(&document)), truth, "{text} {document}");
        let program = env.compile(text).expect(text);
        assert_eq!(cel_outcome(&program, &cel_context(&env, &document)), Some(cel), "{text} {document}");
    }
}

/// The table of what has no meaning, case by case.
#[test]
fn the_three_outcomes() {
    let env = Arc::new(Env::stdlib());
    let document = json!({"n": 5, "s": "x", "z": null, "t": true, "l": [1, "x", true], "m": {"k": 1}});
    let cases = [
        ("gone == 1", None),
        ("gone != 1", None),
        ("!(gone == 1)", None),
        ("false && gone == 1", Some(false)),
        ("gone == 1 && false", Some(false)),
        ("true || gone == 1", Some(true)),
        ("gone == 1 || n == 5", Some(true)),
        ("gone == 1 || n == 6", None),
        ("n.k == 1", None),
        ("has(n)", Some(true)),
        ("has(gone)", Some(false)),
        ("has(z)", Some(true)),
        ("has(m.gone)", Some(false)),
        ("has(gone.k)", None),
        ("has(n.k)", None),
        ("has(l.k)", None),
        ("n == 'x'", Some(false)),
        ("n != 'x'", Some(true)),
        ("n < 'x'", None),
        ("z < 1", None),
        ("z == 1", Some(false)),
        ("z != 1", Some(true)),
        ("l == 1", Some(false)),
        ("n == 5.0", Some(true)),
        ("n < 5.5", Some(true)),
        ("n in ['x', 5.0]", Some(true)),
        ("n in []", Some(false)),
        ("gone in []", None),
        ("1.0 in l", Some(true)),
        ("'y' in l", Some(false)),
        ("'k' in m", Some(true)),
        ("1 in m", Some(false)),
        ("1.5 in m", Some(false)),
        ("true in m", Some(false)),
        ("'x' in s", None),
        ("'x' in z", None),
        ("t > false", Some(true)),
        ("n.contains('x')", None),
        ("s.matches('^x$')", Some(true)),
        ("t", Some(true)),
        ("!n", None),
        ("n && t", None),
        ("n || t", Some(true)),
    ];
    for (text, expected) in cases {
        let filter = Filter::parse(text, &FilterLimits::default()).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(filter_reference::evaluate(&filter.expression(), &document), expected, "{text}");
        assert_eq!(ours(&filter, &stored(&document)), expected == Some(true), "{text}");
        let rooted = ["gone", "n", "s", "z", "t", "l", "m"].into_iter().fold(text.to_owned(), |text, name| {
            let word = regex::Regex::new(&format!(r"(^|[ !(]){name}\b")).expect("a pattern");
            word.replace_all(&text, format!("${{1}}doc.{name}")).into_owned()
        });
        let program = env.compile(&rooted).expect(&rooted);
        assert_eq!(cel_outcome(&program, &cel_context(&env, &document)), expected, "{rooted}");
    }
}

const SOUP: &str = "a . [ ] ( ) ! && || == < in has( \"x\" ' \" 5 - 0x 1e null true .matches( 'a*' , doc u b' r' \\ \n // ? : \
    日 \0 { + .startsWith( 9999999999999999999 1e999 ''' ` \u{85} \u{2028}";

const PATTERNS: &str = r"(a{1000}){1000} ( [ a{99999} \w{1000} (?:){4294967295} (?:(?:){9999}){9999} \p{Any}{99} (?=a) (a)\1
    \b (0|1)*1[01]{30} (\d+)*x * \x{110000} (?i)[\pL&&\w]{20} [^\x00-\x{10ffff}] (?R) (?P<n>a)(?P<n>b) .{3}{3}{3}{3}";

fn any<'t>(rng: &mut Rng, words: &'t str, separator: char) -> &'t str {
    let words: Vec<&str> = words.split(separator).map(|word| word.trim_matches([' ', '\n'])).collect();
    words[rng.usize(..words.len())]
}

/// A text that nobody should write.
fn hostile(rng: &mut Rng) -> String {
    let count = rng.usize(1..1500);
    match rng.u8(..14) {
        0 => String::from_utf8_lossy(&(0..count).map(|_| rng.u8(..)).collect::<Vec<_>>()).into_owned(),
        1..5 => (0..rng.usize(1..60)).map(|_| any(rng, SOUP, ' ')).collect(),
        5 => vec!["a"; 2000].join(any(rng, "&&,||,+,.,==", ',')),
        6 => any(rng, "( ! !( [ has( a[ - a.matches(", ' ').repeat(count),
        7 => format!("a == {}{}", any(rng, "' \" r\" '''", ' '), "x\\n".repeat(count / 3)),
        8 => format!("a == {}{}", "9".repeat(count), any(rng, ",u,.0,e9,e-9999", ',')),
        9 => format!("a in [{}]", (0..count).map(|n| n.to_string()).collect::<Vec<_>>().join(",")),
        10 => format!("a.matches(r'{}')", any(rng, PATTERNS, ' ')),
        11 => format!("a.matches(r'{0}|{0}x{1}')", any(rng, PATTERNS, ' '), "(".repeat(count / 500)),
        12 => (0..count).map(|_| char::from_u32(rng.u32(0..0x11_0000)).unwrap_or('\0')).collect(),
        _ => {
            let mut text: Vec<char> = filter_cases::filter(rng).ours.chars().collect();
            let at = rng.usize(..text.len());
            text[at] = any(rng, SOUP, ' ').chars().next().unwrap_or('\n');
            text.into_iter().collect()
        }
    }
}

#[test]
fn hostile_texts_are_filters_or_errors() {
    let mut accepted = 0;
    for seed in 0..10_000 {
        let text = hostile(&mut Rng::with_seed(seed));
        // With the usual limits most of the long ones would not be read at all.
        let limits = FilterLimits { text_bytes: 10_000, ..FilterLimits::default() };
        for limits in [FilterLimits::default(), limits] {
            match Filter::parse(&text, &limits) {
                Ok(filter) => {
                    accepted += 1;
                    assert!(filter.canonical().len() <= text.len() * 5, "{text:?}");
                    check_canonical(&text, &filter);
                }
                Err(error) => {
                    assert!(error.position <= text.len() && text.is_char_boundary(error.position), "{seed} {error}");
                    assert!(error.to_string().len() < 200, "{error}");
                }
            }
        }
    }
    assert!((200..10_000).contains(&accepted), "{accepted} texts were accepted");
}

/// Prints what the most expensive filters cost on a document of 1 MiB. To be run in a release build by itself.
#[test]
#[ignore = "a measurement"]
fn worst_cost() {
    let joined = |template: &dyn Fn(usize) -> String| {
        let mut best = None;
        for count in 1.. {
            let text = (0..count).map(template).collect::<Vec<_>>().join("||");
            match Filter::parse(&text, &FilterLimits::default()) {
                Ok(filter) => best = Some((count, filter)),
                Err(_) => return best.expect("one condition is accepted"),
            }
        }
        unreachable!("a text may not be longer than its limit")
    };
    let mut rng = Rng::with_seed(1);
    let bits: String = (0..1 << 20).map(|_| if rng.bool() { '0' } else { '1' }).collect();
    let letters: String = std::iter::from_fn(|| char::from_u32(rng.u32(0x80..0x3000))).take(1 << 19).collect();
    let numbers: Vec<Value> = (0..1 << 19).map(|_| json!(5000)).collect();
    let texts: [(&str, Value); 4] = [
        ("bits", json!(bits)),
        ("a", json!("a".repeat(1 << 20))),
        ("letters", json!(letters)),
        ("list", json!(numbers)),
    ];
    let templates: [(&str, &dyn Fn(usize) -> String); 9] = [
        ("matches bits", &|n| format!("a.matches('1[01]{{{n}}}x')")),
        ("matches text", &|n| format!("a.matches('{n}x')")),
        ("matches \\d", &|n| format!("a.matches(r'1\\d{n}x')")),
        ("matches \\w", &|n| format!("a.matches(r'\\w{n}')")),
        ("contains", &|n| format!("a.contains('{n}x')")),
        ("contains aa", &|n| format!("a.contains('{}b')", "a".repeat(n % 40))),
        ("contains 01", &|n| format!("a.contains('{n:b}01x')")),
        ("holds", &|n| format!("{n} in a")),
        ("holds double", &|n| format!(".{n} in a")),
    ];
    for (name, template) in templates {
        let (count, filter) = joined(template);
        for (kind, value) in &texts {
            let document = stored(&json!({"a": value}));
            let start = processor_ms();
            let outcome = filter.matches(&document);
            let ms = processor_ms() - start;
            println!("{name:14} x{count:<3} cost {:>8} on {kind:8} {ms:8.1} ms {outcome}", filter.cost().0);
        }
    }
}

/// The time that this thread has had a processor: other work on the machine does not count.
fn processor_ms() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux counts it");
    stat.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).expect("the first number is nanoseconds") / 1e6
}
