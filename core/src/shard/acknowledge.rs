//! Acknowledgements, in both directions.
//!
//! Owns the way of a message through PUBACK, PUBREC, PUBREL and PUBCOMP (MQTT 5.0 section 4.3). Every transition frees
//! or keeps a place in the client's window, and a freed one is filled from the queue.

use causeway_protocol::{Ack, Packet, PacketId, QoS, ReasonCode};

use super::{AckKind, Shard};
use crate::effect::EventLevel;
use crate::lane::Number;
use crate::queue::Delivery;
use crate::session::{Inflight, Phase, SessionKey};
use crate::{ConnectionId, Lsn, Millis};

impl Shard {
    pub(super) fn on_puback(&mut self, now: Millis, id: ConnectionId, ack: &Ack<'_>) {
        let Some((key, session)) = self.session_of(id) else {
            return;
        };
        let at = session.inflight_at(ack.packet_id);
        match at.map(|at| &session.inflight[at].phase) {
            Some(Phase::Publish(delivery)) if delivery.qos == QoS::AtLeastOnce => {
                self.finish(now, id, key, ack.packet_id);
                self.count_refusal(id, ack);
            }
            // Late, or about something else: there is no answer to a PUBACK, and a client gone astray harms only itself.
            Some(_) | None => self.stray(id, "PUBACK", ack.packet_id),
        }
    }

    pub(super) fn on_pubrec(&mut self, now: Millis, id: ConnectionId, ack: &Ack<'_>) {
        let Some((key, session)) = self.session_of(id) else {
            return;
        };
        let Some(at) = session.inflight_at(ack.packet_id) else {
            self.stray(id, "PUBREC", ack.packet_id);
            self.write(id, Packet::PubRel(Ack::new(ack.packet_id, ReasonCode::PacketIdentifierNotFound)));
            return;
        };
        let is_qos2 = match &session.inflight[at].phase {
            Phase::Publish(delivery) => delivery.qos == QoS::ExactlyOnce,
            Phase::Release(_) => true,
        };
        if !is_qos2 {
            self.stray(id, "PUBREC", ack.packet_id);
            return;
        }
        if ack.reason.is_error() {
            //= [MQTT-4.3.3-4] a PUBREC of 0x80 or above ends the exchange and frees the identifier
            self.finish(now, id, key, ack.packet_id);
            self.count_refusal(id, ack);
            return;
        }
        //= [MQTT-4.3.3-5] the PUBLISH is never sent again; PUBREL takes its place and keeps its identifier
        // Before the client may forget the message, the log knows that the client has it. Nor does a repeated PUBREC have
        // an answer before that.
        let durable_at = match (&session.inflight[at].phase, session.inflight[at].number) {
            (Phase::Publish(_), Number::Own(lane, sequence)) => self.record_received(now, key, lane, sequence),
            (Phase::Publish(_), Number::Loose(_)) => Lsn(0),
            (Phase::Release(durable_at), _) => *durable_at,
        };
        let released = self.sessions.get_mut(key as usize).and_then(|session| session.release(at, durable_at));
        if let Some(delivery) = released {
            self.over(now, &delivery);
        }
        self.acknowledge(id, ack.packet_id, AckKind::PubRel, ReasonCode::Success, durable_at);
    }

    pub(super) fn on_pubcomp(&mut self, now: Millis, id: ConnectionId, ack: &Ack<'_>) {
        let Some((key, session)) = self.session_of(id) else {
            return;
        };
        let at = session.inflight_at(ack.packet_id);
        match at.map(|at| &session.inflight[at].phase) {
            Some(Phase::Release(_)) => self.finish(now, id, key, ack.packet_id),
            Some(Phase::Publish(_)) | None => self.stray(id, "PUBCOMP", ack.packet_id),
        }
    }

    pub(super) fn on_pubrel(&mut self, now: Millis, id: ConnectionId, ack: &Ack<'_>) {
        let Some((key, session)) = self.session_of(id) else {
            return;
        };
        //= [MQTT-4.3.3-12] after PUBCOMP the identifier names a new message
        let known = session.received.remove(&ack.packet_id);
        if let Some(connection) = self.connection_mut(id).filter(|_| known) {
            connection.unreleased = connection.unreleased.saturating_sub(1);
        }
        let reason = if known { ReasonCode::Success } else { ReasonCode::PacketIdentifierNotFound };
        // Before the client may use the identifier for another message, the log knows that it is free.
        // What is not known may have been freed by a record that is on its way to the disk.
        let durable_at = if known { self.record_released(now, key, ack.packet_id) } else { self.recorder.last() };
        self.acknowledge(id, ack.packet_id, AckKind::PubComp, reason, durable_at);
    }

    /// The exchange is over: identifier and window are free again.
    fn finish(&mut self, now: Millis, id: ConnectionId, key: SessionKey, packet_id: PacketId) {
        let Some(session) = self.sessions.get_mut(key as usize) else {
            return;
        };
        let landed = session.inflight_at(packet_id).and_then(|at| session.land(at));
        if let Some(Inflight { phase: Phase::Publish(delivery), .. }) = &landed {
            self.over(now, delivery);
        }
        self.note_progress(now, key);
        if let Some(connection) = self.connection_mut(id)
            && landed.is_some_and(|inflight| inflight.counted)
        {
            //= [MQTT-3.3.4-9] [MQTT-4.9.0-2] the window grows again, never beyond the Receive Maximum
            connection.unacknowledged = connection.unacknowledged.saturating_sub(1);
        }
        self.pump(now, key);
    }

    /// A delivery is with its client: its message is owed once less.
    fn over(&mut self, now: Millis, delivery: &Delivery) {
        self.settle(delivery);
        if let Some(group) = delivery.group {
            self.finish_in_group(now, group, delivery.lsn);
        }
    }

    fn count_refusal(&mut self, id: ConnectionId, ack: &Ack<'_>) {
        if ack.reason.is_error() {
            self.counters.refused_by_subscriber += 1;
            let detail = ack.reason_string.unwrap_or_default();
            self.event(EventLevel::Info, id, "client refused a message", Some(ack.reason), detail);
        }
    }

    fn stray(&mut self, id: ConnectionId, packet: &str, packet_id: PacketId) {
        let detail = format!("{packet} for packet identifier {packet_id}, which is not waiting for it");
        self.event(EventLevel::Debug, id, "stray acknowledgement", None, &detail);
    }
}
