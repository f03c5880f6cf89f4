//! A WebSocket server that sends each message back, for conformance tests: the handshake, the socket and its ends are
//! those of starfeed; only what a message means is not.
//!
//! It says on standard output where it listens, and serves until it is ended.

use std::io::Write;
use std::time::Duration;

use bytes::BytesMut;
use starfeed::config::Config;
use starfeed::task;
use starfeed::transport::frame_writer::{FrameKind, Frames};
use starfeed::transport::http::{self, Asked, NoRequest};
use starfeed::transport::socket::{ClientSocket, FromSocket, SocketLimits};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // The bounds of a server, but for what the tests need more of.
    let config = Config::default();
    let limits = SocketLimits {
        message_bytes: 16 << 20,
        message_fragments: 1 << 20,
        message_timeout: Duration::from_secs(60),
        ..config.limits.websocket().socket
    };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    writeln!(std::io::stdout(), "listening on {}", listener.local_addr()?)?;
    let connections = TaskTracker::new();
    loop {
        let (stream, _) = listener.accept().await?;
        let config = config.clone();
        task::spawn(&connections, async move { welcome(stream, &config, limits).await });
    }
}

async fn welcome(mut stream: TcpStream, config: &Config, limits: SocketLimits) {
    let mut buffer = BytesMut::new();
    match http::read_request(&mut stream, &mut buffer, &config.limits.http(), &config.origin_policy()).await {
        Ok(Asked::Upgrade { accept }) => {
            if stream.set_nodelay(true).is_ok() && http::accept_upgrade(&mut stream, &accept).await.is_ok() {
                echo(ClientSocket::open(stream, buffer.into(), limits).await).await;
            }
        }
        Ok(Asked::Page { .. }) | Err(NoRequest::Gone) => {}
        Err(NoRequest::Refused(refusal)) => {
            let _ = http::respond(&mut stream, refusal.status, "text/plain", refusal.text, true).await;
        }
    }
}

async fn echo(mut socket: ClientSocket) {
    let mut frames = Frames::default();
    loop {
        // One message at a time: what it answers is bounded by what it takes.
        let may_read = !socket.outgoing().is_unflushed();
        match socket.next(may_read).await {
            FromSocket::Flushed => continue,
            FromSocket::Binary(bytes) => frames.put_frame(FrameKind::Binary, |out| out.extend_from_slice(&bytes)),
            FromSocket::Text(text) => frames.put_frame(FrameKind::Text, |out| out.extend_from_slice(text.as_bytes())),
            FromSocket::End(None) => return,
            FromSocket::End(Some(reason)) => return socket.close(reason).await,
        };
        if socket.outgoing().send(frames.bytes()).is_err() {
            return;
        }
        frames.clear(1 << 16);
    }
}
