//! What is asked of the server, over a connection that is made again when it is lost.

use std::time::Duration;

use starfeed::client::{Client, ClientError};
use starfeed::proto::request::Command;
use starfeed::proto::response::Body;
use starfeed::proto::{RequestExportRows, RequestImportRows};

use super::row::{Row, row, text};

/// Before something that failed is tried again.
const PAUSE: Duration = Duration::from_millis(500);
/// Rows of one import: with bodies, they fit into one message.
const BATCH_ROWS: usize = 100;
/// Rows of one page that is read.
const PAGE_ROWS: i32 = 500;
/// How the refusal of an import begins if no repetition helps.
const NOT_ACCEPTED: &str = "nothing was written";

/// Why the server does not do something.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refusal(pub(crate) String);

/// The server.
pub(crate) struct Server {
    url: String,
    client: Option<Client>,
}

impl Server {
    pub(crate) async fn connect(url: &str) -> Result<Self, ClientError> {
        Ok(Self { url: url.to_owned(), client: Some(Client::connect(url).await?) })
    }

    /// Asks until there is an answer. What is asked twice because an answer was lost must do no harm.
    pub(crate) async fn ask(&mut self, command: Command) -> Result<Option<Body>, Refusal> {
        loop {
            let asked = match &mut self.client {
                Some(client) => client.request(command.clone()).await,
                None => match Client::connect(&self.url).await {
                    Ok(client) => {
                        self.client = Some(client);
                        continue;
                    }
                    Err(error) => Err(error),
                },
            };
            match asked {
                Ok(body) => return Ok(body),
                Err(ClientError::Refused(text)) => return Err(Refusal(text)),
                Err(error) => {
                    self.client = None;
                    println!("{error}; trying again");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Writes rows over what is there, and waits where the server cannot write now.
    pub(crate) async fn put(&mut self, table: &str, rows: impl IntoIterator<Item = Row>) -> Result<(), Refusal> {
        let rows: Vec<Vec<u8>> =
            rows.into_iter().map(|row| serde_json::to_vec(&row).expect("a row is always JSON")).collect();
        for batch in rows.chunks(BATCH_ROWS) {
            let rows = batch.iter().map(|row| row.clone().into()).collect();
            let import = RequestImportRows { table: table.to_owned(), rows, first_line: None, commit: Some(true) };
            while let Err(refusal) = self.ask(Command::ImportRows(import.clone())).await {
                if refusal.0.starts_with(NOT_ACCEPTED) {
                    return Err(Refusal(format!("{table}: {refusal}")));
                }
                println!("{table} cannot be written: {refusal}; trying again");
                tokio::time::sleep(PAUSE).await;
            }
        }
        Ok(())
    }

    /// Reads the rows of a table for which `is_wanted` holds, in the order of their keys. Unlike in subscriptions, nothing of
    /// them is left out: they can be written again.
    pub(crate) async fn read(
        &mut self,
        table: &str,
        mut is_wanted: impl FnMut(&Row) -> bool,
    ) -> Result<Vec<Row>, Refusal> {
        let mut rows = Vec::new();
        let mut after = None;
        loop {
            let request = RequestExportRows { table: table.to_owned(), after, limit: Some(PAGE_ROWS) };
            let Some(Body::ExportRows(page)) = self.ask(Command::ExportRows(request)).await? else {
                return Err(Refusal(format!("{table} was not read, though the server says so")));
            };
            for bytes in &page.rows {
                let value = serde_json::from_slice(bytes);
                let read = row(value.map_err(|error| Refusal(format!("{table} has a row that is no JSON: {error}")))?);
                if is_wanted(&read) {
                    rows.push(read);
                }
            }
            after = page.next;
            if after.is_none() {
                return Ok(rows);
            }
        }
    }

    /// Reads one row.
    pub(crate) async fn read_one(&mut self, table: &str, id: &str) -> Result<Option<Row>, Refusal> {
        Ok(self.read(table, |row| text(row, "id") == id).await?.pop())
    }
}
