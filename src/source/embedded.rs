//! The embedded store as its own source.

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};

use super::{Source, SourceError, Written};
use crate::store::{Query, QueryResult, Store, StoreError, Unit, WriteHandle, read};
use crate::task;

/// The embedded store as its own source.
#[derive(Debug)]
pub struct Embedded {
    store: Store,
    writer: WriteHandle,
}

impl Embedded {
    /// Reads `store`, and writes by `writer`.
    pub fn new(store: Store, writer: WriteHandle) -> Self {
        Self { store, writer }
    }
}

impl Source for Embedded {
    fn write(&self, unit: Unit) -> BoxFuture<'static, Written> {
        let written =
            |result: Result<_, StoreError>| Written { result: result.map_err(SourceError::from), visible: None };
        match self.writer.submit(unit) {
            Ok(result) => async move { written(result.await.unwrap_or(Err(StoreError::Stopped))) }.boxed(),
            Err(error) => ready(written(Err(error))).boxed(),
        }
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
}
