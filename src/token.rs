//! Tokens: where a client goes on, sealed, so that it can keep them and nobody can make or change one.

use bytes::{BufMut, Bytes, BytesMut};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::change::{Epoch, Key, Seq};
use crate::planted::PlantedBug;
use crate::store::StoreSecret;
use crate::summary::Summary;
use crate::view::Scope;

/// Where a client goes on, and what it holds there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// The history that its numbers count in.
    pub epoch: Epoch,
    /// The view it is for, and who sees it.
    pub scope: Scope,
    /// How far the client has come.
    pub place: Place,
    /// The rows that it holds.
    pub summary: Summary,
}

/// How far a client has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// It holds the view as of this change.
    At(Seq),
    /// It is in the middle of a snapshot: it holds the rows of the view up to this key, as of this change.
    UpTo(Key, Seq),
}

/// Why a token is of no use; the text is for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It was not made here, or was changed.
    #[error("invalid_token: it is not a token of this server, or not as it was sent; subscribe without one")]
    Forged,
    /// It was sealed with another secret: by another server, or by this one before it lost its store.
    #[error("the token was made by another server")]
    OtherServer,
}

const FORMAT: u8 = 1;
const KEY_ID_BYTES: usize = 8;
const MAC_BYTES: usize = 16;
/// Format, key id, epoch, scope, position, count, digest.
const FIXED_BYTES: usize = 1 + KEY_ID_BYTES + 16 + 16 + 8 + 8 + 8;
/// No key of a table is longer; a longer one in a token is not from here.
const KEY_BYTES_MAX: usize = 64 * 1024;

/// Seals tokens and opens them.
#[derive(Clone)]
pub struct TokenSeal {
    mac: Hmac<Sha256>,
    key_id: [u8; KEY_ID_BYTES],
}

impl std::fmt::Debug for TokenSeal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenSeal(..)")
    }
}

impl TokenSeal {
    /// The seal of the store that has this secret.
    pub fn new(secret: StoreSecret) -> Self {
        let mac = Hmac::new_from_slice(&secret.0).expect("a MAC takes keys of any length");
        let mut key_id = [0; KEY_ID_BYTES];
        key_id.copy_from_slice(&Sha256::digest([b"key id".as_slice(), &secret.0].concat())[..KEY_ID_BYTES]);
        Self { mac, key_id }
    }

    /// The bytes of `token`.
    pub fn seal(&self, token: &Token) -> Bytes {
        let (seq, key) = match &token.place {
            Place::At(seq) => (*seq, None),
            Place::UpTo(key, seq) => (*seq, Some(key)),
        };
        let key_bytes = key.map_or(0, |key| 1 + key.as_bytes().len());
        let mut bytes = BytesMut::with_capacity(FIXED_BYTES + key_bytes + MAC_BYTES);
        bytes.put_u8(FORMAT);
        bytes.put_slice(&self.key_id);
        bytes.put_u128(token.epoch.0);
        bytes.put_slice(&token.scope.0);
        bytes.put_u64(seq.0);
        bytes.put_u64(token.summary.count);
        bytes.put_u64(token.summary.digest);
        if let Some(key) = key {
            // Tells a snapshot that has sent the empty key from a place behind it.
            bytes.put_u8(0);
            bytes.put_slice(key.as_bytes());
        }
        let mac = self.mac.clone().chain_update(&bytes).finalize().into_bytes();
        bytes.put_slice(&mac[..MAC_BYTES]);
        bytes.freeze()
    }

    /// Reads what [`TokenSeal::seal`] wrote.
    pub fn open(&self, bytes: &[u8]) -> Result<Token, TokenError> {
        let content_len = bytes.len().checked_sub(MAC_BYTES).ok_or(TokenError::Forged)?;
        if !(FIXED_BYTES..=FIXED_BYTES + KEY_BYTES_MAX).contains(&content_len) || bytes[0] != FORMAT {
            return Err(TokenError::Forged);
        }
        let (content, mac) = bytes.split_at(content_len);
        let mut reader = Reader(&content[1..]);
        if reader.take::<KEY_ID_BYTES>() != self.key_id {
            return Err(TokenError::OtherServer);
        }
        let is_sealed = self.mac.clone().chain_update(content).verify_truncated_left(mac).is_ok();
        if !is_sealed && !PlantedBug::AnyTokenIsAccepted.is_planted() {
            return Err(TokenError::Forged);
        }
        let epoch = Epoch(u128::from_be_bytes(reader.take()));
        let scope = Scope(reader.take());
        let seq = Seq(u64::from_be_bytes(reader.take()));
        let summary = Summary { count: u64::from_be_bytes(reader.take()), digest: u64::from_be_bytes(reader.take()) };
        let place = match reader.0.split_first() {
            None => Place::At(seq),
            Some((_, key)) => Place::UpTo(Key::from_stored(Bytes::copy_from_slice(key)), seq),
        };
        Ok(Token { epoch, scope, place, summary })
    }
}

/// Takes numbers from the front of bytes that are known to be there.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (front, rest) = self.0.split_first_chunk().expect("the length of a token was checked");
        self.0 = rest;
        *front
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal(byte: u8) -> TokenSeal {
        TokenSeal::new(StoreSecret([byte; 32]))
    }

    fn tokens() -> [Token; 3] {
        let token = |place| Token {
            epoch: Epoch(7 << 100),
            scope: Scope([9; 16]),
            place,
            summary: Summary { count: 3, digest: u64::MAX },
        };
        [
            token(Place::At(Seq(u64::MAX))),
            token(Place::UpTo(Key::text("forum.example"), Seq(5))),
            token(Place::UpTo(Key::from_stored(Bytes::new()), Seq(5))),
        ]
    }

    #[test]
    fn what_was_sealed_is_read_again() {
        for token in tokens() {
            assert_eq!(seal(1).open(&seal(1).seal(&token)), Ok(token));
        }
    }

    #[test]
    fn a_changed_token_is_refused() {
        for token in tokens() {
            let bytes = seal(1).seal(&token);
            for bit in 0..bytes.len() * 8 {
                let mut changed = bytes.to_vec();
                changed[bit / 8] ^= 1 << (bit % 8);
                assert!(seal(1).open(&changed).is_err(), "bit {bit}");
            }
            for len in 0..bytes.len() {
                assert_eq!(seal(1).open(&bytes[..len]), Err(TokenError::Forged), "{len} bytes");
            }
            let longer = [&bytes, b"x".as_slice()].concat();
            assert_eq!(seal(1).open(&longer), Err(TokenError::Forged));
        }
        assert_eq!(seal(1).open(b"nonsense"), Err(TokenError::Forged));
        assert_eq!(seal(1).open(&vec![FORMAT; 1 << 20]), Err(TokenError::Forged));
    }

    #[test]
    fn another_server_is_told_from_a_forger() {
        let [token, ..] = tokens();
        assert_eq!(seal(2).open(&seal(1).seal(&token)), Err(TokenError::OtherServer));
    }
}
