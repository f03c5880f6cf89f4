//! Somebody who writes all the time, and knows of each write whether it was confirmed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;
use starfeed::proto::{self, request::Command};

use super::history::{Asked, GROUPS, domain};
use crate::support::raw::{RawClient, delete_login, set_login};

/// Rows of each writer.
const ROWS: u32 = 24;
/// Requests under way at a time.
const IN_FLIGHT: usize = 16;
const RETRY: Duration = Duration::from_millis(5);
/// Between two requests: readers and server share the machine with the writer.
const PAUSE: Duration = Duration::from_micros(500);

/// What writers and who directs them share.
#[derive(Debug, Default)]
pub(crate) struct Writing {
    pub(crate) is_over: AtomicBool,
    /// Requests that were confirmed.
    pub(crate) confirmed: AtomicU64,
}

/// What is known of a row.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    There,
    Gone,
    /// The last write of it was not answered.
    Open,
}

pub(crate) struct Writer<'a> {
    writing: &'a Writing,
    first_row: u32,
    random: fastrand::Rng,
    /// Of this writer only, so that nobody else writes the same.
    next_write: u64,
    next_unit: u64,
    rows: BTreeMap<u32, Known>,
    asked: Vec<Asked>,
}

pub(crate) fn url(write: u64) -> String {
    format!("https://group{}.example/{write}", write % GROUPS)
}

impl<'a> Writer<'a> {
    pub(crate) fn new(writing: &'a Writing, number: u32, seed: u64) -> Self {
        let first_row = number * ROWS;
        Self {
            writing,
            first_row,
            random: fastrand::Rng::with_seed(seed),
            next_write: u64::from(number) * 1_000_000_000 + 1,
            next_unit: 0,
            rows: (first_row..first_row + ROWS).map(|row| (row, Known::Gone)).collect(),
            asked: Vec::new(),
        }
    }

    /// Writes until it is over, over every end of the server; returns what it asked for, in order.
    pub(crate) fn run(mut self, address: &str) -> Vec<Asked> {
        while !self.is_over() {
            match RawClient::try_reach(address) {
                Ok(client) => self.write(&mut client.expect("whoever is there lets the writer in")),
                Err(_) => std::thread::sleep(RETRY),
            }
        }
        self.asked
    }

    fn is_over(&self) -> bool {
        self.writing.is_over.load(Ordering::Relaxed)
    }

    /// Writes until it is over or the server is gone.
    fn write(&mut self, client: &mut RawClient) {
        // The first and the last place in `asked` of each request that is not answered.
        let mut open: VecDeque<(i32, usize, usize)> = VecDeque::new();
        loop {
            let is_over = self.is_over();
            if !is_over && open.len() < IN_FLIGHT {
                let request_id = client.next_request_id();
                let first = self.asked.len();
                let command = self.next();
                open.push_back((request_id, first, self.asked.len()));
                if !client.try_ask(command) {
                    break;
                }
                std::thread::sleep(PAUSE);
                continue;
            }
            let Some(&(request_id, first, end)) = open.front() else { return };
            match client.try_response() {
                Some(answered) => assert_eq!(answered, request_id, "requests are answered in order"),
                None => break,
            }
            open.pop_front();
            for asked in &mut self.asked[first..end] {
                asked.is_confirmed = true;
            }
            self.writing.confirmed.fetch_add(1, Ordering::Relaxed);
        }
        for (_, first, end) in open {
            for asked in &self.asked[first..end] {
                self.rows.insert(asked.row, Known::Open);
            }
        }
    }

    fn next(&mut self) -> Command {
        self.next_unit += 1;
        let row = self.first_row + self.random.u32(0..ROWS);
        match self.random.u8(0..10) {
            0 | 1 if self.rows[&row] == Known::There => {
                self.ask(row, None);
                delete_login(&domain(row))
            }
            2 => self.several(),
            _ => {
                let write = self.set(row);
                set_login(&domain(row), &url(write))
            }
        }
    }

    /// Several rows in one transaction.
    fn several(&mut self) -> Command {
        let first = self.random.u32(0..ROWS - 4);
        let rows = (0..self.random.u32(2..5)).map(|nth| {
            let row = self.first_row + first + nth;
            let login_url = url(self.set(row));
            let row = json!({"domain": domain(row), "login_url": login_url, "login_test": null, "users": []});
            row.to_string().into_bytes().into()
        });
        let (table, rows) = ("domain_login".to_owned(), rows.collect());
        Command::ImportRows(proto::RequestImportRows { table, rows, first_line: None, commit: Some(true) })
    }

    fn set(&mut self, row: u32) -> u64 {
        let write = self.next_write;
        self.next_write += 1;
        self.ask(row, Some(write));
        write
    }

    fn ask(&mut self, row: u32, write: Option<u64>) {
        self.rows.insert(row, if write.is_some() { Known::There } else { Known::Gone });
        self.asked.push(Asked { row, write, unit: self.next_unit, is_confirmed: false });
    }
}
