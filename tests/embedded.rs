//! The embedded store as the source: every scenario. `tests/rethinkdb.rs` plays the same ones over a database.

mod scenarios;
mod support;

use support::embedded as backend;
