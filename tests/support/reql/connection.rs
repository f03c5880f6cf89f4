//! One connection: questions in, answers out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::evaluate::{Evaluator, Found};
use super::fault::{Ending, Spoil};
use super::handshake::{Account, shake_hands};
use super::protocol::{self, Answer, Question, ReqlError, frame, header, take_question};
use super::shared::Shared;
use super::wire::Wire;
use super::world::{ConnectionId, Stream, World};

const DEFAULT_DATABASE: &str = "test";

/// What does not change while the server runs.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) account: Account,
    pub(super) batch_rows: usize,
}

/// Serves one connection until it ends or is cut.
pub(super) async fn serve(stream: TcpStream, shared: Arc<Shared>, settings: Settings, stop: CancellationToken) {
    // A piece that is sent alone is to arrive alone.
    let _ = stream.set_nodelay(true);
    let (id, cut) = shared.change(World::open_line);
    let wire = Wire::new(stream, id, Arc::clone(&shared));
    let mut connection = Connection { wire, settings, waiting: BTreeSet::new() };
    // To be cut comes first: a connection may be busy for ever.
    tokio::select! {
        biased;
        () = cut.cancelled() => {}
        () = stop.cancelled() => shared.look(|world| world.cut(id, Ending::Reset)),
        _ = connection.converse() => {}
    }
    if shared.change(|world| world.close_line(id)) == Ending::Reset {
        let _ = connection.wire.stream.set_zero_linger();
    }
}

struct Connection {
    wire: Wire,
    settings: Settings,
    /// Tokens of feeds whose reader has asked for more than there was.
    waiting: BTreeSet<u64>,
}

impl Connection {
    async fn converse(&mut self) -> io::Result<()> {
        if !shake_hands(&mut self.wire, &self.settings.account).await? {
            return Ok(());
        }
        self.wire.shared.change(|world| world.handshakes_passed += 1);
        loop {
            self.wire.until_not_mute().await?;
            self.answer_questions().await?;
            self.answer_waiting().await?;
            while let Some(bytes) = self.wire.shared.look(|world| world.take_raw(self.wire.id)) {
                self.wire.post(bytes, Duration::ZERO);
            }
            self.send_due().await?;
            self.wire.until_something_happens(false).await?;
        }
    }

    async fn send_due(&mut self) -> io::Result<()> {
        let piece_bytes = self.wire.faults().answer_piece_bytes;
        self.wire.send_due(piece_bytes).await
    }

    async fn answer_questions(&mut self) -> io::Result<()> {
        while let Some(question) = take_question(&mut self.wire.heard) {
            match question {
                Ok(question) => self.answer(question).await?,
                Err((token, error)) => self.post(token, &error.into(), false).await?,
            }
        }
        Ok(())
    }

    async fn answer(&mut self, question: Question) -> io::Result<()> {
        let token = question.token;
        let is_of_feed = self.is_feed(token);
        let answer = match question.kind {
            protocol::START => return self.start(question).await,
            protocol::CONTINUE => match self.wire.shared.look(|world| has_news(world, self.wire.id, token)) {
                Some(true) => self.take(token),
                Some(false) => {
                    self.waiting.insert(token);
                    return Ok(());
                }
                None => unknown_token(token),
            },
            protocol::STOP => {
                let stopped = self.wire.shared.change(|world| world.streams.remove(&(self.wire.id, token)));
                match stopped {
                    Some(_) => {
                        if self.waiting.remove(&token) {
                            // The question that waits is answered too, and before.
                            self.post(token, &Answer::new(protocol::SEQUENCE, Vec::new()), is_of_feed).await?;
                        }
                        Answer::new(protocol::SEQUENCE, Vec::new())
                    }
                    None => unknown_token(token),
                }
            }
            protocol::NOREPLY_WAIT => Answer::new(protocol::WAIT_COMPLETE, Vec::new()),
            protocol::SERVER_INFO => {
                self.wire.shared.look(|world| world.pings += 1);
                let info = json!({"id": uuid::Uuid::nil().to_string(), "name": "scripted", "proxy": false});
                Answer::new(protocol::SERVER_INFO_ANSWER, vec![info.to_string()])
            }
            kind => ReqlError::client(format!("Unrecognized QueryType: {kind}.")).into(),
        };
        self.post(token, &answer, is_of_feed).await
    }

    /// Runs a query; all but a changefeed is done at once.
    async fn start(&mut self, question: Question) -> io::Result<()> {
        let (id, token, user) = (self.wire.id, question.token, self.settings.account.user.clone());
        if self.wire.shared.look(|world| world.streams.contains_key(&(id, token))) {
            let error = ReqlError::client(format!("ERROR: duplicate token {token}"));
            return self.post(token, &error.into(), false).await;
        }
        let (reply, has_written) = self.wire.shared.change(|world| run(world, id, &user, &question));
        let answer = match reply {
            Reply::Answer(answer) => answer,
            Reply::Stream(stream) => {
                self.wire.shared.look(|world| world.streams.insert((id, token), stream));
                self.take(token)
            }
        };
        let is_left_unanswered = has_written
            && self.wire.shared.look(|world| {
                let left = &mut world.faults_of(id).writes_to_leave_unanswered;
                let is_left = *left > 0;
                *left = left.saturating_sub(1);
                is_left
            });
        if is_left_unanswered {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if question.options.get("noreply") == Some(&Value::Bool(true)) {
            return Ok(());
        }
        self.post(token, &answer, self.is_feed(token)).await
    }

    /// Feeds that were asked and have something to say now.
    async fn answer_waiting(&mut self) -> io::Result<()> {
        for token in self.waiting.clone() {
            match self.wire.shared.look(|world| has_news(world, self.wire.id, token)) {
                Some(false) => {}
                Some(true) | None => {
                    self.waiting.remove(&token);
                    let answer = self.take(token);
                    self.post(token, &answer, true).await?;
                }
            }
        }
        Ok(())
    }

    fn take(&self, token: u64) -> Answer {
        let rows_max = self.settings.batch_rows;
        let taken = self.wire.shared.look(|world| world.take(self.wire.id, token, rows_max));
        taken.unwrap_or_else(|| unknown_token(token))
    }

    fn is_feed(&self, token: u64) -> bool {
        self.wire.shared.look(|world| matches!(world.streams.get(&(self.wire.id, token)), Some(Stream::Feed(_))))
    }

    async fn post(&mut self, token: u64, answer: &Answer, is_of_feed: bool) -> io::Result<()> {
        let delay = self.wire.faults().delay;
        let bytes = answer.frame(token);
        let bytes = match self.wire.shared.look(|world| world.take_spoil(self.wire.id, is_of_feed)) {
            None => bytes,
            Some(Spoil::Nothing) => return Ok(()),
            Some(Spoil::Length(length)) => header(token, length),
            Some(Spoil::Text(text)) => frame(token, text.as_bytes()),
            Some(Spoil::Token(other)) => answer.frame(other),
            Some(Spoil::Half) => {
                self.wire.send(&bytes[..bytes.len() / 2], None).await?;
                return Err(io::ErrorKind::BrokenPipe.into());
            }
        };
        self.wire.post(bytes, delay);
        Ok(())
    }
}

/// Whether a stream has something to say; nothing for one that does not exist.
fn has_news(world: &World, id: ConnectionId, token: u64) -> Option<bool> {
    world.streams.get(&(id, token)).map(|stream| match stream {
        Stream::Rows(_) => true,
        Stream::Feed(feed) => feed.has_news(),
    })
}

fn unknown_token(token: u64) -> Answer {
    ReqlError::client(format!("Token {token} not in stream cache.")).into()
}

enum Reply {
    Answer(Answer),
    Stream(Stream),
}

/// What a query comes to, and whether it wrote.
fn run(world: &mut World, id: ConnectionId, user: &str, question: &Question) -> (Reply, bool) {
    world.queries.push(question.term.to_string());
    let faults = world.faults_of(id);
    let (may_write, refuses_feeds) = (!faults.refuses_writes, faults.feeds_to_refuse > 0);
    let unavailable_key = faults.unavailable_key.clone();
    let mut evaluator = Evaluator {
        world,
        user,
        default_database: DEFAULT_DATABASE.to_owned(),
        variables: BTreeMap::new(),
        may_write,
        unavailable_key,
        refuses_feeds,
        has_refused_feed: false,
        has_written: false,
    };
    let reply = match evaluate(&mut evaluator, question) {
        Ok(reply) => reply,
        Err(error) => Reply::Answer(error.into()),
    };
    let (has_written, has_refused_feed) = (evaluator.has_written, evaluator.has_refused_feed);
    if has_refused_feed {
        world.faults_of(id).feeds_to_refuse -= 1;
    }
    (reply, has_written)
}

fn evaluate(evaluator: &mut Evaluator, question: &Question) -> Result<Reply, ReqlError> {
    if let Some(database) = question.options.get("db")
        && let Found::Database(name) = evaluator.find(database)?
    {
        evaluator.default_database = name;
    }
    let found = evaluator.find(&question.term)?;
    let stream = match found {
        Found::Feed(feed) => Stream::Feed(feed),
        found @ (Found::Table(_) | Found::Without(..) | Found::Rows(..) | Found::Range(..)) => {
            Stream::Rows(evaluator.rows(found)?.iter().map(Value::to_string).collect::<VecDeque<_>>())
        }
        found @ (Found::Value(_) | Found::Row(..) | Found::Database(_)) => {
            let value = evaluator.value_from(found)?;
            return Ok(Reply::Answer(Answer::new(protocol::ATOM, vec![value.to_string()])));
        }
    };
    Ok(Reply::Stream(stream))
}
