//! Filters, and documents that are tried against them: what the compiled program and the index say is what the plain meaning of
//! the filter says.

use serde_json::Value;
use starfeed::change::Document;
use starfeed::matcher::{Filter, FilterLimits, Match, Matcher, Scratch};

use super::filter_reference;

/// A filter, then a line for each document: one before a change, one after it, and so on.
pub(crate) fn target(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let Some(text) = lines.next().and_then(|line| std::str::from_utf8(line).ok()) else { return };
    let limits = FilterLimits { cost_max: 200_000, ..FilterLimits::default() };
    let filter = match Filter::parse(text, &limits) {
        Ok(filter) => filter,
        Err(error) => {
            assert!(error.position <= text.len() && text.is_char_boundary(error.position), "{error}");
            assert!(error.to_string().len() < 300, "{error}");
            return;
        }
    };
    let again = Filter::parse(filter.canonical(), &limits.for_canonical()).expect("the canonical form is a filter");
    assert_eq!(again.canonical(), filter.canonical());
    assert_eq!(again.expression(), filter.expression());
    assert_eq!(again.cost(), filter.cost());
    let mut matcher = Matcher::new(1);
    let id = matcher.insert(&filter);
    let (mut scratch, mut found) = (Scratch::default(), Vec::new());
    let mut old: Option<(Document, bool)> = None;
    for line in lines.take(4) {
        let Ok(document) = Document::parse(line) else { continue };
        let passes = says(&filter, &document);
        let before = old.as_ref().is_some_and(|(_, passes)| *passes);
        matcher.matches(old.as_ref().map(|(document, _)| document), Some(&document), &mut scratch, &mut found);
        let told = found.iter().find(|found| found.filter == id);
        let told = told.map_or((false, false), |Match { old, new, .. }| (*old, *new));
        assert_eq!(told, (before, passes), "the index differs: {}", filter.canonical());
        old = Some((document, passes));
    }
}

/// Whether `document` passes, which is asked in two ways.
fn says(filter: &Filter, document: &Document) -> bool {
    let passes = filter.matches(document);
    let value = Value::Object(document.members().expect("it was read as an object"));
    let meaning = filter_reference::evaluate(&filter.expression(), &value);
    assert_eq!(passes, meaning == Some(true), "{} means {meaning:?}", filter.canonical());
    passes
}
