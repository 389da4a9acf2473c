//! From a message to the outboxes and queues of everybody who wants it.
//!
//! Owns routing: match (`matching`), check room (`room`), record, hand out. How a session's queue moves into its connection is said in `pump`; shared
//! subscriptions continue in `share`.

use std::borrow::Cow;
use std::sync::Arc;

use causeway_fleet::calls;
use causeway_protocol::{PacketId, ProtocolVersion, QoS, ReasonCode, filter_matches};
use smallvec::SmallVec;

use super::command::{Written, topic_for, write_publish, write_stub};
use super::matching::Match;
use super::presence::{Late, is_presence};
use super::pump::count_sent;
use super::room::Skipped;
use super::{Release, Shard, mark_dirty};
use crate::commons::{Commons, Span};
use crate::connection::{Connection, Outgoing, Payload, TooLarge, Words};
use crate::effect::{Effect, Event, EventLevel};
use crate::lane::LaneName;
use crate::limits::Overflow;
use crate::message::{CopyFor, Message, Publication};
use crate::queue::Delivery;
use crate::session::SessionKey;
use crate::shared::GroupKey;
use crate::{Bound, Lsn, Millis};

/// Matches that fit into the memory kept from one message to the next.
const MATCHES_KEPT: usize = 4096;

/// Where a message comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// A client that can be refused; the identifier is that of a QoS 2 message.
    Client { session: Option<SessionKey>, packet_id: Option<PacketId> },
    /// A will: nobody can be refused, so a full queue loses it, counted.
    Will { session: SessionKey },
    /// The broker's own statistics: likewise, and never recorded.
    Broker,
    /// Which vehicles are connected: nobody can be refused, whoever has no room catches up later, and nobody sees it before it is durable.
    Presence,
    /// What came of something that the broker was asked: nobody can be refused, and nobody sees it before this record is durable.
    Service { after: Lsn },
    /// A step of a command, by the message that brought it about: its record is that of the step. Nobody can be refused, those whom it is about
    /// least of all, and nobody sees it before it is durable.
    Command { session: Option<SessionKey>, packet_id: Option<PacketId> },
}

impl Origin {
    /// Whose message it is, where a session published it.
    pub(super) fn publisher(self) -> Option<SessionKey> {
        match self {
            Origin::Client { session, .. } => session,
            Origin::Will { session } => Some(session),
            // What the broker says is meant for those who asked for it, too.
            Origin::Broker | Origin::Presence | Origin::Service { .. } | Origin::Command { .. } => None,
        }
    }
}

/// What became of a routed message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Routed {
    /// The record it is durable with; zero where nothing needs to be.
    pub(super) durable_at: Lsn,
    pub(super) matched: bool,
}

/// A payload of more bytes is shared by itself: in the commons, few of them would leave no room for others.
const COMMON_BYTES_MAX: usize = 16 * 1024;

/// The forms in which a QoS 0 message is sent to those who all get the same bytes, each written once.
#[derive(Debug, Default)]
pub(super) struct Forms(SmallVec<[(Form, Span); 2]>);

/// What a form depends on: the version, the retain flag, and in whose words it is.
type Form = (ProtocolVersion, bool, Words);

impl Forms {
    /// Puts the message into an outbox as one of the forms. `None` where this client needs bytes of its own.
    fn write(
        &mut self,
        now: Millis,
        connection: &mut Connection,
        outgoing: &Outgoing<'_>,
        commons: &mut Commons,
    ) -> Option<Result<(), TooLarge>> {
        if matches!(outgoing.payload, Payload::Shared(_)) || !connection.takes_common(outgoing) {
            return None;
        }
        let form = (connection.version, outgoing.retain, connection.words());
        let known = self.0.iter().find(|(known, _)| *known == form);
        let span = match known {
            Some((_, span)) => *span,
            None => match connection.common(now, outgoing, commons)? {
                Ok(span) => {
                    self.0.push((form, span));
                    span
                }
                Err(TooLarge) => return Some(Err(TooLarge)),
            },
        };
        Some(connection.write_common(span, commons))
    }
}

impl Shard {
    /// Hands a message to everybody who wants it, or to nobody: a refusal leaves no trace.
    pub(super) fn route(
        &mut self,
        now: Millis,
        publication: &mut Publication<'_>,
        origin: Origin,
    ) -> Result<Routed, (ReasonCode, String)> {
        self.collect_matches_of(publication, origin);
        if matches!(origin, Origin::Will { .. } | Origin::Broker) {
            self.keep_if_there_is_room(publication);
        }
        self.stamp(now, publication, origin);
        self.match_all_peers(publication, origin);
        let skipped = match origin {
            Origin::Client { .. } if self.is_from_peer(origin) => match is_presence(publication.topic) {
                true => self.skip_without_room(now, publication),
                // Its publisher was told that it is accepted, when its own shard had room for it.
                false => self.skip_overfull(publication),
            },
            Origin::Client { .. } => {
                self.check_room(now, publication)?;
                Skipped::default()
            }
            Origin::Will { .. }
            | Origin::Broker
            | Origin::Presence
            | Origin::Service { .. }
            | Origin::Command { .. } => self.skip_without_room(now, publication),
        };
        self.number(publication);
        let matched = !self.matches.is_empty() || !self.matched_groups.is_empty();
        let lane = self.lane_of(publication);
        let recorded = match origin {
            Origin::Broker => false,
            // Its record comes behind the one it waits for.
            Origin::Service { .. } => self.is_acknowledged(publication.qos) || self.is_owed(now, publication),
            Origin::Command { .. } => true,
            Origin::Client { .. } | Origin::Will { .. } | Origin::Presence => self.is_owed(now, publication),
        };
        self.direct_overtaken(now, publication);
        let durable_at = if recorded { self.record_publish(now, publication, lane, origin, skipped) } else { Lsn(0) };
        let seen_after = match origin {
            Origin::Presence | Origin::Command { .. } => durable_at,
            Origin::Service { after } => after.max(durable_at),
            Origin::Client { .. } | Origin::Will { .. } | Origin::Broker => Lsn(0),
        };
        self.owe_to_all(publication, durable_at);
        if publication.retain {
            if publication.copy == CopyFor::Present {
                self.retained.set_ahead(now, publication.keep());
            } else {
                self.retain(publication, durable_at);
            }
        }
        let mut matches = std::mem::take(&mut self.matches);
        let mut forms = Forms::default();
        for matched in matches.drain(..) {
            if seen_after > self.durable && matched.qos_of(publication.qos) == QoS::AtMostOnce {
                self.put_off(publication, matched, seen_after);
                continue;
            }
            self.deliver(now, publication, matched, (durable_at, lane), &mut forms);
        }
        // A broadcast to very many leaves no trace in memory.
        matches.shrink_to(MATCHES_KEPT);
        self.matches = matches;
        let mut groups = std::mem::take(&mut self.matched_groups);
        for group in groups.drain(..) {
            self.deliver_to_group(now, publication, group, (durable_at, seen_after));
        }
        self.matched_groups = groups;
        for (name, text) in std::mem::take(&mut self.overflows) {
            self.tell_sys(&name, &text, now);
        }
        Ok(Routed { durable_at, matched })
    }

    /// What of QoS 0 must not be seen before it is durable waits for that.
    fn put_off(&mut self, publication: &mut Publication<'_>, matched: Match, durable_at: Lsn) {
        let Some(session) = self.sessions.get(matched.session as usize) else { return };
        let (message, retain) = (publication.keep(), publication.retain && matched.retain_as_published);
        let late = Box::new(Late { message, retain, identifiers: matched.identifiers });
        let release = Release::Late { session: matched.session, epoch: session.epoch, late };
        self.releases.push_back((durable_at, release));
    }

    /// Whether the message goes before others.
    pub(super) fn lane_of(&self, publication: &Publication<'_>) -> LaneName {
        if publication.qos == QoS::AtMostOnce { LaneName::Bulk } else { self.lane_of_topic(publication.topic) }
    }

    pub(super) fn lane_of_topic(&self, topic: &str) -> LaneName {
        LaneName::of(self.limits.urgent_topics.iter().any(|filter| filter_matches(filter, topic)))
    }

    /// Whether anybody who matched acknowledges a message of this QoS.
    fn is_acknowledged(&self, qos: QoS) -> bool {
        let by_group = |key: &GroupKey| self.groups.get(*key).is_some_and(|group| group.qos_max() > QoS::AtMostOnce);
        qos > QoS::AtMostOnce
            && (self.matches.iter().any(|matched| matched.qos > QoS::AtMostOnce)
                || self.matched_groups.iter().any(by_group))
    }

    /// Counts to how many a recorded message is owed, and keeps its body at hand for those who are here.
    fn owe_to_all(&mut self, publication: &mut Publication<'_>, lsn: Lsn) {
        let qos = publication.qos;
        if lsn == Lsn(0) || (qos == QoS::AtMostOnce && publication.stamp == 0) {
            return;
        }
        let sessions = self.matches.iter().filter(|matched| matched.qos_of(qos) > QoS::AtMostOnce).count();
        let owed_by =
            |key: &&GroupKey| self.groups.get(**key).is_some_and(|group| group.qos_max().min(qos) > QoS::AtMostOnce);
        let deliveries = (sessions + self.matched_groups.iter().filter(owed_by).count()) as u32;
        if deliveries > 0 {
            self.queues.bodies.owe(lsn, publication.bytes() as u32, deliveries);
            self.queues.bodies.put(lsn, publication.keep());
        }
    }

    pub(super) fn retain(&mut self, publication: &mut Publication<'_>, lsn: Lsn) {
        // Another shard's may have come first, and have been published later.
        let is_old = publication.stamp != 0 && !self.retained.is_newest(publication.topic, publication.stamp);
        if is_old {
            return;
        }
        let ahead = self.retained.take_ahead(publication.topic, publication.stamp);
        if lsn > Lsn(0) {
            self.changed.retained(publication.topic);
        }
        //= [MQTT-3.3.1-6] [MQTT-3.3.1-7] an empty retained message removes what is there and is not kept
        if publication.payload.is_empty() {
            self.note_removal(publication.topic, publication.stamp);
            self.set_retained(publication.topic, None);
            return;
        }
        //= [MQTT-3.3.1-5] the message replaces any retained one of its topic
        let message = ahead.unwrap_or_else(|| publication.keep());
        self.set_retained(publication.topic, Some((message, lsn)));
    }

    fn deliver(
        &mut self,
        now: Millis,
        publication: &mut Publication<'_>,
        matched: Match,
        (durable_at, lane): (Lsn, LaneName),
        forms: &mut Forms,
    ) {
        let qos = matched.qos_of(publication.qos);
        //= [MQTT-3.3.1-12] [MQTT-3.3.1-13] the retain flag only where the subscription asked for it as published
        let retain = publication.retain && matched.retain_as_published;
        if qos == QoS::AtMostOnce {
            // A retained message that expired on its way from another shard only takes the place of an older one.
            if publication.stamp == 0 || publication.expires_at.is_none_or(|at| at > now) {
                self.deliver_now(now, publication, matched.session, (retain, &matched.identifiers), forms);
            }
            return;
        }
        if self.sessions.get(matched.session as usize).is_some_and(|session| session.overflow == Overflow::DropOldest) {
            self.drop_oldest(now, matched.session, publication.bytes());
        }
        let delivery = Delivery::of(publication, durable_at, qos, retain);
        // Without a record it waits for nothing but its client.
        if durable_at == Lsn(0) && self.can_pass(now, publication, matched.session, lane) {
            let Some(session) = self.sessions.get_mut(matched.session as usize) else { return };
            // A crash brings the places in the queue for another shard back: what it does not bring back takes none of them.
            let place = (!session.is_peer()).then(|| (lane, session.pass_through(lane)));
            self.changed.session(matched.session);
            let delivery = Delivery { identifiers: matched.identifiers, ..delivery };
            self.send(now, matched.session, publication.keep(), delivery, place);
            return;
        }
        let Some(session) = self.sessions.get_mut(matched.session as usize) else { return };
        session.enqueue(&mut self.queues, lane, Delivery { identifiers: matched.identifiers, ..delivery });
        self.changed.session(matched.session);
        let (epoch, is_away) = (session.epoch, session.connection.is_none());
        self.note_queued(now, matched.session);
        if is_away {
            return;
        }
        if durable_at > self.durable {
            let release = Release::Session { session: matched.session, epoch };
            self.releases.push_back((durable_at, release));
        } else {
            self.pump(now, matched.session);
        }
    }

    /// Whether a message could go to a session at once, past its empty queue.
    pub(super) fn can_pass(&self, now: Millis, publication: &Publication<'_>, key: SessionKey, lane: LaneName) -> bool {
        let session = self.sessions.get(key as usize);
        let connection = session.and_then(|session| self.connections.get(session.connection?.index()));
        let has_window = connection.is_some_and(Connection::has_window);
        let is_alive = publication.expires_at.is_none_or(|at| at > now);
        is_alive && has_window && session.is_some_and(|session| session.is_clear(lane, self.durable))
    }

    /// QoS 0: straight into the outbox, or dropped where the client is away or too slow.
    pub(super) fn deliver_now(
        &mut self,
        now: Millis,
        publication: &mut Publication<'_>,
        key: SessionKey,
        (retain, identifiers): (bool, &[u32]),
        forms: &mut Forms,
    ) {
        let Some(id) = self.sessions.get(key as usize).and_then(|session| session.connection) else {
            return;
        };
        let kept = (publication.payload.len() > COMMON_BYTES_MAX).then(|| publication.keep());
        let Some(connection) = self.connections.get_mut(id.index()) else {
            return;
        };
        if connection.checks_deliveries
            && let Err(why) = self.in_force.may_receive(connection, publication.topic)
        {
            self.refused_delivery(now, id, publication.topic, &why);
            return;
        }
        if !connection.takes_more(&self.limits) {
            self.counters.reached(Bound::OutboxBytes);
            self.counters.dropped_slow_consumer += 1;
            let session = &mut self.sessions[key as usize];
            session.missed_presence |= is_presence(publication.topic);
            if calls::is_delta(publication.topic) {
                (session.is_due_deltas, session.deltas_passed) = (true, 0);
            }
            return;
        }
        let topic = match publication.command {
            Some(id) => {
                let session = &self.sessions[key as usize];
                let who = (&session.principal, &session.subscriptions);
                topic_for(who, connection.version, (publication.topic, id))
            }
            None => Cow::Borrowed(publication.topic),
        };
        let outgoing = Outgoing {
            dup: false,
            qos: QoS::AtMostOnce,
            retain,
            topic: &topic,
            packet_id: None,
            expires_at: publication.expires_at,
            identifiers,
            stamps: &[],
            provenance: publication.provenance.as_ref(),
            forwarded: publication.forwarded,
            payload: match &kept {
                Some(message) => Payload::Shared(&message.payload),
                None => Payload::Borrowed(publication.payload),
            },
        };
        // Of a command, not all get the same.
        let common = match publication.command {
            None => forms.write(now, connection, &outgoing, &mut self.commons),
            Some(_) => None,
        };
        let sent = match common {
            Some(Ok(())) => Ok(Written::Whole),
            Some(Err(TooLarge)) => write_stub(now, connection, &outgoing),
            None => write_publish(now, connection, &outgoing),
        };
        count_sent(&mut self.counters, QoS::AtMostOnce, publication.payload.len(), sent);
        mark_dirty(&mut self.dirty, connection);
    }

    /// A retained message that a session is still due goes into its queue before a newer message of its topic does.
    fn direct_overtaken(&mut self, now: Millis, publication: &Publication<'_>) {
        if publication.qos == QoS::AtMostOnce || self.backlog_messages == 0 {
            return;
        }
        let Some(retained) = self.retained.get(publication.topic).cloned() else { return };
        for at in 0..self.matches.len() {
            let key = self.matches[at].session;
            let waits =
                self.sessions.get(key as usize).filter(|session| session.recorded && !session.backlog.is_empty());
            let place = waits.and_then(|session| {
                session.backlog.iter().position(|due| {
                    due.qos > QoS::AtMostOnce
                        && due.message.as_ref().is_some_and(|message| Arc::ptr_eq(message, &retained))
                })
            });
            let due = place.and_then(|place| self.sessions.get_mut(key as usize)?.backlog.remove(place));
            if let Some(due) = due {
                self.backlog_messages -= 1;
                self.direct(now, key, &retained, due);
            }
        }
    }

    /// Gives a retained message a place in the queue of a session that outlives its connection.
    pub(super) fn direct(&mut self, now: Millis, key: SessionKey, message: &Arc<Message>, due: Delivery) {
        // Whatever replaces it comes by the same lane, so it never comes first.
        let lane = self.lane_of_topic(&message.topic);
        let lsn = self.record_directed(now, key, lane, message, &due);
        self.queues.bodies.owe(lsn, due.bytes, 1);
        self.queues.bodies.put(lsn, Arc::clone(message));
        let Some(session) = self.sessions.get_mut(key as usize) else { return };
        let delivery = Delivery { lsn, message: None, retained_at: Lsn(0), ..due };
        session.enqueue(&mut self.queues, lane, delivery);
        let release = Release::Session { session: key, epoch: session.epoch };
        self.releases.push_back((lsn, release));
    }

    pub(super) fn session_event(&mut self, level: EventLevel, key: SessionKey, what: &'static str, detail: &str) {
        let Some(session) = self.sessions.get(key as usize) else {
            return;
        };
        let event = Event {
            level,
            connection: session.connection,
            client: session.client_id.to_string(),
            principal: session.principal.to_string(),
            what,
            reason: None,
            detail: detail.to_owned(),
        };
        self.effects.push_back(Effect::Event(event));
    }
}
