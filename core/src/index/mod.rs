//! Who wants a topic: the subscription index.
//!
//! Owns exact filters by hash and wildcard filters in a tree of levels. It never knows what a session is beyond its
//! key, and never delivers.

mod subscribers;
mod tree;

use std::collections::HashMap;

use causeway_protocol::{QoS, RetainHandling, SubscriptionOptions};
use foldhash::fast::FixedState;

use crate::session::SessionKey;
use crate::shared::GroupKey;
use subscribers::Subscribers;
pub(crate) use tree::LevelTree;

/// One subscription of one session, without its filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Subscription {
    pub(crate) qos: QoS,
    pub(crate) no_local: bool,
    pub(crate) retain_as_published: bool,
    /// Of another shard: nobody there who wants it outlives their connection.
    pub(crate) fleeting: bool,
    /// Likewise: nobody there who shares it has a connection.
    pub(crate) away: bool,
    /// Likewise: the queue of somebody there who wants it is full.
    pub(crate) full: bool,
    /// Of a vehicle: its filter begins with a wildcard behind the mount, which does not stand for names of the broker.
    pub(crate) wide: bool,
    /// Likewise: it asked for no retained messages, now or once it joins a group.
    pub(crate) unretained: bool,
    /// Subscription Identifier; 0 stands for none, which the wire forbids.
    pub(crate) identifier: u32,
}

impl Subscription {
    /// One with nothing but its QoS.
    pub(crate) const fn at(qos: QoS) -> Self {
        Subscription {
            qos,
            no_local: false,
            retain_as_published: false,
            fleeting: false,
            away: false,
            full: false,
            wide: false,
            unretained: false,
            identifier: 0,
        }
    }

    pub(crate) fn new(options: SubscriptionOptions, qos_max: QoS, identifier: Option<u32>) -> Self {
        // Retain handling is used up when the subscription is made.
        let SubscriptionOptions { qos, no_local, retain_as_published, retain_handling: _ } = options;
        let identifier = identifier.unwrap_or(0);
        Subscription { no_local, retain_as_published, identifier, ..Subscription::at(qos.min(qos_max)) }
    }
}

/// No identifier on the wire is as large.
const UNRETAINED: u32 = 1 << 31;

impl Subscription {
    /// As a byte of which bit 4 is free, and the identifier with what else there is above it. What follows from the filter is not in them.
    pub(crate) fn coded(self) -> (u8, u32) {
        let bits = self.qos as u8
            | (u8::from(self.no_local) << 2)
            | (u8::from(self.retain_as_published) << 3)
            | (u8::from(self.fleeting) << 5)
            | (u8::from(self.away) << 6)
            | (u8::from(self.full) << 7);
        (bits, self.identifier | if self.unretained { UNRETAINED } else { 0 })
    }

    pub(crate) fn from_coded(bits: u8, identifier: u32) -> Option<Self> {
        let qos = QoS::from_bits(bits & 3)?;
        Some(Subscription {
            qos,
            no_local: bits & 4 != 0,
            retain_as_published: bits & 8 != 0,
            fleeting: bits & 32 != 0,
            away: bits & 64 != 0,
            full: bits & 128 != 0,
            wide: false,
            unretained: identifier & UNRETAINED != 0,
            identifier: identifier & !UNRETAINED,
        })
    }
}

/// Whether a subscription made now is sent the retained messages.
pub(crate) fn sends_retained(handling: RetainHandling, existed: bool) -> bool {
    match handling {
        RetainHandling::Always => true,
        RetainHandling::IfNew => !existed,
        RetainHandling::Never => false,
    }
}

/// What a topic matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    Session(SessionKey, Subscription),
    Group(GroupKey),
}

/// The index. Shared subscriptions appear as their group.
#[derive(Debug)]
pub(crate) struct SubscriptionIndex {
    exact: HashMap<Box<str>, Subscribers, FixedState>,
    wildcard: LevelTree<Subscribers>,
    entries: usize,
}

impl SubscriptionIndex {
    pub(crate) fn new(hash_seed: u64) -> Self {
        SubscriptionIndex {
            exact: HashMap::with_hasher(FixedState::with_seed(hash_seed)),
            wildcard: LevelTree::new(hash_seed),
            entries: 0,
        }
    }

    /// Subscriptions in the index; a group counts once.
    pub(crate) fn len(&self) -> usize {
        self.entries
    }

    /// Adds a subscription or replaces the session's earlier one to the same filter; whether it existed.
    pub(crate) fn insert(&mut self, filter: &str, session: SessionKey, subscription: Subscription) -> bool {
        let existed = self.at(filter).insert(session, subscription);
        self.entries += usize::from(!existed);
        existed
    }

    pub(crate) fn remove(&mut self, filter: &str, session: SessionKey) {
        self.change(filter, |subscribers| subscribers.remove(session));
    }

    pub(crate) fn insert_group(&mut self, filter: &str, group: GroupKey) {
        self.at(filter).insert_group(group);
        self.entries += 1;
    }

    pub(crate) fn remove_group(&mut self, filter: &str, group: GroupKey) {
        self.change(filter, |subscribers| subscribers.remove_group(group));
    }

    /// Visits everything whose filter matches the topic, each subscription once.
    pub(crate) fn matches(&self, topic: &str, mut visit: impl FnMut(Target)) {
        if let Some(subscribers) = self.exact.get(topic) {
            subscribers.visit(&mut visit);
        }
        if !self.wildcard.is_empty() {
            self.wildcard.filters_matching(topic, &mut |subscribers: &Subscribers| subscribers.visit(&mut visit));
        }
    }

    fn at(&mut self, filter: &str) -> &mut Subscribers {
        if is_wildcard(filter) {
            return self.wildcard.entry(filter);
        }
        self.exact.entry(filter.into()).or_default()
    }

    fn change(&mut self, filter: &str, remove: impl FnOnce(&mut Subscribers) -> bool) {
        let subscribers = if is_wildcard(filter) { self.wildcard.get_mut(filter) } else { self.exact.get_mut(filter) };
        let Some(subscribers) = subscribers else {
            return;
        };
        self.entries -= usize::from(remove(subscribers));
        if subscribers.is_empty() {
            if is_wildcard(filter) {
                self.wildcard.remove(filter);
            } else {
                self.exact.remove(filter);
            }
        }
    }
}

fn is_wildcard(filter: &str) -> bool {
    filter.bytes().any(|byte| matches!(byte, b'+' | b'#'))
}

#[cfg(test)]
mod tests {
    use causeway_protocol::filter_matches;
    use proptest::prelude::*;

    use super::*;

    fn subscription() -> Subscription {
        Subscription::at(QoS::AtLeastOnce)
    }

    fn level() -> impl Strategy<Value = String> {
        prop_oneof![Just("a"), Just("b"), Just("$x"), Just("")].prop_map(str::to_owned)
    }

    fn filter() -> impl Strategy<Value = String> {
        let levels = prop::collection::vec(prop_oneof![3 => level(), 2 => Just("+".to_owned())], 1..5);
        (levels, any::<bool>()).prop_map(|(mut levels, multi)| {
            if multi {
                levels.push("#".to_owned());
            }
            levels.join("/")
        })
    }

    proptest! {
        #[test]
        fn index_agrees_with_matching_one_by_one(
            filters in prop::collection::vec(filter(), 0..40),
            removed in prop::collection::vec(any::<bool>(), 40),
            topics in prop::collection::vec(prop::collection::vec(level(), 1..5), 1..10),
        ) {
            let mut index = SubscriptionIndex::new(7);
            for (session, filter) in filters.iter().enumerate() {
                index.insert(filter, session as SessionKey, subscription());
            }
            for (session, filter) in filters.iter().enumerate().filter(|(at, _)| removed[*at]) {
                index.remove(filter, session as SessionKey);
            }
            for topic in topics.iter().map(|levels| levels.join("/")).filter(|topic| !topic.is_empty()) {
                let mut found = Vec::new();
                index.matches(&topic, |target| {
                    if let Target::Session(session, _) = target {
                        found.push(session as usize);
                    }
                });
                found.sort_unstable();
                let expected: Vec<usize> = (0..filters.len())
                    .filter(|&at| !removed[at] && filter_matches(&filters[at], &topic))
                    .collect();
                prop_assert_eq!(found, expected, "topic {:?}", topic);
            }
            for (session, filter) in filters.iter().enumerate() {
                index.remove(filter, session as SessionKey);
            }
            prop_assert_eq!(index.len(), 0);
            prop_assert!(index.wildcard.is_empty() && index.exact.is_empty());
        }
    }

    #[test]
    fn a_broadcast_filter_loses_any_of_its_many_subscribers() {
        let mut index = SubscriptionIndex::new(7);
        for session in 0..1000 {
            assert!(!index.insert("fleet/all", session, subscription()));
        }
        assert!(index.insert("fleet/all", 500, subscription()));
        for session in (0..1000).step_by(2) {
            index.remove("fleet/all", session);
        }
        let mut left = Vec::new();
        index.matches("fleet/all", |target| left.extend(matches!(target, Target::Session(..)).then_some(target)));
        assert_eq!((left.len(), index.len()), (500, 500));
    }
}
