//! Terms that choose rows and put them in order.

use std::ops::Bound;

use serde_json::Value;

use super::evaluate::{Evaluated, Evaluator, Found, is_true};
use super::protocol::{NON_EXISTENCE, ReqlError};
use super::range::{By, Range};
use super::term::{self, Term};
use super::values::{Key, compare, without};
use super::world::TableName;

impl Evaluator<'_> {
    pub(super) fn rows(&mut self, found: Found) -> Evaluated<Vec<Value>> {
        match found {
            Found::Table(table) => Ok(self.world.table(&table)?.rows.values().cloned().collect()),
            Found::Without(table, names) => {
                Ok(self.world.table(&table)?.rows.values().map(|row| without(row, &names)).collect())
            }
            Found::Rows(_, rows) | Found::Range(_, _, rows) | Found::Value(Value::Array(rows)) => Ok(rows),
            other => match self.value_from(other)? {
                Value::Array(rows) => Ok(rows),
                value => Err(ReqlError::logic(format!("Cannot convert this to a sequence: {value}"))),
            },
        }
    }

    /// The rows, and the table that they are of.
    pub(super) fn rows_of(&mut self, term: &Term) -> Evaluated<(Option<TableName>, Vec<Value>)> {
        let found = self.found(term, 0)?;
        let table = match &found {
            Found::Table(table) | Found::Range(table, ..) => Some(table.clone()),
            Found::Rows(table, _) => table.clone(),
            _ => None,
        };
        self.rows(found).map(|rows| (table, rows))
    }

    pub(super) fn filter(&mut self, term: &Term) -> Evaluated<Found> {
        let (table, rows) = self.rows_of(term)?;
        let predicate = term.arguments.get(1).ok_or_else(|| ReqlError::compile("FILTER takes two arguments."))?;
        let when_missing = match term.option("default") {
            Some(value) => is_true(&self.value(value)?),
            None => false,
        };
        let mut kept = Vec::new();
        for row in rows {
            let holds = match self.call(predicate, std::slice::from_ref(&row)) {
                Ok(Value::Object(members)) => {
                    members.iter().all(|(name, value)| row.get(name).is_some_and(|own| compare(own, value).is_eq()))
                }
                Ok(value) => is_true(&value),
                Err(error) if error.kind == Some(NON_EXISTENCE) => when_missing,
                Err(error) => return Err(error),
            };
            if holds {
                kept.push(row);
            }
        }
        Ok(Found::Rows(table, kept))
    }

    pub(super) fn skip_or_limit(&mut self, term: &Term) -> Evaluated<Found> {
        let (table, mut rows) = self.rows_of(term)?;
        let count = self.value_of(term, 1)?.as_u64().ok_or_else(|| ReqlError::logic("Expected a count."))? as usize;
        if term.number == term::SKIP {
            rows.drain(..count.min(rows.len()));
        } else {
            rows.truncate(count);
        }
        Ok(Found::Rows(table, rows))
    }

    pub(super) fn between(&mut self, term: &Term) -> Evaluated<Found> {
        let (table, rows) = self.rows_of(term)?;
        let by = match term.option("index") {
            Some(index) => {
                let index = self.value(index)?;
                self.index(table.as_ref(), index.as_str().unwrap_or_default())?
            }
            None => self.index(table.as_ref(), "")?,
        };
        let mut bound = |at: usize, side: &str, default: &str, open_ended: u64| -> Evaluated<Bound<Value>> {
            let argument =
                term.arguments.get(at).ok_or_else(|| ReqlError::compile("BETWEEN takes three arguments."))?;
            if Term::of(argument).is_some_and(|term| term.number == open_ended) {
                return Ok(Bound::Unbounded);
            }
            let kind = match term.option(side) {
                Some(kind) => self.value(kind)?,
                None => default.into(),
            };
            let value = self.value(argument)?;
            Ok(if kind == "open" { Bound::Excluded(value) } else { Bound::Included(value) })
        };
        let low = bound(1, "left_bound", "closed", term::MINVAL)?;
        let high = bound(2, "right_bound", "open", term::MAXVAL)?;
        let table = table.ok_or_else(|| ReqlError::logic("Expected type TABLE_SLICE."))?;
        let range = Range { by, low, high };
        let rows = rows.into_iter().filter(|row| range.has(row)).collect();
        Ok(Found::Range(table, range, rows))
    }

    pub(super) fn get_all(&mut self, term: &Term) -> Evaluated<Found> {
        let table = self.table_of(term)?;
        let mut rows = Vec::new();
        for at in 1..term.arguments.len() {
            let key = Key::new(self.value_of(term, at)?)?;
            rows.extend(self.world.table(&table)?.rows.get(&key).cloned());
        }
        Ok(Found::Rows(Some(table), rows))
    }

    /// One sequence after the other, as when they are not to be interleaved.
    pub(super) fn union(&mut self, term: &Term) -> Evaluated<Found> {
        if term.option("interleave") != Some(&Value::Bool(false)) {
            return Err(ReqlError::compile("The scripted server keeps the order of a UNION."));
        }
        let mut rows = Vec::new();
        for at in 0..term.arguments.len() {
            let found = self.found(term, at)?;
            rows.extend(self.rows(found)?);
        }
        Ok(Found::Rows(None, rows))
    }

    /// Whether a sequence has all of these values.
    pub(super) fn contains(&mut self, term: &Term) -> Evaluated<Value> {
        let found = self.found(term, 0)?;
        let items = self.rows(found)?;
        for at in 1..term.arguments.len() {
            let value = self.value_of(term, at)?;
            if !items.iter().any(|item| compare(item, &value).is_eq()) {
                return Ok(false.into());
            }
        }
        Ok(true.into())
    }

    pub(super) fn order_by(&mut self, term: &Term) -> Evaluated<Found> {
        let (table, mut rows) = self.rows_of(term)?;
        // The last one named decides least.
        for argument in term.arguments.iter().skip(1).rev() {
            let (by, descends) = self.ordering(argument)?;
            rows.sort_by(|one, other| {
                let member = |row: &Value| by.as_str().and_then(|name| row.get(name)).cloned().unwrap_or_default();
                let order = compare(&member(one), &member(other));
                if descends { order.reverse() } else { order }
            });
        }
        let Some(index) = term.option("index") else { return Ok(Found::Value(rows.into())) };
        let (index, descends) = self.ordering(index)?;
        let by = self.index(table.as_ref(), index.as_str().unwrap_or_default())?;
        // Rows that the index does not hold are left out.
        let mut keyed: Vec<_> = rows.into_iter().filter_map(|row| Some((by.key(&row)?, row))).collect();
        keyed.sort_by(|(one, _), (other, _)| compare(one, other));
        if descends {
            keyed.reverse();
        }
        Ok(Found::Rows(table, keyed.into_iter().map(|(_, row)| row).collect()))
    }

    /// What is ordered by, and whether the largest comes first.
    fn ordering(&mut self, value: &Value) -> Evaluated<(Value, bool)> {
        match Term::of(value) {
            Some(term) if term.number == term::ASC => Ok((self.value_of(&term, 0)?, false)),
            Some(term) if term.number == term::DESC => Ok((self.value_of(&term, 0)?, true)),
            _ => Ok((self.value(value)?, false)),
        }
    }

    /// No name is that of the primary key.
    fn index(&mut self, name: Option<&TableName>, index: &str) -> Evaluated<By> {
        let name = name.ok_or_else(|| ReqlError::logic("Indexed order_by can only be performed on a TABLE."))?;
        let table = self.world.table(name)?;
        if index.is_empty() || index == table.primary_key {
            return Ok(By::Member(table.primary_key.clone()));
        }
        let TableName { database, table: short_name } = name;
        match table.indexes.get(index) {
            Some(Some(function)) => By::of_function(function)
                .ok_or_else(|| ReqlError::compile("The scripted server knows indexes over members only.")),
            Some(None) => Ok(By::Member(index.to_owned())),
            None => {
                Err(ReqlError::failed(format!("Index `{index}` was not found on table `{database}.{short_name}`.")))
            }
        }
    }
}
