//! Power losses at every kind of moment, and at every single one.

use std::sync::atomic::{AtomicU64, Ordering};

use starfeed::change::Timestamp;
use starfeed::store::{Retention, Store, StoreOptions, Unit};

use super::model::Model;
use crate::support::fault_disk::{Failure, FaultDisk, Operation};
use crate::{ALL, EPOCH, INDEXES, MORE_INDEXES, indexed, options, random_units};

/// Stores that live for a few power losses, so that many are cut off when they are made.
const SHORT_LIVES: u64 = 600;
/// Stores that live for very many.
const LONG_LIVES: u64 = 20;
const GENERATIONS_OF_A_LONG_LIFE: usize = 600;
/// Lives that are cut at each of their operations.
const CUT_LIVES: u64 = 12;

#[test]
fn ten_thousand_power_losses_take_nothing_that_was_acknowledged() {
    let seeds = AtomicU64::new(0);
    let live = || {
        let mut seen = Seen::default();
        loop {
            match seeds.fetch_add(1, Ordering::Relaxed) {
                // The long ones first, so that no thread is left alone with one.
                seed @ 0..LONG_LIVES => PowerLosses::with_short_log(seed).run(GENERATIONS_OF_A_LONG_LIFE, &mut seen),
                seed if seed < LONG_LIVES + SHORT_LIVES => {
                    let mut losses = PowerLosses::new(seed);
                    let generations = losses.rng.usize(2..=5);
                    losses.run(generations, &mut seen);
                }
                _ => return seen,
            }
        }
    };
    let seen = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(live)).collect();
        threads.into_iter().fold(Seen::default(), |seen, thread| seen + thread.join().expect("nothing was lost"))
    });
    println!("no acknowledged write was lost and every store could be opened: {seen:?}");
    // A run that never gets into these states proves nothing.
    assert!(seen.power_losses >= 10_000, "{seen:?}");
    assert!(seen.cut_in_creation > 20, "{seen:?}");
    assert!(seen.cut_in_reopen > 500, "{seen:?}");
    assert!(seen.kept > 200 && seen.lost > 500, "{seen:?}");
    assert!(seen.idle > 500 && seen.trimmed > 500, "{seen:?}");
}

/// Whatever is being done when the power fails, in a short life and while the store that lived it is opened again.
#[test]
fn a_power_loss_at_any_operation_takes_nothing_that_was_acknowledged() {
    let mut seen = Seen::default();
    for seed in 0..CUT_LIVES {
        let off = if seed % 2 == 0 { Failure::PowerOff } else { Failure::PowerOffButDone };
        for nth in 0.. {
            let mut losses = PowerLosses::new(seed);
            losses.disk.fail(Operation::Change, nth, off.clone());
            losses.live(&mut seen);
            let fell_into_the_life = losses.open.is_some() || !losses.created;
            // Deeper into the recovery each time.
            losses.disk.heal();
            losses.disk.fail(Operation::Change, nth % 9, off.clone());
            losses.live(&mut seen);
            losses.survive(&mut seen);
            // Then the power fails when all is done; a few lives end with nothing to write.
            if !fell_into_the_life && nth > 60 {
                break;
            }
        }
    }
    println!("{seen:?}");
    assert!(seen.kept > 20 && seen.lost > 50 && seen.cut_in_reopen > 100, "{seen:?}");
}

/// What a test of power losses has to meet.
#[derive(Debug, Default)]
struct Seen {
    power_losses: usize,
    /// Ends of the process that took nothing from the disk.
    kills: usize,
    acknowledged: usize,
    cut_in_creation: usize,
    cut_in_reopen: usize,
    kept: usize,
    lost: usize,
    idle: usize,
    trimmed: usize,
}

impl std::ops::Add for Seen {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            power_losses: self.power_losses + other.power_losses,
            kills: self.kills + other.kills,
            acknowledged: self.acknowledged + other.acknowledged,
            cut_in_creation: self.cut_in_creation + other.cut_in_creation,
            cut_in_reopen: self.cut_in_reopen + other.cut_in_reopen,
            kept: self.kept + other.kept,
            lost: self.lost + other.lost,
            idle: self.idle + other.idle,
            trimmed: self.trimmed + other.trimmed,
        }
    }
}

/// Random commits on a disk whose power fails, several times in a row.
struct PowerLosses {
    seed: u64,
    rng: fastrand::Rng,
    disk: FaultDisk,
    options: StoreOptions,
    model: Model,
    /// Handed in when the power failed: it is there in full or not at all.
    open: Option<Vec<Unit>>,
    created: bool,
    now: u64,
}

impl PowerLosses {
    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let retention = if rng.u8(0..3) > 0 { ALL } else { Retention { bytes: 20_000, age_ms: 1_000 } };
        let options = indexed(options(retention, [0, 64 << 10, 4 << 20][rng.usize(0..3)]), INDEXES);
        let disk = FaultDisk::new();
        Self { seed, rng, disk, options, model: Model::default(), open: None, created: false, now: 0 }
    }

    /// For a long life: all of its changes would be compared again after each power loss.
    fn with_short_log(seed: u64) -> Self {
        let mut losses = Self::new(seed);
        losses.options.retention = Retention { bytes: 30_000, age_ms: 100_000 };
        losses
    }

    fn run(&mut self, generations: usize, seen: &mut Seen) {
        for _ in 0..generations {
            self.cut_power_some_time();
            self.options = indexed(self.options.clone(), if self.rng.bool() { INDEXES } else { MORE_INDEXES });
            self.live(seen);
        }
        self.survive(seen);
    }

    /// Opens the store and writes until the power fails, or for a while.
    fn live(&mut self, seen: &mut Seen) {
        let store = Store::open(Box::new(self.disk.clone()), self.options.clone());
        match store {
            Ok(store) => {
                self.created = true;
                self.compare(&store, seen);
                self.write_until_power_fails(&store, seen);
                self.end(store, seen);
            }
            Err(error) => {
                assert!(self.disk.is_off(), "seed {}: {error}", self.seed);
                *(if self.created { &mut seen.cut_in_reopen } else { &mut seen.cut_in_creation }) += 1;
                self.crash(seen);
            }
        }
    }

    /// Compares when nothing fails any more.
    fn survive(&mut self, seen: &mut Seen) {
        self.disk.heal();
        let store = Store::open(Box::new(self.disk.clone()), self.options.clone());
        let store = store.unwrap_or_else(|error| panic!("seed {}: {error}", self.seed));
        self.compare(&store, seen);
    }

    fn cut_power_some_time(&mut self) {
        self.disk.heal();
        let off = if self.rng.bool() { Failure::PowerOff } else { Failure::PowerOffButDone };
        let (operation, within) = match self.rng.u8(0..8) {
            0..=1 => (Operation::Change, 6),
            2..=4 => (Operation::Sync, 12),
            5 => (Operation::SetLen, 3),
            _ => (Operation::Change, 150),
        };
        let nth = self.rng.u64(0..within);
        self.disk.fail(operation, nth, off);
    }

    fn write_until_power_fails(&mut self, store: &Store, seen: &mut Seen) {
        for _ in 0..self.rng.usize(0..10) {
            let units = random_units(&mut self.rng);
            self.now += self.rng.u64(0..400);
            match store.commit(Timestamp(self.now), &units) {
                Ok(committed) => {
                    seen.acknowledged += committed.results.iter().filter(|result| result.is_ok()).count();
                    self.model.acknowledge(&units, &committed);
                }
                Err(error) => {
                    assert!(self.disk.is_off(), "seed {}: {error}", self.seed);
                    self.open = Some(units);
                    return;
                }
            }
        }
        seen.idle += 1;
    }

    fn end(&mut self, store: Store, seen: &mut Seen) {
        // The process ends in good order, with the power failing in the midst of it or not, or it just ends.
        if self.rng.bool() {
            drop(store);
            self.crash(seen);
        } else {
            self.crash(seen);
            drop(store);
        }
    }

    fn crash(&mut self, seen: &mut Seen) {
        if self.rng.u8(0..4) > 0 {
            seen.power_losses += 1;
            self.disk.crash(&mut self.rng);
        } else {
            seen.kills += 1;
            self.disk.kill();
        }
    }

    /// What is open is settled by what the store holds now; from here on it must stay.
    fn compare(&mut self, store: &Store, seen: &mut Seen) {
        let position = store.position();
        assert_eq!(position.epoch, EPOCH);
        if let Some(units) = self.open.take() {
            let mut with = self.model.clone();
            with.apply(&units, Timestamp(self.now));
            if with.last() != self.model.last() {
                let kept = position.seq == with.last();
                *(if kept { &mut seen.kept } else { &mut seen.lost }) += 1;
                if kept {
                    self.model = with;
                }
            }
        }
        let trimmed = self.model.compare(store).unwrap_or_else(|difference| panic!("seed {}: {difference}", self.seed));
        seen.trimmed += usize::from(!trimmed.is_empty());
        self.model.forget(trimmed);
    }
}
