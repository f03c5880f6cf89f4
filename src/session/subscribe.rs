//! What a client asks for when it subscribes, checked.

use std::sync::Arc;

use super::Session;
use super::collector::{Collector, JobStatus, Resources};
use super::follower::{Follower, Sealing, Wishes};
use crate::catalog::{self, Form, StreamPlan, SubscribePlan};
use crate::feed::{Attachment, Cursor, SubscriptionId};
use crate::matcher::{Filter, FilterLimits};
use crate::planted::PlantedBug;
use crate::proto::{self, SubscribeOptions};
use crate::subscription::{Permit, Progress, Subject};
use crate::summary::Summary;
use crate::token::{Place, Token, TokenError};
use crate::view::{KeyRule, Scope, View};
use crate::wire::{ResetReason, Shape};

/// Seconds between two heartbeats.
const HEARTBEAT_SECONDS: std::ops::RangeInclusive<i32> = 1..=3600;

/// Where a subscription begins.
struct Start {
    place: Cursor,
    summary: Summary,
    /// Why that is not where its client wished.
    reset: Option<ResetReason>,
}

impl Start {
    fn fresh(reset: Option<ResetReason>) -> Self {
        Self { place: Cursor::Snapshot { sent: None }, summary: Summary::default(), reset }
    }
}

impl Session {
    /// Makes the subscription that `plan` asks for, with its filter; the error is the text for the client.
    pub(super) fn subscribe(
        &mut self,
        plan: &SubscribePlan,
        filter: Option<Arc<Filter>>,
    ) -> Result<proto::response::Body, String> {
        let context = Arc::clone(&self.context);
        let options = plan.options.as_ref();
        let wishes = wishes(plan.form, options)?;
        let view = view(plan, filter);
        let token = options.and_then(|options| options.resume_token.as_ref());
        let scope = (wishes.tokens || token.is_some()).then(|| view.scope(self.principal.name()));
        let start = match token.zip(scope) {
            Some((token, scope)) => resumed(token, scope, &context.sealing)?,
            None => Start::fresh(None),
        };
        let (attachment, permit) = self.attach(&view)?;
        if token.is_some() && start.reset.is_none() {
            context.metrics.resumed.inc();
        }
        let scope = scope.filter(|_| wishes.tokens);
        let follower = Follower::new(attachment, wishes, scope, start.place, start.summary, self.now_ms);
        let subscription_id = self.new_id();
        self.followers.add(follower, permit, start.reset);
        Ok(new_subscription(subscription_id))
    }

    /// Makes a subscription that is not one to the rows of a table; the error is the text for the client.
    pub(super) fn subscribe_to(&mut self, plan: &StreamPlan) -> Result<proto::response::Body, String> {
        match plan {
            StreamPlan::JobStatus { interval_ms, since } => {
                let collector = JobStatus::new(*interval_ms, *since, Arc::clone(&self.context.metrics));
                self.collect("", Box::new(collector))
            }
            StreamPlan::Resources { history } => {
                let collector = Resources::new(Arc::clone(&self.context.host), *history);
                self.collect(RUNNING, Box::new(collector))
            }
            StreamPlan::JobSync(plan) => {
                let permit = self.admit()?;
                let subscription_id = self.new_id();
                self.listing.add(subscription_id, Subject::Job(Box::new(plan.job_id)), Progress::Live);
                self.streams.add_sync(subscription_id, *plan, permit);
                Ok(new_subscription(subscription_id))
            }
            StreamPlan::Tasks { period_ms } => {
                let permit = self.admit()?;
                let subscription_id = self.new_id();
                self.listing.add(subscription_id, Subject::Tasks, Progress::Live);
                self.streams.add_tasks(subscription_id, *period_ms, permit);
                Ok(new_subscription(subscription_id))
            }
        }
    }

    /// Follows the jobs that pass `filter`, and has the events made by `collector`.
    fn collect(&mut self, filter: &str, collector: Box<dyn Collector>) -> Result<proto::response::Body, String> {
        let filter = (!filter.is_empty()).then(|| {
            let filter = Filter::parse(filter, &FilterLimits::default());
            Arc::new(filter.expect("a filter of our own is one"))
        });
        let entry = catalog::table("job").expect("the catalog has jobs");
        let plan = SubscribePlan { table: entry.table(), form: Form::List(entry), options: None };
        let (attachment, permit) = self.attach(&view(&plan, filter))?;
        let Start { place, summary, reset } = Start::fresh(None);
        let follower = Follower::new(attachment, wishes(plan.form, None)?, None, place, summary, self.now_ms);
        let subscription_id = self.new_id();
        self.followers.add(follower.with_collector(collector), permit, reset);
        Ok(new_subscription(subscription_id))
    }

    fn attach(&self, view: &View) -> Result<(Attachment, Permit), String> {
        let subscriptions = &self.context.subscriptions;
        let granted = subscriptions.subscribe(&self.principal, self.subscriptions(), self.next_id(), view);
        granted.map_err(|error| error.to_string())
    }

    fn admit(&self) -> Result<Permit, String> {
        self.context.subscriptions.admit(self.subscriptions()).map_err(|error| error.to_string())
    }

    fn subscriptions(&self) -> usize {
        self.followers.len() + self.streams.len()
    }

    /// Which one in this process the next subscription is.
    fn next_id(&self) -> SubscriptionId {
        // No connection is there for so long that its number comes again.
        SubscriptionId::new(self.listing.number() as u32, self.next_subscription_id)
    }

    fn new_id(&mut self) -> i32 {
        let subscription_id = self.next_subscription_id;
        self.next_subscription_id += 1;
        subscription_id
    }
}

/// Jobs that run, as a filter.
const RUNNING: &str = r#"run_state == "running""#;

fn new_subscription(subscription_id: i32) -> proto::response::Body {
    proto::response::Body::NewSubscription(proto::ResponseNewSubscription { subscription_id })
}

fn wishes(form: Form, options: Option<&SubscribeOptions>) -> Result<Wishes, String> {
    let defaults = SubscribeOptions::default();
    let options = options.unwrap_or(&defaults);
    let heartbeat_ms = match options.heartbeat_seconds {
        None => None,
        Some(_) if !options.states() => return Err("heartbeat_seconds needs states".to_owned()),
        Some(seconds) if !HEARTBEAT_SECONDS.contains(&seconds) => {
            return Err("heartbeat_seconds must be 1 to 3600".to_owned());
        }
        Some(seconds) => Some(u64::from(seconds.unsigned_abs()) * 1000),
    };
    let shape = Shape { form, include_document: options.include_document(), include_old: options.include_old() };
    let knows_resets = options.states() || options.tokens() || options.resume_token.is_some();
    let (states, tokens, coalesce) = (options.states(), options.tokens(), options.coalesce());
    Ok(Wishes { shape, knows_resets, states, tokens, coalesce, heartbeat_ms })
}

fn view(plan: &SubscribePlan, filter: Option<Arc<Filter>>) -> View {
    let keys = match plan.form {
        Form::List(table) => table.keys,
        Form::Json(_) => KeyRule::Any,
    };
    let secrets = catalog::stored_table(plan.table.name()).map_or(&[][..], |table| table.secrets);
    View { table: plan.table.clone(), secrets, keys, filter }
}

/// Where the client goes on that has this token.
fn resumed(token: &[u8], scope: Scope, sealing: &Sealing) -> Result<Start, String> {
    let token = match sealing.seal.open(token) {
        Ok(token) => token,
        Err(TokenError::OtherServer) => return Ok(Start::fresh(Some(ResetReason::Server))),
        Err(error @ TokenError::Forged) => return Err(error.to_string()),
    };
    if let Some(reason) = doubt(&token, scope, sealing) {
        return Ok(Start::fresh(Some(reason)));
    }
    let place = match token.place {
        Place::At(seq) if PlantedBug::ResumeSkipsOneChange.is_planted() => Cursor::After(seq.next()),
        Place::At(seq) => Cursor::After(seq),
        Place::UpTo(key, at) => Cursor::Snapshot { sent: Some((key, at)) },
    };
    Ok(Start { place, summary: token.summary, reset: None })
}

/// Why nobody can tell what has happened since `token`.
fn doubt(token: &Token, scope: Scope, sealing: &Sealing) -> Option<ResetReason> {
    let (Place::At(seq) | Place::UpTo(_, seq)) = token.place;
    let now = sealing.store.position();
    if token.epoch != now.epoch && !PlantedBug::EpochIsNotChecked.is_planted() {
        Some(ResetReason::Epoch)
    } else if token.scope != scope && !PlantedBug::TokenFitsAnyView.is_planted() {
        Some(ResetReason::View)
    } else if seq > now.seq && token.epoch == now.epoch {
        Some(ResetReason::Future)
    } else {
        None
    }
}
