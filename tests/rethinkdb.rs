//! A real RethinkDB as the source: every scenario of the embedded store, and what can go wrong only there.

mod extensions {
    mod documents;
    mod limits;
    mod resuming;
    mod states;
}
mod database {
    mod feeds;
}
mod scenarios {
    mod clients;
    mod commands;
    mod resume;
    mod rows;
}
mod support;

use support::rethinkdb as backend;
