use super::{DEPTH_MAX, NODES_MAX};
use crate::matcher::{Filter, FilterError, FilterLimits};

fn parse(text: &str) -> Result<Filter, FilterError> {
    Filter::parse(text, &FilterLimits::default())
}

const ERRORS: &[(&str, usize, &str)] = &[
    ("", 0, "empty"),
    ("  // nothing", 12, "empty"),
    ("a ==", 4, "expected a condition, found the end"),
    ("a = 1", 2, "write '=='"),
    ("a & b", 2, "write it twice"),
    ("a[0] == 1", 2, "lists are not indexed"),
    ("a[b] == 1", 2, "a name in quotes"),
    ("a == null", 5, "null is no value"),
    ("null == a", 0, "null is no value"),
    ("a in [1, null]", 9, "null is no value"),
    ("a == 5u", 6, "unsigned"),
    ("a == b'x'", 5, "bytes"),
    ("a == rb'x'", 5, "bytes"),
    ("a == '''x'''", 5, "triple"),
    ("a == 'x", 5, "does not end"),
    ("a == 'x\ny'", 5, "does not end"),
    ("a == 'x\\q'", 7, "no such escape"),
    ("a == '\\ud800'", 6, "the escape needs 4 digits"),
    ("a == '\\u+0ff'", 6, "the escape needs 4 digits"),
    ("a == '\\x4'", 6, "the escape needs 2 digits"),
    ("a == 9223372036854775808", 5, "more than 64 bits"),
    ("a == -9223372036854775809", 5, "more than 64 bits"),
    ("a == 99999999999999999999", 5, "more than 64 bits"),
    ("a == 1e999", 5, "too large"),
    ("a == 5x", 6, "a number ends here"),
    ("a == 5.", 6, "found '.'"),
    ("a == --5", 5, "'-' stands only before a number"),
    ("a + 1 == 2", 2, "arithmetic"),
    ("a == 1 - 1", 7, "arithmetic"),
    ("a ? b : c", 2, "'? :'"),
    ("{'a': 1} == a", 0, "maps"),
    ("a == b", 5, "two members"),
    ("1 == 1", 0, "two values"),
    ("a in b", 5, "a list of values must follow"),
    ("a in 'text'", 5, "a list of values must follow"),
    ("'a' in ['a']", 7, "a path must follow"),
    ("[1] == a", 0, "lists are not compared"),
    ("a in [b]", 6, "expected a number"),
    ("a in [1", 7, "expected ']'"),
    ("[1]", 0, "a list alone"),
    ("5", 0, "a value alone"),
    ("a && 'x'", 5, "a value alone"),
    ("!5", 1, "a value alone"),
    ("a == 1 == true", 7, "not chained"),
    ("1 < a < 5", 6, "not chained"),
    ("!a == 1", 0, "put parentheses"),
    ("!a in [1]", 0, "put parentheses"),
    ("has(a) == true", 0, "is not compared"),
    ("size(a) == 1", 0, "no function 'size'"),
    ("a.size() == 1", 2, "no function 'size'"),
    ("a.all(x, x > 1)", 2, "no function 'all'"),
    ("a.startsWith(5)", 13, "expected a text"),
    ("a.startsWith('x', 'y')", 16, "expected ')'"),
    ("'x'.startsWith(a)", 0, "a value alone"),
    ("has()", 4, "a path, as in has(a.b)"),
    ("has('a')", 4, "a path, as in has(a.b)"),
    ("has(doc)", 4, "the whole document"),
    ("has(a.contains('x'))", 4, "has takes a path"),
    ("has(has(a))", 7, "expected ')'"),
    ("doc", 0, "the whole document"),
    ("doc == 1", 0, "the whole document"),
    ("doc.contains('x')", 0, "the whole document"),
    ("if == 1", 0, "reserved word"),
    ("a && namespace", 5, "reserved word"),
    ("a.in == 1", 2, "is a keyword"),
    ("a.true", 2, "is a keyword"),
    ("a.`b`", 2, "not quoted"),
    (".a", 0, "found '.'"),
    ("a..b", 2, "a name after the '.'"),
    ("a b", 2, "expected an operator or the end, found 'b'"),
    ("(a", 2, "expected ')'"),
    ("a)", 1, "found ')'"),
    ("a.matches('(')", 10, "no valid regular expression"),
    ("a.matches('(?=x)')", 10, "no valid regular expression"),
    ("a.matches(r'\\bx')", 10, "those of ASCII"),
    ("a.matches(r'\\w{99}')", 10, "too large"),
    ("a.matches('(a{1000}){1000}')", 10, "too large"),
    ("a == 日", 5, "means nothing"),
    ("a\0", 1, "means nothing"),
];

#[test]
fn errors_say_where_and_what() {
    for (text, position, what) in ERRORS {
        let error = parse(text).expect_err(text);
        assert!(error.position == *position && error.message.contains(what), "{text:?}: {error}");
    }
}

#[test]
fn errors_repeat_little_of_the_text() {
    let error = parse(&format!("a {}", "x".repeat(500))).expect_err("two names");
    assert_eq!(
        error.to_string(),
        "invalid_filter at 2: expected an operator or the end, found 'xxxxxxxxxxxxxxxxxxxx…'"
    );
}

#[test]
fn the_largest_filters_are_read_and_larger_ones_are_not() {
    let conditions = |count: usize| vec!["a"; count].join("||");
    assert!(parse(&conditions(NODES_MAX / 2)).is_ok());
    let error = parse(&conditions(NODES_MAX / 2 + 1)).expect_err("one condition and one operator more");
    assert_eq!((error.position, error.message.contains("256")), (3 * NODES_MAX / 2, true));

    let list = |count: usize| format!("a in [{}]", (1..=count).map(|_| "1,").collect::<String>());
    assert!(parse(&list(NODES_MAX - 1)).is_ok());
    assert!(parse(&list(NODES_MAX)).is_err());

    let nested = |open: &str, depth: usize, close: &str| format!("{}a{}", open.repeat(depth), close.repeat(depth));
    for (open, close) in [("(", ")"), ("!", "")] {
        assert!(parse(&nested(open, DEPTH_MAX, close)).is_ok());
        let error = parse(&nested(open, DEPTH_MAX + 1, close)).expect_err("too deep");
        assert_eq!((error.position, error.message.contains("24")), (DEPTH_MAX, true));
    }
    assert!(parse(&nested("!(", DEPTH_MAX / 2, ")")).is_ok());
    assert!(parse(&nested("!(", DEPTH_MAX / 2 + 1, ")")).is_err());
    // One after the other, they are not nested.
    assert!(parse(&vec!["!(a)"; 100].join("&&")).is_ok());
}
