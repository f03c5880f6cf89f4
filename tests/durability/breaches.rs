//! What the checker says of stories in which something went wrong: a checker that finds nothing proves nothing.

use starfeed::change::{Key, Seq};
use starfeed::summary::Summary;

use super::history::{
    Asked, Broken, Change, Life, Rows, Told, Wish, check_life, check_writes, compare_rows, domain, rows_of, view_of,
};

const ALL: Wish = Wish { group: None, is_coalesced: false };

/// Three rows that are written in turn; row 0 goes away again and again.
fn history() -> Vec<Change> {
    (1..=30)
        .map(|version| {
            let row = u32::try_from(version % 3).expect("small");
            Change { version, row, write: (row > 0 || version % 2 == 1).then_some(version) }
        })
        .collect()
}

fn asked() -> Vec<Asked> {
    let asked = |change: Change| Asked {
        row: change.row,
        write: change.write,
        // Each two of them are one transaction.
        unit: change.version / 2,
        is_confirmed: true,
    };
    history().into_iter().map(asked).collect()
}

fn holds(history: &[Change], position: u64) -> Told {
    let mut summary = Summary::default();
    let upto = history.iter().filter(|change| change.version <= position).copied();
    for (row, (version, _)) in rows_of(&upto.collect::<Vec<_>>()) {
        summary.add(&Key::text(&domain(row)), Seq(version));
    }
    Told::Holds(position, summary)
}

/// Begins when there is nothing, and goes on with the token of change 15.
fn life() -> Life {
    let history = history();
    let mut life = vec![holds(&history, 0), Told::Ready];
    for change in &history {
        life.push(Told::Changed(*change));
        if change.version % 5 == 0 {
            life.push(holds(&history, change.version));
        }
        if change.version == 15 {
            life.push(Told::Resumed);
        }
    }
    life
}

/// The place of change `version` in [`life`].
fn place(life: &Life, version: u64) -> usize {
    let is_it = |told: &Told| matches!(told, Told::Changed(change) if change.version == version);
    life.iter().position(is_it).expect("it is there")
}

fn told(spoil: impl FnOnce(&mut Life)) -> Broken {
    let mut life = life();
    spoil(&mut life);
    check_life(&view_of(&history(), ALL), ALL, &life, Some(30))
}

/// Told everything but one change.
fn without(version: u64) -> Broken {
    told(|life| {
        life.remove(place(life, version));
    })
}

#[test]
fn an_honest_story_is_not_faulted() {
    assert_eq!(told(|_| {}), Broken::default());
    assert_eq!(check_writes(&history(), &asked()), Broken::default());
    let filtered = Wish { group: Some(1), ..ALL };
    let view = view_of(&history(), filtered);
    assert!(view.iter().any(|change| change.write.is_none()) && view.len() < history().len());
    let life = view.iter().map(|change| Told::Changed(*change));
    let life: Life = [Told::Holds(0, Summary::default()), Told::Ready].into_iter().chain(life).collect();
    assert_eq!(check_life(&view, filtered, &life, Some(30)), Broken::default());
    // Told of the changes of a row that left the filter as if it had not.
    let of_table: Life = self::life();
    assert_ne!(check_life(&view, filtered, &of_table, Some(30)), Broken::default());
}

#[test]
fn what_was_not_told_is_lost() {
    let broken = without(19);
    assert!(broken.lost == 1 && broken.unequal > 0, "{broken}");
    // The last change of all: only the end shows it.
    let broken = told(|life| life.truncate(place(life, 30)));
    assert!(broken.lost >= 1, "{broken}");
    // Going on with the token of change 15, one change too late.
    assert_eq!(without(16).lost, 1);
    // Never brought to the end of the first rows.
    assert!(told(|life| life.retain(|told| !matches!(told, Told::Ready))).lost > 0);
}

#[test]
fn what_was_told_twice_is_counted() {
    let broken = told(|life| life.insert(place(life, 12), life[place(life, 11)]));
    assert_eq!(broken, Broken { duplicated: 1, ..Broken::default() });
    let broken = told(|life| life.insert(place(life, 16), life[place(life, 15)]));
    assert_eq!(broken, Broken { repeated: 1, ..Broken::default() });
}

#[test]
fn what_never_happened_is_a_ghost() {
    let ghost = Change { version: 14, row: 2, write: Some(99) };
    let broken = told(|life| {
        let at = place(life, 14);
        life[at] = Told::Changed(ghost);
    });
    assert!(broken.ghost >= 1, "{broken}");
    // A change that a reader saw, and that the store does not know after the crash.
    let broken = told(|life| life.push(Told::Changed(Change { version: 31, row: 1, write: Some(31) })));
    assert!(broken.ghost >= 1, "{broken}");
    // A change that nobody asked for.
    let mut asked = asked();
    asked.remove(10);
    assert!(check_writes(&history(), &asked).ghost > 0);
}

#[test]
fn what_was_confirmed_and_is_not_there_is_lost() {
    let mut history = history();
    history.remove(10);
    let broken = check_writes(&history, &asked());
    assert_eq!(broken, Broken { lost: 1, torn: 1, ..Broken::default() });
    // Without a confirmation it is only torn from the other half of its transaction.
    let mut asked = asked();
    asked[10].is_confirmed = false;
    assert_eq!(check_writes(&history, &asked), Broken { torn: 1, ..Broken::default() });
}

#[test]
fn rows_that_are_not_as_they_should_be_are_told_apart() {
    let wanted: Rows = [(1, (5, 50)), (2, (6, 60)), (3, (7, 70))].into();
    let held: Rows = [(1, (4, 40)), (2, (6, 60)), (4, (2, 20))].into();
    let broken = compare_rows(&held, &wanted);
    assert_eq!(broken, Broken { stale: 1, lost: 1, resurrected: 1, ..Broken::default() });
    assert_eq!(compare_rows(&wanted, &wanted), Broken::default());
    let newer: Rows = [(1, (9, 90)), (2, (6, 60)), (3, (7, 70))].into();
    assert_eq!(compare_rows(&newer, &wanted), Broken { ghost: 1, ..Broken::default() });
    // A deletion that was forgotten.
    let broken = without(24);
    assert!(broken.resurrected > 0 && broken.lost == 1, "{broken}");
}

#[test]
fn a_count_or_digest_that_is_not_that_of_the_rows_is_found() {
    let broken = told(|life| {
        let at = place(life, 20) + 1;
        life[at] = Told::Holds(20, Summary::default());
    });
    assert_eq!(broken, Broken { unequal: 1, ..Broken::default() });
}
