//! What was written since the database itself was last made durable: a commit lasts as soon as its record is here.
//!
//! A durable commit of the database rewrites some hundred kilobytes and waits for the disk twice; a record has the bytes of
//! the changes and waits once. So commits stay in the memory of the database, and each has a record here. When there is no
//! room for another one, that commit is durable by the database itself (a *checkpoint*), and the records begin anew in their
//! place.
//!
//! A store that opens reads its database as of the last checkpoint and does again what the records say. Which records those
//! are:
//!
//! * The database knows the number of its *generation*. A checkpoint begins one with a number that nothing here has, in the
//!   transaction that makes it durable. Records carry that number, and the checksum of a record covers it and the epoch of
//!   the store: what lies behind the newest record is of an older generation, or of another store, or of what followed a
//!   backup that was restored, and is never taken for one of this.
//! * A record is written when the one before it is stable, so what is whole is a beginning. A record that is not whole was
//!   being written when the power failed, and nobody was told that it lasts. If a whole one of the same generation follows,
//!   one that was acknowledged is lost, and the store says so ([`Found::Lost`]).
//! * Records begin at blocks of their own: no write touches what an earlier one has made stable.
//! * Before a generation begins, a header says so at a place that the header of the present one does not have. It is stable
//!   when the checkpoint is made: a database whose generation has no header lost its journal, and its newest changes.
//! * The database may be ahead: it also becomes durable when it is closed. Changes that it has are passed over.
//! * What a store reads here when it opens is made stable before anybody sees it: a killed process may have left it unsynced.
//! * After a fault, and whenever a store opens, nothing is appended to a generation that another opening began: the first
//!   commit is a checkpoint. So opening changes nothing here, and may be cut short and begun again.
//!
//! What retention removes has no record: after a crash the log has more than it must, until the next commit.

use redb::StorageBackend;

use super::StoreError;
use crate::change::{Cause, Change, Document, Epoch, Key, Seq, Table, Timestamp};
use crate::planted::PlantedBug;

/// Where records begin; disks write so much at once, and so do the pages that the system caches.
const BLOCK: usize = 4096;
/// One header for generations of even number, one for the others; records follow.
const RECORDS_AT: u64 = 2 * BLOCK as u64;
/// The file grows by so much at a time, which a disk takes at once or refuses.
const GROWTH: u64 = 4 << 20;

const RECORD_MARK: u32 = u32::from_le_bytes(*b"sfjr");
const HEADER_MARK: u32 = u32::from_le_bytes(*b"sfjh");
/// Mark, checksum, generation, first position, time, number of changes, bytes of them.
const HEAD_BYTES: usize = 4 + 4 + 8 + 8 + 8 + 4 + 4;

/// The journal of an open store.
pub(super) struct Journal {
    backend: Box<dyn StorageBackend>,
    epoch: Epoch,
    /// That of the database.
    generation: u64,
    /// Whether it may have what the database has not.
    is_open: bool,
    /// Where the next record goes; `None` until this opening has begun a generation.
    next: Option<u64>,
    /// Where the last record ends at the latest.
    end: u64,
}

/// What a database finds in its journal.
pub(super) enum Found {
    /// What it has to do again, if anything.
    Records(Vec<RecordBytes>),
    /// Something that was acknowledged is not there; the text says why.
    Lost(&'static str),
}

impl Journal {
    /// The journal of a store whose database says which generation it is at, and whether that may have what the database has
    /// not; with room for `bytes` of records.
    pub(super) fn new(
        backend: Box<dyn StorageBackend>,
        (generation, is_open): (u64, bool),
        epoch: Epoch,
        bytes: u64,
    ) -> Self {
        let end = RECORDS_AT.saturating_add(bytes.div_ceil(BLOCK as u64).saturating_mul(BLOCK as u64));
        Self { backend, epoch, generation, is_open, next: None, end }
    }

    /// Whether it may have what the database has not.
    pub(super) fn is_open(&self) -> bool {
        self.is_open
    }

    /// The database has all that it has.
    pub(super) fn close(&mut self, epoch: Epoch) {
        (self.epoch, self.is_open, self.next) = (epoch, false, None);
    }

    /// Bytes of records that a store would do again if it opened now, as far as this opening wrote them.
    pub(super) fn bytes(&self) -> u64 {
        self.next.map_or(0, |next| next - RECORDS_AT)
    }

    /// Whether a commit with this record may be one in memory.
    pub(super) fn takes(&self, record: &Record) -> bool {
        let fits = |next: u64| next.saturating_add(record.padded_bytes() as u64) <= self.end;
        record.is_empty() || (u32::try_from(record.bytes.len()).is_ok() && self.next.is_some_and(fits))
    }

    /// Makes `record` stable behind those before it. If this fails, what is on disk is not known.
    pub(super) fn append(&mut self, mut record: Record) -> Result<(), StoreError> {
        let next = self.next.ok_or_else(|| StoreError::Disk("no generation was begun".to_owned()))?;
        record.seal(self.epoch, self.generation);
        self.backend.write(next, &record.bytes)?;
        if !PlantedBug::JournalIsNotSynced.is_planted() {
            self.backend.sync_data()?;
        }
        self.next = Some(next + record.bytes.len() as u64);
        Ok(())
    }

    /// Says that the next generation may begin, and returns its number for the checkpoint.
    pub(super) fn announce(&mut self) -> Result<u64, StoreError> {
        let generation = self.next_generation()?;
        let mut len = self.backend.len()?;
        while len < self.end {
            len = self.end.min(len + GROWTH);
            self.backend.set_len(len)?;
        }
        let mut header = vec![0; BLOCK];
        header[..4].copy_from_slice(&HEADER_MARK.to_le_bytes());
        header[8..16].copy_from_slice(&generation.to_le_bytes());
        seal(self.epoch, &mut header);
        self.backend.write(header_at(generation), &header)?;
        self.backend.sync_data()?;
        Ok(generation)
    }

    /// One that nothing here is of, also where a backup of the database came to the journal of what followed it; and one whose
    /// header is not in the place of the present one.
    fn next_generation(&self) -> Result<u64, StoreError> {
        let mut newest = self.generation;
        for at in [0, BLOCK as u64] {
            let mut header = vec![0; BLOCK];
            if self.backend.len()? >= at + BLOCK as u64 {
                self.backend.read(at, &mut header)?;
                newest = newest.max(self.announced(&header).unwrap_or(0));
            }
        }
        Ok(if (newest + 1) % 2 == self.generation % 2 { newest + 2 } else { newest + 1 })
    }

    /// The generation that a header says may begin.
    fn announced(&self, header: &[u8]) -> Option<u64> {
        let is_header = number(header, 0, 4) == u64::from(HEADER_MARK) && is_sealed(self.epoch, header);
        is_header.then(|| number(header, 8, 8))
    }

    /// Begins the generation that the checkpoint has made that of the database.
    pub(super) fn begin(&mut self, generation: u64) {
        self.generation = generation;
        self.is_open = true;
        self.next = Some(RECORDS_AT);
    }

    /// Begins anew in the place of what is still needed.
    pub(super) fn forget(&mut self) {
        self.next = self.next.map(|_| RECORDS_AT);
    }

    /// What follows the change `last`, which is the newest of the database.
    pub(super) fn find(&self, last: Seq) -> Result<Found, StoreError> {
        let bytes = self.read()?;
        if !self.has_header(&bytes) {
            return Ok(Found::Lost("it has no header of the generation of the database"));
        }
        let mut blocks = bytes.get(RECORDS_AT as usize..).unwrap_or_default();
        let mut records = Vec::new();
        let mut last = last;
        while let Some(record) = self.whole_record(blocks) {
            blocks = blocks.get(record.padded_bytes()..).unwrap_or_default();
            if record.last() <= last && !PlantedBug::StaleJournalIsRedone.is_planted() {
                continue;
            }
            if record.first() != last.next() && !PlantedBug::StaleJournalIsRedone.is_planted() {
                return Ok(Found::Lost("its records do not follow the database"));
            }
            last = record.last();
            records.push(record);
        }
        // The record that is not whole, if there is one, begins at the first block.
        let follows = |at: usize| self.whole_record(&blocks[at..]).is_some_and(|record| record.first() > last);
        if (BLOCK..blocks.len()).step_by(BLOCK).any(follows) {
            return Ok(Found::Lost("a record between others is damaged"));
        }
        // A process that was killed may have left what only the caches of the system have: readers are about to see it.
        self.backend.sync_data()?;
        Ok(Found::Records(records))
    }

    fn read(&self) -> Result<Vec<u8>, StoreError> {
        let len = usize::try_from(self.backend.len()?).map_err(std::io::Error::other)?;
        let mut bytes = vec![0; len];
        self.backend.read(0, &mut bytes)?;
        Ok(bytes)
    }

    fn has_header(&self, bytes: &[u8]) -> bool {
        let header = usize::try_from(header_at(self.generation)).ok().and_then(|at| bytes.get(at..at + BLOCK));
        header.and_then(|header| self.announced(header)) == Some(self.generation)
    }

    /// The record at the start of `blocks`, if there is one of the present generation that is whole.
    fn whole_record(&self, blocks: &[u8]) -> Option<RecordBytes> {
        let head = blocks.get(..HEAD_BYTES)?;
        let is_present = number(head, 8, 8) == self.generation || PlantedBug::StaleJournalIsRedone.is_planted();
        if number(head, 0, 4) != u64::from(RECORD_MARK) || !is_present {
            return None;
        }
        let bytes = usize::try_from(number(head, 36, 4)).ok()?;
        let record = blocks.get(..HEAD_BYTES.checked_add(bytes)?)?;
        (number(head, 32, 4) > 0 && is_sealed(self.epoch, record)).then(|| RecordBytes(record.to_vec()))
    }
}

fn header_at(generation: u64) -> u64 {
    generation % 2 * BLOCK as u64
}

/// What one commit wrote, as it goes into the journal.
pub(super) struct Record {
    bytes: Vec<u8>,
    first: Seq,
    time: Timestamp,
    changes: u32,
}

impl Record {
    /// The record of a commit at `time`, with nothing in it yet.
    pub(super) fn new(time: Timestamp) -> Self {
        Self { bytes: vec![0; HEAD_BYTES], first: Seq::ZERO, time, changes: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.changes == 0
    }

    /// Puts in the change that follows those before it. What the row was is in the store that it is done to again.
    pub(super) fn push(&mut self, change: &Change) {
        if self.is_empty() {
            self.first = change.seq;
        }
        self.changes += 1;
        let kind = match change.cause {
            Cause::Write => 0,
            Cause::Resync => 1,
            Cause::Load => 2,
        };
        self.bytes.push(kind | if change.new.is_some() { HAS_NEW } else { 0 });
        self.bytes.extend_from_slice(&change.old_version.0.to_le_bytes());
        let new = change.new.as_ref().map_or(&[][..], Document::as_bytes);
        for part in [change.table.path().as_bytes(), change.key.as_bytes(), new] {
            // What is longer than four gigabytes gets no room in a journal.
            self.bytes.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_le_bytes());
            self.bytes.extend_from_slice(part);
        }
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn padded_bytes(&self) -> usize {
        self.bytes.len().next_multiple_of(BLOCK)
    }

    /// Makes it what [`RecordBytes`] reads, up to the end of its last block: the rest of that need not be read before it is written.
    pub(super) fn seal(&mut self, epoch: Epoch, generation: u64) {
        let content = u32::try_from(self.bytes.len() - HEAD_BYTES).expect("a journal has room for what it takes");
        self.bytes[..4].copy_from_slice(&RECORD_MARK.to_le_bytes());
        self.bytes[8..16].copy_from_slice(&generation.to_le_bytes());
        self.bytes[16..24].copy_from_slice(&self.first.0.to_le_bytes());
        self.bytes[24..32].copy_from_slice(&self.time.0.to_le_bytes());
        self.bytes[32..36].copy_from_slice(&self.changes.to_le_bytes());
        self.bytes[36..40].copy_from_slice(&content.to_le_bytes());
        seal(epoch, &mut self.bytes);
        self.bytes.resize(self.padded_bytes(), 0);
    }
}

/// Beside the cause: there is a row after the change.
const HAS_NEW: u8 = 0x80;

/// A whole record, read from the journal.
pub(super) struct RecordBytes(Vec<u8>);

/// A change as a record has it: what the row was is to be read where it is done again.
pub(super) struct JournaledChange {
    pub(super) table: Table,
    pub(super) key: Key,
    pub(super) old_version: Seq,
    pub(super) new: Option<Document>,
    pub(super) cause: Cause,
}

impl RecordBytes {
    /// The position of its first change; the others follow.
    pub(super) fn first(&self) -> Seq {
        Seq(number(&self.0, 16, 8))
    }

    fn last(&self) -> Seq {
        Seq(self.first().0.saturating_add(number(&self.0, 32, 4)) - 1)
    }

    /// When it was written.
    pub(super) fn time(&self) -> Timestamp {
        Timestamp(number(&self.0, 24, 8))
    }

    fn padded_bytes(&self) -> usize {
        self.0.len().next_multiple_of(BLOCK)
    }

    /// Its changes, in order.
    pub(super) fn changes(&self) -> Result<Vec<JournaledChange>, StoreError> {
        let mut rest = &self.0[HEAD_BYTES..];
        let changes = (0..number(&self.0, 32, 4)).map(|_| journaled_change(&mut rest));
        let changes: Option<Vec<_>> = changes.collect();
        let is_all = rest.is_empty();
        changes.filter(|_| is_all).ok_or_else(|| {
            StoreError::Damaged(format!("the record of change {} in its journal has another form", self.first()))
        })
    }
}

fn journaled_change(rest: &mut &[u8]) -> Option<JournaledChange> {
    let (kind, old_version) = (take(rest, 1)?[0], number(take(rest, 8)?, 0, 8));
    let [path, key, new] = [part(rest)?, part(rest)?, part(rest)?];
    let (namespace, name) = std::str::from_utf8(path).ok()?.split_once('/').filter(|(_, name)| !name.contains('/'))?;
    let cause = match kind & !HAS_NEW {
        0 => Cause::Write,
        1 => Cause::Resync,
        2 => Cause::Load,
        _ => return None,
    };
    Some(JournaledChange {
        table: Table::in_namespace(namespace, name),
        key: Key::from_stored(key.to_vec()),
        old_version: Seq(old_version),
        new: (kind & HAS_NEW != 0).then(|| Document::from_stored(new.to_vec())),
        cause,
    })
}

fn part<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let bytes = usize::try_from(number(take(rest, 4)?, 0, 4)).ok()?;
    take(rest, bytes)
}

fn take<'a>(rest: &mut &'a [u8], bytes: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(bytes)?;
    *rest = left;
    Some(taken)
}

/// The little-endian number of `bytes` bytes at `at`, which are there.
fn number(from: &[u8], at: usize, bytes: usize) -> u64 {
    from[at..at + bytes].iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

fn seal(epoch: Epoch, sealed: &mut [u8]) {
    let checksum = checksum(epoch, sealed);
    sealed[4..8].copy_from_slice(&checksum.to_le_bytes());
}

fn is_sealed(epoch: Epoch, sealed: &[u8]) -> bool {
    number(sealed, 4, 4) == u64::from(checksum(epoch, sealed))
}

/// Covers everything but itself.
fn checksum(epoch: Epoch, sealed: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&epoch.0.to_le_bytes());
    hasher.update(&sealed[..4]);
    hasher.update(&sealed[8..]);
    hasher.finalize()
}
