//! Changefeeds: what a reader is told, and in which order.

use std::collections::VecDeque;
use std::ops::Bound;

use serde_json::{Map, Value, json};

use super::fault::Poison;
use super::protocol::ReqlError;
use super::range::Range;
use super::values::{Key, compare, without};
use super::world::{Table, TableName};

const SEQUENCE_FEED: u8 = 1;
const ATOM_FEED: u8 = 2;
const INCLUDES_STATES: u8 = 5;

const QUEUE_SIZE: usize = 100_000;

/// What a feed is about.
#[derive(Clone, Debug)]
pub(super) enum Scope {
    /// All rows, without these members.
    Rows { without: Vec<String> },
    /// The row with this key.
    Row(Key),
    /// The rows of a part of an index.
    Range(Range),
}

#[derive(Clone, Debug)]
pub(super) struct FeedOptions {
    includes_initial: bool,
    includes_states: bool,
    includes_types: bool,
    queue_size: usize,
}

impl FeedOptions {
    pub(super) fn new(options: &Map<String, Value>) -> Self {
        let is_set = |name| options.get(name) == Some(&Value::Bool(true));
        let queue_size = options.get("changefeed_queue_size").and_then(Value::as_u64);
        Self {
            includes_initial: is_set("include_initial"),
            includes_states: is_set("include_states"),
            includes_types: is_set("include_types"),
            queue_size: queue_size.map_or(QUEUE_SIZE, |size| size as usize),
        }
    }
}

/// How far the first reading of the table has come.
#[derive(Clone, Debug)]
enum Phase {
    Opened,
    /// Keys are read in a scattered order; those up to this one have been read.
    Reading(Option<(u64, Key)>),
    Live,
}

/// One feed that somebody reads.
#[derive(Debug)]
pub(super) struct Feed {
    pub(super) table: TableName,
    scope: Scope,
    options: FeedOptions,
    /// Members of what it says that are left out.
    hidden: Vec<String>,
    phase: Phase,
    queue: VecDeque<String>,
    last_change: Option<String>,
    skipped: usize,
    ended: Option<ReqlError>,
}

impl Feed {
    pub(super) fn new(table: TableName, scope: Scope, options: FeedOptions) -> Self {
        let phase = Phase::Opened;
        Self {
            table,
            scope,
            options,
            hidden: Vec::new(),
            phase,
            queue: VecDeque::new(),
            last_change: None,
            skipped: 0,
            ended: None,
        }
    }

    /// The same, and these members of what it says are left out.
    pub(super) fn without(self, hidden: Vec<String>) -> Self {
        Self { hidden, ..self }
    }

    pub(super) fn notes(&self) -> Vec<u8> {
        let kind = match self.scope {
            Scope::Rows { .. } | Scope::Range(_) => SEQUENCE_FEED,
            Scope::Row(_) => ATOM_FEED,
        };
        [kind].into_iter().chain(self.options.includes_states.then_some(INCLUDES_STATES)).collect()
    }

    /// Whether a reader that asks for more gets it at once.
    pub(super) fn has_news(&self) -> bool {
        self.ended.is_some() || !matches!(self.phase, Phase::Live) || !self.queue.is_empty() || self.skipped > 0
    }

    /// Hears of a change of a row, right after it was made.
    pub(super) fn hear(&mut self, key: &Key, old: Option<&Value>, new: Option<&Value>) {
        if !self.has_read(key) {
            return;
        }
        let seen = |row: Option<&Value>| match &self.scope {
            Scope::Rows { without: names } => row.map(|row| without(row, names)),
            Scope::Row(_) => row.cloned(),
            Scope::Range(range) => row.filter(|row| range.has(row)).cloned(),
        };
        let (old, new) = (seen(old).unwrap_or_default(), seen(new).unwrap_or_default());
        if compare(&old, &new).is_eq() {
            return;
        }
        let kind = match (&old, &new) {
            (Value::Null, _) => "add",
            (_, Value::Null) => "remove",
            _ => "change",
        };
        let change = self.element(kind, json!({"new_val": new, "old_val": old}));
        self.last_change = Some(change.clone());
        self.push(change);
    }

    /// A change of a row that is still to be read is nothing new: it is read as it is then.
    fn has_read(&self, key: &Key) -> bool {
        match (&self.scope, &self.phase) {
            (Scope::Row(own), _) if own != key => false,
            (_, Phase::Opened) => !self.options.includes_initial,
            (_, Phase::Reading(read)) => read.as_ref().is_some_and(|read| (key.scattered(), key.clone()) <= *read),
            (_, Phase::Live) => true,
        }
    }

    fn element(&self, kind: &str, mut element: Value) -> String {
        if self.options.includes_types {
            element["type"] = kind.into();
        }
        without(&element, &self.hidden).to_string()
    }

    /// A queue that is too long is thrown away as a whole.
    fn push(&mut self, element: String) {
        self.queue.push_back(element);
        if self.queue.len() > self.options.queue_size {
            self.overflow(self.queue.len());
        }
    }

    pub(super) fn overflow(&mut self, skipped: usize) {
        self.skipped += skipped;
        self.queue.clear();
    }

    pub(super) fn abort(&mut self, error: ReqlError) {
        self.ended = Some(error);
    }

    pub(super) fn poison(&mut self, poison: &Poison, primary_key: &str) {
        if let Some(text) = poison.text(primary_key).or_else(|| self.last_change.clone()) {
            self.queue.push_back(text);
        }
    }

    /// What the reader gets next, at most about `rows_max` elements; the error ends the feed.
    pub(super) fn take(&mut self, table: Option<&Table>, rows_max: usize) -> Result<Vec<String>, ReqlError> {
        if let Some(error) = &self.ended {
            return Err(error.clone());
        }
        let mut elements = Vec::new();
        if matches!(self.phase, Phase::Opened) {
            self.open(&mut elements);
        }
        // While the table is read nobody looks at whether something was skipped.
        if matches!(self.phase, Phase::Live) && self.skipped > 0 {
            elements.extend(self.take_skipped());
            return Ok(elements);
        }
        let queued = self.queue.len().min(rows_max);
        elements.extend(self.queue.drain(..queued));
        if let Phase::Reading(read) = self.phase.clone() {
            self.read(read, table, rows_max.saturating_sub(queued).max(1), &mut elements);
        }
        Ok(elements)
    }

    fn open(&mut self, elements: &mut Vec<String>) {
        let (initial, states) = (self.options.includes_initial, self.options.includes_states);
        self.phase = if initial { Phase::Reading(None) } else { Phase::Live };
        if states {
            let state = if initial { "initializing" } else { "ready" };
            elements.push(self.element("state", json!({"state": state})));
        }
    }

    fn take_skipped(&mut self) -> Option<String> {
        let skipped = std::mem::take(&mut self.skipped);
        let text = format!("Changefeed cache over array size limit, skipped {skipped} elements.");
        (skipped > 0).then(|| json!({"error": text}).to_string())
    }

    /// Reads the next rows as they are now, and says when none is left.
    fn read(&mut self, read: Option<(u64, Key)>, table: Option<&Table>, rows_max: usize, elements: &mut Vec<String>) {
        let Some(table) = table else { return };
        match self.scope.clone() {
            Scope::Row(key) => {
                let row = table.rows.get(&key).cloned().unwrap_or_default();
                elements.push(self.element("initial", json!({"new_val": row})));
            }
            Scope::Range(_) => panic!("the scripted server does not read a part of an index for a feed"),
            Scope::Rows { without: names } => {
                let from = read.clone().map_or(Bound::Unbounded, Bound::Excluded);
                let next: Vec<_> = table.scattered.range((from, Bound::Unbounded)).take(rows_max).cloned().collect();
                for (_, key) in &next {
                    let row = without(&table.rows[key], &names);
                    elements.push(self.element("initial", json!({"new_val": row})));
                }
                let read = next.last().cloned().or(read);
                self.phase = Phase::Reading(read.clone());
                let read_all = read.is_none_or(|read| table.scattered.last().is_none_or(|last| *last <= read));
                // What changed meanwhile comes before "ready" is said.
                if !read_all || !self.queue.is_empty() {
                    return;
                }
                elements.extend(table.spoiled_rows.iter().map(|row| self.spoiled_initial(row)));
            }
        }
        elements.extend(self.take_skipped());
        self.phase = Phase::Live;
        if self.options.includes_states {
            elements.push(self.element("state", json!({"state": "ready"})));
        }
    }

    fn spoiled_initial(&self, row: &str) -> String {
        let kind = if self.options.includes_types { r#","type":"initial""# } else { "" };
        format!(r#"{{"new_val":{row}{kind}}}"#)
    }
}
