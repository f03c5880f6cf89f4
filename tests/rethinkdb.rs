//! A real RethinkDB as the source: every scenario of the embedded store, and what can go wrong only there.

mod database {
    mod accounts;
    mod checker;
    mod client;
    mod differential;
    mod encrypted;
    mod facts;
    mod faults;
    mod feeds;
    mod held_back;
    mod readme;
    mod rows;
    mod wish;
    mod writer;
}
mod scenarios;
mod support;

use support::rethinkdb as backend;
