//! What stands before the parts of a message that are copied.

use prost::encoding::WireType;

use crate::wire::{HEADER_BYTES_MAX, Header};

/// The few bytes that stand before those that are copied: into an array, since a vector would look for room for each of them.
pub(super) struct Start {
    bytes: [u8; START_BYTES_MAX + SHORT_BYTES_MAX + WORD_BYTES],
    len: usize,
}

/// Keys of at most two bytes and numbers of at most ten: between two copies there are eleven of each.
const START_BYTES_MAX: usize = HEADER_BYTES_MAX + 11 * (2 + 10);

/// So much is put into the array, and not copied by itself.
const SHORT_BYTES_MAX: usize = 64;

/// A few bytes are put in one step, with some behind them that do not count.
const WORD_BYTES: usize = size_of::<u64>();

/// A number that takes four bytes at most as a varint.
const SMALL_BITS: u32 = 28;

impl Start {
    pub(super) fn new() -> Self {
        Self { bytes: [0; START_BYTES_MAX + SHORT_BYTES_MAX + WORD_BYTES], len: 0 }
    }

    /// How many bytes it has.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The first `len` bytes of `word`, the least significant one first.
    #[inline]
    fn word(&mut self, word: u64, len: usize) {
        self.bytes[self.len..self.len + WORD_BYTES].copy_from_slice(&word.to_le_bytes());
        self.len += len;
    }

    /// What a transport puts before everything else.
    pub(super) fn header(&mut self, header: Header) {
        self.bytes[..HEADER_BYTES_MAX].copy_from_slice(&header.bytes);
        self.len = header.len;
    }

    /// The key of a field, which takes two bytes at most, and `value` behind it. Inlined, so that all of the key is known before.
    #[inline(always)]
    fn field(&mut self, number: u32, wire_type: WireType, value: u64) {
        let (key, key_len) = small_varint(u64::from(number << 3 | wire_type as u32));
        if value < 1 << SMALL_BITS {
            let (varint, len) = small_varint(value);
            self.word(key | varint << (8 * key_len), key_len + len);
        } else {
            self.word(key, key_len);
            self.large_varint(value);
        }
    }

    #[cold]
    fn large_varint(&mut self, mut value: u64) {
        while value > 0x7f {
            self.word(value & 0x7f | 0x80, 1);
            value >>= 7;
        }
        self.word(value, 1);
    }

    /// The field `number`, a number itself.
    #[inline(always)]
    pub(super) fn number(&mut self, number: u32, value: u64) {
        self.field(number, WireType::Varint, value);
    }

    /// What stands before the field `number`, which has `len` bytes.
    #[inline(always)]
    pub(super) fn length(&mut self, number: u32, len: usize) {
        self.field(number, WireType::LengthDelimited, len as u64);
    }

    /// The field `number`, a fraction.
    pub(super) fn double(&mut self, number: u32, value: f64) {
        let (key, key_len) = small_varint(u64::from(number << 3 | WireType::SixtyFourBit as u32));
        self.word(key, key_len);
        self.word(value.to_bits(), WORD_BYTES);
    }

    /// Then `copied`, and everything before it to `out`, if it is not short.
    pub(super) fn put_before(&mut self, copied: &[u8], out: &mut Vec<u8>) {
        if copied.len() > SHORT_BYTES_MAX || self.len > START_BYTES_MAX {
            self.finish(out);
            return out.extend_from_slice(copied);
        }
        self.bytes[self.len..self.len + copied.len()].copy_from_slice(copied);
        self.len += copied.len();
        if self.len > SHORT_BYTES_MAX {
            self.finish(out);
        }
    }

    /// Writes it to `out`; then it is empty.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.bytes[..self.len]);
        self.len = 0;
    }
}

/// A number of at most [`SMALL_BITS`] bits as a varint, the first byte in the lowest place, and how many bytes that are.
#[inline(always)]
const fn small_varint(value: u64) -> (u64, usize) {
    let (first, second) = (value & 0x7f, value >> 7 & 0x7f);
    match value {
        0..0x80 => (value, 1),
        0x80..0x4000 => (first | 0x80 | second << 8, 2),
        0x4000..0x20_0000 => (first | second << 8 | value >> 14 << 16 | 0x8080, 3),
        _ => (first | second << 8 | (value >> 14 & 0x7f) << 16 | value >> 21 << 24 | 0x80_8080, 4),
    }
}
