//! The scripted database of a crawler, and servers that serve it.

use serde_json::json;
use starfeed::proto::SubscribeOptions;
use tempfile::TempDir;

use super::program::{Ended, Program};
use crate::support::process::ServerProcess;
use crate::support::reql::{Options, ReqlServer};
use crate::support::told::{documents, states};

pub(crate) const USER: &str = "star";

/// What nothing may print.
pub(crate) const PASSWORD: &str = "open-sesame-4711";

pub(crate) const TABLE: &str = "domain_login";

pub(crate) struct Setup {
    pub(crate) database: ReqlServer,
    directory: TempDir,
}

pub(crate) fn options() -> Options {
    Options { user: USER.to_owned(), password: PASSWORD.to_owned(), ..Options::default() }
}

impl Setup {
    /// A database with all tables.
    pub(crate) fn new() -> Self {
        Self::with(options())
    }

    pub(crate) fn with(options: Options) -> Self {
        let setup = Self::without_tables(options);
        let made = setup.init();
        assert_eq!(made.status, Some(0), "{made:?}");
        setup
    }

    pub(crate) fn without_tables(options: Options) -> Self {
        Self { database: ReqlServer::start(options), directory: tempfile::tempdir().expect("a directory") }
    }

    pub(crate) fn url(&self) -> String {
        format!("rethinkdb://{USER}@{}/starbelly", self.database.address())
    }

    /// Where the servers of this database keep their data.
    pub(crate) fn data_dir(&self) -> String {
        self.directory.path().join("data").to_str().expect("a path in UTF-8").to_owned()
    }

    pub(crate) fn init(&self) -> Ended {
        Program::start(&["init", "--source", &self.url()], &[("STARFEED_SOURCE_PASSWORD", PASSWORD)]).end()
    }

    /// A server that serves the database.
    pub(crate) fn serve(&self) -> ServerProcess {
        self.serve_with(&[])
    }

    pub(crate) fn serve_with(&self, settings: &[(&str, &str)]) -> ServerProcess {
        ServerProcess::of_source(&self.url(), PASSWORD, &self.data_dir(), settings)
    }

    /// One that may not come so far as to serve.
    pub(crate) fn start(&self, more_args: &[&str]) -> Program {
        self.start_with_password(PASSWORD, more_args)
    }

    pub(crate) fn start_with_password(&self, password: &str, more_args: &[&str]) -> Program {
        let (url, data_dir) = (self.url(), self.data_dir());
        let args = ["serve", "--listen", "127.0.0.1:0", "--data-dir", &data_dir, "--source", &url];
        Program::start(&[&args[..], more_args].concat(), &[("STARFEED_SOURCE_PASSWORD", password)])
    }

    /// Writes a row, as somebody else does.
    pub(crate) fn put(&self, domain: &str, login_url: &str) {
        let row = json!({"domain": domain, "login_url": login_url, "login_test": null, "users": []});
        self.database.put(TABLE, row);
    }

    pub(crate) fn delete(&self, domain: &str) {
        self.database.delete(TABLE, domain);
    }

    /// The feeds of tables that are open, without that of the canary.
    pub(crate) fn open_feeds(&self) -> Vec<String> {
        let mut feeds = self.database.open_feeds();
        feeds.retain(|table| table != "starfeed_canary");
        feeds
    }
}

/// Everything that a subscription can be told.
pub(crate) fn everything() -> SubscribeOptions {
    SubscribeOptions { tokens: states().tokens, states: states().states, ..documents() }
}

/// How often the table could not be followed, for this reason.
pub(crate) fn doubts(server: &ServerProcess, reason: &str) -> f64 {
    server.metric(&format!("starfeed_source_doubts_total{{reason=\"{reason}\"}}"))
}
