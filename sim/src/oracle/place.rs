//! Which of several places in a queue a message came from.
//!
//! Owns the choice, and what is done once it proves to have been wrong: the same message may be a session's own, retained, shared,
//! or all of that, more than once. Breaks no promise.

use causeway_protocol::{Publish, QoS};

use super::output::BULK_IDS;
use super::state::{Due, Entry, Holder, Kept, LinkId, Phase, Session};
use super::{Oracle, is_expired};
use crate::message::{MessageId, is_shared};

/// A PUBLISH from a session's queue.
#[derive(Clone, Copy)]
pub(super) struct Came<'a> {
    pub(super) link: LinkId,
    pub(super) topic: &'a str,
    pub(super) seen: Option<MessageId>,
    pub(super) packet_id: u16,
}

/// How a message came into a session's queue.
#[derive(Clone, Copy)]
pub(super) enum Place {
    Own,
    /// It was retained.
    Directed,
    /// It is shared.
    Handed,
}

impl Oracle {
    /// Where in the queue the message came from, if it may come from there: a message may have several places, and then those
    /// count first from which it must come.
    pub(super) fn place(&self, now: u64, publish: &Publish<'_>, came: Came<'_>) -> Option<Place> {
        let client = self.conns.get(&came.link)?.client;
        let session = self.live.sessions[client].as_ref()?;
        let own = self.find_own(now, session, publish, came);
        let places = [
            (own.map(|entry| !entry.optional || entry.packet_id != 0), Place::Own),
            (self.place_of_directed(now, session, publish, came), Place::Directed),
            (self.place_of_handed(now, client, publish, came), Place::Handed),
        ];
        let must = places.iter().find(|(must, _)| *must == Some(true));
        // If it is taken for its own, all that stands before that is taken for gone, and the queue for shorter than it may be: where
        // nobody can tell, it is what was retained, and its own may still come.
        let passes = own.is_some_and(|entry| self.passes_others(session, entry, came));
        let directed = &places[1];
        let may = || Some(directed).filter(|(may, _)| passes && may.is_some());
        let place = must.or_else(may).or_else(|| places.iter().find(|(may, _)| may.is_some()));
        place.map(|(_, place)| *place)
    }

    /// Whether others stand before it in the queue that did not come.
    fn passes_others(&self, session: &Session, entry: &Entry, came: Came<'_>) -> bool {
        let is_urgent = |entry: &Entry| self.is_urgent(self.registry.get(entry.message).topic);
        let mut before = session.entries.iter().take_while(|other| other.id != entry.id);
        !entry.anywhere
            && before.any(|other| {
                let is_waiting = other.phase == Phase::Queued && !other.anywhere && other.packet_id < came.packet_id;
                is_waiting && is_urgent(other) == is_urgent(entry)
            })
    }

    /// The message of the queue that is exactly what came, unless something that must come before it stands before it.
    fn find_own<'a>(&self, now: u64, session: &'a Session, publish: &Publish<'_>, came: Came<'_>) -> Option<&'a Entry> {
        let mut identifiers = publish.properties.subscription_identifiers.clone();
        identifiers.sort_unstable();
        let is_it = |entry: &Entry| {
            self.is_it(entry.message, came.seen, came.topic)
                && (entry.packet_id == 0 || entry.packet_id == came.packet_id)
                && (entry.qos, entry.retain) == (publish.qos, publish.retain)
                && !is_expired(entry.expires_at, now)
                && identifiers == *entry.identifiers
                && entry.was_sent != Some(!publish.dup)
        };
        let is_urgent = came.packet_id > BULK_IDS;
        let queued = session.entries.iter().filter(|entry| {
            entry.phase == Phase::Queued && self.is_urgent(self.registry.get(entry.message).topic) == is_urgent
        });
        let mut in_order = queued.clone().filter(|entry| !entry.anywhere && entry.packet_id <= came.packet_id);
        let first = in_order.find(|entry| is_it(entry) || self.stands_in_queue(session, entry, now));
        let may_come = |entry: &&Entry| is_it(entry) && entry.lsn <= self.durable;
        first.filter(may_come).or_else(|| queued.filter(|entry| entry.anywhere).find(may_come))
    }

    fn place_of_directed(&self, now: u64, session: &Session, publish: &Publish<'_>, came: Came<'_>) -> Option<bool> {
        let due = self.find_directed(now, session, publish, came)?;
        let may_come = !self.is_replaced(session, due) && !is_expired(due.expires_at, now) && due.lsn <= self.durable;
        may_come.then_some(!due.optional)
    }

    fn place_of_handed(&self, now: u64, client: usize, publish: &Publish<'_>, came: Came<'_>) -> Option<bool> {
        let (expired, optional, filter, id) = self.find_handed(now, client, came)?;
        let entry = self.live.groups.get(&filter)?.entries.iter().find(|entry| entry.id == id)?;
        let qos = publish.qos.min(self.registry.get(entry.message).qos);
        let is_plain = !publish.retain && publish.properties.subscription_identifiers.is_empty();
        (qos == QoS::ExactlyOnce && is_plain && !expired && entry.lsn <= self.durable).then_some(!optional)
    }

    /// The retained message that may have come from a place in the queue. Of one that was published twice, nobody can tell
    /// which came.
    pub(super) fn find_directed<'a>(
        &self,
        now: u64,
        session: &'a Session,
        publish: &Publish<'_>,
        came: Came<'_>,
    ) -> Option<&'a Due> {
        let fitting = session.backlog.iter().filter(|due| {
            let identifiers = &publish.properties.subscription_identifiers;
            let identified =
                if due.identifier == 0 { identifiers.is_empty() } else { *identifiers == [due.identifier] };
            self.is_it(due.message, came.seen, came.topic) && due.qos == publish.qos && identified
        });
        let choice = |due: &&Due| {
            let may_not = self.is_replaced(session, due) || is_expired(due.expires_at, now) || due.lsn > self.durable;
            let kept = self.live.retained.get(&self.registry.get(due.message).topic);
            (may_not, due.optional, kept.is_none_or(|kept| kept.stored != due.stored), due.id)
        };
        fitting.min_by_key(choice).filter(|_| publish.retain)
    }

    /// The shared message that may have come from a place in the member's queue: whether it expired and whether it need not
    /// come, and where it stands.
    pub(super) fn find_handed(&self, now: u64, client: usize, came: Came<'_>) -> Option<(bool, bool, usize, u64)> {
        let epoch = self.live.sessions[client].as_ref()?.epoch;
        let mut fitting = Vec::new();
        for (filter, group) in &self.live.groups {
            let sub = group.members.get(&client);
            for entry in &group.entries {
                let is_member = sub.is_some_and(|sub| sub.qos == QoS::ExactlyOnce);
                let may_have = is_member || entry.candidates.contains(&(client, epoch));
                let is_free = matches!(entry.holder, Holder::Nobody | Holder::Member { free: true, .. });
                if may_have && is_free && self.is_it(entry.message, came.seen, came.topic) {
                    fitting.push((is_expired(entry.expires_at, now), entry.optional, *filter, entry.id));
                }
            }
        }
        fitting.into_iter().min()
    }

    /// Whether the session was sent what replaced the retained message.
    pub(super) fn is_replaced(&self, session: &Session, due: &Due) -> bool {
        let topic = self.registry.get(due.message).topic;
        let (newest, message) = session.newest.get(&topic).copied().unwrap_or_default();
        let is_newer = |kept: &Kept| kept.stored != due.stored && newest > kept.stored;
        // The same message, published once more, is no other.
        message != due.message && self.live.retained.get(&topic).is_some_and(is_newer)
    }

    /// What came is taken for something that must come, and might be a message of the queue that need not: then that comes later.
    pub(super) fn note_mistakable(&mut self, now: u64, publish: &Publish<'_>, came: Came<'_>) {
        let Some(client) = self.conns.get(&came.link).map(|conn| conn.client) else { return };
        let Some(session) = &self.live.sessions[client] else { return };
        let mistakable = self.find_own(now, session, publish, came).cloned();
        self.live.sessions[client].iter_mut().for_each(|session| session.mistakable.extend(mistakable.clone()));
    }

    /// Something comes that stands in no queue any more. Whether it was taken for something else before.
    pub(super) fn emitted_mistaken(&mut self, publish: &Publish<'_>, came: Came<'_>) -> bool {
        let Some(client) = self.conns.get(&came.link).map(|conn| conn.client) else { return false };
        let Some(session) = &self.live.sessions[client] else { return false };
        let mut identifiers = publish.properties.subscription_identifiers.clone();
        identifiers.sort_unstable();
        let at = session.mistakable.iter().position(|entry| {
            self.is_it(entry.message, came.seen, came.topic)
                && (entry.qos, entry.retain) == (publish.qos, publish.retain)
                && identifiers == *entry.identifiers
        });
        let Some((at, epoch)) = at.map(|at| (at, session.epoch)) else { return false };
        let entry = self.live.sessions[client].as_mut().map(|session| session.mistakable.swap_remove(at));
        let Some(entry) = entry else { return false };
        // If it still stands in the queue, it has come by now.
        for session in [&mut self.live, &mut self.base].into_iter().filter_map(|state| state.session(client, epoch)) {
            session.forget_entry(entry.id);
        }
        let id = self.fresh_id();
        let entry =
            Entry { id, packet_id: came.packet_id, phase: Phase::Queued, optional: false, anywhere: false, ..entry };
        let entry = Entry { was_sent: Some(true), ..entry };
        self.give_place(client, epoch, &entry, came.link);
        true
    }

    /// What a member was sent may have been taken for a message of a group, and was one of its own queue: then the group still has
    /// its message. Whether there is one.
    pub(super) fn give_mistaken_back(&mut self, client: usize, topic: &str, seen: Option<MessageId>) -> bool {
        let Some(subs) = self.live.sessions[client].as_ref().map(|session| &session.subs) else { return false };
        let shared = subs.keys().filter(|filter| is_shared(**filter)).find_map(|filter| {
            let mut entries = self.live.groups.get(filter)?.entries.iter();
            let done = entries.find(|entry| entry.holder == Holder::Done && self.is_it(entry.message, seen, topic));
            done.map(|entry| (*filter, entry.id, entry.message))
        });
        let Some((filter, id, message)) = shared else { return false };
        let mut mistaken = self.live.sessions.iter_mut().flatten().map(|session| &mut session.mistakable);
        let is_mistaken = mistaken.any(|entries| {
            let at = entries.iter().position(|entry| entry.message == message);
            at.map(|at| entries.swap_remove(at)).is_some()
        });
        let Some(entry) = self.live.group_entry(filter, id).filter(|_| is_mistaken) else { return false };
        (entry.holder, entry.optional) = (Holder::Nobody, true);
        let entry = entry.clone();
        if let Some(group) = self.base.groups.get_mut(&filter)
            && group.entries.iter().all(|entry| entry.id != id)
        {
            group.entries.push(entry);
        }
        true
    }
}
