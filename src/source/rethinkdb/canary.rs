//! A row that is written again and again, and has to come back by a changefeed: it shows that feeds still bring what happens.
//!
//! A connection whose other side answers may have feeds that are dead all the same. The canary has a table of its own, which
//! `starfeed init` makes; without it, only the connection is watched.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use super::reql::{Connection, Cursor, ReqlError, Term};
use super::rows::FeedRow;
use crate::change::Key;
use crate::metrics::Metrics;

/// The table of canaries.
pub(super) const TABLE: &str = "starfeed_canary";

/// A canary is sent so often.
const INTERVAL: Duration = Duration::from_secs(1);

/// The canary of one server.
pub(super) struct Canary {
    /// The id of its row: another one for each server that shares the database.
    pub(super) id: String,
    /// One that does not come back for so long is dead.
    pub(super) silence: Duration,
    pub(super) metrics: Arc<Metrics>,
}

impl Canary {
    /// Sends canaries until one does not come back; returns why. Never returns while all is well.
    pub(super) async fn watch(&self, connection: &Connection) -> ReqlError {
        let row = Term::table(TABLE).get(&Key::text(&self.id));
        let mut feed = connection.start(&row.later_changes());
        let mut number: u64 = 0;
        loop {
            number += 1;
            let sent_at = Instant::now();
            let trip = async {
                connection.value(&Term::table(TABLE).put_softly(json!({"id": self.id, "number": number}))).await?;
                back(&mut feed, number).await
            };
            match tokio::time::timeout(self.silence, trip).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return error,
                Err(_) => return ReqlError::Silent,
            }
            let lag_ms = i64::try_from(sent_at.elapsed().as_millis()).unwrap_or(i64::MAX);
            self.metrics.source_lag_ms.set(lag_ms);
            tokio::time::sleep_until(sent_at + INTERVAL).await;
        }
    }
}

/// Waits until the canary with this number, or a later one, comes.
async fn back(feed: &mut Cursor, number: u64) -> Result<(), ReqlError> {
    #[derive(Deserialize)]
    struct Sent {
        number: u64,
    }
    while let Some(page) = feed.next().await? {
        for row in page.rows()? {
            #[derive(Deserialize)]
            struct Change {
                new_val: Option<Sent>,
            }
            let change: Result<Change, _> = serde_json::from_str(row.get());
            match change {
                Ok(Change { new_val: Some(sent) }) if sent.number >= number => return Ok(()),
                Ok(_) => {}
                Err(_) => return Err(ReqlError::Protocol(format!("{:?} in the feed of a canary", FeedRow::read(row)))),
            }
        }
    }
    Err(ReqlError::protocol("the feed of the canary has ended"))
}
