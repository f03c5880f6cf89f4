//! A database that speaks TLS.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use crate::support::process::ServerProcess;
use crate::support::raw::{RawClient, set_login};
use crate::support::rethinkdb::server::Rethinkdb;
use crate::support::told::{list, next_told, states, until};

/// What a server needs to prove who it is, and who signed that, as files.
fn write_certificates(directory: &Path) {
    let mut authority = CertificateParams::new(Vec::new()).expect("no names");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let certificate = authority.self_signed(&key).expect("a certificate");
    std::fs::write(directory.join("ca.pem"), certificate.pem()).expect("a file");
    let issuer = Issuer::new(authority, key);
    let key = KeyPair::generate().expect("a key");
    let server = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a name");
    let certificate = server.signed_by(&key, &issuer).expect("a certificate");
    std::fs::write(directory.join("server.pem"), certificate.pem()).expect("a file");
    std::fs::write(directory.join("server.key"), key.serialize_pem()).expect("a file");
}

fn starfeed(arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_starfeed"));
    let output = command.args(arguments).env_clear().output().expect("it runs");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_database_with_encryption_is_served() {
    let directory = tempfile::tempdir().expect("a directory");
    write_certificates(directory.path());
    let file = |name: &str| directory.path().join(name).to_str().expect("a path in UTF-8").to_owned();
    let (ca, key, certificate) = (file("ca.pem"), file("server.key"), file("server.pem"));
    let options = ["--driver-tls-key", &key, "--driver-tls-cert", &certificate];
    let Some(mut rethinkdb) = Rethinkdb::of_our_own(&options) else { return };
    let url = rethinkdb.url("admin", "crawler").replace("rethinkdb://", "rethinkdbs://");
    let (status, text) = starfeed(&["init", "--source", &url, "--ca-file", &ca]);
    assert_eq!(status, Some(0), "{text}");
    let server = ServerProcess::of_source(&url, "", ":memory:", &[("source_ca_file", &ca)]);
    let mut client = RawClient::connect(&server.address);
    client.subscribe(list("domain_login", states()));
    until(&mut client, "LIVE");
    client.request(set_login("a.example", "1"));
    assert_eq!(next_told(&mut client, 1), ["ADDED a.example"]);
    rethinkdb.kill();
    assert_eq!(next_told(&mut client, 1), ["STALE Source"]);
    rethinkdb.start();
    until(&mut client, "LIVE");
    client.request(set_login("b.example", "1"));
    assert_eq!(next_told(&mut client, 1), ["ADDED b.example"]);

    // Whoever is not expected is not trusted.
    write_certificates(directory.path());
    let serve = ["init", "--source", &url, "--ca-file", &ca];
    let (status, text) = starfeed(&serve);
    assert_ne!(status, Some(0), "{text}");
    assert!(text.contains("certificate"), "{text}");
}
