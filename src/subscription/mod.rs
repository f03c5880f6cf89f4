//! Who may subscribe to what, and for how long: the control side, apart from how changes flow.

mod directory;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

pub use directory::{Directory, Listing, Progress, Subject};

use crate::change::Seq;
use crate::feed::{
    Advance, AttachError, Attachment, CatchUpBudget, Feeds, MessageKind, Outbox, SourceState, Standing, SubscriptionId,
};
use crate::view::View;

/// Who is at the other end of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principal {
    /// Nobody told us, and nobody had to: the server listens on loopback, or a proxy in front has checked.
    Anonymous,
}

impl Principal {
    /// Its name in tokens: what one may resume, another may not.
    pub fn name(&self) -> &str {
        match self {
            Self::Anonymous => "anonymous",
        }
    }
}

/// Bounds of subscriptions.
#[derive(Clone, Copy, Debug)]
pub struct SubscriptionLimits {
    /// Subscriptions of one connection.
    pub per_connection: usize,
    /// Subscriptions of all connections.
    pub total: usize,
}

/// Why a subscription was refused; the text is for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubscribeError {
    /// The connection has as many as it may.
    #[error("limit_exceeded: this connection has {0} subscriptions, more are not allowed; unsubscribe from some first")]
    PerConnection(usize),
    /// The server has as many as it may.
    #[error("limit_exceeded: the server has {0} subscriptions, more are not allowed; try again later")]
    Total(usize),
    /// The filters of the table would demand too much.
    #[error(transparent)]
    Filter(#[from] AttachError),
}

/// Grants subscriptions.
#[derive(Debug)]
pub struct SubscriptionManager {
    feeds: Arc<Feeds>,
    limits: SubscriptionLimits,
    directory: Arc<Directory>,
    count: AtomicUsize,
}

impl SubscriptionManager {
    /// Grants subscriptions to `feeds` within `limits`.
    pub fn new(feeds: Arc<Feeds>, limits: SubscriptionLimits) -> Arc<Self> {
        let directory = Directory::new();
        Arc::new(Self { feeds, limits, directory, count: AtomicUsize::new(0) })
    }

    /// Subscribes `_principal`, who has `held` subscriptions on this connection, to `view`, as `id`; changes go to `outbox`.
    ///
    /// Everyone may subscribe to everything for now: whoever can connect is on this machine or was let through by a proxy.
    pub fn subscribe(
        self: &Arc<Self>,
        _principal: &Principal,
        held: usize,
        id: SubscriptionId,
        view: &Arc<View>,
        outbox: &Arc<Outbox>,
    ) -> Result<Subscription, SubscribeError> {
        let permit = self.admit(held)?;
        let attachment = self.feeds.attach(view, id)?;
        Ok(Subscription { attachment, outbox: Arc::clone(outbox), _permit: permit })
    }

    /// Lets one more subscription in, on a connection that has `held`.
    pub fn admit(self: &Arc<Self>, held: usize) -> Result<Permit, SubscribeError> {
        if held >= self.limits.per_connection {
            return Err(SubscribeError::PerConnection(self.limits.per_connection));
        }
        if self.count.fetch_add(1, Ordering::Relaxed) >= self.limits.total {
            self.count.fetch_sub(1, Ordering::Relaxed);
            return Err(SubscribeError::Total(self.limits.total));
        }
        Ok(Permit(Arc::clone(self)))
    }

    /// How many subscriptions there are.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Who is connected, and what they subscribe to.
    pub fn directory(&self) -> &Arc<Directory> {
        &self.directory
    }

    /// The feeds.
    pub fn feeds(&self) -> &Feeds {
        &self.feeds
    }
}

/// One of the subscriptions that there may be. Dropping it makes room for another.
#[derive(Debug)]
pub struct Permit(Arc<SubscriptionManager>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A granted subscription. Dropping it unsubscribes.
pub struct Subscription {
    attachment: Attachment,
    outbox: Arc<Outbox>,
    _permit: Permit,
}

impl Subscription {
    /// What it sees.
    pub fn view(&self) -> &Arc<View> {
        self.attachment.view()
    }

    /// How its table stands to its source; see [`Attachment::enter`].
    pub fn enter(&self) -> SourceState {
        self.attachment.enter(&self.outbox)
    }

    /// How its table stands to its source.
    pub fn source(&self) -> SourceState {
        self.attachment.source()
    }

    /// Whoever has everything of its table up to here, or more, finds the rest in memory.
    pub fn reaches_back_to(&self) -> Seq {
        self.attachment.reaches_back_to()
    }

    /// Brings it closer to being live; see [`Attachment::advance`].
    pub fn advance(&self, standing: Standing, plain: Option<MessageKind>, budget: CatchUpBudget) -> Advance {
        self.attachment.advance(standing, &self.outbox, plain, budget)
    }

    /// Asks to be told, behind everything that waits, where it is then; see [`Attachment::mark`].
    pub fn mark(&self) -> bool {
        self.attachment.mark()
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Subscription({:?})", self.view())
    }
}
