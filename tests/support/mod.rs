//! What several tests use.

#![allow(dead_code, reason = "what one test leaves unused, another one needs")]

pub(crate) mod fault_disk;
pub(crate) mod process;
pub(crate) mod raw;
