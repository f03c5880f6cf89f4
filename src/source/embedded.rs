//! The embedded store as its own source.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use serde_json::Value;

use super::{Changes, Source, SourceError, Written, WrittenGroup};
use crate::catalog::stored_table;
use crate::change::Table;
use crate::feed::Feeds;
use crate::store::{Index, Query, QueryResult, Store, StoreError, SubmittedGroup, Unit, UnitResult, WriteHandle, read};
use crate::task;

/// The embedded store as its own source.
#[derive(Debug)]
pub struct Embedded {
    store: Store,
    writer: WriteHandle,
    feeds: Arc<Feeds>,
}

impl Embedded {
    /// Reads `store`, and writes by `writer`; what is written comes by `feeds`.
    pub fn new(store: Store, writer: WriteHandle, feeds: Arc<Feeds>) -> Self {
        Self { store, writer, feeds }
    }
}

fn written(result: Result<UnitResult, StoreError>) -> Written {
    Written { result: result.map_err(SourceError::from), visible: None }
}

impl Source for Embedded {
    fn write(&self, unit: Unit) -> BoxFuture<'static, Written> {
        match self.writer.submit(unit) {
            Ok(result) => async move { written(result.await.unwrap_or(Err(StoreError::Stopped))) }.boxed(),
            Err(error) => ready(written(Err(error))).boxed(),
        }
    }

    fn write_all(&self, units: Vec<Unit>) -> Vec<WrittenGroup> {
        let group = |SubmittedGroup { units, results }| {
            let results = async move {
                let results = results.await.unwrap_or_else(|_| vec![Err(StoreError::Stopped); units]);
                results.into_iter().map(written).collect()
            };
            WrittenGroup { units, results: results.boxed() }
        };
        self.writer.submit_all(units).into_iter().map(group).collect()
    }

    fn query(&self, query: Query, bytes_max: usize) -> BoxFuture<'static, Result<QueryResult, SourceError>> {
        let store = self.store.clone();
        async move {
            let result = task::blocking(move || read(&store, |snapshot| snapshot.query(&query, bytes_max))).await;
            result.map_err(SourceError::from)
        }
        .boxed()
    }

    fn keeps_order(&self) -> bool {
        true
    }

    /// The first member is enough: who is told reads again, and that is no harm.
    fn changes(&self, table: &Table, index: &'static Index, prefix: Vec<Value>) -> Changes {
        let member = index.members[0];
        let value = prefix.into_iter().next().expect("a part of an index is named by a value");
        let secrets = stored_table(table.name()).map_or(&[][..], |table| table.secrets);
        Changes::of(self.feeds.bell(table, secrets, member, value))
    }
}
