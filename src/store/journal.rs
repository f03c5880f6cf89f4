//! What was committed since the database was last written: a commit lasts as soon as its record is here.
//!
//! A durable commit of the database rewrites some hundred kilobytes and waits for the disk twice; a record has the bytes of
//! the changes and waits once. When there is no room for another one, what was committed is written to the database
//! ([`super::settle`]), and records go on in another *generation*, which has a place of its own: there are two places.
//!
//! A store that opens reads its database and does again what the records say. Which records those are:
//!
//! * The database says up to which generation it is *settled*: it has all of that. The header of a generation says which one it
//!   follows. So there are none that the database has not, or the one that follows what is settled, or that and the next.
//! * A generation begins when its header is stable, and where the database says nothing of generations that it may not have, when
//!   it does. The header says which change is the newest before it: if that is missing, it is lost. The number of a generation is one
//!   that nothing here has. Records carry it, and the checksum of a record covers it and the epoch
//!   of the store: what lies behind the newest record is of an older generation, or of another store, or of what followed a
//!   backup that was restored, and is never taken for one of this.
//! * A record is written when the one before it is stable, so what is whole is a beginning. A record that is not whole was
//!   being written when the power failed, and nobody was told that it lasts. If a whole one follows, one that was acknowledged
//!   is lost, and the store says so ([`Found::Lost`]).
//! * Records begin at blocks of their own: no write touches what an earlier one has made stable.
//! * A generation takes the place of one that the database has been settled with.
//! * The database may be ahead of its generation: a commit that the journal has no room for is settled without a record. Changes
//!   that it has are passed over.
//! * What a store reads here when it opens is made stable before anybody sees it: a killed process may have left it unsynced.
//! * After a fault, and whenever a store opens, nothing is appended to a generation that another opening began: with the first
//!   commit the database is settled with all of them. So opening changes nothing here, and may be cut short and begun again.
//!
//! What retention removes has no record: the database is settled with that.

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
/// What a header has: mark, checksum, generation, the one that it follows, where its records begin, the newest change before them.
const HEADER_BYTES: usize = 4 + 4 + 8 + 8 + 8 + 8;
/// What comes first in a record: mark, checksum, generation, first position, time, number of changes, bytes of them.
const HEAD_BYTES: usize = 4 + 4 + 8 + 8 + 8 + 4 + 4;

/// The journal of an open store.
pub(super) struct Journal {
    backend: Box<dyn StorageBackend>,
    epoch: Epoch,
    database: JournalState,
    /// The generation that records go into; `None` until this opening has begun one.
    present: Option<Generation>,
    /// The one that may begin.
    announced: Option<Generation>,
    /// Bytes of records that a generation has room for.
    room: u64,
    /// Bytes of records that earlier openings left.
    left_bytes: u64,
}

/// What a database says of its journal.
#[derive(Clone, Copy, Debug)]
pub(super) struct JournalState {
    pub(super) settled: SettledUpTo,
    /// Whether the journal may have what the database has not.
    pub(super) is_open: bool,
}

/// Which generations a database has all of.
#[derive(Clone, Copy, Debug)]
pub(super) enum SettledUpTo {
    /// This one and those before it.
    Generation(u64),
    /// Those before this one: so it was up to format 5, where there was one at a time.
    Before(u64),
}

/// A generation of this opening.
#[derive(Clone, Copy)]
struct Generation {
    number: u64,
    begin: u64,
    next: u64,
    end: u64,
}

/// What stands at the beginning of the journal for a generation.
#[derive(Clone, Copy)]
pub(super) struct Header {
    pub(super) generation: u64,
    /// Up to format 5, zero.
    pub(super) follows: u64,
    /// Up to format 5, zero: there was one place.
    pub(super) records_at: u64,
    /// Up to format 5, zero: it was not known.
    pub(super) after: Seq,
}

impl Header {
    pub(super) fn to_bytes(self, epoch: Epoch) -> Vec<u8> {
        let mut header = vec![0; BLOCK];
        header[..4].copy_from_slice(&HEADER_MARK.to_le_bytes());
        header[8..16].copy_from_slice(&self.generation.to_le_bytes());
        header[16..24].copy_from_slice(&self.follows.to_le_bytes());
        header[24..32].copy_from_slice(&self.records_at.to_le_bytes());
        header[32..40].copy_from_slice(&self.after.0.to_le_bytes());
        seal(epoch, &mut header);
        header
    }
}

/// What a database finds in its journal.
pub(super) enum Found {
    /// What it has to do again, if anything.
    Records(Vec<RecordBytes>),
    /// Something that was acknowledged is not there; the text says why.
    Lost(&'static str),
}

impl Journal {
    /// The journal of a store whose database says this of it; with room for `bytes` of records in each generation.
    pub(super) fn new(backend: Box<dyn StorageBackend>, database: JournalState, epoch: Epoch, bytes: u64) -> Self {
        let room = bytes.div_ceil(BLOCK as u64).saturating_mul(BLOCK as u64);
        Self { backend, epoch, database, present: None, announced: None, room, left_bytes: 0 }
    }

    /// Whether it may have what the database has not.
    pub(super) fn is_open(&self) -> bool {
        self.database.is_open
    }

    /// Whether this opening has begun a generation.
    pub(super) fn is_begun(&self) -> bool {
        self.present.is_some()
    }

    /// The database, which is of this epoch now, has all that it has.
    pub(super) fn close(&mut self, epoch: Epoch) {
        (self.epoch, self.database.is_open, self.present, self.left_bytes) = (epoch, false, None, 0);
    }

    /// The database has everything up to this generation.
    pub(super) fn settled(&mut self, generation: u64) {
        self.database = JournalState { settled: SettledUpTo::Generation(generation), is_open: false };
        (self.present, self.left_bytes) = (None, 0);
    }

    /// The newest generation that may have something, if earlier openings left any.
    pub(super) fn left_open(&self) -> Result<Option<u64>, StoreError> {
        if self.is_open() && !self.is_begun() { self.newest().map(Some) } else { Ok(None) }
    }

    /// The generation that the database is settled up to once it has everything; `None` where it is not open.
    pub(super) fn newest_open(&self) -> Result<Option<u64>, StoreError> {
        match &self.present {
            Some(present) => Ok(Some(present.number)),
            None => self.left_open(),
        }
    }

    /// Bytes of records in the present generation, or in those that earlier openings left.
    pub(super) fn bytes(&self) -> u64 {
        self.present.map_or(self.left_bytes, |present| present.next - present.begin)
    }

    /// Bytes of records that a generation has room for.
    pub(super) fn room(&self) -> u64 {
        self.room
    }

    /// Whether a generation has room for `record` if there is nothing else in it.
    pub(super) fn has_room_for(&self, record: &Record) -> bool {
        u32::try_from(record.bytes.len()).is_ok() && record.padded_bytes() as u64 <= self.room
    }

    /// Whether `record` has a place behind those before it.
    pub(super) fn takes(&self, record: &Record) -> bool {
        let fits = |present: Generation| present.next.saturating_add(record.padded_bytes() as u64) <= present.end;
        self.has_room_for(record) && self.present.is_some_and(fits)
    }

    /// Makes `record` stable behind those before it. If this fails, what is on disk is not known.
    pub(super) fn append(&mut self, mut record: Record) -> Result<(), StoreError> {
        let present = self.present.as_mut().ok_or_else(|| StoreError::Disk("no generation was begun".to_owned()))?;
        record.seal(self.epoch, present.number);
        self.backend.write(present.next, &record.bytes)?;
        if !PlantedBug::JournalIsNotSynced.is_planted() {
            self.backend.sync_data()?;
        }
        present.next += record.bytes.len() as u64;
        Ok(())
    }

    /// Says that another generation may begin behind the change `after`, and returns the one that it follows. Nothing that is still
    /// needed may be in its place.
    pub(super) fn announce(&mut self, after: Seq) -> Result<u64, StoreError> {
        let follows = match &self.present {
            Some(present) => present.number,
            None => self.newest()? + 1,
        };
        let (generation, places_end) = (follows + 1, RECORDS_AT.saturating_add(self.room.saturating_mul(2)));
        let mut len = self.backend.len()?;
        while len < places_end {
            len = places_end.min(len + GROWTH);
            self.backend.set_len(len)?;
        }
        let records_at = RECORDS_AT.saturating_add((generation % 2).saturating_mul(self.room));
        let header = Header { generation, follows, records_at, after }.to_bytes(self.epoch);
        self.backend.write(header_at(generation), &header)?;
        self.backend.sync_data()?;
        let end = records_at.saturating_add(self.room);
        self.announced = Some(Generation { number: generation, begin: records_at, next: records_at, end });
        Ok(follows)
    }

    /// Begins the generation that was announced, which the database knows of, or is the next one.
    pub(super) fn begin(&mut self) {
        self.present = self.announced.take();
        self.database.is_open = true;
    }

    /// Begins anew in the place of what is still needed.
    pub(super) fn forget(&mut self) {
        self.present = self.present.map(|present| Generation { next: present.begin, ..present });
    }

    /// The newest generation that something here, or the database, is of: also where a backup of the database came to the journal
    /// of what followed it.
    fn newest(&self) -> Result<u64, StoreError> {
        let (SettledUpTo::Generation(known) | SettledUpTo::Before(known)) = self.database.settled;
        let mut newest = known;
        for at in [0, BLOCK as u64] {
            let mut header = vec![0; BLOCK];
            if self.backend.len()? >= at + BLOCK as u64 {
                self.backend.read(at, &mut header)?;
                newest = newest.max(self.header(&header).map_or(0, |header| header.generation));
            }
        }
        Ok(newest)
    }

    fn header(&self, bytes: &[u8]) -> Option<Header> {
        let is_header = number(bytes, 0, 4) == u64::from(HEADER_MARK) && is_sealed(self.epoch, bytes);
        let number_at = |at| number(&bytes[..HEADER_BYTES], at, 8);
        is_header.then(|| Header {
            generation: number_at(8),
            follows: number_at(16),
            records_at: number_at(24).max(RECORDS_AT),
            after: Seq(number_at(32)),
        })
    }

    /// The headers of the generations that the database may not have, in order: up to two.
    fn open_headers(&self, bytes: &[u8]) -> Vec<Header> {
        let headers = bytes.chunks_exact(BLOCK).take(2).filter_map(|block| self.header(block));
        let headers: Vec<Header> = headers.collect();
        let is_first = |header: &&Header| match self.database.settled {
            SettledUpTo::Generation(settled) => header.follows == settled,
            SettledUpTo::Before(generation) => header.generation == generation,
        };
        let Some(first) = headers.iter().find(is_first) else { return Vec::new() };
        let second = headers.iter().find(|header| header.follows == first.generation);
        [first].into_iter().chain(second).copied().collect()
    }

    /// What follows the change `last`, which is the newest of the database.
    pub(super) fn find(&mut self, last: Seq) -> Result<Found, StoreError> {
        let bytes = self.read()?;
        let headers = self.open_headers(&bytes);
        if headers.is_empty() {
            return Ok(Found::Lost("it has no header of the generation that follows what the database has"));
        }
        let (mut records, mut last) = (Vec::new(), last);
        for Header { generation, records_at, after, .. } in headers {
            if last < after {
                return Ok(Found::Lost("the newest record before its last generation is missing"));
            }
            let begin = usize::try_from(records_at).map_err(std::io::Error::other)?;
            let mut blocks = bytes.get(begin..).unwrap_or_default();
            while let Some(record) = self.whole_record(blocks, generation) {
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
            let follows =
                |at: usize| self.whole_record(&blocks[at..], generation).is_some_and(|record| record.first() > last);
            if (BLOCK..blocks.len()).step_by(BLOCK).any(follows) {
                return Ok(Found::Lost("a record between others is damaged"));
            }
        }
        // A process that was killed may have left what only the caches of the system have: readers are about to see it.
        self.backend.sync_data()?;
        self.left_bytes = records.iter().map(|record: &RecordBytes| record.padded_bytes() as u64).sum();
        Ok(Found::Records(records))
    }

    fn read(&self) -> Result<Vec<u8>, StoreError> {
        let len = usize::try_from(self.backend.len()?).map_err(std::io::Error::other)?;
        let mut bytes = vec![0; len];
        self.backend.read(0, &mut bytes)?;
        Ok(bytes)
    }

    /// The record at the start of `blocks`, if there is one of this generation that is whole.
    fn whole_record(&self, blocks: &[u8], generation: u64) -> Option<RecordBytes> {
        let head = blocks.get(..HEAD_BYTES)?;
        let is_present = number(head, 8, 8) == generation || PlantedBug::StaleJournalIsRedone.is_planted();
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
