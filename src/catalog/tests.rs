use prost::Message;
use serde_json::{Value, json};
use uuid::Uuid;

use super::*;
use crate::change::{Epoch, Timestamp};
use crate::proto::request::Command;
use crate::proto::response::Body;
use crate::store::{MemoryDisk, Mutation, PageBudget, Retention, Store, StoreOptions, StoreSecret, TableIndexes};

/// Commands carried out on a store, as a server would.
pub(super) struct World {
    store: Store,
    /// The time of the next command, in milliseconds; each takes a second.
    pub(super) now_ms: u64,
    /// The first byte of the next fresh id.
    pub(super) fresh: u8,
    /// What rows of the last answer could not show.
    pub(super) problems: Vec<String>,
}

impl World {
    pub(super) fn new() -> Self {
        let retention = Retention { bytes: 1 << 20, age_ms: 1 << 40 };
        let options = StoreOptions {
            retention,
            cache_bytes: 1 << 20,
            journal_bytes: 1 << 20,
            fresh_epoch: Epoch(1),
            fresh_secret: StoreSecret([7; 32]),
            indexes: indexes_of_all(),
        };
        let store = Store::open(Box::new(MemoryDisk), options).unwrap();
        Self { store, now_ms: 1_546_344_000_123, fresh: 1, problems: Vec::new() }
    }

    /// Writes a row as if somebody else had.
    pub(super) fn insert(&self, table: &str, key: &str, row: &Value) {
        self.insert_at(table, Key::text(key), row);
    }

    /// The same for a key that need not be text.
    pub(super) fn insert_at(&self, table: &str, key: Key, row: &Value) {
        let mutation = Mutation::put(Table::new(table), key, document(row));
        self.store.commit(Timestamp(0), &[vec![mutation]]).unwrap();
    }

    pub(super) fn command(&mut self, command: Command) -> Result<Option<Body>, String> {
        let fresh_id = Uuid::from_bytes([self.fresh; 16]);
        let arrival = Arrival { now: Timestamp(self.now_ms), fresh_id, has_crawler: false };
        match self.carried_out(plan(command, &arrival)?)? {
            Reply::Body(body) => Ok(body.map(|body| *body)),
            other => panic!("no command ends with {other:?}"),
        }
    }

    /// One look at what a job has downloaded.
    pub(super) fn look(&mut self, plan: JobSyncPlan, budget: PageBudget) -> SyncPage {
        match self.carried_out(look(plan, budget)) {
            Ok(Reply::Page(page)) => page,
            other => panic!("no look ends with {other:?}"),
        }
    }

    fn carried_out(&mut self, mut plan: Plan) -> Result<Reply, String> {
        self.problems.clear();
        let now = Timestamp(self.now_ms);
        loop {
            let reply = match plan {
                Plan::Read { query, answer } => {
                    let result = self.store.snapshot().unwrap().query(&query, 1 << 20).unwrap();
                    self.reported(answer(result))?
                }
                Plan::Compute(work) => self.reported(work())?,
                Plan::Write { mutations, reply } => {
                    self.now_ms += 1000;
                    self.fresh += 1;
                    let committed = self.store.commit(now, &[mutations]).unwrap();
                    committed.results.into_iter().next().unwrap()?;
                    reply
                }
                other => panic!("{other:?} is neither a read nor a write"),
            };
            match reply {
                Reply::Go(next) => plan = *next,
                end => return Ok(end),
            }
        }
    }

    fn reported(&mut self, answer: Answer) -> Result<Reply, String> {
        let problems = answer.problems.iter().map(|report| format!("{}: {}", report.key, report.problem));
        self.problems.extend(problems);
        answer.reply
    }

    pub(super) fn row(&self, table: &str, key: &str) -> Option<Value> {
        self.row_at(table, &Key::text(key))
    }

    pub(super) fn row_at(&self, table: &str, key: &Key) -> Option<Value> {
        let row = self.store.snapshot().unwrap().row(&Table::new(table), key).unwrap()?;
        Some(Value::Object(row.document.members().unwrap()))
    }
}

fn indexes_of_all() -> Vec<TableIndexes> {
    stored_tables().map(|table| TableIndexes { table: table.table(), indexes: table.indexes }).collect()
}

pub(super) fn document(row: &Value) -> Document {
    Document::parse(row.to_string().as_bytes()).unwrap()
}

pub(super) fn time(ms: u64) -> Value {
    time::stored(Timestamp(ms))
}

/// `row` with the member at `path` removed or, with a value, replaced.
pub(super) fn changed(row: &Value, path: &str, value: Option<Value>) -> Value {
    let mut row = row.clone();
    let (parent, name) = path.rsplit_once('/').unwrap();
    let parent = row.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    match value {
        Some(value) => parent.insert(name.to_owned(), value),
        None => parent.remove(name),
    };
    row
}

#[test]
fn tables_are_found_by_name() {
    for table in TABLES {
        assert!(std::ptr::eq(super::table(table.name).unwrap(), table));
        assert_eq!(table.table(), Table::new(table.name));
    }
    assert!(super::table("response").is_none());
    let names: Vec<&str> = stored_tables().map(|table| table.name).collect();
    let expected = [
        "policy",
        "schedule",
        "domain_login",
        "captcha_solver",
        "rate_limit",
        "job",
        "response",
        "response_body",
        "frontier",
        "robots_txt",
    ];
    assert_eq!(names, expected);
    for name in expected {
        assert_eq!(stored_table(name).unwrap().table(), Table::new(name));
    }
    assert!(stored_table("polices").is_none());
}

#[test]
fn every_command_of_the_protocol_has_a_plan() {
    let arrival = Arrival { now: Timestamp(0), fresh_id: Uuid::nil(), has_crawler: false };
    let numbers = (2..=35).filter(|number| *number != 14).chain(100..=103).chain(107..=109);
    for number in numbers {
        // The request with an empty command.
        let mut bytes = Vec::new();
        prost::encoding::encode_key(number, prost::encoding::WireType::LengthDelimited, &mut bytes);
        bytes.push(0);
        let command = proto::Request::decode(bytes.as_slice()).unwrap().command.expect("a command");
        let shown = format!("{command:?}");
        if let Err(text) = plan(command, &arrival) {
            assert!(text.is_ascii() && !text.is_empty(), "{shown}: {text}");
        }
    }
}

#[test]
fn subscriptions_and_transfers_are_handed_through() {
    let arrival = Arrival { now: Timestamp(0), fresh_id: Uuid::nil(), has_crawler: false };
    let plan = |command| plan(command, &arrival).unwrap();
    for (command, name) in [
        (Command::SubscribePolicyList(Default::default()), "policy"),
        (Command::SubscribeScheduleList(Default::default()), "schedule"),
        (Command::SubscribeDomainLoginList(Default::default()), "domain_login"),
        (Command::SubscribeCaptchaSolverList(Default::default()), "captcha_solver"),
        (Command::SubscribeRateLimitList(Default::default()), "rate_limit"),
        (Command::SubscribeJobList(Default::default()), "job"),
    ] {
        assert!(matches!(plan(command), Plan::Subscribe(plan) if plan.table.name() == name));
    }
    let unsubscribe = proto::RequestUnsubscribe { subscription_id: 7 };
    assert!(matches!(plan(Command::Unsubscribe(unsubscribe)), Plan::Unsubscribe(7)));
    let import = proto::RequestImportRows { table: "policy".into(), ..Default::default() };
    assert!(matches!(plan(Command::ImportRows(import)), Plan::ImportRows(request) if request.table == "policy"));
    let export = proto::RequestExportRows { table: "policy".into(), ..Default::default() };
    assert!(matches!(plan(Command::ExportRows(export)), Plan::ExportRows(request) if request.table == "policy"));
}

#[test]
fn pages_are_as_asked() {
    let mut world = World::new();
    for number in 0..12 {
        let domain = format!("{number:02}.example");
        world.insert("domain_login", &domain, &json!({"domain": domain, "login_url": "u", "users": []}));
    }
    let cases = [
        (None, 0..10),
        (Some(proto::Page { limit: None, offset: None }), 0..10),
        (Some(proto::Page { limit: Some(5), offset: Some(10) }), 10..12),
        (Some(proto::Page { limit: Some(0), offset: None }), 0..0),
        (Some(proto::Page { limit: Some(i32::MAX), offset: Some(1) }), 1..12),
        (Some(proto::Page { limit: None, offset: Some(i32::MAX) }), 0..0),
    ];
    for (page, expected) in cases {
        let command = Command::ListDomainLogins(proto::RequestListDomainLogins { page });
        let Ok(Some(Body::ListDomainLogins(list))) = world.command(command) else { panic!("no list") };
        let domains: Vec<&str> = list.logins.iter().map(proto::DomainLogin::domain).collect();
        let expected: Vec<String> = expected.map(|number| format!("{number:02}.example")).collect();
        assert_eq!(domains, expected);
        assert_eq!(list.total, Some(12));
    }
    for (limit, offset, expected) in
        [(-1, 0, "Page limit must be ≥0."), (0, -1, "Page offset must be ≥0."), (-1, -1, "Page limit must be ≥0.")]
    {
        let page = Some(proto::Page { limit: Some(limit), offset: Some(offset) });
        let commands = [
            Command::ListPolicies(proto::RequestListPolicies { page }),
            Command::ListSchedules(proto::RequestListSchedules { page }),
            Command::ListDomainLogins(proto::RequestListDomainLogins { page }),
            Command::ListCaptchaSolvers(proto::RequestListCaptchaSolvers { page }),
            Command::ListRateLimits(proto::RequestListRateLimits { page }),
        ];
        for command in commands {
            assert_eq!(world.command(command).unwrap_err(), expected);
        }
    }
}

#[test]
fn the_example_rows_can_be_stored_and_shown() {
    for table in TABLES {
        let path = format!("{}/examples/rows/{}.ndjson", env!("CARGO_MANIFEST_DIR"), table.name);
        let rows = std::fs::read_to_string(path).unwrap();
        for row in rows.lines() {
            let document = Document::parse(row.as_bytes()).unwrap();
            let key = (table.check)(&document).unwrap_or_else(|error| panic!("{error} in {row}"));
            assert!(table.keys.allows(&key), "{row}");
            assert_eq!((table.name_event)(&key, &document).problem, None, "{row}");
            let redacted = crate::view::redacted(&document, table.secrets);
            assert_eq!((table.row_message)(&key, &redacted).problem, None, "{row}");
        }
    }
}

#[test]
fn plans_show_no_secrets() {
    let user = proto::DomainLoginUser { password: Some("hunter2".into()), ..Default::default() };
    let login = proto::DomainLogin {
        domain: Some("a.example".into()),
        login_url: Some("https://user:hunter2@a.example".into()),
        users: vec![user],
        ..Default::default()
    };
    let command = Command::SetDomainLogin(proto::RequestSetDomainLogin { login: Some(login) });
    let arrival = Arrival { now: Timestamp(0), fresh_id: Uuid::nil(), has_crawler: false };
    let plan = plan(command, &arrival).unwrap();
    assert!(format!("{plan:?}").contains("a.example"));
    assert!(!format!("{plan:?}").contains("hunter2"));
}
