//! A database as the source, over real sockets: a server whose rows come from a scripted one, which makes one mistake after
//! the other while somebody subscribes.

mod source {
    mod commands;
    mod copies;
    mod demand;
    mod encrypted;
    mod interruptions;
    mod login;
    mod program;
    mod reader;
    mod rows;
    mod schema;
    mod setup;
}
mod support;
