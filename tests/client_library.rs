//! A subscriber against a server that speaks well until it is told to make a mistake.

mod support;

use std::time::Duration;

use starfeed::client::{ClientError, Divergence, Query, Source, Status, Subscriber, SubscriptionIndex, Update};
use support::feed::{Fault, Feed};
use support::folded::Folded;
use tokio::time::timeout;

/// Runs `script` beside `feed`.
async fn with(feed: &Feed, script: impl Future<Output = ()>) {
    let both = async {
        tokio::select! {
            // The script decides; the server never ends by itself.
            biased;
            () = script => {}
            () = feed.serve() => {}
        }
    };
    timeout(Duration::from_secs(60), both).await.expect("it ends");
}

fn logins() -> Query {
    Query::new(Source::DomainLogins).heartbeat_seconds(60)
}

async fn subscribe(feed: &Feed, queries: &[Query]) -> Folded {
    let builder = Subscriber::builder(&feed.url()).seed(1);
    let builder = queries.iter().cloned().fold(builder, |builder, query| builder.subscribe(query));
    Folded::new(builder.connect().await.expect("the server listens"), queries.len())
}

/// One that is live.
async fn live(feed: &Feed) -> Folded {
    let mut folded = subscribe(feed, &[logins()]).await;
    folded.until_status(Status::Live).await;
    folded
}

#[tokio::test]
async fn rows_come_and_then_every_change() {
    let feed = Feed::listen().await;
    with(&feed, async {
        feed.put("a");
        feed.put("b");
        let mut folded = live(&feed).await;
        assert_eq!(folded.take_news(), ["Added a", "Added b"]);
        feed.put("c");
        feed.put("a");
        feed.delete("b");
        feed.heartbeat();
        folded.until_status(Status::Verified).await;
        assert_eq!(folded.take_news(), ["Added c", "Updated a", "Deleted b"]);
        assert_eq!(folded.rows(0), feed.rows());
        assert_eq!((folded.subscriber.counters().divergences(), folded.subscriber.counters().fresh), (0, 1));
    })
    .await;
}

#[tokio::test]
async fn every_fault_on_the_way_is_noticed_and_repaired() {
    for fault in [Fault::Drop, Fault::Repeat, Fault::Swap] {
        // The state events of the beginning are as good a place as changes, and the last event before a heartbeat is one.
        for at in 0..9 {
            let feed = Feed::listen().await;
            with(&feed, async {
                feed.put("a");
                feed.put("b");
                feed.faults.borrow_mut().push((at, fault));
                let mut folded = subscribe(&feed, &[logins()]).await;
                if at > 4 {
                    folded.until_status(Status::Live).await;
                }
                feed.put("a");
                feed.put("c");
                feed.delete("b");
                feed.put("b");
                feed.heartbeat();
                while folded.subscriber.counters().divergences() == 0
                    || !folded.subscriber.view(SubscriptionIndex(0)).is_live()
                {
                    feed.heartbeat();
                    folded.next().await;
                }
                let counters = folded.subscriber.counters();
                assert_eq!(counters.divergences(), 1, "{fault:?} of {at}: {counters:?}");
                assert_eq!(counters.repeated, u64::from(fault == Fault::Repeat), "{fault:?} of {at}: {counters:?}");
                assert_eq!(folded.rows(0), feed.rows(), "{fault:?} of {at}");
            })
            .await;
        }
    }
}

#[tokio::test]
async fn a_lost_change_goes_on_from_the_last_good_token() {
    let feed = Feed::listen().await;
    with(&feed, async {
        feed.put("a");
        let mut folded = live(&feed).await;
        feed.put("b");
        folded.until(|update| matches!(update, Update::Row(..))).await;
        feed.faults.borrow_mut().push((0, Fault::Drop));
        feed.put("lost");
        feed.heartbeat();
        folded.until(|update| matches!(update, Update::Diverged(_, Divergence::Missing { .. }))).await;
        folded.until_status(Status::Live).await;
        assert_eq!(folded.take_news(), ["Added a", "Added b", "Added lost"]);
        assert_eq!(*feed.tokens.borrow(), [None, Some("0-2".into())]);
        assert_eq!(folded.subscriber.counters().resumes, 1);
    })
    .await;
}

#[tokio::test]
async fn what_a_server_kept_back_is_noticed_by_the_next_heartbeat() {
    let feed = Feed::listen().await;
    with(&feed, async {
        feed.put("a");
        let mut folded = live(&feed).await;
        feed.put_in_silence("secret");
        feed.put_in_silence("a");
        feed.heartbeat();
        folded.until(|update| matches!(update, Update::Diverged(_, Divergence::WrongCount { expected: 2, .. }))).await;
        folded.until_status(Status::Live).await;
        assert_eq!(folded.take_news(), ["Added a", "Updated a", "Added secret"]);
        assert_eq!(*feed.tokens.borrow(), [None, None], "a token would bring only what comes after it");
        assert_eq!(folded.rows(0), feed.rows());
    })
    .await;
}

#[tokio::test]
async fn a_lost_connection_is_made_again_and_brings_what_happened_meanwhile() {
    let feed = Feed::listen().await;
    with(&feed, async {
        feed.put("a");
        feed.put("b");
        let mut folded = live(&feed).await;
        folded.take_news();
        feed.cut();
        folded.until(|update| matches!(update, Update::Disconnected { .. })).await;
        feed.delete("a");
        feed.put("c");
        folded.until(|update| matches!(update, Update::Reconnected)).await;
        folded.until_status(Status::Live).await;
        assert_eq!(folded.take_news(), ["Deleted a", "Added c"]);
        assert_eq!(folded.subscriber.counters().reconnects, 1);
        assert_eq!(folded.subscriber.counters().resumes, 1);
        // Where the server cannot go on, the difference comes all the same.
        feed.begin_epoch();
        feed.delete("b");
        feed.cut();
        folded.until(|update| matches!(update, Update::Status(_, Status::Reset { .. }))).await;
        folded.until_status(Status::Live).await;
        assert_eq!(folded.take_news(), ["Updated c", "Deleted b"]);
        assert_eq!(folded.subscriber.counters().resets, 1);
        assert_eq!(folded.rows(0), feed.rows());
    })
    .await;
}

#[tokio::test]
async fn a_token_that_is_refused_is_not_sent_again() {
    let feed = Feed::listen().await;
    with(&feed, async {
        feed.put("a");
        let mut folded = live(&feed).await;
        feed.refusal.replace(Some("invalid_token: it was not made here".to_owned()));
        feed.cut();
        folded.until(|update| matches!(update, Update::Disconnected { .. })).await;
        feed.put("b");
        folded.until_status(Status::Live).await;
        assert_eq!(folded.take_news(), ["Added a", "Added b"]);
        assert_eq!(*feed.tokens.borrow(), [None, Some("0-1".into()), None]);
        assert_eq!(folded.subscriber.counters().tokens_refused, 1);
    })
    .await;
}

#[tokio::test]
async fn a_closed_subscription_is_made_again() {
    let feed = Feed::listen().await;
    with(&feed, async {
        feed.put("a");
        let mut folded = live(&feed).await;
        feed.close_subscriptions();
        folded.until(|update| matches!(update, Update::Closed { message, .. } if message == "the table is gone")).await;
        feed.put("b");
        folded.until_status(Status::Live).await;
        assert_eq!(folded.take_news(), ["Added a", "Added b"]);
        assert_eq!((folded.subscriber.counters().closed, folded.subscriber.counters().resumes), (1, 1));

        // What it does not make again at once, it may later.
        feed.refusal.replace(Some("too many subscriptions".to_owned()));
        feed.close_subscriptions();
        let again =
            |update: &Update| matches!(update, Update::Closed { message, .. } if message.starts_with("too many"));
        folded.until(again).await;
        folded.until_status(Status::Live).await;
    })
    .await;
}

#[tokio::test]
async fn a_server_that_says_nothing_is_left() {
    let feed = Feed::listen().await;
    with(&feed, async {
        feed.put("a");
        let mut folded = subscribe(&feed, &[logins().heartbeat_seconds(1)]).await;
        folded.until_status(Status::Live).await;
        feed.is_mute.set(true);
        feed.put("lost");
        folded.until(|update| matches!(update, Update::Disconnected { .. })).await;
        folded.until_status(Status::Live).await;
        assert_eq!(folded.subscriber.counters().silences, 1);
        assert_eq!(folded.rows(0), feed.rows());
    })
    .await;
}

#[tokio::test]
async fn subscriptions_of_one_connection_do_not_disturb_each_other() {
    let feed = Feed::listen().await;
    with(&feed, async {
        feed.put("a");
        let mut folded = subscribe(&feed, &[logins(), Query::table("domain_login")]).await;
        // One of them loses an event.
        feed.faults.borrow_mut().push((9, Fault::Drop));
        feed.put("b");
        feed.put("c");
        while folded.subscriber.counters().divergences() == 0 {
            feed.heartbeat();
            folded.next().await;
        }
        for index in [SubscriptionIndex(0), SubscriptionIndex(1)] {
            while !folded.subscriber.view(index).is_live() {
                folded.next().await;
            }
            assert_eq!(folded.rows(index.0), feed.rows());
        }
        assert_eq!(folded.subscriber.counters().divergences(), 1);
    })
    .await;
}

#[tokio::test]
async fn an_application_may_stop_waiting_at_any_time() {
    let feed = Feed::listen().await;
    with(&feed, async {
        (0..50).for_each(|number| feed.put(&format!("{number}")));
        let mut folded = subscribe(&feed, &[logins()]).await;
        let mut cuts = 0;
        while cuts < 3 || folded.rows(0) != feed.rows() {
            match timeout(Duration::from_micros(300), folded.subscriber.next()).await {
                Ok(update) => folded.fold(&update.expect("it goes on")),
                Err(_) if cuts < 3 && folded.subscriber.view(SubscriptionIndex(0)).is_live() => {
                    cuts += 1;
                    feed.put("new");
                    feed.delete(&cuts.to_string());
                    feed.cut();
                }
                Err(_) => {}
            }
        }
        assert_eq!(folded.subscriber.counters().divergences(), 0);
    })
    .await;
}

#[tokio::test]
async fn what_no_repetition_helps_is_an_error() {
    let unused = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("ws://{}/ws/", unused.local_addr().expect("an address"));
    drop(unused);
    let refused = Subscriber::builder(&url).subscribe(logins()).connect().await;
    assert!(matches!(refused, Err(ClientError::Connect { .. })), "{refused:?}");

    let feed = Feed::listen().await;
    with(&feed, async {
        feed.refusal.replace(Some("the filter has no end".to_owned()));
        let mut folded = subscribe(&feed, &[logins()]).await;
        let error = folded.subscriber.next().await.expect_err("the filter is wrong");
        assert_eq!(error.to_string(), "the filter has no end");
    })
    .await;
    let feed = Feed::listen().await;
    feed.is_old.set(true);
    with(&feed, async {
        let mut folded = subscribe(&feed, &[logins()]).await;
        let error = folded.subscriber.next().await.expect_err("nothing can be checked");
        assert!(matches!(error, ClientError::TooOld), "{error:?}");
    })
    .await;
}
