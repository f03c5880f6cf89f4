//! NATS over WebSocket: lines of text, and payloads of a length that the line before says. Frames may cut them anywhere.

use anyhow::{Context, bail};
use memchr::memchr;

use super::Heard;
use crate::cli::bench::engine::Answer;
use crate::cli::bench::event;
use crate::cli::bench::frame::Opcode;

/// What has come, as far as it is no whole line or payload yet.
#[derive(Debug, Default)]
pub(in crate::cli::bench) struct Nats {
    /// By number of the connection.
    partial: Vec<Vec<u8>>,
}

/// `CONNECT`, and `SUB` with a `PING` behind it: the `PONG` says that the subscription has begun.
pub(super) fn greet(table: Option<usize>, say: &mut dyn FnMut(&[u8], Opcode)) {
    let mut text = "CONNECT {\"verbose\":false,\"pedantic\":false,\"protocol\":1}\r\n".to_owned();
    if let Some(table) = table {
        text.push_str(&format!("SUB bench.{table} 1\r\nPING\r\n"));
    }
    say(text.as_bytes(), Opcode::Binary);
}

pub(super) fn publish(table: usize, payload: &str, out: &mut Vec<u8>) -> Opcode {
    out.extend_from_slice(format!("PUB bench.{table} {}\r\n{payload}\r\n", payload.len()).as_bytes());
    Opcode::Binary
}

impl Nats {
    pub(super) fn hear(
        &mut self,
        from: usize,
        bytes: &[u8],
        mut take: impl FnMut(Heard) -> anyhow::Result<()>,
    ) -> anyhow::Result<Option<Answer>> {
        if self.partial.len() <= from {
            self.partial.resize_with(from + 1, Vec::new);
        }
        let partial = &mut self.partial[from];
        let mut answer = None;
        if partial.is_empty() {
            let used = hear_whole(bytes, &mut take, &mut answer)?;
            partial.extend_from_slice(&bytes[used..]);
        } else {
            partial.extend_from_slice(bytes);
            let used = hear_whole(partial, &mut take, &mut answer)?;
            partial.drain(..used);
        }
        Ok(answer)
    }
}

/// Takes what is whole at the start of `bytes`; returns how many bytes that is.
fn hear_whole(
    bytes: &[u8],
    take: &mut impl FnMut(Heard) -> anyhow::Result<()>,
    answer: &mut Option<Answer>,
) -> anyhow::Result<usize> {
    let mut at = 0;
    while let Some(end) = memchr(b'\n', &bytes[at..]) {
        let line = bytes[at..at + end].trim_ascii_end();
        let behind = at + end + 1;
        match line.split(|byte| *byte == b' ').next().unwrap_or_default() {
            b"MSG" => {
                let length = line.rsplit(|byte| *byte == b' ').next().and_then(|text| str::from_utf8(text).ok());
                let length: usize = length.and_then(|text| text.parse().ok()).context("a MSG without a length")?;
                let Some(payload) = bytes.get(behind..behind + length + 2) else { return Ok(at) };
                let number = event::number_of(payload).context("somebody else publishes where it is measured")?;
                take(Heard::Change(number))?;
                at = behind + length + 2;
                continue;
            }
            b"PONG" => take(Heard::Subscribed)?,
            b"PING" => *answer = Some((b"PONG\r\n", Opcode::Binary)),
            b"-ERR" => bail!("the server says {}", String::from_utf8_lossy(line)),
            _ => {}
        }
        at = behind;
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_may_be_cut_anywhere() {
        let payload = event::name(17, 30);
        let text =
            format!("INFO {{}}\r\nPONG\r\nMSG bench.0 1 30\r\n{payload}\r\nPING\r\nMSG bench.0 1 30\r\n{payload}\r\n");
        for cut in 0..=text.len() {
            let mut nats = Nats::default();
            let mut heard = Vec::new();
            let mut answers = 0;
            for part in [&text[..cut], &text[cut..]] {
                let answer = nats.hear(3, part.as_bytes(), |what| {
                    heard.push(what);
                    Ok(())
                });
                answers += usize::from(answer.expect("whole lines").is_some());
            }
            assert_eq!(heard, [Heard::Subscribed, Heard::Change(17), Heard::Change(17)], "cut at {cut}");
            assert_eq!(answers, 1, "cut at {cut}");
        }
    }

    #[test]
    fn an_error_ends_the_run() {
        let mut nats = Nats::default();
        let error = nats.hear(0, b"-ERR 'Permissions Violation'\r\n", |_| Ok(())).expect_err("an error");
        assert!(error.to_string().contains("Permissions"), "{error}");
        assert!(nats.hear(0, b"MSG bench.0 1 5\r\nhello\r\n", |_| Ok(())).is_err());
    }

    #[test]
    fn what_is_published_says_its_length() {
        let mut out = Vec::new();
        publish(2, "hello", &mut out);
        assert_eq!(out, b"PUB bench.2 5\r\nhello\r\n");
    }
}
