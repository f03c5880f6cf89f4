//! Where the bytes of a store are kept: files, or memory. Tests bring disks that fail.

use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::StorageBackend;

use super::StoreError;

/// Where the bytes of a store are kept. It can be opened again after a fault, so that the store recovers without a restart.
pub trait Disk: fmt::Debug + Send + Sync {
    /// The files, from stable storage rather than from caches that a fault may have left ahead of it; `None` where nothing outlives
    /// the process.
    fn open(&self) -> io::Result<Option<DiskFiles>>;
}

/// The files of a store.
#[derive(Debug)]
pub struct DiskFiles {
    /// What was committed up to some time.
    pub database: Box<dyn StorageBackend>,
    /// What was committed since.
    pub journal: Box<dyn StorageBackend>,
}

/// Two files of the file system, the first of which is locked against other processes for as long as this value lives.
#[derive(Debug)]
pub struct FileDisk {
    file: Arc<File>,
    journal: Arc<File>,
}

impl FileDisk {
    /// Opens or creates `path` and, beside it, the journal, which ends in `.journal`; refuses a file that another process uses.
    pub fn new(path: &Path) -> Result<Self, StoreError> {
        let cannot = |error: io::Error| StoreError::Open(format!("{}: {error}", path.display()));
        let file = open_file(path).map_err(cannot)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::Open(format!(
                    "{}: another process uses it; stop that one, or choose another --data-dir",
                    path.display()
                )));
            }
            Err(TryLockError::Error(error)) => return Err(cannot(error)),
        }
        let journal_path = path.with_extension("journal");
        let journal = open_file(&journal_path)
            .map_err(|error| StoreError::Open(format!("{}: {error}", journal_path.display())))?;
        let is_new = |file: &File| file.metadata().map(|metadata| metadata.len() == 0);
        if is_new(&file).map_err(cannot)? || is_new(&journal).map_err(cannot)? {
            sync_directory_of(path);
        }
        Ok(Self { file: Arc::new(file), journal: Arc::new(journal) })
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    // It holds passwords: nobody else on the machine may read it.
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// A power loss must not take the name of a new file, and with it all that is stable inside.
fn sync_directory_of(path: &Path) {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Some file systems cannot; theirs is the only order there is.
    let _ = File::open(directory).and_then(|directory| directory.sync_all());
}

impl Disk for FileDisk {
    fn open(&self) -> io::Result<Option<DiskFiles>> {
        forget_cached_pages(&self.file);
        forget_cached_pages(&self.journal);
        Ok(Some(DiskFiles {
            database: Box::new(FileBackend { file: Arc::clone(&self.file) }),
            journal: Box::new(JournalBackend(FileBackend { file: Arc::clone(&self.journal) })),
        }))
    }
}

/// After a failed `fsync` the kernel may show pages that never reached the disk; recovery must not build on them.
#[cfg(target_os = "linux")]
fn forget_cached_pages(file: &File) {
    // Advice only: where the kernel cannot follow it, recovery still verifies checksums.
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
}

#[cfg(not(target_os = "linux"))]
fn forget_cached_pages(_file: &File) {}

#[derive(Debug)]
struct FileBackend {
    file: Arc<File>,
}

impl StorageBackend for FileBackend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let current = self.file.metadata()?.len();
        if len > current {
            // What was reserved before the space ran out goes back: the length must be one that redb asked for.
            reserve(&self.file, current, len).inspect_err(|_| drop(self.file.set_len(current)))?;
        }
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }
}

/// A file that grows by being written: where a file system has only noted the space as taken, each first write into it
/// changes more than the bytes, and takes longer to become stable.
#[derive(Debug)]
struct JournalBackend(FileBackend);

impl StorageBackend for JournalBackend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        let before = self.len()?;
        self.0.set_len(len)?;
        let mut written = before;
        while written < len {
            let part = &ZEROS[..ZEROS.len().min(usize::try_from(len - written).unwrap_or(usize::MAX))];
            // What was not written is not taken on every file system, and must not look so.
            self.0.write(written, part).inspect_err(|_| drop(self.0.set_len(before)))?;
            written += part.len() as u64;
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
}

/// A file grows by a large part of its size; when there is less space than that, so much is enough to go on with.
#[cfg(target_os = "linux")]
const RESERVED_AT_LEAST: u64 = 4 << 20;

/// Takes the space of a growing file at once, so that a full disk mostly shows here and not in the middle of a commit.
#[cfg(target_os = "linux")]
fn reserve(file: &File, from: u64, to: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    use rustix::io::{Errno, retry_on_intr};
    let take = |to: u64| retry_on_intr(|| fallocate(file, FallocateFlags::empty(), from, to - from));
    let taken = match take(to) {
        Err(Errno::NOSPC | Errno::DQUOT) if to - from > RESERVED_AT_LEAST => {
            // What the failed attempt took goes back first.
            file.set_len(from)?;
            take(from + RESERVED_AT_LEAST)
        }
        taken => taken,
    };
    match taken {
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(not(target_os = "linux"))]
fn reserve(_file: &File, _from: u64, _to: u64) -> io::Result<()> {
    Ok(())
}

/// Memory: gone with the process.
#[derive(Debug)]
pub struct MemoryDisk;

impl Disk for MemoryDisk {
    fn open(&self) -> io::Result<Option<DiskFiles>> {
        Ok(None)
    }
}

/// What redb takes: one concrete type around whatever a disk opened, which notes that an operation failed.
#[derive(Debug)]
pub(super) struct OpenedDisk {
    backend: Box<dyn StorageBackend>,
    failed: Arc<AtomicBool>,
}

impl OpenedDisk {
    /// `failed` becomes true with the first operation that fails, and stays so.
    pub(super) fn new(backend: Box<dyn StorageBackend>, failed: Arc<AtomicBool>) -> Self {
        Self { backend, failed }
    }

    fn noted<T>(&self, result: io::Result<T>) -> io::Result<T> {
        result.inspect_err(|_| self.failed.store(true, Ordering::Release))
    }
}

impl StorageBackend for OpenedDisk {
    fn len(&self) -> io::Result<u64> {
        self.noted(self.backend.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.noted(self.backend.read(offset, out))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.noted(self.backend.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.noted(self.backend.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.noted(self.backend.write(offset, data))
    }

    fn close(&self) -> io::Result<()> {
        self.backend.close()
    }
}
