//! What ReQL says about values: their order, and how objects are merged.

use std::cmp::Ordering;

use serde_json::{Map, Number, Value, json};

use super::protocol::ReqlError;

const TYPE_MEMBER: &str = "$reql_type$";

/// The value of a primary key, in ReQL's order.
#[derive(Clone, Debug)]
pub(super) struct Key(pub(super) Value);

impl Key {
    /// A key of a type that RethinkDB takes.
    pub(super) fn new(value: Value) -> Result<Self, ReqlError> {
        match type_name(&value).as_str() {
            "NULL" | "OBJECT" => {
                let name = type_name(&value);
                Err(ReqlError::logic(format!(
                    "Primary keys must be either a number, string, bool, pseudotype or array (got type {name}):\n{value}"
                )))
            }
            _ => Ok(Self(value)),
        }
    }

    /// Scatters keys, so that an order by it is not the order of the keys.
    pub(super) fn scattered(&self) -> u64 {
        let hash =
            self.0.to_string().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
            });
        (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        compare(&self.0, &other.0)
    }
}

/// The name of a value's type; values of different types are ordered by it.
pub(super) fn type_name(value: &Value) -> String {
    match value {
        Value::Array(_) => "ARRAY".to_owned(),
        Value::Bool(_) => "BOOL".to_owned(),
        Value::Null => "NULL".to_owned(),
        Value::Number(_) => "NUMBER".to_owned(),
        Value::String(_) => "STRING".to_owned(),
        Value::Object(members) => match members.get(TYPE_MEMBER).and_then(Value::as_str) {
            Some(name) => format!("PTYPE<{name}>"),
            None => "OBJECT".to_owned(),
        },
    }
}

/// What is less than every value, in a list of values.
pub(super) fn least() -> Value {
    json!({TYPE_MEMBER: "MINVAL"})
}

/// What is greater than every value.
pub(super) fn greatest() -> Value {
    json!({TYPE_MEMBER: "MAXVAL"})
}

/// -1 and 1 for what is beyond all values.
fn beyond(value: &Value) -> i8 {
    match value.get(TYPE_MEMBER).and_then(Value::as_str) {
        Some("MINVAL") => -1,
        Some("MAXVAL") => 1,
        _ => 0,
    }
}

pub(super) fn compare(one: &Value, other: &Value) -> Ordering {
    match (one, other) {
        _ if beyond(one) != 0 || beyond(other) != 0 => beyond(one).cmp(&beyond(other)),
        (Value::Bool(one), Value::Bool(other)) => one.cmp(other),
        (Value::String(one), Value::String(other)) => one.cmp(other),
        (Value::Number(one), Value::Number(other)) => compare_numbers(one, other),
        (Value::Array(one), Value::Array(other)) => compare_lists(one.iter(), other.iter()),
        (Value::Object(one), Value::Object(other)) => type_name(&Value::Object(one.clone()))
            .cmp(&type_name(&Value::Object(other.clone())))
            .then_with(|| compare_objects(one, other)),
        _ => type_name(one).cmp(&type_name(other)),
    }
}

fn compare_numbers(one: &Number, other: &Number) -> Ordering {
    match (one.as_i64(), other.as_i64()) {
        (Some(one), Some(other)) => one.cmp(&other),
        _ => one.as_f64().unwrap_or(f64::NAN).total_cmp(&other.as_f64().unwrap_or(f64::NAN)),
    }
}

fn compare_lists<'a>(mut one: impl Iterator<Item = &'a Value>, mut other: impl Iterator<Item = &'a Value>) -> Ordering {
    loop {
        match (one.next(), other.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(one), Some(other)) => match compare(one, other) {
                Ordering::Equal => {}
                different => return different,
            },
        }
    }
}

fn compare_objects(one: &Map<String, Value>, other: &Map<String, Value>) -> Ordering {
    // Times are ordered by when they are, whatever their zone.
    if let (Some(one), Some(other)) = (one.get("epoch_time"), other.get("epoch_time"))
        && compare(one, other) != Ordering::Equal
    {
        return compare(one, other);
    }
    let members = |object: &Map<String, Value>| {
        object.iter().flat_map(|(name, value)| [Value::from(name.as_str()), value.clone()]).collect::<Vec<_>>()
    };
    compare_lists(members(one).iter(), members(other).iter())
}

/// As the database writes bytes: in lines.
fn in_lines(data: &str) -> String {
    let data: Vec<char> = data.chars().filter(|letter| !letter.is_ascii_whitespace()).collect();
    data.chunks(76).map(|line| line.iter().collect::<String>()).collect::<Vec<_>>().join("\r\n")
}

/// Every number is a double: `1.0` is `1`. Bytes are in lines.
pub(super) fn normalised(value: &Value) -> Value {
    match value {
        Value::Number(number) => match number.as_f64() {
            Some(double) if double.fract() == 0.0 && double.abs() < 9e15 => Value::from(double as i64),
            _ => value.clone(),
        },
        Value::Array(items) => items.iter().map(normalised).collect(),
        Value::Object(members) if type_name(value) == "PTYPE<BINARY>" => {
            let mut members = members.clone();
            if let Some(Value::String(data)) = members.get_mut("data") {
                *data = in_lines(data);
            }
            members.into()
        }
        Value::Object(members) => {
            members.iter().map(|(name, value)| (name.clone(), normalised(value))).collect::<Map<_, _>>().into()
        }
        Value::Null | Value::Bool(_) | Value::String(_) => value.clone(),
    }
}

/// `over` laid over `under`, member by member; a pseudo-type is one value.
pub(super) fn merged(under: &Value, over: &Value) -> Value {
    match (under, over) {
        (Value::Object(under), Value::Object(over_members)) if type_name(over) == "OBJECT" => {
            let mut members = under.clone();
            for (name, value) in over_members {
                let value = match members.get(name) {
                    Some(under) if type_name(under) == "OBJECT" => merged(under, value),
                    _ => value.clone(),
                };
                members.insert(name.clone(), value);
            }
            members.into()
        }
        _ => over.clone(),
    }
}

/// `value` with what a path names and nothing else; a path is `true`, or an object of paths.
pub(super) fn plucked(value: &Value, path: &Value) -> Value {
    match (value, path) {
        (Value::Array(items), _) => items.iter().map(|item| plucked(item, path)).collect(),
        (Value::Object(members), Value::Object(paths)) => {
            let named = paths.iter().filter_map(|(name, path)| Some((name, members.get(name)?, path)));
            // Of what has no members, a path that leads into it takes nothing.
            let kept = named.filter(|(_, member, path)| path.is_boolean() || member.is_object() || member.is_array());
            kept.map(|(name, member, path)| (name.clone(), plucked(member, path))).collect::<Map<_, _>>().into()
        }
        _ => value.clone(),
    }
}

/// `value` without what a path names.
pub(super) fn without_path(value: &Value, path: &Value) -> Value {
    match (value, path) {
        (Value::Array(items), _) => items.iter().map(|item| without_path(item, path)).collect(),
        (Value::Object(members), Value::Object(paths)) => {
            let kept = members.iter().filter(|(name, _)| !paths.get(*name).is_some_and(Value::is_boolean));
            let member = |(name, member): (&String, &Value)| match paths.get(name) {
                Some(path) => (name.clone(), without_path(member, path)),
                None => (name.clone(), member.clone()),
            };
            kept.map(member).collect::<Map<_, _>>().into()
        }
        _ => value.clone(),
    }
}

/// `value` without these of its members.
pub(super) fn without(value: &Value, names: &[String]) -> Value {
    match value {
        Value::Object(members) => {
            let kept = members.iter().filter(|(name, _)| !names.contains(name));
            kept.map(|(name, value)| (name.clone(), value.clone())).collect::<Map<_, _>>().into()
        }
        _ => value.clone(),
    }
}
