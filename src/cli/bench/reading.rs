//! Reading a table from its beginning: the scenarios `join` and `snapshot`, in which nothing changes.

use std::time::Duration;

use anyhow::{bail, ensure};
use bytes::Bytes;
use prost::Message as _;

use super::attended::{Attend, Attended};
use super::board::PATIENCE;
use super::connection::Address;
use super::engine::{Answer, Audience, Engine, Nanos, Stop};
use super::event::{Step, TableStep};
use super::fan_out::Plan;
use super::frame::Opcode;
use super::page;
use super::subject::Subject;
use super::usage::{Usage, Used};
use super::wire::BARE_REPEAT;
use crate::client::Client;
use crate::proto::{self, request::Command};

/// The table that is read: its rows are small, and any number of them can be imported.
const TABLE: &str = "domain_login";
const IMPORT_REQUEST_ROWS: usize = 500;
const IMPORT_ROWS: usize = 50_000;

/// Fills the table with `rows` rows, whose events have about `payload_bytes`.
pub(super) async fn fill(url: &str, rows: usize, payload_bytes: usize) -> anyhow::Result<()> {
    let mut client = Client::connect(url).await?;
    let numbers: Vec<usize> = (0..rows).collect();
    for import in numbers.chunks(IMPORT_ROWS) {
        for request in import.chunks(IMPORT_REQUEST_ROWS) {
            let is_last = request.last() == import.last();
            let request = proto::RequestImportRows {
                table: TABLE.to_owned(),
                rows: request.iter().map(|number| row(*number, payload_bytes)).collect(),
                commit: Some(is_last),
                ..Default::default()
            };
            let reply = client.request(Command::ImportRows(request)).await?;
            let Some(proto::response::Body::ImportRows(reply)) = reply else { bail!("an import without an answer") };
            if let Some(error) = reply.errors.first() {
                bail!("a row cannot be imported: {}", error.message());
            }
        }
    }
    client.close().await;
    Ok(())
}

/// What an event has beside the text of the row, about.
const ENVELOPE_BYTES: usize = 50;

fn row(number: usize, payload_bytes: usize) -> Bytes {
    let text = |filling: &str| {
        format!(
            "{{\"domain\":\"d{number:08}.example\",\"login_test\":null,\"login_url\":\"http://{filling}\",\"users\":[]}}"
        )
    };
    let filling = (payload_bytes.saturating_sub(ENVELOPE_BYTES)).saturating_sub(text("").len());
    text(&"x".repeat(filling.max(1))).into()
}

/// What one client has of the table.
#[derive(Debug, Default)]
struct Reader {
    rows: u64,
    /// The number of the newest event.
    number: u64,
    last_key: Vec<u8>,
    ready_at: Option<Nanos>,
}

/// All who read.
#[derive(Debug, Default)]
struct Readers {
    readers: Vec<Reader>,
    /// How many rows there are; the count of ready frames of a bare peer.
    rows: u64,
    is_bare: bool,
    bytes: u64,
    ready: usize,
    last_arrival: Nanos,
}

impl Readers {
    fn has_row(&mut self, from: usize, step: &Step<'_>) -> anyhow::Result<()> {
        let reader = &mut self.readers[from];
        ensure!(step.key > &reader.last_key[..], "a row came twice, or out of order");
        reader.last_key.clear();
        reader.last_key.extend_from_slice(step.key);
        reader.rows += 1;
        Ok(())
    }

    fn is_ready(&mut self, from: usize, count: u64, now: Nanos) -> anyhow::Result<()> {
        let reader = &mut self.readers[from];
        ensure!(
            reader.rows == self.rows && count == self.rows,
            "a client got {} rows and was told {count}, and there are {}",
            reader.rows,
            self.rows,
        );
        reader.ready_at = Some(now);
        self.ready += 1;
        Ok(())
    }
}

impl Audience for Readers {
    fn hear(&mut self, from: usize, message: &[u8], now: Nanos) -> anyhow::Result<Option<Answer>> {
        self.last_arrival = now;
        self.bytes += message.len() as u64;
        if self.is_bare {
            self.readers[from].rows += 1;
            if self.readers[from].rows == self.rows {
                self.is_ready(from, self.rows, now)?;
            }
            return Ok(None);
        }
        let Some(step) = Step::of_message(message) else {
            super::wire::response(message)?;
            return Ok(None);
        };
        let reader = &mut self.readers[from];
        ensure!(step.number == reader.number + 1, "event {} came behind {}", step.number, reader.number);
        reader.number = step.number;
        match step.what {
            TableStep::Row => self.has_row(from, &step)?,
            TableStep::Ready { count } => self.is_ready(from, count, now)?,
            TableStep::Reset => bail!("the server began anew"),
            TableStep::Other => {}
        }
        Ok(None)
    }
}

/// What came of clients that read at once.
#[derive(Debug)]
pub(super) struct Joined {
    pub(super) clients: usize,
    pub(super) rows: u64,
    /// Until the first and the last of them had everything.
    pub(super) first_ready: Duration,
    pub(super) all_ready: Duration,
    pub(super) bytes: u64,
    pub(super) used: Used,
    /// Pages of first rows that were read from the store, and that were had without reading, where the server counts them.
    pub(super) pages: Option<(u64, u64)>,
    /// The most memory that the server had in use meanwhile, and what it had before.
    pub(super) peak_bytes: Option<u64>,
    pub(super) before_bytes: Option<u64>,
}

impl Joined {
    /// The mean of several that did the same; `None` of none.
    pub(super) fn mean(all: Vec<Self>) -> Option<Self> {
        let count = u32::try_from(all.len()).ok()?;
        all.into_iter()
            .reduce(|one, other| Self {
                first_ready: one.first_ready + other.first_ready,
                all_ready: one.all_ready + other.all_ready,
                used: one.used + other.used,
                pages: one.pages.zip(other.pages).map(|(one, other)| (one.0 + other.0, one.1 + other.1)),
                ..other
            })
            .map(|sum| Self {
                first_ready: sum.first_ready / count,
                all_ready: sum.all_ready / count,
                used: sum.used / count,
                pages: sum.pages.map(|(read, shared)| (read / u64::from(count), shared / u64::from(count))),
                ..sum
            })
    }
}

/// Connections that have asked for nothing yet.
#[derive(Debug)]
struct Load {
    engine: Engine,
    readers: Readers,
}

impl Attend for Load {
    fn attend(&mut self, wait: Duration) -> anyhow::Result<()> {
        self.engine.turn(wait, &mut self.readers)
    }
}

impl Load {
    fn connect(address: &Address, clients: usize, readers: Readers, stop: Stop) -> anyhow::Result<Self> {
        let (mut engine, mut readers) = (Engine::new(stop)?, readers);
        readers.readers.resize_with(clients, Reader::default);
        engine.open(address, clients, &mut readers, |_, _| {})?;
        Ok(Self { engine, readers })
    }

    /// Lets everybody ask with `request`, and waits until all have everything; returns when the first and the last had.
    fn read(&mut self, request: &[u8]) -> anyhow::Result<(Duration, Duration)> {
        let begin = self.engine.now();
        self.readers.last_arrival = begin;
        for at in 0..self.readers.readers.len() {
            self.engine.send(at, request, Opcode::Binary)?;
        }
        while self.readers.ready < self.readers.readers.len() {
            self.engine.turn(Duration::from_millis(10), &mut self.readers)?;
            let silence = self.engine.now().saturating_sub(self.readers.last_arrival);
            ensure!(
                silence < 3 * PATIENCE.as_nanos() as u64,
                "{} of {} clients are READY, and nothing comes any more",
                self.readers.ready,
                self.readers.readers.len(),
            );
        }
        let ready_at = || self.readers.readers.iter().filter_map(|reader| reader.ready_at);
        let since = |moment: Option<Nanos>| Duration::from_nanos(moment.unwrap_or(begin).saturating_sub(begin));
        Ok((since(ready_at().min()), since(ready_at().max())))
    }
}

/// Lets `clients` clients read the table of `rows` rows at once.
pub(super) async fn join(subject: &Subject, plan: &Plan, clients: usize, rows: usize) -> anyhow::Result<Joined> {
    let options = proto::SubscribeOptions { include_document: Some(true), states: Some(true), ..Default::default() };
    let subscribe = proto::RequestSubscribeTable { table: TABLE.to_owned(), options: Some(options) };
    let command = Some(Command::SubscribeTable(subscribe));
    let request = proto::Request { request_id: 0, command }.encode_to_vec();
    let readers = Readers { rows: rows as u64, ..Readers::default() };
    read(subject, plan, clients, readers, request).await
}

/// Lets a bare peer send so many ready frames of `message_bytes` to each of `clients` clients.
pub(super) async fn repeat(
    subject: &Subject,
    plan: &Plan,
    clients: usize,
    frames: usize,
    message_bytes: usize,
) -> anyhow::Result<Joined> {
    let mut request = vec![BARE_REPEAT];
    request.extend_from_slice(&u32::try_from(frames)?.to_be_bytes());
    request.resize(request.len() + message_bytes.max(1), b'x');
    let readers = Readers { rows: frames as u64, is_bare: true, ..Readers::default() };
    read(subject, plan, clients, readers, request).await
}

async fn read(
    subject: &Subject,
    plan: &Plan,
    clients: usize,
    readers: Readers,
    request: Vec<u8>,
) -> anyhow::Result<Joined> {
    let rows = readers.rows;
    let (address, core) = (subject.address.clone(), plan.cores.map(|cores| cores.generator));
    let load =
        Attended::start(Stop::default(), core, move |stop| Load::connect(&address, clients, readers, stop)).await?;
    let probe = subject.probe.clone();
    if let Some(probe) = &probe {
        // Where it cannot be forgotten the peak is that of the whole run.
        let _ = probe.forget_peak();
    }
    let before_bytes = probe.as_ref().map(|probe| probe.resident_bytes()).transpose()?;
    let pages_before = pages(subject)?;
    let server = probe.clone();
    let (ready, bytes, used) = load
        .run(move |load| {
            let before = Usage::read(server.as_ref())?;
            let ready = load.read(&request)?;
            Ok((ready, load.readers.bytes, before.until(&Usage::read(server.as_ref())?)))
        })
        .await?;
    let pages = pages_before.zip(pages(subject)?);
    Ok(Joined {
        clients,
        rows,
        first_ready: ready.0,
        all_ready: ready.1,
        bytes,
        used,
        pages: pages.map(|(before, after)| (after.0 - before.0, after.1 - before.1)),
        peak_bytes: probe.as_ref().map(|probe| probe.peak_bytes()).transpose()?,
        before_bytes,
    })
}

const PAGES_READ: &str = "starfeed_pages_read";
const PAGES_SHARED: &str = "starfeed_pages_shared";

/// How many pages were read and shared so far; `None` of a server that does not count them.
fn pages(subject: &Subject) -> anyhow::Result<Option<(u64, u64)>> {
    if subject.is_bare() {
        return Ok(None);
    }
    let metrics = page::read(subject.address.authority())?;
    Ok(page::counter(&metrics, PAGES_READ).zip(page::counter(&metrics, PAGES_SHARED)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(number: u64, event: proto::Event) -> Vec<u8> {
        let event = proto::Event { number: Some(number), ..event };
        let message = proto::server_message::MessageType::Event(event);
        proto::ServerMessage { message_type: Some(message) }.encode_to_vec()
    }

    fn row_event(key: &str) -> proto::Event {
        let value = proto::table_key::Value::Text(key.to_owned());
        let body = proto::TableEvent {
            event_type: Some(proto::table_event::EventType::Added.into()),
            key: Some(proto::TableKey { value: Some(value) }),
            document: Some("{}".to_owned()),
            ..Default::default()
        };
        proto::Event { body: Some(proto::event::Body::TableEvent(body)), ..Default::default() }
    }

    fn ready_event(count: u64) -> proto::Event {
        let state = proto::SubscriptionState {
            kind: Some(proto::subscription_state::Kind::Ready.into()),
            count: Some(count),
            ..Default::default()
        };
        proto::Event { state: Some(state), ..Default::default() }
    }

    fn hear(events: Vec<proto::Event>) -> anyhow::Result<Readers> {
        let mut readers = Readers { rows: 2, ..Readers::default() };
        readers.readers.resize_with(1, Reader::default);
        for (number, event) in (1..).zip(events) {
            readers.hear(0, &message(number, event), number)?;
        }
        Ok(readers)
    }

    #[test]
    fn who_has_every_row_is_ready() {
        let readers = hear(vec![row_event("a"), row_event("b"), ready_event(2)]).expect("all is well");
        assert_eq!((readers.ready, readers.readers[0].ready_at), (1, Some(3)));
    }

    #[test]
    fn what_is_missing_or_repeated_is_noticed() {
        assert!(hear(vec![row_event("a"), ready_event(2)]).is_err(), "a row is missing");
        assert!(hear(vec![row_event("a"), row_event("a")]).is_err(), "a row came twice");
        assert!(hear(vec![row_event("a"), row_event("b"), ready_event(3)]).is_err(), "the server counts another one");
        let mut readers = hear(vec![row_event("a")]).expect("all is well");
        assert!(readers.hear(0, &message(3, row_event("b")), 3).is_err(), "an event is missing");
    }

    #[test]
    fn a_row_is_as_long_as_asked_for() {
        assert_eq!(row(5, 300).len() + ENVELOPE_BYTES, 300);
        assert!(serde_json::from_slice::<serde_json::Value>(&row(123, 10)).is_ok());
    }
}
