//! What is true: every state that every table ever had.

use std::collections::{BTreeMap, HashMap};

use starfeed::change::{Change, Document, Key, Seq};

/// Rows with the change that made each what it is.
pub(crate) type Rows = BTreeMap<Key, (Seq, Document)>;

/// One history of a store, as its changes tell it.
#[derive(Debug, Default)]
pub(crate) struct Model {
    last: Seq,
    changes: Vec<Change>,
    tables: HashMap<String, Vec<(Seq, Rows)>>,
}

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
        let mut rows = self.now(change.table.name());
        let before = rows.get(&change.key);
        let old = before.map(|(_, document)| document);
        assert_eq!(change.old.as_ref(), old, "change {} has a wrong old row", change.seq);
        let old_version = before.map_or(Seq::ZERO, |(version, _)| *version);
        assert_eq!(change.old_version, old_version, "change {} has a wrong old version", change.seq);
        match &change.new {
            Some(document) => rows.insert(change.key.clone(), (change.seq, document.clone())),
            None => rows.remove(&change.key),
        };
        self.tables.entry(change.table.name().to_owned()).or_default().push((change.seq, rows));
        self.changes.push(change.clone());
        self.last = change.seq;
    }

    /// The rows of a table after change `seq`.
    pub(crate) fn at(&self, table: &str, seq: Seq) -> Rows {
        assert!(seq <= self.last, "position {seq} does not exist yet");
        let states = self.tables.get(table).map_or(&[][..], Vec::as_slice);
        let upto = states.partition_point(|(at, _)| *at <= seq);
        upto.checked_sub(1).map(|index| states[index].1.clone()).unwrap_or_default()
    }

    pub(crate) fn now(&self, table: &str) -> Rows {
        self.at(table, self.last)
    }
}
