//! Who is owed a message.
//!
//! Owns matching, bounds, and what is expected to follow at once. Sends nothing.

use causeway_protocol::QoS;

use super::state::{
    ClientIndex, Entry, FlightKind, GroupEntry, Holder, Identifiers, Kept, Op, Phase, PublishOp, Session,
};
use super::{Expected, Oracle, Rule, is_expired};
use crate::message::{FILTERS, MessageId, is_shared};

/// One session's share.
#[derive(Clone)]
pub(super) struct Match {
    pub(super) client: ClientIndex,
    pub(super) qos: QoS,
    pub(super) retain_as_published: bool,
    pub(super) identifiers: Identifiers,
    /// It is not sure that there is room.
    pub(super) optional: bool,
}

pub(super) struct Matches {
    pub(super) sessions: Vec<Match>,
    pub(super) groups: Vec<(usize, bool)>,
}

/// Whether there is room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    Yes,
    No,
    Maybe,
}

/// A queue counts seconds: what expired within the last one may still take a place.
fn is_surely_expired(expires_at: Option<u64>, now: u64) -> bool {
    expires_at.is_some_and(|at| at.div_ceil(1000) <= now / 1000)
}

impl Room {
    fn of(bounds: (usize, usize), certain: (usize, usize), possible: (usize, usize), bytes: usize) -> Room {
        let has = |held: (usize, usize)| held.0 < bounds.0 && held.1 + bytes <= bounds.1;
        match (has(certain), has(possible)) {
            (true, true) => Room::Yes,
            (false, _) => Room::No,
            (true, false) => Room::Maybe,
        }
    }
}

impl Oracle {
    pub(super) fn collect(&self, topic: usize, publisher: Option<ClientIndex>) -> Matches {
        let mut sessions = Vec::new();
        for (client, session) in self.live.sessions.iter().enumerate() {
            let Some(session) = session else { continue };
            let mut found: Option<Match> = None;
            for (&filter, sub) in &session.subs {
                if is_shared(filter) || !self.registry.matches(filter, topic) {
                    continue;
                }
                if sub.no_local && publisher == Some(client) {
                    continue;
                }
                let one = found.get_or_insert(Match {
                    client,
                    qos: sub.qos,
                    retain_as_published: false,
                    identifiers: Identifiers::new(),
                    optional: false,
                });
                one.qos = one.qos.max(sub.qos);
                one.retain_as_published |= sub.retain_as_published;
                if sub.identifier != 0 {
                    one.identifiers.push(sub.identifier);
                }
            }
            if let Some(mut found) = found {
                found.identifiers.sort_unstable();
                sessions.push(found);
            }
        }
        let groups = self.live.groups.keys().filter(|filter| self.registry.matches(**filter, topic));
        Matches { sessions, groups: groups.map(|filter| (*filter, false)).collect() }
    }

    pub(super) fn session_room(&self, client: ClientIndex, bytes: usize, now: u64) -> Room {
        let Some(session) = &self.live.sessions[client] else { return Room::Yes };
        let (mut certain, mut possible) = ((0, 0), (0, 0));
        for entry in &session.entries {
            if entry.phase == Phase::Queued && !is_surely_expired(entry.expires_at, now) {
                let bytes = self.registry.bytes(entry.message);
                (possible.0, possible.1) = (possible.0 + 1, possible.1 + bytes);
                if self.stands_in_queue(session, entry, now) {
                    (certain.0, certain.1) = (certain.0 + 1, certain.1 + bytes);
                }
            }
        }
        for flight in session.flights.iter().filter(|flight| !flight.released) {
            let bytes = self.registry.bytes(flight.message);
            possible.1 += bytes;
            // Messages of groups may have been taken from it.
            if !matches!(flight.kind, FlightKind::Group(..)) {
                certain.1 += bytes;
            }
        }
        // What was retained, or is shared, may have its place in the queue by now.
        let dues = session.backlog.iter().filter(|due| session.recorded && due.qos > QoS::AtMostOnce);
        let given = self.live.groups.values().flat_map(|group| &group.entries);
        let given =
            given.filter(|entry| entry.holder != Holder::Done && entry.candidates.contains(&(client, session.epoch)));
        for message in dues.map(|due| due.message).chain(given.map(|entry| entry.message)) {
            (possible.0, possible.1) = (possible.0 + 1, possible.1 + self.registry.bytes(message));
        }
        let bounds = (self.limits.session_queue_messages_max, self.limits.session_queue_bytes_max);
        Room::of(bounds, certain, possible, bytes)
    }

    /// Whether the entry is sure to stand in the queue.
    pub(super) fn stands_in_queue(&self, session: &Session, entry: &Entry, now: u64) -> bool {
        !entry.optional && !is_expired(entry.expires_at, now) && !session.came_maybe.contains(&entry.message)
    }

    /// Whether there is room, or older messages make some.
    fn session_takes(&self, client: ClientIndex, bytes: usize, now: u64) -> Room {
        let room = self.session_room(client, bytes, now);
        if room == Room::Yes || !self.drops_oldest[client] {
            return room;
        }
        // Only what is in flight stays whatever comes.
        let (mut certain, mut possible) = (0, 0);
        for flight in self.live.sessions[client].iter().flat_map(|session| &session.flights) {
            if !flight.released {
                let bytes = self.registry.bytes(flight.message);
                possible += bytes;
                certain += if matches!(flight.kind, FlightKind::Group(..)) { 0 } else { bytes };
            }
        }
        let gives_way = Room::of((1, self.limits.session_queue_bytes_max), (0, certain), (0, possible), bytes);
        if room == Room::Maybe && gives_way == Room::No { Room::Maybe } else { gives_way }
    }

    /// Takes out of the queues what was given up for the message.
    fn drop_oldest(&mut self, now: u64, message: MessageId, matches: &Matches) {
        let bytes = self.registry.bytes(message);
        let qos = self.registry.get(message).qos;
        for one in &matches.sessions {
            let is_full = || self.session_room(one.client, bytes, now) != Room::Yes;
            if self.drops_oldest[one.client] && one.qos.min(qos) > QoS::AtMostOnce && (one.optional || is_full()) {
                self.drop_from(now, one.client, bytes);
            }
        }
    }

    /// The messages in a session's queue, those first that are given up first: what is urgent goes last.
    fn order_of_dropping(&self, client: ClientIndex) -> Vec<&Entry> {
        let entries = self.live.sessions[client].iter().flat_map(|session| &session.entries);
        let mut order: Vec<&Entry> = entries.filter(|entry| entry.phase == Phase::Queued).collect();
        order.sort_by_key(|entry| self.is_urgent(self.registry.get(entry.message).topic));
        order
    }

    /// What is given up for so many bytes, where nothing about the queue is unsure.
    fn given_up(&self, now: u64, client: ClientIndex, bytes: usize) -> Option<Vec<u64>> {
        let session = self.live.sessions[client].as_ref()?;
        let order = self.order_of_dropping(client);
        let is_sure = order.iter().all(|entry| self.stands_in_queue(session, entry, now))
            && session.flights.iter().all(|flight| !matches!(flight.kind, FlightKind::Group(..)))
            && session.backlog.iter().all(|due| due.qos == QoS::AtMostOnce)
            && !self.may_have_been_given(client, session.epoch);
        if !is_sure {
            return None;
        }
        let in_flight = session.flights.iter().filter(|flight| !flight.released).map(|flight| flight.message);
        let held = order.iter().map(|entry| entry.message).chain(in_flight);
        let mut held_bytes: usize = held.map(|message| self.registry.bytes(message)).sum();
        let mut left = order.len();
        let has_room = |left: usize, held_bytes: usize| {
            left < self.limits.session_queue_messages_max && held_bytes + bytes <= self.limits.session_queue_bytes_max
        };
        let goes = order.into_iter().take_while(|entry| {
            let goes = !has_room(left, held_bytes);
            (left, held_bytes) = (left - 1, held_bytes - self.registry.bytes(entry.message));
            goes
        });
        Some(goes.map(|entry| entry.id).collect())
    }

    /// Whether a shared message may stand in the session's queue.
    fn may_have_been_given(&self, client: ClientIndex, epoch: u64) -> bool {
        let mut entries = self.live.groups.values().flat_map(|group| &group.entries);
        entries.any(|entry| entry.holder != Holder::Done && entry.candidates.contains(&(client, epoch)))
    }

    fn drop_from(&mut self, now: u64, client: ClientIndex, bytes: usize) {
        let Some(session) = &self.live.sessions[client] else { return };
        let (epoch, recorded) = (session.epoch, session.recorded);
        if let Some(entries) = self.given_up(now, client, bytes) {
            self.dropped_surely += entries.len() as u64;
            if !entries.is_empty() {
                self.change(Op::Dropped { client, epoch, entries }, recorded);
            }
            return;
        }
        self.is_dropping_unsure = true;
        if self.dropped == 0 {
            return;
        }
        let mut left = self.dropped as usize;
        let mut dropped = Vec::new();
        for entry in self.order_of_dropping(client) {
            if left == 0 {
                break;
            }
            dropped.push(entry.id);
            // One that may be gone already may not be counted.
            left -= usize::from(self.stands_in_queue(session, entry, now));
        }
        self.may_be_gone(client, epoch, &dropped);
    }

    /// The entries may have been given up, and so may whatever took a place in the queue that nobody saw.
    fn may_be_gone(&mut self, client: ClientIndex, epoch: u64, entries: &[u64]) {
        for state in [&mut self.live, &mut self.base] {
            if let Some(session) = state.session(client, epoch) {
                let gone = session.entries.iter_mut().filter(|entry| entries.contains(&entry.id));
                gone.for_each(|entry| entry.optional = true);
                session.backlog.iter_mut().filter(|due| !due.flying).for_each(|due| due.optional = true);
            }
            for entry in state.groups.values_mut().flat_map(|group| &mut group.entries) {
                entry.optional |= entry.candidates.contains(&(client, epoch));
            }
        }
        for (_, op) in &mut self.pending {
            match op {
                Op::Publish(publish) => {
                    let of_client = publish.entries.iter_mut().filter(|(of, _, _)| *of == client);
                    let gone = of_client.filter(|(_, _, entry)| entries.contains(&entry.id));
                    gone.for_each(|(_, _, entry)| entry.optional = true);
                }
                Op::Subscribe { client: of, backlog, .. } if *of == client => {
                    backlog.iter_mut().for_each(|due| due.optional = true);
                }
                _ => {}
            }
        }
    }

    pub(super) fn group_room(&self, group: usize, bytes: usize, now: u64) -> Room {
        let Some(group) = self.live.groups.get(&group) else { return Room::Yes };
        let (mut certain, mut possible) = ((0, 0), (0, 0));
        for entry in group.entries.iter().filter(|entry| !is_surely_expired(entry.expires_at, now)) {
            let is_waiting = entry.holder == Holder::Nobody && !entry.optional;
            // Of a message that was published twice, nobody can tell which one waits.
            let is_certain = is_waiting
                && self.registry.get(entry.message).copies < 2
                && entry.candidates.is_empty()
                && !is_expired(entry.expires_at, now);
            let is_possible = is_waiting
                || (entry.optional && entry.holder != Holder::Done)
                || matches!(entry.holder, Holder::Member { free: true, .. });
            let bytes = self.registry.bytes(entry.message);
            if is_possible {
                (possible.0, possible.1) = (possible.0 + 1, possible.1 + bytes);
            }
            if is_certain {
                (certain.0, certain.1) = (certain.0 + 1, certain.1 + bytes);
            }
        }
        // What was taken for a message of a group may have been another one.
        for mistakable in self.live.sessions.iter().flatten().flat_map(|session| &session.mistakable) {
            (possible.0, possible.1) = (possible.0 + 1, possible.1 + self.registry.bytes(mistakable.message));
        }
        let bounds = (self.limits.session_queue_messages_max, self.limits.session_queue_bytes_max);
        Room::of(bounds, certain, possible, bytes)
    }

    pub(super) fn retained_has_room(&self, message: MessageId) -> bool {
        let topic = self.registry.get(message).topic;
        let others = self.live.retained.iter().filter(|(other, _)| **other != topic);
        let (mut count, mut bytes) = (0, 0);
        for (_, kept) in others {
            count += 1;
            bytes += self.registry.bytes(kept.message);
        }
        count < self.limits.retained_messages_max
            && bytes + self.registry.bytes(message) <= self.limits.retained_bytes_max
    }

    pub(super) fn group_qos_max(&self, group: usize) -> QoS {
        let members = self.live.groups.get(&group).map(|group| group.members.values());
        members.and_then(|members| members.map(|sub| sub.qos).max()).unwrap_or_default()
    }

    /// Whether a client's publish may be refused.
    pub(super) fn room_for(&self, message: MessageId, matches: &Matches, now: u64) -> Room {
        let published = self.registry.get(message);
        if published.retain && published.payload_bytes > 0 && !self.retained_has_room(message) {
            return Room::No;
        }
        if published.qos == QoS::AtMostOnce {
            return Room::Yes;
        }
        let bytes = self.registry.bytes(message);
        let sessions = matches.sessions.iter().filter(|matched| matched.qos > QoS::AtMostOnce);
        let rooms = sessions.map(|matched| self.session_takes(matched.client, bytes, now));
        let groups = matches.groups.iter().filter(|(group, _)| self.group_qos_max(*group) > QoS::AtMostOnce);
        let rooms = rooms.chain(groups.map(|(group, _)| self.group_room(*group, bytes, now)));
        let mut all = Room::Yes;
        for room in rooms {
            match room {
                Room::No => return Room::No,
                Room::Maybe => all = Room::Maybe,
                Room::Yes => {}
            }
        }
        all
    }

    /// Whether anybody is owed the message beyond the life of the process.
    pub(super) fn is_owed(&self, qos: QoS, retain: bool, matches: &Matches) -> bool {
        let persistent =
            |client: ClientIndex| self.live.sessions[client].as_ref().is_some_and(|session| session.is_persistent());
        let group =
            |group: &usize| self.live.groups.get(group).is_some_and(|g| g.members.keys().any(|m| persistent(*m)));
        retain
            || (qos > QoS::AtMostOnce
                && (matches.sessions.iter().any(|one| one.qos > QoS::AtMostOnce && persistent(one.client))
                    || matches.groups.iter().any(|(filter, _)| group(filter))))
    }

    /// Hands the message out. Returns the record it is durable with.
    pub(super) fn hand_out(
        &mut self,
        now: u64,
        message: MessageId,
        retain: bool,
        matches: Matches,
        received: Option<(ClientIndex, u64, u16)>,
    ) -> u64 {
        self.drop_oldest(now, message, &matches);
        let published = self.registry.get(message).clone();
        let owed = self.is_owed(published.qos, retain, &matches);
        // Where it is not sure who has room, it is not sure that there is a record.
        let certain = Matches {
            sessions: matches.sessions.iter().filter(|one| !one.optional).cloned().collect(),
            groups: matches.groups.iter().filter(|(_, optional)| !optional).copied().collect(),
        };
        let lsn = if self.is_owed(published.qos, retain, &certain) { self.last } else { 0 };
        let expires_at = published.expiry_seconds.map(|seconds| now + u64::from(seconds) * 1000);
        let mut op = PublishOp { received, ..PublishOp::default() };
        if retain {
            let stored = self.fresh_id();
            let kept = (published.payload_bytes > 0).then_some(Kept { message, expires_at, stored, lsn });
            op.retained = Some((published.topic, kept));
        }
        for matched in matches.sessions {
            let qos = matched.qos.min(published.qos);
            let retain = retain && matched.retain_as_published;
            let Some(session) = &self.live.sessions[matched.client] else { continue };
            if qos == QoS::AtMostOnce {
                let link = session.link;
                let identifiers = matched.identifiers;
                if link.is_some() {
                    let optional = matched.optional;
                    self.expected.push(Expected { link, group: None, message, retain, identifiers, optional });
                }
                continue;
            }
            let epoch = session.epoch;
            let entry = Entry {
                id: self.fresh_id(),
                message,
                expires_at,
                qos,
                retain,
                identifiers: matched.identifiers,
                lsn,
                packet_id: 0,
                was_sent: Some(false),
                phase: Phase::Queued,
                optional: matched.optional,
                anywhere: false,
            };
            op.entries.push((matched.client, epoch, entry));
        }
        for (group, optional) in matches.groups {
            if published.qos.min(self.group_qos_max(group)) == QoS::AtMostOnce {
                let mut members = self.live.groups.get(&group).into_iter().flat_map(|group| group.members.keys());
                if members.any(|client| self.live.sessions[*client].as_ref().is_some_and(|one| one.link.is_some())) {
                    let (group, identifiers) = (Some(group), Identifiers::new());
                    self.expected.push(Expected { link: None, group, message, retain: false, identifiers, optional });
                }
                continue;
            }
            let candidates = Vec::new();
            let entry = GroupEntry {
                id: self.fresh_id(),
                message,
                expires_at,
                lsn,
                holder: Holder::Nobody,
                optional,
                candidates,
            };
            op.group_entries.push((group, entry));
        }
        // A change nobody is owed lives as long as the process, but for what a folded state may have of it.
        if let Some((client, epoch, packet_id)) = received.filter(|_| !owed && self.is_folding) {
            self.note_for_base(Op::MaybeReceived { client, epoch, packet_id });
        }
        self.change(Op::Publish(Box::new(op)), owed);
        lsn
    }

    /// A will goes to all who have room.
    pub(super) fn publish_will(&mut self, now: u64, client: ClientIndex, message: MessageId) {
        self.wills_published += 1;
        self.tally.wills += 1;
        self.registry.accepted(message, 0);
        let published = self.registry.get(message).clone();
        let retain = published.retain && (published.payload_bytes == 0 || self.retained_has_room(message));
        let mut matches = self.collect(published.topic, Some(client));
        if published.qos > QoS::AtMostOnce {
            let bytes = self.registry.bytes(message);
            matches.sessions.retain_mut(|matched| {
                let room = if matched.qos == QoS::AtMostOnce {
                    Room::Yes
                } else {
                    self.session_takes(matched.client, bytes, now)
                };
                matched.optional = room == Room::Maybe;
                room != Room::No
            });
            matches.groups.retain_mut(|(group, optional)| {
                let room = if self.group_qos_max(*group) == QoS::AtMostOnce {
                    Room::Yes
                } else {
                    self.group_room(*group, bytes, now)
                };
                *optional = room == Room::Maybe;
                room != Room::No
            });
        }
        let is_sure = matches.sessions.iter().all(|matched| !matched.optional)
            && matches.groups.iter().all(|(_, optional)| !optional);
        if !is_sure && self.last == self.last_before {
            // There is no record, so nobody had room whose session would need one.
            let persistent =
                |client: &ClientIndex| self.live.sessions[*client].as_ref().is_some_and(|s| s.is_persistent());
            matches.sessions.retain(|one| !one.optional || !persistent(&one.client));
            matches.groups.retain(|(group, optional)| {
                let members = self.live.groups.get(group).map(|group| group.members.keys());
                !optional || !members.is_some_and(|mut members| members.any(persistent))
            });
        }
        self.hand_out(now, message, retain, matches, None);
    }

    pub(super) fn describe(&self, message: MessageId) -> String {
        let one = self.registry.get(message);
        format!("message {message} (QoS {}, topic {})", one.qos as u8, crate::message::TOPICS[one.topic])
    }

    pub(super) fn wrong_room(&mut self, client: ClientIndex, message: MessageId, refused: bool) {
        let what = if refused { "was refused though there was room" } else { "was taken though a bound was reached" };
        let detail = format!("{} of client {client} {what}", self.describe(message));
        self.breach(Rule::Bound, detail);
    }

    pub(super) fn filter_text(filter: usize) -> &'static str {
        FILTERS[filter]
    }
}
