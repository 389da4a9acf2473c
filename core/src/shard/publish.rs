//! A PUBLISH comes in.
//!
//! Owns its checks, its acknowledgement, and the refusal where it can't be kept. Who gets it is decided in `deliver`.

use std::sync::Arc;

use causeway_fleet::{Mount, MountError, calls};
use causeway_protocol::{
    Ack, ForwardedProperties, Packet, PacketId, ProtocolVersion, Publish, QoS, ReasonCode, TopicError,
    check_topic_levels,
};

use super::deliver::{Origin, Routed};
use super::{AckKind, Release, Shard};
use crate::connection::Connection;
use crate::crossing;
use crate::handshake::refusal_of_name;
use crate::message::{Publication, mounted_properties};
use crate::provenance::{Provenance, without_claims};
use crate::{Bound, ConnectionId, Lsn, Millis};

impl Shard {
    pub(super) fn on_publish(&mut self, now: Millis, id: ConnectionId, publish: &Publish<'_>) {
        self.counters.publish_received[publish.qos as usize] += 1;
        self.counters.payload_bytes_received += publish.payload.len() as u64;
        if let Err((reason, why)) = self.check_publish(id, publish) {
            self.counters.protocol_errors += 1;
            self.disconnect(now, id, reason, why);
            return;
        }
        let resolved = match self.resolve_alias(id, publish) {
            Ok(resolved) => resolved,
            Err((reason, why)) => {
                self.counters.protocol_errors += 1;
                self.disconnect(now, id, reason, why);
                return;
            }
        };
        let topic = resolved.as_deref().unwrap_or(publish.topic);
        match publish.packet_id {
            Some(packet_id) => self.on_acknowledged_publish(now, id, publish, topic, packet_id),
            None if self.is_group_request(id, topic, publish.properties.forwarded) => {
                self.refuse_group_request(now, id, topic);
            }
            None => match self.accept(now, id, publish, topic) {
                Ok(_) => {}
                Err((reason, why)) => {
                    // Nobody waits for an answer at QoS 0: the log and the counter say it.
                    self.tell_refusal(now, id, "refused publish", reason, &format!("{topic:?}: {why}"));
                }
            },
        }
    }

    /// QoS 1 and 2: whatever becomes of it, one acknowledgement follows, unless the connection is closed.
    fn on_acknowledged_publish(
        &mut self,
        now: Millis,
        id: ConnectionId,
        publish: &Publish<'_>,
        topic: &str,
        packet_id: PacketId,
    ) {
        let kind = if publish.qos == QoS::ExactlyOnce { AckKind::PubRec } else { AckKind::PubAck };
        let Some(open) = self.connection(id) else { return };
        let taken = open.withheld_pubacks + open.unreleased;
        let is_full = open.version == ProtocolVersion::V5 && taken >= u32::from(self.receive_maximum(open));
        let is_peer = self.is_peer(id);
        let Some((_, session)) = self.session_of(id) else {
            return;
        };
        // What another shard sends again after a crash was taken before it, or it was not: that is known by its identifier.
        let crosses = is_peer && kind == AckKind::PubAck && crossing::is_remembered(packet_id);
        if crosses && publish.dup && session.received.contains(&packet_id) {
            let last = self.recorder.last();
            self.acknowledge(id, packet_id, kind, ReasonCode::Success, last);
            return;
        }
        //= [MQTT-4.3.3-10] a QoS 2 PUBLISH with an identifier not yet released is the same message again
        // Of another shard, identifiers of QoS 1 are remembered, too: there it is the same only if it says that it was sent before.
        if kind == AckKind::PubRec && session.received.contains(&packet_id) && (publish.dup || !is_peer) {
            let last = self.recorder.last();
            self.acknowledge(id, packet_id, kind, ReasonCode::Success, last);
            return;
        }
        //= [MQTT-3.3.4-7] more than the Receive Maximum at once ends the connection
        //= [MQTT-4.9.0-1] what an earlier connection left unreleased does not count
        if is_full {
            self.counters.protocol_errors += 1;
            self.counters.reached(Bound::ReceiveMaximum);
            self.disconnect(now, id, ReasonCode::ReceiveMaximumExceeded, "more unacknowledged than Receive Maximum");
            return;
        }
        if self.is_group_request(id, topic, publish.properties.forwarded) {
            return self.on_group_request(now, id, publish, (topic, packet_id, kind));
        }
        match self.accept(now, id, publish, topic) {
            Ok(routed) => {
                if let (true, Some((key, session))) = (crosses, self.session_of(id)) {
                    crossing::remember(&mut session.received, packet_id);
                    self.changed.session(key);
                }
                //= [MQTT-4.3.3-9] a QoS 2 identifier is remembered until PUBREL
                if let (AckKind::PubRec, Some((_, session))) = (kind, self.session_of(id)) {
                    if is_peer {
                        crossing::remember(&mut session.received, packet_id);
                    }
                    session.received.insert(packet_id);
                    let key = self.connection(id).and_then(|connection| connection.session);
                    key.into_iter().for_each(|key| self.changed.session(key));
                    self.connection_mut(id).into_iter().for_each(|open| open.unreleased += 1);
                }
                let reason = if routed.matched { ReasonCode::Success } else { ReasonCode::NoMatchingSubscribers };
                self.acknowledge(id, packet_id, kind, reason, routed.durable_at);
            }
            Err((reason, why)) => self.refuse_publish(now, id, topic, (packet_id, kind), reason, &why),
        }
    }

    /// A 5.0 client is told in the acknowledgement. A 3.x client can only be told by closing the connection without
    /// one: the message stays its own.
    pub(super) fn refuse_publish(
        &mut self,
        now: Millis,
        id: ConnectionId,
        topic: &str,
        (packet_id, kind): (PacketId, AckKind),
        reason: ReasonCode,
        why: &str,
    ) {
        let why = format!("{topic:?}: {why}");
        if self.connection(id).is_some_and(|connection| connection.version < ProtocolVersion::V5) {
            self.disconnect(now, id, reason, &format!("publish refused: {why}"));
            return;
        }
        self.tell_refusal(now, id, "refused publish", reason, &why);
        let last = self.recorder.last();
        self.acknowledge(id, packet_id, kind, reason, last);
    }

    /// Checks that need the terms of the connection. What another shard sends, it has checked itself, and carries more.
    fn check_publish(&mut self, id: ConnectionId, publish: &Publish<'_>) -> Result<(), (ReasonCode, &'static str)> {
        if self.is_peer(id) {
            return Ok(());
        }
        //= [MQTT-3.2.2-11] a QoS above the announced maximum ends the connection
        if publish.qos > self.limits.maximum_qos {
            return Err((ReasonCode::QoSNotSupported, "QoS above the maximum on offer"));
        }
        //= [MQTT-3.2.2-14] so does retain where it is not on offer
        if publish.retain && !self.limits.retain_available {
            return Err((ReasonCode::RetainNotSupported, "retained messages are not on offer"));
        }
        //= [MQTT-3.3.4-6] a client never sends a Subscription Identifier
        if !publish.properties.subscription_identifiers.is_empty() {
            return Err((ReasonCode::ProtocolError, "PUBLISH of a client with a Subscription Identifier"));
        }
        if let Some(alias) = publish.properties.topic_alias
            && alias.get() > self.limits.topic_alias_maximum
        {
            //= [MQTT-3.3.2-9] [MQTT-3.2.2-17] an alias above the announced maximum ends the connection
            self.counters.reached(Bound::TopicAliasMaximum);
            return Err((ReasonCode::TopicAliasInvalid, "topic alias above the announced maximum"));
        }
        if !publish.topic.is_empty()
            && let Err(error) = check_topic_levels(publish.topic, self.limits.topic_levels_max)
        {
            if matches!(error, TopicError::TooManyLevels { .. }) {
                self.counters.reached(Bound::TopicLevels);
            }
            return Err((ReasonCode::TopicNameInvalid, "topic name is not valid or has too many levels"));
        }
        Ok(())
    }

    /// The topic an alias stands for, or `None` where the packet itself has the topic.
    fn resolve_alias(
        &mut self,
        id: ConnectionId,
        publish: &Publish<'_>,
    ) -> Result<Option<Arc<str>>, (ReasonCode, &'static str)> {
        let Some(alias) = publish.properties.topic_alias else {
            return Ok(None);
        };
        let Some(connection) = self.connection_mut(id) else {
            return Ok(None);
        };
        let at = usize::from(alias.get()) - 1;
        if publish.topic.is_empty() {
            let known = connection.aliases_in.get(at).cloned().flatten();
            return known.map(Some).ok_or((ReasonCode::ProtocolError, "topic alias was never given a topic"));
        }
        if connection.aliases_in.len() <= at {
            connection.aliases_in.resize(at + 1, None);
        }
        //= [MQTT-3.3.2-12] alias mappings belong to one connection; a new topic replaces the old
        connection.aliases_in[at] = Some(publish.topic.into());
        Ok(None)
    }

    /// Takes a message by the full name of its topic, which a vehicle does not say.
    #[inline]
    fn accept(
        &mut self,
        now: Millis,
        id: ConnectionId,
        publish: &Publish<'_>,
        topic: &str,
    ) -> Result<Routed, (ReasonCode, String)> {
        match self.connection(id).and_then(Connection::mount) {
            None => self.accept_named(now, id, publish, (topic, publish.properties.forwarded)),
            Some(mount) => self.accept_mounted(now, id, publish, (mount, topic)),
        }
    }

    #[inline(never)]
    fn accept_mounted(
        &mut self,
        now: Millis,
        id: ConnectionId,
        publish: &Publish<'_>,
        (mount, topic): (Mount, &str),
    ) -> Result<Routed, (ReasonCode, String)> {
        let forwarded = publish.properties.forwarded;
        // The names of AWS IoT stand for themselves.
        let is_own = topic.starts_with('$') && calls::of(topic).is_some_and(|call| call.is_of(mount.vin()));
        let (mut name, mut properties) = std::mem::take(&mut self.mounted);
        let refused = |error: MountError| (refusal_of_name(error), error.to_string());
        let accepted = match mounted_properties(mount, forwarded, &mut properties) {
            Ok(has_own) => mount_name(mount, (topic, is_own), &mut name).map_err(refused).and_then(|topic| {
                let own = ForwardedProperties::from_forwarded_bytes(&properties);
                let forwarded = if has_own { own.unwrap_or(forwarded) } else { forwarded };
                self.accept_named(now, id, publish, (topic, forwarded))
            }),
            Err(error) => Err(refused(error)),
        };
        self.mounted = (name, properties);
        accepted
    }

    /// Authorises and routes.
    fn accept_named(
        &mut self,
        now: Millis,
        id: ConnectionId,
        publish: &Publish<'_>,
        (topic, forwarded): (&str, ForwardedProperties<'_>),
    ) -> Result<Routed, (ReasonCode, String)> {
        if let Some(call) = calls::of(topic)
            && let Some(accepted) = self.accept_call(now, id, publish, call, (topic, forwarded))
        {
            return accepted;
        }
        let connection = self.connections.get(id.index()).filter(|connection| connection.id == id);
        let allowed = match connection {
            Some(connection) => self.in_force.may_publish(connection, topic, publish.qos, publish.retain),
            None => Err("not connected".to_owned()),
        };
        let session = connection.and_then(|connection| connection.session);
        let is_peer = !self.peers.is_empty() && connection.is_some_and(Connection::is_link);
        if let Err(why) = allowed {
            self.counters.publish_refused_unauthorized += 1;
            return Err((ReasonCode::NotAuthorized, why));
        }
        let mut publication = Publication::of_publish(now, publish, topic);
        let mut room = Vec::new();
        (publication.provenance, publication.forwarded) = match is_peer {
            true => Provenance::of_link(forwarded),
            false => (self.origin_of(now, id), without_claims(forwarded, &mut room)),
        };
        if is_peer {
            self.take_carried(&publish.properties.subscription_identifiers, &mut publication);
        }
        let packet_id = publish.packet_id.filter(|_| publish.qos == QoS::ExactlyOnce || is_peer);
        self.route(now, &mut publication, Origin::Client { session, packet_id })
    }

    /// Acknowledges a PUBLISH once `durable_at` is durable, and never before an earlier one of the same connection.
    pub(super) fn acknowledge(
        &mut self,
        id: ConnectionId,
        packet_id: PacketId,
        kind: AckKind,
        reason: ReasonCode,
        durable_at: Lsn,
    ) {
        let (durable, last) = (self.durable, self.recorder.last());
        let Some(connection) = self.connection_mut(id) else {
            return;
        };
        //= [MQTT-4.6.0-2] [MQTT-4.6.0-3] acknowledgements keep the order of what they acknowledge
        let at = if connection.withheld > 0 { last } else { durable_at };
        if at <= durable {
            self.write_ack(id, packet_id, kind, reason);
            return;
        }
        connection.withheld += 1;
        connection.withheld_pubacks += u32::from(kind == AckKind::PubAck);
        self.releases.push_back((at, Release::Ack { connection: id, packet_id, kind, reason }));
    }

    pub(super) fn release_ack(&mut self, id: ConnectionId, packet_id: PacketId, kind: AckKind, reason: ReasonCode) {
        if let Some(connection) = self.open_connection(id) {
            connection.withheld -= 1;
            connection.withheld_pubacks -= u32::from(kind == AckKind::PubAck);
            self.write_ack(id, packet_id, kind, reason);
        }
    }

    //= [MQTT-4.3.2-4] PUBACK after the message was accepted, with its identifier
    //= [MQTT-4.3.3-8] PUBREC likewise
    //= [MQTT-4.3.3-4] [MQTT-4.3.3-11] PUBREL answers PUBREC, PUBCOMP answers PUBREL
    fn write_ack(&mut self, id: ConnectionId, packet_id: PacketId, kind: AckKind, reason: ReasonCode) {
        if self.stands_behind(id, packet_id, kind, reason) {
            return;
        }
        let ack = Ack::new(packet_id, reason);
        let packet = match kind {
            AckKind::PubAck => Packet::PubAck(ack),
            AckKind::PubRec => Packet::PubRec(ack),
            AckKind::PubRel => Packet::PubRel(ack),
            AckKind::PubComp => Packet::PubComp(ack),
        };
        self.write(id, packet);
    }
}

/// The full name of what a vehicle says, unless that is one already.
fn mount_name<'n>(
    mount: Mount,
    (topic, is_full): (&'n str, bool),
    name: &'n mut String,
) -> Result<&'n str, MountError> {
    if is_full { Ok(topic) } else { mount.publish(topic, name) }
}
