//! A WebSocket client made of bare bytes, so that it can also do what no library lets it do.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use prost::Message;
use starfeed::proto::{self, request::Command, response::Body, server_message::MessageType};

pub(crate) const TIMEOUT: Duration = Duration::from_secs(20);

pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;

pub(crate) fn upgrade_request(address: &str) -> String {
    format!(
        "GET /ws/ HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

/// Sends `request` and reads until the server ends the connection: status line and body.
pub(crate) fn http(address: &str, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).expect("the server listens");
    stream.set_read_timeout(Some(TIMEOUT)).expect("a timeout can be set");
    // A server that refuses early may not take all of it.
    let _ = stream.write_all(request.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) opcode: u8,
    pub(crate) payload: Vec<u8>,
}

/// What a frame to the server looks like, final and masked.
pub(crate) fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    frame_with(FINAL | opcode, MASKED, payload)
}

/// A frame with any first byte, masked or not.
pub(crate) fn frame_with(first: u8, mask: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        len @ 0..126 => frame.push(mask | u8::try_from(len).expect("small")),
        len @ 126..65_536 => {
            frame.push(mask | 126);
            frame.extend(u16::try_from(len).expect("small").to_be_bytes());
        }
        len => {
            frame.push(mask | 127);
            frame.extend((len as u64).to_be_bytes());
        }
    }
    let key = if mask == MASKED { [1, 2, 3, 4] } else { [0; 4] };
    if mask == MASKED {
        frame.extend(key);
    }
    frame.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

/// A connection.
pub(crate) struct RawClient {
    stream: TcpStream,
    read: Vec<u8>,
    next_request_id: i32,
    events: VecDeque<proto::Event>,
    pause: Duration,
}

impl RawClient {
    pub(crate) fn connect(address: &str) -> Self {
        Self::try_connect(address).unwrap_or_else(|head| panic!("the connection was refused: {head}"))
    }

    /// The error is the answer of a server that does not let it in.
    pub(crate) fn try_connect(address: &str) -> Result<Self, String> {
        Self::try_reach(address).expect("the server listens and answers")
    }

    /// Connects to a server that may be gone.
    pub(crate) fn try_reach(address: &str) -> std::io::Result<Result<Self, String>> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_nodelay(true)?;
        stream.write_all(upgrade_request(address).as_bytes())?;
        let mut read = Vec::new();
        let mut byte = [0];
        while !read.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte)?;
            read.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&read).into_owned();
        if !head.starts_with("HTTP/1.1 101 ") {
            return Ok(Err(head));
        }
        assert!(head.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
        Ok(Ok(Self { stream, read: Vec::new(), next_request_id: 1, events: VecDeque::new(), pause: Duration::ZERO }))
    }

    /// Bounds what the system takes for this client while it does not read.
    pub(crate) fn bound_receive_buffer(&self, bytes: usize) {
        rustix::net::sockopt::set_socket_recv_buffer_size(&self.stream, bytes).expect("the buffer can be bounded");
    }

    /// Waits longer: to a peer that had no room for a while, a system looks only now and then whether there is some again.
    pub(crate) fn be_patient(&self) {
        self.stream.set_read_timeout(Some(8 * TIMEOUT)).expect("a timeout can be set");
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server reads");
    }

    pub(crate) fn give_up_writing_after(&self, timeout: Duration) {
        self.stream.set_write_timeout(Some(timeout)).expect("a timeout can be set");
    }

    pub(crate) fn pause_before_each_read(&mut self, pause: Duration) {
        self.pause = pause;
    }

    /// Writes what the server may no longer take.
    pub(crate) fn try_write(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    pub(crate) fn send(&mut self, payload: &[u8]) {
        self.write(&masked(BINARY, payload));
    }

    /// The next frame; `None` at the end of the connection.
    pub(crate) fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.take_frame() {
                return Some(frame);
            }
            std::thread::sleep(self.pause);
            let mut chunk = [0; 16 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(read) => self.read.extend_from_slice(&chunk[..read]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("nothing came: {error}"),
            }
        }
    }

    fn take_frame(&mut self) -> Option<Frame> {
        let (&first, rest) = self.read.split_first()?;
        let (&second, rest) = rest.split_first()?;
        let (len, header) = match second {
            126 => (usize::from(u16::from_be_bytes(*rest.first_chunk()?)), 4),
            127 => (usize::try_from(u64::from_be_bytes(*rest.first_chunk()?)).expect("small"), 10),
            len => (usize::from(len), 2),
        };
        let payload = self.read.get(header..header + len)?.to_vec();
        self.read.drain(..header + len);
        assert_eq!(first & FINAL, FINAL, "the server does not fragment");
        Some(Frame { opcode: first & 0x0f, payload })
    }

    /// The next message; answers pings on the way.
    pub(crate) fn message(&mut self) -> Vec<u8> {
        loop {
            let frame = self.frame().expect("the connection goes on");
            match frame.opcode {
                BINARY => return frame.payload,
                PING => self.write(&masked(PONG, &frame.payload)),
                _ => panic!("an unexpected frame: {frame:?}"),
            }
        }
    }

    /// The code and reason of the close frame that has to come now, before the end of the connection.
    pub(crate) fn closed(&mut self) -> (u16, String) {
        loop {
            let frame = self.frame().expect("a close frame comes before the end");
            if frame.opcode == CLOSE {
                let (code, reason) = frame.payload.split_first_chunk::<2>().expect("a code");
                return (u16::from_be_bytes(*code), String::from_utf8_lossy(reason).into_owned());
            }
        }
    }

    pub(crate) fn ask(&mut self, command: Command) -> i32 {
        let request_id = self.next_request_id;
        self.next_request_id += 1;
        self.send(&proto::Request { request_id, command: Some(command) }.encode_to_vec());
        request_id
    }

    /// The response to `request_id`; events on the way are kept.
    pub(crate) fn response(&mut self, request_id: i32) -> proto::Response {
        let response = self.next_response();
        assert_eq!(response.request_id, request_id);
        response
    }

    /// The next response, whatever it is for; events on the way are kept.
    pub(crate) fn next_response(&mut self) -> proto::Response {
        loop {
            let message = proto::ServerMessage::decode(self.message().as_slice()).expect("a ServerMessage");
            match message.message_type.expect("one of its members") {
                MessageType::Response(response) => return response,
                MessageType::Event(event) => self.events.push_back(event),
            }
        }
    }

    /// Numbers its requests from here on.
    pub(crate) fn number_from(&mut self, request_id: i32) {
        self.next_request_id = request_id;
    }

    pub(crate) fn next_request_id(&self) -> i32 {
        self.next_request_id
    }

    /// Asks a server that may be gone.
    pub(crate) fn try_ask(&mut self, command: Command) -> bool {
        let request_id = self.next_request_id;
        self.next_request_id += 1;
        let request = proto::Request { request_id, command: Some(command) };
        self.try_write(&masked(BINARY, &request.encode_to_vec()))
    }

    /// The next message from a server that may be gone.
    fn try_message(&mut self) -> Option<MessageType> {
        let mut frame = self.frame()?;
        while frame.opcode == PING {
            if !self.try_write(&masked(PONG, &frame.payload)) {
                return None;
            }
            frame = self.frame()?;
        }
        assert_eq!(frame.opcode, BINARY);
        proto::ServerMessage::decode(frame.payload.as_slice()).expect("a ServerMessage").message_type
    }

    /// The request that the next response, a success, is for.
    pub(crate) fn try_response(&mut self) -> Option<i32> {
        match self.try_message()? {
            MessageType::Response(response) => {
                assert!(response.is_success, "{:?}", response.error_message);
                Some(response.request_id)
            }
            MessageType::Event(event) => panic!("{event:?}"),
        }
    }

    /// Whether the next thing is a success for `request_id`, and not the end of the connection.
    pub(crate) fn answered_before_close(&mut self, request_id: i32) -> bool {
        let Some(frame) = self.frame() else { return false };
        if frame.opcode == CLOSE {
            return false;
        }
        assert_eq!(frame.opcode, BINARY);
        let message = proto::ServerMessage::decode(frame.payload.as_slice()).expect("a ServerMessage");
        match message.message_type {
            Some(MessageType::Response(response)) => {
                assert_eq!(
                    (response.request_id, response.is_success),
                    (request_id, true),
                    "{:?}",
                    response.error_message
                );
                true
            }
            other => panic!("{other:?}"),
        }
    }

    /// The next event.
    pub(crate) fn try_event(&mut self) -> Option<proto::Event> {
        match self.events.pop_front() {
            Some(event) => Some(event),
            None => match self.try_message()? {
                MessageType::Event(event) => Some(event),
                MessageType::Response(response) => panic!("{response:?}"),
            },
        }
    }

    /// Whether events came before the last response that were not looked at.
    pub(crate) fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// The same for one subscription.
    pub(crate) fn has_events_of(&self, subscription_id: i32) -> bool {
        self.events.iter().any(|event| event.subscription_id == subscription_id)
    }

    /// Asks, and expects success.
    pub(crate) fn request(&mut self, command: Command) -> Option<Body> {
        let request_id = self.ask(command);
        let response = self.response(request_id);
        assert!(response.is_success, "{:?}", response.error_message);
        assert_eq!(response.error_message, None);
        response.body
    }

    /// Asks, and expects a refusal: its text.
    pub(crate) fn refusal(&mut self, command: Command) -> String {
        let request_id = self.ask(command);
        let response = self.response(request_id);
        assert!(!response.is_success, "it succeeded");
        assert!(response.body.is_none(), "an error has a body");
        response.error_message.expect("an error has a text")
    }

    /// Subscribes; the number of the subscription.
    pub(crate) fn subscribe(&mut self, command: Command) -> i32 {
        match self.request(command) {
            Some(Body::NewSubscription(new)) => new.subscription_id,
            body => panic!("{body:?}"),
        }
    }

    /// The next event.
    pub(crate) fn event(&mut self) -> proto::Event {
        if let Some(event) = self.events.pop_front() {
            return event;
        }
        let message = proto::ServerMessage::decode(self.message().as_slice()).expect("a ServerMessage");
        match message.message_type {
            Some(MessageType::Event(event)) => event,
            other => panic!("an event was expected: {other:?}"),
        }
    }

    /// Ends the connection by a reset, with whatever is under way.
    pub(crate) fn reset(self) {
        // Closing a socket that has unread bytes sends a reset.
        drop(self.stream);
    }

    /// Says that nothing more is sent.
    pub(crate) fn shut_down_sending(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }
}

/// `domain_login` rows are the simplest to write.
pub(crate) fn set_login(domain: &str, login_url: &str) -> Command {
    Command::SetDomainLogin(proto::RequestSetDomainLogin {
        login: Some(proto::DomainLogin {
            domain: Some(domain.to_owned()),
            login_url: Some(login_url.to_owned()),
            ..Default::default()
        }),
    })
}

pub(crate) fn delete_login(domain: &str) -> Command {
    Command::DeleteDomainLogin(proto::RequestDeleteDomainLogin { domain: Some(domain.to_owned()) })
}

pub(crate) fn subscribe_logins() -> Command {
    Command::SubscribeDomainLoginList(proto::RequestSubscribeDomainLoginList::default())
}

pub(crate) fn unsubscribe(subscription_id: i32) -> Command {
    Command::Unsubscribe(proto::RequestUnsubscribe { subscription_id })
}

/// What a domain login event says: `ADDED forum.example`.
pub(crate) fn login_event(event: &proto::Event) -> String {
    match &event.body {
        Some(proto::event::Body::DomainLoginEvent(login)) => {
            format!("{} {}", login.event_type().as_str_name(), login.domain())
        }
        body => panic!("{body:?}"),
    }
}
