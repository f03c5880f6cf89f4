//! What a commit takes of the processor where there is no disk.

use std::time::Duration;

use redb::backends::InMemoryBackend;
use starfeed::clock::Clock;
use starfeed::store::{MemoryDisk, Unit};

use crate::raw::{self, Mode, Redb, Sizes};
use crate::rows;

const CHANGES: [usize; 3] = [1, 32, 256];
const TIME: Duration = Duration::from_millis(1_000);

pub(crate) fn measure() {
    println!("\nIn memory, one thread: processor time of a commit.\n");
    println!(
        "| changes | starfeed, µs of CPU each commit | each change | redb, µs of CPU each commit | redb, not durable |"
    );
    println!("| ---: | ---: | ---: | ---: | ---: |");
    for changes in CHANGES {
        let store = rows::open(Box::new(MemoryDisk));
        let all: Vec<Unit> = (0..rows::ROWS).map(|number| rows::write(number, 0)).collect();
        store.commit(Clock.now(), &all).expect("memory works");
        // The units are made before: a session makes them in the server, not the writer.
        let mut version = 0;
        // Each row in two versions: one that is written again as it stands is no change.
        let prepared: Vec<Vec<Unit>> = (0..2 * rows::ROWS / changes)
            .map(|_| {
                let unit = |_| {
                    version += 1;
                    rows::write(rows::scattered(version), version)
                };
                (0..changes).map(unit).collect()
            })
            .collect();
        let log = store.log_bytes();
        store.commit(Clock.now(), &[rows::write(0, usize::MAX)]).expect("memory works");
        let log = usize::try_from(store.log_bytes() - log).expect("a small entry");
        let mut units = prepared.iter().cycle();
        let own = raw::repeat(TIME, changes, || {
            let units = units.next().expect("it begins again");
            store.commit(Clock.now(), units).expect("memory works");
        });
        let sizes = Sizes { row: 12 + rows::write(0, 1)[0].row_size(), log };
        let redb = |mode| Redb::new(InMemoryBackend::new(), sizes, mode).run(changes, TIME);
        println!(
            "| {changes} | {:.1} | {:.2} | {:.1} | {:.1} |",
            own.commit_cpu_us,
            own.commit_cpu_us / changes as f64,
            redb(Mode::Default).commit_cpu_us,
            redb(Mode::NotDurable).commit_cpu_us,
        );
    }
}
