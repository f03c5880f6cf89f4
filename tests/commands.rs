//! The commands of policies, schedules and domain logins, over a real socket.

mod scenarios {
    mod commands;
}
mod support;

use support::embedded as backend;
