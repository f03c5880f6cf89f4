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
    pub(crate) mod queried;
    mod readme;
    mod rows;
    mod wake_ups;
    mod wish;
    mod writer;
}
mod queries;
mod scenarios;
mod support;

use database::queried;
use support::rethinkdb as backend;
