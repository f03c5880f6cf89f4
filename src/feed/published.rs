//! A change on its way to subscribers: shared by all of them, and encoded once per wire format.

use std::fmt;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::change::{Change, Seq};

/// Which encoding of a change is meant; each wire format takes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncodingSlot {
    /// The protobuf list event with key and name only.
    ProtobufListEvent,
}

const ENCODING_SLOTS: usize = 1;

/// A committed change, shared by everything that delivers it.
pub struct Published {
    change: Change,
    /// `None` inside: it cannot be shown in this format.
    encodings: [OnceLock<Option<Bytes>>; ENCODING_SLOTS],
}

impl Published {
    /// Shares `change`.
    pub fn new(change: Change) -> Arc<Self> {
        Arc::new(Self { change, encodings: Default::default() })
    }

    /// The change.
    pub fn change(&self) -> &Change {
        &self.change
    }

    /// Its position.
    pub fn seq(&self) -> Seq {
        self.change.seq
    }

    /// The bytes it holds, by which queues are bounded; encodings count as much as the change itself.
    pub fn size(&self) -> usize {
        self.change.size()
    }

    /// Its encoding, made by `encode` for whoever needs it first; `None` where it cannot be shown.
    pub fn encoded(&self, slot: EncodingSlot, encode: impl FnOnce(&Change) -> Option<Bytes>) -> Option<&Bytes> {
        self.encodings[slot as usize].get_or_init(|| encode(&self.change)).as_ref()
    }
}

impl fmt::Debug for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Published({} {} {})", self.change.seq, self.change.table, self.change.key)
    }
}
