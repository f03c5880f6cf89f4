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
use crate::change::Key;
use crate::metrics::Metrics;

/// The table of canaries.
pub(super) const TABLE: &str = "starfeed_canary";

/// A canary is sent so often.
const INTERVAL: Duration = Duration::from_secs(1);

/// All servers that share a database write the same row: nothing is left behind by those that are gone.
const ROW_ID: &str = "canary";

/// The canary of one server.
pub(super) struct Canary {
    /// Tells its canaries from those of other servers.
    pub(super) server: String,
    /// One that does not come back for so long is dead.
    pub(super) silence: Duration,
    pub(super) metrics: Arc<Metrics>,
}

impl Canary {
    /// Sends canaries until one does not come back; returns why. Never returns while all is well.
    pub(super) async fn watch(&self, connection: &Connection) -> ReqlError {
        let row = Term::table(TABLE).get(&Key::text(ROW_ID));
        let mut feed = connection.start(&row.later_changes());
        // What is written before is not brought.
        let ready = until(&mut feed, |change| change.state.as_deref() == Some("ready"));
        match tokio::time::timeout(self.silence, ready).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return error,
            Err(_) => return ReqlError::Silent,
        }
        let mut number: u64 = 0;
        loop {
            number += 1;
            let sent_at = Instant::now();
            let trip = async {
                let row = json!({"id": ROW_ID, "server": self.server, "number": number});
                connection.value(&Term::table(TABLE).put_softly(row)).await?;
                // Or a later one.
                let is_back = |sent: &Sent| sent.server == self.server && sent.number >= number;
                until(&mut feed, |change| change.new_val.as_ref().is_some_and(is_back)).await
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

/// Waits until `is_it` of something that the feed says.
async fn until(feed: &mut Cursor, is_it: impl Fn(&Change) -> bool) -> Result<(), ReqlError> {
    while let Some(page) = feed.next().await? {
        for row in page.rows()? {
            let change: Change = serde_json::from_str(row.get())
                .map_err(|_| ReqlError::protocol("no change in the feed of a canary"))?;
            if is_it(&change) {
                return Ok(());
            }
        }
    }
    Err(ReqlError::protocol("the feed of the canary has ended"))
}

/// A change of the row of canaries.
#[derive(Deserialize)]
struct Change {
    state: Option<String>,
    new_val: Option<Sent>,
}

/// Rows of others have other members, or none.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Sent {
    server: String,
    number: u64,
}
