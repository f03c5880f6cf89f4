//! The heads of HTTP requests, however they come in: what is refused is refused, and what is not keeps what stands behind it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use starfeed::transport::http::{Asked, HttpLimits, NoRequest, OriginPolicy, read_request};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::runtime::{Builder, Runtime};

const LIMITS: HttpLimits = HttpLimits { head_timeout: Duration::from_secs(60), head_bytes: 1024 };

pub(crate) fn target(data: &[u8]) {
    thread_local! {
        static RUNTIME: Runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
        static ORIGINS: OriginPolicy = OriginPolicy::LoopbackAnd(vec!["https://ui.example".to_owned()]);
    }
    let Some((piece, sent)) = data.split_first() else { return };
    let mut stream = Pieces { rest: sent, piece: usize::from(*piece) + 1 };
    let mut buffer = BytesMut::new();
    let asked = RUNTIME.with(|runtime| {
        ORIGINS.with(|origins| runtime.block_on(read_request(&mut stream, &mut buffer, &LIMITS, origins)))
    });
    let end = sent.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4);
    match asked {
        Ok(asked) => {
            let head = &sent[..end.expect("a head has an end")];
            assert_eq!([&buffer[..], stream.rest].concat(), sent[head.len()..], "what stands behind the head is lost");
            check(head, &asked);
        }
        Err(NoRequest::Gone) => assert_eq!(end, None),
        Err(NoRequest::Refused(refusal)) => assert!(!refusal.text.is_empty()),
    }
}

fn check(head: &[u8], asked: &Asked) {
    // Empty lines in front of it are nothing.
    let head = head.trim_ascii_start().to_ascii_lowercase();
    let has = |part: &[u8]| head.windows(part.len()).any(|window| window == part);
    match asked {
        Asked::Upgrade { accept } => {
            assert_eq!(accept.len(), 28);
            assert!(has(b"upgrade") && has(b"websocket") && has(b"sec-websocket-key") && head.starts_with(b"get "));
        }
        Asked::Page { path, with_body } => {
            assert!(!path.contains(['\r', '\n', '?']));
            assert_eq!(*with_body, head.starts_with(b"get "));
        }
    }
    // A page of another site, by its own name or by one that leads here.
    assert!(
        !has(b"\nhost: evil.example\r\n") && !has(b"\norigin: https://evil.example\r\n"),
        "another site was let in"
    );
}

/// Bytes that come a few at a time.
struct Pieces<'d> {
    rest: &'d [u8],
    piece: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let count = self.piece.min(self.rest.len()).min(buffer.remaining());
        let (now, later) = self.rest.split_at(count);
        buffer.put_slice(now);
        self.rest = later;
        Poll::Ready(Ok(()))
    }
}
