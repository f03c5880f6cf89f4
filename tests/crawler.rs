//! Commands that are passed on to a crawler, against one that plays its part on a real socket.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use prost::Message as _;
use starfeed::crawler::{Crawler, CrawlerBody, CrawlerLimits};
use starfeed::proto::request::Command;
use starfeed::proto::response::Body;
use starfeed::proto::server_message::MessageType;
use starfeed::proto::{self, ServerMessage};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};
use tokio_tungstenite::{WebSocketStream, accept_async};

/// Long enough to fail loudly instead of hanging.
const LIMITS: CrawlerLimits = CrawlerLimits {
    connect_timeout: Duration::from_secs(30),
    answer_timeout: Duration::from_secs(30),
    message_bytes: 1 << 20,
    commands: 16,
};

/// For what never comes.
const SHORT: Duration = Duration::from_millis(50);

type Socket = WebSocketStream<TcpStream>;

/// A place for a crawler, and one that is told where it is.
async fn place(limits: CrawlerLimits) -> (TcpListener, Crawler, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = format!("ws://{}/ws/", listener.local_addr().expect("an address"));
    let crawler = Crawler::new(&address, limits).expect("an address of a crawler");
    (listener, crawler, address)
}

async fn accept(listener: &TcpListener) -> Socket {
    let (stream, _) = listener.accept().await.expect("a connection");
    accept_async(stream).await.expect("a WebSocket")
}

async fn request(socket: &mut Socket) -> proto::Request {
    let message = socket.next().await.expect("a message").expect("a message in order");
    proto::Request::decode(message.into_data()).expect("a request")
}

async fn say(socket: &mut Socket, message: MessageType) {
    let message = ServerMessage { message_type: Some(message) };
    socket.send(Message::binary(message.encode_to_vec())).await.expect("the other end is there");
}

/// What comes until the end of the connection, which has to be one in order.
async fn goodbye(mut socket: Socket) {
    let message = socket.next().await.expect("a message").expect("no reset");
    assert!(message.is_close(), "{message:?}");
    if let Some(more) = socket.next().await {
        panic!("after the goodbye: {more:?}");
    }
}

/// Asks a crawler that does as `script` says with the connection and the request that it got.
async fn ask(
    limits: CrawlerLimits,
    script: impl AsyncFnOnce(Socket, proto::Request),
) -> (Result<CrawlerBody, String>, String) {
    let (listener, crawler, address) = place(limits).await;
    let part = async {
        let mut socket = accept(&listener).await;
        let request = request(&mut socket).await;
        script(socket, request).await;
    };
    let (answer, ()) = tokio::join!(crawler.ask(command()), part);
    (answer, address)
}

/// The same with a crawler that says this, and waits for the goodbye.
async fn ask_for(limits: CrawlerLimits, message: Message) -> (Result<CrawlerBody, String>, String) {
    ask(limits, async |mut socket, _| {
        socket.send(message).await.expect("the other end is there");
        goodbye(socket).await;
    })
    .await
}

fn command() -> Command {
    Command::SetJob(proto::RequestSetJob { seeds: vec!["https://example.com".to_owned()], ..Default::default() })
}

fn success(request_id: i32, body: Option<Body>) -> MessageType {
    MessageType::Response(proto::Response { request_id, is_success: true, error_message: None, body })
}

fn refusal(request_id: i32, text: Option<&str>) -> MessageType {
    let error_message = text.map(str::to_owned);
    MessageType::Response(proto::Response { request_id, is_success: false, error_message, body: None })
}

fn new_job() -> Body {
    Body::NewJob(proto::ResponseNewJob { job_id: vec![7; 16].into() })
}

#[tokio::test]
async fn a_command_goes_there_and_its_answer_comes_back() {
    for body in [Some(new_job()), None] {
        let (answer, _) = ask(LIMITS, async |mut socket, request| {
            assert_eq!(request.command, Some(command()));
            say(&mut socket, success(request.request_id, body.clone())).await;
            goodbye(socket).await;
        })
        .await;
        assert_eq!(answer, Ok(body.map(Box::new)));
    }
}

#[tokio::test]
async fn each_command_has_a_connection_of_its_own() {
    let (listener, crawler, _) = place(LIMITS).await;
    let part = async {
        let (mut first, mut second) = (accept(&listener).await, accept(&listener).await);
        for socket in [&mut second, &mut first] {
            let request = request(socket).await;
            say(socket, success(request.request_id, None)).await;
        }
        tokio::join!(goodbye(first), goodbye(second));
    };
    let (first, second, ()) = tokio::join!(crawler.ask(command()), crawler.ask(command()), part);
    assert_eq!((first, second), (Ok(None), Ok(None)));
}

#[tokio::test]
async fn a_refusal_is_passed_on_in_the_words_of_the_crawler() {
    let text = "  \"policy_id\" is required";
    let (answer, _) = ask(LIMITS, async |mut socket, request| {
        say(&mut socket, refusal(request.request_id, Some(text))).await;
        goodbye(socket).await;
    })
    .await;
    assert_eq!(answer, Err(text.to_owned()));
    for text in [None, Some(""), Some(" ")] {
        let (answer, address) = ask(LIMITS, async |mut socket, request| {
            say(&mut socket, refusal(request.request_id, text)).await;
            goodbye(socket).await;
        })
        .await;
        let expected = format!("The crawler at {address} refused the command and did not say why; its log may.");
        assert_eq!(answer, Err(expected));
    }
}

#[tokio::test]
async fn what_was_not_asked_for_is_passed_over() {
    let (answer, _) = ask(LIMITS, async |mut socket, request| {
        let event = proto::Event { subscription_id: request.request_id, ..Default::default() };
        say(&mut socket, MessageType::Event(event)).await;
        say(&mut socket, refusal(request.request_id + 1, Some("another"))).await;
        socket.send(Message::Ping("?".into())).await.expect("the other end is there");
        socket.send(Message::binary(Vec::new())).await.expect("the other end is there");
        say(&mut socket, success(request.request_id, Some(new_job()))).await;
        let pong = socket.next().await.expect("a message").expect("a message in order");
        assert_eq!(pong, Message::Pong("?".into()));
        goodbye(socket).await;
    })
    .await;
    assert_eq!(answer, Ok(Some(Box::new(new_job()))));
}

#[tokio::test]
async fn a_crawler_that_goes_on_talking_sees_no_reset() {
    let (answer, _) = ask(LIMITS, async |mut socket, request| {
        say(&mut socket, success(request.request_id, None)).await;
        for _ in 0..1000 {
            say(&mut socket, MessageType::Event(proto::Event::default())).await;
        }
        goodbye(socket).await;
    })
    .await;
    assert_eq!(answer, Ok(None));
}

#[tokio::test]
async fn without_a_crawler_it_says_what_to_do() {
    let (listener, crawler, address) = place(LIMITS).await;
    drop(listener);
    let expected = format!(
        "The crawler at {address} cannot be reached: Connection refused. Start it, or change crawler in the configuration."
    );
    assert_eq!(crawler.ask(command()).await, Err(expected));
}

#[tokio::test]
async fn a_crawler_that_does_not_say_hello_is_not_waited_for() {
    // The system takes the connection, and nobody takes it from there.
    let (_listener, crawler, address) = place(CrawlerLimits { connect_timeout: SHORT, ..LIMITS }).await;
    let expected = format!("The crawler at {address} cannot be reached: no answer for 0.05 s. Start it, or change");
    let text = crawler.ask(command()).await.expect_err("silence is no answer");
    assert!(text.starts_with(&expected), "{text}");
}

#[tokio::test]
async fn a_crawler_that_does_not_answer_is_not_waited_for() {
    let limits = CrawlerLimits { answer_timeout: SHORT, ..LIMITS };
    let (answer, address) = ask(limits, async |socket, _| goodbye(socket).await).await;
    let text = answer.expect_err("silence is no answer");
    assert!(text.starts_with(&format!("The crawler at {address} has not answered for 0.05 s.")), "{text}");
    assert!(text.contains("look before you try again") && text.contains("crawler_answer_seconds"), "{text}");
}

#[tokio::test]
async fn an_early_end_is_told_with_its_reason() {
    let with_reason = CloseFrame { code: CloseCode::Error, reason: "out of memory".into() };
    for (frame, expected) in [(Some(with_reason), "1011 out of memory"), (None, "without a reason")] {
        let (answer, address) = ask(LIMITS, async |mut socket, _| {
            socket.close(frame).await.expect("the other end is there");
            goodbye(socket).await;
        })
        .await;
        let text = answer.expect_err("an end is no answer");
        let start =
            format!("The crawler at {address} ended the connection before it answered ({expected}). It may have");
        assert!(text.starts_with(&start), "{text}");
    }
    let (answer, _) = ask(LIMITS, async |socket, _| drop(socket)).await;
    let text = answer.expect_err("an end is no answer");
    assert!(text.contains("ended the connection before it answered"), "{text}");
}

#[tokio::test]
async fn what_is_no_message_of_the_api_is_said_to_be_none() {
    for (message, expected) in [
        (Message::text("hello"), "it is text"),
        // A response that is longer than the message.
        (Message::binary(vec![0x12, 0x7f, 0x08]), "it cannot be decoded"),
    ] {
        let (answer, address) = ask_for(LIMITS, message).await;
        let text = answer.expect_err("garbage is no answer");
        let start = format!("The crawler at {address} sent what is no message of its API ({expected}).");
        assert!(text.starts_with(&start), "{text}");
    }
}

#[tokio::test]
async fn a_server_that_is_no_crawler_is_said_to_be_none() {
    for answer in ["HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "220 mail.example ESMTP\r\n\r\n"] {
        let (listener, crawler, address) = place(LIMITS).await;
        let part = async {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.expect("a request"));
            }
            assert!(head.starts_with(b"GET /ws/ HTTP/1.1\r\n"));
            stream.write_all(answer.as_bytes()).await.expect("the other end is there");
            stream
        };
        let (answer, _stream) = tokio::join!(crawler.ask(command()), part);
        let text = answer.expect_err("another protocol is no answer");
        assert!(text.starts_with(&format!("What answers at {address} is no API of a crawler: ")), "{text}");
        assert!(text.ends_with("Change crawler in the configuration."), "{text}");
    }
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_refused_and_one_that_just_fits_is_not() {
    let answer = |name: usize| {
        let job = proto::Job { name: Some("x".repeat(name)), ..Default::default() };
        let message = ServerMessage { message_type: Some(success(1, Some(Body::Job(job)))) };
        message.encode_to_vec()
    };
    let bytes = answer(100_000);
    let fits = CrawlerLimits { message_bytes: bytes.len(), ..LIMITS };
    let (answered, _) = ask_for(fits, Message::binary(bytes)).await;
    assert!(matches!(answered.map(|body| body.map(|body| *body)), Ok(Some(Body::Job(_)))));

    let (answered, address) = ask(fits, async |mut socket, _| {
        // It is cut short, and may not take it all.
        let _ = socket.send(Message::binary(answer(100_001))).await;
        while let Some(Ok(_)) = socket.next().await {}
    })
    .await;
    let text = answered.expect_err("it is too large");
    let start = format!("The answer of the crawler at {address} has more than {} bytes.", fits.message_bytes);
    assert!(text.starts_with(&start) && text.contains("crawler_message_bytes"), "{text}");
}

/// Answers the one request of a connection, and ends it.
async fn answer(mut socket: Socket) {
    let asked = request(&mut socket).await;
    say(&mut socket, success(asked.request_id, None)).await;
    goodbye(socket).await;
}

#[tokio::test]
async fn only_so_many_commands_are_under_way() {
    for commands in [1, 2] {
        let (listener, crawler, _) = place(CrawlerLimits { commands, ..LIMITS }).await;
        let part = async {
            let first = accept(&listener).await;
            if commands == 1 {
                assert!(tokio::time::timeout(SHORT, listener.accept()).await.is_err(), "the second one has to wait");
                answer(first).await;
                answer(accept(&listener).await).await;
            } else {
                let second = accept(&listener).await;
                answer(second).await;
                answer(first).await;
            }
        };
        let (one, other, ()) = tokio::join!(crawler.ask(command()), crawler.ask(command()), part);
        assert_eq!((one, other), (Ok(None), Ok(None)));
    }
}
