//! Frames for a client, one behind the other, to be sent in one go. A server neither masks nor cuts what it sends.

use bytes::Bytes;

use crate::feed::KeptMessages;
use crate::wire::{HEADER_BYTES_MAX, Header, Messages};

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// A whole text message.
    Text = 0x1,
    /// A whole binary message.
    Binary = 0x2,
    /// The end.
    Close = 0x8,
    /// To be answered.
    Ping = 0x9,
}

/// The only frame of a message.
const FINAL: u8 = 0x80;

/// The header of a payload from 126 to 65,535 bytes, which most messages have.
const USUAL_HEADER_BYTES: usize = 4;

/// The header of a binary message of so many bytes.
pub(super) fn binary_header(payload_len: usize) -> Header {
    let mut bytes = [0; HEADER_BYTES_MAX];
    bytes[0] = FINAL | FrameKind::Binary as u8;
    let len = match (u8::try_from(payload_len), u16::try_from(payload_len)) {
        (Ok(length @ ..=125), _) => {
            bytes[1] = length;
            2
        }
        (_, Ok(length)) => {
            bytes[1] = 126;
            bytes[2..4].copy_from_slice(&length.to_be_bytes());
            4
        }
        _ => {
            bytes[1] = 127;
            bytes[2..].copy_from_slice(&(payload_len as u64).to_be_bytes());
            10
        }
    };
    Header { bytes, len }
}

/// Frames that wait to be sent.
#[derive(Debug, Default)]
pub struct Frames {
    bytes: Vec<u8>,
    /// Behind those: frames that are sent from where they lie.
    shared: Option<Bytes>,
    count: u64,
    payload_bytes: u64,
}

/// It is more work to send fewer bytes by themselves than to copy them.
const SHARED_BYTES_MIN: usize = 16 * 1024;

impl Frames {
    /// Puts a frame, whose payload `write` appends to what it is given, behind the others.
    pub fn put_frame(&mut self, kind: FrameKind, write: impl FnOnce(&mut Vec<u8>)) {
        self.gather();
        let bytes = &mut self.bytes;
        let start = bytes.len();
        bytes.extend_from_slice(&[FINAL | kind as u8, 0, 0, 0]);
        write(bytes);
        let payload_len = bytes.len() - start - USUAL_HEADER_BYTES;
        match (u8::try_from(payload_len), u16::try_from(payload_len)) {
            (Ok(length @ ..=125), _) => {
                bytes[start + 1] = length;
                // It moves at most 125 bytes.
                bytes.drain(start + 2..start + USUAL_HEADER_BYTES);
            }
            (_, Ok(length)) => {
                bytes[start + 1] = 126;
                bytes[start + 2..start + USUAL_HEADER_BYTES].copy_from_slice(&length.to_be_bytes());
            }
            _ => {
                bytes[start + 1] = 127;
                let length = (payload_len as u64).to_be_bytes();
                bytes.splice(start + 2..start + USUAL_HEADER_BYTES, length);
            }
        }
        self.count += 1;
        self.payload_bytes += payload_len as u64;
    }

    /// How many frames they are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The bytes of their payloads.
    pub fn payload_bytes(&self) -> u64 {
        self.payload_bytes
    }

    /// The bytes to send, up to those that are sent from where they lie.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What is sent behind those.
    pub fn take_shared(&mut self) -> Option<Bytes> {
        self.shared.take()
    }

    /// How many bytes there are to send.
    pub fn len(&self) -> usize {
        self.bytes.len() + self.shared.as_ref().map_or(0, Bytes::len)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// More comes behind: then all is sent together.
    fn gather(&mut self) {
        if let Some(shared) = self.shared.take() {
            self.bytes.extend_from_slice(&shared);
        }
    }

    /// Makes room for others; keeps at most `kept` bytes of memory.
    pub fn clear(&mut self, kept: usize) {
        self.bytes.clear();
        self.shared = None;
        self.count = 0;
        self.payload_bytes = 0;
        if self.bytes.capacity() > kept {
            self.bytes = Vec::new();
        }
    }
}

impl Messages for Frames {
    fn put(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        self.put_frame(FrameKind::Binary, write);
    }

    fn put_to_keep(&mut self, put: impl FnOnce(&mut Self)) -> Option<KeptMessages> {
        self.gather();
        let (start, count, payload_bytes) = (self.bytes.len(), self.count, self.payload_bytes);
        put(self);
        Some(KeptMessages {
            bytes: Bytes::copy_from_slice(&self.bytes[start..]),
            count: self.count - count,
            payload_bytes: self.payload_bytes - payload_bytes,
        })
    }

    fn put_kept(&mut self, kept: &KeptMessages) {
        self.gather();
        if kept.bytes.len() >= SHARED_BYTES_MIN {
            self.shared = Some(kept.bytes.clone());
        } else {
            self.bytes.extend_from_slice(&kept.bytes);
        }
        self.count += kept.count;
        self.payload_bytes += kept.payload_bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_length_has_its_header() {
        let mut frames = Frames::default();
        let lengths = [0, 1, 125, 126, 127, 65_535, 65_536, 70_000];
        for length in lengths {
            let payload = vec![length as u8; length];
            frames.put_frame(FrameKind::Binary, |bytes| bytes.extend_from_slice(&payload));
        }
        assert_eq!(frames.count(), lengths.len() as u64);
        assert_eq!(frames.payload_bytes(), lengths.iter().sum::<usize>() as u64);
        let mut bytes = frames.bytes();
        for length in lengths {
            let header = match length {
                ..=125 => vec![0x82, length as u8],
                126..=65_535 => [&[0x82, 126][..], &(length as u16).to_be_bytes()].concat(),
                _ => [&[0x82, 127][..], &(length as u64).to_be_bytes()].concat(),
            };
            let Header { bytes: of_message, len } = binary_header(length);
            assert_eq!(of_message[..len], header);
            let (frame, rest) = bytes.split_at(header.len() + length);
            assert_eq!(frame[..header.len()], header);
            assert!(frame[header.len()..].iter().all(|byte| *byte == length as u8));
            bytes = rest;
        }
        assert!(bytes.is_empty());
    }

    #[test]
    fn frames_that_are_kept_can_be_taken_again() {
        let mut frames = Frames::default();
        frames.put(|out| out.extend_from_slice(b"before"));
        let put =
            |frames: &mut Frames| [b"a", b"b"].iter().for_each(|text| frames.put(|out| out.extend_from_slice(*text)));
        let kept = frames.put_to_keep(put).expect("frames can be kept");
        let mut again = Frames::default();
        again.put(|out| out.extend_from_slice(b"before"));
        again.put_kept(&kept);
        assert_eq!(again.bytes(), frames.bytes());
        assert_eq!((again.count(), again.payload_bytes()), (3, 8));
        assert_eq!((frames.count(), frames.payload_bytes()), (3, 8));
    }

    #[test]
    fn frames_that_lie_elsewhere_keep_their_place() {
        let large = KeptMessages { bytes: vec![b'x'; SHARED_BYTES_MIN].into(), count: 3, payload_bytes: 7 };
        let mut frames = Frames::default();
        frames.put(|out| out.push(b'a'));
        frames.put_kept(&large);
        assert_eq!((frames.bytes(), frames.len()), (&[0x82, 1, b'a'][..], 3 + SHARED_BYTES_MIN));
        assert_eq!((frames.count(), frames.payload_bytes()), (4, 8));
        let shared = frames.take_shared().expect("it is not copied");
        assert_eq!(shared.as_ptr(), large.bytes.as_ptr());
        frames.put_kept(&large);
        frames.put(|out| out.push(b'b'));
        let expected = [&[0x82, 1, b'a'][..], &large.bytes, &[0x82, 1, b'b']].concat();
        assert!(frames.bytes() == expected && frames.take_shared().is_none());
        frames.put_kept(&large);
        frames.clear(0);
        assert!(frames.is_empty() && frames.take_shared().is_none());
    }

    #[test]
    fn memory_that_a_large_message_took_is_given_back() {
        let mut frames = Frames::default();
        frames.put_frame(FrameKind::Text, |bytes| bytes.extend_from_slice(&[b'x'; 5000]));
        frames.clear(10_000);
        assert!(frames.bytes().is_empty() && frames.bytes.capacity() >= 5000);
        frames.clear(1000);
        assert_eq!(frames.bytes.capacity(), 0);
    }
}
