//! Reading the members of a stored row, leniently: what is missing or of the wrong type is left out and reported.
//!
//! The same reading serves strict checks: a row may be imported if nothing in it was to be reported.

use std::fmt;

use bytes::Bytes;
use prost::Message;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::change::{Document, Key};
use crate::json;
use crate::json::scanner::Members;
use crate::view::{self, canonical_id};

/// Problems of one row that are spelled out; the rest are only counted, or a damaged row would fill the log.
const SPELLED_OUT_MAX: usize = 5;

/// What in a row could not be shown. It names members and never repeats their values, which may be secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowProblem(String);

impl RowProblem {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for RowProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A value, and what in its row could not be shown: members that were left out or replaced by a default.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown<T> {
    /// What can be shown.
    pub value: T,
    /// What cannot.
    pub problem: Option<RowProblem>,
}

impl<T> Shown<T> {
    pub(super) fn map<U>(self, change: impl FnOnce(T) -> U) -> Shown<U> {
        Shown { value: change(self.value), problem: self.problem }
    }
}

/// Reads a row with `read`, which is given its members. The error says that there are none to read.
pub(super) fn read_row<T>(
    document: &Document,
    read: impl FnOnce(&mut Reader<'_, '_>) -> T,
) -> Result<Shown<T>, RowProblem> {
    let members = document.members().ok_or_else(not_an_object)?;
    let mut problems = Problems::default();
    let value = read(&mut Reader { members: Some(&members), path: String::new(), problems: &mut problems });
    Ok(Shown { value, problem: problems.into_problem() })
}

/// The bytes of a message that shows a row. A row that cannot be shown is an empty one.
pub(super) fn message<M: Message + Default>(shown: Result<Shown<M>, RowProblem>) -> Shown<Bytes> {
    let shown = shown.unwrap_or_else(|problem| Shown { value: M::default(), problem: Some(problem) });
    shown.map(|message| message.encode_to_vec().into())
}

/// The key of a row that may be stored as it is: one without problems.
pub(super) fn checked(shown: Result<Shown<Option<String>>, RowProblem>) -> Result<Key, String> {
    checked_key(shown.map(|shown| shown.map(|key| key.map(|key| Key::text(&key)))))
}

/// The same for a key that need not be text.
pub(super) fn checked_key(shown: Result<Shown<Option<Key>>, RowProblem>) -> Result<Key, String> {
    let shown = shown.map_err(|problem| problem.to_string())?;
    match (shown.value, shown.problem) {
        (Some(key), None) => Ok(key),
        (_, Some(problem)) => Err(problem.to_string()),
        (None, None) => Err("the row has no key".to_owned()),
    }
}

/// The text member `name`, without building the rest of the row: events need no more, and there are many of them.
pub(super) fn read_name(document: &Document, name: &'static str) -> Result<Shown<Option<String>>, RowProblem> {
    let mut found = None;
    for member in Members::of(document.as_bytes()).map_err(|_| not_an_object())? {
        let member = member.map_err(|_| not_an_object())?;
        if member.name == name.as_bytes() {
            found = Some(member.value);
        }
        if found.is_some() || member.is_behind(name) {
            break;
        }
    }
    let mut problems = Problems::default();
    let value = match found.map(serde_json::from_slice::<String>) {
        Some(Ok(text)) => Some(text),
        Some(Err(_)) => problems.add(name, NOT_TEXT),
        None => problems.add(name, MISSING),
    };
    Ok(Shown { value, problem: problems.into_problem() })
}

/// The id that `key` stands for.
pub(super) fn key_id(key: &Key) -> Result<Uuid, RowProblem> {
    view::key_id(key).map_err(|what| RowProblem::new(format!("the key {what}")))
}

fn not_an_object() -> RowProblem {
    RowProblem::new("the row is not a JSON object")
}

const MISSING: &str = "is missing";
const NOT_TEXT: &str = "must be text";

#[derive(Default)]
struct Problems {
    spelled_out: Vec<String>,
    more: usize,
}

impl Problems {
    /// Returns `None`, the value of a member with a problem.
    fn add<T>(&mut self, path: &str, what: &str) -> Option<T> {
        if self.spelled_out.len() < SPELLED_OUT_MAX {
            self.spelled_out.push(format!("`{path}` {what}"));
        } else {
            self.more += 1;
        }
        None
    }

    fn into_problem(self) -> Option<RowProblem> {
        let mut text = self.spelled_out.join(", ");
        if self.more > 0 {
            text = format!("{text}, and {} more", self.more);
        }
        (!text.is_empty()).then_some(RowProblem(text))
    }
}

/// When a member may be absent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    Required,
    Optional,
    /// Absent or null, which mean the same.
    Nullable,
}

/// The members of an object in a row. Where the object itself is missing, so are they, and that was reported once.
pub(super) struct Reader<'d, 'p> {
    members: Option<&'d Map<String, Value>>,
    path: String,
    problems: &'p mut Problems,
}

impl<'d> Reader<'d, '_> {
    pub(super) fn required<T>(&mut self, name: &str, read: impl FnOnce(&'d Value) -> Kind<T>) -> Option<T> {
        self.member(name, Presence::Required, read)
    }

    pub(super) fn optional<T>(&mut self, name: &str, read: impl FnOnce(&'d Value) -> Kind<T>) -> Option<T> {
        self.member(name, Presence::Optional, read)
    }

    pub(super) fn nullable<T>(&mut self, name: &str, read: impl FnOnce(&'d Value) -> Kind<T>) -> Option<T> {
        self.member(name, Presence::Nullable, read)
    }

    /// The object `name`, which is required.
    pub(super) fn object(&mut self, name: &str) -> Reader<'d, '_> {
        let members = self.required(name, object);
        Reader { members, path: format!("{}{name}.", self.path), problems: self.problems }
    }

    /// The object `name`, if it is there and not null.
    pub(super) fn nullable_object(&mut self, name: &str) -> Option<Reader<'d, '_>> {
        let members = self.nullable(name, object)?;
        Some(Reader { members: Some(members), path: format!("{}{name}.", self.path), problems: self.problems })
    }

    /// The objects of the list `name`, which is required; what is no object is left out.
    pub(super) fn objects<T>(&mut self, name: &str, mut read: impl FnMut(&mut Reader<'d, '_>) -> T) -> Vec<T> {
        let mut values = Vec::new();
        for (at, value) in self.required(name, list).unwrap_or_default().iter().enumerate() {
            let path = format!("{}{name}[{at}]", self.path);
            match object(value) {
                Ok(members) => values.push(read(&mut Reader {
                    members: Some(members),
                    path: format!("{path}."),
                    problems: self.problems,
                })),
                Err(what) => self.problems.add(&path, what).unwrap_or_default(),
            }
        }
        values
    }

    /// The texts of the list `name`; what is no text is left out.
    pub(super) fn texts(&mut self, name: &str, presence: Presence) -> Vec<String> {
        let mut values = Vec::new();
        for (at, value) in self.member(name, presence, list).unwrap_or_default().iter().enumerate() {
            match text(value) {
                Ok(text) => values.push(text),
                Err(what) => self.problems.add(&format!("{}{name}[{at}]", self.path), what).unwrap_or_default(),
            }
        }
        values
    }

    fn member<T>(&mut self, name: &str, presence: Presence, read: impl FnOnce(&'d Value) -> Kind<T>) -> Option<T> {
        let what = match self.members?.get(name) {
            Some(Value::Null) if presence == Presence::Nullable => return None,
            None if presence != Presence::Required => return None,
            None => MISSING,
            Some(value) => match read(value) {
                Ok(value) => return Some(value),
                Err(what) => what,
            },
        };
        self.problems.add(&format!("{}{name}", self.path), what)
    }
}

/// What a member is, or what it should be.
pub(super) type Kind<T> = Result<T, &'static str>;

pub(super) fn text(value: &Value) -> Kind<String> {
    value.as_str().map(str::to_owned).ok_or(NOT_TEXT)
}

pub(super) fn boolean(value: &Value) -> Kind<bool> {
    value.as_bool().ok_or("must be true or false")
}

pub(super) fn finite(value: &Value) -> Kind<f64> {
    value.as_f64().filter(|number| number.is_finite()).ok_or("must be a number")
}

/// A whole number. Databases that know only doubles write 5 as 5.0, which is the same.
pub(super) fn int32(value: &Value) -> Kind<i32> {
    let number = value.as_f64().filter(|number| number.fract() == 0.0);
    let in_range = number.filter(|number| (f64::from(i32::MIN)..=f64::from(i32::MAX)).contains(number));
    in_range.map(|number| number as i32).ok_or("must be a whole number of 32 bits")
}

/// A UUID as text, in any of its spellings; its 16 bytes.
pub(super) fn uuid(value: &Value) -> Kind<Bytes> {
    let id = value.as_str().and_then(|text| Uuid::parse_str(text).ok()).ok_or("must be a UUID")?;
    Ok(Bytes::copy_from_slice(id.as_bytes()))
}

/// Bytes, as the database writes them in JSON.
pub(super) fn binary(value: &Value) -> Kind<Bytes> {
    json::bytes(value).map(Bytes::from).ok_or("must be binary")
}

/// A UUID in the one form that keys have.
pub(super) fn key_text(value: &Value) -> Kind<String> {
    let text = value.as_str().ok_or("must be a UUID in lower case with hyphens")?;
    canonical_id(text).map_err(|_| "must be a UUID in lower case with hyphens")?;
    Ok(text.to_owned())
}

/// The name of a member of an enum; `number_of` knows them, `expected` lists them.
pub(super) fn named(
    number_of: impl FnOnce(&str) -> Option<i32>,
    expected: &'static str,
) -> impl FnOnce(&Value) -> Kind<i32> {
    move |value| value.as_str().and_then(number_of).ok_or(expected)
}

/// A number as it is stored: whole ones without a fraction, as a database writes them. `None` for what JSON cannot say.
pub(super) fn stored_number(number: f64) -> Option<Value> {
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    if number.fract() == 0.0 && number.abs() <= EXACT_MAX {
        return Some(Value::from(number as i64));
    }
    serde_json::Number::from_f64(number).map(Value::Number)
}

fn object(value: &Value) -> Kind<&Map<String, Value>> {
    value.as_object().ok_or("must be an object")
}

fn list(value: &Value) -> Kind<&[Value]> {
    value.as_array().map(Vec::as_slice).ok_or("must be a list")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn document(value: Value) -> Document {
        Document::parse(value.to_string().as_bytes()).unwrap()
    }

    fn problem(value: Value, read: impl FnOnce(&mut Reader<'_, '_>)) -> Option<String> {
        read_row(&document(value), read).unwrap().problem.map(|problem| problem.to_string())
    }

    #[test]
    fn members_have_the_type_they_should() {
        assert_eq!(text(&json!("a")), Ok("a".to_owned()));
        assert_eq!(text(&json!(null)), Err("must be text"));
        assert_eq!(boolean(&json!(0)), Err("must be true or false"));
        assert_eq!(finite(&json!(1)), Ok(1.0));
        assert_eq!(finite(&json!("1")), Err("must be a number"));
        assert_eq!(uuid(&json!("x")), Err("must be a UUID"));
        assert_eq!(uuid(&json!("12345678-1234-5678-1234-567812345678")).unwrap()[..4], [0x12, 0x34, 0x56, 0x78]);
    }

    #[test]
    fn whole_numbers_may_be_written_as_doubles() {
        let cases = [
            (json!(5), Some(5)),
            (json!(5.0), Some(5)),
            (json!(-0.0), Some(0)),
            (json!(2_147_483_647), Some(i32::MAX)),
            (json!(-2_147_483_648.0), Some(i32::MIN)),
            (json!(2_147_483_648_u32), None),
            (json!(5.5), None),
            (json!(1e300), None),
            (json!(u64::MAX), None),
            (json!("5"), None),
            (json!(true), None),
        ];
        for (value, expected) in cases {
            assert_eq!(int32(&value).ok(), expected, "{value}");
        }
    }

    #[test]
    fn absent_and_null_are_as_the_presence_says() {
        let row = json!({"null": null});
        let missing = |name: &'static str| {
            let row = row.clone();
            move |presence| problem(row, |row| drop(row.member(name, presence, text)))
        };
        assert_eq!(missing("absent")(Presence::Required).unwrap(), "`absent` is missing");
        assert_eq!(missing("absent")(Presence::Optional), None);
        assert_eq!(missing("absent")(Presence::Nullable), None);
        assert_eq!(missing("null")(Presence::Required).unwrap(), "`null` must be text");
        assert_eq!(missing("null")(Presence::Optional).unwrap(), "`null` must be text");
        assert_eq!(missing("null")(Presence::Nullable), None);
    }

    #[test]
    fn problems_name_the_path_and_never_the_value() {
        let row = json!({"a": {"b": "hunter2"}, "l": [{"p": 1}, "hunter2", {}], "t": ["x", 2]});
        let problem = problem(row, |row| {
            row.object("a").required("b", boolean);
            assert_eq!(row.objects("l", |entry| entry.required("p", int32)), [Some(1), None]);
            assert_eq!(row.texts("t", Presence::Required), ["x"]);
        });
        assert_eq!(
            problem.unwrap(),
            "`a.b` must be true or false, `l[1]` must be an object, `l[2].p` is missing, `t[1]` must be text"
        );
    }

    #[test]
    fn a_missing_object_is_one_problem() {
        let text = problem(json!({}), |row| {
            let mut inner = row.object("limits");
            inner.required("max_cost", finite);
            inner.required("max_items", int32);
        });
        assert_eq!(text.unwrap(), "`limits` is missing");
    }

    #[test]
    fn a_damaged_row_has_a_short_problem() {
        let row = json!({"seeds": vec![1; 1000]});
        let text = problem(row, |row| drop(row.texts("seeds", Presence::Required))).unwrap();
        assert!(text.ends_with("`seeds[4]` must be text, and 995 more"), "{text}");
    }

    #[test]
    fn a_name_is_read_alone() {
        let name = |text: &str| read_name(&Document::from_stored(text.as_bytes().to_vec()), "name");
        assert_eq!(name(r#"{"a":{"name":1},"name":"N","z":[]}"#), Ok(Shown { value: Some("N".into()), problem: None }));
        assert_eq!(name("{}").unwrap().problem.unwrap().to_string(), "`name` is missing");
        assert_eq!(name(r#"{"name":null}"#).unwrap().problem.unwrap().to_string(), "`name` must be text");
        assert_eq!(name("[]").unwrap_err().to_string(), "the row is not a JSON object");
        assert_eq!(name("").unwrap_err().to_string(), "the row is not a JSON object");
    }

    #[test]
    fn only_one_spelling_of_an_id_is_a_key() {
        let id = "0123abcd-1234-5678-1234-567812345678";
        assert_eq!(key_id(&Key::text(id)).unwrap().to_string(), id);
        for (key, expected) in [
            (Key::text("policy 1"), "the key is not a UUID"),
            (Key::number(1.0), "the key is not a UUID"),
            (Key::text(&id.to_uppercase()), "the key is a UUID, but not in lower case with hyphens"),
            (Key::text(&id.replace('-', "")), "the key is a UUID, but not in lower case with hyphens"),
        ] {
            assert_eq!(key_id(&key).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn numbers_are_stored_as_a_database_writes_them() {
        assert_eq!(stored_number(5.0).unwrap().to_string(), "5");
        assert_eq!(stored_number(-0.25).unwrap().to_string(), "-0.25");
        assert_eq!(stored_number(1e300).unwrap().to_string(), "1e+300");
        assert_eq!(stored_number(f64::NAN), None);
        assert_eq!(stored_number(f64::INFINITY), None);
    }
}
