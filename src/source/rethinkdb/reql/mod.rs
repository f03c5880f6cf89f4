//! A client of RethinkDB: handshake, frames and answers without I/O, and connections that carry many queries at a time.

mod address;
mod connection;
mod error;
pub mod frame;
mod handshake;
mod link;
mod response;
mod scram;
mod term;

pub use address::Address;
pub use connection::{Connection, ConnectionLimits, Cursor};
pub use error::{Refusal, ReqlError};
pub use handshake::{Handshake, Step};
pub use link::{Link, LinkOptions, tls};
pub use response::{Page, Response};
pub use scram::Password;
pub use term::Term;
