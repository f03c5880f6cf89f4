//! Follows the policies, schedules and domain logins of a server, and prints each event on a line.
//!
//! ```text
//! cargo run --example subscribe -- ws://127.0.0.1:8000/ws/
//! ```
//!
//! When the connection ends, it connects and subscribes again, for ever; Ctrl-C ends it.

#![expect(clippy::print_stdout, reason = "printing is what this example is for")]

use std::{collections::HashMap, convert::Infallible, time::Duration};

use futures_util::{SinkExt, StreamExt};
use prost::Message as _;
use starfeed::proto::{self, domain_login_event, event, policy_event, response, schedule_event};
use starfeed::proto::{request::Command, server_message::MessageType};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::{client_async, tungstenite::Message, tungstenite::client::IntoClientRequest};
use uuid::Uuid;

const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// After this much silence the server is pinged; after as much again it counts as gone.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// What is subscribed to. The index of a name is also the id of its request.
const LISTS: [&str; 3] = ["policies", "schedules", "domain logins"];

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "ws://127.0.0.1:8000/ws/".to_owned());
    let address = address(&url)?;
    tokio::select! {
        () = follow(&url, &address) => Ok(()),
        pressed = tokio::signal::ctrl_c() => pressed.map_err(Failure::from),
    }
}

/// The host and port to connect to.
fn address(url: &str) -> Result<String, Failure> {
    let request = url.into_client_request()?;
    if request.uri().scheme_str() != Some("ws") {
        return Err("this example speaks plain ws:// only".into());
    }
    let host = request.uri().host().ok_or("the URL has no host")?;
    Ok(format!("{host}:{}", request.uri().port_u16().unwrap_or(80)))
}

/// Runs one session after the other. The pause between them grows until a session has lasted for a while.
async fn follow(url: &str, address: &str) {
    let mut pause = PAUSE_MIN;
    let mut subscribed_before = false;
    loop {
        let started = Instant::now();
        let Err(end) = session(url, address, &mut subscribed_before).await;
        pause = if started.elapsed() >= PAUSE_MAX { PAUSE_MIN } else { pause };
        println!("Disconnected: {end}. Next attempt in {:.1} s.", pause.as_secs_f32());
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Connects, subscribes, and prints events until something ends it.
async fn session(url: &str, address: &str, subscribed_before: &mut bool) -> Result<Infallible, Failure> {
    let connecting = async { Ok::<_, Failure>(client_async(url, TcpStream::connect(address).await?).await?.0) };
    let mut socket = timeout(CONNECT_TIMEOUT, connecting).await.map_err(|_| "no answer in time")??;
    let commands = [
        Command::SubscribePolicyList(proto::RequestSubscribePolicyList {}),
        Command::SubscribeScheduleList(proto::RequestSubscribeScheduleList {}),
        Command::SubscribeDomainLoginList(proto::RequestSubscribeDomainLoginList {}),
    ];
    for (request_id, command) in (0..).zip(commands) {
        let request = proto::Request { request_id, command: Some(command) };
        socket.send(Message::binary(request.encode_to_vec())).await?;
    }
    let mut lists = HashMap::new();
    let mut pinged = false;
    loop {
        let Ok(received) = timeout(SILENCE_MAX, socket.next()).await else {
            if std::mem::replace(&mut pinged, true) {
                return Err("the server is silent".into());
            }
            socket.send(Message::Ping(Default::default())).await?;
            continue;
        };
        pinged = false;
        let bytes = match received.ok_or("the connection was closed")?? {
            Message::Binary(bytes) => bytes,
            Message::Close(Some(frame)) => return Err(format!("the server closed the connection: {frame}").into()),
            _ => continue,
        };
        match proto::ServerMessage::decode(bytes)?.message_type {
            Some(MessageType::Response(response)) => {
                let (subscription_id, name) = subscribed(&response)?;
                lists.insert(subscription_id, name);
                if lists.len() == LISTS.len() {
                    let again = if std::mem::replace(subscribed_before, true) { " again: all rows anew" } else { "" };
                    println!("Subscribed{again}.");
                }
            }
            Some(MessageType::Event(event)) => print_event(&event, &lists)?,
            None => {}
        }
    }
}

/// The id that the events of a subscription will carry, and the list it is for.
fn subscribed(response: &proto::Response) -> Result<(i32, &'static str), Failure> {
    let name = *LISTS.get(usize::try_from(response.request_id)?).ok_or("a response that nobody asked for")?;
    match &response.body {
        Some(response::Body::NewSubscription(new)) if response.is_success => Ok((new.subscription_id, name)),
        _ => Err(format!("cannot subscribe to {name}: {:?}", response.error_message()).into()),
    }
}

/// Prints an event. If it closes its subscription it is an error, so that all lists are subscribed to anew.
fn print_event(event: &proto::Event, lists: &HashMap<i32, &str>) -> Result<(), Failure> {
    let list = lists.get(&event.subscription_id).ok_or("an event of an unknown subscription")?;
    let (kind, row) = match &event.body {
        Some(event::Body::PolicyEvent(policy)) => {
            let id = Uuid::from_slice(policy.policy_id()).unwrap_or_default();
            (kind(policy.event_type, policy_event::EventType::as_str_name), format!("policy {id} {:?}", policy.name()))
        }
        Some(event::Body::ScheduleEvent(schedule)) => {
            let id = Uuid::from_slice(schedule.schedule_id()).unwrap_or_default();
            let row = format!("schedule {id} {:?}", schedule.schedule_name());
            (kind(schedule.event_type, schedule_event::EventType::as_str_name), row)
        }
        Some(event::Body::DomainLoginEvent(login)) => {
            (kind(login.event_type, domain_login_event::EventType::as_str_name), format!("login {:?}", login.domain()))
        }
        Some(event::Body::SubscriptionClosed(closed)) => {
            let (reason, message) = (closed.reason().as_str_name(), closed.message());
            return Err(format!("the server closed the subscription to {list}: {reason} {message:?}").into());
        }
        _ => return Ok(()),
    };
    println!("{kind} {row}");
    Ok(())
}

/// The name of an event type; a newer server may have more of them than this program knows.
fn kind<E: TryFrom<i32>>(number: Option<i32>, name: fn(&E) -> &'static str) -> &'static str {
    number.and_then(|number| E::try_from(number).ok()).map_or("UNKNOWN", |kind| name(&kind))
}
