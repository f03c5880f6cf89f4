//! Times: objects of the form `{"$reql_type$":"TIME",…}` in a row, ISO 8601 text in a message.

use chrono::{DateTime, Datelike, FixedOffset, NaiveDate, NaiveDateTime, Offset, Timelike, Utc};
use serde_json::{Value, json};

use super::fields::{Kind, stored_number};
use crate::change::Timestamp;

/// Stands where a row has no time that can be read: clients cannot show a row without one.
pub(super) const UNKNOWN: &str = "1970-01-01T00:00:00+00:00";

const EXPECTED: &str = "must be a time";

/// `time` as it is stored.
pub(super) fn stored(time: Timestamp) -> Value {
    let seconds = stored_number(time.0 as f64 / 1000.0).unwrap_or_default();
    json!({"$reql_type$": "TIME", "epoch_time": seconds, "timezone": "+00:00"})
}

/// A time that a client has written: RFC 3339, or without an offset, which then is that of UTC. The error names the field.
pub(super) fn parse(field: &str, text: &str) -> Result<Value, String> {
    const WITHOUT_OFFSET: [&str; 2] = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f"];
    let with_offset = DateTime::parse_from_rfc3339(text).ok().map(|time| time.timestamp_millis());
    let naive = || WITHOUT_OFFSET.iter().find_map(|format| NaiveDateTime::parse_from_str(text, format).ok());
    let date = || text.parse::<NaiveDate>().ok().and_then(|date| date.and_hms_opt(0, 0, 0));
    let ms = with_offset.or_else(|| naive().or_else(date).map(|time| time.and_utc().timestamp_millis()));
    let seconds = ms.and_then(|ms| stored_number(ms as f64 / 1000.0));
    let seconds = seconds.ok_or_else(|| format!("Invalid {field}: must be a time, like 2019-01-01T12:00:00+00:00"))?;
    Ok(json!({"$reql_type$": "TIME", "epoch_time": seconds, "timezone": "+00:00"}))
}

/// A stored time in milliseconds since 1970; `None` for what is none.
pub(super) fn milliseconds(value: &Value) -> Option<f64> {
    let members = value.as_object().filter(|members| members.get("$reql_type$") == Some(&Value::from("TIME")))?;
    members.get("epoch_time")?.as_f64().map(|seconds| (seconds * 1000.0).round())
}

/// The text for a stored time: six fraction digits if it is no whole second, then its own offset, never `Z`.
///
/// Milliseconds are kept, which is all that the database keeps; finer digits would be the noise of a double.
pub(super) fn text(value: &Value) -> Kind<String> {
    to_text(value).ok_or(EXPECTED)
}

fn to_text(value: &Value) -> Option<String> {
    let ms = milliseconds(value)?;
    // Far beyond the years that can be written, and well inside what an i64 holds.
    let ms = (ms.abs() < 1e15).then_some(ms as i64)?;
    written(ms, offset(value.get("timezone")?.as_str()?)?)
}

/// `time` in UTC, as messages have it.
pub fn time_text(time: Timestamp) -> String {
    let ms = i64::try_from(time.0).unwrap_or(i64::MAX);
    written(ms, Utc.fix()).unwrap_or_else(|| UNKNOWN.to_owned())
}

fn written(ms: i64, offset: FixedOffset) -> Option<String> {
    let utc = DateTime::from_timestamp_millis(ms).filter(|time| (0..=10_000).contains(&time.year()))?;
    let time = utc.with_timezone(&offset);
    let digits = if time.nanosecond() == 0 { "%Y-%m-%dT%H:%M:%S%:z" } else { "%Y-%m-%dT%H:%M:%S%.6f%:z" };
    (1..=9999).contains(&time.year()).then(|| time.format(digits).to_string())
}

/// Reads `Z`, `+hh`, `+hhmm` and `+hh:mm`.
fn offset(text: &str) -> Option<FixedOffset> {
    let (sign, digits) = match text.as_bytes() {
        [b'Z'] => (1, "0".to_owned()),
        [b'+', ..] => (1, text[1..].replacen(':', "", 1)),
        [b'-', ..] => (-1, text[1..].replacen(':', "", 1)),
        _ => return None,
    };
    let is_number = digits.bytes().all(|digit| digit.is_ascii_digit());
    let number: i32 = digits.parse().ok().filter(|_| is_number)?;
    let (hours, minutes) = match digits.len() {
        1 | 2 => (number, 0),
        4 => (number / 100, number % 100),
        _ => return None,
    };
    if minutes >= 60 {
        return None;
    }
    FixedOffset::east_opt(sign * (hours * 3600 + minutes * 60))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_clients_expect_them() {
        let cases = [
            (1_546_344_000.0, "+00:00", "2019-01-01T12:00:00+00:00"),
            (1_546_344_000.123, "+00:00", "2019-01-01T12:00:00.123000+00:00"),
            (1_546_344_000.001, "+00:00", "2019-01-01T12:00:00.001000+00:00"),
            (1_546_344_000.5, "-05:00", "2019-01-01T07:00:00.500000-05:00"),
            (1_546_344_000.0, "+05:30", "2019-01-01T17:30:00+05:30"),
            (1_546_344_000.0, "-0930", "2019-01-01T02:30:00-09:30"),
            (1_546_344_000.0, "+02", "2019-01-01T14:00:00+02:00"),
            (1_546_344_000.0, "Z", "2019-01-01T12:00:00+00:00"),
            (0.0, "+00:00", UNKNOWN),
            (-0.25, "+00:00", "1969-12-31T23:59:59.750000+00:00"),
            (253_402_300_799.999, "+00:00", "9999-12-31T23:59:59.999000+00:00"),
            (-62_135_596_800.0, "+00:00", "0001-01-01T00:00:00+00:00"),
        ];
        for (seconds, timezone, expected) in cases {
            let value = json!({"$reql_type$": "TIME", "epoch_time": seconds, "timezone": timezone});
            assert_eq!(text(&value).as_deref(), Ok(expected));
        }
        let whole = json!({"$reql_type$": "TIME", "epoch_time": 1_546_344_000, "timezone": "+00:00"});
        assert_eq!(text(&whole).as_deref(), Ok("2019-01-01T12:00:00+00:00"));
    }

    #[test]
    fn what_is_no_time_is_said_to_be_none() {
        let time = |seconds: Value, timezone: Value| json!({"$reql_type$": "TIME", "epoch_time": seconds, "timezone": timezone});
        let cases = [
            json!(null),
            json!("2019-01-01T12:00:00+00:00"),
            json!(1_546_344_000),
            json!({"epoch_time": 1, "timezone": "+00:00"}),
            json!({"$reql_type$": "BINARY", "epoch_time": 1, "timezone": "+00:00"}),
            json!({"$reql_type$": "TIME", "epoch_time": 1}),
            time(json!("1"), json!("+00:00")),
            time(json!(1e18), json!("+00:00")),
            time(json!(1e300), json!("+00:00")),
            time(json!(253_402_300_800_i64), json!("+00:00")),
            time(json!(253_402_300_799_i64), json!("+01:00")),
            time(json!(-62_135_596_800_i64), json!("-00:01")),
            time(json!(1), json!("")),
            time(json!(1), json!("00:00")),
            time(json!(1), json!("+24:00")),
            time(json!(1), json!("+00:60")),
            time(json!(1), json!("+")),
            time(json!(1), json!("++1")),
            time(json!(1), json!("+0\u{e9}")),
            time(json!(1), json!(0)),
        ];
        for value in cases {
            assert_eq!(text(&value), Err("must be a time"), "{value}");
        }
    }

    #[test]
    fn now_is_stored_in_the_shape_of_the_database() {
        let value = stored(Timestamp(1_546_344_000_123));
        assert_eq!(value.to_string(), r#"{"$reql_type$":"TIME","epoch_time":1546344000.123,"timezone":"+00:00"}"#);
        assert_eq!(text(&value).as_deref(), Ok("2019-01-01T12:00:00.123000+00:00"));
        assert_eq!(stored(Timestamp(2000))["epoch_time"].to_string(), "2");
    }

    #[test]
    fn a_moment_is_written_as_one_that_is_stored() {
        for time in [0, 1, 2000, 1_546_344_000_123, 253_402_300_799_999].map(Timestamp) {
            assert_eq!(text(&stored(time)), Ok(time_text(time)));
        }
        assert_eq!(time_text(Timestamp(u64::MAX)), UNKNOWN);
    }
}
