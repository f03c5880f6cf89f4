//! Plays a crawler, so that there is something to look at: jobs run, responses come in, schedules start further jobs.
//!
//! ```text
//! cargo run --example crawl_simulator -- ws://127.0.0.1:8000/ws/ --jobs 3 --rate 10
//! ```
//!
//! Nothing is downloaded: the pages are made up. It writes what a crawler writes, and reads what one reads, over the API of
//! the server alone. It begins with the sample rows where there are none, runs the jobs that others make too, stops those
//! that are cancelled, and deletes its oldest ones in the end. Not for a database that a real crawler works on.
//! A lost connection is made again; Ctrl-C ends it.

#![expect(clippy::print_stdout, reason = "printing is what this example is for")]

mod crawler;
mod job;
mod page;
mod row;
mod sample;
mod schedule;
mod server;

use std::time::Duration;

use clap::Parser;

use crawler::Crawler;

#[derive(Debug, Parser)]
#[command(about = "Plays a crawler on a starfeed server")]
struct Arguments {
    /// The server to write to
    #[arg(default_value = "ws://127.0.0.1:8000/ws/")]
    url: String,
    /// Jobs to keep running; those of schedules, and of other users, come on top
    #[arg(long, default_value_t = 3)]
    jobs: usize,
    /// Downloads per second, of all jobs together
    #[arg(long, default_value_t = 10.0, value_parser = positive)]
    rate: f64,
    /// How many times faster than they say schedules start jobs
    #[arg(long, default_value_t = 60.0, value_parser = positive)]
    speed: f64,
    /// Finished jobs to keep, of those that it has made
    #[arg(long, default_value_t = 30)]
    keep: usize,
    /// End after so many seconds
    #[arg(long, value_parser = positive)]
    seconds: Option<f64>,
    /// Draw the same pages and pauses as another run
    #[arg(long)]
    seed: Option<u64>,
}

/// A number above 0 that is no longer than any duration, as one second of it.
fn positive(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "it is no number".to_owned())?;
    let is_usable = number > 0.0 && number <= 1e9;
    if is_usable { Ok(number) } else { Err("it must be more than 0, and 1000000000 at most".to_owned()) }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse();
    let seconds = arguments.seconds.map(Duration::from_secs_f64);
    let mut crawler = Crawler::connect(arguments).await?;
    let ended = tokio::select! {
        // Whoever wants it to end is asked first.
        biased;
        pressed = tokio::signal::ctrl_c() => pressed.map_err(Into::into),
        () = pause(seconds) => Ok(()),
        error = crawler.run() => Err(error),
    };
    println!("{}", crawler.summary());
    ended
}

/// Waits for so long, or for ever.
async fn pause(duration: Option<Duration>) {
    match duration {
        Some(duration) => tokio::time::sleep(duration).await,
        None => std::future::pending().await,
    }
}
