//! A real RethinkDB as the source: every scenario of the embedded store, and what can go wrong only there.

mod rethinkdb {
    mod checker;
    mod client;
    mod differential;
    mod rows;
    mod wish;
    mod writer;
}
mod scenarios;
mod support;

use support::rethinkdb as backend;
