//! A client requests a command of a group.
//!
//! Owns who may, and that the acknowledgement comes when the rest of the broker has the request on the disk, and in its order: what is acknowledged
//! behind it waits, too. What becomes of the request is not known here, and nothing of it is in the log: a client that is told nothing sends it again.

use bytes::Bytes;
use causeway_fleet::calls;
use causeway_fleet::command::{RATE, Wishes};
use causeway_protocol::{Ack, ForwardedProperties, Packet, PacketId, Publish, QoS, ReasonCode};

use super::{AckKind, Release, Shard};
use crate::{Bound, ConnectionId, Effect, GroupRequest, Millis};

/// An acknowledgement that is kept back, or stands behind one.
#[derive(Debug)]
pub(crate) struct KeptBack {
    packet_id: PacketId,
    is_pubrec: bool,
    /// What it says, once that is known.
    reason: Option<ReasonCode>,
    /// Whether it is counted among what waits for PUBACK.
    is_counted: bool,
}

impl Shard {
    /// Whether a message of this topic requests a command of a group. Without a Response Topic it is a message like any other.
    #[inline]
    pub(super) fn is_group_request(&self, id: ConnectionId, topic: &str, forwarded: ForwardedProperties<'_>) -> bool {
        calls::is_of_group(topic)
            && !forwarded.is_empty()
            && forwarded.response_topic().is_some()
            && self.connection(id).is_some_and(|open| !open.is_link() && open.mount().is_none())
    }

    /// Nobody could be told that a request of QoS 0 is on the disk.
    pub(super) fn refuse_group_request(&mut self, now: Millis, id: ConnectionId, topic: &str) {
        let why = format!("{topic:?}: a command to a group needs QoS 1 or 2");
        self.tell_refusal(now, id, "refused publish", ReasonCode::ImplementationSpecificError, &why);
    }

    /// Hands a request on, in its turn.
    pub(super) fn on_group_request(
        &mut self,
        now: Millis,
        id: ConnectionId,
        publish: &Publish<'_>,
        (topic, packet_id, kind): (&str, PacketId, AckKind),
    ) {
        let request = match self.check_group_request(now, id, publish, (topic, packet_id)) {
            Ok(request) => request,
            Err((reason, why)) => return self.refuse_publish(now, id, topic, (packet_id, kind), reason, &why),
        };
        let (durable, last) = (self.durable, self.recorder.last());
        let Some(open) = self.connection_mut(id) else { return };
        open.withheld += 1;
        open.withheld_pubacks += 1;
        let release =
            Release::KeepBack { connection: id, packet_id, kind, effect: Box::new(Effect::GroupCommand(request)) };
        // Behind what waits for the log.
        if open.withheld > 1 && last > durable {
            self.releases.push_back((last, release));
        } else {
            self.release(now, release);
        }
    }

    fn check_group_request(
        &mut self,
        now: Millis,
        id: ConnectionId,
        publish: &Publish<'_>,
        (topic, packet_id): (&str, PacketId),
    ) -> Result<Box<GroupRequest>, (ReasonCode, String)> {
        let forwarded = publish.properties.forwarded;
        let Some((group, name)) = calls::of_group(topic) else {
            let why = "a command goes to a vehicle or to a group: groups/{group}/cmd/{name}. For others make a job: POST /v1/jobs";
            return Err((ReasonCode::ImplementationSpecificError, why.to_owned()));
        };
        let response_topic = forwarded.response_topic().unwrap_or_default();
        if let Err(why) = self.may_request_of_group(id, publish.qos, (topic, response_topic)) {
            self.counters.publish_refused_unauthorized += 1;
            return Err((ReasonCode::NotAuthorized, why));
        }
        if !self.has_room_for_outcomes(id) {
            self.counters.reached(Bound::SessionQueueMessages);
            self.counters.publish_refused_queue_full += 1;
            let why = "the requester's own queue is full: there is no room for what becomes of it";
            return Err((ReasonCode::QuotaExceeded, why.to_owned()));
        }
        if publish.payload.len() > self.limits.command_payload_bytes_max {
            self.counters.reached(Bound::CommandPayloadBytes);
            let why = format!("its payload is larger than {} bytes", self.limits.command_payload_bytes_max);
            return Err((ReasonCode::QuotaExceeded, why));
        }
        let Some(open) = self.connection(id) else {
            return Err((ReasonCode::UnspecifiedError, "not connected".to_owned()));
        };
        let wishes = Wishes::of(forwarded.user_properties());
        let rate = forwarded.user_properties().find(|(name, _)| *name == RATE).map(|(_, rate)| rate.into());
        Ok(Box::new(GroupRequest {
            shard: self.number,
            connection: id,
            packet_id,
            client_id: open.client_id.clone(),
            is_again: publish.dup,
            by: open.identity.principal.clone(),
            group: group.into(),
            name: name.into(),
            payload: Bytes::copy_from_slice(publish.payload),
            content_type: forwarded.content_type().map(Into::into),
            response_topic: response_topic.into(),
            correlation_data: forwarded.correlation_data().map(Into::into),
            deadline: publish.properties.message_expiry_interval_seconds.map(|seconds| now.plus_seconds(seconds)),
            key: wishes.key.map(Into::into),
            is_now_or_never: wishes.is_now_or_never,
            rate,
        }))
    }

    /// All before it is acknowledged: from now on, what is acknowledged waits behind it.
    pub(super) fn keep_back(&mut self, id: ConnectionId, packet_id: PacketId, kind: AckKind, effect: Effect) {
        let Some(open) = self.open_connection(id) else { return };
        open.withheld -= 1;
        let kept = KeptBack { packet_id, is_pubrec: kind == AckKind::PubRec, reason: None, is_counted: true };
        self.kept_back.entry(id).or_default().push_back(kept);
        self.effects.push_back(effect);
    }

    /// Whether an acknowledgement has to wait behind one that is kept back. Then it is kept, too.
    #[inline]
    pub(super) fn stands_behind(
        &mut self,
        id: ConnectionId,
        packet_id: PacketId,
        kind: AckKind,
        reason: ReasonCode,
    ) -> bool {
        if self.kept_back.is_empty() || matches!(kind, AckKind::PubRel | AckKind::PubComp) {
            return false;
        }
        let Some(kept_back) = self.kept_back.get_mut(&id) else { return false };
        let is_pubrec = kind == AckKind::PubRec;
        kept_back.push_back(KeptBack { packet_id, is_pubrec, reason: Some(reason), is_counted: !is_pubrec });
        let open = self.connection_mut(id);
        open.into_iter().for_each(|open| open.withheld_pubacks += u32::from(!is_pubrec));
        true
    }

    /// The rest of the broker has a request on the disk, or does not take it: [`Effect::GroupCommand`].
    pub fn group_command_taken(
        &mut self,
        now: Millis,
        (id, packet_id): (ConnectionId, PacketId),
        taken: Result<(), (ReasonCode, String)>,
    ) {
        if self.open_connection(id).is_none() {
            self.kept_back.remove(&id);
            return;
        }
        let is_it = |kept: &&mut KeptBack| kept.packet_id == packet_id && kept.reason.is_none();
        let Some(kept) = self.kept_back.get_mut(&id).and_then(|kept_back| kept_back.iter_mut().find(is_it)) else {
            return;
        };
        kept.reason = Some(taken.as_ref().map_or_else(|(reason, _)| *reason, |()| ReasonCode::Success));
        let is_pubrec = kept.is_pubrec;
        if let Err((reason, why)) = &taken {
            self.tell_refusal(now, id, "refused publish", *reason, why);
        } else if is_pubrec {
            //= [MQTT-4.3.3-9] a QoS 2 identifier is remembered until PUBREL
            // A client that sent it twice on this connection releases it once.
            if let Some((key, session)) = self.session_of(id)
                && session.received.insert(packet_id)
            {
                self.changed.session(key);
                self.connection_mut(id).into_iter().for_each(|open| open.unreleased += 1);
            }
        }
        self.write_kept_back(id);
    }

    fn write_kept_back(&mut self, id: ConnectionId) {
        let Some(mut kept_back) = self.kept_back.remove(&id) else { return };
        while let Some(kept) = kept_back.pop_front() {
            let Some(reason) = kept.reason else {
                kept_back.push_front(kept);
                self.kept_back.insert(id, kept_back);
                return;
            };
            let open = self.connection_mut(id);
            open.into_iter().for_each(|open| open.withheld_pubacks -= u32::from(kept.is_counted));
            let ack = Ack::new(kept.packet_id, reason);
            self.write(id, if kept.is_pubrec { Packet::PubRec(ack) } else { Packet::PubAck(ack) });
        }
    }

    fn may_request_of_group(
        &mut self,
        id: ConnectionId,
        qos: QoS,
        (topic, response_topic): (&str, &str),
    ) -> Result<(), String> {
        let Some(connection) = self.connections.get(id.index()).filter(|connection| connection.id == id) else {
            return Err("not connected".to_owned());
        };
        self.in_force.may_publish(connection, topic, qos, false)?;
        self.in_force.may_command(connection, topic)?;
        self.may_be_told_at(id, response_topic)
    }
}
