//! Everything that the server knows: databases, tables, who reads what, and what is to go wrong.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::fault::{Aim, Ending, Faults, Poison, Spoil};
use super::feed::Feed;
use super::protocol::{Answer, PARTIAL, ReqlError, SEQUENCE};
use super::values::{Key, compare};

/// A table's name, with that of its database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TableName {
    pub(super) database: String,
    pub(super) table: String,
}

impl TableName {
    pub(super) fn new(database: &str, table: &str) -> Self {
        Self { database: database.to_owned(), table: table.to_owned() }
    }
}

#[derive(Debug)]
pub(super) struct Table {
    pub(super) id: String,
    pub(super) primary_key: String,
    pub(super) rows: BTreeMap<Key, Value>,
    /// The same keys, in the order in which feeds read them.
    pub(super) scattered: BTreeSet<(u64, Key)>,
    /// By name; one without a function is on the member with that name.
    pub(super) indexes: BTreeMap<String, Option<Value>>,
    /// Rows as JSON text that every feed reads last, and that no value can hold.
    pub(super) spoiled_rows: Vec<String>,
}

impl Table {
    pub(super) fn new(primary_key: &str) -> Self {
        Self {
            id: uuid::Uuid::new_v4().to_string(),
            primary_key: primary_key.to_owned(),
            rows: BTreeMap::new(),
            scattered: BTreeSet::new(),
            indexes: BTreeMap::new(),
            spoiled_rows: Vec::new(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ConnectionId(pub(super) u64);

/// What a reader has not read yet.
pub(super) enum Stream {
    Rows(VecDeque<String>),
    Feed(Box<Feed>),
}

#[derive(Debug, Default)]
struct Line {
    cut: CancellationToken,
    ending: Ending,
    /// Faults of its own; otherwise those of all.
    faults: Option<Faults>,
    /// Bytes to be sent as they are.
    raw: VecDeque<Vec<u8>>,
}

/// See the module.
#[derive(Default)]
pub(super) struct World {
    pub(super) databases: BTreeMap<String, BTreeMap<String, Table>>,
    pub(super) streams: BTreeMap<(ConnectionId, u64), Stream>,
    lines: BTreeMap<ConnectionId, Line>,
    pub(super) faults: Faults,
    pub(super) faults_of_next: Option<Faults>,
    /// How many connections there have been.
    pub(super) connections_made: u64,
    /// How many have passed the handshake.
    pub(super) handshakes_passed: u64,
    /// The text of each query.
    pub(super) queries: Vec<String>,
    pub(super) pings: u64,
}

impl World {
    pub(super) fn database(&mut self, name: &str) -> Result<&mut BTreeMap<String, Table>, ReqlError> {
        let missing = || ReqlError::failed(format!("Database `{name}` does not exist."));
        self.databases.get_mut(name).ok_or_else(missing)
    }

    pub(super) fn table(&mut self, name: &TableName) -> Result<&mut Table, ReqlError> {
        let tables = self.database(&name.database)?;
        let missing = || ReqlError::failed(format!("Table `{}.{}` does not exist.", name.database, name.table));
        tables.get_mut(&name.table).ok_or_else(missing)
    }

    /// Makes a row what it is to be, and tells every feed.
    pub(super) fn write(&mut self, name: &TableName, key: &Key, new: Option<Value>) -> Result<(), ReqlError> {
        let table = self.table(name)?;
        let old = match &new {
            Some(row) => table.rows.insert(key.clone(), row.clone()),
            None => table.rows.remove(key),
        };
        match new {
            Some(_) => table.scattered.insert((key.scattered(), key.clone())),
            None => table.scattered.remove(&(key.scattered(), key.clone())),
        };
        if let (Some(old), Some(new)) = (&old, &new)
            && compare(old, new).is_eq()
        {
            return Ok(());
        }
        for feed in self.feeds_of(name) {
            feed.hear(key, old.as_ref(), new.as_ref());
        }
        Ok(())
    }

    pub(super) fn drop_table(&mut self, name: &TableName) -> Result<Table, ReqlError> {
        self.table(name)?;
        self.abort_feeds(name);
        let missing = || ReqlError::failed("The table is gone.");
        self.database(&name.database)?.remove(&name.table).ok_or_else(missing)
    }

    pub(super) fn feeds(&self) -> impl Iterator<Item = &Feed> {
        self.streams.values().filter_map(|stream| match stream {
            Stream::Feed(feed) => Some(feed.as_ref()),
            Stream::Rows(_) => None,
        })
    }

    pub(super) fn feeds_of(&mut self, name: &TableName) -> impl Iterator<Item = &mut Feed> {
        self.streams.values_mut().filter_map(move |stream| match stream {
            Stream::Feed(feed) if feed.table == *name => Some(feed.as_mut()),
            Stream::Feed(_) | Stream::Rows(_) => None,
        })
    }

    pub(super) fn abort_feeds(&mut self, name: &TableName) {
        for feed in self.feeds_of(name) {
            feed.abort(ReqlError::failed("Changefeed aborted (unavailable)."));
        }
    }

    pub(super) fn poison(&mut self, name: &TableName, poison: &Poison) -> Result<usize, ReqlError> {
        let primary_key = self.table(name)?.primary_key.clone();
        let mut feeds = 0;
        for feed in self.feeds_of(name) {
            feed.poison(poison, &primary_key);
            feeds += 1;
        }
        Ok(feeds)
    }

    /// What a stream has next; one that is over is gone.
    pub(super) fn take(&mut self, id: ConnectionId, token: u64, rows_max: usize) -> Option<Answer> {
        let mut stream = self.streams.remove(&(id, token))?;
        let answer = match &mut stream {
            Stream::Rows(rows) => {
                let taken = rows.len().min(rows_max);
                let batch = rows.drain(..taken).collect();
                if rows.is_empty() {
                    return Some(Answer::new(SEQUENCE, batch));
                }
                Answer::new(PARTIAL, batch)
            }
            Stream::Feed(feed) => {
                let name = &feed.table;
                let table = self.databases.get(&name.database).and_then(|tables| tables.get(&name.table));
                match feed.take(table, rows_max) {
                    Ok(elements) => Answer::new(PARTIAL, elements).with_notes(feed.notes()),
                    Err(error) => return Some(error.into()),
                }
            }
        };
        self.streams.insert((id, token), stream);
        Some(answer)
    }

    pub(super) fn open_line(&mut self) -> (ConnectionId, CancellationToken) {
        self.connections_made += 1;
        let id = ConnectionId(self.connections_made);
        let line = Line { faults: self.faults_of_next.take(), ..Line::default() };
        let cut = line.cut.clone();
        self.lines.insert(id, line);
        (id, cut)
    }

    /// How the connection was to end. Whatever it read is closed.
    pub(super) fn close_line(&mut self, id: ConnectionId) -> Ending {
        self.streams.retain(|(reader, _), _| *reader != id);
        self.lines.remove(&id).map(|line| line.ending).unwrap_or_default()
    }

    pub(super) fn lines_open(&self) -> usize {
        self.lines.len()
    }

    pub(super) fn cut(&mut self, id: ConnectionId, ending: Ending) {
        if let Some(line) = self.lines.get_mut(&id) {
            line.ending = ending;
            line.cut.cancel();
        }
    }

    pub(super) fn cut_all(&mut self, ending: Ending) {
        for id in self.lines.keys().copied().collect::<Vec<_>>() {
            self.cut(id, ending);
        }
    }

    pub(super) fn send_raw(&mut self, bytes: &[u8]) {
        for line in self.lines.values_mut() {
            line.raw.push_back(bytes.to_vec());
        }
    }

    pub(super) fn take_raw(&mut self, id: ConnectionId) -> Option<Vec<u8>> {
        self.lines.get_mut(&id)?.raw.pop_front()
    }

    /// A connection's faults: its own, or those of all.
    pub(super) fn faults_of(&mut self, id: ConnectionId) -> &mut Faults {
        match self.lines.get_mut(&id).and_then(|line| line.faults.as_mut()) {
            Some(own) => own,
            None => &mut self.faults,
        }
    }

    pub(super) fn heal(&mut self) {
        self.faults = Faults::default();
        self.faults_of_next = None;
        for line in self.lines.values_mut() {
            line.faults = None;
        }
    }

    /// How the next answer, to a feed or to another query, is to be spoiled.
    pub(super) fn take_spoil(&mut self, id: ConnectionId, of_feed: bool) -> Option<Spoil> {
        let aims = [Aim::Any, if of_feed { Aim::Feeds } else { Aim::Queries }];
        let spoils = &mut self.faults_of(id).spoils;
        let at = spoils.iter().position(|(aim, _)| aims.contains(aim))?;
        spoils.remove(at).map(|(_, spoil)| spoil)
    }
}
