//! When a commit is there to stay, and when readers see it.

use std::sync::PoisonError;

use redb::{Database, Durability, WriteTransaction};

use super::journal::{Journal, Record};
use super::layout::{META, META_JOURNAL, META_JOURNAL_OPEN};
use super::recovery::Opened;
use super::{Shared, Store, StoreError, WriteState};
use crate::planted::PlantedBug;

/// Commits in memory after which redb's own records of them are settled; each one in between leaves some bytes there.
const UNSETTLED_MAX: u32 = 1024;

/// The same where nothing is written to a disk then: often, and so each time for a short while.
const UNSETTLED_IN_MEMORY_MAX: u32 = 64;

/// A transaction whose commit is durable.
pub(super) fn begin(database: &Database) -> Result<WriteTransaction, StoreError> {
    let mut transaction = database.begin_write()?;
    make_durable(&mut transaction)?;
    Ok(transaction)
}

fn make_durable(transaction: &mut WriteTransaction) -> Result<(), StoreError> {
    set_durability(transaction, Durability::Immediate)?;
    // Two phases and a recorded allocator: a crash at any instant loses no commit, and opening takes no scan of the file.
    transaction.set_quick_repair(true);
    Ok(())
}

pub(super) fn set_durability(transaction: &mut WriteTransaction, durability: Durability) -> Result<(), StoreError> {
    transaction.set_durability(durability).map_err(|error| StoreError::Disk(error.to_string()))
}

/// How commits of a store come to last.
pub(super) enum Lasting {
    /// Not at all: they end with the process.
    InMemory,
    /// Each is durable by the database itself.
    EachCommit,
    /// By a record in the journal, most of them.
    Journal(Journal),
}

impl Lasting {
    /// Bytes of commits that are in the journal.
    pub(super) fn journal_bytes(&self) -> u64 {
        match self {
            Self::Journal(journal) => journal.bytes(),
            Self::InMemory | Self::EachCommit => 0,
        }
    }

    /// Commits `transaction`, which did what `record` says, and lets readers see it; `unsettled` counts commits in memory.
    pub(super) fn commit(
        &mut self,
        opened: &Opened,
        unsettled: &mut u32,
        transaction: WriteTransaction,
        record: Record,
    ) -> Result<(), StoreError> {
        match self {
            Self::InMemory if *unsettled >= UNSETTLED_IN_MEMORY_MAX => commit_settled(unsettled, transaction),
            Self::InMemory => commit_in_memory(unsettled, transaction),
            Self::EachCommit => commit_durable(unsettled, transaction),
            Self::Journal(_) if opened.is_full => Err(StoreError::DiskFull),
            Self::Journal(journal) => {
                if PlantedBug::CheckpointForgetsJournal.is_planted() && !journal.takes(&record) {
                    journal.forget();
                }
                if *unsettled >= UNSETTLED_MAX || !journal.takes(&record) {
                    checkpoint(journal, unsettled, transaction)?;
                } else {
                    commit_in_memory(unsettled, transaction)?;
                    if !record.is_empty() {
                        journal.append(record)?;
                    }
                }
                // Not before: what a reader has seen must never be gone.
                opened.confirm()
            }
        }
    }
}

fn commit_in_memory(unsettled: &mut u32, mut transaction: WriteTransaction) -> Result<(), StoreError> {
    set_durability(&mut transaction, Durability::None)?;
    transaction.commit()?;
    *unsettled += 1;
    Ok(())
}

fn commit_settled(unsettled: &mut u32, mut transaction: WriteTransaction) -> Result<(), StoreError> {
    set_durability(&mut transaction, Durability::Immediate)?;
    transaction.commit()?;
    *unsettled = 0;
    Ok(())
}

fn commit_durable(unsettled: &mut u32, mut transaction: WriteTransaction) -> Result<(), StoreError> {
    make_durable(&mut transaction)?;
    transaction.commit()?;
    *unsettled = 0;
    Ok(())
}

/// Makes the database durable, and with it all that the journal has a record of; then the journal begins anew.
fn checkpoint(journal: &mut Journal, unsettled: &mut u32, transaction: WriteTransaction) -> Result<(), StoreError> {
    let generation = journal.announce()?;
    {
        let mut meta = transaction.open_table(META)?;
        meta.insert(META_JOURNAL, generation.to_le_bytes().as_slice())?;
        meta.insert(META_JOURNAL_OPEN, 1_u64.to_le_bytes().as_slice())?;
    }
    commit_durable(unsettled, transaction)?;
    journal.begin(generation);
    Ok(())
}

impl Store {
    /// Makes the database durable by itself, if it is not: a store that opens then has nothing to do again.
    pub(super) fn checkpoint(&self) -> Result<(), StoreError> {
        let mut state = self.lock_state();
        if self.must_reopen(&state) {
            self.reopen(&mut state)?;
        }
        let result = self.checkpoint_as(&mut state);
        state.failed |= result.is_err();
        self.note_figures(&state);
        result
    }

    fn checkpoint_as(&self, state: &mut WriteState) -> Result<(), StoreError> {
        let slot = self.shared.database.read().unwrap_or_else(PoisonError::into_inner);
        match (&mut state.lasting, &*slot) {
            (Lasting::Journal(_), Some(opened)) if opened.is_full => Err(StoreError::DiskFull),
            (Lasting::Journal(journal), Some(opened)) if state.unsettled > 0 => {
                checkpoint(journal, &mut state.unsettled, opened.database.begin_write()?)
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Shared {
    /// A store that ends in good order does not need its journal: a copy of its database alone is whole.
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let opened = self.database.get_mut().unwrap_or_else(PoisonError::into_inner);
        let (Lasting::Journal(journal), Some(opened)) = (&state.lasting, opened) else { return };
        if !journal.is_open() || state.failed || opened.has_failed() || opened.is_full {
            return;
        }
        if let Err(error) = close(&opened.database) {
            tracing::warn!(%error, "the store could not be closed; it takes its newest changes from the journal when it opens");
        }
    }
}

fn close(database: &Database) -> Result<(), StoreError> {
    let transaction = begin(database)?;
    transaction.open_table(META)?.insert(META_JOURNAL_OPEN, 0_u64.to_le_bytes().as_slice())?;
    transaction.commit()?;
    Ok(())
}
