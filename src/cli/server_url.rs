//! Which server a command talks to.

use clap::Args;

use crate::client::{Client, ClientError};

const DEFAULT: &str = "ws://127.0.0.1:8000/ws/";
const ENVIRONMENT: &str = "STARFEED_URL";

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
        Client::connect(&self.get()).await
    }
}
