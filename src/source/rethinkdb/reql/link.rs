//! The way to the database: connects when somebody needs a connection and there is none.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::BytesMut;
use rustix::net::sockopt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tokio_rustls::{TlsConnector, rustls};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::address::Address;
use super::connection::{Connection, ConnectionLimits, Socket};
use super::error::ReqlError;
use super::handshake::{Handshake, Step};
use super::scram::Password;
use crate::task;

/// What it takes to connect.
pub struct LinkOptions {
    /// Where to.
    pub address: Address,
    /// Of the user.
    pub password: Password,
    /// Set for an encrypted connection.
    pub tls: Option<TlsConnector>,
    /// Bounds of the connections.
    pub limits: ConnectionLimits,
}

impl fmt::Debug for LinkOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LinkOptions({})", self.address)
    }
}

/// One connection at a time, made anew when it has ended and somebody needs it.
pub struct Link {
    options: Arc<LinkOptions>,
    tracker: TaskTracker,
    state: Mutex<LinkState>,
}

#[derive(Default)]
struct LinkState {
    connection: Option<Connection>,
    /// The last attempt failed, and when: it has failed for all who waited for it, too.
    failure: Option<(Instant, ReqlError)>,
}

impl Link {
    /// A way to the database of `options`; `tracker` has the tasks of its connections.
    pub fn new(options: Arc<LinkOptions>, tracker: TaskTracker) -> Arc<Self> {
        Arc::new(Self { options, tracker, state: Mutex::default() })
    }

    /// The connection; a new one if there is none that is of use.
    pub async fn connection(&self) -> Result<Connection, ReqlError> {
        let asked_at = Instant::now();
        let mut state = self.state.lock().await;
        if let Some(connection) = state.connection.as_ref().filter(|connection| !connection.has_ended()) {
            return Ok(connection.clone());
        }
        state.connection = None;
        if let Some((at, error)) = &state.failure
            && *at >= asked_at
        {
            return Err(error.clone());
        }
        let limit = self.options.limits.connect;
        let attempt = tokio::time::timeout(limit, self.connect()).await;
        match attempt.unwrap_or_else(|_| Err(ReqlError::Unreachable(format!("no answer within {} s", limit.as_secs()))))
        {
            Ok(connection) => {
                state.failure = None;
                state.connection = Some(connection.clone());
                Ok(connection)
            }
            Err(error) => {
                state.failure = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    async fn connect(&self) -> Result<Connection, ReqlError> {
        let LinkOptions { address, password, tls, limits } = self.options.as_ref();
        let unreachable = |error: std::io::Error| ReqlError::Unreachable(error.to_string());
        let stream = TcpStream::connect((address.host.as_str(), address.port)).await.map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        keep_alive(&stream, limits.silence);
        let mut socket: Box<dyn Socket> = match tls {
            None => Box::new(stream),
            Some(connector) => {
                let name = ServerName::try_from(address.host.clone())
                    .map_err(|_| ReqlError::Unreachable("the host cannot be in a certificate".to_owned()))?;
                Box::new(connector.connect(name, stream).await.map_err(|error| tls_error(&error))?)
            }
        };
        let mut received = BytesMut::new();
        shake_hands(socket.as_mut(), &mut received, address, password).await?;
        let (connection, work) = Connection::new(socket, received, &address.database, *limits);
        task::spawn(&self.tracker, work);
        tracing::debug!(%address, "connected to the database");
        Ok(connection)
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({})", self.options.address)
    }
}

/// A server that is not to be trusted, or does not encrypt, will not be another one the next time.
fn tls_error(error: &std::io::Error) -> ReqlError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(error @ rustls::Error::InvalidCertificate(_)) => ReqlError::Login(format!(
            "its certificate is not to be trusted: {error}; check source_ca_file and the host"
        )),
        Some(error @ rustls::Error::InvalidMessage(_)) => {
            ReqlError::Protocol(format!("it does not encrypt on this port: {error}"))
        }
        _ => ReqlError::Unreachable(error.to_string()),
    }
}

async fn shake_hands(
    socket: &mut dyn Socket,
    received: &mut BytesMut,
    address: &Address,
    password: &Password,
) -> Result<(), ReqlError> {
    let lost = |error: std::io::Error| ReqlError::Unreachable(format!("the handshake failed: {error}"));
    let nonce = BASE64.encode(Uuid::new_v4().as_bytes());
    let (mut handshake, first) = Handshake::begin(&address.user, password, &nonce)?;
    socket.write_all(&first).await.map_err(lost)?;
    socket.flush().await.map_err(lost)?;
    loop {
        match handshake.step(received)? {
            Step::Done => return Ok(()),
            Step::Send(bytes) => {
                socket.write_all(&bytes).await.map_err(lost)?;
                socket.flush().await.map_err(lost)?;
            }
            Step::Wait => {
                if socket.read_buf(received).await.map_err(lost)? == 0 {
                    return Err(ReqlError::Unreachable("it was closed during the handshake".to_owned()));
                }
            }
        }
    }
}

/// Lets the system notice a peer that is gone, too: it is told first where nothing is asked for.
fn keep_alive(stream: &TcpStream, silence: Duration) {
    // Probes of our own find out as well; a system that cannot is no reason not to connect.
    let _ = sockopt::set_socket_keepalive(stream, true);
    #[cfg(target_os = "linux")]
    {
        let _ = sockopt::set_tcp_keepidle(stream, silence);
        let _ = sockopt::set_tcp_keepintvl(stream, silence);
        let _ = sockopt::set_tcp_user_timeout(stream, u32::try_from(silence.as_millis()).unwrap_or(u32::MAX));
    }
}

/// What encrypts a connection to a server whose certificate one of the authorities in `ca_file` has signed.
pub fn tls(ca_file: &Path) -> Result<TlsConnector, String> {
    let path = ca_file.display();
    let certificates =
        CertificateDer::pem_file_iter(ca_file).map_err(|error| format!("source_ca_file {path}: {error}"))?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        let certificate = certificate.map_err(|error| format!("source_ca_file {path}: {error}"))?;
        roots.add(certificate).map_err(|error| format!("source_ca_file {path}: {error}"))?;
    }
    if roots.is_empty() {
        return Err(format!("source_ca_file {path} holds no certificate in PEM"));
    }
    let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
