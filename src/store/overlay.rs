//! A disk that is too full for what the journal has: readers get their store all the same, out of memory.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

use super::memory::parts;

const PAGE: u64 = 4096;

/// Shows `backend` with all that is written to it, and writes nothing there. Nothing of it lasts, so nothing may be committed to it.
#[derive(Debug)]
pub(super) struct Overlay {
    backend: Box<dyn StorageBackend>,
    state: Mutex<Written>,
}

struct Written {
    len: u64,
    /// Behind this, nothing of the backend is to be seen.
    shown: u64,
    pages: BTreeMap<u64, Vec<u8>>,
}

impl std::fmt::Debug for Written {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Written({} pages)", self.pages.len())
    }
}

impl Overlay {
    pub(super) fn new(backend: Box<dyn StorageBackend>) -> io::Result<Self> {
        let len = backend.len()?;
        Ok(Self { backend, state: Mutex::new(Written { len, shown: len, pages: BTreeMap::new() }) })
    }

    fn lock(&self) -> MutexGuard<'_, Written> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the backend has of a page; zero where it has nothing.
    fn page(&self, shown: u64, page: u64) -> io::Result<Vec<u8>> {
        let start = page * PAGE;
        let mut bytes = vec![0; PAGE as usize];
        let there = usize::try_from(shown.saturating_sub(start).min(PAGE)).map_err(io::Error::other)?;
        if there > 0 {
            self.backend.read(start, &mut bytes[..there])?;
        }
        Ok(bytes)
    }
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.lock().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.lock();
        if offset.saturating_add(out.len() as u64) > state.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (page, in_page, whole) in parts::<PAGE>(offset, out.len()) {
            match state.pages.get(&page) {
                Some(bytes) => out[whole].copy_from_slice(&bytes[in_page]),
                None => out[whole].copy_from_slice(&self.page(state.shown, page)?[in_page]),
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.lock();
        if len < state.len {
            state.shown = state.shown.min(len);
            state.pages.split_off(&len.div_ceil(PAGE));
            if let Some(last) = state.pages.get_mut(&(len / PAGE)) {
                last[(len % PAGE) as usize..].fill(0);
            }
        }
        state.len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.lock();
        for (page, in_page, whole) in parts::<PAGE>(offset, data.len()) {
            let mut bytes = match state.pages.remove(&page) {
                Some(bytes) => bytes,
                None => self.page(state.shown, page)?,
            };
            bytes[in_page].copy_from_slice(&data[whole]);
            state.pages.insert(page, bytes);
        }
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.backend.close()
    }
}

#[cfg(test)]
mod tests {
    use redb::backends::InMemoryBackend;

    use super::*;

    #[test]
    fn it_is_what_the_backend_would_be_and_leaves_that_alone() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut expected: Vec<u8> = (0..20_000).map(|_| rng.u8(..)).collect();
        let backend = InMemoryBackend::new();
        backend.set_len(20_000).expect("memory");
        backend.write(0, &expected).expect("memory");
        let before = expected.clone();
        let overlay = Overlay::new(Box::new(backend)).expect("it has a length");
        for _ in 0..2_000 {
            let len = expected.len();
            let at = rng.usize(0..len);
            match rng.u8(0..20) {
                0 => {
                    let len = rng.usize(1..30_000);
                    overlay.set_len(len as u64).expect("memory");
                    expected.resize(len, 0);
                }
                1..10 => {
                    let data: Vec<u8> = (0..rng.usize(0..(len - at).min(9_000) + 1)).map(|_| rng.u8(..)).collect();
                    overlay.write(at as u64, &data).expect("memory");
                    expected[at..at + data.len()].copy_from_slice(&data);
                }
                _ => {
                    let mut out = vec![0; rng.usize(0..len - at + 1)];
                    overlay.read(at as u64, &mut out).expect("memory");
                    assert!(out == expected[at..at + out.len()]);
                }
            }
            assert_eq!(overlay.len().expect("memory"), expected.len() as u64);
        }
        assert!(overlay.read(0, &mut vec![0; expected.len() + 1]).is_err(), "behind the end is nothing");
        let mut kept = vec![0; before.len()];
        overlay.backend.read(0, &mut kept).expect("memory");
        assert!(kept == before);
    }
}
