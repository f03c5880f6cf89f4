use super::*;

fn page_keys(page: &RowPage) -> Vec<String> {
    page.rows.iter().map(|row| row.key.to_string()).collect()
}

#[test]
fn rows_come_in_key_order_page_by_page() {
    let store = in_memory();
    let keys =
        [Key::number(-1.0), Key::number(3.0), Key::number(20.0), Key::binary(&[7]), Key::text("a"), Key::text("b")];
    for key in keys.iter().rev() {
        write(&store, vec![Mutation::put(policies(), key.clone(), value(1))]);
    }
    // Neighbours on both sides, which must not show.
    write(&store, vec![put(schedules(), "a", value(1)), put(Table::new("a"), "a", value(1))]);
    let snapshot = store.snapshot().expect("a snapshot");
    for items in 1..=7 {
        let mut found: Vec<Key> = Vec::new();
        loop {
            let budget = PageBudget { items, bytes: usize::MAX };
            let page = snapshot.rows_after(&policies(), found.last(), budget).expect("a page");
            assert_eq!(page.complete, found.len() + page.rows.len() == keys.len());
            assert_eq!(page.rows.len(), items.min(keys.len() - found.len()));
            let (block, complete) = snapshot.block_after(&policies(), found.last(), budget).expect("a page");
            assert_eq!((0..block.len()).map(|at| block.row(at)).collect::<Vec<_>>(), page.rows);
            assert_eq!(complete, page.complete);
            found.extend(page.rows.into_iter().map(|row| row.key));
            if page.complete {
                break;
            }
        }
        assert_eq!(found, keys);
    }
}

#[test]
fn a_page_ends_when_its_bytes_are_spent_and_is_never_empty_before_the_end() {
    let store = in_memory();
    let large = document(&format!(r#"{{"pad":"{}"}}"#, "x".repeat(5_000)));
    for key in ["a", "b", "d"] {
        write(&store, vec![put(policies(), key, value(1))]);
    }
    write(&store, vec![put(policies(), "c", large)]);
    let snapshot = store.snapshot().expect("a snapshot");
    let page = |after: Option<&str>, bytes| {
        let after = after.map(Key::text);
        snapshot.rows_after(&policies(), after.as_ref(), PageBudget { items: 100, bytes }).expect("a page")
    };
    let small = page(Some("a"), 1).rows[0].size();
    assert_eq!(page_keys(&page(None, 2 * small)), ["a", "b"]);
    assert_eq!(page_keys(&page(None, small + 1)), ["a", "b"]);
    assert_eq!(page_keys(&page(Some("b"), 1)), ["c"], "a row larger than the page comes alone");
    assert_eq!(page_keys(&page(Some("b"), 0)), ["c"]);
    assert!(!page(Some("b"), 1).complete);
    assert_eq!(page_keys(&page(None, 100_000)), ["a", "b", "c", "d"]);
    assert!(page(None, 100_000).complete);
}

#[test]
fn a_page_starts_after_any_key_there_or_not() {
    let store = in_memory();
    write(&store, ["a", "c", "e"].map(|key| put(policies(), key, value(1))).into());
    let snapshot = store.snapshot().expect("a snapshot");
    let after = |key: &Key| page_keys(&snapshot.rows_after(&policies(), Some(key), NO_LIMIT).expect("a page"));
    assert_eq!(after(&Key::number(1.0)), ["a", "c", "e"]);
    assert_eq!(after(&Key::text("b")), ["c", "e"]);
    assert_eq!(after(&Key::text("c")), ["e"]);
    assert_eq!(after(&Key::text("e")), [""; 0]);
    assert_eq!(after(&Key::text("z")), [""; 0]);
}

#[test]
fn changes_come_per_table_page_by_page() {
    let store = in_memory();
    for round in 0..6 {
        write(&store, vec![put(policies(), "a", value(round)), put(schedules(), "a", value(round))]);
    }
    let snapshot = store.snapshot().expect("a snapshot");
    for items in 1..=7 {
        let mut found: Vec<Change> = Vec::new();
        loop {
            let after = found.last().map_or(Seq::ZERO, |change| change.seq);
            let budget = PageBudget { items, bytes: usize::MAX };
            let page = snapshot.changes_after(&schedules(), after, budget).expect("a page");
            let ChangePage::Changes { changes, complete } = page else {
                panic!("nothing was trimmed");
            };
            assert_eq!(changes.len(), items.min(6 - found.len()));
            found.extend(changes);
            assert_eq!(complete, found.len() == 6);
            if complete {
                break;
            }
        }
        assert_eq!(seqs(&found), [2, 4, 6, 8, 10, 12]);
        assert!(found.iter().all(|change| change.table == schedules()));
    }
}

#[test]
fn a_page_of_changes_ends_when_its_bytes_are_spent() {
    let store = in_memory();
    for round in 0..5 {
        write(&store, vec![put(policies(), "a", value(round))]);
    }
    let snapshot = store.snapshot().expect("a snapshot");
    let page = |after, bytes| {
        let budget = PageBudget { items: 100, bytes };
        match snapshot.changes_after(&policies(), Seq(after), budget).expect("a page") {
            ChangePage::Changes { changes, complete } => (seqs(&changes), complete),
            ChangePage::Trimmed => panic!("nothing was trimmed"),
        }
    };
    let size = log(&store, &policies(), 4).expect("a log")[0].size();
    assert_eq!(page(1, 2 * size), (vec![2, 3], false));
    assert_eq!(page(1, 0), (vec![2], false));
    assert_eq!(page(2, 3 * size), (vec![3, 4, 5], true));
}

#[test]
fn no_change_follows_the_newest_one_or_one_of_the_future() {
    let store = in_memory();
    write(&store, vec![put(policies(), "a", value(1)), put(schedules(), "a", value(1))]);
    for after in [2, 3, u64::MAX - 1, u64::MAX] {
        assert_eq!(log(&store, &policies(), after), Some(Vec::new()));
        assert_eq!(log(&store, &schedules(), after), Some(Vec::new()));
        assert_eq!(log(&store, &Table::new("unknown"), after), Some(Vec::new()));
    }
}

#[test]
fn a_snapshot_stays_as_it_is_while_commits_go_on() {
    let small = Retention { bytes: 2_000, age_ms: u64::MAX };
    let store = Store::open(Box::new(MemoryDisk), options(small)).expect("a store");
    write(&store, vec![put(policies(), "a", value(1)), put(policies(), "b", value(1))]);
    let snapshot = store.snapshot().expect("a snapshot");
    for round in 0..200 {
        write(&store, vec![put(policies(), "a", value(round + 2)), put(policies(), &round.to_string(), value(1))]);
        write(&store, vec![delete(policies(), "b")]);
    }
    assert_eq!(log(&store, &policies(), 0), None, "the log was trimmed meanwhile");

    assert_eq!(snapshot.position().seq, Seq(2));
    let page = snapshot.rows_after(&policies(), None, NO_LIMIT).expect("rows");
    assert_eq!(page_keys(&page), ["a", "b"]);
    assert_eq!(page.rows[0].document, value(1));
    assert_eq!(snapshot.row(&policies(), &Key::text("b")).expect("a row").map(|row| row.version), Some(Seq(2)));
    assert_eq!(snapshot.count(&policies()).expect("a count"), 2);
    let changes = snapshot.changes_after(&policies(), Seq::ZERO, NO_LIMIT).expect("changes");
    assert!(matches!(changes, ChangePage::Changes { changes, complete: true } if seqs(&changes) == [1, 2]));
    assert_eq!(snapshot.log_entries().expect("a count"), 2);
}

#[test]
fn one_row_is_found_by_its_key() {
    let store = in_memory();
    write(&store, vec![put(policies(), "a", value(1))]);
    let get = |table: Table, key: Key| {
        store.snapshot().expect("a snapshot").query(&Query::Get { table, key }, usize::MAX).expect("an answer")
    };
    let found = get(policies(), Key::text("a"));
    assert_eq!((found.rows[0].document.clone(), found.total), (value(1), 1));
    for missing in
        [get(policies(), Key::text("b")), get(schedules(), Key::text("a")), get(policies(), Key::binary(b"a"))]
    {
        assert_eq!((missing.rows.len(), missing.total), (0, 0));
    }
}

#[test]
fn a_list_is_ordered_before_its_page_is_cut() {
    let store = in_memory();
    for (key, text) in [
        ("1", r#"{"name":"delta"}"#),
        ("2", r#"{"name":7}"#),
        ("3", r#"{"name":"alpha"}"#),
        ("4", r#"{}"#),
        ("5", r#"{"name":"alpha"}"#),
        ("6", r#"{"name":""}"#),
    ] {
        write(&store, vec![put(policies(), key, document(text))]);
    }
    let list = |order, offset, limit| {
        let query = Query::List { table: policies(), order, offset, limit };
        let result = store.snapshot().expect("a snapshot").query(&query, usize::MAX).expect("an answer");
        assert_eq!(result.total, 6);
        result.rows.iter().map(|row| row.key.to_string()).collect::<String>()
    };
    assert_eq!(list(Order::Key, 0, 10), "123456");
    assert_eq!(list(Order::Key, 2, 3), "345");
    assert_eq!(list(Order::Key, 6, 3), "");
    assert_eq!(list(Order::Key, usize::MAX, usize::MAX), "");
    // Equal names in key order; rows without a name, or with one that is no text, come last.
    assert_eq!(list(Order::Member("name"), 0, usize::MAX), "635124");
    assert_eq!(list(Order::Member("name"), 1, 3), "351");
    assert_eq!(list(Order::Member("name"), 4, 1), "2");
    assert_eq!(list(Order::Member("name"), 5, 9), "4");
    assert_eq!(list(Order::Member("name"), 0, 0), "");
    assert_eq!(list(Order::Member("other"), 0, 9), "123456");
}

#[test]
fn a_list_of_a_table_that_is_not_there_is_empty() {
    let store = in_memory();
    for order in [Order::Key, Order::Member("name")] {
        let query = Query::List { table: policies(), order, offset: 0, limit: 10 };
        let result = store.snapshot().expect("a snapshot").query(&query, 0).expect("an answer");
        assert_eq!((result.rows.len(), result.total), (0, 0));
    }
}

#[test]
fn an_answer_that_is_too_large_is_refused_and_a_smaller_page_is_not() {
    let store = in_memory();
    for key in ["a", "b", "c"] {
        write(&store, vec![put(policies(), key, value(1))]);
    }
    let bytes_max = 2 * rows(&store, &policies())[0].size();
    for order in [Order::Key, Order::Member("value")] {
        let ask = |limit| {
            let query = Query::List { table: policies(), order, offset: 0, limit };
            store.snapshot().expect("a snapshot").query(&query, bytes_max)
        };
        assert_eq!(ask(2).expect("it fits").rows.len(), 2);
        let error = ask(3).expect_err("it does not fit");
        assert!(matches!(error, StoreError::AnswerTooBig { bytes_max: said } if said == bytes_max), "{error}");
        assert!(error.to_string().contains("ask for fewer rows"));
    }
}
