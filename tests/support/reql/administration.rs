//! Terms about databases, tables and indexes.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::evaluate::{Evaluated, Evaluator, Found};
use super::protocol::ReqlError;
use super::term::{self, Term};
use super::world::{Table, TableName};

impl Evaluator<'_> {
    pub(super) fn administration(&mut self, term: &Term) -> Evaluated<Value> {
        match term.number {
            term::DB_LIST => Ok(self.world.databases.keys().cloned().map(Value::from).collect()),
            term::DB_CREATE => {
                self.check_may_write()?;
                let name = self.text(term, 0)?;
                if self.world.databases.contains_key(&name) {
                    return Err(ReqlError::failed(format!("Database `{name}` already exists.")));
                }
                self.world.databases.insert(name, BTreeMap::new());
                Ok(json!({"config_changes": [], "dbs_created": 1}))
            }
            term::DB_DROP => {
                self.check_may_write()?;
                let name = self.text(term, 0)?;
                let tables: Vec<_> = self.world.database(&name)?.keys().cloned().collect();
                for table in &tables {
                    self.world.drop_table(&TableName::new(&name, table))?;
                }
                self.world.databases.remove(&name);
                Ok(json!({"config_changes": [], "dbs_dropped": 1, "tables_dropped": tables.len()}))
            }
            term::TABLE_LIST => {
                let database = self.database_of(term, 0)?;
                Ok(self.world.database(&database)?.keys().cloned().map(Value::from).collect())
            }
            term::TABLE_CREATE => self.create_table(term),
            term::TABLE_DROP => {
                self.check_may_write()?;
                let name = self.named_table(term)?;
                self.world.drop_table(&name)?;
                Ok(json!({"config_changes": [], "tables_dropped": 1}))
            }
            term::INDEX_CREATE => self.create_index(term),
            term::INDEX_LIST => {
                let table = self.table_of(term)?;
                Ok(self.world.table(&table)?.indexes.keys().cloned().map(Value::from).collect())
            }
            term::INDEX_WAIT => {
                let table = self.table_of(term)?;
                let indexes = &self.world.table(&table)?.indexes;
                let ready = |name: &String| json!({"geo": false, "index": name, "multi": false, "outdated": false, "ready": true});
                Ok(indexes.keys().map(ready).collect())
            }
            term::WAIT => match self.found(term, 0)? {
                Found::Table(table) => self.world.table(&table).map(|_| json!({"ready": 1})),
                Found::Database(database) => {
                    self.world.database(&database).map(|tables| json!({"ready": tables.len()}))
                }
                _ => Err(ReqlError::logic("Expected type TABLE or DATABASE.")),
            },
            term::INFO => self.info(term),
            unknown => Err(ReqlError::compile(format!("The scripted server does not know term {unknown}."))),
        }
    }

    fn create_table(&mut self, term: &Term) -> Evaluated<Value> {
        self.check_may_write()?;
        let name = self.named_table(term)?;
        let primary_key = match term.option("primary_key") {
            Some(value) => self.value(value)?,
            None => "id".into(),
        };
        let tables = self.world.database(&name.database)?;
        if tables.contains_key(&name.table) {
            return Err(ReqlError::failed(format!("Table `{}.{}` already exists.", name.database, name.table)));
        }
        tables.insert(name.table, Table::new(primary_key.as_str().unwrap_or("id")));
        Ok(json!({"config_changes": [], "tables_created": 1}))
    }

    fn create_index(&mut self, term: &Term) -> Evaluated<Value> {
        self.check_may_write()?;
        let (name, index) = (self.table_of(term)?, self.text(term, 1)?);
        let table = self.world.table(&name)?;
        if table.indexes.contains_key(&index) || index == table.primary_key {
            return Err(ReqlError::failed(format!(
                "Index `{index}` already exists on table `{}.{}`.",
                name.database, name.table
            )));
        }
        table.indexes.insert(index, term.arguments.get(2).cloned());
        Ok(json!({"created": 1}))
    }

    fn info(&mut self, term: &Term) -> Evaluated<Value> {
        match self.found(term, 0)? {
            Found::Table(name) => {
                let table = self.world.table(&name)?;
                Ok(json!({
                    "db": {"id": uuid::Uuid::nil().to_string(), "name": name.database, "type": "DB"},
                    "doc_count_estimates": [table.rows.len()],
                    "id": table.id,
                    "indexes": table.indexes.keys().collect::<Vec<_>>(),
                    "name": name.table,
                    "primary_key": table.primary_key,
                    "type": "TABLE",
                }))
            }
            Found::Database(name) => Ok(json!({"id": uuid::Uuid::nil().to_string(), "name": name, "type": "DB"})),
            _ => Err(ReqlError::compile("The scripted server knows INFO of tables and databases only.")),
        }
    }

    /// A database that is named by an argument, or else the default one.
    fn database_of(&mut self, term: &Term, others: usize) -> Evaluated<String> {
        if term.arguments.len() == others {
            return Ok(self.default_database.clone());
        }
        match self.found(term, 0)? {
            Found::Database(name) => Ok(name),
            _ => Err(ReqlError::logic("Expected type DATABASE.")),
        }
    }

    /// The name of a table that need not exist, and that comes last.
    fn named_table(&mut self, term: &Term) -> Evaluated<TableName> {
        let database = self.database_of(term, 1)?;
        let table = self.text(term, term.arguments.len().saturating_sub(1))?;
        Ok(TableName { database, table })
    }
}
