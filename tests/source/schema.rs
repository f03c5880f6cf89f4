//! Tables and indexes that the database lacks, and `starfeed init`, which makes them.

use serde_json::json;

use super::program::Program;
use super::reader::Reader;
use super::setup::{PASSWORD, Setup, options};
use crate::support::process::eventually;

const TABLES: [(&str, &str); 10] = [
    ("captcha_solver", "id"),
    ("domain_login", "domain"),
    ("frontier", "id"),
    ("job", "id"),
    ("policy", "id"),
    ("rate_limit", "token"),
    ("response", "sequence"),
    ("response_body", "id"),
    ("robots_txt", "id"),
    ("schedule", "id"),
];

#[test]
fn a_database_without_tables_is_refused_and_init_makes_them() {
    let setup = Setup::without_tables(options());
    let refused = setup.start(&[]).end();
    assert_eq!(refused.status, Some(1), "{refused:?}");
    for (table, _) in TABLES.iter().filter(|(table, _)| !["frontier", "robots_txt"].contains(table)) {
        assert!(refused.stderr.contains(&format!("the table {table}")), "{table}: {}", refused.stderr);
    }
    assert!(refused.stderr.contains("starfeed init"), "{}", refused.stderr);

    let made = setup.init();
    assert_eq!(made.status, Some(0), "{made:?}");
    for (table, key) in TABLES {
        assert!(made.stdout.contains(&format!("made the table {table}\n")), "{table}: {}", made.stdout);
        setup.database.put(table, json!({key: "x", "name": "y"}));
        assert_eq!(setup.database.row(table, "x"), Some(json!({key: "x", "name": "y"})), "{table} has the key {key}");
        setup.database.delete(table, "x");
    }
    for index in ["started_at of job", "schedule of job", "job_sync of response", "name of rate_limit"] {
        assert!(made.stdout.contains(&format!("made the index {index}\n")), "{index}: {}", made.stdout);
    }
    let again = setup.init();
    assert_eq!((again.status, again.stdout.as_str()), (Some(0), "everything was there\n"));
    assert!(!made.stdout.contains(PASSWORD) && !made.stderr.contains(PASSWORD));

    let server = setup.serve();
    Reader::live(&server).expect_quiet(&setup);
}

#[test]
fn a_database_that_does_not_exist_is_refused_and_init_makes_it() {
    let setup = Setup::without_tables(options());
    let url = setup.url().replace("/starbelly", "/another");
    let data_dir = setup.data_dir();
    let password = [("STARFEED_SOURCE_PASSWORD", PASSWORD)];
    let serve = ["serve", "--listen", "127.0.0.1:0", "--data-dir", &data_dir, "--source", &url];
    let refused = Program::start(&serve, &password).end();
    assert_eq!(refused.status, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("the database another lacks everything"), "{}", refused.stderr);
    // It has left nothing in the data directory that would keep the right one from being served there.
    assert_eq!(setup.init().status, Some(0));
    Reader::live(&setup.serve()).expect_quiet(&setup);
    let directory = tempfile::tempdir().expect("a directory");
    let data_dir = directory.path().to_str().expect("a path in UTF-8");
    let serve = ["serve", "--listen", "127.0.0.1:0", "--data-dir", data_dir, "--source", &url];
    let made = Program::start(&["init", "--source", &url], &password).end();
    assert_eq!(made.status, Some(0), "{made:?}");
    assert!(made.stdout.starts_with("made the database another\n"), "{}", made.stdout);
    assert!(Program::start(&serve, &password).address().starts_with("127.0.0.1:"));
}

#[test]
fn each_table_and_index_that_is_missing_is_named() {
    let setup = Setup::new();
    setup.database.drop_table("policy");
    setup.database.drop_table("job");
    setup.database.create_table("job");
    setup.database.create_index("job", "started_at");
    let refused = setup.start(&[]).end();
    assert_eq!(refused.status, Some(1), "{refused:?}");
    let expected = "the database starbelly lacks the table policy, the index schedule of job; `starfeed init`";
    assert!(refused.stderr.contains(expected), "{}", refused.stderr);
    let made = setup.init();
    assert!(made.stdout.contains("made the table policy\n"), "{}", made.stdout);
    assert!(made.stdout.contains("made the index schedule of job\n"), "{}", made.stdout);
    assert!(!made.stdout.contains("started_at"), "{}", made.stdout);
}

#[test]
fn a_table_with_another_key_is_not_taken_for_that_of_a_crawler() {
    let setup = Setup::new();
    setup.database.drop_table("domain_login");
    setup.database.create_table("domain_login");
    for ended in [setup.start(&[]).end(), setup.init()] {
        assert_eq!(ended.status, Some(1), "{ended:?}");
        let expected = "the table domain_login of the database has the primary key id, and not domain";
        assert!(ended.stderr.contains(expected), "{}", ended.stderr);
    }
}

#[test]
fn init_without_permission_says_so() {
    let setup = Setup::without_tables(options());
    setup.database.set_faults(|faults| faults.refuses_writes = true);
    let refused = setup.init();
    assert_eq!(refused.status, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("does not have the required `write` permission"), "{}", refused.stderr);
}

#[test]
fn without_a_table_of_canaries_tables_are_followed_all_the_same() {
    let setup = Setup::new();
    setup.database.drop_table("starfeed_canary");
    let mut program = setup.start(&[]);
    let mut reader = Reader::new(&program.address());
    reader.until("LIVE");
    reader.expect_quiet(&setup);
    program.until_said("there is no table starfeed_canary");
    assert_eq!(setup.database.open_feeds(), ["domain_login"]);
}

#[test]
fn a_table_of_canaries_that_goes_away_is_missed_once() {
    let setup = Setup::new();
    let mut program = setup.start(&[]);
    let mut reader = Reader::new(&program.address());
    reader.until("LIVE");
    setup.database.drop_table("starfeed_canary");
    setup.database.forget_queries();
    let canaries = |query: &&String| query.contains("starfeed_canary");
    eventually("it is tried again", || setup.database.queries().iter().filter(canaries).count() >= 3);
    assert_eq!(program.stderr().matches("the canary cannot be sent").count(), 1, "{}", program.stderr());
    reader.expect_quiet(&setup);
    assert!(!program.stderr().contains("cannot be followed"), "{}", program.stderr());
}
