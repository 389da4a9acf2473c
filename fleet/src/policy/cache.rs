//! What was decided before.
//!
//! Owns memory of a bounded size: decisions, each found only by all that it depends on, and the sets of roles that many share. Both are
//! about one policy: whoever holds them forgets them when it changes.

use std::collections::HashSet;
use std::hash::{BuildHasher, Hasher};

use foldhash::fast::FixedState;

use super::decide::{Decision, Outcome, Sent};
use super::rule::Action;
use super::{Policy, Rights, Rules, Subject};
use crate::{Groups, Principal, things};

/// Decisions that are remembered. A power of two.
const SLOTS: usize = 8192;
/// Topics of more bytes are decided anew: with those that are remembered, memory stays below 3 MiB.
const TOPIC_BYTES_MAX: usize = 160;
/// Sets of roles that are remembered.
const SETS_MAX: usize = 4096;

/// The last decisions about topic names. A decision is found by whoever asked, what, and the whole topic: never by a hash alone.
#[derive(Debug)]
pub struct DecisionCache {
    hasher: FixedState,
    /// Empty until the first decision.
    slots: Vec<Option<Slot>>,
}

#[derive(Debug)]
struct Slot {
    principal: Principal,
    groups: Groups,
    rights: Rights,
    action: Action,
    topic: Box<str>,
    outcome: Outcome,
}

impl Slot {
    #[inline]
    fn is_of(&self, subject: Subject<'_>, action: Action, topic: &str) -> bool {
        *self.topic == *topic
            && self.action == action
            && self.principal == *subject.principal
            && self.rights == *subject.rights
            && self.groups == *subject.groups
    }
}

impl DecisionCache {
    /// Remembers nothing yet. `seed` must be hard to guess, so that nobody can choose topics that take each other's place.
    pub fn new(seed: u64) -> DecisionCache {
        DecisionCache { hasher: FixedState::with_seed(seed), slots: Vec::new() }
    }

    /// Forgets everything: the policy is another one.
    pub fn clear(&mut self) {
        self.slots = Vec::new();
    }

    /// [`Policy::publish`].
    #[inline]
    pub fn publish(&mut self, policy: &Policy, subject: Subject<'_>, topic: &str, qos: u8, retain: bool) -> Decision {
        let rules = match policy.sends(subject, topic) {
            Ok(Some(rules)) => rules,
            Ok(None) => return Decision::OPEN,
            Err(denial) => return Decision::Deny(denial),
        };
        let sent = Sent { action: Action::Publish, topic, qos, retain };
        sent.decide(|action, topic| self.look_up(rules, subject, action, topic))
    }

    /// [`Policy::receive`].
    #[inline]
    pub fn receive(&mut self, policy: &Policy, subject: Subject<'_>, topic: &str) -> Decision {
        let Some(rules) = policy.rules_for(subject) else { return Decision::OPEN };
        if things::is_below_aws(topic) {
            return policy.receive(subject, topic);
        }
        self.look_up(rules, subject, Action::Receive, topic).of_qos(Action::Receive, 0)
    }

    fn look_up(&mut self, rules: &Rules, subject: Subject<'_>, action: Action, topic: &str) -> Outcome {
        if topic.len() > TOPIC_BYTES_MAX {
            return rules.look_up(subject, action, topic);
        }
        let at = self.place(subject, action, topic);
        if let Some(Some(slot)) = self.slots.get(at)
            && slot.is_of(subject, action, topic)
        {
            return slot.outcome;
        }
        let outcome = rules.look_up(subject, action, topic);
        self.remember(at, subject, action, (topic, outcome));
        outcome
    }

    fn remember(&mut self, at: usize, subject: Subject<'_>, action: Action, (topic, outcome): (&str, Outcome)) {
        if self.slots.is_empty() {
            self.slots.resize_with(SLOTS, || None);
        }
        self.slots[at] = Some(Slot {
            principal: subject.principal.clone(),
            groups: subject.groups.clone(),
            rights: subject.rights.clone(),
            action,
            topic: topic.into(),
            outcome,
        });
    }

    #[inline]
    fn place(&self, subject: Subject<'_>, action: Action, topic: &str) -> usize {
        let mut hasher = self.hasher.build_hasher();
        match subject.principal {
            Principal::Vehicle(vin) => hasher.write(vin.as_str().as_bytes()),
            Principal::Service(name) | Principal::Operator(name) => hasher.write(name.as_bytes()),
            Principal::Anonymous | Principal::Shard(_) => {}
        }
        hasher.write(topic.as_bytes());
        hasher.write_u8(action.bit());
        hasher.finish() as usize & (SLOTS - 1)
    }
}

/// Sets of roles, each in memory once however many have it.
#[derive(Debug, Default)]
pub struct Roster {
    known: HashSet<Rights>,
}

impl Roster {
    /// [`Policy::rights`].
    pub fn rights(&mut self, policy: &Policy, principal: &Principal, groups: &Groups) -> Rights {
        let rights = policy.rights(principal, groups);
        if let Some(known) = self.known.get(&rights) {
            return known.clone();
        }
        if self.known.len() < SETS_MAX {
            self.known.insert(rights.clone());
        }
        rights
    }

    /// Forgets everything: the policy is another one.
    pub fn clear(&mut self) {
        self.known = HashSet::new();
    }
}
