//! Subscribers against the real server, over a way that loses, repeats and swaps what it carries, and over its end.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use prost::Message as _;
use serde_json::Value;
use starfeed::client::{Query, Source, Status, Subscriber, SubscriptionIndex, Update};
use starfeed::proto::{self, request::Command, response::Body, server_message::MessageType};
use starfeed::task;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{accept_async, client_async};

use crate::backend;
use crate::support::folded::Folded;
use crate::support::process::ServerProcess;
use crate::support::raw::{RawClient, delete_login, set_login};

const PATIENCE: Duration = Duration::from_secs(180);
const ROWS: u32 = 20;

/// Passes messages on between one client at a time and a server.
struct Proxy {
    listener: TcpListener,
    /// Where the server is now.
    server: RefCell<String>,
    /// One event in so many suffers.
    one_in: Cell<Option<u32>>,
    random: RefCell<fastrand::Rng>,
    /// The subscriptions of which an event was not delivered as it should, by connection and number.
    harmed: RefCell<HashSet<(u32, i32)>>,
}

impl Proxy {
    async fn listen(server: &ServerProcess, seed: u64) -> Self {
        Self {
            listener: TcpListener::bind("127.0.0.1:0").await.expect("a free port"),
            server: RefCell::new(server.address.clone()),
            one_in: Cell::new(None),
            random: RefCell::new(fastrand::Rng::with_seed(seed)),
            harmed: RefCell::default(),
        }
    }

    fn url(&self) -> String {
        format!("ws://{}/ws/", self.listener.local_addr().expect("an address"))
    }

    /// Serves for ever.
    async fn serve(&self) {
        for connection in 0.. {
            let (client, _) = self.listener.accept().await.expect("a client");
            let address = self.server.borrow().clone();
            // Neither a client that hangs up nor a server that is down ends it.
            let Ok(server) = TcpStream::connect(&address).await else { continue };
            let Ok((mut server, _)) = client_async(format!("ws://{address}/ws/"), server).await else { continue };
            let Ok(mut client) = accept_async(client).await else { continue };
            let mut kept = None;
            loop {
                let is_on = tokio::select! {
                    biased;
                    message = client.next() => match message {
                        Some(Ok(message)) => server.send(message).await.is_ok(),
                        Some(Err(_)) | None => false,
                    },
                    message = server.next() => match message {
                        Some(Ok(Message::Binary(bytes))) => {
                            let mut is_sent = true;
                            for message in self.harm(connection, Message::Binary(bytes), &mut kept) {
                                is_sent &= client.send(message).await.is_ok();
                            }
                            is_sent
                        }
                        Some(Ok(message)) => client.send(message).await.is_ok(),
                        Some(Err(_)) | None => false,
                    },
                };
                if !is_on {
                    break;
                }
            }
        }
    }

    /// What is delivered instead of `message`. Responses come as they are, and a subscription that was harmed already is
    /// left alone: its client may not listen any more.
    fn harm(&self, connection: u32, message: Message, kept: &mut Option<(i32, Message)>) -> Vec<Message> {
        let decoded = proto::ServerMessage::decode(message.clone().into_data()).expect("a ServerMessage");
        let Some(MessageType::Event(event)) = decoded.message_type else { return vec![message] };
        let id = event.subscription_id;
        let mut random = self.random.borrow_mut();
        let is_due = kept.is_none() && self.one_in.get().is_some_and(|one_in| random.u32(0..one_in) == 0);
        if !is_due || !self.harmed.borrow_mut().insert((connection, id)) {
            let late = kept.take_if(|(kept_id, _)| *kept_id == id).map(|(_, message)| message);
            return [Some(message), late].into_iter().flatten().collect();
        }
        match random.u32(0..3) {
            0 => vec![],
            1 => vec![message.clone(), message],
            // Every subscription has a next event to come after, because heartbeats never end.
            _ => {
                *kept = Some((id, message));
                vec![]
            }
        }
    }
}

/// Runs `script` beside `proxy`.
async fn with(proxy: &Proxy, script: impl Future<Output = ()>) {
    let both = async {
        tokio::select! {
            // The script decides; the proxy never ends by itself.
            biased;
            () = script => {}
            () = proxy.serve() => {}
        }
    };
    timeout(PATIENCE, both).await.expect("it ends");
}

/// The list, and the table with its documents.
async fn subscribe(url: &str) -> Folded {
    let subscriber = Subscriber::builder(url)
        .subscribe(Query::new(Source::DomainLogins).heartbeat_seconds(2))
        .subscribe(Query::table("domain_login").with_documents().heartbeat_seconds(2))
        .seed(1);
    Folded::new(subscriber.connect().await.expect("the proxy listens"), 2)
}

/// Makes `changes` of few rows, one in five a deletion, and goes on folding up meanwhile.
async fn write(folded: &mut Folded, address: &str, seed: u64, changes: u32) {
    let address = address.to_owned();
    let writing = task::blocking(move || {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut client = RawClient::connect(&address);
        for change in 0..changes {
            let domain = format!("{}.example", random.u32(0..ROWS));
            let is_deletion = random.u32(0..5) == 0;
            let url = format!("https://{domain}/{seed}/{change}");
            client.request(if is_deletion { delete_login(&domain) } else { set_login(&domain, &url) });
        }
    });
    tokio::pin!(writing);
    loop {
        tokio::select! {
            biased;
            () = &mut writing => return,
            _ = folded.next() => {}
        }
    }
}

/// Waits until both subscriptions were found right twice in a row by a heartbeat.
async fn settle(folded: &mut Folded) {
    let mut verified = [0, 0];
    while verified.iter().any(|times| *times < 2) {
        match folded.next().await {
            Update::Status(SubscriptionIndex(index), Status::Verified) => verified[index] += 1,
            Update::Diverged(SubscriptionIndex(index), _) => verified[index] = 0,
            Update::Disconnected { .. } => verified = [0, 0],
            Update::Row(..) | Update::Status(..) | Update::Closed { .. } | Update::Reconnected => {}
        }
    }
}

/// What the table has: domains and addresses.
async fn exported(address: &str) -> BTreeMap<String, Value> {
    let address = address.to_owned();
    task::blocking(move || {
        let mut client = RawClient::connect(&address);
        let mut rows = BTreeMap::new();
        let mut after = None;
        loop {
            let export = proto::RequestExportRows { table: "domain_login".to_owned(), after, ..Default::default() };
            let Some(Body::ExportRows(page)) = client.request(Command::ExportRows(export)) else { panic!("no rows") };
            for row in page.rows {
                let row: Value = serde_json::from_slice(&row).expect("JSON");
                rows.insert(row["domain"].as_str().expect("text").to_owned(), row["login_url"].clone());
            }
            after = page.next;
            if after.is_none() {
                return rows;
            }
        }
    })
    .await
}

/// The views, and the changes folded up, are the table.
async fn assert_exact(folded: &Folded, address: &str) {
    let exported = exported(address).await;
    let documents = &folded.tables[1];
    let shown: BTreeMap<String, Value> = documents
        .iter()
        .map(|(key, row)| {
            let document = row.document.as_ref().expect("documents were asked for").members().expect("an object");
            (key.to_string(), document["login_url"].clone())
        })
        .collect();
    assert_eq!(shown, exported);
    assert_eq!(folded.rows(0), folded.rows(1));
    assert_eq!(folded.rows(0).into_keys().collect::<Vec<_>>(), exported.into_keys().collect::<Vec<_>>());
}

#[tokio::test]
async fn every_fault_on_the_way_is_noticed_and_repaired() {
    let Some(server) = backend::server(&[]) else { return };
    for seed in 1..=2 {
        let proxy = Proxy::listen(&server, seed).await;
        with(&proxy, async {
            let mut folded = subscribe(&proxy.url()).await;
            settle(&mut folded).await;
            proxy.one_in.set(Some(1000));
            write(&mut folded, &server.address, seed, 3000).await;
            proxy.one_in.set(None);
            settle(&mut folded).await;
            let counters = folded.subscriber.counters();
            assert!(!proxy.harmed.borrow().is_empty(), "seed {seed}: nothing was tested");
            assert_eq!(counters.divergences(), proxy.harmed.borrow().len() as u64, "seed {seed}: {counters:?}");
            assert_eq!(counters.reconnects, 0, "seed {seed}: {counters:?}");
            assert_exact(&folded, &server.address).await;
        })
        .await;
    }
}

#[tokio::test]
async fn a_fault_of_the_last_event_is_noticed_by_the_next_heartbeat() {
    let Some(server) = backend::server(&[]) else { return };
    let proxy = Proxy::listen(&server, 1).await;
    with(&proxy, async {
        let mut folded = subscribe(&proxy.url()).await;
        settle(&mut folded).await;
        // Whatever is sent suffers until both subscriptions have suffered.
        proxy.one_in.set(Some(1));
        write(&mut folded, &server.address, 1, 1).await;
        while proxy.harmed.borrow().len() < 2 {
            folded.next().await;
        }
        proxy.one_in.set(None);
        settle(&mut folded).await;
        assert_eq!(folded.subscriber.counters().divergences(), proxy.harmed.borrow().len() as u64);
        assert_exact(&folded, &server.address).await;
    })
    .await;
}

#[tokio::test]
async fn subscriptions_go_on_over_the_end_of_the_server() {
    let directory = tempfile::tempdir().expect("a directory");
    let Some(mut server) = backend::server_on_disk(directory.path()) else { return };
    let proxy = Proxy::listen(&server, 1).await;
    with(&proxy, async {
        let mut folded = subscribe(&proxy.url()).await;
        write(&mut folded, &server.address, 1, 300).await;
        for restart in 2..5 {
            // A server that ends in peace waits for its clients.
            let ending = task::blocking(move || {
                if restart % 2 == 0 {
                    server.kill()
                } else {
                    _ = server.terminate()
                }
                server
            });
            let (mut ended, ()) =
                tokio::join!(ending, folded.until(|update| matches!(update, Update::Disconnected { .. })));
            server = backend::server_again(&mut ended, directory.path());
            proxy.server.replace(server.address.clone());
            write(&mut folded, &server.address, restart, 300).await;
            // It may be that it was away for all of them.
            while folded.subscriber.counters().reconnects + 1 < restart {
                folded.next().await;
            }
        }
        settle(&mut folded).await;
        let counters = folded.subscriber.counters();
        assert!(counters.reconnects >= 3 && counters.resumes >= 3, "{counters:?}");
        assert_eq!(counters.divergences(), 0, "{counters:?}");
        assert_exact(&folded, &server.address).await;
    })
    .await;
}
