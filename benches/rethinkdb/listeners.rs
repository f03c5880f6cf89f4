//! Many WebSocket clients on one thread that waits for all of them at once: they share the machine with what is measured, and
//! must not be what limits it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use prost::Message as _;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use starfeed::proto::{self, server_message::MessageType};
use starfeed::task;
use tokio_tungstenite::tungstenite::{self, Message};

const PING: u8 = 0x89;
const PONG: u8 = 0x8a;
const BINARY: u8 = 0x82;

/// Clients that are subscribed; dropping them ends them.
pub(crate) struct Listeners {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// One client: its socket, and what has come of a frame that is not whole yet.
struct Listener {
    socket: TcpStream,
    begun: Vec<u8>,
}

impl Listeners {
    /// Connects a client for each of `requests` to `address`; `heard` is called with its number for every event that it gets.
    pub(crate) fn start(
        address: &str,
        requests: impl Iterator<Item = proto::Request>,
        heard: impl Fn(usize) + Send + 'static,
    ) -> Self {
        let mut listeners: Vec<Listener> = requests.map(|request| Listener::subscribed(address, &request)).collect();
        let is_over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&is_over);
        let thread = task::spawn_thread("listeners", move || {
            let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("epoll");
            for (number, listener) in listeners.iter().enumerate() {
                let data = epoll::EventData::new_u64(number as u64);
                epoll::add(&epoll, &listener.socket, data, epoll::EventFlags::IN).expect("a socket");
            }
            let mut events = Vec::with_capacity(1024);
            while !ends.load(Ordering::Relaxed) {
                events.clear();
                let wait = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
                epoll::wait(&epoll, spare_capacity(&mut events), Some(&wait)).expect("sockets to wait for");
                for event in &events {
                    let number = event.data.u64() as usize;
                    listeners[number].read(|| heard(number));
                }
            }
        });
        Self { is_over, thread: Some(thread) }
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it is dropped once");
        thread.join().expect("the clients were well to the end");
    }
}

impl Listener {
    fn subscribed(address: &str, request: &proto::Request) -> Self {
        let socket = TcpStream::connect(address).expect("a connection");
        socket.set_nodelay(true).expect("a socket");
        let (mut client, _) = tungstenite::client(format!("ws://{address}/ws/"), socket).expect("a handshake");
        client.send(Message::binary(request.encode_to_vec())).expect("a request");
        let Ok(Message::Binary(bytes)) = client.read() else { panic!("an answer") };
        match proto::ServerMessage::decode(bytes).expect("a message").message_type {
            Some(MessageType::Response(response)) => assert!(response.is_success, "{response:?}"),
            other => panic!("{other:?}"),
        }
        Self { socket: client.get_ref().try_clone().expect("a socket"), begun: Vec::new() }
    }

    /// Reads what has come, once: where there is more, the socket is readable still.
    fn read(&mut self, mut heard: impl FnMut()) {
        let mut buffer = [0; 16 * 1024];
        let count = self.socket.read(&mut buffer).expect("the server is there");
        assert!(count > 0, "the server has ended a connection");
        let mut rest = &buffer[..count];
        let joined = (!self.begun.is_empty()).then(|| [&std::mem::take(&mut self.begun), rest].concat());
        if let Some(joined) = &joined {
            rest = joined;
        }
        while let Some((first, payload, behind)) = frame(rest) {
            rest = behind;
            match first {
                BINARY => match proto::ServerMessage::decode(payload).expect("a message").message_type {
                    Some(MessageType::Event(_)) => heard(),
                    other => panic!("{other:?}"),
                },
                PING => {
                    // Masked with zeros.
                    let head = [PONG, 0x80 | payload.len() as u8, 0, 0, 0, 0];
                    self.socket.write_all(&[&head, payload].concat()).expect("the server is there");
                }
                other => panic!("a frame that begins with {other:#x}"),
            }
        }
        self.begun.extend_from_slice(rest);
    }
}

/// The first byte and the payload of the first frame in `bytes`, and what is behind it, if it is whole.
fn frame(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[first, length], rest) = bytes.split_first_chunk()?;
    let (length, rest) = match length {
        126 => rest.split_first_chunk().map(|(length, rest)| (u16::from_be_bytes(*length).into(), rest))?,
        127 => rest.split_first_chunk().map(|(length, rest)| (u64::from_be_bytes(*length) as usize, rest))?,
        length => (length.into(), rest),
    };
    rest.split_at_checked(length).map(|(payload, behind)| (first, payload, behind))
}
