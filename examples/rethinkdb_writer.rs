//! Writes policies to a RethinkDB as a crawler's users would: upserts rows, then changes, deletes and restores some.
//!
//! ```text
//! cargo run --example rethinkdb_writer -- --host 127.0.0.1 --port 28015 --db starbelly --table policy --rows 100 --changes 1000 --rate 50
//! ```
//!
//! The database and the table are created if they are missing. Rows have the same ids each time, so that nothing piles
//! up. It uses the `reql` crate: whatever follows these rows is then not only tried against its own driver.

#![expect(clippy::print_stdout, reason = "printing is what this example is for")]

use std::time::{Duration, Instant};

use clap::Parser;
use futures_util::TryStreamExt;
use reql::cmd::{Conflict, connect, insert};
use reql::{Command, Session, r};
use serde_json::{Value, json};
use starfeed::clock::Clock;

/// Rows to begin with: what a policy looks like.
const POLICIES: &str = include_str!("rows/policy.ndjson");

/// One change in so many deletes a row.
const DELETES_ONE_IN: usize = 10;

#[derive(Debug, Parser)]
struct Arguments {
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    #[arg(long, default_value_t = 28015)]
    port: u16,
    #[arg(long, default_value = "admin")]
    user: String,
    #[arg(long, default_value = "")]
    password: String,
    #[arg(long, default_value = "starbelly")]
    db: String,
    #[arg(long, default_value = "policy")]
    table: String,
    /// Rows to upsert first.
    #[arg(long, default_value_t = 100)]
    rows: usize,
    /// Changes to make after that.
    #[arg(long, default_value_t = 1000)]
    changes: usize,
    /// Changes per second; 0 is as fast as it goes.
    #[arg(long, default_value_t = 50.0)]
    rate: f64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse();
    let writer = Writer::connect(&arguments).await?;
    let started = Instant::now();
    let templates: Vec<Value> = POLICIES.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let mut rows: Vec<Row> = Vec::new();
    for number in 0..arguments.rows {
        let row = Row::new(number, &templates[number % templates.len()]);
        writer.upsert(&row.document).await?;
        rows.push(row);
    }
    let (mut changed, mut deleted, mut restored) = (0, 0, 0);
    let mut due = tokio::time::Instant::now();
    for change in 0..arguments.changes {
        if arguments.rate > 0.0 {
            due += Duration::from_secs_f64(1.0 / arguments.rate);
            tokio::time::sleep_until(due).await;
        }
        if rows.is_empty() {
            break;
        }
        let at = fastrand::usize(..rows.len());
        let row = &mut rows[at];
        if !row.exists {
            restored += 1;
            row.revise(change);
            writer.upsert(&row.document).await?;
        } else if fastrand::usize(..DELETES_ONE_IN) == 0 {
            deleted += 1;
            row.exists = false;
            writer.delete(row.document["id"].clone()).await?;
        } else {
            changed += 1;
            row.revise(change);
            writer.update(&row.document).await?;
        }
    }
    println!(
        "{} rows upserted, {changed} changed, {deleted} deleted, {restored} restored in {:.1} s: {}.{} has {} of them",
        rows.len(),
        started.elapsed().as_secs_f64(),
        arguments.db,
        arguments.table,
        rows.iter().filter(|row| row.exists).count()
    );
    Ok(())
}

/// A row, and whether it is in the table.
struct Row {
    document: Value,
    exists: bool,
}

impl Row {
    fn new(number: usize, template: &Value) -> Self {
        let mut document = template.clone();
        document["id"] = format!("00000000-0000-4000-8000-{number:012x}").into();
        let name = template["name"].as_str().unwrap_or("Policy");
        document["name"] = format!("{name} {number}").into();
        let mut row = Self { document, exists: true };
        row.document["created_at"] = now();
        row.document["updated_at"] = now();
        row
    }

    fn revise(&mut self, change: usize) {
        self.exists = true;
        self.document["updated_at"] = now();
        self.document["limits"]["max_items"] = (change + 1).into();
    }
}

fn now() -> Value {
    let seconds = Clock.now().0 as f64 / 1000.0;
    json!({"$reql_type$": "TIME", "epoch_time": seconds, "timezone": "+00:00"})
}

/// Writes one row after the other: the driver's session answers one question at a time.
struct Writer {
    session: Session,
    db: String,
    table: String,
}

impl Writer {
    async fn connect(arguments: &Arguments) -> reql::Result<Self> {
        let options = connect::Options::new()
            .host(arguments.host.clone())
            .port(arguments.port)
            .user(arguments.user.clone())
            .password(arguments.password.clone());
        let session = r.connect(options).await?;
        let writer = Self { session, db: arguments.db.clone(), table: arguments.table.clone() };
        let databases = writer.ask(r.db_list()).await?;
        if !is_listed(&databases, &writer.db) {
            writer.ask(r.db_create(writer.db.clone())).await?;
        }
        let tables = writer.ask(r.db(writer.db.clone()).table_list()).await?;
        if !is_listed(&tables, &writer.table) {
            writer.ask(r.db(writer.db.clone()).table_create(writer.table.clone())).await?;
        }
        writer.ask(r.wait(writer.rows())).await?;
        Ok(writer)
    }

    fn rows(&self) -> Command {
        r.db(self.db.clone()).table(self.table.clone())
    }

    async fn upsert(&self, row: &Value) -> Result<(), Box<dyn std::error::Error>> {
        let options = insert::Options::new().conflict(Conflict::Replace);
        self.write(self.rows().insert(r.args((row, options)))).await
    }

    async fn update(&self, row: &Value) -> Result<(), Box<dyn std::error::Error>> {
        self.write(self.rows().get(&row["id"]).update(row)).await
    }

    async fn delete(&self, id: Value) -> Result<(), Box<dyn std::error::Error>> {
        self.write(self.rows().get(id).delete(())).await
    }

    /// A write is answered with what it did, and that may be an error.
    async fn write(&self, command: Command) -> Result<(), Box<dyn std::error::Error>> {
        let written = self.ask(command).await?;
        match written.iter().find_map(|answer| answer["first_error"].as_str()) {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }

    /// Reads the answer to its end: a stream that is dropped before leaves the session unusable.
    async fn ask(&self, command: Command) -> reql::Result<Vec<Value>> {
        command.run(&self.session).try_collect().await
    }
}

fn is_listed(answer: &[Value], name: &str) -> bool {
    answer.iter().filter_map(Value::as_array).flatten().any(|listed| listed == name)
}
