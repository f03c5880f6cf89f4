//! The same bytes without starfeed: redb by itself, and a plain file.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use redb::{Database, Durability, StorageBackend, TableDefinition};

use crate::rows;

const ROWS: TableDefinition<'_, (u32, &[u8]), &[u8]> = TableDefinition::new("rows");
const LOG: TableDefinition<'_, (u32, u64), &[u8]> = TableDefinition::new("log");

/// Bytes of one write: a row, and what the log keeps of it.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) row: usize,
    pub(crate) log: usize,
}

/// How a commit is made.
#[derive(Clone, Copy)]
pub(crate) enum Mode {
    /// As redb does it unless it is told otherwise: durable, in one phase.
    Default,
    /// In two phases and with the allocator's record, as the store does it.
    QuickRepair,
    /// For what ends with the process.
    NotDurable,
}

/// What was measured.
#[derive(Clone, Copy)]
pub(crate) struct Figures {
    pub(crate) writes: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) commit_cpu_us: f64,
}

/// Makes commits for so long.
pub(crate) fn repeat(time: Duration, batch: usize, mut commit: impl FnMut()) -> Figures {
    let mut times = Vec::new();
    let (cpu, begin) = (rows::thread_cpu_seconds(), Instant::now());
    while begin.elapsed() < time {
        let began = Instant::now();
        commit();
        times.push(began.elapsed());
    }
    let commits = times.len() as f64;
    let took = begin.elapsed().as_secs_f64();
    let commit_cpu_us = (rows::thread_cpu_seconds() - cpu) * 1e6 / commits;
    times.sort_unstable();
    let quantile = |q: f64| times[(q * (commits - 1.0)) as usize].as_secs_f64() * 1e6;
    Figures { writes: commits * batch as f64 / took, p50_us: quantile(0.5), p99_us: quantile(0.99), commit_cpu_us }
}

/// redb with two tables.
pub(crate) struct Redb {
    database: Database,
    sizes: Sizes,
    mode: Mode,
    written: usize,
}

impl Redb {
    pub(crate) fn new(disk: impl StorageBackend, sizes: Sizes, mode: Mode) -> Self {
        let database = Database::builder().set_cache_size(128 << 20).create_with_backend(disk).expect("a new database");
        let mut redb = Self { database, sizes, mode, written: 0 };
        redb.commit(rows::ROWS);
        redb
    }

    pub(crate) fn commit(&mut self, batch: usize) {
        let mut transaction = self.database.begin_write().expect("the disk works");
        match self.mode {
            Mode::Default => {}
            Mode::QuickRepair => transaction.set_quick_repair(true),
            Mode::NotDurable => transaction.set_durability(Durability::None).expect("it has no savepoints"),
        }
        {
            let mut rows = transaction.open_table(ROWS).expect("the disk works");
            let mut log = transaction.open_table(LOG).expect("the disk works");
            let mut value = vec![b'x'; self.sizes.row.max(self.sizes.log)];
            for _ in 0..batch {
                self.written += 1;
                value[..8].copy_from_slice(&self.written.to_be_bytes());
                let key = rows::key(rows::scattered(self.written));
                rows.insert((1, key.as_bytes()), &value[..self.sizes.row]).expect("the disk works");
                log.insert((1, self.written as u64), &value[..self.sizes.log]).expect("the disk works");
            }
        }
        transaction.commit().expect("the disk works");
    }

    pub(crate) fn run(&mut self, batch: usize, time: Duration) -> Figures {
        repeat(time, batch, || self.commit(batch))
    }
}

/// What is written to again and again in a file whose space is taken before.
const TAKEN_BYTES: u64 = 64 << 20;

/// A file to which batches are appended, each one synchronised.
pub(crate) struct Append {
    file: File,
    at: u64,
    wraps: bool,
    bytes: usize,
}

impl Append {
    /// A file that grows with each batch.
    pub(crate) fn extending(path: &Path, sizes: Sizes) -> Self {
        let file = OpenOptions::new().write(true).create_new(true).open(path).expect("a new file");
        Self { file, at: 0, wraps: false, bytes: sizes.row + sizes.log }
    }

    /// A file that has all its bytes from the start.
    pub(crate) fn preallocated(path: &Path, sizes: Sizes) -> Self {
        let append = Self { wraps: true, ..Self::extending(path, sizes) };
        let zeros = vec![0; 1 << 20];
        for at in (0..TAKEN_BYTES).step_by(zeros.len()) {
            append.file.write_all_at(&zeros, at).expect("the disk works");
        }
        append.file.sync_all().expect("the disk works");
        append
    }

    pub(crate) fn run(&mut self, batch: usize, time: Duration) -> Figures {
        let bytes = vec![b'x'; batch * self.bytes];
        repeat(time, batch, || {
            if self.wraps && self.at + bytes.len() as u64 > TAKEN_BYTES {
                self.at = 0;
            }
            self.file.write_all_at(&bytes, self.at).expect("the disk works");
            self.file.sync_data().expect("the disk works");
            self.at += bytes.len() as u64;
        })
    }
}
