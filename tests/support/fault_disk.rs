//! A disk in memory that keeps what is stable apart from what a power loss may take, and fails when it is told to. It has two
//! files, the database and the journal: each is synced by itself, and operations are counted over both.
//!
//! Bytes are written to a cache in sectors of 512; `sync_data` makes them stable. Reads see the cache, as those of a file
//! do. Everything it decides by chance comes from a seed that the test gives, so every run can be repeated.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;
use starfeed::store::{Disk, DiskFiles};

const SECTOR: usize = 512;
const PAGE: usize = 4096;

type Sector = [u8; SECTOR];

/// What can be asked of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Some bytes are read.
    Read,
    /// Some bytes are written.
    Write,
    /// The length changes.
    SetLen,
    /// What was written becomes stable.
    Sync,
    /// Any of these.
    Any,
    /// Any of these that is no read: the ones a crash can fall between with another result.
    Change,
}

impl Operation {
    fn covers(self, done: Self) -> bool {
        match self {
            Self::Any => true,
            Self::Change => done != Self::Read,
            Self::Read | Self::Write | Self::SetLen | Self::Sync => self == done,
        }
    }
}

/// The error a fault reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FaultError {
    /// `EIO`.
    Io,
    /// `ENOSPC`.
    Full,
}

impl FaultError {
    fn to_io(self) -> io::Error {
        match self {
            Self::Io => io::Error::from_raw_os_error(5),
            Self::Full => io::ErrorKind::StorageFull.into(),
        }
    }
}

/// What happens instead of an operation.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    /// Nothing, and the error is reported: this once.
    Once(FaultError),
    /// The operation is done, and the error is reported all the same: this once.
    OnceButDone(FaultError),
    /// Nothing, and the error is reported: from now on.
    ForEver(FaultError),
    /// A sync as Linux fails it: each sector that is not stable yet is lost or not, reads show it until the disk is opened
    /// again, and the next sync says that all is well.
    SyncThatLoses(fastrand::Rng),
    /// The power fails: the operation is not done, and nothing is until [`FaultDisk::crash`].
    PowerOff,
    /// The power fails just after: the operation is done, but nobody learns it.
    PowerOffButDone,
}

/// How many operations were asked for, failed ones too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) reads: u64,
    pub(crate) writes: u64,
    pub(crate) set_lens: u64,
    pub(crate) syncs: u64,
}

impl Counters {
    /// How many of them `operation` means.
    pub(crate) fn of(self, operation: Operation) -> u64 {
        match operation {
            Operation::Read => self.reads,
            Operation::Write => self.writes,
            Operation::SetLen => self.set_lens,
            Operation::Sync => self.syncs,
            Operation::Any => self.reads + self.writes + self.set_lens + self.syncs,
            Operation::Change => self.writes + self.set_lens + self.syncs,
        }
    }
}

/// The disk; clones are handles to the same one.
#[derive(Clone, Debug, Default)]
pub(crate) struct FaultDisk {
    state: Arc<Mutex<State>>,
}

impl FaultDisk {
    /// An empty disk that works.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Lets the operation `nth` of this kind from now on fail; 0 is the next one.
    pub(crate) fn fail(&self, operation: Operation, nth: u64, failure: Failure) {
        let mut state = self.lock();
        let at = state.counters.of(operation) + nth;
        state.faults.push(Fault { operation, at, failure });
    }

    /// Forgets all faults that were asked for; what they did stays.
    pub(crate) fn heal(&self) {
        self.lock().faults.clear();
    }

    /// Bounds the length of both files together, in bytes; `None` takes the bound away. It may be less than the present length.
    pub(crate) fn limit(&self, bytes: Option<u64>) {
        self.lock().limit = bytes;
    }

    /// The power comes back after it failed, now if it had not: what was not stable is kept, lost or torn, by chance.
    pub(crate) fn crash(&self, rng: &mut fastrand::Rng) {
        self.lock().lose_power(rng);
    }

    /// The process ends at once, or what a power loss began is taken for that: nothing that was written is lost.
    pub(crate) fn kill(&self) {
        self.lock().restart();
    }

    /// Another disk with the same bytes, all of them stable.
    pub(crate) fn copy(&self) -> Self {
        let caches = [DiskFile::Database, DiskFile::Journal].map(|file| {
            let Cache { bytes, len, .. } = &self.lock().caches[file as usize];
            Cache { bytes: bytes.clone(), len: *len, stable_len: *len, ..Cache::default() }
        });
        Self { state: Arc::new(Mutex::new(State { caches, ..State::default() })) }
    }

    /// Changes the byte at `offset`, as a disk does that wears out.
    pub(crate) fn flip(&self, file: DiskFile, offset: usize, bits: u8) {
        self.lock().caches[file as usize].bytes[offset] ^= bits;
    }

    /// Loses a file.
    pub(crate) fn remove(&self, file: DiskFile) {
        self.lock().caches[file as usize] = Cache::default();
    }

    /// Whether a fault has cut the power.
    pub(crate) fn is_off(&self) -> bool {
        self.lock().off
    }

    /// What was asked of it so far.
    pub(crate) fn counters(&self) -> Counters {
        self.lock().counters
    }

    /// The length of a file, as reads see it.
    pub(crate) fn file_len(&self, file: DiskFile) -> u64 {
        self.lock().caches[file as usize].len as u64
    }

    /// What both files take.
    pub(crate) fn len(&self) -> u64 {
        self.lock().len()
    }

    fn open_file(&self, file: DiskFile) -> io::Result<Box<dyn StorageBackend>> {
        let mut state = self.lock();
        if state.off {
            return Err(power_is_off());
        }
        state.caches[file as usize].forget_lost();
        state.opened[file as usize] += 1;
        Ok(Box::new(Opened { disk: self.clone(), file, number: state.opened[file as usize] }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk for FaultDisk {
    fn open(&self) -> io::Result<Option<DiskFiles>> {
        let database = self.open_file(DiskFile::Database)?;
        let journal = self.open_file(DiskFile::Journal)?;
        Ok(Some(DiskFiles { database, journal }))
    }
}

fn power_is_off() -> io::Error {
    io::Error::other("the power is off")
}

/// A file of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DiskFile {
    /// What the store is in.
    Database,
    /// What it has committed since the database was made durable.
    Journal,
}

/// A file as one opening of it sees it; it works until the file is opened again.
#[derive(Debug)]
struct Opened {
    disk: FaultDisk,
    file: DiskFile,
    number: u64,
}

impl Opened {
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.lock();
        if state.off {
            return Err(power_is_off());
        }
        if state.opened[self.file as usize] != self.number {
            return Err(io::Error::other("the disk was opened again"));
        }
        Ok(state)
    }

    fn changing_state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.lock();
        assert!(
            state.opened[self.file as usize] == self.number || self.number <= state.ended[self.file as usize],
            "an earlier opening of the disk writes beside the present one"
        );
        drop(state);
        self.state()
    }
}

impl StorageBackend for Opened {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state()?.caches[self.file as usize].len as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = self.state()?;
        state.counters.reads += 1;
        state.perform(self.file, Operation::Read, |cache| cache.read(offset, out))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.changing_state()?;
        state.counters.set_lens += 1;
        let (now, both) = (state.caches[self.file as usize].len as u64, state.len());
        let is_full = len > now && state.limit.is_some_and(|limit| both - now + len > limit);
        state.perform(self.file, Operation::SetLen, |cache| {
            if is_full {
                return Err(FaultError::Full.to_io());
            }
            cache.set_len(to_usize(len)?);
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.changing_state()?;
        state.counters.syncs += 1;
        state.perform(self.file, Operation::Sync, |cache| {
            cache.sync();
            Ok(())
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.changing_state()?;
        state.counters.writes += 1;
        state.perform(self.file, Operation::Write, |cache| cache.write(to_usize(offset)?, data))
    }
}

fn to_usize(number: u64) -> io::Result<usize> {
    usize::try_from(number).map_err(io::Error::other)
}

#[derive(Debug)]
struct Fault {
    operation: Operation,
    /// The count of its kind at which it happens.
    at: u64,
    failure: Failure,
}

#[derive(Debug, Default)]
struct State {
    caches: [Cache; 2],
    counters: Counters,
    faults: Vec<Fault>,
    limit: Option<u64>,
    /// The power failed and did not come back yet.
    off: bool,
    /// How often each file was opened: only the newest opening may write.
    opened: [u64; 2],
    /// Openings up to this number ended with their process; they may still try to write, in vain.
    ended: [u64; 2],
}

impl State {
    /// Does what was asked for, or what a fault wants instead. It is counted already.
    fn perform(
        &mut self,
        file: DiskFile,
        operation: Operation,
        work: impl FnOnce(&mut Cache) -> io::Result<()>,
    ) -> io::Result<()> {
        let cache = &mut self.caches[file as usize];
        let due = self
            .faults
            .iter()
            .position(|fault| fault.operation.covers(operation) && fault.at < self.counters.of(fault.operation));
        let Some(due) = due else {
            return work(cache);
        };
        let fault = self.faults.remove(due);
        match fault.failure.clone() {
            Failure::Once(error) => Err(error.to_io()),
            Failure::OnceButDone(error) => {
                work(cache)?;
                Err(error.to_io())
            }
            Failure::ForEver(error) => {
                self.faults.push(fault);
                Err(error.to_io())
            }
            Failure::SyncThatLoses(mut rng) => {
                cache.sync_in_part(&mut rng);
                Err(FaultError::Io.to_io())
            }
            Failure::PowerOff => {
                self.off = true;
                Err(power_is_off())
            }
            Failure::PowerOffButDone => {
                work(cache)?;
                self.off = true;
                Err(power_is_off())
            }
        }
    }

    fn lose_power(&mut self, rng: &mut fastrand::Rng) {
        self.caches.iter_mut().for_each(|cache| cache.lose_power(rng));
        self.restart();
    }

    fn len(&self) -> u64 {
        self.caches.iter().map(|cache| cache.len as u64).sum()
    }

    fn restart(&mut self) {
        self.off = false;
        self.ended = self.opened;
        self.opened = self.opened.map(|opened| opened + 1);
    }
}

/// What a sector that changed may be after a power loss, beside what it is now.
#[derive(Debug)]
struct Unstable {
    stable: Sector,
    /// What it was between one change and the next.
    between: Vec<Sector>,
}

/// The bytes as reads see them, and what a power loss would put back.
#[derive(Debug, Default)]
struct Cache {
    /// Whole sectors; zero behind `len`.
    bytes: Vec<u8>,
    len: usize,
    /// The length at the last sync.
    stable_len: usize,
    /// The sectors that changed since the last sync.
    unstable: BTreeMap<usize, Unstable>,
    /// What is stable of sectors that a failed sync lost; reads still show something else.
    lost: BTreeMap<usize, Sector>,
    /// The sectors of the last write, if no sync followed.
    last_write: std::ops::Range<usize>,
}

impl Cache {
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let start = to_usize(offset)?;
        let end = start + out.len();
        if end > self.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        out.copy_from_slice(&self.bytes[start..end]);
        Ok(())
    }

    fn write(&mut self, start: usize, data: &[u8]) -> io::Result<()> {
        let end = start + data.len();
        if end > self.len {
            return Err(io::Error::other("a write behind the end of the file"));
        }
        let sectors = start / SECTOR..end.div_ceil(SECTOR);
        for sector in sectors.clone() {
            self.remember(sector);
        }
        self.bytes[start..end].copy_from_slice(data);
        self.last_write = sectors;
        Ok(())
    }

    fn set_len(&mut self, len: usize) {
        if len < self.len {
            for sector in len / SECTOR..self.len.div_ceil(SECTOR) {
                self.remember(sector);
            }
            self.bytes[len..].fill(0);
        }
        self.bytes.resize(len.next_multiple_of(SECTOR), 0);
        self.len = len;
    }

    /// Keeps what `sector` is, because it is about to change.
    fn remember(&mut self, sector: usize) {
        // What a failed sync lost never was on the disk.
        let content = self.lost.remove(&sector).unwrap_or_else(|| self.sector(sector));
        match self.unstable.entry(sector) {
            Entry::Vacant(entry) => {
                entry.insert(Unstable { stable: content, between: Vec::new() });
            }
            Entry::Occupied(mut entry) => entry.get_mut().between.push(content),
        }
    }

    fn sector(&self, sector: usize) -> Sector {
        let start = sector * SECTOR;
        self.bytes[start..start + SECTOR].try_into().expect("a sector is as long as a sector")
    }

    fn put(&mut self, sector: usize, content: &Sector) {
        let start = sector * SECTOR;
        // Behind the end is nothing to put back to.
        if let Some(place) = self.bytes.get_mut(start..start + SECTOR) {
            place.copy_from_slice(content);
        }
    }

    fn sync(&mut self) {
        self.unstable.clear();
        self.last_write = 0..0;
        self.stable_len = self.len;
    }

    /// A sync that makes some sectors stable and forgets that it owes the others.
    fn sync_in_part(&mut self, rng: &mut fastrand::Rng) {
        let kept_of_eight = rng.u8(0..=8);
        for (sector, Unstable { stable, .. }) in std::mem::take(&mut self.unstable) {
            if rng.u8(0..8) >= kept_of_eight {
                self.lost.insert(sector, stable);
            }
        }
        self.last_write = 0..0;
    }

    /// Shows what is stable where a failed sync lost something.
    fn forget_lost(&mut self) {
        for (sector, content) in std::mem::take(&mut self.lost) {
            self.put(sector, &content);
        }
    }

    fn lose_power(&mut self, rng: &mut fastrand::Rng) {
        self.forget_lost();
        let torn = self.torn_sector(rng);
        // A file system makes a long file longer step by step, of whole pages.
        let len = match rng.u8(0..4) {
            0 | 1 => self.stable_len,
            2 => self.len,
            _ => rng.usize(self.stable_len.min(self.len)..=self.stable_len.max(self.len)) / PAGE * PAGE,
        };
        self.bytes.resize(len.next_multiple_of(SECTOR), 0);
        self.len = len;
        // Everything or nothing or anything between reached the disk; the outcome of single sectors alone would hardly
        // ever be the first two.
        let kept_of_eight = rng.u8(0..=8);
        for (sector, Unstable { stable, between }) in std::mem::take(&mut self.unstable) {
            if rng.u8(0..8) >= kept_of_eight {
                let older = between.get(rng.usize(0..=between.len()));
                self.put(sector, older.unwrap_or(&stable));
            }
        }
        if let Some((sector, content)) = torn {
            self.put(sector, &content);
        }
        let len = self.len;
        self.bytes[len..].fill(0);
        self.sync();
    }

    /// One sector of the last write, sometimes, with the bytes of before and after in one.
    fn torn_sector(&self, rng: &mut fastrand::Rng) -> Option<(usize, Sector)> {
        if self.last_write.is_empty() || rng.u8(0..4) > 0 {
            return None;
        }
        let sector = rng.usize(self.last_write.clone());
        let Unstable { stable, between } = self.unstable.get(&sector)?;
        let mut content = *between.last().unwrap_or(stable);
        if (sector + 1) * SECTOR > self.bytes.len() {
            return None;
        }
        let after = self.sector(sector);
        let cut = rng.usize(0..=SECTOR);
        let written = if rng.bool() { 0..cut } else { cut..SECTOR };
        content[written.clone()].copy_from_slice(&after[written]);
        Some((sector, content))
    }
}
