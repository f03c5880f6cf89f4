//! What a watch learns, and how it is said in JSON.

use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::change::ChangeKind;
use crate::cli::text::inert_json;
use crate::client::{Query, RowChange, Source};

/// A table that can be watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(super) enum WatchedTable {
    Job,
    Policy,
    Schedule,
    DomainLogin,
    CaptchaSolver,
    RateLimit,
}

impl WatchedTable {
    pub(super) const ALL: [Self; 6] =
        [Self::Job, Self::Policy, Self::Schedule, Self::DomainLogin, Self::CaptchaSolver, Self::RateLimit];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Job => "job",
            Self::Policy => "policy",
            Self::Schedule => "schedule",
            Self::DomainLogin => "domain_login",
            Self::CaptchaSolver => "captcha_solver",
            Self::RateLimit => "rate_limit",
        }
    }

    /// What is subscribed to. The lists know what rows are called; their content comes only with the table itself, and of jobs
    /// it is what people look for.
    pub(super) fn query(self, with_documents: bool) -> Query {
        match self {
            _ if with_documents => Query::table(self.name()).with_documents(),
            Self::Job => Query::table(self.name()).with_documents(),
            Self::Policy => Query::new(Source::Policies),
            Self::Schedule => Query::new(Source::Schedules),
            Self::DomainLogin => Query::new(Source::DomainLogins),
            Self::CaptchaSolver => Query::new(Source::CaptchaSolvers),
            Self::RateLimit => Query::new(Source::RateLimits),
        }
    }

    /// The member of a row that says what it is called; logins have none.
    fn name_member(self) -> Option<&'static str> {
        match self {
            Self::Policy | Self::CaptchaSolver | Self::RateLimit | Self::Job => Some("name"),
            Self::Schedule => Some("schedule_name"),
            Self::DomainLogin => None,
        }
    }
}

/// Something that happened.
#[derive(Debug, PartialEq)]
pub(super) enum Notice {
    /// There is a connection: for the first time, or again.
    Connected {
        is_again: bool,
    },
    Row(RowEvent),
    /// Rows of the table may be old: why. `None` when that is over.
    Stale {
        table: WatchedTable,
        why: Option<String>,
    },
    /// There is no connection, or still none.
    Lost {
        error: String,
        retry_in: Duration,
        is_still: bool,
    },
}

/// A row was there, came, changed or went.
#[derive(Debug, PartialEq)]
pub(super) struct RowEvent {
    pub(super) table: WatchedTable,
    pub(super) kind: ChangeKind,
    /// It was there at the start: no change.
    pub(super) is_initial: bool,
    /// A UUID, the domain of a login, or the token of a rate limit in hexadecimal digits.
    pub(super) key: String,
    /// Logins have none.
    pub(super) name: Option<String>,
    /// How it stands with a job; other tables have nothing like that.
    pub(super) job: Option<JobStanding>,
    /// The row, or the last that is known of it, where it was asked for.
    pub(super) document: Option<Value>,
}

/// How it stands with a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct JobStanding {
    /// As the crawler calls it.
    pub(super) state: String,
    /// Downloads of any outcome.
    pub(super) items: i64,
    /// Those of them that brought nothing: HTTP errors and exceptions.
    pub(super) failed: i64,
}

impl JobStanding {
    fn of(job: &Map<String, Value>) -> Self {
        let number = |member: &str| job.get(member).and_then(Value::as_i64).unwrap_or_default();
        Self {
            state: job.get("run_state").and_then(Value::as_str).unwrap_or_default().to_owned(),
            items: number("item_count"),
            failed: number("http_error_count").saturating_add(number("exception_count")),
        }
    }
}

impl RowEvent {
    pub(super) fn new(table: WatchedTable, change: RowChange) -> Self {
        let RowChange { kind, key, old, new, is_initial } = change;
        let row = new.or(old);
        let document = row.as_ref().and_then(|row| row.document.as_ref()?.members());
        let member = || document.as_ref()?.get(table.name_member()?)?.as_str();
        let name = row.as_ref().and_then(|row| row.name.as_deref()).or_else(member).map(str::to_owned);
        let job = document.as_ref().filter(|_| table == WatchedTable::Job).map(JobStanding::of);
        Self { table, kind, is_initial, key: key.to_string(), name, job, document: document.map(Value::Object) }
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
        #[serde(skip_serializing_if = "Option::is_none")]
        document: Option<&'a Value>,
    }
    #[derive(Serialize)]
    struct Standing<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        table: Option<&'static str>,
        r#type: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        message: Option<&'a str>,
    }
    let standing = |table: Option<WatchedTable>, r#type, message| {
        serde_json::to_string(&Standing { table: table.map(WatchedTable::name), r#type, message })
    };
    let json = match notice {
        Notice::Row(RowEvent { table, kind, key, name, document, .. }) => serde_json::to_string(&Row {
            table: table.name(),
            r#type: kind_name(*kind),
            key,
            name: name.as_deref(),
            document: document.as_ref(),
        }),
        Notice::Connected { is_again: true } => standing(None, "RECONNECTED", None),
        Notice::Lost { error, is_still: false, .. } => standing(None, "DISCONNECTED", Some(error)),
        Notice::Stale { table, why: Some(why) } => standing(Some(*table), "STALE", Some(why)),
        Notice::Stale { table, why: None } => standing(Some(*table), "LIVE", None),
        Notice::Connected { is_again: false } | Notice::Lost { is_still: true, .. } => return None,
    };
    Some(inert_json(json.expect("texts are always JSON")) + "\n")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::change::{Document, Key, Seq};
    use crate::client::Row;

    fn line(table: WatchedTable, kind: ChangeKind, key: &str, row: Row) -> String {
        let (old, new) = if kind == ChangeKind::Deleted { (Some(row), None) } else { (None, Some(row)) };
        let change = RowChange { kind, key: Key::text(key), old, new, is_initial: false };
        json_line(&Notice::Row(RowEvent::new(table, change))).expect("a line")
    }

    fn row(name: Option<&str>, document: Option<&str>) -> Row {
        let document = document.map(|text| Document::parse(text.as_bytes()).expect("an object"));
        Row { version: Seq(1), name: name.map(Into::into), document }
    }

    #[test]
    fn each_change_is_one_line_of_json() {
        let policy = line(WatchedTable::Policy, ChangeKind::Added, "a-b", row(Some("Deep \"crawl\"\n\u{9b}2J"), None));
        let expected = r#"{"table":"policy","type":"ADDED","key":"a-b","name":"Deep \"crawl\"\n\u009b2J"}"#;
        assert_eq!(policy, format!("{expected}\n"));
        let schedule = line(WatchedTable::Schedule, ChangeKind::Updated, "c", row(None, None));
        assert_eq!(schedule, "{\"table\":\"schedule\",\"type\":\"UPDATED\",\"key\":\"c\",\"name\":null}\n");
        let login = line(WatchedTable::DomainLogin, ChangeKind::Deleted, "forum.example", row(None, None));
        let expected = "{\"table\":\"domain_login\",\"type\":\"DELETED\",\"key\":\"forum.example\",\"name\":null}\n";
        assert_eq!(login, expected);
    }

    #[test]
    fn a_token_is_shown_in_hexadecimal_digits() {
        let new = Some(row(Some("domain:a.example"), None));
        let key = Key::binary(&[0xc5; 16]);
        let change = RowChange { kind: ChangeKind::Added, key, old: None, new, is_initial: false };
        let line = json_line(&Notice::Row(RowEvent::new(WatchedTable::RateLimit, change)));
        let key = "c5".repeat(16);
        let expected =
            format!(r#"{{"table":"rate_limit","type":"ADDED","key":"{key}","name":"domain:a.example"}}"#) + "\n";
        assert_eq!(line, Some(expected));
    }

    #[test]
    fn a_document_knows_the_name_and_is_shown() {
        let schedule = row(None, Some(r#"{"schedule_name":"Daily","name":"no","enabled":true}"#));
        let expected = concat!(
            r#"{"table":"schedule","type":"DELETED","key":"s","name":"Daily","#,
            r#""document":{"enabled":true,"name":"no","schedule_name":"Daily"}}"#,
            "\n"
        );
        assert_eq!(line(WatchedTable::Schedule, ChangeKind::Deleted, "s", schedule), expected);
    }

    #[test]
    fn a_job_is_known_by_its_state_and_counts() {
        let document =
            r#"{"name":"News","run_state":"running","item_count":9,"http_error_count":2,"exception_count":1}"#;
        let (new, key) = (Some(row(None, Some(document))), Key::text("j"));
        let change = RowChange { kind: ChangeKind::Added, key, old: None, new, is_initial: true };
        let event = RowEvent::new(WatchedTable::Job, change);
        assert_eq!(event.job, Some(JobStanding { state: "running".to_owned(), items: 9, failed: 3 }));
        assert_eq!(event.name.as_deref(), Some("News"));
    }

    #[test]
    fn what_is_no_row_is_a_line_too() {
        let stale = |why: Option<&str>| Notice::Stale { table: WatchedTable::Schedule, why: why.map(str::to_owned) };
        let expected = "{\"table\":\"schedule\",\"type\":\"STALE\",\"message\":\"it is slow\"}\n";
        assert_eq!(json_line(&stale(Some("it is slow"))).as_deref(), Some(expected));
        assert_eq!(json_line(&stale(None)).as_deref(), Some("{\"table\":\"schedule\",\"type\":\"LIVE\"}\n"));
        let lost = |is_still| Notice::Lost { error: "gone".to_owned(), retry_in: Duration::ZERO, is_still };
        let expected = "{\"type\":\"DISCONNECTED\",\"message\":\"gone\"}\n";
        assert_eq!(json_line(&lost(false)).as_deref(), Some(expected));
        assert_eq!(json_line(&lost(true)), None);
        let connected = |is_again| json_line(&Notice::Connected { is_again });
        assert_eq!(connected(true).as_deref(), Some("{\"type\":\"RECONNECTED\"}\n"));
        assert_eq!(connected(false), None);
    }

    #[test]
    fn tables_are_called_as_in_the_database() {
        for table in WatchedTable::ALL {
            assert_eq!(WatchedTable::from_str(table.name(), false), Ok(table));
        }
        let watched = BTreeSet::from(WatchedTable::ALL.map(WatchedTable::name));
        let streamed: BTreeSet<&str> = crate::catalog::TABLES.iter().map(|table| table.name).collect();
        assert_eq!(watched, streamed, "all that the server knows how to name can be watched");
    }
}
