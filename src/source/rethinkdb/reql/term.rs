//! Queries as the database reads them: JSON arrays of a number, arguments and named arguments.

use std::fmt;
use std::ops::Bound;

use serde_json::{Map, Value, json};

use crate::change::{Document, Key, KeyValue};
use crate::json;

/// A part of a query. `Debug` does not show it: it may hold a row.
#[derive(Clone, PartialEq)]
pub struct Term(Value);

impl fmt::Debug for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Term(..)")
    }
}

/// The numbers of `ql2.proto`.
mod number {
    pub(super) const MAKE_ARRAY: u32 = 2;
    pub(super) const VAR: u32 = 10;
    pub(super) const ERROR: u32 = 12;
    pub(super) const DB: u32 = 14;
    pub(super) const TABLE: u32 = 15;
    pub(super) const GET: u32 = 16;
    pub(super) const EQ: u32 = 17;
    pub(super) const NOT: u32 = 23;
    pub(super) const HAS_FIELDS: u32 = 32;
    pub(super) const PLUCK: u32 = 33;
    pub(super) const WITHOUT: u32 = 34;
    pub(super) const MERGE: u32 = 35;
    pub(super) const FILTER: u32 = 39;
    pub(super) const ORDER_BY: u32 = 41;
    pub(super) const COUNT: u32 = 43;
    pub(super) const UNION: u32 = 44;
    pub(super) const COERCE_TO: u32 = 51;
    pub(super) const TYPE_OF: u32 = 52;
    pub(super) const DELETE: u32 = 54;
    pub(super) const REPLACE: u32 = 55;
    pub(super) const INSERT: u32 = 56;
    pub(super) const DB_CREATE: u32 = 57;
    pub(super) const DB_LIST: u32 = 59;
    pub(super) const TABLE_CREATE: u32 = 60;
    pub(super) const TABLE_LIST: u32 = 62;
    pub(super) const BRANCH: u32 = 65;
    pub(super) const OR: u32 = 66;
    pub(super) const AND: u32 = 67;
    pub(super) const FUNC: u32 = 69;
    pub(super) const SKIP: u32 = 70;
    pub(super) const LIMIT: u32 = 71;
    pub(super) const DESC: u32 = 74;
    pub(super) const INDEX_CREATE: u32 = 75;
    pub(super) const GET_ALL: u32 = 78;
    pub(super) const INFO: u32 = 79;
    pub(super) const DEFAULT: u32 = 92;
    pub(super) const CONTAINS: u32 = 93;
    pub(super) const INDEX_WAIT: u32 = 140;
    pub(super) const CHANGES: u32 = 152;
    pub(super) const BRACKET: u32 = 170;
    pub(super) const MINVAL: u32 = 180;
    pub(super) const MAXVAL: u32 = 181;
    pub(super) const BETWEEN: u32 = 182;
}

/// The one variable of every function here: the row.
const ROW: u32 = 1;

fn term(number: u32, args: Vec<Term>) -> Term {
    Term(json!([number, args.into_iter().map(|Term(value)| value).collect::<Vec<_>>()]))
}

fn with_options(Term(mut value): Term, options: Value) -> Term {
    value.as_array_mut().expect("a term is a list").push(options);
    Term(value)
}

impl Term {
    /// A value as it is.
    pub fn datum(value: Value) -> Self {
        match value {
            // A list would be read as a term.
            Value::Array(elements) => term(number::MAKE_ARRAY, elements.into_iter().map(Self::datum).collect()),
            Value::Object(members) => {
                let members = members.into_iter().map(|(name, value)| (name, Self::datum(value).0));
                Self(Value::Object(members.collect()))
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Self(value),
        }
    }

    /// A document.
    pub fn document(document: &Document) -> Self {
        Self::datum(Value::Object(document.members().unwrap_or_default()))
    }

    /// A primary key.
    pub fn key(key: &Key) -> Self {
        Self(match key.value() {
            KeyValue::Text(text) => text.into(),
            KeyValue::Number(number) => number.into(),
            KeyValue::Binary(bytes) => json::binary(bytes),
        })
    }

    /// What is less than every value.
    pub fn least() -> Self {
        term(number::MINVAL, Vec::new())
    }

    /// What is greater than every value.
    pub fn greatest() -> Self {
        term(number::MAXVAL, Vec::new())
    }

    /// Several, one after the other.
    pub fn list(terms: Vec<Self>) -> Self {
        term(number::MAKE_ARRAY, terms)
    }

    /// A database.
    pub fn database(name: &str) -> Self {
        term(number::DB, vec![Self(name.into())])
    }

    /// The names of all databases.
    pub fn database_names() -> Self {
        term(number::DB_LIST, Vec::new())
    }

    /// Makes a database.
    pub fn create_database(name: &str) -> Self {
        term(number::DB_CREATE, vec![Self(name.into())])
    }

    /// A table of the connection's database.
    pub fn table(name: &str) -> Self {
        term(number::TABLE, vec![Self(name.into())])
    }

    /// The names of the tables of a database.
    pub fn table_names(self) -> Self {
        term(number::TABLE_LIST, vec![self])
    }

    /// Makes a table in a database.
    pub fn create_table(self, name: &str, primary_key: &str) -> Self {
        let created = term(number::TABLE_CREATE, vec![self, Self(name.into())]);
        with_options(created, json!({"primary_key": primary_key}))
    }

    /// Makes an index of a table: over one member by its own name, or over several.
    pub fn create_index(self, name: &str, members: &[&str]) -> Self {
        let mut args = vec![self, Self(name.into())];
        if *members != [name] {
            let members = members.iter().map(|member| Self::row().member(member)).collect();
            args.push(function(term(number::MAKE_ARRAY, members)));
        }
        term(number::INDEX_CREATE, args)
    }

    /// Waits until the indexes of a table can be used.
    pub fn wait_for_indexes(self) -> Self {
        term(number::INDEX_WAIT, vec![self])
    }

    /// What the database knows of a table.
    pub fn info(self) -> Self {
        term(number::INFO, vec![self])
    }

    /// One row.
    pub fn get(self, key: &Key) -> Self {
        term(number::GET, vec![self, Self::key(key)])
    }

    /// The rows of a table with these keys, in no order; one whose key is named twice comes twice.
    pub fn get_all<'a>(self, keys: impl IntoIterator<Item = &'a Key>) -> Self {
        term(number::GET_ALL, std::iter::once(self).chain(keys.into_iter().map(Self::key)).collect())
    }

    /// The rows of a table whose primary key follows `key`.
    pub fn after(self, key: &Key) -> Self {
        let between = term(number::BETWEEN, vec![self, Self::key(key), Self::greatest()]);
        with_options(between, json!({"left_bound": "open"}))
    }

    /// The rows of a table that an index has between these values.
    pub fn between(self, index: &str, low: Bound<Self>, high: Bound<Self>) -> Self {
        let side = |bound: Bound<Self>, unbounded: Self| match bound {
            Bound::Included(value) => (value, "closed"),
            Bound::Excluded(value) => (value, "open"),
            Bound::Unbounded => (unbounded, "closed"),
        };
        let ((low, left), (high, right)) = (side(low, Self::least()), side(high, Self::greatest()));
        let options = json!({"index": index, "left_bound": left, "right_bound": right});
        with_options(term(number::BETWEEN, vec![self, low, high]), options)
    }

    /// How many.
    pub fn count(self) -> Self {
        term(number::COUNT, vec![self])
    }

    /// In the order of an index; rows that are not in it are left out.
    pub fn order_by_index(self, index: &str) -> Self {
        with_options(term(number::ORDER_BY, vec![self]), json!({"index": index}))
    }

    /// In the order of an index from behind; rows that are not in it are left out.
    pub fn order_by_index_from_behind(self, index: &str) -> Self {
        let descending = term(number::DESC, vec![Self(index.into())]).0;
        with_options(term(number::ORDER_BY, vec![self]), json!({"index": descending}))
    }

    /// In the order of a member, and where that is the same, of another one. The database holds all of them for that.
    pub fn order_by_members(self, first: &str, second: &str) -> Self {
        term(number::ORDER_BY, vec![self, Self(first.into()), Self(second.into())])
    }

    /// The rows for which something is true that is said of [`Term::row`].
    pub fn filter(self, is_true: Self) -> Self {
        term(number::FILTER, vec![self, function(is_true)])
    }

    /// All of one sequence, then all of another.
    pub fn followed_by(self, other: Self) -> Self {
        with_options(term(number::UNION, vec![self, other]), json!({"interleave": false}))
    }

    /// A sequence as one value.
    pub fn as_list(self) -> Self {
        term(number::COERCE_TO, vec![self, Self("array".into())])
    }

    /// A part of a sequence.
    pub fn page(self, offset: usize, limit: usize) -> Self {
        let skipped = if offset == 0 { self } else { term(number::SKIP, vec![self, Self(offset.into())]) };
        term(number::LIMIT, vec![skipped, Self(limit.into())])
    }

    /// Rows without some of their members.
    pub fn without(self, members: &[&str]) -> Self {
        if members.is_empty() {
            return self;
        }
        let members = members.iter().map(|member| Self((*member).into()));
        term(number::WITHOUT, std::iter::once(self).chain(members).collect())
    }

    /// Rows with nothing but one member.
    pub fn only(self, member: &str) -> Self {
        term(number::PLUCK, vec![self, Self(member.into())])
    }

    /// The changefeed of a table, with the rows that are there first.
    pub fn changes(self, queue_rows: u64) -> Self {
        let options = json!({
            "changefeed_queue_size": queue_rows,
            "include_initial": true,
            "include_states": true,
            "include_types": true,
            "squash": false,
        });
        with_options(term(number::CHANGES, vec![self]), options)
    }

    /// The changes of one row, from the state `ready` on.
    pub fn later_changes(self) -> Self {
        with_options(term(number::CHANGES, vec![self]), json!({"include_states": true}))
    }

    /// That rows of a table have changed, and nothing of what they were or are; the first that it says is that it says so from now on.
    pub fn wake_ups(self) -> Self {
        let changes = with_options(term(number::CHANGES, vec![self]), json!({"squash": true, "include_states": true}));
        changes.without(&["new_val", "old_val"])
    }

    /// Makes one row what `becomes` says of [`Term::row`], in one atomic step; answers with the row before and after.
    pub fn replace(self, becomes: Self) -> Self {
        let replaced = term(number::REPLACE, vec![self, function(becomes)]);
        with_options(replaced, json!({"durability": "hard", "return_changes": "always"}))
    }

    /// Deletes rows; answers how many.
    pub fn delete(self) -> Self {
        with_options(term(number::DELETE, vec![self]), json!({"durability": "hard"}))
    }

    /// The answer to a write without these members of the rows in it.
    pub fn answered_without(self, members: &[&str]) -> Self {
        if members.is_empty() {
            return self;
        }
        let members: Map<String, Value> = members.iter().map(|member| ((*member).to_owned(), true.into())).collect();
        let path = json!({"changes": {"old_val": members, "new_val": members}});
        term(number::WITHOUT, vec![self, Self(path)])
    }

    /// The answer to a write with the key alone of the rows that were there before.
    pub fn answered_with_old_key(self, primary_key: &str) -> Self {
        let path = json!({"changes": {"old_val": {primary_key: true}}});
        term(number::PLUCK, vec![self, Self("errors".into()), Self("first_error".into()), Self(path)])
    }

    /// Writes rows over those with their keys; answers with each row before and after.
    pub fn put_all(self, documents: Vec<Self>) -> Self {
        let inserted = term(number::INSERT, vec![self, term(number::MAKE_ARRAY, documents)]);
        with_options(inserted, json!({"conflict": "replace", "durability": "hard", "return_changes": "always"}))
    }

    /// Writes a row over the one with its key; a crash of the database may lose it.
    pub fn put_softly(self, document: Value) -> Self {
        let inserted = term(number::INSERT, vec![self, Self::datum(document)]);
        with_options(inserted, json!({"conflict": "replace", "durability": "soft"}))
    }

    /// The row that a function is given.
    pub fn row() -> Self {
        term(number::VAR, vec![Self(ROW.into())])
    }

    /// The row with the members of `patch` written over it: objects deeply, everything else replaced.
    pub fn merged_row(patch: Self) -> Self {
        term(number::MERGE, vec![Self::row(), patch])
    }

    /// `missing` where there is no row, `present` where there is one.
    pub fn by_presence(missing: Self, present: Self) -> Self {
        Self::branch(Self::row().is(Value::Null), missing, present)
    }

    /// `then` where something is true, `otherwise` where it is not.
    pub fn branch(is_true: Self, then: Self, otherwise: Self) -> Self {
        term(number::BRANCH, vec![is_true, then, otherwise])
    }

    /// Fails with a text.
    pub fn error(text: &str) -> Self {
        term(number::ERROR, vec![Self(text.into())])
    }

    /// Nothing: what a row becomes that is deleted.
    pub fn nothing() -> Self {
        Self(Value::Null)
    }

    fn member(self, name: &str) -> Self {
        term(number::BRACKET, vec![self, Self(name.into())])
    }

    /// A member of [`Term::row`], or null where it has none.
    pub fn member_of_row(name: &str) -> Self {
        Self::row().member(name).or_null()
    }

    /// Null where there is nothing.
    pub fn or_null(self) -> Self {
        term(number::DEFAULT, vec![self, Self(Value::Null)])
    }

    /// Whether [`Term::row`] has a member, and it is not null.
    pub fn row_has(name: &str) -> Self {
        term(number::HAS_FIELDS, vec![Self::row(), Self(name.into())])
    }

    /// The name of the type that something is of.
    pub fn type_name(self) -> Self {
        term(number::TYPE_OF, vec![self])
    }

    /// Whether it is this.
    pub fn is(self, value: Value) -> Self {
        term(number::EQ, vec![self, Self::datum(value)])
    }

    /// Whether it is one of these texts.
    pub fn is_one_of(self, texts: &[&str]) -> Self {
        let texts = texts.iter().map(|text| Self((*text).into())).collect();
        term(number::CONTAINS, vec![Self::list(texts), self])
    }

    /// Whether it is a list that has this text in it.
    pub fn is_list_with(self, text: &str) -> Self {
        let contains = term(number::CONTAINS, vec![self.clone(), Self(text.into())]);
        Self::all(vec![self.type_name().is("ARRAY".into()), contains])
    }

    /// Whether something is not true.
    pub fn negated(self) -> Self {
        term(number::NOT, vec![self])
    }

    /// Whether all are true; those behind one that is not are not looked at.
    pub fn all(terms: Vec<Self>) -> Self {
        term(number::AND, terms)
    }

    /// Whether one is true.
    pub fn any(terms: Vec<Self>) -> Self {
        term(number::OR, terms)
    }

    /// The query that starts it, on the tables of `database`.
    pub fn start(&self, database: &str) -> Vec<u8> {
        const START: u32 = 1;
        let mut globals = Map::new();
        globals.insert("db".to_owned(), Self::database(database).0);
        json!([START, self.0, globals]).to_string().into_bytes()
    }
}

/// The query that asks for more rows.
pub(super) const CONTINUE: &[u8] = b"[2]";

/// The query that ends another one.
pub(super) const STOP: &[u8] = b"[3]";

fn function(body: Term) -> Term {
    term(number::FUNC, vec![term(number::MAKE_ARRAY, vec![Term(ROW.into())]), body])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(term: &Term) -> String {
        term.0.to_string()
    }

    #[test]
    fn values_are_written_so_that_no_list_is_read_as_a_term() {
        let value = json!({"a": [1, [true, null]], "b": {"c": []}});
        assert_eq!(text(&Term::datum(value)), r#"{"a":[2,[1,[2,[true,null]]]],"b":{"c":[2,[]]}}"#);
        assert_eq!(text(&Term::key(&Key::binary(&[0; 2]))), r#"{"$reql_type$":"BINARY","data":"AAA="}"#);
    }

    #[test]
    fn a_feed_asks_for_everything_that_it_needs() {
        let feed = Term::table("job").without(&["old_urls"]).changes(10);
        assert_eq!(
            text(&feed),
            r#"[152,[[34,[[15,["job"]],"old_urls"]]],{"changefeed_queue_size":10,"include_initial":true,"include_states":true,"include_types":true,"squash":false}]"#
        );
    }

    #[test]
    fn a_write_is_one_step_on_one_row() {
        let becomes = Term::by_presence(Term::error("no"), Term::merged_row(Term::datum(json!({"a": [1]}))));
        assert_eq!(
            text(&Term::table("t").get(&Key::text("k")).replace(becomes)),
            r#"[55,[[16,[[15,["t"]],"k"]],[69,[[2,[1]],[65,[[17,[[10,[1]],null]],[12,["no"]],[35,[[10,[1]],{"a":[2,[1]]}]]]]]]],{"durability":"hard","return_changes":"always"}]"#
        );
    }

    #[test]
    fn a_time_is_one_value_in_a_range() {
        let time = json!({"$reql_type$": "TIME", "epoch_time": 1.5, "timezone": "+00:00"});
        let low = Bound::Excluded(Term::list(vec![Term::datum("s".into()), Term::datum(time)]));
        let range = Term::table("job").between("schedule", low, Bound::Unbounded);
        assert_eq!(
            text(&range),
            r#"[182,[[15,["job"]],[2,["s",{"$reql_type$":"TIME","epoch_time":1.5,"timezone":"+00:00"}]],[181,[]]],{"index":"schedule","left_bound":"open","right_bound":"closed"}]"#
        );
    }

    #[test]
    fn a_query_names_its_database() {
        let query = Term::table("t").page(0, 10).start("starbelly");
        assert_eq!(query, br#"[1,[71,[[15,["t"]],10]],{"db":[14,["starbelly"]]}]"#);
    }

    #[test]
    fn an_index_over_several_members_is_a_function() {
        let index = Term::table("job").create_index("schedule", &["schedule_id", "started_at"]);
        assert_eq!(
            text(&index),
            r#"[75,[[15,["job"]],"schedule",[69,[[2,[1]],[2,[[170,[[10,[1]],"schedule_id"]],[170,[[10,[1]],"started_at"]]]]]]]]"#
        );
        assert_eq!(text(&Term::table("t").create_index("name", &["name"])), r#"[75,[[15,["t"]],"name"]]"#);
    }
}
