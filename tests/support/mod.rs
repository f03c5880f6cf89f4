//! What several tests use.

#![allow(dead_code, reason = "what one test leaves unused, another one needs")]

pub(crate) mod crawled;
pub(crate) mod embedded;
pub(crate) mod fault_disk;
pub(crate) mod feed;
pub(crate) mod filter_cases;
pub(crate) mod filter_reference;
pub(crate) mod folded;
pub(crate) mod following;
pub(crate) mod jobs;
pub(crate) mod opened;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod raw;
pub(crate) mod reql;
pub(crate) mod rethinkdb;
pub(crate) mod settings;
pub(crate) mod simulator;
pub(crate) mod told;
