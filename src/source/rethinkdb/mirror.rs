//! The copy of one table, without I/O: what a changefeed says becomes what is to be written here.
//!
//! A feed begins with all rows that are there. Those that differ from the copy are written over it, and what the feed did not name
//! until it was ready is gone from the database, so from the copy too. After that each change is written as it comes. Every
//! row of a feed is about one document, and for one document they come in order; that is all that this relies on.

use std::collections::{HashSet, VecDeque};

use serde_json::value::RawValue;

use super::rows::{self, BadRow, FeedRow};
use crate::catalog::StoredTable;
use crate::change::{Cause, Key};
use crate::feed::SourceDoubt;
use crate::planted::PlantedBug;
use crate::store::{Mutation, Unit};

/// What a copy is before a feed is opened.
#[derive(Clone, Copy, Debug)]
pub struct CopyState {
    /// It has no rows.
    pub is_empty: bool,
    /// It was read to its end before, so that somebody may have seen it.
    pub was_served: bool,
}

/// The copy of one table while it follows one changefeed.
#[derive(Debug)]
pub struct Mirror {
    table: StoredTable,
    phase: Phase,
    /// Why rows are written that the feed names as being there.
    initial: Cause,
}

#[derive(Debug)]
enum Phase {
    /// The feed has said nothing yet.
    Opened {
        is_empty: bool,
    },
    /// The rows that are there are being sent. These were, or were written since; `None` where the copy was empty, so that
    /// nothing can be gone.
    Reading {
        seen: Option<HashSet<Key>>,
    },
    Level,
}

/// What to do about a row of a feed.
#[derive(Debug)]
pub enum Effect {
    /// Write this.
    Write(Mutation),
    /// Nothing.
    Nothing,
    /// Once everything before is written: delete the rows that are [`Gone`]. Then the copy is level.
    Ready(Gone),
    /// The row itself cannot be kept; there may be an older one to delete.
    Bad {
        /// Deletes it.
        delete: Option<Mutation>,
        /// Which one, as far as that can be told.
        key: Key,
        /// Why not.
        problem: &'static str,
    },
    /// Changes are missing from here on: open another feed.
    Doubt {
        /// Why.
        doubt: SourceDoubt,
        /// In the words of the feed.
        text: String,
    },
}

/// Which rows of the copy are gone from the database, now that it has named all that it has.
#[derive(Debug)]
pub struct Gone {
    table: StoredTable,
    seen: Option<HashSet<Key>>,
}

impl Gone {
    /// Whether any row can be gone.
    pub fn is_possible(&self) -> bool {
        self.seen.is_some()
    }

    /// Deletes the row of `key`, if it is gone.
    pub fn delete(&self, key: &Key) -> Option<Mutation> {
        let is_gone = self.seen.as_ref().is_some_and(|seen| !seen.contains(key));
        is_gone.then(|| resynced(Mutation::delete(self.table.table(), key.clone())))
    }
}

fn resynced(mutation: Mutation) -> Mutation {
    Mutation { cause: Cause::Resync, ..mutation }
}

impl Mirror {
    /// The copy of `table` before a new feed says anything.
    pub fn new(table: StoredTable, CopyState { is_empty, was_served }: CopyState) -> Self {
        let initial = if was_served { Cause::Resync } else { Cause::Load };
        Self { table, phase: Phase::Opened { is_empty }, initial }
    }

    /// Whether it has all changes that the feed has sent, and there was no reason to doubt that these are all.
    pub fn is_level(&self) -> bool {
        matches!(self.phase, Phase::Level)
    }

    /// Takes `rows` up to the one that says that all were sent, if there is one; what stands behind that is left. What is to be
    /// written goes to `unit`, and rows that cannot be kept to `report`.
    pub(super) fn take_until_ready(
        &mut self,
        rows: &mut VecDeque<&RawValue>,
        unit: &mut Unit,
        mut report: impl FnMut(&Key, &str),
    ) -> Result<Option<Gone>, (SourceDoubt, String)> {
        while let Some(row) = rows.pop_front() {
            match self.take(&FeedRow::read(row)) {
                Effect::Write(mutation) => unit.push(mutation),
                Effect::Nothing => {}
                Effect::Ready(gone) => return Ok(Some(gone)),
                Effect::Bad { delete, key, problem } => {
                    report(&key, problem);
                    unit.extend(delete);
                }
                Effect::Doubt { doubt, text } => return Err((doubt, text)),
            }
        }
        Ok(None)
    }

    /// Takes the next row of the feed.
    pub fn take(&mut self, row: &FeedRow<'_>) -> Effect {
        let doubt = |doubt, text: &str| Effect::Doubt { doubt, text: text.to_owned() };
        match (row, &mut self.phase) {
            (FeedRow::Error(_), _) if PlantedBug::SourceErrorsAreIgnored.is_planted() => Effect::Nothing,
            (FeedRow::Error(text), _) => doubt(SourceDoubt::Overflow, text),
            (FeedRow::Initializing, Phase::Opened { is_empty }) => {
                self.phase = Phase::Reading { seen: (!*is_empty).then(HashSet::new) };
                Effect::Nothing
            }
            (FeedRow::Initial(row), Phase::Reading { .. }) => self.write(row, self.initial),
            (FeedRow::Written(row), Phase::Reading { .. } | Phase::Level) => self.write(row, Cause::Write),
            (FeedRow::Uninitial(row), Phase::Reading { seen }) => {
                if let (Some(seen), Some(key)) = (seen, rows::key_only(&self.table, row)) {
                    seen.remove(&key);
                }
                Effect::Nothing
            }
            (FeedRow::Removed(row), Phase::Reading { .. } | Phase::Level) => {
                let Some(key) = rows::key_only(&self.table, row) else { return Effect::Nothing };
                if let Phase::Reading { seen: Some(seen) } = &mut self.phase {
                    seen.remove(&key);
                }
                Effect::Write(Mutation::delete(self.table.table(), key))
            }
            (FeedRow::Ready, Phase::Reading { seen }) => {
                let seen = if PlantedBug::ResyncForgetsDeletions.is_planted() { None } else { seen.take() };
                self.phase = Phase::Level;
                Effect::Ready(Gone { table: self.table, seen })
            }
            (FeedRow::Initializing | FeedRow::Ready | FeedRow::Initial(_) | FeedRow::Uninitial(_), _)
            | (FeedRow::Written(_) | FeedRow::Removed(_), Phase::Opened { .. }) => {
                doubt(SourceDoubt::Protocol, "the rows of the changefeed come in an order that makes no sense")
            }
        }
    }

    fn write(&mut self, row: &RawValue, cause: Cause) -> Effect {
        let (key, effect) = match rows::read(&self.table, row) {
            Ok((key, document)) => {
                let mutation = Mutation { cause, ..Mutation::put(self.table.table(), key.clone(), document) };
                (Some(key), Effect::Write(mutation))
            }
            Err(bad) => {
                let BadRow { key, problem } = &bad;
                // What was there is not there any more.
                let delete = key.clone().map(|key| Mutation { cause, ..Mutation::delete(self.table.table(), key) });
                (key.clone(), Effect::Bad { delete, key: bad.key_or_unknown(), problem })
            }
        };
        let forgets = PlantedBug::RereadForgetsNewRows.is_planted() && cause == Cause::Write;
        if let (Phase::Reading { seen: Some(seen) }, Some(key), false) = (&mut self.phase, key, forgets) {
            seen.insert(key);
        }
        effect
    }
}

#[cfg(test)]
mod tests;
