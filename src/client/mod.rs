//! The other end of the wire: a connection for single requests, and a subscriber that keeps views of tables, checks what
//! it is sent and repairs itself.
//!
//! [`View`] is the rule, without I/O: what a client holds of one subscription. [`Subscriber`] keeps views up to date over
//! a connection that it makes again for as long as it lives.

mod builder;
mod connection;
mod counters;
mod divergence;
mod query;
mod row;
mod subscriber;
mod view;

use tokio_tungstenite::tungstenite::Error as WsError;

pub use builder::SubscriberBuilder;
pub use connection::Client;
pub use counters::Counters;
pub use divergence::Divergence;
pub use query::{Query, Source};
pub use row::{Row, RowChange};
pub use subscriber::{Subscriber, SubscriptionIndex, Update};
pub use view::{Applied, Status, View};

/// Why a client could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address is not `ws://HOST:PORT/PATH`.
    #[error("{0:?} is no address of a server: it looks like ws://127.0.0.1:8000/ws/")]
    Address(String),
    /// Nobody answers there.
    #[error("no server answers at {address}: {error} (start one with `starfeed serve`)")]
    Connect {
        /// Where.
        address: String,
        /// What the system says.
        error: std::io::Error,
    },
    /// Whoever answers there is no such server.
    #[error("the server at {address} refused the connection: {error}")]
    Handshake {
        /// Where.
        address: String,
        /// What went wrong.
        error: Box<WsError>,
    },
    /// The server ended the connection.
    #[error("the server ended the connection: {0}")]
    Closed(String),
    /// The server sent something that is not a message of the API.
    #[error("the server sent what is not a message of the API")]
    Undecodable,
    /// The server refused the request.
    #[error("{0}")]
    Refused(String),
    /// The server sends events without the numbers by which a client checks them.
    #[error("the server does not number the events of a subscription: it is older than this client")]
    TooOld,
}
