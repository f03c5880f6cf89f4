//! What a client of the storm subscribes to, and which rows it should hold.

use bytes::Bytes;
use serde_json::Value;
use starfeed::proto::{self, request::Command};

/// Rows of `domain_login` that come, change and go.
pub(crate) const DOMAINS: u32 = 300;
/// Rows of `policy` that change.
pub(crate) const POLICIES: u32 = 16;
/// Each write moves a login into one of so many groups, so that rows enter and leave filters all the time.
pub(crate) const GROUPS: u32 = 16;
/// In every row, where no subscriber may see it.
pub(crate) const SECRET: &str = "hunter2";

/// What one client subscribes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// The list of logins, by name only.
    Logins,
    /// The table of logins, with documents old and new.
    Documents,
    /// The table of logins, only the newest state of each while it is behind.
    Coalesced,
    /// One login.
    One(u32),
    /// The logins of a group, as messages.
    Group(u32),
    /// The logins whose domain begins with a digit.
    Prefix(u32),
    /// The logins of a group, by a filter that no index finds.
    Scanned(u32),
    /// The list of policies, by name only.
    Policies,
    /// The table of policies, with documents.
    PolicyDocuments,
}

pub(crate) fn domain(row: u32) -> String {
    format!("row{row}.example")
}

pub(crate) fn group_url(group: u32) -> String {
    format!("https://group{group}.example/")
}

impl Wish {
    /// A mix: of twenty clients five are without a filter.
    pub(crate) fn of_client(client: u32) -> Self {
        match client % 20 {
            0 => Self::Logins,
            1 => Self::Documents,
            2 => Self::Coalesced,
            3 => Self::Policies,
            4 => Self::PolicyDocuments,
            5..9 => Self::Group(client % GROUPS),
            9 => Self::Prefix(client / 20 % 10),
            10 => Self::Scanned(client / 20 % GROUPS),
            _ => Self::One(client % DOMAINS),
        }
    }

    fn filter(self) -> Option<String> {
        match self {
            Self::One(row) => Some(format!("domain == '{}'", domain(row))),
            Self::Group(group) => Some(format!("login_url == '{}'", group_url(group))),
            Self::Prefix(digit) => Some(format!("domain.startsWith('row{digit}')")),
            Self::Scanned(group) => Some(format!("login_url.contains('group{group}.')")),
            Self::Logins | Self::Documents | Self::Coalesced | Self::Policies | Self::PolicyDocuments => None,
        }
    }

    /// The request that begins it, or goes on behind `resume_token`.
    pub(crate) fn subscribe(self, resume_token: Option<Bytes>) -> Command {
        let options = proto::SubscribeOptions {
            include_document: Some(matches!(self, Self::Documents | Self::Group(_) | Self::PolicyDocuments)),
            include_old: Some(self == Self::Documents),
            states: Some(true),
            filter: self.filter(),
            resume_token,
            heartbeat_seconds: Some(1),
            tokens: Some(true),
            coalesce: Some(self == Self::Coalesced),
        };
        let options = Some(options);
        match self {
            Self::Policies => Command::SubscribePolicyList(proto::RequestSubscribePolicyList { options }),
            Self::Documents | Self::Coalesced | Self::PolicyDocuments => {
                let table = self.table().to_owned();
                Command::SubscribeTable(proto::RequestSubscribeTable { table, options })
            }
            Self::Logins | Self::One(_) | Self::Group(_) | Self::Prefix(_) | Self::Scanned(_) => {
                Command::SubscribeDomainLoginList(proto::RequestSubscribeDomainLoginList { options })
            }
        }
    }

    pub(crate) fn table(self) -> &'static str {
        if matches!(self, Self::Policies | Self::PolicyDocuments) { "policy" } else { "domain_login" }
    }

    /// Whether it is to hold this row, as it is stored.
    pub(crate) fn wants(self, row: &Value) -> bool {
        let text = |member: &str| row[member].as_str().expect("text");
        match self {
            Self::Logins | Self::Documents | Self::Coalesced | Self::Policies | Self::PolicyDocuments => true,
            Self::One(number) => text("domain") == domain(number),
            Self::Group(group) => text("login_url") == group_url(group),
            Self::Prefix(digit) => text("domain").starts_with(&format!("row{digit}")),
            Self::Scanned(group) => text("login_url").contains(&format!("group{group}.")),
        }
    }

    /// Whether `content`, kept from an event, is what it is to see of this row, as it is stored.
    pub(crate) fn shows(self, content: &str, row: &Value) -> bool {
        match self {
            Self::Documents | Self::PolicyDocuments => {
                serde_json::from_str::<Value>(content).is_ok_and(|shown| shown == without_secrets(row.clone()))
            }
            Self::Group(_) => content == row["login_test"].as_str().expect("text"),
            Self::Policies => content == row["name"].as_str().expect("text"),
            Self::Logins | Self::Coalesced | Self::One(_) | Self::Prefix(_) | Self::Scanned(_) => content.is_empty(),
        }
    }
}

fn without_secrets(mut row: Value) -> Value {
    for user in row.pointer_mut("/users").and_then(Value::as_array_mut).into_iter().flatten() {
        user.as_object_mut().expect("a user").remove("password");
    }
    for rule in row.pointer_mut("/proxy_rules").and_then(Value::as_array_mut).into_iter().flatten() {
        let url = rule["proxy_url"].as_str().expect("text").replace(&format!("bob:{SECRET}@"), "");
        rule["proxy_url"] = url.into();
    }
    row
}
