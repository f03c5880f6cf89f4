//! The commands about jobs and what they have downloaded, over a real socket.

mod control;
mod creation;
mod deletion;
mod items;
mod lists;
