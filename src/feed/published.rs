//! A change on its way to subscribers: shared by all of them, and encoded once per wire format.

use std::fmt;
use std::num::NonZeroU64;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::Bytes;

use crate::change::{Change, ChangeKind, Seq};
use crate::planted::PlantedBug;
use crate::summary::Summary;
use crate::view::{Secret, redacted};

/// A part of an event that is the same for all that get it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Key and name of the new row, as list events have them.
    NewName,
    /// The whole new row, as a message of its table.
    NewRow,
    /// Key and name of the old row.
    OldName,
    /// The whole old row.
    OldRow,
}

const PIECES: usize = 4;

/// A committed change without what is secret in it, shared by everything that delivers it.
pub struct Published {
    change: Change,
    /// When it was committed, if that was just now.
    committed: Option<Instant>,
    pieces: [OnceLock<Bytes>; PIECES],
}

impl Published {
    /// Shares `change`, which was committed some time ago, without `secrets`.
    pub fn new(change: Change, secrets: &[Secret]) -> Arc<Self> {
        Self::committed_at(change, secrets, None)
    }

    /// The same, of one that was `committed` just now.
    pub(super) fn committed_at(mut change: Change, secrets: &[Secret], committed: Option<Instant>) -> Arc<Self> {
        if !secrets.is_empty() {
            change.old = change.old.map(|document| redacted(&document, secrets));
            change.new = change.new.map(|document| redacted(&document, secrets));
        }
        Arc::new(Self { change, committed, pieces: Default::default() })
    }

    /// The change; nothing in it is secret.
    pub fn change(&self) -> &Change {
        &self.change
    }

    /// When it was committed, if that was just before it was published.
    pub fn committed(&self) -> Option<Instant> {
        self.committed
    }

    /// Its position.
    pub fn seq(&self) -> Seq {
        self.change.seq
    }

    /// The bytes it holds, by which queues are bounded. Its encodings are not counted: they are no larger than its rows.
    pub fn size(&self) -> usize {
        self.change.size()
    }

    /// A piece of its encoding, made by `encode` for whoever needs it first.
    pub fn piece(&self, piece: Piece, encode: impl FnOnce(&Change) -> Bytes) -> &Bytes {
        self.pieces[piece as usize].get_or_init(|| encode(&self.change))
    }

    /// Brings `summary` from before the change, which is of this `kind` in the view, to behind it.
    pub fn apply(&self, kind: ChangeKind, summary: &mut Summary) {
        let Change { key, old_version, seq, .. } = &self.change;
        let forgets = PlantedBug::SummaryKeepsOldVersions.is_planted() && kind == ChangeKind::Updated;
        if kind != ChangeKind::Added && !forgets {
            summary.remove(key, *old_version);
        }
        if kind != ChangeKind::Deleted {
            summary.add(key, *seq);
        }
    }
}

impl fmt::Debug for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Published({} {} {})", self.change.seq, self.change.table, self.change.key)
    }
}

/// What a change does in one view, shared by the subscribers of that view.
pub struct ViewChange {
    published: Arc<Published>,
    kind: ChangeKind,
    summary: Summary,
    token: OnceLock<Bytes>,
    message: OnceLock<(MessageKind, Bytes)>,
}

/// What tells apart the messages that show one change to subscribers of one view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageKind(pub NonZeroU64);

impl ViewChange {
    pub(crate) fn new(published: Arc<Published>, kind: ChangeKind, summary: Summary) -> Arc<Self> {
        Arc::new(Self { published, kind, summary, token: OnceLock::new(), message: OnceLock::new() })
    }

    /// The change.
    pub fn published(&self) -> &Arc<Published> {
        &self.published
    }

    /// What it does in the view.
    pub fn kind(&self) -> ChangeKind {
        self.kind
    }

    /// The view behind it.
    pub fn summary(&self) -> Summary {
        self.summary
    }

    /// Makes the token behind it by `seal`, unless somebody has: all who see a view have the same, as long as all are the same
    /// principal.
    pub fn seal(&self, seal: impl FnOnce() -> Bytes) {
        self.token.get_or_init(seal);
    }

    /// A whole message that shows it, made by `encode` for whoever needs one first; `None` if that one was of another kind.
    pub fn message(&self, kind: MessageKind, encode: impl FnOnce() -> Bytes) -> Option<&Bytes> {
        let (of, message) = self.message.get_or_init(|| (kind, encode()));
        (*of == kind).then_some(message)
    }

    /// The message of this kind that shows it, if one was kept.
    pub fn kept_message(&self, kind: MessageKind) -> Option<&Bytes> {
        self.message.get().filter(|(of, _)| *of == kind).map(|(_, message)| message)
    }

    /// The token behind it, once it is sealed.
    pub fn token(&self) -> Option<&Bytes> {
        self.token.get()
    }
}

impl fmt::Debug for ViewChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ViewChange({:?} {:?})", self.kind, self.published)
    }
}
