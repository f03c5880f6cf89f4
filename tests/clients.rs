//! Clients that vanish, clients that stall, and the server that has to bear them.

mod scenarios {
    mod clients;
}
mod support;

use support::embedded as backend;
