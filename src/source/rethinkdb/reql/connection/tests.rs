use tokio::io::DuplexStream;
use tokio_util::task::TaskTracker;

use super::*;

const LIMITS: ConnectionLimits = ConnectionLimits {
    connect: Duration::from_secs(3600),
    query: Duration::from_secs(3600),
    silence: Duration::from_secs(3600),
    lookahead_bytes: 100,
    frame_bytes: 1 << 20,
};

/// Nothing that is tested takes so long.
const PATIENCE: Duration = Duration::from_secs(20);

/// The database's end of a connection.
struct Peer {
    socket: DuplexStream,
    received: BytesMut,
    tracker: TaskTracker,
}

/// A connection whose socket takes `socket_bytes` before the peer reads.
fn connected(limits: ConnectionLimits, socket_bytes: usize) -> (Connection, Peer) {
    let (own, socket) = tokio::io::duplex(socket_bytes);
    let (connection, work) = Connection::new(Box::new(own), BytesMut::new(), "starbelly", limits);
    let tracker = TaskTracker::new();
    crate::task::spawn(&tracker, work);
    tracker.close();
    (connection, Peer { socket, received: BytesMut::new(), tracker })
}

impl Peer {
    /// The next query: its token, and the number that says what is to be done.
    async fn asked(&mut self) -> (u64, u64) {
        loop {
            if let Some((token, body)) = frame::decode(&mut self.received, 1 << 20).expect("a frame") {
                let query: Vec<serde_json::Value> = serde_json::from_slice(&body).expect("a query");
                return (token.0, query[0].as_u64().expect("its kind"));
            }
            soon(self.socket.read_buf(&mut self.received)).await.expect("it is there");
        }
    }

    async fn answer(&mut self, token: u64, text: &str) {
        let mut out = BytesMut::new();
        frame::encode(Token(token), text.as_bytes(), &mut out);
        soon(self.socket.write_all(&out)).await.expect("it is there");
    }
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it happens")
}

fn page(text: &str) -> String {
    format!(r#"{{"t":3,"r":["{text}"],"n":[]}}"#)
}

const START: u64 = 1;
const CONTINUE_KIND: u64 = 2;
const STOP_KIND: u64 = 3;

#[tokio::test]
async fn a_cursor_that_is_dropped_ends_its_query_and_late_answers_are_for_nobody() {
    let (connection, mut peer) = connected(LIMITS, 1 << 16);
    let cursor = connection.start(&Term::table("policy"));
    let (token, kind) = peer.asked().await;
    assert_eq!(kind, START);
    drop(cursor);
    assert_eq!(peer.asked().await, (token, STOP_KIND));
    peer.answer(token, &page("late")).await;
    peer.answer(token, r#"{"t":2,"r":[]}"#).await;
    let mut cursor = connection.start(&Term::table("policy"));
    let (token, _) = peer.asked().await;
    peer.answer(token, r#"{"t":2,"r":["own"]}"#).await;
    let rows = soon(cursor.next()).await.expect("no error").expect("a page");
    assert_eq!(rows.rows().expect("JSON")[0].get(), "\"own\"");
    assert_eq!(soon(cursor.next()).await, Ok(None));
    assert!(!connection.has_ended());
}

#[tokio::test]
async fn more_is_asked_for_only_while_there_is_room() {
    let (connection, mut peer) = connected(LIMITS, 1 << 16);
    let mut cursor = connection.start(&Term::table("policy"));
    let (token, _) = peer.asked().await;
    peer.answer(token, &page("short")).await;
    assert_eq!(peer.asked().await, (token, CONTINUE_KIND), "there is room");
    peer.answer(token, &page(&"long".repeat(50))).await;
    // Another query shows what was asked before it.
    let other = connection.start(&Term::table("schedule"));
    assert_ne!(peer.asked().await.0, token, "there is no room");
    for _ in 0..2 {
        soon(cursor.next()).await.expect("no error").expect("a page");
    }
    assert_eq!(peer.asked().await, (token, CONTINUE_KIND), "it was taken");
    drop(other);
}

#[tokio::test]
async fn answers_that_nobody_asked_for_end_the_connection() {
    // One of a query that was never started; a second one to the same question; one behind the last.
    let long = page(&"long".repeat(50));
    for (others_token, answers) in [
        (true, vec![r#"{"t":2,"r":[]}"#.to_owned()]),
        (false, vec![long.clone(), long]),
        (false, vec![r#"{"t":2,"r":[]}"#.to_owned(), r#"{"t":2,"r":[]}"#.to_owned()]),
    ] {
        let (connection, mut peer) = connected(LIMITS, 1 << 16);
        let _cursor = connection.start(&Term::table("policy"));
        let (token, _) = peer.asked().await;
        for answer in &answers {
            peer.answer(if others_token { token + 7 } else { token }, answer).await;
        }
        soon(connection.ended()).await;
        let mut next = connection.start(&Term::table("policy"));
        assert!(matches!(soon(next.next()).await, Err(ReqlError::Protocol(_))));
    }
}

#[tokio::test]
async fn one_that_is_given_up_ends_though_its_peer_takes_nothing() {
    let (connection, peer) = connected(LIMITS, 16);
    let mut cursor = connection.start(&Term::table("policy"));
    // Its query does not fit, and the task waits for room.
    let mut first = [0];
    let mut peer_socket = peer.socket;
    soon(peer_socket.read_exact(&mut first)).await.expect("a byte");
    connection.give_up(&ReqlError::Silent);
    assert_eq!(soon(cursor.next()).await, Err(ReqlError::Silent));
    soon(peer.tracker.wait()).await;
}

#[tokio::test]
async fn it_ends_with_the_last_that_has_it() {
    let (connection, mut peer) = connected(LIMITS, 1 << 16);
    let cursor = connection.start(&Term::table("policy"));
    peer.asked().await;
    drop(connection);
    assert!(!peer.tracker.is_empty(), "a cursor has it, too");
    drop(cursor);
    soon(peer.tracker.wait()).await;
}

#[tokio::test]
async fn one_that_says_nothing_is_asked_and_then_given_up() {
    let limits = ConnectionLimits { silence: Duration::from_millis(200), ..LIMITS };
    let (connection, mut peer) = connected(limits, 1 << 16);
    // Answers to probes keep it.
    for _ in 0..8 {
        let (token, kind) = peer.asked().await;
        assert_eq!(kind, START);
        peer.answer(token, r#"{"t":1,"r":[1]}"#).await;
    }
    assert!(!connection.has_ended());
    let mut cursor = connection.start(&Term::table("policy"));
    assert_eq!(soon(cursor.next()).await.map(drop), Err(ReqlError::Silent));
}

#[tokio::test]
async fn rows_that_are_not_kept_do_not_fill_a_page() {
    let (connection, mut peer) = connected(LIMITS, 1 << 16);
    let budget = PageBudget { items: 2, bytes: 1 << 20 };
    let is_good = |row: &RawValue| (row.get() != "0").then(|| row.get().to_owned());
    let query = Term::table("policy");
    let read = connection.first_rows(&query, budget, is_good);
    let answered = async {
        let (token, _) = peer.asked().await;
        peer.answer(token, r#"{"t":3,"r":[0,0,0]}"#).await;
        assert_eq!(peer.asked().await, (token, CONTINUE_KIND));
        peer.answer(token, r#"{"t":2,"r":[1,0,2,3]}"#).await;
    };
    let (page, ()) = soon(async { tokio::join!(read, answered) }).await;
    assert_eq!(page, Ok((vec!["1".to_owned(), "2".to_owned()], false)), "and there are more");
}
