//! Stands between two who talk by TCP, cuts what they say into pieces, and can let it vanish while the connections stay.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use starfeed::task::spawn_thread;

/// A way to a server. Dropping it ends the connections.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    state: Arc<State>,
    listener: Option<JoinHandle<()>>,
}

struct State {
    target: (String, u16),
    /// So many bytes are passed on at a time.
    piece: usize,
    /// Connections so far.
    connections: AtomicUsize,
    /// What is said on the first so many vanishes.
    vanishing: AtomicUsize,
    is_over: AtomicBool,
    streams: std::sync::Mutex<Vec<TcpStream>>,
}

impl Proxy {
    pub(crate) fn start(host: &str, port: u16, piece: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let own_port = listener.local_addr().expect("an address").port();
        let state = Arc::new(State {
            target: (host.to_owned(), port),
            piece,
            connections: AtomicUsize::new(0),
            vanishing: AtomicUsize::new(0),
            is_over: AtomicBool::new(false),
            streams: std::sync::Mutex::default(),
        });
        let accepting = Arc::clone(&state);
        let listener = spawn_thread("proxy", move || accepting.accept(&listener));
        Self { port: own_port, state, listener: Some(listener) }
    }

    /// From now on nothing gets through on the connections that there are, and nobody is told. New ones are as they should be.
    pub(crate) fn swallow(&self) {
        self.state.vanishing.store(self.state.connections.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    /// Connections so far.
    pub(crate) fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.is_over.store(true, Ordering::SeqCst);
        // It wakes up for one more connection.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        let _ = self.listener.take().map(JoinHandle::join);
        for stream in self.state.streams.lock().expect("nobody panics with it").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl State {
    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        for client in listener.incoming().map_while(Result::ok) {
            if self.is_over.load(Ordering::SeqCst) {
                return;
            }
            // A server that is down hangs up on its clients.
            let Ok(server) = TcpStream::connect((self.target.0.as_str(), self.target.1)) else { continue };
            let number = self.connections.fetch_add(1, Ordering::SeqCst);
            let mut streams = self.streams.lock().expect("nobody panics with it");
            for (from, to) in [(&client, &server), (&server, &client)] {
                from.set_nodelay(true).expect("a socket");
                streams.push(from.try_clone().expect("a socket"));
                let (state, from, to) = (Arc::clone(self), from.try_clone(), to.try_clone());
                let (from, to) = (from.expect("a socket"), to.expect("a socket"));
                spawn_thread("way", move || state.pass_on(number, from, to));
            }
        }
    }

    fn pass_on(&self, number: usize, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let is_vanishing = || number < self.vanishing.load(Ordering::SeqCst);
            let mut pieces = buffer[..count].chunks(self.piece);
            if pieces.any(|piece| !is_vanishing() && to.write_all(piece).is_err()) {
                break;
            }
        }
        // It may be closed already.
        let _ = to.shutdown(Shutdown::Both);
    }
}
