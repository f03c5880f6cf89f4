//! Encrypted connections to the database, through a proxy that ends the encryption.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::program::{Ended, Program};
use super::reader::Reader;
use super::setup::{PASSWORD, Setup, USER};
use crate::support::process::ServerProcess;
use crate::support::reql::fault::Ending;

/// One that signs certificates, known by its file.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    directory: TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("ca.pem"), certificate.pem()).expect("a file");
        Self { issuer: Issuer::new(params, key), directory }
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// What a server at `name` shows, and proves to be.
    fn acceptor(&self, name: &str) -> TlsAcceptor {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let chain = vec![CertificateDer::from(certificate.der().to_vec())];
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("they belong together");
        TlsAcceptor::from(Arc::new(config))
    }
}

/// Ends the encryption of connections, and passes them on.
struct Proxy {
    address: SocketAddr,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    fn start(to: SocketAddr, acceptor: TlsAcceptor) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("it can be set");
        let address = listener.local_addr().expect("a port");
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let thread = starfeed::task::spawn_thread("tls-proxy", move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).expect("a runtime");
                let tracker = TaskTracker::new();
                let accept = async {
                    loop {
                        let Ok((stream, _)) = listener.accept().await else { continue };
                        let (acceptor, stopped) = (acceptor.clone(), stopped.clone());
                        starfeed::task::spawn(&tracker, async move {
                            stopped.run_until_cancelled(pass_on(stream, to, acceptor)).await;
                        });
                    }
                };
                stopped.run_until_cancelled(accept).await;
                tracker.close();
                tracker.wait().await;
            });
        });
        Self { address, stop, thread: Some(thread) }
    }

    fn url(&self, host: &str) -> String {
        format!("rethinkdbs://{USER}@{host}:{}/starbelly", self.address.port())
    }
}

async fn pass_on(stream: TcpStream, to: SocketAddr, acceptor: TlsAcceptor) {
    // One that does not trust us is gone.
    let Ok(mut stream) = acceptor.accept(stream).await else { return };
    let Ok(mut database) = TcpStream::connect(to).await else { return };
    let _ = tokio::io::copy_bidirectional(&mut stream, &mut database).await;
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(setup: &Setup, url: &str, ca_file: Option<&Path>) -> Program {
    let data_dir = setup.data_dir();
    let ca_file = ca_file.map(|file| format!("source_ca_file={}", file.display()));
    let mut args = vec!["serve", "--listen", "127.0.0.1:0", "--data-dir", &data_dir, "--source", url];
    if let Some(setting) = &ca_file {
        args.extend(["--set", setting]);
    }
    Program::start(&args, &[("STARFEED_SOURCE_PASSWORD", PASSWORD)])
}

fn is_refused(ended: &Ended, status: i32, text: &str) {
    assert_eq!(ended.status, Some(status), "{ended:?}");
    assert!(ended.stderr.contains(text), "{}", ended.stderr);
    assert!(!ended.stderr.contains(PASSWORD), "{}", ended.stderr);
}

#[test]
fn an_encrypted_database_is_served_and_found_again() {
    let setup = Setup::new();
    setup.put("a.example", "1");
    let authority = Authority::new();
    for host in ["127.0.0.1", "localhost"] {
        let proxy = Proxy::start(setup.database.address(), authority.acceptor(host));
        let file = authority.file();
        let settings = [("source_ca_file", file.to_str().expect("a path in UTF-8"))];
        let server = ServerProcess::of_source(&proxy.url(host), PASSWORD, &setup.data_dir(), &settings);
        let mut reader = Reader::live(&server);
        setup.database.cut(Ending::Reset);
        reader.until("STALE Source");
        reader.until("LIVE");
        setup.put("large.example", &"x".repeat(2 << 20));
        assert!(reader.next().starts_with("ADDED large.example"));
        setup.delete("large.example");
        reader.next();
        reader.expect_quiet(&setup);
    }
}

#[test]
fn init_makes_tables_in_an_encrypted_database() {
    let setup = Setup::without_tables(super::setup::options());
    let authority = Authority::new();
    let proxy = Proxy::start(setup.database.address(), authority.acceptor("127.0.0.1"));
    let (url, file) = (proxy.url("127.0.0.1"), authority.file());
    let args = ["init", "--source", &url, "--ca-file", file.to_str().expect("a path in UTF-8")];
    let made = Program::start(&args, &[("STARFEED_SOURCE_PASSWORD", PASSWORD)]).end();
    assert_eq!(made.status, Some(0), "{made:?}");
    assert!(made.stdout.contains("made the table policy\n"), "{}", made.stdout);
}

#[test]
fn a_certificate_of_another_authority_or_for_another_host_is_refused() {
    let setup = Setup::new();
    let authority = Authority::new();
    let made = setup.database.connections_made();
    for (host, file) in [("127.0.0.1", Authority::new().file()), ("192.0.2.1", authority.file())] {
        let other = Authority::new();
        let proxy = Proxy::start(setup.database.address(), authority.acceptor(host));
        let file = if host == "127.0.0.1" { other.file() } else { file };
        is_refused(&serve(&setup, &proxy.url("127.0.0.1"), Some(&file)).end(), 1, "certificate");
    }
    assert_eq!(setup.database.connections_made(), made, "nothing was said to a server that is not trusted");
}

#[test]
fn encryption_needs_an_authority_and_an_authority_encryption() {
    let setup = Setup::new();
    let authority = Authority::new();
    let proxy = Proxy::start(setup.database.address(), authority.acceptor("127.0.0.1"));
    let url = proxy.url("127.0.0.1");
    is_refused(&serve(&setup, &url, None).end(), 78, "source_ca_file");
    is_refused(&serve(&setup, &setup.url(), Some(&authority.file())).end(), 78, "rethinkdbs://");
    let missing = authority.file().with_extension("missing");
    is_refused(&serve(&setup, &url, Some(&missing)).end(), 78, "source_ca_file");
    std::fs::write(&missing, "no certificate").expect("a file");
    is_refused(&serve(&setup, &url, Some(&missing)).end(), 78, "holds no certificate");
}

#[test]
fn an_encrypted_connection_to_a_database_without_encryption_is_no_success() {
    let setup = Setup::new();
    let authority = Authority::new();
    let url = setup.url().replace("rethinkdb://", "rethinkdbs://");
    let handshakes = setup.database.handshakes_passed();
    is_refused(&serve(&setup, &url, Some(&authority.file())).end(), 1, "it does not encrypt on this port");
    assert_eq!(setup.database.handshakes_passed(), handshakes);
}
