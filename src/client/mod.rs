//! A client of the protobuf API, as the command line uses it.

use std::collections::VecDeque;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use prost::Message as _;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use crate::proto;

/// Why a client could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address is not `ws://HOST:PORT/PATH`.
    #[error("{0:?} is no address of a server: it looks like ws://127.0.0.1:8000/ws/")]
    Address(String),
    /// Nobody answers there.
    #[error("no server answers at {address}: {error} (start one with `starfeed serve`)")]
    Connect {
        /// Where.
        address: String,
        /// What the system says.
        error: std::io::Error,
    },
    /// Whoever answers there is no such server.
    #[error("the server at {address} refused the connection: {error}")]
    Handshake {
        /// Where.
        address: String,
        /// What went wrong.
        error: Box<WsError>,
    },
    /// The server ended the connection.
    #[error("the server ended the connection: {0}")]
    Closed(String),
    /// The server sent something that is not a message of the API.
    #[error("the server sent what is not a message of the API")]
    Undecodable,
    /// The server refused the request.
    #[error("{0}")]
    Refused(String),
}

/// A connection to a server.
#[derive(Debug)]
pub struct Client {
    socket: WebSocketStream<TcpStream>,
    next_request_id: i32,
    /// Events that came while a response was waited for.
    events: VecDeque<proto::Event>,
}

impl Client {
    /// Connects to `url`, for example `ws://127.0.0.1:8000/ws/`.
    pub async fn connect(url: &str) -> Result<Self, ClientError> {
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
        Ok(Self { socket, next_request_id: 1, events: VecDeque::new() })
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

    /// Sends `command` without waiting; returns the number that its response will repeat.
    pub async fn send(&mut self, command: proto::request::Command) -> Result<i32, ClientError> {
        let request_id = self.next_request_id;
        self.next_request_id = self.next_request_id.wrapping_add(1);
        let request = proto::Request { request_id, command: Some(command) };
        let message = Message::Binary(request.encode_to_vec().into());
        self.socket.send(message).await.map_err(|error| ClientError::Closed(error.to_string()))?;
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
            match self.socket.next().await {
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

    /// Says goodbye.
    pub async fn close(mut self) {
        // The connection is given up either way.
        let _ = self.socket.close(None).await;
    }
}
