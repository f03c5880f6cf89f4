//! Terms that write rows, and what they answer.

use serde_json::{Value, json};

use super::evaluate::{Evaluated, Evaluator, Found};
use super::protocol::ReqlError;
use super::term::{self, Term};
use super::values::{Key, compare, merged, type_name};
use super::world::TableName;

/// Which changes an answer has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ReturnChanges {
    No,
    Made,
    Always,
}

/// The answer to a write.
struct Written {
    returns: ReturnChanges,
    deleted: u64,
    errors: u64,
    inserted: u64,
    replaced: u64,
    skipped: u64,
    unchanged: u64,
    first_error: Option<String>,
    changes: Vec<Value>,
    generated_keys: Vec<Value>,
}

impl Written {
    fn new(returns: ReturnChanges) -> Self {
        Self {
            returns,
            deleted: 0,
            errors: 0,
            inserted: 0,
            replaced: 0,
            skipped: 0,
            unchanged: 0,
            first_error: None,
            changes: Vec::new(),
            generated_keys: Vec::new(),
        }
    }

    fn failed(&mut self, old: &Value, error: ReqlError) {
        self.errors += 1;
        if self.returns == ReturnChanges::Always {
            self.changes.push(json!({"new_val": old, "old_val": old, "error": error.text}));
        }
        self.first_error.get_or_insert(error.text);
    }

    fn done(&mut self, old: &Value, new: &Value) {
        let is_same = compare(old, new).is_eq();
        let count = match (old, new) {
            (Value::Null, Value::Null) => &mut self.skipped,
            (Value::Null, _) => &mut self.inserted,
            (_, Value::Null) => &mut self.deleted,
            _ if is_same => &mut self.unchanged,
            _ => &mut self.replaced,
        };
        *count += 1;
        if self.returns == ReturnChanges::Always || self.returns == ReturnChanges::Made && !is_same {
            self.changes.push(json!({"new_val": new, "old_val": old}));
        }
    }

    fn answer(self) -> Value {
        let mut answer = json!({
            "deleted": self.deleted, "errors": self.errors, "inserted": self.inserted,
            "replaced": self.replaced, "skipped": self.skipped, "unchanged": self.unchanged,
        });
        if let Some(error) = self.first_error {
            answer["first_error"] = error.into();
        }
        if self.returns != ReturnChanges::No {
            answer["changes"] = self.changes.into();
        }
        if !self.generated_keys.is_empty() {
            answer["generated_keys"] = self.generated_keys.into();
        }
        answer
    }
}

impl Evaluator<'_> {
    pub(super) fn write(&mut self, term: &Term) -> Evaluated<Value> {
        self.check_may_write()?;
        let returns = match term.option("return_changes") {
            Some(value) if value == "always" => ReturnChanges::Always,
            Some(Value::Bool(true)) => ReturnChanges::Made,
            _ => ReturnChanges::No,
        };
        let mut written = Written::new(returns);
        if term.number == term::INSERT {
            self.insert(term, &mut written)?;
            return Ok(written.answer());
        }
        let function = match (term.number, term.arguments.get(1)) {
            (term::DELETE, _) => &Value::Null,
            (_, Some(function)) => function,
            (_, None) => return Err(ReqlError::compile("A write lacks its argument.")),
        };
        let (table, keys) = self.keys_to_write(term)?;
        for key in keys {
            let old = self.world.table(&table)?.rows.get(&key).cloned().unwrap_or_default();
            let new = match (term.number, &old) {
                (term::DELETE, _) | (term::UPDATE, Value::Null) => Ok(Value::Null),
                (term::UPDATE, _) => self.call(function, std::slice::from_ref(&old)).map(|over| merged(&old, &over)),
                _ => self.call(function, std::slice::from_ref(&old)),
            };
            self.put(&table, &key, old, new, &mut written)?;
        }
        Ok(written.answer())
    }

    fn keys_to_write(&mut self, term: &Term) -> Evaluated<(TableName, Vec<Key>)> {
        match self.found(term, 0)? {
            Found::Row(table, key) => Ok((table, vec![Key::new(key)?])),
            Found::Table(table) => {
                let keys = self.world.table(&table)?.rows.keys().cloned().collect();
                Ok((table, keys))
            }
            Found::Rows(Some(table), rows) | Found::Range(table, _, rows) => {
                let primary_key = &self.world.table(&table)?.primary_key;
                let keys = rows.iter().map(|row| Key(row[primary_key].clone())).collect();
                Ok((table, keys))
            }
            _ => Err(ReqlError::logic("Expected type SELECTION.")),
        }
    }

    /// Makes a row what it is to be, or says why it cannot be that.
    fn put(
        &mut self,
        table: &TableName,
        key: &Key,
        old: Value,
        new: Evaluated<Value>,
        written: &mut Written,
    ) -> Evaluated<()> {
        let primary_key = self.world.table(table)?.primary_key.clone();
        let new = match &self.unavailable_key {
            Some(unavailable) if compare(unavailable, &key.0).is_eq() => {
                Err(ReqlError::failed("Cannot perform write: primary replica for shard [\"\", +inf) not available"))
            }
            _ => new,
        };
        match new.and_then(|new| checked(&primary_key, key, &old, new)) {
            Ok(Value::Null) => {
                self.world.write(table, key, None)?;
                written.done(&old, &Value::Null);
            }
            Ok(new) => {
                self.world.write(table, key, Some(new.clone()))?;
                written.done(&old, &new);
            }
            Err(error) => written.failed(&old, error),
        }
        Ok(())
    }

    fn insert(&mut self, term: &Term, written: &mut Written) -> Evaluated<()> {
        let table = self.table_of(term)?;
        let primary_key = self.world.table(&table)?.primary_key.clone();
        let rows = match self.found(term, 1)? {
            Found::Value(row @ Value::Object(_)) => vec![row],
            other => self.rows(other)?,
        };
        let conflict = term.option("conflict").and_then(Value::as_str).unwrap_or("error");
        for mut row in rows {
            if row.is_object() && row.get(&primary_key).is_none() {
                let key = Value::from(uuid::Uuid::new_v4().to_string());
                row[&primary_key] = key.clone();
                written.generated_keys.push(key);
            }
            let key = match Key::new(row.get(&primary_key).cloned().unwrap_or_default()) {
                Ok(key) => key,
                Err(error) => {
                    written.failed(&Value::Null, error);
                    continue;
                }
            };
            let old = self.world.table(&table)?.rows.get(&key).cloned().unwrap_or_default();
            let new = match (conflict, &old) {
                (_, Value::Null) | ("replace", _) => Ok(row),
                ("update", _) => Ok(merged(&old, &row)),
                _ => Err(ReqlError::failed(format!("Duplicate primary key `{primary_key}`:\n{old:#}\n{row:#}"))),
            };
            self.put(&table, &key, old, new, written)?;
        }
        Ok(())
    }
}

/// `new`, if it may take the place of `old`.
fn checked(primary_key: &str, key: &Key, old: &Value, new: Value) -> Evaluated<Value> {
    match &new {
        Value::Null => Ok(new),
        Value::Object(members) => match members.get(primary_key) {
            None => Err(ReqlError::logic(format!("Inserted object must have primary key `{primary_key}`:\n{new:#}"))),
            Some(own) if compare(own, &key.0).is_eq() => Ok(new),
            Some(_) => Err(ReqlError::logic(format!("Primary key `{primary_key}` cannot be changed ({old} -> {new})"))),
        },
        other => {
            Err(ReqlError::logic(format!("Inserted value must be an OBJECT (got {}):\n{other}", type_name(other))))
        }
    }
}
