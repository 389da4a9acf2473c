//! From a session's queues to its client.
//!
//! Owns what is sent when, once there is room in flight: what was in flight before, retained messages, and the lanes. Whose queue a message
//! comes into is said in `deliver`.

use std::borrow::Cow;
use std::sync::Arc;

use causeway_fleet::Principal;
use causeway_protocol::{Ack, Packet, PacketId, ProtocolVersion, QoS, ReasonCode};

use super::command::{Written, is_too_late, topic_for, write_publish};
use super::peers::is_peer_session;
use super::{Release, Shard, mark_dirty};
use crate::connection::{Connection, Outgoing, Payload, TooLarge};
use crate::lane::{LaneName, Number};
use crate::message::Message;
use crate::queue::{Delivery, Expiry};
use crate::session::{Phase, Session, SessionKey, body_of};
use crate::subscriptions::Subscriptions;
use crate::{Counters, Millis};

/// Retained messages are put into a queue that is shorter than this.
const DIRECTED_MAX: usize = 64;

impl Shard {
    /// Sends a session's client what it may have now: first what a resume must repeat, then retained messages that are
    /// due, then the queue, then its turns in shared subscriptions.
    pub(super) fn pump(&mut self, now: Millis, key: SessionKey) {
        if self.sessions.get(key as usize).is_none_or(|session| session.attached_at > self.durable) {
            return;
        }
        self.resend(now, key);
        if self.sessions.get(key as usize).is_none_or(|session| session.unsent > 0) {
            // Nothing overtakes what was in flight: its bodies are on their way, or its client's window is full.
            return;
        }
        self.pump_retained(now, key);
        if is_peer_session(&self.sessions, key) {
            // Its queue may take the whole window all the time. Those who share fill it only as fast as they acknowledge.
            self.pump_groups_of(now, key);
            self.pump_queue(now, key);
            return;
        }
        self.pump_queue(now, key);
        if self.sessions.get(key as usize).is_some_and(Session::has_to_catch_up) {
            self.catch_up_with_presence(now, key);
            self.catch_up_with_deltas(now, key);
        }
        self.pump_groups_of(now, key);
    }

    /// After a resume: what was in flight, in its order, with DUP.
    fn resend(&mut self, now: Millis, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(key as usize).filter(|session| session.unsent > 0) else {
            return;
        };
        let Some(connection) = session.connection.and_then(|id| self.connections.get_mut(id.index())) else {
            return;
        };
        let (mut lost, mut refused) = (Vec::new(), Vec::new());
        let mut wanted = false;
        //= [MQTT-4.4.0-1] unacknowledged PUBLISH and PUBREL are sent again, with their identifiers
        //= [MQTT-4.6.0-1] in the order in which they were first sent
        for (at, inflight) in session.inflight.iter_mut().enumerate() {
            if inflight.sent {
                continue;
            }
            match &mut inflight.phase {
                // The client may forget the message once it is told, so the log must know first that the client has it.
                Phase::Release(durable_at) if *durable_at > self.durable => break,
                Phase::Release(_) => {
                    connection.write(Packet::PubRel(Ack::new(inflight.packet_id, ReasonCode::Success)));
                }
                Phase::Publish(_) if !connection.has_window() => break,
                Phase::Publish(delivery) => {
                    let Some(message) = body_of(&self.queues, delivery) else {
                        wanted = !self.fetches.is_lost(delivery.lsn);
                        if wanted {
                            break;
                        }
                        lost.push(at);
                        continue;
                    };
                    let message = Arc::clone(message);
                    if message
                        .command
                        .is_some_and(|id| is_too_late(&self.commands, &session.principal, (&message, id), now))
                    {
                        //= exception [MQTT-4.4.0-1]: what is no longer to be done is not asked for again
                        self.counters.dropped_expired += 1;
                        lost.push(at);
                        continue;
                    }
                    if connection.checks_deliveries
                        && let Err(why) = self.in_force.may_receive(connection, &message.topic)
                    {
                        refused.push((connection.id, message, why));
                        lost.push(at);
                        continue;
                    }
                    //= [MQTT-3.3.1-1] DUP marks a repeated delivery
                    let topic = named(&session.principal, &session.subscriptions, connection.version, &message);
                    let outgoing =
                        Outgoing { topic: &topic, ..outgoing(&message, delivery, true, Some(inflight.packet_id)) };
                    let sent = write_publish(now, connection, &outgoing);
                    match sent {
                        Ok(_) => {
                            connection.unacknowledged += 1;
                            inflight.counted = true;
                        }
                        Err(TooLarge) => lost.push(at),
                    }
                    count_sent(&mut self.counters, delivery.qos, message.payload.len(), sent);
                    delivery.message = Some(message);
                }
            }
            inflight.sent = true;
            session.unsent -= 1;
            mark_dirty(&mut self.dirty, connection);
        }
        for at in lost.into_iter().rev() {
            let landed = self.sessions.get_mut(key as usize).and_then(|session| session.land(at));
            if let Some(Phase::Publish(delivery)) = landed.map(|landed| landed.phase) {
                self.settle(&delivery);
                if let Some(group) = delivery.group {
                    self.finish_in_group(now, group, delivery.lsn);
                }
            }
            self.note_progress(now, key);
        }
        for (id, message, why) in refused {
            self.refused_delivery(now, id, &message.topic, &why);
        }
        if wanted {
            self.fetch_in_flight(key);
        }
    }

    /// A delivery is over, one way or another.
    pub(super) fn settle(&mut self, delivery: &Delivery) {
        self.queues.bodies.settle(delivery.lsn);
    }

    fn pump_retained(&mut self, now: Millis, key: SessionKey) {
        while let Some(session) = self.sessions.get_mut(key as usize)
            && let Some(next) = session.backlog.front()
            && session.backlog_at <= self.durable
        {
            let Some(id) = session.connection else { return };
            let Some(connection) = self.connections.get_mut(id.index()) else {
                return;
            };
            let blocked = match next.qos {
                QoS::AtMostOnce => connection.outbox.bytes() >= crate::outbox::HIGH_BYTES,
                QoS::AtLeastOnce | QoS::ExactlyOnce if session.recorded => session.queued() >= DIRECTED_MAX,
                QoS::AtLeastOnce | QoS::ExactlyOnce => {
                    !connection.has_window() || !session.may_launch_loose(&self.limits)
                }
            };
            if blocked {
                return;
            }
            let Some(delivery) = session.backlog.pop_front() else {
                return;
            };
            let recorded = session.recorded;
            self.backlog_messages -= 1;
            // Replaced in the meantime: the newer one was delivered as it came.
            let Some(message) = delivery.message.clone() else { continue };
            if !self.retained.is_current(&message) || message.is_expired(now) {
                self.note_progress(now, key);
            } else if recorded && delivery.qos > QoS::AtMostOnce {
                self.direct(now, key, &message, delivery);
            } else {
                self.send(now, key, message, delivery, None);
            }
        }
    }

    fn pump_queue(&mut self, now: Millis, key: SessionKey) {
        while let Some(session) = self.sessions.get_mut(key as usize)
            && let Some((lane, next)) = session.front(&self.queues, self.durable)
        {
            let Some(connection) = session.connection.and_then(|id| self.connections.get(id.index())) else {
                return;
            };
            let body = self.queues.body(&next).cloned();
            let is_expired = next.is_expired(now)
                || body.as_ref().is_some_and(|message| {
                    message.is_expired(now)
                        || message
                            .command
                            .is_some_and(|id| is_too_late(&self.commands, &session.principal, (message, id), now))
                });
            // What it replaced must not outlive it on another shard, and a call is answered there, if only that it is too late.
            let is_expired = is_expired && !(session.is_peer() && (next.retain || next.expires == Expiry::NEVER));
            let is_lost = body.is_none() && self.fetches.is_lost(next.lsn);
            if is_expired || is_lost {
                //= [MQTT-3.3.2-5] an expired message is not delivered
                if let Some(queued) = session.dequeue(&mut self.queues, lane) {
                    self.settle(&queued.delivery);
                }
                self.counters.dropped_expired += u64::from(is_expired);
                self.note_progress(now, key);
                continue;
            }
            // Without a free identifier it waits: that is still with a message of long ago.
            if !connection.has_window() || !session.can_launch(Number::Own(lane, next.sequence)) {
                return;
            }
            if !session.is_safe(lane, next.sequence, self.durable) {
                // The oldest unfinished message as the log knows it must move on first; if it does not, an acknowledgement will.
                if session.is_behind(&self.queues, lane) {
                    let epoch = session.epoch;
                    self.record_progress_of(now, key);
                    let last = self.recorder.last();
                    self.releases.push_back((last, Release::Session { session: key, epoch }));
                }
                return;
            }
            let Some(message) = body else {
                self.fetch_queued(key, lane);
                return;
            };
            let Some(queued) = session.dequeue(&mut self.queues, lane) else {
                return;
            };
            self.send(now, key, message, queued.delivery, Some((lane, queued.sequence)));
        }
    }

    /// Sends one delivery to a connected session whose connection can take it.
    pub(super) fn send(
        &mut self,
        now: Millis,
        key: SessionKey,
        message: Arc<Message>,
        delivery: Delivery,
        own: Option<(LaneName, u64)>,
    ) {
        let Some(session) = self.sessions.get_mut(key as usize) else {
            return;
        };
        let Some(connection) = session.connection.and_then(|id| self.connections.get_mut(id.index())) else {
            return;
        };
        // Who shares may receive all that is shared.
        if connection.checks_deliveries
            && delivery.group.is_none()
            && let Err(why) = self.in_force.may_receive(connection, &message.topic)
        {
            let id = connection.id;
            self.settle(&delivery);
            self.note_progress(now, key);
            self.refused_delivery(now, id, &message.topic, &why);
            return;
        }
        let (qos, bytes) = (delivery.qos, message.payload.len());
        if qos == QoS::AtMostOnce {
            let topic = named(&session.principal, &session.subscriptions, connection.version, &message);
            let outgoing = Outgoing { topic: &topic, ..outgoing(&message, &delivery, false, None) };
            let sent = write_publish(now, connection, &outgoing);
            count_sent(&mut self.counters, qos, bytes, sent);
            mark_dirty(&mut self.dirty, connection);
            self.settle(&delivery);
            self.note_progress(now, key);
            return;
        }
        let sent = send_in_flight(now, session, connection, message, delivery, own);
        count_sent(&mut self.counters, qos, bytes, sent.as_ref().map_err(|_| TooLarge).copied());
        mark_dirty(&mut self.dirty, connection);
        if let Err(Some(over)) = sent {
            self.settle(&over);
            self.note_progress(now, key);
        }
    }
}

/// Gives the delivery a packet identifier and writes it. One that is too large gives the identifier back, and is over: it comes back in
/// a box, because an outcome of its size, copied for every message, was a twelfth of what a fan-out cost.
fn send_in_flight(
    now: Millis,
    session: &mut Session,
    connection: &mut Connection,
    message: Arc<Message>,
    delivery: Delivery,
    own: Option<(LaneName, u64)>,
) -> Result<Written, Option<Box<Delivery>>> {
    //= [MQTT-3.3.1-1] DUP where an earlier run of the broker may have sent it
    let dup = own.is_some_and(|(lane, sequence)| sequence < session.lane(lane).sent_through);
    // `has_window` holds, and a window is never larger than the identifiers there are.
    let number = session.launch(Delivery { message: Some(message), ..delivery }, own);
    let Some((packet_id, at)) = number.and_then(|id| Some((id, session.launched_at(id)?))) else {
        return Ok(Written::Whole);
    };
    let Phase::Publish(delivery) = &session.inflight[at].phase else {
        return Ok(Written::Whole);
    };
    let Some(message) = &delivery.message else { return Ok(Written::Whole) };
    let topic = named(&session.principal, &session.subscriptions, connection.version, message);
    let outgoing = Outgoing { topic: &topic, ..outgoing(message, delivery, dup, Some(packet_id)) };
    //= [MQTT-4.3.2-2] [MQTT-4.3.3-2] a first delivery has an unused identifier, and DUP 0
    match write_publish(now, connection, &outgoing) {
        Ok(written) => {
            connection.unacknowledged += 1;
            Ok(written)
        }
        Err(TooLarge) => match session.land(at).map(|landed| landed.phase) {
            Some(Phase::Publish(delivery)) => Err(Some(Box::new(delivery))),
            Some(Phase::Release(_)) | None => Err(None),
        },
    }
}

/// The name of a message's topic for a client, before it is in the client's words.
#[inline]
fn named<'m>(
    who: &Principal,
    subscriptions: &Subscriptions,
    version: ProtocolVersion,
    message: &'m Message,
) -> Cow<'m, str> {
    match message.command {
        None => Cow::Borrowed(&message.topic),
        Some(id) => topic_for((who, subscriptions), version, (&message.topic, id)),
    }
}

pub(super) fn outgoing<'a>(
    message: &'a Message,
    delivery: &'a Delivery,
    dup: bool,
    packet_id: Option<PacketId>,
) -> Outgoing<'a> {
    Outgoing {
        dup,
        qos: delivery.qos,
        retain: delivery.retain,
        topic: &message.topic,
        packet_id,
        expires_at: message.expires_at,
        //= [MQTT-3.3.4-3] [MQTT-3.3.4-5] the identifiers of the subscriptions that matched
        identifiers: &delivery.identifiers,
        stamps: &[],
        provenance: message.provenance.as_ref(),
        forwarded: message.forwarded(),
        payload: Payload::Shared(&message.payload),
    }
}

pub(super) fn count_sent(counters: &mut Counters, qos: QoS, payload_bytes: usize, sent: Result<Written, TooLarge>) {
    match sent {
        Ok(written) => {
            counters.publish_sent[qos as usize] += 1;
            counters.payload_bytes_sent += match written {
                Written::Whole => payload_bytes as u64,
                Written::Stub(bytes) => bytes as u64,
            };
            counters.outcomes_too_large += u64::from(written != Written::Whole);
        }
        Err(TooLarge) => counters.dropped_packet_too_large += 1,
    }
}
