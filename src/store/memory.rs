//! Bytes in memory that grow without being moved, and take room where something was written.

use std::io;
use std::ops::Range;
use std::sync::{PoisonError, RwLock};

use redb::StorageBackend;

/// Memory is taken by so much at a time.
const CHUNK: u64 = 256 * 1024;

/// A file in memory. redb makes its file larger by a large part of it at a time, long before it writes there: memory that is one
/// piece would be copied then, with everybody waiting.
#[derive(Debug, Default)]
pub(super) struct Memory {
    state: RwLock<Chunks>,
}

#[derive(Default)]
struct Chunks {
    len: u64,
    /// Zeros where there is none.
    chunks: Vec<Option<Box<[u8]>>>,
}

impl std::fmt::Debug for Chunks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Chunks({} bytes)", self.len)
    }
}

impl Chunks {
    fn has(&self, offset: u64, bytes: usize) -> io::Result<()> {
        let is_inside = offset.checked_add(bytes as u64).is_some_and(|end| end <= self.len);
        if is_inside { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

impl StorageBackend for Memory {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state.read().unwrap_or_else(PoisonError::into_inner).len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.has(offset, out.len())?;
        for (chunk, inside, whole) in parts::<CHUNK>(offset, out.len()) {
            match &state.chunks[chunk as usize] {
                Some(bytes) => out[whole].copy_from_slice(&bytes[inside]),
                None => out[whole].fill(0),
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let chunks = usize::try_from(len.div_ceil(CHUNK)).map_err(io::Error::other)?;
        state.chunks.resize_with(chunks, || None);
        if len < state.len
            && let Some(Some(last)) = state.chunks.get_mut((len / CHUNK) as usize)
        {
            last[(len % CHUNK) as usize..].fill(0);
        }
        state.len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.has(offset, data.len())?;
        for (chunk, inside, whole) in parts::<CHUNK>(offset, data.len()) {
            let bytes = state.chunks[chunk as usize].get_or_insert_with(|| vec![0; CHUNK as usize].into());
            bytes[inside].copy_from_slice(&data[whole]);
        }
        Ok(())
    }
}

/// The parts of `bytes` bytes at `offset` that lie in one piece of `SIZE` bytes each: the piece, and the places in it and in the
/// whole.
pub(super) fn parts<const SIZE: u64>(
    offset: u64,
    bytes: usize,
) -> impl Iterator<Item = (u64, Range<usize>, Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let inside = (at % SIZE) as usize;
        let part = (SIZE as usize - inside).min(bytes - done);
        let whole = done..done + part;
        done += part;
        (part > 0).then(|| (at / SIZE, inside..inside + part, whole))
    })
}

#[cfg(test)]
mod tests {
    use redb::backends::InMemoryBackend;

    use super::*;

    #[test]
    fn it_is_what_memory_in_one_piece_would_be() {
        let mut rng = fastrand::Rng::with_seed(3);
        let (memory, expected) = (Memory::default(), InMemoryBackend::new());
        for _ in 0..2_000 {
            let len = expected.len().expect("memory");
            let at = rng.u64(0..=len);
            let bytes = rng.usize(0..=usize::try_from(len - at).expect("it is short")).min(600_000);
            match rng.u8(0..10) {
                0 => {
                    let len = rng.u64(0..2_000_000);
                    memory.set_len(len).expect("memory");
                    expected.set_len(len).expect("memory");
                }
                1..4 => {
                    let data: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(bytes.min(5_000)).collect();
                    memory.write(at, &data).expect("memory");
                    expected.write(at, &data).expect("memory");
                }
                _ => {
                    let (mut out, mut wanted) = (vec![1; bytes], vec![2; bytes]);
                    memory.read(at, &mut out).expect("memory");
                    expected.read(at, &mut wanted).expect("memory");
                    assert!(out == wanted);
                }
            }
            assert_eq!(memory.len().expect("memory"), expected.len().expect("memory"));
        }
        let end = memory.len().expect("memory");
        assert!(memory.read(end, &mut [0]).is_err() && memory.write(end, &[0]).is_err(), "behind the end is nothing");
        assert!(memory.read(u64::MAX, &mut [0]).is_err());
    }

    #[test]
    fn what_was_never_written_takes_no_room() {
        let memory = Memory::default();
        memory.set_len(1 << 34).expect("memory");
        memory.write(1 << 33, &[1]).expect("memory");
        let state = memory.state.read().expect("nobody panicked");
        assert_eq!(state.chunks.iter().flatten().count(), 1);
    }
}
