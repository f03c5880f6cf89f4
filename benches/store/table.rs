//! The figures on disk: rounds of each in turn, and the middle one of all rounds.

use std::time::Duration;

use redb::backends::FileBackend;

use crate::raw::{self, Append, Mode, Redb, Sizes};
use crate::rows;
use crate::writers::{self, Bench};

const WRITERS: [usize; 3] = [1, 16, 128];
const ROUNDS: usize = 5;
const STORE_TIME: Duration = Duration::from_millis(1_000);
const REDB_TIME: Duration = Duration::from_millis(700);
const FILE_TIME: Duration = Duration::from_millis(300);
const WHAT: [&str; 4] =
    ["redb by itself", "redb, two phases and allocator", "append, the file grows", "append, its space is taken"];

/// What one round measured.
struct Round {
    store: writers::Figures,
    raw: [raw::Figures; 4],
}

pub(crate) fn on_disk() {
    println!(
        "{} rows of about 200 bytes; each write changes one row; figures are the middle of {ROUNDS} rounds.\n",
        rows::ROWS
    );
    println!(
        "| writers | | writes/s | commits/s | writes/commit | p50 µs | p99 µs | CPU µs/commit | starfeed is × as fast | by CPU |"
    );
    println!("| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    for writers in WRITERS {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        let bench = Bench::new(&path("store.redb"));
        let row = 12 + rows::write(0, 1)[0].row_size() + rows::key(0).len();
        let sizes = Sizes { row, log: bench.log_bytes_of_a_write() };
        let redb = |name: &str, mode| {
            let file = std::fs::File::options().read(true).write(true).create_new(true).open(path(name));
            let backend = FileBackend::new(file.expect("a new file")).expect("nobody else has it");
            Redb::new(backend, sizes, mode)
        };
        let mut plain = redb("plain.redb", Mode::Default);
        let mut quick = redb("quick.redb", Mode::QuickRepair);
        let mut grows = Append::extending(&path("grows"), sizes);
        let mut taken = Append::preallocated(&path("taken"), sizes);
        let rounds = (0..ROUNDS).map(|_| {
            let store = bench.run(writers, STORE_TIME);
            let batch = (store.writes / store.commits).round() as usize;
            let raw = [
                plain.run(batch, REDB_TIME),
                quick.run(batch, REDB_TIME),
                grows.run(batch, FILE_TIME),
                taken.run(batch, FILE_TIME),
            ];
            Round { store, raw }
        });
        print(writers, &rounds.collect::<Vec<_>>());
        bench.end();
    }
    println!(
        "\nThe times of the writers include waking them; those of the others are of one commit. CPU is that of the thread that commits: what starfeed writes to its database beside that is not in it."
    );
}

fn print(writers: usize, rounds: &[Round]) {
    let store = |figure: fn(&writers::Figures) -> f64| middle(rounds.iter().map(|round| figure(&round.store)));
    println!(
        "| {writers} | starfeed, acknowledged | {:.0} | {:.0} | {:.1} | {:.0} | {:.0} | {:.0} | | |",
        store(|it| it.writes),
        store(|it| it.commits),
        store(|it| it.writes / it.commits),
        store(|it| it.p50_us),
        store(|it| it.p99_us),
        store(|it| it.commit_cpu_us),
    );
    for (at, what) in WHAT.iter().enumerate() {
        let raw = |figure: fn(&raw::Figures) -> f64| middle(rounds.iter().map(|round| figure(&round.raw[at])));
        let batch = store(|it| (it.writes / it.commits).round());
        println!(
            "| | {what} | {:.0} | {:.0} | {batch:.0} | {:.0} | {:.0} | {:.0} | {:.2} | {:.2} |",
            raw(|it| it.writes),
            raw(|it| it.writes) / batch,
            raw(|it| it.p50_us),
            raw(|it| it.p99_us),
            raw(|it| it.commit_cpu_us),
            middle(rounds.iter().map(|round| round.store.writes / round.raw[at].writes)),
            middle(rounds.iter().map(|round| round.raw[at].commit_cpu_us / round.store.commit_cpu_us)),
        );
    }
}

fn middle(figures: impl Iterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
