use super::{Cost, Filter, FilterLimits};
use crate::change::Document;

fn cost(text: &str) -> u64 {
    Filter::parse(text, &FilterLimits::default()).expect(text).cost().0
}

#[test]
fn costs_follow_the_formula() {
    let cases = [
        ("true", 1),
        ("a == 5", 1),
        ("a.b.c == 5", 3),
        ("!(a == 5 && b < 3)", 2),
        ("a in [1, 2, 3]", 4),
        ("a.startsWith('x')", 1),
        ("a.contains('x') || b.c", Cost::SCAN + 3),
        ("'x' in a", Cost::LOOK_UP + 1),
        ("a.matches('x')", Cost::MATCH + 1),
        // Written twice, read once.
        ("a.matches('x') || a.matches('x')", Cost::MATCH + 1),
    ];
    for (text, expected) in cases {
        assert_eq!(cost(text), expected, "{text}");
    }
    assert_eq!(cost(&format!("a == '{}'", "x".repeat(640))), 11);
}

#[test]
fn a_filter_over_its_budget_is_refused() {
    let limits = FilterLimits { cost_max: 2, ..FilterLimits::default() };
    assert!(Filter::parse("a && b", &limits).is_ok());
    let error = Filter::parse("a && b && c", &limits).expect_err("too much");
    assert_eq!(
        error.to_string(),
        "invalid_filter at 0: the filter costs 3 on a large document, the limit is 2; use fewer or smaller matches, \
         contains and \"x\" in a"
    );
}

#[test]
fn a_text_over_its_length_is_refused() {
    let limits = FilterLimits { text_bytes: 8, ..FilterLimits::default() };
    assert!(Filter::parse("a == '日'", &limits).is_err());
    let error = Filter::parse("a == '日本'", &limits).expect_err("too long");
    assert_eq!((error.position, error.message.as_str()), (6, "the filter is longer than 8 bytes; use a shorter one"));
}

#[test]
fn patterns_match_anywhere_and_by_character() {
    let is_match = |pattern: &str, text: &str| {
        let filter = Filter::parse(&format!("a.matches(r'{pattern}')"), &FilterLimits::default()).expect(pattern);
        let members = serde_json::Map::from_iter([("a".to_owned(), text.into())]);
        filter.matches(&Document::from_object(members))
    };
    for (pattern, text, expected) in [
        ("b+", "abbc", true),
        ("^b", "ab", false),
        ("^ab$", "ab\n", false),
        ("(?m)^b$", "a\nb\nc", true),
        ("", "", true),
        ("^$", "", true),
        ("^.$", "日", true),
        ("^..$", "日", false),
        ("^\\d$", "٣", true),
        ("(?i)straße", "STRAßE", true),
        ("(?-u:\\b)x(?-u:\\b)", "a x b", true),
        ("(?-u:\\b)x(?-u:\\b)", "axb", false),
        ("x$", "\u{10ffff}x", true),
    ] {
        assert_eq!(is_match(pattern, text), expected, "{pattern:?} {text:?}");
    }
}
