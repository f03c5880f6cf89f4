//! WebSocket frames, as much of them as a load generator needs: whole binary messages from the server, and control frames.

/// What fits into one frame of a server; nothing that this program subscribes to comes near.
pub(super) const PAYLOAD_BYTES_MAX: usize = 96 * 1024;
/// The longest header that a server writes.
pub(super) const HEADER_BYTES_MAX: usize = 10;

/// A frame from the server.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame<'a> {
    /// A whole message.
    Message(&'a [u8]),
    /// To be answered with a pong of the same content.
    Ping(&'a [u8]),
    /// An answer to a ping.
    Pong,
    /// The end; the content is a code and a text, or empty.
    Close(&'a [u8]),
}

/// What no server of this API sends.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    #[error("the server sent a frame that begins with {0:#04x}: neither a whole binary message nor a control frame")]
    Unexpected(u8),
    #[error("the server sent a masked frame")]
    Masked,
    #[error("the server sent a frame of {0} bytes")]
    TooLong(u64),
}

/// The first frame of `bytes` and the bytes it takes; `None` when there is no whole one yet.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Frame<'_>, usize)>, FrameError> {
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    let (length, length_bytes) = match second {
        0..=125 => (u64::from(*second), 0),
        126 => match rest.first_chunk() {
            Some(length) => (u64::from(u16::from_be_bytes(*length)), 2),
            None => return Ok(None),
        },
        127 => match rest.first_chunk() {
            Some(length) => (u64::from_be_bytes(*length), 8),
            None => return Ok(None),
        },
        128.. => return Err(FrameError::Masked),
    };
    let in_bounds = usize::try_from(length).ok().filter(|length| *length <= PAYLOAD_BYTES_MAX);
    let length = in_bounds.ok_or(FrameError::TooLong(length))?;
    let Some(payload) = rest[length_bytes..].get(..length) else { return Ok(None) };
    let frame = match first {
        0x82 => Frame::Message(payload),
        0x88 => Frame::Close(payload),
        0x89 => Frame::Ping(payload),
        0x8a => Frame::Pong,
        first => return Err(FrameError::Unexpected(*first)),
    };
    Ok(Some((frame, 2 + length_bytes + length)))
}

/// Frames for the server. They have to be masked; what protects proxies from web pages needs no good randomness here.
#[derive(Debug)]
pub(super) struct Masking {
    key: u32,
}

impl Masking {
    pub(super) fn new(seed: u32) -> Self {
        Self { key: seed }
    }

    /// Appends a binary message to `out`.
    pub(super) fn message(&mut self, payload: &[u8], out: &mut Vec<u8>) {
        self.frame(0x82, payload, out);
    }

    /// Appends the answer to a ping.
    pub(super) fn pong(&mut self, payload: &[u8], out: &mut Vec<u8>) {
        self.frame(0x8a, payload, out);
    }

    fn frame(&mut self, first: u8, payload: &[u8], out: &mut Vec<u8>) {
        self.key = self.key.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let key = self.key.to_be_bytes();
        out.push(first);
        match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
            (Ok(length @ 0..=125), _) => out.push(0x80 | length),
            (_, Ok(length)) => {
                out.push(0x80 | 126);
                out.extend_from_slice(&length.to_be_bytes());
            }
            _ => {
                out.push(0x80 | 127);
                out.extend_from_slice(&(payload.len() as u64).to_be_bytes());
            }
        }
        out.extend_from_slice(&key);
        out.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![first];
        match payload.len() {
            length @ 0..=125 => bytes.push(length as u8),
            length @ 126..=0xffff => {
                bytes.push(126);
                bytes.extend_from_slice(&(length as u16).to_be_bytes());
            }
            length => {
                bytes.push(127);
                bytes.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        bytes.extend_from_slice(payload);
        bytes
    }

    #[test]
    fn a_frame_is_read_once_its_last_byte_is_there() {
        for length in [0, 1, 125, 126, 127, 200, 65_535, 65_536, PAYLOAD_BYTES_MAX] {
            let payload: Vec<u8> = (0..length).map(|at| at as u8).collect();
            let whole = frame(0x82, &payload);
            // Every split of a short frame; of a long one those in the header and at the end.
            let splits = (0..whole.len()).filter(|at| *at < 300 || *at > whole.len() - 20);
            for split in splits {
                assert_eq!(parse(&whole[..split]), Ok(None), "{split} of {length}");
            }
            assert_eq!(parse(&whole), Ok(Some((Frame::Message(&payload[..]), whole.len()))), "{length}");
            let mut followed = whole.clone();
            followed.extend_from_slice(&frame(0x82, b"next"));
            assert_eq!(parse(&followed), Ok(Some((Frame::Message(&payload[..]), whole.len()))), "{length}");
        }
    }

    #[test]
    fn control_frames_are_told_apart() {
        assert_eq!(parse(&frame(0x89, b"are you there")), Ok(Some((Frame::Ping(b"are you there"), 15))));
        assert_eq!(parse(&frame(0x8a, b"yes")), Ok(Some((Frame::Pong, 5))));
        assert_eq!(parse(&frame(0x88, b"")), Ok(Some((Frame::Close(b""), 2))));
        assert_eq!(parse(&frame(0x88, b"\x03\xe9bye")), Ok(Some((Frame::Close(b"\x03\xe9bye"), 7))));
    }

    #[test]
    fn what_no_server_sends_is_an_error() {
        assert_eq!(parse(&frame(0x81, b"text")), Err(FrameError::Unexpected(0x81)));
        assert_eq!(parse(&frame(0x02, b"part")), Err(FrameError::Unexpected(0x02)));
        assert_eq!(parse(&frame(0xc2, b"compressed")), Err(FrameError::Unexpected(0xc2)));
        assert_eq!(parse(&[0x82, 0x80, 1, 2, 3, 4]), Err(FrameError::Masked));
        let length = PAYLOAD_BYTES_MAX as u64 + 1;
        let mut bytes = vec![0x82, 127];
        bytes.extend_from_slice(&length.to_be_bytes());
        assert_eq!(parse(&bytes), Err(FrameError::TooLong(length)));
    }

    #[test]
    fn frames_for_the_server_are_masked() {
        let mut masking = Masking::new(7);
        for (length, header) in [(0, 6), (125, 6), (126, 8), (65_535, 8), (65_536, 14)] {
            let payload = vec![0x5a; length];
            let mut out = Vec::new();
            masking.message(&payload, &mut out);
            assert_eq!(out.len(), header + length);
            assert_eq!((out[0], out[1] & 0x80), (0x82, 0x80));
            let key = &out[header - 4..header];
            let unmasked: Vec<u8> =
                out[header..].iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
            assert_eq!(unmasked, payload);
        }
        let mut out = Vec::new();
        masking.pong(b"", &mut out);
        assert_eq!(out[0], 0x8a);
    }
}
