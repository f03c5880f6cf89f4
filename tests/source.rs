//! A database as the source, over real sockets: a server whose rows come from a scripted one, which makes one mistake after
//! the other while somebody subscribes.

mod queries;
mod source {
    mod commands;
    mod copies;
    mod demand;
    mod encrypted;
    mod interruptions;
    mod login;
    mod program;
    pub(crate) mod queried;
    mod queries;
    mod reader;
    mod rows;
    mod schema;
    mod setup;
}
mod support;

use source::queried;
