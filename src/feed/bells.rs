//! Those who read some rows by themselves, and only want to know when it is time to do so again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::watch;

use super::Published;
use crate::planted::PlantedBug;

/// Bells of one table, by a member of its rows and the value there that rings it.
#[derive(Debug, Default)]
pub(super) struct Bells {
    by_value: Arc<HashMap<(&'static str, Value), watch::Sender<bool>>>,
}

impl Bells {
    /// Rings from now on for each change of a row whose `member` is `value`, before or after it.
    pub(super) fn add(&mut self, member: &'static str, value: Value) -> watch::Receiver<bool> {
        let bells = Arc::make_mut(&mut self.by_value);
        bells.retain(|_, bell| bell.receiver_count() > 0);
        bells.entry((member, value)).or_insert_with(|| watch::Sender::new(true)).subscribe()
    }

    /// The bells to ring for changes, without the lock of the feed; `None` where there are none.
    pub(super) fn lend(&mut self) -> Option<Ringing> {
        if !self.by_value.values().any(|bell| bell.receiver_count() > 0) {
            // Nobody listens any more, and rows are read for those who do.
            self.by_value = Arc::default();
            return None;
        }
        Some(Ringing(Arc::clone(&self.by_value)))
    }
}

/// Bells that are rung.
pub(super) struct Ringing(Arc<HashMap<(&'static str, Value), watch::Sender<bool>>>);

impl Ringing {
    pub(super) fn ring(&self, batch: &[Arc<Published>]) {
        let members: HashSet<&'static str> = self.0.keys().map(|(member, _)| *member).collect();
        let heard = if PlantedBug::BellRingsForTheFirstChangeOnly.is_planted() { 1 } else { batch.len() };
        let rows = batch.iter().take(heard).flat_map(|published| [&published.change().old, &published.change().new]);
        for mut row in rows.flatten().filter_map(|document| document.members()) {
            for &member in &members {
                let bell = row.remove(member).and_then(|value| self.0.get(&(member, value)));
                if let Some(bell) = bell {
                    bell.send_replace(true);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bells_that_nobody_hears_cost_nothing() {
        let mut bells = Bells::default();
        assert!(bells.lend().is_none());
        let one = bells.add("job_id", "a".into());
        let other = bells.add("job_id", "b".into());
        drop(one);
        assert!(bells.lend().is_some());
        drop(other);
        assert!(bells.lend().is_none());
        assert!(bells.by_value.is_empty());
    }
}
