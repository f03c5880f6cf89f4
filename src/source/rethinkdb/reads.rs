//! What commands read: reads as data become queries, and answers become rows.

use std::ops::Bound;

use futures_util::stream::{FuturesOrdered, StreamExt};
use serde_json::value::RawValue;

use super::commands::stored;
use super::reql::{Connection, ReqlError, Term};
use super::{range, rows};
use crate::catalog::StoredTable;
use crate::change::{Key, Row, Seq};
use crate::row_problems::RowProblems;
use crate::store::{Condition, Direction, Order, PageBudget, Part, Query, QueryResult, RangeQuery, RangeStart};

/// Rows that are asked for by their keys before the first of them is there.
const ROWS_AT_A_TIME: usize = 4;

/// Reads what a command asks for.
pub(super) async fn query(
    connection: &Connection,
    query: &Query,
    bytes_max: usize,
    problems: &RowProblems,
) -> Result<QueryResult, ReqlError> {
    let mut table = stored(query.table());
    if let Query::After { .. } = query {
        // Who reads all of a table wants to have all of it.
        table.omitted = &[];
    }
    let reader = Reader { connection, table, problems };
    match query {
        Query::Get { key, .. } => {
            let rows: Vec<Row> = reader.get(key).await?.and_then(|row| reader.keep(&row)).into_iter().collect();
            Ok(QueryResult { total: rows.len(), rows, ..QueryResult::default() })
        }
        Query::List { order, offset, limit, .. } => {
            let all = match order {
                Order::Key => reader.by_key(),
                Order::Member(member) => reader.by_text(member),
            };
            reader.page(all, reader.table(), (*offset, *limit), bytes_max).await
        }
        Query::After { after, budget, .. } => {
            let table = reader.table();
            let rest = after.as_ref().map_or(table.clone(), |key| table.after(key));
            reader.first(rest.order_by_index(reader.table.primary_key), *budget).await
        }
        Query::Range(query) => {
            let (all, counted) = reader.range(query);
            match query.part {
                Part::Page { offset, limit } => reader.page(all, counted, (offset, limit), bytes_max).await,
                Part::First(budget) => reader.first(all, budget).await,
            }
        }
        Query::Rows { keys, bytes, .. } => reader.rows(keys, (*bytes).min(bytes_max)).await,
    }
}

struct Reader<'a> {
    connection: &'a Connection,
    table: StoredTable,
    problems: &'a RowProblems,
}

impl Reader<'_> {
    fn table(&self) -> Term {
        Term::table(self.table.name)
    }

    fn by_key(&self) -> Term {
        self.table().order_by_index(self.table.primary_key)
    }

    /// All rows in the order of a text member, and behind them those that have no text there, in the order of their keys: without them
    /// a list would hide rows that it counts.
    fn by_text(&self, member: &str) -> Term {
        let is_text = Term::member_of_row(member).type_name().is("STRING".into());
        let with_text = match self.table.indexes.iter().find(|index| *index.members == [member]) {
            // No type comes behind text.
            Some(index) => {
                let texts = self.table().between(index.name, Bound::Included(Term::datum("".into())), Bound::Unbounded);
                texts.order_by_index(index.name)
            }
            None => self.table().filter(is_text.clone()).order_by_members(member, self.table.primary_key),
        };
        with_text.followed_by(self.by_key().filter(is_text.negated()))
    }

    /// The rows of a part of an index in their order, and in any order, to be counted.
    fn range(&self, query: &RangeQuery) -> (Term, Term) {
        let RangeQuery { index, prefix, start, direction, condition, .. } = query;
        let part = range::part(self.table.name, index, prefix, start);
        let open = index.members.get(prefix.len()..).unwrap_or_default();
        let (is_indexed, holds) = (range::is_indexed(open), range::holds(condition));
        let wanted = Term::all(vec![is_indexed.clone(), holds.clone()]);
        let counted = part.clone().filter(wanted.clone());
        let ordered = match direction {
            Direction::Ascending => part.order_by_index(index.name),
            Direction::Descending => part.order_by_index_from_behind(index.name),
        };
        let ordered = ordered.filter(wanted);
        let is_all = prefix.is_empty() && matches!((start, direction), (RangeStart::First, Direction::Descending));
        if !is_all {
            return (ordered, counted);
        }
        let by_key = self.table().order_by_index_from_behind(self.table.primary_key);
        let left_out = by_key.filter(Term::all(vec![is_indexed.negated(), holds.clone()]));
        let counted = match condition {
            Condition::Always => self.table(),
            _ => self.table().filter(holds),
        };
        (ordered.followed_by(left_out), counted)
    }

    /// A page of `all`, and how many rows `counted` has.
    async fn page(
        &self,
        all: Term,
        counted: Term,
        (offset, limit): (usize, usize),
        bytes_max: usize,
    ) -> Result<QueryResult, ReqlError> {
        let (page, count) = (all.page(offset, limit).without(self.table.omitted), counted.count());
        let (rows, total) = tokio::try_join!(self.connection.rows(&page, bytes_max), self.number(&count))?;
        let rows = rows.iter().filter_map(|row| self.keep(row)).collect();
        Ok(QueryResult { rows, total, ..QueryResult::default() })
    }

    /// The first rows of `all`, without an end where there may be more.
    async fn first(&self, all: Term, budget: PageBudget) -> Result<QueryResult, ReqlError> {
        let all = all.without(self.table.omitted);
        let (rows, is_complete) = self.connection.first_rows(&all, budget, |row| self.keep(row)).await?;
        Ok(QueryResult { rows, is_complete, ..QueryResult::default() })
    }

    /// The rows of `keys`, until they have so many bytes.
    async fn rows(&self, keys: &[Key], mut bytes: usize) -> Result<QueryResult, ReqlError> {
        let mut rows = Vec::new();
        let mut left = keys.iter();
        let mut asked: FuturesOrdered<_> = left.by_ref().take(ROWS_AT_A_TIME).map(|key| self.get(key)).collect();
        while let Some(row) = asked.next().await {
            if let Some(row) = row?
                && let Some(kept) = self.keep(&row)
            {
                rows.push(kept);
                bytes = bytes.saturating_sub(row.get().len());
                if bytes == 0 {
                    let is_complete = asked.is_empty() && left.len() == 0;
                    return Ok(QueryResult { rows, is_complete, ..QueryResult::default() });
                }
            }
            asked.extend(left.next().map(|key| self.get(key)));
        }
        Ok(QueryResult { rows, is_complete: true, ..QueryResult::default() })
    }

    async fn get(&self, key: &Key) -> Result<Option<Box<RawValue>>, ReqlError> {
        let row = self.table().get(key);
        let row = match self.table.omitted {
            [] => row,
            // Nothing has no members that it could be without.
            omitted => row.without(omitted).or_null(),
        };
        let row = self.connection.value(&row).await?;
        Ok((row.get() != "null").then_some(row))
    }

    async fn number(&self, query: &Term) -> Result<usize, ReqlError> {
        let value = self.connection.value(query).await?;
        serde_json::from_str(value.get()).map_err(|_| ReqlError::protocol("a number was asked for"))
    }

    /// The row, if it can be read; otherwise it is reported.
    fn keep(&self, row: &RawValue) -> Option<Row> {
        match rows::read(&self.table, row) {
            Ok((key, document)) => Some(Row { key, version: Seq::ZERO, document }),
            Err(bad) => {
                self.problems.report(&self.table.table(), &bad.key_or_unknown(), &bad.problem);
                None
            }
        }
    }
}
