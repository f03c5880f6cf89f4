//! The handshake V1_0 of a connection, without I/O: bytes in, bytes out, however they are cut into pieces.

use std::fmt;

use bytes::{Buf, BytesMut};
use serde::Deserialize;
use serde_json::json;

use super::error::ReqlError;
use super::scram::{ExpectedServer, Password, Scram};

/// The protocol V1_0, least significant byte first.
const MAGIC: [u8; 4] = 0x34c2_bdc3_u32.to_le_bytes();

/// No message of a handshake is as long.
const MESSAGE_BYTES_MAX: usize = 8 * 1024;

/// Errors of the server from here to [`LOGIN_ERROR_LAST`] are about user and password.
const LOGIN_ERROR_FIRST: u32 = 10;
const LOGIN_ERROR_LAST: u32 = 20;

/// One handshake.
pub struct Handshake {
    state: State,
}

enum State {
    /// The server says which version it is.
    Version(Scram),
    Challenge(Scram),
    Proof(ExpectedServer),
    Over,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Wait for more bytes.
    Wait,
    /// Send this.
    Send(Vec<u8>),
    /// The server has let us in, and proved itself.
    Done,
}

#[derive(Deserialize)]
struct Message {
    success: bool,
    min_protocol_version: Option<u32>,
    max_protocol_version: Option<u32>,
    authentication: Option<String>,
    error: Option<String>,
    error_code: Option<u32>,
}

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handshake")
    }
}

impl Handshake {
    /// Begins one; returns what to send. `nonce` is printable ASCII without commas, and never the same twice.
    pub fn begin(user: &str, password: &Password, nonce: &str) -> Result<(Self, Vec<u8>), ReqlError> {
        let scram = Scram::new(user, password, nonce).map_err(ReqlError::Login)?;
        Ok((Self { state: State::Version(scram) }, MAGIC.to_vec()))
    }

    /// Takes the next message out of `received`, if it is whole.
    pub fn step(&mut self, received: &mut BytesMut) -> Result<Step, ReqlError> {
        let Some(end) = memchr::memchr(0, received) else {
            if received.len() > MESSAGE_BYTES_MAX {
                return Err(ReqlError::protocol("a message of the handshake has no end"));
            }
            return Ok(Step::Wait);
        };
        let text = received.split_to(end);
        received.advance(1);
        let message = read(&text)?;
        match std::mem::replace(&mut self.state, State::Over) {
            State::Version(scram) => {
                if message.min_protocol_version.is_some_and(|least| least > 0) || message.max_protocol_version.is_none()
                {
                    return Err(ReqlError::protocol("it speaks another version of the protocol"));
                }
                let first = json!({
                    "protocol_version": 0,
                    "authentication_method": "SCRAM-SHA-256",
                    "authentication": scram.first(),
                });
                self.state = State::Challenge(scram);
                Ok(Step::Send(terminated(&first)))
            }
            State::Challenge(scram) => {
                let challenge = message.authentication.unwrap_or_default();
                let (answer, expected) = scram.answer(&challenge).map_err(ReqlError::Protocol)?;
                self.state = State::Proof(expected);
                Ok(Step::Send(terminated(&json!({ "authentication": answer }))))
            }
            State::Proof(expected) => {
                let proof = message.authentication.unwrap_or_default();
                expected
                    .check(&proof)
                    .map_err(|what| ReqlError::Login(format!("the server is not to be trusted: {what}")))?;
                Ok(Step::Done)
            }
            State::Over => panic!("a handshake went on after its end"),
        }
    }
}

fn terminated(message: &serde_json::Value) -> Vec<u8> {
    let mut bytes = message.to_string().into_bytes();
    bytes.push(0);
    bytes
}

/// Reads a message; a refusal, as JSON or in the words of older servers, is an error.
fn read(text: &[u8]) -> Result<Message, ReqlError> {
    let Ok(message) = serde_json::from_slice::<Message>(text) else {
        let text: String = String::from_utf8_lossy(text).trim().chars().take(200).collect();
        return Err(ReqlError::Protocol(format!("{text:?}")));
    };
    if message.success {
        return Ok(message);
    }
    let text = message.error.unwrap_or_else(|| "without a reason".to_owned());
    if message.error_code.is_some_and(|code| (LOGIN_ERROR_FIRST..=LOGIN_ERROR_LAST).contains(&code)) {
        Err(ReqlError::Login(text))
    } else {
        Err(ReqlError::Protocol(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: &str = "rOprNGfwEbeRWgbNEkqO";
    const VERSION: &str =
        r#"{"success":true,"min_protocol_version":0,"max_protocol_version":0,"server_version":"2.4.4"}"#;
    const CHALLENGE: &str = r#"{"success":true,"authentication":"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"}"#;
    const PROOF: &str = r#"{"success":true,"authentication":"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="}"#;

    /// Plays the server's messages, `chunk` bytes at a time; returns what the client sent.
    fn play(messages: &[&str], chunk: usize) -> Result<Vec<String>, ReqlError> {
        let (mut handshake, magic) = Handshake::begin("user", &Password::new("pencil"), NONCE)?;
        assert_eq!(magic, [0xc3, 0xbd, 0xc2, 0x34]);
        let bytes: Vec<u8> = messages.iter().flat_map(|message| message.bytes().chain([0])).collect();
        let mut received = BytesMut::new();
        let mut sent = Vec::new();
        for piece in bytes.chunks(chunk) {
            received.extend_from_slice(piece);
            loop {
                match handshake.step(&mut received)? {
                    Step::Wait => break,
                    Step::Send(bytes) => {
                        assert_eq!(bytes.last(), Some(&0));
                        sent.push(String::from_utf8_lossy(&bytes[..bytes.len() - 1]).into_owned());
                    }
                    Step::Done => return Ok(sent),
                }
            }
        }
        panic!("the handshake did not end")
    }

    #[test]
    fn it_does_not_matter_how_the_bytes_are_cut() {
        for chunk in [1, 16, 60, 200, 10_000] {
            let sent = play(&[VERSION, CHALLENGE, PROOF], chunk).expect("a good handshake");
            assert_eq!(sent.len(), 2);
            assert!(sent[0].contains(r#""authentication":"n,,n=user,r=rOprNGfwEbeRWgbNEkqO""#), "{}", sent[0]);
            assert!(sent[1].contains("p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="), "{}", sent[1]);
        }
    }

    #[test]
    fn a_wrong_password_is_told_from_other_refusals() {
        let wrong = r#"{"success":false,"error":"Wrong password","error_code":12}"#;
        let error = play(&[VERSION, CHALLENGE, wrong], 7).expect_err("a refusal");
        assert_eq!(error, ReqlError::Login("Wrong password".to_owned()));
        assert!(!error.is_passing());
        let error = play(&["ERROR: Received an unsupported protocol version."], 5).expect_err("words");
        assert!(matches!(error, ReqlError::Protocol(_)), "{error}");
        let newer = r#"{"success":true,"min_protocol_version":1,"max_protocol_version":2}"#;
        assert!(matches!(play(&[newer], 5), Err(ReqlError::Protocol(_))));
    }

    #[test]
    fn a_server_without_a_proof_is_not_let_in() {
        for last in [r#"{"success":true}"#, r#"{"success":true,"authentication":"v=AAAA"}"#] {
            let error = play(&[VERSION, CHALLENGE, last], 9).expect_err("no proof");
            assert!(matches!(error, ReqlError::Login(_)), "{error}");
        }
    }

    #[test]
    fn a_message_without_an_end_is_refused() {
        let (mut handshake, _) = Handshake::begin("user", &Password::default(), NONCE).expect("plain ASCII");
        let mut endless = BytesMut::from(&vec![b'x'; MESSAGE_BYTES_MAX + 1][..]);
        assert!(matches!(handshake.step(&mut endless), Err(ReqlError::Protocol(_))));
    }
}
