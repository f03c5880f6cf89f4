//! A server that is killed while it writes.

mod durability {
    mod breaches;
    pub(crate) mod history;
    pub(crate) mod reader;
    pub(crate) mod writer;
}
mod support;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use durability::history::{
    Asked, Broken, Change, Rows, Told, Wish, check_life, check_writes, compare_rows, domain, rows_of, unanswered,
    view_of,
};
use durability::reader::{Manners, Reader, Record, row_of, token_of_nothing, write_of};
use durability::writer::{Writer, Writing};
use starfeed::proto::{self, request::Command, response::Body};
use support::process::{ServerProcess, Start};
use support::raw::{RawClient, set_login};

const KILLS: u32 = 100;
const WRITERS: u32 = 2;

/// First rows come in many pages, and most of what a reader missed comes from the log on disk.
const SETTINGS: &[(&str, &str)] = &[("page_rows", "5"), ("window_bytes", "16384"), ("outbox_bytes", "16384")];

const GROUP: Wish = Wish { group: Some(1), is_coalesced: false };

const READERS: [Manners; 8] = [
    Manners::PLAIN,
    Manners { name: "by the library", uses_library: true, ..Manners::PLAIN },
    Manners { name: "filtered", wish: GROUP, ..Manners::PLAIN },
    Manners { name: "filtered, leaving", wish: GROUP, leaves_after: Some(60), ..Manners::PLAIN },
    Manners { name: "leaving", leaves_after: Some(200), ..Manners::PLAIN },
    Manners { name: "slow", pauses: true, ..Manners::PLAIN },
    Manners { name: "coalesced", wish: Wish { group: None, is_coalesced: true }, pauses: true, ..Manners::PLAIN },
    Manners { name: "beginning anew", forgets: true, leaves_after: Some(80), ..Manners::PLAIN },
];

/// What the store holds: the number of the newest write of each row; and the newest change in it.
fn stored(address: &str) -> (Rows, u64) {
    let mut client = RawClient::connect(address);
    let (mut rows, mut after) = (Rows::new(), None);
    loop {
        let export = proto::RequestExportRows { table: "domain_login".to_owned(), after, limit: Some(1000) };
        let Some(Body::ExportRows(page)) = client.request(Command::ExportRows(export)) else { panic!("no rows") };
        for row in &page.rows {
            let row: serde_json::Value = serde_json::from_slice(row).expect("a JSON document");
            rows.insert(row_of(row["domain"].as_str().expect("a domain")), (0, write_of(&row)));
        }
        if page.next.is_none() {
            return (rows, page.position());
        }
        after = page.next;
    }
}

/// What happened, by those it happened to.
struct Story {
    asked: Vec<Vec<Asked>>,
    told: Vec<(Manners, Record)>,
    history: Vec<Change>,
    stored: Rows,
    kills_at_start: u32,
}

fn start<'a>(listen: &'a str, data_dir: &'a Path) -> Start<'a> {
    let data_dir = data_dir.to_str().expect("a path in UTF-8");
    Start { listen, data_dir, settings: SETTINGS, ..Start::default() }
}

/// Lets everybody come to an end, also when the test has failed: a scope waits for all its threads.
struct Ending<'a> {
    writing: &'a Writing,
    goal: &'a AtomicU64,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.writing.is_over.store(true, Ordering::Relaxed);
        // Where a goal is known, this changes nothing.
        let _ = self.goal.compare_exchange(0, Reader::GIVEN_UP, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// Kills a server again and again while all write and read, then lets everybody come to an end.
fn live_through_kills(kills: u32, seed: u64) -> Story {
    let directory = tempfile::tempdir().expect("a directory");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut server = ServerProcess::start(start("127.0.0.1:0", directory.path()));
    let address = server.address.clone();
    let token = token_of_nothing(&address);
    let (writing, goal) = (Writing::default(), AtomicU64::new(0));
    let mut kills_at_start = 0;
    std::thread::scope(|scope| {
        let (writing, goal, address) = (&writing, &goal, &address);
        let _ending = Ending { writing, goal };
        let seeds: Vec<u64> = std::iter::repeat_with(|| random.u64(..)).take(READERS.len() + 2).collect();
        let writers: Vec<_> = (0..WRITERS)
            .map(|number| scope.spawn(move || Writer::new(writing, number, seed + u64::from(number)).run(address)))
            .collect();
        let readers: Vec<_> = (READERS.into_iter().zip(seeds))
            .map(|(manners, seed)| scope.spawn(move || Reader::new(manners, goal, seed).run(address)))
            .collect();
        for kill in 0..kills {
            // Some kills come before anybody has connected, some in the midst of that, most later.
            std::thread::sleep(Duration::from_millis(random.u64(0..if kill % 2 == 0 { 40 } else { 400 })));
            server.kill();
            while random.u8(0..4) == 0 {
                kills_at_start += 1;
                start(address, directory.path()).and_kill_after(Duration::from_micros(random.u64(0..80_000)));
            }
            server = ServerProcess::start(start(address, directory.path()));
        }
        std::thread::sleep(Duration::from_millis(500));
        writing.is_over.store(true, Ordering::Relaxed);
        let asked: Vec<_> = writers.into_iter().map(|writer| writer.join().expect("it ends")).collect();
        let (stored, position) = stored(address);
        goal.store(position, Ordering::Relaxed);
        let told: Vec<_> = readers.into_iter().map(|reader| reader.join().expect("it ends")).collect();
        let (_, record) = Reader::new(Manners::PLAIN, goal, 0).behind(token).run(address);
        let [life] = record.lives.as_slice() else { panic!("the log does not reach back to the start") };
        let changes = life.iter().filter_map(|told| match told {
            Told::Changed(change) => Some(*change),
            Told::Initial(_) | Told::Holds(..) | Told::Ready | Told::Resumed => None,
        });
        Story { asked, told, history: changes.collect(), stored, kills_at_start }
    })
}

impl Story {
    fn broken(&self) -> Broken {
        let mut broken = Broken::default();
        for asked in &self.asked {
            broken += check_writes(&self.history, asked);
        }
        let versions = self.history.iter().map(|change| change.version);
        broken.lost += versions.zip(1..).filter(|(version, wanted)| version != wanted).count();
        let versionless = rows_of(&self.history).into_iter().map(|(row, (_, write))| (row, (0, write))).collect();
        broken += compare_rows(&self.stored, &versionless);
        for (manners, record) in &self.told {
            let view = view_of(&self.history, manners.wish);
            let goal = self.history.last().map_or(0, |change| change.version);
            for (at, life) in record.lives.iter().enumerate() {
                let is_last = at + 1 == record.lives.len();
                let of_life = check_life(&view, manners.wish, life, is_last.then_some(goal));
                if of_life != Broken::default() {
                    eprintln!("the reader \"{}\" was told in life {at}: {of_life}", manners.name);
                }
                broken += of_life;
            }
        }
        broken
    }

    fn sum(&self, count: impl Fn(&Record) -> usize) -> usize {
        self.told.iter().map(|(_, record)| count(record)).sum()
    }
}

#[test]
fn what_was_confirmed_survives_kills_and_nobody_is_told_what_is_not_there() {
    let story = live_through_kills(KILLS, 1);
    let confirmed = story.asked.iter().flatten().filter(|asked| asked.is_confirmed).count();
    let open = story.asked.iter().map(|asked| unanswered(&story.history, asked));
    let (there, gone) = open.fold((0, 0), |sum, open| (sum.0 + open.0, sum.1 + open.1));
    let (resumes, resets) = (story.sum(|told| told.resumes), story.sum(|told| told.resets));
    let in_snapshots = story.sum(|told| told.resumes_of_snapshots);
    let divergences = story.sum(|told| told.divergences);
    let broken = story.broken();
    println!(
        "{} kills, {} of them while the server started; {} changes, {confirmed} writes confirmed, {} not answered of \
         which {there} are there; {} readers were told {} events, went on {resumes} times behind a token, \
         {in_snapshots} of them in the middle of the first rows, began anew {} times; {resets} resets, \
         {divergences} divergences; {broken}",
        KILLS + story.kills_at_start,
        story.kills_at_start,
        story.history.len(),
        there + gone,
        story.told.len(),
        story.sum(|told| told.events),
        story.sum(|told| told.lives.len()) - story.told.len(),
    );
    assert_eq!(broken, Broken::default(), "{broken}");
    assert_eq!((resets, divergences), (0, 0));
    // A run that never gets into these states proves nothing.
    assert!(confirmed > 2_000 && story.kills_at_start > 10, "{confirmed} {}", story.kills_at_start);
    assert!(there > 0 && gone > 0 && resumes > 300 && in_snapshots > 0, "{there} {gone} {resumes} {in_snapshots}");
}

#[test]
fn a_graceful_stop_answers_every_write_that_stays() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut answered = 0;
    for round in 0..10_u32 {
        let mut server = ServerProcess::on_disk(directory.path());
        let mut client = RawClient::connect(&server.address);
        let asked: Vec<i32> = (0..200)
            .map(|row| {
                let request_id = client.next_request_id();
                assert!(client.try_ask(set_login(&domain(round * 1000 + row), "https://x.example/1")));
                request_id
            })
            .collect();
        std::thread::sleep(std::time::Duration::from_millis(round.into()));
        std::thread::scope(|scope| {
            let ended = scope.spawn(|| server.terminate());
            // In order, as far as the server came; then the close frame.
            let came = asked.iter().take_while(|request_id| client.answered_before_close(**request_id)).count();
            answered += came;
            client.shut_down_sending();
            assert_eq!(ended.join().expect("it ends").code(), Some(0));
        });
        let server = ServerProcess::on_disk(directory.path());
        assert_eq!(
            stored(&server.address).0.len(),
            answered,
            "what is there was answered, and what was answered is there"
        );
    }
    assert!(answered > 0, "no write was ever answered");
}
