//! What goes wrong in a world: the disk, the power, the process, the clock.

use starfeed::change::{Epoch, Seq, Table};
use starfeed::store::{ChangePage, PageBudget, Store, StoreError};

use super::client::Client;
use super::jobs::JOBS;
use super::model::{DOWNLOADS, Model};
use super::server::Server;
use super::wish::TABLES;
use super::world::World;
use crate::support::fault_disk::{Failure, FaultDisk, FaultError, Operation};

/// All that a world writes to.
const WRITTEN: [&str; 5] = [TABLES[0], TABLES[1], TABLES[2], JOBS, DOWNLOADS];

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// How a process ends that nobody asked to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// What was written and not synced is kept, lost or torn.
    PowerLoss,
    /// What was written stays.
    Kill,
}

impl World {
    pub(super) fn disk_fault(&mut self) {
        let nth = self.rng.u64(0..4);
        let operation = if self.rng.bool() { Operation::Sync } else { Operation::Change };
        let error = if self.rng.bool() { FaultError::Io } else { FaultError::Full };
        let failure = match self.rng.u8(0..5) {
            0 => Failure::Once(error),
            1 => Failure::OnceButDone(error),
            2 => Failure::PowerOff,
            3 => Failure::PowerOffButDone,
            _ => Failure::SyncThatLoses(self.rng.fork()),
        };
        let operation = if matches!(failure, Failure::SyncThatLoses(_)) { Operation::Sync } else { operation };
        self.disk.fail(operation, nth, failure);
    }

    /// The disk takes no more than it has, or half a page more.
    pub(super) fn fill_disk(&mut self) {
        self.count("a full disk");
        self.disk.limit(Some(self.disk.len() + self.rng.u64(0..2) * 2048));
    }

    /// Somebody has deleted something else from the disk.
    pub(super) fn free_disk(&mut self) {
        self.disk.limit(None);
    }

    /// What is in the journal goes into the database, as it does beside the commits.
    pub(super) fn settle_store(&mut self) {
        let before = self.server.store.journal_bytes();
        match self.server.store.settle() {
            Ok(()) if self.server.store.journal_bytes() < before => self.count("a settled store"),
            Ok(()) => {}
            Err(error) => {
                self.count("a store that could not be settled");
                assert!(!matches!(error, StoreError::Damaged(_)), "{error}");
                if self.disk.is_off() {
                    self.crash(Ending::PowerLoss);
                } else {
                    self.disk.heal();
                    // Whoever reads next opens it again; nothing new is there.
                    assert!(!self.learn_what_is_on_disk());
                }
            }
        }
    }

    /// The clock of the server is set, forwards or backwards.
    pub(super) fn set_clock(&mut self) {
        self.count("a clock that jumped");
        let day = self.rng.u64(0..=DAY_MS);
        self.clock_ms = if self.rng.bool() { self.clock_ms + day } else { self.clock_ms.saturating_sub(day) };
    }

    /// Everything in memory is gone, and what `ending` takes; then the server starts again.
    pub(super) fn crash(&mut self, ending: Ending) {
        self.count(if ending == Ending::Kill { "a killed process" } else { "a power loss" });
        if self.server.store.journal_bytes() > 0 {
            self.count("a crash with commits in the journal");
        }
        let seen = self.clients.iter().map(Client::seen).max().unwrap_or_default();
        self.forget_what_was_in_memory();
        self.disk.heal();
        // What filled the disk was in the way of the database, too.
        self.free_disk();
        loop {
            match ending {
                Ending::PowerLoss => self.disk.crash(&mut self.rng),
                Ending::Kill => self.disk.kill(),
            }
            if self.rng.u8(0..4) == 0 {
                let nth = self.rng.u64(0..6);
                self.disk.fail(Operation::Change, nth, Failure::PowerOff);
            }
            match Store::open(Box::new(self.disk.clone()), self.options.clone()) {
                Ok(store) => {
                    self.disk.heal();
                    self.server = Server::new(store, self.figures);
                    break;
                }
                Err(error) => {
                    assert!(self.disk.is_off(), "the store cannot be opened: {error}");
                    self.count("a power loss during recovery");
                }
            }
        }
        let position = self.server.store.position();
        assert_eq!(position.epoch, self.options.fresh_epoch, "another history");
        assert!(position.seq >= self.acknowledged, "acknowledged changes are lost");
        assert!(position.seq >= seen, "a client has seen a change that is not in the store");
        self.learn_what_is_on_disk();
        self.acknowledged = position.seq;
    }

    /// The server ended; its clients will look for it.
    fn forget_what_was_in_memory(&mut self) {
        self.crashes += 1;
        self.unpublished.clear();
        self.count_fell_behind();
        for client in std::mem::take(&mut self.clients) {
            self.leave(client);
        }
        self.forget_source();
    }

    /// The disk is gone, and a new one begins another history, sometimes with the secret that an operator has kept.
    pub(super) fn lose_store(&mut self) {
        self.count("a lost store");
        self.forget_what_was_in_memory();
        self.disk = FaultDisk::new();
        self.options.fresh_epoch = Epoch(self.options.fresh_epoch.0 + 1);
        if self.rng.bool() {
            self.options.fresh_secret.0[0] ^= 1;
        }
        let store = Store::open(Box::new(self.disk.clone()), self.options.clone()).expect("a new store");
        self.server = Server::new(store, self.figures);
        self.model = Model::default();
        self.forget_jobs();
        self.acknowledged = Seq::ZERO;
    }

    /// After a fault the store says what became of the write; sessions may read it from now on. Says whether it is there.
    pub(super) fn learn_what_is_on_disk(&mut self) -> bool {
        let snapshot = self.server.store.snapshot().expect("the disk works again");
        let before = self.model.last();
        assert!(snapshot.position().seq >= before, "acknowledged changes are lost");
        let budget = PageBudget { items: usize::MAX, bytes: usize::MAX };
        let mut changes = Vec::new();
        for table in WRITTEN {
            match snapshot.changes_after(&Table::new(table), before, budget).expect("the disk works again") {
                ChangePage::Changes { changes: found, .. } => changes.extend(found),
                ChangePage::Trimmed => panic!("changes were trimmed before they were published"),
            }
        }
        changes.sort_by_key(|change| change.seq);
        for change in &changes {
            self.model.take(change);
        }
        assert_eq!(self.model.last(), snapshot.position().seq, "the log ends where the store says");
        for table in TABLES.into_iter().chain([JOBS]) {
            let rows = snapshot.rows_after(&Table::new(table), None, budget).expect("the disk works again").rows;
            let stored = rows.iter().map(|row| (&row.key, row.version, &row.document));
            let known = self.model.now(table).iter().map(|row| (&row.key, row.version, &row.document));
            assert!(stored.eq(known), "rows and log of {table} differ");
        }
        let downloads = snapshot.count(&Table::new(DOWNLOADS)).expect("the disk works again");
        assert_eq!(downloads, self.model.all_downloads() as u64, "downloads and their log differ");
        self.model.last() > before
    }
}
