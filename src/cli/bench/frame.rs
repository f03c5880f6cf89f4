//! WebSocket frames, as much of them as a load generator and its bare peer need: whole messages, and control frames.

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
    #[error("the server sent a frame that begins with {0:#04x}: neither a whole message nor a control frame")]
    Unexpected(u8),
    #[error("the server sent a masked frame")]
    Masked,
    #[error("the client sent a frame that is not masked")]
    Unmasked,
    #[error("a frame has {0} bytes")]
    TooLong(u64),
}

/// The first frame of `bytes`, which a server has sent, and the bytes it takes; `None` when there is no whole one yet.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Frame<'_>, usize)>, FrameError> {
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    let Some((length, length_bytes)) = payload_length(*second, rest) else { return Ok(None) };
    if second & MASKED != 0 {
        return Err(FrameError::Masked);
    }
    let length = in_bounds(length)?;
    let Some(payload) = rest[length_bytes..].get(..length) else { return Ok(None) };
    let frame = match first {
        0x81 | 0x82 => Frame::Message(payload),
        0x88 => Frame::Close(payload),
        0x89 => Frame::Ping(payload),
        0x8a => Frame::Pong,
        first => return Err(FrameError::Unexpected(*first)),
    };
    Ok(Some((frame, 2 + length_bytes + length)))
}

/// A frame from a client.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ClientFrame<'a> {
    pub(super) first_byte: u8,
    pub(super) payload: &'a [u8],
    /// How many bytes the whole of it takes.
    pub(super) length: usize,
}

/// The first frame of `bytes`, which a client has sent, unmasked where it lies; `None` when there is no whole one yet.
pub(super) fn parse_masked(bytes: &mut [u8]) -> Result<Option<ClientFrame<'_>>, FrameError> {
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    let Some((length, length_bytes)) = payload_length(*second & !MASKED, rest) else { return Ok(None) };
    if *second & MASKED == 0 {
        return Err(FrameError::Unmasked);
    }
    let length = in_bounds(length)?;
    let Some((key, payload)) = rest[length_bytes..].split_first_chunk_mut::<4>() else { return Ok(None) };
    let Some(payload) = payload.get_mut(..length) else { return Ok(None) };
    for (byte, key) in payload.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
    Ok(Some(ClientFrame { first_byte: *first, payload, length: 2 + length_bytes + 4 + length }))
}

const MASKED: u8 = 0x80;

/// The length of the payload, and how many bytes of `rest` say so; `None` when they are not there yet.
fn payload_length(second: u8, rest: &[u8]) -> Option<(u64, usize)> {
    match second & !MASKED {
        126 => rest.first_chunk().map(|length| (u64::from(u16::from_be_bytes(*length)), 2)),
        127 => rest.first_chunk().map(|length| (u64::from_be_bytes(*length), 8)),
        length => Some((u64::from(length), 0)),
    }
}

fn in_bounds(length: u64) -> Result<usize, FrameError> {
    let in_bounds = usize::try_from(length).ok().filter(|length| *length <= PAYLOAD_BYTES_MAX);
    in_bounds.ok_or(FrameError::TooLong(length))
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opcode {
    Text,
    Binary,
    Pong,
}

impl Opcode {
    /// The first byte of a frame that is whole.
    fn first_byte(self) -> u8 {
        match self {
            Self::Text => 0x81,
            Self::Binary => 0x82,
            Self::Pong => 0x8a,
        }
    }
}

/// Appends the beginning of a frame: all but the mask and the payload.
fn put_header(opcode: Opcode, payload_bytes: usize, masked: u8, out: &mut Vec<u8>) {
    out.push(opcode.first_byte());
    match (u8::try_from(payload_bytes), u16::try_from(payload_bytes)) {
        (Ok(length @ 0..=125), _) => out.push(masked | length),
        (_, Ok(length)) => {
            out.push(masked | 126);
            out.extend_from_slice(&length.to_be_bytes());
        }
        _ => {
            out.push(masked | 127);
            out.extend_from_slice(&(payload_bytes as u64).to_be_bytes());
        }
    }
}

/// Appends a frame from a server to `out`.
pub(super) fn put_unmasked(opcode: Opcode, payload: &[u8], out: &mut Vec<u8>) {
    put_header(opcode, payload.len(), 0, out);
    out.extend_from_slice(payload);
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

    /// Appends a frame to `out`.
    pub(super) fn frame(&mut self, opcode: Opcode, payload: &[u8], out: &mut Vec<u8>) {
        self.key = self.key.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let key = self.key.to_be_bytes();
        put_header(opcode, payload.len(), MASKED, out);
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
        assert_eq!(parse(&frame(0x02, b"part")), Err(FrameError::Unexpected(0x02)));
        assert_eq!(parse(&frame(0xc2, b"compressed")), Err(FrameError::Unexpected(0xc2)));
        assert_eq!(parse(&[0x82, 0x80, 1, 2, 3, 4]), Err(FrameError::Masked));
        let length = PAYLOAD_BYTES_MAX as u64 + 1;
        let mut bytes = vec![0x82, 127];
        bytes.extend_from_slice(&length.to_be_bytes());
        assert_eq!(parse(&bytes), Err(FrameError::TooLong(length)));
        assert_eq!(parse_masked(&mut [0x82, 1, 7]), Err(FrameError::Unmasked));
    }

    #[test]
    fn frames_for_the_server_are_masked() {
        let mut masking = Masking::new(7);
        for (length, header) in [(0, 6), (125, 6), (126, 8), (65_535, 8), (65_536, 14)] {
            let payload = vec![0x5a; length];
            let mut out = Vec::new();
            masking.frame(Opcode::Binary, &payload, &mut out);
            assert_eq!(out.len(), header + length);
            assert_eq!((out[0], out[1] & 0x80), (0x82, 0x80));
            let key = &out[header - 4..header];
            let unmasked: Vec<u8> =
                out[header..].iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
            assert_eq!(unmasked, payload);
            for split in 0..out.len().min(300) {
                assert_eq!(parse_masked(&mut out.clone()[..split]), Ok(None), "{split} of {length}");
            }
            let length = out.len();
            let whole = ClientFrame { first_byte: 0x82, payload: &payload, length };
            assert_eq!(parse_masked(&mut out), Ok(Some(whole)));
        }
        let mut out = Vec::new();
        masking.frame(Opcode::Pong, b"", &mut out);
        assert_eq!(out[0], 0x8a);
    }
}
