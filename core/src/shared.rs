//! Shared subscriptions: groups of sessions among which each message goes to one.
//!
//! Owns the members and the messages that wait because no member can take them. Which member is next is decided here;
//! it never sends. Messages are handed to a member only when it can be sent them at once, so nothing is ever stranded
//! behind an offline member.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use causeway_protocol::QoS;
use slab::Slab;

use crate::index::Subscription;
use crate::message::Message;
use crate::session::{SessionKey, queue_room, sooner};
use crate::{Bound, Limits, Lsn, Millis};

/// Names a group for as long as it lives; never reused, so that a message never finds its way to another group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct GroupKey {
    index: u32,
    generation: u32,
}

/// All groups.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    slots: Slab<(u32, Group)>,
    generation: u32,
}

impl Groups {
    pub(crate) fn insert(&mut self, group: Group) -> GroupKey {
        self.generation = self.generation.wrapping_add(1);
        let index = self.slots.insert((self.generation, group)) as u32;
        GroupKey { index, generation: self.generation }
    }

    pub(crate) fn get(&self, key: GroupKey) -> Option<&Group> {
        let (generation, group) = self.slots.get(key.index as usize)?;
        (*generation == key.generation).then_some(group)
    }

    pub(crate) fn get_mut(&mut self, key: GroupKey) -> Option<&mut Group> {
        let (generation, group) = self.slots.get_mut(key.index as usize)?;
        (*generation == key.generation).then_some(group)
    }

    pub(crate) fn remove(&mut self, key: GroupKey) -> Option<Group> {
        self.get(key)?;
        self.slots.try_remove(key.index as usize).map(|(_, group)| group)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Group> {
        self.slots.iter().map(|(_, (_, group))| group)
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}

/// A message that waits for a member.
#[derive(Debug)]
pub(crate) struct GroupQueued {
    pub(crate) message: Arc<Message>,
    /// The position of its record, which numbers it; zero where it has none.
    pub(crate) sequence: u64,
    pub(crate) durable_at: Lsn,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) share_name: Box<str>,
    pub(crate) filter: Box<str>,
    members: Vec<(SessionKey, Subscription)>,
    /// Where the search for the next member starts.
    cursor: usize,
    queue: VecDeque<GroupQueued>,
    queue_bytes: usize,
    /// When the first waiting message expires, if any does.
    first_expiry: Option<Millis>,
    /// Numbers of recorded messages that are with a member and not finished.
    open: BTreeSet<u64>,
    /// Whether its progress changed since it was last recorded.
    pub(crate) progress_noted: bool,
}

impl Group {
    pub(crate) fn new(share_name: &str, filter: &str) -> Self {
        Group {
            share_name: share_name.into(),
            filter: filter.into(),
            members: Vec::new(),
            cursor: 0,
            queue: VecDeque::new(),
            queue_bytes: 0,
            first_expiry: None,
            open: BTreeSet::new(),
            progress_noted: false,
        }
    }

    /// Adds or replaces; whether it was a member.
    pub(crate) fn join(&mut self, session: SessionKey, subscription: Subscription) -> bool {
        match self.members.iter_mut().find(|(member, _)| *member == session) {
            Some(member) => {
                member.1 = subscription;
                true
            }
            None => {
                self.members.push((session, subscription));
                false
            }
        }
    }

    pub(crate) fn leave(&mut self, session: SessionKey) {
        let Some(at) = self.members.iter().position(|(member, _)| *member == session) else {
            return;
        };
        self.members.remove(at);
        // Whoever was next stays next.
        self.cursor -= usize::from(at < self.cursor);
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = (SessionKey, Subscription)> {
        self.members.iter().copied()
    }

    pub(crate) fn has_members(&self) -> bool {
        !self.members.is_empty()
    }

    /// The highest QoS any member asked for.
    pub(crate) fn qos_max(&self) -> QoS {
        self.members.iter().map(|(_, subscription)| subscription.qos).max().unwrap_or_default()
    }

    /// The next member that is ready, in turn.
    pub(crate) fn next(
        &mut self,
        ready: impl Fn(SessionKey, Subscription) -> bool,
    ) -> Option<(SessionKey, Subscription)> {
        let count = self.members.len();
        let at = (0..count)
            .map(|step| (self.cursor + step) % count)
            .find(|&at| ready(self.members[at].0, self.members[at].1))?;
        self.cursor = (at + 1) % count;
        Some(self.members[at])
    }

    /// Whether a message of so many bytes may wait here, or which bound forbids it.
    pub(crate) fn room(&self, limits: &Limits, bytes: usize) -> Result<(), Bound> {
        queue_room(limits, self.queued(), bytes)
    }

    pub(crate) fn enqueue(&mut self, message: Arc<Message>, durable_at: Lsn) {
        self.queue_bytes += message.bytes();
        self.first_expiry = sooner(self.first_expiry, message.expires_at);
        self.queue.push_back(GroupQueued { message, sequence: durable_at.0, durable_at });
    }

    /// Takes back what a member could not finish, ahead of all that waits; `messages` come oldest first.
    pub(crate) fn take_back(&mut self, messages: Vec<(Arc<Message>, u64)>) {
        for (message, sequence) in messages.into_iter().rev() {
            self.queue_bytes += message.bytes();
            self.open.remove(&sequence);
            self.first_expiry = sooner(self.first_expiry, message.expires_at);
            self.queue.push_front(GroupQueued { message, sequence, durable_at: Lsn(0) });
        }
    }

    /// Takes the expired messages out; how many there were.
    pub(crate) fn drop_expired(&mut self, now: Millis) -> u64 {
        if self.first_expiry.is_none_or(|at| at > now) {
            return 0;
        }
        let before = self.queue.len();
        self.queue.retain(|queued| !queued.message.is_expired(now));
        self.first_expiry = self.queue.iter().fold(None, |first, queued| sooner(first, queued.message.expires_at));
        self.queue_bytes = self.queue.iter().map(|queued| queued.message.bytes()).sum();
        (before - self.queue.len()) as u64
    }

    /// A member finished a message.
    pub(crate) fn finish(&mut self, sequence: u64) {
        self.open.remove(&sequence);
    }

    /// How far the group is: all numbers below the first are done, but for the second. `last` is the newest number.
    pub(crate) fn progress(&self, last: Lsn) -> (u64, Vec<u64>) {
        let next = self.queue.iter().map(|queued| queued.sequence).filter(|sequence| *sequence > 0).min();
        (next.unwrap_or(last.0 + 1), self.open.iter().copied().collect())
    }

    /// Replays [`Group::progress`].
    pub(crate) fn advance(&mut self, next: u64, open: &[u64]) {
        self.queue.retain(|queued| queued.sequence >= next || open.contains(&queued.sequence));
        self.queue_bytes = self.queue.iter().map(|queued| queued.message.bytes()).sum();
    }

    pub(crate) fn front(&self) -> Option<&GroupQueued> {
        self.queue.front()
    }

    /// Takes the next message and its number; `open` until [`Group::finish`], where it is for a member to finish.
    pub(crate) fn dequeue(&mut self, stays_open: bool) -> Option<(Arc<Message>, u64)> {
        let queued = self.queue.pop_front()?;
        self.queue_bytes -= queued.message.bytes();
        if stays_open && queued.sequence > 0 {
            self.open.insert(queued.sequence);
        }
        Some((queued.message, queued.sequence))
    }

    pub(crate) fn queued(&self) -> (usize, usize) {
        (self.queue.len(), self.queue_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subscription() -> Subscription {
        Subscription { qos: QoS::AtLeastOnce, no_local: false, retain_as_published: false, identifier: 0 }
    }

    #[test]
    fn turns_are_fair_and_skip_who_is_not_ready() {
        let mut group = Group::new("g", "t");
        for session in 0..4 {
            assert!(!group.join(session, subscription()));
        }
        let order: Vec<SessionKey> = (0..6).filter_map(|_| group.next(|member, _| member != 2)).map(|m| m.0).collect();
        assert_eq!(order, [0, 1, 3, 0, 1, 3]);
        group.leave(0);
        assert_eq!(group.next(|_, _| true).map(|m| m.0), Some(1));
        assert_eq!(group.next(|_, _| false), None);
    }
}
