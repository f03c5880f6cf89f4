//! Adapters between sockets and sessions. Nothing below here knows a socket.

mod allowance;
mod counted;
pub mod frame_writer;
mod frames;
pub mod http;
pub mod outgoing;
pub mod socket;
mod speaker;
pub mod websocket;

#[cfg(test)]
mod concurrency;
