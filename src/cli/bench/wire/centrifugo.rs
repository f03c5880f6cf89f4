//! Centrifugo's JSON protocol: one object per line, several lines in a frame.

use anyhow::{Context, bail};
use serde::Deserialize;

use super::Heard;
use crate::cli::bench::engine::Answer;
use crate::cli::bench::event;
use crate::cli::bench::frame::Opcode;

const CONNECT_ID: i64 = -1;
const SUBSCRIBE_ID: i64 = -2;

pub(super) fn greet(table: Option<usize>, say: &mut dyn FnMut(&[u8], Opcode)) {
    let mut text = format!("{{\"id\":{},\"connect\":{{}}}}", id(CONNECT_ID));
    if let Some(table) = table {
        text.push_str(&format!("\n{{\"id\":{},\"subscribe\":{{\"channel\":\"bench-{table}\"}}}}", id(SUBSCRIBE_ID)));
    }
    say(text.as_bytes(), Opcode::Text);
}

/// Ids are unsigned there; those of changes come from below.
fn id(id: i64) -> i64 {
    i64::from(u32::MAX) + id
}

pub(super) fn publish(table: usize, payload: &str, request_id: i32, out: &mut Vec<u8>) -> Opcode {
    // 0 is no id.
    let id = i64::from(request_id) + 1;
    let text = format!("{{\"id\":{id},\"publish\":{{\"channel\":\"bench-{table}\",\"data\":\"{payload}\"}}}}");
    out.extend_from_slice(text.as_bytes());
    Opcode::Text
}

#[derive(Deserialize)]
struct Reply<'a> {
    #[serde(default)]
    id: i64,
    #[serde(borrow)]
    push: Option<Push<'a>>,
    #[serde(borrow)]
    error: Option<&'a serde_json::value::RawValue>,
}

#[derive(Deserialize)]
struct Push<'a> {
    #[serde(borrow, rename = "pub")]
    publication: Option<Publication<'a>>,
}

#[derive(Deserialize)]
struct Publication<'a> {
    data: &'a str,
}

/// What a publication looks like on its way: found without reading the rest.
const PUBLISHED: &[u8] = b"\"data\":\"";

pub(super) fn hear(bytes: &[u8], mut take: impl FnMut(Heard) -> anyhow::Result<()>) -> anyhow::Result<Option<Answer>> {
    let mut answer = None;
    for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        if line == b"{}" {
            answer = Some((&b"{}"[..], Opcode::Text));
            continue;
        }
        if line.starts_with(b"{\"push\"")
            && let Some(at) = memchr::memmem::find(line, PUBLISHED)
        {
            let number = event::number_of(&line[at + PUBLISHED.len()..]);
            take(Heard::Change(number.context("somebody else publishes where it is measured")?))?;
            continue;
        }
        let reply: Reply<'_> = serde_json::from_slice(line).context("the server's answer is not understood")?;
        if let Some(error) = reply.error {
            bail!("the server refused a request: {error}");
        }
        if let Some(publication) = reply.push.and_then(|push| push.publication) {
            let number = event::number_of(publication.data.as_bytes());
            take(Heard::Change(number.context("somebody else publishes where it is measured")?))?;
        } else if reply.id == id(SUBSCRIBE_ID) {
            take(Heard::Subscribed)?;
        }
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(text: &str) -> (Vec<Heard>, bool) {
        let mut all = Vec::new();
        let answer = hear(text.as_bytes(), |what| {
            all.push(what);
            Ok(())
        });
        (all, answer.expect("it is understood").is_some())
    }

    #[test]
    fn a_frame_may_have_many_lines() {
        let data = event::name(5, 40);
        let id = id(SUBSCRIBE_ID);
        let text = format!(
            "{{\"id\":{},\"connect\":{{\"client\":\"x\",\"ping\":25}}}}\n{{\"id\":{id},\"subscribe\":{{}}}}\n{{}}\n\
             {{\"push\":{{\"channel\":\"bench-0\",\"pub\":{{\"data\":\"{data}\"}}}}}}\n\
             {{ \"push\":{{\"channel\":\"bench-0\",\"pub\":{{ \"data\" : \"{data}\"}}}}}}\n{{\"id\":6,\"publish\":{{}}}}\n",
            id + 1,
        );
        assert_eq!(heard(&text), (vec![Heard::Subscribed, Heard::Change(5), Heard::Change(5)], true));
        assert_eq!(heard("{\"id\":1,\"connect\":{}}"), (vec![], false));
    }

    #[test]
    fn a_refusal_ends_the_run() {
        let refusal = b"{\"id\":3,\"error\":{\"code\":103,\"message\":\"permission denied\"}}";
        let error = hear(refusal, |_| Ok(())).expect_err("an error");
        assert!(error.to_string().contains("permission denied"), "{error}");
    }
}
