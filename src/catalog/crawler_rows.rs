//! What rows have to be like in the tables that have no events of their own. The crawler writes and reads them all.

use serde_json::Value;

use super::fields::{Kind, Reader, binary, boolean, checked, checked_key, finite, int32, key_text, read_row, text};
use super::response::headers;
use super::{ids, time};
use crate::change::{Document, Key};

pub(super) fn response(document: &Document) -> Result<Key, String> {
    let shown = read_row(document, |members| {
        let key = members.required("sequence", sequence);
        members.required("job_id", key_text);
        members.required("url", text);
        for name in ["canonical_url", "url_can", "content_type", "exception"] {
            members.nullable(name, text);
        }
        for name in ["started_at", "completed_at"] {
            members.nullable(name, time::text);
        }
        for name in ["duration", "cost"] {
            members.nullable(name, finite);
        }
        members.nullable("is_success", boolean);
        members.nullable("status_code", int32);
        members.nullable("headers", headers);
        members.nullable("body_id", binary_key);
        key
    });
    checked_key(shown)
}

pub(super) fn response_body(document: &Document) -> Result<Key, String> {
    let shown = read_row(document, |members| {
        let key = members.required("id", binary_key);
        members.nullable("body", binary);
        members.required("is_compressed", boolean);
        key
    });
    checked_key(shown)
}

pub(super) fn frontier(document: &Document) -> Result<Key, String> {
    let shown = read_row(document, |members| {
        let key = text_key(members);
        members.required("job_id", key_text);
        members.required("url", text);
        members.required("cost", finite);
        members.required("in_flight", boolean);
        key
    });
    checked(shown)
}

pub(super) fn robots_txt(document: &Document) -> Result<Key, String> {
    checked(read_row(document, text_key))
}

fn text_key(members: &mut Reader<'_, '_>) -> Option<String> {
    members.required("id", |value| {
        let key = value.as_str().filter(|key| ids::is_key(key));
        key.map(str::to_owned).ok_or("must be text of at most 127 bytes, without NUL")
    })
}

/// The number of a response among all. A double has to tell it from the one before.
fn sequence(value: &Value) -> Kind<Key> {
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    let number = value.as_f64().filter(|number| number.fract() == 0.0 && (0.0..EXACT_MAX).contains(number));
    // Zero has two signs, and would be two rows.
    number.map(|number| Key::number(number.abs())).ok_or("must be a whole number ≥0")
}

fn binary_key(value: &Value) -> Kind<Key> {
    let bytes = binary(value)?;
    if bytes.len() <= ids::KEY_BYTES_MAX {
        Ok(Key::binary(&bytes))
    } else {
        Err("must be binary, of at most 127 bytes")
    }
}

#[cfg(test)]
mod tests;
