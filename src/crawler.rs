//! The crawler's own API, for what only the crawler can do: one command goes there, one answer comes back.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, SinkExt, StreamExt};
use prost::Message as _;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::http::Uri;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use crate::proto;

/// How long the crawler has to say goodbye.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Ours on each connection, which has only one request.
const REQUEST_ID: i32 = 1;

/// What an answer of the crawler has in it, if anything.
pub type CrawlerBody = Option<Box<proto::response::Body>>;

/// Bounds of what the crawler is asked.
#[derive(Clone, Copy, Debug)]
pub struct CrawlerLimits {
    /// Until a connection has to be ready for use.
    pub connect_timeout: Duration,
    /// Until a command has to be answered.
    pub answer_timeout: Duration,
    /// Bytes of one message of the crawler.
    pub message_bytes: usize,
    /// Commands that are passed on at a time; the others wait for their turn.
    pub commands: usize,
}

/// A crawler that carries out commands.
#[derive(Clone, Debug)]
pub struct Crawler {
    address: Address,
    limits: CrawlerLimits,
    turns: Arc<Semaphore>,
}

impl Crawler {
    /// The crawler at `address`, `ws://HOST:PORT/PATH`. The error says what is wrong with it, without repeating it.
    pub fn new(address: &str, limits: CrawlerLimits) -> Result<Self, String> {
        let turns = Arc::new(Semaphore::new(limits.commands.min(Semaphore::MAX_PERMITS)));
        Ok(Self { address: Address::parse(address)?, limits, turns })
    }

    /// Whether it is at `HOST:PORT`, as far as that can be said without looking names up.
    pub fn is_at(&self, authority: &str) -> bool {
        let plain = |authority: &str| authority.replacen("localhost:", "127.0.0.1:", 1);
        plain(&self.address.authority) == plain(authority)
    }

    /// Passes `command` on. The error is the crawler's own text, or says why there is none; it is for the client.
    ///
    /// Each command has a connection of its own, which ends with the answer: what a command subscribes to ends with it too.
    /// When the future is dropped, the connection is cut, and the command may be carried out all the same.
    pub fn ask(&self, command: proto::request::Command) -> BoxFuture<'static, Result<CrawlerBody, String>> {
        let Self { address, limits, turns } = self.clone();
        async move {
            let _turn = turns.acquire_owned().await.expect("nobody ends the turns");
            let answer = match timeout(limits.connect_timeout, connect(&address, &limits)).await {
                Ok(Ok(mut socket)) => {
                    let answer = timeout(limits.answer_timeout, exchange(&mut socket, command)).await;
                    close(socket).await;
                    answer.unwrap_or(Err(Failure::Silent))
                }
                Ok(Err(failure)) => Err(failure),
                Err(_) => Err(Failure::Unreachable(format!("no answer for {}", seconds(limits.connect_timeout)))),
            };
            answer.map_err(|failure| failure.text(&address, &limits))
        }
        .boxed()
    }
}

type Socket = WebSocketStream<TcpStream>;

async fn connect(address: &Address, limits: &CrawlerLimits) -> Result<Socket, Failure> {
    let unreachable = |error| Failure::Unreachable(cause(&error));
    let stream = TcpStream::connect(&address.authority).await.map_err(unreachable)?;
    stream.set_nodelay(true).map_err(unreachable)?;
    let bound = Some(limits.message_bytes);
    let config = WebSocketConfig::default().max_message_size(bound).max_frame_size(bound);
    match tokio_tungstenite::client_async_with_config(address.to_string(), stream, Some(config)).await {
        Ok((socket, _)) => Ok(socket),
        Err(WsError::Io(error)) => Err(Failure::Unreachable(cause(&error))),
        Err(error) => Err(Failure::NoWebSocket(error.to_string())),
    }
}

async fn exchange(socket: &mut Socket, command: proto::request::Command) -> Result<CrawlerBody, Failure> {
    let request = proto::Request { request_id: REQUEST_ID, command: Some(command) };
    let request = Message::Binary(request.encode_to_vec().into());
    socket.send(request).await.map_err(Failure::of_socket)?;
    loop {
        let bytes = match socket.next().await {
            Some(Ok(Message::Binary(bytes))) => bytes,
            Some(Ok(Message::Text(_))) => return Err(Failure::Nonsense("it is text".to_owned())),
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
            Some(Ok(Message::Close(None))) => return Err(Failure::Ended("without a reason".to_owned())),
            Some(Ok(Message::Close(Some(frame)))) => {
                return Err(Failure::Ended(format!("{} {}", frame.code, frame.reason).trim_end().to_owned()));
            }
            Some(Err(error)) => return Err(Failure::of_socket(error)),
            None => return Err(Failure::Ended("without a reason".to_owned())),
        };
        let message =
            proto::ServerMessage::decode(bytes).map_err(|_| Failure::Nonsense("it cannot be decoded".to_owned()))?;
        match message.message_type {
            Some(proto::server_message::MessageType::Response(response)) if response.request_id == REQUEST_ID => {
                return match response.error_message {
                    _ if response.is_success => Ok(response.body.map(Box::new)),
                    Some(text) if !text.trim().is_empty() => Err(Failure::Refused(text)),
                    _ => Err(Failure::RefusedWithoutText),
                };
            }
            // Events, and answers to what was not asked here.
            Some(_) | None => {}
        }
    }
}

/// Says goodbye, and takes what still comes: a connection that is closed with something unread in it ends with a reset,
/// which the crawler may not survive.
async fn close(mut socket: Socket) {
    let goodbye = async {
        // Whatever comes of it, there is the answer, or the reason that there is none.
        let _ = socket.close(None).await;
        while let Some(Ok(_)) = socket.next().await {}
    };
    let _ = timeout(CLOSE_TIMEOUT, goodbye).await;
}

/// Why there is no success to report.
enum Failure {
    Unreachable(String),
    NoWebSocket(String),
    Silent,
    Ended(String),
    Nonsense(String),
    TooLarge,
    Refused(String),
    RefusedWithoutText,
}

impl Failure {
    fn of_socket(error: WsError) -> Self {
        match error {
            WsError::Io(error) => Self::Ended(cause(&error)),
            WsError::ConnectionClosed | WsError::AlreadyClosed => Self::Ended("without a reason".to_owned()),
            WsError::Protocol(error) => Self::Ended(error.to_string()),
            WsError::Capacity(_) => Self::TooLarge,
            error => Self::Nonsense(error.to_string()),
        }
    }

    fn text(self, address: &Address, limits: &CrawlerLimits) -> String {
        const UNKNOWN: &str = "It may have carried out the command: look before you try again.";
        match self {
            Self::Unreachable(cause) => format!(
                "The crawler at {address} cannot be reached: {cause}. Start it, or change crawler in the configuration."
            ),
            Self::NoWebSocket(cause) => format!(
                "What answers at {address} is no API of a crawler: {cause}. Change crawler in the configuration."
            ),
            Self::Silent => format!(
                "The crawler at {address} has not answered for {}. {UNKNOWN} If it needs longer, raise \
                crawler_answer_seconds in the configuration.",
                seconds(limits.answer_timeout)
            ),
            Self::Ended(reason) => {
                format!("The crawler at {address} ended the connection before it answered ({reason}). {UNKNOWN}")
            }
            Self::Nonsense(what) => format!(
                "The crawler at {address} sent what is no message of its API ({what}). {UNKNOWN} If it is no crawler, \
                change crawler in the configuration."
            ),
            Self::TooLarge => format!(
                "The answer of the crawler at {address} has more than {} bytes. Ask for less, or raise \
                crawler_message_bytes in the configuration.",
                limits.message_bytes
            ),
            Self::Refused(text) => text,
            Self::RefusedWithoutText => {
                format!("The crawler at {address} refused the command and did not say why; its log may.")
            }
        }
    }
}

fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs_f64())
}

/// The text of an error without the number that the system has for it.
fn cause(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split_once(" (os error").map_or(text.as_str(), |(text, _)| text).to_owned()
}

/// Where a crawler is. It holds no secret: what could be one is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Address {
    /// `HOST:PORT`.
    authority: String,
    /// From the slash on.
    path: String,
}

impl Address {
    fn parse(url: &str) -> Result<Self, String> {
        const EXAMPLE: &str = "it looks like ws://127.0.0.1:8001/ws/";
        let uri: Uri = url.parse().map_err(|_| format!("crawler is no URL: {EXAMPLE}"))?;
        if uri.scheme_str() != Some("ws") {
            return Err(format!("crawler begins with ws://, and nothing else is spoken: {EXAMPLE}"));
        }
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        if authority.contains('@') || uri.query().is_some() {
            return Err(format!("crawler must not have a user, a password or a query: {EXAMPLE}"));
        }
        let host = uri.host().unwrap_or_default();
        let port = match authority.strip_prefix(host) {
            Some("") => Some(80),
            _ => uri.port_u16().filter(|port| *port > 0),
        };
        match port {
            Some(port) if !host.is_empty() => {
                Ok(Self { authority: format!("{host}:{port}"), path: uri.path().to_owned() })
            }
            _ => Err(format!("crawler names no host or no port that there is: {EXAMPLE}")),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ws://{}{}", self.authority, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_of_an_address_has_a_default() {
        for (url, expected) in [
            ("ws://127.0.0.1:8001/ws/", "ws://127.0.0.1:8001/ws/"),
            ("ws://crawler.example", "ws://crawler.example:80/"),
            ("ws://[::1]:8001/ws", "ws://[::1]:8001/ws"),
            ("ws://[::1]", "ws://[::1]:80/"),
        ] {
            assert_eq!(Address::parse(url).map(|address| address.to_string()).as_deref(), Ok(expected), "{url}");
        }
    }

    #[test]
    fn what_is_wrong_with_an_address_is_said_and_not_repeated() {
        for (url, expected) in [
            ("", "no URL"),
            ("a b", "no URL"),
            ("127.0.0.1:8001", "begins with ws://"),
            ("wss://crawler.example/ws/", "begins with ws://"),
            ("http://crawler.example/ws/", "begins with ws://"),
            ("ws://me:hunter2@crawler.example/ws/", "must not have a user"),
            ("ws://hunter2@crawler.example/ws/", "must not have a user"),
            ("ws://crawler.example/ws/?token=hunter2", "must not have a user"),
            ("ws://crawler.example:hunter2/", ""),
            ("ws://crawler.example:99999/", "no port that there is"),
            ("ws://crawler.example:0/", "no port that there is"),
            ("ws://:8001/", ""),
        ] {
            let error = Address::parse(url).expect_err(url);
            assert!(error.contains(expected) && error.contains("it looks like ws://"), "{url}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
