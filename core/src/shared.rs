//! Shared subscriptions: groups of sessions among which each message goes to one.
//!
//! Owns the members and the messages that wait because no member can take them. Which member is next is decided here;
//! it never sends. Messages are handed to a member only when it can be sent them at once, so nothing is ever stranded
//! behind an offline member.

use std::collections::{BTreeMap, HashMap};

use causeway_protocol::QoS;
use slab::Slab;

use crate::index::Subscription;
use crate::queue::{Delivery, Expiry, Peek, Queue, Queued, Queues};
use crate::session::{Identifiers, SessionKey, queue_room};
use crate::{Bound, Limits, Lsn, Millis};

/// Names a group for as long as it lives; never reused, so that a message never finds its way to another group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct GroupKey {
    index: u32,
    generation: u32,
}

/// All groups.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    slots: Slab<(u32, Group)>,
    generation: u32,
    by_number: HashMap<u64, GroupKey>,
    /// While a replay has not come to the end of a fold: whoever is missing from a group was left out of the fold or comes later.
    pub(crate) keeps_empty: bool,
}

impl Groups {
    pub(crate) fn insert(&mut self, group: Group) -> GroupKey {
        self.generation = self.generation.wrapping_add(1);
        let number = group.number();
        let index = self.slots.insert((self.generation, group)) as u32;
        let key = GroupKey { index, generation: self.generation };
        // Who was first keeps the number: a name can be made that has the number of another.
        self.by_number.entry(number).or_insert(key);
        key
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
        let number = self.get(key)?.number();
        if self.by_number.get(&number) == Some(&key) {
            self.by_number.remove(&number);
        }
        self.slots.try_remove(key.index as usize).map(|(_, group)| group)
    }

    /// The group that has this number on every shard.
    pub(crate) fn numbered(&self, number: u64) -> Option<GroupKey> {
        self.by_number.get(&number).copied()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (GroupKey, &Group)> {
        let key = |index: usize, generation: u32| GroupKey { index: index as u32, generation };
        self.slots.iter().map(move |(index, (generation, group))| (key(index, *generation), group))
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}

/// What is known of a recorded message that is with a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) bytes: u32,
    pub(crate) expires: Expiry,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) share_name: Box<str>,
    pub(crate) filter: Box<str>,
    members: Vec<(SessionKey, Subscription)>,
    /// How many of them are vehicles whose filter begins with a wildcard.
    pub(crate) wide: u32,
    /// Where the search for the next member starts.
    cursor: usize,
    pub(crate) queue: Queue,
    /// When the first waiting message expires, if any does.
    first_expiry: Expiry,
    /// Recorded messages that are with a member and not finished, by position.
    pub(crate) open: BTreeMap<Lsn, Note>,
    /// Whether its progress changed since it was last recorded.
    pub(crate) progress_noted: bool,
}

impl Group {
    pub(crate) fn new(share_name: &str, filter: &str) -> Self {
        Group {
            share_name: share_name.into(),
            filter: filter.into(),
            members: Vec::new(),
            wide: 0,
            cursor: 0,
            queue: Queue::default(),
            first_expiry: Expiry::NEVER,
            open: BTreeMap::new(),
            progress_noted: false,
        }
    }

    /// Its number, the same on every shard: what a message for it carries from one to another. Of 54 bits, so that two groups of a broker
    /// hardly ever share one (FNV-1a).
    pub(crate) fn number(&self) -> u64 {
        let bytes = self.share_name.bytes().chain([b'/']).chain(self.filter.bytes());
        let hash = bytes
            .fold(0xCBF2_9CE4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3));
        ((hash ^ (hash >> 54)) & ((1 << 54) - 1)).max(1)
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
                self.wide += u32::from(subscription.wide);
                false
            }
        }
    }

    pub(crate) fn leave(&mut self, session: SessionKey) {
        let Some(at) = self.members.iter().position(|(member, _)| *member == session) else {
            return;
        };
        let (_, left) = self.members.remove(at);
        self.wide -= u32::from(left.wide);
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
        queue_room(limits, (self.queue.len(), self.queue.bytes()), bytes)
    }

    /// Whether a queue that was full has room for more than a few again.
    pub(crate) fn has_drained(&self, limits: &Limits) -> bool {
        self.queue.len() <= limits.session_queue_messages_max / 4 * 3
            && self.queue.bytes() <= limits.session_queue_bytes_max / 4 * 3
    }

    /// Its filter, as it is subscribed to.
    pub(crate) fn whole_filter(&self) -> String {
        format!("$share/{}/{}", self.share_name, self.filter)
    }

    /// Appends; `delivery` has the message's own QoS and retain flag.
    pub(crate) fn enqueue(&mut self, queues: &mut Queues, delivery: Delivery) {
        self.first_expiry = self.first_expiry.min(delivery.expires);
        queues.push(&mut self.queue, Queued { sequence: 0, delivery });
    }

    /// Takes back what a member could not finish, ahead of all that waits; `back` comes oldest first and is still owed.
    pub(crate) fn take_back(&mut self, queues: &mut Queues, back: Vec<Delivery>) {
        for delivery in back.into_iter().rev() {
            // The member may have got it at a lower QoS than it was published with.
            let note = self.open.remove(&delivery.lsn);
            let (qos, retain) = match (note, &delivery.message) {
                (Some(note), _) => (note.qos, note.retain),
                (None, Some(message)) => (message.qos, message.retain),
                (None, None) => (delivery.qos, delivery.retain),
            };
            self.first_expiry = self.first_expiry.min(delivery.expires);
            let delivery = Delivery { qos, retain, identifiers: Identifiers::new(), group: None, ..delivery };
            queues.push_front(&mut self.queue, Queued { sequence: 0, delivery });
        }
    }

    /// Drops what certainly expired; how many there were.
    pub(crate) fn drop_expired(&mut self, queues: &mut Queues, now: Millis) -> u64 {
        if !self.first_expiry.is_past(now) {
            return 0;
        }
        let (count, _) = queues.drop_where(&mut self.queue, |peek| peek.is_expired(now));
        self.first_expiry = queues.pool.iter(&self.queue).fold(Expiry::NEVER, |first, peek| first.min(peek.expires));
        count
    }

    /// A member finished a message.
    pub(crate) fn finish(&mut self, lsn: Lsn) {
        self.open.remove(&lsn);
    }

    /// How far the group is: all numbers below the first are done, but for the second. `last` is the newest number.
    pub(crate) fn progress(&self, queues: &Queues, last: Lsn) -> (u64, Vec<u64>) {
        let recorded = queues.pool.iter(&self.queue).map(|peek| peek.lsn).filter(|lsn| *lsn > Lsn(0));
        let next = recorded.min().map_or(last.0 + 1, |lsn| lsn.0);
        (next, self.open.keys().map(|lsn| lsn.0).collect())
    }

    /// Replays [`Group::progress`].
    pub(crate) fn advance(&mut self, queues: &mut Queues, next: u64, open: &[u64]) {
        queues.drop_where(&mut self.queue, |peek| peek.lsn.0 < next && open.binary_search(&peek.lsn.0).is_err());
    }

    pub(crate) fn front(&self, queues: &Queues) -> Option<Peek> {
        queues.pool.front(&self.queue)
    }

    /// Takes the next message, which is still owed; it is `open` until [`Group::finish`], where it is for a member to finish.
    pub(crate) fn dequeue(&mut self, queues: &mut Queues, stays_open: bool) -> Option<Delivery> {
        let delivery = queues.pop(&mut self.queue)?.delivery;
        if stays_open && delivery.lsn > Lsn(0) {
            let Delivery { bytes, expires, qos, retain, .. } = delivery;
            self.open.insert(delivery.lsn, Note { bytes, expires, qos, retain });
        }
        Some(delivery)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subscription() -> Subscription {
        Subscription::at(QoS::AtLeastOnce)
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
