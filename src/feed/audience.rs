//! The live subscribers of a view.

use std::collections::BTreeMap;

use super::SubscriptionId;
use super::views::Live;

/// To go through a list is quicker than through a map, and most views have one subscriber; but in a long list, each who comes or
/// goes would move all the others.
const LISTED_MAX: usize = 1024;

/// The live subscribers of a view, in the order of their subscriptions.
#[derive(Debug)]
pub(super) enum Audience {
    Listed(Vec<Live>),
    Mapped(BTreeMap<SubscriptionId, Live>),
}

impl Default for Audience {
    fn default() -> Self {
        Self::Listed(Vec::new())
    }
}

impl Audience {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Listed(list) => list.len(),
            Self::Mapped(map) => map.len(),
        }
    }

    /// Lets somebody in, in place of whoever had the same subscription.
    pub(super) fn insert(&mut self, live: Live) {
        let list = match self {
            Self::Listed(list) => list,
            Self::Mapped(map) => {
                map.insert(live.subscription, live);
                return;
            }
        };
        match place(list, live.subscription) {
            Ok(at) => list[at] = live,
            Err(_) if list.len() == LISTED_MAX => {
                let all = std::mem::take(list).into_iter().chain([live]);
                *self = Self::Mapped(all.map(|live| (live.subscription, live)).collect());
            }
            Err(at) => {
                // Left alone, a vector begins with room for four.
                if list.is_empty() {
                    list.reserve_exact(1);
                }
                list.insert(at, live);
            }
        }
    }

    pub(super) fn remove(&mut self, subscription: SubscriptionId) {
        match self {
            Self::Listed(list) => {
                if let Ok(at) = place(list, subscription) {
                    list.remove(at);
                }
            }
            Self::Mapped(map) => {
                map.remove(&subscription);
            }
        }
    }

    pub(super) fn get(&self, subscription: SubscriptionId) -> Option<&Live> {
        match self {
            Self::Listed(list) => place(list, subscription).ok().map(|at| &list[at]),
            Self::Mapped(map) => map.get(&subscription),
        }
    }

    pub(super) fn first(&self) -> Option<&Live> {
        match self {
            Self::Listed(list) => list.first(),
            Self::Mapped(map) => map.values().next(),
        }
    }

    pub(super) fn for_each(&self, work: impl FnMut(&Live)) {
        match self {
            Self::Listed(list) => list.iter().for_each(work),
            Self::Mapped(map) => map.values().for_each(work),
        }
    }

    /// Lets those go for whom `stays` says `false`.
    pub(super) fn retain(&mut self, mut stays: impl FnMut(&mut Live) -> bool) {
        match self {
            Self::Listed(list) => list.retain_mut(stays),
            Self::Mapped(map) => map.retain(|_, live| stays(live)),
        }
    }
}

fn place(list: &[Live], subscription: SubscriptionId) -> Result<usize, usize> {
    list.binary_search_by_key(&subscription, |live| live.subscription)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::change::Seq;
    use crate::feed::{Outbox, Outlet, Waiting};
    use crate::summary::Summary;

    struct Nobody;

    impl Outlet for Nobody {
        fn wake(&self) {}
    }

    fn numbers(audience: &Audience) -> Vec<i32> {
        let mut numbers = Vec::new();
        audience.for_each(|live| numbers.push(live.subscription.number()));
        numbers
    }

    #[test]
    fn a_list_and_a_map_hold_the_same() {
        let outbox = Outbox::new(1, Waiting::new(1), Arc::new(Nobody));
        let id = |number| SubscriptionId::new(7, number);
        let live = |number, after| Live {
            subscription: id(number),
            outbox: Arc::clone(&outbox),
            after: Seq(after),
            summary: Summary::default(),
            plain: None,
        };
        for count in [3, LISTED_MAX as i32, LISTED_MAX as i32 + 1, 3000] {
            let mut audience = Audience::default();
            for number in (0..count).rev() {
                audience.insert(live(number, 1));
            }
            audience.insert(live(1, 2));
            assert_eq!(numbers(&audience), (0..count).collect::<Vec<_>>());
            assert_eq!(matches!(audience, Audience::Mapped(_)), count as usize > LISTED_MAX);
            assert_eq!(audience.get(id(1)).map(|live| live.after), Some(Seq(2)));
            assert!(audience.get(id(count)).is_none() && audience.get(SubscriptionId::new(8, 1)).is_none());
            audience.remove(id(0));
            audience.remove(id(count));
            audience.retain(|live| live.subscription.number() % 2 == 0);
            assert_eq!(numbers(&audience), (2..count).step_by(2).collect::<Vec<_>>());
            assert_eq!(audience.len(), numbers(&audience).len());
        }
    }
}
