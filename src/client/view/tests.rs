use super::*;
use crate::change::Document;
use crate::proto::subscription_state::{Kind, Reason};

/// A view, and a server of `domain_login` rows that makes no mistakes unless it is told to.
struct Fixture {
    view: View,
    number: u64,
    epoch: u8,
    summary: Summary,
    /// What an application that folds up the changes has.
    folded: HashMap<Key, Row>,
}

impl Fixture {
    fn new() -> Self {
        Self::of(Query::table("domain_login"))
    }

    fn of(query: Query) -> Self {
        let mut view = View::new(query);
        let options = view.subscribe_options();
        assert_eq!((options.states, options.tokens, options.resume_token), (Some(true), Some(true), None));
        Self { view, number: 0, epoch: 1, summary: Summary::default(), folded: HashMap::new() }
    }

    /// One with these rows, live.
    fn live(rows: &[(&str, u64)]) -> Self {
        let mut fixture = Self::new();
        fixture.snapshot(rows);
        fixture.expect_state(Kind::Live);
        fixture
    }

    fn snapshot(&mut self, rows: &[(&str, u64)]) -> Vec<String> {
        self.expect_state(Kind::Initializing);
        self.summary = Summary::default();
        let mut news: Vec<String> = rows.iter().flat_map(|(key, version)| self.initial(key, *version)).collect();
        news.extend(self.expect_state(Kind::Ready));
        news
    }

    /// A new subscription; the token it goes on with.
    fn resubscribe(&mut self) -> Option<Bytes> {
        self.number = 0;
        self.view.subscribe_options().resume_token
    }

    fn initial(&mut self, key: &str, version: u64) -> Vec<String> {
        self.summary.add(&Key::text(key), Seq(version));
        let event = self.row(1, key, version, true);
        self.apply(event).expect("it is right")
    }

    fn change(&mut self, kind: i32, key: &str, version: u64) -> Result<Vec<String>, Divergence> {
        let event = self.row(kind, key, version, false);
        let held = self.view.get(&Key::text(key)).map(|row| row.version);
        let news = self.apply(event)?;
        if let Some(held) = held.filter(|_| kind != 1) {
            self.summary.remove(&Key::text(key), held);
        }
        if kind != 3 {
            self.summary.add(&Key::text(key), Seq(version));
        }
        Ok(news)
    }

    fn row(&mut self, kind: i32, key: &str, version: u64, is_initial: bool) -> proto::Event {
        self.row_with(kind, key, version, is_initial, None)
    }

    fn row_with(&mut self, kind: i32, key: &str, version: u64, initial: bool, document: Option<&str>) -> proto::Event {
        let event = proto::TableEvent {
            event_type: Some(kind),
            key: Some(proto::TableKey { value: Some(proto::table_key::Value::Text(key.to_owned())) }),
            document: document.map(str::to_owned),
            old_document: None,
        };
        proto::Event {
            body: Some(Body::TableEvent(event)),
            version: Some(version),
            initial: Some(initial),
            ..self.numbered(Some(format!("{key}@{version}")))
        }
    }

    fn state(&mut self, kind: Kind) -> proto::Event {
        let is_checked = matches!(kind, Kind::Ready | Kind::Live | Kind::Heartbeat);
        let state = proto::SubscriptionState {
            kind: Some(kind.into()),
            reason: (kind == Kind::Reset).then(|| Reason::Retention.into()),
            message: Some("said so".to_owned()),
            epoch: Some(vec![self.epoch; 16].into()),
            position: is_checked.then_some(99),
            count: is_checked.then_some(self.summary.count),
            digest: is_checked.then_some(self.summary.digest),
        };
        let token = is_checked.then(|| format!("{kind:?}"));
        proto::Event { state: Some(state), ..self.numbered(token) }
    }

    fn numbered(&mut self, token: Option<String>) -> proto::Event {
        self.number += 1;
        proto::Event { number: Some(self.number), token: token.map(Bytes::from), ..proto::Event::default() }
    }

    fn expect_state(&mut self, kind: Kind) -> Vec<String> {
        let event = self.state(kind);
        self.apply(event).expect("it is right")
    }

    /// The changes that `event` came down to, folded up too.
    fn apply(&mut self, event: proto::Event) -> Result<Vec<String>, Divergence> {
        let changes = match self.view.apply(event)? {
            Applied::Row(change) => vec![change],
            Applied::Ready(changes) => changes,
            Applied::Nothing | Applied::Status(_) | Applied::Closed(_) => vec![],
        };
        let mut news = Vec::new();
        for change in changes {
            let old = match &change.new {
                Some(new) => self.folded.insert(change.key.clone(), new.clone()),
                None => self.folded.remove(&change.key),
            };
            assert_eq!(old, change.old, "what was there is said");
            let news_mark = if change.is_initial { "" } else { "!" };
            news.push(format!("{:?} {}{news_mark}", change.kind, change.key));
        }
        news.sort();
        let held: HashMap<Key, Row> = self.view.rows().map(|(key, row)| (key.clone(), row.clone())).collect();
        assert_eq!(self.folded.len(), held.len());
        assert!(self.folded.iter().all(|(key, row)| held[key].has_content_of(row)), "changes folded up are the view");
        Ok(news)
    }
}

const ADDED: i32 = 1;
const UPDATED: i32 = 2;
const DELETED: i32 = 3;

#[test]
fn rows_come_then_changes() {
    let mut fixture = Fixture::new();
    assert_eq!(fixture.snapshot(&[("a", 5), ("b", 3)]), ["Added a", "Added b"]);
    assert!(!fixture.view.is_live());
    assert_eq!(fixture.change(ADDED, "c", 6).unwrap(), ["Added c!"]);
    fixture.expect_state(Kind::Live);
    assert!(fixture.view.is_live());
    assert_eq!(fixture.change(UPDATED, "a", 7).unwrap(), ["Updated a!"]);
    assert_eq!(fixture.change(DELETED, "b", 9).unwrap(), ["Deleted b!"]);
    fixture.expect_state(Kind::Heartbeat);
    assert_eq!((fixture.view.summary(), fixture.view.position()), (fixture.summary, Some(Seq(99))));
    assert_eq!(fixture.view.get(&Key::text("a")).map(|row| row.version), Some(Seq(7)));
}

#[test]
fn an_empty_table_has_no_rows() {
    let mut fixture = Fixture::live(&[]);
    fixture.expect_state(Kind::Heartbeat);
    assert_eq!(fixture.view.summary(), Summary::default());
}

#[test]
fn rows_change_between_the_first_rows() {
    let mut fixture = Fixture::new();
    fixture.expect_state(Kind::Initializing);
    fixture.initial("a", 5);
    assert_eq!(fixture.change(UPDATED, "a", 6).unwrap(), ["Updated a!"]);
    assert_eq!(fixture.initial("b", 3), ["Added b"]);
    assert_eq!(fixture.change(DELETED, "a", 7).unwrap(), ["Deleted a!"]);
    fixture.expect_state(Kind::Ready);
    fixture.expect_state(Kind::Live);
}

#[test]
fn a_missing_number_is_noticed_and_the_token_goes_on_before_it() {
    let mut fixture = Fixture::live(&[("a", 1)]);
    fixture.change(UPDATED, "a", 2).unwrap();
    let _lost = fixture.row(UPDATED, "a", 3, false);
    let event = fixture.row(UPDATED, "a", 4, false);
    let expected = Divergence::Missing { expected: 6, got: 7 };
    assert_eq!(fixture.apply(event), Err(expected));
    assert_eq!(fixture.view.get(&Key::text("a")).map(|row| row.version), Some(Seq(2)), "it was not applied");
    assert_eq!(fixture.resubscribe().as_deref(), Some(&b"a@2"[..]));
    assert_eq!(fixture.change(UPDATED, "a", 3).unwrap(), ["Updated a!"]);
    assert_eq!(fixture.change(UPDATED, "a", 4).unwrap(), ["Updated a!"]);
    fixture.expect_state(Kind::Live);
}

#[test]
fn a_repeated_number_is_noticed() {
    let mut fixture = Fixture::live(&[("a", 1)]);
    let event = fixture.row(UPDATED, "a", 2, false);
    fixture.apply(event.clone()).unwrap();
    assert_eq!(fixture.apply(event), Err(Divergence::Repeated { expected: 6, got: 5 }));
    assert_eq!(fixture.resubscribe().as_deref(), Some(&b"a@2"[..]));
}

#[test]
fn an_event_without_a_number_is_noticed() {
    let mut fixture = Fixture::live(&[]);
    let event = fixture.row(ADDED, "a", 1, false);
    assert_eq!(fixture.apply(proto::Event { number: None, ..event }), Err(Divergence::Unnumbered));
}

#[test]
fn versions_do_not_go_back() {
    let mut fixture = Fixture::live(&[("a", 9), ("b", 1)]);
    fixture.change(UPDATED, "b", 10).unwrap();
    let expected = Divergence::VersionBack { last: Seq(10), got: Seq(10) };
    assert_eq!(fixture.change(DELETED, "a", 10), Err(expected));
    // Of a row they do not go back behind what it had at the start either.
    let mut fixture = Fixture::live(&[("a", 9)]);
    assert_eq!(fixture.change(UPDATED, "a", 8), Err(Divergence::VersionBack { last: Seq(9), got: Seq(8) }));
}

#[test]
fn changes_fit_the_rows_held() {
    let unknown = || Divergence::UnknownRow(Key::text("b"));
    assert_eq!(Fixture::live(&[("a", 1)]).change(UPDATED, "b", 2), Err(unknown()));
    assert_eq!(Fixture::live(&[("a", 1)]).change(DELETED, "b", 2), Err(unknown()));
    assert_eq!(Fixture::live(&[("a", 1)]).change(ADDED, "a", 2), Err(Divergence::DuplicateRow(Key::text("a"))));
}

#[test]
fn a_wrong_count_or_digest_is_noticed_and_no_token_helps() {
    for kind in [Kind::Heartbeat, Kind::Live] {
        let mut fixture = Fixture::live(&[("a", 1)]);
        fixture.summary.add(&Key::text("b"), Seq(2));
        let event = fixture.state(kind);
        assert!(matches!(fixture.apply(event), Err(Divergence::WrongCount { expected: 2, .. })));
        assert_eq!(fixture.resubscribe(), None);

        let mut fixture = Fixture::live(&[("a", 1)]);
        fixture.summary.digest += 1;
        let event = fixture.state(kind);
        assert!(matches!(fixture.apply(event), Err(Divergence::WrongDigest { .. })));
        assert_eq!(fixture.resubscribe(), None);
    }
}

#[test]
fn what_makes_no_sense_is_noticed() {
    let check = |change: fn(&mut proto::Event), expected: &str| {
        let mut fixture = Fixture::live(&[("a", 1)]);
        let mut event = fixture.row(UPDATED, "a", 2, false);
        change(&mut event);
        assert_eq!(fixture.apply(event).expect_err(expected).to_string(), expected);
    };
    check(|event| event.body = None, "an event makes no sense: it is empty");
    check(|event| event.version = None, "an event makes no sense: a row without a version");
    check(|event| event.initial = Some(true), "an event came out of place: an initial row after READY");
    let login = |event_type, domain| {
        Some(Body::DomainLoginEvent(proto::DomainLoginEvent { event_type, domain, ..Default::default() }))
    };
    let mut fixture = Fixture::live(&[]);
    let event = proto::Event { body: login(Some(4), Some("a".to_owned())), ..fixture.row(ADDED, "a", 1, false) };
    assert_eq!(fixture.apply(event), Err(Divergence::Undecodable("it has no event type")));
    let mut fixture = Fixture::live(&[]);
    let event = proto::Event { body: login(Some(1), None), ..fixture.row(ADDED, "a", 1, false) };
    assert_eq!(fixture.apply(event), Err(Divergence::Undecodable("a login without a domain")));
    let mut fixture = Fixture::new();
    let event = fixture.row(ADDED, "a", 1, true);
    assert_eq!(fixture.apply(event), Err(Divergence::OutOfPlace("a row before INITIALIZING")));
    let mut fixture = Fixture::live(&[]);
    fixture.epoch = 2;
    let event = fixture.state(Kind::Heartbeat);
    assert_eq!(fixture.apply(event), Err(Divergence::OutOfPlace("another epoch without a RESET")));
}

#[test]
fn a_divergence_right_after_a_resume_is_not_resumed_again() {
    let mut fixture = Fixture::live(&[("a", 1)]);
    assert_eq!(fixture.change(UPDATED, "b", 2), Err(Divergence::UnknownRow(Key::text("b"))));
    assert!(fixture.resubscribe().is_some());
    assert_eq!(fixture.change(UPDATED, "b", 2), Err(Divergence::UnknownRow(Key::text("b"))));
    assert_eq!(fixture.resubscribe(), None);
    assert_eq!(fixture.snapshot(&[("a", 1), ("b", 2)]), ["Added b!"]);
}

#[test]
fn a_reset_brings_only_what_is_different() {
    let mut fixture = Fixture::live(&[("same", 1), ("changed", 2), ("gone", 3)]);
    fixture.change(UPDATED, "same", 4).unwrap();
    assert!(fixture.resubscribe().is_some());
    assert_eq!(fixture.expect_state(Kind::Reset), Vec::<String>::new());
    assert_eq!(fixture.view.rows().count(), 3, "they stay until it is known what became of them");
    let news = fixture.snapshot(&[("same", 4), ("changed", 7), ("new", 8)]);
    assert_eq!(news, ["Updated changed!", "Added new!", "Deleted gone!"]);
    fixture.expect_state(Kind::Live);
    fixture.change(UPDATED, "same", 9).unwrap();
}

#[test]
fn a_reset_in_the_middle_of_the_first_rows_brings_only_what_is_different() {
    let mut fixture = Fixture::live(&[("a", 1), ("b", 2), ("c", 3)]);
    fixture.resubscribe();
    fixture.expect_state(Kind::Reset);
    fixture.expect_state(Kind::Initializing);
    fixture.summary = Summary::default();
    assert_eq!(fixture.initial("a", 4), ["Updated a!"]);
    fixture.expect_state(Kind::Reset);
    // A connection that is lost now has nothing to go on from.
    assert_eq!(fixture.resubscribe(), None);
    assert_eq!(fixture.snapshot(&[("a", 4), ("b", 2)]), ["Deleted c!"]);
}

#[test]
fn in_another_epoch_versions_say_nothing() {
    let mut fixture = Fixture::live(&[("a", 1), ("b", 2)]);
    fixture.resubscribe();
    fixture.epoch = 2;
    fixture.expect_state(Kind::Reset);
    assert_eq!(fixture.snapshot(&[("a", 1), ("b", 2)]), ["Updated a!", "Updated b!"]);
    // Versions of the new epoch say something again.
    fixture.expect_state(Kind::Reset);
    assert_eq!(fixture.snapshot(&[("a", 1), ("b", 3)]), ["Updated b!"]);
}

#[test]
fn in_another_epoch_documents_are_compared() {
    let mut fixture = Fixture::of(Query::table("domain_login").with_documents());
    let mut snapshot = |epoch, rows: [(&str, u64, &str); 2]| {
        fixture.epoch = epoch;
        fixture.expect_state(Kind::Initializing);
        fixture.summary = Summary::default();
        let mut news = Vec::new();
        for (key, version, document) in rows {
            fixture.summary.add(&Key::text(key), Seq(version));
            let event = fixture.row_with(ADDED, key, version, true, Some(document));
            news.extend(fixture.apply(event).unwrap());
        }
        news.extend(fixture.expect_state(Kind::Ready));
        fixture.expect_state(Kind::Reset);
        news
    };
    assert_eq!(snapshot(1, [("a", 1, "{}"), ("b", 2, "{}")]), ["Added a", "Added b"]);
    assert_eq!(snapshot(2, [("a", 7, "{}"), ("b", 2, "{\"x\":1}")]), ["Updated b!"]);
    let document = |key: &str| fixture.view.get(&Key::text(key)).and_then(|row| row.document.clone());
    assert_eq!(document("b"), Some(Document::from_stored(&b"{\"x\":1}"[..])));
}

#[test]
fn the_first_rows_go_on_where_they_ended() {
    let mut fixture = Fixture::new();
    fixture.expect_state(Kind::Initializing);
    fixture.initial("a", 1);
    fixture.initial("b", 2);
    assert_eq!(fixture.resubscribe().as_deref(), Some(&b"b@2"[..]));
    fixture.expect_state(Kind::Initializing);
    assert_eq!(fixture.initial("c", 3), ["Added c"]);
    fixture.expect_state(Kind::Ready);
    fixture.expect_state(Kind::Live);
    assert_eq!(fixture.view.summary().count, 3);

    // A server that does not take the token begins anew.
    let mut fixture = Fixture::new();
    fixture.expect_state(Kind::Initializing);
    fixture.initial("a", 1);
    fixture.initial("b", 2);
    fixture.resubscribe();
    fixture.expect_state(Kind::Reset);
    assert_eq!(fixture.snapshot(&[("b", 2), ("c", 3)]), ["Added c", "Deleted a!"]);
}

#[test]
fn nothing_is_applied_twice_behind_a_token() {
    let mut fixture = Fixture::live(&[("a", 1)]);
    let event = fixture.row(UPDATED, "a", 2, false);
    fixture.apply(proto::Event { token: None, ..event }).unwrap();
    assert_eq!(fixture.resubscribe(), None, "change 2 would come again");
}

#[test]
fn a_slow_client_is_stale_until_it_is_live() {
    let mut fixture = Fixture::live(&[("a", 1)]);
    let event = fixture.state(Kind::Stale);
    assert_eq!(fixture.view.apply(event), Ok(Applied::Status(Status::Stale("said so".to_owned()))));
    assert!(!fixture.view.is_live());
    fixture.change(UPDATED, "a", 2).unwrap();
    fixture.expect_state(Kind::Live);
    assert!(fixture.view.is_live());
}

#[test]
fn the_server_says_why_it_ends_a_subscription() {
    let mut fixture = Fixture::live(&[]);
    let closed = |message: Option<&str>| proto::Event {
        body: Some(Body::SubscriptionClosed(proto::SubscriptionClosed {
            reason: 2,
            message: message.map(str::to_owned),
        })),
        ..Default::default()
    };
    assert_eq!(fixture.view.apply(closed(Some("over"))), Ok(Applied::Closed("over".to_owned())));
    assert_eq!(fixture.view.apply(closed(None)), Ok(Applied::Closed("ERROR".to_owned())));
    assert!(fixture.resubscribe().is_some());
}
