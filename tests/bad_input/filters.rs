//! Texts that are no filters, or dear ones: each is refused with the place and the reason, wherever it is sent.

use starfeed::proto::{self, SubscribeOptions, request::Command};

use crate::support::told::{documents, list, table, with_filter};
use crate::{Differences, Target, answer, assert_works};

struct Case {
    name: &'static str,
    filter: String,
    text: &'static str,
}

fn case(name: &'static str, filter: impl Into<String>, text: &'static str) -> Case {
    Case { name, filter: filter.into(), text }
}

/// The same condition so many times.
fn alternatives(count: usize, part: &str) -> String {
    vec![part; count].join("||")
}

fn shapes() -> Vec<Case> {
    vec![
        case(
            "a filter of blanks",
            "   ",
            "invalid_filter at 3: the filter is empty; leave it away to get every document",
        ),
        case("half a comparison", "domain ==", "invalid_filter at 9: expected a condition, found the end"),
        case("one equals sign", "domain = 'a'", "invalid_filter at 7: '=' means nothing; write '=='"),
        case("a parenthesis that does not end", "(domain == 'a'", "invalid_filter at 14: expected ')', found the end"),
        case(
            "a parenthesis that has not begun",
            "domain == 'a')",
            "invalid_filter at 13: expected an operator or the end, found ')'",
        ),
        case(
            "24 levels and one more",
            format!("{}a{}", "(".repeat(25), ")".repeat(25)),
            "invalid_filter at 24: more than 24 parentheses and negations inside of each other; use fewer",
        ),
        case(
            "a thousand parentheses",
            "(".repeat(1000),
            "invalid_filter at 24: more than 24 parentheses and negations inside of each other; use fewer",
        ),
        case(
            "a thousand negations",
            format!("{}a", "!".repeat(1000)),
            "invalid_filter at 24: more than 24 parentheses and negations inside of each other; use fewer",
        ),
        case(
            "257 conditions",
            alternatives(257, "a"),
            "invalid_filter at 384: more than 256 conditions, operators and list elements; use a shorter filter",
        ),
        case(
            "a filter of 1,025 bytes",
            format!("domain == '{}'", "x".repeat(1013)),
            "invalid_filter at 1024: the filter is longer than 1024 bytes; use a shorter one",
        ),
        case(
            "a filter of 900 KB",
            "x".repeat(900_000),
            "invalid_filter at 1024: the filter is longer than 1024 bytes; use a shorter one",
        ),
    ]
}

fn characters() -> Vec<Case> {
    vec![
        case(
            "a text that does not end",
            "domain == 'a",
            "invalid_filter at 10: a text starts here and does not end on its line",
        ),
        case(
            "a text with a line feed",
            "domain == 'a\nb'",
            "invalid_filter at 10: a text starts here and does not end on its line",
        ),
        case(
            "an escape that there is not",
            r"domain == '\q'",
            "invalid_filter at 11: no such escape; write '\\\\' for a backslash, or use r\"…\"",
        ),
        case(
            "half a surrogate",
            r"domain == '\ud800'",
            "invalid_filter at 11: the escape needs 4 digits that are a character",
        ),
        case("a NUL", "domain\0 == 'a'", "invalid_filter at 6: '�' means nothing outside of quotes"),
        case(
            "a character that means nothing",
            "domain == `a`",
            "invalid_filter at 10: names are not quoted with '`'; write a[\"odd name\"]",
        ),
        case("SQL", "domain = 'a' OR 1=1; --", "invalid_filter at 7: '=' means nothing; write '=='"),
        case(
            "JavaScript",
            "(function(){ return true })()",
            "invalid_filter at 1: 'function' is a reserved word; a member of that name is doc[\"…\"]",
        ),
    ]
}

fn what_is_not_supported() -> Vec<Case> {
    vec![
        case(
            "a function that there is not",
            "domain.foo('a')",
            "invalid_filter at 7: no function 'foo'; supported are comparisons, in, has, startsWith, endsWith, contains, matches, !, && and ||",
        ),
        case(
            "a comprehension",
            "users.all(u, u.working)",
            "invalid_filter at 6: no function 'all'; supported are comparisons, in, has, startsWith, endsWith, contains, matches, !, && and ||",
        ),
        case(
            "arithmetic",
            "a + b == 3",
            "invalid_filter at 2: arithmetic is not supported; supported are comparisons, in, has, startsWith, endsWith, contains, matches, !, && and ||",
        ),
        case(
            "a conditional",
            "a ? b : c",
            "invalid_filter at 2: '? :' is not supported; supported are comparisons, in, has, startsWith, endsWith, contains, matches, !, && and ||",
        ),
        case(
            "a comparison with null",
            "login_test == null",
            "invalid_filter at 14: null is no value to compare with; has(a.b) tells whether a member is there",
        ),
        case("a value alone", "'a'", "invalid_filter at 0: a value alone is no condition; compare a member with it"),
        case("a list alone", "['a', 'b']", "invalid_filter at 0: a list alone is no condition; write a in […]"),
        case(
            "a map",
            "{'a': 1} == a",
            "invalid_filter at 0: maps are not supported; supported are comparisons, in, has, startsWith, endsWith, contains, matches, !, && and ||",
        ),
    ]
}

fn values_and_patterns() -> Vec<Case> {
    vec![
        case(
            "a number of more than 64 bits",
            "a == 99999999999999999999",
            "invalid_filter at 5: the number has more than 64 bits; write it as a double, such as 1e19",
        ),
        case("a double that is too large", "a == 1e999", "invalid_filter at 5: the number is too large for a double"),
        case(
            "an unsigned number",
            "a == 1u",
            "invalid_filter at 6: unsigned numbers are not supported; write it without the u",
        ),
        case("bytes", "a == b'x'", "invalid_filter at 5: bytes are not supported; write a text without the b"),
        case(
            "a pattern that is none, in a filter",
            "domain.matches('(')",
            "invalid_filter at 15: no valid regular expression; look-around and back-references do not exist",
        ),
        case(
            "a pattern that looks behind",
            r"domain.matches('(?<=a)b')",
            "invalid_filter at 15: no valid regular expression; look-around and back-references do not exist",
        ),
        case(
            "a pattern that refers back",
            r"domain.matches(r'(a)\1')",
            "invalid_filter at 15: no valid regular expression; look-around and back-references do not exist",
        ),
        case(
            "a pattern that grows",
            r"domain.matches('((((a{30}){30}){30}){30})')",
            "invalid_filter at 15: the regular expressions are too large; repeat less, and use [a-z] or [0-9] for \\w or \\d",
        ),
        case(
            "a pattern that is dear to build",
            r"domain.matches(r'(\w{50}.{50}){9}')",
            "invalid_filter at 15: the regular expressions are too large; repeat less, and use [a-z] or [0-9] for \\w or \\d",
        ),
        case(
            "a member of a text",
            "'a'.b == 1",
            "invalid_filter at 0: a value alone is no condition; compare a member with it",
        ),
        case(
            "a list of lists",
            "a in [['b']]",
            "invalid_filter at 6: expected a number, a text, true or false, found '['",
        ),
        case(
            "a filter that is dear on large rows",
            alternatives(60, "a.contains('aaaaaaab')"),
            "invalid_filter at 1024: the filter is longer than 1024 bytes; use a shorter one",
        ),
    ]
}

fn cases() -> Vec<Case> {
    [shapes(), characters(), what_is_not_supported(), values_and_patterns()].into_iter().flatten().collect()
}

pub(crate) fn names() -> Vec<&'static str> {
    cases().iter().map(|case| case.name).collect()
}

#[test]
fn what_is_no_filter_is_refused_wherever_it_is_sent() {
    let target = Target::start(&[]);
    let mut client = target.connect();
    let mut differences = Differences::default();
    for Case { name, filter, text } in cases() {
        let commands = [
            Command::DescribeFilter(proto::RequestDescribeFilter { filter: filter.clone() }),
            list("domain_login", with_filter(&filter, SubscribeOptions::default())),
            table("domain_login", with_filter(&filter, documents())),
        ];
        for command in commands {
            differences.expect(name, answer(&mut client, command), Err(text.to_owned()));
            assert_works(&mut client, name);
        }
    }
    differences.assert_none();
    drop(client);
    target.assert_unharmed();
}
