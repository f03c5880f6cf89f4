//! Which server a command talks to.

use std::time::Duration;

use clap::Args;
use tokio::time::timeout;

use crate::client::{Client, ClientError};

const DEFAULT: &str = "ws://127.0.0.1:8000/ws/";
const ENVIRONMENT: &str = "STARFEED_URL";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

// No doc comment: clap would show it as the help of the command.
#[derive(Args, Clone, Debug)]
pub(super) struct ServerUrl {
    /// The server to talk to [default: $STARFEED_URL, else ws://127.0.0.1:8000/ws/]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
}

impl ServerUrl {
    /// The address: what was asked for, else what the environment says, else a server on this machine.
    pub(super) fn get(&self) -> String {
        let from_environment = || std::env::var(ENVIRONMENT).ok().filter(|url| !url.is_empty());
        self.url.clone().or_else(from_environment).unwrap_or_else(|| DEFAULT.to_owned())
    }

    /// Connects to it.
    pub(super) async fn connect(&self) -> Result<Client, ClientError> {
        let url = self.get();
        timeout(CONNECT_TIMEOUT, Client::connect(&url)).await.unwrap_or_else(|_| {
            let text = format!("no answer for {} s", CONNECT_TIMEOUT.as_secs());
            let error = std::io::Error::new(std::io::ErrorKind::TimedOut, text);
            Err(ClientError::Connect { address: url, error })
        })
    }
}
