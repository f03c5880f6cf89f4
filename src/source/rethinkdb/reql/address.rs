//! Where a database is: `rethinkdb://user@host:28015/database`.

use std::fmt;

use tokio_tungstenite::tungstenite::http::Uri;

/// Where a database is, and who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The host, a name or an address.
    pub host: String,
    /// The port of drivers.
    pub port: u16,
    /// The user.
    pub user: String,
    /// The name of the database.
    pub database: String,
    /// Whether the connection is encrypted.
    pub is_tls: bool,
}

const DRIVER_PORT: u16 = 28015;

/// The user of a database that nobody has set up otherwise.
const DEFAULT_USER: &str = "admin";

impl Address {
    /// Reads a URL. The error says what is wrong with it, without repeating it: it may hold a password.
    pub fn parse(url: &str) -> Result<Self, String> {
        const EXAMPLE: &str = "it looks like rethinkdb://user@127.0.0.1:28015/starbelly";
        let uri: Uri = url.parse().map_err(|_| format!("the source is no URL: {EXAMPLE}"))?;
        let is_tls = match uri.scheme_str() {
            Some("rethinkdb") => false,
            Some("rethinkdbs") => true,
            _ => return Err(format!("the source begins with rethinkdb:// or rethinkdbs:// (encrypted): {EXAMPLE}")),
        };
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let user = authority.rsplit_once('@').map_or(DEFAULT_USER, |(user, _)| user);
        if user.contains(':') {
            return Err("the source must not hold a password, which others could see: use source_password_file, or \
                STARFEED_SOURCE_PASSWORD in the environment"
                .to_owned());
        }
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let database = uri.path().trim_start_matches('/');
        if host.is_empty() || user.is_empty() {
            return Err(format!("the source names no host or no user: {EXAMPLE}"));
        }
        let is_name = |character: char| character.is_ascii_alphanumeric() || matches!(character, '_' | '-');
        if database.is_empty() || !database.chars().all(is_name) || uri.query().is_some() {
            return Err(format!("the source ends with the name of a database: {EXAMPLE}"));
        }
        Ok(Self {
            host: host.to_owned(),
            port: uri.port_u16().unwrap_or(DRIVER_PORT),
            user: decoded(user).ok_or("the user of the source is not percent-encoded as it should be")?,
            database: database.to_owned(),
            is_tls,
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, user, database, is_tls } = self;
        let scheme = if *is_tls { "rethinkdbs" } else { "rethinkdb" };
        write!(f, "{scheme}://{user}@{host}:{port}/{database}")
    }
}

/// `text` with each `%41` as the character that it stands for.
fn decoded(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_has_a_default() {
        let address = Address::parse("rethinkdb://db.example/starbelly").expect("a URL");
        assert_eq!(address.to_string(), "rethinkdb://admin@db.example:28015/starbelly");
        let address = Address::parse("rethinkdbs://star%40feed@[::1]:29015/starbelly").expect("a URL");
        assert_eq!((address.host.as_str(), address.port, address.is_tls), ("::1", 29015, true));
        assert_eq!(address.user, "star@feed");
    }

    #[test]
    fn what_is_wrong_is_said_and_not_repeated() {
        for (url, expected) in [
            ("", "no URL"),
            ("127.0.0.1:28015", "begins with rethinkdb://"),
            ("http://host/db", "begins with rethinkdb://"),
            ("rethinkdb://host", "name of a database"),
            ("rethinkdb://host/a/b", "name of a database"),
            ("rethinkdb://host/db?ssl=1", "name of a database"),
            ("rethinkdb://me:hunter2@host/db", "must not hold a password"),
            ("rethinkdb://%zz@host/db", ""),
        ] {
            let error = Address::parse(url).expect_err(url);
            assert!(error.contains(expected), "{url}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
