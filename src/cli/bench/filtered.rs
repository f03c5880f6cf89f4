//! The scenario `filtered`: very many subscriptions with filters, and changes that each are for about ten of them.
//!
//! Who has to get what is known beforehand, by trying every filter on every row. Changes leave alone what filters look at, so
//! that a change of a row goes to exactly those that the row matches.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use hdrhistogram::Histogram;
use prost::Message as _;

use super::attended::{Attend, Attended};
use super::board::{PATIENCE, latencies};
use super::connection::{Address, Outgoing};
use super::engine::{Answer, Audience, Engine, Nanos, Stop};
use super::event::{self, RowEvent};
use super::fan_out::{Memory, Plan, Run};
use super::filters::{Filter, Values, matching};
use super::frame::Opcode;
use super::pace::{Drive, Pace};
use super::page::{self, Buckets};
use super::process::Probe;
use super::sequence::Faults;
use super::subject::Subject;
use super::table::{self, Table};
use super::usage::Usage;
use crate::proto::{self, request::Command};

/// Rows that are changed in turn.
const ROWS: usize = 1_000;
/// Subscriptions that are asked for and not yet answered.
const UNANSWERED_MAX: usize = 20_000;
/// Rows that are made at a time.
const MADE_AT_A_TIME: u32 = 64;
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(60);
/// The request id of subscriptions without a filter.
const PLAIN: i32 = i32::MAX;
const BATCH_BYTES: usize = 64 * 1024;
const DELIVERY_SECONDS: &str = "starfeed_delivery_seconds";

/// What is known of every subscription and every change.
#[derive(Debug)]
pub(super) struct Ledger {
    filters: Vec<Filter>,
    rows: Vec<Values>,
    /// The ids of the rows that are there.
    ids: Vec<Option<Vec<u8>>>,
    /// How many filters each row matches.
    matching: Vec<u32>,
    connections: usize,
    /// By connection and subscription id: the number of the filter.
    subscriptions: Vec<Vec<u32>>,
    answered: usize,
    /// Connections that are subscribed to the list without a filter.
    plain: usize,
    /// By filter: the number behind the newest change that came for it; 0 when none has.
    next: Vec<u64>,
    /// By change: how many have it not yet, the writer's acceptance included. The first changes are the rows' creation.
    missing: Vec<u32>,
    /// When each change was due.
    due: Vec<Nanos>,
    incomplete: u64,
    repeated: u64,
    out_of_order: u64,
    first_counted: u64,
    delivered: u64,
    latency: Histogram<u64>,
    last_arrival: Nanos,
    drive: Drive,
    writer: Option<Outgoing>,
    name_bytes: usize,
    request: Vec<u8>,
}

impl Ledger {
    /// A ledger for `filters`, dealt out to so many connections, and `rows`, which are yet to be made.
    pub(super) fn new(
        filters: Vec<Filter>,
        rows: Vec<Values>,
        connections: usize,
        name_bytes: usize,
    ) -> anyhow::Result<Self> {
        let matching = matching(&filters, &rows);
        Ok(Self {
            connections,
            subscriptions: vec![Vec::new(); connections],
            answered: 0,
            plain: 0,
            next: vec![0; filters.len()],
            missing: Vec::new(),
            due: Vec::new(),
            incomplete: 0,
            repeated: 0,
            out_of_order: 0,
            first_counted: u64::MAX,
            delivered: 0,
            latency: latencies()?,
            last_arrival: 0,
            drive: Drive::Rest,
            writer: None,
            name_bytes,
            request: Vec::new(),
            ids: vec![None; rows.len()],
            filters,
            rows,
            matching,
        })
    }

    fn answer(&mut self, from: usize, message: &[u8], now: Nanos) -> anyhow::Result<()> {
        use proto::response::Body;
        use proto::server_message::MessageType;
        self.last_arrival = now;
        let Some(MessageType::Response(response)) = proto::ServerMessage::decode(message)?.message_type else {
            bail!("the server sent an event that is about no row")
        };
        ensure!(response.is_success, "the server refused: {}", response.error_message.unwrap_or_default());
        let request_id = usize::try_from(response.request_id)?;
        match response.body {
            Some(Body::NewSubscription(_)) if response.request_id == PLAIN => self.plain += 1,
            Some(Body::NewSubscription(new)) => {
                let subscription = usize::try_from(new.subscription_id)?;
                let filter = u32::try_from(request_id)?;
                let known = &mut self.subscriptions[from];
                known.resize(known.len().max(subscription + 1), u32::MAX);
                known[subscription] = filter;
                self.answered += 1;
            }
            body => {
                if let Some(id) = table::new_id(body) {
                    self.knows_row(request_id, &id)?;
                }
                self.has_one_more(request_id)?;
            }
        }
        Ok(())
    }

    /// Row `row` has `id`: an event may say so before the answer does.
    fn knows_row(&mut self, row: usize, id: &[u8]) -> anyhow::Result<()> {
        let known = self.ids.get_mut(row).context("the server made a row that nobody asked for")?;
        ensure!(known.get_or_insert_with(|| id.to_vec()) == id, "the server confuses rows");
        Ok(())
    }

    fn has_one_more(&mut self, change: usize) -> anyhow::Result<()> {
        let missing = self.missing.get_mut(change).context("the server speaks of a change that there is not yet")?;
        ensure!(*missing > 0, "the server sent a change to somebody who should not have it");
        *missing -= 1;
        self.incomplete -= u64::from(*missing == 0);
        Ok(())
    }

    fn arrived(&mut self, from: usize, event: &RowEvent<'_>, now: Nanos) -> anyhow::Result<()> {
        self.last_arrival = now;
        let change = event::number_of(event.name).context("somebody else changes a row that is measured")?;
        let row = usize::try_from(change)? % self.rows.len();
        let subscription = usize::try_from(event.subscription_id)?;
        let filter = self.subscriptions[from].get(subscription).copied().unwrap_or(u32::MAX) as usize;
        let is_for_it = self.filters.get(filter).is_some_and(|filter| filter.matches(&self.rows[row]));
        ensure!(is_for_it, "subscription {subscription} was sent a row that its filter leaves out");
        self.knows_row(row, event.id)?;
        let next = self.next[filter];
        if change < next {
            if change + 1 == next {
                self.repeated += 1;
                return Ok(());
            }
            self.out_of_order += 1;
        }
        self.next[filter] = next.max(change + 1);
        self.has_one_more(usize::try_from(change)?)?;
        if change >= self.first_counted {
            self.delivered += 1;
            let due = self.due[usize::try_from(change)?];
            self.latency.saturating_record(now.saturating_sub(due) / 1000);
        }
        Ok(())
    }

    fn write(&mut self, now: Nanos) -> anyhow::Result<()> {
        let Some(mut writer) = self.writer.take() else { return Ok(()) };
        while writer.waiting_bytes() < BATCH_BYTES
            && let Some(due) = self.drive.take_due(now, self.incomplete)
        {
            let change = self.due.len();
            let row = change % self.rows.len();
            let mut policy = table::policy(self.ids[row].as_deref(), event::name(change as u64, self.name_bytes));
            self.rows[row].put(&mut policy);
            let command = Some(Command::SetPolicy(proto::RequestSetPolicy { policy }));
            self.request.clear();
            proto::Request { request_id: i32::try_from(change)?, command }.encode(&mut self.request)?;
            writer.put(&self.request, Opcode::Binary);
            self.due.push(due);
            self.missing.push(self.matching[row] + 1);
            self.incomplete += 1;
            if self.due.len() == self.rows.len() {
                // The rows are made: changes of them wait until everybody has them.
                self.drive = Drive::Rest;
            }
        }
        writer.flush()?;
        self.writer = Some(writer);
        Ok(())
    }

    /// How far it has come, for whoever wants to know why it does not go on.
    fn state(&self) -> String {
        let missing: u64 = self.missing.iter().map(|missing| u64::from(*missing)).sum();
        format!(
            "{} of {} subscriptions are answered; of {} changes {} are not complete, which {missing} events or answers miss",
            self.answered,
            self.filters.len(),
            self.due.len(),
            self.incomplete,
        )
    }

    /// What went wrong with the changes from `first` on.
    fn faults(&self, first: usize) -> Faults {
        let lost = self.missing[first..].iter().map(|missing| u64::from(*missing)).sum();
        Faults { lost, repeated: self.repeated, out_of_order: self.out_of_order }
    }
}

impl Audience for Ledger {
    fn hear(&mut self, from: usize, message: &[u8], now: Nanos) -> anyhow::Result<Option<Answer>> {
        match RowEvent::of_message(message) {
            Some(event) if from < self.connections => self.arrived(from, &event, now)?,
            _ => self.answer(from, message, now)?,
        }
        Ok(None)
    }

    fn between(&mut self, now: Nanos) -> anyhow::Result<()> {
        let has_more = self.writer.as_ref().is_some_and(|writer| !writer.is_empty());
        if has_more || self.drive.is_due(now, self.incomplete) { self.write(now) } else { Ok(()) }
    }
}

/// All connections, and what is known.
#[derive(Debug)]
pub(super) struct Load {
    engine: Engine,
    ledger: Ledger,
}

impl Attend for Load {
    fn attend(&mut self, wait: Duration) -> anyhow::Result<()> {
        self.engine.turn(wait, &mut self.ledger)
    }
}

impl Load {
    /// Connects; the writer comes behind the others.
    pub(super) fn connect(address: &Address, mut ledger: Ledger, stop: Stop) -> anyhow::Result<Self> {
        let mut engine = Engine::new(stop)?;
        let connections = ledger.connections;
        engine.open(address, connections + 1, &mut ledger, |_, _| {})?;
        ledger.writer = Some(engine.writer(connections));
        Ok(Self { engine, ledger })
    }

    /// Subscribes every connection to the list, without a filter.
    pub(super) fn subscribe_plainly(&mut self) -> anyhow::Result<()> {
        let command = Some(Table::Policies.subscribe(None));
        let request = proto::Request { request_id: PLAIN, command }.encode_to_vec();
        for connection in 0..self.ledger.connections {
            self.engine.send(connection, &request, Opcode::Binary)?;
        }
        self.wait(|ledger| ledger.plain == ledger.connections)
    }

    /// Subscribes all filters, dealt out to the connections, and waits for the answers.
    pub(super) fn subscribe(&mut self) -> anyhow::Result<()> {
        let (count, connections) = (self.ledger.filters.len(), self.ledger.connections);
        self.subscribe_each((0..count).map(|filter| (filter % connections, filter)))
    }

    /// As many subscriptions once more, all to the first `shared` filters, dealt out.
    pub(super) fn subscribe_to_shared(&mut self, shared: usize) -> anyhow::Result<()> {
        let (count, connections) = (self.ledger.filters.len(), self.ledger.connections);
        let begun = self.ledger.answered;
        self.subscribe_each(
            (begun..begun + count).map(|at| (at % connections, (at % connections + at / connections) % shared)),
        )
    }

    /// Subscribes a connection to a filter, each by its number, and waits for the answers.
    fn subscribe_each(&mut self, wanted: impl ExactSizeIterator<Item = (usize, usize)>) -> anyhow::Result<()> {
        let before = self.ledger.answered;
        let count = wanted.len();
        for (at, (connection, filter)) in wanted.enumerate() {
            let options =
                proto::SubscribeOptions { filter: Some(self.ledger.filters[filter].text()), ..Default::default() };
            let command = Some(Table::Policies.subscribe(Some(options)));
            let request = proto::Request { request_id: i32::try_from(filter)?, command }.encode_to_vec();
            self.engine.send(connection, &request, Opcode::Binary)?;
            if at % 256 == 0 {
                self.engine.turn(Duration::ZERO, &mut self.ledger)?;
                self.wait(|ledger| before + at + 1 - ledger.answered < UNANSWERED_MAX)?;
            }
        }
        self.wait(|ledger| ledger.answered == before + count)
    }

    /// Makes the rows. Their subscribers are there already: so nobody has to read the table.
    fn make_rows(&mut self) -> anyhow::Result<()> {
        self.ledger.drive = Drive::new(Pace::InFlight(MADE_AT_A_TIME), self.engine.now(), Duration::MAX);
        let count = self.ledger.rows.len();
        self.wait(|ledger| ledger.due.len() == count && ledger.incomplete == 0)
    }

    fn wait(&mut self, is_done: impl Fn(&Ledger) -> bool) -> anyhow::Result<()> {
        let mut seen = (Instant::now(), self.ledger.last_arrival);
        while !is_done(&self.ledger) {
            self.engine.turn(Duration::from_millis(10), &mut self.ledger)?;
            if self.ledger.last_arrival != seen.1 {
                seen = (Instant::now(), self.ledger.last_arrival);
            }
            ensure!(seen.0.elapsed() < SUBSCRIBE_TIMEOUT, "nothing comes any more: {}", self.ledger.state());
        }
        Ok(())
    }

    fn write(&mut self, pace: Pace, duration: Duration) -> anyhow::Result<()> {
        let begin = self.engine.now();
        self.ledger.drive = Drive::new(pace, begin, duration);
        self.engine.turn(Duration::ZERO, &mut self.ledger)?;
        loop {
            let now = self.engine.now();
            let is_over = self.ledger.drive.is_over(now) && self.ledger.incomplete == 0;
            let heard = self.ledger.last_arrival.max(self.ledger.drive.end());
            if is_over || now.saturating_sub(heard) > PATIENCE.as_nanos() as u64 {
                break;
            }
            let wait = self.ledger.drive.wait(now, self.ledger.incomplete);
            self.engine.turn(wait, &mut self.ledger)?;
        }
        self.ledger.drive = Drive::Rest;
        Ok(())
    }

    /// Lets changes come at `pace`; `until_sent` says how long deliveries have taken up to now, if the server tells.
    fn measure(
        &mut self,
        pace: Pace,
        duration: Duration,
        server: Option<&Probe>,
        until_sent: impl Fn() -> anyhow::Result<Option<Buckets>>,
    ) -> anyhow::Result<Run> {
        self.write(pace, (duration / 4).min(Duration::from_secs(1)))?;
        let ledger = &mut self.ledger;
        let first = ledger.due.len();
        ledger.first_counted = first as u64;
        ledger.delivered = 0;
        ledger.latency.reset();
        let sent_before = until_sent()?;
        let before = Usage::read(server)?;
        self.write(pace, duration)?;
        let used = before.until(&Usage::read(server)?);
        let sent = sent_before.zip(until_sent()?);
        let ledger = &self.ledger;
        Ok(Run {
            pace,
            subscribers: ledger.filters.len(),
            elapsed: used.elapsed,
            changes: (ledger.due.len() - first) as u64,
            delivered: ledger.delivered,
            server_cpu: used.server,
            generator_cpu: used.generator,
            latency: ledger.latency.clone(),
            faults: ledger.faults(0),
            memory: None,
            stalled: None,
            churn: None,
            until_sent: sent.map(|(before, after)| after.since(&before)),
        })
    }
}

/// Measures `subject` with `filters` filters at each of `paces`, and hands over each run.
pub(super) async fn run(
    subject: &Subject,
    plan: &Plan,
    filters: usize,
    paces: &[Pace],
    mut report: impl FnMut(Run) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let name_bytes = event::name_bytes(plan.payload_bytes, &[Table::Policies])?;
    let rows = Values::spread(ROWS, filters);
    let ledger = Ledger::new(Filter::mix(filters), rows, plan.subscribers, name_bytes)?;
    let (address, core) = (subject.address.clone(), plan.cores.map(|cores| cores.generator));
    let to = address.clone();
    let load = Attended::start(Stop::default(), core, move |stop| Load::connect(&to, ledger, stop)).await?;
    let resident_bytes = || subject.probe.as_ref().map(Probe::resident_bytes).transpose();
    let before_subscribers = resident_bytes()?;
    load.run(Load::subscribe).await?;
    page::wait_until_live(subject, filters as u64)?;
    let with_subscribers = resident_bytes()?;
    load.run(Load::make_rows).await?;
    for pace in paces.iter().copied() {
        let (duration, probe) = (plan.duration, subject.probe.clone());
        let of = address.clone();
        let until_sent = move || Ok(Buckets::read(&page::read(of.authority())?, DELIVERY_SECONDS));
        let mut run = load.run(move |load| load.measure(pace, duration, probe.as_ref(), until_sent)).await?;
        let known = before_subscribers.zip(with_subscribers).zip(resident_bytes()?);
        run.memory = known.map(|((before_subscribers, with_subscribers), after_run)| Memory {
            before_subscribers,
            with_subscribers,
            after_run,
        });
        let is_complete = run.faults.lost == 0;
        report(run)?;
        if !is_complete {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two connections; filter 0 and 2 are on the first one.
    fn ledger() -> Ledger {
        let filter = |price_min, price_end| Filter::Range { price_min, price_end };
        let rows = [5, 15].map(|price| Values { status: 0, owner: 0, region: 0, price });
        let filters = vec![filter(0, 10), filter(10, 20), filter(0, 20)];
        let mut ledger = Ledger::new(filters, rows.to_vec(), 2, 30).expect("a ledger");
        // The rows were asked for, and that is answered.
        ledger.due.extend([0; 2]);
        ledger.missing.extend([2; 2]);
        ledger.incomplete = 2;
        ledger.subscriptions = vec![vec![0, 2], vec![1]];
        ledger
    }

    fn arrive(ledger: &mut Ledger, from: usize, subscription: i32, change: u64) -> anyhow::Result<()> {
        let id = [change as u8 % 2; 16];
        let message = event::message(Table::Policies, subscription, &id, event::name(change, 30));
        ledger.hear(from, &message, 7_000).map(|_| ())
    }

    #[test]
    fn everybody_gets_what_their_filters_match() {
        let mut ledger = ledger();
        assert_eq!((ledger.matching.clone(), ledger.incomplete), (vec![2, 2], 2));
        for (from, subscription, change) in [(0, 0, 0), (0, 1, 0), (0, 1, 1), (1, 0, 1)] {
            arrive(&mut ledger, from, subscription, change).expect("it is for them");
        }
        assert_eq!(ledger.incomplete, 0);
        assert!(ledger.faults(0).are_none());
        assert!(arrive(&mut ledger, 1, 0, 0).is_err(), "row 0 is not for filter 1");
        assert!(arrive(&mut ledger, 0, 9, 0).is_err(), "nobody has that subscription");
    }

    #[test]
    fn a_planted_loss_is_noticed() {
        let mut ledger = ledger();
        for (from, subscription, change) in [(0, 0, 0), (0, 1, 0), (1, 0, 1)] {
            arrive(&mut ledger, from, subscription, change).expect("it is for them");
        }
        assert_eq!((ledger.incomplete, ledger.faults(0).lost), (1, 1));
    }

    #[test]
    fn repetition_and_disorder_are_noticed() {
        let mut ledger = ledger();
        // Change 2 and 4 are of row 0, for the filters 0 and 2, and accepted already.
        ledger.missing.extend([2, 2, 2]);
        ledger.due.extend([0; 3]);
        ledger.incomplete += 3;
        arrive(&mut ledger, 0, 0, 4).expect("the newer one");
        arrive(&mut ledger, 0, 0, 4).expect("once more");
        arrive(&mut ledger, 0, 0, 2).expect("the older one");
        assert_eq!((ledger.repeated, ledger.out_of_order), (1, 1));
    }
}
