//! A row as a client holds it, and what happens to it.

use std::sync::Arc;

use uuid::Uuid;

use super::Divergence;
use crate::change::{ChangeKind, Document, Key, Seq};
use crate::proto::{self, event::Body, table_key};

/// What is held of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The number of the change that made it what it is.
    pub version: Seq,
    /// What it is called, in lists of what has a name.
    pub name: Option<Arc<str>>,
    /// Its content, where it was asked for.
    pub document: Option<Document>,
}

impl Row {
    /// Whether both show the same, as far as they show anything.
    pub(super) fn has_content_of(&self, other: &Self) -> bool {
        self.name == other.name && self.document == other.document
    }
}

/// A change of what a client holds. Folded up, they are what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowChange {
    /// What happened.
    pub kind: ChangeKind,
    /// The row.
    pub key: Key,
    /// The row as it was; `None` where there was none.
    pub old: Option<Row>,
    /// The row as it is; `None` where it is gone.
    pub new: Option<Row>,
    /// Whether the row was there at the start: then this is no news.
    pub is_initial: bool,
}

/// What one event says about one row.
#[derive(Debug)]
pub(super) struct RowEvent {
    pub(super) kind: ChangeKind,
    pub(super) key: Key,
    pub(super) name: Option<Arc<str>>,
    pub(super) document: Option<Document>,
    pub(super) old_document: Option<Document>,
}

impl RowEvent {
    /// What `body` says.
    pub(super) fn decode(body: Body) -> Result<Self, Divergence> {
        let named = |kind, key, name: Option<String>| Self {
            kind,
            key,
            name: name.map(Arc::from),
            document: None,
            old_document: None,
        };
        match body {
            Body::PolicyEvent(event) => Ok(named(kind(event.event_type)?, id(event.policy_id())?, event.name)),
            Body::ScheduleEvent(event) => {
                Ok(named(kind(event.event_type)?, id(event.schedule_id())?, event.schedule_name))
            }
            Body::DomainLoginEvent(event) => {
                let domain = event.domain.ok_or(Divergence::Undecodable("a login without a domain"))?;
                Ok(named(kind(event.event_type)?, Key::text(&domain), None))
            }
            Body::CaptchaSolverEvent(event) => Ok(named(kind(event.event_type)?, id(event.solver_id())?, event.name)),
            Body::RateLimitEvent(event) => {
                let token = event.token.ok_or(Divergence::Undecodable("a rate limit without a token"))?;
                Ok(named(kind(event.event_type)?, Key::binary(&token), event.name))
            }
            Body::JobEvent(event) => Ok(named(kind(event.event_type)?, id(event.job_id())?, event.name)),
            Body::TableEvent(event) => {
                let document = |text: Option<String>| text.map(|text| Document::from_stored(text.into_bytes()));
                Ok(Self {
                    kind: kind(event.event_type)?,
                    key: key(event.key)?,
                    name: None,
                    document: document(event.document),
                    old_document: document(event.old_document),
                })
            }
            _ => Err(Divergence::Undecodable("it is of no table")),
        }
    }
}

/// The types of the events of all tables have the same numbers.
fn kind(number: Option<i32>) -> Result<ChangeKind, Divergence> {
    use proto::table_event::EventType;
    match number.and_then(|number| EventType::try_from(number).ok()) {
        Some(EventType::Added) => Ok(ChangeKind::Added),
        Some(EventType::Updated) => Ok(ChangeKind::Updated),
        Some(EventType::Deleted) => Ok(ChangeKind::Deleted),
        None => Err(Divergence::Undecodable("it has no event type")),
    }
}

fn id(bytes: &[u8]) -> Result<Key, Divergence> {
    let id = Uuid::from_slice(bytes).map_err(|_| Divergence::Undecodable("an id that is no UUID"))?;
    Ok(Key::text(id.hyphenated().encode_lower(&mut Uuid::encode_buffer())))
}

fn key(key: Option<proto::TableKey>) -> Result<Key, Divergence> {
    match key.and_then(|key| key.value) {
        Some(table_key::Value::Text(text)) => Ok(Key::text(&text)),
        Some(table_key::Value::Number(number)) => Ok(Key::number(number)),
        Some(table_key::Value::Binary(bytes)) => Ok(Key::binary(&bytes)),
        None => Err(Divergence::Undecodable("a row without a key")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_every_list_have_a_key_and_a_name() {
        let (event_type, id) = (Some(2), Some(bytes::Bytes::from_static(&[1; 16])));
        let name = Some("N".to_owned());
        let uuid = Key::text("01010101-0101-0101-0101-010101010101");
        let solver = proto::CaptchaSolverEvent {
            event_type,
            solver_id: id.clone(),
            name: name.clone(),
            ..proto::CaptchaSolverEvent::default()
        };
        let limit = proto::RateLimitEvent {
            event_type,
            token: id.clone(),
            name: name.clone(),
            ..proto::RateLimitEvent::default()
        };
        let job = proto::JobEvent { event_type, job_id: id, name, ..proto::JobEvent::default() };
        for (body, key) in [
            (Body::CaptchaSolverEvent(solver.clone()), uuid.clone()),
            (Body::RateLimitEvent(limit.clone()), Key::binary(&[1; 16])),
            (Body::JobEvent(job.clone()), uuid),
        ] {
            let event = RowEvent::decode(body).expect("it is right");
            assert_eq!((event.kind, event.key, event.name.as_deref()), (ChangeKind::Updated, key, Some("N")));
        }
        for body in [
            Body::CaptchaSolverEvent(proto::CaptchaSolverEvent { solver_id: None, ..solver }),
            Body::RateLimitEvent(proto::RateLimitEvent { token: None, ..limit }),
            Body::JobEvent(proto::JobEvent { event_type: None, ..job }),
        ] {
            assert!(RowEvent::decode(body).is_err());
        }
    }
}
