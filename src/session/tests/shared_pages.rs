//! Pages that several sessions are sent: who reads them, and who may have them.

use super::*;
use crate::feed::Content;
use crate::wire::State;

/// A session that has subscribed to all logins, and whose page is yet to be read or taken from another.
fn joined(context: &Arc<SessionContext>, waiting: &Arc<Waiting>) -> (Session, Work) {
    let mut session = connect(context, waiting);
    let work = join(&mut session, 1);
    (session, work)
}

fn join(session: &mut Session, request_id: i32) -> Work {
    join_with(session, request_id, SubscribeOptions { states: Some(true), ..Default::default() })
}

fn join_with(session: &mut Session, request_id: i32, options: SubscribeOptions) -> Work {
    ask(session, request_id, 10, subscribe_with(options));
    loop {
        match session.next_step() {
            Step::Send(_) => {}
            Step::Do(work) => return work,
            Step::Wait => panic!("a page is wanted"),
        }
    }
}

fn read_of(work: Work) -> Read {
    let Work::Read(read @ Read::Page { .. }) = work else { panic!("nobody else reads it: {work:?}") };
    read
}

fn share_of(work: Work) -> Share {
    let Work::Share(share) = work else { panic!("another one has it: {work:?}") };
    share
}

/// What the client holds at READY, and how many rows and changes came before it and behind it.
fn at_ready(events: &[Event]) -> (Seq, usize, usize) {
    let ready = |event: &Event| match &event.news {
        News::State(State { kind: StateKind::Ready, holds: Some((seq, _)), .. }) => Some(*seq),
        _ => None,
    };
    let at = events.iter().position(|event| ready(event).is_some()).expect("it is ready");
    let rows = |events: &[Event]| events.iter().filter(|event| matches!(event.news, News::Row { .. })).count();
    (ready(&events[at]).expect("it is"), rows(&events[..at]), rows(&events[at..]))
}

#[test]
fn all_who_join_are_sent_the_page_that_one_has_read() {
    let store = store();
    let (context, feeds) = context(&store);
    (0..5).for_each(|number| login(&store, &feeds, number, "x"));
    let waiting = Waiting::new(1 << 30);
    let (mut first, work) = joined(&context, &waiting);
    let read = read_of(work);
    let (mut second, share) = joined(&context, &waiting);
    let share = share_of(share);
    assert!(share.now().is_none(), "it is being read");
    let reserved = waiting.bytes();
    let (mut third, other) = joined(&context, &waiting);
    assert_eq!(waiting.bytes(), reserved, "who waits takes no room");
    first.read(read.run(&store));
    let held = waiting.bytes();
    assert!(held > 0, "a page is open");
    second.read(share.now().expect("it was read"));
    third.read(share_of(other).now().expect("it was read"));
    assert_eq!(waiting.bytes(), held, "it is there once");
    for session in [&mut first, &mut second, &mut third] {
        assert_eq!(at_ready(&events(session, &store)), (store.position().seq, 5, 0));
    }
    assert_eq!(waiting.bytes(), 0);
    assert_eq!((context.metrics.pages_read.get(), context.metrics.pages_shared.get()), (1, 2));
    assert!(context.pages.bytes() > 0, "it is kept for those who come next");
    context.pages.tick(5_000);
    assert_eq!(context.pages.bytes(), 0, "and not for ever");
    read_of(joined(&context, &waiting).1);
}

#[test]
fn a_page_whose_reader_leaves_is_read_by_one_who_waits() {
    let store = store();
    let (context, feeds) = context(&store);
    login(&store, &feeds, 1, "x");
    let waiting = Waiting::new(1 << 30);
    let first = joined(&context, &waiting);
    let (mut second, share) = joined(&context, &waiting);
    let (mut third, other) = joined(&context, &waiting);
    drop(first);
    second.read(share_of(share).now().expect("it was given up"));
    third.read(share_of(other).now().expect("it was given up"));
    let Step::Do(work) = second.next_step() else { panic!("it still wants the page") };
    let read = read_of(work);
    let Step::Do(work) = third.next_step() else { panic!("it still wants the page") };
    let share = share_of(work);
    second.read(read.run(&store));
    third.read(share.now().expect("it was read"));
    assert_eq!(at_ready(&events(&mut third, &store)), (store.position().seq, 1, 0));
    assert_eq!(context.metrics.pages_read.get(), 1);
}

#[test]
fn who_waits_hears_that_a_page_was_given_up() {
    let store = store();
    let (context, _feeds) = context(&store);
    let waiting = Waiting::new(1 << 30);
    let first = joined(&context, &waiting);
    let (_second, share) = joined(&context, &waiting);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    drop(first);
    let result = runtime.block_on(share_of(share).wait());
    assert!(matches!(result, ReadResult::GivenUp { subscription_id: 0 }), "{result:?}");
}

/// Has somebody read a page with one row, and two changes follow: it is still good enough for all but whoever knows better.
fn outdated_page(store: &Store, feeds: &Arc<Feeds>, context: &Arc<SessionContext>, waiting: &Arc<Waiting>) {
    login(store, feeds, 1, "x");
    let (mut first, work) = joined(context, waiting);
    first.read(read_of(work).run(store));
    assert_eq!(at_ready(&events(&mut first, store)), (Seq(1), 1, 0));
    login(store, feeds, 1, "y");
    login(store, feeds, 2, "z");
}

#[test]
fn ready_says_that_all_is_there_that_was_there_when_the_client_asked() {
    let store = store();
    let (context, feeds) = context(&store);
    let waiting = Waiting::new(1 << 30);
    outdated_page(&store, &feeds, &context, &waiting);
    let (mut second, work) = joined(&context, &waiting);
    second.read(share_of(work).now().expect("it was read"));
    login(&store, &feeds, 3, "z");
    let sent = events(&mut second, &store);
    assert_eq!(states(&sent), [StateKind::Ready, StateKind::Live]);
    let (ready_at, before, behind) = at_ready(&sent);
    assert!(ready_at >= Seq(3), "READY at {ready_at}");
    assert_eq!(before + behind, 4, "a row and three changes");
}

#[test]
fn nobody_can_go_on_from_between_the_rows_and_ready() {
    let store = store();
    let (context, feeds) = context(&store);
    let waiting = Waiting::new(1 << 30);
    outdated_page(&store, &feeds, &context, &waiting);
    let mut second = connect(&context, &waiting);
    let options = SubscribeOptions { states: Some(true), tokens: Some(true), ..Default::default() };
    let share = share_of(join_with(&mut second, 1, options));
    second.read(share.now().expect("it was read"));
    let sent = events(&mut second, &store);
    let ready = sent.iter().position(|event| matches!(&event.news, News::State(State { kind: StateKind::Ready, .. })));
    let (before, behind) = sent.split_at(ready.expect("it is ready"));
    let is_change = |event: &&Event| matches!(event.news, News::Row { content: Content::Change(_), .. });
    let changes: Vec<_> = before.iter().filter(is_change).collect();
    assert_eq!(changes.len(), 2, "they came after the page was read, and before the client asked");
    assert!(changes.iter().all(|event| event.token.is_none()), "who went on from there would not be told READY");
    assert!(behind.iter().all(|event| event.token.is_some()));
}

#[test]
fn a_client_sees_its_own_writes_in_the_first_page() {
    let store = store();
    let (context, feeds) = context(&store);
    login(&store, &feeds, 1, "x");
    let waiting = Waiting::new(1 << 30);
    let (mut first, work) = joined(&context, &waiting);
    first.read(read_of(work).run(&store));
    let mut writer = connect(&context, &waiting);
    ask(&mut writer, 1, 10, delete("row001"));
    assert_eq!(run(&mut writer, &store), ["1 ok"]);
    let read = read_of(join(&mut writer, 2));
    // Nobody has published the write yet: what it has written is not to come as news.
    writer.read(read.run(&store));
    assert_eq!(at_ready(&events(&mut writer, &store)), (Seq(2), 0, 0));
}

#[test]
fn pages_for_others_are_no_pages_for_me() {
    let store = store();
    let (context, feeds) = context(&store);
    login(&store, &feeds, 1, "x");
    let waiting = Waiting::new(1 << 30);
    let (mut first, work) = joined(&context, &waiting);
    first.read(read_of(work).run(&store));
    let mut other = connect(&context, &waiting);
    let filter = Some("a == \"y\"".to_owned());
    ask(&mut other, 1, 10, subscribe_with(SubscribeOptions { filter, states: Some(true), ..Default::default() }));
    assert_eq!(at_ready(&events(&mut other, &store)), (Seq(1), 0, 0));
    assert_eq!(context.metrics.pages_read.get(), 2);
}
