//! What the simulation does not come to: a commit that is on disk and not handed over yet, and filters that come and go while
//! a batch is matched.

use super::*;
use crate::change::{Cause, Document, Key, Timestamp};
use crate::matcher::{Filter, FilterLimits};
use crate::store::tests::options;
use crate::store::{BlockRow, MemoryDisk, Mutation, PageBudget, Retention, Store};
use crate::view::{KeyRule, SecretKind};

struct Nobody;

impl Outlet for Nobody {
    fn wake(&self) {}
}

fn key(number: u64) -> Key {
    Key::text(&format!("row{number}"))
}

/// Each change adds a row.
fn change(number: u64) -> Change {
    Change {
        seq: Seq(number),
        table: Table::new("schedule"),
        key: key(number),
        old: None,
        old_version: Seq::ZERO,
        new: Some(Document::parse(br#"{"a":1}"#).expect("an object")),
        time: Timestamp(0),
        cause: Cause::Write,
    }
}

/// Where somebody stands who has counted all rows up to change `after`.
fn standing(after: u64) -> Standing {
    let mut summary = Summary::default();
    (1..=after).for_each(|number| summary.add(&key(number), Seq(number)));
    Standing { after: Seq(after), summary, is_counted: true }
}

const LIMITS: FeedLimits = FeedLimits {
    window_bytes: 1 << 20,
    table_filter_cost: 100,
    pattern_bytes: 1 << 20,
    direct_writes: 4,
    hash_seed: 1,
};

fn feeds() -> (Arc<Feeds>, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::default());
    (Feeds::new(Seq(11), LIMITS, Arc::clone(&metrics)), metrics)
}

fn view(filter: Option<&str>) -> Arc<View> {
    let filter = filter.map(|text| Arc::new(Filter::parse(text, &FilterLimits::default()).expect("a filter")));
    Arc::new(View { table: Table::new("schedule"), secrets: &[], keys: KeyRule::Any, filter })
}

fn outbox() -> Arc<Outbox> {
    Outbox::new(1 << 20, Waiting::new(1 << 30), Arc::new(Nobody))
}

fn go_live(attachment: &Attachment, standing: Standing, outbox: &Arc<Outbox>) {
    let budget = CatchUpBudget { page: PageBudget { items: 100, bytes: 1 << 20 }, coalesce: false };
    assert!(matches!(attachment.advance(standing, outbox, None, budget), Advance::Live(_)));
}

fn taken(outbox: &Outbox) -> Vec<Delivery> {
    std::iter::from_fn(|| outbox.pop(usize::MAX)).collect()
}

/// Takes what waits whenever it is delivered, as a client that keeps up.
#[derive(Default)]
struct Taker {
    taken: Mutex<Vec<Seq>>,
    times: AtomicU64,
}

impl Outlet for Taker {
    fn wake(&self) {}

    fn deliver(&self, outbox: &Outbox) {
        self.times.fetch_add(1, Ordering::SeqCst);
        for delivery in taken(outbox) {
            let Delivery::Changes { changes, .. } = delivery else { panic!("{delivery:?}") };
            self.taken.lock().expect("no panic").extend(changes.map(|change| change.published().seq()));
        }
    }
}

/// All of it would be more than may wait.
#[test]
fn a_large_commit_is_delivered_in_portions_and_nobody_falls_behind() {
    let metrics = Arc::new(Metrics::default());
    let bytes_max = 100 * change(1000).size();
    let feeds = Feeds::new(Seq(0), FeedLimits { direct_writes: 20, ..LIMITS }, Arc::clone(&metrics));
    let waiting = Waiting::new(bytes_max);
    let subscribers: Vec<(Arc<Taker>, Arc<Outbox>, Attachment)> = (0..20)
        .map(|id| {
            let taker = Arc::new(Taker::default());
            let outbox = Outbox::new(1 << 20, Arc::clone(&waiting), Arc::clone(&taker) as _);
            let attachment = feeds.attach(&view(None), SubscriptionId::new(0, id)).expect("no filter");
            go_live(&attachment, standing(0), &outbox);
            (taker, outbox, attachment)
        })
        .collect();
    feeds.publish((1..=1000).map(change).collect(), Seq(1000));
    assert_eq!(metrics.fell_behind.get(), 0);
    for (taker, outbox, attachment) in &subscribers {
        assert!(outbox.is_empty());
        assert_eq!(*taker.taken.lock().expect("no panic"), (1..=1000).map(Seq).collect::<Vec<_>>());
        assert!(attachment.mark(), "it is live");
    }
    assert_eq!(waiting.bytes(), 0);
    assert!(subscribers[0].0.times.load(Ordering::SeqCst) > 100, "five changes each time");
}

/// 12 to 15 are one commit. One subscriber has read all of it from the store, the page of another one ended in its middle,
/// and a third one has nothing of it.
#[test]
fn what_is_on_disk_before_it_is_handed_over_is_counted_once() {
    let (feeds, metrics) = feeds();
    let view = view(None);
    let outboxes: Vec<(u64, Arc<Outbox>)> = [15, 13, 11].into_iter().map(|after| (after, outbox())).collect();
    let attachments: Vec<Attachment> =
        (1..=3).map(|id| feeds.attach(&view, SubscriptionId::new(0, id)).expect("no filter")).collect();
    for (attachment, (after, outbox)) in attachments.iter().zip(&outboxes) {
        go_live(attachment, standing(*after), outbox);
    }
    feeds.publish((12..=15).map(change).collect(), Seq(15));
    for (after, outbox) in &outboxes {
        let mut expected = Seq(*after);
        for delivery in taken(outbox) {
            let Delivery::Changes { changes, .. } = delivery else { panic!("{delivery:?}") };
            for change in changes {
                expected = expected.next();
                assert_eq!(change.published().seq(), expected);
                assert_eq!(change.summary(), standing(expected.0).summary, "behind change {expected}");
            }
        }
        assert_eq!(expected, Seq(15), "of the one at {after}");
    }
    assert_eq!(metrics.divergences.get(), 0);
}

#[test]
fn a_token_is_not_believed_against_a_count() {
    let (feeds, metrics) = feeds();
    let view = view(None);
    let (right, wrong) = (outbox(), outbox());
    let counted = feeds.attach(&view, SubscriptionId::new(0, 1)).expect("no filter");
    let resumed = feeds.attach(&view, SubscriptionId::new(0, 2)).expect("no filter");
    go_live(&counted, standing(11), &right);
    go_live(&resumed, Standing { is_counted: false, summary: standing(9).summary, ..standing(11) }, &wrong);
    assert_eq!(metrics.divergences.get(), 1);
    for (attachment, outbox) in [(&counted, &right), (&resumed, &wrong)] {
        assert!(attachment.mark());
        let Some(Delivery::Mark { summary, .. }) = taken(outbox).pop() else { panic!("no mark") };
        assert_eq!(summary, standing(11).summary);
    }
}

#[test]
fn a_filter_that_comes_while_a_batch_is_matched_gets_nothing_of_one_that_goes() {
    let metrics = Metrics::default();
    let mut views = Views::new(1);
    let going = views.attach(View::clone(&view(Some("a == 1"))), &LIMITS).expect("cheap");
    let mut lent = views.lend().expect("there is a filter");
    let batch = [Published::new(change(12), &[])];
    let matched = lent.run(&batch);
    views.detach(going, SubscriptionId::new(0, 1));
    let coming = views.attach(View::clone(&view(Some("a == 2"))), &LIMITS).expect("cheap");
    let outbox = outbox();
    let subscription = SubscriptionId::new(0, 2);
    let (after, summary) = (Seq(11), standing(11).summary);
    let live = Live { subscription, outbox: Arc::clone(&outbox), after, summary, plain: None };
    views.go_live(coming, live, Standing { summary: Summary::default(), ..standing(11) }, Seq(11));
    views.hand_over(&batch, &matched, &metrics, &mut Vec::new());
    views.give_back(lent);
    assert!(outbox.is_empty(), "its filter does not match");
    let mut lent = views.lend().expect("there is a filter");
    assert_eq!(lent.run(&batch), []);
    views.give_back(lent);
    assert_eq!(views.filter_count(), 1);
}

/// Views by one filter are found one through the other, whichever of them goes.
#[test]
fn views_by_one_filter_get_its_changes_each_under_its_own_rule() {
    let metrics = Metrics::default();
    let rules = [KeyRule::Any, KeyRule::Text, KeyRule::Uuid];
    for gone in 0..rules.len() {
        let mut views = Views::new(1);
        let attach = |keys| views.attach(View { keys, ..View::clone(&view(Some("a == 1"))) }, &LIMITS).expect("cheap");
        let ids = rules.map(attach);
        let outboxes = rules.map(|_| outbox());
        for (at, id) in ids.into_iter().enumerate() {
            let (subscription, outbox) = (SubscriptionId::new(0, at as i32), Arc::clone(&outboxes[at]));
            let (after, summary) = (Seq(11), standing(11).summary);
            let live = Live { subscription, outbox, after, summary, plain: None };
            views.go_live(id, live, standing(11), Seq(11));
        }
        views.detach(ids[gone], SubscriptionId::new(0, gone as i32));
        assert_eq!(views.filter_count(), 2);
        let mut lent = views.lend().expect("there is a filter");
        let batch = [Published::new(change(12), &[])];
        let matched = lent.run(&batch);
        views.hand_over(&batch, &matched, &metrics, &mut Vec::new());
        views.give_back(lent);
        // The key is text, and no UUID.
        let expected = [gone != 0, gone != 1, false];
        assert_eq!(outboxes.each_ref().map(|outbox| !outbox.is_empty()), expected, "{gone} has gone");
    }
}

#[test]
fn filters_that_cost_much_are_bounded_and_give_back_what_they_took() {
    let (feeds, _) = feeds();
    let attach = |id, filter: &str| feeds.attach(&view(Some(filter)), SubscriptionId::new(0, id));
    let scanned = "limit_exceeded: with yours, the filters of this table that an index does not make cheap would cost more than 100";
    for filter in ["a.contains('x')", "b == 1 && a.contains('x')"] {
        let error = attach(1, filter).expect_err("it is dear").to_string();
        assert!(error.starts_with(scanned), "{error}");
    }
    let many: Vec<Attachment> = (0..100).map(|id| attach(id, &format!("a != {id}")).expect("room")).collect();
    assert!(matches!(attach(100, "a != 100"), Err(AttachError::Cost(100))));
    let same = attach(101, "a != 1").expect("it is there already");
    let cheap: Vec<Attachment> = (200..500).map(|id| attach(id, &format!("a == {id}")).expect("cheap")).collect();
    assert_eq!(feeds.figures()[0].filters, 400);
    drop((many, same, cheap));
    assert_eq!(feeds.figures()[0].filters, 0);
    assert!(attach(100, "a != 100").is_ok());
}

/// What a page of all rows of a store with `rows` has for `view`.
fn page_of(rows: &[(Key, &str)], view: View) -> (Arc<Page>, u64) {
    let retention = Retention { bytes: 1 << 20, age_ms: 1 << 40 };
    let store = Store::open(Box::new(MemoryDisk), options(retention)).expect("memory does not fail");
    let put = |(key, text): &(Key, &str)| {
        Mutation::put(view.table.clone(), key.clone(), Document::parse(text.as_bytes()).expect("an object"))
    };
    store.commit(Timestamp(0), &[rows.iter().map(put).collect()]).expect("memory does not fail");
    let (budget, metrics) = (PageBudget { items: 100, bytes: 1 << 20 }, Arc::new(Metrics::default()));
    let pages = Pages::new(PagesLimits { bytes: 1 << 20, kept_ms: 1000, range: budget }, Arc::clone(&metrics));
    let request = PageRequest {
        view: Arc::new(view),
        cursor: Cursor::Snapshot { sent: None },
        budget: CatchUpBudget { page: budget, coalesce: false },
        at_least: Seq::ZERO,
    };
    let Asked::Unread(page) = pages.ask(request, store.position().seq) else { panic!("nobody has read it") };
    let CatchUp::Page(page) = page.read(&store).expect("a page") else { panic!("nothing was trimmed") };
    assert_eq!(page.cursor, Cursor::After(store.position().seq));
    (page, metrics.row_problem_count.get())
}

/// Keys and documents of all rows of `page`.
fn rows_of(page: &Page) -> Vec<(Key, String)> {
    let text = |row: &BlockRow<'_>| String::from_utf8(row.document.to_vec()).expect("JSON is UTF-8");
    let rows = (0..page.rows().len()).map(|at| page.rows().get(at));
    rows.map(|row| (Key::from_stored(row.key.to_vec()), text(&row))).collect()
}

#[test]
fn a_page_of_rows_has_what_its_view_has_and_no_secret() {
    const SECRETS: &[Secret] = &[Secret { path: &["password"], kind: SecretKind::Whole }];
    let rows = [
        (Key::number(1.0), r#"{"a":1}"#),
        (key(1), r#"{"a":1,"password":"hunter2"}"#),
        (key(2), r#"{"a":2}"#),
        (key(3), r#"{"a":1,"b":"password"}"#),
    ];
    let all = View { secrets: SECRETS, ..View::clone(&view(None)) };
    let (page, problems) = page_of(&rows, all.clone());
    let shown: Vec<String> = rows_of(&page).into_iter().map(|(_, text)| text).collect();
    assert_eq!(shown, [r#"{"a":1}"#, r#"{"a":1}"#, r#"{"a":2}"#, r#"{"a":1,"b":"password"}"#]);
    assert_eq!(problems, 0);

    let (page, _) = page_of(&rows[2..3], all);
    assert_eq!(rows_of(&page), [(key(2), r#"{"a":2}"#.to_owned())]);

    let texts = View { keys: KeyRule::Text, secrets: SECRETS, ..View::clone(&view(Some("a == 1"))) };
    let (page, problems) = page_of(&rows, texts);
    assert_eq!(rows_of(&page).into_iter().map(|(key, _)| key).collect::<Vec<_>>(), [key(1), key(3)]);
    assert_eq!(problems, 1, "a row that cannot be named is reported");
    let mut expected = Summary::default();
    [key(1), key(3)].iter().zip([2, 4]).for_each(|(key, version)| expected.add(key, Seq(version)));
    assert_eq!(page.rows().summary(0..1), expected);
    assert_eq!((page.rows().portion(0), page.rows().portion(1)), (Some(0..2), None));
}
