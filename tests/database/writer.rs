//! Random mutations of one table, written by another driver than the server's.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use reql::cmd::{Conflict, insert};
use reql::{Command, Session, r};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::rows::{KEYS, key_value, row};
use crate::support::rethinkdb::ask::{ask, session};

/// Before a session is made anew.
const PAUSE: Duration = Duration::from_millis(20);

/// Writes to one table.
pub(crate) struct Writer {
    pub(crate) table: &'static str,
    pub(crate) database: String,
    pub(crate) port: u16,
    random: RefCell<fastrand::Rng>,
    stamp: Cell<u64>,
    /// Mutations that the database has confirmed.
    pub(crate) confirmed: Cell<usize>,
    /// Mutations that were refused, or of which nobody knows.
    pub(crate) failed: Cell<usize>,
}

impl Writer {
    pub(crate) fn new(table: &'static str, database: &str, port: u16, seed: u64) -> Self {
        Self {
            table,
            database: database.to_owned(),
            port,
            random: RefCell::new(fastrand::Rng::with_seed(seed)),
            stamp: Cell::new(0),
            confirmed: Cell::new(0),
            failed: Cell::new(0),
        }
    }

    fn rows(&self) -> Command {
        r.db(self.database.clone()).table(self.table)
    }

    /// Writes until so many mutations are confirmed. A session that failed is thrown away.
    pub(crate) async fn write(&self, mutations: usize) {
        let mut session_now: Option<Session> = None;
        let goal = self.confirmed.get() + mutations;
        while self.confirmed.get() < goal {
            let session = match &session_now {
                Some(session) => session,
                None => match session("127.0.0.1", self.port).await {
                    Ok(session) => session_now.insert(session),
                    Err(_) => {
                        sleep(PAUSE).await;
                        continue;
                    }
                },
            };
            match ask(session, self.mutation()).await {
                Ok(_) => self.confirmed.set(self.confirmed.get() + 1),
                Err(_) => {
                    self.failed.set(self.failed.get() + 1);
                    session_now = None;
                    sleep(PAUSE).await;
                }
            }
        }
    }

    fn stamp(&self) -> u64 {
        self.stamp.set(self.stamp.get() + 1);
        self.stamp.get()
    }

    fn row(&self, number: u64) -> Value {
        row(self.table, number, self.stamp(), &mut self.random.borrow_mut())
    }

    fn mutation(&self) -> Command {
        let (number, choice) = {
            let mut random = self.random.borrow_mut();
            (random.u64(..KEYS), random.u32(..100))
        };
        let replace = || insert::Options::new().conflict(Conflict::Replace);
        let key = key_value(self.table, number);
        match choice {
            0..45 => self.rows().insert(r.args((self.row(number), replace()))),
            // Nothing where there is no such row.
            45..65 => self.rows().get(key).update(self.row(number)),
            65..85 => self.rows().get(key).delete(()),
            85..92 => {
                let rows: Vec<Value> = (0..5).map(|more| self.row((number + 7 * more) % KEYS)).collect();
                self.rows().insert(r.args((json!(rows), replace())))
            }
            // Nothing, or a row that comes back as it was.
            92..96 => self.rows().get(key).update(json!({})),
            96..98 => self.rows().update(json!({"touched": self.stamp()})),
            // Several at once.
            _ => {
                let until = key_value(self.table, (number + 3) % KEYS);
                self.rows().between(r.args((key, until))).delete(())
            }
        }
    }
}
