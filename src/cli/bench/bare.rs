//! The bare peer: the limit that a server is held against. One thread, ready frames and no protocol: what is published is
//! framed once, and all that waits for a socket goes out in one write.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::connection::READ_BUFFER_BYTES;
use super::frame::{self, Opcode};
use super::poller::Poller;
use super::wire::{BARE_PUBLISH, BARE_REPEAT, BARE_SUBSCRIBE};

/// Frames for one table, and who gets them.
#[derive(Debug, Default)]
struct Channel {
    /// What not everybody has yet.
    frames: Vec<u8>,
    /// How many bytes were taken away from the front of `frames` so far.
    gone: u64,
    subscribers: Vec<usize>,
    /// There may be somebody who has not all of it.
    is_behind: bool,
}

#[derive(Debug)]
struct Client {
    stream: TcpStream,
    is_upgraded: bool,
    partial: Vec<u8>,
    /// What only this one gets, before anything else.
    own: Vec<u8>,
    /// A frame that it gets so many times more.
    repeated: Option<Repeated>,
    /// What it has of its channel.
    cursor: u64,
    /// It takes nothing now.
    is_full: bool,
}

#[derive(Debug)]
struct Repeated {
    /// The frame, as often as makes a good write.
    block: Vec<u8>,
    bytes_left: u64,
    at: usize,
}

#[derive(Debug)]
struct Bare {
    listener: TcpListener,
    poller: Poller,
    clients: Vec<Option<Client>>,
    channels: Vec<Channel>,
    buffer: Vec<u8>,
}

const LISTENER: usize = usize::MAX;
const INPUT: usize = usize::MAX - 1;
const REPEATED_BLOCK_BYTES: usize = 128 * 1024;

/// Runs until standard input ends, so that it never outlives who started it.
pub(super) fn run() -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").context("no port")?;
    listener.set_nonblocking(true)?;
    let poller = Poller::new()?;
    poller.add(&listener, LISTENER)?;
    poller.add(std::io::stdin(), INPUT).context("standard input is no pipe")?;
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "listening on {}", listener.local_addr()?)?;
    stdout.flush()?;
    drop(stdout);
    let mut bare =
        Bare { listener, poller, clients: Vec::new(), channels: Vec::new(), buffer: vec![0; READ_BUFFER_BYTES] };
    while bare.turn()? {}
    Ok(())
}

impl Bare {
    /// Takes what is there, and passes it on. `false` when that was the last time.
    fn turn(&mut self) -> anyhow::Result<bool> {
        let count = self.poller.wait(Duration::from_secs(3600))?;
        for at in 0..count {
            let readiness = self.poller.readiness(at);
            match readiness.token {
                INPUT => return Ok(false),
                LISTENER => self.accept()?,
                token => {
                    if readiness.is_readable && self.read(token).is_err() {
                        self.clients[token] = None;
                    }
                    self.writable(token);
                }
            }
        }
        for channel in &mut self.channels {
            channel.pass_on(&mut self.clients);
        }
        Ok(true)
    }

    fn accept(&mut self) -> anyhow::Result<()> {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nodelay(true)?;
                    stream.set_nonblocking(true)?;
                    self.poller.add(&stream, self.clients.len())?;
                    self.clients.push(Some(Client {
                        stream,
                        is_upgraded: false,
                        partial: Vec::new(),
                        own: Vec::new(),
                        repeated: None,
                        cursor: 0,
                        is_full: false,
                    }));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Reads all that is there; an error when the client is to be forgotten.
    fn read(&mut self, token: usize) -> anyhow::Result<()> {
        let Self { clients, channels, buffer, .. } = self;
        let Some(client) = &mut clients[token] else { return Ok(()) };
        loop {
            let kept = client.partial.len();
            buffer[..kept].copy_from_slice(&client.partial);
            let read = match client.stream.read(&mut buffer[kept..]) {
                Ok(0) => bail!("it has ended"),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            let bytes = &mut buffer[..kept + read];
            let mut used = 0;
            if !client.is_upgraded {
                used = client.upgrade(bytes)?;
            }
            if client.is_upgraded {
                while let Some(frame) = frame::parse_masked(&mut bytes[used..])? {
                    used += frame.length;
                    // Other frames than whole messages are pongs and closes, and need no answer.
                    if frame.first_byte == 0x82 {
                        take(token, client, frame.payload, channels)?;
                    }
                }
            }
            client.partial.clear();
            client.partial.extend_from_slice(&bytes[used..]);
            client.write_own()?;
        }
    }

    /// The socket of `token` takes bytes again, if it did not.
    fn writable(&mut self, token: usize) {
        let Some(client) = &mut self.clients[token] else { return };
        if std::mem::take(&mut client.is_full) {
            if client.write_own().is_err() {
                self.clients[token] = None;
            }
            for channel in &mut self.channels {
                channel.is_behind |= channel.subscribers.contains(&token);
            }
        }
    }
}

fn take(token: usize, client: &mut Client, message: &[u8], channels: &mut Vec<Channel>) -> anyhow::Result<()> {
    match message {
        [BARE_SUBSCRIBE, number] => {
            let channel = channel(channels, *number);
            client.cursor = channel.end();
            channel.subscribers.push(token);
            frame::put_unmasked(Opcode::Binary, message, &mut client.own);
        }
        [BARE_PUBLISH, number, payload @ ..] => {
            let channel = channel(channels, *number);
            frame::put_unmasked(Opcode::Binary, payload, &mut channel.frames);
            channel.is_behind = true;
        }
        [BARE_REPEAT, rest @ ..] => {
            let (count, payload) = rest.split_first_chunk().context("it does not say how often")?;
            let mut one = Vec::new();
            frame::put_unmasked(Opcode::Binary, payload, &mut one);
            let bytes_left = u64::from(u32::from_be_bytes(*count)) * one.len() as u64;
            client.repeated =
                Some(Repeated { block: one.repeat((REPEATED_BLOCK_BYTES / one.len()).max(1)), bytes_left, at: 0 });
        }
        _ => bail!("it says what nobody understands"),
    }
    Ok(())
}

fn channel(channels: &mut Vec<Channel>, number: u8) -> &mut Channel {
    let number = usize::from(number);
    if channels.len() <= number {
        channels.resize_with(number + 1, Channel::default);
    }
    &mut channels[number]
}

impl Channel {
    fn end(&self) -> u64 {
        self.gone + self.frames.len() as u64
    }

    /// Writes to everybody what they have not yet, as much of it as they take.
    fn pass_on(&mut self, clients: &mut [Option<Client>]) {
        if !std::mem::take(&mut self.is_behind) {
            return;
        }
        let end = self.end();
        let mut least = end;
        for token in &self.subscribers {
            let Some(client) = &mut clients[*token] else { continue };
            if !client.is_full && client.own.is_empty() && client.cursor < end {
                let from = usize::try_from(client.cursor - self.gone).expect("it is in memory");
                match client.stream.write(&self.frames[from..]) {
                    Ok(written) => {
                        client.cursor += written as u64;
                        // What it did not take it takes when the system says so.
                        client.is_full = client.cursor < end;
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => client.is_full = true,
                    Err(_) => {
                        clients[*token] = None;
                        continue;
                    }
                }
            }
            least = least.min(client.cursor);
        }
        let taken = usize::try_from(least - self.gone).expect("it is in memory");
        self.frames.drain(..taken);
        self.gone = least;
    }
}

impl Client {
    /// Answers the request for the upgrade, once it is there; returns how many bytes it has.
    fn upgrade(&mut self, bytes: &[u8]) -> anyhow::Result<usize> {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut request = httparse::Request::new(&mut headers);
        let httparse::Status::Complete(length) = request.parse(bytes)? else { return Ok(0) };
        let key = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case("sec-websocket-key"));
        let key = key.context("it does not ask for a WebSocket")?.value;
        ensure!(self.own.is_empty(), "it is upgraded once");
        self.own = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\r\n",
            derive_accept_key(key),
        )
        .into_bytes();
        self.is_upgraded = true;
        Ok(length)
    }

    /// Writes what only this one gets, as much of it as it takes.
    fn write_own(&mut self) -> anyhow::Result<()> {
        while !self.is_full {
            let bytes = match &self.repeated {
                _ if !self.own.is_empty() => &self.own[..],
                Some(repeated) => {
                    let left = usize::try_from(repeated.bytes_left).unwrap_or(usize::MAX);
                    let block = &repeated.block[repeated.at..];
                    &block[..block.len().min(left)]
                }
                None => return Ok(()),
            };
            match self.stream.write(bytes) {
                Ok(written) if !self.own.is_empty() => {
                    self.own.drain(..written);
                }
                Ok(written) => self.repeated = self.repeated.take().and_then(|repeated| repeated.behind(written)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.is_full = true,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

impl Repeated {
    fn behind(self, written: usize) -> Option<Self> {
        let bytes_left = self.bytes_left - written as u64;
        let at = (self.at + written) % self.block.len();
        (bytes_left > 0).then_some(Self { bytes_left, at, ..self })
    }
}
