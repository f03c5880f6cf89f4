//! What a watch learns, and how it is said in JSON.

use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;
use uuid::Uuid;

use crate::change::ChangeKind;
use crate::cli::text::inert_json;
use crate::proto::{self, event::Body, request::Command};

/// A table that can be watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(super) enum WatchedTable {
    Policy,
    Schedule,
    DomainLogin,
}

impl WatchedTable {
    pub(super) const ALL: [Self; 3] = [Self::Policy, Self::Schedule, Self::DomainLogin];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Schedule => "schedule",
            Self::DomainLogin => "domain_login",
        }
    }

    pub(super) fn subscribe(self) -> Command {
        match self {
            Self::Policy => Command::SubscribePolicyList(proto::RequestSubscribePolicyList {}),
            Self::Schedule => Command::SubscribeScheduleList(proto::RequestSubscribeScheduleList {}),
            Self::DomainLogin => Command::SubscribeDomainLoginList(proto::RequestSubscribeDomainLoginList {}),
        }
    }
}

/// Something that happened.
#[derive(Debug, PartialEq)]
pub(super) enum Notice {
    /// All tables are subscribed to: for the first time, or again.
    Connected {
        is_again: bool,
    },
    /// What was known of the table counts no more: its rows come anew.
    Subscribed(WatchedTable),
    Row(RowEvent),
    /// The server ended the subscription; it is made again.
    Closed {
        table: WatchedTable,
        message: String,
    },
    Lost {
        error: String,
        retry_in: Duration,
    },
}

/// A row was there, came, changed or went.
#[derive(Debug, PartialEq)]
pub(super) struct RowEvent {
    pub(super) table: WatchedTable,
    pub(super) kind: ChangeKind,
    /// A UUID, or the domain of a login.
    pub(super) key: String,
    /// Logins have none.
    pub(super) name: Option<String>,
}

impl RowEvent {
    /// The event in `body`; `None` for what only newer servers may send.
    pub(super) fn from_body(body: Body) -> Option<Self> {
        match body {
            Body::PolicyEvent(event) => Some(Self {
                table: WatchedTable::Policy,
                kind: kind(event.event_type)?,
                key: id(event.policy_id()),
                name: event.name,
            }),
            Body::ScheduleEvent(event) => Some(Self {
                table: WatchedTable::Schedule,
                kind: kind(event.event_type)?,
                key: id(event.schedule_id()),
                name: event.schedule_name,
            }),
            Body::DomainLoginEvent(event) => Some(Self {
                table: WatchedTable::DomainLogin,
                kind: kind(event.event_type)?,
                key: event.domain?,
                name: None,
            }),
            _ => None,
        }
    }
}

/// The three event types have the same numbers.
fn kind(number: Option<i32>) -> Option<ChangeKind> {
    use proto::policy_event::EventType;
    match EventType::try_from(number?).ok()? {
        EventType::Added => Some(ChangeKind::Added),
        EventType::Updated => Some(ChangeKind::Updated),
        EventType::Deleted => Some(ChangeKind::Deleted),
    }
}

fn id(bytes: &[u8]) -> String {
    match Uuid::from_slice(bytes) {
        Ok(id) => id.to_string(),
        Err(_) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

/// What clients of the API and readers of the screen call it.
pub(super) fn kind_name(kind: ChangeKind) -> &'static str {
    match kind {
        ChangeKind::Added => "ADDED",
        ChangeKind::Updated => "UPDATED",
        ChangeKind::Deleted => "DELETED",
    }
}

/// `notice` as one line of JSON; `None` for what programs need not know.
pub(super) fn json_line(notice: &Notice) -> Option<String> {
    #[derive(Serialize)]
    struct Row<'a> {
        table: &'static str,
        r#type: &'static str,
        key: &'a str,
        name: Option<&'a str>,
    }
    #[derive(Serialize)]
    struct Closed<'a> {
        table: &'static str,
        r#type: &'static str,
        message: &'a str,
    }
    let json = match notice {
        Notice::Connected { is_again: true } => Ok(r#"{"type":"RECONNECTED"}"#.to_owned()),
        Notice::Row(RowEvent { table, kind, key, name }) => {
            serde_json::to_string(&Row { table: table.name(), r#type: kind_name(*kind), key, name: name.as_deref() })
        }
        Notice::Closed { table, message } => {
            serde_json::to_string(&Closed { table: table.name(), r#type: "CLOSED", message })
        }
        Notice::Connected { is_again: false } | Notice::Subscribed(_) | Notice::Lost { .. } => return None,
    };
    Some(inert_json(json.expect("texts are always JSON")) + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(body: Body) -> Option<String> {
        RowEvent::from_body(body).and_then(|event| json_line(&Notice::Row(event)))
    }

    fn policy(event_type: Option<i32>, name: Option<&str>) -> Body {
        Body::PolicyEvent(proto::PolicyEvent {
            event_type,
            policy_id: Some((0..16).collect::<Vec<u8>>().into()),
            name: name.map(str::to_owned),
        })
    }

    #[test]
    fn each_event_is_one_line_of_json() {
        let line = row(policy(Some(1), Some("Deep \"crawl\"\n\u{9b}2J")));
        let expected = concat!(
            r#"{"table":"policy","type":"ADDED","key":"00010203-0405-0607-0809-0a0b0c0d0e0f","#,
            r#""name":"Deep \"crawl\"\n\u009b2J"}"#,
            "\n"
        );
        assert_eq!(line.as_deref(), Some(expected));

        let schedule = Body::ScheduleEvent(proto::ScheduleEvent {
            event_type: Some(2),
            schedule_id: Some(vec![0xab, 1].into()),
            schedule_name: None,
        });
        let expected = "{\"table\":\"schedule\",\"type\":\"UPDATED\",\"key\":\"ab01\",\"name\":null}\n";
        assert_eq!(row(schedule).as_deref(), Some(expected));

        let login = proto::DomainLoginEvent { event_type: Some(3), domain: Some("forum.example".to_owned()) };
        let expected = "{\"table\":\"domain_login\",\"type\":\"DELETED\",\"key\":\"forum.example\",\"name\":null}\n";
        assert_eq!(row(Body::DomainLoginEvent(login)).as_deref(), Some(expected));
    }

    #[test]
    fn unknown_events_are_passed_over() {
        assert_eq!(row(policy(None, Some("a"))), None);
        assert_eq!(row(policy(Some(4), Some("a"))), None);
        assert_eq!(row(Body::TaskTree(proto::TaskTree::default())), None);
    }

    #[test]
    fn what_is_no_row_is_a_line_too() {
        let closed = Notice::Closed { table: WatchedTable::Schedule, message: "it is over".to_owned() };
        let expected = "{\"table\":\"schedule\",\"type\":\"CLOSED\",\"message\":\"it is over\"}\n";
        assert_eq!(json_line(&closed).as_deref(), Some(expected));
        let connected = |is_again| json_line(&Notice::Connected { is_again });
        assert_eq!(connected(true).as_deref(), Some("{\"type\":\"RECONNECTED\"}\n"));
        assert_eq!(connected(false), None);
        assert_eq!(json_line(&Notice::Subscribed(WatchedTable::Policy)), None);
    }

    #[test]
    fn tables_are_called_as_in_the_database() {
        for table in WatchedTable::ALL {
            assert_eq!(WatchedTable::from_str(table.name(), false), Ok(table));
        }
    }
}
