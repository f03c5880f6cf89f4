//! Commands that are passed on to a crawler, which the test plays.

use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};

use prost::Message as _;
use serde_json::{Value, json};
use starfeed::proto::server_message::MessageType;
use starfeed::proto::{self, JobRunState, RequestSetJob, request::Command, response::Body};
use tokio_tungstenite::tungstenite::{Message, WebSocket, accept};

use crate::backend;
use crate::support::crawled::{frontier, id, job, put, row, rows, uuid, with};
use crate::support::jobs::{list_jobs, numbers, set_job, set_state};
use crate::support::process::ServerProcess;
use crate::support::raw::{RawClient, TIMEOUT};

/// A crawler's API, as far as it is passed commands.
struct FakeCrawler {
    listener: TcpListener,
    address: String,
}

/// One command that was passed on.
struct Passed {
    socket: WebSocket<TcpStream>,
    request: proto::Request,
}

impl FakeCrawler {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = format!("ws://{}/ws/", listener.local_addr().expect("an address"));
        Self { listener, address }
    }

    fn server(&self) -> Option<ServerProcess> {
        backend::server(&[("crawler", &self.address)])
    }

    /// Takes the next command; `RawClient` sends it before, and waits for the answer after.
    fn take(&self) -> Passed {
        let (stream, _) = self.listener.accept().expect("a connection");
        stream.set_read_timeout(Some(TIMEOUT)).expect("a timeout can be set");
        let mut socket = accept(stream).expect("a WebSocket");
        let message = socket.read().expect("a message");
        Passed { socket, request: proto::Request::decode(message.into_data()).expect("a request") }
    }

    /// Whether nobody came who was not taken.
    fn is_left_alone(&self) -> bool {
        self.listener.set_nonblocking(true).expect("a socket");
        let nobody = self.listener.accept().is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        self.listener.set_nonblocking(false).expect("a socket");
        nobody
    }
}

impl Passed {
    fn command(&self) -> &Command {
        self.request.command.as_ref().expect("a command")
    }

    /// Answers, and sees the connection end in order.
    fn answer(mut self, result: Result<Option<Body>, &str>) {
        let (is_success, body, error_message) = match result {
            Ok(body) => (true, body, None),
            Err(text) => (false, None, Some(text.to_owned())),
        };
        let response = proto::Response { request_id: self.request.request_id, is_success, error_message, body };
        let message = proto::ServerMessage { message_type: Some(MessageType::Response(response)) };
        self.socket.send(Message::binary(message.encode_to_vec())).expect("the server reads");
        while self.socket.read().is_ok_and(|message| !message.is_close()) {}
        let _ = self.socket.flush();
    }
}

fn new_job() -> RequestSetJob {
    RequestSetJob {
        run_state: Some(JobRunState::Running.into()),
        policy_id: Some(id(7)),
        seeds: vec![" https://news.example/ ".to_owned()],
        name: Some(String::new()),
        tags: vec!["news".to_owned()],
        ..RequestSetJob::default()
    }
}

fn profile() -> Command {
    Command::PerformanceProfile(proto::RequestPerformanceProfile {
        duration: Some(3.0),
        sort_by: Some("total_time".to_owned()),
        top_n: Some(20),
    })
}

#[test]
fn what_only_a_crawler_can_do_is_done_by_it() {
    let crawler = FakeCrawler::new();
    let Some(server) = crawler.server() else { return };
    let mut client = RawClient::connect(&server.address);
    client.number_from(4711);
    let figures = proto::ResponsePerformanceProfile {
        total_calls: Some(3),
        total_time: Some(0.5),
        functions: vec![proto::PerformanceProfileFunction {
            file: Some("crawler.py".to_owned()),
            line_number: Some(7),
            function: Some("crawl".to_owned()),
            calls: Some(3),
            non_recursive_calls: Some(2),
            total_time: Some(0.25),
            cumulative_time: Some(0.5),
        }],
    };
    let job_id = Body::NewJob(proto::ResponseNewJob { job_id: id(5) });
    for (command, body) in [
        (set_job(new_job()), Some(job_id)),
        (set_state(1, JobRunState::Running), None),
        (set_state(1, JobRunState::Paused), None),
        (profile(), Some(Body::PerformanceProfile(figures))),
    ] {
        let request_id = client.ask(command.clone());
        let passed = crawler.take();
        assert_eq!(passed.command(), &command, "it is passed on as it came");
        assert_ne!(passed.request.request_id, request_id, "the numbers of a client are its own");
        passed.answer(Ok(body.clone()));
        let response = client.response(request_id);
        assert_eq!((response.is_success, response.error_message, response.body), (true, None, body));
    }
    assert_eq!(rows(&mut client, "job"), [] as [Value; 0], "the rows are the crawler's to write");
}

#[test]
fn the_crawler_says_itself_why_not() {
    let crawler = FakeCrawler::new();
    let Some(server) = crawler.server() else { return };
    let mut client = RawClient::connect(&server.address);
    for (command, text) in [
        (set_job(new_job()), "A server exception occurred"),
        (set_state(1, JobRunState::Paused), "Job is not running"),
        (profile(), "Invalid sort key: colour"),
    ] {
        let request_id = client.ask(command);
        crawler.take().answer(Err(text));
        let response = client.response(request_id);
        assert_eq!((response.is_success, response.error_message.as_deref(), response.body), (false, Some(text), None));
    }
}

#[test]
fn requests_behind_a_command_that_is_passed_on_are_not_held_up() {
    let crawler = FakeCrawler::new();
    let Some(server) = crawler.server() else { return };
    let mut client = RawClient::connect(&server.address);
    put(&mut client, "job", &[job(1, "paused"), job(2, "paused")]);
    let first = client.ask(profile());
    let slow = crawler.take();
    let second = client.ask(set_state(1, JobRunState::Running));
    let slower = crawler.take();
    // Reads, writes and refusals.
    assert_eq!(numbers(client.request(list_jobs(proto::RequestListJobs::default()))).1, 2);
    assert_eq!(client.request(set_state(2, JobRunState::Cancelled)), None);
    assert!(!client.refusal(set_state(1, JobRunState::Pending)).is_empty());
    slower.answer(Ok(None));
    assert_eq!(client.next_response().request_id, second);
    slow.answer(Err("Too slow"));
    let response = client.next_response();
    assert_eq!((response.request_id, response.error_message.as_deref()), (first, Some("Too slow")));
}

#[test]
fn other_clients_go_on_and_one_that_leaves_takes_its_command_back() {
    let crawler = FakeCrawler::new();
    let Some(server) = crawler.server() else { return };
    let mut leaving = RawClient::connect(&server.address);
    leaving.ask(profile());
    let mut passed = crawler.take();
    let mut other = RawClient::connect(&server.address);
    assert_eq!(numbers(other.request(list_jobs(proto::RequestListJobs::default()))), (vec![], 0));
    drop(leaving);
    assert!(passed.socket.read().map_or(true, |message| message.is_close()), "the connection is cut");
    let request_id = other.ask(set_state(1, JobRunState::Paused));
    crawler.take().answer(Ok(None));
    assert!(other.response(request_id).is_success);
}

#[test]
fn without_its_crawler_the_server_says_so_and_does_the_rest() {
    let crawler = FakeCrawler::new();
    let Some(server) = crawler.server() else { return };
    let mut client = RawClient::connect(&server.address);
    put(&mut client, "job", &[job(1, "running")]);
    let FakeCrawler { listener, address } = crawler;
    drop(listener);
    let text = format!(
        "The crawler at {address} cannot be reached: Connection refused. Start it, or change crawler in the configuration."
    );
    for command in [set_job(new_job()), set_state(1, JobRunState::Paused), profile()] {
        assert_eq!(client.refusal(command), text);
    }
    assert_eq!(row(&mut client, "job", &uuid(1).to_string()), job(1, "running"));
    assert_eq!(client.request(set_state(1, JobRunState::Cancelled)), None);
}

#[test]
fn what_needs_no_crawler_is_done_here() {
    let crawler = FakeCrawler::new();
    let Some(server) = crawler.server() else { return };
    let mut client = RawClient::connect(&server.address);
    put(&mut client, "job", &[job(1, "running"), job(2, "completed")]);
    put(&mut client, "frontier", &[frontier(1, 1)]);
    let tags = RequestSetJob { job_id: Some(id(2)), tags: vec!["kept".to_owned()], ..RequestSetJob::default() };
    assert_eq!(client.request(set_job(tags)), None);
    let expected = with(job(2, "completed"), json!({"tags": ["kept"]}));
    assert_eq!(row(&mut client, "job", &uuid(2).to_string()), expected);
    assert_eq!(client.request(set_state(1, JobRunState::Cancelled)), None);
    assert_eq!(row(&mut client, "job", &uuid(1).to_string())["run_state"], "cancelled");
    assert_eq!(rows(&mut client, "frontier"), [] as [Value; 0]);
    // Nobody need ask a crawler what can be seen here.
    for (spoilt, text) in [
        (RequestSetJob { policy_id: None, ..new_job() }, "\"policy_id\" is required"),
        (RequestSetJob { seeds: vec![], ..new_job() }, "\"seeds\" is required"),
        (RequestSetJob { job_id: Some(vec![1].into()), ..new_job() }, "Invalid job_id: must be 16 bytes"),
    ] {
        assert_eq!(client.refusal(set_job(spoilt)), text);
    }
    assert_eq!(client.refusal(set_state(2, JobRunState::Completed)), "Not allowed to set job run state: 2");
    assert!(crawler.is_left_alone());
}
