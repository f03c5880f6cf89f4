//! Bodies: stored once for all responses that have them, mostly compressed.

use std::collections::{HashMap, HashSet};
use std::io::Read;

use bytes::Bytes;
use flate2::read::MultiGzDecoder;

use crate::catalog::fields::{RowProblem, Shown, binary, boolean, read_row};
use crate::catalog::plan::{RowReport, ShownRows, show_rows};
use crate::change::{Key, Row, Table};
use crate::store::QueryResult;

/// Bytes that the bodies of an answer may take when they are no longer compressed: a few bytes can stand for gigabytes.
pub(super) const OPENED_BYTES_MAX: u64 = 64 * 1024 * 1024;

pub(super) fn table() -> Table {
    Table::new("response_body")
}

/// Whether a client takes bodies as they are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    AsStored,
    None,
}

impl Compression {
    pub(super) fn of(compression_ok: bool) -> Self {
        if compression_ok { Self::AsStored } else { Self::None }
    }
}

/// A body.
#[derive(Clone)]
pub(super) struct StoredBody {
    pub(super) bytes: Bytes,
    pub(super) is_compressed: bool,
}

impl StoredBody {
    /// The body as a client takes it; what it takes beyond what is stored comes out of `room`.
    pub(super) fn open(&self, compression: Compression, room: &mut u64) -> Result<Self, Unopened> {
        if !self.is_compressed || compression == Compression::AsStored {
            return Ok(self.clone());
        }
        let mut bytes = Vec::new();
        let read = MultiGzDecoder::new(&self.bytes[..]).take(*room + 1).read_to_end(&mut bytes);
        // What turns out to be spoilt was work, too.
        let left = room.checked_sub(bytes.len() as u64);
        *room = left.unwrap_or_default();
        read.map_err(|_| Unopened::NotGzip)?;
        left.ok_or(Unopened::NoRoom)?;
        Ok(Self { bytes: bytes.into(), is_compressed: false })
    }
}

/// Why a body is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unopened {
    /// It is not what it says.
    NotGzip,
    /// There is no room for so much.
    NoRoom,
}

impl Unopened {
    pub(super) fn text(self) -> String {
        match self {
            Self::NotGzip => "the body is not valid gzip".to_owned(),
            Self::NoRoom => format!("the body is larger than {OPENED_BYTES_MAX} bytes without compression"),
        }
    }
}

/// The bodies of some responses.
pub(super) struct Bodies {
    by_key: HashMap<Key, StoredBody>,
    /// Bodies that there was no room for; they may be there.
    unread: HashSet<Key>,
}

impl Bodies {
    pub(super) fn none() -> Self {
        Self { by_key: HashMap::new(), unread: HashSet::new() }
    }

    /// What was read of `keys`, and what there is to report of it.
    pub(super) fn read(keys: Vec<Key>, result: QueryResult) -> (Self, Vec<RowReport>) {
        let reached = result.rows.last().and_then(|last| keys.iter().position(|key| *key == last.key));
        let unread = match reached {
            Some(reached) if !result.is_complete => keys.into_iter().skip(reached + 1).collect(),
            _ => HashSet::new(),
        };
        let ShownRows { values, problems } = show_rows(&table(), result.rows, show);
        (Self { by_key: values.into_iter().collect(), unread }, problems)
    }

    pub(super) fn get(&self, key: &Key) -> Option<&StoredBody> {
        self.by_key.get(key)
    }

    /// Whether there was no room for some of them.
    pub(super) fn is_cut(&self) -> bool {
        !self.unread.is_empty()
    }

    /// Whether there was no room for the body.
    pub(super) fn is_unread(&self, key: &Key) -> bool {
        self.unread.contains(key)
    }
}

fn show(row: &Row) -> Result<Shown<(Key, StoredBody)>, RowProblem> {
    read_row(&row.document, |members| {
        let bytes = members.required("body", binary).unwrap_or_default();
        let is_compressed = members.optional("is_compressed", boolean).unwrap_or(false);
        (row.key.clone(), StoredBody { bytes, is_compressed })
    })
}
