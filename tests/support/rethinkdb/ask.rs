//! Questions to RethinkDB by the `reql` crate, a driver that shares nothing with the one of the server.
//!
//! A session answers one question at a time, and one that failed or was not read to its end is of no more use. So each piece of work
//! has a session of its own.

use std::time::Duration;

use futures_util::TryStreamExt;
use reql::cmd::connect;
use reql::{Command, Session, r};
use serde_json::Value;
use tokio::time::timeout;

/// The driver itself waits for ever.
const PATIENCE: Duration = Duration::from_secs(20);

/// A new session for `admin`.
pub(crate) async fn session(host: &str, port: u16) -> Result<Session, String> {
    let options = connect::Options::new().host(host.to_owned()).port(port);
    let session = timeout(PATIENCE, r.connect(options)).await.map_err(|_| "no answer to the handshake".to_owned())?;
    session.map_err(|error| error.to_string())
}

/// What `command` answers. After an error the session is of no more use.
pub(crate) async fn ask(session: &Session, command: Command) -> Result<Vec<Value>, String> {
    let answer = timeout(PATIENCE, command.run(session).try_collect()).await.map_err(|_| "no answer".to_owned())?;
    let answer: Vec<Value> = answer.map_err(|error| error.to_string())?;
    // A write is answered with what it did, and that may be an error.
    match answer.iter().find_map(|value| value["first_error"].as_str()) {
        Some(error) => Err(error.to_owned()),
        None => Ok(answer),
    }
}

/// Runs `work` to its end, wherever this is called from.
pub(crate) fn asked<T: Send>(work: impl Future<Output = T> + Send) -> T {
    std::thread::scope(|scope| {
        let answer = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(work)
        });
        answer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The values of an answer: a sequence, or a list in one value.
pub(crate) fn members(answer: Vec<Value>) -> Vec<Value> {
    answer
        .into_iter()
        .flat_map(|value| match value {
            Value::Array(members) => members,
            value => vec![value],
        })
        .collect()
}
