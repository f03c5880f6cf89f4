//! What the simulation does not look at: whose turn it is.

mod laid_out_rows;
mod permits;
mod shared_pages;

use std::sync::Arc;

use super::*;
use crate::change::{Document, Key, Table, Timestamp};
use crate::feed::{FeedLimits, Feeds, Outlet, PagesLimits, Waiting};
use crate::proto::SubscribeOptions;
use crate::proto::request::Command;
use crate::store::tests::options;
use crate::store::{MemoryDisk, Mutation, Outcome, Retention, Store, StoreOptions, TableIndexes, Unit};
use crate::subscription::SubscriptionLimits;
use crate::summary::Summary;
use crate::wire::{Event, News, StateKind};

struct Nobody;

impl Outlet for Nobody {
    fn wake(&self) {}
}

fn session(store: &Store) -> (Session, Arc<Feeds>) {
    let (context, feeds) = context(store);
    (connect(&context, &Waiting::new(1 << 30)), feeds)
}

fn connect(context: &Arc<SessionContext>, waiting: &Arc<Waiting>) -> Session {
    let outbox = Outbox::new(1 << 10, Arc::clone(waiting), Arc::new(Nobody));
    Session::new(Arc::clone(context), Principal::Anonymous, String::new(), outbox)
}

pub(crate) fn context(store: &Store) -> (Arc<SessionContext>, Arc<Feeds>) {
    context_with(store, PageBudget { items: 10, bytes: 1000 })
}

fn context_with(store: &Store, page: PageBudget) -> (Arc<SessionContext>, Arc<Feeds>) {
    let metrics = Arc::new(Metrics::default());
    let feeds = FeedLimits {
        window_bytes: 1 << 20,
        table_filter_cost: 10,
        pattern_bytes: 1000,
        direct_writes: 4,
        hash_seed: 1,
    };
    let feeds = Feeds::new(store.position().seq, feeds, Arc::clone(&metrics));
    let limits = SubscriptionLimits { per_connection: 10, total: 10 };
    let subscriptions = SubscriptionManager::new(Arc::clone(&feeds), limits);
    let limits = SessionLimits {
        requests: 10,
        request_bytes: 1000,
        row_bytes: 1000,
        answer_bytes: 1000,
        import_bytes: 1000,
        page,
        pages: PagesLimits { bytes: 1 << 20, kept_ms: 1000, range: PageBudget { items: 10, bytes: 1000 } },
        filters: FilterLimits::default(),
    };
    let context = SessionContext::new(store, subscriptions, metrics, limits, Writes::Overlap, Arc::default());
    (context, feeds)
}

pub(crate) fn store() -> Store {
    let retention = Retention { bytes: 1 << 20, age_ms: 1 << 40 };
    Store::open(Box::new(MemoryDisk), options(retention)).expect("memory does not fail")
}

pub(crate) fn ask(session: &mut Session, request_id: i32, size: usize, command: Command) {
    let arrival = Arrival { now: Timestamp(0), fresh_id: uuid::Uuid::nil(), has_crawler: false };
    session.receive(ClientMessage { request_id, size, command: Some(command) }, &arrival);
}

pub(crate) fn subscribe() -> Command {
    Command::SubscribeDomainLoginList(proto::RequestSubscribeDomainLoginList::default())
}

fn list() -> Command {
    Command::ListDomainLogins(proto::RequestListDomainLogins { page: None })
}

fn delete(domain: &str) -> Command {
    Command::DeleteDomainLogin(proto::RequestDeleteDomainLogin { domain: Some(domain.to_owned()) })
}

/// Runs what the session wants until it waits; what it sends, in short.
fn run(session: &mut Session, store: &Store) -> Vec<String> {
    let mut sent = Vec::new();
    loop {
        match session.next_step() {
            Step::Wait => return sent,
            Step::Do(Work::Read(read)) => session.read(read.run(store)),
            Step::Do(Work::Share(share)) => session.read(share.now().expect("what was asked for was read at once")),
            Step::Do(Work::Write { ticket, unit }) => {
                let committed = store.commit(Timestamp(0), &[unit]).expect("memory does not fail");
                session.written(ticket, Ok(committed.results.into_iter().next().expect("one unit")));
            }
            Step::Do(other) => panic!("{other:?} is for nobody here"),
            Step::Send(ServerMessage::Response { request_id, result }) => {
                sent.push(format!("{request_id} {}", result.map_or_else(|text| text, |_| "ok".to_owned())));
            }
            Step::Send(ServerMessage::Event { .. }) => sent.push("event".to_owned()),
            Step::Send(ServerMessage::Changes { changes, .. }) => {
                sent.extend(changes.events().map(|_| "event".to_owned()));
            }
            Step::Send(ServerMessage::Rows { rows, .. }) => sent.extend(rows.events().map(|_| "event".to_owned())),
        }
    }
}

#[test]
fn a_flood_of_events_does_not_hold_up_a_request() {
    let store = store();
    let (mut session, feeds) = session(&store);
    ask(&mut session, 1, 10, subscribe());
    assert_eq!(run(&mut session, &store), ["1 ok"]);
    let row = Document::parse(b"{}").expect("an object");
    let units: Vec<Unit> = (0..100)
        .map(|row_number| {
            let key = Key::text(&format!("row{row_number}"));
            vec![Mutation::put(Table::new("domain_login"), key, row.clone())]
        })
        .collect();
    let committed = store.commit(Timestamp(0), &units).expect("memory does not fail");
    feeds.publish(committed.changes, committed.upto);
    ask(&mut session, 2, 10, list());
    assert!(
        matches!(session.next_step(), Step::Do(Work::Read(Read::Query { .. }))),
        "the request comes before the events"
    );
    assert!(
        matches!(session.next_step(), Step::Send(ServerMessage::Changes { .. })),
        "and the events while it is read"
    );
}

#[test]
fn answers_come_in_the_order_of_the_requests() {
    let store = store();
    let (mut session, _feeds) = session(&store);
    ask(&mut session, 1, 10, delete("a.example"));
    ask(&mut session, 2, 10, delete("b.example"));
    let mut tickets = Vec::new();
    while let Step::Do(Work::Write { ticket, .. }) = session.next_step() {
        tickets.push(ticket);
    }
    assert_eq!(tickets.len(), 2, "both are handed to the writer at once");
    // An import that has an error is refused without the disk, but not before what came before it was answered.
    let rows = vec![bytes::Bytes::from_static(b"nonsense")];
    let import = proto::RequestImportRows { table: "policy".to_owned(), rows, first_line: None, commit: Some(true) };
    ask(&mut session, 3, 10, Command::ImportRows(import));
    ask(&mut session, 4, 10, list());
    session.written(tickets[1], Ok(Ok(vec![Outcome::Deleted])));
    assert!(matches!(session.next_step(), Step::Wait), "the second answer waits for the first");
    session.written(tickets[0], Ok(Ok(vec![Outcome::Deleted])));
    let sent = run(&mut session, &store);
    assert_eq!(sent, ["1 ok", "2 ok", "3 nothing was written: some rows were not accepted", "4 ok"]);
}

#[test]
fn a_client_is_not_read_from_while_too_much_waits() {
    let store = store();
    let (mut session, _feeds) = session(&store);
    ask(&mut session, 1, 600, delete("a.example"));
    assert!(!session.is_saturated());
    ask(&mut session, 2, 600, delete("b.example"));
    assert!(session.is_saturated(), "by bytes");
    run(&mut session, &store);
    assert!(!session.is_saturated());
    (0..10).for_each(|request_id| ask(&mut session, request_id, 1, list()));
    assert!(session.is_saturated(), "by number");
    run(&mut session, &store);
    assert!(!session.is_saturated());
}

fn login(store: &Store, feeds: &Arc<Feeds>, number: usize, text: &str) {
    let row = Document::parse(format!(r#"{{"a":"{text}"}}"#).as_bytes()).expect("an object");
    let key = Key::text(&format!("row{number:03}"));
    let unit = vec![Mutation::put(Table::new("domain_login"), key, row)];
    let committed = store.commit(Timestamp(0), &[unit]).expect("memory does not fail");
    feeds.publish(committed.changes, committed.upto);
}

fn subscribe_with(options: SubscribeOptions) -> Command {
    Command::SubscribeDomainLoginList(proto::RequestSubscribeDomainLoginList { options: Some(options) })
}

/// Runs what the session wants until it waits; the events that it sends.
fn events(session: &mut Session, store: &Store) -> Vec<Event> {
    let mut sent = Vec::new();
    loop {
        match session.next_step() {
            Step::Wait => return sent,
            Step::Do(Work::Read(read)) => session.read(read.run(store)),
            Step::Do(Work::Share(share)) => session.read(share.now().expect("it was read")),
            Step::Do(other) => panic!("only rows are read: {other:?}"),
            Step::Send(ServerMessage::Response { result, .. }) => drop(result.expect("it is granted")),
            Step::Send(ServerMessage::Event { event, .. }) => sent.push(event),
            Step::Send(ServerMessage::Changes { changes, .. }) => sent.extend(changes.events()),
            Step::Send(ServerMessage::Rows { rows, .. }) => sent.extend(rows.events()),
        }
    }
}

fn states(events: &[Event]) -> Vec<StateKind> {
    let state = |event: &Event| match &event.news {
        News::State(state) => Some(state.kind),
        News::Row { .. } | News::Body(_) | News::Closed { .. } => None,
    };
    events.iter().filter_map(state).collect()
}

#[test]
fn a_token_of_what_a_restored_store_does_not_have_is_of_the_future() {
    let newer = store();
    let (mut session, feeds) = session(&newer);
    login(&newer, &feeds, 1, "x");
    let options = SubscribeOptions { states: Some(true), tokens: Some(true), ..Default::default() };
    ask(&mut session, 1, 10, subscribe_with(options.clone()));
    let sent = events(&mut session, &newer);
    assert_eq!(states(&sent), [StateKind::Initializing, StateKind::Ready, StateKind::Live]);
    let resume_token = sent.last().and_then(|event| event.token.clone());
    assert!(resume_token.is_some());
    let restored = store();
    let (mut session, _feeds) = self::session(&restored);
    ask(&mut session, 1, 10, subscribe_with(SubscribeOptions { resume_token, ..options }));
    let kinds = states(&events(&mut session, &restored));
    let future = StateKind::Reset(crate::wire::ResetReason::Future);
    assert_eq!(kinds, [future, StateKind::Initializing, StateKind::Ready, StateKind::Live]);
}

#[test]
fn states_come_only_to_those_who_asked_for_them() {
    let retention = Retention { bytes: 2_000, age_ms: 1 << 40 };
    let options = options(retention);
    let store = Store::open(Box::new(MemoryDisk), options).expect("memory does not fail");
    let (mut session, feeds) = session(&store);
    let options = SubscribeOptions { include_document: Some(true), ..Default::default() };
    ask(&mut session, 1, 10, subscribe_with(options));
    events(&mut session, &store);
    // More than the outbox, the window and the log keep.
    for number in 0..3_000 {
        login(&store, &feeds, number % 3, &format!("{number:0500}"));
    }
    let sent = events(&mut session, &store);
    assert_eq!(states(&sent), []);
    assert!(matches!(sent.last().expect("it has ended").news, News::Closed { .. }));
}

#[test]
fn pages_that_are_read_count_as_waiting() {
    let store = store();
    let (context, feeds) = context(&store);
    (0..10).for_each(|number| login(&store, &feeds, number, &"x".repeat(500)));
    let waiting = Waiting::new(1 << 30);
    let mut session = connect(&context, &waiting);
    ask(&mut session, 1, 10, subscribe());
    assert!(matches!(session.next_step(), Step::Send(ServerMessage::Response { .. })));
    let Step::Do(Work::Read(read)) = session.next_step() else { panic!("the first page") };
    let reserved = waiting.bytes();
    assert!(reserved > 0, "room for it is taken before it is read");
    session.read(read.run(&store));
    assert!(waiting.bytes() > 0);
    drop(session);
    assert_eq!(waiting.bytes(), 0);
}

#[test]
fn those_that_catch_up_leave_room_for_those_that_are_live() {
    let store = store();
    let (context, feeds) = context(&store);
    (0..10).for_each(|number| login(&store, &feeds, number, &"x".repeat(500)));
    let waiting = Waiting::new(64 * 1024);
    let mut page = context.limits.page;
    page.bytes = 16 * 1024;
    let limits = SessionLimits { page, ..context.limits };
    let context = Arc::new(SessionContext { limits, ..Arc::into_inner(context).expect("nobody else has it") });
    let mut reserved = Vec::new();
    let sessions: Vec<(Session, Step)> = (0..5)
        .map(|number| {
            let mut session = connect(&context, &waiting);
            // No page is another's.
            let filter = Some(format!("a != \"{number}\""));
            ask(&mut session, 1, 10, subscribe_with(SubscribeOptions { filter, ..Default::default() }));
            let Step::Do(Work::Read(question)) = session.next_step() else { panic!("its filter is read") };
            session.read(question.run(&store));
            assert!(matches!(session.next_step(), Step::Send(ServerMessage::Response { .. })));
            let before = waiting.bytes();
            let reading = session.next_step();
            assert!(matches!(reading, Step::Do(Work::Read(Read::Page { .. }))));
            reserved.push(waiting.bytes() - before);
            (session, reading)
        })
        .collect();
    assert_eq!(reserved, [16, 16, 4, 4, 4].map(|kib| kib * 1024), "half of all is for pages, and everybody comes on");
    drop(sessions);
}

#[test]
fn the_rows_of_a_page_are_sent_many_at_a_time_and_each_is_counted() {
    let store = store();
    let (context, feeds) = context_with(&store, PageBudget { items: 150, bytes: 1 << 20 });
    let mut expected = Summary::default();
    for number in 0..200 {
        login(&store, &feeds, number, &"x".repeat(500));
        expected.add(&Key::text(&format!("row{number:03}")), store.position().seq);
    }
    let waiting = Waiting::new(1 << 30);
    for (states, tokens) in [(true, false), (true, true), (false, false)] {
        let mut session = connect(&context, &waiting);
        let options = SubscribeOptions { states: Some(states), tokens: Some(tokens), ..Default::default() };
        ask(&mut session, 1, 10, subscribe_with(options));
        let (mut portions, mut sent) = (Vec::new(), Vec::new());
        loop {
            match session.next_step() {
                Step::Wait => break,
                Step::Do(Work::Read(read)) => session.read(read.run(&store)),
                Step::Do(Work::Share(share)) => session.read(share.now().expect("it was read")),
                Step::Do(other) => panic!("only rows are read: {other:?}"),
                Step::Send(ServerMessage::Event { event, .. }) => sent.push(event),
                Step::Send(ServerMessage::Rows { rows, .. }) => {
                    portions.push(rows.range().len());
                    sent.extend(rows.events());
                }
                Step::Send(_) => {}
            }
        }
        assert_eq!(portions.is_empty(), tokens, "a place to go on from is between rows");
        assert!(tokens || portions.len() >= 6 && portions.iter().all(|rows| *rows < 50), "{portions:?}");
        let rows: Vec<&Event> = sent.iter().filter(|event| matches!(event.news, News::Row { .. })).collect();
        assert_eq!(rows.len(), 200);
        assert!(rows.iter().all(|event| event.token.is_some() == tokens));
        let numbers: Vec<Option<u64>> = sent.iter().map(|event| event.number).collect();
        assert_eq!(numbers, (1..).take(sent.len()).map(|number| states.then_some(number)).collect::<Vec<_>>());
        let held = sent.iter().filter_map(|event| match &event.news {
            News::State(state) => state.holds,
            _ => None,
        });
        assert!(held.clone().all(|(_, summary)| summary == expected));
        assert_eq!(held.count() > 0, states);
    }
}

#[test]
fn no_filter_runs_on_the_loop_of_a_connection() {
    let store = store();
    let (context, feeds) = context(&store);
    let waiting = Waiting::new(1 << 30);
    // Somebody else keeps the feed and its window.
    let mut other = connect(&context, &waiting);
    ask(&mut other, 1, 10, subscribe());
    events(&mut other, &store);
    let filter = Some("a != \"y\"".to_owned());
    let options = SubscribeOptions { filter, states: Some(true), tokens: Some(true), ..Default::default() };
    let mut session = connect(&context, &waiting);
    ask(&mut session, 1, 10, subscribe_with(options.clone()));
    assert!(matches!(session.next_step(), Step::Do(Work::Read(Read::Question(_)))), "its text is read elsewhere");
    let mut session = connect(&context, &waiting);
    ask(&mut session, 1, 10, subscribe_with(options.clone()));
    let resume_token = events(&mut session, &store).last().and_then(|event| event.token.clone());
    drop(session);
    login(&store, &feeds, 1, "x");
    let mut session = connect(&context, &waiting);
    ask(&mut session, 1, 10, subscribe_with(SubscribeOptions { resume_token, ..options }));
    let mut replays = 0;
    let mut sent = 0;
    loop {
        match session.next_step() {
            Step::Wait => break,
            Step::Do(Work::Read(read)) => {
                replays += usize::from(matches!(read, Read::Replay { .. }));
                session.read(read.run(&store));
            }
            Step::Do(other) => panic!("only rows are read: {other:?}"),
            Step::Send(ServerMessage::Event { event, .. }) => {
                sent += usize::from(matches!(event.news, News::Row { .. }))
            }
            Step::Send(ServerMessage::Changes { changes, .. }) => sent += changes.events().count(),
            Step::Send(ServerMessage::Rows { .. }) => panic!("all rows were sent"),
            Step::Send(ServerMessage::Response { .. }) => {}
        }
    }
    assert_eq!((replays, sent), (1, 1));
}

/// A store with a job that is over, and three responses of it.
fn store_with_a_job(id: &str) -> Store {
    let tables = catalog::stored_tables();
    let indexes = tables.map(|table| TableIndexes { table: table.table(), indexes: table.indexes }).collect();
    let retention = Retention { bytes: 1 << 20, age_ms: 1 << 40 };
    let options = StoreOptions { indexes, ..options(retention) };
    let store = Store::open(Box::new(MemoryDisk), options).expect("memory does not fail");
    let row = |text: String| Document::parse(text.as_bytes()).expect("an object");
    let job = row(format!(r#"{{"id":"{id}","run_state":"completed"}}"#));
    let mut unit = vec![Mutation::put(Table::new("job"), Key::text(id), job)];
    for sequence in 1..=3 {
        let response = row(format!(r#"{{"sequence":{sequence},"job_id":"{id}"}}"#));
        unit.push(Mutation::put(Table::new("response"), Key::number(f64::from(sequence)), response));
    }
    store.commit(Timestamp(0), &[unit]).expect("memory does not fail");
    store
}

#[test]
fn nothing_begins_between_the_steps_of_a_request() {
    let id = uuid::Uuid::from_bytes([0x12; 16]);
    let store = store_with_a_job(&id.to_string());
    let (mut session, _feeds) = session(&store);
    let job_id = id.as_bytes().to_vec().into();
    ask(&mut session, 1, 10, Command::DeleteJob(proto::RequestDeleteJob { job_id }));
    ask(&mut session, 2, 10, delete("a.example"));
    ask(&mut session, 3, 10, list());
    let mut written = Vec::new();
    let mut answered = Vec::new();
    loop {
        match session.next_step() {
            Step::Wait => break,
            Step::Do(Work::Read(read)) => session.read(read.run(&store)),
            Step::Do(Work::Write { ticket, unit }) => {
                written.push((unit[0].table.name().to_owned(), unit.len()));
                // While it is being written, writes of the same request wait, and so do others.
                if unit[0].table.name() == "response" {
                    assert!(matches!(session.next_step(), Step::Wait), "the request has more steps");
                }
                let committed = store.commit(Timestamp(0), &[unit]).expect("memory does not fail");
                session.written(ticket, Ok(committed.results.into_iter().next().expect("one unit")));
            }
            Step::Send(ServerMessage::Response { request_id, result }) => answered.push((request_id, result.is_ok())),
            other => panic!("{other:?}"),
        }
    }
    let written: Vec<(&str, usize)> = written.iter().map(|(table, rows)| (table.as_str(), *rows)).collect();
    assert_eq!(written, [("response", 3), ("job", 1), ("domain_login", 1)]);
    assert_eq!(answered, [(1, true), (2, true), (3, true)]);
    assert_eq!(store.snapshot().expect("memory").count(&Table::new("response")).expect("memory"), 0);
}

#[test]
fn what_the_crawler_is_asked_holds_nothing_up() {
    let store = store();
    let (mut session, _feeds) = session(&store);
    let arrival = Arrival { now: Timestamp(0), fresh_id: uuid::Uuid::nil(), has_crawler: true };
    let profile = Command::PerformanceProfile(proto::RequestPerformanceProfile::default());
    session.receive(ClientMessage { request_id: 1, size: 10, command: Some(profile) }, &arrival);
    ask(&mut session, 2, 10, list());
    let Step::Do(Work::Ask { ticket, command }) = session.next_step() else { panic!("the crawler is asked") };
    assert!(matches!(*command, Command::PerformanceProfile(_)));
    assert_eq!(run(&mut session, &store), ["2 ok"]);
    session.asked(ticket, Err("no".to_owned()));
    assert_eq!(run(&mut session, &store), ["1 no"]);
}

#[test]
fn trees_that_are_always_due_leave_turns_to_others() {
    let store = store_with_a_job("00000000-0000-4000-8000-000000000001");
    let (mut session, _feeds) = session(&store);
    for request_id in 1..=2 {
        ask(
            &mut session,
            request_id,
            10,
            Command::SubscribeTaskMonitor(proto::RequestSubscribeTaskMonitor { period: Some(0.05) }),
        );
    }
    let mut trees = Vec::new();
    for turn in 0..6 {
        session.tick(1000 * turn);
        loop {
            match session.next_step() {
                Step::Send(ServerMessage::Event { subscription_id, .. }) => break trees.push(subscription_id),
                Step::Send(ServerMessage::Response { .. }) => {}
                other => panic!("{other:?}: a tree is due"),
            }
        }
    }
    assert_eq!(trees, [0, 1, 0, 1, 0, 1]);
}

/// A session that syncs the job of `store`, until it has answered that and wants to look for items.
fn syncing(store: &Store, job: uuid::Uuid) -> Session {
    let (mut session, _feeds) = session(store);
    let job_id = job.as_bytes().to_vec().into();
    let sync = proto::RequestSubscribeJobSync { job_id, ..Default::default() };
    ask(&mut session, 1, 10, Command::SubscribeJobSync(sync));
    let mut watches = 0;
    loop {
        match session.next_step() {
            Step::Do(Work::Read(read @ Read::Query { reader: Reader::Request, .. })) => session.read(read.run(store)),
            Step::Do(Work::Watch(watch)) => {
                assert!(["job", "response"].contains(&watch.table.name()));
                watches += 1;
            }
            Step::Do(Work::Read(Read::Query { reader: Reader::Stream(0), .. })) => break,
            Step::Send(ServerMessage::Response { request_id, result }) => assert!(request_id == 1 && result.is_ok()),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(watches, 2);
    session
}

/// The end of the one subscription, behind what it has to send before.
fn end_of(session: &mut Session, store: &Store) -> (crate::wire::End, usize) {
    let mut items = 0;
    loop {
        match session.next_step() {
            Step::Do(Work::Read(read)) => session.read(read.run(store)),
            Step::Send(ServerMessage::Event { event: Event { news: News::Body(Some(_)), .. }, .. }) => items += 1,
            Step::Send(ServerMessage::Event { event: Event { news: News::Closed { end, .. }, .. }, .. }) => {
                return (end, items);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_sync_ends_with_what_lasts_and_looks_again_after_what_passes() {
    use crate::store::StoreError;
    use crate::wire::End;
    let id = uuid::Uuid::from_bytes([0x12; 16]);
    let store = store_with_a_job(&id.to_string());
    let failed = |error: StoreError| ReadResult::Query(Reader::Stream(0), Err(error.into()));

    let mut session = syncing(&store, id);
    session.read(failed(StoreError::Damaged("a page".to_owned())));
    assert_eq!(end_of(&mut session, &store), (End::Error, 0));

    let mut session = syncing(&store, id);
    session.read(failed(StoreError::Disk("a cable".to_owned())));
    assert!(matches!(session.next_step(), Step::Wait), "not at once");
    session.tick(session.due_ms().expect("later"));
    assert_eq!(end_of(&mut session, &store), (End::Complete, 3));
}

#[test]
fn a_sync_looks_again_when_it_is_told_to_and_no_sooner() {
    let id = uuid::Uuid::from_bytes([0x12; 16]);
    let store = store_with_a_job(&id.to_string());
    let row = |text: String| Document::parse(text.as_bytes()).expect("an object");
    let job = |state: &str| {
        let document = row(format!(r#"{{"id":"{id}","run_state":"{state}"}}"#));
        vec![Mutation::put(Table::new("job"), Key::text(&id.to_string()), document)]
    };
    store.commit(Timestamp(0), &[job("running")]).expect("memory does not fail");
    let mut session = syncing(&store, id);
    let result = store
        .snapshot()
        .expect("memory")
        .query(&crate::store::Query::Get { table: Table::new("job"), key: Key::text(&id.to_string()) }, 1000);
    session.read(ReadResult::Query(Reader::Stream(0), result.map_err(SourceError::from)));
    let mut items = 0;
    loop {
        match session.next_step() {
            Step::Wait => break,
            Step::Do(Work::Read(read)) => session.read(read.run(&store)),
            Step::Send(_) => items += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(items, 3);
    store.commit(Timestamp(0), &[job("completed")]).expect("memory does not fail");
    assert!(matches!(session.next_step(), Step::Wait), "nobody has told it");
    session.changed(0);
    assert_eq!(end_of(&mut session, &store), (crate::wire::End::Complete, 0));
}
