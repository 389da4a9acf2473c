//! The end of connections and sessions, and the wills they leave.
//!
//! Owns who is told what, and what becomes of a session whose connection is gone.

use causeway_protocol::{Disconnect, Packet, PropertyHolder, ProtocolVersion, ReasonCode};

use super::connect::granted_expiry;
use super::deliver::Origin;
use super::timers::Timer;
use super::{Shard, presence};
use crate::connection::KeptWill;
use crate::effect::{Effect, EventLevel};
use crate::message::Publication;
use crate::session::{DelayedWill, Phase, SessionKey};
use crate::{ConnectionId, Millis};

impl Shard {
    /// The socket is gone: the peer closed it, it failed, or [`Effect::Close`] was carried out. `why` is for the log.
    pub fn closed(&mut self, now: Millis, id: ConnectionId, why: &str) {
        if self.is_open(id) {
            //= [MQTT-3.1.2-8] a connection that ends without DISCONNECT publishes its will
            self.event(EventLevel::Debug, id, "connection lost", None, why);
            self.detach(now, id, true, "connection-lost");
        }
        if let Some(connection) = self.connections.get_mut(id.index()).filter(|connection| connection.id == id) {
            connection.outbox.clear(&mut self.commons);
            self.connections.remove(id.index());
        }
    }

    /// Tells every client that the broker goes away.
    pub fn shutdown(&mut self, now: Millis) {
        let open: Vec<ConnectionId> =
            self.connections.iter().filter(|(_, c)| c.session.is_some()).map(|(_, c)| c.id).collect();
        for id in open {
            self.disconnect(now, id, ReasonCode::ServerShuttingDown, "the broker is shutting down");
        }
    }

    pub(super) fn on_disconnect(&mut self, now: Millis, id: ConnectionId, disconnect: &Disconnect<'_>) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        if let Some(expiry) = disconnect.session_expiry_interval_seconds {
            //= [MQTT-3.14.2-2] an expiry of zero can't be changed when it is over
            if connection.session_expiry_at_connect == 0 && expiry != 0 {
                self.protocol_error(now, id, "DISCONNECT gives a session expiry where CONNECT gave none");
                return;
            }
            let granted = granted_expiry(&self.limits, expiry);
            if let Some((_, session)) = self.session_of(id) {
                session.expiry_seconds = granted;
            }
        }
        //= [MQTT-3.1.2-10] [MQTT-3.14.4-3] a normal DISCONNECT deletes the will unpublished
        let with_will = disconnect.reason != ReasonCode::Success;
        let reason = Some(disconnect.reason).filter(|_| with_will);
        let detail = disconnect.reason_string.unwrap_or_default();
        self.event(EventLevel::Debug, id, "client disconnected", reason, detail);
        self.detach(now, id, with_will, "disconnected");
        self.effects.push_back(Effect::Close { connection: id });
    }

    pub(super) fn protocol_error(&mut self, now: Millis, id: ConnectionId, why: &str) {
        self.counters.protocol_errors += 1;
        self.disconnect(now, id, ReasonCode::ProtocolError, why);
    }

    /// Ends a connection from our side: a 5.0 client is told why.
    pub(super) fn disconnect(&mut self, now: Millis, id: ConnectionId, reason: ReasonCode, why: &str) {
        let Some(connection) = self.open_connection(id) else {
            return;
        };
        //= [MQTT-3.14.0-1] never before CONNACK, and never to a 3.x client, which knows no such packet
        let reason = reason.fitting(PropertyHolder::Disconnect);
        if connection.version == ProtocolVersion::V5 {
            let reason_string = Some(why).filter(|_| connection.problem_information);
            self.write(id, Packet::Disconnect(Disconnect { reason, reason_string, ..Disconnect::default() }));
        }
        self.counters.disconnects_sent += 1;
        let level = match reason {
            ReasonCode::ServerShuttingDown | ReasonCode::SessionTakenOver => EventLevel::Info,
            _ => EventLevel::Warn,
        };
        self.event(level, id, "disconnected client", Some(reason), why);
        self.detach(now, id, true, presence::why(reason));
        //= [MQTT-3.14.4-1] [MQTT-3.14.4-2] nothing follows a DISCONNECT but the end of the connection
        self.effects.push_back(Effect::Close { connection: id });
    }

    /// Takes the session from its connection: will, expiry, shared messages. `why` is for who watches vehicles.
    pub(super) fn detach(&mut self, now: Millis, id: ConnectionId, with_will: bool, why: &'static str) {
        self.forget_authority(id);
        // The policy may be another one by now.
        let with_will = with_will && self.keeps_will(id);
        self.kept_back.remove(&id);
        let Some(connection) = self.connection_mut(id) else {
            return;
        };
        let Some(key) = connection.session.take() else {
            return;
        };
        let will = connection.will.take().filter(|_| with_will);
        connection.aliases_in = Vec::new();
        let keep_alive_check = connection.keep_alive_check;
        self.timers.cancel(keep_alive_check, Timer::KeepAlive(id));
        let Some(session) = self.sessions.get_mut(key as usize) else {
            return;
        };
        self.connected -= usize::from(!session.is_peer());
        session.connection = None;
        self.note_presence(key);
        self.lose_connection(now, key, will.map(|will| *will));
        self.vehicle_left(now, id, why);
    }

    /// What a session does without a connection: its will, its end, and others for its shared messages.
    pub(super) fn lose_connection(&mut self, now: Millis, key: SessionKey, will: Option<KeptWill>) {
        let Some(expiry_seconds) = self.sessions.get(key as usize).map(|session| session.expiry_seconds) else {
            return;
        };
        self.leave_will(now, key, will);
        //= [MQTT-3.1.2-23] the session is kept for its expiry interval, and no longer than the connection at zero
        if expiry_seconds == 0 {
            self.end_session(now, key);
            return;
        }
        if expiry_seconds != u32::MAX {
            self.arm_session_expiry(key, now.plus_seconds(expiry_seconds));
        }
        self.record_detached(now, key);
        self.reroute_groups_of(now, key);
        if self.queues.bodies.are_in_log()
            && let Some(session) = self.sessions.get_mut(key as usize)
        {
            session.unload();
        }
    }

    /// Publishes the will, now or when its delay or its session ends, whichever is first.
    fn leave_will(&mut self, now: Millis, key: SessionKey, will: Option<KeptWill>) {
        let Some(will) = will else { return };
        let Some(session) = self.sessions.get(key as usize) else {
            return;
        };
        if will.delay_seconds == 0 || session.expiry_seconds == 0 {
            self.publish_will(now, key, will);
            return;
        }
        let due = now.plus_seconds(will.delay_seconds);
        self.arm_will(key, DelayedWill { will, due });
    }

    //= [MQTT-3.1.2-14] [MQTT-3.1.2-15] the will goes out as any message, retained if it says so
    pub(super) fn publish_will(&mut self, now: Millis, key: SessionKey, mut will: KeptWill) {
        self.counters.wills_published += 1;
        will.message.expires_at = will.expiry_seconds.map(|seconds| now.plus_seconds(seconds));
        will.message.provenance = self.origin_of_will(now, key);
        let mut publication = Publication::of_message(&will.message);
        self.route_own(now, &mut publication, Origin::Will { session: key });
    }

    /// Ends a session for good. It has no connection any more.
    pub(super) fn end_session(&mut self, now: Millis, key: SessionKey) {
        let will = self.disarm_session(key);
        //= [MQTT-3.1.3-9] a delayed will goes out when the session ends, if that is earlier
        if let Some(delayed) = will {
            self.publish_will(now, key, delayed.will);
            self.record_will_published(now, key);
        }
        self.record_ended(now, key);
        self.forget_session(now, key);
    }

    /// Takes a session out of everything.
    pub(super) fn forget_session(&mut self, now: Millis, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(key as usize) else {
            return;
        };
        let in_flight = session.groups_in_flight();
        for (filter, subscription) in session.subscriptions.take() {
            self.drop_subscription(now, key, (&filter, subscription), true);
        }
        // Messages of groups it had left already go on, too.
        for group in in_flight {
            self.give_back(key, group, true);
            self.pump_group(now, group);
        }
        let Some(mut session) = self.sessions.try_remove(key as usize) else {
            return;
        };
        self.session_by_client.remove(&session.client_id);
        self.backlog_messages -= session.backlog.len();
        for (_, lane) in session.used_lanes_mut() {
            self.counters.dropped_session_ended += self.queues.clear(&mut lane.queue);
        }
        for inflight in session.inflight {
            self.counters.dropped_session_ended += 1;
            let Phase::Publish(delivery) = inflight.phase else { continue };
            self.settle(&delivery);
            // A QoS 2 message of a shared subscription ends with the member that had it.
            if let Some(group) = delivery.group {
                self.finish_in_group(now, group, delivery.lsn);
            }
        }
    }
}
