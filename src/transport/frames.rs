//! How a client cuts what it sends into frames: followed byte by byte, because a library joins them before anybody sees them.

use tokio::time::Instant;

/// The longest header: two bytes, a length of eight, a mask of four.
const HEADER_BYTES_MAX: usize = 14;

/// Follows the frames that come from a client.
#[derive(Debug)]
pub(super) struct FrameMeter {
    fragments_max: u64,
    header: [u8; HEADER_BYTES_MAX],
    /// Bytes of the header that is being read.
    header_len: usize,
    /// Bytes of the payload that are still to come.
    payload_left: u64,
    /// Frames of the message that is being received, while it is not complete.
    fragments: u64,
    /// Whether a message ever had more of them than are allowed.
    is_exceeded: bool,
    /// When something began to come that is not complete.
    began: Option<Instant>,
}

impl FrameMeter {
    /// Allows `fragments_max` frames for a message.
    pub(super) fn new(fragments_max: u64) -> Self {
        Self {
            fragments_max,
            header: [0; HEADER_BYTES_MAX],
            header_len: 0,
            payload_left: 0,
            fragments: 0,
            is_exceeded: false,
            began: None,
        }
    }

    /// Whether a message had too many fragments.
    pub(super) fn is_exceeded(&self) -> bool {
        self.is_exceeded
    }

    /// Since when a message or a control frame has been coming that is not complete.
    pub(super) fn began(&self) -> Option<Instant> {
        self.began
    }

    /// Takes note of what has come.
    pub(super) fn take(&mut self, mut bytes: &[u8]) {
        while let Some(&first) = bytes.first() {
            if self.payload_left > 0 {
                let taken = self.payload_left.min(bytes.len() as u64);
                self.payload_left -= taken;
                bytes = &bytes[usize::try_from(taken).expect("not more than there are")..];
            } else {
                self.header[self.header_len] = first;
                self.header_len += 1;
                bytes = &bytes[1..];
                let Some(payload_len) = payload_len(&self.header[..self.header_len]) else { continue };
                self.header_len = 0;
                self.payload_left = payload_len;
                self.count(self.header[0]);
            }
            if self.is_between_messages() {
                self.began = None;
            }
        }
        if self.began.is_none() && !self.is_between_messages() {
            self.began = Some(Instant::now());
        }
    }

    fn is_between_messages(&self) -> bool {
        self.fragments == 0 && self.payload_left == 0 && self.header_len == 0
    }

    fn count(&mut self, first: u8) {
        let (is_final, is_control) = (first & 0x80 != 0, first & 0x08 != 0);
        if is_control {
            return;
        }
        self.fragments += 1;
        self.is_exceeded |= self.fragments > self.fragments_max;
        if is_final {
            self.fragments = 0;
        }
    }
}

/// The length of the payload behind a header; `None` if the header is not complete.
fn payload_len(header: &[u8]) -> Option<u64> {
    let (second, rest) = (header.get(1)?, header.get(2..)?);
    let mask_len = if second & 0x80 == 0 { 0 } else { 4 };
    let (payload_len, length_len) = match second & 0x7f {
        126 => (u64::from(u16::from_be_bytes(*rest.first_chunk()?)), 2),
        127 => (u64::from_be_bytes(*rest.first_chunk()?), 8),
        short => (u64::from(short), 0),
    };
    (rest.len() >= length_len + mask_len).then_some(payload_len)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A masked frame of zeros.
    fn frame(first: u8, payload_len: usize) -> Vec<u8> {
        let mut frame = vec![first];
        match payload_len {
            0..126 => frame.push(0x80 | u8::try_from(payload_len).expect("small")),
            126..65_536 => {
                frame.push(0x80 | 126);
                frame.extend(u16::try_from(payload_len).expect("small").to_be_bytes());
            }
            _ => {
                frame.push(0x80 | 127);
                frame.extend((payload_len as u64).to_be_bytes());
            }
        }
        frame.extend(std::iter::repeat_n(0, 4 + payload_len));
        frame
    }

    #[test]
    fn frames_are_told_apart_however_they_are_cut() {
        let lengths = [0, 1, 125, 126, 127, 65_535, 65_536];
        // Each message in two fragments, and a ping between them.
        let message = |len: usize| [frame(0x02, len), frame(0x89, 3), frame(0x80, len)].concat();
        let bytes: Vec<u8> = lengths.into_iter().flat_map(message).collect();
        for piece in [1, 2, 3, 7, 1024, bytes.len()] {
            let mut meter = FrameMeter::new(2);
            for part in bytes.chunks(piece) {
                meter.take(part);
            }
            assert!(!meter.is_exceeded() && meter.began().is_none(), "in pieces of {piece}: {meter:?}");
        }
    }

    #[test]
    fn one_fragment_too_many_is_noticed_and_not_forgotten() {
        let mut meter = FrameMeter::new(3);
        meter.take(&[frame(0x02, 5), frame(0, 0), frame(0x8a, 0), frame(0, 5)].concat());
        assert!(!meter.is_exceeded());
        meter.take(&frame(0x80, 5));
        assert!(meter.is_exceeded());
        meter.take(&frame(0x82, 5));
        assert!(meter.is_exceeded());
    }

    #[test]
    fn what_is_not_complete_has_begun_until_it_is() {
        let begun = |bytes: &[u8]| {
            let mut meter = FrameMeter::new(9);
            meter.take(bytes);
            meter.began().is_some()
        };
        let ping = frame(0x89, 2);
        for len in 1..ping.len() {
            assert!(begun(&ping[..len]), "{len} bytes of a ping");
        }
        assert!(!begun(&ping));
        assert!(begun(&[frame(0x02, 2), ping].concat()), "a message whose last fragment is missing");
    }

    #[test]
    fn the_next_message_has_its_own_beginning() {
        let mut meter = FrameMeter::new(9);
        let message = frame(0x82, 5);
        meter.take(&message[..4]);
        let first = meter.began();
        std::thread::sleep(std::time::Duration::from_millis(2));
        meter.take(&message[4..6]);
        assert_eq!(meter.began(), first, "it goes on");
        meter.take(&[&message[6..], &message[..4]].concat());
        assert!(meter.began() > first, "another one has begun");
    }
}
