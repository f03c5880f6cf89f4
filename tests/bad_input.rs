//! Bad input over a real socket: tables of what is sent and how it has to end, to the exact close code or text of the error.
//!
//! Each case also shows that nobody else is harmed: the connection goes on after an error, the next one is served after an end,
//! and when a table is through, the server has nothing left of it.

mod bad_input {
    mod commands;
    mod filters;
    mod floods;
    mod frames;
    mod handshakes;
    mod messages;
    mod rows;
    mod subscriptions;

    /// The names of all cases.
    pub(crate) fn names() -> Vec<&'static str> {
        let tables = [
            commands::names(),
            filters::names(),
            floods::names(),
            frames::names(),
            handshakes::names(),
            messages::names(),
            rows::names(),
            subscriptions::names(),
        ];
        tables.concat()
    }
}
mod support;

use starfeed::proto::request::Command;
use support::process::{ServerProcess, eventually};
use support::raw::{CLOSE, RawClient, subscribe_logins, unsubscribe};

/// Case by case what is not as it should be: all of it is more useful than the first of it.
#[derive(Default)]
pub(crate) struct Differences(Vec<String>);

impl Differences {
    pub(crate) fn expect<T: PartialEq + std::fmt::Debug>(&mut self, name: &str, actual: T, expected: T) {
        if actual != expected {
            self.0.push(format!("{name}:\n  expected {expected:?}\n  but was  {actual:?}"));
        }
    }

    pub(crate) fn assert_none(self) {
        assert!(self.0.is_empty(), "{} cases differ:\n{}", self.0.len(), self.0.join("\n"));
    }
}

/// How the server answers `command`: with a success, or with this text.
pub(crate) fn answer(client: &mut RawClient, command: Command) -> Result<(), String> {
    let request_id = client.ask(command);
    let response = client.response(request_id);
    assert_eq!(response.is_success, response.error_message.is_none(), "{response:?}");
    assert!(response.is_success || response.body.is_none(), "an error has a body: {response:?}");
    response.error_message.map_or(Ok(()), Err)
}

/// The code that the connection ends with, behind which nothing comes.
pub(crate) fn end(client: &mut RawClient) -> Option<u16> {
    let frame = loop {
        match client.frame() {
            Some(frame) if frame.opcode != CLOSE => {}
            other => break other,
        }
    };
    assert_eq!(client.frame(), None, "something came behind the close frame");
    Some(u16::from_be_bytes(*frame?.payload.first_chunk()?))
}

/// The connection is one that can be used.
pub(crate) fn assert_works(client: &mut RawClient, name: &str) {
    let refusal = answer(client, unsubscribe(i32::MAX));
    assert_eq!(refusal, Err(format!("Unknown subscription_id: {}", i32::MAX)), "after {name}");
}

/// A server that bad things are done to, and what it took when nothing had happened yet.
pub(crate) struct Target {
    pub(crate) server: ServerProcess,
    resident_bytes: u64,
}

/// Allocators keep some of what was free again.
const KEPT_BYTES: u64 = 48 << 20;

impl Target {
    pub(crate) fn start(settings: &[(&str, &str)]) -> Self {
        let server = ServerProcess::in_memory(settings);
        assert_eq!(RawClient::connect(&server.address).subscribe(subscribe_logins()), 0);
        Self { resident_bytes: server.resident_bytes(), server }
    }

    pub(crate) fn connect(&self) -> RawClient {
        RawClient::connect(&self.server.address)
    }

    /// It is as it was.
    pub(crate) fn assert_unharmed(mut self) {
        let server = &self.server;
        eventually("all connections are gone", || server.metric("starfeed_connections") == 1.0);
        for nothing in ["starfeed_subscriptions", "starfeed_filters", "starfeed_waiting_bytes"] {
            eventually(nothing, || server.metric(nothing) == 0.0);
        }
        assert_eq!(server.metric("starfeed_divergences_total"), 0.0);
        let grown = server.resident_bytes().saturating_sub(self.resident_bytes);
        assert!(grown < KEPT_BYTES, "the server has grown by {grown} bytes");
        assert_eq!(self.connect().subscribe(subscribe_logins()), 0);
        assert!(self.server.is_alive());
        assert_eq!(self.server.terminate().code(), Some(0));
    }
}

#[test]
fn there_are_enough_cases_and_each_has_a_name() {
    let mut names = bad_input::names();
    let cases = names.len();
    println!("{cases} cases");
    assert!(cases >= 120, "only {cases} cases");
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), cases, "two cases have the same name");
}
