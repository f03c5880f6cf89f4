//! The configuration: defaults < `starfeed.toml` < `STARFEED_*` in the environment < flags.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use toml::{Table, Value};

use crate::crawler::{Crawler, CrawlerLimits};
use crate::feed::{FeedLimits, PagesLimits};
use crate::matcher::FilterLimits;
use crate::session::SessionLimits;
use crate::source::rethinkdb::reql::{Address, Password};
use crate::source::rethinkdb::{RethinkDbLimits, RethinkDbOptions};
use crate::store::{PageBudget, Retention, WriterLimits};
use crate::subscription::SubscriptionLimits;
use crate::transport::http::{HttpLimits, OriginPolicy};
use crate::transport::socket::SocketLimits;
use crate::transport::websocket::WebSocketLimits;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: {error}")]
    File {
        /// Which one.
        path: String,
        /// What the system says.
        error: std::io::Error,
    },
    /// The file is no TOML.
    #[error("{path} is not valid TOML: {error}")]
    Toml {
        /// Which one.
        path: String,
        /// What is wrong where.
        error: Box<toml::de::Error>,
    },
    /// A key is unknown or has a value that it cannot have.
    #[error("configuration: {0}")]
    Value(String),
}

/// How a server runs.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The address to listen on, `HOST:PORT`; port 0 takes a free one.
    pub listen: String,
    /// The directory of the store, or `:memory:` for one that ends with the process.
    pub data_dir: String,
    /// The database whose tables are served, `rethinkdb://USER@HOST:PORT/DATABASE`; empty for the embedded store.
    pub source: String,
    /// A file with the password of the source's user.
    pub source_password_file: String,
    /// The password itself: from the environment or the file, never from a flag.
    pub source_password: Password,
    /// A file with the certificate that signed the one of an encrypted source, in PEM.
    pub source_ca_file: String,
    /// The API of the crawler that carries out what only it can do, `ws://HOST:PORT/PATH`; empty for none.
    pub crawler: String,
    /// A proxy in front does TLS and authentication: listen on any address, and accept any Host and Origin.
    pub behind_proxy: bool,
    /// Web pages of other machines that may connect, `https://ui.example`.
    pub allowed_origins: Vec<String>,
    /// What is logged, as `RUST_LOG` says it: `info`, `debug`, `starfeed::store=trace`.
    pub log: String,
    /// Bounds.
    pub limits: Limits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8000".to_owned(),
            data_dir: "./starfeed-data".to_owned(),
            source: String::new(),
            source_password_file: String::new(),
            source_password: Password::default(),
            source_ca_file: String::new(),
            crawler: String::new(),
            behind_proxy: false,
            allowed_origins: Vec::new(),
            log: "info".to_owned(),
            limits: Limits::default(),
        }
    }
}

macro_rules! limits {
    ($($(#[doc = $doc:literal])+ $name:ident = $default:literal;)*) => {
        /// Every bound of a server. Sizes are in bytes, times in seconds.
        #[derive(Clone, Debug, Deserialize, PartialEq)]
        #[serde(deny_unknown_fields, default)]
        pub struct Limits {
            $($(#[doc = $doc])+ pub $name: u64,)*
        }

        impl Default for Limits {
            fn default() -> Self {
                Self { $($name: $default,)* }
            }
        }

        impl Limits {
            /// The config keys, in the order of the documentation.
            pub const KEYS: &[&str] = &[$(stringify!($name),)*];

            /// Each limit by its config key.
            pub fn entries(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }

            /// What each limit means, by its config key.
            pub const DESCRIPTIONS: &[(&str, &str)] = &[$((stringify!($name), concat!($($doc),+)),)*];
        }
    };
}

limits! {
    /// Connections at a time.
    connections = 10_000;
    /// Seconds until the head of an HTTP request has to be complete.
    handshake_seconds = 10;
    /// Bytes of the head of an HTTP request.
    head_bytes = 16_384;
    /// Bytes of a message from a client; a larger one closes the connection with 1009.
    message_bytes = 1_048_576;
    /// Frames in which a message from a client may come; more close the connection with 1008.
    message_fragments = 1_024;
    /// Seconds that a message from a client may take to come; then the connection is closed with 1008.
    message_seconds = 30;
    /// Pings and pongs of a client in a second, and five times as many at once; more close the connection with 1008.
    pings_per_second = 20;
    /// Requests of a connection that may wait or run; the client is not read from while there are as many.
    requests_in_flight = 128;
    /// Bytes of requests of a connection that may wait or run; the client is not read from while there are more.
    request_bytes = 1_048_576;
    /// Bytes of one row that a client may write.
    row_bytes = 1_048_576;
    /// Bytes of rows in the answer to one request.
    answer_bytes = 16_777_216;
    /// Bytes of rows that an import may have.
    import_bytes = 67_108_864;
    /// Subscriptions of one connection.
    subscriptions_per_connection = 128;
    /// Subscriptions of all connections.
    subscriptions = 1_000_000;
    /// Bytes of changes that wait for a connection; a subscription that does not fit falls behind and catches up.
    outbox_bytes = 262_144;
    /// Bytes of changes and rows that wait for all connections together; beyond that, subscriptions fall behind sooner.
    waiting_bytes = 67_108_864;
    /// Bytes that the system takes for a connection whose client does not read.
    send_buffer_bytes = 262_144;
    /// Bytes of recent changes that are kept in memory for each table that has had subscribers.
    window_bytes = 4_194_304;
    /// Connections that whoever publishes writes to by itself behind a commit; the rest are woken, and write on all cores.
    direct_writes = 4_096;
    /// Rows or changes that a subscription reads at a time while it is behind.
    page_rows = 1_000;
    /// Bytes that a subscription reads at a time while it is behind.
    page_bytes = 262_144;
    /// Bytes of pages and of past changes that are kept in memory for other subscriptions that are as far behind.
    shared_bytes = 33_554_432;
    /// Seconds that they are kept without a use; a snapshot may have begun so long before a subscription joins it.
    shared_seconds = 2;
    /// Bytes of the text of a filter.
    filter_bytes = 1_024;
    /// What trying one row against a filter may cost at worst, in comparisons; a dearer filter is refused.
    filter_cost = 2_000_000;
    /// What it may cost to try one row against all the filters of a table that an index does not make cheap, in comparisons.
    table_filter_cost = 20_000_000;
    /// Bytes that the patterns in filters of one table may take.
    pattern_bytes = 67_108_864;
    /// Seconds between pings; no sign of life for twice as long closes the connection with 4000.
    ping_seconds = 20;
    /// Seconds that a client may take nothing while there is something for it; then it is closed with 4001.
    stall_seconds = 600;
    /// Seconds that a client has to leave after a close frame or a refusal.
    close_seconds = 2;
    /// Seconds that a shutdown may take.
    shutdown_seconds = 10;
    /// Bytes of writes that may wait for the disk; more are refused.
    write_queue_bytes = 268_435_456;
    /// Bytes of writes that go into one commit.
    commit_bytes = 4_194_304;
    /// Bytes of past changes that are kept for readers that come back.
    retention_bytes = 1_073_741_824;
    /// Seconds that past changes are kept.
    retention_seconds = 86_400;
    /// Bytes of store pages that are cached in memory.
    cache_bytes = 134_217_728;
    /// Bytes of commits that the journal of the store may have before they are written to their place; as many again may come meanwhile.
    journal_bytes = 1_048_576;
    /// Threads that read from the disk at a time.
    read_threads = 4;
    /// Seconds until a connection to the source has to be ready for use.
    source_connect_seconds = 10;
    /// Seconds that one query may take the source.
    source_query_seconds = 30;
    /// Seconds without a sign of life of the source until its connection is given up, and subscribers are told that rows may be old.
    source_silence_seconds = 4;
    /// Seconds that a changefeed is kept which nobody needs any more.
    source_linger_seconds = 60;
    /// Seconds that a subscription waits for the client's own writes to come back from the source.
    source_visible_seconds = 5;
    /// Bytes of rows that are asked from the source before they are taken, for each query.
    source_lookahead_bytes = 4_194_304;
    /// Bytes of one answer of the source; a longer one ends the connection to it.
    source_frame_bytes = 134_217_728;
    /// Changes that the source keeps for a changefeed that is not read from fast enough; beyond that the table is read again.
    source_queue_rows = 1_000_000;
    /// Seconds until a connection to the crawler has to be ready for use.
    crawler_connect_seconds = 5;
    /// Seconds that the crawler has to answer a command that is passed on to it.
    crawler_answer_seconds = 60;
    /// Bytes of one message of the crawler; an answer that is longer is refused.
    crawler_message_bytes = 67_108_864;
    /// Commands that are passed on to the crawler at a time; the others wait.
    crawler_commands = 16;
}

impl Limits {
    fn at_least_one(&self) -> Result<(), ConfigError> {
        match self.entries().into_iter().find(|(_, value)| *value == 0) {
            Some((key, _)) => Err(ConfigError::Value(format!("limits.{key} must be at least 1"))),
            None => Ok(()),
        }
    }

    /// Bounds of request heads.
    pub fn http(&self) -> HttpLimits {
        HttpLimits { head_timeout: Duration::from_secs(self.handshake_seconds), head_bytes: size(self.head_bytes) }
    }

    /// Bounds of WebSocket connections.
    pub fn websocket(&self) -> WebSocketLimits {
        let socket = SocketLimits {
            message_bytes: size(self.message_bytes),
            message_fragments: self.message_fragments,
            message_timeout: Duration::from_secs(self.message_seconds),
            pings_per_second: self.pings_per_second,
            ping_interval: Duration::from_secs(self.ping_seconds),
            stall_timeout: Duration::from_secs(self.stall_seconds),
            close_timeout: Duration::from_secs(self.close_seconds),
        };
        WebSocketLimits { socket, outbox_bytes: size(self.outbox_bytes) }
    }

    /// Bounds of sessions.
    pub fn session(&self) -> SessionLimits {
        let page = PageBudget { items: size(self.page_rows), bytes: size(self.page_bytes) };
        SessionLimits {
            requests: size(self.requests_in_flight),
            request_bytes: size(self.request_bytes),
            row_bytes: size(self.row_bytes),
            answer_bytes: size(self.answer_bytes),
            import_bytes: size(self.import_bytes),
            page,
            pages: PagesLimits {
                bytes: size(self.shared_bytes),
                kept_ms: self.shared_seconds.saturating_mul(1000),
                range: page,
            },
            filters: FilterLimits { text_bytes: size(self.filter_bytes), cost_max: self.filter_cost },
        }
    }

    /// Bounds of feeds; the values in filters are hashed with `hash_seed`.
    pub fn feeds(&self, hash_seed: u64) -> FeedLimits {
        FeedLimits {
            window_bytes: size(self.window_bytes),
            table_filter_cost: self.table_filter_cost,
            pattern_bytes: size(self.pattern_bytes),
            direct_writes: size(self.direct_writes),
            hash_seed,
        }
    }

    /// Bounds of subscriptions.
    pub fn subscriptions(&self) -> SubscriptionLimits {
        SubscriptionLimits { per_connection: size(self.subscriptions_per_connection), total: size(self.subscriptions) }
    }

    /// Bounds of the writer.
    pub fn writer(&self) -> WriterLimits {
        WriterLimits { queue_bytes: size(self.write_queue_bytes), commit_bytes: size(self.commit_bytes) }
    }

    /// Bounds of a source.
    pub fn source(&self) -> RethinkDbLimits {
        RethinkDbLimits {
            connect_timeout: Duration::from_secs(self.source_connect_seconds),
            query_timeout: Duration::from_secs(self.source_query_seconds),
            silence: Duration::from_secs(self.source_silence_seconds),
            linger: Duration::from_secs(self.source_linger_seconds),
            visible_timeout: Duration::from_secs(self.source_visible_seconds),
            lookahead_bytes: size(self.source_lookahead_bytes),
            frame_bytes: size(self.source_frame_bytes),
            queue_rows: self.source_queue_rows,
            write_bytes: size(self.write_queue_bytes),
        }
    }

    /// Bounds of what the crawler is asked.
    pub fn crawler(&self) -> CrawlerLimits {
        CrawlerLimits {
            connect_timeout: Duration::from_secs(self.crawler_connect_seconds),
            answer_timeout: Duration::from_secs(self.crawler_answer_seconds),
            message_bytes: size(self.crawler_message_bytes),
            commands: size(self.crawler_commands),
        }
    }

    /// How much of the log is kept.
    pub fn retention(&self) -> Retention {
        Retention { bytes: self.retention_bytes, age_ms: self.retention_seconds.saturating_mul(1000) }
    }
}

/// A limit as a size in memory; what does not fit is no limit.
pub(crate) fn size(limit: u64) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// Where a configuration comes from, beside the defaults.
#[derive(Debug, Default)]
pub struct ConfigSources {
    /// A file that must be there; without it `starfeed.toml` is read if it is there.
    pub file: Option<PathBuf>,
    /// The environment.
    pub environment: Vec<(String, String)>,
    /// Flags, by config key; `limits.` before the key of a limit.
    pub flags: Vec<(String, String)>,
}

const DEFAULT_FILE: &str = "starfeed.toml";
const ENVIRONMENT_PREFIX: &str = "STARFEED_";
/// Read elsewhere: by the command line's clients, and by tests.
const ENVIRONMENT_OF_OTHERS: [&str; 2] = ["STARFEED_URL", "STARFEED_TEST_"];

impl Config {
    /// Reads the configuration.
    pub fn load(sources: &ConfigSources) -> Result<Self, ConfigError> {
        let mut table = read_file(sources.file.as_deref())?;
        for (name, value) in &sources.environment {
            let Some(key) = name.strip_prefix(ENVIRONMENT_PREFIX) else { continue };
            if ENVIRONMENT_OF_OTHERS.iter().any(|other| name.starts_with(other)) {
                continue;
            }
            set(&mut table, &key.to_ascii_lowercase(), value)
                .map_err(|text| ConfigError::Value(format!("{name}: {text}")))?;
        }
        for (key, value) in &sources.flags {
            if key == "source_password" {
                let text =
                    "others can see flags: use source_password_file, or STARFEED_SOURCE_PASSWORD in the environment";
                return Err(ConfigError::Value(text.to_owned()));
            }
            set(&mut table, key, value).map_err(ConfigError::Value)?;
        }
        let config: Self =
            table.try_into().map_err(|error: toml::de::Error| ConfigError::Value(error.message().to_owned()))?;
        config.limits.at_least_one()?;
        config.crawler()?;
        Ok(config)
    }

    /// Where the rows come from, if not from the embedded store.
    pub fn source(&self) -> Result<Option<RethinkDbOptions>, ConfigError> {
        if self.source.is_empty() {
            return Ok(None);
        }
        let address = Address::parse(&self.source).map_err(ConfigError::Value)?;
        let password = match self.source_password_file.as_str() {
            "" => self.source_password.clone(),
            path => {
                let text = std::fs::read_to_string(path)
                    .map_err(|error| ConfigError::File { path: path.to_owned(), error })?;
                Password::new(text.trim_end_matches(['\r', '\n']))
            }
        };
        let ca_file = (!self.source_ca_file.is_empty()).then(|| PathBuf::from(&self.source_ca_file));
        Ok(Some(RethinkDbOptions { address, password, ca_file, limits: self.limits.source() }))
    }

    /// The crawler that commands are passed on to, if there is one.
    pub fn crawler(&self) -> Result<Option<Crawler>, ConfigError> {
        if self.crawler.is_empty() {
            return Ok(None);
        }
        let crawler = Crawler::new(&self.crawler, self.limits.crawler()).map_err(ConfigError::Value)?;
        if crawler.is_at(&self.listen) {
            return Err(ConfigError::Value("crawler is the address that listen has: they are two programs".to_owned()));
        }
        Ok(Some(crawler))
    }

    /// Which pages of other sites may connect.
    pub fn origin_policy(&self) -> OriginPolicy {
        if self.behind_proxy {
            OriginPolicy::TrustProxy
        } else {
            OriginPolicy::LoopbackAnd(self.allowed_origins.clone())
        }
    }
}

fn read_file(path: Option<&std::path::Path>) -> Result<Table, ConfigError> {
    let is_asked_for = path.is_some();
    let path = path.unwrap_or(std::path::Path::new(DEFAULT_FILE));
    let name = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => text.parse().map_err(|error| ConfigError::Toml { path: name, error: Box::new(error) }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !is_asked_for => Ok(Table::new()),
        Err(error) => Err(ConfigError::File { path: name, error }),
    }
}

/// Sets one key from text; the type of its default says how the text is read.
fn set(table: &mut Table, key: &str, text: &str) -> Result<(), String> {
    let (target, key, value) = match key.strip_prefix("limits.").or(Limits::KEYS.contains(&key).then_some(key)) {
        Some(key) => {
            let number = text.parse().map_err(|_| format!("{key} must be a whole number, not {text:?}"))?;
            let limits = table.entry("limits").or_insert_with(|| Value::Table(Table::new()));
            let limits = limits.as_table_mut().ok_or("[limits] must be a table")?;
            (limits, key, Value::Integer(number))
        }
        None => {
            let value = match key {
                "behind_proxy" => {
                    let flag = text.parse().map_err(|_| format!("{key} must be true or false, not {text:?}"))?;
                    Value::Boolean(flag)
                }
                "allowed_origins" => {
                    Value::Array(text.split(',').map(|origin| Value::String(origin.trim().to_owned())).collect())
                }
                "listen"
                | "data_dir"
                | "log"
                | "source"
                | "source_password"
                | "source_password_file"
                | "source_ca_file"
                | "crawler" => Value::String(text.to_owned()),
                _ => return Err(format!("there is no config key {key}")),
            };
            (table, key, value)
        }
    };
    target.insert(key.to_owned(), value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn flags_win_over_the_environment_over_the_file_over_the_defaults() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("a.toml");
        std::fs::write(&file, "listen = \"127.0.0.1:1\"\nlog = \"debug\"\n[limits]\nconnections = 5\npage_rows = 7\n")
            .expect("a file");
        let config = Config::load(&ConfigSources {
            file: Some(file),
            environment: pairs(&[
                ("STARFEED_LISTEN", "127.0.0.1:2"),
                ("STARFEED_CONNECTIONS", "6"),
                ("STARFEED_TEST_X", "y"),
                ("PATH", "z"),
            ]),
            flags: pairs(&[("listen", "127.0.0.1:3")]),
        })
        .expect("a valid configuration");
        assert_eq!(config.listen, "127.0.0.1:3");
        assert_eq!(config.log, "debug");
        assert_eq!((config.limits.connections, config.limits.page_rows), (6, 7));
        assert_eq!(config.limits.outbox_bytes, Limits::default().outbox_bytes);
    }

    #[test]
    fn mistakes_are_named() {
        let cases = [
            (pairs(&[("STARFEED_CONECTIONS", "6")]), "STARFEED_CONECTIONS: there is no config key conections"),
            (pairs(&[("STARFEED_CONNECTIONS", "many")]), "connections must be a whole number, not \"many\""),
            (pairs(&[("STARFEED_BEHIND_PROXY", "maybe")]), "behind_proxy must be true or false"),
            (pairs(&[("STARFEED_PAGE_ROWS", "0")]), "limits.page_rows must be at least 1"),
            (pairs(&[("STARFEED_CRAWLER", "wss://crawler.example/ws/")]), "crawler begins with ws://"),
            (pairs(&[("STARFEED_CRAWLER", "ws://localhost:8000/")]), "crawler is the address that listen has"),
        ];
        for (environment, expected) in cases {
            let error = Config::load(&ConfigSources { environment, ..Default::default() }).expect_err(expected);
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn an_unknown_key_in_the_file_is_an_error() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("a.toml");
        std::fs::write(&file, "[limits]\nconection = 5\n").expect("a file");
        let error = Config::load(&ConfigSources { file: Some(file), ..Default::default() }).expect_err("a typo");
        assert!(error.to_string().contains("conection"), "{error}");
    }
}
