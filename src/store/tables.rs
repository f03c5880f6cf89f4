//! The tables of a store: their numbers, row counts, and how far back their log reaches.

use std::collections::HashMap;
use std::sync::Arc;

use imbl::OrdMap;
use prost::Message;
use redb::ReadOnlyTable;

use super::journal::{JournalState, SettledUpTo};
use super::layout::{
    META_EPOCH, META_FORMAT, META_JOURNAL, META_JOURNAL_OPEN, META_LAST_SEQ, META_LOG_BYTES, META_SECRET, META_SETTLED,
    TableRecord,
};
use super::{StoreError, StoreSecret, TableIndexes, index};
use crate::change::{Epoch, Position, Seq, Table};

type Meta = ReadOnlyTable<&'static str, &'static [u8]>;

/// All tables of a store, as they are kept in memory. A copy shares what is not changed afterwards.
#[derive(Clone, Debug, Default)]
pub(super) struct Tables {
    records: OrdMap<u32, Arc<TableRecord>>,
    numbers: Arc<HashMap<String, u32>>,
}

impl Tables {
    pub(super) fn add(&mut self, number: u32, record: TableRecord) {
        Arc::make_mut(&mut self.numbers).insert(record.path.clone(), number);
        self.records.insert(number, Arc::new(record));
    }

    /// The number of `table`: a new one, with those of `indexes` that are its own, if it is not known yet.
    pub(super) fn number(&mut self, table: &Table, indexes: &[TableIndexes]) -> u32 {
        if let Some(&number) = self.numbers.get(table.path()) {
            return number;
        }
        let number = u32::try_from(self.records.len()).expect("a store has fewer than 2^32 tables");
        let path = table.path().to_owned();
        let indexes = index::records_of(&path, indexes);
        self.add(number, TableRecord { path, rows: 0, trimmed_to: 0, indexes });
        number
    }

    pub(super) fn known_number(&self, table: &Table) -> Option<u32> {
        self.numbers.get(table.path()).copied()
    }

    /// All tables, by number.
    pub(super) fn records(&self) -> impl Iterator<Item = (u32, &TableRecord)> {
        self.records.iter().map(|(&number, record)| (number, record.as_ref()))
    }

    pub(super) fn record(&self, number: u32) -> Result<&TableRecord, StoreError> {
        let record = self.records.get(&number).map(Arc::as_ref);
        record.ok_or_else(|| StoreError::Damaged(format!("there is no table number {number}")))
    }

    pub(super) fn record_mut(&mut self, number: u32) -> Result<&mut TableRecord, StoreError> {
        let record = self.records.get_mut(&number).map(Arc::make_mut);
        record.ok_or_else(|| StoreError::Damaged(format!("there is no table number {number}")))
    }

    pub(super) fn table(&self, number: u32) -> Result<Table, StoreError> {
        let record = self.record(number)?;
        match record.path.split_once('/') {
            Some((namespace, name)) => Ok(Table::in_namespace(namespace, name)),
            None => Err(StoreError::Damaged(format!("a table is called {:?}", record.path))),
        }
    }

    pub(super) fn decode_record(bytes: &[u8]) -> Result<TableRecord, StoreError> {
        TableRecord::decode(bytes).map_err(|error| StoreError::Damaged(format!("a table record: {error}")))
    }

    pub(super) fn position(meta: &Meta) -> Result<Position, StoreError> {
        Ok(Position {
            epoch: Epoch(Self::epoch_number(meta)?),
            seq: Seq(Self::number_in(meta, META_LAST_SEQ)?.unwrap_or(0)),
        })
    }

    pub(super) fn log_bytes(meta: &Meta) -> Result<u64, StoreError> {
        Ok(Self::number_in(meta, META_LOG_BYTES)?.unwrap_or(0))
    }

    /// What the database says of its journal.
    pub(super) fn journal(meta: &Meta) -> Result<JournalState, StoreError> {
        let is_open = Self::number_in(meta, META_JOURNAL_OPEN)? == Some(1);
        let settled = match Self::number_in(meta, META_SETTLED)? {
            Some(settled) => SettledUpTo::Generation(settled),
            None => match Self::number_in(meta, META_JOURNAL)? {
                Some(open) if is_open => SettledUpTo::Before(open),
                closed => SettledUpTo::Generation(closed.unwrap_or(0)),
            },
        };
        Ok(JournalState { settled, is_open })
    }

    pub(super) fn format(meta: &Meta) -> Result<Option<u64>, StoreError> {
        Self::number_in(meta, META_FORMAT)
    }

    fn epoch_number(meta: &Meta) -> Result<u128, StoreError> {
        let damaged = || StoreError::Damaged("it has no epoch".to_owned());
        let value = meta.get(META_EPOCH)?.ok_or_else(damaged)?;
        let bytes: [u8; 16] = value.value().try_into().map_err(|_| damaged())?;
        Ok(u128::from_le_bytes(bytes))
    }

    pub(super) fn secret(meta: &Meta) -> Result<StoreSecret, StoreError> {
        let damaged = || StoreError::Damaged("it has no secret".to_owned());
        let value = meta.get(META_SECRET)?.ok_or_else(damaged)?;
        value.value().try_into().map(StoreSecret).map_err(|_| damaged())
    }

    fn number_in(meta: &Meta, name: &str) -> Result<Option<u64>, StoreError> {
        let Some(value) = meta.get(name)? else {
            return Ok(None);
        };
        let bytes: [u8; 8] =
            value.value().try_into().map_err(|_| StoreError::Damaged(format!("its {name} is not a number")))?;
        Ok(Some(u64::from_le_bytes(bytes)))
    }
}
