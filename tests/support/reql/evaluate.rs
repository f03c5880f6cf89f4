//! What a query comes to.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::feed::{Feed, FeedOptions, Scope};
use super::protocol::{NON_EXISTENCE, PERMISSION, ReqlError, USER};
use super::range::Range;
use super::term::{self, Term};
use super::values::{Key, compare, greatest, least, merged, normalised, plucked, type_name, without, without_path};
use super::world::{TableName, World};

pub(super) type Evaluated<T> = Result<T, ReqlError>;

/// What a term stands for.
pub(super) enum Found {
    Value(Value),
    Database(String),
    Table(TableName),
    /// A table without some members of its rows.
    Without(TableName, Vec<String>),
    Row(TableName, Value),
    /// Rows in their order, and the table that they are of.
    Rows(Option<TableName>, Vec<Value>),
    /// The rows of a part of an index.
    Range(TableName, Range, Vec<Value>),
    Feed(Box<Feed>),
}

/// Evaluates the terms of one query.
pub(super) struct Evaluator<'a> {
    pub(super) world: &'a mut World,
    pub(super) user: &'a str,
    pub(super) default_database: String,
    pub(super) variables: BTreeMap<u64, Value>,
    pub(super) may_write: bool,
    pub(super) unavailable_key: Option<Value>,
    pub(super) refuses_feeds: bool,
    pub(super) has_refused_feed: bool,
    /// Whether anything was to be written.
    pub(super) has_written: bool,
}

impl Evaluator<'_> {
    pub(super) fn find(&mut self, value: &Value) -> Evaluated<Found> {
        let Some(term) = Term::of(value) else { return self.literal(value).map(Found::Value) };
        match term.number {
            term::DB => self.text(&term, 0).map(Found::Database),
            term::TABLE => self.table(&term).map(Found::Table),
            term::GET => self.get(&term),
            term::GET_ALL => self.get_all(&term),
            term::WITHOUT => self.without(&term),
            term::PLUCK => self.pluck(&term),
            term::UNION => self.union(&term),
            term::BETWEEN => self.between(&term),
            term::ORDER_BY => self.order_by(&term),
            term::FILTER => self.filter(&term),
            term::SKIP | term::LIMIT => self.skip_or_limit(&term),
            term::CHANGES => self.changes(&term),
            term::BRANCH => self.branch(&term),
            term::INSERT | term::UPDATE | term::DELETE | term::REPLACE => self.write(&term).map(Found::Value),
            _ => self.expression(&term).map(Found::Value),
        }
    }

    fn literal(&mut self, value: &Value) -> Evaluated<Value> {
        match value {
            Value::Object(members) => {
                let mut object = Map::new();
                for (name, member) in members {
                    object.insert(name.clone(), self.value(member)?);
                }
                Ok(normalised(&object.into()))
            }
            Value::Array(_) => {
                Err(ReqlError::compile(format!("Expected a term, which begins with its number: {value}")))
            }
            simple => Ok(normalised(simple)),
        }
    }

    fn expression(&mut self, term: &Term) -> Evaluated<Value> {
        match term.number {
            term::MAKE_ARRAY => term.arguments.iter().map(|argument| self.value(argument)).collect(),
            term::VAR => {
                let number = self.value_of(term, 0)?.as_u64().unwrap_or_default();
                let missing = || ReqlError::compile(format!("Variable {number} is not bound."));
                self.variables.get(&number).cloned().ok_or_else(missing)
            }
            term::ERROR => Err(ReqlError::runtime(USER, self.text(term, 0)?)),
            term::EQ | term::NE | term::LT | term::LE | term::GT | term::GE => self.comparison(term),
            term::NOT => Ok((!is_true(&self.value_of(term, 0)?)).into()),
            term::AND => self.first_that(term, |value| !is_true(value)),
            term::OR => self.first_that(term, is_true),
            term::BRACKET | term::GET_FIELD => self.member(term),
            term::HAS_FIELDS => self.has_fields(term),
            term::MERGE => {
                let mut value = self.value_of(term, 0)?;
                for argument in &term.arguments[1..] {
                    let over = self.call(argument, &[value.clone()])?;
                    value = merged(&value, &over);
                }
                Ok(value)
            }
            term::COUNT => self.count(term),
            term::CONTAINS => self.contains(term),
            term::TYPE_OF => Ok(type_name(&self.value_of(term, 0)?).into()),
            term::MINVAL => Ok(least()),
            term::MAXVAL => Ok(greatest()),
            term::DEFAULT => match self.value_of(term, 0) {
                Ok(Value::Null) => self.value_of(term, 1),
                Err(error) if error.kind == Some(NON_EXISTENCE) => self.value_of(term, 1),
                other => other,
            },
            term::COERCE_TO => self.coerce(term),
            _ => self.administration(term),
        }
    }

    /// Counts all rows, those that a function is true of, or those that are one value.
    fn count(&mut self, term: &Term) -> Evaluated<Value> {
        let found = self.found(term, 0)?;
        let rows = self.rows(found)?;
        let Some(argument) = term.arguments.get(1) else { return Ok(rows.len().into()) };
        let is_function = Term::of(argument).is_some_and(|term| term.number == term::FUNC);
        let mut count = 0;
        for row in rows {
            let value = self.call(argument, std::slice::from_ref(&row))?;
            count += u64::from(if is_function { is_true(&value) } else { compare(&value, &row).is_eq() });
        }
        Ok(count.into())
    }

    fn comparison(&mut self, term: &Term) -> Evaluated<Value> {
        let values = term.arguments.iter().map(|argument| self.value(argument)).collect::<Evaluated<Vec<_>>>()?;
        let holds = values.windows(2).all(|pair| {
            let order = compare(&pair[0], &pair[1]);
            match term.number {
                term::EQ | term::NE => order.is_eq(),
                term::LT => order.is_lt(),
                term::LE => order.is_le(),
                term::GT => order.is_gt(),
                _ => order.is_ge(),
            }
        });
        Ok((holds != (term.number == term::NE)).into())
    }

    /// The first argument that decides, or else the last one.
    fn first_that(&mut self, term: &Term, decides: impl Fn(&Value) -> bool) -> Evaluated<Value> {
        let mut last = Value::Bool(term.number == term::AND);
        for argument in term.arguments {
            last = self.value(argument)?;
            if decides(&last) {
                break;
            }
        }
        Ok(last)
    }

    fn branch(&mut self, term: &Term) -> Evaluated<Found> {
        let (pairs, otherwise) = term.arguments.as_chunks::<2>();
        let [otherwise] = otherwise else { return Err(ReqlError::compile("BRANCH takes an odd number of arguments.")) };
        for [condition, then] in pairs {
            if is_true(&self.value(condition)?) {
                return self.find(then);
            }
        }
        self.find(otherwise)
    }

    fn member(&mut self, term: &Term) -> Evaluated<Value> {
        let (object, name) = (self.value_of(term, 0)?, self.value_of(term, 1)?);
        match (&object, &name) {
            (Value::Object(members), Value::String(name)) => members.get(name).cloned().ok_or_else(|| {
                ReqlError::runtime(NON_EXISTENCE, format!("No attribute `{name}` in object:\n{object}"))
            }),
            (Value::Array(items), Value::Number(index)) => {
                let item = index.as_u64().and_then(|index| items.get(index as usize)).cloned();
                item.ok_or_else(|| ReqlError::runtime(NON_EXISTENCE, format!("Index out of bounds: {index}")))
            }
            (Value::Null, _) => {
                Err(ReqlError::runtime(NON_EXISTENCE, "Cannot perform bracket on a non-object non-sequence `null`."))
            }
            _ => Err(ReqlError::logic(format!("Cannot perform bracket on a non-object non-sequence `{object}`."))),
        }
    }

    fn has_fields(&mut self, term: &Term) -> Evaluated<Value> {
        let object = self.value_of(term, 0)?;
        let names = self.texts(term, 1)?;
        Ok(names.iter().all(|name| object.get(name).is_some_and(|member| !member.is_null())).into())
    }

    fn coerce(&mut self, term: &Term) -> Evaluated<Value> {
        let found = self.found(term, 0)?;
        let to = self.text(term, 1)?.to_uppercase();
        if to == "ARRAY" {
            return self.rows(found).map(Value::from);
        }
        let value = self.value_from(found)?;
        let wrong = || ReqlError::logic(format!("Cannot coerce {} to {to}.", type_name(&value)));
        match (to.as_str(), &value) {
            ("STRING", Value::String(_)) => Ok(value),
            ("STRING", _) => Ok(value.to_string().into()),
            ("NUMBER", Value::Number(_)) => Ok(value),
            ("NUMBER", Value::String(text)) => text.parse().map(|number| normalised(&number)).map_err(|_| wrong()),
            ("BOOL", _) => Ok(is_true(&value).into()),
            ("OBJECT", Value::Object(_)) => Ok(value),
            _ => Err(wrong()),
        }
    }

    fn table(&mut self, term: &Term) -> Evaluated<TableName> {
        let name = self.text(term, term.arguments.len().saturating_sub(1))?;
        match term.arguments {
            [_] => Ok(TableName::new(&self.default_database, &name)),
            [database, _] => match self.find(database)? {
                Found::Database(database) => Ok(TableName::new(&database, &name)),
                _ => Err(ReqlError::logic("Expected type DATABASE.")),
            },
            _ => Err(ReqlError::compile("TABLE takes one or two arguments.")),
        }
    }

    fn get(&mut self, term: &Term) -> Evaluated<Found> {
        let table = self.table_of(term)?;
        Ok(Found::Row(table, self.value_of(term, 1)?))
    }

    fn without(&mut self, term: &Term) -> Evaluated<Found> {
        let found = self.found(term, 0)?;
        if let Some(path @ Value::Object(_)) = term.arguments.get(1) {
            return Ok(Found::Value(without_path(&self.value_from(found)?, path)));
        }
        let names = self.texts(term, 1)?;
        Ok(match found {
            Found::Table(table) => Found::Without(table, names),
            Found::Rows(table, rows) => Found::Rows(table, rows.iter().map(|row| without(row, &names)).collect()),
            Found::Range(table, _, rows) => {
                Found::Rows(Some(table), rows.iter().map(|row| without(row, &names)).collect())
            }
            Found::Feed(feed) => Found::Feed(Box::new(feed.without(names))),
            other => match self.value_from(other)? {
                Value::Null => {
                    let text = "Cannot perform without on a non-object non-sequence `null`.";
                    return Err(ReqlError::runtime(NON_EXISTENCE, text));
                }
                value => Found::Value(without(&value, &names)),
            },
        })
    }

    fn pluck(&mut self, term: &Term) -> Evaluated<Found> {
        let mut path = Map::new();
        for at in 1..term.arguments.len() {
            match self.value_of(term, at)? {
                Value::String(name) => drop(path.insert(name, true.into())),
                Value::Object(members) => path.extend(members),
                other => {
                    return Err(ReqlError::compile(format!("The scripted server takes no path like this: {other}")));
                }
            }
        }
        let path = path.into();
        Ok(match self.found(term, 0)? {
            found @ (Found::Table(_) | Found::Rows(..) | Found::Range(..)) => {
                let rows = self.rows(found)?;
                Found::Rows(None, rows.iter().map(|row| plucked(row, &path)).collect())
            }
            other => Found::Value(plucked(&self.value_from(other)?, &path)),
        })
    }

    fn changes(&mut self, term: &Term) -> Evaluated<Found> {
        let (table, scope) = match self.found(term, 0)? {
            Found::Table(table) => (table, Scope::Rows { without: Vec::new() }),
            Found::Without(table, without) => (table, Scope::Rows { without }),
            Found::Row(table, key) => (table, Scope::Row(Key::new(key)?)),
            Found::Range(table, range, _) => (table, Scope::Range(range)),
            _ => return Err(ReqlError::logic("Cannot call `changes` on an eager stream.")),
        };
        self.world.table(&table)?;
        if self.refuses_feeds {
            self.has_refused_feed = true;
            return Err(ReqlError::failed("cannot subscribe to table: primary replica not available"));
        }
        let mut options = Map::new();
        for name in ["include_initial", "include_states", "include_types", "changefeed_queue_size"] {
            if let Some(value) = term.option(name) {
                options.insert(name.to_owned(), self.value(value)?);
            }
        }
        Ok(Found::Feed(Box::new(Feed::new(table, scope, FeedOptions::new(&options)))))
    }

    /// Calls a function, or evaluates what is not one.
    pub(super) fn call(&mut self, function: &Value, arguments: &[Value]) -> Evaluated<Value> {
        let Some(term) = Term::of(function).filter(|term| term.number == term::FUNC) else {
            return self.value(function);
        };
        let numbers = self.value_of(&term, 0)?;
        let outer = self.variables.clone();
        for (number, argument) in numbers.as_array().into_iter().flatten().zip(arguments) {
            self.variables.insert(number.as_u64().unwrap_or_default(), argument.clone());
        }
        let result = self.value_of(&term, 1);
        self.variables = outer;
        result
    }

    pub(super) fn check_may_write(&mut self) -> Evaluated<()> {
        if self.may_write {
            self.has_written = true;
            return Ok(());
        }
        let text = format!("User `{}` does not have the required `write` permission.", self.user);
        Err(ReqlError::runtime(PERMISSION, text))
    }

    // The arguments of terms.

    pub(super) fn found(&mut self, term: &Term, at: usize) -> Evaluated<Found> {
        let missing = || ReqlError::compile(format!("Term {} lacks an argument.", term.number));
        let argument = term.arguments.get(at).ok_or_else(missing)?;
        self.find(argument)
    }

    pub(super) fn value(&mut self, value: &Value) -> Evaluated<Value> {
        let found = self.find(value)?;
        self.value_from(found)
    }

    pub(super) fn value_of(&mut self, term: &Term, at: usize) -> Evaluated<Value> {
        let found = self.found(term, at)?;
        self.value_from(found)
    }

    pub(super) fn value_from(&mut self, found: Found) -> Evaluated<Value> {
        match found {
            Found::Value(value) => Ok(value),
            Found::Row(table, key) => {
                let key = Key::new(key)?;
                Ok(self.world.table(&table)?.rows.get(&key).cloned().unwrap_or_default())
            }
            Found::Rows(_, rows) | Found::Range(_, _, rows) => Ok(rows.into()),
            Found::Table(_) | Found::Without(..) => Err(ReqlError::logic("Expected type DATUM but found TABLE.")),
            Found::Database(_) => Err(ReqlError::logic("Expected type DATUM but found DATABASE.")),
            Found::Feed(_) => Err(ReqlError::logic("A changefeed has no end.")),
        }
    }

    pub(super) fn text(&mut self, term: &Term, at: usize) -> Evaluated<String> {
        match self.value_of(term, at)? {
            Value::String(text) => Ok(text),
            other => Err(ReqlError::logic(format!("Expected type STRING but found {}.", type_name(&other)))),
        }
    }

    /// All arguments from `at` on, which are texts or lists of texts.
    fn texts(&mut self, term: &Term, at: usize) -> Evaluated<Vec<String>> {
        let mut texts = Vec::new();
        for at in at..term.arguments.len() {
            match self.value_of(term, at)? {
                Value::String(text) => texts.push(text),
                Value::Array(items) if items.iter().all(Value::is_string) => {
                    texts.extend(items.iter().filter_map(Value::as_str).map(str::to_owned));
                }
                other => return Err(ReqlError::compile(format!("The scripted server takes no path here: {other}"))),
            }
        }
        Ok(texts)
    }

    pub(super) fn table_of(&mut self, term: &Term) -> Evaluated<TableName> {
        match self.found(term, 0)? {
            Found::Table(table) => Ok(table),
            _ => Err(ReqlError::logic("Expected type TABLE.")),
        }
    }
}

/// All but `false` and `null` count as true.
pub(super) fn is_true(value: &Value) -> bool {
    !matches!(value, Value::Null | Value::Bool(false))
}
