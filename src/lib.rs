//! starfeed turns database tables into live subscriptions: a client gets the rows that are there, then every change, and
//! misses nothing. This crate is the server; `README.md` shows how to run it, `ARCHITECTURE.md` how it is built.
//!
//! The modules stand in the order in which a change travels, from what everything speaks to what nothing else uses. Each
//! imports only from those above it; `tests/tidy.rs` holds them to that.
//!
//! ```
//! use starfeed::change::{Document, Epoch, Key, Table, Timestamp};
//! use starfeed::store::{MemoryDisk, Mutation, Retention, Store, StoreOptions, StoreSecret};
//!
//! let options = StoreOptions {
//!     retention: Retention { bytes: 1 << 20, age_ms: 60_000 },
//!     cache_bytes: 1 << 20,
//!     journal_bytes: 1 << 20,
//!     fresh_epoch: Epoch(1),
//!     fresh_secret: StoreSecret([7; 32]),
//!     indexes: Vec::new(),
//! };
//! let store = Store::open(Box::new(MemoryDisk), options)?;
//! let row = Document::parse(br#"{"domain": "forum.example", "users": []}"#).expect("one JSON object");
//! let write = Mutation::put(Table::new("domain_login"), Key::text("forum.example"), row);
//! let committed = store.commit(Timestamp(0), &[vec![write]])?;
//! assert_eq!(committed.changes.len(), 1);
//! assert_eq!(store.snapshot()?.count(&Table::new("domain_login"))?, 1);
//! # Ok::<(), starfeed::store::StoreError>(())
//! ```

// Faults that tests switch on to prove that they would find them.
pub mod planted;
// JSON values, read as they stand.
pub mod json;
// Things by their numbers, in little memory.
pub mod roster;
// What happened, where, in which order.
pub mod change;
// How many rows, and which: one number to compare.
pub mod summary;
// What time it is.
pub mod clock;
// How long to wait before the next attempt.
pub mod backoff;
// Starting tasks and threads that somebody owns.
pub mod task;
// Rows that cannot be shown.
pub mod row_problems;
// What is counted.
pub mod metrics;
// The messages of the API, generated.
pub mod proto;
// Rows and the log of their changes, on disk.
pub mod store;
// Which subscriptions want a change.
pub mod matcher;
// What a subscription sees of a table.
pub mod view;
// Where a client goes on, sealed.
pub mod token;
// One per live table: publish, hand over, catch up.
pub mod feed;
// Who may subscribe to what.
pub mod subscription;
// The Starbelly tables: documents, messages, commands.
pub mod catalog;
// Who else writes to the store, and carries out commands.
pub mod source;
// What only the crawler can do, asked of it.
pub mod crawler;
// The load of this machine.
pub mod host;
// What client and server say, and how the bytes look.
pub mod wire;
// One client's conversation, without I/O.
pub mod session;
// Sockets.
pub mod transport;
// Defaults, file, environment, flags.
pub mod config;
// The parts put together.
pub mod server;
// The other end of the wire.
pub mod client;
// The command line.
pub mod cli;
