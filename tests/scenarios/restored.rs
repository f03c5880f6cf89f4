//! A store that was replaced by a backup of itself. Only the embedded one: a copy of a database would be filled up from that at once.

use super::resuming::token;
use crate::support::process::ServerProcess;
use crate::support::raw::{RawClient, set_login};
use crate::support::told::{lines, list, next, states, until, with_token};

#[test]
fn a_token_of_a_newer_state_of_the_data_begins_anew() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    let files = ["store.redb", "store.journal"].map(|name| data.join(name));
    let mut server = ServerProcess::on_disk(&data);
    RawClient::connect(&server.address).request(set_login("a.example", "A"));
    server.terminate();
    let backup = files.each_ref().map(|file| std::fs::read(file).expect("a store"));
    let mut server = ServerProcess::on_disk(&data);
    RawClient::connect(&server.address).request(set_login("b.example", "A"));
    let mut client = RawClient::connect(&server.address);
    client.subscribe(list("domain_login", states()));
    let events = until(&mut client, "LIVE");
    client.reset();
    server.terminate();
    for (file, backup) in files.iter().zip(backup) {
        std::fs::write(file, backup).expect("the backup is restored");
    }
    let server = ServerProcess::on_disk(&data);
    let mut client = RawClient::connect(&server.address);
    client.subscribe(list("domain_login", with_token(token(events.last().expect("LIVE")), states())));
    let again = next(&mut client, 5);
    assert_eq!(lines(&again), ["RESET Future", "INITIALIZING", "ADDED a.example", "READY", "LIVE"]);
}
