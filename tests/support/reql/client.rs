//! A ReQL client made of bare bytes, so that it can also do what no driver does.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};

use super::handshake::{Account, proof_and_signature};
use super::protocol::{CONTINUE, MAGIC, START, STOP};

const TIMEOUT: Duration = Duration::from_secs(20);
const NONCE: &str = "a nonce of the test";

/// A connection.
pub(crate) struct RawReql {
    stream: TcpStream,
    read: Vec<u8>,
    next_token: u64,
    /// How often something came: at least as often as it was sent in pieces that came alone.
    pub(crate) reads: usize,
}

impl RawReql {
    /// Connects as `admin`, without a password.
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address, "admin", "").expect("the server lets it in")
    }

    /// The error is what was wrong with the handshake.
    pub(crate) fn try_connect(address: SocketAddr, user: &str, password: &str) -> Result<Self, String> {
        let mut client = Self::reach(address);
        let first = format!("n={user},r={NONCE}");
        let message = json!({"protocol_version": 0, "authentication_method": "SCRAM-SHA-256", "authentication": format!("n,,{first}")});
        client.write(&[&MAGIC.to_le_bytes()[..], message.to_string().as_bytes(), &[0]].concat());
        let version = client.message()?;
        if version["min_protocol_version"] != 0 {
            return Err(format!("a protocol of its own: {version}"));
        }
        let challenge = client.message()?;
        let challenge = challenge["authentication"].as_str().expect("a challenge");
        let attribute =
            |name: &str| challenge.split(',').find_map(|part| part.strip_prefix(name)).expect("an attribute");
        let nonce = attribute("r=");
        if !nonce.starts_with(NONCE) {
            return Err(format!("a nonce of its own: {nonce}"));
        }
        let iterations = attribute("i=").parse().expect("a number");
        let account = Account { user: user.to_owned(), password: password.to_owned(), iterations };
        let last = format!("c=biws,r={nonce}");
        let (proof, signature) = proof_and_signature(&account, attribute("s="), &format!("{first},{challenge},{last}"));
        let message = json!({"authentication": format!("{last},p={proof}")});
        client.write(&[message.to_string().as_bytes(), &[0]].concat());
        let end = client.message()?;
        if end["authentication"] != format!("v={signature}") {
            return Err(format!("a wrong signature: {end}"));
        }
        Ok(client)
    }

    /// Connects, and says nothing.
    pub(crate) fn reach(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the server listens");
        stream.set_read_timeout(Some(TIMEOUT)).expect("a timeout can be set");
        stream.set_nodelay(true).expect("it can be set");
        Self { stream, read: Vec::new(), next_token: 1, reads: 0 }
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server reads");
    }

    /// A JSON text of the handshake; the error is a text that is something else, or none.
    pub(crate) fn message(&mut self) -> Result<Value, String> {
        let length = loop {
            if let Some(length) = self.read.iter().position(|byte| *byte == 0) {
                break length;
            }
            if !self.read_more() {
                return Err("the end".to_owned());
            }
        };
        let text: Vec<u8> = self.read.drain(..=length).take(length).collect();
        let text = String::from_utf8_lossy(&text).into_owned();
        match serde_json::from_str::<Value>(&text) {
            Ok(message) if message["success"] == true => Ok(message),
            _ => Err(text),
        }
    }

    /// Whether there was more, and not the end.
    fn read_more(&mut self) -> bool {
        let mut chunk = [0; 16 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(read) => {
                self.read.extend_from_slice(&chunk[..read]);
                self.reads += 1;
                read > 0
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
            Err(error) => panic!("nothing came: {error}"),
        }
    }

    /// Whether nothing comes within this time.
    pub(crate) fn is_silent_for(&mut self, time: Duration) -> bool {
        self.stream.set_read_timeout(Some(time)).expect("a timeout can be set");
        let is_silent = self.read.is_empty()
            && matches!(self.stream.peek(&mut [0]), Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut));
        self.stream.set_read_timeout(Some(TIMEOUT)).expect("a timeout can be set");
        is_silent
    }

    pub(crate) fn send(&mut self, token: u64, question: &Value) {
        let text = question.to_string();
        let length = u32::try_from(text.len()).expect("short");
        self.write(&[&token.to_le_bytes()[..], &length.to_le_bytes(), text.as_bytes()].concat());
    }

    /// Sends a query whose tables are in `starbelly`; its token.
    pub(crate) fn start(&mut self, term: &Value) -> u64 {
        let token = self.next_token;
        self.next_token += 1;
        self.send(token, &json!([START, term, {"db": [14, ["starbelly"]]}]));
        token
    }

    pub(crate) fn ask_for_more(&mut self, token: u64) {
        self.send(token, &json!([CONTINUE]));
    }

    pub(crate) fn ask_to_stop(&mut self, token: u64) {
        self.send(token, &json!([STOP]));
    }

    /// The bytes of the next frame: token, length, text. Nothing at the end of the connection.
    pub(crate) fn frame(&mut self) -> Option<(u64, u32, Vec<u8>)> {
        while self.read.len() < 12 {
            if !self.read_more() {
                return None;
            }
        }
        let token = u64::from_le_bytes(*self.read.first_chunk()?);
        let length = u32::from_le_bytes(*self.read[8..].first_chunk()?);
        if length > 1 << 30 {
            return Some((token, length, Vec::new()));
        }
        while self.read.len() < 12 + length as usize {
            if !self.read_more() {
                return None;
            }
        }
        let text = self.read.drain(..12 + length as usize).skip(12).collect();
        Some((token, length, text))
    }

    /// The next answer, with its token.
    pub(crate) fn answer(&mut self) -> (u64, Value) {
        let (token, _, text) = self.frame().expect("an answer");
        (token, serde_json::from_slice(&text).expect("JSON"))
    }

    /// The next answer, which is to this token.
    pub(crate) fn answer_to(&mut self, token: u64) -> Value {
        let (answered, answer) = self.answer();
        assert_eq!(answered, token, "{answer}");
        answer
    }

    /// Asks, and waits for the answer.
    pub(crate) fn query(&mut self, term: &Value) -> Value {
        let token = self.start(term);
        self.answer_to(token)
    }

    /// Asks for a single value.
    pub(crate) fn value(&mut self, term: &Value) -> Value {
        let answer = self.query(term);
        assert_eq!(answer["t"], 1, "{answer}");
        answer["r"][0].clone()
    }

    /// Asks for more, and waits for it.
    pub(crate) fn more(&mut self, token: u64) -> Value {
        self.ask_for_more(token);
        self.answer_to(token)
    }
}
