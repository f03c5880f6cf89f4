//! What is true: every state that every table ever had.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use starfeed::change::{Change, Document, Key, Seq};

use super::wish::{TABLES, passed_filters};

/// Rows with the change that made each what it is.
pub(crate) type Rows = BTreeMap<Key, (Seq, Document)>;

/// A row, and which filters of the simulation it passes.
#[derive(Debug)]
pub(crate) struct ModelRow {
    pub(crate) key: Key,
    pub(crate) version: Seq,
    pub(crate) document: Document,
    /// Bit `n` for the filter `n`.
    pub(crate) passes: u16,
}

/// All rows of a table, in the order of their keys.
type State = Vec<Arc<ModelRow>>;

/// One history of a store, as its changes tell it.
#[derive(Debug, Default)]
pub(crate) struct Model {
    last: Seq,
    changes: Vec<Change>,
    tables: HashMap<String, Vec<(Seq, State)>>,
    /// What was downloaded for each job, in order.
    downloads: HashMap<String, Vec<u64>>,
}

/// What a crawler has downloaded: only ever added to, so that its history needs no states.
pub(crate) const DOWNLOADS: &str = "response";

impl Model {
    pub(crate) fn last(&self) -> Seq {
        self.last
    }

    /// Takes the next change; one that was taken before has to be the same.
    pub(crate) fn take(&mut self, change: &Change) {
        if change.seq <= self.last {
            let known = &self.changes[usize::try_from(change.seq.0).expect("small") - 1];
            assert_eq!(known, change, "the position {} was given to two changes", change.seq);
            return;
        }
        assert_eq!(change.seq, self.last.next(), "positions have a gap");
        if change.table.name() == DOWNLOADS {
            self.take_download(change);
        } else {
            self.take_row(change);
        }
        self.changes.push(change.clone());
        self.last = change.seq;
    }

    fn take_row(&mut self, change: &Change) {
        let mut rows = self.now(change.table.name()).to_vec();
        let place = rows.binary_search_by(|row| row.key.cmp(&change.key));
        let before = place.ok().map(|at| &rows[at]);
        let old = before.map(|row| &row.document);
        assert_eq!(change.old.as_ref(), old, "change {} has a wrong old row", change.seq);
        let old_version = before.map_or(Seq::ZERO, |row| row.version);
        assert_eq!(change.old_version, old_version, "change {} has a wrong old version", change.seq);
        let row = change.new.as_ref().map(|document| {
            let passes = if TABLES.contains(&change.table.name()) { passed_filters(document) } else { 0 };
            Arc::new(ModelRow { key: change.key.clone(), version: change.seq, document: document.clone(), passes })
        });
        match (place, row) {
            (Ok(at), Some(row)) => rows[at] = row,
            (Err(at), Some(row)) => rows.insert(at, row),
            (Ok(at), None) => drop(rows.remove(at)),
            (Err(_), None) => {}
        }
        self.tables.entry(change.table.name().to_owned()).or_default().push((change.seq, rows));
    }

    fn take_download(&mut self, change: &Change) {
        let document = change.new.as_ref().expect("nobody deletes downloads here");
        let members = document.members().expect("an object");
        let job = members["job_id"].as_str().expect("a job").to_owned();
        self.downloads.entry(job).or_default().push(members["sequence"].as_u64().expect("a number"));
    }

    /// The rows of a table after change `seq`.
    pub(crate) fn at(&self, table: &str, seq: Seq) -> &[Arc<ModelRow>] {
        assert!(seq <= self.last, "position {seq} does not exist yet");
        let states = self.tables.get(table).map_or(&[][..], Vec::as_slice);
        let upto = states.partition_point(|(at, _)| *at <= seq);
        upto.checked_sub(1).map_or(&[], |index| states[index].1.as_slice())
    }

    pub(crate) fn now(&self, table: &str) -> &[Arc<ModelRow>] {
        self.at(table, self.last)
    }

    /// The row of a table that has this key.
    pub(crate) fn row(&self, table: &str, key: &Key) -> Option<&ModelRow> {
        self.now(table).iter().find(|row| row.key == *key).map(AsRef::as_ref)
    }

    /// The numbers of what was downloaded for a job, in order.
    pub(crate) fn downloads(&self, job: &str) -> &[u64] {
        self.downloads.get(job).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn all_downloads(&self) -> usize {
        self.downloads.values().map(Vec::len).sum()
    }
}
