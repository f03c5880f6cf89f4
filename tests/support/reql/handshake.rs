//! The server's side of the handshake: SCRAM-SHA-256 over JSON texts that end with a NUL.

use std::collections::BTreeMap;
use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::fault::HandshakeFault;
use super::protocol::MAGIC;
use super::wire::Wire;

const SALT: &[u8] = b"salt of the earth";
const WRONG_PASSWORD: u64 = 12;
const UNKNOWN_USER: u64 = 17;
const MALFORMED: u64 = 10;

/// Who may come in.
#[derive(Clone, Debug)]
pub(super) struct Account {
    pub(super) user: String,
    pub(super) password: String,
    pub(super) iterations: u32,
}

/// Why a client does not come in: a number and a text for it.
struct Refusal(u64, String);

/// Lets a client in, or not.
pub(super) async fn shake_hands(wire: &mut Wire, account: &Account) -> io::Result<bool> {
    wire.until_not_mute().await?;
    let fault = wire.faults().handshake;
    match &fault {
        HandshakeFault::Silence => loop {
            wire.until_something_happens(true).await?;
        },
        HandshakeFault::End => return Ok(false),
        HandshakeFault::Text(text) => {
            say(wire, text.clone()).await?;
            return Ok(false);
        }
        _ => {}
    }
    if wire.take(4).await? != MAGIC.to_le_bytes() {
        let text = "ERROR: Received an unsupported protocol version. This port is for RethinkDB queries.";
        say(wire, text.to_owned()).await?;
        return Ok(false);
    }
    let version = u8::from(fault == HandshakeFault::LaterProtocol);
    say_json(wire, &json!({"success": true, "min_protocol_version": version, "max_protocol_version": version, "server_version": "2.4.4"})).await?;
    match converse(wire, account, &fault).await? {
        Ok(last) if fault == HandshakeFault::EndBeforeLast => {
            drop(last);
            Ok(false)
        }
        Ok(last) => {
            say_json(wire, &last).await?;
            Ok(true)
        }
        Err(Refusal(code, text)) => {
            say_json(wire, &json!({"success": false, "error": text, "error_code": code})).await?;
            Ok(false)
        }
    }
}

async fn say_json(wire: &mut Wire, value: &Value) -> io::Result<()> {
    say(wire, value.to_string()).await
}

async fn say(wire: &mut Wire, text: String) -> io::Result<()> {
    let faults = wire.faults();
    tokio::time::sleep(faults.delay).await;
    wire.until_not_mute().await?;
    let bytes = [text.as_bytes(), &[0]].concat();
    wire.send(&bytes, faults.handshake_piece_bytes).await
}

/// The conversation up to the server's last word, which is not sent yet.
async fn converse(wire: &mut Wire, account: &Account, fault: &HandshakeFault) -> io::Result<Result<Value, Refusal>> {
    let first = wire.take_text().await?;
    let (client_first, nonce) = match read_client_first(&first, account) {
        Ok(read) => read,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let client_nonce = if *fault == HandshakeFault::WrongNonce { "nobody's" } else { &nonce };
    let nonce = format!("{client_nonce}{}", uuid::Uuid::new_v4().simple());
    let server_first = format!("r={nonce},s={},i={}", BASE64.encode(SALT), account.iterations);
    say_json(wire, &json!({"success": true, "authentication": server_first})).await?;
    let last = wire.take_text().await?;
    if *fault == HandshakeFault::WrongPassword {
        return Ok(Err(wrong_password()));
    }
    Ok(check_proof(&last, account, &client_first, &server_first, &nonce).map(|signature| match fault {
        HandshakeFault::NoSignature => json!({"success": true}),
        HandshakeFault::WrongSignature => {
            json!({"success": true, "authentication": format!("v={}", BASE64.encode(Sha256::digest(signature)))})
        }
        _ => json!({"success": true, "authentication": format!("v={signature}")}),
    }))
}

/// `n=USER,r=NONCE`, and the nonce.
fn read_client_first(text: &[u8], account: &Account) -> Result<(String, String), Refusal> {
    let message = parse(text)?;
    if message["protocol_version"] != 0 || message["authentication_method"] != "SCRAM-SHA-256" {
        return Err(malformed("Unsupported `protocol_version` or `authentication_method`"));
    }
    let bare = message["authentication"].as_str().and_then(|text| text.strip_prefix("n,,"));
    let bare = bare.ok_or_else(|| malformed("Invalid SCRAM message"))?;
    let attributes = attributes(bare);
    let (Some(user), Some(nonce)) = (attributes.get("n"), attributes.get("r")) else {
        return Err(malformed("Invalid SCRAM message"));
    };
    if user.replace("=2C", ",").replace("=3D", "=") != account.user {
        return Err(Refusal(UNKNOWN_USER, "Unknown user".to_owned()));
    }
    Ok((bare.to_owned(), (*nonce).to_owned()))
}

/// The server's signature, for a client that knows the password.
fn check_proof(
    text: &[u8],
    account: &Account,
    client_first: &str,
    server_first: &str,
    nonce: &str,
) -> Result<String, Refusal> {
    let message = parse(text)?;
    let last = message["authentication"].as_str().ok_or_else(|| malformed("Invalid SCRAM message"))?;
    let (without_proof, proof) = last.rsplit_once(",p=").ok_or_else(|| malformed("Invalid SCRAM message"))?;
    let attributes = attributes(without_proof);
    if attributes.get("c") != Some(&"biws") || attributes.get("r") != Some(&nonce) {
        return Err(malformed("Invalid channel binding or nonce"));
    }
    let conversation = format!("{client_first},{server_first},{without_proof}");
    let (expected, signature) = proof_and_signature(account, &BASE64.encode(SALT), &conversation);
    if proof != expected {
        return Err(wrong_password());
    }
    Ok(signature)
}

/// What proves each side to the other at the end of this conversation, in base64.
pub(super) fn proof_and_signature(account: &Account, salt: &str, conversation: &str) -> (String, String) {
    let salted = salted_password(account, &BASE64.decode(salt).expect("a salt in base64"));
    let client_key = keyed(&salted, b"Client Key");
    let client_signature = keyed(&Sha256::digest(&client_key), conversation.as_bytes());
    let proof: Vec<u8> = client_key.iter().zip(client_signature).map(|(key, signature)| key ^ signature).collect();
    let signature = keyed(&keyed(&salted, b"Server Key"), conversation.as_bytes());
    (BASE64.encode(proof), BASE64.encode(signature))
}

fn salted_password(account: &Account, salt: &[u8]) -> Vec<u8> {
    let mut block = keyed(account.password.as_bytes(), &[salt, &1_u32.to_be_bytes()].concat());
    let mut salted = block.clone();
    for _ in 1..account.iterations {
        block = keyed(account.password.as_bytes(), &block);
        salted.iter_mut().zip(&block).for_each(|(byte, other)| *byte ^= other);
    }
    salted
}

fn keyed(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length will do");
    mac.update(message);
    mac.finalize().into_bytes().to_vec()
}

fn parse(text: &[u8]) -> Result<Value, Refusal> {
    serde_json::from_slice(text).map_err(|error| malformed(&error.to_string()))
}

fn attributes(text: &str) -> BTreeMap<&str, &str> {
    text.split(',').filter_map(|attribute| attribute.split_once('=')).collect()
}

fn malformed(text: &str) -> Refusal {
    Refusal(MALFORMED, text.to_owned())
}

fn wrong_password() -> Refusal {
    Refusal(WRONG_PASSWORD, "Wrong password".to_owned())
}
