//! A connection, and requests over it.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use prost::Message as _;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use super::ClientError;
use crate::proto;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection to a server.
#[derive(Debug)]
pub struct Client {
    socket: WebSocketStream<TcpStream>,
    /// Requests were queued that the socket may not have taken yet.
    is_unflushed: bool,
    next_request_id: i32,
    /// Events that came while a response was waited for.
    events: VecDeque<proto::Event>,
}

impl Client {
    /// Connects to `url`, for example `ws://127.0.0.1:8000/ws/`; gives up after ten seconds.
    pub async fn connect(url: &str) -> Result<Self, ClientError> {
        timeout(CONNECT_TIMEOUT, Self::open(url)).await.unwrap_or_else(|_| {
            let text = format!("no answer for {} s", CONNECT_TIMEOUT.as_secs());
            let error = std::io::Error::new(std::io::ErrorKind::TimedOut, text);
            Err(ClientError::Connect { address: url.to_owned(), error })
        })
    }

    async fn open(url: &str) -> Result<Self, ClientError> {
        let authority = url
            .strip_prefix("ws://")
            .and_then(|rest| rest.split('/').next())
            .filter(|authority| !authority.is_empty())
            .ok_or_else(|| ClientError::Address(url.to_owned()))?;
        let address = if authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
            authority.to_owned()
        } else {
            format!("{authority}:80")
        };
        let connect_error = |error| ClientError::Connect { address: address.clone(), error };
        let stream = TcpStream::connect(&address).await.map_err(connect_error)?;
        stream.set_nodelay(true).map_err(connect_error)?;
        let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
        let handshake = tokio_tungstenite::client_async_with_config(url, stream, Some(config));
        let (socket, _) = handshake
            .await
            .map_err(|error| ClientError::Handshake { address: address.clone(), error: Box::new(error) })?;
        Ok(Self { socket, is_unflushed: false, next_request_id: 1, events: VecDeque::new() })
    }

    /// Sends `command` and waits for its response; the body is `None` where the command has none.
    pub async fn request(
        &mut self,
        command: proto::request::Command,
    ) -> Result<Option<proto::response::Body>, ClientError> {
        let request_id = self.send(command).await?;
        loop {
            match self.receive().await? {
                proto::server_message::MessageType::Event(event) => self.events.push_back(event),
                proto::server_message::MessageType::Response(response) if response.request_id == request_id => {
                    return if response.is_success {
                        Ok(response.body)
                    } else {
                        Err(ClientError::Refused(response.error_message.unwrap_or_default()))
                    };
                }
                proto::server_message::MessageType::Response(_) => {}
            }
        }
    }

    /// Sends `command` without waiting for its response; returns the number that the response will repeat.
    pub async fn send(&mut self, command: proto::request::Command) -> Result<i32, ClientError> {
        let request_id = self.queue(command)?;
        self.socket.flush().await.map_err(|error| ClientError::Closed(error.to_string()))?;
        self.is_unflushed = false;
        Ok(request_id)
    }

    /// Like [`Client::send`], but whoever receives next sends it: nothing here can be cut short half-way.
    pub fn queue(&mut self, command: proto::request::Command) -> Result<i32, ClientError> {
        let request_id = self.next_request_id;
        self.next_request_id = self.next_request_id.wrapping_add(1);
        let request = proto::Request { request_id, command: Some(command) };
        let message = Message::Binary(request.encode_to_vec().into());
        self.socket.start_send_unpin(message).map_err(|error| ClientError::Closed(error.to_string()))?;
        self.is_unflushed = true;
        Ok(request_id)
    }

    /// The next event; responses that come before it are passed over.
    pub async fn next_event(&mut self) -> Result<proto::Event, ClientError> {
        if let Some(event) = self.events.pop_front() {
            return Ok(event);
        }
        loop {
            if let proto::server_message::MessageType::Event(event) = self.receive().await? {
                return Ok(event);
            }
        }
    }

    /// The next message of any kind. Cancel-safe.
    pub async fn receive(&mut self) -> Result<proto::server_message::MessageType, ClientError> {
        loop {
            let bytes = self.receive_bytes().await?;
            let message = proto::ServerMessage::decode(bytes).map_err(|_| ClientError::Undecodable)?;
            if let Some(message) = message.message_type {
                return Ok(message);
            }
        }
    }

    /// The next message as it came. Cancel-safe.
    pub async fn receive_bytes(&mut self) -> Result<Bytes, ClientError> {
        loop {
            match poll_fn(|context| self.poll_message(context)).await {
                Some(Ok(Message::Binary(bytes))) => return Ok(bytes),
                Some(Ok(Message::Close(frame))) => {
                    let reason = frame.map(|frame| format!("{} ({})", frame.reason, frame.code));
                    return Err(ClientError::Closed(reason.unwrap_or_else(|| "without a reason".to_owned())));
                }
                Some(Ok(Message::Text(_))) => return Err(ClientError::Undecodable),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Err(error)) => return Err(ClientError::Closed(error.to_string())),
                None => return Err(ClientError::Closed("it is gone".to_owned())),
            }
        }
    }

    /// The next message; what is queued is sent meanwhile.
    fn poll_message(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Message, WsError>>> {
        if self.is_unflushed {
            match self.socket.poll_flush_unpin(context) {
                Poll::Ready(Ok(())) => self.is_unflushed = false,
                Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(error))),
                Poll::Pending => {}
            }
        }
        self.socket.poll_next_unpin(context)
    }

    /// Says goodbye.
    pub async fn close(mut self) {
        // The connection is given up either way.
        let _ = self.socket.close(None).await;
    }
}
