//! Accounts that may do little: reading and writing the rows of one database is enough, and reading them for subscriptions.

use reql::r;
use serde_json::{Value, json};
use starfeed::proto::{self, request::Command, response::Body};

use crate::support::crawled::{put, rows};
use crate::support::process::ServerProcess;
use crate::support::raw::{RawClient, delete_login, set_login};
use crate::support::rethinkdb::ask::members;
use crate::support::rethinkdb::database::init;
use crate::support::rethinkdb::server::Rethinkdb;
use crate::support::told::{
    POLICY_ID, SCHEDULE_ID, documents, list, login, next_told, policy, schedule, states, table, told, until,
};

const DATABASE: &str = "crawler";
const PASSWORD: &str = "hunter2";

/// A RethinkDB in which `user` has these permissions for the database of the crawler, and none for anything else.
fn rethinkdb_with(user: &str, permissions: &Value) -> Option<Rethinkdb> {
    let rethinkdb = Rethinkdb::of_our_own(&[])?;
    init(&rethinkdb.url("admin", DATABASE));
    let system = |table: &'static str| r.db("rethinkdb").table(table);
    rethinkdb.ask(system("users").insert(json!({"id": user, "password": PASSWORD})));
    let databases = members(rethinkdb.ask(system("db_config")));
    let database = databases.into_iter().find(|row| row["name"] == DATABASE).expect("the database");
    let row = json!({"id": [user, database["id"]], "user": user, "database": DATABASE, "permissions": permissions});
    rethinkdb.ask(system("permissions").insert(row));
    Some(rethinkdb)
}

fn server(rethinkdb: &Rethinkdb, user: &str) -> ServerProcess {
    ServerProcess::of_source(&rethinkdb.url(user, DATABASE), PASSWORD, ":memory:", &[])
}

fn id(text: &str) -> bytes::Bytes {
    uuid::Uuid::parse_str(text).expect("a UUID").as_bytes().to_vec().into()
}

#[test]
fn an_account_that_may_read_and_write_rows_has_all_commands() {
    let Some(rethinkdb) = rethinkdb_with("feed", &json!({"read": true, "write": true})) else { return };
    let server = server(&rethinkdb, "feed");
    let mut client = RawClient::connect(&server.address);
    let subscriptions = [
        list("policy", documents()),
        list("schedule", documents()),
        list("domain_login", documents()),
        table("job", documents()),
    ];
    let mut followers = subscriptions.map(|command| {
        let mut follower = RawClient::connect(&server.address);
        follower.subscribe(command);
        follower
    });
    put(&mut client, "policy", &[policy("A")]);
    put(&mut client, "schedule", &[schedule("A")]);
    client.request(login("a.example", "A"));
    rethinkdb.ask(r.db(DATABASE).table("job").insert(json!({"id": "job", "name": "A"})));
    for (follower, key) in followers.iter_mut().zip([POLICY_ID, SCHEDULE_ID, "a.example", "job"]) {
        let told = next_told(follower, 1);
        assert!(told[0].starts_with(&format!("ADDED {key}")), "{told:?}");
    }
    let get = Command::GetPolicy(proto::RequestGetPolicy { policy_id: id(POLICY_ID) });
    let Some(Body::Policy(mut policy)) = client.request(get) else { panic!("no policy") };
    policy.name = Some("B".to_owned());
    client.request(Command::SetPolicy(proto::RequestSetPolicy { policy }));
    let get = Command::GetSchedule(proto::RequestGetSchedule { schedule_id: id(SCHEDULE_ID) });
    let Some(Body::Schedule(schedule)) = client.request(get) else { panic!("no schedule") };
    client.request(Command::SetSchedule(proto::RequestSetSchedule { schedule: Some(schedule) }));
    client.request(set_login("a.example", "B"));
    let domain = "a.example".to_owned();
    client.request(Command::GetDomainLogin(proto::RequestGetDomainLogin { domain }));
    for command in [
        Command::ListPolicies(proto::RequestListPolicies::default()),
        Command::ListSchedules(proto::RequestListSchedules::default()),
        Command::ListDomainLogins(proto::RequestListDomainLogins::default()),
    ] {
        client.request(command);
    }
    for table in ["policy", "schedule", "domain_login"] {
        assert_eq!(rows(&mut client, table).len(), 1, "{table}");
    }
    client.request(Command::DeletePolicy(proto::RequestDeletePolicy { policy_id: id(POLICY_ID) }));
    client.request(Command::DeleteSchedule(proto::RequestDeleteSchedule { schedule_id: id(SCHEDULE_ID) }));
    client.request(delete_login("a.example"));
    for (follower, key) in followers.iter_mut().zip([POLICY_ID, SCHEDULE_ID, "a.example"]) {
        let told = next_told(follower, 2);
        assert!(told[0].starts_with(&format!("UPDATED {key}")), "{told:?}");
        assert!(told[1].starts_with(&format!("DELETED {key}")), "{told:?}");
    }
    assert!(!server.page("/metrics").1.contains(PASSWORD));
}

#[test]
fn an_account_that_may_only_read_rows_has_subscriptions() {
    let Some(rethinkdb) = rethinkdb_with("reader", &json!({"read": true})) else { return };
    let server = server(&rethinkdb, "reader");
    let mut client = RawClient::connect(&server.address);
    client.subscribe(list("domain_login", states()));
    until(&mut client, "LIVE");
    let text = client.refusal(set_login("a.example", "A"));
    assert!(text.contains("User `reader` does not have the required `write` permission"), "{text}");
    let row = json!({"domain": "b.example", "login_url": "B", "login_test": null, "users": []});
    rethinkdb.ask(r.db(DATABASE).table("domain_login").insert(row));
    assert_eq!(next_told(&mut client, 1), ["ADDED b.example"], "what others write comes, and nothing else has");
}

#[test]
fn an_account_that_loses_its_permission_is_told_so() {
    let Some(rethinkdb) = rethinkdb_with("feed", &json!({"read": true, "write": true})) else { return };
    let server = server(&rethinkdb, "feed");
    let mut client = RawClient::connect(&server.address);
    client.subscribe(list("domain_login", states()));
    until(&mut client, "LIVE");
    let permissions = || r.db("rethinkdb").table("permissions");
    let rows = members(rethinkdb.ask(permissions()));
    let row = rows.into_iter().find(|row| row["user"] == "feed").expect("its permissions");
    rethinkdb.ask(permissions().get(row["id"].clone()).delete(()));
    // It shows when there is something to send.
    rethinkdb.ask(r.db(DATABASE).table("domain_login").insert(json!({"domain": "a.example", "users": []})));
    let mut events = until(&mut client, "STALE Source");
    let state = events.last().and_then(|event| event.state.as_ref()).expect("a state");
    assert!(state.message().contains("does not allow to read the table"), "{}", state.message());
    let text = client.refusal(set_login("b.example", "B"));
    assert!(text.contains("permission"), "{text}");
    rethinkdb.ask(permissions().insert(row));
    events.extend(until(&mut client, "LIVE"));
    client.request(set_login("c.example", "C"));
    events.extend(until(&mut client, "ADDED c.example"));
    let rows = events.iter().filter(|event| event.state.is_none()).map(told).collect::<Vec<_>>();
    assert_eq!(rows, ["ADDED a.example", "ADDED c.example"], "before or after");
}
