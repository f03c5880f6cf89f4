//! Whether the database has what the server needs, and making what it lacks.

use serde::Deserialize;

use super::canary;
use super::reql::{Connection, Refusal, ReqlError, Term};
use crate::catalog::{Role, StoredTable, stored_tables};

/// What the database says of a table.
#[derive(Deserialize)]
struct TableInfo {
    primary_key: String,
    indexes: Vec<String>,
}

/// Why the database cannot be used as it is.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// It did not answer.
    #[error(transparent)]
    Database(#[from] ReqlError),
    /// It lacks something.
    #[error("the database {database} lacks {}; `starfeed init` makes what is missing, with a user who may do that", lacks.join(", "))]
    Lacks {
        /// Its name.
        database: String,
        /// What it lacks, by name.
        lacks: Vec<String>,
    },
    /// It has something that is not as it should be.
    #[error(
        "the table {table} of the database has the primary key {found}, and not {expected}: is that the database of a crawler?"
    )]
    PrimaryKey {
        /// The table.
        table: &'static str,
        /// The key that it has.
        found: String,
        /// The key that it should have.
        expected: &'static str,
    },
}

/// Checks that all tables and indexes are there that the server needs; returns whether there is a table for canaries.
pub(super) async fn check(connection: &Connection, database: &str) -> Result<bool, SchemaError> {
    let names = match table_names(connection, database).await {
        Ok(names) => names,
        Err(ReqlError::Refused { kind: Refusal::Unavailable, text }) if text.contains("does not exist") => {
            return Err(SchemaError::Lacks {
                database: database.to_owned(),
                lacks: vec!["everything: there is none".to_owned()],
            });
        }
        Err(error) => return Err(error.into()),
    };
    let mut lacks = Vec::new();
    for table in stored_tables().filter(|table| table.role != Role::Crawler) {
        if !names.iter().any(|name| name == table.name) {
            lacks.push(format!("the table {}", table.name));
            continue;
        }
        let info = info(connection, &table).await?;
        for index in table.indexes.iter().filter(|index| !info.indexes.iter().any(|name| name == index.name)) {
            lacks.push(format!("the index {} of {}", index.name, table.name));
        }
    }
    if lacks.is_empty() {
        Ok(names.iter().any(|name| name == canary::TABLE))
    } else {
        Err(SchemaError::Lacks { database: database.to_owned(), lacks })
    }
}

/// Makes the database, its tables and its indexes, as far as they are missing; tells `progress` of each.
pub(super) async fn create(
    connection: &Connection,
    database: &str,
    mut progress: impl FnMut(&str),
) -> Result<(), SchemaError> {
    let databases = connection.value(&Term::database_names()).await?;
    let databases: Vec<String> =
        serde_json::from_str(databases.get()).map_err(|_| ReqlError::protocol("names were asked for"))?;
    if !databases.iter().any(|name| name == database) {
        done(connection.value(&Term::create_database(database)).await)?;
        progress(&format!("the database {database}"));
    }
    let names = table_names(connection, database).await?;
    let missing = |name: &str| !names.iter().any(|known| known == name);
    for table in stored_tables() {
        if missing(table.name) {
            let created = Term::database(database).create_table(table.name, table.primary_key);
            done(connection.value(&created).await)?;
            progress(&format!("the table {}", table.name));
        }
        let info = info(connection, &table).await?;
        for index in table.indexes.iter().filter(|index| !info.indexes.iter().any(|name| name == index.name)) {
            done(connection.value(&Term::table(table.name).create_index(index.name, index.members)).await)?;
            progress(&format!("the index {} of {}", index.name, table.name));
        }
        // The answer is a list.
        connection.rows(&Term::table(table.name).wait_for_indexes(), usize::MAX).await?;
    }
    if missing(canary::TABLE) {
        done(connection.value(&Term::database(database).create_table(canary::TABLE, "id")).await)?;
        progress(&format!("the table {}", canary::TABLE));
    }
    Ok(())
}

/// What somebody else has made meanwhile is made.
fn done(result: Result<impl Sized, ReqlError>) -> Result<(), ReqlError> {
    match result {
        Err(ReqlError::Refused { text, .. }) if text.contains("already exists") => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Ok(()),
    }
}

async fn table_names(connection: &Connection, database: &str) -> Result<Vec<String>, ReqlError> {
    let names = connection.value(&Term::database(database).table_names()).await?;
    serde_json::from_str(names.get()).map_err(|_| ReqlError::protocol("names were asked for"))
}

async fn info(connection: &Connection, table: &StoredTable) -> Result<TableInfo, SchemaError> {
    let info = connection.value(&Term::table(table.name).info()).await?;
    let info: TableInfo = serde_json::from_str(info.get()).map_err(|_| ReqlError::protocol("a table was asked for"))?;
    if info.primary_key != table.primary_key {
        let (table, expected) = (table.name, table.primary_key);
        return Err(SchemaError::PrimaryKey { table, found: info.primary_key, expected });
    }
    Ok(info)
}
