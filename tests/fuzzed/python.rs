//! Patterns and format strings that the crawler will read as Python does.

use starfeed::catalog::doors;

pub(crate) fn target(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let is_pattern = doors::is_pattern(text);
    // A group around a pattern changes nothing, unless flags for all of it have to stand at its beginning.
    if is_pattern && !text.contains("(?") {
        assert!(doors::is_pattern(&format!("(?:{text}\n)")), "a pattern is none in a group: {text:?}");
    }
    if let Some(filled_in) = doors::filled_in(text, "2000-01-01") {
        assert!(doors::is_format(text), "{text:?} can be filled in and is no format");
        // A field of three characters is at most so wide, or as long as what it names.
        assert!(filled_in.chars().count() <= text.chars().count() * 100, "{text:?} is filled in with too much");
    }
    let is_plain = !text.contains(['{', '}']);
    assert!(!is_plain || doors::filled_in(text, "x").as_deref() == Some(text), "a text without fields stays as it is");
}
