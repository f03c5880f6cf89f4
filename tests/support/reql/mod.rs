//! A server that plays a RethinkDB, in memory, and makes every mistake that a test asks for.
//!
//! It is written from the protocol and shares no code with the crate, so that the two can be wrong only one by one.
//! Tables are named `table`, in the database of the options, or `database.table`. Whatever a helper does is done
//! when it returns: a change is in the queue of each feed.

mod administration;
pub(crate) mod client;
mod connection;
mod evaluate;
pub(crate) mod fault;
mod feed;
mod handshake;
pub(crate) mod protocol;
mod range;
mod rows;
mod shared;
mod term;
mod values;
mod wire;
mod world;
mod write;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;

use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use connection::Settings;
use fault::{Ending, Faults, Poison};
use handshake::Account;
use shared::Shared;
use values::{Key, normalised};
use world::{Stream, Table, TableName, World};

/// What a server is started with.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) user: String,
    pub(crate) password: String,
    /// Of the password's hash; the real server takes 4096.
    pub(crate) iterations: u32,
    /// It exists from the start, and tables without a database are in it.
    pub(crate) database: String,
    /// An answer has at most so many rows.
    pub(crate) batch_rows: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            user: "admin".to_owned(),
            password: String::new(),
            iterations: 64,
            database: "starbelly".to_owned(),
            batch_rows: 8,
        }
    }
}

/// A running server, or one that is stopped and keeps its rows.
pub(crate) struct ReqlServer {
    shared: Arc<Shared>,
    settings: Settings,
    database: String,
    address: SocketAddr,
    running: Option<(JoinHandle<()>, CancellationToken)>,
}

impl ReqlServer {
    /// Starts on a free port of 127.0.0.1.
    pub(crate) fn start(options: Options) -> Self {
        let Options { user, password, iterations, database, batch_rows } = options;
        let mut world = World::default();
        world.databases.insert(database.clone(), BTreeMap::new());
        let mut server = Self {
            shared: Arc::new(Shared::new(world)),
            settings: Settings { account: Account { user, password, iterations }, batch_rows },
            database,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            running: None,
        };
        server.start_again();
        server
    }

    /// Starts once more on the same port, with the same rows.
    pub(crate) fn start_again(&mut self) {
        assert!(self.running.is_none(), "the server runs");
        // By the standard library, so that a test may be asynchronous itself.
        let listener = TcpListener::bind(self.address).expect("the port is free");
        listener.set_nonblocking(true).expect("it can be set");
        self.address = listener.local_addr().expect("a port");
        let (shared, settings, stop) = (Arc::clone(&self.shared), self.settings.clone(), CancellationToken::new());
        let stopped = stop.clone();
        let thread = starfeed::task::spawn_thread("reql-server", move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(accept(listener, shared, settings, stopped));
        });
        self.running = Some((thread, stop));
    }

    /// Resets every connection and listens no longer.
    pub(crate) fn stop(&mut self) {
        if let Some((thread, stop)) = self.running.take() {
            stop.cancel();
            thread.join().expect("the server has not panicked");
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    fn name(&self, table: &str) -> TableName {
        match table.split_once('.') {
            Some((database, table)) => TableName::new(database, table),
            None => TableName::new(&self.database, table),
        }
    }

    // What the database holds.

    pub(crate) fn create_database(&self, name: &str) {
        self.shared.change(|world| {
            world.databases.entry(name.to_owned()).or_default();
        });
    }

    /// A table with the primary key `id`.
    pub(crate) fn create_table(&self, table: &str) {
        self.create_table_with_key(table, "id");
    }

    pub(crate) fn create_table_with_key(&self, table: &str, primary_key: &str) {
        let name = self.name(table);
        self.shared.change(|world| {
            let tables = world.database(&name.database).expect("the database exists");
            assert!(!tables.contains_key(&name.table), "{table} exists");
            tables.insert(name.table, Table::new(primary_key));
        });
    }

    /// Drops a table: each feed of it is aborted.
    pub(crate) fn drop_table(&self, table: &str) {
        let name = self.name(table);
        self.shared.change(|world| world.drop_table(&name)).expect("the table exists");
    }

    /// An index on the member of its own name.
    pub(crate) fn create_index(&self, table: &str, member: &str) {
        let name = self.name(table);
        self.shared.change(|world| {
            world.table(&name).expect("the table exists").indexes.insert(member.to_owned(), None);
        });
    }

    /// Inserts a row, or replaces it as a whole.
    pub(crate) fn put(&self, table: &str, row: Value) {
        let (name, row) = (self.name(table), normalised(&row));
        self.shared.change(|world| {
            let primary_key = &world.table(&name).expect("the table exists").primary_key;
            let key = Key::new(row[primary_key].clone()).expect("a row with its key");
            world.write(&name, &key, Some(row)).expect("the table exists");
        });
    }

    /// Deletes a row, if it exists.
    pub(crate) fn delete(&self, table: &str, key: impl Into<Value>) {
        let (name, key) = (self.name(table), Key(key.into()));
        self.shared.change(|world| world.write(&name, &key, None)).expect("the table exists");
    }

    pub(crate) fn row(&self, table: &str, key: impl Into<Value>) -> Option<Value> {
        let (name, key) = (self.name(table), Key(key.into()));
        self.shared.look(|world| world.table(&name).expect("the table exists").rows.get(&key).cloned())
    }

    /// All rows by key; a key that is not a string is JSON text.
    pub(crate) fn rows(&self, table: &str) -> BTreeMap<String, Value> {
        let name = self.name(table);
        let text = |key: &Key| key.0.as_str().map_or_else(|| key.0.to_string(), str::to_owned);
        self.shared.look(|world| {
            let rows = &world.table(&name).expect("the table exists").rows;
            rows.iter().map(|(key, row)| (text(key), row.clone())).collect()
        })
    }

    /// A row as JSON text, which every feed reads last of all rows, and nobody else: it can be what no value can.
    pub(crate) fn put_spoiled(&self, table: &str, row: &str) {
        let name = self.name(table);
        self.shared.change(|world| {
            world.table(&name).expect("the table exists").spoiled_rows.push(row.to_owned());
        });
    }

    pub(crate) fn remove_spoiled(&self, table: &str) {
        let name = self.name(table);
        self.shared.change(|world| world.table(&name).expect("the table exists").spoiled_rows.clear());
    }

    // What goes wrong.

    /// Changes the faults of all connections, those to come among them, but not of those that have their own.
    pub(crate) fn set_faults(&self, set: impl FnOnce(&mut Faults)) {
        self.shared.change(|world| set(&mut world.faults));
    }

    /// The next connection has these faults, for as long as it lives, instead of those of all.
    pub(crate) fn set_faults_of_next_connection(&self, faults: Faults) {
        self.shared.change(|world| world.faults_of_next = Some(faults));
    }

    /// Ends all faults, also those that connections have of their own.
    pub(crate) fn heal(&self) {
        self.shared.change(World::heal);
    }

    /// Cuts all connections.
    pub(crate) fn cut(&self, ending: Ending) {
        self.shared.change(|world| world.cut_all(ending));
    }

    /// Sends these bytes on every connection that has passed the handshake, though nobody asked.
    pub(crate) fn send_raw(&self, bytes: &[u8]) {
        self.shared.change(|world| world.send_raw(bytes));
    }

    /// Ends all feeds of a table with an error, as a resharding does.
    pub(crate) fn abort_feeds(&self, table: &str) {
        let name = self.name(table);
        self.shared.change(|world| world.abort_feeds(&name));
    }

    /// Puts an element that no healthy feed has into all feeds of a table; how many there are.
    pub(crate) fn poison(&self, table: &str, poison: &Poison) -> usize {
        let name = self.name(table);
        self.shared.change(|world| world.poison(&name, poison)).expect("the table exists")
    }

    /// Throws away what waits in the feeds of a table, and says that so many elements were skipped.
    pub(crate) fn overflow(&self, table: &str, skipped: usize) {
        let name = self.name(table);
        self.shared.change(|world| world.feeds_of(&name).for_each(|feed| feed.overflow(skipped)));
    }

    // What can be seen from outside.

    /// How many connections there are.
    pub(crate) fn connections(&self) -> usize {
        self.shared.look(|world| world.lines_open())
    }

    /// How many connections there have been.
    pub(crate) fn connections_made(&self) -> u64 {
        self.shared.look(|world| world.connections_made)
    }

    /// How many connections have passed the handshake.
    pub(crate) fn handshakes_passed(&self) -> u64 {
        self.shared.look(|world| world.handshakes_passed)
    }

    /// The table of each open feed, with its database unless that is the one of the options.
    pub(crate) fn open_feeds(&self) -> Vec<String> {
        self.shared.look(|world| {
            let names = world.feeds().map(|feed| {
                let TableName { database, table } = &feed.table;
                if *database == self.database { table.clone() } else { format!("{database}.{table}") }
            });
            let mut names: Vec<_> = names.collect();
            names.sort();
            names
        })
    }

    /// How many streams that are not feeds have rows left.
    pub(crate) fn open_cursors(&self) -> usize {
        self.shared.look(|world| world.streams.values().filter(|stream| matches!(stream, Stream::Rows(_))).count())
    }

    /// The term of each query, as JSON text.
    pub(crate) fn queries(&self) -> Vec<String> {
        self.shared.look(|world| world.queries.clone())
    }

    pub(crate) fn forget_queries(&self) {
        self.shared.look(|world| world.queries.clear());
    }

    /// How often somebody asked for the server's name, which is the cheapest question.
    pub(crate) fn pings(&self) -> u64 {
        self.shared.look(|world| world.pings)
    }
}

impl Drop for ReqlServer {
    fn drop(&mut self) {
        if let Some((thread, stop)) = self.running.take() {
            stop.cancel();
            // A test that fails already has its message.
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, settings: Settings, stop: CancellationToken) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("a runtime");
    let connections = TaskTracker::new();
    loop {
        // To be stopped comes first: clients may come without end.
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        // A client that is gone again is no connection.
        let Ok((stream, _)) = accepted else { continue };
        let serving = connection::serve(stream, Arc::clone(&shared), settings.clone(), stop.clone());
        starfeed::task::spawn(&connections, serving);
    }
    connections.close();
    connections.wait().await;
}
