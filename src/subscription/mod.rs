//! Who may subscribe to what, and for how long: the control side, apart from how changes flow.

mod directory;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

pub use directory::{Directory, Listing, Progress, Subject};

use crate::feed::{AttachError, Attachment, Feeds, SubscriptionId};
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

    /// Subscribes `_principal`, who has `held` subscriptions on this connection, to `view`, as `id`.
    ///
    /// Everyone may subscribe to everything for now: whoever can connect is on this machine or was let through by a proxy.
    pub fn subscribe(
        self: &Arc<Self>,
        _principal: &Principal,
        held: usize,
        id: SubscriptionId,
        view: &View,
    ) -> Result<(Attachment, Permit), SubscribeError> {
        let permit = self.admit(held)?;
        let attachment = self.feeds.attach(view, id)?;
        Ok((attachment, permit))
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
        Ok(Permit { manager: Arc::clone(self), count: 1 })
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

/// Leave for one of the subscriptions that there may be, or for several. Dropping it makes room for as many others.
#[derive(Debug)]
pub struct Permit {
    manager: Arc<SubscriptionManager>,
    count: usize,
}

impl Permit {
    /// Takes in `other`: one for all, where each is given back by its owner.
    pub fn join(&mut self, mut other: Self) {
        self.count += std::mem::take(&mut other.count);
    }

    /// Makes room for one other subscription.
    pub fn give_back_one(&mut self) {
        self.count = self.count.checked_sub(1).expect("no more is given back than was given");
        self.manager.count.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.manager.count.fetch_sub(self.count, Ordering::Relaxed);
    }
}
