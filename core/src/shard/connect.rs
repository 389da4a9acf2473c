//! A CONNECT that passed the handshake becomes a connection with a session.
//!
//! Owns takeover, clean start and resume, and the CONNACK. Deliveries that follow a resume are made by `deliver`.

use std::sync::Arc;

use causeway_fleet::Principal;
use causeway_protocol::{ConnAck, ConnAckProperties, Packet, PropertyHolder, ProtocolVersion, QoS, ReasonCode};

use super::policy::NOT_AUTHORISED;
use super::{Release, Shard};
use crate::connection::{Connection, ConnectionTerms};
use crate::effect::{Effect, EventLevel};
use crate::handshake::ConnectRequest;
use crate::session::{Session, SessionKey};
use crate::{Bound, ConnectionId, Limits, Lsn, Millis};

impl Shard {
    /// Makes a connection of an accepted request. Its CONNACK is in the outbox, which may wait for the log; a refused one is closed by an
    /// effect.
    pub fn open(&mut self, now: Millis, mut request: ConnectRequest) -> ConnectionId {
        self.learn_groups(&mut request);
        let admitted = self.admit(&request);
        let id = self.insert_connection(now, &mut request);
        if let Err((reason, why)) = admitted {
            self.counters.connections_refused += 1;
            self.refuse(id, &request, reason, (&why, &why));
            return id;
        }
        if let Err(why) = self.may_leave_will(id) {
            self.counters.connections_refused += 1;
            self.refuse(id, &request, ReasonCode::NotAuthorized, (NOT_AUTHORISED, &why));
            return id;
        }
        let before = self.recorder.last();
        let (key, present) = self.attach(now, id, &request);
        self.owe_deltas(key, None);
        self.vehicle_came(now, id);
        let after = self.recorder.last();
        // What CONNACK says of the session is to be true after a crash, too.
        self.connections[id.index()].corked = after > before;
        self.connected += 1;
        self.counters.connections_opened += 1;
        self.write_connack(id, &request, present);
        if self.connections[id.index()].outbox.is_empty() {
            //= [MQTT-3.1.2-24] a client that can't be told the terms can't be served
            self.detach(now, id, false, "connack-too-large");
            self.counters.connections_refused += 1;
            let why = "CONNACK is larger than the client's Maximum Packet Size";
            self.refuse(id, &request, ReasonCode::PacketTooLarge, (why, why));
            return id;
        }
        self.event(EventLevel::Debug, id, "connected", None, "");
        self.on_keep_alive(now, id);
        self.watch_authority(id);
        // Nothing is sent before it is durable that there is a connection.
        if after > before {
            self.when_durable(now, after, Release::Uncork(id));
        }
        let session = &self.sessions[key as usize];
        let (epoch, attached_at) = (session.epoch, session.attached_at);
        self.when_durable(now, attached_at, Release::Session { session: key, epoch });
        self.send_waiting(now, key);
        id
    }

    pub(super) fn insert_connection(&mut self, now: Millis, request: &mut ConnectRequest) -> ConnectionId {
        self.generation = self.generation.wrapping_add(1);
        let entry = self.connections.vacant_entry();
        let id = ConnectionId { index: entry.key() as u32, generation: self.generation };
        let terms = ConnectionTerms {
            rights: self.in_force.rights(&request.identity),
            keep_alive_seconds: keep_alive(&self.limits, request),
            //= [MQTT-3.3.4-9] never more unacknowledged than the client's Receive Maximum
            window: match request.identity.principal {
                Principal::Shard(_) => request.receive_maximum,
                _ => request.receive_maximum.min(self.limits.inflight_max),
            },
            packet_bytes_max: request.packet_bytes_max,
            alias_outbound_max: request.topic_alias_maximum.min(self.limits.topic_alias_outbound_max),
            problem_information: request.problem_information,
            session_expiry_seconds: request.session_expiry_seconds.unwrap_or(0),
            authentication_method: request.authentication_method.clone(),
            will: request.will.take(),
            hash_seed: self.hash_seed,
        };
        let client_id: Arc<str> = request.client_id.as_str().into();
        entry.insert(Connection::new(now, id, request.version, client_id, request.identity.clone(), terms));
        id
    }

    /// Whether the bounds and the client's rights allow the connection.
    fn admit(&mut self, request: &ConnectRequest) -> Result<(), (ReasonCode, String)> {
        let existing = self.session_by_client.get(request.client_id.as_str()).map(|key| &self.sessions[*key as usize]);
        if self.connected >= self.limits.connections_max && existing.is_none_or(|session| session.connection.is_none())
        {
            self.counters.reached(Bound::Connections);
            return Err((ReasonCode::QuotaExceeded, "connections_max is reached".to_owned()));
        }
        if existing.is_none() && self.storage_low && request.session_expiry_seconds.unwrap_or(0) > 0 {
            self.counters.reached(Bound::FreeSpace);
            return Err((ReasonCode::QuotaExceeded, "the disk is nearly full".to_owned()));
        }
        if existing.is_none() && self.sessions.len() - self.peer_sessions.len() >= self.limits.sessions_max {
            self.counters.reached(Bound::Sessions);
            return Err((ReasonCode::QuotaExceeded, "sessions_max is reached".to_owned()));
        }
        // Whoever has proven another identity can neither read nor end the session, and is not told whose it is.
        if existing.is_some_and(|session| session.principal != request.identity.principal) {
            return Err((ReasonCode::NotAuthorized, "the client identifier is another user's".to_owned()));
        }
        self.still_holds(request)
    }

    /// `told` is for the client, `why` for the log.
    fn refuse(&mut self, id: ConnectionId, request: &ConnectRequest, reason: ReasonCode, (told, why): (&str, &str)) {
        let reason = reason.fitting(PropertyHolder::ConnAck);
        //= [MQTT-3.2.2-6] session present is 0 in a refusal
        let properties = ConnAckProperties {
            reason_string: Some(told).filter(|_| request.problem_information),
            ..ConnAckProperties::default()
        };
        self.write(id, Packet::ConnAck(Box::new(ConnAck { session_present: false, reason, properties })));
        self.event(EventLevel::Warn, id, "refused connection", Some(reason), why);
        //= [MQTT-3.2.2-7] a refused connection is closed
        self.effects.push_back(Effect::Close { connection: id });
    }

    /// Gives the connection its session; whether it resumes one.
    pub(super) fn attach(&mut self, now: Millis, id: ConnectionId, request: &ConnectRequest) -> (SessionKey, bool) {
        if let Some(&key) = self.session_by_client.get(request.client_id.as_str()) {
            self.take_over(now, key, request.clean_start);
        }
        // A session without expiry may have ended with the connection that was taken over.
        let resumed = self.session_by_client.get(request.client_id.as_str()).copied();
        let key = match resumed {
            //= [MQTT-3.1.2-4] Clean Start discards what there is
            Some(key) if request.clean_start => {
                self.end_session(now, key);
                self.insert_session(id, request)
            }
            //= [MQTT-3.1.2-5] without Clean Start the session goes on
            Some(key) => key,
            //= [MQTT-3.1.2-6] where there is none, one is made
            None => self.insert_session(id, request),
        };
        //= [MQTT-3.1.3-9] a delayed will is not sent when the session goes on in time
        self.disarm_session(key);
        let session = &mut self.sessions[key as usize];
        session.expiry_seconds = match session.is_peer() {
            true => u32::MAX,
            false => granted_expiry(&self.limits, request.session_expiry_seconds.unwrap_or(0)),
        };
        session.overflow = request.overflow;
        // Before the session has the connection: what it shared goes to others.
        self.admit_session(now, id, key);
        let session = &mut self.sessions[key as usize];
        session.attach(id);
        let client_id = Arc::clone(&session.client_id);
        let will = self.connections[id.index()].will.take();
        self.record_attached(now, key, will.as_deref());
        self.align_broadcasts(now, key, &request.identity.groups);
        let last = if self.is_recorded(key) { self.recorder.last() } else { Lsn(0) };
        self.sessions[key as usize].attached_at = last;
        let connection = &mut self.connections[id.index()];
        // The same text, kept once.
        connection.client_id = client_id;
        connection.will = will;
        connection.session = Some(key);
        self.note_presence(key);
        (key, resumed.is_some() && !request.clean_start)
    }

    fn insert_session(&mut self, id: ConnectionId, request: &ConnectRequest) -> SessionKey {
        self.epoch += 1;
        let client_id = Arc::clone(&self.connections[id.index()].client_id);
        let session = Session::new(Arc::clone(&client_id), request.identity.principal.clone(), self.epoch);
        let key = self.sessions.insert(session) as SessionKey;
        self.session_by_client.insert(client_id, key);
        self.note_peer_session(key);
        key
    }

    /// Ends the connection that has the session now.
    fn take_over(&mut self, now: Millis, key: SessionKey, clean_start: bool) {
        let Some(old) = self.sessions[key as usize].connection else {
            return;
        };
        //= [MQTT-3.1.4-3] the older connection is told 0x8E and closed
        self.counters.takeovers += 1;
        if clean_start {
            // The session ends here, so its will waits for nothing.
            self.sessions[key as usize].expiry_seconds = 0;
        }
        self.disconnect(now, old, ReasonCode::SessionTakenOver, "another connection uses the client identifier");
    }

    fn write_connack(&mut self, id: ConnectionId, request: &ConnectRequest, session_present: bool) {
        let limits = Arc::clone(&self.limits);
        let response_information = limits
            .response_information
            .as_ref()
            //= [MQTT-3.1.2-28] only a client that asks gets response information
            .filter(|_| request.response_information_wanted)
            .map(|text| text.replace("{client_id}", &request.client_id));
        let asked = request.session_expiry_seconds.unwrap_or(0);
        let granted = granted_expiry(&limits, asked);
        let available = |on_offer: bool| (!on_offer).then_some(false);
        let server_keep_alive = keep_alive(&limits, request);
        let properties = ConnAckProperties {
            //= [MQTT-3.2.2-21] a keep alive other than the client's is announced
            server_keep_alive_seconds: Some(server_keep_alive).filter(|seconds| *seconds != request.keep_alive_seconds),
            session_expiry_interval_seconds: Some(granted).filter(|granted| *granted != asked),
            receive_maximum: Some(limits.receive_maximum),
            //= [MQTT-3.2.2-9] a lower Maximum QoS is announced
            maximum_qos: Some(limits.maximum_qos).filter(|qos| *qos < QoS::ExactlyOnce),
            retain_available: available(limits.retain_available),
            maximum_packet_size_bytes: Some(limits.packet_bytes_max),
            //= [MQTT-3.2.2-16] an assigned identifier is announced
            assigned_client_identifier: Some(request.client_id.as_str()).filter(|_| request.client_id_assigned),
            topic_alias_maximum: Some(limits.topic_alias_maximum).filter(|max| *max > 0),
            wildcard_subscription_available: available(limits.wildcard_subscriptions),
            subscription_identifiers_available: available(limits.subscription_identifiers),
            shared_subscription_available: available(limits.shared_subscriptions),
            response_information: response_information.as_deref(),
            authentication_method: request.authentication_method.as_deref(),
            authentication_data: Some(request.authentication_data.as_slice())
                .filter(|data| request.authentication_method.is_some() && !data.is_empty()),
            ..ConnAckProperties::default()
        };
        //= [MQTT-3.2.2-2] [MQTT-3.2.2-3] session present says whether there was one
        let session_present = session_present && request.version != ProtocolVersion::V31;
        self.write(id, Packet::ConnAck(Box::new(ConnAck { session_present, reason: ReasonCode::Success, properties })));
    }
}

/// The keep alive in force. Only a 5.0 client can be told another than its own.
fn keep_alive(limits: &Limits, request: &ConnectRequest) -> u16 {
    let (asked, max) = (request.keep_alive_seconds, limits.keep_alive_seconds_max);
    let tells = request.version == ProtocolVersion::V5 && max > 0;
    if tells && (asked == 0 || asked > max) { max } else { asked }
}

pub(super) fn granted_expiry(limits: &Limits, asked: u32) -> u32 {
    asked.min(limits.session_expiry_seconds_max)
}
