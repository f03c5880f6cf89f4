//! Somebody who changes rows all the time, whether the server is there or not.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use starfeed::proto::{self, request::Command};

use super::wish::{DOMAINS, GROUPS, POLICIES, SECRET, domain, group_url};
use crate::support::raw::{RawClient, delete_login};

/// Changes that are under way at a time, and the pause between them: some hundred per second.
const CHANGES_AT_A_TIME: usize = 8;
const PAUSE: Duration = Duration::from_millis(10);

/// What the writer and who started it tell each other.
#[derive(Debug, Default)]
pub(crate) struct Writing {
    /// It is to end.
    pub(crate) is_over: AtomicBool,
    /// Changes that were answered.
    pub(crate) changes: AtomicUsize,
}

impl Writing {
    /// Writes until it is over; comes back to a server that was gone.
    pub(crate) fn run(&self, address: &str, mut random: fastrand::Rng) {
        while !self.is_over() {
            let Ok(client) = RawClient::try_reach(address) else {
                std::thread::sleep(PAUSE);
                continue;
            };
            let mut client = client.expect("whoever is there lets the writer in");
            while !self.is_over() && self.write_some(&mut client, &mut random) {
                std::thread::sleep(PAUSE);
            }
        }
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Whether the server is still there.
    fn write_some(&self, client: &mut RawClient, random: &mut fastrand::Rng) -> bool {
        let is_asked = (0..CHANGES_AT_A_TIME).all(|_| client.try_ask(change(random)));
        let is_answered = is_asked && (0..CHANGES_AT_A_TIME).all(|_| client.try_response().is_some());
        self.changes.fetch_add(if is_answered { CHANGES_AT_A_TIME } else { 0 }, Ordering::Relaxed);
        is_answered
    }
}

/// Every row there is at the start.
pub(crate) fn fill(address: &str, random: &mut fastrand::Rng) {
    let mut client = RawClient::connect(address);
    for row in 0..DOMAINS {
        client.request(set_login(row, random));
    }
    for row in 0..POLICIES {
        client.request(set_policy(row, random));
    }
}

fn change(random: &mut fastrand::Rng) -> Command {
    let row = random.u32(0..DOMAINS);
    match random.u32(0..16) {
        0 | 1 => delete_login(&domain(row)),
        2 => set_policy(row % POLICIES, random),
        _ => set_login(row, random),
    }
}

fn set_login(row: u32, random: &mut fastrand::Rng) -> Command {
    let user = proto::DomainLoginUser {
        username: Some(format!("bob{row}")),
        password: Some(format!("{SECRET}{}", random.u32(..))),
        working: Some(true),
    };
    let login = proto::DomainLogin {
        domain: Some(domain(row)),
        login_url: Some(group_url(random.u32(0..GROUPS))),
        login_test: Some(format!("Log out {}", random.u32(..))),
        users: vec![user],
    };
    Command::SetDomainLogin(proto::RequestSetDomainLogin { login: Some(login) })
}

fn set_policy(row: u32, random: &mut fastrand::Rng) -> Command {
    let time = json!({"$reql_type$": "TIME", "epoch_time": 1_546_344_000, "timezone": "+00:00"});
    let policy = json!({
        "id": format!("00000000-0000-4000-8000-{row:012}"), "name": format!("Policy {}", random.u32(..)),
        "created_at": time, "updated_at": time,
        "authentication": {"enabled": false}, "captcha_solver_id": null,
        "limits": {"max_cost": 10, "max_duration": null, "max_items": null},
        "mime_type_rules": [{"save": true}],
        "proxy_rules": [{"proxy_url": format!("socks5://bob:{SECRET}@proxy{row}.example:1080")}],
        "robots_txt": {"usage": "OBEY"}, "url_normalization": {"enabled": true, "strip_parameters": []},
        "url_rules": [{"action": "ADD", "amount": 1}], "user_agents": [{"name": "Test"}],
    });
    Command::ImportRows(proto::RequestImportRows {
        table: "policy".to_owned(),
        rows: vec![policy.to_string().into_bytes().into()],
        first_line: None,
        commit: Some(true),
    })
}
