//! What the broker sends, held against what it may and must.
//!
//! Owns the rules of acknowledgements and deliveries. Every packet is looked at when it enters the outbox.

use causeway_protocol::{Ack, Packet, ProtocolVersion, Publish, QoS, ReasonCode};

use super::place::{Came, Place};
use super::state::{Due, Entry, Flight, FlightKind, Holder, LinkId, Phase};
use super::{AckKind, Expected, Finished, Oracle, Rule, is_expired};
use crate::message::{MessageId, Registry, TOPICS, is_shared};

/// Packet identifiers up to this one follow from the place in the session's queue (decision record 4).
const OWN_IDS: u16 = 32_767;
/// Those up to this one belong to messages that are not urgent.
pub(super) const BULK_IDS: u16 = 24_576;

impl Oracle {
    /// A packet entered the outbox of a connection; `topic` is that of a PUBLISH with its alias resolved.
    pub(crate) fn emitted(&mut self, now: u64, link: LinkId, packet: &Packet<'_>, topic: &str) {
        let Some(conn) = self.conns.get_mut(&link) else {
            self.breach(Rule::Connection, format!("link {link} was sent something though it is closed"));
            return;
        };
        match packet {
            Packet::ConnAck(connack) => {
                let expected = conn.connack.take();
                if expected != Some(connack.session_present) || connack.reason != ReasonCode::Success {
                    let detail = format!("{connack:?}, with session present {expected:?} expected");
                    self.breach(Rule::Connection, detail);
                }
            }
            Packet::Publish(publish) => self.emitted_publish(now, link, publish, topic),
            Packet::PubAck(ack) => self.emitted_ack(link, AckKind::PubAck, ack),
            Packet::PubRec(ack) => self.emitted_ack(link, AckKind::PubRec, ack),
            Packet::PubRel(ack) => self.emitted_pubrel(link, ack),
            Packet::PubComp(ack) => self.emitted_ack(link, AckKind::PubComp, ack),
            Packet::SubAck(ack) => self.emitted_answer(link, ack.packet_id.get(), Some(&ack.reasons)),
            Packet::UnsubAck(ack) => self.emitted_answer(link, ack.packet_id.get(), None),
            Packet::PingResp => {}
            Packet::Disconnect(disconnect) => {
                let is_known = matches!(disconnect.reason, ReasonCode::SessionTakenOver | ReasonCode::KeepAliveTimeout);
                if conn.open || !is_known {
                    self.breach(Rule::Connection, format!("link {link} was closed: {disconnect:?}"));
                }
            }
            other => self.breach(Rule::Connection, format!("a server never sends {other:?}")),
        }
    }

    /// Bytes of a connection are on their way: its CONNACK among them, or before.
    pub(crate) fn left(&mut self, link: LinkId) {
        let durable = self.durable;
        if let Some(conn) = self.conns.get(&link)
            && conn.connack_lsn > durable
        {
            let detail = format!("CONNACK on link {link} relies on {}, {durable} is durable", conn.connack_lsn);
            self.breach(Rule::AckedBeforeDurable, detail);
        }
    }

    fn emitted_ack(&mut self, link: LinkId, kind: AckKind, ack: &Ack<'_>) {
        let durable = self.durable;
        let Some(conn) = self.conns.get_mut(&link) else { return };
        let Some(due) = conn.acks.pop_front() else {
            self.breach(Rule::WrongAcknowledgement, format!("link {link} got {kind:?} {ack:?}, and is owed none"));
            return;
        };
        let is_same = due.kind == kind && due.packet_id == ack.packet_id.get();
        let reason_fits = due.any_reason || conn.version != ProtocolVersion::V5 || due.reason == ack.reason;
        if !is_same || !reason_fits {
            self.breach(Rule::WrongAcknowledgement, format!("link {link} got {kind:?} {ack:?}, and is owed {due:?}"));
        } else if due.lsn > durable {
            let rule = match kind {
                AckKind::PubAck | AckKind::PubRec => Rule::AckedBeforeDurable,
                AckKind::PubRel | AckKind::PubComp => Rule::ReleasedBeforeDurable,
            };
            self.breach(rule, format!("link {link} got {due:?}, and only {durable} is durable"));
        }
    }

    fn emitted_pubrel(&mut self, link: LinkId, ack: &Ack<'_>) {
        let (durable, packet_id) = (self.durable, ack.packet_id.get());
        let Some(conn) = self.conns.get_mut(&link) else { return };
        if conn.acks.front().is_some_and(|due| due.kind == AckKind::PubRel && due.packet_id == packet_id) {
            let session = self.live.sessions[conn.client].as_mut();
            let flight = session.and_then(|one| one.flights.iter_mut().find(|flight| flight.packet_id == packet_id));
            flight.into_iter().for_each(|flight| flight.link = link);
            self.emitted_ack(link, AckKind::PubRel, ack);
            return;
        }
        let session = self.live.sessions[conn.client].as_mut();
        let flights = session.map(|session| session.flights.iter_mut());
        let flight = flights.and_then(|mut flights| {
            flights.find(|flight| flight.packet_id == packet_id && flight.released && flight.link != link)
        });
        match flight {
            Some(flight) => {
                flight.link = link;
                let lsn = flight.received_lsn;
                if lsn > durable {
                    let detail = format!("PUBREL {packet_id} on link {link} relies on {lsn}, {durable} is durable");
                    self.breach(Rule::ReleasedBeforeDurable, detail);
                }
            }
            None if conn.strays > 0 => conn.strays -= 1,
            None => {
                let crashed = self.live.sessions[conn.client].as_ref().is_some_and(|session| session.crashed);
                let is_again = crashed && packet_id <= OWN_IDS;
                let rule = if is_again { Rule::ReleasedAgain } else { Rule::WrongAcknowledgement };
                self.breach(rule, format!("PUBREL {packet_id} on link {link} out of nowhere"));
            }
        }
    }

    fn emitted_answer(&mut self, link: LinkId, packet_id: u16, reasons: Option<&Vec<ReasonCode>>) {
        let durable = self.durable;
        let Some(conn) = self.conns.get_mut(&link) else { return };
        let is_v5 = conn.version == ProtocolVersion::V5;
        let at = conn.answers.iter().position(|due| due.packet_id == packet_id);
        let Some(due) = at.and_then(|at| conn.answers.remove(at)) else {
            self.breach(Rule::WrongAcknowledgement, format!("link {link} got an answer nobody is owed"));
            return;
        };
        let fits = match (&due.reasons, reasons) {
            (Some(due), Some(got)) => {
                due.len() == got.len()
                    && due.iter().zip(got).all(|(due, got)| due == got || (!is_v5 && due.is_error() && got.is_error()))
            }
            (None, None) => true,
            _ => false,
        };
        if !fits {
            let detail = format!("link {link} got {packet_id} {reasons:?}, and is owed {due:?}");
            self.breach(Rule::WrongAcknowledgement, detail);
        } else if due.lsn > durable {
            let detail = format!("link {link} got {due:?}, and only {durable} is durable");
            self.breach(Rule::AckedBeforeDurable, detail);
        }
    }

    fn emitted_publish(&mut self, now: u64, link: LinkId, publish: &Publish<'_>, topic: &str) {
        let message = match self.registry.recognise(topic, publish.payload) {
            Ok(message) => message,
            Err(what) => return self.breach(Rule::Data, format!("link {link}: {what}")),
        };
        if self.conns.get(&link).is_none_or(|conn| !conn.open) {
            return self.breach(Rule::WrongDelivery, format!("link {link} got {message:?} without a session"));
        }
        match publish.packet_id.map(|packet_id| packet_id.get()) {
            None => self.emitted_qos0(now, link, publish, topic, message),
            Some(packet_id) => {
                self.tally.deliveries += 1;
                if self.emitted_again(link, publish, topic, message, packet_id) {
                    return;
                }
                if packet_id <= OWN_IDS {
                    self.in_order(link, packet_id);
                    let came = Came { link, topic, seen: message, packet_id };
                    let place = self.place(now, publish, came);
                    if matches!(place, Some(Place::Directed | Place::Handed)) {
                        self.note_mistakable(now, publish, came);
                    }
                    let has_come = match place {
                        Some(Place::Own) => false,
                        Some(Place::Directed) => self.emitted_directed(now, publish, came),
                        Some(Place::Handed) => self.emitted_handed(now, publish, came),
                        None => self.emitted_directed(now, publish, came) || self.emitted_handed(now, publish, came),
                    };
                    if !has_come {
                        self.emitted_own(now, link, publish, topic, message, packet_id);
                    }
                } else if publish.retain {
                    self.emitted_retained(now, link, publish, topic, message);
                } else {
                    self.emitted_shared(now, link, publish, topic, message);
                }
            }
        }
    }

    /// Whether the packet stands for the message.
    pub(super) fn is_it(&self, message: MessageId, seen: Option<MessageId>, topic: &str) -> bool {
        let one = self.registry.get(message);
        match seen {
            Some(seen) => seen == message,
            None => one.payload_bytes == 0 && TOPICS[one.topic] == topic,
        }
    }

    fn emitted_qos0(&mut self, now: u64, link: LinkId, publish: &Publish<'_>, topic: &str, seen: Option<MessageId>) {
        let Some(client) = self.conns.get(&link).map(|conn| conn.client) else { return };
        let mut identifiers = publish.properties.subscription_identifiers.clone();
        identifiers.sort_unstable();
        let at = self.expected.iter().position(|expected| {
            let is_here = match (expected.link, expected.group) {
                (Some(to), _) => to == link && identifiers == *expected.identifiers,
                (None, Some(group)) => {
                    self.live.groups.get(&group).is_some_and(|group| group.members.contains_key(&client))
                }
                (None, None) => false,
            };
            is_here && expected.retain == publish.retain && self.is_it(expected.message, seen, topic)
        });
        if let Some(at) = at {
            let expected = self.expected.remove(at);
            self.came_to_groups.extend(expected.group.map(|_| (client, expected)));
            return;
        }
        if self.came_to_other_group(client, publish, topic, seen) {
            return;
        }
        if publish.retain {
            return self.emitted_retained(now, link, publish, topic, seen);
        }
        if self.emitted_shared_at_qos0(now, client, topic, seen)
            || (self.give_mistaken_back(client, topic, seen) && self.emitted_shared_at_qos0(now, client, topic, seen))
        {
            return;
        }
        self.breach(Rule::WrongDelivery, format!("client {client} got {seen:?} on {topic} at QoS 0, unasked"));
    }

    /// Whoever is in two groups may have had the message of the one, and been taken for the member that got the other's: then what came
    /// now is what that one did not get.
    fn came_to_other_group(
        &mut self,
        client: usize,
        publish: &Publish<'_>,
        topic: &str,
        seen: Option<MessageId>,
    ) -> bool {
        let is_member = |group: Option<usize>, client: usize| {
            let group = group.and_then(|group| self.live.groups.get(&group));
            group.is_some_and(|group| group.members.contains_key(&client))
        };
        let is_it =
            |expected: &Expected| expected.retain == publish.retain && self.is_it(expected.message, seen, topic);
        let taken = self.came_to_groups.iter().enumerate().filter(|(_, (_, taken))| is_it(taken));
        let mut taken = taken.filter(|(_, (_, taken))| is_member(taken.group, client));
        let swap = taken.find_map(|(taken, (other, _))| {
            let mut left = self.expected.iter();
            let left = left.position(|left| left.link.is_none() && is_it(left) && is_member(left.group, *other))?;
            Some((taken, left))
        });
        let Some((taken, left)) = swap else { return false };
        let left = self.expected.remove(left);
        let (_, had) = &mut self.came_to_groups[taken];
        let had = std::mem::replace(had, left);
        self.came_to_groups.push((client, had));
        true
    }

    /// A resend, after the connection was lost.
    fn emitted_again(
        &mut self,
        link: LinkId,
        publish: &Publish<'_>,
        topic: &str,
        seen: Option<MessageId>,
        packet_id: u16,
    ) -> bool {
        let Some(client) = self.conns.get(&link).map(|conn| conn.client) else { return false };
        let Some(session) = self.live.sessions[client].as_mut() else { return false };
        let Some(flight) = session.flights.iter_mut().find(|flight| flight.packet_id == packet_id) else {
            return false;
        };
        let before = *flight;
        flight.link = link;
        self.tally.redeliveries += 1;
        let what = format!("client {client}, packet identifier {packet_id}, {seen:?} for {before:?}");
        if before.released {
            self.breach(Rule::Twice, format!("PUBLISH after PUBREC: {what}"));
        } else if !self.is_it(before.message, seen, topic) {
            self.breach(Rule::PacketIdentifier, what);
        } else if before.link == link {
            self.breach(Rule::Twice, format!("twice on one connection: {what}"));
        } else if !publish.dup {
            self.breach(Rule::Dup, what);
        }
        if packet_id <= OWN_IDS {
            self.in_order(link, packet_id);
        }
        if let FlightKind::Group(group, entry) = before.kind
            && let Some(entry) = self.live.group_entry(group, entry)
            && let Holder::Member { client: holder, free, .. } = &mut entry.holder
            && *holder == client
        {
            *free = false;
        }
        true
    }

    /// What has its place in a queue is sent in the order of the queue, which identifiers show.
    fn in_order(&mut self, link: LinkId, packet_id: u16) {
        let Some(conn) = self.conns.get_mut(&link) else { return };
        let before = std::mem::replace(&mut conn.last_ids[usize::from(packet_id > BULK_IDS)], packet_id);
        if before >= packet_id {
            self.breach(Rule::Order, format!("link {link}: packet identifier {packet_id} after {before}"));
        }
    }

    /// A retained message that was given a place in the queue. Whether it is one.
    fn emitted_directed(&mut self, now: u64, publish: &Publish<'_>, came: Came<'_>) -> bool {
        let Some(client) = self.conns.get(&came.link).map(|conn| conn.client) else { return false };
        let Some(session) = &self.live.sessions[client] else { return false };
        let epoch = session.epoch;
        let Some(due) = self.find_directed(now, session, publish, came).cloned() else { return false };
        (self.tally.retained_sent, self.tally.directed) = (self.tally.retained_sent + 1, self.tally.directed + 1);
        let what = format!("client {client}: {} is {due:?}", self.describe(due.message));
        if self.is_replaced(session, &due) {
            self.breach(Rule::Retained, format!("sent after the one that replaced it: {what}"));
        }
        if is_expired(due.expires_at, now) {
            self.breach(Rule::Expired, what.clone());
        }
        if due.lsn > self.durable {
            self.breach(Rule::RetainedBeforeDurable, what);
        }
        self.finish_due(client, epoch, due.id);
        if let Some(session) = self.base.session(client, epoch) {
            session.backlog.retain(|one| one.id != due.id);
        }
        // An older copy of the same message may be what came just now, and this one still comes.
        let terms = |due: &Due| (due.message, due.qos, due.identifier);
        for session in [&mut self.live, &mut self.base].into_iter().filter_map(|state| state.session(client, epoch)) {
            let copies = session.backlog.iter_mut().filter(|one| terms(one) == terms(&due) && one.stored < due.stored);
            copies.for_each(|one| (one.stored, one.optional) = (due.stored, true));
        }
        let entry = Entry {
            id: due.id,
            message: due.message,
            expires_at: due.expires_at,
            qos: due.qos,
            retain: true,
            identifiers: publish.properties.subscription_identifiers.iter().copied().collect(),
            lsn: due.lsn,
            packet_id: came.packet_id,
            was_sent: Some(true),
            phase: Phase::Queued,
            optional: false,
            anywhere: false,
        };
        self.give_place(client, epoch, &entry, came.link);
        true
    }

    /// A shared message of QoS 2 that was given a place in the member's queue. Whether it is one.
    fn emitted_handed(&mut self, now: u64, publish: &Publish<'_>, came: Came<'_>) -> bool {
        let Some(client) = self.conns.get(&came.link).map(|conn| conn.client) else { return false };
        let Some(session) = &self.live.sessions[client] else { return false };
        let epoch = session.epoch;
        let Some((expired, _, filter, id)) = self.find_handed(now, client, came) else { return false };
        let Some(entry) = self.live.group_entry(filter, id).map(|entry| entry.clone()) else { return false };
        (self.tally.shared, self.tally.handed) = (self.tally.shared + 1, self.tally.handed + 1);
        let what = format!("client {client} through {}: {entry:?}", Self::filter_text(filter));
        if publish.qos != QoS::ExactlyOnce || self.registry.get(entry.message).qos != QoS::ExactlyOnce {
            self.breach(Rule::WrongDelivery, what.clone());
        }
        if entry.lsn > self.durable {
            self.breach(Rule::DeliveredBeforeDurable, what.clone());
        }
        if expired {
            self.breach(Rule::Expired, what);
        }
        self.finish_in_group(filter, id);
        if let Some(entry) = self.base.group_entry(filter, id) {
            entry.holder = Holder::Done;
        }
        if let Some(group) = self.base.groups.get_mut(&filter) {
            group.entries.retain(|entry| entry.id != id);
        }
        let entry = Entry {
            id,
            message: entry.message,
            expires_at: entry.expires_at,
            qos: QoS::ExactlyOnce,
            retain: false,
            identifiers: Default::default(),
            lsn: entry.lsn,
            packet_id: came.packet_id,
            was_sent: Some(true),
            phase: Phase::Queued,
            optional: false,
            anywhere: false,
        };
        self.give_place(client, epoch, &entry, came.link);
        true
    }

    /// What was sent from a place in the queue stands there from now on, also after a crash.
    pub(super) fn give_place(&mut self, client: usize, epoch: u64, entry: &Entry, link: LinkId) {
        let urgent: [bool; TOPICS.len()] = std::array::from_fn(|topic| self.is_urgent(topic));
        let lane = |registry: &Registry, entry: &Entry| urgent[registry.get(entry.message).topic];
        let is_urgent = lane(&self.registry, entry);
        if let Some(session) = self.base.session(client, epoch) {
            session.insert_sent(entry.clone(), |other| lane(&self.registry, other) == is_urgent);
        }
        let Some(session) = self.live.session(client, epoch) else { return };
        let flying = Entry { phase: Phase::Flying, ..entry.clone() };
        session.insert_sent(flying, |other| lane(&self.registry, other) == is_urgent);
        session.flights.push(Flight {
            packet_id: entry.packet_id,
            kind: FlightKind::Own(entry.id),
            message: entry.message,
            qos: entry.qos,
            released: false,
            received_lsn: 0,
            link,
        });
    }

    fn emitted_own(
        &mut self,
        now: u64,
        link: LinkId,
        publish: &Publish<'_>,
        topic: &str,
        seen: Option<MessageId>,
        packet_id: u16,
    ) {
        let Some(client) = self.conns.get(&link).map(|conn| conn.client) else { return };
        let Some(session) = &self.live.sessions[client] else { return };
        let in_lane = |entry: &Entry| self.is_urgent(self.registry.get(entry.message).topic) == (packet_id > BULK_IDS);
        let queued = session.entries.iter().enumerate();
        let queued = queued.filter(|(_, entry)| entry.phase == Phase::Queued && in_lane(entry));
        let is_it = |entry: &Entry| {
            self.is_it(entry.message, seen, topic) && (entry.packet_id == 0 || entry.packet_id == packet_id)
        };
        // Published twice, the first may have expired, and another subscription may have brought it.
        let mut identifiers = publish.properties.subscription_identifiers.clone();
        identifiers.sort_unstable();
        let fitting = queued.clone().filter(|(_, entry)| is_it(entry));
        let found = fitting.min_by_key(|(_, entry)| {
            let as_asked = (entry.qos, entry.retain) == (publish.qos, publish.retain);
            let fits = as_asked && identifiers == *entry.identifiers && entry.was_sent != Some(!publish.dup);
            (!fits, is_expired(entry.expires_at, now), entry.anywhere)
        });
        let found = found.map(|(at, _)| at);
        // If its DUP is wrong, it may be what was taken for something else before.
        let found = found.filter(|at| {
            let entry = &session.entries[*at];
            entry.was_sent != Some(!publish.dup) || session.mistakable.iter().all(|one| one.id != entry.id)
        });
        let is_in_order = found.is_some_and(|at| !session.entries[at].anywhere);
        let passed: Vec<(u64, MessageId, bool)> = queued
            .take_while(|(at, _)| is_in_order && Some(*at) != found)
            .filter(|(_, entry)| !entry.anywhere && entry.packet_id < packet_id)
            .map(|(_, entry)| (entry.id, entry.message, entry.optional || is_expired(entry.expires_at, now)))
            .collect();
        let Some(at) = found else {
            let came = Came { link, topic, seen, packet_id };
            let is_mistaken = self.emitted_mistaken(publish, came)
                || (self.give_mistaken_back(client, topic, seen) && self.emitted_handed(now, publish, came));
            if is_mistaken {
                return;
            }
            let Publish { dup, qos, retain, properties, .. } = publish;
            let how = format!("dup {dup}, {qos:?}, retain {retain}, {:?}", properties.subscription_identifiers);
            let detail = format!("client {client} got {seen:?} on {topic}, identifier {packet_id}, {how}, unasked");
            return self.breach(Rule::WrongDelivery, detail);
        };
        let entry = session.entries[at].clone();
        let epoch = session.epoch;
        for (id, message, may_be_gone) in passed {
            if !may_be_gone && !self.came_for_another(client, epoch, message) {
                let detail = format!("client {client} got {seen:?} before {}", self.describe(message));
                self.breach(Rule::Order, detail);
            }
            // It is gone: the queue is in order.
            self.tally.expired_messages += 1;
            self.live.session(client, epoch).into_iter().for_each(|session| session.forget_entry(id));
            // Whatever says so may not be durable yet.
            if let Some(entry) = self.base.session(client, epoch).and_then(|session| session.entry(id)) {
                entry.optional = true;
                let lsn = Some(self.last);
                self.finished.push_back(Finished { client, epoch, entry: id, at: now, lsn });
            }
        }
        self.check_own(now, client, publish, &entry);
        if entry.anywhere {
            for state in [&mut self.live, &mut self.base] {
                state.session(client, epoch).into_iter().for_each(|session| session.forget_entry(entry.id));
            }
            // That the group gave it away is durable, that the group ended may not be.
            for group in self.live.groups.values_mut().chain(self.base.groups.values_mut()) {
                group.entries.retain(|one| one.id != entry.id);
            }
            let entry = Entry {
                packet_id,
                was_sent: Some(true),
                phase: Phase::Queued,
                optional: false,
                anywhere: false,
                ..entry
            };
            return self.give_place(client, epoch, &entry, link);
        }
        if entry.optional
            && let Some(session) = self.live.session(client, epoch)
        {
            session.came_maybe.push(entry.message);
        }
        let topic = self.registry.get(entry.message).topic;
        if let Some(session) = self.live.session(client, epoch) {
            let newest = session.newest.entry(topic).or_default();
            *newest = (entry.id, entry.message).max(*newest);
        }
        for state in [&mut self.live, &mut self.base] {
            if let Some(entry) = state.session(client, epoch).and_then(|session| session.entry(entry.id)) {
                (entry.packet_id, entry.was_sent) = (packet_id, Some(true));
            }
        }
        let Some(session) = self.live.sessions[client].as_mut() else { return };
        session.entry(entry.id).into_iter().for_each(|entry| (entry.phase, entry.optional) = (Phase::Flying, false));
        session.flights.push(Flight {
            packet_id,
            kind: FlightKind::Own(entry.id),
            message: entry.message,
            qos: entry.qos,
            released: false,
            received_lsn: 0,
            link,
        });
    }

    /// Whether a copy of the message came that was taken for one that need not have come.
    fn came_for_another(&mut self, client: usize, epoch: u64, message: MessageId) -> bool {
        let Some(session) = self.live.session(client, epoch) else { return false };
        let at = session.came_maybe.iter().position(|came| *came == message);
        at.map(|at| session.came_maybe.swap_remove(at)).is_some()
    }

    fn check_own(&mut self, now: u64, client: usize, publish: &Publish<'_>, entry: &Entry) {
        let what = format!("client {client}: {publish:?} for {entry:?}");
        let mut identifiers = publish.properties.subscription_identifiers.clone();
        identifiers.sort_unstable();
        if publish.qos != entry.qos || publish.retain != entry.retain || identifiers != *entry.identifiers {
            self.breach(Rule::WrongDelivery, what.clone());
        }
        if entry.lsn > self.durable {
            self.breach(Rule::DeliveredBeforeDurable, what.clone());
        }
        if is_expired(entry.expires_at, now) {
            self.breach(Rule::Expired, what.clone());
        }
        if entry.was_sent == Some(!publish.dup) {
            self.breach(Rule::Dup, what);
        }
    }

    fn emitted_retained(
        &mut self,
        now: u64,
        link: LinkId,
        publish: &Publish<'_>,
        topic: &str,
        seen: Option<MessageId>,
    ) {
        let Some(client) = self.conns.get(&link).map(|conn| conn.client) else { return };
        let Some(session) = &self.live.sessions[client] else { return };
        let (epoch, is_persistent) = (session.epoch, session.is_persistent());
        let waiting = session.backlog.iter().filter(|due| !due.flying);
        let fitting = waiting.filter(|due| {
            let identifiers = &publish.properties.subscription_identifiers;
            let identified =
                if due.identifier == 0 { identifiers.is_empty() } else { *identifiers == [due.identifier] };
            self.is_it(due.message, seen, topic) && due.qos == publish.qos && identified
        });
        let found = fitting.min_by_key(|due| {
            let kept = self.live.retained.get(&self.registry.get(due.message).topic);
            (kept.is_none_or(|kept| kept.stored != due.stored), due.optional)
        });
        let Some(due) = found.cloned() else {
            let detail = format!("client {client} got {seen:?} on {topic} with retain, unasked");
            return self.breach(Rule::WrongDelivery, detail);
        };
        self.tally.retained_sent += 1;
        let what = format!("client {client}: {} is {due:?}", self.describe(due.message));
        let kept = self.live.retained.get(&self.registry.get(due.message).topic);
        if kept.is_none_or(|kept| kept.stored != due.stored) {
            self.breach(Rule::Retained, format!("replaced, and sent: {what}"));
        }
        if is_expired(due.expires_at, now) {
            self.breach(Rule::Expired, what.clone());
        }
        if is_persistent && due.lsn > self.durable {
            self.breach(Rule::RetainedBeforeDurable, what);
        }
        if publish.qos == QoS::AtMostOnce {
            return self.finish_due(client, epoch, due.id);
        }
        let Some(session) = self.live.sessions[client].as_mut() else { return };
        session.backlog.iter_mut().filter(|one| one.id == due.id).for_each(|one| one.flying = true);
        session.flights.push(Flight {
            packet_id: publish.packet_id.map_or(0, |id| id.get()),
            kind: FlightKind::Retained(due.id),
            message: due.message,
            qos: publish.qos,
            released: false,
            received_lsn: 0,
            link,
        });
    }

    /// The group through which the client may get the message now, and the entry. Where a message was published twice,
    /// the one that must be delivered counts before the one that may.
    fn find_shared(
        &self,
        now: u64,
        client: usize,
        qos: QoS,
        topic: &str,
        seen: Option<MessageId>,
    ) -> Option<(usize, u64)> {
        let session = self.live.sessions[client].as_ref()?;
        let groups = session.subs.keys().filter(|filter| is_shared(**filter));
        let groups = groups.filter_map(|filter| Some((*filter, self.live.groups.get(filter)?)));
        let entries = groups.flat_map(|(filter, group)| group.entries.iter().map(move |entry| (filter, entry)));
        let may_go = entries.filter(|(_, entry)| {
            let may_go = match entry.holder {
                Holder::Nobody => true,
                Holder::Member { free, .. } => free,
                Holder::Done => false,
            };
            may_go && self.is_it(entry.message, seen, topic)
        });
        let (filter, entry) = may_go.min_by_key(|(filter, entry)| {
            let is_due = entry.lsn <= self.durable && !is_expired(entry.expires_at, now);
            let fits = session.subs[filter].qos.min(self.registry.get(entry.message).qos) == qos;
            (!fits, !is_due, entry.optional, entry.holder != Holder::Nobody)
        })?;
        Some((filter, entry.id))
    }

    fn emitted_shared(&mut self, now: u64, link: LinkId, publish: &Publish<'_>, topic: &str, seen: Option<MessageId>) {
        let Some(client) = self.conns.get(&link).map(|conn| conn.client) else { return };
        let mut found = self.find_shared(now, client, publish.qos, topic, seen);
        if found.is_none() && self.give_mistaken_back(client, topic, seen) {
            found = self.find_shared(now, client, publish.qos, topic, seen);
        }
        let Some((group, id)) = found else {
            let detail = format!("client {client} got {seen:?} on {topic} through no group of its own");
            return self.breach(Rule::WrongDelivery, detail);
        };
        self.check_shared(now, client, publish.qos, group, id);
        let Some(session) = self.live.sessions[client].as_mut() else { return };
        let epoch = session.epoch;
        let Some(entry) = self.live.group_entry(group, id) else { return };
        entry.holder = Holder::Member { client, epoch, free: false };
        let message = entry.message;
        let Some(session) = self.live.sessions[client].as_mut() else { return };
        session.flights.push(Flight {
            packet_id: publish.packet_id.map_or(0, |id| id.get()),
            kind: FlightKind::Group(group, id),
            message,
            qos: publish.qos,
            released: false,
            received_lsn: 0,
            link,
        });
    }

    /// A message that waited in a group, to a member that wants QoS 0.
    fn emitted_shared_at_qos0(&mut self, now: u64, client: usize, topic: &str, seen: Option<MessageId>) -> bool {
        let Some((group, id)) = self.find_shared(now, client, QoS::AtMostOnce, topic, seen) else { return false };
        self.check_shared(now, client, QoS::AtMostOnce, group, id);
        self.finish_in_group(group, id);
        true
    }

    fn check_shared(&mut self, now: u64, client: usize, qos: QoS, group: usize, id: u64) {
        self.tally.shared += 1;
        let asked = self.live.groups.get(&group).and_then(|group| group.members.get(&client)).copied();
        let Some(entry) = self.live.group_entry(group, id).map(|entry| entry.clone()) else { return };
        let expected = asked.map(|sub| sub.qos.min(self.registry.get(entry.message).qos));
        let what = format!("client {client} through {}: {entry:?}", Self::filter_text(group));
        if expected != Some(qos) {
            self.breach(Rule::WrongDelivery, format!("{what} at {qos:?}, not {expected:?}"));
        }
        if self.registry.get(entry.message).copies > 1 {
            // Nobody can tell which of them it is.
            return;
        }
        if entry.lsn > self.durable {
            self.breach(Rule::DeliveredBeforeDurable, what.clone());
        }
        if is_expired(entry.expires_at, now) {
            self.breach(Rule::Expired, what);
        }
    }
}
