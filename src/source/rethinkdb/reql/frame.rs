//! The frames of a connection after its handshake, without I/O: a token, a length, and JSON.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::error::ReqlError;

/// Names a query on its connection; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub(super) u64);

/// A token of eight bytes and a length of four, least significant byte first.
const HEADER_BYTES: usize = 12;

/// Puts a frame behind `out`.
pub fn encode(token: Token, json: &[u8], out: &mut BytesMut) {
    let length = u32::try_from(json.len()).expect("queries are bounded far below 4 GiB");
    out.reserve(HEADER_BYTES + json.len());
    out.put_u64_le(token.0);
    out.put_u32_le(length);
    out.put_slice(json);
}

/// Takes the next frame out of `received`, if it is whole. Memory is taken for what has come, never for a length that was said.
pub fn decode(received: &mut BytesMut, bytes_max: usize) -> Result<Option<(Token, Bytes)>, ReqlError> {
    let Some(mut header) = received.get(..HEADER_BYTES) else {
        return Ok(None);
    };
    let token = Token(header.get_u64_le());
    let length = header.get_u32_le() as usize;
    if length > bytes_max {
        return Err(ReqlError::Protocol(format!(
            "an answer has {length} bytes, and {bytes_max} are allowed (source_frame_bytes)"
        )));
    }
    if received.len() < HEADER_BYTES + length {
        return Ok(None);
    }
    received.advance(HEADER_BYTES);
    Ok(Some((token, received.split_to(length).freeze())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_however_they_are_cut() {
        let mut sent = BytesMut::new();
        encode(Token(1), b"[1,1]", &mut sent);
        encode(Token(u64::MAX), b"", &mut sent);
        encode(Token(3), b"{}", &mut sent);
        assert_eq!(sent[..12], [1, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0]);
        for chunk in 1..sent.len() {
            let mut received = BytesMut::new();
            let mut frames = Vec::new();
            for piece in sent.chunks(chunk) {
                received.extend_from_slice(piece);
                while let Some(frame) = decode(&mut received, 100).expect("short frames") {
                    frames.push(frame);
                }
            }
            let expected: [(Token, Bytes); 3] = [
                (Token(1), Bytes::from_static(b"[1,1]")),
                (Token(u64::MAX), Bytes::new()),
                (Token(3), Bytes::from_static(b"{}")),
            ];
            assert_eq!(frames, expected);
        }
    }

    #[test]
    fn a_frame_that_is_too_long_is_refused_at_its_header() {
        let mut received = BytesMut::new();
        received.put_u64_le(1);
        received.put_u32_le(1 << 31);
        assert!(matches!(decode(&mut received, 1 << 20), Err(ReqlError::Protocol(_))));
    }
}
