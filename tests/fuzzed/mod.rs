//! What reads the bytes of others, each as a function of bytes that panics where something is wrong. The fuzzer (`fuzz/`) looks
//! for such bytes; what it kept is gone through as a test.

#![allow(dead_code, reason = "what one target leaves unused, another one needs")]

#[path = "../support/filter_reference.rs"]
mod filter_reference;
mod input;
mod server;

pub(crate) mod database;
pub(crate) mod filters;
pub(crate) mod frames;
pub(crate) mod heads;
pub(crate) mod imports;
pub(crate) mod kept;
pub(crate) mod python;
pub(crate) mod requests;
pub(crate) mod rows;
pub(crate) mod tokens;
