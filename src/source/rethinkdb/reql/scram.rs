//! SCRAM-SHA-256 (RFC 5802, RFC 7677) without channel binding: both sides prove that they know the password, and neither says it.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use serde::Deserialize;
use sha2::{Digest, Sha256};

/// A password, shown to nobody.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Password(String);

impl Password {
    /// This one. Empty where the user has none.
    pub fn new(password: impl Into<String>) -> Self {
        Self(password.into())
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// `n,,`: no channel binding, no other identity; in base64 for the last message.
const GS2_HEADER: &str = "n,,";

/// RethinkDB asks for 4,096. A server that asks for a thousand times as many wants something else.
const ITERATIONS_MAX: u32 = 1_000_000;

/// The client's side, until the server has to prove itself.
pub(super) struct Scram {
    first_bare: String,
    nonce: String,
    password: String,
}

/// What the server has to prove.
pub(super) struct ExpectedServer {
    signature: [u8; 32],
}

impl Scram {
    /// For `user`; `nonce` is printable ASCII without commas, and never the same twice.
    pub(super) fn new(user: &str, password: &Password, nonce: &str) -> Result<Self, String> {
        let prepared = |text| stringprep::saslprep(text).map_err(|_| "it has characters that no login may have");
        let user = prepared(user).map_err(|what| format!("the user: {what}"))?;
        let password = prepared(&password.0).map_err(|what| format!("the password: {what}"))?;
        let first_bare = format!("n={},r={nonce}", user.replace('=', "=3D").replace(',', "=2C"));
        Ok(Self { first_bare, nonce: nonce.to_owned(), password: password.into_owned() })
    }

    /// What the client says first.
    pub(super) fn first(&self) -> String {
        format!("{GS2_HEADER}{}", self.first_bare)
    }

    /// What the client answers to the server's first message: the proof.
    pub(super) fn answer(self, server_first: &str) -> Result<(String, ExpectedServer), String> {
        let field = |name: char| {
            server_first
                .split(',')
                .find_map(|field| field.strip_prefix(name)?.strip_prefix('='))
                .ok_or_else(|| format!("the challenge has no `{name}`"))
        };
        let nonce = field('r')?;
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err("the challenge is not an answer to ours".to_owned());
        }
        let salt = BASE64.decode(field('s')?).map_err(|_| "the salt is not base64")?;
        let iterations: u32 = field('i')?.parse().map_err(|_| "the iterations are no number")?;
        if !(1..=ITERATIONS_MAX).contains(&iterations) {
            return Err(format!("{iterations} iterations are asked for, which is not between 1 and {ITERATIONS_MAX}"));
        }
        let mut salted = [0; 32];
        pbkdf2::pbkdf2_hmac::<Sha256>(self.password.as_bytes(), &salt, iterations, &mut salted);
        let without_proof = format!("c={},r={nonce}", BASE64.encode(GS2_HEADER));
        let signed = format!("{},{server_first},{without_proof}", self.first_bare);
        let client_key = hmac(&salted, b"Client Key");
        let client_signature = hmac(&Sha256::digest(client_key), signed.as_bytes());
        let proof: Vec<u8> = client_key.iter().zip(client_signature).map(|(key, signature)| key ^ signature).collect();
        let signature = hmac(&hmac(&salted, b"Server Key"), signed.as_bytes());
        Ok((format!("{without_proof},p={}", BASE64.encode(proof)), ExpectedServer { signature }))
    }
}

impl ExpectedServer {
    /// Checks the server's last message: without this proof, anybody could be the server.
    pub(super) fn check(&self, server_final: &str) -> Result<(), String> {
        let proof = server_final.split(',').find_map(|field| field.strip_prefix("v="));
        let proof = proof.ok_or("it has not proved that it knows the password")?;
        if BASE64.decode(proof).is_ok_and(|proof| proof == self.signature) {
            Ok(())
        } else {
            Err("its proof that it knows the password is wrong".to_owned())
        }
    }
}

fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7677, section 3.
    const NONCE: &str = "rOprNGfwEbeRWgbNEkqO";
    const SERVER_FIRST: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";

    fn client() -> Scram {
        Scram::new("user", &Password::new("pencil"), NONCE).expect("plain ASCII")
    }

    #[test]
    fn the_example_of_the_rfc() {
        let client = client();
        assert_eq!(client.first(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let (answer, server) = client.answer(SERVER_FIRST).expect("a good challenge");
        assert_eq!(
            answer,
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        assert_eq!(server.check("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="), Ok(()));
    }

    #[test]
    fn a_server_that_does_not_know_the_password_is_noticed() {
        for wrong in ["", "e=other-error", "v=", "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5="] {
            let (_, server) = client().answer(SERVER_FIRST).expect("a good challenge");
            assert!(server.check(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_bad_challenge_is_refused() {
        for wrong in [
            "",
            "r=somebodyElse,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            "r=rOprNGfwEbeRWgbNEkqO,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            "r=rOprNGfwEbeRWgbNEkqOx,s=!,i=4096",
            "r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=0",
            "r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4294967295",
            "r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==",
        ] {
            assert!(client().answer(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_are_escaped_and_passwords_never_shown() {
        let client = Scram::new("a=b,c", &Password::new("hunter2"), "n").expect("plain ASCII");
        assert_eq!(client.first(), "n,,n=a=3Db=2Cc,r=n");
        assert!(!format!("{:?}", Password::new("hunter2")).contains("hunter2"));
    }
}
