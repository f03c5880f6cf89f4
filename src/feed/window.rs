//! The newest changes of a table, in memory: what most subscribers that are behind still need.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Published;
use crate::change::Seq;
use crate::planted::PlantedBug;

/// The changes of one table that follow `after`, all of them, up to `head`.
#[derive(Debug)]
pub(super) struct Window {
    changes: VecDeque<Arc<Published>>,
    bytes: usize,
    bytes_max: usize,
    /// Every change of the table after this one, up to `head`, is in `changes`.
    after: Seq,
    /// The newest change of the table that was published, or where the window began.
    head: Seq,
}

impl Window {
    /// An empty window at `head`: nothing of the table was published after it.
    pub(super) fn new(head: Seq, bytes_max: usize) -> Self {
        Self { changes: VecDeque::new(), bytes: 0, bytes_max, after: head, head }
    }

    pub(super) fn head(&self) -> Seq {
        self.head
    }

    /// Every change of the table after this one, up to the head, is here.
    pub(super) fn after(&self) -> Seq {
        self.after
    }

    pub(super) fn push(&mut self, published: Arc<Published>) {
        assert!(published.seq() > self.head, "change {} was published after change {}", published.seq(), self.head);
        self.head = published.seq();
        self.bytes += published.size();
        self.changes.push_back(published);
        while self.bytes > self.bytes_max {
            let Some(oldest) = self.changes.pop_front() else { break };
            self.bytes -= oldest.size();
            if !PlantedBug::WindowForgetsWithoutSaying.is_planted() {
                self.after = oldest.seq();
            }
        }
    }

    /// The changes after `after`, oldest first, up to `bytes_max`; at least one where there is one.
    /// `None` where some of them have left the window.
    pub(super) fn changes_after(&self, after: Seq, mut bytes_max: usize) -> Option<Vec<Arc<Published>>> {
        if after < self.after {
            return None;
        }
        let start = self.changes.partition_point(|published| published.seq() <= after);
        let mut found = Vec::new();
        for published in self.changes.range(start..) {
            found.push(Arc::clone(published));
            bytes_max = bytes_max.saturating_sub(published.size());
            if bytes_max == 0 {
                break;
            }
        }
        Some(found)
    }
}
