//! What a client subscribes to.

use crate::proto::{self, request::Command};

/// Where the rows of a subscription come from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// `subscribe_policy_list`: rows have names.
    Policies,
    /// `subscribe_schedule_list`: rows have names.
    Schedules,
    /// `subscribe_domain_login_list`.
    DomainLogins,
    /// `subscribe_captcha_solver_list`: rows have names.
    CaptchaSolvers,
    /// `subscribe_rate_limit_list`: rows have names.
    RateLimits,
    /// `subscribe_job_list`: rows have names.
    Jobs,
    /// `subscribe_table`, with the name of the table: rows may have documents.
    Table(String),
}

/// A source, and what is wanted of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    source: Source,
    filter: Option<String>,
    with_documents: bool,
    with_old: bool,
    is_coalesced: bool,
    heartbeat_seconds: u32,
}

impl Query {
    const HEARTBEAT_SECONDS: u32 = 10;

    /// Every row of `source`, every change, and a heartbeat every ten seconds.
    pub fn new(source: Source) -> Self {
        Self {
            source,
            filter: None,
            with_documents: false,
            with_old: false,
            is_coalesced: false,
            heartbeat_seconds: Self::HEARTBEAT_SECONDS,
        }
    }

    /// Every row of the table `name`.
    pub fn table(name: &str) -> Self {
        Self::new(Source::Table(name.to_owned()))
    }

    /// Only rows for which `filter` holds.
    #[must_use]
    pub fn filter(mut self, filter: &str) -> Self {
        self.filter = Some(filter.to_owned());
        self
    }

    /// Rows come, and are held, with their documents. Only for [`Source::Table`]: lists have names instead.
    #[must_use]
    pub fn with_documents(mut self) -> Self {
        self.with_documents = matches!(self.source, Source::Table(_));
        self
    }

    /// Changes show the document of the row before, though none is held. Only for [`Source::Table`].
    #[must_use]
    pub fn with_old(mut self) -> Self {
        self.with_old = matches!(self.source, Source::Table(_));
        self
    }

    /// When this client is behind, only the newest state of each row comes.
    #[must_use]
    pub fn coalesced(mut self) -> Self {
        self.is_coalesced = true;
        self
    }

    /// How often the server says what should be held: 1 to 3600 seconds.
    #[must_use]
    pub fn heartbeat_seconds(mut self, seconds: u32) -> Self {
        self.heartbeat_seconds = seconds.clamp(1, 3600);
        self
    }

    /// Where the rows come from.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// How often a heartbeat is due.
    pub fn heartbeat(&self) -> std::time::Duration {
        std::time::Duration::from_secs(self.heartbeat_seconds.into())
    }

    /// What is asked of the server, without a token.
    pub(super) fn options(&self) -> proto::SubscribeOptions {
        let flag = |is_set: bool| is_set.then_some(true);
        proto::SubscribeOptions {
            include_document: flag(self.with_documents),
            include_old: flag(self.with_old),
            states: Some(true),
            filter: self.filter.clone(),
            resume_token: None,
            heartbeat_seconds: i32::try_from(self.heartbeat_seconds).ok(),
            tokens: Some(true),
            coalesce: flag(self.is_coalesced),
        }
    }

    /// The request that subscribes with `options`.
    pub fn command(&self, options: proto::SubscribeOptions) -> Command {
        let options = Some(options);
        match &self.source {
            Source::Policies => Command::SubscribePolicyList(proto::RequestSubscribePolicyList { options }),
            Source::Schedules => Command::SubscribeScheduleList(proto::RequestSubscribeScheduleList { options }),
            Source::DomainLogins => {
                Command::SubscribeDomainLoginList(proto::RequestSubscribeDomainLoginList { options })
            }
            Source::CaptchaSolvers => {
                Command::SubscribeCaptchaSolverList(proto::RequestSubscribeCaptchaSolverList { options })
            }
            Source::RateLimits => Command::SubscribeRateLimitList(proto::RequestSubscribeRateLimitList { options }),
            Source::Jobs => Command::SubscribeJobList(proto::RequestSubscribeJobList { options }),
            Source::Table(table) => {
                Command::SubscribeTable(proto::RequestSubscribeTable { table: table.clone(), options })
            }
        }
    }
}
