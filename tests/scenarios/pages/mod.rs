//! What the existing user interface sends, page by page, and what it needs of the answers.
//!
//! Each page is loaded twice, over two connections: what is there after a reload is what was there before.

mod crawls;
mod settings;
mod system;

use starfeed::proto::{self, event, request::Command, response::Body};

use crate::support::following::job_status;
use crate::support::jobs::page;
use crate::support::process::ServerProcess;
use crate::support::raw::RawClient;

/// One connection of the user interface.
struct Browser {
    client: RawClient,
}

impl Browser {
    /// Connects, with what comes first on every connection.
    fn open(server: &ServerProcess) -> Self {
        let mut client = RawClient::connect(&server.address);
        client.number_from(0);
        let mut browser = Self { client };
        assert_eq!(browser.subscribe(job_status(1.0)), 0);
        browser
    }

    /// Subscribes; no event may come before its number.
    fn subscribe(&mut self, command: Command) -> i32 {
        let subscription_id = self.client.subscribe(command);
        assert!(!self.client.has_events_of(subscription_id), "an event came before the response");
        subscription_id
    }

    fn ask(&mut self, command: Command) -> Body {
        self.client.request(command).expect("it is answered with something")
    }

    /// For what is answered with no more than that it is done.
    fn tell(&mut self, command: Command) {
        assert_eq!(self.client.request(command), None);
    }

    /// Two requests at once.
    fn ask_both(&mut self, first: Command, second: Command) -> [Body; 2] {
        [self.client.ask(first), self.client.ask(second)].map(|request_id| {
            let response = self.client.response(request_id);
            assert!(response.is_success, "{:?}", response.error_message);
            response.body.expect("it is answered with something")
        })
    }

    /// The next event of a subscription; what comes for others is passed over.
    fn event(&mut self, subscription_id: i32) -> Option<event::Body> {
        loop {
            let event = self.client.event();
            if event.subscription_id == subscription_id {
                return event.body;
            }
        }
    }

    /// What the next event says of jobs.
    fn jobs(&mut self) -> Vec<proto::Job> {
        match self.event(0) {
            None => Vec::new(),
            Some(event::Body::JobList(list)) => list.jobs,
            body => panic!("{body:?}"),
        }
    }
}

/// Loads a page over two connections, which have to show the same.
fn loaded<T: PartialEq + std::fmt::Debug>(server: &ServerProcess, load: impl Fn(&mut Browser) -> T) -> (Browser, T) {
    let first = load(&mut Browser::open(server));
    let mut browser = Browser::open(server);
    let again = load(&mut browser);
    assert_eq!(first, again);
    (browser, again)
}

/// A time that the user interface can read; it must be there.
fn assert_time(text: &str) {
    assert!(chrono::DateTime::parse_from_rfc3339(text).is_ok() && !text.ends_with('Z'), "{text:?}");
}

fn list_policies(limit: i32) -> Command {
    Command::ListPolicies(proto::RequestListPolicies { page: page(limit, 0) })
}

/// The policies of a list; each with what the user interface shows of it.
fn policies(body: Body) -> Vec<proto::Policy> {
    let Body::ListPolicies(list) = body else { panic!("{body:?}") };
    assert_eq!(list.total, Some(i32::try_from(list.policies.len()).expect("few")));
    for policy in &list.policies {
        assert_eq!(policy.policy_id().len(), 16);
        assert_time(policy.created_at());
        assert_time(policy.updated_at());
    }
    list.policies
}
