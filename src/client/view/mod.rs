//! What a client holds of one subscription: a state machine without I/O.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use bytes::Bytes;

use super::row::RowEvent;
use super::{Divergence, Query, Row, RowChange};
use crate::change::{ChangeKind, Epoch, Key, Seq};
use crate::planted::PlantedBug;
use crate::proto::{self, event::Body, request::Command, subscription_state};
use crate::summary::Summary;

/// The rows of one subscription, and how it stands; it outlives the single subscriptions of which it is made.
///
/// Where a new subscription has to begin anew, the rows of before stay until it is known what became of them: what
/// [`View::apply`] reports is one stream of changes, which folded up is always what [`View::rows`] shows. (Only the versions
/// of rows that are the same in a new epoch change in silence.)
#[derive(Debug)]
pub struct View {
    query: Query,
    rows: HashMap<Key, Held>,
    /// Of the rows of the present generation: those that the server knows this client to hold.
    summary: Summary,
    /// Grows when all rows come anew.
    generation: u32,
    /// Versions are of the same epoch in all generations from this one on.
    comparable_from: u32,
    /// How many rows are of earlier generations.
    left_over: usize,
    phase: Phase,
    /// All rows have been there at least once: what comes now is news.
    was_ready: bool,
    epoch: Option<Epoch>,
    position: Option<Seq>,
    /// The newest change of this generation that was no initial row.
    last_change: Option<Seq>,
    /// The number of the last event of the present subscription.
    number: u64,
    token: Option<Bytes>,
    /// Something was applied behind the token that is not to be applied twice.
    is_past_token: bool,
    /// The present subscription brought something that moved the token.
    has_progressed: bool,
    /// The next INITIALIZING goes on with this generation.
    is_continuing: bool,
}

#[derive(Debug)]
struct Held {
    generation: u32,
    row: Row,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No rows are expected yet.
    Waiting,
    /// The rows that are there are coming.
    Initializing,
    /// Changes are coming; there are more.
    CatchingUp,
    Live,
}

/// What an event came down to.
#[derive(Debug, PartialEq)]
pub enum Applied {
    /// Nothing that is news.
    Nothing,
    /// A row changed.
    Row(RowChange),
    /// The subscription stands differently.
    Status(Status),
    /// All rows have come. These had gone meanwhile; then the status is [`Status::Ready`].
    Ready(Vec<RowChange>),
    /// The server ended the subscription: why.
    Closed(String),
}

/// How a subscription stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// The rows that are there are coming.
    Initializing,
    /// They are all there: what is held is the view at one position.
    Ready,
    /// What comes now comes as it happens, and what is held was found right.
    Live,
    /// What is held was found right.
    Verified,
    /// What is held is older than what the server has, until [`Status::Live`]: why.
    Stale(String),
    /// All rows come anew, and what is held will be set right by them.
    Reset {
        /// Why, for programs.
        reason: Option<subscription_state::Reason>,
        /// Why, for people.
        message: String,
    },
}

impl View {
    /// Nothing yet.
    pub fn new(query: Query) -> Self {
        Self {
            query,
            rows: HashMap::new(),
            summary: Summary::default(),
            generation: 0,
            comparable_from: 0,
            left_over: 0,
            phase: Phase::Waiting,
            was_ready: false,
            epoch: None,
            position: None,
            last_change: None,
            number: 0,
            token: None,
            is_past_token: false,
            has_progressed: false,
            is_continuing: false,
        }
    }

    /// What it is a view of.
    pub fn query(&self) -> &Query {
        &self.query
    }

    /// The rows, as the changes so far make them. While all rows come anew, those of before are among them.
    pub fn rows(&self) -> impl Iterator<Item = (&Key, &Row)> {
        self.rows.iter().map(|(key, held)| (key, &held.row))
    }

    /// The row `key`.
    pub fn get(&self, key: &Key) -> Option<&Row> {
        self.rows.get(key).map(|held| &held.row)
    }

    /// Count and digest of what the server knows to be held.
    pub fn summary(&self) -> Summary {
        self.summary
    }

    /// The newest change that what is held is known to contain.
    pub fn position(&self) -> Option<Seq> {
        self.position
    }

    /// Whether what is held is right, and changes come as they happen.
    pub fn is_live(&self) -> bool {
        self.phase == Phase::Live
    }

    /// Whether a new subscription would go on behind what was applied.
    pub fn has_token(&self) -> bool {
        self.token.is_some() && !self.is_past_token
    }

    /// Whether anything came since the last [`View::subscribe`] that need not come again.
    pub fn has_progressed(&self) -> bool {
        self.has_progressed
    }

    /// Begins a new subscription: the request for it. It goes on behind what was applied, or begins anew where it has to.
    pub fn subscribe(&mut self) -> Command {
        let options = self.subscribe_options();
        self.query.command(options)
    }

    /// Begins a new subscription: the options for it, as [`View::subscribe`] uses them.
    pub fn subscribe_options(&mut self) -> proto::SubscribeOptions {
        if self.is_past_token {
            self.forget_token();
        }
        self.number = 0;
        self.has_progressed = false;
        self.is_continuing = self.token.is_some() && self.phase == Phase::Initializing;
        self.phase = match (&self.token, self.phase) {
            (None, _) => Phase::Waiting,
            (Some(_), Phase::Initializing) => Phase::Initializing,
            (Some(_), Phase::Waiting | Phase::CatchingUp | Phase::Live) => Phase::CatchingUp,
        };
        proto::SubscribeOptions { resume_token: self.token.clone(), ..self.query.options() }
    }

    /// Lets the next subscription begin anew, because the server or the application does not trust the token.
    pub fn forget_token(&mut self) {
        self.token = None;
        self.is_past_token = false;
    }

    /// Takes the next event of the present subscription. After a divergence there is no next one: subscribe again.
    pub fn apply(&mut self, event: proto::Event) -> Result<Applied, Divergence> {
        let applied = self.take(event);
        if let Err(divergence) = &applied
            && (divergence.is_of_rows_held() || !self.has_progressed)
        {
            // What a token brings has not helped, or cannot.
            self.forget_token();
        }
        applied
    }

    fn take(&mut self, event: proto::Event) -> Result<Applied, Divergence> {
        if let Some(Body::SubscriptionClosed(closed)) = event.body {
            let reason = closed.reason().as_str_name();
            return Ok(Applied::Closed(closed.message.unwrap_or_else(|| reason.to_owned())));
        }
        self.check_number(event.number)?;
        let applied = match (event.state, event.body) {
            (Some(state), _) => self.take_state(state)?,
            (None, Some(body)) => {
                let version = event.version.map(Seq).ok_or(Divergence::Undecodable("a row without a version"))?;
                let row = RowEvent::decode(body)?;
                let applied = self.take_row(row, version, event.initial.unwrap_or(false))?;
                self.is_past_token = true;
                applied
            }
            (None, None) => return Err(Divergence::Undecodable("it is empty")),
        };
        if event.token.is_some() {
            self.token = event.token;
            self.is_past_token = false;
            self.has_progressed = true;
        }
        Ok(applied)
    }

    fn check_number(&mut self, number: Option<u64>) -> Result<(), Divergence> {
        let got = number.ok_or(Divergence::Unnumbered)?;
        let expected = self.number + 1;
        match got.cmp(&expected) {
            std::cmp::Ordering::Less => Err(Divergence::Repeated { expected, got }),
            std::cmp::Ordering::Greater => Err(Divergence::Missing { expected, got }),
            std::cmp::Ordering::Equal => {
                self.number = got;
                Ok(())
            }
        }
    }

    fn take_state(&mut self, state: proto::SubscriptionState) -> Result<Applied, Divergence> {
        use subscription_state::Kind;
        let Some(kind) = state.kind.and_then(|kind| Kind::try_from(kind).ok()) else {
            // Newer servers may have more to say.
            return Ok(Applied::Nothing);
        };
        match kind {
            Kind::Initializing => {
                if !std::mem::take(&mut self.is_continuing) {
                    self.begin_generation(epoch(&state)?);
                }
                Ok(Applied::Status(Status::Initializing))
            }
            Kind::Ready => self.finish_generation(&state),
            Kind::Live if matches!(self.phase, Phase::Waiting | Phase::Initializing) => {
                Err(Divergence::OutOfPlace("LIVE before all rows"))
            }
            Kind::Live => {
                self.check_summary(&state)?;
                self.phase = Phase::Live;
                Ok(Applied::Status(Status::Live))
            }
            // While the first rows are sent there is nothing to compare.
            Kind::Heartbeat if state.digest.is_none() => Ok(Applied::Nothing),
            Kind::Heartbeat => {
                self.check_summary(&state)?;
                Ok(Applied::Status(Status::Verified))
            }
            Kind::Stale => {
                if self.phase == Phase::Live {
                    self.phase = Phase::CatchingUp;
                }
                Ok(Applied::Status(Status::Stale(state.message.unwrap_or_default())))
            }
            Kind::Reset => {
                self.forget_token();
                self.is_continuing = false;
                self.phase = Phase::Waiting;
                let reason = state.reason.and_then(|reason| subscription_state::Reason::try_from(reason).ok());
                Ok(Applied::Status(Status::Reset { reason, message: state.message.unwrap_or_default() }))
            }
        }
    }

    fn begin_generation(&mut self, epoch: Option<Epoch>) {
        self.generation += 1;
        if epoch.is_none() || epoch != self.epoch {
            self.comparable_from = self.generation;
        }
        self.forget_token();
        self.epoch = epoch;
        self.position = None;
        self.last_change = None;
        self.left_over = self.rows.len();
        self.summary = Summary::default();
        self.phase = Phase::Initializing;
    }

    fn finish_generation(&mut self, state: &proto::SubscriptionState) -> Result<Applied, Divergence> {
        if self.phase != Phase::Initializing {
            return Err(Divergence::OutOfPlace("READY, but no rows were due"));
        }
        self.check_summary(state)?;
        let mut gone = Vec::new();
        if std::mem::take(&mut self.left_over) > 0 && !PlantedBug::ResetKeepsRowsThatAreGone.is_planted() {
            let generation = self.generation;
            gone.extend(self.rows.extract_if(|_, held| held.generation < generation).map(|(key, held)| RowChange {
                kind: ChangeKind::Deleted,
                key,
                old: Some(held.row),
                new: None,
                is_initial: false,
            }));
        }
        self.phase = Phase::CatchingUp;
        self.was_ready = true;
        Ok(Applied::Ready(gone))
    }

    fn check_summary(&mut self, state: &proto::SubscriptionState) -> Result<(), Divergence> {
        match (self.epoch, epoch(state)?) {
            (Some(known), Some(epoch)) if known != epoch => {
                return Err(Divergence::OutOfPlace("another epoch without a RESET"));
            }
            (known, epoch) => self.epoch = epoch.or(known),
        }
        let held = self.summary;
        if let Some(expected) = state.count.filter(|count| *count != held.count) {
            return Err(Divergence::WrongCount { expected, held });
        }
        if let Some(expected) = state.digest.filter(|digest| *digest != held.digest) {
            return Err(Divergence::WrongDigest { expected, held });
        }
        self.position = state.position.map(Seq).or(self.position);
        Ok(())
    }

    fn take_row(&mut self, event: RowEvent, version: Seq, is_initial: bool) -> Result<Applied, Divergence> {
        match self.phase {
            Phase::Waiting => return Err(Divergence::OutOfPlace("a row before INITIALIZING")),
            Phase::CatchingUp | Phase::Live if is_initial => {
                return Err(Divergence::OutOfPlace("an initial row after READY"));
            }
            Phase::Initializing | Phase::CatchingUp | Phase::Live => {}
        }
        let held = self.rows.get(&event.key).filter(|held| held.generation == self.generation);
        match (event.kind, held) {
            // A page of rows may reach back behind the place at which a subscription went on.
            (ChangeKind::Added, Some(held)) if is_initial && held.row.version >= version => {
                return Ok(Applied::Nothing);
            }
            (ChangeKind::Added, Some(_)) if !is_initial => return Err(Divergence::DuplicateRow(event.key)),
            (ChangeKind::Added, _) => {}
            (ChangeKind::Updated | ChangeKind::Deleted, _) if is_initial => {
                return Err(Divergence::OutOfPlace("a change as an initial row"));
            }
            (ChangeKind::Updated | ChangeKind::Deleted, None) => return Err(Divergence::UnknownRow(event.key)),
            (ChangeKind::Updated | ChangeKind::Deleted, Some(_)) => {}
        }
        if !is_initial {
            let newest = self.last_change.max(held.map(|held| held.row.version));
            if let Some(last) = newest.filter(|last| *last >= version) {
                return Err(Divergence::VersionBack { last, got: version });
            }
            self.last_change = Some(version);
        }
        Ok(match event.kind {
            ChangeKind::Deleted => self.remove(event),
            ChangeKind::Added | ChangeKind::Updated => self.put(event, version, is_initial),
        })
    }

    fn remove(&mut self, event: RowEvent) -> Applied {
        let mut old = self.rows.remove(&event.key).expect("the row was found to be held").row;
        self.summary.remove(&event.key, old.version);
        old.document = old.document.or(event.old_document);
        Applied::Row(RowChange { kind: event.kind, key: event.key, old: Some(old), new: None, is_initial: false })
    }

    fn put(&mut self, event: RowEvent, version: Seq, is_initial: bool) -> Applied {
        let RowEvent { key, name, document, old_document, .. } = event;
        let row = Row { version, name, document };
        self.summary.add(&key, version);
        let mut entry = match self.rows.entry(key.clone()) {
            Entry::Vacant(entry) => {
                entry.insert(Held { generation: self.generation, row: row.clone() });
                let is_initial = is_initial && !self.was_ready;
                let new = Some(row);
                return Applied::Row(RowChange { kind: ChangeKind::Added, key, old: None, new, is_initial });
            }
            Entry::Occupied(entry) => entry,
        };
        let held = entry.insert(Held { generation: self.generation, row: row.clone() });
        let is_left_over = held.generation < self.generation;
        if is_left_over {
            self.left_over -= 1;
            let is_comparable = held.generation >= self.comparable_from;
            let is_same = if is_comparable { held.row.version == version } else { row.document.is_some() };
            if is_same && held.row.has_content_of(&row) {
                return Applied::Nothing;
            }
        } else {
            self.summary.remove(&key, held.row.version);
        }
        let mut old = held.row;
        old.document = old.document.or(old_document);
        Applied::Row(RowChange { kind: ChangeKind::Updated, key, old: Some(old), new: Some(row), is_initial: false })
    }
}

fn epoch(state: &proto::SubscriptionState) -> Result<Option<Epoch>, Divergence> {
    let Some(bytes) = &state.epoch else { return Ok(None) };
    let bytes = bytes.as_ref().try_into().map_err(|_| Divergence::Undecodable("an epoch that has not 16 bytes"))?;
    Ok(Some(Epoch(u128::from_be_bytes(bytes))))
}
