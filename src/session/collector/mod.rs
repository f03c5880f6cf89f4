//! Subscriptions whose events are not those of rows: they follow a table, and say something of their own about it.

mod job_status;
mod resources;

use std::fmt;

pub(super) use job_status::JobStatus;
pub(super) use resources::Resources;

use crate::change::Row;
use crate::feed::SeenChange;
use crate::proto::event;

/// The body of an event; one without is an event too.
pub(super) type EventBody = Option<Box<event::Body>>;

/// Collects what happens to the rows that a subscription sees, and makes events of it.
pub(super) trait Collector: fmt::Debug + Send {
    /// A row that is there.
    fn row(&mut self, row: &Row);

    /// A change of a row.
    fn change(&mut self, change: &SeenChange);

    /// All rows that are there were collected.
    fn ready(&mut self);

    /// The next event, if it is time for one.
    fn next_event(&mut self, now_ms: u64) -> Option<EventBody>;

    /// When it may have an event next, in milliseconds of the session's clock; `None` before something happens.
    fn due_ms(&self) -> Option<u64>;
}
