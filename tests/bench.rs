//! Each scenario of `starfeed bench`, tiny, over real processes: everything arrives, and where something does not, it is said.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output};

use tokio_tungstenite::tungstenite::{Message, WebSocket, accept};

fn bench(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_starfeed"))
        .arg("bench")
        .args(args)
        .env_clear()
        .current_dir(std::env::temp_dir())
        .output()
        .expect("the command runs")
}

/// The rows of a run that ends well.
fn rows(args: &[&str]) -> Vec<serde_json::Value> {
    let output = bench(&[args, &["--json"]].concat());
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    let rows = String::from_utf8(output.stdout).expect("UTF-8");
    rows.lines().map(|line| serde_json::from_str(line).expect("a JSON object per row")).collect()
}

fn number(row: &serde_json::Value, key: &str) -> f64 {
    row[key].as_f64().unwrap_or_else(|| panic!("there is no {key} in {row}"))
}

/// `args` for so many subscribers, for so many seconds.
fn tiny<'a>(subscribers: &'a str, seconds: &'a str, args: &[&'a str]) -> Vec<&'a str> {
    [&["--subscribers", subscribers, "--seconds", seconds, "--store", "memory"], args].concat()
}

#[test]
fn a_server_is_measured_beside_the_bare_peer() {
    let rows =
        rows(&tiny("4", "1", &["--peer", "starfeed,bare", "--in-flight", "4", "--tables", "3", "--rounds", "2"]));
    // Two rounds of two peers with their ratio, and the median.
    assert_eq!(rows.len(), 7);
    let (ratios, runs): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.get("ratio_of").is_some());
    assert_eq!((ratios.len(), runs.len()), (3, 4));
    for run in runs {
        assert_eq!((&run["lost"], &run["repeated"], &run["out_of_order"]), (&0.into(), &0.into(), &0.into()), "{run}");
        assert!(number(run, "delivered") >= number(run, "changes"), "{run}");
    }
    for ratio in ratios {
        assert!(number(ratio, "p99") > 0.0, "{ratio}");
    }
}

#[test]
fn who_comes_and_goes_gets_everything_too() {
    let rows = rows(&tiny("8", "3", &["--scenario", "churn", "--in-flight", "4"]));
    assert_eq!(rows.len(), 2);
    assert!(rows[0]["churn"].is_null());
    let churn = &rows[1]["churn"];
    for kind in ["resubscribed", "stalled", "reconnected"] {
        assert!(number(churn, kind) > 0.0, "{kind}: {churn}");
    }
    assert_eq!(rows[1]["lost"], 0);
}

#[test]
fn filtered_changes_go_to_those_they_are_for() {
    let rows = rows(&tiny("4", "1", &["--scenario", "filtered", "--filters", "2000", "--rate", "200"]));
    assert_eq!(rows.len(), 1);
    let (changes, delivered) = (number(&rows[0], "changes"), number(&rows[0], "delivered"));
    assert_eq!(changes, 200.0);
    assert!((5.0..20.0).contains(&(delivered / changes)), "{delivered} for {changes}");
    assert_eq!(rows[0]["lost"], 0);
    let until_sent = |share| rows[0]["until_sent_ms"][share].as_f64().expect("the server says how long that took");
    assert!(0.0 < until_sent("p50") && until_sent("p50") <= until_sent("p99"));
}

#[test]
fn what_rests_is_weighed() {
    let rows = rows(&tiny("40", "1", &["--scenario", "idle", "--filters", "400"]));
    assert_eq!(rows.len(), 1);
    for key in ["bytes_per_bare_connection", "bytes_per_connection", "bytes_per_filter", "bytes_per_shared_filter"] {
        assert!(number(&rows[0], key) >= 0.0, "{key}");
    }
}

#[test]
fn readers_get_every_row() {
    let joined = rows(&tiny("4", "1", &["--scenario", "join", "--rows", "1200"]));
    assert_eq!(joined.len(), 2);
    assert_eq!((number(&joined[0], "clients"), number(&joined[1], "clients")), (1.0, 4.0));
    let snapshot = rows(&tiny(
        "4",
        "1",
        &["--scenario", "snapshot", "--rows", "1200", "--peer", "starfeed,bare", "--rounds", "2"],
    ));
    assert_eq!(snapshot.len(), 4);
    assert!(joined.iter().chain(&snapshot).all(|row| number(row, "rows_per_second") > 0.0));
}

#[test]
fn writers_are_acknowledged() {
    let rows =
        rows(&["--scenario", "writes", "--writers", "3", "--seconds", "1", "--store", "disk", "--in-flight", "1,4"]);
    assert_eq!(rows.len(), 2);
    assert!(rows.iter().all(|row| number(row, "acknowledged_per_second") > 0.0));
}

/// What a scripted peer does with a message.
type Script = fn(&mut Peer, usize, &str) -> std::io::Result<()>;

/// A peer of another kind: it hands on what is published, but for what the script leaves out.
struct Peer {
    sockets: Vec<WebSocket<TcpStream>>,
    subscribers: Vec<usize>,
    published: u64,
}

impl Peer {
    /// Serves until all who came have gone.
    fn serve(listener: &TcpListener, script: Script) {
        let mut peer = Self { sockets: Vec::new(), subscribers: Vec::new(), published: 0 };
        let mut gone = 0;
        listener.set_nonblocking(true).expect("a listener");
        while peer.sockets.is_empty() || gone < peer.sockets.len() {
            if let Ok((stream, _)) = listener.accept() {
                stream.set_nonblocking(false).expect("a socket");
                let socket = accept(stream).expect("an upgrade");
                socket.get_ref().set_nonblocking(true).expect("a socket");
                peer.sockets.push(socket);
            }
            gone = 0;
            for at in 0..peer.sockets.len() {
                match peer.sockets[at].read() {
                    Ok(message) => script(&mut peer, at, message.to_text().expect("text")).expect("it is sent"),
                    Err(tokio_tungstenite::tungstenite::Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(_) => gone += 1,
                }
            }
            std::thread::sleep(std::time::Duration::from_micros(200));
        }
    }

    fn say(&mut self, to: usize, message: Message) {
        // Whoever has gone meanwhile is noticed when it is read from.
        let _ = self.sockets[to].send(message);
    }
}

fn centrifugo(peer: &mut Peer, from: usize, text: &str) -> std::io::Result<()> {
    for line in text.lines() {
        let command: serde_json::Value = serde_json::from_str(line)?;
        let id = command["id"].clone();
        if command.get("connect").is_some() {
            peer.say(from, Message::text(format!("{{\"id\":{id},\"connect\":{{\"ping\":25}}}}")));
        } else if command.get("subscribe").is_some() {
            peer.subscribers.push(from);
            peer.say(from, Message::text(format!("{{\"id\":{id},\"subscribe\":{{}}}}")));
        } else if let Some(publish) = command.get("publish") {
            let (channel, data) = (&publish["channel"], &publish["data"]);
            let push = format!("{{\"push\":{{\"channel\":{channel},\"pub\":{{\"data\":{data}}}}}}}");
            for to in peer.subscribers.clone() {
                peer.say(to, Message::text(push.clone()));
            }
            peer.say(from, Message::text(format!("{{\"id\":{id},\"publish\":{{}}}}")));
        }
    }
    Ok(())
}

fn nats(peer: &mut Peer, from: usize, text: &str) -> std::io::Result<()> {
    let mut lines = text.split("\r\n");
    while let Some(line) = lines.next() {
        let mut words = line.split(' ');
        match words.next() {
            Some("CONNECT") => peer.say(from, Message::binary(&b"INFO {}\r\n"[..])),
            Some("SUB") => peer.subscribers.push(from),
            Some("PING") => peer.say(from, Message::binary(&b"PONG\r\n"[..])),
            Some("PUB") => {
                let subject = words.next().unwrap_or_default();
                let payload = lines.next().unwrap_or_default();
                let message = format!("MSG {subject} 1 {}\r\n{payload}\r\n", payload.len());
                // In two frames: they may cut a message anywhere.
                let (first, second) = message.as_bytes().split_at(message.len() / 2);
                for to in peer.subscribers.clone() {
                    peer.say(to, Message::binary(first.to_vec()));
                    peer.say(to, Message::binary(second.to_vec()));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Hands on nothing of the third message to the first subscriber.
fn forgetful(peer: &mut Peer, from: usize, text: &str) -> std::io::Result<()> {
    for line in text.lines() {
        peer.published += u64::from(line.contains("\"publish\""));
        let forgotten = if line.contains("\"publish\"") && peer.published == 3 { peer.subscribers.pop() } else { None };
        centrifugo(peer, from, line)?;
        peer.subscribers.extend(forgotten);
    }
    Ok(())
}

fn measured(script: Script, speaks: &str) -> Output {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("ws://{}/", listener.local_addr().expect("an address"));
    let args =
        ["--url", &url, "--speaks", speaks, "--subscribers", "2", "--seconds", "1", "--in-flight", "2", "--json"];
    std::thread::scope(|scope| {
        scope.spawn(|| Peer::serve(&listener, script));
        bench(&args)
    })
}

#[test]
fn other_peers_are_spoken_to_in_their_language() {
    for (script, speaks) in [(centrifugo as Script, "centrifugo"), (nats, "nats")] {
        let output = measured(script, speaks);
        assert!(output.status.success(), "{speaks}: {}", String::from_utf8_lossy(&output.stderr));
        let row: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one row");
        assert_eq!(row["lost"], 0, "{row}");
        assert!(number(&row, "delivered") >= 2.0 * number(&row, "changes") && number(&row, "changes") > 0.0, "{row}");
    }
}

#[test]
fn a_planted_loss_is_noticed() {
    let output = measured(forgetful, "centrifugo");
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("1 events lost, 0 repeated"), "{text}");
}

#[test]
fn the_bare_peer_ends_with_who_started_it() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_starfeed"))
        .args(["bench", "--be-bare"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut stdout = child.stdout.take().expect("its output");
    let mut line = [0; 13];
    stdout.read_exact(&mut line).expect("it says where it listens");
    assert_eq!(&line, b"listening on ");
    let mut stdin = child.stdin.take().expect("its input");
    stdin.flush().expect("it is open");
    drop(stdin);
    assert!(child.wait().expect("it ends").success());
}
