//! What the store remembers of its source: which one it is a copy of, and which tables were ever read to their end.
//!
//! It lies in rows of a namespace that no client can name.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use crate::change::{Document, Key, Table};
use crate::store::{Mutation, PageBudget, Store, StoreError, read};

const NAMESPACE: &str = "starfeed";
const TABLE: &str = "source";

/// The key of the row that names the source; tables are called otherwise.
const ORIGIN: &str = "/origin";

/// What the store remembers of its source.
#[derive(Clone)]
pub(super) struct Progress {
    loaded: Arc<Mutex<HashSet<Table>>>,
}

/// Whose rows a store has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Nobody has written to it.
    New,
    /// Its own.
    Own,
    /// Those of a source, which it is a copy of.
    CopyOf(String),
}

fn table() -> Table {
    Table::in_namespace(NAMESPACE, TABLE)
}

/// Whose rows `store` has.
pub(crate) fn origin(store: &Store) -> Result<Origin, StoreError> {
    let row = read(store, |snapshot| snapshot.row(&table(), &Key::text(ORIGIN)))?;
    let name = row.and_then(|row| match row.document.members()?.remove("name") {
        Some(Value::String(name)) => Some(name),
        _ => None,
    });
    Ok(match name {
        Some(name) => Origin::CopyOf(name),
        None if store.position().seq.0 == 0 => Origin::New,
        None => Origin::Own,
    })
}

/// Makes the store a copy of the source `name`.
pub(super) fn become_copy_of(name: &str) -> Mutation {
    put(ORIGIN, &json!({ "name": name }))
}

fn put(key: &str, value: &Value) -> Mutation {
    let document = Document::from_object(value.as_object().cloned().unwrap_or_default());
    Mutation::put(table(), Key::text(key), document)
}

impl Progress {
    /// What `store` remembers.
    pub(super) fn load(store: &Store) -> Result<Self, StoreError> {
        let budget = PageBudget { items: usize::MAX, bytes: usize::MAX };
        let rows = read(store, |snapshot| snapshot.rows_after(&table(), None, budget))?.rows;
        let names = rows.iter().filter_map(|row| row.key.as_text()).filter(|name| *name != ORIGIN);
        Ok(Self { loaded: Arc::new(Mutex::new(names.map(Table::new).collect())) })
    }

    /// Whether the table was ever read to its end, so that its copy is one that the source once had.
    pub(super) fn is_loaded(&self, table: &Table) -> bool {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner).contains(table)
    }

    /// What to write when the table was read to its end.
    pub(super) fn mark(table: &Table) -> Mutation {
        put(table.name(), &json!({"loaded": true}))
    }

    /// The mark of the table is on disk.
    pub(super) fn marked(&self, table: &Table) {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner).insert(table.clone());
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Progress")
    }
}
