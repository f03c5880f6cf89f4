//! Follows the policies, schedules and domain logins of a server, prints each change, and says when what it has was found
//! to be what the server has.
//!
//! ```text
//! cargo run --example subscribe -- ws://127.0.0.1:8000/ws/
//! ```
//!
//! A lost connection is made again, and what happened meanwhile follows; Ctrl-C ends it.

#![expect(clippy::print_stdout, reason = "printing is what this example is for")]

use starfeed::client::{ClientError, Query, Row, Source, Status, Subscriber, SubscriptionIndex, Update};

const LISTS: [(&str, Source); 3] =
    [("policy", Source::Policies), ("schedule", Source::Schedules), ("login", Source::DomainLogins)];

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "ws://127.0.0.1:8000/ws/".to_owned());
    tokio::select! {
        ended = follow(&url) => Ok(ended?),
        pressed = tokio::signal::ctrl_c() => Ok(pressed?),
    }
}

/// Prints what happens, for ever.
async fn follow(url: &str) -> Result<(), ClientError> {
    let builder = Subscriber::builder(url);
    let builder = LISTS.into_iter().fold(builder, |builder, (_, source)| builder.subscribe(Query::new(source)));
    let mut subscriber = builder.connect().await?;
    loop {
        let update = subscriber.next().await?;
        print(&subscriber, update);
    }
}

fn print(subscriber: &Subscriber, update: Update) {
    let list = |index: SubscriptionIndex| LISTS[index.0].0;
    match update {
        Update::Row(index, change) => {
            let name = |row: &Row| row.name.as_ref().map(|name| format!(" {name:?}"));
            let name = change.new.as_ref().or(change.old.as_ref()).and_then(name).unwrap_or_default();
            println!("{:?} {} {}{name}", change.kind, list(index), change.key);
        }
        Update::Status(index, Status::Live | Status::Verified) => {
            let summary = subscriber.view(index).summary();
            println!("verified: {} rows of {}, digest {:016x}", summary.count, list(index), summary.digest);
        }
        Update::Status(index, status) => println!("{}: {status:?}", list(index)),
        Update::Diverged(index, divergence) => println!("{}: {divergence}; subscribing again", list(index)),
        Update::Closed { subscription, message, .. } => println!("{}: closed: {message}", list(subscription)),
        Update::Disconnected { error, retry_in } => {
            println!("{error}; next attempt in {:.1} s", retry_in.as_secs_f32())
        }
        Update::Reconnected => println!("connected again"),
    }
}
