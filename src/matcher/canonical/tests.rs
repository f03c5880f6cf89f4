use crate::matcher::{Filter, FilterLimits};

/// The canonical form of `text`, which is its own canonical form.
fn canonical(text: &str) -> String {
    let limits = FilterLimits::default();
    let filter = Filter::parse(text, &limits).unwrap_or_else(|error| panic!("{text:?}: {error}"));
    let again = Filter::parse(filter.canonical(), &limits.for_canonical())
        .unwrap_or_else(|error| panic!("{text:?} became {:?}: {error}", filter.canonical()));
    assert_eq!(again.expression(), filter.expression(), "{text:?}");
    assert_eq!(again.canonical(), filter.canonical(), "{text:?}");
    // What is read again from its text after a rest is the same.
    filter.rest();
    assert_eq!(again.expression(), filter.expression(), "{text:?}");
    filter.canonical().to_owned()
}

const CASES: &[(&str, &str)] = &[
    // Members and literals.
    ("a==1", "a == 1"),
    ("5 < age", "age > 5"),
    ("5 >= a", "a <= 5"),
    ("(a) == ((1))", "a == 1"),
    ("a == 0x10", "a == 16"),
    ("a == - 5", "a == -5"),
    ("a == -0x8000000000000000", "a == -9223372036854775808"),
    ("a == 5.0", "a == 5"),
    ("a == -0.0", "a == 0"),
    ("a == .5", "a == 0.5"),
    ("a == 1e3", "a == 1000"),
    ("a == 9223372036854775807.0", "a == 9.223372036854776e18"),
    ("a == 1e300", "a == 1e300"),
    ("a == 1E-7", "a == 1e-7"),
    ("a == 'it\\'s'", "a == \"it's\""),
    ("a == \"it's \\\"\"", "a == \"it's \\\"\""),
    (r"a == '\a\b\f\n\r\t\v\\\?\`\'\x41\u00fc\U0001f431\101'", r#"a == "\x07\x08\x0c\n\r\t\x0b\\?`'Aü🐱A""#),
    (r"a == r'\d' || a == R'\'", r#"a in ["\\", "\\d"]"#),
    ("a == '\0'", r#"a == "\x00""#),
    ("a // why\n == 1 // because", "a == 1"),
    // Paths.
    ("doc.a.b == 1", "a.b == 1"),
    ("doc['a']['b'] == 1", "a.b == 1"),
    ("a['odd name'].b == 1", "a[\"odd name\"].b == 1"),
    ("doc['odd name']", "doc[\"odd name\"]"),
    ("doc.doc == 1", "doc.doc == 1"),
    ("doc['doc'].doc", "doc.doc.doc"),
    ("a.doc", "a.doc"),
    ("doc['in'] == 1", "doc[\"in\"] == 1"),
    ("a['in'].b", "a[\"in\"].b"),
    ("doc.namespace == 1", "doc[\"namespace\"] == 1"),
    ("doc[''] == 1", "doc[\"\"] == 1"),
    ("a['1']", "a[\"1\"]"),
    ("has == 1 && contains", "contains && has == 1"),
    ("has(doc.a['b'])", "has(a.b)"),
    ("startsWith.matches.contains('x')", "startsWith.matches.contains(\"x\")"),
    // Negations.
    ("!!a", "a"),
    ("!!!a", "!a"),
    ("!(a == 1)", "a != 1"),
    ("!(a < 1)", "a >= 1"),
    ("!(a >= 1)", "a < 1"),
    ("!(a && !b)", "!a || b"),
    ("!(a || b == 1)", "!a && b != 1"),
    ("!(a in [1, 2])", "!(a in [1, 2])"),
    ("!('x' in a)", "!(\"x\" in a)"),
    ("!has(a)", "!has(a)"),
    ("!a.contains('x')", "!a.contains(\"x\")"),
    // Groups.
    ("b && a", "a && b"),
    ("a && (b && (c && a))", "a && b && c"),
    ("a || b && c", "a || b && c"),
    ("(a || b) && c", "(a || b) && c"),
    ("(a && b) || (b && a)", "a && b"),
    ("a && (b || b)", "a && b"),
    ("a == 5 || a == 5.0", "a == 5"),
    // Lists.
    ("a in ['y', 'x', 'y']", "a in [\"x\", \"y\"]"),
    ("a in [1]", "a == 1"),
    ("a in [1, 1.0,]", "a == 1"),
    ("!(a in [1])", "a != 1"),
    ("a in []", "a in []"),
    ("a in ['x', 2.5, true, 10, 9]", "a in [true, 9, 10, 2.5, \"x\"]"),
    ("a == 2 || b || a in [1, 3]", "a in [1, 2, 3] || b"),
    ("a != 2 && a != 1", "!(a in [1, 2])"),
    ("!(a == 2 || a == 1)", "!(a in [1, 2])"),
    ("a == 1 && a == 2", "a == 1 && a == 2"),
    ("1.0 in a", "1 in a"),
    // What is always so.
    ("true", "true"),
    ("!true", "false"),
    ("a && true", "a"),
    ("a && false", "false"),
    ("a || !false", "true"),
    ("a || false", "a"),
    ("true && true", "true"),
    ("a == true", "a == true"),
];

#[test]
fn one_text_for_what_means_the_same() {
    for (text, expected) in CASES {
        assert_eq!(&canonical(text), expected, "{text:?}");
    }
}

#[test]
fn what_means_something_else_stays_different() {
    let pairs = [
        ("a", "a == true"),
        ("!a", "a != true"),
        ("a == '5'", "a == 5"),
        ("a == 9007199254740993", "a == 9007199254740993.0"),
        ("a || !a", "true"),
        ("has(a)", "a != 1 || a == 1"),
        ("a.b", "doc[\"a.b\"]"),
        ("a in []", "false"),
        ("'x' in a", "a in ['x']"),
        ("a && b || c", "a && (b || c)"),
    ];
    for (left, right) in pairs {
        assert_ne!(canonical(left), canonical(right));
    }
}

#[test]
fn a_form_that_would_be_nested_too_deeply_is_refused() {
    let text = format!("{}a != 1 && a != 2{}", "c && (b || ".repeat(23), ")".repeat(23));
    let error = Filter::parse(&text, &FilterLimits::default()).expect_err("23 levels become 25");
    assert_eq!(error.position, 0);
    assert!(error.message.contains("24 parentheses"), "{error}");
}
